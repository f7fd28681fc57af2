/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Digests through OpenSSL's EVP.  An algorithm is looked up once, for that takes locks and string
 * compares; contexts, whose making costs as much as hashing some KiB, are kept in a few slots of
 * the algorithm and taken by exchange, so that any number of threads hash at full rate without a
 * lock and nothing outlives plt_digest_free().  The block construction itself, and knowing that
 * equal blocks of zeros have equal digests, is left to convert/hash.c.
 */
#include "base/digest.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"

#define SLOTS 16

struct plt_digest {
	EVP_MD *md;
	size_t size;
	_Atomic(EVP_MD_CTX *) *slots; /* SLOTS; each NULL or a context for md that nobody uses */
};

struct plt_digest_stream {
	EVP_MD_CTX *ctx;
};

int plt_digest_new(const char *name, struct plt_digest **ret, struct plt_error *err)
{
	struct plt_digest *d = calloc(1, sizeof(*d));
	int size;

	if (!d)
		return plt_error_errno(err, ENOMEM, "digest '%s'", name);
	d->slots = calloc(SLOTS, sizeof(*d->slots));
	if (!d->slots) {
		plt_digest_free(d);
		return plt_error_errno(err, ENOMEM, "digest '%s'", name);
	}
	ERR_set_mark();
	d->md = EVP_MD_fetch(NULL, name, NULL);
	ERR_pop_to_mark();
	if (!d->md) {
		plt_digest_free(d);
		return plt_error_set(err, EINVAL, "Unknown digest '%s'", name);
	}
	size = EVP_MD_get_size(d->md);
	if (size <= 0 || size > PLT_DIGEST_MAX || (EVP_MD_get_flags(d->md) & EVP_MD_FLAG_XOF)) {
		plt_digest_free(d);
		return plt_error_set(err, EINVAL, "Digest '%s' has no fixed size of 1 to %d bytes",
				     name, PLT_DIGEST_MAX);
	}
	d->size = (size_t)size;
	*ret = d;
	return 0;
}

void plt_digest_free(struct plt_digest *d)
{
	if (!d)
		return;
	for (unsigned i = 0; d->slots && i < SLOTS; i++)
		EVP_MD_CTX_free(atomic_load(&d->slots[i]));
	free(d->slots);
	EVP_MD_free(d->md);
	free(d);
}

size_t plt_digest_size(const struct plt_digest *d)
{
	return d->size;
}

/* A context ready for a new message, or NULL. */
static EVP_MD_CTX *take_context(const struct plt_digest *d)
{
	EVP_MD_CTX *ctx = NULL;

	for (unsigned i = 0; i < SLOTS && !ctx; i++)
		if (atomic_load_explicit(&d->slots[i], memory_order_relaxed))
			ctx = atomic_exchange_explicit(&d->slots[i], NULL, memory_order_acquire);
	if (ctx && EVP_DigestInit_ex2(ctx, NULL, NULL))
		return ctx;
	if (!ctx) {
		ctx = EVP_MD_CTX_new();
		if (ctx && EVP_DigestInit_ex2(ctx, d->md, NULL))
			return ctx;
	}
	EVP_MD_CTX_free(ctx);
	return NULL;
}

static void give_context(const struct plt_digest *d, EVP_MD_CTX *ctx)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		EVP_MD_CTX *expected = NULL;

		if (atomic_compare_exchange_strong_explicit(&d->slots[i], &expected, ctx,
							    memory_order_release,
							    memory_order_relaxed))
			return;
	}
	EVP_MD_CTX_free(ctx);
}

int plt_digest_block(const struct plt_digest *d, const void *buf, size_t len, uint8_t *ret)
{
	EVP_MD_CTX *ctx;
	bool good;

	ERR_set_mark();
	ctx = take_context(d);
	if (!ctx) {
		ERR_pop_to_mark();
		return -ENOMEM;
	}
	good = EVP_DigestUpdate(ctx, buf, len) && EVP_DigestFinal_ex(ctx, ret, NULL);
	ERR_pop_to_mark();
	if (!good) {
		EVP_MD_CTX_free(ctx);
		return -EIO;
	}
	give_context(d, ctx);
	return 0;
}

int plt_digest_stream_new(const struct plt_digest *d, struct plt_digest_stream **ret)
{
	struct plt_digest_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	ERR_set_mark();
	s->ctx = EVP_MD_CTX_new();
	if (!s->ctx || !EVP_DigestInit_ex2(s->ctx, d->md, NULL)) {
		ERR_pop_to_mark();
		plt_digest_stream_free(s);
		return -ENOMEM;
	}
	ERR_pop_to_mark();
	*ret = s;
	return 0;
}

int plt_digest_stream_add(struct plt_digest_stream *s, const void *buf, size_t len)
{
	return EVP_DigestUpdate(s->ctx, buf, len) ? 0 : -EIO;
}

int plt_digest_stream_end(struct plt_digest_stream *s, uint8_t *ret)
{
	return EVP_DigestFinal_ex(s->ctx, ret, NULL) ? 0 : -EIO;
}

void plt_digest_stream_free(struct plt_digest_stream *s)
{
	if (!s)
		return;
	EVP_MD_CTX_free(s->ctx);
	free(s);
}
