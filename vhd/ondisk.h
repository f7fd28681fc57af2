/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_VHD_ONDISK_H
#define PLT_VHD_ONDISK_H

/*
 * VHD on disk (Microsoft's specification of 2006; what writers do beyond it is said where it matters).
 *
 * A fixed disk is the guest's bytes and a footer behind them.  A dynamic or differencing disk starts
 * with a copy of the footer, which names the dynamic header, which names the block allocation table
 * (BAT).  A BAT entry is the sector of a block: a bitmap of its sectors, then its data.  The footer
 * stands at the end.  All integers are big-endian, all units sectors of 512 bytes.
 */
#include <assert.h>
#include <stddef.h>

#include "base/endian.h"

#define VHD_SECTOR 512u
#define VHD_FOOTER 512u
#define VHD_OLD_FOOTER 511u       /* Virtual PC before 2004: the last reserved byte is missing */
#define VHD_EPOCH 946684800       /* timestamps count from 2000-01-01 */
#define VHD_NONE UINT64_MAX       /* data_offset: nothing follows */
#define VHD_UNUSED UINT32_MAX     /* BAT entry: no block */
#define VHD_VERSION 0x00010000u

#define VHD_MAX_SECTORS UINT64_C(0xff000000) /* 2040 GiB: Hyper-V and QEMU refuse more */
/*
 * Blocks are 2 MiB, 512 KiB from some tools.  More than this is of no use to anybody, and what must be
 * filled around a small write is held in memory.
 */
#define VHD_MAX_BLOCK (UINT32_C(256) << 20)
#define VHD_MIN_BLOCK 512u
#define VHD_DEFAULT_BLOCK (UINT32_C(2) << 20)

/* Of the BAT: as QEMU; far more than 2040 GiB need in blocks of any sensible size. */
#define VHD_MAX_ENTRIES (INT32_MAX / 4)

#define VHD_CHS_C 65535u          /* the largest geometry: "too large for CHS, use the size" */
#define VHD_CHS_H 16u
#define VHD_CHS_S 255u
#define VHD_MAX_CHS ((uint64_t)VHD_CHS_C * VHD_CHS_H * VHD_CHS_S)

enum vhd_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFFERENCING = 4 };

struct vhd_footer {
	uint8_t cookie[8];        /* "conectix" */
	plt_be32 features;        /* VHD_FEATURE_RESERVED set */
	plt_be32 version;         /* VHD_VERSION; another major is refused */
	plt_be64 data_offset;     /* of the dynamic header; fixed: VHD_NONE */
	plt_be32 timestamp;
	uint8_t creator[4];
	plt_be32 creator_version;
	uint8_t creator_os[4];
	plt_be64 original_size;   /* bytes, when it was made */
	plt_be64 current_size;    /* bytes */
	plt_be16 cylinders;
	uint8_t heads, sectors;
	plt_be32 type;            /* enum vhd_type */
	plt_be32 checksum;        /* ones' complement of the sum of all bytes, this field as 0 */
	uint8_t id[16];           /* opaque; a child names its parent by it */
	uint8_t saved_state;      /* 1: a machine was saved that knows the disk's content */
	uint8_t hidden;           /* blktap: inner node of a snapshot tree */
	uint8_t reserved[426];
};
#define VHD_COOKIE "conectix"
#define VHD_FEATURE_RESERVED 0x2u
_Static_assert(sizeof(struct vhd_footer) == VHD_FOOTER, "VHD footer");
_Static_assert(offsetof(struct vhd_footer, current_size) == 48, "");
_Static_assert(offsetof(struct vhd_footer, type) == 60, "");
_Static_assert(offsetof(struct vhd_footer, id) == 68, "");
_Static_assert(offsetof(struct vhd_footer, hidden) == 85, "");

/* Where a platform finds the parent. */
struct vhd_locator {
	uint8_t code[4];          /* "W2ru" and so on; zeros: empty */
	plt_be32 space;           /* room on disk: bytes, or sectors if below 512 */
	plt_be32 length;          /* bytes of the text */
	plt_be32 reserved;
	plt_be64 offset;          /* bytes from the start of the file */
};
#define VHD_LOCATORS 8
#define VHD_MAX_LOCATOR 65536u    /* longest text that is read: twice what Windows can name */

struct vhd_header {
	uint8_t cookie[8];        /* "cxsparse" */
	plt_be64 data_offset;     /* VHD_NONE */
	plt_be64 table_offset;    /* of the BAT; a multiple of 512 */
	plt_be32 version;
	plt_be32 entries;         /* of the BAT; those behind the disk's end mean nothing */
	plt_be32 block_size;      /* a power of two */
	plt_be32 checksum;
	uint8_t parent_id[16];    /* zeros: a raw parent (blktap) */
	plt_be32 parent_timestamp;
	plt_be32 reserved1;
	uint8_t parent_name[512]; /* UTF-16, big-endian */
	struct vhd_locator locator[VHD_LOCATORS];
	uint8_t reserved2[256];
};
#define VHD_HEADER_COOKIE "cxsparse"
#define VHD_HEADER 1024u
_Static_assert(sizeof(struct vhd_header) == VHD_HEADER, "VHD dynamic header");
_Static_assert(offsetof(struct vhd_header, checksum) == 36, "");
_Static_assert(offsetof(struct vhd_header, parent_name) == 64, "");
_Static_assert(offsetof(struct vhd_header, locator) == 576, "");

/* XenServer: which blocks are complete, so that their bitmaps need not be read.  Behind the BAT. */
struct vhd_batmap {
	uint8_t cookie[8];        /* "tdbatmap" */
	plt_be64 offset;          /* bytes */
	plt_be32 sectors;
	plt_be32 version;         /* VHD_BATMAP_SIGNED: the checksum takes the bytes for signed ones */
	plt_be32 checksum;        /* of the map */
	uint8_t marker;
	uint8_t keyhash;          /* 1: the data is encrypted outside of the format */
	uint8_t nonce[32], hash[32];
	uint8_t reserved[418];
};
#define VHD_BATMAP_COOKIE "tdbatmap"
#define VHD_BATMAP_SIGNED 0x00010001u
#define VHD_BATMAP_UNSIGNED 0x00010002u
_Static_assert(sizeof(struct vhd_batmap) == 512, "blktap batmap");
_Static_assert(offsetof(struct vhd_batmap, keyhash) == 29, "");

#endif
