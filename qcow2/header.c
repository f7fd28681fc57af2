/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The first cluster, read: header, header extensions, backing file name.  Parses it into host
 * order, believing nothing: every field is held against its limit and against the other fields
 * before it is used, so that whoever holds a qcow2_state may shift by its bits and multiply its
 * counts.  What this program does not know (extensions, header bytes past the known ones, the
 * feature name table) is kept byte for byte for header_write.c.  Whether the tables lie inside the
 * file is open.c's and check.c's question.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

/* The part of the first cluster that has been read so far. */
struct area {
	struct plt_store *file;
	uint8_t *buf;
	uint64_t len;
};

static int area_fetch(struct area *a, uint64_t end, struct plt_error *err)
{
	uint64_t want = plt_align_up(end, 4096);
	uint8_t *p;
	int r;

	if (end <= a->len)
		return 0;
	p = realloc(a->buf, want);
	if (!p)
		return plt_error_set(err, ENOMEM, "Out of memory");
	a->buf = p;
	r = plt_store_read(a->file, a->len, a->buf + a->len, want - a->len, PLT_IO_HEADER, err);
	if (r < 0) {
		plt_error_prefix(err, "Could not read qcow2 header");
		return r;
	}
	a->len = want;
	return 0;
}

int qcow2_state_derive(struct qcow2_state *q)
{
	q->cluster_size = UINT32_C(1) << q->cluster_bits;
	q->extl2 = q->incompatible & QCOW2_INCOMPAT_EXTL2;
	q->l2_entry_size = q->extl2 ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->extl2 ? 4 : 3);
	q->sub_bits = q->cluster_bits - (q->extl2 ? 5 : 0);
	q->refcount_bits = 1U << q->refcount_order;
	q->refcount_max = q->refcount_order == 6 ? UINT64_MAX
						 : (UINT64_C(1) << q->refcount_bits) - 1;
	q->rb_bits = q->cluster_bits + 3 - q->refcount_order;
	q->external = q->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	q->data_file_raw = q->external && (q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW);
	return 0;
}

uint64_t qcow2_l1_entries(const struct qcow2_state *q, uint64_t size)
{
	unsigned bits = q->cluster_bits + q->l2_bits; /* at most 39 */

	return (size >> bits) + ((size & ((UINT64_C(1) << bits) - 1)) != 0);
}

int qcow2_check_table(const struct qcow2_state *q, uint64_t off, uint64_t entries,
		      uint64_t entry_len, uint64_t max_bytes, const char *what,
		      struct plt_error *err)
{
	if (entries > max_bytes / entry_len)
		return plt_error_set(err, EFBIG, "%s too large", what);
	if (off > (uint64_t)INT64_MAX - entries * entry_len || off & (q->cluster_size - 1))
		return plt_error_set(err, EINVAL, "%s offset invalid", what);
	return 0;
}

/* Name the unknown incompatible features, as far as the image's own feature table knows them. */
static int unsupported_features(const struct qcow2_state *q, uint64_t unknown,
				struct plt_error *err)
{
	uint32_t n = plt_div_up(q->feature_table_len, sizeof(struct qcow2_feature_name));
	char text[700];
	size_t used = 0;

	text[0] = 0;
	for (uint32_t i = 0; i < n && used < 600; i++) {
		struct qcow2_feature_name f = {0};
		size_t at = (size_t)i * sizeof(f); /* the last one may be short */

		memcpy(&f, q->feature_table + at, PLT_MIN(sizeof(f), q->feature_table_len - at));
		if (!f.name[0])
			break;
		if (f.type != 0 || f.bit > 63 || !(unknown >> f.bit & 1))
			continue;
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.46s",
					 used ? ", " : "", f.name);
		unknown &= ~(UINT64_C(1) << f.bit);
	}
	for (char *p = text; *p; p++) /* the file's bytes end up on a terminal */
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	if (unknown)
		snprintf(text + used, sizeof(text) - used,
			 "%sUnknown incompatible feature: %" PRIx64, used ? ", " : "", unknown);
	return plt_error_set(err, ENOTSUP, "Unsupported qcow2 feature(s): %s", text);
}

#define MAX_UNKNOWN 4096 /* extensions that are kept; a first cluster of 2 MiB has room for a quarter million */

static int keep_unknown(struct qcow2_state *q, uint32_t type, const uint8_t *data, uint32_t len,
			struct plt_error *err)
{
	struct qcow2_unknown_ext *v;

	if (q->nunknown == MAX_UNKNOWN)
		return plt_error_set(err, EFBIG, "More than %d unknown header extensions", MAX_UNKNOWN);
	v = realloc(q->unknown, (q->nunknown + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	q->unknown = v;
	v[q->nunknown] = (struct qcow2_unknown_ext){
		.type = type, .length = len, .data = malloc(len ? len : 1)};
	if (!v[q->nunknown].data)
		return -ENOMEM;
	memcpy(v[q->nunknown].data, data, len);
	q->nunknown++;
	return 0;
}

/*
 * The bitmaps extension.  What is wrong with it costs the bitmaps, not the disk: it is kept as an
 * unknown one and the state says that no bitmap may be trusted.
 */
static int parse_bitmaps_ext(struct qcow2_state *q, const uint8_t *data, uint32_t len,
			     struct plt_error *err)
{
	struct qcow2_ext_bitmaps e;

	if (len == sizeof(e)) {
		memcpy(&e, data, sizeof(e));
		q->nb_bitmaps = plt_be32_get(e.nb_bitmaps);
		q->bitmap_dir_size = plt_be64_get(e.directory_size);
		q->bitmap_dir_offset = plt_be64_get(e.directory_offset);
		if (q->nb_bitmaps && q->nb_bitmaps <= QCOW2_MAX_BITMAPS &&
		    !plt_be32_get(e.reserved) && q->bitmap_dir_size &&
		    q->bitmap_dir_size <= QCOW2_MAX_BITMAP_DIRECTORY && q->bitmap_dir_offset &&
		    !(q->bitmap_dir_offset & (q->cluster_size - 1)) &&
		    q->bitmap_dir_offset <= (uint64_t)INT64_MAX - q->bitmap_dir_size)
			return 0;
	}
	q->nb_bitmaps = 0;
	q->bitmap_dir_size = q->bitmap_dir_offset = 0;
	q->bitmaps_damaged = true;
	return keep_unknown(q, QCOW2_EXT_BITMAPS, data, len, err);
}

static int parse_ext(struct qcow2_state *q, uint32_t type, const uint8_t *data, uint32_t len,
		     char **format, struct plt_error *err)
{
	char *text;

	switch (type) {
	case QCOW2_EXT_BACKING_FORMAT:
		if (len > QCOW2_MAX_BACKING_FORMAT)
			return plt_error_set(err, EUCLEAN,
					     "ERROR: ext_backing_format: len=%" PRIu32
					     " too large (>=%d)",
					     len, QCOW2_MAX_BACKING_FORMAT + 1);
		text = strndup((const char *)data, len);
		if (!text)
			return -ENOMEM;
		free(*format);
		*format = text;
		return 0;
	case QCOW2_EXT_DATA_FILE:
		text = strndup((const char *)data, len);
		if (!text)
			return -ENOMEM;
		free(q->data_file_name);
		q->data_file_name = text;
		return 0;
	case QCOW2_EXT_FEATURES:
		free(q->feature_table);
		q->feature_table_len = 0;
		q->feature_table = malloc(len ? len : 1);
		if (!q->feature_table)
			return -ENOMEM;
		memcpy(q->feature_table, data, len);
		q->feature_table_len = len;
		return 0;
	case QCOW2_EXT_LUKS:
		if (q->crypt_method != QCOW2_CRYPT_LUKS)
			return plt_error_set(
				err, EINVAL,
				"CRYPTO header extension only expected with LUKS encryption method");
		if (len != 16)
			return plt_error_set(err, EINVAL,
					     "CRYPTO header extension size %" PRIu32
					     ", but expected size 16",
					     len);
		q->luks_offset = plt_get_be64(data);
		q->luks_length = plt_get_be64(data + 8);
		if (q->luks_offset & (q->cluster_size - 1))
			return plt_error_set(err, EINVAL,
					     "Encryption header offset '%" PRIu64
					     "' is not a multiple of cluster size '%" PRIu32 "'",
					     q->luks_offset, q->cluster_size);
		if (q->luks_offset > INT64_MAX ||
		    q->luks_length > (uint64_t)INT64_MAX - q->luks_offset)
			return plt_error_set(err, EINVAL,
					     "Encryption header length %" PRIu64 " invalid",
					     q->luks_length);
		return 0;
	case QCOW2_EXT_BITMAPS:
		return parse_bitmaps_ext(q, data, len, err);
	default:
		return keep_unknown(q, type, data, len, err);
	}
}

/* Extensions in [off, end).  Afterwards the area holds all of them. */
static int parse_extensions(struct area *a, struct qcow2_state *q, uint64_t off, uint64_t end,
			    char **format, struct plt_error *err)
{
	while (end >= sizeof(struct qcow2_ext) && off <= end - sizeof(struct qcow2_ext)) {
		uint32_t type, len;
		int r = area_fetch(a, off + sizeof(struct qcow2_ext), err);

		if (r < 0)
			return r;
		type = plt_get_be32(a->buf + off);
		len = plt_get_be32(a->buf + off + 4);
		off += sizeof(struct qcow2_ext);
		if (type == QCOW2_EXT_END)
			return 0;
		if (len > end - off)
			return plt_error_set(err, EINVAL, "Header extension too large");
		r = area_fetch(a, off + len, err);
		if (!r)
			r = parse_ext(q, type, a->buf + off, len, format, err);
		if (r < 0)
			return plt_error_default(err, -r, "Could not read header extensions");
		off += plt_align_up(len, 8);
	}
	return 0;
}

/* Only the feature name table: to say which features an image needs that is about to be refused. */
static void find_feature_table(struct area *a, struct qcow2_state *q, uint64_t off, uint64_t end)
{
	while (off + sizeof(struct qcow2_ext) <= end) {
		uint32_t type, len;

		if (area_fetch(a, off + sizeof(struct qcow2_ext), NULL) < 0)
			return;
		type = plt_get_be32(a->buf + off);
		len = plt_get_be32(a->buf + off + 4);
		off += sizeof(struct qcow2_ext);
		if (type == QCOW2_EXT_END || len > end - off || area_fetch(a, off + len, NULL) < 0)
			return;
		if (type == QCOW2_EXT_FEATURES) {
			(void)parse_ext(q, type, a->buf + off, len, NULL, NULL);
			return;
		}
		off += plt_align_up(len, 8);
	}
}

/* The fixed fields, into host order; refuses what makes the rest unreadable. */
static int parse_fixed(struct area *a, struct qcow2_state *q, struct plt_error *err)
{
	struct qcow2_header h;
	int r = area_fetch(a, sizeof(h), err);

	if (r < 0)
		return r;
	memcpy(&h, a->buf, sizeof(h));
	if (plt_be32_get(h.magic) != QCOW2_MAGIC)
		return plt_error_set(err, EINVAL, "Image is not in qcow2 format");
	q->version = plt_be32_get(h.version);
	if (q->version < 2 || q->version > 3)
		return plt_error_set(err, ENOTSUP, "Unsupported qcow2 version %" PRIu32,
				     q->version);
	q->cluster_bits = plt_be32_get(h.cluster_bits);
	if (q->cluster_bits < QCOW2_MIN_CLUSTER_BITS || q->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return plt_error_set(err, EINVAL, "Unsupported cluster size: 2^%" PRIu32,
				     q->cluster_bits);
	q->cluster_size = UINT32_C(1) << q->cluster_bits;
	q->virtual_size = plt_be64_get(h.size);
	q->crypt_method = plt_be32_get(h.crypt_method);
	q->l1_size = plt_be32_get(h.l1_size);
	q->l1_offset = plt_be64_get(h.l1_table_offset);
	q->reftable_offset = plt_be64_get(h.refcount_table_offset);
	q->reftable_clusters = plt_be32_get(h.refcount_table_clusters);
	q->nb_snapshots = plt_be32_get(h.nb_snapshots);
	q->snapshots_offset = plt_be64_get(h.snapshots_offset);
	q->header_length = QCOW2_V2_HEADER;
	q->refcount_order = 4;
	if (q->version >= 3) {
		q->incompatible = plt_be64_get(h.incompatible_features);
		q->compatible = plt_be64_get(h.compatible_features);
		q->autoclear = plt_be64_get(h.autoclear_features);
		q->refcount_order = plt_be32_get(h.refcount_order);
		q->header_length = plt_be32_get(h.header_length);
		if (q->header_length < QCOW2_V3_HEADER)
			return plt_error_set(err, EINVAL, "qcow2 header too short");
	}
	if (q->header_length > q->cluster_size)
		return plt_error_set(err, EINVAL, "qcow2 header exceeds cluster size");
	if (q->header_length > offsetof(struct qcow2_header, compression_type))
		q->compression = h.compression_type;
	if (q->header_length <= sizeof(h))
		return 0;
	r = area_fetch(a, q->header_length, err);
	if (r < 0)
		return r;
	q->header_tail_len = q->header_length - (uint32_t)sizeof(h);
	q->header_tail = malloc(q->header_tail_len);
	if (!q->header_tail)
		return plt_error_set(err, ENOMEM, "Out of memory");
	memcpy(q->header_tail, a->buf + sizeof(h), q->header_tail_len);
	return 0;
}

static int check_compression(const struct qcow2_state *q, struct plt_error *err)
{
	bool bit = q->incompatible & QCOW2_INCOMPAT_COMPRESSION;

	if (q->compression != QCOW2_COMPRESSION_ZLIB && q->compression != QCOW2_COMPRESSION_ZSTD)
		return plt_error_set(err, ENOTSUP, "qcow2: unknown compression type: %u",
				     (unsigned)q->compression);
	if (q->compression == QCOW2_COMPRESSION_ZLIB && bit)
		return plt_error_set(
			err, EINVAL,
			"qcow2: Compression type incompatible feature bit must not be set");
	if (q->compression != QCOW2_COMPRESSION_ZLIB && !bit)
		return plt_error_set(
			err, EINVAL,
			"qcow2: Compression type incompatible feature bit must be set");
	return 0;
}

/* Limits of all tables and agreement of size and L1. */
static int check_limits(const struct qcow2_state *q, bool check, struct plt_error *err)
{
	int r;

	if (q->extl2 && q->sub_bits < QCOW2_MIN_CLUSTER_BITS)
		return plt_error_set(err, EINVAL, "Unsupported subcluster size: %u",
				     1U << q->sub_bits);
	if (q->crypt_method > QCOW2_CRYPT_LUKS)
		return plt_error_set(err, EINVAL, "Unsupported encryption method %" PRIu32,
				     q->crypt_method);
	if (!q->reftable_clusters && !check)
		return plt_error_set(err, EINVAL, "Image does not contain a reference count table");
	r = qcow2_check_table(q, q->reftable_offset, q->reftable_clusters, q->cluster_size,
			      QCOW2_MAX_REFTABLE_BYTES, "Reference count table", err);
	if (!r && !check && q->nb_snapshots)
		r = qcow2_check_table(q, q->snapshots_offset, q->nb_snapshots,
				      sizeof(struct qcow2_snapshot_entry),
				      sizeof(struct qcow2_snapshot_entry) * QCOW2_MAX_SNAPSHOTS,
				      "Snapshot table", err);
	if (!r && (q->l1_size || q->virtual_size))
		r = qcow2_check_table(q, q->l1_offset, q->l1_size, 8, QCOW2_MAX_L1_BYTES,
				      "Active L1 table", err);
	if (r < 0)
		return r;
	if (q->virtual_size > INT64_MAX || qcow2_l1_entries(q, q->virtual_size) > INT32_MAX)
		return plt_error_set(err, EFBIG, "Image is too big");
	if (q->l1_size < qcow2_l1_entries(q, q->virtual_size))
		return plt_error_set(err, EINVAL, "L1 table is too small");
	return 0;
}

int qcow2_header_read(struct plt_store *file, const char *name, bool check, struct qcow2_state *q,
		      char **ret_backing, char **ret_backing_format, struct plt_error *err)
{
	struct area a = {.file = file};
	PLT_AUTOFREE char *format = NULL;
	char *backing = NULL;
	uint64_t backing_off = 0, end;
	uint32_t backing_len = 0;
	int r;

	(void)name; /* callers put it in front of the text */
	r = parse_fixed(&a, q, err);
	if (r < 0)
		goto fail;
	backing_off = plt_get_be64(a.buf + offsetof(struct qcow2_header, backing_file_offset));
	backing_len = plt_get_be32(a.buf + offsetof(struct qcow2_header, backing_file_size));
	if (backing_off > q->cluster_size) {
		r = plt_error_set(err, EINVAL, "Invalid backing file offset");
		goto fail;
	}
	end = backing_off ? backing_off : q->cluster_size;

	if (q->incompatible & q->ignore & QCOW2_INCOMPAT_KNOWN) {
		r = plt_error_set(err, EINVAL, "The image has incompatible features (%#" PRIx64 ") that are known: they are not "
				  "ignored", q->incompatible & q->ignore & QCOW2_INCOMPAT_KNOWN);
		goto fail;
	}
	q->ignored = q->incompatible & q->ignore;
	q->incompatible &= ~q->ignored;
	if (q->incompatible & ~QCOW2_INCOMPAT_KNOWN) {
		find_feature_table(&a, q, q->header_length, end);
		r = unsupported_features(q, q->incompatible & ~QCOW2_INCOMPAT_KNOWN, err);
		goto fail;
	}
	r = check_compression(q, err);
	if (r < 0)
		goto fail;
	if (q->refcount_order > 6) {
		r = plt_error_set(err, EINVAL,
				  "Reference count entry width too large; may not exceed 64 bits");
		goto fail;
	}
	qcow2_state_derive(q);
	r = check_limits(q, check, err);
	if (!r)
		r = parse_extensions(&a, q, q->header_length, end, &format, err);
	if (r < 0)
		goto fail;
	if (backing_off) {
		if (backing_len >
		    PLT_MIN((uint32_t)QCOW2_MAX_BACKING_NAME, q->cluster_size - backing_off)) {
			r = plt_error_set(err, EINVAL, "Backing file name too long");
			goto fail;
		}
		r = area_fetch(&a, backing_off + backing_len, err);
		if (r < 0)
			goto fail;
		backing = strndup((const char *)a.buf + backing_off, backing_len);
		if (!backing) {
			r = plt_error_set(err, ENOMEM, "Out of memory");
			goto fail;
		}
	}
	if (backing && !*backing) {
		free(backing);
		backing = NULL;
	}
	free(a.buf);
	*ret_backing = backing;
	*ret_backing_format = format && *format ? plt_steal(&format) : NULL;
	return 0;

fail:
	free(a.buf);
	qcow2_state_release(q);
	return r;
}

void qcow2_state_release(struct qcow2_state *q)
{
	for (unsigned i = 0; i < q->nunknown; i++)
		free(q->unknown[i].data);
	free(q->unknown);
	free(q->header_tail);
	free(q->feature_table);
	free(q->data_file_name);
	q->unknown = NULL;
	q->nunknown = 0;
	q->header_tail = q->feature_table = NULL;
	q->header_tail_len = q->feature_table_len = 0;
	q->data_file_name = NULL;
}
