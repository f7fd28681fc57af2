/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Every store against the same model, an array of bytes: random writes, reads, zeroing, discards
 * and changes of size must leave and show exactly what the array has.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/zero.h"
#include "io/store.h"
#include "tests/unit.h"

#define SPACE (192 * 1024) /* offsets are below this */
#define OPS 3000

struct model {
	struct plt_store *st;
	uint64_t random;
	uint8_t bytes[SPACE];
	uint64_t size;
	bool fixed; /* of a fixed size */
};

static uint64_t below(struct model *m, uint64_t n)
{
	return plt_unit_random(&m->random) % n;
}

/* A range with a liking for sector and page boundaries. */
static void pick_range(struct model *m, uint64_t *off, uint64_t *len)
{
	static const uint64_t units[] = { 1, 1, 512, 4096, 65536 };
	uint64_t unit = units[below(m, PLT_ARRAY_SIZE(units))];
	uint64_t space = m->fixed ? m->size : SPACE, max = below(m, 4) ? 5000 : 70000;

	*off = plt_align_down(below(m, space), unit);
	*len = 1 + below(m, PLT_MIN(space - *off, max));
	if (below(m, 2) && *len > unit)
		*len = plt_align_down(*len, unit);
}

/* Cut [buf, buf+len) into pieces, some of them empty. */
static int cut(struct model *m, uint8_t *buf, size_t len, struct iovec *iov, int max)
{
	size_t done = 0;
	int n = 0;

	while (n < max - 1 && done < len && below(m, 4)) {
		size_t piece = below(m, 5) ? below(m, len - done + 1) : 0;

		iov[n++] = (struct iovec){ buf + done, piece };
		done += piece;
	}
	iov[n++] = (struct iovec){ buf + done, len - done };
	return n;
}

static void check_all(struct model *m)
{
	static uint8_t buf[SPACE + 4096];
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t size;

	ck_assert_int_eq(plt_store_size(m->st, &size, &err), 0);
	ck_assert_uint_eq(size, m->size);
	memset(buf, 0xee, sizeof(buf));
	ck_assert_msg(!plt_store_read(m->st, 0, buf, sizeof(buf), PLT_IO_DATA, &err), "%s",
		      err.text);
	ck_assert_mem_eq(buf, m->bytes, SPACE);
	ck_assert(plt_is_zero(buf + SPACE, sizeof(buf) - SPACE));
}

static void do_write(struct model *m)
{
	static uint8_t buf[SPACE];
	struct plt_error err = PLT_ERROR_INIT;
	struct iovec iov[8];
	uint64_t off, len;
	int n;

	pick_range(m, &off, &len);
	for (uint64_t i = 0; i < len; i++)
		buf[i] = plt_unit_random(&m->random);
	n = cut(m, buf, len, iov, 8);
	ck_assert_msg(!plt_store_writev(m->st, off, iov, n, PLT_IO_DATA, &err), "%s", err.text);
	memcpy(m->bytes + off, buf, len);
	m->size = PLT_MAX(m->size, off + len);
}

static void do_read(struct model *m)
{
	static uint8_t buf[SPACE];
	struct plt_error err = PLT_ERROR_INIT;
	struct iovec iov[8];
	uint64_t off, len;
	int n;

	pick_range(m, &off, &len);
	n = cut(m, buf, len, iov, 8);
	ck_assert_msg(!plt_store_readv(m->st, off, iov, n, PLT_IO_DATA, &err), "%s", err.text);
	ck_assert_mem_eq(buf, m->bytes + off, len);
}

static void do_zero(struct model *m)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off, len;

	pick_range(m, &off, &len);
	ck_assert_msg(!plt_store_zero(m->st, off, len, below(m, 2) ? PLT_ZERO_MAY_UNMAP : 0,
				      PLT_IO_DATA, &err),
		      "%s", err.text);
	memset(m->bytes + off, 0, len);
	m->size = PLT_MAX(m->size, off + len);
}

static void do_discard(struct model *m)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off, len;
	int ret;

	if (!m->st->limits.discard_zeroes)
		return;
	pick_range(m, &off, &len);
	ret = plt_store_discard(m->st, off, len, &err);
	if (ret == -ENOTSUP)
		return;
	ck_assert_msg(!ret, "%s", err.text);
	memset(m->bytes + off, 0, len);
}

static void do_truncate(struct model *m)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t size = below(m, SPACE);

	if (m->fixed)
		return;
	ck_assert_msg(!plt_store_truncate(m->st, size, &err), "%s", err.text);
	if (size < m->size)
		memset(m->bytes + size, 0, m->size - size);
	m->size = size;
}

static void do_extents(struct model *m)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off = below(m, SPACE), end = SPACE;

	while (off < end) {
		enum plt_store_kind kind;
		uint64_t len;

		ck_assert_msg(!plt_store_extents(m->st, off, end - off, &kind, &len, &err), "%s",
			      err.text);
		ck_assert(len > 0 && len <= end - off);
		if (kind == PLT_STORE_HOLE)
			ck_assert_msg(plt_is_zero(m->bytes + off, len), "a hole hides data");
		off += len;
	}
}

/* Reading where the range resolves to must give the same bytes. */
static void do_resolve(struct model *m)
{
	static uint8_t buf[SPACE];
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off, len, bottom_off, n;
	struct plt_store *bottom;

	pick_range(m, &off, &len);
	if (plt_store_resolve(m->st, off, len, &bottom, &bottom_off, &n))
		return;
	ck_assert(n > 0 && n <= len);
	ck_assert_msg(!plt_store_read(bottom, bottom_off, buf, n, PLT_IO_DATA, &err), "%s",
		      err.text);
	ck_assert_mem_eq(buf, m->bytes + off, n);
}

static void run(struct model *m)
{
	m->random = plt_unit_seed();
	check_all(m);
	for (int i = 0; i < OPS; i++) {
		switch (below(m, 16)) {
		case 0 ... 4:
			do_write(m);
			break;
		case 5 ... 8:
			do_read(m);
			break;
		case 9:
		case 10:
			do_zero(m);
			break;
		case 11:
			do_discard(m);
			break;
		case 12:
			if (!below(m, 4))
				do_truncate(m);
			break;
		case 13:
			do_extents(m);
			break;
		case 14:
			do_resolve(m);
			break;
		case 15:
			ck_assert_int_eq(plt_store_sync(m->st, NULL), 0);
			break;
		}
		if (i % 256 == 0)
			check_all(m);
	}
	check_all(m);
}

static struct model *new_model(struct plt_store *st, uint64_t size, bool fixed)
{
	struct model *m = calloc(1, sizeof(*m));

	ck_assert_ptr_nonnull(m);
	m->st = st;
	m->size = size;
	m->fixed = fixed;
	return m;
}

static void run_and_free(struct plt_store *st, uint64_t size, bool fixed)
{
	struct model *m = new_model(st, size, fixed);

	run(m);
	free(m);
	plt_store_unref(st);
}

static struct plt_store *file(unsigned flags)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	char path[4200];
	static int n;

	snprintf(path, sizeof(path), "%s/model-%d", plt_unit_dir(), n++);
	ck_assert_msg(!plt_file_open(path,
				     PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_TRUNC | flags, &st,
				     &err),
		      "%s", err.text);
	return st;
}

static struct plt_store *memory(void)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	return st;
}

START_TEST(test_memory)
{
	run_and_free(memory(), 0, false);
}
END_TEST

START_TEST(test_file)
{
	run_and_free(file(0), 0, false);
}
END_TEST

/* Many pieces: every request longer than this is cut. */
START_TEST(test_file_split)
{
	struct plt_store *st = file(0);

	st->limits.max_io = 3000;
	run_and_free(st, 0, false);
}
END_TEST

START_TEST(test_file_direct)
{
	struct plt_store *st = file(PLT_FILE_DIRECT);

	ck_assert_uint_ge(st->limits.align, 512);
	run_and_free(st, 0, false);
}
END_TEST

/* The alignment of a disk with 4096-byte sectors, whatever this one has. */
START_TEST(test_file_direct_4k)
{
	struct plt_store *st = file(PLT_FILE_DIRECT);

	st->limits.align = 4096;
	run_and_free(st, 0, false);
}
END_TEST

START_TEST(test_window_open)
{
	struct plt_store *low = memory(), *st;

	ck_assert_int_eq(plt_window_new(low, 1000, UINT64_MAX, &st, NULL), 0);
	plt_store_unref(low);
	run_and_free(st, 0, false);
}
END_TEST

/* A window with an end, between bytes that nobody may touch or see. */
START_TEST(test_window_fixed)
{
	static uint8_t around[SPACE];
	struct plt_store *low, *st;
	const uint8_t *now;
	struct model *m;
	size_t len;

	memset(around, 0x5a, sizeof(around));
	memset(around + 777, 0, 100000);
	ck_assert_int_eq(plt_memory_new(around, sizeof(around), 0, &low), 0);
	ck_assert_int_eq(plt_window_new(low, 777, 100000, &st, NULL), 0);
	m = new_model(st, 100000, true);
	run(m);
	now = plt_memory_data(low, &len);
	ck_assert_uint_eq(len, sizeof(around));
	ck_assert_mem_eq(now, around, 777);
	ck_assert_mem_eq(now + 777, m->bytes, 100000);
	ck_assert_mem_eq(now + 100777, around + 100777, sizeof(around) - 100777);
	free(m);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

START_TEST(test_overlay)
{
	static uint8_t init[100001];
	struct plt_store *low, *st;
	struct model *m;
	const uint8_t *now;
	size_t len;

	for (size_t i = 0; i < sizeof(init); i++)
		init[i] = 1 + i % 255;
	ck_assert_int_eq(plt_memory_new(init, sizeof(init), 0, &low), 0);
	low->readonly = true;
	ck_assert_int_eq(plt_overlay_new(low, true, &st), 0);
	m = new_model(st, sizeof(init), false);
	memcpy(m->bytes, init, sizeof(init));
	run(m);
	now = plt_memory_data(low, &len);
	ck_assert_uint_eq(len, sizeof(init));
	ck_assert_mem_eq(now, init, len);
	free(m);
	plt_store_unref(st);
	plt_store_unref(low);
}
END_TEST

START_TEST(test_fault)
{
	struct plt_store *low = memory(), *st;

	ck_assert_int_eq(plt_fault_new(low, &st), 0);
	plt_store_unref(low);
	run_and_free(st, 0, false);
}
END_TEST

/* What was logged, applied in order, makes the same bytes again. */
START_TEST(test_writelog)
{
	struct plt_store *low = memory(), *again = memory(), *st;
	const struct plt_log_record *r;
	struct plt_writelog *log;
	struct model *m;
	size_t n;

	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, low, &st), 0);
	m = new_model(st, 0, false);
	run(m);
	n = plt_writelog_records(log, &r);
	ck_assert_uint_gt(n, OPS / 4);
	for (size_t i = 0; i < n; i++, r++) {
		ck_assert(r->begun < r->ended);
		if (r->kind == PLT_LOG_WRITE)
			ck_assert_int_eq(
				plt_store_write(again, r->off, r->data, r->len, r->tag, NULL), 0);
		else if (r->kind == PLT_LOG_ZERO)
			ck_assert_int_eq(plt_store_zero(again, r->off, r->len, 0, r->tag, NULL), 0);
		else if (r->kind == PLT_LOG_DISCARD)
			ck_assert_int_eq(plt_store_discard(again, r->off, r->len, NULL), 0);
		else if (r->kind == PLT_LOG_TRUNCATE)
			ck_assert_int_eq(plt_store_truncate(again, r->off, NULL), 0);
	}
	m->st = again;
	check_all(m);
	free(m);
	plt_store_unref(st);
	plt_store_unref(low);
	plt_store_unref(again);
	plt_writelog_free(log);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("model");
	TCase *tc = tcase_create("model");

	tcase_add_test(tc, test_memory);
	tcase_add_test(tc, test_file);
	tcase_add_test(tc, test_file_split);
	tcase_add_test(tc, test_window_open);
	tcase_add_test(tc, test_window_fixed);
	tcase_add_test(tc, test_overlay);
	tcase_add_test(tc, test_fault);
	tcase_add_test(tc, test_writelog);
	if (plt_unit_has_direct()) {
		tcase_add_test(tc, test_file_direct);
		tcase_add_test(tc, test_file_direct_4k);
	} else {
		puts("# the scratch folder has no O_DIRECT: its tests are left out");
	}
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
