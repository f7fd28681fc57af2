/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The bitmap against an array of bool, of sizes around the edges of words. */
#include <errno.h>

#include "base/bitmap.h"
#include "tests/unit.h"

START_TEST(agrees_with_a_model)
{
	static const uint64_t sizes[] = { 1, 63, 64, 65, 127, 128, 129, 200 };
	uint64_t seed = plt_unit_seed();

	for (unsigned s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		bool model[256] = { false };
		struct plt_bitmap bm;

		ck_assert_int_eq(plt_bitmap_init(&bm, sizes[s]), 0);
		for (unsigned round = 0; round < 100; round++) {
			uint64_t i = plt_unit_random(&seed) % sizes[s];

			model[i] = true;
			plt_bitmap_set(&bm, i);
			for (i = 0; i < sizes[s]; i++)
				ck_assert_int_eq(plt_bitmap_test(&bm, i), model[i]);
		}
		plt_bitmap_release(&bm);
		plt_bitmap_release(&bm); /* does no harm */
	}
}
END_TEST

START_TEST(impossible_sizes_are_refused)
{
	struct plt_bitmap bm;

	ck_assert_int_eq(plt_bitmap_init(&bm, UINT64_MAX), -ENOMEM);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("bitmap");
	TCase *tc = tcase_create("bitmap");

	tcase_add_test(tc, agrees_with_a_model);
	tcase_add_test(tc, impossible_sizes_are_refused);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
