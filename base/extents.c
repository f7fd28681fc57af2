/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The set of byte ranges as a sorted array.  Invariant: ranges are not empty, ascending, and
 * neither overlap nor touch, so one range is what a caller handles in one step and a binary search
 * finds it.  A change that needs memory takes it before it changes anything.
 */
#include "base/extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void plt_extents_release(struct plt_extents *ex)
{
	free(ex->v);
	*ex = (struct plt_extents)PLT_EXTENTS_INIT;
}

static uint64_t range_end(const struct plt_range *r)
{
	return r->off + r->len;
}

/* Index of the first range whose end is >= @off (@touching) or > @off; n if there is none. */
static size_t first_ending(const struct plt_extents *ex, uint64_t off, bool touching)
{
	size_t lo = 0, hi = ex->n;

	/* Appending is the common case. */
	if (hi && range_end(&ex->v[hi - 1]) < off)
		return hi;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		uint64_t end = range_end(&ex->v[mid]);

		if (touching ? end >= off : end > off)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Room for one range more. */
static int reserve(struct plt_extents *ex)
{
	struct plt_range *v;
	size_t cap;

	if (ex->n < ex->cap)
		return 0;
	if (__builtin_mul_overflow(ex->cap, 2, &cap))
		return -ENOMEM;
	cap = PLT_MAX(cap, 8U);
	v = reallocarray(ex->v, cap, sizeof(*v));
	if (!v)
		return -ENOMEM;
	ex->v = v;
	ex->cap = cap;
	return 0;
}

/* Replace ranges [first, last) by one. */
static void replace(struct plt_extents *ex, size_t first, size_t last, struct plt_range by)
{
	memmove(&ex->v[first + 1], &ex->v[last], (ex->n - last) * sizeof(*ex->v));
	ex->v[first] = by;
	ex->n = ex->n - (last - first) + 1;
}

int plt_extents_add(struct plt_extents *ex, uint64_t off, uint64_t len)
{
	uint64_t start = off, end;
	size_t first, last;

	if (plt_add(off, len, &end))
		return -EINVAL;
	if (!len)
		return 0;
	first = first_ending(ex, off, true);
	for (last = first; last < ex->n && ex->v[last].off <= end; last++)
		;
	if (first == last) {
		if (reserve(ex) < 0)
			return -ENOMEM;
	} else {
		start = PLT_MIN(start, ex->v[first].off);
		end = PLT_MAX(end, range_end(&ex->v[last - 1]));
	}
	replace(ex, first, last, (struct plt_range){ start, end - start });
	return 0;
}

int plt_extents_remove(struct plt_extents *ex, uint64_t off, uint64_t len)
{
	size_t first, last;
	uint64_t end;

	if (plt_add(off, len, &end))
		return -EINVAL;
	first = first_ending(ex, off, false);
	if (!len || first == ex->n || ex->v[first].off >= end)
		return 0;

	if (ex->v[first].off < off) {
		uint64_t old_end = range_end(&ex->v[first]);

		if (old_end > end) {
			/* A hole inside one range: what is behind it becomes a new one. */
			struct plt_range behind = { end, old_end - end };

			if (reserve(ex) < 0)
				return -ENOMEM;
			ex->v[first].len = off - ex->v[first].off;
			replace(ex, first + 1, first + 1, behind);
			return 0;
		}
		ex->v[first].len = off - ex->v[first].off;
		first++;
	}
	for (last = first; last < ex->n && range_end(&ex->v[last]) <= end; last++)
		;
	memmove(&ex->v[first], &ex->v[last], (ex->n - last) * sizeof(*ex->v));
	ex->n -= last - first;
	if (first < ex->n && ex->v[first].off < end) {
		ex->v[first].len = range_end(&ex->v[first]) - end;
		ex->v[first].off = end;
	}
	return 0;
}

const struct plt_range *plt_extents_find(const struct plt_extents *ex, uint64_t off)
{
	size_t i = first_ending(ex, off, false);

	return i < ex->n ? &ex->v[i] : NULL;
}

bool plt_extents_overlaps(const struct plt_extents *ex, uint64_t off, uint64_t len)
{
	const struct plt_range *r = plt_extents_find(ex, off);

	/* r ends behind off; it overlaps if it begins before off + len, which may pass 2^64. */
	return r && len && (r->off <= off || r->off - off < len);
}

uint64_t plt_extents_total(const struct plt_extents *ex)
{
	uint64_t total = 0;

	for (size_t i = 0; i < ex->n; i++)
		total += ex->v[i].len;
	return total;
}
