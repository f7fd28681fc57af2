/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The stores that tests are made with: fault rules (io/fault.c) and the write log (io/writelog.c). */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "tests/io/stores.h"

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

int main(void)
{
	Suite *s = suite_create("faults");
	TCase *tc = tcase_create("faults");

	tcase_add_test(tc, test_fault_nth);
	tcase_add_test(tc, test_fault_select);
	tcase_add_test(tc, test_fault_tear);
	tcase_add_test(tc, test_fault_hides_below);
	tcase_add_test(tc, test_writelog_records);
	tcase_add_test(tc, test_writelog_allocate);
	tcase_add_test(tc, test_writelog_overlap);
	suite_add_tcase(s, tc);
	return plt_unit_main(s);
}
