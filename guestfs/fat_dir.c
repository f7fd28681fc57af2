/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Parts of FAT directories that do not name their place: the root directory, and whatever lies behind a directory's
 * first cluster.  Such a part is told by the form of its entries; that it is of this filesystem, by the allocation
 * table, in which each of its files has a chain as long as the file; and of this directory, by the '..' of the
 * directories in it.  It never says that something is not a directory: entries may be damaged themselves.
 */
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/fat.h"

#define ENTRY 32
#define CHAIN_MAX 256   /* clusters of a file that are counted */
#define TOLD 2          /* entries that agree with the table */

static bool is_long_name(const uint8_t *e)
{
	return e[11] == 0x0f && !e[12] && !plt_get_le16(e + 26);
}

static bool is_short_name(const uint8_t *e)
{
	if (e[11] & 0xc0 || e[12] & ~0x18u || e[0] == ' ')
		return false;
	for (unsigned i = e[0] == 0xe5 || e[0] == 0x05; i < 11; i++)
		if (e[i] < ' ' || (e[i] >= 'a' && e[i] <= 'z') || strchr("\"*+,./:;<=>?[\\]|", e[i]))
			return false;
	return true;
}

bool plt_fat_is_directory(const uint8_t *sector)
{
	unsigned names = 0;

	for (unsigned at = 0; at < 512; at += ENTRY) {
		const uint8_t *e = sector + at;

		if (!e[0])
			return names && plt_is_zero(e, 512 - at);
		if (is_long_name(e))
			continue;
		if (!is_short_name(e))
			return false;
		names += e[0] != 0xe5;
	}
	return names;
}

/* Whether the '..' of the directory at @cluster leads to @parent: 1, -1; 0: nobody knows. */
static int has_parent(struct fat *f, uint32_t cluster, uint32_t parent)
{
	uint8_t e[2 * ENTRY];
	uint32_t up;

	if (!plt_in_range(plt_fat_cluster_off(f, cluster), sizeof(e), f->fs.disk->size) ||
	    f->fs.disk->read(f->fs.disk->arg, plt_fat_cluster_off(f, cluster), e, sizeof(e)) || memcmp(e + ENTRY, "..  ", 4))
		return 0;
	up = plt_get_le16(e + ENTRY + 26) | (f->bits == 32 ? (uint32_t)plt_get_le16(e + ENTRY + 20) << 16 : 0);
	return up == parent ? 1 : -1;
}

/* Whether the chain that begins at @cluster is that of @size bytes: 1, -1; 0: nobody knows. */
static int has_length(struct fat *f, uint32_t cluster, uint32_t size)
{
	uint64_t want = plt_div_up(size, f->fs.block), n = 1;

	while (n < CHAIN_MAX && n <= want) {
		uint32_t next = plt_fat_next(f, cluster);

		if (!next)
			break;
		cluster = next;
		n++;
	}
	if (n == want || n == CHAIN_MAX)
		return 1;
	return f->cached_error ? 0 : -1;
}

int plt_fat_judge_directory(struct fat *f, uint32_t parent, const uint8_t *block, size_t len)
{
	unsigned agree = 0, differ = 0, below = 0;

	if (block[0] == '.')
		return 0;
	for (size_t at = 0; at + 512 <= len && !(at && plt_is_zero(block + at, 512)); at += 512)
		if (!plt_fat_is_directory(block + at))
			return 0;
	for (size_t at = 0; at + ENTRY <= len && block[at]; at += ENTRY) {
		const uint8_t *e = block + at;
		uint32_t cluster = plt_get_le16(e + 26) | (f->bits == 32 ? (uint32_t)plt_get_le16(e + 20) << 16 : 0);
		int verdict;

		if (e[0] == 0xe5 || e[11] & 0x08 || (!cluster && !plt_get_le32(e + 28)))
			continue;
		if (!plt_fat_valid(f, cluster))
			return 0;
		verdict = e[11] & 0x10 ? has_parent(f, cluster, parent) : has_length(f, cluster, plt_get_le32(e + 28));
		agree += verdict > 0;
		below += verdict > 0 && e[11] & 0x10;
		differ += verdict < 0;
	}
	return agree < TOLD || differ ? 0 : below ? 2 : 1;
}
