/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_bench(): requests of one kind through a queue over a real ring, as many under way at once as
 * were asked for.  Callbacks only count; all is issued from one loop, so that requests which complete
 * at once do not nest.
 */
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "block/engine.h"

#define RING_MAX 4096 /* entries of the ring; more wait for room */

struct slot {
	struct bench *b;
	struct slot *next; /* free ones */
	struct iovec iov;
	void *buf;         /* reads: its own */
	bool through;      /* a write that has to be flushed before it counts */
};

struct bench {
	const struct plt_bench_options *o;
	struct plt_image *img;
	struct plt_queue *q;
	struct slot *slots, *idle;
	unsigned nslots;
	void *pattern;
	uint64_t todo, inflight, offset, since_flush, size;
	unsigned flushes;     /* under way */
	bool flush_due;
	int result;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void fail(struct bench *b, int result)
{
	if (!b->result)
		b->result = result;
}

static void flush_done(struct plt_io *io)
{
	struct bench *b = io->arg;

	b->flushes--;
	if (io->result)
		fail(b, io->result);
}

static bool start(struct bench *b, enum plt_io_kind kind, void (*done)(struct plt_io *), void *arg, uint64_t off,
		  const struct iovec *iov)
{
	struct plt_io *io = plt_io_new(b->q, NULL, b->img, kind);

	if (!io) {
		fail(b, -ENOMEM);
		return false;
	}
	io->off = io->pos = off;
	io->len = iov ? iov->iov_len : 0;
	io->iov = iov;
	io->niov = iov ? 1 : 0;
	io->done = done;
	io->arg = arg;
	plt_io_start(io);
	return true;
}

static void request_done(struct plt_io *io)
{
	struct slot *s = io->arg;
	struct bench *b = s->b;

	if (io->result)
		fail(b, io->result);
	/* writethrough: what is written is durable when the request ends */
	if (s->through && !io->result && io->kind == PLT_IO_WRITE_REQ &&
	    start(b, PLT_IO_FLUSH_REQ, request_done, s, 0, NULL))
		return;
	b->inflight--;
	s->next = b->idle;
	b->idle = s;
}

static void issue(struct bench *b)
{
	const struct plt_bench_options *o = b->o;
	struct slot *s = b->idle;
	uint64_t off = b->offset;

	b->offset = (off + (o->step ? o->step : o->length)) % b->size;
	b->todo--;
	b->since_flush++;
	if (!plt_in_range(off, o->length, b->size)) {
		fail(b, -EIO);
		return;
	}
	b->idle = s->next;
	b->inflight++;
	if (!start(b, o->write ? PLT_IO_WRITE_REQ : PLT_IO_READ_REQ, request_done, s, off, &s->iov))
		b->inflight--;
	if (o->flush_interval && b->since_flush == o->flush_interval) {
		b->flush_due = true;
		b->since_flush = 0;
	}
}

static void run(struct bench *b)
{
	const struct plt_bench_options *o = b->o;

	while (b->todo || b->inflight || b->flushes || b->flush_due) {
		if (b->result) { /* what is under way ends, nothing new begins */
			b->todo = 0;
			b->flush_due = false;
		}
		if (b->flush_due && (o->no_drain || !b->inflight)) {
			b->flush_due = false;
			b->flushes++;
			if (!start(b, PLT_IO_FLUSH_REQ, flush_done, b, 0, NULL))
				b->flushes--;
		}
		while (b->todo && b->idle && !b->result && !b->flush_due && (o->no_drain || !b->flushes))
			issue(b);
		if (b->inflight || b->flushes)
			plt_queue_poll(b->q, true);
	}
}

static int make_ring(struct plt_ctx *ctx, const char *aio, unsigned depth, struct plt_ring **ret,
		     struct plt_error *err)
{
	int r;

	if (!aio || strcmp(aio, "threads")) {
		r = plt_ring_uring_new(plt_ctx_pool(ctx), PLT_MIN(depth, RING_MAX), ret);
		if (r == 0)
			return 0;
		if (aio && !strcmp(aio, "io_uring"))
			return plt_error_errno(err, -r, "io_uring cannot be used here");
	}
	r = plt_ring_threads_new(plt_ctx_pool(ctx), ret);
	return r < 0 ? plt_error_errno(err, -r, "threads") : 0;
}

static int prepare(struct bench *b, struct plt_ctx *ctx, struct plt_error *err)
{
	const struct plt_bench_options *o = b->o;
	struct plt_ring *ring;
	int r;

	b->nslots = (unsigned)PLT_MIN(o->count, (uint64_t)o->depth);
	b->slots = plt_alloc_capped(b->nslots, sizeof(*b->slots), SIZE_MAX / 2);
	if (o->write && (b->pattern = plt_alloc_io(PLT_MAX(o->length, 1u))))
		memset(b->pattern, o->pattern, o->length);
	if (!b->slots || (o->write && !b->pattern))
		return plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < b->nslots; i++) {
		struct slot *s = &b->slots[i];

		s->b = b;
		if (!o->write && !(s->buf = plt_alloc_io(PLT_MAX(o->length, 1u))))
			return plt_error_set(err, ENOMEM, "out of memory for %u buffers of %" PRIu32 " bytes", b->nslots,
					     o->length);
		s->iov = (struct iovec){ o->write ? b->pattern : s->buf, o->length };
		s->through = o->write && b->img->file->writethrough;
		s->next = b->idle;
		b->idle = s;
	}
	r = make_ring(ctx, o->aio, PLT_MAX(b->nslots, 1u), &ring, err);
	if (r == 0 && plt_queue_new(ctx, ring, false, &b->q) < 0) {
		plt_ring_free(ring);
		r = plt_error_set(err, ENOMEM, "out of memory");
	}
	return r;
}

int plt_bench(struct plt_disk *disk, const struct plt_bench_options *opts, double *ret_seconds,
	      struct plt_error *err)
{
	struct bench b = { .o = opts, .img = disk->top, .todo = opts->count, .offset = opts->offset };
	double begin;
	int r;

	*ret_seconds = 0;
	b.size = plt_disk_size(disk);
	if (!opts->depth)
		return plt_error_set(err, EINVAL, "a queue depth of 0 sends nothing");
	if (!b.size && opts->count)
		return plt_error_set(err, EINVAL, "'%s' is empty", disk->top->name);
	r = prepare(&b, disk->ctx, err);
	if (r == 0) {
		begin = now();
		run(&b);
		*ret_seconds = now() - begin;
		r = b.result;
		if (r < 0)
			plt_error_set(err, -r, "Failed request: %s", strerror(-r));
	}
	plt_queue_free(b.q);
	for (unsigned i = 0; b.slots && i < b.nslots; i++)
		free(b.slots[i].buf);
	free(b.slots);
	free(b.pattern);
	return r;
}
