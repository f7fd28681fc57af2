/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Rings, files and single operations for the tests of the rings.
 */
#include <errno.h>
#include <stdio.h>

#include "tests/io/rings.h"

struct plt_pool *ring_pool;
static uint64_t pick_state = 1;

static unsigned pick(void *arg, struct plt_op *const *pending, unsigned n)
{
	(void)arg;
	(void)pending;
	return plt_unit_random(&pick_state) % n;
}

struct plt_ring *ring_new(enum ring_kind kind, unsigned depth)
{
	struct plt_ring *r = NULL;
	int ret = 0;

	if (!ring_pool)
		ck_assert_int_eq(plt_pool_new(3, &ring_pool), 0);
	switch (kind) {
	case INLINE:
		ret = plt_ring_inline_new(&r);
		break;
	case THREADS:
		ret = plt_ring_threads_new(ring_pool, &r);
		break;
	case URING:
		ret = plt_ring_uring_new(ring_pool, depth, &r);
		break;
	default:
		ret = plt_ring_test_new(pick, NULL, &r);
		break;
	}
	ck_assert_int_eq(ret, 0);
	return r;
}

void ring_end(struct plt_ring *r)
{
	plt_ring_free(r);
	plt_pool_free(ring_pool);
	ring_pool = NULL;
}

struct plt_store *ring_file(unsigned flags)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	char path[4200];
	static int n;

	snprintf(path, sizeof(path), "%s/ring-%d", plt_unit_dir(), n++);
	ck_assert_msg(!plt_file_open(path,
				     PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_TRUNC | flags, &st,
				     &err),
		      "%s", err.text);
	return st;
}

int ring_done;

void ring_count_done(struct plt_op *op)
{
	(void)op;
	ring_done++;
}

int ring_run(struct plt_ring *r, struct plt_op *op)
{
	int before = ring_done;

	op->done = ring_count_done;
	op->result = -EINPROGRESS;
	plt_ring_submit(r, op);
	/* Never inside the submit of its own. */
	ck_assert_int_eq(ring_done, before);
	ck_assert_uint_eq(r->inflight, 1);
	plt_ring_kick(r);
	while (ring_done == before)
		plt_ring_reap(r, true);
	ck_assert_int_eq(ring_done, before + 1);
	ck_assert_uint_eq(r->inflight, 0);
	return op->result;
}
