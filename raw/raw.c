/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The raw driver: the guest's disk is the file, or a window of it (options offset and size).  Always
 * mapped in place, so it neither places nor publishes; sparseness is the store's business.  A length
 * that is no multiple of 512 is rounded up and reads as zeros behind the end, as QEMU does.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "formats/driver.h"

static int raw_probe(const uint8_t *buf, size_t len, uint64_t size)
{
	(void)buf;
	(void)len;
	(void)size;
	return 1; /* whatever nobody else claims */
}

static int raw_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	uint64_t size, off, want;
	int r = plt_store_size(img->file, &size, err);

	if (r < 0)
		return r;
	if (how->snapshot || how->snapshot_id || how->snapshot_name)
		return plt_error_set(err, ENOTSUP, "Failed to load snapshot: Block format 'raw' used by device '' "
				     "does not support temporarily loading internal snapshots");
	if (how->opts && (plt_opts_get(how->opts, "offset") || plt_opts_get(how->opts, "size"))) {
		off = plt_opts_u64(how->opts, "offset");
		want = plt_opts_get(how->opts, "size") ? plt_opts_u64(how->opts, "size") : UINT64_MAX;
		if (off > size)
			return plt_error_set(err, EINVAL, "Offset (%" PRIu64 ") cannot be greater than size of the "
					     "containing file (%" PRIu64 ")", off, size);
		if (want != UINT64_MAX && want > size - off)
			return plt_error_set(err, EINVAL, "The sum of offset (%" PRIu64 ") and size (%" PRIu64 ") has "
					     "to be smaller or equal to the actual size of the containing file (%"
					     PRIu64 ")", off, want, size);
		if (want != UINT64_MAX && !plt_is_aligned(want, 512))
			return plt_error_set(err, EINVAL, "Specified size is not multiple of 512");
		r = plt_window_new(img->file, off, want, &img->data, err);
		if (r < 0)
			return r;
		size = want == UINT64_MAX ? size - off : want;
	} else {
		img->data = plt_store_ref(img->file);
	}
	if (size > INT64_MAX - 512) {
		plt_store_unref(img->data);
		img->data = NULL;
		return plt_error_set(err, EFBIG, "the file is too large (%" PRIu64 " bytes)", size);
	}
	atomic_store(&img->size, plt_align_up(size, 512));
	img->alloc_unit = 512;
	img->slice = 512;
	return 0;
}

static int raw_close(struct plt_image *img, struct plt_error *err)
{
	(void)err;
	plt_store_unref(img->data);
	img->data = NULL;
	return 0;
}

static int raw_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len,
		   struct plt_runs *runs, struct plt_need *need, struct plt_error *err)
{
	(void)pins;
	(void)need;
	(void)err;
	plt_runs_add(runs, &(struct plt_run){ .kind = PLT_RUN_DATA, .flags = PLT_RUN_IN_PLACE, .off = off,
					      .len = len, .store = img->data, .host_off = off });
	return 0;
}

static int raw_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err)
{
	uint64_t old = atomic_load(&img->size);
	int r;

	if (img->data != img->file)
		return plt_error_set(err, ENOTSUP, "a raw disk that is a part of a file cannot be resized");
	r = plt_store_truncate(img->file, size, err);
	if (r == 0 && preallocation && strcmp(preallocation, "off") && size > old) {
		if (!strcmp(preallocation, "falloc"))
			r = plt_store_allocate(img->file, old, size - old, err);
		else if (!strcmp(preallocation, "full"))
			r = plt_store_zero(img->file, old, size - old, PLT_ZERO_WRITTEN, PLT_IO_DATA, err);
		else
			r = plt_error_set(err, ENOTSUP, "Unsupported preallocation mode: %s", preallocation);
	}
	if (r == 0)
		atomic_store(&img->size, plt_align_up(size, 512));
	else if (size > old)
		(void)plt_store_truncate(img->file, old, NULL);
	return r;
}

static int write_zeros(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	static const uint8_t zeros[1 << 16];
	int r = 0;

	for (uint64_t off = 0; off < size && r == 0; off += sizeof(zeros))
		r = plt_store_write(st, off, zeros, (size_t)PLT_MIN(size - off, sizeof(zeros)), PLT_IO_DATA, err);
	return r;
}

static int raw_create(const struct plt_create *how, struct plt_error *err)
{
	const char *pre = plt_opts_get(how->opts, "preallocation"); /* the file's own option */
	uint64_t have;
	int r = 0;

	if (how->file->limits.can_grow) {
		r = plt_store_truncate(how->file, how->size, err);
	} else {
		r = plt_store_size(how->file, &have, err);
		if (r == 0 && have < how->size)
			return plt_error_set(err, ENOSPC, "the device is too small (%" PRIu64 " bytes, %" PRIu64
					     " are needed)", have, how->size);
	}
	/* the first block is allocated, so that the alignment of direct I/O can be found out by reading it */
	if (r == 0 && how->file->limits.can_grow)
		r = write_zeros(how->file, PLT_MIN(how->size, UINT64_C(4096)), err);
	if (r < 0 || !pre || !strcmp(pre, "off"))
		return r;
	if (!strcmp(pre, "falloc"))
		return plt_store_allocate(how->file, 0, how->size, err);
	return write_zeros(how->file, how->size, err);
}

static int raw_measure(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
		       uint64_t *ret_full, struct plt_error *err)
{
	(void)opts;
	(void)data;
	(void)err;
	*ret_required = *ret_full = plt_align_up(size, 512);
	return 0;
}

static const struct plt_opt_desc raw_create_opts[] = {
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = NULL },
};

static const struct plt_opt_desc raw_open_opts[] = {
	{ .name = "offset", .type = PLT_OPT_SIZE, .help = "offset in the file where the disk starts" },
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "size of the disk" },
	{ .name = NULL },
};

extern const struct plt_driver raw_driver;
const struct plt_driver raw_driver = {
	.name = "raw",
	.flags = PLT_DRIVER_NO_HEADER | PLT_DRIVER_HOST_HOLES | PLT_DRIVER_MENDS,
	.create_opts = raw_create_opts,
	.open_opts = raw_open_opts,
	.probe = raw_probe,
	.open = raw_open,
	.close = raw_close,
	.map = raw_map,
	.resize = raw_resize,
	.create = raw_create,
	.measure = raw_measure,
};
