/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_CREW_H
#define PLT_BASE_CREW_H

/*
 * The threads of one piece of whole-image work, with its progress and its first failure; and a limit on the rate at
 * which they move bytes.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "platter.h"

#define PLT_CREW_MAX 32

struct plt_crew {
	pthread_mutex_t lock;          /* the walk's; also protects what is below */
	_Atomic uint64_t done, total;  /* bytes; total may still grow while work is being found */
	_Atomic bool cancelled;        /* progress_fn has asked for it */
	pthread_mutex_t progress_lock; /* innermost: one callback at a time */
	uint64_t told, told_ns;        /* the last callback */
	plt_progress_fn progress_fn;
	void *progress_arg;
	_Atomic bool stop;             /* somebody failed: take nothing new */
	int result;                    /* the first failure */
	struct plt_error err;
};

int plt_crew_init(struct plt_crew *crew, plt_progress_fn fn, void *arg);
void plt_crew_release(struct plt_crew *crew);
/*
 * Run fn(arg, i) on @n threads, the caller being one of them, and wait.  Fewer run if threads cannot
 * be had.  Returns the first failure, with its text in @err; -ECANCELED if progress asked for that.
 */
int plt_crew_run(struct plt_crew *crew, unsigned n, int (*fn)(void *arg, unsigned i), void *arg,
		 struct plt_error *err);
/* Record a failure, unless one is there already.  Any thread.  Returns @ret. */
int plt_crew_fail(struct plt_crew *crew, int ret, const struct plt_error *err);
/* Whether to go on; false once somebody failed or progress cancelled. */
bool plt_crew_going(struct plt_crew *crew);
void plt_crew_expect(struct plt_crew *crew, uint64_t bytes); /* that much more is to be done */
void plt_crew_done(struct plt_crew *crew, uint64_t bytes);   /* may call progress */
/* As many as cores, at least @least; with @wanted > 0 that many, within reason. */
unsigned plt_crew_size(unsigned wanted, unsigned least);

struct plt_rate {
	pthread_mutex_t lock;
	uint64_t bytes_per_s; /* 0: no limit */
	uint64_t ready_ns;    /* when the bytes granted so far are paid for */
};

int plt_rate_init(struct plt_rate *r, uint64_t bytes_per_s);
void plt_rate_release(struct plt_rate *r);
/* Wait until @bytes may be moved; false if the crew stopped meanwhile. */
bool plt_rate_take(struct plt_rate *r, uint64_t bytes, struct plt_crew *crew);

#endif
