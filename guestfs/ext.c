/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * ext2, ext3 and ext4: open by any superblock copy, survey group by group, locate and verify.  Our
 * own and not libext2fs, which needs a whole filesystem; this goes around what is missing and knows
 * an inode table without its address.
 */
#include "guestfs/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"

static void ext_free(struct plt_guestfs *fs)
{
	struct ext *e = (struct ext *)fs;

	free(e->gdt);
	free(e->gdt_from);
	free(e->used);
	free(e);
}

static int ext_open(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len,
		    struct plt_guestfs **ret)
{
	uint8_t sb[EXT_SB_SIZE];
	struct ext *e;
	int r;

	r = plt_guestfs_super(disk, start, copy, len, sizeof(sb), 1024, sb, sizeof(sb), &copy);
	if (r)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	r = plt_ext_parse_super(copy, e);
	if (!r && start >= disk->size)
		r = -ENOENT;
	if (!r) {
		e->gdt = plt_alloc_capped(e->ngroups, e->desc_size, 256u << 20);
		e->gdt_from = calloc(e->ngroups, 1);
		r = e->gdt && e->gdt_from ? 0 : -ENOMEM;
	}
	if (r) {
		ext_free(&e->fs);
		return r;
	}
	e->fs.ops = &plt_guestfs_ext;
	e->fs.disk = disk;
	e->fs.start = start;
	e->fs.grid = (uint32_t)(start % e->fs.block);
	e->fs.size = PLT_MIN(e->blocks * e->bs, disk->size - start);
	e->fs.cut = e->blocks * e->bs > e->fs.size;
	e->fs.sums = e->csum;
	*ret = &e->fs;
	return 0;
}

/* Where a group's bitmap of blocks, or of inodes, lies. */
static uint64_t bitmap_of(const struct ext *e, const uint8_t *desc, bool inodes)
{
	uint64_t ret = plt_get_le32(desc + (inodes ? 4 : 0));

	return e->desc_size > 32 ? ret | (uint64_t)plt_get_le32(desc + (inodes ? 0x24 : 0x20)) << 32 : ret;
}

/* 0: cannot tell. */
static int verify_bitmap(const struct ext *e, uint32_t group, bool inodes, const uint8_t *block)
{
	const uint8_t *desc = plt_ext_desc(e, group);
	uint32_t want, crc;

	if (!desc || e->ro & EXT_RO_BIGALLOC || e->gdt_from[group] != EXT_FROM_PRIMARY)
		return 0;
	crc = plt_crc32c(e->seed, block, (inodes ? e->ipg : e->bpg) / 8);
	want = plt_get_le16(desc + (inodes ? 0x1a : 0x18));
	if (e->desc_size > 32)
		want |= (uint32_t)plt_get_le16(desc + (inodes ? 0x3a : 0x38)) << 16;
	else
		crc &= 0xffff;
	return crc == want ? 1 : -1;
}

/* Does a bitmap that verifies say that there is an inode? */
static bool is_used(struct ext *e, uint64_t ino)
{
	const uint32_t group = (uint32_t)((ino - 1) / e->ipg), bit = (uint32_t)((ino - 1) % e->ipg);
	const uint8_t *desc = plt_ext_desc(e, group);

	if (!e->used)
		e->used = malloc(e->bs);
	if (!e->csum || !desc || !e->used || plt_get_le16(desc + 0x12) & EXT_BG_INODE_UNINIT)
		return false;
	if (e->used_of != group + 1) {
		e->used_of = group + 1;
		e->used_right = !plt_ext_read(e, bitmap_of(e, desc, true), e->used) && verify_bitmap(e, group, true, e->used) > 0;
	}
	return e->used_right && bit / 8 < e->bs && e->used[bit / 8] >> bit % 8 & 1;
}

static void survey_group(struct ext *e, uint32_t group, uint8_t *buf)
{
	const uint8_t *desc = plt_ext_desc(e, group);
	unsigned flags;
	uint64_t table;
	uint32_t used = e->ipg, per = e->bs / e->isize;

	if (plt_ext_has_super(e, group)) {
		uint32_t dpb = e->bs / e->desc_size;

		/* The primary lies 1024 bytes into the first block when blocks are larger. */
		plt_ext_fact(e, PLT_FACT_META, plt_ext_group_block(e, group), 1, group, EXT_IS_SB);
		if (!(e->incompat & EXT_INCOMPAT_META_BG))
			plt_ext_fact(e, PLT_FACT_META, plt_ext_group_block(e, group) + 1, plt_div_up(e->ngroups, dpb),
				     plt_ext_group_block(e, group) + 1, EXT_IS_GDT);
	}
	/* Kept for growing, each holding the places of its own copies. */
	if (group == 0 && e->reserved_gdt && !(e->incompat & EXT_INCOMPAT_META_BG) && e->ngroups > 1)
		plt_ext_fact(e, PLT_FACT_META, e->first_data + 1 + plt_div_up(e->ngroups, e->bs / e->desc_size),
			     e->reserved_gdt, 0, EXT_IS_RESERVED);
	if (!desc)
		return;
	flags = plt_get_le16(desc + 0x12);
	if (!(e->ro & (EXT_RO_GDT_CSUM | EXT_RO_METADATA_CSUM)) || e->gdt_from[group] != EXT_FROM_PRIMARY)
		flags = 0;
	else
		used -= PLT_MIN(used, plt_get_le16(desc + 0x1c) +
					 (e->desc_size > 32 ? (uint32_t)plt_get_le16(desc + 0x32) << 16 : 0));
	if (e->csum && !(flags & EXT_BG_BLOCK_UNINIT))
		plt_ext_fact(e, PLT_FACT_META, bitmap_of(e, desc, false), 1, group, EXT_IS_BITMAP);
	if (flags & EXT_BG_INODE_UNINIT)
		return;
	if (e->csum)
		plt_ext_fact(e, PLT_FACT_META, bitmap_of(e, desc, true), 1, (uint64_t)group | UINT64_C(1) << 32,
			     EXT_IS_BITMAP);
	table = plt_ext_desc_table(e, desc);
	plt_ext_fact(e, PLT_FACT_META, table, plt_div_up(used, per), (uint64_t)group * e->ipg + 1, EXT_IS_INODES);
	for (uint32_t i = 0; i < used && !e->stop; i += per) {
		if (plt_ext_read(e, table + i / per, buf))
			continue;
		for (uint32_t k = 0; k < per && i + k < used; k++) {
			const uint8_t *inode = buf + (size_t)k * e->isize;
			uint32_t ino = group * e->ipg + i + k + 1;

			if (!plt_get_le16(inode) || !plt_get_le16(inode + 0x1a) ||
			    plt_ext_inode_verifies(e, ino, inode) < 0)
				continue;
			plt_ext_walk(e, ino, inode);
		}
	}
}

static int ext_survey(struct plt_guestfs *fs, plt_fact_fn fn, void *arg)
{
	struct ext *e = (struct ext *)fs;
	uint8_t *buf PLT_AUTOFREE = malloc(e->bs);
	int r;

	if (!buf)
		return -ENOMEM;
	e->fn = fn;
	e->arg = arg;
	e->stop = false;
	e->budget = EXT_BUDGET;
	e->used_of = 0; /* (more may be known by now) */
	r = plt_ext_load_gdt(e);
	for (uint32_t group = 0; !r && group < e->ngroups && !e->stop && e->budget; group += PLT_MAX(fs->thin, 1u))
		survey_group(e, group, buf);
	return r;
}

/*
 * The primary table: it is told from its copies, which nobody updates, by inodes that are in use.  A
 * part of a block is enough to find which block it is.
 */
static bool locate_gdt(struct ext *e, const uint8_t *block, size_t len, uint64_t *ret, bool *ret_sure)
{
	uint32_t dpb = e->bs / e->desc_size, n = (uint32_t)PLT_MIN(len, (size_t)e->bs) / e->desc_size, used = 0;
	unsigned found = 0;

	if (!block || !e->csum || e->incompat & EXT_INCOMPAT_META_BG || len < 512)
		return false;
	for (uint32_t k = 0; k < plt_div_up(e->ngroups, dpb); k++) {
		uint32_t good = 0, want = PLT_MIN(n, e->ngroups - k * dpb);

		while (good < want && plt_ext_desc_ok(e, k * dpb + good, block + (size_t)good * e->desc_size))
			good++;
		if (good != want || want < PLT_MIN(e->ngroups, 2u))
			continue;
		for (uint32_t i = 0; i < want; i++)
			used += e->ipg - PLT_MIN(e->ipg, (uint32_t)plt_get_le16(block + (size_t)i * e->desc_size + 0xe));
		*ret = plt_ext_off(e, plt_ext_group_block(e, 0) + 1 + k);
		found++;
	}
	*ret_sure = false;
	return found == 1 && used > 11;
}

static bool ext_locate(struct plt_guestfs *fs, const struct plt_mark *mark, const uint8_t *block, size_t len,
		       uint64_t *ret, bool *ret_sure)
{
	struct ext *e = (struct ext *)fs;
	uint64_t off;

	*ret_sure = mark->sure;
	switch (mark->kind) {
	case PLT_MARK_EXT_SB:
		if (mark->fsid != fs->fsid || mark->value >= e->ngroups || !plt_ext_has_super(e, (uint32_t)mark->value))
			return false;
		off = mark->value || e->first_data ? plt_ext_off(e, plt_ext_group_block(e, (uint32_t)mark->value)) :
						     fs->start + 1024;
		*ret = off;
		return plt_in_range(off, EXT_SB_SIZE, fs->disk->size);
	case PLT_MARK_EXT_DIR: {
		uint8_t inode[65536];
		uint64_t first;

		e->budget = 64;
		off = mark->value <= e->inodes ? plt_ext_inode_off(e, (uint32_t)mark->value) : UINT64_MAX;
		if (off == UINT64_MAX || fs->disk->read(fs->disk->arg, off, inode, e->isize) ||
		    plt_get_le16(inode) >> 12 != 4 || !plt_get_le16(inode + 0x1a) ||
		    plt_ext_inode_verifies(e, (uint32_t)mark->value, inode) < 0)
			return false;
		first = plt_ext_first_block(e, inode);
		if (!first || first >= e->blocks)
			return false;
		*ret = plt_ext_off(e, first);
		*ret_sure = false;
		if (block && len >= e->bs && e->csum) {
			uint32_t reg;

			if (plt_ext_dir_register(block, e->bs, &reg)) {
				if (reg != plt_ext_owner(e, (uint32_t)mark->value, inode))
					return false;
				*ret_sure = true;
			}
		}
		return true;
	}
	case PLT_MARK_EXT_INODES: {
		unsigned agree = 0;

		for (size_t at = 0; block && at + e->isize <= len && at < 4096; at += e->isize) {
			uint32_t ino;

			if (!plt_get_le16(block + at) || !plt_ext_inode_number(e, block + at, &ino))
				continue;
			off = plt_ext_inode_off(e, ino);
			if (off == UINT64_MAX || off < at || (off - at - fs->start) % 512)
				continue;
			if (agree && off - at != *ret)
				return false;
			*ret = off - at;
			agree++;
		}
		*ret_sure = agree > 1;
		return agree > 0;
	}
	case PLT_MARK_EXT_GDT:
		return locate_gdt(e, block, len, ret, ret_sure);
	default:
		return false;
	}
}

/* An inode of zeros that is in use has been lost, save for those that are kept for later. */
static int verify_inodes(struct ext *e, uint64_t first, const uint8_t *block)
{
	int ok = 0;

	for (uint32_t at = 0; at < e->bs; at += e->isize) {
		uint64_t ino = first + at / e->isize;

		if (ino > e->inodes)
			break;
		if (plt_is_zero(block + at, e->isize)) {
			if (ino >= EXT_FIRST_INO && is_used(e, ino))
				return -1;
			continue;
		}
		if (!e->csum) {
			unsigned type = plt_get_le16(block + at) >> 12;

			if (type && !(0x1556 >> type & 1))
				return -1;
		} else if (plt_ext_inode_verifies(e, (uint32_t)ino, block + at) < 0) {
			return -1;
		} else {
			ok = 1;
		}
	}
	return ok;
}

static int verify_gdt(const struct ext *e, uint64_t index, const uint8_t *block)
{
	uint32_t dpb = e->bs / e->desc_size;
	int good = 0, bad = 0;

	for (uint32_t i = 0; i < dpb && index * dpb + i < e->ngroups; i++) {
		if (plt_ext_desc_ok(e, (uint32_t)(index * dpb + i), block + (size_t)i * e->desc_size))
			good++;
		else
			bad++;
	}
	return bad ? -1 : good && e->csum ? 1 : 0;
}

static int ext_verify(struct plt_guestfs *fs, const struct plt_fact *fact, uint64_t off, const uint8_t *block)
{
	struct ext *e = (struct ext *)fs;
	uint32_t reg, size, owner = (uint32_t)fact->value, ino = (uint32_t)(fact->value >> 32);
	uint64_t index = (off - fact->off) / e->bs;

	switch (fact->what) {
	case EXT_IS_SB: {
		const uint8_t *sb = block + (fact->value == 0 && e->bs > 1024 ? 1024 : 0);

		if (plt_get_le16(sb + 0x38) != 0xef53 || memcmp(sb + 0x68, e->uuid, 16) ||
		    plt_get_le16(sb + 0x5a) != (uint16_t)fact->value)
			return -1;
		return e->csum && !plt_ext_super_verifies(sb) ? -1 : 1;
	}
	case EXT_IS_GDT:
		return verify_gdt(e, index, block);
	case EXT_IS_RESERVED:
		return plt_get_le32(block) == (off - fs->start) / e->bs + e->bpg ? 1 : plt_is_zero(block, e->bs) ? 0 : -1;
	case EXT_IS_BITMAP:
		return verify_bitmap(e, (uint32_t)fact->value, fact->value >> 32, block);
	case EXT_IS_INODES:
		return verify_inodes(e, fact->value + index * (e->bs / e->isize), block);
	case EXT_IS_DIR0:
		if (plt_get_le32(block) != ino || block[6] != 1 || block[8] != '.')
			return -1;
		return !e->csum || !plt_ext_dir_register(block, e->bs, &reg) || reg == owner ? 1 : -1;
	case EXT_IS_DIR:
		if (e->csum && plt_ext_dir_register(block, e->bs, &reg))
			return reg == owner ? 1 : -1;
		if (!e->csum && plt_ext_is_dir_chain(block, e->bs + 12))
			return 1;
		/* An index node begins with an empty entry over the whole block. */
		return plt_get_le32(block) == 0 && plt_get_le16(block + 4) == (uint16_t)e->bs ? 0 : -1;
	case EXT_IS_EXTENTS:
		if (plt_get_le16(block) != EXT_EXTENT_MAGIC)
			return -1;
		return !e->csum || (plt_ext_extents_register(block, e->bs, &reg, &size) && reg == owner) ? 1 : -1;
	default:
		return 0;
	}
}

static uint64_t ext_newness(struct plt_guestfs *fs, const struct plt_fact *fact, const uint8_t *block)
{
	const struct ext *e = (struct ext *)fs;
	uint64_t ret = 0;

	switch (fact->what) {
	case EXT_IS_SB:
		return plt_get_le32(block + (fact->value == 0 && e->bs > 1024 ? 1024 : 0) + 0x30); /* last written */
	case EXT_IS_GDT: /* filesystems mostly fill */
		for (uint32_t i = 0; i < e->bs / e->desc_size; i++)
			ret += 0x1ffff - plt_get_le16(block + (size_t)i * e->desc_size + 0xc) -
			       plt_get_le16(block + (size_t)i * e->desc_size + 0xe);
		return ret;
	case EXT_IS_INODES:
		for (uint32_t at = 0; at < e->bs; at += e->isize)
			ret = PLT_MAX(ret, (uint64_t)plt_get_le32(block + at + 0xc)); /* change of the inode */
		return ret;
	default:
		return 0;
	}
}

static bool ext_unclean(struct plt_guestfs *fs)
{
	const struct ext *e = (struct ext *)fs;

	/* (where its bitmaps lie is not known when it allocates in clusters of blocks) */
	return e->incompat & EXT_INCOMPAT_RECOVER || e->ro & EXT_RO_BIGALLOC;
}

const struct plt_guestfs_ops plt_guestfs_ext = {
	.name = "ext",
	.open = ext_open,
	.survey = ext_survey,
	.locate = ext_locate,
	.verify = ext_verify,
	.newness = ext_newness,
	.unclean = ext_unclean,
	.free = ext_free,
};
