/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * All rings through the same tests: whole transfers, reads past the end, errors with their text,
 * calls, wakes from another thread, operations submitted by completions, descriptors for poll, and
 * thousands of random operations against an array of bytes.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/zero.h"
#include "io/ring.h"
#include "tests/unit.h"

enum kind { INLINE, THREADS, URING, TEST, KINDS };

static struct plt_pool *pool;
static uint64_t pick_state = 1;

static unsigned pick(void *arg, struct plt_op *const *pending, unsigned n)
{
	(void)arg;
	(void)pending;
	return plt_unit_random(&pick_state) % n;
}

static struct plt_ring *new_ring(enum kind kind, unsigned depth)
{
	struct plt_ring *r = NULL;
	int ret = 0;

	if (!pool)
		ck_assert_int_eq(plt_pool_new(3, &pool), 0);
	switch (kind) {
	case INLINE:
		ret = plt_ring_inline_new(&r);
		break;
	case THREADS:
		ret = plt_ring_threads_new(pool, &r);
		break;
	case URING:
		ret = plt_ring_uring_new(pool, depth, &r);
		break;
	default:
		ret = plt_ring_test_new(pick, NULL, &r);
		break;
	}
	ck_assert_int_eq(ret, 0);
	return r;
}

static void end(struct plt_ring *r)
{
	plt_ring_free(r);
	plt_pool_free(pool);
	pool = NULL;
}

static struct plt_store *new_file(unsigned flags)
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

static int done_count;

static void count_done(struct plt_op *op)
{
	(void)op;
	done_count++;
}

static int run_op(struct plt_ring *r, struct plt_op *op)
{
	int before = done_count;

	op->done = count_done;
	op->result = -EINPROGRESS;
	plt_ring_submit(r, op);
	/* Never inside the submit of its own. */
	ck_assert_int_eq(done_count, before);
	ck_assert_uint_eq(r->inflight, 1);
	plt_ring_kick(r);
	while (done_count == before)
		plt_ring_reap(r, true);
	ck_assert_int_eq(done_count, before + 1);
	ck_assert_uint_eq(r->inflight, 0);
	return op->result;
}

START_TEST(test_basic)
{
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_store *st = new_file(0);
	char a[5] = "hello", b[3] = "you", in[20];
	struct iovec iov[3] = { { a, 5 }, { NULL, 0 }, { b, 3 } }, one = { in, 20 };
	struct plt_op op = {
		.kind = PLT_OP_WRITE, .store = st, .off = 2, .len = 8, .iov = iov, .niov = 3
	};
	uint64_t mark;

	ck_assert_int_eq(run_op(r, &op), 0);
	/* Past the end: zeros. */
	memset(in, 'x', sizeof(in));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 0, .len = 20, .iov = &one, .niov = 1
	};
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_mem_eq(in, "\0\0helloyou\0\0\0\0\0\0\0\0\0\0", 20);
	memset(in, 'x', sizeof(in));
	iov[0] = (struct iovec){ in, 3 };
	iov[2] = (struct iovec){ in + 3, 17 };
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 8, .len = 20, .iov = iov, .niov = 3
	};
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_mem_eq(in, "ou\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	memset(in, 'x', sizeof(in));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 1 << 20, .len = 20, .iov = &one, .niov = 1
	};
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert(plt_is_zero(in, 20));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 0, .len = 0, .iov = NULL, .niov = 0
	};
	ck_assert_int_eq(run_op(r, &op), 0);

	op = (struct plt_op){
		.kind = PLT_OP_ZERO, .store = st, .off = 4, .len = 2, .tag = PLT_IO_L2
	};
	ck_assert_int_eq(run_op(r, &op), 0);
	mark = plt_store_sync_mark(st);
	op = (struct plt_op){ .kind = PLT_OP_SYNC, .store = st };
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert(plt_store_durable(st, mark));
	op = (struct plt_op){
		.kind = PLT_OP_READ, .store = st, .off = 2, .len = 8, .iov = &one, .niov = 1
	};
	one.iov_len = 8;
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_mem_eq(in, "he\0\0oyou", 8);
	op = (struct plt_op){ .kind = PLT_OP_DISCARD, .store = st, .off = 0, .len = 8 };
	run_op(r, &op);
	ck_assert(op.result == 0 || op.result == -ENOTSUP);
	plt_store_unref(st);
	end(r);
}
END_TEST

/* More pieces than the kernel takes at once: what is left follows, and zeros after the end. */
START_TEST(test_many_pieces)
{
	enum { N = 2500, PIECE = 7, LEN = N * PIECE };
	struct plt_ring *r = new_ring(_i, 2);
	struct plt_store *st = new_file(0);
	static uint8_t out[LEN], in[LEN];
	static struct iovec iov[N];
	struct plt_op op = {
		.kind = PLT_OP_WRITE, .store = st, .off = 3, .len = LEN, .iov = iov, .niov = N
	};

	for (int i = 0; i < LEN; i++)
		out[i] = i * 11;
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ out + PIECE * i, PIECE };
	ck_assert_int_eq(run_op(r, &op), 0);
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ in + PIECE * i, PIECE };
	op.kind = PLT_OP_READ;
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_mem_eq(in, out, LEN);
	memset(in, 0xee, LEN);
	op.off = 1003;
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_mem_eq(in, out + 1000, LEN - 1000);
	ck_assert(plt_is_zero(in + LEN - 1000, 1000));
	plt_store_unref(st);
	end(r);
}
END_TEST

START_TEST(test_errors)
{
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_store *st = new_file(0), *fault;
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

	ck_assert_int_eq(run_op(r, &op), -EFBIG);
	ck_assert_int_eq(err.code, EFBIG);
	/* The kernel's own errors get words too. */
	op.off = 0;
	op.iov = &bad;
	err = (struct plt_error)PLT_ERROR_INIT;
	ck_assert_int_eq(run_op(r, &op), -EFAULT);
	ck_assert_int_eq(err.code, EFAULT);
	ck_assert_ptr_nonnull(strstr(err.text, "write 4096 bytes"));
	ck_assert_ptr_nonnull(strstr(err.text, "ring-"));
	op.iov = &iov;
	st->readonly = true;
	ck_assert_int_eq(run_op(r, &op), -EROFS);
	st->readonly = false;
	/* After a failed sync no write may pass, by whatever way; reads do. */
	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert_int_eq(plt_fault_new(st, &fault), 0);
	plt_fault_add(fault, &rule);
	op = (struct plt_op){ .kind = PLT_OP_SYNC, .store = fault, .err = &err };
	ck_assert_int_eq(run_op(r, &op), -EIO);
	op = (struct plt_op){
		.kind = PLT_OP_WRITE, .store = fault, .len = 5, .iov = &iov, .niov = 1, .err = &err
	};
	iov.iov_len = 5;
	ck_assert_int_eq(run_op(r, &op), -EIO);
	atomic_store(&st->sync_error, EIO);
	op.store = st;
	ck_assert_int_eq(run_op(r, &op), -EIO);
	ck_assert_ptr_nonnull(strstr(err.text, "flush failed"));
	op.kind = PLT_OP_READ;
	ck_assert_int_eq(run_op(r, &op), 0);
	plt_store_unref(fault);
	plt_store_unref(st);
	end(r);
}
END_TEST

START_TEST(test_writethrough)
{
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_store *st = new_file(PLT_FILE_WRITETHROUGH);
	struct iovec iov = { (void *)"abc", 3 };
	struct plt_op op = { .kind = PLT_OP_WRITE, .store = st, .len = 3, .iov = &iov, .niov = 1 };
	uint64_t mark = plt_store_sync_mark(st);

	ck_assert_int_eq(run_op(r, &op), 0);
	ck_assert(plt_store_durable(st, mark));
	plt_store_unref(st);
	end(r);
}
END_TEST

static int call_result(struct plt_op *op)
{
	return -(int)op->off;
}

START_TEST(test_call)
{
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_op op = { .kind = PLT_OP_CALL, .call = call_result, .off = EDOM };

	ck_assert_int_eq(run_op(r, &op), -EDOM);
	end(r);
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
	struct plt_ring *r = new_ring(_i, 8);
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
	end(r);
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
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_op op = { .kind = PLT_OP_CALL, .call = wait_gate, .done = count_done };
	int before = done_count;
	pthread_t t;

	atomic_store(&gate, false);
	plt_ring_submit(r, &op);
	plt_ring_kick(r);
	ck_assert_int_eq(pthread_create(&t, NULL, wake_later, r), 0);
	ck_assert_int_eq(plt_ring_reap(r, true), 0);
	ck_assert_int_eq(done_count, before);
	pthread_join(t, NULL);
	atomic_store(&gate, true);
	while (done_count == before)
		plt_ring_reap(r, true);
	end(r);
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
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_store *st = new_file(0);
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
				      .done = count_done };
		before = done_count;
		plt_ring_submit(r, &op);
		plt_ring_kick(r);
		while (done_count == before) {
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
	end(r);
}
END_TEST

/* ---- thousands ---- */

#define UNITS 256
#define UNIT 4096
#define INFLIGHT 64

struct job {
	struct plt_op op; /* first */
	struct iovec iov[3];
	uint8_t *buf;
	uint32_t unit;
	uint8_t first, value;
};

static struct load {
	struct plt_ring *ring;
	struct plt_store *st;
	uint64_t random;
	uint8_t want[UNITS]; /* each unit holds one value, save its first byte: 0 */
	bool busy[UNITS];
	int left, errors, calls;
	bool unaligned;
} load;

static void next_job(struct job *j);

static void job_done(struct plt_op *op)
{
	struct job *j = (struct job *)op;

	if (op->result)
		load.errors++;
	if (op->kind == PLT_OP_READ)
		for (int i = 0; i < UNIT; i++)
			if (j->buf[i] != (i ? load.want[j->unit] : 0))
				load.errors++;
	load.busy[j->unit] = false;
	/* A completion that submits. */
	next_job(j);
}

static int job_call(struct plt_op *op)
{
	struct job *j = (struct job *)op;

	return plt_store_read(op->store, (uint64_t)j->unit * UNIT, j->buf, 100, PLT_IO_DATA, NULL);
}

static void cut(struct job *j, size_t a, size_t b)
{
	j->iov[0] = (struct iovec){ j->buf, a };
	j->iov[1] = (struct iovec){ j->buf + a, b - a };
	j->iov[2] = (struct iovec){ j->buf + b, UNIT - b };
	j->op.iov = j->iov;
	j->op.niov = 3;
}

static void next_job(struct job *j)
{
	uint64_t what = plt_unit_random(&load.random);

	if (!load.left)
		return;
	load.left--;
	do {
		j->unit = plt_unit_random(&load.random) % UNITS;
	} while (load.busy[j->unit]);
	load.busy[j->unit] = true;
	memset(&j->op, 0, sizeof(j->op));
	j->op.store = load.st;
	j->op.done = job_done;
	j->op.off = (uint64_t)j->unit * UNIT;
	j->op.len = UNIT;
	switch (what % 4) {
	case 0:
		cut(j, what / 4 % UNIT, UNIT);
		break;
	case 1:
		cut(j, 512, 1024);
		break;
	default:
		j->iov[0] = (struct iovec){ j->buf, UNIT };
		j->op.iov = j->iov;
		j->op.niov = 1;
		break;
	}
	switch (what / 16 % 16) {
	case 0 ... 6:
		j->op.kind = PLT_OP_READ;
		memset(j->buf, 0xee, UNIT);
		break;
	case 7 ... 12:
		j->op.kind = PLT_OP_WRITE;
		load.want[j->unit] = what >> 32;
		memset(j->buf, load.want[j->unit], UNIT);
		j->buf[0] = 0;
		break;
	case 13:
		j->op.kind = PLT_OP_ZERO;
		load.want[j->unit] = 0;
		break;
	case 14:
		j->op.kind = PLT_OP_SYNC;
		break;
	default:
		j->op.kind = PLT_OP_CALL;
		j->op.call = job_call;
		break;
	}
	plt_ring_submit(load.ring, &j->op);
}

static void run_load(struct plt_ring *r, struct plt_store *st, int ops)
{
	static struct job jobs[INFLIGHT];
	uint8_t *buf = aligned_alloc(UNIT, INFLIGHT * UNIT);

	memset(&load, 0, sizeof(load));
	load.ring = r;
	load.st = st;
	load.left = ops;
	load.random = plt_unit_seed();
	for (int i = 0; i < INFLIGHT; i++) {
		jobs[i].buf = buf + i * UNIT;
		next_job(&jobs[i]);
	}
	while (r->inflight) {
		plt_ring_kick(r);
		plt_ring_reap(r, true);
	}
	ck_assert_int_eq(load.left, 0);
	ck_assert_int_eq(load.errors, 0);
	free(buf);
}

START_TEST(test_load)
{
	/* More in flight than the ring is deep. */
	struct plt_ring *r = new_ring(_i, 16);
	struct plt_store *st = new_file(0);

	run_load(r, st, 20000);
	plt_store_unref(st);
	end(r);
}
END_TEST

START_TEST(test_load_direct)
{
	struct plt_ring *r = new_ring(_i, 32);
	struct plt_store *st = new_file(PLT_FILE_DIRECT);

	run_load(r, st, 4000);
	plt_store_unref(st);
	end(r);
}
END_TEST

/* A thread changes a part of a unit, over and over. */
struct part {
	struct plt_store *st;
	_Atomic bool stop;
	int bad;
};

#define PART_OFF 1001
#define PART_LEN 100

static void *write_parts(void *arg)
{
	struct part *p = arg;
	uint8_t out[PART_LEN];

	for (int i = 0; !atomic_load(&p->stop); i++) {
		memset(out, i, sizeof(out));
		if (plt_store_write(p->st, 8192 + PART_OFF, out, sizeof(out), PLT_IO_DATA, NULL))
			p->bad++;
	}
	return NULL;
}

/*
 * The whole unit is written through the ring meanwhile.  Around that part nothing else may ever be
 * read: what the thread read before must not be written back after.
 */
START_TEST(test_direct_beside)
{
	struct plt_ring *r = new_ring(_i, 8);
	struct plt_store *st = new_file(PLT_FILE_DIRECT);
	struct part p = { .st = st };
	uint8_t *buf = aligned_alloc(4096, 4096), *in = aligned_alloc(4096, 4096);
	struct iovec iov = { buf, 4096 }, riov = { in, 4096 };
	const size_t after = PART_OFF + PART_LEN;
	pthread_t t;

	st->limits.align = 4096;
	ck_assert_int_eq(plt_store_truncate(st, 1 << 20, NULL), 0);
	ck_assert_int_eq(pthread_create(&t, NULL, write_parts, &p), 0);
	for (int i = 0; i < 1000; i++) {
		struct plt_op op = { .kind = PLT_OP_WRITE,
				     .store = st,
				     .off = 8192,
				     .len = 4096,
				     .iov = &iov,
				     .niov = 1 };

		memset(buf, i, 4096);
		ck_assert_int_eq(run_op(r, &op), 0);
		op.kind = PLT_OP_READ;
		op.iov = &riov;
		ck_assert_int_eq(run_op(r, &op), 0);
		ck_assert_mem_eq(in, buf, PART_OFF);
		ck_assert_mem_eq(in + after, buf + after, 4096 - after);
	}
	atomic_store(&p.stop, true);
	pthread_join(t, NULL);
	ck_assert_int_eq(p.bad, 0);
	free(buf);
	free(in);
	plt_store_unref(st);
	end(r);
}
END_TEST

/* Through a store without a descriptor. */
START_TEST(test_load_memory)
{
	struct plt_ring *r = new_ring(_i, 16);
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	run_load(r, st, 5000);
	plt_store_unref(st);
	end(r);
}
END_TEST

/* Freed with operations in flight: they complete first. */
START_TEST(test_free_drains)
{
	struct plt_ring *r = new_ring(_i, 4);
	struct plt_store *st = new_file(0);
	struct plt_op ops[20];
	char c = 'x';
	struct iovec iov = { &c, 1 };

	done_count = 0;
	for (int i = 0; i < 20; i++) {
		ops[i] = (struct plt_op){ .kind = i % 3 ? PLT_OP_WRITE : PLT_OP_SYNC,
					  .store = st,
					  .off = i,
					  .len = 1,
					  .iov = &iov,
					  .niov = 1,
					  .done = count_done };
		plt_ring_submit(r, &ops[i]);
	}
	plt_ring_free(r);
	ck_assert_int_eq(done_count, 20);
	plt_store_unref(st);
	plt_pool_free(pool);
	pool = NULL;
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

static bool have_direct(void)
{
	const char *tmp = getenv("TMPDIR");
	struct plt_store *st;
	char name[4096];
	bool ok;

	snprintf(name, sizeof(name), "%s/platter-direct.%ld", tmp && *tmp ? tmp : "/tmp",
		 (long)getpid());
	ok = !plt_file_open(name, PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_DIRECT, &st, NULL);
	if (ok)
		plt_store_unref(st);
	unlink(name);
	return ok;
}

static Suite *suite(void)
{
	static const char *const names[KINDS] = { "inline", "threads", "io_uring", "test" };
	Suite *s = suite_create("ring");
	bool direct = have_direct();

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
		tcase_add_loop_test(tc, test_load, k, k + 1);
		tcase_add_loop_test(tc, test_load_memory, k, k + 1);
		tcase_add_loop_test(tc, test_free_drains, k, k + 1);
		if (direct) {
			tcase_add_loop_test(tc, test_load_direct, k, k + 1);
			tcase_add_loop_test(tc, test_direct_beside, k, k + 1);
		}
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
