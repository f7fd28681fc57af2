/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an ext block says of itself.  The checksum of a directory or extent block starts from a
 * register that only its inode has; run backwards over the block it gives that register, so the
 * block names its owner although it holds no number.
 */
#include <string.h>

#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/ext.h"

/* Directory entries from the start of a block that end exactly where its checksum begins. */
bool plt_ext_is_dir_chain(const uint8_t *p, uint32_t bs)
{
	uint32_t at = 0, end = bs - 12;

	while (at < end) {
		uint32_t len = end - at >= 8 ? plt_get_le16(p + at + 4) : 0;

		if (len < 8 || len % 4 || len > end - at || (p[at + 6] && p[at + 6] + 8u > len) || p[at + 7] > 7)
			return false;
		at += len;
	}
	return true;
}

bool plt_ext_dir_register(const uint8_t *p, uint32_t bs, uint32_t *ret)
{
	static const uint8_t tail[8] = { 0, 0, 0, 0, 12, 0, 0, 0xde };

	if (memcmp(p + bs - 12, tail, 8) || !plt_ext_is_dir_chain(p, bs))
		return false;
	*ret = plt_crc32c_back(plt_get_le32(p + bs - 4), p, bs - 12);
	return true;
}

bool plt_ext_extents_register(const uint8_t *p, size_t len, uint32_t *ret, uint32_t *ret_size)
{
	uint32_t n, max, covered;

	if (len < 1024 || plt_get_le16(p) != EXT_EXTENT_MAGIC)
		return false;
	n = plt_get_le16(p + 2);
	max = plt_get_le16(p + 4);
	covered = 12 + 12 * max;
	if (!n || n > max || max < 80 || covered + 4 > len || plt_get_le16(p + 6) > 4)
		return false;
	*ret = plt_crc32c_back(plt_get_le32(p + covered), p, covered);
	*ret_size = covered + 4;
	return true;
}

/* Two inodes of 256 bytes (or four of 128) of which one at least is in use, and nothing else. */
static bool looks_like_inodes(const uint8_t *p)
{
	unsigned used = 0;

	for (unsigned at = 0; at < 512; at += 256) {
		const uint8_t *i = p + at;
		uint16_t mode = plt_get_le16(i), extra = plt_get_le16(i + 0x80);
		uint16_t links = plt_get_le16(i + 0x1a);

		if (plt_is_zero(i, 256))
			continue;
		if (!mode && links <= 1) /* reserved ones, only times or a checksum */
			continue;
		if (!((1u << (mode >> 12)) & (1u << 1 | 1u << 2 | 1u << 4 | 1u << 6 | 1u << 8 | 1u << 10 | 1u << 12)))
			return false;
		if (extra < 4 || extra > 128 || extra % 4)
			return false;
		used++;
	}
	return used > 0;
}

/* The only descriptor of a filesystem of one group: its bitmaps and its table lie together, and nothing follows it. */
static bool looks_like_one_group(const uint8_t *p)
{
	uint32_t bb = plt_get_le32(p), ib = plt_get_le32(p + 4), it = plt_get_le32(p + 8);

	return bb && ib > bb && it > ib && it - bb < 64 && plt_get_le16(p + 0x1e) && plt_is_zero(p + 64, 512 - 64);
}

/* Descriptors of 64 or 32 bytes whose bitmaps and tables follow one another. */
static bool looks_like_gdt(const uint8_t *p)
{
	if (looks_like_one_group(p))
		return true;
	for (unsigned size = 32; size <= 64; size *= 2) {
		const uint8_t *q = p + size;
		uint32_t bb = plt_get_le32(p), ib = plt_get_le32(p + 4), it = plt_get_le32(p + 8);
		uint32_t step = plt_get_le32(q) - bb;

		if (bb && ib > bb && it > ib && step && plt_get_le32(q + 4) - ib == step &&
		    plt_get_le32(q + 8) > it && plt_get_le16(p + 0x1e) && plt_get_le16(q + 0x1e))
			return true;
	}
	return false;
}

void plt_ext_marks(struct plt_mark_sink *sink)
{
	const uint8_t *p = sink->buf + sink->pos;
	size_t left = sink->len - sink->pos;
	uint32_t value, size;

	if (left >= EXT_SB_SIZE && p[0x38] == 0x53 && p[0x39] == 0xef) {
		struct ext e = { 0 };

		if (!plt_ext_parse_super(p, &e))
			plt_mark_add(sink, PLT_MARK_EXT_SB, plt_get_le16(p + 0x5a), e.fs.fsid, EXT_SB_SIZE,
				     e.csum && plt_ext_super_verifies(p));
	}
	if (plt_get_be32(p) == 0xc03b3998u && plt_get_be32(p + 4) >= 1 && plt_get_be32(p + 4) <= 5)
		plt_mark_add(sink, PLT_MARK_JBD2, plt_get_be32(p + 4), 0, 512, false);
	if (plt_ext_extents_register(p, left, &value, &size)) {
		plt_mark_add(sink, PLT_MARK_EXT_OWNED, value, 0, size, false);
		return;
	}
	if (plt_get_le32(p) && plt_get_le16(p + 4) == 12 && p[6] == 1 && p[8] == '.' && p[12 + 6] == 2 &&
	    p[12 + 8] == '.' && p[12 + 9] == '.')
		plt_mark_add(sink, PLT_MARK_EXT_DIR, plt_get_le32(p), 0, 512, false);
	for (uint32_t bs = 1024; bs <= 65536 && bs <= left; bs *= 2)
		if (p[bs - 8] == 12 && p[bs - 5] == 0xde && plt_ext_dir_register(p, bs, &value)) {
			plt_mark_add(sink, PLT_MARK_EXT_OWNED, value, 0, bs, false);
			return;
		}
	if (looks_like_gdt(p))
		plt_mark_add(sink, PLT_MARK_EXT_GDT, 0, 0, 512, false);
	if (looks_like_inodes(p))
		plt_mark_add(sink, PLT_MARK_EXT_INODES, 0, 0, 512, false);
}
