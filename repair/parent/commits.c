/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Has an image been committed into the one that it stands on?  A commit copies what the image holds, ascending, and leaves
 * the image as it is until the end; so units that are the same in both, one after the other from the beginning, are what
 * it has copied, and the first that differs is where it stopped.  A guest that writes again what was there makes single
 * units alike, not a run of them.
 *
 * The invariant: nothing is called committed of which fewer than ENOUGH units say so, or (a small image) all.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/zero.h"
#include "repair/parent/links.h"

#define UNIT (64u << 10)
#define SMALL_UNIT 4096u
#define ENOUGH 8       /* units */
#define ALL_OF 3
#define PATIENCE 64    /* of them, after which no commit has begun here */
#define UNLIKE 8       /* what one that differs outweighs: two crews of threads are never quite in order */

struct comparing {
	struct plt_disk *below;
	uint32_t unit;
	uint8_t *a, *b;
	struct plt_merged *ret;
	int64_t sum, best;
	uint64_t same;      /* so far; and up to the best */
};

static int compare_unit(struct comparing *c, struct plt_disk *alone, uint64_t off, size_t len, bool zero, struct plt_error *err)
{
	uint64_t size = plt_disk_size(c->below), there = off < size ? PLT_MIN((uint64_t)len, size - off) : 0;
	int r = zero ? 0 : plt_read(alone, off, c->a, len, err);

	if (zero)
		memset(c->a, 0, len);
	memset(c->b + there, 0, len - there);
	if (r == 0 && there)
		r = plt_read(c->below, off, c->b, there, err);
	if (r < 0)
		return 0; /* (damaged: it says nothing) */
	if (memcmp(c->a, c->b, len)) {
		c->ret->units++;
		c->sum -= UNLIKE;
		return c->ret->copied < ENOUGH && c->sum < c->best - PATIENCE * UNLIKE;
	}
	if (plt_extents_add(&c->ret->same, off, len) < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (plt_is_zero(c->a, len)) /* (that the parent has zeros there is nothing new) */
		return 0;
	c->ret->units++;
	c->same++;
	if (++c->sum >= c->best) {
		c->best = c->sum;
		c->ret->copied = c->same;
	}
	return 0;
}

/* Zeros over zeros are the same, however many: up to where the other one holds something, or nothing says so. */
static int skip_zeros(struct comparing *c, struct plt_cursor *below, uint64_t off, uint64_t end, uint64_t *ret, struct plt_error *err)
{
	uint64_t size = plt_disk_size(c->below), at = off;
	const struct plt_extent *e;
	int r = 0;

	while (at < end && r == 0) {
		uint64_t to = end;

		if (at < size) {
			r = plt_cursor_at(below, at, &e, err);
			if (r < 0)
				return r;
			if (e->flags & PLT_EXTENT_DAMAGED || (e->flags & PLT_EXTENT_PRESENT && !(e->flags & PLT_EXTENT_ZERO)))
				break;
			to = PLT_MIN(end, e->off + e->len);
		}
		if (plt_extents_add(&c->ret->same, at, to - at) < 0)
			return plt_error_set(err, ENOMEM, "out of memory");
		at = to;
	}
	*ret = at;
	return 0;
}

static int compare_all(struct comparing *c, struct plt_disk *alone, struct plt_error *err)
{
	struct plt_cursor cur, below;
	const struct plt_extent *e;
	int r = 0;

	plt_cursor_init(&cur, alone, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST);
	plt_cursor_init(&below, c->below, PLT_STATUS_NO_HOST);
	for (uint64_t pos = 0, end; pos < cur.size && r == 0; pos = end) {
		r = plt_cursor_at(&cur, pos, &e, err);
		if (r < 0)
			break;
		end = e->off + e->len;
		if (!(e->flags & PLT_EXTENT_PRESENT) || e->flags & PLT_EXTENT_DAMAGED)
			continue;
		for (uint64_t at = e->off, n; at < end && r == 0; at += n) {
			if (e->flags & PLT_EXTENT_ZERO)
				r = skip_zeros(c, &below, at, end, &at, err);
			if (r < 0 || at == end)
				break;
			n = PLT_MIN(end - at, (uint64_t)c->unit - at % c->unit);
			r = compare_unit(c, alone, at, (size_t)n, e->flags & PLT_EXTENT_ZERO, err);
		}
	}
	return r;
}

int plt_merged_find(struct plt_disk *alone, struct plt_disk *below, struct plt_merged *ret, struct plt_error *err)
{
	uint32_t cluster = plt_disk_cluster_size(alone);
	PLT_AUTOFREE uint8_t *a = plt_alloc_io(UNIT), *b = plt_alloc_io(UNIT);
	struct comparing c = { .below = below, .a = a, .b = b, .ret = ret };
	int r;

	*ret = (struct plt_merged){ .same = PLT_EXTENTS_INIT };
	c.unit = cluster < SMALL_UNIT || cluster > UNIT ? SMALL_UNIT : cluster;
	if (!a || !b)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = compare_all(&c, alone, err);
	r = PLT_MIN(r, 0);
	ret->whole = ret->copied == ret->units && ret->units >= ALL_OF;
	ret->begun = ret->whole || ret->copied >= ENOUGH;
	return r;
}

void plt_merged_release(struct plt_merged *m)
{
	plt_extents_release(&m->same);
}
