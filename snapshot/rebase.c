/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_rebase(): another backing file.  In the safe mode what the image shows stays what it is: a walk through the block
 * status of the image and of the new chain, side by side, finds the clusters in which the two may differ below the
 * image (not where both see zeros, nor where both see the same layer of the same file), and threads read those,
 * compare, and write into the image what differs.  The invariant: the header names the new backing file only after
 * all that is durable; until then the image shows the same through the old one, so the work can be broken off and done
 * again.  Whatever can be refused is refused before the first write.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crew.h"
#include "base/error.h"
#include "base/zero.h"
#include "formats/name.h"
#include "snapshot/snapshot.h"

#define CHUNK (UINT64_C(1) << 20) /* at least */
#define LOOK (UINT64_C(1) << 30)  /* how far to look ahead with the lock held */
#define UNIT 65536                /* of a format without clusters */

struct job {
	struct plt_crew crew;
	struct plt_cursor now, then; /* of the image, of the new backing file; under the crew's lock */
	uint64_t pos;
	struct plt_disk *disk, *base; /* base NULL: none */
	int twin[PLT_MAX_DEPTH];      /* of each layer of the image: the layer of the new chain that is the same; -1: none */
	uint64_t unit, chunk;
	bool compress;
};

/* ---- what may differ ------------------------------------------------------------------------- */

static void find_twins(struct job *j)
{
	const struct plt_image *x, *y;

	for (unsigned d = 0; d < PLT_MAX_DEPTH; d++) {
		x = plt_disk_layer(j->disk, d);
		j->twin[d] = -1;
		for (unsigned e = 0; x && j->base && (y = plt_disk_layer(j->base, e)); e++)
			if (plt_image_is_same(x, y))
				j->twin[d] = (int)e;
	}
}

static bool same_layer(const struct job *j, const struct plt_extent *a, const struct plt_extent *b)
{
	return !((a->flags | b->flags) & PLT_EXTENT_DAMAGED) && a->depth < PLT_MAX_DEPTH &&
	       j->twin[a->depth] == (int)b->depth;
}

/* From @off to *ret_end: need nobody look, since the image has it itself or both chains have the same? */
static int settled_extent(struct job *j, uint64_t off, bool *ret, uint64_t *ret_end, struct plt_error *err)
{
	const struct plt_extent *a, *b = NULL;
	int r = plt_cursor_at(&j->now, off, &a, err);

	if (r < 0)
		return r;
	*ret_end = a->off + a->len;
	*ret = a->flags & PLT_EXTENT_PRESENT && !a->depth;
	if (*ret)
		return 0;
	if (j->base && off < j->then.size) {
		r = plt_cursor_at(&j->then, off, &b, err);
		if (r < 0)
			return r;
		*ret_end = PLT_MIN(*ret_end, b->off + b->len);
	}
	if (!b || b->flags & PLT_EXTENT_ZERO)
		*ret = a->flags & PLT_EXTENT_ZERO;
	else
		*ret = !(a->flags & PLT_EXTENT_ZERO) && same_layer(j, a, b);
	return 0;
}

/* The same, for as long as nobody need. */
static int settled(struct job *j, uint64_t off, bool *ret, uint64_t *ret_end, struct plt_error *err)
{
	uint64_t end, limit = off + LOOK;
	bool more = true;
	int r = settled_extent(j, off, ret, ret_end, err);

	while (r == 0 && *ret && more && *ret_end < j->now.size && *ret_end < limit) {
		r = settled_extent(j, *ret_end, &more, &end, err);
		if (r == 0 && more)
			*ret_end = end;
	}
	return r;
}

/* The next clusters to be looked at, none (*ret_len 0) at the end.  The crew's lock is held. */
static int next_piece(struct job *j, uint64_t *ret_off, uint64_t *ret_len, struct plt_error *err)
{
	uint64_t size = j->now.size, start = UINT64_MAX, pos = j->pos, next = 0;

	*ret_len = 0;
	while (pos < size && (start == UINT64_MAX || pos - start < j->chunk)) {
		uint64_t end, from, to;
		bool skip;
		int r = settled(j, pos, &skip, &end, err);

		if (r < 0)
			return r;
		/* whole clusters that need not be looked at */
		from = plt_align_up(pos, j->unit);
		to = end >= size ? size : plt_align_down(end, j->unit);
		if (skip && start == UINT64_MAX && to > pos) {
			plt_crew_done(&j->crew, to - pos);
			pos = to;
			continue;
		}
		if (skip && start != UINT64_MAX && to > from) {
			plt_crew_done(&j->crew, to - from);
			pos = from;
			next = to; /* (the cursors do not go back) */
			break;
		}
		if (start == UINT64_MAX)
			start = pos;
		pos = PLT_MIN(end, start + j->chunk);
	}
	j->pos = PLT_MAX(pos, next);
	if (start != UINT64_MAX) {
		*ret_off = start;
		*ret_len = pos - start;
	}
	return 0;
}

/* ---- copying --------------------------------------------------------------------------------- */

static int put(struct job *j, uint64_t off, const uint8_t *buf, uint64_t len, struct plt_error *err)
{
	if (plt_is_zero(buf, len))
		return plt_write_zeroes(j->disk, off, len, PLT_ZERO_UNMAP, err);
	return j->compress ? plt_write_compressed(j->disk, off, buf, len, -1, err) :
			     plt_write(j->disk, off, buf, len, err);
}

/* What the image shows at [off, +len) is to be in it, where the new backing file shows something else. */
static int settle(struct job *j, uint64_t off, uint64_t len, uint8_t *now, uint8_t *then, struct plt_error *err)
{
	uint64_t base_size = j->base ? j->then.size : 0, n = off < base_size ? PLT_MIN(len, base_size - off) : 0;
	uint64_t at = 0, run = 0; /* [at - run, at): clusters that differ, or are zeros that differ */
	bool zero = false;
	int r = plt_read(j->disk, off, now, len, err);

	if (r == 0 && n)
		r = plt_read(j->base, off, then, n, err);
	if (r < 0)
		return r;
	memset(then + n, 0, len - n);
	while (r == 0 && at < len) {
		uint64_t step = PLT_MIN(j->unit, len - at);
		bool differs = memcmp(now + at, then + at, step) != 0, is_zero = differs && plt_is_zero(now + at, step);

		if (run && (!differs || is_zero != zero || j->compress)) {
			r = put(j, off + at - run, now + at - run, run, err);
			run = 0;
		}
		zero = is_zero;
		run += differs ? step : 0;
		at += step;
	}
	return r == 0 && run ? put(j, off + at - run, now + at - run, run, err) : r;
}

static int work(void *arg, unsigned index)
{
	struct job *j = arg;
	PLT_AUTOFREE uint8_t *now = plt_alloc_io(j->chunk), *then = plt_alloc_io(j->chunk);
	struct plt_error err = PLT_ERROR_INIT;

	(void)index;
	if (!now || !then)
		return -ENOMEM;
	while (plt_crew_going(&j->crew)) {
		uint64_t off, len;
		int r;

		pthread_mutex_lock(&j->crew.lock);
		r = next_piece(j, &off, &len, &err);
		pthread_mutex_unlock(&j->crew.lock);
		if (r == 0 && !len)
			break;
		if (r == 0)
			r = settle(j, off, len, now, then, &err);
		if (r < 0) {
			plt_crew_fail(&j->crew, r, &err);
			break;
		}
		plt_crew_done(&j->crew, len);
	}
	return 0;
}

static int settle_all(struct plt_disk *disk, struct plt_disk *base, const struct plt_rebase_options *opts,
		      struct plt_error *err)
{
	struct job *j = calloc(1, sizeof(*j));
	uint32_t cluster = plt_disk_cluster_size(disk);
	int r;

	if (!j || plt_crew_init(&j->crew, opts->progress, opts->progress_arg) < 0) {
		free(j);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	plt_cursor_init(&j->now, disk, 0);
	if (base)
		plt_cursor_init(&j->then, base, 0);
	j->disk = disk;
	j->base = base;
	find_twins(j);
	j->unit = cluster && !(plt_disk_image(disk)->drv->flags & PLT_DRIVER_PARTS && cluster > UNIT) ? cluster : UNIT;
	if (!(opts->flags & PLT_REBASE_COMPRESS) && plt_disk_image(disk)->zero_unit)
		j->unit = plt_disk_image(disk)->zero_unit; /* subclusters */
	j->chunk = PLT_MAX(CHUNK, j->unit);
	j->compress = opts->flags & PLT_REBASE_COMPRESS;
	plt_crew_expect(&j->crew, j->now.size);
	r = plt_crew_run(&j->crew, plt_crew_size(0, 2), work, j, err);
	plt_crew_release(&j->crew);
	free(j);
	return r;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int record(struct plt_image *img, const struct plt_rebase_options *opts, unsigned trial, struct plt_error *err)
{
	const char *name = opts->backing ? opts->backing : "";
	int r = img->drv->set_backing(img, *name ? name : NULL, opts->backing_format,
				      trial | (opts->flags & PLT_REBASE_UNSAFE ? 0u : PLT_BACKING_SAME), err);

	if (r < 0)
		plt_error_prefix(err, "Could not change the backing file to '%s'", name);
	return r;
}

static int switch_backing(struct plt_image *img, void *arg, struct plt_error *err)
{
	return record(img, arg, 0, err);
}

/* What is known to be impossible before anything is opened or written. */
static int check(struct plt_disk *disk, const struct plt_rebase_options *opts, struct plt_error *err)
{
	const struct plt_image *img = plt_disk_image(disk);
	const char *name = opts->backing ? opts->backing : "";

	if (opts->backing_format && !plt_format_is_known(opts->backing_format) &&
	    !plt_name_is_protocol(opts->backing_format))
		return plt_error_set(err, EINVAL, "Invalid format name: '%s'", opts->backing_format);
	if (*name && !opts->backing_format)
		return plt_error_set(err, EINVAL, "Could not change the backing file to '%s': backing format must be "
				     "specified", name);
	if (!img->drv->set_backing)
		return plt_error_set(err, ENOTSUP, "Could not change the backing file to '%s': Operation not supported", name);
	if (opts->flags & PLT_REBASE_COMPRESS && !plt_disk_can_compress(disk))
		return plt_error_set(err, ENOTSUP, "Compression not supported for this file format");
	return 0;
}

/* The new chain may not lead back to the image. */
static int check_loop(struct plt_disk *disk, struct plt_disk *base, const char *name, struct plt_error *err)
{
	const struct plt_image *layer;

	for (unsigned d = 0; (layer = plt_disk_layer(base, d)); d++)
		if (plt_image_is_same(layer, plt_disk_image(disk)))
			return plt_error_set(err, ELOOP, "Backing file '%s' has '%s' itself in its chain", name,
					     plt_disk_name(disk));
	return 0;
}

static int open_base(struct plt_ctx *ctx, struct plt_disk *disk, const struct plt_rebase_options *opts,
		     struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error why = PLT_ERROR_INIT;
	PLT_AUTOFREE char *full = NULL;
	int r = plt_name_resolve(plt_image_base(plt_disk_image(disk)), opts->backing, &full, err);

	if (r < 0)
		return r;
	o.format = opts->backing_format;
	o.cache = opts->backing_cache;
	o.flags = PLT_OPEN_SHARE_RAW | (opts->flags & PLT_REBASE_FORCE_SHARE ? PLT_OPEN_FORCE_SHARE : 0);
	r = plt_disk_open(ctx, full, &o, ret, &why);
	if (r < 0) {
		const char *text = strstr(why.text, "': ");

		if (text && !strncmp(why.text, "Could not open '", 16)) /* that is said below */
			memmove(why.text, text + 3, strlen(text + 3) + 1);
		plt_error_prefix(&why, "Could not open new backing file '%s'", opts->backing);
		if (err)
			*err = why;
		return r;
	}
	r = check_loop(disk, *ret, opts->backing, err);
	if (r < 0)
		plt_disk_close(*ret, NULL);
	return r;
}

static int rebase(struct plt_ctx *ctx, struct plt_disk *disk, const struct plt_rebase_options *opts, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(disk);
	bool safe = !(opts->flags & PLT_REBASE_UNSAFE), named = opts->backing && *opts->backing;
	struct plt_disk *base = NULL;
	const char *snapshot;
	int r = check(disk, opts, err);

	if (r == 0 && safe && named)
		r = open_base(ctx, disk, opts, &base, err);
	if (r < 0)
		return r;
	r = record(img, opts, PLT_BACKING_TRIAL, err);
	if (r < 0)
		goto out;
	img->has_backing |= named; /* zeros that nothing below shows now have to be in the image then */
	snapshot = safe && img->has_backing ? plt_snapshot_that_needs_backing(img, &(int){ 0 }, NULL) : NULL;
	if (snapshot)
		plt_ctx_warn(ctx, "'%s' has internal snapshots: what '%s', for one, does not hold itself will be read from the "
			     "new backing file", img->name, snapshot);
	img->shows_same = true;
	if (safe)
		r = settle_all(disk, base, opts, err);
	if (r == 0 && safe)
		r = plt_flush(disk, err);
	if (r == 0)
		r = plt_image_exclusive(img, false, switch_backing, (void *)(uintptr_t)opts, err);
out:
	plt_disk_close(base, NULL);
	return r;
}

int plt_rebase(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
	       const struct plt_rebase_options *opts, struct plt_error *err)
{
	struct plt_open_options o = *open;
	struct plt_disk *disk;
	int r, closed;

	o.flags |= PLT_OPEN_WRITE;
	if (opts->flags & PLT_REBASE_UNSAFE)
		o.flags |= PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	r = plt_disk_open(ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	r = rebase(ctx, disk, opts, err);
	closed = plt_disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}
