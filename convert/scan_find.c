/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is recognised in a piece of a disk.  Each sector is looked at by its first bytes, which refuse nearly all, so that
 * the pass runs as fast as the disk.  What is noted here is a claim; whether the rest of it is there is judged
 * later.  Formats are known here by their headers alone, since their drivers open whole images only.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/zero.h"
#include "convert/scan.h"

struct scan_item *plt_scan_add(struct scan_hits *h, enum plt_scan_class kind, const char *what, uint64_t off, uint64_t len)
{
	struct scan_item *it;

	if (h->n == h->cap) {
		size_t cap = h->cap ? 2 * h->cap : 64;
		struct scan_item *grown = cap > SCAN_OBJECTS_MAX ? NULL : realloc(h->v, cap * sizeof(*grown));

		if (!grown) {
			h->omitted++;
			return NULL;
		}
		h->v = grown;
		h->cap = cap;
	}
	it = &h->v[h->n++];
	memset(it, 0, sizeof(*it));
	it->o = (struct plt_scan_object){ .kind = kind, .what = what, .offset = off, .length = len, .inside = -1 };
	return it;
}

static void add_ones(struct scan_hits *h, uint64_t off)
{
	if (h->nones == h->ones_cap) {
		size_t cap = h->ones_cap ? 2 * h->ones_cap : 1024;
		uint64_t *grown = cap > SCAN_ONES_MAX ? NULL : realloc(h->ones, cap * sizeof(*grown));

		if (!grown)
			return;
		h->ones = grown;
		h->ones_cap = cap;
	}
	h->ones[h->nones++] = off;
}

/* ---- images ---------------------------------------------------------------------------------- */

/* More tables, blocks or records of a kind: one object for all that lie together. */
static void add_run(struct scan_hits *h, const char *what, uint64_t off, uint64_t len)
{
	struct scan_item *last = h->n ? &h->v[h->n - 1] : NULL;

	if (last && last->o.kind == PLT_SCAN_STRUCTURE && last->o.what == what &&
	    off - last->o.offset - last->o.length < 1 << 20) {
		last->o.count++;
		last->o.length = off + len - last->o.offset;
		return;
	}
	last = plt_scan_add(h, PLT_SCAN_STRUCTURE, what, off, len);
	if (last)
		last->o.count = 1;
}

static bool look_qcow(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint32_t version = plt_get_be32(p + 4), bits = version == 1 ? p[32] : plt_get_be32(p + 20);
	struct scan_item *it;

	if (version < 1 || version > 3 || bits < 9 || bits > (version == 1 ? 16 : 21))
		return false;
	it = plt_scan_add(h, PLT_SCAN_IMAGE, version == 1 ? "qcow" : "qcow2", at, 0);
	if (it)
		it->o.size = plt_get_be64(p + 24);
	return true;
}

/* The one's complement of the sum of all bytes but the checksum's own. */
static bool vhd_sum_ok(const uint8_t *p, size_t len, size_t sum_at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += i - sum_at < 4 ? 0 : p[i];
	return ~sum == plt_get_be32(p + sum_at);
}

static void look_vhd(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint32_t type = plt_get_be32(p + 60);
	uint64_t size = plt_get_be64(p + 48);
	struct scan_item *it;

	if (!vhd_sum_ok(p, SCAN_SECTOR, 64) || type < 2 || type > 4)
		return;
	if (type == 2) {
		if (size > at || size % SCAN_SECTOR)
			return;
		it = plt_scan_add(h, PLT_SCAN_IMAGE, "vpc", at - size, size + SCAN_SECTOR);
		if (it)
			snprintf(it->detail, sizeof(it->detail), "fixed, by the footer behind it");
	} else {
		it = plt_scan_add(h, PLT_SCAN_IMAGE, "vpc", at, 0);
		if (it)
			it->o.count = type; /* told apart later: the first of two alike is the beginning */
	}
	if (it) {
		it->o.size = size;
		it->fsid = plt_fsid(p + 68, 16);
	}
}

static void look_vmdk(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint64_t sectors = plt_get_le64(p + 12), grain = plt_get_le64(p + 20);
	struct scan_item *it;

	if (plt_get_le32(p + 4) < 1 || plt_get_le32(p + 4) > 3 || !grain || grain > 4096 || sectors > UINT64_MAX >> 10)
		return;
	it = plt_scan_add(h, PLT_SCAN_IMAGE, "vmdk", at, 0);
	if (it)
		it->o.size = sectors * SCAN_SECTOR;
}

static void look_vdi(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint64_t data = plt_get_le32(p + 0x158), block = plt_get_le32(p + 0x178), used = plt_get_le32(p + 0x184), len;
	struct scan_item *it;

	if (plt_get_le32(p + 68) >> 16 != 1 || !block || block > 256 << 20 || plt_mul(block, used, &len) ||
	    plt_add(len, data, &len))
		return;
	it = plt_scan_add(h, PLT_SCAN_IMAGE, "vdi", at, len);
	if (it)
		it->o.size = plt_get_le64(p + 0x170);
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* A block of 4096 bytes of nothing but entries as an L2 table of qcow2 has them. */
static bool is_l2(const uint8_t *p)
{
	uint64_t last = 0;
	unsigned used = 0, copied = 0, order = 0;

	for (unsigned i = 0; i < 512; i++) {
		uint64_t e = plt_get_be64(p + 8 * i), off = e & UINT64_C(0x00fffffffffffe00);

		if (!e)
			continue;
		if (e & UINT64_C(0x4000000000000000)) {
			if (e >> 63)
				return false;
			used++;
			continue;
		}
		if (e & UINT64_C(0x3f000000000001fe) || (!off && !(e & 1)) || off & 511 || off >> 50 ||
		    (off && off < 3 * 512) || (off && off == last))
			return false;
		order += off > last;
		last = off ? off : last;
		copied += e >> 63;
		used++;
	}
	return used >= 16 && copied * 4 >= used * 3 && order * 2 > used;
}

/* The first entry that is not zero: COPIED, or compressed. */
static bool begins_l2(const uint8_t *p)
{
	unsigned i = 0;

	while (i < 4096 && plt_get_be64(p + i) == 0)
		i += 8;
	return i < 4096 && (p[i] == 0x80 || (p[i] & 0xc0) == 0x40) && (p[i] & 0x40 || p[i + 1] == 0);
}

static bool is_ones(const uint8_t *p)
{
	return p[0] == 0xff && p[511] == 0xff && !memcmp(p, p + 1, SCAN_SECTOR - 1);
}

static bool gpt_ok(const uint8_t *p)
{
	uint8_t copy[SCAN_SECTOR];
	uint32_t len = plt_get_le32(p + 12);

	if (len < 92 || len > SCAN_SECTOR)
		return false;
	memcpy(copy, p, SCAN_SECTOR);
	memset(copy + 16, 0, 4);
	return crc32(0, copy, len) == plt_get_le32(p + 16);
}

static void look_mbr(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint64_t end = 0;
	unsigned used = 0;

	for (unsigned i = 446; i < 510; i += 16) {
		uint64_t start = plt_get_le32(p + i + 8), n = plt_get_le32(p + i + 12);

		if (p[i] & 0x7f || !p[i + 4] != !n || (n && start < end))
			return;
		used += n != 0;
		end = n ? start + n : end;
	}
	if (used && plt_get_le32(p + 446 + 8))
		(void)plt_scan_add(h, PLT_SCAN_TABLE, "mbr", at, SCAN_SECTOR);
}

/* ---- volumes --------------------------------------------------------------------------------- */

static bool note_super(void *arg, const struct plt_super *s)
{
	struct scan_hits *h = arg;
	struct scan_item *it = plt_scan_add(h, PLT_SCAN_FILESYSTEM, s->name, s->start, s->size);

	if (it) {
		it->o.copy = s->copy;
		it->fsid = s->fsid;
		it->o.count = s->kind;
		it->o.size = s->at; /* until it is judged */
		if (*s->label)
			snprintf(it->detail, sizeof(it->detail), "\"%s\"", s->label);
	}
	return true;
}

static void look_vmfs(struct scan_hits *h, const uint8_t *p, uint64_t at)
{
	uint32_t magic = plt_get_le32(p);

	if (magic == 0x2fabf15e || magic == 0x2fabf15f)
		(void)plt_scan_add(h, PLT_SCAN_STRUCTURE, "VMFS descriptor", at, SCAN_SECTOR);
	else if (magic == 0xabcdef01 || magic == 0xabcdef02)
		add_run(h, "VMFS heartbeats", at, SCAN_SECTOR);
	else if (magic == 0x10c00001 && plt_get_le64(p + 8))
		add_run(h, "VMFS file descriptors", at, SCAN_SECTOR);
	else if (magic >= 0x10c00002 && magic <= 0x10c00005)
		add_run(h, "VMFS resource records", at, SCAN_SECTOR);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void look(struct scan_hits *h, const uint8_t *p, size_t avail, uint64_t at, bool after_ones)
{
	switch (plt_get_be32(p)) {
	case 0x514649fb: /* QFI\xfb */
		(void)look_qcow(h, p, at);
		break;
	case 0x636f6e65: /* cone */
		if (!memcmp(p, "conectix", 8))
			look_vhd(h, p, at);
		break;
	case 0x63787370: /* cxsp */
		if (!memcmp(p, "cxsparse", 8) && avail >= 1024 && vhd_sum_ok(p, 1024, 36)) {
			struct scan_item *it = plt_scan_add(h, PLT_SCAN_STRUCTURE, "VHD dynamic header", at, 1024);

			if (it)
				it->o.count = 1;
		}
		break;
	case 0x4b444d56: /* KDMV */
		look_vmdk(h, p, at);
		break;
	case 0x434f5744: /* COWD */
		if (plt_get_le32(p + 4) == 1)
			(void)plt_scan_add(h, PLT_SCAN_IMAGE, "vmdk (COWD)", at, 0);
		break;
	case 0x76686478: /* vhdx */
		if (!memcmp(p, "vhdxfile", 8))
			(void)plt_scan_add(h, PLT_SCAN_IMAGE, "vhdx", at, 0);
		break;
	case 0x23204469: /* # Di */
		if (!memcmp(p, "# Disk DescriptorFile", 21))
			(void)plt_scan_add(h, PLT_SCAN_STRUCTURE, "VMDK descriptor", at, SCAN_SECTOR);
		break;
	case 0x45464920: /* EFI  */
		if (!memcmp(p, "EFI PART", 8) && gpt_ok(p)) {
			struct scan_item *it = plt_scan_add(h, PLT_SCAN_TABLE, "gpt", at, SCAN_SECTOR);

			if (it)
				it->o.count = plt_get_le64(p + 24);
		}
		break;
	}
	if (plt_get_le32(p + 64) == 0xbeda107f)
		look_vdi(h, p, at);
	if (p[510] == 0x55 && p[511] == 0xaa)
		look_mbr(h, p, at);
	if (p[3] == 0x10 || p[3] == 0xab || p[3] == 0x2f)
		look_vmfs(h, p, at);
	if (p[0] == 0xff && !after_ones && avail >= 2 * SCAN_SECTOR && is_ones(p) && !is_ones(p + SCAN_SECTOR))
		add_ones(h, at);
	if (at % 4096 == 0 && avail >= 4096 && begins_l2(p) && is_l2(p))
		add_run(h, "L2 tables", at, 4096);
}

void plt_scan_find(struct scan_hits *h, const uint8_t *buf, size_t len, size_t avail, uint64_t base)
{
	bool ones = false;

	for (size_t pos = 0; len - pos >= SCAN_SECTOR; pos += SCAN_SECTOR) {
		if (plt_get_be64(buf + pos) == 0 && plt_is_zero(buf + pos, SCAN_SECTOR)) {
			ones = false;
			if ((base + pos) % 4096 == 0 && avail - pos >= 4096 && begins_l2(buf + pos) && is_l2(buf + pos))
				add_run(h, "L2 tables", base + pos, 4096);
			continue;
		}
		look(h, buf + pos, avail - pos, base + pos, ones);
		ones = buf[pos] == 0xff && is_ones(buf + pos);
		plt_supers(buf + pos, SCAN_SECTOR, avail - pos, base + pos, note_super, h);
	}
}
