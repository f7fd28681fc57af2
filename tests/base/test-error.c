/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Text of errors: codes, prefixes, what happens where a text does not fit, and that hostile bytes
 * cannot make a message end in half a character or forge a second line.
 */
#include "base/error.h"
#include "tests/unit.h"

START_TEST(set_gives_code_and_text)
{
	struct plt_error err = PLT_ERROR_INIT;

	errno = EINTR;
	ck_assert_int_eq(plt_error_set(&err, EUCLEAN, "L2 entry %d: %s", 7, "bad"), -EUCLEAN);
	ck_assert_int_eq(err.code, EUCLEAN);
	ck_assert_str_eq(err.text, "L2 entry 7: bad");
	ck_assert_int_eq(errno, EINTR);
}
END_TEST

START_TEST(null_error_is_allowed)
{
	ck_assert_int_eq(plt_error_set(NULL, EIO, "x"), -EIO);
	ck_assert_int_eq(plt_error_errno(NULL, EIO, "x"), -EIO);
	ck_assert_int_eq(plt_error_default(NULL, EIO, "x"), -EIO);
	plt_error_prefix(NULL, "x");
}
END_TEST

START_TEST(errno_appends_its_text)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_error_errno(&err, ENOENT, "Could not open '%s'", "a"), -ENOENT);
	ck_assert_str_eq(err.text, "Could not open 'a': No such file or directory");
	ck_assert_int_eq(err.code, ENOENT);
}
END_TEST

START_TEST(prefix_reads_outside_in)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_prefix(&err, "nothing");
	ck_assert_str_eq(err.text, "");
	plt_error_set(&err, EIO, "grain table %d", 7);
	plt_error_prefix(&err, "backing file '%s'", "b.vmdk");
	plt_error_prefix(&err, "overlay '%s'", "a.qcow2");
	ck_assert_str_eq(err.text, "overlay 'a.qcow2': backing file 'b.vmdk': grain table 7");
	ck_assert_int_eq(err.code, EIO);
}
END_TEST

START_TEST(default_keeps_what_is_there)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_error_default(&err, EIO, "first"), -EIO);
	ck_assert_int_eq(plt_error_default(&err, ENOSPC, "second"), -ENOSPC);
	ck_assert_str_eq(err.text, "first");
	ck_assert_int_eq(err.code, EIO);
}
END_TEST

START_TEST(arguments_may_be_the_old_text)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, EIO, "inner");
	plt_error_set(&err, EINVAL, "outer (%s) (%s)", err.text, err.text);
	ck_assert_str_eq(err.text, "outer (inner) (inner)");
}
END_TEST

START_TEST(long_text_is_cut_at_the_end)
{
	struct {
		struct plt_error err;
		char guard[16];
	} s;
	char longer[4000];

	memset(&s, 0x5a, sizeof(s));
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	plt_error_set(&s.err, EIO, "%s", longer);
	ck_assert_uint_eq(strlen(s.err.text), sizeof(s.err.text) - 1);
	ck_assert_int_eq(s.guard[0], 0x5a);

	/* A prefix keeps its own text whole and pushes the tail out. */
	plt_error_prefix(&s.err, "name");
	ck_assert_uint_eq(strlen(s.err.text), sizeof(s.err.text) - 1);
	ck_assert_int_eq(strncmp(s.err.text, "name: xxx", 9), 0);

	/* One that fits to the last byte is not cut. */
	longer[sizeof(s.err.text) - 1] = '\0';
	longer[sizeof(s.err.text) - 2] = 'e';
	plt_error_set(&s.err, EIO, "%s", longer);
	ck_assert_str_eq(s.err.text, longer);

	/* errno's text does not fit any more. */
	plt_error_errno(&s.err, EIO, "%s", longer);
	ck_assert_str_eq(s.err.text, longer);
	ck_assert_int_eq(s.guard[0], 0x5a);
}
END_TEST

START_TEST(a_cut_never_splits_a_character)
{
	const char *const chars[] = { "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x92\xbe" };
	struct plt_error err = PLT_ERROR_INIT;

	for (unsigned c = 0; c < 3; c++) {
		size_t n = strlen(chars[c]);

		for (size_t shift = 0; shift < 5; shift++) {
			char text[3000] = "";
			size_t len, whole;

			memset(text, 'x', shift);
			len = shift;
			while (len < 2000) {
				memcpy(text + len, chars[c], n);
				len += n;
			}
			plt_error_set(&err, EIO, "%s", text);
			whole = shift + (sizeof(err.text) - 1 - shift) / n * n;
			ck_assert_uint_eq(strlen(err.text), whole);
			ck_assert_int_eq(memcmp(err.text, text, whole), 0);
		}
	}
}
END_TEST

START_TEST(only_the_message_breaks_its_line)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, EBUSY, "Failed to get %s lock\nIs it [%s]?", "write", "a");
	ck_assert_str_eq(err.text, "Failed to get write lock\nIs it [a]?");
	plt_error_prefix(&err, "Could not open '%s'", "b\nc");
	ck_assert_str_eq(err.text, "Could not open 'b c': Failed to get write lock\nIs it [a]?");
	plt_error_set(&err, EBUSY, "lock\n[%s]", "a\nqemu-img: all is well");
	ck_assert_str_eq(err.text, "lock [a qemu-img: all is well]");
}
END_TEST

START_TEST(hostile_bytes_stay_one_line_of_utf8)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, EIO, "%s", "'a\nb' '\x1b[31m' '\x7f' '\t'");
	ck_assert_str_eq(err.text, "'a b' '?[31m' '?' '?'");
	/* not UTF-8: a bare continuation, an overlong form, a surrogate, beyond U+10FFFF, cut short */
	plt_error_set(&err, EIO, "%s",
		      "\x80|\xc0\xaf|\xe0\x80\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82");
	ck_assert_str_eq(err.text, "?|\?\?|\?\?\?|\?\?\?|\?\?\?\?|\?\?");
	plt_error_set(&err, EIO, "%s", "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x92\xbe \xed\x9f\xbf");
	ck_assert_str_eq(err.text, "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x92\xbe \xed\x9f\xbf");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("error");
	TCase *tc = tcase_create("error");

	tcase_add_test(tc, set_gives_code_and_text);
	tcase_add_test(tc, null_error_is_allowed);
	tcase_add_test(tc, errno_appends_its_text);
	tcase_add_test(tc, prefix_reads_outside_in);
	tcase_add_test(tc, default_keeps_what_is_there);
	tcase_add_test(tc, arguments_may_be_the_old_text);
	tcase_add_test(tc, long_text_is_cut_at_the_end);
	tcase_add_test(tc, a_cut_never_splits_a_character);
	tcase_add_test(tc, only_the_message_breaks_its_line);
	tcase_add_test(tc, hostile_bytes_stay_one_line_of_utf8);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
