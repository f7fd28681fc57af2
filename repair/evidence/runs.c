/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Runs: small objects say too little each, but a run of them on the host, moved to the guest by one and
 * the same distance, adds up.  Every object votes with each place where a file would end as it does;
 * votes of near neighbours for the same distance form a group, and a group with more bits than chance
 * among all distances could bring places its members.  Groups compete for objects and slots.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

#define VOTES_MAX (4u << 20) /* 128 MiB */
#define NEAR 24              /* objects without a vote that a group may pass over */
#define ALONE 24             /* bits that a member needs of its own where the group ends */
#define CHANCE 8             /* bits above the prior that make a group likely */
#define SURE 10              /* and sure, if it is that far ahead of the others, and half as much: */
#define AHEAD 15

struct vote {
	uint64_t shift;      /* guest offset less host offset */
	uint64_t host;
	uint32_t object, slot;
	uint32_t bits, group;
};

struct runs {
	struct vote *v;
	size_t n, cap;
	uint32_t *total;     /* of a group */
	uint32_t ngroups;
};

static int compare(const void *a, const void *b)
{
	const struct vote *x = a, *y = b;

	if (x->shift != y->shift)
		return x->shift < y->shift ? -1 : 1;
	return x->host < y->host ? -1 : x->host > y->host;
}

static int put(struct runs *rs, const struct vote *v)
{
	struct vote *last = rs->n ? &rs->v[rs->n - 1] : NULL;

	if (last && last->object == v->object && last->shift == v->shift) {
		last->bits += v->bits;
		return 0;
	}
	if (rs->n == rs->cap) {
		size_t cap = PLT_MAX(2 * rs->cap, (size_t)4096);
		void *t = cap <= VOTES_MAX ? realloc(rs->v, cap * sizeof(*rs->v)) : NULL;

		if (!t)
			return cap <= VOTES_MAX ? -ENOMEM : -EFBIG;
		rs->v = t;
		rs->cap = cap;
	}
	rs->v[rs->n++] = *v;
	return 0;
}

/* What its content has placed speaks for its neighbours. */
static int vote_of_placed(const struct ev *ev, struct runs *rs, uint32_t object, uint64_t host)
{
	uint32_t slot = ev->slot_of[object];
	const struct ev_place *place = &ev->place[slot];

	if (place->certainty < PLT_STRONG || !(place->kinds & (EV_SELF | EV_META | EV_TAIL)))
		return 0;
	return put(rs, &(struct vote){ .shift = ev->p->slots[slot] - host, .host = host, .object = object, .slot = slot,
				       .bits = EV_W_TAIL_MAX });
}

static int vote(struct ev *ev, struct runs *rs)
{
	const struct plt_puzzle *p = ev->p;
	int r = 0;

	for (uint32_t o = 0; !r && o < p->nobjects; o++) {
		uint64_t host = p->host_of(p->arg, o, 0);
		struct ev_claim claims[EV_CLAIMS_MAX];
		size_t n;

		if (ev->blank[o] || !host)
			continue;
		if (ev->slot_of[o] != EV_NONE) {
			r = vote_of_placed(ev, rs, o, host);
			continue;
		}
		for (int step = -1; !r && step <= 1; step += 2) {
			const struct plt_anchor *a = plt_ev_anchor_beside(ev, o, step);

			if (a)
				r = put(rs, &(struct vote){ .shift = a->guest - a->host, .host = a->host, .object = EV_NONE,
							    .slot = EV_NONE, .bits = EV_W_TAIL_MAX });
		}
		n = plt_ev_claims(ev, o, claims);
		for (size_t i = 0; !r && i < n; i++) {
			struct vote v = {
				.shift = p->slots[claims[i].slot] - host, .host = host, .object = o,
				.slot = claims[i].slot, .bits = claims[i].bits,
			};

			r = put(rs, &v);
		}
	}
	return r == -EFBIG ? 0 : r;
}

static int form_groups(const struct ev *ev, struct runs *rs)
{
	if (rs->n)
		qsort(rs->v, rs->n, sizeof(*rs->v), compare);
	rs->total = calloc(rs->n + 1, sizeof(*rs->total));
	if (!rs->total)
		return -ENOMEM;
	for (size_t i = 0; i < rs->n; i++) {
		const struct vote *last = i ? &rs->v[i - 1] : NULL;

		if (!last || last->shift != rs->v[i].shift || rs->v[i].host - last->host > NEAR * ev->p->span)
			rs->ngroups++;
		rs->v[i].group = rs->ngroups - 1;
		rs->total[rs->ngroups - 1] += rs->v[i].bits;
	}
	return 0;
}

struct two { uint32_t first, second, group; };

static void claim(struct two *t, uint32_t total, uint32_t group)
{
	if (t->first && t->group == group)
		return;
	if (total > t->first) {
		t->second = t->first;
		t->first = total;
		t->group = group;
	} else if (total > t->second) {
		t->second = total;
	}
}

/* The nearest vote of its group is several objects away. */
static bool lonely(const struct ev *ev, const struct runs *rs, size_t i)
{
	const struct vote *v = &rs->v[i];
	uint64_t far = 4 * ev->p->span;

	return !(i && v[-1].group == v->group && v->host - v[-1].host <= far) &&
	       !(i + 1 < rs->n && v[1].group == v->group && v[1].host - v->host <= far);
}

int plt_ev_runs(struct ev *ev, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;
	struct two *of_object = calloc((size_t)p->nobjects + 1, sizeof(*of_object));
	struct two *of_slot = calloc((size_t)p->nslots + 1, sizeof(*of_slot));
	struct runs rs = { 0 };
	int r = of_object && of_slot ? 0 : -ENOMEM;

	*ret_n = 0;
	if (!r && p->host_of)
		r = vote(ev, &rs);
	if (!r)
		r = form_groups(ev, &rs);
	for (size_t i = 0; !r && i < rs.n; i++) {
		if (rs.v[i].object == EV_NONE || ev->slot_of[rs.v[i].object] != EV_NONE)
			continue;
		claim(&of_object[rs.v[i].object], rs.total[rs.v[i].group], rs.v[i].group);
		claim(&of_slot[rs.v[i].slot], rs.total[rs.v[i].group], rs.v[i].group);
		plt_ev_alt_note(ev, 1, rs.v[i].object, rs.v[i].slot, (int)PLT_MIN(rs.total[rs.v[i].group], 100000u));
	}
	for (size_t i = 0; !r && i < rs.n; i++) {
		const struct vote *v = &rs.v[i];
		uint32_t total = rs.total[v->group], second;
		enum plt_certainty c = PLT_LIKELY;
		struct ev_pair pair;
		bool edge;

		if (v->object == EV_NONE)
			continue;
		if (total < (uint32_t)ev->prior + CHANCE || total == v->bits || /* an object alone is no run */
		    of_object[v->object].group != v->group || of_slot[v->slot].group != v->group ||
		    ev->slot_of[v->object] != EV_NONE || ev->place[v->slot].object != EV_NONE)
			continue;
		second = PLT_MAX(of_object[v->object].second, of_slot[v->slot].second);
		second = PLT_MAX(second, (uint32_t)plt_ev_alternative(ev, 1, v->object, v->slot));
		if (total < second + second / 4 + AHEAD / 2) /* folders alike, moved: neither is likely */
			continue;
		pair = plt_ev_score(ev, v->object, v->slot);
		if (pair.score <= 0 || pair.score + EV_W_TAIL <= (int)v->bits)
			continue; /* something else speaks against it */
		/* At the end of a run the next one may begin: there a single vote may be chance. */
		edge = i == 0 || rs.v[i - 1].group != v->group || i + 1 == rs.n || rs.v[i + 1].group != v->group;
		if (edge && v->bits < ALONE && lonely(ev, &rs, i))
			continue;
		if (total >= (uint32_t)ev->prior + SURE && total >= second + AHEAD && total / 2 >= second &&
		    (!edge || v->bits >= ALONE)) /* files of one size in a row look alike when moved */
			c = PLT_STRONG;
		pair.kinds |= EV_ORDER;
		pair.score = (int)PLT_MIN(total, 10000u);
		plt_ev_put(ev, &pair, c, (int)second);
		(*ret_n)++;
	}
	free(rs.v);
	free(rs.total);
	free(of_object);
	free(of_slot);
	return r;
}
