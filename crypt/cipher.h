/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_CIPHER_H
#define PLT_CRYPT_CIPHER_H

/*
 * Sector ciphers: how the data of an encrypted image is turned into what lies in its file, 512 bytes
 * at a time, each with an initial vector made of its number.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypt/hash.h"
#include "platter.h"

#define PLT_SECTOR 512

enum plt_cipher_alg { PLT_AES_128, PLT_AES_192, PLT_AES_256, PLT_CIPHER_ALGS };
enum plt_cipher_mode { PLT_MODE_ECB, PLT_MODE_CBC, PLT_MODE_XTS, PLT_MODE_CTR, PLT_CIPHER_MODES };
enum plt_ivgen {
	PLT_IV_PLAIN,   /* the low 32 bits of the sector's number, little-endian */
	PLT_IV_PLAIN64, /* all of it */
	PLT_IV_ESSIV,   /* plain64 encrypted with the hash of the key */
	PLT_IVGENS
};

struct plt_cipher_spec {
	enum plt_cipher_alg alg;
	enum plt_cipher_mode mode;
	enum plt_ivgen ivgen;
	enum plt_hash ivhash; /* ESSIV only */
};

const char *plt_cipher_alg_name(enum plt_cipher_alg a);  /* "aes-256" */
const char *plt_cipher_mode_name(enum plt_cipher_mode m);/* "xts" */
const char *plt_ivgen_name(enum plt_ivgen g);            /* "plain64" */
/* -EINVAL: no such name; -ENOTSUP: known to others, but OpenSSL has no such cipher (serpent, twofish, cast5). */
int plt_cipher_alg_find(const char *name, enum plt_cipher_alg *ret);
int plt_cipher_mode_find(const char *name, enum plt_cipher_mode *ret);
int plt_ivgen_find(const char *name, enum plt_ivgen *ret);

/* Bytes of key; XTS has two. */
size_t plt_cipher_key_bytes(const struct plt_cipher_spec *spec);
#define PLT_KEY_MAX 64

struct plt_cipher;
struct plt_secret;

/* legacy.c: the AES of qcow, and of qcow2 before LUKS; numbered by the guest's sectors. */
int plt_cipher_new_legacy(const struct plt_secret *secret, struct plt_cipher **ret, struct plt_error *err);
/* The key is copied.  -EINVAL, -ENOTSUP with text. */
int plt_cipher_new(const struct plt_cipher_spec *spec, const uint8_t *key, size_t len, struct plt_cipher **ret,
		   struct plt_error *err);
void plt_cipher_free(struct plt_cipher *c); /* wipes its keys; NULL allowed */

/*
 * @len bytes, a multiple of PLT_SECTOR, whose first sector has the number @sector.  @in and @out are
 * the same or do not overlap.  Any number of threads at a time.  -ENOMEM, -EIO.
 */
int plt_cipher_encrypt(const struct plt_cipher *c, uint64_t sector, const void *in, void *out, size_t len);
int plt_cipher_decrypt(const struct plt_cipher *c, uint64_t sector, const void *in, void *out, size_t len);

#endif
