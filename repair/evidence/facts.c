/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Facts about the empty slots: what each filesystem says of them, cut at the slots' borders and sorted,
 * with an index by key of those that a piece of content can be looked up by: where a file ends
 * (position in the slot and length), and what belongs to an inode (its checksum register).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

struct survey {
	struct ev *ev;
	uint8_t fs;
	int error;
};

uint32_t plt_ev_tail_key(uint64_t end, uint64_t value)
{
	uint64_t h = (end / EV_GRAIN << 20 ^ value) * UINT64_C(0x9e3779b97f4a7c15);

	return (uint32_t)(h >> 32) | 1;
}

uint32_t plt_ev_owner_key(uint64_t value)
{
	return (uint32_t)value & ~1u; /* even: never a tail's */
}

static int put(struct ev *ev, const struct ev_fact *f)
{
	if (ev->nfacts == ev->facts_cap) {
		size_t cap = PLT_MIN(PLT_MAX(2 * ev->facts_cap, (size_t)4096), (size_t)EV_FACTS_MAX);
		void *t;

		if (ev->nfacts == EV_FACTS_MAX) {
			ev->facts_full = true;
			return -EFBIG;
		}
		t = realloc(ev->facts, cap * sizeof(*ev->facts));
		if (!t)
			return -ENOMEM;
		ev->facts = t;
		ev->facts_cap = cap;
	}
	ev->facts[ev->nfacts++] = *f;
	return 0;
}

/* One file goes on behind this slot. */
static void see_joint(struct ev *ev, uint32_t slot)
{
	const struct ev_place *v = &ev->place[slot];

	if (slot + 1 < ev->p->nslots && ev->p->slots[slot + 1] == ev->p->slots[slot] + ev->p->span && v[1].object != EV_NONE &&
	    v[0].certainty >= PLT_STRONG && v[1].certainty >= PLT_STRONG)
		plt_ev_joints_seen(ev, v[0].object, v[1].object);
}

static bool take(void *arg, const struct plt_fact *fact)
{
	struct survey *s = arg;
	struct ev *ev = s->ev;
	const struct plt_puzzle *p = ev->p;
	uint64_t end = fact->off + fact->len;

	for (uint32_t i = plt_ev_slot_from(ev, fact->off); i < p->nslots && p->slots[i] < end; i++) {
		uint64_t from = PLT_MAX(fact->off, p->slots[i]), to = PLT_MIN(end, p->slots[i] + p->span);
		struct ev_fact f = {
			.off = from, .slot = i, .kind = fact->kind, .what = fact->what, .fs = s->fs,
			.value = fact->value, .from = fact->off,
		};

		if (ev->place[i].object != EV_NONE) {
			if (fact->kind == PLT_FACT_DATA && end > p->slots[i] + p->span)
				see_joint(ev, i);
			continue;
		}
		if (fact->kind == PLT_FACT_TAIL) {
			uint64_t stop = fact->off + fact->value; /* where the file ends */

			if (stop <= from)
				continue;
			f.value = stop - from;
			if (stop >= to)
				f.kind = PLT_FACT_DATA;
			else
				f.key = plt_ev_tail_key(to - p->slots[i], f.value);
		} else if (fact->kind == PLT_FACT_KEY) {
			f.key = plt_ev_owner_key(fact->value);
		}
		/* A span may pass 4 GiB; a fact's part of it is kept in pieces of less. */
		while (from < to) {
			f.off = from;
			f.more = end > p->slots[i] + p->span;
			f.len = (uint32_t)PLT_MIN(to - from, UINT64_C(1) << 30);
			s->error = put(ev, &f);
			if (s->error)
				return false;
			from += f.len;
		}
	}
	return true;
}

static int compare_facts(const void *a, const void *b)
{
	const struct ev_fact *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return (x->kind > y->kind) - (x->kind < y->kind);
}

static int compare_keys(const void *a, const void *b, void *arg)
{
	const struct ev_fact *facts = arg;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	if (facts[x].key != facts[y].key)
		return facts[x].key < facts[y].key ? -1 : 1;
	return (x > y) - (x < y);
}

int plt_ev_survey(struct ev *ev)
{
	size_t n = 0;

	ev->nfacts = 0;
	ev->nby_key = 0;
	ev->facts_full = false;
	plt_ev_joints_learn(ev);
	for (unsigned i = 0; i < ev->nfs; i++) {
		struct survey s = { .ev = ev, .fs = (uint8_t)i };
		int r = ev->fs[i].fs->ops->survey(ev->fs[i].fs, take, &s);

		if (r == -ENOMEM || s.error == -ENOMEM)
			return -ENOMEM;
	}
	if (ev->nfacts)
		qsort(ev->facts, ev->nfacts, sizeof(*ev->facts), compare_facts);
	if (!ev->facts_of)
		ev->facts_of = malloc(((size_t)ev->p->nslots + 1) * sizeof(*ev->facts_of));
	if (!ev->facts_of)
		return -ENOMEM;
	for (size_t i = 0, slot = 0; slot <= ev->p->nslots; slot++) {
		while (i < ev->nfacts && ev->facts[i].slot < slot)
			i++;
		ev->facts_of[slot] = i;
	}
	ev->nwanted = 0;
	for (size_t i = 0; i < ev->nfacts; i++) {
		n += ev->facts[i].key != 0;
		ev->nwanted += !i || ev->facts[i].slot != ev->facts[i - 1].slot;
	}
	for (ev->prior = 5; ev->prior < 37 && ev->nwanted >> (ev->prior - 5); )
		ev->prior++;
	free(ev->by_key);
	ev->by_key = malloc((n + 1) * sizeof(*ev->by_key));
	if (!ev->by_key)
		return -ENOMEM;
	for (size_t i = 0; i < ev->nfacts; i++)
		if (ev->facts[i].key)
			ev->by_key[ev->nby_key++] = (uint32_t)i;
	qsort_r(ev->by_key, ev->nby_key, sizeof(*ev->by_key), compare_keys, ev->facts);
	return 0;
}

size_t plt_ev_facts_of(const struct ev *ev, uint32_t slot)
{
	return ev->facts_of[slot];
}

bool plt_ev_wanted(const struct ev *ev, uint32_t slot)
{
	return ev->facts_of[slot] != ev->facts_of[slot + 1];
}

bool plt_ev_ends_from(const struct ev *ev, uint32_t slot)
{
	const struct ev_fact *f = &ev->facts[ev->facts_of[slot]];

	return plt_ev_wanted(ev, slot) && f->kind == PLT_FACT_TAIL && f->off == ev->p->slots[slot] && f->from == f->off;
}

size_t plt_ev_facts_by_key(const struct ev *ev, uint32_t key, size_t *ret)
{
	size_t lo = 0, hi = ev->nby_key, n = 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (ev->facts[ev->by_key[mid]].key < key)
			lo = mid + 1;
		else
			hi = mid;
	}
	*ret = lo;
	while (lo + n < ev->nby_key && ev->facts[ev->by_key[lo + n]].key == key)
		n++;
	return n;
}
