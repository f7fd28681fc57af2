/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The pool: all jobs run, none before it is needed starts a thread, parallel work hands out each
 * index once, stops at a failure, nests inside workers deeper than the pool is wide, and survives a
 * system that refuses threads.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/pool.h"
#include "tests/unit.h"

static int count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static _Atomic unsigned ran;

static void count_and_free(struct plt_job *job)
{
	atomic_fetch_add(&ran, 1);
	free(job);
}

static void submit_counted(struct plt_pool *pool)
{
	struct plt_job *job = calloc(1, sizeof(*job));

	job->fn = count_and_free;
	plt_pool_submit(pool, job);
}

START_TEST(free_waits_for_all_jobs)
{
	struct plt_pool *pool;

	atomic_store(&ran, 0);
	ck_assert_int_eq(plt_pool_new(3, &pool), 0);
	for (unsigned i = 0; i < 10000; i++)
		submit_counted(pool);
	plt_pool_free(pool);
	ck_assert_uint_eq(atomic_load(&ran), 10000);
	plt_pool_free(NULL);
}
END_TEST

START_TEST(no_thread_before_a_job)
{
	struct plt_pool *pool;
	int before = count_threads();

	ck_assert_int_eq(plt_pool_new(8, &pool), 0);
	ck_assert_int_eq(count_threads(), before);
	atomic_store(&ran, 0);
	submit_counted(pool);
	while (!atomic_load(&ran))
		usleep(1000);
	ck_assert_int_eq(count_threads(), before + 1);
	plt_pool_free(pool);
}
END_TEST

struct chained {
	struct plt_job job;
	struct plt_pool *pool;
	unsigned left;
};

static void submit_another(struct plt_job *job)
{
	struct chained *c = (struct chained *)job;

	atomic_fetch_add(&ran, 1);
	if (c->left--)
		plt_pool_submit(c->pool, &c->job);
}

START_TEST(jobs_may_submit_jobs)
{
	struct chained c = { .job.fn = submit_another, .left = 999 };

	atomic_store(&ran, 0);
	ck_assert_int_eq(plt_pool_new(2, &c.pool), 0);
	plt_pool_submit(c.pool, &c.job);
	plt_pool_free(c.pool);
	ck_assert_uint_eq(atomic_load(&ran), 1000);
}
END_TEST

struct blocker {
	struct plt_job job;
	sem_t *begun, *go;
};

static void block(struct plt_job *job)
{
	struct blocker *b = (struct blocker *)job;

	sem_post(b->begun);
	sem_wait(b->go);
}

START_TEST(jobs_run_side_by_side)
{
	struct blocker b[3];
	struct plt_pool *pool;
	sem_t begun, go;

	sem_init(&begun, 0, 0);
	sem_init(&go, 0, 0);
	ck_assert_int_eq(plt_pool_new(3, &pool), 0);
	for (unsigned i = 0; i < 3; i++) {
		b[i] = (struct blocker){ { .fn = block }, &begun, &go };
		plt_pool_submit(pool, &b[i].job);
	}
	/* All three are inside at once, or this waits until the test's time is over. */
	for (unsigned i = 0; i < 3; i++)
		sem_wait(&begun);
	for (unsigned i = 0; i < 3; i++)
		sem_post(&go);
	plt_pool_free(pool);
}
END_TEST

#define ITEMS 5000

static int mark(void *arg, unsigned i)
{
	_Atomic unsigned char *seen = arg;

	atomic_fetch_add(&seen[i], 1);
	return 0;
}

START_TEST(parallel_hands_out_each_index_once)
{
	static _Atomic unsigned char seen[ITEMS];
	struct plt_pool *pool;

	ck_assert_int_eq(plt_pool_new(4, &pool), 0);
	for (unsigned n = 0; n <= ITEMS; n = n * 3 + 1) {
		memset((void *)seen, 0, sizeof(seen));
		ck_assert_int_eq(plt_pool_parallel(pool, n, mark, seen), 0);
		for (unsigned i = 0; i < ITEMS; i++)
			ck_assert_uint_eq(atomic_load(&seen[i]), i < n);
	}
	plt_pool_free(pool);
}
END_TEST

static int fail_at_100(void *arg, unsigned i)
{
	_Atomic unsigned *calls = arg;

	atomic_fetch_add(calls, 1);
	return i == 100 ? -EIO : 0;
}

START_TEST(parallel_stops_at_a_failure)
{
	_Atomic unsigned calls = 0;
	struct plt_pool *pool;

	ck_assert_int_eq(plt_pool_new(4, &pool), 0);
	ck_assert_int_eq(plt_pool_parallel(pool, 100000000, fail_at_100, &calls), -EIO);
	ck_assert_uint_lt(atomic_load(&calls), 100000000);
	/* One index runs on the caller alone. */
	ck_assert_int_eq(plt_pool_parallel(pool, 1, fail_at_100, &calls), 0);
	plt_pool_free(pool);
}
END_TEST

struct nest {
	struct plt_pool *pool;
	unsigned depth;
	_Atomic unsigned *leaves;
};

static int go_deeper(void *arg, unsigned i)
{
	const struct nest *nest = arg;
	struct nest inner = { nest->pool, nest->depth - 1, nest->leaves };

	(void)i;
	if (!nest->depth) {
		atomic_fetch_add(nest->leaves, 1);
		return 0;
	}
	return plt_pool_parallel(nest->pool, 4, go_deeper, &inner);
}

START_TEST(parallel_nests_inside_workers)
{
	_Atomic unsigned leaves = 0;
	struct nest nest = { .depth = 5, .leaves = &leaves };

	ck_assert_int_eq(plt_pool_new(2, &nest.pool), 0);
	ck_assert_int_eq(plt_pool_parallel(nest.pool, 4, go_deeper, &nest), 0);
	ck_assert_uint_eq(atomic_load(&leaves), 4096);
	plt_pool_free(nest.pool);
}
END_TEST

struct outer {
	struct plt_job job;
	struct plt_pool *pool;
	_Atomic unsigned *leaves;
	sem_t *done;
};

static void parallel_in_job(struct plt_job *job)
{
	struct outer *o = (struct outer *)job;
	struct nest nest = { o->pool, 1, o->leaves };

	if (plt_pool_parallel(o->pool, 4, go_deeper, &nest))
		abort();
	sem_post(o->done);
}

START_TEST(parallel_in_every_worker_at_once)
{
	_Atomic unsigned leaves = 0;
	struct outer o[50];
	struct plt_pool *pool;
	sem_t done;

	/* Every thread of the pool is busy with a job that calls parallel: none may wait for another. */
	sem_init(&done, 0, 0);
	ck_assert_int_eq(plt_pool_new(2, &pool), 0);
	for (unsigned i = 0; i < 50; i++) {
		o[i] = (struct outer){ { .fn = parallel_in_job }, pool, &leaves, &done };
		plt_pool_submit(pool, &o[i].job);
	}
	for (unsigned i = 0; i < 50; i++)
		sem_wait(&done);
	ck_assert_uint_eq(atomic_load(&leaves), 50 * 16);
	plt_pool_free(pool);
}
END_TEST

static int slow_index_0(void *arg, unsigned i)
{
	_Atomic unsigned *finished = arg;

	if (i == 0)
		usleep(50000);
	atomic_fetch_add(finished, 1);
	return 0;
}

START_TEST(parallel_waits_for_what_has_begun)
{
	struct plt_pool *pool;

	ck_assert_int_eq(plt_pool_new(2, &pool), 0);
	for (unsigned i = 0; i < 10; i++) {
		_Atomic unsigned finished = 0;

		ck_assert_int_eq(plt_pool_parallel(pool, 3, slow_index_0, &finished), 0);
		ck_assert_uint_eq(atomic_load(&finished), 3);
	}
	plt_pool_free(pool);
}
END_TEST

static int signals_blocked(void *arg, unsigned i)
{
	sigset_t set;

	(void)i;
	usleep(20000); /* so that workers come to take part */
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	if (!pthread_equal(pthread_self(), *(pthread_t *)arg) && !sigismember(&set, SIGUSR1))
		return -EIO;
	return 0;
}

START_TEST(workers_take_no_signals)
{
	pthread_t self = pthread_self();
	struct plt_pool *pool;
	sigset_t set;

	ck_assert_int_eq(plt_pool_new(2, &pool), 0);
	ck_assert_int_eq(plt_pool_parallel(pool, 6, signals_blocked, &self), 0);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	ck_assert_int_eq(sigismember(&set, SIGUSR1), 0);
	plt_pool_free(pool);
}
END_TEST

static void is_on_caller(struct plt_job *job)
{
	(void)job;
	atomic_fetch_add(&ran, 1);
}

START_TEST(no_threads_to_be_had)
{
	struct rlimit none = { 0, 0 }, old;
	struct plt_job job = { .fn = is_on_caller };
	struct plt_pool *pool;
	_Atomic unsigned finished = 0;

	ck_assert_int_eq(plt_pool_new(2, &pool), 0);
	/* No address space is left for a stack; what malloc() has already is enough for the rest. */
	ck_assert_int_eq(getrlimit(RLIMIT_AS, &old), 0);
	none.rlim_max = old.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &none), 0);
	atomic_store(&ran, 0);
	plt_pool_submit(pool, &job);
	/* Nothing but this thread can have run it. */
	ck_assert_uint_eq(atomic_load(&ran), 1);
	ck_assert_int_eq(plt_pool_parallel(pool, 3, slow_index_0, &finished), 0);
	ck_assert_uint_eq(atomic_load(&finished), 3);
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &old), 0);
	plt_pool_free(pool);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("pool");
	TCase *tc = tcase_create("pool");

	tcase_add_test(tc, free_waits_for_all_jobs);
	tcase_add_test(tc, no_thread_before_a_job);
	tcase_add_test(tc, jobs_may_submit_jobs);
	tcase_add_test(tc, jobs_run_side_by_side);
	tcase_add_test(tc, parallel_hands_out_each_index_once);
	tcase_add_test(tc, parallel_stops_at_a_failure);
	tcase_add_test(tc, parallel_nests_inside_workers);
	tcase_add_test(tc, parallel_in_every_worker_at_once);
	tcase_add_test(tc, parallel_waits_for_what_has_begun);
	tcase_add_test(tc, workers_take_no_signals);
	/* A sanitizer's shadow memory is address space. */
	if (!getenv("PLT_SANITIZER"))
		tcase_add_test(tc, no_threads_to_be_had);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
