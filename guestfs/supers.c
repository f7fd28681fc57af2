/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Superblocks by their bytes.  The first bytes of a sector refuse nearly all, so that a pass over a disk costs little
 * more than reading it.  Invariant: a structure is told only if its sizes fit each other, and a copy only with the
 * place that its own fields name.  What to write back from a copy is said here too; who writes it decides elsewhere.
 */
#include "guestfs/supers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/ext.h"

#define SECTOR 512

struct sink {
	const uint8_t *p;    /* the sector looked at */
	size_t avail;        /* bytes from there */
	uint64_t at;
	plt_super_fn fn;
	void *arg;
	bool stop;
};

static void tell(struct sink *k, struct plt_super *s)
{
	s->at = k->at;
	if (!k->stop && !k->fn(k->arg, s))
		k->stop = true;
}

static void put_label(struct plt_super *s, const uint8_t *p, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && p[i] && n + 1 < sizeof(s->label); i++)
		s->label[n++] = p[i] >= 0x20 && p[i] < 0x7f && p[i] != '"' ? (char)p[i] : '?';
	while (n && s->label[n - 1] == ' ')
		n--;
	s->label[n] = '\0';
}

/* ---- one sector ------------------------------------------------------------------------------ */

bool plt_ext_super_place(const uint8_t *p, uint64_t at, struct plt_super *s)
{
	struct ext e = { 0 };
	uint64_t group = plt_get_le16(p + 0x5a), off;

	if (plt_ext_parse_super(p, &e) < 0 || group >= e.ngroups)
		return false;
	/* of the first group it lies 1024 bytes behind the start, of the others at the start of the group */
	off = group ? plt_ext_group_block(&e, (uint32_t)group) * e.bs : 1024;
	if (off > at || (group && !plt_ext_has_super(&e, (uint32_t)group)))
		return false;
	*s = (struct plt_super){ .kind = PLT_SUPER_EXT, .start = at - off, .size = e.blocks * e.bs, .fsid = e.fs.fsid,
				 .copy = group != 0, .sure = e.csum && plt_ext_super_verifies(p) };
	s->name = e.incompat & EXT_INCOMPAT_EXTENTS ? "ext4" : e.compat & 4 ? "ext3" : "ext2";
	if (e.csum && !s->sure)
		return false;
	put_label(s, p + 0x78, 16);
	return true;
}

static bool xfs_crc_ok(const uint8_t *p, uint32_t len)
{
	uint32_t crc = plt_crc32c(plt_crc32c(~0u, p, 224), "\0\0\0", 4);

	return ~plt_crc32c(crc, p + 228, len - 228) == plt_get_le32(p + 224);
}

static void look_xfs(struct sink *k)
{
	const uint8_t *p = k->p;
	uint32_t bs = plt_get_be32(p + 4), ss = plt_get_be16(p + 102), agblocks = plt_get_be32(p + 84), ags = plt_get_be32(p + 88);
	unsigned version = plt_get_be16(p + 100) & 15;
	uint64_t blocks = plt_get_be64(p + 8), group, off;
	struct plt_super s = { .kind = PLT_SUPER_XFS, .name = "xfs" };

	if ((version != 4 && version != 5) || !plt_is_pow2(bs) || bs < 512 || bs > 65536 || !plt_is_pow2(ss) || ss < 512 ||
	    ss > 4096 || ss > bs || !agblocks || !ags || blocks > (uint64_t)ags * agblocks || blocks > UINT64_MAX / 65536 ||
	    k->avail < 2 * ss)
		return;
	/* which group this is, the header behind it says; without that it can only be the first */
	group = memcmp(p + ss, "XAGF", 4) ? 0 : plt_get_be32(p + ss + 8);
	if (group >= ags || plt_mul(group * agblocks, bs, &off) || off > k->at)
		return;
	s.sure = version == 5 && xfs_crc_ok(p, ss);
	if (version == 5 && !s.sure)
		return;
	s.start = k->at - off;
	s.size = blocks * bs;
	s.copy = group != 0;
	s.fsid = plt_fsid(p + 32, 16);
	put_label(&s, p + 108, 12);
	tell(k, &s);
}

static void look_ntfs(struct sink *k)
{
	const uint8_t *p = k->p;
	uint32_t ss = plt_get_le16(p + 11), spc = p[13];
	uint64_t sectors = plt_get_le64(p + 40);
	struct plt_super s = { .kind = PLT_SUPER_NTFS, .name = "ntfs", .start = k->at };

	if (p[510] != 0x55 || p[511] != 0xaa || !plt_is_pow2(ss) || ss < 256 || ss > 4096 || !spc ||
	    (!plt_is_pow2(spc) && spc < 0xe1) || !sectors || sectors > UINT64_MAX / 16384 ||
	    plt_get_le64(p + 48) >= sectors || plt_get_le64(p + 56) >= sectors)
		return;
	s.size = (sectors + 1) * ss; /* the copy lies behind */
	s.fsid = plt_fsid(p + 72, 8);
	tell(k, &s);
	if (k->at < sectors * ss)
		return;
	s.copy = true;
	s.start = k->at - sectors * ss;
	tell(k, &s);
}

static void look_exfat(struct sink *k)
{
	const uint8_t *p = k->p;
	unsigned shift = p[108];
	struct plt_super s = { .kind = PLT_SUPER_EXFAT, .name = "exfat", .start = k->at };

	if (shift < 9 || shift > 12 || p[510] != 0x55 || p[511] != 0xaa || !plt_is_zero(p + 11, 53) ||
	    plt_get_le64(p + 72) > UINT64_MAX >> 13 || !plt_get_le64(p + 72))
		return;
	s.size = plt_get_le64(p + 72) << shift;
	s.fsid = plt_fsid(p + 100, 4);
	tell(k, &s);
	if (k->at < UINT64_C(12) << shift)
		return;
	s.copy = true;
	s.start = k->at - (UINT64_C(12) << shift);
	tell(k, &s);
}

static void look_fat(struct sink *k)
{
	const uint8_t *p = k->p;
	uint32_t ss = plt_get_le16(p + 11), spc = p[13], reserved = plt_get_le16(p + 14), n = plt_get_le16(p + 19);
	uint32_t tables = p[16], root = plt_get_le16(p + 17), len = plt_get_le16(p + 22);
	bool fat32 = !len && !root;
	struct plt_super s = { .kind = PLT_SUPER_FAT, .name = fat32 ? "fat32" : "fat", .start = k->at };
	uint64_t used;

	len = len ? len : plt_get_le32(p + 36);
	n = n ? n : plt_get_le32(p + 32);
	if (!plt_is_pow2(ss) || ss < 512 || ss > 4096 || !plt_is_pow2(spc) || !reserved || !tables || tables > 2 || !len ||
	    (p[21] != 0xf0 && p[21] < 0xf8))
		return;
	used = reserved + (uint64_t)tables * len + (root * 32 + ss - 1) / ss;
	if (used >= n || (p[fat32 ? 66 : 38] & 0xfe) != 0x28)
		return;
	s.size = (uint64_t)n * ss;
	s.fsid = plt_fsid(p + (fat32 ? 67 : 39), 4);
	put_label(&s, p + (fat32 ? 71 : 43), 11);
	tell(k, &s);
	if (!fat32 || k->at < 6 * ss)
		return;
	s.copy = true;
	s.start = k->at - 6 * ss;
	tell(k, &s);
}

static void look_btrfs(struct sink *k)
{
	const uint8_t *p = k->p;
	uint64_t here = plt_get_le64(p + 48);
	struct plt_super s = { .kind = PLT_SUPER_BTRFS, .name = "btrfs" };

	if (k->avail < 4096 || here > k->at || here % 65536 || ~plt_crc32c(~0u, p + 32, 4096 - 32) != plt_get_le32(p))
		return;
	s.sure = true;
	s.start = k->at - here;
	s.copy = here != 65536;
	s.size = plt_get_le64(p + 0xc9 + 8); /* dev_item.total_bytes: of this device */
	s.fsid = plt_fsid(p + 32, 16);
	put_label(&s, p + 0x12b, 32);
	tell(k, &s);
}

uint32_t plt_lvm_crc(const uint8_t *p, size_t len)
{
	uint32_t crc = 0xf597a6cf;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (unsigned b = 0; b < 8; b++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return crc;
}

static void look_lvm(struct sink *k)
{
	const uint8_t *p = k->p;
	uint64_t sector = plt_get_le64(p + 8);
	uint32_t off = plt_get_le32(p + 20);
	struct plt_super s = { .kind = PLT_SUPER_LVM, .name = "lvm2", .sure = true };

	if (sector > 3 || sector * SECTOR > k->at || off < 32 || off > SECTOR - 40 || memcmp(p + 24, "LVM2 001", 8) ||
	    plt_lvm_crc(p + 20, SECTOR - 20) != plt_get_le32(p + 16))
		return;
	s.start = k->at - sector * SECTOR;
	s.size = plt_get_le64(p + off + 32);
	s.fsid = plt_fsid(p + off, 32);
	put_label(&s, p + off, 32);
	tell(k, &s);
}

static void look_luks(struct sink *k, bool second)
{
	const uint8_t *p = k->p;
	unsigned version = plt_get_be16(p + 6);
	uint64_t off = plt_get_be64(p + 256);
	struct plt_super s = { .kind = PLT_SUPER_LUKS, .name = "luks", .start = k->at, .copy = second };

	if (version != 2 && (second || version != 1))
		return;
	if (version == 2 && (second ? !off || off > k->at || off > UINT32_MAX : off != 0))
		return;
	if (second)
		s.start = k->at - off;
	s.fsid = plt_fsid(p + 168, 40);
	put_label(&s, version == 2 ? p + 24 : p + 168, version == 2 ? 36 : 36);
	tell(k, &s);
}

static void look(struct sink *k)
{
	const uint8_t *p = k->p;
	struct plt_super s;

	switch (p[0]) {
	case 'X':
		if (!memcmp(p, "XFSB", 4))
			look_xfs(k);
		break;
	case 0xeb: case 0xe9:
		if (!memcmp(p + 3, "NTFS    ", 8))
			look_ntfs(k);
		else if (!memcmp(p + 3, "EXFAT   ", 8))
			look_exfat(k);
		else if (p[510] == 0x55 && p[511] == 0xaa)
			look_fat(k);
		break;
	case 'L':
		if (!memcmp(p, "LABELONE", 8))
			look_lvm(k);
		else if (!memcmp(p, "LUKS\xba\xbe", 6))
			look_luks(k, false);
		break;
	case 'S':
		if (!memcmp(p, "SKUL\xba\xbe", 6))
			look_luks(k, true);
		break;
	case 0xfc: /* md, version 1 */
		if (plt_get_le32(p) == 0xa92b4efc && plt_get_le32(p + 4) == 1 && k->at >= plt_get_le64(p + 144) * SECTOR) {
			s = (struct plt_super){ .kind = PLT_SUPER_MD, .name = "md", .fsid = plt_fsid(p + 16, 16) };
			s.start = k->at - plt_get_le64(p + 144) * SECTOR;
			s.size = plt_get_le64(p + 80) < UINT64_MAX >> 10 ? plt_get_le64(p + 80) * SECTOR : 0;
			put_label(&s, p + 32, 32);
			tell(k, &s);
		}
		break;
	case 0x0d: /* VMFS: its volume header lies 1 MiB into the partition */
		if (plt_get_le32(p) == 0xc001d00d && plt_get_le32(p + 4) <= 8 && k->at >= 1 << 20) {
			s = (struct plt_super){ .kind = PLT_SUPER_VMFS, .name = "vmfs", .start = k->at - (1 << 20) };
			s.fsid = plt_fsid(p + 0x54, 16);
			tell(k, &s);
		}
		break;
	case 1:
		if (!memcmp(p, "\1CD001\1", 7) && k->at >= 32768) {
			s = (struct plt_super){ .kind = PLT_SUPER_ISO, .name = "iso9660", .start = k->at - 32768 };
			s.size = (uint64_t)plt_get_le32(p + 80) * 2048;
			put_label(&s, p + 40, 32);
			tell(k, &s);
		}
		break;
	}
	if (p[0x38] == 0x53 && p[0x39] == 0xef && k->avail >= EXT_SB_SIZE && plt_ext_super_place(p, k->at, &s))
		tell(k, &s);
	if (p[64] == '_' && !memcmp(p + 64, "_BHRfS_M", 8))
		look_btrfs(k);
	if (p[502] == 'S' && !memcmp(p + 502, "SWAPSPACE2", 10) && k->at >= 3584) {
		s = (struct plt_super){ .kind = PLT_SUPER_SWAP, .name = "swap", .start = k->at - 3584 };
		tell(k, &s);
	}
}

void plt_supers(const uint8_t *buf, size_t len, size_t avail, uint64_t base, plt_super_fn fn, void *arg)
{
	struct sink k = { .fn = fn, .arg = arg };

	for (size_t pos = 0; len - pos >= SECTOR && !k.stop; pos += SECTOR) {
		k.p = buf + pos;
		k.avail = avail - pos;
		k.at = base + pos;
		look(&k);
	}
}

/* ---- the volume's own places ----------------------------------------------------------------- */

static int rd(const struct plt_guest *disk, uint64_t off, void *buf, size_t len)
{
	return plt_in_range(off, len, disk->size) ? disk->read(disk->arg, off, buf, len) : -ENODATA;
}

static int verify_ntfs(const struct plt_guest *disk, const struct plt_super *s)
{
	uint8_t p[SECTOR], rec[4];
	uint32_t spc, cluster;

	if (rd(disk, s->at, p, SECTOR))
		return 0;
	spc = p[13] > 128 ? 1u << (256 - p[13]) : p[13];
	cluster = spc * plt_get_le16(p + 11);
	for (unsigned i = 48; i <= 56; i += 8)
		if (plt_get_le64(p + i) < UINT64_MAX / 16384 / 4096 &&
		    !rd(disk, s->start + plt_get_le64(p + i) * cluster, rec, 4) && !memcmp(rec, "FILE", 4))
			return 1;
	return 0;
}

static int verify_fat(const struct plt_guest *disk, const struct plt_super *s)
{
	uint8_t p[SECTOR], t[8];
	uint32_t reserved;

	if (rd(disk, s->at, p, SECTOR))
		return 0;
	reserved = plt_get_le16(p + 14) * plt_get_le16(p + 11);
	return !rd(disk, s->start + reserved, t, 8) && t[0] == p[21] && t[1] == 0xff && t[2] == 0xff;
}

static int verify_exfat(const struct plt_guest *disk, const struct plt_super *s)
{
	uint8_t p[SECTOR], t[8];
	unsigned shift;

	if (rd(disk, s->at, p, SECTOR))
		return 0;
	shift = p[108] & 15;
	return !rd(disk, s->start + ((uint64_t)plt_get_le32(p + 80) << shift), t, 8) &&
	       !memcmp(t, "\xf8\xff\xff\xff\xff\xff\xff\xff", 8);
}

struct same {
	const struct plt_super *s;
	bool found;
};

static bool note_same(void *arg, const struct plt_super *t)
{
	struct same *m = arg;

	m->found |= t->kind == m->s->kind && t->fsid == m->s->fsid && t->start == m->s->start;
	return !m->found;
}

/* Another copy of it where one has to be. */
static int verify_other(const struct plt_guest *disk, const struct plt_super *s, uint64_t off)
{
	uint8_t *buf PLT_AUTOFREE = malloc(PLT_SUPER_AHEAD);
	struct same m = { .s = s };

	if (buf && off != s->at && !rd(disk, off, buf, PLT_SUPER_AHEAD))
		plt_supers(buf, SECTOR, PLT_SUPER_AHEAD, off, note_same, &m);
	return m.found;
}

/* Of the first group, by its own checksum or by the order in which mkfs lays out what it names. */
static bool ext_desc_fits(const struct ext *e, const uint8_t *desc)
{
	uint32_t bb = plt_get_le32(desc), ib = plt_get_le32(desc + 4);
	uint64_t it = plt_ext_desc_table(e, desc);

	return plt_ext_desc_ok(e, 0, desc) || (bb > e->first_data && bb < ib && ib < it && it < e->blocks);
}

static int verify_ext(const struct plt_guest *disk, const struct plt_super *s)
{
	uint8_t p[EXT_SB_SIZE], desc[1024];
	struct ext e = { 0 };

	if (verify_other(disk, s, s->start + 1024))
		return 1;
	if (rd(disk, s->at, p, sizeof(p)) || plt_ext_parse_super(p, &e) < 0)
		return 0;
	/* the first group's descriptor, behind the first superblock or behind a copy */
	if (!rd(disk, s->start + (e.first_data + 1) * (uint64_t)e.bs, desc, sizeof(desc)) && ext_desc_fits(&e, desc))
		return 1;
	if (s->copy && !rd(disk, s->at + e.bs, desc, sizeof(desc)) && ext_desc_fits(&e, desc))
		return 1;
	for (uint32_t group = 1, seen = 0; group < e.ngroups && seen < 8; group++) {
		if (!plt_ext_has_super(&e, group))
			continue;
		seen++;
		if (verify_other(disk, s, s->start + plt_ext_group_block(&e, group) * e.bs))
			return 1;
	}
	return 0;
}

static int verify_xfs(const struct plt_guest *disk, const struct plt_super *s)
{
	uint8_t p[SECTOR];
	uint64_t step;

	if (rd(disk, s->at, p, SECTOR))
		return 0;
	step = (uint64_t)plt_get_be32(p + 84) * plt_get_be32(p + 4);
	for (unsigned i = 0; i < 8; i++)
		if (verify_other(disk, s, s->start + i * step))
			return 1;
	return 0;
}

int plt_super_verify(const struct plt_guest *disk, const struct plt_super *s)
{
	switch (s->kind) {
	case PLT_SUPER_EXT: return verify_ext(disk, s);
	case PLT_SUPER_XFS: return verify_xfs(disk, s);
	case PLT_SUPER_NTFS: return verify_ntfs(disk, s);
	case PLT_SUPER_FAT: return verify_fat(disk, s);
	case PLT_SUPER_EXFAT: return verify_exfat(disk, s);
	case PLT_SUPER_BTRFS: return verify_other(disk, s, s->start + (s->copy ? 65536 : UINT64_C(64) << 20));
	default: return s->sure;
	}
}

struct first {
	uint64_t start;
	struct plt_super *ret;
	bool found;
};

static bool note_first(void *arg, const struct plt_super *s)
{
	struct first *f = arg;

	if (s->copy || s->start != f->start)
		return true;
	*f->ret = *s;
	f->found = true;
	return false;
}

bool plt_super_first(const struct plt_guest *disk, uint64_t start, struct plt_super *ret)
{
	static const uint32_t places[] = { 0, 512, 1024, 1536, 3584, 4096, 32768, 65536, 1 << 20 };
	uint8_t *buf PLT_AUTOFREE = malloc(PLT_SUPER_AHEAD + SECTOR);
	struct first f = { .start = start, .ret = ret };

	for (unsigned i = 0; buf && i < PLT_ARRAY_SIZE(places) && !f.found; i++) {
		size_t len = PLT_SUPER_AHEAD + SECTOR;

		while (len > SECTOR && !plt_in_range(start + places[i], len, disk->size))
			len -= SECTOR;
		memset(buf, 0, PLT_SUPER_AHEAD + SECTOR);
		if (!rd(disk, start + places[i], buf, len))
			plt_supers(buf, SECTOR, len, start + places[i], note_first, &f);
	}
	return f.found;
}

/* ---- back to the first place ----------------------------------------------------------------- */

static void restore_ext(uint8_t *p)
{
	struct ext e = { 0 };

	(void)plt_ext_parse_super(p, &e);
	plt_put_le16(p + 0x5a, 0);
	plt_put_le16(p + 0x3a, 0); /* not cleanly unmounted: its counts are old, and the next check sees to them */
	if (e.csum)
		plt_put_le32(p + 0x3fc, plt_crc32c(~0u, p, 0x3fc));
}

/*
 * Copies have the counts that mkfs wrote; the headers of the allocation groups have those of today.  False: one of them
 * cannot be read.
 */
static bool count_xfs(const struct plt_guest *disk, uint64_t start, uint8_t *p)
{
	uint32_t bs = plt_get_be32(p + 4), agblocks = plt_get_be32(p + 84), ags = plt_get_be32(p + 88), ss = plt_get_be16(p + 102);
	uint64_t inodes = 0, free_inodes = 0, blocks = 0;

	for (uint32_t i = 0; i < ags; i++) {
		uint64_t at = start + (uint64_t)i * agblocks * bs;
		uint8_t agf[64], agi[32];

		if (rd(disk, at + ss, agf, sizeof(agf)) || rd(disk, at + 2 * ss, agi, sizeof(agi)) || memcmp(agf, "XAGF", 4) ||
		    memcmp(agi, "XAGI", 4))
			return false;
		inodes += plt_get_be32(agi + 16);
		free_inodes += plt_get_be32(agi + 28);
		blocks += (uint64_t)plt_get_be32(agf + 48) + plt_get_be32(agf + 52) + plt_get_be32(agf + 60);
	}
	plt_put_be64(p + 128, inodes);
	plt_put_be64(p + 136, free_inodes);
	plt_put_be64(p + 144, blocks);
	return true;
}

static void restore_xfs(const struct plt_guest *disk, uint64_t start, uint8_t *p)
{
	uint32_t ss = plt_get_be16(p + 102);

	(void)count_xfs(disk, start, p); /* (else the filesystem's checker counts) */

	p[126] = 0; /* in progress: what mkfs leaves in the copies */
	for (unsigned i = 1; i < 3; i++) /* and the inodes of the realtime device, which come behind the root's */
		if (plt_get_be64(p + 56 + 8 * i) == UINT64_MAX)
			plt_put_be64(p + 56 + 8 * i, plt_get_be64(p + 56) + i);
	if ((plt_get_be16(p + 100) & 15) == 5) {
		plt_put_le32(p + 224, 0);
		plt_put_le32(p + 224, ~plt_crc32c(~0u, p, ss));
	}
}

static void restore_btrfs(uint8_t *p)
{
	plt_put_le64(p + 48, 65536);
	plt_put_le32(p, ~plt_crc32c(~0u, p + 32, 4096 - 32));
}

int plt_super_restore(const struct plt_guest *disk, const struct plt_super *s, uint8_t *buf, size_t *ret_len,
		      uint64_t *ret_off)
{
	int r;

	*ret_len = SECTOR;
	*ret_off = s->start;
	switch (s->kind) {
	case PLT_SUPER_EXT:
		*ret_len = EXT_SB_SIZE;
		*ret_off = s->start + 1024;
		break;
	case PLT_SUPER_BTRFS:
		*ret_len = 4096;
		*ret_off = s->start + 65536;
		break;
	case PLT_SUPER_XFS:
	case PLT_SUPER_NTFS:
	case PLT_SUPER_FAT:
		break;
	default:
		return -ENOTSUP;
	}
	r = rd(disk, s->at, buf, *ret_len);
	if (r)
		return r;
	if (s->kind == PLT_SUPER_XFS && plt_get_be16(buf + 102) > SECTOR) {
		*ret_len = PLT_MIN((size_t)plt_get_be16(buf + 102), (size_t)PLT_SUPER_AHEAD);
		r = rd(disk, s->at, buf, *ret_len);
	}
	if (s->kind == PLT_SUPER_EXT)
		restore_ext(buf);
	else if (s->kind == PLT_SUPER_XFS)
		restore_xfs(disk, s->start, buf);
	else if (s->kind == PLT_SUPER_BTRFS)
		restore_btrfs(buf);
	return r;
}
