/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The luks driver: a LUKS version 1 header and behind it the guest's disk, encrypted sector by sector.
 * Always mapped in place, like raw; header and key slots are crypt/'s.  The payload has no structure, so
 * nothing here has to be ordered: a new image's header is written last of all, key slots as crypt/luks.h
 * says.  A sector that was never written reads as what its bytes are decrypted to.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "luks/luks.h"

static struct plt_luks *luks_of(struct plt_image *img)
{
	return img->priv;
}

/* LUKS2 is a format that only guests use: to us, as to QEMU, its bytes are a raw disk. */
static int luks_probe(const uint8_t *buf, size_t len, uint64_t size)
{
	(void)size;
	return len >= 8 && !memcmp(buf, LUKS_MAGIC, LUKS_MAGIC_LEN) && plt_get_be16(buf + 6) == 1 ? 100 : 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int unlock(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	const char *id = how->opts ? plt_opts_get(how->opts, "key-secret") : NULL;
	struct plt_secret s = PLT_SECRET_INIT;
	int r;

	if (!id)
		return plt_error_set(err, EINVAL, "Parameter 'key-secret' is required for cipher");
	r = plt_secret_get(img->ctx, id, &s, err);
	if (r == 0)
		r = plt_luks_unlock(luks_of(img), &s, err);
	plt_secret_release(&s);
	return r;
}

static int luks_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct plt_luks *l = NULL;
	uint64_t size;
	int r = plt_store_size(img->file, &size, err);

	if (r == 0 && (how->snapshot || how->snapshot_id || how->snapshot_name))
		r = plt_error_set(err, ENOTSUP, "the luks format has no internal snapshots");
	if (r == 0)
		r = plt_luks_read(img->file, 0, UINT64_MAX, &l, err);
	if (r < 0)
		return r;
	img->priv = l;
	if (!l->payload_offset)
		r = plt_error_set(err, ENOTSUP, "The LUKS header is detached (its payload offset is 0), which is not supported");
	else if (size > INT64_MAX - PLT_SECTOR)
		r = plt_error_set(err, EFBIG, "the file is too large (%" PRIu64 " bytes)", size);
	else if (l->payload_offset > size)
		r = plt_error_set(err, EUCLEAN, "The LUKS payload is said to begin at %" PRIu64 ", behind the end of the file "
				  "(%" PRIu64 " bytes): the file is truncated or the header is damaged", l->payload_offset,
				  size);
	if (r == 0 && !how->no_refs && !how->check && !how->no_key)
		r = unlock(img, how, err);
	if (r < 0) {
		plt_luks_free(l);
		img->priv = NULL;
		return r;
	}
	img->data = plt_store_ref(img->file);
	img->encrypted = true;
	atomic_store(&img->size, plt_align_up(size - l->payload_offset, PLT_SECTOR));
	img->alloc_unit = PLT_SECTOR;
	img->slice = 512;
	return 0;
}

static int luks_close(struct plt_image *img, struct plt_error *err)
{
	(void)err;
	plt_store_unref(img->data);
	img->data = NULL;
	plt_luks_free(luks_of(img));
	img->priv = NULL;
	return 0;
}

static int luks_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
		    struct plt_need *need, struct plt_error *err)
{
	const struct plt_luks *l = luks_of(img);

	(void)pins;
	(void)need;
	if (!l->cipher)
		return plt_error_set(err, ENOTSUP, "luks: the image was opened without its key");
	plt_runs_add(runs, &(struct plt_run){ .kind = PLT_RUN_DATA, .flags = PLT_RUN_IN_PLACE, .off = off, .len = len,
					      .store = img->data, .host_off = l->payload_offset + off,
					      .cipher = l->cipher, .iv_sector = off / PLT_SECTOR });
	return 0;
}

/* ---- size ------------------------------------------------------------------------------------ */

static int set_length(struct plt_store *st, uint64_t old, uint64_t size, const char *pre, struct plt_error *err)
{
	uint64_t have;
	int r;

	if (st->limits.can_grow) {
		r = plt_store_truncate(st, size, err);
	} else {
		r = plt_store_size(st, &have, err);
		if (r == 0 && have < size)
			r = plt_error_set(err, ENOSPC, "the device is too small (%" PRIu64 " bytes, %" PRIu64
					  " are needed)", have, size);
	}
	if (r < 0 || size <= old || !pre || !strcmp(pre, "off"))
		return r;
	if (!strcmp(pre, "falloc"))
		return plt_store_allocate(st, old, size - old, err);
	if (!strcmp(pre, "full"))
		return plt_store_zero(st, old, size - old, PLT_ZERO_WRITTEN, PLT_IO_DATA, err);
	return plt_error_set(err, ENOTSUP, "Preallocation mode '%s' is not supported for luks images", pre);
}

static int luks_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err)
{
	uint64_t at = luks_of(img)->payload_offset, end;
	int r;

	if (plt_add(at, size, &end) || end > INT64_MAX - PLT_SECTOR)
		return plt_error_set(err, EFBIG, "The requested file size is too large");
	r = set_length(img->file, at + atomic_load(&img->size), end, preallocation, err);
	if (r == 0)
		atomic_store(&img->size, plt_align_up(size, PLT_SECTOR));
	return r;
}

/* ---- creating -------------------------------------------------------------------------------- */

static int params(const struct plt_opts *o, struct plt_luks_params *ret, struct plt_error *err)
{
	struct plt_luks_texts t = {
		.cipher_alg = plt_opts_get(o, "cipher-alg"),
		.cipher_mode = plt_opts_get(o, "cipher-mode"),
		.ivgen_alg = plt_opts_get(o, "ivgen-alg"),
		.ivgen_hash_alg = plt_opts_get(o, "ivgen-hash-alg"),
		.hash_alg = plt_opts_get(o, "hash-alg"),
		.iter_ms = plt_opts_get(o, "iter-time") ? plt_opts_u64(o, "iter-time") : UINT64_MAX,
	};

	if (plt_opts_get(o, "detached-header") && plt_opts_bool(o, "detached-header"))
		return plt_error_set(err, ENOTSUP, "detached LUKS headers are not supported");
	return plt_luks_params(&t, ret, err);
}

static int luks_create(const struct plt_create *how, struct plt_error *err)
{
	const char *id = plt_opts_get(how->opts, "key-secret"), *pre = plt_opts_get(how->opts, "preallocation");
	struct plt_secret s = PLT_SECRET_INIT;
	struct plt_luks *l = NULL;
	struct plt_luks_params p;
	uint64_t at;
	int r = params(how->opts, &p, err);

	if (r == 0 && !id)
		r = plt_error_set(err, EINVAL, "Parameter 'key-secret' is required for cipher");
	if (r == 0)
		r = plt_secret_get(how->ctx, id, &s, err);
	if (r < 0)
		return r;
	at = plt_luks_space(&p);
	if (how->size > INT64_MAX - PLT_SECTOR - at)
		r = plt_error_set(err, EFBIG, "The requested file size is too large");
	if (r == 0)
		r = set_length(how->file, at, at + how->size, pre, err);
	if (r == 0)
		r = plt_luks_create(how->file, 0, &p, &s, how->trial, &l, err);
	plt_luks_free(l);
	plt_secret_release(&s);
	return r;
}

static int luks_measure(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
			uint64_t *ret_full, struct plt_error *err)
{
	struct plt_luks_params p;
	int r = params(opts, &p, err);

	(void)data;
	if (r < 0)
		return r;
	if (!plt_opts_get(opts, "key-secret"))
		return plt_error_set(err, EINVAL, "Parameter 'key-secret' is required for cipher");
	if (size > INT64_MAX - plt_luks_space(&p))
		return plt_error_set(err, EFBIG, "The requested file size is too large");
	*ret_required = *ret_full = plt_luks_space(&p) + size;
	return 0;
}

/* ---- the table ------------------------------------------------------------------------------- */

static json_t *luks_info(struct plt_image *img)
{
	json_t *data = plt_luks_info(luks_of(img));

	return json_pack("{s:s,s:o}", "type", "luks", "data", data);
}

/* In QEMU's order: that of the "Formatting" line. */
static const struct plt_opt_desc luks_create_opts[] = {
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "key-secret", .type = PLT_OPT_STRING,
	  .help = "ID of the secret that provides the keyslot passphrase" },
	{ .name = "cipher-alg", .type = PLT_OPT_STRING, .help = "Name of encryption cipher algorithm" },
	{ .name = "cipher-mode", .type = PLT_OPT_STRING, .help = "Name of encryption cipher mode" },
	{ .name = "ivgen-alg", .type = PLT_OPT_STRING, .help = "Name of IV generator algorithm" },
	{ .name = "ivgen-hash-alg", .type = PLT_OPT_STRING, .help = "Name of IV generator hash algorithm" },
	{ .name = "hash-alg", .type = PLT_OPT_STRING, .help = "Name of encryption hash algorithm" },
	{ .name = "iter-time", .type = PLT_OPT_NUMBER, .help = "Time to spend in PBKDF in milliseconds" },
	{ .name = NULL },
};

static const struct plt_opt_desc luks_amend_opts[] = {
	{ .name = "state", .type = PLT_OPT_STRING, .help = "Select new state of affected keyslots (active/inactive)" },
	{ .name = "keyslot", .type = PLT_OPT_NUMBER, .help = "Select a single keyslot to modify explicitly" },
	{ .name = "old-secret", .type = PLT_OPT_STRING, .help = "Select all keyslots that match this password" },
	{ .name = "new-secret", .type = PLT_OPT_STRING,
	  .help = "New secret to set in the matching keyslots. Empty string to erase" },
	{ .name = "iter-time", .type = PLT_OPT_NUMBER, .help = "Time to spend in PBKDF in milliseconds" },
	{ .name = NULL },
};

static const struct plt_opt_desc luks_open_opts[] = {
	{ .name = "key-secret", .type = PLT_OPT_STRING, .help = "ID of the secret that unlocks it" },
	{ .name = NULL },
};

extern const struct plt_driver luks_driver;
const struct plt_driver luks_driver = {
	.name = "luks",
	.flags = PLT_DRIVER_NOT_ZEROED | PLT_DRIVER_MENDS,
	.create_opts = luks_create_opts,
	.open_opts = luks_open_opts,
	.amend_opts = luks_amend_opts,
	.probe = luks_probe,
	.open = luks_open,
	.close = luks_close,
	.map = luks_map,
	.resize = luks_resize,
	.create = luks_create,
	.measure = luks_measure,
	.info = luks_info,
	.luks = luks_of,
	.examine = luks_examine,
};
