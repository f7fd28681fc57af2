/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Assignment by margin: a pair is fixed when the object prefers this slot and the slot this object, each
 * by enough over its second best.  Fixing pairs takes them from the others' seconds, so it is repeated
 * until nothing moves; then the caller surveys again with what has become readable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

struct best { int first, second; size_t pair; uint64_t newness, older; bool twin; };

void plt_ev_put(struct ev *ev, const struct ev_pair *pair, enum plt_certainty certainty, int second)
{
	ev->place[pair->slot] = (struct ev_place){
		.object = pair->object, .kinds = pair->kinds,
		.certainty = (uint8_t)(pair->shaky ? PLT_MIN(certainty, PLT_LIKELY) : certainty),
		.score = pair->score, .second = second,
	};
	ev->slot_of[pair->object] = pair->slot;
}

/* Of equal scores the newer version is the first. */
static void rank(struct best *b, const struct ev_pair *pair, size_t i, bool copy)
{
	if (copy && pair->score <= b->first) { /* of the same content as the best: no competitor */
		b->twin |= pair->score == b->first;
		return;
	}
	if (b->pair == SIZE_MAX || pair->score > b->first ||
	    (pair->score == b->first && pair->newness > b->newness)) {
		b->second = b->pair == SIZE_MAX ? 0 : b->first;
		b->older = b->pair == SIZE_MAX ? 0 : b->newness;
		b->first = pair->score;
		b->newness = pair->newness;
		b->pair = i;
	} else if (pair->score > b->second || (pair->score == b->second && pair->newness > b->older)) {
		b->second = pair->score;
		b->older = pair->newness;
	}
}

static void note(struct ev_alt *a, uint32_t id, int score)
{
	unsigned i = a->score[0] && a->id[0] == id ? 0 : 1;

	if (a->score[i] && a->id[i] == id ? score <= a->score[i] : score <= a->score[1])
		return;
	a->id[i] = id;
	a->score[i] = score;
	if (a->score[1] > a->score[0]) {
		struct ev_alt t = *a;

		*a = (struct ev_alt){ { t.id[1], t.id[0] }, { t.score[1], t.score[0] } };
	}
}

void plt_ev_alt_note(struct ev *ev, unsigned kind, uint32_t object, uint32_t slot, int score)
{
	note(&ev->of_object[kind][object], slot, score);
	note(&ev->of_slot[kind][slot], object, score);
}

int plt_ev_alternative(const struct ev *ev, unsigned kind, uint32_t object, uint32_t slot)
{
	const struct ev_alt *a = &ev->of_object[kind][object], *b = &ev->of_slot[kind][slot];
	int ret = 0;

	for (unsigned i = 0; i < 2; i++) {
		if (a->score[i] && a->id[i] != slot &&
		    !(ev->place[a->id[i]].object != EV_NONE && ev->place[a->id[i]].certainty >= PLT_STRONG))
			ret = PLT_MAX(ret, a->score[i]);
		if (b->score[i] && b->id[i] != object && ev->digest[b->id[i]] != ev->digest[object] &&
		    !(ev->slot_of[b->id[i]] != EV_NONE && ev->place[ev->slot_of[b->id[i]]].certainty >= PLT_STRONG))
			ret = PLT_MAX(ret, b->score[i]);
	}
	return ret;
}

static bool is_open(const struct ev *ev, const struct ev_pair *pair)
{
	return ev->place[pair->slot].object == EV_NONE && ev->slot_of[pair->object] == EV_NONE;
}

/* A slot that several objects' structures name proves none of them: stale copies look the same. */
static void mark_rivals(struct ev *ev, size_t *claim)
{
	for (uint32_t i = 0; i < ev->p->nslots; i++)
		claim[i] = SIZE_MAX;
	for (size_t i = 0; i < ev->npairs; i++) {
		struct ev_pair *pair = &ev->pairs[i];
		size_t *c = &claim[pair->slot];

		if (!(pair->kinds & EV_SELF))
			continue;
		if (*c != SIZE_MAX && ev->digest[ev->pairs[*c].object] == ev->digest[pair->object])
			continue; /* copies: either is right */
		if (*c != SIZE_MAX)
			pair->rival = ev->pairs[*c].rival = true;
		else
			*c = i;
	}
}

static enum plt_certainty certainty_of(const struct ev *ev, const struct ev_pair *pair, int margin, bool newest)
{
	unsigned kinds = (unsigned)__builtin_popcount(pair->kinds);
	int lead = pair->score - plt_ev_alternative(ev, 0, pair->object, pair->slot);
	bool likely = margin >= EV_W_LIKELY && lead >= EV_W_LIKELY && pair->score >= ev->prior;

	/* Versions of one block, a journal's copies or stale ones: the newest is the likely one. */
	if (newest && margin == 0 && pair->rival && pair->score >= EV_W_SELF)
		likely = true;
	if (pair->shaky)
		return likely ? PLT_LIKELY : PLT_GUESS;
	if (pair->kinds & EV_SELF && pair->score >= EV_W_SELF && !pair->rival && margin >= EV_W_SELF / 2)
		return pair->sure ? PLT_PROVEN : PLT_STRONG;
	if (margin >= EV_W_STRONG && lead >= EV_W_STRONG && kinds >= 2)
		return PLT_STRONG;
	/* Sectors that only this slot had before, and that no other object has. */
	if (pair->kinds & EV_OLDER && pair->score >= EV_W_STRONG && PLT_MIN(margin, lead) >= EV_W_STRONG)
		return PLT_STRONG;
	/* Ends alone, if they are many bits: a file's last block that fits here and nowhere else, and nothing else fits here. */
	if (likely && pair->kinds & EV_TAIL && pair->score >= ev->prior + EV_W_LIKELY / 2 && PLT_MIN(margin, lead) >= EV_W_TAIL)
		return PLT_STRONG;
	return likely ? PLT_LIKELY : PLT_GUESS;
}

int plt_ev_assign(struct ev *ev, bool likely, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;
	struct best *of_object = malloc(((size_t)p->nobjects + 1) * sizeof(*of_object));
	struct best *of_slot = malloc(((size_t)p->nslots + 1) * sizeof(*of_slot));
	size_t *claim = malloc(((size_t)p->nslots + 1) * sizeof(*claim));
	bool moved = true;

	*ret_n = 0;
	if (!of_object || !of_slot || !claim) {
		free(of_object);
		free(of_slot);
		free(claim);
		return -ENOMEM;
	}
	mark_rivals(ev, claim);
	for (size_t i = 0; i < ev->npairs; i++)
		plt_ev_alt_note(ev, 0, ev->pairs[i].object, ev->pairs[i].slot, ev->pairs[i].score);
	while (moved) {
		moved = false;
		for (uint32_t i = 0; i < p->nobjects; i++)
			of_object[i] = (struct best){ .pair = SIZE_MAX };
		for (uint32_t i = 0; i < p->nslots; i++)
			of_slot[i] = (struct best){ .pair = SIZE_MAX };
		for (size_t i = 0; i < ev->npairs; i++) {
			struct best *best;

			if (!is_open(ev, &ev->pairs[i]))
				continue;
			best = &of_slot[ev->pairs[i].slot];
			rank(&of_object[ev->pairs[i].object], &ev->pairs[i], i, false);
			rank(best, &ev->pairs[i], i, best->pair != SIZE_MAX &&
			     ev->digest[ev->pairs[best->pair].object] == ev->digest[ev->pairs[i].object]);
		}
		for (uint32_t o = 0; o < p->nobjects; o++) {
			size_t i = of_object[o].pair;
			int second, margin;
			enum plt_certainty c;

			if (i == SIZE_MAX || of_slot[ev->pairs[i].slot].pair != i)
				continue;
			second = PLT_MAX(of_object[o].second, of_slot[ev->pairs[i].slot].second);
			/* Two places alike (copies of a table) and two objects alike: any way round is right. */
			if (of_slot[ev->pairs[i].slot].twin && of_object[o].second == of_object[o].first)
				second = of_slot[ev->pairs[i].slot].second;
			margin = ev->pairs[i].score - second;
			c = certainty_of(ev, &ev->pairs[i], margin, of_slot[ev->pairs[i].slot].newness > of_slot[ev->pairs[i].slot].older &&
					 of_object[o].second < of_object[o].first);
			if (c < PLT_LIKELY || (c == PLT_LIKELY && !likely))
				continue;
			plt_ev_put(ev, &ev->pairs[i], c, second);
			(*ret_n)++;
			moved = true;
		}
	}
	free(of_object);
	free(of_slot);
	free(claim);
	return 0;
}

struct ev_place *plt_ev_release(struct ev *ev)
{
	struct ev_place *old = malloc(((size_t)ev->p->nslots + 1) * sizeof(*old));

	if (!old)
		return NULL;
	memcpy(old, ev->place, ((size_t)ev->p->nslots + 1) * sizeof(*old));
	for (uint32_t s = 0; s < ev->p->nslots; s++) {
		struct ev_place *place = &ev->place[s];

		if (place->object == EV_NONE || place->certainty != PLT_LIKELY)
			continue;
		ev->slot_of[place->object] = EV_NONE;
		place->object = EV_NONE;
	}
	return old;
}

void plt_ev_come_back(struct ev *ev, const struct ev_place *old)
{
	for (uint32_t s = 0; s < ev->p->nslots; s++)
		if (old[s].object != EV_NONE && ev->place[s].object == EV_NONE && ev->slot_of[old[s].object] == EV_NONE) {
			ev->place[s] = old[s];
			ev->slot_of[old[s].object] = s;
		}
}
