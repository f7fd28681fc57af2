/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_FUZZ_H
#define PLT_TESTS_FUZZ_H

/*
 * What the fuzz targets share: one context, and the store that an input stands for.  An input is the
 * image's bytes, or, so that sparse images and impossible file sizes fit into a few hundred bytes, a
 * list of pieces:
 *
 *	"PLTS"  size:u64  { offset:u64  length:u16  bytes }*  0:u64 0:u16  the rest
 *
 * (big-endian).  The rest chooses what a target does with the image.  A hostile image must not lead
 * outside: the context refuses every reference, and memory stores are bounded.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/internal.h"
#include "platter.h"
#include "vhd/ondisk.h"

#define FUZZ_MEMORY (UINT64_C(8) << 20) /* bytes that an image file may hold */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Not assert(): it must hold in any build. */
#define FUZZ_MUST(cond)                                                                            \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);         \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* A failure must say why: one line, not empty. */
static inline void fuzz_failed(int r, const struct plt_error *err)
{
	if (r >= 0)
		return;
	FUZZ_MUST(err->code > 0);
	FUZZ_MUST(err->text[0]);
	FUZZ_MUST(!strchr(err->text, '\n'));
}

static inline void fuzz_warn(void *arg, const char *text)
{
	(void)arg;
	FUZZ_MUST(text[0]);
}

static inline struct plt_ctx *fuzz_ctx(void)
{
	static struct plt_ctx *ctx;
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;

	if (ctx)
		return ctx;
	o.cache_bytes = 1 << 20;
	o.workers = 1;
	o.policy = PLT_POLICY_UNTRUSTED;
	o.warn = fuzz_warn;
	FUZZ_MUST(plt_ctx_new(&o, &ctx, NULL) == 0);
	FUZZ_MUST(plt_ctx_add_object(ctx, "secret,id=s,data=fuzz", NULL) == 0);
	return ctx;
}

static inline void fuzz_seal_at(struct plt_store *st, uint64_t off, const char *cookie, size_t len, size_t at)
{
	uint8_t b[1024];
	uint32_t sum = 0;

	if (off > INT64_MAX - len || plt_store_read(st, off, b, len, PLT_IO_OTHER, NULL) < 0 || memcmp(b, cookie, 8) ||
	    plt_get_be32(b + at) == UINT32_MAX)
		return;
	for (size_t i = 0; i < len; i++)
		sum += i < at || i >= at + 4 ? b[i] : 0;
	plt_put_be32(b + at, ~sum);
	(void)plt_store_write(st, off, b, len, PLT_IO_OTHER, NULL);
}

/*
 * No fuzzer guesses a checksum: those of a VHD are made right, unless the input has all ones there.
 * True: it is a fixed one, which only its end shows.
 */
static inline bool fuzz_seal_vhd(struct plt_store *st)
{
	uint8_t head[24] = { 0 }, tail[8] = { 0 };
	uint64_t size;

	if (plt_store_size(st, &size, NULL) < 0 || plt_store_read(st, 0, head, sizeof(head), PLT_IO_OTHER, NULL) < 0)
		return false;
	if (size >= VHD_FOOTER) {
		fuzz_seal_at(st, size - VHD_FOOTER, VHD_COOKIE, VHD_FOOTER, offsetof(struct vhd_footer, checksum));
		(void)plt_store_read(st, size - VHD_FOOTER, tail, sizeof(tail), PLT_IO_OTHER, NULL);
	}
	if (memcmp(head, VHD_COOKIE, 8))
		return !memcmp(tail, VHD_COOKIE, 8);
	fuzz_seal_at(st, 0, VHD_COOKIE, VHD_FOOTER, offsetof(struct vhd_footer, checksum));
	fuzz_seal_at(st, plt_get_be64(head + 16), VHD_HEADER_COOKIE, VHD_HEADER, offsetof(struct vhd_header, checksum));
	return false;
}

/* The store of an input; @rest is what stands behind the pieces (empty for plain bytes). */
static inline struct plt_store *fuzz_store(const uint8_t *data, size_t len, const uint8_t **rest, size_t *rest_len)
{
	struct plt_store *memory, *overlay;
	uint64_t size;
	size_t at = 12;

	*rest = data + len;
	*rest_len = 0;
	if (len < 12 || memcmp(data, "PLTS", 4)) {
		FUZZ_MUST(plt_memory_new(data, len, len > FUZZ_MEMORY ? len : FUZZ_MEMORY, &memory) == 0);
		return memory;
	}
	size = plt_get_be64(data + 4);
	FUZZ_MUST(plt_memory_new(NULL, 0, FUZZ_MEMORY, &memory) == 0);
	while (len - at >= 10) {
		uint64_t off = plt_get_be64(data + at);
		size_t n = plt_get_be16(data + at + 8);

		at += 10;
		if (!n)
			break;
		n = n < len - at ? n : len - at;
		if (off <= FUZZ_MEMORY - n)
			FUZZ_MUST(plt_store_write(memory, off, data + at, n, PLT_IO_OTHER, NULL) == 0);
		at += n;
	}
	*rest = data + at;
	*rest_len = len - at;
	if (size <= FUZZ_MEMORY) {
		FUZZ_MUST(plt_store_truncate(memory, size, NULL) == 0);
		return memory;
	}
	/*
	 * A sparse file: what is written into it stays in memory too.  Either of a size whose clusters a
	 * check can go through at once, or of one that no file has.
	 */
	if (size > UINT64_C(256) << 20 && size < UINT64_C(1) << 55)
		size = UINT64_C(256) << 20;
	FUZZ_MUST(plt_overlay_new(memory, true, &overlay) == 0);
	FUZZ_MUST(plt_overlay_set_size(overlay, size <= INT64_MAX ? size : INT64_MAX) == 0);
	plt_store_unref(memory);
	return overlay;
}

/* Open the input as what its first bytes say; NULL: refused (with a reason). */
static inline struct plt_disk *fuzz_open(struct plt_store *st, unsigned flags, const char *snapshot)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	static const char *const key[] = { "encrypt.key-secret=s", NULL };
	struct plt_disk *disk = NULL;
	uint8_t magic[4];
	int r;

	if (!st->readonly && fuzz_seal_vhd(st))
		o.format = "vpc";
	/* Legacy AES takes any key.  (LUKS would spend what time its header asks for.) */
	FUZZ_MUST(plt_store_read(st, 0, magic, sizeof(magic), PLT_IO_OTHER, NULL) == 0);
	o.options = memcmp(magic, "QFI\xfb", 4) ? NULL : key;
	o.flags = flags;
	o.snapshot = snapshot;
	r = plt_disk_open_store(fuzz_ctx(), st, "image", o.format, &o, &disk, &err);
	fuzz_failed(r, &err);
	if (r == 0)
		FUZZ_MUST(plt_disk_size(disk) <= INT64_MAX);
	return r < 0 ? NULL : disk;
}

/* Give a disk whose image names a backing file one: half a MiB of a pattern. */
static inline void fuzz_backing(struct plt_disk *disk)
{
	static uint8_t pattern[512 << 10];
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_store *st;
	struct plt_disk *base;

	if (!plt_disk_image(disk)->backing_name)
		return;
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 ^ i >> 9);
	FUZZ_MUST(plt_memory_new(pattern, sizeof(pattern), sizeof(pattern), &st) == 0);
	FUZZ_MUST(plt_disk_open_store(fuzz_ctx(), st, "base", "raw", &o, &base, NULL) == 0);
	plt_store_unref(st);
	plt_disk_attach_backing(disk, base);
}

/* Numbers from the input's own bytes: the same input does the same. */
static inline uint64_t fuzz_seed(const uint8_t *data, size_t len)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		h = (h ^ data[i]) * UINT64_C(0x100000001b3);
	return h;
}

static inline uint64_t fuzz_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 17;
}

#endif
