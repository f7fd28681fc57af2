/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The rate limit of a copy: a token bucket that holds a tenth of a second.  Over any longer time
 * no more than the given bytes a second pass, whatever the number of threads that ask.  A waiting
 * thread keeps looking whether the work was cancelled.
 */
#include <time.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crew.h"

#define SECOND UINT64_C(1000000000)
#define BURST (SECOND / 10)
#define LOOK (SECOND / 20) /* how often a waiting thread looks up */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

int plt_rate_init(struct plt_rate *r, uint64_t bytes_per_s)
{
	r->bytes_per_s = bytes_per_s;
	r->ready_ns = 0;
	return pthread_mutex_init(&r->lock, NULL) ? -1 : 0;
}

void plt_rate_release(struct plt_rate *r)
{
	pthread_mutex_destroy(&r->lock);
}

/* When a caller who takes @bytes now may go on. */
static uint64_t book(struct plt_rate *r, uint64_t bytes)
{
	uint64_t now = now_ns(), start;

	PLT_LOCK_SCOPE(&r->lock);
	start = r->ready_ns;
	if (start + BURST < now)
		start = now - BURST;
	r->ready_ns = start + (uint64_t)((double)bytes / (double)r->bytes_per_s * (double)SECOND);
	return r->ready_ns;
}

bool plt_rate_take(struct plt_rate *r, uint64_t bytes, struct plt_crew *crew)
{
	uint64_t when;

	if (!r->bytes_per_s)
		return true;
	when = book(r, bytes);
	for (;;) {
		uint64_t now = now_ns(), wait;
		struct timespec ts;

		plt_crew_done(crew, 0);
		if (!plt_crew_going(crew))
			return false;
		if (now >= when)
			return true;
		wait = PLT_MIN(when - now, LOOK);
		ts = (struct timespec){ .tv_sec = 0, .tv_nsec = (long)wait };
		nanosleep(&ts, NULL);
	}
}
