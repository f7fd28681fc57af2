/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Partition tables: GPT by either copy, MBR with its chain of extended tables.  A GPT counts only if
 * both its checksums verify.  The chain is bounded by a count and must ascend.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "guestfs/guestfs.h"

#define SECTOR 512

static bool gpt_header_ok(const uint8_t *p)
{
	uint8_t copy[SECTOR];
	uint32_t size;

	if (memcmp(p, "EFI PART", 8))
		return false;
	size = plt_get_le32(p + 12);
	if (size < 92 || size > SECTOR)
		return false;
	memcpy(copy, p, SECTOR);
	memset(copy + 16, 0, 4);
	return crc32(0, copy, size) == plt_get_le32(p + 16);
}

/* Four entries with plausible flags, no two overlapping; a boot sector's code seldom looks so. */
static bool mbr_ok(const uint8_t *p)
{
	unsigned used = 0;

	if (p[510] != 0x55 || p[511] != 0xaa)
		return false;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *e = p + 446 + 16 * i;
		uint32_t start = plt_get_le32(e + 8), n = plt_get_le32(e + 12);

		if (e[0] & 0x7f)
			return false;
		if (!e[4]) {
			if (start || n)
				return false;
			continue;
		}
		if (!start || !n)
			return false;
		used++;
	}
	return used > 0;
}

void plt_parts_marks(struct plt_mark_sink *sink)
{
	const uint8_t *p = sink->buf + sink->pos;

	if (gpt_header_ok(p))
		plt_mark_add(sink, PLT_MARK_GPT, plt_get_le64(p + 24), plt_fsid(p + 56, 16), SECTOR, true);
	else if (mbr_ok(p))
		plt_mark_add(sink, PLT_MARK_MBR, 0, 0, SECTOR, false);
}

struct parts {
	struct plt_part *v;
	unsigned n;
	uint64_t disk;
};

/* Inside the disk and beside the others, or not at all. */
static void add(struct parts *ps, uint64_t start, uint64_t len, uint8_t type)
{
	unsigned i;

	if (ps->n == PLT_PARTS_MAX || !len || !plt_in_range(start, 1, ps->disk))
		return;
	len = PLT_MIN(len, ps->disk - start);
	for (i = 0; i < ps->n; i++)
		if (plt_ranges_overlap(start, len, ps->v[i].start, ps->v[i].len))
			return;
	for (i = ps->n; i && ps->v[i - 1].start > start; i--)
		ps->v[i] = ps->v[i - 1];
	ps->v[i] = (struct plt_part){ .start = start, .len = len, .type = type };
	ps->n++;
}

static bool read_gpt(const struct plt_guest *disk, uint64_t lba, struct parts *ps)
{
	uint8_t head[SECTOR];
	uint8_t *table PLT_AUTOFREE = NULL;
	uint32_t n, size;
	uint64_t off;

	if (disk->read(disk->arg, lba * SECTOR, head, SECTOR) || !gpt_header_ok(head) ||
	    plt_get_le64(head + 24) != lba)
		return false;
	n = plt_get_le32(head + 80);
	size = plt_get_le32(head + 84);
	if (n == 0 || n > 1024 || size < 128 || size > 4096 || !plt_is_pow2(size) ||
	    plt_mul(plt_get_le64(head + 72), SECTOR, &off) || !plt_in_range(off, (uint64_t)n * size, disk->size))
		return false;
	table = malloc((size_t)n * size);
	if (!table)
		return false;
	/* What is not there may be zeros that nobody stored: the checksum decides. */
	for (uint32_t at = 0; at < n * size; at += PLT_MIN(n * size - at, SECTOR))
		if (disk->read(disk->arg, off + at, table + at, PLT_MIN(n * size - at, SECTOR)))
			memset(table + at, 0, PLT_MIN(n * size - at, SECTOR));
	if (crc32(0, table, n * size) != plt_get_le32(head + 88))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *e = table + (size_t)i * size;
		uint64_t first = plt_get_le64(e + 32), last = plt_get_le64(e + 40), start, len;

		if (plt_get_le64(e) == 0 && plt_get_le64(e + 8) == 0)
			continue;
		if (last < first || plt_mul(first, SECTOR, &start) || plt_mul(last - first + 1, SECTOR, &len))
			continue;
		add(ps, start, len, 0xee);
	}
	return true;
}

unsigned plt_parts_gpt(const struct plt_guest *disk, struct plt_gpt_copy ret[2])
{
	struct plt_part v[PLT_PARTS_MAX];
	struct parts ps = { .v = v, .disk = disk->size };
	uint64_t lba[2] = { 1, disk->size / SECTOR - 1 };
	uint8_t head[SECTOR];
	unsigned n = 0;

	if (disk->size < 4 * SECTOR)
		return 0;
	ret[0].sound = read_gpt(disk, lba[0], &ps);
	if (ret[0].sound && !disk->read(disk->arg, SECTOR, head, SECTOR)) /* (the disk may have grown) */
		lba[1] = plt_get_le64(head + 32);
	ps.n = 0;
	ret[1].sound = lba[1] < disk->size / SECTOR && read_gpt(disk, lba[1], &ps);
	for (unsigned i = 0; i < 2; i++) {
		if (!ret[0].sound && !ret[1].sound &&
		    (disk->read(disk->arg, lba[i] * SECTOR, head, SECTOR) || memcmp(head, "EFI PART", 8)))
			continue;
		ret[n].off = PLT_MIN(lba[i], disk->size / SECTOR) * SECTOR;
		ret[n].sound = ret[i].sound;
		n++;
	}
	return n;
}

static void read_mbr(const struct plt_guest *disk, struct parts *ps)
{
	uint8_t s[SECTOR];
	uint64_t extended = 0, ext_len = 0, next;

	if (disk->read(disk->arg, 0, s, SECTOR) || !mbr_ok(s))
		return;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *e = s + 446 + 16 * i;
		uint64_t start = (uint64_t)plt_get_le32(e + 8) * SECTOR, len = (uint64_t)plt_get_le32(e + 12) * SECTOR;

		if (e[4] == 0xee)
			continue;
		if (e[4] == 0x05 || e[4] == 0x0f || e[4] == 0x85) {
			extended = start;
			ext_len = len;
		} else if (e[4]) {
			add(ps, start, len, e[4]);
		}
	}
	next = extended;
	for (unsigned depth = 0; next && depth < 128; depth++) {
		const uint8_t *e = s + 446;
		uint64_t start, link, here = next;

		if (!plt_in_range(here, SECTOR, disk->size) || disk->read(disk->arg, here, s, SECTOR) ||
		    s[510] != 0x55 || s[511] != 0xaa)
			return;
		start = here + (uint64_t)plt_get_le32(e + 8) * SECTOR;
		if (e[4] && start < extended + ext_len)
			add(ps, start, (uint64_t)plt_get_le32(e + 12) * SECTOR, e[4]);
		link = (uint64_t)plt_get_le32(e + 24) * SECTOR;
		next = link && e[20] && extended + link > here && link < ext_len ? extended + link : 0;
	}
}

int plt_parts_read(const struct plt_guest *disk, struct plt_part *ret, unsigned *ret_n, bool *ret_sure)
{
	struct parts ps = { .v = ret, .disk = disk->size };

	*ret_sure = true;
	if (disk->size >= 4 * SECTOR &&
	    (read_gpt(disk, 1, &ps) || read_gpt(disk, disk->size / SECTOR - 1, &ps))) {
		*ret_n = ps.n;
		return 0;
	}
	*ret_sure = false;
	if (disk->size >= SECTOR)
		read_mbr(disk, &ps);
	*ret_n = ps.n;
	return 0;
}
