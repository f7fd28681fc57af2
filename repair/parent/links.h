/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_LINKS_H
#define PLT_REPAIR_LINKS_H

/* What the layers of a chain are to each other, by what they hold. */
#include "base/extents.h"
#include "formats/driver.h"
#include "repair/repair.h"

/* Of what an image holds, that which the one below it has, too. */
struct plt_merged {
	uint64_t units, copied;       /* that are not zeros; those that were copied, in order, as far as one can tell */
	bool begun, whole;            /* it was committed, in part at least */
	struct plt_extents same;      /* all that is the same */
};

/* @alone: the image without anything below. */
int plt_merged_find(struct plt_disk *alone, struct plt_disk *below, struct plt_merged *ret, struct plt_error *err);
void plt_merged_release(struct plt_merged *m);

/* One that stands on the same as an image. */
struct plt_idle {
	char *name, *format;
	int64_t written;              /* seconds since 1970; -1: not known */
};

struct plt_left_out {
	const char *name;             /* of those that were given; NULL: none */
	bool sure;                    /* what the image holds says so, and not only times */
	struct plt_extents differ;    /* what of it does not show; the caller's */
	struct plt_disk *disk;        /* (its own) */
};

/*
 * Which of @v, on which nobody stands, was below @now, an image that was made at @made (-1: not known) and now stands on
 * @down, as they all do?
 */
int plt_left_out_find(struct plt_ctx *ctx, struct plt_disk *now, struct plt_disk *down, int64_t made, const struct plt_idle *v,
		      unsigned n, struct plt_left_out *ret, struct plt_error *err);

/*
 * The links of an open disk, whose top is the file @name: those that are not what they were.  @folders: where to look for
 * images that stand on the same layers, besides the layers' own folders; NULL-terminated, may be NULL.  @deep: whether
 * the layers fit together is found out from the guest's metadata though no time says that one has changed.
 */
int plt_links_judge(struct plt_disk *disk, struct plt_ctx *ctx, const char *name, const char *const *folders, bool deep,
		    void (*found)(void *arg, const struct plt_chain_change *c), void *arg, struct plt_error *err);

#endif
