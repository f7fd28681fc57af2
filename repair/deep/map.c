/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The map of the layer that is mended, in pieces of one size: which place shows which part of the file.  What is
 * compressed, or lies in another file, is no piece.  Memory: 32 bytes a run of pieces that lie one behind the other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "formats/driver.h"
#include "repair/deep/deep.h"

#define RUNS_MAX (8u << 20)

void plt_deep_map_release(struct deep_map *m)
{
	free(m->v);
	*m = (struct deep_map){ 0 };
}

static int add(struct deep_map *m, const struct deep_run *run)
{
	struct deep_run *last = m->n ? &m->v[m->n - 1] : NULL;

	if (!m->tables && last && last->kind == run->kind && last->guest + last->len == run->guest &&
	    (last->host == DEEP_NOWHERE ? run->host == DEEP_NOWHERE : last->host + last->len == run->host)) {
		last->len += run->len;
		return 0;
	}
	if (m->n == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 256;
		void *v = m->n < RUNS_MAX ? realloc(m->v, cap * sizeof(*m->v)) : NULL;

		if (!v)
			return m->n < RUNS_MAX ? -ENOMEM : -EFBIG;
		m->v = v;
		m->cap = cap;
	}
	m->v[m->n++] = *run;
	return 0;
}

static int map_clusters(struct plt_image *img, struct deep_map *ret, struct plt_error *err)
{
	uint64_t size = atomic_load(&img->size);
	struct plt_run v[64];
	int r = 0;

	ret->span = img->drv->cluster_size ? img->drv->cluster_size(img) : 0;
	for (uint64_t off = 0; ret->span && off < size && r == 0;) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };

		r = plt_image_map_wait(img, off, size - off, &runs, err);
		for (unsigned i = 0; i < runs.n && r == 0; i++) {
			struct deep_run run = { v[i].off, v[i].len, DEEP_NOWHERE, DEEP_OTHER };
			bool here = v[i].store == img->file;

			if (v[i].kind == PLT_RUN_DATA && here)
				run = (struct deep_run){ v[i].off, v[i].len, v[i].host_off, DEEP_DATA };
			else if (v[i].kind == PLT_RUN_ZERO)
				run = (struct deep_run){ v[i].off, v[i].len,
							 v[i].flags & PLT_RUN_ALLOCATED && here ? v[i].host_off : DEEP_NOWHERE,
							 DEEP_ZERO };
			off = v[i].off + v[i].len;
			if (here && (v[i].kind == PLT_RUN_DATA || v[i].kind == PLT_RUN_COMPRESSED))
				ret->highest = PLT_MAX(ret->highest, v[i].host_off + (v[i].kind == PLT_RUN_DATA ? v[i].len : v[i].comp_len));
			if (v[i].kind != PLT_RUN_ABSENT)
				r = add(ret, &run);
		}
		if (!runs.n && r == 0)
			break;
	}
	return r;
}

/* Of what one piece shows in parts: what it holds, before what it leaves out. */
static unsigned rank(enum deep_kind kind)
{
	return kind == DEEP_DATA ? 3 : kind == DEEP_OTHER ? 2 : kind == DEEP_ZERO;
}

int plt_deep_whole(struct deep_map *m, struct plt_error *err)
{
	struct deep_map whole = { .span = m->span, .highest = m->highest };
	int r = 0;

	for (size_t i = 0; i < m->n && r == 0; i++) {
		const struct deep_run *from = &m->v[i];
		const uint64_t end = from->guest + from->len;

		for (uint64_t at = from->guest, stop; at < end && r == 0; at = stop) {
			struct deep_run run = { .guest = plt_align_down(at, m->span), .len = m->span, .host = DEEP_NOWHERE, .kind = from->kind };
			struct deep_run *last = whole.n ? &whole.v[whole.n - 1] : NULL;

			if (at == run.guest && end - at >= m->span)
				run.len = plt_align_down(end - at, m->span);
			stop = PLT_MIN(end, run.guest + run.len);
			if (from->host != DEEP_NOWHERE)
				run.host = from->host + (at - from->guest) - (at - run.guest);
			if (last && last->guest + last->len > run.guest) { /* a part of it has been seen */
				if (rank(last->kind) >= rank(run.kind))
					continue;
				last->len -= m->span;
				whole.n -= !last->len;
			}
			r = add(&whole, &run);
		}
	}
	plt_deep_map_release(m);
	*m = whole;
	if (r < 0)
		plt_deep_map_release(m);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
}

int plt_deep_map(struct plt_repair *rep, struct plt_disk *disk, bool tables, struct deep_map *ret, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(disk);
	const struct plt_driver *drv = img->drv;
	struct plt_orphans o = { 0 };
	int r = 0;

	*ret = (struct deep_map){ .tables = tables };
	if (tables && drv->map_pieces)
		r = drv->map_pieces(rep->ctx, rep->overlay, &o, err);
	else if (!tables)
		r = map_clusters(img, ret, err);
	if (tables)
		ret->span = o.span;
	for (size_t i = 0; i < o.n && r == 0; i++)
		r = add(ret, &(struct deep_run){ o.v[i].guest_off, o.span, o.v[i].host_off, DEEP_DATA });
	free(o.v);
	if (r < 0)
		plt_deep_map_release(ret);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
}

size_t plt_deep_run(const struct deep_map *m, uint64_t guest)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->v[mid].guest + m->v[mid].len <= guest)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

enum deep_kind plt_deep_at(const struct deep_map *m, uint64_t guest, uint64_t *ret_host)
{
	size_t lo = plt_deep_run(m, guest);

	*ret_host = DEEP_NOWHERE;
	if (lo == m->n || m->v[lo].guest > guest)
		return DEEP_ABSENT;
	if (m->v[lo].host != DEEP_NOWHERE)
		*ret_host = m->v[lo].host + (guest - m->v[lo].guest);
	return m->v[lo].kind;
}

static int by_host(const void *a, const void *b)
{
	const struct deep_run *x = a, *y = b;

	return x->host < y->host ? -1 : x->host > y->host;
}

int plt_deep_shared(const struct deep_map *m, struct plt_extents *ret)
{
	struct deep_run *v = malloc((m->n + 1) * sizeof(*v));
	size_t n = 0, far = 0; /* far: the one so far that ends last */
	int r = v ? 0 : -ENOMEM;

	for (size_t i = 0; i < m->n && r == 0; i++)
		if (m->v[i].kind == DEEP_DATA)
			v[n++] = m->v[i];
	if (n)
		qsort(v, n, sizeof(*v), by_host);
	for (size_t i = 1; i < n && r == 0; i++) {
		uint64_t end = v[far].host + (m->tables ? 1 : v[far].len), mine = v[i].host + (m->tables ? 1 : v[i].len);

		if (v[i].host < end) {
			uint64_t both = PLT_MIN(end, mine) - v[i].host;

			r = plt_extents_add(ret, v[i].guest, m->tables ? m->span : both);
			if (r == 0)
				r = plt_extents_add(ret, v[far].guest + (v[i].host - v[far].host), m->tables ? m->span : both);
		}
		if (mine > end)
			far = i;
	}
	free(v);
	return r;
}
