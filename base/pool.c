/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The worker threads: one queue, first come first served, under one lock.  Protects two promises.
 * Submitting never blocks and never fails: a thread is started only when more jobs wait than
 * threads are idle, and when not even the first can be started the caller runs the job.  And
 * plt_pool_parallel() never waits for a job that has not begun: its helpers are invitations, which
 * may run long after the call returned, and then find nothing left to do.  What a job may block on
 * is left to those who submit.
 */
#include "base/pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"

#if defined(__has_feature)
#define HAS_FEATURE(f) __has_feature(f)
#else
#define HAS_FEATURE(f) 0
#endif

/* Callers count address space: a stack has no more than the deepest job (compression) needs. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
	HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
#define STACK_BYTES (1024 * 1024) /* sanitizers' frames are several times larger */
#else
#define STACK_BYTES (256 * 1024)
#endif

struct plt_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;       /* a job came, or stop */
	struct plt_job *head, **tail;
	unsigned waiting;          /* jobs in the queue */
	unsigned idle;             /* threads in pthread_cond_wait() */
	bool stop;
	int max_threads;
	int nthreads;              /* started, in threads[] */
	pthread_t threads[];
};

int plt_pool_new(int max_threads, struct plt_pool **ret)
{
	struct plt_pool *pool;

	if (max_threads <= 0) {
		long cores = sysconf(_SC_NPROCESSORS_ONLN);

		max_threads = cores > 0 ? (int)PLT_MIN(cores, 1024L) : 1;
	}
	pool = calloc(1, sizeof(*pool) + (size_t)max_threads * sizeof(pool->threads[0]));
	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->tail = &pool->head;
	pool->max_threads = max_threads;
	*ret = pool;
	return 0;
}

static void *worker(void *arg)
{
	struct plt_pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct plt_job *job = pool->head;

		if (job) {
			pool->head = job->next;
			if (!pool->head)
				pool->tail = &pool->head;
			pool->waiting--;
			pthread_mutex_unlock(&pool->lock);
			job->fn(job); /* may free it */
			pthread_mutex_lock(&pool->lock);
		} else if (pool->stop) {
			break;
		} else {
			pool->idle++;
			pthread_cond_wait(&pool->work, &pool->lock);
			pool->idle--;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* With the lock held.  Signals stay with the program's own threads. */
static bool start_thread(struct plt_pool *pool)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int ret;

	if (pthread_attr_init(&attr))
		return false;
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* refused: the default will do */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&pool->threads[pool->nthreads], &attr, worker, pool);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (ret)
		return false;
	pool->nthreads++;
	return true;
}

void plt_pool_submit(struct plt_pool *pool, struct plt_job *job)
{
	bool run_here = false;

	pthread_mutex_lock(&pool->lock);
	assert(!pool->stop || pool->nthreads);
	if (pool->waiting >= pool->idle && pool->nthreads < pool->max_threads && !pool->stop)
		run_here = !start_thread(pool) && !pool->nthreads;
	if (!run_here) {
		job->next = NULL;
		*pool->tail = job;
		pool->tail = &job->next;
		pool->waiting++;
		pthread_cond_signal(&pool->work);
	}
	pthread_mutex_unlock(&pool->lock);
	if (run_here)
		job->fn(job);
}

void plt_pool_free(struct plt_pool *pool)
{
	if (!pool)
		return;
	/* Workers stop at an empty queue only: jobs submitted by jobs run as well. */
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (int i = 0; i < pool->nthreads; i++)
		pthread_join(pool->threads[i], NULL);
	assert(!pool->head);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/* ---- parallel -------------------------------------------------------------------------------- */

/* One call of plt_pool_parallel(): lives until the caller and every helper have let go. */
struct parallel {
	pthread_mutex_t lock;
	pthread_cond_t quiet;   /* running became 0 */
	int (*fn)(void *arg, unsigned i);
	void *arg;
	unsigned next, n;       /* indexes from next on are not handed out yet */
	unsigned running;       /* threads inside fn */
	unsigned refs;
	int result;             /* the first non-zero one */
	struct helper {
		struct plt_job job;
		struct parallel *par;
	} helpers[];
};

/* Run what is left to hand out.  @lock is held on entry and on return. */
static void take_part(struct parallel *par)
{
	while (par->next < par->n) {
		unsigned i = par->next++;
		int ret;

		par->running++;
		pthread_mutex_unlock(&par->lock);
		ret = par->fn(par->arg, i);
		pthread_mutex_lock(&par->lock);
		if (ret) {
			if (!par->result)
				par->result = ret;
			par->next = par->n;
		}
		if (--par->running == 0)
			pthread_cond_signal(&par->quiet);
	}
}

/* With the lock held, which it releases. */
static void parallel_unref(struct parallel *par)
{
	bool last = --par->refs == 0;

	pthread_mutex_unlock(&par->lock);
	if (last) {
		pthread_cond_destroy(&par->quiet);
		pthread_mutex_destroy(&par->lock);
		free(par);
	}
}

static void helper_run(struct plt_job *job)
{
	struct parallel *par = ((struct helper *)job)->par;

	pthread_mutex_lock(&par->lock);
	take_part(par);
	parallel_unref(par);
}

int plt_pool_parallel(struct plt_pool *pool, unsigned n, int (*fn)(void *arg, unsigned i),
		      void *arg)
{
	unsigned nhelpers = n ? PLT_MIN(n - 1, (unsigned)pool->max_threads) : 0;
	struct parallel *par = NULL;
	int ret = 0;

	if (nhelpers)
		par = calloc(1, sizeof(*par) + nhelpers * sizeof(par->helpers[0]));
	if (!par) {
		/* One item, or no memory: slower and as right. */
		for (unsigned i = 0; i < n && !ret; i++)
			ret = fn(arg, i);
		return ret;
	}
	pthread_mutex_init(&par->lock, NULL);
	pthread_cond_init(&par->quiet, NULL);
	par->fn = fn;
	par->arg = arg;
	par->n = n;
	par->refs = nhelpers + 1;
	for (unsigned i = 0; i < nhelpers; i++) {
		par->helpers[i].par = par;
		par->helpers[i].job.fn = helper_run;
		plt_pool_submit(pool, &par->helpers[i].job);
	}
	pthread_mutex_lock(&par->lock);
	take_part(par);
	while (par->running)
		pthread_cond_wait(&par->quiet, &par->lock);
	ret = par->result;
	parallel_unref(par);
	return ret;
}
