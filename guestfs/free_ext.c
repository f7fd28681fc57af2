/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Free space of ext2, ext3 and ext4: the block bitmap of each group.  A bitmap is believed if its checksum
 * verifies (where there is one), if it has as many zeros as the group's descriptor says, and if it
 * has none where metadata lies that the descriptors name.  A group whose bitmap was never written has
 * nothing but that metadata in it.
 *
 * Not by libext2fs, though it is sound: it reads all bitmaps into a tree of its own before the first is
 * judged, takes them without their counts, and would be one more thing to have; this reads each once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "guestfs/ext.h"
#include "guestfs/free.h"

#define INCOMPAT_RECOVER 0x4
#define INCOMPAT_MMP 0x100
/* filetype extents 64bit meta_bg flex_bg ea_inode dirdata csum_seed largedir inline_data encrypt casefold, the two above */
#define INCOMPAT_KNOWN 0x3f7d6u
/* all up to orphan_file but has_snapshot, replica and shared_blocks */
#define RO_KNOWN 0x1b77fu
#define RO_ORPHAN_PRESENT 0x10000
#define STATE_CLEAN 1
#define STATE_ERRORS 2
#define MMP_MAGIC 0x004d4d50u
#define MMP_CLEAN 0xff4d4d50u

struct range {
	uint64_t first, end;
};

struct reader {
	struct plt_free *f;
	struct ext *e;
	uint32_t ratio; /* blocks a cluster */
	uint8_t *map; /* one bitmap */
	struct range *meta; /* what the descriptors name, in blocks, ascending */
	size_t nmeta, at;
	struct plt_free_run run;
};

static int check_state(struct plt_free *f, const uint8_t *sb, const struct ext *e)
{
	unsigned state = plt_get_le16(sb + 0x3a);
	uint8_t mmp[8];

	if (e->incompat & ~INCOMPAT_KNOWN)
		return plt_free_refuse(f, "it has incompatible features (%#x) that are not known",
				       e->incompat & ~INCOMPAT_KNOWN);
	if (e->ro & ~RO_KNOWN)
		return plt_free_refuse(f, "it has features (%#x) that are not known", e->ro & ~RO_KNOWN);
	if (e->csum && !plt_ext_super_verifies(sb))
		return plt_free_refuse(f, "the checksum of its superblock is wrong");
	if (e->incompat & INCOMPAT_RECOVER)
		return plt_free_refuse(f, "its journal has not been replayed: it was not unmounted");
	if (!(state & STATE_CLEAN))
		return plt_free_refuse(f, "it was not unmounted (state %#x)", state);
	if (state & STATE_ERRORS)
		return plt_free_refuse(f, "errors of it are recorded, and it has to be checked first");
	if (plt_get_le32(sb + 0xe8) || e->ro & RO_ORPHAN_PRESENT)
		return plt_free_refuse(f, "files are to be deleted when it is mounted next");
	if (e->blocks > f->vol->size / e->bs)
		return plt_free_refuse(f,
				       "it claims %" PRIu64 " blocks of %" PRIu32
				       " bytes and has room for %" PRIu64,
				       e->blocks, e->bs, f->vol->size / e->bs);
	if (e->incompat & INCOMPAT_MMP) {
		uint64_t block = plt_get_le64(sb + 0x168);

		if (block >= e->blocks)
			return plt_free_refuse(f, "its MMP block %" PRIu64 " lies outside", block);
		if (plt_free_read(f, block * e->bs, mmp, sizeof(mmp), "the MMP block") < 0)
			return -EBUSY;
		if (plt_get_le32(mmp) != MMP_MAGIC || plt_get_le32(mmp + 4) != MMP_CLEAN)
			return plt_free_refuse(f, "another computer may have it mounted (MMP sequence %#x)",
					       plt_get_le32(mmp + 4));
	}
	return 0;
}

/* Clusters: the unit of the bitmaps. */
static int check_clusters(struct reader *r, const uint8_t *sb)
{
	struct ext *e = r->e;
	uint32_t log_bs = plt_get_le32(sb + 0x18), log_cs = plt_get_le32(sb + 0x1c),
		 cpg = plt_get_le32(sb + 0x24);

	r->ratio = 1;
	if (e->ro & EXT_RO_BIGALLOC) {
		if (log_cs < log_bs || log_cs - log_bs > 16)
			return plt_free_refuse(r->f, "its clusters of 2^%" PRIu32 " KiB do not fit its blocks",
					       log_cs);
		r->ratio = 1u << (log_cs - log_bs);
		if (cpg > 8 * e->bs || (uint64_t)cpg * r->ratio != e->bpg)
			return plt_free_refuse(r->f,
					       "%" PRIu32 " clusters a group do not fit %" PRIu32
					       " blocks a group",
					       cpg, e->bpg);
	}
	if (e->first_data != (e->bs == 1024 && r->ratio == 1))
		return plt_free_refuse(r->f, "its first data block is %" PRIu32, e->first_data);
	return 0;
}

/* The descriptors' own checksum where metadata has none. */
static uint16_t crc16(uint16_t crc, const uint8_t *p, size_t len)
{
	while (len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = (uint16_t)(crc & 1 ? crc >> 1 ^ 0xa001 : crc >> 1);
	}
	return crc;
}

static bool desc_sums(const struct ext *e, uint32_t group, const uint8_t *desc)
{
	uint16_t crc;
	uint8_t le[4];

	if (e->csum || !(e->ro & EXT_RO_GDT_CSUM))
		return true; /* (verified as it was loaded) */
	plt_put_le32(le, group);
	crc = crc16(crc16(crc16(0xffff, e->uuid, 16), le, 4), desc, 0x1e);
	if (e->desc_size > 32)
		crc = crc16(crc, desc + 0x20, e->desc_size - 0x20);
	return crc == plt_get_le16(desc + 0x1e);
}

static uint64_t wide(const struct ext *e, const uint8_t *desc, unsigned lo, unsigned hi)
{
	return plt_get_le32(desc + lo) | (e->desc_size > 32 ? (uint64_t)plt_get_le32(desc + hi) << 32 : 0);
}

static bool note_meta(struct reader *r, uint64_t first, uint64_t n)
{
	if (first < r->e->first_data || !plt_in_range(first, n, r->e->blocks))
		return false;
	if (n)
		r->meta[r->nmeta++] = (struct range){ first, first + n };
	return true;
}

/* Superblock copies and descriptors at the head of a group. */
static uint64_t head_blocks(const struct ext *e, uint32_t group)
{
	uint32_t dpb = e->bs / e->desc_size;
	uint64_t all = plt_div_up(e->ngroups, dpb), super = plt_ext_has_super(e, group);

	if (e->incompat & EXT_INCOMPAT_META_BG && group / dpb >= e->first_meta_bg) {
		uint32_t in = group % dpb;

		return super + (in == 0 || in == 1 || in == dpb - 1);
	}
	if (e->incompat & EXT_INCOMPAT_META_BG)
		all = PLT_MIN(all, (uint64_t)e->first_meta_bg);
	return super ? 1 + all + e->reserved_gdt : 0;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* Where metadata lies, by all descriptors; nothing may lie on anything else. */
static int load_meta(struct reader *r)
{
	struct ext *e = r->e;
	uint64_t table = plt_div_up((uint64_t)e->ipg * e->isize, e->bs);
	int ret;

	e->budget = EXT_BUDGET;
	ret = plt_ext_load_gdt(e);
	if (ret < 0)
		return ret;
	r->meta = calloc(e->ngroups, 4 * sizeof(*r->meta));
	r->map = malloc(e->bs);
	if (!r->meta || !r->map)
		return -ENOMEM;
	for (uint32_t g = 0; g < e->ngroups; g++) {
		const uint8_t *d = e->gdt_from[g] == EXT_FROM_PRIMARY ? plt_ext_desc(e, g) : NULL;
		uint64_t first = plt_ext_group_block(e, g);

		if (!d || !desc_sums(e, g, d))
			return plt_free_refuse(r->f, "the descriptor of block group %" PRIu32 " is damaged", g);
		if (!note_meta(r, first,
			       PLT_MIN(head_blocks(e, g), PLT_MIN((uint64_t)e->bpg, e->blocks - first))) ||
		    !note_meta(r, wide(e, d, 0, 0x20), 1) || !note_meta(r, wide(e, d, 4, 0x24), 1) ||
		    !note_meta(r, plt_ext_desc_table(e, d), table))
			return plt_free_refuse(r->f, "the descriptor of block group %" PRIu32 " leads outside",
					       g);
	}
	qsort(r->meta, r->nmeta, sizeof(*r->meta), compare_ranges);
	for (size_t i = 1; i < r->nmeta; i++)
		if (r->meta[i].first < r->meta[i - 1].end)
			return plt_free_refuse(r->f, "two pieces of its metadata lie on block %" PRIu64,
					       r->meta[i].first);
	return 0;
}

static bool bitmap_sums(const struct ext *e, const uint8_t *d, const uint8_t *map, uint32_t bits)
{
	uint32_t crc, want;

	if (!e->csum)
		return true;
	crc = plt_crc32c(e->seed, map, bits / 8);
	want = plt_get_le16(d + 0x18);
	if (e->desc_size > 32)
		want |= (uint32_t)plt_get_le16(d + 0x38) << 16;
	else
		crc &= 0xffff;
	return crc == want;
}

static void set_bits(uint8_t *map, uint64_t from, uint64_t to)
{
	for (; from < to; from++)
		map[from / 8] |= (uint8_t)(1u << from % 8);
}

static int group(struct reader *r, uint32_t g)
{
	struct ext *e = r->e;
	const uint8_t *d = plt_ext_desc(e, g);
	uint64_t first = plt_ext_group_block(e, g), end = PLT_MIN(first + e->bpg, e->blocks), bits;
	uint64_t zeros, want = plt_get_le16(d + 0xc);
	bool unwritten = e->ro & (EXT_RO_GDT_CSUM | EXT_RO_METADATA_CSUM) &&
			 plt_get_le16(d + 0x12) & EXT_BG_BLOCK_UNINIT;

	if (e->desc_size > 32)
		want |= (uint32_t)plt_get_le16(d + 0x2c) << 16;
	bits = plt_div_up(end - first, r->ratio);
	if (unwritten)
		memset(r->map, 0, e->bs);
	else if (plt_free_read(r->f, wide(e, d, 0, 0x20) * e->bs, r->map, e->bs, "a block bitmap") < 0)
		return -EBUSY;
	if (!unwritten && !bitmap_sums(e, d, r->map, e->bpg / r->ratio))
		return plt_free_refuse(r->f, "the checksum of the bitmap of block group %" PRIu32 " is wrong", g);
	while (r->at < r->nmeta && r->meta[r->at].first < end) {
		const struct range *m = &r->meta[r->at];
		uint64_t from = (PLT_MAX(m->first, first) - first) / r->ratio;
		uint64_t to = (PLT_MIN(m->end, end) - 1 - first) / r->ratio + 1;

		if (unwritten)
			set_bits(r->map, from, to);
		else if (plt_free_has_zero(r->map, 0, from, to - from))
			return plt_free_refuse(r->f, "the bitmap of block group %" PRIu32 " calls metadata free",
					       g);
		if (m->end > end)
			break; /* it goes on in the next group */
		r->at++;
	}
	zeros = plt_free_zeros(r->map, bits);
	if (zeros != want)
		return plt_free_refuse(r->f,
				       "the bitmap of block group %" PRIu32 " has %" PRIu64
				       " free, its descriptor says %" PRIu64,
				       g, zeros, want);
	/* A cluster that the end cuts is not given away: plt_free_add() would refuse it. */
	if (g + 1 == e->ngroups)
		bits = (end - first) / r->ratio;
	return plt_free_bits(r->f, &r->run, r->map, bits, (uint64_t)g * (e->bpg / r->ratio),
			     (uint64_t)e->first_data * e->bs, (uint64_t)r->ratio * e->bs);
}

static int walk(struct reader *r, const uint8_t *sb)
{
	struct ext *e = r->e;
	int ret = check_state(r->f, sb, e);

	if (ret == 0)
		ret = check_clusters(r, sb);
	if (ret == 0)
		ret = load_meta(r);
	for (uint32_t g = 0; ret == 0 && g < e->ngroups; g++)
		ret = group(r, g);
	if (ret == 0)
		ret = plt_free_run_end(r->f, &r->run, (uint64_t)e->first_data * e->bs,
				       (uint64_t)r->ratio * e->bs);
	return ret;
}

int plt_free_ext(struct plt_free *f)
{
	struct reader r = { .f = f };
	struct plt_guestfs *fs;
	uint8_t sb[EXT_SB_SIZE];
	int ret;

	if (plt_free_read(f, 1024, sb, sizeof(sb), "the superblock") < 0)
		return -EBUSY;
	ret = plt_guestfs_ext.open(f->vol, 0, sb, sizeof(sb), &fs);
	if (ret == -ENOENT)
		return plt_free_refuse(f, "its superblock is damaged");
	if (ret < 0)
		return ret;
	r.e = (struct ext *)fs;
	ret = walk(&r, sb);
	free(r.map);
	free(r.meta);
	plt_guestfs_free(fs);
	return ret;
}
