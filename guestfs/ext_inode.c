/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * ext: inodes.  Where each lies, whether its checksum verifies, which number an inode without a place
 * must have, and what facts its map gives.  Extent trees fall one level at each step; blocks read are
 * counted against the survey's budget.
 */
#include "guestfs/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"

/* The register over an inode's bytes from @state, its own checksum read as zero. */
static uint32_t over_inode(const struct ext *e, uint32_t state, const uint8_t *inode, bool back)
{
	uint8_t copy[65536];

	memcpy(copy, inode, e->isize);
	memset(copy + 0x7c, 0, 2);
	if (e->isize > 128 && plt_get_le16(inode + 0x80) >= 4)
		memset(copy + 0x82, 0, 2);
	return back ? plt_crc32c_back(state, copy, e->isize) : plt_crc32c(state, copy, e->isize);
}

static bool full_checksum(const struct ext *e, const uint8_t *inode)
{
	return e->isize > 128 && plt_get_le16(inode + 0x80) >= 4;
}

/* The register that all belonging to an inode starts from. */
uint32_t plt_ext_owner(const struct ext *e, uint32_t ino, const uint8_t *inode)
{
	uint8_t le[4];

	plt_put_le32(le, ino);
	return plt_crc32c(plt_crc32c(e->seed, le, 4), inode + 0x64, 4);
}

int plt_ext_inode_verifies(const struct ext *e, uint32_t ino, const uint8_t *inode)
{
	uint32_t crc;

	if (!e->csum)
		return 0;
	crc = over_inode(e, plt_ext_owner(e, ino, inode), inode, false);
	if ((crc & 0xffff) != plt_get_le16(inode + 0x7c))
		return -1;
	return full_checksum(e, inode) && crc >> 16 != plt_get_le16(inode + 0x82) ? -1 : 1;
}

/* The only number with which the checksum verifies. */
bool plt_ext_inode_number(const struct ext *e, const uint8_t *inode, uint32_t *ret)
{
	uint32_t crc;

	if (!e->csum || !full_checksum(e, inode))
		return false;
	crc = plt_get_le16(inode + 0x7c) | (uint32_t)plt_get_le16(inode + 0x82) << 16;
	crc = plt_crc32c_back(over_inode(e, crc, inode, true), inode + 0x64, 4);
	*ret = plt_crc32c_solve(e->seed, crc);
	return *ret && *ret <= e->inodes;
}

uint64_t plt_ext_inode_off(const struct ext *e, uint32_t ino)
{
	const uint8_t *desc = ino ? plt_ext_desc(e, (ino - 1) / e->ipg) : NULL;
	uint64_t off;

	if (!desc)
		return UINT64_MAX;
	off = plt_ext_off(e, plt_ext_desc_table(e, desc)) + (uint64_t)((ino - 1) % e->ipg) * e->isize;
	return plt_in_range(off, e->isize, e->fs.disk->size) ? off : UINT64_MAX;
}

void plt_ext_fact(struct ext *e, enum plt_fact_kind kind, uint64_t block, uint64_t count, uint64_t value,
		  enum ext_what what)
{
	struct plt_fact fact = { .kind = (uint8_t)kind, .what = (uint8_t)what, .value = value };

	if (e->stop || !count || block >= e->blocks || count > e->blocks - block)
		return;
	fact.off = plt_ext_off(e, block);
	fact.len = count * e->bs;
	if (plt_in_range(fact.off, fact.len, e->fs.disk->size) && !e->fn(e->arg, &fact))
		e->stop = true;
}

/* ---- a walk over what an inode maps -------------------------------------------------------------- */

struct walk {
	struct ext *e;
	uint32_t ino, owner;
	uint64_t size;         /* of the file */
	bool dir, log, tail;
	uint64_t first;        /* only looking for logical block 0 */
	bool only_first;
};

/* @count blocks at @block hold the file's from @logical on. */
static void run(struct walk *w, uint64_t logical, uint64_t block, uint64_t count)
{
	struct ext *e = w->e;
	uint64_t last = w->size / e->bs;

	if (w->only_first) {
		if (logical == 0)
			w->first = block;
		return;
	}
	if (w->log) {
		plt_ext_fact(e, PLT_FACT_LOG, block, count, 0, 0);
		return;
	}
	if (w->dir) {
		for (uint64_t i = 0; i < count && !e->stop; i++) {
			enum ext_what what = logical + i ? EXT_IS_DIR : EXT_IS_DIR0;

			if (e->csum)
				plt_ext_fact(e, PLT_FACT_KEY, block + i, 1, (uint64_t)w->ino << 32 | w->owner, what);
			else
				plt_ext_fact(e, PLT_FACT_META, block + i, 1, (uint64_t)w->ino << 32, what);
		}
		return;
	}
	if (w->tail && w->size % e->bs && logical <= last && last - logical < count) {
		plt_ext_fact(e, PLT_FACT_TAIL, block + (last - logical), 1, w->size % e->bs, 0);
		count = last - logical;
	}
	plt_ext_fact(e, PLT_FACT_DATA, block, count, 0, 0);
}

static void extents(struct walk *w, const uint8_t *node, size_t len, unsigned depth)
{
	unsigned n = plt_get_le16(node + 2);
	struct ext *e = w->e;
	uint8_t *buf PLT_AUTOFREE = NULL;

	if (plt_get_le16(node) != EXT_EXTENT_MAGIC || plt_get_le16(node + 6) != depth || n > (len - 12) / 12)
		return;
	for (unsigned i = 0; i < n && !e->stop; i++) {
		const uint8_t *x = node + 12 + 12 * i;
		uint64_t block;
		uint32_t size, reg;

		if (!depth) {
			uint32_t count = plt_get_le16(x + 4);

			block = plt_get_le32(x + 8) | (uint64_t)plt_get_le16(x + 6) << 32;
			if (count && count <= 32768) /* more: unwritten, anything may lie there */
				run(w, plt_get_le32(x), block, count);
			continue;
		}
		block = plt_get_le32(x + 4) | (uint64_t)plt_get_le16(x + 8) << 32;
		if (!w->only_first)
			plt_ext_fact(e, e->csum ? PLT_FACT_KEY : PLT_FACT_META, block, 1,
				     (uint64_t)w->ino << 32 | (e->csum ? w->owner : 0), EXT_IS_EXTENTS);
		if (!buf && !(buf = malloc(e->bs)))
			return;
		if (plt_ext_read(e, block, buf))
			continue;
		if (e->csum && (!plt_ext_extents_register(buf, e->bs, &reg, &size) || reg != w->owner))
			continue;
		extents(w, buf, e->bs, depth - 1);
		if (w->only_first)
			return;
	}
}

/* Block pointers, @level of indirection above them; *logical moves on. */
static void pointers(struct walk *w, const uint8_t *ptr, unsigned n, unsigned level, uint64_t *logical)
{
	struct ext *e = w->e;
	uint64_t covers = 1, from = 0, at = 0, count = 0;
	uint8_t *buf PLT_AUTOFREE = NULL;

	for (unsigned i = 0; i < level; i++)
		covers *= e->bs / 4;
	for (unsigned i = 0; i < n && !e->stop && *logical * e->bs < w->size; i++, *logical += level ? 0 : 1) {
		uint64_t block = plt_get_le32(ptr + 4 * i), end;

		if (!level) {
			if (count && block == from + count) {
				count++;
				continue;
			}
			if (count)
				run(w, at, from, count);
			count = block ? 1 : 0;
			from = block;
			at = *logical;
			continue;
		}
		end = *logical + covers;
		if (block && (buf || (buf = malloc(e->bs)))) {
			plt_ext_fact(e, PLT_FACT_META, block, 1, 0, 0);
			if (!plt_ext_read(e, block, buf))
				pointers(w, buf, e->bs / 4, level - 1, logical);
		}
		*logical = end;
	}
	if (count)
		run(w, at, from, count);
}

static void walk(struct walk *w, const uint8_t *inode)
{
	if (plt_get_le32(inode + 0x20) & EXT_FL_EXTENTS) {
		unsigned depth = plt_get_le16(inode + 0x28 + 6);

		if (depth <= 5)
			extents(w, inode + 0x28, 60, depth);
	} else {
		uint64_t logical = 0;

		pointers(w, inode + 0x28, 12, 0, &logical);
		for (unsigned level = 1; level <= 3; level++)
			pointers(w, inode + 0x28 + 44 + 4 * level, 1, level, &logical);
	}
}

static uint64_t inode_size(const uint8_t *inode)
{
	return plt_get_le32(inode + 4) | (uint64_t)plt_get_le32(inode + 0x6c) << 32;
}

uint64_t plt_ext_first_block(struct ext *e, const uint8_t *inode)
{
	struct walk w = { .e = e, .size = e->bs, .only_first = true };

	if (plt_get_le32(inode + 0x20) & EXT_FL_INLINE)
		return 0;
	walk(&w, inode);
	return w.first;
}

void plt_ext_walk(struct ext *e, uint32_t ino, const uint8_t *inode)
{
	unsigned type = plt_get_le16(inode) >> 12;
	struct walk w = { .e = e, .ino = ino, .size = inode_size(inode) };

	if (plt_get_le32(inode + 0x20) & EXT_FL_INLINE)
		return;
	if (type == 4)
		w.dir = true;
	else if (type == 8 && ino == EXT_JOURNAL_INO)
		w.log = true;
	else if (type == 8 && ino >= 11)
		w.tail = true;
	else if (type == 10 && w.size >= 60 && plt_get_le32(inode + 0x1c))
		w.tail = true;
	else
		return;
	w.owner = plt_ext_owner(e, ino, inode);
	walk(&w, inode);
}
