/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Sector ciphers and PBKDF2: published vectors; every mode against OpenSSL's own interface, sector by
 * sector with initial vectors made here; one cipher used by many threads at once; names that are
 * refused.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>

#include "base/endian.h"
#include "crypt/cipher.h"
#include "tests/unit.h"

static void from_hex(const char *hex, uint8_t *out)
{
	for (; *hex; hex += 2)
		sscanf(hex, "%2hhx", out++);
}

static void expect_hex(const uint8_t *p, const char *want)
{
	char got[129] = "";

	for (size_t i = 0; i < strlen(want) / 2; i++)
		sprintf(got + 2 * i, "%02x", p[i]);
	ck_assert_str_eq(got, want);
}

static struct plt_cipher *make(struct plt_cipher_spec spec, const uint8_t *key)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_cipher *c = NULL;

	ck_assert_msg(plt_cipher_new(&spec, key, plt_cipher_key_bytes(&spec), &c, &err) == 0, "%s", err.text);
	return c;
}

/* IEEE 1619-2007, annex B: vectors 4 (XTS-AES-128, unit 0) and 10 (XTS-AES-256, unit 0xff). */
START_TEST(xts_vectors)
{
	static const struct {
		struct plt_cipher_spec spec;
		const char *key;
		uint64_t sector;
		const char *first, *last;
	} v[] = {
		{ { PLT_AES_128, PLT_MODE_XTS, PLT_IV_PLAIN64, 0 },
		  "2718281828459045235360287471352631415926535897932384626433832795", 0,
		  "27a7479befa1d476489f308cd4cfa6e2", "0a282df920147beabe421ee5319d0568" },
		{ { PLT_AES_256, PLT_MODE_XTS, PLT_IV_PLAIN, 0 },
		  "2718281828459045235360287471352662497757247093699959574966967627"
		  "3141592653589793238462643383279502884197169399375105820974944592", 0xff,
		  "1c3b3a102f770386e4836c99e370cf9b", "c4f36ffda9fcea70b9c6e693e148c151" },
	};

	for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		uint8_t key[64], in[512], out[512];
		struct plt_cipher *c;

		from_hex(v[i].key, key);
		for (unsigned k = 0; k < 512; k++)
			in[k] = (uint8_t)k;
		c = make(v[i].spec, key);
		ck_assert_int_eq(plt_cipher_encrypt(c, v[i].sector, in, out, 512), 0);
		expect_hex(out, v[i].first);
		expect_hex(out + 496, v[i].last);
		ck_assert_int_eq(plt_cipher_decrypt(c, v[i].sector, out, out, 512), 0);
		ck_assert_mem_eq(in, out, 512);
		plt_cipher_free(c);
	}
}
END_TEST

/* One sector with OpenSSL alone. */
static void reference(const struct plt_cipher_spec *s, const uint8_t *key, uint64_t sector, const uint8_t *in,
		      uint8_t *out)
{
	static const unsigned bits[] = { 128, 192, 256 };
	uint8_t iv[16] = { 0 }, hashed[64];
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	EVP_CIPHER *c;
	char name[32];
	int n;

	plt_put_le64(iv, s->ivgen == PLT_IV_PLAIN ? sector & 0xffffffff : sector);
	if (s->ivgen == PLT_IV_ESSIV) {
		ck_assert(EVP_Digest(key, plt_cipher_key_bytes(s), hashed, NULL, EVP_sha256(), NULL) > 0);
		ck_assert(EVP_EncryptInit_ex2(x, EVP_aes_256_ecb(), hashed, NULL, NULL) > 0);
		ck_assert(EVP_EncryptUpdate(x, iv, &n, iv, 16) > 0);
	}
	snprintf(name, sizeof(name), "aes-%u-%s", bits[s->alg], plt_cipher_mode_name(s->mode));
	c = EVP_CIPHER_fetch(NULL, name, NULL);
	ck_assert_ptr_nonnull(c);
	ck_assert(EVP_EncryptInit_ex2(x, c, key, s->mode == PLT_MODE_ECB ? NULL : iv, NULL) > 0);
	EVP_CIPHER_CTX_set_padding(x, 0);
	ck_assert(EVP_EncryptUpdate(x, out, &n, in, 512) > 0);
	ck_assert_int_eq(n, 512);
	EVP_CIPHER_free(c);
	EVP_CIPHER_CTX_free(x);
}

START_TEST(all_modes)
{
	uint64_t seed = plt_unit_seed();
	uint8_t key[64], in[3 * 512], out[3 * 512], want[3 * 512];

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)plt_unit_random(&seed);
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)plt_unit_random(&seed);
	for (unsigned a = 0; a < PLT_CIPHER_ALGS; a++)
		for (unsigned m = 0; m < PLT_CIPHER_MODES; m++)
			for (unsigned g = 0; g < PLT_IVGENS; g++) {
				struct plt_cipher_spec s = { a, m, g, PLT_HASH_SHA256 };
				uint64_t sector = (UINT64_C(7) << 32) + plt_unit_random(&seed) % 1000;
				struct plt_cipher *c;

				if (a == PLT_AES_192 && m == PLT_MODE_XTS) /* OpenSSL has none; below */
					continue;
				c = make(s, key);
				for (unsigned k = 0; k < 3; k++)
					reference(&s, key, sector + k, in + k * 512, want + k * 512);
				ck_assert_int_eq(plt_cipher_encrypt(c, sector, in, out, sizeof(in)), 0);
				ck_assert_mem_eq(out, want, sizeof(out));
				ck_assert_int_eq(plt_cipher_decrypt(c, sector, out, out, sizeof(in)), 0);
				ck_assert_mem_eq(out, in, sizeof(out));
				plt_cipher_free(c);
			}
}
END_TEST

/* AES-192 in XTS mode, by the definition, a block at a time. */
START_TEST(xts_192)
{
	uint8_t key[48], in[1024], out[1024], t[16], b[16];
	struct plt_cipher_spec s = { PLT_AES_192, PLT_MODE_XTS, PLT_IV_PLAIN64, 0 };
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	struct plt_cipher *c;
	int n;

	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 11 + 3);
	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 256);
	c = make(s, key);
	ck_assert_int_eq(plt_cipher_encrypt(c, 41, in, out, sizeof(in)), 0);
	for (unsigned sector = 0; sector < 2; sector++) {
		memset(t, 0, 16);
		t[0] = (uint8_t)(41 + sector);
		EVP_EncryptInit_ex2(x, EVP_aes_192_ecb(), key + 24, NULL, NULL);
		EVP_EncryptUpdate(x, t, &n, t, 16);
		EVP_EncryptInit_ex2(x, EVP_aes_192_ecb(), key, NULL, NULL);
		for (unsigned j = 0; j < 32; j++) {
			const uint8_t *p = in + sector * 512 + j * 16;
			unsigned carry = 0;

			for (unsigned k = 0; k < 16; k++)
				b[k] = p[k] ^ t[k];
			EVP_EncryptUpdate(x, b, &n, b, 16);
			for (unsigned k = 0; k < 16; k++)
				ck_assert_uint_eq(b[k] ^ t[k], out[sector * 512 + j * 16 + k]);
			for (unsigned k = 0; k < 16; k++) {
				unsigned v = t[k];

				t[k] = (uint8_t)(v << 1 | carry);
				carry = v >> 7;
			}
			t[0] ^= carry ? 0x87 : 0;
		}
	}
	ck_assert_int_eq(plt_cipher_decrypt(c, 41, out, out, sizeof(in)), 0);
	ck_assert_mem_eq(in, out, sizeof(in));
	EVP_CIPHER_CTX_free(x);
	plt_cipher_free(c);
}
END_TEST

struct thread {
	struct plt_cipher *c;
	const uint8_t *in, *want;
	bool ok;
};

static void *hammer(void *arg)
{
	struct thread *t = arg;
	uint8_t buf[4096];

	t->ok = true;
	for (unsigned i = 0; i < 300; i++) {
		t->ok = t->ok && plt_cipher_encrypt(t->c, 5, t->in, buf, sizeof(buf)) == 0 &&
			!memcmp(buf, t->want, sizeof(buf)) &&
			plt_cipher_decrypt(t->c, 5, buf, buf, sizeof(buf)) == 0 && !memcmp(buf, t->in, sizeof(buf));
	}
	return NULL;
}

START_TEST(threads_share_a_cipher)
{
	static const struct plt_cipher_spec specs[] = {
		{ PLT_AES_256, PLT_MODE_XTS, PLT_IV_PLAIN64, 0 },
		{ PLT_AES_128, PLT_MODE_CBC, PLT_IV_ESSIV, PLT_HASH_SHA256 },
		{ PLT_AES_192, PLT_MODE_XTS, PLT_IV_PLAIN64, 0 },
	};

	for (unsigned s = 0; s < 3; s++) {
		uint8_t key[64], in[4096], want[4096];
		struct thread t[6];
		pthread_t id[6];

		for (unsigned i = 0; i < 64; i++)
			key[i] = (uint8_t)(i * 13);
		for (unsigned i = 0; i < sizeof(in); i++)
			in[i] = (uint8_t)(i * i);
		t[0].c = make(specs[s], key);
		ck_assert_int_eq(plt_cipher_encrypt(t[0].c, 5, in, want, sizeof(in)), 0);
		for (unsigned i = 0; i < 6; i++) {
			t[i] = (struct thread){ t[0].c, in, want, false };
			ck_assert_int_eq(pthread_create(&id[i], NULL, hammer, &t[i]), 0);
		}
		for (unsigned i = 0; i < 6; i++) {
			pthread_join(id[i], NULL);
			ck_assert(t[i].ok);
		}
		plt_cipher_free(t[0].c);
	}
}
END_TEST

START_TEST(what_is_refused)
{
	struct plt_error err = PLT_ERROR_INIT;
	enum plt_cipher_alg a;
	enum plt_hash h;
	struct plt_cipher *c = NULL;
	uint8_t key[64] = { 0 };
	struct plt_cipher_spec s = { PLT_AES_256, PLT_MODE_CBC, PLT_IV_ESSIV, PLT_HASH_SHA1 };

	ck_assert_int_eq(plt_cipher_alg_find("serpent-256", &a), -ENOTSUP);
	ck_assert_int_eq(plt_cipher_alg_find("twofish-128", &a), -ENOTSUP);
	ck_assert_int_eq(plt_cipher_alg_find("cast5-128", &a), -ENOTSUP);
	ck_assert_int_eq(plt_cipher_alg_find("rot13", &a), -EINVAL);
	ck_assert_int_eq(plt_hash_find("whirlpool", &h), -EINVAL);
	ck_assert_int_eq(plt_cipher_new(&s, key, 32, &c, &err), -ENOTSUP); /* 20 bytes are no AES key */
	s.ivgen = PLT_IV_PLAIN64;
	ck_assert_int_eq(plt_cipher_new(&s, key, 31, &c, &err), -EINVAL);
	s.mode = PLT_MODE_XTS; /* both halves alike: no XTS */
	ck_assert_int_eq(plt_cipher_new(&s, key, 64, &c, &err), -EINVAL);
	ck_assert_ptr_null(c);
	s.mode = PLT_MODE_CBC;
	c = make(s, key);
	ck_assert_int_eq(plt_cipher_encrypt(c, 0, key, key, 60), -EIO); /* no whole sector */
	plt_cipher_free(c);
}
END_TEST

/* RFC 6070 */
START_TEST(pbkdf2_vectors)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t out[64];
	uint32_t n;

	ck_assert_int_eq(plt_pbkdf2(PLT_HASH_SHA1, "password", 8, (const uint8_t *)"salt", 4, 4096, out, 20, &err), 0);
	expect_hex(out, "4b007901b765489abead49d926f721d065a429c1");
	ck_assert_int_eq(plt_pbkdf2(PLT_HASH_SHA1, "pass\0word", 9, (const uint8_t *)"sa\0lt", 5, 4096, out, 16, &err),
			 0);
	expect_hex(out, "56fa6aa75548099dcc37d7f03425e0c3");
	ck_assert_int_eq(plt_pbkdf2(PLT_HASH_SHA1, "", 0, out, 4, 0, out, 16, &err), -EINVAL);
	for (unsigned h = 0; h < PLT_HASHES; h++) {
		ck_assert_int_eq(plt_hash_of(h, "a", 1, "bc", 2, out), 0);
		ck_assert_int_eq(plt_pbkdf2_iterations(h, 32, 1, &n, &err), 0);
		ck_assert_uint_ge(n, 1000);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cipher");
	TCase *t = tcase_create("cipher");

	tcase_add_test(t, xts_vectors);
	tcase_add_test(t, all_modes);
	tcase_add_test(t, xts_192);
	tcase_add_test(t, threads_share_a_cipher);
	tcase_add_test(t, what_is_refused);
	tcase_add_test(t, pbkdf2_vectors);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
