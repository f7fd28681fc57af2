/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Compressed clusters that nothing names.  Their streams lie one behind the other, byte by byte, many in a cluster of
 * the file, so that an orphan is no cluster but a stream; a cluster of the file may hold streams that are named and
 * others.  What this says is where such streams may lie: in clusters that nothing reaches, and in those that are
 * counted more often than they are named.  The caller takes the streams apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "qcow2/check.h"

#define MAX_NAMED (UINT32_C(1) << 22) /* streams; with more nothing is said: 32 MiB */

static bool is_stray(const struct qcow2_exam *x, uint64_t off)
{
	return x->nstrays && bsearch(&off, x->strays, x->nstrays, sizeof(off), qcow2_by_value);
}

/* Of the entries that are known to lead to nothing, how many name this cluster? */
static uint64_t named_in_vain(const struct qcow2_exam *x, uint64_t cluster)
{
	const struct plt_mend *m = x->ex->mend;
	uint64_t n = 0;

	for (size_t i = 0; i < m->nflaws; i++)
		n += plt_ranges_overlap(m->flaws[i].host_off, m->flaws[i].len, cluster << x->q.cluster_bits, x->q.cluster_size);
	return n;
}

/* How often a cluster is counted beyond what names it; 0 if that is not known. */
static uint64_t surplus(struct qcow2_exam *x, uint64_t cluster)
{
	uint64_t stored, refs = qcow2_references(&x->c, cluster);

	refs -= PLT_MIN(refs, named_in_vain(x, cluster));
	return !x->refs_bad && !x->map_unread && qcow2_stored_count(&x->c, cluster, &stored) == 0 && stored > refs ? stored - refs : 0;
}

static bool is_missed(struct qcow2_exam *x, uint64_t cluster)
{
	return qcow2_references(&x->c, cluster) && surplus(x, cluster);
}

struct named {
	uint64_t *v;
	size_t n, cap;
	struct plt_extents clusters; /* of the file, that they touch */
};

static int note(struct qcow2_exam *x, struct named *s, uint64_t e)
{
	const uint64_t cs = x->q.cluster_size;
	uint64_t off, len = qcow2_compressed_range(&x->q, e & ~QCOW2_COPIED, &off), first = plt_align_down(off, cs);

	if (off < cs || off >= x->c.file_size)
		return 0;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 1024;
		void *v = cap <= MAX_NAMED ? realloc(s->v, cap * sizeof(*s->v)) : NULL;

		if (!v)
			return cap <= MAX_NAMED ? -ENOMEM : -EFBIG;
		s->v = v;
		s->cap = cap;
	}
	s->v[s->n++] = off;
	return plt_extents_add(&s->clusters, first, plt_align_up(off + len, cs) - first);
}

/* Every stream that some table names, ascending. */
static int gather(struct qcow2_exam *x, struct named *s)
{
	const struct qcow2_state *q = &x->q;
	uint8_t *table = plt_alloc_io(q->cluster_size);
	int r = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < x->c.nl2 && r == 0; i++) {
		const struct qcow2_l2ref *l = &x->c.l2[i];

		if (l->empty || (l->off & (q->cluster_size - 1)) || l->off >= x->c.file_size ||
		    qcow2_l2_read(&x->c, l->off, table) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size && r == 0; at += q->l2_entry_size) {
			uint64_t e = plt_get_be64(table + at);

			if (e & QCOW2_COMPRESSED)
				r = note(x, s, e);
		}
	}
	if (s->n)
		qsort(s->v, s->n, sizeof(*s->v), qcow2_by_value);
	free(table);
	return r;
}

static bool has_missed(struct qcow2_exam *x, const struct named *s)
{
	for (size_t i = 0; i < s->clusters.n; i++)
		for (uint64_t off = s->clusters.v[i].off; off < s->clusters.v[i].off + s->clusters.v[i].len; off += x->q.cluster_size)
			if (is_missed(x, off >> x->q.cluster_bits))
				return true;
	return false;
}

/* Of @packed, all clusters that nothing reaches, or that are counted more often than they are named. */
static int list_open(struct qcow2_exam *x, struct plt_orphans *p)
{
	const unsigned bits = x->q.cluster_bits;

	p->open = plt_alloc_capped((plt_extents_total(&p->packed) >> bits) + 1, sizeof(*p->open), UINT64_C(1) << 30);
	if (!p->open)
		return -ENOMEM;
	for (size_t i = 0; i < p->packed.n; i++)
		for (uint64_t k = p->packed.v[i].off >> bits; k << bits < p->packed.v[i].off + p->packed.v[i].len; k++) {
			uint64_t n = surplus(x, k);

			if (is_stray(x, k << bits))
				p->open[p->nopen++] = (struct plt_open){k << bits, n ? n : UINT64_MAX};
			else if (is_missed(x, k))
				p->open[p->nopen++] = (struct plt_open){k << bits, n};
		}
	return 0;
}

int qcow2_packed_find(struct qcow2_exam *x, struct plt_orphans *p)
{
	struct named s = {0};
	int r = x->c.external ? 0 : gather(x, &s);

	for (size_t i = 0; i < s.clusters.n && r == 0; i++)
		r = plt_extents_add(&p->packed, s.clusters.v[i].off, s.clusters.v[i].len);
	for (uint32_t i = 0; i < x->nstrays && r == 0; i++)
		r = plt_extents_add(&p->packed, x->strays[i], x->q.cluster_size);
	if (r == 0)
		r = list_open(x, p);
	p->named = s.v;
	p->nnamed = s.n;
	plt_extents_release(&s.clusters);
	return r == -EFBIG ? 0 : r;
}

int qcow2_tell_streams(struct qcow2_exam *x)
{
	plt_orphans_release(&x->ex->mend->streams);
	x->ex->mend->streams.span = x->q.cluster_size;
	return qcow2_packed_find(x, &x->ex->mend->streams);
}

bool qcow2_packed_is_open(struct qcow2_exam *x, uint64_t off, uint64_t len)
{
	const uint64_t cs = x->q.cluster_size;

	if (!len || !plt_in_range(off, len, plt_align_up(x->c.file_size, cs)) || off < cs)
		return false;
	for (uint64_t at = plt_align_down(off, cs); at < off + len; at += cs)
		if (!is_stray(x, at) && !is_missed(x, at >> x->q.cluster_bits))
			return false;
	return true;
}

uint64_t qcow2_packed_entry(const struct qcow2_state *q, uint64_t off, uint32_t len)
{
	return QCOW2_COMPRESSED | ((off + len - 1) / 512 - off / 512) << qcow2_csize_shift(q) | off;
}

int qcow2_packed_missing(struct qcow2_exam *x, bool *ret)
{
	struct named s = {0};
	int r = x->c.external ? 0 : gather(x, &s);

	*ret = r == -EFBIG || (r == 0 && has_missed(x, &s));
	plt_extents_release(&s.clusters);
	free(s.v);
	return r == -EFBIG ? 0 : r;
}
