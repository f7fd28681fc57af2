/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BLOCK_SLOTS_H
#define PLT_BLOCK_SLOTS_H

/*
 * The slots of the metadata cache, for the files that are the cache: slots.c finds, evicts and makes them,
 * metacache.c hands out what is in them, cache_room.c waits for one.  All but the two inlines want cache.lock.
 */
#include "block/engine.h"

struct plt_cache_chunk;

struct plt_cache_privilege {
	struct plt_io *holder;
	struct plt_io_list waiting;
};

struct plt_cache {
	pthread_mutex_t lock;
	pthread_cond_t idle;        /* some engine.users fell to 0 */
	struct plt_block *_Atomic *bucket;
	uint64_t bucket_mask;
	uint64_t budget;            /* slots */
	uint64_t nslots;            /* without overflow ones */
	uint64_t noverflow;
	struct plt_block *all;      /* every slot */
	struct plt_cache_chunk *chunks;       /* where they lie; the first one has room, if any has */
	struct plt_block *hand;     /* clock */
	struct plt_cache_privilege priv[PLT_MAX_DEPTH + 1];
};

static inline struct plt_block *_Atomic *plt_slot_bucket(struct plt_cache *c, const struct plt_engine *eng,
							 uint64_t off)
{
	uint64_t h = (off >> 9) * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)eng * UINT64_C(0xc2b2ae3d27d4eb4f);

	return &c->bucket[(h ^ h >> 29) >> 7 & c->bucket_mask];
}

static inline bool plt_slot_is(struct plt_block *b, const struct plt_engine *eng, uint64_t off)
{
	/* the offset is stored first: with the owner that goes with it, it cannot be of an earlier block */
	return atomic_load_explicit(&b->owner, memory_order_acquire) == eng &&
	       atomic_load_explicit(&b->off, memory_order_relaxed) == off;
}

/* The block of @eng at @off, in whatever state, or NULL. */
struct plt_block *plt_slot_find(struct plt_cache *c, const struct plt_engine *eng, uint64_t off);
/* A slot that is dead: found by nobody, and nobody's; NULL: all are in use, and the budget is spent. */
struct plt_block *plt_slot_take(struct plt_cache *c, bool privileged);
/* What it will hold, before plt_slot_revive() and plt_slot_hash(): in use with one pin, then found. */
void plt_slot_init(struct plt_block *b, struct plt_image *img, const struct plt_meta_type *type, int state);
void plt_slot_revive(struct plt_block *b);
void plt_slot_hash(struct plt_cache *c, struct plt_block *b, struct plt_engine *eng, uint64_t off);
void plt_slot_unhash(struct plt_cache *c, struct plt_block *b);

#endif
