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

bool plt_fat_valid(const struct fat *f, uint32_t cluster);
uint64_t plt_fat_cluster_off(const struct fat *f, uint32_t cluster);
/* The cluster after this one; 0: the end, or not known. */
uint32_t plt_fat_next(struct fat *f, uint32_t cluster);

/* fat_dir.c */
#define FAT_PART 0x46415444u    /* the value of marks, and the key of facts, of what is a part of some directory */
bool plt_fat_is_directory(const uint8_t *sector);
/*
 * Whether these @len bytes are of the directory that begins at @parent (0: the root), as far as the rest of the
 * filesystem is known: 1; 2: directories in it say so, too; or 0: nobody knows.
 */
int plt_fat_judge_directory(struct fat *f, uint32_t parent, const uint8_t *block, size_t len);

#endif
