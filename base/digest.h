/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_DIGEST_H
#define PLT_BASE_DIGEST_H

/*
 * Content digests over OpenSSL.
 *
 * The block digest is the construction of nbdkit's blksum and libnbd's nbdcopy --blkhash: the
 * digest of the concatenated digests of each block (the last block shorter), followed by the
 * total length as a 64-bit little-endian number.  Blocks can be hashed in any order by any thread;
 * plt_digest_block() is reentrant.  A block of zeros is hashed once.
 */
#include <stddef.h>
#include <stdint.h>

#include "platter.h"

#define PLT_DIGEST_MAX 64

struct plt_digest; /* an algorithm, resolved once; immutable, any thread */

/* @name as OpenSSL spells it ("sha256", "blake2b512", "md5"...).  -EINVAL if unknown or no fixed size. */
int plt_digest_new(const char *name, struct plt_digest **ret, struct plt_error *err);
void plt_digest_free(struct plt_digest *d);
size_t plt_digest_size(const struct plt_digest *d);
int plt_digest_block(const struct plt_digest *d, const void *buf, size_t len, uint8_t *ret);

struct plt_digest_stream; /* a running digest; one thread at a time */

int plt_digest_stream_new(const struct plt_digest *d, struct plt_digest_stream **ret);
int plt_digest_stream_add(struct plt_digest_stream *s, const void *buf, size_t len);
int plt_digest_stream_end(struct plt_digest_stream *s, uint8_t *ret);
void plt_digest_stream_free(struct plt_digest_stream *s);

#endif
