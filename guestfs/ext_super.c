/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * ext: geometry and group descriptors.  Any superblock copy gives the geometry; descriptors come from
 * the primary table, block by block, and where that is gone or does not verify from the copies in
 * later groups.
 */
#include "guestfs/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"

bool plt_ext_super_verifies(const uint8_t *sb)
{
	return plt_crc32c(~0u, sb, 0x3fc) == plt_get_le32(sb + 0x3fc);
}

int plt_ext_parse_super(const uint8_t *sb, struct ext *e)
{
	uint32_t log_bs = plt_get_le32(sb + 0x18), rev = plt_get_le32(sb + 0x4c);
	uint64_t groups;

	if (plt_get_le16(sb + 0x38) != 0xef53 || log_bs > 6 || rev > 1)
		return -ENOENT;
	e->bs = 1024u << log_bs;
	e->inodes = plt_get_le32(sb);
	e->blocks = plt_get_le32(sb + 4);
	e->first_data = plt_get_le32(sb + 0x14);
	e->bpg = plt_get_le32(sb + 0x20);
	e->ipg = plt_get_le32(sb + 0x28);
	e->compat = rev ? plt_get_le32(sb + 0x5c) : 0;
	e->incompat = rev ? plt_get_le32(sb + 0x60) : 0;
	e->ro = rev ? plt_get_le32(sb + 0x64) : 0;
	e->isize = rev ? plt_get_le16(sb + 0x58) : 128;
	e->reserved_gdt = e->compat & EXT_COMPAT_RESIZE_INODE ? plt_get_le16(sb + 0xce) : 0;
	e->first_meta_bg = plt_get_le32(sb + 0x104);
	e->desc_size = 32;
	if (e->incompat & EXT_INCOMPAT_64BIT) {
		e->blocks |= (uint64_t)plt_get_le32(sb + 0x150) << 32;
		e->desc_size = plt_get_le16(sb + 0xfe);
		if (e->desc_size < 64)
			return -ENOENT;
	}
	if (!plt_is_pow2(e->desc_size) || e->desc_size > 1024 || !plt_is_pow2(e->isize) || e->isize < 128 ||
	    e->isize > e->bs || !e->bpg || e->bpg % 8 || !e->ipg || e->ipg > 8 * e->bs || e->first_data > 1 ||
	    (!(e->ro & EXT_RO_BIGALLOC) && e->bpg > 8 * e->bs) || e->blocks <= e->first_data ||
	    e->blocks > UINT64_MAX / 65536)
		return -ENOENT;
	groups = plt_div_up(e->blocks - e->first_data, e->bpg);
	if (groups > EXT_GROUPS_MAX || (uint64_t)e->inodes != groups * e->ipg)
		return -ENOENT;
	e->ngroups = (uint32_t)groups;
	memcpy(e->uuid, sb + 0x68, 16);
	e->fs.fsid = plt_fsid(e->uuid, 16);
	e->csum = e->ro & EXT_RO_METADATA_CSUM;
	e->seed = e->incompat & EXT_INCOMPAT_CSUM_SEED ? plt_get_le32(sb + 0x270) : plt_crc32c(~0u, e->uuid, 16);
	e->fs.block = e->bs;
	e->fs.zero_tails = true;
	return 0;
}

uint64_t plt_ext_off(const struct ext *e, uint64_t block)
{
	return e->fs.start + block * e->bs;
}

int plt_ext_read(struct ext *e, uint64_t block, void *buf)
{
	if (block >= e->blocks || !plt_in_range(plt_ext_off(e, block), e->bs, e->fs.disk->size))
		return -EUCLEAN;
	if (!e->budget)
		return -EDQUOT;
	e->budget--;
	return e->fs.disk->read(e->fs.disk->arg, plt_ext_off(e, block), buf, e->bs);
}

static bool is_power_of(uint32_t v, uint32_t base)
{
	while (v % base == 0)
		v /= base;
	return v == 1;
}

bool plt_ext_has_super(const struct ext *e, uint32_t group)
{
	if (group == 0 || !(e->ro & EXT_RO_SPARSE_SUPER))
		return true;
	if (e->compat & EXT_COMPAT_SPARSE_SUPER2)
		return group == 1 || group == e->ngroups - 1;
	return group == 1 || is_power_of(group, 3) || is_power_of(group, 5) || is_power_of(group, 7);
}

uint64_t plt_ext_group_block(const struct ext *e, uint32_t group)
{
	return e->first_data + (uint64_t)group * e->bpg;
}

bool plt_ext_desc_ok(const struct ext *e, uint32_t group, const uint8_t *desc)
{
	uint64_t table = plt_ext_desc_table(e, desc);
	uint8_t le[4];

	if (!table || table >= e->blocks || !plt_get_le32(desc) || !plt_get_le32(desc + 4))
		return false;
	if (e->csum) {
		uint32_t crc;

		plt_put_le32(le, group);
		crc = plt_crc32c(plt_crc32c(e->seed, le, 4), desc, 0x1e);
		crc = plt_crc32c(crc, "\0", 2);
		if (e->desc_size > 32)
			crc = plt_crc32c(crc, desc + 0x20, e->desc_size - 0x20);
		return (crc & 0xffff) == plt_get_le16(desc + 0x1e);
	}
	return true;
}

const uint8_t *plt_ext_desc(const struct ext *e, uint32_t group)
{
	if (group >= e->ngroups || e->gdt_from[group] == EXT_FROM_NOWHERE)
		return NULL;
	return e->gdt + (size_t)group * e->desc_size;
}

uint64_t plt_ext_desc_table(const struct ext *e, const uint8_t *desc)
{
	return plt_get_le32(desc + 8) | (e->desc_size > 32 ? (uint64_t)plt_get_le32(desc + 0x28) << 32 : 0);
}

/* The @copy-th place of descriptor block @k: the first, then those in groups with a superblock.  0: no more. */
static uint64_t gdt_place(const struct ext *e, uint32_t k, uint32_t dpb, unsigned copy)
{
	uint32_t group, seen = 0;

	if (e->incompat & EXT_INCOMPAT_META_BG && k >= e->first_meta_bg) {
		static const uint32_t member[] = { 0, 1, UINT32_MAX };

		if (copy > 2)
			return 0;
		group = k * dpb + (copy == 2 ? dpb - 1 : member[copy]);
		return group < e->ngroups ? plt_ext_group_block(e, group) + plt_ext_has_super(e, group) : 0;
	}
	for (group = 0; group < e->ngroups; group++)
		if (plt_ext_has_super(e, group) && seen++ == copy)
			return plt_ext_group_block(e, group) + 1 + k;
	return 0;
}

int plt_ext_load_gdt(struct ext *e)
{
	uint8_t *buf PLT_AUTOFREE = malloc(e->bs);
	uint32_t dpb = e->bs / e->desc_size;

	if (!buf)
		return -ENOMEM;
	for (uint32_t k = 0; k * dpb < e->ngroups; k++) {
		uint32_t n = PLT_MIN(dpb, e->ngroups - k * dpb), missing = n;

		for (unsigned copy = 0; missing && copy < 8; copy++) {
			uint8_t from = copy ? EXT_FROM_COPY : EXT_FROM_PRIMARY;
			uint64_t block = gdt_place(e, k, dpb, copy);

			if (!block)
				break;
			if (plt_ext_read(e, block, buf))
				memset(buf, 0, e->bs);
			missing = 0;
			for (uint32_t i = 0; i < n; i++) {
				uint32_t group = k * dpb + i;
				const uint8_t *desc = buf + (size_t)i * e->desc_size;

				if (e->gdt_from[group] < from && plt_ext_desc_ok(e, group, desc)) {
					memcpy(e->gdt + (size_t)group * e->desc_size, desc, e->desc_size);
					e->gdt_from[group] = from;
				}
				missing += e->gdt_from[group] == EXT_FROM_NOWHERE;
			}
		}
	}
	return 0;
}
