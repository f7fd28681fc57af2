/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Evidence: the rounds.  Each looks for filesystems on the disk as far as it is known, asks them for
 * facts, scores, and fixes what is sure; what was fixed is part of the disk in the next.  Only when
 * nothing sure is left are runs grown and likely pairs taken, and then all is asked again.
 */
#include "repair/evidence/evidence.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "repair/evidence/private.h"

static void release(struct ev *ev)
{
	for (unsigned i = 0; i < ev->nfs; i++)
		plt_guestfs_free(ev->fs[i].fs);
	for (unsigned i = 0; i < ev->nend_sets; i++)
		free(ev->ends[i]);
	free(ev->piece);
	free(ev->grains);
	free(ev->marks);
	free(ev->mark_of);
	free(ev->blank);
	free(ev->digest);
	free(ev->facts);
	free(ev->by_key);
	free(ev->facts_of);
	free(ev->place);
	for (unsigned k = 0; k < 2; k++) {
		free(ev->of_object[k]);
		free(ev->of_slot[k]);
	}
	free(ev->slot_of);
	free(ev->pairs);
	free(ev->like);
	free(ev->line);
	free(ev->chain);
	free(ev->hops);
	plt_ev_joints_free(ev->joints);
}

static int check_puzzle(const struct plt_puzzle *p, struct plt_error *err)
{
	if (!plt_is_pow2(p->unit) || p->unit < 512 || p->unit > 64u << 20)
		return plt_error_set(err, EINVAL, "unit %" PRIu32 ": expected a power of two from 512 to 64 MiB", p->unit);
	if (!p->span || p->span % p->unit || p->span / EV_PIECE > UINT32_MAX)
		return plt_error_set(err, EINVAL, "span %" PRIu64 ": expected a multiple of %" PRIu32, p->span, p->unit);
	if (p->span > EV_PIECE && p->span % EV_PIECE)
		return plt_error_set(err, EINVAL, "span %" PRIu64 ": expected a multiple of %d", p->span, EV_PIECE);
	if (p->disk_size > INT64_MAX)
		return plt_error_set(err, EINVAL, "a disk of %" PRIu64 " bytes", p->disk_size);
	for (uint32_t i = 0; i < p->nslots; i++)
		if (p->slots[i] % p->span || p->slots[i] >= p->disk_size || (i && p->slots[i] <= p->slots[i - 1]))
			return plt_error_set(err, EINVAL, "slot %" PRIu32 " at %#" PRIx64
					     ": expected ascending multiples of %#" PRIx64 " inside the disk",
					     i, p->slots[i], p->span);
	return 0;
}

static int by_order(struct ev *ev, uint32_t few, uint32_t *ret_n)
{
	uint32_t more = 0;
	int r = plt_ev_runs(ev, ret_n);

	if (!r && *ret_n <= few)
		r = plt_ev_order_grow(ev, &more);
	*ret_n += more;
	return r;
}

static int rounds(struct ev *ev)
{
	uint32_t left = ev->p->nobjects;
	unsigned paths = 0;

	for (unsigned round = 0; round < EV_ROUNDS_MAX; round++) {
		uint32_t n, grown = 0, likely = 0, more = 0, few = left / 100; /* not worth a round of their own */
		int r = plt_ev_find_fs(ev);

		if (!r)
			r = plt_ev_count_ends(ev);
		if (!r)
			r = plt_ev_survey(ev);
		if (!r)
			r = plt_ev_score_all(ev);
		if (!r)
			r = plt_ev_assign(ev, false, &n);
		if (!r && n <= few) {
			r = plt_ev_twins(ev, &more);
			n += more;
			more = 0;
		}
		if (!r && n <= few && paths++ < EV_PATHS_MAX)
			r = plt_ev_path(ev, false, &grown);
		if (!r && n + grown <= few)
			r = by_order(ev, few - n, &more);
		grown += more;
		if (!r && n + grown <= few)
			r = plt_ev_assign(ev, true, &likely);
		if (r)
			return r;
		if (!n && !likely && grown <= few / 4) {
			const bool can = ev->p->owns && ev->p->read_older && !ev->below; /* there is more to be read */

			if (ev->guess && !can)
				break;
			ev->guess |= !can;
			ev->below |= can;
		}
		left -= n + grown + likely;
	}
	return plt_ev_path(ev, true, &left);
}

static void explain(const struct ev_place *place, char *ret, size_t len)
{
	static const char *const words[] = {
		"its structures name this place", "metadata expected here verifies", "files end where it ends",
		"it fills what files use", "its neighbours on the host lie beside it",
		"it is like the version before",
	};
	size_t n = 0;

	ret[0] = 0;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(words) && n < len; i++)
		if (place->kinds >> i & 1)
			n += (size_t)snprintf(ret + n, len - n, "%s%s", n ? "; " : "", words[i]);
}

static int report(struct ev *ev, struct plt_placement **ret, uint32_t *ret_n)
{
	const struct plt_puzzle *p = ev->p;
	struct plt_placement *v;
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->nslots; i++)
		n += ev->place[i].object != EV_NONE;
	v = calloc((size_t)n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	n = 0;
	for (uint32_t i = 0; i < p->nslots; i++) {
		const struct ev_place *place = &ev->place[i];

		if (place->object == EV_NONE)
			continue;
		v[n] = (struct plt_placement){
			.object = place->object, .slot = p->slots[i], .certainty = place->certainty,
			.score = place->score, .second = place->second,
		};
		explain(place, v[n].why, sizeof(v[n].why));
		n++;
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

int plt_evidence_place(const struct plt_puzzle *p, struct plt_placement **ret, uint32_t *ret_n,
		       struct plt_error *err)
{
	struct ev ev = { .p = p, .go_on = { { 0.5, 0.1 }, { 0.2, 0.1 } }, .astray = 1.0 / 256 };
	int r = check_puzzle(p, err);

	if (r)
		return r;
	ev.view = (struct plt_guest){ .read = plt_ev_view_read, .arg = &ev, .size = p->disk_size };
	ev.place = plt_alloc_capped((uint64_t)p->nslots + 1, sizeof(*ev.place), UINT64_C(1) << 31);
	ev.slot_of = plt_alloc_capped((uint64_t)p->nobjects + 1, sizeof(*ev.slot_of), UINT64_C(1) << 31);
	r = ev.place && ev.slot_of ? 0 : -ENOMEM;
	for (unsigned k = 0; !r && k < 2; k++) {
		ev.of_object[k] = plt_alloc_capped((uint64_t)p->nobjects + 1, sizeof(struct ev_alt), UINT64_C(1) << 31);
		ev.of_slot[k] = plt_alloc_capped((uint64_t)p->nslots + 1, sizeof(struct ev_alt), UINT64_C(1) << 31);
		r = ev.of_object[k] && ev.of_slot[k] ? 0 : -ENOMEM;
	}
	for (uint32_t i = 0; !r && i < p->nslots; i++)
		ev.place[i].object = EV_NONE;
	for (uint32_t i = 0; !r && i < p->nobjects; i++)
		ev.slot_of[i] = EV_NONE;
	if (!r)
		r = plt_ev_joints_init(&ev);
	if (!r)
		r = plt_ev_scan(&ev);
	if (!r)
		r = plt_ev_compare_older(&ev);
	if (!r)
		r = plt_ev_order_init(&ev);
	if (!r)
		r = plt_ev_path_init(&ev);
	if (!r)
		r = rounds(&ev);
	if (!r)
		r = report(&ev, ret, ret_n);
	release(&ev);
	return r ? plt_error_default(err, -r, "cannot look for places: out of memory") : 0;
}
