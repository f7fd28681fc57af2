/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* base/crc.c: the published check values, chaining, and the way back. */
#include "base/crc.h"

#include "tests/unit.h"

START_TEST(known_values)
{
	uint8_t buf[32] = { 0 };

	/* RFC 3720, B.4 */
	ck_assert_uint_eq(~plt_crc32c(~0u, buf, 32), 0x8a9136aau);
	memset(buf, 0xff, 32);
	ck_assert_uint_eq(~plt_crc32c(~0u, buf, 32), 0x62a8ab43u);
	ck_assert_uint_eq(~plt_crc32c(~0u, "123456789", 9), 0xe3069283u);
}
END_TEST

START_TEST(back_and_solve)
{
	uint64_t rnd = plt_unit_seed();
	uint8_t buf[300];

	for (int i = 0; i < 2000; i++) {
		size_t len = plt_unit_random(&rnd) % sizeof(buf), cut = len ? plt_unit_random(&rnd) % len : 0;
		uint32_t before = (uint32_t)plt_unit_random(&rnd), after;
		uint32_t word = (uint32_t)plt_unit_random(&rnd);
		uint8_t le[4] = { (uint8_t)word, (uint8_t)(word >> 8), (uint8_t)(word >> 16), (uint8_t)(word >> 24) };

		for (size_t k = 0; k < len; k++)
			buf[k] = (uint8_t)plt_unit_random(&rnd);
		after = plt_crc32c(before, buf, len);
		ck_assert_uint_eq(plt_crc32c(plt_crc32c(before, buf, cut), buf + cut, len - cut), after);
		ck_assert_uint_eq(plt_crc32c_by_table(before, buf, len), after);
		ck_assert_uint_eq(plt_crc32c_back(after, buf, len), before);
		ck_assert_uint_eq(plt_crc32c_solve(before, plt_crc32c(before, le, 4)), word);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("crc");
	TCase *tc = tcase_create("crc");

	tcase_add_test(tc, known_values);
	tcase_add_test(tc, back_and_solve);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
