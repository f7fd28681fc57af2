/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_FAT_H
#define PLT_GUESTFS_FAT_H

/*
 * FAT12, FAT16 and FAT32 as their two readers see them, that of evidence and that of free space: private to them.
 */
#include "base/bitmap.h"
#include "guestfs/guestfs.h"

#define FAT_CACHE 512           /* of the table: what is beside may be missing */

struct fat {
	struct plt_guestfs fs;
	uint32_t ss, reserved, ntables, table_sectors, root_entries, root_cluster, clusters;
	unsigned bits;
	uint64_t data;           /* of cluster 2, from the start */
	uint64_t cached;         /* which part of the table is in cache; UINT64_MAX: none */
	int cached_error;
	uint8_t cache[FAT_CACHE];
	struct plt_bitmap seen;  /* directories entered */
	uint32_t *todo;
	size_t ntodo, todo_cap;
	uint64_t budget;
	bool single;             /* its tables are no copies of one another */
	bool blind;              /* a directory could not be read: what it leads to is found by other means */
	plt_fact_fn fn;
	void *arg;
	bool stop;
};

#endif
