/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_SECRET_H
#define PLT_CRYPT_SECRET_H

/* Passphrases and keys in memory, and the forms in which a user hands them over. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platter.h"

struct plt_secret {
	uint8_t *data; /* owned, NUL-terminated behind len */
	size_t len;
};
#define PLT_SECRET_INIT { NULL, 0 }

#define PLT_SECRET_MAX (UINT64_C(1) << 20) /* no passphrase is longer; a file given by mistake is */

int plt_secret_set(struct plt_secret *s, const void *data, size_t len); /* a copy; -ENOMEM, -EFBIG */
void plt_secret_release(struct plt_secret *s);                          /* wiped */
/* The content of a file. */
int plt_secret_read_file(struct plt_secret *s, const char *path, struct plt_error *err);
/* In place, from base64 (white space is skipped) to what it stands for. */
int plt_secret_base64(struct plt_secret *s, struct plt_error *err);
/* In place, from AES-256-CBC with PKCS#7 padding, as QEMU has its secrets encrypted. */
int plt_secret_decrypt(struct plt_secret *s, const struct plt_secret *key, const struct plt_secret *iv,
		       struct plt_error *err);
bool plt_secret_is_utf8(const struct plt_secret *s);

#endif
