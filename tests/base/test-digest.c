/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Digests: known answers, refusal of what has no fixed size, one algorithm used by many threads at
 * once, and the block construction's two check values.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "base/digest.h"
#include "base/endian.h"
#include "tests/unit.h"

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", p[i]);
}

static void expect_block(const char *name, const char *text, const char *want)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t out[PLT_DIGEST_MAX];
	char got[2 * PLT_DIGEST_MAX + 1];
	struct plt_digest *d;

	ck_assert_int_eq(plt_digest_new(name, &d, &err), 0);
	/* Twice: the second time with a context that has been used. */
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(plt_digest_block(d, text, strlen(text), out), 0);
		hex(out, plt_digest_size(d), got);
		ck_assert_str_eq(got, want);
	}
	plt_digest_free(d);
}

START_TEST(known_answers)
{
	expect_block("sha256", "abc",
		     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	expect_block("SHA256", "",
		     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	expect_block("sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d");
	expect_block("md5", "abc", "900150983cd24fb0d6963f7d28e17f72");
	expect_block("sha512", "abc",
		     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
		     "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
}
END_TEST

START_TEST(unknown_and_unfit_names_are_refused)
{
	static const char *const names[] = {
		"", "nonsense", "shake128", "shake256", "null", "aes-256-cbc",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_digest *d = NULL;

		ck_assert_int_eq(plt_digest_new(names[i], &d, &err), -EINVAL);
		ck_assert_ptr_null(d);
		ck_assert_ptr_nonnull(strstr(err.text, names[i]));
		ck_assert_int_eq(err.code, EINVAL);
	}
	plt_digest_free(NULL);
}
END_TEST

START_TEST(stream_is_the_same_in_any_pieces)
{
	uint8_t data[1000], whole[PLT_DIGEST_MAX], pieces[PLT_DIGEST_MAX];
	struct plt_digest_stream *s;
	struct plt_digest *d;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	ck_assert_int_eq(plt_digest_new("sha256", &d, NULL), 0);
	ck_assert_int_eq(plt_digest_block(d, data, sizeof(data), whole), 0);
	for (size_t step = 1; step < 1200; step = step * 2 + 1) {
		ck_assert_int_eq(plt_digest_stream_new(d, &s), 0);
		for (size_t at = 0; at < sizeof(data); at += step)
			ck_assert_int_eq(plt_digest_stream_add(s, data + at,
					 step < sizeof(data) - at ? step : sizeof(data) - at), 0);
		ck_assert_int_eq(plt_digest_stream_end(s, pieces), 0);
		ck_assert_mem_eq(pieces, whole, plt_digest_size(d));
		plt_digest_stream_free(s);
	}
	plt_digest_stream_free(NULL);
	plt_digest_free(d);
}
END_TEST

struct shared {
	struct plt_digest *d;
	uint8_t want[64][32];
};

static void *hash_much(void *arg)
{
	const struct shared *sh = arg;
	uint8_t buf[300], out[PLT_DIGEST_MAX];

	for (unsigned i = 0; i < 3000; i++) {
		memset(buf, (int)(i % 64), sizeof(buf));
		if (plt_digest_block(sh->d, buf, sizeof(buf), out) ||
		    memcmp(out, sh->want[i % 64], 32))
			return arg;
	}
	return NULL;
}

START_TEST(any_thread_at_any_time)
{
	pthread_t threads[20]; /* more than there are context slots */
	struct shared sh;
	uint8_t buf[300];

	ck_assert_int_eq(plt_digest_new("sha256", &sh.d, NULL), 0);
	for (unsigned i = 0; i < 64; i++) {
		memset(buf, (int)i, sizeof(buf));
		ck_assert_int_eq(plt_digest_block(sh.d, buf, sizeof(buf), sh.want[i]), 0);
	}
	for (unsigned i = 0; i < 20; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hash_much, &sh), 0);
	for (unsigned i = 0; i < 20; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		ck_assert_ptr_null(failed);
	}
	plt_digest_free(sh.d);
}
END_TEST

/* The block digest of a whole buffer, put together by hand as base/digest.h describes it. */
static void block_digest(const uint8_t *data, uint64_t len, char *ret)
{
	uint8_t out[PLT_DIGEST_MAX], tail[8];
	struct plt_digest_stream *s;
	struct plt_digest *d;

	ck_assert_int_eq(plt_digest_new("sha256", &d, NULL), 0);
	ck_assert_int_eq(plt_digest_stream_new(d, &s), 0);
	for (uint64_t off = 0; off < len; off += 65536) {
		size_t n = len - off < 65536 ? (size_t)(len - off) : 65536;

		ck_assert_int_eq(plt_digest_block(d, data + off, n, out), 0);
		ck_assert_int_eq(plt_digest_stream_add(s, out, plt_digest_size(d)), 0);
	}
	plt_put_le64(tail, len);
	ck_assert_int_eq(plt_digest_stream_add(s, tail, 8), 0);
	ck_assert_int_eq(plt_digest_stream_end(s, out), 0);
	hex(out, plt_digest_size(d), ret);
	plt_digest_stream_free(s);
	plt_digest_free(d);
}

START_TEST(block_digest_of_the_empty_disk)
{
	char got[65];

	block_digest(NULL, 0, got);
	ck_assert_str_eq(got, "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc");
}
END_TEST

START_TEST(block_digest_of_hello_goodbye)
{
	size_t len = (1 << 20) + strlen("goodbye");
	uint8_t *data = calloc(1, len);
	char got[65];

	ck_assert_ptr_nonnull(data);
	memcpy(data, "hello", 5);
	memcpy(data + (1 << 20), "goodbye", 7);
	block_digest(data, len, got);
	ck_assert_str_eq(got, "61b8f3a8cea76e16eeff7ce27f1b7711c1f1e437f5038cec17773772a4bded28");
	free(data);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("digest");
	TCase *tc = tcase_create("digest");

	tcase_add_test(tc, known_answers);
	tcase_add_test(tc, unknown_and_unfit_names_are_refused);
	tcase_add_test(tc, stream_is_the_same_in_any_pieces);
	tcase_add_test(tc, any_thread_at_any_time);
	tcase_add_test(tc, block_digest_of_the_empty_disk);
	tcase_add_test(tc, block_digest_of_hello_goodbye);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
