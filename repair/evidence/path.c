/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The path: all objects in the order in which they lie on the host, and what is known beside them, are one sequence;
 * what wrote them went through the guest in runs.  So the place of each is a hidden state: after a state mostly comes
 * the next place in the guest, seldom a place a little further on, else any place.  How well content fits a place
 * (fit.c), how one piece's content goes on in the next (joints.c) and how likely each step is give, over all paths at
 * once, the probability of every place of every object (forward and backward along the sequence).  How often runs go on
 * is not assumed: it is what makes the whole likeliest, taken from the sequence itself.
 *
 * A state is a place in the guest, counted in units, or none that is listed.  Listed are the places that content
 * suggests, those where something known begins or ends, and those that a run from there leads to, as many as BEAM for
 * each object and direction.  Time is linear in the objects; memory is that of a window of WINDOW objects.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "repair/evidence/private.h"

#define BEAM 40
#define LIST (2 * BEAM)      /* kept of an object */
#define WINDOW 8192
#define OVERLAP 512          /* looked at before and behind a window, and not decided there */
#define FURTHER 64           /* units: a little further on */
#define TELLS 16            /* times likelier: content that says whether an object is in place */
#define FIRST 0.5            /* of the runs that begin somewhere, those that do where one ended */
#define SEEDED 64            /* such places, if they are not more than that, are listed for all objects */
#define INSIDE 0.94          /* of the steps that go on from a full block, those that do within a file */
#define UNLISTED 0.25        /* of the runs that begin somewhere, those of which nothing is listed, at least */
#define TAKEN 0.001          /* of a slot that another object has for certain */
#define PASSES 3             /* for the rates */
#define CHECKS 4             /* pairs of an object, on average, whose structures are verified in a turn */
#define TURNS 2              /* in which objects learn of each other's claims */
#define CERTAIN 0.999        /* enough to go on from as if it were known */
#define SURE 0.97
#define LIKELY 0.85
#define TINY 1e-200

struct cand {
	uint64_t place;      /* in units of the guest */
	double fit, prior, ahead, behind;
	uint32_t slot;       /* or EV_NONE */
	bool open, last;     /* it can be placed here; nothing is missing behind it */
	bool inside;         /* a file goes on here from the place before */
	double file;         /* how well it fits to what is known of the file */
};

struct list {
	struct cand v[LIST];
	unsigned n;
	double none_fit, none_ahead, none_behind; /* of the state that none is listed */
	double joint;        /* how the item before goes on in this one */
};

/* What of a slot is known after all windows. */
struct verdict {
	double first, all;   /* the greatest probability of an object, and the sum of all */
	uint32_t object;
};

struct path {
	struct ev *ev;
	const struct verdict *before; /* of the turn before; or NULL */
	struct list *at;     /* of the window */
	uint32_t from, n;    /* which items */
	double prior, poor;  /* of a slot where something is wanted, and of others; */
	double none;         /* of those that are not listed, together */
	double first;        /* and of one before which all is known, above that */
	double astray, there; /* objects that are where their run leads, and that are not */
	/* slots before and behind which nothing is missing; none if they are many */
	uint32_t firsts[SEEDED], lasts[SEEDED], nfirsts, nlasts;
	double count[2][3];  /* by kind of neighbours: steps that went on, further, anywhere */
};

static int compare_items(const void *a, const void *b)
{
	const struct ev_item *x = a, *y = b;

	if (x->host != y->host)
		return x->host < y->host ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

int plt_ev_path_init(struct ev *ev)
{
	const struct plt_puzzle *p = ev->p;

	ev->line = malloc(((size_t)p->nobjects + p->nanchors + 1) * sizeof(*ev->line));
	if (!ev->line)
		return -ENOMEM;
	for (uint32_t i = 0; p->host_of && i < p->nobjects + p->nanchors; i++) {
		uint64_t host = i < p->nobjects ? p->host_of(p->arg, i, 0) : p->anchors[i - p->nobjects].host;

		if (host)
			ev->line[ev->nline++] = (struct ev_item){ host, i };
	}
	qsort(ev->line, ev->nline, sizeof(*ev->line), compare_items);
	return 0;
}

/* Where an item is known to be, in units; UINT64_MAX. */
static uint64_t known_place(const struct ev *ev, uint32_t item)
{
	const struct plt_puzzle *p = ev->p;

	if (item >= p->nobjects)
		return p->anchors[item - p->nobjects].guest / p->span;
	return ev->slot_of[item] == EV_NONE ? UINT64_MAX : p->slots[ev->slot_of[item]] / p->span;
}

/* How likely it is that no other object has a slot. */
static double left_over(const struct path *t, uint32_t slot, uint32_t item)
{
	const struct verdict *v = t->before ? &t->before[slot] : NULL;
	double others = !v ? 0 : v->object == item && v->first > 0 ? v->all - v->first : v->all;

	return PLT_MAX(1 - others, TAKEN);
}

static bool is_slot_open(const struct path *t, uint32_t slot)
{
	return slot != EV_NONE && t->ev->place[slot].object == EV_NONE;
}

/* Is something missing beside a slot, @step on? */
static bool goes_on(const struct path *t, uint32_t slot, int step)
{
	const struct plt_puzzle *p = t->ev->p;
	uint32_t next = slot + (uint32_t)step;

	return (step > 0 ? next < p->nslots : slot > 0) &&
	       p->slots[next] == p->slots[slot] + (uint64_t)step * p->span && is_slot_open(t, next);
}

/* Where a run ends in the guest another begins: beside a border nothing is missing. */
static bool is_border(const struct path *t, uint32_t slot, int step)
{
	return is_slot_open(t, slot) && plt_ev_wanted(t->ev, slot) &&
	       !(goes_on(t, slot, step) && plt_ev_wanted(t->ev, slot + (uint32_t)step));
}

/* How well the item lies at c->place; false: it cannot. */
static bool look(const struct path *t, uint32_t item, struct cand *c)
{
	struct ev *ev = t->ev;
	const uint64_t known = known_place(ev, item), span = ev->p->span, end = plt_div_up(ev->p->disk_size, span);

	c->slot = c->place < end ? plt_ev_slot_at(ev, c->place * span) : EV_NONE;
	c->open = known == UINT64_MAX && is_slot_open(t, c->slot);
	if (c->slot != EV_NONE)
		c->last = !goes_on(t, c->slot, 1);
	else
		c->last = c->place >= end || !is_slot_open(t, plt_ev_slot_at(ev, (c->place + 1) * span));
	c->prior = c->slot == EV_NONE || !plt_ev_wanted(ev, c->slot) ? t->poor :
		   t->prior + (is_border(t, c->slot, -1) ? t->first : 0);
	c->fit = c->file = 1;
	c->inside = false;
	if (known != UINT64_MAX) { /* (who jumps to what is known jumps to one place of many, too) */
		c->prior = t->prior + (c->place && is_slot_open(t, plt_ev_slot_at(ev, (c->place - 1) * span)) ? 0 : t->first);
		return c->place == known;
	}
	if (c->place >= end)
		return false;
	c->fit = ev->astray;
	if (c->open)
		c->fit += (1 - ev->astray) * left_over(t, c->slot, item) *
			  (ev->blank[item] ? 1 : plt_ev_fit(ev, item, c->slot) * plt_ev_joints_beside(ev, item, c->slot));
	c->inside = c->open && plt_ev_in_file(ev, c->slot);
	c->file = c->open ? plt_ev_joints_file(ev, item, c->slot) : 1;
	c->prior *= c->file;
	return true;
}

static int by_place(const void *a, const void *b)
{
	const struct cand *x = a, *y = b;

	return x->place < y->place ? -1 : x->place > y->place;
}

static int by_weight(const void *a, const void *b)
{
	const struct cand *x = a, *y = b;

	if (x->ahead != y->ahead)
		return x->ahead > y->ahead ? -1 : 1;
	return by_place(a, b);
}

static unsigned kind_of(const struct path *t, uint32_t i)
{
	const struct ev_item *v = t->ev->line + t->from + i;

	return v[1].host != v[0].host + t->ev->p->unit;
}

static const struct cand *find(const struct list *l, uint64_t place)
{
	unsigned lo = 0, hi = l->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (l->v[mid].place < place)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < l->n && l->v[lo].place == place ? &l->v[lo] : NULL;
}

static bool is_known(const struct path *t, uint32_t i)
{
	return known_place(t->ev, t->ev->line[t->from + i].item) != UINT64_MAX;
}

/*
 * What lies beside something known on the host begins or ends a run, unless it goes on from there: then it does in
 * the guest, too, where something known begins or ends.
 */
static size_t add_borders(const struct path *t, uint32_t i, uint32_t *ret, size_t n)
{
	if (i && is_known(t, i - 1))
		for (uint32_t k = 0; k < t->nfirsts; k++)
			ret[n++] = t->firsts[k];
	if (i + 1 < t->n && is_known(t, i + 1))
		for (uint32_t k = 0; k < t->nlasts; k++)
			ret[n++] = t->lasts[k];
	return n;
}

/*
 * Lists the places of item @i: what its content suggests, what was listed before, and what the list @from leads to,
 * @step on.  Of these the @most likeliest stay, by what is known of one direction.
 */
static void list_places(struct path *t, uint32_t i, const struct list *from, int step, unsigned kind, unsigned most)
{
	struct ev *ev = t->ev;
	const uint32_t item = ev->line[t->from + i].item;
	const uint64_t known = known_place(ev, item);
	struct list *l = &t->at[i];
	struct cand v[LIST + LIST + EV_CLAIMS_MAX];
	uint32_t seeds[EV_CLAIMS_MAX];
	unsigned n = l->n, old = l->n;
	double sum = 0;

	memcpy(v, l->v, n * sizeof(*v));
	if (known != UINT64_MAX) {
		v[0] = (struct cand){ .place = known };
		n = 1;
		old = 0;
	} else {
		size_t nseeds = step < 0 ? plt_ev_seeds(ev, item, seeds) : 0;

		if (step < 0 && nseeds + 2 * SEEDED <= EV_CLAIMS_MAX)
			nseeds = add_borders(t, i, seeds, nseeds);

		for (size_t k = 0; k < nseeds; k++)
			v[n++].place = ev->p->slots[seeds[k]] / ev->p->span;
		for (unsigned k = 0; from && k < from->n; k++)
			if (step > 0 || from->v[k].place)
				v[n++].place = from->v[k].place + (uint64_t)step;
	}
	for (unsigned k = old, end = n; k < end; k++) /* (what was listed before has been looked at) */
		if (!look(t, item, &v[k]))
			v[k].place = UINT64_MAX;
	qsort(v, n, sizeof(*v), by_place);
	l->n = 0;
	for (unsigned k = 0; k < n; k++) {
		const struct cand *next;

		if (v[k].place == UINT64_MAX || (l->n && v[l->n - 1].place == v[k].place))
			continue;
		next = from ? find(from, v[k].place - (uint64_t)step) : NULL;
		v[k].ahead = v[k].fit * (v[k].prior + (next ? ev->go_on[kind][0] * next->ahead : 0));
		v[l->n++] = v[k];
	}
	if (l->n > most) {
		qsort(v, l->n, sizeof(*v), by_weight);
		l->n = most;
		qsort(v, l->n, sizeof(*v), by_place);
	}
	for (unsigned k = 0; k < l->n; k++)
		sum += v[k].ahead;
	sum += l->none_fit + TINY;
	for (unsigned k = 0; k < l->n; k++) {
		l->v[k] = v[k];
		l->v[k].ahead = v[k].ahead / sum;
	}
}

static void scale(struct list *l, bool ahead)
{
	double sum = ahead ? l->none_ahead : l->none_behind;

	for (unsigned k = 0; k < l->n; k++)
		sum += ahead ? l->v[k].ahead : l->v[k].behind;
	sum = 1 / PLT_MAX(sum, TINY);
	for (unsigned k = 0; k < l->n; k++)
		*(ahead ? &l->v[k].ahead : &l->v[k].behind) *= sum;
	*(ahead ? &l->none_ahead : &l->none_behind) *= sum;
}

/* What may follow the step from item @i to the next. */
struct step {
	double on, further, any;
	double on_last;      /* from a place behind which all is known */
};

static struct step step_from(const struct path *t, uint32_t i)
{
	const double *rates = t->ev->go_on[kind_of(t, i)];

	return (struct step){
		.on = rates[0], .further = rates[1] / FURTHER, .any = 1 - rates[0] - rates[1],
		.on_last = is_known(t, i + 1) ? rates[0] : 0,
	};
}

static double any_of(const struct step *s, const struct cand *c)
{
	return c->last ? s->any + s->on - s->on_last : s->any;
}

/* From @c to @to, the next place, in the list @l. */
static double on_of(const struct step *s, const struct cand *c, const struct list *l, const struct cand *to)
{
	return (c->last ? s->on_last : s->on) * (to->inside ? l->joint : to->file);
}

/* From a place that is not listed to another: it may be the next one, too. */
static double stay(const struct path *t, uint32_t i, const struct list *next)
{
	return 1 + t->ev->go_on[kind_of(t, i)][0] * INSIDE * (next->joint - 1);
}

static void go_ahead(struct path *t)
{
	for (uint32_t i = 0; i < t->n; i++) {
		struct list *l = &t->at[i], *before = i ? l - 1 : NULL;
		struct step s = { 0 };
		double jump = 1, none = 0, leave = 0, near = 0;
		unsigned lo = 0, hi = 0;

		if (before) {
			s = step_from(t, i - 1);
			none = before->none_ahead;
			leave = s.any * none;
			jump = 0;
			for (unsigned k = 0; k < before->n; k++)
				jump += any_of(&s, &before->v[k]) * before->v[k].ahead;
		}
		for (unsigned k = 0; k < l->n; k++) {
			struct cand *c = &l->v[k];
			const struct cand *last = before && c->place ? find(before, c->place - 1) : NULL;

			for (; before && hi < before->n && before->v[hi].place + 1 < c->place; hi++)
				near += before->v[hi].ahead;
			for (; before && lo < hi && before->v[lo].place + FURTHER < c->place; lo++)
				near -= before->v[lo].ahead;
			c->ahead = c->fit * (c->prior * (jump + leave) + s.further * PLT_MAX(near, 0.0) +
					     (last ? on_of(&s, last, l, c) * last->ahead : 0));
		}
		l->none_ahead = l->none_fit * (t->none * jump + (before ? stay(t, i - 1, l) * none : 0));
		scale(l, true);
	}
}

/* What follows a jump to one of the places that are listed. */
static double after_jump(const struct list *next)
{
	double sum = 0;

	for (unsigned k = 0; k < next->n; k++)
		sum += next->v[k].prior * next->v[k].fit * next->v[k].behind;
	return sum;
}

/* After go_ahead().  On the way the expected steps are counted. */
static void go_back(struct path *t)
{
	memset(t->count, 0, sizeof(t->count));
	for (uint32_t i = t->n; i--;) {
		struct list *l = &t->at[i], *next = i + 1 < t->n ? l + 1 : NULL;
		double jump = 1, none = 0, near = 0, n[3] = { 0 }, all;
		struct step s = { 0 };
		unsigned lo = 0, hi = 0;

		if (next) {
			s = step_from(t, i);
			jump = after_jump(next);
			none = next->none_behind * next->none_fit;
			lo = hi = next->n;
		}
		for (unsigned k = l->n; k--;) {
			struct cand *c = &l->v[k];
			const struct cand *follows = next ? find(next, c->place + 1) : NULL;
			double on = follows ? on_of(&s, c, next, follows) * follows->fit * follows->behind : 0;
			double any = any_of(&s, c) * (jump + t->none * none);

			for (; lo && next->v[lo - 1].place > c->place + 1; lo--)
				near += next->v[lo - 1].fit * next->v[lo - 1].behind;
			for (; hi > lo && next->v[hi - 1].place > c->place + FURTHER; hi--)
				near -= next->v[hi - 1].fit * next->v[hi - 1].behind;
			near = PLT_MAX(near, 0.0);
			c->behind = next ? on + s.further * near + any : 1;
			if (c->last && s.on_last == 0)
				continue; /* (it had no choice) */
			n[0] += c->ahead * on;
			n[1] += c->ahead * s.further * near;
			n[2] += c->ahead * any;
		}
		l->none_behind = next ? stay(t, i, next) * none + s.any * jump : 1;
		all = n[0] + n[1] + n[2] + l->none_ahead * l->none_behind;
		for (unsigned k = 0; k < 3 && next && all > TINY; k++)
			t->count[kind_of(t, i)][k] += n[k] / all;
		scale(l, false);
	}
}

/* How likely each place is: in .behind; what they add up to with the state that none is listed is one. */
static void join(struct list *l)
{
	double sum = l->none_ahead * l->none_behind;

	for (unsigned k = 0; k < l->n; k++)
		sum += l->v[k].ahead * l->v[k].behind;
	for (unsigned k = 0; k < l->n; k++)
		l->v[k].behind *= l->v[k].ahead / PLT_MAX(sum, TINY);
}

static void learn(struct path *t)
{
	for (unsigned k = 0; k < 2; k++) {
		double sum = t->count[k][0] + t->count[k][1] + t->count[k][2] + 4;

		t->ev->go_on[k][0] = (t->count[k][0] + 0.5) / sum;
		t->ev->go_on[k][1] = (t->count[k][1] + 0.2) / sum;
	}
}

static void window(struct path *t, uint32_t from, uint32_t to, struct verdict *v, uint32_t *slot_of)
{
	struct ev *ev = t->ev;

	t->from = from > OVERLAP ? from - OVERLAP : 0;
	t->n = PLT_MIN(to + OVERLAP, ev->nline) - t->from;
	for (uint32_t i = 0; i < t->n; i++) {
		const uint32_t item = ev->line[t->from + i].item;

		t->at[i].n = 0;
		t->at[i].joint = i && !is_known(t, i) && !is_known(t, i - 1) ?
				 plt_ev_joint(ev, ev->line[t->from + i - 1].item, item) : 1;
		t->at[i].none_fit = is_known(t, i) ? 0 : ev->blank[item] ? 1 : plt_ev_fit_anywhere(ev, item);
	}
	for (uint32_t i = t->n; i--;)
		list_places(t, i, i + 1 < t->n ? &t->at[i + 1] : NULL, -1, i + 1 < t->n ? kind_of(t, i) : 0, BEAM);
	for (uint32_t i = 0; i < t->n; i++)
		list_places(t, i, i ? &t->at[i - 1] : NULL, 1, i ? kind_of(t, i - 1) : 0, LIST);
	for (unsigned pass = 0; pass < PASSES; pass++) {
		go_ahead(t);
		go_back(t);
		learn(t);
	}
	go_ahead(t);
	go_back(t);
	for (uint32_t i = from - t->from; i < to - t->from; i++) {
		const uint32_t item = ev->line[t->from + i].item;
		double best = 0;

		if (is_known(t, i) || item >= ev->p->nobjects)
			continue;
		join(&t->at[i]);
		for (unsigned k = 0; k < t->at[i].n; k++) {
			const struct cand *c = &t->at[i].v[k];
			const uint32_t slot = c->slot;
			double p = c->behind * (1 - ev->astray / c->fit);

			if (!c->open)
				continue;
			if (c->fit > TELLS || c->fit < 2 * ev->astray) {
				t->astray += c->behind - p;
				t->there += p;
			}
			v[slot].all += p;
			if (p > v[slot].first) {
				v[slot].first = p;
				v[slot].object = item;
			}
			if (p > best) {
				best = p;
				slot_of[item] = slot;
			}
		}
	}
}

static void set_priors(struct path *t)
{
	const struct ev *ev = t->ev;
	double objects = 0, wanted = 0, others = 0, firsts = 0;

	for (uint32_t o = 0; o < ev->p->nobjects; o++)
		objects += ev->slot_of[o] == EV_NONE && !ev->blank[o];
	for (uint32_t s = 0; s < ev->p->nslots; s++)
		if (ev->place[s].object == EV_NONE)
			*(plt_ev_wanted(ev, s) ? &wanted : &others) += 1;
	t->nfirsts = t->nlasts = 0;
	for (uint32_t s = 0; s < ev->p->nslots; s++) {
		if (is_border(t, s, -1) && firsts++ < SEEDED)
			t->firsts[t->nfirsts++] = s;
		if (is_border(t, s, 1) && t->nlasts < SEEDED)
			t->lasts[t->nlasts++] = s;
	}
	if (firsts > SEEDED)
		t->nfirsts = t->nlasts = 0;
	t->prior = (1 - FIRST) / PLT_MAX(PLT_MAX(objects, wanted), 1.0);
	t->first = FIRST / PLT_MAX(firsts, 1.0);
	t->none = PLT_MAX(UNLISTED, 1 - wanted / PLT_MAX(objects, 1.0));
	t->poor = PLT_MAX(0.02, 1 - wanted / PLT_MAX(objects, 1.0)) / PLT_MAX(others, objects + 1);
}

/* Objects that their content has placed: none of these is astray. */
static double supported(const struct ev *ev)
{
	double n = 0;

	for (uint32_t s = 0; s < ev->p->nslots; s++)
		n += ev->place[s].object != EV_NONE && ev->place[s].kinds & (EV_SELF | EV_META | EV_TAIL);
	return n;
}

int plt_ev_path(struct ev *ev, bool likely, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;
	struct path t = { .ev = ev };
	struct verdict *v PLT_AUTOFREE = calloc((size_t)p->nslots + 1, sizeof(*v));
	struct verdict *before PLT_AUTOFREE = calloc((size_t)p->nslots + 1, sizeof(*before));
	uint32_t *slot_of PLT_AUTOFREE = malloc(((size_t)p->nobjects + 1) * sizeof(*slot_of));
	struct ev_place *old PLT_AUTOFREE = NULL;

	*ret_n = 0;
	if (p->span != p->unit || !ev->nline)
		return 0;
	t.at = malloc(PLT_MIN(ev->nline, (uint32_t)(WINDOW + 2 * OVERLAP)) * sizeof(*t.at));
	if (t.at && v && before && slot_of && likely)
		old = plt_ev_release(ev);
	if (!t.at || !v || !before || !slot_of || (likely && !old)) {
		free(t.at);
		return -ENOMEM;
	}
	for (unsigned turn = 0; turn < TURNS; turn++) {
		set_priors(&t);
		plt_ev_joints_files(ev);
		ev->checks = CHECKS * (uint64_t)p->nobjects + 65536;
		memset(v, 0, ((size_t)p->nslots + 1) * sizeof(*v));
		memset(slot_of, 0xff, ((size_t)p->nobjects + 1) * sizeof(*slot_of));
		t.astray = 0;
		t.there = supported(ev);
		for (uint32_t from = 0; from < ev->nline; from += WINDOW)
			window(&t, from, PLT_MIN(from + WINDOW, ev->nline), v, slot_of);
		ev->astray = (t.astray + 0.25) / (t.there + t.astray + 64);
		memcpy(before, v, ((size_t)p->nslots + 1) * sizeof(*v));
		t.before = before;
	}
	for (uint32_t s = 0; s < p->nslots; s++) {
		double sure = v[s].first * (1 - PLT_MIN(v[s].all - v[s].first, 1.0));
		struct ev_pair pair;

		if (sure < (likely ? LIKELY : CERTAIN) || slot_of[v[s].object] != s || ev->place[s].object != EV_NONE)
			continue;
		pair = plt_ev_score(ev, v[s].object, s);
		pair.kinds |= EV_ORDER;
		pair.score = 0;
		for (double q = 1 - sure; q < 1 && pair.score < 60; q *= 2)
			pair.score++;
		/* Where the guest says nothing there is order alone. */
		plt_ev_put(ev, &pair, sure >= SURE && plt_ev_wanted(ev, s) ? PLT_STRONG : PLT_LIKELY, 0);
		++*ret_n;
	}
	if (old)
		plt_ev_come_back(ev, old);
	free(t.at);
	return 0;
}
