/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The metadata cache: blocks by the place that they have in an image, pinned while somebody looks at them.
 *
 * A hit takes no lock: the reader walks the chain of the hash with atomic loads, counts itself in `pins`, and
 * then looks at the key again.  Everything else (new blocks, loads) is under cache.lock.  A block is validated
 * once, when it is loaded.  Where slots come from, and which may be evicted, is slots.c's; what is dirty, and in
 * which order it reaches the disk, writeback.c's.
 */
#include <assert.h>

#include "block/slots.h"

/* ---- pins ------------------------------------------------------------------------------------ */

void plt_block_unpin(struct plt_block *b)
{
	uint32_t old = atomic_fetch_sub_explicit(&b->pins, 1, memory_order_release);

	assert((old & ~PLT_BLOCK_DEAD) > 0);
	(void)old;
}

void plt_pins_drop(struct plt_pins *pins)
{
	while (pins->n)
		plt_block_unpin(pins->b[--pins->n]);
}

void plt_pins_remove(struct plt_pins *pins, struct plt_block *b)
{
	for (unsigned i = 0; i < pins->n; i++)
		if (pins->b[i] == b) {
			plt_block_unpin(b);
			memmove(&pins->b[i], &pins->b[i + 1], (--pins->n - i) * sizeof(pins->b[0]));
			return;
		}
}

static void pins_add(struct plt_pins *pins, struct plt_block *b)
{
	assert(pins->n < PLT_PINS_MAX);
	pins->b[pins->n++] = b;
}

static struct plt_block *pins_find(struct plt_pins *pins, const struct plt_engine *eng, uint64_t off)
{
	for (unsigned i = 0; i < pins->n; i++)
		if (plt_slot_is(pins->b[i], eng, off))
			return pins->b[i];
	return NULL;
}

/* A pinned, valid block without any lock, or NULL: look again with the lock. */
static struct plt_block *find_unlocked(struct plt_cache *c, const struct plt_engine *eng, uint64_t off)
{
	struct plt_block *b = atomic_load_explicit(plt_slot_bucket(c, eng, off), memory_order_acquire);

	for (unsigned steps = 0; b && steps < 64; steps++) {
		if (plt_slot_is(b, eng, off)) {
			uint32_t old = atomic_fetch_add_explicit(&b->pins, 1, memory_order_acquire);

			if (!(old & PLT_BLOCK_DEAD) && plt_slot_is(b, eng, off) &&
			    atomic_load_explicit(&b->state, memory_order_acquire) == PLT_BLOCK_VALID) {
				if (!atomic_load_explicit(&b->used, memory_order_relaxed))
					atomic_store_explicit(&b->used, true, memory_order_relaxed);
				return b;
			}
			atomic_fetch_sub_explicit(&b->pins, 1, memory_order_release);
			return NULL;
		}
		b = atomic_load_explicit(&b->hash_next, memory_order_acquire);
	}
	return NULL;
}

/* cache.lock held */
static int load_error(struct plt_block *b, struct plt_error *err)
{
	if (err && b->load_text.code)
		*err = b->load_text;
	return plt_error_default(err, b->load_error, "%s at %#" PRIx64 ": cannot be read", b->type->name,
				 plt_block_host_off(b));
}

/* ---- get ------------------------------------------------------------------------------------- */

static int get_slow(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		    uint64_t off, struct plt_block **ret, struct plt_need *need, struct plt_error *err)
{
	struct plt_engine *eng = img->engine;
	struct plt_cache *c = img->ctx->cache;
	struct plt_block *b, *mine = pins_find(pins, eng, off);

	PLT_LOCK_SCOPE(&c->lock);
	if (mine) {
		switch (atomic_load(&mine->state)) {
		case PLT_BLOCK_VALID:
			*ret = mine;
			return 0;
		case PLT_BLOCK_FAILED:
			return load_error(mine, err);
		default:
			*need = (struct plt_need){ .kind = PLT_NEED_LOAD, .block = mine };
			return -EAGAIN;
		}
	}
	b = plt_slot_find(c, eng, off);
	if (b) {
		atomic_fetch_add(&b->pins, 1);
		pins_add(pins, b);
		if (atomic_load(&b->state) == PLT_BLOCK_VALID) {
			*ret = b;
			return 0;
		}
		if (atomic_load(&b->state) == PLT_BLOCK_FAILED) { /* an earlier request's failure: try again */
			atomic_store(&b->state, PLT_BLOCK_LOADING);
			b->load_started = false;
		}
		*need = (struct plt_need){ .kind = PLT_NEED_LOAD, .block = b };
		return -EAGAIN;
	}
	b = plt_slot_take(c, pins->privileged);
	if (!b) {
		*need = (struct plt_need){ .kind = PLT_NEED_SLOT };
		return pins->privileged ? plt_error_set(err, ENOMEM, "out of memory") : -EAGAIN;
	}
	plt_slot_init(b, img, type, PLT_BLOCK_LOADING);
	plt_slot_revive(b);
	plt_slot_hash(c, b, eng, off);
	pins_add(pins, b);
	*need = (struct plt_need){ .kind = PLT_NEED_LOAD, .block = b };
	return -EAGAIN;
}

static int get(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
	       uint64_t off, struct plt_block **ret, struct plt_need *need, struct plt_error *err)
{
	struct plt_block *b;

	off = plt_align_down(off, img->slice);
	for (unsigned i = 0; i < pins->n; i++)
		if (plt_slot_is(pins->b[i], img->engine, off) &&
		    atomic_load_explicit(&pins->b[i]->state, memory_order_acquire) == PLT_BLOCK_VALID) {
			*ret = pins->b[i];
			return 0;
		}
	if (pins->n < PLT_PINS_MAX && (b = find_unlocked(img->ctx->cache, img->engine, off))) {
		pins_add(pins, b);
		*ret = b;
		return 0;
	}
	return get_slow(img, pins, type, off, ret, need, err);
}

int plt_meta_get(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		 uint64_t off, struct plt_block **ret, struct plt_need *need, struct plt_error *err)
{
	int r = get(img, pins, type, off, ret, need, err);

	/* two tables of a damaged image in one place: neither can be trusted */
	if (r == 0 && (*ret)->type != type)
		return plt_error_set(err, EUCLEAN, "'%s': a %s at %#" PRIx64 " lies on a %s", img->name, type->name,
				     off, (*ret)->type->name);
	return r;
}

int plt_meta_get_wait(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		      uint64_t off, struct plt_block **ret, struct plt_error *err)
{
	struct plt_need need = { 0 };
	int r;

	pins->privileged = true;
	for (;;) {
		r = plt_meta_get(img, pins, type, off, ret, &need, err);
		if (r != -EAGAIN)
			return r;
		assert(need.kind == PLT_NEED_LOAD);
		(void)plt_meta_load_wait(img, need.block, err);
	}
}

int plt_meta_new(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		 uint64_t off, struct plt_block **ret, struct plt_need *need)
{
	struct plt_engine *eng = img->engine;
	struct plt_cache *c = img->ctx->cache;
	struct plt_block *b;

	off = plt_align_down(off, img->slice);
	PLT_LOCK_SCOPE(&c->lock);
	b = plt_slot_find(c, eng, off);
	if (b) {
		atomic_fetch_add(&b->pins, 1);
		b->type = type;
		atomic_store(&b->state, PLT_BLOCK_VALID);
		plt_io_list_wake(&b->waiters);
	} else {
		b = plt_slot_take(c, pins->privileged);
		if (!b) {
			*need = (struct plt_need){ .kind = PLT_NEED_SLOT };
			return pins->privileged ? -ENOMEM : -EAGAIN;
		}
		plt_slot_init(b, img, type, PLT_BLOCK_VALID);
		plt_slot_revive(b);
		plt_slot_hash(c, b, eng, off);
	}
	memset(b->data, 0, PLT_SLICE);
	pins_add(pins, b);
	*ret = b;
	return 0;
}

/* ---- loads ----------------------------------------------------------------------------------- */

struct plt_block *plt_cache_reserve(struct plt_engine *eng, const struct plt_meta_type *type, uint64_t off)
{
	struct plt_cache *c = eng->img->ctx->cache;
	struct plt_block *b;

	PLT_LOCK_SCOPE(&c->lock);
	b = plt_slot_find(c, eng, off) ? NULL : plt_slot_take(c, false);
	if (!b)
		return NULL;
	plt_slot_init(b, eng->img, type, PLT_BLOCK_LOADING);
	b->load_started = true;
	plt_slot_revive(b);
	plt_slot_hash(c, b, eng, off);
	return b;
}

void plt_cache_unreserve(struct plt_engine *eng, struct plt_block *b)
{
	struct plt_cache *c = eng->img->ctx->cache;

	pthread_mutex_lock(&c->lock);
	/* (somebody else may have loaded it meanwhile, or it has been forgotten) */
	if (atomic_load(&b->owner) == eng && atomic_load(&b->state) == PLT_BLOCK_LOADING) {
		plt_slot_unhash(c, b);
		atomic_store(&b->owner, NULL);
		atomic_store(&b->state, PLT_BLOCK_FREE);
		plt_io_list_wake(&b->waiters);
	}
	pthread_mutex_unlock(&c->lock);
	plt_block_unpin(b);
}

int plt_cache_load_result(struct plt_engine *eng, struct plt_block *b, struct plt_error *err)
{
	PLT_LOCK_SCOPE(&eng->img->ctx->cache->lock);
	return atomic_load(&b->state) == PLT_BLOCK_FAILED ? load_error(b, err) : 0;
}

void plt_cache_load_again(struct plt_engine *eng, struct plt_block *b)
{
	PLT_LOCK_SCOPE(&eng->img->ctx->cache->lock);
	b->load_started = false;
	plt_io_list_wake(&b->waiters);
}

bool plt_cache_load_begin(struct plt_ctx *ctx, struct plt_block *b, struct plt_io *io, bool *ret_ready)
{
	PLT_LOCK_SCOPE(&ctx->cache->lock);
	*ret_ready = false;
	if (atomic_load(&b->state) != PLT_BLOCK_LOADING) {
		*ret_ready = true;
		return false;
	}
	if (b->load_started) {
		plt_io_list_push(&b->waiters, io);
		return false;
	}
	b->load_started = true;
	return true;
}

void plt_cache_loaded(struct plt_engine *eng, struct plt_block *b, const void *buf, int error,
		      const struct plt_error *text)
{
	struct plt_error bad = PLT_ERROR_INIT;

	if (!error && b->type->validate)
		error = -b->type->validate(eng->img, plt_block_host_off(b), buf, b->len, &bad);
	PLT_LOCK_SCOPE(&eng->img->ctx->cache->lock);
	if (atomic_load(&b->state) != PLT_BLOCK_LOADING)
		return; /* somebody was faster */
	if (error) {
		b->load_error = error;
		b->load_text = bad.code ? bad : text ? *text : bad;
		atomic_store(&b->state, PLT_BLOCK_FAILED);
	} else {
		memcpy(b->data, buf, b->len);
		atomic_store_explicit(&b->state, PLT_BLOCK_VALID, memory_order_release);
	}
	b->load_started = false;
	plt_io_list_wake(&b->waiters);
}

/* ---- content --------------------------------------------------------------------------------- */

uint8_t *plt_block_data(struct plt_block *b)
{
	return b->data;
}

uint64_t plt_block_host_off(const struct plt_block *b)
{
	return atomic_load_explicit(&b->off, memory_order_relaxed);
}

uint64_t plt_block_get64(const struct plt_block *b, unsigned index)
{
	return plt_be64_to_cpu(__atomic_load_n((const uint64_t *)b->data + index, __ATOMIC_ACQUIRE));
}

void plt_block_set64(struct plt_block *b, unsigned index, uint64_t value)
{
	__atomic_store_n((uint64_t *)b->data + index, plt_cpu_to_be64(value), __ATOMIC_RELEASE);
}

unsigned plt_block_read_begin(const struct plt_block *b)
{
	unsigned seq;

	while ((seq = atomic_load_explicit(&b->seq, memory_order_acquire)) & 1)
		;
	return seq;
}

bool plt_block_read_retry(const struct plt_block *b, unsigned seq)
{
	/* plt_block_get64() is an acquire load: this one cannot move before it */
	return atomic_load_explicit(&b->seq, memory_order_acquire) != seq;
}

void plt_block_write_begin(struct plt_block *b)
{
	atomic_fetch_add_explicit(&b->seq, 1, memory_order_acq_rel);
}

void plt_block_write_end(struct plt_block *b)
{
	atomic_fetch_add_explicit(&b->seq, 1, memory_order_release);
}
