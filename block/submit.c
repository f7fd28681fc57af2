/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The public face of queues: requests with a cookie go in, completions come out.  A request is the
 * same frame that the blocking calls run; what this file adds is the bookkeeping of the caller's
 * side, the checks of a request's shape, and the flush that follows a write which is to be durable
 * when it completes.  Invariant: each request that was taken completes exactly once, in a reap.
 */
#include "block/codec.h"
#include "block/engine.h"

#define URING_DEPTH 256

/* One request of the caller. */
struct plt_slot {
	struct plt_queue *q;
	struct plt_image *img;
	void *cookie;
	struct plt_error *err;
	bool sync;    /* followed by a flush */
	int result;
	struct plt_slot *next;
};

int plt_queue_open(struct plt_ctx *ctx, unsigned flags, struct plt_queue **ret, struct plt_error *err)
{
	struct plt_ring *ring;
	int r = flags & PLT_QUEUE_THREADS ? -ENOSYS : plt_ring_uring_new(ctx->pool, URING_DEPTH, &ring);

	if (r < 0) /* absent or forbidden */
		r = plt_ring_threads_new(ctx->pool, &ring);
	if (r < 0)
		return plt_error_errno(err, -r, "Could not set up a queue");
	r = plt_queue_new(ctx, ring, false, ret);
	if (r < 0) {
		plt_ring_free(ring);
		return plt_error_set(err, -r, "out of memory");
	}
	return 0;
}

void plt_queue_close(struct plt_queue *q)
{
	plt_queue_free(q);
}

void plt_queue_free_slots(struct plt_queue *q)
{
	while (q->free_slots) {
		struct plt_slot *s = q->free_slots;

		q->free_slots = s->next;
		free(s);
	}
}

unsigned plt_queue_pending(const struct plt_queue *q)
{
	return q->pending;
}

int plt_queue_fd(struct plt_queue *q)
{
	return q->ring->ops->fd(q->ring);
}

/* ---- completion ------------------------------------------------------------------------------ */

static void complete(struct plt_slot *s, int result)
{
	struct plt_queue *q = s->q;

	s->result = result;
	s->next = NULL;
	if (q->completed)
		q->completed_last->next = s;
	else
		q->completed = s;
	q->completed_last = s;
}

static void frame_done(struct plt_io *io)
{
	struct plt_slot *s = io->arg;
	struct plt_io *flush, *again;

	if (io->result && io->result != -ENOMEM && io->step == plt_read_step && plt_rescue_helps(s->img) &&
	    (again = plt_io_new(s->q, NULL, s->img, PLT_IO_READ_REQ))) {
		again->step = plt_rescue_step;
		again->off = again->pos = io->off;
		again->len = io->len;
		again->iov = io->iov;
		again->niov = io->niov;
		again->done = frame_done;
		again->arg = s;
		plt_io_wake(again);
		return;
	}
	if (io->result && s->err) {
		if (io->err.code)
			*s->err = io->err;
		else
			plt_error_errno(s->err, -io->result, "'%s'", s->img->name);
	}
	if (io->result || !s->sync) {
		complete(s, io->result);
		return;
	}
	s->sync = false;
	flush = plt_io_new(s->q, NULL, s->img, PLT_IO_FLUSH_REQ);
	if (!flush) { /* the data is there; that it will stay cannot be promised */
		plt_error_set(s->err, ENOMEM, "out of memory");
		complete(s, -ENOMEM);
		return;
	}
	flush->done = frame_done;
	flush->arg = s;
	plt_io_wake(flush); /* not inside the end of the frame that it follows */
}

/* ---- submission ------------------------------------------------------------------------------ */

static const enum plt_io_kind frames[] = {
	[PLT_AIO_READ] = PLT_IO_READ_REQ,
	[PLT_AIO_WRITE] = PLT_IO_WRITE_REQ,
	[PLT_AIO_WRITE_COMPRESSED] = PLT_IO_COMPRESSED_REQ,
	[PLT_AIO_WRITE_ZEROES] = PLT_IO_ZERO_REQ,
	[PLT_AIO_DISCARD] = PLT_IO_DISCARD_REQ,
	[PLT_AIO_FLUSH] = PLT_IO_FLUSH_REQ,
};

static uint64_t length(const struct plt_aio *req)
{
	switch (req->kind) {
	case PLT_AIO_WRITE_ZEROES:
	case PLT_AIO_DISCARD:
		return req->len;
	case PLT_AIO_FLUSH:
		return 0;
	default:
		return plt_iov_len(req->iov, req->niov);
	}
}

/* What is wrong with the request, if anything; *ret_flags: the frame's. */
static int check(const struct plt_aio *req, uint64_t len, unsigned *ret_flags, struct plt_error *err)
{
	int r = 0;

	*ret_flags = 0;
	if (req->kind != PLT_AIO_FLUSH)
		r = plt_image_check_range(req->disk->top, req->off, len, err);
	if (r == 0 && req->kind == PLT_AIO_WRITE_COMPRESSED)
		r = plt_image_check_compressed(req->disk, req->off, len, ret_flags, err);
	if (r == 0 && req->kind == PLT_AIO_WRITE_ZEROES)
		*ret_flags = req->flags & (PLT_ZERO_UNMAP | PLT_AIO_NO_FALLBACK);
	return r;
}

int plt_queue_submit(struct plt_queue *q, const struct plt_aio *req, struct plt_error *err)
{
	struct plt_image *img = req->disk->top;
	struct plt_slot *s = q->free_slots;
	uint64_t len = length(req);
	unsigned flags;
	struct plt_io *io;
	int r;

	if ((unsigned)req->kind >= PLT_ARRAY_SIZE(frames))
		return plt_error_set(err, EINVAL, "there is no request of kind %d", (int)req->kind);
	if (s)
		q->free_slots = s->next;
	else if (!(s = malloc(sizeof(*s))))
		return plt_error_set(err, ENOMEM, "out of memory");
	*s = (struct plt_slot){ .q = q, .img = img, .cookie = req->cookie, .err = req->err };
	r = check(req, len, &flags, req->err);
	if (r < 0 || (!len && req->kind != PLT_AIO_FLUSH)) {
		q->pending++;
		complete(s, r);
		return 0;
	}
	io = plt_io_new(q, NULL, img, frames[req->kind]);
	if (!io) {
		s->next = q->free_slots;
		q->free_slots = s;
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	q->pending++;
	/* writethrough: with the entries that lead to it */
	s->sync = req->kind != PLT_AIO_READ && req->kind != PLT_AIO_FLUSH &&
		  (req->flags & PLT_AIO_FUA || img->file->writethrough);
	io->off = io->pos = req->off;
	io->len = len;
	io->iov = req->iov;
	io->niov = req->niov;
	io->flags = flags;
	io->level = req->level;
	io->done = frame_done;
	io->arg = s;
	plt_io_start(io);
	return 0;
}

unsigned plt_queue_reap(struct plt_queue *q, struct plt_completion *v, unsigned max, bool wait)
{
	unsigned n = 0;

	plt_queue_poll(q, false);
	while (wait && !q->completed && q->pending)
		plt_queue_poll(q, true);
	while (n < max && q->completed) {
		struct plt_slot *s = q->completed;

		q->completed = s->next;
		v[n++] = (struct plt_completion){ s->cookie, s->result };
		s->next = q->free_slots;
		q->free_slots = s;
		q->pending--;
	}
	return n;
}
