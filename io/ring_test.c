/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The ring of tests: it keeps operations back until the test picks one, which is then executed and
 * completed.  So a test can run the completions of a request machine in every order.  One thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "io/private.h"

struct ring_test {
	struct plt_ring ring;
	plt_ring_test_pick pick;
	void *arg;
	struct plt_completions completions; /* for the wake */
	struct plt_op **pending;
	unsigned n, cap;
};

static void test_submit(struct plt_ring *ring, struct plt_op *op)
{
	struct ring_test *r = (struct ring_test *)ring;

	if (r->n == r->cap) {
		unsigned cap = r->cap ? 2 * r->cap : 64;
		struct plt_op **v = realloc(r->pending, cap * sizeof(*v));

		/* submit() cannot fail, and a test that lost an operation would prove nothing. */
		if (!v)
			abort();
		r->pending = v;
		r->cap = cap;
	}
	r->pending[r->n++] = op;
}

static void test_kick(struct plt_ring *ring)
{
	(void)ring;
}

static void complete(struct ring_test *r, unsigned i)
{
	struct plt_op *op = r->pending[i];

	/* The order of the others is kept: tests count on it. */
	for (; i + 1 < r->n; i++)
		r->pending[i] = r->pending[i + 1];
	r->n--;
	plt_op_execute(op);
	op->next = NULL;
	plt_completions_run(&r->ring, op);
}

static int test_reap(struct plt_ring *ring, bool wait)
{
	struct ring_test *r = (struct ring_test *)ring;

	if (!wait)
		return 0;
	if (!r->n || atomic_load(&r->completions.some)) {
		(void)plt_completions_take(&r->completions, true);
		return 0;
	}
	complete(r, r->pick(r->arg, r->pending, r->n) % r->n);
	return 1;
}

static void test_wake(struct plt_ring *ring)
{
	struct ring_test *r = (struct ring_test *)ring;

	plt_completions_wake(&r->completions);
}

static int test_fd(struct plt_ring *ring)
{
	(void)ring;
	return -1;
}

static void test_free(struct plt_ring *ring)
{
	struct ring_test *r = (struct ring_test *)ring;

	while (r->n)
		complete(r, 0);
	plt_completions_release(&r->completions);
	free(r->pending);
	free(r);
}

static const struct plt_ring_ops test_ops = {
	.name = "test",
	.free = test_free,
	.submit = test_submit,
	.kick = test_kick,
	.reap = test_reap,
	.wake = test_wake,
	.fd = test_fd,
};

int plt_ring_test_new(plt_ring_test_pick pick, void *arg, struct plt_ring **ret)
{
	struct ring_test *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->ring.ops = &test_ops;
	r->pick = pick;
	r->arg = arg;
	plt_completions_init(&r->completions);
	*ret = &r->ring;
	return 0;
}

unsigned plt_ring_test_pending(struct plt_ring *ring)
{
	return ((struct ring_test *)ring)->n;
}
