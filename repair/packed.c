/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Compressed units that nothing names, taken apart.  Streams lie one behind the other and each says itself where it
 * ends, so a run of clusters is read from its beginning: what decodes to exactly one unit is one, and the next begins
 * where it ends.  What does not decode ends with its cluster.  Units that are named are passed over.  A unit whose
 * clusters could not hold one that nobody names is none of the orphans.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/zero.h"
#include "block/codec.h"
#include "repair/repair.h"

#define MAX_UNITS (UINT32_C(1) << 22)

struct apart {
	struct plt_repair *rep;
	const struct plt_orphans *o;
	enum plt_codec codec;
	uint32_t unit;
	uint8_t *in, *out;
	uint64_t file_size, in_off;  /* what @in holds: */
	size_t in_len;
	uint64_t rank;
	struct plt_orphan *v;        /* the streams, */
	uint64_t *ranks;             /* and each one's place among all streams */
	size_t n, cap;
	struct plt_extents covered;  /* clusters in which streams were found */
};

/* Two units of bytes from @at on, as far as there are. */
static size_t bytes_at(struct apart *a, uint64_t at, const uint8_t **ret)
{
	size_t want = at < a->file_size ? (size_t)PLT_MIN(2 * (uint64_t)a->unit, a->file_size - at) : 0;

	if (at < a->in_off || at + want > a->in_off + a->in_len) {
		a->in_off = plt_align_down(at, 512);
		a->in_len = (size_t)PLT_MIN(8 * (uint64_t)a->unit + 1024, a->file_size - PLT_MIN(a->in_off, a->file_size));
		if (plt_store_read(a->rep->overlay, a->in_off, a->in, a->in_len, PLT_IO_OTHER, NULL) < 0)
			a->in_len = 0;
		want = PLT_MIN(want, a->in_len - PLT_MIN(at - a->in_off, a->in_len));
	}
	*ret = a->in + (at - a->in_off);
	return want;
}

/* How many bytes of compressed data begin at @at; 0: none. */
static uint32_t stream_at(struct apart *a, uint64_t at)
{
	const uint8_t *p;
	size_t n = bytes_at(a, at, &p);
	int64_t len = n > 4 && !plt_is_zero(p, PLT_MIN(n, (size_t)64)) ? plt_packed_length(a->codec, p, n, a->out, a->unit) : 0;

	return len > 0 && len <= a->unit ? (uint32_t)len : 0;
}

static int by_off(const void *a, const void *b)
{
	const struct plt_open *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* Index of the open cluster at @off; SIZE_MAX: it is none. */
static size_t open_at(const struct apart *a, uint64_t off)
{
	const struct plt_open key = { .off = off };
	const struct plt_open *o = a->o->nopen ? bsearch(&key, a->o->open, a->o->nopen, sizeof(key), by_off) : NULL;

	return o ? (size_t)(o - a->o->open) : SIZE_MAX;
}

/* All of [off, off + len), in whole units. */
static bool is_open(const struct apart *a, uint64_t off, uint64_t len)
{
	for (uint64_t at = plt_align_down(off, a->unit); at < off + len; at += a->unit)
		if (open_at(a, at) == SIZE_MAX)
			return false;
	return true;
}

/* Where more units are found than are counted, some were given up, and nothing tells which. */
static void mark_stale(struct apart *a, uint64_t *found)
{
	for (unsigned pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < a->n; i++)
			for (uint64_t at = plt_align_down(a->v[i].host_off, a->unit); at < a->v[i].host_off + a->v[i].packed;
			     at += a->unit) {
				size_t k = open_at(a, at);

				if (pass)
					a->v[i].stale |= found[k] > a->o->open[k].count;
				else
					found[k]++;
			}
}

static int keep(struct apart *a, uint64_t off, uint32_t len)
{
	uint64_t first = plt_align_down(off, a->unit);

	if (!is_open(a, off, len))
		return 0;
	if (a->n == a->cap) {
		size_t cap = a->cap ? 2 * a->cap : 256;
		void *v, *ranks;

		if (cap > MAX_UNITS)
			return -EFBIG;
		v = realloc(a->v, cap * sizeof(*a->v));
		if (v)
			a->v = v;
		ranks = realloc(a->ranks, cap * sizeof(*a->ranks));
		if (ranks)
			a->ranks = ranks;
		if (!v || !ranks)
			return -ENOMEM;
		a->cap = cap;
	}
	a->v[a->n] = (struct plt_orphan){ .host_off = off, .guest_off = PLT_UNPLACED, .packed = len };
	a->ranks[a->n++] = a->rank;
	return plt_extents_add(&a->covered, first, plt_align_up(off + len, a->unit) - first);
}

static int take_apart(struct apart *a, const struct plt_range *run)
{
	uint64_t at = run->off, end = run->off + run->len;
	size_t named = 0;
	int r = 0;

	for (size_t lo = 0, hi = a->o->nnamed; lo < hi; named = lo) {
		size_t mid = lo + (hi - lo) / 2;

		if (a->o->named[mid] < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (at < end && r == 0) {
		uint64_t next = plt_align_down(at, a->unit) + a->unit;
		uint32_t len;

		while (named < a->o->nnamed && a->o->named[named] < at)
			named++;
		len = stream_at(a, at);
		if (len && !(named < a->o->nnamed && a->o->named[named] == at))
			r = keep(a, at, len);
		a->rank += len != 0;
		if (len)
			at += len;
		else if (named < a->o->nnamed && a->o->named[named] < next && a->o->named[named] > at)
			at = a->o->named[named];
		else
			at = next;
	}
	return r;
}

static bool is_covered(const struct apart *a, uint64_t off)
{
	const struct plt_range *r = plt_extents_find(&a->covered, off);

	return r && r->off <= off;
}

int plt_repair_take_apart(struct plt_repair *rep, enum plt_codec codec, const struct plt_orphans *o,
			  struct plt_orphans *ret, uint64_t **ret_ranks)
{
	struct apart a = { .rep = rep, .o = o, .codec = codec, .unit = (uint32_t)o->span };
	uint64_t *found = calloc(o->nopen + 1, sizeof(*found));
	int r;

	*ret_ranks = NULL;
	a.in = plt_alloc_io(8 * (size_t)a.unit + 4096);
	a.out = plt_alloc_io(a.unit);
	r = a.in && a.out && found ? plt_store_size(rep->overlay, &a.file_size, NULL) : -ENOMEM;
	for (size_t i = 0; i < o->packed.n && r == 0; i++)
		r = take_apart(&a, &o->packed.v[i]);
	if (r == 0)
		mark_stale(&a, found);
	ret->v = r < 0 ? NULL : calloc(o->n + a.n + 1, sizeof(*ret->v));
	*ret_ranks = ret->v ? calloc(o->n + a.n + 1, sizeof(**ret_ranks)) : NULL;
	if (r == 0 && !*ret_ranks)
		r = -ENOMEM;
	ret->n = 0;
	for (size_t i = 0; i < o->n && r == 0; i++)
		if (!is_covered(&a, o->v[i].host_off))
			ret->v[ret->n++] = o->v[i];
	for (size_t i = 0; i < a.n && r == 0; i++) {
		(*ret_ranks)[ret->n] = a.ranks[i];
		ret->v[ret->n++] = a.v[i];
	}
	plt_extents_release(&a.covered);
	free(a.v);
	free(a.ranks);
	free(found);
	free(a.in);
	free(a.out);
	return r;
}
