/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * XFS as evidence sees it.  Big-endian, checksums little-endian.  In version 5 nearly every metadata
 * block carries its own address, its filesystem's uuid and a CRC-32C, and every inode its number; so
 * marks do most of the work, and the survey (inode trees, extent maps) says where files lie and end.
 * B+trees fall one level at each step, and blocks read are counted against a budget.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/xfs.h"

#define BUDGET (4u << 20) /* blocks that one survey reads */

enum { IS_AG = 1, IS_INODES, IS_BLOCK };

/* ---- marks ---------------------------------------------------------------------------------------- */

/* Where each kind of block keeps its address, uuid and checksum. */
static const struct layout { uint32_t magic; uint8_t blkno, uuid, crc; } layouts[] = {
	{ 0x41423342, 16, 32, 52 }, /* AB3B */
	{ 0x41423343, 16, 32, 52 }, /* AB3C */
	{ 0x49414233, 16, 32, 52 }, /* IAB3 */
	{ 0x46494233, 16, 32, 52 }, /* FIB3 */
	{ 0x524d4233, 16, 32, 52 }, /* RMB3 */
	{ 0x52334643, 16, 32, 52 }, /* R3FC */
	{ 0x424d4133, 24, 40, 64 }, /* BMA3 */
	{ 0x58444233, 8, 24, 4 },   /* XDB3 */
	{ 0x58444433, 8, 24, 4 },   /* XDD3 */
	{ 0x58444633, 8, 24, 4 },   /* XDF3 */
	{ 0x58534c4d, 40, 16, 12 }, /* XSLM */
};
static const struct layout da_layout = { 0, 16, 32, 12 }; /* magic is 16 bits at 8 */

static const struct layout *layout_of(const uint8_t *p)
{
	uint32_t magic = plt_get_be32(p);
	uint16_t da = plt_get_be16(p + 8);

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(layouts); i++)
		if (layouts[i].magic == magic)
			return &layouts[i];
	return da == 0x3ebe || da == 0x3df1 || da == 0x3dff || da == 0x3bee ? &da_layout : NULL;
}

bool plt_xfs_crc_ok(const uint8_t *p, size_t len, size_t at)
{
	uint32_t crc = plt_crc32c(~0u, p, at);

	crc = plt_crc32c(crc, "\0\0\0", 4);
	return ~plt_crc32c(crc, p + at + 4, len - at - 4) == plt_get_le32(p + at);
}

/* At any size that such a block may have. */
static bool crc_ok_somehow(const uint8_t *p, size_t left, size_t min, size_t at)
{
	for (size_t len = min; len <= left && len <= 65536; len *= 2)
		if (plt_xfs_crc_ok(p, len, at))
			return true;
	return false;
}

bool plt_xfs_parse_super(const uint8_t *p, struct xfs *x)
{
	unsigned version = plt_get_be16(p + 100) & 15;
	uint32_t bs = plt_get_be32(p + 4);
	uint64_t most;

	if (memcmp(p, "XFSB", 4) || (version != 4 && version != 5))
		return false;
	x->v5 = version == 5;
	x->blocklog = p[120];
	x->inodelog = p[122];
	x->inopblog = p[123];
	x->agblklog = p[124];
	x->dirblklog = p[192];
	x->sectsize = plt_get_be16(p + 102);
	x->isize = plt_get_be16(p + 104);
	x->dblocks = plt_get_be64(p + 8);
	x->agblocks = plt_get_be32(p + 84);
	x->agcount = plt_get_be32(p + 88);
	x->logstart = plt_get_be64(p + 48);
	x->logblocks = plt_get_be32(p + 96);
	x->nrext64 = x->v5 && plt_get_be32(p + 216) & 32;
	memcpy(x->uuid, p + (x->v5 && plt_get_be32(p + 216) & 4 ? 248 : 32), 16);
	x->fs.fsid = plt_fsid(x->uuid, 16);
	x->fs.block = bs;
	x->fs.zero_tails = true;
	x->fs.sums = x->v5;
	return x->blocklog >= 9 && x->blocklog <= 16 && bs == 1u << x->blocklog && x->inodelog >= 8 &&
	       x->inodelog <= 11 && x->isize == 1u << x->inodelog && x->inodelog + x->inopblog == x->blocklog &&
	       plt_is_pow2(x->sectsize) && x->sectsize >= 512 && x->sectsize <= bs && x->agblklog < 32 &&
	       x->agblocks >= 16 && x->agblocks <= 1u << x->agblklog && x->agcount && x->agcount <= XFS_AGS_MAX &&
	       !plt_mul(x->agcount, x->agblocks, &most) && x->dblocks <= most && x->dblocks > most - x->agblocks &&
	       most < UINT64_MAX >> 17;
}

void plt_xfs_marks(struct plt_mark_sink *sink)
{
	const uint8_t *p = sink->buf + sink->pos;
	size_t left = sink->len - sink->pos;
	const struct layout *l = layout_of(p);
	uint32_t magic = plt_get_be32(p);

	if (l && !plt_is_zero(p + l->uuid, 16) && plt_get_be64(p + l->blkno) < UINT64_MAX >> 10) {
		bool sure = crc_ok_somehow(p, left, 512, l->crc);

		if (sure || l != &da_layout) /* its magic is only two bytes */
			plt_mark_add(sink, PLT_MARK_XFS_BLOCK, plt_get_be64(p + l->blkno) * 512, plt_fsid(p + l->uuid, 16),
				     512, sure);
	} else if (magic == 0x58465342) { /* XFSB: the AGF behind it tells which copy */
		struct xfs x = { 0 };
		uint32_t s = plt_get_be16(p + 102);

		if (plt_xfs_parse_super(p, &x) && s + 64 <= left && !memcmp(p + s, "XAGF", 4) && plt_get_be32(p + s + 8) < XFS_AGS_MAX)
			plt_mark_add(sink, PLT_MARK_XFS_AG, (uint64_t)plt_get_be32(p + s + 8) << 16, x.fs.fsid, 512,
				     x.v5 && plt_xfs_crc_ok(p, x.sectsize, 224));
	} else if (magic == 0x58414746 && plt_get_be32(p + 8) < XFS_AGS_MAX) { /* XAGF: crc 216, uuid 64 */
		plt_mark_add(sink, PLT_MARK_XFS_AG, (uint64_t)plt_get_be32(p + 8) << 16 | 1, plt_fsid(p + 64, 16), 512,
			     crc_ok_somehow(p, left, 512, 216));
	} else if (magic == 0x58414749 && plt_get_be32(p + 8) < XFS_AGS_MAX) { /* XAGI: crc 312, uuid 296 */
		plt_mark_add(sink, PLT_MARK_XFS_AG, (uint64_t)plt_get_be32(p + 8) << 16 | 2, plt_fsid(p + 296, 16), 512,
			     crc_ok_somehow(p, left, 512, 312));
	} else if (magic >> 16 == 0x494e && p[4] == 3) {
		plt_mark_add(sink, PLT_MARK_XFS_INODE, plt_get_be64(p + 152), plt_fsid(p + 160, 16), 512,
			     crc_ok_somehow(p, PLT_MIN(left, (size_t)2048), 256, 100));
	}
}

/* ---- the reader ------------------------------------------------------------------------------------- */

static void xfs_free(struct plt_guestfs *fs)
{
	free(fs);
}

static int xfs_open(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len,
		    struct plt_guestfs **ret)
{
	uint8_t sb[512];
	struct xfs *x;
	int r;

	r = plt_guestfs_super(disk, start, copy, len, XFS_SB_SIZE, 0, sb, sizeof(sb), &copy);
	if (r)
		return r;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	if (!plt_xfs_parse_super(copy, x) || start >= disk->size) {
		free(x);
		return -ENOENT;
	}
	x->fs.ops = &plt_guestfs_xfs;
	x->fs.disk = disk;
	x->fs.start = start;
	x->fs.grid = (uint32_t)(start % x->fs.block);
	x->fs.size = PLT_MIN(x->dblocks << x->blocklog, disk->size - start);
	x->fs.cut = x->dblocks << x->blocklog > x->fs.size;
	*ret = &x->fs;
	return 0;
}

/* Byte on the disk of a block number, which is no linear one; UINT64_MAX. */
static uint64_t off_of(const struct xfs *x, uint64_t block)
{
	uint64_t ag = block >> x->agblklog, in_ag = block & ((UINT64_C(1) << x->agblklog) - 1), off;

	if (ag >= x->agcount || in_ag >= x->agblocks)
		return UINT64_MAX;
	off = x->fs.start + ((ag * x->agblocks + in_ag) << x->blocklog);
	return plt_in_range(off, x->fs.block, x->fs.disk->size) ? off : UINT64_MAX;
}

static uint64_t inode_off(const struct xfs *x, uint64_t ino)
{
	uint64_t off = off_of(x, ino >> x->inopblog);

	return off == UINT64_MAX ? off : off + ((ino & ((1u << x->inopblog) - 1)) << x->inodelog);
}

static int read_at(struct xfs *x, uint64_t off, void *buf, size_t len)
{
	if (!plt_in_range(off, len, x->fs.disk->size))
		return -EUCLEAN;
	if (!x->budget)
		return -EDQUOT;
	x->budget--;
	return x->fs.disk->read(x->fs.disk->arg, off, buf, len);
}

static void fact(struct xfs *x, enum plt_fact_kind kind, uint64_t off, uint64_t len, uint64_t value, uint8_t what)
{
	struct plt_fact f = { .kind = (uint8_t)kind, .off = off, .len = len, .value = value, .what = what };

	if (!x->stop && len && plt_in_range(off, len, x->fs.disk->size) && !x->fn(x->arg, &f))
		x->stop = true;
}

/* One extent of an inode. */
static void extent(struct xfs *x, const uint8_t *rec, uint64_t size, bool dir)
{
	uint64_t hi = plt_get_be64(rec), lo = plt_get_be64(rec + 8), last = size >> x->blocklog;
	uint64_t logical = (hi & ~(UINT64_C(1) << 63)) >> 9, block = (hi & 0x1ff) << 43 | lo >> 21;
	uint64_t count = lo & 0x1fffff, off = off_of(x, block), tail = size & (x->fs.block - 1);

	if (hi >> 63 || off == UINT64_MAX || (block & ((UINT64_C(1) << x->agblklog) - 1)) + count > x->agblocks)
		return; /* unwritten: anything may lie there */
	if (dir) {
		fact(x, PLT_FACT_META, off, count << x->blocklog, 0, IS_BLOCK);
		return;
	}
	if (tail && logical <= last && last - logical < count) {
		fact(x, PLT_FACT_TAIL, off + ((last - logical) << x->blocklog), x->fs.block, tail, 0);
		count = last - logical;
	} else if (logical > last) {
		return;
	}
	fact(x, PLT_FACT_DATA, off, count << x->blocklog, 0, 0);
}

static void bmap(struct xfs *x, uint64_t block, unsigned level, uint64_t size, bool dir)
{
	uint8_t *buf PLT_AUTOFREE = malloc(x->fs.block);
	uint64_t off = off_of(x, block);
	uint32_t head = x->v5 ? 72 : 24, max = (x->fs.block - head) / 16, n;

	if (!buf || off == UINT64_MAX)
		return;
	fact(x, PLT_FACT_META, off, x->fs.block, 0, IS_BLOCK);
	if (read_at(x, off, buf, x->fs.block) || plt_get_be32(buf) != (x->v5 ? 0x424d4133u : 0x424d4150u) ||
	    plt_get_be16(buf + 4) != level)
		return;
	n = PLT_MIN((uint32_t)plt_get_be16(buf + 6), max);
	for (uint32_t i = 0; i < n && !x->stop; i++) {
		if (level)
			bmap(x, plt_get_be64(buf + head + 8 * (max + i)), level - 1, size, dir);
		else
			extent(x, buf + head + 16 * i, size, dir);
	}
}

static void inode(struct xfs *x, const uint8_t *p)
{
	unsigned type = plt_get_be16(p + 2) >> 12, format = p[5], core = p[4] == 3 ? 176 : 100;
	uint64_t size = plt_get_be64(p + 56);
	uint64_t fork = p[82] ? p[82] * 8u : x->isize - core, n;

	if (plt_get_be16(p) != 0x494e || (type != 4 && type != 8 && type != 10) || fork > x->isize - core ||
	    plt_get_be16(p + 90) & 1) /* its data lies on a realtime device */
		return;
	if (format == 2) {
		n = x->nrext64 && plt_get_be64(p + 120) & 16 ? plt_get_be64(p + 24) : plt_get_be32(p + 76);
		for (uint64_t i = 0; i < n && i < fork / 16 && !x->stop; i++)
			extent(x, p + core + 16 * i, size, type != 8);
	} else if (format == 3 && fork >= 20) {
		unsigned level = plt_get_be16(p + core), recs = plt_get_be16(p + core + 2);
		uint64_t max = (fork - 4) / 16;

		for (unsigned i = 0; level && level <= 8 && i < recs && i < max && !x->stop; i++)
			bmap(x, plt_get_be64(p + core + 4 + 8 * max + 8 * i), level - 1, size, type != 8);
	}
}

static void chunk(struct xfs *x, uint32_t ag, const uint8_t *rec, uint8_t *buf)
{
	uint64_t first = ((uint64_t)ag << x->agblklog << x->inopblog) + plt_get_be32(rec), free = plt_get_be64(rec + 8);
	uint32_t per = 1u << x->inopblog, step = PLT_MIN(per, 64u);

	if (x->chunks++ % PLT_MAX(x->fs.thin, 1u))
		return;

	for (uint32_t i = 0; i < 64 && !x->stop; i += step) {
		uint64_t off = inode_off(x, first + i), all = step == 64 ? UINT64_MAX : (UINT64_C(1) << step) - 1;

		if (off == UINT64_MAX || (free >> i & all) == all)
			continue;
		fact(x, PLT_FACT_META, off, (uint64_t)step << x->inodelog, first + i, IS_INODES);
		if (read_at(x, off, buf, (size_t)step << x->inodelog))
			continue;
		for (uint32_t k = 0; k < step; k++)
			if (!(free >> (i + k) & 1))
				inode(x, buf + ((size_t)k << x->inodelog));
	}
}

static void inobt(struct xfs *x, uint32_t ag, uint32_t agbno, unsigned level)
{
	uint8_t *buf PLT_AUTOFREE = malloc(x->fs.block), *inodes PLT_AUTOFREE = malloc((size_t)64 << x->inodelog);
	uint64_t off = off_of(x, (uint64_t)ag << x->agblklog | agbno);
	uint32_t head = x->v5 ? 56 : 16, max = (x->fs.block - head) / 8, n;

	if (!buf || !inodes || off == UINT64_MAX)
		return;
	fact(x, PLT_FACT_META, off, x->fs.block, 0, IS_BLOCK);
	if (read_at(x, off, buf, x->fs.block) || plt_get_be32(buf) != (x->v5 ? 0x49414233u : 0x49414254u) ||
	    plt_get_be16(buf + 4) != level)
		return;
	n = plt_get_be16(buf + 6);
	for (uint32_t i = 0; i < n && !x->stop; i++) {
		if (level && i < max)
			inobt(x, ag, plt_get_be32(buf + head + 4 * (max + i)), level - 1);
		else if (!level && i < (x->fs.block - head) / 16)
			chunk(x, ag, buf + head + 16 * i, inodes);
	}
}

static int xfs_survey(struct plt_guestfs *fs, plt_fact_fn fn, void *arg)
{
	struct xfs *x = (struct xfs *)fs;
	uint8_t agi[512];
	uint64_t log = x->logstart ? off_of(x, x->logstart) : UINT64_MAX;

	x->fn = fn;
	x->arg = arg;
	x->stop = false;
	x->budget = BUDGET;
	x->chunks = 0;
	if (log != UINT64_MAX)
		fact(x, PLT_FACT_LOG, log, (uint64_t)x->logblocks << x->blocklog, 0, 0);
	for (uint32_t ag = 0; ag < x->agcount && !x->stop && x->budget; ag++) {
		uint64_t off = off_of(x, (uint64_t)ag << x->agblklog);

		if (off == UINT64_MAX)
			break;
		fact(x, PLT_FACT_META, off, x->fs.block, ag, IS_AG);
		if (!read_at(x, off + 2 * x->sectsize, agi, sizeof(agi)) && !memcmp(agi, "XAGI", 4) &&
		    plt_get_be32(agi + 8) == ag && plt_get_be32(agi + 24) >= 1 && plt_get_be32(agi + 24) <= 8)
			inobt(x, ag, plt_get_be32(agi + 20), plt_get_be32(agi + 24) - 1);
	}
	return 0;
}

static bool xfs_locate(struct plt_guestfs *fs, const struct plt_mark *mark, const uint8_t *block, size_t len,
		       uint64_t *ret, bool *ret_sure)
{
	const struct xfs *x = (struct xfs *)fs;
	uint64_t off;

	(void)block;
	(void)len;
	if (mark->fsid != fs->fsid)
		return false;
	*ret_sure = mark->sure;
	switch (mark->kind) {
	case PLT_MARK_XFS_AG:
		off = off_of(x, mark->value >> 16 << x->agblklog);
		if (off == UINT64_MAX)
			return false;
		*ret = off + (mark->value & 0xffff) * x->sectsize;
		return true;
	case PLT_MARK_XFS_BLOCK:
		if (!plt_in_range(mark->value, 512, fs->size))
			return false;
		*ret = fs->start + mark->value;
		return true;
	case PLT_MARK_XFS_INODE:
		*ret = inode_off(x, mark->value);
		return *ret != UINT64_MAX;
	default:
		return false;
	}
}

/* Its blocks may be larger than the filesystem's, and so what its checksums cover. */
static bool is_directory(const struct layout *l)
{
	return l == &da_layout || l->crc == 4;
}

static int xfs_verify(struct plt_guestfs *fs, const struct plt_fact *f, uint64_t off, const uint8_t *block)
{
	const struct xfs *x = (struct xfs *)fs;
	const struct layout *l;
	int good = 0;

	switch (f->what) {
	case IS_AG:
		if (memcmp(block, "XFSB", 4) || memcmp(block + 32, x->uuid, 16))
			return memcmp(block, "XFSB", 4) ? -1 : 0; /* with meta_uuid the two differ */
		return 1;
	case IS_INODES:
		for (uint32_t at = 0; at < fs->block; at += x->isize) {
			const uint8_t *p = block + at;

			if (plt_get_be16(p) != 0x494e)
				return -1;
			if (!x->v5)
				continue;
			if (inode_off(x, plt_get_be64(p + 152)) != off + at || memcmp(p + 160, x->uuid, 16) ||
			    !plt_xfs_crc_ok(p, x->isize, 100))
				return -1;
			good = 1;
		}
		return good;
	case IS_BLOCK:
		l = layout_of(block);
		if (!x->v5 || !l)
			return 0; /* the rest of a directory block that is larger than a block */
		if (plt_get_be64(block + l->blkno) * 512 != off - fs->start || memcmp(block + l->uuid, x->uuid, 16))
			return -1;
		return (x->dirblklog && is_directory(l)) || plt_xfs_crc_ok(block, fs->block, l->crc) ? 1 : -1;
	default:
		return 0;
	}
}

/* The log sequence number of the last change. */
static uint64_t xfs_newness(struct plt_guestfs *fs, const struct plt_fact *f, const uint8_t *block)
{
	const struct xfs *x = (struct xfs *)fs;
	const struct layout *l = layout_of(block);
	uint64_t ret = 0;

	if (!x->v5)
		return 0;
	if (f->what == IS_INODES) {
		for (uint32_t at = 0; at < fs->block; at += x->isize)
			ret = PLT_MAX(ret, plt_get_be64(block + at + 112));
		return ret;
	}
	return f->what == IS_BLOCK && l ? plt_get_be64(block + l->uuid - (l->magic == 0x58534c4d ? 0 : 8)) : 0;
}

#define LOG_SECTOR 512u
#define LOG_MAGIC 0xfeedbabeu
#define LOG_RECORD (256u << 10) /* the largest record, and what may lie behind it */
#define LOG_UNMOUNT 0x20u       /* of an operation */

/* The cycle in which a sector of the log was written; 0: never, or it cannot be read. */
static uint32_t log_cycle(struct xfs *x, uint64_t log, uint64_t sector, uint8_t *buf)
{
	if (read_at(x, log + sector * LOG_SECTOR, buf, LOG_SECTOR))
		return 0;
	return plt_get_be32(buf) == LOG_MAGIC ? plt_get_be32(buf + 4) : plt_get_be32(buf);
}

/*
 * Is the last record of the log something else than the mark of an unmount?  The log is written round and round, and
 * every sector says in which round: the newest is the last of those with the first one's number.
 */
static bool xfs_unclean(struct plt_guestfs *fs)
{
	struct xfs *x = (struct xfs *)fs;
	uint64_t log = x->logstart ? off_of(x, x->logstart) : UINT64_MAX, size = (uint64_t)x->logblocks << x->blocklog;
	uint64_t lo = 0, hi = size / LOG_SECTOR;
	uint8_t buf[2 * LOG_SECTOR];
	uint32_t cycle;

	x->budget = 4096;
	if (log == UINT64_MAX || !hi || !plt_in_range(log, size, fs->disk->size))
		return false; /* on a device of its own */
	cycle = log_cycle(x, log, 0, buf);
	while (hi - lo > 1) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (log_cycle(x, log, mid, buf) == cycle)
			lo = mid;
		else
			hi = mid;
	}
	for (uint64_t n = 0; n < LOG_RECORD / LOG_SECTOR; n++, lo = (lo ? lo : size / LOG_SECTOR) - 1) {
		if (log_cycle(x, log, lo, buf) == 0 || plt_get_be32(buf) != LOG_MAGIC)
			continue;
		return plt_get_be32(buf + 40) != 1 || lo + 1 == size / LOG_SECTOR ||
		       read_at(x, log + (lo + 1) * LOG_SECTOR, buf + LOG_SECTOR, LOG_SECTOR) ||
		       !(buf[LOG_SECTOR + 9] & LOG_UNMOUNT);
	}
	return true;
}

const struct plt_guestfs_ops plt_guestfs_xfs = {
	.name = "xfs",
	.open = xfs_open,
	.survey = xfs_survey,
	.locate = xfs_locate,
	.verify = xfs_verify,
	.newness = xfs_newness,
	.unclean = xfs_unclean,
	.free = xfs_free,
};
