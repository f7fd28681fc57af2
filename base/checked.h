/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_CHECKED_H
#define PLT_BASE_CHECKED_H

/*
 * Overflow-checked arithmetic on uint64_t, and rounding.  Every size, offset or count that comes
 * from a file passes through these before use.  The checked forms return true on overflow and then
 * leave *ret undefined.  Range tests elsewhere are written "off <= size && len <= size - off".
 */
#include <stdbool.h>
#include <stdint.h>

#define PLT_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PLT_MIN(a, b) ((a) < (b) ? (a) : (b))
#define PLT_MAX(a, b) ((a) > (b) ? (a) : (b))

static inline bool plt_add(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_add_overflow(a, b, ret);
}

static inline bool plt_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_mul_overflow(a, b, ret);
}

static inline bool plt_shl(uint64_t a, unsigned bits, uint64_t *ret)
{
	if (bits >= 64)
		return a != 0 || (*ret = 0);
	*ret = a << bits;
	return (*ret >> bits) != a;
}

static inline bool plt_is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* @unit need not be a power of two; 0 is a caller's mistake. */
static inline uint64_t plt_align_down(uint64_t v, uint64_t unit)
{
	return v - v % unit;
}

/* Only for values known to be far from 2^64 (below 2^63); file-controlled ones use the checked form. */
static inline uint64_t plt_align_up(uint64_t v, uint64_t unit)
{
	return plt_align_down(v + unit - 1, unit);
}

static inline bool plt_align_up_checked(uint64_t v, uint64_t unit, uint64_t *ret)
{
	uint64_t t;

	if (plt_add(v, unit - 1, &t))
		return true;
	*ret = plt_align_down(t, unit);
	return false;
}

static inline uint64_t plt_div_up(uint64_t v, uint64_t unit)
{
	return v / unit + (v % unit != 0);
}

static inline bool plt_is_aligned(uint64_t v, uint64_t unit)
{
	return v % unit == 0;
}

/* [off, off+len) lies inside [0, size), without overflow. */
static inline bool plt_in_range(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static inline bool plt_ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a < b + blen && b < a + alen;
}

#endif
