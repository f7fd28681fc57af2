/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The threads of one piece of whole-image work.  They are threads of their own, never the context's
 * workers, because each of them makes blocking calls that may need those workers.  The invariant: the
 * first failure is the one reported, and after it no thread takes new work, so that a result of 0
 * means that every piece was done.  What a piece is, and who takes which, is left to the caller.
 */
#include "base/crew.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

#define STACK_BYTES (2 * 1024 * 1024) /* a chain may be 256 layers deep */

#define TICK_NS UINT64_C(100000000)
#define STEPS 50 /* front ends that print steps of 2 % get each of them */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

int plt_crew_init(struct plt_crew *crew, plt_progress_fn fn, void *arg)
{
	memset(crew, 0, sizeof(*crew));
	crew->progress_fn = fn;
	crew->progress_arg = arg;
	if (pthread_mutex_init(&crew->lock, NULL))
		return -ENOMEM;
	if (pthread_mutex_init(&crew->progress_lock, NULL)) {
		pthread_mutex_destroy(&crew->lock);
		return -ENOMEM;
	}
	return 0;
}

void plt_crew_release(struct plt_crew *crew)
{
	pthread_mutex_destroy(&crew->progress_lock);
	pthread_mutex_destroy(&crew->lock);
}

int plt_crew_fail(struct plt_crew *crew, int ret, const struct plt_error *err)
{
	PLT_LOCK_SCOPE(&crew->lock);
	if (!crew->result) {
		crew->result = ret;
		crew->err = *err;
	}
	atomic_store(&crew->stop, true);
	return ret;
}

bool plt_crew_going(struct plt_crew *crew)
{
	return !atomic_load_explicit(&crew->stop, memory_order_relaxed) &&
	       !atomic_load_explicit(&crew->cancelled, memory_order_relaxed);
}

void plt_crew_expect(struct plt_crew *crew, uint64_t bytes)
{
	atomic_fetch_add_explicit(&crew->total, bytes, memory_order_relaxed);
}

/*
 * Ten times a second, and whenever another two percent are done: short runs show their steps too, and
 * that is at most fifty calls more.
 */
void plt_crew_done(struct plt_crew *crew, uint64_t bytes)
{
	uint64_t done, total, now;

	if (!crew->progress_fn)
		return;
	PLT_LOCK_SCOPE(&crew->progress_lock);
	total = atomic_load(&crew->total);
	done = atomic_fetch_add(&crew->done, bytes) + bytes;
	done = PLT_MIN(done, total);
	now = now_ns();
	if (crew->told_ns && now - crew->told_ns < TICK_NS && done - crew->told < total / STEPS + 1)
		return;
	crew->told_ns = now;
	crew->told = done;
	if (crew->progress_fn(crew->progress_arg, done, total))
		atomic_store(&crew->cancelled, true);
}

struct member {
	pthread_t thread;
	int (*fn)(void *arg, unsigned i);
	void *arg;
	unsigned i;
	struct plt_crew *crew;
};

/* What a function returns without having recorded it is recorded here. */
static void *member_main(void *arg)
{
	struct member *m = arg;
	int ret = m->fn(m->arg, m->i);

	if (ret) {
		struct plt_error err = PLT_ERROR_INIT;

		plt_error_set(&err, -ret, "%s", strerror(-ret));
		plt_crew_fail(m->crew, ret, &err);
	}
	return NULL;
}

int plt_crew_run(struct plt_crew *crew, unsigned n, int (*fn)(void *arg, unsigned i), void *arg,
		 struct plt_error *err)
{
	struct member m[PLT_CREW_MAX];
	pthread_attr_t attr;
	unsigned started = 1;

	n = PLT_MIN(n, PLT_CREW_MAX);
	m[0] = (struct member){ .fn = fn, .arg = arg, .i = 0, .crew = crew };
	if (n > 1 && pthread_attr_init(&attr) == 0) {
		(void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* else the default, which is more */
		while (started < n) {
			m[started] = (struct member){ .fn = fn, .arg = arg, .i = started, .crew = crew };
			if (pthread_create(&m[started].thread, &attr, member_main, &m[started]))
				break; /* those that run do the work */
			started++;
		}
		pthread_attr_destroy(&attr);
	}
	member_main(&m[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(m[i].thread, NULL);
	if (crew->result) {
		if (err)
			*err = crew->err;
		return crew->result;
	}
	if (atomic_load(&crew->cancelled))
		return plt_error_set(err, ECANCELED, "Cancelled");
	return 0;
}

unsigned plt_crew_size(unsigned wanted, unsigned least)
{
	cpu_set_t set;
	unsigned cores = 0;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		cores = (unsigned)CPU_COUNT(&set);
	if (!cores) {
		long online = sysconf(_SC_NPROCESSORS_ONLN);

		cores = online > 0 ? (unsigned)online : 1;
	}
	if (wanted) /* more than two a core only take turns */
		return PLT_MIN(PLT_MIN(wanted, 2 * cores + 2), PLT_CREW_MAX);
	return PLT_MIN(PLT_MAX(cores, least), PLT_CREW_MAX);
}
