/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_PARENT_H
#define PLT_REPAIR_PARENT_H

/*
 * The search for the backing file of an image that has lost it.
 *
 *	find.c     which files come into question, and what names, headers and times say
 *	content.c  what the bytes say: the disk that image and candidate make together
 *	rank.c     who is first, by how much, and how sure that is
 *	link.c     the plan that records another one
 */
#include "base/extents.h"
#include "formats/driver.h"
#include "repair/repair.h"

/* The image. */
struct plt_child {
	struct plt_ctx *ctx;
	const char *name, *format;
	const char *backing, *backing_format; /* as recorded; NULL: not */
	uint64_t size;
	int64_t made, written;
	struct plt_identity id;
	struct plt_disk *alone;         /* without anything below */
	struct plt_extents own;         /* where it has data */
};

struct plt_candidate {
	char *name, *format;
	uint64_t size;
	int64_t written;
	bool recorded;                  /* it is where the image says */
	bool same_name, same_format, same_id, other_id, same_time;
	bool unopened;                  /* the disk that both make cannot be opened */
	bool weighed;
	uint64_t good, bad;             /* the guest's metadata, in pieces; */
	uint64_t own_good, own_bad;     /* and those of them that the image holds */
	int64_t guest_time;             /* when a guest wrote to it last, by its own clock; 0: not known */
	bool is_overlay;                /* it has a backing file itself */
	uint64_t same, blocks;          /* of the blocks that the image holds, those that read the same below it */
	int score;
	const char *certainty;
	char why[400];
};

/* Fills in what the content says; a candidate that cannot be opened is marked and no failure. */
int plt_candidate_weigh(const struct plt_child *child, struct plt_candidate *c, struct plt_error *err);
/* What names, headers and times alone are worth: to choose who is weighed. */
int plt_candidate_first(const struct plt_child *child, const struct plt_candidate *c);
/* Sorts, best first, and says how sure each is and why. */
void plt_candidates_rank(const struct plt_child *child, struct plt_candidate *v, unsigned n);

#endif
