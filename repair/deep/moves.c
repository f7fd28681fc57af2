/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What belongs in the suspect places instead: their pieces are taken out, in thought, and together with what nothing
 * reaches are offered to the search for places (repair/evidence/).  What it is sure of and finds elsewhere is a move.
 *
 * The invariant: moves that the guest's structures do not confirm are not made.  They are tried out on an overlay of
 * their own, and only if more verifies then than before, and nothing less, they are handed on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/driver.h"
#include "repair/deep/deep.h"

#define PIECES_MAX (1u << 20)
#define EXCHANGES_MAX 4096

struct puzzle {
	const struct deep_map *m, *clusters;
	const struct plt_mend *mend;
	struct plt_orphans o;      /* .guest_off: the place that shows it now */
	size_t cap, gaps_cap;
};

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int by_host(const void *a, const void *b)
{
	const struct plt_orphan *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

static int add_piece(struct puzzle *p, uint64_t host, uint64_t guest)
{
	if (p->o.n == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 64;
		void *v = p->cap < PIECES_MAX ? realloc(p->o.v, cap * sizeof(*p->o.v)) : NULL;

		if (!v)
			return -ENOMEM;
		p->o.v = v;
		p->cap = cap;
	}
	p->o.v[p->o.n++] = (struct plt_orphan){ .host_off = host, .guest_off = guest };
	return 0;
}

static int add_place(struct puzzle *p, uint64_t guest)
{
	if (p->o.ngaps == p->gaps_cap) {
		size_t cap = p->gaps_cap ? 2 * p->gaps_cap : 64;
		void *v = p->gaps_cap < 4 * PIECES_MAX ? realloc(p->o.gaps, cap * sizeof(*p->o.gaps)) : NULL;

		if (!v)
			return -ENOMEM;
		p->o.gaps = v;
		p->gaps_cap = cap;
	}
	p->o.gaps[p->o.ngaps++] = guest;
	return 0;
}

/* The places, and what lies there. */
static int add_places(struct puzzle *p, const struct plt_extents *which, bool hidden, uint64_t size)
{
	int r = 0;

	for (size_t i = 0; i < which->n && r == 0; i++)
		for (uint64_t at = which->v[i].off; at < which->v[i].off + which->v[i].len && at < size && r == 0; at += p->m->span) {
			uint64_t host;
			enum deep_kind kind = plt_deep_at(p->m, at, &host);

			if (kind == DEEP_OTHER)
				continue;
			r = add_place(p, at);
			if (r == 0 && host != DEEP_NOWHERE && (kind == DEEP_DATA || hidden))
				r = add_piece(p, host, at);
		}
	return r;
}

/* Each place once, each piece once. */
static void settle(struct puzzle *p)
{
	size_t n = 0;

	if (p->o.ngaps)
		qsort(p->o.gaps, p->o.ngaps, sizeof(*p->o.gaps), by_value);
	for (size_t i = 0; i < p->o.ngaps; i++)
		if (!n || p->o.gaps[i] != p->o.gaps[n - 1])
			p->o.gaps[n++] = p->o.gaps[i];
	p->o.ngaps = n;
	if (p->o.n)
		qsort(p->o.v, p->o.n, sizeof(*p->o.v), by_host);
	n = 0;
	for (size_t i = 0; i < p->o.n; i++)
		if (!n || p->o.v[i].host_off != p->o.v[n - 1].host_off)
			p->o.v[n++] = p->o.v[i];
	p->o.n = n;
}

static int lay_out(struct puzzle *p, struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk,
		   const struct deep_suspects *who)
{
	const struct plt_orphans *left = p->m->tables ? &mend->pieces : &mend->clusters;
	uint64_t size = plt_disk_size(disk);
	int r = add_places(p, &who->accused, false, size);

	if (r == 0)
		r = add_places(p, &who->others, false, size);
	if (r == 0)
		r = add_places(p, &who->holes, false, size);
	if (r == 0)
		r = add_places(p, &who->hidden, true, size);
	if (r < 0 || left->span != p->m->span || !left->n || (!p->m->tables && plt_repair_any_packed(rep, disk, left)))
		return r;
	for (size_t i = 0; i < left->n && r == 0; i++)
		if (left->v[i].guest_off == PLT_UNPLACED)
			r = add_piece(p, left->v[i].host_off, PLT_UNPLACED);
	return r;
}

/* ---- which moves ---------------------------------------------------------------------------------- */

static int by_guest(const void *a, const void *b)
{
	const struct plt_move *x = a, *y = b;

	return x->guest_off < y->guest_off ? -1 : x->guest_off > y->guest_off;
}

/* Is one of them to this place?  They are in order. */
static bool is_target(const struct plt_move *v, size_t n, uint64_t guest)
{
	const struct plt_move key = { .guest_off = guest };

	return n && bsearch(&key, v, n, sizeof(*v), by_guest);
}

/*
 * A place whose piece goes elsewhere and that gets none would show what is not its own: a move that leaves such a one
 * is not made, unless what it holds is an orphan or was hidden.
 */
static size_t drop_open(const struct deep_map *m, struct plt_move *v, size_t n)
{
	size_t before;

	do {
		size_t k = 0;

		before = n;
		for (size_t i = 0; i < n; i++) {
			uint64_t host;
			bool stays = v[i].from == PLT_UNPLACED || v[i].from == v[i].guest_off ||
				     plt_deep_at(m, v[i].from, &host) != DEEP_DATA || is_target(v, n, v[i].from);

			if (stays)
				v[k++] = v[i];
		}
		n = k;
	} while (n != before);
	return n;
}

/*
 * Is the table that a place shows one that was made meanwhile, mostly of single clusters?  They were found to belong there:
 * it goes nowhere else, and gives way to what belongs there as a whole.
 */
static bool is_made_anew(const struct puzzle *p, uint64_t guest, uint64_t host)
{
	const uint64_t end = guest + p->m->span;
	uint64_t found = 0, all = 0;

	if (!p->m->tables || host < p->mend->file_size)
		return false;
	for (size_t i = plt_deep_run(p->clusters, guest); i < p->clusters->n && p->clusters->v[i].guest < end; i++) {
		const struct deep_run *run = &p->clusters->v[i];

		if (run->kind == DEEP_DATA)
			all += PLT_MIN(end, run->guest + run->len) - PLT_MAX(guest, run->guest);
	}
	for (uint64_t at = guest; at < end;) {
		const struct plt_doubt *d = plt_doubts_find(&p->mend->doubts, PLT_DISK_ACTIVE, at);

		if (!d || d->off >= end)
			break;
		if (d->kind == PLT_INFERRED && d->certainty >= PLT_LIKELY)
			found += PLT_MIN(end, d->off + d->len) - PLT_MAX(at, d->off);
		at = d->off + d->len;
	}
	return 2 * found >= all;
}

/*
 * Of two pieces that were exchanged often only one says where it belongs; the other had its place: likely, and nothing
 * else is left for it.
 */
static size_t close_exchanges(const struct puzzle *p, struct plt_move *v, size_t n, size_t room)
{
	const struct deep_map *m = p->m;
	uint64_t *moved = malloc((room + 1) * sizeof(*moved));
	size_t k = n;

	for (size_t i = 0; i < n && moved; i++)
		moved[i] = v[i].host_off;
	if (moved && n)
		qsort(moved, n, sizeof(*moved), by_value);
	for (size_t i = 0; i < n && k < room && k - n < EXCHANGES_MAX && moved; i++) {
		uint64_t host, from;
		bool again = false;

		if (v[i].from == PLT_UNPLACED || v[i].from == v[i].guest_off || plt_deep_at(m, v[i].from, &from) != DEEP_DATA ||
		    is_target(v, n, v[i].from) || plt_deep_at(m, v[i].guest_off, &host) != DEEP_DATA ||
		    bsearch(&host, moved, n, sizeof(*moved), by_value))
			continue;
		for (size_t j = n; j < k && !again; j++)
			again = v[j].host_off == host || v[j].guest_off == v[i].from;
		if (again)
			continue;
		v[k] = (struct plt_move){ .host_off = host, .guest_off = v[i].from, .from = v[i].guest_off, .certainty = PLT_LIKELY };
		if (is_made_anew(p, v[i].guest_off, host))
			v[k].host_off = v[k].from = PLT_UNPLACED;
		snprintf(v[k].why, sizeof(v[k].why), "%s", v[k].host_off == PLT_UNPLACED ?
			 "its own table was overwritten by another's" :
			 "it lay in the place of what lies here: they were exchanged");
		k++;
	}
	free(moved);
	if (k > n)
		qsort(v, k, sizeof(*v), by_guest);
	return k;
}

/*
 * What another copy of the map says, and the counts: where something else is mapped, that is one too many; where nothing
 * is, the guest has to have something there.
 */
static size_t known_moves(const struct puzzle *p, const struct plt_orphans *left, const struct deep_suspects *who,
			  struct plt_move *ret, size_t n, const struct plt_move *before)
{
	size_t k = 0;

	for (size_t i = 0; i < left->n; i++) {
		uint64_t at = left->v[i].guest_off, host;
		bool taken = at == PLT_UNPLACED || (k && ret[k - 1].guest_off == at);

		for (size_t j = 0; j < n && !taken && n < EXCHANGES_MAX; j++)
			taken = before[j].guest_off == at || before[j].host_off == left->v[i].host_off;
		if (taken || left->span != p->m->span || n >= EXCHANGES_MAX)
			continue;
		if (plt_deep_at(p->m, at, &host) == DEEP_ABSENT ? plt_extents_overlaps(&who->holes, at, 1) : host != DEEP_NOWHERE) {
			ret[k] = (struct plt_move){ .host_off = left->v[i].host_off, .guest_off = at, .from = PLT_UNPLACED,
						    .certainty = PLT_STRONG };
			snprintf(ret[k].why, sizeof(ret[k].why), "a snapshot has it there, and it is counted once more than it is named");
			k++;
		}
	}
	return k;
}

static size_t choose(struct plt_repair *rep, const struct puzzle *p, const struct plt_placement *v, uint32_t n,
		     const struct plt_orphans *left, const struct deep_suspects *who, struct plt_move *moves, size_t room,
		     struct plt_extents *ret_known)
{
	size_t k = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct plt_orphan *o = &p->o.v[v[i].object];
		uint64_t host;
		enum deep_kind kind = plt_deep_at(p->m, v[i].slot, &host);
		struct plt_move *t = &moves[k];

		if (kind == DEEP_DATA && host == o->host_off) {
			if (v[i].certainty >= PLT_STRONG)
				(void)plt_extents_add(ret_known, v[i].slot, p->m->span);
			continue;
		}
		if ((o->guest_off != PLT_UNPLACED && is_made_anew(p, o->guest_off, o->host_off)) ||
		    !plt_repair_wants(rep, &p->o, &v[i]))
			continue;
		*t = (struct plt_move){ .host_off = o->host_off, .guest_off = v[i].slot, .from = o->guest_off,
					.certainty = v[i].certainty };
		snprintf(t->why, sizeof(t->why), "%s", v[i].why);
		k++;
	}
	k += known_moves(p, left, who, moves + k, k, moves);
	if (k)
		qsort(moves, k, sizeof(*moves), by_guest);
	return drop_open(p->m, moves, close_exchanges(p, moves, k, room));
}

/* ---- trying ---------------------------------------------------------------------------------------- */

static size_t tails_right(const struct deep_survey *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->ntails; i++)
		n += s->tails[i].right;
	return n;
}

/*
 * More may be bad than was, where it could not be seen before: a filesystem that has its beginning again.  Where the metadata
 * has become better the ends of files are those of another version of it, and that fewer are right says little.
 */
static bool is_better(const struct deep_survey *before, const struct deep_survey *after)
{
	size_t tails = tails_right(after), had = tails_right(before);

	if (after->any && !before->any && after->starts.n < before->starts.n) /* a partition's filesystem has its beginning: */
		return after->good >= before->good && after->nbad <= before->nbad; /* the rest may be missing, too */
	if (after->any && !before->any) /* there is a disk now */
		return after->good > before->good && after->good > after->nbad;
	if (after->starts.n != before->starts.n)
		return after->starts.n < before->starts.n && after->good > before->good;
	if (after->good > before->good && after->nbad <= before->nbad && after->nodd <= before->nodd &&
	    after->nbad + after->nodd < before->nbad + before->nodd)
		return tails + had / 10 >= had;
	return after->good >= before->good && after->nbad <= before->nbad && tails >= had &&
	       (after->nodd <= before->nodd || after->nbad < before->nbad);
}

int plt_deep_try(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk, uint64_t span,
		 const struct plt_move *v, size_t n, bool *ret, struct plt_error *err)
{
	struct plt_mend trial = { .what = PLT_MEND_MAP, .stage = PLT_MEND_CLUSTERS, .file_size = mend->file_size, .moves = v,
				  .nmoves = n, .move_span = span };
	struct deep_survey before, after;
	struct plt_store *scratch = NULL;
	struct plt_check_result res;
	struct plt_disk *then = NULL;
	int r = plt_overlay_new(rep->overlay, true, &scratch);

	*ret = false;
	if (r == 0)
		r = plt_mend_store(rep->ctx, scratch, rep->name, rep->format, &trial, NULL, NULL, &res, NULL);
	if (r == 0)
		r = plt_deep_open(rep, scratch, &then, NULL);
	if (r == 0) {
		r = plt_deep_survey(disk, &before, err);
		if (r == 0) {
			r = plt_deep_survey(then, &after, err);
			if (r == 0) {
				*ret = trial.changed && is_better(&before, &after);
				plt_deep_survey_release(&after);
			}
			plt_deep_survey_release(&before);
		}
	} else if (r != -ENOMEM) {
		r = 0; /* what does not open is not better */
	}
	if (then)
		plt_disk_close(then, NULL);
	plt_mend_release(&trial);
	plt_store_unref(scratch);
	return r;
}

/* The piece that lies at a place; UINT32_MAX: none. */
static uint32_t piece_at(const struct puzzle *p, uint64_t guest)
{
	for (size_t i = 0; i < p->o.n; i++)
		if (p->o.v[i].guest_off == guest)
			return (uint32_t)i;
	return UINT32_MAX;
}

/* What the order along the host says of two places, where evidence says nothing of either. */
static int add_exchanges(const struct puzzle *p, const struct deep_suspects *who, struct plt_placement **v, uint32_t *n)
{
	struct plt_placement *all = realloc(*v, ((size_t)*n + 2 * DEEP_EXCHANGES) * sizeof(*all));
	const uint32_t known = *n;

	if (!all)
		return -ENOMEM;
	*v = all;
	for (unsigned i = 0; i < who->nexchanges; i++) {
		const uint64_t slots[2] = { who->exchanges[i].a, who->exchanges[i].b };
		const uint32_t objects[2] = { piece_at(p, slots[1]), piece_at(p, slots[0]) };
		bool said = objects[0] == UINT32_MAX || objects[1] == UINT32_MAX;

		for (uint32_t k = 0; k < known && !said; k++)
			said = all[k].slot == slots[0] || all[k].slot == slots[1] || all[k].object == objects[0] ||
			       all[k].object == objects[1];
		for (unsigned k = 0; k < 2 && !said; k++) {
			all[*n] = (struct plt_placement){ .object = objects[k], .slot = slots[k],
							  .certainty = who->exchanges[i].sure ? PLT_STRONG : PLT_LIKELY };
			snprintf(all[(*n)++].why, sizeof(all->why), "what lies beside it in the guest runs on there, on the host");
		}
	}
	return 0;
}

int plt_deep_moves(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk,
		   const struct deep_map *m, const struct deep_map *clusters, const struct deep_suspects *who,
		   struct plt_move **ret, size_t *ret_n, struct plt_extents *ret_known, struct plt_error *err)
{
	struct puzzle p = { .m = m, .clusters = clusters, .mend = mend, .o.span = m->span };
	struct plt_placement *v = NULL;
	uint32_t n = 0;
	const struct plt_orphans *left = m->tables ? &mend->pieces : &mend->clusters;
	size_t room = 0;
	bool better = false;
	int r = lay_out(&p, rep, mend, disk, who);

	*ret = NULL;
	*ret_n = 0;
	if (r == 0) {
		settle(&p);
		r = plt_repair_ask(rep, disk, &p.o, &v, &n, err);
		if (r == 0)
			r = add_exchanges(&p, who, &v, &n);
		room = 2 * (size_t)n + left->n + 1;
	}
	if (r == 0)
		*ret = calloc(room, sizeof(**ret));
	if (r == 0 && !*ret)
		r = -ENOMEM;
	if (r == 0)
		*ret_n = choose(rep, &p, v, n, left, who, *ret, room, ret_known);
	if (r == 0 && *ret_n)
		r = plt_deep_try(rep, mend, disk, m->span, *ret, *ret_n, &better, err);
	if (r < 0 || !better) {
		free(*ret);
		*ret = NULL;
		*ret_n = 0;
	}
	free(v);
	free(p.o.v);
	free(p.o.gaps);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
}
