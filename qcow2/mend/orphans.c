/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Orphans: clusters that are counted (or whose counts are lost: unreached.c), hold something, and that nothing
 * reaches.  What another tool calls a leak may be all that is left of a disk whose map was lost, so before anybody
 * frees it the orphans are looked at: which of them are L2 tables or L1 tables by their shape, what those reach, and
 * where they lie.
 *
 * Nothing is written here.  What they mean is orphans_judge.c's to say.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/mend/orphans.h"

#define MAX_TABLES (UINT32_C(1) << 20) /* orphans that look like tables; memory: 16 bytes each */

/* ---- shapes ---------------------------------------------------------------------------------- */

/* Does an entry name what has been cut off the file with its end?  Counts that are still there say that it was in use. */
static bool was_cut_off(struct qcow2_census *c, uint64_t e, uint64_t bitmap, uint64_t off)
{
	const struct qcow2_state *q = &c->x->q;
	const uint64_t packed = e & QCOW2_COMPRESSED ? qcow2_compressed_range(q, e & ~QCOW2_COPIED, &off) : 0;
	uint64_t last = packed ? off + packed - 1 : off, stored; /* (62 bits) */

	if (packed ? (e & QCOW2_COPIED) || bitmap || off < q->cluster_size :
		     (e & QCOW2_L2_RESERVED) || (off & (q->cluster_size - 1)) || (bitmap >> 32 & bitmap))
		return false;
	return last >= c->x->c.file_size && last < qcow2_far_end(c->x) && !c->x->refs_bad && !c->uncounted &&
	       qcow2_stored_count(&c->x->c, last >> q->cluster_bits, &stored) == 0 && stored;
}

bool qcow2_looks_like_table(struct qcow2_census *c, const uint8_t *p, uint32_t len, uint32_t *ret_n)
{
	const struct qcow2_state *q = &c->x->q;
	bool marked = !q->nb_bitmaps || len < q->cluster_size;
	uint32_t n = 0;

	for (uint32_t at = 0; at < len; at += q->l2_entry_size) {
		uint64_t e = plt_get_be64(p + at), bitmap = q->extl2 ? plt_get_be64(p + at + 8) : 0, off;

		if (!(e | bitmap))
			continue;
		if (!qcow2_entry_fits(c->x, e, bitmap, &off)) {
			if (!was_cut_off(c, e, bitmap, off))
				return false;
			off = 0;
		}
		marked |= bitmap || e & (QCOW2_COPIED | QCOW2_COMPRESSED);
		if (off)
			c->seen[n++] = e & QCOW2_COMPRESSED ? off << 1 | 1 : off << 1;
	}
	*ret_n = n;
	qsort(c->seen, n, sizeof(*c->seen), qcow2_by_value);
	for (uint32_t i = 1; i < n; i++)
		if (c->seen[i] == c->seen[i - 1] && !(c->seen[i] & 1))
			return false;
	return n > 0 && marked;
}

/* L1 table by shape: nothing but entries that name places of clusters. */
static bool looks_like_l1(const struct qcow2_census *c, const uint8_t *p, uint32_t len)
{
	const struct qcow2_state *q = &c->x->q;
	bool some = false;

	for (uint32_t at = 0; at < len; at += 8) {
		uint64_t e = plt_get_be64(p + at), off = e & QCOW2_L1_OFFSET;

		if ((e & QCOW2_L1_RESERVED) || (off & (q->cluster_size - 1)) || off >= c->x->c.file_size || (e && !off))
			return false;
		some |= e != 0;
	}
	return some;
}

static struct qcow2_orphan_table *table_find(const struct qcow2_census *c, uint64_t off)
{
	uint32_t lo = 0, hi = c->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (c->v[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->n && c->v[lo].off == off ? &c->v[lo] : NULL;
}

int qcow2_census_read(struct qcow2_census *c, uint64_t off)
{
	return plt_store_read(c->x->c.file, off, c->buf, c->x->q.cluster_size, PLT_IO_L2, NULL);
}

static int add_table(struct qcow2_census *c, const struct qcow2_orphan_table *t)
{
	if (c->n == c->cap) {
		uint32_t cap = c->cap ? 2 * c->cap : 64;
		void *v = realloc(c->v, cap * sizeof(*c->v));

		if (!v)
			return -ENOMEM;
		c->v = v;
		c->cap = cap;
	}
	c->v[c->n++] = *t;
	return 0;
}

void qcow2_census_explain(struct qcow2_census *c, uint64_t off)
{
	if (*qcow2_census_mark(c, off) & QCOW2_IS_ORPHAN)
		*qcow2_census_mark(c, off) |= QCOW2_IS_EXPLAINED;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* Does it hold anything, and is it a table?  The first 4 KiB nearly always tell; there may be many. */
static int look_at(struct qcow2_census *c, uint64_t off)
{
	const uint32_t cs = c->x->q.cluster_size, few = PLT_MIN(cs, UINT32_C(4096));
	struct qcow2_orphan_table t = {.off = off};
	bool zero;
	uint32_t n;
	int r = plt_store_read(c->x->c.file, off, c->buf, few, PLT_IO_L2, NULL);

	zero = r == 0 && plt_is_zero(c->buf, few);
	t.l2 = r == 0 && (zero || qcow2_looks_like_table(c, c->buf, few, &n));
	t.l1 = r == 0 && (zero || looks_like_l1(c, c->buf, few));
	if (few < cs && (t.l1 || t.l2)) {
		r = qcow2_census_read(c, off);
		zero = r == 0 && plt_is_zero(c->buf, cs);
		t.l2 = r == 0 && qcow2_looks_like_table(c, c->buf, cs, &n);
		t.l1 = r == 0 && looks_like_l1(c, c->buf, cs);
	}
	if (zero)
		return 0;
	*qcow2_census_mark(c, off) |= QCOW2_HAS_CONTENT; /* (what cannot be read may be anything) */
	if ((c->uncounted || c->x->refs_bad) && r == 0 && !t.l1 && !t.l2 && qcow2_is_stale(c->x, off, c->buf, few))
		qcow2_census_explain(c, off);
	return (t.l1 || t.l2) && c->n < MAX_TABLES ? add_table(c, &t) : 0;
}

static int look_at_all(struct qcow2_census *c)
{
	const uint32_t cs = c->x->q.cluster_size;
	struct qcow2_host host = {0};
	int r = 0;

	for (size_t i = 0; i < c->all.n && r == 0; i++) {
		uint64_t end = c->all.v[i].off + c->all.v[i].len;

		for (uint64_t off = c->all.v[i].off; off < end && r == 0; off += cs) {
			*qcow2_census_mark(c, off) |= QCOW2_IS_ORPHAN;
			if (off < c->x->c.file_size && qcow2_hole_at(&c->x->c, &host, off, cs) != cs)
				r = look_at(c, off);
		}
	}
	return r;
}

static int note_l1(void *arg, uint32_t index, uint64_t e)
{
	struct qcow2_census *c = arg;

	if ((e & QCOW2_L1_OFFSET) && !(e & QCOW2_L1_RESERVED) && (e & QCOW2_L1_OFFSET) < c->x->c.file_size) {
		c->l1[index] = e & QCOW2_L1_OFFSET;
		c->l1_any = true;
	}
	return 0;
}

static int some_entry(void *arg, uint32_t index, uint64_t e)
{
	(void)index;
	*(bool *)arg = e & QCOW2_L1_OFFSET;
	return e & QCOW2_L1_OFFSET ? 1 : 0;
}

/* Is there a snapshot of a disk on which nothing had been written?  (Of many large ones not all are looked at.) */
static bool has_empty_snapshot(const struct qcow2_census *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t left = QCOW2_MAX_L1_BYTES;

	for (uint32_t i = 0; q->snapshots && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];
		bool some = false;

		if ((uint64_t)s->l1_size * 8 > left)
			return true;
		left -= (uint64_t)s->l1_size * 8;
		if (qcow2_l1_each(&c->x->c, s->l1_offset, s->l1_size, some_entry, &some) < 0 || !some)
			return true;
	}
	return false;
}

/* Behind the last of the guest's clusters; where they lie in another file, behind the last L2 table. */
static uint64_t behind_mapped(const struct qcow2_census *c)
{
	const struct qcow2_recount *rc = &c->x->c;
	unsigned bits = c->x->q.cluster_bits;

	for (uint64_t k = rc->nb; k--;)
		if (qcow2_references(rc, k) && (rc->external ? qcow2_l2_find(rc, k << bits) != NULL : !qcow2_is_metadata(rc, k)))
			return (k + 1) << bits;
	return 0;
}

/* ---- orphan L1 tables ------------------------------------------------------------------------ */

/* Is nothing known to be at @off: neither a reference nor an orphan? */
static bool is_free(struct qcow2_census *c, uint64_t off)
{
	return !qcow2_references(&c->x->c, off >> c->x->q.cluster_bits) && !(*qcow2_census_mark(c, off) & QCOW2_IS_ORPHAN);
}

/*
 * An L1 table names L2 tables, orphans or others, and nothing else; of a snapshot that was being deleted some
 * are free already.
 */
static void tell_l1s(struct qcow2_census *c)
{
	const struct qcow2_state *q = &c->x->q;

	for (uint32_t i = 0; i < c->n; i++) {
		struct qcow2_orphan_table *t = &c->v[i];
		bool some = false;

		if (!t->l1)
			continue;
		t->l1 = qcow2_census_read(c, t->off) == 0;
		for (uint32_t at = 0; at < q->cluster_size && t->l1; at += 8) {
			uint64_t off = plt_get_be64(c->buf + at) & QCOW2_L1_OFFSET;
			const struct qcow2_orphan_table *o = off ? table_find(c, off) : NULL;

			t->l1 = !off || (o && o->l2) || qcow2_l2_find(&c->x->c, off) || is_free(c, off);
			some |= off && ((o && o->l2) || qcow2_l2_find(&c->x->c, off));
		}
		t->l1 &= some;
	}
}

static int keep_l1s(struct qcow2_census *c)
{
	struct qcow2_exam *x = c->x;

	for (uint32_t i = 0; i < c->n && !c->l1_any; i++)
		x->emptied |= c->v[i].l1;
	if (!x->ex->mend)
		return 0;
	x->l1s = calloc((size_t)c->n + 1, sizeof(*x->l1s));
	for (uint32_t i = 0; i < c->n && x->l1s; i++)
		if (c->v[i].l1)
			x->l1s[x->nl1s++] = c->v[i].off;
	return x->l1s ? 0 : -ENOMEM;
}

/* What a table reaches belongs to whom it belongs to. */
static void explain_table(struct qcow2_census *c, struct qcow2_orphan_table *t)
{
	uint32_t n;

	if (t->explained)
		return;
	t->explained = c->x->explained = true;
	qcow2_census_explain(c, t->off);
	if (qcow2_census_read(c, t->off) < 0 || !qcow2_looks_like_table(c, c->buf, c->x->q.cluster_size, &n))
		return;
	for (uint32_t k = 0; k < n; k++) {
		qcow2_census_explain(c, qcow2_seen_off(c->seen[k]));
		if (c->seen[k] & 1) /* compressed data may run into the next cluster */
			qcow2_census_explain(c, qcow2_seen_off(c->seen[k]) + c->x->q.cluster_size - 1);
	}
}

/* Without counts: is the part @part of an L1 table in c->l1_buf an older state of the active one? */
static bool is_older(const struct qcow2_census *c, uint32_t part)
{
	uint32_t per = c->x->q.cluster_size / 8, same = 0, other = 0;

	for (uint32_t k = 0; k < per && c->uncounted; k++) {
		uint64_t off = plt_get_be64(c->l1_buf + (size_t)k * 8) & QCOW2_L1_OFFSET, slot = (uint64_t)part * per + k;

		if (!off || !qcow2_census_l1_has(c, slot))
			continue;
		same += c->l1[slot] == off;
		other += c->l1[slot] != off;
	}
	return same && other <= same / 4;
}

/*
 * An orphan L1 is what a snapshot leaves that was being deleted, or the disk when a snapshot was being
 * applied: it explains the tables it names.  Where the active L1 names no table at all, it may be all that
 * is left of the map; and so it may for single entries if it says what the active one says, as far as that goes, and
 * no count tells which of the two was in use.
 */
static void follow_l1s(struct qcow2_census *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint32_t per = q->cluster_size / 8, part = 0;

	for (uint32_t i = 0; i < c->n; i++) {
		bool whole = true, older;

		/* parts that lie one behind the other are one table */
		part = i && c->v[i - 1].l1 && c->v[i - 1].off + q->cluster_size == c->v[i].off ? part + 1 : 0;
		if (!c->v[i].l1 || plt_store_read(c->x->c.file, c->v[i].off, c->l1_buf, q->cluster_size, PLT_IO_L1, NULL) < 0)
			continue;
		older = is_older(c, part);
		for (uint32_t k = 0; k < per; k++) {
			uint64_t off = plt_get_be64(c->l1_buf + (size_t)k * 8) & QCOW2_L1_OFFSET;
			struct qcow2_orphan_table *t = off ? table_find(c, off) : NULL;

			if (!t)
				continue;
			if (c->l1_any && !(older && !qcow2_census_l1_has(c, (uint64_t)part * per + k))) {
				explain_table(c, t);
				continue;
			}
			whole = false;
			t->slot = t->named && t->slot != (uint64_t)part * per + k ? UINT64_MAX : (uint64_t)part * per + k;
			t->named = true;
		}
		if (whole)
			qcow2_census_explain(c, c->v[i].off);
	}
}

int qcow2_judge_orphans(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct qcow2_census c = {.x = x, .mark = MAP_FAILED};
	int r = qcow2_find_unreached(x, &c.all);

	x->orphans = QCOW2_ORPHANS_LEFT;
	c.uncounted = x->counts_gone || (x->ex->mend && x->ex->mend->counts_gone);
	if (x->ex->mend)
		x->ex->mend->cut |= x->cut;
	if (r < 0 || (!c.all.n && !(x->ex->mend && x->ex->mend->cut && x->shares)))
		goto out;
	c.mark_len = x->c.nb + 2;
	c.mark = mmap(NULL, c.mark_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	c.buf = plt_alloc_io(q->cluster_size);
	c.l1_buf = plt_alloc_io(q->cluster_size);
	c.seen = plt_alloc_capped(q->cluster_size / q->l2_entry_size, 8, SIZE_MAX / 2);
	c.l1 = calloc((size_t)q->l1_size + 1, 8);
	r = c.mark != MAP_FAILED && c.buf && c.l1_buf && c.seen && c.l1 ? qcow2_l1_each(&x->c, q->l1_offset, q->l1_size, note_l1, &c) : -ENOMEM;
	if (r == -ENOMEM)
		goto out;
	c.highest = behind_mapped(&c);
	c.emptied = !c.l1_any && has_empty_snapshot(&c);
	r = look_at_all(&c);
	if (r == 0) {
		tell_l1s(&c);
		r = keep_l1s(&c);
		if (!c.emptied && !x->snapshots_bad) /* (then neither says anything: they may be left, or lost) */
			follow_l1s(&c);
		if (r == 0)
			r = qcow2_census_judge(&c);
	}
out:
	plt_extents_release(&c.all);
	if (c.mark != MAP_FAILED)
		munmap(c.mark, c.mark_len);
	free(c.l1_buf);
	free(c.v);
	free(c.seen);
	free(c.l1);
	free(c.buf);
	return r;
}
