/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Slices of iovec arrays against the same work on one flat buffer, for every offset and length of
 * an array with empty entries at both ends and in the middle.
 */
#include "base/iov.h"
#include "tests/unit.h"

#define TOTAL 23

static const size_t lens[] = { 0, 5, 1, 0, 0, 9, 8, 0 };
#define NIOV ((int)(sizeof(lens) / sizeof(lens[0])))

/* Entries lie apart, each between guard bytes. */
struct fixture {
	uint8_t mem[40];
	struct iovec iov[NIOV];
};

static void make(struct fixture *f, const uint8_t *content)
{
	size_t at = 1;

	memset(f->mem, 0xee, sizeof(f->mem));
	for (int i = 0; i < NIOV; i++) {
		f->iov[i].iov_base = f->mem + at;
		f->iov[i].iov_len = lens[i];
		memcpy(f->mem + at, content, lens[i]);
		content += lens[i];
		at += lens[i] + 1;
	}
}

static void flatten(const struct fixture *f, uint8_t *out)
{
	size_t at = 1;

	for (int i = 0; i < NIOV; i++) {
		ck_assert_uint_eq(f->mem[at - 1], 0xee);
		memcpy(out, f->mem + at, lens[i]);
		out += lens[i];
		at += lens[i] + 1;
	}
	for (; at - 1 < sizeof(f->mem); at++)
		ck_assert_uint_eq(f->mem[at - 1], 0xee);
}

START_TEST(every_slice)
{
	uint8_t content[TOTAL], fresh[TOTAL], got[TOTAL], want[TOTAL];
	struct fixture f;

	for (unsigned i = 0; i < TOTAL; i++) {
		content[i] = (uint8_t)(i + 1);
		fresh[i] = (uint8_t)(0x80 + i);
	}
	make(&f, content);
	ck_assert_uint_eq(plt_iov_len(f.iov, NIOV), TOTAL);
	for (size_t off = 0; off <= TOTAL; off++) {
		for (size_t len = 0; len <= TOTAL - off; len++) {
			struct iovec out[NIOV];
			size_t sum = 0;
			int n;

			make(&f, content);
			plt_iov_to_buf(f.iov, NIOV, off, got, len);
			ck_assert_int_eq(memcmp(got, content + off, len), 0);

			n = plt_iov_slice_count(f.iov, NIOV, off, len);
			ck_assert_int_le(n, NIOV);
			ck_assert_int_eq(plt_iov_slice(f.iov, NIOV, off, len, out), n);
			for (int i = 0; i < n; i++) {
				ck_assert_uint_gt(out[i].iov_len, 0);
				ck_assert_int_eq(memcmp(out[i].iov_base, content + off + sum,
							out[i].iov_len), 0);
				sum += out[i].iov_len;
			}
			ck_assert_uint_eq(sum, len);

			plt_iov_from_buf(f.iov, NIOV, off, fresh, len);
			memcpy(want, content, TOTAL);
			memcpy(want + off, fresh, len);
			flatten(&f, got);
			ck_assert_mem_eq(got, want, TOTAL);

			plt_iov_zero(f.iov, NIOV, off, len);
			memset(want + off, 0, len);
			flatten(&f, got);
			ck_assert_mem_eq(got, want, TOTAL);
		}
	}
}
END_TEST

START_TEST(nothing_at_all)
{
	ck_assert_uint_eq(plt_iov_len(NULL, 0), 0);
	ck_assert_int_eq(plt_iov_slice_count(NULL, 0, 0, 0), 0);
	plt_iov_zero(NULL, 0, 0, 0);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("iov");
	TCase *tc = tcase_create("iov");

	tcase_add_test(tc, every_slice);
	tcase_add_test(tc, nothing_at_all);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
