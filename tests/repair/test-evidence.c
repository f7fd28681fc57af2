/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * repair/evidence*.c on a FAT16 disk that is made here, so that no tool is needed: its pieces are
 * placed, stale copies do not pass for proven, what is no puzzle is refused, and any bytes at all end in
 * an answer.  Real filesystems: evidence.sh.
 */
#include "repair/evidence/evidence.h"

#include <errno.h>
#include <stdio.h>
#include <zlib.h>

#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/weigh.h"
#include "tests/unit.h"

#define SIZE (24u << 20)
#define START 32768u              /* of the partition: 64 sectors */
#define CLUSTER 2048u
#define TABLE_SECTORS 48u         /* 12288 entries of 16 bits */
#define TABLE (START + 512)
#define ROOT (TABLE + 2 * TABLE_SECTORS * 512)
#define DATA (ROOT + 512 * 32)
#define UNIT 16384u
#define OBJECTS_MAX (SIZE / UNIT + 64)

struct lab {
	uint8_t *disk;
	uint8_t *object[OBJECTS_MAX];
	uint64_t truth[OBJECTS_MAX], host[OBJECTS_MAX];
	uint64_t slots[SIZE / UNIT];
	bool missing[SIZE / UNIT], error[OBJECTS_MAX];
	struct plt_puzzle p;
	uint64_t rnd;
};

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	struct lab *l = arg;

	ck_assert(off <= SIZE && len <= SIZE - off);
	for (uint64_t at = off - off % UNIT; at < off + len; at += UNIT)
		if (l->missing[at / UNIT])
			return -ENODATA;
	memcpy(buf, l->disk + off, len);
	return 0;
}

static int read_object(void *arg, uint32_t object, uint64_t off, void *buf, size_t len)
{
	struct lab *l = arg;

	ck_assert(object < l->p.nobjects && off <= UNIT && len <= UNIT - off);
	if (l->error[object])
		return -EIO;
	memcpy(buf, l->object[object] + off, len);
	return 0;
}

static uint64_t host_of(void *arg, uint32_t object, uint64_t off)
{
	return ((struct lab *)arg)->host[object] + off;
}

static uint32_t rnd(struct lab *l, uint32_t below)
{
	return (uint32_t)(plt_unit_random(&l->rnd) % below);
}

/* ---- the disk ----------------------------------------------------------------------------------- */

static void put_gpt(uint8_t *disk)
{
	uint8_t table[128 * 128] = { 0 }, head[512];
	uint64_t last = SIZE / 512 - 1;

	memcpy(disk + 446, "\0\0\2\0\xee\xff\xff\xff\1\0\0\0\xff\xbf\0\0", 16);
	plt_put_le16(disk + 510, 0xaa55);
	memset(table, 0x55, 32);
	plt_put_le64(table + 32, START / 512);
	plt_put_le64(table + 40, last - 40);
	for (int copy = 0; copy < 2; copy++) {
		uint64_t lba = copy ? last : 1, at = copy ? last - 32 : 2;

		memset(head, 0, sizeof(head));
		memcpy(head, "EFI PART\0\0\1\0\x5c\0\0\0", 16);
		plt_put_le64(head + 24, lba);
		plt_put_le64(head + 32, copy ? 1 : last);
		plt_put_le64(head + 72, at);
		plt_put_le32(head + 80, 128);
		plt_put_le32(head + 84, 128);
		plt_put_le32(head + 88, (uint32_t)crc32(0, table, sizeof(table)));
		plt_put_le32(head + 16, (uint32_t)crc32(0, head, 92));
		memcpy(disk + lba * 512, head, 512);
		memcpy(disk + at * 512, table, sizeof(table));
	}
}

static void put_next(uint8_t *disk, uint32_t cluster, uint32_t next)
{
	for (uint32_t copy = 0; copy < 2; copy++)
		plt_put_le16(disk + TABLE + copy * TABLE_SECTORS * 512 + 2 * cluster, (uint16_t)next);
}

static void put_entry(uint8_t *e, const char *name, uint8_t attr, uint32_t cluster, uint32_t size)
{
	memset(e, 0, 32);
	memcpy(e, name, 11);
	e[11] = attr;
	plt_put_le16(e + 26, (uint16_t)cluster);
	plt_put_le32(e + 28, size);
}

static void make_disk(struct lab *l)
{
	uint8_t *d = l->disk, *boot = d + START;
	uint32_t cluster = 2, dir = 0, in_root = 0, in_dir = 0;

	put_gpt(d);
	memcpy(boot, "\xeb\x3c\x90mkfs.fat", 11);
	plt_put_le16(boot + 11, 512);
	boot[13] = CLUSTER / 512;
	plt_put_le16(boot + 14, 1);
	boot[16] = 2;
	plt_put_le16(boot + 17, 512);
	boot[21] = 0xf8;
	plt_put_le16(boot + 22, TABLE_SECTORS);
	plt_put_le32(boot + 32, (SIZE - START) / 512 - 41);
	memcpy(boot + 54, "FAT16   ", 8);
	plt_put_le32(boot + 39, 0x1234abcd);
	plt_put_le16(boot + 510, 0xaa55);
	put_next(d, 0, 0xfff8);
	put_next(d, 1, 0xffff);
	while (cluster < 6000) {
		uint32_t size = rnd(l, 5) ? 1 + rnd(l, 9000) : 1 + rnd(l, 60000), n = (size + CLUSTER - 1) / CLUSTER;
		uint8_t *data;
		char name[12];

		if (!dir || in_dir == CLUSTER / 32) {
			ck_assert_uint_lt(in_root, 512);
			snprintf(name, sizeof(name), "DIR%08u", in_root);
			put_entry(d + ROOT + 32 * in_root++, name, 0x10, cluster, 0);
			dir = cluster;
			put_next(d, cluster++, 0xffff);
			put_entry(d + DATA + (uint64_t)(dir - 2) * CLUSTER, ".          ", 0x10, dir, 0);
			put_entry(d + DATA + (uint64_t)(dir - 2) * CLUSTER + 32, "..         ", 0x10, 0, 0);
			in_dir = 2;
		}
		snprintf(name, sizeof(name), "F%010u", cluster);
		put_entry(d + DATA + (uint64_t)(dir - 2) * CLUSTER + 32 * in_dir++, name, 0x20, cluster, size);
		data = d + DATA + (uint64_t)(cluster - 2) * CLUSTER;
		for (uint32_t i = 0; i < size; i++)
			data[i] = (uint8_t)(plt_unit_random(&l->rnd) >> 24);
		data[size - 1] |= 1;
		for (uint32_t i = 0; i < n; i++)
			put_next(d, cluster + i, i + 1 < n ? cluster + i + 1 : 0xffff);
		cluster += n;
	}
}

/* Everything lost but @keep of 100 clusters; objects in host runs of @chunk. */
static void lose(struct lab *l, uint32_t keep, uint32_t chunk)
{
	uint32_t order[SIZE / UNIT], n = 0, chunks, k = 0;

	l->p = (struct plt_puzzle){
		.disk_size = SIZE, .unit = UNIT, .span = UNIT, .read_disk = read_disk, .read_object = read_object,
		.host_of = host_of, .slots = l->slots, .arg = l,
	};
	for (uint32_t i = 0; i < SIZE / UNIT; i++) {
		l->missing[i] = rnd(l, 100) >= keep;
		if (!l->missing[i])
			continue;
		l->slots[l->p.nslots++] = (uint64_t)i * UNIT;
		if (!plt_is_zero(l->disk + (size_t)i * UNIT, UNIT))
			order[n++] = i;
	}
	chunks = (n + chunk - 1) / chunk;
	for (uint32_t done = 0, start = rnd(l, chunks + 1); done < chunks; done++) {
		uint32_t c = (start + done * 7919) % chunks; /* 7919 is prime, and no divisor of so few chunks */

		for (uint32_t i = c * chunk; i < n && i < (c + 1) * chunk; i++, k++) {
			l->truth[k] = (uint64_t)order[i] * UNIT;
			l->host[k] = (uint64_t)(k + 3) * UNIT;
			l->object[k] = malloc(UNIT);
			memcpy(l->object[k], l->disk + l->truth[k], UNIT);
		}
	}
	l->p.nobjects = k;
}

static struct lab *lab_new(uint64_t seed)
{
	struct lab *l = calloc(1, sizeof(*l));

	l->disk = calloc(1, SIZE);
	l->rnd = seed;
	make_disk(l);
	return l;
}

static void lab_free(struct lab *l)
{
	for (uint32_t i = 0; i < OBJECTS_MAX; i++)
		free(l->object[i]);
	free(l->disk);
	free(l);
}

struct score { uint32_t right[4], wrong[4], placed, need; };

static void place(struct lab *l, struct score *ret)
{
	struct plt_placement *v;
	struct plt_error err;
	bool seen[OBJECTS_MAX] = { false };
	uint32_t n;

	memset(ret, 0, sizeof(*ret));
	ck_assert_int_eq(plt_evidence_place(&l->p, &v, &n, &err), 0);
	for (uint32_t i = 0; i < n; i++) {
		bool ok = !memcmp(l->object[v[i].object], l->disk + v[i].slot, UNIT);

		ck_assert(v[i].object < l->p.nobjects && !seen[v[i].object]);
		ck_assert(l->missing[v[i].slot / UNIT] && v[i].slot % UNIT == 0);
		ck_assert(i == 0 || v[i].slot > v[i - 1].slot);
		ck_assert(v[i].why[0]);
		seen[v[i].object] = true;
		(ok ? ret->right : ret->wrong)[v[i].certainty]++;
		ret->placed += ok;
	}
	ret->need = l->p.nobjects;
	free(v);
}

/* ---- tests ------------------------------------------------------------------------------------------ */

START_TEST(pieces_find_their_places)
{
	struct lab *l = lab_new(plt_unit_seed());
	struct score s;

	lose(l, _i == 2 ? 50 : 0, _i ? 16 : 64);
	place(l, &s);
	printf("# %u of %u in place; proven %u, strong %u, likely %u, wrong %u %u %u\n", s.placed, s.need,
	       s.right[PLT_PROVEN], s.right[PLT_STRONG], s.right[PLT_LIKELY], s.wrong[PLT_PROVEN], s.wrong[PLT_STRONG],
	       s.wrong[PLT_LIKELY]);
	ck_assert_uint_eq(s.wrong[PLT_PROVEN], 0);
	ck_assert_uint_le(s.wrong[PLT_STRONG] * 100, s.right[PLT_STRONG]);
	ck_assert_uint_le(s.wrong[PLT_LIKELY] * 10, s.right[PLT_LIKELY] + 100);
	ck_assert_uint_ge(s.right[PLT_PROVEN] + s.right[PLT_STRONG], s.need * (_i == 2 ? 15 : 35) / 100);
	ck_assert_uint_ge(s.placed, s.need * (_i == 2 ? 40 : 65) / 100);
	lab_free(l);
}
END_TEST

/* Both headers of a GPT say where they belong, and so does nothing else of an otherwise empty disk. */
START_TEST(a_gpt_is_proven)
{
	struct lab *l = lab_new(plt_unit_seed());
	struct score s;

	memset(l->disk, 0, SIZE);
	put_gpt(l->disk);
	lose(l, 0, 1);
	ck_assert_uint_ge(l->p.nobjects, 2);
	place(l, &s);
	ck_assert_uint_eq(s.right[PLT_PROVEN], 2);
	ck_assert_uint_eq(s.wrong[PLT_PROVEN] + s.wrong[PLT_STRONG] + s.wrong[PLT_LIKELY] + s.wrong[PLT_GUESS], 0);
	lab_free(l);
}
END_TEST

/* Two versions of the first cluster: none of them is proven, and nothing is placed twice. */
START_TEST(rivals_are_not_proven)
{
	struct lab *l = lab_new(plt_unit_seed());
	struct plt_placement *v;
	uint32_t n, o;

	lose(l, 0, 16);
	o = l->p.nobjects++;
	l->object[o] = malloc(UNIT);
	memcpy(l->object[o], l->disk, UNIT);
	memset(l->object[o] + 446, 0x11, 16); /* less of it is right, but the checksum is */
	l->host[o] = (uint64_t)(o + 100) * UNIT;
	ck_assert_int_eq(plt_evidence_place(&l->p, &v, &n, NULL), 0);
	for (uint32_t i = 0; i < n; i++)
		ck_assert(v[i].slot != 0 || v[i].certainty < PLT_STRONG);
	free(v);
	lab_free(l);
}
END_TEST

/* Objects that cannot be read are left out, and the rest is as good as before. */
START_TEST(unreadable_objects)
{
	struct lab *l = lab_new(plt_unit_seed());
	struct score s;

	lose(l, 0, 16);
	for (uint32_t i = 0; i < l->p.nobjects; i++)
		l->error[i] = rnd(l, 10) == 0 && l->truth[i] >= DATA;
	place(l, &s);
	ck_assert_uint_eq(s.wrong[PLT_PROVEN], 0);
	ck_assert_uint_le(s.wrong[PLT_STRONG] * 100, s.right[PLT_STRONG]);
	ck_assert_uint_ge(s.placed, s.need / 3);
	lab_free(l);
}
END_TEST

START_TEST(no_puzzle)
{
	struct lab *l = lab_new(1);
	struct plt_placement *v;
	struct plt_puzzle p;
	struct plt_error err;
	uint64_t slots[2] = { UNIT, 0 };
	uint32_t n;

	lose(l, 0, 16);
	p = l->p;
	p.unit = 3000;
	ck_assert_int_eq(plt_evidence_place(&p, &v, &n, &err), -EINVAL);
	p = l->p;
	p.span = UNIT + 512;
	ck_assert_int_eq(plt_evidence_place(&p, &v, &n, &err), -EINVAL);
	p = l->p;
	p.slots = slots;
	p.nslots = 2;
	ck_assert_int_eq(plt_evidence_place(&p, &v, &n, &err), -EINVAL);
	ck_assert(strstr(err.text, "slot 1"));
	p.nslots = 0;
	ck_assert_int_eq(plt_evidence_place(&p, &v, &n, &err), 0);
	ck_assert_uint_eq(n, 0);
	free(v);
	p.nobjects = 0;
	ck_assert_int_eq(plt_evidence_place(&p, &v, &n, &err), 0);
	free(v);
	lab_free(l);
}
END_TEST

static int weigh(struct lab *l, uint64_t *ret_good, uint64_t *ret_bad)
{
	const struct plt_guest disk = { .read = read_disk, .arg = l, .size = SIZE };
	const struct plt_weigh how = { .most = PLT_WEIGH_ALL };
	struct plt_weighed w;
	int r = plt_guest_weigh(&disk, &how, &w, NULL);

	*ret_good = w.good;
	*ret_bad = w.bad;
	return r;
}

/* A disk whose directories lie where they should agrees with itself; with two of them swapped it does not. */
START_TEST(weighing)
{
	struct lab *l = lab_new(plt_unit_seed());
	uint64_t good, bad, good2, bad2;
	uint8_t *a = NULL, *b = NULL, t[CLUSTER];

	lose(l, 101, 1);
	ck_assert_int_eq(weigh(l, &good, &bad), 0);
	ck_assert_uint_gt(good, 10);
	ck_assert_uint_eq(bad, 0);
	for (uint32_t i = 0; !b && i < 512; i++)
		if (l->disk[ROOT + 32 * i]) {
			uint8_t *d = l->disk + DATA + (uint64_t)(plt_get_le16(l->disk + ROOT + 32 * i + 26) - 2) * CLUSTER;

			*(a ? &b : &a) = d;
		}
	ck_assert_ptr_nonnull(b);
	memcpy(t, a, CLUSTER);
	memcpy(a, b, CLUSTER);
	memcpy(b, t, CLUSTER);
	ck_assert_int_eq(weigh(l, &good2, &bad2), 0);
	ck_assert_uint_eq(bad2, 2);
	lab_free(l);
}
END_TEST

/* Superblocks of every kind with random fields, and random changes anywhere: an answer, and soon. */
START_TEST(any_bytes)
{
	struct lab *l = lab_new(plt_unit_seed());
	static const struct { uint32_t at; const char *bytes; size_t len; } heads[] = {
		{ 1024 + 0x38, "\x53\xef", 2 }, { 0, "XFSB\0\0\x10\0", 8 }, { 3, "NTFS    \0\2\x08", 11 },
		{ 0, "\xeb\x3c\x90mkfs.fat\0\2\4\1\0\2\0\2", 19 },
	};

	lose(l, 70, 16);
	for (int round = 0; round < 60; round++) {
		uint8_t *keep = malloc(4096), *at = l->disk + START;
		unsigned kind = rnd(l, 5);
		uint64_t good, bad;

		memcpy(keep, at, 4096);
		if (kind < 4) {
			for (uint32_t i = 0; i < 4096; i++)
				at[i] = rnd(l, 3) ? 0 : (uint8_t)rnd(l, 256);
			memcpy(at + heads[kind].at, heads[kind].bytes, heads[kind].len);
			at[510] = 0x55;
			at[511] = 0xaa;
			if (kind == 0) { /* sound enough to be opened */
				plt_put_le32(at + 1024 + 0x18, rnd(l, 3));
				plt_put_le32(at + 1024 + 0x4c, 1);
				plt_put_le32(at + 1024 + 0x14, 0);
				plt_put_le32(at + 1024 + 0x20, 8192);
				plt_put_le32(at + 1024 + 0x28, 1024);
				plt_put_le32(at + 1024 + 4, 8192 * (1 + rnd(l, 9)));
				plt_put_le32(at + 1024, plt_get_le32(at + 1024 + 4) / 8);
				plt_put_le32(at + 1024 + 0x60, 0x42);
				plt_put_le32(at + 1024 + 0x64, rnd(l, 2) ? 0x400 : 0);
				plt_put_le32(at + 1024 + 0x5c, rnd(l, 65536));
				plt_put_le16(at + 1024 + 0x58, 256);
			}
		}
		for (uint32_t i = 0; i < 200; i++) {
			uint32_t o = rnd(l, l->p.nobjects);

			l->object[o][rnd(l, UNIT)] = (uint8_t)rnd(l, 256);
			l->disk[rnd(l, SIZE)] = (uint8_t)rnd(l, 256);
			l->disk[TABLE + rnd(l, 40000)] = (uint8_t)rnd(l, 256);
		}
		l->missing[START / UNIT] = false;
		ck_assert_int_eq(weigh(l, &good, &bad), 0);
		if (round % 6 == 0) {
			struct plt_placement *v;
			uint32_t n;

			ck_assert_int_eq(plt_evidence_place(&l->p, &v, &n, NULL), 0);
			free(v);
		}
		memcpy(at, keep, 4096);
		free(keep);
	}
	lab_free(l);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("evidence");
	TCase *tc = tcase_create("evidence");

	tcase_add_loop_test(tc, pieces_find_their_places, 0, 3);
	tcase_add_test(tc, a_gpt_is_proven);
	tcase_add_test(tc, rivals_are_not_proven);
	tcase_add_test(tc, unreadable_objects);
	tcase_add_test(tc, no_puzzle);
	tcase_add_test(tc, weighing);
	tcase_add_test(tc, any_bytes);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
