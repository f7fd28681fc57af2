/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Epochs and gates: when what a request has found in the map may be taken back.
 *
 * Every request enters its image's epoch before map and leaves it after completion.  Whoever revokes
 * mappings first changes the state in memory, then waits until all that entered before have left
 * (a drain), then goes on.  Two counters do: a drain turns the page, so that newcomers count
 * themselves on the other one, and waits for the old one to fall to zero; the next drain starts only
 * then.
 *
 * The gate makes an operation exclusive: while it is closed, frames that would change something (at
 * level 2: all frames) park instead of entering, with nothing in their hands.  Its owner drains and
 * has the image for itself.
 */
#include <assert.h>

#include "block/engine.h"

/* ---- lists of waiting frames ----------------------------------------------------------------- */

void plt_io_list_push(struct plt_io_list *l, struct plt_io *io)
{
	if (!l->head)
		l->tail = &l->head;
	io->next = NULL;
	*l->tail = io;
	l->tail = &io->next;
}

struct plt_io *plt_io_list_pop(struct plt_io_list *l)
{
	struct plt_io *io = l->head;

	if (io) {
		l->head = io->next;
		io->next = NULL;
	}
	return io;
}

void plt_io_list_wake(struct plt_io_list *l)
{
	struct plt_io *io;

	while ((io = plt_io_list_pop(l)))
		plt_io_wake(io);
}

/* ---- epochs ---------------------------------------------------------------------------------- */

unsigned plt_epoch_enter(struct plt_engine *eng)
{
	for (;;) {
		uint32_t e = atomic_load(&eng->epoch);

		atomic_fetch_add(&eng->in_epoch[e & 1], 1);
		if (atomic_load(&eng->epoch) == e)
			return e & 1;
		plt_epoch_leave(eng, e & 1); /* the page was turned meanwhile */
	}
}

/* The page has been turned and the old counter is zero: wake, and start over if others came.  Lock held. */
static void drain_check(struct plt_engine *eng)
{
	while (atomic_load(&eng->draining) && !atomic_load(&eng->in_epoch[(atomic_load(&eng->epoch) - 1) & 1])) {
		plt_io_list_wake(&eng->drain_now);
		eng->drain_now = eng->drain_next;
		if (eng->drain_now.head == NULL) {
			atomic_store(&eng->draining, false);
			return;
		}
		eng->drain_next = (struct plt_io_list){ 0 };
		atomic_fetch_add(&eng->epoch, 1);
	}
}

void plt_epoch_leave(struct plt_engine *eng, unsigned which)
{
	if (atomic_fetch_sub(&eng->in_epoch[which], 1) == 1 && atomic_load(&eng->draining)) {
		PLT_LOCK_SCOPE(&eng->lock);
		drain_check(eng);
	}
}

bool plt_epoch_drained(struct plt_engine *eng, struct plt_io *io)
{
	PLT_LOCK_SCOPE(&eng->lock);
	if (atomic_load(&eng->draining)) {
		/* the drain under way does not cover those who entered after its page was turned */
		plt_io_list_push(&eng->drain_next, io);
		return false;
	}
	atomic_store(&eng->draining, true);
	uint32_t old = atomic_fetch_add(&eng->epoch, 1);
	if (!atomic_load(&eng->in_epoch[old & 1])) {
		atomic_store(&eng->draining, false);
		return true;
	}
	plt_io_list_push(&eng->drain_now, io);
	drain_check(eng); /* the last one may just have left */
	return false;
}

/* ---- gate ------------------------------------------------------------------------------------ */

bool plt_gate_close(struct plt_engine *eng, struct plt_io *io, int level)
{
	PLT_LOCK_SCOPE(&eng->lock);
	if (eng->gate_owner == io) { /* handed over by the one before */
		atomic_store(&eng->gate, level);
		return true;
	}
	if (eng->gate_owner) {
		plt_io_list_push(&eng->gate_wanted, io);
		return false;
	}
	eng->gate_owner = io;
	atomic_store(&eng->gate, level);
	return true;
}

void plt_gate_open(struct plt_engine *eng, struct plt_io *io)
{
	PLT_LOCK_SCOPE(&eng->lock);
	assert(eng->gate_owner == io);
	(void)io;
	eng->gate_owner = plt_io_list_pop(&eng->gate_wanted);
	if (eng->gate_owner) {
		plt_io_wake(eng->gate_owner);
		return; /* it stays closed for the next */
	}
	atomic_store(&eng->gate, 0);
	plt_io_list_wake(&eng->gate_parked);
	pthread_cond_broadcast(&eng->gate_opened);
}

bool plt_io_alone(struct plt_io *io, int level)
{
	if (!io->owns_gate && !plt_gate_close(io->eng, io, level))
		return false;
	io->owns_gate = true;
	if (io->drained)
		return true;
	io->drained = true; /* by the time that it is asked again */
	return plt_epoch_drained(io->eng, io);
}

void plt_io_share(struct plt_io *io)
{
	if (!io->owns_gate)
		return;
	io->owns_gate = io->drained = false;
	plt_gate_open(io->eng, io);
}

int plt_io_take_image(struct plt_io *io, int level, bool changes, bool limbo)
{
	if (io->result)
		return io->result;
	if (!io->owns_gate && changes && !plt_io_may_change(io))
		return io->result && !io->pending && !io->woken ? io->result : 0;
	if (limbo && !io->limbo_tried) {
		io->limbo_tried = true;
		plt_io_drain_limbo(io);
		return 0;
	}
	return plt_io_alone(io, level);
}

static bool changes(const struct plt_io *io)
{
	return io->kind != PLT_IO_READ_REQ;
}

bool plt_io_under_gate(const struct plt_io *io)
{
	for (const struct plt_io *p = io->parent; p && p->eng == io->eng; p = p->parent)
		if (p->owns_gate)
			return true;
	return false;
}

/* It was within the disk when it came; the disk may have shrunk since. */
static __attribute__((noinline)) void check_end(struct plt_io *io)
{
	uint64_t size = atomic_load(&io->img->size);
	struct plt_error err = PLT_ERROR_INIT;

	if (plt_in_range(io->off, io->len, size))
		return;
	if (io->kind == PLT_IO_COPY_REQ) { /* more than was asked for: the rest of a unit */
		io->len = io->off < size ? size - io->off : 0;
		return;
	}
	plt_error_set(&err, EIO, "'%s': the range %" PRIu64 "+%" PRIu64 " is beyond the disk's end (%" PRIu64 ")",
		      io->img->name, io->off, io->len, size);
	plt_io_fail(io, EIO, &err);
}

bool plt_io_enter(struct plt_io *io)
{
	struct plt_engine *eng = io->eng;
	bool locked;

	if (io->in_epoch)
		return true;
	for (;;) {
		io->epoch = plt_epoch_enter(eng);
		int gate = atomic_load(&eng->gate);
		/* a part of a request that is inside already (a copy-on-write read) may not park */
		bool inside = io->parent && io->parent->in_epoch && io->parent->eng == eng;

		if (!gate || (gate == 1 && !changes(io)) || inside || plt_io_under_gate(io)) {
			io->in_epoch = true;
			if (!inside)
				check_end(io);
			return true;
		}
		plt_epoch_leave(eng, io->epoch);
		locked = io->has_range;
		plt_io_release(io);
		pthread_mutex_lock(&eng->lock);
		if (atomic_load(&eng->gate)) {
			plt_io_list_push(&eng->gate_parked, io);
			pthread_mutex_unlock(&eng->lock);
			return false;
		}
		pthread_mutex_unlock(&eng->lock); /* opened meanwhile */
		if (locked) { /* what it had has been given up: it must start again */
			plt_io_wake(io);
			return false;
		}
	}
}

void plt_io_leave(struct plt_io *io)
{
	if (io->in_epoch) {
		io->in_epoch = false;
		plt_epoch_leave(io->eng, io->epoch);
	}
}

unsigned plt_epoch_enter_wait(struct plt_engine *eng)
{
	for (;;) {
		unsigned which = plt_epoch_enter(eng);

		if (atomic_load(&eng->gate) < 2)
			return which;
		plt_epoch_leave(eng, which);
		PLT_LOCK_SCOPE(&eng->lock);
		while (atomic_load(&eng->gate) == 2)
			pthread_cond_wait(&eng->gate_opened, &eng->lock);
	}
}
