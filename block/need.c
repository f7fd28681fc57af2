/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Meeting needs: what a driver's map or place asked for with -EAGAIN.  A load, a slot or a write-back
 * is I/O and is awaited inside the epoch, with the pins kept.  Draining the limbo and work of the
 * driver are not: the frame gives up everything it holds, waits, and starts again from map.
 *
 * Whatever the way, the frame's step is called again when the need has been met or has failed (then
 * io->result is set).
 */
#include <assert.h>

#include "base/alloc.h"
#include "block/engine.h"

enum { MEET_NONE, MEET_LIMBO_DRAIN, MEET_LIMBO_RELEASE, MEET_GATE, MEET_GATE_WORK };

/* ---- load ------------------------------------------------------------------------------------ */

static void loaded(struct plt_io *io, struct plt_io_op *iop)
{
	plt_ahead_end(io->img, iop->block, iop->ahead, iop->buf, -iop->op.result, &iop->err);
}

static void meet_load(struct plt_io *io)
{
	struct plt_block *b = io->need.block;
	struct plt_io_op *iop;
	size_t len = 0;
	bool ready;

	if (!plt_cache_load_begin(io->q->ctx, b, io, &ready)) {
		if (ready)
			io->step(io);
		return;
	}
	iop = plt_io_op_new(io, loaded);
	if (iop) {
		len = plt_ahead_begin(io->img, b, &iop->ahead);
		iop->buf = plt_alloc_io(len);
	}
	if (!iop || !iop->buf) {
		plt_ahead_end(io->img, b, iop ? iop->ahead : NULL, NULL, ENOMEM, NULL);
		if (iop)
			plt_io_op_drop(iop);
		plt_io_fail(io, ENOMEM, NULL);
		io->step(io);
		return;
	}
	iop->block = b;
	iop->iov[0] = (struct iovec){ iop->buf, len };
	iop->op.iov = iop->iov;
	iop->op.niov = 1;
	iop->op.kind = PLT_OP_READ;
	iop->op.tag = b->type->tag;
	iop->op.store = io->img->file;
	iop->op.off = plt_block_host_off(b);
	iop->op.len = len;
	plt_io_op_submit(iop);
}

/* ---- slot, write-back ------------------------------------------------------------------------ */

static int make_room(struct plt_io *io, struct plt_io_op *iop)
{
	(void)iop;
	/*
	 * What cannot be written back is no failure of this request, which may be a read: a flush will
	 * report it.  Then there is no room, and the next try stands in line.
	 */
	(void)plt_cache_make_room(io->eng, NULL);
	return 0;
}

static void meet_slot(struct plt_io *io)
{
	if (io->slot_tries++ == 0) {
		plt_io_call(io, make_room, NULL);
		return;
	}
	/* all slots are pinned by others: wait in line for the privilege to go beyond the budget */
	io->slot_tries = 0;
	plt_io_release(io);
	io->state = 0;
	if (plt_cache_slot_wait(io))
		plt_io_wake(io);
}

static int write_back(struct plt_io *io, struct plt_io_op *iop)
{
	return plt_meta_flush(io->img, false, &iop->err);
}

/* ---- limbo ----------------------------------------------------------------------------------- */

static int limbo_flush(struct plt_io *io, struct plt_io_op *iop)
{
	/* taken first: what is in limbo now was dirty before the flush begins */
	int r;

	plt_limbo_take(io->img, &io->limbo, &io->nlimbo);
	if (io->img->rules_off >> PLT_RULE_LIMBO_DURABLE & 1) {
		r = plt_limbo_release(io->img, io->limbo, io->nlimbo, &iop->err);
		io->limbo = NULL;
		io->nlimbo = 0;
		if (r < 0)
			return r;
	}
	return plt_image_flush(io->img, &iop->err);
}

static int limbo_release(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_limbo_entry *v = io->limbo;

	io->limbo = NULL;
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return plt_limbo_release(io->img, v, io->nlimbo, &iop->err);
}

static void limbo_step(struct plt_io *io);

static void limbo_end(struct plt_io *io, void (*step)(struct plt_io *))
{
	io->state = 0;
	io->step = step;
	io->step(io);
}

/*
 * The frame's step is replaced while the limbo is drained.  The states run in order; each is entered
 * when the one before has completed.
 */
static void limbo_step(struct plt_io *io)
{
	void (*back)(struct plt_io *) = io->saved_step;

	if (io->result) {
		/* back to where they were: a later flush may succeed (past the bound they leak, no more) */
		pthread_mutex_lock(&io->img->lock);
		for (unsigned i = 0; io->limbo && i < io->nlimbo; i++)
			plt_limbo_add(io->img, io->limbo[i].off, io->limbo[i].len, io->limbo[i].kind);
		pthread_mutex_unlock(&io->img->lock);
		free(io->limbo);
		io->limbo = NULL;
		limbo_end(io, back);
		return;
	}
	switch (io->meet) {
	case MEET_LIMBO_DRAIN:
		io->meet = MEET_LIMBO_RELEASE;
		if (!(io->img->rules_off >> PLT_RULE_LIMBO_DRAIN & 1) && !plt_epoch_drained(io->eng, io))
			return;
		/* fall through */
	case MEET_LIMBO_RELEASE:
		io->meet = MEET_NONE;
		plt_io_call(io, limbo_release, NULL);
		return;
	default:
		limbo_end(io, back);
		return;
	}
}

void plt_io_drain_limbo(struct plt_io *io)
{
	plt_io_release(io);
	io->saved_step = io->step;
	io->step = limbo_step;
	io->meet = MEET_LIMBO_DRAIN;
	plt_io_call(io, limbo_flush, NULL);
}

bool plt_io_retry_space(struct plt_io *io)
{
	bool some;

	if (io->result != -ENOSPC || io->limbo_tried)
		return false;
	pthread_mutex_lock(&io->img->lock);
	some = io->eng->nlimbo != 0;
	pthread_mutex_unlock(&io->img->lock);
	if (!some)
		return false;
	io->limbo_tried = true;
	io->result = 0;
	io->err.code = 0;
	plt_io_drain_limbo(io);
	return true;
}

/* ---- work ------------------------------------------------------------------------------------ */

static int do_work(struct plt_io *io, struct plt_io_op *iop)
{
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return io->img->drv->work(io->img, io->need.code, io->need.arg, &iop->err);
}

static void work_step(struct plt_io *io)
{
	switch (io->meet) {
	case MEET_GATE:
		if (!plt_io_alone(io, 1))
			return;
		/* fall through */
	case MEET_GATE_WORK:
		io->meet = MEET_NONE;
		plt_io_call(io, do_work, NULL);
		return;
	default:
		plt_io_share(io);
		io->state = 0;
		io->step = io->saved_step;
		if (!plt_io_retry_space(io))
			io->step(io);
	}
}

static void meet_work(struct plt_io *io)
{
	plt_io_release(io);
	io->saved_step = io->step;
	io->step = work_step;
	io->meet = io->need.exclusive && !plt_io_under_gate(io) ? MEET_GATE : MEET_GATE_WORK;
	io->step(io);
}

void plt_io_meet(struct plt_io *io)
{
	if (io->need.kind != PLT_NEED_SLOT)
		io->slot_tries = 0;
	switch (io->need.kind) {
	case PLT_NEED_LOAD:
		meet_load(io);
		return;
	case PLT_NEED_SLOT:
		meet_slot(io);
		return;
	case PLT_NEED_WRITEBACK:
		plt_io_call(io, write_back, NULL);
		return;
	case PLT_NEED_LIMBO:
		plt_io_drain_limbo(io);
		return;
	case PLT_NEED_WORK:
		meet_work(io);
		return;
	case PLT_NEED_NONE:
		break;
	}
	assert(!"a driver returned -EAGAIN without a need");
}
