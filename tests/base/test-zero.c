/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Zero detection: one byte set at each place, for every length and alignment around the steps of
 * the loop; nothing read or judged outside the buffer; runs of blocks at unaligned edges against a
 * byte-wise model.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/zero.h"
#include "tests/unit.h"

START_TEST(every_place_counts)
{
	uint8_t buf[700];

	for (size_t shift = 0; shift < 17; shift++) {
		for (size_t len = 0; len < 600; len += len < 300 ? 1 : 37) {
			memset(buf, 0xff, sizeof(buf)); /* what is outside must not matter */
			memset(buf + shift, 0, len);
			ck_assert(plt_is_zero(buf + shift, len));
			for (size_t i = 0; i < len; i++) {
				buf[shift + i] = (uint8_t)(1U << (i % 8));
				ck_assert(!plt_is_zero(buf + shift, len));
				buf[shift + i] = 0;
			}
		}
	}
}
END_TEST

START_TEST(reads_nothing_outside)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_eq(mprotect(map, page, PROT_NONE), 0);
	ck_assert_int_eq(mprotect(map + 2 * page, page, PROT_NONE), 0);
	for (size_t len = 0; len <= page; len++) {
		ck_assert(plt_is_zero(map + page, len));
		ck_assert(plt_is_zero(map + 2 * page - len, len));
	}
	munmap(map, 3 * page);
}
END_TEST

static bool model_is_zero(const uint8_t *p, size_t n)
{
	while (n)
		if (p[--n])
			return false;
	return true;
}

START_TEST(runs_agree_with_a_model)
{
	uint64_t seed = plt_unit_seed();
	uint8_t buf[3000];

	for (unsigned round = 0; round < 3000; round++) {
		size_t shift = plt_unit_random(&seed) % 16;
		size_t len = 1 + plt_unit_random(&seed) % (sizeof(buf) - 16);
		size_t unit = 1 + plt_unit_random(&seed) % 600, want;
		unsigned dirt = (unsigned)(plt_unit_random(&seed) % 12);
		uint8_t *p = buf + shift;
		bool zero, first;

		memset(buf, 0, sizeof(buf));
		if (plt_unit_random(&seed) % 3 == 0)
			memset(p, 0x11, plt_unit_random(&seed) % len);
		for (unsigned i = 0; i < dirt; i++)
			p[plt_unit_random(&seed) % len] = 1;

		first = model_is_zero(p, len < unit ? len : unit);
		for (want = 0; want < len;) {
			size_t n = len - want < unit ? len - want : unit;

			if (model_is_zero(p + want, n) != first)
				break;
			want += n;
		}
		ck_assert_uint_eq(plt_zero_run(p, len, unit, &zero), want);
		ck_assert_int_eq(zero, first);
	}
}
END_TEST

START_TEST(last_block_may_be_short)
{
	uint8_t buf[1000] = { 0 };
	bool zero;

	buf[999] = 1;
	ck_assert_uint_eq(plt_zero_run(buf, 1000, 512, &zero), 512);
	ck_assert(zero);
	ck_assert_uint_eq(plt_zero_run(buf, 999, 512, &zero), 999);
	ck_assert(zero);
	ck_assert_uint_eq(plt_zero_run(buf + 512, 488, 512, &zero), 488);
	ck_assert(!zero);
	ck_assert_uint_eq(plt_zero_run(buf, 1000, 4096, &zero), 1000);
	ck_assert(!zero);
	ck_assert_uint_eq(plt_zero_run(buf, 1, 1, &zero), 1);
	ck_assert(zero);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("zero");
	TCase *tc = tcase_create("zero");

	tcase_add_test(tc, every_place_counts);
	tcase_add_test(tc, reads_nothing_outside);
	tcase_add_test(tc, runs_agree_with_a_model);
	tcase_add_test(tc, last_block_may_be_short);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
