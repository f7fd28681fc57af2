/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The first cluster, written.  Builds header, extensions and backing file name from a qcow2_state,
 * keeping byte for byte what header.c has kept, and writes them, whole or a few fields at a time.
 * What counts is switched inside one sector, so that no power cut tears it, and is durable on
 * return: callers free what the old header named as soon as it is back.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

/* ---- building -------------------------------------------------------------------------------- */

static const struct {
	uint8_t type, bit;
	const char *name;
} feature_names[] = {
	{0, 0, "dirty bit"},	    {0, 1, "corrupt bit"},	   {0, 2, "external data file"},
	{0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},	    {2, 1, "raw external data"},
};

int qcow2_feature_table_default(struct qcow2_state *q)
{
	size_t n = PLT_ARRAY_SIZE(feature_names);
	struct qcow2_feature_name *t = calloc(n, sizeof(*t));

	if (!t)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		t[i].type = feature_names[i].type;
		t[i].bit = feature_names[i].bit;
		memcpy(t[i].name, feature_names[i].name, strlen(feature_names[i].name));
	}
	free(q->feature_table);
	q->feature_table = (uint8_t *)t;
	q->feature_table_len = (uint32_t)(n * sizeof(*t));
	return 0;
}

/*
 * How long the header is when written: version 3 grows by the compression byte where it is needed.
 */
static uint32_t header_length(const struct qcow2_state *q)
{
	if (q->version < 3)
		return QCOW2_V2_HEADER;
	if (q->header_length < sizeof(struct qcow2_header) &&
	    (q->compression != QCOW2_COMPRESSION_ZLIB || q->header_length < QCOW2_V3_HEADER))
		return sizeof(struct qcow2_header);
	return q->header_length;
}

static void encode_fixed(const struct qcow2_state *q, uint64_t backing_off, uint32_t backing_len,
			 struct qcow2_header *h)
{
	memset(h, 0, sizeof(*h));
	h->magic = plt_be32_make(QCOW2_MAGIC);
	h->version = plt_be32_make(q->version);
	h->backing_file_offset = plt_be64_make(backing_off);
	h->backing_file_size = plt_be32_make(backing_len);
	h->cluster_bits = plt_be32_make(q->cluster_bits);
	h->size = plt_be64_make(q->virtual_size);
	h->crypt_method = plt_be32_make(q->crypt_method);
	h->l1_size = plt_be32_make(q->l1_size);
	h->l1_table_offset = plt_be64_make(q->l1_offset);
	h->refcount_table_offset = plt_be64_make(q->reftable_offset);
	h->refcount_table_clusters = plt_be32_make(q->reftable_clusters);
	h->nb_snapshots = plt_be32_make(q->nb_snapshots);
	h->snapshots_offset = plt_be64_make(q->snapshots_offset);
	h->incompatible_features = plt_be64_make(q->incompatible);
	h->compatible_features = plt_be64_make(q->compatible);
	h->autoclear_features = plt_be64_make(q->autoclear);
	h->refcount_order = plt_be32_make(q->refcount_order);
	h->header_length = plt_be32_make(header_length(q));
	h->compression_type = (uint8_t)q->compression;
}

struct out {
	uint8_t *buf;
	size_t at, cap;
	bool full;
};

static void put_ext(struct out *o, uint32_t type, const void *data, size_t len)
{
	size_t need = sizeof(struct qcow2_ext) + plt_align_up(len, 8);

	if (o->full || need > o->cap - o->at) {
		o->full = true;
		return;
	}
	plt_put_be32(o->buf + o->at, type);
	plt_put_be32(o->buf + o->at + 4, (uint32_t)len);
	if (len)
		memcpy(o->buf + o->at + sizeof(struct qcow2_ext), data, len);
	o->at += need;
}

/* With the backing file's name at @name_at (0: right behind the extensions). */
static int build(const struct qcow2_state *q, const char *backing, const char *backing_format, size_t name_at,
		 uint8_t *buf, size_t *ret_len, struct plt_error *err)
{
	struct out o = {.buf = buf, .cap = q->cluster_size};
	size_t backing_len = backing ? strlen(backing) : 0, backing_off = 0;
	struct qcow2_header h;

	if (backing_len > QCOW2_MAX_BACKING_NAME)
		return plt_error_set(err, EINVAL, "Backing file name too long");
	memset(buf, 0, q->cluster_size);
	o.at = header_length(q);
	if (q->header_tail_len)
		memcpy(buf + sizeof(h), q->header_tail, q->header_tail_len);
	if (backing_format)
		put_ext(&o, QCOW2_EXT_BACKING_FORMAT, backing_format, strlen(backing_format));
	if (q->data_file_name)
		put_ext(&o, QCOW2_EXT_DATA_FILE, q->data_file_name, strlen(q->data_file_name));
	if (q->luks_offset || q->luks_length) {
		uint8_t e[16];

		plt_put_be64(e, q->luks_offset);
		plt_put_be64(e + 8, q->luks_length);
		put_ext(&o, QCOW2_EXT_LUKS, e, sizeof(e));
	}
	if (q->feature_table)
		put_ext(&o, QCOW2_EXT_FEATURES, q->feature_table, q->feature_table_len);
	if (q->nb_bitmaps) {
		struct qcow2_ext_bitmaps e = {
			.nb_bitmaps = plt_be32_make(q->nb_bitmaps),
			.directory_size = plt_be64_make(q->bitmap_dir_size),
			.directory_offset = plt_be64_make(q->bitmap_dir_offset),
		};
		put_ext(&o, QCOW2_EXT_BITMAPS, &e, sizeof(e));
	}
	for (unsigned i = 0; i < q->nunknown; i++)
		put_ext(&o, q->unknown[i].type, q->unknown[i].data, q->unknown[i].length);
	put_ext(&o, QCOW2_EXT_END, NULL, 0);
	if (backing_len && o.at < name_at)
		o.at = PLT_MIN(name_at, o.cap);
	if (o.full || backing_len > o.cap - o.at)
		return plt_error_set(
			err, ENOSPC,
			"qcow2 header, its extensions and the backing file name do not "
			"fit into one cluster of %" PRIu32 " bytes",
			q->cluster_size);
	if (backing_len) {
		backing_off = o.at;
		memcpy(buf + o.at, backing, backing_len);
		o.at += backing_len;
	}
	encode_fixed(q, backing_off, (uint32_t)backing_len, &h);
	memcpy(buf, &h, PLT_MIN((size_t)header_length(q), sizeof(h)));
	*ret_len = o.at;
	return 0;
}

int qcow2_header_build(const struct qcow2_state *q, const char *backing, const char *backing_format,
		       uint8_t *buf, size_t *ret_len, struct plt_error *err)
{
	return build(q, backing, backing_format, 0, buf, ret_len, err);
}

/* ---- writing --------------------------------------------------------------------------------- */

#define SECTOR 512 /* what a power cut does not tear */

/* The bytes behind the first sector that the header on the disk may use: [*ret_from, *ret_to). */
static int used_behind(struct plt_image *img, uint8_t *buf, size_t *ret_from, size_t *ret_to, struct plt_error *err)
{
	size_t cs = qcow2_of(img)->cluster_size, from = SECTOR, to = cs;
	int r = plt_store_read(img->file, 0, buf, cs, PLT_IO_HEADER, err);

	while (r == 0 && from < cs && !buf[from])
		from++;
	while (r == 0 && to > from && !buf[to - 1])
		to--;
	*ret_from = from;
	*ret_to = to;
	return r;
}

/*
 * A backing file name that does not fit the first sector goes, durably, to where the header on the disk has
 * nothing; then the first sector names it.  *ret_sector: that sector.  @buf: all of it, up to *ret_end, where anything may have been before.
 */
static int place_name(struct plt_image *img, uint8_t *buf, uint8_t *ret_sector, size_t *ret_end, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	size_t len = img->backing_name ? strlen(img->backing_name) : 0, room, from, to, at, total;
	int r = used_behind(img, buf, &from, &to, err);

	if (r < 0)
		return r;
	room = plt_align_up(len, SECTOR);
	at = from >= SECTOR + room ? SECTOR : plt_align_up(to, SECTOR);
	if (!len || at > q->cluster_size || room > q->cluster_size - at)
		return plt_error_set(err, ENOSPC, "The header of '%s', with the names in it, cannot be replaced at once: "
				     "it takes more than %d bytes", img->name, SECTOR);
	pthread_mutex_lock(&img->lock);
	r = build(q, img->backing_name, img->backing_format, at, buf, &total, err);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		return r;
	for (size_t i = SECTOR; i < at; i++)
		if (buf[i])
			return plt_error_set(err, ENOSPC, "The header of '%s' has extensions beyond its first sector, "
					     "and cannot be replaced at once", img->name);
	memcpy(ret_sector, buf, SECTOR);
	*ret_end = PLT_MAX(at + room, (size_t)plt_align_up(to, SECTOR));
	r = plt_store_write(img->file, at, buf + at, room, PLT_IO_HEADER, err);
	return r < 0 ? r : plt_store_sync(img->file, err);
}

/* The names of features, which nobody needs: what follows the first sector counts with that. */
static void add_names(struct plt_image *img, const uint8_t *buf, size_t len)
{
	int r = 0;

	len = plt_align_up(len, SECTOR);
	if (len > SECTOR) {
		r = plt_store_write(img->file, SECTOR, buf + SECTOR, len - SECTOR, PLT_IO_HEADER, NULL);
		if (r == 0)
			r = plt_store_sync(img->file, NULL);
	}
	if (r == 0)
		r = plt_store_write(img->file, 0, buf, SECTOR, PLT_IO_HEADER, NULL);
	if (r == 0)
		r = plt_store_sync(img->file, NULL);
	if (r < 0)
		plt_ctx_warn(img->ctx, "'%s': the names of the features could not be written: %s", img->name,
			     strerror(-r));
}

int qcow2_header_replace(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(2 * (size_t)q->cluster_size);
	uint8_t *small = buf ? buf + q->cluster_size : NULL, *names;
	size_t len = 0, small_len, end = 0;
	bool apart;
	int r, full;

	if (!buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	PLT_LOCK_SCOPE(&q->header_lock);
	pthread_mutex_lock(&img->lock);
	full = qcow2_header_build(q, img->backing_name, img->backing_format, buf, &len, NULL);
	names = q->feature_table;
	q->feature_table = NULL;
	r = qcow2_header_build(q, img->backing_name, img->backing_format, small, &small_len, err);
	pthread_mutex_unlock(&img->lock);
	apart = r == 0 && small_len > SECTOR;
	if (apart)
		r = place_name(img, buf, small, &end, err);
	q->feature_table = names;
	if (r == 0)
		q->header_length = header_length(q);
	if (r == 0)
		r = plt_store_write(img->file, 0, small, SECTOR, PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r == 0)
		q->unsettled_to = 0;
	if (r == 0 && apart) /* nobody reads what was there; only the next name would find less room */
		(void)plt_store_write(img->file, SECTOR, buf + SECTOR, end - SECTOR, PLT_IO_HEADER, NULL);
	else if (r == 0 && full == 0 && len != small_len)
		add_names(img, buf, len);
	return r;
}

/* Header lock held. */
static int switch_locked(struct plt_image *img, unsigned from, unsigned to, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_header h;
	int r;

	/* The backing name's place is known only to a whole build. */
	assert(from >= offsetof(struct qcow2_header, cluster_bits) && from < to);
	assert(to <= sizeof(h) && to <= header_length(q));
	pthread_mutex_lock(&img->lock);
	encode_fixed(q, 0, 0, &h);
	pthread_mutex_unlock(&img->lock);
	r = plt_store_write(img->file, from, (const uint8_t *)&h + from, to - from, PLT_IO_HEADER,
			    err);
	if (!r)
		r = plt_store_sync(img->file, err);
	if (r < 0) {
		q->unsettled_from = q->unsettled_to ? PLT_MIN(q->unsettled_from, from) : from;
		q->unsettled_to = PLT_MAX(q->unsettled_to, to);
		plt_error_prefix(err, "Could not update the qcow2 header");
	} else if (from <= q->unsettled_from && to >= q->unsettled_to) {
		q->unsettled_to = 0;
	}
	return r;
}

int qcow2_header_switch(struct plt_image *img, unsigned from, unsigned to, struct plt_error *err)
{
	PLT_LOCK_SCOPE(&qcow2_of(img)->header_lock);
	return switch_locked(img, from, to, err);
}

int qcow2_header_settle(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);

	if (!atomic_load(&q->unsettled_to))
		return 0;
	PLT_LOCK_SCOPE(&q->header_lock);
	return q->unsettled_to ? switch_locked(img, q->unsettled_from, q->unsettled_to, err) : 0;
}

int qcow2_set_backing(struct plt_image *img, const char *name, const char *format, unsigned flags,
		      struct plt_error *err)
{
	char *new_name = name && *name ? strdup(name) : NULL;
	char *new_format = new_name && format && *format ? strdup(format) : NULL;
	char *old_name = img->backing_name, *old_format = img->backing_format;
	struct qcow2_state *q = qcow2_of(img);
	int r;

	if ((name && *name && !new_name) || (new_name && format && *format && !new_format)) {
		r = plt_error_set(err, ENOMEM, "Out of memory");
		goto fail;
	}
	if (new_name && q->data_file_raw) {
		r = plt_error_set(err, EINVAL,
				  "Backing file and data-file-raw cannot be used at the same time");
		goto fail;
	}
	if (new_format && strlen(new_format) > QCOW2_MAX_BACKING_FORMAT) {
		r = plt_error_set(err, EINVAL, "Backing format name '%s' too long", new_format);
		goto fail;
	}
	if (new_name && strlen(new_name) > QCOW2_MAX_BACKING_NAME) {
		r = plt_error_set(err, EINVAL, "Backing file name too long");
		goto fail;
	}
	if (flags & PLT_BACKING_TRIAL) {
		r = 0;
		goto fail;
	}
	pthread_mutex_lock(&img->lock);
	img->backing_name = new_name;
	img->backing_format = new_format;
	pthread_mutex_unlock(&img->lock);
	r = qcow2_header_replace(img, err);
	if (r < 0) {
		pthread_mutex_lock(&img->lock);
		img->backing_name = old_name;
		img->backing_format = old_format;
		pthread_mutex_unlock(&img->lock);
		goto fail;
	}
	free(old_name);
	free(old_format);
	return 0;

fail:
	free(new_name);
	free(new_format);
	return r;
}
