/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Does a header that can be read lead to the map?  Looked at are the beginning of the L1 table and of the tables that it
 * names, and what lies right before and behind it: little enough to be done for each image, before all of the file is
 * looked through.
 */
#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "qcow2/mend/find.h"

#define MANY 8       /* entries that say that a table is of another kind */
#define NOWHERE 4096 /* of the L1 table, and of each table, that is looked at */

bool qcow2_l1_runs_over(struct plt_store *file, uint64_t l1_offset, uint64_t need, uint32_t l1_size, unsigned cluster_bits)
{
	PLT_AUTOFREE uint8_t *l1 = plt_alloc_io(NOWHERE);
	uint64_t mask = (UINT64_C(1) << cluster_bits) - 1, file_size;
	uint32_t used = 0, bad = 0;

	if (!l1 || plt_store_size(file, &file_size, NULL) < 0)
		return false;
	for (uint64_t i = need; i < l1_size && l1_offset + i * 8 < file_size; i++) {
		uint32_t at = (uint32_t)((i - need) * 8 % NOWHERE);
		uint64_t e, off;

		if (!at && plt_store_read(file, l1_offset + i * 8, l1, NOWHERE, PLT_IO_L1, NULL) < 0)
			return false;
		e = plt_get_be64(l1 + at);
		off = e & QCOW2_L1_OFFSET;
		used += e != 0;
		bad += e && (e & QCOW2_L1_RESERVED || off & mask || off >= file_size);
	}
	return bad * 2 > used;
}

/*
 * Would the bitmaps of an extended entry be the next entry of a plain table, which is not the one before?  Of single
 * subclusters they say such a thing seldom, and hardly ever another one for each cluster.
 */
static bool is_entry_too(const struct qcow2_find *f, uint64_t bitmap, uint64_t before)
{
	const uint64_t off = bitmap & QCOW2_L2_OFFSET;

	return off && !(bitmap & ~(QCOW2_L2_OFFSET | QCOW2_COPIED)) && !(off & (f->x.q.cluster_size - 1)) && off < f->file_size &&
	       bitmap != before;
}

unsigned qcow2_astray(struct plt_store *file, const struct qcow2_state *q)
{
	PLT_AUTOFREE uint8_t *l1 = plt_alloc_io(NOWHERE), *part = plt_alloc_io(NOWHERE);
	struct qcow2_find f = {.file = file};
	uint64_t bad = 0, used = 0, both = 0, before = 0;
	bool some = false;
	uint32_t n = PLT_MIN(q->l1_size, (uint32_t)NOWHERE / 8), least = PLT_MIN((uint32_t)NOWHERE, q->cluster_size);

	if (!l1 || !part || plt_store_size(file, &f.file_size, NULL) < 0)
		return 0;
	f.bound = qcow2_find_bound(f.file_size);
	qcow2_find_assume(&f, q->cluster_bits, q->extl2);
	f.x.c.external = q->external;
	/* (the header lies at 0) */
	if (!q->l1_offset || (q->l1_offset & (q->cluster_size - 1)) || q->l1_offset >= f.file_size)
		return q->virtual_size ? 1000 : 0;
	if (qcow2_l1_runs_over(file, q->l1_offset, qcow2_l1_entries(q, q->virtual_size), q->l1_size, q->cluster_bits))
		return 1000;
	if (plt_store_read(file, q->l1_offset, l1, NOWHERE, PLT_IO_L1, NULL) < 0)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t e = plt_get_be64(l1 + (size_t)i * 8), off = e & QCOW2_L1_OFFSET, to;

		if (!off || (e & QCOW2_L1_RESERVED) || (off & (q->cluster_size - 1)) || off >= f.file_size ||
		    plt_store_read(file, off, part, least, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < least; at += q->l2_entry_size) {
			uint64_t entry = plt_get_be64(part + at), bitmap = q->extl2 ? plt_get_be64(part + at + 8) : 0;

			used += (entry | bitmap) != 0;
			bad += (entry | bitmap) && !qcow2_entry_fits(&f.x, entry, bitmap, &to);
			both += q->extl2 && is_entry_too(&f, bitmap, before);
			before = bitmap;
		}
		some = true;
	}
	if (both >= MANY && both * 4 >= used * 3) /* it is no table of extended entries */
		return 1000;
	return some ? (unsigned)(bad * 1000 / PLT_MAX(used, UINT64_C(1))) : 1000;
}

bool qcow2_leads_nowhere(struct plt_store *file, const struct qcow2_state *q)
{
	return qcow2_astray(file, q) > 250;
}

bool qcow2_begins_earlier(struct plt_store *file, const struct qcow2_state *q)
{
	PLT_AUTOFREE uint8_t *l1 = plt_alloc_io(q->cluster_size), *part = plt_alloc_io(512);
	struct qcow2_find f = {.file = file};
	uint64_t before = q->l1_offset - q->cluster_size, last = 0;
	uint32_t tables = 0;

	if (!l1 || !part || q->l1_offset < 2 * (uint64_t)q->cluster_size || plt_store_size(file, &f.file_size, NULL) < 0 ||
	    plt_ranges_overlap(before, q->cluster_size, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits) ||
	    (uint64_t)q->l1_size * 8 <= q->cluster_size || plt_store_read(file, before, l1, q->cluster_size, PLT_IO_L1, NULL) < 0)
		return false;
	f.bound = qcow2_find_bound(f.file_size);
	qcow2_find_assume(&f, q->cluster_bits, q->extl2);
	f.x.c.external = q->external;
	for (uint32_t at = 0; at < q->cluster_size; at += 8) {
		uint64_t e = plt_get_be64(l1 + at), off = e & QCOW2_L1_OFFSET, to;
		bool some = false;

		if (!e)
			continue;
		if ((e & QCOW2_L1_RESERVED) || !off || (off & (q->cluster_size - 1)) || off >= f.file_size || off == last ||
		    plt_store_read(file, off, part, 512, PLT_IO_L2, NULL) < 0)
			return false;
		last = off;
		for (uint32_t k = 0; k < 512; k += q->l2_entry_size) {
			uint64_t entry = plt_get_be64(part + k), bitmap = q->extl2 ? plt_get_be64(part + k + 8) : 0;

			if ((entry | bitmap) && !qcow2_entry_fits(&f.x, entry, bitmap, &to))
				return false;
			some |= entry != 0;
		}
		tables += some;
	}
	return tables != 0;
}

bool qcow2_l1_fits(const struct qcow2_find *f, uint64_t l1_offset, uint32_t l1_size, unsigned cluster_bits)
{
	PLT_AUTOFREE uint8_t *l1 = plt_alloc_io(NOWHERE);
	uint64_t mask = (UINT64_C(1) << cluster_bits) - 1;
	uint32_t n = PLT_MIN(l1_size, (uint32_t)NOWHERE / 8), some = 0;

	if (!l1 || !l1_offset || l1_offset & mask || l1_offset >= f->file_size ||
	    plt_store_read(f->file, l1_offset, l1, NOWHERE, PLT_IO_L1, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t e = plt_get_be64(l1 + (size_t)i * 8), off = e & QCOW2_L1_OFFSET;

		if (e & QCOW2_L1_RESERVED || off & mask || off >= f->file_size)
			return false;
		some += off != 0;
	}
	return some != 0;
}
