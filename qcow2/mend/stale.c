/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What an image leaves in clusters that are free again, and that can be told from the guest's data: refcount blocks that
 * were replaced, and directories of bitmaps.  (Tables that name clusters are told by what they name: orphans.c.)  It is
 * asked for only where no count says which clusters were in use, so a cluster that is wrongly taken for one of these
 * is not looked at as a piece of the guest's disk: all that is known of the image must agree.
 */
#include <string.h>

#include "base/checked.h"
#include "qcow2/check.h"

#define MAX_COUNT 4096   /* what a count may be in a block that is recognised by its content */
#define MAX_BLOCKS 1024  /* places in the refcount table at which one is tried */

/* Of the @len bytes at the beginning of what may be block @index: is it right, as far as is known? */
static bool counts_right(const struct qcow2_exam *x, const uint8_t *p, uint32_t len, uint64_t index, uint64_t self)
{
	const struct qcow2_state *q = &x->q;
	uint64_t first = index << q->rb_bits, n = ((uint64_t)len << 3) >> q->refcount_order, known = 0, wrong = 0, free = 0;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t k = first + i, count = qcow2_count_at(q, p, i);

		if (count > MAX_COUNT || (k == self && count != 1))
			return false;
		known += qcow2_references(&x->c, k) != 0;
		wrong += k < x->c.nb ? qcow2_references(&x->c, k) && !count : count != 0;
		free += k >= x->c.nb && !count;
	}
	return wrong * 16 <= known && (known >= 64 || (self >> q->rb_bits == index && (known || free) && q->refcount_order > 3));
}

/* Is the cluster at @off, of which @buf has the first @few bytes, a refcount block that was in use? */
static bool is_old_refblock(const struct qcow2_exam *x, uint64_t off, uint8_t *buf, uint32_t few)
{
	const struct qcow2_state *q = &x->q;
	uint64_t self = off >> q->cluster_bits, own = self >> q->rb_bits, n = plt_div_up(x->c.nb, UINT64_C(1) << q->rb_bits);

	for (uint32_t i = 0; i < 256; i++) /* (most of what is none shows at once) */
		if (q->refcount_order > 3 && qcow2_count_at(q, buf, PLT_MIN(i, (UINT32_C(4096) >> q->refcount_order) - 1)) > MAX_COUNT)
			return false;
	if (few < q->cluster_size && plt_store_read(x->c.file, off, buf, q->cluster_size, PLT_IO_REFBLOCK, NULL) < 0)
		return false;
	if (counts_right(x, buf, q->cluster_size, own, self))
		return true;
	for (uint64_t i = 0; i < PLT_MIN(n, (uint64_t)MAX_BLOCKS); i++)
		if (i != own && counts_right(x, buf, q->cluster_size, i, self))
			return true;
	return false;
}

/* A directory of bitmaps, as it was: that is written anew each time. */
static bool is_old_directory(const struct qcow2_exam *x, const uint8_t *buf)
{
	const struct qcow2_state *q = &x->q;
	struct qcow2_bitmap_entry e;
	uint64_t table;

	memcpy(&e, buf, sizeof(e));
	table = plt_be64_get(e.table_offset);
	return q->nb_bitmaps && table && !(table & (q->cluster_size - 1)) && table < x->c.file_size && e.type == 1 &&
	       plt_be32_get(e.table_size) && plt_be32_get(e.flags) <= 7 && e.granularity_bits >= 9 && e.granularity_bits <= 31;
}

bool qcow2_is_stale(const struct qcow2_exam *x, uint64_t off, uint8_t *buf, uint32_t few)
{
	return is_old_directory(x, buf) || is_old_refblock(x, off, buf, few);
}
