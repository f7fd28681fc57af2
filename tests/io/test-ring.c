/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * All rings through the same tests: whole transfers, reads past the end, errors with their text,
 * calls, wakes from another thread and descriptors for poll.  test-ring-load.c has the random ones.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/zero.h"
#include "tests/io/rings.h"

START_TEST(test_basic)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_store *st = ring_file(0);
	char a[5] = "hello", b[3] = "you", in[20];
	struct iovec iov[3] = { { a, 5 }, { NULL, 0 }, { b, 3 } }, one = { in, 20 };
	struct plt_op op = {
		.kind = PLT_OP_WRITE, .store = st, .off = 2, .len = 8, .iov = iov, .niov = 3
	};
	uint64_t mark;

	ck_assert_int_eq(ring_run(r, &op), 0);
	/* Past the end: zeros. */
	memset(in, 'x', sizeof(in));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 0, .len = 20, .iov = &one, .niov = 1
	};
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_mem_eq(in, "\0\0helloyou\0\0\0\0\0\0\0\0\0\0", 20);
	memset(in, 'x', sizeof(in));
	iov[0] = (struct iovec){ in, 3 };
	iov[2] = (struct iovec){ in + 3, 17 };
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 8, .len = 20, .iov = iov, .niov = 3
	};
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_mem_eq(in, "ou\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	memset(in, 'x', sizeof(in));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 1 << 20, .len = 20, .iov = &one, .niov = 1
	};
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert(plt_is_zero(in, 20));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 0, .len = 0, .iov = NULL, .niov = 0
	};
	ck_assert_int_eq(ring_run(r, &op), 0);

	op = (struct plt_op){
		.kind = PLT_OP_ZERO, .store = st, .off = 4, .len = 2, .tag = PLT_IO_L2
	};
	ck_assert_int_eq(ring_run(r, &op), 0);
	mark = plt_store_sync_mark(st);
	op = (struct plt_op){ .kind = PLT_OP_SYNC, .store = st };
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert(plt_store_durable(st, mark));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 2, .len = 8, .iov = &one, .niov = 1
	};
	one.iov_len = 8;
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_mem_eq(in, "he\0\0oyou", 8);
	op = (struct plt_op){ .kind = PLT_OP_DISCARD, .store = st, .off = 0, .len = 8 };
	ring_run(r, &op);
	ck_assert(op.result == 0 || op.result == -ENOTSUP);
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

/* More pieces than the kernel takes at once: what is left follows, and zeros after the end. */
START_TEST(test_many_pieces)
{
	enum { N = 2500, PIECE = 7, LEN = N * PIECE };
	struct plt_ring *r = ring_new(_i, 2);
	struct plt_store *st = ring_file(0);
	static uint8_t out[LEN], in[LEN];
	static struct iovec iov[N];
	struct plt_op op = {
		.kind = PLT_OP_WRITE, .store = st, .off = 3, .len = LEN, .iov = iov, .niov = N
	};

	for (int i = 0; i < LEN; i++)
		out[i] = i * 11;
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ out + PIECE * i, PIECE };
	ck_assert_int_eq(ring_run(r, &op), 0);
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ in + PIECE * i, PIECE };
	op.kind = PLT_OP_READ;
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_mem_eq(in, out, LEN);
	memset(in, 0xee, LEN);
	op.off = 1003;
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_mem_eq(in, out + 1000, LEN - 1000);
	ck_assert(plt_is_zero(in + LEN - 1000, 1000));
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

START_TEST(test_errors)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_store *st = ring_file(0), *fault;
	struct plt_fault_rule rule = { .ops = PLT_FAULT_SYNC, .tag = -1, .error = EIO };
	struct plt_error err = PLT_ERROR_INIT;
	char buf[4096] = "";
	struct iovec iov = { buf, sizeof(buf) }, bad = { (void *)16, sizeof(buf) };
	struct plt_op op = { .kind = PLT_OP_WRITE,
			     .store = st,
			     .off = UINT64_MAX - 5,
			     .len = sizeof(buf),
			     .iov = &iov,
			     .niov = 1,
			     .err = &err };

	ck_assert_int_eq(ring_run(r, &op), -EFBIG);
	ck_assert_int_eq(err.code, EFBIG);
	/* The kernel's own errors get words too. */
	op.off = 0;
	op.iov = &bad;
	err = (struct plt_error)PLT_ERROR_INIT;
	ck_assert_int_eq(ring_run(r, &op), -EFAULT);
	ck_assert_int_eq(err.code, EFAULT);
	ck_assert_ptr_nonnull(strstr(err.text, "write 4096 bytes"));
	ck_assert_ptr_nonnull(strstr(err.text, "ring-"));
	op.iov = &iov;
	st->readonly = true;
	ck_assert_int_eq(ring_run(r, &op), -EROFS);
	st->readonly = false;
	/* After a failed sync no write may pass, by whatever way; reads do. */
	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert_int_eq(plt_fault_new(st, &fault), 0);
	plt_fault_add(fault, &rule);
	op = (struct plt_op){ .kind = PLT_OP_SYNC, .store = fault, .err = &err };
	ck_assert_int_eq(ring_run(r, &op), -EIO);
	op = (struct plt_op){
		.kind = PLT_OP_WRITE, .store = fault, .len = 5, .iov = &iov, .niov = 1, .err = &err
	};
	iov.iov_len = 5;
	ck_assert_int_eq(ring_run(r, &op), -EIO);
	atomic_store(&st->sync_error, EIO);
	op.store = st;
	ck_assert_int_eq(ring_run(r, &op), -EIO);
	ck_assert_ptr_nonnull(strstr(err.text, "flush failed"));
	op.kind = PLT_OP_READ;
	ck_assert_int_eq(ring_run(r, &op), 0);
	plt_store_unref(fault);
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

START_TEST(test_writethrough)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_store *st = ring_file(PLT_FILE_WRITETHROUGH);
	struct iovec iov = { (void *)"abc", 3 };
	struct plt_op op = { .kind = PLT_OP_WRITE, .store = st, .len = 3, .iov = &iov, .niov = 1 };
	uint64_t mark = plt_store_sync_mark(st);

	ck_assert_int_eq(ring_run(r, &op), 0);
	ck_assert(plt_store_durable(st, mark));
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

static int call_result(struct plt_op *op)
{
	return -(int)op->off;
}

START_TEST(test_call)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_op op = { .kind = PLT_OP_CALL, .call = call_result, .off = EDOM };

	ck_assert_int_eq(ring_run(r, &op), -EDOM);
	ring_end(r);
}
END_TEST

/* ---- wakes ---- */

static void *wake_later(void *arg)
{
	usleep(20000);
	plt_ring_wake(arg);
	return NULL;
}

START_TEST(test_wake)
{
	struct plt_ring *r = ring_new(_i, 8);
	pthread_t t;

	/* Sticky, also over a reap that does not wait. */
	plt_ring_wake(r);
	ck_assert_int_eq(plt_ring_reap(r, false), 0);
	ck_assert_int_eq(plt_ring_reap(r, true), 0);
	/* From another thread, while it sleeps. */
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pthread_create(&t, NULL, wake_later, r), 0);
		ck_assert_int_eq(plt_ring_reap(r, true), 0);
		pthread_join(t, NULL);
	}
	ring_end(r);
}
END_TEST

static _Atomic bool gate;

static int wait_gate(struct plt_op *op)
{
	(void)op;
	while (!atomic_load(&gate))
		usleep(500);
	return 0;
}

/* A wake reaches an owner whose only operation has not finished. */
START_TEST(test_wake_while_busy)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_op op = { .kind = PLT_OP_CALL, .call = wait_gate, .done = ring_count_done };
	int before = ring_done;
	pthread_t t;

	atomic_store(&gate, false);
	plt_ring_submit(r, &op);
	plt_ring_kick(r);
	ck_assert_int_eq(pthread_create(&t, NULL, wake_later, r), 0);
	ck_assert_int_eq(plt_ring_reap(r, true), 0);
	ck_assert_int_eq(ring_done, before);
	pthread_join(t, NULL);
	atomic_store(&gate, true);
	while (ring_done == before)
		plt_ring_reap(r, true);
	ring_end(r);
}
END_TEST

/* ---- poll ---- */

static bool readable(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	int n;

	do {
		n = poll(&p, 1, ms);
	} while (n < 0 && errno == EINTR);
	return n == 1;
}

START_TEST(test_poll)
{
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_store *st = ring_file(0);
	char buf[100] = "";
	struct iovec iov = { buf, sizeof(buf) };
	struct plt_op op;
	int fd, before;
	pthread_t t;

	fd = r->ops->fd(r);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(r->ops->fd(r), fd);
	ck_assert(!readable(fd, 0));
	for (int i = 0; i < 300; i++) {
		static const enum plt_op_kind kinds[] = { PLT_OP_READ, PLT_OP_WRITE, PLT_OP_SYNC,
							  PLT_OP_CALL };

		op = (struct plt_op){ .kind = kinds[i % 4],
				      .store = st,
				      .len = 100,
				      .iov = &iov,
				      .niov = 1,
				      .call = call_result,
				      .done = ring_count_done };
		before = ring_done;
		plt_ring_submit(r, &op);
		plt_ring_kick(r);
		while (ring_done == before) {
			ck_assert(readable(fd, 10000));
			plt_ring_reap(r, false);
		}
		ck_assert_int_eq(op.result, 0);
	}
	/* Once all is taken it is quiet again, after at most one look in vain. */
	for (int i = 0; i < 3 && readable(fd, 0); i++)
		plt_ring_reap(r, false);
	ck_assert(!readable(fd, 0));
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pthread_create(&t, NULL, wake_later, r), 0);
		ck_assert(readable(fd, 10000));
		pthread_join(t, NULL);
		ck_assert_int_eq(plt_ring_reap(r, false), 0);
		ck_assert_int_eq(plt_ring_reap(r, true), 0); /* still due to a sleeper, once */
		ck_assert(!readable(fd, 0));
	}
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

/* Freed with operations in flight: they complete first. */
START_TEST(test_free_drains)
{
	struct plt_ring *r = ring_new(_i, 4);
	struct plt_store *st = ring_file(0);
	struct plt_op ops[20];
	char c = 'x';
	struct iovec iov = { &c, 1 };

	ring_done = 0;
	for (int i = 0; i < 20; i++) {
		ops[i] = (struct plt_op){ .kind = i % 3 ? PLT_OP_WRITE : PLT_OP_SYNC,
					  .store = st,
					  .off = i,
					  .len = 1,
					  .iov = &iov,
					  .niov = 1,
					  .done = ring_count_done };
		plt_ring_submit(r, &ops[i]);
	}
	plt_ring_free(r);
	ck_assert_int_eq(ring_done, 20);
	plt_store_unref(st);
	plt_pool_free(ring_pool);
	ring_pool = NULL;
}
END_TEST

/* ---- the test ring's own ---- */

static char order[8];

static void note(struct plt_op *op)
{
	strncat(order, (char *)&op->off, 1);
}

static unsigned pick_last(void *arg, struct plt_op *const *pending, unsigned n)
{
	ck_assert_ptr_eq(arg, &order);
	ck_assert_ptr_nonnull(pending[n - 1]);
	return n - 1;
}

static int call_zero(struct plt_op *op)
{
	(void)op;
	return 0;
}

START_TEST(test_order_is_chosen)
{
	struct plt_op a = { .kind = PLT_OP_CALL, .call = call_zero, .off = 'a', .done = note },
		      b = a, c = a;
	struct plt_ring *r;

	order[0] = 0;
	b.off = 'b';
	c.off = 'c';
	ck_assert_int_eq(plt_ring_test_new(pick_last, &order, &r), 0);
	plt_ring_submit(r, &a);
	plt_ring_submit(r, &b);
	plt_ring_submit(r, &c);
	plt_ring_kick(r);
	ck_assert_int_eq(plt_ring_reap(r, false), 0);
	ck_assert_uint_eq(plt_ring_test_pending(r), 3);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(plt_ring_reap(r, true), 1);
	ck_assert_str_eq(order, "cba");
	ck_assert_uint_eq(plt_ring_test_pending(r), 0);
	plt_ring_free(r);
}
END_TEST

static Suite *suite(void)
{
	static const char *const names[KINDS] = { "inline", "threads", "io_uring", "test" };
	Suite *s = suite_create("ring");
	bool direct = plt_unit_has_direct();

	for (int k = 0; k < KINDS; k++) {
		TCase *tc;

		if (k == URING && !plt_ring_uring_available()) {
			puts("# no io_uring: its tests are left out");
			continue;
		}
		tc = tcase_create(names[k]);
		tcase_add_loop_test(tc, test_basic, k, k + 1);
		tcase_add_loop_test(tc, test_many_pieces, k, k + 1);
		tcase_add_loop_test(tc, test_errors, k, k + 1);
		tcase_add_loop_test(tc, test_writethrough, k, k + 1);
		tcase_add_loop_test(tc, test_call, k, k + 1);
		tcase_add_loop_test(tc, test_wake, k, k + 1);
		tcase_add_loop_test(tc, test_free_drains, k, k + 1);
		ring_load_tests(tc, k, direct);
		if (k == THREADS || k == URING) {
			tcase_add_loop_test(tc, test_wake_while_busy, k, k + 1);
			tcase_add_loop_test(tc, test_poll, k, k + 1);
		}
		if (k == TEST)
			tcase_add_test(tc, test_order_is_chosen);
		suite_add_tcase(s, tc);
	}
	if (!direct)
		puts("# the scratch folder has no O_DIRECT: its tests are left out");
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
