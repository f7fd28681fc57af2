/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The wrappers: ranges, read-only and poisoned stores, the record of syncs, cache modes, zeroing
 * without help from below, and the stores that tests are made with (fault rules, the write log).
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "io/store.h"
#include "tests/unit.h"

static struct plt_store *memory(const void *init, size_t len, uint64_t max)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(init, len, max, &st), 0);
	return st;
}

static struct plt_store *fault_over(struct plt_store *low)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_fault_new(low, &st), 0);
	plt_store_unref(low);
	return st;
}

static int write_at(struct plt_store *st, uint64_t off, const char *text)
{
	return plt_store_write(st, off, text, strlen(text), PLT_IO_DATA, NULL);
}

static void expect(struct plt_store *st, uint64_t off, const void *bytes, size_t len)
{
	uint8_t *buf = malloc(len);

	ck_assert_int_eq(plt_store_read(st, off, buf, len, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(buf, bytes, len);
	free(buf);
}

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

/* ---- fault rules ---- */

START_TEST(test_fault_nth)
{
	struct plt_store *st = fault_over(memory(NULL, 0, 0));
	struct plt_fault_rule rule = {
		.ops = PLT_FAULT_WRITE, .tag = -1, .skip = 2, .count = 2, .error = ENOSPC
	};

	ck_assert_int_eq(plt_fault_add(st, &rule), 0);
	ck_assert_int_eq(write_at(st, 0, "1"), 0);
	expect(st, 0, "1", 1);
	ck_assert_int_eq(write_at(st, 1, "2"), 0);
	ck_assert_int_eq(write_at(st, 2, "3"), -ENOSPC);
	ck_assert_int_eq(write_at(st, 2, "3"), -ENOSPC);
	ck_assert_int_eq(write_at(st, 2, "4"), 0);
	expect(st, 0, "124", 3);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_WRITE), 5);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_READ), 2);
	ck_assert_uint_eq(plt_fault_seen(st, PLT_FAULT_ANY), 7);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_fault_select)
{
	struct plt_store *st = fault_over(memory("abcdef", 6, 0));
	struct plt_fault_rule l2 = { .ops = PLT_FAULT_ANY, .tag = PLT_IO_L2, .error = EIO };
	struct plt_fault_rule where = {
		.ops = PLT_FAULT_READ, .tag = -1, .off = 2, .len = 2, .error = EILSEQ
	};
	char c[8];

	ck_assert_int_eq(plt_fault_add(st, &l2), 0);
	ck_assert_int_eq(plt_fault_add(st, &where), 1);
	ck_assert_int_eq(plt_store_read(st, 0, c, 2, PLT_IO_DATA, NULL), 0);
	ck_assert_int_eq(plt_store_read(st, 0, c, 2, PLT_IO_L2, NULL), -EIO);
	ck_assert_int_eq(plt_store_read(st, 0, c, 3, PLT_IO_DATA, NULL), -EILSEQ);
	ck_assert_int_eq(plt_store_read(st, 3, c, 1, PLT_IO_L1, NULL), -EILSEQ);
	ck_assert_int_eq(plt_store_read(st, 4, c, 2, PLT_IO_DATA, NULL), 0);
	/* The first that matches acts. */
	ck_assert_int_eq(plt_store_read(st, 2, c, 1, PLT_IO_L2, NULL), -EIO);
	/* No tag and no range. */
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	plt_fault_clear(st);
	ck_assert_int_eq(plt_store_read(st, 0, c, 6, PLT_IO_L2, NULL), 0);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_fault_tear)
{
	struct plt_store *st = fault_over(memory("......", 6, 0));
	struct plt_fault_rule torn = {
		.ops = PLT_FAULT_WRITE, .tag = -1, .count = 1, .error = EIO, .tear = 2
	};
	struct plt_fault_rule silent = { .ops = PLT_FAULT_WRITE, .tag = -1, .count = 1, .tear = 1 };

	plt_fault_add(st, &torn);
	plt_fault_add(st, &silent);
	ck_assert_int_eq(write_at(st, 1, "abcd"), -EIO);
	expect(st, 0, ".ab...", 6);
	/* The second lies. */
	ck_assert_int_eq(write_at(st, 3, "xyz"), 0);
	expect(st, 0, ".abx..", 6);
	ck_assert_int_eq(write_at(st, 3, "xyz"), 0);
	expect(st, 0, ".abxyz", 6);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_fault_hides_below)
{
	struct plt_store *st = fault_over(memory("abc", 3, 0)), *win, *bottom;
	uint64_t off, len;

	ck_assert_int_eq(plt_store_fd(st), -1);
	ck_assert_int_eq(plt_window_new(st, 1, 2, &win, NULL), 0);
	ck_assert_int_eq(plt_store_resolve(win, 0, 2, &bottom, &off, &len), 0);
	ck_assert_ptr_eq(bottom, st);
	plt_store_unref(win);
	plt_store_unref(st);
}
END_TEST

/* ---- the write log ---- */

START_TEST(test_writelog_records)
{
	struct plt_store *a = memory(NULL, 0, 0), *b = fault_over(memory(NULL, 0, 0)), *la, *lb;
	struct plt_fault_rule torn = {
		.ops = PLT_FAULT_WRITE, .tag = -1, .count = 1, .error = EIO, .tear = 1
	};
	struct plt_fault_rule no_sync = { .ops = PLT_FAULT_SYNC, .tag = -1, .error = EIO };
	const struct plt_log_record *r;
	struct plt_writelog *log;
	char buf[2] = "hi";

	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, a, &la), 0);
	ck_assert_int_eq(plt_writelog_attach(log, b, &lb), 0);
	ck_assert_int_eq(plt_store_write(la, 3, buf, 2, PLT_IO_L2, NULL), 0);
	buf[0] = '?'; /* the record has its own copy */
	ck_assert_int_eq(plt_store_zero(lb, 7, 9, 0, PLT_IO_COW, NULL), 0);
	ck_assert_int_eq(plt_store_sync(la, NULL), 0);
	plt_writelog_mark(log, 42);
	ck_assert_int_eq(plt_store_truncate(lb, 100, NULL), 0);
	ck_assert_int_eq(plt_store_discard(lb, 0, 10, NULL), 0);
	plt_fault_add(b, &torn);
	ck_assert_int_eq(plt_store_write(lb, 0, "xy", 2, PLT_IO_DATA, NULL), -EIO);
	plt_fault_add(b, &no_sync);
	ck_assert_int_eq(plt_store_sync(lb, NULL), -EIO);

	ck_assert_uint_eq(plt_writelog_records(log, &r), 7);
	ck_assert(r[0].kind == PLT_LOG_WRITE && r[0].store == 0 && r[0].tag == PLT_IO_L2);
	ck_assert(r[0].off == 3 && r[0].len == 2);
	ck_assert_mem_eq(r[0].data, "hi", 2);
	ck_assert(r[1].kind == PLT_LOG_ZERO && r[1].store == 1 && r[1].off == 7 && r[1].len == 9);
	ck_assert(r[2].kind == PLT_LOG_SYNC && r[2].store == 0);
	ck_assert(r[3].kind == PLT_LOG_MARK && r[3].off == 42);
	ck_assert(r[4].kind == PLT_LOG_TRUNCATE && r[4].off == 100);
	ck_assert(r[5].kind == PLT_LOG_DISCARD && r[5].len == 10);
	/* One after the other: intervals do not touch. */
	for (int i = 0; i < 6; i++)
		ck_assert(r[i].begun < r[i].ended && r[i].ended < r[i + 1].begun);
	/* It may have happened in part, and no sync will ever cover it. */
	ck_assert(r[6].kind == PLT_LOG_WRITE && r[6].ended == UINT64_MAX);
	plt_store_unref(la);
	plt_store_unref(lb);
	plt_store_unref(a);
	plt_store_unref(b);
	plt_writelog_free(log);
}
END_TEST

/* Reserving space changes no byte, may lengthen, never shortens, and is recorded as such. */
START_TEST(test_writelog_allocate)
{
	struct plt_store *low = memory("abc", 3, 0), *st;
	const struct plt_log_record *r;
	struct plt_writelog *log;
	uint64_t size;
	char buf[4];

	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, low, &st), 0);
	ck_assert_int_eq(plt_store_allocate(st, 1, 9, NULL), 0);
	ck_assert_int_eq(plt_store_allocate(st, 0, 2, NULL), 0);
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	ck_assert_uint_eq(size, 10);
	ck_assert_int_eq(plt_store_read(st, 0, buf, 4, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(buf, "abc\0", 4);
	ck_assert_uint_eq(plt_writelog_records(log, &r), 2);
	ck_assert(r[0].kind == PLT_LOG_ALLOCATE && r[0].off == 1 && r[0].len == 9 && !r[0].data);
	plt_store_unref(st);
	plt_store_unref(low);
	/* below there is no room: it fails, and that is recorded as a change that may have begun */
	low = memory("abc", 3, 4);
	ck_assert_int_eq(plt_writelog_attach(log, low, &st), 0);
	ck_assert_int_eq(plt_store_allocate(st, 0, 5, NULL), -ENOSPC);
	ck_assert_uint_eq(plt_writelog_records(log, &r), 3);
	ck_assert(r[2].kind == PLT_LOG_ALLOCATE && r[2].ended == UINT64_MAX);
	plt_store_unref(st);
	plt_store_unref(low);
	plt_writelog_free(log);
}
END_TEST

struct slow_write {
	struct plt_store *st;
	uint64_t off;
};

static void *slow_writer(void *arg)
{
	struct slow_write *w = arg;

	return (void *)(intptr_t)write_at(w->st, w->off, "z");
}

/* Two writes in flight at once overlap in the log; the quick one is recorded first. */
START_TEST(test_writelog_overlap)
{
	struct plt_fault_rule slow = {
		.ops = PLT_FAULT_WRITE, .tag = -1, .off = 0, .len = 1, .delay_us = 100000
	};
	struct plt_store *low = fault_over(memory(NULL, 0, 0)), *st;
	const struct plt_log_record *r;
	struct plt_writelog *log;
	struct slow_write w;
	pthread_t t;
	void *ret;

	plt_fault_add(low, &slow);
	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, low, &st), 0);
	w = (struct slow_write){ st, 0 };
	ck_assert_int_eq(pthread_create(&t, NULL, slow_writer, &w), 0);
	while (!plt_fault_seen(low, PLT_FAULT_WRITE))
		usleep(100);
	ck_assert_int_eq(write_at(st, 5, "q"), 0);
	pthread_join(t, &ret);
	ck_assert_ptr_null(ret);
	ck_assert_uint_eq(plt_writelog_records(log, &r), 2);
	ck_assert_uint_eq(r[0].off, 5);
	ck_assert_uint_eq(r[1].off, 0);
	ck_assert(r[1].begun < r[0].begun && r[0].ended < r[1].ended);
	plt_store_unref(st);
	plt_store_unref(low);
	plt_writelog_free(log);
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
	tcase_add_test(tc, test_fault_nth);
	tcase_add_test(tc, test_fault_select);
	tcase_add_test(tc, test_fault_tear);
	tcase_add_test(tc, test_fault_hides_below);
	tcase_add_test(tc, test_writelog_records);
	tcase_add_test(tc, test_writelog_allocate);
	tcase_add_test(tc, test_writelog_overlap);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
