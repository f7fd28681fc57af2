/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_VHD_CHECK_H
#define PLT_VHD_CHECK_H

/*
 * An examination of a VHD and its mending: the state that check.c fills in and mend*.c work from.  Never an
 * open image; what is examined is the bare file, or an overlay over it that takes the edits.
 */
#include "base/extents.h"
#include "vhd/vhd.h"

struct vhd_used {
	uint32_t sector, block;
};

struct vhd_unfit {
	struct vhd_used u;
	uint32_t hidden;         /* sectors that hold something without their bits */
	bool zero;               /* its bitmap is all zeros */
};

/* What the place of a block's bitmap says about whether a block is there. */
enum vhd_fit {
	VHD_FIT_NO,      /* sectors hold something and are not marked, or the bitmap is no bitmap */
	VHD_FIT_EMPTY,   /* nothing at all */
	VHD_FIT_BITS,    /* what is not marked is empty */
	VHD_FIT_ONES,    /* all sectors are marked, as nearly everybody writes it */
};

/* A block that lies in the file and that no entry names. */
struct vhd_orphan {
	uint64_t start;
	enum vhd_fit fit;
	bool content;    /* something in it is not zero */
};

struct vhd_exam {
	struct plt_examine *ex;
	struct vhd_ends ends;
	struct vhd_state v;       /* what helps to judge an entry; never an open image */
	uint64_t size;
	uint8_t *batmap;          /* NULL: there is none that can be believed; its header, and where that is */
	struct vhd_batmap batmap_header;
	uint64_t batmap_off;
	/* entries that can be right, as check_table() found them, by sector from check_layout() on */
	struct vhd_used *used;
	size_t n, cap;
	uint64_t room;            /* blocks for which there is room that nothing uses */
	bool overlaps;
	uint64_t end;             /* behind the last of them and all metadata */
	/* guest blocks whose entries cannot be right; kept only when mending */
	struct plt_extents bad;
	/* blocks whose bitmap does not fit what is in them */
	struct vhd_unfit *unfit;
	size_t nunfit, unfit_cap;
	struct vhd_orphan *orphans;
	size_t norphans, orphans_cap;
};

/* A finding of one structure; the text ends up in front of a person. */
void vhd_found(struct vhd_exam *x, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* The same, put right by the edits of this round. */
void vhd_mended(struct vhd_exam *x, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* Either of the two. */
typedef void vhd_say(struct vhd_exam *x, const char *id, enum plt_severity s, uint64_t off, uint64_t len,
		     const char *fmt, ...) __attribute__((format(printf, 6, 7)));

static inline bool vhd_mends(const struct vhd_exam *x, unsigned what)
{
	return x->ex->mend && x->ex->mend->what & what;
}

/* A range of the guest's disk that is lost, or (certainty) inferred. */
int vhd_doubt(struct vhd_exam *x, enum plt_doubt_kind kind, enum plt_certainty certainty, uint64_t off, uint64_t len,
	      const char *why);

/* ---- check_bits.c ---------------------------------------------------------------------------- */

int vhd_check_bits(struct vhd_exam *x, struct plt_error *err);
/* Say: a block of a differencing disk of which nothing is said to be there, and something is. */
void vhd_zero_bitmap(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden);

/* ---- census.c: blocks by their shape --------------------------------------------------------- */

/* Is there a block at @start?  @buf: VHD_CENSUS_BYTES.  *ret_content may be NULL. */
#define VHD_CENSUS_BYTES (1u << 20)
int vhd_fit_at(struct vhd_exam *x, uint64_t start, uint8_t *buf, enum vhd_fit *ret, bool *ret_content);
/* Fill in x->orphans.  Reads the file once at most. */
int vhd_find_orphans(struct vhd_exam *x, struct plt_error *err);
/* Guest bytes [off, off+len), within one block, by the table as it is; -ENODATA: it is not there. */
int vhd_read_guest(struct vhd_exam *x, uint64_t off, void *buf, size_t len);
/* The size of the disk that a GPT with both its ends in place names; 0: there is none. */
uint64_t vhd_gpt_size(struct vhd_exam *x);
/* The same by the one at its beginning alone: the other may have been cut off. */
uint64_t vhd_gpt_first_says(struct vhd_exam *x);

/* ---- mend.c, mend_header.c: footers and dynamic header --------------------------------------- */

/*
 * Before anything else: whether the file can be understood at all.  1: something was mended, and the rest is
 * for the next round; 0: go on; the examination cannot go on if x->ends.use is NULL.
 */
int vhd_mend_ends(struct vhd_exam *x, struct plt_error *err);
int vhd_mend_fixed(struct vhd_exam *x, struct plt_error *err);
/* When all blocks are known: the footers at both ends, whole, alike, and behind everything. */
int vhd_mend_copies(struct vhd_exam *x, struct plt_error *err);
/* @why: what is wrong with the header.  As vhd_mend_ends(). */
int vhd_mend_header(struct vhd_exam *x, const char *why, struct plt_error *err);
/* The disk's size and the table do not fit each other. */
int vhd_mend_size(struct vhd_exam *x, const char *why, struct plt_error *err);
/* The footer's size is that of no disk: the guest's, the table's, or what lies before the footer of a fixed one. */
int vhd_mend_absurd_size(struct vhd_exam *x, struct plt_error *err);
/* A guess at a header that nothing else says anything of: 0, or -ENOENT. */
int vhd_guess_header(struct vhd_exam *x, uint64_t size, uint64_t header_off, struct vhd_header *h, const char **ret_how);
/* How many of the table's entries could be right; false: some cannot. */
bool vhd_table_fits(struct vhd_exam *x, uint64_t table, uint64_t entries, uint64_t block_size, uint64_t *ret_used);

/* ---- mend_bat.c, mend_bits.c ----------------------------------------------------------------- */

int vhd_mend_table(struct vhd_exam *x, struct plt_error *err);
/* Without mending: is it the bitmap, or the entry? */
int vhd_tell_unfit(struct vhd_exam *x, struct plt_error *err);
int vhd_show_pieces(struct plt_store *overlay, const struct plt_orphans *p, struct plt_error *err);
/* mend_moves.c: what somebody has found out of the table, and the orphans, for him. */
int vhd_mend_moves(struct vhd_exam *x);
int vhd_tell_orphans(struct vhd_exam *x);
int vhd_map_pieces(struct plt_ctx *ctx, struct plt_store *file, struct plt_orphans *ret, struct plt_error *err);
/* The bits of a block that is there and that they do not fit. */
int vhd_mend_bits(struct vhd_exam *x, const struct vhd_unfit *f);
/* @map, of which [first, first+n) has changed, and the header @m at @off that has its checksum. */
int vhd_mend_batmap(struct vhd_exam *x, uint64_t off, struct vhd_batmap *m, uint8_t *map, uint64_t first, uint64_t n);

#endif
