/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Fit: how many times likelier an object's content is if it belongs into this slot than if it is any object. Where
 * score.c counts what speaks for a pair, this is a likelihood ratio, so that the objects of a run can be taken
 * together and held against chance (path.c).  What blocks of the objects look like (nothing, a part, all of the block)
 * is counted (ends.c); how they look where files have data, and where files end, is assumed.
 */
#include "base/checked.h"
#include "repair/evidence/private.h"

#define MOST (1e15)
#define META_BITS 20         /* metadata that verifies, or does not */

enum { LOOKS_EMPTY, LOOKS_CUT, LOOKS_FULL };

static unsigned looks(int64_t len, uint64_t block)
{
	return !len ? LOOKS_EMPTY : (uint64_t)len + EV_SLACK < block ? LOOKS_CUT : LOOKS_FULL;
}

static double bounded(double ratio)
{
	return PLT_MIN(PLT_MAX(ratio, 1 / MOST), MOST);
}

/* A file's last block. */
static double fit_tail(const struct ev *ev, const struct ev_fact *f, int64_t len)
{
	static const double zeroed[] = { 0.01, 0.04, 0.004 }, not_zeroed[] = { 0.01, 0.15, 0.6 };
	const double *shares = ev->fs[f->fs].fs->zero_tails ? zeroed : not_zeroed;
	unsigned look = looks(len, f->len);

	if ((uint64_t)len == f->value)
		return (double)(1u << plt_ev_rarity(ev, f->fs, f->value));
	if ((uint64_t)len < f->value && (uint64_t)len + EV_SLACK >= f->value)
		return 0.5;
	if ((uint64_t)len < f->value || look == LOOKS_FULL)
		return shares[look] / plt_ev_share(ev, f->fs, look);
	return shares[LOOKS_FULL] / 4 / plt_ev_share(ev, f->fs, look);
}

static double fit_data(const struct ev *ev, const struct ev_fact *f, uint32_t object, uint64_t base)
{
	static const double shares[] = { 0.03, 0.04, 0.93 };
	uint64_t bs = PLT_MIN((uint64_t)PLT_MIN(ev->fs[f->fs].fs->block, 65536u), ev->p->span), step = bs;
	double ratio = 1;

	if (f->len / step > 256)
		step = plt_align_up(f->len / 256, bs);
	for (uint64_t at = 0; at < f->len; at += step) {
		uint64_t n = PLT_MIN(bs, f->len - at);
		int64_t len = plt_ev_length(ev, object, f->off + at - base, n);

		if (len >= 0)
			ratio = bounded(ratio * shares[looks(len, n)] / plt_ev_share(ev, f->fs, looks(len, n)));
	}
	return ratio;
}

/* A log takes anything that looks like a part of one, or of what it is the log of. */
static double fit_structures(const struct ev *ev, uint32_t object, uint32_t slot, bool log)
{
	struct ev_pair pair = plt_ev_score(ev, object, slot);
	int bits = META_BITS * PLT_MIN(PLT_MAX(pair.score, -2 * EV_W_SELF), 2 * EV_W_SELF) / EV_W_SELF;

	if (pair.score >= EV_W_SELF / 2 && pair.kinds & (log && pair.mixed ? EV_SELF : EV_SELF | EV_META))
		return (double)(UINT64_C(1) << bits);
	return pair.score <= -EV_W_SELF / 2 ? 1.0 / (double)(UINT64_C(1) << -bits) : 1;
}

/* The same for a place of which nobody says what it is: it may be inside a file. */
static double fit_unknown(const struct ev *ev, uint32_t object, uint64_t from, uint64_t to)
{
	double ratio = 1;

	for (unsigned i = 0; i < ev->nfs && from < to; i++) {
		const struct ev_fact f = { .off = from, .len = (uint32_t)PLT_MIN(to - from, UINT64_C(1) << 30), .fs = (uint8_t)i };

		ratio = PLT_MAX(ratio, fit_data(ev, &f, object, 0));
	}
	return ratio;
}

double plt_ev_fit_anywhere(const struct ev *ev, uint32_t object)
{
	return fit_unknown(ev, object, 0, ev->p->span);
}

double plt_ev_fit(struct ev *ev, uint32_t object, uint32_t slot)
{
	const uint64_t base = ev->p->slots[slot];
	bool structures = ev->mark_of[object] != ev->mark_of[object + 1], log = false;
	uint64_t at = base;
	double ratio = 1;

	for (size_t i = plt_ev_facts_of(ev, slot); i < ev->nfacts && ev->facts[i].slot == slot; i++) {
		const struct ev_fact *f = &ev->facts[i];
		int64_t len;

		ratio = bounded(ratio * fit_unknown(ev, object, PLT_MIN(at, f->off) - base, f->off - base));
		at = PLT_MAX(at, f->off + f->len);
		if (f->kind == PLT_FACT_META || f->kind == PLT_FACT_KEY)
			structures = true;
		else if (f->kind == PLT_FACT_LOG)
			log = true;
		else if (f->kind == PLT_FACT_DATA)
			ratio = bounded(ratio * fit_data(ev, f, object, base));
		else if (f->kind == PLT_FACT_TAIL && (len = plt_ev_length(ev, object, f->off - base, f->len)) >= 0)
			ratio = bounded(ratio * fit_tail(ev, f, len));
	}
	ratio = bounded(ratio * fit_unknown(ev, object, at - base, ev->p->span));
	if (!structures || !ev->checks)
		return ratio;
	ev->checks--;
	return bounded(ratio * fit_structures(ev, object, slot, log));
}
