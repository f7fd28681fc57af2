/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Single clusters back into the map.  When no table is left that could be placed whole, every orphan with content is
 * offered together with the places whose entries are missing: those that were taken out (named lost), and where
 * orphans are not explained by a program that was stopped, also places of zeros: whole 512 bytes of a table, whole L1
 * entries.  The caller asks the guest where they belong; what it is sure of goes into tables behind the end of the file.
 *
 * In the end the places that stay empty are given up: give_up.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/mend/clusters.h"

#define MAX_GAPS (UINT32_C(1) << 20) /* places that are offered at once */
#define ZERO_TABLES (UINT64_C(64) << 20) /* bytes of them, and as many as the file has */

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	struct qcow2_clusters *c = arg;

	if (index < c->n && !(e & QCOW2_L1_RESERVED))
		c->l1[index] = e & QCOW2_L1_OFFSET;
	return 0;
}

/* ---- places --------------------------------------------------------------------------------------------- */

static void add_gap(struct qcow2_clusters *c, uint64_t guest)
{
	if (guest >= c->t.size)
		return;
	if (c->ngaps < MAX_GAPS)
		c->gaps[c->ngaps++] = guest;
	else
		c->full = true;
}

static bool is_lost(const struct qcow2_clusters *c, uint64_t guest)
{
	const struct plt_doubt *d = plt_doubts_find(&c->x->ex->mend->doubts, c->t.disk, guest);

	return d && d->kind == PLT_LOST && d->off <= guest;
}

/* Entries that were taken out: of whole L1 entries, and single ones. */
static int lost_gaps(struct qcow2_clusters *c)
{
	const struct qcow2_state *q = &c->x->q;
	const struct plt_doubts *d = &c->x->ex->mend->doubts;
	uint32_t have = UINT32_MAX;

	for (size_t k = 0; k < d->n && !c->full; k++) {
		uint64_t end = d->v[k].off + d->v[k].len;

		if (d->v[k].kind != PLT_LOST || d->v[k].disk != c->t.disk)
			continue;
		for (uint64_t at = plt_align_down(d->v[k].off, q->cluster_size); at < end && !c->full; at += q->cluster_size) {
			uint32_t index = (uint32_t)(at >> (q->cluster_bits + q->l2_bits));

			if (index >= c->n)
				break;
			if (index != have && qcow2_table_is_usable(c, c->l1[index]) && qcow2_l2_read(&c->x->c, c->l1[index], c->table) < 0)
				continue;
			have = index;
			if (!qcow2_table_is_usable(c, c->l1[index]) ||
			    qcow2_slot_is_empty(q, c->table, (at >> q->cluster_bits) & ((1U << q->l2_bits) - 1)))
				add_gap(c, at);
		}
	}
	return 0;
}

/* 512 bytes of zeros in a table, and what is not named lost yet. */
static int zero_gaps(struct qcow2_clusters *c)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	const uint32_t per = 512 / q->l2_entry_size;

	for (uint32_t i = 0; i < c->n && !c->full; i++) {
		struct qcow2_l2ref *l = qcow2_table_is_usable(c, c->l1[i]) ? qcow2_l2_find(&x->c, c->l1[i]) : NULL;

		if (!l || !(qcow2_l2_shape(x, l, c->table) & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE)) ||
		    qcow2_l2_read(&x->c, l->off, c->table) < 0)
			continue;
		for (uint32_t k = 0; k < 1U << q->l2_bits; k += per) {
			if (!plt_is_zero(c->table + (size_t)k * q->l2_entry_size, 512))
				continue;
			for (uint32_t e = k; e < k + per; e++) {
				uint64_t guest = i * qcow2_table_span(q) + ((uint64_t)e << q->cluster_bits);

				if (!is_lost(c, guest))
					add_gap(c, guest);
			}
		}
	}
	return 0;
}

/* L1 entries that are zero: all of them, or none if that is too much. */
static void l1_gaps(struct qcow2_clusters *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint32_t before = c->ngaps;
	uint64_t n = 0;

	for (uint32_t i = 0; i < c->n; i++)
		n += !c->l1[i];
	if (n > (MAX_GAPS - c->ngaps) >> q->l2_bits)
		return;
	for (uint32_t i = 0; i < c->n; i++)
		for (uint32_t k = 0; k < 1U << q->l2_bits && !c->l1[i]; k++) {
			uint64_t guest = i * qcow2_table_span(q) + ((uint64_t)k << q->cluster_bits);

			if (!is_lost(c, guest))
				add_gap(c, guest);
		}
	if (c->full) {
		c->ngaps = before;
		c->full = false;
	}
}

int qcow2_find_gaps(struct qcow2_clusters *c)
{
	int r;

	c->gaps = calloc(MAX_GAPS, sizeof(*c->gaps));
	if (!c->gaps)
		return -ENOMEM;
	r = lost_gaps(c);
	if (r == 0 && c->x->orphans != QCOW2_ORPHANS_LEFT && !qcow2_may_be_left(c->x) && !c->full) {
		r = zero_gaps(c);
		if (r == 0 && !c->full)
			l1_gaps(c);
	}
	if (c->ngaps)
		qsort(c->gaps, c->ngaps, sizeof(*c->gaps), qcow2_by_value);
	return r;
}

static int hand_over(struct qcow2_clusters *c)
{
	struct qcow2_exam *x = c->x;
	struct plt_orphans *p = &x->ex->mend->unplaced;

	p->span = x->q.cluster_size;
	p->v = calloc((size_t)x->nstrays + 1, sizeof(*p->v));
	p->gaps = calloc((size_t)c->ngaps + 1, sizeof(*p->gaps));
	if (!p->v || !p->gaps)
		return -ENOMEM;
	for (uint32_t i = 0; i < x->nstrays; i++)
		p->v[p->n++] = (struct plt_orphan){.host_off = x->strays[i], .guest_off = PLT_UNPLACED};
	memcpy(p->gaps, c->gaps, c->ngaps * sizeof(*c->gaps));
	p->ngaps = c->ngaps;
	return qcow2_packed_find(x, p);
}

/* ---- putting back --------------------------------------------------------------------------------------- */

/* The table of L1 entry @index, in c->table; *ret: where it is written to, behind the end of the file. */
int qcow2_fresh_table(struct qcow2_clusters *c, uint32_t index, uint64_t *ret)
{
	struct qcow2_exam *x = c->x;
	uint64_t old = c->l1[index];
	int r = 0;

	if (qcow2_table_is_usable(c, old))
		r = qcow2_l2_read(&x->c, old, c->table);
	else
		memset(c->table, 0, x->q.cluster_size);
	if (r < 0)
		return r;
	if (qcow2_table_is_usable(c, old) && qcow2_is_added(x, old)) {
		*ret = old;
		return 0;
	}
	r = qcow2_fresh_place(x, ret);
	if (r == 0)
		r = qcow2_l1_set(x, &c->t, index, *ret);
	if (r == 0 && qcow2_table_is_usable(c, old)) {
		const struct qcow2_l2ref *l = qcow2_l2_find(&x->c, old);

		if (l && l->active + l->others == 1) /* else a snapshot still has it */
			r = qcow2_leave_behind(x, old);
	}
	c->l1[index] = *ret;
	return r;
}

static bool is_gap(const struct qcow2_clusters *c, uint64_t guest)
{
	return c->ngaps && bsearch(&guest, c->gaps, c->ngaps, sizeof(guest), qcow2_by_value);
}

static bool is_stray(struct qcow2_exam *x, const struct plt_orphan *o)
{
	if (o->packed)
		return qcow2_packed_is_open(x, o->host_off, o->packed);
	return x->nstrays && bsearch(&o->host_off, x->strays, x->nstrays, sizeof(o->host_off), qcow2_by_value);
}

/* How far behind the end of the file counts are looked for. */
#define LOOK_BEYOND 4096u

/* Does something count, or name, clusters behind the end of the file?  What was written last of a place may have been there. */
static bool is_end_missing(struct qcow2_exam *x)
{
	uint64_t end = plt_div_up(x->c.file_size, x->q.cluster_size), n;

	if (x->cut || x->ex->mend->cut)
		return true;
	for (uint64_t i = end; i < end + LOOK_BEYOND; i++) {
		if (qcow2_stored_count(&x->c, i, &n) < 0)
			return false;
		if (n)
			return true;
	}
	return false;
}

/* Placements from @from on that belong into the same table; *ret_next: the first of the next one. */
static int put_some(struct qcow2_clusters *c, size_t from, size_t *ret_next)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	const struct plt_orphan *v = x->ex->mend->place;
	/* (a snapshot's cluster has the same structures as the one that was written later) */
	const bool sure = !q->extl2 && !q->nb_snapshots && !is_end_missing(x);
	uint32_t index = (uint32_t)(v[from].guest_off / qcow2_table_span(q)), n = 0, proven = 0;
	size_t k = from;
	uint64_t off;
	int r = qcow2_fresh_table(c, index, &off);

	for (; r == 0 && k < x->ex->mend->nplace && v[k].guest_off / qcow2_table_span(q) == index; k++) {
		uint32_t i = (uint32_t)(v[k].guest_off >> q->cluster_bits) & ((1U << q->l2_bits) - 1);

		if (!is_gap(c, v[k].guest_off) || !is_stray(x, &v[k]) || !qcow2_slot_is_empty(q, c->table, i))
			continue;
		plt_put_be64(c->table + (size_t)i * q->l2_entry_size,
			     v[k].packed ? qcow2_packed_entry(q, v[k].host_off, v[k].packed) : v[k].host_off);
		if (q->extl2 && !v[k].packed) /* which subclusters were in use nothing says */
			plt_put_be64(c->table + (size_t)i * q->l2_entry_size + 8, UINT32_MAX);
		n++;
		proven += v[k].certainty == PLT_PROVEN;
		r = qcow2_doubt(x, &c->t, PLT_INFERRED, v[k].guest_off, q->cluster_size,
				sure ? v[k].certainty : PLT_MIN(v[k].certainty, PLT_STRONG), v[k].why);
	}
	*ret_next = k;
	if (r == 0)
		r = plt_store_write(x->c.file, off, c->table, q->cluster_size, PLT_IO_L2, NULL);
	x->map_changed = x->ex->mend->changed = true;
	x->ex->mend->map_damaged |= n != 0; /* what is left over now is not what a stop leaves */
	plt_emit(x->ex,
		 &(struct plt_finding){.id = "Q-L2", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true, .mended = true,
				       .host_off = off, .host_len = q->cluster_size, .guest_off = index * qcow2_table_span(q),
				       .guest_len = qcow2_table_span(q)},
		 "Repairing L2 table %" PRIu32 ": %" PRIu32 " clusters belong there by what the guest has written (%" PRIu32
		 " proven, the others strong); the table is at offset %#" PRIx64 " now", index, n, proven, off);
	return r;
}

/*
 * What the zeros of a table may have been is in doubt from the moment on that one of them was none.  Over a backing file
 * most of them are right, as a rule: what it has there goes on being shown.
 */
int qcow2_doubt_gaps(struct qcow2_clusters *c)
{
	const enum plt_doubt_kind kind = c->x->backing ? PLT_INFERRED : PLT_LOST;
	int r = 0;

	for (uint32_t i = 0; i < c->ngaps && r == 0; i++)
		if (!is_lost(c, c->gaps[i]))
			r = qcow2_doubt(c->x, &c->t, kind, c->gaps[i], c->x->q.cluster_size, PLT_GUESS, qcow2_why_zero);
	return r;
}

static int by_host(const void *a, const void *b)
{
	const struct plt_orphan *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

/*
 * Where do the places that its clusters have found put an orphan table?  Nearly all of them the same, at the entry that
 * the table has for it, or nowhere: false.  Such a table is right about the few that were put elsewhere.
 */
static bool table_place(const struct qcow2_clusters *c, const uint8_t *table, const struct plt_orphan *v, size_t n,
			const struct plt_orphan **ret)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t best = 0;
	uint32_t agree = 0, others = 0;

	*ret = NULL;
	for (unsigned pass = 0; pass < 2; pass++) {
		agree = 0;
		for (uint32_t i = 0; i < 1U << q->l2_bits; i++) {
			uint64_t e = plt_get_be64(table + (size_t)i * q->l2_entry_size), index;
			struct plt_orphan key = {.host_off = e & QCOW2_L2_OFFSET};
			const struct plt_orphan *o = e & QCOW2_COMPRESSED ? NULL : bsearch(&key, v, n, sizeof(*v), by_host);

			if (!o)
				continue;
			index = o->guest_off / qcow2_table_span(q);
			if (((o->guest_off >> q->cluster_bits) & ((1U << q->l2_bits) - 1)) != i || (pass && index != best)) {
				others += pass;
			} else if (pass) {
				agree++;
				if (!*ret || (*ret)->certainty < o->certainty)
					*ret = o;
			} else if (!agree || index == best) { /* who has most, if anybody has more than half */
				best = index;
				agree++;
			} else {
				agree--;
			}
		}
	}
	return *ret && others * 8 <= agree;
}

/* A table that no evidence of its own has placed goes where its clusters go. */
static int put_tables(struct qcow2_clusters *c)
{
	struct qcow2_exam *x = c->x;
	const struct plt_mend *mend = x->ex->mend;
	struct plt_orphan *v = malloc((mend->nplace + 1) * sizeof(*v));
	int r = v ? 0 : -ENOMEM;

	if (r == 0) {
		memcpy(v, mend->place, mend->nplace * sizeof(*v));
		qsort(v, mend->nplace, sizeof(*v), by_host);
	}
	for (uint32_t i = 0; i < x->npieces && r == 0; i++) {
		const struct plt_orphan *o;
		uint64_t index;

		if (qcow2_l2_read(&x->c, x->pieces[i].off, c->table) < 0 || !table_place(c, c->table, v, mend->nplace, &o))
			continue;
		index = o->guest_off / qcow2_table_span(&x->q);
		if (index >= c->n || c->l1[index])
			continue;
		c->l1[index] = x->pieces[i].off;
		r = qcow2_l1_set(x, &c->t, (uint32_t)index, x->pieces[i].off);
		x->ex->mend->map_damaged = true; /* what is left over now is not what a stop leaves */
		if (r == 0)
			r = qcow2_doubt(x, &c->t, PLT_INFERRED, index * qcow2_table_span(&x->q), qcow2_table_span(&x->q), o->certainty, o->why);
		plt_emit(x->ex,
			 &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					       .mended = true, .host_off = x->pieces[i].off, .host_len = x->q.cluster_size,
					       .guest_off = index * qcow2_table_span(&x->q), .guest_len = qcow2_table_span(&x->q)},
			 "Repairing L1 entry %" PRIu64 ": the L2 table at offset %#" PRIx64 " belongs there (some of its clusters "
			 "do: %s)", index, x->pieces[i].off, o->why);
	}
	free(v);
	return r;
}

/* Does a cluster belong where the table has a zero?  Where an entry was taken out it is known that there was one. */
static bool is_zero_wrong(const struct qcow2_clusters *c)
{
	const struct plt_mend *mend = c->x->ex->mend;

	for (size_t k = 0; k < mend->nplace; k++)
		if (is_gap(c, mend->place[k].guest_off) && is_stray(c->x, &mend->place[k]) && !is_lost(c, mend->place[k].guest_off))
			return true;
	return false;
}

static int put_all(struct qcow2_clusters *c)
{
	struct qcow2_exam *x = c->x;
	const struct plt_mend *mend = x->ex->mend;
	size_t k = 0;
	int r;

	while (k < mend->nplace && !(is_gap(c, mend->place[k].guest_off) && is_stray(x, &mend->place[k])))
		k++;
	if (k == mend->nplace) /* they are in place */
		return 0;
	r = put_tables(c);
	if (r < 0 || x->map_changed) /* the rest when it is known what is left */
		return r;
	if (is_zero_wrong(c))
		r = qcow2_doubt_gaps(c);
	for (k = 0; k < mend->nplace && r == 0;)
		if (mend->place[k].guest_off >= c->t.size || mend->place[k].guest_off / qcow2_table_span(&x->q) >= c->n)
			k++;
		else
			r = put_some(c, k, &k);
	return r;
}

/* ---- a tree --------------------------------------------------------------------------------------------- */

static int with_tree(struct qcow2_exam *x, const struct qcow2_tree *t, int (*fn)(struct qcow2_clusters *c))
{
	const struct qcow2_state *q = &x->q;
	struct qcow2_clusters c = {.x = x, .t = *t, .room = ZERO_TABLES + x->c.file_size};
	int r;

	if (!t->l1_size || (t->l1_offset & (q->cluster_size - 1)) ||
	    !plt_in_range(t->l1_offset, (uint64_t)t->l1_size * 8, x->c.file_size) ||
	    qcow2_exam_overlaps(x, t->l1_offset, (uint64_t)t->l1_size * 8))
		return 0;
	c.n = (uint32_t)PLT_MIN(qcow2_l1_entries(q, t->size), (uint64_t)t->l1_size);
	c.l1 = calloc((size_t)c.n + 1, sizeof(*c.l1));
	c.table = plt_alloc_io(q->cluster_size);
	r = c.l1 && c.table ? qcow2_l1_each(&x->c, t->l1_offset, t->l1_size, note_entry, &c) : -ENOMEM;
	if (r == 0)
		r = fn(&c);
	free(c.gaps);
	free(c.l1);
	free(c.table);
	return r == -EIO ? 0 : r; /* said when the table was reported */
}

static int place_clusters(struct qcow2_clusters *c)
{
	int r = qcow2_find_gaps(c);

	if (r == 0 && c->x->ex->mend->nplace)
		r = put_all(c);
	if (r == 0 && !c->x->map_changed && c->ngaps)
		r = hand_over(c);
	return r;
}

static bool has_losses(const struct qcow2_exam *x)
{
	const struct plt_doubts *d = &x->ex->mend->doubts;

	for (size_t i = 0; i < d->n; i++)
		if (d->v[i].kind == PLT_LOST)
			return true;
	return false;
}

int qcow2_mend_clusters(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct plt_mend *mend = x->ex->mend;
	const struct qcow2_tree active = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, q->l1_size};
	int r = 0;

	if (!(mend->what & PLT_MEND_MAP))
		return 0;
	mend->more = mend->stage < PLT_MEND_SETTLE &&
		     (has_losses(x) || mend->nameless || x->shares_lost || (x->nstrays && x->orphans != QCOW2_ORPHANS_LEFT));
	if (mend->stage == PLT_MEND_CLUSTERS)
		return with_tree(x, &active, place_clusters);
	if (mend->stage != PLT_MEND_SETTLE)
		return 0;
	r = with_tree(x, &active, qcow2_give_up);
	for (uint32_t i = 0; i < q->nb_snapshots && r == 0; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		if (x->snapshot_times[i] && x->snapshot_times[i] != QCOW2_ASTRAY && s->info.disk_size <= INT64_MAX)
			r = with_tree(x, &(struct qcow2_tree){i, s->l1_offset, s->info.disk_size, s->l1_size}, qcow2_give_up);
	}
	return r;
}
