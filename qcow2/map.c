/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * From guest to host: L1, L2, subclusters.  Takes no lock: entries are single words that publish
 * stores atomically (an extended entry's two words are bracketed by the block's sequence number), and
 * the epoch of the request keeps what was found valid.
 *
 * Every entry is a claim and is checked when it is used, one by one: a bad one makes its own cluster
 * damaged and no other.  A data cluster that lies on the header, the active L1 table, the refcount
 * table, the snapshot table or the bitmap directory is damaged too: what the guest would read there is
 * not its data, and what it would write there would be the end of the image.  One on any other table
 * is never written in place (guard.c).
 */
#include "base/checked.h"
#include "base/error.h"
#include "qcow2/mapping.h"

#define SLICES_PER_CALL 4 /* each call pins at most one L1 and one L2 slice for each */

static uint64_t cluster_end(const struct plt_image *img, uint64_t host_off)
{
	uint64_t cs = qcow2_of(img)->cluster_size;

	return plt_align_down(host_off, cs) + cs;
}

const struct plt_meta_type qcow2_refblock_type = { .name = "refcount block", .rank = 0, .tag = PLT_IO_REFBLOCK };
const struct plt_meta_type qcow2_reftable_type = { .name = "refcount table", .rank = 1, .tag = PLT_IO_REFTABLE };
const struct plt_meta_type qcow2_l2_type = { .name = "L2 table", .rank = 2, .tag = PLT_IO_L2, .table_end = cluster_end };
const struct plt_meta_type qcow2_l1_type = { .name = "L1 table", .rank = 3, .tag = PLT_IO_L1 };

/* ---- tables ---------------------------------------------------------------------------------- */

bool qcow2_on_metadata(const struct qcow2_state *q, uint64_t host_off, uint64_t len)
{
	/* the length first: an old one with the new offset is part of the new table, the reverse is not */
	uint64_t reftable_len = (uint64_t)q->reftable_clusters << q->cluster_bits;

	return plt_ranges_overlap(host_off, len, 0, q->cluster_size) ||
	       plt_ranges_overlap(host_off, len, q->l1_offset, (uint64_t)q->l1_size * 8) ||
	       plt_ranges_overlap(host_off, len, q->reftable_offset, reftable_len);
}

/* The same, and what a guest's data may not lie on either. */
static bool on_any_table(const struct qcow2_state *q, uint64_t host_off, uint64_t len)
{
	return qcow2_on_metadata(q, host_off, len) ||
	       (q->nb_snapshots && plt_ranges_overlap(host_off, len, q->snapshots_offset, q->snapshots_size)) ||
	       (q->nb_bitmaps && plt_ranges_overlap(host_off, len, q->bitmap_dir_offset, q->bitmap_dir_size));
}

int qcow2_l1_get(struct plt_image *img, struct plt_pins *pins, uint64_t l1_offset, uint64_t index,
		 struct plt_block **ret, unsigned *ret_word, struct plt_need *need, struct plt_error *err)
{
	uint64_t at = l1_offset + index * 8;

	*ret_word = (unsigned)(at % img->slice / 8);
	return plt_meta_get(img, pins, &qcow2_l1_type, at, ret, need, err);
}

int qcow2_l1_check(const struct plt_image *img, uint64_t index, uint64_t entry, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t off = entry & QCOW2_L1_OFFSET;

	if (entry & QCOW2_L1_RESERVED)
		return plt_error_set(err, EUCLEAN, "'%s': L1 entry %" PRIu64 " (%#" PRIx64 "): reserved bits are set",
				     img->name, index, entry);
	if (off & (q->cluster_size - 1))
		return plt_error_set(err, EUCLEAN, "'%s': L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx64
				     ")", img->name, off, index);
	if (off && qcow2_on_metadata(q, off, q->cluster_size))
		return plt_error_set(err, EUCLEAN, "'%s': L1 entry %" PRIu64 ": the L2 table at %#" PRIx64
				     " lies on other metadata", img->name, index, off);
	return 0;
}

struct qcow2_entry qcow2_entry_get(const struct qcow2_state *q, const struct plt_block *b, unsigned index)
{
	struct qcow2_entry e = { 0, 0 };
	unsigned seq;

	if (!q->extl2) {
		e.word = plt_block_get64(b, index);
		return e;
	}
	do {
		seq = plt_block_read_begin(b);
		e.word = plt_block_get64(b, 2 * index);
		e.bitmap = plt_block_get64(b, 2 * index + 1);
	} while (plt_block_read_retry(b, seq));
	return e;
}

void qcow2_entry_set(const struct qcow2_state *q, struct plt_block *b, unsigned index, struct qcow2_entry e)
{
	if (!q->extl2) {
		plt_block_set64(b, index, e.word);
		return;
	}
	plt_block_write_begin(b);
	plt_block_set64(b, 2 * index, e.word);
	plt_block_set64(b, 2 * index + 1, e.bitmap);
	plt_block_write_end(b);
}

/* ---- entries --------------------------------------------------------------------------------- */

bool qcow2_entry_bad(const struct plt_image *img, struct qcow2_entry e, uint64_t guest_off)
{
	const struct qcow2_state *q = qcow2_of(img);
	bool external = q->external;
	uint64_t off = e.word & QCOW2_L2_OFFSET;
	uint32_t alloc = (uint32_t)e.bitmap, zero = (uint32_t)(e.bitmap >> 32), len;

	if (e.word & QCOW2_COMPRESSED) {
		qcow2_packed_range(q, e.word, &off, &len);
		return external || (q->extl2 && e.bitmap) || e.word & QCOW2_COPIED || on_any_table(q, off, len);
	}
	if (e.word & QCOW2_L2_RESERVED || off & (q->cluster_size - 1))
		return true;
	if (e.word & QCOW2_L2_ZERO && (q->version < 3 || q->extl2))
		return true;
	if (q->extl2 && ((alloc & zero) || (alloc && !off && !(external && e.word & QCOW2_COPIED))))
		return true;
	if (external)
		return (off || e.word & QCOW2_COPIED) && off != plt_align_down(guest_off, q->cluster_size);
	return off && on_any_table(q, off, q->cluster_size);
}

enum qcow2_kind qcow2_entry_kind(const struct plt_image *img, struct qcow2_entry e, uint64_t guest_off, unsigned sub)
{
	const struct qcow2_state *q = qcow2_of(img);
	bool has = e.word & QCOW2_L2_OFFSET || (q->external && e.word & QCOW2_COPIED);

	if (qcow2_entry_bad(img, e, guest_off))
		return QCOW2_BAD;
	if (e.word & QCOW2_COMPRESSED)
		return QCOW2_PACKED;
	if (q->extl2) {
		if (e.bitmap >> (32 + sub) & 1)
			return has ? QCOW2_ZERO_KEPT : QCOW2_ZERO_PLAIN;
		if (e.bitmap >> sub & 1)
			return QCOW2_DATA;
		return has ? QCOW2_ABSENT_KEPT : QCOW2_ABSENT;
	}
	if (e.word & QCOW2_L2_ZERO)
		return has ? QCOW2_ZERO_KEPT : QCOW2_ZERO_PLAIN;
	return has ? QCOW2_DATA : QCOW2_ABSENT;
}

void qcow2_packed_range(const struct qcow2_state *q, uint64_t word, uint64_t *ret_off, uint32_t *ret_len)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t off = word & ((UINT64_C(1) << x) - 1);
	uint64_t sectors = word >> x & ((UINT64_C(1) << (q->cluster_bits - 8)) - 1);

	*ret_off = off;
	*ret_len = (uint32_t)((sectors + 1) * 512 - (off & 511));
}

/* ---- map ------------------------------------------------------------------------------------- */

/* The run of [off, off+len), all of one kind within one cluster (or one subcluster). */
static bool add_run(const struct plt_image *img, struct plt_runs *runs, struct qcow2_entry e, enum qcow2_kind kind,
		    uint64_t off, uint64_t len)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t in = off & (q->cluster_size - 1), start = off - in;
	struct plt_run r = { .off = off, .len = len, .host_off = (e.word & QCOW2_L2_OFFSET) + in };

	switch (kind) {
	case QCOW2_BAD:
		r.kind = PLT_RUN_DAMAGED;
		r.host_off = 0;
		break;
	case QCOW2_ABSENT:
		r.kind = PLT_RUN_ABSENT;
		r.host_off = 0;
		break;
	case QCOW2_ABSENT_KEPT:
		r.kind = PLT_RUN_ABSENT;
		r.flags = PLT_RUN_ALLOCATED;
		r.store = img->data;
		break;
	case QCOW2_ZERO_PLAIN:
		r.kind = PLT_RUN_ZERO;
		r.host_off = 0;
		break;
	case QCOW2_ZERO_KEPT:
		r.kind = PLT_RUN_ZERO;
		/* (offset 0 of a data file: to QEMU a place only in an extended entry) */
		if (!q->extl2 && !(e.word & QCOW2_L2_OFFSET)) {
			r.host_off = 0;
			break;
		}
		r.flags = PLT_RUN_ALLOCATED;
		r.store = img->data;
		break;
	case QCOW2_DATA:
		r.kind = PLT_RUN_DATA;
		r.store = img->data;
		r.cipher = q->cipher;
		if (q->cipher)
			r.iv_sector = qcow2_iv_sector(q, off, r.host_off);
		/* what lies on a table may be read, and place says what is wrong with writing it */
		if (e.word & QCOW2_COPIED && !q->view_snapshot && !atomic_load_explicit(&q->corrupt, memory_order_relaxed) &&
		    (q->external || !qcow2_guarded(q, r.host_off, len)))
			r.flags = PLT_RUN_IN_PLACE;
		break;
	case QCOW2_PACKED:
		r.kind = PLT_RUN_COMPRESSED;
		r.store = img->file;
		r.codec = q->compression == QCOW2_COMPRESSION_ZSTD ? PLT_CODEC_ZSTD : PLT_CODEC_DEFLATE;
		qcow2_packed_range(q, e.word, &r.host_off, &r.comp_len);
		r.unit_off = start;
		r.unit_len = q->cluster_size;
		break;
	}
	return plt_runs_add(runs, &r);
}

/* The part of one cluster that was asked for.  False: no room for more runs. */
static bool map_cluster(const struct plt_image *img, struct plt_runs *runs, struct qcow2_entry e, uint64_t off,
			uint64_t len)
{
	const struct qcow2_state *q = qcow2_of(img);
	enum qcow2_kind kind;

	if (!q->extl2 || e.word & QCOW2_COMPRESSED || qcow2_entry_bad(img, e, off))
		return add_run(img, runs, e, qcow2_entry_kind(img, e, off, 0), off, len);
	while (len) {
		uint64_t in = off & (q->cluster_size - 1);
		unsigned sub = (unsigned)(in >> q->sub_bits);
		uint64_t n = PLT_MIN(len, ((uint64_t)(sub + 1) << q->sub_bits) - in);

		kind = qcow2_entry_kind(img, e, off, sub);
		if (!add_run(img, runs, e, kind, off, n))
			return false;
		off += n;
		len -= n;
	}
	return true;
}

/*
 * How many entries from @i on, at least one, continue the first: absent, or clusters in a row.  Most of
 * what a map has to say is said by such rows, so they are told at the price of a comparison each.
 */
static unsigned alike(const struct plt_image *img, const struct plt_block *b, unsigned i, unsigned end, uint64_t word,
		      uint64_t off)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t step = word & QCOW2_L2_OFFSET ? q->cluster_size : 0, next = word;
	unsigned n = 0;

	if (word & QCOW2_COMPRESSED)
		return 1;
	do {
		n++;
		next += step;
	} while (i + n < end && plt_block_get64(b, i + n) == next);
	/* all are good if the first is, unless the row runs into other metadata */
	if (n > 1 && (qcow2_entry_bad(img, (struct qcow2_entry){ word, 0 }, off) ||
		      (step && on_any_table(q, word & QCOW2_L2_OFFSET, (uint64_t)n * q->cluster_size))))
		return 1;
	return n;
}

static void absent(struct plt_runs *runs, uint64_t off, uint64_t len, bool *full)
{
	*full = !plt_runs_add(runs, &(struct plt_run){ .kind = PLT_RUN_ABSENT, .off = off, .len = len });
}

/* Everything that one L2 slice (or a missing L2 table) says.  *done: bytes mapped. */
static int map_slice(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
		     uint64_t *done, bool *full, struct plt_need *need, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	unsigned l1_shift = q->cluster_bits + q->l2_bits, word, per_slice = img->slice / q->l2_entry_size, have;
	uint64_t index = off >> l1_shift, l1_end = (index + 1) << l1_shift, l2_index, l1, start = off;
	struct plt_block *b;
	int r;

	*done = 0;
	*full = false;
	if (index >= q->view_l1_size) {
		absent(runs, off, len, full);
		*done = len;
		return 0;
	}
	r = qcow2_l1_get(img, pins, q->view_l1_offset, index, &b, &word, need, err);
	if (r < 0)
		return r;
	l1 = plt_block_get64(b, word);
	if (plt_file_part(img, q->view_l1_offset + index * 8, 8) < 8)
		l1 = QCOW2_L1_RESERVED; /* the file has lost it */
	len = PLT_MIN(len, l1_end - off);
	if (!(l1 & QCOW2_L1_OFFSET) || qcow2_l1_check(img, index, l1, NULL) < 0) {
		struct plt_run run = { .off = off, .len = len,
				       .kind = l1 & ~QCOW2_COPIED ? PLT_RUN_DAMAGED : PLT_RUN_ABSENT };

		*full = !plt_runs_add(runs, &run);
		*done = len;
		return 0;
	}
	l2_index = off >> q->cluster_bits & ((UINT64_C(1) << q->l2_bits) - 1);
	r = plt_meta_get(img, pins, &qcow2_l2_type, (l1 & QCOW2_L1_OFFSET) + l2_index * q->l2_entry_size, &b, need, err);
	if (r < 0)
		return r;
	have = (unsigned)(plt_file_part(img, plt_block_host_off(b), img->slice) / q->l2_entry_size);
	for (unsigned i = (unsigned)(l2_index % per_slice), same; len && i < per_slice; i += same) {
		struct qcow2_entry e = qcow2_entry_get(q, b, i);
		uint64_t n = q->cluster_size - (off & (q->cluster_size - 1));

		if (i >= have) /* the file has lost these */
			e = (struct qcow2_entry){ QCOW2_L2_RESERVED, 0 };
		same = q->extl2 || i >= have ? 1 : alike(img, b, i, have, e.word, off);
		n = PLT_MIN(len, n + (uint64_t)(same - 1) * q->cluster_size);
		if (same > 1) {
			if (!add_run(img, runs, e, qcow2_entry_kind(img, e, off, 0), off, n)) {
				*full = true;
				break;
			}
			off += n;
			len -= n;
			continue;
		}
		if (!map_cluster(img, runs, e, off, n)) {
			/* subclusters of it may have been added: the next call starts behind them */
			off = runs->v[runs->n - 1].off + runs->v[runs->n - 1].len;
			*full = true;
			break;
		}
		off += n;
		len -= n;
	}
	*done = off - start;
	return 0;
}

int qcow2_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len,
	      struct plt_runs *runs, struct plt_need *need, struct plt_error *err)
{
	bool full = false;

	for (unsigned slices = 0; len && !full && (slices < SLICES_PER_CALL || !runs->n); slices++) {
		uint64_t done;
		int r = map_slice(img, pins, off, len, runs, &done, &full, need, err);

		if (r < 0)
			return runs->n ? 0 : r; /* what is known already is an answer */
		if (!runs->n)
			return 0;
		off += done;
		len -= done;
	}
	return 0;
}
