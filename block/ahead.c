/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Loading blocks of the metadata cache, and with each what follows it in its table when tables are gone
 * through in order: the window doubles with each load that begins where the last one ended, up to 64 KiB; and
 * what lies in the same 4096 bytes comes along always.  Blocks that are taken along are reserved before
 * the read, as the one that was asked for, so that nobody's later version is overwritten by it.  A failed
 * read of several is no verdict on any of them: from then on each is read for itself.
 */
#include "base/alloc.h"
#include "block/engine.h"

#define WINDOW (64u << 10)

/* How many blocks from @off on are worth reading at once? */
static unsigned window(struct plt_image *img, const struct plt_block *b, uint64_t off)
{
	struct plt_engine *eng = img->engine;
	uint64_t end = b->type->table_end ? b->type->table_end(img, off) : 0, n;

	if (end < off + 2 * b->len || atomic_load_explicit(&eng->ahead_off, memory_order_relaxed))
		return 1;
	n = (plt_align_down(off, PLT_SLICE) + PLT_SLICE - off) / b->len;
	if (off == atomic_load_explicit(&eng->ahead_at, memory_order_relaxed))
		n = PLT_MAX(n, (uint64_t)2 * atomic_load_explicit(&eng->ahead_n, memory_order_relaxed));
	n = PLT_MIN(PLT_MIN(n, (uint64_t)(WINDOW / b->len)), (end - off) / b->len);
	n = PLT_MIN(PLT_MIN(n, (uint64_t)PLT_AHEAD_MAX), plt_cache_budget(img->ctx) / 16);
	return (unsigned)PLT_MAX(n, UINT64_C(1));
}

size_t plt_ahead_begin(struct plt_image *img, struct plt_block *b, struct plt_ahead **ret)
{
	struct plt_engine *eng = img->engine;
	uint64_t off = plt_block_host_off(b);
	unsigned n = window(img, b, off), have = 1;
	struct plt_ahead *a = n > 1 ? malloc(sizeof(*a)) : NULL;

	for (; a && have < n; have++) {
		a->v[have - 1] = plt_cache_reserve(eng, b->type, off + (uint64_t)have * b->len);
		if (!a->v[have - 1])
			break;
	}
	if (a)
		a->n = have - 1;
	*ret = a;
	atomic_store_explicit(&eng->ahead_at, off + (uint64_t)have * b->len, memory_order_relaxed);
	atomic_store_explicit(&eng->ahead_n, have, memory_order_relaxed);
	return (size_t)have * b->len;
}

void plt_ahead_end(struct plt_image *img, struct plt_block *b, struct plt_ahead *a, const uint8_t *buf, int error,
		   const struct plt_error *text)
{
	struct plt_engine *eng = img->engine;
	unsigned n = a ? a->n : 0;

	for (unsigned i = 0; i < n; i++) {
		if (error) {
			plt_cache_unreserve(eng, a->v[i]);
			continue;
		}
		plt_cache_loaded(eng, a->v[i], buf + (size_t)(i + 1) * b->len, 0, NULL);
		plt_block_unpin(a->v[i]);
	}
	if (error && n) {
		atomic_store_explicit(&eng->ahead_off, true, memory_order_relaxed);
		plt_cache_load_again(eng, b);
		return;
	}
	plt_cache_loaded(eng, b, buf, error, text);
}

int plt_meta_load_wait(struct plt_image *img, struct plt_block *b, struct plt_error *err)
{
	uint8_t small[PLT_SLICE] __attribute__((aligned(PLT_SLICE))), *buf = small;
	struct plt_error text = PLT_ERROR_INIT;
	struct plt_ahead *a;
	size_t len;
	int r;

	/*
	 * Somebody else's load may be under way; it is not waited for, because that request may belong to
	 * this very thread.  Whoever is first publishes.
	 */
	len = plt_ahead_begin(img, b, &a);
	if (len > sizeof(small))
		buf = plt_alloc_io(len);
	r = buf ? plt_store_read(img->file, plt_block_host_off(b), buf, len, b->type->tag, &text) : -ENOMEM;
	plt_ahead_end(img, b, a, buf, -r, &text);
	if (buf != small)
		free(buf);
	free(a);
	return plt_cache_load_result(img->engine, b, err);
}
