/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * On-disk integers: byte order, any alignment, no padding in structures made of them.
 */
#include "base/endian.h"
#include "tests/unit.h"

static const uint8_t bytes[9] = { 0xee, 1, 2, 3, 4, 5, 6, 7, 8 };

START_TEST(bytes_have_their_order)
{
	const uint8_t *p = bytes + 1; /* unaligned on purpose */
	uint8_t out[9] = { 0 };

	ck_assert_uint_eq(plt_get_be16(p), 0x0102);
	ck_assert_uint_eq(plt_get_be32(p), 0x01020304);
	ck_assert_uint_eq(plt_get_be64(p), UINT64_C(0x0102030405060708));
	ck_assert_uint_eq(plt_get_le16(p), 0x0201);
	ck_assert_uint_eq(plt_get_le32(p), 0x04030201);
	ck_assert_uint_eq(plt_get_le64(p), UINT64_C(0x0807060504030201));

	plt_put_be64(out + 1, UINT64_C(0x0102030405060708));
	ck_assert_mem_eq(out + 1, p, 8);
	plt_put_le64(out + 1, UINT64_C(0x0807060504030201));
	ck_assert_mem_eq(out + 1, p, 8);
	plt_put_be32(out + 1, 0x01020304);
	ck_assert_mem_eq(out + 1, p, 4);
	plt_put_le16(out + 1, 0x0201);
	ck_assert_mem_eq(out + 1, p, 2);
	ck_assert_uint_eq(out[0], 0);
}
END_TEST

START_TEST(types_have_no_padding)
{
	struct mixed {
		uint8_t a;
		plt_be64 b;
		plt_le16 c;
		plt_be32 d;
	};

	ck_assert_uint_eq(sizeof(struct mixed), 15);
	ck_assert_uint_eq(offsetof(struct mixed, b), 1);
	ck_assert_uint_eq(plt_be32_get(plt_be32_make(0xdeadbeef)), 0xdeadbeef);
	ck_assert_uint_eq(plt_le64_get(plt_le64_make(UINT64_MAX - 1)), UINT64_MAX - 1);
	ck_assert_uint_eq(plt_be16_make(0x1234).b[0], 0x12);
	ck_assert_uint_eq(plt_le16_make(0x1234).b[0], 0x34);
}
END_TEST

START_TEST(words_in_memory)
{
	uint64_t word = plt_cpu_to_be64(UINT64_C(0x0102030405060708));

	ck_assert_mem_eq(&word, bytes + 1, 8);
	ck_assert_uint_eq(plt_be64_to_cpu(word), UINT64_C(0x0102030405060708));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("endian");
	TCase *tc = tcase_create("endian");

	tcase_add_test(tc, bytes_have_their_order);
	tcase_add_test(tc, types_have_no_padding);
	tcase_add_test(tc, words_in_memory);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
