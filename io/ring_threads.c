/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The ring on a thread pool: each operation is a job, and comes back through the completion queue.
 * What the kernel lacks in io_uring, or a sandbox forbids, this replaces with the same behaviour.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "io/private.h"

struct ring_threads {
	struct plt_ring ring;
	struct plt_pool *pool;
	struct plt_completions completions;
};

static void run_job(struct plt_job *job)
{
	struct plt_op *op = (struct plt_op *)((char *)job - offsetof(struct plt_op, job));
	struct ring_threads *r = op->ring_priv;

	plt_op_execute(op);
	plt_completions_post(&r->completions, op);
}

static void threads_submit(struct plt_ring *ring, struct plt_op *op)
{
	struct ring_threads *r = (struct ring_threads *)ring;

	op->ring_priv = r;
	op->job.fn = run_job;
	plt_pool_submit(r->pool, &op->job);
}

static void threads_kick(struct plt_ring *ring)
{
	(void)ring;
}

static int threads_reap(struct plt_ring *ring, bool wait)
{
	struct ring_threads *r = (struct ring_threads *)ring;

	return plt_completions_run(ring, plt_completions_take(&r->completions, wait));
}

static void threads_wake(struct plt_ring *ring)
{
	struct ring_threads *r = (struct ring_threads *)ring;

	plt_completions_wake(&r->completions);
}

static int threads_fd(struct plt_ring *ring)
{
	struct ring_threads *r = (struct ring_threads *)ring;

	return plt_completions_poll(&r->completions);
}

static void threads_free(struct plt_ring *ring)
{
	struct ring_threads *r = (struct ring_threads *)ring;

	while (ring->inflight)
		threads_reap(ring, true);
	plt_completions_release(&r->completions);
	free(r);
}

static const struct plt_ring_ops threads_ops = {
	.name = "threads",
	.free = threads_free,
	.submit = threads_submit,
	.kick = threads_kick,
	.reap = threads_reap,
	.wake = threads_wake,
	.fd = threads_fd,
};

int plt_ring_threads_new(struct plt_pool *pool, struct plt_ring **ret)
{
	struct ring_threads *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->ring.ops = &threads_ops;
	r->pool = pool;
	plt_completions_init(&r->completions);
	*ret = &r->ring;
	return 0;
}
