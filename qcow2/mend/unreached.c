/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Which clusters nothing reaches although they may hold something.  As long as the stored counts can be believed they
 * are those that are counted.  Counts that say of the header and of themselves, or of half of what is reached, that it
 * is free, are none: where they say so, and where nothing is left of them, any cluster of the file may have been in use,
 * and all that lies there has to be looked at.  (Of what is reached a little may be free: an entry that is damaged may
 * lead anywhere.)  Whatever else is counted is believed: what it says to be free is free.
 *
 * Nothing is read of the clusters themselves but where the file has holes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "qcow2/check.h"

#define FEW 4 /* clusters that damaged entries may reach, and nothing else */

/* Which cluster was counted, durably, before it was used, even if counts are written late (lazy_refcounts)? */
static bool is_anchor(const struct qcow2_exam *x, uint64_t cluster)
{
	const struct qcow2_state *q = &x->q;
	const uint64_t off = cluster << q->cluster_bits, own = cluster >> q->rb_bits;

	return !cluster ||
	       plt_ranges_overlap(off, q->cluster_size, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits) ||
	       (own < x->c.nrt && (x->c.rt[own] & QCOW2_REFTABLE_OFFSET) == off);
}

struct unreached {
	struct qcow2_exam *x;
	struct plt_extents *all;
	uint64_t asked;            /* the 512 bytes of counts that were asked for last, by their first cluster; UINT64_MAX: none */
	uint64_t block;            /* and the block */
	bool lost, block_lost;
	int r;
};

/* Do the counts of @n clusters deny what is in use, or is nothing left of them? */
static bool are_lost(struct qcow2_exam *x, uint64_t first, uint64_t n, bool *ret_some)
{
	const bool late = x->q.incompatible & QCOW2_INCOMPAT_DIRTY;
	uint64_t reached = 0, denied = 0, stored;

	*ret_some = false;
	for (uint64_t k = first; k < first + n && k < x->c.nb; k++) {
		const bool unknown = qcow2_stored_count(&x->c, k, &stored) < 0;

		*ret_some |= stored != 0;
		if (!qcow2_references(&x->c, k))
			continue;
		reached++;
		if (stored)
			continue;
		if (unknown || is_anchor(x, k))
			return true;
		denied += !late;
	}
	return denied >= FEW && denied * 2 >= reached;
}

/* Counts that a disk writes at once: 512 bytes. */
static uint64_t together(const struct qcow2_state *q)
{
	return UINT64_C(4096) >> q->refcount_order;
}

static bool is_lost(struct unreached *u, uint64_t cluster)
{
	struct qcow2_exam *x = u->x;
	const uint64_t n = together(&x->q), first = plt_align_down(cluster, n), index = cluster >> x->q.rb_bits;
	bool some;

	if (u->asked == first)
		return u->lost;
	if (u->block != index) {
		u->block = index;
		u->block_lost = !qcow2_has_refblock(x, index) || (x->c.rt[index] & QCOW2_REFTABLE_RESERVED) ||
				are_lost(x, index << x->q.rb_bits, UINT64_C(1) << x->q.rb_bits, &some) || !some;
	}
	u->asked = first;
	u->lost = u->block_lost || are_lost(x, first, n, &some);
	return u->lost;
}

static void note_counted(void *arg, uint64_t cluster, uint64_t stored, uint64_t refs, int unreadable)
{
	struct unreached *u = arg;
	struct qcow2_exam *x = u->x;
	const uint64_t block = UINT64_C(1) << x->q.rb_bits;
	bool some;

	if (u->r == 0 && stored && !refs && !unreadable && !qcow2_left_behind(x, cluster))
		u->r = plt_extents_add(u->all, cluster << x->q.cluster_bits, x->q.cluster_size);
	x->shares += refs && stored > refs;
	/* a count that has no place where it could be raised */
	if (stored < refs && !qcow2_has_refblock(x, cluster >> x->q.rb_bits))
		x->refs_bad = true;
	if (x->counts_gone || !refs || stored || u->asked == plt_align_down(cluster, together(&x->q)))
		return;
	u->asked = plt_align_down(cluster, together(&x->q));
	if (u->block != cluster >> x->q.rb_bits) {
		u->block = cluster >> x->q.rb_bits;
		x->counts_gone = are_lost(x, plt_align_down(cluster, block), block, &some);
	}
	x->counts_gone |= are_lost(x, u->asked, together(&x->q), &some);
}

/* Where counts are lost, everything that the file has. */
static void note_all(struct unreached *u)
{
	struct qcow2_exam *x = u->x;
	const struct qcow2_recount *c = &x->c;
	unsigned bits = x->q.cluster_bits;
	struct qcow2_host host = {0};

	for (uint64_t k = 0; k < c->nb && k << bits < c->file_size && u->r == 0; k++) {
		uint64_t stored;

		if (qcow2_references(c, k) || qcow2_left_behind(x, k))
			continue;
		if (qcow2_hole_at(c, &host, k << bits, UINT64_C(1) << bits) == UINT64_C(1) << bits) {
			/* the rest of the hole at once, up to what something reaches */
			while (k + 1 < c->nb && (k + 2) << bits <= host.to && !qcow2_references(c, k + 1))
				k++;
		} else if (is_lost(u, k) || (qcow2_stored_count(&x->c, k, &stored) == 0 && stored)) {
			u->r = plt_extents_add(u->all, k << bits, UINT64_C(1) << bits);
		}
	}
}

bool qcow2_is_missed(struct qcow2_exam *x, uint64_t off)
{
	uint64_t k = off >> x->q.cluster_bits, stored;

	/* (of a table that the plan has added the count is that of what was cut off there) */
	if (x->counts_gone || x->map_unread || (x->ex->mend && qcow2_is_added(x, off)))
		return false;
	return qcow2_stored_count(&x->c, k, &stored) == 0 && stored > qcow2_references(&x->c, k);
}

int qcow2_find_unreached(struct qcow2_exam *x, struct plt_extents *ret)
{
	struct unreached u = {.x = x, .all = ret, .asked = UINT64_MAX, .block = UINT64_MAX};
	uint64_t highest;
	int r = qcow2_compare(&x->c, note_counted, &u, &highest);

	if (r < 0 || u.r < 0 || !x->counts_gone)
		return r < 0 ? r : u.r;
	plt_extents_release(ret);
	if (x->ex->mend)
		x->ex->mend->counts_gone = true;
	u.asked = u.block = UINT64_MAX;
	note_all(&u);
	return u.r;
}
