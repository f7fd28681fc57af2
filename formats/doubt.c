/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The lists of what is lost and what is inferred: one sorted array for both, since a range is one or the other.
 * Invariant: of one disk no two ranges overlap, and neighbours that say the same are one.
 */
#include "formats/doubt.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void plt_doubts_release(struct plt_doubts *d)
{
	free(d->v);
	*d = (struct plt_doubts)PLT_DOUBTS_INIT;
}

static uint64_t end_of(const struct plt_doubt *d)
{
	return d->off + d->len;
}

/* Position of the first one of @disk that ends after @off, or where it would be. */
static size_t position(const struct plt_doubts *d, uint32_t disk, uint64_t off)
{
	size_t lo = 0, hi = d->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct plt_doubt *m = &d->v[mid];

		if (m->disk < disk || (m->disk == disk && end_of(m) <= off))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct plt_doubt *plt_doubts_find(const struct plt_doubts *d, uint32_t disk, uint64_t off)
{
	size_t i = position(d, disk, off);

	return i < d->n && d->v[i].disk == disk ? &d->v[i] : NULL;
}

static bool room_for(struct plt_doubts *d, size_t more)
{
	size_t cap = d->cap ? d->cap : 16;
	struct plt_doubt *v;

	while (cap < d->n + more)
		cap *= 2;
	if (cap == d->cap)
		return true;
	v = realloc(d->v, cap * sizeof(*v));
	if (!v)
		return false;
	d->v = v;
	d->cap = cap;
	return true;
}

/* Takes [off, end) out; at most one range is cut in two, for which there is room.  Where it would be now. */
static size_t take_out(struct plt_doubts *d, uint32_t disk, uint64_t off, uint64_t end)
{
	size_t first = position(d, disk, off), last;

	if (first < d->n && d->v[first].disk == disk && d->v[first].off < off) {
		struct plt_doubt *cut = &d->v[first];

		if (end_of(cut) > end) {
			memmove(cut + 1, cut, (d->n - first) * sizeof(*cut));
			d->n++;
			cut[1].len = end_of(cut) - end;
			cut[1].off = end;
		}
		cut->len = off - cut->off;
		first++;
	}
	for (last = first; last < d->n && d->v[last].disk == disk && end_of(&d->v[last]) <= end; last++)
		;
	memmove(d->v + first, d->v + last, (d->n - last) * sizeof(*d->v));
	d->n -= last - first;
	if (first < d->n && d->v[first].disk == disk && d->v[first].off < end) {
		struct plt_doubt *cut = &d->v[first];

		cut->len = end_of(cut) - end;
		cut->off = end;
	}
	return first;
}

static bool continues(const struct plt_doubt *a, const struct plt_doubt *b)
{
	return a->disk == b->disk && end_of(a) == b->off && a->kind == b->kind &&
	       (a->kind == PLT_LOST || a->certainty == b->certainty) && !strcmp(a->why, b->why);
}

static void join_next(struct plt_doubts *d, size_t i)
{
	if (i + 1 >= d->n || !continues(&d->v[i], &d->v[i + 1]))
		return;
	d->v[i].len += d->v[i + 1].len;
	memmove(d->v + i + 1, d->v + i + 2, (d->n - i - 2) * sizeof(*d->v));
	d->n--;
}

int plt_doubts_set(struct plt_doubts *d, const struct plt_doubt *doubt)
{
	uint64_t end;
	size_t i;

	if (plt_add(doubt->off, doubt->len, &end))
		return -ERANGE;
	if (!doubt->len)
		return 0;
	if (!room_for(d, 2))
		return -ENOMEM;
	i = take_out(d, doubt->disk, doubt->off, end);
	memmove(d->v + i + 1, d->v + i, (d->n - i) * sizeof(*d->v));
	d->v[i] = *doubt;
	d->v[i].why[sizeof(d->v[i].why) - 1] = '\0';
	d->n++;
	join_next(d, i);
	if (i)
		join_next(d, i - 1);
	return 0;
}

int plt_doubts_clear(struct plt_doubts *d, uint32_t disk, uint64_t off, uint64_t len)
{
	uint64_t end;

	if (plt_add(off, len, &end))
		return -ERANGE;
	if (!len)
		return 0;
	if (!room_for(d, 1))
		return -ENOMEM;
	take_out(d, disk, off, end);
	return 0;
}

void plt_doubts_forget(struct plt_doubts *d, const char *why)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->v[i].why, why) != 0)
			d->v[n++] = d->v[i];
	d->n = n;
}

const char *plt_certainty_name(enum plt_certainty c)
{
	static const char *const names[] = { "guess", "likely", "strong", "proven" };

	return names[c & 3];
}
