/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The list of persistent dirty bitmaps replaced by another: bitmaps added, removed, cleared, merged, switched on and
 * off, any number at once.
 *
 * What is new of it (data, tables, the directory) goes to fresh clusters, with their counts, and is made durable; one
 * write of the header's first sector switches from the old directory to the new one; only then is given back what
 * the old one alone has named.  So a power cut leaves all bitmaps as they were, or all as asked for.  A bitmap that
 * records while the disk is being written to is marked in use in the new directory too.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

int qcow2_bitmap_read(struct plt_image *img, unsigned i, uint64_t **ret, uint64_t *ret_nbits,
		      struct plt_error *err)
{
	struct qcow2_bitmap *b = &qcow2_of(img)->bitmaps[i];
	uint64_t words, file_size, *v;
	int r;

	r = b->words ? 0 : plt_store_size(img->file, &file_size, err);
	if (!r && !b->words)
		r = qcow2_bitmap_load(img, b, file_size, NULL, err);
	words = plt_div_up(b->nbits, 64);
	v = r ? NULL : plt_alloc_capped(words, sizeof(*v), SIZE_MAX / 2);
	if (!r && !v)
		r = plt_error_set(err, ENOMEM, "Out of memory");
	for (uint64_t w = 0; !r && w < words; w++) /* (pages of zeros stay untouched) */
		if (atomic_load_explicit(&b->words[w], memory_order_relaxed))
			v[w] = atomic_load_explicit(&b->words[w], memory_order_relaxed);
	*ret = v;
	*ret_nbits = b->nbits;
	if (!b->loaded) { /* one at a time is enough */
		free((void *)b->words);
		b->words = NULL;
	}
	return r;
}

/* ---- the new list ---------------------------------------------------------------------------- */

/* What becomes of one bitmap. */
struct entry {
	struct qcow2_bitmap b;   /* name and extra: its own, or those of the old one that is kept */
	int old;                 /* the one that it is or was; -1: none */
	bool stored;             /* has a new table */
	bool own;                /* name, extra and words are not the old one's */
};

struct plan {
	struct entry *v;
	unsigned n;
	uint64_t dir, dir_size;
};

static uint64_t entry_size(const struct qcow2_bitmap *b)
{
	return plt_align_up(sizeof(struct qcow2_bitmap_entry) + b->extra_size + strlen(b->name), 8);
}

/* All entries.  The positions in it go to the bitmaps later. */
static uint8_t *build_directory(const struct plan *p, uint32_t cluster_size, uint64_t *ret_len)
{
	uint64_t len = 0;
	uint8_t *dir, *at;

	for (unsigned i = 0; i < p->n; i++)
		len += entry_size(&p->v[i].b);
	*ret_len = len;
	dir = at = plt_alloc_capped(plt_align_up(len, cluster_size), 1, 2 * QCOW2_MAX_BITMAP_DIRECTORY);
	for (unsigned i = 0; dir && i < p->n; i++) {
		const struct qcow2_bitmap *b = &p->v[i].b;
		struct qcow2_bitmap_entry e = {
			.table_offset = plt_be64_make(b->table_offset),
			.table_size = plt_be32_make(b->disk_table_size),
			.flags = plt_be32_make(b->flags),
			.type = 1,
			.granularity_bits = (uint8_t)b->granularity_bits,
			.name_size = plt_be16_make((uint16_t)strlen(b->name)),
			.extra_data_size = plt_be32_make(b->extra_size),
		};

		memcpy(at, &e, sizeof(e));
		if (b->extra_size)
			memcpy(at + sizeof(e), b->extra, b->extra_size);
		memcpy(at + sizeof(e) + b->extra_size, b->name, strlen(b->name));
		at += entry_size(b);
	}
	return dir;
}

static int write_directory(struct plt_image *img, struct plan *p, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *dir = NULL;
	uint64_t clusters;
	int r;

	if (!p->n)
		return 0;
	dir = build_directory(p, q->cluster_size, &p->dir_size);
	if (p->dir_size > QCOW2_MAX_BITMAP_DIRECTORY)
		return plt_error_set(err, EFBIG, "The bitmap directory would be too large");
	if (!dir)
		return plt_error_set(err, ENOMEM, "Out of memory");
	clusters = plt_div_up(p->dir_size, q->cluster_size);
	r = qcow2_alloc(img, clusters, &p->dir, err);
	if (r < 0)
		p->dir = 0;
	if (r == 0)
		r = plt_store_write(img->file, p->dir, dir, clusters << q->cluster_bits, PLT_IO_BITMAP, err);
	return r;
}

/* The content of @b becomes @bits. */
static int set_content(const struct qcow2_state *q, struct qcow2_bitmap *b, const uint64_t *bits, struct plt_error *err)
{
	uint64_t words = plt_div_up(b->nbits, 64);

	b->words = plt_alloc_capped(words + 1, sizeof(*b->words), QCOW2_MAX_BITMAP_CONTENT + 16);
	if (!b->words)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (uint64_t w = 0; w < words; w++)
		if (bits[w]) {
			atomic_store_explicit(&b->words[w], bits[w], memory_order_relaxed);
			b->held += sizeof(bits[w]);
		}
	b->table_size = (uint32_t)plt_div_up(plt_div_up(b->nbits, 8), q->cluster_size);
	b->loaded = true;
	return 0;
}

static int begin_entry(struct plt_image *img, const struct plt_bitmap_wish *w, struct entry *e,
		       struct qcow2_bitmap_room *room, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_bitmap *b = &e->b;
	bool recording = w->info.enabled && !w->info.inconsistent;
	uint64_t file_size;
	int r = 0;

	e->old = w->keep;
	if (w->keep >= 0 && (w->info.inconsistent || w->info.enabled == q->bitmaps[w->keep].recording)) {
		*b = q->bitmaps[w->keep]; /* as it is */
		room->space += b->words ? plt_div_up(b->nbits, 8) : 0;
		room->held += b->words ? b->held : 0;
		return 0;
	}
	e->own = true;
	if (w->keep >= 0) { /* switched on or off */
		const struct qcow2_bitmap *old = &q->bitmaps[w->keep];

		*b = (struct qcow2_bitmap){ .granularity_bits = old->granularity_bits, .table_offset = old->table_offset,
					    .table_size = old->table_size, .disk_table_size = old->disk_table_size,
					    .extra_size = old->extra_size, .nbits = old->nbits,
					    .flags = old->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE };
		b->extra = plt_alloc_capped((size_t)old->extra_size + 1, 1, SIZE_MAX / 2);
		if (b->extra && old->extra_size)
			memcpy(b->extra, old->extra, old->extra_size);
	} else {
		b->granularity_bits = (uint32_t)__builtin_ctz(w->info.granularity);
		b->nbits = plt_div_up(atomic_load(&img->size), w->info.granularity);
		b->extra = plt_alloc_capped(1, 1, 1);
	}
	b->name = strdup(w->info.name);
	if (!b->name || !b->extra)
		return plt_error_set(err, ENOMEM, "Out of memory");
	if (recording)
		b->flags |= QCOW2_BITMAP_AUTO | (q->bitmaps_marked ? QCOW2_BITMAP_IN_USE : 0);
	if (w->keep < 0 && !b->nbits)
		return plt_error_set(err, EINVAL, "'%s': a disk of no length can have no bitmaps", img->name);
	if (!qcow2_bitmap_fits(room, plt_div_up(b->nbits, 8)))
		return plt_error_set(err, EFBIG, "The granularity of bitmap '%s' is too small for a disk of %" PRIu64
				     " bytes", b->name, atomic_load(&img->size));
	if (w->keep < 0) {
		r = set_content(q, b, w->bits, err);
		e->stored = true;
	} else if (q->bitmaps[w->keep].words) { /* what it has recorded meanwhile is not on the disk */
		PLT_AUTOFREE uint64_t *bits = NULL;

		r = qcow2_bitmap_read(img, (unsigned)w->keep, &bits, &b->nbits, err);
		if (r == 0)
			r = set_content(q, b, bits, err);
		e->stored = true;
	} else if (recording) {
		r = plt_store_size(img->file, &file_size, err);
		if (r == 0)
			r = qcow2_bitmap_load(img, b, file_size, room, err);
		b->loaded = r == 0;
	}
	b->recording = recording;
	if (e->stored && recording) {
		room->space += plt_div_up(b->nbits, 8);
		room->held += b->held;
	}
	return r;
}

static void release_entry(struct entry *e)
{
	if (!e->own)
		return;
	free(e->b.name);
	free(e->b.extra);
	free((void *)e->b.words);
}

/* Clusters that nothing names, or nothing any more. */
static void give_back(struct plt_image *img, const struct qcow2_bitmap *b)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t file_size = 0, *table = NULL;
	bool sound = plt_store_size(img->file, &file_size, NULL) == 0 &&
		     plt_in_range(b->table_offset, (uint64_t)b->disk_table_size * 8, file_size);

	if (sound)
		table = qcow2_bitmap_table(img, b, &err);
	for (uint32_t i = 0; table && sound && i < b->disk_table_size; i++)
		sound = !(table[i] & ~(QCOW2_BITMAP_TABLE_OFFSET | QCOW2_BITMAP_TABLE_ONES)) &&
			(table[i] & QCOW2_BITMAP_TABLE_OFFSET & (qcow2_of(img)->cluster_size - 1)) == 0 &&
			(table[i] & QCOW2_BITMAP_TABLE_OFFSET) < file_size;
	if (table && sound)
		qcow2_bitmap_free(img, table, b->disk_table_size, b->table_offset);
	else
		plt_ctx_warn(img->ctx, "'%s': the space of bitmap '%s' is not freed: its table is damaged", img->name,
			     b->name);
	free(table);
}

static int check(struct plt_image *img, const struct plt_bitmap_wish *v, unsigned n, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);

	if (q->version < 3)
		return plt_error_set(err, ENOTSUP, "Cannot store dirty bitmaps in qcow2 v2 files");
	if (q->bitmaps_damaged || (q->nb_bitmaps && !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS)))
		return plt_error_set(err, EUCLEAN, "The bitmaps that '%s' has already are unusable", img->name);
	if (n > QCOW2_MAX_BITMAPS)
		return plt_error_set(err, EFBIG, "Maximum number of persistent bitmaps is already reached");
	for (unsigned i = 0; i < n; i++) {
		if (v[i].info.granularity < UINT32_C(1) << QCOW2_MIN_GRANULARITY_BITS ||
		    !plt_is_pow2(v[i].info.granularity))
			return plt_error_set(err, EINVAL, "Granularity of %" PRIu32 " bytes is not possible",
					     v[i].info.granularity);
		if (strlen(v[i].info.name) > QCOW2_MAX_BITMAP_NAME)
			return plt_error_set(err, EINVAL, "Name length exceeds maximum (%d characters)",
					     QCOW2_MAX_BITMAP_NAME);
	}
	return 0;
}

/* Everything that the new directory names. */
static int write_new(struct plt_image *img, struct plan *p, struct plt_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < p->n; i++) {
		struct qcow2_bitmap *b = &p->v[i].b;
		uint64_t off;

		if (!p->v[i].stored)
			continue;
		r = qcow2_bitmap_store(img, b, &off, err);
		if (r < 0) {
			p->v[i].stored = false; /* what it took is lost space */
			break;
		}
		b->table_offset = off;
		b->disk_table_size = b->table_size;
	}
	if (r == 0)
		r = write_directory(img, p, err);
	return r < 0 ? r : plt_meta_flush(img, qcow2_rule(img, QCOW2_RULE_BITMAPS_NEW), err);
}

struct list {
	struct qcow2_bitmap *v;
	unsigned n;
	uint32_t nb;
	uint64_t dir, dir_size, autoclear;
};

/* The state's list becomes @l; @l, what it was. */
static void exchange(struct plt_image *img, struct list *l)
{
	struct qcow2_state *q = qcow2_of(img);
	struct list old = { q->bitmaps, q->nbitmaps, q->nb_bitmaps, q->bitmap_dir_offset, q->bitmap_dir_size, q->autoclear };

	pthread_rwlock_wrlock(&q->bitmaps_lock);
	pthread_mutex_lock(&img->lock);
	q->bitmaps = l->v;
	q->nbitmaps = l->n;
	q->nb_bitmaps = l->nb;
	q->bitmap_dir_offset = l->dir;
	q->bitmap_dir_size = l->dir_size;
	q->autoclear = l->autoclear;
	q->bitmaps_recording = false;
	for (unsigned i = 0; i < l->n; i++)
		q->bitmaps_recording |= l->v[i].recording;
	free(q->bitmap_infos);
	q->bitmap_infos = NULL;
	pthread_mutex_unlock(&img->lock);
	pthread_rwlock_unlock(&q->bitmaps_lock);
	*l = old;
}

/* From the old list to the new one, which @l gets ready for: afterwards it is the one that does not hold. */
static int switch_lists(struct plt_image *img, const struct plan *p, struct list *l, struct plt_error *err)
{
	uint64_t at = p->dir;
	int r;

	for (unsigned i = 0; i < p->n; i++) {
		struct qcow2_bitmap *b = &l->v[i];

		*b = p->v[i].b;
		b->dir_pos = at;
		at += entry_size(b);
		if (!b->recording && p->v[i].own) { /* its content is on the disk */
			b->words = NULL;
			b->loaded = false;
		}
	}
	exchange(img, l);
	r = qcow2_header_replace(img, err);
	if (r == 0)
		return 0;
	exchange(img, l);
	/* Which of the two the disk has nobody knows: it gets the old one, or nothing more is written. */
	if (qcow2_header_replace(img, NULL) < 0)
		atomic_store(&img->file->sync_error, EIO);
	return r;
}

/* The header does not name the old list any more.  What goes wrong here leaks space and nothing else. */
static void free_old(struct plt_image *img, const struct plan *p, const struct list *old)
{
	bool free_space = qcow2_guard_renew(img) == 0;

	if (free_space && old->dir_size)
		(void)qcow2_count_add(img, old->dir, old->dir_size, -1, NULL);
	for (unsigned i = 0; i < old->n; i++) {
		bool names = false, holds = false;

		for (unsigned k = 0; k < p->n; k++) {
			names |= p->v[k].old == (int)i && !p->v[k].own;
			holds |= p->v[k].old == (int)i && !p->v[k].stored;
		}
		if (free_space && !holds)
			give_back(img, &old->v[i]);
		if (names)
			continue;
		free(old->v[i].name);
		free(old->v[i].extra);
		free((void *)old->v[i].words);
	}
	if (plt_meta_flush(img, true, NULL) < 0)
		plt_ctx_warn(img->ctx, "'%s': the bitmaps are as asked for, but not all of the old ones' space is freed",
			     img->name);
}

int qcow2_bitmaps_set(struct plt_image *img, const struct plt_bitmap_wish *v, unsigned n, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plan p = { .v = calloc(n + 1, sizeof(*p.v)) };
	struct list l = { .v = calloc(n + 1, sizeof(*l.v)), .n = n, .nb = n };
	struct qcow2_bitmap_room room = { 0 };
	int r = p.v && l.v ? check(img, v, n, err) : plt_error_set(err, ENOMEM, "Out of memory");

	if (r == 0 && atomic_load(&q->corrupt))
		r = qcow2_refuse_corrupt(img, err);
	if (r == 0)
		r = qcow2_header_settle(img, err);
	if (r == 0)
		r = qcow2_guard_load(img, err);
	for (; r == 0 && p.n < n; p.n++)
		r = begin_entry(img, &v[p.n], &p.v[p.n], &room, err);
	if (r < 0) {
		for (unsigned i = 0; i < p.n; i++)
			p.v[i].stored = false;
	} else {
		r = write_new(img, &p, err);
	}
	if (r == 0) {
		l.dir = p.dir;
		l.dir_size = p.dir_size;
		l.autoclear = q->autoclear & QCOW2_AUTOCLEAR_KNOWN & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
		if (n)
			l.autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
		if (!qcow2_rule(img, QCOW2_RULE_BITMAPS_GONE)) { /* (tests only) */
			(void)qcow2_count_add(img, q->bitmap_dir_offset, q->bitmap_dir_size, -1, NULL);
			(void)plt_meta_flush(img, true, NULL);
		}
		r = switch_lists(img, &p, &l, err);
	}
	if (r == 0) {
		for (unsigned i = 0; i < n; i++)
			if (p.v[i].own && !q->bitmaps[i].words)
				free((void *)p.v[i].b.words);
		free_old(img, &p, &l);
	} else {
		for (unsigned i = 0; i < p.n; i++) {
			if (p.v[i].stored && p.dir) /* (without: nothing of what was stored is known to be whole) */
				give_back(img, &p.v[i].b);
			release_entry(&p.v[i]);
		}
		if (p.dir)
			(void)qcow2_count_add(img, p.dir, p.dir_size, -1, NULL);
	}
	free(l.v);
	free(p.v);
	return r;
}
