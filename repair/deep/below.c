/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Blocks of a differencing disk, and what the tables of an overlay show, held against its parent: a block that was
 * written over mostly keeps some sectors as they were.  One that has nothing of its own place, and some of another's, of
 * which the block there has nothing either, may have been exchanged with it.  That makes both suspects, and nothing more:
 * what has been moved within the guest looks the same.  Two that have each other's, and of their own next to nothing, are
 * named unless something else knows them.
 *
 * The invariant: little is read of a disk that is sound.  Of each block SAMPLES sectors are; those that agree nowhere
 * there are read in full, up to UNLIKE_MAX bytes, and of smaller blocks, which a guest may well exchange itself, none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "formats/driver.h"
#include "repair/deep/deep.h"

#define SECTOR 512
#define SAMPLES 64
#define SPAN_MIN 65536                   /* of a block that is looked at */
#define UNLIKE_MAX (UINT64_C(256) << 20) /* bytes of blocks that are read in full */

/* Of what a block has itself every @step-th byte, if it begins a sector that says something; 0: how much there is. */
struct sample { uint64_t step, bytes; unsigned seen, same; };

static int look_at(struct plt_disk *disk, struct plt_disk *parent, uint64_t at, uint64_t end, struct sample *t)
{
	uint64_t left = 0; /* until the next one */
	struct plt_extent e[64];
	int r = 0;

	while (at < end && r == 0) {
		unsigned n;

		r = plt_status(disk, at, end - at, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST, e, PLT_ARRAY_SIZE(e), &n, NULL);
		for (unsigned i = 0; i < n && r == 0; i++) {
			uint8_t mine[SECTOR], below[SECTOR];

			at = e[i].off + e[i].len;
			if (!(e[i].flags & PLT_EXTENT_PRESENT))
				continue;
			t->bytes += e[i].len;
			for (uint64_t s = e[i].off + left; t->step && s < at && at - s >= SECTOR; s += t->step) {
				if (plt_read(disk, s, mine, SECTOR, NULL) < 0 || !plt_repair_speaks(mine))
					continue;
				t->seen++;
				t->same += plt_read(parent, s, below, SECTOR, NULL) == 0 && !memcmp(mine, below, SECTOR);
			}
			if (t->step)
				left = left >= e[i].len ? left - e[i].len : (t->step - (e[i].len - left) % t->step) % t->step;
		}
		if (r == 0 && !n)
			r = -EIO;
	}
	return r;
}

/* Has it nothing, or next to nothing, of its place?  *ret_sure: and could have. */
static bool is_unlike(struct plt_disk *disk, struct plt_disk *parent, uint64_t at, uint64_t span, bool *ret_sure)
{
	uint64_t end = PLT_MIN(at + span, plt_disk_size(disk));
	struct sample t = { 0 };

	if (look_at(disk, parent, at, end, &t) < 0)
		return false;
	t.step = plt_align_up(t.bytes / SAMPLES + 1, SECTOR);
	if (look_at(disk, parent, at, end, &t) < 0 || t.same * 8 > t.seen)
		return false;
	*ret_sure |= t.seen > 1;
	return true;
}

static int add(struct plt_orphans *o, size_t *cap, uint64_t host, uint64_t guest)
{
	if (o->n == *cap) {
		size_t more = *cap ? 2 * *cap : 64;
		void *v = realloc(o->v, more * sizeof(*o->v)), *gaps = v ? realloc(o->gaps, more * sizeof(*o->gaps)) : NULL;

		o->v = v ? v : o->v;
		o->gaps = gaps ? gaps : o->gaps;
		if (!gaps)
			return -ENOMEM;
		*cap = more;
	}
	o->v[o->n++] = (struct plt_orphan){ .host_off = host, .guest_off = guest };
	o->gaps[o->ngaps++] = guest;
	return 0;
}

/* The place that shows a block now. */
static uint64_t shown_at(const struct plt_orphans *o, uint64_t host)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->v[i].host_off == host)
			return o->v[i].guest_off;
	return PLT_UNPLACED;
}

int plt_deep_below(struct plt_repair *rep, struct plt_disk *disk, const struct deep_map *m, struct plt_extents *to,
		   struct plt_extents *ret_crossed)
{
	struct plt_orphans o = { .span = m->span };
	struct plt_disk *parent = NULL;
	struct plt_orphan *v = NULL;
	bool sure = false; /* of one of them */
	size_t n = 0, cap = 0;
	int r = 0;

	if (!m->tables || m->span < SPAN_MIN || plt_repair_open_parent(rep, &parent) < 0)
		return 0;
	for (size_t i = 0; i < m->n && r == 0 && o.n <= UNLIKE_MAX / m->span; i++)
		if (m->v[i].guest < plt_disk_size(disk) && is_unlike(disk, parent, m->v[i].guest, m->span, &sure))
			r = add(&o, &cap, m->v[i].host, m->v[i].guest);
	plt_disk_close(parent, NULL);
	if (r == 0 && sure && o.n > 1 && o.n <= UNLIKE_MAX / m->span)
		r = plt_repair_place_over(rep, &o, &v, &n);
	for (size_t i = 0; i < n && r == 0; i++) {
		size_t k = 0;

		while (o.v[k].host_off != v[i].host_off)
			k++;
		if (o.v[k].guest_off != v[i].guest_off)
			r = plt_extents_add(to, o.v[k].guest_off, m->span);
		if (r == 0 && o.v[k].guest_off != v[i].guest_off)
			r = plt_extents_add(to, v[i].guest_off, m->span);
		for (size_t j = 0; j < i && r == 0; j++) {
			if (v[j].guest_off != o.v[k].guest_off || shown_at(&o, v[j].host_off) != v[i].guest_off)
				continue;
			r = plt_extents_add(ret_crossed, v[i].guest_off, m->span);
			if (r == 0)
				r = plt_extents_add(ret_crossed, v[j].guest_off, m->span);
		}
	}
	free(v);
	free(o.v);
	free(o.gaps);
	return r == -ENOMEM ? r : 0;
}
