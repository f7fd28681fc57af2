/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What the orphans mean that orphans.c has looked at:
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
#include <stdlib.h>

#include "base/checked.h"
#include "base/extents.h"
#include "qcow2/mend/orphans.h"

#define MANY 64     /* entries of a table: more than one sector of it holds */
/* Clusters mapped behind an orphan: more, and more bytes, than are mapped between two flushes as a rule. */
#define FAR_CLUSTERS UINT64_C(1024)
#define FAR_BYTES (UINT64_C(16) << 20)

/* ---- gaps ------------------------------------------------------------------------------------ */

/* What all tables of the active tree look like, together: bits of QCOW2_SHAPE_*. */
static unsigned look_for_gaps(struct qcow2_census *c)
{
	struct qcow2_recount *rc = &c->x->c;
	unsigned shapes = 0;

	for (uint64_t i = 0; i < rc->nl2; i++)
		if (rc->l2[i].active && rc->l2[i].off)
			shapes |= qcow2_l2_shape(c->x, &rc->l2[i], c->buf);
	return shapes;
}

static uint64_t far(const struct qcow2_census *c)
{
	return PLT_MAX(FAR_CLUSTERS, FAR_BYTES >> c->x->q.cluster_bits);
}

/* Do so many mapped clusters lie behind the orphan at @off that it cannot be one of the newest? */
static bool is_far_below(const struct qcow2_census *c, uint64_t off)
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
static bool is_older_copy(const struct qcow2_census *c, uint32_t n)
{
	const struct qcow2_recount *rc = &c->x->c;
	unsigned bits = c->x->q.cluster_bits;
	uint32_t reached = 0;

	if (!c->uncounted || rc->external)
		return false;
	for (uint32_t k = 0; k < n; k++) {
		uint64_t cluster = qcow2_seen_off(c->seen[k]) >> bits;

		reached += c->x->q.nb_snapshots ? qcow2_is_metadata(rc, cluster) : qcow2_references(rc, cluster) != 0;
	}
	return reached * 8 > n;
}

/* An orphan with content; without counts, one that is not known as something else. */
static bool is_missed(struct qcow2_census *c, uint64_t off)
{
	return (*qcow2_census_mark(c, off) & (QCOW2_HAS_CONTENT | (c->uncounted ? QCOW2_IS_EXPLAINED : 0))) == QCOW2_HAS_CONTENT;
}

/* A table of refcount blocks that are not in use any more is not in use, either. */
static bool names_explained(struct qcow2_census *c, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++)
		if (!(*qcow2_census_mark(c, qcow2_seen_off(c->seen[k])) & QCOW2_IS_EXPLAINED))
			return false;
	return c->uncounted && !c->x->c.external;
}

/* Tables that nothing explains, and how many orphans they reach, while some place in the L1 is empty. */
struct lost {
	uint64_t tables, clusters;
	bool below; /* of them and what they reach, something lies below what is mapped */
};

static struct lost lost_tables(struct qcow2_census *c)
{
	const struct qcow2_state *q = &c->x->q;
	struct lost l = {0};
	bool gap = false;
	uint32_t n;

	if (c->emptied)
		return l;

	for (uint32_t i = 0; i < q->l1_size && !gap; i++)
		gap = !qcow2_census_l1_has(c, i);
	for (uint32_t i = 0; i < c->n; i++) {
		const struct qcow2_orphan_table *t = &c->v[i];
		uint64_t orphans = 0;

		if (t->explained || t->l1 || !t->l2 || qcow2_census_read(c, t->off) < 0 ||
		    !qcow2_looks_like_table(c, c->buf, q->cluster_size, &n))
			continue;
		if (is_older_copy(c, n) || names_explained(c, n)) {
			qcow2_census_explain(c, t->off);
			continue;
		}
		for (uint32_t k = 0; k < n; k++)
			orphans += c->x->c.external || is_missed(c, qcow2_seen_off(c->seen[k]));
		if (!orphans)
			continue;
		if (c->x->pieces)
			c->x->pieces[c->x->npieces++] =
				(struct qcow2_piece){.off = t->off, .slot = t->slot, .named = t->named && t->slot != UINT64_MAX};
		if (!gap)
			continue;
		l.tables++;
		l.clusters += orphans;
		l.below |= t->off < c->highest || (!c->x->c.external && qcow2_seen_off(c->seen[0]) < c->highest);
	}
	return l;
}

/* Has the L1 table an entry, of those that the disk needs, that names nothing? */
static bool has_room(const struct qcow2_census *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t n = PLT_MIN(qcow2_l1_entries(q, q->virtual_size), (uint64_t)q->l1_size);

	for (uint64_t i = 0; i < n; i++)
		if (!c->l1[i])
			return true;
	return false;
}

/* No stop explains anything, but some of them were free. */
static enum qcow2_orphan_verdict judge_uncounted(struct qcow2_census *c, const struct lost *l)
{
	unsigned shapes = look_for_gaps(c);

	if (l->tables || shapes & QCOW2_SHAPE_GARBAGE || (shapes & QCOW2_SHAPE_ZERO && c->x->orphan_clusters >= QCOW2_SOME_ORPHANS))
		return QCOW2_ORPHANS_LOST;
	return has_room(c) || shapes & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE) ? QCOW2_ORPHANS_UNDECIDED : QCOW2_ORPHANS_LEFT;
}

/* What the orphans are that nothing explains: @below of them lie below what is mapped; @first is the first. */
static enum qcow2_orphan_verdict judge_rest(struct qcow2_census *c, const struct lost *l, uint64_t below, uint64_t first)
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

int qcow2_census_judge(struct qcow2_census *c)
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
			if ((*qcow2_census_mark(c, off) & (QCOW2_HAS_CONTENT | QCOW2_IS_EXPLAINED)) == QCOW2_HAS_CONTENT) {
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
