/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The metadata cache: slots of PLT_SLICE bytes, shared by all images of a context.
 *
 * A slot is found through a hash of (image, offset).  A hit takes no lock: the reader walks the
 * chain with atomic loads, counts itself in `pins`, and then looks at the key again.  A slot is
 * evicted only by changing pins from 0 to PLT_BLOCK_DEAD, so a pin taken before keeps the content,
 * and one taken after sees DEAD and is given back.  Slots are never freed while the cache lives, so
 * a walk that strays is harmless.  Everything else (insertion, eviction, loads) is under cache.lock.
 *
 * Evicted is only what is clean, names no edge that still waits for it, and would be read back as
 * it was: a block written since the last good sync of a store whose sync has failed stays.
 *
 * What is dirty, and in which order it reaches the disk, is writeback.c's.
 */
#include <assert.h>

#include "base/alloc.h"
#include "block/engine.h"

struct privilege {
	struct plt_io *holder;
	struct plt_io_list waiting;
};

/* Slots are made a few at a time: alone each would cost a page more, for its alignment. */
#define CHUNK 16
struct chunk {
	struct chunk *next;
	uint8_t *data; /* CHUNK slices */
	unsigned used;
	struct plt_block slot[CHUNK];
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
	struct chunk *chunks;       /* where they lie; the first one has room, if any has */
	struct plt_block *hand;     /* clock */
	struct privilege priv[PLT_MAX_DEPTH + 1];
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
		struct chunk *k = c->chunks;

		c->chunks = k->next;
		free(k->data);
		free(k);
	}
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->idle);
	free(c->bucket);
	free(c);
}

static struct plt_block *_Atomic *bucket_of(struct plt_cache *c, const struct plt_engine *eng, uint64_t off)
{
	uint64_t h = (off >> 9) * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)eng * UINT64_C(0xc2b2ae3d27d4eb4f);

	return &c->bucket[(h ^ h >> 29) >> 7 & c->bucket_mask];
}

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

static bool key_is(struct plt_block *b, const struct plt_engine *eng, uint64_t off)
{
	/* the offset is stored first: with the owner that goes with it, it cannot be of an earlier block */
	return atomic_load_explicit(&b->owner, memory_order_acquire) == eng &&
	       atomic_load_explicit(&b->off, memory_order_relaxed) == off;
}

static struct plt_block *pins_find(struct plt_pins *pins, const struct plt_engine *eng, uint64_t off)
{
	for (unsigned i = 0; i < pins->n; i++)
		if (key_is(pins->b[i], eng, off))
			return pins->b[i];
	return NULL;
}

/* A pinned, valid block without any lock, or NULL: look again with the lock. */
static struct plt_block *find_unlocked(struct plt_cache *c, const struct plt_engine *eng, uint64_t off)
{
	struct plt_block *b = atomic_load_explicit(bucket_of(c, eng, off), memory_order_acquire);

	for (unsigned steps = 0; b && steps < 64; steps++) {
		if (key_is(b, eng, off)) {
			uint32_t old = atomic_fetch_add_explicit(&b->pins, 1, memory_order_acquire);

			if (!(old & PLT_BLOCK_DEAD) && key_is(b, eng, off) &&
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

static struct plt_block *find_locked(struct plt_cache *c, const struct plt_engine *eng, uint64_t off)
{
	struct plt_block *b = atomic_load_explicit(bucket_of(c, eng, off), memory_order_relaxed);

	while (b && !key_is(b, eng, off))
		b = atomic_load_explicit(&b->hash_next, memory_order_relaxed);
	return b;
}

static void hash_remove(struct plt_cache *c, struct plt_block *b)
{
	struct plt_block *_Atomic *p = bucket_of(c, atomic_load(&b->owner), atomic_load(&b->off));

	for (struct plt_block *i; (i = atomic_load_explicit(p, memory_order_relaxed)); p = &i->hash_next)
		if (i == b) {
			atomic_store_explicit(p, atomic_load_explicit(&b->hash_next, memory_order_relaxed),
					      memory_order_release);
			return;
		}
}

static void hash_insert(struct plt_cache *c, struct plt_block *b, struct plt_engine *eng, uint64_t off)
{
	struct plt_block *_Atomic *p = bucket_of(c, eng, off);

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
		hash_remove(c, b);
		atomic_store(&b->owner, NULL);
	}
	return true;
}

static struct plt_block *slot_make(struct plt_cache *c, bool overflow)
{
	struct chunk *k = c->chunks;
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
static struct plt_block *slot_take(struct plt_cache *c, bool privileged)
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

static void slot_init(struct plt_block *b, struct plt_image *img, const struct plt_meta_type *type, int state)
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
static void slot_revive(struct plt_block *b)
{
	atomic_fetch_add(&b->pins, 1);
	atomic_fetch_and(&b->pins, ~PLT_BLOCK_DEAD);
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
	b = find_locked(c, eng, off);
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
	b = slot_take(c, pins->privileged);
	if (!b) {
		*need = (struct plt_need){ .kind = PLT_NEED_SLOT };
		return pins->privileged ? plt_error_set(err, ENOMEM, "out of memory") : -EAGAIN;
	}
	slot_init(b, img, type, PLT_BLOCK_LOADING);
	slot_revive(b);
	hash_insert(c, b, eng, off);
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
		if (key_is(pins->b[i], img->engine, off) &&
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
	b = find_locked(c, eng, off);
	if (b) {
		atomic_fetch_add(&b->pins, 1);
		b->type = type;
		atomic_store(&b->state, PLT_BLOCK_VALID);
		plt_io_list_wake(&b->waiters);
	} else {
		b = slot_take(c, pins->privileged);
		if (!b) {
			*need = (struct plt_need){ .kind = PLT_NEED_SLOT };
			return pins->privileged ? -ENOMEM : -EAGAIN;
		}
		slot_init(b, img, type, PLT_BLOCK_VALID);
		slot_revive(b);
		hash_insert(c, b, eng, off);
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
	b = find_locked(c, eng, off) ? NULL : slot_take(c, false);
	if (!b)
		return NULL;
	slot_init(b, eng->img, type, PLT_BLOCK_LOADING);
	b->load_started = true;
	slot_revive(b);
	hash_insert(c, b, eng, off);
	return b;
}

void plt_cache_unreserve(struct plt_engine *eng, struct plt_block *b)
{
	struct plt_cache *c = eng->img->ctx->cache;

	pthread_mutex_lock(&c->lock);
	/* (somebody else may have loaded it meanwhile, or it has been forgotten) */
	if (atomic_load(&b->owner) == eng && atomic_load(&b->state) == PLT_BLOCK_LOADING) {
		hash_remove(c, b);
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

uint64_t plt_cache_budget(const struct plt_ctx *ctx)
{
	return ctx->cache->budget;
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

/* ---- room ------------------------------------------------------------------------------------ */

bool plt_cache_slot_wait(struct plt_io *io)
{
	struct plt_cache *c = io->q->ctx->cache;
	struct privilege *p = &c->priv[io->eng->depth];

	PLT_LOCK_SCOPE(&c->lock);
	if (!p->holder) {
		p->holder = io;
		io->pins.privileged = true;
		return true;
	}
	plt_io_list_push(&p->waiting, io);
	return false;
}

void plt_cache_slot_done(struct plt_io *io)
{
	struct plt_cache *c = io->q->ctx->cache;
	struct privilege *p = &c->priv[io->eng->depth];

	PLT_LOCK_SCOPE(&c->lock);
	io->pins.privileged = false;
	if (p->holder != io)
		return; /* it had it through its parent */
	p->holder = plt_io_list_pop(&p->waiting);
	if (p->holder) {
		p->holder->pins.privileged = true;
		plt_io_wake(p->holder);
	}
}

int plt_cache_make_room(struct plt_engine *eng, struct plt_error *err)
{
	struct plt_cache *c = eng->img->ctx->cache;
	struct plt_engine *victim = NULL;
	int r;

	if (plt_meta_is_dirty(eng->img))
		return plt_meta_flush(eng->img, false, err);
	pthread_mutex_lock(&c->lock);
	for (struct plt_block *b = c->all; b && !victim; b = b->all_next) {
		struct plt_engine *o = atomic_load(&b->owner);

		if (o && o->depth >= eng->depth && !o->retired && atomic_load(&b->dirty))
			victim = o;
	}
	if (victim)
		victim->users++;
	pthread_mutex_unlock(&c->lock);
	if (!victim)
		return 0;
	/* that image's trouble is not ours: its own flush will report it */
	r = plt_meta_flush(victim->img, false, NULL);
	(void)r;
	pthread_mutex_lock(&c->lock);
	if (--victim->users == 0)
		pthread_cond_broadcast(&c->idle);
	pthread_mutex_unlock(&c->lock);
	return 0;
}

void plt_cache_retire(struct plt_ctx *ctx, struct plt_engine *eng)
{
	struct plt_cache *c = ctx->cache;

	PLT_LOCK_SCOPE(&c->lock);
	eng->retired = true;
	while (eng->users)
		pthread_cond_wait(&c->idle, &c->lock);
}

void plt_cache_drop_image(struct plt_ctx *ctx, struct plt_engine *eng)
{
	struct plt_cache *c = ctx->cache;

	PLT_LOCK_SCOPE(&c->lock);
	while (eng->users) /* an image whose driver did not open was not retired, and has had no users */
		pthread_cond_wait(&c->idle, &c->lock);
	for (struct plt_block *b = c->all; b; b = b->all_next) {
		if (atomic_load(&b->owner) != eng)
			continue;
		hash_remove(c, b);
		atomic_store(&b->owner, NULL);
		atomic_store(&b->dirty, false);
		atomic_store(&b->dependents, 0);
		atomic_store(&b->state, PLT_BLOCK_FREE);
		b->nedges = 0;
	}
}

void plt_meta_forget(struct plt_image *img, uint64_t host_off, uint64_t len)
{
	struct plt_cache *c = img->ctx->cache;

	PLT_LOCK_SCOPE(&img->engine->flush_lock); /* a late write-back would hit what comes next */
	PLT_LOCK_SCOPE_2(&img->lock, image);
	for (uint64_t off = plt_align_down(host_off, img->slice); off < host_off + len; off += img->slice) {
		struct plt_block *b;

		pthread_mutex_lock(&c->lock);
		b = find_locked(c, img->engine, off);
		if (b) {
			hash_remove(c, b);
			plt_block_discard(b);
			atomic_store(&b->owner, NULL);
		}
		pthread_mutex_unlock(&c->lock);
	}
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
