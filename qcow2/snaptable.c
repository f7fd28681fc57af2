/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The internal snapshot table, read and built.  Entries have no fixed length, so the table's size is only
 * known when all of it has been parsed; it is read through a window of a few pages, and memory
 * grows only with entries that the file really holds.  Whether a snapshot's own L1 table is sound
 * is left to whoever opens or checks it: the list itself must be readable for that.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

#define WINDOW (192u << 10) /* more than the longest entry: 40 + 1024 + 2 * 65535 */

struct window {
	struct plt_store *file;
	uint64_t file_size, off; /* off: file offset of buf[0] */
	uint32_t len;
	uint8_t *buf;
};

/* @len bytes at @off; EUCLEAN behind the end of the file. */
static int window_get(struct window *w, uint64_t off, uint32_t len, const uint8_t **ret,
		      struct plt_error *err)
{
	int r;

	if (!plt_in_range(off, len, w->file_size))
		return plt_error_set(err, EUCLEAN,
				     "Snapshot table lies beyond the end of the file (%" PRIu64
				     " bytes at offset %#" PRIx64 ", the file has %" PRIu64 ")",
				     (uint64_t)len, off, w->file_size);
	if (off < w->off || off + len > w->off + w->len) {
		uint64_t n = PLT_MIN((uint64_t)WINDOW, w->file_size - off);

		r = plt_store_read(w->file, off, w->buf, n, PLT_IO_SNAPSHOT_TABLE, err);
		if (r < 0) {
			plt_error_prefix(err, "Failed to read snapshot table");
			return r;
		}
		w->off = off;
		w->len = (uint32_t)n;
	}
	*ret = w->buf + (off - w->off);
	return 0;
}

/* One entry at @off; its length, padded, is added to *@off. */
static int parse_entry(struct window *w, const struct qcow2_state *q, unsigned index, uint64_t *off,
		       struct qcow2_snapshot *s, struct plt_error *err)
{
	uint32_t extra_len, id_len, name_len;
	struct qcow2_snapshot_entry e;
	const uint8_t *p;
	int r = window_get(w, *off, sizeof(e), &p, err);

	if (r < 0)
		return r;
	memcpy(&e, p, sizeof(e));
	extra_len = plt_be32_get(e.extra_data_size);
	id_len = plt_be16_get(e.id_size);
	name_len = plt_be16_get(e.name_size);
	if (extra_len > QCOW2_MAX_SNAPSHOT_EXTRA)
		return plt_error_set(err, EFBIG,
				     "Too much extra metadata in snapshot table entry %u", index);
	r = window_get(w, *off + sizeof(e), extra_len + id_len + name_len, &p, err);
	if (r < 0)
		return r;
	s->l1_offset = plt_be64_get(e.l1_table_offset);
	s->l1_size = plt_be32_get(e.l1_size);
	s->extra_size = extra_len;
	s->info.date_sec = plt_be32_get(e.date_sec);
	s->info.date_nsec = plt_be32_get(e.date_nsec);
	s->info.vm_clock_nsec = plt_be64_get(e.vm_clock_nsec);
	s->info.vm_state_size = extra_len >= 8 ? plt_get_be64(p) : plt_be32_get(e.vm_state_size);
	s->info.disk_size = extra_len >= 16 ? plt_get_be64(p + 8)
					    : plt_align_down(q->virtual_size, 512);
	s->info.icount = extra_len >= 24 ? (int64_t)plt_get_be64(p + 16) : -1;
	s->extra = malloc(extra_len ? extra_len : 1);
	s->info.id = strndup((const char *)p + extra_len, id_len);
	s->info.name = strndup((const char *)p + extra_len + id_len, name_len);
	if (!s->extra || !s->info.id || !s->info.name)
		return plt_error_set(err, ENOMEM, "Out of memory");
	memcpy(s->extra, p, extra_len);
	*off = plt_align_up(*off + sizeof(e) + extra_len + id_len + name_len, 8);
	return 0;
}

int qcow2_snaptable_read(struct plt_store *file, uint64_t file_size, struct qcow2_state *q,
			 struct plt_error *err)
{
	struct window w = {.file = file, .file_size = file_size};
	uint64_t off = q->snapshots_offset;
	uint32_t n = q->nb_snapshots, cap = 0;
	int r;

	if (!n)
		return 0;
	r = qcow2_check_table(q, off, n, sizeof(struct qcow2_snapshot_entry),
			      sizeof(struct qcow2_snapshot_entry) * QCOW2_MAX_SNAPSHOTS,
			      "Snapshot table", err);
	if (r < 0)
		return r;
	w.buf = malloc(WINDOW);
	if (!w.buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	q->nb_snapshots =
		0; /* counts what is in q->snapshots, so that release may follow at any point */
	for (uint32_t i = 0; !r && i < n; i++) {
		if (i == cap) {
			uint32_t more = PLT_MIN(n, cap ? cap * 2 : 16);
			void *v = realloc(q->snapshots, more * sizeof(*q->snapshots));

			if (!v) {
				r = plt_error_set(err, ENOMEM, "Out of memory");
				break;
			}
			q->snapshots = v;
			cap = more;
		}
		memset(&q->snapshots[i], 0, sizeof(q->snapshots[i]));
		q->nb_snapshots = i + 1;
		r = parse_entry(&w, q, i, &off, &q->snapshots[i], err);
		if (!r && off - q->snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE)
			r = plt_error_set(err, EFBIG, "Snapshot table is too big");
	}
	free(w.buf);
	if (!r) {
		q->snapshots_size = off - q->snapshots_offset;
		q->snapshot_infos = calloc(n, sizeof(*q->snapshot_infos));
		if (!q->snapshot_infos)
			r = plt_error_set(err, ENOMEM, "Out of memory");
		for (uint32_t i = 0; !r && i < n; i++)
			q->snapshot_infos[i] = q->snapshots[i].info;
	}
	if (r < 0) {
		qcow2_snapshots_release(q);
		q->nb_snapshots = n; /* as the header has it */
	}
	return r;
}

/* ---- building -------------------------------------------------------------------------------- */

/* The extra data, which has at least what version 3 demands and what we know; what we do not know is kept. */
static uint32_t extra_length(const struct qcow2_snapshot *s)
{
	return PLT_MAX(s->extra_size, (uint32_t)sizeof(struct qcow2_snapshot_extra));
}

static size_t entry_length(const struct qcow2_snapshot *s)
{
	return plt_align_up(sizeof(struct qcow2_snapshot_entry) + extra_length(s) + strlen(s->info.id) +
			    strlen(s->info.name), 8);
}

static void build_entry(const struct qcow2_snapshot *s, uint8_t *p)
{
	size_t id_len = strlen(s->info.id), name_len = strlen(s->info.name);
	const struct qcow2_snapshot_entry e = {
		.l1_table_offset = plt_be64_make(s->l1_offset),
		.l1_size = plt_be32_make(s->l1_size),
		.id_size = plt_be16_make((uint16_t)id_len),
		.name_size = plt_be16_make((uint16_t)name_len),
		.date_sec = plt_be32_make(s->info.date_sec),
		.date_nsec = plt_be32_make(s->info.date_nsec),
		.vm_clock_nsec = plt_be64_make(s->info.vm_clock_nsec),
		.vm_state_size = plt_be32_make(s->info.vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->info.vm_state_size),
		.extra_data_size = plt_be32_make(extra_length(s)),
	};
	const struct qcow2_snapshot_extra x = {
		.vm_state_size = plt_be64_make(s->info.vm_state_size),
		.disk_size = plt_be64_make(s->info.disk_size),
		.icount = plt_be64_make((uint64_t)s->info.icount),
	};

	memcpy(p, &e, sizeof(e));
	p += sizeof(e);
	memcpy(p, &x, sizeof(x));
	if (s->extra_size > sizeof(x))
		memcpy(p + sizeof(x), s->extra + sizeof(x), s->extra_size - sizeof(x));
	p += extra_length(s);
	memcpy(p, s->info.id, id_len);
	memcpy(p + id_len, s->info.name, name_len);
}

int qcow2_snaptable_build(const struct qcow2_snapshot *v, uint32_t n, uint8_t **ret, uint64_t *ret_size,
			  struct plt_error *err)
{
	uint64_t size = 0, at = 0;

	*ret = NULL;
	*ret_size = 0;
	for (uint32_t i = 0; i < n; i++)
		size += entry_length(&v[i]);
	if (size > QCOW2_MAX_SNAPSHOT_TABLE)
		return plt_error_set(err, EFBIG, "The table of snapshots would take %" PRIu64 " bytes; it can have %" PRIu64
				     " at most", size, QCOW2_MAX_SNAPSHOT_TABLE);
	*ret = calloc(1, size + 1);
	if (!*ret)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < n; i++) {
		build_entry(&v[i], *ret + at);
		at += entry_length(&v[i]);
	}
	*ret_size = size;
	return 0;
}

/* ---- of an open image ------------------------------------------------------------------------ */

int qcow2_snapshots_load(struct plt_image *img, struct plt_error *err)
{
	uint64_t size;
	int r = plt_store_size(img->file, &size, err);

	return r < 0 ? r : qcow2_snaptable_read(img->file, size, qcow2_of(img), err);
}

int qcow2_snapshots_list(struct plt_image *img, const struct plt_snapshot_info **ret,
			 unsigned *ret_n)
{
	const struct qcow2_state *q = qcow2_of(img);

	*ret = q->snapshot_infos;
	*ret_n = q->snapshot_infos ? q->nb_snapshots : 0;
	return 0;
}

void qcow2_snapshots_release(struct qcow2_state *q)
{
	for (uint32_t i = 0; q->snapshots && i < q->nb_snapshots; i++) {
		free(q->snapshots[i].info.id);
		free(q->snapshots[i].info.name);
		free(q->snapshots[i].extra);
	}
	free(q->snapshots);
	free(q->snapshot_infos);
	q->snapshots = NULL;
	q->snapshot_infos = NULL;
	q->nb_snapshots = 0;
}
