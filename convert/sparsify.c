/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_sparsify(): space that the guest does not use goes back to the host.
 *
 * What is free says guestfs/; here it is cut to what the image itself stores, in whole units, and becomes zeros that
 * take no space.  Zeros and not "absent", which over a backing file would bring to light what the guest has deleted or
 * overwritten since; and not "anything" either, so that two runs give the same.  The block layer's own order makes
 * each step safe against a power cut: an entry is gone before its cluster is, and what was free is free before and after.
 *
 * A copy is made through a layer in a temporary file over the image, which has those zeros, and is converted as any disk.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "convert/sparsify.h"
#include "guestfs/free.h"

#define GRAIN 4096u /* of files that have no units: what filesystems can have holes of */
#define KINDS (PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP | PLT_SPARSIFY_ZERO | PLT_SPARSIFY_SAME | PLT_SPARSIFY_LEAKS)

/* ---- giving back ---------------------------------------------------------------------------------- */

/* Holes in the file for what of [off, end) lies there for us alone; no entry changes. */
static int punch(struct plt_sparsify_job *job, uint64_t off, uint64_t end, uint64_t *count, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(job->disk);
	struct plt_run v[8];
	int r = 0;

	while (r == 0 && off < end) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };

		r = plt_image_map_wait(img, off, end - off, &runs, err);
		for (unsigned i = 0; r == 0 && i < runs.n; i++) {
			uint64_t from = plt_align_up(v[i].host_off, GRAIN),
				 to = plt_align_down(v[i].host_off + v[i].len, GRAIN);

			off = v[i].off + v[i].len;
			if (v[i].kind != PLT_RUN_DATA || !(v[i].flags & PLT_RUN_IN_PLACE) || v[i].cipher ||
			    from >= to)
				continue;
			if (!job->dry)
				r = plt_store_zero(v[i].store, from, to - from,
						   PLT_ZERO_MAY_UNMAP | PLT_ZERO_NO_FALLBACK, PLT_IO_DATA, err);
			*count += r == 0 ? to - from : 0;
		}
	}
	return r == -ENOTSUP ? 0 : r;
}

/*
 * A part of a unit cannot leave the map; where nothing else keeps account of what changes, a hole in the file does as well.
 */
static int punch_part(struct plt_sparsify_job *job, uint64_t off, uint64_t end, uint64_t *count,
		      struct plt_error *err)
{
	if (plt_disk_image(job->disk)->drv->bitmaps || job->unit <= GRAIN || job->into_copy)
		return 0;
	return punch(job, off, end, count, err);
}

static int zero(struct plt_sparsify_job *job, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(job->disk);
	int r = plt_write_zeroes(job->disk, off, len, PLT_ZERO_UNMAP | PLT_AIO_NO_FALLBACK, err);

	/* In a data file places are fixed, and zeros there are what a discard makes. */
	if (r == -ENOTSUP && img->data != img->file && !img->has_backing && !img->encrypted && !job->into_copy)
		r = plt_discard(job->disk, off, len, err);
	if (r == -ENOTSUP)
		return plt_error_set(
			err, ENOTSUP, "'%s': this image cannot give space back%s", plt_disk_name(job->disk),
			img->has_backing
				? ": without zero clusters (qcow2 of version 3) what the backing file has "
				  "there would come to light"
				: "");
	return r;
}

static int nothing(struct plt_image *img, void *arg, struct plt_error *err)
{
	(void)img;
	(void)arg;
	(void)err;
	return 0;
}

/*
 * The very first unit goes through the block layer alone: it is refused here if the image cannot do it, and from then on the
 * image says that it is being changed (what was clean is so no more, bitmaps are in use).
 */
static int first(struct plt_sparsify_job *job, uint64_t off, uint64_t *len, struct plt_error *err)
{
	int r = 0;

	*len = 0;
	PLT_LOCK_SCOPE(&job->crew.lock);
	if (job->touched)
		return 0;
	*len = PLT_MIN(job->unit, plt_disk_size(job->disk) - off);
	r = zero(job, off, *len, err);
	if (r == 0)
		r = plt_image_exclusive(plt_disk_image(job->disk), true, nothing, NULL,
					err); /* and frees what it had */
	if (r == 0)
		r = plt_flush(job->disk, err);
	job->touched = r == 0;
	return r;
}

/*
 * Data first, then its entry: what a stop in between leaves in the file and nothing names are holes, and nobody takes them
 * for data that the map has lost.
 */
int plt_sparsify_zero(struct plt_sparsify_job *job, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(job->disk);
	uint64_t done, ignored = 0;
	int r;

	if (!plt_disk_cluster_size(job->disk) || job->into_copy || img->data != img->file)
		return zero(job, off, len, err);
	r = first(job, off, &done, err);
	if (r < 0 || done >= len)
		return r;
	off += done;
	len -= done;
	if (img->drv->written)
		img->drv->written(img, off, len);
	r = punch(job, off, off + len, &ignored, err);
	return r < 0 ? r : zero(job, off, len, err);
}

/* Whole units of [off, end) that the image stores. */
static int give_units(struct plt_sparsify_job *job, uint64_t off, uint64_t end, uint64_t *count,
		      struct plt_error *err)
{
	struct plt_cursor c;
	int r = 0;

	plt_cursor_init(&c, job->disk, job->into_copy ? 0 : PLT_STATUS_TOP_ONLY);
	c.size = end;
	while (r == 0 && off < end) {
		const struct plt_extent *e;
		uint64_t to;

		r = plt_cursor_at(&c, off, &e, err);
		if (r < 0)
			break;
		to = PLT_MIN(end, e->off + e->len);
		if (!(e->flags & PLT_EXTENT_DATA) || e->flags & (PLT_EXTENT_ZERO | PLT_EXTENT_DAMAGED)) {
			off = to;
			continue;
		}
		/* (extents end where units do, or what is there of a unit is none of ours) */
		off = plt_align_up(off, job->unit);
		if (to < plt_disk_size(job->disk))
			to = plt_align_down(to, job->unit);
		if (off >= to) {
			off = PLT_MIN(end, e->off + e->len);
			continue;
		}
		if (!job->dry) {
			r = plt_sparsify_zero(job, off, to - off, err);
		} else {
			r = plt_extents_add(&job->counted, off, to - off);
		}
		*count += to - off;
		off = to;
	}
	return r;
}

/* ---- free space of the guest ------------------------------------------------------------------ */

struct gather {
	struct plt_sparsify_job *job;
	uint64_t *count; /* of the volume under way */
	uint64_t off, end; /* ranges that touch each other are one */
	struct plt_error *err;
};

static int guest_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct gather *g = arg;

	return plt_read(g->job->disk, off, buf, len, NULL);
}

static int give(struct gather *g)
{
	struct plt_sparsify_job *job = g->job;
	uint64_t size = plt_disk_size(job->disk), off = g->off, end = g->end, first, last;
	int r = 0;

	g->off = g->end = 0;
	if (off >= end || !g->count)
		return 0;
	first = plt_align_up(off, job->unit);
	last = end == size ? end : plt_align_down(end, job->unit);
	if (first >= last)
		return punch_part(job, off, end, g->count, g->err);
	r = punch_part(job, off, first, g->count, g->err);
	if (r == 0)
		r = give_units(job, first, last, g->count, g->err);
	return r < 0 ? r : punch_part(job, last, end, g->count, g->err);
}

static int on_range(void *arg, uint64_t off, uint64_t len)
{
	struct gather *g = arg;
	int r = 0;

	if (!plt_in_range(off, len, plt_disk_size(g->job->disk)))
		return -EUCLEAN;
	if (off != g->end || g->off == g->end) {
		r = give(g);
		g->off = off;
	}
	g->end = off + len;
	if (r == 0 && !plt_crew_going(&g->job->crew))
		r = -ECANCELED;
	return r;
}

static int on_volume(void *arg, const struct plt_free_volume *v)
{
	struct gather *g = arg;
	const struct plt_sparsify_options *opts = g->job->opts;
	bool swap = v->kind == PLT_FREE_SWAP, wanted;
	struct plt_sparsify_volume pub = {
		.offset = v->start,
		.length = v->len,
		.what = v->what,
		.name = v->name,
		.label = v->label,
		.why = v->why[0] ? v->why : NULL,
		.free = v->free,
		.swap = swap,
	};
	int r = give(g);

	if (r < 0)
		return r;
	wanted = opts->flags & (swap			      ? PLT_SPARSIFY_SWAP
				: v->kind == PLT_FREE_UNKNOWN ? PLT_SPARSIFY_SWAP | PLT_SPARSIFY_FREE
							      : PLT_SPARSIFY_FREE);
	if (wanted && opts->volume)
		opts->volume(opts->volume_arg, &pub);
	g->count = swap ? &g->job->res->swap : &g->job->res->free;
	return wanted && !v->why[0];
}

static int free_space(struct plt_sparsify_job *job, struct plt_error *err)
{
	struct gather g = { .job = job, .err = err };
	struct plt_guest guest = { .read = guest_read, .arg = &g, .size = plt_disk_size(job->disk) };
	struct plt_free_sink sink = { .volume = on_volume, .range = on_range, .arg = &g };
	int r = plt_free_maps(&guest, &sink);

	if (r == 0)
		r = give(&g);
	return plt_error_default(err, -r, "'%s': the guest's free space", plt_disk_name(job->disk));
}

/* ---- in place ----------------------------------------------------------------------------------- */

static int open_backing(struct plt_ctx *ctx, struct plt_disk *disk, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_info *info;
	int r = plt_disk_info(disk, &info, err);

	*ret = NULL;
	if (r < 0)
		return r;
	if (!info->full_backing_filename)
		r = plt_error_set(err, EINVAL, "'%s' has no backing file that clusters could be equal to",
				  plt_disk_name(disk));
	o.format = info->backing_format;
	o.flags = PLT_OPEN_SHARE_RAW | PLT_OPEN_REFERENCE;
	if (r == 0)
		r = plt_disk_open(ctx, info->full_backing_filename, &o, ret, err);
	plt_info_free(info);
	return r;
}

/* ---- what belongs to nothing --------------------------------------------------------------------- */

struct trim {
	bool dry;
	uint64_t bytes;
};

static int trim(struct plt_image *img, void *arg, struct plt_error *err)
{
	struct trim *t = arg;

	return img->drv->trim(img, t->dry, &t->bytes, err);
}

/*
 * Leaked clusters belong to nothing once their counts have been lowered, which repair does where nothing speaks for it that
 * their place in the map has been lost.  Where it does not, all stays as it is.
 */
static int mend_leaks(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open, bool dry,
		      uint64_t *ret_leaks, bool *ret_sure, struct plt_error *err)
{
	struct plt_repair_options how = PLT_REPAIR_OPTIONS_INIT;
	struct plt_open_options o = *open;
	struct plt_check_result res;
	struct plt_repair *rep;
	int r;

	how.flags = PLT_REPAIR_LEAKS | (dry ? PLT_REPAIR_NO_WRITE : 0);
	if (dry) {
		o.flags &= ~(unsigned)PLT_OPEN_WRITE;
		r = plt_repair_plan(ctx, name, &o, &how, NULL, NULL, &rep, err);
		if (r == 0) {
			res = *plt_repair_before(rep);
			plt_repair_free(rep);
		}
	} else {
		r = plt_check_repair(ctx, name, &o, &how, NULL, NULL, &res, err);
	}
	if (r < 0)
		return r;
	*ret_leaks = res.leaks_fixed;
	*ret_sure = !res.leaks && !res.corruptions && !res.lost && !res.inferred;
	if (!*ret_sure)
		plt_ctx_warn(
			ctx,
			"'%s': clusters that nothing names may be what the map has lost: 'repair' tells more, and they stay",
			name);
	return 0;
}

static int refuse_damaged(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
			  uint64_t *ret_leaks, struct plt_error *err)
{
	struct plt_open_options o = *open;
	struct plt_check_result res = { 0 };
	int r;

	*ret_leaks = 0;
	o.flags &= ~(unsigned)PLT_OPEN_WRITE;
	r = plt_check(ctx, name, &o, NULL, NULL, &res, err);
	if (r == -ENOTSUP) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		return 0; /* nothing that could be wrong */
	}
	if (r == 0 && (res.corruptions || res.check_errors))
		r = plt_error_set(err, EUCLEAN,
				  "'%s' is damaged (%" PRIu64
				  " errors): it has to be repaired before space is given back",
				  name, res.corruptions + res.check_errors);
	*ret_leaks = res.leaks;
	return r;
}

static int64_t allocated(struct plt_disk *disk)
{
	struct plt_info *info;
	int64_t ret = -1;

	if (plt_disk_info(disk, &info, NULL) == 0) {
		ret = info->actual_size;
		plt_info_free(info);
	}
	return ret;
}

static int job_init(struct plt_sparsify_job *job, struct plt_disk *disk, const struct plt_sparsify_options *opts,
		    struct plt_sparsify_result *res, struct plt_error *err)
{
	*job = (struct plt_sparsify_job){
		.disk = disk, .opts = opts, .res = res, .dry = opts->flags & PLT_SPARSIFY_DRY_RUN
	};
	job->unit = plt_disk_cluster_size(disk) ? plt_disk_image(disk)->alloc_unit : GRAIN;
	return plt_crew_init(&job->crew, opts->progress, opts->progress_arg) < 0
		       ? plt_error_set(err, ENOMEM, "out of memory")
		       : 0;
}

static void job_release(struct plt_sparsify_job *job)
{
	plt_extents_release(&job->counted);
	plt_crew_release(&job->crew);
}

static int in_place(struct plt_ctx *ctx, struct plt_disk *disk, const struct plt_sparsify_options *opts,
		    bool trims, struct plt_sparsify_result *res, struct plt_error *err)
{
	struct trim t = { .dry = opts->flags & PLT_SPARSIFY_DRY_RUN };
	struct plt_disk *backing = NULL;
	struct plt_sparsify_job job;
	int r = job_init(&job, disk, opts, res, err);

	if (r < 0)
		return r;
	if (opts->flags & PLT_SPARSIFY_SAME)
		r = open_backing(ctx, disk, &backing, err);
	if (r == 0 && opts->flags & (PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP))
		r = free_space(&job, err);
	if (r == 0 && opts->flags & (PLT_SPARSIFY_ZERO | PLT_SPARSIFY_SAME))
		r = plt_sparsify_look(&job, backing, err);
	if (r == 0 && !job.dry)
		r = plt_flush(disk, err);
	if (r == 0 && trims && plt_disk_image(disk)->drv->trim)
		r = t.dry ? trim(plt_disk_image(disk), &t, err)
			  : /* (it is open for reading, and by nobody else) */
			    plt_image_exclusive(plt_disk_image(disk), false, trim, &t, err);
	res->leaks += t.bytes;
	plt_disk_close(backing, NULL);
	job_release(&job);
	return r;
}

int plt_sparsify(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		 const struct plt_sparsify_options *opts, struct plt_sparsify_result *ret, struct plt_error *err)
{
	struct plt_open_options o = *open;
	bool dry = opts->flags & PLT_SPARSIFY_DRY_RUN, trims = opts->flags & PLT_SPARSIFY_LEAKS;
	uint64_t leaks = 0;
	struct plt_disk *disk;
	int r, closed;

	*ret = (struct plt_sparsify_result){ .before = -1, .after = -1 };
	if (!(opts->flags & KINDS))
		return plt_error_set(err, EINVAL, "nothing has been asked for that could be given back");
	r = refuse_damaged(ctx, name, open, &leaks, err);
	if (r == 0 && trims && leaks)
		r = mend_leaks(ctx, name, open, dry, &leaks, &trims, err);
	if (r < 0)
		return r;
	if (dry)
		o.flags &= ~(unsigned)PLT_OPEN_WRITE;
	else
		o.flags |= PLT_OPEN_WRITE;
	r = plt_disk_open(ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	ret->before = allocated(disk);
	if (trims && dry) /* (what they hold is counted as it will be found: free) */
		ret->leaks = leaks * plt_disk_cluster_size(disk);
	r = in_place(ctx, disk, opts, trims, ret, err);
	closed = plt_disk_close(disk, r < 0 ? NULL : err);
	if (r == 0)
		r = closed;
	/* What was freed just now went as the image was closed. */
	o.flags = (o.flags & ~(unsigned)PLT_OPEN_WRITE) | PLT_OPEN_INSPECT;
	if (r == 0 && plt_disk_open(ctx, name, &o, &disk, NULL) == 0) {
		ret->after = allocated(disk);
		plt_disk_close(disk, NULL);
	}
	return r;
}

/* ---- a copy ------------------------------------------------------------------------------------- */

int plt_sparsify_copy(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		      const struct plt_sparsify_options *opts, const char *target,
		      const struct plt_convert_options *convert, struct plt_sparsify_result *ret,
		      struct plt_error *err)
{
	struct plt_open_options o = *open;
	struct plt_sparsify_job job;
	struct plt_disk *disk;
	uint64_t leaks;
	int r;

	*ret = (struct plt_sparsify_result){ .before = -1, .after = -1 };
	if (opts->flags & (PLT_SPARSIFY_DRY_RUN | PLT_SPARSIFY_SAME))
		return plt_error_set(
			err, EINVAL,
			"a dry run, and clusters equal to the backing file, are of an image where it is");
	r = refuse_damaged(ctx, name, open, &leaks, err);
	if (r < 0)
		return r;
	o.flags |= PLT_OPEN_WRITE | PLT_OPEN_SCRATCH | PLT_OPEN_FINE_SCRATCH;
	r = plt_disk_open(ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	r = job_init(&job, disk, opts, ret, err);
	if (r == 0) {
		job.into_copy = true;
		job.unit = GRAIN;
		if (opts->flags & (PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP))
			r = free_space(&job, err);
		job_release(&job);
	}
	/* (convert leaves out zeros and what is leaked without being asked) */
	if (r == 0)
		r = plt_convert(ctx, &disk, 1, target, convert, err);
	plt_disk_close(disk, NULL);
	return r;
}
