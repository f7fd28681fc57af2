/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_IO_RINGS_H
#define PLT_TESTS_IO_RINGS_H

/*
 * What the tests of the rings share: a ring of each kind, a file to use it on, and one operation on it.
 */
#include <stdbool.h>

#include "io/ring.h"
#include "tests/unit.h"

enum ring_kind { INLINE, THREADS, URING, TEST, KINDS };

extern struct plt_pool *ring_pool; /* of the ring that was made last */
extern int ring_done;              /* operations that have completed */

struct plt_ring *ring_new(enum ring_kind kind, unsigned depth);
void ring_end(struct plt_ring *r);
struct plt_store *ring_file(unsigned flags); /* a new one; PLT_FILE_DIRECT or 0 */
void ring_count_done(struct plt_op *op);
/* Submit @op, wait for it, and give its result. */
int ring_run(struct plt_ring *r, struct plt_op *op);

/* test-ring-load.c: what is done to each kind; @direct: the scratch folder has O_DIRECT */
void ring_load_tests(TCase *tc, enum ring_kind kind, bool direct);

#endif
