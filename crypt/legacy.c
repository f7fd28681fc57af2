/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The encryption that qcow and qcow2 had before LUKS: AES-128-CBC over 512-byte sectors, the number of
 * the guest's sector as initial vector, and the passphrase itself, cut or filled up with zeros, as the
 * key.  Nothing tells a right passphrase from a wrong one.  For images that exist; it protects little.
 */
#include <openssl/crypto.h>
#include <string.h>

#include "base/checked.h"
#include "crypt/cipher.h"
#include "crypt/secret.h"

int plt_cipher_new_legacy(const struct plt_secret *secret, struct plt_cipher **ret, struct plt_error *err)
{
	static const struct plt_cipher_spec spec = { PLT_AES_128, PLT_MODE_CBC, PLT_IV_PLAIN64, 0 };
	uint8_t key[16] = { 0 };
	int r;

	memcpy(key, secret->data, PLT_MIN(secret->len, sizeof(key)));
	r = plt_cipher_new(&spec, key, sizeof(key), ret, err);
	OPENSSL_cleanse(key, sizeof(key));
	return r;
}
