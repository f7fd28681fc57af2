/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Thousands of random operations through a ring, each held against an array of bytes: more in flight than the ring is
 * deep, submitted by completions, and with O_DIRECT beside one who writes parts of the same sectors.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/io/rings.h"

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
	struct plt_ring *r = ring_new(_i, 16);
	struct plt_store *st = ring_file(0);

	run_load(r, st, 20000);
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

START_TEST(test_load_direct)
{
	struct plt_ring *r = ring_new(_i, 32);
	struct plt_store *st = ring_file(PLT_FILE_DIRECT);

	run_load(r, st, 4000);
	plt_store_unref(st);
	ring_end(r);
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
	struct plt_ring *r = ring_new(_i, 8);
	struct plt_store *st = ring_file(PLT_FILE_DIRECT);
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
		ck_assert_int_eq(ring_run(r, &op), 0);
		op.kind = PLT_OP_READ;
		op.iov = &riov;
		ck_assert_int_eq(ring_run(r, &op), 0);
		ck_assert_mem_eq(in, buf, PART_OFF);
		ck_assert_mem_eq(in + after, buf + after, 4096 - after);
	}
	atomic_store(&p.stop, true);
	pthread_join(t, NULL);
	ck_assert_int_eq(p.bad, 0);
	free(buf);
	free(in);
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

/* Through a store without a descriptor. */
START_TEST(test_load_memory)
{
	struct plt_ring *r = ring_new(_i, 16);
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	run_load(r, st, 5000);
	plt_store_unref(st);
	ring_end(r);
}
END_TEST

void ring_load_tests(TCase *tc, enum ring_kind kind, bool direct)
{
	const int k = (int)kind;

	tcase_add_loop_test(tc, test_load, k, k + 1);
	tcase_add_loop_test(tc, test_load_memory, k, k + 1);
	if (direct) {
		tcase_add_loop_test(tc, test_load_direct, k, k + 1);
		tcase_add_loop_test(tc, test_direct_beside, k, k + 1);
	}
}
