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

/* Drop what is satisfied; true if nothing remains. */
static bool edges_reduce(struct plt_block *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->nedges; i++) {
		if (!edge_satisfied(&b->edge[i]))
			b->edge[n++] = b->edge[i];
		else if (b->edge[i].before)
			atomic_fetch_sub(&b->edge[i].before->dependents, 1);
	}
	b->nedges = n;
	return n == 0;
}

unsigned plt_block_room(struct plt_block *b)
{
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
	assert(b->nedges < PLT_BLOCK_EDGES);
	b->edge[b->nedges++] = (struct plt_edge){ .before = before, .version = before->version };
	atomic_fetch_add(&before->dependents, 1);
}

void plt_block_after_sync(struct plt_block *b, struct plt_store *st)
{
	struct plt_engine *eng = atomic_load(&b->owner);
	uint64_t mark = plt_store_sync_mark(st);

	if (eng->img->unordered)
		return;
	for (unsigned i = 0; i < b->nedges; i++)
		if (!b->edge[i].before && b->edge[i].store == st) {
			b->edge[i].mark = mark;
			return;
		}
	assert(b->nedges < PLT_BLOCK_EDGES);
	b->edge[b->nedges++] = (struct plt_edge){ .store = st, .mark = mark };
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
 * Collect what may be written, of what was dirty at @upto; *ret_left: something is left that must
 * wait.  *ret_file, *ret_other: the syncs it waits for.  Image lock held.
 */
static void collect(struct plt_engine *eng, struct round *r, uint64_t upto, bool *ret_left,
		    struct plt_store **ret_other)
{
	r->n = 0;
	*ret_left = false;
	*ret_other = NULL;
	for (struct plt_block *b = eng->dirty; b; b = b->dirty_next) {
		if (b->dirty_seq > upto)
			continue;
		if (!edges_reduce(b)) {
			*ret_left = true;
			for (unsigned i = 0; i < b->nedges; i++)
				if (!b->edge[i].before && b->edge[i].store != eng->img->file)
					*ret_other = b->edge[i].store;
			continue;
		}
		if (r->n == BATCH) {
			*ret_left = true;
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

static int flush_locked(struct plt_image *img, struct round *r, struct plt_error *err)
{
	struct plt_engine *eng = img->engine;
	uint64_t upto;

	pthread_mutex_lock(&img->lock);
	upto = eng->dirty_seq;
	pthread_mutex_unlock(&img->lock);
	for (;;) {
		struct plt_store *other;
		bool left;
		unsigned all;
		uint64_t mark;
		int rc = 0;

		pthread_mutex_lock(&img->lock);
		collect(eng, r, upto, &left, &other);
		pthread_mutex_unlock(&img->lock);
		if (!r->n) {
			if (!left)
				return 0;
			if (other && (rc = plt_store_sync(other, err)) < 0)
				return rc;
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
			if (i >= r->n)
				continue;
			b->written = r->version[i];
			atomic_store(&b->written_mark, mark);
			atomic_store(&b->written_ever, true);
			dirty_unlink(eng, b);
			if (b->version > b->written)
				dirty_link(eng, b); /* changed meanwhile: dirty anew */
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
