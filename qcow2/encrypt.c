/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Encryption of qcow2: which kind the header and the options say, unlocking when an image is opened, and
 * what a new image is to have.  Only data clusters are encrypted.  LUKS numbers sectors by their place in
 * the file; the legacy AES by their place in the disk.  Nothing is written here that a wrong secret could
 * reach: without a key the image does not open, save to be inspected.
 */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

static const char *const formats[] = { NULL, "aes", "luks" };

/* ---- opening --------------------------------------------------------------------------------- */

static int check_format(const struct qcow2_state *q, const struct plt_open_how *how, struct plt_error *err)
{
	const char *v = how->opts ? plt_opts_get(how->opts, "encrypt.format") : NULL;

	if (v && q->crypt_method == QCOW2_CRYPT_NONE)
		return plt_error_set(err, EINVAL, "No encryption in image header, but options specified format '%s'", v);
	if (v && strcmp(v, formats[q->crypt_method]))
		return plt_error_set(err, EINVAL, "Header reported '%s' encryption format but options specify '%s'",
				     formats[q->crypt_method], v);
	return 0;
}

static int unlock(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	const char *id = how->opts ? plt_opts_get(how->opts, "encrypt.key-secret") : NULL;
	struct plt_secret s = PLT_SECRET_INIT;
	int r;

	if (!id)
		return plt_error_set(err, EINVAL, "Parameter 'encrypt.key-secret' is required for cipher");
	r = plt_secret_get(img->ctx, id, &s, err);
	if (r == 0 && q->luks) {
		r = plt_luks_unlock(q->luks, &s, err);
		q->cipher = q->luks->cipher;
	} else if (r == 0) {
		r = plt_cipher_new_legacy(&s, &q->aes, err);
		q->cipher = q->aes;
	}
	plt_secret_release(&s);
	return r;
}

int qcow2_encrypt_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = check_format(q, how, err);

	if (r < 0 || q->crypt_method == QCOW2_CRYPT_NONE)
		return r;
	img->encrypted = true;
	if (q->crypt_method == QCOW2_CRYPT_LUKS) {
		if (!q->luks_length)
			r = plt_error_set(err, EINVAL, "The image is encrypted with LUKS, and its header has no extension "
					  "that says where the LUKS header is");
		else
			r = plt_luks_read(img->file, q->luks_offset, q->luks_length, &q->luks, err);
		if (r < 0 && !how->check) /* (examine() does not look into it) */
			return r;
	}
	if (how->no_refs || how->check || how->no_key) {
		q->unmappable = "the image is encrypted and was opened without its key";
		return 0;
	}
	return unlock(img, how, err);
}

void qcow2_encrypt_release(struct qcow2_state *q)
{
	plt_luks_free(q->luks);
	plt_cipher_free(q->aes);
	q->luks = NULL;
	q->aes = NULL;
	q->cipher = NULL;
}

uint64_t qcow2_iv_sector(const struct qcow2_state *q, uint64_t guest_off, uint64_t host_off)
{
	return (q->crypt_method == QCOW2_CRYPT_LUKS ? host_off : guest_off) / PLT_SECTOR;
}

struct plt_luks *qcow2_luks(struct plt_image *img)
{
	return qcow2_of(img)->luks;
}

/* ---- creating -------------------------------------------------------------------------------- */

/* The format that the options name; QCOW2_CRYPT_NONE: no encryption. */
static int chosen_format(const struct plt_opts *o, uint32_t *ret, struct plt_error *err)
{
	const char *format = plt_opts_get(o, "encrypt.format");
	bool alias = plt_opts_get(o, "encryption");

	*ret = QCOW2_CRYPT_NONE;
	if (format && alias)
		return plt_error_set(err, EINVAL,
				     "'encrypt.format' and its alias 'encryption' can't be used at the same time");
	if (alias && plt_opts_bool(o, "encryption"))
		format = "aes";
	for (uint32_t i = QCOW2_CRYPT_AES; format && i <= QCOW2_CRYPT_LUKS; i++)
		if (!strcmp(format, formats[i]))
			*ret = i;
	if (format && *ret == QCOW2_CRYPT_NONE)
		return plt_error_set(err, EINVAL, "Parameter 'format' does not accept value '%s'", format);
	return 0;
}

int qcow2_encrypt_parse(const struct plt_opts *o, struct qcow2_encrypt_wish *ret, struct plt_error *err)
{
	struct plt_luks_texts t = {
		.cipher_alg = plt_opts_get(o, "encrypt.cipher-alg"),
		.cipher_mode = plt_opts_get(o, "encrypt.cipher-mode"),
		.ivgen_alg = plt_opts_get(o, "encrypt.ivgen-alg"),
		.ivgen_hash_alg = plt_opts_get(o, "encrypt.ivgen-hash-alg"),
		.hash_alg = plt_opts_get(o, "encrypt.hash-alg"),
		.iter_ms = plt_opts_get(o, "encrypt.iter-time") ? plt_opts_u64(o, "encrypt.iter-time") : UINT64_MAX,
	};
	int r = chosen_format(o, &ret->method, err);

	ret->key_secret = plt_opts_get(o, "encrypt.key-secret");
	if (r < 0)
		return r;
	for (const struct plt_opt_desc *d = qcow2_create_opts; d->name; d++) {
		if (strncmp(d->name, "encrypt.", 8) || !plt_opts_get(o, d->name))
			continue;
		if (ret->method == QCOW2_CRYPT_NONE)
			return plt_error_set(err, EINVAL, "Parameter 'encrypt.format' is missing");
		if (ret->method == QCOW2_CRYPT_AES && strcmp(d->name, "encrypt.key-secret") &&
		    strcmp(d->name, "encrypt.format"))
			return plt_error_set(err, EINVAL, "Parameter '%s' is unexpected", d->name);
	}
	return ret->method == QCOW2_CRYPT_LUKS ? plt_luks_params(&t, &ret->luks, err) : 0;
}

int qcow2_encrypt_secret(struct plt_ctx *ctx, const struct qcow2_encrypt_wish *w, struct plt_secret *ret,
			 struct plt_error *err)
{
	if (w->method == QCOW2_CRYPT_NONE)
		return 0;
	if (!w->key_secret)
		return plt_error_set(err, EINVAL, "Parameter 'encrypt.key-secret' is required for cipher");
	return plt_secret_get(ctx, w->key_secret, ret, err);
}
