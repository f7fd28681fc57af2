/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_BLOCK_LAB_H
#define PLT_TESTS_BLOCK_LAB_H

/*
 * What the suites of the block layer share: qcow2 images in memory, requests on a queue that the test
 * owns, and choices (which operation completes next, which request comes next) that are gone through
 * in every order or at random.
 */
#include "block/engine.h"
#include "tests/unit.h"

void lab_must(int r, const struct plt_error *err);
/* As ck_assert_msg(), for what is asked very often: Check writes a record at each ck_assert. */
#define lab_expect(cond, ...)                  \
	do {                                   \
		if (!(cond))                   \
			ck_abort_msg(__VA_ARGS__); \
	} while (0)
/* A context with the smallest memory budget. */
struct plt_ctx *lab_ctx(unsigned workers);

/* ---- images ---------------------------------------------------------------------------------- */

/* An empty qcow2 in @file; @backing: it records one ("base", raw). */
void lab_create(struct plt_ctx *ctx, struct plt_store *file, const char *options, uint64_t size, bool backing);
/* Opened for writing; @base: NULL, or the backing file's bytes (raw). */
struct plt_disk *lab_open(struct plt_ctx *ctx, struct plt_store *file, struct plt_store *base);
void lab_close(struct plt_disk *disk);
/* No corruption and no leak; @what is said on failure. */
void lab_check(struct plt_ctx *ctx, struct plt_store *file, const char *what);
/* A memory store with the same bytes as @file (another memory store). */
struct plt_store *lab_copy(struct plt_store *file);
/*
 * Give a closed image (in memory, 16-bit counts) an internal snapshot, as another program would:
 * afterwards every table and cluster is shared, COPIED off.  Replaces *file.
 */
void lab_snapshot(struct plt_store **file);

/* ---- a store that calls back ----------------------------------------------------------------- */

enum lab_event { LAB_READ, LAB_WRITE, LAB_DISCARD, LAB_SYNC };
struct lab_hook {
	/* Before each operation; negative: it fails with that. */
	int (*fn)(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag);
	void *arg;
};
/* Passes everything on to @below (a reference is taken). */
struct plt_store *lab_hooked(struct plt_store *below, struct lab_hook *hook);

/* ---- choices --------------------------------------------------------------------------------- */

#define LAB_CHOICES 2048

struct lab_order {
	uint16_t pick[LAB_CHOICES], of[LAB_CHOICES];
	unsigned n, fixed; /* made so far; the first @fixed are given */
	bool random;
	uint64_t seed;
};

/* One of 0..n-1. */
unsigned lab_choose(struct lab_order *o, unsigned n);
/* The next order in depth-first order; false: that was the last. */
bool lab_next(struct lab_order *o);
/* The choices made so far as text, for messages. */
const char *lab_order_text(const struct lab_order *o);

/* ---- requests -------------------------------------------------------------------------------- */

struct lab_req {
	enum plt_io_kind kind;
	uint64_t off, len;
	unsigned flags;
	uint8_t *buf;      /* READ, WRITE, COMPRESSED: len bytes, the caller's */
	struct iovec iov;
	struct plt_io *io; /* while it is under way */
	bool started, done;
	int result;
	uint64_t begun, ended; /* on one clock */
	uint64_t *clock;
	struct plt_error err;
};

/* A queue with a ring whose operations complete one at a time, by lab_complete(). */
struct lab_queue {
	struct plt_queue *q;
	unsigned next;
	/* Instead of an index: chooses among the operations themselves (NULL: not used). */
	unsigned (*choose)(void *arg, struct plt_op *const *pending, unsigned n);
	void *arg;
	bool picked;
	uint64_t clock, steps;
};

void lab_queue_new(struct lab_queue *lq, struct plt_ctx *ctx);
void lab_queue_free(struct lab_queue *lq);
void lab_start(struct plt_queue *q, struct plt_image *img, struct lab_req *r, uint64_t *clock);
/* Run what has been woken; then the number of operations that wait to be completed. */
unsigned lab_settle(struct lab_queue *lq);
/* Execute and complete the @i-th operation that waits. */
void lab_complete(struct lab_queue *lq, unsigned i);

#endif
