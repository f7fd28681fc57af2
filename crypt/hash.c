/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Hashes by name and PBKDF2, over OpenSSL.  How many iterations a given time allows is found by the
 * processor's own clock of this thread, to the microsecond: a busy machine makes it slower to find out,
 * not wrong.
 */
#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/error.h"
#include "crypt/hash.h"

#define MIN_ITERATIONS 1000          /* below that no key is worth storing; QEMU's and cryptsetup's */
#define PROBE_NS UINT64_C(20000000)  /* long enough to measure */

static const struct {
	const char *name, *openssl;
	size_t size;
} hashes[PLT_HASHES] = {
	[PLT_HASH_MD5] = { "md5", "MD5", 16 },
	[PLT_HASH_SHA1] = { "sha1", "SHA1", 20 },
	[PLT_HASH_SHA224] = { "sha224", "SHA224", 28 },
	[PLT_HASH_SHA256] = { "sha256", "SHA256", 32 },
	[PLT_HASH_SHA384] = { "sha384", "SHA384", 48 },
	[PLT_HASH_SHA512] = { "sha512", "SHA512", 64 },
	[PLT_HASH_RIPEMD160] = { "ripemd160", "RIPEMD160", 20 },
};

const char *plt_hash_name(enum plt_hash h)
{
	return hashes[h].name;
}

int plt_hash_find(const char *name, enum plt_hash *ret)
{
	for (unsigned i = 0; i < PLT_HASHES; i++)
		if (!strcmp(hashes[i].name, name)) {
			*ret = (enum plt_hash)i;
			return 0;
		}
	return -EINVAL;
}

size_t plt_hash_size(enum plt_hash h)
{
	return hashes[h].size;
}

int plt_hash_of(enum plt_hash h, const void *prefix, size_t prefix_len, const void *data, size_t len, uint8_t *ret)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_MD *md = EVP_MD_fetch(NULL, hashes[h].openssl, NULL);
	int r = -ENOMEM;

	if (!md)
		r = -ENOTSUP;
	else if (ctx && EVP_DigestInit_ex2(ctx, md, NULL) > 0 && EVP_DigestUpdate(ctx, prefix, prefix_len) > 0 &&
		 EVP_DigestUpdate(ctx, data, len) > 0 && EVP_DigestFinal_ex(ctx, ret, NULL) > 0)
		r = 0;
	EVP_MD_free(md);
	EVP_MD_CTX_free(ctx);
	return r;
}

int plt_pbkdf2(enum plt_hash h, const void *secret, size_t secret_len, const uint8_t *salt, size_t salt_len,
	       uint32_t iterations, uint8_t *ret, size_t len, struct plt_error *err)
{
	EVP_MD *md = EVP_MD_fetch(NULL, hashes[h].openssl, NULL);
	int ok;

	if (!md)
		return plt_error_set(err, ENOTSUP, "this OpenSSL lacks the hash '%s'", hashes[h].name);
	if (iterations < 1 || iterations > INT_MAX || secret_len > INT_MAX) {
		EVP_MD_free(md);
		return plt_error_set(err, EINVAL, "%u iterations of PBKDF2 are out of range (1 to %d)", iterations,
				     INT_MAX);
	}
	ok = PKCS5_PBKDF2_HMAC(secret, (int)secret_len, salt, (int)salt_len, (int)iterations, md, (int)len, ret);
	EVP_MD_free(md);
	return ok > 0 ? 0 : plt_error_set(err, EIO, "PBKDF2 with %s failed in OpenSSL", hashes[h].name);
}

static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

int plt_pbkdf2_iterations(enum plt_hash h, size_t len, uint64_t ms, uint32_t *ret, struct plt_error *err)
{
	static const uint8_t salt[32] = { 0 };
	uint8_t key[512];
	uint64_t ns = 0;
	double want;

	for (uint32_t n = MIN_ITERATIONS; ; n *= 2) {
		uint64_t begin = thread_ns();
		int r = plt_pbkdf2(h, "passphrase", 10, salt, sizeof(salt), n, key, PLT_MIN(len, sizeof(key)), err);

		if (r < 0)
			return r;
		ns = thread_ns() - begin;
		/* a short wish is measured in a short time */
		if (ns >= PLT_MIN(PROBE_NS, ms * 250000) || n > INT_MAX / 4) {
			want = (double)n * (double)ms * 1e6 / (double)PLT_MAX(ns, UINT64_C(1));
			break;
		}
	}
	OPENSSL_cleanse(key, sizeof(key));
	*ret = want < MIN_ITERATIONS ? MIN_ITERATIONS : want > INT_MAX ? INT_MAX : (uint32_t)want;
	return 0;
}
