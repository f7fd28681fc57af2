/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * L2 tables that nothing names any more go back into the active L1.  Where one belongs is said by
 *
 *	an old L1 that nothing names either, where the active one names no table at all
 *	a snapshot: the table that it shares with the disk is counted once more than it is named; or the
 *	orphan still has entries of the snapshot's table at that index, of which it is the newer copy
 *	its own entries, over an external data file
 *	the only empty place, for the only orphan
 *	the caller, by what the guest's own metadata say
 *
 * None of them says anything where a snapshot may have been applied, or deleted, by a program that was stopped: the
 * empty places are the snapshot's own then, and what would fit them is the disk's of before (stop_explains()).
 *
 * The invariant: a place is taken only if it is empty, or what it names cannot be a table; the old table and
 * everything else stay where they are.  One round changes the map and nothing else: counts are compared
 * with the new map in the next.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "qcow2/check.h"

#define MAX_COMPARED 65536 /* pairs of tables that are compared entry by entry */

/* A place at which a table is missing. */
struct gap {
	uint32_t index;
	bool filled;
};

struct mending {
	struct qcow2_exam *x;
	struct gap *v;
	uint32_t n;
	uint64_t *l1;         /* as stored */
	bool *used;           /* pieces that have a place */
	bool applied;         /* a snapshot may have been applied that has none of the places that are empty */
	uint8_t *table, *other;
	uint32_t disk;        /* the snapshot at hand */
};

static void mending_release(struct mending *m)
{
	free(m->l1);
	free(m->v);
	free(m->used);
	free(m->table);
	free(m->other);
}

static uint64_t span(const struct qcow2_state *q)
{
	return UINT64_C(1) << (q->cluster_bits + q->l2_bits);
}

/* ---- places ---------------------------------------------------------------------------------- */

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	struct mending *m = arg;

	m->l1[index] = e;
	return 0;
}

/* Is there nothing behind an L1 entry that could be a table?  (One that does not read is none for who only looks.) */
static bool is_gap(struct mending *m, uint64_t e)
{
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct qcow2_l2ref *l = off && !(e & QCOW2_L1_RESERVED) ? qcow2_l2_find(&m->x->c, off) : NULL;
	unsigned shape = l ? qcow2_l2_shape(m->x, l, m->table) : QCOW2_SHAPE_ZERO;

	return shape & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_GARBAGE) && !(shape & QCOW2_SHAPE_UNREAD && qcow2_unread(m->x));
}

/* Is the L1 table in the file, and nothing else where it is? */
static bool holds_l1(const struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;

	return q->l1_size && !(q->l1_offset & (q->cluster_size - 1)) &&
	       plt_in_range(q->l1_offset, (uint64_t)q->l1_size * 8, x->c.file_size) &&
	       !qcow2_exam_overlaps(x, q->l1_offset, (uint64_t)q->l1_size * 8);
}

static int find_gaps(struct mending *m)
{
	const struct qcow2_state *q = &m->x->q;
	uint64_t want = qcow2_l1_entries(q, q->virtual_size), n = PLT_MIN(want, (uint64_t)q->l1_size);
	int r;

	m->l1 = calloc((size_t)q->l1_size + 1, sizeof(*m->l1));
	m->v = calloc((size_t)n + 1, sizeof(*m->v));
	if (!m->l1 || !m->v)
		return -ENOMEM;
	r = qcow2_l1_each(&m->x->c, q->l1_offset, q->l1_size, note_entry, m);
	for (uint32_t i = 0; i < n && r != -ENOMEM; i++)
		if (is_gap(m, m->l1[i]))
			m->v[m->n++].index = i;
	return r == -ENOMEM ? r : 0;
}

static struct gap *gap_find(struct mending *m, uint64_t index)
{
	uint32_t lo = 0, hi = m->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (m->v[mid].index < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->n && m->v[lo].index == index ? &m->v[lo] : NULL;
}

/* ---- putting back ---------------------------------------------------------------------------- */

static int put(struct mending *m, uint64_t table, struct gap *g, enum plt_certainty certainty, const char *why)
{
	static const char *const words[] = { "guess", "likely", "strong", "proven" };
	struct qcow2_exam *x = m->x;
	const struct qcow2_state *q = &x->q;
	const struct qcow2_tree tree = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, q->l1_size};
	uint64_t stored = 0;
	plt_be64 e;
	int r;

	(void)qcow2_stored_count(&x->c, table >> q->cluster_bits, &stored);
	r = qcow2_doubt(x, &tree, PLT_INFERRED, g->index * span(q), span(q), certainty, why);
	if (r < 0)
		return r;
	e = plt_be64_make(table | (stored == 1 ? QCOW2_COPIED : 0));
	r = plt_store_write(x->c.file, q->l1_offset + (uint64_t)g->index * 8, &e, 8, PLT_IO_L1, NULL);
	if (r < 0)
		return r;
	g->filled = true;
	x->map_changed = x->ex->mend->changed = true;
	plt_emit(x->ex, &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					      .mended = true, .host_off = table, .host_len = q->cluster_size,
					      .guest_off = g->index * span(q), .guest_len = span(q)},
		 "Repairing L1 entry %" PRIu32 ": the L2 table at offset %#" PRIx64 " belongs there (%s: %s)", g->index,
		 table, words[certainty], why);
	return 0;
}

static int put_piece(struct mending *m, uint32_t i, struct gap *g, enum plt_certainty certainty, const char *why)
{
	m->used[i] = true;
	return put(m, m->x->pieces[i].off, g, certainty, why);
}

/* ---- who says so ----------------------------------------------------------------------------- */

static int by_old_l1(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	int r = 0;

	for (uint32_t i = 0; i < x->npieces && r == 0; i++) {
		struct gap *g = x->pieces[i].named ? gap_find(m, x->pieces[i].slot) : NULL;

		if (g && !g->filled)
			r = put_piece(m, i, g, PLT_STRONG, "an old L1 table names it");
	}
	return r;
}

/* The orphan that is the newer copy of the table in m->table, if just one is. */
static uint32_t newer_copy(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	uint32_t best = UINT32_MAX, most = 0;
	bool tie = false;

	for (uint32_t i = 0; i < x->npieces; i++) {
		uint32_t n;

		if (m->used[i] || qcow2_l2_read(&x->c, x->pieces[i].off, m->other) < 0)
			continue;
		n = qcow2_alike(&x->q, m->table, m->other);
		if (n > most) {
			most = n;
			best = i;
			tie = false;
		} else if (n && n == most) {
			tie = true;
		}
	}
	return tie ? UINT32_MAX : best;
}

static bool is_overcounted(const struct mending *m, uint64_t table)
{
	return !m->x->refs_bad && qcow2_is_missed(m->x, table);
}

/* The newest first. */
static int each_snapshot(struct mending *m, int (*fn)(void *arg, uint32_t index, uint64_t e), void *arg)
{
	struct qcow2_exam *x = m->x;
	int r = 0;

	for (uint32_t i = x->q.nb_snapshots; i-- && r == 0;) {
		const struct qcow2_snapshot *s = &x->q.snapshots[i];

		if (!x->snapshot_times[i] || x->snapshot_times[i] == QCOW2_ASTRAY)
			continue;
		m->disk = i;
		r = qcow2_l1_each(&x->c, s->l1_offset, s->l1_size, fn, arg);
		if (r == -EIO)
			r = 0;
	}
	return r;
}

/* ---- who was stopped ------------------------------------------------------------------------- */

struct stop {
	struct mending *m;
	bool has_more;  /* the snapshot has a table where the disk has none */
	bool leftover;  /* of the disk as it was, something is left where the disk has another table now */
	uint64_t budget;
};

static int compare_entry(void *arg, uint32_t index, uint64_t e)
{
	struct stop *s = arg;

	s->has_more |= e & QCOW2_L1_OFFSET && (index >= s->m->x->q.l1_size || !s->m->l1[index]);
	return s->has_more;
}

/* A table of a snapshot in a place that is not empty: is it counted for the disk too, or was there a newer copy? */
static int leftover_entry(void *arg, uint32_t index, uint64_t e)
{
	struct stop *s = arg;
	struct mending *m = s->m;
	struct qcow2_l2ref *l = qcow2_l2_find(&m->x->c, e & QCOW2_L1_OFFSET);

	if (!l || index >= m->x->q.l1_size || !m->l1[index])
		return 0;
	s->leftover = is_overcounted(m, l->off);
	if (!s->leftover && m->x->npieces && s->budget >= m->x->npieces && qcow2_l2_read(&m->x->c, l->off, m->table) == 0) {
		s->budget -= m->x->npieces;
		s->leftover = newer_copy(m) != UINT32_MAX;
	}
	return s->leftover;
}

/*
 * Was a snapshot being applied (or deleted after another had been applied)?  Then the disk has its tables, and none
 * where it has none; and what the disk had before, or the deleted one, is still counted, in places that are not empty
 * too.  Without such a leftover the empty places are all by which the disk differs from what it was before: what fits
 * them makes it that, which is no mixture of two states.
 *
 * Or was a disk emptied, all that it held having been committed?  Then it has nothing, in a new L1 table, and the old one
 * is still there.
 */
static bool stop_explains(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	struct stop s = {.m = m, .leftover = x->explained || x->npieces > m->n, .budget = MAX_COMPARED};
	uint64_t left = QCOW2_MAX_L1_BYTES;

	if (x->ex->mend && qcow2_is_added(x, x->q.l1_offset)) /* (an L1 table that was made along with the header is empty by that) */
		return false;
	if (x->emptied)
		return true;
	for (uint32_t i = 0; i < x->q.nb_snapshots && !m->applied; i++) {
		const struct qcow2_snapshot *p = &x->q.snapshots[i];

		if (!x->snapshot_times[i] || x->snapshot_times[i] == QCOW2_ASTRAY || (uint64_t)p->l1_size * 8 > left)
			continue;
		left -= (uint64_t)p->l1_size * 8;
		s.has_more = false;
		m->applied = qcow2_l1_each(&x->c, p->l1_offset, p->l1_size, compare_entry, &s) == 0 && !s.has_more;
	}
	if (m->applied && !s.leftover)
		(void)each_snapshot(m, leftover_entry, &s);
	return m->applied && s.leftover;
}

/* Places that are empty by right are no gaps. */
static void drop_empty(struct mending *m)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n; i++)
		if (m->l1[m->v[i].index])
			m->v[n++] = m->v[i];
	m->n = n;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

struct from_snapshot {
	struct mending *m;
	uint64_t budget;
	bool rest; /* every other table has its place */
};

/* The disk's own table was cut off with the end of the file: what the snapshot has there is older, and the best that there is. */
static int put_older(struct mending *m, uint64_t table, struct gap *g)
{
	struct qcow2_exam *x = m->x;
	const struct qcow2_state *q = &x->q;
	const struct qcow2_tree tree = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, q->l1_size};
	const uint64_t from = g->index * span(q), to = from + span(q);
	struct plt_doubts *d = &x->ex->mend->doubts;
	int r = put(m, table, g, PLT_GUESS, "the file ends before the disk's own table: shown is what a snapshot has there");

	for (size_t i = 0; i < d->n && r == 0; i++) {
		const struct plt_doubt v = d->v[i];
		uint64_t at = PLT_MAX(v.off, from), end = PLT_MIN(v.off + v.len, to);

		if (v.disk == m->disk && v.kind == PLT_LOST && at < end)
			r = qcow2_doubt(x, &tree, PLT_LOST, at, end - at, v.certainty, v.why);
	}
	return r;
}

static int snapshot_entry(void *arg, uint32_t index, uint64_t e)
{
	struct from_snapshot *f = arg;
	struct mending *m = f->m;
	struct qcow2_exam *x = m->x;
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct gap *g = gap_find(m, index);
	struct qcow2_l2ref *l = g && !g->filled ? qcow2_l2_find(&x->c, off) : NULL;
	uint32_t i;

	/* (no table is the disk's in two places, whatever counts and snapshots say) */
	if (!l || l->active || qcow2_l2_shape(x, l, m->table) & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_GARBAGE))
		return 0;
	if (is_overcounted(m, off) || f->rest)
		l->active = 1;
	if (is_overcounted(m, off))
		return put(m, off, g, m->applied ? PLT_STRONG : PLT_PROVEN, "it is a snapshot's as well, and is counted once more than it is named");
	if (f->rest && m->x->ex->mend->cut)
		return put_older(m, off, g);
	if (f->rest)
		return put(m, off, g, PLT_STRONG, "it is a snapshot's as well, and no other table is left");
	/* (a table that a stopped rebase or write has just made is like the snapshot's, too) */
	if (f->budget <= x->npieces || qcow2_may_be_left(x) || qcow2_l2_read(&x->c, off, m->table) < 0)
		return 0;
	f->budget -= x->npieces + 1;
	i = newer_copy(m);
	return i == UINT32_MAX ? 0 : put_piece(m, i, g, PLT_STRONG, "it is a newer copy of a snapshot's table");
}

static int by_snapshots(struct mending *m, bool rest)
{
	struct from_snapshot f = { m, MAX_COMPARED, rest };

	return each_snapshot(m, snapshot_entry, &f);
}

/* ---- what the disk is owed, for those who do not put it back ----------------------------------- */

struct owed {
	struct mending *m;
	uint32_t n, index;
	uint64_t table;
};

static int owed_entry(void *arg, uint32_t index, uint64_t e)
{
	struct owed *o = arg;
	struct gap *g = gap_find(o->m, index);
	struct qcow2_l2ref *l = g && !g->filled ? qcow2_l2_find(&o->m->x->c, e & QCOW2_L1_OFFSET) : NULL;

	if (!l || !is_overcounted(o->m, l->off))
		return 0;
	g->filled = true;
	if (!o->n++) {
		o->index = index;
		o->table = l->off;
	}
	return 0;
}

static bool is_empty(const struct mending *m)
{
	for (uint32_t i = 0; i < m->x->q.l1_size; i++)
		if (m->l1[i])
			return false;
	return true;
}

int qcow2_map_owed(struct qcow2_exam *x)
{
	struct mending m = {.x = x};
	struct owed o = {.m = &m};
	int r = 0;

	if (!x->q.nb_snapshots || x->refs_bad || x->counts_gone || x->snapshots_bad || !holds_l1(x))
		return 0;
	m.table = plt_alloc_io(x->q.cluster_size);
	m.other = plt_alloc_io(x->q.cluster_size);
	m.used = calloc((size_t)x->npieces + 1, sizeof(*m.used));
	r = m.table && m.other && m.used ? find_gaps(&m) : -ENOMEM;
	if (r == 0 && m.n && !stop_explains(&m))
		r = each_snapshot(&m, owed_entry, &o);
	if (r == 0 && o.n && is_empty(&m)) { /* a disk that was emptied by a commit that was stopped looks the same */
		if (x->orphans == QCOW2_ORPHANS_LEFT)
			x->orphans = QCOW2_ORPHANS_UNDECIDED;
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-L1", x->q.l1_offset, (uint64_t)x->q.l1_size * 8, 0, 0,
				 "The active L1 table is empty, and %" PRIu32 " tables of snapshots are counted for the disk, too: a "
				 "commit was stopped that had emptied it, or part of the map is lost. 'repair' and 'check -r all' "
				 "put the tables back; until then their counts stay", o.n);
	} else if (r == 0 && o.n) {
		x->orphans = QCOW2_ORPHANS_LOST;
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-L1", o.table, x->q.cluster_size, o.index * span(&x->q), span(&x->q),
				 "ERROR part of the map is lost: %" PRIu32 " L1 entries are empty, or lead to nothing that could be "
				 "a table, and tables that the disk had there are snapshots' as well, and still counted for it (the "
				 "first is entry %" PRIu32 ", and the table at offset %#" PRIx64 "). Counts are not lowered before "
				 "'repair' or 'check -r all' has put them back", o.n, o.index, o.table);
	}
	mending_release(&m);
	return r;
}

/* They are in the order of the file. */
static uint32_t piece_find(const struct qcow2_exam *x, uint64_t off)
{
	uint32_t lo = 0, hi = x->npieces;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (x->pieces[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* What the caller has found out. */
static int by_caller(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	const struct plt_mend *mend = x->ex->mend;
	int r = 0;

	for (size_t k = 0; k < mend->nplace && r == 0; k++) {
		const struct plt_orphan *p = &mend->place[k];
		struct gap *g = p->guest_off == PLT_UNPLACED ? NULL : gap_find(m, p->guest_off / span(&x->q));

		uint32_t i = piece_find(x, p->host_off);

		if (g && !g->filled && i < x->npieces && x->pieces[i].off == p->host_off && !m->used[i]) {
			r = put_piece(m, i, g, p->certainty, p->why);
			x->ex->mend->map_damaged = true; /* no stop takes a table away that the guest had in use */
		}
	}
	return r;
}

/*
 * Entries of the disk's own tables are marked (COPIED), unless it shares them with a snapshot, or are compressed: what
 * has no such entry may be something else that names clusters.
 */
static bool is_marked(struct mending *m, uint32_t piece)
{
	struct qcow2_exam *x = m->x;
	bool marked = x->q.nb_snapshots != 0;

	if (qcow2_l2_read(&x->c, x->pieces[piece].off, m->other) < 0)
		return false;
	for (uint32_t at = 0; at < x->q.cluster_size && !marked; at += x->q.l2_entry_size)
		marked = plt_get_be64(m->other + at) & (QCOW2_COPIED | QCOW2_COMPRESSED);
	return marked;
}

/* The place that piece @i names itself, with more than one entry; NULL: none. */
static struct gap *own_gap(struct mending *m, uint32_t i)
{
	uint64_t base = UINT64_MAX;
	uint32_t n = 0;

	if (!m->used[i] && qcow2_l2_read(&m->x->c, m->x->pieces[i].off, m->other) == 0)
		base = qcow2_own_place(&m->x->q, m->other, &n);
	return base == UINT64_MAX || n < 2 ? NULL : gap_find(m, base / span(&m->x->q));
}

/* Over an external data file entries name the guest's own offsets.  Of two for one place neither is put there. */
static int by_itself(struct mending *m)
{
	PLT_AUTOFREE uint8_t *named = m->x->c.external ? calloc((size_t)m->n + 1, 1) : NULL;
	struct gap *g;
	int r = 0;

	if (!named)
		return m->x->c.external ? -ENOMEM : 0;
	for (uint32_t i = 0; i < m->x->npieces; i++)
		if ((g = own_gap(m, i)) && named[g - m->v] < 2)
			named[g - m->v]++;
	for (uint32_t i = 0; i < m->x->npieces && r == 0; i++)
		if ((g = own_gap(m, i)) && !g->filled && named[g - m->v] == 1)
			r = put_piece(m, i, g, PLT_STRONG, "its entries name the guest's own offsets, as over an external data file");
	return r;
}

static int by_exclusion(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	uint32_t gaps = 0, pieces = 0, gap = 0, piece = 0;

	for (uint32_t i = 0; i < m->n; i++)
		if (!m->v[i].filled) {
			gaps++;
			gap = i;
		}
	for (uint32_t i = 0; i < x->npieces; i++)
		if (!m->used[i]) {
			pieces++;
			piece = i;
		}
	return gaps == 1 && pieces == 1 && is_marked(m, piece) ?
	       put_piece(m, piece, &m->v[gap], PLT_STRONG, "the only orphan, and the only empty place") : 0;
}

static bool all_used(const struct mending *m)
{
	for (uint32_t i = 0; i < m->x->npieces; i++)
		if (!m->used[i])
			return false;
	return true;
}

/* ---- what is left ---------------------------------------------------------------------------- */

static int hand_over(struct mending *m)
{
	struct qcow2_exam *x = m->x;
	struct plt_orphans *p = &x->ex->mend->unplaced;

	p->span = span(&x->q);
	p->v = calloc((size_t)x->npieces + 1, sizeof(*p->v));
	p->gaps = calloc((size_t)m->n + 1, sizeof(*p->gaps));
	if (!p->v || !p->gaps)
		return -ENOMEM;
	for (uint32_t i = 0; i < x->npieces; i++)
		if (!m->used[i])
			p->v[p->n++] = (struct plt_orphan){.host_off = x->pieces[i].off, .guest_off = PLT_UNPLACED};
	for (uint32_t i = 0; i < m->n; i++)
		if (!m->v[i].filled)
			p->gaps[p->ngaps++] = m->v[i].index * p->span;
	return 0;
}

int qcow2_mend_map(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct plt_orphans *p = &x->ex->mend->unplaced;
	struct mending m = {.x = x};
	int r;

	plt_orphans_release(p);
	if (!(x->ex->mend->what & PLT_MEND_MAP) || x->ex->mend->stage != PLT_MEND_TABLES || !holds_l1(x) || (!x->npieces && !x->q.nb_snapshots))
		return 0;
	m.table = plt_alloc_io(q->cluster_size);
	m.other = plt_alloc_io(q->cluster_size);
	m.used = calloc((size_t)x->npieces + 1, sizeof(*m.used));
	r = m.table && m.other && m.used ? find_gaps(&m) : -ENOMEM;
	if (r == 0 && m.n && stop_explains(&m))
		drop_empty(&m);
	if (r == 0 && m.n)
		r = by_old_l1(&m);
	if (r == 0 && m.n)
		r = by_snapshots(&m, false);
	if (r == 0 && m.n)
		r = by_itself(&m);
	if (r == 0 && m.n)
		r = by_caller(&m);
	if (r == 0 && m.n)
		r = by_exclusion(&m);
	/* without counts nothing else says what is shared; and what was cut off the file was newer than what a snapshot has */
	if (r == 0 && m.n && (x->counts_gone || x->ex->mend->counts_gone || x->ex->mend->cut) && all_used(&m))
		r = by_snapshots(&m, true);
	if (r == 0 && m.n && !qcow2_may_be_left(x))
		r = hand_over(&m);
	mending_release(&m);
	return r;
}
