/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The directory of persistent bitmaps: which there are, and where their tables lie.  Nothing in it is believed
 * before it has been held against the file's size and the format's limits; a directory that is broken costs all
 * bitmaps, and nothing else.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

static int parse_entry(struct qcow2_state *q, const uint8_t *dir, uint64_t len, uint64_t *at,
		       struct qcow2_bitmap *b, struct plt_error *err)
{
	struct qcow2_bitmap_entry e;
	uint32_t extra, name;
	uint64_t size;

	if (len - *at < sizeof(e))
		return plt_error_set(err, EUCLEAN, "Broken bitmap directory");
	memcpy(&e, dir + *at, sizeof(e));
	extra = plt_be32_get(e.extra_data_size);
	name = plt_be16_get(e.name_size);
	size = plt_align_up((uint64_t)sizeof(e) + extra + name, 8);
	if (size > len - *at)
		return plt_error_set(err, EUCLEAN, "Broken bitmap directory");
	if (!name || name > QCOW2_MAX_BITMAP_NAME || e.type != 1)
		return plt_error_set(err, EUCLEAN,
				     "Broken bitmap directory: entry at byte %" PRIu64
				     " has type %u and "
				     "a name of %" PRIu32 " bytes",
				     *at, e.type, name);
	b->table_offset = plt_be64_get(e.table_offset);
	b->table_size = b->disk_table_size = plt_be32_get(e.table_size);
	b->flags = plt_be32_get(e.flags);
	b->granularity_bits = e.granularity_bits;
	b->dir_pos = q->bitmap_dir_offset + *at;
	if (b->granularity_bits < QCOW2_MIN_GRANULARITY_BITS ||
	    b->granularity_bits > QCOW2_MAX_GRANULARITY_BITS)
		return plt_error_set(err, EUCLEAN,
				     "Broken bitmap directory: granularity 2^%" PRIu32,
				     b->granularity_bits);
	if (!b->table_size || b->table_size > QCOW2_MAX_BITMAP_TABLE || !b->table_offset ||
	    b->table_offset & (q->cluster_size - 1) || b->table_offset > INT64_MAX / 2)
		return plt_error_set(err, EUCLEAN,
				     "Broken bitmap directory: table of %" PRIu32
				     " entries at offset %#" PRIx64,
				     b->table_size, b->table_offset);
	b->extra_size = extra;
	b->extra = malloc(extra ? extra : 1);
	b->name = strndup((const char *)dir + *at + sizeof(e) + extra, name);
	if (!b->extra || !b->name)
		return plt_error_set(err, ENOMEM, "Out of memory");
	memcpy(b->extra, dir + *at + sizeof(e), extra);
	*at += size;
	return 0;
}

int qcow2_bitmap_directory(struct plt_store *file, uint64_t file_size, struct qcow2_state *q,
			   struct plt_error *err)
{
	uint64_t len = q->bitmap_dir_size, at = 0;
	PLT_AUTOFREE uint8_t *dir = NULL;
	unsigned cap = 0;
	int r;

	if (!plt_in_range(q->bitmap_dir_offset, len, file_size))
		return plt_error_set(err, EUCLEAN,
				     "Bitmap directory (%" PRIu64 " bytes at offset %#" PRIx64
				     ") lies beyond "
				     "the end of the file",
				     len, q->bitmap_dir_offset);
	dir = plt_alloc_capped(len, 1, QCOW2_MAX_BITMAP_DIRECTORY);
	if (!dir)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = plt_store_read(file, q->bitmap_dir_offset, dir, len, PLT_IO_BITMAP, err);
	while (!r && at < len) {
		if (q->nbitmaps == q->nb_bitmaps) {
			r = plt_error_set(err, EUCLEAN,
					  "More bitmaps found than specified in header extension");
			break;
		}
		if (q->nbitmaps == cap) {
			unsigned more = cap ? cap * 2 : 8;
			void *v = realloc(q->bitmaps, more * sizeof(*q->bitmaps));

			if (!v) {
				r = plt_error_set(err, ENOMEM, "Out of memory");
				break;
			}
			q->bitmaps = v;
			cap = more;
		}
		memset(&q->bitmaps[q->nbitmaps], 0, sizeof(*q->bitmaps));
		q->nbitmaps++;
		r = parse_entry(q, dir, len, &at, &q->bitmaps[q->nbitmaps - 1], err);
	}
	if (!r && q->nbitmaps < q->nb_bitmaps)
		r = plt_error_set(err, EUCLEAN,
				  "Less bitmaps found than specified in header extension");
	if (r < 0)
		qcow2_bitmaps_release(q);
	return r;
}

int qcow2_bitmaps_list(struct plt_image *img, const struct plt_bitmap_info **ret, unsigned *ret_n)
{
	struct qcow2_state *q = qcow2_of(img);

	if (q->version < 3)
		return -ENOTSUP;
	free(q->bitmap_infos);
	q->bitmap_infos = calloc(q->nbitmaps + 1, sizeof(*q->bitmap_infos));
	if (!q->bitmap_infos)
		return -ENOMEM;
	for (unsigned i = 0; i < q->nbitmaps; i++)
		q->bitmap_infos[i] = (struct plt_bitmap_info){
			.name = q->bitmaps[i].name,
			.granularity = UINT32_C(1) << q->bitmaps[i].granularity_bits,
			.inconsistent = q->bitmaps[i].inconsistent,
			.enabled = q->bitmaps[i].flags & QCOW2_BITMAP_AUTO,
		};
	*ret = q->bitmap_infos;
	*ret_n = q->nbitmaps;
	return 0;
}

void qcow2_bitmaps_release(struct qcow2_state *q)
{
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		free(q->bitmaps[i].name);
		free(q->bitmaps[i].extra);
		free((void *)q->bitmaps[i].words);
	}
	free(q->bitmaps);
	free(q->bitmap_infos);
	q->bitmap_infos = NULL;
	q->bitmaps = NULL;
	q->nbitmaps = 0;
	q->bitmaps_recording = false;
}
