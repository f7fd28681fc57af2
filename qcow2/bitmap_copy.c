/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Persistent dirty bitmaps read out of one image and added to another, for convert.
 *
 * An added bitmap's data, its table and a new directory are written to fresh clusters, with their
 * counts, and made durable; then the header says that there are no bitmaps, then where the new
 * directory is, then that it counts: three writes, each durable, since the extension may lie across
 * two sectors.  A power cut in between costs bitmaps and never makes a wrong one look right.  Last,
 * the old directory is given back.  A bitmap that records is marked in use on the disk until the
 * image is closed, as if it had been there when it was opened.
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
		r = qcow2_bitmap_load(img, b, file_size, 0, err);
	words = plt_div_up(b->nbits, 64);
	v = r ? NULL : plt_alloc_capped(words, sizeof(*v), SIZE_MAX / 2);
	if (!r && !v)
		r = plt_error_set(err, ENOMEM, "Out of memory");
	for (uint64_t w = 0; !r && w < words; w++)
		v[w] = atomic_load_explicit(&b->words[w], memory_order_relaxed);
	*ret = v;
	*ret_nbits = b->nbits;
	if (!b->loaded) { /* one at a time is enough */
		free((void *)b->words);
		b->words = NULL;
	}
	return r;
}

/* ---- adding ---------------------------------------------------------------------------------- */

static uint64_t entry_size(const struct qcow2_bitmap *b)
{
	return plt_align_up(sizeof(struct qcow2_bitmap_entry) + b->extra_size + strlen(b->name), 8);
}

/* All entries, as they are on the disk and in memory.  The positions in it go to the bitmaps later. */
static uint8_t *build_directory(const struct qcow2_state *q, uint64_t *ret_len)
{
	uint64_t len = 0;
	uint8_t *dir, *p;

	for (unsigned i = 0; i < q->nbitmaps; i++)
		len += entry_size(&q->bitmaps[i]);
	*ret_len = len;
	dir = p = plt_alloc_capped(plt_align_up(len, q->cluster_size), 1, 2 * QCOW2_MAX_BITMAP_DIRECTORY);
	for (unsigned i = 0; dir && i < q->nbitmaps; i++) {
		const struct qcow2_bitmap *b = &q->bitmaps[i];
		struct qcow2_bitmap_entry e = {
			.table_offset = plt_be64_make(b->table_offset),
			.table_size = plt_be32_make(b->table_size),
			.flags = plt_be32_make(b->flags),
			.type = 1,
			.granularity_bits = (uint8_t)b->granularity_bits,
			.name_size = plt_be16_make((uint16_t)strlen(b->name)),
			.extra_data_size = plt_be32_make(b->extra_size),
		};

		memcpy(p, &e, sizeof(e));
		if (b->extra_size)
			memcpy(p + sizeof(e), b->extra, b->extra_size);
		memcpy(p + sizeof(e) + b->extra_size, b->name, strlen(b->name));
		p += entry_size(b);
	}
	return dir;
}

static int write_directory(struct plt_image *img, uint64_t *ret_off, uint64_t *ret_len, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *dir = build_directory(q, ret_len);
	uint64_t clusters = plt_div_up(*ret_len, q->cluster_size);
	int r;

	if (!dir)
		return plt_error_set(err, ENOMEM, "Out of memory");
	if (*ret_len > QCOW2_MAX_BITMAP_DIRECTORY)
		return plt_error_set(err, EFBIG, "The bitmap directory would be too large");
	r = qcow2_alloc(img, clusters, ret_off, err);
	if (!r)
		r = plt_store_write(img->file, *ret_off, dir, clusters << q->cluster_bits, PLT_IO_BITMAP, err);
	return r;
}

static int set_autoclear(struct plt_image *img, bool on, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);

	pthread_mutex_lock(&img->lock);
	q->autoclear = on ? q->autoclear | QCOW2_AUTOCLEAR_BITMAPS : q->autoclear & ~QCOW2_AUTOCLEAR_BITMAPS;
	pthread_mutex_unlock(&img->lock);
	return qcow2_header_switch(img, offsetof(struct qcow2_header, autoclear_features),
				   offsetof(struct qcow2_header, refcount_order), err);
}

/* From the old directory to the one at @off. */
static int switch_directory(struct plt_image *img, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t old_off = q->bitmap_dir_offset, old_len = q->nb_bitmaps ? q->bitmap_dir_size : 0;
	int r = q->autoclear & QCOW2_AUTOCLEAR_BITMAPS ? set_autoclear(img, false, err) : 0;

	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	q->nb_bitmaps = q->nbitmaps;
	q->bitmap_dir_offset = off;
	q->bitmap_dir_size = len;
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		q->bitmaps[i].dir_pos = off;
		off += entry_size(&q->bitmaps[i]);
	}
	pthread_mutex_unlock(&img->lock);
	r = qcow2_header_write(img, err);
	if (!r)
		r = set_autoclear(img, true, err);
	/* What goes wrong here leaks space and nothing else. */
	if (!r && qcow2_guard_renew(img) == 0 && old_len)
		(void)qcow2_count_add(img, old_off, old_len, -1, NULL);
	return r;
}

static int fill(struct qcow2_bitmap *b, const struct qcow2_state *q, const struct plt_bitmap_info *info,
		const uint64_t *bits, uint64_t nbits, struct plt_error *err)
{
	uint64_t words = plt_div_up(nbits, 64);

	b->name = strdup(info->name);
	b->extra = malloc(1);
	b->words = calloc(words + 1, sizeof(*b->words));
	if (!b->name || !b->extra || !b->words)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (uint64_t w = 0; w < words; w++)
		atomic_store_explicit(&b->words[w], bits[w], memory_order_relaxed);
	b->nbits = nbits;
	b->granularity_bits = (uint32_t)__builtin_ctz(info->granularity);
	b->table_size = (uint32_t)plt_div_up(plt_div_up(nbits, 8), q->cluster_size);
	b->recording = b->loaded = info->enabled;
	b->flags = info->enabled ? QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE : 0;
	return 0;
}

static int check(struct plt_image *img, const struct plt_bitmap_info *info, uint64_t nbits, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t want = plt_div_up(atomic_load(&img->size), info->granularity);

	if (q->bitmaps_damaged || (q->nb_bitmaps && !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS)))
		return plt_error_set(err, EUCLEAN, "The bitmaps that '%s' has already are unusable", img->name);
	if (info->granularity < UINT32_C(1) << QCOW2_MIN_GRANULARITY_BITS || !plt_is_pow2(info->granularity))
		return plt_error_set(err, EINVAL, "Granularity of %" PRIu32 " bytes is not possible", info->granularity);
	for (unsigned i = 0; i < q->nbitmaps; i++)
		if (!strcmp(q->bitmaps[i].name, info->name))
			return plt_error_set(err, EEXIST, "Bitmap already exists: %s", info->name);
	if (q->nbitmaps >= QCOW2_MAX_BITMAPS)
		return plt_error_set(err, EFBIG, "The image has %u bitmaps already", q->nbitmaps);
	if (nbits != want)
		return plt_error_set(err, EINVAL, "Bitmaps are of different sizes (%" PRIu64 " bits are needed, %" PRIu64
				     " are there)", want, nbits);
	return 0;
}

int qcow2_bitmap_add(struct plt_image *img, const struct plt_bitmap_info *info, const uint64_t *bits,
		     uint64_t nbits, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_bitmap *v, *b;
	uint64_t off = 0, len = 0;
	int r = check(img, info, nbits, err);

	if (!r)
		r = qcow2_first_write(img, err);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&q->bitmaps_lock);
	v = realloc(q->bitmaps, (q->nbitmaps + 1) * sizeof(*v));
	if (v)
		q->bitmaps = v;
	pthread_rwlock_unlock(&q->bitmaps_lock);
	if (!v)
		return plt_error_set(err, ENOMEM, "Out of memory");
	b = &v[q->nbitmaps];
	memset(b, 0, sizeof(*b));
	r = fill(b, q, info, bits, nbits, err);
	if (!r)
		r = qcow2_bitmap_store(img, b, &b->table_offset, err);
	q->nbitmaps++;
	if (!r)
		r = write_directory(img, &off, &len, err);
	if (!r)
		r = plt_meta_flush(img, true, err);
	if (r < 0) { /* clusters that were taken are lost space */
		q->nbitmaps--;
		free(b->name);
		free(b->extra);
		free((void *)b->words);
		return r;
	}
	q->bitmaps_recording |= b->recording;
	if (!b->recording) {
		free((void *)b->words);
		b->words = NULL;
	}
	r = switch_directory(img, off, len, err);
	if (r < 0)
		plt_error_prefix(err, "The image's bitmaps are lost");
	return r;
}
