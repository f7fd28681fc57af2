/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The disk as far as it is known: what was known before, and in its empty slots the objects that have
 * been placed.  On it, the filesystems: at the start of each partition (or of the disk) by their own
 * superblock, or by a copy found in an object whose distance from there is that of an empty slot.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "repair/evidence/private.h"

uint32_t plt_ev_slot_from(const struct ev *ev, uint64_t off)
{
	const struct plt_puzzle *p = ev->p;
	uint64_t at = plt_align_down(off, p->span);
	uint32_t lo = 0, hi = p->nslots;

	/* Mostly many lie side by side. */
	for (unsigned tries = 0; tries < 4 && lo < hi; tries++) {
		uint64_t from = p->slots[lo], to = p->slots[hi - 1];
		uint32_t mid;

		if (at <= from || at > to)
			return at == from ? lo : EV_NONE;
		mid = lo + (uint32_t)((double)(at - from) / (double)(to - from) * (hi - 1 - lo));
		if (p->slots[mid] == at)
			return mid;
		if (p->slots[mid] < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (p->slots[mid] < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint32_t plt_ev_slot_at(const struct ev *ev, uint64_t off)
{
	uint32_t i = plt_ev_slot_from(ev, off);

	return i < ev->p->nslots && ev->p->slots[i] == plt_align_down(off, ev->p->span) ? i : EV_NONE;
}

int plt_ev_view_read(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct ev *ev = arg;
	const struct plt_puzzle *p = ev->p;

	if (!plt_in_range(off, len, p->disk_size))
		return -EINVAL;
	while (len) {
		size_t n = (size_t)PLT_MIN((uint64_t)len, p->span - off % p->span);
		uint32_t slot = plt_ev_slot_at(ev, off);
		int r;

		if (slot == EV_NONE)
			r = p->read_disk(p->arg, off, buf, n);
		else if (!ev->place || ev->place[slot].object == EV_NONE)
			r = ev->below ? p->read_older(p->arg, off, buf, n) : -ENODATA;
		else
			r = plt_ev_read_in_slot(ev, ev->place[slot].object, slot, off % p->span, buf, n);
		if (r)
			return r;
		buf = (uint8_t *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

static struct ev_fs *fs_at(struct ev *ev, uint64_t start)
{
	for (unsigned i = 0; i < ev->nfs; i++)
		if (ev->fs[i].fs->start == start)
			return &ev->fs[i];
	return NULL;
}

/* Inside one that is there already: a filesystem in a file of another. */
static bool is_nested(const struct ev *ev, uint64_t start)
{
	for (unsigned i = 0; i < ev->nfs; i++)
		if (ev->fs[i].sure && start > ev->fs[i].fs->start && start - ev->fs[i].fs->start < ev->fs[i].fs->size)
			return true;
	return false;
}

static void add(struct ev *ev, struct plt_guestfs *fs, bool sure)
{
	if (ev->nfs == EV_FS_MAX)
		plt_guestfs_free(fs);
	else
		ev->fs[ev->nfs++] = (struct ev_fs){ .fs = fs, .sure = sure };
}

/* The superblock copies of objects that would lie in empty slots if this began at fs->start. */
static unsigned agreeing(const struct ev *ev, struct plt_guestfs *fs)
{
	unsigned n = 0;

	for (size_t i = 0; i < ev->nmarks && n < 100; i++) {
		const struct ev_mark *m = &ev->marks[i];
		uint64_t off;
		uint32_t slot;
		bool sure;

		if (!plt_mark_opens(m->m.kind) || plt_guestfs_of_mark(m->m.kind) != fs->ops)
			continue;
		if (!fs->ops->locate(fs, &m->m, NULL, 0, &off, &sure) || off < m->m.pos)
			continue;
		slot = plt_ev_slot_at(ev, off - m->m.pos);
		if (slot != EV_NONE && (off - m->m.pos) % ev->p->span == 0 &&
		    (ev->place[slot].object == EV_NONE || ev->place[slot].object == m->object))
			n++;
	}
	return n;
}

/* By a copy in one of the objects: the one that most others agree with. */
static int by_copy(struct ev *ev, uint64_t start, uint64_t len, bool sure)
{
	struct plt_guestfs *best = NULL;
	unsigned best_n = 0, tried = 0;
	uint64_t last_fsid = 0;

	for (size_t i = 0; i < ev->nmarks && tried < 64; i++) {
		const struct ev_mark *m = &ev->marks[i];
		uint8_t copy[4096];
		struct plt_guestfs *fs;
		unsigned n;
		size_t have = (size_t)PLT_MIN(ev->p->span - m->m.pos, (uint64_t)sizeof(copy));

		if (!plt_mark_opens(m->m.kind) || (m->m.fsid && m->m.fsid == last_fsid))
			continue;
		tried++;
		if (plt_ev_read_object(ev, m->object, m->m.pos, copy, have) ||
		    plt_guestfs_of_mark(m->m.kind)->open(&ev->view, start, copy, have, &fs))
			continue;
		last_fsid = m->m.fsid;
		/* (where nothing says where it begins, one that has no room begins elsewhere, or the disk is larger) */
		n = fs->size <= len && (sure || !fs->cut) ? agreeing(ev, fs) : 0;
		if (n > best_n) {
			plt_guestfs_free(best);
			best = fs;
			best_n = n;
		} else {
			plt_guestfs_free(fs);
		}
	}
	if (best) /* without a partition table only one that fills the disk is believed */
		add(ev, best, sure || (start == 0 && best->size == ev->p->disk_size));
	return 0;
}

/* What begins in a piece whose place was a guess is no surer than that. */
static bool stands_on_sure(const struct ev *ev, uint64_t start)
{
	uint32_t slot = plt_ev_slot_at(ev, start);

	return slot == EV_NONE || !ev->place || ev->place[slot].object == EV_NONE || ev->place[slot].certainty >= PLT_STRONG;
}

static int try_start(struct ev *ev, uint64_t start, uint64_t len, bool part)
{
	struct plt_guestfs *fs;
	int r;

	if (start >= ev->p->disk_size || fs_at(ev, start) || is_nested(ev, start))
		return 0;
	r = plt_guestfs_open_any(&ev->view, start, &fs);
	if (!r)
		add(ev, fs, (part && ev->parts_sure) || stands_on_sure(ev, start));
	if (!r || r == -ENOMEM)
		return r;
	if (r != -ENODATA || (!part && !ev->guess))
		return 0;
	return by_copy(ev, start, len, part);
}

/*
 * All found so far are dropped and looked for again: what was guessed from a copy before the partition
 * table was readable must not stay.
 */
int plt_ev_find_fs(struct ev *ev)
{
	struct plt_part parts[PLT_PARTS_MAX];
	unsigned n;
	int r;

	for (unsigned i = 0; i < ev->nfs; i++)
		plt_guestfs_free(ev->fs[i].fs);
	ev->nfs = 0;
	r = plt_parts_read(&ev->view, parts, &n, &ev->parts_sure);
	for (unsigned i = 0; !r && i < n; i++) {
		r = try_start(ev, parts[i].start, parts[i].len, true);
		/* A physical volume of LVM: its first logical volume, mostly. */
		if (!r && !fs_at(ev, parts[i].start) && parts[i].len > 1 << 20)
			r = try_start(ev, parts[i].start + (1 << 20), parts[i].len - (1 << 20), false);
	}
	if (!r && !n) {
		static const uint64_t usual[] = { 0, 63 * 512, 1 << 20, 0 };

		for (unsigned i = 0; !r && i < 3 && !ev->nfs; i++)
			r = try_start(ev, usual[i], ev->p->disk_size - PLT_MIN(usual[i], ev->p->disk_size), false);
	}
	return r;
}
