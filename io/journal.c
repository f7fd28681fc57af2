/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an undo journal is in memory, for those that write, read and replay one.
 */
#include "io/journal_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

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

struct plt_journal *plt_journal_new(struct plt_store *file, struct plt_error *err)
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

int plt_journal_note(struct plt_journal *j, const struct plt_journal_entry *e, struct plt_error *err)
{
	if (j->n == j->cap) {
		uint32_t cap = j->cap ? 2 * j->cap : 64;
		struct plt_journal_entry *v = realloc(j->v, cap * sizeof(*v));

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

int plt_journal_take_texts(struct plt_journal *j, struct plt_error *err)
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
		return plt_error_set(err, EUCLEAN, "undo journal: its description names no format, or %zu stores "
				     "(1 to %u are expected)", n, PLT_JOURNAL_STORES);
	j->info.nstores = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		const json_t *o = json_array_get(stores, i);
		struct plt_journal_store *s = &j->info.stores[i];
		json_int_t before = json_integer_value(json_object_get(o, "size-before")),
			   after = json_integer_value(json_object_get(o, "size-after"));

		s->role = json_string_value(json_object_get(o, "role"));
		s->name = json_string_value(json_object_get(o, "name"));
		if (!s->role || !s->name || before < 0 || after < before)
			return plt_error_set(err, EUCLEAN, "undo journal: store %zu has no name, or sizes that cannot be",
					     i);
		s->size_before = (uint64_t)before;
		s->size_after = (uint64_t)after;
	}
	return 0;
}

int plt_journal_put_state(struct plt_journal *j, enum plt_journal_state state, struct plt_error *err)
{
	int r;

	j->head.state = plt_le32_make(state);
	j->head.crc = plt_le32_make(plt_journal_head_crc(&j->head));
	r = plt_store_write(j->file, 0, &j->head, sizeof(j->head), PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_sync(j->file, err);
	if (r == 0)
		j->info.state = state;
	return r;
}

int plt_journal_read_side(struct plt_journal *j, const struct plt_journal_entry *e, bool after, uint8_t *buf,
			  struct plt_error *err)
{
	uint64_t at = e->at + (after && !(e->flags & ZERO_BEFORE) ? e->len : 0);

	if (e->flags & (after ? ZERO_AFTER : ZERO_BEFORE)) {
		memset(buf, 0, e->len);
		return 0;
	}
	return plt_store_read(j->file, at, buf, e->len, PLT_IO_OTHER, err);
}
