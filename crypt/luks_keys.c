/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Key slots: from a passphrase to the master key and back.  The master key is split so that every bit
 * of the key material is needed (the anti-forensic split), and encrypted with a key derived from the
 * passphrase.  Order of writes: key material is durable before a header names it active; a slot is
 * inactive, durably, before its key material is overwritten.  Whatever held a key is wiped.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/error.h"
#include "crypt/luks.h"
#include "crypt/luks_split.h"

static uint64_t material_bytes(const struct plt_luks *l)
{
	return plt_align_up((uint64_t)l->key_bytes * LUKS_STRIPES, PLT_SECTOR);
}

static void wipe_free(uint8_t *p, size_t len)
{
	if (p)
		OPENSSL_cleanse(p, len);
	free(p);
}

static int random_bytes(void *p, size_t len, struct plt_error *err)
{
	return RAND_bytes(p, (int)len) > 0 ? 0 : plt_error_set(err, EIO, "OpenSSL has no random bytes");
}

/* The cipher that a slot's key material is encrypted with. */
static int slot_cipher(const struct plt_luks *l, const struct plt_luks_slot *s, const struct plt_secret *secret,
		       struct plt_cipher **ret, struct plt_error *err)
{
	uint8_t key[PLT_KEY_MAX];
	int r = plt_pbkdf2(l->hash, secret->data, secret->len, s->salt, LUKS_SALT, s->iterations, key, l->key_bytes, err);

	if (r == 0)
		r = plt_cipher_new(&l->spec, key, l->key_bytes, ret, err);
	OPENSSL_cleanse(key, sizeof(key));
	return r;
}

/* 1: @secret opens the slot, and the master key is in @key; 0: it does not. */
static int try_slot(const struct plt_luks *l, unsigned n, const struct plt_secret *secret, uint8_t *key,
		    struct plt_error *err)
{
	const struct plt_luks_slot *s = &l->slot[n];
	size_t len = material_bytes(l);
	uint8_t *buf = plt_alloc_io(len), digest[LUKS_DIGEST];
	struct plt_cipher *c = NULL;
	int r = buf ? slot_cipher(l, s, secret, &c, err) : plt_error_set(err, ENOMEM, "out of memory");

	if (r == 0) {
		r = plt_store_read(l->store, l->base + s->key_offset, buf, len, PLT_IO_HEADER, err);
		if (r < 0)
			plt_error_prefix(err, "Failed to read key material of keyslot %u", n);
	}
	if (r == 0)
		r = plt_error_default(err, -plt_cipher_decrypt(c, 0, buf, buf, len), "keyslot %u", n);
	if (r == 0)
		r = plt_error_default(err, -plt_luks_merge(l->hash, buf, l->key_bytes, LUKS_STRIPES, key), "keyslot %u", n);
	if (r == 0)
		r = plt_pbkdf2(l->hash, key, l->key_bytes, l->mk_salt, LUKS_SALT, l->mk_iterations, digest, LUKS_DIGEST,
			       err);
	if (r == 0)
		r = CRYPTO_memcmp(digest, l->mk_digest, LUKS_DIGEST) == 0;
	plt_cipher_free(c);
	wipe_free(buf, len);
	return r;
}

int plt_luks_unlock(struct plt_luks *l, const struct plt_secret *secret, struct plt_error *err)
{
	uint8_t key[PLT_KEY_MAX];
	int r = 0;

	if (l->cipher)
		return 0;
	if (!l->usable)
		return plt_error_set(err, ENOTSUP, "%s", l->unusable.text);
	for (unsigned i = 0; i < LUKS_SLOTS && r == 0; i++)
		if (l->slot[i].active)
			r = try_slot(l, i, secret, key, err);
	if (r == 1) {
		r = plt_cipher_new(&l->spec, key, l->key_bytes, &l->cipher, err);
		if (r == 0)
			memcpy(l->master_key, key, l->key_bytes);
	} else if (r == 0) {
		r = plt_error_set(err, EPERM, "Invalid password, cannot unlock any keyslot");
	}
	OPENSSL_cleanse(key, sizeof(key));
	return r;
}

int plt_luks_match(struct plt_luks *l, const struct plt_secret *secret, unsigned *ret_mask, struct plt_error *err)
{
	uint8_t key[PLT_KEY_MAX];
	int r = 0;

	*ret_mask = 0;
	if (!l->usable)
		return plt_error_set(err, ENOTSUP, "%s", l->unusable.text);
	for (unsigned i = 0; i < LUKS_SLOTS && r >= 0; i++) {
		if (!l->slot[i].active)
			continue;
		r = try_slot(l, i, secret, key, err);
		if (r == 1)
			*ret_mask |= 1U << i;
	}
	OPENSSL_cleanse(key, sizeof(key));
	return r < 0 ? r : 0;
}

/* ---- setting and erasing --------------------------------------------------------------------- */

static int write_material(struct plt_luks *l, const struct plt_luks_slot *s, const struct plt_secret *secret,
			  struct plt_error *err)
{
	size_t len = material_bytes(l);
	uint8_t *buf = plt_alloc_io(len);
	struct plt_cipher *c = NULL;
	int r;

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	memset(buf, 0, len);
	r = slot_cipher(l, s, secret, &c, err);
	if (r == 0)
		r = plt_error_default(err, -plt_luks_split(l->hash, l->master_key, l->key_bytes, LUKS_STRIPES, buf),
				      "the key could not be split");
	if (r == 0)
		r = plt_error_default(err, -plt_cipher_encrypt(c, 0, buf, buf, len), "the key could not be encrypted");
	if (r == 0)
		r = plt_store_write(l->store, l->base + s->key_offset, buf, len, PLT_IO_HEADER, err);
	plt_cipher_free(c);
	wipe_free(buf, len);
	return r;
}

int plt_luks_slot_set(struct plt_luks *l, unsigned n, const struct plt_secret *secret, uint64_t iter_ms,
		      struct plt_error *err)
{
	struct plt_luks_slot old = l->slot[n], s = old;
	int r;

	if (!l->cipher)
		return plt_error_set(err, EPERM, "the image is locked: no key can be added");
	s.active = true;
	r = plt_pbkdf2_iterations(l->hash, l->key_bytes, iter_ms, &s.iterations, err);
	if (r == 0)
		r = random_bytes(s.salt, LUKS_SALT, err);
	if (r == 0 && old.active) { /* what it holds is about to be overwritten */
		l->slot[n].active = false;
		r = plt_luks_write_header(l, err);
		if (r == 0)
			r = plt_store_sync(l->store, err);
	}
	if (r == 0)
		r = write_material(l, &s, secret, err);
	if (r == 0)
		r = plt_store_sync(l->store, err);
	if (r == 0) {
		l->slot[n] = s;
		r = plt_luks_write_header(l, err);
	}
	if (r == 0)
		r = plt_store_sync(l->store, err);
	if (r < 0) { /* for this session it is not there */
		l->slot[n] = old;
		l->slot[n].active = false;
	}
	OPENSSL_cleanse(&s, sizeof(s));
	return r;
}

int plt_luks_slot_erase(struct plt_luks *l, unsigned n, struct plt_error *err)
{
	size_t len = material_bytes(l);
	struct plt_luks_slot old = l->slot[n];
	uint8_t *buf;
	int r;

	l->slot[n].active = false;
	l->slot[n].iterations = 0;
	memset(l->slot[n].salt, 0, LUKS_SALT);
	r = plt_luks_write_header(l, err);
	if (r == 0)
		r = plt_store_sync(l->store, err);
	if (r < 0) {
		l->slot[n] = old;
		return r;
	}
	buf = plt_alloc_io(len);
	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	/* random bytes, so that the place looks like every other; then they must be on the disk */
	r = random_bytes(buf, len, err);
	if (r == 0)
		r = plt_store_write(l->store, l->base + old.key_offset, buf, len, PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_sync(l->store, err);
	free(buf);
	return r;
}

/* ---- a new header ---------------------------------------------------------------------------- */

static int new_uuid(char ret[41], struct plt_error *err)
{
	uint8_t b[16];
	int r = random_bytes(b, sizeof(b), err), at = 0;

	if (r < 0)
		return r;
	b[6] = (uint8_t)(0x40 | (b[6] & 0x0f)); /* version 4, random */
	b[8] = (uint8_t)(0x80 | (b[8] & 0x3f));
	for (unsigned i = 0; i < sizeof(b); i++)
		at += sprintf(ret + at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
	return 0;
}

static int fill_new(struct plt_luks *l, const struct plt_luks_params *p, uint64_t iter_ms, struct plt_error *err)
{
	uint64_t area = plt_align_up((uint64_t)l->key_bytes * LUKS_STRIPES, LUKS_ALIGN);
	int r;

	l->spec = p->spec;
	l->usable = true;
	l->hash = p->hash;
	l->payload_offset = plt_luks_space(p);
	strcpy(l->cipher_name, "aes");
	snprintf(l->mode_name, sizeof(l->mode_name), "%s-%s%s%s", plt_cipher_mode_name(p->spec.mode),
		 plt_ivgen_name(p->spec.ivgen), p->spec.ivgen == PLT_IV_ESSIV ? ":" : "",
		 p->spec.ivgen == PLT_IV_ESSIV ? plt_hash_name(p->spec.ivhash) : "");
	strcpy(l->hash_name, plt_hash_name(p->hash));
	for (unsigned i = 0; i < LUKS_SLOTS; i++)
		l->slot[i].key_offset = LUKS_ALIGN + i * area;
	r = random_bytes(l->master_key, l->key_bytes, err);
	if (r == 0)
		r = random_bytes(l->mk_salt, LUKS_SALT, err);
	if (r == 0)
		r = new_uuid(l->uuid, err);
	if (r == 0)
		r = plt_cipher_new(&l->spec, l->master_key, l->key_bytes, &l->cipher, err);
	/* an eighth of the time for the digest, as cryptsetup and QEMU have it: it guards a random key */
	if (r == 0)
		r = plt_pbkdf2_iterations(l->hash, LUKS_DIGEST, iter_ms / 8, &l->mk_iterations, err);
	if (r == 0)
		r = plt_pbkdf2(l->hash, l->master_key, l->key_bytes, l->mk_salt, LUKS_SALT, l->mk_iterations, l->mk_digest,
			       LUKS_DIGEST, err);
	return r;
}

int plt_luks_create(struct plt_store *st, uint64_t base, const struct plt_luks_params *p,
		    const struct plt_secret *secret, bool rehearse, struct plt_luks **ret, struct plt_error *err)
{
	struct plt_luks *l = calloc(1, sizeof(*l));
	uint64_t iter_ms = rehearse ? 0 : p->iter_ms;
	int r;

	if (!l)
		return plt_error_set(err, ENOMEM, "out of memory");
	l->store = st;
	l->base = base;
	l->key_bytes = (uint32_t)plt_cipher_key_bytes(&p->spec);
	r = fill_new(l, p, iter_ms, err);
	if (r == 0)
		r = plt_store_zero(st, base, l->payload_offset, PLT_ZERO_MAY_UNMAP, PLT_IO_HEADER, err);
	if (r == 0) {
		struct plt_luks_slot *s = &l->slot[0];

		r = plt_pbkdf2_iterations(l->hash, l->key_bytes, iter_ms, &s->iterations, err);
		if (r == 0)
			r = random_bytes(s->salt, LUKS_SALT, err);
		if (r == 0)
			r = write_material(l, s, secret, err);
		s->active = true;
	}
	/* nobody knows the place before it is complete; making it durable is the caller's */
	if (r == 0)
		r = plt_luks_write_header(l, err);
	if (r < 0) {
		plt_luks_free(l);
		return r;
	}
	*ret = l;
	return 0;
}
