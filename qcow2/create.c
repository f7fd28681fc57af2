/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * New images: options, layout, writing.  The layout is computed first (header, refcount table,
 * refcount blocks, L1, and with preallocation L2 tables and data), then every structure is written
 * straight to its place in ascending order, the header last: a file that was not finished has no
 * header and is no qcow2 image.  Without preallocation the bytes are those of qemu-img create,
 * which matters to people who compare images; hence the walk through its order of allocation where
 * the L1 table needs more than one refcount block.  Making it durable is the caller's.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/qcow2.h"

static const char *const prealloc_words[] = { "off", "metadata", "falloc", "full", NULL };
static const char *const compression_words[] = { "zlib", "zstd", NULL };
static const char *const compat_words[] = { "0.10", "1.1", "v2", "v3", NULL };

/*
 * In QEMU's order: that of the "Formatting" line.  Allowed words are not listed here: QEMU judges them
 * after that line, with names of its own in the messages (parse_options).
 */
const struct plt_opt_desc qcow2_create_opts[] = {
	{ .name = "encryption", .type = PLT_OPT_BOOL,
	  .help = "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)" },
	{ .name = "encrypt.format", .type = PLT_OPT_STRING,
	  .help = "Encrypt the image, format choices: 'aes', 'luks'" },
	{ .name = "encrypt.key-secret", .type = PLT_OPT_STRING,
	  .help = "ID of secret providing qcow AES key or LUKS passphrase" },
	{ .name = "encrypt.cipher-alg", .type = PLT_OPT_STRING, .help = "Name of encryption cipher algorithm" },
	{ .name = "encrypt.cipher-mode", .type = PLT_OPT_STRING, .help = "Name of encryption cipher mode" },
	{ .name = "encrypt.ivgen-alg", .type = PLT_OPT_STRING, .help = "Name of IV generator algorithm" },
	{ .name = "encrypt.ivgen-hash-alg", .type = PLT_OPT_STRING,
	  .help = "Name of IV generator hash algorithm" },
	{ .name = "encrypt.hash-alg", .type = PLT_OPT_STRING, .help = "Name of encryption hash algorithm" },
	{ .name = "encrypt.iter-time", .type = PLT_OPT_NUMBER, .help = "Time to spend in PBKDF in milliseconds" },
	{ .name = "cluster_size", .type = PLT_OPT_SIZE, .deflt = "65536", .help = "qcow2 cluster size" },
	{ .name = "extended_l2", .type = PLT_OPT_BOOL, .deflt = "off", .help = "Extended L2 tables" },
	{ .name = "preallocation", .type = PLT_OPT_STRING,
	  .help = "Preallocation mode (allowed values: off, metadata, falloc, full)" },
	{ .name = "compression_type", .type = PLT_OPT_STRING, .deflt = "zlib",
	  .help = "Compression method used for image cluster compression" },
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "compat", .type = PLT_OPT_STRING, .help = "Compatibility level (v2 [0.10] or v3 [1.1])" },
	{ .name = "backing_file", .type = PLT_OPT_STRING, .help = "File name of a base image" },
	{ .name = "backing_fmt", .type = PLT_OPT_STRING, .help = "Image format of the base image" },
	{ .name = "data_file", .type = PLT_OPT_STRING, .help = "File name of an external data file" },
	{ .name = "data_file_raw", .type = PLT_OPT_BOOL,
	  .help = "The external data file must stay valid as a raw image" },
	{ .name = "lazy_refcounts", .type = PLT_OPT_BOOL, .deflt = "off", .help = "Postpone refcount updates" },
	{ .name = "refcount_bits", .type = PLT_OPT_NUMBER, .deflt = "16",
	  .help = "Width of a reference count entry in bits" },
	{ .name = NULL },
};

#define TOO_LARGE "The image size is too large for file format 'qcow2' (try using a larger cluster size)"

enum prealloc { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };

/* ---- options --------------------------------------------------------------------------------- */

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
		return plt_error_set(err, EINVAL, "Parameter 'version' does not accept value '%s'", compat);
	q->version = i == 0 || i == 2 ? 2 : 3;
	if (!plt_is_pow2(cs) || cs < UINT64_C(1) << QCOW2_MIN_CLUSTER_BITS || cs > UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS)
		return plt_error_set(err, EINVAL, "Cluster size must be a power of two between %d and %dk",
				     1 << QCOW2_MIN_CLUSTER_BITS, 1 << (QCOW2_MAX_CLUSTER_BITS - 10));
	if (ext && q->version < 3)
		return plt_error_set(err, EINVAL, "Extended L2 entries are only supported with compatibility level "
				     "1.1 and above (use version=v3 or greater)");
	if (ext && cs < QCOW2_SUBCLUSTERS << QCOW2_MIN_CLUSTER_BITS)
		return plt_error_set(err, EINVAL, "Extended L2 entries are only supported with cluster sizes of at "
				     "least %d bytes", QCOW2_SUBCLUSTERS << QCOW2_MIN_CLUSTER_BITS);
	q->cluster_bits = (uint32_t)__builtin_ctzll(cs);
	q->incompatible |= ext ? QCOW2_INCOMPAT_EXTL2 : 0;
	if (!plt_is_pow2(bits) || bits > 64)
		return plt_error_set(err, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits");
	q->refcount_order = (uint32_t)__builtin_ctzll(bits);
	return 0;
}

static int refuse_encryption(const struct plt_opts *o, struct plt_error *err)
{
	const char *format = plt_opts_get(o, "encrypt.format");
	bool alias = plt_opts_get(o, "encryption") && plt_opts_bool(o, "encryption");

	if (format && plt_opts_get(o, "encryption"))
		return plt_error_set(err, EINVAL, "'encrypt.format' and its alias 'encryption' can't be used at the same time");
	if (format || alias)
		return plt_error_set(err, ENOTSUP, "Option '%s': encryption is not supported yet",
				     format ? "encrypt.format" : "encryption");
	for (const struct plt_opt_desc *d = qcow2_create_opts; d->name; d++)
		if (!strncmp(d->name, "encrypt.", 8) && plt_opts_get(o, d->name))
			return plt_error_set(err, EINVAL, "Parameter 'encrypt.format' is missing");
	return 0;
}

static int parse_options(const struct plt_opts *o, struct qcow2_state *q, enum prealloc *ret_prealloc,
			 struct plt_error *err)
{
	const char *pre = plt_opts_get(o, "preallocation"), *comp = plt_opts_get(o, "compression_type");
	const char *backing = plt_opts_get(o, "backing_file"), *format = plt_opts_get(o, "backing_fmt");
	const char *data_file = plt_opts_get(o, "data_file"), *compat = plt_opts_get(o, "compat");
	bool raw = plt_opts_get(o, "data_file_raw") && plt_opts_bool(o, "data_file_raw");
	int p = pre ? word_index(prealloc_words, pre) : 0, c = comp ? word_index(compression_words, comp) : 0;
	int r;

	if (compat && word_index(compat_words, compat) < 0)
		return plt_error_set(err, EINVAL, "Parameter 'version' does not accept value '%s'", compat);
	if (format && strlen(format) > QCOW2_MAX_BACKING_FORMAT)
		return plt_error_set(err, EINVAL, "Parameter 'backing-fmt' does not accept value '%s'", format);
	r = refuse_encryption(o, err);
	if (r < 0)
		return r;
	if (p < 0)
		return plt_error_set(err, EINVAL, "Parameter 'preallocation' does not accept value '%s'", pre);
	if (c < 0)
		return plt_error_set(err, EINVAL, "Parameter 'compression-type' does not accept value '%s'", comp);
	r = parse_geometry(o, q, err);
	/* The count's width is judged after the rest, as QEMU does: see the end. */
	if (r < 0 && !q->cluster_bits)
		return r;
	if (p != PREALLOC_OFF && backing && !(q->incompatible & QCOW2_INCOMPAT_EXTL2))
		return plt_error_set(err, EINVAL, "Backing file and preallocation can only be used at the same time "
				     "if extended_l2 is on");
	if (format && !backing)
		return plt_error_set(err, EINVAL, "Backing format cannot be used without backing file");
	if (plt_opts_bool(o, "lazy_refcounts")) {
		if (q->version < 3)
			return plt_error_set(err, EINVAL, "Lazy refcounts only supported with compatibility level 1.1 "
					     "and above (use version=v3 or greater)");
		q->compatible |= QCOW2_COMPAT_LAZY;
	}
	if (r < 0)
		return r;
	if (q->version < 3 && q->refcount_order != 4)
		return plt_error_set(err, EINVAL, "Different refcount widths than 16 bits require compatibility level "
				     "1.1 or above (use version=v3 or greater)");
	if (raw && !data_file)
		return plt_error_set(err, EINVAL, "data-file-raw requires data-file");
	if (raw && backing)
		return plt_error_set(err, EINVAL, "Backing file and data-file-raw cannot be used at the same time");
	if (data_file) {
		if (q->version < 3)
			return plt_error_set(err, EINVAL, "External data files are only supported with compatibility "
					     "level 1.1 and above (use version=v3 or greater)");
		q->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
		q->autoclear |= raw ? QCOW2_AUTOCLEAR_DATA_RAW : 0;
	}
	if (c != QCOW2_COMPRESSION_ZLIB) {
		if (q->version < 3)
			return plt_error_set(err, EINVAL, "Non-zlib compression type is only supported with "
					     "compatibility level 1.1 and above (use version=v3 or greater)");
		q->compression = (enum qcow2_compression)c;
		q->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	}
	*ret_prealloc = (enum prealloc)p;
	/* A raw data file must be reachable by its own offsets from the first day: all is mapped. */
	if (raw && p == PREALLOC_OFF)
		*ret_prealloc = PREALLOC_METADATA;
	return 0;
}

/* ---- layout ---------------------------------------------------------------------------------- */

/* In clusters of the file. */
struct layout {
	uint64_t rt, nrt;      /* refcount table */
	uint64_t rb, nrb;      /* refcount blocks: contiguous from rb, or ... */
	uint64_t *blocks;      /* ... where this says */
	uint64_t l1, nl1;
	uint64_t l2, nl2;      /* preallocated L2 tables */
	uint64_t data, ndata;  /* preallocated data in this file */
	uint64_t used;         /* clusters with a count of one: [0, used) */
};

/* Refcount table and blocks that count @clusters others and themselves. */
static void refcount_clusters(uint64_t clusters, const struct qcow2_state *q, uint64_t *ret_table,
			      uint64_t *ret_blocks)
{
	uint64_t table = 0, blocks = 0, n = 0, last;

	do {
		last = n;
		blocks = plt_div_up(clusters + table + blocks, UINT64_C(1) << q->rb_bits);
		table = plt_div_up(blocks, q->cluster_size / 8);
		n = clusters + blocks + table;
	} while (n != last);
	*ret_table = table;
	*ret_blocks = blocks;
}

/* QEMU's order of allocation while it counts an L1 table that one refcount block does not cover. */
struct replay {
	const struct qcow2_state *q;
	uint64_t *blocks; /* host cluster of each refcount block; 0: none */
	uint64_t nblocks, used;
	uint64_t first;   /* clusters from here on hold refcount blocks only */
	uint8_t *taken;   /* of them */
	uint64_t ntaken;
};

static bool replay_block_for(struct replay *r, uint64_t cluster, uint64_t *next)
{
	uint64_t want = cluster >> r->q->rb_bits, c, home;

	while (*next - r->first < r->ntaken && r->taken[*next - r->first])
		(*next)++;
	c = (*next)++;
	home = c >> r->q->rb_bits;
	if (want >= r->nblocks || home >= r->nblocks || c - r->first >= r->ntaken)
		return false;
	if (home != want && !r->blocks[home])
		return replay_block_for(r, c, next); /* and all is tried again from the start */
	r->blocks[want] = c;
	r->taken[c - r->first] = 1;
	r->used = PLT_MAX(r->used, c + 1);
	return true;
}

/* False: more than one cluster of refcount table is needed, and QEMU's growth of it is not replayed. */
static bool layout_as_qemu(const struct qcow2_state *q, struct layout *l)
{
	struct replay r = { .q = q, .nblocks = q->cluster_size / 8, .first = 3 + l->nl1 };
	uint64_t last = (r.first - 1) >> q->rb_bits, n = 0;
	bool ok = last < r.nblocks;

	r.used = r.first;
	r.ntaken = r.nblocks;
	r.blocks = calloc(r.nblocks, sizeof(*r.blocks));
	r.taken = calloc(r.ntaken, 1);
	ok = ok && r.blocks && r.taken;
	if (ok)
		r.blocks[0] = 2;
	for (uint64_t b = 1; ok && b <= last; b++)
		while (ok && !r.blocks[b]) {
			uint64_t next = r.first;

			ok = replay_block_for(&r, b << q->rb_bits, &next);
		}
	free(r.taken);
	for (uint64_t b = 0; ok && b < r.nblocks; b++)
		n += r.blocks[b] != 0;
	if (!ok || r.used != 2 + n + l->nl1) { /* no gaps: what is written counts all of [0, used) */
		free(r.blocks);
		return false;
	}
	l->rt = 1;
	l->nrt = 1;
	l->nrb = ((r.used - 1) >> q->rb_bits) + 1;
	l->blocks = r.blocks;
	l->l1 = 3;
	l->used = r.used;
	return true;
}

static void layout_in_order(const struct qcow2_state *q, struct layout *l)
{
	refcount_clusters(1 + l->nl1 + l->nl2 + l->ndata, q, &l->nrt, &l->nrb);
	l->rt = 1;
	l->rb = l->rt + l->nrt;
	l->l1 = l->rb + l->nrb;
	l->l2 = l->l1 + l->nl1;
	l->data = l->l2 + l->nl2;
	l->used = l->data + l->ndata;
}

static uint64_t block_cluster(const struct layout *l, uint64_t i)
{
	return l->blocks ? l->blocks[i] : l->rb + i;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Sequential output in large requests. */
struct stream {
	struct plt_store *st;
	enum plt_io_tag tag;
	uint8_t *buf;
	size_t used, cap;
	uint64_t off;
};

static int stream_flush(struct stream *s, struct plt_error *err)
{
	int r = s->used ? plt_store_write(s->st, s->off, s->buf, s->used, s->tag, err) : 0;

	s->off += s->used;
	s->used = 0;
	return r;
}

/* Room for @len bytes (a divisor of the buffer), to be filled at once; NULL on failure. */
static uint8_t *stream_room(struct stream *s, uint64_t off, size_t len, int *r, struct plt_error *err)
{
	if (s->used + len > s->cap || off != s->off + s->used) {
		*r = stream_flush(s, err);
		if (*r < 0)
			return NULL;
		s->off = off;
	}
	s->used += len;
	return s->buf + s->used - len;
}

/* The first @n counts are one, the rest zero. */
static void fill_counts(const struct qcow2_state *q, uint8_t *block, uint64_t n)
{
	unsigned bits = q->refcount_bits;

	memset(block, 0, q->cluster_size);
	if (bits >= 8) {
		for (uint64_t i = 0; i < n; i++)
			block[i * (bits / 8) + bits / 8 - 1] = 1;
		return;
	}
	for (uint64_t i = 0; i < n; i++)
		block[i * bits / 8] |= (uint8_t)(1U << (i * bits % 8));
}

static int write_refcounts(const struct qcow2_state *q, struct stream *s, const struct layout *l,
			   struct plt_error *err)
{
	uint64_t entries = UINT64_C(1) << q->rb_bits, per = q->cluster_size / 8;
	int r = 0;

	s->tag = PLT_IO_REFTABLE;
	for (uint64_t t = 0; t < l->nrt; t++) {
		uint8_t *p = stream_room(s, (l->rt + t) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		for (uint64_t i = 0; i < per; i++)
			plt_put_be64(p + i * 8, t * per + i < l->nrb ? block_cluster(l, t * per + i) << q->cluster_bits : 0);
	}
	r = stream_flush(s, err);
	s->tag = PLT_IO_REFBLOCK;
	for (uint64_t i = 0; !r && i < l->nrb; i++) {
		uint8_t *p = stream_room(s, block_cluster(l, i) << q->cluster_bits, q->cluster_size, &r, err);

		if (p)
			fill_counts(q, p, PLT_MIN(entries, l->used - PLT_MIN(l->used, i << q->rb_bits)));
	}
	return r < 0 ? r : stream_flush(s, err);
}

static int write_l1(const struct qcow2_state *q, struct stream *s, const struct layout *l, struct plt_error *err)
{
	uint64_t bytes = (uint64_t)q->l1_size * 8;
	int r = 0;

	if (!bytes)
		return 0;
	s->tag = PLT_IO_L1;
	if (!l->nl2)
		return plt_store_zero(s->st, l->l1 << q->cluster_bits, bytes, PLT_ZERO_MAY_UNMAP, PLT_IO_L1, err);
	for (uint64_t c = 0; c < l->nl1; c++) {
		uint8_t *p = stream_room(s, (l->l1 + c) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		for (uint64_t i = 0; i < q->cluster_size / 8; i++) {
			uint64_t k = c * (q->cluster_size / 8) + i;

			plt_put_be64(p + i * 8, k < l->nl2 ? QCOW2_COPIED | (l->l2 + k) << q->cluster_bits : 0);
		}
	}
	return stream_flush(s, err);
}

/*
 * L2 tables that map all @n guest clusters in order.  With extended entries the subclusters stay
 * unallocated (their place is kept, a backing file shows through).
 */
static int write_l2(const struct qcow2_state *q, struct stream *s, const struct layout *l, uint64_t n,
		    uint64_t first_host, struct plt_error *err)
{
	uint64_t per = UINT64_C(1) << q->l2_bits, k = 0;
	int r = 0;

	s->tag = PLT_IO_L2;
	for (uint64_t t = 0; t < l->nl2; t++) {
		uint8_t *p = stream_room(s, (l->l2 + t) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		memset(p, 0, q->cluster_size);
		for (uint64_t i = 0; i < per && k < n; i++, k++)
			plt_put_be64(p + i * q->l2_entry_size, QCOW2_COPIED | (first_host + k) << q->cluster_bits);
	}
	return stream_flush(s, err);
}

static int write_zeros(struct stream *s, struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	int r = 0;

	memset(s->buf, 0, s->cap);
	while (len && !r) {
		size_t n = PLT_MIN(len, s->cap);

		r = plt_store_write(st, off, s->buf, n, PLT_IO_DATA, err);
		off += n;
		len -= n;
	}
	return r;
}

/* Bring the data area to its length: a hole, reserved space, or zeros. */
static int make_data(struct stream *s, struct plt_store *st, enum prealloc mode, uint64_t off, uint64_t len,
		     struct plt_error *err)
{
	uint64_t size;
	int r = 0;

	if (mode == PREALLOC_FULL)
		return write_zeros(s, st, off, len, err);
	if (mode == PREALLOC_FALLOC && len) {
		r = plt_store_allocate(st, off, len, err);
		if (r == -ENOTSUP) /* as posix_fallocate does: the promise is the space */
			return write_zeros(s, st, off, len, err);
	}
	if (!r)
		r = plt_store_size(st, &size, err);
	if (!r && size < off + len && st->limits.can_grow)
		r = plt_store_truncate(st, off + len, err);
	else if (!r && size < off + len)
		r = plt_error_set(err, ENOSPC, "'%s' has %" PRIu64 " bytes, the image needs %" PRIu64, st->name, size, off + len);
	return r;
}

/* The first cluster, last of all. */
static int write_header(const struct plt_create *how, const struct qcow2_state *q, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	size_t len;
	int r;

	if (!buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = qcow2_header_build(q, plt_opts_get(how->opts, "backing_file"), plt_opts_get(how->opts, "backing_fmt"),
			       buf, &len, err);
	if (r < 0)
		return r;
	len = PLT_MIN(plt_align_up(len, 4096), (uint64_t)q->cluster_size);
	if (len < q->cluster_size)
		r = plt_store_zero(how->file, len, q->cluster_size - len, PLT_ZERO_MAY_UNMAP, PLT_IO_HEADER, err);
	return r < 0 ? r : plt_store_write(how->file, 0, buf, len, PLT_IO_HEADER, err);
}

static int write_image(const struct plt_create *how, struct qcow2_state *q, const struct layout *l,
		       enum prealloc mode, uint64_t guest_clusters, struct plt_error *err)
{
	bool external = q->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	struct stream s = { .st = how->file, .cap = 2 << 20 };
	int r;

	s.buf = plt_alloc_io(s.cap);
	if (!s.buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = write_refcounts(q, &s, l, err);
	if (!r)
		r = write_l1(q, &s, l, err);
	if (!r && l->nl2)
		r = write_l2(q, &s, l, guest_clusters, external ? 0 : l->data, err);
	if (!r && l->ndata)
		r = make_data(&s, how->file, mode, l->data << q->cluster_bits, l->ndata << q->cluster_bits, err);
	else if (!r) /* as long as the last table, and no longer */
		r = make_data(&s, how->file, PREALLOC_METADATA, 0,
			      PLT_MAX(l->nl2 ? l->used << q->cluster_bits : (l->l1 << q->cluster_bits) + (uint64_t)q->l1_size * 8,
				      (block_cluster(l, l->nrb - 1) + 1) << q->cluster_bits), err);
	if (!r && external && how->data_file)
		r = make_data(&s, how->data_file, mode, 0, q->virtual_size, err);
	if (!r)
		r = write_header(how, q, err);
	free(s.buf);
	return r;
}

int qcow2_create(const struct plt_create *how, struct plt_error *err)
{
	struct qcow2_state q = { .header_length = sizeof(struct qcow2_header) };
	const char *data_file = plt_opts_get(how->opts, "data_file");
	struct layout l = { 0 };
	enum prealloc mode = PREALLOC_OFF;
	uint64_t guest_clusters, nl1;
	int r = parse_options(how->opts, &q, &mode, err);

	if (r < 0)
		return r;
	qcow2_state_derive(&q);
	if (how->size > INT64_MAX - 511)
		return plt_error_set(err, EFBIG, TOO_LARGE);
	q.virtual_size = plt_align_up(how->size, 512);
	nl1 = qcow2_l1_entries(&q, q.virtual_size);
	if (nl1 > QCOW2_MAX_L1_BYTES / 8)
		return plt_error_set(err, EFBIG, TOO_LARGE);
	q.l1_size = (uint32_t)nl1;
	guest_clusters = plt_div_up(q.virtual_size, q.cluster_size);
	l.nl1 = plt_div_up(nl1 * 8, q.cluster_size);
	if (mode != PREALLOC_OFF) {
		l.nl2 = nl1;
		l.ndata = data_file ? 0 : guest_clusters;
	}
	if (mode != PREALLOC_OFF || !layout_as_qemu(&q, &l))
		layout_in_order(&q, &l);
	if (l.nrt > QCOW2_MAX_REFTABLE_BYTES >> q.cluster_bits || l.used > QCOW2_MAX_HOST_OFFSET >> q.cluster_bits) {
		r = plt_error_set(err, EFBIG, "The image size is too large to preallocate with this cluster size and "
				  "refcount width (try using a larger cluster size)");
		goto out;
	}
	q.reftable_offset = l.rt << q.cluster_bits;
	q.reftable_clusters = (uint32_t)l.nrt;
	q.l1_offset = nl1 ? l.l1 << q.cluster_bits : 0;
	if (data_file) {
		q.data_file_name = strdup(data_file);
		r = q.data_file_name ? 0 : -ENOMEM;
	}
	if (!r && q.version >= 3 && q.cluster_size > 4096) /* it would crowd a small first cluster */
		r = qcow2_feature_table_default(&q);
	if (!r)
		r = write_image(how, &q, &l, mode, guest_clusters, err);
	if (r == -EFBIG)
		plt_error_set(err, EFBIG, TOO_LARGE);
	else if (r < 0)
		plt_error_default(err, -r, "Out of memory");
out:
	free(l.blocks);
	qcow2_state_release(&q);
	return r;
}

/* ---- measure --------------------------------------------------------------------------------- */

int qcow2_measure(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
		  uint64_t *ret_full, struct plt_error *err)
{
	struct qcow2_state q = { 0 };
	const char *pre = plt_opts_get(opts, "preallocation"), *compat = plt_opts_get(opts, "compat");
	int p = pre ? word_index(prealloc_words, pre) : 0;
	uint64_t l2, l1, table, blocks, meta, virt;
	int r;

	if (p < 0)
		return plt_error_set(err, EINVAL, "invalid parameter value: %s", pre);
	if (compat && word_index(compat_words, compat) < 0)
		return plt_error_set(err, EINVAL, "Invalid compatibility level: '%s'", compat);
	r = parse_geometry(opts, &q, err);
	if (!r)
		r = refuse_encryption(opts, err);
	if (r < 0)
		return r;
	qcow2_state_derive(&q);
	if (size > (uint64_t)INT64_MAX - q.cluster_size || qcow2_l1_entries(&q, size) > QCOW2_MAX_L1_BYTES / 8)
		return plt_error_set(err, EFBIG, "The image size is too large (try using a larger cluster size)");
	virt = plt_align_up(size, q.cluster_size);
	/* Every table at its full length, as QEMU counts: an upper bound that does not depend on the data. */
	l2 = qcow2_l1_entries(&q, size);
	l1 = plt_div_up(l2 * 8, q.cluster_size);
	meta = 1 + l1 + l2;
	refcount_clusters(meta + (virt >> q.cluster_bits), &q, &table, &blocks);
	meta += table + blocks;
	*ret_full = (meta << q.cluster_bits) + virt;
	*ret_required = p >= PREALLOC_FALLOC ? *ret_full :
			(meta << q.cluster_bits) + PLT_MIN(virt, plt_align_up(PLT_MIN(data, virt), q.cluster_size));
	return 0;
}
