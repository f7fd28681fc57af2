/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * base/crew.c and rate.c: everybody works, the first failure is the result and stops the rest,
 * progress can cancel, and the rate limit holds however many ask.
 */
#include "base/crew.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "tests/unit.h"

struct work {
	struct plt_crew crew;
	struct plt_rate rate;
	unsigned next, n, fail_at;
	_Atomic unsigned done, calls;
	uint64_t bytes;
};

static int count(void *arg, unsigned index)
{
	struct work *w = arg;

	(void)index;
	while (plt_crew_going(&w->crew)) {
		unsigned i;

		pthread_mutex_lock(&w->crew.lock);
		i = w->next < w->n ? w->next++ : w->n;
		pthread_mutex_unlock(&w->crew.lock);
		if (i == w->n)
			return 0;
		if (i == w->fail_at) {
			struct plt_error err = PLT_ERROR_INIT;

			plt_error_set(&err, EIO, "piece %u", i);
			return plt_crew_fail(&w->crew, -EIO, &err);
		}
		if (w->bytes && !plt_rate_take(&w->rate, w->bytes, &w->crew))
			return 0;
		w->done++;
		plt_crew_done(&w->crew, 1);
		if (!w->bytes)
			usleep(100);
	}
	return 0;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

START_TEST(all_of_it)
{
	struct work w = { .n = 500, .fail_at = UINT32_MAX };

	ck_assert_int_eq(plt_crew_init(&w.crew, NULL, NULL), 0);
	ck_assert_int_eq(plt_crew_run(&w.crew, 4, count, &w, NULL), 0);
	ck_assert_uint_eq(w.done, 500);
	plt_crew_release(&w.crew);
}
END_TEST

START_TEST(first_failure)
{
	struct work w = { .n = 100000, .fail_at = 40 };
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_crew_init(&w.crew, NULL, NULL), 0);
	ck_assert_int_eq(plt_crew_run(&w.crew, 4, count, &w, &err), -EIO);
	ck_assert_str_eq(err.text, "piece 40");
	ck_assert_uint_lt(w.done, 1000);
	plt_crew_release(&w.crew);
}
END_TEST

static int silent_failure(void *arg, unsigned index)
{
	(void)arg;
	return index == 0 ? -ENOMEM : 0;
}

START_TEST(failure_without_text)
{
	struct work w = { .n = 1 };
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_crew_init(&w.crew, NULL, NULL), 0);
	ck_assert_int_eq(plt_crew_run(&w.crew, 3, silent_failure, &w, &err), -ENOMEM);
	ck_assert_str_ne(err.text, "");
	plt_crew_release(&w.crew);
}
END_TEST

static int cancel_later(void *arg, uint64_t done, uint64_t total)
{
	struct work *w = arg;

	ck_assert_uint_eq(total, 100000);
	ck_assert_uint_le(done, total);
	return ++w->calls == 3;
}

START_TEST(cancelled)
{
	struct work w = { .n = 100000, .fail_at = UINT32_MAX };
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_crew_init(&w.crew, cancel_later, &w), 0);
	plt_crew_expect(&w.crew, w.n);
	ck_assert_int_eq(plt_crew_run(&w.crew, 2, count, &w, &err), -ECANCELED);
	ck_assert_uint_eq(w.calls, 3);
	ck_assert_uint_lt(w.done, w.n);
	plt_crew_release(&w.crew);
}
END_TEST

static int note_steps(void *arg, uint64_t done, uint64_t total)
{
	struct work *w = arg;

	ck_assert_uint_eq(total, 4);
	ck_assert_uint_eq(done, ++w->calls - 1);
	return 0;
}

/* A run too short for the clock is shown step by step, each once and in order. */
START_TEST(steps)
{
	struct work w = { .n = 4, .fail_at = UINT32_MAX };

	ck_assert_int_eq(plt_crew_init(&w.crew, note_steps, &w), 0);
	plt_crew_expect(&w.crew, w.n);
	plt_crew_done(&w.crew, 0);
	ck_assert_int_eq(plt_crew_run(&w.crew, 4, count, &w, NULL), 0);
	ck_assert_uint_eq(w.calls, 5);
	plt_crew_release(&w.crew);
}
END_TEST

/* 40 pieces of 1 MiB at 100 MiB/s: 0.4 s, of which a burst of 0.1 s is free. */
START_TEST(rate)
{
	struct work w = { .n = 40, .fail_at = UINT32_MAX, .bytes = 1 << 20 };
	double begin = seconds(), took;

	ck_assert_int_eq(plt_crew_init(&w.crew, NULL, NULL), 0);
	ck_assert_int_eq(plt_rate_init(&w.rate, 100 << 20), 0);
	ck_assert_int_eq(plt_crew_run(&w.crew, 4, count, &w, NULL), 0);
	took = seconds() - begin;
	ck_assert_msg(took > 0.28, "%.3f s", took);
	ck_assert_msg(took < 5, "%.3f s", took);
	ck_assert_uint_eq(w.done, 40);
	plt_rate_release(&w.rate);
	plt_crew_release(&w.crew);
}
END_TEST

START_TEST(size)
{
	ck_assert_uint_ge(plt_crew_size(0, 2), 2);
	ck_assert_uint_eq(plt_crew_size(1, 2), 1);
	ck_assert_uint_le(plt_crew_size(1000, 1), PLT_CREW_MAX);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("crew");
	TCase *tc = tcase_create("crew");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, all_of_it);
	tcase_add_test(tc, first_failure);
	tcase_add_test(tc, failure_without_text);
	tcase_add_test(tc, cancelled);
	tcase_add_test(tc, steps);
	tcase_add_test(tc, rate);
	tcase_add_test(tc, size);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
