/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * vhd/footer.c and what open makes of it: geometry, the size that a creator means, the copy that speaks
 * for an image when one is damaged, and each field of the dynamic header.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "tests/vhd/make.h"

#define KIB 1024u
#define MIB (UINT64_C(1) << 20)
#define SIZE (96 * KIB)
#define BS (16 * KIB)

/* ---- geometry -------------------------------------------------------------------------------- */

START_TEST(geometry_known)
{
	/* worked out by hand from the specification's appendix, at its edges */
	static const struct {
		uint64_t sectors;
		uint32_t c, h, s;
	} v[] = {
		{ 0, 0, 4, 17 }, { 67, 0, 4, 17 }, { 68, 1, 4, 17 }, { 17 * 1024 * 4 - 1, 1023, 4, 17 },
		{ 17 * 1024 * 4, 140, 16, 31 },
		{ 17 * 1024 * 4 + 17, 819, 5, 17 }, { 2097152, 2080, 16, 63 }, { 17 * 16 * 1024 - 1, 1023, 16, 17 },
		{ 17 * 16 * 1024, 561, 16, 31 }, { 31 * 16 * 1024 - 1, 1023, 16, 31 },
		{ 31 * 16 * 1024, 503, 16, 63 }, { 266338304, 65278, 16, 255 },
		{ UINT64_C(65535) * 16 * 63 - 1, 65534, 16, 63 }, { UINT64_C(65535) * 16 * 63, 16191, 16, 255 },
		{ VHD_MAX_CHS, 65535, 16, 255 }, { VHD_MAX_CHS + 1, 65535, 16, 255 }, { UINT64_MAX, 65535, 16, 255 },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		uint32_t c, h, s;

		vhd_geometry(v[i].sectors, &c, &h, &s);
		ck_assert_msg(c == v[i].c && h == v[i].h && s == v[i].s, "%llu sectors: %u/%u/%u",
			      (unsigned long long)v[i].sectors, c, h, s);
	}
}
END_TEST

/* Never more than there is, less by no more than a cylinder, and each number in its field. */
START_TEST(geometry_fits)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned i = 0; i < 20000; i++) {
		uint64_t n = plt_unit_random(&seed) >> plt_unit_random(&seed) % 40 >> 24;
		uint32_t c, h, s;

		vhd_geometry(n, &c, &h, &s);
		n = PLT_MIN(n, VHD_MAX_CHS);
		ck_assert_uint_le(c, 65535);
		ck_assert_uint_le(h, 16);
		ck_assert_uint_le(s, 255);
		ck_assert_uint_le((uint64_t)c * h * s, n);
		ck_assert_uint_lt(n - (uint64_t)c * h * s, (uint64_t)h * s);
	}
}
END_TEST

/* ---- size ------------------------------------------------------------------------------------ */

START_TEST(creators)
{
	enum { CURRENT = 1000 * 512, CHS = 14 * 4 * 17 * 512 };
	static const struct {
		char four[5];
		bool by_chs;
	} v[] = {
		{ "vpc ", true }, { "vs  ", true }, { "qemu", true }, { "win ", false }, { "qem2", false },
		{ "d2v\0", false }, { "d2v ", false }, { "tap\0", false }, { "CTXS", false }, { "CXEN", false },
		{ "vbox", false }, { "caml", false }, { "\0\0\0\0", false }, { "????", false },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct vhd_footer f = make_footer(VHD_FIXED, CURRENT);
		bool chs;

		memcpy(f.creator, v[i].four, 4);
		f.cylinders = plt_be16_make(14);
		f.heads = 4;
		f.sectors = 17;
		ck_assert_msg(vhd_size(&f, VHD_SIZE_AUTO, &chs) == (v[i].by_chs ? CHS : CURRENT) && chs == v[i].by_chs,
			      "%.4s", v[i].four);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_CURRENT, &chs), CURRENT);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_CHS, &chs), CHS);
		/* a geometry of nothing, of more than there is, and the largest: the size */
		f.cylinders = plt_be16_make(0);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_AUTO, &chs), CURRENT);
		f.cylinders = plt_be16_make(15);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_AUTO, &chs), CURRENT);
		vhd_set_chs(&f, 65535, 16, 255);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_AUTO, &chs), CURRENT);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_CHS, &chs), CURRENT);
		ck_assert(!chs);
		/* half a sector at the end is nobody's */
		f.current_size = plt_be64_make(CURRENT + 511);
		ck_assert_uint_eq(vhd_size(&f, VHD_SIZE_AUTO, &chs), CURRENT);
	}
}
END_TEST

START_TEST(size_option)
{
	struct plt_store *st = make_fixed(SIZE);
	struct plt_error err = PLT_ERROR_INIT;
	struct vhd_footer f = get_footer(st, true);
	struct plt_disk *disk;

	memcpy(f.creator, "vpc ", 4);
	vhd_set_chs(&f, 2, 4, 17);
	put_footer(st, true, f, true);
	disk = must_open(st, 0);
	ck_assert_uint_eq(plt_disk_size(disk), 2 * 4 * 17 * 512);
	must_close(disk);
	disk = try_open(st, 0, "force_size_calc=current_size", &err);
	ck_assert_uint_eq(plt_disk_size(disk), SIZE);
	must_close(disk);
	memcpy(f.creator, "win ", 4);
	put_footer(st, true, f, true);
	disk = try_open(st, 0, "force_size_calc=chs", &err);
	ck_assert_uint_eq(plt_disk_size(disk), 2 * 4 * 17 * 512);
	must_close(disk);
	ck_assert_ptr_null(try_open(st, 0, "force_size_calc=both", &err));
	ck_assert_ptr_nonnull(strstr(err.text, "Invalid size calculation mode: 'both'"));
	plt_store_unref(st);
}
END_TEST

/* What create makes of a size, with and without force_size. */
START_TEST(created)
{
	static const struct {
		const char *options;
		uint64_t size, want;
		const char *creator;
		bool max_chs;
	} v[] = {
		{ "", 1000 * 512, 1020 * 512, "qemu", false },
		{ "", 68 * 512, 68 * 512, "qemu", false },
		{ "force_size", 1000 * 512, 1000 * 512, "qem2", true },
		{ "subformat=fixed,force_size", 1000 * 512, 1000 * 512, "qem2", true },
		{ "subformat=fixed", 1000 * 512, 1020 * 512, "qemu", false },
		{ "azure", 1000 * 512, 1 << 20, "qem2", true },
		{ "azure,subformat=fixed", (5 << 20) + 1, 6 << 20, "qem2", true },
		{ "", (uint64_t)VHD_MAX_CHS * 512 + 512, (uint64_t)VHD_MAX_CHS * 512 + 512, "qemu", true },
		{ "", VHD_MAX_SECTORS * 512, VHD_MAX_SECTORS * 512, "qemu", true },
		{ "block_size=512k,force_size", 1 << 20, 1 << 20, "qem2", true },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
		const char *const options[] = { v[i].options, NULL };
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_store *st;
		struct plt_disk *disk;
		struct made_check check;
		struct vhd_footer f;

		ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
		c.format = "vpc";
		c.virtual_size = v[i].size;
		c.options = options;
		ck_assert_msg(plt_create_store(make_ctx(), st, "top", &c, NULL, &err) == 0, "%u: %s", i, err.text);
		f = get_footer(st, true);
		ck_assert_mem_eq(f.creator, v[i].creator, 4);
		ck_assert_uint_eq(plt_be64_get(f.current_size), v[i].want);
		ck_assert_msg((vhd_chs_sectors(&f) == VHD_MAX_CHS) == v[i].max_chs, "%u", i);
		ck_assert(v[i].max_chs || vhd_chs_sectors(&f) * 512 == v[i].want);
		disk = must_open(st, 0);
		ck_assert_uint_eq(plt_disk_size(disk), v[i].want);
		must_close(disk);
		make_check(st, &check);
		ck_assert_str_eq(check.texts, "");
		plt_store_unref(st);
	}
}
END_TEST

/* ---- ends ------------------------------------------------------------------------------------ */

static void open_fails(struct plt_store *st, const char *says)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_ptr_null(try_open(st, 0, NULL, &err));
	ck_assert_msg(strstr(err.text, says) != NULL, "'%s' in: %s", says, err.text);
}

static void reads(struct plt_store *st, uint64_t off, uint8_t want)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = must_open(st, 0);
	uint8_t b[512];

	ck_assert_msg(plt_read(disk, off, b, sizeof(b), &err) == 0, "%s", err.text);
	for (unsigned i = 0; i < sizeof(b); i++)
		ck_assert_uint_eq(b[i], want);
	must_close(disk);
}

static struct plt_store *dynamic(void)
{
	struct plt_store *st = make_sparse(VHD_DYNAMIC, SIZE, BS, SIZE / BS);

	make_block(st, 1, 0x5a, 0xff);
	return st;
}

/* Each end damaged in each way: the other speaks, and is put there again by the first write. */
START_TEST(one_end_damaged)
{
	static const char *const how[] = { "cookie", "sum", "version", "type", "data_offset" };

	for (int tail = 0; tail < 2; tail++)
		for (unsigned i = 0; i < PLT_ARRAY_SIZE(how); i++) {
			struct plt_store *st = dynamic();
			struct vhd_footer good = get_footer(st, false), f = good, a, b;
			struct plt_error err = PLT_ERROR_INIT;
			struct made_check check;
			struct plt_disk *disk;

			switch (i) {
			case 0: f.cookie[3] ^= 1; break;
			case 1: f.current_size = plt_be64_make(12 * SIZE); break;
			case 2: f.version = plt_be32_make(0x00020000); break;
			case 3: f.type = plt_be32_make(5); break;
			default: f.data_offset = plt_be64_make(UINT64_MAX - 511);
			}
			put_footer(st, tail, f, i != 1);
			reads(st, BS, 0x5a);
			make_check(st, &check);
			ck_assert_msg(!strcmp(check.ids, tail ? "V-FTR-2:corruption " : "V-FTR-1:corruption "), "%s %d: %s",
				      how[i], tail, check.texts);
			disk = must_open(st, PLT_OPEN_WRITE);
			ck_assert_int_eq(plt_write(disk, 3 * BS, "x", 1, &err), 0);
			must_close(disk);
			a = get_footer(st, false);
			b = get_footer(st, true);
			ck_assert_mem_eq(&a, &good, sizeof(a));
			ck_assert_mem_eq(&b, &good, sizeof(b));
			reads(st, BS, 0x5a);
			make_check(st, &check);
			ck_assert_msg(!check.ids[0], "%s %d: %s", how[i], tail, check.texts);
			plt_store_unref(st);
		}
}
END_TEST

START_TEST(both_ends_damaged)
{
	struct plt_store *st = dynamic();
	struct vhd_footer f = get_footer(st, false);
	struct made_check check;

	f.heads++;
	put_footer(st, false, f, false);
	put_footer(st, true, f, false);
	open_fails(st, "both its footers are damaged: the file starts with a footer whose checksum is");
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-FTR-3:corruption ");
	plt_store_unref(st);
}
END_TEST

START_TEST(apart)
{
	struct plt_store *st = dynamic();
	struct vhd_footer f = get_footer(st, false);
	struct made_check check;

	f.hidden = 1;  /* what blktap changes in one of them only */
	put_footer(st, true, f, true);
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "");
	f.hidden = 0;
	f.id[0] = 1;
	put_footer(st, true, f, true);
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-DIFFER:note ");
	f.current_size = plt_be64_make(SIZE - 512); /* a resize that was cut short: the start counts */
	put_footer(st, true, f, true);
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-DIFFER:leak ");
	ck_assert_ptr_nonnull(strstr(check.texts, "98304 and 97792"));
	reads(st, SIZE - 512, 0);
	plt_store_unref(st);
}
END_TEST

/* Old blktap set the byte without computing the sum anew. */
START_TEST(hidden_without_a_sum)
{
	struct plt_store *st = dynamic();
	struct vhd_footer f = get_footer(st, false);

	f.hidden = 1;
	put_footer(st, false, f, false);
	put_footer(st, true, f, false);
	reads(st, BS, 0x5a);
	f.saved_state = 1;
	put_footer(st, false, f, false);
	put_footer(st, true, f, false);
	open_fails(st, "checksum");
	plt_store_unref(st);
}
END_TEST

/* Virtual PC before 2004: 511 bytes; replaced by a whole one before anything else is written. */
START_TEST(old_footer)
{
	struct plt_store *st = make_fixed(SIZE), *dyn = dynamic();
	struct plt_error err = PLT_ERROR_INIT;
	struct made_check check;
	struct plt_disk *disk;

	cut_to(st, SIZE + 511);
	disk = must_open(st, 0);
	ck_assert_uint_eq(plt_disk_size(disk), SIZE);
	must_close(disk);
	make_check(st, &check);
	ck_assert_uint_eq(check.n.corruptions, 0);
	disk = must_open(st, PLT_OPEN_WRITE);
	ck_assert_int_eq(plt_resize(disk, 2 * SIZE, 0, NULL, &err), 0);
	must_close(disk);
	ck_assert_uint_eq(size_of(st), 2 * SIZE + 512);
	reads(st, SIZE, 0);
	reads(st, 2 * SIZE - 512, 0);
	cut_to(dyn, size_of(dyn) - 1);
	put_fill(dyn, 0, 0, 512); /* it has to speak for itself */
	reads(dyn, BS, 0x5a);
	disk = must_open(dyn, PLT_OPEN_WRITE);
	ck_assert_int_eq(plt_write(disk, 3 * BS, "x", 1, &err), 0);
	must_close(disk);
	ck_assert_uint_eq(size_of(dyn) % 512, 0);
	make_check(dyn, &check);
	ck_assert_str_eq(check.texts, "");
	plt_store_unref(st);
	plt_store_unref(dyn);
}
END_TEST

/* A growth that was cut short: the footer is where the disk ended, zeros behind it. */
START_TEST(displaced)
{
	struct plt_store *st = make_fixed(SIZE);
	struct plt_error err = PLT_ERROR_INIT;
	struct made_check check;
	struct plt_disk *disk;
	uint8_t b[512];

	cut_to(st, 8 * MIB);
	disk = must_open(st, PLT_OPEN_WRITE);
	ck_assert_uint_eq(plt_disk_size(disk), SIZE);
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-DISPLACED:leak ");
	ck_assert_int_eq(plt_read(disk, SIZE - 512, b, 512, &err), 0);
	ck_assert_uint_eq(b[0], 1 + (SIZE - 512) % 251);
	ck_assert_int_eq(plt_write(disk, 0, "x", 1, &err), 0);
	must_close(disk);
	ck_assert_uint_eq(size_of(st), SIZE + 512);
	make_check(st, &check);
	ck_assert_str_eq(check.texts, "");
	/* with anything else behind it, it is the guest's and no footer */
	cut_to(st, 2 * MIB);
	put_bytes(st, MIB, "x", 1);
	open_fails(st, "not a VHD");
	plt_store_unref(st);
}
END_TEST

/* A guest of a fixed disk writes a footer into its first sector: it stays a fixed disk. */
START_TEST(guest_makes_a_footer)
{
	struct plt_store *st = make_fixed(SIZE);
	struct vhd_footer f = make_footer(VHD_DYNAMIC, MIB);
	struct plt_disk *disk;
	uint8_t b[512];

	put_footer(st, false, f, true);
	disk = must_open(st, 0);
	ck_assert_uint_eq(plt_disk_size(disk), SIZE);
	ck_assert_uint_eq(plt_disk_cluster_size(disk), 0);
	ck_assert_int_eq(plt_read(disk, 0, b, 512, NULL), 0);
	ck_assert_mem_eq(b, &f, 512);
	must_close(disk);
	plt_store_unref(st);
}
END_TEST

START_TEST(fixed_that_does_not_fit)
{
	struct plt_store *st = make_fixed(SIZE);
	struct vhd_footer f = get_footer(st, true);
	struct made_check check;
	struct plt_disk *disk;

	f.current_size = plt_be64_make(SIZE + 512);
	put_footer(st, true, f, true);
	open_fails(st, "the file is truncated");
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-TRUNC-4:corruption ");
	f.current_size = plt_be64_make(SIZE - 512);
	put_footer(st, true, f, true);
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-LONG:note ");
	disk = must_open(st, 0);
	ck_assert_uint_eq(plt_disk_size(disk), SIZE - 512);
	must_close(disk);
	f.current_size = plt_be64_make((VHD_MAX_SECTORS + 1) * 512);
	put_footer(st, true, f, true);
	open_fails(st, "2040 GiB are the most");
	make_check(st, &check);
	ck_assert_str_eq(check.ids, "V-SIZE:corruption ");
	for (uint64_t n = 0; n < 512; n += 73) {
		cut_to(st, n);
		open_fails(st, "fewer than the footer");
	}
	plt_store_unref(st);
}
END_TEST

/* A VHD within a fixed VHD: a window that cannot grow. */
START_TEST(nested)
{
	struct plt_store *outer = make_fixed(MIB), *window;
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	const char *const options[] = { "block_size=16k,force_size", NULL };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *inner;
	struct vhd_footer f;
	struct made_check check;
	uint8_t buf[BS], back[BS];
	uint64_t wrote = 0;
	int r = 0;

	put_fill(outer, 0, 0, MIB);
	ck_assert_int_eq(plt_window_new(outer, 0, MIB, &window, &err), 0);
	c.format = "vpc";
	c.virtual_size = 2 * MIB; /* more than there is room for */
	c.options = options;
	ck_assert_msg(plt_create_store(make_ctx(), window, "inner", &c, NULL, &err) == 0, "%s", err.text);
	inner = must_open(window, PLT_OPEN_WRITE);
	memset(buf, 0x77, sizeof(buf));
	for (uint64_t off = 0; off < 2 * MIB && r == 0; off += BS) {
		r = plt_write(inner, off, buf, BS, &err);
		wrote += r == 0;
	}
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_uint_ge(wrote, MIB / (BS + 4096) - 1);
	ck_assert_msg(strstr(err.text, "no room for another block before the footer") != NULL, "%s", err.text);
	must_close(inner);
	inner = must_open(window, 0);
	for (uint64_t i = 0; i < wrote; i++) {
		ck_assert_int_eq(plt_read(inner, i * BS, back, BS, &err), 0);
		ck_assert_mem_eq(back, buf, BS);
	}
	must_close(inner);
	make_check(window, &check);
	ck_assert_uint_eq(check.n.corruptions, 0);
	f = get_footer(outer, true);
	ck_assert_mem_eq(f.cookie, "conectix", 8);
	plt_store_unref(window);
	plt_store_unref(outer);
}
END_TEST

/* ---- dynamic header -------------------------------------------------------------------------- */

START_TEST(headers)
{
	static const struct {
		unsigned at, len;
		uint64_t value;
		const char *says, *id;
	} v[] = {
		{ 0, 1, 'C', "'cxsparse' is missing", "V-HDR-1:corruption " },
		{ 16, 8, 0, "block allocation table at 0 ", "V-HDR-3:corruption " },
		{ 16, 8, 1537, "block allocation table at 0x601 ", "V-HDR-3:corruption " },
		{ 16, 8, 1 << 20, "lies beyond the end of the file", "V-HDR-3:corruption " },
		{ 16, 8, UINT64_MAX - 511, "lies beyond the end of the file", "V-HDR-3:corruption " },
		{ 24, 4, 0x00020000, "version 0x20000", "V-HDR-3:corruption " },
		{ 28, 4, 5, "a table of 5 entries for blocks of 16384 bytes", "V-HDR-3:corruption " },
		{ 28, 4, 0, "a table of 0 entries", "V-HDR-3:corruption " },
		{ 28, 4, 0x1fffffff, "lies beyond the end of the file", "V-HDR-3:corruption " },
		{ 28, 4, 0x20000000, "Max Table Entries too large (536870912)", "V-HDR-3:corruption " },
		{ 28, 4, UINT32_MAX, "Max Table Entries too large (4294967295)", "V-HDR-3:corruption " },
		{ 32, 4, 0, "Invalid block size 0", "V-HDR-3:corruption " },
		{ 32, 4, 256, "Invalid block size 256", "V-HDR-3:corruption " },
		{ 32, 4, 3 * BS, "Invalid block size 49152", "V-HDR-3:corruption " },
		{ 32, 4, UINT32_C(512) << 20, "Invalid block size 536870912", "V-HDR-3:corruption " },
	};
	struct made_check check;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		struct plt_store *st = dynamic();
		uint8_t b[8];

		plt_put_be64(b, v[i].value);
		put_bytes(st, HEADER_AT + v[i].at, b + 8 - v[i].len, v[i].len);
		put_header(st, get_header(st), true);
		open_fails(st, v[i].says);
		make_check(st, &check);
		ck_assert_msg(!strcmp(check.ids, v[i].id), "%u: %s", i, check.ids);
		plt_store_unref(st);
	}
	for (unsigned at = 0; at < 1024; at += 31) { /* a byte changed, and not the sum */
		struct plt_store *st = dynamic();
		struct vhd_header h = get_header(st);

		((uint8_t *)&h)[at] ^= 0x40;
		put_header(st, h, false);
		open_fails(st, "dynamic header");
		plt_store_unref(st);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-footer");
	TCase *t = tcase_create("vhd-footer");

	tcase_add_test(t, geometry_known);
	tcase_add_test(t, geometry_fits);
	tcase_add_test(t, creators);
	tcase_add_test(t, size_option);
	tcase_add_test(t, created);
	tcase_add_test(t, one_end_damaged);
	tcase_add_test(t, both_ends_damaged);
	tcase_add_test(t, apart);
	tcase_add_test(t, hidden_without_a_sum);
	tcase_add_test(t, old_footer);
	tcase_add_test(t, displaced);
	tcase_add_test(t, guest_makes_a_footer);
	tcase_add_test(t, fixed_that_does_not_fit);
	tcase_add_test(t, nested);
	tcase_add_test(t, headers);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
