/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The ring of the blocking calls: an operation is executed when it is submitted, on the owner's own
 * thread, and its done() runs in a later reap.  So a blocking call never waits behind a pool, which
 * a call made from a worker of that pool must not do.
 */
#include <errno.h>
#include <stdlib.h>

#include "io/private.h"

struct ring_inline {
	struct plt_ring ring;
	struct plt_completions completions; /* only its wake is used by other threads */
	struct plt_op *head, **tail;
};

static void inline_submit(struct plt_ring *ring, struct plt_op *op)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	plt_op_execute(op);
	op->next = NULL;
	*r->tail = op;
	r->tail = &op->next;
}

static void inline_kick(struct plt_ring *ring)
{
	(void)ring;
}

static int inline_reap(struct plt_ring *ring, bool wait)
{
	struct ring_inline *r = (struct ring_inline *)ring;
	struct plt_op *list = r->head;

	r->head = NULL;
	r->tail = &r->head;
	if (!list && wait)
		(void)plt_completions_take(&r->completions, true);
	return plt_completions_run(ring, list);
}

static void inline_wake(struct plt_ring *ring)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	plt_completions_wake(&r->completions);
}

static int inline_fd(struct plt_ring *ring)
{
	(void)ring;
	return -1;
}

static void inline_free(struct plt_ring *ring)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	while (ring->inflight)
		inline_reap(ring, false);
	plt_completions_release(&r->completions);
	free(r);
}

static const struct plt_ring_ops inline_ops = {
	.name = "inline",
	.free = inline_free,
	.submit = inline_submit,
	.kick = inline_kick,
	.reap = inline_reap,
	.wake = inline_wake,
	.fd = inline_fd,
};

int plt_ring_inline_new(struct plt_ring **ret)
{
	struct ring_inline *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->ring.ops = &inline_ops;
	r->tail = &r->head;
	plt_completions_init(&r->completions);
	*ret = &r->ring;
	return 0;
}
