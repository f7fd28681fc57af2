/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The bitmap against an array of bool: random ranges, searches from every bit, sizes around the
 * edges of words.
 */
#include <errno.h>

#include "base/bitmap.h"
#include "tests/unit.h"

static uint64_t model_next(const bool *model, uint64_t nbits, uint64_t from, bool value)
{
	while (from < nbits && model[from] != value)
		from++;
	return from < nbits ? from : nbits;
}

START_TEST(agrees_with_a_model)
{
	static const uint64_t sizes[] = { 0, 1, 63, 64, 65, 127, 128, 129, 200 };
	uint64_t seed = plt_unit_seed();

	for (unsigned s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		uint64_t nbits = sizes[s], count = 0;
		bool model[256] = { false };
		struct plt_bitmap bm;

		ck_assert_int_eq(plt_bitmap_init(&bm, nbits), 0);
		for (unsigned round = 0; round < 200; round++) {
			uint64_t first = plt_unit_random(&seed) % (nbits + 1);
			uint64_t n = plt_unit_random(&seed) % (nbits - first + 1);
			bool set = plt_unit_random(&seed) & 1;

			for (uint64_t i = first; i < first + n; i++)
				model[i] = set;
			if (set)
				plt_bitmap_set_range(&bm, first, n);
			else
				plt_bitmap_clear_range(&bm, first, n);
			if (nbits) {
				uint64_t one = plt_unit_random(&seed) % nbits;

				model[one] = !model[one];
				if (model[one])
					plt_bitmap_set(&bm, one);
				else
					plt_bitmap_clear(&bm, one);
			}
			count = 0;
			for (uint64_t i = 0; i < nbits; i++) {
				count += model[i];
				ck_assert_int_eq(plt_bitmap_test(&bm, i), model[i]);
				ck_assert_uint_eq(plt_bitmap_next_set(&bm, i),
						  model_next(model, nbits, i, true));
				ck_assert_uint_eq(plt_bitmap_next_clear(&bm, i),
						  model_next(model, nbits, i, false));
			}
			ck_assert_uint_eq(plt_bitmap_count(&bm), count);
		}
		ck_assert_uint_eq(plt_bitmap_next_set(&bm, nbits), nbits);
		ck_assert_uint_eq(plt_bitmap_next_set(&bm, UINT64_MAX), nbits);
		ck_assert_uint_eq(plt_bitmap_next_clear(&bm, UINT64_MAX), nbits);
		plt_bitmap_release(&bm);
	}
}
END_TEST

START_TEST(full_map_has_no_clear_bit)
{
	struct plt_bitmap bm;

	ck_assert_int_eq(plt_bitmap_init(&bm, 130), 0);
	plt_bitmap_set_range(&bm, 0, 130);
	ck_assert_uint_eq(plt_bitmap_count(&bm), 130);
	ck_assert_uint_eq(plt_bitmap_next_clear(&bm, 0), 130);
	plt_bitmap_release(&bm);
	plt_bitmap_release(&bm);
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
	tcase_add_test(tc, full_map_has_no_clear_bit);
	tcase_add_test(tc, impossible_sizes_are_refused);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
