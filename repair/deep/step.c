/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The steps: large pieces of the map first, then clusters, each as long as something is found to belong elsewhere;
 * in the end what could not be decided is named, so that nothing that the guest's structures refuse is shown in
 * silence.  While this goes on no count is lowered: what nothing reaches may be what is missing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "block/internal.h"
#include "formats/driver.h"
#include "repair/deep/deep.h"

#define TRIES_MAX 4 /* of one size of pieces */
#define USED_PART 8 /* of what a table maps, that the guest has in use: less is odd */
#define EMPTY_MAX (1u << 16)
#define SECTOR_ENTRIES 64 /* what is lost in one piece of less than that are entries, not a part of a table */

static const char why_refused[] = "the guest's structures do not verify here";
static const char why_hidden[] = "a zero flag hides data, and the guest has a file here";
static const char why_large[] = "its map is in too many pieces to be held against what the guest says of it";
static const char why_unused[] = "most of the map is lost, and what this part of it shows the guest has not in use";
static const char why_few[] = "most of the map is lost, and nearly all of this part of it";
static const char why_alone[] = "most of the map is lost, and no filesystem says what belongs here";
static const char why_crossed[] = "what lies here is like what lies below another place, and that there like what lies below this";
static const char why_exchanged[] = "what lies beside it runs on elsewhere on the host: two tables seem to be exchanged";
static const char why_empty[] = "of this table entries were lost, and clusters are left that nobody knows the place of";
static const char why_unmapped[] = "nothing is mapped, the guest has something here, and the data file, too";
static const char why_unshown[] = "of this table entries were lost, and the data file holds something where nothing is mapped";
static const char why_hole[] = "nothing is mapped, the guest has a file here, and clusters are left";

int plt_deep_open(struct plt_repair *rep, struct plt_store *overlay, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = plt_repair_how(rep, PLT_OPEN_FORCE_SHARE | (rep->no_backing ? PLT_OPEN_NO_BACKING : 0));
	int r;

	r = plt_repair_open_chain(rep, overlay, &o, ret, err);
	if (r == 0 && plt_deep_lacks_base(*ret)) { /* (what it does not have itself would look like a loss) */
		plt_disk_close(*ret, NULL);
		*ret = NULL;
		r = plt_error_set(err, ENOENT, "what lies below '%s' is not there", rep->name);
	}
	return r;
}

bool plt_deep_lacks_base(struct plt_disk *disk)
{
	for (const struct plt_image *img = plt_disk_image(disk); img; img = plt_image_backing(img))
		if (img->backing_name && !plt_image_backing(img))
			return true;
	return false;
}

/* ---- what stays in doubt -------------------------------------------------------------------------- */

struct naming {
	struct plt_repair *rep;
	struct plt_mend *mend;
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	uint64_t size;
};

static void say(struct naming *n, uint64_t off, uint64_t len, uint64_t all, const char *severity, const char *why)
{
	char text[256];
	struct plt_check_finding f = { .id = PLT_DEEP_DOUBT, .severity = severity, .guest_off = off, .guest_len = len,
				       .beyond_qemu = true, .text = text };

	snprintf(text, sizeof(text), "%s%" PRIu64 " bytes of the disk are in doubt, the first at guest offset %#" PRIx64 ": %s",
		 *severity == 'n' ? "" : "ERROR ", all, off, why);
	n->rep->before.added += *severity != 'n';
	if (n->found)
		n->found(n->arg, &f);
}

/* Not where something worse, or better founded, has been said. */
static int doubt(struct naming *n, const struct plt_extents *which, const char *why)
{
	uint64_t all = 0, first = 0, len = 0;
	int r = 0;

	for (size_t i = 0; i < which->n && r == 0; i++) {
		uint64_t at = which->v[i].off, end = PLT_MIN(at + which->v[i].len, n->size);

		while (at < end && r == 0) {
			const struct plt_doubt *d = plt_doubts_find(&n->mend->doubts, PLT_DISK_ACTIVE, at);
			struct plt_doubt new = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .off = at, .certainty = PLT_GUESS };

			if (d && d->off <= at) {
				at = d->off + d->len;
				continue;
			}
			new.len = (d ? PLT_MIN(end, d->off) : end) - at;
			snprintf(new.why, sizeof(new.why), "%s", why);
			if (!all) {
				first = at;
				len = new.len;
			}
			all += new.len;
			at += new.len;
			r = plt_doubts_set(&n->mend->doubts, &new);
		}
	}
	if (all)
		say(n, first, len, all, "corruption", why);
	return r;
}

/* Not what is known to be where it belongs. */
static int doubt_unknown(struct naming *n, const struct plt_extents *which, const struct plt_extents *known, const char *why)
{
	struct plt_extents v = PLT_EXTENTS_INIT;
	int r = 0;

	for (size_t i = 0; i < which->n && r == 0; i++)
		r = plt_extents_add(&v, which->v[i].off, which->v[i].len);
	for (size_t i = 0; i < known->n && r == 0; i++)
		r = plt_extents_remove(&v, known->v[i].off, known->v[i].len);
	if (r == 0)
		r = doubt(n, &v, why);
	plt_extents_release(&v);
	return r;
}

static int name(struct naming *n, const struct deep_suspects *who, const struct plt_extents *known)
{
	int r = doubt_unknown(n, &who->accused, known, why_refused);

	return r < 0 ? r : doubt(n, &who->hidden, why_hidden);
}

/* Are more clusters left than entries are known to have been lost one by one, and files have holes? */
static bool is_more_left(const struct plt_mend *mend, const struct plt_extents *holes, const struct deep_map *m)
{
	uint64_t lost = 0;

	for (size_t i = 0; i < mend->doubts.n; i++) {
		const struct plt_doubt *d = &mend->doubts.v[i];

		if (d->disk == PLT_DISK_ACTIVE && d->kind == PLT_LOST && d->len < SECTOR_ENTRIES * m->span)
			lost += d->len;
	}
	for (size_t i = 0; i < holes->n; i++)
		lost += holes->v[i].len;
	return mend->clusters.n > lost / m->span;
}

/*
 * Where a table has lost entries, others that are empty may have been lost, too, if more clusters are left: the guest
 * has nothing there, but a file that it has deleted.  Each table in whose span anything is in doubt.
 */
static int name_empty(struct naming *n, const struct deep_map *m, const struct deep_map *pieces,
		      const struct plt_extents *holes)
{
	struct plt_extents empty = PLT_EXTENTS_INIT;
	int r = 0;

	if (m->span == pieces->span || !is_more_left(n->mend, holes, m))
		return 0;
	for (size_t i = 0; i < pieces->n && r == 0 && empty.n < EMPTY_MAX; i++) {
		uint64_t at = pieces->v[i].guest, end = at + pieces->v[i].len;
		const struct plt_doubt *d = plt_doubts_find(&n->mend->doubts, PLT_DISK_ACTIVE, at);

		if (!d || d->off >= end)
			continue;
		for (size_t k = plt_deep_run(m, at); at < end && r == 0 && empty.n < EMPTY_MAX; k++) {
			const struct deep_run *run = k < m->n && m->v[k].guest < end ? &m->v[k] : NULL;

			if (!run || run->guest > at)
				r = plt_extents_add(&empty, at, (run ? run->guest : end) - at);
			at = run ? run->guest + run->len : end;
		}
	}
	if (r == 0)
		r = doubt(n, &empty, why_empty);
	plt_extents_release(&empty);
	return r;
}

/* Tables that seem to be exchanged, and that no evidence knows to be where they belong. */
static int name_exchanges(struct naming *n, const struct deep_suspects *who, const struct plt_extents *known, uint64_t span)
{
	struct plt_extents both = PLT_EXTENTS_INIT;
	int r = 0;

	for (unsigned i = 0; i < who->nexchanges && r == 0; i++) {
		const struct deep_exchange *x = &who->exchanges[i];

		if (plt_extents_overlaps(known, x->a, span) || plt_extents_overlaps(known, x->b, span))
			continue;
		r = plt_extents_add(&both, x->a, span);
		if (r == 0)
			r = plt_extents_add(&both, x->b, span);
	}
	if (r == 0)
		r = doubt(n, &both, why_exchanged);
	plt_extents_release(&both);
	return r < 0 ? r : doubt_unknown(n, &who->crossed, known, why_crossed);
}

/* What is mapped as data and not in doubt: what evidence has put into a table says nothing of the rest of it. */
static int undoubted(const struct deep_map *m, const struct plt_doubts *d, struct plt_extents *ret)
{
	int r = 0;

	for (size_t i = 0; i < m->n; i++) {
		const uint64_t end = m->v[i].guest + m->v[i].len;

		for (uint64_t at = m->v[i].guest, to; at < end && r == 0 && m->v[i].kind == DEEP_DATA; at = to) {
			const struct plt_doubt *next = plt_doubts_find(d, PLT_DISK_ACTIVE, at);
			bool inside = next && next->off <= at;

			to = inside ? PLT_MIN(end, next->off + next->len) : next ? PLT_MIN(end, next->off) : end;
			r = inside ? 0 : plt_extents_add(ret, at, to - at);
		}
	}
	return r;
}

/* Bytes of [from, end) that are in one of the ranges of both; @b may be NULL: of @a. */
static uint64_t in_both(const struct plt_extents *a, const struct plt_extents *b, uint64_t from, uint64_t end)
{
	const struct plt_range *v;
	uint64_t n = 0;

	for (uint64_t at = from; at < end && (v = plt_extents_find(a, at)) && v->off < end; at = v->off + v->len) {
		const uint64_t first = PLT_MAX(at, v->off), last = PLT_MIN(end, v->off + v->len);

		n += b ? in_both(b, NULL, first, last) : last - first;
	}
	return n;
}

static uint64_t in_doubt(const struct plt_doubts *d, uint64_t from, uint64_t end)
{
	const struct plt_doubt *v;
	uint64_t n = 0;

	for (uint64_t at = from; at < end && (v = plt_doubts_find(d, PLT_DISK_ACTIVE, at)) && v->off < end; at = v->off + v->len)
		n += PLT_MIN(end, v->off + v->len) - PLT_MAX(at, v->off);
	return n;
}

/*
 * Where more of the map is lost than is there, and no filesystem says that what is there lies where it should: tables that
 * are whole by their shape may be copies that were written over others, and what they leave empty may have been mapped.
 * Where there is a filesystem, those that map hardly anything that it has in use, and those of which hardly anything is
 * not in doubt.
 */
static int name_all(struct naming *n, const struct deep_survey *s, const struct deep_map *m, const struct deep_map *pieces)
{
	const struct plt_doubts *d = &n->mend->doubts;
	struct plt_extents all = PLT_EXTENTS_INIT, few = PLT_EXTENTS_INIT, own = PLT_EXTENTS_INIT;
	uint64_t lost = 0, there = 0;
	int r;

	for (size_t i = 0; i < d->n; i++)
		if (d->v[i].kind == PLT_LOST && d->v[i].disk == PLT_DISK_ACTIVE)
			lost += d->v[i].len;
	for (size_t i = 0; i < m->n; i++)
		there += m->v[i].len;
	if (!there || lost <= there || (s->any && !pieces->n))
		return 0;
	if (!pieces->n)
		pieces = m;
	r = undoubted(m, d, &own);
	for (size_t i = 0; i < pieces->n && r == 0; i++) {
		const uint64_t from = pieces->v[i].guest, end = from + pieces->v[i].len;

		const uint64_t shown = in_both(&own, NULL, from, end);

		if (!s->any || (in_both(&own, &s->data, from, end) + in_both(&own, &s->sure, from, end)) * USED_PART < shown)
			r = plt_extents_add(&all, from, end - from);
		else if (shown && shown * USED_PART < in_doubt(d, from, end))
			r = plt_extents_add(&few, from, end - from);
	}
	if (r == 0)
		r = doubt(n, &all, s->any ? why_unused : why_alone);
	if (r == 0)
		r = doubt(n, &few, why_few);
	plt_extents_release(&few);
	plt_extents_release(&own);
	plt_extents_release(&all);
	return r;
}

/*
 * What an external data file holds and the map does not show.  *ret_n: moves that bring it back; what there are none for
 * is named.
 */
static int look_beside(struct plt_repair *rep, struct plt_mend *mend, const struct deep_steps *st, struct plt_disk *disk,
		       const struct deep_survey *s, struct naming *n, const struct deep_map *clusters, uint64_t table,
		       struct plt_move **ret, size_t *ret_n, struct plt_error *err)
{
	struct plt_extents used = PLT_EXTENTS_INIT, rest = PLT_EXTENTS_INIT;
	bool better = false;
	int r = plt_deep_unmapped(disk, s, clusters, &used);

	if (r == 0 && used.n && st->tries < TRIES_MAX && rep->trust <= PLT_STRONG) {
		free(*ret);
		r = plt_deep_map_unmapped(&used, clusters->span, n->size, ret, ret_n);
		if (r == 0)
			r = plt_deep_try(rep, mend, disk, clusters->span, *ret, *ret_n, &better, err);
		if (!better)
			*ret_n = 0;
	}
	if (r == 0 && !better)
		r = doubt(n, &used, why_unmapped);
	if (r == 0 && !better)
		r = plt_deep_beside_doubts(disk, &mend->doubts, table, clusters, &rest);
	if (r == 0)
		r = doubt(n, &rest, why_unshown);
	plt_extents_release(&used);
	plt_extents_release(&rest);
	return r;
}

/* ---- a step ---------------------------------------------------------------------------------------- */

enum { BEGIN, PIECES, CLUSTERS, END };

/* Does anything that nothing reaches lie below what is mapped?  What a program that was stopped leaves lies behind it. */
static bool is_left_below(const struct deep_map *m, const struct plt_orphans *left)
{
	for (size_t i = 0; i < left->n; i++)
		if (left->v[i].host_off < m->highest)
			return true;
	return false;
}

static bool has_reason(const struct deep_survey *s)
{
	return s->any || s->nbad || s->nodd || s->starts.n;
}

/* Pieces of one size: 1, and what is to be moved is in @mend. */
static int look(struct plt_repair *rep, struct plt_mend *mend, struct deep_steps *st, struct plt_disk *disk,
		struct deep_survey *s, struct naming *n, struct plt_error *err)
{
	struct deep_map clusters, pieces;
	const struct deep_map *m = st->phase == PIECES ? &pieces : &clusters;
	struct plt_extents known = PLT_EXTENTS_INIT;
	struct deep_suspects who = { 0 };
	size_t nmoves = 0;
	int r = plt_deep_map(rep, disk, false, &clusters, err);

	if (r == -EFBIG) { /* in more pieces than there is memory for */
		say(n, 0, n->size, n->size, "note", why_large);
		return 0;
	}
	if (r < 0)
		return r;
	r = plt_deep_map(rep, disk, true, &pieces, err);
	if (r == 0 && clusters.span != pieces.span)
		r = plt_deep_whole(&clusters, err);
	if (r < 0) {
		plt_deep_map_release(&pieces);
		plt_deep_map_release(&clusters);
		return r;
	}
	if (st->phase == CLUSTERS && clusters.span == pieces.span) /* they are the same */
		m = &pieces;
	r = plt_deep_beginning(disk, pieces.n ? &pieces : &clusters, s);
	if (r == 0 && has_reason(s))
		r = plt_deep_suspects(rep, mend, disk, s, m, &clusters, &who, err);
	if (r == 0 && has_reason(s) && m->span && st->tries < TRIES_MAX && (st->phase == PIECES || m == &clusters))
		r = plt_deep_moves(rep, mend, disk, m, &clusters, &who, &st->moves, &nmoves, &known, err);
	if (r == 0 && !nmoves && st->phase == CLUSTERS && has_reason(s))
		r = look_beside(rep, mend, st, disk, s, n, &clusters, pieces.span, &st->moves, &nmoves, err);
	mend->moves = st->moves;
	mend->nmoves = r == 0 ? nmoves : 0;
	mend->move_span = m->span;
	if (r == 0 && !nmoves && m->tables)
		r = name_exchanges(n, &who, &known, m->span);
	if (r == 0 && !nmoves && st->phase == CLUSTERS) {
		r = name(n, &who, &known);
		if (r == 0 && is_left_below(&clusters, m->tables ? &mend->pieces : &mend->clusters)) {
			r = doubt(n, &who.holes, why_hole);
			if (r == 0)
				r = name_empty(n, &clusters, &pieces, &who.holes);
		}
		if (r == 0)
			r = name_all(n, s, &clusters, &pieces);
	}
	plt_deep_suspects_release(&who);
	plt_extents_release(&known);
	plt_deep_map_release(&clusters);
	plt_deep_map_release(&pieces);
	return r < 0 ? r : nmoves > 0;
}

/* What the guest refuses may be the fault of a layer below: then that one is read as a rescue shows it. */
static int open_to_look(struct plt_repair *rep, struct plt_disk **ret, struct deep_survey *s)
{
	for (;;) {
		const bool asked = rep->below != PLT_BELOW_UNKNOWN;
		int r = plt_deep_open(rep, rep->overlay, ret, NULL);

		if (r < 0)
			return r;
		r = plt_deep_survey(*ret, s, NULL);
		if (r == 0 && (asked || rep->below != PLT_BELOW_UNKNOWN || (!s->nbad && !plt_repair_is_damaged(&rep->before)) ||
			       !plt_repair_ask_below(rep, *ret)))
			return 0;
		plt_deep_survey_release(s);
		*s = (struct deep_survey){ 0 };
		plt_disk_close(*ret, NULL);
		if (r < 0)
			return r;
	}
}

int plt_deep_step(struct plt_repair *rep, struct plt_mend *mend, struct deep_steps *st,
		  void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct naming n = { .rep = rep, .mend = mend, .found = found, .arg = arg };
	struct deep_survey s = { 0 };
	struct plt_disk *disk;
	int r;

	free(st->moves);
	st->moves = NULL;
	if (st->phase == BEGIN) { /* the driver says what it knows of */
		st->phase = PIECES;
		mend->deep = mend->changed = true;
		return 0;
	}
	r = open_to_look(rep, &disk, &s);
	if (r < 0) { /* what does not open cannot be looked at */
		st->phase = END;
		return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : 0;
	}
	n.size = plt_disk_size(disk);
	while (r == 0 && st->phase < END) {
		r = look(rep, mend, st, disk, &s, &n, err);
		if (r == 0) {
			st->phase++;
			st->tries = 0;
		}
	}
	if (r > 0) {
		st->tries++;
		mend->changed = true;
	} else {
		st->phase = END;
	}
	plt_deep_survey_release(&s);
	plt_disk_close(disk, NULL);
	return r < 0 ? r : 0;
}
