/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_ONDISK_H
#define PLT_QCOW2_ONDISK_H

/*
 * QCOW2 on disk, versions 2 and 3 (QEMU docs/interop/qcow2.txt; limits from QEMU 7.2's behaviour).
 *
 * The file is an array of clusters of 512 B to 2 MiB.  Cluster 0 starts with the header, then header
 * extensions, then the backing file's name.  A two-level map leads from guest to host: the L1 table
 * (contiguous clusters) names L2 tables (one cluster each), whose entries name data clusters,
 * compressed byte ranges, or zeros.  A second two-level structure counts the references to each host
 * cluster: the refcount table names refcount blocks (one cluster each).  Internal snapshots are
 * copies of the L1 table; sharing is what counts above one mean.  All integers are big-endian.
 */
#include <assert.h>
#include <stddef.h>

#include "base/endian.h"

#define QCOW2_MAGIC 0x514649fbU /* "QFI\xfb" */

struct qcow2_header {
	plt_be32 magic;
	plt_be32 version;                /* 2 or 3 */
	plt_be64 backing_file_offset;    /* 0: none */
	plt_be32 backing_file_size;      /* <= QCOW2_MAX_BACKING_NAME, inside the first cluster */
	plt_be32 cluster_bits;           /* 9..21; >= 14 with extended L2 entries */
	plt_be64 size;                   /* virtual bytes */
	plt_be32 crypt_method;           /* enum qcow2_crypt */
	plt_be32 l1_size;                /* entries */
	plt_be64 l1_table_offset;
	plt_be64 refcount_table_offset;
	plt_be32 refcount_table_clusters;
	plt_be32 nb_snapshots;
	plt_be64 snapshots_offset;
	/* version 2 ends here; version 3: */
	plt_be64 incompatible_features;
	plt_be64 compatible_features;
	plt_be64 autoclear_features;
	plt_be32 refcount_order;         /* entry width is 1 << order bits; version 2: 4 */
	plt_be32 header_length;          /* >= 104, multiple of 8 */
	/* present if header_length > 104: */
	uint8_t compression_type;        /* enum qcow2_compression */
	uint8_t padding[7];
};
#define QCOW2_V2_HEADER 72
#define QCOW2_V3_HEADER 104
_Static_assert(sizeof(struct qcow2_header) == 112, "qcow2 header");
_Static_assert(offsetof(struct qcow2_header, cluster_bits) == 20, "");
_Static_assert(offsetof(struct qcow2_header, size) == 24, "");
_Static_assert(offsetof(struct qcow2_header, l1_size) == 36, "");
_Static_assert(offsetof(struct qcow2_header, l1_table_offset) == 40, "");
_Static_assert(offsetof(struct qcow2_header, refcount_table_offset) == 48, "");
_Static_assert(offsetof(struct qcow2_header, refcount_table_clusters) == 56, "");
_Static_assert(offsetof(struct qcow2_header, nb_snapshots) == 60, "");
_Static_assert(offsetof(struct qcow2_header, snapshots_offset) == 64, "");
_Static_assert(offsetof(struct qcow2_header, incompatible_features) == 72, "");
_Static_assert(offsetof(struct qcow2_header, refcount_order) == 96, "");
_Static_assert(offsetof(struct qcow2_header, compression_type) == 104, "");

enum qcow2_crypt { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };
enum qcow2_compression { QCOW2_COMPRESSION_ZLIB, QCOW2_COMPRESSION_ZSTD };

/* incompatible features: an unknown one refuses the image */
#define QCOW2_INCOMPAT_DIRTY (UINT64_C(1) << 0)
#define QCOW2_INCOMPAT_CORRUPT (UINT64_C(1) << 1)
#define QCOW2_INCOMPAT_DATA_FILE (UINT64_C(1) << 2)
#define QCOW2_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define QCOW2_INCOMPAT_EXTL2 (UINT64_C(1) << 4)
#define QCOW2_INCOMPAT_KNOWN UINT64_C(0x1f)
/* compatible features: unknown ones are ignored and kept */
#define QCOW2_COMPAT_LAZY (UINT64_C(1) << 0)
/* autoclear features: a writer clears unknown ones before its first write */
#define QCOW2_AUTOCLEAR_BITMAPS (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_DATA_RAW (UINT64_C(1) << 1)
#define QCOW2_AUTOCLEAR_KNOWN UINT64_C(0x3)

/* header extensions: type, length, data padded to 8; ended by type 0 */
#define QCOW2_EXT_END 0x00000000U
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acaU
#define QCOW2_EXT_FEATURES 0x6803f857U
#define QCOW2_EXT_BITMAPS 0x23852875U
#define QCOW2_EXT_LUKS 0x0537be77U
#define QCOW2_EXT_DATA_FILE 0x44415441U

struct qcow2_ext {
	plt_be32 type, length;
};
_Static_assert(sizeof(struct qcow2_ext) == 8, "");

struct qcow2_feature_name {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	char name[46];
};
_Static_assert(sizeof(struct qcow2_feature_name) == 48, "");

struct qcow2_ext_bitmaps {
	plt_be32 nb_bitmaps, reserved;
	plt_be64 directory_size, directory_offset;
};
_Static_assert(sizeof(struct qcow2_ext_bitmaps) == 24, "");

struct qcow2_bitmap_entry { /* directory entry; then extra data, name, zero padding to 8 */
	plt_be64 table_offset;
	plt_be32 table_size;     /* entries */
	plt_be32 flags;
	uint8_t type;            /* 1: dirty tracking */
	uint8_t granularity_bits;
	plt_be16 name_size;
	plt_be32 extra_data_size;
};
_Static_assert(sizeof(struct qcow2_bitmap_entry) == 24, "");
#define QCOW2_BITMAP_IN_USE 1U
#define QCOW2_BITMAP_AUTO 2U
#define QCOW2_BITMAP_EXTRA_COMPATIBLE 4U
#define QCOW2_BITMAP_TABLE_OFFSET UINT64_C(0x00fffffffffffe00)
#define QCOW2_BITMAP_TABLE_ONES UINT64_C(1) /* offset 0: all ones (set) or all zeros */

struct qcow2_snapshot_entry { /* then extra data, id, name, padding to 8 */
	plt_be64 l1_table_offset;
	plt_be32 l1_size;
	plt_be16 id_size, name_size;
	plt_be32 date_sec, date_nsec;
	plt_be64 vm_clock_nsec;
	plt_be32 vm_state_size;
	plt_be32 extra_data_size;
};
_Static_assert(sizeof(struct qcow2_snapshot_entry) == 40, "");
struct qcow2_snapshot_extra { /* as much of it as extra_data_size says */
	plt_be64 vm_state_size, disk_size, icount;
};

/* L1 entry */
#define QCOW2_L1_OFFSET UINT64_C(0x00fffffffffffe00)
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
/* L2 entry */
#define QCOW2_COPIED (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_L2_ZERO UINT64_C(1) /* version 3, not with extended entries */
#define QCOW2_L2_OFFSET UINT64_C(0x00fffffffffffe00)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)
/* Refcount table entry */
#define QCOW2_REFTABLE_OFFSET UINT64_C(0xfffffffffffffe00)
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)
#define QCOW2_SUBCLUSTERS 32

/* Limits, QEMU's; each says what it allows */
#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_BACKING_NAME 1023
#define QCOW2_MAX_BACKING_FORMAT 15
#define QCOW2_MAX_L1_BYTES (UINT64_C(32) << 20)      /* 128 GiB of 512-byte clusters, 2 EiB of 2 MiB ones */
#define QCOW2_MAX_REFTABLE_BYTES (UINT64_C(8) << 20)
#define QCOW2_MAX_SNAPSHOTS 65536
#define QCOW2_MAX_SNAPSHOT_TABLE (UINT64_C(64) << 20)
#define QCOW2_MAX_SNAPSHOT_EXTRA 1024
#define QCOW2_MAX_BITMAPS 65535
#define QCOW2_MAX_BITMAP_DIRECTORY (UINT64_C(1024) * QCOW2_MAX_BITMAPS)
#define QCOW2_MAX_BITMAP_NAME 1023
#define QCOW2_MAX_BITMAP_CONTENT (UINT64_C(512) << 20) /* bytes of bits of one bitmap: QEMU's limit */
#define QCOW2_MAX_BITMAPS_LOADED (UINT64_C(192) << 20) /* of all that an image makes us keep in memory: bits that are set */
#define QCOW2_MAX_BITMAPS_SPACE (UINT64_C(4) << 30)    /* and others, which are pages that nobody touches */
#define QCOW2_MAX_BITMAP_TABLE 0x8000000U            /* entries, QEMU's cap */
#define QCOW2_MIN_GRANULARITY_BITS 9
#define QCOW2_MAX_GRANULARITY_BITS 31
#define QCOW2_MAX_HOST_OFFSET (UINT64_C(1) << 56)    /* entries hold bits 9..55 */

#endif
