/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Free space of FAT12, FAT16 and FAT32: clusters whose entry in the allocation table is 0.  The table is
 * believed if its copies are alike, and its first two entries are what they have to be: the media byte, and
 * the flags that say that the volume was left in order.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "guestfs/fat.h"
#include "guestfs/free.h"

/* A multiple of 3 bytes and of each size of entry. */
#define CHUNK (96u << 10)

static uint32_t entry(const uint8_t *p, unsigned bits, uint32_t i)
{
	if (bits == 12) {
		unsigned v = plt_get_le16(p + i + i / 2);

		return i & 1 ? v >> 4 : v & 0xfff;
	}
	return bits == 16 ? plt_get_le16(p + 2 * (size_t)i) : plt_get_le32(p + 4 * (size_t)i) & 0x0fffffff;
}

/* The first two entries. */
static int check_flags(struct plt_free *f, const struct fat *x, const uint8_t *boot, const uint8_t *table)
{
	uint32_t ones = x->bits == 32	? 0x0fffff00
			: x->bits == 16 ? 0xff00
					: 0xf00,
		 top = x->bits == 32 ? 1u << 26 : 1u << 14;
	uint32_t first = entry(table, x->bits, 0), second = entry(table, x->bits, 1);

	if (first != (ones | boot[21]))
		return plt_free_refuse(f, "the first entry of its table is %#" PRIx32 ", not %#" PRIx32, first,
				       ones | boot[21]);
	if (boot[x->bits == 32 ? 65 : 37] & 3)
		return plt_free_refuse(f, "it was not unmounted, or has to be checked (flags %#x)",
				       boot[x->bits == 32 ? 65 : 37]);
	if (x->bits > 12 && (second & top * 3) != top * 3)
		return plt_free_refuse(f, "it was not unmounted, or has to be checked (entry 1 is %#" PRIx32 ")",
				       second);
	return 0;
}

static int check_boot(struct plt_free *f, const struct fat *x, const uint8_t *boot, uint32_t *ret_table)
{
	unsigned flags = x->bits == 32 ? plt_get_le16(boot + 40) : 0;

	/* By Microsoft's rule the number of clusters decides; Linux looks at this field.  Where they differ nobody is right. */
	if ((plt_get_le16(boot + 22) == 0) != (x->bits == 32))
		return plt_free_refuse(f, "whether it is FAT%s cannot be said: %" PRIu32 " clusters",
				       "16 or FAT32", x->clusters);
	if (x->bits == 32 && plt_get_le16(boot + 42))
		return plt_free_refuse(f, "its version is %#x, not 0", plt_get_le16(boot + 42));
	if (x->fs.size > f->vol->size)
		return plt_free_refuse(f, "it claims %" PRIu64 " bytes and has %" PRIu64, x->fs.size,
				       f->vol->size);
	if (x->bits == 32 && (x->root_cluster < 2 || x->root_cluster - 2 >= x->clusters))
		return plt_free_refuse(f, "its root folder is at cluster %" PRIu32, x->root_cluster);
	*ret_table = UINT32_MAX; /* all of them, alike */
	if (flags & 0x80) {
		*ret_table = flags & 15;
		if (*ret_table >= x->ntables)
			return plt_free_refuse(f, "the table in use is number %" PRIu32 " of %" PRIu32,
					       *ret_table, x->ntables);
	}
	return 0;
}

static int read_tables(struct plt_free *f, const struct fat *x, uint32_t which, uint64_t at, uint8_t *a,
		       uint8_t *b, size_t len)
{
	uint64_t size = (uint64_t)x->table_sectors * x->ss, off = (uint64_t)x->reserved * x->ss + at;

	if (which != UINT32_MAX)
		return plt_free_read(f, off + which * size, a, len, "the allocation table");
	if (plt_free_read(f, off, a, len, "the allocation table") < 0)
		return -EBUSY;
	if (x->ntables < 2)
		return 0;
	if (plt_free_read(f, off + size, b, len, "the second allocation table") < 0)
		return -EBUSY;
	return memcmp(a, b, len) ? plt_free_refuse(f, "its two allocation tables differ") : 0;
}

static int walk(struct plt_free *f, const struct fat *x, const uint8_t *boot, uint8_t *a, uint8_t *b)
{
	uint32_t which = 0, per = CHUNK * 8 / x->bits, entries = x->clusters + 2;
	struct plt_free_run run = { 0 };
	int r = check_boot(f, x, boot, &which);

	for (uint32_t first = 0; r == 0 && first < entries; first += per) {
		uint32_t n = PLT_MIN(per, entries - first);

		r = read_tables(f, x, which, (uint64_t)first * x->bits / 8, a, b,
				(size_t)plt_div_up((uint64_t)n * x->bits, 8));
		if (r == 0 && first == 0)
			r = check_flags(f, x, boot, a);
		for (uint32_t i = first ? 0 : 2; r == 0 && i < n; i++) {
			uint8_t used = entry(a, x->bits, i) != 0;

			if (!used && first + i == x->root_cluster)
				return plt_free_refuse(f, "its table calls the root folder free");
			r = plt_free_bits(f, &run, &used, 1, first + i - 2, x->data, x->fs.block);
		}
	}
	return r < 0 ? r : plt_free_run_end(f, &run, x->data, x->fs.block);
}

int plt_free_fat(struct plt_free *f)
{
	uint8_t *a PLT_AUTOFREE = malloc(CHUNK + 4), *b PLT_AUTOFREE = malloc(CHUNK + 4);
	struct plt_guestfs *fs;
	uint8_t boot[512];
	int r;

	if (!a || !b)
		return -ENOMEM;
	if (plt_free_read(f, 0, boot, sizeof(boot), "the boot sector") < 0)
		return -EBUSY;
	r = plt_guestfs_fat.open(f->vol, 0, boot, sizeof(boot), &fs);
	if (r == -ENOENT)
		return plt_free_refuse(f, "its boot sector is damaged");
	if (r < 0)
		return r;
	/* what a shorter volume has cut off is of no use */
	fs->size = (uint64_t)(plt_get_le16(boot + 19) ? plt_get_le16(boot + 19) : plt_get_le32(boot + 32)) *
		   plt_get_le16(boot + 11);
	r = walk(f, (struct fat *)fs, boot, a, b);
	plt_guestfs_free(fs);
	return r;
}
