/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Option texts, sizes and switches; the accepted forms and the words of refusal are QEMU's. */
#include <errno.h>

#include "formats/options.h"
#include "tests/unit.h"

static const char *const colours[] = { "red", "blue", NULL };
static const struct plt_opt_desc table[] = {
	{ .name = "size", .type = PLT_OPT_SIZE },
	{ .name = "cluster_size", .type = PLT_OPT_SIZE, .deflt = "64k" },
	{ .name = "lazy", .type = PLT_OPT_BOOL, .deflt = "off" },
	{ .name = "bits", .type = PLT_OPT_NUMBER, .deflt = "16" },
	{ .name = "nocow", .type = PLT_OPT_BOOL },
	{ .name = "colour", .type = PLT_OPT_STRING, .values = colours },
	{ .name = NULL },
};
static const struct plt_opt_desc more[] = {
	{ .name = "name", .type = PLT_OPT_STRING },
	{ .name = NULL },
};
static const struct plt_opt_desc *const tables[] = { table, more, NULL };

static const struct size_case {
	const char *text;
	int r;
	uint64_t value;
} sizes[] = {
	{ "0", 0, 0 },
	{ "512", 0, 512 },
	{ "010", 0, 10 },
	{ " 1", 0, 1 },
	{ "+1", 0, 1 },
	{ "1b", 0, 1 },
	{ "1.0", 0, 1 },
	{ "1.k", 0, 1024 },
	{ "1.5k", 0, 1536 },
	{ "1.3M", 0, 1363149 },
	{ "0.0000001k", 0, 0 },
	{ "2G", 0, UINT64_C(2) << 30 },
	{ "3t", 0, UINT64_C(3) << 40 },
	{ "4P", 0, UINT64_C(4) << 50 },
	{ "7.99999E", 0, UINT64_C(9223360507639729792) },
	{ "15E", 0, UINT64_C(15) << 60 },
	{ "0x10", 0, 16 },
	{ "0x10k", 0, 16384 },
	{ "0X1G", 0, 1 << 30 },
	{ "0x1e", 0, 30 },
	{ "18446744073709551615", 0, UINT64_MAX },
	{ "18446744073709551616", -ERANGE, 0 },
	{ "16E", -ERANGE, 0 },
	{ "15.99999999999999999999E", -ERANGE, 0 },
	{ "99999999999999999999", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "k", -EINVAL, 0 },
	{ ".5k", -EINVAL, 0 },
	{ "1.5", -EINVAL, 0 },
	{ "1.5b", -EINVAL, 0 },
	{ "1e3", -EINVAL, 0 },
	{ "1.e3", -EINVAL, 0 },
	{ "1kB", -EINVAL, 0 },
	{ "1 k", -EINVAL, 0 },
	{ "0x", -EINVAL, 0 },
	{ "0x1.8k", -EINVAL, 0 },
	{ "nan", -EINVAL, 0 },
	{ "1K1", -EINVAL, 0 },
};

START_TEST(size_forms)
{
	const struct size_case *c = &sizes[_i];
	uint64_t v = 77;

	ck_assert_msg(plt_parse_size(c->text, &v) == c->r, "'%s'", c->text);
	ck_assert_msg(v == (c->r ? 77 : c->value), "'%s' gave %llu", c->text,
		      (unsigned long long)v);
}
END_TEST

START_TEST(bool_forms)
{
	static const char *const yes[] = { "on", "yes", "true", "y" }, *const no[] = { "off", "no",
										       "false",
										       "n" };
	bool v;

	for (int i = 0; i < 4; i++) {
		v = false;
		ck_assert_int_eq(plt_parse_bool(yes[i], &v), 0);
		ck_assert(v);
		ck_assert_int_eq(plt_parse_bool(no[i], &v), 0);
		ck_assert(!v);
	}
	ck_assert_int_eq(plt_parse_bool("On", &v), -EINVAL);
	ck_assert_int_eq(plt_parse_bool("", &v), -EINVAL);
	ck_assert_int_eq(plt_parse_bool("1", &v), -EINVAL);
}
END_TEST

START_TEST(set_get_remove)
{
	struct plt_opts *o = plt_opts_new();

	for (int i = 0; i < 20; i++) {
		char key[8];

		snprintf(key, sizeof(key), "k%d", i);
		ck_assert_int_eq(plt_opts_set(o, key, "v"), 0);
	}
	ck_assert_int_eq(plt_opts_set(o, "k3", "other"), 0);
	ck_assert_int_eq(plt_opts_set(o, "k0", NULL), 0);
	ck_assert_int_eq(plt_opts_set(o, "none", NULL), 0);
	ck_assert_uint_eq(plt_opts_count(o), 19);
	ck_assert_str_eq(plt_opts_key(o, 0), "k1");
	ck_assert_str_eq(plt_opts_key(o, 18), "k19");
	ck_assert_ptr_null(plt_opts_key(o, 19));
	ck_assert_str_eq(plt_opts_get(o, "k3"), "other");
	ck_assert_ptr_null(plt_opts_get(o, "k0"));
	plt_opts_free(o);
	plt_opts_free(NULL);
}
END_TEST

START_TEST(parse_forms)
{
	struct plt_opts *o = plt_opts_new();

	ck_assert_int_eq(plt_opts_parse(o, "name=a,,b=c,lazy,colour=", table, NULL), 0);
	ck_assert_str_eq(plt_opts_get(o, "name"), "a,b=c");
	ck_assert_str_eq(plt_opts_get(o, "lazy"), "on");
	ck_assert_str_eq(plt_opts_get(o, "colour"), "");
	/* Texts add up, the last wins. */
	ck_assert_int_eq(plt_opts_parse(o, "nolazy,nocow,name=,,", table, NULL), 0);
	ck_assert_str_eq(plt_opts_get(o, "lazy"), "off");
	ck_assert_str_eq(plt_opts_get(o, "nocow"), "on");
	ck_assert_str_eq(plt_opts_get(o, "name"), ",");
	ck_assert_uint_eq(plt_opts_count(o), 4);
	plt_opts_free(o);

	o = plt_opts_new();
	ck_assert_int_eq(plt_opts_parse(o, "nolazy,x", NULL, NULL), 0);
	ck_assert_str_eq(plt_opts_get(o, "lazy"), "off");
	ck_assert_str_eq(plt_opts_get(o, "x"), "on");
	ck_assert_int_eq(plt_opts_parse(o, "", NULL, NULL), 0);
	ck_assert_uint_eq(plt_opts_count(o), 2);
	plt_opts_free(o);
}
END_TEST

START_TEST(validate_completes)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = plt_opts_new();

	ck_assert_int_eq(plt_opts_parse(o, "size=1.5k,bits=0x8,lazy=y,name=n", table, NULL), 0);
	ck_assert_int_eq(plt_opts_validate(o, tables, &err), 0);
	ck_assert_uint_eq(plt_opts_u64(o, "size"), 1536);
	ck_assert_str_eq(plt_opts_get(o, "size"), "1536");
	ck_assert_str_eq(plt_opts_get(o, "bits"), "8");
	ck_assert_uint_eq(plt_opts_u64(o, "cluster_size"), 65536);
	ck_assert(plt_opts_bool(o, "lazy"));
	ck_assert_str_eq(plt_opts_get(o, "lazy"), "y");
	ck_assert(!plt_opts_bool(o, "nocow"));
	ck_assert_ptr_null(plt_opts_get(o, "nocow"));
	ck_assert_uint_eq(plt_opts_u64(o, "absent"), 0);
	plt_opts_free(o);
}
END_TEST

static const struct refusal {
	const char *text, *words;
} refusals[] = {
	{ "foo=1", "Invalid parameter 'foo'" },
	{ "=3", "Invalid parameter ''" },
	{ "lazy=foo", "Parameter 'lazy' expects 'on' or 'off'" },
	{ "size=99E", "Value '99E' is out of range for parameter 'size'" },
	{ "bits=foo", "Parameter 'bits' expects a number" },
	{ "bits=1k", "Parameter 'bits' expects a number" },
	{ "bits=-1", "Parameter 'bits' expects a number" },
	{ "bits=99999999999999999999",
	  "Value '99999999999999999999' is too large for parameter 'bits'" },
	{ "size=-1", "Parameter 'size' expects a non-negative number below 2^64\n"
		     "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
		     "and exabytes, respectively." },
	{ "colour=green", "Parameter 'colour' does not accept value 'green'" },
};

START_TEST(validate_refuses)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = plt_opts_new();

	ck_assert_int_eq(plt_opts_parse(o, refusals[_i].text, table, NULL), 0);
	ck_assert_int_eq(plt_opts_validate(o, tables, &err), -EINVAL);
	ck_assert_str_eq(err.text, refusals[_i].words);
	plt_opts_free(o);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("formats/options");
	TCase *tc = tcase_create("options");

	tcase_add_loop_test(tc, size_forms, 0, sizeof(sizes) / sizeof(sizes[0]));
	tcase_add_test(tc, bool_forms);
	tcase_add_test(tc, set_get_remove);
	tcase_add_test(tc, parse_forms);
	tcase_add_test(tc, validate_completes);
	tcase_add_loop_test(tc, validate_refuses, 0, sizeof(refusals) / sizeof(refusals[0]));
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
