/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Places of the map upon which what the guest says casts doubt.  To be a suspect costs nothing but a look: what is found
 * to belong where it is stays there, and is named only if the guest's structures refuse it.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "block/internal.h"
#include "guestfs/guestfs.h"
#include "repair/deep/deep.h"

#define HOLES_MAX (UINT64_C(1) << 20)  /* places */
#define HIDDEN_MAX (UINT64_C(1) << 16)
#define HIDDEN_FEW 16
#define UNSURE_MAX 4096
#define BEGINNINGS_MAX (UINT64_C(1) << 16)
#define EMPTY_PART 4                   /* of the files' blocks in a table's span, that are not mapped: a quarter is odd */

void plt_deep_suspects_release(struct deep_suspects *s)
{
	plt_extents_release(&s->accused);
	plt_extents_release(&s->others);
	plt_extents_release(&s->holes);
	plt_extents_release(&s->hidden);
	plt_extents_release(&s->crossed);
}

/* Whole pieces. */
static int add(const struct deep_map *m, struct plt_extents *to, uint64_t off, uint64_t len)
{
	uint64_t first = plt_align_down(off, m->span);

	return len ? plt_extents_add(to, first, plt_align_up(off + len, m->span) - first) : 0;
}

static int add_all(const struct deep_map *m, struct plt_extents *to, const struct plt_extents *from)
{
	int r = 0;

	for (size_t i = 0; i < from->n && r == 0; i++)
		r = add(m, to, from->v[i].off, from->v[i].len);
	return r;
}

/* Bytes of [from, end) that are mapped. */
static uint64_t mapped(const struct deep_map *m, uint64_t from, uint64_t end)
{
	uint64_t n = 0;

	for (size_t i = plt_deep_run(m, from); i < m->n && m->v[i].guest < end; i++)
		n += PLT_MIN(end, m->v[i].guest + m->v[i].len) - PLT_MAX(from, m->v[i].guest);
	return n;
}

/* Tables that map little of what the guest has there: perhaps another's. */
static int add_empty(const struct deep_map *m, const struct deep_map *clusters, const struct deep_survey *s,
		     struct plt_extents *to)
{
	int r = 0;

	for (size_t i = 0, k = 0; i < m->n && r == 0; i++) {
		uint64_t from = m->v[i].guest, end = from + m->span, have = 0, all = 0;

		while (k < s->data.n && s->data.v[k].off + s->data.v[k].len <= from)
			k++;
		for (size_t d = k; d < s->data.n && s->data.v[d].off < end; d++) {
			uint64_t a = PLT_MAX(s->data.v[d].off, from), b = PLT_MIN(s->data.v[d].off + s->data.v[d].len, end);

			all += b - a;
			have += mapped(clusters, a, b);
		}
		if (all && (all - have) * EMPTY_PART >= all)
			r = plt_extents_add(to, from, m->span);
	}
	return r;
}

static int by_off(const void *a, const void *b)
{
	const struct deep_tail *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* Pieces in which files do not end where they should, while they do elsewhere. */
static int add_by_tails(const struct deep_map *m, struct deep_survey *s, struct plt_extents *to)
{
	size_t right = 0;
	int r = 0;

	for (size_t i = 0; i < s->ntails; i++)
		right += s->tails[i].right;
	if (right < 8 || right * 2 < s->ntails)
		return 0;
	qsort(s->tails, s->ntails, sizeof(*s->tails), by_off);
	for (size_t i = 0, k; i < s->ntails && r == 0; i = k) {
		uint64_t at = plt_align_down(s->tails[i].off, m->span);
		size_t good = 0;

		for (k = i; k < s->ntails && s->tails[k].off - at < m->span; k++)
			good += s->tails[k].right;
		if (good < k - i - good)
			r = plt_extents_add(to, at, m->span);
	}
	return r;
}

/* Pieces of which no metadata verifies: what is wrong at one place may be right at theirs. */
static int add_unsure(const struct deep_map *m, const struct deep_survey *s, struct plt_extents *to)
{
	int r = 0;

	for (size_t i = 0; i < m->n && r == 0 && m->n <= UNSURE_MAX; i++)
		if (!plt_extents_overlaps(&s->sure, m->v[i].guest, m->span))
			r = plt_extents_add(to, m->v[i].guest, m->span);
	return r;
}

/*
 * Places at which nothing is mapped, and the guest has something: up to a number.  Over a layer below not those that
 * the metadata lies in.
 */
static int find_holes(const struct deep_map *m, const struct plt_extents *said, const struct plt_extents *sure,
		      struct plt_extents *ret)
{
	uint64_t n = 0;
	int r = 0;

	for (size_t i = 0; i < said->n && n < HOLES_MAX && r == 0; i++) {
		uint64_t at = plt_align_down(said->v[i].off, m->span), end = said->v[i].off + said->v[i].len;

		for (size_t k = plt_deep_run(m, at); at < end && n < HOLES_MAX && r == 0;) {
			const struct deep_run *run = k < m->n ? &m->v[k] : NULL;
			bool in = run && run->guest <= at;

			if (in && !(run->kind == DEEP_ZERO && run->host == DEEP_NOWHERE)) {
				at = run->guest + run->len;
				k++;
				continue;
			}
			if (!sure || !plt_extents_overlaps(sure, at, m->span)) {
				r = plt_extents_add(ret, at, m->span);
				n++;
			}
			at += m->span;
			k += in && run->guest + run->len <= at;
		}
	}
	return r;
}

/* A zero flag over a cluster that holds something, where a file or metadata should be: many are no suspects. */
static int find_hidden(struct plt_repair *rep, const struct deep_map *m, const struct deep_survey *s, struct plt_extents *ret)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(m->span);
	uint64_t n = 0, reads = 0;
	int r = buf ? 0 : -ENOMEM;

	for (size_t i = 0; i < m->n && r == 0; i++)
		for (uint64_t at = 0; m->v[i].kind == DEEP_ZERO && m->v[i].host != DEEP_NOWHERE && at < m->v[i].len &&
		     reads < HIDDEN_MAX && r == 0; at += m->span) {
			uint64_t guest = m->v[i].guest + at;

			if (!plt_extents_overlaps(&s->data, guest, m->span) && !plt_extents_overlaps(&s->bad, guest, m->span))
				continue;
			reads++;
			if (plt_store_read(rep->overlay, m->v[i].host + at, buf, m->span, PLT_IO_DATA, NULL) < 0 ||
			    plt_is_zero(buf, m->span))
				continue;
			r = plt_extents_add(ret, guest, m->span);
			n++;
		}
	/* programs that make flags of the zeros that a guest writes leave as many as there were zeros */
	for (size_t i = ret->n; n > HIDDEN_FEW && i-- && r == 0;) {
		const struct plt_range v = ret->v[i];

		for (uint64_t at = v.off; at < v.off + v.len && r == 0; at += m->span)
			if (!plt_extents_overlaps(&s->bad, at, m->span))
				r = plt_extents_remove(ret, at, m->span);
	}
	return r;
}

struct beginning {
	uint64_t at;
	bool found;
};

static bool is_beginning(void *arg, const struct plt_mark *mark)
{
	struct beginning *b = arg;

	b->found |= (mark->kind == PLT_MARK_MBR && mark->pos == b->at) ||
		    (mark->kind == PLT_MARK_GPT && mark->value == 1 && mark->pos == b->at + 512);
	return !b->found;
}

static bool begins_at(struct plt_disk *disk, uint64_t at, uint8_t buf[4096])
{
	struct beginning b = { .at = at };

	if (plt_disk_size(disk) - at >= 4096 && plt_read(disk, at, buf, 4096, NULL) == 0)
		plt_guest_marks(buf, 4096, at, is_beginning, &b);
	return b.found;
}

int plt_deep_beginning(struct plt_disk *disk, const struct deep_map *m, struct deep_survey *s)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(4096);
	uint64_t reads = 0;

	if (!buf)
		return -ENOMEM;
	if (s->any || !m->span || !plt_disk_size(disk) || begins_at(disk, 0, buf))
		return 0;
	for (size_t i = 0; i < m->n && reads < BEGINNINGS_MAX; i++)
		for (uint64_t at = m->v[i].guest; m->v[i].kind == DEEP_DATA && at < m->v[i].guest + m->v[i].len &&
		     at < plt_disk_size(disk) && reads++ < BEGINNINGS_MAX; at += m->span)
			if (at && begins_at(disk, at, buf)) {
				int r = plt_extents_add(&s->bad, 0, 1024);

				s->nbad++;
				return r < 0 ? r : plt_extents_add(&s->bad, at, 1024);
			}
	return 0;
}

/* What the driver has named already because of what the structure shows. */
static int add_doubts(const struct plt_mend *mend, const struct deep_map *m, struct plt_extents *to)
{
	int r = 0;

	for (size_t i = 0; i < mend->doubts.n && r == 0; i++) {
		const struct plt_doubt *d = &mend->doubts.v[i];

		if (d->disk == PLT_DISK_ACTIVE && (d->kind == PLT_LOST || d->certainty == PLT_GUESS) && d->len <= 4 * m->span)
			r = add(m, to, d->off, d->len);
	}
	return r;
}

int plt_deep_suspects(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk,
		      struct deep_survey *s, const struct deep_map *m, const struct deep_map *clusters,
		      struct deep_suspects *ret, struct plt_error *err)
{
	const struct plt_orphans *left = m->tables ? &mend->pieces : &mend->clusters;
	bool below = plt_image_backing(plt_disk_image(disk)) != NULL;
	int r;

	*ret = (struct deep_suspects){ 0 };
	if (!m->span)
		return 0;
	r = plt_deep_exchanges(m, clusters, s, ret->exchanges, &ret->nexchanges);
	for (unsigned i = 0; i < ret->nexchanges && r == 0; i++) {
		r = add(m, &ret->others, ret->exchanges[i].a, 1);
		if (r == 0)
			r = add(m, &ret->others, ret->exchanges[i].b, 1);
	}
	if (r == 0)
		r = add_all(m, &ret->accused, &s->bad);
	if (r == 0)
		r = add_all(m, &ret->others, &s->odd);
	for (size_t i = 0; i < s->nnamed && r == 0; i++)
		r = add(m, &ret->others, s->named[i].place, 1);
	if (r == 0)
		r = plt_deep_shared(m, &ret->others);
	if (r == 0)
		r = add_doubts(mend, m, &ret->others);
	if (r == 0 && (m->tables || left->n))
		r = add_by_tails(m, s, &ret->others);
	if (r == 0 && m->tables && below)
		r = plt_deep_below(rep, disk, m, &ret->others, &ret->crossed);
	if (r == 0 && m->tables && !below)
		r = add_empty(m, clusters, s, &ret->others);
	if (r == 0 && !m->tables)
		r = find_hidden(rep, m, s, &ret->hidden);
	if (r == 0 && (left->n || ret->accused.n || ret->others.n))
		r = find_holes(m, &s->bad, NULL, &ret->holes);
	if (r == 0 && left->n)
		r = find_holes(m, &s->data, below ? &s->sure : NULL, &ret->holes);
	if (r == 0 && left->n)
		r = find_holes(m, &s->starts, NULL, &ret->holes);
	if (r == 0 && m->tables && (ret->accused.n || ret->others.n))
		r = add_unsure(m, s, &ret->others);
	if (r < 0)
		plt_deep_suspects_release(ret);
	return r < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}
