/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A bitmap worked on word by word.  Invariant: bits past nbits in the last word are clear, so that
 * counting and searching need no special case for the end.  Ranges are the caller's responsibility
 * (asserted); so is locking.
 */
#include "base/bitmap.h"

#include <assert.h>
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

/* The bits of @word that lie in [first, end), which touches that word. */
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t mask = UINT64_MAX;

	if (word == first / 64)
		mask &= UINT64_MAX << (first % 64);
	if (word == (end - 1) / 64)
		mask &= UINT64_MAX >> (63 - (end - 1) % 64);
	return mask;
}

void plt_bitmap_set_range(struct plt_bitmap *bm, uint64_t first, uint64_t n)
{
	assert(plt_in_range(first, n, bm->nbits));
	if (!n)
		return;
	for (uint64_t w = first / 64; w <= (first + n - 1) / 64; w++)
		bm->words[w] |= word_mask(w, first, first + n);
}

void plt_bitmap_clear_range(struct plt_bitmap *bm, uint64_t first, uint64_t n)
{
	assert(plt_in_range(first, n, bm->nbits));
	if (!n)
		return;
	for (uint64_t w = first / 64; w <= (first + n - 1) / 64; w++)
		bm->words[w] &= ~word_mask(w, first, first + n);
}

/* First bit >= @from that differs from the bits of @background (all zeros or all ones). */
static uint64_t next_unlike(const struct plt_bitmap *bm, uint64_t from, uint64_t background)
{
	uint64_t nwords = plt_div_up(bm->nbits, 64);
	uint64_t bits;

	if (from >= bm->nbits)
		return bm->nbits;
	bits = (bm->words[from / 64] ^ background) & (UINT64_MAX << (from % 64));
	for (uint64_t w = from / 64;;) {
		/* A search for a clear bit ends at bit nbits, if not before: it is clear. */
		if (bits)
			return w * 64 + (unsigned)__builtin_ctzll(bits);
		if (++w == nwords)
			return bm->nbits;
		bits = bm->words[w] ^ background;
	}
}

uint64_t plt_bitmap_next_set(const struct plt_bitmap *bm, uint64_t from)
{
	return next_unlike(bm, from, 0);
}

uint64_t plt_bitmap_next_clear(const struct plt_bitmap *bm, uint64_t from)
{
	return next_unlike(bm, from, UINT64_MAX);
}

uint64_t plt_bitmap_count(const struct plt_bitmap *bm)
{
	uint64_t nwords = plt_div_up(bm->nbits, 64);
	uint64_t count = 0;

	for (uint64_t w = 0; w < nwords; w++)
		count += (unsigned)__builtin_popcountll(bm->words[w]);
	return count;
}
