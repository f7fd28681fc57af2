/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The LUKS header: parsed and held against itself and the space it has, and written again.  The
 * invariant: in a struct plt_luks every offset lies inside that space, no two areas of key material
 * overlap each other or the header, and lengths are those of the key.  A header whose cipher nobody
 * here can run is still described; it says so when it is to be unlocked.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "crypt/luks.h"

/* ---- options --------------------------------------------------------------------------------- */

static int refuse(struct plt_error *err, const char *what, const char *value)
{
	return plt_error_set(err, EINVAL, "Parameter '%s' does not accept value '%s'", what, value);
}

int plt_luks_params(const struct plt_luks_texts *t, struct plt_luks_params *ret, struct plt_error *err)
{
	struct plt_luks_params p = { .spec = { PLT_AES_256, PLT_MODE_XTS, PLT_IV_PLAIN64, PLT_HASH_SHA256 },
				     .hash = PLT_HASH_SHA256,
				     .iter_ms = t->iter_ms == UINT64_MAX ? 2000 : t->iter_ms };
	int r = t->cipher_alg ? plt_cipher_alg_find(t->cipher_alg, &p.spec.alg) : 0;

	if (r == -ENOTSUP)
		return plt_error_set(err, ENOTSUP, "the cipher '%s' is not supported: OpenSSL does not have it (aes-128, "
				     "aes-192 and aes-256 are)", t->cipher_alg);
	if (r < 0)
		return refuse(err, "cipher-alg", t->cipher_alg);
	if (t->cipher_mode && plt_cipher_mode_find(t->cipher_mode, &p.spec.mode) < 0)
		return refuse(err, "cipher-mode", t->cipher_mode);
	if (t->ivgen_alg && plt_ivgen_find(t->ivgen_alg, &p.spec.ivgen) < 0)
		return refuse(err, "ivgen-alg", t->ivgen_alg);
	if (t->ivgen_hash_alg && plt_hash_find(t->ivgen_hash_alg, &p.spec.ivhash) < 0)
		return refuse(err, "ivgen-hash-alg", t->ivgen_hash_alg);
	if (t->hash_alg && plt_hash_find(t->hash_alg, &p.hash) < 0)
		return refuse(err, "hash-alg", t->hash_alg);
	if (p.iter_ms > UINT32_MAX)
		return plt_error_set(err, ERANGE, "PBKDF iterations for %" PRIu64 " ms are too many", p.iter_ms);
	*ret = p;
	return 0;
}

static uint64_t material_bytes(uint32_t key_bytes)
{
	return plt_align_up((uint64_t)key_bytes * LUKS_STRIPES, PLT_SECTOR); /* encrypted by whole sectors */
}

uint64_t plt_luks_space(const struct plt_luks_params *p)
{
	return LUKS_ALIGN + LUKS_SLOTS * plt_align_up(material_bytes((uint32_t)plt_cipher_key_bytes(&p->spec)),
						      LUKS_ALIGN);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* A text of the header: ended, and printable. */
static int take_text(char *ret, const char *field, size_t len, const char *what, struct plt_error *err)
{
	size_t n = strnlen(field, len);

	if (n == len)
		return plt_error_set(err, EUCLEAN, "LUKS header: the %s is not terminated", what);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)field[i] < 0x20 || (unsigned char)field[i] > 0x7e)
			return plt_error_set(err, EUCLEAN, "LUKS header: the %s has the byte %#x at %zu", what,
					     (unsigned char)field[i], i);
	memcpy(ret, field, n + 1);
	return 0;
}

static void unusable(struct plt_luks *l, const char *what, const char *name)
{
	l->usable = false;
	plt_error_set(&l->unusable, ENOTSUP, "LUKS header: the %s '%s' (with keys of %u bytes) is not supported", what,
		      name, l->key_bytes);
}

/* "aes", "xts-plain64" and the length of the key: what they mean together, if we can do it. */
static void parse_cipher(struct plt_luks *l)
{
	char mode[32];
	char *iv, *ivhash;
	bool found = false;

	l->usable = true;
	strcpy(mode, l->mode_name);
	iv = strchr(mode, '-');
	if (iv)
		*iv++ = 0;
	ivhash = iv ? strchr(iv, ':') : NULL;
	if (ivhash)
		*ivhash++ = 0;
	if (strcmp(l->cipher_name, "aes")) {
		unusable(l, "cipher", l->cipher_name);
		return;
	}
	if (!iv || plt_cipher_mode_find(mode, &l->spec.mode) < 0 || plt_ivgen_find(iv, &l->spec.ivgen) < 0 ||
	    (l->spec.ivgen == PLT_IV_ESSIV ? !ivhash || plt_hash_find(ivhash, &l->spec.ivhash) < 0 : ivhash != NULL)) {
		unusable(l, "cipher mode", l->mode_name);
		return;
	}
	for (unsigned a = 0; a < PLT_CIPHER_ALGS && !found; a++) {
		l->spec.alg = (enum plt_cipher_alg)a;
		found = plt_cipher_key_bytes(&l->spec) == l->key_bytes;
	}
	if (!found)
		unusable(l, "cipher mode", l->mode_name);
	else if (plt_hash_find(l->hash_name, &l->hash) < 0)
		unusable(l, "hash", l->hash_name);
}

static int parse_slots(struct plt_luks *l, const struct luks_header_ondisk *h, uint64_t space, struct plt_error *err)
{
	uint64_t need = material_bytes(l->key_bytes);

	for (unsigned i = 0; i < LUKS_SLOTS; i++) {
		const struct luks_slot_ondisk *d = &h->slot[i];
		struct plt_luks_slot *s = &l->slot[i];
		uint32_t active = plt_be32_get(d->active), stripes = plt_be32_get(d->stripes);

		if (active != LUKS_ACTIVE && active != LUKS_INACTIVE)
			return plt_error_set(err, EUCLEAN, "Keyslot %u state is corrupted: %#x is neither active (%#x) nor "
					     "inactive (%#x)", i, active, LUKS_ACTIVE, LUKS_INACTIVE);
		s->active = active == LUKS_ACTIVE;
		s->iterations = plt_be32_get(d->iterations);
		s->key_offset = (uint64_t)plt_be32_get(d->key_offset) * PLT_SECTOR;
		memcpy(s->salt, d->salt, LUKS_SALT);
		if (stripes != LUKS_STRIPES)
			return plt_error_set(err, EUCLEAN, "Keyslot %u is corrupted (stripes %u != %d)", i, stripes,
					     LUKS_STRIPES);
		if (s->active && (s->iterations < 1 || s->iterations > INT32_MAX))
			return plt_error_set(err, EUCLEAN, "Keyslot %u iteration count is %u, 1 to %d was expected", i,
					     s->iterations, INT32_MAX);
		if (s->key_offset < plt_align_up(sizeof(*h), PLT_SECTOR))
			return plt_error_set(err, EUCLEAN, "Keyslot %u is overlapping with the LUKS header", i);
		if (!plt_in_range(s->key_offset, need, space))
			return plt_error_set(err, EUCLEAN, "Keyslot %u: %" PRIu64 " bytes of key material at %" PRIu64
					     " do not fit into the %" PRIu64 " bytes of the header area", i, need,
					     s->key_offset, space);
		if (l->payload_offset && plt_ranges_overlap(s->key_offset, need, l->payload_offset, INT64_MAX))
			return plt_error_set(err, EUCLEAN, "Keyslot %u is overlapping with the encrypted payload at %"
					     PRIu64, i, l->payload_offset);
		for (unsigned k = 0; k < i; k++)
			if (plt_ranges_overlap(s->key_offset, need, l->slot[k].key_offset, need))
				return plt_error_set(err, EUCLEAN, "Keyslots %u and %u are overlapping in the header", k,
						     i);
	}
	return 0;
}

static int parse(struct plt_luks *l, const struct luks_header_ondisk *h, uint64_t space, struct plt_error *err)
{
	int r;

	if (memcmp(h->magic, LUKS_MAGIC, LUKS_MAGIC_LEN))
		return plt_error_set(err, EINVAL, "Volume is not in LUKS format");
	if (plt_be16_get(h->version) != 1)
		return plt_error_set(err, ENOTSUP, "LUKS version %u is not supported, version 1 is",
				     plt_be16_get(h->version));
	r = take_text(l->cipher_name, h->cipher, sizeof(h->cipher), "cipher name", err);
	if (r == 0)
		r = take_text(l->mode_name, h->mode, sizeof(h->mode), "cipher mode", err);
	if (r == 0)
		r = take_text(l->hash_name, h->hash, sizeof(h->hash), "hash name", err);
	if (r < 0)
		return r;
	/* libcryptsetup ends it early, some tools not at all: it decides nothing */
	for (unsigned i = 0; i < sizeof(h->uuid) && h->uuid[i]; i++)
		l->uuid[i] = h->uuid[i] >= 0x20 && h->uuid[i] < 0x7f ? h->uuid[i] : '?';
	l->key_bytes = plt_be32_get(h->key_bytes);
	l->payload_offset = (uint64_t)plt_be32_get(h->payload_offset) * PLT_SECTOR;
	l->mk_iterations = plt_be32_get(h->mk_iterations);
	memcpy(l->mk_digest, h->mk_digest, LUKS_DIGEST);
	memcpy(l->mk_salt, h->mk_salt, LUKS_SALT);
	if (l->key_bytes < 1 || l->key_bytes > PLT_KEY_MAX)
		return plt_error_set(err, EUCLEAN, "LUKS header: the master key has %u bytes, 1 to %d were expected",
				     l->key_bytes, PLT_KEY_MAX);
	if (l->mk_iterations < 1 || l->mk_iterations > INT32_MAX)
		return plt_error_set(err, EUCLEAN, "LUKS key iteration count is %u, 1 to %d was expected", l->mk_iterations,
				     INT32_MAX);
	parse_cipher(l);
	return parse_slots(l, h, space, err);
}

bool plt_luks_is_whole(const struct luks_header_ondisk *h, uint64_t space)
{
	struct plt_luks *l = calloc(1, sizeof(*l));
	bool whole = l && parse(l, h, space, NULL) == 0;

	plt_luks_free(l);
	return whole;
}

int plt_luks_read(struct plt_store *st, uint64_t base, uint64_t space, struct plt_luks **ret, struct plt_error *err)
{
	struct luks_header_ondisk h;
	struct plt_luks *l;
	uint64_t size;
	int r = plt_store_size(st, &size, err);

	if (r < 0)
		return r;
	/* the last area may be cut short in a file that was never written to its end */
	size = plt_align_up(PLT_MIN(size, (uint64_t)INT64_MAX), LUKS_ALIGN);
	if (base > size || size - base < sizeof(h) || space < sizeof(h))
		return plt_error_set(err, EINVAL, "Volume is not in LUKS format: there is no room for a header at %#" PRIx64,
				     base);
	space = PLT_MIN(space, size - base);
	r = plt_store_read(st, base, &h, sizeof(h), PLT_IO_HEADER, err);
	if (r < 0) {
		plt_error_prefix(err, "Unable to read LUKS header");
		return r;
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return plt_error_set(err, ENOMEM, "out of memory");
	l->store = st;
	l->base = base;
	r = parse(l, &h, space, err);
	if (r < 0) {
		plt_luks_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void plt_luks_free(struct plt_luks *l)
{
	if (!l)
		return;
	plt_cipher_free(l->cipher);
	OPENSSL_cleanse(l, sizeof(*l));
	free(l);
}

/* ---- writing --------------------------------------------------------------------------------- */

int plt_luks_write_header(struct plt_luks *l, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(LUKS_ALIGN);
	struct luks_header_ondisk *h = (void *)buf;
	int r;

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	/* what lies between the header and the first area is kept */
	r = plt_store_read(l->store, l->base, buf, LUKS_ALIGN, PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	memset(h, 0, sizeof(*h));
	memcpy(h->magic, LUKS_MAGIC, LUKS_MAGIC_LEN);
	h->version = plt_be16_make(1);
	memcpy(h->cipher, l->cipher_name, sizeof(h->cipher));
	memcpy(h->mode, l->mode_name, sizeof(h->mode));
	memcpy(h->hash, l->hash_name, sizeof(h->hash));
	h->payload_offset = plt_be32_make((uint32_t)(l->payload_offset / PLT_SECTOR));
	h->key_bytes = plt_be32_make(l->key_bytes);
	memcpy(h->mk_digest, l->mk_digest, LUKS_DIGEST);
	memcpy(h->mk_salt, l->mk_salt, LUKS_SALT);
	h->mk_iterations = plt_be32_make(l->mk_iterations);
	memcpy(h->uuid, l->uuid, sizeof(h->uuid));
	for (unsigned i = 0; i < LUKS_SLOTS; i++) {
		const struct plt_luks_slot *s = &l->slot[i];

		h->slot[i].active = plt_be32_make(s->active ? LUKS_ACTIVE : LUKS_INACTIVE);
		h->slot[i].iterations = plt_be32_make(s->iterations);
		memcpy(h->slot[i].salt, s->salt, LUKS_SALT);
		h->slot[i].key_offset = plt_be32_make((uint32_t)(s->key_offset / PLT_SECTOR));
		h->slot[i].stripes = plt_be32_make(LUKS_STRIPES);
	}
	/* key material may begin within these 4096 bytes (other tools): then only the header goes out */
	for (unsigned i = 0; i < LUKS_SLOTS; i++)
		if (l->slot[i].key_offset < LUKS_ALIGN)
			return plt_store_write(l->store, l->base, buf, plt_align_up(sizeof(*h), PLT_SECTOR), PLT_IO_HEADER,
					       err);
	return plt_store_write(l->store, l->base, buf, LUKS_ALIGN, PLT_IO_HEADER, err);
}

/* ---- info ------------------------------------------------------------------------------------ */

json_t *plt_luks_info(const struct plt_luks *l)
{
	json_t *slots = json_array(), *o = json_object();
	bool essiv = l->usable && l->spec.ivgen == PLT_IV_ESSIV;
	char mode[32], *iv, *ivhash;

	strcpy(mode, l->mode_name);
	iv = strchr(mode, '-');
	if (iv)
		*iv++ = 0;
	ivhash = iv ? strchr(iv, ':') : NULL;
	if (ivhash)
		*ivhash++ = 0;
	for (unsigned i = 0; i < LUKS_SLOTS; i++) {
		const struct plt_luks_slot *s = &l->slot[i];
		json_t *j = json_pack("{s:b,s:I}", "active", s->active, "key-offset", (json_int_t)s->key_offset);

		if (s->active) {
			json_object_set_new(j, "iters", json_integer(s->iterations));
			json_object_set_new(j, "stripes", json_integer(LUKS_STRIPES));
		}
		json_array_append_new(slots, j);
	}
	if (l->usable) {
		json_object_set_new(o, "cipher-alg", json_string(plt_cipher_alg_name(l->spec.alg)));
	} else {
		char name[48];

		snprintf(name, sizeof(name), "%s-%u", l->cipher_name,
			 l->key_bytes * 8 / (strcmp(mode, "xts") ? 1 : 2));
		json_object_set_new(o, "cipher-alg", json_string(name));
	}
	json_object_set_new(o, "cipher-mode", json_string(mode));
	if (iv)
		json_object_set_new(o, "ivgen-alg", json_string(iv));
	if (essiv || ivhash)
		json_object_set_new(o, "ivgen-hash-alg", json_string(ivhash));
	json_object_set_new(o, "hash-alg", json_string(l->hash_name));
	json_object_set_new(o, "uuid", json_string(l->uuid));
	json_object_set_new(o, "payload-offset", json_integer((json_int_t)l->payload_offset));
	json_object_set_new(o, "master-key-iters", json_integer(l->mk_iterations));
	json_object_set_new(o, "slots", slots);
	return o;
}
