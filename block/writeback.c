/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Ordered write-back: which metadata blocks are dirty, what must be durable before each may be
 * written, and the flush that obeys.
 *
 * An edge of block B says: version v of block A is durable, or everything that had completed on
 * store S is durable, before B is written.  Edges are put on B when it changes and are all gone once
 * B has been written (a satisfied edge stays satisfied).  They go from a lower rank to a higher one
 * only, so there is no cycle and a flush always finds something to write.
 *
 * A flush works in rounds: write every dirty block whose edges are satisfied, and only when nothing
 * is left that may be written, sync the stores that the remaining edges wait for.  The content of a
 * block is copied under the image lock, so that it may change while it is being written; the change
 * is a later version and stays dirty.  One write of a block at a time (flush_lock).
 */
#include <assert.h>

#include "base/alloc.h"
#include "block/engine.h"

#define BATCH 256 /* blocks in one round's buffer: 1 MiB */

/* ---- dirty blocks ---------------------------------------------------------------------------- */

static void dirty_link(struct plt_engine *eng, struct plt_block *b)
{
	b->dirty_prev = NULL;
	b->dirty_next = eng->dirty;
	if (eng->dirty)
		eng->dirty->dirty_prev = b;
	eng->dirty = b;
	eng->ndirty++;
	b->dirty_seq = ++eng->dirty_seq;
	atomic_store(&b->dirty, true);
}

static void dirty_unlink(struct plt_engine *eng, struct plt_block *b)
{
	if (b->dirty_prev)
		b->dirty_prev->dirty_next = b->dirty_next;
	else
		eng->dirty = b->dirty_next;
	if (b->dirty_next)
		b->dirty_next->dirty_prev = b->dirty_prev;
	b->dirty_next = b->dirty_prev = NULL;
	eng->ndirty--;
	atomic_store(&b->dirty, false);
}

void plt_block_dirty(struct plt_block *b)
{
	struct plt_engine *eng = atomic_load(&b->owner);

	b->version++;
	if (!atomic_load(&b->dirty))
		dirty_link(eng, b);
	atomic_store_explicit(&eng->changed, true, memory_order_relaxed);
}

static void edges_drop(struct plt_block *b)
{
	for (unsigned i = 0; i < b->nedges; i++)
		if (b->edge[i].before)
			atomic_fetch_sub(&b->edge[i].before->dependents, 1);
	b->nedges = 0;
	b->lower_upto = 0;
}

void plt_block_discard(struct plt_block *b)
{
	if (atomic_load(&b->dirty))
		dirty_unlink(atomic_load(&b->owner), b);
	edges_drop(b);
	b->written = b->version;
}

bool plt_meta_is_dirty(struct plt_image *img)
{
	PLT_LOCK_SCOPE(&img->lock);
	return img->engine->ndirty != 0;
}

/* ---- edges ----------------------------------------------------------------------------------- */

static bool block_durable(struct plt_block *a, uint64_t version)
{
	struct plt_engine *eng = atomic_load(&a->owner);

	if (!eng)
		return true; /* forgotten: its table is no longer part of the image */
	return a->written >= version && plt_store_durable(eng->img->file, atomic_load(&a->written_mark));
}

static bool edge_satisfied(const struct plt_edge *e)
{
	return e->before ? block_durable(e->before, e->version) : plt_store_durable(e->store, e->mark);
}

static void sync_edge(struct plt_block *b, struct plt_store *st)
{
	uint64_t mark = plt_store_sync_mark(st);

	for (unsigned i = 0; i < b->nedges; i++)
		if (!b->edge[i].before && b->edge[i].store == st) {
			b->edge[i].mark = mark;
			return;
		}
	assert(b->nedges < PLT_BLOCK_EDGES);
	b->edge[b->nedges++] = (struct plt_edge){ .store = st, .mark = mark };
}

/* Is something of lower rank dirty that was so when the edges of @b were collapsed? */
static bool lower_is_dirty(const struct plt_engine *eng, const struct plt_block *b)
{
	for (struct plt_block *a = eng->dirty; a; a = a->dirty_next)
		if (a->dirty_seq <= b->lower_upto && a->type->rank < b->type->rank)
			return true;
	return false;
}

/* Drop what is satisfied; true if nothing remains. */
static bool edges_reduce(struct plt_block *b)
{
	struct plt_engine *eng = atomic_load(&b->owner);
	unsigned n = 0;

	if (b->lower_upto && !lower_is_dirty(eng, b)) {
		b->lower_upto = 0;
		sync_edge(b, eng->img->file); /* all of it is written: now it must be durable */
	}
	for (unsigned i = 0; i < b->nedges; i++) {
		if (!edge_satisfied(&b->edge[i]))
			b->edge[n++] = b->edge[i];
		else if (b->edge[i].before)
			atomic_fetch_sub(&b->edge[i].before->dependents, 1);
	}
	b->nedges = n;
	return n == 0 && !b->lower_upto;
}

/*
 * One more edge.  Room was found in place, but as many requests as are in flight may have found the
 * same room.  Then all edges to blocks become one that is wider: everything of lower rank that is dirty
 * now, and a sync behind it.
 */
static void edge_room(struct plt_block *b)
{
	struct plt_engine *eng = atomic_load(&b->owner);
	unsigned n = 0;

	if (b->nedges < PLT_BLOCK_EDGES - 1)
		return;
	edges_reduce(b);
	if (b->nedges < PLT_BLOCK_EDGES - 1)
		return;
	for (unsigned i = 0; i < b->nedges; i++)
		if (b->edge[i].before)
			atomic_fetch_sub(&b->edge[i].before->dependents, 1);
		else
			b->edge[n++] = b->edge[i];
	b->nedges = n;
	b->lower_upto = eng->dirty_seq;
	sync_edge(b, eng->img->file);
}

unsigned plt_block_room(struct plt_block *b)
{
	if (b->wanted)
		return 0; /* its write-back comes first: see flush_locked() */
	if (b->nedges > PLT_BLOCK_EDGES / 2)
		edges_reduce(b);
	return PLT_BLOCK_EDGES - b->nedges;
}

void plt_block_after_block(struct plt_block *b, struct plt_block *before)
{
	struct plt_engine *eng = atomic_load(&b->owner);

	assert(before->type->rank < b->type->rank);
	if (eng->img->unordered || !atomic_load(&before->owner))
		return;
	if (before->written >= before->version) {
		if (atomic_load(&before->written_ever) ? block_durable(before, before->version) :
		    !atomic_load(&eng->evicted) || plt_store_durable(eng->img->file, atomic_load(&eng->evicted_mark)))
			return;
		if (!atomic_load(&before->written_ever)) { /* perhaps written, evicted and read back */
			plt_block_after_sync(b, eng->img->file);
			return;
		}
	}
	for (unsigned i = 0; i < b->nedges; i++)
		if (b->edge[i].before == before) {
			b->edge[i].version = before->version;
			return;
		}
	edge_room(b);
	b->edge[b->nedges++] = (struct plt_edge){ .before = before, .version = before->version };
	atomic_fetch_add(&before->dependents, 1);
}

void plt_block_after_sync(struct plt_block *b, struct plt_store *st)
{
	struct plt_engine *eng = atomic_load(&b->owner);

	if (eng->img->unordered)
		return;
	edge_room(b);
	sync_edge(b, st);
}

/* ---- flush ----------------------------------------------------------------------------------- */

struct round {
	struct plt_block *b[BATCH];
	uint64_t version[BATCH];
	uint8_t *buf;
	unsigned n;
};

static int by_offset(const void *x, const void *y)
{
	uint64_t a = plt_block_host_off(*(struct plt_block *const *)x);
	uint64_t b = plt_block_host_off(*(struct plt_block *const *)y);

	return a < b ? -1 : a > b;
}

/*
 * A block of this flush may have come to wait for what became dirty after the flush had begun: that is
 * then part of it too.  True: there was such a block.
 */
static bool draw_in(struct plt_engine *eng, struct plt_block *b, uint64_t upto)
{
	bool some = false;

	for (unsigned i = 0; i < b->nedges; i++) {
		struct plt_block *a = b->edge[i].before;

		if (a && atomic_load(&a->dirty) && a->dirty_seq > upto) {
			a->dirty_seq = upto;
			some = true;
		}
	}
	for (struct plt_block *a = b->lower_upto ? eng->dirty : NULL; a; a = a->dirty_next)
		if (a->dirty_seq > upto && a->dirty_seq <= b->lower_upto && a->type->rank < b->type->rank) {
			a->dirty_seq = upto;
			some = true;
		}
	return some;
}

enum left { NOTHING_LEFT, LEFT_FOR_SYNC, LEFT_FOR_NOW /* look again without a sync */ };

/*
 * Collect what may be written, of what was dirty at @upto, and say what is left that must wait;
 * *ret_other: a store other than the file whose sync it waits for.  Image lock held.
 */
static void collect(struct plt_engine *eng, struct round *r, uint64_t upto, enum left *ret_left,
		    struct plt_store **ret_other)
{
	r->n = 0;
	*ret_left = NOTHING_LEFT;
	*ret_other = NULL;
	for (struct plt_block *b = eng->dirty; b; b = b->dirty_next) {
		if (b->dirty_seq > upto)
			continue;
		if (!edges_reduce(b)) {
			if (draw_in(eng, b, upto))
				*ret_left = LEFT_FOR_NOW;
			else if (*ret_left == NOTHING_LEFT)
				*ret_left = LEFT_FOR_SYNC;
			for (unsigned i = 0; i < b->nedges; i++)
				if (!b->edge[i].before && b->edge[i].store != eng->img->file)
					*ret_other = b->edge[i].store;
			continue;
		}
		if (r->n == BATCH) {
			*ret_left = LEFT_FOR_NOW;
			break;
		}
		r->b[r->n++] = b;
	}
	qsort(r->b, r->n, sizeof(r->b[0]), by_offset);
	for (unsigned i = 0; i < r->n; i++) {
		memcpy(r->buf + (size_t)i * eng->img->slice, r->b[i]->data, r->b[i]->len);
		r->version[i] = r->b[i]->version;
		r->b[i]->writing = true;
	}
}

/* Write what was collected, neighbours in one request. */
static int write_round(struct plt_image *img, struct round *r, struct plt_error *err)
{
	for (unsigned i = 0, n; i < r->n; i += n) {
		uint64_t off = plt_block_host_off(r->b[i]);
		int rc;

		for (n = 1; i + n < r->n && r->b[i + n]->type == r->b[i]->type &&
			    plt_block_host_off(r->b[i + n]) == off + (uint64_t)n * img->slice;)
			n++;
		rc = plt_store_write(img->file, off, r->buf + (size_t)i * img->slice,
				     (size_t)n * img->slice, r->b[i]->type->tag, err);
		if (rc < 0) {
			plt_error_prefix(err, "%s at %#" PRIx64, r->b[i]->type->name, off);
			r->n = i; /* the rest stays dirty */
			return rc;
		}
	}
	return 0;
}

/* What the driver wants in the file before its sync (a full last cluster) goes first. */
static int sync_file(struct plt_image *img, struct plt_error *err)
{
	int r = img->drv->before_sync ? img->drv->before_sync(img, err) : 0;

	return r < 0 ? r : plt_store_sync(img->file, err);
}

/*
 * While a sync runs, others publish into the very blocks that wait for it, and each publish makes the
 * block wait for the next sync.  After a few rounds the blocks that this flush wants take no more:
 * place is told to write back first, which waits for this flush.
 */
static void want(struct plt_engine *eng, uint64_t upto, bool on)
{
	for (struct plt_block *b = eng->dirty; b; b = b->dirty_next)
		if (!on || b->dirty_seq <= upto)
			b->wanted = on;
}

#define PATIENCE 3 /* syncs: counts and data, L2, L1 */

static int flush_locked(struct plt_image *img, struct round *r, struct plt_error *err)
{
	struct plt_engine *eng = img->engine;
	unsigned syncs = 0;
	uint64_t upto;

	pthread_mutex_lock(&img->lock);
	upto = eng->dirty_seq;
	pthread_mutex_unlock(&img->lock);
	for (;;) {
		struct plt_store *other;
		enum left left;
		unsigned all;
		uint64_t mark;
		int rc = 0;

		pthread_mutex_lock(&img->lock);
		collect(eng, r, upto, &left, &other);
		pthread_mutex_unlock(&img->lock);
		if (!r->n) {
			if (left == NOTHING_LEFT)
				return 0;
			if (left == LEFT_FOR_NOW)
				continue;
			if (other && (rc = plt_store_sync(other, err)) < 0)
				return rc;
			if (++syncs >= PATIENCE) {
				pthread_mutex_lock(&img->lock);
				want(eng, upto, true);
				pthread_mutex_unlock(&img->lock);
			}
			rc = sync_file(img, err);
			if (rc < 0)
				return rc;
			continue;
		}
		all = r->n;
		rc = plt_store_check_writable(img->file, err);
		if (rc < 0)
			r->n = 0;
		else
			rc = write_round(img, r, err);
		mark = plt_store_sync_mark(img->file);
		pthread_mutex_lock(&img->lock);
		for (unsigned i = 0; i < all; i++) {
			struct plt_block *b = r->b[i];

			b->writing = false;
			b->wanted = false;
			if (i >= r->n)
				continue;
			b->written = r->version[i];
			atomic_store(&b->written_mark, mark);
			atomic_store(&b->written_ever, true);
			if (b->version > b->written)
				b->dirty_seq = ++eng->dirty_seq; /* changed meanwhile: dirty anew */
			else
				dirty_unlink(eng, b); /* the slot may be another's from here on */
		}
		pthread_mutex_unlock(&img->lock);
		if (rc < 0)
			return rc;
	}
}

int plt_meta_flush(struct plt_image *img, bool durable, struct plt_error *err)
{
	struct plt_engine *eng = img->engine;
	struct round *r;
	int rc = 0;

	if (!img->writable)
		return 0;
	PLT_LOCK_SCOPE(&eng->flush_lock);
	if (plt_meta_is_dirty(img)) {
		r = malloc(sizeof(*r));
		if (r)
			r->buf = plt_alloc_io((size_t)BATCH * img->slice);
		if (!r || !r->buf) {
			free(r);
			return plt_error_set(err, ENOMEM, "out of memory");
		}
		rc = flush_locked(img, r, err);
		pthread_mutex_lock(&img->lock);
		want(eng, 0, false);
		pthread_mutex_unlock(&img->lock);
		free(r->buf);
		free(r);
	}
	if (rc == 0 && durable) {
		if (img->data && img->data != img->file)
			rc = plt_store_sync(img->data, err);
		if (rc == 0)
			rc = sync_file(img, err);
	}
	return rc;
}
