/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_POOL_H
#define PLT_BASE_POOL_H

/*
 * A small pool of worker threads for what burns CPU or must block.  Threads start on the first
 * submit, with 256 KiB stacks, so that opening and inspecting an image starts none (callers run it
 * under tight address-space limits).  Any thread may submit.
 */
struct plt_pool;

struct plt_job {
	void (*fn)(struct plt_job *job); /* runs on a worker; may free the job */
	struct plt_job *next;            /* the pool's */
};

int plt_pool_new(int max_threads, struct plt_pool **ret); /* -ENOMEM */
/* Waits for all submitted jobs, then stops the threads.  NULL is allowed. */
void plt_pool_free(struct plt_pool *pool);
/*
 * Never blocks and never fails: if no thread at all can be started the job runs on the caller.
 */
void plt_pool_submit(struct plt_pool *pool, struct plt_job *job);

/*
 * Run fn(arg, i) for i in [0, n), on the caller and on workers, and wait.  The first non-zero
 * result is returned (and stops the handing out of further indexes).  May be called from a worker:
 * the caller always takes part, so it never waits behind its own pool.
 */
int plt_pool_parallel(struct plt_pool *pool, unsigned n, int (*fn)(void *arg, unsigned i), void *arg);

#endif
