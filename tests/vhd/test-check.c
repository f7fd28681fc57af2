/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * vhd/check.c: each kind of damage is found under its name, what shares a severity with it is not
 * confused with it, and a sound image has nothing.  And what a damaged entry costs those who read and
 * write: its own block, nothing else.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "tests/vhd/make.h"

#define BS (UINT32_C(64) << 10)
#define BLOCKS 8
#define SIZE (UINT64_C(8) * BS - 512)
#define SECTORS(at) ((uint32_t)((at) / 512))

/* Blocks 0, 2 and 5, in the order 2, 0, 5; at[] has where. */
static struct plt_store *sound(uint64_t at[3])
{
	struct plt_store *st = make_sparse(VHD_DYNAMIC, SIZE, BS, BLOCKS);

	at[1] = make_block(st, 2, 0x22, 0xff);
	at[0] = make_block(st, 0, 0x11, 0xff);
	at[2] = make_block(st, 5, 0x55, 0xff);
	return st;
}

enum how {
	NOTHING, BEYOND, FAR, INTO_FOOTER, INTO_HEADER, INTO_TABLE, OVERLAP, SAME, LEAKED, BEHIND, CUT, NO_TAIL, BITS,
	BITS_ZERO, CHS, FEATURES, RESERVED, ODD_SIZE, HEADER_FIELD, UNDER_THE_FOOTER, LOCATOR_BEYOND, LOCATOR_LONG,
	LOCATOR_TIGHT, TWO_BEYOND,
};

static const struct {
	enum how how;
	unsigned corruptions, leaks;
	const char *ids, *text;
} cases[] = {
	{ NOTHING, 0, 0, "", "" },
	{ BEYOND, 1, 1, "V-BAT-6:corruption V-LEAK:leak ", "BAT entry 5 (sector 0x186a0) points beyond the end of the file" },
	{ FAR, 1, 1, "V-BAT-6:corruption V-LEAK:leak ", "BAT entry 5 (sector 0xfffffffe) points beyond the end of the file" },
	{ INTO_FOOTER, 1, 1, "V-BAT-1:corruption V-LEAK:leak ", "BAT entry 5 (sector 0) points into headers" },
	{ INTO_HEADER, 1, 1, "V-BAT-3:corruption V-LEAK:leak ", "BAT entry 5 (sector 0x2) points into headers" },
	{ INTO_TABLE, 1, 1, "V-BAT-3:corruption V-LEAK:leak ", "BAT entry 5 (sector 0x3) points into headers" },
	{ OVERLAP, 2, 0, "V-BAT-5:corruption ", "blocks 0 (sector 0x85) and 5 (sector 0x86) share bytes" },
	{ SAME, 1, 1, "V-BAT-5:corruption V-LEAK:leak ", "blocks 0 (sector 0x85) and 5 (sector 0x85) share bytes" },
	{ LEAKED, 0, 1, "V-LEAK:leak ", "room for 1 blocks is taken by nothing" },
	{ BEHIND, 0, 1, "V-BAT-BEHIND:leak ", "BAT entry 5 (sector 0x106) lies behind the disk's end" },
	{ CUT, 1, 0, "V-FTR-2:corruption V-TRUNC-4:note ", "block 5 at sector 0x106 is cut short by 1000 bytes" },
	{ NO_TAIL, 1, 0, "V-FTR-2:corruption ", "the file ends with no footer" },
	{ BITS, 0, 0, "V-BMP-1:note ", "block 0: 8 sectors hold something" },
	{ BITS_ZERO, 0, 0, "", "" },
	{ CHS, 0, 0, "V-CHS:note ", "footer: geometry 3/4/17 does not belong to a size of 523776 bytes" },
	{ FEATURES, 0, 0, "V-FIELD:note ", "features 0" },
	{ RESERVED, 0, 0, "V-FIELD:note ", "reserved bytes are not zero" },
	{ ODD_SIZE, 0, 0, "V-FIELD:note ", "a size of 523777 bytes" },
	{ HEADER_FIELD, 0, 0, "V-FIELD:note ", "a data offset of 0 (all ones are expected)" },
	{ UNDER_THE_FOOTER, 0, 0, "V-TRUNC-4:note ", "block 5 at sector 0x107 is cut short by 512 bytes" },
	{ LOCATOR_BEYOND, 1, 0, "V-LOCATOR:corruption ", "parent locator 3: 20 bytes at 0xffffffffffffff00" },
	{ LOCATOR_LONG, 1, 0, "V-LOCATOR:corruption ", "parent locator 3: 65538 bytes at 0x1000, which is too long" },
	{ LOCATOR_TIGHT, 0, 0, "V-LOCATOR:note ", "parent locator 3: 513 bytes in a room of 512" },
	{ TWO_BEYOND, 2, 2, "V-BAT-6:corruption V-LEAK:leak ", "BAT entry 0 (sector 0x186a0) points beyond" },
};

static void locator(struct plt_store *st, uint32_t space, uint32_t length, uint64_t offset)
{
	struct vhd_header h = get_header(st);

	memcpy(h.locator[3].code, "MacX", 4);
	h.locator[3].space = plt_be32_make(space);
	h.locator[3].length = plt_be32_make(length);
	h.locator[3].offset = plt_be64_make(offset);
	put_header(st, h, true);
}

static void damage(struct plt_store *st, enum how how, const uint64_t at[3])
{
	struct vhd_footer f = get_footer(st, false);
	struct vhd_header h = get_header(st);

	switch (how) {
	case BEYOND: put_entry(st, 5, 100000); break;
	case FAR: put_entry(st, 5, UINT32_MAX - 1); break;
	case INTO_FOOTER: put_entry(st, 5, 0); break;
	case INTO_HEADER: put_entry(st, 5, 2); break;
	case INTO_TABLE: put_entry(st, 5, 3); break;
	case OVERLAP: put_entry(st, 5, SECTORS(at[0]) + 1); put_entry(st, 6, SECTORS(at[2])); break;
	case SAME: put_entry(st, 5, SECTORS(at[0])); break;
	case LEAKED: put_entry(st, 5, UINT32_MAX); break;
	case BEHIND: f.current_size = plt_be64_make(4 * BS); break;
	case CUT: cut_to(st, size_of(st) - 512 - 1000); break;
	case NO_TAIL: cut_to(st, size_of(st) - 512); break;
	case BITS: put_fill(st, at[0] + 3, 0, 1); break;
	case BITS_ZERO: put_fill(st, at[0] + 3, 0, 1); put_fill(st, at[0] + 512 + 3 * 8 * 512, 0, 8 * 512); break;
	case CHS: vhd_set_chs(&f, 3, 4, 17); break;
	case FEATURES: f.features = plt_be32_make(0); break;
	case RESERVED: f.reserved[425] = 1; break;
	case ODD_SIZE: f.current_size = plt_be64_make(SIZE + 1); break;
	case HEADER_FIELD: h.data_offset = plt_be64_make(0); put_header(st, h, true); break;
	case UNDER_THE_FOOTER: put_entry(st, 5, SECTORS(at[2]) + 1); put_fill(st, at[2] + 512, 0xff, 512); break;
	case LOCATOR_BEYOND: locator(st, 512, 20, UINT64_MAX - 255); break;
	case LOCATOR_LONG: locator(st, 131072, 65538, 4096); break;
	case LOCATOR_TIGHT: locator(st, 1, 513, 1280); break; /* a room in sectors */
	case TWO_BEYOND: put_entry(st, 0, 100000); put_entry(st, 5, 100001); break;
	default: break;
	}
	if (how == BEHIND || how == CHS || how == FEATURES || how == RESERVED || how == ODD_SIZE) {
		put_footer(st, false, f, true);
		put_footer(st, true, f, true);
	}
}

START_TEST(damage_is_found)
{
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(cases); i++) {
		uint64_t at[3];
		struct plt_store *st = sound(at);
		struct made_check c;

		ck_assert_uint_eq(cases[i].how, i);
		damage(st, cases[i].how, at);
		make_check(st, &c);
		ck_assert_msg(!strcmp(c.ids, cases[i].ids) && c.n.corruptions == cases[i].corruptions &&
			      c.n.leaks == cases[i].leaks && !c.n.check_errors, "case %u: %llu corruptions, %llu leaks: "
			      "%s: %s", i, (unsigned long long)c.n.corruptions, (unsigned long long)c.n.leaks, c.ids,
			      c.texts);
		ck_assert_msg(strstr(c.texts, cases[i].text) != NULL, "case %u: %s", i, c.texts);
		plt_store_unref(st);
	}
}
END_TEST

START_TEST(totals)
{
	uint64_t at[3];
	struct plt_store *st = sound(at);
	struct made_check c;

	make_check(st, &c);
	ck_assert(c.n.have_clusters);
	ck_assert_uint_eq(c.n.total_clusters, 8);
	ck_assert_uint_eq(c.n.allocated_clusters, 3);
	ck_assert_uint_eq(c.n.fragmented_clusters, 1);
	ck_assert_uint_eq(c.n.image_end_offset, size_of(st));
	plt_store_unref(st);
}
END_TEST

/* One bad entry costs its own block; nothing is written into such an image, nor changed in it. */
START_TEST(bad_entries_cost_their_block)
{
	static const enum how v[] = { BEYOND, FAR, INTO_FOOTER, INTO_HEADER, INTO_TABLE };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		uint64_t at[3];
		struct plt_store *st = sound(at);
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk;
		uint8_t b[1024], *before;
		const void *now;
		size_t len;

		damage(st, v[i], at);
		now = plt_memory_data(st, &len);
		before = malloc(len);
		memcpy(before, now, len);
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_int_eq(plt_read(disk, 5 * BS, b, 1, &err), -EIO);
		ck_assert_int_eq(plt_read(disk, 5 * BS - 1, b, 1, &err), 0);
		ck_assert_int_eq(plt_read(disk, 2 * BS + 7, b, 1, &err), 0);
		ck_assert_uint_eq(b[0], 0x22);
		ck_assert_int_lt(plt_write(disk, 5 * BS, b, 512, &err), 0);
		ck_assert_msg(strstr(err.text, "BAT entry 5") != NULL, "%s", err.text);
		ck_assert_int_lt(plt_write(disk, 7 * BS, b, 512, &err), 0); /* what is new might end up on top of it */
		ck_assert_int_lt(plt_write_zeroes(disk, 5 * BS, BS, PLT_ZERO_UNMAP, &err), 0);
		ck_assert_int_lt(plt_discard(disk, 5 * BS, BS, &err), 0);
		ck_assert_int_lt(plt_resize(disk, 2 * SIZE, 0, NULL, &err), 0);
		must_close(disk);
		now = plt_memory_data(st, &len);
		ck_assert_mem_eq(now, before, len);
		free(before);
		plt_store_unref(st);
	}
}
END_TEST

START_TEST(overlaps_are_not_written_into)
{
	static const enum how v[] = { OVERLAP, SAME };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		uint64_t at[3];
		struct plt_store *st = sound(at);
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk;
		uint8_t b[512];

		damage(st, v[i], at);
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_int_eq(plt_read(disk, 5 * BS, b, 512, &err), 0);
		ck_assert_int_eq(plt_write(disk, 5 * BS, b, 512, &err), -EUCLEAN);
		ck_assert_msg(strstr(err.text, "share bytes") != NULL, "%s", err.text);
		must_close(disk);
		plt_store_unref(st);
	}
}
END_TEST

/* A block whose end the file has not: zeros, until the first write gives the block its room. */
START_TEST(a_block_cut_short)
{
	static const enum how v[] = { CUT, UNDER_THE_FOOTER };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		uint64_t at[3];
		struct plt_store *st = sound(at);
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk;
		struct made_check c;
		uint8_t *b = malloc(BS), *again = malloc(BS);

		damage(st, v[i], at);
		disk = must_open(st, PLT_OPEN_WRITE);
		ck_assert_int_eq(plt_read(disk, 5 * BS, b, BS, &err), 0);
		ck_assert_uint_eq(b[BS - 513 - 1000], 0x55);
		for (unsigned j = v[i] == CUT ? 1000 : 512; j; j--)
			ck_assert_uint_eq(b[BS - j], 0);
		ck_assert_int_eq(plt_write(disk, 7 * BS, "x", 1, &err), 0);
		ck_assert_int_eq(plt_read(disk, 5 * BS, again, BS, &err), 0);
		ck_assert_mem_eq(b, again, BS);
		must_close(disk);
		disk = must_open(st, 0);
		ck_assert_int_eq(plt_read(disk, 5 * BS, again, BS, &err), 0);
		ck_assert_mem_eq(b, again, BS);
		must_close(disk);
		make_check(st, &c);
		ck_assert_uint_eq(c.n.corruptions, 0);
		free(b);
		free(again);
		plt_store_unref(st);
	}
}
END_TEST

/* A table in a hole: one finding for all of it, at once. */
START_TEST(a_table_in_a_hole)
{
	const uint32_t entries = 0x1fffffff;
	struct plt_store *st = make_sparse(VHD_DYNAMIC, UINT64_C(2000) << 30, 65536, 1), *sparse;
	struct vhd_footer f = get_footer(st, false);
	struct vhd_header h = get_header(st);
	struct made_check c;

	cut_to(st, TABLE_AT);
	h.entries = plt_be32_make(entries);
	put_header(st, h, true);
	ck_assert_int_eq(plt_overlay_new(st, true, &sparse), 0);
	ck_assert_int_eq(plt_overlay_set_size(sparse, UINT64_C(1) << 40), 0);
	ck_assert_int_eq(plt_overlay_edit(sparse, (UINT64_C(1) << 40) - 512, &f, sizeof(f)), 0);
	make_check(sparse, &c);
	ck_assert_str_eq(c.ids, "V-BAT-1:corruption ");
	ck_assert_uint_eq(c.n.corruptions, (UINT64_C(2000) << 30) / 65536);
	ck_assert_msg(strstr(c.texts, "BAT entries 0 to 32767999 lie in a hole") != NULL, "%s", c.texts);
	plt_store_unref(sparse);
	plt_store_unref(st);
}
END_TEST

/* Any byte of header and table changed in any way: check, open, read and write end, and say why. */
START_TEST(any_bytes)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned i = 0; i < 3000; i++) {
		uint64_t at[3];
		struct plt_store *st = sound(at);
		struct plt_error err = PLT_ERROR_INIT;
		struct made_check c;
		struct plt_disk *disk;
		uint8_t b[4096];

		for (unsigned n = 1 + (unsigned)(plt_unit_random(&seed) % 4); n; n--) {
			uint64_t where = plt_unit_random(&seed) % (plt_unit_random(&seed) % 2 ? 2048 : 600);
			uint8_t byte = plt_unit_random(&seed) % 4 ? (uint8_t)plt_unit_random(&seed) : 0xff;

			put_bytes(st, where, &byte, 1);
		}
		if (plt_unit_random(&seed) % 4)
			put_header(st, get_header(st), true);
		if (plt_unit_random(&seed) % 4)
			put_footer(st, false, get_footer(st, false), true);
		make_check(st, &c);
		disk = try_open(st, PLT_OPEN_WRITE, NULL, &err);
		if (!disk) {
			ck_assert_msg(c.n.corruptions > 0 || c.n.check_errors > 0, "does not open (%s), and check finds "
				      "nothing", err.text);
		} else {
			for (uint64_t off = 0; off + sizeof(b) <= plt_disk_size(disk) && off < 10 * BS; off += BS)
				if (plt_read(disk, off, b, sizeof(b), &err) < 0)
					ck_assert_msg(c.n.corruptions > 0, "%s, and check finds nothing", err.text);
			if (plt_disk_size(disk) > 4096 &&
			    plt_write(disk, (plt_disk_size(disk) - 4096) % (8 * BS), b, sizeof(b), &err) < 0)
				ck_assert_msg(c.n.corruptions > 0, "%s, and check finds nothing", err.text);
			(void)plt_disk_close(disk, NULL);
		}
		plt_store_unref(st);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-check");
	TCase *t = tcase_create("vhd-check");

	tcase_add_test(t, damage_is_found);
	tcase_add_test(t, totals);
	tcase_add_test(t, bad_entries_cost_their_block);
	tcase_add_test(t, overlaps_are_not_written_into);
	tcase_add_test(t, a_block_cut_short);
	tcase_add_test(t, a_table_in_a_hole);
	tcase_add_test(t, any_bytes);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
