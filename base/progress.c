/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Counting of work done.  Adding is one atomic addition and a look at a coarse clock; the callback
 * is claimed through last_ns, so that it runs in one thread at a time and at most ten times a
 * second, however long it takes itself.  What is shown is left to the front end.
 */
#include "base/progress.h"

#include <time.h>

#define TICK_NS UINT64_C(100000000)
#define TICKING UINT64_MAX /* last_ns while the callback runs */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

void plt_progress_add(struct plt_progress *p, uint64_t bytes)
{
	uint64_t last, now;

	if (!p)
		return;
	atomic_fetch_add_explicit(&p->done, bytes, memory_order_relaxed);
	if (!p->tick)
		return;
	last = atomic_load_explicit(&p->last_ns, memory_order_relaxed);
	if (last == TICKING)
		return;
	now = now_ns();
	if (last && now - last < TICK_NS)
		return;
	/* Acquire and release: one callback sees what the one before it did. */
	if (!atomic_compare_exchange_strong_explicit(&p->last_ns, &last, TICKING,
						     memory_order_acquire, memory_order_relaxed))
		return;
	p->tick(p, p->arg);
	atomic_store_explicit(&p->last_ns, now_ns(), memory_order_release);
}

void plt_progress_add_total(struct plt_progress *p, uint64_t bytes)
{
	if (p)
		atomic_fetch_add_explicit(&p->total, bytes, memory_order_relaxed);
}

bool plt_progress_cancelled(const struct plt_progress *p)
{
	return p && atomic_load_explicit(&p->cancelled, memory_order_relaxed);
}
