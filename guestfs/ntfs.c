/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * NTFS as evidence sees it.  Every MFT record carries its number and every index block its place in
 * the index, and its entries name their directory; $MFT's own runs turn numbers into places.  Nothing
 * is checksummed: the fix-up words only show torn records.  Attributes are taken record by record,
 * so extension records need no attribute lists.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/ntfs.h"

#define MIRRORED 4              /* records that $MFTMirr has, at least */
#define LOG_PAGE 4096
#define RUNS_MAX 65536          /* of $MFT */
#define INDEXES_MAX (1u << 20)
#define RECORDS_MAX (16u << 20) /* that one survey reads: 16 GiB of MFT */
#define SAMPLE 64               /* records that lie together */

enum { IS_MFT = 1, IS_INDEX, IS_MIRROR, IS_LOG };

struct index { uint32_t dir; struct ntfs_run run; };

/* ---- marks ---------------------------------------------------------------------------------------- */

/* A record with fix-ups that agree, @magic at its head: its length, or 0. */
static uint32_t fixed_up(const uint8_t *p, size_t left, const char *magic)
{
	uint32_t at, n, len;

	if (memcmp(p, magic, 4))
		return 0;
	at = plt_get_le16(p + 4);
	n = plt_get_le16(p + 6);
	len = (n - 1) * 512;
	if (n < 2 || n > 129 || at < 0x28 || at + 2 * n > 512 || len > left)
		return 0;
	for (uint32_t i = 1; i < n; i++)
		if (memcmp(p + i * 512 - 2, p + at, 2))
			return 0;
	return len;
}

static uint32_t size_field(uint8_t v, uint32_t csize)
{
	if (v & 0x80)
		return v >= 0xe1 ? 1u << (256 - v) : 0;
	return v * csize;
}

static bool parse_boot(const uint8_t *p, struct ntfs *n)
{
	uint32_t ss = plt_get_le16(p + 11), spc = p[13];
	uint64_t sectors = plt_get_le64(p + 40);

	if (memcmp(p + 3, "NTFS    ", 8) || p[510] != 0x55 || p[511] != 0xaa || !plt_is_pow2(ss) || ss < 256 || ss > 4096)
		return false;
	if (spc > 128)
		spc = spc >= 0xe1 ? 1u << (256 - spc) : 0;
	if (!plt_is_pow2(spc) || spc > 4096 || (uint64_t)spc * ss > 2u << 20 || !sectors || sectors > UINT64_MAX / 8192)
		return false;
	n->fs.block = spc * ss;
	n->fs.size = sectors * ss;
	n->clusters = sectors / spc;
	n->mft_lcn = plt_get_le64(p + 48);
	n->record = size_field(p[64], n->fs.block);
	n->index_size = size_field(p[68], n->fs.block);
	n->fs.fsid = plt_fsid(p + 72, 8);
	return n->mft_lcn < n->clusters && n->fs.block >= 512 && (n->record == 1024 || n->record == 2048 || n->record == 4096) &&
	       plt_is_pow2(n->index_size) && n->index_size >= 512 && n->index_size <= 65536;
}

void plt_ntfs_marks(struct plt_mark_sink *sink)
{
	const uint8_t *p = sink->buf + sink->pos;
	size_t left = sink->len - sink->pos;
	struct ntfs n = { 0 };
	uint32_t len;

	if (p[3] == 'N' && parse_boot(p, &n)) {
		/* The first sector, or its copy in the last: nothing in it tells, but only one place will fit. */
		plt_mark_add(sink, PLT_MARK_NTFS_BOOT, 0, n.fs.fsid, 512, false);
		plt_mark_add(sink, PLT_MARK_NTFS_BOOT, 1, n.fs.fsid, 512, false);
	} else if (p[0] == 'F' && (len = fixed_up(p, left, "FILE")) && len <= NTFS_RECORD_MAX && plt_get_le16(p + 4) >= 0x30) {
		plt_mark_add(sink, PLT_MARK_NTFS_MFT, plt_get_le32(p + 0x2c), 0, len, false);
	} else if (p[0] == 'I' && (len = fixed_up(p, left, "INDX"))) {
		uint32_t at = 24 + plt_get_le32(p + 24);
		uint64_t vcn = plt_get_le64(p + 16), parent;

		if (at > 400 || plt_get_le16(p + at + 12) & 2 || plt_get_le16(p + at + 10) < 66 || vcn >= 1u << 24)
			return;
		parent = plt_get_le64(p + at + 16) & ((UINT64_C(1) << 48) - 1);
		if (parent < UINT32_MAX)
			plt_mark_add(sink, PLT_MARK_NTFS_INDX, parent << 24 | vcn, 0, len, false);
	}
}

/* ---- the reader ------------------------------------------------------------------------------------- */

static void ntfs_free(struct plt_guestfs *fs)
{
	struct ntfs *n = (struct ntfs *)fs;

	free(n->mft);
	free(n->indexes);
	free(n);
}

static int ntfs_open(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len,
		     struct plt_guestfs **ret)
{
	uint8_t boot[512];
	struct ntfs *n;
	int r;

	r = plt_guestfs_super(disk, start, copy, len, sizeof(boot), 0, boot, sizeof(boot), &copy);
	if (r)
		return r;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	if (!parse_boot(copy, n) || start >= disk->size) {
		free(n);
		return -ENOENT;
	}
	n->fs.ops = &plt_guestfs_ntfs;
	n->fs.disk = disk;
	n->fs.start = start;
	n->fs.grid = (uint32_t)(start % n->fs.block);
	n->fs.cut = n->fs.size > disk->size - start;
	n->fs.size = PLT_MIN(n->fs.size + 512, disk->size - start); /* the boot sector's copy lies behind */
	*ret = &n->fs;
	return 0;
}

static void fact(struct ntfs *n, enum plt_fact_kind kind, uint64_t off, uint64_t len, uint64_t value, uint8_t what)
{
	struct plt_fact f = { .kind = (uint8_t)kind, .off = off, .len = len, .value = value, .what = what };

	if (!n->stop && len && plt_in_range(off, len, n->fs.disk->size) && !n->fn(n->arg, &f))
		n->stop = true;
}

bool plt_ntfs_next_run(const struct ntfs *n, const uint8_t **p, const uint8_t *end, uint64_t *lcn, uint64_t *count,
		     bool *hole)
{
	unsigned nlen, noff;
	uint64_t len = 0;
	int64_t delta = 0;

	if (*p >= end || !**p)
		return false;
	nlen = **p & 15;
	noff = **p >> 4;
	(*p)++;
	if (!nlen || nlen > 8 || noff > 8 || (size_t)(end - *p) < nlen + noff)
		return false;
	for (unsigned i = 0; i < nlen; i++)
		len |= (uint64_t)(*p)[i] << (8 * i);
	for (unsigned i = 0; i < noff; i++)
		delta |= (int64_t)((uint64_t)(*p)[nlen + i] << (8 * i));
	if (noff && noff < 8 && (*p)[nlen + noff - 1] & 0x80)
		delta |= (int64_t)(UINT64_MAX << (8 * noff));
	*p += nlen + noff;
	*hole = !noff;
	if (noff)
		*lcn += (uint64_t)delta;
	*count = len;
	return len && len <= n->clusters && (*hole || (*lcn < n->clusters && len <= n->clusters - *lcn));
}

static bool grow_indexes(struct ntfs *n)
{
	size_t cap = PLT_MAX(2 * n->indexes_cap, (size_t)256);
	void *t;

	if (n->nindexes < n->indexes_cap)
		return true;
	if (n->nindexes == INDEXES_MAX)
		return false;
	t = realloc(n->indexes, cap * sizeof(*n->indexes));
	if (!t)
		return false;
	n->indexes = t;
	n->indexes_cap = cap;
	return true;
}

/* A non-resident attribute of the file whose first record is @base. */
static void attribute(struct ntfs *n, uint32_t base, const uint8_t *a, uint32_t len)
{
	uint32_t type = plt_get_le32(a), flags = plt_get_le16(a + 12), at = plt_get_le16(a + 32), bs = n->fs.block;
	uint64_t vcn = plt_get_le64(a + 16), real, lcn = 0, count, last, tail;
	const uint8_t *p = a + at, *end = a + len;
	bool hole, plain = type == 0x80 && !(flags & 0x4001) && base >= 16;

	if (at < 0x40 || at >= len || vcn >= n->clusters)
		return;
	real = vcn ? UINT64_MAX : PLT_MIN(plt_get_le64(a + 48), plt_get_le64(a + 56));
	last = real / bs;
	tail = real % bs;
	for (; plt_ntfs_next_run(n, &p, end, &lcn, &count, &hole) && !n->stop; vcn += count) {
		uint64_t off = n->fs.start + lcn * bs, use = count;

		if (hole)
			continue;
		if (type == 0xa0) {
			fact(n, PLT_FACT_META, off, count * bs, (uint64_t)base << 32 | (uint32_t)vcn, IS_INDEX);
			if (grow_indexes(n))
				n->indexes[n->nindexes++] = (struct index){ .dir = base, .run = { vcn, lcn, count } };
			continue;
		}
		if (base == 0 && type == 0x80) {
			fact(n, PLT_FACT_META, off, count * bs, vcn * bs / n->record, IS_MFT);
			continue;
		}
		if (base == 1 && type == 0x80) {
			n->mirror = vcn ? n->mirror : off;
			fact(n, PLT_FACT_META, off, count * bs, vcn * bs / n->record, IS_MIRROR);
			continue;
		}
		if (base == 2 && type == 0x80) {
			fact(n, PLT_FACT_LOG, off, count * bs, 0, 0);
			fact(n, PLT_FACT_META, off, count * bs, 0, IS_LOG);
		}
		if (plain && real != UINT64_MAX) {
			if (tail && vcn <= last && last - vcn < count) {
				fact(n, PLT_FACT_TAIL, off + (last - vcn) * bs, bs, tail, 0);
				use = last - vcn;
			} else if (vcn > last) {
				continue; /* allocated, never written */
			}
		}
		if (!(flags & 1))
			fact(n, PLT_FACT_DATA, off, use * bs, 0, 0);
	}
}

bool plt_ntfs_unfix(uint8_t *p, uint32_t len, const char *magic)
{
	uint32_t at, n = fixed_up(p, len, magic);

	if (n != len)
		return false;
	at = plt_get_le16(p + 4);
	for (uint32_t i = 1; i <= len / 512; i++)
		memcpy(p + i * 512 - 2, p + at + 2 * i, 2);
	return true;
}

static void record(struct ntfs *n, uint32_t number, uint8_t *p)
{
	uint32_t at, base;

	if (!plt_ntfs_unfix(p, n->record, "FILE") || !(plt_get_le16(p + 22) & 1))
		return;
	base = plt_get_le64(p + 32) ? plt_get_le32(p + 32) : number;
	at = plt_get_le16(p + 20);
	while (at + 64 <= n->record && !n->stop) {
		uint32_t len = plt_get_le32(p + at + 4);

		if (plt_get_le32(p + at) == 0xffffffff || len < 24 || len % 8 || len > n->record - at)
			return;
		if (p[at + 8])
			attribute(n, base, p + at, len);
		at += len;
	}
}

uint64_t plt_ntfs_record_off(const struct ntfs *n, uint64_t number)
{
	uint64_t at = number * n->record, vcn = at / n->fs.block;
	size_t lo = 0, hi = n->nmft;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (n->mft[mid].vcn + n->mft[mid].count <= vcn)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == n->nmft || n->mft[lo].vcn > vcn)
		return UINT64_MAX;
	return n->fs.start + (n->mft[lo].lcn + (vcn - n->mft[lo].vcn)) * n->fs.block + at % n->fs.block;
}

/* $MFT's own runs, by its first record; without it, where its first records lie. */
int plt_ntfs_find_mft(struct ntfs *n, uint64_t *ret_size)
{
	uint8_t buf[NTFS_RECORD_MAX];
	uint64_t off = n->fs.start + n->mft_lcn * n->fs.block, vcn = 0;

	free(n->mft);
	n->mft = calloc(RUNS_MAX, sizeof(*n->mft));
	if (!n->mft)
		return -ENOMEM;
	n->nmft = 0;
	*ret_size = 0;
	if (plt_in_range(off, n->record, n->fs.disk->size) && !n->fs.disk->read(n->fs.disk->arg, off, buf, n->record) &&
	    plt_ntfs_unfix(buf, n->record, "FILE")) {
		uint32_t at = plt_get_le16(buf + 20);

		while (at + 72 <= n->record) {
			const uint8_t *a = buf + at, *p;
			uint32_t len = plt_get_le32(a + 4);
			uint64_t lcn = 0, count;
			bool hole;

			if (plt_get_le32(a) == 0xffffffff || len < 24 || len > n->record - at)
				break;
			at += len;
			if (plt_get_le32(a) != 0x80 || !a[8] || plt_get_le16(a + 32) >= len)
				continue;
			*ret_size = plt_get_le64(a + 48);
			p = a + plt_get_le16(a + 32);
			while (n->nmft < RUNS_MAX && plt_ntfs_next_run(n, &p, a + len, &lcn, &count, &hole)) {
				if (!hole)
					n->mft[n->nmft++] = (struct ntfs_run){ vcn, lcn, count };
				vcn += count;
			}
			break;
		}
	}
	if (!n->nmft) {
		n->mft[n->nmft++] = (struct ntfs_run){ 0, n->mft_lcn, plt_div_up(16 * n->record, n->fs.block) };
		fact(n, PLT_FACT_META, off, plt_align_up(16 * n->record, n->fs.block), 0, IS_MFT);
	}
	return 0;
}

static int compare_indexes(const void *a, const void *b)
{
	const struct index *x = a, *y = b;

	if (x->dir != y->dir)
		return x->dir < y->dir ? -1 : 1;
	return x->run.vcn < y->run.vcn ? -1 : x->run.vcn > y->run.vcn;
}

static int ntfs_survey(struct plt_guestfs *fs, plt_fact_fn fn, void *arg)
{
	struct ntfs *n = (struct ntfs *)fs;
	uint8_t buf[NTFS_RECORD_MAX];
	uint64_t size;
	int r;

	n->fn = fn;
	n->arg = arg;
	n->stop = false;
	n->nindexes = 0;
	n->mirror = 0;
	r = plt_ntfs_find_mft(n, &size);
	if (r)
		return r;
	for (size_t i = 0, seen = 0; i < n->nmft && !n->stop; i++)
		for (uint64_t at = 0; at + n->record <= n->mft[i].count * fs->block && !n->stop; at += n->record) {
			uint64_t number = (n->mft[i].vcn * fs->block + at) / n->record;
			uint64_t off = fs->start + n->mft[i].lcn * fs->block + at;

			if (number * n->record >= size || seen++ >= RECORDS_MAX || number >= UINT32_MAX)
				break;
			if (fs->thin > 1 && number / SAMPLE % fs->thin)
				continue;
			if (plt_in_range(off, n->record, fs->disk->size) &&
			    !fs->disk->read(fs->disk->arg, off, buf, n->record))
				record(n, (uint32_t)number, buf);
		}
	if (n->nindexes)
		qsort(n->indexes, n->nindexes, sizeof(*n->indexes), compare_indexes);
	return 0;
}

static bool ntfs_locate(struct plt_guestfs *fs, const struct plt_mark *mark, const uint8_t *block, size_t len,
			uint64_t *ret, bool *ret_sure)
{
	const struct ntfs *n = (struct ntfs *)fs;
	struct index want;
	size_t lo = 0, hi = n->nindexes;

	(void)block;
	(void)len;
	*ret_sure = false;
	switch (mark->kind) {
	case PLT_MARK_NTFS_BOOT:
		if (mark->fsid != fs->fsid)
			return false;
		*ret = mark->value ? fs->start + plt_align_down(fs->size - 1, 512) : fs->start;
		return true;
	case PLT_MARK_NTFS_MFT:
		*ret = plt_ntfs_record_off(n, mark->value);
		return *ret != UINT64_MAX;
	case PLT_MARK_NTFS_INDX:
		if (n->index_size < fs->block)
			return false;
		want = (struct index){ .dir = (uint32_t)(mark->value >> 24), .run = { .vcn = mark->value & 0xffffff } };
		while (lo < hi) {
			size_t mid = lo + (hi - lo) / 2;

			if (compare_indexes(&n->indexes[mid], &want) <= 0)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (!lo || n->indexes[lo - 1].dir != want.dir ||
		    want.run.vcn - n->indexes[lo - 1].run.vcn >= n->indexes[lo - 1].run.count)
			return false;
		*ret = fs->start + (n->indexes[lo - 1].run.lcn + want.run.vcn - n->indexes[lo - 1].run.vcn) * fs->block;
		return true;
	default:
		return false;
	}
}

/* The first records have a second place. */
static bool ntfs_locate_copy(struct plt_guestfs *fs, const struct plt_mark *mark, uint64_t *ret)
{
	const struct ntfs *n = (struct ntfs *)fs;

	if (mark->kind != PLT_MARK_NTFS_MFT || mark->value >= MIRRORED || !n->mirror)
		return false;
	*ret = n->mirror + mark->value * n->record;
	return true;
}

/* A page of the log is a restart page, a record page, or was never written. */
static bool is_log_page(const uint8_t *p)
{
	return !memcmp(p, "RSTR", 4) || !memcmp(p, "RCRD", 4) || !memcmp(p, "CHKD", 4) ||
	       (p[0] == 0xff && !memcmp(p, p + 1, 511));
}

static int ntfs_verify(struct plt_guestfs *fs, const struct plt_fact *f, uint64_t off, const uint8_t *block)
{
	const struct ntfs *n = (struct ntfs *)fs;
	uint64_t in = off - f->off;
	int good = 0;

	if (f->what == IS_LOG) /* (there are others, which nobody has described) */
		return in % LOG_PAGE == 0 && is_log_page(block);
	if (f->what == IS_MFT || f->what == IS_MIRROR) {
		if (n->record > fs->block && in % n->record)
			return 0;
		for (uint32_t at = 0; at < fs->block; at += n->record) {
			if (plt_is_zero(block + at, 4) || !memcmp(block + at, "BAAD", 4))
				continue;
			if (!memcmp(block + at, "FILE", 4) && !(plt_get_le16(block + at + 22) & 1) && !plt_get_le32(block + at + 0x2c))
				continue; /* one that was never in use has no number */
			if (memcmp(block + at, "FILE", 4) ||
			    (plt_get_le16(block + at + 4) >= 0x30 &&
			     plt_get_le32(block + at + 0x2c) != f->value + (in + at) / n->record))
				return -1;
			if (n->record <= fs->block && !fixed_up(block + at, fs->block - at, "FILE"))
				return -1; /* torn */
			good = 1;
		}
		return good;
	}
	if (f->what == IS_INDEX && n->index_size >= fs->block) {
		uint64_t vcn = (uint32_t)f->value + in / fs->block;

		if (vcn % (n->index_size / fs->block))
			return 0;
		if (plt_is_zero(block, fs->block)) /* one that is not in use may never have been written */
			return 0;
		return !memcmp(block, "INDX", 4) && plt_get_le64(block + 16) == vcn ? 1 : -1;
	}
	return 0;
}

/* The log sequence number of the last change. */
static uint64_t ntfs_newness(struct plt_guestfs *fs, const struct plt_fact *f, const uint8_t *block)
{
	const struct ntfs *n = (struct ntfs *)fs;
	bool records = f->what == IS_MFT || f->what == IS_MIRROR;
	uint64_t ret = 0;

	if (f->what == IS_LOG)
		return 0;
	for (uint32_t at = 0; at < fs->block; at += records ? n->record : fs->block)
		ret = PLT_MAX(ret, plt_get_le64(block + at + 8));
	return ret;
}

const struct plt_guestfs_ops plt_guestfs_ntfs = {
	.name = "ntfs",
	.open = ntfs_open,
	.survey = ntfs_survey,
	.locate = ntfs_locate,
	.locate_copy = ntfs_locate_copy,
	.verify = ntfs_verify,
	.newness = ntfs_newness,
	.free = ntfs_free,
};
