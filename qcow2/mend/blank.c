/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Tables of the active disk that say nothing where they must have said something:
 *
 *	sectors of zeros, where a snapshot's table names clusters that are counted once more than they are named: the
 *	disk had these, too.  What else of such a sector is empty is named lost
 *	a whole table of zeros over an external data file, where the guest's bytes lie where the guest has them
 *
 * The invariant of tables.c holds: the new table lies behind the end of the file, the old one stays where it was.  A
 * discard leaves a zero flag since version 3; in version 2 it takes more than a few clusters for proof.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/check.h"

#define MAX_DONORS 16 /* snapshots, the newest first */
#define MAX_FILLED 16384 /* tables in a round; the next goes on */
#define PROOF 8       /* clusters that are counted once too often, in one table: no accident */
#define PROOF_V2 64

struct blank {
	struct qcow2_exam *x;
	struct qcow2_tree t;
	uint8_t *table, *donor;
	bool *given;          /* by sector of the table: the snapshot's table had something for it */
	uint32_t filled;
};

static uint64_t guest_of(const struct blank *b, uint32_t index)
{
	return (uint64_t)index << (b->x->q.cluster_bits + b->x->q.l2_bits);
}

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	(void)index;
	*(uint64_t *)arg = e & QCOW2_L1_OFFSET;
	return 0;
}

/* The table of snapshot @i at L1 entry @index, in b->donor; false: it has none of its own. */
static bool read_donor(struct blank *b, uint32_t i, uint32_t index, uint64_t off)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_snapshot *s = &x->q.snapshots[i];
	uint64_t from = 0;

	return x->snapshot_times[i] && x->snapshot_times[i] != QCOW2_ASTRAY && index < s->l1_size &&
	       s->l1_size <= QCOW2_MAX_L1_BYTES / 8 && s->l1_offset <= INT64_MAX / 2 &&
	       qcow2_l1_each(&x->c, s->l1_offset + (uint64_t)index * 8, 1, note_entry, &from) == 0 && from && from != off &&
	       !(from & (x->q.cluster_size - 1)) && from < x->c.file_size && qcow2_l2_read(&x->c, from, b->donor) == 0 &&
	       qcow2_l2_well_formed(x, b->donor);
}

/* What the donor has for sectors that are still blank, or were when the newest donor was asked. */
static uint32_t fill(struct blank *b)
{
	const struct qcow2_state *q = &b->x->q;
	uint32_t per = 512 / q->l2_entry_size, n = 0;

	for (uint32_t s = 0; s < q->cluster_size / 512; s++) {
		if (!b->given[s] && !plt_is_zero(b->table + (size_t)s * 512, 512))
			continue;
		for (uint32_t k = s * per; k < (s + 1) * per; k++) {
			uint8_t *to = b->table + (size_t)k * q->l2_entry_size, *from = b->donor + (size_t)k * q->l2_entry_size;
			uint64_t e = plt_get_be64(from), bitmap = q->extl2 ? plt_get_be64(from + 8) : 0, off;

			/* (where streams share a cluster its count says nothing of one of them) */
			if (plt_get_be64(to) || (e & QCOW2_COMPRESSED) || !qcow2_entry_fits(b->x, e, bitmap, &off) || !off ||
			    !qcow2_is_missed(b->x, off))
				continue;
			plt_put_be64(to, e & ~QCOW2_COPIED);
			if (q->extl2)
				plt_put_be64(to + 8, bitmap);
			b->given[s] = true;
			n++;
		}
	}
	return n;
}

/* What was given is certain, or as good as; the rest of these sectors is lost. */
static int name(struct blank *b, uint32_t index, uint32_t n)
{
	const struct qcow2_state *q = &b->x->q;
	uint32_t per = 512 / q->l2_entry_size;
	bool certain = n >= PROOF && q->version >= 3;
	int r = 0;

	for (uint32_t k = 0; k < 1U << q->l2_bits && r == 0; k++) {
		const uint8_t *p = b->table + (size_t)k * q->l2_entry_size;
		uint64_t at = guest_of(b, index) + ((uint64_t)k << q->cluster_bits);

		if (!b->given[k / per])
			continue;
		if (plt_get_be64(p))
			r = qcow2_doubt(b->x, &b->t, PLT_INFERRED, at, q->cluster_size, certain ? PLT_PROVEN : PLT_STRONG,
					"a snapshot has it, and it is counted once more than it is named");
		else
			r = qcow2_doubt(b->x, &b->t, PLT_LOST, at, q->cluster_size, PLT_GUESS, qcow2_why_zero);
	}
	return r;
}

static int replace(struct blank *b, uint32_t index, uint64_t old, uint32_t n, const char *why)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint64_t now = old;
	int r = 0;

	if (!qcow2_is_added(x, old)) {
		r = qcow2_fresh_place(x, &now);
		if (r == 0)
			r = qcow2_leave_behind(x, old);
	}
	if (r == 0)
		r = plt_store_write(x->c.file, now, b->table, q->cluster_size, PLT_IO_L2, NULL);
	if (r == 0)
		r = qcow2_l1_set(x, &b->t, index, now);
	if (r < 0)
		return r;
	b->filled++;
	x->ex->mend->map_damaged = true;
	plt_emit(x->ex,
		 &(struct plt_finding){.id = "Q-L2", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true, .mended = true,
				       .host_off = old, .host_len = q->cluster_size, .guest_off = guest_of(b, index),
				       .guest_len = guest_of(b, 1)},
		 "Repairing L2 table %" PRIu32 " at offset %#" PRIx64 ": it was cleared; %" PRIu32 " entries are put back (%s); the "
		 "table is at offset %#" PRIx64 " now", index, old, n, why, now);
	return 0;
}

static int from_snapshots(struct blank *b, uint32_t index, uint64_t off, bool is_zero)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint64_t all;
	uint32_t n = 0;
	int r;

	memset(b->given, 0, q->cluster_size / 512 * sizeof(*b->given));
	for (uint32_t i = q->nb_snapshots; i-- && i + MAX_DONORS >= q->nb_snapshots;)
		if (read_donor(b, i, index, off))
			n += fill(b);
	if (n && qcow2_may_be_left(x) && (n < PROOF || q->version < 3))
		return 0;
	if (!n)
		return 0;
	/* (what the disk alone had in a table that is all zeros are orphans: the same loss) */
	all = n + (is_zero ? x->orphan_clusters : 0);
	if (q->version < 3 && all < PROOF_V2 && x->orphans != QCOW2_ORPHANS_LOST) {
		if (n >= PROOF && x->orphans == QCOW2_ORPHANS_LEFT)
			x->orphans = QCOW2_ORPHANS_UNDECIDED;
		return 0;
	}
	r = name(b, index, n);
	return r < 0 ? r : replace(b, index, off, n, "clusters of a snapshot that are counted once more than they are named");
}

/* Nothing is known of what is not there; but what is there lies where the guest has it. */
static int as_it_lies(struct blank *b, uint32_t index, uint64_t off)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint32_t n = 0;
	int r = 0;

	for (uint32_t k = 0; k < 1U << q->l2_bits && r == 0; k++) {
		uint8_t *p = b->table + (size_t)k * q->l2_entry_size;
		uint64_t at = guest_of(b, index) + ((uint64_t)k << q->cluster_bits);

		if (at >= b->t.size)
			break;
		plt_put_be64(p, at | QCOW2_COPIED);
		if (q->extl2)
			plt_put_be64(p + 8, UINT32_MAX);
		n++;
	}
	r = qcow2_doubt(x, &b->t, PLT_INFERRED, guest_of(b, index), (uint64_t)n << q->cluster_bits, PLT_STRONG,
			"an external data file has the guest's bytes where the guest has them");
	return r < 0 ? r : replace(b, index, off, n, "an external data file has the guest's bytes where the guest has them");
}

/* The external data file is declared to be the disk, byte for byte. */
static bool file_is_disk(const struct qcow2_exam *x)
{
	return x->q.autoclear & QCOW2_AUTOCLEAR_DATA_RAW;
}

static int look_at(void *arg, uint32_t index, uint64_t e)
{
	struct blank *b = arg;
	struct qcow2_exam *x = b->x;
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct qcow2_l2ref *l;
	unsigned shape;

	if ((e & QCOW2_L1_RESERVED) || !off || (off & (x->q.cluster_size - 1)) || off >= x->c.file_size ||
	    b->filled >= MAX_FILLED || guest_of(b, index) >= b->t.size)
		return 0;
	l = qcow2_l2_find(&x->c, off);
	if (!l || l->active != 1 || l->others)
		return 0;
	shape = qcow2_l2_shape(x, l, b->table);
	if (!(shape & (QCOW2_SHAPE_ZERO | QCOW2_SHAPE_SPARSE)) || qcow2_l2_read(&x->c, off, b->table) < 0)
		return 0;
	if (!x->c.external)
		return from_snapshots(b, index, off, shape & QCOW2_SHAPE_ZERO);
	/* (an empty table is also what a stop leaves: only where the file *is* the disk does it make no difference) */
	x->ex->mend->data_hidden |= (shape & QCOW2_SHAPE_ZERO) != 0;
	if (!file_is_disk(x) && !x->ex->mend->look && !x->ex->mend->data_is_disk)
		return 0;
	return shape & QCOW2_SHAPE_ZERO && !x->backing ? as_it_lies(b, index, off) : 0;
}

int qcow2_mend_blank(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct blank b = {.x = x, .t = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, 0}};
	int r;

	b.t.l1_size = (uint32_t)PLT_MIN(qcow2_l1_entries(q, q->virtual_size), (uint64_t)q->l1_size);
	if (!(x->ex->mend->what & PLT_MEND_MAP) || (!x->c.external && (!q->nb_snapshots || x->refs_bad || x->snapshots_bad)) ||
	    !b.t.l1_size || (q->l1_offset & (q->cluster_size - 1)) ||
	    !plt_in_range(q->l1_offset, (uint64_t)b.t.l1_size * 8, x->c.file_size) ||
	    qcow2_exam_overlaps(x, q->l1_offset, (uint64_t)b.t.l1_size * 8))
		return 0;
	b.table = plt_alloc_io(q->cluster_size);
	b.donor = plt_alloc_io(q->cluster_size);
	b.given = calloc(q->cluster_size / 512, sizeof(*b.given));
	r = b.table && b.donor && b.given ? qcow2_l1_each(&x->c, q->l1_offset, b.t.l1_size, look_at, &b) : -ENOMEM;
	free(b.table);
	free(b.donor);
	free(b.given);
	return r == -EIO ? 0 : r; /* said when the table was reported */
}
