/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_UNIT_H
#define PLT_TESTS_UNIT_H

/*
 * A unit test program is one Check suite:
 *
 *	static Suite *suite(void);
 *	int main(void) { return plt_unit_main(suite()); }
 */
#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "platter.h"

/*
 * At each ck_assert that holds, Check writes down the place, for the case that the test dies behind it: with many
 * thousands of them in a loop that is most of the time.  Of those behind the first thousand only every 256th is written.
 */
void plt_unit_mark(const char *file, int line);
#define _mark_point(file, line) plt_unit_mark(file, line)

/* Run @suite, print TAP.  Returns main's result: 0 when all that was planned ran. */
int plt_unit_main(Suite *suite);

/*
 * Random numbers for tests: the same sequence for the same seed.  plt_unit_seed() gives PLT_SEED from the environment, one of
 * the clock's if that is "random" (`make soak`), and else the same in each run, so that a test fails for what was changed and
 * nothing else.  It prints the seed.
 */
uint64_t plt_unit_seed(void);
uint64_t plt_unit_random(uint64_t *state);

/* Whether the folder for scratch files has O_DIRECT: without it tests of that are left out. */
bool plt_unit_has_direct(void);

/* A folder of this test process alone (without forks: of the program), removed at the end. */
const char *plt_unit_dir(void);

#endif
