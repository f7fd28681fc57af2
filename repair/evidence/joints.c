/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Joints: how much likelier one piece goes on in another than that the two have nothing to do with each other. Where
 * a run of pieces ends on the host nothing says so but their content: text breaks off within a word, or what does not
 * look alike follows.  Two things are learned from the pieces themselves, for no guest's files are like another's:
 * how often a block of one look follows one of another (inside of pieces, and between neighbours on the host, most of
 * which belong together), and which byte follows which few in all that is not dense.  What is dense, compressed or
 * encrypted, goes on like anything.
 *
 * Invariant: a joint of which nothing is known is a ratio of one.  Where joints count, inside of files, path.c knows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/zero.h"
#include "repair/evidence/private.h"

#define BLOCK 4096           /* of a piece's ends, at most, that is looked at */
#define ORDER EV_EDGE        /* bytes that the next one is learned from */
#define PAIRS_BITS 20        /* counts of bytes behind others */
#define LITTLE 128           /* bytes of which nobody could say how they look */
#define ENOUGH 64            /* pairs that are known to be of one file */
#define SMOOTH 2.0
#define TRAINED 2048         /* pieces that are learned from */
#define CONFIDENCE 2.0       /* of the shorter context, in counts of the longer one */
#define MOST 64.0
#define LEAST (1.0 / 512)

enum look { TEXT, DENSE, SPARSE, OTHER, LOOKS, UNKNOWN = 255 };

struct ev_joints {
	double follows[LOOKS][LOOKS];     /* how many times likelier than by chance */
	uint32_t pairs[LOOKS][LOOKS], n[LOOKS]; /* side by side; all */
	uint32_t seen[LOOKS][LOOKS], nseen[LOOKS]; /* known to be one file */
	bool counted;
	uint16_t count[1 << PAIRS_BITS], all[1 << PAIRS_BITS];
	uint32_t first[256], nfirst;
	uint32_t trained;
	struct ev_edge *of_object;
	struct ev_edge *of_slot[2];       /* of what is known before and behind it */
	uint8_t (*file)[2];               /* of a slot: how the nearest known pieces of the same file look, before and behind */
};

static enum look look_of(const uint8_t *p, size_t len)
{
	uint32_t n[256] = { 0 }, text = 0, high = 0;
	uint64_t squares = 0;

	for (size_t i = 0; i < len; i++)
		n[p[i]]++;
	for (unsigned c = 0; c < 256; c++) {
		squares += (uint64_t)n[c] * n[c];
		text += (c >= ' ' && c < 0x7f) || c == '\n' || c == '\r' || c == '\t' ? n[c] : 0;
		high += c >= 0x80 ? n[c] : 0;
	}
	if (!n[0] && text + high >= len - len / 32 && high < len / 2 && squares > 4 * (uint64_t)len * len / 256)
		return TEXT;
	if (squares * 256 < ((uint64_t)len * len + 256 * (uint64_t)len) * 23 / 20)
		return DENSE;
	return n[0] >= len / 10 ? SPARSE : OTHER;
}

/* ---- bytes ------------------------------------------------------------------------------------------- */

/* Where the counts of the @order bytes before @p are; @byte above 255: of all that follows them. */
static uint32_t place_of(const uint8_t *p, unsigned order, unsigned byte)
{
	uint64_t h = order + 1;

	for (unsigned i = order; i; i--)
		h = (h << 8 | p[-(int)i]) * UINT64_C(0x9e3779b97f4a7c15);
	h = (h ^ byte) * UINT64_C(0xd6e8feb86659fd93);
	return (uint32_t)(h >> (64 - PAIRS_BITS));
}

static void train(struct ev_joints *j, const uint8_t *p, size_t len)
{
	for (size_t i = ORDER; i < len; i++) {
		j->first[p[i]]++;
		j->nfirst++;
		for (unsigned k = 1; k <= ORDER; k++) {
			uint16_t *all = &j->all[place_of(p + i, k, 256)], *n = &j->count[place_of(p + i, k, p[i])];

			if (*all == UINT16_MAX) /* (what has been seen so often is known) */
				continue;
			++*all;
			*n += *n < UINT16_MAX;
		}
	}
}

/* How likely *p is behind the @order bytes before it. */
static double likely(const struct ev_joints *j, const uint8_t *p, unsigned order)
{
	double ret = (j->first[*p] + 0.5) / (j->nfirst + 128.0);

	for (unsigned k = 1; k <= order; k++) {
		unsigned all = j->all[place_of(p, k, 256)], n = j->count[place_of(p, k, *p)];

		ret = (PLT_MIN(n, all) + CONFIDENCE * ret) / (all + CONFIDENCE);
	}
	return ret;
}

/* ---- what is kept of a piece ------------------------------------------------------------------------- */

static struct ev_edge no_edge(void)
{
	return (struct ev_edge){ .look = { UNKNOWN, UNKNOWN } };
}

static struct ev_edge edge_of(const uint8_t *buf, size_t len, unsigned side)
{
	struct ev_edge e = no_edge();
	size_t n = PLT_MIN(len, (size_t)BLOCK);
	const uint8_t *p = side ? buf + len - n : buf;

	memcpy(side ? e.tail : e.head, side ? p + n - ORDER : p, ORDER);
	while (n && !p[n - 1])
		n--;
	if (n >= LITTLE)
		e.look[side] = (uint8_t)look_of(p, n);
	return e;
}

static void take_side(struct ev_edge *ret, const struct ev_edge *e, unsigned side)
{
	ret->look[side] = e->look[side];
	memcpy(side ? ret->tail : ret->head, side ? e->tail : e->head, ORDER);
}

int plt_ev_joints_init(struct ev *ev)
{
	const struct plt_puzzle *p = ev->p;
	struct ev_joints *j;

	if (p->span != p->unit)
		return 0;
	j = ev->joints = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->of_object = malloc(((size_t)p->nobjects + 1) * sizeof(*j->of_object));
	if (!j->of_object)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->nobjects; i++)
		j->of_object[i] = no_edge();
	for (unsigned side = 0; side < 2; side++) {
		j->of_slot[side] = calloc((size_t)p->nslots + 1, sizeof(**j->of_slot));
		if (!j->of_slot[side])
			return -ENOMEM;
	}
	j->file = malloc(((size_t)p->nslots + 1) * sizeof(*j->file));
	return j->file ? 0 : -ENOMEM;
}

void plt_ev_joints_free(struct ev_joints *j)
{
	if (!j)
		return;
	free(j->of_object);
	free(j->of_slot[0]);
	free(j->of_slot[1]);
	free(j->file);
	free(j);
}

static void count_pair(struct ev_joints *j, unsigned before, unsigned after)
{
	if (before < LOOKS && after < LOOKS)
		j->pairs[before][after]++;
}

void plt_ev_joints_take(struct ev *ev, uint32_t object, uint64_t off, const uint8_t *buf, size_t len)
{
	const uint32_t every = ev->p->nobjects / TRAINED + 1;
	struct ev_joints *j = ev->joints;
	struct ev_edge e;

	if (!j || len < ORDER)
		return;
	if (off + len == ev->p->span) {
		e = edge_of(buf, len, 1);
		take_side(&j->of_object[object], &e, 1);
	}
	if (off)
		return;
	e = edge_of(buf, len, 0);
	take_side(&j->of_object[object], &e, 0);
	if (e.look[0] < LOOKS)
		j->n[e.look[0]]++;
	if (object % every || j->trained >= TRAINED)
		return;
	j->trained++;
	if (e.look[0] != DENSE && e.look[0] != UNKNOWN)
		train(j, buf, PLT_MIN(len, (size_t)BLOCK));
	for (size_t at = BLOCK; at + BLOCK <= len; at += BLOCK)
		if (buf[at - 1])
			count_pair(j, look_of(buf + at - BLOCK, BLOCK), look_of(buf + at, BLOCK));
}

/*
 * How often what lies beside each other on the host looks so: mostly that is one file, and where a run ends it is not.
 * Where enough is known to be one file, that alone counts.
 */
static void learn(struct ev_joints *j, unsigned a, double all)
{
	const bool enough = j->nseen[a] >= ENOUGH;
	double sum = enough ? j->nseen[a] : 0;

	for (unsigned b = 0; b < LOOKS && !enough; b++)
		sum += j->pairs[a][b];
	for (unsigned b = 0; b < LOOKS; b++) {
		double chance = (j->n[b] + 1.0) / (all + LOOKS), n = enough ? j->seen[a][b] : j->pairs[a][b];

		j->follows[a][b] = (n + SMOOTH * chance) / (sum + SMOOTH) / chance;
	}
}

void plt_ev_joints_learn(struct ev *ev)
{
	struct ev_joints *j = ev->joints;

	if (!j)
		return;
	memset(j->seen, 0, sizeof(j->seen));
	memset(j->nseen, 0, sizeof(j->nseen));
	for (uint32_t i = 0; !j->counted && i + 1 < ev->nline; i++) {
		const struct ev_item *v = ev->line + i;

		if (v[0].item < ev->p->nobjects && v[1].item < ev->p->nobjects && v[1].host == v[0].host + ev->p->unit &&
		    j->of_object[v[0].item].tail[ORDER - 1])
			count_pair(j, j->of_object[v[0].item].look[1], j->of_object[v[1].item].look[0]);
	}
	j->counted = true;
}

void plt_ev_joints_seen(struct ev *ev, uint32_t before, uint32_t after)
{
	struct ev_joints *j = ev->joints;
	unsigned a, b;

	if (!j)
		return;
	a = j->of_object[before].look[1];
	b = j->of_object[after].look[0];
	if (a >= LOOKS || b >= LOOKS)
		return;
	j->seen[a][b]++;
	j->nseen[a]++;
}

static double ratio_of(const struct ev_joints *j, const struct ev_edge *before, const struct ev_edge *after)
{
	const unsigned a = before->look[1], b = after->look[0];
	uint8_t bytes[2 * ORDER];
	double ratio;

	if (a >= LOOKS || b >= LOOKS || !before->tail[ORDER - 1])
		return 1;
	ratio = j->follows[a][b];
	if (a == TEXT && b == TEXT) {
		memcpy(bytes, before->tail, ORDER);
		memcpy(bytes + ORDER, after->head, ORDER);
		for (unsigned k = 0; k < ORDER; k++)
			ratio *= likely(j, bytes + ORDER + k, ORDER) / likely(j, bytes + ORDER + k, k);
	}
	return PLT_MIN(PLT_MAX(ratio, LEAST), MOST);
}

double plt_ev_joint(const struct ev *ev, uint32_t before, uint32_t after)
{
	const struct ev_joints *j = ev->joints;

	return j ? ratio_of(j, &j->of_object[before], &j->of_object[after]) : 1;
}

/* ---- beside a slot ------------------------------------------------------------------------------------ */

/* Does one file go on over the border before @slot (@side 0) or behind it (1)? */
static bool in_file(const struct ev *ev, uint32_t slot, unsigned side)
{
	const struct plt_puzzle *p = ev->p;
	const uint64_t from = p->slots[slot], to = from + p->span;
	size_t i = plt_ev_facts_of(ev, slot), end = plt_ev_facts_of(ev, slot + 1);

	if (i == end)
		return false;
	if (side) {
		const struct ev_fact *f = &ev->facts[end - 1];

		if (f->kind != PLT_FACT_DATA || f->off + f->len != to)
			return false;
		return f->more || (slot + 1 < p->nslots && p->slots[slot + 1] == to && plt_ev_ends_from(ev, slot + 1));
	}
	if (ev->facts[i].off != from)
		return false;
	if (ev->facts[i].from < from)
		return ev->facts[i].kind == PLT_FACT_DATA || ev->facts[i].kind == PLT_FACT_TAIL;
	return plt_ev_ends_from(ev, slot) && slot && p->slots[slot - 1] + p->span == from && in_file(ev, slot - 1, 1);
}

bool plt_ev_in_file(const struct ev *ev, uint32_t slot)
{
	return in_file(ev, slot, 0);
}

/* What is known at the slot's side; NULL. */
static const struct ev_edge *known_beside(struct ev *ev, uint32_t slot, unsigned side)
{
	const struct plt_puzzle *p = ev->p;
	struct ev_edge *e = &ev->joints->of_slot[side][slot];
	const uint64_t at = p->slots[slot] + (side ? p->span : 0);
	uint32_t other = side ? slot + 1 : slot - 1;
	uint8_t buf[BLOCK];
	size_t n = PLT_MIN((size_t)p->span, sizeof(buf));

	if (side ? other < p->nslots && p->slots[other] == at : slot && p->slots[other] + p->span == at)
		return ev->place[other].object == EV_NONE ? NULL : &ev->joints->of_object[ev->place[other].object];
	if (!e->seen) {
		*e = no_edge();
		e->seen = 1;
		if ((side ? plt_in_range(at, n, p->disk_size) : at >= n) &&
		    !p->read_disk(p->arg, side ? at : at - n, buf, n)) {
			const struct ev_edge read = edge_of(buf, n, !side);

			take_side(e, &read, !side);
		}
	}
	return e;
}

double plt_ev_joints_beside(struct ev *ev, uint32_t object, uint32_t slot)
{
	double ratio = 1;

	for (unsigned side = 0; ev->joints && side < 2; side++) {
		const struct ev_edge *own = &ev->joints->of_object[object], *e;

		if (!in_file(ev, slot, side))
			continue;
		e = known_beside(ev, slot, side);
		if (e)
			ratio *= side ? ratio_of(ev->joints, own, e) : ratio_of(ev->joints, e, own);
	}
	return ratio;
}

/* ---- further on in the file --------------------------------------------------------------------------- */

/* Of the file that is on that side of the slot, what is known nearest. */
static unsigned look_on(struct ev *ev, uint32_t slot, unsigned side)
{
	const uint32_t other = side ? slot + 1 : slot - 1;
	const struct ev_edge *e;

	if (!in_file(ev, slot, side))
		return UNKNOWN;
	e = known_beside(ev, slot, side);
	return e ? e->look[!side] : ev->joints->file[other][side];
}

void plt_ev_joints_files(struct ev *ev)
{
	const uint32_t n = ev->p->nslots;
	double all = 1;

	if (!ev->joints)
		return;
	for (unsigned a = 0; a < LOOKS; a++)
		all += ev->joints->n[a];
	for (unsigned a = 0; a < LOOKS; a++)
		learn(ev->joints, a, all);
	for (uint32_t i = 0; i < n; i++)
		ev->joints->file[i][0] = (uint8_t)look_on(ev, i, 0);
	for (uint32_t i = n; i--;)
		ev->joints->file[i][1] = (uint8_t)look_on(ev, i, 1);
}

double plt_ev_joints_file(const struct ev *ev, uint32_t object, uint32_t slot)
{
	const struct ev_joints *j = ev->joints;
	double ratio = 1;

	for (unsigned side = 0; j && side < 2; side++) {
		const unsigned own = j->of_object[object].look[side], other = j->file[slot][side];

		if (own < LOOKS && other < LOOKS)
			ratio *= side ? j->follows[own][other] : j->follows[other][own];
	}
	return PLT_MIN(PLT_MAX(ratio, 1.0 / 32), 4.0);
}
