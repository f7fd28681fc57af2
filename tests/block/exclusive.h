/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_BLOCK_EXCLUSIVE_H
#define PLT_TESTS_BLOCK_EXCLUSIVE_H

/* A frame of the test's own that wants an image for itself, as exclusive work does, and says when it has it. */
#include "tests/block/lab.h"

/* Closes the gate (level 0: only drains), holds it for one operation, and goes. */
struct exclusive {
	struct plt_io *io;
	int level;
	bool held, done;
	unsigned seen; /* how often it was held */
};

void exclusive_start(struct plt_queue *q, struct plt_image *img, struct exclusive *x, int level);

#endif
