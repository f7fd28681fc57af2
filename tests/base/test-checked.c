/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Checked arithmetic at the edges of 64 bits, against the same sums in 128 bits.
 */
#include "base/checked.h"
#include "tests/unit.h"

static const uint64_t edges[] = {
	0, 1, 2, 3, 511, 512, 513, 65535, 65536, UINT32_MAX, UINT64_C(1) << 32,
	UINT64_C(1) << 62, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 511, UINT64_MAX - 1, UINT64_MAX,
};

START_TEST(agrees_with_128_bits)
{
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(edges); i++) {
		for (unsigned k = 0; k < PLT_ARRAY_SIZE(edges); k++) {
			uint64_t a = edges[i], b = edges[k], r;
			unsigned __int128 sum = (unsigned __int128)a + b;
			unsigned __int128 product = (unsigned __int128)a * b;

			ck_assert_int_eq(plt_add(a, b, &r), sum >> 64 != 0);
			if (!(sum >> 64))
				ck_assert_uint_eq(r, (uint64_t)sum);
			ck_assert_int_eq(plt_mul(a, b, &r), product >> 64 != 0);
			if (!(product >> 64))
				ck_assert_uint_eq(r, (uint64_t)product);
			if (b) {
				unsigned __int128 up = ((unsigned __int128)a + b - 1) / b * b;

				ck_assert_uint_eq(plt_div_up(a, b),
						  (uint64_t)(((unsigned __int128)a + b - 1) / b));
				/* may refuse a value close to 2^64, must never be wrong */
				if (!plt_align_up_checked(a, b, &r))
					ck_assert(up == r);
				else
					ck_assert(((unsigned __int128)a + b - 1) >> 64);
				ck_assert_uint_eq(plt_align_down(a, b) % b, 0);
				ck_assert(a - plt_align_down(a, b) < b);
			}
		}
	}
}
END_TEST

START_TEST(shift_never_loses_bits)
{
	uint64_t r;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(edges); i++) {
		for (unsigned bits = 0; bits < 130; bits++) {
			bool over = plt_shl(edges[i], bits, &r);
			bool want = edges[i] && (bits >= 64 || edges[i] > UINT64_MAX >> bits);

			ck_assert_int_eq(over, want);
			if (!over)
				ck_assert_uint_eq(r, bits >= 64 ? 0 : edges[i] << bits);
		}
	}
}
END_TEST

START_TEST(ranges)
{
	ck_assert(plt_in_range(0, 0, 0));
	ck_assert(plt_in_range(10, 0, 10));
	ck_assert(plt_in_range(0, UINT64_MAX, UINT64_MAX));
	ck_assert(!plt_in_range(1, UINT64_MAX, UINT64_MAX));
	ck_assert(!plt_in_range(UINT64_MAX, 1, UINT64_MAX));
	ck_assert(!plt_in_range(11, 0, 10));
	ck_assert(!plt_in_range(UINT64_MAX - 1, 3, 10));
	ck_assert(plt_ranges_overlap(0, 10, 9, 1));
	ck_assert(!plt_ranges_overlap(0, 10, 10, 1));
	ck_assert(!plt_ranges_overlap(5, 0, 0, 10));
	ck_assert(plt_is_pow2(1) && plt_is_pow2(UINT64_C(1) << 63));
	ck_assert(!plt_is_pow2(0) && !plt_is_pow2(3) && !plt_is_pow2(UINT64_MAX));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("checked");
	TCase *tc = tcase_create("checked");

	tcase_add_test(tc, agrees_with_128_bits);
	tcase_add_test(tc, shift_never_loses_bits);
	tcase_add_test(tc, ranges);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
