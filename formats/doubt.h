/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_DOUBT_H
#define PLT_FORMATS_DOUBT_H

/*
 * What a plan cannot say in the format's own words: of which guest bytes the right content is not known.  A range
 * in neither list is right.
 *
 *	lost      could not be recovered; whatever the image shows there is not what the guest wrote
 *	inferred  rests on less than proof, with its certainty
 *
 * Ranges of one layer of one image; the layer's active disk and each of its snapshots have their own.  Ranges of
 * the same disk are disjoint: what is said later of a range replaces what was said before.
 */
#include <stddef.h>
#include <stdint.h>

/*
 * How sure a placement or an edit is.  Proven: a redundant copy, or an address or checksum of its own
 * that verifies in the only candidate; strong: a clear margin by several kinds of evidence; likely:
 * neighbours and order only.  Proven and strong are acted upon unasked.
 */
enum plt_certainty { PLT_GUESS, PLT_LIKELY, PLT_STRONG, PLT_PROVEN };
const char *plt_certainty_name(enum plt_certainty c); /* "guess" ... */

enum plt_doubt_kind { PLT_INFERRED, PLT_LOST };

#define PLT_DISK_ACTIVE UINT32_MAX /* otherwise: position in the snapshot table */

struct plt_doubt {
	enum plt_doubt_kind kind;
	uint32_t disk;
	uint64_t off, len;
	enum plt_certainty certainty; /* of inferred */
	char why[96];
};

/* Ascending by disk and offset. */
struct plt_doubts {
	struct plt_doubt *v;
	size_t n, cap;
};

#define PLT_DOUBTS_INIT { 0 }

void plt_doubts_release(struct plt_doubts *d);
/* -ENOMEM leaves all as it was; -ERANGE: the range ends beyond 2^64. */
int plt_doubts_set(struct plt_doubts *d, const struct plt_doubt *doubt);
/* Nothing is in doubt there (any more). */
int plt_doubts_clear(struct plt_doubts *d, uint32_t disk, uint64_t off, uint64_t len);
/* Whatever was doubted for this reason is not any more, on no disk. */
void plt_doubts_forget(struct plt_doubts *d, const char *why);
/* The first one of @disk that ends after @off; NULL: none. */
const struct plt_doubt *plt_doubts_find(const struct plt_doubts *d, uint32_t disk, uint64_t off);

#endif
