/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Sets of ranges: coalescing at every kind of touch, splits, the end of 64 bits, and random
 * additions and removals against a model of one bool a byte.
 */
#include <errno.h>

#include "base/extents.h"
#include "tests/unit.h"

#define SPACE 160

static void check_shape(const struct plt_extents *ex)
{
	for (size_t i = 0; i < ex->n; i++) {
		ck_assert_uint_gt(ex->v[i].len, 0);
		if (i)
			ck_assert_uint_lt(ex->v[i - 1].off + ex->v[i - 1].len, ex->v[i].off);
	}
}

static void expect(const struct plt_extents *ex, size_t n, const struct plt_range *want)
{
	ck_assert_uint_eq(ex->n, n);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(ex->v[i].off, want[i].off);
		ck_assert_uint_eq(ex->v[i].len, want[i].len);
	}
}

#define EXPECT(ex, ...)                                                                            \
	expect(ex, sizeof((struct plt_range[]){ __VA_ARGS__ }) / sizeof(struct plt_range),         \
	       (struct plt_range[]){ __VA_ARGS__ })

START_TEST(neighbours_coalesce)
{
	struct plt_extents ex = PLT_EXTENTS_INIT;

	ck_assert_int_eq(plt_extents_add(&ex, 10, 10), 0);
	ck_assert_int_eq(plt_extents_add(&ex, 30, 10), 0);
	EXPECT(&ex, { 10, 10 }, { 30, 10 });
	ck_assert_int_eq(plt_extents_add(&ex, 5, 5), 0);   /* touches from below */
	ck_assert_int_eq(plt_extents_add(&ex, 40, 1), 0);  /* touches from above */
	EXPECT(&ex, { 5, 15 }, { 30, 11 });
	ck_assert_int_eq(plt_extents_add(&ex, 20, 10), 0); /* closes the gap exactly */
	EXPECT(&ex, { 5, 36 });
	ck_assert_int_eq(plt_extents_add(&ex, 6, 3), 0);   /* inside */
	ck_assert_int_eq(plt_extents_add(&ex, 100, 0), 0); /* nothing */
	EXPECT(&ex, { 5, 36 });
	ck_assert_int_eq(plt_extents_add(&ex, 0, 200), 0); /* swallows */
	EXPECT(&ex, { 0, 200 });
	plt_extents_release(&ex);
	ck_assert_uint_eq(ex.n, 0);
}
END_TEST

START_TEST(removal_splits)
{
	struct plt_extents ex = PLT_EXTENTS_INIT;

	ck_assert_int_eq(plt_extents_remove(&ex, 0, 10), 0);
	ck_assert_int_eq(plt_extents_add(&ex, 0, 100), 0);
	ck_assert_int_eq(plt_extents_remove(&ex, 40, 20), 0);
	EXPECT(&ex, { 0, 40 }, { 60, 40 });
	ck_assert_int_eq(plt_extents_remove(&ex, 40, 20), 0); /* what is gone already */
	ck_assert_int_eq(plt_extents_remove(&ex, 50, 0), 0);
	EXPECT(&ex, { 0, 40 }, { 60, 40 });
	ck_assert_int_eq(plt_extents_remove(&ex, 30, 40), 0); /* a tail and a head */
	EXPECT(&ex, { 0, 30 }, { 70, 30 });
	ck_assert_int_eq(plt_extents_remove(&ex, 70, 30), 0); /* exactly one */
	EXPECT(&ex, { 0, 30 });
	ck_assert_int_eq(plt_extents_remove(&ex, 0, UINT64_MAX), 0);
	ck_assert_uint_eq(ex.n, 0);
	plt_extents_release(&ex);
}
END_TEST

START_TEST(the_end_of_64_bits)
{
	struct plt_extents ex = PLT_EXTENTS_INIT;

	ck_assert_int_eq(plt_extents_add(&ex, UINT64_MAX - 10, 10), 0);
	EXPECT(&ex, { UINT64_MAX - 10, 10 });
	ck_assert_int_eq(plt_extents_add(&ex, UINT64_MAX - 10, 11), -EINVAL);
	ck_assert_int_eq(plt_extents_add(&ex, 5, UINT64_MAX), -EINVAL);
	ck_assert_int_eq(plt_extents_remove(&ex, UINT64_MAX, 1), -EINVAL);
	EXPECT(&ex, { UINT64_MAX - 10, 10 });
	ck_assert(plt_extents_overlaps(&ex, UINT64_MAX - 11, UINT64_MAX));
	ck_assert(!plt_extents_overlaps(&ex, 0, UINT64_MAX - 10));
	ck_assert(plt_extents_overlaps(&ex, 0, UINT64_MAX - 9));
	ck_assert_ptr_null(plt_extents_find(&ex, UINT64_MAX));
	plt_extents_release(&ex);
}
END_TEST

static void compare_with_model(const struct plt_extents *ex, const bool *model)
{
	uint64_t total = 0;

	check_shape(ex);
	for (uint64_t off = 0; off < SPACE; off++) {
		const struct plt_range *r = plt_extents_find(ex, off);
		bool in = r && r->off <= off;
		uint64_t next = off;

		total += model[off];
		ck_assert_int_eq(in, model[off]);
		while (next < SPACE && !model[next])
			next++;
		if (next == SPACE)
			ck_assert_ptr_null(r);
		else
			ck_assert(r && off < r->off + r->len && (in || r->off == next));
		for (uint64_t len = 0; len < 6; len++) {
			bool any = false;

			for (uint64_t i = off; i < off + len && i < SPACE; i++)
				any |= model[i];
			ck_assert_int_eq(plt_extents_overlaps(ex, off, len), any);
		}
	}
	ck_assert_uint_eq(plt_extents_total(ex), total);
}

START_TEST(agrees_with_a_model)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned run = 0; run < 10; run++) {
		struct plt_extents ex = PLT_EXTENTS_INIT;
		bool model[SPACE] = { false };

		for (unsigned round = 0; round < 100; round++) {
			uint64_t off = plt_unit_random(&seed) % SPACE;
			uint64_t len = plt_unit_random(&seed) % 16;
			bool add = plt_unit_random(&seed) % 5 < 3;

			if (len > SPACE - off)
				len = SPACE - off;
			if (add)
				ck_assert_int_eq(plt_extents_add(&ex, off, len), 0);
			else
				ck_assert_int_eq(plt_extents_remove(&ex, off, len), 0);
			for (uint64_t i = off; i < off + len; i++)
				model[i] = add;
			compare_with_model(&ex, model);
		}
		plt_extents_release(&ex);
	}
}
END_TEST

START_TEST(many_appends)
{
	struct plt_extents ex = PLT_EXTENTS_INIT;

	for (uint64_t i = 0; i < 200000; i++)
		ck_assert_int_eq(plt_extents_add(&ex, i * 10, 5), 0);
	ck_assert_uint_eq(ex.n, 200000);
	ck_assert_uint_eq(plt_extents_total(&ex), 1000000);
	for (uint64_t i = 0; i < 200000; i++)
		ck_assert_int_eq(plt_extents_add(&ex, 3000000 + i * 5, 5), 0);
	ck_assert_uint_eq(ex.n, 200001);
	plt_extents_release(&ex);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("extents");
	TCase *tc = tcase_create("extents");

	tcase_add_test(tc, neighbours_coalesce);
	tcase_add_test(tc, removal_splits);
	tcase_add_test(tc, the_end_of_64_bits);
	tcase_add_test(tc, agrees_with_a_model);
	tcase_add_test(tc, many_appends);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
