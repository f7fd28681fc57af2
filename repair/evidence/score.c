/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Scores: how well an object fits an empty slot.
 *
 * Which pairs are looked at at all comes from the content: slots that its structures name, slots that
 * wait for what its checksums belong to, slots in which files end where it ends.  The best of them by
 * that first count are scored in full against all facts of the slot:
 *
 *	+100  a structure names this place            -100  metadata is expected that this is not
 *	+100  the metadata expected here verifies      -60  its structures name another place
 *	1-13  a file ends exactly where it should,     -10  it goes on behind the end, or is not there
 *	      by how rare this length is
 *	 1-8  each neighbour on the host, by habit      -2  a file's block is not mapped, -1 it is zero
 *
 * The small weights are bits, so that they can be held against the number of slots.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/zero.h"
#include "repair/evidence/private.h"

#define BLOCK_MAX 65536
#define VERIFY_MAX 48  /* blocks of metadata that one pair may read */
#define VOTES_MAX 4096
#define COMMON 48      /* an end that so many slots expect says nothing */

struct vote { uint32_t slot; uint32_t weight; };

/* Whether a file's data lies at @off: structures inside a file name places of another disk. */
static bool is_file_data(const struct ev *ev, uint32_t slot, uint64_t off)
{
	for (size_t i = plt_ev_facts_of(ev, slot); i < ev->nfacts && ev->facts[i].slot == slot; i++) {
		const struct ev_fact *f = &ev->facts[i];

		if (f->off > off)
			return false;
		if (off - f->off < f->len && (f->kind == PLT_FACT_DATA || f->kind == PLT_FACT_LOG))
			return true;
	}
	return false;
}

/*
 * Where a mark says that the object begins.  False: it names no place.  *ret may be anywhere, also
 * where no object is missing.
 */
static bool named_place(const struct ev *ev, const struct ev_mark *m, uint64_t *ret, bool *ret_sure, bool *ret_shaky)
{
	const struct plt_guestfs_ops *ops = plt_guestfs_of_mark(m->m.kind);
	uint8_t block[4096];
	size_t have = 0;
	uint64_t off;

	*ret_shaky = false;
	if (m->m.kind == PLT_MARK_GPT) {
		*ret_sure = true;
		if (plt_mul(m->m.value, 512, &off) || !plt_in_range(off, 512, ev->p->disk_size))
			return false;
	} else if (m->m.kind == PLT_MARK_MBR) {
		*ret_sure = false;
		off = 0;
		if (m->m.pos)
			return false;
	} else {
		bool found = false;

		if (plt_mark_needs_content(m->m.kind)) {
			have = (size_t)PLT_MIN(ev->p->span - m->m.pos, (uint64_t)sizeof(block));
			if (plt_ev_read_object(ev, m->object, m->m.pos, block, have))
				return false;
		}
		for (unsigned i = 0; ops && i < ev->nfs && !found; i++) {
			struct plt_guestfs *fs = ev->fs[i].fs;

			found = fs->ops == ops && fs->ops->locate(fs, &m->m, have ? block : NULL, have, &off, ret_sure);
			*ret_shaky = found && !ev->fs[i].sure;
		}
		if (!found)
			return false;
	}
	if (off < m->m.pos)
		return false;
	*ret = off - m->m.pos;
	return true;
}

/* A second place that the mark's structure is kept at, where the object would begin. */
static bool named_copy(const struct ev *ev, const struct ev_mark *m, uint64_t *ret, bool *ret_shaky)
{
	const struct plt_guestfs_ops *ops = plt_guestfs_of_mark(m->m.kind);
	uint64_t off;

	for (unsigned i = 0; ops && ops->locate_copy && i < ev->nfs; i++) {
		if (ev->fs[i].fs->ops != ops || !ops->locate_copy(ev->fs[i].fs, &m->m, &off) || off < m->m.pos)
			continue;
		*ret = off - m->m.pos;
		*ret_shaky = !ev->fs[i].sure;
		return true;
	}
	return false;
}

/* ---- a pair in full -------------------------------------------------------------------------------- */

struct sum {
	const struct ev *ev;
	struct ev_pair *pair;
	uint64_t base;         /* of the slot */
	unsigned verified, seen, full, missed;
	int holes;
};

static void judge_meta(struct sum *s, const struct ev_fact *f)
{
	const struct ev *ev = s->ev;
	struct plt_guestfs *fs = ev->fs[f->fs].fs;
	struct plt_fact fact = {
		.off = f->from, .len = f->off - f->from + f->len, .value = f->value, .kind = f->kind, .what = f->what,
	};
	uint64_t end = f->off + f->len, at = f->from + plt_align_up(f->off - f->from, fs->block);
	uint64_t blocks = end > at ? (end - at) / fs->block : 0, step = fs->block;
	uint8_t block[BLOCK_MAX];
	bool ended = false;

	if (fs->block > sizeof(block))
		return;
	if (blocks > 8)
		step = blocks / 8 * fs->block;
	for (; at < end && end - at >= fs->block && s->verified < VERIFY_MAX; at += step) {
		int64_t len = plt_ev_length(ev, s->pair->object, at - s->base, fs->block);
		uint64_t newness;
		int verdict;

		if (len <= 0) {
			s->holes += len == 0 && f->kind == PLT_FACT_KEY;
			ended |= len == 0;
			continue;
		}
		if (plt_ev_read_in_slot(ev, s->pair->object, s->pair->slot, at - s->base, block, fs->block))
			continue;
		s->verified++;
		verdict = fs->ops->verify(fs, &fact, at, block);
		if (verdict > 0 && ended && f->kind == PLT_FACT_KEY)
			verdict = 0; /* (no directory goes on behind its end) */
		if (verdict > 0) {
			s->pair->score += EV_W_SELF;
			s->pair->kinds |= verdict > 1 ? EV_META | EV_SELF : EV_META;
			newness = fs->ops->newness(fs, &fact, block);
			s->pair->newness = PLT_MAX(s->pair->newness, newness);
		} else if (verdict < 0) {
			s->pair->score -= EV_W_SELF;
			s->missed++;
		} else {
			s->pair->mixed = true;
		}
	}
}

static void judge_tail(struct sum *s, const struct ev_fact *f)
{
	int64_t len = plt_ev_length(s->ev, s->pair->object, f->off - s->base, f->len);

	if (len < 0)
		return;
	if ((uint64_t)len == f->value) {
		s->pair->score += (int)plt_ev_rarity(s->ev, f->fs, f->value);
		s->pair->tails += s->pair->tails < 255;
		s->pair->kinds |= EV_TAIL;
	} else if ((uint64_t)len > f->value) {
		s->pair->score -= s->ev->fs[f->fs].fs->zero_tails ? EV_W_TAIL : 2;
		s->missed++;
	} else {
		/* Files may end in zeros themselves, by a few bytes or, seldom, by a block. */
		s->pair->score -= len == 0 ? EV_W_TAIL : f->value - (uint64_t)len > 16 ? 4 : 1;
		s->missed += len == 0;
	}
}

static void judge_data(struct sum *s, const struct ev_fact *f)
{
	uint32_t bs = s->ev->fs[f->fs].fs->block, step = PLT_MIN(bs, 4096u);

	if (f->len / step > 256)
		step = (uint32_t)plt_align_up(f->len / 256, EV_GRAIN);
	for (uint64_t at = 0; at < f->len; at += step) {
		uint16_t g = plt_ev_grain(s->ev, s->pair->object, f->off + at - s->base);

		if (g == EV_UNKNOWN)
			continue;
		s->seen++;
		if (g == EV_ABSENT)
			s->holes += 2;
		else if (!g && !plt_ev_length(s->ev, s->pair->object, f->off + at - s->base,
					      PLT_MIN((uint64_t)step, f->len - at)))
			s->holes++;
		else
			s->full++;
	}
}

/* What the object's own structures say of this slot. */
static void judge_marks(struct sum *s)
{
	const struct ev *ev = s->ev;
	struct ev_pair *pair = s->pair;
	unsigned elsewhere = 0, journal = 0, tables = 0;
	bool table_sure = false;

	for (size_t i = ev->mark_of[pair->object]; i < ev->mark_of[pair->object + 1]; i++) {
		const struct ev_mark *m = &ev->marks[i];
		uint64_t place;
		bool sure, shaky;

		if (m->m.kind == PLT_MARK_JBD2)
			journal++;
		if (named_copy(ev, m, &place, &shaky) && place == s->base)
			sure = false;
		else if (!named_place(ev, m, &place, &sure, &shaky))
			continue;
		if (place == s->base) {
			pair->self += pair->self < 255;
			pair->sure |= sure;
			pair->shaky |= shaky;
			if (m->m.kind == PLT_MARK_GPT || m->m.kind == PLT_MARK_MBR) {
				tables++;
				table_sure |= sure;
			}
		} else if (sure && !is_file_data(ev, pair->slot, s->base + m->m.pos)) {
			elsewhere++;
		}
	}
	if (elsewhere > pair->self)
		pair->sure = false;
	if (journal) { /* which holds blocks of its own filesystem: never a partition table */
		pair->self = (uint8_t)PLT_MIN(tables, 255u);
		pair->sure = table_sure && elsewhere <= tables;
	}
	if (pair->self) {
		pair->score += EV_W_SELF * (int)pair->self;
		pair->kinds |= EV_SELF;
	}
	pair->score -= 60 * (int)PLT_MIN(elsewhere, 10u);
}

static void judge_older(struct sum *s)
{
	size_t n;
	const struct ev_like *v = plt_ev_likes_of(s->ev, s->pair->object, &n);

	for (size_t i = 0; i < n; i++)
		if (v[i].slot == s->pair->slot) {
			s->pair->score += (int)PLT_MIN(v[i].n * EV_W_LIKE, (uint32_t)EV_W_LIKE_MAX);
			s->pair->kinds |= EV_OLDER;
		}
}

struct ev_pair plt_ev_score(const struct ev *ev, uint32_t object, uint32_t slot)
{
	struct ev_pair pair = { .object = object, .slot = slot };
	struct sum s = { .ev = ev, .pair = &pair, .base = ev->p->slots[slot] };
	unsigned neighbours;

	judge_marks(&s);
	for (size_t i = plt_ev_facts_of(ev, slot); i < ev->nfacts && ev->facts[i].slot == slot; i++) {
		const struct ev_fact *f = &ev->facts[i];

		pair.shaky |= !ev->fs[f->fs].sure;
		if (f->kind == PLT_FACT_META || f->kind == PLT_FACT_KEY)
			judge_meta(&s, f);
		else if (f->kind == PLT_FACT_TAIL)
			judge_tail(&s, f);
		else if (f->kind == PLT_FACT_DATA)
			judge_data(&s, f);
	}
	pair.score -= PLT_MIN(s.holes, 60);
	if (s.full && s.holes == 0)
		pair.kinds |= EV_PATTERN;
	judge_older(&s);
	neighbours = plt_ev_order_support(ev, object, slot);
	if (neighbours) {
		pair.score += (int)neighbours * (ev->habit >= 900 ? 8 : ev->habit >= 500 ? 5 : 1);
		pair.kinds |= EV_ORDER;
	}
	return pair;
}

/* ---- candidates -------------------------------------------------------------------------------------- */

struct votes {
	struct vote v[VOTES_MAX];
	unsigned n;
};

static void vote(const struct ev *ev, struct votes *vs, uint32_t slot, uint32_t weight)
{
	if (slot != EV_NONE && ev->place[slot].object == EV_NONE && vs->n < VOTES_MAX)
		vs->v[vs->n++] = (struct vote){ .slot = slot, .weight = weight };
}

static void vote_by_marks(const struct ev *ev, uint32_t object, struct votes *vs)
{
	for (size_t i = ev->mark_of[object]; i < ev->mark_of[object + 1]; i++) {
		const struct ev_mark *m = &ev->marks[i];
		uint64_t place;
		size_t at, n;
		bool sure, shaky;

		if (m->m.kind == PLT_MARK_EXT_OWNED || m->m.kind == PLT_MARK_FAT_ENTRIES) {
			n = plt_ev_facts_by_key(ev, plt_ev_owner_key(m->m.value), &at);
			for (size_t k = 0; k < n && k < 256; k++) {
				const struct ev_fact *f = &ev->facts[ev->by_key[at + k]];

				if (f->off - ev->p->slots[f->slot] == m->m.pos && f->kind == PLT_FACT_KEY)
					vote(ev, vs, f->slot, EV_W_SELF);
			}
		} else if (named_place(ev, m, &place, &sure, &shaky) && place % ev->p->span == 0) {
			vote(ev, vs, plt_ev_slot_at(ev, place), EV_W_SELF);
		}
		if (named_copy(ev, m, &place, &shaky) && place % ev->p->span == 0)
			vote(ev, vs, plt_ev_slot_at(ev, place), EV_W_SELF);
	}
}

/* All that filesystems want something in, where few are left: what has no mark and no end is tried as well. */
static unsigned wanted_slots(const struct ev *ev, uint32_t *ret)
{
	unsigned n = 0;

	for (size_t i = 0; i < ev->nfacts; i++)
		if (!i || ev->facts[i].slot != ev->facts[i - 1].slot)
			ret[n++] = ev->facts[i].slot;
	return n;
}

static void vote_at(const struct ev *ev, uint32_t object, uint64_t from, uint64_t to, struct votes *vs)
{
	int64_t len = plt_ev_length(ev, object, from, to - from);
	size_t at, n;

	if (len <= 0 || (uint64_t)len == to - from)
		return;
	n = plt_ev_facts_by_key(ev, plt_ev_tail_key(to, (uint64_t)len), &at);
	if (n > COMMON)
		return;
	for (size_t k = 0; k < n; k++) {
		const struct ev_fact *f = &ev->facts[ev->by_key[at + k]];

		if (f->kind == PLT_FACT_TAIL)
			vote(ev, vs, f->slot, plt_ev_rarity(ev, f->fs, (uint64_t)len));
	}
}

/* Where each filesystem's blocks would end in the object. */
static void vote_by_tails(const struct ev *ev, uint32_t object, struct votes *vs)
{
	uint64_t span = ev->p->span;

	for (unsigned i = 0; i < ev->nfs; i++) {
		const struct plt_guestfs *fs = ev->fs[i].fs;
		uint64_t skew = fs->grid, end;
		bool same = false;

		for (unsigned k = 0; k < i; k++)
			same |= ev->fs[k].fs->block == fs->block && ev->fs[k].fs->grid == skew;
		if (same)
			continue;
		if (fs->block > span) { /* a block is several objects: only the part in this one counts */
			vote_at(ev, object, 0, span, vs);
			continue;
		}
		for (end = skew ? skew : fs->block; end <= span; end += fs->block)
			vote_at(ev, object, end - PLT_MIN(end, (uint64_t)fs->block), end, vs);
		if (skew)
			vote_at(ev, object, end - fs->block, span, vs);
	}
}

static int compare_votes(const void *a, const void *b)
{
	const struct vote *x = a, *y = b;

	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static int compare_weights(const void *a, const void *b)
{
	const struct vote *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return compare_votes(a, b);
}

static int add_pair(struct ev *ev, const struct ev_pair *pair)
{
	if (ev->npairs == ev->pairs_cap) {
		size_t cap = PLT_MAX(2 * ev->pairs_cap, (size_t)1024);
		void *t = realloc(ev->pairs, cap * sizeof(*ev->pairs));

		if (!t)
			return -ENOMEM;
		ev->pairs = t;
		ev->pairs_cap = cap;
	}
	ev->pairs[ev->npairs++] = *pair;
	return 0;
}

size_t plt_ev_claims(const struct ev *ev, uint32_t object, struct ev_claim *ret)
{
	struct votes *vs = malloc(sizeof(*vs));
	size_t n = 0;

	if (!vs)
		return 0;
	vs->n = 0;
	vote_by_tails(ev, object, vs);
	qsort(vs->v, vs->n, sizeof(*vs->v), compare_votes);
	for (unsigned i = 0; i < vs->n; i++) {
		if (n && ret[n - 1].slot == vs->v[i].slot)
			ret[n - 1].bits += vs->v[i].weight;
		else if (n < EV_CLAIMS_MAX)
			ret[n++] = (struct ev_claim){ .slot = vs->v[i].slot, .bits = vs->v[i].weight };
	}
	free(vs);
	return n;
}

size_t plt_ev_seeds(const struct ev *ev, uint32_t object, uint32_t *ret)
{
	struct votes *vs = malloc(sizeof(*vs));
	size_t n = 0, nlikes;
	const struct ev_like *likes = plt_ev_likes_of(ev, object, &nlikes);

	if (!vs)
		return 0;
	vs->n = 0;
	vote_by_marks(ev, object, vs);
	vote_by_tails(ev, object, vs);
	for (size_t i = 0; i < nlikes; i++)
		vote(ev, vs, likes[i].slot, likes[i].n * EV_W_LIKE);
	qsort(vs->v, vs->n, sizeof(*vs->v), compare_votes);
	for (unsigned i = 0; i < vs->n && n < EV_CLAIMS_MAX; i++)
		if (!n || ret[n - 1] != vs->v[i].slot)
			ret[n++] = vs->v[i].slot;
	free(vs);
	return n;
}

int plt_ev_score_all(struct ev *ev)
{
	struct votes *vs = malloc(sizeof(*vs));
	uint32_t rest[EV_REST], nrest = 0;
	uint64_t open = 0;
	bool few;
	int r = vs ? 0 : -ENOMEM;

	ev->npairs = 0;
	for (uint32_t o = 0; o < ev->p->nobjects; o++)
		open += ev->slot_of[o] == EV_NONE && !ev->blank[o];
	few = open && open * ev->nwanted <= EV_REST && open * ev->nfacts <= EV_FACTS_MAX;
	if (few)
		nrest = wanted_slots(ev, rest);
	for (uint32_t o = 0; !r && o < ev->p->nobjects; o++) {
		const struct ev_like *likes;
		size_t nlikes;
		unsigned n = 0;

		if (ev->slot_of[o] != EV_NONE || ev->blank[o])
			continue;
		vs->n = 0;
		vote_by_marks(ev, o, vs);
		vote_by_tails(ev, o, vs);
		likes = plt_ev_likes_of(ev, o, &nlikes);
		for (size_t i = 0; i < nlikes; i++)
			vote(ev, vs, likes[i].slot, likes[i].n * EV_W_LIKE);
		for (unsigned i = 0; i < nrest; i++)
			vote(ev, vs, rest[i], 1);
		qsort(vs->v, vs->n, sizeof(*vs->v), compare_votes);
		for (unsigned i = 0; i < vs->n; i++) {
			if (n && vs->v[n - 1].slot == vs->v[i].slot)
				vs->v[n - 1].weight += vs->v[i].weight;
			else
				vs->v[n++] = vs->v[i];
		}
		qsort(vs->v, n, sizeof(*vs->v), compare_weights);
		for (unsigned i = 0; !r && i < n && (few || i < EV_CANDIDATES); i++) {
			struct ev_pair pair = plt_ev_score(ev, o, vs->v[i].slot);

			if (pair.score > 0)
				r = add_pair(ev, &pair);
		}
	}
	free(vs);
	return r;
}
