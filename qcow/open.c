/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The qcow driver's table, opening and closing.  Opening reads the header and the name of the backing
 * file and holds every field against its limits and the file's length.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow/qcow.h"

static int qcow_probe(const uint8_t *buf, size_t len, uint64_t size)
{
	(void)size;
	return len >= 8 && plt_get_be32(buf) == QCOW_MAGIC && plt_get_be32(buf + 4) == 1 ? 100 : 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

int qcow_parse(struct plt_image *img, const struct qcow_header *h, uint64_t file_size, struct plt_error *err)
{
	struct qcow_state *s = qcow_of(img);
	uint64_t size = plt_be64_get(h->size), len;
	unsigned shift;

	if (plt_be32_get(h->magic) != QCOW_MAGIC)
		return plt_error_set(err, EINVAL, "Image not in qcow format");
	if (plt_be32_get(h->version) != 1)
		return plt_error_set(err, ENOTSUP, "qcow (v%u) does not support qcow version %u", 1,
				     plt_be32_get(h->version));
	if (size <= 1)
		return plt_error_set(err, EINVAL, "Image size is too small (must be at least 2 bytes)");
	s->cluster_bits = h->cluster_bits;
	if (s->cluster_bits < QCOW_MIN_CLUSTER_BITS || s->cluster_bits > QCOW_MAX_CLUSTER_BITS)
		return plt_error_set(err, EINVAL, "Cluster size must be between 512 and 64k (the header says 2^%u)",
				     s->cluster_bits);
	s->l2_bits = h->l2_bits;
	if (s->l2_bits < QCOW_MIN_L2_BITS || s->l2_bits > QCOW_MAX_L2_BITS)
		return plt_error_set(err, EINVAL, "L2 table size must be between 512 and 64k (the header says 2^%u "
				     "entries)", s->l2_bits);
	if (plt_be32_get(h->crypt_method) > QCOW_CRYPT_AES)
		return plt_error_set(err, EINVAL, "invalid encryption method in qcow header (%u)",
				     plt_be32_get(h->crypt_method));
	s->crypt = (enum qcow_crypt)plt_be32_get(h->crypt_method);
	s->cluster_size = UINT32_C(1) << s->cluster_bits;
	shift = s->cluster_bits + s->l2_bits;
	if (size > INT64_MAX - 511 || plt_div_up(size, UINT64_C(1) << shift) > QCOW_MAX_L1_ENTRIES)
		return plt_error_set(err, EFBIG, "Image too large (%" PRIu64 " bytes)", size);
	s->l1_size = plt_div_up(size, UINT64_C(1) << shift);
	s->l1_offset = plt_be64_get(h->l1_table_offset);
	len = s->l1_size * 8;
	if (s->l1_offset < sizeof(*h) || s->l1_offset % 8 ||
	    !plt_in_range(s->l1_offset, len, plt_align_up(file_size, s->cluster_size)))
		return plt_error_set(err, EUCLEAN, "L1 table (%" PRIu64 " bytes at offset %#" PRIx64 ") does not lie between "
				     "the header and the end of the file (%" PRIu64 " bytes): the file is truncated or the "
				     "header is damaged", len, s->l1_offset, file_size);
	img->slice = PLT_MIN(s->cluster_size, (uint32_t)PLT_SLICE);
	img->alloc_unit = s->cluster_size;
	s->tables_end = plt_align_up(s->l1_offset + len, img->slice);
	/* a last cluster may have been written in part */
	s->end = plt_align_up(PLT_MAX(file_size, s->tables_end), s->cluster_size);
	s->fresh_from = s->end;
	atomic_store(&img->size, plt_align_down(size, 512));
	return 0;
}

static int read_backing(struct plt_image *img, const struct qcow_header *h, struct plt_error *err)
{
	uint64_t off = plt_be64_get(h->backing_file_offset);
	uint32_t len = plt_be32_get(h->backing_file_size);
	char name[QCOW_MAX_BACKING_NAME + 1] = { 0 };
	int r;

	if (!off)
		return 0;
	if (len > QCOW_MAX_BACKING_NAME)
		return plt_error_set(err, EINVAL, "Backing file name too long (%u bytes)", len);
	if (off > INT64_MAX)
		return plt_error_set(err, EUCLEAN, "the offset of the backing file's name (%#" PRIx64 ") is out of range",
				     off);
	r = plt_store_read(img->file, off, name, len, PLT_IO_HEADER, err);
	if (r < 0 || !*name)
		return r;
	img->backing_name = strdup(name);
	return img->backing_name ? 0 : plt_error_set(err, ENOMEM, "out of memory");
}

static int unlock(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct qcow_state *s = qcow_of(img);
	const char *format = how->opts ? plt_opts_get(how->opts, "encrypt.format") : NULL;
	const char *id = how->opts ? plt_opts_get(how->opts, "encrypt.key-secret") : NULL;
	struct plt_secret secret = PLT_SECRET_INIT;
	int r;

	if (s->crypt == QCOW_CRYPT_NONE)
		return format ? plt_error_set(err, EINVAL, "No encryption in image header, but options specified format "
					      "'%s'", format) : 0;
	img->encrypted = true;
	if (format && strcmp(format, "aes"))
		return plt_error_set(err, EINVAL, "Header reported 'aes' encryption format but options specify '%s'",
				     format);
	if (how->no_refs || how->check || how->no_key) {
		s->locked = true;
		return 0;
	}
	if (!id)
		return plt_error_set(err, EINVAL, "Parameter 'encrypt.key-secret' is required for cipher");
	r = plt_secret_get(img->ctx, id, &secret, err);
	if (r == 0)
		r = plt_cipher_new_legacy(&secret, &s->cipher, err);
	plt_secret_release(&secret);
	return r;
}

static void release(struct plt_image *img)
{
	struct qcow_state *s = qcow_of(img);

	plt_cipher_free(s->cipher);
	free(s);
	img->priv = NULL;
	plt_store_unref(img->data);
	img->data = NULL;
}

int qcow_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct qcow_header h;
	uint64_t size;
	int r = plt_store_size(img->file, &size, err);

	if (r == 0 && (how->snapshot || how->snapshot_id || how->snapshot_name))
		r = plt_error_set(err, ENOTSUP, "the qcow format has no internal snapshots");
	if (r == 0 && size > INT64_MAX - (1 << QCOW_MAX_CLUSTER_BITS))
		r = plt_error_set(err, EFBIG, "the file is too large (%" PRIu64 " bytes)", size);
	if (r == 0)
		r = plt_store_read(img->file, 0, &h, sizeof(h), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	img->priv = calloc(1, sizeof(struct qcow_state));
	if (!img->priv)
		return plt_error_set(err, ENOMEM, "out of memory");
	img->data = plt_store_ref(img->file);
	r = qcow_parse(img, &h, size, err);
	if (r == 0)
		r = unlock(img, how, err);
	if (r == 0)
		r = read_backing(img, &h, err);
	if (r < 0)
		release(img);
	return r;
}

/*
 * The file's length is part of what an entry relies on: who opens it next appends there.  So it covers
 * all that has been allocated before anything is made durable.
 */
int qcow_before_sync(struct plt_image *img, struct plt_error *err)
{
	struct qcow_state *s = qcow_of(img);
	uint64_t size, want;
	int r;

	pthread_mutex_lock(&img->lock);
	want = s->end > s->fresh_from ? s->end : 0;
	pthread_mutex_unlock(&img->lock);
	r = plt_store_size(img->file, &size, err);
	if (r < 0 || size >= want)
		return r;
	r = plt_store_allocate(img->file, size, want - size, NULL);
	/* where space cannot be reserved, the last byte is written: it is beyond the end, so nobody has it yet */
	return r < 0 ? plt_store_write(img->file, want - 1, "", 1, PLT_IO_OTHER, err) : 0;
}

int qcow_close(struct plt_image *img, struct plt_error *err)
{
	(void)err;
	release(img);
	return 0;
}

/* ---- the table ------------------------------------------------------------------------------- */

static uint32_t cluster_size(struct plt_image *img)
{
	return qcow_of(img)->cluster_size;
}

static enum plt_codec codec(struct plt_image *img)
{
	return qcow_of(img)->crypt == QCOW_CRYPT_NONE ? PLT_CODEC_DEFLATE : PLT_CODEC_NONE;
}

static const struct plt_opt_desc qcow_open_opts[] = {
	{ .name = "encrypt.format", .type = PLT_OPT_STRING, .help = "What the image must be encrypted with: aes" },
	{ .name = "encrypt.key-secret", .type = PLT_OPT_STRING, .help = "ID of the secret that is its key" },
	{ .name = NULL },
};

extern const struct plt_driver qcow_driver;
const struct plt_driver qcow_driver = {
	.name = "qcow",
	.flags = PLT_DRIVER_BACKING | PLT_DRIVER_COMPRESS,
	.create_opts = qcow_create_opts,
	.open_opts = qcow_open_opts,
	.probe = qcow_probe,
	.open = qcow_open,
	.close = qcow_close,
	.map = qcow_map,
	.place = qcow_place,
	.publish = qcow_publish,
	.withdraw = qcow_withdraw,
	.work = qcow_work,
	.before_sync = qcow_before_sync,
	.create = qcow_create,
	.cluster_size = cluster_size,
	.codec = codec,
	.examine = qcow_examine,
};
