/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Secrets: base64 as others write it and as nobody should, decryption, UTF-8, files. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "crypt/secret.h"
#include "tests/unit.h"

static int decode(const char *text, struct plt_secret *s)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(plt_secret_set(s, text, strlen(text)), 0);
	return plt_secret_base64(s, &err);
}

START_TEST(base64)
{
	/* RFC 4648, section 10 */
	static const char *const good[][2] = {
		{ "", "" }, { "Zg==", "f" }, { "Zm8=", "fo" }, { "Zm9v", "foo" }, { "Zm9vYg==", "foob" },
		{ "Zm9vYmE=", "fooba" }, { "Zm9vYmFy", "foobar" }, { "Zm9v\nYmFy\n", "foobar" },
	};
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Zg==Zg==", "Z===", "=Zg=", "Zm9v!mFy", "Zg=a", "Zm9vY===" };
	struct plt_secret s = PLT_SECRET_INIT;

	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ck_assert_int_eq(decode(good[i][0], &s), 0);
		ck_assert_uint_eq(s.len, strlen(good[i][1]));
		ck_assert_str_eq((char *)s.data, good[i][1]);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(decode(bad[i], &s) == -EINVAL, "%s", bad[i]);
	plt_secret_release(&s);
}
END_TEST

/* The encrypted text was made with openssl enc -aes-256-cbc. */
START_TEST(decrypt)
{
	struct plt_secret key = PLT_SECRET_INIT, iv = PLT_SECRET_INIT, s = PLT_SECRET_INIT;
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_eq(decode("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", &key), 0);
	ck_assert_int_eq(decode("AAAAAAAAAAAAAAAAAAAAAA==", &iv), 0);
	ck_assert_int_eq(decode("nMlq0khtTouaTDh6cQDvCA==", &s), 0);
	ck_assert_int_eq(plt_secret_decrypt(&s, &key, &iv, &err), 0);
	ck_assert_str_eq((char *)s.data, "hunter2");
	ck_assert_uint_eq(s.len, 7);
	ck_assert_int_eq(decode("nMlq0khtTouaTDh6cQDvCA==", &s), 0);
	key.data[0] ^= 1;
	ck_assert_int_eq(plt_secret_decrypt(&s, &key, &iv, &err), -EINVAL);
	key.len = 31;
	ck_assert_int_eq(plt_secret_decrypt(&s, &key, &iv, &err), -EINVAL);
	key.len = 32;
	iv.len = 15;
	ck_assert_int_eq(plt_secret_decrypt(&s, &key, &iv, &err), -EINVAL);
	iv.len = 16;
	s.len = 15;
	ck_assert_int_eq(plt_secret_decrypt(&s, &key, &iv, &err), -EINVAL);
	plt_secret_release(&key);
	plt_secret_release(&iv);
	plt_secret_release(&s);
}
END_TEST

START_TEST(utf8)
{
	static const char *const good[] = { "", "abc", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };
	static const char *const bad[] = { "\xff", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
					   "a\x80", "\xf8\x88\x80\x80\x80" };
	struct plt_secret s = PLT_SECRET_INIT;

	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ck_assert_int_eq(plt_secret_set(&s, good[i], strlen(good[i])), 0);
		ck_assert_msg(plt_secret_is_utf8(&s), "%s", good[i]);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_int_eq(plt_secret_set(&s, bad[i], strlen(bad[i])), 0);
		ck_assert_msg(!plt_secret_is_utf8(&s), "%u", i);
	}
	plt_secret_release(&s);
}
END_TEST

START_TEST(files)
{
	struct plt_secret s = PLT_SECRET_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/key", plt_unit_dir());
	ck_assert_int_eq(plt_secret_read_file(&s, path, &err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err.text, "No such file"));
	f = fopen(path, "w");
	for (unsigned i = 0; i < 10000; i++)
		fputc('a' + (int)(i % 26), f);
	fclose(f);
	ck_assert_int_eq(plt_secret_read_file(&s, path, &err), 0);
	ck_assert_uint_eq(s.len, 10000);
	ck_assert_int_eq(s.data[9999], 'a' + 9999 % 26);
	f = fopen(path, "w");
	ck_assert_int_eq(ftruncate(fileno(f), PLT_SECRET_MAX + 1), 0);
	fclose(f);
	ck_assert_int_eq(plt_secret_read_file(&s, path, &err), -EFBIG);
	plt_secret_release(&s);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("secret");
	TCase *t = tcase_create("secret");

	tcase_add_test(t, base64);
	tcase_add_test(t, decrypt);
	tcase_add_test(t, utf8);
	tcase_add_test(t, files);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
