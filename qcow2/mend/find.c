/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * One pass over a file whose header is not believed: each 512 bytes that could be a part of a table are noted, whatever
 * the cluster size is, and a few marks beside (a GPT header, a LUKS header).  Nearly everything is refused by its first
 * sixteen bytes.  Both cores read, holes are skipped, and what is noted is bounded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/zero.h"
#include "qcow2/mend/find.h"

#define PART (UINT64_C(64) << 20) /* at least; a file has at most 4096 */
#define PIECE (UINT64_C(1) << 20)

/* One entry of a table of any cluster size. */
static bool fits(const struct qcow2_find *f, uint64_t e, uint64_t *bits)
{
	uint64_t off = e & QCOW2_L2_OFFSET;

	if (e & QCOW2_COMPRESSED) /* (where its length begins depends on the cluster size) */
		return !(e & QCOW2_COPIED) && (e & ((UINT64_C(1) << 49) - 1)) < f->bound && e << 15;
	if ((e & QCOW2_L2_RESERVED) || off >= f->bound || ((e & QCOW2_COPIED) && !off))
		return false;
	*bits |= off;
	return true;
}

static bool looks_plain(const struct qcow2_find *f, const uint8_t *p, struct qcow2_sight *s)
{
	uint64_t bits = 0, last = 0;
	bool packed = false;

	for (unsigned i = 0; i < 512; i += 8) {
		uint64_t e = plt_get_be64(p + i);

		if (!e)
			continue;
		if (!fits(f, e, &bits) || (e == last && e != QCOW2_L2_ZERO))
			return false;
		s->n++;
		packed |= !!(e & QCOW2_COMPRESSED);
		last = e;
	}
	s->align = bits ? (uint8_t)__builtin_ctzll(bits) : 0;
	return s->n > 0 && (bits || packed); /* (what names no place says nothing of cluster sizes) */
}

static bool looks_paired(const struct qcow2_find *f, const uint8_t *p, struct qcow2_sight *s)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < 512; i += 16) {
		uint64_t e = plt_get_be64(p + i), b = plt_get_be64(p + i + 8);

		if (!(e | b))
			continue;
		if ((e & QCOW2_L2_ZERO) || !fits(f, e, &bits) || (b >> 32 & b) || (!(e & QCOW2_L2_OFFSET) && (uint32_t)b))
			return false;
		s->n++;
	}
	s->pairs = true;
	s->align = bits ? (uint8_t)__builtin_ctzll(bits) : 0;
	return s->n > 0;
}

static int note(struct qcow2_find *f, const struct qcow2_sight *s)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	if (f->n == f->cap && f->cap < QCOW2_MAX_SIGHTS) {
		uint32_t cap = f->cap ? 2 * f->cap : 1024;
		void *v = realloc(f->v, cap * sizeof(*f->v));

		if (v) {
			f->v = v;
			f->cap = cap;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0 && f->n < f->cap)
		f->v[f->n++] = *s;
	pthread_mutex_unlock(&f->lock);
	return r;
}

static void note_marks(struct qcow2_find *f, const uint8_t *p, uint64_t off)
{
	static const uint8_t luks[8] = { 'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1 };
	const bool gpt = !memcmp(p, "EFI PART", 8) && plt_get_le64(p + 24) == 1 && off >= 1024;
	uint64_t sectors = gpt ? plt_get_le64(p + 32) : 0;

	if (gpt && sectors < UINT64_C(1) << 54) {
		pthread_mutex_lock(&f->lock);
		f->gpt_several |= f->gpt_size && f->gpt_size != (sectors + 1) * 512;
		if (off - 512 < f->gpt) {
			f->gpt = off - 512;
			f->gpt_size = (sectors + 1) * 512;
		}
		pthread_mutex_unlock(&f->lock);
	}
	if (!memcmp(p, luks, sizeof(luks))) {
		pthread_mutex_lock(&f->lock);
		f->luks = PLT_MIN(f->luks, off);
		pthread_mutex_unlock(&f->lock);
	}
}

static int look(struct qcow2_find *f, const uint8_t *p, uint64_t off)
{
	struct qcow2_sight s = {.off = off}, own = {.off = off};
	uint64_t first = plt_get_be64(p), bits = 0;
	bool fit;

	if (p[0] == 'E' || p[0] == 'L')
		note_marks(f, p, off);
	/* (the places of an external data file lie anywhere: one that is marked, and nothing else in its first bytes) */
	if (first && !fits(f, first, &bits) && (p[0] != 0x80 || p[1]))
		return 0;
	fit = looks_plain(f, p, &s);
	if (!fit) {
		s = (struct qcow2_sight){.off = off};
		fit = looks_paired(f, p, &s);
	}
	if (qcow2_sight_own(p, 8, &own) || qcow2_sight_own(p, 16, &own)) {
		own.pairs = own.own_pairs;
		return note(f, &own);
	}
	return fit ? note(f, &s) : 0;
}

static int look_through(void *arg, unsigned part)
{
	struct qcow2_find *f = arg;
	uint64_t at = part * f->part, end = PLT_MIN(at + f->part, plt_align_down(f->file_size, 512));
	uint8_t *buf = plt_alloc_io(PIECE);
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && at < end) {
		enum plt_store_kind kind;
		uint64_t n = end - at, got;

		if (plt_store_extents(f->file, at, n, &kind, &got, NULL) == 0 && got) {
			n = PLT_MIN(n, got);
			if (kind == PLT_STORE_HOLE) {
				at += plt_align_down(n, 512);
				if (n >= 512)
					continue;
				n = PLT_MIN(UINT64_C(512), end - at);
			}
		}
		n = PLT_MIN(plt_align_up(n, 512), PLT_MIN(PIECE, end - at));
		if (plt_store_read(f->file, at, buf, n, PLT_IO_OTHER, NULL) == 0) /* (what cannot be read shows nothing) */
			for (uint64_t i = 0; i < n && r == 0; i += 512)
				r = look(f, buf + i, at + i);
		at += n;
	}
	free(buf);
	return r;
}

static int by_place(const void *a, const void *b)
{
	const struct qcow2_sight *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

uint64_t qcow2_find_bound(uint64_t file_size)
{
	return PLT_MIN(file_size, QCOW2_MAX_HOST_OFFSET / 16) * 8 + (UINT64_C(64) << 20);
}

int qcow2_find_sights(struct qcow2_find *f)
{
	int r = plt_store_size(f->file, &f->file_size, NULL);
	uint64_t parts;

	f->bound = qcow2_find_bound(f->file_size);
	f->part = PLT_MAX(PART, plt_align_up(f->file_size / 4096, PIECE));
	parts = plt_div_up(f->file_size, f->part);
	f->luks = f->gpt = UINT64_MAX;
	if (r == 0 && pthread_mutex_init(&f->lock, NULL))
		r = -ENOMEM;
	if (r == 0)
		r = plt_ctx_parallel(f->ctx, (unsigned)parts, look_through, f);
	if (f->n)
		qsort(f->v, f->n, sizeof(*f->v), by_place);
	return r;
}

void qcow2_find_release(struct qcow2_find *f)
{
	free(f->v);
	free(f->t);
}
