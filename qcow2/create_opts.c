/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The options of a new image: their table, and what they mean together.  Which combination is
 * refused, in which order, and in which words is QEMU's; nothing has been written when one is.
 */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

static const char *const prealloc_words[] = {"off", "metadata", "falloc", "full", NULL};
static const char *const compression_words[] = {"zlib", "zstd", NULL};
static const char *const compat_words[] = {"0.10", "1.1", "v2", "v3", NULL};

/*
 * In QEMU's order: that of the "Formatting" line.  Allowed words are not listed here: QEMU judges
 * them after that line, with names of its own in the messages (qcow2_create_parse).
 */
/* clang-format off */
const struct plt_opt_desc qcow2_create_opts[] = {
	{ .name = "encryption", .type = PLT_OPT_BOOL,
	  .help = "Encrypt the image with format 'aes'. "
		  "(Deprecated in favor of encrypt.format=aes)" },
	{ .name = "encrypt.format", .type = PLT_OPT_STRING,
	  .help = "Encrypt the image, format choices: 'aes', 'luks'" },
	{ .name = "encrypt.key-secret", .type = PLT_OPT_STRING,
	  .help = "ID of secret providing qcow AES key or LUKS passphrase" },
	{ .name = "encrypt.cipher-alg", .type = PLT_OPT_STRING,
	  .help = "Name of encryption cipher algorithm" },
	{ .name = "encrypt.cipher-mode", .type = PLT_OPT_STRING,
	  .help = "Name of encryption cipher mode" },
	{ .name = "encrypt.ivgen-alg", .type = PLT_OPT_STRING,
	  .help = "Name of IV generator algorithm" },
	{ .name = "encrypt.ivgen-hash-alg", .type = PLT_OPT_STRING,
	  .help = "Name of IV generator hash algorithm" },
	{ .name = "encrypt.hash-alg", .type = PLT_OPT_STRING,
	  .help = "Name of encryption hash algorithm" },
	{ .name = "encrypt.iter-time", .type = PLT_OPT_NUMBER,
	  .help = "Time to spend in PBKDF in milliseconds" },
	{ .name = "cluster_size", .type = PLT_OPT_SIZE, .deflt = "65536",
	  .help = "qcow2 cluster size" },
	{ .name = "extended_l2", .type = PLT_OPT_BOOL, .deflt = "off",
	  .help = "Extended L2 tables" },
	{ .name = "preallocation", .type = PLT_OPT_STRING,
	  .help = "Preallocation mode (allowed values: off, metadata, falloc, full)" },
	{ .name = "compression_type", .type = PLT_OPT_STRING, .deflt = "zlib",
	  .help = "Compression method used for image cluster compression" },
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "compat", .type = PLT_OPT_STRING,
	  .help = "Compatibility level (v2 [0.10] or v3 [1.1])" },
	{ .name = "backing_file", .type = PLT_OPT_STRING, .help = "File name of a base image" },
	{ .name = "backing_fmt", .type = PLT_OPT_STRING, .help = "Image format of the base image" },
	{ .name = "data_file", .type = PLT_OPT_STRING, .help = "File name of an external data file" },
	{ .name = "data_file_raw", .type = PLT_OPT_BOOL,
	  .help = "The external data file must stay valid as a raw image" },
	{ .name = "lazy_refcounts", .type = PLT_OPT_BOOL, .deflt = "off",
	  .help = "Postpone refcount updates" },
	{ .name = "refcount_bits", .type = PLT_OPT_NUMBER, .deflt = "16",
	  .help = "Width of a reference count entry in bits" },
	{ .name = NULL },
};
/* clang-format on */

static int word_index(const char *const *words, const char *v)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], v))
			return i;
	return -1;
}

/* Cluster size, version, count width and entry kind: what the layout depends on. */
static int parse_geometry(const struct plt_opts *o, struct qcow2_state *q, struct plt_error *err)
{
	uint64_t cs = plt_opts_u64(o, "cluster_size"), bits = plt_opts_u64(o, "refcount_bits");
	const char *compat = plt_opts_get(o, "compat");
	bool ext = plt_opts_bool(o, "extended_l2");
	int i = compat ? word_index(compat_words, compat) : 1;

	if (i < 0)
		return plt_error_set(err, EINVAL, "Parameter 'version' does not accept value '%s'",
				     compat);
	q->version = i == 0 || i == 2 ? 2 : 3;
	if (!plt_is_pow2(cs) || cs < UINT64_C(1) << QCOW2_MIN_CLUSTER_BITS ||
	    cs > UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS)
		return plt_error_set(err, EINVAL,
				     "Cluster size must be a power of two between %d and %dk",
				     1 << QCOW2_MIN_CLUSTER_BITS,
				     1 << (QCOW2_MAX_CLUSTER_BITS - 10));
	if (ext && q->version < 3)
		return plt_error_set(
			err, EINVAL,
			"Extended L2 entries are only supported with compatibility level "
			"1.1 and above (use version=v3 or greater)");
	if (ext && cs < QCOW2_SUBCLUSTERS << QCOW2_MIN_CLUSTER_BITS)
		return plt_error_set(
			err, EINVAL,
			"Extended L2 entries are only supported with cluster sizes of at "
			"least %d bytes",
			QCOW2_SUBCLUSTERS << QCOW2_MIN_CLUSTER_BITS);
	q->cluster_bits = (uint32_t)__builtin_ctzll(cs);
	q->incompatible |= ext ? QCOW2_INCOMPAT_EXTL2 : 0;
	if (!plt_is_pow2(bits) || bits > 64)
		return plt_error_set(
			err, EINVAL,
			"Refcount width must be a power of two and may not exceed 64 bits");
	q->refcount_order = (uint32_t)__builtin_ctzll(bits);
	return 0;
}

int qcow2_create_parse(const struct plt_opts *o, struct qcow2_state *q, struct qcow2_encrypt_wish *ret_encrypt,
		       enum qcow2_prealloc *ret_prealloc, struct plt_error *err)
{
	const char *pre = plt_opts_get(o, "preallocation"),
		   *comp = plt_opts_get(o, "compression_type");
	const char *backing = plt_opts_get(o, "backing_file"),
		   *format = plt_opts_get(o, "backing_fmt");
	const char *data_file = plt_opts_get(o, "data_file"), *compat = plt_opts_get(o, "compat");
	bool raw = plt_opts_get(o, "data_file_raw") && plt_opts_bool(o, "data_file_raw");
	int p = pre ? word_index(prealloc_words, pre) : 0,
	    c = comp ? word_index(compression_words, comp) : 0;
	int r;

	if (compat && word_index(compat_words, compat) < 0)
		return plt_error_set(err, EINVAL, "Parameter 'version' does not accept value '%s'",
				     compat);
	if (format && !plt_format_is_known(format))
		return plt_error_set(err, EINVAL,
				     "Parameter 'backing-fmt' does not accept value '%s'", format);
	r = qcow2_encrypt_parse(o, ret_encrypt, err);
	if (r < 0)
		return r;
	q->crypt_method = ret_encrypt->method;
	if (p < 0)
		return plt_error_set(err, EINVAL,
				     "Parameter 'preallocation' does not accept value '%s'", pre);
	if (c < 0)
		return plt_error_set(err, EINVAL,
				     "Parameter 'compression-type' does not accept value '%s'",
				     comp);
	r = parse_geometry(o, q, err);
	/* The count's width is judged after the rest, as QEMU does: see the end. */
	if (r < 0 && !q->cluster_bits)
		return r;
	if (p != QCOW2_PREALLOC_OFF && backing && !(q->incompatible & QCOW2_INCOMPAT_EXTL2))
		return plt_error_set(
			err, EINVAL,
			"Backing file and preallocation can only be used at the same time "
			"if extended_l2 is on");
	if (format && !backing)
		return plt_error_set(err, EINVAL,
				     "Backing format cannot be used without backing file");
	if (plt_opts_bool(o, "lazy_refcounts")) {
		if (q->version < 3)
			return plt_error_set(
				err, EINVAL,
				"Lazy refcounts only supported with compatibility level 1.1 "
				"and above (use version=v3 or greater)");
		q->compatible |= QCOW2_COMPAT_LAZY;
	}
	if (r < 0)
		return r;
	if (q->version < 3 && q->refcount_order != 4)
		return plt_error_set(
			err, EINVAL,
			"Different refcount widths than 16 bits require compatibility level "
			"1.1 or above (use version=v3 or greater)");
	if (raw && !data_file)
		return plt_error_set(err, EINVAL, "data-file-raw requires data-file");
	if (raw && backing)
		return plt_error_set(
			err, EINVAL,
			"Backing file and data-file-raw cannot be used at the same time");
	if (data_file) {
		if (q->version < 3)
			return plt_error_set(
				err, EINVAL,
				"External data files are only supported with compatibility "
				"level 1.1 and above (use version=v3 or greater)");
		q->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
		q->autoclear |= raw ? QCOW2_AUTOCLEAR_DATA_RAW : 0;
	}
	if (c != QCOW2_COMPRESSION_ZLIB) {
		if (q->version < 3)
			return plt_error_set(
				err, EINVAL,
				"Non-zlib compression type is only supported with "
				"compatibility level 1.1 and above (use version=v3 or greater)");
		q->compression = (enum qcow2_compression)c;
		q->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	}
	*ret_prealloc = (enum qcow2_prealloc)p;
	/*
	 * A raw data file must be reachable by its own offsets from the first day: all is mapped.
	 */
	if (raw && p == QCOW2_PREALLOC_OFF)
		*ret_prealloc = QCOW2_PREALLOC_METADATA;
	return 0;
}

int qcow2_measure_parse(const struct plt_opts *o, struct qcow2_state *q, struct qcow2_encrypt_wish *ret_encrypt,
			enum qcow2_prealloc *ret_prealloc, struct plt_error *err)
{
	const char *pre = plt_opts_get(o, "preallocation"), *compat = plt_opts_get(o, "compat");
	int p = pre ? word_index(prealloc_words, pre) : 0, r;

	if (p < 0)
		return plt_error_set(err, EINVAL, "invalid parameter value: %s", pre);
	if (compat && word_index(compat_words, compat) < 0)
		return plt_error_set(err, EINVAL, "Invalid compatibility level: '%s'", compat);
	*ret_prealloc = (enum qcow2_prealloc)p;
	r = parse_geometry(o, q, err);
	if (r == 0 && q->version < 3 && q->refcount_order != 4)
		r = plt_error_set(err, EINVAL, "Different refcount widths than 16 bits require compatibility "
				  "level 1.1 or above (use compat=1.1 or greater)");
	return r < 0 ? r : qcow2_encrypt_parse(o, ret_encrypt, err);
}
