/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * block/codec.c: round trips, streams of other makers, the deflate window that QEMU's reader is
 * promised, tails that do not belong to the stream, damage, and contexts shared by no two threads.
 */
#include "block/codec.h"

#include <errno.h>
#include <pthread.h>
#include <zlib.h>
#include <zstd.h>

#include "tests/unit.h"

#define UNIT 65536
#define ROOM (2 * UNIT)

static const enum plt_codec codecs[] = { PLT_CODEC_DEFLATE, PLT_CODEC_ZSTD };
static const int levels[] = { PLT_LEVEL_FAST, PLT_LEVEL_BEST, 1, 3, 6, 9 };
static uint8_t data[UNIT], packed[ROOM], back[ROOM];

/* Text-like: words of a small vocabulary, with matches at all distances. */
static void fill(uint8_t *buf, size_t len, uint64_t *seed)
{
	size_t i = 0;

	while (i < len) {
		uint64_t r = plt_unit_random(seed);
		size_t n = 2 + r % 14;

		if ((r >> 32) % 4 && i > 300) { /* repeat something from anywhere before */
			size_t from = (r >> 8) % (i - 16);

			for (; n-- && i < len; i++)
				buf[i] = buf[from++];
		} else {
			for (; n-- && i < len; i++)
				buf[i] = (uint8_t)('a' + plt_unit_random(seed) % 20);
		}
	}
}

START_TEST(round_trip)
{
	static const size_t lengths[] = { 1, 511, 512, 4096, 65535, 65536 };
	uint64_t seed = plt_unit_seed();
	enum plt_codec codec = codecs[_i];

	for (unsigned l = 0; l < sizeof(levels) / sizeof(levels[0]); l++) {
		for (unsigned n = 0; n < sizeof(lengths) / sizeof(lengths[0]); n++) {
			size_t len = lengths[n], good = 0;
			int64_t clen;

			fill(data, len, &seed);
			clen = plt_compress(codec, levels[l], data, len, packed, ROOM);
			ck_assert_int_gt(clen, 0);
			if (len >= 4096)
				ck_assert_int_lt(clen, (int64_t)len * 3 / 4);
			/* sectors of other units follow */
			memset(packed + clen, 0xa7, 700);
			memset(back, 0x55, sizeof(back));
			ck_assert_int_eq(plt_decompress(codec, packed, (size_t)clen + 700, back, len,
							&good), 0);
			ck_assert_uint_eq(good, len);
			ck_assert_mem_eq(back, data, len);
			ck_assert_uint_eq(back[len], 0x55);
		}
	}
}
END_TEST

/* Units that lie one behind the other say themselves where they end. */
START_TEST(units_in_a_row)
{
	uint64_t seed = plt_unit_seed();
	enum plt_codec codec = codecs[_i];
	int64_t first, second;

	fill(data, UNIT, &seed);
	first = plt_compress(codec, PLT_LEVEL_FAST, data, UNIT / 2, packed, ROOM);
	ck_assert_int_gt(first, 0);
	second = plt_compress(codec, PLT_LEVEL_FAST, data + UNIT / 2, UNIT / 2, packed + first, ROOM - (size_t)first);
	ck_assert_int_gt(second, 0);
	ck_assert_int_eq(plt_packed_length(codec, packed, (size_t)(first + second), back, UNIT / 2), first);
	ck_assert_mem_eq(back, data, UNIT / 2);
	ck_assert_int_eq(plt_packed_length(codec, packed + first, (size_t)second, back, UNIT / 2), second);
	ck_assert_mem_eq(back, data + UNIT / 2, UNIT / 2);
	/* shorter or longer than a unit, cut, none at all */
	ck_assert_int_eq(plt_packed_length(codec, packed, (size_t)first, back, UNIT / 2 - 1), -EIO);
	ck_assert_int_eq(plt_packed_length(codec, packed, (size_t)first, back, UNIT / 2 + 1), -EIO);
	ck_assert_int_eq(plt_packed_length(codec, packed, (size_t)first - 1, back, UNIT / 2), -EIO);
	ck_assert_int_eq(plt_packed_length(codec, data, UNIT, back, UNIT / 2), -EIO);
	ck_assert_int_eq(plt_packed_length(PLT_CODEC_NONE, packed, (size_t)first, back, UNIT / 2), -EINVAL);
}
END_TEST
START_TEST(does_not_fit)
{
	uint64_t seed = plt_unit_seed();

	for (size_t i = 0; i < UNIT; i++)
		data[i] = (uint8_t)plt_unit_random(&seed);
	for (unsigned l = 0; l < sizeof(levels) / sizeof(levels[0]); l++) {
		memset(packed, 0x33, sizeof(packed));
		ck_assert_int_eq(plt_compress(codecs[_i], levels[l], data, UNIT, packed, UNIT - 1), 0);
		ck_assert_uint_eq(packed[UNIT - 1], 0x33);
		ck_assert_int_eq(plt_compress(codecs[_i], levels[l], data, UNIT, packed, 0), 0);
	}
	/* The context is fit for use after that. */
	memset(data, 'x', UNIT);
	ck_assert_int_gt(plt_compress(codecs[_i], PLT_LEVEL_FAST, data, UNIT, packed, UNIT - 1), 0);
}
END_TEST

/*
 * inflate() with a window of 2^12, one byte of output a call: then it has nothing but that window to
 * look back into, and refuses every longer distance.
 */
START_TEST(deflate_window)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned l = 0; l < sizeof(levels) / sizeof(levels[0]); l++) {
		z_stream zs = { 0 };
		size_t got = 0;
		int64_t clen;
		int ret;

		fill(data, UNIT, &seed);
		/* a copy of what lies 8 KiB and 30 KiB back tempts the encoder */
		memcpy(data + 20000, data + 20000 - 8192, 4000);
		memcpy(data + 50000, data + 50000 - 30000, 4000);
		clen = plt_compress(PLT_CODEC_DEFLATE, levels[l], data, UNIT, packed, ROOM);
		ck_assert_int_gt(clen, 0);
		ck_assert_int_eq(inflateInit2(&zs, -12), Z_OK);
		zs.next_in = packed;
		zs.avail_in = (uInt)clen;
		do {
			zs.next_out = back + got;
			zs.avail_out = 1;
			ret = inflate(&zs, Z_SYNC_FLUSH);
			got += 1 - zs.avail_out;
			ck_assert_msg(ret == Z_OK || ret == Z_STREAM_END, "level %d: %s at %zu", levels[l],
				      zs.msg ? zs.msg : "error", got);
		} while (ret != Z_STREAM_END);
		inflateEnd(&zs);
		ck_assert_uint_eq(got, UNIT);
		ck_assert_mem_eq(back, data, UNIT);
	}
}
END_TEST

/* Other programs use the whole window of 32 KiB. */
START_TEST(deflate_large_window)
{
	uint64_t seed = plt_unit_seed();
	z_stream zs = { 0 };
	size_t good;

	fill(data, UNIT, &seed);
	memcpy(data + 50000, data + 50000 - 32000, 4000);
	ck_assert_int_eq(deflateInit2(&zs, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
	zs.next_in = data;
	zs.avail_in = UNIT;
	zs.next_out = packed;
	zs.avail_out = ROOM;
	ck_assert_int_eq(deflate(&zs, Z_FINISH), Z_STREAM_END);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, zs.total_out, back, UNIT, &good), 0);
	ck_assert_mem_eq(back, data, UNIT);
	/* A stream that holds more than is asked for gives what is asked for, as in QEMU. */
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, zs.total_out, back, 40000, NULL), 0);
	ck_assert_mem_eq(back, data, 40000);
	deflateEnd(&zs);
}
END_TEST

START_TEST(deflate_damage)
{
	uint64_t seed = plt_unit_seed();
	size_t good = 1, last = 0;
	int64_t clen;

	fill(data, UNIT, &seed);
	clen = plt_compress(PLT_CODEC_DEFLATE, PLT_LEVEL_FAST, data, UNIT, packed, ROOM);
	ck_assert_int_gt(clen, 0);
	/* Cut short: what came before the cut is right, and more of it the later the cut. */
	for (int64_t cut = 0; cut < clen - 1; cut += clen / 16) {
		ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, (size_t)cut, back, UNIT, &good),
				 -EIO);
		ck_assert_uint_lt(good, UNIT);
		ck_assert_uint_ge(good, last);
		ck_assert_mem_eq(back, data, good);
		last = good;
	}
	ck_assert_uint_gt(last, UNIT / 2);
	/* A block of type 3 does not exist. */
	memset(packed, 0xff, 16);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, (size_t)clen, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 0);
	/* Too short a stream: right as far as it goes. */
	clen = plt_compress(PLT_CODEC_DEFLATE, PLT_LEVEL_FAST, data, 4096, packed, ROOM);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, (size_t)clen, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 4096);
	ck_assert_mem_eq(back, data, 4096);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, NULL, 0, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 0);
}
END_TEST

static size_t zstd_frame(const uint8_t *in, size_t len, uint8_t *out, int checksum)
{
	ZSTD_CCtx *cctx = ZSTD_createCCtx();
	size_t n;

	ZSTD_CCtx_setParameter(cctx, ZSTD_c_checksumFlag, checksum);
	n = ZSTD_compress2(cctx, out, ROOM / 2, in, len);
	ZSTD_freeCCtx(cctx);
	ck_assert(!ZSTD_isError(n));
	return n;
}

START_TEST(zstd_frames)
{
	uint64_t seed = plt_unit_seed();
	static const uint8_t skippable[] = { 0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3 };
	size_t n, cut, good;

	fill(data, UNIT, &seed);
	n = zstd_frame(data, 10000, packed, 0);
	memcpy(packed + n, skippable, sizeof(skippable));
	n += sizeof(skippable);
	cut = n;
	n += zstd_frame(data + 10000, UNIT - 10000, packed + n, 1);
	memset(packed + n, 0, 512);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, packed, n + 512, back, UNIT, &good), 0);
	ck_assert_uint_eq(good, UNIT);
	ck_assert_mem_eq(back, data, UNIT);

	/* The checksum of the second frame is wrong: only the first is vouched for. */
	packed[n - 1] ^= 1;
	memset(back, 0, UNIT);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, packed, n, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 10000);
	ck_assert_mem_eq(back, data, good);
	/* The second frame is missing. */
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, packed, cut, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 10000);
	/* A frame that holds more than the unit is damage, as in QEMU. */
	n = zstd_frame(data, UNIT, packed, 0);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, packed, n, back, 5000, &good), -EIO);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, data, UNIT, back, UNIT, &good), -EIO);
	ck_assert_uint_eq(good, 0);
}
END_TEST

/* Blocks of a frame before the damaged one come out. */
START_TEST(zstd_damage)
{
	enum { BIG = 512 << 10 };
	uint8_t *in = malloc(BIG), *out = malloc(BIG), *frame = malloc(BIG + 4096);
	uint64_t seed = plt_unit_seed();
	ZSTD_CCtx *cctx = ZSTD_createCCtx();
	size_t n, good;

	ck_assert(in && out && frame && cctx);
	fill(in, BIG, &seed);
	n = ZSTD_compress2(cctx, frame, BIG + 4096, in, BIG);
	ck_assert(!ZSTD_isError(n));
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, frame, n * 3 / 4, out, BIG, &good), -EIO);
	ck_assert_uint_ge(good, 128 << 10);
	ck_assert_uint_lt(good, BIG);
	ck_assert_mem_eq(out, in, good);
	/* and the context reads whole ones afterwards */
	ck_assert_int_eq(plt_decompress(PLT_CODEC_ZSTD, frame, n, out, BIG, NULL), 0);
	ck_assert_mem_eq(out, in, BIG);
	ZSTD_freeCCtx(cctx);
	free(in);
	free(out);
	free(frame);
}
END_TEST

START_TEST(refusals)
{
	ck_assert_int_eq(plt_compress(PLT_CODEC_NONE, 0, data, 1, packed, ROOM), -EINVAL);
	ck_assert_int_eq(plt_compress(PLT_CODEC_ZSTD, -2, data, 1, packed, ROOM), -EINVAL);
	ck_assert_int_eq(plt_compress(PLT_CODEC_ZSTD, 0, data, 0, packed, ROOM), -EINVAL);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_NONE, packed, 1, back, 1, NULL), -EINVAL);
	ck_assert_int_eq(plt_decompress(PLT_CODEC_DEFLATE, packed, 1, back, 0, NULL), 0);
}
END_TEST

/* No larger than zlib by more than a fifth, no larger than zstd's default at all. */
START_TEST(size)
{
	uint64_t seed = 42;
	uLongf zlen = ROOM;
	int64_t clen;

	fill(data, UNIT, &seed);
	ck_assert_int_eq(compress2(packed, &zlen, data, UNIT, 6), Z_OK);
	clen = plt_compress(PLT_CODEC_DEFLATE, PLT_LEVEL_BEST, data, UNIT, packed, ROOM);
	ck_assert_int_lt(plt_compress(PLT_CODEC_DEFLATE, PLT_LEVEL_FAST, data, UNIT, packed, ROOM),
			 clen * 6 / 5);
	ck_assert_int_le(plt_compress(PLT_CODEC_ZSTD, PLT_LEVEL_FAST, data, UNIT, packed, ROOM),
			 (int64_t)ZSTD_compress(back, ROOM, data, UNIT, ZSTD_CLEVEL_DEFAULT));
}
END_TEST

static void *hammer(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	uint8_t *in = malloc(UNIT), *mid = malloc(ROOM), *out = malloc(UNIT);
	const char *wrong = NULL;

	if (!in || !mid || !out)
		abort();
	for (int i = 0; i < 40 && !wrong; i++) {
		enum plt_codec codec = codecs[i % 2];
		int64_t clen;

		fill(in, UNIT, &seed);
		clen = plt_compress(codec, levels[plt_unit_random(&seed) % 6], in, UNIT, mid, ROOM);
		if (clen <= 0 || plt_decompress(codec, mid, (size_t)clen, out, UNIT, NULL) ||
		    memcmp(in, out, UNIT))
			wrong = "data differs";
	}
	free(in);
	free(mid);
	free(out);
	return (void *)wrong;
}

START_TEST(threads)
{
	pthread_t t[4];
	void *wrong;

	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, hammer, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(pthread_join(t[i], &wrong), 0);
		ck_assert_ptr_null(wrong);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("codec");
	TCase *tc = tcase_create("codec");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, round_trip, 0, 2);
	tcase_add_loop_test(tc, units_in_a_row, 0, 2);
	tcase_add_loop_test(tc, does_not_fit, 0, 2);
	tcase_add_test(tc, deflate_window);
	tcase_add_test(tc, deflate_large_window);
	tcase_add_test(tc, deflate_damage);
	tcase_add_test(tc, zstd_frames);
	tcase_add_test(tc, zstd_damage);
	tcase_add_test(tc, refusals);
	tcase_add_test(tc, size);
	tcase_add_test(tc, threads);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
