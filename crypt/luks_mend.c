/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A damaged LUKS header: what of it says the same elsewhere, or can only be one thing, is put right.  That is the mark, the
 * version, where key material and payload lie (eight areas of one length, one behind the other), the number of stripes,
 * whether a slot is active, and the names of cipher, mode and hash, of which few are in use.  What nothing says again, salts
 * and iterations of a slot, costs that slot; the digest of the master key cannot be told from a wrong one without a passphrase.
 *
 * The invariant: a header that can be read is left as it is, and one that cannot be read afterwards is no repair.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "crypt/luks.h"

#define LOOKS_LIKE 8    /* marks of a header, of those that there are: 3 and 2 for each slot */

static const char *const modes[] = { "xts-plain64", "cbc-essiv:sha256", "cbc-plain64", "cbc-plain", "xts-plain", "ctr-plain64",
				     "ecb-plain64" };
static const char *const hashes[] = { "sha256", "sha1", "sha512", "sha384", "sha224", "ripemd160", "md5" };
static const char *const ciphers[] = { "aes" };

static void said(struct plt_luks_mended *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void said(struct plt_luks_mended *m, const char *fmt, ...)
{
	size_t n = strlen(m->text);
	va_list ap;

	m->fields++;
	if (n)
		n += (size_t)snprintf(m->text + n, sizeof(m->text) - n, ", ");
	if (n >= sizeof(m->text))
		return;
	va_start(ap, fmt);
	vsnprintf(m->text + n, sizeof(m->text) - n, fmt, ap);
	va_end(ap);
}

static bool is_state(uint32_t v)
{
	return v == LUKS_ACTIVE || v == LUKS_INACTIVE;
}

static unsigned marks(const struct luks_header_ondisk *h)
{
	unsigned n = 2u * !memcmp(h->magic, LUKS_MAGIC, LUKS_MAGIC_LEN) + (plt_be16_get(h->version) == 1);

	for (unsigned i = 0; i < LUKS_SLOTS; i++)
		n += is_state(plt_be32_get(h->slot[i].active)) + (plt_be32_get(h->slot[i].stripes) == LUKS_STRIPES);
	return n;
}

/* ---- where things lie ---------------------------------------------------------------------------------------- */

/* Sectors from one area of key material to the next, as most slots have it; 0: they do not agree. */
static uint32_t find_stride(const struct luks_header_ondisk *h)
{
	for (unsigned i = 0; i < LUKS_SLOTS - 1; i++) {
		uint32_t d = plt_be32_get(h->slot[i + 1].key_offset) - plt_be32_get(h->slot[i].key_offset);
		unsigned same = 0;

		for (unsigned k = 0; k < LUKS_SLOTS - 1; k++)
			same += plt_be32_get(h->slot[k + 1].key_offset) - plt_be32_get(h->slot[k].key_offset) == d;
		if (same >= 3 && d && d < 1u << 16)
			return d;
	}
	return 0;
}

static bool is_key_length(uint32_t n)
{
	return n == 16 || n == 24 || n == 32 || n == 48 || n == 64;
}

static uint32_t stride_of(uint32_t key_bytes)
{
	return (uint32_t)(plt_align_up((uint64_t)key_bytes * LUKS_STRIPES, LUKS_ALIGN) / PLT_SECTOR);
}

/*
 * Where the payload of an image of nothing else begins: right behind the key material, as QEMU has it, or at the next MiB, as
 * cryptsetup has.  Sectors that are encrypted are not zeros, and what lies between is never written.
 */
static uint32_t payload_at(struct plt_store *st, uint64_t base, uint32_t end)
{
	const uint32_t places[] = { end, plt_align_up(end, 2048) };
	uint8_t buf[PLT_SECTOR];

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(places); i++) {
		if (plt_store_read(st, base + (uint64_t)places[i] * PLT_SECTOR, buf, sizeof(buf), PLT_IO_HEADER, NULL) < 0)
			return 0; /* (it may be there) */
		if (!plt_is_zero(buf, sizeof(buf)))
			return places[i];
	}
	return 0;
}

static void mend_places(struct plt_store *st, uint64_t base, struct plt_luks_mended *m, struct luks_header_ondisk *h,
			bool inside)
{
	uint32_t stride = find_stride(h), key = plt_be32_get(h->key_bytes), payload = plt_be32_get(h->payload_offset);
	uint32_t first = 0, end;

	if (!is_key_length(key) || (stride && stride_of(key) != stride))
		for (uint32_t n = 16; n <= 64; n += 8)
			if (is_key_length(n) && stride_of(n) == stride) {
				said(m, "the length of the key (%" PRIu32 ", not %" PRIu32 ")", n, key);
				h->key_bytes = plt_be32_make(n);
				key = n;
			}
	if (!stride)
		stride = stride_of(key);
	if (!is_key_length(key) || stride != stride_of(key))
		return;
	for (unsigned i = 0, best = 0; i < LUKS_SLOTS; i++) { /* where the first one begins, by most of them */
		uint32_t at = plt_be32_get(h->slot[i].key_offset) - i * stride;
		unsigned same = 0;

		for (unsigned k = 0; k < LUKS_SLOTS; k++)
			same += plt_be32_get(h->slot[k].key_offset) - k * stride == at;
		if (same > best) {
			best = same;
			first = at;
		}
	}
	if (!first || first > 4096)
		first = LUKS_ALIGN / PLT_SECTOR;
	for (unsigned i = 0; i < LUKS_SLOTS; i++)
		if (plt_be32_get(h->slot[i].key_offset) != first + i * stride) {
			said(m, "the place of key slot %u", i);
			h->slot[i].key_offset = plt_be32_make(first + i * stride);
		}
	end = first + LUKS_SLOTS * stride;
	if ((payload || inside) && (payload < end || payload > 8 * end)) { /* (in an image nothing is found by it) */
		payload = inside ? end : payload_at(st, base, end);
		if (!payload)
			return;
		said(m, "the place of the payload");
		h->payload_offset = plt_be32_make(payload);
	}
}

/* Are the areas as long as such a key makes them?  Where they are made otherwise they say nothing. */
static bool fits_stride(const struct luks_header_ondisk *h)
{
	uint32_t stride = find_stride(h), key = plt_be32_get(h->key_bytes);
	bool known = false;

	for (uint32_t n = 16; n <= 64 && plt_be32_get(h->slot[0].key_offset) == LUKS_ALIGN / PLT_SECTOR; n += 8)
		known |= is_key_length(n) && stride_of(n) == stride;
	return !known || stride_of(key) == stride;
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

/* The name that is like it in most bytes, if no other is as much so. */
static void mend_name(struct plt_luks_mended *m, char *field, size_t len, const char *const *names, size_t n, const char *what)
{
	const char *found = NULL;
	size_t best = 0;
	bool several = false;

	for (size_t i = 0; i < n; i++) {
		size_t want = strlen(names[i]) + 1, same = 0;

		for (size_t k = 0; k < want; k++)
			same += field[k] == names[i][k];
		if (same == want)
			return;
		if (same * 2 < want)
			continue;
		several = same == best;
		if (same > best) {
			best = same;
			found = names[i];
		}
	}
	n = strnlen(field, len);
	if (!found || several || (n < len && n != strlen(found) && plt_is_zero(field + n, len - n)))
		return; /* (perhaps one that is not known here) */
	said(m, "the name of the %s ('%s')", what, found);
	memset(field, 0, len);
	memcpy(field, found, strlen(found));
}

/* ---- slots ----------------------------------------------------------------------------------------------------- */

static bool is_one_byte(const uint8_t *p)
{
	return !memcmp(p, p + 1, PLT_SECTOR - 1);
}

/* Has a slot any key material?  What does not read may be some. */
static bool has_material(struct plt_store *st, uint64_t at)
{
	uint8_t buf[PLT_SECTOR];

	return plt_store_read(st, at, buf, sizeof(buf), PLT_IO_HEADER, NULL) < 0 || !is_one_byte(buf);
}

static void mend_slots(struct plt_store *st, uint64_t base, struct plt_luks_mended *m, struct luks_header_ondisk *h)
{
	for (unsigned i = 0; i < LUKS_SLOTS; i++) {
		struct luks_slot_ondisk *s = &h->slot[i];
		uint32_t n = plt_be32_get(s->iterations);
		bool can = n && n <= INT32_MAX && !plt_is_zero(s->salt, LUKS_SALT);

		if (plt_be32_get(s->stripes) != LUKS_STRIPES) {
			said(m, "the stripes of key slot %u", i);
			s->stripes = plt_be32_make(LUKS_STRIPES);
		}
		if (!is_state(plt_be32_get(s->active))) {
			can = can && has_material(st, base + (uint64_t)plt_be32_get(s->key_offset) * PLT_SECTOR);
			said(m, "whether key slot %u is active", i);
			s->active = plt_be32_make(can ? LUKS_ACTIVE : LUKS_INACTIVE);
		} else if (plt_be32_get(s->active) == LUKS_ACTIVE && (!n || n > INT32_MAX)) {
			said(m, "the iterations of key slot %u, which are gone, and the slot with them", i);
			s->active = plt_be32_make(LUKS_INACTIVE);
		}
	}
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

int plt_luks_mend(struct plt_store *st, uint64_t base, uint64_t space, bool inside, struct plt_luks_mended *ret,
		  struct plt_error *err)
{
	struct luks_header_ondisk h;
	struct plt_luks *l = NULL;
	bool usable;
	uint64_t size;
	int r = plt_store_size(st, &size, err);

	*ret = (struct plt_luks_mended){ 0 };
	if (r < 0)
		return r;
	if (base > size || size - base < sizeof(h))
		return -ENOENT;
	r = plt_store_read(st, base, &h, sizeof(h), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	if (!memcmp(h.magic, LUKS_MAGIC, LUKS_MAGIC_LEN) && plt_be16_get(h.version) == 2 && marks(&h) < LOOKS_LIKE)
		return plt_error_set(err, ENOTSUP, "LUKS version 2 is not supported, version 1 is");
	if (marks(&h) < LOOKS_LIKE)
		return -ENOENT;
	r = plt_luks_read(st, base, space, &l, NULL);
	usable = r == 0 && l->usable && (l->payload_offset || !inside); /* (a name may be one that nobody has) */
	plt_luks_free(l);
	/* (one that can be read may say another length of the key than the areas have that are made for it) */
	if ((usable && fits_stride(&h)) || (r < 0 && r != -EUCLEAN && r != -EINVAL && r != -ENOTSUP))
		return r;
	if (memcmp(h.magic, LUKS_MAGIC, LUKS_MAGIC_LEN)) {
		said(ret, "the mark");
		memcpy(h.magic, LUKS_MAGIC, LUKS_MAGIC_LEN);
	}
	if (plt_be16_get(h.version) != 1) {
		said(ret, "the version");
		h.version = plt_be16_make(1);
	}
	mend_name(ret, h.cipher, sizeof(h.cipher), ciphers, PLT_ARRAY_SIZE(ciphers), "cipher");
	mend_name(ret, h.mode, sizeof(h.mode), modes, PLT_ARRAY_SIZE(modes), "cipher's mode");
	mend_name(ret, h.hash, sizeof(h.hash), hashes, PLT_ARRAY_SIZE(hashes), "hash");
	mend_places(st, base, ret, &h, inside);
	mend_slots(st, base, ret, &h);
	memcpy(ret->header, &h, sizeof(h));
	ret->whole = plt_luks_is_whole(&h, PLT_MIN(space, plt_align_up(size, LUKS_ALIGN) - base));
	return 0;
}

int plt_luks_worn(struct plt_store *st, const struct plt_luks *l, unsigned slot, struct plt_luks_wear *ret, struct plt_error *err)
{
	uint64_t at = l->base + l->slot[slot].key_offset, len = (uint64_t)l->key_bytes * LUKS_STRIPES;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(plt_align_up(len, PLT_SECTOR));
	uint64_t first = 0, n = 0;
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	*ret = (struct plt_luks_wear){ .first = at };
	if (r == 0)
		r = plt_store_read(st, at, buf, plt_align_down(len, PLT_SECTOR), PLT_IO_HEADER, err);
	if (r < 0) /* (of which nothing is known) */
		return r;
	for (uint64_t k = 0; k + PLT_SECTOR <= len; k += PLT_SECTOR)
		if (is_one_byte(buf + k) && !n++)
			first = at + k;
	ret->worn = n || plt_is_zero(l->slot[slot].salt, LUKS_SALT);
	if (n) {
		ret->first = first;
		snprintf(ret->text, sizeof(ret->text), "%" PRIu64 " sectors of its key material (the first at %" PRIu64
			 ") have been written over: no passphrase opens it", n, first);
	} else {
		snprintf(ret->text, sizeof(ret->text), "its salt is zeros: no passphrase opens it");
	}
	return 0;
}
