/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What the guest's own first sectors say against the header: a disk that ends elsewhere than both copies of its partition
 * table say, or that has no size at all; and an encryption of a disk that begins as a plain one.  A field is changed only
 * where the guest's disk proves another value.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "qcow2/mend/find.h"

#define AT(field) offsetof(struct qcow2_header, field)

/* @len bytes of the guest's at @off, which lie in one cluster; false: compressed, not there, or not to be read. */
static bool read_guest(struct plt_store *file, const struct qcow2_state *q, uint64_t off, uint8_t *buf, uint32_t len)
{
	uint64_t l1 = off >> (q->cluster_bits + q->l2_bits), l2 = (off >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1), e;
	plt_be64 v;

	if (l1 >= q->l1_size || plt_store_read(file, q->l1_offset + l1 * 8, &v, 8, PLT_IO_L1, NULL) < 0)
		return false;
	e = plt_be64_get(v) & QCOW2_L1_OFFSET;
	if (!e || (e & (q->cluster_size - 1)) ||
	    plt_store_read(file, e + l2 * q->l2_entry_size, &v, 8, PLT_IO_L2, NULL) < 0)
		return false;
	e = plt_be64_get(v);
	if ((e & (QCOW2_COMPRESSED | QCOW2_L2_ZERO | QCOW2_L2_RESERVED)) || !(e & QCOW2_L2_OFFSET) || (e & (q->cluster_size - 1) & QCOW2_L2_OFFSET))
		return false;
	return plt_store_read(file, (e & QCOW2_L2_OFFSET) + (off & (q->cluster_size - 1)), buf, len, PLT_IO_DATA, NULL) == 0;
}

bool qcow2_crypt_is_wrong(struct plt_store *file, const struct qcow2_state *q)
{
	uint8_t start[512];

	return q->crypt_method == QCOW2_CRYPT_AES && read_guest(file, q, 0, start, sizeof(start)) && start[510] == 0x55 &&
	       start[511] == 0xaa;
}

int qcow2_set_size(struct plt_store *file, uint64_t size, struct plt_error *err)
{
	plt_be64 v = plt_be64_make(size);

	return plt_store_write(file, AT(size), &v, sizeof(v), PLT_IO_HEADER, err);
}

/* A disk of no bytes on which clusters are mapped: as large as its L1 table is made for. */
static int grow_to_l1(struct qcow2_exam *x, bool *ret_mended)
{
	const struct qcow2_state *q = &x->q;
	uint64_t size;

	if (plt_shl(q->l1_size, q->cluster_bits + q->l2_bits, &size) || size > INT64_MAX)
		return 0;
	plt_emit(x->ex, &(struct plt_finding){.id = "Q-HDR-SIZE", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					      .mended = true, .host_off = AT(size), .host_len = 8, .guest_len = size},
		 "Repairing header: the disk cannot have 0 bytes, clusters are mapped; its L1 table is made for up to %" PRIu64, size);
	*ret_mended = x->ex->mend->changed = true;
	return qcow2_set_size(x->c.file, size, NULL);
}

int qcow2_mend_size(struct qcow2_exam *x, uint64_t mapped_end, bool *ret_said)
{
	const bool mends = x->ex->mend && (x->ex->mend->what & PLT_MEND_MAP);
	const struct qcow2_state *q = &x->q;
	uint8_t gpt[512];
	uint64_t last, size;

	*ret_said = false;
	if (!q->virtual_size && mends && q->l1_size)
		return grow_to_l1(x, ret_said);
	/* both copies of a partition table say where the disk ends, and one of them lies there */
	if (q->crypt_method || q->external ||
	    !read_guest(x->c.file, q, 512, gpt, sizeof(gpt)) || memcmp(gpt, "EFI PART", 8) || plt_get_le64(gpt + 24) != 1)
		return 0;
	last = plt_get_le64(gpt + 32);
	if (last >= UINT64_C(1) << 54 || last * 512 < q->virtual_size || mapped_end > plt_align_up((last + 1) * 512, q->cluster_size) ||
	    !read_guest(x->c.file, q, last * 512, gpt, sizeof(gpt)) || memcmp(gpt, "EFI PART", 8) ||
	    plt_get_le64(gpt + 24) != last || plt_get_le64(gpt + 32) != 1)
		return 0;
	size = (last + 1) * 512;
	if (qcow2_l1_entries(q, size) > q->l1_size)
		return 0;
	plt_emit(x->ex, &(struct plt_finding){.id = "Q-HDR-SIZE", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					      .mended = mends, .host_off = AT(size), .host_len = 8, .guest_off = q->virtual_size,
					      .guest_len = size - q->virtual_size},
		 "%s header: the disk has %" PRIu64 " bytes by both copies of its partition table, not %" PRIu64,
		 mends ? "Repairing" : "ERROR", size, q->virtual_size);
	*ret_said = true;
	if (!mends)
		return 0;
	x->ex->mend->changed = true;
	return qcow2_set_size(x->c.file, size, NULL);
}
