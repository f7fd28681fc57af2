/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_convert(): the pipeline.  A walk over the sources' extents hands out pieces; each thread of the
 * crew takes the next one, reads it, finds its zeros, and writes it (or compresses and writes it) to
 * the same offset of the target.  Pieces are whole clusters of the target, so no two threads meet in
 * one and no write needs to copy what surrounds it; holes and zeros are never read; a target that
 * starts as zeros is not told of them.  The invariant: the target is committed only if every piece of
 * every source has been dealt with.  How it comes by its name is left to target.c.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "block/internal.h"
#include "convert/convert.h"

#define SECTOR 512
#define BLOCK 4096
#define MAX_SPARSE (UINT64_C(16) << 20)  /* longer zero runs are not looked for */
#define BIG_CLUSTER (UINT64_C(64) << 10) /* clusters above this are written in part */
#define ESTIMATE_UNIT (UINT64_C(64) << 10)

struct job {
	const struct plt_convert_options *opts;
	const char *name;       /* the target's, as the caller gave it */
	struct plt_source src;
	struct plt_target *target;
	struct plt_disk *out;
	uint64_t *length;          /* only that is wanted; NULL: a copy is */
	struct plt_crew crew;
	struct plt_walk walk;
	struct plt_rate rate;
	struct plt_verify *verify;
	uint64_t unit;          /* granularity of pieces */
	uint64_t grain;         /* of the search for zeros; a multiple of unit */
	uint64_t chunk;
	uint64_t sparse;        /* shortest zero run that becomes a hole; 0: none does */
	uint64_t cluster;       /* of the target, when compressing */
	bool compress, backing, skip_zero;
	unsigned zero_flags;
	uint64_t beyond;        /* end of the target's backing file */

	/* Pieces are written in their order, so that what is allocated for them lies in that order. */
	bool in_order;
	pthread_cond_t turned;  /* with crew.lock */
	uint64_t taken, turn;   /* pieces handed out; the one that may write */
};

/*
 * qemu-img's line, and behind it what the layer below had to say; if that is no more than the
 * system's word for the error, the name of the file (NULL: not known).
 */
static int io_error(const char *what, uint64_t off, const char *name, int ret, const struct plt_error *why,
		    struct plt_error *err)
{
	const char *word = strerror(-ret);
	size_t n = strlen(word), m = strlen(why->text);

	if (!m || (m >= n && !strcmp(why->text + m - n, word)))
		return plt_error_set(err, -ret, name ? "error while %s at byte %" PRIu64 ": %s ('%s')" :
				     "error while %s at byte %" PRIu64 ": %s", what, off, word, name);
	return plt_error_set(err, -ret, "error while %s at byte %" PRIu64 ": %s (%.600s)", what, off, word,
			     why->text);
}

/* Wait until all pieces before this one have their places; false if that will not be. */
static bool wait_turn(struct job *job, uint64_t number)
{
	if (!job->in_order)
		return true;
	PLT_LOCK_SCOPE(&job->crew.lock);
	while (job->turn != number && plt_crew_going(&job->crew))
		pthread_cond_wait(&job->turned, &job->crew.lock);
	return job->turn == number;
}

static void next_turn(struct job *job, uint64_t number)
{
	if (!job->in_order)
		return;
	PLT_LOCK_SCOPE(&job->crew.lock);
	if (job->turn == number)
		job->turn++;
	pthread_cond_broadcast(&job->turned);
}

/* One piece's place in the order. */
struct turn {
	struct job *job;
	uint64_t number;
};

static void pass_turn(void *arg)
{
	struct turn *turn = arg;

	next_turn(turn->job, turn->number);
}

/* The target is to read as zeros there. */
static int put_zeros(struct job *job, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	int ret;

	if (job->verify) {
		ret = plt_verify_add(job->verify, off, NULL, len, err);
		if (ret)
			return ret;
	}
	if (job->skip_zero)
		return 0;
	ret = plt_write_zeroes(job->out, off, len, job->zero_flags, &why);
	if (ret)
		return io_error("writing", off, job->name, ret, &why, err);
	plt_target_touched(job->target);
	return 0;
}

/* @turn: where the last data of a piece has its place, the next piece may be written. */
static int put_data(struct job *job, uint64_t off, const uint8_t *buf, size_t len, struct turn *turn,
		    struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	int ret;

	if (!plt_rate_take(&job->rate, len, &job->crew))
		return -ECANCELED;
	if (job->verify) {
		ret = plt_verify_add(job->verify, off, buf, len, err);
		if (ret)
			return ret;
	}
	if (job->compress)
		ret = plt_write_compressed(job->out, off, buf, len, job->opts->level, &why);
	else if (turn)
		ret = plt_write_placed(job->out, off, buf, len, pass_turn, turn, &why);
	else
		ret = plt_write(job->out, off, buf, len, &why);
	if (ret)
		return io_error("writing", off, job->name, ret, &why, err);
	plt_target_touched(job->target);
	return 0;
}

static int put_compressed(struct job *job, uint64_t off, const uint8_t *buf, size_t len,
			  struct plt_error *err)
{
	int ret = 0;

	for (size_t done = 0, n; done < len && !ret && plt_crew_going(&job->crew); done += n) {
		n = PLT_MIN(len - done, job->cluster);
		if (job->sparse && plt_is_zero(buf + done, n))
			ret = put_zeros(job, off + done, n, err);
		else
			ret = put_data(job, off + done, buf + done, n, NULL, err);
	}
	return ret;
}

/* As plt_zero_run(), in blocks that lie at multiples of the grain in the disk. */
static size_t aligned_run(const struct job *job, uint64_t off, const uint8_t *buf, size_t len, bool *zero)
{
	size_t first = PLT_MIN(len, job->grain - off % job->grain), n;
	bool next;

	*zero = plt_is_zero(buf, first);
	if (first == len)
		return first;
	n = plt_zero_run(buf + first, len - first, job->grain, &next);
	return next == *zero ? first + n : first;
}

/* Data and zero runs alternate; a zero run that is too short is data. */
static int put_sparse(struct job *job, uint64_t off, const uint8_t *buf, size_t len, struct turn *turn,
		      struct plt_error *err)
{
	size_t start = 0, pos = 0;
	int ret = 0;

	while (pos < len && !ret) {
		bool zero;
		size_t n = aligned_run(job, off + pos, buf + pos, len - pos, &zero);

		if (zero && (n >= job->sparse || n == len)) {
			if (pos > start)
				ret = put_data(job, off + start, buf + start, pos - start, NULL, err);
			if (!ret)
				ret = put_zeros(job, off + pos, n, err);
			start = pos + n;
		}
		pos += n;
	}
	if (!ret && pos > start)
		ret = put_data(job, off + start, buf + start, pos - start, turn, err);
	return ret;
}

static int copy_piece(struct job *job, const struct plt_piece *piece, uint64_t number, uint8_t *buf,
		      struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	struct turn turn = { job, number };
	int ret;

	if (piece->kind == PLT_PIECE_DATA) {
		ret = plt_source_read(&job->src, piece->off, buf, piece->len, &why);
		if (ret)
			return io_error("reading", piece->off, NULL, ret, &why, err);
	}
	if (!wait_turn(job, number))
		return -ECANCELED;
	if (piece->kind == PLT_PIECE_ABSENT)
		return 0;
	if (piece->kind == PLT_PIECE_ZERO)
		return put_zeros(job, piece->off, piece->len, err);
	if (job->compress)
		ret = put_compressed(job, piece->off, buf, piece->len, err);
	else if (job->sparse)
		ret = put_sparse(job, piece->off, buf, piece->len, job->in_order ? &turn : NULL, err);
	else
		ret = put_data(job, piece->off, buf, piece->len, job->in_order ? &turn : NULL, err);
	return ret;
}

static int work(void *arg, unsigned index)
{
	struct job *job = arg;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(job->chunk);
	struct plt_error err = PLT_ERROR_INIT;
	int ret = 0;

	(void)index;
	if (!buf)
		return -ENOMEM;
	while (!ret && plt_crew_going(&job->crew)) {
		struct plt_piece piece;
		uint64_t number;

		pthread_mutex_lock(&job->crew.lock);
		ret = plt_walk_next(&job->walk, &piece, &err);
		number = job->taken++;
		pthread_mutex_unlock(&job->crew.lock);
		if (ret || !piece.len)
			break;
		ret = copy_piece(job, &piece, number, buf, &err);
		if (!ret)
			next_turn(job, number);
		plt_crew_done(&job->crew, piece.kind == PLT_PIECE_DATA ? piece.len : 0);
	}
	if (ret == -ECANCELED && !plt_crew_going(&job->crew))
		ret = 0; /* stopped for another's reason, which is recorded */
	if (ret)
		plt_crew_fail(&job->crew, ret, &err);
	/* Those who wait for a turn that will not come look again. */
	pthread_mutex_lock(&job->crew.lock);
	pthread_cond_broadcast(&job->turned);
	pthread_mutex_unlock(&job->crew.lock);
	return ret;
}

/* How much there is to copy.  Also finds status errors before anything is touched. */
static int measure(struct job *job, uint64_t *ret, struct plt_error *err)
{
	struct plt_piece piece;
	int r;

	*ret = 0;
	plt_walk_init(&job->walk, &job->src, job->unit, job->chunk);
	job->walk.zero_is_data = !job->sparse;
	job->walk.beyond = job->beyond;
	do {
		r = plt_walk_next(&job->walk, &piece, err);
		if (r)
			return r;
		if (piece.kind == PLT_PIECE_DATA)
			*ret += piece.len;
		plt_crew_done(&job->crew, 0);
		if (!plt_crew_going(&job->crew))
			return plt_error_set(err, ECANCELED, "Cancelled");
	} while (piece.len);
	return 0;
}

static uint64_t pow2_floor(uint64_t v)
{
	return UINT64_C(1) << (63 - __builtin_clzll(v));
}

/* The grain of the work, which depends on how the target allocates. */
static int choose_units(struct job *job, struct plt_error *err)
{
	uint64_t cluster = plt_disk_cluster_size(job->out);

	job->grain = BLOCK;
	if (job->sparse)
		job->grain = pow2_floor(PLT_MIN(PLT_MAX(job->sparse, SECTOR), MAX_SPARSE));
	job->unit = PLT_MIN(job->grain, BLOCK);
	if (job->compress) {
		if (!cluster)
			return plt_error_set(err, EINVAL, "invalid cluster size");
		job->cluster = job->unit = cluster;
	} else if (cluster && cluster <= BIG_CLUSTER) {
		job->unit = PLT_MAX(job->unit, cluster);
		/* in a new target the rest of a cluster is a hole of the file: only what is there is written */
		if (!job->skip_zero)
			job->grain = PLT_MAX(job->grain, cluster);
	}
	/* Chunks are whole units and whole clusters: all are powers of two, or nearly so. */
	job->chunk = PLT_MAX(PLT_CHUNK, PLT_MAX(job->grain, cluster));
	if (job->chunk % job->unit)
		job->chunk = plt_align_up(job->chunk, job->unit);
	return 0;
}

static const char *option_value(const struct plt_opts *o, const char *key)
{
	const char *v = plt_opts_get(o, key);

	return v && *v ? v : NULL;
}

/* What is wrong before anything is opened; qemu-img's words. */
static int check_options(struct job *job, unsigned n, struct plt_error *err)
{
	const struct plt_convert_options *opts = job->opts;
	struct plt_opts *o = plt_opts_new();
	const char *prealloc, *backing = opts->backing;
	const struct plt_driver *drv;
	int ret = o ? 0 : -ENOMEM;

	for (const char *const *t = opts->options; t && *t && !ret; t++)
		ret = plt_opts_parse(o, *t, NULL, err);
	if (ret) {
		plt_opts_free(o);
		return plt_error_default(err, -ret, "Out of memory");
	}
	prealloc = option_value(o, "preallocation");
	if (!backing && !(opts->flags & PLT_CONVERT_NO_CREATE))
		backing = option_value(o, "backing_file");
	job->backing = backing && *backing;
	drv = plt_driver_find(opts->format ? opts->format : "raw");
	if (opts->backing && *opts->backing && !(opts->flags & PLT_CONVERT_NO_CREATE) && drv &&
	    !(drv->flags & PLT_DRIVER_BACKING))
		ret = plt_error_set(err, ENOTSUP, "Backing file not supported for file format '%s'", drv->name);
	else if (job->backing && n > 1)
		ret = plt_error_set(err, EINVAL, "Having a backing file for the target makes no sense when "
				    "concatenating multiple input images");
	else if (job->backing && !(opts->flags & PLT_CONVERT_NO_CREATE) && !opts->backing_format &&
		 !option_value(o, "backing_fmt"))
		ret = plt_error_set(err, EINVAL, "Use of backing file requires explicit backing format");
	else if (job->compress && prealloc && strcmp(prealloc, "off") != 0)
		ret = plt_error_set(err, EINVAL, "Compression and preallocation not supported at the same "
				    "time");
	else if (job->compress && !(opts->flags & PLT_CONVERT_NO_CREATE) &&
		 (option_value(o, "encrypt.format") || plt_opts_bool(o, "encryption")))
		ret = plt_error_set(err, EINVAL, "Compression and encryption not supported at the same time");
	else if (job->compress && option_value(o, "data_file"))
		/* What qemu-img says when its first write fails; here nothing has been touched. */
		ret = plt_error_set(err, ENOTSUP, "error while writing at byte 0: %s", strerror(ENOTSUP));
	plt_opts_free(o);
	return ret;
}

static void source_options(struct job *job)
{
	const struct plt_convert_options *opts = job->opts;
	struct plt_source *src = &job->src;

	src->salvage = opts->flags & PLT_CONVERT_SALVAGE;
	src->salvaged = opts->salvaged;
	src->salvaged_arg = opts->salvaged_arg;
	if (job->backing && plt_disk_has_backing(src->disks[0])) {
		struct plt_image *below = plt_image_backing(plt_disk_image(src->disks[0]));

		src->top_only = true;
		if (below)
			src->backing_size = atomic_load(&below->size);
	}
}

static int copy_all(struct job *job, unsigned threads, struct plt_error *err)
{
	uint64_t total;
	int ret;

	job->skip_zero = plt_target_is_zero(job->target);
	ret = choose_units(job, err);
	job->beyond = job->backing && !(job->opts->flags & PLT_CONVERT_NO_CREATE)
		      ? plt_target_backing_size(job->target) : UINT64_MAX;
	/* Compressing side by side is worth more than the order of its small clusters. */
	job->in_order = !job->compress && plt_disk_cluster_size(job->out) &&
			!(job->opts->flags & PLT_CONVERT_OUT_OF_ORDER);
	if (!ret)
		ret = measure(job, &total, err);
	if (ret)
		return ret;
	plt_crew_expect(&job->crew, total);
	plt_walk_init(&job->walk, &job->src, job->unit, job->chunk);
	job->walk.zero_is_data = !job->sparse;
	job->walk.beyond = job->beyond;
	/* In an existing image of clusters those that are zeroed stay allocated, as with qemu-img. */
	if (!(job->opts->flags & PLT_CONVERT_NO_CREATE) || !plt_disk_cluster_size(job->out))
		job->zero_flags = PLT_ZERO_UNMAP;
	return plt_crew_run(&job->crew, threads, work, job, err);
}

static int verify(struct job *job, unsigned threads, struct plt_error *err)
{
	struct plt_disk *disk = NULL;
	int ret;

	if (!job->verify)
		return 0;
	ret = plt_target_reopen(job->target, &disk, err);
	if (!ret)
		ret = plt_verify_run(job->verify, disk, threads, job->crew.progress_fn,
				     job->crew.progress_arg, err);
	(void)plt_disk_close(disk, NULL); /* opened for reading */
	return ret;
}

static int run(struct job *job, struct plt_ctx *ctx, const char *target, struct plt_error *err)
{
	unsigned threads = plt_crew_size(job->opts->coroutines, 2);
	uint64_t data;
	int ret;

	/* A first look, before the target's clusters are known: how much room it needs. */
	job->unit = ESTIMATE_UNIT;
	job->chunk = PLT_CHUNK;
	job->beyond = UINT64_MAX;
	ret = measure(job, &data, err);
	if (!ret)
		ret = plt_target_begin(ctx, target, job->opts, &job->src, data, &job->target, err);
	if (ret)
		return ret;
	job->out = plt_target_disk(job->target);
	if (job->opts->flags & PLT_CONVERT_BITMAPS)
		ret = plt_bitmaps_check_target(job->src.disks[0], job->out, err);
	if (!ret)
		ret = copy_all(job, threads, err);
	if (!ret && job->opts->flags & PLT_CONVERT_BITMAPS)
		ret = plt_bitmaps_copy(job->src.disks[0], job->out, err);
	if (!ret)
		ret = plt_target_complete(job->target, err);
	if (!ret)
		ret = verify(job, threads, err);
	if (!ret && job->length)
		ret = plt_target_length(job->target, job->length, err);
	if (ret || job->length) {
		plt_target_abort(job->target, err);
		return ret;
	}
	return plt_target_commit(job->target, err);
}

static int prepare_and_run(struct job *job, struct plt_ctx *ctx, const char *target, struct plt_error *err)
{
	const struct plt_convert_options *opts = job->opts;
	int ret = plt_error_set(err, ENOMEM, "Out of memory");

	if (pthread_cond_init(&job->turned, NULL))
		return ret;
	if (plt_crew_init(&job->crew, opts->progress, opts->progress_arg))
		goto no_crew;
	if (plt_rate_init(&job->rate, opts->rate_limit))
		goto no_rate;
	if (err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	ret = opts->flags & PLT_CONVERT_VERIFY ? plt_verify_new(&job->verify, err) : 0;
	if (!ret)
		ret = run(job, ctx, target, err);
	plt_verify_free(job->verify);
	plt_rate_release(&job->rate);
no_rate:
	plt_crew_release(&job->crew);
no_crew:
	pthread_cond_destroy(&job->turned);
	return ret;
}

static int convert(struct plt_ctx *ctx, struct plt_disk *const *sources, unsigned n, const char *target,
		   const struct plt_convert_options *opts, uint64_t *length, struct plt_error *err)
{
	static const struct plt_convert_options defaults = PLT_CONVERT_OPTIONS_INIT;
	struct job *job;
	int ret;

	if (!n)
		return plt_error_set(err, EINVAL, "No source image given");
	job = calloc(1, sizeof(*job));
	if (!job)
		return plt_error_set(err, ENOMEM, "Out of memory");
	job->opts = opts ? opts : &defaults;
	job->name = target;
	job->length = length;
	job->sparse = job->opts->sparse_size;
	job->compress = job->opts->flags & PLT_CONVERT_COMPRESS;
	ret = check_options(job, n, err);
	if (ret)
		goto out;
	if (job->opts->flags & PLT_CONVERT_BITMAPS)
		ret = plt_bitmaps_check_source(sources, n, job->opts->flags & PLT_CONVERT_SKIP_BROKEN, err);
	if (!ret)
		ret = plt_source_init(&job->src, sources, n, err);
	if (ret)
		goto out;
	if (job->opts->flags & PLT_CONVERT_WINDOW) {
		if (n != 1 || !plt_in_range(job->opts->window_offset, job->opts->window_length, job->src.size)) {
			ret = plt_error_set(err, EINVAL, "The part to be copied is not inside the one source image");
			goto out_source;
		}
		plt_source_window(&job->src, job->opts->window_offset, job->opts->window_length);
	}
	source_options(job);
	ret = prepare_and_run(job, ctx, target, err);
out_source:
	plt_source_release(&job->src);
out:
	free(job);
	return ret;
}

int plt_convert(struct plt_ctx *ctx, struct plt_disk *const *sources, unsigned n, const char *target,
		const struct plt_convert_options *opts, struct plt_error *err)
{
	return convert(ctx, sources, n, target, opts, NULL, err);
}

int plt_convert_length(struct plt_ctx *ctx, struct plt_disk *const *sources, unsigned n, const struct plt_convert_options *opts,
		       uint64_t *ret, struct plt_error *err)
{
	struct plt_convert_options o = *opts;

	o.flags |= PLT_CONVERT_GHOST;
	return convert(ctx, sources, n, "measured", &o, ret, err);
}
