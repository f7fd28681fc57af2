/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * vhd/mend*.c: each class of damage that the structure alone can answer is mended, the disk is what it was, and
 * nothing is left to say; what is lost is named; what cannot be decided stays as it is; a sound image and one that
 * other programs write in their own ways are left alone.  And any bytes at all end in an answer.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/endian.h"
#include "formats/finding.h"
#include "tests/vhd/make.h"

#define BS (UINT32_C(64) << 10)
#define BLOCKS 200
#define SIZE ((uint64_t)BLOCKS * BS - 512)
#define USED 40

struct mended {
	char ids[1024], texts[16384];
	struct plt_doubts doubts;
	struct plt_store *overlay;
	size_t unplaced, gaps;
};

static void note(void *arg, const struct plt_check_finding *f)
{
	struct mended *m = arg;
	char id[80];
	size_t at = strlen(m->texts);

	snprintf(id, sizeof(id), "%s ", f->id);
	if (f->mended && !strstr(m->ids, id))
		strncat(m->ids, id, sizeof(m->ids) - strlen(m->ids) - 1);
	snprintf(m->texts + at, sizeof(m->texts) - at, "%s%s: %s\n", f->mended ? "mended " : "", f->id, f->text);
}

/* To the end, with nobody to ask where pieces belong. */
static int run(struct plt_store *st, struct mended *m)
{
	struct plt_mend mend = { .what = PLT_MEND_ALL, .changed = true };
	struct plt_check_result res;
	struct plt_error err = PLT_ERROR_INIT;
	int r = 0;

	memset(m, 0, sizeof(*m));
	ck_assert_int_eq(plt_overlay_new(st, true, &m->overlay), 0);
	for (unsigned i = 0; mend.changed && r == 0; i++) {
		mend.changed = false;
		ck_assert_msg(i < 12, "no end: %s", m->texts);
		r = plt_mend_store(make_ctx(), m->overlay, "top", "vpc", &mend, note, m, &res, &err);
	}
	m->doubts = mend.doubts;
	m->unplaced = mend.unplaced.n;
	m->gaps = mend.unplaced.ngaps;
	free(mend.unplaced.v);
	free(mend.unplaced.gaps);
	return r;
}

static void done(struct mended *m)
{
	plt_doubts_release(&m->doubts);
	plt_store_unref(m->overlay);
}

/* The guest blocks that are there, in the order in which they lie: neither ascending nor dense. */
static unsigned block_of(unsigned i)
{
	return (i * 67 + 11) % BLOCKS;
}

static struct plt_store *sound(enum vhd_type type, uint64_t at[USED])
{
	struct plt_store *st = make_sparse(type, SIZE, BS, BLOCKS);

	for (unsigned i = 0; i < USED; i++)
		at[i] = make_block(st, block_of(i), (uint8_t)(1 + i), 0xff);
	return st;
}

static uint8_t expected(uint64_t off)
{
	for (unsigned i = 0; i < USED; i++)
		if (block_of(i) == off / BS)
			return (uint8_t)(1 + i);
	return 0;
}

/* The disk is what it was, but where the lists say that it is not. */
static void same_disk(const struct mended *m, const char *what)
{
	struct plt_disk *disk = must_open(m->overlay, 0);
	static uint8_t buf[BS];
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(plt_disk_size(disk) == SIZE, "%s: %llu bytes", what, (unsigned long long)plt_disk_size(disk));
	for (uint64_t off = 0; off < SIZE; off += BS) {
		uint64_t n = PLT_MIN((uint64_t)BS, SIZE - off);
		const struct plt_doubt *d = plt_doubts_find(&m->doubts, PLT_DISK_ACTIVE, off);

		if (d && d->kind == PLT_LOST && d->off < off + n)
			continue;
		ck_assert_msg(plt_read(disk, off, buf, n, &err) == 0, "%s: %s", what, err.text);
		for (uint64_t i = 0; i < n; i += 512)
			if (buf[i] != expected(off))
				ck_abort_msg("%s: guest offset %llu: %u", what, (unsigned long long)(off + i), buf[i]);
	}
	must_close(disk);
}

static void nothing_left(const struct mended *m, const char *what)
{
	struct made_check c;

	make_check(m->overlay, &c);
	ck_assert_msg(!c.n.corruptions && !c.n.added && !c.n.check_errors, "%s: left: %s%s", what, c.texts, m->texts);
}

/* ---- what the structure answers -------------------------------------------------------------- */

enum how {
	HEAD_ZERO, HEAD_JUNK, TAIL_ZERO, TAIL_CUT, TAIL_JUNK, BOTH_SUMS, BOTH_COOKIES, BOTH_ZERO, BOTH_HALF, ONE_BYTE,
	JUNK_BEHIND, HDR_SUM, HDR_COOKIE, HDR_TABLE, HDR_ENTRIES, HDR_BLOCK, HDR_ZERO, HDR_JUNK, ALL_HEADS, SIZE_LARGE,
	ENTRY_FLIP, ENTRY_BEYOND, ENTRY_ZERO, ENTRY_SHIFTED, ALL_SHIFTED, BITMAP_ZERO, BITMAP_HALF, BITMAPS_JUNK,
	BEHIND_A_CUT, SIZE_ABSURD,
};

static const struct {
	enum how how;
	const char *ids;
} cases[] = {
	{ HEAD_ZERO, "V-FTR-1 " }, { HEAD_JUNK, "V-FTR-1 " }, { TAIL_ZERO, "V-FTR-2 " }, { TAIL_CUT, "V-FTR-2 " },
	{ TAIL_JUNK, "V-FTR-2 " }, { BOTH_SUMS, "V-FTR-4 V-FTR-2 " }, { BOTH_COOKIES, "V-FTR-4 V-FTR-2 " },
	{ BOTH_ZERO, "V-FTR-3 V-FTR-2 " }, { BOTH_HALF, "V-TRUNC-1 V-FTR-2 " }, { ONE_BYTE, "V-TRUNC-2 " },
	{ JUNK_BEHIND, "V-FTR-2 " }, { HDR_SUM, "V-HDR-2 " }, { HDR_COOKIE, "V-HDR-3 " }, { HDR_TABLE, "V-HDR-3 " },
	{ HDR_ENTRIES, "V-HDR-3 " }, { HDR_BLOCK, "V-HDR-3 " }, { HDR_ZERO, "V-HDR-1 " }, { HDR_JUNK, "V-HDR-1 " },
	{ ALL_HEADS, "V-HDR-1 V-FTR-1 " }, { SIZE_LARGE, "V-FTR-5 " }, { ENTRY_FLIP, "V-BAT-7 " },
	{ ENTRY_BEYOND, "V-BAT-4 " }, { ENTRY_ZERO, "V-BAT-4 " }, { ENTRY_SHIFTED, "V-BAT-4 " },
	{ ALL_SHIFTED, "V-BAT-7 " }, { BITMAP_ZERO, "V-BMP-1 " }, { BITMAP_HALF, "V-BMP-1 " },
	{ BITMAPS_JUNK, "V-BMP-1 " }, { BEHIND_A_CUT, "V-BAT-6 V-FTR-2 " },
	{ SIZE_ABSURD, "V-FTR-5 V-DIFFER " },
};

static void damage(struct plt_store *st, enum how how, const uint64_t at[USED])
{
	struct vhd_footer f = get_footer(st, false);
	struct vhd_header h = get_header(st);
	uint64_t end = size_of(st);

	switch (how) {
	case HEAD_ZERO: put_fill(st, 0, 0, 512); break;
	case HEAD_JUNK: put_fill(st, 0, 0x5a, 512); break;
	case TAIL_ZERO: put_fill(st, end - 512, 0, 512); break;
	case TAIL_CUT: cut_to(st, end - 512); break;
	case TAIL_JUNK: put_fill(st, end - 512, 0x5a, 512); break;
	case BOTH_SUMS: f.checksum = plt_be32_make(7); put_footer(st, false, f, false); put_footer(st, true, f, false); break;
	case BOTH_COOKIES: f.cookie[2] = 'N'; put_footer(st, false, f, false); put_footer(st, true, f, false); break;
	case BOTH_ZERO: put_fill(st, 0, 0, 512); put_fill(st, end - 512, 0, 512); break;
	case BOTH_HALF: put_fill(st, 0, 0, 512); cut_to(st, end - 200); break;
	case ONE_BYTE: make_creator(st, "win ", 0); cut_to(st, end - 1); break;
	case JUNK_BEHIND: put_fill(st, end, 0x5a, 3000); break;
	case HDR_SUM: h.checksum = plt_be32_make(7); put_header(st, h, false); break;
	case HDR_COOKIE: h.cookie[0] = 'C'; put_header(st, h, false); break;
	case HDR_TABLE: h.table_offset = plt_be64_make(UINT64_C(1) << 40); put_header(st, h, false); break;
	case HDR_ENTRIES: h.entries = plt_be32_make(3); put_header(st, h, false); break;
	case HDR_BLOCK: h.block_size = plt_be32_make(BS * 2); put_header(st, h, false); break;
	case HDR_ZERO: put_fill(st, HEADER_AT, 0, 1024); break;
	case HDR_JUNK: put_fill(st, HEADER_AT, 0x5a, 1024); break;
	case ALL_HEADS: put_fill(st, 0, 0, 1536); break;
	case SIZE_LARGE:
		f.current_size = plt_be64_make(9 * SIZE + 8 * 512);
		put_footer(st, false, f, true);
		break;
	case ENTRY_FLIP: put_entry(st, block_of(7), (uint32_t)(at[7] / 512) ^ 1 << 29); break;
	case ENTRY_BEYOND: put_entry(st, block_of(7), 0x7ffffff); break;
	case ENTRY_ZERO: put_entry(st, block_of(7), 0); break;
	case ENTRY_SHIFTED: put_entry(st, block_of(7), (uint32_t)(at[7] / 512) + 11); break;
	case ALL_SHIFTED:
		for (unsigned i = 0; i < USED; i++)
			put_entry(st, block_of(i), (uint32_t)(at[i] / 512) + 1);
		break;
	case BITMAP_ZERO: put_fill(st, at[7], 0, 512); break;
	case BITMAP_HALF: put_fill(st, at[0] + 3, 0, 5); break;
	case BITMAPS_JUNK: put_fill(st, at[8], 0x5a, 512); put_fill(st, at[20], 0, 512); break;
	case BEHIND_A_CUT: cut_to(st, at[30] + 5000); break;
	case SIZE_ABSURD:
		f.current_size = plt_be64_make(UINT64_C(1) << 50);
		put_footer(st, false, f, true);
		put_footer(st, true, f, true);
		break;
	}
}

START_TEST(damage_is_mended)
{
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(cases); i++) {
		uint64_t at[USED];
		struct plt_store *st = sound(VHD_DYNAMIC, at);
		struct mended m;
		uint8_t *before;
		const void *now;
		char what[32];
		size_t len;

		snprintf(what, sizeof(what), "case %u", i);
		ck_assert_uint_eq(cases[i].how, i);
		damage(st, cases[i].how, at);
		now = plt_memory_data(st, &len);
		before = malloc(len);
		memcpy(before, now, len);
		ck_assert_msg(run(st, &m) == 0, "case %u", i);
		ck_assert_msg(!strcmp(m.ids, cases[i].ids), "case %u: '%s', not '%s': %s", i, m.ids, cases[i].ids, m.texts);
		nothing_left(&m, what);
		if (cases[i].how != BOTH_ZERO && cases[i].how != SIZE_ABSURD) /* (which do not know the size to the sector) */
			same_disk(&m, what);
		ck_assert_msg((plt_doubts_find(&m.doubts, PLT_DISK_ACTIVE, 0) != NULL) ==
			      (cases[i].how >= ENTRY_FLIP && cases[i].how < SIZE_ABSURD),
			      "case %u: doubts", i);
		ck_assert_mem_eq(plt_memory_data(st, &len), before, len); /* it is a plan */
		free(before);
		done(&m);
		plt_store_unref(st);
	}
}
END_TEST

/* A file cut within a block and its footer: what was cut off is lost, to the byte. */
START_TEST(what_is_cut_off_is_lost)
{
	uint64_t at[USED], off;
	struct plt_store *st = sound(VHD_DYNAMIC, at);
	const struct plt_doubt *d;
	struct mended m;

	cut_to(st, at[USED - 1] + 512 + 10000);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_uint_eq(m.doubts.n, 1);
	d = plt_doubts_find(&m.doubts, PLT_DISK_ACTIVE, 0);
	off = (uint64_t)block_of(USED - 1) * BS + 10000;
	ck_assert_int_eq(d->kind, PLT_LOST);
	ck_assert_uint_eq(d->off, off);
	ck_assert_uint_eq(d->len, BS - 10000);
	nothing_left(&m, "cut");
	same_disk(&m, "cut");
	ck_assert_uint_eq(size_of(m.overlay), at[USED - 1] + 512 + BS + 512);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* Pieces and gaps of a lost table: every block, and every place. */
START_TEST(lost_tables)
{
	for (unsigned k = 0; k < 4; k++) {
		uint64_t at[USED];
		struct plt_store *st = sound(VHD_DYNAMIC, at);
		struct mended m;

		if (k == 3) /* one bitmap is gone, too */
			put_fill(st, at[9], 0, 512);
		put_fill(st, TABLE_AT, k == 0 ? 0 : k == 1 ? 0xff : 0x33, 4 * BLOCKS);
		ck_assert_int_eq(run(st, &m), 0);
		ck_assert_msg(m.unplaced == USED, "%u: %zu pieces: %s", k, m.unplaced, m.texts);
		ck_assert_uint_eq(m.gaps, BLOCKS);
		ck_assert_str_eq(m.ids, "");
		done(&m);
		plt_store_unref(st);
	}
}
END_TEST

/* Two blocks in one place: nothing but the guest can tell whose it is. */
START_TEST(shared_blocks)
{
	uint64_t at[USED];
	struct plt_store *st = sound(VHD_DYNAMIC, at);
	struct mended m;

	put_entry(st, block_of(7), (uint32_t)(at[12] / 512));
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "");
	ck_assert_uint_eq(m.unplaced, 2);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* The bits of a differencing disk decide whose sector it is: lost, they are what is not zero. */
START_TEST(bits_of_a_child)
{
	uint64_t at[USED];
	struct plt_store *st = sound(VHD_DIFFERENCING, at);
	struct made_check c;
	struct mended m;

	put_fill(st, at[7], 0, 512);
	make_check(st, &c);
	ck_assert_msg(strstr(c.ids, "V-BMP-2:corruption") != NULL, "%s", c.texts);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "V-BMP-2 ");
	ck_assert_uint_eq(m.doubts.n, 1);
	ck_assert_int_eq(m.doubts.v[0].kind, PLT_INFERRED);
	ck_assert_uint_eq(m.doubts.v[0].off, (uint64_t)block_of(7) * BS);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* Half of a child's header is gone, with the id of the parent, and not the locators: that is no raw image's id. */
START_TEST(half_a_header_of_a_child)
{
	uint64_t at[USED];
	struct plt_store *st = sound(VHD_DIFFERENCING, at);
	struct vhd_header h = get_header(st);
	struct mended m;

	memcpy(h.locator[0].code, "W2ku", 4);
	h.locator[0].offset = plt_be64_make(HEADER_AT); /* (whatever lies there) */
	h.locator[0].length = plt_be32_make(4);
	put_header(st, h, true);
	put_fill(st, HEADER_AT, 0, 512);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "V-HDR-1 ");
	h = get_header(m.overlay);
	ck_assert_mem_eq(h.locator[0].code, "W2ku", 4);
	ck_assert_uint_eq(h.parent_id[0], 0xff);
	ck_assert_uint_eq(h.parent_id[15], 0xff);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* The footer of a fixed disk says that it is empty, or larger than any: it ends where its footer stands. */
START_TEST(absurd_sizes_of_a_fixed_disk)
{
	static const uint64_t sizes[] = { 0, UINT64_C(1) << 50 };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(sizes); i++) {
		struct plt_store *st = make_fixed(SIZE);
		struct vhd_footer f = get_footer(st, true);
		struct plt_disk *disk;
		struct mended m;

		f.current_size = plt_be64_make(sizes[i]);
		put_footer(st, true, f, true);
		ck_assert_int_eq(run(st, &m), 0);
		ck_assert_str_eq(m.ids, "V-FTR-5 ");
		disk = must_open(m.overlay, 0);
		ck_assert_uint_eq(plt_disk_size(disk), SIZE);
		must_close(disk);
		nothing_left(&m, "a fixed disk");
		done(&m);
		plt_store_unref(st);
	}
}
END_TEST

/* A child's entries behind the end of a file that was cut stay bad, and do not come to life with the new footer. */
START_TEST(bad_entries_stay_bad)
{
	uint64_t at[USED];
	struct plt_store *st = sound(VHD_DIFFERENCING, at);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct mended m;
	uint8_t b[512];

	cut_to(st, at[30] + 5000);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "V-FTR-2 ");
	disk = must_open(m.overlay, 0);
	for (unsigned i = 31; i < USED; i++) {
		uint64_t off = (uint64_t)block_of(i) * BS;
		const struct plt_doubt *d = plt_doubts_find(&m.doubts, PLT_DISK_ACTIVE, off);

		ck_assert_int_eq(plt_read(disk, off, b, sizeof(b), &err), -EIO);
		ck_assert(d && d->off <= off && d->kind == PLT_LOST);
	}
	must_close(disk);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* Something lies between blocks, and the next one is found from the one behind it. */
START_TEST(blocks_off_the_grid)
{
	uint64_t at[USED], end;
	struct plt_store *st = sound(VHD_DYNAMIC, at);
	struct vhd_footer f = get_footer(st, true);
	struct mended m;

	end = size_of(st) - 512;
	put_fill(st, end, 0x5a, 1536);
	put_bytes(st, end + 1536, &f, sizeof(f));
	(void)make_block(st, 0, 0x77, 0xff);
	(void)make_block(st, 1, 0x78, 0xff);
	put_entry(st, 0, 0x7ffffff);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_msg(!strcmp(m.ids, "V-BAT-4 "), "%s: %s", m.ids, m.texts);
	ck_assert_uint_eq(get_entry(m.overlay, 0), (end + 1536) / 512);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* ---- fixed disks ----------------------------------------------------------------------------- */

#define FIXED (UINT64_C(3) << 20)

static void fixed_is(struct mended *m, uint64_t size, uint64_t known, const char *what)
{
	struct plt_disk *disk = must_open(m->overlay, 0);
	static uint8_t buf[FIXED + 1];

	ck_assert_msg(plt_disk_size(disk) == size, "%s: %llu", what, (unsigned long long)plt_disk_size(disk));
	ck_assert_int_eq(plt_read(disk, 0, buf, size, NULL), 0);
	for (uint64_t i = 512; i < known; i++) /* (an assertion each would take minutes) */
		if (buf[i] != 1 + i % 251)
			ck_abort_msg("%s: offset %llu", what, (unsigned long long)i);
	must_close(disk);
	nothing_left(m, what);
}

START_TEST(fixed_disks)
{
	static const struct { unsigned cut, junk; const char *ids; bool boot; } v[] = {
		{ 0, 0, "", false }, { 200, 0, "V-TRUNC-1 ", false }, { 512, 0, "V-FTR-3 ", true },
		{ 0, 3000, "V-TRUNC-3 ", false }, { 1, 0, "V-TRUNC-2 ", false },
	};
	struct vhd_footer f;
	struct plt_store *st;
	struct mended m;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		char what[32];

		snprintf(what, sizeof(what), "fixed %u", i);
		st = make_fixed(FIXED);
		if (v[i].boot)
			put_bytes(st, 510, "\x55\xaa", 2);
		cut_to(st, size_of(st) - v[i].cut);
		put_fill(st, size_of(st), 0x5a, v[i].junk);
		ck_assert_int_eq(run(st, &m), 0);
		ck_assert_msg(!strcmp(m.ids, v[i].ids), "%s: '%s': %s", what, m.ids, m.texts);
		fixed_is(&m, FIXED, FIXED, what);
		ck_assert_uint_eq(m.doubts.n, 0);
		done(&m);
		plt_store_unref(st);
	}
	/* a checksum, and a field that is always the same */
	for (unsigned i = 0; i < 2; i++) {
		st = make_fixed(FIXED);
		f = get_footer(st, true);
		if (i)
			f.checksum = plt_be32_make(9);
		else
			f.cookie[0] = 'C';
		put_footer(st, true, f, false);
		ck_assert_int_eq(run(st, &m), 0);
		ck_assert_str_eq(m.ids, "V-FTR-4 ");
		fixed_is(&m, FIXED, FIXED, "field");
		done(&m);
		plt_store_unref(st);
	}
	/* the footer knows of more than there is */
	st = make_fixed(FIXED / 2);
	f = get_footer(st, true);
	f.current_size = plt_be64_make(FIXED);
	put_footer(st, true, f, true);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "V-TRUNC-4 ");
	fixed_is(&m, FIXED, FIXED / 2, "short");
	ck_assert_uint_eq(m.doubts.n, 1);
	ck_assert_uint_eq(m.doubts.v[0].off, FIXED / 2);
	ck_assert_uint_eq(m.doubts.v[0].len, FIXED / 2);
	done(&m);
	plt_store_unref(st);
	/* what does not look like a disk does not become one */
	st = make_fixed(FIXED);
	cut_to(st, FIXED);
	ck_assert_int_eq(run(st, &m), 0);
	ck_assert_str_eq(m.ids, "");
	ck_assert_msg(strstr(m.texts, "V-FTR-3") != NULL, "%s", m.texts);
	done(&m);
	plt_store_unref(st);
}
END_TEST

/* ---- what is sound --------------------------------------------------------------------------- */

START_TEST(sound_images_are_left_alone)
{
	static const enum vhd_type types[] = { VHD_DYNAMIC, VHD_DIFFERENCING };

	for (unsigned i = 0; i < 6; i++) {
		uint64_t at[USED];
		struct plt_store *st = sound(types[i % 2], at);
		struct mended m;

		if (i / 2 == 1) { /* a block that was given back, and not punched */
			put_entry(st, block_of(5), UINT32_MAX);
		} else if (i / 2 == 2) { /* sectors that nobody wrote */
			put_fill(st, at[3] + 9, 0, 3);
			put_fill(st, at[3] + 512 + 9 * 8 * 512, 0, 3 * 8 * 512);
		}
		ck_assert_int_eq(run(st, &m), 0);
		ck_assert_msg(!m.ids[0], "%u: %s", i, m.texts);
		/* (a block that was given back looks as one does whose entry was lost) */
		ck_assert_uint_eq(m.doubts.n != 0, i / 2 == 1);
		for (size_t k = 0; k < m.doubts.n; k++)
			ck_assert(m.doubts.v[k].kind == PLT_INFERRED && m.doubts.v[k].certainty == PLT_GUESS);
		done(&m);
		plt_store_unref(st);
	}
}
END_TEST

/* Any bytes end in an answer, and what then opens is no worse than before. */
START_TEST(any_bytes)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned i = 0; i < 150; i++) {
		uint64_t at[USED];
		struct plt_store *st = i % 5 ? sound(i % 3 ? VHD_DYNAMIC : VHD_DIFFERENCING, at) : make_fixed(FIXED);
		struct mended m;

		for (unsigned k = 0; k < 1 + i % 4; k++) {
			uint64_t where, len, size = size_of(st);

			seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
			where = (seed >> 33) % 8;
			where = where < 4 ? (seed >> 20) % 3000 : where < 6 ? size - 600 + (seed >> 20) % 600 : (seed >> 20) % size;
			len = 1 + (seed >> 44) % (where < 3000 ? 64 : 2000);
			if ((seed >> 13) % 9 == 0)
				cut_to(st, where);
			else
				put_fill(st, where, (uint8_t)(seed >> 55), PLT_MIN(len, size - where));
			if (size_of(st) < 700)
				break;
		}
		(void)run(st, &m);
		done(&m);
		plt_store_unref(st);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-mend");
	TCase *t = tcase_create("vhd-mend");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, damage_is_mended);
	tcase_add_test(t, what_is_cut_off_is_lost);
	tcase_add_test(t, lost_tables);
	tcase_add_test(t, shared_blocks);
	tcase_add_test(t, bits_of_a_child);
	tcase_add_test(t, half_a_header_of_a_child);
	tcase_add_test(t, absurd_sizes_of_a_fixed_disk);
	tcase_add_test(t, bad_entries_stay_bad);
	tcase_add_test(t, blocks_off_the_grid);
	tcase_add_test(t, fixed_disks);
	tcase_add_test(t, sound_images_are_left_alone);
	tcase_add_test(t, any_bytes);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
