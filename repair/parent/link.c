/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_repair_reference(): a plan that changes what an image records of its backing file, and nothing else.  The driver
 * does it on an overlay, as it would in the file; what the overlay then holds is applied, saved or taken back like any
 * other plan.  Before that the image is opened on the new one, so that a plan never leads to a chain that does not open.
 */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/name.h"
#include "repair/parent/parent.h"

struct link {
	const char *name, *format;
};

static int record(struct plt_image *img, void *arg, struct plt_error *err)
{
	const struct link *l = arg;

	return img->drv->set_backing(img, l->name, l->format, 0, err);
}

char *plt_parent_name(const char *image, const char *parent)
{
	PLT_AUTOFREE char *a = strdup(image), *b = strdup(parent), *file = strdup(parent);
	char *full;

	if (!a || !b || !file)
		return NULL;
	if (plt_same_path(dirname(a), dirname(b)))
		return strdup(basename(file));
	full = realpath(parent, NULL);
	return full ? full : strdup(parent);
}

/* Does the chain below open, and does not lead back? */
static int try_parent(struct plt_repair *rep, const struct link *l, const char *parent, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	struct plt_image *img;
	int r;

	o.format = l->format;
	o.flags = PLT_OPEN_FORCE_SHARE | PLT_OPEN_NO_KEY;
	r = plt_disk_open(rep->ctx, parent, &o, &disk, err);
	if (r < 0)
		return r;
	for (unsigned d = 0; r == 0 && (img = plt_disk_layer(disk, d)); d++)
		if (plt_same_path(img->name, rep->file->name))
			r = plt_error_set(err, ELOOP, "'%s' has '%s' itself in its chain", parent, rep->name);
	plt_disk_close(disk, NULL);
	return r;
}

static int edit(struct plt_repair *rep, struct link *l, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	struct plt_image *img;
	int r, closed;

	o.flags = PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	r = plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, &disk, err);
	if (r < 0)
		return r;
	img = plt_disk_image(disk);
	if (!img->drv->set_backing)
		r = plt_error_set(err, ENOTSUP, "'%s': in an image of the format %s no other backing file can be recorded",
				  rep->name, rep->format);
	else
		r = plt_image_exclusive(img, false, record, l, err);
	closed = plt_disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

int plt_repair_reference(struct plt_ctx *ctx, const char *name, const char *format, const char *parent,
			 const char *parent_format, const struct plt_repair_options *options, struct plt_repair **ret,
			 struct plt_error *err)
{
	bool write = !(options && options->flags & PLT_REPAIR_NO_WRITE);
	struct link l = { .format = parent_format };
	PLT_AUTOFREE char *recorded = NULL;
	struct plt_repair *rep;
	int r = plt_repair_open(ctx, name, &(struct plt_open_options){ .size = sizeof(struct plt_open_options), .format = format },
				options, &rep, err);

	if (r < 0)
		return r;
	recorded = plt_parent_name(rep->file->name, parent);
	l.name = recorded;
	if (!recorded)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_repair_settle(rep, write, err);
	if (r == 0)
		r = try_parent(rep, &l, parent, err);
	if (r == 0)
		r = edit(rep, &l, err);
	if (r < 0) {
		plt_repair_free(rep);
		return r;
	}
	*ret = rep;
	return 0;
}
