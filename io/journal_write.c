/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Writing an undo journal: the before of each range is read from the image when its after is given.  What is
 * there means nothing until the first sector, which is written last, says "complete"; the image is only read.
 */
#include "io/journal_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "config.h"

/* A name need not be UTF-8, and JSON must be: of one that is not, the bytes that are not ASCII become '?'. */
static json_t *printable(const char *s)
{
	PLT_AUTOFREE char *copy = NULL;
	json_t *o = json_string(s);

	if (o)
		return o;
	copy = strdup(s);
	for (char *p = copy; p && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return copy ? json_string(copy) : NULL;
}

/* The description; sizes are known when all records are. */
static json_t *describe(const struct plt_journal *j, const struct plt_journal_info *info)
{
	json_t *stores = json_array();

	for (unsigned i = 0; i < info->nstores; i++) {
		const struct plt_journal_store *s = &info->stores[i];

		json_array_append_new(stores, json_pack("{s:s, s:o, s:I, s:I}", "role", s->role, "name", printable(s->name),
							"size-before", (json_int_t)j->info.stores[i].size_before,
							"size-after", (json_int_t)j->info.stores[i].size_after));
	}
	return json_pack("{s:s, s:s, s:s, s:o?, s:I, s:I, s:o}", "tool", PACKAGE_STRING, "format",
			 info->format ? info->format : "raw", "created", info->created ? info->created : "", "predecessor",
			 info->predecessor ? printable(info->predecessor) : NULL, "lost", (json_int_t)info->lost, "inferred",
			 (json_int_t)info->inferred, "stores", stores);
}

int plt_journal_begin(struct plt_store *file, const struct plt_journal_info *info, struct plt_store *const *stores,
		      struct plt_journal **ret, struct plt_error *err)
{
	struct plt_journal *j = plt_journal_new(file, err);
	int r = 0;

	if (!j)
		return -ENOMEM;
	for (unsigned i = 0; i < info->nstores && r == 0; i++) {
		j->st[i] = plt_store_ref(stores[i]);
		r = plt_store_size(stores[i], &j->info.stores[i].size_before, err);
		j->info.stores[i].size_after = j->info.stores[i].size_before;
	}
	if (r == 0) {
		j->text = describe(j, info);
		r = j->text ? plt_journal_take_texts(j, err) : plt_error_set(err, ENOMEM, "out of memory");
	}
	memcpy(j->head.magic, JOURNAL_MAGIC, sizeof(j->head.magic));
	memcpy(j->head.id, info->id, sizeof(info->id));
	memcpy(j->info.id, info->id, sizeof(info->id));
	j->head.version = plt_le32_make(JOURNAL_VERSION);
	/* records follow the head; the description, whose sizes are not known yet, comes last */
	j->end = SECTOR;
	j->head.records_off = plt_le64_make(j->end);
	if (r == 0)
		r = plt_store_truncate(file, 0, err);
	if (r == 0)
		r = plt_journal_put_state(j, PLT_JOURNAL_WRITING, err);
	if (r < 0) {
		plt_journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

static int put_record(struct plt_journal *j, struct plt_journal_entry *e, const uint8_t *before,
		      const uint8_t *after, struct plt_error *err)
{
	struct plt_journal_record rec = {
		.magic = "REC1",
		.store = plt_le32_make(e->store),
		.kind = plt_le32_make(e->kind),
		.flags = plt_le32_make(e->flags),
		.off = plt_le64_make(e->off),
		.len = plt_le64_make(e->len),
		.before_crc = plt_le32_make(before ? plt_journal_sum(before, e->len) : 0),
		.after_crc = plt_le32_make(after ? plt_journal_sum(after, e->len) : 0),
		.mark = { e->mark[0], e->mark[1], e->mark[2] },
	};
	int r;

	rec.crc = plt_le32_make(plt_journal_record_crc(&rec));
	e->at = j->end + sizeof(rec);
	r = plt_store_write(j->file, j->end, &rec, sizeof(rec), PLT_IO_OTHER, err);
	j->end = e->at;
	if (r == 0 && before) {
		r = plt_store_write(j->file, j->end, before, e->len, PLT_IO_OTHER, err);
		j->end += e->len;
	}
	if (r == 0 && after) {
		r = plt_store_write(j->file, j->end, after, e->len, PLT_IO_OTHER, err);
		j->end += e->len;
	}
	return r < 0 ? r : plt_journal_note(j, e, err);
}

int plt_journal_add_mark(struct plt_journal *j, uint64_t off, uint8_t mid, struct plt_error *err)
{
	struct plt_journal_entry e = { .kind = KIND_MARK, .off = off, .len = 1 };
	int r = plt_store_read(j->st[0], off, &e.mark[0], 1, PLT_IO_HEADER, err);

	e.mark[1] = mid;
	e.mark[2] = e.mark[0];
	if (r == 0)
		r = put_record(j, &e, NULL, NULL, err);
	if (r == 0)
		j->mark_off = off;
	return r;
}

int plt_journal_add_size(struct plt_journal *j, unsigned store, uint64_t size, struct plt_error *err)
{
	struct plt_journal_store *s = &j->info.stores[store];
	struct plt_journal_entry e = { .kind = KIND_SIZE, .store = store, .off = s->size_before, .len = size };

	if (size < s->size_before || size > INT64_MAX)
		return plt_error_set(err, EINVAL, "'%s': a repair does not shorten a file", s->name);
	s->size_after = size;
	return put_record(j, &e, NULL, NULL, err);
}

/* The byte of the mark is in no record but its own. */
static int set_mark_after(struct plt_journal *j, uint8_t value, struct plt_error *err)
{
	for (uint32_t i = 0; i < j->n; i++) {
		struct plt_journal_entry *e = &j->v[i];
		struct plt_journal_record rec;
		int r;

		if (e->kind != KIND_MARK)
			continue;
		r = plt_store_read(j->file, e->at - sizeof(rec), &rec, sizeof(rec), PLT_IO_OTHER, err);
		if (r < 0)
			return r;
		e->mark[2] = rec.mark[2] = value;
		rec.crc = plt_le32_make(plt_journal_record_crc(&rec));
		return plt_store_write(j->file, e->at - sizeof(rec), &rec, sizeof(rec), PLT_IO_OTHER, err);
	}
	return 0;
}

static int add_piece(struct plt_journal *j, unsigned store, uint64_t off, const uint8_t *after, uint64_t len,
		     struct plt_error *err)
{
	struct plt_journal_entry e = { .kind = KIND_BYTES, .store = store, .off = off, .len = len };
	int r = plt_store_read(j->st[store], off, j->buf, len, PLT_IO_OTHER, err);

	if (r < 0)
		return r;
	if (plt_is_zero(j->buf, len))
		e.flags |= ZERO_BEFORE;
	if (!after || plt_is_zero(after, len))
		e.flags |= ZERO_AFTER;
	return put_record(j, &e, e.flags & ZERO_BEFORE ? NULL : j->buf, e.flags & ZERO_AFTER ? NULL : after, err);
}

int plt_journal_add(struct plt_journal *j, unsigned store, uint64_t off, const void *after, uint64_t len,
		    struct plt_error *err)
{
	const uint8_t *p = after;
	uint64_t n;
	int r = 0;

	if (!plt_in_range(off, len, j->info.stores[store].size_after))
		return plt_error_set(err, EINVAL, "'%s': a change behind the end", j->info.stores[store].name);
	for (uint64_t at = 0; at < len && r == 0; at += n) {
		n = PLT_MIN(len - at, (uint64_t)PIECE);
		if (store == 0 && off + at == j->mark_off) {
			n = 1;
			r = set_mark_after(j, p ? p[at] : 0, err);
			continue;
		}
		if (store == 0 && off + at < j->mark_off)
			n = PLT_MIN(n, j->mark_off - off - at);
		r = add_piece(j, store, off + at, p ? p + at : NULL, n, err);
	}
	return r;
}

int plt_journal_complete(struct plt_journal *j, struct plt_error *err)
{
	json_t *text = describe(j, &j->info);
	PLT_AUTOFREE char *s = text ? json_dumps(text, JSON_INDENT(1)) : NULL;
	size_t len = s ? strlen(s) : 0;
	int r;

	json_decref(text);
	if (!s)
		return plt_error_set(err, ENOMEM, "out of memory");
	j->head.records_len = plt_le64_make(j->end - SECTOR);
	j->head.records = plt_le32_make(j->n);
	j->head.text_off = plt_le64_make(j->end);
	j->head.text_len = plt_le64_make(len);
	j->head.text_crc = plt_le32_make(plt_journal_sum(s, len));
	r = plt_store_write(j->file, j->end, s, len, PLT_IO_OTHER, err);
	if (r == 0)
		r = plt_store_sync(j->file, err);
	return r < 0 ? r : plt_journal_put_state(j, PLT_JOURNAL_COMPLETE, err);
}
