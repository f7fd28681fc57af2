/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * From guest to host.  Takes no lock: entries are single words.  Each is checked when it is used; a bad
 * one makes its own cluster (or table) damaged and no other.
 */
#include "base/checked.h"
#include "base/error.h"
#include "qcow/qcow.h"

#define SLICES_PER_CALL 4

const struct plt_meta_type qcow_l2_type = { .name = "L2 table", .rank = 0, .tag = PLT_IO_L2 };
const struct plt_meta_type qcow_l1_type = { .name = "L1 table", .rank = 1, .tag = PLT_IO_L1 };

int qcow_l1_check(const struct plt_image *img, uint64_t index, uint64_t entry, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);

	/* whole slices: what is written back with them is the table's and nobody else's */
	if (entry % img->slice)
		return plt_error_set(err, EUCLEAN, "'%s': L1 entry %" PRIu64 ": the L2 table's offset %#" PRIx64
				     " is not a multiple of %u", img->name, index, entry, img->slice);
	if (entry && entry < s->tables_end)
		return plt_error_set(err, EUCLEAN, "'%s': L1 entry %" PRIu64 ": the L2 table at %#" PRIx64
				     " lies on the header or the L1 table", img->name, index, entry);
	if (entry > INT64_MAX - (UINT64_C(8) << s->l2_bits))
		return plt_error_set(err, EUCLEAN, "'%s': L1 entry %" PRIu64 ": the L2 table's offset %#" PRIx64
				     " is out of range", img->name, index, entry);
	return 0;
}

void qcow_packed_range(const struct qcow_state *s, uint64_t entry, uint64_t *ret_off, uint32_t *ret_len)
{
	unsigned x = 63 - s->cluster_bits;

	*ret_off = entry & ((UINT64_C(1) << x) - 1);
	*ret_len = (uint32_t)(entry >> x & (s->cluster_size - 1));
}

bool qcow_l2_bad(const struct plt_image *img, uint64_t entry)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t off = entry;
	uint32_t len = s->cluster_size;

	if (!entry)
		return false;
	if (entry & QCOW_COMPRESSED)
		qcow_packed_range(s, entry, &off, &len);
	return !len || off < s->tables_end || off > (uint64_t)INT64_MAX - len;
}

/* The run of [off, off+len) inside one cluster. */
static bool add_run(const struct plt_image *img, struct plt_runs *runs, uint64_t entry, uint64_t off, uint64_t len)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t in = off & (s->cluster_size - 1);
	struct plt_run r = { .kind = PLT_RUN_ABSENT, .off = off, .len = len };

	if (qcow_l2_bad(img, entry)) {
		r.kind = PLT_RUN_DAMAGED;
	} else if (entry & QCOW_COMPRESSED) {
		r.kind = PLT_RUN_COMPRESSED;
		r.store = img->file;
		r.codec = PLT_CODEC_DEFLATE;
		r.unit_off = off - in;
		r.unit_len = s->cluster_size;
		qcow_packed_range(s, entry, &r.host_off, &r.comp_len);
	} else if (entry) {
		r.kind = PLT_RUN_DATA;
		r.flags = PLT_RUN_IN_PLACE;
		r.store = img->file;
		r.host_off = entry + in;
		r.cipher = s->cipher;
		r.iv_sector = off / PLT_SECTOR;
	}
	return plt_runs_add(runs, &r);
}

static int map_slice(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
		     uint64_t *done, bool *full, struct plt_need *need, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	unsigned shift = s->cluster_bits + s->l2_bits, per_slice = img->slice / 8;
	uint64_t index = off >> shift, at = s->l1_offset + index * 8, l1, l2_index, start = off;
	struct plt_run gap = { .kind = PLT_RUN_ABSENT, .off = off };
	struct plt_block *b;
	unsigned have;
	bool lost;
	int r;

	*done = 0;
	r = plt_meta_get(img, pins, &qcow_l1_type, at, &b, need, err);
	if (r < 0)
		return r;
	l1 = plt_block_get64(b, (unsigned)(at % img->slice / 8));
	lost = plt_file_part(img, at, 8) < 8;
	len = PLT_MIN(len, ((index + 1) << shift) - off);
	if (lost || !l1 || qcow_l1_check(img, index, l1, NULL) < 0) {
		gap.kind = lost || l1 ? PLT_RUN_DAMAGED : PLT_RUN_ABSENT;
		gap.len = len;
		*full = !plt_runs_add(runs, &gap);
		*done = len;
		return 0;
	}
	l2_index = off >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1);
	r = plt_meta_get(img, pins, &qcow_l2_type, l1 + l2_index * 8, &b, need, err);
	if (r < 0)
		return r;
	have = (unsigned)(plt_file_part(img, plt_block_host_off(b), img->slice) / 8); /* if the file has lost its end */
	for (unsigned i = (unsigned)(l2_index % per_slice); len && i < per_slice && !*full; i++) {
		uint64_t n = PLT_MIN(len, s->cluster_size - (off & (s->cluster_size - 1)));

		gap = (struct plt_run){ .kind = PLT_RUN_DAMAGED, .off = off, .len = n };
		*full = i >= have ? !plt_runs_add(runs, &gap) : !add_run(img, runs, plt_block_get64(b, i), off, n);
		if (*full)
			break;
		off += n;
		len -= n;
	}
	*done = off - start;
	return 0;
}

int qcow_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
	     struct plt_need *need, struct plt_error *err)
{
	bool full = false;

	if (qcow_of(img)->locked)
		return plt_error_set(err, ENOTSUP, "qcow: the image is encrypted and was opened without its key");
	for (unsigned slices = 0; len && !full && (slices < SLICES_PER_CALL || !runs->n); slices++) {
		uint64_t done;
		int r = map_slice(img, pins, off, len, runs, &done, &full, need, err);

		if (r < 0)
			return runs->n ? 0 : r; /* what is known already is an answer */
		off += done;
		len -= done;
	}
	return 0;
}
