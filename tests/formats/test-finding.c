/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* plt_emit(): one line, a count, and the rest as the driver gave it. */
#include "formats/finding.h"
#include "tests/unit.h"

static struct plt_finding got;
static char got_text[2048];
static int calls;

static void take(struct plt_examine *ex, const struct plt_finding *f)
{
	(void)ex;
	got = *f;
	strcpy(got_text, f->text);
	calls++;
}

START_TEST(formats_text)
{
	struct plt_examine ex = { .emit = take };

	plt_emit(&ex,
		 &(struct plt_finding){
			 .id = "Q-X", .severity = PLT_LEAK, .host_off = 4, .host_len = 5 },
		 "entry %d of '%s'", 7, "a\nb\033[c");
	ck_assert_int_eq(calls, 1);
	ck_assert_str_eq(got_text, "entry 7 of 'a b?[c'");
	ck_assert_str_eq(got.id, "Q-X");
	ck_assert_int_eq(got.severity, PLT_LEAK);
	ck_assert_uint_eq(got.count, 1);
	ck_assert_uint_eq(got.host_off, 4);
	ck_assert_uint_eq(got.host_len, 5);
}
END_TEST

START_TEST(keeps_count_and_bounds_text)
{
	struct plt_examine ex = { .emit = take };
	char *longer = malloc(5000);

	memset(longer, 'x', 4999);
	longer[4999] = '\0';
	plt_emit(&ex, &(struct plt_finding){ .id = "Q-X", .count = 12 }, "%s", longer);
	free(longer);
	ck_assert_uint_eq(got.count, 12);
	ck_assert_uint_eq(strlen(got_text), 1023);
}
END_TEST

START_TEST(nobody_listens)
{
	struct plt_examine ex = { 0 };

	calls = 0;
	plt_emit(&ex, &(struct plt_finding){ .id = "Q-X" }, "text");
	ck_assert_int_eq(calls, 0);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("formats/finding");
	TCase *tc = tcase_create("emit");

	tcase_add_test(tc, formats_text);
	tcase_add_test(tc, keeps_count_and_bounds_text);
	tcase_add_test(tc, nobody_listens);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
