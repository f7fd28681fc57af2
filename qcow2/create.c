/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * New images: layout and writing.  The layout is computed first (header, refcount table,
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

#define TOO_LARGE                                                                                  \
	"The image size is too large for file format 'qcow2' (try using a larger cluster size)"

/* ---- layout ---------------------------------------------------------------------------------- */

/* In clusters of the file. */
struct layout {
	uint64_t rt, nrt; /* refcount table */
	uint64_t rb, nrb; /* refcount blocks: contiguous from rb, or ... */
	uint64_t *blocks; /* ... where this says */
	uint64_t l1, nl1;
	uint64_t luks, nluks; /* LUKS header and key material */
	uint64_t l2, nl2;     /* preallocated L2 tables */
	uint64_t data, ndata; /* preallocated data in this file */
	uint64_t used;	      /* clusters with a count of one: [0, used) */
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
	uint64_t first; /* clusters from here on hold refcount blocks only */
	uint8_t *taken; /* of them */
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

/*
 * False: more than one cluster of refcount table is needed, and QEMU's growth of it is not
 * replayed.
 */
static bool layout_as_qemu(const struct qcow2_state *q, struct layout *l)
{
	struct replay r = {.q = q, .nblocks = q->cluster_size / 8, .first = 3 + l->nl1};
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
	if (!ok ||
	    r.used != 2 + n + l->nl1) { /* no gaps: what is written counts all of [0, used) */
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
	refcount_clusters(1 + l->nl1 + l->nluks + l->nl2 + l->ndata, q, &l->nrt, &l->nrb);
	l->rt = 1;
	l->rb = l->rt + l->nrt;
	l->l1 = l->rb + l->nrb;
	l->luks = l->l1 + l->nl1;
	l->l2 = l->luks + l->nluks;
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
static uint8_t *stream_room(struct stream *s, uint64_t off, size_t len, int *r,
			    struct plt_error *err)
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
		uint8_t *p =
			stream_room(s, (l->rt + t) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		for (uint64_t i = 0; i < per; i++)
			plt_put_be64(p + i * 8, t * per + i < l->nrb ? block_cluster(l, t * per + i)
									       << q->cluster_bits
								     : 0);
	}
	r = stream_flush(s, err);
	s->tag = PLT_IO_REFBLOCK;
	for (uint64_t i = 0; !r && i < l->nrb; i++) {
		uint8_t *p = stream_room(s, block_cluster(l, i) << q->cluster_bits, q->cluster_size,
					 &r, err);

		if (p)
			fill_counts(q, p,
				    PLT_MIN(entries, l->used - PLT_MIN(l->used, i << q->rb_bits)));
	}
	return r < 0 ? r : stream_flush(s, err);
}

static int write_l1(const struct qcow2_state *q, struct stream *s, const struct layout *l,
		    struct plt_error *err)
{
	uint64_t bytes = (uint64_t)q->l1_size * 8;
	int r = 0;

	if (!bytes)
		return 0;
	s->tag = PLT_IO_L1;
	if (!l->nl2)
		return plt_store_zero(s->st, l->l1 << q->cluster_bits, bytes, PLT_ZERO_MAY_UNMAP,
				      PLT_IO_L1, err);
	for (uint64_t c = 0; c < l->nl1; c++) {
		uint8_t *p =
			stream_room(s, (l->l1 + c) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		for (uint64_t i = 0; i < q->cluster_size / 8; i++) {
			uint64_t k = c * (q->cluster_size / 8) + i;

			plt_put_be64(p + i * 8,
				     k < l->nl2 ? QCOW2_COPIED | (l->l2 + k) << q->cluster_bits
						: 0);
		}
	}
	return stream_flush(s, err);
}

/*
 * L2 tables that map all @n guest clusters in order.  With extended entries the subclusters stay
 * unallocated (their place is kept, a backing file shows through).
 */
static int write_l2(const struct qcow2_state *q, struct stream *s, const struct layout *l,
		    uint64_t n, uint64_t first_host, struct plt_error *err)
{
	uint64_t per = UINT64_C(1) << q->l2_bits, k = 0;
	int r = 0;

	s->tag = PLT_IO_L2;
	for (uint64_t t = 0; t < l->nl2; t++) {
		uint8_t *p =
			stream_room(s, (l->l2 + t) << q->cluster_bits, q->cluster_size, &r, err);

		if (!p)
			return r;
		memset(p, 0, q->cluster_size);
		for (uint64_t i = 0; i < per && k < n; i++, k++)
			plt_put_be64(p + i * q->l2_entry_size,
				     QCOW2_COPIED | (first_host + k) << q->cluster_bits);
	}
	return stream_flush(s, err);
}

static int write_zeros(struct stream *s, struct plt_store *st, uint64_t off, uint64_t len,
		       struct plt_error *err)
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
static int make_data(struct stream *s, struct plt_store *st, enum qcow2_prealloc mode, uint64_t off,
		     uint64_t len, struct plt_error *err)
{
	uint64_t size;
	int r = 0;

	if (mode == QCOW2_PREALLOC_FULL)
		return write_zeros(s, st, off, len, err);
	if (mode == QCOW2_PREALLOC_FALLOC && len) {
		r = plt_store_allocate(st, off, len, err);
		if (r == -ENOTSUP) /* as posix_fallocate does: the promise is the space */
			return write_zeros(s, st, off, len, err);
	}
	if (!r)
		r = plt_store_size(st, &size, err);
	if (!r && size < off + len && st->limits.can_grow)
		r = plt_store_truncate(st, off + len, err);
	else if (!r && size < off + len)
		r = plt_error_set(err, ENOSPC,
				  "'%s' has %" PRIu64 " bytes, the image needs %" PRIu64, st->name,
				  size, off + len);
	return r;
}

/* The first cluster, last of all. */
static int write_header(const struct plt_create *how, const struct qcow2_state *q,
			struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	size_t len;
	int r;

	if (!buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = qcow2_header_build(q, plt_opts_get(how->opts, "backing_file"),
			       plt_opts_get(how->opts, "backing_fmt"), buf, &len, err);
	if (r < 0)
		return r;
	len = PLT_MIN(plt_align_up(len, 4096), (uint64_t)q->cluster_size);
	if (len < q->cluster_size)
		r = plt_store_zero(how->file, len, q->cluster_size - len, PLT_ZERO_MAY_UNMAP,
				   PLT_IO_HEADER, err);
	return r < 0 ? r : plt_store_write(how->file, 0, buf, len, PLT_IO_HEADER, err);
}

/* The LUKS header and its first key slot. */
static int write_luks(const struct plt_create *how, const struct qcow2_state *q,
		      const struct qcow2_encrypt_wish *w, const struct plt_secret *secret, struct plt_error *err)
{
	struct plt_luks *luks = NULL;
	int r = plt_luks_create(how->file, q->luks_offset, &w->luks, secret, how->trial, &luks, err);

	plt_luks_free(luks);
	return r;
}

/* What of it may turn out not to fit, or to want a secret that is not there. */
static int write_trial(const struct plt_create *how, const struct qcow2_state *q,
		       const struct qcow2_encrypt_wish *w, const struct plt_secret *secret, struct plt_error *err)
{
	int r = q->luks_length ? write_luks(how, q, w, secret, err) : 0;

	return r < 0 ? r : write_header(how, q, err);
}

static int write_image(const struct plt_create *how, struct qcow2_state *q, const struct layout *l,
		       enum qcow2_prealloc mode, uint64_t guest_clusters, const struct qcow2_encrypt_wish *encrypt,
		       const struct plt_secret *secret, struct plt_error *err)
{
	bool external = q->external;
	struct stream s = {.st = how->file, .cap = 2 << 20};
	int r;

	s.buf = plt_alloc_io(s.cap);
	if (!s.buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = write_refcounts(q, &s, l, err);
	if (!r)
		r = write_l1(q, &s, l, err);
	if (!r && l->nluks)
		r = write_luks(how, q, encrypt, secret, err);
	if (!r && l->nl2)
		r = write_l2(q, &s, l, guest_clusters, external ? 0 : l->data, err);
	if (!r && l->ndata)
		r = make_data(&s, how->file, mode, l->data << q->cluster_bits,
			      l->ndata << q->cluster_bits, err);
	else if (!r) /* as long as the last table, and no longer */
		r = make_data(
			&s, how->file, QCOW2_PREALLOC_METADATA, 0,
			PLT_MAX(l->nl2 || l->nluks ? l->used << q->cluster_bits
				       : (l->l1 << q->cluster_bits) + (uint64_t)q->l1_size * 8,
				(block_cluster(l, l->nrb - 1) + 1) << q->cluster_bits),
			err);
	if (!r && external && how->data_file)
		r = make_data(&s, how->data_file, mode, 0, q->virtual_size, err);
	if (!r)
		r = write_header(how, q, err);
	free(s.buf);
	return r;
}

int qcow2_create(const struct plt_create *how, struct plt_error *err)
{
	struct qcow2_state q = {.header_length = sizeof(struct qcow2_header)};
	const char *data_file = plt_opts_get(how->opts, "data_file");
	struct layout l = {0};
	enum qcow2_prealloc mode = QCOW2_PREALLOC_OFF;
	struct qcow2_encrypt_wish encrypt = {0};
	struct plt_secret secret = PLT_SECRET_INIT;
	uint64_t guest_clusters, nl1;
	int r = qcow2_create_parse(how->opts, &q, &encrypt, &mode, err);

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
	if (mode != QCOW2_PREALLOC_OFF) {
		l.nl2 = nl1;
		l.ndata = data_file ? 0 : guest_clusters;
	}
	if (encrypt.method == QCOW2_CRYPT_LUKS) {
		q.luks_length = plt_luks_space(&encrypt.luks);
		l.nluks = plt_div_up(q.luks_length, q.cluster_size);
	}
	if (mode != QCOW2_PREALLOC_OFF || l.nluks || !layout_as_qemu(&q, &l))
		layout_in_order(&q, &l);
	if (l.nrt > QCOW2_MAX_REFTABLE_BYTES >> q.cluster_bits ||
	    l.used > QCOW2_MAX_HOST_OFFSET >> q.cluster_bits) {
		r = plt_error_set(
			err, EFBIG,
			"The image size is too large to preallocate with this cluster size and "
			"refcount width (try using a larger cluster size)");
		goto out;
	}
	q.reftable_offset = l.rt << q.cluster_bits;
	q.reftable_clusters = (uint32_t)l.nrt;
	q.l1_offset = nl1 ? l.l1 << q.cluster_bits : 0;
	q.luks_offset = l.nluks ? l.luks << q.cluster_bits : 0;
	r = qcow2_encrypt_secret(how->ctx, &encrypt, &secret, err);
	if (r < 0)
		goto out;
	if (data_file) {
		q.data_file_name = strdup(data_file);
		r = q.data_file_name ? 0 : -ENOMEM;
	}
	if (!r && q.version >= 3 &&
	    q.cluster_size > 4096) /* it would crowd a small first cluster */
		r = qcow2_feature_table_default(&q);
	if (!r) /* (the header is the one thing that may still turn out not to fit) */
		r = how->trial ? write_trial(how, &q, &encrypt, &secret, err) :
				 write_image(how, &q, &l, mode, guest_clusters, &encrypt, &secret, err);
	if (r == -EFBIG)
		plt_error_set(err, EFBIG, TOO_LARGE);
	else if (r < 0)
		plt_error_default(err, -r, "Out of memory");
out:
	plt_secret_release(&secret);
	free(l.blocks);
	qcow2_state_release(&q);
	return r;
}

/* ---- measure --------------------------------------------------------------------------------- */

int qcow2_measure(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
		  uint64_t *ret_full, struct plt_error *err)
{
	struct qcow2_state q = {0};
	enum qcow2_prealloc mode = QCOW2_PREALLOC_OFF;
	struct qcow2_encrypt_wish encrypt = {0};
	uint64_t l2, l1, table, blocks, meta, virt;
	int r = qcow2_measure_parse(opts, &q, &encrypt, &mode, err);

	if (r < 0)
		return r;
	qcow2_state_derive(&q);
	if (size > (uint64_t)INT64_MAX - q.cluster_size ||
	    qcow2_l1_entries(&q, size) > QCOW2_MAX_L1_BYTES / 8)
		return plt_error_set(
			err, EFBIG,
			"The image size is too large (try using a larger cluster size)");
	virt = plt_align_up(size, q.cluster_size);
	/*
	 * Every table at its full length, as QEMU counts: an upper bound that does not depend on
	 * the data.
	 */
	l2 = qcow2_l1_entries(&q, size);
	l1 = plt_div_up(l2 * 8, q.cluster_size);
	meta = 1 + l1 + l2;
	if (encrypt.method == QCOW2_CRYPT_LUKS)
		meta += plt_div_up(plt_luks_space(&encrypt.luks), q.cluster_size);
	refcount_clusters(meta + (virt >> q.cluster_bits), &q, &table, &blocks);
	meta += table + blocks;
	*ret_full = (meta << q.cluster_bits) + virt;
	*ret_required =
		mode >= QCOW2_PREALLOC_FALLOC
			? *ret_full
			: (meta << q.cluster_bits) +
				  PLT_MIN(virt, plt_align_up(PLT_MIN(data, virt), q.cluster_size));
	return 0;
}

int qcow2_measure_bitmaps(const struct plt_opts *opts, uint64_t size, const struct plt_bitmap_info *v,
			  unsigned n, uint64_t *ret)
{
	struct qcow2_state q = {0};
	enum qcow2_prealloc mode;
	struct qcow2_encrypt_wish encrypt = {0};
	uint64_t directory = 0;

	if (qcow2_measure_parse(opts, &q, &encrypt, &mode, NULL) < 0 || q.version < 3)
		return -ENOTSUP;
	qcow2_state_derive(&q);
	*ret = 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t bytes = plt_div_up(plt_div_up(size, v[i].granularity), 8);
		uint64_t clusters = plt_div_up(bytes, q.cluster_size);

		/* Its bits, all of them stored; its table; its entry in the directory. */
		*ret += clusters << q.cluster_bits;
		*ret += plt_align_up(clusters * 8, q.cluster_size);
		directory += plt_align_up(sizeof(struct qcow2_bitmap_entry) + strlen(v[i].name), 8);
	}
	*ret += plt_align_up(directory, q.cluster_size);
	return 0;
}
