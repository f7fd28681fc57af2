/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Room for a bitmap; what is done with its bits is in the header.  Which bits, and locking, are the caller's. */
#include "base/bitmap.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/checked.h"

int plt_bitmap_init(struct plt_bitmap *bm, uint64_t nbits)
{
	uint64_t nwords = plt_div_up(nbits, 64);

	if (nwords > PTRDIFF_MAX / sizeof(*bm->words))
		return -ENOMEM;
	bm->words = calloc(nwords ? (size_t)nwords : 1, sizeof(*bm->words));
	if (!bm->words)
		return -ENOMEM;
	bm->nbits = nbits;
	return 0;
}

void plt_bitmap_release(struct plt_bitmap *bm)
{
	free(bm->words);
	bm->words = NULL;
	bm->nbits = 0;
}
