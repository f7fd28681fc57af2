/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Amending: options of an image changed where it is.  The driver does it, twice behind the gate; a
 * new size, and data in the place of zero clusters that the new format does not have, come between
 * and are ordinary requests, with their own order of writes.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/cleanup.h"
#include "block/engine.h"

#define CHUNK (1u << 20)

/* ---- the exclusive request ------------------------------------------------------------------- */

enum { START, WORK, END };

static int work(struct plt_io *io, struct plt_io_op *iop)
{
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return io->exclusive(io->img, io->exclusive_arg, &iop->err);
}

/* The call has the image, but for reads that come later where those may pass. */
void plt_exclusive_step(struct plt_io *io)
{
	int r;

	while (!io->pending) {
		if (io->result)
			io->state = END;
		switch (io->state) {
		case START:
			r = plt_io_take_image(io, io->flags & PLT_IO_READS_PASS ? 1 : 2, true, true);
			if (r == 0)
				return;
			io->state = WORK;
			break;
		case WORK:
			io->state = END;
			plt_io_call(io, work, NULL);
			return;
		default:
			plt_io_finish(io);
			return;
		}
	}
}

/* ---- options --------------------------------------------------------------------------------- */

static bool has(const struct plt_opt_desc *t, const char *name)
{
	for (; t && t->name; t++)
		if (!strcmp(t->name, name))
			return true;
	return false;
}

static int read_options(const struct plt_driver *drv, const char *const *texts, struct plt_opts **ret,
			struct plt_error *err)
{
	const struct plt_opt_desc *const tables[] = { drv->amend_opts, NULL };
	struct plt_opts *o = plt_opts_new();
	int r = o ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (unsigned i = 0; r == 0 && texts && texts[i]; i++)
		r = plt_opts_parse(o, texts[i], drv->amend_opts, err);
	for (size_t i = 0; r == 0 && i < plt_opts_count(o); i++)
		if (!has(drv->amend_opts, plt_opts_key(o, i)))
			r = plt_error_set(err, EINVAL, has(drv->create_opts, plt_opts_key(o, i)) ?
					  "Invalid parameter '%s'\nThis option is only supported for image creation" :
					  "Invalid parameter '%s'", plt_opts_key(o, i));
	if (r == 0)
		r = plt_opts_validate(o, tables, err);
	if (r < 0) {
		plt_opts_free(o);
		return plt_error_default(err, -r, "options");
	}
	*ret = o;
	return 0;
}

int plt_amend_help(const char *format, char **ret, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(format);

	if (!drv)
		return plt_format_unknown(format, err);
	if (!drv->amend_opts)
		return plt_error_set(err, ENOTSUP, "Format driver '%s' does not support option amendment", format);
	*ret = plt_options_text(drv->amend_opts);
	return *ret ? 0 : plt_error_set(err, ENOMEM, "out of memory");
}

/* ---- the call -------------------------------------------------------------------------------- */

struct amending {
	const struct plt_opts *opts;
	enum plt_amend_phase phase;
	bool plain;
	bool force, rehearse; /* of the change of key slots */
};

static int phase(struct plt_image *img, void *arg, struct plt_error *err)
{
	struct amending *a = arg;

	return img->drv->amend(img, a->opts, a->phase, &a->plain, err);
}

static int keys(struct plt_image *img, void *arg, struct plt_error *err)
{
	const struct amending *a = arg;

	return plt_keys_amend(img, a->opts, a->force, a->rehearse, err);
}

static int run_phase(struct plt_image *img, struct amending *a, enum plt_amend_phase which, struct plt_error *err)
{
	if (!img->drv->amend)
		return 0;
	a->phase = which;
	return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_EXCLUSIVE_REQ, .exclusive = phase,
							   .exclusive_arg = a }, err);
}

/* They are tried before anything else is changed; when they are all there is, doing it is trying it. */
static int run_keys(struct plt_image *img, struct amending *a, bool rehearse, struct plt_error *err)
{
	unsigned n = plt_keys_options(img->drv, a->opts);

	if (!n || (rehearse && n == plt_opts_count(a->opts)))
		return 0;
	a->rehearse = rehearse;
	return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_EXCLUSIVE_REQ, .exclusive = keys,
							   .exclusive_arg = a }, err);
}

/* Zeros of this layer over a backing file become data that is zero. */
static int write_plain(struct plt_disk *disk, plt_progress_fn progress, void *arg, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *zeros = plt_alloc_io(CHUNK);
	uint64_t size = plt_disk_size(disk), off = 0;
	struct plt_extent v[64];
	unsigned n;
	int r = zeros ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	if (zeros)
		memset(zeros, 0, CHUNK);
	while (r == 0 && off < size) {
		r = plt_status(disk, off, size - off, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST, v,
			       PLT_ARRAY_SIZE(v), &n, err);
		for (unsigned i = 0; r == 0 && i < n; i++) {
			bool zero = v[i].flags & PLT_EXTENT_ZERO && v[i].flags & PLT_EXTENT_PRESENT;

			for (uint64_t at = v[i].off, end = at + v[i].len, len; r == 0 && zero && at < end; at += len) {
				len = PLT_MIN(end - at, CHUNK);
				r = plt_write(disk, at, zeros, (size_t)len, err);
			}
			off = v[i].off + v[i].len;
		}
		if (r == 0 && progress && progress(arg, off, size))
			r = plt_error_set(err, ECANCELED, "Cancelled");
	}
	return r;
}

static int resize(struct plt_disk *disk, const struct plt_opts *opts, unsigned flags, struct plt_error *err)
{
	uint64_t size = plt_opts_get(opts, "size") ? plt_opts_u64(opts, "size") : 0;

	if (!size || size == plt_disk_size(disk))
		return 0;
	return plt_resize(disk, size, flags & PLT_AMEND_FORCE ? PLT_RESIZE_SHRINK : 0, NULL, err);
}

int plt_amend(struct plt_disk *disk, const char *const *options, unsigned flags, plt_progress_fn progress,
	      void *arg, struct plt_error *err)
{
	struct plt_image *img = disk->top;
	struct plt_opts *opts = NULL;
	struct amending a = { 0 };
	int r;

	if (!img->drv->amend_opts)
		return plt_error_set(err, ENOTSUP, "Format driver '%s' does not support option amendment",
				     img->drv->name);
	r = read_options(img->drv, options, &opts, err);
	if (r < 0)
		return r;
	if (plt_opts_get(opts, "size") && plt_opts_u64(opts, "size") < plt_disk_size(disk) &&
	    plt_opts_u64(opts, "size") && !(flags & PLT_AMEND_FORCE))
		r = plt_error_set(err, EINVAL, "The disk would become smaller, and what lies beyond its new end would be "
				  "lost: use --force if that is meant");
	a.opts = opts;
	a.force = flags & PLT_AMEND_FORCE;
	if (r == 0)
		r = run_keys(img, &a, true, err);
	if (r == 0)
		r = run_phase(img, &a, PLT_AMEND_FIRST, err);
	if (r == 0)
		r = run_keys(img, &a, false, err);
	if (r == 0)
		r = resize(disk, opts, flags, err);
	if (r == 0 && a.plain)
		r = write_plain(disk, progress, arg, err);
	if (r == 0)
		r = run_phase(img, &a, PLT_AMEND_LAST, err);
	plt_opts_free(opts);
	return r;
}
