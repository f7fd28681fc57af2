/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Queues and frames: how a request lives on one thread.  A queue owns a ring, the frames and
 * operations of its requests, and a list of frames that somebody has woken.  Only the owner runs
 * steps; any thread wakes.  A frame is finished exactly once, when nothing of it is pending and its
 * step says so; it then gives back all it holds, tells its parent, and returns to the free list.
 */
#include <assert.h>
#include <string.h>

#include "block/engine.h"

int plt_queue_new(struct plt_ctx *ctx, struct plt_ring *ring, bool is_inline, struct plt_queue **ret)
{
	struct plt_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->ctx = ctx;
	q->ring = ring;
	q->is_inline = is_inline;
	pthread_mutex_init(&q->lock, NULL);
	*ret = q;
	return 0;
}

void plt_queue_free(struct plt_queue *q)
{
	if (!q)
		return;
	assert(!q->live);
	plt_ring_free(q->ring);
	while (q->free_ios) {
		struct plt_io *io = q->free_ios;

		q->free_ios = io->next;
		free(io);
	}
	while (q->free_ops) {
		struct plt_io_op *iop = q->free_ops;

		q->free_ops = iop->next_free;
		free(iop);
	}
	plt_queue_free_slots(q);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

struct plt_queue *plt_ctx_take_queue(struct plt_ctx *ctx)
{
	struct plt_queue *q;
	struct plt_ring *ring;

	pthread_mutex_lock(&ctx->lock);
	q = ctx->idle_queues;
	if (q)
		ctx->idle_queues = q->next;
	pthread_mutex_unlock(&ctx->lock);
	if (q)
		return q;
	if (plt_ring_inline_new(&ring) < 0)
		return NULL;
	if (plt_queue_new(ctx, ring, true, &q) < 0) {
		plt_ring_free(ring);
		return NULL;
	}
	return q;
}

void plt_ctx_give_queue(struct plt_ctx *ctx, struct plt_queue *q)
{
	PLT_LOCK_SCOPE(&ctx->lock);
	q->next = ctx->idle_queues;
	ctx->idle_queues = q;
}

void plt_queue_poll(struct plt_queue *q, bool wait)
{
	struct plt_io *io;
	bool ran = false;

	for (;;) {
		pthread_mutex_lock(&q->lock);
		io = plt_io_list_pop(&q->ready);
		if (io)
			io->woken = false;
		pthread_mutex_unlock(&q->lock);
		if (!io)
			break;
		ran = true;
		io->step(io);
	}
	plt_ring_kick(q->ring);
	plt_ring_reap(q->ring, wait && !ran);
}

/* ---- frames ---------------------------------------------------------------------------------- */

struct plt_io *plt_io_new(struct plt_queue *q, struct plt_io *parent, struct plt_image *img, enum plt_io_kind kind)
{
	static void (*const steps[])(struct plt_io *) = {
		[PLT_IO_READ_REQ] = plt_read_step,
		[PLT_IO_WRITE_REQ] = plt_write_step,
		[PLT_IO_COMPRESSED_REQ] = plt_compressed_step,
		[PLT_IO_COPY_REQ] = plt_write_step,
		[PLT_IO_ZERO_REQ] = plt_zero_step,
		[PLT_IO_DISCARD_REQ] = plt_discard_step,
		[PLT_IO_FLUSH_REQ] = plt_flush_step,
		[PLT_IO_RESIZE_REQ] = plt_resize_step,
		[PLT_IO_VMSTATE_REQ] = plt_vmstate_step,
		[PLT_IO_EXCLUSIVE_REQ] = plt_exclusive_step,
	};
	struct plt_io *io = q->free_ios;

	if (io)
		q->free_ios = io->next;
	else if (!(io = malloc(sizeof(*io))))
		return NULL;
	/* the arrays are not worth clearing for each request */
	memset(io, 0, offsetof(struct plt_io, run));
	memset(&io->runs, 0, sizeof(*io) - offsetof(struct plt_io, runs));
	io->err.text[0] = 0;
	io->q = q;
	io->parent = parent;
	io->img = img;
	io->eng = img->engine;
	io->kind = kind;
	io->step = kind < PLT_ARRAY_SIZE(steps) ? steps[kind] : NULL;
	io->all_zero = true;
	io->runs.v = io->run;
	io->runs.cap = PLT_IO_RUNS;
	if (parent)
		io->pins.privileged = parent->pins.privileged && parent->eng == io->eng;
	return io;
}

void plt_io_free(struct plt_io *io)
{
	io->step = NULL; /* a step after the end is a bug that shows */
	io->next = io->q->free_ios;
	io->q->free_ios = io;
}

/* The queues of this thread that have requests in flight. */
static _Thread_local struct plt_queue *busy;

static void live_add(struct plt_io *io)
{
	struct plt_queue *q = io->q;

	if (!q->live) {
		q->busy_next = busy;
		busy = q;
	}
	io->live_next = q->live;
	if (q->live)
		q->live->live_prev = &io->live_next;
	io->live_prev = &q->live;
	q->live = io;
}

static void live_remove(struct plt_io *io)
{
	struct plt_queue *q = io->q, **p = &busy;

	*io->live_prev = io->live_next;
	if (io->live_next)
		io->live_next->live_prev = io->live_prev;
	io->live_prev = NULL;
	if (q->live)
		return;
	while (*p != q)
		p = &(*p)->busy_next; /* it is there: the thread is the one that started them */
	*p = q->busy_next;
}

bool plt_queue_busy_with(const struct plt_image *img)
{
	for (const struct plt_queue *q = busy; q; q = q->busy_next)
		for (const struct plt_io *io = q->live; io; io = io->live_next)
			for (const struct plt_image *i = io->img; i; i = i->engine->backing)
				if (i == img)
					return true;
	return false;
}

void plt_io_start(struct plt_io *io)
{
	if (!io->parent && !io->q->is_inline)
		live_add(io);
	io->step(io);
}

void plt_io_wake(struct plt_io *io)
{
	struct plt_queue *q = io->q;

	pthread_mutex_lock(&q->lock);
	if (!io->woken) {
		io->woken = true;
		plt_io_list_push(&q->ready, io);
	}
	/* under the lock: once the frame can be found, its owner may run it and free the queue */
	plt_ring_wake(q->ring);
	pthread_mutex_unlock(&q->lock);
}

void plt_io_fail(struct plt_io *io, int error, const struct plt_error *text)
{
	if (io->result)
		return;
	io->result = error < 0 ? error : -error;
	if (text && text->code)
		io->err = *text;
}

void plt_io_release(struct plt_io *io)
{
	plt_pins_drop(&io->pins);
	if (io->pins.privileged)
		plt_cache_slot_done(io);
	plt_io_leave(io);
	plt_range_unlock(io);
}

void plt_io_placed(struct plt_io *io)
{
	void (*fn)(void *) = io->on_place;

	io->on_place = NULL;
	if (fn)
		fn(io->on_place_arg);
}

bool plt_io_changes_guest(const struct plt_io *io)
{
	return io->kind != PLT_IO_READ_REQ && io->kind != PLT_IO_FLUSH_REQ && io->kind != PLT_IO_RESIZE_REQ &&
	       io->kind != PLT_IO_VMSTATE_REQ && io->kind != PLT_IO_EXCLUSIVE_REQ;
}

void plt_io_finish(struct plt_io *io)
{
	struct plt_io *parent = io->parent;

	assert(!io->pending);
	plt_io_share(io);
	plt_io_release(io);
	plt_io_placed(io);
	free(io->head_buf);
	free(io->tail_buf);
	free(io->comp_buf);
	free(io->copy_buf);
	if (!parent && plt_io_changes_guest(io) && io->img->drv->written && !io->img->shows_same)
		io->img->drv->written(io->img, io->off, io->len);
	if (io->live_prev)
		live_remove(io);
	if (io->done)
		io->done(io);
	if (parent) {
		if (io->result)
			plt_io_fail(parent, io->result, &io->err);
		if (!io->all_zero)
			parent->all_zero = false;
	}
	plt_io_free(io);
	if (parent && --parent->pending == 0)
		parent->step(parent);
}

struct plt_io *plt_io_child(struct plt_io *io, struct plt_image *img, enum plt_io_kind kind, uint64_t off,
			    uint64_t len)
{
	struct plt_io *c = plt_io_new(io->q, io, img, kind);

	if (!c) {
		plt_io_fail(io, ENOMEM, NULL);
		return NULL;
	}
	c->off = c->pos = off;
	c->len = len;
	io->pending++;
	return c;
}

/* ---- operations ------------------------------------------------------------------------------ */

static void op_done(struct plt_op *op)
{
	struct plt_io_op *iop = (struct plt_io_op *)op;
	struct plt_io *io = iop->io;

	if (op->result < 0 && !iop->block)
		plt_io_fail(io, op->result, &iop->err);
	if (iop->fn)
		iop->fn(io, iop);
	plt_io_op_drop(iop);
	if (--io->pending == 0)
		io->step(io);
}

struct plt_io_op *plt_io_op_new(struct plt_io *io, void (*fn)(struct plt_io *, struct plt_io_op *))
{
	struct plt_io_op *iop = io->q->free_ops;

	if (iop)
		io->q->free_ops = iop->next_free;
	else if (!(iop = malloc(sizeof(*iop)))) {
		plt_io_fail(io, ENOMEM, NULL);
		return NULL;
	}
	memset(&iop->op, 0, sizeof(iop->op));
	iop->io = io;
	iop->fn = fn;
	iop->iov_heap = NULL;
	iop->buf = NULL;
	iop->block = NULL;
	iop->ahead = NULL;
	iop->work = NULL;
	iop->err.code = 0;
	iop->err.text[0] = 0;
	iop->op.err = &iop->err;
	iop->op.done = op_done;
	return iop;
}

void plt_io_op_drop(struct plt_io_op *iop)
{
	struct plt_queue *q = iop->io->q;

	free(iop->iov_heap);
	free(iop->buf);
	free(iop->ahead);
	iop->next_free = q->free_ops;
	q->free_ops = iop;
}

void plt_io_op_submit(struct plt_io_op *iop)
{
	iop->io->pending++;
	plt_ring_submit(iop->io->q->ring, &iop->op);
}

void plt_io_submit_data(struct plt_io *io, enum plt_op_kind kind, struct plt_store *st, uint64_t host_off,
			uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	size_t at = io->iov_off + (size_t)(off - io->off);
	struct plt_io_op *iop = plt_io_op_new(io, NULL);
	struct iovec *v;
	int n;

	if (!iop)
		return;
	n = plt_iov_slice_count(io->iov, io->niov, at, len);
	v = iop->iov;
	if (n > PLT_OP_IOVS) {
		v = iop->iov_heap = malloc((size_t)n * sizeof(*v));
		if (!v) {
			iop->next_free = io->q->free_ops;
			io->q->free_ops = iop;
			plt_io_fail(io, ENOMEM, NULL);
			return;
		}
	}
	iop->op.niov = plt_iov_slice(io->iov, io->niov, at, len, v);
	iop->op.iov = v;
	iop->op.kind = kind;
	iop->op.tag = tag;
	iop->op.store = st;
	iop->op.off = host_off;
	iop->op.len = len;
	plt_io_op_submit(iop);
}

int plt_io_op_call(struct plt_op *op)
{
	struct plt_io_op *iop = (struct plt_io_op *)op;

	return iop->work(iop->io, iop);
}

void plt_io_call(struct plt_io *io, int (*work)(struct plt_io *, struct plt_io_op *),
		 void (*fn)(struct plt_io *, struct plt_io_op *))
{
	struct plt_io_op *iop = plt_io_op_new(io, fn);

	if (!iop) {
		plt_io_wake(io); /* it has failed: let its step see that */
		return;
	}
	iop->op.kind = PLT_OP_CALL;
	iop->op.call = plt_io_op_call;
	iop->work = work;
	plt_io_op_submit(iop);
}
