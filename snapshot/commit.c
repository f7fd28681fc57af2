/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_commit(): what the upper layers of a chain hold, copied into a lower one.  The chain is open once, with the base
 * writable at its place in it; a walk over the block status of the whole hands out the pieces that a layer above the
 * base has an entry for, and threads copy them side by side.  Pieces end at multiples of a chunk, so no two threads
 * meet in a cluster of the base.  The invariant: the image is emptied only after the base's flush has returned.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crew.h"
#include "base/error.h"
#include "snapshot/snapshot.h"

#define CHUNK (UINT64_C(1) << 20) /* at least */

struct job {
	struct plt_crew crew;
	struct plt_rate rate;
	struct plt_cursor walk;  /* under the crew's lock */
	uint64_t pos;
	unsigned depth;          /* of the base */
	uint64_t chunk;
	struct plt_disk *base;
};

struct piece {
	uint64_t off, len;
	bool zero;
};

static int find_base(struct plt_disk *disk, const char *name, unsigned *ret, struct plt_error *err)
{
	if (!plt_disk_layer(disk, 1))
		return plt_error_set(err, EINVAL, "Image does not have a backing file");
	*ret = 1;
	return name ? plt_layer_find(disk, name, ret, err) : 0;
}

/* ---- copying --------------------------------------------------------------------------------- */

/* Has a layer above the base something to say of it?  (Zeros behind the end of one hide what the base has there.) */
static bool is_above(const struct job *j, const struct plt_extent *e)
{
	return (e->flags & PLT_EXTENT_PRESENT && e->depth < j->depth) ||
	       (e->flags & PLT_EXTENT_EOF && e->depth + 1 < j->depth);
}

/* What lies together, of whatever layers, up to a chunk.  The crew's lock is held.  Nothing (len 0) at the end. */
static int next_piece(struct job *j, struct piece *ret, struct plt_error *err)
{
	const struct plt_extent *e;
	uint64_t end, stop = UINT64_MAX;
	int r;

	*ret = (struct piece){ 0 };
	while (j->pos < PLT_MIN(j->walk.size, stop)) {
		r = plt_cursor_at(&j->walk, j->pos, &e, err);
		if (r < 0)
			return r;
		end = e->off + e->len;
		if (ret->len && (!is_above(j, e) || ret->zero != !!(e->flags & PLT_EXTENT_ZERO)))
			break;
		if (!is_above(j, e)) {
			plt_crew_done(&j->crew, end - j->pos);
			j->pos = end;
			continue;
		}
		if (!ret->len) {
			ret->off = j->pos;
			ret->zero = e->flags & PLT_EXTENT_ZERO;
			stop = plt_align_down(j->pos, j->chunk) + j->chunk;
		}
		ret->len = PLT_MIN(end, stop) - ret->off;
		j->pos = ret->off + ret->len;
	}
	return 0;
}

static int copy(struct job *j, const struct piece *p, uint8_t *buf, struct plt_error *err)
{
	int r;

	if (p->zero)
		return plt_write_zeroes(j->base, p->off, p->len, PLT_ZERO_UNMAP, err);
	r = plt_read(j->walk.disk, p->off, buf, p->len, err);
	return r < 0 ? r : plt_write(j->base, p->off, buf, p->len, err);
}

static int work(void *arg, unsigned index)
{
	struct job *j = arg;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(j->chunk);
	struct plt_error err = PLT_ERROR_INIT;

	(void)index;
	if (!buf)
		return -ENOMEM;
	while (plt_crew_going(&j->crew)) {
		struct piece p;
		int r;

		pthread_mutex_lock(&j->crew.lock);
		r = next_piece(j, &p, &err);
		pthread_mutex_unlock(&j->crew.lock);
		if (r == 0 && !p.len)
			break;
		if (r == 0 && !p.zero && !plt_rate_take(&j->rate, p.len, &j->crew))
			break;
		if (r == 0)
			r = copy(j, &p, buf, &err);
		if (r < 0) {
			plt_crew_fail(&j->crew, r, &err);
			break;
		}
		plt_crew_done(&j->crew, p.len);
	}
	return 0;
}

static int copy_all(struct plt_disk *disk, struct plt_disk *base, unsigned depth, const struct plt_commit_options *opts,
		    struct plt_error *err)
{
	struct job *j = calloc(1, sizeof(*j));
	int r;

	if (!j || plt_crew_init(&j->crew, opts->progress, opts->progress_arg) < 0) {
		free(j);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	if (plt_rate_init(&j->rate, opts->rate_limit) < 0) {
		plt_crew_release(&j->crew);
		free(j);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	plt_cursor_init(&j->walk, disk, 0);
	j->base = base;
	j->depth = depth;
	j->chunk = PLT_MAX(CHUNK, (uint64_t)plt_disk_cluster_size(base));
	plt_crew_expect(&j->crew, j->walk.size);
	r = plt_crew_run(&j->crew, plt_crew_size(0, 2), work, j, err);
	plt_rate_release(&j->rate);
	plt_crew_release(&j->crew);
	free(j);
	return r;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int empty(struct plt_image *img, void *arg, struct plt_error *err)
{
	(void)arg;
	return img->drv->make_empty(img, false, err);
}

static int can_empty(struct plt_disk *disk, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(disk);

	if (!img->drv->make_empty)
		return plt_error_set(err, ENOTSUP, "Could not empty %s: images of the format %s cannot be emptied (-d keeps "
				     "what the image holds)", img->name, img->drv->name);
	return img->drv->make_empty(img, true, err);
}

static int commit(struct plt_disk *disk, struct plt_disk *base, unsigned depth, bool keep,
		  const struct plt_commit_options *opts, struct plt_error *err)
{
	int r = keep ? 0 : can_empty(disk, err);

	if (r == 0 && plt_disk_size(base) < plt_disk_size(disk)) {
		r = plt_resize(base, plt_disk_size(disk), 0, NULL, err);
		if (r < 0)
			plt_error_prefix(err, "'%s' has to grow to %" PRIu64 " bytes", plt_disk_name(base),
					 plt_disk_size(disk));
	}
	if (r == 0)
		r = copy_all(disk, base, depth, opts, err);
	if (r == 0)
		r = plt_flush(base, err);
	if (r == 0 && !keep) {
		r = plt_image_exclusive(plt_disk_image(disk), false, empty, NULL, err);
		if (r < 0)
			plt_error_prefix(err, "Could not empty %s", plt_disk_name(disk));
	}
	return r;
}

int plt_commit(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
	       const struct plt_commit_options *opts, struct plt_error *err)
{
	struct plt_open_options look = *open, use = *open;
	struct plt_disk *disk, *base;
	bool keep = opts->flags & PLT_COMMIT_KEEP || opts->base;
	unsigned depth = 0;
	int r, closed;

	/* Which layer is the base: found first, since it cannot be opened for reading and for writing at once. */
	look.flags &= ~(unsigned)PLT_OPEN_WRITE;
	r = plt_disk_open(ctx, name, &look, &disk, err);
	if (r < 0)
		return r;
	r = find_base(disk, opts->base, &depth, err);
	if (r == 0 && !keep)
		r = can_empty(disk, err);
	plt_disk_close(disk, NULL);
	if (r < 0)
		return r;
	if (keep)
		use.flags &= ~(unsigned)PLT_OPEN_WRITE;
	else
		use.flags |= PLT_OPEN_WRITE;
	r = plt_disk_open_layer(ctx, name, &use, depth, &disk, &base, err);
	if (r < 0)
		return r;
	r = find_base(disk, opts->base, &(unsigned){ 0 }, err); /* (it may have been replaced meanwhile) */
	if (r == 0)
		r = commit(disk, base, depth, keep, opts, err);
	plt_disk_release_layer(base);
	closed = plt_disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}
