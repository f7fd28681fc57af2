/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_SNAPSHOT_LOOK_H
#define PLT_SNAPSHOT_LOOK_H

/* plt_chain_look() while it is being made: chain.c opens the images, judge.c says what is wrong with them. */
#include <sys/types.h>

#include "snapshot/snapshot.h"

#define PLT_LAYER_FINDINGS 12 /* the most that one layer can have: one of a kind */

struct item {
	struct plt_layer pub;
	char *name, *format, *backing, *backing_format, *full, *why, *hint, *moved_to;
	struct moment { char *name; int64_t when; } *moments; /* internal snapshots */
	unsigned nmoments;
	const char *looks_like; /* of what is recorded as raw: a format by its first bytes; static */
	struct plt_identity id;
	struct plt_layer_finding findings[PLT_LAYER_FINDINGS];
	unsigned nfindings;
	bool found, from_caller, is_raw;
	dev_t dev;
	ino_t ino;
};

struct look {
	struct plt_chain pub;
	struct plt_layer *out;
	struct plt_ctx *ctx;
	struct plt_crew *crew;
	struct item *v;
	unsigned n, cap, next;
	bool no_memory;
};

/* What is said of an image first is .why, too. */
void plt_look_say(struct item *it, unsigned trouble, const char *text);
/* The layer in the file @path: -1 if it is none of them; -2 if there is no such file. */
int plt_look_find(const struct look *l, const char *path);
/* Who stands on whom, and what is wrong with it; when all are known. */
void plt_look_judge(struct look *l);

#endif
