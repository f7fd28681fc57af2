/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Progress: sums from many threads, the callback's rate and that it never runs twice at a time,
 * cancelling.
 */
#include <pthread.h>
#include <time.h>

#include "base/progress.h"
#include "tests/unit.h"

#define THREADS 4

struct watch {
	_Atomic int inside, most, ticks;
	unsigned sleep_ms;
};

static void sleep_ms(unsigned ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static void tick(struct plt_progress *p, void *arg)
{
	struct watch *w = arg;
	int now = atomic_fetch_add(&w->inside, 1) + 1;

	if (now > atomic_load(&w->most))
		atomic_store(&w->most, now);
	ck_assert_uint_le(atomic_load(&p->done), 1000000);
	atomic_fetch_add(&w->ticks, 1);
	sleep_ms(w->sleep_ms);
	atomic_fetch_sub(&w->inside, 1);
}

static void *add_for_400_ms(void *arg)
{
	struct plt_progress *p = arg;

	for (unsigned i = 0; i < 400; i++) {
		plt_progress_add(p, 1);
		sleep_ms(1);
	}
	return NULL;
}

static void run(struct plt_progress *p)
{
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, add_for_400_ms, p), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(atomic_load(&p->done), THREADS * 400);
}

START_TEST(ten_a_second_at_most)
{
	struct watch w = { .sleep_ms = 0 };
	struct plt_progress p = { .tick = tick, .arg = &w };
	struct timespec from, to;
	double seconds;

	clock_gettime(CLOCK_MONOTONIC, &from);
	run(&p);
	clock_gettime(CLOCK_MONOTONIC, &to);
	seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	/* The first addition ticks at once; the coarse clock may run one of its steps ahead. */
	ck_assert_int_ge(atomic_load(&w.ticks), 2);
	ck_assert(atomic_load(&w.ticks) <= 2 + (int)(seconds / 0.09));
}
END_TEST

START_TEST(one_at_a_time)
{
	struct watch w = { .sleep_ms = 150 }; /* longer than the period */
	struct plt_progress p = { .tick = tick, .arg = &w };

	run(&p);
	ck_assert_int_eq(atomic_load(&w.most), 1);
	ck_assert_int_ge(atomic_load(&w.ticks), 1);
}
END_TEST

START_TEST(null_and_cancel)
{
	struct plt_progress p = { 0 };

	plt_progress_add(NULL, 1);
	plt_progress_add_total(NULL, 1);
	ck_assert(!plt_progress_cancelled(NULL));
	plt_progress_add_total(&p, 10);
	plt_progress_add_total(&p, 5);
	plt_progress_add(&p, 3);
	ck_assert_uint_eq(atomic_load(&p.total), 15);
	ck_assert_uint_eq(atomic_load(&p.done), 3);
	ck_assert(!plt_progress_cancelled(&p));
	atomic_store(&p.cancelled, true);
	ck_assert(plt_progress_cancelled(&p));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("progress");
	TCase *tc = tcase_create("progress");

	tcase_add_test(tc, ten_a_second_at_most);
	tcase_add_test(tc, one_at_a_time);
	tcase_add_test(tc, null_and_cancel);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
