/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Layers of a chain that is open: which one a name means, and what would be lost with what lies below one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "formats/name.h"
#include "snapshot/snapshot.h"

bool plt_layer_is_file(const struct plt_image *img, const char *path)
{
	int fd = plt_store_origin(img->file);
	struct stat a, b;

	return fd >= 0 && fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool is_named(struct plt_disk *disk, const struct plt_image *above, const struct plt_image *img, const char *name)
{
	PLT_AUTOFREE char *full = NULL;

	if (above->backing_name && !strcmp(above->backing_name, name))
		return true;
	return plt_name_resolve(plt_image_base(plt_disk_image(disk)), name, &full, NULL) == 0 && plt_layer_is_file(img, full);
}

int plt_layer_find(struct plt_disk *disk, const char *name, unsigned *ret, struct plt_error *err)
{
	for (unsigned d = 1;; d++) {
		struct plt_image *img = plt_disk_layer(disk, d);

		if (!img)
			return plt_error_set(err, ENOENT, "Did not find '%s' in the backing chain of '%s'", name,
					     plt_disk_name(disk));
		if (is_named(disk, plt_disk_layer(disk, d - 1), img, name)) {
			*ret = d;
			return 0;
		}
	}
}

/* Does the snapshot leave something to what lies below the image?  1 yes, 0 no. */
static int needs_backing(struct plt_image *img, const struct plt_snapshot_info *s, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const struct plt_extent *e;
	struct plt_cursor c;
	struct plt_disk *view;
	int r;

	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_FORCE_SHARE;
	o.snapshot_id = s->id;
	o.snapshot_name = s->name;
	r = plt_disk_open_store(img->ctx, img->file, img->name, img->drv->name, &o, &view, err);
	if (r < 0)
		return r;
	plt_cursor_init(&c, view, PLT_STATUS_TOP_ONLY);
	for (uint64_t pos = 0; pos < c.size && r == 0; pos = e->off + e->len) {
		r = plt_cursor_at(&c, pos, &e, err);
		if (r < 0)
			break;
		r = !(e->flags & PLT_EXTENT_PRESENT);
	}
	plt_disk_close(view, NULL);
	return r;
}

const char *plt_snapshot_that_needs_backing(struct plt_image *img, int *ret_r, struct plt_error *err)
{
	const struct plt_snapshot_info *s;
	unsigned n = 0;

	*ret_r = 0;
	if (!img->drv->snapshots || img->drv->snapshots(img, &s, &n) < 0)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		int r = needs_backing(img, &s[i], err);

		if (r > 0)
			return s[i].name;
		if (r < 0) {
			*ret_r = r;
			return NULL;
		}
	}
	return NULL;
}
