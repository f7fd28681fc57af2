/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Compression and decompression of single units (clusters, grains), one call each.
 *
 * It protects two invariants.  What it compresses every reader can read: deflate streams never refer
 * further back than 2^12 bytes, which is the window QEMU opens them with.  What it decompresses is
 * exactly what the stream says: a fast decoder is believed only when it succeeds; whatever it refuses
 * is decoded again by zlib, whose verdict counts.
 *
 * Contexts are expensive to make (hundreds of KiB), so each thread keeps its own, made at first use and
 * released when the thread ends.  Whether compressing pays, and where the result goes, is the
 * caller's affair.
 */
#include "block/codec.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#ifdef HAVE_ISAL
#include <isa-l/igzip_lib.h>
#endif
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

#include "base/checked.h"

#define DEFLATE_WINDOW_BITS 12 /* what QEMU gives inflateInit2() */
#define DEFLATE_MEM_LEVEL 9
/* A damaged zstd frame is decoded again through a window buffer to see how far it is right; 8 MiB. */
#define ZSTD_SALVAGE_WINDOW_LOG 23

#ifdef HAVE_ISAL
/*
 * Level 2: within 3 % of the speed of level 1 on disk images and half a percent smaller.  Level 3 gains
 * another percent and takes half as long again.
 */
#define ISAL_LEVEL 2
#define ISAL_BUF ISAL_DEF_LVL2_DEFAULT

struct isal_ctx {
	struct isal_zstream stream;
	uint8_t buf[ISAL_BUF];
};
#endif

/* All contexts of one thread; each NULL or false until needed. */
struct thread_codecs {
	z_stream deflate, inflate;
	bool deflate_ready, inflate_ready;
	int deflate_level;
	ZSTD_CCtx *zstd_c;
	ZSTD_DCtx *zstd_d;
#ifdef HAVE_ISAL
	struct isal_ctx *isal;
	struct inflate_state *isal_inflate;
#endif
#ifdef HAVE_LIBDEFLATE
	struct libdeflate_decompressor *libdeflate;
#endif
};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_valid;
static __thread struct thread_codecs *mine;

static void codecs_free(void *arg)
{
	struct thread_codecs *tc = arg;

	if (tc->deflate_ready)
		(void)deflateEnd(&tc->deflate); /* says only that output was pending */
	if (tc->inflate_ready)
		(void)inflateEnd(&tc->inflate); /* cannot fail on a valid stream */
	ZSTD_freeCCtx(tc->zstd_c);
	ZSTD_freeDCtx(tc->zstd_d);
#ifdef HAVE_ISAL
	free(tc->isal);
	free(tc->isal_inflate);
#endif
#ifdef HAVE_LIBDEFLATE
	if (tc->libdeflate)
		libdeflate_free_decompressor(tc->libdeflate);
#endif
	free(tc);
	mine = NULL;
}

static void key_make(void)
{
	key_valid = pthread_key_create(&key, codecs_free) == 0;
}

/* If the library is unloaded no thread may call back into it. */
__attribute__((destructor)) static void key_drop(void)
{
	if (key_valid)
		(void)pthread_key_delete(key); /* nothing can be done about a failure here */
}

static struct thread_codecs *codecs(void)
{
	struct thread_codecs *tc = mine;

	if (tc)
		return tc;
	(void)pthread_once(&key_once, key_make); /* fails only on an invalid once */
	if (!key_valid)
		return NULL;
	tc = calloc(1, sizeof(*tc));
	if (!tc)
		return NULL;
	if (pthread_setspecific(key, tc) != 0) {
		free(tc);
		return NULL;
	}
	return mine = tc;
}

/* ---- deflate --------------------------------------------------------------------------------- */

static int64_t zlib_compress(struct thread_codecs *tc, int level, const void *in, size_t len,
			     void *out, size_t cap)
{
	z_stream *zs = &tc->deflate;
	int ret;

	if (tc->deflate_ready && tc->deflate_level != level) {
		(void)deflateEnd(zs); /* as in codecs_free() */
		tc->deflate_ready = false;
	}
	if (!tc->deflate_ready) {
		if (deflateInit2(zs, level, Z_DEFLATED, -DEFLATE_WINDOW_BITS, DEFLATE_MEM_LEVEL,
				 Z_DEFAULT_STRATEGY) != Z_OK)
			return -ENOMEM;
		tc->deflate_ready = true;
		tc->deflate_level = level;
	} else if (deflateReset(zs) != Z_OK) {
		return -EIO;
	}
	zs->next_in = (Bytef *)in;
	zs->avail_in = (uInt)len;
	zs->next_out = out;
	zs->avail_out = (uInt)cap;
	ret = deflate(zs, Z_FINISH);
	if (ret == Z_STREAM_END)
		return (int64_t)(cap - zs->avail_out);
	return ret == Z_OK || ret == Z_BUF_ERROR ? 0 : -EIO;
}

#ifdef HAVE_ISAL
static int64_t isal_compress(struct thread_codecs *tc, const void *in, size_t len, void *out,
			     size_t cap)
{
	struct isal_zstream *zs;
	int ret;

	if (!tc->isal) {
		tc->isal = malloc(sizeof(*tc->isal));
		if (!tc->isal)
			return -ENOMEM;
	}
	zs = &tc->isal->stream;
	isal_deflate_stateless_init(zs);
	zs->level = ISAL_LEVEL;
	zs->level_buf = tc->isal->buf;
	zs->level_buf_size = sizeof(tc->isal->buf);
	zs->hist_bits = DEFLATE_WINDOW_BITS;
	zs->gzip_flag = IGZIP_DEFLATE;
	zs->flush = NO_FLUSH;
	zs->end_of_stream = 1;
	zs->next_in = (uint8_t *)in;
	zs->avail_in = (uint32_t)len;
	zs->next_out = out;
	zs->avail_out = (uint32_t)cap;
	ret = isal_deflate_stateless(zs);
	if (ret == COMP_OK)
		return (int64_t)(cap - zs->avail_out);
	return ret == STATELESS_OVERFLOW ? 0 : -EIO;
}
#endif

static int64_t deflate_compress(struct thread_codecs *tc, int level, const void *in, size_t len,
				void *out, size_t cap)
{
	if (level == PLT_LEVEL_FAST) {
#ifdef HAVE_ISAL
		return isal_compress(tc, in, len, out, cap);
#else
		return zlib_compress(tc, Z_DEFAULT_COMPRESSION, in, len, out, cap);
#endif
	}
	/* with a window of 2^12 levels above zlib's own take twice the time for a thousandth of the size */
	if (level == PLT_LEVEL_BEST)
		level = Z_DEFAULT_COMPRESSION;
	else if (level > Z_BEST_COMPRESSION)
		level = Z_BEST_COMPRESSION;
	return zlib_compress(tc, level, in, len, out, cap);
}

static int zlib_inflate(struct thread_codecs *tc, const void *in, size_t in_len, void *out, size_t out_len)
{
	z_stream *zs = &tc->inflate;

	if (!tc->inflate_ready) {
		zs->next_in = NULL;
		zs->avail_in = 0;
		if (inflateInit2(zs, -MAX_WBITS) != Z_OK)
			return Z_MEM_ERROR;
		tc->inflate_ready = true;
	} else if (inflateReset(zs) != Z_OK) {
		return Z_STREAM_ERROR;
	}
	zs->next_in = (Bytef *)in;
	zs->avail_in = (uInt)in_len;
	zs->next_out = out;
	zs->avail_out = (uInt)out_len;
	return inflate(zs, Z_FINISH);
}

/* The exact answer, and how far a damaged stream is right. */
static int zlib_decompress(struct thread_codecs *tc, const void *in, size_t in_len, void *out,
			   size_t out_len, size_t *ret_good)
{
	const z_stream *zs = &tc->inflate;
	int ret = zlib_inflate(tc, in, in_len, out, out_len);

	if (ret == Z_MEM_ERROR)
		return -ENOMEM;
	if (ret == Z_STREAM_ERROR)
		return -EIO;
	if (ret_good)
		*ret_good = out_len - zs->avail_out;
	/* The bytes wanted are there: whether the stream ends here or goes on is no concern. */
	if (zs->avail_out == 0 && (ret == Z_STREAM_END || ret == Z_OK || ret == Z_BUF_ERROR))
		return 0;
	return -EIO;
}

/* How long the stream is that fills @out and ends there. */
static int64_t zlib_length(struct thread_codecs *tc, const void *in, size_t in_len, void *out, size_t out_len)
{
	int ret = zlib_inflate(tc, in, in_len, out, out_len);

	if (ret == Z_MEM_ERROR)
		return -ENOMEM;
	return ret == Z_STREAM_END && tc->inflate.avail_out == 0 ? (int64_t)(in_len - tc->inflate.avail_in) : -EIO;
}

/* True: out is filled, exactly, from a valid stream of *ret_used bytes, or 0 if that is not known.  False says nothing. */
static bool fast_inflate(struct thread_codecs *tc, const void *in, size_t in_len, void *out,
			 size_t out_len, size_t *ret_used)
{
	*ret_used = 0;
#if defined(HAVE_LIBDEFLATE)
	if (!tc->libdeflate)
		tc->libdeflate = libdeflate_alloc_decompressor();
	return tc->libdeflate &&
	       libdeflate_deflate_decompress_ex(tc->libdeflate, in, in_len, out, out_len, ret_used,
						NULL) == LIBDEFLATE_SUCCESS;
#elif defined(HAVE_ISAL)
	struct inflate_state *is;

	if (!tc->isal_inflate)
		tc->isal_inflate = malloc(sizeof(*tc->isal_inflate));
	is = tc->isal_inflate;
	if (!is)
		return false;
	isal_inflate_init(is);
	is->crc_flag = ISAL_DEFLATE;
	is->next_in = (uint8_t *)in;
	is->avail_in = (uint32_t)in_len;
	is->next_out = out;
	is->avail_out = (uint32_t)out_len;
	return isal_inflate_stateless(is) == ISAL_DECOMP_OK && is->avail_out == 0;
#else
	(void)tc, (void)in, (void)in_len, (void)out, (void)out_len;
	return false;
#endif
}

/* ---- zstd ------------------------------------------------------------------------------------ */

static int64_t zstd_compress(struct thread_codecs *tc, int level, const void *in, size_t len,
			     void *out, size_t cap)
{
	size_t ret;

	if (!tc->zstd_c) {
		tc->zstd_c = ZSTD_createCCtx();
		if (!tc->zstd_c)
			return -ENOMEM;
	}
	if (level == PLT_LEVEL_FAST)
		level = ZSTD_CLEVEL_DEFAULT; /* QEMU's: the output is no larger than its */
	else if (level == PLT_LEVEL_BEST || level > 19)
		level = 19;
	ret = ZSTD_CCtx_setParameter(tc->zstd_c, ZSTD_c_compressionLevel, level);
	if (ZSTD_isError(ret))
		return -EINVAL;
	ret = ZSTD_compress2(tc->zstd_c, out, cap, in, len);
	if (!ZSTD_isError(ret))
		return (int64_t)ret;
	switch (ZSTD_getErrorCode(ret)) {
	case ZSTD_error_dstSize_tooSmall:
		return 0;
	case ZSTD_error_memory_allocation:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

/*
 * How many bytes of @out come right out of the frames in @in: block by block, up to the first that
 * does not decode.  A frame whose checksum is wrong counts for nothing: any of its bytes may be bad.
 * The input goes in byte by byte, because a call that fails does not say what it had put out before.
 */
static size_t zstd_salvage(struct thread_codecs *tc, const void *in, size_t in_len, void *out,
			   size_t out_len)
{
	ZSTD_inBuffer ib = { in, 0, 0 };
	ZSTD_outBuffer ob = { out, out_len, 0 };
	size_t frame_start = 0;

	if (ZSTD_isError(ZSTD_DCtx_reset(tc->zstd_d, ZSTD_reset_session_only)) ||
	    ZSTD_isError(ZSTD_DCtx_setParameter(tc->zstd_d, ZSTD_d_windowLogMax,
						ZSTD_SALVAGE_WINDOW_LOG)))
		return 0;
	while (frame_start < out_len && ib.size < in_len) {
		size_t ret;

		ib.size++;
		ret = ZSTD_decompressStream(tc->zstd_d, &ob, &ib);
		if (ZSTD_isError(ret))
			return ZSTD_getErrorCode(ret) == ZSTD_error_checksum_wrong ? frame_start
										   : ob.pos;
		if (ret == 0)
			frame_start = ob.pos;
	}
	return ob.pos;
}

/* *ret_done: how much of @out whole frames fill.  The length of these frames. */
static int64_t zstd_frames(struct thread_codecs *tc, const void *in, size_t in_len, void *out, size_t out_len,
			   size_t *ret_done)
{
	const uint8_t *src = in;
	uint8_t *dst = out;
	size_t at = 0, done = 0;

	if (!tc->zstd_d) {
		tc->zstd_d = ZSTD_createDCtx();
		if (!tc->zstd_d)
			return -ENOMEM;
	}
	/*
	 * Whole frames in one call each need no window buffer.  Nothing behind the frame that fills
	 * the output is looked at: it is padding or the next unit.
	 */
	while (done < out_len) {
		size_t frame = ZSTD_findFrameCompressedSize(src + at, in_len - at);
		size_t ret;

		if (ZSTD_isError(frame))
			break;
		ret = ZSTD_decompressDCtx(tc->zstd_d, dst + done, out_len - done, src + at, frame);
		if (ZSTD_isError(ret)) {
			if (ZSTD_getErrorCode(ret) == ZSTD_error_memory_allocation)
				return -ENOMEM;
			break;
		}
		at += frame;
		done += ret;
	}
	*ret_done = done;
	return (int64_t)at;
}

static int zstd_decompress(struct thread_codecs *tc, const void *in, size_t in_len, void *out,
			   size_t out_len, size_t *ret_good)
{
	size_t done;
	int64_t r = zstd_frames(tc, in, in_len, out, out_len, &done);

	if (r < 0)
		return (int)r;
	if (ret_good)
		*ret_good = done == out_len ? out_len : zstd_salvage(tc, in, in_len, out, out_len);
	return done == out_len ? 0 : -EIO;
}

/* ---- the two calls --------------------------------------------------------------------------- */

int64_t plt_compress(enum plt_codec codec, int level, const void *in, size_t len, void *out,
		     size_t cap)
{
	struct thread_codecs *tc;

	if (len == 0 || len > INT_MAX || level < PLT_LEVEL_BEST)
		return -EINVAL;
	cap = PLT_MIN(cap, (size_t)INT_MAX);
	tc = codecs();
	if (!tc)
		return -ENOMEM;
	switch (codec) {
	case PLT_CODEC_DEFLATE:
		return cap ? deflate_compress(tc, level, in, len, out, cap) : 0;
	case PLT_CODEC_ZSTD:
		return cap ? zstd_compress(tc, level, in, len, out, cap) : 0;
	case PLT_CODEC_NONE:
		break;
	}
	return -EINVAL;
}

int plt_decompress(enum plt_codec codec, const void *in, size_t in_len, void *out, size_t out_len,
		   size_t *ret_good)
{
	struct thread_codecs *tc;
	size_t used;

	if (ret_good)
		*ret_good = 0;
	if (out_len > INT_MAX)
		return -EINVAL;
	if (out_len == 0)
		return 0;
	in_len = PLT_MIN(in_len, (size_t)INT_MAX);
	tc = codecs();
	if (!tc)
		return -ENOMEM;
	switch (codec) {
	case PLT_CODEC_DEFLATE:
		if (!fast_inflate(tc, in, in_len, out, out_len, &used))
			return zlib_decompress(tc, in, in_len, out, out_len, ret_good);
		if (ret_good)
			*ret_good = out_len;
		return 0;
	case PLT_CODEC_ZSTD:
		return zstd_decompress(tc, in, in_len, out, out_len, ret_good);
	case PLT_CODEC_NONE:
		break;
	}
	return -EINVAL;
}

int64_t plt_packed_length(enum plt_codec codec, const void *in, size_t in_len, void *out, size_t out_len)
{
	struct thread_codecs *tc = codecs();
	size_t done, used;
	int64_t r;

	if (!tc)
		return -ENOMEM;
	if (out_len == 0 || out_len > INT_MAX)
		return -EINVAL;
	in_len = PLT_MIN(in_len, (size_t)INT_MAX);
	if (codec == PLT_CODEC_DEFLATE && fast_inflate(tc, in, in_len, out, out_len, &used) && used)
		return (int64_t)used;
	if (codec == PLT_CODEC_DEFLATE)
		return zlib_length(tc, in, in_len, out, out_len);
	if (codec != PLT_CODEC_ZSTD)
		return -EINVAL;
	r = zstd_frames(tc, in, in_len, out, out_len, &done);
	return r < 0 || done == out_len ? r : -EIO;
}
