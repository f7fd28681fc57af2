/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Orphans: clusters that are counted (or whose counts are lost: unreached.c), hold something, and that nothing
 * reaches.  What another tool calls a leak may be all that is left of a disk whose map was lost, so before anybody
 * frees it the orphans are looked at: which of them are L2 tables or L1 tables by their shape, what those reach, and
 * where they lie.
 *
 *	left      a program that was stopped has left them: they lie behind everything that is mapped, for a
 *	          stop loses the newest allocations; or an orphan L1 reaches them, as a half-deleted snapshot
 *	          does.  Their counts may be lowered
 *	lost      the active tree has a gap that they fit, and no stop explains it: an L2 table of garbage, or an
 *	          empty L1 entry for an L2 table that reaches many orphans, or (512 bytes of) an L2 table of zeros
 *	          and orphans far below the last cluster that is mapped
 *	undecided the rest.  A power cut may keep the newest of what was written since the last flush and lose
 *	          what is older, and it may catch clusters on their way to be free; in a small image that cannot
 *	          be told from a lost table
 *
 * An image whose counts are lost has been damaged, which no stop explains: there any table of zeros and any L2 table
 * without a place are lost, wherever they lie.  But clusters that were free are among the orphans, too.  Known as
 * such are old refcount blocks, old L1 tables with the tables that they name, and older copies of tables that are
 * in use.
 *
 * Nothing is written here; what may be done about a verdict is decided in mend.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/extents.h"
#include "base/zero.h"
#include "qcow2/check.h"

#define MANY 64     /* entries of a table: more than one sector of it holds */
/* Clusters mapped behind an orphan: more, and more bytes, than are mapped between two flushes as a rule. */
#define FAR_CLUSTERS UINT64_C(1024)
#define FAR_BYTES (UINT64_C(16) << 20)
#define MAX_TABLES (UINT32_C(1) << 20) /* orphans that look like tables; memory: 16 bytes each */

struct orphan_table {
	uint64_t off;
	bool l2;        /* it has the shape of an L2 table */
	bool l1;        /* of an L1 table, or a part of one: what it names are L2 tables, all of it */
	bool explained; /* an orphan L1 names it, and the active one has other tables */
	bool named;     /* an orphan L1 names it, and the active one has nothing */
	uint64_t slot;  /* which; UINT64_MAX: several */
};

/* What is known of a cluster. */
enum { ORPHAN = 1, CONTENT = 2, EXPLAINED = 4 };

struct census {
	struct qcow2_exam *x;
	struct plt_extents all;     /* orphans, whole clusters */
	uint8_t *mark;              /* one a cluster; touched only where orphans are */
	uint64_t mark_len;
	struct orphan_table *v;
	uint32_t n, cap;
	uint64_t *seen;             /* of one table: its targets */
	uint64_t *l1;               /* the place in the file that active L1 entry i names; 0: none */
	bool l1_any;                /* some of them does */
	bool uncounted;             /* counts were lost */
	bool emptied;               /* none does, and that is what the disk was in a snapshot: it may have been applied */
	uint64_t highest;           /* host offset behind the last cluster that is mapped; 0: none */
	uint8_t *buf, *l1_buf;
};

static uint8_t *mark_at(struct census *c, uint64_t off)
{
	uint64_t k = off >> c->x->q.cluster_bits;

	return &c->mark[k < c->mark_len ? k : c->mark_len - 1]; /* (one more than there are clusters) */
}

/* ---- shapes ---------------------------------------------------------------------------------- */

/* What is in c->seen: the place, and whether it is compressed data. */
static uint64_t seen_off(uint64_t v)
{
	return v >> 1;
}

/* Does an entry name what has been cut off the file with its end?  Counts that are still there say that it was in use. */
static bool was_cut_off(struct census *c, uint64_t e, uint64_t bitmap, uint64_t off)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t stored;

	return !(e & (QCOW2_COMPRESSED | QCOW2_L2_RESERVED)) && !(off & (q->cluster_size - 1)) && !(bitmap >> 32 & bitmap) &&
	       off >= c->x->c.file_size && off < qcow2_far_end(c->x) && !c->x->refs_bad && !c->uncounted &&
	       qcow2_stored_count(&c->x->c, off >> q->cluster_bits, &stored) == 0 && stored;
}

/*
 * Table by shape, as far as @len bytes show: *ret_n clusters that it names go to c->seen, sorted.  The table of a
 * bitmap has the same shape but for the marks, which entries of an L2 table have as a rule: without any, in an image
 * with bitmaps, it is taken for that.
 */
static bool looks_like_table(struct census *c, const uint8_t *p, uint32_t len, uint32_t *ret_n)
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
static bool looks_like_l1(const struct census *c, const uint8_t *p, uint32_t len)
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

static struct orphan_table *table_find(const struct census *c, uint64_t off)
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

static int read_cluster(struct census *c, uint64_t off)
{
	return plt_store_read(c->x->c.file, off, c->buf, c->x->q.cluster_size, PLT_IO_L2, NULL);
}

static int add_table(struct census *c, const struct orphan_table *t)
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

/* What lies there is known, and was not the guest's. */
static void explain(struct census *c, uint64_t off)
{
	if (*mark_at(c, off) & ORPHAN)
		*mark_at(c, off) |= EXPLAINED;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* Does it hold anything, and is it a table?  The first 4 KiB nearly always tell; there may be many. */
static int look_at(struct census *c, uint64_t off)
{
	const uint32_t cs = c->x->q.cluster_size, few = PLT_MIN(cs, UINT32_C(4096));
	struct orphan_table t = {.off = off};
	bool zero;
	uint32_t n;
	int r = plt_store_read(c->x->c.file, off, c->buf, few, PLT_IO_L2, NULL);

	zero = r == 0 && plt_is_zero(c->buf, few);
	t.l2 = r == 0 && (zero || looks_like_table(c, c->buf, few, &n));
	t.l1 = r == 0 && (zero || looks_like_l1(c, c->buf, few));
	if (few < cs && (t.l1 || t.l2)) {
		r = read_cluster(c, off);
		zero = r == 0 && plt_is_zero(c->buf, cs);
		t.l2 = r == 0 && looks_like_table(c, c->buf, cs, &n);
		t.l1 = r == 0 && looks_like_l1(c, c->buf, cs);
	}
	if (zero)
		return 0;
	*mark_at(c, off) |= CONTENT; /* (what cannot be read may be anything) */
	if ((c->uncounted || c->x->refs_bad) && r == 0 && !t.l1 && !t.l2 && qcow2_is_stale(c->x, off, c->buf, few))
		explain(c, off);
	return (t.l1 || t.l2) && c->n < MAX_TABLES ? add_table(c, &t) : 0;
}

static int look_at_all(struct census *c)
{
	const uint32_t cs = c->x->q.cluster_size;
	struct qcow2_host host = {0};
	int r = 0;

	for (size_t i = 0; i < c->all.n && r == 0; i++) {
		uint64_t end = c->all.v[i].off + c->all.v[i].len;

		for (uint64_t off = c->all.v[i].off; off < end && r == 0; off += cs) {
			*mark_at(c, off) |= ORPHAN;
			if (off < c->x->c.file_size && qcow2_hole_at(&c->x->c, &host, off, cs) != cs)
				r = look_at(c, off);
		}
	}
	return r;
}

static int note_l1(void *arg, uint32_t index, uint64_t e)
{
	struct census *c = arg;

	if ((e & QCOW2_L1_OFFSET) && !(e & QCOW2_L1_RESERVED) && (e & QCOW2_L1_OFFSET) < c->x->c.file_size) {
		c->l1[index] = e & QCOW2_L1_OFFSET;
		c->l1_any = true;
	}
	return 0;
}

static bool l1_has(const struct census *c, uint64_t index)
{
	return index < c->x->q.l1_size && c->l1[index];
}

static int some_entry(void *arg, uint32_t index, uint64_t e)
{
	(void)index;
	*(bool *)arg = e & QCOW2_L1_OFFSET;
	return e & QCOW2_L1_OFFSET ? 1 : 0;
}

/* Is there a snapshot of a disk on which nothing had been written?  (Of many large ones not all are looked at.) */
static bool has_empty_snapshot(const struct census *c)
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
static uint64_t behind_mapped(const struct census *c)
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
static bool is_free(struct census *c, uint64_t off)
{
	return !qcow2_references(&c->x->c, off >> c->x->q.cluster_bits) && !(*mark_at(c, off) & ORPHAN);
}

/*
 * An L1 table names L2 tables, orphans or others, and nothing else; of a snapshot that was being deleted some
 * are free already.
 */
static void tell_l1s(struct census *c)
{
	const struct qcow2_state *q = &c->x->q;

	for (uint32_t i = 0; i < c->n; i++) {
		struct orphan_table *t = &c->v[i];
		bool some = false;

		if (!t->l1)
			continue;
		t->l1 = read_cluster(c, t->off) == 0;
		for (uint32_t at = 0; at < q->cluster_size && t->l1; at += 8) {
			uint64_t off = plt_get_be64(c->buf + at) & QCOW2_L1_OFFSET;
			const struct orphan_table *o = off ? table_find(c, off) : NULL;

			t->l1 = !off || (o && o->l2) || qcow2_l2_find(&c->x->c, off) || is_free(c, off);
			some |= off && ((o && o->l2) || qcow2_l2_find(&c->x->c, off));
		}
		t->l1 &= some;
	}
}

static int keep_l1s(struct census *c)
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
static void explain_table(struct census *c, struct orphan_table *t)
{
	uint32_t n;

	if (t->explained)
		return;
	t->explained = c->x->explained = true;
	explain(c, t->off);
	if (read_cluster(c, t->off) < 0 || !looks_like_table(c, c->buf, c->x->q.cluster_size, &n))
		return;
	for (uint32_t k = 0; k < n; k++) {
		explain(c, seen_off(c->seen[k]));
		if (c->seen[k] & 1) /* compressed data may run into the next cluster */
			explain(c, seen_off(c->seen[k]) + c->x->q.cluster_size - 1);
	}
}

/* Without counts: is the part @part of an L1 table in c->l1_buf an older state of the active one? */
static bool is_older(const struct census *c, uint32_t part)
{
	uint32_t per = c->x->q.cluster_size / 8, same = 0, other = 0;

	for (uint32_t k = 0; k < per && c->uncounted; k++) {
		uint64_t off = plt_get_be64(c->l1_buf + (size_t)k * 8) & QCOW2_L1_OFFSET, slot = (uint64_t)part * per + k;

		if (!off || !l1_has(c, slot))
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
static void follow_l1s(struct census *c)
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
			struct orphan_table *t = off ? table_find(c, off) : NULL;

			if (!t)
				continue;
			if (c->l1_any && !(older && !l1_has(c, (uint64_t)part * per + k))) {
				explain_table(c, t);
				continue;
			}
			whole = false;
			t->slot = t->named && t->slot != (uint64_t)part * per + k ? UINT64_MAX : (uint64_t)part * per + k;
			t->named = true;
		}
		if (whole)
			explain(c, c->v[i].off);
	}
}

/* ---- gaps ------------------------------------------------------------------------------------ */

/* What all tables of the active tree look like, together: bits of QCOW2_SHAPE_*. */
static unsigned look_for_gaps(struct census *c)
{
	struct qcow2_recount *rc = &c->x->c;
	unsigned shapes = 0;

	for (uint64_t i = 0; i < rc->nl2; i++)
		if (rc->l2[i].active && rc->l2[i].off)
			shapes |= qcow2_l2_shape(c->x, &rc->l2[i], c->buf);
	return shapes;
}

static uint64_t far(const struct census *c)
{
	return PLT_MAX(FAR_CLUSTERS, FAR_BYTES >> c->x->q.cluster_bits);
}

/* Do so many mapped clusters lie behind the orphan at @off that it cannot be one of the newest? */
static bool is_far_below(const struct census *c, uint64_t off)
{
	const struct qcow2_recount *rc = &c->x->c;
	unsigned bits = c->x->q.cluster_bits;
	uint64_t n = 0;

	for (uint64_t k = (off >> bits) + 1; k << bits < c->highest && n <= far(c); k++)
		n += qcow2_references(rc, k) != 0;
	return n > far(c);
}

/*
 * An older copy of a table that is in use, of the map or of the counts?  It names what that one names: of a table of the
 * map some has been written anew since, or nothing; what a snapshot shares says nothing.
 */
static bool is_older_copy(const struct census *c, uint32_t n)
{
	const struct qcow2_recount *rc = &c->x->c;
	unsigned bits = c->x->q.cluster_bits;
	uint32_t reached = 0;

	if (!c->uncounted || rc->external)
		return false;
	for (uint32_t k = 0; k < n; k++) {
		uint64_t cluster = seen_off(c->seen[k]) >> bits;

		reached += c->x->q.nb_snapshots ? qcow2_is_metadata(rc, cluster) : qcow2_references(rc, cluster) != 0;
	}
	return reached * 8 > n;
}

/* An orphan with content; without counts, one that is not known as something else. */
static bool is_missed(struct census *c, uint64_t off)
{
	return (*mark_at(c, off) & (CONTENT | (c->uncounted ? EXPLAINED : 0))) == CONTENT;
}

/* A table of refcount blocks that are not in use any more is not in use, either. */
static bool names_explained(struct census *c, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++)
		if (!(*mark_at(c, seen_off(c->seen[k])) & EXPLAINED))
			return false;
	return c->uncounted && !c->x->c.external;
}

/* Tables that nothing explains, and how many orphans they reach, while some place in the L1 is empty. */
struct lost {
	uint64_t tables, clusters;
	bool below; /* of them and what they reach, something lies below what is mapped */
};

static struct lost lost_tables(struct census *c)
{
	const struct qcow2_state *q = &c->x->q;
	struct lost l = {0};
	bool gap = false;
	uint32_t n;

	if (c->emptied)
		return l;

	for (uint32_t i = 0; i < q->l1_size && !gap; i++)
		gap = !l1_has(c, i);
	for (uint32_t i = 0; i < c->n; i++) {
		const struct orphan_table *t = &c->v[i];
		uint64_t orphans = 0;

		if (t->explained || t->l1 || !t->l2 || read_cluster(c, t->off) < 0 ||
		    !looks_like_table(c, c->buf, q->cluster_size, &n))
			continue;
		if (is_older_copy(c, n) || names_explained(c, n)) {
			explain(c, t->off);
			continue;
		}
		for (uint32_t k = 0; k < n; k++)
			orphans += c->x->c.external || is_missed(c, seen_off(c->seen[k]));
		if (!orphans)
			continue;
		if (c->x->pieces)
			c->x->pieces[c->x->npieces++] =
				(struct qcow2_piece){.off = t->off, .slot = t->slot, .named = t->named && t->slot != UINT64_MAX};
		if (!gap)
			continue;
		l.tables++;
		l.clusters += orphans;
		l.below |= t->off < c->highest || (!c->x->c.external && seen_off(c->seen[0]) < c->highest);
	}
	return l;
}

/* Has the L1 table an entry, of those that the disk needs, that names nothing? */
static bool has_room(const struct census *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t n = PLT_MIN(qcow2_l1_entries(q, q->virtual_size), (uint64_t)q->l1_size);

	for (uint64_t i = 0; i < n; i++)
		if (!c->l1[i])
			return true;
	return false;
}

/* No stop explains anything, but some of them were free. */
static enum qcow2_orphan_verdict judge_uncounted(struct census *c, const struct lost *l)
{
	unsigned shapes = look_for_gaps(c);

	if (l->tables || shapes & QCOW2_SHAPE_GARBAGE || (shapes & QCOW2_SHAPE_ZERO && c->x->orphan_clusters >= QCOW2_SOME_ORPHANS))
		return QCOW2_ORPHANS_LOST;
	return has_room(c) || shapes & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE) ? QCOW2_ORPHANS_UNDECIDED : QCOW2_ORPHANS_LEFT;
}

/* What the orphans are that nothing explains: @below of them lie below what is mapped; @first is the first. */
static enum qcow2_orphan_verdict judge_rest(struct census *c, const struct lost *l, uint64_t below, uint64_t first)
{
	unsigned shapes;

	if (c->uncounted)
		return judge_uncounted(c, l);
	if (l->clusters >= MANY && (c->highest ? l->below && is_far_below(c, first) : l->clusters >= far(c)))
		return QCOW2_ORPHANS_LOST;
	if ((c->x->cut || (c->x->ex->mend && c->x->ex->mend->cut)) && (l->tables || look_for_gaps(c) & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_GARBAGE)))
		return QCOW2_ORPHANS_LOST;
	if (!c->highest)
		return c->x->orphan_clusters >= far(c) && look_for_gaps(c) ? QCOW2_ORPHANS_LOST : QCOW2_ORPHANS_UNDECIDED;
	if (!below)
		return QCOW2_ORPHANS_LEFT;
	shapes = look_for_gaps(c);
	if (shapes & QCOW2_SHAPE_GARBAGE || (shapes & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE) && is_far_below(c, first)))
		return QCOW2_ORPHANS_LOST;
	return shapes & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE) || l->tables ? QCOW2_ORPHANS_UNDECIDED : QCOW2_ORPHANS_LEFT;
}

static int keep_stray(struct qcow2_exam *x, uint64_t off)
{
	if (x->nstrays == x->strays_cap) {
		uint32_t cap = x->strays_cap ? 2 * x->strays_cap : 256;
		void *v = realloc(x->strays, cap * sizeof(*x->strays));

		if (!v)
			return -ENOMEM;
		x->strays = v;
		x->strays_cap = cap;
	}
	x->strays[x->nstrays++] = off;
	return 0;
}

/* Part of the guest's disk is known to be lost: what nothing reaches may be that part. */
static bool known_lost(const struct qcow2_exam *x)
{
	const struct plt_doubts *d = x->ex->mend ? &x->ex->mend->doubts : NULL;

	if (d && x->ex->mend->map_damaged)
		return true;
	for (size_t i = 0; d && i < d->n; i++)
		if (d->v[i].kind == PLT_LOST)
			return true;
	return false;
}

/* What may be in use must not be free in the counts that are made: some orphan has none. */
static bool is_free_by_counts(struct qcow2_exam *x, uint64_t off)
{
	uint64_t stored;

	return qcow2_stored_count(&x->c, off >> x->q.cluster_bits, &stored) < 0 || !stored;
}

static int judge(struct census *c)
{
	struct qcow2_exam *x = c->x;
	struct lost l;
	bool unsaved = false;
	const bool keep = x->ex->mend && x->ex->mend->what & PLT_MEND_MAP && !c->emptied;
	uint64_t below = 0, rest = 0, first = 0;
	int r = 0;

	free(x->pieces);
	x->pieces = NULL;
	x->npieces = 0;
	if (c->n) {
		x->pieces = calloc(c->n, sizeof(*x->pieces));
		if (!x->pieces)
			return -ENOMEM;
	}
	l = lost_tables(c);
	for (size_t i = 0; i < c->all.n && r == 0; i++)
		for (uint64_t off = c->all.v[i].off; off < c->all.v[i].off + c->all.v[i].len && r == 0; off += x->q.cluster_size)
			if ((*mark_at(c, off) & (CONTENT | EXPLAINED)) == CONTENT) {
				if (!rest++)
					first = off;
				below += off < c->highest;
				unsaved |= is_free_by_counts(x, off);
				r = c->uncounted ? plt_extents_add(&x->unreached, off, x->q.cluster_size) : 0;
				if (r == 0 && keep && x->nstrays < QCOW2_MAX_STRAYS)
					r = keep_stray(x, off);
			}
	if (r < 0)
		return r;
	x->orphan_clusters = rest;
	x->orphan_tables = l.tables;
	if (rest)
		x->orphans = judge_rest(c, &l, below, first);
	/* what the snapshots shared with the disk says that it had a map, if it was no stop that raised the counts */
	x->shares_lost = x->ex->mend && x->ex->mend->cut && !c->l1_any && !c->emptied && x->q.nb_snapshots &&
			 x->shares >= QCOW2_SOME_ORPHANS;
	if ((rest && known_lost(x)) || x->shares_lost) {
		x->lost_by_name = rest && x->orphans != QCOW2_ORPHANS_LOST;
		x->orphans = QCOW2_ORPHANS_LOST;
	}
	/* (counts are made anew then, behind the end of the file, and have them) */
	x->refs_bad |= x->ex->mend && c->uncounted && unsaved && x->orphans != QCOW2_ORPHANS_LEFT;
	return r;
}

int qcow2_judge_orphans(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct census c = {.x = x, .mark = MAP_FAILED};
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
			r = judge(&c);
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
