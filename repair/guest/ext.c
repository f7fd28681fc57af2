/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The superblock of an ext filesystem of one block group, of which there is no copy, from what it describes.  The one
 * descriptor behind it says where both bitmaps and the inodes lie; these end where the filesystem and its inodes do,
 * and what they leave free is what the descriptor counts; inodes say how long they are, and which features they use.  Their
 * checksums, run backwards, name the number that all checksums start from, and the journal has the filesystem's id.
 *
 * The invariant: it is written only if the root directory is where it then would be, and the checksums of the descriptor
 * and the bitmap verify or, where there are none, both bitmaps agree with the descriptor's counts.  What stands nowhere
 * else gets its usual value: reserved blocks, labels, times, and the seed of hashed directories (which e2fsck makes anew).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "repair/guest/guest.h"

#define SB 1024
#define DESC 64
#define ROOT 2
#define RESIZE 7
#define JOURNAL 8
#define FIRST_INODE 11

enum { /* of inodes */
	FL_INDEX = 0x1000, FL_HUGE = 0x40000, FL_EXTENTS = 0x80000, FL_VERITY = 0x100000, FL_EA = 0x200000,
	FL_INLINE = 0x10000000, FL_CASEFOLD = 0x40000000,
};

struct ext_found {
	const struct plt_guest *disk;
	uint64_t start, room;        /* of the volume: bytes */
	uint32_t bs, first, blocks, ipg, isize, desc_size, reserved;
	uint8_t desc[DESC];
	uint8_t *inodes;             /* all of them */
	uint8_t root[65536], block_bits[65536], inode_bits[65536];
	bool csum, recover, journal, other_id;
	uint32_t seed, flags;        /* of any inode */
	uint8_t id[16];
	bool attributes, large;
};

static int rd(const struct ext_found *f, uint64_t block, void *buf, uint64_t n)
{
	if (!plt_in_range(block, n, f->room / f->bs))
		return -ENODATA;
	return f->disk->read(f->disk->arg, f->start + block * f->bs, buf, n * f->bs);
}

static const uint8_t *inode(const struct ext_found *f, uint32_t ino)
{
	return f->inodes + (size_t)(ino - 1) * f->isize;
}

static bool bit(const uint8_t *p, uint64_t i)
{
	return p[i / 8] >> (i % 8) & 1;
}

/* How many of [0, n) are clear; and all behind are set. */
static bool count_clear(const uint8_t *p, uint64_t n, uint64_t all, uint64_t *ret)
{
	*ret = 0;
	for (uint64_t i = 0; i < n; i++)
		*ret += !bit(p, i);
	for (uint64_t i = n; i < all; i++)
		if (!bit(p, i))
			return false;
	return true;
}

/* ---- descriptor, bitmaps, inodes ------------------------------------------------------------- */

static uint32_t table_of(const struct ext_found *f)
{
	return plt_get_le32(f->desc + 8);
}

/* One descriptor, and the places that it names. */
static bool find_group(struct ext_found *f)
{
	const uint32_t gdt = f->first + 1;
	const uint8_t *d = f->desc;
	uint64_t end = PLT_MIN(f->room / f->bs, f->first + 8 * (uint64_t)f->bs);
	uint32_t b, i, t;

	if (rd(f, gdt, f->root, 1))
		return false;
	memcpy(f->desc, f->root, DESC);
	b = plt_get_le32(d);
	i = plt_get_le32(d + 4);
	t = table_of(f);
	if (!plt_is_zero(f->root + DESC, f->bs - DESC) || b <= gdt || i <= gdt || t <= gdt || b == i || i == t || b == t ||
	    b >= end || i >= end || t >= end || plt_get_le16(d + 0x12) & 3)
		return false;
	f->blocks = (uint32_t)end;
	return rd(f, b, f->block_bits, 1) == 0 && rd(f, i, f->inode_bits, 1) == 0;
}

/* Inodes end where the bits behind all are set; the table is whole blocks. */
static bool read_inodes(struct ext_found *f)
{
	uint32_t per = f->bs / f->isize, n = 8 * f->bs;
	uint64_t len;

	while (n && bit(f->inode_bits, n - 1))
		n--;
	f->ipg = (uint32_t)plt_align_up(n, PLT_MAX(per, 8u));
	len = f->ipg / per;
	if (f->ipg < 16 || f->ipg > 8 * f->bs || table_of(f) + len > f->blocks)
		return false;
	free(f->inodes);
	f->inodes = plt_alloc_capped(f->ipg, f->isize, UINT64_C(64) << 20);
	return f->inodes && rd(f, table_of(f), f->inodes, len) == 0;
}

/* The first block of an inode that has its map in itself; 0: none. */
static uint32_t first_block(const uint8_t *p)
{
	const uint8_t *map = p + 0x28;

	if (!(plt_get_le32(p + 0x20) & FL_EXTENTS))
		return plt_get_le32(map);
	if (plt_get_le16(map) != 0xf30a || !plt_get_le16(map + 2) || plt_get_le16(map + 6) || plt_get_le32(map + 12))
		return 0;
	return plt_get_le16(map + 18) ? 0 : plt_get_le32(map + 20);
}

static bool find_root(struct ext_found *f)
{
	const uint8_t *p = inode(f, ROOT);

	return (plt_get_le16(p) & 0xf000) == 0x4000 && plt_get_le16(p + 0x1a) >= 2 && first_block(p) &&
	       rd(f, first_block(p), f->root, 1) == 0 && plt_get_le32(f->root) == ROOT && f->root[6] == 1 && f->root[8] == '.' &&
	       plt_get_le32(f->root + 12) == ROOT && f->root[18] == 2 && f->root[20] == '.' && f->root[21] == '.';
}

/* Behind the last block that a map of extents in @p names; of one level it is read, and deeper ones end before it. */
static uint32_t end_of_extents(const struct ext_found *f, const uint8_t *p, unsigned most, bool leaf)
{
	uint32_t end = 0, n = plt_get_le16(p) == 0xf30a ? plt_get_le16(p + 2) : 0;
	uint8_t block[4096];

	for (uint32_t i = 0; i < n && i < most; i++) {
		const uint8_t *e = p + 12 + 12 * (size_t)i;
		bool deep = plt_get_le16(p + 6);
		uint32_t at = plt_get_le32(deep ? e + 4 : e + 8), len = deep ? 1 : plt_get_le16(e + 4);

		len = len > 32768 ? len - 32768 : len; /* (written to, or not) */
		if (at < f->blocks && len <= f->blocks - at)
			end = PLT_MAX(end, at + len);
		if (deep && !leaf && rd(f, at, block, 1) == 0)
			end = PLT_MAX(end, end_of_extents(f, block, f->bs / 12 - 1, true));
	}
	return end;
}

/*
 * The volume may be larger than what is in it: bits behind the filesystem's end are set, so it ends behind the last that
 * is clear, or behind what is in use after that.
 */
static void find_end(struct ext_found *f)
{
	uint32_t n = f->blocks, used = table_of(f) + f->ipg / (f->bs / f->isize);

	while (n > f->first && bit(f->block_bits, n - f->first - 1))
		n--;
	for (uint32_t i = 1; i <= f->ipg; i++) {
		const uint8_t *p = inode(f, i), *map = p + 0x28;

		if (!bit(f->inode_bits, i - 1) || !plt_get_le16(p) || plt_get_le32(p + 0x20) & FL_INLINE)
			continue;
		if (plt_get_le32(p + 0x20) & FL_EXTENTS)
			used = PLT_MAX(used, end_of_extents(f, map, 4, false));
		else if ((plt_get_le16(p) & 0xf000) == 0x8000 || (plt_get_le16(p) & 0xf000) == 0x4000)
			for (unsigned k = 0; k < 15; k++)
				used = PLT_MAX(used, plt_get_le32(map + 4 * k) < f->blocks ? plt_get_le32(map + 4 * k) + 1 : 0);
	}
	f->blocks = PLT_MAX(n, used);
}

/* ---- checksums ------------------------------------------------------------------------------- */

/* What all checksums start from, by one inode. */
static bool seed_of(const struct ext_found *f, uint32_t ino, uint32_t *ret)
{
	uint8_t copy[4096], le[4];
	const uint8_t *p = inode(f, ino);
	uint32_t crc = plt_get_le16(p + 0x7c) | (uint32_t)plt_get_le16(p + 0x82) << 16;

	if (f->isize <= 128 || f->isize > sizeof(copy) || plt_get_le16(p + 0x80) < 4 || !plt_get_le16(p))
		return false;
	memcpy(copy, p, f->isize);
	memset(copy + 0x7c, 0, 2);
	memset(copy + 0x82, 0, 2);
	plt_put_le32(le, ino);
	crc = plt_crc32c_back(crc, copy, f->isize);
	*ret = plt_crc32c_back(plt_crc32c_back(crc, copy + 0x64, 4), le, 4);
	return true;
}

static bool desc_verifies(const struct ext_found *f, uint32_t size)
{
	static const uint8_t zeros[4];
	uint32_t crc = plt_crc32c(plt_crc32c(plt_crc32c(f->seed, zeros, 4), f->desc, 0x1e), zeros, 2);

	if (size > 32)
		crc = plt_crc32c(crc, f->desc + 32, size - 32);
	return (crc & 0xffff) == plt_get_le16(f->desc + 0x1e);
}

/* Two inodes name the same start, and with it the descriptor and the block bitmap verify. */
static bool find_checksums(struct ext_found *f)
{
	uint32_t other, crc, agree = 0;

	if (!seed_of(f, ROOT, &f->seed))
		return false;
	for (uint32_t i = ROOT + 1; i <= f->ipg; i++)
		agree += bit(f->inode_bits, i - 1) && seed_of(f, i, &other) && other == f->seed;
	f->desc_size = desc_verifies(f, 64) ? 64 : 32;
	crc = plt_crc32c(f->seed, f->block_bits, f->bs);
	return agree && desc_verifies(f, f->desc_size) && plt_get_le16(f->desc + 0x18) == (crc & 0xffff) &&
	       (f->desc_size == 32 || plt_get_le16(f->desc + 0x38) == crc >> 16);
}

/* ---- what is on it --------------------------------------------------------------------------- */

static void find_features(struct ext_found *f)
{
	uint8_t block[65536];
	const uint8_t *p = inode(f, RESIZE);

	for (uint32_t i = 1; i <= f->ipg; i++) {
		const uint8_t *q = inode(f, i);

		if (!bit(f->inode_bits, i - 1) || !plt_get_le16(q))
			continue;
		f->flags |= plt_get_le32(q + 0x20);
		f->attributes |= plt_get_le32(q + 0x68) || (f->isize > 128 && plt_get_le16(q + 0x80) + 132u <= f->isize &&
			plt_get_le32(q + 128 + plt_get_le16(q + 0x80)) == 0xea020000);
		f->large |= (plt_get_le16(q) & 0xf000) == 0x8000 && (plt_get_le32(q + 4) >> 31 || plt_get_le32(q + 0x6c));
	}
	/* the blocks that a growing table of groups may have, in the order in which the resize inode has them */
	if (plt_get_le16(p) && plt_get_le32(p + 0x28 + 13 * 4) && rd(f, plt_get_le32(p + 0x28 + 13 * 4), block, 1) == 0)
		for (uint32_t i = 0; i < f->bs / 4; i++)
			f->reserved += plt_get_le32(block + 4 * i) != 0;
	p = inode(f, JOURNAL);
	if (plt_get_le16(p) && first_block(p) && rd(f, first_block(p), block, 1) == 0 && plt_get_be32(block) == 0xc03b3998) {
		f->journal = true;
		f->recover = plt_get_be32(block + 0x1c) != 0;
		memcpy(f->id, block + 0x30, 16);
	}
	f->other_id = f->csum && plt_crc32c(~0u, f->id, 16) != f->seed;
	if (plt_is_zero(f->id, 16)) {
		memcpy(f->id, f->desc, 16); /* (anything that stays the same) */
		f->id[6] = (uint8_t)((f->id[6] & 0x0f) | 0x40);
		f->id[8] = (uint8_t)((f->id[8] & 0x3f) | 0x80);
	}
}

static void make_super(const struct ext_found *f, uint8_t *s)
{
	bool new = f->isize > 128, ext4 = f->flags & FL_EXTENTS || f->csum, filetype = f->root[7] == 2;

	memset(s, 0, SB);
	plt_put_le32(s, f->ipg);
	plt_put_le32(s + 4, f->blocks);
	plt_put_le32(s + 0x0c, plt_get_le16(f->desc + 0x0c) | (f->desc_size > 32 ? (uint32_t)plt_get_le16(f->desc + 0x2c) << 16 : 0));
	plt_put_le32(s + 0x10, plt_get_le16(f->desc + 0x0e) | (f->desc_size > 32 ? (uint32_t)plt_get_le16(f->desc + 0x2e) << 16 : 0));
	plt_put_le32(s + 0x14, f->first);
	plt_put_le32(s + 0x18, (uint32_t)__builtin_ctz(f->bs) - 10);
	plt_put_le32(s + 0x1c, (uint32_t)__builtin_ctz(f->bs) - 10);
	plt_put_le32(s + 0x20, 8 * f->bs);
	plt_put_le32(s + 0x24, 8 * f->bs);
	plt_put_le32(s + 0x28, f->ipg);
	plt_put_le16(s + 0x36, 0xffff); /* it is not checked by counts of mounts */
	plt_put_le16(s + 0x38, 0xef53);
	plt_put_le16(s + 0x3a, 1);
	plt_put_le16(s + 0x3c, 1);
	plt_put_le32(s + 0x4c, 1);
	plt_put_le32(s + 0x54, FIRST_INODE);
	plt_put_le16(s + 0x58, (uint16_t)f->isize);
	plt_put_le32(s + 0x5c, (f->journal ? 4u : 0) | (ext4 || f->attributes ? 8u : 0) | (f->reserved ? 0x10u : 0) |
		     (f->flags & FL_INDEX || ext4 ? 0x20u : 0));
	plt_put_le32(s + 0x60, (filetype ? 2u : 0) | (f->recover ? 4u : 0) | (f->flags & FL_EXTENTS ? 0x40u : 0) |
		     (f->desc_size > 32 ? 0x80u : 0) | (f->flags & FL_EXTENTS ? 0x200u : 0) | (f->flags & FL_EA ? 0x400u : 0) |
		     (f->other_id ? 0x2000u : 0) | (f->flags & FL_INLINE ? 0x8000u : 0) | (f->flags & FL_CASEFOLD ? 0x20000u : 0));
	plt_put_le32(s + 0x64, 1u | (ext4 || f->large ? 2u : 0) | (ext4 ? 8u | 0x20u : 0) | (new ? 0x40u : 0) |
		     (f->csum ? 0x400u : 0) | (f->flags & FL_VERITY ? 0x8000u : 0));
	memcpy(s + 0x68, f->id, 16);
	plt_put_le16(s + 0xce, (uint16_t)f->reserved);
	plt_put_le32(s + 0xe0, f->journal ? JOURNAL : 0);
	memcpy(s + 0xec, f->id, 16);
	s[0xfc] = 1;
	plt_put_le16(s + 0xfe, f->desc_size > 32 ? (uint16_t)f->desc_size : 0);
	if (f->journal) { /* (a copy of where the journal lies) */
		const uint8_t *p = inode(f, JOURNAL);

		s[0xfd] = 1;
		memcpy(s + 0x10c, p + 0x28, 60);
		memcpy(s + 0x148, p + 0x6c, 4);
		memcpy(s + 0x14c, p + 4, 4);
	}
	plt_put_le16(s + 0x15c, new ? 32 : 0);
	plt_put_le16(s + 0x15e, new ? 32 : 0);
	plt_put_le32(s + 0x160, 1); /* bytes of names are signed */
	s[0x174] = f->flags & FL_EXTENTS ? 4 : 0;
	if (f->csum) {
		s[0x175] = 1;
		plt_put_le32(s + 0x270, f->other_id ? f->seed : 0);
		plt_put_le32(s + 0x3fc, plt_crc32c(~0u, s, 0x3fc));
	}
}

/* With blocks of @bs bytes. */
static bool is_one(struct ext_found *f, uint32_t bs)
{
	static const uint32_t sizes[] = { 256, 128, 512, 1024 };
	uint64_t clear, nodes;

	f->bs = bs;
	f->first = bs == SB;
	if (!find_group(f))
		return false;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(sizes); i++) {
		f->isize = sizes[i];
		if (f->isize > bs || !read_inodes(f) || !find_root(f))
			continue;
		find_end(f);
		f->csum = find_checksums(f);
		f->desc_size = f->csum ? f->desc_size : 32;
		if (!count_clear(f->block_bits, f->blocks - f->first, 8 * (uint64_t)bs, &clear) ||
		    !count_clear(f->inode_bits, f->ipg, 8 * (uint64_t)bs, &nodes))
			continue;
		if (f->csum || (clear == plt_get_le16(f->desc + 0x0c) && nodes == plt_get_le16(f->desc + 0x0e)))
			return true;
	}
	return false;
}

int guest_mend_ext(struct guest_exam *x, const struct plt_part *part, bool *ret_is)
{
	struct ext_found *f = calloc(1, sizeof(*f));
	bool mend = guest_mends(x);
	uint8_t sb[SB];
	int r = 0;

	*ret_is = false;
	if (!f)
		return -ENOMEM;
	f->disk = &x->disk;
	f->start = part->start;
	f->room = part->len;
	for (uint32_t bs = 4096; bs >= 1024 && !*ret_is; bs /= 2)
		*ret_is = is_one(f, bs);
	if (*ret_is) {
		find_features(f);
		make_super(f, sb);
		if (mend)
			r = guest_put(x, part->start + SB, sb, sizeof(sb), PLT_STRONG, "the superblock is made from what it describes");
		guest_found(x, "R-SB", mend && r == 0, part->start + SB, SB, "the ext filesystem at %#" PRIx64 " has lost its only "
			    "superblock; its descriptor, its bitmaps and %u inodes say what stood there (%s; its label and the seed of "
			    "hashed directories are lost: e2fsck makes these anew)", part->start, f->ipg,
			    f->csum ? "their checksums verify" : "their counts agree");
	}
	free(f->inodes);
	free(f);
	return r;
}
