/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * New qcow images: an empty L1 table, then the header, byte for byte as qemu-img lays them out.
 */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow/qcow.h"

/* In QEMU's order: that of the "Formatting" line. */
const struct plt_opt_desc qcow_create_opts[] = {
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "backing_file", .type = PLT_OPT_STRING, .help = "File name of a base image" },
	{ .name = "backing_fmt", .type = PLT_OPT_STRING, .help = "Format of the backing image" },
	{ .name = "encryption", .type = PLT_OPT_BOOL,
	  .help = "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
	{ .name = "encrypt.format", .type = PLT_OPT_STRING, .help = "Encrypt the image, format choices: 'aes'" },
	{ .name = "encrypt.key-secret", .type = PLT_OPT_STRING,
	  .help = "ID of the secret that provides the AES encryption key" },
	{ .name = NULL },
};

static int parse_encryption(const struct plt_create *how, bool *ret, struct plt_error *err)
{
	const char *format = plt_opts_get(how->opts, "encrypt.format");
	const char *id = plt_opts_get(how->opts, "encrypt.key-secret");
	struct plt_secret s = PLT_SECRET_INIT;
	int r;

	if (format && plt_opts_get(how->opts, "encryption"))
		return plt_error_set(err, EINVAL,
				     "'encrypt.format' and its alias 'encryption' can't be used at the same time");
	*ret = format || plt_opts_bool(how->opts, "encryption");
	if (!*ret)
		return id ? plt_error_set(err, EINVAL, "Parameter 'encrypt.format' is missing") : 0;
	if (format && strcmp(format, "aes"))
		return plt_error_set(err, EINVAL, strcmp(format, "luks") ?
				     "Parameter 'encrypt.format' does not accept value '%s'" :
				     "Unsupported encryption format '%s'", format);
	if (!id)
		return plt_error_set(err, EINVAL, "Parameter 'encrypt.key-secret' is required for cipher");
	r = plt_secret_get(how->ctx, id, &s, err); /* it is not used yet, but must be there */
	plt_secret_release(&s);
	return r;
}

int qcow_create(const struct plt_create *how, struct plt_error *err)
{
	const char *backing = plt_opts_get(how->opts, "backing_file");
	uint8_t buf[sizeof(struct qcow_header) + QCOW_MAX_BACKING_NAME + 8] = { 0 };
	struct qcow_header *h = (void *)buf;
	size_t len = backing ? strlen(backing) : 0, at;
	uint64_t l1;
	bool encrypted = false;
	int r;

	if (!how->size)
		return plt_error_set(err, EINVAL, "Image size is too small, cannot be zero length");
	r = parse_encryption(how, &encrypted, err);
	if (r < 0)
		return r;
	if (len > QCOW_MAX_BACKING_NAME)
		return plt_error_set(err, EINVAL, "Backing file name too long (%zu bytes, %d are possible)", len,
				     QCOW_MAX_BACKING_NAME);
	h->magic = plt_be32_make(QCOW_MAGIC);
	h->version = plt_be32_make(1);
	h->size = plt_be64_make(how->size);
	h->crypt_method = plt_be32_make(encrypted ? QCOW_CRYPT_AES : QCOW_CRYPT_NONE);
	/* small clusters over a backing file: less to copy */
	h->cluster_bits = backing ? 9 : 12;
	h->l2_bits = backing ? 12 : 9;
	if (backing) {
		h->backing_file_offset = plt_be64_make(sizeof(*h));
		h->backing_file_size = plt_be32_make((uint32_t)len);
		memcpy(buf + sizeof(*h), backing, len);
	}
	at = (size_t)plt_align_up(sizeof(*h) + len, 8);
	h->l1_table_offset = plt_be64_make(at);
	l1 = plt_div_up(how->size, UINT64_C(1) << (h->cluster_bits + h->l2_bits));
	if (l1 > QCOW_MAX_L1_ENTRIES)
		return plt_error_set(err, EFBIG, "The image size is too large for file format 'qcow'");
	r = plt_store_zero(how->file, at, plt_align_up(l1 * 8, 512), PLT_ZERO_MAY_UNMAP, PLT_IO_L1, err);
	/* last of all: without it there is no image */
	return r < 0 ? r : plt_store_write(how->file, 0, buf, at, PLT_IO_HEADER, err);
}
