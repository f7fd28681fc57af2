/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Marks: one pass over content, sector by sector, in which each family looks for its structures.
 * The first bytes of a sector refuse nearly all, so the pass costs little more than reading.
 * Also the one table of filesystem readers.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc.h"
#include "base/zero.h"
#include "guestfs/guestfs.h"

const struct plt_guestfs_ops *const plt_guestfs_all[] = {
	&plt_guestfs_ext,
	&plt_guestfs_xfs,
	&plt_guestfs_ntfs,
	&plt_guestfs_fat,
	NULL,
};

const struct plt_guestfs_ops *plt_guestfs_of_mark(enum plt_mark_kind kind)
{
	switch (kind) {
	case PLT_MARK_EXT_SB:
	case PLT_MARK_EXT_DIR:
	case PLT_MARK_EXT_OWNED:
	case PLT_MARK_EXT_INODES:
	case PLT_MARK_EXT_GDT:
		return &plt_guestfs_ext;
	case PLT_MARK_XFS_BLOCK:
	case PLT_MARK_XFS_AG:
	case PLT_MARK_XFS_INODE:
		return &plt_guestfs_xfs;
	case PLT_MARK_NTFS_BOOT:
	case PLT_MARK_NTFS_MFT:
	case PLT_MARK_NTFS_INDX:
		return &plt_guestfs_ntfs;
	case PLT_MARK_FAT_BOOT:
	case PLT_MARK_FAT_DIR:
	case PLT_MARK_FAT_ENTRIES:
	case PLT_MARK_FAT_TABLE:
		return &plt_guestfs_fat;
	default:
		return NULL;
	}
}

bool plt_mark_needs_content(enum plt_mark_kind kind)
{
	return kind == PLT_MARK_EXT_INODES || kind == PLT_MARK_EXT_DIR || kind == PLT_MARK_EXT_GDT;
}

bool plt_mark_opens(enum plt_mark_kind kind)
{
	return kind == PLT_MARK_EXT_SB || kind == PLT_MARK_XFS_AG || kind == PLT_MARK_NTFS_BOOT ||
	       kind == PLT_MARK_FAT_BOOT;
}

int plt_guestfs_super(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len, size_t least,
		      size_t skip, uint8_t *buf, size_t n, const uint8_t **ret)
{
	*ret = copy ? copy : buf;
	if (copy)
		return len < least ? -ENOENT : 0;
	return plt_in_range(start, skip + n, disk->size) ? disk->read(disk->arg, start + skip, buf, n) : -ENOENT;
}

int plt_guestfs_open_any(const struct plt_guest *disk, uint64_t start, struct plt_guestfs **ret)
{
	int r = -ENOENT;

	for (unsigned i = 0; plt_guestfs_all[i]; i++) {
		int one = plt_guestfs_all[i]->open(disk, start, NULL, 0, ret);

		if (!one || one == -ENOMEM)
			return one;
		if (one == -ENODATA)
			r = one;
	}
	return r;
}

void plt_guestfs_free(struct plt_guestfs *fs)
{
	if (fs)
		fs->ops->free(fs);
}

uint64_t plt_fsid(const void *id, size_t len)
{
	uint64_t hi = plt_crc32c(~0u, id, len), lo = plt_crc32c(0x12345678, id, len / 2);

	return (hi << 32 | lo) | 1;
}

void plt_mark_add(struct plt_mark_sink *sink, enum plt_mark_kind kind, uint64_t value, uint64_t fsid, uint32_t len,
		  bool sure)
{
	struct plt_mark mark = {
		.kind = (uint8_t)kind, .value = value, .fsid = fsid, .len = len, .sure = sure,
		.pos = sink->base + sink->pos,
	};

	if (!sink->stop && !sink->fn(sink->arg, &mark))
		sink->stop = true;
}

void plt_guest_marks(const uint8_t *buf, size_t len, uint64_t base, plt_mark_fn fn, void *arg)
{
	struct plt_mark_sink sink = { .buf = buf, .len = len, .base = base, .fn = fn, .arg = arg };

	for (sink.pos = 0; len - sink.pos >= 512 && !sink.stop; sink.pos += 512) {
		if (plt_is_zero(buf + sink.pos, 512))
			continue;
		plt_ext_marks(&sink);
		plt_xfs_marks(&sink);
		plt_ntfs_marks(&sink);
		plt_fat_marks(&sink);
		plt_parts_marks(&sink);
	}
}
