/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_PARENT_H
#define PLT_REPAIR_PARENT_H

/*
 * The search for the backing file of an image that has lost it.
 *
 *	find.c     which files come into question, and what names, headers and times say
 *	traces.c   names that it has recorded before
 *	content.c  what the bytes say: the disk that image and candidate make together
 *	rank.c     who is first, by how much, and how sure that is
 *	link.c     the plan that records another one
 *	nameless.c  of an image whose header is gone, and with it the name
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
	struct plt_repair *rep;         /* the image as it is planned; NULL: as it is in its file */
	uint64_t reach;                 /* and how large it may be; 0: as it is recorded */
	struct plt_disk *alone;         /* without anything below */
	struct plt_extents own;         /* where it has data */
};

/*
 * Which of the blocks that an image holds read the same on a disk below it: a bit each of a sample that is the same for every
 * such disk.
 */
#define PLT_LIKENESS_CHUNKS 1026
#define PLT_LIKENESS_BLOCKS 16 /* of 4 KiB, in a chunk */
struct plt_likeness {
	uint64_t same, blocks;          /* that are not zeros */
	uint16_t bits[PLT_LIKENESS_CHUNKS];
	uint64_t sectors[PLT_LIKENESS_CHUNKS][2]; /* of 512 bytes: the same */
};

#define PLT_LEFT_OUT_SECTORS 4 /* of a layer, which what it stands on has not, that tell that an image was written over it */

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
	struct plt_likeness *like;      /* once it is weighed (malloc): of the blocks that the image holds, those that read the same below it */
	bool left_over;                 /* its name is still in the image, behind what is recorded */
	bool outdone;                   /* by another, which has many of them that this one has not */
	bool left_out;                  /* the image was written over it, not over the recorded one, on which it stands: leftout.c */
	int score;
	const char *certainty;
	char why[400];
};

/* The beginning of the image's file. */
struct plt_traces {
	uint8_t *head;
	size_t len;
};
int plt_traces_read(const struct plt_child *child, struct plt_traces *ret);
void plt_traces_release(struct plt_traces *t);
/* Has the image recorded it once, by its name? */
bool plt_traces_name(const struct plt_traces *t, const struct plt_child *child, const struct plt_candidate *c);

/* Fills in what the content says; a candidate that cannot be opened is marked and no failure. */
int plt_candidate_weigh(const struct plt_child *child, struct plt_candidate *c, struct plt_error *err);
/* Where the image has data: child->own, of child->alone. */
int plt_child_own(struct plt_child *child, struct plt_error *err);
int plt_likeness_find(const struct plt_child *child, struct plt_disk *below, struct plt_likeness *ret, struct plt_error *err);
/* Are there so many blocks that @a has and @b has not, and so few the other way, that the image was written over @a? */
bool plt_likeness_outdoes(const struct plt_likeness *a, const struct plt_likeness *b);
/* Are there so many sectors that only @a has, and next to none that only @b has? */
bool plt_likeness_is_over(const struct plt_likeness *a, const struct plt_likeness *b, unsigned least);
/* The candidate as a disk of its own. */
int plt_candidate_open(const struct plt_child *child, const struct plt_candidate *c, struct plt_disk **ret);
/*
 * What @over, which stands on @down, holds and does not show there, outside of what an image on one of them holds itself.
 * Where there is too much to be compared all that it holds counts.
 */
int plt_left_out_differs(struct plt_disk *over, struct plt_disk *down, const struct plt_extents *own, struct plt_extents *ret,
			 struct plt_error *err);
/* As the image has to say it: beside it by its name alone, elsewhere by where it is; malloc. */
char *plt_parent_name(const char *image, const char *parent);
/* The planned image on the candidate, read only. */
int plt_parent_open_planned(const struct plt_child *child, const struct plt_candidate *c, struct plt_disk **ret);
/* What names, headers and times alone are worth: to choose who is weighed. */
int plt_candidate_first(const struct plt_child *child, const struct plt_candidate *c);
int plt_candidate_by_first(const void *a, const void *b, void *child); /* for qsort_r() */
/* Does layer @i stand on @image, or in a circle? */
bool plt_layer_stands_on(const struct plt_chain *all, unsigned i, const char *image);
/* Sorts, best first, and says how sure each is and why. */
void plt_candidates_rank(const struct plt_child *child, struct plt_candidate *v, unsigned n);

#endif
