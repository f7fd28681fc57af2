/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Mending of counts.  The examined store is an overlay, so all that is written here is a plan.  The
 * invariant: no count of a cluster that something reaches is ever lowered below its references, and none of
 * an orphan that may be lost data is lowered at all; no byte of a cluster that is not a table is touched,
 * nothing is punched and nothing cut off.  Counts are put right where they are as long as the refcount
 * structure is sound; otherwise it is written anew behind the end of the file, and the damaged one stays
 * where it was, uncounted.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "qcow2/check.h"

static bool wants(const struct qcow2_exam *x, unsigned what)
{
	return x->ex->mend && x->ex->mend->what & what;
}

/* What a table that does not read says of clusters nobody knows: it is not an empty one. */
bool qcow2_unread(const struct qcow2_exam *x)
{
	return x->ex->mend && !x->ex->mend->look && plt_overlay_failed(x->c.file);
}

static bool may_lower(const struct qcow2_exam *x)
{
	return wants(x, PLT_MEND_LOWER) && x->orphans == QCOW2_ORPHANS_LEFT && !x->snapshots_bad &&
	       !x->ex->mend->bitmaps_lost && !qcow2_unread(x);
}

bool qcow2_left_behind(const struct qcow2_exam *x, uint64_t cluster)
{
	return x->ex->mend && plt_extents_overlaps(&x->ex->mend->left, cluster << x->q.cluster_bits, x->q.cluster_size);
}

/* What nothing reaches keeps its count unless it is known why. */
static bool may_lower_at(const struct qcow2_exam *x, uint64_t cluster)
{
	return may_lower(x) || (wants(x, PLT_MEND_LOWER) && qcow2_left_behind(x, cluster));
}

bool qcow2_mend_rebuilds(const struct qcow2_exam *x)
{
	return wants(x, PLT_MEND_REBUILD) && x->refs_bad && !qcow2_unread(x);
}

/* ---- where they are -------------------------------------------------------------------------- */

bool qcow2_has_refblock(const struct qcow2_exam *x, uint64_t index)
{
	uint64_t off = index < x->c.nrt ? x->c.rt[index] & QCOW2_REFTABLE_OFFSET : 0;

	return off && !(off & (x->q.cluster_size - 1)) && off < x->c.file_size;
}

/* What has changed of the block at hand, in whole sectors. */
static int write_block(struct qcow2_exam *x)
{
	int r = 0;

	if (x->block_from < x->block_to)
		r = plt_store_write(x->c.file, (x->c.rt[x->block_index] & QCOW2_REFTABLE_OFFSET) + x->block_from,
				    x->block + x->block_from, x->block_to - x->block_from, PLT_IO_REFBLOCK, NULL);
	x->block_from = x->q.cluster_size;
	x->block_to = 0;
	return r;
}

static int turn_to(struct qcow2_exam *x, uint64_t index)
{
	int r;

	if (x->block && x->block_index == index)
		return 0;
	r = x->block ? write_block(x) : 0;
	if (r == 0 && !x->block) {
		x->block_from = x->q.cluster_size;
		x->block = plt_alloc_io(x->q.cluster_size);
		r = x->block ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = plt_store_read(x->c.file, x->c.rt[index] & QCOW2_REFTABLE_OFFSET, x->block, x->q.cluster_size,
				   PLT_IO_REFBLOCK, NULL);
	x->block_index = r == 0 ? index : UINT64_MAX;
	return r;
}

bool qcow2_mend_count(struct qcow2_exam *x, uint64_t cluster, uint64_t stored, uint64_t refs, int unreadable)
{
	const struct qcow2_state *q = &x->q;
	bool lower = stored > refs;
	uint64_t at;

	if (qcow2_mend_rebuilds(x) && (refs || may_lower_at(x, cluster)))
		return true;
	if (!x->ex->mend || (lower ? !may_lower_at(x, cluster) : !wants(x, PLT_MEND_RAISE)))
		return false;
	if (unreadable || x->refs_bad || !qcow2_has_refblock(x, cluster >> q->rb_bits) || turn_to(x, cluster >> q->rb_bits) < 0)
		return false;
	at = cluster & ((UINT64_C(1) << q->rb_bits) - 1);
	qcow2_count_put(q, x->block, at, refs);
	at = (at << q->refcount_order) / 8;
	x->block_from = PLT_MIN(x->block_from, (uint32_t)plt_align_down(at, 512));
	x->block_to = PLT_MAX(x->block_to, (uint32_t)plt_align_down(at, 512) + 512);
	x->ex->mend->changed = true;
	return true;
}

int qcow2_mend_counts_end(struct qcow2_exam *x)
{
	int r = x->block ? write_block(x) : 0;

	qcow2_stored_forget(&x->c);
	return r;
}

/* ---- anew ------------------------------------------------------------------------------------ */

struct rebuild {
	struct qcow2_exam *x;
	uint64_t *old;            /* clusters of the old structure, sorted; one that is named twice is there twice */
	uint64_t nold;
	uint64_t first, clusters; /* of the new one: blocks, then the table */
	uint64_t nblocks;         /* blocks that there are at all */
	uint64_t table_clusters;
	uint64_t *place;          /* of each block that a table of this length can name; 0: it is not needed */
	uint64_t nplaces;
};

/* Every reference that the old structure itself has made. */
static int list_old(struct rebuild *b)
{
	const struct qcow2_recount *c = &b->x->c;
	const struct qcow2_state *q = &b->x->q;
	uint64_t n = 0;

	b->old = plt_alloc_capped(c->nrt + q->reftable_clusters + 1, 8, SIZE_MAX / 2);
	if (!b->old)
		return -ENOMEM;
	for (uint64_t i = 0; i < q->reftable_clusters; i++)
		b->old[n++] = (q->reftable_offset >> q->cluster_bits) + i;
	for (uint64_t i = 0; i < c->nrt; i++) {
		uint64_t off = c->rt[i] & QCOW2_REFTABLE_OFFSET;

		if (off && !(c->rt[i] & QCOW2_REFTABLE_RESERVED) && !(off & (q->cluster_size - 1)) &&
		    off >> q->cluster_bits < c->nb)
			b->old[n++] = off >> q->cluster_bits;
	}
	b->nold = n;
	qsort(b->old, n, sizeof(*b->old), qcow2_by_value);
	return 0;
}

static uint64_t times_old(const struct rebuild *b, uint64_t cluster)
{
	uint64_t lo = 0, hi = b->nold, n = 0;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (b->old[mid] < cluster)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < b->nold && b->old[lo] == cluster; lo++)
		n++;
	return n;
}

/* The count of a cluster of the file as it was. */
static uint64_t new_count(const struct rebuild *b, uint64_t k)
{
	struct qcow2_exam *x = b->x;
	uint64_t cs = x->q.cluster_size, refs = qcow2_references(&x->c, k), old, stored;

	if (refs) {
		old = times_old(b, k);
		return PLT_MIN(refs > old ? refs - old : 0, x->q.refcount_max);
	}
	if (may_lower_at(x, k) || k << x->q.cluster_bits >= x->c.file_size)
		return 0;
	/* in doubt it is not free */
	if (qcow2_stored_count(&x->c, k, &stored) == 0 && stored)
		return stored;
	return x->orphans != QCOW2_ORPHANS_LEFT && plt_extents_overlaps(&x->unreached, k * cs, cs);
}

/* Which blocks are needed, and where they and the table go. */
static int lay_out(struct rebuild *b)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint64_t per = UINT64_C(1) << q->rb_bits, want = 0, n, last;

	b->first = plt_div_up(x->c.file_size, q->cluster_size);
	/* one block more than all that is added can need */
	b->nplaces = (b->first >> q->rb_bits) + 3 +
		     (b->first / per + (QCOW2_MAX_REFTABLE_BYTES >> q->cluster_bits)) / per;
	b->place = plt_alloc_capped(b->nplaces, 8, QCOW2_MAX_REFTABLE_BYTES * 2);
	if (!b->place)
		return -ENOMEM;
	memset(b->place, 0, b->nplaces * 8);
	for (uint64_t k = 0; k < b->first; k++) {
		if (b->place[k >> q->rb_bits])
			k = ((k >> q->rb_bits) + 1) * per - 1;
		else if (new_count(b, k))
			b->place[k >> q->rb_bits] = 1;
	}
	for (uint64_t i = 0; i < b->nplaces; i++)
		want += b->place[i];
	do { /* what is added has to be counted, too */
		n = b->clusters;
		last = (b->first + (n ? n - 1 : 0)) >> q->rb_bits;
		for (uint64_t i = b->first >> q->rb_bits; i <= last; i++) {
			if (i >= b->nplaces)
				return -EFBIG;
			want += !b->place[i];
			b->place[i] = 1;
		}
		b->table_clusters = plt_div_up((last + 1) * 8, q->cluster_size);
		b->clusters = want + b->table_clusters;
	} while (b->clusters != n);
	if (b->table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	b->nblocks = last + 1;
	n = b->first;
	for (uint64_t i = 0; i < b->nblocks; i++)
		if (b->place[i])
			b->place[i] = n++ << q->cluster_bits;
	return 0;
}

static int write_blocks(struct rebuild *b)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint64_t per = UINT64_C(1) << q->rb_bits;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < b->nblocks && r == 0; i++) {
		if (!b->place[i])
			continue;
		memset(buf, 0, q->cluster_size);
		for (uint64_t k = i * per; k < (i + 1) * per && k < b->first + b->clusters; k++) {
			uint64_t count = k >= b->first ? 1 : new_count(b, k);

			if (count)
				qcow2_count_put(q, buf, k - i * per, count);
		}
		r = plt_store_write(x->c.file, b->place[i], buf, q->cluster_size, PLT_IO_REFBLOCK, NULL);
	}
	return r;
}

static int write_table(struct rebuild *b)
{
	struct qcow2_exam *x = b->x;
	const struct qcow2_state *q = &x->q;
	uint64_t len = b->table_clusters << q->cluster_bits,
		 off = (b->first + b->clusters - b->table_clusters) << q->cluster_bits;
	PLT_AUTOFREE uint8_t *table = plt_alloc_capped(len, 1, QCOW2_MAX_REFTABLE_BYTES);
	uint8_t fields[12];
	int r;

	if (!table)
		return -ENOMEM;
	memset(table, 0, len);
	for (uint64_t i = 0; i < b->nblocks; i++)
		plt_put_be64(table + i * 8, b->place[i]);
	r = plt_store_write(x->c.file, off, table, len, PLT_IO_REFTABLE, NULL);
	plt_put_be64(fields, off);
	plt_put_be32(fields + 8, (uint32_t)b->table_clusters);
	_Static_assert(offsetof(struct qcow2_header, refcount_table_clusters) ==
		       offsetof(struct qcow2_header, refcount_table_offset) + 8, "");
	if (r == 0)
		r = plt_store_write(x->c.file, offsetof(struct qcow2_header, refcount_table_offset), fields,
				    sizeof(fields), PLT_IO_HEADER, NULL);
	return r;
}

int qcow2_mend_rebuild(struct qcow2_exam *x)
{
	struct rebuild b = {.x = x};
	int r = list_old(&b);

	plt_emit(x->ex, &(struct plt_finding){.id = "Q-REF", .severity = PLT_NOTE, .mended = true},
		 "Rebuilding refcount structure");
	if (r == 0)
		r = lay_out(&b);
	if (r == 0)
		r = write_blocks(&b);
	if (r == 0)
		r = write_table(&b);
	x->ex->mend->changed = true;
	x->counts_left = true; /* those that were read are not those that are there now */
	free(b.old);
	free(b.place);
	return r;
}

/* ---- flags ----------------------------------------------------------------------------------- */

int qcow2_mend_flags(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t features = q->incompatible & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	plt_be64 v = plt_be64_make(features);

	/* (that something is lost, and has been named, is no reason: the next repair would not know of it) */
	if (q->version < 3 || features == q->incompatible || x->ex->mend->changed || x->ex->corruptions > x->lost_by_name ||
	    !wants(x, PLT_MEND_MARKS))
		return 0;
	x->ex->mend->changed = true;
	plt_emit(x->ex, &(struct plt_finding){.id = "Q-HDR-DIRTY", .severity = PLT_NOTE, .beyond_qemu = true, .mended = true},
		 "The image is marked as sound again");
	return plt_store_write(x->c.file, offsetof(struct qcow2_header, incompatible_features), &v, sizeof(v),
			       PLT_IO_HEADER, NULL);
}
