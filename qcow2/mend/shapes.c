/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Shapes of L2 tables: whether an entry can be one, and what a table that is named looks like.  What is asked here is
 * the bytes alone; nothing is said of whether an entry is right.
 */
#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "qcow2/check.h"

bool qcow2_entry_fits(const struct qcow2_exam *x, uint64_t e, uint64_t bitmap, uint64_t *ret_off)
{
	const struct qcow2_state *q = &x->q;
	uint64_t len;

	*ret_off = 0;
	if (e & QCOW2_COMPRESSED) {
		len = qcow2_compressed_range(q, e & ~QCOW2_COPIED, ret_off);
		return !(e & QCOW2_COPIED) && !bitmap && !x->c.external &&
		       plt_in_range(*ret_off, len, plt_align_up(x->c.file_size, 512)) && *ret_off >= q->cluster_size;
	}
	*ret_off = e & QCOW2_L2_OFFSET;
	if ((e & QCOW2_L2_RESERVED) || (*ret_off & (q->cluster_size - 1)))
		return false;
	if ((e & QCOW2_L2_ZERO) && (q->version < 3 || q->extl2))
		return false;
	/* (over an external data file 0 is a place: of the guest's first cluster) */
	if (q->extl2 && ((bitmap >> 32 & bitmap) ||
			 (!*ret_off && (uint32_t)bitmap && !(x->c.external && e & QCOW2_COPIED))))
		return false;
	if (!*ret_off)
		return !(e & QCOW2_COPIED) || x->c.external;
	return x->c.external || *ret_off < x->c.file_size;
}

uint64_t qcow2_own_place(const struct qcow2_state *q, const uint8_t *table, uint32_t *ret_n)
{
	const uint64_t span = UINT64_C(1) << (q->cluster_bits + q->l2_bits);
	uint64_t base = UINT64_MAX;
	uint32_t n = 0;

	for (uint32_t at = 0, k = 0; at < q->cluster_size; at += q->l2_entry_size, k++) {
		uint64_t e = plt_get_be64(table + at), off = e & QCOW2_L2_OFFSET, in = (uint64_t)k << q->cluster_bits;

		if (!off && !(e & QCOW2_COPIED)) /* (unallocated, or zeros without a place) */
			continue;
		if ((e & QCOW2_COMPRESSED) || off < in || (n && off - in != base) || (off - in) & (span - 1))
			return UINT64_MAX;
		base = off - in;
		n++;
	}
	*ret_n = n;
	return base;
}

uint32_t qcow2_alike(const struct qcow2_state *q, const uint8_t *a, const uint8_t *b)
{
	uint32_t n = 0;

	for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size) {
		uint64_t e = plt_get_be64(a + at) & ~QCOW2_COPIED;

		n += e && e == (plt_get_be64(b + at) & ~QCOW2_COPIED);
	}
	return n;
}

/* Only entries that can be; a single one that cannot is a finding of its own. */
bool qcow2_l2_well_formed(const struct qcow2_exam *x, const uint8_t *p)
{
	const struct qcow2_state *q = &x->q;
	uint32_t bad = 0, all = 0;
	uint64_t off;

	for (const uint8_t *end = p + q->cluster_size; (p = qcow2_behind_absent(p, end)) < end; p += q->l2_entry_size) {
		uint64_t e = plt_get_be64(p), bitmap = q->extl2 ? plt_get_be64(p + 8) : 0;

		all += (e | bitmap) != 0;
		bad += (e | bitmap) && !qcow2_entry_fits(x, e, bitmap, &off);
	}
	return bad * 4 < all;
}

bool qcow2_l2_is_other(struct qcow2_exam *x, struct qcow2_l2ref *l)
{
	const struct qcow2_state *q = &x->q;
	PLT_AUTOFREE uint8_t *buf = l->content || (l->off & (q->cluster_size - 1)) ? NULL : plt_alloc_io(q->cluster_size);
	uint32_t bad = 0, all = 0;
	uint64_t off;

	if (buf && qcow2_l2_read(&x->c, l->off, buf) == 0) {
		for (const uint8_t *p = buf, *end = buf + q->cluster_size; (p = qcow2_behind_absent(p, end)) < end; p += q->l2_entry_size) {
			uint64_t e = plt_get_be64(p), bitmap = q->extl2 ? plt_get_be64(p + 8) : 0;

			all += (e | bitmap) != 0;
			bad += (e | bitmap) && !qcow2_entry_fits(x, e, bitmap, &off);
		}
		l->content = bad >= 16 && bad >= all - all / 8 ? 2 : 1;
	}
	return l->content == 2;
}

/*
 * 512 bytes of a table that name no place: unallocated, or zeros without one, which is also what a repair
 * leaves of entries that are lost.
 */
static bool says_nothing(const struct qcow2_state *q, const uint8_t *sector)
{
	for (uint32_t at = 0; at < 512; at += q->l2_entry_size)
		if (plt_get_be64(sector + at) & ~(q->extl2 ? UINT64_C(0) : QCOW2_L2_ZERO))
			return false;
	return true;
}

unsigned qcow2_l2_shape(struct qcow2_exam *x, struct qcow2_l2ref *l, uint8_t *buf)
{
	const uint32_t cs = x->q.cluster_size;

	if (l->shape)
		return l->shape;
	if (l->empty || l->off >= x->c.file_size) {
		l->shape = QCOW2_SHAPE_ZERO;
	} else if (l->off & (cs - 1)) {
		l->shape = QCOW2_SHAPE_GARBAGE;
	} else if (qcow2_l2_read(&x->c, l->off, buf) < 0) {
		l->shape = QCOW2_SHAPE_GARBAGE | QCOW2_SHAPE_UNREAD;
	} else if (plt_is_zero(buf, cs)) {
		l->shape = QCOW2_SHAPE_ZERO;
	} else if (!qcow2_l2_well_formed(x, buf)) {
		l->shape = QCOW2_SHAPE_GARBAGE;
	} else {
		l->shape = QCOW2_SHAPE_FULL;
		for (uint32_t at = 0; at < cs; at += 512)
			if (says_nothing(&x->q, buf + at))
				l->shape = QCOW2_SHAPE_SPARSE;
	}
	return l->shape;
}
