/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Room in the metadata cache: who waits for a slot, in which order, what is written back to make one clean, and
 * what goes when an image closes or its blocks mean nothing any more.  One request of each depth may take slots
 * beyond the budget, so the deepest always moves; the next that waits is the next to have that right.
 */
#include "block/slots.h"

bool plt_cache_slot_wait(struct plt_io *io)
{
	struct plt_cache *c = io->q->ctx->cache;
	struct plt_cache_privilege *p = &c->priv[io->eng->depth];

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
	struct plt_cache_privilege *p = &c->priv[io->eng->depth];

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
		plt_slot_unhash(c, b);
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
		b = plt_slot_find(c, img->engine, off);
		if (b) {
			plt_slot_unhash(c, b);
			plt_block_discard(b);
			atomic_store(&b->owner, NULL);
		}
		pthread_mutex_unlock(&c->lock);
	}
}
