/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Doing what an undo journal says, and taking it back.  The invariant: between "complete" and "applied" (or
 * "undone") each sector of each range is its before or its after, and both are in the journal, so that either can
 * be brought about however often the attempt is cut short.  A range is told from others by comparing bytes, never
 * by trusting a name.  Which changes are right, and when a journal is removed, is left to the repair.
 */
#include "io/journal_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"

enum { IS_BEFORE = 1, IS_AFTER = 2 };

/* Is each sector of what the image has one of the sides in @allowed? */
static int compare_record(struct plt_journal *j, const struct plt_journal_entry *e, unsigned allowed,
			  struct plt_error *err)
{
	uint8_t *now = j->buf, *side = j->buf + PIECE;
	PLT_AUTOFREE uint8_t *ok = calloc(e->len / SECTOR + 2, 1);
	int r = ok ? plt_store_read(j->st[e->store], e->off, now, e->len, PLT_IO_OTHER, err) :
		     plt_error_set(err, ENOMEM, "out of memory");

	for (unsigned s = 0; s < 2 && r == 0; s++) {
		if (!(allowed & (s ? IS_AFTER : IS_BEFORE)))
			continue;
		r = plt_journal_read_side(j, e, s, side, err);
		for (uint64_t at = 0, n, i = 0; at < e->len && r == 0; at += n, i++) {
			n = PLT_MIN(e->len - at, SECTOR - (e->off + at) % SECTOR);
			ok[i] |= !memcmp(now + at, side + at, n);
		}
	}
	for (uint64_t at = 0, n, i = 0; at < e->len && r == 0; at += n, i++) {
		n = PLT_MIN(e->len - at, SECTOR - (e->off + at) % SECTOR);
		if (!ok[i])
			r = plt_error_set(err, EUCLEAN, "'%s' is not what the repair %s: the bytes at %" PRIu64
					  " have been changed by something else", j->st[e->store]->name,
					  allowed & IS_BEFORE ? "began with" : "left", e->off + at);
	}
	return r;
}

static int compare_mark(struct plt_journal *j, const struct plt_journal_entry *e, unsigned allowed,
			struct plt_error *err)
{
	uint8_t now;
	int r = plt_store_read(j->st[0], e->off, &now, 1, PLT_IO_HEADER, err);

	if (r < 0 || now == e->mark[2] || (allowed & IS_BEFORE && (now == e->mark[0] || now == e->mark[1])))
		return r;
	return plt_error_set(err, EUCLEAN, "'%s' is not what the repair left: the byte at %" PRIu64
			     " has been changed by something else", j->st[0]->name, e->off);
}

/* What the image has grown by and no record holds is zeros: else it is not ours to be cut off. */
static int compare_gaps(struct plt_journal *j, unsigned store, uint64_t size, struct plt_error *err)
{
	const struct plt_journal_store *s = &j->info.stores[store];
	uint64_t at = s->size_before;
	int r = 0;

	for (uint32_t i = 0; i <= j->n && r == 0; i++) {
		const struct plt_journal_entry *e = i < j->n ? &j->v[i] : NULL;
		uint64_t end = e ? PLT_MIN(e->off, size) : size;

		if (e && (e->kind != KIND_BYTES || e->store != store || e->off + e->len <= at))
			continue;
		for (uint64_t n; at < end && r == 0; at += n) {
			enum plt_store_kind kind;

			n = PLT_MIN(end - at, (uint64_t)PIECE);
			r = plt_store_extents(j->st[store], at, end - at, &kind, &n, err);
			if (r < 0 || kind != PLT_STORE_DATA)
				continue;
			n = PLT_MIN(n, (uint64_t)PIECE);
			r = plt_store_read(j->st[store], at, j->buf, n, PLT_IO_OTHER, err);
			if (r == 0 && !plt_is_zero(j->buf, n))
				r = plt_error_set(err, EUCLEAN, "'%s' is not what the repair left: there are bytes at %" PRIu64
						  " that are not from it", j->st[store]->name, at);
		}
		at = e && r == 0 ? e->off + e->len : at;
	}
	return r;
}

static int compare(struct plt_journal *j, unsigned allowed, struct plt_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < j->info.nstores && r == 0; i++) {
		const struct plt_journal_store *s = &j->info.stores[i];
		uint64_t low = allowed & IS_BEFORE ? s->size_before : s->size_after, size;

		r = plt_store_size(j->st[i], &size, err);
		if (r == 0 && (size < low || size > s->size_after))
			r = plt_error_set(err, EUCLEAN, "'%s' is not what the repair left: it has %" PRIu64 " bytes, not %"
					  PRIu64, j->st[i]->name, size, s->size_after);
		if (r == 0)
			r = compare_gaps(j, i, size, err);
	}
	for (uint32_t i = 0; i < j->n && r == 0; i++) {
		const struct plt_journal_entry *e = &j->v[i];

		if (e->kind == KIND_BYTES)
			r = compare_record(j, e, allowed, err);
		else if (e->kind == KIND_MARK)
			r = compare_mark(j, e, allowed, err);
	}
	return r;
}

static int sync_all(struct plt_journal *j, struct plt_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < j->info.nstores && r == 0; i++)
		r = plt_store_sync(j->st[i], err);
	return r;
}

/* The byte of the mark, durably: @which of its three values. */
static int put_mark(struct plt_journal *j, unsigned which, struct plt_error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < j->n && r == 0; i++) {
		const struct plt_journal_entry *e = &j->v[i];

		if (e->kind != KIND_MARK)
			continue;
		r = plt_store_write(j->st[0], e->off, &e->mark[which], 1, PLT_IO_HEADER, err);
		if (r == 0)
			r = plt_store_sync(j->st[0], err);
	}
	return r;
}

static bool is_hole(struct plt_store *st, uint64_t off, uint64_t len)
{
	enum plt_store_kind kind;
	uint64_t n;

	return plt_store_extents(st, off, len, &kind, &n, NULL) == 0 && kind == PLT_STORE_HOLE && n >= len;
}

/* One record's side into the image.  What lay behind the old end is cut off when it is taken back. */
static int put_side(struct plt_journal *j, const struct plt_journal_entry *e, bool after, struct plt_error *err)
{
	uint64_t size, len = e->len;
	int r = 0;

	if (e->kind == KIND_SIZE && after) {
		r = plt_store_size(j->st[e->store], &size, err);
		return r < 0 || size >= e->len ? r : plt_store_truncate(j->st[e->store], e->len, err);
	}
	if (e->kind != KIND_BYTES)
		return 0;
	if (!after) {
		uint64_t end = j->info.stores[e->store].size_before;

		len = e->off >= end ? 0 : PLT_MIN(len, end - e->off);
	}
	if (!len)
		return 0;
	/* what could not be written for lack of space still is a hole: it needs none to be one again */
	if (!after && e->flags & ZERO_BEFORE && is_hole(j->st[e->store], e->off, len))
		return 0;
	r = plt_journal_read_side(j, e, after, j->buf, err);
	return r < 0 ? r : plt_store_write(j->st[e->store], e->off, j->buf, len, PLT_IO_OTHER, err);
}

int plt_journal_apply(struct plt_journal *j, struct plt_error *err)
{
	int r;

	if (j->info.state == PLT_JOURNAL_APPLIED)
		return 0;
	if (j->info.state != PLT_JOURNAL_COMPLETE)
		return plt_error_set(err, EINVAL, "undo journal '%s' is not complete", j->file->name);
	r = compare(j, IS_BEFORE | IS_AFTER, err);
	if (r == 0)
		r = put_mark(j, 1, err);
	for (uint32_t i = 0; i < j->n && r == 0; i++)
		r = put_side(j, &j->v[i], true, err);
	if (r == 0)
		r = sync_all(j, err);
	if (r == 0)
		r = put_mark(j, 2, err);
	return r < 0 ? r : plt_journal_put_state(j, PLT_JOURNAL_APPLIED, err);
}

int plt_journal_rollback(struct plt_journal *j, struct plt_error *err)
{
	int r;

	if (j->info.state == PLT_JOURNAL_UNDONE)
		return 0;
	if (j->info.state != PLT_JOURNAL_COMPLETE && j->info.state != PLT_JOURNAL_APPLIED)
		return plt_error_set(err, EINVAL, "undo journal '%s' is not complete", j->file->name);
	if (j->info.state == PLT_JOURNAL_APPLIED) {
		r = compare(j, IS_AFTER, err);
		/* from here on a mixture may be there */
		if (r == 0)
			r = plt_journal_put_state(j, PLT_JOURNAL_COMPLETE, err);
	} else {
		r = compare(j, IS_BEFORE | IS_AFTER, err);
	}
	if (r == 0)
		r = put_mark(j, 1, err);
	for (uint32_t i = j->n; i-- && r == 0;)
		r = put_side(j, &j->v[i], false, err);
	if (r == 0)
		r = sync_all(j, err);
	for (unsigned i = 0; i < j->info.nstores && r == 0; i++) {
		uint64_t size;

		r = plt_store_size(j->st[i], &size, err);
		if (r == 0 && size > j->info.stores[i].size_before)
			r = plt_store_truncate(j->st[i], j->info.stores[i].size_before, err);
	}
	if (r == 0)
		r = put_mark(j, 0, err);
	if (r == 0)
		r = sync_all(j, err);
	return r < 0 ? r : plt_journal_put_state(j, PLT_JOURNAL_UNDONE, err);
}
