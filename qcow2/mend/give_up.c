/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Giving up the places that stay empty, when all that could be placed has its place.  The invariant: as long as one
 * orphan has no place, each of them is named lost; an entry that was taken out becomes one of zeros where the format
 * has such, so that no backing file shows through; a place whose entry was zero all along stays as it is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "qcow2/mend/clusters.h"

static const char why_nameless[] = "the header is gone, and with it the name of a backing file";

static const char why_below[] = "its part of the map was lost: shown is what the backing file has there";

static bool was_taken_out(const struct plt_doubt *d)
{
	return strcmp(d->why, qcow2_why_zero) && strcmp(d->why, why_nameless);
}

/*
 * Of a table, or of sectors of one, that was lost over a backing file nobody knows which entries there were, and in an
 * overlay few are: what lies below is the better guess than zeros.  Of a single entry it is known that there was one.
 */
static bool shows_below(const struct qcow2_clusters *c, uint64_t from, uint64_t end, const char *why)
{
	const uint64_t span = qcow2_table_span(&c->x->q);

	if (!c->x->backing || !strcmp(why, qcow2_why_overwritten) || !strcmp(why, qcow2_why_l1))
		return c->x->backing;
	return from % span == 0 && (end - from == span || end == c->t.size) && !c->l1[from / span];
}

/* Of what is lost in one table, the empty entries become zeros that say so. */
static int put_zeros(struct qcow2_clusters *c, uint32_t index, uint64_t from, uint64_t end)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	bool changed = false;
	int r;

	if (!qcow2_table_is_usable(c, c->l1[index]) || !qcow2_is_added(x, c->l1[index]))
		return 0;
	r = qcow2_l2_read(&x->c, c->l1[index], c->table);
	for (uint64_t at = plt_align_up(from, q->cluster_size); at < end && r == 0; at += q->cluster_size) {
		uint32_t i = (uint32_t)(at >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
		uint8_t *p = c->table + (size_t)i * q->l2_entry_size;

		if (!qcow2_slot_is_empty(q, c->table, i))
			continue;
		plt_put_be64(p + (q->extl2 ? 8 : 0), q->extl2 ? (uint64_t)UINT32_MAX << 32 : QCOW2_L2_ZERO);
		changed = true;
	}
	if (r == 0 && changed) {
		x->map_changed = x->ex->mend->changed = true;
		r = plt_store_write(x->c.file, c->l1[index], c->table, q->cluster_size, PLT_IO_L2, NULL);
	}
	return r;
}

/* A whole L1 entry was lost: over a backing file a table of zeros takes its place. */
static int put_zero_table(struct qcow2_clusters *c, uint32_t index)
{
	uint64_t off;
	int r;

	if (!c->x->backing || c->l1[index] || c->room < c->x->q.cluster_size)
		return 0;
	c->room -= c->x->q.cluster_size;
	r = qcow2_fresh_table(c, index, &off);
	return r < 0 ? r : plt_store_write(c->x->c.file, off, c->table, c->x->q.cluster_size, PLT_IO_L2, NULL);
}

/* Is something of this disk where it belongs by less than proof? */
static bool is_unsure(const struct plt_doubts *d, uint32_t disk)
{
	for (size_t i = 0; i < d->n; i++)
		if (d->v[i].disk == disk && d->v[i].kind == PLT_INFERRED && d->v[i].certainty < PLT_PROVEN)
			return true;
	return false;
}

/* Every cluster has its place: what is still missing was never there, if all of them are right. */
static int nothing_is_left(struct qcow2_clusters *c)
{
	struct plt_doubts *d = &c->x->ex->mend->doubts;
	const bool unsure = is_unsure(d, c->t.disk);

	for (size_t i = 0; i < d->n;) {
		struct plt_doubt *v = &d->v[i];

		if (v->kind != PLT_LOST || v->disk != c->t.disk ||
		    (strcmp(v->why, qcow2_why_zero) && strcmp(v->why, qcow2_why_overwritten))) {
			i++;
		} else if (unsure || (c->x->backing && was_taken_out(v))) { /* unallocated, or zeros over the backing file? */
			v->kind = PLT_INFERRED;
			v->certainty = PLT_LIKELY;
			i++;
		} else {
			int r = plt_doubts_clear(d, v->disk, v->off, v->len);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Clusters whose entries were taken out, of all disks: as many that nothing reaches are explained by them. */
static uint64_t taken_out(const struct qcow2_exam *x)
{
	const struct plt_doubts *d = &x->ex->mend->doubts;
	uint64_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		if ((d->v[i].kind == PLT_LOST && was_taken_out(&d->v[i])) || !strcmp(d->v[i].why, why_below))
			n += plt_div_up(d->v[i].len, x->q.cluster_size);
	return n;
}

static int doubt_run(struct qcow2_clusters *c, uint64_t from, uint64_t to)
{
	return from < to ? qcow2_doubt(c->x, &c->t, PLT_LOST, from, to - from, PLT_GUESS, why_nameless) : 0;
}

/*
 * No header says any more whether there was a backing file.  A disk without its first cluster has no boot sector, no
 * partition table and no volume: it had one, and what is not here was there.
 */
static int doubt_holes(struct qcow2_clusters *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t from = 0;
	int r = 0;

	for (uint32_t i = 0; i < c->n && r == 0; i++) {
		if (!qcow2_table_is_usable(c, c->l1[i]) || qcow2_l2_read(&c->x->c, c->l1[i], c->table) < 0)
			continue;
		for (uint32_t k = 0; k < 1U << q->l2_bits && r == 0; k++) {
			uint64_t at = i * qcow2_table_span(q) + ((uint64_t)k << q->cluster_bits);

			if (qcow2_slot_is_empty(q, c->table, k))
				continue;
			if (!at)
				return 0;
			r = doubt_run(c, from, at);
			from = at + q->cluster_size;
		}
	}
	return r == 0 && from ? doubt_run(c, from, c->t.size) : r;
}

/*
 * Are the orphans a part of the map?  Who only looks is told what may be wrong, even where it cannot be told; who repairs
 * may be after a stop, which leaves the same, and has lost nothing then.  A few clusters are nearly always what was free.
 */
#define SOME_BYTES (UINT64_C(4) << 20) /* (of large clusters a few are as much) */

static bool may_be_lost(const struct qcow2_exam *x)
{
	return x->orphans == QCOW2_ORPHANS_LOST ||
	       (x->orphans == QCOW2_ORPHANS_UNDECIDED && x->ex->mend->look &&
		(x->orphan_clusters >= QCOW2_SOME_ORPHANS || x->orphan_clusters << x->q.cluster_bits >= SOME_BYTES));
}

int qcow2_give_up(struct qcow2_clusters *c)
{
	struct qcow2_exam *x = c->x;
	struct plt_doubts *d = &x->ex->mend->doubts;
	const uint64_t span = qcow2_table_span(&x->q);
	const struct plt_doubt *v;
	bool missing = true;
	int r = x->nstrays ? 0 : qcow2_packed_missing(x, &missing);

	if (r == 0 && !missing)
		r = nothing_is_left(c);

	if (r == 0 && x->ex->mend->nameless && !x->backing && !x->c.external && c->t.disk == PLT_DISK_ACTIVE)
		r = doubt_holes(c);

	/*
	 * what the map has lost, and nobody can say where it was: any place that is empty (beside an external data file only
	 * tables, for there are no clusters of the guest's)
	 */
	if (r == 0 && (x->c.external ? x->npieces != 0 : x->nstrays > taken_out(x) || x->shares_lost) && may_be_lost(x) && c->t.disk == PLT_DISK_ACTIVE) {
		r = qcow2_find_gaps(c);
		if (r == 0)
			r = qcow2_doubt_gaps(c);
	}

	for (uint64_t pos = 0, end; r == 0 && (v = plt_doubts_find(d, c->t.disk, pos)); pos = end) {
		const uint64_t from = PLT_MAX(pos, v->off), i = from / span;

		end = v->off + v->len;
		if (v->kind != PLT_LOST || !was_taken_out(v) || i >= c->n)
			continue;
		end = PLT_MIN(end, (i + 1) * span); /* table by table: of some there is something */
		if (shows_below(c, from, end, v->why)) {
			r = qcow2_doubt(x, &c->t, PLT_INFERRED, from, end - from, PLT_GUESS, why_below);
		} else if (x->q.version >= 3) { /* (older ones have no entry of zeros) */
			r = put_zero_table(c, (uint32_t)i);
			if (r == 0)
				r = put_zeros(c, (uint32_t)i, from, end);
		}
	}
	return r;
}
