/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_BITMAP_H
#define PLT_BASE_BITMAP_H

/* A plain bitmap, bit i in word i/64.  Not thread-safe. */
#include <stdbool.h>
#include <stdint.h>

struct plt_bitmap {
	uint64_t nbits;
	uint64_t *words;
};

int plt_bitmap_init(struct plt_bitmap *bm, uint64_t nbits); /* all clear; -ENOMEM */
void plt_bitmap_release(struct plt_bitmap *bm);

static inline bool plt_bitmap_test(const struct plt_bitmap *bm, uint64_t i)
{
	return bm->words[i / 64] >> (i % 64) & 1;
}

static inline void plt_bitmap_set(struct plt_bitmap *bm, uint64_t i)
{
	bm->words[i / 64] |= UINT64_C(1) << (i % 64);
}

#endif
