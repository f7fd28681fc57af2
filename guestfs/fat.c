/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * FAT12, FAT16 and FAT32 as evidence sees them.  The only structure with an address of its own is a
 * directory, whose '.' names its first cluster; the allocation table gives the chains, and directories
 * where files end.  Chains and directories are bounded by the number of clusters, and each directory is
 * entered once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/fat.h"

#define CLUSTERS_MAX (1u << 28)
#define DIRS_MAX (1u << 20)
#define SCAN_MAX (1u << 24)     /* clusters that are looked at for directories out of reach */

/* IS_PART: of a directory, and names no place; in the upper half of value the directory's first cluster, 0: the root. */
enum { IS_DIR = 1, IS_TABLE, IS_PART };

static bool parse_boot(const uint8_t *p, struct fat *f)
{
	uint32_t spc = p[13], sectors = plt_get_le16(p + 19), root, used;

	f->ss = plt_get_le16(p + 11);
	f->reserved = plt_get_le16(p + 14);
	f->ntables = p[16];
	f->root_entries = plt_get_le16(p + 17);
	f->table_sectors = plt_get_le16(p + 22) ? plt_get_le16(p + 22) : plt_get_le32(p + 36);
	if (!sectors)
		sectors = plt_get_le32(p + 32);
	if ((p[0] != 0xeb && p[0] != 0xe9) || p[510] != 0x55 || p[511] != 0xaa || !plt_is_pow2(f->ss) || f->ss < 512 ||
	    f->ss > 4096 || !plt_is_pow2(spc) || !f->reserved || !f->ntables || f->ntables > 2 || !f->table_sectors ||
	    (p[21] != 0xf0 && p[21] < 0xf8) || f->table_sectors > UINT32_MAX / 8)
		return false;
	root = (f->root_entries * 32 + f->ss - 1) / f->ss;
	used = f->reserved + f->ntables * f->table_sectors + root;
	if (used >= sectors)
		return false;
	f->clusters = (sectors - used) / spc;
	f->bits = f->clusters < 4085 ? 12 : f->clusters < 65525 ? 16 : 32;
	if (f->bits == 32 && f->root_entries)
		return false;
	f->root_cluster = f->bits == 32 ? plt_get_le32(p + 44) : 0;
	f->single = f->ntables < 2 || (f->bits == 32 && p[40] & 0x80);
	f->data = (uint64_t)used * f->ss;
	f->fs.block = spc * f->ss;
	f->fs.size = (uint64_t)sectors * f->ss;
	f->fs.fsid = plt_fsid(p + (f->bits == 32 ? 67 : 39), 4);
	return f->clusters && f->clusters < CLUSTERS_MAX && f->fs.block <= 65536 && memcmp(p + 3, "NTFS", 4) &&
	       memcmp(p + 3, "EXFAT", 5) && (uint64_t)f->clusters * f->bits / 8 <= (uint64_t)f->table_sectors * f->ss;
}

/*
 * A sector of an allocation table of 16 or 32 bits an entry: chains mostly go on with the next cluster,
 * so entry i holds i + 1, and the sector names its own first entry.
 */
static bool names_entry(const uint8_t *p, unsigned bits, uint32_t *ret)
{
	unsigned n = 512 * 8 / bits, agree = 0, filled = 0;
	uint32_t base = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t v = bits == 16 ? plt_get_le16(p + 2 * i) : plt_get_le32(p + 4 * i) & 0x0fffffff;

		if (!v)
			continue;
		filled++;
		if (v <= i || (v - i - 1) % n)
			continue;
		if (agree && v - i - 1 != base)
			agree--;
		else if (agree++ == 0)
			base = v - i - 1;
	}
	*ret = base;
	return agree >= 16 && agree * 2 > filled;
}

/* Its sample refuses nearly all other content. */
static bool looks_like_table(const uint8_t *p, unsigned bits)
{
	unsigned step = bits / 8, next = 0;

	for (unsigned i = 0; i < 16; i++) {
		const uint8_t *q = p + (i * 31 % (510 / step)) * step;
		uint32_t a = bits == 16 ? plt_get_le16(q) : plt_get_le32(q), b = bits == 16 ? plt_get_le16(q + 2) : plt_get_le32(q + 4);

		next += a && b == a + 1;
	}
	return next >= 3;
}

void plt_fat_marks(struct plt_mark_sink *sink)
{
	static const uint8_t dot[11] = ".          ", dotdot[11] = "..         ";
	const uint8_t *p = sink->buf + sink->pos;
	struct fat *f;

	if (p[0] == '.' && !memcmp(p, dot, 11) && p[11] & 0x10 && !memcmp(p + 32, dotdot, 11) && p[43] & 0x10) {
		uint32_t cluster = plt_get_le16(p + 26) | (uint32_t)plt_get_le16(p + 20) << 16;

		if (cluster >= 2 && cluster < CLUSTERS_MAX)
			plt_mark_add(sink, PLT_MARK_FAT_DIR, cluster, 0, 64, false);
	} else if (plt_fat_is_directory(p)) {
		plt_mark_add(sink, PLT_MARK_FAT_ENTRIES, FAT_PART, 0, 512, false);
	} else if ((p[0] == 0xeb || p[0] == 0xe9) && p[510] == 0x55 && p[511] == 0xaa && (f = calloc(1, sizeof(*f)))) {
		if (parse_boot(p, f)) {
			size_t copy = 6 * f->ss;
			/* FAT32 keeps a copy six sectors on: which one is this? */
			bool second = sink->pos >= copy && !memcmp(p, p - copy, 512);

			plt_mark_add(sink, PLT_MARK_FAT_BOOT, second, f->fs.fsid, 512, false);
		}
		free(f);
	} else {
		uint32_t base; /* one sector of eight is enough; it may be of either copy of the table */

		for (unsigned bits = 16; bits <= 32; bits *= 2)
			if (looks_like_table(p, bits) && names_entry(p, bits, &base) && base % (8 * 4096 / bits) == 0)
				for (uint64_t copy = 0; copy < 2; copy++)
					plt_mark_add(sink, PLT_MARK_FAT_TABLE, copy << 40 | (uint64_t)bits << 32 | base, 0, 512,
						     false);
	}
}

/* ---- the reader ------------------------------------------------------------------------------------- */

static void fat_free(struct plt_guestfs *fs)
{
	struct fat *f = (struct fat *)fs;

	plt_bitmap_release(&f->seen);
	free(f->todo);
	free(f);
}

static int fat_open(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len,
		    struct plt_guestfs **ret)
{
	uint8_t boot[512];
	struct fat *f;
	int r;

	r = plt_guestfs_super(disk, start, copy, len, sizeof(boot), 0, boot, sizeof(boot), &copy);
	if (r)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	if (!parse_boot(copy, f) || start >= disk->size) {
		free(f);
		return -ENOENT;
	}
	f->fs.ops = &plt_guestfs_fat;
	f->fs.disk = disk;
	f->fs.start = start;
	f->fs.grid = (uint32_t)((start + f->data) % f->fs.block);
	f->fs.cut = f->fs.size > disk->size - start;
	f->fs.size = PLT_MIN(f->fs.size, disk->size - start);
	f->fs.zero_tails = false; /* the rest of a cluster is what was there before */
	*ret = &f->fs;
	return 0;
}

static void fact(struct fat *f, enum plt_fact_kind kind, uint64_t off, uint64_t len, uint64_t value, uint8_t what)
{
	struct plt_fact x = { .kind = (uint8_t)kind, .off = off, .len = len, .value = value, .what = what };

	if (!f->stop && len && plt_in_range(off, len, f->fs.disk->size) && !f->fn(f->arg, &x))
		f->stop = true;
}

uint64_t plt_fat_cluster_off(const struct fat *f, uint32_t cluster)
{
	return f->fs.start + f->data + (uint64_t)(cluster - 2) * f->fs.block;
}

static uint64_t table_off(const struct fat *f, uint32_t copy)
{
	return f->fs.start + ((uint64_t)f->reserved + (uint64_t)copy * f->table_sectors) * f->ss;
}

bool plt_fat_valid(const struct fat *f, uint32_t cluster)
{
	return cluster >= 2 && cluster - 2 < f->clusters;
}

/* @len bytes at @at of the allocation table: the first copy that can be read. */
static int read_table(struct fat *f, uint64_t at, uint8_t *buf, size_t len)
{
	uint64_t size = (uint64_t)f->table_sectors * f->ss;

	for (size_t i = 0; i < len; i++) {
		uint64_t page = plt_align_down(at + i, FAT_CACHE);

		if (f->cached != page) {
			size_t n = (size_t)PLT_MIN((uint64_t)FAT_CACHE, size - PLT_MIN(page, size));

			f->cached = page;
			f->cached_error = -EUCLEAN;
			for (uint32_t k = 0; n && k < f->ntables && f->cached_error; k++) {
				uint64_t off = table_off(f, k) + page;

				if (plt_in_range(off, n, f->fs.disk->size))
					f->cached_error = f->fs.disk->read(f->fs.disk->arg, off, f->cache, n);
			}
		}
		if (f->cached_error)
			return f->cached_error;
		buf[i] = f->cache[at + i - page];
	}
	return 0;
}

uint32_t plt_fat_next(struct fat *f, uint32_t cluster)
{
	uint8_t b[4];
	uint32_t v;

	if (f->bits == 12) {
		if (read_table(f, cluster + cluster / 2, b, 2))
			return 0;
		v = cluster & 1 ? plt_get_le16(b) >> 4 : plt_get_le16(b) & 0xfff;
	} else if (read_table(f, (uint64_t)cluster * (f->bits / 8), b, f->bits / 8)) {
		return 0;
	} else {
		v = f->bits == 16 ? plt_get_le16(b) : plt_get_le32(b) & 0x0fffffff;
	}
	return plt_fat_valid(f, v) ? v : 0;
}

static void file(struct fat *f, uint32_t cluster, uint32_t size)
{
	uint64_t left = size;

	while (plt_fat_valid(f, cluster) && left && !f->stop && f->budget) {
		uint32_t first = cluster, n = 0;

		do {
			n++;
			f->budget--;
			left -= PLT_MIN(left, (uint64_t)f->fs.block);
			cluster = left ? plt_fat_next(f, cluster) : 0;
		} while (left && cluster == first + n && f->budget);
		if (!left && size % f->fs.block) {
			n--;
			fact(f, PLT_FACT_TAIL, plt_fat_cluster_off(f, first + n), f->fs.block, size % f->fs.block, 0);
		}
		fact(f, PLT_FACT_DATA, plt_fat_cluster_off(f, first), (uint64_t)n * f->fs.block, 0, 0);
	}
}

static void enter_later(struct fat *f, uint32_t cluster)
{
	if (!plt_fat_valid(f, cluster) || plt_bitmap_test(&f->seen, cluster - 2))
		return;
	if (f->ntodo == f->todo_cap) {
		size_t cap = PLT_MAX(2 * f->todo_cap, (size_t)256);
		void *t = f->ntodo < DIRS_MAX ? realloc(f->todo, cap * sizeof(*f->todo)) : NULL;

		if (!t)
			return;
		f->todo = t;
		f->todo_cap = cap;
	}
	plt_bitmap_set(&f->seen, cluster - 2);
	f->todo[f->ntodo++] = cluster;
}

/* False: the directory ends here. */
static bool entries(struct fat *f, const uint8_t *p, size_t len)
{
	for (size_t at = 0; at + 32 <= len && !f->stop; at += 32) {
		const uint8_t *e = p + at;
		uint32_t cluster = plt_get_le16(e + 26) | (f->bits == 32 ? (uint32_t)plt_get_le16(e + 20) << 16 : 0);

		if (!e[0])
			return false;
		if (e[0] == 0xe5 || e[0] == '.' || e[11] & 0x08)
			continue;
		if (e[11] & 0x10)
			enter_later(f, cluster);
		else
			file(f, cluster, plt_get_le32(e + 28));
	}
	return true;
}

static void part(struct fat *f, uint64_t off, uint64_t len, uint32_t start)
{
	fact(f, PLT_FACT_KEY, off, len, (uint64_t)start << 32 | FAT_PART, IS_PART);
}

static void directory(struct fat *f, uint32_t cluster, uint8_t *buf)
{
	const uint32_t start = cluster == f->root_cluster ? 0 : cluster;

	for (bool first = start; plt_fat_valid(f, cluster) && f->budget && !f->stop;
	     cluster = plt_fat_next(f, cluster), first = false) {
		f->budget--;
		if (first)
			fact(f, PLT_FACT_META, plt_fat_cluster_off(f, cluster), f->fs.block, cluster, IS_DIR);
		else
			part(f, plt_fat_cluster_off(f, cluster), f->fs.block, start);
		if (!plt_in_range(plt_fat_cluster_off(f, cluster), f->fs.block, f->fs.disk->size) ||
		    f->fs.disk->read(f->fs.disk->arg, plt_fat_cluster_off(f, cluster), buf, f->fs.block)) {
			f->blind = true;
			continue;
		}
		if (!entries(f, buf, f->fs.block))
			return;
	}
}

/* Directories that no other led to: first clusters of chains that begin with a '.' of their own number. */
static int unreached(struct fat *f)
{
	struct plt_bitmap inner;
	int r = plt_bitmap_init(&inner, f->clusters);

	for (uint32_t c = 2; !r && plt_fat_valid(f, c) && c < SCAN_MAX; c++) {
		uint32_t next = plt_fat_next(f, c);

		if (next)
			plt_bitmap_set(&inner, next - 2);
	}
	for (uint32_t c = 2; !r && plt_fat_valid(f, c) && c < SCAN_MAX && f->ntodo < DIRS_MAX; c++) {
		uint8_t e[32];
		uint32_t self;

		if (plt_bitmap_test(&inner, c - 2) || plt_bitmap_test(&f->seen, c - 2) ||
		    !plt_in_range(plt_fat_cluster_off(f, c), 32, f->fs.disk->size) ||
		    f->fs.disk->read(f->fs.disk->arg, plt_fat_cluster_off(f, c), e, 32))
			continue;
		self = plt_get_le16(e + 26) | (f->bits == 32 ? (uint32_t)plt_get_le16(e + 20) << 16 : 0);
		if (e[0] == '.' && e[1] == ' ' && e[11] & 0x10 && self == c)
			enter_later(f, c);
	}
	plt_bitmap_release(&inner);
	return r;
}

static int fat_survey(struct plt_guestfs *fs, plt_fact_fn fn, void *arg)
{
	struct fat *f = (struct fat *)fs;
	uint8_t *buf PLT_AUTOFREE = malloc(PLT_MAX(fs->block, 65536u * 32));
	int r;

	if (!buf)
		return -ENOMEM;
	f->fn = fn;
	f->arg = arg;
	f->stop = false;
	f->cached = UINT64_MAX;
	f->budget = 4ull * f->clusters + 1024;
	f->ntodo = 0;
	f->blind = false;
	plt_bitmap_release(&f->seen);
	r = plt_bitmap_init(&f->seen, f->clusters);
	if (r)
		return r;
	for (uint32_t k = 0; k < f->ntables; k++)
		fact(f, PLT_FACT_META, table_off(f, k), plt_align_up((uint64_t)f->clusters * f->bits / 8 + 4, f->ss), 0, IS_TABLE);
	if (f->bits == 32) {
		enter_later(f, f->root_cluster);
	} else {
		uint64_t off = fs->start + f->data - (uint64_t)plt_align_up(f->root_entries * 32, f->ss);
		uint32_t len = f->root_entries * 32;

		part(f, off, plt_align_up(len, f->ss), 0);
		for (uint32_t at = 0; at < len; at += 512) {
			uint32_t n = PLT_MIN(len - at, 512u);

			if (!plt_in_range(off + at, n, fs->disk->size) || fs->disk->read(fs->disk->arg, off + at, buf, n))
				f->blind = true;
			else if (!entries(f, buf, n))
				break;
		}
	}
	while (f->ntodo && !f->stop)
		directory(f, f->todo[--f->ntodo], buf);
	if (f->blind) {
		r = unreached(f);
		while (f->ntodo && !f->stop)
			directory(f, f->todo[--f->ntodo], buf);
	}
	return r;
}

static bool fat_locate(struct plt_guestfs *fs, const struct plt_mark *mark, const uint8_t *block, size_t len,
		       uint64_t *ret, bool *ret_sure)
{
	const struct fat *f = (struct fat *)fs;

	(void)block;
	(void)len;
	*ret_sure = false;
	if (mark->kind == PLT_MARK_FAT_BOOT && mark->fsid == fs->fsid) {
		*ret = fs->start + (mark->value ? 6 * f->ss : 0);
		return true;
	}
	if (mark->kind == PLT_MARK_FAT_TABLE && (mark->value >> 32 & 0xff) == f->bits && mark->value >> 40 < f->ntables &&
	    (uint32_t)mark->value < f->clusters) {
		*ret = table_off(f, (uint32_t)(mark->value >> 40)) + (uint64_t)(uint32_t)mark->value * (f->bits / 8);
		return true;
	}
	if (mark->kind != PLT_MARK_FAT_DIR || !plt_fat_valid(f, (uint32_t)mark->value))
		return false;
	*ret = plt_fat_cluster_off(f, (uint32_t)mark->value);
	return true;
}

/* Is @block, of one copy of the table, the same in the other? */
static int verify_twin(const struct fat *f, const struct plt_fact *known, uint64_t off, const uint8_t *block)
{
	uint64_t in = off - known->off, len = PLT_MIN((uint64_t)f->fs.block, known->len - in);
	uint64_t other = table_off(f, known->off == table_off(f, 0)) + in;
	uint8_t twin[512];

	for (uint64_t at = 0; at < len; at += sizeof(twin)) {
		if (!plt_in_range(other + at, sizeof(twin), f->fs.disk->size) ||
		    f->fs.disk->read(f->fs.disk->arg, other + at, twin, sizeof(twin)))
			return 0;
		if (memcmp(twin, block + at, sizeof(twin)))
			return -1;
	}
	return plt_is_zero(block, len) ? 0 : 1;
}

static int fat_verify(struct plt_guestfs *fs, const struct plt_fact *known, uint64_t off, const uint8_t *block)
{
	uint32_t cluster = plt_get_le16(block + 26) | (uint32_t)plt_get_le16(block + 20) << 16;
	const struct fat *f = (struct fat *)fs;

	if (known->what == IS_TABLE) {
		uint32_t base;
		int verdict = fs->twins && !f->single ? verify_twin(f, known, off, block) : 0;

		if (f->bits == 12 || verdict < 0)
			return verdict;

		for (uint32_t at = 0; at < fs->block && off + at < known->off + known->len; at += 512)
			if (names_entry(block + at, f->bits, &base)) {
				if ((uint64_t)base * (f->bits / 8) != off + at - known->off)
					return -1;
				verdict = 1;
			}
		return verdict;
	}
	if (known->what == IS_PART)
		return plt_fat_judge_directory((struct fat *)fs, (uint32_t)(known->value >> 32), block, fs->block);
	if (known->what != IS_DIR)
		return 0;
	if (f->bits != 32)
		cluster &= 0xffff;
	return block[0] == '.' && block[1] == ' ' && block[11] & 0x10 && cluster == known->value ? 1 : -1;
}

static uint64_t fat_newness(struct plt_guestfs *fs, const struct plt_fact *known, const uint8_t *block)
{
	(void)fs;
	(void)known;
	(void)block;
	return 0;
}

const struct plt_guestfs_ops plt_guestfs_fat = {
	.name = "fat",
	.open = fat_open,
	.survey = fat_survey,
	.locate = fat_locate,
	.verify = fat_verify,
	.newness = fat_newness,
	.free = fat_free,
};
