/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * convert/hold.c: what makes a file an image stays out of the store below, whatever is flushed; what
 * is read above is always what was written; on release the first sector is the last write.
 */
#include "convert/convert.h"

#include "tests/unit.h"

#define SIZE (64 * 1024)

static const uint8_t *below_bytes(struct plt_store *below, size_t want)
{
	size_t len;
	const uint8_t *p = plt_memory_data(below, &len);

	ck_assert_uint_ge(len, want);
	return p;
}

static void open_both(struct plt_store **below, struct plt_store **hold)
{
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, below), 0);
	ck_assert_int_eq(plt_hold_new(*below, hold), 0);
}

static void put(struct plt_store *st, uint64_t off, int byte, size_t len, enum plt_io_tag tag)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	ck_assert_int_eq(plt_store_write(st, off, buf, len, tag, NULL), 0);
	free(buf);
}

static void expect(struct plt_store *st, uint64_t off, int byte, size_t len)
{
	uint8_t *buf = malloc(len);

	memset(buf, ~byte, len);
	ck_assert_int_eq(plt_store_read(st, off, buf, len, PLT_IO_DATA, NULL), 0);
	for (size_t i = 0; i < len; i++)
		ck_assert_msg(buf[i] == (uint8_t)byte, "byte %zu is %#x, not %#x", i, buf[i], byte);
	free(buf);
}

START_TEST(header_is_last)
{
	struct plt_store *below, *hold;
	uint64_t size;

	open_both(&below, &hold);
	put(hold, 0, 0x51, 4096, PLT_IO_HEADER); /* longer than a sector, and tagged: the rest passes */
	put(hold, 65536, 0x33, 4096, PLT_IO_DATA);
	ck_assert_int_eq(plt_store_sync(hold, NULL), 0);
	expect(below, 0, 0, 512);
	expect(below, 512, 0x51, 4096 - 512);
	expect(below, 65536, 0x33, 4096);
	expect(hold, 0, 0x51, 4096);
	ck_assert_int_eq(plt_store_size(hold, &size, NULL), 0);
	ck_assert_uint_eq(size, 65536 + 4096);
	ck_assert_int_eq(plt_hold_release(hold, NULL), 0);
	expect(below, 0, 0x51, 4096);
	plt_store_unref(hold);
	plt_store_unref(below);
}
END_TEST

START_TEST(footer)
{
	struct plt_store *below, *hold;
	uint64_t size;

	open_both(&below, &hold);
	put(hold, 0, 1, 512, PLT_IO_HEADER);
	put(hold, 4096, 2, 512, PLT_IO_HEADER);   /* a footer at the end */
	ck_assert_int_eq(plt_store_size(hold, &size, NULL), 0);
	ck_assert_uint_eq(size, 4096 + 512);
	ck_assert_int_eq(plt_store_size(below, &size, NULL), 0);
	ck_assert_uint_eq(size, 0);
	put(hold, 8192, 3, 512, PLT_IO_HEADER);   /* it has moved, and */
	put(hold, 4096, 4, 4096, PLT_IO_DATA);    /* data lies where it was */
	put(hold, 8192 + 100, 5, 8, PLT_IO_OTHER);/* a small change to what is held */
	expect(hold, 4096, 4, 4096);
	expect(below, 4096, 4, 4096);
	expect(hold, 8192, 3, 100);
	expect(hold, 8192 + 100, 5, 8);
	expect(hold, 8192 + 108, 3, 512 - 108);
	ck_assert_int_eq(plt_store_zero(hold, 8192 + 500, 12, 0, PLT_IO_DATA, NULL), 0);
	ck_assert_int_eq(plt_hold_release(hold, NULL), 0);
	expect(below, 0, 1, 512);
	expect(below, 4096, 4, 4096);
	expect(below, 8192, 3, 100);
	expect(below, 8192 + 108, 3, 500 - 108);
	expect(below, 8192 + 500, 0, 12);
	plt_store_unref(hold);
	plt_store_unref(below);
}
END_TEST

START_TEST(truncated)
{
	struct plt_store *below, *hold;
	uint64_t size;

	open_both(&below, &hold);
	put(hold, 0, 7, 512, PLT_IO_HEADER);
	put(hold, 1024, 8, 512, PLT_IO_HEADER);
	ck_assert_int_eq(plt_store_truncate(hold, 1100, NULL), 0);
	ck_assert_int_eq(plt_store_size(hold, &size, NULL), 0);
	ck_assert_uint_eq(size, 1100);
	ck_assert_int_eq(plt_store_truncate(hold, 4096, NULL), 0);
	expect(hold, 0, 7, 512);
	expect(hold, 1024, 8, 76);
	expect(hold, 1100, 0, 436);
	ck_assert_int_eq(plt_store_truncate(hold, 0, NULL), 0);
	ck_assert_int_eq(plt_store_size(hold, &size, NULL), 0);
	ck_assert_uint_eq(size, 0);
	plt_store_unref(hold);
	plt_store_unref(below);
}
END_TEST

/* The write log shows in which order things reached the store below. */
START_TEST(order)
{
	struct plt_writelog *log;
	struct plt_store *below, *logged, *hold;
	const struct plt_log_record *v;
	size_t n, last_write = 0, first_sync = SIZE_MAX;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &below), 0);
	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_ge(plt_writelog_attach(log, below, &logged), 0);
	ck_assert_int_eq(plt_hold_new(logged, &hold), 0);
	put(hold, 0, 1, 512, PLT_IO_HEADER);
	put(hold, 512, 2, 512, PLT_IO_HEADER);
	put(hold, 4096, 3, 4096, PLT_IO_DATA);
	ck_assert_int_eq(plt_hold_release(hold, NULL), 0);
	n = plt_writelog_records(log, &v);
	for (size_t i = 0; i < n; i++) {
		if (v[i].kind == PLT_LOG_WRITE)
			last_write = i;
		if (v[i].kind == PLT_LOG_SYNC && first_sync == SIZE_MAX)
			first_sync = i;
	}
	ck_assert_uint_eq(v[last_write].off, 0);
	ck_assert_uint_lt(first_sync, last_write);
	ck_assert_int_eq(v[n - 1].kind, PLT_LOG_SYNC);
	for (size_t i = 0; i < last_write; i++)
		ck_assert(v[i].kind != PLT_LOG_WRITE || v[i].off >= 512);
	plt_store_unref(hold);
	plt_store_unref(logged);
	plt_store_unref(below);
	plt_writelog_free(log);
}
END_TEST

/* When no more can be held, a header is written below, and no sector of it stays held as it was. */
START_TEST(no_room)
{
	struct plt_store *below, *hold;

	open_both(&below, &hold);
	for (unsigned i = 0; i < 64; i++)
		put(hold, 1024 * (i + 1), (int)i, 512, PLT_IO_HEADER);
	put(hold, 1024 - 512, 0x77, 1024, PLT_IO_HEADER); /* its second sector is held */
	expect(hold, 1024 - 512, 0x77, 1024);
	expect(hold, 2048, 1, 512);
	put(hold, 0, 0x11, 512, PLT_IO_HEADER); /* but for the first sector there always is room */
	expect(below, 0, 0, 512);
	expect(hold, 0, 0x11, 512);
	ck_assert_int_eq(plt_hold_release(hold, NULL), 0);
	expect(below, 1024 - 512, 0x77, 1024);
	plt_store_unref(hold);
	plt_store_unref(below);
}
END_TEST

/* Against a plain array, with everything that may happen. */
START_TEST(against_model)
{
	uint64_t seed = plt_unit_seed();
	struct plt_store *below, *hold;
	uint8_t *model = calloc(1, SIZE), *buf = malloc(SIZE);

	open_both(&below, &hold);
	ck_assert_int_eq(plt_store_truncate(hold, SIZE, NULL), 0);
	for (int i = 0; i < 3000; i++) {
		uint64_t r = plt_unit_random(&seed);
		uint64_t off = r % SIZE, len = 1 + (r >> 20) % 3000;
		enum plt_io_tag tag = r >> 40 & 1 ? PLT_IO_HEADER : PLT_IO_DATA;

		if (tag == PLT_IO_HEADER) {
			off &= ~UINT64_C(511);
			len = 512 * (1 + len % 5);
		}
		if (off + len > SIZE)
			len = SIZE - off;
		switch (r >> 50 & 3) {
		case 0:
			memset(model + off, 0, len);
			ck_assert_int_eq(plt_store_zero(hold, off, len, PLT_ZERO_MAY_UNMAP, tag, NULL), 0);
			break;
		case 1:
			ck_assert_int_eq(plt_store_read(hold, off, buf, len, tag, NULL), 0);
			ck_assert_mem_eq(buf, model + off, len);
			break;
		default:
			for (uint64_t k = 0; k < len; k++)
				model[off + k] = (uint8_t)plt_unit_random(&seed);
			ck_assert_int_eq(plt_store_write(hold, off, model + off, len, tag, NULL), 0);
		}
		/* Never the first sector. */
		ck_assert_uint_eq(below_bytes(below, SIZE)[seed % 512], 0);
	}
	ck_assert_int_eq(plt_hold_release(hold, NULL), 0);
	ck_assert_mem_eq(below_bytes(below, SIZE), model, SIZE);
	plt_store_unref(hold);
	plt_store_unref(below);
	free(model);
	free(buf);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("hold");
	TCase *tc = tcase_create("hold");

	tcase_add_test(tc, header_is_last);
	tcase_add_test(tc, footer);
	tcase_add_test(tc, truncated);
	tcase_add_test(tc, order);
	tcase_add_test(tc, no_room);
	tcase_add_test(tc, against_model);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
