/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_PROGRESS_H
#define PLT_BASE_PROGRESS_H

/*
 * Progress of long work, in bytes.  The worker side adds from any thread; the front end polls or is
 * called back at most ten times a second, from whichever thread adds.  Cancelling makes the work
 * end with -ECANCELED at its next step.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct plt_progress {
	_Atomic uint64_t done, total; /* bytes; total may still grow while work is being found */
	_Atomic bool cancelled;
	_Atomic uint64_t last_ns;     /* the last callback */
	void (*tick)(struct plt_progress *p, void *arg);
	void *arg;
};

void plt_progress_add(struct plt_progress *p, uint64_t bytes);       /* p may be NULL */
void plt_progress_add_total(struct plt_progress *p, uint64_t bytes); /* p may be NULL */
bool plt_progress_cancelled(const struct plt_progress *p);           /* p may be NULL: false */

#endif
