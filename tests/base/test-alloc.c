/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Capped allocation: products that overflow, limits met exactly and passed by one, nothing at all.
 */
#include <errno.h>

#include "base/alloc.h"
#include "tests/unit.h"

START_TEST(limit_is_inclusive)
{
	unsigned char *p = plt_alloc_capped(16, 64, 1024);

	ck_assert_ptr_nonnull(p);
	for (unsigned i = 0; i < 1024; i++)
		ck_assert_uint_eq(p[i], 0);
	free(p);
	errno = 0;
	ck_assert_ptr_null(plt_alloc_capped(1025, 1, 1024));
	ck_assert_int_eq(errno, EFBIG);
}
END_TEST

START_TEST(product_overflow_is_refused)
{
	errno = 0;
	ck_assert_ptr_null(plt_alloc_capped(UINT64_MAX, 2, UINT64_MAX));
	ck_assert_int_eq(errno, EFBIG);
	errno = 0;
	/* wraps to 16 */
	ck_assert_ptr_null(plt_alloc_capped((UINT64_C(1) << 60) + 1, 16, UINT64_MAX));
	ck_assert_int_eq(errno, EFBIG);
	errno = 0;
	ck_assert_ptr_null(plt_alloc_capped(UINT64_MAX, 1, UINT64_MAX));
	ck_assert_int_eq(errno, EFBIG);
}
END_TEST

START_TEST(nothing_is_a_valid_pointer)
{
	void *a = plt_alloc_capped(0, 8, 0), *b = plt_alloc_capped(8, 0, 0), *c = plt_alloc_io(0);

	ck_assert_ptr_nonnull(a);
	ck_assert_ptr_nonnull(b);
	ck_assert_ptr_nonnull(c);
	free(a);
	free(b);
	free(c);
}
END_TEST

START_TEST(io_memory_is_aligned)
{
	for (size_t len = 1; len < 100000; len = len * 3 + 1) {
		unsigned char *p = plt_alloc_io(len);

		ck_assert_ptr_nonnull(p);
		ck_assert_uint_eq((uintptr_t)p % 4096, 0);
		memset(p, 0xa5, len);
		free(p);
	}
	errno = 0;
	ck_assert_ptr_null(plt_alloc_io(SIZE_MAX));
	ck_assert_int_eq(errno, ENOMEM);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("alloc");
	TCase *tc = tcase_create("alloc");

	tcase_add_test(tc, limit_is_inclusive);
	tcase_add_test(tc, product_overflow_is_refused);
	tcase_add_test(tc, nothing_is_a_valid_pointer);
	tcase_add_test(tc, io_memory_is_aligned);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
