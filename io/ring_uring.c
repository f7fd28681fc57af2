/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The ring on io_uring.  Reads and writes of stores with a descriptor become submissions of the
 * owner's thread; all else (and what O_DIRECT would refuse, what must be followed by a sync, what
 * the kernel declines) goes to the pool.  Invariants: the kernel never holds more requests than
 * there are slots, so the completion queue cannot overflow; a transfer is whole (short ones are
 * continued, reads past the end give zeros) or failed; a direct write is in the kernel only while
 * its units are held, so that no read-modify-write of the same store crosses it.  Submitting
 * allocates nothing, and a batch costs one system call.
 *
 * The owner sleeps in the kernel.  Wakes and the pool's completions reach it through an eventfd of
 * which a read is kept in the ring: so the ring's own descriptor can be polled for everything.
 */
#include "io/ring.h"

#ifdef HAVE_LIBURING

#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/iov.h"
#include "io/private.h"

#define MAX_DEPTH 4096
#define MAX_LEN (1u << 30) /* of one submission; the rest follows as after a short transfer */

/* One request in the kernel. */
struct slot {
	struct slot *next;
	struct plt_op *op;
	size_t done;	       /* bytes transferred */
	struct iovec *rest;    /* what is left, after a short transfer of several pieces */
	struct plt_file *held; /* whose units are locked */
	struct plt_unit_hold hold;
};

struct ring_uring {
	struct plt_ring ring;
	struct io_uring uring;
	struct plt_pool *pool;
	struct plt_completions completions;
	struct slot *slots, *free;
	struct plt_op *backlog, **backlog_tail; /* wait for a slot */
	bool listening; /* the read of the eventfd is queued or in the kernel */
	bool polled;
	uint64_t event;
};

static void run_job(struct plt_job *job)
{
	struct plt_op *op = (struct plt_op *)((char *)job - offsetof(struct plt_op, job));
	struct ring_uring *r = op->ring_priv;

	plt_op_execute(op);
	plt_completions_post(&r->completions, op);
}

static void to_pool(struct ring_uring *r, struct plt_op *op)
{
	op->ring_priv = r;
	op->job.fn = run_job;
	if (r->pool)
		plt_pool_submit(r->pool, &op->job);
	else
		run_job(&op->job);
}

/* Whether the kernel can execute it; *ret_file: the store whose units a write must hold. */
static bool is_for_kernel(struct plt_op *op, struct plt_file **ret_file)
{
	struct plt_store *st = op->store;

	*ret_file = NULL;
	if (op->kind == PLT_OP_WRITE) {
		if (st->readonly || st->writethrough || atomic_load(&st->sync_error))
			return false;
	} else if (op->kind != PLT_OP_READ) {
		return false;
	}
	if (!op->len || !plt_in_range(op->off, op->len, INT64_MAX) || plt_store_fd(st) < 0)
		return false;
	if (st->limits.align > 1) {
		struct plt_file *f = plt_file_of(st);

		if (!f || !plt_direct_aligned(f, op->off, op->iov, op->niov))
			return false;
		if (op->kind == PLT_OP_WRITE)
			*ret_file = f;
	}
	return true;
}

static struct io_uring_sqe *get_sqe(struct ring_uring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe) {
		io_uring_submit(&r->uring);
		sqe = io_uring_get_sqe(&r->uring);
	}
	return sqe;
}

static void free_slot(struct ring_uring *r, struct slot *s)
{
	if (s->held)
		plt_direct_drop(s->held, &s->hold);
	free(s->rest);
	s->rest = NULL;
	s->held = NULL;
	s->next = r->free;
	r->free = s;
}

/* Queue what is left of a slot's operation; if that cannot be, the pool starts it afresh. */
static void queue(struct ring_uring *r, struct slot *s)
{
	struct plt_op *op = s->op;
	const struct iovec *iov = op->iov;
	int niov = op->niov, fd = plt_store_fd(op->store);
	uint64_t off = op->off + s->done;
	struct io_uring_sqe *sqe = get_sqe(r);

	if (sqe && s->done && niov > 1) {
		size_t left = op->len - s->done;

		free(s->rest);
		s->rest = malloc(plt_iov_slice_count(iov, niov, s->done, left) * sizeof(*s->rest));
		if (s->rest)
			niov = plt_iov_slice(iov, niov, s->done, left, s->rest);
		iov = s->rest;
	}
	if (!sqe || !iov) {
		if (sqe) {
			io_uring_prep_nop(sqe);
			io_uring_sqe_set_data(sqe, NULL);
		}
		free_slot(r, s);
		to_pool(r, op);
		return;
	}
	if (op->niov == 1) {
		void *base = (char *)iov->iov_base + s->done;
		unsigned len = PLT_MIN(op->len - s->done, MAX_LEN);

		if (op->kind == PLT_OP_READ)
			io_uring_prep_read(sqe, fd, base, len, off);
		else
			io_uring_prep_write(sqe, fd, base, len, off);
	} else {
		niov = PLT_MIN(niov, IOV_MAX);
		if (op->kind == PLT_OP_READ)
			io_uring_prep_readv(sqe, fd, iov, niov, off);
		else
			io_uring_prep_writev(sqe, fd, iov, niov, off);
	}
	io_uring_sqe_set_data(sqe, s);
}

/* There is a free slot. */
static void start(struct ring_uring *r, struct plt_op *op, struct plt_file *f)
{
	struct slot *s = r->free;

	if (f && !plt_unit_try_shared(&f->units, &s->hold, op->off, op->off + op->len)) {
		to_pool(r, op);
		return;
	}
	r->free = s->next;
	s->op = op;
	s->done = 0;
	s->held = f;
	queue(r, s);
}

static void uring_submit(struct plt_ring *ring, struct plt_op *op)
{
	struct ring_uring *r = (struct ring_uring *)ring;
	struct plt_file *f;

	if (!is_for_kernel(op, &f)) {
		to_pool(r, op);
	} else if (r->free && !r->backlog) {
		start(r, op, f);
	} else {
		op->next = NULL;
		*r->backlog_tail = op;
		r->backlog_tail = &op->next;
	}
}

static void start_backlog(struct ring_uring *r)
{
	while (r->free && r->backlog) {
		struct plt_op *op = r->backlog;
		struct plt_file *f;

		r->backlog = op->next;
		if (!r->backlog)
			r->backlog_tail = &r->backlog;
		if (is_for_kernel(op, &f))
			start(r, op, f);
		else
			to_pool(r, op);
	}
}

static void uring_kick(struct plt_ring *ring)
{
	struct ring_uring *r = (struct ring_uring *)ring;

	/* What the kernel does not take now stays queued: the next kick or reap hands it over. */
	if (io_uring_sq_ready(&r->uring))
		(void)io_uring_submit(&r->uring);
}

/* Keep a read of the eventfd in the ring. */
static void listen_event(struct ring_uring *r)
{
	struct io_uring_sqe *sqe = r->listening ? NULL : get_sqe(r);

	if (!sqe)
		return;
	io_uring_prep_read(sqe, r->completions.eventfd, &r->event, sizeof(r->event), 0);
	io_uring_sqe_set_data(sqe, r);
	r->listening = true;
}

/* One answer of the kernel for @s: true if the operation is finished. */
static bool settle(struct ring_uring *r, struct slot *s, int res)
{
	struct plt_op *op = s->op;
	bool read = op->kind == PLT_OP_READ;

	switch (res) {
	case -EAGAIN:
	case -ECANCELED:
	case -EINTR:
	case -EINVAL:
	case -EOPNOTSUPP:
		/* Not in this way: the pool does it, or finds the true error. */
		free_slot(r, s);
		to_pool(r, op);
		return false;
	}
	op->result = 0;
	if (res < 0 || (!res && !read)) {
		op->result = plt_io_error(op->err, res ? -res : ENOSPC, read ? "read" : "write",
					  op->store, op->off, op->len);
	} else {
		s->done += res;
		if (s->done < op->len) {
			/* Under O_DIRECT an uneven count means the end of the file. */
			if (res && res % op->store->limits.align == 0) {
				queue(r, s);
				return false;
			}
			if (read)
				plt_iov_zero(op->iov, op->niov, s->done, op->len - s->done);
			else
				op->result = plt_io_error(op->err, EIO, "write", op->store, op->off,
							  op->len);
		}
	}
	free_slot(r, s);
	return true;
}

/* What the kernel has completed, as a list at *tail; returns its new end. */
static struct plt_op **collect(struct ring_uring *r, struct plt_op **tail)
{
	struct io_uring_cqe *cqes[64];
	unsigned n;

	while ((n = io_uring_peek_batch_cqe(&r->uring, cqes, PLT_ARRAY_SIZE(cqes)))) {
		for (unsigned i = 0; i < n; i++) {
			void *data = io_uring_cqe_get_data(cqes[i]);
			struct slot *s = data;
			struct plt_op *op;

			if (data == r)
				r->listening = false;
			if (!data || data == r)
				continue;
			op = s->op;
			if (settle(r, s, cqes[i]->res)) {
				*tail = op;
				tail = &op->next;
			}
		}
		io_uring_cq_advance(&r->uring, n);
	}
	return tail;
}

static int uring_reap(struct plt_ring *ring, bool wait)
{
	struct ring_uring *r = (struct ring_uring *)ring;
	struct plt_op *list = NULL;

	for (;;) {
		struct plt_op **tail = collect(r, &list);

		*tail = plt_completions_take(&r->completions, false);
		start_backlog(r);
		if (list || !wait || plt_completions_woken(&r->completions))
			break;
		listen_event(r);
		/* Errors are of the moment (EINTR, EAGAIN): look again, and come back. */
		if (plt_completions_doze(&r->completions))
			(void)io_uring_submit_and_wait(&r->uring, 1);
	}
	if (r->polled && !r->listening) {
		listen_event(r);
		(void)io_uring_submit(&r->uring);
	}
	return plt_completions_run(ring, list);
}

static void uring_wake(struct plt_ring *ring)
{
	struct ring_uring *r = (struct ring_uring *)ring;

	plt_completions_wake(&r->completions);
}

static int uring_fd(struct plt_ring *ring)
{
	struct ring_uring *r = (struct ring_uring *)ring;

	if (!r->polled) {
		r->polled = true;
		plt_completions_always_signal(&r->completions);
		listen_event(r);
		(void)io_uring_submit(&r->uring);
	}
	return r->uring.ring_fd;
}

/* The kernel must be done with r->event before the memory goes. */
static void stop_listening(struct ring_uring *r)
{
	uint64_t one = 1;
	struct plt_op *none = NULL;

	if (r->listening && write(r->completions.eventfd, &one, sizeof(one)) == sizeof(one))
		while (r->listening) {
			(void)io_uring_submit_and_wait(&r->uring, 1);
			collect(r, &none);
		}
}

static void uring_free(struct plt_ring *ring)
{
	struct ring_uring *r = (struct ring_uring *)ring;

	while (ring->inflight)
		uring_reap(ring, true);
	stop_listening(r);
	io_uring_queue_exit(&r->uring);
	plt_completions_release(&r->completions);
	free(r->slots);
	free(r);
}

static const struct plt_ring_ops uring_ops = {
	.name = "io_uring",
	.free = uring_free,
	.submit = uring_submit,
	.kick = uring_kick,
	.reap = uring_reap,
	.wake = uring_wake,
	.fd = uring_fd,
};

static int setup(unsigned depth, struct io_uring *uring)
{
	/*
	 * Completions are worked off when the owner enters the kernel, not by interrupting it
	 * (5.19).  Not single-issuer: a ring may be made by one thread and then handed to its
	 * owner.
	 */
	int ret = io_uring_queue_init(depth, uring,
				      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);

	if (ret == -EINVAL)
		ret = io_uring_queue_init(depth, uring, 0);
	return ret;
}

int plt_ring_uring_new(struct plt_pool *pool, unsigned depth, struct plt_ring **ret)
{
	struct ring_uring *r;
	int result;

	if (!depth || depth > MAX_DEPTH)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->slots = calloc(depth, sizeof(*r->slots));
	result = r->slots ? setup(depth, &r->uring) : -ENOMEM;
	if (result) {
		free(r->slots);
		free(r);
		return result == -EACCES ? -EPERM : result;
	}
	plt_completions_init(&r->completions);
	r->completions.eventfd = eventfd(0, EFD_CLOEXEC);
	if (r->completions.eventfd < 0) {
		result = -errno;
		io_uring_queue_exit(&r->uring);
		plt_completions_release(&r->completions);
		free(r->slots);
		free(r);
		return result;
	}
	for (unsigned i = 0; i < depth; i++) {
		r->slots[i].next = r->free;
		r->free = &r->slots[i];
	}
	r->ring.ops = &uring_ops;
	r->pool = pool;
	r->backlog_tail = &r->backlog;
	*ret = &r->ring;
	return 0;
}

static bool available;

static void probe(void)
{
	struct io_uring uring;

	available = !setup(2, &uring);
	if (available)
		io_uring_queue_exit(&uring);
}

bool plt_ring_uring_available(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, probe);
	return available;
}

#else /* !HAVE_LIBURING */

#include <errno.h>

int plt_ring_uring_new(struct plt_pool *pool, unsigned depth, struct plt_ring **ret)
{
	(void)pool;
	(void)depth;
	(void)ret;
	return -ENOSYS;
}

bool plt_ring_uring_available(void)
{
	return false;
}

#endif
