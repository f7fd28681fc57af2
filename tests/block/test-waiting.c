/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What requests wait for, each by itself: range locks, epochs, gates, the right to slots beyond the budget.
 * Whoever waits is woken once, in the order of asking, and only when nobody who came before is in the way.  And who
 * must not wait: a blocking call on a thread whose own queue has the answer.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/block/exclusive.h"

/* ---- frames that only wait ------------------------------------------------------------------- */

struct bench {
	struct plt_ctx *ctx;
	struct plt_store *file;
	struct plt_disk *disk;
	struct plt_image *img;
	struct lab_queue lq;
	uint64_t seed;
};

static void bench_new(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	b->seed = plt_unit_seed();
	b->ctx = lab_ctx(1);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &b->file), 0);
	lab_create(b->ctx, b->file, "cluster_size=4096", 1 << 20, false);
	b->disk = lab_open(b->ctx, b->file, NULL);
	b->img = plt_disk_image(b->disk);
	lab_queue_new(&b->lq, b->ctx);
}

static void bench_free(struct bench *b)
{
	lab_queue_free(&b->lq);
	lab_close(b->disk);
	plt_store_unref(b->file);
	plt_ctx_free(b->ctx);
}

struct waiter {
	struct plt_io *io;
	unsigned woken;
	bool has;
};

static void waiter_step(struct plt_io *io)
{
	struct waiter *w = io->arg;

	w->woken++;
	w->has = true;
}

static void waiter_new(struct bench *b, struct waiter *w)
{
	memset(w, 0, sizeof(*w));
	w->io = plt_io_new(b->lq.q, NULL, b->img, PLT_IO_RESIZE_REQ);
	w->io->step = waiter_step;
	w->io->arg = w;
}

/* ---- range locks ----------------------------------------------------------------------------- */

#define WAITERS 64

START_TEST(range_locks)
{
	struct waiter w[WAITERS];
	struct { uint64_t off, end; } r[WAITERS];
	struct bench b;
	unsigned live = 0;

	bench_new(&b);
	for (unsigned round = 0; round < 40; round++) {
		live = 0;
		for (unsigned i = 0; i < WAITERS; i++) {
			uint64_t off = plt_unit_random(&b.seed) % 200000, len = 1 + plt_unit_random(&b.seed) % 30000;

			waiter_new(&b, &w[i]);
			r[i].off = off / 4096 * 4096;
			r[i].end = (off + len + 4095) / 4096 * 4096;
			w[i].has = plt_range_lock(w[i].io, off, len);
			live++;
		}
		while (live) {
			unsigned held[WAITERS], n = 0;

			lab_settle(&b.lq);
			for (unsigned i = 0; i < WAITERS; i++) {
				bool blocked = false;

				if (!w[i].io)
					continue;
				/* it has its lock just when nothing that came before it overlaps */
				for (unsigned j = 0; j < i; j++)
					blocked |= w[j].io && r[j].off < r[i].end && r[i].off < r[j].end;
				lab_expect(w[i].has == !blocked, "range %u: has it %d, blocked %d", i, w[i].has,
					      blocked);
				lab_expect(w[i].woken <= 1, "woken twice");
				if (w[i].has)
					held[n++] = i;
			}
			ck_assert_uint_gt(n, 0);
			n = held[plt_unit_random(&b.seed) % n];
			ck_assert(plt_range_lock(w[n].io, 0, 1)); /* held: asking again says so */
			plt_io_finish(w[n].io);
			w[n].io = NULL;
			live--;
		}
		ck_assert_ptr_null(b.img->engine->ranges);
		ck_assert_ptr_null(b.img->engine->ranges_tail);
	}
	bench_free(&b);
}
END_TEST

/* ---- epochs ---------------------------------------------------------------------------------- */

/* Drains start at any time, also while one is under way: each waits for who was in before, and no more. */
START_TEST(epoch_drains)
{
	struct bench b;
	struct { unsigned which; uint64_t since; bool in; } guest[16] = { 0 };
	struct { struct waiter w; uint64_t since; bool live; } drain[16] = { 0 };
	struct plt_engine *eng;
	uint64_t clock = 0;

	bench_new(&b);
	eng = b.img->engine;
	for (unsigned n = 0; n < 20000; n++) {
		unsigned i = (unsigned)(plt_unit_random(&b.seed) % 16);

		clock++;
		if (plt_unit_random(&b.seed) % 4) {
			if (guest[i].in)
				plt_epoch_leave(eng, guest[i].which);
			else
				guest[i].which = plt_epoch_enter(eng);
			guest[i].in = !guest[i].in;
			guest[i].since = clock;
		} else if (!drain[i].live) {
			waiter_new(&b, &drain[i].w);
			drain[i].live = true;
			drain[i].since = clock;
			if (plt_epoch_drained(eng, drain[i].w.io))
				drain[i].w.has = true;
		}
		lab_settle(&b.lq);
		for (unsigned k = 0; k < 16; k++) {
			bool older = false;

			for (unsigned g = 0; g < 16; g++)
				older |= guest[g].in && guest[g].since < drain[k].since;
			lab_expect(!drain[k].live || !drain[k].w.has || !older,
				   "a drain ends although an older guest is in");
			if (drain[k].live && drain[k].w.has) {
				lab_expect(drain[k].w.woken <= 1, "woken twice");
				plt_io_free(drain[k].w.io);
				drain[k].live = false;
			}
		}
	}
	for (unsigned i = 0; i < 16; i++)
		if (guest[i].in)
			plt_epoch_leave(eng, guest[i].which);
	lab_settle(&b.lq);
	for (unsigned i = 0; i < 16; i++) /* nobody is in: nobody waits */
		ck_assert(!drain[i].live || drain[i].w.has);
	for (unsigned i = 0; i < 16; i++)
		if (drain[i].live)
			plt_io_free(drain[i].w.io);
	ck_assert(!atomic_load(&eng->draining));
	ck_assert_int_eq(atomic_load(&eng->in_epoch[0]), 0);
	ck_assert_int_eq(atomic_load(&eng->in_epoch[1]), 0);
	bench_free(&b);
}
END_TEST

/* ---- gates ----------------------------------------------------------------------------------- */

/* Three owners, one behind the other; what parked meanwhile goes when the last one has opened. */
START_TEST(gates_are_handed_over)
{
	struct bench b;
	struct exclusive x[3];
	struct lab_req w = { .kind = PLT_IO_WRITE_REQ, .len = 512 }, r = { .kind = PLT_IO_READ_REQ, .len = 512 };
	uint8_t wbuf[512] = "x", rbuf[512];
	unsigned n, held = 0;

	bench_new(&b);
	for (unsigned i = 0; i < 3; i++)
		exclusive_start(b.lq.q, b.img, &x[i], i == 1 ? 2 : 1);
	w.buf = wbuf;
	r.buf = rbuf;
	lab_start(b.lq.q, b.img, &w, &b.lq.clock);
	while ((n = lab_settle(&b.lq))) {
		unsigned now = x[0].held + x[1].held + x[2].held;

		ck_assert_uint_le(now, 1);
		held += now;
		if (x[1].held && !r.started) {
			lab_start(b.lq.q, b.img, &r, &b.lq.clock);
			ck_assert_uint_eq(lab_settle(&b.lq), n); /* it parks */
		}
		ck_assert(!w.done || x[2].done);
		ck_assert(!r.done || x[1].done);
		lab_complete(&b.lq, 0);
	}
	ck_assert_uint_ge(held, 3);
	ck_assert(w.done && r.done && x[0].done && x[1].done && x[2].done);
	ck_assert_int_eq(w.result, 0);
	ck_assert_int_eq(r.result, 0);
	ck_assert_int_eq(atomic_load(&b.img->engine->gate), 0);
	ck_assert_ptr_null(b.img->engine->gate_owner);
	bench_free(&b);
}
END_TEST

/* Privilege goes from one to the next in the order of asking, also when a holder's request fails. */
START_TEST(privilege_is_passed_on)
{
	struct waiter w[5];
	struct bench b;

	bench_new(&b);
	for (unsigned i = 0; i < 5; i++) {
		waiter_new(&b, &w[i]);
		w[i].has = plt_cache_slot_wait(w[i].io);
	}
	for (unsigned i = 0; i < 5; i++) {
		lab_settle(&b.lq);
		for (unsigned j = 0; j < 5; j++)
			ck_assert_int_eq(w[j].has, j <= i);
		ck_assert(w[i].io->pins.privileged);
		if (i % 2)
			plt_io_fail(w[i].io, EIO, NULL);
		plt_io_finish(w[i].io);
	}
	waiter_new(&b, &w[0]);
	ck_assert(plt_cache_slot_wait(w[0].io));
	plt_io_finish(w[0].io);
	bench_free(&b);
}
END_TEST

/* ---- blocking calls beside a queue ----------------------------------------------------------- */

struct beside {
	struct plt_ctx *ctx;
	struct plt_store *file, *base;
	struct plt_disk *disk;
	struct lab_queue lq;
	struct lab_req req;
	uint8_t buf[512];
};

/* A read of the backing file's bytes is under way on this thread's queue. */
static void beside_new(struct beside *b)
{
	memset(b, 0, sizeof(*b));
	b->ctx = lab_ctx(0);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &b->file), 0);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &b->base), 0);
	lab_must(plt_store_truncate(b->base, 1 << 20, NULL), NULL);
	lab_create(b->ctx, b->file, NULL, 1 << 20, true);
	b->disk = lab_open(b->ctx, b->file, b->base);
	lab_queue_new(&b->lq, b->ctx);
	b->req = (struct lab_req){ .kind = PLT_IO_READ_REQ, .len = 512, .buf = b->buf };
	lab_start(b->lq.q, plt_disk_image(b->disk), &b->req, &b->lq.clock);
	ck_assert_uint_eq(lab_settle(&b->lq), 1);
}

START_TEST(a_thread_knows_what_it_has_in_flight)
{
	struct beside b, other;

	beside_new(&b);
	beside_new(&other);
	for (unsigned i = 0; i < 2; i++) {
		struct beside *x = i ? &b : &other;
		const struct plt_image *img = plt_disk_image(x->disk);

		ck_assert(plt_queue_busy_with(img));
		ck_assert(plt_queue_busy_with(img->engine->backing));
		while (lab_settle(&x->lq))
			lab_complete(&x->lq, 0);
		ck_assert(x->req.done);
		ck_assert(!plt_queue_busy_with(img));
		ck_assert(!plt_queue_busy_with(img->engine->backing));
		lab_must(plt_read(x->disk, 0, x->buf, 512, NULL), NULL);
	}
	lab_queue_free(&b.lq);
	lab_queue_free(&other.lq);
	lab_close(b.disk);
	lab_close(other.disk);
	plt_store_unref(b.file);
	plt_store_unref(b.base);
	plt_store_unref(other.file);
	plt_store_unref(other.base);
	plt_ctx_free(b.ctx);
	plt_ctx_free(other.ctx);
}
END_TEST

#ifndef NDEBUG
START_TEST(a_blocking_call_beside_them_is_refused)
{
	struct beside b;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		beside_new(&b);
		(void)plt_flush(b.disk, NULL);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
END_TEST
#endif

int main(void)
{
	Suite *s = suite_create("block/waiting");
	TCase *t = tcase_create("waiting");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, range_locks);
	tcase_add_test(t, epoch_drains);
	tcase_add_test(t, gates_are_handed_over);
	tcase_add_test(t, privilege_is_passed_on);
	tcase_add_test(t, a_thread_knows_what_it_has_in_flight);
#ifndef NDEBUG
	tcase_add_test(t, a_blocking_call_beside_them_is_refused);
#endif
	suite_add_tcase(s, t);
	return plt_unit_main(s);
}
