/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_SUPERS_H
#define PLT_GUESTFS_SUPERS_H

/*
 * Superblocks, boot sectors, labels: the structures from which a filesystem or a volume is recognised, at their
 * first place or as one of the copies that most keep elsewhere.  Each says where the volume begins that it
 * speaks of; a copy that says so is how a lost beginning is found, and is written back there.
 */
#include "guestfs/guestfs.h"

enum plt_super_kind {
	PLT_SUPER_EXT, PLT_SUPER_XFS, PLT_SUPER_NTFS, PLT_SUPER_FAT, PLT_SUPER_EXFAT, PLT_SUPER_BTRFS, PLT_SUPER_LVM,
	PLT_SUPER_LUKS, PLT_SUPER_SWAP, PLT_SUPER_MD, PLT_SUPER_VMFS, PLT_SUPER_ISO, PLT_SUPER_KINDS,
};

struct plt_super {
	uint8_t kind;       /* enum plt_super_kind */
	bool copy;          /* stands elsewhere than at the first place */
	bool sure;          /* a checksum of its own verifies */
	const char *name;   /* "ext4": static */
	uint64_t at;        /* where it was found */
	uint64_t start;     /* where its volume begins */
	uint64_t size;      /* of the volume; 0: it does not say */
	uint64_t fsid;      /* the same in all copies; 0: none */
	char label[40];     /* printable; "" none */
};

#define PLT_SUPER_AHEAD 4096 /* the longest structure */
typedef bool (*plt_super_fn)(void *arg, const struct plt_super *s); /* false: stop */

/*
 * Those that begin in the sectors of [buf, buf + len), which lie at @base of the disk; @avail >= len bytes may be
 * read (a structure that is cut off by it is not recognised).  A boot sector that may be the first or a copy
 * is given for both; plt_super_verify() tells them apart.
 */
void plt_supers(const uint8_t *buf, size_t len, size_t avail, uint64_t base, plt_super_fn fn, void *arg);

/*
 * Is there more at the volume's own places that fits: a table, a root, another copy?  1 yes, 0 nothing speaks for it.
 */
int plt_super_verify(const struct plt_guest *disk, const struct plt_super *s);

/* The volume that begins at @start, by what stands at its first places.  False: nothing known. */
bool plt_super_first(const struct plt_guest *disk, uint64_t start, struct plt_super *ret);

/*
 * What to write to the volume's first place for the copy @s: its bytes, in @buf (PLT_SUPER_AHEAD), and where on the disk.
 * -ENOTSUP: this kind has no copies; an errno of reading.
 */
int plt_super_restore(const struct plt_guest *disk, const struct plt_super *s, uint8_t *buf, size_t *ret_len,
		      uint64_t *ret_off);

/* The checksum of LVM: a CRC-32 with a start of its own. */
uint32_t plt_lvm_crc(const uint8_t *p, size_t len);

/* Of an ext superblock at @p: where the volume begins if it stands at @at; geometry.  For supers.c. */
bool plt_ext_super_place(const uint8_t *p, uint64_t at, struct plt_super *ret);

#endif
