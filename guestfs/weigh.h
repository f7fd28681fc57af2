/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_WEIGH_H
#define PLT_GUESTFS_WEIGH_H

/*
 * How well a disk agrees with itself: of the guest's own structures, how many verify where they lie, and how many
 * do not.  What belongs there verifies; what has been mapped to the wrong place, or lies in a file that is not the
 * one that was written upon, does not.
 *
 * What is counted, in *pieces* of a filesystem block: ext's superblock copies, descriptors, bitmaps, inode tables,
 * directories and extent blocks (checksums where it has them, else what structure says); XFS's group headers, inodes
 * and tree and directory blocks (own address, uuid and CRC); NTFS's file records and index blocks (numbers and
 * fix-up words); FAT's directories, and its tables, each against its own order and against the other copy; both
 * headers of a GPT.  Filesystems are looked for at the start of each partition, of a first logical volume, and of a
 * disk that has no partitions.
 *
 * A candidate for the parent of an image is judged by the disk that both make together: right, it has hardly a bad
 * piece; wrong, it has many.  Pieces that the image itself holds tell most (piece() says where each lies).
 */
#include "guestfs/guestfs.h"

struct plt_disk;

struct plt_weighed {
	const char *name;     /* "ext", "xfs", "ntfs", "fat", "gpt" */
	uint64_t start, size; /* of the disk */
	uint64_t good, bad;
	uint64_t blank;       /* zeros where there should be metadata: of the bad ones */
	uint64_t unread;      /* could not be read: neither good nor bad */
	uint64_t first;       /* where the first bad one lies; UINT64_MAX: none */
	bool sums;            /* checksums or own addresses: one bad piece proves something.  Else a few may be stale */
	bool unclean;         /* a journal is still to be replayed: some pieces may be bad on a sound disk */
	bool sampled;         /* not all has been looked at */
};

struct plt_weigh {
	/*
	 * The most pieces to be verified, of all filesystems; 0: 65536, which takes a second or two on a local file.
	 * At most four times as many reads are made, and no memory but the readers' own (some MiB).  A filesystem of
	 * more than 256 KiB a piece is sampled: every nth group of ext, every nth chunk of inodes of XFS, every nth 64 records
	 * of NTFS, every nth block of a long table, n by the size of the filesystem alone, so that candidates of one size
	 * are judged by the same pieces.
	 */
	uint64_t most;
	/* Each piece that has been judged, in no order; @verdict 1 good, -1 bad.  May be NULL. */
	void (*piece)(void *arg, uint64_t off, uint64_t len, int verdict);
	/* Each filesystem.  May be NULL. */
	void (*fs)(void *arg, const struct plt_weighed *w);
	void *arg;
	/*
	 * For those who want more of each filesystem, all NULL or none: before its pieces, @w without counts; facts that are no
	 * metadata (DATA, TAIL); and after its pieces, when it locates by all that it has seen.
	 */
	void (*begin)(void *arg, struct plt_guestfs *fs, const struct plt_weighed *w);
	void (*fact)(void *arg, struct plt_guestfs *fs, const struct plt_fact *fact);
	void (*done)(void *arg, struct plt_guestfs *fs);
};
#define PLT_WEIGH_INIT { 0 }
#define PLT_WEIGH_ALL UINT64_MAX

/*
 * *ret: the sum; .name, .start and .size mean nothing there, .sums if any filesystem has them, .first is of the first
 * filesystem that has a bad piece.  @how NULL: the defaults.  0, or -ENOMEM; what cannot be read ends nothing.
 */
int plt_guest_weigh(const struct plt_guest *disk, const struct plt_weigh *how, struct plt_weighed *ret,
		    struct plt_error *err);
/* Of an open disk, as the guest sees it: with all that lies below it.  Blocking. */
int plt_guest_weigh_disk(struct plt_disk *disk, const struct plt_weigh *how, struct plt_weighed *ret,
			 struct plt_error *err);

#endif
