/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Range locks: whatever changes a mapping holds the range of its allocation units, so that two such
 * changes of one unit follow each other.  Reads and writes in place take none, save that a write in place
 * to encrypted data holds its sectors: those at its ends may have to be read, changed and written.  First come first
 * served: a lock waits for every earlier one that overlaps, held or waiting, so nobody starves and,
 * as a frame holds one range at a time, nobody deadlocks.
 */
#include <assert.h>

#include "block/engine.h"

static bool overlaps(const struct plt_range_lock *a, const struct plt_range_lock *b)
{
	return a->off < b->end && b->off < a->end;
}

static bool blocked(const struct plt_range_lock *l)
{
	for (const struct plt_range_lock *p = l->prev; p; p = p->prev)
		if (overlaps(p, l))
			return true;
	return false;
}

bool plt_range_lock(struct plt_io *io, uint64_t off, uint64_t len)
{
	return plt_range_lock_unit(io, off, len, io->img->alloc_unit);
}

bool plt_range_lock_unit(struct plt_io *io, uint64_t off, uint64_t len, uint64_t unit)
{
	struct plt_engine *eng = io->eng;
	struct plt_range_lock *l = &io->range;

	PLT_LOCK_SCOPE(&eng->lock);
	if (io->has_range) /* woken with it */
		return l->held;
	l->off = plt_align_down(off, unit);
	l->end = plt_align_up(off + len, unit);
	l->io = io;
	l->next = NULL;
	l->prev = eng->ranges_tail;
	if (l->prev)
		l->prev->next = l;
	else
		eng->ranges = l;
	eng->ranges_tail = l;
	io->has_range = true;
	l->held = !blocked(l);
	return l->held;
}

void plt_range_unlock(struct plt_io *io)
{
	struct plt_engine *eng = io->eng;
	struct plt_range_lock *l = &io->range;

	if (!io->has_range)
		return;
	PLT_LOCK_SCOPE(&eng->lock);
	assert(l->held);
	io->has_range = io->guarded = io->guard_passed = false;
	if (l->prev)
		l->prev->next = l->next;
	else
		eng->ranges = l->next;
	if (l->next)
		l->next->prev = l->prev;
	else
		eng->ranges_tail = l->prev;
	for (struct plt_range_lock *n = l->next; n; n = n->next)
		if (!n->held && overlaps(n, l) && !blocked(n)) {
			n->held = true;
			plt_io_wake(n->io);
		}
}
