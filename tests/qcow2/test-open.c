/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * qcow2/open.c, recover.c, snaptable.c, bitmaps.c: what opening refuses and what it repairs, what the
 * first write marks, what closing takes back.
 */
#include <stdio.h>

#include "tests/qcow2/make.h"

struct opened {
	struct plt_ctx *ctx;
	struct plt_image img;
};

static int try_open(struct opened *o, struct plt_store *st, bool writable, const struct plt_open_how *how,
		    struct plt_error *err)
{
	struct plt_open_how plain = { .writable = writable };
	int r;

	memset(o, 0, sizeof(*o));
	ck_assert_int_eq(plt_ctx_new(NULL, &o->ctx, NULL), 0);
	pthread_mutex_init(&o->img.lock, NULL);
	o->img.ctx = o->ctx;
	o->img.drv = &qcow2_driver;
	o->img.file = st;
	o->img.name = (char *)"test";
	o->img.writable = writable;
	r = qcow2_open(&o->img, how ? how : &plain, err);
	if (r < 0)
		plt_ctx_free(o->ctx);
	return r;
}

static void shut(struct opened *o)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(qcow2_close(&o->img, &err) == 0, "%s", err.text);
	free(o->img.backing_name);
	free(o->img.backing_format);
	plt_ctx_free(o->ctx);
}

static struct plt_store *sound(uint64_t *l2, uint64_t data[3])
{
	struct plt_store *st = make_image("lazy_refcounts=on", 64 << 20);

	for (unsigned i = 0; i < 3; i++)
		data[i] = map_cluster(st, i);
	*l2 = get64(st, L1) & QCOW2_L1_OFFSET;
	return st;
}

static void ck_clean(struct plt_store *st)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct found f;

	ck_assert_msg(examine(st, &f, &err) == 0, "%s", err.text);
	ck_assert_msg(f.n == 0, "%s", f.texts[0]);
}

static void ck_same(struct plt_store *st, const uint8_t *before, size_t len)
{
	size_t now;
	const void *p = plt_memory_data(st, &now);

	ck_assert_uint_eq(now, len);
	ck_assert_int_eq(memcmp(p, before, len), 0);
}

static uint8_t *copy_of(struct plt_store *st, size_t *len)
{
	const void *p = plt_memory_data(st, len);
	uint8_t *c = malloc(*len);

	ck_assert_ptr_nonnull(c);
	return memcpy(c, p, *len);
}

/* ---- the dirty bit --------------------------------------------------------------------------- */

START_TEST(recount_raises)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t l2, data[3];
	struct plt_store *st = sound(&l2, data);
	struct opened o;

	switch (_i) {
	case 0: break;
	case 1: for (unsigned i = 0; i < 3; i++) put16(st, REFBLOCK + data[i] / CL * 2, 0); break;
	case 2: put16(st, REFBLOCK + l2 / CL * 2, 0); break;
	case 3: put64(st, REFTABLE, 0); break; /* its block is gone: a new one is needed */
	}
	put64(st, 72, QCOW2_INCOMPAT_DIRTY);
	ck_assert_msg(try_open(&o, st, true, NULL, &err) == 0, "%s", err.text);
	shut(&o);
	ck_assert_uint_eq(get64(st, 72), 0);
	if (_i == 3) { /* the old block is in nobody's count now; nothing else is wrong */
		struct found f;

		ck_assert_int_eq(examine(st, &f, &err), 0);
		ck_assert_uint_eq(f.corruptions, 0);
		ck_assert_uint_eq(get64(st, REFTABLE), 8 * CL);
	} else {
		ck_clean(st);
	}
	plt_store_unref(st);
}
END_TEST

/* Counts that are too high stay: whoever lowers them decides about data. */
START_TEST(recount_never_lowers)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t l2, data[3];
	struct plt_store *st = sound(&l2, data);
	struct opened o;
	struct found f;

	put64(st, l2, 0);
	put16(st, REFBLOCK + data[1] / CL * 2, 0);
	put64(st, 72, QCOW2_INCOMPAT_DIRTY);
	ck_assert_msg(try_open(&o, st, true, NULL, &err) == 0, "%s", err.text);
	shut(&o);
	ck_assert_int_eq(examine(st, &f, &err), 0);
	ck_assert_uint_eq(f.leaks, 1);
	ck_assert_uint_eq(f.corruptions, 0);
	plt_store_unref(st);
}
END_TEST

static const struct {
	const char *what, *text;
} refusals[] = {
	{ "shared under COPIED", "marked as unshared is shared" },
	{ "into the L1", "points into metadata" },
	{ "behind the end", "points behind the end of the file" },
	{ "unaligned", "L2 entry is damaged" },
	{ "reserved L1 bits", "L1 entry is damaged" },
	{ "refcount table entry", "refcount table entry is damaged" },
	{ "L2 on the refcount block", "L2 table overlaps other metadata" },
};

START_TEST(recount_refuses)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t l2, data[3];
	struct plt_store *st = sound(&l2, data);
	struct opened o;
	uint8_t *before;
	size_t len;

	switch (_i) {
	case 0: put64(st, l2 + 8, data[0] | QCOW2_COPIED); break;
	case 1: put64(st, l2, L1 | QCOW2_COPIED); break;
	case 2: put64(st, l2, (UINT64_C(1) << 40) | QCOW2_COPIED); break;
	case 3: put64(st, l2, (data[0] + 512) | QCOW2_COPIED); break;
	case 4: put64(st, L1, l2 | 2 | QCOW2_COPIED); break;
	case 5: put64(st, REFTABLE + 8, 77); break;
	case 6: put64(st, L1, REFBLOCK | QCOW2_COPIED); break;
	}
	put64(st, 72, QCOW2_INCOMPAT_DIRTY);
	before = copy_of(st, &len);
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, refusals[_i].text), "%s: %s", refusals[_i].what, err.text);
	ck_same(st, before, len);
	ck_assert_int_eq(try_open(&o, st, false, NULL, &err), 0); /* reading goes on */
	shut(&o);
	ck_same(st, before, len);
	free(before);
	plt_store_unref(st);
}
END_TEST

START_TEST(lazy_marks)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("lazy_refcounts=on", 64 << 20);
	struct opened o;

	put64(st, 88, UINT64_C(1) << 40); /* an unknown autoclear feature */
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert_uint_eq(get64(st, 72), 0);
	ck_assert_int_eq(qcow2_first_write(&o.img, &err), 0);
	ck_assert_uint_eq(get64(st, 72), QCOW2_INCOMPAT_DIRTY);
	ck_assert_uint_eq(get64(st, 88), 0);
	o.img.rules_off = UINT64_C(1) << QCOW2_RULE_DIRTY_CLEAR; /* there is no cache to flush here */
	shut(&o);
	ck_assert_uint_eq(get64(st, 72), 0);
	plt_store_unref(st);
}
END_TEST

/* ---- refusing -------------------------------------------------------------------------------- */

START_TEST(corrupt_bit)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("", 64 << 20);
	struct opened o;

	put64(st, 72, QCOW2_INCOMPAT_CORRUPT);
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), -EACCES);
	ck_assert_str_eq(err.text, "qcow2: Image is corrupt; cannot be opened read/write");
	ck_assert_int_eq(try_open(&o, st, false, NULL, &err), 0);
	shut(&o);
	plt_store_unref(st);
}
END_TEST

START_TEST(tables_behind_the_end)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_open_how inspect = { .no_refs = true };
	struct plt_store *st = make_image("", 64 << 20);
	struct opened o;

	put64(st, _i ? 48 : 40, UINT64_C(1) << 40);
	ck_assert_int_eq(try_open(&o, st, false, NULL, &err), -EUCLEAN);
	ck_assert(strstr(err.text, "lies beyond the end of the file"));
	ck_assert_int_eq(try_open(&o, st, false, &inspect, &err), 0);
	shut(&o);
	plt_store_unref(st);
}
END_TEST

START_TEST(encrypted_is_inspected_only)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_open_how inspect = { .no_refs = true };
	struct plt_store *st = make_image("", 64 << 20);
	struct opened o;

	put32(st, 32, QCOW2_CRYPT_AES);
	ck_assert_int_eq(try_open(&o, st, false, NULL, &err), -EINVAL);
	ck_assert(strstr(err.text, "'encrypt.key-secret' is required"));
	ck_assert_int_eq(try_open(&o, st, false, &inspect, &err), 0);
	ck_assert_int_eq(qcow2_driver.map(&o.img, NULL, 0, 512, NULL, NULL, &err), -ENOTSUP);
	ck_assert_int_eq(qcow2_driver.place(&o.img, NULL, NULL, NULL, NULL, &err), -ENOTSUP);
	shut(&o);
	plt_store_unref(st);
}
END_TEST

START_TEST(backing_is_replaced)
{
	static const char *const names[][2] = {
		{ "a", "raw" }, { "a longer name of a base image.qcow2", "qcow2" }, { "b", NULL }, { NULL, NULL },
	};
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("backing_file=first,backing_fmt=raw", 64 << 20);
	struct opened o;

	for (unsigned i = 0; i < 4; i++) {
		ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
		ck_assert_msg(qcow2_set_backing(&o.img, names[i][0], names[i][1], 0, &err) == 0, "%s", err.text);
		shut(&o);
		ck_assert_int_eq(try_open(&o, st, false, NULL, &err), 0);
		if (names[i][0])
			ck_assert_str_eq(o.img.backing_name, names[i][0]);
		else
			ck_assert_ptr_null(o.img.backing_name);
		if (names[i][1])
			ck_assert_str_eq(o.img.backing_format, names[i][1]);
		else
			ck_assert_ptr_null(o.img.backing_format);
		shut(&o);
	}
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert_int_eq(qcow2_set_backing(&o.img, "x", "a format with a long name", 0, &err), -EINVAL);
	ck_assert_ptr_null(o.img.backing_name);
	shut(&o);
	ck_clean(st);
	plt_store_unref(st);
}
END_TEST

/* ---- snapshots ------------------------------------------------------------------------------- */

/* Two entries in a cluster at the end: one as version 2 wrote them, one with everything. */
static struct plt_store *with_snapshots(void)
{
	struct plt_store *st = make_image("", 64 << 20);
	uint8_t t[256] = { 0 };

	plt_put_be64(t, L1);
	plt_put_be32(t + 8, 1);
	plt_put_be16(t + 12, 1);
	plt_put_be16(t + 14, 3);
	memcpy(t + 40, "1old", 4);
	plt_put_be64(t + 48, L1);
	plt_put_be32(t + 56, 1);
	plt_put_be16(t + 60, 2);
	plt_put_be16(t + 62, 4);
	plt_put_be32(t + 64, 12345);
	plt_put_be32(t + 84, 24);
	plt_put_be64(t + 88, 0);
	plt_put_be64(t + 96, 32 << 20);
	plt_put_be64(t + 104, 99);
	memcpy(t + 112, "17name", 6);
	ck_assert_int_eq(plt_store_write(st, 4 * CL, t, sizeof(t), PLT_IO_OTHER, NULL), 0);
	put32(st, 60, 2);
	put64(st, 64, 4 * CL);
	return st;
}

START_TEST(snapshot_list)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_open_how how = { .snapshot = "name" };
	struct plt_store *st = with_snapshots();
	const struct plt_snapshot_info *s;
	struct opened o;
	unsigned n;

	ck_assert_msg(try_open(&o, st, false, NULL, &err) == 0, "%s", err.text);
	ck_assert_int_eq(qcow2_snapshots_list(&o.img, &s, &n), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(s[0].id, "1");
	ck_assert_str_eq(s[0].name, "old");
	ck_assert_uint_eq(s[0].disk_size, 64 << 20);
	ck_assert_int_eq(s[0].icount, -1);
	ck_assert_str_eq(s[1].id, "17");
	ck_assert_uint_eq(s[1].disk_size, 32 << 20);
	ck_assert_int_eq(s[1].icount, 99);
	ck_assert_uint_eq(s[1].date_sec, 12345);
	shut(&o);
	ck_assert_int_eq(try_open(&o, st, false, &how, &err), 0);
	/* as qemu-img: up to the end of the disk as it is now */
	ck_assert_uint_eq(atomic_load(&o.img.size), 64 << 20);
	ck_assert(qcow2_of(&o.img)->view_snapshot);
	shut(&o);
	how.snapshot = "nobody";
	ck_assert_int_eq(try_open(&o, st, false, &how, &err), -ENOENT);
	how = (struct plt_open_how){ .snapshot_id = "17", .snapshot_name = "old" };
	ck_assert_int_eq(try_open(&o, st, false, &how, &err), -ENOENT);
	plt_store_unref(st);
}
END_TEST

static const struct {
	uint64_t off;
	unsigned width;
	uint64_t value;
	int errnum;
	const char *text;
} bad_snapshots[] = {
	{ 64, 8, 4 * CL + 512, EINVAL, "Snapshot table offset invalid" },
	{ 64, 8, UINT64_C(1) << 40, EUCLEAN, "Snapshot table lies beyond the end of the file" },
	{ 60, 4, 1000, EUCLEAN, "Snapshot table lies beyond the end of the file" },
	{ 4 * CL + 36, 4, 1025, EFBIG, "Too much extra metadata in snapshot table entry 0" },
	{ 4 * CL + 84, 4, 0xffffffff, EFBIG, "Too much extra metadata in snapshot table entry 1" },
	{ 4 * CL + 14, 2, 0xffff, EUCLEAN, "Snapshot table lies beyond the end of the file" },
};

START_TEST(bad_snapshot_table)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = with_snapshots();
	struct opened o;

	if (bad_snapshots[_i].width == 8)
		put64(st, bad_snapshots[_i].off, bad_snapshots[_i].value);
	else if (bad_snapshots[_i].width == 4)
		put32(st, bad_snapshots[_i].off, (uint32_t)bad_snapshots[_i].value);
	else
		put16(st, bad_snapshots[_i].off, (uint16_t)bad_snapshots[_i].value);
	ck_assert_int_eq(try_open(&o, st, false, NULL, &err), -bad_snapshots[_i].errnum);
	ck_assert_msg(strstr(err.text, bad_snapshots[_i].text), "%s", err.text);
	plt_store_unref(st);
}
END_TEST

/* ---- bitmaps --------------------------------------------------------------------------------- */

enum { DIR = 4 * CL, TABLE = 5 * CL, BITS = 6 * CL };

/* One bitmap of 64 KiB granules with its first granule set, flagged @flags. */
static struct plt_store *with_bitmap(uint32_t flags)
{
	struct plt_store *st = make_image("cluster_size=64k", 64 << 20);
	uint8_t d[32] = { 0 }, one = 1;
	uint64_t ext = 112;

	while (get64(st, ext)) /* behind what is there */
		ext += 8 + ((get64(st, ext) & 0xffffffff) + 7) / 8 * 8;
	put32(st, ext, QCOW2_EXT_BITMAPS);
	put32(st, ext + 4, 24);
	put32(st, ext + 8, 1);
	put64(st, ext + 16, 32);
	put64(st, ext + 24, DIR);
	put64(st, 88, QCOW2_AUTOCLEAR_BITMAPS);
	plt_put_be64(d, TABLE);
	plt_put_be32(d + 8, 1);
	plt_put_be32(d + 12, flags);
	d[16] = 1;
	d[17] = 16;
	plt_put_be16(d + 18, 4);
	memcpy(d + 24, "bits", 4);
	ck_assert_int_eq(plt_store_write(st, DIR, d, sizeof(d), PLT_IO_OTHER, NULL), 0);
	put64(st, TABLE, BITS);
	ck_assert_int_eq(plt_store_write(st, BITS, &one, 1, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_store_truncate(st, BITS + CL, NULL), 0);
	for (unsigned i = 4; i < 7; i++)
		put16(st, REFBLOCK + i * 2, 1);
	return st;
}

START_TEST(bitmap_is_marked)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = with_bitmap(QCOW2_BITMAP_AUTO);
	struct opened o;

	ck_clean(st);
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert(qcow2_of(&o.img)->bitmaps_recording);
	ck_assert_uint_eq(qcow2_of(&o.img)->bitmaps[0].words[0], 1);
	ck_assert_int_eq(qcow2_first_write(&o.img, &err), 0);
	ck_assert_uint_eq(get64(st, DIR + 8) & 0xffffffff, QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE);
	ck_assert_uint_eq(get64(st, 88), QCOW2_AUTOCLEAR_BITMAPS);
	qcow2_bitmaps_record(&o.img, 3 * CL + 5, CL); /* granules 3 and 4 */
	qcow2_bitmaps_record(&o.img, 63 * CL, 2 * CL); /* across a word */
	qcow2_bitmaps_record(&o.img, (64 << 20) - 1, 1);
	ck_assert_uint_eq(qcow2_of(&o.img)->bitmaps[0].words[0], 1 | 8 | 16 | UINT64_C(1) << 63);
	ck_assert_uint_eq(qcow2_of(&o.img)->bitmaps[0].words[1], 1);
	ck_assert_uint_eq(qcow2_of(&o.img)->bitmaps[0].words[15], UINT64_C(1) << 63);
	/* Not stored here (that takes the engine): what a crash leaves is marked. */
	atomic_store(&qcow2_of(&o.img)->bitmaps[0].changed, false);
	qcow2_of(&o.img)->bitmaps[0].loaded = false;
	shut(&o);
	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert(qcow2_of(&o.img)->bitmaps[0].inconsistent);
	ck_assert(!qcow2_of(&o.img)->bitmaps_recording);
	shut(&o);
	plt_store_unref(st);
}
END_TEST

START_TEST(unchanged_bitmap_is_unmarked)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = with_bitmap(QCOW2_BITMAP_AUTO);
	struct opened o;

	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert_int_eq(qcow2_first_write(&o.img, &err), 0);
	shut(&o);
	ck_assert_uint_eq(get64(st, DIR + 8) & 0xffffffff, QCOW2_BITMAP_AUTO);
	ck_clean(st);
	plt_store_unref(st);
}
END_TEST

START_TEST(disabled_bitmap_is_left_alone)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = with_bitmap(0);
	struct opened o;
	size_t len;
	uint8_t *before = copy_of(st, &len);

	ck_assert_int_eq(try_open(&o, st, true, NULL, &err), 0);
	ck_assert_int_eq(qcow2_first_write(&o.img, &err), 0);
	shut(&o);
	ck_same(st, before, len);
	free(before);
	plt_store_unref(st);
}
END_TEST

/* A directory or a table that cannot be: the disk opens, and nobody can take the bitmap for right. */
START_TEST(damaged_bitmap)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = with_bitmap(QCOW2_BITMAP_AUTO);
	struct opened o;

	switch (_i) {
	case 0: put32(st, DIR + 18, 0xffff0000); break;        /* a name longer than the directory */
	case 1: put64(st, DIR, 12345); break;                  /* unaligned table */
	case 2: put32(st, DIR + 8, 2); break;                  /* table size does not fit the disk */
	case 3: put64(st, TABLE, 77); break;                   /* bad table entry */
	case 4: put64(st, TABLE, UINT64_C(1) << 40); break;    /* behind the end */
	case 5: put64(st, DIR, UINT64_C(1) << 40); break;
	}
	ck_assert_msg(try_open(&o, st, false, NULL, &err) == 0, "%s", err.text);
	shut(&o);
	ck_assert_msg(try_open(&o, st, true, NULL, &err) == 0, "%s", err.text);
	ck_assert(!qcow2_of(&o.img)->bitmaps_recording);
	ck_assert_msg(qcow2_first_write(&o.img, &err) == 0, "%s", err.text);
	shut(&o);
	if (_i < 2)
		ck_assert_uint_eq(get64(st, 88), 0);
	else
		ck_assert_uint_eq(get64(st, DIR + 8) & QCOW2_BITMAP_IN_USE, QCOW2_BITMAP_IN_USE);
	plt_store_unref(st);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2/open");
	TCase *t = tcase_create("open");

	tcase_add_loop_test(t, recount_raises, 0, 4);
	tcase_add_test(t, recount_never_lowers);
	tcase_add_loop_test(t, recount_refuses, 0, (int)(sizeof(refusals) / sizeof(refusals[0])));
	tcase_add_test(t, lazy_marks);
	tcase_add_test(t, corrupt_bit);
	tcase_add_loop_test(t, tables_behind_the_end, 0, 2);
	tcase_add_test(t, encrypted_is_inspected_only);
	tcase_add_test(t, backing_is_replaced);
	tcase_add_test(t, snapshot_list);
	tcase_add_loop_test(t, bad_snapshot_table, 0, (int)(sizeof(bad_snapshots) / sizeof(bad_snapshots[0])));
	tcase_add_test(t, bitmap_is_marked);
	tcase_add_test(t, unchanged_bitmap_is_unmarked);
	tcase_add_test(t, disabled_bitmap_is_left_alone);
	tcase_add_loop_test(t, damaged_bitmap, 0, 6);
	suite_add_tcase(s, t);
	return plt_unit_main(s);
}
