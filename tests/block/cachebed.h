/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_BLOCK_CACHEBED_H
#define PLT_TESTS_BLOCK_CACHEBED_H

/*
 * What the tests of the metadata cache stand on: an image four times as large as the cache, whose guest's data is
 * cached by slices as if it were tables, with table types of the tests' own.
 */
#include "tests/block/lab.h"

#define BLOCKS 1024
#define SLOTS 256 /* what the smallest budget has */
#define DATA_LEN ((uint64_t)BLOCKS * PLT_SLICE)

extern int bed_refuse;              /* loads: refuse this many */
extern unsigned bed_validations;
extern bool bed_ahead;              /* tables are read ahead */
extern const struct plt_meta_type bed_types[4]; /* by rank */

struct bed {
	struct plt_ctx *ctx;
	struct plt_store *memory, *file;
	struct plt_disk *disk;
	struct plt_image *img;
	struct lab_hook hook;
	struct plt_writelog *log;
	uint64_t host[BLOCKS];
	uint64_t model[BLOCKS];
	uint64_t seed;
};

struct bed *bed_new(bool logged);
void bed_free(struct bed *b);
unsigned bed_random(struct bed *b, unsigned n);
/* As a request gets it: within the budget, making room where there is none. */
int bed_try_get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i, struct plt_block **ret,
		struct plt_error *err);
struct plt_block *bed_get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i);
void bed_change(struct bed *b, struct plt_block *blk, unsigned word, uint64_t value);
void bed_write(struct bed *b, unsigned i, uint64_t value);
/* What the file says, past the cache. */
uint64_t bed_on_disk(struct bed *b, unsigned i, unsigned word);
/* Load every block but [from, to), so that what can be evicted is. */
void bed_press(struct bed *b, unsigned from, unsigned to);

/* test-cache-failing.c, test-cache-qcow2.c */
void cache_failing_tests(TCase *t);
void cache_qcow2_tests(TCase *t);

#endif
