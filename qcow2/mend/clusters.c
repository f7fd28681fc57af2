/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Single clusters back into the map.  When no table is left that could be placed whole, every orphan with content is
 * offered together with the places whose entries are missing: those that were taken out (named lost), and where
 * orphans are not explained by a program that was stopped, also places of zeros: whole 512 bytes of a table, whole L1
 * entries.  The caller asks the guest where they belong; what it is sure of goes into tables behind the end of the file.
 *
 * In the end the places that stay empty are given up.  The invariant: as long as one orphan has no place, each of
 * them is named lost; an entry that was taken out becomes one of zeros where the format has such, so that no backing
 * file shows through; a place whose entry was zero all along stays as it is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/check.h"

#define MAX_GAPS (UINT32_C(1) << 20) /* places that are offered at once */
#define ZERO_TABLES (UINT64_C(64) << 20) /* bytes of them, and as many as the file has */

struct clusters {
	struct qcow2_exam *x;
	struct qcow2_tree t;
	uint64_t *l1;     /* places of the tables; 0: none */
	uint32_t n;
	uint8_t *table;
	uint64_t *gaps;
	uint32_t ngaps;
	bool full;        /* there are more */
	uint64_t room;    /* for tables of zeros: an L1 table of garbage may ask for any number */
};

static uint64_t span_of(const struct qcow2_state *q)
{
	return UINT64_C(1) << (q->cluster_bits + q->l2_bits);
}

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	struct clusters *c = arg;

	if (index < c->n && !(e & QCOW2_L1_RESERVED))
		c->l1[index] = e & QCOW2_L1_OFFSET;
	return 0;
}

static bool is_usable(const struct clusters *c, uint64_t off)
{
	return off && !(off & (c->x->q.cluster_size - 1)) && off < c->x->c.file_size;
}

static bool is_empty(const struct qcow2_state *q, const uint8_t *table, uint32_t i)
{
	const uint8_t *p = table + (size_t)i * q->l2_entry_size;

	return !plt_get_be64(p) && (!q->extl2 || !plt_get_be64(p + 8));
}

/* ---- places --------------------------------------------------------------------------------------------- */

static void add_gap(struct clusters *c, uint64_t guest)
{
	if (guest >= c->t.size)
		return;
	if (c->ngaps < MAX_GAPS)
		c->gaps[c->ngaps++] = guest;
	else
		c->full = true;
}

static bool is_lost(const struct clusters *c, uint64_t guest)
{
	const struct plt_doubt *d = plt_doubts_find(&c->x->ex->mend->doubts, c->t.disk, guest);

	return d && d->kind == PLT_LOST && d->off <= guest;
}

/* Entries that were taken out: of whole L1 entries, and single ones. */
static int lost_gaps(struct clusters *c)
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
			if (index != have && is_usable(c, c->l1[index]) && qcow2_l2_read(&c->x->c, c->l1[index], c->table) < 0)
				continue;
			have = index;
			if (!is_usable(c, c->l1[index]) ||
			    is_empty(q, c->table, (at >> q->cluster_bits) & ((1U << q->l2_bits) - 1)))
				add_gap(c, at);
		}
	}
	return 0;
}

/* 512 bytes of zeros in a table, and what is not named lost yet. */
static int zero_gaps(struct clusters *c)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	const uint32_t per = 512 / q->l2_entry_size;

	for (uint32_t i = 0; i < c->n && !c->full; i++) {
		struct qcow2_l2ref *l = is_usable(c, c->l1[i]) ? qcow2_l2_find(&x->c, c->l1[i]) : NULL;

		if (!l || !(qcow2_l2_shape(x, l, c->table) & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE)) ||
		    qcow2_l2_read(&x->c, l->off, c->table) < 0)
			continue;
		for (uint32_t k = 0; k < 1U << q->l2_bits; k += per) {
			if (!plt_is_zero(c->table + (size_t)k * q->l2_entry_size, 512))
				continue;
			for (uint32_t e = k; e < k + per; e++) {
				uint64_t guest = i * span_of(q) + ((uint64_t)e << q->cluster_bits);

				if (!is_lost(c, guest))
					add_gap(c, guest);
			}
		}
	}
	return 0;
}

/* L1 entries that are zero: all of them, or none if that is too much. */
static void l1_gaps(struct clusters *c)
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
			uint64_t guest = i * span_of(q) + ((uint64_t)k << q->cluster_bits);

			if (!is_lost(c, guest))
				add_gap(c, guest);
		}
	if (c->full) {
		c->ngaps = before;
		c->full = false;
	}
}

static int find_gaps(struct clusters *c)
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

static int hand_over(struct clusters *c)
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
static int fresh_table(struct clusters *c, uint32_t index, uint64_t *ret)
{
	struct qcow2_exam *x = c->x;
	uint64_t old = c->l1[index];
	int r = 0;

	if (is_usable(c, old))
		r = qcow2_l2_read(&x->c, old, c->table);
	else
		memset(c->table, 0, x->q.cluster_size);
	if (r < 0)
		return r;
	if (is_usable(c, old) && qcow2_is_added(x, old)) {
		*ret = old;
		return 0;
	}
	r = qcow2_fresh_place(x, ret);
	if (r == 0)
		r = qcow2_l1_set(x, &c->t, index, *ret);
	if (r == 0 && is_usable(c, old)) {
		const struct qcow2_l2ref *l = qcow2_l2_find(&x->c, old);

		if (l && l->active + l->others == 1) /* else a snapshot still has it */
			r = qcow2_leave_behind(x, old);
	}
	c->l1[index] = *ret;
	return r;
}

static bool is_gap(const struct clusters *c, uint64_t guest)
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
static int put_some(struct clusters *c, size_t from, size_t *ret_next)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	const struct plt_orphan *v = x->ex->mend->place;
	/* (a snapshot's cluster has the same structures as the one that was written later) */
	const bool sure = !q->extl2 && !q->nb_snapshots && !is_end_missing(x);
	uint32_t index = (uint32_t)(v[from].guest_off / span_of(q)), n = 0, proven = 0;
	size_t k = from;
	uint64_t off;
	int r = fresh_table(c, index, &off);

	for (; r == 0 && k < x->ex->mend->nplace && v[k].guest_off / span_of(q) == index; k++) {
		uint32_t i = (uint32_t)(v[k].guest_off >> q->cluster_bits) & ((1U << q->l2_bits) - 1);

		if (!is_gap(c, v[k].guest_off) || !is_stray(x, &v[k]) || !is_empty(q, c->table, i))
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
				       .host_off = off, .host_len = q->cluster_size, .guest_off = index * span_of(q),
				       .guest_len = span_of(q)},
		 "Repairing L2 table %" PRIu32 ": %" PRIu32 " clusters belong there by what the guest has written (%" PRIu32
		 " proven, the others strong); the table is at offset %#" PRIx64 " now", index, n, proven, off);
	return r;
}

/*
 * What the zeros of a table may have been is in doubt from the moment on that one of them was none.  Over a backing file
 * most of them are right, as a rule: what it has there goes on being shown.
 */
static int doubt_gaps(struct clusters *c)
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
static bool table_place(const struct clusters *c, const uint8_t *table, const struct plt_orphan *v, size_t n,
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
			index = o->guest_off / span_of(q);
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
static int put_tables(struct clusters *c)
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
		index = o->guest_off / span_of(&x->q);
		if (index >= c->n || c->l1[index])
			continue;
		c->l1[index] = x->pieces[i].off;
		r = qcow2_l1_set(x, &c->t, (uint32_t)index, x->pieces[i].off);
		if (r == 0)
			r = qcow2_doubt(x, &c->t, PLT_INFERRED, index * span_of(&x->q), span_of(&x->q), o->certainty, o->why);
		plt_emit(x->ex,
			 &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					       .mended = true, .host_off = x->pieces[i].off, .host_len = x->q.cluster_size,
					       .guest_off = index * span_of(&x->q), .guest_len = span_of(&x->q)},
			 "Repairing L1 entry %" PRIu64 ": the L2 table at offset %#" PRIx64 " belongs there (some of its clusters "
			 "do: %s)", index, x->pieces[i].off, o->why);
	}
	free(v);
	return r;
}

/* Does a cluster belong where the table has a zero?  Where an entry was taken out it is known that there was one. */
static bool is_zero_wrong(const struct clusters *c)
{
	const struct plt_mend *mend = c->x->ex->mend;

	for (size_t k = 0; k < mend->nplace; k++)
		if (is_gap(c, mend->place[k].guest_off) && is_stray(c->x, &mend->place[k]) && !is_lost(c, mend->place[k].guest_off))
			return true;
	return false;
}

static int put_all(struct clusters *c)
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
		r = doubt_gaps(c);
	for (k = 0; k < mend->nplace && r == 0;)
		if (mend->place[k].guest_off >= c->t.size || mend->place[k].guest_off / span_of(&x->q) >= c->n)
			k++;
		else
			r = put_some(c, k, &k);
	return r;
}

static const char why_nameless[] = "the header is gone, and with it the name of a backing file";

/* ---- giving up ------------------------------------------------------------------------------------------ */

static const char why_below[] = "its part of the map was lost: shown is what the backing file has there";

static bool was_taken_out(const struct plt_doubt *d)
{
	return strcmp(d->why, qcow2_why_zero) && strcmp(d->why, why_nameless);
}

/*
 * Of a table, or of sectors of one, that was lost over a backing file nobody knows which entries there were, and in an
 * overlay few are: what lies below is the better guess than zeros.  Of a single entry it is known that there was one.
 */
static bool shows_below(const struct clusters *c, uint64_t from, uint64_t end, const char *why)
{
	const uint64_t span = span_of(&c->x->q);

	if (!c->x->backing || !strcmp(why, qcow2_why_overwritten) || !strcmp(why, qcow2_why_l1))
		return c->x->backing;
	return from % span == 0 && (end - from == span || end == c->t.size) && !c->l1[from / span];
}

/* Of what is lost in one table, the empty entries become zeros that say so. */
static int put_zeros(struct clusters *c, uint32_t index, uint64_t from, uint64_t end)
{
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	bool changed = false;
	int r;

	if (!is_usable(c, c->l1[index]) || !qcow2_is_added(x, c->l1[index]))
		return 0;
	r = qcow2_l2_read(&x->c, c->l1[index], c->table);
	for (uint64_t at = plt_align_up(from, q->cluster_size); at < end && r == 0; at += q->cluster_size) {
		uint32_t i = (uint32_t)(at >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
		uint8_t *p = c->table + (size_t)i * q->l2_entry_size;

		if (!is_empty(q, c->table, i))
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
static int put_zero_table(struct clusters *c, uint32_t index)
{
	uint64_t off;
	int r;

	if (!c->x->backing || c->l1[index] || c->room < c->x->q.cluster_size)
		return 0;
	c->room -= c->x->q.cluster_size;
	r = fresh_table(c, index, &off);
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
static int nothing_is_left(struct clusters *c)
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

static int doubt_run(struct clusters *c, uint64_t from, uint64_t to)
{
	return from < to ? qcow2_doubt(c->x, &c->t, PLT_LOST, from, to - from, PLT_GUESS, why_nameless) : 0;
}

/*
 * No header says any more whether there was a backing file.  A disk without its first cluster has no boot sector, no
 * partition table and no volume: it had one, and what is not here was there.
 */
static int doubt_holes(struct clusters *c)
{
	const struct qcow2_state *q = &c->x->q;
	uint64_t from = 0;
	int r = 0;

	for (uint32_t i = 0; i < c->n && r == 0; i++) {
		if (!is_usable(c, c->l1[i]) || qcow2_l2_read(&c->x->c, c->l1[i], c->table) < 0)
			continue;
		for (uint32_t k = 0; k < 1U << q->l2_bits && r == 0; k++) {
			uint64_t at = i * span_of(q) + ((uint64_t)k << q->cluster_bits);

			if (is_empty(q, c->table, k))
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

static int give_up(struct clusters *c)
{
	struct qcow2_exam *x = c->x;
	struct plt_doubts *d = &x->ex->mend->doubts;
	const uint64_t span = span_of(&x->q);
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
		r = find_gaps(c);
		if (r == 0)
			r = doubt_gaps(c);
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

/* ---- a tree --------------------------------------------------------------------------------------------- */

static int with_tree(struct qcow2_exam *x, const struct qcow2_tree *t, int (*fn)(struct clusters *c))
{
	const struct qcow2_state *q = &x->q;
	struct clusters c = {.x = x, .t = *t, .room = ZERO_TABLES + x->c.file_size};
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

static int place_clusters(struct clusters *c)
{
	int r = find_gaps(c);

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
	r = with_tree(x, &active, give_up);
	for (uint32_t i = 0; i < q->nb_snapshots && r == 0; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		if (x->snapshot_times[i] && x->snapshot_times[i] != QCOW2_ASTRAY && s->info.disk_size <= INT64_MAX)
			r = with_tree(x, &(struct qcow2_tree){i, s->l1_offset, s->info.disk_size, s->l1_size}, give_up);
	}
	return r;
}
