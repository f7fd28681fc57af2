/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Tables that were exchanged, by the order along the host: what a guest writes in one go runs on there from the end of
 * one table's span into the next.  Of two tables that were exchanged both ends run on into the other's neighbours
 * instead.  That tells where no metadata lies in their spans and no file ends there.
 *
 * The invariant: an order that says nothing casts no doubt.  A writer whose requests overtake each other makes
 * exchanges of neighbours and shifts, and one whose requests are as long as a table's span makes many of all kinds:
 * neighbours are told by their content only, as is anything in an image in which what runs on elsewhere is not rare;
 * and two ends at least have to say the same, and none against it.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "repair/deep/deep.h"

#define BETWEEN 8     /* clusters that are taken between two of the guest's: a table, blocks of counts */
#define RARE 16       /* spans that run on elsewhere: at most one of so many that run on where they should, */
#define FEW 2         /* save for so many */
#define ENOUGH 3      /* of the four ends: by chance no three say the same, and where no filesystem could say otherwise less
			* is nothing */
#define REQUEST (UINT64_C(4) << 20) /* no request of a guest is as long */

/* What ends with span @end runs on, on the host, in what begins span @next. */
struct link { uint64_t end, next; };

struct order {
	const struct deep_map *m;
	struct link *v;       /* by .end, which is there once */
	size_t n;
	uint64_t joined, crossed;
};

static int by_host(const void *a, const void *b)
{
	const struct deep_run *x = *(const struct deep_run *const *)a, *y = *(const struct deep_run *const *)b;

	return x->host < y->host ? -1 : x->host > y->host;
}

static int by_end(const void *a, const void *b)
{
	const struct link *x = a, *y = b;

	return x->end < y->end ? -1 : x->end > y->end;
}

static int find_links(struct order *o, const struct deep_map *clusters)
{
	PLT_AUTOFREE const struct deep_run **runs = malloc((clusters->n + 1) * sizeof(*runs));
	const uint64_t span = o->m->span;
	size_t n = 0, cap = 0;

	if (!runs)
		return -ENOMEM;
	for (size_t i = 0; i < clusters->n; i++)
		if (clusters->v[i].kind == DEEP_DATA)
			runs[n++] = &clusters->v[i];
	if (n)
		qsort(runs, n, sizeof(*runs), by_host);
	for (size_t i = 0; i < n; i++) {
		const struct deep_run *a = runs[i], *b = i + 1 < n ? runs[i + 1] : NULL;
		uint64_t end = a->guest + a->len;

		o->joined += (end - 1) / span - a->guest / span;
		if (!b || end % span || b->guest % span || b->host < a->host + a->len ||
		    b->host - (a->host + a->len) > BETWEEN * clusters->span)
			continue;
		if (o->n == cap) {
			void *v;

			cap = cap ? 2 * cap : 64;
			v = realloc(o->v, cap * sizeof(*o->v));
			if (!v)
				return -ENOMEM;
			o->v = v;
		}
		o->v[o->n++] = (struct link){ end / span - 1, b->guest / span };
		*(end == b->guest ? &o->joined : &o->crossed) += 1;
	}
	if (o->n)
		qsort(o->v, o->n, sizeof(*o->v), by_end);
	return 0;
}

/* Does what ends with span @end run on in what begins @next? */
static bool runs_on(const struct order *o, uint64_t end, uint64_t next)
{
	const struct link key = { .end = end }, *l;

	if (!o->n)
		return false;
	l = bsearch(&key, o->v, o->n, sizeof(*o->v), by_end);
	return l && l->next == next;
}

/* Are both sides of the border before span @i one on the host? */
static bool is_joined(const struct order *o, const struct deep_map *clusters, uint64_t i)
{
	uint64_t guest = i * o->m->span, before, behind;

	if (!i || plt_deep_at(clusters, guest - 1, &before) != DEEP_DATA || plt_deep_at(clusters, guest, &behind) != DEEP_DATA)
		return false;
	return before + 1 == behind || runs_on(o, i - 1, i);
}

/* Does anything in this span say that it lies where it should? */
static bool is_vouched(const struct deep_survey *s, uint64_t from, uint64_t span)
{
	if (plt_extents_overlaps(&s->sure, from, span))
		return true;
	for (size_t i = 0; i < s->ntails; i++)
		if (s->tails[i].right && s->tails[i].off >= from && s->tails[i].off - from < span)
			return true;
	return false;
}

/* How many ends say that spans @i and @j, i < j, show each other's tables; 0: something says that they do not. */
static unsigned ends_for(const struct order *o, const struct deep_map *clusters, const struct deep_survey *s, uint64_t i,
			 uint64_t j)
{
	const uint64_t span = o->m->span;
	uint64_t host;

	if ((j == i + 1 && span < REQUEST) || plt_deep_at(o->m, i * span, &host) != DEEP_DATA ||
	    plt_deep_at(o->m, j * span, &host) != DEEP_DATA)
		return 0;
	if (is_joined(o, clusters, i) || is_joined(o, clusters, i + 1) || is_joined(o, clusters, j) ||
	    is_joined(o, clusters, j + 1) || is_vouched(s, i * span, span) || is_vouched(s, j * span, span))
		return 0;
	if (j == i + 1)
		return (i && runs_on(o, i - 1, j)) + runs_on(o, j, i) + runs_on(o, i, j + 1);
	return (i && runs_on(o, i - 1, j)) + runs_on(o, j, i + 1) + runs_on(o, j - 1, i) + runs_on(o, i, j + 1);
}

static bool is_told(const struct deep_exchange *v, unsigned n, uint64_t a, uint64_t b)
{
	for (unsigned k = 0; k < n; k++)
		if (v[k].a == a || v[k].a == b || v[k].b == a || v[k].b == b)
			return true;
	return false;
}

int plt_deep_exchanges(const struct deep_map *m, const struct deep_map *clusters, const struct deep_survey *s,
		       struct deep_exchange ret[DEEP_EXCHANGES], unsigned *ret_n)
{
	struct order o = { .m = m };
	uint64_t explained = 0;
	unsigned n = 0;
	int r = m->tables && m->n > 1 ? find_links(&o, clusters) : 0;

	*ret_n = 0;
	/* (more than this would not be rare, whatever of it could be explained) */
	for (size_t k = 0; k < o.n && r == 0 && o.crossed <= FEW + 4 * DEEP_EXCHANGES + o.joined / RARE; k++) {
		/* before the first of the two, or the second itself */
		const uint64_t pairs[2][2] = { { o.v[k].end + 1, o.v[k].next }, { o.v[k].end, o.v[k].next - 1 } };

		for (unsigned p = 0; p < 2 && o.v[k].next != o.v[k].end + 1; p++) {
			uint64_t i = PLT_MIN(pairs[p][0], pairs[p][1]), j = PLT_MAX(pairs[p][0], pairs[p][1]);
			unsigned ends;

			if (i == j || j >= UINT64_MAX / m->span || is_told(ret, n, i * m->span, j * m->span))
				continue;
			ends = ends_for(&o, clusters, s, i, j);
			if (ends < (s->any ? 2 : ENOUGH))
				continue;
			explained += ends;
			if (n < DEEP_EXCHANGES)
				ret[n++] = (struct deep_exchange){ i * m->span, j * m->span, s->any && ends >= ENOUGH };
		}
	}
	if (r == 0 && o.crossed - explained <= FEW + o.joined / RARE)
		*ret_n = n;
	free(o.v);
	return r;
}
