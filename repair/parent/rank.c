/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Who of several candidates is the parent.  Points add up; what the content says is held against the best of all
 * candidates, since what a sound disk reaches depends on its guest.  The weights: an identity that the format records
 * decides, unless copies of the same disk compete; content outweighs names and times together, which anybody may have
 * changed; those decide where nothing else does.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repair/parent/parent.h"

#define ENOUGH_PIECES 8  /* of metadata, to be evidence by themselves */
#define FEW_PIECES 2
#define ENOUGH_BLOCKS 16
#define FEW_BLOCKS 4     /* most of them, of a small image */
#define LEFT_OUT 60      /* points that a layer that was left out is ahead of what is recorded instead */

static double ratio(uint64_t part, uint64_t of)
{
	return of ? (double)part / (double)of : 0;
}

int plt_candidate_first(const struct plt_child *child, const struct plt_candidate *c)
{
	int n = 0;

	if (c->same_id)
		n += 1000;
	if (c->other_id)
		n -= 1000;
	if (child->id.parent_time >= 0)
		n += c->same_time ? 40 : -5;
	n += c->size == child->size ? 20 : c->size < child->size ? -15 : -20;
	n += c->same_format ? 15 : -30;
	n += c->same_name ? 15 : c->left_over ? 12 : 0;
	if (child->made >= 0 && c->written >= 0)
		n += c->written <= child->made ? 10 : c->written <= child->written ? -5 : -15;
	return n;
}

/* The best that any candidate reaches. */
struct best {
	double own, all, same;
};

static uint64_t blocks_of(const struct plt_candidate *c)
{
	return c->like ? c->like->blocks : 0;
}

static uint64_t same_of(const struct plt_candidate *c)
{
	return c->like ? c->like->same : 0;
}

static double own_ratio(const struct plt_candidate *c)
{
	return ratio(c->own_good, c->own_good + c->own_bad);
}

static double all_ratio(const struct plt_candidate *c)
{
	return ratio(c->good, c->good + c->bad);
}

static int deficit(double best, double mine, int weight, int most)
{
	double d = (best - mine) * weight;

	/* (one piece of ten thousand is less than the difference of one name, and still is one) */
	return mine >= best ? 0 : -(d > most ? most : d < 25 ? 25 : (int)d);
}

static void score(const struct plt_child *child, struct plt_candidate *c, const struct best *best)
{
	c->score = plt_candidate_first(child, c);
	if (c->unopened) {
		c->score -= 500;
		return;
	}
	if (!c->weighed)
		return;
	if (c->good + c->bad)
		c->score += (int)(60 * all_ratio(c)) + (int)(60 * own_ratio(c));
	if (blocks_of(c))
		c->score += (int)(60 * ratio(same_of(c), blocks_of(c)));
	if (child->made >= 0 && c->guest_time > child->made)
		c->score -= 40;
	if (c->outdone)
		c->score -= 60;
	c->score -= c->is_overlay ? 3 : 0; /* (of two that are alike to us, what both stand on) */
	c->score += deficit(best->all, all_ratio(c), 400, 150) + deficit(best->own, own_ratio(c), 200, 150) +
		    deficit(best->same, ratio(same_of(c), blocks_of(c)), 200, 150);
}

static void add(struct plt_candidate *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct plt_candidate *c, const char *fmt, ...)
{
	size_t n = strlen(c->why);
	va_list ap;

	if (n && n + 2 < sizeof(c->why))
		n += (size_t)snprintf(c->why + n, sizeof(c->why) - n, "; ");
	va_start(ap, fmt);
	vsnprintf(c->why + n, sizeof(c->why) - n, fmt, ap);
	va_end(ap);
}

static void explain(const struct plt_child *child, struct plt_candidate *c)
{
	*c->why = 0;
	if (c->same_id)
		add(c, "it has the recorded id");
	if (c->other_id)
		add(c, "it has another id");
	if (c->same_time)
		add(c, "it was written last when the image says");
	if (c->unopened)
		add(c, "the image cannot be opened on it");
	if (c->good + c->bad)
		add(c, "%" PRIu64 " of %" PRIu64 " pieces of the guest's metadata fit", c->good, c->good + c->bad);
	if (c->own_good + c->own_bad)
		add(c, "of those in the image %" PRIu64 " of %" PRIu64, c->own_good, c->own_good + c->own_bad);
	if (blocks_of(c))
		add(c, "%" PRIu64 " of %" PRIu64 " blocks of the image are the same in it", same_of(c), blocks_of(c));
	if (child->made >= 0 && c->guest_time > child->made)
		add(c, "a guest has written to it after the image was made");
	if (c->outdone)
		add(c, "another has more of them");
	add(c, c->size == child->size ? "the same size" : c->size < child->size ? "shorter" : "longer");
	if (!c->same_format)
		add(c, "another format than recorded");
	if (c->same_name)
		add(c, "the same name");
	if (c->left_out)
		add(c, "the image was written over it, not over the recorded one, which it stands on");
	if (c->left_over)
		add(c, "its name is still in the image, behind the one that is recorded");
	if (child->made >= 0 && c->written > child->made)
		add(c, "written after the image was made");
}

static int better(const void *a, const void *b)
{
	const struct plt_candidate *x = a, *y = b;

	return x->score != y->score ? (x->score > y->score ? -1 : 1) : strcmp(x->name, y->name);
}

/* Does the content alone speak for it? */
static bool content(const struct plt_candidate *c)
{
	uint64_t own = c->own_good + c->own_bad;

	return (own >= ENOUGH_PIECES && c->own_good * 50 >= own * 49 && c->good * 50 >= (c->good + c->bad) * 49) ||
	       (blocks_of(c) >= ENOUGH_BLOCKS && same_of(c) * 4 >= blocks_of(c)) ||
	       (same_of(c) >= FEW_BLOCKS && same_of(c) * 2 >= blocks_of(c) && c->good && !c->bad);
}

/* It speaks for it, and there is little of it. */
static bool fits(const struct plt_candidate *c)
{
	return c->own_good >= FEW_PIECES && !c->own_bad && c->good >= ENOUGH_PIECES && !c->bad;
}

static const char *certainty(const struct plt_candidate *v, unsigned n, unsigned i)
{
	int ahead = i + 1 < n ? v[i].score - v[i + 1].score : 1000;
	unsigned same_id = 0;

	for (unsigned k = 0; k < n; k++)
		same_id += v[k].same_id && !v[k].unopened;
	if (i || v[i].unopened || (v[i].other_id && !v[i].left_out))
		return "guess";
	if (v[i].same_id && same_id == 1)
		return "proven";
	if (ahead >= 30 && (content(&v[i]) || v[i].same_id || v[i].left_out))
		return "strong";
	if (ahead >= 30 && fits(&v[i]) && v[i].same_time)
		return "strong";
	return ahead >= 10 && (content(&v[i]) || fits(&v[i]) || v[i].same_name) ? "likely" : "guess";
}

void plt_candidates_rank(const struct plt_child *child, struct plt_candidate *v, unsigned n)
{
	struct best best = { 0 };

	for (unsigned i = 0; i < n; i++) {
		if (v[i].unopened || !v[i].weighed)
			continue;
		best.own = PLT_MAX(best.own, own_ratio(&v[i]));
		best.all = PLT_MAX(best.all, all_ratio(&v[i]));
		best.same = PLT_MAX(best.same, ratio(same_of(&v[i]), blocks_of(&v[i])));
	}
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < n && !v[i].outdone; k++)
			v[i].outdone = v[i].like && v[k].like && plt_likeness_outdoes(v[k].like, v[i].like);
	for (unsigned i = 0; i < n; i++)
		score(child, &v[i], &best);
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < n && v[i].left_out; k++) /* it outweighs what is recorded, whatever that has for itself */
			if (v[k].recorded)
				v[i].score = PLT_MAX(v[i].score, v[k].score + LEFT_OUT);
	if (n)
		qsort(v, n, sizeof(*v), better);
	for (unsigned i = 0; i < n; i++) {
		v[i].certainty = certainty(v, n, i);
		explain(child, &v[i]);
	}
}
