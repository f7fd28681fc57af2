/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_XFS_H
#define PLT_GUESTFS_XFS_H

/*
 * XFS as its two readers see it, that of evidence and that of free space: private to them.  Big-endian.
 */
#include "guestfs/guestfs.h"

#define XFS_SB_SIZE 264
#define XFS_AGS_MAX (1u << 20)

struct xfs {
	struct plt_guestfs fs;
	uint64_t dblocks, logstart;
	uint32_t agblocks, agcount, logblocks, sectsize, isize;
	unsigned blocklog, inodelog, inopblog, agblklog, dirblklog;
	bool v5, nrext64;
	uint8_t uuid[16];
	uint64_t budget;
	uint64_t chunks;           /* of inodes, seen by a survey */
	plt_fact_fn fn;
	void *arg;
	bool stop;
};

/* Geometry; false: none, or impossible. */
bool plt_xfs_parse_super(const uint8_t *p, struct xfs *x);
/* The checksum that is kept at @at of @len bytes. */
bool plt_xfs_crc_ok(const uint8_t *p, size_t len, size_t at);

#endif
