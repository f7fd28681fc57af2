/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The scan: every object is read once.  What is kept of it: for each 512 bytes their length without
 * trailing zeros, and its marks.  When there is more than memory should hold, an object's pieces are
 * taken in a spread of falling stride until its share is used up.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/zero.h"
#include "repair/evidence/private.h"

#define MARKS_OF_PIECE 24 /* the first of a piece; what follows mostly repeats them */

struct collect {
	struct ev *ev;
	uint32_t object;
	unsigned n;
	int error;
};

static bool grow(void **v, size_t *cap, size_t n, size_t size, size_t max)
{
	size_t want = PLT_MAX(2 * *cap, (size_t)1024);
	void *t;

	if (n < *cap)
		return true;
	t = realloc(*v, PLT_MIN(want, max) * size);
	if (!t || n >= max)
		return false;
	*v = t;
	*cap = PLT_MIN(want, max);
	return true;
}

/* The same structure going on: nothing new. */
static bool repeats(const struct plt_mark *last, const struct plt_mark *m)
{
	if (last->kind != m->kind || last->fsid != m->fsid || m->pos < last->pos)
		return false;
	switch (m->kind) {
	case PLT_MARK_EXT_INODES:
	case PLT_MARK_XFS_INODE:
	case PLT_MARK_NTFS_MFT:
	case PLT_MARK_FAT_ENTRIES:
		return m->pos / 4096 == last->pos / 4096;
	default:
		return false;
	}
}

static bool collect(void *arg, const struct plt_mark *m)
{
	struct collect *c = arg;
	struct ev *ev = c->ev;

	if (c->n && repeats(&ev->marks[ev->nmarks - 1].m, m))
		return true;
	if (c->n == MARKS_OF_PIECE || ev->nmarks == EV_MARKS_MAX)
		return false;
	if (!grow((void **)&ev->marks, &ev->marks_cap, ev->nmarks, sizeof(*ev->marks), EV_MARKS_MAX)) {
		c->error = -ENOMEM;
		return false;
	}
	ev->marks[ev->nmarks++] = (struct ev_mark){ .m = *m, .object = c->object };
	c->n++;
	return true;
}

int plt_ev_read_object(const struct ev *ev, uint32_t object, uint64_t off, void *buf, size_t len)
{
	const struct plt_puzzle *p = ev->p;

	while (len) {
		size_t n = PLT_MIN(len, p->unit - off % p->unit);
		int r = p->read_object(p->arg, object, off, buf, n);

		if (r == -ENODATA)
			memset(buf, 0, n);
		else if (r)
			return r;
		buf = (uint8_t *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

int plt_ev_read_in_slot(const struct ev *ev, uint32_t object, uint32_t slot, uint64_t off, void *buf, size_t len)
{
	const struct plt_puzzle *p = ev->p;
	int r = plt_ev_read_object(ev, object, off, buf, len);

	for (uint64_t at = 0, n; p->owns && r == 0 && at < len; at += n) {
		int own = p->owns(p->arg, object, off + at, len - at, &n);

		if (own < 0 || !n || n > len - at)
			return -EIO;
		if (!own)
			r = p->read_older ? p->read_older(p->arg, p->slots[slot] + off + at, (uint8_t *)buf + at, (size_t)n) : -ENODATA;
	}
	return r;
}

/* What it shows there depends on its place. */
static void forget_absent(const struct ev *ev, uint32_t object, uint64_t off, uint64_t len, uint16_t *g)
{
	const struct plt_puzzle *p = ev->p;

	for (uint64_t at = 0, n; at < len; at += n) {
		int own = p->owns(p->arg, object, off + at, len - at, &n);

		if (own < 0 || !n)
			n = len - at;
		for (uint64_t k = at / EV_GRAIN; own <= 0 && k < (at + n) / EV_GRAIN; k++)
			g[k] = EV_UNKNOWN;
	}
}

static uint16_t length_of(const uint8_t *p)
{
	unsigned n = EV_GRAIN;

	if (p[n - 1])
		return EV_GRAIN;
	if (plt_is_zero(p, n))
		return 0;
	while (!p[n - 1])
		n--;
	return (uint16_t)n;
}

/* Piece @i of @object; *ret: it has something there. */
static int scan_piece(struct ev *ev, uint32_t object, uint32_t i, uint8_t *buf, bool *ret)
{
	const struct plt_puzzle *p = ev->p;
	uint64_t base = (uint64_t)i * ev->piece_len;
	uint32_t step = PLT_MIN(p->unit, ev->piece_len);
	struct collect c = { .ev = ev, .object = object };
	uint16_t *g = ev->grains + ev->ngrains;
	bool any = false, read = false;

	*ret = false;
	for (uint32_t at = 0; at < ev->piece_len; at += step) {
		int r = p->read_object(p->arg, object, base + at, buf + at, step);

		if (r) {
			memset(buf + at, 0, step);
			any |= r != -ENODATA;
			for (uint32_t k = at / EV_GRAIN; k < (at + step) / EV_GRAIN; k++)
				g[k] = r == -ENODATA ? EV_ABSENT : EV_UNKNOWN;
			continue;
		}
		any = read = true;
		for (uint32_t k = at / EV_GRAIN; k < (at + step) / EV_GRAIN; k++) {
			g[k] = length_of(buf + (size_t)k * EV_GRAIN);
			if (g[k])
				ev->blank[object] = false;
		}
		if (p->owns)
			forget_absent(ev, object, base + at, step, g + at / EV_GRAIN);
	}
	if (!any) {
		ev->piece[(size_t)object * ev->pieces + i] = EV_NONE;
		return 0;
	}
	*ret = true;
	ev->piece[(size_t)object * ev->pieces + i] = (uint32_t)(ev->ngrains / ev->piece_grains);
	ev->ngrains += ev->piece_grains;
	ev->digest[object] = plt_crc32c(ev->digest[object] + i + 1, buf, ev->piece_len);
	if (read) {
		plt_ev_joints_take(ev, object, base, buf, ev->piece_len);
		plt_guest_marks(buf, ev->piece_len, base, collect, &c);
	}
	return c.error;
}

static int compare_marks(const void *a, const void *b)
{
	const struct ev_mark *x = a, *y = b;

	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	return x->m.pos < y->m.pos ? -1 : x->m.pos > y->m.pos;
}

static int scan_object(struct ev *ev, uint32_t object, uint64_t share, uint8_t *buf)
{
	uint32_t stride = 1;
	uint64_t taken = 0;
	bool any;

	while (ev->pieces / stride > share)
		stride *= 2;
	for (bool first = true; stride; stride /= 2, first = false) {
		for (uint32_t i = 0; i < ev->pieces; i += stride) {
			int r;

			if (!first && i % (2 * stride) == 0)
				continue;
			if (taken == share || ev->ngrains + ev->piece_grains > EV_GRAINS_MAX)
				return 0;
			if (!grow((void **)&ev->grains, &ev->grains_cap, ev->ngrains + ev->piece_grains, sizeof(*ev->grains),
				  EV_GRAINS_MAX + EV_PIECE))
				return -ENOMEM;
			r = scan_piece(ev, object, i, buf, &any);
			if (r)
				return r;
			taken += any;
		}
	}
	return 0;
}

int plt_ev_scan(struct ev *ev)
{
	const struct plt_puzzle *p = ev->p;
	uint8_t *buf PLT_AUTOFREE = NULL;
	uint64_t share;

	ev->piece_len = (uint32_t)PLT_MIN(p->span, EV_PIECE);
	ev->piece_grains = ev->piece_len / EV_GRAIN;
	/* (an object may cover far more than there is of the disk behind the first empty slot) */
	ev->pieces = (uint32_t)PLT_MIN(p->span / ev->piece_len, plt_div_up(p->disk_size - (p->nslots ? p->slots[0] : 0), ev->piece_len));
	ev->piece = plt_alloc_capped((uint64_t)p->nobjects * ev->pieces, sizeof(*ev->piece), UINT64_C(1) << 30);
	ev->mark_of = plt_alloc_capped((uint64_t)p->nobjects + 1, sizeof(*ev->mark_of), UINT64_C(1) << 30);
	ev->blank = plt_alloc_capped(p->nobjects, sizeof(*ev->blank), UINT64_C(1) << 30);
	ev->digest = plt_alloc_capped(p->nobjects, sizeof(*ev->digest), UINT64_C(1) << 30);
	buf = plt_alloc_io(ev->piece_len);
	if (!ev->piece || !ev->mark_of || !ev->blank || !ev->digest || !buf)
		return -ENOMEM;
	for (uint64_t i = 0; i < (uint64_t)p->nobjects * ev->pieces; i++)
		ev->piece[i] = EV_UNSEEN;
	memset(ev->blank, true, p->nobjects);
	share = p->nobjects ? EV_GRAINS_MAX / ev->piece_grains / p->nobjects : 0;
	for (uint32_t o = 0; o < p->nobjects; o++) {
		int r = scan_object(ev, o, PLT_MAX(share, UINT64_C(1)), buf);

		if (r)
			return r;
	}
	if (ev->nmarks)
		qsort(ev->marks, ev->nmarks, sizeof(*ev->marks), compare_marks);
	for (size_t i = ev->nmarks; i--;)
		ev->mark_of[ev->marks[i].object] = (uint32_t)i;
	ev->mark_of[p->nobjects] = (uint32_t)ev->nmarks;
	for (uint32_t o = p->nobjects; o--;)
		if (ev->mark_of[o] == 0 && !(ev->nmarks && ev->marks[0].object == o))
			ev->mark_of[o] = ev->mark_of[o + 1];
	return 0;
}

uint16_t plt_ev_grain(const struct ev *ev, uint32_t object, uint64_t off)
{
	uint64_t piece = off / ev->piece_len;
	uint32_t i = piece < ev->pieces ? ev->piece[(size_t)object * ev->pieces + piece] : EV_NONE;

	if (i == EV_NONE || i == EV_UNSEEN)
		return i == EV_NONE ? EV_ABSENT : EV_UNKNOWN;
	return ev->grains[(size_t)i * ev->piece_grains + off % ev->piece_len / EV_GRAIN];
}

int64_t plt_ev_length(const struct ev *ev, uint32_t object, uint64_t off, uint64_t len)
{
	for (uint64_t at = len; at; at -= EV_GRAIN) {
		uint16_t g = plt_ev_grain(ev, object, off + at - EV_GRAIN);

		if (g == EV_UNKNOWN)
			return -1;
		if (g && g != EV_ABSENT)
			return (int64_t)(at - EV_GRAIN + g);
	}
	return 0;
}
