/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * How much it says that a block ends where a file should: the rarer this length among all blocks of all
 * objects, the more.  Counted once for each block size and alignment that a filesystem has.  The unit
 * is a bit: one in 1024 blocks has that length, ten bits.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

#define BLOCK_MAX 65536

static uint64_t seed_of(const struct ev *ev, unsigned i)
{
	const struct plt_guestfs *fs = ev->fs[i].fs;

	return (uint64_t)fs->block << 32 | fs->grid;
}

static void measure(struct ev *ev, unsigned set, uint64_t block)
{
	double n[3] = { ev->ends[set][0] + 1.0, 1, 1 }, all;

	for (uint64_t len = 1; len <= block; len++)
		n[len + EV_SLACK < block ? 1 : 2] += ev->ends[set][len];
	all = n[0] + n[1] + n[2];
	for (unsigned i = 0; i < 3; i++)
		ev->share[set][i] = n[i] / all;
}

static int count(struct ev *ev, unsigned fs, unsigned set)
{
	uint64_t block = ev->fs[fs].fs->block, skew = ev->fs[fs].fs->grid,
		 span = PLT_MIN(ev->p->span, (uint64_t)ev->pieces * ev->piece_len);

	block = PLT_MIN(block, (uint64_t)BLOCK_MAX);
	ev->ends[set] = calloc(block + 1, sizeof(**ev->ends));
	if (!ev->ends[set])
		return -ENOMEM;
	for (uint32_t o = 0; o < ev->p->nobjects; o++) {
		if (ev->blank[o])
			continue;
		for (uint64_t at = skew; at + PLT_MIN(block, span) <= span; at += block) {
			int64_t len = plt_ev_length(ev, o, at, PLT_MIN(block, span - at));

			if (len >= 0)
				ev->ends[set][len]++;
			ev->nends[set] += len > 0;
		}
	}
	ev->seed_of_ends[set] = seed_of(ev, fs);
	measure(ev, set, PLT_MIN(block, span));
	return 0;
}

static unsigned set_of(const struct ev *ev, unsigned fs)
{
	unsigned i = 0;

	while (i < ev->nend_sets && ev->seed_of_ends[i] != seed_of(ev, fs))
		i++;
	return i;
}

int plt_ev_count_ends(struct ev *ev)
{
	for (unsigned i = 0; i < ev->nfs; i++)
		if (set_of(ev, i) == ev->nend_sets && ev->nend_sets < EV_FS_MAX) {
			int r = count(ev, i, ev->nend_sets);

			if (r)
				return r;
			ev->nend_sets++;
		}
	return 0;
}

unsigned plt_ev_rarity(const struct ev *ev, unsigned fs, uint64_t len)
{
	unsigned set = set_of(ev, fs), bits = 0;
	uint64_t n;

	if (set == ev->nend_sets || len > PLT_MIN(ev->fs[fs].fs->block, (uint32_t)BLOCK_MAX))
		return 1;
	/* Few objects are no proof of rarity: lengths are as many as a block has bytes, at the most. */
	for (n = (uint64_t)ev->ends[set][len] + 1; n < ev->nends[set] + ev->fs[fs].fs->block && bits < EV_W_TAIL_MAX; n *= 2)
		bits++;
	return bits;
}

/* Of all blocks of the objects, the share of those that hold nothing, a part, or all of it; see fit.c. */
double plt_ev_share(const struct ev *ev, unsigned fs, unsigned look)
{
	unsigned set = set_of(ev, fs);

	return set == ev->nend_sets ? 1.0 / 3 : ev->share[set][look];
}
