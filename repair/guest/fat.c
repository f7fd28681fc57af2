/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The boot sector of FAT12 and FAT16, of which there is no copy, from what it describes: the two copies of the
 * allocation table lie one behind the other, which tells where they begin and how long they are, and every directory
 * but the root says which cluster it is, which tells how large clusters are and where they begin.  The root lies
 * between.  The invariant: it is written only if both copies are the same and all directories agree.  Code that starts
 * a system cannot be made, and the serial number is a new one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "repair/guest/guest.h"

#define RESERVED_MAX 64            /* sectors in front of the first table */
#define TABLE_MAX 256              /* sectors of one: 65536 entries of 16 bits */
#define NARROW_MAX 12              /* sectors of one of 12 bits */
#define DIRS_MAX 256
#define SEARCH_BYTES (UINT64_C(256) << 20) /* that are looked through for directories */
#define PIECE (1u << 20)

struct fat_found {
	const struct plt_guest *disk;
	uint64_t start, sectors;
	uint32_t reserved, table, root, data, cluster; /* sectors */
	uint8_t media;
	struct { uint64_t sector, cluster; } dir[DIRS_MAX];
	unsigned ndirs;
	uint8_t first[TABLE_MAX * GUEST_SECTOR];       /* the first table */
	uint8_t second[TABLE_MAX * GUEST_SECTOR];
};

static int rd(const struct fat_found *f, uint64_t sector, void *buf, uint64_t n)
{
	if (!plt_in_range(sector, n, f->sectors))
		return -ENODATA;
	return f->disk->read(f->disk->arg, f->start + sector * GUEST_SECTOR, buf, n * GUEST_SECTOR);
}

static bool begins_table(const uint8_t *p)
{
	return (p[0] == 0xf0 || p[0] >= 0xf8) && p[1] == 0xff && p[2] == 0xff;
}

/* Both copies of the table. */
static bool find_tables(struct fat_found *f)
{
	for (f->reserved = 1; f->reserved <= RESERVED_MAX; f->reserved++) {
		if (rd(f, f->reserved, f->first, 1) || !begins_table(f->first))
			continue;
		for (f->table = 1; f->table <= TABLE_MAX; f->table++) {
			size_t len = f->table * GUEST_SECTOR;

			if (rd(f, f->reserved + f->table, f->second, 1) || memcmp(f->first, f->second, 4) ||
			    rd(f, f->reserved, f->first, f->table) || rd(f, f->reserved + f->table, f->second, f->table))
				continue;
			if (!memcmp(f->first, f->second, len) && !plt_is_zero(f->first + 4, len - 4)) {
				f->media = f->first[0];
				f->root = f->reserved + 2 * f->table;
				return true;
			}
		}
	}
	return false;
}

static bool take_dir(void *arg, const struct plt_mark *m)
{
	struct fat_found *f = arg;

	if (m->kind == PLT_MARK_FAT_DIR && m->pos % GUEST_SECTOR == 0 && m->value >= 2) {
		f->dir[f->ndirs].sector = m->pos / GUEST_SECTOR;
		f->dir[f->ndirs++].cluster = m->value;
	}
	return f->ndirs < DIRS_MAX;
}

static int find_dirs(struct fat_found *f)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PIECE);
	uint64_t end = PLT_MIN(f->sectors * GUEST_SECTOR, SEARCH_BYTES), n;

	if (!buf)
		return -ENOMEM;
	for (uint64_t at = (uint64_t)f->root * GUEST_SECTOR; at < end && f->ndirs < DIRS_MAX; at += n) {
		n = PLT_MIN(end - at, (uint64_t)PIECE);
		if (f->disk->read(f->disk->arg, f->start + at, buf, n) == 0)
			plt_guest_marks(buf, n, at, take_dir, f);
	}
	return 0;
}

/* Is the directory a cluster of these, in use? */
static bool dir_fits(const struct fat_found *f, unsigned i)
{
	return f->dir[i].sector == f->data + (f->dir[i].cluster - 2) * f->cluster;
}

/* From two directories: where cluster 2 lies, and how large one is; most of the others agree. */
static bool find_clusters(struct fat_found *f)
{
	for (unsigned i = 0; i < f->ndirs; i++)
		for (unsigned k = i + 1; k < f->ndirs && k < i + 8; k++) {
			uint64_t apart = f->dir[k].sector - f->dir[i].sector, n = f->dir[k].cluster - f->dir[i].cluster, before;
			unsigned agree = 0;

			if (f->dir[k].cluster <= f->dir[i].cluster || apart % n || !plt_is_pow2(apart / n) || apart / n > 128)
				continue;
			before = (f->dir[i].cluster - 2) * (apart / n);
			if (before >= f->dir[i].sector || f->dir[i].sector - before <= f->root ||
			    f->dir[i].sector - before - f->root > 4096)
				continue;
			f->cluster = (uint32_t)(apart / n);
			f->data = (uint32_t)(f->dir[i].sector - before);
			for (unsigned j = 0; j < f->ndirs; j++)
				agree += dir_fits(f, j);
			if (agree >= 2 && agree >= f->ndirs - f->ndirs / 8)
				return true;
		}
	return false;
}

/* The disk's label, in the root. */
static void put_label(struct fat_found *f, uint8_t *p)
{
	memcpy(p, "NO NAME    ", 11);
	for (uint32_t s = f->root; s < f->data; s++) {
		uint8_t dir[GUEST_SECTOR];

		if (rd(f, s, dir, 1))
			return;
		for (unsigned i = 0; i < GUEST_SECTOR && dir[i]; i += 32)
			if (dir[i] != 0xe5 && (dir[i + 11] & 0x3f) == 0x08) {
				memcpy(p, dir + i, 11);
				return;
			}
	}
}

static bool make_boot(struct fat_found *f, uint8_t *p)
{
	uint64_t room = (uint64_t)f->table * GUEST_SECTOR, sectors = f->sectors, clusters = (sectors - f->data) / f->cluster;
	bool wide = f->table > NARROW_MAX; /* (that of 4085 clusters, the fewest that have 16 bits, has 16 sectors) */
	uint64_t most = PLT_MIN((wide ? room / 2 : room * 2 / 3) - 2, (uint64_t)(wide ? 65524 : 4084));
	uint32_t serial = 0;

	if (clusters > most) { /* the partition is larger than what is in it */
		clusters = most;
		sectors = f->data + clusters * f->cluster;
	}
	if (wide && (clusters < 4085 || f->first[3] < 0x3f))
		return false;
	memset(p, 0, GUEST_SECTOR);
	memcpy(p, "\xeb\x3c\x90MSWIN4.1", 11);
	plt_put_le16(p + 11, GUEST_SECTOR);
	p[13] = (uint8_t)f->cluster;
	plt_put_le16(p + 14, (uint16_t)f->reserved);
	p[16] = 2;
	plt_put_le16(p + 17, (uint16_t)((f->data - f->root) * (GUEST_SECTOR / 32)));
	if (sectors < 65536)
		plt_put_le16(p + 19, (uint16_t)sectors);
	else
		plt_put_le32(p + 32, (uint32_t)sectors);
	p[21] = f->media;
	plt_put_le16(p + 22, (uint16_t)f->table);
	plt_put_le16(p + 24, 63);
	plt_put_le16(p + 26, 255);
	plt_put_le32(p + 28, (uint32_t)(f->start / GUEST_SECTOR));
	p[36] = 0x80;
	p[38] = 0x29;
	for (size_t i = 0; i < room; i++)
		serial = serial * 31 + f->first[i];
	plt_put_le32(p + 39, serial);
	put_label(f, p + 43);
	memcpy(p + 54, wide ? "FAT16   " : "FAT12   ", 8);
	p[510] = 0x55;
	p[511] = 0xaa;
	return sectors <= UINT32_MAX;
}

int guest_mend_fat(struct guest_exam *x, const struct plt_part *part, bool *ret_is)
{
	PLT_AUTOFREE struct fat_found *f = calloc(1, sizeof(*f));
	uint8_t boot[GUEST_SECTOR];
	struct plt_guestfs *fs;
	bool mend = guest_mends(x);
	int r = 0;

	*ret_is = false;
	if (!f)
		return -ENOMEM;
	f->disk = &x->disk;
	f->start = part->start;
	f->sectors = part->len / GUEST_SECTOR;
	if (!find_tables(f))
		return 0;
	r = find_dirs(f);
	if (r < 0)
		return r;
	if (!find_clusters(f) || f->data - f->root > 4095 || f->data >= f->sectors || !make_boot(f, boot) ||
	    plt_guestfs_fat.open(&x->disk, part->start, boot, sizeof(boot), &fs)) {
		/* (the bitmaps of an ext begin with the same three bytes as a table that names no medium) */
		*ret_is = f->media == 0xf8 || f->media == 0xf0;
		if (*ret_is)
			guest_found(x, "R-SB", false, part->start, GUEST_SECTOR, "the FAT filesystem at %#" PRIx64 " has lost its boot "
				    "sector; its two tables of %u sectors are there, and no directories that say how large its clusters "
				    "are", part->start, f->table);
		return 0;
	}
	plt_guestfs_free(fs);
	*ret_is = true;
	if (mend)
		r = guest_put(x, part->start, boot, sizeof(boot), PLT_STRONG,
			      "the boot sector is made from both allocation tables and the directories");
	guest_found(x, "R-SB", mend && r == 0, part->start, GUEST_SECTOR, "the FAT filesystem at %#" PRIx64 " has lost its boot "
		    "sector; its two tables of %u sectors and %u directories say what stood there (clusters of %u sectors; its code "
		    "is lost, and its serial number)", part->start, f->table, f->ndirs, f->cluster);
	return r;
}
