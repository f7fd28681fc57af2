/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The wrappers: ranges, read-only and poisoned stores, the record of syncs, cache modes, zeroing
 * without help from below.
 */
#include <errno.h>
#include <pthread.h>

#include "base/checked.h"
#include "tests/io/stores.h"

START_TEST(test_ranges)
{
	struct plt_store *st = memory("abc", 3, 100);
	struct plt_error err = PLT_ERROR_INIT;
	enum plt_store_kind kind;
	uint64_t len;
	char buf[8];

	ck_assert_int_eq(plt_store_read(st, UINT64_MAX, buf, 8, PLT_IO_DATA, &err), -EFBIG);
	ck_assert_int_eq(err.code, EFBIG);
	ck_assert_int_eq(plt_store_read(st, INT64_MAX - 4, buf, 8, PLT_IO_DATA, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_write(st, UINT64_MAX - 3, buf, 8, PLT_IO_DATA, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_zero(st, INT64_MAX, 1, 0, PLT_IO_DATA, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_discard(st, 1, UINT64_MAX, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_truncate(st, UINT64_MAX, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_extents(st, 1, UINT64_MAX, &kind, &len, NULL), -EFBIG);
	/* Its own bound. */
	ck_assert_int_eq(plt_store_write(st, 99, buf, 2, PLT_IO_DATA, NULL), -ENOSPC);
	ck_assert_int_eq(plt_store_truncate(st, 101, NULL), -ENOSPC);
	/* Beyond the end: zeros, and a hole. */
	expect(st, 1, "bc\0\0\0", 5);
	expect(st, INT64_MAX - 5, "\0\0\0\0\0", 5);
	ck_assert_int_eq(plt_store_extents(st, 3, 10, &kind, &len, NULL), 0);
	ck_assert_int_eq(kind, PLT_STORE_HOLE);
	ck_assert_uint_eq(len, 10);
	ck_assert_int_eq(plt_store_extents(st, 2, 10, &kind, &len, NULL), 0);
	ck_assert_int_eq(kind, PLT_STORE_DATA);
	ck_assert_uint_eq(len, 1);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_readonly)
{
	struct plt_store *st = memory("abc", 3, 0);
	uint64_t n;

	st->readonly = true;
	ck_assert_int_eq(write_at(st, 0, "x"), -EROFS);
	ck_assert_int_eq(plt_store_zero(st, 0, 1, 0, PLT_IO_DATA, NULL), -EROFS);
	ck_assert_int_eq(plt_store_discard(st, 0, 1, NULL), -EROFS);
	ck_assert_int_eq(plt_store_truncate(st, 0, NULL), -EROFS);
	ck_assert_int_eq(plt_store_allocate(st, 0, 1, NULL), -EROFS);
	ck_assert_int_eq(plt_store_copy_from(st, 0, st, 0, 1, &n, NULL), -EROFS);
	expect(st, 0, "abc", 3);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_fixed_size)
{
	struct plt_store *low = memory("abcdef", 6, 0), *st;
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_window_new(low, 1, 3, &st, NULL), 0);
	ck_assert_int_eq(plt_store_write(st, 2, "xy", 2, PLT_IO_DATA, &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.text, "memory"));
	ck_assert_int_eq(plt_store_zero(st, 3, 1, 0, PLT_IO_DATA, NULL), -ENOSPC);
	ck_assert_int_eq(plt_store_truncate(st, 2, NULL), -ENOTSUP);
	expect(st, 0, "bcd\0\0", 5);
	ck_assert_int_eq(write_at(st, 2, "x"), 0);
	expect(low, 0, "abcxef", 6);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

START_TEST(test_window_edges)
{
	struct plt_store *low = memory("abcdef", 6, 0), *st, *inner, *bottom;
	uint64_t off, len, size;

	ck_assert_int_eq(plt_window_new(low, UINT64_MAX, 1, &st, NULL), -EINVAL);
	ck_assert_int_eq(plt_window_new(low, 1, INT64_MAX, &st, NULL), -EINVAL);
	/* Its start may lie beyond the end below: then it is empty until somebody writes. */
	ck_assert_int_eq(plt_window_new(low, 10, UINT64_MAX, &st, NULL), 0);
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	ck_assert_uint_eq(size, 0);
	ck_assert_int_eq(write_at(st, 2, "z"), 0);
	expect(low, 0, "abcdef\0\0\0\0\0\0z", 13);
	ck_assert_int_eq(plt_store_write(st, INT64_MAX - 4, "zz", 2, PLT_IO_DATA, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_truncate(st, INT64_MAX, NULL), -EFBIG);
	ck_assert_int_eq(plt_store_truncate(st, 0, NULL), 0);
	ck_assert_int_eq(plt_store_size(low, &size, NULL), 0);
	ck_assert_uint_eq(size, 10);
	plt_store_unref(st);
	/* A window of a window resolves to the bottom, and not past its own end. */
	ck_assert_int_eq(plt_window_new(low, 1, 5, &st, NULL), 0);
	ck_assert_int_eq(plt_window_new(st, 2, UINT64_MAX, &inner, NULL), 0);
	ck_assert_int_eq(plt_store_resolve(inner, 1, 100, &bottom, &off, &len), 0);
	ck_assert_ptr_eq(bottom, low);
	ck_assert_uint_eq(off, 4);
	ck_assert_uint_eq(len, 2);
	ck_assert_int_eq(plt_store_fd(inner), -1);
	plt_store_unref(inner);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

static int count_edits(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	(void)off;
	(void)bytes;
	(void)len;
	++*(unsigned *)arg;
	return 0;
}

/* Writes that continue each other become one edit; whatever comes in between, what is read is what was written. */
START_TEST(test_overlay_joins)
{
	enum { BELOW = 40, SPACE = 96 };
	uint64_t seed = plt_unit_seed();
	struct plt_store *low, *st;
	unsigned n = 0;

	low = memory("", 0, 0);
	ck_assert_int_eq(plt_overlay_new(low, true, &st), 0);
	for (unsigned i = 0; i < 3 * 8192; i++)
		ck_assert_int_eq(plt_store_write(st, i * UINT64_C(8), "01234567", 8, PLT_IO_L1, NULL), 0);
	plt_overlay_each(st, count_edits, &n);
	ck_assert_uint_eq(n, 3);
	plt_store_unref(st);
	plt_store_unref(low);
	for (unsigned run = 0; run < 50; run++) {
		char model[SPACE] = { 0 }, bytes[SPACE], got[SPACE];
		uint64_t size = BELOW, at = 0;

		memset(model, '.', BELOW);
		low = memory(model, BELOW, 0);
		ck_assert_int_eq(plt_overlay_new(low, true, &st), 0);
		for (unsigned round = 0; round < 200; round++) {
			uint64_t off = plt_unit_random(&seed) % 3 ? at : plt_unit_random(&seed) % SPACE, now;
			uint64_t len = plt_unit_random(&seed) % 8;

			len = PLT_MIN(len, SPACE - off);
			at = off + len;
			if (len && plt_unit_random(&seed) % 8) {
				for (uint64_t b = 0; b < len; b++)
					model[off + b] = bytes[b] = 'a' + plt_unit_random(&seed) % 26;
				ck_assert_int_eq(plt_store_write(st, off, bytes, len, PLT_IO_L1, NULL), 0);
				size = PLT_MAX(size, at);
			} else if (len && plt_unit_random(&seed) % 2) {
				memset(model + off, 0, len);
				ck_assert_int_eq(plt_overlay_edit(st, off, NULL, len), 0);
				size = PLT_MAX(size, at);
			} else if (plt_unit_random(&seed) % 4 == 0) {
				memset(model + off, 0, SPACE - off);
				ck_assert_int_eq(plt_overlay_set_size(st, off), 0);
				size = off;
			}
			ck_assert_int_eq(plt_store_size(st, &now, NULL), 0);
			ck_assert_uint_eq(now, size);
			ck_assert_int_eq(plt_store_read(st, 0, got, size, PLT_IO_L1, NULL), 0);
			ck_assert_mem_eq(got, model, size);
		}
		plt_store_unref(st);
		plt_store_unref(low);
	}
}
END_TEST

START_TEST(test_overlay_edits)
{
	struct plt_store *low = memory("abcdefghij", 10, 0), *st, *bottom;
	uint64_t off, len, size;
	enum plt_store_kind kind;

	ck_assert_int_eq(plt_overlay_new(low, false, &st), 0);
	ck_assert_int_eq(plt_overlay_edit(st, 2, "XYZ", 3), 0);
	ck_assert_int_eq(plt_overlay_edit(st, 6, NULL, 2), 0);
	expect(st, 0, "abXYZf\0\0ij\0", 11);
	/* Inside an edit, across two, around one. */
	ck_assert_int_eq(plt_overlay_edit(st, 3, "-", 1), 0);
	expect(st, 0, "abX-Zf\0\0ij\0", 11);
	ck_assert_int_eq(plt_overlay_edit(st, 4, "123", 3), 0);
	expect(st, 0, "abX-123\0ij\0", 11);
	ck_assert_int_eq(plt_overlay_edit(st, 1, NULL, 8), 0);
	expect(st, 0, "a\0\0\0\0\0\0\0\0j\0", 11);
	/* Around edits reads resolve, inside they do not; zeros are a hole. */
	ck_assert_int_eq(plt_store_resolve(st, 0, 10, &bottom, &off, &len), 0);
	ck_assert_ptr_eq(bottom, low);
	ck_assert_uint_eq(off, 0);
	ck_assert_uint_eq(len, 1);
	ck_assert_int_eq(plt_store_resolve(st, 1, 1, &bottom, &off, &len), -ENOTSUP);
	ck_assert_int_eq(plt_store_extents(st, 1, 9, &kind, &len, NULL), 0);
	ck_assert_int_eq(kind, PLT_STORE_HOLE);
	ck_assert_uint_eq(len, 8);
	/* What a smaller size has cut off does not come back. */
	ck_assert_int_eq(plt_overlay_set_size(st, 5), 0);
	ck_assert_int_eq(plt_overlay_set_size(st, 12), 0);
	expect(st, 0, "a\0\0\0\0\0\0\0\0\0\0\0", 12);
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	ck_assert_uint_eq(size, 12);
	ck_assert_int_eq(plt_store_resolve(st, 9, 1, &bottom, &off, &len), -ENOTSUP);
	/* Read-only: writing is refused, and nothing has reached the store below. */
	ck_assert_int_eq(write_at(st, 0, "x"), -EROFS);
	expect(low, 0, "abcdefghij", 10);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

START_TEST(test_null)
{
	struct plt_store *st;
	uint64_t size;

	ck_assert_int_eq(plt_null_new(5, &st), 0);
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	ck_assert_uint_eq(size, 5);
	ck_assert_int_eq(write_at(st, 0, "abc"), 0);
	expect(st, 0, "\0\0\0", 3);
	ck_assert_int_eq(write_at(st, 3, "abc"), -ENOSPC);
	plt_store_unref(st);
}
END_TEST

/* ---- syncs ---- */

START_TEST(test_sync_record)
{
	struct plt_store *st = memory(NULL, 0, 0);
	uint64_t mark = plt_store_sync_mark(st);

	ck_assert(!plt_store_durable(st, mark));
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	ck_assert(plt_store_durable(st, mark));
	/* What completed after that sync had begun needs another. */
	mark = plt_store_sync_mark(st);
	ck_assert(!plt_store_durable(st, mark));
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	ck_assert(plt_store_durable(st, mark));
	plt_store_unref(st);
}
END_TEST

START_TEST(test_sync_failure_is_final)
{
	struct plt_store *low = memory("abc", 3, 0), *st = fault_over(low);
	struct plt_fault_rule rule = {
		.ops = PLT_FAULT_SYNC, .tag = -1, .skip = 1, .count = 1, .error = EIO
	};
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t mark;

	ck_assert_int_ge(plt_fault_add(st, &rule), 0);
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	ck_assert_int_eq(write_at(st, 0, "x"), 0);
	mark = plt_store_sync_mark(st);
	ck_assert_int_eq(plt_store_sync(st, &err), -EIO);
	ck_assert_ptr_nonnull(strstr(err.text, "injected"));
	/* The fault is over, the loss is not. */
	ck_assert_int_eq(plt_store_sync(st, &err), -EIO);
	ck_assert_ptr_nonnull(strstr(err.text, "flush failed"));
	ck_assert(!plt_store_durable(st, mark));
	ck_assert_int_eq(plt_store_check_writable(st, NULL), -EIO);
	ck_assert_int_eq(write_at(st, 0, "y"), -EIO);
	ck_assert_int_eq(plt_store_zero(st, 0, 1, 0, PLT_IO_DATA, NULL), -EIO);
	ck_assert_int_eq(plt_store_discard(st, 0, 1, NULL), -EIO);
	ck_assert_int_eq(plt_store_truncate(st, 0, NULL), -EIO);
	expect(st, 0, "xbc", 3);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_SYNC), 2);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_WRITE), 1);
	plt_store_unref(st);
}
END_TEST

/* The failure reaches the stores above. */
START_TEST(test_sync_failure_spreads)
{
	struct plt_store *low = fault_over(memory("abc", 3, 0)), *st;
	struct plt_fault_rule rule = { .ops = PLT_FAULT_SYNC, .tag = -1, .error = ENOSPC };

	ck_assert_int_eq(plt_window_new(low, 0, UINT64_MAX, &st, NULL), 0);
	ck_assert_int_ge(plt_fault_add(low, &rule), 0);
	ck_assert_int_eq(plt_store_sync(low, NULL), -ENOSPC);
	ck_assert_int_eq(write_at(st, 0, "y"), -EIO);
	ck_assert_int_eq(plt_store_sync(st, NULL), -EIO);
	ck_assert_int_eq(plt_store_check_writable(st, NULL), -EIO);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

START_TEST(test_writethrough)
{
	struct plt_store *st = fault_over(memory(NULL, 0, 0));

	st->writethrough = true;
	ck_assert_int_eq(write_at(st, 0, "x"), 0);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_SYNC), 1);
	ck_assert_int_eq(plt_store_zero(st, 0, 1, 0, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_SYNC), 2);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_unsafe)
{
	struct plt_store *st = fault_over(memory(NULL, 0, 0));
	uint64_t mark = plt_store_sync_mark(st);

	st->unsafe = true;
	ck_assert_int_eq(write_at(st, 0, "x"), 0);
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_SYNC), 0);
	ck_assert(plt_store_durable(st, mark));
	plt_store_unref(st);
}
END_TEST

/* Write, take a mark, sync: whoever returns finds its own event durable. */
static void *sync_loop(void *arg)
{
	struct plt_store *st = arg;
	int bad = 0;

	for (int i = 0; i < 200; i++) {
		uint64_t mark;

		if (write_at(st, i, "x"))
			bad++;
		mark = plt_store_sync_mark(st);
		if (plt_store_sync(st, NULL) || !plt_store_durable(st, mark))
			bad++;
	}
	return (void *)(intptr_t)bad;
}

START_TEST(test_sync_threads)
{
	struct plt_fault_rule slow = { .ops = PLT_FAULT_SYNC, .tag = -1, .delay_us = 20 };
	struct plt_store *st = fault_over(memory(NULL, 0, 0));
	pthread_t t[4];
	uint64_t syncs;

	ck_assert_int_ge(plt_fault_add(st, &slow), 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, sync_loop, st), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;

		pthread_join(t[i], &bad);
		ck_assert_ptr_null(bad);
	}
	syncs = plt_fault_seen(st, PLT_FAULT_SYNC);
	ck_assert_uint_ge(syncs, 200);
	ck_assert_uint_le(syncs, 800);
	ck_assert_uint_eq(atomic_load(&st->sync_done), atomic_load(&st->sync_begun));
	plt_store_unref(st);
}
END_TEST

/* ---- zeroing ---- */

static int no_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		   enum plt_io_tag tag, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)len;
	(void)flags;
	(void)tag;
	(void)err;
	return -ENOTSUP;
}

START_TEST(test_zero_fallback)
{
	struct plt_store *st = memory(NULL, 0, 0), *over;
	struct plt_store_ops ops = *st->ops;
	static uint8_t ones[200000], want[200000];
	uint64_t len = sizeof(ones) - 20;

	memset(ones, 1, sizeof(ones));
	ops.zero = no_zero;
	st->ops = &ops;
	over = fault_over(plt_store_ref(st));
	ck_assert_int_eq(plt_store_write(over, 0, ones, sizeof(ones), PLT_IO_DATA, NULL), 0);
	ck_assert_int_eq(plt_store_zero(st, 10, len, PLT_ZERO_NO_FALLBACK, PLT_IO_DATA, NULL),
			 -ENOTSUP);
	expect(st, 0, ones, sizeof(ones));
	st->limits.max_io = 70000;
	ck_assert_int_eq(plt_store_zero(st, 10, len, PLT_ZERO_MAY_UNMAP, PLT_IO_DATA, NULL), 0);
	memset(want, 1, 10);
	memset(want + sizeof(want) - 10, 1, 10);
	expect(st, 0, want, sizeof(want));
	plt_store_unref(over);
	plt_store_unref(st);
}
END_TEST

/* The reason of a failed zero() comes from below. */
START_TEST(test_zero_error)
{
	struct plt_store *st = fault_over(memory("abc", 3, 0));
	struct plt_fault_rule rule = { .ops = PLT_FAULT_ZERO, .tag = -1, .error = EIO };
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_ge(plt_fault_add(st, &rule), 0);
	ck_assert_int_eq(plt_store_zero(st, 0, 2, 0, PLT_IO_L2, &err), -EIO);
	ck_assert_int_eq(err.code, EIO);
	ck_assert_ptr_nonnull(strstr(err.text, "injected"));
	expect(st, 0, "abc", 3);
	plt_store_unref(st);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("store");
	TCase *tc = tcase_create("store");

	tcase_add_test(tc, test_ranges);
	tcase_add_test(tc, test_readonly);
	tcase_add_test(tc, test_fixed_size);
	tcase_add_test(tc, test_window_edges);
	tcase_add_test(tc, test_overlay_edits);
	tcase_add_test(tc, test_overlay_joins);
	tcase_add_test(tc, test_null);
	tcase_add_test(tc, test_sync_record);
	tcase_add_test(tc, test_sync_failure_is_final);
	tcase_add_test(tc, test_sync_failure_spreads);
	tcase_add_test(tc, test_writethrough);
	tcase_add_test(tc, test_unsafe);
	tcase_add_test(tc, test_sync_threads);
	tcase_add_test(tc, test_zero_fallback);
	tcase_add_test(tc, test_zero_error);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
