/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Random writes, zeros, discards, resizes and reopenings of every kind of VHD against a model in memory;
 * after each close the file is in order.  Then what only some images have: bitmaps that count, bits from
 * the other end, batmaps.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/zero.h"
#include "tests/vhd/make.h"

#define BS 16384u
#define SIZE (UINT64_C(12) * BS - 1024)
#define MOST (UINT64_C(40) * BS)
#define BASE (SIZE - 2000 / 512 * 512)

struct kind {
	const char *text;
	enum vhd_type type;
	uint32_t block_size;
	const char *creator;
	uint32_t version;
};
static const struct kind kinds[] = {
	{ "fixed", VHD_FIXED, 0, NULL, 0 },
	{ "dynamic", VHD_DYNAMIC, BS, NULL, 0 },
	{ "dynamic, blocks of 512", VHD_DYNAMIC, 512, NULL, 0 },
	{ "dynamic, blocks of 4096", VHD_DYNAMIC, 4096, NULL, 0 },
	{ "dynamic, one large block", VHD_DYNAMIC, 2 << 20, NULL, 0 },
	{ "dynamic, by blktap", VHD_DYNAMIC, BS, "tap\0", 0x00010001 },
	{ "dynamic, by the first blktap", VHD_DYNAMIC, BS, "tap\0", 1 },
	{ "differencing", VHD_DIFFERENCING, BS, NULL, 0 },
	{ "differencing, blocks of 512", VHD_DIFFERENCING, 512, NULL, 0 },
	{ "differencing, by the first blktap", VHD_DIFFERENCING, BS, "tap\0", 1 },
};

static struct plt_store *make(const struct kind *k)
{
	struct plt_store *st;

	if (k->type == VHD_FIXED)
		return make_fixed(SIZE);
	st = make_sparse(k->type, SIZE, k->block_size, (uint32_t)plt_div_up(SIZE, k->block_size));
	if (k->creator)
		make_creator(st, k->creator, k->version);
	return st;
}

/* With a parent of half the bytes that are not zero, a little shorter. */
static struct plt_disk *open_over(struct plt_store *st, struct plt_store *base)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk = must_open(st, PLT_OPEN_WRITE), *below;
	struct plt_error err = PLT_ERROR_INIT;

	if (!base)
		return disk;
	ck_assert_int_eq(plt_disk_open_store(make_ctx(), base, "base", "raw", &o, &below, &err), 0);
	plt_disk_attach_backing(disk, below);
	return disk;
}

static void same(struct plt_disk *disk, const uint8_t *model, uint64_t size, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *p = malloc(size + 1);

	ck_assert_uint_eq(plt_disk_size(disk), size);
	ck_assert_msg(plt_read(disk, 0, p, size, &err) == 0, "%s: %s", what, err.text);
	for (uint64_t i = 0; i < size; i++)
		if (p[i] != model[i])
			ck_abort_msg("%s: byte %#llx is %#x, expected %#x", what, (unsigned long long)i, p[i], model[i]);
	free(p);
}

static void random_work(const struct kind *k, uint64_t *seed)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make(k), *base = NULL;
	uint8_t *model = calloc(1, MOST), *now = malloc(MOST), *data = malloc(MOST);
	uint64_t size = SIZE;
	struct plt_disk *disk;
	struct made_check c;

	if (k->type == VHD_FIXED) {
		for (uint64_t i = 0; i < SIZE; i++)
			model[i] = (uint8_t)(1 + i % 251);
	} else if (k->type == VHD_DIFFERENCING) {
		for (uint64_t i = 0; i < BASE; i++)
			model[i] = i / 700 % 2 ? 0 : (uint8_t)(1 + i % 253);
		ck_assert_int_eq(plt_memory_new(model, BASE, 0, &base), 0);
	}
	for (unsigned round = 0; round < 4; round++) {
		disk = open_over(st, base);
		for (unsigned i = 0; i < 30; i++) {
			uint64_t off = plt_unit_random(seed) % size, len = 1 + plt_unit_random(seed) % (3 * BS);

			if (plt_unit_random(seed) % 2) {
				off = plt_align_down(off, 512);
				len = plt_align_up(len, 512);
			}
			if (!(plt_unit_random(seed) % 4)) {
				off = plt_align_down(off, BS);
				len = plt_align_up(len, BS);
			}
			len = PLT_MIN(len, size - off);
			switch (plt_unit_random(seed) % 10) {
			case 0:
			case 1:
				ck_assert_msg(plt_write_zeroes(disk, off, len, plt_unit_random(seed) % 2 ? PLT_ZERO_UNMAP : 0,
							       &err) == 0, "%s: %s", k->text, err.text);
				memset(model + off, 0, len);
				break;
			case 2: /* what was there, or zeros */
				ck_assert_msg(plt_discard(disk, off, len, &err) == 0, "%s: %s", k->text, err.text);
				ck_assert_int_eq(plt_read(disk, off, now, len, &err), 0);
				for (uint64_t j = 0; j < len; j++)
					ck_assert_msg(!now[j] || now[j] == model[off + j], "%s: discard", k->text);
				memcpy(model + off, now, len);
				break;
			case 3:
				ck_assert_int_eq(plt_flush(disk, &err), 0);
				break;
			case 4: {
				uint64_t to = plt_align_up(SIZE / 2 + plt_unit_random(seed) % (MOST - SIZE / 2), 512);

				if (k->type == VHD_DIFFERENCING || plt_unit_random(seed) % 3)
					break;
				ck_assert_msg(plt_resize(disk, to, PLT_RESIZE_SHRINK, NULL, &err) == 0, "%s: %s", k->text,
					      err.text);
				if (to < size)
					memset(model + to, 0, size - to);
				size = to;
				break;
			}
			default:
				memset(data, (int)(plt_unit_random(seed) % 255 + 1), len);
				ck_assert_msg(plt_write(disk, off, data, len, &err) == 0, "%s: %s", k->text, err.text);
				memcpy(model + off, data, len);
			}
		}
		same(disk, model, size, k->text);
		must_close(disk);
		disk = open_over(st, base);
		same(disk, model, size, k->text);
		must_close(disk);
		make_check(st, &c);
		ck_assert_msg(!c.n.corruptions && !c.n.check_errors && !strstr(c.ids, "V-BMP-1"), "%s: %s", k->text, c.texts);
	}
	free(model);
	free(now);
	free(data);
	plt_store_unref(base);
	plt_store_unref(st);
}

START_TEST(against_a_model)
{
	uint64_t seed = plt_unit_seed();
	unsigned times = getenv("PLT_SANITIZER") ? 2 : 6;

	for (unsigned i = 0; i < times; i++)
		for (unsigned k = 0; k < PLT_ARRAY_SIZE(kinds); k++)
			random_work(&kinds[k], &seed);
}
END_TEST

/* ---- bitmaps --------------------------------------------------------------------------------- */

static uint8_t at(struct plt_disk *disk, uint64_t off)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t b;

	ck_assert_msg(plt_read(disk, off, &b, 1, &err) == 0, "%s", err.text);
	return b;
}

/* A clear bit over data: the data, but zeros of what blktap wrote, and the parent's in a child. */
START_TEST(clear_bits)
{
	static const struct {
		enum vhd_type type;
		const char *creator;
		uint32_t version;
		uint8_t clear, set;   /* what sector 2 and 3 read as */
	} v[] = {
		{ VHD_DYNAMIC, NULL, 0, 0x11, 0x11 },
		{ VHD_DYNAMIC, "tap\0", 0x00010001, 0, 0x11 },
		{ VHD_DYNAMIC, "tap\0", 1, 0, 0x11 },
		{ VHD_DIFFERENCING, NULL, 0, 0xbb, 0x11 },
	};
	uint8_t *half = malloc(SIZE);
	struct plt_store *base;

	memset(half, 0xbb, SIZE);
	ck_assert_int_eq(plt_memory_new(half, SIZE, 0, &base), 0);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct plt_store *st = make_sparse(v[i].type, SIZE, BS, 12);
		struct plt_disk *disk;
		uint64_t start;

		if (v[i].creator)
			make_creator(st, v[i].creator, v[i].version);
		start = make_block(st, 1, 0x11, 0);
		put_fill(st, start, v[i].version == 1 ? 0x08 : 0x10, 1); /* sector 3 */
		disk = open_over(st, v[i].type == VHD_DIFFERENCING ? base : NULL);
		ck_assert_uint_eq(at(disk, BS + 2 * 512), v[i].clear);
		ck_assert_uint_eq(at(disk, BS + 3 * 512), v[i].set);
		ck_assert_uint_eq(at(disk, BS + 4 * 512), v[i].clear);
		/* and stay so around what is written in between */
		ck_assert_int_eq(plt_write(disk, BS + 2 * 512 + 5, "\x77", 1, NULL), 0);
		ck_assert_uint_eq(at(disk, BS + 2 * 512 + 4), v[i].clear);
		ck_assert_uint_eq(at(disk, BS + 2 * 512 + 5), 0x77);
		ck_assert_uint_eq(at(disk, BS + 2 * 512 + 6), v[i].clear);
		ck_assert_uint_eq(at(disk, BS + 1 * 512), v[i].clear);
		must_close(disk);
		plt_store_unref(st);
	}
	plt_store_unref(base);
	free(half);
}
END_TEST

/* ---- batmap ---------------------------------------------------------------------------------- */

/* Behind the table of a fresh image: header, then one sector of map with bits of @map. */
static struct plt_store *with_batmap(enum vhd_type type, uint8_t map, uint32_t version, bool right, bool keyhash)
{
	struct plt_store *st = make_sparse(type, SIZE, BS, 12);
	struct vhd_footer f;
	struct vhd_batmap m = { 0 };
	uint32_t sum = version == VHD_BATMAP_SIGNED ? (uint32_t)(int32_t)(int8_t)map : map;

	make_creator(st, "tap\0", 0x00010003);
	f = get_footer(st, false);
	memcpy(m.cookie, "tdbatmap", 8);
	m.offset = plt_be64_make(TABLE_AT + 1024);
	m.sectors = plt_be32_make(1);
	m.version = plt_be32_make(version);
	m.checksum = plt_be32_make(~sum + !right);
	m.keyhash = keyhash;
	put_bytes(st, TABLE_AT + 512, &m, sizeof(m));
	put_fill(st, TABLE_AT + 1024, 0, 512);
	put_fill(st, TABLE_AT + 1024, map, 1);
	put_bytes(st, TABLE_AT + 1536, &f, sizeof(f));
	return st;
}

START_TEST(batmaps)
{
	static const struct {
		uint32_t version;
		bool right, believed;
	} v[] = {
		{ VHD_BATMAP_SIGNED, true, true }, { VHD_BATMAP_UNSIGNED, true, true }, { VHD_BATMAP_SIGNED, false, false },
		{ 0x00010003, true, false },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct plt_store *st = with_batmap(VHD_DIFFERENCING, 0xc0, v[i].version, v[i].right, false);
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk;
		struct made_check c;
		uint8_t b[512];

		make_block(st, 0, 0x11, 0xff);
		make_block(st, 1, 0x22, 0); /* wrong: called complete, and nothing is */
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_uint_eq(at(disk, 0), 0x11);
		ck_assert_uint_eq(at(disk, BS), v[i].believed ? 0x22 : 0);
		must_close(disk);
		make_check(st, &c);
		ck_assert_str_eq(c.ids, v[i].believed ? "V-BATMAP-WRONG:corruption " :
				 "V-BATMAP:note V-BMP-2:corruption ");
		/* a block that gets a place anew is no longer complete, and the map says so before */
		put_entry(st, 1, UINT32_MAX);
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_int_eq(plt_write(disk, BS + 512, "x", 1, &err), 0);
		must_close(disk);
		ck_assert_int_eq(plt_store_read(st, TABLE_AT + 1024, b, 512, PLT_IO_OTHER, NULL), 0);
		ck_assert_uint_eq(b[0], v[i].believed ? 0x80 : 0xc0);
		disk = must_open(st, 0);
		ck_assert_uint_eq(at(disk, BS), 0);
		ck_assert_uint_eq(at(disk, BS + 512), 'x');
		must_close(disk);
		make_check(st, &c);
		ck_assert_msg(!strstr(c.ids, "WRONG"), "%s", c.texts);
		ck_assert_int_eq(strstr(c.ids, "V-BATMAP:note ") != NULL, !v[i].believed);
		plt_store_unref(st);
	}
}
END_TEST

START_TEST(batmap_places)
{
	static const struct {
		uint64_t off;
		uint32_t sectors;
	} v[] = {
		{ UINT64_MAX - 511, 1 }, { UINT64_MAX, 1 }, { 1 << 20, 1 }, { 2049, 1 }, { 2048, UINT32_MAX }, { 2048, 2 }, { 0, 1 },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct plt_store *st = with_batmap(VHD_DYNAMIC, 0, VHD_BATMAP_UNSIGNED, true, false);
		struct plt_disk *disk;
		struct made_check c;
		struct vhd_batmap m;

		ck_assert_int_eq(plt_store_read(st, TABLE_AT + 512, &m, sizeof(m), PLT_IO_OTHER, NULL), 0);
		m.offset = plt_be64_make(v[i].off);
		m.sectors = plt_be32_make(v[i].sectors);
		put_bytes(st, TABLE_AT + 512, &m, sizeof(m));
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_int_eq(plt_write(disk, 0, "x", 1, NULL), 0);
		must_close(disk);
		make_check(st, &c);
		ck_assert_msg(!strcmp(c.ids, "V-BATMAP:note "), "%u: %s", i, c.ids);
		plt_store_unref(st);
	}
}
END_TEST

/* Encrypted outside of the format: read with a warning, never written. */
START_TEST(encrypted_by_xenserver)
{
	struct plt_store *st = with_batmap(VHD_DYNAMIC, 0, VHD_BATMAP_UNSIGNED, true, true);
	struct plt_error err = PLT_ERROR_INIT;
	struct made_check c;

	make_warned[0] = 0;
	must_close(must_open(st, 0));
	ck_assert_ptr_nonnull(strstr(make_warned, "encrypted by XenServer"));
	ck_assert_ptr_null(try_open(st, PLT_OPEN_WRITE, NULL, &err));
	ck_assert_int_eq(err.code, EACCES);
	make_check(st, &c);
	ck_assert_str_eq(c.ids, "V-ENCRYPTED:note ");
	plt_store_unref(st);
}
END_TEST

/* ---- alignment ------------------------------------------------------------------------------- */

/* The data of each new block is on 4096, and the footer directly behind the last. */
START_TEST(aligned)
{
	struct plt_store *st = make_sparse(VHD_DYNAMIC, SIZE, BS, 12);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = must_open(st, PLT_OPEN_WRITE);
	uint64_t end = 0;

	for (unsigned i = 0; i < 12; i += 2)
		ck_assert_int_eq(plt_write(disk, (uint64_t)i * BS, "x", 1, &err), 0);
	must_close(disk);
	for (unsigned i = 0; i < 12; i++) {
		uint64_t start = (uint64_t)get_entry(st, i) * 512;

		ck_assert_int_eq(get_entry(st, i) == UINT32_MAX, i % 2);
		if (i % 2)
			continue;
		ck_assert_uint_eq((start + 512) % 4096, 0);
		end = PLT_MAX(end, start + 512 + BS);
	}
	ck_assert_uint_eq(size_of(st), end + 512);
	plt_store_unref(st);
}
END_TEST

/* What was freed in one session is used in the next; the file does not grow for ever. */
START_TEST(gaps_are_used)
{
	struct plt_store *st = make_sparse(VHD_DYNAMIC, SIZE, BS, 12);
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *p = malloc(BS), b[BS];
	uint64_t size = 0;

	memset(p, 0x41, BS);
	for (unsigned i = 0; i < 40; i++) {
		struct plt_disk *disk = must_open(st, PLT_OPEN_WRITE);
		uint64_t block = i % 10;

		ck_assert_int_eq(plt_write(disk, block * BS, p, BS, &err), 0);
		ck_assert_int_eq(plt_write(disk, 10 * BS + i, "y", 1, &err), 0); /* stays, behind */
		must_close(disk);
		disk = must_open(st, PLT_OPEN_WRITE);
		if (i >= 4)
			ck_assert_int_eq(plt_discard(disk, (i - 4) % 10 * BS, BS, &err), 0);
		ck_assert_int_eq(plt_write(disk, (block + 1) % 10 * BS + 100, "x", 1, &err), 0);
		for (unsigned j = 0; j < 2; j++) {
			ck_assert_int_eq(plt_read(disk, (block + 1) % 10 * BS, b, BS, &err), 0);
			ck_assert_uint_eq(b[100], 'x');
			ck_assert_msg(plt_is_zero(b, 100) && plt_is_zero(b + 101, BS - 101), "what lay in the gap shows");
			must_close(disk);
			disk = must_open(st, 0);
		}
		must_close(disk);
		if (i == 20)
			size = size_of(st);
		if (i > 20)
			ck_assert_uint_le(size_of(st), size + BS + 4096);
	}
	plt_store_unref(st);
	free(p);
}
END_TEST

/* preallocation=full, when it is made and when it grows: each byte is written, none left to the host as zeros. */
START_TEST(written_once)
{
	static const char *const full[] = { "subformat=fixed", "preallocation=full", "force_size=on", NULL };
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *memory, *st;
	struct plt_disk *disk;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &memory), 0);
	ck_assert_int_eq(plt_fault_new(memory, &st), 0);
	c.format = "vpc";
	c.virtual_size = 1 << 20;
	c.options = full;
	ck_assert_msg(plt_create_store(make_ctx(), st, "full", &c, NULL, &err) == 0, "%s", err.text);
	disk = must_open(st, PLT_OPEN_WRITE);
	ck_assert_msg(plt_resize(disk, 2 << 20, 0, "full", &err) == 0, "%s", err.text);
	must_close(disk);
	/* (but for the zeros where the old footer was) */
	ck_assert_uint_le(plt_fault_seen(st, PLT_FAULT_ZERO), 1);
	ck_assert_uint_ge(plt_fault_seen(st, PLT_FAULT_WRITE), 2);
	plt_store_unref(st);
	plt_store_unref(memory);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-data");
	TCase *t = tcase_create("vhd-data");

	tcase_add_test(t, against_a_model);
	tcase_add_test(t, clear_bits);
	tcase_add_test(t, batmaps);
	tcase_add_test(t, batmap_places);
	tcase_add_test(t, encrypted_by_xenserver);
	tcase_add_test(t, aligned);
	tcase_add_test(t, gaps_are_used);
	tcase_add_test(t, written_once);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
