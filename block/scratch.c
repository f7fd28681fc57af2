/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Disks whose changes are thrown away: the image is opened read-only, and over it lies an overlay in
 * a temporary file that has no name any more when the first byte is written, so that nothing is left
 * behind however the program ends.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/engine.h"

int plt_temporary_store(struct plt_store **ret, struct plt_error *err)
{
	const char *dir = getenv("TMPDIR");
	PLT_AUTOFREE char *path = NULL;
	int fd;

	/* large things go where the system keeps large temporary things */
	if (asprintf(&path, "%s/platter.XXXXXX", dir && *dir ? dir : "/var/tmp") < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return plt_error_errno(err, errno, "Could not create a temporary file in '%s'",
				       dir && *dir ? dir : "/var/tmp");
	(void)unlink(path);
	return plt_file_from_fd(fd, path, PLT_FILE_WRITE | PLT_FILE_UNSAFE | PLT_FILE_NO_LOCK, ret, err);
}

int plt_scratch_open(struct plt_ctx *ctx, json_t *tree, const struct plt_open_options *opts,
		     struct plt_image **ret, struct plt_error *err)
{
	static const char *const fine[] = { "extended_l2=on", NULL };
	struct plt_create_options create = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options base_opts = *opts, top_opts = PLT_OPEN_OPTIONS_INIT;
	struct plt_image *base = NULL, *top = NULL;
	struct plt_store *st = NULL;
	int r;

	base_opts.flags &= ~(unsigned)(PLT_OPEN_WRITE | PLT_OPEN_SCRATCH | PLT_OPEN_FINE_SCRATCH | PLT_OPEN_COPY_ON_READ);
	r = plt_image_open(ctx, tree, &base_opts, 0, &base, err);
	if (r < 0)
		return r;
	create.format = "qcow2";
	if (opts->flags & PLT_OPEN_FINE_SCRATCH)
		create.options = fine;
	create.virtual_size = atomic_load(&base->size);
	r = plt_temporary_store(&st, err);
	if (r == 0)
		r = plt_create_store(ctx, st, base->name, &create, NULL, err);
	top_opts.flags = PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING | PLT_OPEN_UNORDERED;
	if (r == 0)
		r = plt_image_open_store(ctx, st, base->name, "qcow2", &top_opts, &top, err);
	plt_store_unref(st);
	if (r < 0) {
		plt_image_close(base, NULL);
		return r;
	}
	plt_image_attach_backing(top, base);
	top->engine->copy_on_read = opts->flags & PLT_OPEN_COPY_ON_READ;
	*ret = top;
	return 0;
}
