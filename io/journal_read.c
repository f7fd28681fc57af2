/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Reading an undo journal.  It lies beside the image, and anybody may have written it: every sum, place and length
 * is checked before anything is done, and the work is bounded by the journal's and the image's length.
 */
#include "io/journal_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"

static int bad(struct plt_journal *j, struct plt_error *err, const char *what, uint64_t where)
{
	return plt_error_set(err, EUCLEAN, "undo journal '%s': %s (at byte %" PRIu64 ")", j->file->name, what, where);
}

static int read_head(struct plt_store *file, struct plt_journal_head *h, struct plt_error *err)
{
	uint64_t size;
	int r = plt_store_size(file, &size, err);

	if (r == 0 && size >= SECTOR)
		r = plt_store_read(file, 0, h, sizeof(*h), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	if (size < SECTOR || memcmp(h->magic, JOURNAL_MAGIC, sizeof(h->magic)))
		return plt_error_set(err, ENOENT, "'%s' is not an undo journal", file->name);
	if (plt_le32_get(h->crc) != plt_journal_head_crc(h))
		return plt_error_set(err, EUCLEAN, "undo journal '%s': the checksum of its first sector is wrong",
				     file->name);
	if (plt_le32_get(h->version) != JOURNAL_VERSION)
		return plt_error_set(err, ENOTSUP, "undo journal '%s': version %u (%u is known)", file->name,
				     plt_le32_get(h->version), JOURNAL_VERSION);
	if (plt_le32_get(h->state) < PLT_JOURNAL_WRITING || plt_le32_get(h->state) > PLT_JOURNAL_UNDONE)
		return plt_error_set(err, EUCLEAN, "undo journal '%s': state %u is unknown", file->name,
				     plt_le32_get(h->state));
	return 0;
}

/* A cut while it was being written may have lost its first sector, and kept some of what lies behind that. */
static bool is_headless(struct plt_store *file)
{
	uint8_t b[SECTOR + 4] = { 0 };
	uint64_t size;

	if (plt_store_size(file, &size, NULL) < 0 ||
	    plt_store_read(file, 0, b, PLT_MIN(size, (uint64_t)sizeof(b)), PLT_IO_HEADER, NULL) < 0)
		return false;
	return plt_is_zero(b, SECTOR) && (plt_is_zero(b + SECTOR, 4) || !memcmp(b + SECTOR, "REC1", 4));
}

int plt_journal_peek(struct plt_store *file, enum plt_journal_state *ret, struct plt_error *err)
{
	struct plt_journal_head h;
	int r = read_head(file, &h, err);

	if (r == 0)
		*ret = plt_le32_get(h.state);
	if (r == -ENOENT && is_headless(file)) {
		*ret = PLT_JOURNAL_WRITING;
		r = 0;
	}
	return r;
}

static int read_text(struct plt_journal *j, uint64_t size, struct plt_error *err)
{
	uint64_t off = plt_le64_get(j->head.text_off), len = plt_le64_get(j->head.text_len);
	PLT_AUTOFREE char *s = NULL;
	int r;

	if (len > MAX_TEXT || !plt_in_range(off, len, size))
		return bad(j, err, "its description lies beyond its end", off);
	s = malloc(len + 1);
	if (!s)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_store_read(j->file, off, s, len, PLT_IO_OTHER, err);
	if (r < 0)
		return r;
	if (plt_journal_sum(s, len) != plt_le32_get(j->head.text_crc))
		return bad(j, err, "the checksum of its description is wrong", off);
	j->text = json_loadb(s, len, JSON_REJECT_DUPLICATES, NULL);
	return j->text ? plt_journal_take_texts(j, err) : bad(j, err, "its description is not JSON", off);
}

static int check_record(struct plt_journal *j, const struct plt_journal_record *rec, const struct plt_journal_entry *e,
			uint64_t end, struct plt_error *err)
{
	const struct plt_journal_store *s = &j->info.stores[e->store];
	uint64_t kept;
	int r = 0;

	if (e->kind == KIND_SIZE)
		return e->off != s->size_before || e->len != s->size_after ?
		       bad(j, err, "a change of length that the description does not have", e->at) : 0;
	if (e->kind == KIND_MARK)
		return e->len != 1 || e->store || !plt_in_range(e->off, 1, s->size_before) ?
		       bad(j, err, "a mark that cannot be", e->at) : 0;
	if (e->kind != KIND_BYTES)
		return bad(j, err, "a record of unknown kind", e->at);
	if (!e->len || e->len > PIECE || !plt_in_range(e->off, e->len, s->size_after))
		return bad(j, err, "a record that reaches beyond its file", e->at);
	kept = e->len * (!(e->flags & ZERO_BEFORE) + !(e->flags & ZERO_AFTER));
	if (kept > end - e->at)
		return bad(j, err, "a record is cut off", e->at);
	for (unsigned side = 0; side < 2 && r == 0; side++) {
		if (e->flags & (side ? ZERO_AFTER : ZERO_BEFORE))
			continue;
		r = plt_journal_read_side(j, e, side, j->buf, err);
		if (r == 0 && plt_journal_sum(j->buf, e->len) != plt_le32_get(side ? rec->after_crc : rec->before_crc))
			r = bad(j, err, "the checksum of a record's bytes is wrong", e->at);
	}
	return r;
}

static int read_records(struct plt_journal *j, uint64_t size, struct plt_error *err)
{
	uint64_t at = plt_le64_get(j->head.records_off), len = plt_le64_get(j->head.records_len), end;
	uint64_t done[PLT_JOURNAL_STORES] = { 0 };
	uint32_t n = plt_le32_get(j->head.records);
	int r = 0;

	if (at < SECTOR || !plt_in_range(at, len, size))
		return bad(j, err, "its records lie beyond its end", at);
	end = at + len;
	while (at < end && r == 0) {
		struct plt_journal_record rec;
		struct plt_journal_entry e;

		if (end - at < sizeof(rec))
			return bad(j, err, "a record is cut off", at);
		r = plt_store_read(j->file, at, &rec, sizeof(rec), PLT_IO_OTHER, err);
		if (r < 0)
			return r;
		if (memcmp(rec.magic, "REC1", 4) || plt_le32_get(rec.crc) != plt_journal_record_crc(&rec))
			return bad(j, err, "the checksum of a record is wrong", at);
		e = (struct plt_journal_entry){
			.at = at + sizeof(rec), .off = plt_le64_get(rec.off), .len = plt_le64_get(rec.len),
			.store = plt_le32_get(rec.store), .kind = plt_le32_get(rec.kind), .flags = plt_le32_get(rec.flags),
			.mark = { rec.mark[0], rec.mark[1], rec.mark[2] },
		};
		if (e.store >= j->info.nstores)
			return bad(j, err, "a record of a store that the description does not have", at);
		r = check_record(j, &rec, &e, end, err);
		/* so the work is bounded by the image, whatever a journal says */
		if (r == 0 && e.kind == KIND_BYTES && e.off < done[e.store])
			r = bad(j, err, "a record that goes back behind the one before", at);
		if (e.kind == KIND_BYTES)
			done[e.store] = e.off + e.len;
		if (r == 0)
			r = plt_journal_note(j, &e, err);
		at = e.at;
		if (e.kind == KIND_BYTES)
			at += e.len * (!(e.flags & ZERO_BEFORE) + !(e.flags & ZERO_AFTER));
		if (e.kind == KIND_MARK)
			j->mark_off = e.off;
	}
	return r < 0 ? r : j->n != n ? bad(j, err, "it has not as many records as it says", end) : 0;
}

int plt_journal_open(struct plt_store *file, struct plt_journal **ret, struct plt_error *err)
{
	struct plt_journal *j = plt_journal_new(file, err);
	uint64_t size = 0;
	int r = j ? read_head(file, &j->head, err) : -ENOMEM;

	if (r == 0)
		r = plt_store_size(file, &size, err);
	if (r == 0) {
		j->info.state = plt_le32_get(j->head.state);
		memcpy(j->info.id, j->head.id, sizeof(j->info.id));
	}
	if (r == 0 && j->info.state != PLT_JOURNAL_WRITING) {
		r = read_text(j, size, err);
		if (r == 0)
			r = read_records(j, size, err);
	}
	if (r < 0) {
		plt_journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}
