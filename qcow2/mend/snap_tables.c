/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The L1 table of a snapshot, put together again where entries cannot be, or have been taken out of it for that (what they
 * mapped is named lost then).  What they named is still in the file, and counted for the snapshot:
 *
 *	a table that the snapshot shares with the disk, or with another snapshot, is counted once more than it is named
 *	where the disk has been written since, it got a copy of the table, and the snapshot's is an orphan that still has
 *	entries of that copy
 *	the only orphan table of which all clusters are counted once more than they are named, for the only empty entry
 *
 * The invariant: only such entries are filled; an orphan finds one place or none; and what finds none keeps
 * its count.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "qcow2/check.h"

#define COMPARED 65536 /* pairs of tables that are compared entry by entry; orphans, and entries beside, that are looked at */
#define ALIKE 4        /* entries that are no accident */

struct filling {
	struct qcow2_exam *x;
	struct qcow2_tree t;
	uint64_t *v;           /* orphans that may be tables; 0: has a place */
	uint32_t n;
	bool listed;
	uint8_t *table, *other;
	uint64_t budget;
	uint32_t left, last;   /* entries for which nothing was found, and the last of them */
};

static uint64_t span(const struct filling *f)
{
	return UINT64_C(1) << (f->x->q.cluster_bits + f->x->q.l2_bits);
}

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	(void)index;
	*(uint64_t *)arg = e;
	return 0;
}

static uint64_t entry_of(struct filling *f, uint64_t l1_offset, uint32_t l1_size, uint32_t index)
{
	uint64_t e = 0;

	if (index >= l1_size || l1_size > QCOW2_MAX_L1_BYTES / 8 || l1_offset > INT64_MAX / 2 ||
	    qcow2_l1_each(&f->x->c, l1_offset + (uint64_t)index * 8, 1, note_entry, &e) < 0)
		return 0;
	return e;
}

/* What lies there, QCOW2_SHAPE_*: each table is looked at once, however many entries name it. */
static unsigned shape_at(struct filling *f, uint64_t off)
{
	struct qcow2_l2ref *l;

	if (!off || (off & (f->x->q.cluster_size - 1)) || off >= f->x->c.file_size)
		return QCOW2_SHAPE_GARBAGE;
	l = qcow2_l2_find(&f->x->c, off);
	return l ? qcow2_l2_shape(f->x, l, f->table) : QCOW2_SHAPE_GARBAGE;
}

static bool is_table(struct filling *f, uint64_t off)
{
	return shape_at(f, off) & (QCOW2_SHAPE_FULL | QCOW2_SHAPE_SPARSE);
}

/* What lies there is no table.  (An empty one is one, and what does not read may be one.) */
static bool is_none(struct filling *f, uint64_t off)
{
	unsigned shape = shape_at(f, off);

	return shape & QCOW2_SHAPE_GARBAGE && !(shape & QCOW2_SHAPE_UNREAD);
}

/* Was the entry taken out, so that all that it mapped is named lost, or is it one that cannot be? */
static bool is_missing(struct filling *f, uint32_t index)
{
	uint64_t from = index * span(f), end = PLT_MIN(from + span(f), f->t.size);
	uint64_t e = entry_of(f, f->t.l1_offset, f->t.l1_size, index);
	const struct plt_doubt *d = from < end ? plt_doubts_find(&f->x->ex->mend->doubts, f->t.disk, from) : NULL;

	if (!e)
		return d && d->kind == PLT_LOST && d->off <= from && d->off + d->len >= end;
	return e & QCOW2_L1_RESERVED || !(e & QCOW2_L1_OFFSET) ||
	       qcow2_exam_overlaps(f->x, e & QCOW2_L1_OFFSET, f->x->q.cluster_size) || /* (other metadata lies there) */
	       is_none(f, e & QCOW2_L1_OFFSET);
}

static int put(struct filling *f, uint32_t index, uint64_t table, enum plt_certainty certainty, const char *why)
{
	struct qcow2_exam *x = f->x;
	plt_be64 e = plt_be64_make(table);
	int r = plt_store_write(x->c.file, f->t.l1_offset + (uint64_t)index * 8, &e, 8, PLT_IO_L1, NULL);

	if (r == 0)
		r = qcow2_doubt(x, &f->t, PLT_INFERRED, index * span(f), span(f), certainty, why);
	if (r < 0)
		return r;
	x->map_changed = x->ex->mend->changed = true;
	plt_emit(x->ex, &(struct plt_finding){.id = "Q-SNAP-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					      .mended = true, .host_off = table, .host_len = x->q.cluster_size},
		 "Repairing L1 entry %" PRIu32 " of snapshot %s (%s): the L2 table at offset %#" PRIx64 " belongs there (%s: %s)",
		 index, x->q.snapshots[f->t.disk].info.id, x->q.snapshots[f->t.disk].info.name, table,
		 certainty == PLT_PROVEN ? "proven" : "strong", why);
	return 0;
}

/* Of what nothing reaches, that which has the shape of a table. */
static int list_orphans(struct filling *f)
{
	struct qcow2_exam *x = f->x;

	if (f->listed)
		return 0;
	f->listed = true;
	f->v = calloc((size_t)PLT_MIN(x->nstrays, (uint32_t)COMPARED) + 1, sizeof(*f->v));
	for (uint32_t i = 0; f->v && i < x->nstrays && i < COMPARED; i++)
		if (qcow2_l2_read(&x->c, x->strays[i], f->other) == 0 && qcow2_l2_well_formed(x, f->other))
			f->v[f->n++] = x->strays[i];
	return f->v ? 0 : -ENOMEM;
}

/* The orphan that has most entries of the table at @off, if there is one; UINT32_MAX: none, or several. */
static uint32_t older_copy(struct filling *f, uint64_t off)
{
	struct qcow2_exam *x = f->x;
	uint32_t best = UINT32_MAX, most = ALIKE - 1;
	bool tie = false;

	if (!f->n || f->budget < f->n || qcow2_l2_read(&x->c, off, f->table) < 0)
		return UINT32_MAX;
	f->budget -= f->n;
	for (uint32_t i = 0; i < f->n; i++) {
		uint32_t n;

		if (!f->v[i] || qcow2_l2_read(&x->c, f->v[i], f->other) < 0)
			continue;
		n = qcow2_alike(&x->q, f->table, f->other);
		tie = n > most ? false : tie || (n == most && best != UINT32_MAX);
		best = n > most ? i : best;
		most = PLT_MAX(most, n);
	}
	return tie ? UINT32_MAX : best;
}

/* What the disk, or a snapshot, has in the same place: is it shared, or is there an older copy of it? */
static int by_tree(struct filling *f, uint32_t index, uint64_t l1_offset, uint32_t l1_size, bool *ret_done)
{
	uint64_t off;
	uint32_t i;

	if (!f->budget)
		return 0;
	f->budget--;
	off = entry_of(f, l1_offset, l1_size, index) & QCOW2_L1_OFFSET;
	if (!is_table(f, off))
		return 0;
	if (qcow2_is_missed(f->x, off)) {
		*ret_done = true;
		return put(f, index, off, PLT_PROVEN, "it is in use in this place, and counted once more than it is named");
	}
	i = older_copy(f, off);
	if (i == UINT32_MAX)
		return 0;
	*ret_done = true;
	off = f->v[i];
	f->v[i] = 0;
	return put(f, index, off, PLT_STRONG, "it is an older copy of the table that is in use in this place");
}

static int fill(struct filling *f, uint32_t index)
{
	const struct qcow2_state *q = &f->x->q;
	bool done = false;
	int r = list_orphans(f);

	if (r == 0)
		r = by_tree(f, index, q->l1_offset, q->l1_size, &done);

	for (uint32_t k = q->nb_snapshots; k-- && r == 0 && !done;)
		if (k != f->t.disk && f->x->snapshot_times[k] && f->x->snapshot_times[k] != QCOW2_ASTRAY)
			r = by_tree(f, index, q->snapshots[k].l1_offset, q->snapshots[k].l1_size, &done);
	if (!done) {
		f->left++;
		f->last = index;
	}
	return r;
}

/* Is each of its clusters counted for somebody who does not name it? */
static bool is_missed_whole(struct filling *f, uint32_t piece)
{
	const struct qcow2_state *q = &f->x->q;
	uint32_t n = 0;

	if (qcow2_l2_read(&f->x->c, f->v[piece], f->other) < 0)
		return false;
	for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size) {
		uint64_t e = plt_get_be64(f->other + at), off;

		if (!qcow2_entry_fits(f->x, e, q->extl2 ? plt_get_be64(f->other + at + 8) : 0, &off))
			return false;
		if (!off)
			continue;
		if (!qcow2_is_missed(f->x, off))
			return false;
		n++;
	}
	return n >= ALIKE;
}

static int by_exclusion(struct filling *f)
{
	uint32_t n = 0, piece = 0;

	for (uint32_t i = 0; i < f->n && f->left == 1; i++)
		if (f->v[i] && is_missed_whole(f, i)) {
			n++;
			piece = i;
		}
	return n != 1 ? 0 : put(f, f->last, f->v[piece], PLT_STRONG,
				"the only orphan whose clusters are all counted for somebody, and the only entry that is missing");
}

static int with_snapshot(struct filling *f, uint32_t i)
{
	const struct qcow2_snapshot *s = &f->x->q.snapshots[i];
	uint64_t n;
	int r = 0;

	f->t = (struct qcow2_tree){.disk = i, .l1_offset = s->l1_offset, .l1_size = s->l1_size, .size = s->info.disk_size};
	f->left = 0;
	if (!f->x->snapshot_times[i] || f->x->snapshot_times[i] == QCOW2_ASTRAY || !s->l1_size || s->info.disk_size > INT64_MAX ||
	    (s->l1_offset & (f->x->q.cluster_size - 1)) ||
	    !plt_in_range(s->l1_offset, (uint64_t)s->l1_size * 8, f->x->c.file_size) ||
	    qcow2_exam_overlaps(f->x, s->l1_offset, (uint64_t)s->l1_size * 8))
		return 0;
	n = PLT_MIN(qcow2_l1_entries(&f->x->q, f->t.size), (uint64_t)s->l1_size);
	for (uint32_t k = 0; k < n && r == 0; k++)
		if (is_missing(f, k))
			r = fill(f, k);
	return r < 0 ? r : by_exclusion(f);
}

int qcow2_mend_snap_tables(struct qcow2_exam *x)
{
	struct filling f = {.x = x, .budget = COMPARED};
	int r = 0;

	if (!(x->ex->mend->what & PLT_MEND_MAP) || !x->q.nb_snapshots || x->refs_bad || x->counts_gone || x->ex->mend->counts_gone ||
	    x->snapshots_bad)
		return 0;
	f.table = plt_alloc_io(x->q.cluster_size);
	f.other = plt_alloc_io(x->q.cluster_size);
	if (!f.table || !f.other)
		r = -ENOMEM;
	/* (of several orphans the newest is most like what is in use now) */
	for (uint32_t i = x->q.nb_snapshots; i-- && r == 0;)
		r = with_snapshot(&f, i);
	free(f.v);
	free(f.table);
	free(f.other);
	return r == -EIO ? 0 : r;
}
