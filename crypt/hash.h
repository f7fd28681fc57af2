/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_HASH_H
#define PLT_CRYPT_HASH_H

/* The hashes that encrypted images name, and the key derivation that stands on them (PBKDF2). */
#include <stddef.h>
#include <stdint.h>

#include "platter.h"

enum plt_hash {
	PLT_HASH_MD5,
	PLT_HASH_SHA1,
	PLT_HASH_SHA224,
	PLT_HASH_SHA256,
	PLT_HASH_SHA384,
	PLT_HASH_SHA512,
	PLT_HASH_RIPEMD160,
	PLT_HASHES
};
#define PLT_HASH_MAX 64 /* bytes of the longest digest */

const char *plt_hash_name(enum plt_hash h);
/* By the name that LUKS and QEMU use; -EINVAL: not one of ours. */
int plt_hash_find(const char *name, enum plt_hash *ret);
size_t plt_hash_size(enum plt_hash h);

/* Digest of @prefix (may be empty) followed by @data.  -ENOTSUP: this OpenSSL lacks it. */
int plt_hash_of(enum plt_hash h, const void *prefix, size_t prefix_len, const void *data, size_t len, uint8_t *ret);

int plt_pbkdf2(enum plt_hash h, const void *secret, size_t secret_len, const uint8_t *salt, size_t salt_len,
	       uint32_t iterations, uint8_t *ret, size_t len, struct plt_error *err);
/*
 * How many iterations this machine does in @ms milliseconds of processor time for a key of @len bytes,
 * by running some; at least 1000, and no more than the field of a LUKS header takes.
 */
int plt_pbkdf2_iterations(enum plt_hash h, size_t len, uint64_t ms, uint32_t *ret, struct plt_error *err);

#endif
