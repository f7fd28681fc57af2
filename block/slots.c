/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The slots of the metadata cache: PLT_SLICE bytes each, shared by all images of a context.
 *
 * A slot is found through a hash of (image, offset).  It is evicted only by changing pins from 0 to PLT_BLOCK_DEAD,
 * so a pin taken before keeps the content, and one taken after sees DEAD and is given back.  Slots are never freed
 * while the cache lives, so a walk without the lock that strays is harmless.
 *
 * Evicted is only what is clean, names no edge that still waits for it, and would be read back as it was: a block
 * written since the last good sync of a store whose sync has failed stays.
 */
#include "base/alloc.h"
#include "block/slots.h"

/* Slots are made a few at a time: alone each would cost a page more, for its alignment. */
#define CHUNK 16
struct plt_cache_chunk {
	struct plt_cache_chunk *next;
	uint8_t *data; /* CHUNK slices */
	unsigned used;
	struct plt_block slot[CHUNK];
};

int plt_cache_new(struct plt_ctx *ctx, uint64_t bytes, struct plt_cache **ret)
{
	struct plt_cache *c = calloc(1, sizeof(*c));
	uint64_t n = 64;

	(void)ctx;
	if (!c)
		return -ENOMEM;
	c->budget = PLT_MAX(bytes / PLT_SLICE, (uint64_t)64);
	while (n < c->budget && n < UINT64_C(1) << 22)
		n *= 2;
	c->bucket_mask = n - 1;
	c->bucket = calloc(n, sizeof(*c->bucket));
	if (!c->bucket) {
		free(c);
		return -ENOMEM;
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->idle, NULL);
	*ret = c;
	return 0;
}

void plt_cache_free(struct plt_cache *c)
{
	if (!c)
		return;
	while (c->chunks) {
		struct plt_cache_chunk *k = c->chunks;

		c->chunks = k->next;
		free(k->data);
		free(k);
	}
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->idle);
	free(c->bucket);
	free(c);
}

uint64_t plt_cache_budget(const struct plt_ctx *ctx)
{
	return ctx->cache->budget;
}

/* ---- the hash -------------------------------------------------------------------------------- */

struct plt_block *plt_slot_find(struct plt_cache *c, const struct plt_engine *eng, uint64_t off)
{
	struct plt_block *b = atomic_load_explicit(plt_slot_bucket(c, eng, off), memory_order_relaxed);

	while (b && !plt_slot_is(b, eng, off))
		b = atomic_load_explicit(&b->hash_next, memory_order_relaxed);
	return b;
}

void plt_slot_unhash(struct plt_cache *c, struct plt_block *b)
{
	struct plt_block *_Atomic *p = plt_slot_bucket(c, atomic_load(&b->owner), atomic_load(&b->off));

	for (struct plt_block *i; (i = atomic_load_explicit(p, memory_order_relaxed)); p = &i->hash_next)
		if (i == b) {
			atomic_store_explicit(p, atomic_load_explicit(&b->hash_next, memory_order_relaxed),
					      memory_order_release);
			return;
		}
}

void plt_slot_hash(struct plt_cache *c, struct plt_block *b, struct plt_engine *eng, uint64_t off)
{
	struct plt_block *_Atomic *p = plt_slot_bucket(c, eng, off);

	atomic_store_explicit(&b->off, off, memory_order_relaxed);
	atomic_store_explicit(&b->owner, eng, memory_order_release);
	atomic_store_explicit(&b->hash_next, atomic_load_explicit(p, memory_order_relaxed),
			      memory_order_release);
	atomic_store_explicit(p, b, memory_order_release);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static bool evictable(struct plt_block *b)
{
	struct plt_engine *eng = atomic_load(&b->owner);

	if (atomic_load(&b->dependents))
		return false;
	if (!eng)
		return true;
	if (atomic_load(&b->state) == PLT_BLOCK_LOADING || atomic_load(&b->dirty))
		return false;
	/* after a failed sync the page cache may hold less than we wrote: do not read it back */
	if (atomic_load(&b->written_ever) && atomic_load(&eng->img->file->sync_error) &&
	    !plt_store_durable(eng->img->file, atomic_load(&b->written_mark)))
		return false;
	return true;
}

/* Take a slot out of use: it is DEAD and in no chain afterwards. */
static bool try_evict(struct plt_cache *c, struct plt_block *b)
{
	uint32_t zero = 0;

	if (atomic_load_explicit(&b->pins, memory_order_relaxed) != 0 || !evictable(b))
		return false;
	if (!atomic_compare_exchange_strong(&b->pins, &zero, PLT_BLOCK_DEAD))
		return false;
	if (!evictable(b)) { /* it was pinned, changed and unpinned in between */
		atomic_fetch_and(&b->pins, ~PLT_BLOCK_DEAD);
		return false;
	}
	struct plt_engine *eng = atomic_load(&b->owner);
	if (eng) {
		uint64_t mark = atomic_load(&b->written_mark);

		/* read back it will look clean: edges to it must still wait for the sync */
		if (atomic_load(&b->written_ever) && !plt_store_durable(eng->img->file, mark)) {
			if (mark > atomic_load(&eng->evicted_mark))
				atomic_store(&eng->evicted_mark, mark);
			atomic_store(&eng->evicted, true);
		}
		plt_slot_unhash(c, b);
		atomic_store(&b->owner, NULL);
	}
	return true;
}

static struct plt_block *slot_make(struct plt_cache *c, bool overflow)
{
	struct plt_cache_chunk *k = c->chunks;
	struct plt_block *b;

	if (!k || k->used == CHUNK) {
		k = calloc(1, sizeof(*k));
		if (!k || !(k->data = plt_alloc_io((size_t)CHUNK * PLT_SLICE))) {
			free(k);
			return NULL;
		}
		k->next = c->chunks;
		c->chunks = k;
	}
	b = &k->slot[k->used];
	b->data = k->data + (size_t)k->used++ * PLT_SLICE;
	atomic_store(&b->pins, PLT_BLOCK_DEAD);
	b->overflow = overflow;
	b->all_next = c->all;
	c->all = b;
	if (overflow)
		c->noverflow++;
	else
		c->nslots++;
	return b;
}

/* A slot in state DEAD, or NULL.  cache.lock held. */
struct plt_block *plt_slot_take(struct plt_cache *c, bool privileged)
{
	struct plt_block *b;

	if (c->nslots < c->budget && (b = slot_make(c, false)))
		return b;
	for (uint64_t n = 2 * (c->nslots + c->noverflow) + 2; n; n--) {
		if (!c->hand)
			c->hand = c->all;
		b = c->hand;
		if (!b)
			break;
		c->hand = b->all_next;
		/* beyond the budget: only for those who may, so that the memory is theirs when needed */
		if (b->overflow && !privileged)
			continue;
		if (atomic_exchange_explicit(&b->used, false, memory_order_relaxed))
			continue;
		if (try_evict(c, b))
			return b;
	}
	return privileged ? slot_make(c, true) : NULL;
}

void plt_slot_init(struct plt_block *b, struct plt_image *img, const struct plt_meta_type *type, int state)
{
	b->type = type;
	b->len = img->slice;
	b->version = b->written = 0;
	b->dirty_seq = 0;
	b->writing = false;
	b->nedges = 0;
	b->lower_upto = 0;
	b->wanted = false;
	b->load_started = false;
	b->load_error = 0;
	b->waiters = (struct plt_io_list){ 0 };
	atomic_store(&b->written_ever, false);
	atomic_store(&b->written_mark, 0);
	atomic_store(&b->dirty, false);
	atomic_store(&b->dependents, 0);
	atomic_store(&b->seq, 0);
	atomic_store(&b->used, true);
	atomic_store(&b->state, state);
}

/* From DEAD to in use with one pin; readers that strayed here may have counts in `pins` for an instant. */
void plt_slot_revive(struct plt_block *b)
{
	atomic_fetch_add(&b->pins, 1);
	atomic_fetch_and(&b->pins, ~PLT_BLOCK_DEAD);
}
