/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_BLKDEBUG_H
#define PLT_IO_BLKDEBUG_H

/*
 * Fault rules in the manner of QEMU's blkdebug.  An operation on the store raises events, by what it
 * is for; an event lets rules act that name it: change the state, arm errors, hold the request.  An
 * armed error hits the next operations of its kinds and place, until another event arms others (or
 * once).  A rule with a state other than 0 acts in that state only; the first state is 1.
 */
#include "io/store.h"

/* Event names are QEMU's.  Those that no operation here raises are known all the same. */
int plt_blkdebug_event(const char *name); /* its number, or -1 */

/* Kinds of operations; the defaults for an error are all but BLOCK_STATUS. */
enum {
	PLT_BLKDEBUG_READ = 1 << 0,
	PLT_BLKDEBUG_WRITE = 1 << 1,
	PLT_BLKDEBUG_WRITE_ZEROES = 1 << 2,
	PLT_BLKDEBUG_DISCARD = 1 << 3,
	PLT_BLKDEBUG_FLUSH = 1 << 4,
	PLT_BLKDEBUG_BLOCK_STATUS = 1 << 5,
	PLT_BLKDEBUG_ALL = 31,
};
unsigned plt_blkdebug_iotype(const char *name); /* 0: no such kind */

struct plt_blkdebug_rule {
	int event;
	int state;          /* acts in this state only; 0: any */
	bool set_state;     /* sets new_state; otherwise it arms an error: */
	int new_state;
	unsigned iotypes;   /* PLT_BLKDEBUG_* */
	int error;          /* 0: what would be hit passes */
	bool once;
	uint64_t off;       /* only what touches this byte; UINT64_MAX: any place */
};

/* Over @below (a reference is taken), through a fault store. */
int plt_blkdebug_new(struct plt_store *below, struct plt_store **ret);
bool plt_blkdebug_is(struct plt_store *st);
int plt_blkdebug_add(struct plt_store *st, const struct plt_blkdebug_rule *rule);
/* All rules are in: raise "none". */
void plt_blkdebug_start(struct plt_store *st);
/* As plt_debug(). */
int plt_blkdebug_do(struct plt_store *st, enum plt_debug_verb verb, const char *event, const char *tag);

#endif
