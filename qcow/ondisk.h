/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW_ONDISK_H
#define PLT_QCOW_ONDISK_H

/*
 * QCOW version 1 on disk.
 *
 * A header, the name of the backing file, the L1 table (its length follows from the disk's size), and
 * then, in the order in which they were needed, L2 tables and clusters.  An L1 entry is the offset of an
 * L2 table or 0.  An L2 entry is 0 (ask the backing file; zeros without one), the offset of a cluster,
 * or, with bit 63, a compressed cluster's length and offset in bytes.  Nothing is counted, so nothing is
 * ever freed: the file grows at its end.  All integers are big-endian.
 */
#include <stddef.h>

#include "base/endian.h"

#define QCOW_MAGIC 0x514649fbU /* "QFI\xfb", as in qcow2 */

struct qcow_header {
	plt_be32 magic;
	plt_be32 version;              /* 1 */
	plt_be64 backing_file_offset;  /* 0: none */
	plt_be32 backing_file_size;    /* <= QCOW_MAX_BACKING_NAME */
	plt_be32 mtime;                /* of the backing file; nobody sets it */
	plt_be64 size;                 /* of the disk, > 1 */
	uint8_t cluster_bits;          /* 9..16 */
	uint8_t l2_bits;               /* log2 of the entries in an L2 table, 6..13 */
	plt_be16 padding;
	plt_be32 crypt_method;         /* enum qcow_crypt */
	plt_be64 l1_table_offset;      /* multiple of 8 */
};
_Static_assert(sizeof(struct qcow_header) == 48, "qcow header");
_Static_assert(offsetof(struct qcow_header, size) == 24, "");
_Static_assert(offsetof(struct qcow_header, cluster_bits) == 32, "");
_Static_assert(offsetof(struct qcow_header, crypt_method) == 36, "");
_Static_assert(offsetof(struct qcow_header, l1_table_offset) == 40, "");

enum qcow_crypt { QCOW_CRYPT_NONE, QCOW_CRYPT_AES };

#define QCOW_COMPRESSED (UINT64_C(1) << 63)
/* Compressed: the length lies above the offset, which has 63 - cluster_bits bits. */

/* Limits, QEMU's */
#define QCOW_MIN_CLUSTER_BITS 9
#define QCOW_MAX_CLUSTER_BITS 16
#define QCOW_MIN_L2_BITS 6
#define QCOW_MAX_L2_BITS 13
#define QCOW_MAX_BACKING_NAME 1023
#define QCOW_MAX_L1_ENTRIES (INT32_MAX / 8) /* 2 TiB with the smallest tables and clusters */

#endif
