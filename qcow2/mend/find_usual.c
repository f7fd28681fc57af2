/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * A file of which somebody says that it is an image, and in which no table of clusters is left.  QEMU, and we, put the
 * header, the refcount table, its first block and the L1 table into the first four clusters: if what lies there says so of
 * itself, at one cluster size, a header can be made that leads to them.  What the tables named is found out later.
 */
#include "base/checked.h"
#include "qcow2/mend/find.h"

#define LOOKED_AT 4096u

/* Does the block at @off count each of the first four clusters, and the table at @table begin with it? */
static bool counts_front(struct qcow2_find *f, uint64_t table, uint64_t off)
{
	uint8_t word[8], counts[8];

	if (plt_store_read(f->file, table, word, sizeof(word), PLT_IO_REFTABLE, NULL) < 0 || plt_get_be64(word) != off ||
	    plt_store_read(f->file, off, counts, sizeof(counts), PLT_IO_REFBLOCK, NULL) < 0)
		return false;
	for (unsigned i = 0; i < sizeof(counts); i += 2)
		if (counts[i] || !counts[i + 1])
			return false;
	return true;
}

/* As an L1 table has them: places of clusters behind the fourth, each another, or nothing.  *ret_used: up to the last. */
static bool names_clusters(struct qcow2_find *f, uint64_t off, uint32_t *ret_used)
{
	const uint32_t cs = f->x.q.cluster_size, len = PLT_MIN(cs, LOOKED_AT);
	uint8_t buf[LOOKED_AT];
	uint64_t last = 0;

	*ret_used = 0;
	if (plt_store_read(f->file, off, buf, len, PLT_IO_L1, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < len / 8; i++) {
		uint64_t e = plt_get_be64(buf + (size_t)i * 8), to = e & QCOW2_L1_OFFSET;

		if (!e)
			continue;
		if ((e & QCOW2_L1_RESERVED) || (to & (cs - 1)) || to < off + cs || to >= f->file_size || to == last)
			return false;
		last = to;
		*ret_used = i + 1;
	}
	return *ret_used > 0;
}

bool qcow2_find_usual(struct qcow2_find *f)
{
	for (unsigned bits = QCOW2_MAX_CLUSTER_BITS; bits >= QCOW2_MIN_CLUSTER_BITS; bits--) {
		const uint64_t cs = UINT64_C(1) << bits;
		uint32_t used;

		if (4 * cs >= f->file_size || !counts_front(f, cs, 2 * cs))
			continue;
		qcow2_find_assume(f, bits, false);
		if (!names_clusters(f, 3 * cs, &used))
			continue;
		f->l1_offset = 3 * cs;
		f->l1_used = used;
		f->l1_size = (uint32_t)(cs / 8);
		f->reftable_offset = cs;
		f->reftable_clusters = 1;
		f->refcount_order = 4;
		f->nt = 0;
		f->mapped_end = f->guest_start = 0;
		return f->usual = true;
	}
	return false;
}
