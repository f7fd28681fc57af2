/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Sector ciphers over OpenSSL.  The invariant: a context of OpenSSL is used by one thread at a time.  A
 * call takes a lane (the contexts for both directions) off the cipher's list, or makes one, and puts it
 * back; so there are as many as threads have ever met here.
 *
 * A sector is short: EVP's own bookkeeping for each new initial vector costs as much as the encryption.
 * So the two functions that a lane needs, "new initial vector" and "these bytes", are taken from the
 * provider's table (provider-cipher(7)) and called directly; where a provider does not show them, the
 * same is done through EVP.  AES-192 in XTS mode, which OpenSSL lacks, is put together from ECB.
 */
#include <errno.h>
#include <limits.h>
#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/error.h"
#include "crypt/cipher.h"

#define BLOCK 16 /* of AES */

static const char *const alg_names[PLT_CIPHER_ALGS] = { "aes-128", "aes-192", "aes-256" };
static const char *const mode_names[PLT_CIPHER_MODES] = { "ecb", "cbc", "xts", "ctr" };
static const char *const ivgen_names[PLT_IVGENS] = { "plain", "plain64", "essiv" };
static const unsigned alg_bytes[PLT_CIPHER_ALGS] = { 16, 24, 32 };

/* What QEMU and cryptsetup also know and OpenSSL cannot do. */
static const char *const lacking[] = {
	"cast5-128", "cast6-128", "cast6-192", "cast6-256", "des-rfb", "des", "3des", "serpent-128",
	"serpent-192", "serpent-256", "twofish-128", "twofish-192", "twofish-256", "sm4",
};

static int find(const char *const *names, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return (int)i;
	return -EINVAL;
}

const char *plt_cipher_alg_name(enum plt_cipher_alg a)
{
	return alg_names[a];
}

const char *plt_cipher_mode_name(enum plt_cipher_mode m)
{
	return mode_names[m];
}

const char *plt_ivgen_name(enum plt_ivgen g)
{
	return ivgen_names[g];
}

int plt_cipher_alg_find(const char *name, enum plt_cipher_alg *ret)
{
	int i = find(alg_names, PLT_CIPHER_ALGS, name);

	if (i >= 0)
		*ret = (enum plt_cipher_alg)i;
	else if (find(lacking, PLT_ARRAY_SIZE(lacking), name) >= 0)
		return -ENOTSUP;
	return i < 0 ? i : 0;
}

int plt_cipher_mode_find(const char *name, enum plt_cipher_mode *ret)
{
	int i = find(mode_names, PLT_CIPHER_MODES, name);

	if (i >= 0)
		*ret = (enum plt_cipher_mode)i;
	return i < 0 ? i : 0;
}

int plt_ivgen_find(const char *name, enum plt_ivgen *ret)
{
	int i = find(ivgen_names, PLT_IVGENS, name);

	if (i >= 0)
		*ret = (enum plt_ivgen)i;
	return i < 0 ? i : 0;
}

size_t plt_cipher_key_bytes(const struct plt_cipher_spec *spec)
{
	return alg_bytes[spec->alg] * (spec->mode == PLT_MODE_XTS ? 2 : 1);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

enum { DECRYPT, ENCRYPT };

/* The provider's functions for the cipher. */
struct direct {
	void *provctx;
	OSSL_FUNC_cipher_newctx_fn *newctx;
	OSSL_FUNC_cipher_freectx_fn *freectx;
	OSSL_FUNC_cipher_encrypt_init_fn *init[2];
	OSSL_FUNC_cipher_cipher_fn *cipher;
};

struct lane {
	struct lane *next;
	EVP_CIPHER_CTX *evp[2]; /* one a direction, made when it is first needed */
	void *direct[2];
	EVP_CIPHER_CTX *iv;     /* ESSIV; XTS of our own: its second key */
};

struct lanes {
	pthread_mutex_t lock;
	struct lane *idle;
};

struct plt_cipher {
	struct plt_cipher_spec spec;
	EVP_CIPHER *evp, *ecb;  /* ecb: what lane.iv runs */
	struct direct direct;   /* .cipher NULL: not to be had */
	bool own_xts;
	uint8_t key[PLT_KEY_MAX];
	size_t key_len;
	uint8_t iv_key[PLT_HASH_MAX];
	struct lanes *lanes;
};

static void lane_free(const struct plt_cipher *c, struct lane *l)
{
	for (int dir = DECRYPT; dir <= ENCRYPT; dir++) {
		EVP_CIPHER_CTX_free(l->evp[dir]);
		if (l->direct[dir])
			c->direct.freectx(l->direct[dir]);
	}
	EVP_CIPHER_CTX_free(l->iv);
	free(l);
}

static EVP_CIPHER_CTX *evp_new(EVP_CIPHER *cipher, const uint8_t *key, const uint8_t *iv, int dir)
{
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();

	if (x && EVP_CipherInit_ex2(x, cipher, key, iv, dir, NULL) > 0 && EVP_CIPHER_CTX_set_padding(x, 0) > 0)
		return x;
	EVP_CIPHER_CTX_free(x);
	return NULL;
}

/* Make what one direction needs. */
static bool lane_prepare(const struct plt_cipher *c, struct lane *l, int dir)
{
	static const uint8_t zero[BLOCK];
	const uint8_t *iv = c->spec.mode == PLT_MODE_ECB ? NULL : zero;

	if (c->ecb && !l->iv) {
		l->iv = evp_new(c->ecb, c->own_xts ? c->key + c->key_len / 2 : c->iv_key, NULL, ENCRYPT);
		if (!l->iv)
			return false;
	}
	if (c->direct.cipher) {
		if (l->direct[dir])
			return true;
		l->direct[dir] = c->direct.newctx(c->direct.provctx);
		return l->direct[dir] && c->direct.init[dir](l->direct[dir], c->key, c->key_len, iv, iv ? BLOCK : 0,
							     NULL) > 0;
	}
	if (!l->evp[dir])
		l->evp[dir] = evp_new(c->evp, c->key, c->own_xts ? NULL : iv, dir);
	return l->evp[dir];
}

static struct lane *lane_take(const struct plt_cipher *c, int dir)
{
	struct lane *l;

	pthread_mutex_lock(&c->lanes->lock);
	l = c->lanes->idle;
	if (l)
		c->lanes->idle = l->next;
	pthread_mutex_unlock(&c->lanes->lock);
	if (!l)
		l = calloc(1, sizeof(*l));
	if (l && !lane_prepare(c, l, dir)) {
		lane_free(c, l);
		l = NULL;
	}
	return l;
}

static void lane_give(const struct plt_cipher *c, struct lane *l)
{
	PLT_LOCK_SCOPE(&c->lanes->lock);
	l->next = c->lanes->idle;
	c->lanes->idle = l;
}

/* ---- new and free ---------------------------------------------------------------------------- */

static void find_direct(struct plt_cipher *c)
{
	const OSSL_PROVIDER *prov = EVP_CIPHER_get0_provider(c->evp);
	const OSSL_ALGORITHM *a;
	struct direct d = { .provctx = OSSL_PROVIDER_get0_provider_ctx(prov) };
	int no_cache = 0;

	a = OSSL_PROVIDER_query_operation(prov, OSSL_OP_CIPHER, &no_cache);
	for (const OSSL_ALGORITHM *x = a; x && x->algorithm_names; x++) {
		const char *name = EVP_CIPHER_get0_name(c->evp);
		size_t n = strlen(name);

		/* "NAME:ALIAS:..." */
		if (strncasecmp(x->algorithm_names, name, n) ||
		    (x->algorithm_names[n] && x->algorithm_names[n] != ':'))
			continue;
		for (const OSSL_DISPATCH *f = x->implementation; f->function_id; f++)
			switch (f->function_id) {
			case OSSL_FUNC_CIPHER_NEWCTX:
				d.newctx = OSSL_FUNC_cipher_newctx(f);
				break;
			case OSSL_FUNC_CIPHER_FREECTX:
				d.freectx = OSSL_FUNC_cipher_freectx(f);
				break;
			case OSSL_FUNC_CIPHER_ENCRYPT_INIT:
				d.init[ENCRYPT] = OSSL_FUNC_cipher_encrypt_init(f);
				break;
			case OSSL_FUNC_CIPHER_DECRYPT_INIT:
				d.init[DECRYPT] = OSSL_FUNC_cipher_decrypt_init(f);
				break;
			case OSSL_FUNC_CIPHER_CIPHER:
				d.cipher = OSSL_FUNC_cipher_cipher(f);
				break;
			}
		break;
	}
	if (d.newctx && d.freectx && d.init[0] && d.init[1] && d.cipher)
		c->direct = d;
	OSSL_PROVIDER_unquery_operation(prov, OSSL_OP_CIPHER, a);
}

/* The key of ESSIV is the hash of the key, and AES takes keys of certain lengths only. */
static int prepare_essiv(struct plt_cipher *c, struct plt_error *err)
{
	size_t n = plt_hash_size(c->spec.ivhash);
	char name[32];
	int r;

	if (n != 16 && n != 24 && n != 32)
		return plt_error_set(err, ENOTSUP, "the initial vector generator essiv:%s is not possible with aes: the "
				     "hash has %zu bytes", plt_hash_name(c->spec.ivhash), n);
	r = plt_hash_of(c->spec.ivhash, NULL, 0, c->key, c->key_len, c->iv_key);
	if (r < 0)
		return plt_error_set(err, -r, "this OpenSSL lacks the hash '%s'", plt_hash_name(c->spec.ivhash));
	snprintf(name, sizeof(name), "AES-%zu-ECB", n * 8);
	c->ecb = EVP_CIPHER_fetch(NULL, name, NULL);
	return c->ecb ? 0 : plt_error_set(err, ENOTSUP, "this OpenSSL lacks the cipher %s", name);
}

int plt_cipher_new(const struct plt_cipher_spec *spec, const uint8_t *key, size_t len, struct plt_cipher **ret,
		   struct plt_error *err)
{
	struct plt_cipher *c;
	char name[32];
	int r = 0;

	if (len != plt_cipher_key_bytes(spec))
		return plt_error_set(err, EINVAL, "a key of %zu bytes for %s in mode %s, which takes %zu", len,
				     alg_names[spec->alg], mode_names[spec->mode], plt_cipher_key_bytes(spec));
	c = calloc(1, sizeof(*c));
	if (!c || !(c->lanes = calloc(1, sizeof(*c->lanes)))) {
		free(c);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	pthread_mutex_init(&c->lanes->lock, NULL);
	c->spec = *spec;
	memcpy(c->key, key, len);
	c->key_len = len;
	c->own_xts = spec->mode == PLT_MODE_XTS && spec->alg == PLT_AES_192;
	snprintf(name, sizeof(name), "AES-%u-%s", alg_bytes[spec->alg] * 8,
		 c->own_xts ? "ECB" : mode_names[spec->mode]);
	c->evp = EVP_CIPHER_fetch(NULL, name, NULL);
	if (!c->evp)
		r = plt_error_set(err, ENOTSUP, "this OpenSSL lacks the cipher %s", name);
	else if (c->own_xts && spec->ivgen == PLT_IV_ESSIV)
		r = plt_error_set(err, ENOTSUP, "aes-192 in mode xts with essiv is not supported");
	else if (c->own_xts)
		c->ecb = EVP_CIPHER_up_ref(c->evp) > 0 ? c->evp : NULL;
	else if (spec->ivgen == PLT_IV_ESSIV)
		r = prepare_essiv(c, err);
	if (r == 0 && !c->own_xts)
		find_direct(c);
	if (r == 0) { /* a key that OpenSSL refuses is found out here */
		for (int dir = DECRYPT; r == 0 && dir <= ENCRYPT; dir++) {
			struct lane *l = lane_take(c, dir);

			if (l)
				lane_give(c, l);
			else
				r = plt_error_set(err, EINVAL, "OpenSSL refuses the key for %s in mode %s",
						  alg_names[spec->alg], mode_names[spec->mode]);
		}
	}
	if (r < 0) {
		plt_cipher_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void plt_cipher_free(struct plt_cipher *c)
{
	struct lane *l;

	if (!c)
		return;
	while ((l = c->lanes->idle)) {
		c->lanes->idle = l->next;
		lane_free(c, l);
	}
	pthread_mutex_destroy(&c->lanes->lock);
	free(c->lanes);
	EVP_CIPHER_free(c->evp);
	EVP_CIPHER_free(c->ecb);
	OPENSSL_cleanse(c, sizeof(*c));
	free(c);
}

/* ---- sectors --------------------------------------------------------------------------------- */

static bool make_iv(const struct plt_cipher *c, struct lane *l, uint64_t sector, uint8_t iv[BLOCK])
{
	int n;

	memset(iv, 0, BLOCK);
	if (c->spec.ivgen == PLT_IV_PLAIN)
		plt_put_le32(iv, (uint32_t)sector);
	else
		plt_put_le64(iv, sector);
	return c->spec.ivgen != PLT_IV_ESSIV || EVP_CipherUpdate(l->iv, iv, &n, iv, BLOCK) > 0;
}

/*
 * XTS: block j is E(P ^ T_j) ^ T_j with T_0 the initial vector under the second key and T_{j+1} = T_j
 * times x in GF(2^128).
 */
static bool xts_sector(struct lane *l, int dir, uint8_t iv[BLOCK], const uint8_t *in, uint8_t *out)
{
	uint64_t tweak[PLT_SECTOR / 8], buf[PLT_SECTOR / 8], lo, hi;
	int n;

	if (EVP_CipherUpdate(l->iv, iv, &n, iv, BLOCK) <= 0)
		return false;
	lo = plt_get_le64(iv);
	hi = plt_get_le64(iv + 8);
	for (unsigned j = 0; j < PLT_SECTOR / 8; j += 2) {
		uint64_t carry = hi >> 63;

		plt_put_le64(&tweak[j], lo);
		plt_put_le64(&tweak[j + 1], hi);
		hi = hi << 1 | lo >> 63;
		lo = lo << 1 ^ (carry ? 0x87 : 0);
	}
	memcpy(buf, in, sizeof(buf));
	for (unsigned j = 0; j < PLT_SECTOR / 8; j++)
		buf[j] ^= tweak[j];
	if (EVP_CipherUpdate(l->evp[dir], (uint8_t *)buf, &n, (uint8_t *)buf, sizeof(buf)) <= 0)
		return false;
	for (unsigned j = 0; j < PLT_SECTOR / 8; j++)
		buf[j] ^= tweak[j];
	memcpy(out, buf, sizeof(buf));
	return true;
}

static bool run(const struct plt_cipher *c, struct lane *l, int dir, uint64_t sector, const uint8_t *in, uint8_t *out,
		size_t len)
{
	const struct direct *d = &c->direct;
	bool ecb = c->spec.mode == PLT_MODE_ECB;
	uint8_t iv[BLOCK];
	size_t done;
	int n;

	for (; len; len -= PLT_SECTOR, in += PLT_SECTOR, out += PLT_SECTOR, sector++) {
		if (!ecb && !make_iv(c, l, sector, iv))
			return false;
		if (c->own_xts) {
			if (!xts_sector(l, dir, iv, in, out))
				return false;
		} else if (d->cipher) {
			if ((!ecb && d->init[dir](l->direct[dir], NULL, 0, iv, BLOCK, NULL) <= 0) ||
			    d->cipher(l->direct[dir], out, &done, PLT_SECTOR, in, PLT_SECTOR) <= 0)
				return false;
		} else if ((!ecb && EVP_CipherInit_ex2(l->evp[dir], NULL, NULL, iv, -1, NULL) <= 0) ||
			   EVP_CipherUpdate(l->evp[dir], out, &n, in, PLT_SECTOR) <= 0) {
			return false;
		}
	}
	return true;
}

static int sectors(const struct plt_cipher *c, int dir, uint64_t sector, const void *in, void *out, size_t len)
{
	struct lane *l = lane_take(c, dir);
	bool ok;

	if (!l)
		return -ENOMEM;
	ok = len % PLT_SECTOR == 0 && run(c, l, dir, sector, in, out, len);
	lane_give(c, l);
	return ok ? 0 : -EIO;
}

int plt_cipher_encrypt(const struct plt_cipher *c, uint64_t sector, const void *in, void *out, size_t len)
{
	return sectors(c, ENCRYPT, sector, in, out, len);
}

int plt_cipher_decrypt(const struct plt_cipher *c, uint64_t sector, const void *in, void *out, size_t len)
{
	return sectors(c, DECRYPT, sector, in, out, len);
}
