/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Older versions: of many slots the guest's content some time before is known, from a backing file or a snapshot.
 * A cluster that was copied and then written in part is like it: sectors that are the same, at the same place in the
 * cluster, and in few other slots.  What is indexed are sectors of the objects; the older versions are read once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "repair/evidence/private.h"

#define SECTORS_MAX (UINT32_C(4) << 20) /* that are indexed: 64 MiB */
#define READ_MAX (UINT64_C(16) << 30)   /* bytes of older versions */
#define COMMON 4                        /* a sector that so many objects have says nothing */
#define ENOUGH 4                        /* sectors alike */
#define KEPT_MAX (UINT32_C(1) << 20)

struct sector { uint64_t key; uint32_t object; };

struct older {
	struct ev *ev;
	struct sector *v;
	size_t n;
	uint32_t *count;   /* of objects: sectors that are those of the slot at hand, */
	uint32_t *touched; /* and which have any */
	uint32_t ntouched;
};

static int compare(const void *a, const void *b)
{
	const struct sector *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->object < y->object ? -1 : x->object > y->object;
}

/* 0: it says nothing: one byte all over. */
static uint64_t key_of(const uint8_t *p, uint64_t at)
{
	if (!memcmp(p, p + 1, EV_GRAIN - 1))
		return 0;
	return ((uint64_t)plt_crc32c(~0u, p, EV_GRAIN) << 32 | plt_crc32c((uint32_t)(at / EV_GRAIN) + 1, p, EV_GRAIN)) | 1;
}

static int index_objects(struct older *o, uint8_t *buf)
{
	const struct plt_puzzle *p = o->ev->p;
	uint64_t step = EV_GRAIN;

	while (p->span / step * p->nobjects > SECTORS_MAX && step < p->span)
		step *= 2;
	o->v = plt_alloc_capped(p->span / step * p->nobjects + 1, sizeof(*o->v), UINT64_C(1) << 30);
	if (!o->v)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->nobjects && o->n < SECTORS_MAX; i++) {
		if (o->ev->blank[i] || plt_ev_read_object(o->ev, i, 0, buf, p->span))
			continue;
		for (uint64_t at = 0; at < p->span && o->n < SECTORS_MAX; at += step) {
			uint64_t key = key_of(buf + at, at);

			if (key)
				o->v[o->n++] = (struct sector){ key, i };
		}
	}
	if (o->n)
		qsort(o->v, o->n, sizeof(*o->v), compare);
	return 0;
}

static void look_up(struct older *o, uint64_t key)
{
	size_t lo = 0, hi = o->n, n = 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (o->v[mid].key < key)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (lo + n < o->n && o->v[lo + n].key == key && n <= COMMON)
		n++;
	for (size_t i = lo; n <= COMMON && i < lo + n; i++)
		if (!o->count[o->v[i].object]++)
			o->touched[o->ntouched++] = o->v[i].object;
}

static int keep(struct ev *ev, uint32_t object, uint32_t slot, uint32_t n)
{
	if (ev->nlike == ev->like_cap) {
		size_t cap = ev->like_cap ? 2 * ev->like_cap : 1024;
		void *v = cap <= KEPT_MAX ? realloc(ev->like, cap * sizeof(*ev->like)) : NULL;

		if (!v)
			return cap <= KEPT_MAX ? -ENOMEM : 0;
		ev->like = v;
		ev->like_cap = cap;
	}
	ev->like[ev->nlike++] = (struct ev_like){ object, slot, n };
	return 0;
}

static int compare_likes(const void *a, const void *b)
{
	const struct ev_like *x = a, *y = b;

	if (x->object != y->object)
		return x->object < y->object ? -1 : 1;
	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static int look_at_slots(struct older *o, uint8_t *buf)
{
	const struct plt_puzzle *p = o->ev->p;
	uint64_t left = READ_MAX;
	int r = 0;

	for (uint32_t s = 0; s < p->nslots && left >= p->span && r == 0; s++) {
		size_t len = (size_t)PLT_MIN(p->span, p->disk_size - p->slots[s]);

		if (p->read_older(p->arg, p->slots[s], buf, len))
			continue;
		left -= p->span;
		memset(buf + len, 0, p->span - len);
		for (uint64_t at = 0; at < p->span; at += EV_GRAIN) {
			uint64_t key = key_of(buf + at, at);

			if (key)
				look_up(o, key);
		}
		for (uint32_t i = 0; i < o->ntouched; i++) {
			if (o->count[o->touched[i]] >= ENOUGH && r == 0)
				r = keep(o->ev, o->touched[i], s, o->count[o->touched[i]]);
			o->count[o->touched[i]] = 0;
		}
		o->ntouched = 0;
	}
	return r;
}

int plt_ev_compare_older(struct ev *ev)
{
	const struct plt_puzzle *p = ev->p;
	struct older o = { .ev = ev };
	uint8_t *buf PLT_AUTOFREE = NULL;
	int r;

	if (!p->read_older || p->span != p->unit || !p->nobjects)
		return 0;
	buf = plt_alloc_io(p->span);
	o.count = calloc(p->nobjects, sizeof(*o.count));
	o.touched = calloc(p->nobjects, sizeof(*o.touched));
	r = buf && o.count && o.touched ? index_objects(&o, buf) : -ENOMEM;
	if (r == 0)
		r = look_at_slots(&o, buf);
	if (r == 0 && ev->nlike)
		qsort(ev->like, ev->nlike, sizeof(*ev->like), compare_likes);
	free(o.v);
	free(o.count);
	free(o.touched);
	return r;
}

const struct ev_like *plt_ev_likes_of(const struct ev *ev, uint32_t object, size_t *ret_n)
{
	size_t lo = 0, hi = ev->nlike, n = 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (ev->like[mid].object < object)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (lo + n < ev->nlike && ev->like[lo + n].object == object)
		n++;
	*ret_n = n;
	return ev->nlike ? ev->like + lo : NULL;
}
