/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Internal snapshots of an open disk.  Which one is meant is decided behind the gate, where the list does not change
 * any more; what is done to the image is the driver's.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "block/internal.h"

struct wish {
	const char *id, *name;
	struct plt_snapshot_info info;
};

static int find(struct plt_image *img, const struct wish *w, unsigned *ret, struct plt_error *err)
{
	const struct plt_snapshot_info *v = NULL;
	unsigned n = 0;
	int r = img->drv->snapshots ? img->drv->snapshots(img, &v, &n) : 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		if ((!w->id || !strcmp(v[i].id, w->id)) && (!w->name || !strcmp(v[i].name, w->name))) {
			*ret = i;
			return 0;
		}
	return r < 0 ? r : plt_error_set(err, ENOENT, "'%s' has no snapshot with the %s '%s'", img->name,
					 w->name ? "name" : "id", w->name ? w->name : w->id);
}

static int create(struct plt_image *img, void *arg, struct plt_error *err)
{
	const struct wish *w = arg;

	return img->drv->snapshot_create(img, &w->info, err);
}

static int delete(struct plt_image *img, void *arg, struct plt_error *err)
{
	unsigned index;
	int r = find(img, arg, &index, err);

	return r < 0 ? r : img->drv->snapshot_delete(img, index, err);
}

static int apply(struct plt_image *img, void *arg, struct plt_error *err)
{
	unsigned index;
	int r = find(img, arg, &index, err);

	return r < 0 ? r : img->drv->snapshot_apply(img, index, err);
}

static int ready(const struct plt_image *img, struct plt_error *err)
{
	if (!img->drv->snapshot_create || !img->drv->snapshot_delete || !img->drv->snapshot_apply)
		return plt_error_set(err, ENOTSUP, "'%s': images of the format %s have no internal snapshots", img->name,
				     img->drv->name);
	return img->writable ? 0 : plt_error_set(err, EBADF, "'%s' is not open for writing", img->name);
}

int plt_snapshot_create(struct plt_disk *disk, const struct plt_snapshot *s, struct plt_error *err)
{
	struct wish w = { .info = { .id = (char *)(uintptr_t)s->id,
				    .name = (char *)(uintptr_t)(s->name ? s->name : ""),
				    .vm_state_size = s->vm_state_size,
				    .date_sec = s->date_sec,
				    .date_nsec = s->date_nsec,
				    .vm_clock_nsec = s->vm_clock_nsec,
				    .icount = s->icount } };
	struct plt_image *img = plt_disk_image(disk);
	int r = ready(img, err);

	if (!s->date_sec) {
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		w.info.date_sec = (uint32_t)now.tv_sec;
		w.info.date_nsec = (uint32_t)now.tv_nsec;
	}
	return r < 0 ? r : plt_image_exclusive(img, true, create, &w, err);
}

int plt_snapshot_delete(struct plt_disk *disk, const char *id, const char *name, struct plt_error *err)
{
	struct wish w = { .id = id, .name = name };
	struct plt_image *img = plt_disk_image(disk);
	int r = ready(img, err);

	return r < 0 ? r : plt_image_exclusive(img, true, delete, &w, err);
}

int plt_snapshot_apply(struct plt_disk *disk, const char *id, const char *name, struct plt_error *err)
{
	struct wish w = { .id = id, .name = name };
	struct plt_image *img = plt_disk_image(disk);
	int r = ready(img, err);

	return r < 0 ? r : plt_image_exclusive(img, false, apply, &w, err);
}
