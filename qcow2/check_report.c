/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What is wrong in the map, in words.  Walks the L1 tables in the order in which qemu-img does and
 * uses its words and its count of errors, so that scripts that read them keep working; L2 tables
 * are read again only if the scan has flagged them.  Behind those come findings that qemu-img
 * lacks, marked as such, and only where its own counts have not told already.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "qcow2/check.h"

/* What lies behind the end of the file: garbage of no alignment, or too far on, says nothing of where it ended. */
static void note_behind(struct qcow2_exam *x, uint64_t off, bool aligned)
{
	if (aligned && off < qcow2_far_end(x))
		x->cut |= ++x->behind >= QCOW2_SOME_ORPHANS;
}

void qcow2_exam_count(struct qcow2_exam *x, uint64_t off, uint64_t len, uint32_t times)
{
	if (!len || !times)
		return;
	if (len > (uint64_t)INT64_MAX || off > (uint64_t)INT64_MAX - len ||
	    qcow2_exceeds(&x->c, off, len)) {
		x->cut |= off < qcow2_far_end(x);
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-ENT-OUTSIDE", off, len,
			  "ERROR: counting reference for region "
			  "exceeding the end of the file by one cluster or more: offset 0x%" PRIx64
			  " size 0x%" PRIx64,
			  off, len);
	} else {
		qcow2_count(&x->c, off, len, times);
	}
}

/* ---- entries --------------------------------------------------------------------------------- */

/* Whether the counts, as stored, already betray that more than one thing refers to the cluster. */
static bool counts_tell(struct qcow2_exam *x, uint64_t cluster)
{
	uint64_t stored;

	return qcow2_stored_count(&x->c, cluster, &stored) < 0 ||
	       stored != qcow2_references(&x->c, cluster);
}

static void report_compressed(struct qcow2_exam *x, unsigned i, uint64_t e, uint64_t bitmap,
			      uint64_t guest)
{
	const struct qcow2_state *q = &x->q;
	uint64_t off, len = qcow2_compressed_range(q, e & ~QCOW2_COPIED, &off);

	if (e & QCOW2_COPIED) {
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-CMP-COPIED", off, len,
			  "ERROR: coffset=0x%" PRIx64 ": copied flag "
			  "must never be set for compressed clusters",
			  off);
		e &= ~QCOW2_COPIED;
	}
	if (x->c.external) {
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-CMP-EXTERNAL", off, len,
			  "ERROR compressed cluster %u with data file, "
			  "entry=0x%" PRIx64,
			  i, e);
		return;
	}
	if (bitmap) {
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-CMP-SUBCLUSTER", off, len,
			  "ERROR compressed cluster %u with non-zero "
			  "subcluster allocation bitmap, entry=0x%" PRIx64,
			  i, e);
		return;
	}
	if (qcow2_exceeds(&x->c, off, len)) {
		note_behind(x, off, true);
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-CMP-OUTSIDE", off, len,
			  "ERROR: counting reference for region "
			  "exceeding the end of the file by one cluster or more: offset 0x%" PRIx64
			  " size 0x%" PRIx64,
			  off, len);
		return;
	}
	for (uint64_t k = off >> q->cluster_bits; k <= (off + len - 1) >> q->cluster_bits; k++)
		if (qcow2_is_metadata(&x->c, k) && !counts_tell(x, k))
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-DATA", k << q->cluster_bits,
					 q->cluster_size, guest, q->cluster_size,
					 "ERROR compressed cluster at offset %#" PRIx64
					 " lies in metadata (cluster %" PRIu64 ")",
					 off, k);
}

static void report_allocated(struct qcow2_exam *x, uint64_t e, uint64_t bitmap, uint64_t guest,
			     bool active)
{
	const struct qcow2_state *q = &x->q;
	uint64_t off = e & QCOW2_L2_OFFSET, k = off >> q->cluster_bits;
	bool data = q->extl2 ? (uint32_t)bitmap != 0 : !(e & QCOW2_L2_ZERO);

	if (bitmap >> 32 & bitmap)
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-ENT-SUBCLUSTER", off, q->cluster_size,
			  "ERROR offset=%" PRIx64
			  ": Allocated cluster has corrupted subcluster allocation bitmap",
			  off);
	if (off & (q->cluster_size - 1))
		QCOW2_SAY(
			x, PLT_CORRUPTION, data ? "Q-ENT-ALIGN" : "Q-ENT-ALIGN-ZERO", off,
			q->cluster_size,
			data ? "ERROR offset=%" PRIx64
			       ": Data cluster is not properly aligned; L2 entry corrupted."
			     : "ERROR offset=%" PRIx64
			       ": Preallocated cluster is not properly aligned; L2 entry corrupted.",
			off);
	if (x->c.external)
		return;
	if (qcow2_exceeds(&x->c, off, q->cluster_size)) {
		note_behind(x, off, !(off & (q->cluster_size - 1)));
		QCOW2_SAY(
			x, PLT_CORRUPTION, "Q-ENT-OUTSIDE", off, q->cluster_size,
			"ERROR: counting reference for "
			"region exceeding the end of the file by one cluster or more: offset 0x%" PRIx64
			" size 0x%" PRIx64,
			off, (uint64_t)q->cluster_size);
		return;
	}
	if (qcow2_is_metadata(&x->c, k)) {
		if (!counts_tell(x, k))
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-DATA", off, q->cluster_size,
					 guest, q->cluster_size,
					 "ERROR guest offset %#" PRIx64
					 ": data cluster at offset %#" PRIx64
					 " is in use as metadata",
					 guest, off);
	} else if (active && !q->nb_snapshots && qcow2_references(&x->c, k) > 1 &&
		   !counts_tell(x, k)) {
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-SHARED", off, q->cluster_size, guest,
				 q->cluster_size,
				 "ERROR guest offset %#" PRIx64 ": data cluster at offset %#" PRIx64
				 " is shared by %" PRIu64
				 " guest clusters, though there are no snapshots",
				 guest, off, qcow2_references(&x->c, k));
	}
}

/* The entries of one table, in order. */
static void report_table(struct qcow2_exam *x, const uint8_t *table, uint64_t guest, bool active)
{
	const struct qcow2_state *q = &x->q;
	const uint64_t first = guest;
	const uint8_t *end = table + q->cluster_size;

	for (const uint8_t *p = qcow2_behind_absent(table, end); p < end; p = qcow2_behind_absent(p + q->l2_entry_size, end)) {
		uint64_t e = plt_get_be64(p), bitmap = q->extl2 ? plt_get_be64(p + 8) : 0;
		enum qcow2_entry_type type = qcow2_entry_type(&x->c, e);
		unsigned i = (unsigned)(p - table) / q->l2_entry_size;

		guest = first + (uint64_t)i * q->cluster_size;

		if (!(e | bitmap))
			continue;
		if (type != QCOW2_ENTRY_COMPRESSED && (e & QCOW2_L2_RESERVED))
			QCOW2_SAY(x, PLT_CORRUPTION, "Q-ENT-RESERVED", e & QCOW2_L2_OFFSET,
				  q->cluster_size,
				  "ERROR found l2 entry with reserved bits set: %" PRIx64, e);
		if (type != QCOW2_ENTRY_COMPRESSED && (e & QCOW2_L2_ZERO) &&
		    (q->version < 3 || q->extl2))
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-ENT-ZERO", e & QCOW2_L2_OFFSET,
					 q->cluster_size, guest, q->cluster_size,
					 "ERROR guest offset %#" PRIx64 ": L2 entry %" PRIx64
					 " has the zero flag, which %s",
					 guest, e,
					 q->extl2 ? "images with extended L2 entries do not have"
						  : "version 2 does not have");
		if (type == QCOW2_ENTRY_COMPRESSED)
			report_compressed(x, i, e, bitmap, guest);
		else if (type == QCOW2_ENTRY_UNALLOCATED && (uint32_t)bitmap)
			QCOW2_SAY(x, PLT_CORRUPTION, "Q-ENT-SUBCLUSTER", 0, 0,
				  "ERROR: Unallocated cluster has non-zero "
				  "subcluster allocation map");
		else if (type == QCOW2_ENTRY_NORMAL || type == QCOW2_ENTRY_ZERO_ALLOC)
			report_allocated(x, e, bitmap, guest, active);
	}
}

/* ---- L1 -------------------------------------------------------------------------------------- */

/*
 * Millions of L1 entries may name one L2 table: reading it for each would never end.  @l may be NULL.
 */
#define MAX_LOOKS 16

static bool look_again(const struct qcow2_exam *x, struct qcow2_l2ref *l)
{
	if (!l)
		return false;
	if (l->empty)
		return false;
	if (l->walk != x->walks) {
		l->walk = x->walks;
		l->seen = 0;
	}
	return l->seen++ < MAX_LOOKS;
}

struct walk {
	struct qcow2_exam *x;
	bool active;
	uint32_t times; /* it is named so often */
	uint8_t *table;
};

static int report_l1_entry(void *arg, uint32_t index, uint64_t e)
{
	struct walk *w = arg;
	struct qcow2_exam *x = w->x;
	const struct qcow2_state *q = &x->q;
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct qcow2_l2ref *l;

	if (e & QCOW2_L1_RESERVED)
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-L1-RESERVED", off, q->cluster_size,
			  "ERROR found L1 entry with reserved "
			  "bits set: %" PRIx64,
			  e);
	qcow2_exam_count(x, off, q->cluster_size, w->times);
	if (off & (q->cluster_size - 1))
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-L1-ALIGN", off, q->cluster_size,
			  "ERROR l2_offset=%" PRIx64 ": Table is "
			  "not cluster aligned; L1 entry corrupted",
			  off);
	l = qcow2_l2_find(&x->c, off);
	if (!l || !qcow2_l2_is_odd(&x->c, l) || !look_again(x, l))
		return 0;
	if (qcow2_l2_read(&x->c, off, w->table) < 0) {
		x->map_unread = true;
		QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-READ", off, q->cluster_size,
			  "ERROR: I/O error in check_refcounts_l2");
	} else {
		report_table(x, w->table, (uint64_t)index << (q->cluster_bits + q->l2_bits),
			     w->active);
	}
	return 0;
}

int qcow2_exam_l1(struct qcow2_exam *x, uint64_t l1_off, uint32_t l1_size, bool active, uint32_t times)
{
	struct walk w = {.x = x, .active = active, .times = times};
	int r;

	if (!l1_size || !times)
		return 0;
	qcow2_exam_count(x, l1_off, (uint64_t)l1_size * 8, times);
	w.table = plt_alloc_io(x->q.cluster_size);
	if (!w.table)
		return -ENOMEM;
	x->walks++;
	r = qcow2_l1_each(&x->c, l1_off, l1_size, report_l1_entry, &w);
	free(w.table);
	if (r < 0 && r != -ENOMEM) {
		x->map_unread = true;
		QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-READ", l1_off, (uint64_t)l1_size * 8,
			  "ERROR: I/O error in check_refcounts_l1");
		r = 0;
	}
	return r;
}

/* ---- COPIED ---------------------------------------------------------------------------------- */

/* May COPIED of an entry be put right?  Not where it would follow a count that is wrong about there being others. */
static bool mends_copied(const struct qcow2_exam *x, uint64_t off, uint64_t stored)
{
	const struct plt_mend *m = x->ex->mend;
	uint64_t n;

	if (!m || !(m->what & PLT_MEND_MARKS) || (!(m->what & PLT_MEND_RAISE) && x->ex->corruptions))
		return false;
	if (x->c.external)
		return true;
	n = PLT_MIN(qcow2_references(&x->c, off >> x->q.cluster_bits), x->q.refcount_max);
	return stored == n || (stored > 1 && n > 1);
}

static void say_copied(struct qcow2_exam *x, bool mended, const char *id, uint64_t off, const char *what)
{
	plt_emit(x->ex, &(struct plt_finding){.id = id, .severity = PLT_CORRUPTION, .count = 1, .mended = mended,
					      .host_off = off, .host_len = x->q.cluster_size},
		 "%s OFLAG_COPIED %s", mended ? "Repairing" : "ERROR", what);
}

static int copied_table(struct qcow2_exam *x, uint64_t table_off, uint8_t *table)
{
	const struct qcow2_state *q = &x->q;
	const bool alone = !(table_off & (q->cluster_size - 1)) && !qcow2_exam_overlaps(x, table_off, q->cluster_size);
	uint64_t from = UINT64_MAX, to = 0;
	char what[120];

	const uint8_t *end = table + q->cluster_size;

	for (const uint8_t *p = qcow2_behind_absent(table, end); p < end; p = qcow2_behind_absent(p + q->l2_entry_size, end)) {
		uint64_t e = plt_get_be64(p), off = e & QCOW2_L2_OFFSET, stored = 1;
		enum qcow2_entry_type type = qcow2_entry_type(&x->c, e);
		bool mend;

		if (type != QCOW2_ENTRY_NORMAL && type != QCOW2_ENTRY_ZERO_ALLOC)
			continue;
		if (!x->c.external &&
		    qcow2_stored_count(&x->c, off >> q->cluster_bits, &stored) < 0)
			continue;
		if ((stored == 1) == !!(e & QCOW2_COPIED))
			continue;
		mend = alone && mends_copied(x, off, stored);
		snprintf(what, sizeof(what), "data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, e, stored);
		say_copied(x, mend, "Q-COPIED", off, what);
		if (!mend)
			continue;
		plt_put_be64(table + (p - table), e ^ QCOW2_COPIED);
		from = PLT_MIN(from, plt_align_down((uint64_t)(p - table), 512));
		to = PLT_MAX(to, plt_align_up((uint64_t)(p - table) + 8, 512));
	}
	if (from >= to)
		return 0;
	x->ex->mend->changed = true;
	return plt_store_write(x->c.file, table_off + from, table + from, to - from, PLT_IO_L2, NULL);
}

static int copied_entry(void *arg, uint32_t index, uint64_t e)
{
	struct walk *w = arg;
	struct qcow2_exam *x = w->x;
	uint64_t off = e & QCOW2_L1_OFFSET, stored;
	struct qcow2_l2ref *l;
	char what[120];
	int r = 0;

	if (!off || qcow2_stored_count(&x->c, off >> x->q.cluster_bits, &stored) < 0)
		return 0;
	if ((stored == 1) != !!(e & QCOW2_COPIED)) {
		bool mend = !qcow2_exam_overlaps(x, x->q.l1_offset, (uint64_t)x->q.l1_size * 8) &&
			    mends_copied(x, off, stored);

		snprintf(what, sizeof(what), "L2 cluster: l1_index=%" PRIu32 " l1_entry=%" PRIx64 " refcount=%" PRIu64,
			 index, e, stored);
		say_copied(x, mend, "Q-COPIED-L1", off, what);
		if (mend) {
			plt_be64 other = plt_be64_make(e ^ QCOW2_COPIED);

			x->ex->mend->changed = true;
			r = plt_store_write(x->c.file, x->q.l1_offset + (uint64_t)index * 8, &other, 8, PLT_IO_L1, NULL);
		}
	}
	l = qcow2_l2_find(&x->c, off);
	/* (where each count is one now, so says each mark that there is) */
	if (r == 0 && l && l->flagged && (x->counts_left || l->unmarked || qcow2_l2_is_odd(&x->c, l)) && look_again(x, l) &&
	    qcow2_l2_read(&x->c, off, w->table) == 0)
		r = copied_table(x, off, w->table);
	return r;
}

int qcow2_exam_copied(struct qcow2_exam *x)
{
	struct walk w = {.x = x, .active = true, .table = plt_alloc_io(x->q.cluster_size)};
	int r;

	if (!w.table)
		return -ENOMEM;
	x->walks++;
	r = qcow2_l1_each(&x->c, x->q.l1_offset, x->q.l1_size, copied_entry, &w);
	free(w.table);
	return r == -ENOMEM ? r : 0;
}

/* ---- behind the end -------------------------------------------------------------------------- */

struct beyond {
	struct qcow2_exam *x;
	uint8_t *table;
	uint64_t size, found, last;
	uint64_t vm_start;      /* where a VM's state would begin: behind the last L1 entry of the disk */
	uint64_t vm_found;      /* of found, at or behind vm_start */
	uint64_t all_end;       /* behind the last cluster that is mapped there at all; 0: none */
	uint32_t l1_size;       /* entries behind that are known to be a VM's state */
	bool vm_first;          /* the first of them lies at vm_start itself */
	uint32_t full; /* L1 entries that lie inside the disk whole */
};

static int beyond_entry(void *arg, uint32_t index, uint64_t e)
{
	struct beyond *b = arg;
	const struct qcow2_state *q = &b->x->q;
	uint64_t off = e & QCOW2_L1_OFFSET,
		 guest = (uint64_t)index << (q->cluster_bits + q->l2_bits);

	if (index < b->full || !off || (off & (q->cluster_size - 1)) ||
	    !look_again(b->x, qcow2_l2_find(&b->x->c, off)) || qcow2_l2_read(&b->x->c, off, b->table) < 0)
		return 0;
	for (const uint8_t *p = b->table; p < b->table + q->cluster_size; p += q->l2_entry_size) {
		enum qcow2_entry_type type = qcow2_entry_type(&b->x->c, plt_get_be64(p));

		if (guest >= b->size && type >= QCOW2_ENTRY_NORMAL) {
			b->all_end = guest + q->cluster_size;
			if (index >= b->l1_size) {
				guest += q->cluster_size;
				continue;
			}
			b->found++;
			b->last = guest;
			b->vm_found += guest >= b->vm_start;
			b->vm_first |= guest == b->vm_start;
		}
		guest += q->cluster_size;
	}
	return 0;
}

/*
 * Is the L1 table as long as one for @entries becomes when it grows for a VM's state? QEMU takes half as
 * much again each time; for another size of the disk it takes just what that needs.
 */
static bool grown_for_state(uint64_t entries, uint64_t l1_size)
{
	entries = PLT_MAX(entries, UINT64_C(1));
	while (entries < l1_size)
		entries = plt_div_up(entries * 3, 2);
	return entries == l1_size;
}

int qcow2_exam_beyond_end(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct beyond b = {.x = x, .size = q->virtual_size};
	const bool tells = x->ex->mend && x->ex->mend->what & PLT_MEND_MAP;
	bool said = false, like_state;
	int r;

	b.l1_size = q->l1_size;
	b.full = (uint32_t)(b.size >> (q->cluster_bits + q->l2_bits));
	b.vm_start = qcow2_l1_entries(q, b.size) << (q->cluster_bits + q->l2_bits);
	/*
	 * VM state of a snapshot that was applied may lie behind the disk, from the next L1 entry
	 * on.
	 */
	for (uint32_t i = 0; i < q->nb_snapshots; i++)
		if (q->snapshots[i].info.vm_state_size)
			b.l1_size = PLT_MIN(b.l1_size, (uint32_t)qcow2_l1_entries(q, b.size));
	b.table = plt_alloc_io(q->cluster_size);
	if (!b.table)
		return -ENOMEM;
	if (tells)
		x->ex->mend->behind = (struct plt_behind){0};
	x->walks++;
	r = qcow2_l1_each(&x->c, q->l1_offset, tells ? q->l1_size : b.l1_size, beyond_entry, &b);
	free(b.table);
	/*
	 * A VM's state that is being saved, or whose saving was cut off, fills the place behind the disk, as a
	 * rule from its very beginning, and there is nothing else behind the disk.
	 */
	like_state = b.found && b.found == b.vm_found && b.size && (b.vm_first || grown_for_state(qcow2_l1_entries(q, b.size), q->l1_size));
	if (b.found && r == 0)
		r = qcow2_mend_size(x, b.last + q->cluster_size, &said);
	if (tells && (b.all_end || x->backing || x->c.external || x->ex->mend->size_guessed))
		x->ex->mend->behind = (struct plt_behind){
			.size = b.size, .end = b.all_end, .state = b.vm_start, .like_state = like_state || !b.found, .named = b.l1_size < q->l1_size,
			.guessed = x->ex->mend->size_guessed,
			.reach = PLT_MIN((uint64_t)q->l1_size << (q->cluster_bits + q->l2_bits), (uint64_t)INT64_MAX >> 9 << 9),
		};
	if (!said && like_state)
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-VMSTATE", 0, 0, b.vm_start, b.last + q->cluster_size - b.vm_start,
				 "%" PRIu64 " clusters hold the state of a VM that no snapshot names", b.found);
	else if (b.found && r == 0 && !said)
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-HDR-SIZE", 24, 8, b.size,
				 b.last + q->cluster_size - b.size,
				 "ERROR %" PRIu64
				 " clusters are mapped behind the end of the disk (%" PRIu64
				 " bytes), "
				 "the last at guest offset %#" PRIx64
				 "; the size in the header may be wrong",
				 b.found, b.size, b.last);
	return r == -ENOMEM ? r : 0;
}

/* ---- the last cluster ------------------------------------------------------------------------ */

struct cut {
	struct qcow2_exam *x;
	uint8_t *table;
	uint64_t off, rest, lost; /* lost: first guest byte that is not there */
	bool found;
};

/* Where in the cluster is the first byte that the entry claims and the file has not? */
static uint64_t first_lost(const struct qcow2_state *q, const uint8_t *p, uint64_t rest)
{
	uint32_t alloc;

	if (!q->extl2)
		return rest;
	alloc = (uint32_t)plt_get_be64(p + 8);
	for (unsigned sub = (unsigned)(rest >> q->sub_bits); sub < QCOW2_SUBCLUSTERS; sub++)
		if (alloc >> sub & 1)
			return PLT_MAX(rest, (uint64_t)sub << q->sub_bits);
	return q->cluster_size;
}

static int cut_entry(void *arg, uint32_t index, uint64_t e)
{
	struct cut *c = arg;
	const struct qcow2_state *q = &c->x->q;
	uint64_t off = e & QCOW2_L1_OFFSET, guest = (uint64_t)index << (q->cluster_bits + q->l2_bits);

	if (c->found || !off || (off & (q->cluster_size - 1)) ||
	    !look_again(c->x, qcow2_l2_find(&c->x->c, off)) || qcow2_l2_read(&c->x->c, off, c->table) < 0)
		return 0;
	for (const uint8_t *p = c->table; p < c->table + q->cluster_size; p += q->l2_entry_size) {
		uint64_t entry = plt_get_be64(p);

		if (qcow2_entry_type(&c->x->c, entry) == QCOW2_ENTRY_NORMAL && (entry & QCOW2_L2_OFFSET) == c->off) {
			uint64_t in = first_lost(q, p, c->rest);

			c->found = in < q->cluster_size;
			c->lost = guest + in;
			break;
		}
		guest += q->cluster_size;
	}
	return 0;
}

static int find_cut(struct qcow2_exam *x, uint64_t off, uint64_t rest, struct cut *ret)
{
	const struct qcow2_state *q = &x->q;
	int r;

	*ret = (struct cut){.x = x, .off = off, .rest = rest, .table = plt_alloc_io(q->cluster_size)};
	if (!ret->table)
		return -ENOMEM;
	x->walks++;
	r = qcow2_l1_each(&x->c, q->l1_offset, q->l1_size, cut_entry, ret);
	free(ret->table);
	ret->found &= ret->lost < q->virtual_size;
	return r;
}

/* The first guest byte that is not there, and how many with it. */
static uint64_t lost_by_cut(const struct qcow2_state *q, const struct cut *c)
{
	return PLT_MIN((c->lost | (q->cluster_size - 1)) + 1, q->virtual_size) - c->lost;
}

/*
 * The file ends inside the data cluster at @off, @rest bytes into it.  Compressed clusters end where
 * they end; of a plain one the guest has lost the rest, unless that lies behind the disk's end.
 */
int qcow2_exam_cut(struct qcow2_exam *x, uint64_t off, uint64_t rest)
{
	struct cut c;
	int r = find_cut(x, off, rest, &c);

	if (r == 0 && c.found)
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-TRUNC-LAST", off, x->q.cluster_size, c.lost, lost_by_cut(&x->q, &c),
				 "ERROR the last cluster is cut short by the end of the file (%" PRIu64 " of %" PRIu32
				 " bytes are there)", rest, x->q.cluster_size);
	return r;
}

int qcow2_name_cut(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t rest = x->c.file_size & (q->cluster_size - 1);
	struct cut c;
	int r;

	if (!(x->ex->mend->what & PLT_MEND_MAP) || x->c.file_size != x->ex->mend->file_size || !rest || x->c.external ||
	    !qcow2_references(&x->c, x->c.file_size >> q->cluster_bits))
		return 0;
	r = find_cut(x, x->c.file_size - rest, rest, &c);
	if (r == 0 && c.found)
		r = qcow2_doubt(x, &(struct qcow2_tree){.disk = PLT_DISK_ACTIVE, .size = q->virtual_size}, PLT_LOST, c.lost,
				lost_by_cut(q, &c), PLT_GUESS, qcow2_why_beyond);
	return r == -ENOMEM ? r : 0;
}
