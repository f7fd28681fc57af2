/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Power-cut states of a write log: see powercut.h for what they are.  A window is a base (what is
 * durable, as far as no pending operation comes before it) and the rest of the log, of which each
 * pending operation is in the state by a bit for each sector that it touches.
 */
#include "tests/fault/powercut.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "tests/unit.h"

#define SECTOR 512u
#define EXHAUSTIVE 512 /* a window of at most this many choices is enumerated completely */

struct op {
	const struct plt_log_record *r;
	size_t index; /* in the log */
	bool durable, failed;
	uint64_t first; /* sector */
	unsigned sectors;
	uint8_t *in;  /* [sectors]: pending and in the state */
	bool resizes; /* may change the length */
};

enum length { LENGTH_NATURAL, LENGTH_OLD, LENGTH_NEW, LENGTH_RANDOM };

struct cuts {
	const struct plt_log_record *rec;
	size_t nrec;
	unsigned nstores;
	struct powercut_disk start[POWERCUT_STORES], base[POWERCUT_STORES], disk[POWERCUT_STORES];
	size_t cap[POWERCUT_STORES]; /* bytes that any state of the store may need */
	uint8_t *need[POWERCUT_STORES];

	struct op *op; /* the window's, behind the base, in log order */
	size_t nop;
	size_t *pending; /* indices into op */
	size_t npending;

	uint64_t *seen; /* hash table of states */
	size_t nseen, seen_cap;
	uint64_t seed, mark;
	unsigned window, in_window, window_max;
	char what[300];
	int (*fn)(void *arg, const struct powercut_state *state);
	void *arg;
	int result;
	struct powercut_count count;
};

static void *need_memory(void *p)
{
	if (!p) /* a test that leaves something out proves nothing */
		abort();
	return p;
}

static bool is_change(const struct plt_log_record *r)
{
	return r->kind != PLT_LOG_SYNC && r->kind != PLT_LOG_MARK;
}

static uint64_t end_of(const struct plt_log_record *r)
{
	return r->kind == PLT_LOG_TRUNCATE ? r->off : r->off + r->len;
}

/* ---- applying -------------------------------------------------------------------------------- */

/* Bytes [from, to) of the operation's range. */
static void apply_bytes(struct powercut_disk *d, const struct plt_log_record *r, uint64_t from,
			uint64_t to)
{
	switch (r->kind) {
	case PLT_LOG_WRITE:
		memcpy(d->bytes + from, r->data + (from - r->off), to - from);
		break;
	case PLT_LOG_ZERO:
	case PLT_LOG_DISCARD:
		memset(d->bytes + from, 0, to - from);
		break;
	default:
		break;
	}
}

static void apply_length(uint64_t *len, const struct plt_log_record *r)
{
	if (r->kind == PLT_LOG_TRUNCATE)
		*len = r->off;
	else if (r->kind != PLT_LOG_DISCARD)
		*len = PLT_MAX(*len, end_of(r));
}

static void apply_whole(struct cuts *c, struct powercut_disk *d, const struct plt_log_record *r)
{
	uint64_t len = d->len, cap = c->cap[r->store];

	if (r->kind == PLT_LOG_TRUNCATE && r->off < cap)
		memset(d->bytes + r->off, 0, cap - r->off);
	else if (r->len)
		apply_bytes(d, r, r->off, end_of(r));
	apply_length(&len, r);
	d->len = len;
}

static bool is_pending(const struct op *o)
{
	return !o->durable;
}

/* A sector that holds an operation holds what came before it. */
static void close_choice(struct cuts *c)
{
	for (unsigned s = 0; s < c->nstores; s++)
		memset(c->need[s], 0, c->cap[s] / SECTOR + 1);
	for (size_t i = c->nop; i-- > 0;) {
		struct op *o = &c->op[i];
		uint8_t *need = c->need[o->r->store];

		for (unsigned k = 0; k < o->sectors; k++) {
			if (o->durable || o->in[k])
				need[o->first + k] = 1;
			else if (need[o->first + k] && !o->failed)
				o->in[k] = 1;
		}
	}
}

static bool any_in(const struct op *o)
{
	for (unsigned k = 0; k < o->sectors; k++)
		if (o->in[k])
			return true;
	return false;
}

static void build_length(struct cuts *c, unsigned s, enum length mode)
{
	uint64_t len = c->base[s].len;
	size_t n = 0, upto = SIZE_MAX;

	for (size_t i = 0; i < c->nop; i++)
		n += (unsigned)c->op[i].r->store == s && c->op[i].resizes && is_pending(&c->op[i]);
	if (mode == LENGTH_OLD)
		upto = 0;
	else if (mode == LENGTH_RANDOM)
		upto = plt_unit_random(&c->seed) % (n + 1);
	n = 0;
	for (size_t i = 0; i < c->nop; i++) {
		struct op *o = &c->op[i];

		if ((unsigned)o->r->store != s || !o->resizes)
			continue;
		if (is_pending(o)) {
			if (n++ >= upto)
				continue;
			if (mode == LENGTH_NATURAL && !any_in(o))
				continue;
		}
		apply_length(&len, o->r);
	}
	c->disk[s].len = len;
}

static void build(struct cuts *c, enum length mode)
{
	close_choice(c);
	for (unsigned s = 0; s < c->nstores; s++)
		memcpy(c->disk[s].bytes, c->base[s].bytes, c->cap[s]);
	for (size_t i = 0; i < c->nop; i++) {
		struct op *o = &c->op[i];
		struct powercut_disk *d = &c->disk[o->r->store];

		for (unsigned k = 0; k < o->sectors; k++) {
			uint64_t from = PLT_MAX(o->r->off, (o->first + k) * SECTOR);
			uint64_t to = PLT_MIN(end_of(o->r), (o->first + k + 1) * SECTOR);

			if (from < to && (o->durable || o->in[k]))
				apply_bytes(d, o->r, from, to);
		}
		if (o->r->kind == PLT_LOG_TRUNCATE && (o->durable || o->in[0]) &&
		    o->r->off < c->cap[o->r->store])
			memset(d->bytes + o->r->off, 0, c->cap[o->r->store] - o->r->off);
	}
	for (unsigned s = 0; s < c->nstores; s++) {
		build_length(c, s, mode);
		if (c->disk[s].len < c->cap[s])
			memset(c->disk[s].bytes + c->disk[s].len, 0, c->cap[s] - c->disk[s].len);
	}
}

/* ---- showing --------------------------------------------------------------------------------- */

static uint64_t hash_state(const struct cuts *c)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (unsigned s = 0; s < c->nstores; s++) {
		const uint8_t *p = c->disk[s].bytes;
		uint64_t w;

		for (size_t i = 0; i < c->disk[s].len;
		     i += 8) { /* the capacity is rounded up to sectors */
			memcpy(&w, p + i, 8);
			h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
			h ^= h >> 29;
		}
		h = (h ^ c->disk[s].len) * UINT64_C(0x100000001b3);
	}
	return h ? h : 1;
}

static bool seen_before(struct cuts *c, uint64_t h)
{
	if (2 * c->nseen >= c->seen_cap) {
		size_t old_cap = c->seen_cap, cap = old_cap ? 2 * old_cap : 1024;
		uint64_t *old = c->seen;

		c->seen = need_memory(calloc(cap, sizeof(*c->seen)));
		c->seen_cap = cap;
		c->nseen = 0;
		for (size_t i = 0; i < old_cap; i++)
			if (old[i])
				(void)seen_before(c, old[i]);
		free(old);
	}
	for (size_t i = h % c->seen_cap;; i = (i + 1) % c->seen_cap) {
		if (c->seen[i] == h)
			return true;
		if (!c->seen[i]) {
			c->seen[i] = h;
			c->nseen++;
			return false;
		}
	}
}

/* The choice that the bits describe.  False: enough of this window, or the caller has enough. */
static bool show(struct cuts *c, enum length mode, const char *text)
{
	struct powercut_state st = {.mark = c->mark, .what = c->what};

	if (c->result || c->in_window >= c->window_max)
		return false;
	build(c, mode);
	st.hash = hash_state(c);
	if (seen_before(c, st.hash ^ (c->mark * UINT64_C(0xd6e8feb86659fd93)))) {
		c->count.duplicates++;
		return true;
	}
	c->in_window++;
	c->count.states++;
	snprintf(c->what, sizeof(c->what), "window %u (after flush %" PRIu32 "): %s%s", c->window,
		 (uint32_t)c->mark, text,
		 mode == LENGTH_OLD	 ? ", old length"
		 : mode == LENGTH_NEW	 ? ", new length"
		 : mode == LENGTH_RANDOM ? ", some length"
					 : "");
	memcpy(st.disk, c->disk, sizeof(st.disk));
	c->result = c->fn(c->arg, &st);
	return !c->result;
}

static void choose(struct op *o, unsigned from, unsigned to, bool in)
{
	for (unsigned k = from; k < to && k < o->sectors; k++)
		o->in[k] = in;
}

static void choose_all(struct cuts *c, bool in)
{
	for (size_t i = 0; i < c->npending; i++)
		choose(&c->op[c->pending[i]], 0, UINT32_MAX, in);
}

static const char *name_op(const struct op *o, char *buf, size_t len)
{
	static const char *const tags[] = {"data", "cow",      "compressed", "header",	  "l1",
					   "l2",   "reftable", "refblock",   "snapshots", "bitmap",
					   ""};
	static const char *const kinds[] = {"write", "zero", "discard", "truncate",
					    "sync",  "mark", "allocate"};

	snprintf(buf, len, "record %zu (%s %s %#" PRIx64 "+%#" PRIx64 ")", o->index,
		 tags[o->r->tag < PLT_IO_TAGS ? o->r->tag : PLT_IO_OTHER], kinds[o->r->kind],
		 o->r->off, o->r->len);
	return buf;
}

/* ---- the states of a window ------------------------------------------------------------------ */

/* Every choice of versions, if they are few.  An operation's sectors count one by one. */
static bool exhaust(struct cuts *c)
{
	unsigned bits = 0;

	for (size_t i = 0; i < c->npending; i++) {
		bits += c->op[c->pending[i]].sectors;
		if (bits > 16 || 1u << bits > EXHAUSTIVE)
			return false;
	}
	for (unsigned choice = 0; choice < 1u << bits; choice++) {
		unsigned b = 0;
		char text[64];

		for (enum length mode = LENGTH_NATURAL; mode <= LENGTH_NEW; mode++) {
			b = 0;
			for (size_t i = 0; i < c->npending; i++)
				for (unsigned k = 0; k < c->op[c->pending[i]].sectors; k++, b++)
					c->op[c->pending[i]].in[k] = choice >> b & 1;
			snprintf(text, sizeof(text), "choice %#x of %#x", choice, 1u << bits);
			if (!show(c, mode, text))
				return true;
		}
	}
	c->count.exhaustive++;
	return true;
}

static bool each_length(struct cuts *c, const char *text)
{
	return show(c, LENGTH_NATURAL, text) && show(c, LENGTH_OLD, text) &&
	       show(c, LENGTH_NEW, text);
}

static bool by_op(struct cuts *c, size_t i)
{
	struct op *o = &c->op[c->pending[i]];
	char name[100], text[160];
	unsigned cut = o->sectors > 1 ? 1 + (unsigned)(plt_unit_random(&c->seed) % (o->sectors - 1))
				      : 0;

	name_op(o, name, sizeof(name));
	choose_all(c, true);
	choose(o, 0, UINT32_MAX, false);
	snprintf(text, sizeof(text), "all but %s", name);
	if (!show(c, LENGTH_NATURAL, text) || !show(c, LENGTH_RANDOM, text))
		return false;
	choose_all(c, false);
	choose(o, 0, UINT32_MAX, true);
	snprintf(text, sizeof(text), "only %s", name);
	if (!show(c, LENGTH_NATURAL, text) || !show(c, LENGTH_NEW, text) ||
	    !show(c, LENGTH_OLD, text))
		return false;
	for (size_t j = 0; j < i; j++)
		choose(&c->op[c->pending[j]], 0, UINT32_MAX, true);
	snprintf(text, sizeof(text), "all up to %s", name);
	if (!show(c, LENGTH_NATURAL, text))
		return false;
	for (unsigned half = 0; cut && half < 2; half++) {
		for (unsigned rest = 0; rest < 2; rest++) {
			choose_all(c, rest);
			choose(o, 0, cut, !half);
			choose(o, cut, UINT32_MAX, half);
			snprintf(text, sizeof(text), "%s %s, torn at sector %u%s",
				 rest ? "all of" : "only", name, cut,
				 half ? ", the end there" : "");
			if (!show(c, LENGTH_NATURAL, text))
				return false;
		}
	}
	return true;
}

static bool by_tag(struct cuts *c)
{
	char text[64];

	for (int tag = 0; tag < PLT_IO_TAGS; tag++) {
		size_t n = 0;

		for (size_t i = 0; i < c->npending; i++)
			n += (int)c->op[c->pending[i]].r->tag == tag;
		if (!n || n == c->npending)
			continue;
		for (unsigned only = 0; only < 2; only++) {
			for (size_t i = 0; i < c->npending; i++)
				choose(&c->op[c->pending[i]], 0, UINT32_MAX,
				       ((int)c->op[c->pending[i]].r->tag == tag) == only);
			snprintf(text, sizeof(text), "%s tag %d", only ? "only" : "all but", tag);
			if (!each_length(c, text))
				return false;
		}
	}
	return true;
}

static bool by_store(struct cuts *c)
{
	for (unsigned s = 0; c->nstores > 1 && s < c->nstores; s++) {
		for (size_t i = 0; i < c->npending; i++)
			choose(&c->op[c->pending[i]], 0, UINT32_MAX,
			       (unsigned)c->op[c->pending[i]].r->store == s);
		if (!show(c, LENGTH_NATURAL, s ? "only the second store" : "only the first store"))
			return false;
	}
	return true;
}

static void at_random(struct cuts *c, unsigned n)
{
	static const unsigned chance[] = {2, 8, 16, 24, 30};

	for (unsigned i = 0; i < n; i++) {
		unsigned p = chance[plt_unit_random(&c->seed) % PLT_ARRAY_SIZE(chance)];
		char text[40];

		for (size_t j = 0; j < c->npending; j++) {
			struct op *o = &c->op[c->pending[j]];

			choose(o, 0, UINT32_MAX, plt_unit_random(&c->seed) % 32 < p);
			if (plt_unit_random(&c->seed) % 4 == 0)
				for (unsigned k = 0; k < o->sectors; k++)
					o->in[k] = plt_unit_random(&c->seed) % 32 < p;
		}
		snprintf(text, sizeof(text), "random %u", i);
		if (!show(c, plt_unit_random(&c->seed) % 3 ? LENGTH_NATURAL : LENGTH_RANDOM, text))
			return;
	}
}

static void enumerate(struct cuts *c)
{
	unsigned keep;

	choose_all(c, true);
	if (!each_length(c, "all"))
		return;
	choose_all(c, false);
	if (!each_length(c, "nothing") || exhaust(c) || !by_tag(c) || !by_store(c))
		return;
	/* of a long window not each operation has its turn: start anywhere */
	keep = c->window_max;
	c->window_max = PLT_MAX(c->in_window, keep - keep / 4);
	for (size_t n = 0, i = plt_unit_random(&c->seed) % c->npending; n < c->npending; n++)
		if (!by_op(c, (i + n) % c->npending))
			break;
	c->window_max = keep;
	at_random(c, keep);
}

/* ---- windows --------------------------------------------------------------------------------- */

/* Is record @i covered by a sync that completed before record @limit? */
static bool durable_at(const struct cuts *c, size_t i, size_t limit)
{
	const struct plt_log_record *r = &c->rec[i];

	if (r->ended == UINT64_MAX)
		return false;
	for (size_t j = 0; j < limit; j++)
		if (c->rec[j].kind == PLT_LOG_SYNC && c->rec[j].store == r->store &&
		    c->rec[j].begun > r->ended)
			return true;
	return false;
}

static void add_op(struct cuts *c, size_t i, bool durable)
{
	struct op *o = &c->op[c->nop];
	const struct plt_log_record *r = &c->rec[i];

	*o = (struct op){.r = r,
			 .index = i,
			 .durable = durable,
			 .failed = r->ended == UINT64_MAX,
			 .resizes = r->kind != PLT_LOG_DISCARD};
	o->first = r->off / SECTOR;
	/* what changes no byte still is one choice */
	o->sectors = r->kind == PLT_LOG_TRUNCATE || r->kind == PLT_LOG_ALLOCATE || !r->len
			     ? 1
			     : (unsigned)((r->off + r->len - 1) / SECTOR - o->first + 1);
	o->in = need_memory(calloc(o->sectors, 1));
	if (!durable)
		c->pending[c->npending++] = c->nop;
	c->nop++;
}

/* The window that ends just before record @limit completes. */
static void one_window(struct cuts *c, size_t limit)
{
	uint64_t until = limit < c->nrec ? c->rec[limit].ended : UINT64_MAX;

	for (unsigned s = 0; s < c->nstores; s++) {
		memcpy(c->base[s].bytes, c->start[s].bytes, c->start[s].len);
		memset(c->base[s].bytes + c->start[s].len, 0, c->cap[s] - c->start[s].len);
		c->base[s].len = c->start[s].len;
	}
	c->nop = c->npending = 0;
	c->mark = 0;
	for (size_t i = 0; i < c->nrec; i++) {
		const struct plt_log_record *r = &c->rec[i];
		bool durable;

		if (r->kind == PLT_LOG_MARK && r->ended < until)
			c->mark = r->off;
		if (!is_change(r) || r->begun > until)
			continue;
		durable = durable_at(c, i, limit);
		if (durable && !c->nop)
			apply_whole(c, &c->base[r->store], r);
		else
			add_op(c, i, durable);
	}
	c->in_window = 0;
	if (c->npending)
		enumerate(c);
	else
		(void)show(c, LENGTH_NATURAL, "all is durable");
	for (size_t i = 0; i < c->nop; i++)
		free(c->op[i].in);
	c->window++;
	c->count.windows++;
}

/* Sectors that any state may need. */
static void measure(struct cuts *c)
{
	for (unsigned s = 0; s < c->nstores; s++)
		c->cap[s] = c->start[s].len;
	for (size_t i = 0; i < c->nrec; i++)
		if (is_change(&c->rec[i])) {
			assert((unsigned)c->rec[i].store < c->nstores);
			c->cap[c->rec[i].store] =
				PLT_MAX(c->cap[c->rec[i].store], end_of(&c->rec[i]));
		}
	for (unsigned s = 0; s < c->nstores; s++) {
		c->cap[s] = plt_align_up(c->cap[s] + 1, SECTOR);
		c->base[s].bytes = need_memory(calloc(1, c->cap[s]));
		c->disk[s].bytes = need_memory(calloc(1, c->cap[s]));
		c->need[s] = need_memory(calloc(1, c->cap[s] / SECTOR + 1));
	}
}

int powercut_each(struct plt_writelog *log, const struct powercut_disk *start, unsigned n,
		  const struct powercut_limits *limits,
		  int (*fn)(void *arg, const struct powercut_state *state), void *arg,
		  struct powercut_count *ret_count)
{
	struct cuts c = {.nstores = n, .fn = fn, .arg = arg, .seed = limits->seed};
	unsigned windows = 1;

	assert(n <= POWERCUT_STORES);
	c.nrec = plt_writelog_records(log, &c.rec);
	memcpy(c.start, start, n * sizeof(*start));
	measure(&c);
	c.op = need_memory(calloc(c.nrec + 1, sizeof(*c.op)));
	c.pending = need_memory(calloc(c.nrec + 1, sizeof(*c.pending)));
	for (size_t i = 0; i < c.nrec; i++)
		windows += c.rec[i].kind == PLT_LOG_SYNC;
	c.window_max = limits->window ? limits->window : 400;
	if (limits->total)
		c.window_max = PLT_MIN(c.window_max, PLT_MAX(limits->total / windows, 8u));
	for (size_t i = 0; !c.result && i < c.nrec; i++)
		if (c.rec[i].kind == PLT_LOG_SYNC)
			one_window(&c, i);
	if (!c.result)
		one_window(&c, c.nrec);
	for (unsigned s = 0; s < n; s++) {
		free(c.base[s].bytes);
		free(c.disk[s].bytes);
		free(c.need[s]);
	}
	free(c.op);
	free(c.pending);
	free(c.seen);
	if (ret_count)
		*ret_count = c.count;
	return c.result;
}
