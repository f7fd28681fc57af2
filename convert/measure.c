/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_measure(): how large a new image would become.  What the source holds is counted here, in whole
 * clusters of the image that would be made; what the format adds to that is the driver's to say.  The
 * answer is an upper bound: who reserves that much never runs out of space while converting.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "block/internal.h"
#include "convert/convert.h"

#define EXTENTS 64

/* Bytes of @disk that are not known to be zero, in units of @unit. */
static int count_data(struct plt_disk *disk, uint64_t unit, uint64_t *ret, struct plt_error *err)
{
	struct plt_extent v[EXTENTS];
	uint64_t size = plt_disk_size(disk), counted = 0, off = 0;
	unsigned n;
	int r;

	*ret = 0;
	while (off < size) {
		r = plt_status(disk, off, size - off, 0, v, EXTENTS, &n, err);
		if (r < 0) {
			plt_error_prefix(err, "Unable to get block status");
			return r;
		}
		for (unsigned i = 0; i < n; i++) {
			uint64_t first = PLT_MAX(plt_align_down(v[i].off, unit), counted);

			off = v[i].off + v[i].len;
			if (!(v[i].flags & PLT_EXTENT_DATA) || v[i].flags & PLT_EXTENT_ZERO)
				continue;
			counted = plt_align_up(off, unit);
			*ret += counted - first;
		}
	}
	return 0;
}

/* An option of the format that is a power of two, as it has been validated; 0: it has none. */
static uint64_t unit_of(const struct plt_opts *opts)
{
	uint64_t unit = plt_opts_get(opts, "cluster_size") ? plt_opts_u64(opts, "cluster_size") : 0;

	return plt_is_pow2(unit) ? unit : 0;
}

static void count_bitmaps(struct plt_disk *src, const struct plt_driver *drv, const struct plt_opts *opts,
			  struct plt_measure_result *ret)
{
	struct plt_image *img = plt_disk_image(src);
	const struct plt_bitmap_info *v;
	unsigned n;

	ret->have_bitmaps = drv->measure_bitmaps && img->drv->bitmaps && img->drv->bitmaps(img, &v, &n) == 0 &&
			    drv->measure_bitmaps(opts, plt_disk_size(src), v, n, &ret->bitmaps) == 0;
}

static int measure(struct plt_disk *src, const struct plt_driver *drv, const struct plt_opts *opts,
		   struct plt_measure_result *ret, struct plt_error *err)
{
	uint64_t size = plt_opts_get(opts, "size") ? plt_opts_u64(opts, "size") : 0, unit = unit_of(opts), data = 0;
	int r;

	if (!drv->measure)
		return plt_error_set(err, ENOTSUP, "Block driver '%s' does not support size measurement", drv->name);
	/* Options that are wrong are found before the source is walked. */
	r = drv->measure(opts, size, 0, &ret->required, &ret->fully_allocated, err);
	if (r < 0 || !src)
		return r;
	size = plt_disk_size(src);
	if (plt_opts_get(opts, "backing_file"))
		data = size; /* nothing is known of what it shares with the source */
	else if (!(drv->flags & PLT_DRIVER_NO_HEADER))
		r = count_data(src, unit ? unit : 512, &data, err);
	if (r == 0)
		r = drv->measure(opts, size, data, &ret->required, &ret->fully_allocated, err);
	if (r == 0)
		count_bitmaps(src, drv, opts, ret);
	return r;
}

/* The length of what a conversion makes of @src, found out by one that keeps no data; NULL: of an empty image. */
static int exact(struct plt_disk *src, const struct plt_driver *drv, const struct plt_opts *set,
		 const struct plt_measure_options *opts, uint64_t *ret, struct plt_error *err)
{
	struct plt_convert_options co = PLT_CONVERT_OPTIONS_INIT;
	struct plt_create_options create = PLT_CREATE_OPTIONS_INIT;
	struct plt_store *st = NULL;
	struct plt_ctx *ctx = NULL;
	int r;

	if (src) {
		co.format = drv->name;
		co.options = opts->options;
		co.flags = opts->flags & PLT_MEASURE_COMPRESS ? PLT_CONVERT_COMPRESS : 0;
		co.progress = opts->progress;
		co.progress_arg = opts->progress_arg;
		return plt_convert_length(plt_disk_ctx(src), &src, 1, &co, ret, err);
	}
	create.format = drv->name;
	create.options = opts->options;
	create.virtual_size = plt_opts_get(set, "size") ? plt_opts_u64(set, "size") : opts->virtual_size;
	create.flags = PLT_CREATE_UNCHECKED_BACKING | PLT_CREATE_OWN_SIZE;
	r = plt_ctx_new(NULL, &ctx, err);
	if (r == 0)
		r = plt_ghost_new(&st, err);
	if (r == 0)
		r = plt_create_store(ctx, st, "measured", &create, NULL, err);
	if (r == 0)
		r = plt_store_size(st, ret, err);
	plt_store_unref(st);
	plt_ctx_free(ctx);
	return r;
}

int plt_measure(struct plt_disk *src, const struct plt_measure_options *opts, struct plt_measure_result *ret,
		struct plt_error *err)
{
	static const struct plt_measure_options defaults = PLT_MEASURE_OPTIONS_INIT;
	const struct plt_driver *drv;
	struct plt_opts *set;
	int r;

	if (!opts)
		opts = &defaults;
	memset(ret, 0, sizeof(*ret));
	r = plt_read_create_options(opts->format, opts->options, opts->virtual_size, &drv, &set, err);
	if (r < 0 && drv && drv->create) {
		size_t n = err ? strlen(err->text) : 0;

		if (err)
			snprintf(err->text + n, sizeof(err->text) - n, "\nInvalid options for file format '%s'",
				 drv->name);
	}
	if (r < 0)
		return r;
	r = opts->flags & PLT_MEASURE_EXACT && !drv->measure ? 0 : measure(src, drv, set, ret, err);
	if (r == 0 && opts->flags & PLT_MEASURE_EXACT)
		r = exact(src, drv, set, opts, &ret->required, err);
	plt_opts_free(set);
	return plt_error_default(err, -r, "Out of memory");
}
