/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What single entries of an L2 table say, and whether they can.  Nothing is changed here.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/mend/entries.h"

uint64_t qcow2_slot_get(const struct qcow2_state *q, const uint8_t *table, uint32_t i, uint64_t *ret_bitmap)
{
	const uint8_t *p = table + (size_t)i * q->l2_entry_size;

	*ret_bitmap = q->extl2 ? plt_get_be64(p + 8) : 0;
	return plt_get_be64(p);
}

void qcow2_slot_put(const struct qcow2_state *q, uint8_t *table, uint32_t i, uint64_t e, uint64_t bitmap)
{
	uint8_t *p = table + (size_t)i * q->l2_entry_size;

	plt_put_be64(p, e);
	if (q->extl2)
		plt_put_be64(p + 8, bitmap);
}

/*
 * Is the refcount block at @off one by its content?  It says of most clusters what is true.  Where data lies in the
 * same place, the refcount structure is written anew; the data cannot be.
 */
static bool is_refblock(const struct qcow2_exam *x, uint64_t off, bool *ret_content)
{
	const struct qcow2_state *q = &x->q;
	uint64_t i = 0, first, n, same = 0;
	uint8_t buf[512];

	while (i < x->c.nrt && (x->c.rt[i] & QCOW2_REFTABLE_OFFSET) != off)
		i++;
	if (i == x->c.nrt)
		return false;
	*ret_content = true;
	first = i << q->rb_bits;
	n = PLT_MIN(UINT64_C(4096) >> q->refcount_order, first < x->c.nb ? x->c.nb - first : 0);
	if (!n || plt_store_read(x->c.file, off, buf, sizeof(buf), PLT_IO_REFBLOCK, NULL) < 0)
		return true;
	for (uint64_t k = 0; k < n; k++) {
		uint64_t refs = PLT_MIN(qcow2_references(&x->c, first + k), q->refcount_max), stored = qcow2_count_at(q, buf, k);

		/* (where a part of the map is lost there are more counts than references) */
		same += stored == refs || (q->refcount_order >= 3 && stored > refs && stored <= (uint64_t)q->nb_snapshots + 1);
	}
	*ret_content = same * 2 >= n;
	return true;
}

/* Metadata by its content, too?  An entry of an L1 table may name a cluster of the guest's: it is the one that is wrong. */
static bool is_metadata(struct qcow2_exam *x, uint64_t off)
{
	struct qcow2_l2ref *l = qcow2_l2_find(&x->c, off);
	bool content;

	if (is_refblock(x, off, &content))
		return content;
	return !l || !qcow2_l2_is_other(x, l);
}

/* Does what the entry names lie in metadata? */
static bool in_metadata(struct qcow2_exam *x, uint64_t e, uint64_t off)
{
	uint64_t len = x->q.cluster_size;

	if (x->c.external || !off)
		return false;
	if (e & QCOW2_COMPRESSED)
		len = qcow2_compressed_range(&x->q, e, &off);
	for (uint64_t k = off >> x->q.cluster_bits; k <= (off + len - 1) >> x->q.cluster_bits; k++)
		if (qcow2_is_metadata(&x->c, k) && is_metadata(x, k << x->q.cluster_bits))
			return true;
	return false;
}

enum qcow2_verdict qcow2_entry_judge(const struct qcow2_tables *t, uint64_t e, uint64_t bitmap)
{
	const struct qcow2_state *q = &t->x->q;
	const bool zero = q->version >= 3 && !q->extl2 && (e & QCOW2_L2_ZERO) && !(e & QCOW2_COMPRESSED);
	uint64_t off;

	if (!(e | bitmap))
		return QCOW2_ENTRY_EMPTY;
	if (qcow2_entry_fits(t->x, e, bitmap, &off))
		return !in_metadata(t->x, e, off) ? QCOW2_ENTRY_FINE : zero ? QCOW2_ENTRY_ZEROS : QCOW2_ENTRY_BAD;
	if (e & QCOW2_COMPRESSED) {
		uint64_t len = qcow2_compressed_range(q, e & ~QCOW2_COPIED, &off);

		return !(e & QCOW2_COPIED) && !bitmap && !t->x->c.external && off >= q->cluster_size && off + len <= t->far ?
		       QCOW2_ENTRY_BEYOND : QCOW2_ENTRY_BAD;
	}
	off = e & QCOW2_L2_OFFSET;
	if ((e & QCOW2_L2_RESERVED) || (q->extl2 && (bitmap >> 32 & bitmap)) || off >= t->far)
		return QCOW2_ENTRY_BAD;
	if (zero)
		return QCOW2_ENTRY_ZEROS;
	return off >= t->x->c.file_size && !(off & (q->cluster_size - 1)) ? QCOW2_ENTRY_BEYOND : QCOW2_ENTRY_BAD;
}

bool qcow2_entry_is_elsewhere(const struct qcow2_tables *t, uint32_t i, uint64_t e)
{
	return t->x->c.external && !(e & (QCOW2_COMPRESSED | QCOW2_L2_ZERO)) && (e & ~QCOW2_COPIED) &&
	       (e & QCOW2_L2_OFFSET) != t->guest + ((uint64_t)i << t->x->q.cluster_bits);
}

bool qcow2_sector_is_overwritten(const struct qcow2_tables *t, const uint8_t *table, uint32_t first)
{
	const struct qcow2_state *q = &t->x->q;
	uint32_t n = 512 / q->l2_entry_size, bad = 0, used = 0;
	uint64_t before = 0;

	if (plt_is_zero(table + (size_t)first * q->l2_entry_size, 512))
		return false;
	for (uint32_t i = first; i < first + n; i++) {
		uint64_t bitmap, e = qcow2_slot_get(q, table, i, &bitmap), place = e & QCOW2_L2_OFFSET;
		enum qcow2_verdict v = qcow2_entry_judge(t, e, bitmap);

		used += v != QCOW2_ENTRY_EMPTY;
		/* (no two clusters of a disk lie in one place; a flag alone is no place) */
		bad += v == QCOW2_ENTRY_BAD || (v == QCOW2_ENTRY_ZEROS && place >= t->far) || qcow2_entry_is_elsewhere(t, i, e) ||
		       (place && place == before && !(e & QCOW2_COMPRESSED));
		before = place;
	}
	return bad >= 2 && bad * 4 >= used;
}

static bool is_stray(const struct qcow2_exam *x, uint64_t off)
{
	return x->nstrays && bsearch(&off, x->strays, x->nstrays, sizeof(off), qcow2_by_value);
}

/*
 * The same of a compressed cluster: all that it lies in is counted once more than it is named.  If only its length leads
 * behind the end of the file, it goes up to that: a stream ends itself.
 */
static uint64_t unturn_packed(const struct qcow2_tables *t, uint64_t e, uint64_t bitmap)
{
	struct qcow2_exam *x = t->x;
	uint64_t found = 0, off;

	(void)qcow2_compressed_range(&x->q, e, &off);
	if (off < x->c.file_size) {
		uint64_t len = PLT_MIN(x->c.file_size - off, (uint64_t)x->q.cluster_size);

		return qcow2_packed_is_open(x, off, len) ? qcow2_packed_entry(&x->q, off, (uint32_t)len) : 0;
	}
	for (unsigned bit = 0; bit < 62; bit++) {
		uint64_t f = e ^ UINT64_C(1) << bit, len = qcow2_compressed_range(&x->q, f, &off);

		if (!qcow2_entry_fits(x, f, bitmap, &off) || in_metadata(x, f, off) || !qcow2_packed_is_open(x, off, len))
			continue;
		if (found)
			return 0;
		found = f;
	}
	return found;
}

uint64_t qcow2_entry_unturn(const struct qcow2_tables *t, uint64_t e, uint64_t bitmap)
{
	struct qcow2_exam *x = t->x;
	uint64_t found = 0, off;

	if (x->c.external)
		return 0;
	if (e & QCOW2_COMPRESSED && !(e & QCOW2_COPIED))
		return unturn_packed(t, e, bitmap);
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t f = e ^ UINT64_C(1) << bit, mask = UINT64_C(1) << bit;

		if ((f & QCOW2_COMPRESSED) || !qcow2_entry_fits(x, f, bitmap, &off) || !off || in_metadata(x, f, off))
			continue;
		if (!is_stray(x, off) && !((mask & (QCOW2_L2_RESERVED | QCOW2_COMPRESSED)) &&
					   qcow2_references(&x->c, off >> x->q.cluster_bits) == 1))
			continue;
		if (found)
			return 0;
		found = f;
	}
	return found;
}

bool qcow2_entry_is_claimed_twice(const struct qcow2_tables *t, uint64_t e)
{
	struct qcow2_exam *x = t->x;
	uint64_t k = (e & QCOW2_L2_OFFSET) >> x->q.cluster_bits, stored;

	if (!(e & QCOW2_L2_OFFSET) || (e & QCOW2_COMPRESSED) || x->c.external || qcow2_references(&x->c, k) < 2)
		return false;
	if (x->refs_bad || x->counts_gone)
		return !x->q.nb_snapshots;
	return qcow2_stored_count(&x->c, k, &stored) == 0 && stored < qcow2_references(&x->c, k);
}

unsigned qcow2_entry_support(const struct qcow2_tables *t, uint32_t i, uint64_t e)
{
	const struct qcow2_state *q = &t->x->q;
	uint64_t off = e & QCOW2_L2_OFFSET, bitmap;
	unsigned n = 0;

	if (i)
		n += (qcow2_slot_get(q, t->table, i - 1, &bitmap) & QCOW2_L2_OFFSET) + q->cluster_size == off;
	if (i + 1 < 1U << q->l2_bits)
		n += (qcow2_slot_get(q, t->table, i + 1, &bitmap) & QCOW2_L2_OFFSET) == off + q->cluster_size;
	return n;
}
