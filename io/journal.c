/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Undo journals.  The invariant: between "complete" and "applied" (or "undone") each sector of each range
 * is its before or its after, and both are in the journal, so that either can be brought about however
 * often the attempt is cut short.  A range is told from others by comparing bytes, never by trusting a
 * name.  Which changes are right, and when a journal is removed, is left to the repair.
 */
#include "io/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/error.h"
#include "base/zero.h"
#include "config.h"

#define SECTOR 512u
#define PIECE (1u << 20)         /* longest record */
#define MAX_TEXT (1u << 20)      /* of the description */
#define JOURNAL_VERSION 1u

static const char magic[8] = "PLTUNDO\n";

/* docs/formats/undo.md.  One sector, so that the state changes at once. */
struct head {
	uint8_t magic[8];
	plt_le32 version, state;
	uint8_t id[16];
	plt_le64 text_off, text_len;
	plt_le64 records_off, records_len;
	plt_le32 records, text_crc;
	uint8_t reserved[SECTOR - 8 - 8 - 16 - 32 - 8 - 4];
	plt_le32 crc;
};
_Static_assert(sizeof(struct head) == SECTOR, "one sector");

enum kind { KIND_BYTES = 1, KIND_SIZE, KIND_MARK };
enum { ZERO_BEFORE = 1, ZERO_AFTER = 2 };

struct record {
	uint8_t magic[4];
	plt_le32 store, kind, flags;
	plt_le64 off, len;        /* SIZE: before, after */
	plt_le32 before_crc, after_crc;
	uint8_t mark[3];          /* MARK: before, while under way, after */
	uint8_t reserved[64 - 16 - 16 - 8 - 3 - 4];
	plt_le32 crc;
};
_Static_assert(sizeof(struct record) == 64, "as documented");

/* Where a record is, and what it says. */
struct entry {
	uint64_t at;              /* of the bytes behind its header */
	uint64_t off, len;
	uint32_t store, kind, flags;
	uint8_t mark[3];
};

struct plt_journal {
	struct plt_store *file;
	struct plt_store *st[PLT_JOURNAL_STORES];
	struct plt_journal_info info;
	json_t *text;             /* owns the texts of info */
	struct head head;
	struct entry *v;
	uint32_t n, cap;
	uint64_t end;             /* where the next record goes */
	uint64_t mark_off;        /* UINT64_MAX: none */
	uint8_t *buf;             /* two pieces */
};

/* As iSCSI, XFS and VHDX have it. */
static uint32_t sum(const void *buf, size_t len)
{
	return ~plt_crc32c(UINT32_MAX, buf, len);
}

static uint32_t head_crc(const struct head *h)
{
	return sum(h, offsetof(struct head, crc));
}

static uint32_t record_crc(const struct record *r)
{
	return sum(r, offsetof(struct record, crc));
}

void plt_journal_free(struct plt_journal *j)
{
	if (!j)
		return;
	for (unsigned i = 0; i < PLT_JOURNAL_STORES; i++)
		plt_store_unref(j->st[i]);
	plt_store_unref(j->file);
	json_decref(j->text);
	free(j->v);
	free(j->buf);
	free(j);
}

const struct plt_journal_info *plt_journal_info(const struct plt_journal *j)
{
	return &j->info;
}

void plt_journal_attach(struct plt_journal *j, struct plt_store *const *stores)
{
	for (unsigned i = 0; i < j->info.nstores; i++) {
		plt_store_unref(j->st[i]);
		j->st[i] = plt_store_ref(stores[i]);
	}
}

static struct plt_journal *new_journal(struct plt_store *file, struct plt_error *err)
{
	struct plt_journal *j = calloc(1, sizeof(*j));

	if (j)
		j->buf = plt_alloc_io(2 * PIECE);
	if (!j || !j->buf) {
		free(j);
		plt_error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	j->file = plt_store_ref(file);
	j->mark_off = UINT64_MAX;
	return j;
}

static int add_entry(struct plt_journal *j, const struct entry *e, struct plt_error *err)
{
	if (j->n == j->cap) {
		uint32_t cap = j->cap ? 2 * j->cap : 64;
		struct entry *v = realloc(j->v, cap * sizeof(*v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		j->v = v;
		j->cap = cap;
	}
	j->v[j->n++] = *e;
	j->info.records = j->n;
	if (e->kind == KIND_BYTES)
		j->info.bytes += e->len;
	return 0;
}

/* ---- writing one ----------------------------------------------------------------------------- */

static int put_state(struct plt_journal *j, enum plt_journal_state state, struct plt_error *err)
{
	int r;

	j->head.state = plt_le32_make(state);
	j->head.crc = plt_le32_make(head_crc(&j->head));
	r = plt_store_write(j->file, 0, &j->head, sizeof(j->head), PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_sync(j->file, err);
	if (r == 0)
		j->info.state = state;
	return r;
}

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

/* Point info's texts into the description. */
static int take_texts(struct plt_journal *j, struct plt_error *err)
{
	json_t *stores = json_object_get(j->text, "stores");
	size_t n = json_array_size(stores);

	j->info.format = json_string_value(json_object_get(j->text, "format"));
	j->info.created = json_string_value(json_object_get(j->text, "created"));
	j->info.predecessor = json_string_value(json_object_get(j->text, "predecessor"));
	for (unsigned i = 0; i < 2; i++) {
		json_int_t v = json_integer_value(json_object_get(j->text, i ? "inferred" : "lost"));

		*(i ? &j->info.inferred : &j->info.lost) = v > 0 ? (uint64_t)v : 0;
	}
	if (!j->info.format || !n || n > PLT_JOURNAL_STORES)
		return plt_error_set(err, EUCLEAN, "undo journal: its description names no format, or %zu stores (1 to %u are "
				     "expected)", n, PLT_JOURNAL_STORES);
	j->info.nstores = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		const json_t *o = json_array_get(stores, i);
		struct plt_journal_store *s = &j->info.stores[i];
		json_int_t before = json_integer_value(json_object_get(o, "size-before")),
			   after = json_integer_value(json_object_get(o, "size-after"));

		s->role = json_string_value(json_object_get(o, "role"));
		s->name = json_string_value(json_object_get(o, "name"));
		if (!s->role || !s->name || before < 0 || after < before)
			return plt_error_set(err, EUCLEAN, "undo journal: store %zu has no name, or sizes that cannot be", i);
		s->size_before = (uint64_t)before;
		s->size_after = (uint64_t)after;
	}
	return 0;
}

int plt_journal_begin(struct plt_store *file, const struct plt_journal_info *info, struct plt_store *const *stores,
		      struct plt_journal **ret, struct plt_error *err)
{
	struct plt_journal *j = new_journal(file, err);
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
		r = j->text ? take_texts(j, err) : plt_error_set(err, ENOMEM, "out of memory");
	}
	memcpy(j->head.magic, magic, sizeof(magic));
	memcpy(j->head.id, info->id, sizeof(info->id));
	memcpy(j->info.id, info->id, sizeof(info->id));
	j->head.version = plt_le32_make(JOURNAL_VERSION);
	/* records follow the head; the description, whose sizes are not known yet, comes last */
	j->end = SECTOR;
	j->head.records_off = plt_le64_make(j->end);
	if (r == 0)
		r = plt_store_truncate(file, 0, err);
	if (r == 0)
		r = put_state(j, PLT_JOURNAL_WRITING, err);
	if (r < 0) {
		plt_journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

static int put_record(struct plt_journal *j, struct entry *e, const uint8_t *before, const uint8_t *after,
		      struct plt_error *err)
{
	struct record rec = {
		.magic = "REC1",
		.store = plt_le32_make(e->store),
		.kind = plt_le32_make(e->kind),
		.flags = plt_le32_make(e->flags),
		.off = plt_le64_make(e->off),
		.len = plt_le64_make(e->len),
		.before_crc = plt_le32_make(before ? sum(before, e->len) : 0),
		.after_crc = plt_le32_make(after ? sum(after, e->len) : 0),
		.mark = { e->mark[0], e->mark[1], e->mark[2] },
	};
	int r;

	rec.crc = plt_le32_make(record_crc(&rec));
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
	return r < 0 ? r : add_entry(j, e, err);
}

int plt_journal_add_mark(struct plt_journal *j, uint64_t off, uint8_t mid, struct plt_error *err)
{
	struct entry e = { .kind = KIND_MARK, .off = off, .len = 1 };
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
	struct entry e = { .kind = KIND_SIZE, .store = store, .off = s->size_before, .len = size };

	if (size < s->size_before || size > INT64_MAX)
		return plt_error_set(err, EINVAL, "'%s': a repair does not shorten a file", s->name);
	s->size_after = size;
	return put_record(j, &e, NULL, NULL, err);
}

/* The byte of the mark is in no record but its own. */
static int set_mark_after(struct plt_journal *j, uint8_t value, struct plt_error *err)
{
	for (uint32_t i = 0; i < j->n; i++) {
		struct entry *e = &j->v[i];
		struct record rec;
		int r;

		if (e->kind != KIND_MARK)
			continue;
		r = plt_store_read(j->file, e->at - sizeof(rec), &rec, sizeof(rec), PLT_IO_OTHER, err);
		if (r < 0)
			return r;
		e->mark[2] = rec.mark[2] = value;
		rec.crc = plt_le32_make(record_crc(&rec));
		return plt_store_write(j->file, e->at - sizeof(rec), &rec, sizeof(rec), PLT_IO_OTHER, err);
	}
	return 0;
}

static int add_piece(struct plt_journal *j, unsigned store, uint64_t off, const uint8_t *after, uint64_t len,
		     struct plt_error *err)
{
	struct entry e = { .kind = KIND_BYTES, .store = store, .off = off, .len = len };
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
	j->head.text_crc = plt_le32_make(sum(s, len));
	r = plt_store_write(j->file, j->end, s, len, PLT_IO_OTHER, err);
	if (r == 0)
		r = plt_store_sync(j->file, err);
	return r < 0 ? r : put_state(j, PLT_JOURNAL_COMPLETE, err);
}

/* ---- opening one ----------------------------------------------------------------------------- */

static int bad(struct plt_journal *j, struct plt_error *err, const char *what, uint64_t where)
{
	return plt_error_set(err, EUCLEAN, "undo journal '%s': %s (at byte %" PRIu64 ")", j->file->name, what, where);
}

static int read_head(struct plt_store *file, struct head *h, struct plt_error *err)
{
	uint64_t size;
	int r = plt_store_size(file, &size, err);

	if (r == 0 && size >= SECTOR)
		r = plt_store_read(file, 0, h, sizeof(*h), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	if (size < SECTOR || memcmp(h->magic, magic, sizeof(magic)))
		return plt_error_set(err, ENOENT, "'%s' is not an undo journal", file->name);
	if (plt_le32_get(h->crc) != head_crc(h))
		return plt_error_set(err, EUCLEAN, "undo journal '%s': the checksum of its first sector is wrong", file->name);
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
	struct head h;
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
	if (sum(s, len) != plt_le32_get(j->head.text_crc))
		return bad(j, err, "the checksum of its description is wrong", off);
	j->text = json_loadb(s, len, JSON_REJECT_DUPLICATES, NULL);
	return j->text ? take_texts(j, err) : bad(j, err, "its description is not JSON", off);
}

/* The bytes that a record keeps of one side, at @buf; the side is zeros where they are not kept. */
static int read_side(struct plt_journal *j, const struct entry *e, bool after, uint8_t *buf, struct plt_error *err)
{
	uint64_t at = e->at + (after && !(e->flags & ZERO_BEFORE) ? e->len : 0);

	if (e->flags & (after ? ZERO_AFTER : ZERO_BEFORE)) {
		memset(buf, 0, e->len);
		return 0;
	}
	return plt_store_read(j->file, at, buf, e->len, PLT_IO_OTHER, err);
}

static int check_record(struct plt_journal *j, const struct record *rec, const struct entry *e, uint64_t end,
			struct plt_error *err)
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
		r = read_side(j, e, side, j->buf, err);
		if (r == 0 && sum(j->buf, e->len) != plt_le32_get(side ? rec->after_crc : rec->before_crc))
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
		struct record rec;
		struct entry e;

		if (end - at < sizeof(rec))
			return bad(j, err, "a record is cut off", at);
		r = plt_store_read(j->file, at, &rec, sizeof(rec), PLT_IO_OTHER, err);
		if (r < 0)
			return r;
		if (memcmp(rec.magic, "REC1", 4) || plt_le32_get(rec.crc) != record_crc(&rec))
			return bad(j, err, "the checksum of a record is wrong", at);
		e = (struct entry){ .at = at + sizeof(rec), .off = plt_le64_get(rec.off), .len = plt_le64_get(rec.len),
				    .store = plt_le32_get(rec.store), .kind = plt_le32_get(rec.kind),
				    .flags = plt_le32_get(rec.flags), .mark = { rec.mark[0], rec.mark[1], rec.mark[2] } };
		if (e.store >= j->info.nstores)
			return bad(j, err, "a record of a store that the description does not have", at);
		r = check_record(j, &rec, &e, end, err);
		/* so the work is bounded by the image, whatever a journal says */
		if (r == 0 && e.kind == KIND_BYTES && e.off < done[e.store])
			r = bad(j, err, "a record that goes back behind the one before", at);
		if (e.kind == KIND_BYTES)
			done[e.store] = e.off + e.len;
		if (r == 0)
			r = add_entry(j, &e, err);
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
	struct plt_journal *j = new_journal(file, err);
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

/* ---- doing and taking back ------------------------------------------------------------------- */

enum { IS_BEFORE = 1, IS_AFTER = 2 };

/* Is each sector of what the image has one of the sides in @allowed? */
static int compare_record(struct plt_journal *j, const struct entry *e, unsigned allowed, struct plt_error *err)
{
	uint8_t *now = j->buf, *side = j->buf + PIECE;
	PLT_AUTOFREE uint8_t *ok = calloc(e->len / SECTOR + 2, 1);
	int r = ok ? plt_store_read(j->st[e->store], e->off, now, e->len, PLT_IO_OTHER, err) :
		     plt_error_set(err, ENOMEM, "out of memory");

	for (unsigned s = 0; s < 2 && r == 0; s++) {
		if (!(allowed & (s ? IS_AFTER : IS_BEFORE)))
			continue;
		r = read_side(j, e, s, side, err);
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

static int compare_mark(struct plt_journal *j, const struct entry *e, unsigned allowed, struct plt_error *err)
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
		const struct entry *e = i < j->n ? &j->v[i] : NULL;
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
		const struct entry *e = &j->v[i];

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
		const struct entry *e = &j->v[i];

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
static int put_side(struct plt_journal *j, const struct entry *e, bool after, struct plt_error *err)
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
	r = read_side(j, e, after, j->buf, err);
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
	return r < 0 ? r : put_state(j, PLT_JOURNAL_APPLIED, err);
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
			r = put_state(j, PLT_JOURNAL_COMPLETE, err);
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
	return r < 0 ? r : put_state(j, PLT_JOURNAL_UNDONE, err);
}
