/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Secrets: every copy that is made of one is wiped before its memory is given back.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "crypt/secret.h"

int plt_secret_set(struct plt_secret *s, const void *data, size_t len)
{
	uint8_t *p;

	if (len > PLT_SECRET_MAX)
		return -EFBIG;
	p = malloc(len + 1);
	if (!p)
		return -ENOMEM;
	if (len)
		memcpy(p, data, len);
	p[len] = 0;
	plt_secret_release(s);
	s->data = p;
	s->len = len;
	return 0;
}

void plt_secret_release(struct plt_secret *s)
{
	if (s->data)
		OPENSSL_cleanse(s->data, s->len);
	free(s->data);
	s->data = NULL;
	s->len = 0;
}

int plt_secret_read_file(struct plt_secret *s, const char *path, struct plt_error *err)
{
	int fd PLT_AUTOCLOSE = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t cap = 4096, len = 0;
	uint8_t *buf = malloc(cap);
	ssize_t n = -1;
	int r = fd < 0 ? -errno : buf ? 0 : -ENOMEM;

	while (r == 0 && n != 0) {
		if (len == cap) { /* grown by hand: realloc would leave a copy behind */
			uint8_t *more = cap >= PLT_SECRET_MAX ? NULL : malloc(2 * cap);

			if (!more) {
				r = cap >= PLT_SECRET_MAX ? -EFBIG : -ENOMEM;
				break;
			}
			memcpy(more, buf, len);
			OPENSSL_cleanse(buf, len);
			free(buf);
			buf = more;
			cap *= 2;
		}
		n = read(fd, buf + len, cap - len);
		if (n < 0 && errno != EINTR)
			r = -errno;
		len += n > 0 ? (size_t)n : 0;
	}
	if (r == 0)
		r = plt_secret_set(s, buf, len);
	if (buf)
		OPENSSL_cleanse(buf, len);
	free(buf);
	return r < 0 ? plt_error_set(err, -r, "Unable to read %s: %s", path, strerror(-r)) : 0;
}

static int base64_digit(uint8_t c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

int plt_secret_base64(struct plt_secret *s, struct plt_error *err)
{
	uint32_t word = 0;
	unsigned have = 0, pad = 0;
	size_t out = 0;

	for (size_t i = 0; i < s->len; i++) {
		uint8_t c = s->data[i];
		int d = base64_digit(c);

		if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
			continue;
		if (c == '=' && have >= 2 && pad < 2)
			pad++;
		else if (d < 0 || pad)
			return plt_error_set(err, EINVAL, "Base64 data is not valid: the character at %zu", i);
		word = word << 6 | (uint32_t)(d < 0 ? 0 : d);
		if (++have < 4)
			continue;
		for (unsigned k = 0; k < 3 - pad; k++)
			s->data[out++] = (uint8_t)(word >> (16 - 8 * k));
		have = 0;
	}
	if (have)
		return plt_error_set(err, EINVAL, "Base64 data is not valid: it ends within a group of four");
	OPENSSL_cleanse(s->data + out, s->len - out);
	s->data[out] = 0;
	s->len = out;
	return 0;
}

int plt_secret_decrypt(struct plt_secret *s, const struct plt_secret *key, const struct plt_secret *iv,
		       struct plt_error *err)
{
	EVP_CIPHER_CTX *x;
	uint8_t *out;
	int n = 0, last = 0, r = 0;
	bool ok;

	if (key->len != 32)
		return plt_error_set(err, EINVAL, "Key should be 32 bytes in length");
	if (iv->len != 16)
		return plt_error_set(err, EINVAL, "IV should be 16 bytes in length not %zu", iv->len);
	if (!s->len || s->len % 16)
		return plt_error_set(err, EINVAL, "Length %zu must be a multiple of block size 16", s->len);
	x = EVP_CIPHER_CTX_new();
	out = malloc(s->len + 16);
	if (!x || !out) {
		EVP_CIPHER_CTX_free(x);
		free(out);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	ok = EVP_DecryptInit_ex2(x, EVP_aes_256_cbc(), key->data, iv->data, NULL) > 0 &&
	     EVP_DecryptUpdate(x, out, &n, s->data, (int)s->len) > 0 && EVP_DecryptFinal_ex(x, out + n, &last) > 0;
	EVP_CIPHER_CTX_free(x);
	if (ok)
		r = plt_secret_set(s, out, (size_t)(n + last));
	OPENSSL_cleanse(out, s->len + (ok ? 0 : 16));
	free(out);
	if (!ok)
		return plt_error_set(err, EINVAL, "Incorrect number of padding bytes found on decrypted data: the key "
				     "or the initial vector is wrong");
	return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
}

bool plt_secret_is_utf8(const struct plt_secret *s)
{
	const uint8_t *p = s->data, *end = p + s->len;

	while (p < end) {
		uint32_t c = *p++;
		unsigned more = c < 0x80 ? 0 : c >> 5 == 6 ? 1 : c >> 4 == 14 ? 2 : c >> 3 == 30 ? 3 : 4;
		static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };

		if (more == 4 || (size_t)(end - p) < more || c == 0)
			return false;
		c &= 0x7fU >> (more ? more + 1 : 0);
		for (unsigned i = 0; i < more; i++, p++) {
			if (*p >> 6 != 2)
				return false;
			c = c << 6 | (*p & 0x3f);
		}
		if (more && (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)))
			return false;
	}
	return true;
}
