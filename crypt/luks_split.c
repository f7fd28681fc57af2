/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The anti-forensic split of LUKS.  All stripes but the last are random; a running value takes each of
 * them in (exclusive or) and is diffused by hashing its blocks with their numbers; the last stripe is
 * that value exclusive-or the key.  Losing any bit of any stripe loses the key.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "crypt/cipher.h"
#include "crypt/luks_split.h"

static int diffuse(enum plt_hash h, uint8_t *v, size_t len)
{
	size_t block = plt_hash_size(h);
	uint8_t digest[PLT_HASH_MAX], number[4];
	int r = 0;

	for (size_t at = 0, i = 0; at < len && r == 0; at += block, i++) {
		size_t n = PLT_MIN(block, len - at);

		plt_put_be32(number, (uint32_t)i);
		r = plt_hash_of(h, number, sizeof(number), v + at, n, digest);
		if (r == 0)
			memcpy(v + at, digest, n);
	}
	OPENSSL_cleanse(digest, sizeof(digest));
	return r;
}

static void xor_in(uint8_t *v, const uint8_t *stripe, size_t len)
{
	for (size_t i = 0; i < len; i++)
		v[i] ^= stripe[i];
}

/* The running value behind all stripes but the last. */
static int run(enum plt_hash h, const uint8_t *split, size_t len, unsigned stripes, uint8_t *v)
{
	int r = 0;

	memset(v, 0, len);
	for (unsigned i = 0; i + 1 < stripes && r == 0; i++) {
		xor_in(v, split + i * len, len);
		r = diffuse(h, v, len);
	}
	return r;
}

int plt_luks_split(enum plt_hash h, const uint8_t *key, size_t len, unsigned stripes, uint8_t *ret)
{
	uint8_t v[PLT_KEY_MAX];
	int r;

	if (len > sizeof(v) || RAND_bytes(ret, (int)(len * (stripes - 1))) <= 0)
		return -EIO;
	r = run(h, ret, len, stripes, v);
	if (r == 0) {
		xor_in(v, key, len);
		memcpy(ret + (stripes - 1) * len, v, len);
	}
	OPENSSL_cleanse(v, sizeof(v));
	return r;
}

int plt_luks_merge(enum plt_hash h, const uint8_t *split, size_t len, unsigned stripes, uint8_t *ret_key)
{
	uint8_t v[PLT_KEY_MAX];
	int r = len > sizeof(v) ? -EINVAL : run(h, split, len, stripes, v);

	if (r == 0) {
		xor_in(v, split + (stripes - 1) * len, len);
		memcpy(ret_key, v, len);
	}
	OPENSSL_cleanse(v, sizeof(v));
	return r;
}
