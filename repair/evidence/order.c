/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The allocator's habit: what a guest writes in one go lies in one run on the host, so that the object
 * that begins on the host where a placed one ends belongs behind it in the guest too.  How often that
 * holds is measured on what content has placed; where an image was filled in no order nothing grows.
 * Three ways: a *bridge* between two placed objects that are as far apart in the guest as on the host;
 * a *split* of what lies between two runs; and a few *steps* from one, as many as the habit can carry.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

#define HABIT_BRIDGE 100 /* of 1000: by chance two are never as far apart here as there */
#define HABIT_SPLIT 940
#define MAX_OVERLAP 6    /* objects that both sides could have: with more, whole runs may lie in between */
#define HABIT_STEP 997
#define MAX_STRONG 64    /* what is in between two strong ones is strong, too, if it is not more than that */
#define SURE_STEPS 985   /* a chain of steps is right this often at least */
#define SURE_RULE 990    /* and so is the rule of one break, tried on what is known */
#define SURE_LONG 997    /* the more depends on one decision */
#define TRIALS 25        /* this often at least */

struct key { uint64_t host; uint32_t object; };

static int compare_hosts(const void *a, const void *b)
{
	const struct key *x = a, *y = b;

	if (x->host != y->host)
		return x->host < y->host ? -1 : 1;
	return x->object < y->object ? -1 : x->object > y->object;
}

static uint32_t items(const struct ev *ev)
{
	return ev->p->nobjects + ev->p->nanchors;
}

static const struct plt_anchor *anchor(const struct ev *ev, uint32_t item)
{
	return item < ev->p->nobjects ? NULL : &ev->p->anchors[item - ev->p->nobjects];
}

static uint64_t host_end(const struct ev *ev, uint32_t item)
{
	const struct plt_puzzle *p = ev->p;
	uint64_t host = anchor(ev, item) ? anchor(ev, item)->host : p->host_of(p->arg, item, p->span - p->unit);

	return host ? host + p->unit : 0;
}

/* Where an item is in the guest; UINT64_MAX: nobody knows yet. */
static uint64_t guest_of(const struct ev *ev, uint32_t item)
{
	if (anchor(ev, item))
		return anchor(ev, item)->guest;
	return ev->slot_of[item] == EV_NONE ? UINT64_MAX : ev->p->slots[ev->slot_of[item]];
}

static bool is_placed(const struct ev *ev, uint32_t item)
{
	return item >= ev->p->nobjects || ev->slot_of[item] != EV_NONE;
}

static enum plt_certainty certainty_of(const struct ev *ev, uint32_t item)
{
	return item >= ev->p->nobjects ? PLT_PROVEN : ev->place[ev->slot_of[item]].certainty;
}

int plt_ev_order_init(struct ev *ev)
{
	const struct plt_puzzle *p = ev->p;
	struct key *keys = malloc(((size_t)items(ev) + 1) * sizeof(*keys));
	uint32_t n = 0;

	ev->chain = malloc(((size_t)items(ev) + 1) * sizeof(*ev->chain));
	ev->hops = calloc((size_t)items(ev) + 1, sizeof(*ev->hops));
	if (!ev->chain || !ev->hops || !keys) {
		free(keys);
		return -ENOMEM;
	}
	memset(ev->chain, 0xff, ((size_t)items(ev) + 1) * sizeof(*ev->chain));
	for (uint32_t o = 0; p->host_of && o < items(ev); o++) {
		uint64_t host = anchor(ev, o) ? anchor(ev, o)->host : p->host_of(p->arg, o, 0);

		if (host)
			keys[n++] = (struct key){ .host = host, .object = o };
	}
	qsort(keys, n, sizeof(*keys), compare_hosts);
	for (uint32_t o = 0; p->host_of && o < items(ev); o++) {
		struct key want = { .host = host_end(ev, o) };
		uint32_t lo = 0, hi = n;

		while (lo < hi) {
			uint32_t mid = lo + (hi - lo) / 2;

			if (keys[mid].host < want.host)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (!want.host || lo == n || keys[lo].host != want.host || keys[lo].object == o ||
		    ev->chain[keys[lo].object].before != EV_NONE)
			continue;
		ev->chain[o].after = keys[lo].object;
		ev->chain[keys[lo].object].before = o;
	}
	free(keys);
	return 0;
}

static uint32_t beside(const struct ev *ev, uint32_t item, int step)
{
	return step < 0 ? ev->chain[item].before : ev->chain[item].after;
}

const struct plt_anchor *plt_ev_anchor_beside(const struct ev *ev, uint32_t object, int step)
{
	uint32_t other = beside(ev, object, step);

	return other == EV_NONE ? NULL : anchor(ev, other);
}

/* Guest offset of what lies beside this object on the host; UINT64_MAX. */
static uint64_t guest_beside(const struct ev *ev, uint32_t object, int step)
{
	uint32_t other = beside(ev, object, step);

	return other == EV_NONE ? UINT64_MAX : guest_of(ev, other);
}

unsigned plt_ev_order_support(const struct ev *ev, uint32_t object, uint32_t slot)
{
	uint64_t here = ev->p->slots[slot], span = ev->p->span;
	uint64_t left = guest_beside(ev, object, -1), right = guest_beside(ev, object, 1);

	return (left != UINT64_MAX && left + span == here) + (right != UINT64_MAX && here + span == right);
}

/* Whether files or metadata wait in this slot. */
static bool wanted(const struct ev *ev, uint32_t slot)
{
	size_t i = plt_ev_facts_of(ev, slot);

	return i < ev->nfacts && ev->facts[i].slot == slot;
}

static unsigned kinds_of(const struct ev *ev, uint32_t item)
{
	return item >= ev->p->nobjects ? EV_TAIL : ev->place[ev->slot_of[item]].kinds;
}

static unsigned measure(const struct ev *ev)
{
	uint64_t together = 0, all = 0;

	for (uint32_t o = 0; o < items(ev); o++) {
		uint32_t next = beside(ev, o, 1);

		if (!is_placed(ev, o) || next == EV_NONE || !is_placed(ev, next) || ev->hops[o] || ev->hops[next] ||
		    !((kinds_of(ev, o) | kinds_of(ev, next)) & EV_TAIL))
			continue; /* tables of a filesystem lie together, which says nothing of files */
		all++;
		together += guest_of(ev, next) == guest_of(ev, o) + ev->p->span;
	}
	return all < TRIALS ? 0 : (unsigned)(together * 1000 / (all + 2));
}

static bool fits(const struct ev *ev, uint32_t object, uint32_t slot, struct ev_pair *ret)
{
	if (slot == EV_NONE || ev->place[slot].object != EV_NONE || ev->blank[object] || !wanted(ev, slot))
		return false;
	*ret = plt_ev_score(ev, object, slot);
	return ret->score >= 0;
}

static void grow_one(struct ev *ev, const struct ev_pair *pair, unsigned hops, enum plt_certainty certainty, uint32_t *ret_n)
{
	struct ev_pair grown = *pair;

	grown.kinds |= EV_ORDER;
	plt_ev_put(ev, &grown, certainty, 0);
	/* A file that ends where it should renews the anchor. */
	ev->hops[pair->object] = pair->tails || pair->kinds & (EV_META | EV_SELF) ? 1 : (uint16_t)PLT_MIN(hops, 60000u);
	(*ret_n)++;
}

/*
 * Strong is what lies between two that are strong themselves, as far apart in the guest as on the host, in an image
 * that was seen to be written in runs, if the guest says that files or metadata are there: order alone is not.
 */
static bool both_strong(const struct ev *ev, uint32_t left, uint32_t right)
{
	return certainty_of(ev, left) >= PLT_STRONG && certainty_of(ev, right) >= PLT_STRONG;
}

static void bridge(struct ev *ev, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;

	for (uint32_t left = 0; left < items(ev); left++) {
		uint32_t o, n = 0;
		bool ok = true, strong;
		uint64_t at;

		if (!is_placed(ev, left))
			continue;
		at = guest_of(ev, left);
		for (o = beside(ev, left, 1); o != EV_NONE && !is_placed(ev, o) && n < p->nobjects;
		     o = beside(ev, o, 1))
			n++;
		if (!n || o == EV_NONE || !is_placed(ev, o) ||
		    guest_of(ev, o) != at + (uint64_t)(n + 1) * p->span)
			continue;
		strong = both_strong(ev, left, o) && n <= MAX_STRONG;
		for (unsigned pass = 0; pass < 2 && ok; pass++) {
			o = left;
			for (uint32_t k = 1; k <= n && ok; k++) {
				struct ev_pair pair;

				o = beside(ev, o, 1);
				ok = fits(ev, o, plt_ev_slot_at(ev, at + (uint64_t)k * p->span), &pair);
				if (pass && ok)
					grow_one(ev, &pair, PLT_MAX(ev->hops[left], 1u),
						 strong && pair.kinds & (EV_PATTERN | EV_TAIL | EV_META) ? PLT_STRONG : PLT_LIKELY,
						 ret_n);
			}
		}
	}
}

/*
 * One step from a placed object.  Not if the neighbour's other side is placed too and pulls it to
 * another slot that is still empty.
 */
static void step_on(struct ev *ev, int step, unsigned hops_max, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;

	for (uint32_t o = 0; o < p->nobjects; o++) {
		uint32_t from_object = beside(ev, o, -step), slot, pull;
		unsigned hops = from_object == EV_NONE ? 1 : ev->hops[from_object] + 1u;
		uint64_t from, other;
		struct ev_pair pair;

		if (ev->slot_of[o] != EV_NONE || hops > hops_max)
			continue;
		from = guest_beside(ev, o, -step);
		other = guest_beside(ev, o, step);
		if (from == UINT64_MAX || (step < 0 && from < p->span))
			continue;
		slot = plt_ev_slot_at(ev, step > 0 ? from + p->span : from - p->span);
		if (other != UINT64_MAX && (step < 0 || other >= p->span)) {
			pull = plt_ev_slot_at(ev, step > 0 ? other - p->span : other + p->span);
			if (pull != slot && pull != EV_NONE && ev->place[pull].object == EV_NONE && wanted(ev, pull))
				continue;
		}
		if (fits(ev, o, slot, &pair))
			grow_one(ev, &pair, hops, PLT_LIKELY, ret_n);
	}
}

/* ---- one break between two runs ------------------------------------------------------------------ */

/*
 * Unplaced objects between two placed ones of different runs: with one break between them, the first
 * ones go on from the left, the others lead up to the right.  How far each side could reach is bounded by
 * slots that are taken or do not fit; what only one side can reach is decided.
 */
struct gap {
	uint32_t left, right;        /* placed objects */
	uint32_t n;                  /* objects between */
	uint32_t reach_left, reach_right; /* how many could go on from there */
	uint32_t hidden;             /* an object in between whose place is not looked at; EV_NONE */
};

static bool could_be(struct ev *ev, const struct gap *g, uint32_t object, uint32_t slot, struct ev_pair *ret)
{
	if (slot == EV_NONE)
		return false;
	/* As if it said nothing of itself, as the objects that the rule is for. */
	if (g->hidden != EV_NONE && (object == g->hidden || slot == ev->slot_of[g->hidden]))
		return slot == ev->slot_of[g->hidden] || (ev->place[slot].object == EV_NONE && wanted(ev, slot));
	return fits(ev, object, slot, ret);
}

static uint32_t reach(struct ev *ev, const struct gap *g, int step)
{
	const struct plt_puzzle *p = ev->p;
	uint32_t o = step > 0 ? g->left : g->right, n;
	uint64_t at = guest_of(ev, o);
	struct ev_pair pair;

	for (n = 0; n < g->n; n++) {
		if (step < 0 && at < p->span)
			break;
		at = step > 0 ? at + p->span : at - p->span;
		o = beside(ev, o, step);
		if (!could_be(ev, g, o, plt_ev_slot_at(ev, at), &pair))
			break;
	}
	return n;
}

/* The gap behind @left that ends at the @skip-th placed object after it.  False: none, or one run. */
static bool find_gap(struct ev *ev, uint32_t left, unsigned skip, struct gap *g)
{
	const struct plt_puzzle *p = ev->p;
	const bool skip_all = skip; /* (an anchor has no slot that could be empty) */
	uint32_t o;

	*g = (struct gap){ .left = left, .hidden = EV_NONE };
	for (o = beside(ev, left, 1); o != EV_NONE && g->n < 1024; o = beside(ev, o, 1)) {
		if (is_placed(ev, o) && !skip)
			break;
		if (is_placed(ev, o)) {
			skip--;
			g->hidden = o;
		}
		g->n++;
	}
	if (!g->n || o == EV_NONE || !is_placed(ev, o) || (skip_all && g->hidden >= p->nobjects))
		return false;
	g->right = o;
	if (guest_of(ev, o) == guest_of(ev, left) + (uint64_t)(g->n + 1) * p->span)
		return false;
	g->reach_left = reach(ev, g, 1);
	g->reach_right = reach(ev, g, -1);
	return g->reach_left + g->reach_right >= g->n && g->reach_left + g->reach_right <= g->n + MAX_OVERLAP;
}

/* Gaps of alike length: the longer, the more may be in between. */
#define LENGTHS 12
#define SHORT 3 /* up to eight objects */

static unsigned length_class(uint32_t n)
{
	unsigned c = 0;

	while (n > 1 && c < LENGTHS - 1) {
		n = (n + 1) / 2;
		c++;
	}
	return c;
}

/*
 * For which lengths the rule would have been right about objects that content has placed: each is
 * hidden in turn.  Where it cannot be tried, there are no such placements.
 */
static void try_rule(struct ev *ev, bool *ret_holds)
{
	const struct plt_puzzle *p = ev->p;
	uint64_t right[LENGTHS] = { 0 }, wrong[LENGTHS] = { 0 };

	for (uint32_t left = 0; left < items(ev); left++) {
		uint32_t o, at = 0;
		uint64_t said;
		struct gap g;

		if (!is_placed(ev, left) || !find_gap(ev, left, 1, &g) || ev->hops[g.hidden])
			continue;
		for (o = left; o != g.hidden; o = beside(ev, o, 1))
			at++;
		if (at <= g.n - g.reach_right)
			said = guest_of(ev, left) + at * p->span;
		else if (at > g.reach_left)
			said = guest_of(ev, g.right) - (g.n + 1 - at) * p->span;
		else
			continue;
		if (said == guest_of(ev, g.hidden))
			right[length_class(g.n)]++;
		else
			wrong[length_class(g.n)]++;
	}
	/* With those that are longer still, which are harder: there are few of each. */
	for (unsigned c = LENGTHS - 1; c--;) {
		right[c] += right[c + 1];
		wrong[c] += wrong[c + 1];
	}
	for (unsigned c = 0; c < LENGTHS; c++)
		ret_holds[c] = (right[c] >= TRIALS ||
				(c <= SHORT && right[0] >= 4 * TRIALS && !wrong[0] && right[c] >= TRIALS / 5)) &&
			       right[c] * 1000 >= (right[c] + wrong[c]) * (c <= SHORT ? SURE_RULE : SURE_LONG);
}

static void split(struct ev *ev, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;
	bool holds[LENGTHS];

	try_rule(ev, holds);
	for (uint32_t left = 0; left < items(ev); left++) {
		struct ev_pair pair;
		struct gap g;
		uint32_t o;

		if (!is_placed(ev, left) || ev->hops[left] > 1 || !find_gap(ev, left, 0, &g) ||
		    ev->hops[g.right] > 1 || !holds[length_class(g.n)])
			continue;
		o = left;
		for (uint32_t k = 1; k <= g.n - g.reach_right; k++) {
			o = beside(ev, o, 1);
			if (fits(ev, o, plt_ev_slot_at(ev, guest_of(ev, left) + k * p->span), &pair))
				grow_one(ev, &pair, 2, PLT_LIKELY, ret_n);
		}
		o = g.right;
		for (uint32_t k = 1; k <= g.n - g.reach_left; k++) {
			o = beside(ev, o, -1);
			if (fits(ev, o, plt_ev_slot_at(ev, guest_of(ev, g.right) - k * p->span), &pair))
				grow_one(ev, &pair, 2, PLT_LIKELY, ret_n);
		}
	}
}

int plt_ev_order_grow(struct ev *ev, uint32_t *ret_n)
{
	unsigned hops = 0;

	*ret_n = 0;
	ev->habit = measure(ev);
	if (ev->habit >= HABIT_BRIDGE)
		bridge(ev, ret_n);
	if (!*ret_n && ev->habit >= HABIT_SPLIT)
		split(ev, ret_n);
	if (*ret_n || ev->habit < HABIT_STEP)
		return 0;
	for (uint64_t right = ev->habit; right >= SURE_STEPS && hops < 64; right = right * ev->habit / 1000)
		hops++;
	for (unsigned k = 0; k < hops; k++) {
		step_on(ev, 1, hops, ret_n);
		step_on(ev, -1, hops, ret_n);
	}
	return 0;
}
