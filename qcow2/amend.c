/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Options of an image changed where it is.  All that can be refused is refused first.  Then each change
 * is made whole by one write of one sector of the header, with everything that it relies on durable
 * before:
 *
 *	to version 3, lazy refcounts, data file    the header alone
 *	width of the counts                        new table and blocks -> header (recount.c)
 *	to version 2                               no zero clusters, counts durable -> header
 *
 * Zero clusters become absent ones, or over a backing file data (the engine writes it) before the
 * version changes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

/* clang-format off */
const struct plt_opt_desc qcow2_amend_opts[] = {
	{ .name = "encrypt.state", .type = PLT_OPT_STRING,
	  .help = "Select new state of affected keyslots (active/inactive)" },
	{ .name = "encrypt.keyslot", .type = PLT_OPT_NUMBER,
	  .help = "Select a single keyslot to modify explicitly" },
	{ .name = "encrypt.old-secret", .type = PLT_OPT_STRING,
	  .help = "Select all keyslots that match this password" },
	{ .name = "encrypt.new-secret", .type = PLT_OPT_STRING,
	  .help = "New secret to set in the matching keyslots. Empty string to erase" },
	{ .name = "encrypt.iter-time", .type = PLT_OPT_NUMBER,
	  .help = "Time to spend in PBKDF in milliseconds" },
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "compat", .type = PLT_OPT_STRING,
	  .help = "Compatibility level (v2 [0.10] or v3 [1.1])" },
	{ .name = "backing_file", .type = PLT_OPT_STRING, .help = "File name of a base image" },
	{ .name = "backing_fmt", .type = PLT_OPT_STRING, .help = "Image format of the base image" },
	{ .name = "data_file", .type = PLT_OPT_STRING, .help = "File name of an external data file" },
	{ .name = "data_file_raw", .type = PLT_OPT_BOOL,
	  .help = "The external data file must stay valid as a raw image" },
	{ .name = "lazy_refcounts", .type = PLT_OPT_BOOL, .help = "Postpone refcount updates" },
	{ .name = "refcount_bits", .type = PLT_OPT_NUMBER,
	  .help = "Width of a reference count entry in bits" },
	{ .name = NULL },
};
/* clang-format on */

/* What the image is to be. */
struct plan {
	uint32_t version, order;
	bool lazy, data_raw;
	const char *data_file; /* NULL: as it is */
};

/* ---- what the tables hold -------------------------------------------------------------------- */

struct census {
	uint64_t zeros, packed;
};

/* Zero clusters of one slice, counted or (@remove) made absent.  Returns their places through @drops. */
struct drops {
	uint64_t *v;
	size_t n, cap;
};

static int drop(struct drops *d, uint64_t off, struct plt_error *err)
{
	if (d->n == d->cap) {
		size_t cap = d->cap ? 2 * d->cap : 256;
		void *v = realloc(d->v, cap * sizeof(*d->v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		d->v = v;
		d->cap = cap;
	}
	d->v[d->n++] = off;
	return 0;
}

static int look_at_slice(struct plt_image *img, struct plt_block *b, uint64_t guest_off, struct census *c,
			 struct drops *remove, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	unsigned per_slice = img->slice / q->l2_entry_size;
	bool dirty = false;
	int r = 0;

	pthread_mutex_lock(&img->lock);
	for (unsigned i = 0; r == 0 && i < per_slice; i++, guest_off += q->cluster_size) {
		struct qcow2_entry e = qcow2_entry_get(q, b, i);
		uint64_t off = e.word & QCOW2_L2_OFFSET;

		if (!e.word && !e.bitmap)
			continue;
		if (qcow2_entry_bad(img, e, guest_off)) {
			r = plt_error_set(err, EIO, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
					  " is corrupt", img->name, e.word, guest_off);
			break;
		}
		c->packed += (e.word & QCOW2_COMPRESSED) != 0;
		if (e.word & QCOW2_COMPRESSED || !(e.word & QCOW2_L2_ZERO))
			continue;
		c->zeros++;
		if (!remove)
			continue;
		if (off && !q->external)
			r = drop(remove, off, err);
		if (r == 0) {
			qcow2_entry_set(q, b, i, (struct qcow2_entry){ 0, 0 });
			dirty = true;
		}
	}
	if (dirty)
		plt_block_dirty(b);
	pthread_mutex_unlock(&img->lock);
	return r;
}

static int look_at_table(struct plt_image *img, uint64_t l2_off, uint64_t l1_index, struct census *c,
			 struct drops *remove, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	unsigned per_slice = img->slice / q->l2_entry_size;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < UINT64_C(1) << q->l2_bits; i += per_slice) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *b;

		r = plt_meta_get_wait(img, &pins, &qcow2_l2_type, l2_off + i * q->l2_entry_size, &b, err);
		if (r == 0)
			r = look_at_slice(img, b, ((l1_index << q->l2_bits) + i) << q->cluster_bits, c, remove, err);
		plt_pins_drop(&pins);
	}
	return r;
}

/* Through one L1 table, the active one or a snapshot's. */
static int look_at(struct plt_image *img, uint64_t l1_offset, uint32_t l1_size, struct census *c,
		   struct drops *remove, struct plt_error *err)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < l1_size; i++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		uint64_t at = l1_offset + i * 8, entry = 0;
		struct plt_block *l1;

		r = plt_meta_get_wait(img, &pins, &qcow2_l1_type, at, &l1, err);
		if (r == 0) {
			entry = plt_block_get64(l1, (unsigned)(at % img->slice / 8));
			r = qcow2_l1_check(img, i, entry, err);
		}
		plt_pins_drop(&pins);
		if (r == 0 && entry & QCOW2_L1_OFFSET)
			r = look_at_table(img, entry & QCOW2_L1_OFFSET, i, c, remove, err);
	}
	return r;
}

static int take_census(struct plt_image *img, struct census *c, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r = look_at(img, q->l1_offset, q->l1_size, c, NULL, err);

	for (uint32_t i = 0; r == 0 && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		r = qcow2_check_table(q, s->l1_offset, s->l1_size, 8, QCOW2_MAX_L1_BYTES, "Snapshot L1 table", err);
		if (r == 0)
			r = look_at(img, s->l1_offset, s->l1_size, c, NULL, err);
	}
	return r;
}

/* Nothing lies below the image: what reads as zeros may be absent. */
static int remove_zeros(struct plt_image *img, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct drops d = { 0 };
	struct census c = { 0 };
	int r = look_at(img, q->l1_offset, q->l1_size, &c, &d, err);

	if (r == 0)
		r = plt_meta_flush(img, true, err);
	for (size_t i = 0; r == 0 && i < d.n; i++)
		r = qcow2_release(img, d.v[i], q->cluster_size, QCOW2_LIMBO_CLUSTERS, err);
	free(d.v);
	return r;
}

/* ---- judging --------------------------------------------------------------------------------- */

static int parse(struct plt_image *img, const struct plt_opts *o, struct plan *p, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	const char *compat = plt_opts_get(o, "compat");
	uint64_t bits;

	*p = (struct plan){ q->version, q->refcount_order, q->compatible & QCOW2_COMPAT_LAZY,
			    q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW, NULL };
	if (compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2")))
		p->version = 2;
	else if (compat && (!strcmp(compat, "1.1") || !strcmp(compat, "v3")))
		p->version = 3;
	else if (compat)
		return plt_error_set(err, EINVAL, "Unknown compatibility level %s", compat);
	if (plt_opts_get(o, "refcount_bits")) {
		bits = plt_opts_u64(o, "refcount_bits");
		if (!plt_is_pow2(bits) || bits > 64)
			return plt_error_set(err, EINVAL, "Refcount width must be a power of two and may not exceed "
					     "64 bits");
		p->order = (uint32_t)__builtin_ctzll(bits);
	}
	if (plt_opts_get(o, "lazy_refcounts"))
		p->lazy = plt_opts_bool(o, "lazy_refcounts");
	p->data_file = plt_opts_get(o, "data_file");
	if (p->data_file && !(q->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return plt_error_set(err, EINVAL, "data-file can only be set for images that use an external data "
				     "file");
	if (plt_opts_get(o, "data_file_raw")) {
		if (plt_opts_bool(o, "data_file_raw") && !p->data_raw)
			return plt_error_set(err, EINVAL, "data-file-raw cannot be set on existing images");
		p->data_raw = plt_opts_bool(o, "data_file_raw");
	}
	return 0;
}

static bool differs(const char *a, const char *b)
{
	return !a || !b ? a != b : strcmp(a, b) != 0;
}

static int judge_version(struct plt_image *img, const struct plan *p, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t features = q->incompatible & ~(uint64_t)(QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_DIRTY);
	struct census c = { 0 };
	int r;

	if (p->version == 3 && q->version < 3)
		for (uint32_t i = 0; i < q->nb_snapshots; i++)
			if (q->snapshots[i].extra_size < 16)
				return plt_error_set(err, ENOTSUP, "Snapshot '%s' lacks what version 3 demands of its "
						     "entry: delete it first", q->snapshots[i].info.name);
	if (p->version >= q->version)
		return 0;
	if (p->order != 4)
		return plt_error_set(err, ENOTSUP, "compat=0.10 requires refcount_bits=16");
	if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return plt_error_set(err, ENOTSUP, "Cannot downgrade an image with a data file");
	for (uint32_t i = 0; i < q->nb_snapshots; i++)
		if (q->snapshots[i].info.vm_state_size > UINT32_MAX ||
		    q->snapshots[i].info.disk_size != q->virtual_size)
			return plt_error_set(err, ENOTSUP, "Internal snapshots prevent downgrade of image");
	if (features)
		return plt_error_set(err, ENOTSUP, "Cannot downgrade an image with incompatible features 0x%" PRIx64
				     " set", features);
	if (q->nb_bitmaps || q->bitmaps_damaged)
		return plt_error_set(err, ENOTSUP, "Cannot downgrade an image with persistent bitmaps: remove them "
				     "first");
	r = take_census(img, &c, err);
	if (r == 0 && c.packed && q->compression != QCOW2_COMPRESSION_ZLIB)
		r = plt_error_set(err, ENOTSUP, "Cannot downgrade an image with zstd compression type and existing "
				  "compressed clusters");
	if (r == 0 && c.zeros && q->nb_snapshots)
		r = plt_error_set(err, ENOTSUP, "Cannot downgrade an image that has both internal snapshots and zero "
				  "clusters (%" PRIu64 " of them)", c.zeros);
	return r;
}

static int judge(struct plt_image *img, const struct plt_opts *o, const struct plan *p, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	const char *backing = plt_opts_get(o, "backing_file"), *format = plt_opts_get(o, "backing_fmt");
	uint64_t size = plt_opts_get(o, "size") ? plt_opts_u64(o, "size") : 0;

	if (q->view_snapshot)
		return plt_error_set(err, EACCES, "'%s': a snapshot cannot be amended", img->name);
	if ((backing || format) && (differs(backing, img->backing_name) || differs(format, img->backing_format)))
		return plt_error_set(err, EINVAL, "Cannot amend the backing file\nYou can use 'qemu-img rebase' "
				     "instead.");
	if (p->order != q->refcount_order && p->version < 3 && p->order != 4)
		return plt_error_set(err, EINVAL, "Refcount widths other than 16 bits require compatibility level 1.1 "
				     "or above (use compat=1.1 or greater)");
	if (p->version < 3 && plt_opts_get(o, "lazy_refcounts") && p->lazy)
		return plt_error_set(err, EINVAL, "Lazy refcounts only supported with compatibility level 1.1 and above "
				     "(use compat=1.1 or greater)");
	if (size % 512)
		return plt_error_set(err, EINVAL, "The new size must be a multiple of 512");
	if (size > INT64_MAX || qcow2_l1_entries(q, size) > QCOW2_MAX_L1_BYTES / 8)
		return plt_error_set(err, EFBIG, "The image size is too large");
	if (p->order != q->refcount_order) {
		int r = qcow2_check_width(img, p->order, err);

		if (r < 0)
			return r;
	}
	return judge_version(img, p, err);
}

/* ---- changing -------------------------------------------------------------------------------- */

/* The header fields that one change sets, to be put back if it fails. */
struct saved {
	uint32_t version, header_length, header_tail_len, feature_table_len;
	uint64_t incompatible, compatible, autoclear;
	enum qcow2_compression compression;
	uint8_t *feature_table;
	char *data_file_name;
};

static void save(const struct qcow2_state *q, struct saved *s)
{
	*s = (struct saved){ q->version, q->header_length, q->header_tail_len, q->feature_table_len,
			     q->incompatible, q->compatible, q->autoclear, q->compression, q->feature_table,
			     q->data_file_name };
}

static void restore(struct qcow2_state *q, const struct saved *s)
{
	q->version = s->version;
	q->header_length = s->header_length;
	q->header_tail_len = s->header_tail_len;
	q->feature_table_len = s->feature_table_len;
	q->incompatible = s->incompatible;
	q->compatible = s->compatible;
	q->autoclear = s->autoclear;
	q->compression = s->compression;
	if (q->feature_table != s->feature_table)
		free(q->feature_table);
	q->feature_table = s->feature_table;
	if (q->data_file_name != s->data_file_name)
		free(q->data_file_name);
	q->data_file_name = s->data_file_name;
}

/* The state is as wanted: make it the header's.  What it replaced is @old. */
static int switch_header(struct plt_image *img, const struct saved *old, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = qcow2_header_replace(img, err);

	if (r < 0) {
		restore(q, old);
		/* Which of the two the disk has nobody knows: it gets the old one, or nothing more is written. */
		if (qcow2_header_replace(img, NULL) < 0)
			atomic_store(&img->file->sync_error, EIO);
		return r;
	}
	if (old->feature_table != q->feature_table)
		free(old->feature_table);
	if (old->data_file_name != q->data_file_name)
		free(old->data_file_name);
	return 0;
}

static int upgrade(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct saved old;

	save(q, &old);
	q->version = 3;
	q->incompatible = q->compatible = q->autoclear = 0;
	q->header_length = 0;
	q->header_tail_len = 0;
	q->feature_table = NULL;
	if (qcow2_feature_table_default(q) < 0) {
		restore(q, &old);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	return switch_header(img, &old, err);
}

static int downgrade(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct saved old;
	int r = plt_meta_flush(img, true, err); /* counts, which the dirty bit excused */

	if (r < 0)
		return r;
	save(q, &old);
	q->version = 2;
	q->incompatible = q->compatible = q->autoclear = 0;
	q->compression = QCOW2_COMPRESSION_ZLIB;
	q->header_length = QCOW2_V2_HEADER;
	q->header_tail_len = 0;
	q->feature_table = NULL;
	q->feature_table_len = 0;
	r = switch_header(img, &old, err);
	if (r == 0)
		q->lazy = q->dirty_set = q->dirty_on_disk = false;
	return r;
}

/* Bits of the header, which lie in one sector with those that they depend on. */
static int set_flags(struct plt_image *img, const struct plan *p, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	bool lazy = q->compatible & QCOW2_COMPAT_LAZY, raw = q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW, clean;
	struct saved old;
	int r;

	if (p->lazy == lazy && p->data_raw == raw)
		return 0;
	clean = lazy && !p->lazy;
	r = clean ? plt_meta_flush(img, true, err) : 0;
	if (r < 0)
		return r;
	save(q, &old);
	/* On: from the next opening, for this one has not said that it is dirty. */
	q->compatible = p->lazy ? q->compatible | QCOW2_COMPAT_LAZY : q->compatible & ~(uint64_t)QCOW2_COMPAT_LAZY;
	if (clean)
		q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
	if (!p->data_raw)
		q->autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_DATA_RAW;
	r = qcow2_header_switch(img, offsetof(struct qcow2_header, incompatible_features),
				offsetof(struct qcow2_header, refcount_order), err);
	if (r < 0) {
		restore(q, &old);
		return r;
	}
	if (clean)
		q->lazy = q->dirty_set = q->dirty_on_disk = false;
	q->data_file_raw = q->external && q->autoclear & QCOW2_AUTOCLEAR_DATA_RAW;
	return 0;
}

static int set_data_file(struct plt_image *img, const char *name, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct saved old;

	save(q, &old);
	q->data_file_name = *name ? strdup(name) : NULL;
	if (*name && !q->data_file_name) {
		restore(q, &old);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	return switch_header(img, &old, err);
}

static int first(struct plt_image *img, const struct plt_opts *o, const struct plan *p, bool *ret_plain,
		 struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r = judge(img, o, p, err);

	*ret_plain = p->version < q->version && img->has_backing;
	if (r == 0 && p->version > q->version)
		r = upgrade(img, err);
	if (r == 0 && p->order != q->refcount_order)
		r = qcow2_change_width(img, p->order, err);
	if (r == 0 && q->version >= 3)
		r = set_flags(img, p, err);
	if (r == 0 && p->data_file && differs(*p->data_file ? p->data_file : NULL, q->data_file_name))
		r = set_data_file(img, p->data_file, err);
	return r;
}

static int last(struct plt_image *img, const struct plan *p, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct census c = { 0 };
	int r = 0;

	if (p->version >= q->version)
		return 0;
	if (!img->has_backing)
		r = remove_zeros(img, err);
	if (r == 0)
		r = take_census(img, &c, err);
	if (r == 0 && c.zeros)
		r = plt_error_set(err, EBUSY, "The image has got zero clusters while it was being amended");
	return r < 0 ? r : downgrade(img, err);
}

int qcow2_amend(struct plt_image *img, const struct plt_opts *opts, enum plt_amend_phase phase, bool *ret_plain,
		struct plt_error *err)
{
	struct plan p;
	int r = parse(img, opts, &p, err);

	if (r < 0)
		return r;
	return phase == PLT_AMEND_FIRST ? first(img, opts, &p, ret_plain, err) : last(img, &p, err);
}
