/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_EXT_H
#define PLT_GUESTFS_EXT_H

/*
 * ext2, ext3 and ext4 as evidence sees them: private to guestfs/ext*.c.  Little-endian.  With
 * metadata_csum every inode, directory block, extent block and bitmap is covered by a CRC-32C whose
 * start depends on the filesystem's uuid and, for what belongs to an inode, on its number and
 * generation.
 */
#include "guestfs/guestfs.h"

enum {
	EXT_COMPAT_RESIZE_INODE = 0x10,
	EXT_COMPAT_SPARSE_SUPER2 = 0x200,
	EXT_INCOMPAT_RECOVER = 0x4,
	EXT_INCOMPAT_META_BG = 0x10,
	EXT_INCOMPAT_EXTENTS = 0x40,
	EXT_INCOMPAT_64BIT = 0x80,
	EXT_INCOMPAT_CSUM_SEED = 0x2000,
	EXT_RO_SPARSE_SUPER = 0x1,
	EXT_RO_GDT_CSUM = 0x10,
	EXT_RO_BIGALLOC = 0x200,
	EXT_RO_METADATA_CSUM = 0x400,

	EXT_BG_INODE_UNINIT = 1,
	EXT_BG_BLOCK_UNINIT = 2,

	EXT_FL_EXTENTS = 0x80000,
	EXT_FL_INLINE = 0x10000000,
	EXT_JOURNAL_INO = 8,
	EXT_FIRST_INO = 11,    /* those before it are the filesystem's own */
};

#define EXT_SB_SIZE 1024
#define EXT_EXTENT_MAGIC 0xf30a
#define EXT_NAME_MAX 255
/* 64 TiB at 4 KiB blocks; the descriptors then take 32 MiB. */
#define EXT_GROUPS_MAX (1u << 19)
/* Blocks that one survey reads: 64 GiB at 4 KiB would be a day's hostile work, this is minutes'. */
#define EXT_BUDGET (4u << 20)

/* What a fact is (plt_fact.what). */
enum ext_what {
	EXT_IS_SB = 1, EXT_IS_GDT, EXT_IS_RESERVED, EXT_IS_BITMAP, EXT_IS_INODES, EXT_IS_DIR0, EXT_IS_DIR, EXT_IS_EXTENTS,
};

/* Where a descriptor was found.  Copies keep places, but not counts, flags and checksums. */
enum { EXT_FROM_NOWHERE, EXT_FROM_COPY, EXT_FROM_PRIMARY };

struct ext {
	struct plt_guestfs fs;
	uint32_t bs, bpg, ipg, isize, desc_size, ngroups, first_data, first_meta_bg;
	uint32_t reserved_gdt;
	uint32_t inodes, compat, incompat, ro;
	uint64_t blocks;
	uint32_t seed;         /* the checksum register after the uuid */
	bool csum;
	uint8_t uuid[16];
	uint8_t *gdt;          /* ngroups * desc_size; a descriptor that is not known is zero */
	uint8_t *gdt_from;     /* ngroups: EXT_FROM_... */
	uint64_t budget;
	uint8_t *used;         /* the inode bitmap of a group, if it is right; */
	uint32_t used_of;      /* group + 1; 0: of none */
	bool used_right;
	/* survey() */
	plt_fact_fn fn;
	void *arg;
	bool stop;
};

/* ext_super.c: geometry and group descriptors */
int plt_ext_parse_super(const uint8_t *sb, struct ext *e);
bool plt_ext_super_verifies(const uint8_t *sb);
int plt_ext_load_gdt(struct ext *e);
bool plt_ext_desc_ok(const struct ext *e, uint32_t group, const uint8_t *desc);
bool plt_ext_has_super(const struct ext *e, uint32_t group);
uint64_t plt_ext_group_block(const struct ext *e, uint32_t group); /* its first */
uint64_t plt_ext_off(const struct ext *e, uint64_t block);         /* on the disk */
int plt_ext_read(struct ext *e, uint64_t block, void *buf);        /* -EUCLEAN outside, -EDQUOT budget */
const uint8_t *plt_ext_desc(const struct ext *e, uint32_t group);  /* NULL: not known */
uint64_t plt_ext_desc_table(const struct ext *e, const uint8_t *desc);

/* ext_inode.c: inodes, and where what belongs to them lies */
int plt_ext_inode_verifies(const struct ext *e, uint32_t ino, const uint8_t *inode);
bool plt_ext_inode_number(const struct ext *e, const uint8_t *inode, uint32_t *ret);
uint64_t plt_ext_inode_off(const struct ext *e, uint32_t ino); /* on the disk; UINT64_MAX: not known */
uint32_t plt_ext_owner(const struct ext *e, uint32_t ino, const uint8_t *inode);
uint64_t plt_ext_first_block(struct ext *e, const uint8_t *inode); /* 0: none */
void plt_ext_walk(struct ext *e, uint32_t ino, const uint8_t *inode);
void plt_ext_fact(struct ext *e, enum plt_fact_kind kind, uint64_t block, uint64_t count, uint64_t value,
		  enum ext_what what);

/* ext_marks.c: what blocks say of themselves; shared with verify */
bool plt_ext_is_dir_chain(const uint8_t *p, uint32_t bs);
bool plt_ext_dir_register(const uint8_t *p, uint32_t bs, uint32_t *ret);
bool plt_ext_extents_register(const uint8_t *p, size_t len, uint32_t *ret, uint32_t *ret_size);

#endif
