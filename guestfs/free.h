/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_FREE_H
#define PLT_GUESTFS_FREE_H

/*
 * Which parts of a disk its guest does not use: the free-space maps of filesystems, and the pages of swap.
 * Whoever gives such a range away loses data if it is wrong, so a map is believed only of a volume that
 * was left in order (unmounted, no journal to replay, nobody asleep on it) and whose map agrees with
 * everything that stands beside it: checksums where there are any, counts, and the places of the
 * filesystem's own metadata.  All other volumes are left alone, and it is said why.
 *
 * The map is gone through twice: once only to be judged, and only then, when all of it is right, to hand out
 * ranges.  Time and memory are bounded by the maps' size, which is a few millionths of the disk's, and not by what
 * their fields say.  Not thread-safe.
 */
#include "guestfs/guestfs.h"

enum plt_free_kind { PLT_FREE_UNKNOWN, PLT_FREE_FILESYSTEM, PLT_FREE_SWAP };

/* One volume: a partition, a logical volume, or the whole disk. */
struct plt_free_volume {
	uint64_t start, len;  /* on the disk; of a logical volume its first piece, and its size */
	enum plt_free_kind kind;
	char what[32];        /* "ext4", "xfs"; "" nothing that we know */
	char name[132];       /* of a logical volume: "group/volume"; "" */
	char label[40];
	char why[200];        /* why it is left alone; "" it is not */
	uint64_t free;        /* bytes; 0 if it is left alone */
};

struct plt_free_sink {
	/* Each volume, before any range of it.  1: hand out its ranges; 0: go on; or a negative errno. */
	int (*volume)(void *arg, const struct plt_free_volume *v);
	/* Ascending within a piece of a volume; or a negative errno. */
	int (*range)(void *arg, uint64_t off, uint64_t len);
	void *arg;
};

/* 0; the sink's error; or that of reading a map again which could be read before. */
int plt_free_maps(const struct plt_guest *disk, const struct plt_free_sink *sink);

/* ---- for the readers --------------------------------------------------------------------------------- */

struct plt_free {
	const struct plt_guest *vol;  /* what the filesystem has; it begins at 0 */
	int (*range)(struct plt_free *f, uint64_t off, uint64_t len); /* NULL: the map is only judged */
	uint64_t free;
	char *why;
	size_t why_size;
	/* free.c's */
	void *arg;
	int result;
};
/* The volume is left alone.  Always -EBUSY. */
int plt_free_refuse(struct plt_free *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* plt_guest.read, and what cannot be read is a reason to refuse. */
int plt_free_read(struct plt_free *f, uint64_t off, void *buf, size_t len, const char *what);
/* A free range of the volume. */
int plt_free_add(struct plt_free *f, uint64_t off, uint64_t len);

/* Zero bits of a map are free: gathered into ranges across calls. */
struct plt_free_run {
	uint64_t start, len; /* in units */
};
/* @nbits bits at @map, the first one of which speaks of unit @unit; @base and @size of the units in bytes. */
int plt_free_bits(struct plt_free *f, struct plt_free_run *run, const uint8_t *map, uint64_t nbits, uint64_t unit,
		  uint64_t base, uint64_t size);
int plt_free_run_end(struct plt_free *f, struct plt_free_run *run, uint64_t base, uint64_t size);

/* How many of the first @n bits are zero. */
uint64_t plt_free_zeros(const uint8_t *map, uint64_t n);
/* Is any of [unit, unit+n) free in @map, whose first bit speaks of unit @first? */
bool plt_free_has_zero(const uint8_t *map, uint64_t first, uint64_t unit, uint64_t n);

int plt_free_ext(struct plt_free *f);
int plt_free_xfs(struct plt_free *f);
int plt_free_ntfs(struct plt_free *f);
int plt_free_fat(struct plt_free *f);
int plt_free_swap(struct plt_free *f);

/*
 * The logical volumes of the physical volume that @pv is: those that lie on it in plain pieces.  @fn hears of
 * each; @why there (not NULL): it is not one of those.
 */
struct plt_lv_piece {
	uint64_t off, pv_off, len; /* of the logical volume; on the physical one */
};
typedef int (*plt_lv_fn)(void *arg, const char *name, const struct plt_lv_piece *v, unsigned n, uint64_t size,
			 const char *why);
int plt_free_lvm(struct plt_free *pv, plt_lv_fn fn, void *arg);

#endif
