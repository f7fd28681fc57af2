/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Objects that are all alike: the pages of a log that was never written, a pattern.  Each fits each of their slots as well as
 * any other, so none is ahead of its second best; but where there is one for every slot that metadata wants them in, any way
 * round is right.
 *
 * The invariant: if there are fewer of them than slots, something else belongs into one of these, and none is filled.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

#define CLASSES_MAX 8
#define SCORES_MAX 8192  /* pairs that are scored for it */

struct twin { uint32_t digest, object; };

static int compare(const void *a, const void *b)
{
	const struct twin *x = a, *y = b;

	if (x->digest != y->digest)
		return x->digest < y->digest ? -1 : 1;
	return x->object < y->object ? -1 : x->object > y->object;
}

/* Does another object, of other content, fit the slot nearly as well? */
static bool is_contested(const struct ev *ev, uint32_t digest, uint32_t slot, int score)
{
	for (size_t i = 0; i < ev->npairs; i++) {
		const struct ev_pair *p = &ev->pairs[i];

		if (p->slot == slot && p->score > score - EV_W_STRONG && ev->digest[p->object] != digest &&
		    ev->slot_of[p->object] == EV_NONE)
			return true;
	}
	return false;
}

/* The slots in which metadata is expected that @v, of which there are @n, would be; 0: not for each of them there is one. */
static size_t slots_of(struct ev *ev, const struct twin *v, size_t n, struct ev_pair *ret, uint32_t *budget)
{
	size_t k = 0;

	for (uint32_t s = 0; s < ev->p->nslots; s++) {
		struct ev_pair pair;

		if (ev->place[s].object != EV_NONE || !plt_ev_wanted(ev, s))
			continue;
		if (!*budget)
			return 0;
		--*budget;
		pair = plt_ev_score(ev, v->object, s);
		if (pair.score < EV_W_SELF || !(pair.kinds & EV_META) || pair.kinds & EV_SELF)
			continue;
		if (k == n || pair.shaky || is_contested(ev, v->digest, s, pair.score))
			return 0;
		ret[k++] = pair;
	}
	return k;
}

static size_t length_of(const struct twin *v, size_t n)
{
	size_t k = 1;

	while (k < n && v[k].digest == v->digest)
		k++;
	return k;
}

int plt_ev_twins(struct ev *ev, uint32_t *ret_n)
{
	struct twin *v = malloc(((size_t)ev->p->nobjects + 1) * sizeof(*v));
	struct ev_pair *pairs = malloc(((size_t)ev->p->nobjects + 1) * sizeof(*pairs));
	uint32_t budget = SCORES_MAX, classes = 0;
	size_t n = 0;
	int r = v && pairs ? 0 : -ENOMEM;

	*ret_n = 0;
	for (uint32_t i = 0; r == 0 && i < ev->p->nobjects; i++)
		if (ev->slot_of[i] == EV_NONE && !ev->blank[i])
			v[n++] = (struct twin){ ev->digest[i], i };
	if (n)
		qsort(v, n, sizeof(*v), compare);
	for (size_t i = 0, len; r == 0 && i < n && classes < CLASSES_MAX; i += len) {
		size_t k;

		len = length_of(v + i, n - i);
		if (len < 2)
			continue;
		classes++;
		k = slots_of(ev, v + i, len, pairs, &budget);
		for (size_t j = 0; j < k; j++) {
			pairs[j].object = v[i + j].object;
			plt_ev_put(ev, &pairs[j], PLT_STRONG, 0);
			++*ret_n;
		}
	}
	free(v);
	free(pairs);
	return r;
}
