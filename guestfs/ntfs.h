/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_NTFS_H
#define PLT_GUESTFS_NTFS_H

/*
 * NTFS as its two readers see it, that of evidence and that of free space: private to them.  Little-endian.
 */
#include "guestfs/guestfs.h"

#define NTFS_RECORD_MAX 4096

struct ntfs_run { uint64_t vcn, lcn, count; };
struct index;

struct ntfs {
	struct plt_guestfs fs;
	uint64_t clusters, mft_lcn, mirror; /* bytes of the disk; 0: not known */
	uint32_t record, index_size;
	struct ntfs_run *mft;
	size_t nmft;
	struct index *indexes;      /* by directory, when a survey has ended */
	size_t nindexes, indexes_cap;
	plt_fact_fn fn;
	void *arg;
	bool stop;
};

/* Undo the fix-ups of a record in place; false if it is torn or none. */
bool plt_ntfs_unfix(uint8_t *p, uint32_t len, const char *magic);
/* The next run of a mapping; false at its end, or where it is none. */
bool plt_ntfs_next_run(const struct ntfs *n, const uint8_t **p, const uint8_t *end, uint64_t *lcn, uint64_t *count,
		       bool *hole);
/* $MFT's own runs, by its first record; without it, where its first records lie. */
int plt_ntfs_find_mft(struct ntfs *n, uint64_t *ret_size);
/* Where a record lies on the disk; UINT64_MAX: not known. */
uint64_t plt_ntfs_record_off(const struct ntfs *n, uint64_t number);

#endif
