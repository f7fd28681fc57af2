/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Entries that cannot be, in L1 and L2 tables: overwritten sectors, single entries with a bit turned, places
 * behind the end of the file.  They are taken out before anything is counted by them or added to the file, and what
 * they stood for is named lost; whatever finds its place later takes it off that list.  A snapshot that shared the
 * cluster, or the one orphan whose place differs by one bit, gives an entry back at once.
 *
 * The invariant: a table that is changed is written anew behind the end of the file, its sound entries with it;
 * the old one stays where it was, uncounted.  A table in which nothing is impossible is not touched.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/zero.h"
#include "qcow2/mend/entries.h"

#define MAX_DONORS 16   /* snapshots, the newest first, that are asked for a table's entries */
#define MAX_REBUILT 16384 /* tables that one round writes anew; the next goes on */
#define MAX_LOOKS (1 << 20) /* at tables, in a round */
#define L1_SECTOR 64     /* entries */
#define TURNED_MOST 2    /* entries of an L1 sector that cannot be, each on its own */
#define MAX_TURNED 2    /* entries of a table that one bit each has made name places behind the end */

static const char why_twice[] = "another place of the disk names the same cluster";
static const char why_shared[] = "another L1 entry names the same L2 table";

/* ---- one table ------------------------------------------------------------------------------------------ */

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	uint64_t *ret = arg;

	(void)index;
	*ret = e & QCOW2_L1_OFFSET;
	return 0;
}

/* What a snapshot's table has in the places that are lost, as long as nothing newer was written there. */
static int fill_from(struct qcow2_tables *t, const uint8_t *table, uint64_t guest, uint32_t *ret_n)
{
	struct qcow2_exam *x = t->x;
	const struct qcow2_state *q = &x->q;
	int r = 0;

	for (uint32_t i = 0; i < 1U << q->l2_bits && r == 0; i++) {
		uint64_t bitmap, off, stored, e = t->lost[i] ? qcow2_slot_get(q, table, i, &bitmap) : 0;

		if (!t->lost[i] || qcow2_entry_judge(t, e, bitmap) != QCOW2_ENTRY_FINE ||
		    !qcow2_entry_fits(x, e, bitmap, &off) || !off ||
		    qcow2_stored_count(&x->c, off >> q->cluster_bits, &stored) < 0 ||
		    stored <= qcow2_references(&x->c, off >> q->cluster_bits))
			continue;
		qcow2_slot_put(q, t->fresh, i, e & ~QCOW2_COPIED, bitmap);
		t->lost[i] = false;
		++*ret_n;
		r = qcow2_doubt(x, t->t, PLT_INFERRED, guest + ((uint64_t)i << q->cluster_bits), q->cluster_size, PLT_PROVEN, "");
	}
	return r;
}

static int fill_from_snapshots(struct qcow2_tables *t, uint32_t index, uint64_t old, uint64_t guest, uint32_t *ret_n)
{
	struct qcow2_exam *x = t->x;
	int r = 0;

	for (uint32_t k = x->q.nb_snapshots; k-- && k + MAX_DONORS >= x->q.nb_snapshots && !x->refs_bad && !x->map_unread && r == 0;) {
		const struct qcow2_snapshot *s = &x->q.snapshots[k];
		uint64_t from = 0;

		if (k == t->t->disk || x->snapshot_times[k] == QCOW2_ASTRAY || s->l1_size <= index ||
		    s->l1_size > QCOW2_MAX_L1_BYTES / 8 || s->l1_offset > INT64_MAX / 2)
			continue;
		if (qcow2_l1_each(&x->c, s->l1_offset + (uint64_t)index * 8, 1, note_entry, &from) < 0 ||
		    !from || from == old || (from & (x->q.cluster_size - 1)) || from >= x->c.file_size ||
		    qcow2_l2_read(&x->c, from, t->other) < 0 || !qcow2_l2_well_formed(x, t->other))
			continue;
		r = fill_from(t, t->other, guest, ret_n);
	}
	return r;
}

struct damage {
	uint32_t sectors, entries, zeros, turned, beyond, given;
	uint64_t first; /* guest offset */
};

static int note_lost(struct qcow2_tables *t, uint64_t guest, uint32_t i, const char *why, struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	uint64_t at = guest + ((uint64_t)i << q->cluster_bits);

	if (t->x->c.external) {
		qcow2_slot_put(q, t->fresh, i, at | QCOW2_COPIED, UINT32_MAX);
		return qcow2_doubt(t->x, t->t, PLT_INFERRED, at, q->cluster_size, PLT_STRONG,
				   "an external data file has the guest's bytes where the guest has them");
	}
	if (!t->lost[i] && !d->first)
		d->first = at;
	t->lost[i] = true;
	return qcow2_doubt(t->x, t->t, PLT_LOST, at, q->cluster_size, PLT_GUESS, why);
}

/* Overwritten sectors, and where there are any, sectors of zeros: out of t->fresh. */
static int clear_sectors(struct qcow2_tables *t, uint64_t guest, struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	const uint32_t per = 512 / q->l2_entry_size, n = 1U << q->l2_bits;
	int r = 0;

	for (uint32_t i = 0; i < n; i += per)
		d->sectors += qcow2_sector_is_overwritten(t, t->table, i);
	for (uint32_t i = 0; i < n && d->sectors && r == 0; i += per) {
		uint8_t *p = t->fresh + (size_t)i * q->l2_entry_size;

		if (!plt_is_zero(p, 512) && !qcow2_sector_is_overwritten(t, t->table, i))
			continue;
		memset(p, 0, 512);
		for (uint32_t k = i; k < i + per && r == 0; k++)
			r = note_lost(t, guest, k, qcow2_why_overwritten, d);
	}
	return r;
}

/* Does the file, as it was found, end within the table at @off? */
static bool is_cut(const struct qcow2_exam *x, uint64_t off)
{
	return !qcow2_is_added(x, off) && off < x->ex->mend->file_size &&
	       off + x->q.cluster_size > x->ex->mend->file_size;
}

/* What the file has lost of the table itself, with its end, does not say that nothing was there. */
static int clear_cut(struct qcow2_tables *t, uint64_t old, uint64_t guest, struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	uint64_t size = t->x->ex->mend->file_size;
	int r = 0;

	if (!is_cut(t->x, old))
		return 0;
	for (uint32_t i = (uint32_t)((size - old) / q->l2_entry_size); i < 1U << q->l2_bits && r == 0; i++) {
		qcow2_slot_put(q, t->fresh, i, 0, 0);
		d->beyond++;
		r = note_lost(t, guest, i, qcow2_why_beyond, d);
	}
	return r;
}

/* Are there more places behind the end of the file than turned bits make?  Then it is the end that is missing. */
static bool is_cut_off(const struct qcow2_tables *t)
{
	const struct qcow2_state *q = &t->x->q;
	const uint8_t *p = t->fresh, *end = p + q->cluster_size;
	unsigned n = 0;

	for (; n <= MAX_TURNED && (p = qcow2_behind_absent(p, end)) < end; p += q->l2_entry_size)
		n += qcow2_entry_judge(t, plt_get_be64(p), q->extl2 ? plt_get_be64(p + 8) : 0) == QCOW2_ENTRY_BEYOND;
	return n > MAX_TURNED;
}

static int clear_entries(struct qcow2_tables *t, uint64_t guest, struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	const uint8_t *p = t->fresh, *end = p + q->cluster_size;
	const bool cut = is_cut_off(t);
	int r = 0;

	for (; (p = qcow2_behind_absent(p, end)) < end && r == 0; p += q->l2_entry_size) {
		uint32_t i = (uint32_t)(p - t->fresh) / q->l2_entry_size;
		uint64_t bitmap, e = qcow2_slot_get(q, t->fresh, i, &bitmap), was;
		enum qcow2_verdict v = qcow2_entry_is_elsewhere(t, i, e) ? QCOW2_ENTRY_BAD : qcow2_entry_judge(t, e, bitmap);

		if (v == QCOW2_ENTRY_EMPTY || (v == QCOW2_ENTRY_FINE && !qcow2_entry_is_claimed_twice(t, e)))
			continue;
		was = v == QCOW2_ENTRY_ZEROS || (v == QCOW2_ENTRY_BEYOND && cut) ? 0 : qcow2_entry_unturn(t, e, bitmap);
		if (v == QCOW2_ENTRY_FINE && (!was || qcow2_entry_support(t, i, was) <= qcow2_entry_support(t, i, e))) {
			r = qcow2_doubt(t->x, t->t, PLT_INFERRED, guest + ((uint64_t)i << q->cluster_bits), q->cluster_size,
					PLT_GUESS, why_twice);
			continue;
		}
		if (v == QCOW2_ENTRY_ZEROS) {
			qcow2_slot_put(q, t->fresh, i, QCOW2_L2_ZERO, 0);
			d->zeros++;
		} else if (was) {
			qcow2_slot_put(q, t->fresh, i, was & ~QCOW2_COPIED, bitmap);
			d->turned++;
			r = qcow2_doubt(t->x, t->t, PLT_INFERRED, guest + ((uint64_t)i << q->cluster_bits), q->cluster_size,
					PLT_STRONG, "one bit of its L2 entry was turned");
		} else {
			qcow2_slot_put(q, t->fresh, i, 0, 0);
			d->beyond += v == QCOW2_ENTRY_BEYOND;
			d->entries += v != QCOW2_ENTRY_BEYOND;
			r = note_lost(t, guest, i, v == QCOW2_ENTRY_BEYOND ? qcow2_why_beyond : qcow2_why_entry, d);
		}
	}
	return r;
}

/* Over an external data file, what was put there just now. */
static bool is_own(const struct qcow2_tables *t, uint32_t i)
{
	uint64_t bitmap, e = qcow2_slot_get(&t->x->q, t->fresh, i, &bitmap);

	return t->x->c.external && e && !qcow2_entry_is_elsewhere(t, i, e);
}

/* A table that holds nothing but what cannot be, and zeros, was written over whole: a few words of another structure. */
static int clear_rest(struct qcow2_tables *t, uint64_t guest, struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	int r = 0;

	for (uint32_t i = 0; i < 1U << q->l2_bits; i++) {
		uint64_t bitmap;

		if (!t->lost[i] && (qcow2_slot_get(q, t->fresh, i, &bitmap) | bitmap) && !is_own(t, i))
			return 0;
	}
	/* (over a backing file a word that was written there does not even say that there was an entry) */
	for (uint32_t i = 0; i < 1U << q->l2_bits && r == 0; i++)
		if ((!t->lost[i] || t->x->backing) && !is_own(t, i))
			r = note_lost(t, guest, i, t->x->backing ? qcow2_why_overwritten : qcow2_why_zero, d);
	return r;
}

/*
 * A zero flag that hides data is what writing zeros leaves, and what a turned bit does, too: in a table
 * that is damaged it is not sure any more.
 */
static int doubt_flags(struct qcow2_tables *t, uint64_t guest)
{
	struct qcow2_exam *x = t->x;
	const struct qcow2_state *q = &x->q;
	int r = 0;

	for (uint32_t i = 0; i < 1U << q->l2_bits && !q->extl2 && !x->c.external && r == 0; i++) {
		uint64_t bitmap, e = qcow2_slot_get(q, t->fresh, i, &bitmap), off = e & QCOW2_L2_OFFSET;

		if (!(e & QCOW2_L2_ZERO) || (e & QCOW2_COMPRESSED) || !off || off >= x->c.file_size ||
		    plt_store_read(x->c.file, off, t->other, q->cluster_size, PLT_IO_DATA, NULL) < 0 ||
		    plt_is_zero(t->other, q->cluster_size))
			continue;
		r = qcow2_doubt(x, t->t, PLT_INFERRED, guest + ((uint64_t)i << q->cluster_bits), q->cluster_size, PLT_LIKELY,
				"a zero flag hides data, in a damaged table");
	}
	return r;
}

static void say(struct qcow2_tables *t, uint32_t index, uint64_t old, uint64_t now, const struct damage *d)
{
	const struct qcow2_state *q = &t->x->q;
	char where[64] = "";

	for (uint32_t i = 0; i < d->zeros; i++)
		plt_emit(t->x->ex, &(struct plt_finding){.id = "Q-ENT-ALIGN-ZERO", .severity = PLT_CORRUPTION, .count = 1,
							 .mended = true, .host_off = old, .host_len = q->cluster_size},
			 "Repairing L2 table %" PRIu32 ": a preallocated cluster of zeros lies where none can; its zeros stay",
			 index);
	if (!d->sectors && !d->entries && !d->turned && !d->beyond && !d->given)
		return;
	if (t->t->disk != PLT_DISK_ACTIVE)
		snprintf(where, sizeof(where), " of snapshot %.20s", q->snapshots[t->t->disk].info.id);
	plt_emit(t->x->ex,
		 &(struct plt_finding){.id = d->sectors ? "Q-L2" : d->beyond ? "Q-TRUNC" : "Q-ENT", .severity = PLT_CORRUPTION,
				       .count = 1, .beyond_qemu = true, .mended = true, .host_off = old,
				       .host_len = q->cluster_size,
				       .guest_off = (uint64_t)index << (q->cluster_bits + q->l2_bits),
				       .guest_len = UINT64_C(1) << (q->cluster_bits + q->l2_bits)},
		 "Repairing L2 table %" PRIu32 "%s at offset %#" PRIx64 ": %" PRIu32 " of %u sectors were overwritten, %" PRIu32
		 " single entries cannot be, %" PRIu32 " name places behind the end of the file; %" PRIu32 " were a bit wrong, %"
		 PRIu32 " are a snapshot's as well. A new table at offset %#" PRIx64 " has what is right",
		 index, where, old, d->sectors, q->cluster_size / 512, d->entries, d->beyond, d->turned, d->given, now);
}

/* Is an entry of the old table in the new one? */
static bool keeps_some(const struct qcow2_tables *t)
{
	const struct qcow2_state *q = &t->x->q;
	uint64_t bitmap;

	for (uint32_t i = 0; i < 1U << q->l2_bits; i++)
		if (qcow2_slot_get(q, t->table, i, &bitmap) &&
		    qcow2_slot_get(q, t->table, i, &bitmap) == qcow2_slot_get(q, t->fresh, i, &bitmap))
			return true;
	return false;
}

/* The table at @old, which t->table holds.  *ret_now: it is another now; 0: nothing is wrong with it. */
static int mend_table(struct qcow2_tables *t, uint32_t index, uint64_t old, uint64_t *ret_now)
{
	struct qcow2_exam *x = t->x;
	const struct qcow2_state *q = &x->q;
	uint64_t guest = (uint64_t)index << (q->cluster_bits + q->l2_bits);
	struct damage d = {0};
	int r;

	t->guest = guest;
	memcpy(t->fresh, t->table, q->cluster_size);
	memset(t->lost, 0, sizeof(*t->lost) << q->l2_bits);
	r = clear_sectors(t, guest, &d);
	if (r == 0)
		r = clear_cut(t, old, guest, &d);
	if (r == 0)
		r = clear_entries(t, guest, &d);
	if (r == 0 && d.entries)
		r = clear_rest(t, guest, &d);
	if (r < 0 || (!d.beyond && !memcmp(t->fresh, t->table, q->cluster_size)))
		return r;
	r = fill_from_snapshots(t, index, old, guest, &d.given);
	if (r == 0 && d.entries + d.turned > 0)
		r = doubt_flags(t, guest);
	if (r < 0)
		return r;
	if (qcow2_is_added(x, old)) {
		*ret_now = old;
	} else {
		r = qcow2_fresh_place(x, ret_now);
		/* (if all of it is garbage, it may be the guest's data, and the entry that names it wrong) */
		if (r == 0 && d.sectors < q->cluster_size / 512 && keeps_some(t))
			r = qcow2_leave_behind(x, old);
	}
	if (r == 0)
		r = plt_store_write(x->c.file, *ret_now, t->fresh, q->cluster_size, PLT_IO_L2, NULL);
	if (r == 0)
		say(t, index, old, *ret_now, &d);
	t->rebuilt++;
	x->ex->mend->map_damaged |= t->t->disk == PLT_DISK_ACTIVE && d.sectors + d.entries + d.turned > 0;
	x->map_changed = x->ex->mend->changed = true;
	return r;
}

/* ---- trees ---------------------------------------------------------------------------------------------- */

/* What another tree lost with a table that it shares. */
static int same_losses(struct qcow2_tables *t, uint32_t index, const struct qcow2_l2ref *l)
{
	struct qcow2_exam *x = t->x;
	const struct qcow2_state *q = &x->q;
	uint64_t guest = (uint64_t)index << (q->cluster_bits + q->l2_bits), bitmap;
	struct damage d = {0};
	int r = qcow2_l2_read(&x->c, l->off, t->table);

	if (r < 0)
		return r;
	t->guest = guest;
	memcpy(t->fresh, t->table, q->cluster_size);
	memset(t->lost, 0, sizeof(*t->lost) << q->l2_bits);
	r = clear_sectors(t, guest, &d);
	if (r == 0)
		r = clear_entries(t, guest, &d);
	if (r == 0)
		r = plt_store_read(x->c.file, l->moved, t->other, q->cluster_size, PLT_IO_L2, NULL);
	for (uint32_t i = 0; i < 1U << q->l2_bits && r == 0; i++)
		if (t->lost[i] && (qcow2_slot_get(q, t->other, i, &bitmap) | bitmap))
			r = qcow2_doubt(x, t->t, PLT_INFERRED, guest + ((uint64_t)i << q->cluster_bits), q->cluster_size,
					PLT_PROVEN, "");
	return r;
}

/* The L2 table, now an orphan or this entry's own, that an L1 entry named before one bit was turned; 0: none, or several. */
static uint64_t turned_from(const struct qcow2_tables *t, uint64_t e)
{
	struct qcow2_exam *x = t->x;
	uint64_t found = 0;

	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t f = e ^ UINT64_C(1) << bit, off = f & QCOW2_L1_OFFSET;
		bool orphan = false;
		const struct qcow2_l2ref *l;

		if ((f & QCOW2_L1_RESERVED) || !off || (off & (x->q.cluster_size - 1)) || off >= x->c.file_size)
			continue;
		for (uint32_t i = 0; i < x->npieces && !orphan; i++)
			orphan = x->pieces[i].off == off;
		l = off == (e & QCOW2_L1_OFFSET) ? qcow2_l2_find(&x->c, off) : NULL;
		if (!orphan && !(l && l->active + l->others == 1 && qcow2_l2_read(&x->c, off, t->other) == 0 &&
				 !plt_is_zero(t->other, x->q.cluster_size) && qcow2_l2_well_formed(x, t->other)))
			continue;
		if (found && found != off)
			return 0;
		found = off;
	}
	return found;
}

/* What an L1 entry may have named is lost. */
static int doubt_entry(struct qcow2_tables *t, uint32_t index, const char *why)
{
	unsigned bits = t->x->q.cluster_bits + t->x->q.l2_bits;

	return qcow2_doubt(t->x, t->t, PLT_LOST, (uint64_t)index << bits, UINT64_C(1) << bits, PLT_GUESS, why);
}

/*
 * Whether bits of this entry's sector were turned, looked at before the first of them is mended: then most of the entries
 * that can be none of an L1 table are one bit off one each.  In a sector that something was written over any word may be
 * one bit off an orphan's place, and few are.
 */
static int look_at_sector(struct qcow2_tables *t, uint32_t index)
{
	const struct qcow2_state *q = &t->x->q;
	uint32_t first = index / L1_SECTOR * L1_SECTOR, n = PLT_MIN((uint32_t)L1_SECTOR, t->t->l1_size - first);
	unsigned bad = 0, turned = 0;
	uint8_t buf[L1_SECTOR * 8];
	int r;

	if (t->sector_seen && t->sector == first)
		return 0;
	t->sector_seen = true;
	t->sector = first;
	r = plt_store_read(t->x->c.file, t->t->l1_offset + (uint64_t)first * 8, buf, n * 8, PLT_IO_L1, NULL);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		uint64_t e = plt_get_be64(buf + i * 8);

		if (!(e & QCOW2_L1_RESERVED) && !(e & QCOW2_L1_OFFSET & (q->cluster_size - 1)))
			continue;
		bad++;
		turned += turned_from(t, e) != 0;
	}
	t->written_over = bad > TURNED_MOST && turned * 2 < bad;
	/* What was written over the entries is zero here and there, too. */
	for (uint32_t i = 0; i < n && r == 0 && t->written_over && t->x->npieces; i++)
		if (!plt_get_be64(buf + i * 8))
			r = doubt_entry(t, first + i, qcow2_why_overwritten);
	return r;
}

static uint64_t unturn_l1(const struct qcow2_tables *t, uint64_t e)
{
	return t->written_over ? 0 : turned_from(t, e);
}

static void say_turned(struct qcow2_tables *t, uint32_t index, uint64_t e, uint64_t now)
{
	t->x->ex->mend->map_damaged |= t->t->disk == PLT_DISK_ACTIVE;
	plt_emit(t->x->ex,
		 &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true, .mended = true,
				       .host_off = t->t->l1_offset + (uint64_t)index * 8, .host_len = 8},
		 "Repairing L1 entry %" PRIu32 ": one bit of %#" PRIx64 " was turned; the L2 table lies at offset %#" PRIx64,
		 index, e, now);
}

/* The table at hand: not one that names what was cut off the file. */
static bool is_garbage(const struct qcow2_tables *t)
{
	const struct qcow2_state *q = &t->x->q;
	const uint8_t *p = t->table, *end = p + q->cluster_size;
	uint32_t bad = 0, all = 0;

	for (; (p = qcow2_behind_absent(p, end)) < end; p += q->l2_entry_size) {
		enum qcow2_verdict v = qcow2_entry_judge(t, plt_get_be64(p), q->extl2 ? plt_get_be64(p + 8) : 0);

		all += v != QCOW2_ENTRY_EMPTY;
		bad += v == QCOW2_ENTRY_BAD;
	}
	return bad * 4 >= all;
}

/* An L1 entry that names no place at which a table can be. */
static int mend_l1_entry(struct qcow2_tables *t, uint32_t index, uint64_t e)
{
	struct qcow2_exam *x = t->x;
	unsigned bits = x->q.cluster_bits + x->q.l2_bits;
	uint64_t now = unturn_l1(t, e);
	int r;

	if (now) {
		say_turned(t, index, e, now);
		return qcow2_l1_set(x, t->t, index, now);
	}
	x->ex->mend->map_damaged |= t->t->disk == PLT_DISK_ACTIVE;
	r = doubt_entry(t, index, (e & QCOW2_L1_OFFSET) < t->far ? qcow2_why_beyond : qcow2_why_l1);

	plt_emit(x->ex,
		 &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true, .mended = true,
				       .host_off = t->t->l1_offset + (uint64_t)index * 8, .host_len = 8,
				       .guest_off = (uint64_t)index << bits, .guest_len = UINT64_C(1) << bits},
		 "Repairing L1 entry %" PRIu32 ": %#" PRIx64 " is no place of an L2 table (the file has %" PRIu64
		 " bytes); it is taken out", index, e, x->c.file_size);
	return r < 0 ? r : qcow2_l1_set(x, t->t, index, 0);
}

static int mend_l1(void *arg, uint32_t index, uint64_t e)
{
	struct qcow2_tables *t = arg;
	struct qcow2_exam *x = t->x;
	const struct qcow2_state *q = &x->q;
	uint64_t off = e & QCOW2_L1_OFFSET, now = 0;
	struct qcow2_l2ref *l;
	bool garbage;
	int r = look_at_sector(t, index);

	if (r < 0 || (uint64_t)index << (q->cluster_bits + q->l2_bits) >= t->t->size) /* (a VM's state) */
		return r;
	if ((e & QCOW2_L1_RESERVED) || (off & (q->cluster_size - 1)) || !off || off >= x->c.file_size)
		return mend_l1_entry(t, index, e);
	l = qcow2_l2_find(&x->c, off);
	/* Of two places with one table one is wrong; which, the guest may know. */
	if (l && l->active > 1 && t->t->disk == PLT_DISK_ACTIVE && !l->empty && ++t->looks < MAX_LOOKS)
		return qcow2_doubt(x, t->t, PLT_INFERRED, (uint64_t)index << (q->cluster_bits + q->l2_bits),
				   UINT64_C(1) << (q->cluster_bits + q->l2_bits), PLT_GUESS, why_shared);
	/* (one that several entries of a tree name is no table that was damaged, but an entry) */
	if (!l || ((!qcow2_l2_is_odd(&x->c, l) || l->empty) && !is_cut(x, off)) || l->active > 1 || l->others > q->nb_snapshots ||
	    ++t->looks > MAX_LOOKS)
		return 0;
	if (l->moved) {
		r = same_losses(t, index, l);
		return r < 0 ? r : qcow2_l1_set(x, t->t, index, l->moved);
	}
	if (t->rebuilt >= MAX_REBUILT || qcow2_l2_read(&x->c, off, t->table) < 0)
		return 0;
	garbage = qcow2_l2_shape(x, l, t->other) & QCOW2_SHAPE_GARBAGE && is_garbage(t);
	if (garbage && (now = unturn_l1(t, e)) != 0) {
		say_turned(t, index, e, now);
		return qcow2_l1_set(x, t->t, index, now);
	}
	if (t->garbage_only && !(qcow2_l2_shape(x, l, t->other) & QCOW2_SHAPE_GARBAGE))
		return 0;
	/* Garbage, while tables wait that nothing names: more likely the entry is wrong than the table. */
	if (garbage && x->npieces && t->t->disk == PLT_DISK_ACTIVE)
		return mend_l1_entry(t, index, e);
	r = mend_table(t, index, off, &now);
	if (r == 0 && now && now != off) {
		l->moved = now;
		r = qcow2_l1_set(x, t->t, index, now);
	}
	return r;
}

/* No L1 table is an L2 table of its own, whatever else it is: an entry that says so is wrong. */
static int mend_l1_of_itself(void *arg, uint32_t index, uint64_t e)
{
	struct qcow2_tables *t = arg;
	uint64_t off = e & QCOW2_L1_OFFSET;
	int r = look_at_sector(t, index);

	if (r < 0)
		return r;
	return off >= t->t->l1_offset && off - t->t->l1_offset < (uint64_t)t->t->l1_size * 8 ? mend_l1_entry(t, index, e) : 0;
}

/* Is what lies over the L1 table nothing but L2 tables that are said to? */
static bool only_tables_overlap(const struct qcow2_exam *x, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < x->noverlaps; i++)
		if (plt_ranges_overlap(off, len, x->overlaps[i].off, x->overlaps[i].len) &&
		    !qcow2_l2_find(&x->c, x->overlaps[i].off))
			return false;
	return true;
}

static int mend_tree(struct qcow2_tables *t, const struct qcow2_tree *tree)
{
	struct qcow2_exam *x = t->x;
	uint64_t len = (uint64_t)tree->l1_size * 8;
	bool overlaps;
	int r;

	if (!len || (tree->l1_offset & (x->q.cluster_size - 1)) || !plt_in_range(tree->l1_offset, len, x->c.file_size))
		return 0;
	overlaps = qcow2_exam_overlaps(x, tree->l1_offset, len);
	if (overlaps && !only_tables_overlap(x, tree->l1_offset, len))
		return 0;
	t->t = tree;
	t->sector_seen = false;
	r = qcow2_l1_each(&x->c, tree->l1_offset, tree->l1_size, overlaps ? mend_l1_of_itself : mend_l1, t);
	return r == -EIO ? 0 : r; /* said when the table was reported */
}

int qcow2_mend_tables(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct qcow2_tables t = {.x = x, .far = qcow2_far_end(x)};
	struct qcow2_tree tree = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, 0};
	int r;

	if (!(x->ex->mend->what & PLT_MEND_MAP))
		return 0;
	tree.l1_size = (uint32_t)PLT_MIN(qcow2_l1_entries(q, q->virtual_size), (uint64_t)q->l1_size);
	t.table = plt_alloc_io(q->cluster_size);
	t.fresh = plt_alloc_io(q->cluster_size);
	t.other = plt_alloc_io(q->cluster_size);
	t.lost = plt_alloc_capped(1U << q->l2_bits, sizeof(*t.lost), SIZE_MAX / 2);
	r = t.table && t.fresh && t.other && t.lost ? 0 : -ENOMEM;
	/*
	 * What is no table at all first: it may be the guest's data, which an entry names that is wrong; a sound table that
	 * names it as data is not to be held against that entry.
	 */
	t.garbage_only = true;
	if (r == 0)
		r = mend_tree(&t, &tree);
	t.garbage_only = false;
	t.looks = 0;
	if (r == 0 && !x->ex->mend->changed)
		r = mend_tree(&t, &tree);
	for (uint32_t i = 0; i < q->nb_snapshots && r == 0; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];
		uint32_t times = x->snapshot_times[i];

		if (!times || times == QCOW2_ASTRAY || s->info.disk_size > INT64_MAX)
			continue;
		tree = (struct qcow2_tree){i, s->l1_offset, s->info.disk_size, 0};
		tree.l1_size = (uint32_t)PLT_MIN(qcow2_l1_entries(q, tree.size), (uint64_t)s->l1_size);
		r = mend_tree(&t, &tree);
	}
	free(t.table);
	free(t.fresh);
	free(t.other);
	free(t.lost);
	return r;
}
