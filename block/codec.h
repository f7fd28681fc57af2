/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BLOCK_CODEC_H
#define PLT_BLOCK_CODEC_H

/*
 * Compression for every format that has it: raw deflate and zstd.  Contexts are kept per thread and
 * reused.  Any thread; never blocks on I/O.
 */
#include <stddef.h>
#include <stdint.h>

#include "formats/driver.h"
#include "platter.h"

/* Levels for plt_compress(); others are the library's own 1..9 (zlib) or 1..19 (zstd). */
#define PLT_LEVEL_FAST 0
#define PLT_LEVEL_BEST (-1)

/*
 * Compress @len bytes into @out (room for @cap).  Returns the length, 0 if it does not fit in @cap
 * (the caller then stores the unit plain), or -errno.  Deflate streams are made with a window of
 * 2^12 bytes, all that QEMU's reader accepts.
 */
int64_t plt_compress(enum plt_codec codec, int level, const void *in, size_t len, void *out, size_t cap);

/*
 * Decompress exactly @out_len bytes from @in, of which only a prefix may belong to the stream.
 * Deflate is read with the largest window.  zstd: one or more frames.  On -EIO (stream ends early or
 * is damaged) *ret_good is how many leading bytes of @out are right; it may be NULL.
 */
int plt_decompress(enum plt_codec codec, const void *in, size_t in_len, void *out, size_t out_len,
		   size_t *ret_good);

/*
 * Of a unit that decodes to exactly @out_len bytes, and ends there, the compressed length; @in may go on behind it.
 * -EIO: no such unit begins here; -ENOMEM.
 */
int64_t plt_packed_length(enum plt_codec codec, const void *in, size_t in_len, void *out, size_t out_len);

/*
 * decode.c: read a compressed unit and decode it into @out, room for all of it.  *ret_read: an errno if it could not be
 * read.  For a @rescue a stream may be longer than its entry says.  *ret_good as above.
 */
int plt_unit_decode(const struct plt_run *run, bool rescue, void *out, size_t *ret_good, int *ret_read,
		    struct plt_error *err);

#endif
