/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_RING_H
#define PLT_IO_RING_H

/*
 * A ring executes operations on stores and calls back when they are done.  It belongs to one
 * thread, its owner: only the owner submits, kicks, reaps and frees.  Any thread may wake it.
 *
 *   inline   executes at submit, on the owner: for the blocking calls
 *   threads  hands to a pool; completions come back to the owner
 *   uring    io_uring where the store has a descriptor and the request is aligned for it; the rest
 *            goes to the pool
 *   test     keeps operations back; the test picks which completes next (and then executes it)
 *
 * done() runs inside plt_ring_reap() on the owner (inline: queued at submit, also called by reap, so
 * that a completion never runs inside the submit of its own operation).
 *
 * Writes in flight on a store opened with O_DIRECT hold their units until they are reaped: so while
 * it has some, the owner itself must not change that store by a blocking plt_store_*() call (submit
 * it, or let a CALL do it).
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/pool.h"
#include "io/store.h"

enum plt_op_kind {
	PLT_OP_READ,
	PLT_OP_WRITE,
	PLT_OP_ZERO,
	PLT_OP_DISCARD,
	PLT_OP_SYNC,
	PLT_OP_CALL, /* result = call(op): what burns CPU or must block */
};

struct plt_op {
	enum plt_op_kind kind;
	enum plt_io_tag tag;
	unsigned flags;           /* PLT_ZERO_* */
	struct plt_store *store;  /* the submitter keeps a reference until done */
	uint64_t off, len;        /* READ and WRITE: len is the total of iov */
	const struct iovec *iov;  /* must stay until done; the ring does not change it */
	int niov;
	int (*call)(struct plt_op *op);
	void (*done)(struct plt_op *op);
	int result;               /* 0 or -errno; transfers are whole or failed */
	struct plt_error *err;    /* may be NULL; set on failure */

	/* the ring's own */
	struct plt_op *next, *prev;
	struct plt_job job;
	void *ring_priv;
	uint64_t ring_num;
};

struct plt_ring;

struct plt_ring_ops {
	const char *name;
	void (*free)(struct plt_ring *ring);
	void (*submit)(struct plt_ring *ring, struct plt_op *op); /* queues; never fails or blocks */
	void (*kick)(struct plt_ring *ring);                      /* hand what is queued to the kernel */
	/*
	 * Run done() for what has completed.  With @wait and nothing completed yet, sleep until
	 * something completes or plt_ring_wake() is called.  Returns how many completed.
	 */
	int (*reap)(struct plt_ring *ring, bool wait);
	void (*wake)(struct plt_ring *ring); /* any thread; sticky: the next waiting reap returns */
	int (*fd)(struct plt_ring *ring);    /* readable when reap has something to do, or -1 */
};

struct plt_ring {
	const struct plt_ring_ops *ops;
	unsigned inflight; /* submitted, done() not yet run */
};

int plt_ring_inline_new(struct plt_ring **ret);
int plt_ring_threads_new(struct plt_pool *pool, struct plt_ring **ret);
/* -ENOSYS or -EPERM where io_uring is absent or forbidden: the caller then takes threads. */
int plt_ring_uring_new(struct plt_pool *pool, unsigned depth, struct plt_ring **ret);
bool plt_ring_uring_available(void); /* false when built without liburing */

static inline void plt_ring_submit(struct plt_ring *r, struct plt_op *op)
{
	r->inflight++;
	r->ops->submit(r, op);
}

static inline void plt_ring_kick(struct plt_ring *r)
{
	r->ops->kick(r);
}

static inline int plt_ring_reap(struct plt_ring *r, bool wait)
{
	return r->ops->reap(r, wait);
}

static inline void plt_ring_wake(struct plt_ring *r)
{
	r->ops->wake(r);
}

static inline void plt_ring_free(struct plt_ring *r)
{
	if (r)
		r->ops->free(r);
}

/* Execute @op now, blocking, on this thread; sets result.  What inline, threads and test rings use. */
void plt_op_execute(struct plt_op *op);

/* ---- the test ring --------------------------------------------------------------------------- */

/*
 * Nothing completes until told to.  CALL operations are held back like I/O.  plt_ring_reap() on a
 * test ring runs the @pick callback when asked to wait: it returns the index of the pending
 * operation to execute and complete next.
 */
typedef unsigned (*plt_ring_test_pick)(void *arg, struct plt_op *const *pending, unsigned n);
int plt_ring_test_new(plt_ring_test_pick pick, void *arg, struct plt_ring **ret);
unsigned plt_ring_test_pending(struct plt_ring *ring);

#endif
