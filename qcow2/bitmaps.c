/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Persistent dirty bitmaps: which granules the guest has written since some backup.  A bitmap that
 * misses a write makes the next incremental backup silently wrong, so the rule is: what cannot be
 * recorded must be marked as unusable before the write happens.  Before the first change every
 * bitmap that records is marked in use on the disk; only when its new content is durable does the
 * mark go.  A damaged directory or table costs bitmaps, never the disk: they stay where they are,
 * unusable.
 *
 * Storing writes to fresh clusters: data and tables with their counts, durable; then the
 * directory's offsets; then, in a further write, the marks (an entry may lie across two sectors);
 * then the old clusters are given back.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

/* ---- content --------------------------------------------------------------------------------- */

/* Entries that a bitmap's table must have, and its bits. */
static uint64_t expected_table(const struct qcow2_state *q, uint64_t size,
			       uint32_t granularity_bits, uint64_t *ret_nbits)
{
	*ret_nbits = plt_div_up(size, UINT64_C(1) << granularity_bits);
	return plt_div_up(plt_div_up(*ret_nbits, 8), q->cluster_size);
}

static uint64_t cluster_bits_of(const struct qcow2_state *q)
{
	return (uint64_t)q->cluster_size * 8;
}

uint64_t *qcow2_bitmap_table(struct plt_image *img, const struct qcow2_bitmap *b, struct plt_error *err)
{
	uint64_t *t = plt_alloc_capped(b->disk_table_size, 8, QCOW2_MAX_BITMAP_CONTENT);

	if (!t) {
		plt_error_set(err, ENOMEM, "Out of memory");
		return NULL;
	}
	if (plt_store_read(img->file, b->table_offset, t, (size_t)b->disk_table_size * 8,
			   PLT_IO_BITMAP, err) < 0) {
		free(t);
		return NULL;
	}
	for (uint32_t i = 0; i < b->disk_table_size; i++)
		t[i] = plt_get_be64(&t[i]);
	return t;
}

/* Bits of table entry @i from disk order to words. */
static void take_bits(struct qcow2_bitmap *b, uint64_t first, uint64_t n, const uint8_t *bytes)
{
	for (uint64_t w = 0; w < plt_div_up(n, 64); w++) {
		uint64_t v = bytes ? plt_get_le64(bytes + w * 8) : UINT64_MAX;

		if (n - w * 64 < 64)
			v &= (UINT64_C(1) << (n - w * 64)) - 1;
		if (v)
			atomic_store_explicit(&b->words[first / 64 + w], v, memory_order_relaxed);
	}
}

bool qcow2_bitmap_fits(const struct qcow2_bitmap_room *room, uint64_t bytes)
{
	return bytes <= QCOW2_MAX_BITMAP_CONTENT && bytes <= QCOW2_MAX_BITMAPS_SPACE - room->space;
}

int qcow2_bitmap_load(struct plt_image *img, struct qcow2_bitmap *b, uint64_t file_size,
		      struct qcow2_bitmap_room *room, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_bitmap_room alone = { 0 };
	uint64_t per = cluster_bits_of(q);
	PLT_AUTOFREE uint64_t *table = NULL;
	PLT_AUTOFREE uint8_t *buf = NULL;
	int r = 0;

	if (expected_table(q, atomic_load(&img->size), b->granularity_bits, &b->nbits) !=
	    b->table_size)
		return plt_error_set(err, EUCLEAN,
				     "Bitmap table size %" PRIu32
				     " does not correspond to bitmap size and "
				     "cluster size",
				     b->table_size);
	room = room ? room : &alone;
	if (!qcow2_bitmap_fits(room, plt_div_up(b->nbits, 8)))
		return plt_error_set(err, EFBIG, "Bitmap of %" PRIu64 " bits is too large",
				     b->nbits);
	b->held = 0;
	if (!plt_in_range(b->table_offset, (uint64_t)b->table_size * 8, file_size))
		return plt_error_set(err, EUCLEAN,
				     "Bitmap table at offset %#" PRIx64
				     " lies beyond the end of the file",
				     b->table_offset);
	table = qcow2_bitmap_table(img, b, err);
	buf = plt_alloc_io(q->cluster_size);
	b->words = calloc(plt_div_up(b->nbits, 64) + 1, sizeof(*b->words));
	if (!table || !buf || !b->words)
		return plt_error_default(err, ENOMEM, "Out of memory");
	for (uint32_t i = 0; !r && i < b->table_size; i++) {
		uint64_t e = table[i], off = e & QCOW2_BITMAP_TABLE_OFFSET;
		uint64_t n = PLT_MIN(per, b->nbits - i * per);

		if ((e & ~(QCOW2_BITMAP_TABLE_OFFSET | QCOW2_BITMAP_TABLE_ONES)) ||
		    (off && (e & QCOW2_BITMAP_TABLE_ONES)) || (off & (q->cluster_size - 1)) ||
		    off >= PLT_MAX(file_size, 1))
			return plt_error_set(err, EUCLEAN,
					     "Bitmap table entry %" PRIu32 " (%#" PRIx64
					     ") is invalid",
					     i, e);
		b->held += e ? plt_div_up(n, 8) : 0;
		if (b->held > QCOW2_MAX_BITMAPS_LOADED - room->held)
			return plt_error_set(err, EFBIG,
					     "The image's bitmaps would take more than %" PRIu64
					     " MiB of memory",
					     QCOW2_MAX_BITMAPS_LOADED >> 20);
		if (off) {
			r = plt_store_read(img->file, off, buf, q->cluster_size, PLT_IO_BITMAP,
					   err);
			if (!r)
				take_bits(b, i * per, n, buf);
		} else if (e) {
			take_bits(b, i * per, n, NULL);
		}
	}
	room->space += r ? 0 : plt_div_up(b->nbits, 8);
	room->held += r ? 0 : b->held;
	return r;
}

int qcow2_bitmaps_load(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_error why = PLT_ERROR_INIT;
	struct qcow2_bitmap_room room = { 0 };
	uint64_t file_size;
	int r;

	if (q->bitmaps_damaged)
		plt_ctx_warn(
			img->ctx,
			"'%s': the bitmaps extension of the header is damaged, the bitmaps cannot be used",
			img->name);
	if (!q->nb_bitmaps)
		return 0;
	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
		plt_ctx_warn(
			img->ctx,
			"a program lacking bitmap support modified this file, so all bitmaps are now "
			"considered inconsistent");
		return 0;
	}
	r = plt_store_size(img->file, &file_size, err);
	if (r < 0)
		return r;
	if (qcow2_on_metadata(q, q->bitmap_dir_offset, q->bitmap_dir_size)) /* marks would be written into it */
		r = plt_error_set(&why, EUCLEAN, "The bitmap directory lies on other metadata");
	else
		r = qcow2_bitmap_directory(img->file, file_size, q, &why);
	if (r == -ENOMEM)
		return plt_error_set(err, ENOMEM, "%s", why.text);
	if (r < 0 && r != -EUCLEAN && r != -ENOTSUP && r != -EFBIG && r != -EINVAL && img->writable)
		/* not damaged, only out of reach: to go on writing would be the end of them */
		return plt_error_set(err, -r, "bitmap directory: %s", why.text);
	if (r < 0) {
		plt_ctx_warn(img->ctx, "'%s': %s; the bitmaps cannot be used", img->name, why.text);
		q->bitmaps_damaged = true;
		return 0;
	}
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmaps[i];

		/*
		 * Extra data that this program does not know forbids using the bitmap, unless it
		 * says otherwise.
		 */
		if ((b->flags & QCOW2_BITMAP_IN_USE) ||
		    (b->extra_size && !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE)))
			b->inconsistent = true;
		if (!img->writable || b->inconsistent || !(b->flags & QCOW2_BITMAP_AUTO))
			continue;
		r = qcow2_bitmap_load(img, b, file_size, &room, &why);
		if (r == -ENOMEM)
			return plt_error_set(err, ENOMEM, "Bitmap '%s': %s", b->name, why.text);
		if (r < 0)
			plt_ctx_warn(img->ctx, "'%s': bitmap '%s' cannot be used: %s", img->name,
				     b->name, why.text);
		b->inconsistent = r <
				  0; /* and is marked so on the disk before anything is written */
		b->recording = b->loaded = r == 0;
		if (!b->recording) {
			free((void *)b->words);
			b->words = NULL;
		}
		q->bitmaps_recording |= b->recording;
	}
	return 0;
}

/* ---- recording ------------------------------------------------------------------------------- */

static int write_flags(struct plt_image *img, struct qcow2_bitmap *b, uint32_t flags,
		       struct plt_error *err)
{
	plt_be32 v = plt_be32_make(flags);
	int r = plt_store_write(img->file, b->dir_pos + offsetof(struct qcow2_bitmap_entry, flags),
				&v, sizeof(v), PLT_IO_BITMAP, err);

	if (!r)
		b->flags = flags;
	return r;
}

/* Every bitmap that guest writes concern: those that record, and those that should but cannot. */
static int mark_in_use(struct plt_image *img, bool all, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	bool any = false;
	int r = 0;

	for (unsigned i = 0; !r && i < q->nbitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmaps[i];

		if ((b->flags & QCOW2_BITMAP_IN_USE) || !(all || b->flags & QCOW2_BITMAP_AUTO))
			continue;
		any = true;
		r = write_flags(img, b, b->flags | QCOW2_BITMAP_IN_USE, err);
	}
	if (!r && any)
		r = plt_store_sync(img->file, err);
	if (r < 0)
		plt_error_prefix(err, "Could not mark the image's bitmaps as in use");
	return r;
}

int qcow2_bitmaps_mark_in_use(struct plt_image *img, struct plt_error *err)
{
	int r = mark_in_use(img, false, err);

	qcow2_of(img)->bitmaps_marked |= r == 0;
	return r;
}

void qcow2_bitmaps_record(struct plt_image *img, uint64_t off, uint64_t len)
{
	struct qcow2_state *q = qcow2_of(img);

	if (!q->bitmaps_recording || !len)
		return;
	pthread_rwlock_rdlock(&q->bitmaps_lock);
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmaps[i];
		uint64_t first = off >> b->granularity_bits,
			 last = (off + len - 1) >> b->granularity_bits;

		if (!b->recording || first >= b->nbits)
			continue;
		last = PLT_MIN(last, b->nbits - 1);
		atomic_store_explicit(&b->changed, true, memory_order_relaxed);
		for (uint64_t w = first / 64; w <= last / 64; w++) {
			uint64_t mask = UINT64_MAX;

			if (w == first / 64)
				mask &= UINT64_MAX << (first % 64);
			if (w == last / 64)
				mask &= UINT64_MAX >> (63 - last % 64);
			atomic_fetch_or_explicit(&b->words[w], mask, memory_order_relaxed);
		}
	}
	pthread_rwlock_unlock(&q->bitmaps_lock);
}

/* ---- another length -------------------------------------------------------------------------- */

/* What it holds counts for nothing any more, and the disk says so: its table may have any length. */
static bool is_void(const struct qcow2_bitmap *b)
{
	return b->inconsistent && b->flags & QCOW2_BITMAP_IN_USE;
}

/* Those of our own writes are loaded already. */
static int load_others(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_bitmap_room room = { 0 };
	uint64_t file_size;
	int r = plt_store_size(img->file, &file_size, err);

	for (unsigned i = 0; i < q->nbitmaps; i++)
		if (q->bitmaps[i].loaded) {
			room.space += plt_div_up(q->bitmaps[i].nbits, 8);
			room.held += q->bitmaps[i].held;
		}
	for (unsigned i = 0; r == 0 && i < q->nbitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmaps[i];

		if (b->loaded || is_void(b))
			continue;
		r = qcow2_bitmap_load(img, b, file_size, &room, err);
		b->loaded = r == 0;
		if (r < 0) {
			free((void *)b->words);
			b->words = NULL;
			plt_error_prefix(err, "Bitmap '%s'", b->name);
		}
	}
	return r;
}

int qcow2_bitmaps_prepare_resize(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_bitmap_room room = { 0 };
	uint64_t nbits, table;

	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0; /* of no use to anybody already */
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		const struct qcow2_bitmap *b = &q->bitmaps[i];

		if (b->inconsistent && !is_void(b))
			return plt_error_set(err, EINVAL, "Bitmap '%s' is inconsistent and cannot be used", b->name);
		table = expected_table(q, size, b->granularity_bits, &nbits);
		if (table > QCOW2_MAX_BITMAP_TABLE || !qcow2_bitmap_fits(&room, plt_div_up(nbits, 8)))
			return plt_error_set(err, EFBIG, "Bitmap '%s' cannot cover a disk of %" PRIu64 " bytes",
					     b->name, size);
		room.space += is_void(b) ? 0 : plt_div_up(nbits, 8);
	}
	return load_others(img, err);
}

static int set_length(struct qcow2_state *q, struct qcow2_bitmap *b, uint64_t size, struct plt_error *err)
{
	uint64_t nbits, table = expected_table(q, size, b->granularity_bits, &nbits);
	uint64_t words = plt_div_up(nbits, 64), keep = PLT_MIN(words, plt_div_up(b->nbits, 64));
	_Atomic uint64_t *v = calloc(words + 1, sizeof(*v)), *old = b->words;

	if (!v)
		return plt_error_set(err, ENOMEM, "Out of memory");
	pthread_rwlock_wrlock(&q->bitmaps_lock);
	for (uint64_t w = 0; w < keep; w++) /* (pages of zeros stay untouched) */
		if (atomic_load_explicit(&old[w], memory_order_relaxed))
			atomic_store_explicit(&v[w], atomic_load_explicit(&old[w], memory_order_relaxed),
					      memory_order_relaxed);
	if (nbits < b->nbits && nbits % 64)
		atomic_fetch_and_explicit(&v[words - 1], (UINT64_C(1) << nbits % 64) - 1, memory_order_relaxed);
	b->words = v;
	b->nbits = nbits;
	b->table_size = (uint32_t)table;
	atomic_store(&b->changed, true);
	pthread_rwlock_unlock(&q->bitmaps_lock);
	free((void *)old);
	return 0;
}

int qcow2_bitmaps_resize(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r;

	if (!q->nbitmaps || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	r = mark_in_use(img, true, err);
	for (unsigned i = 0; r == 0 && i < q->nbitmaps; i++)
		r = is_void(&q->bitmaps[i]) ? 0 : set_length(q, &q->bitmaps[i], size, err);
	return r;
}

/* ---- storing --------------------------------------------------------------------------------- */

/* What a bitmap will occupy, and did before. */
struct stored {
	uint64_t table_offset;
	uint32_t old_size;
	uint64_t old_table_offset;
	uint64_t *old_table;
	bool new_place;
};

static bool cluster_is_zero(const struct qcow2_bitmap *b, uint64_t first, uint64_t n)
{
	for (uint64_t w = first / 64; w < plt_div_up(first + n, 64); w++)
		if (atomic_load_explicit(&b->words[w], memory_order_relaxed))
			return false;
	return true;
}

/* Data and table of one bitmap into fresh clusters, whose counts are in the cache. */
int qcow2_bitmap_store(struct plt_image *img, struct qcow2_bitmap *b, uint64_t *ret_table,
		       struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t per = cluster_bits_of(q), used = 0, data = 0, table_clusters, next;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	PLT_AUTOFREE uint8_t *table = NULL;
	int r = 0;

	table_clusters = plt_div_up((uint64_t)b->table_size * 8, q->cluster_size);
	table = calloc(table_clusters, q->cluster_size);
	if (!buf || !table)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (uint32_t i = 0; i < b->table_size; i++)
		used += !cluster_is_zero(b, i * per, PLT_MIN(per, b->nbits - i * per));
	r = qcow2_alloc(img, table_clusters, ret_table, err);
	if (!r && used)
		r = qcow2_alloc(img, used, &data, err);
	next = data;
	for (uint32_t i = 0; !r && i < b->table_size; i++) {
		uint64_t n = PLT_MIN(per, b->nbits - i * per);

		if (cluster_is_zero(b, i * per, n) || next == data + used * q->cluster_size)
			continue;
		memset(buf, 0, q->cluster_size);
		for (uint64_t w = 0; w < plt_div_up(n, 64); w++)
			plt_put_le64(buf + w * 8, atomic_load_explicit(&b->words[i * per / 64 + w],
								       memory_order_relaxed));
		r = plt_store_write(img->file, next, buf, q->cluster_size, PLT_IO_BITMAP, err);
		plt_put_be64(table + (size_t)i * 8, next);
		next += q->cluster_size;
	}
	if (!r)
		r = plt_store_write(img->file, *ret_table, table,
				    table_clusters << q->cluster_bits, PLT_IO_BITMAP, err);
	return r;
}

/*
 * The directory points to the new table; its content does not count yet, for the mark is still
 * there.
 */
static int switch_table(struct plt_image *img, struct qcow2_bitmap *b, const struct stored *s,
			struct plt_error *err)
{
	struct qcow2_bitmap_entry e = {.table_offset = plt_be64_make(s->table_offset),
				       .table_size = plt_be32_make(b->table_size)};
	int r = plt_store_write(img->file, b->dir_pos, &e, offsetof(struct qcow2_bitmap_entry, flags),
				PLT_IO_BITMAP, err);

	if (!r) {
		b->table_offset = s->table_offset;
		b->disk_table_size = b->table_size;
	}
	return r;
}

void qcow2_bitmap_free(struct plt_image *img, const uint64_t *table, uint32_t entries, uint64_t table_offset)
{
	const struct qcow2_state *q = qcow2_of(img);

	for (uint32_t i = 0; table && i < entries; i++)
		if (table[i] & QCOW2_BITMAP_TABLE_OFFSET)
			(void)qcow2_count_add(img, table[i] & QCOW2_BITMAP_TABLE_OFFSET, q->cluster_size, -1, NULL);
	(void)qcow2_count_add(img, table_offset, (uint64_t)entries * 8, -1, NULL);
}

int qcow2_bitmaps_store(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_error local = PLT_ERROR_INIT;
	PLT_AUTOFREE struct stored *s = NULL;
	bool any = false, moved = false;
	int r = 0;

	if (!err) /* qcow2_bitmap_table() reports by it alone */
		err = &local;
	for (unsigned i = 0; i < q->nbitmaps; i++)
		any |= q->bitmaps[i].loaded && (q->bitmaps[i].flags & QCOW2_BITMAP_IN_USE);
	if (!any || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	s = calloc(q->nbitmaps, sizeof(*s));
	if (!s)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (unsigned i = 0; !r && i < q->nbitmaps; i++) {
		struct qcow2_bitmap *b = &q->bitmaps[i];

		if (!b->loaded || !(b->flags & QCOW2_BITMAP_IN_USE) || !atomic_load(&b->changed))
			continue;
		s[i].old_table_offset = b->table_offset;
		s[i].old_size = b->disk_table_size;
		s[i].old_table = qcow2_bitmap_table(img, b, err);
		r = s[i].old_table ? qcow2_bitmap_store(img, b, &s[i].table_offset, err) : -err->code;
		s[i].new_place = r == 0;
		moved |= s[i].new_place;
	}
	if (!r && moved)
		r = plt_meta_flush(img, true, err);
	for (unsigned i = 0; !r && i < q->nbitmaps; i++)
		if (s[i].new_place)
			r = switch_table(img, &q->bitmaps[i], &s[i], err);
	if (!r && moved)
		r = plt_store_sync(img->file, err);
	for (unsigned i = 0; !r && i < q->nbitmaps; i++)
		if (q->bitmaps[i].loaded && (q->bitmaps[i].flags & QCOW2_BITMAP_IN_USE))
			r = write_flags(img, &q->bitmaps[i],
					q->bitmaps[i].flags & ~QCOW2_BITMAP_IN_USE, err);
	if (!r)
		r = plt_store_sync(img->file, err);
	if (!r && moved && qcow2_guard_renew(img) < 0)
		goto out; /* the old places leak */
	for (unsigned i = 0; !r && i < q->nbitmaps; i++)
		if (s[i].new_place)
			qcow2_bitmap_free(img, s[i].old_table, s[i].old_size, s[i].old_table_offset);
	if (!r && moved)
		r = plt_meta_flush(img, true, err);
out:
	for (unsigned i = 0; i < q->nbitmaps; i++)
		free(s[i].old_table);
	if (r < 0)
		plt_error_prefix(
			err, "The image's bitmaps could not be stored and stay marked as in use");
	return r;
}
