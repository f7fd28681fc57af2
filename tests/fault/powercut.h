/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_FAULT_POWERCUT_H
#define PLT_TESTS_FAULT_POWERCUT_H

/*
 * The disk states that a power cut may leave, derived from a write log (io/writelog.c).
 *
 * Durable is what had completed before the last successful sync of its store began.  Of everything
 * since, each 512-byte sector holds any of its versions: the file's cache is coherent, so a sector
 * that holds a write holds all earlier ones to it too, but sectors reach the disk in any order,
 * and an operation may be torn at any of them.  The length of a file is one more such thing, apart
 * from the data: it may be behind what was written (the data behind it is lost) or ahead of it
 * (zeros).
 *
 * A run is cut into windows, each ending just before a sync completes (or with the log): all that
 * a cut inside a window can leave is among the states of its end.  A window with few versions is
 * enumerated completely; of a larger one: nothing, everything, each operation missing, alone and
 * torn, each prefix, each kind of block alone and missing, and random choices.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/store.h"

#define POWERCUT_STORES 16

struct powercut_disk {
	uint8_t *bytes;
	size_t len;
};

struct powercut_state {
	struct powercut_disk disk[POWERCUT_STORES]; /* valid during the call only */
	uint64_t mark;	  /* number of the last plt_writelog_mark() before the cut; 0: none */
	uint64_t hash;	  /* of the content: the same in each run */
	const char *what; /* which state of which window */
};

struct powercut_limits {
	uint64_t seed;
	unsigned window; /* most states in one window; 0: 400 */
	unsigned total;	 /* most states in all, shared out among the windows; 0: no bound */
};

struct powercut_count {
	unsigned windows, exhaustive, states, duplicates;
};

/*
 * Call @fn for the states of the run in @log, whose stores held @start (@n of them, in the order
 * of their attachment) when recording began.  No content is shown twice under one mark.  Stops
 * when @fn returns non-zero, and returns that.  @ret_count may be NULL.
 */
int powercut_each(struct plt_writelog *log, const struct powercut_disk *start, unsigned n,
		  const struct powercut_limits *limits,
		  int (*fn)(void *arg, const struct powercut_state *state), void *arg,
		  struct powercut_count *ret_count);

#endif
