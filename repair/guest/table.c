/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Partition tables.  A GPT stands at both ends of a disk: the one that verifies is written over the one that does not.
 * Where neither does and no MBR is there, the volumes that are found on the disk say where partitions were; such a
 * table is written only if every volume in it is confirmed at more than one place and none lies across another.
 * Volumes inside of others (images that are a guest's own files) are no partitions.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/endian.h"
#include "base/zero.h"
#include "repair/guest/guest.h"

#define ENTRY 128
#define ENTRIES 128
#define TABLE_BYTES (ENTRY * ENTRIES)
#define TABLE_SECTORS (TABLE_BYTES / GUEST_SECTOR)
#define TABLE_MAX (1u << 20) /* of another program's */

struct gpt {
	uint8_t head[GUEST_SECTOR];
	uint8_t *table;
	uint32_t bytes;
	uint64_t lba, other, entries_lba;
	bool ok, rest;      /* verifies; a signature at least is there */
};

static void seal(uint8_t *head)
{
	plt_put_le32(head + 16, 0);
	plt_put_le32(head + 16, (uint32_t)crc32(0, head, plt_get_le32(head + 12)));
}

/* The header at @lba, and its table. */
static int read_gpt(struct guest_exam *x, uint64_t lba, struct gpt *g)
{
	uint8_t copy[GUEST_SECTOR];
	uint32_t n, size, len;

	memset(g, 0, sizeof(*g));
	g->lba = lba;
	if (!plt_in_range(lba * GUEST_SECTOR, GUEST_SECTOR, x->disk.size) ||
	    x->disk.read(x->disk.arg, lba * GUEST_SECTOR, g->head, GUEST_SECTOR))
		return 0;
	g->rest = !memcmp(g->head, "EFI PART", 8);
	len = plt_get_le32(g->head + 12);
	if (!g->rest || len < 92 || len > GUEST_SECTOR || plt_get_le64(g->head + 24) != lba)
		return 0;
	memcpy(copy, g->head, GUEST_SECTOR);
	seal(copy);
	n = plt_get_le32(g->head + 80);
	size = plt_get_le32(g->head + 84);
	g->other = plt_get_le64(g->head + 32);
	g->entries_lba = plt_get_le64(g->head + 72);
	if (memcmp(copy, g->head, GUEST_SECTOR) || !n || size < ENTRY || size > 4096 || n > TABLE_MAX / size ||
	    g->entries_lba > x->disk.size / GUEST_SECTOR)
		return 0;
	g->bytes = n * size;
	g->table = malloc(g->bytes);
	if (!g->table)
		return -ENOMEM;
	if (!plt_in_range(g->entries_lba * GUEST_SECTOR, g->bytes, x->disk.size) ||
	    x->disk.read(x->disk.arg, g->entries_lba * GUEST_SECTOR, g->table, g->bytes))
		return 0;
	g->ok = crc32(0, g->table, g->bytes) == plt_get_le32(g->head + 88);
	return 0;
}

/* Any partition that reaches into [first, last]? */
static bool in_use(const struct gpt *g, uint64_t first, uint64_t last)
{
	uint32_t size = plt_get_le32(g->head + 84);

	for (uint32_t at = 0; at + size <= g->bytes; at += size) {
		const uint8_t *e = g->table + at;

		if (!plt_is_zero(e, 16) && plt_get_le64(e + 32) <= last && plt_get_le64(e + 40) >= first)
			return true;
	}
	return false;
}

/* ---- one from the other ---------------------------------------------------------------------- */

/* @good, written where the other one belongs: header at @lba, entries at @entries_lba. */
static int write_other(struct guest_exam *x, const struct gpt *good, uint64_t lba, uint64_t entries_lba)
{
	uint8_t head[GUEST_SECTOR];
	int r;

	memcpy(head, good->head, GUEST_SECTOR);
	plt_put_le64(head + 24, lba);
	plt_put_le64(head + 32, good->lba);
	plt_put_le64(head + 72, entries_lba);
	seal(head);
	r = guest_put(x, entries_lba * GUEST_SECTOR, good->table, good->bytes, PLT_PROVEN, NULL);
	return r < 0 ? r : guest_put(x, lba * GUEST_SECTOR, head, GUEST_SECTOR, PLT_PROVEN, NULL);
}

static void protective(uint8_t *mbr, uint64_t sectors)
{
	memset(mbr + 446, 0, 64);
	mbr[446 + 2] = 2;
	mbr[446 + 4] = 0xee;
	memset(mbr + 446 + 5, 0xff, 3);
	plt_put_le32(mbr + 446 + 8, 1);
	plt_put_le32(mbr + 446 + 12, (uint32_t)PLT_MIN(sectors - 1, (uint64_t)UINT32_MAX));
	mbr[510] = 0x55;
	mbr[511] = 0xaa;
}

/* Sector 0 in front of a GPT: no table of its own, and nothing else that the disk could be. */
static int mend_protective(struct guest_exam *x)
{
	uint8_t mbr[GUEST_SECTOR];
	int r = x->disk.read(x->disk.arg, 0, mbr, sizeof(mbr));

	if (r < 0 || (mbr[510] == 0x55 && mbr[511] == 0xaa))
		return 0;
	if (guest_mends(x)) {
		protective(mbr, x->disk.size / GUEST_SECTOR);
		r = guest_put(x, 0, mbr, sizeof(mbr), PLT_PROVEN, NULL);
	}
	guest_found(x, "R-PT-1", guest_mends(x), 0, GUEST_SECTOR, "the sector before the GPT does not say that one follows "
		    "(the protective MBR is gone)");
	return r < 0 ? r : guest_mends(x);
}

static int mend_primary(struct guest_exam *x, const struct gpt *backup)
{
	uint64_t first = plt_get_le64(backup->head + 40), need = 2 + plt_div_up(backup->bytes, (uint64_t)GUEST_SECTOR);
	bool fits = first >= need && !in_use(backup, 0, need - 1), mend = guest_mends(x) && fits;
	int r = mend ? write_other(x, backup, 1, 2) : 0;

	guest_found(x, "R-PT-1", mend, GUEST_SECTOR, backup->bytes + GUEST_SECTOR, "the partition table (GPT) at the start of "
		    "the disk is damaged; the one at its end is right%s", fits ? "" : ", but names partitions where it stood");
	return r < 0 ? r : mend;
}

static int mend_backup(struct guest_exam *x, const struct gpt *primary)
{
	uint64_t sectors = x->disk.size / GUEST_SECTOR, need = 1 + plt_div_up(primary->bytes, (uint64_t)GUEST_SECTOR);
	uint64_t at = primary->other;
	bool fits = at < sectors && at > need + 1 && !in_use(primary, at + 1 - need, at), mend = guest_mends(x) && fits;
	int r;

	if (at >= sectors && !in_use(primary, sectors, UINT64_MAX)) {
		/* the disk has been made smaller since, and no partition misses anything */
		at = sectors - 1;
		fits = !in_use(primary, at + 1 - need, at) && sectors > 2 * need;
		mend = guest_mends(x) && fits;
	}
	r = mend ? write_other(x, primary, at, at + 1 - need) : 0;
	if (r == 0 && mend && at != primary->other) {
		uint8_t head[GUEST_SECTOR];

		memcpy(head, primary->head, GUEST_SECTOR);
		plt_put_le64(head + 32, at);
		if (plt_get_le64(head + 48) >= at + 1 - need)
			plt_put_le64(head + 48, at - need);
		seal(head);
		r = guest_put(x, GUEST_SECTOR, head, GUEST_SECTOR, PLT_PROVEN, NULL);
	}
	guest_found(x, "R-PT-1", mend, at * GUEST_SECTOR, GUEST_SECTOR, "the partition table (GPT) at the end of the disk is "
		    "missing or damaged; the one at its start is right%s", fits ? "" : primary->other >= sectors ?
		    ", and names partitions behind the end of the disk: the disk was cut short" : "");
	return r < 0 ? r : mend;
}

/* ---- from the volumes ------------------------------------------------------------------------ */

struct vol {
	struct plt_super s;
	unsigned seen;       /* structures that say the same */
	bool first, verified;
};

static int by_start(const void *a, const void *b)
{
	const struct vol *p = a, *q = b;

	if (p->s.start != q->s.start)
		return p->s.start < q->s.start ? -1 : 1;
	return p->verified != q->verified ? (p->verified ? -1 : 1) : p->seen > q->seen ? -1 : p->seen < q->seen;
}

static int collect(struct guest_exam *x, struct vol **ret, unsigned *ret_n)
{
	struct plt_super *v;
	unsigned n, k = 0;
	struct vol *out;
	int r = guest_volumes(x, 0, x->disk.size, &v, &n);

	out = r == 0 ? calloc(n + 1, sizeof(*out)) : NULL;
	if (r == 0 && !out)
		r = -ENOMEM;
	for (unsigned i = 0; i < n && r == 0; i++) {
		unsigned j;

		if (v[i].kind == PLT_SUPER_ISO)
			continue; /* (what lies on a disk as an image of one is a file) */
		for (j = 0; j < k; j++)
			if (out[j].s.kind == v[i].kind && out[j].s.start == v[i].start && out[j].s.fsid == v[i].fsid)
				break;
		if (j == k)
			out[k++].s = v[i];
		out[j].seen++;
		out[j].first |= !v[i].copy;
		if (!v[i].copy)
			out[j].s = v[i];
	}
	free(v);
	for (unsigned i = 0; i < k && r == 0; i++)
		out[i].verified = (out[i].first || out[i].s.sure) && plt_super_verify(&x->disk, &out[i].s) > 0;
	if (out)
		qsort(out, k, sizeof(*out), by_start);
	*ret = out;
	*ret_n = k;
	return r;
}

/* Those that can be partitions side by side; *ret_clear: and nothing speaks against any of them. */
static unsigned choose(struct guest_exam *x, struct vol *v, unsigned n, bool *ret_clear)
{
	uint64_t end = 0, limit = plt_align_down(x->disk.size, GUEST_SECTOR);
	unsigned k = 0;

	*ret_clear = true;
	for (unsigned i = 0; i < n; i++) {
		struct vol c = v[i];

		if (!c.verified || c.s.start % GUEST_SECTOR || c.s.start < GUEST_SECTOR || c.s.start >= limit)
			continue;
		if (c.s.start < end) {
			if (c.s.size && c.s.size <= end - c.s.start)
				continue; /* inside of the one before */
			*ret_clear = false;
			continue;
		}
		if (c.s.size > limit - c.s.start) {
			*ret_clear = false; /* the disk was cut short */
			c.s.size = limit - c.s.start;
		}
		end = c.s.start + (c.s.size ? c.s.size : GUEST_SECTOR);
		v[k++] = c;
	}
	/* what does not say how large it is reaches to the next, which mostly begins at a whole MiB */
	for (unsigned i = 0; i < k; i++)
		if (!v[i].s.size)
			v[i].s.size = (i + 1 < k ? v[i + 1].s.start : plt_align_down(limit - 34 * GUEST_SECTOR, 1 << 20)) - v[i].s.start;
	return k;
}

static const uint8_t *type_of(const struct plt_super *s)
{
	static const uint8_t linux_fs[16] = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4";
	static const uint8_t data[16] = "\xa2\xa0\xd0\xeb\xe5\xb9\x33\x44\x87\xc0\x68\xb6\xb7\x26\x99\xc7";
	static const uint8_t lvm[16] = "\x79\xd3\xd6\xe6\x07\xf5\xc2\x44\xa2\x3c\x23\x8f\x2a\x3d\xf9\x28";
	static const uint8_t swap[16] = "\x6d\xfd\x57\x06\xab\xa4\xc4\x43\x84\xe5\x09\x33\xc8\x4b\x4f\x4f";
	static const uint8_t raid[16] = "\x0f\x88\x9d\xa1\xfc\x05\x3b\x4d\xa0\x06\x74\x3f\x0f\x84\x91\x1e";
	static const uint8_t luks[16] = "\xcb\x7c\x7d\xca\xed\x63\x53\x4c\x86\x1c\x17\x42\x53\x60\x59\xcc";
	static const uint8_t vmfs[16] = "\x2a\xe0\x31\xaa\x0f\x40\xdb\x11\x95\x90\x00\x0c\x29\x11\xd1\xb8";

	switch (s->kind) {
	case PLT_SUPER_NTFS: case PLT_SUPER_FAT: case PLT_SUPER_EXFAT: return data;
	case PLT_SUPER_LVM: return lvm;
	case PLT_SUPER_SWAP: return swap;
	case PLT_SUPER_MD: return raid;
	case PLT_SUPER_LUKS: return luks;
	case PLT_SUPER_VMFS: return vmfs;
	default: return linux_fs;
	}
}

static uint8_t mbr_type(const struct plt_super *s)
{
	switch (s->kind) {
	case PLT_SUPER_NTFS: case PLT_SUPER_EXFAT: return 0x07;
	case PLT_SUPER_FAT: return 0x0c;
	case PLT_SUPER_LVM: return 0x8e;
	case PLT_SUPER_SWAP: return 0x82;
	case PLT_SUPER_MD: return 0xfd;
	case PLT_SUPER_VMFS: return 0xfb;
	default: return 0x83;
	}
}

/* An id that the same volumes give again: a repair that is cut short and made anew is the same one. */
static void make_id(uint8_t id[16], uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t seed[4] = { a, b, c, 1 };

	plt_put_le64(id, plt_fsid(seed, sizeof(seed)));
	seed[3] = 2;
	plt_put_le64(id + 8, plt_fsid(seed, sizeof(seed)) ^ plt_fsid(&seed[1], 16));
	id[7] = (uint8_t)((id[7] & 0x0f) | 0x40);
	id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
}

static int write_gpt(struct guest_exam *x, const struct vol *v, unsigned n, const char *why)
{
	PLT_AUTOFREE uint8_t *table = calloc(1, TABLE_BYTES);
	uint64_t last = x->disk.size / GUEST_SECTOR - 1;
	uint8_t head[GUEST_SECTOR] = { 0 }, mbr[GUEST_SECTOR];
	int r;

	if (!table)
		return -ENOMEM;
	if (x->disk.read(x->disk.arg, 0, mbr, sizeof(mbr)))
		memset(mbr, 0, sizeof(mbr));
	protective(mbr, last + 1);
	memcpy(head, "EFI PART\0\0\1\0\x5c\0\0\0", 16);
	plt_put_le64(head + 24, 1);
	plt_put_le64(head + 32, last);
	plt_put_le64(head + 40, 2 + TABLE_SECTORS);
	plt_put_le64(head + 48, last - 1 - TABLE_SECTORS);
	plt_put_le64(head + 72, 2);
	plt_put_le32(head + 80, ENTRIES);
	plt_put_le32(head + 84, ENTRY);
	make_id(head + 56, last, v[0].s.fsid, v[0].s.start);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *e = table + (size_t)i * ENTRY;

		memcpy(e, type_of(&v[i].s), 16);
		make_id(e + 16, i + 1, v[i].s.fsid, v[i].s.start);
		plt_put_le64(e + 32, v[i].s.start / GUEST_SECTOR);
		plt_put_le64(e + 40, (v[i].s.start + v[i].s.size - 1) / GUEST_SECTOR);
	}
	plt_put_le32(head + 88, (uint32_t)crc32(0, table, TABLE_BYTES));
	seal(head);
	r = guest_put(x, 2 * GUEST_SECTOR, table, TABLE_BYTES, PLT_STRONG, why);
	if (r == 0)
		r = guest_put(x, (last - TABLE_SECTORS) * GUEST_SECTOR, table, TABLE_BYTES, PLT_STRONG, why);
	if (r == 0)
		r = guest_put(x, GUEST_SECTOR, head, GUEST_SECTOR, PLT_STRONG, why);
	plt_put_le64(head + 24, last);
	plt_put_le64(head + 32, 1);
	plt_put_le64(head + 72, last - TABLE_SECTORS);
	seal(head);
	if (r == 0)
		r = guest_put(x, last * GUEST_SECTOR, head, GUEST_SECTOR, PLT_STRONG, why);
	return r < 0 ? r : guest_put(x, 0, mbr, sizeof(mbr), PLT_STRONG, why);
}

static int write_mbr(struct guest_exam *x, const struct vol *v, unsigned n, const char *why)
{
	uint8_t mbr[GUEST_SECTOR];

	if (x->disk.read(x->disk.arg, 0, mbr, sizeof(mbr)))
		memset(mbr, 0, sizeof(mbr));
	memset(mbr + 446, 0, 64);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *e = mbr + 446 + 16 * i;

		memset(e + 1, 0xff, 3); /* (beyond what cylinders can say: by sector) */
		e[1] = e[5] = 0xfe;
		e[4] = mbr_type(&v[i].s);
		memset(e + 6, 0xff, 2);
		plt_put_le32(e + 8, (uint32_t)(v[i].s.start / GUEST_SECTOR));
		plt_put_le32(e + 12, (uint32_t)plt_div_up(v[i].s.size, (uint64_t)GUEST_SECTOR));
	}
	mbr[510] = 0x55;
	mbr[511] = 0xaa;
	return guest_put(x, 0, mbr, sizeof(mbr), PLT_STRONG, why);
}

static int from_volumes(struct guest_exam *x, bool was_gpt, bool was_mbr)
{
	static const char why[] = "the table is made from the volumes that are found";
	uint64_t last = plt_align_down(x->disk.size, GUEST_SECTOR) - (1 + TABLE_SECTORS) * GUEST_SECTOR, end;
	char list[200] = "";
	struct vol *v = NULL;
	unsigned n = 0, k;
	bool clear = false, gpt, mbr;
	int r = collect(x, &v, &n);

	k = r == 0 ? choose(x, v, n, &clear) : 0;
	if (r == 0 && !k && was_gpt) {
		guest_found(x, "R-PT-2", false, 0, GUEST_SECTOR, "both partition tables (GPT) are damaged, and no volume is found "
			    "that tells where one began");
		x->table = GUEST_MBR; /* it has been said */
	}
	if (r < 0 || !k) {
		free(v);
		return r;
	}
	end = v[k - 1].s.start + v[k - 1].s.size;
	gpt = k <= ENTRIES && v[0].s.start >= (2 + TABLE_SECTORS) * GUEST_SECTOR && end <= last;
	mbr = k <= 4 && end / GUEST_SECTOR <= UINT32_MAX;
	mbr = mbr && (!gpt || (was_mbr && !was_gpt));
	gpt = gpt && !mbr;
	for (unsigned i = 0; i < k && strlen(list) + 60 < sizeof(list); i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s at %" PRIu64 " MiB", i ? ", " : "", v[i].s.name,
			 v[i].s.start >> 20);
	if (guest_mends(x) && clear && (gpt || mbr)) {
		r = gpt ? write_gpt(x, v, k, why) : write_mbr(x, v, k, why);
		if (r == 0)
			guest_found(x, "R-PT-2", true, 0, GUEST_SECTOR, "there is no partition table; a new one (%s) is made from "
				    "the volumes that are found: %s", gpt ? "GPT" : "MBR", list);
		r = r < 0 ? r : 1;
	} else {
		guest_found(x, "R-PT-2", false, 0, GUEST_SECTOR, "there is no partition table; found are %s%s", list, clear ? "" :
			    ", and what lies across them: it cannot be told which were partitions");
		x->table = GUEST_MBR; /* it has been said */
	}
	free(v);
	return r;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* A physical volume of LVM on the whole disk, that has lost what tells so at its beginning: volumes in it are no partitions. */
static int whole_lvm(struct guest_exam *x, bool *ret_is)
{
	const struct plt_part whole = { .len = x->disk.size };
	int r = guest_mend_lvm(x, &whole, false, ret_is);

	return r < 0 || *ret_is ? r : guest_mend_lvm(x, &whole, true, ret_is);
}

int guest_mend_table(struct guest_exam *x)
{
	struct gpt primary, backup = { 0 };
	struct plt_super s;
	uint8_t mbr[GUEST_SECTOR] = { 0 };
	bool sure, is;
	int r = read_gpt(x, 1, &primary);

	if (r == 0)
		r = read_gpt(x, primary.ok ? primary.other : x->disk.size / GUEST_SECTOR - 1, &backup);
	(void)x->disk.read(x->disk.arg, 0, mbr, sizeof(mbr));
	if (r == 0)
		r = plt_parts_read(&x->disk, x->parts, &x->nparts, &sure);
	if (r == 0 && primary.ok != backup.ok) {
		/* a disk that was made larger or that holds another's end: the table at the start has to agree that it is one */
		bool plain = !primary.ok && (plt_super_first(&x->disk, 0, &s) || (x->nparts && !sure));

		x->table = plain ? GUEST_MBR : GUEST_GPT;
		r = plain ? 0 : primary.ok ? mend_backup(x, &primary) : mend_primary(x, &backup);
	} else if (r == 0 && primary.ok) {
		x->table = GUEST_GPT;
	} else if (r == 0 && x->nparts) {
		x->table = GUEST_MBR;
	} else if (r == 0 && plt_super_first(&x->disk, 0, &s)) {
		x->table = GUEST_PLAIN;
		x->parts[0] = (struct plt_part){ .start = 0, .len = x->disk.size };
		x->nparts = 1;
	} else if (r == 0 && guest_is_shifted(x)) {
		x->table = GUEST_MBR; /* it has been said */
	} else if (r == 0 && (r = whole_lvm(x, &is)) == 0 && is) {
		x->table = GUEST_PLAIN; /* it has been said */
	} else if (r == 0) {
		r = from_volumes(x, primary.rest || backup.rest || mbr[446 + 4] == 0xee,
				 mbr[510] == 0x55 && mbr[511] == 0xaa);
	}
	if (r == 0 && x->table == GUEST_GPT)
		r = mend_protective(x);
	free(primary.table);
	free(backup.table);
	return r == 1 ? 0 : r;
}
