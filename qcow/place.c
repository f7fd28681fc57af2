/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Placing writes.  Everything new goes to the end of the file: clusters at multiples of their size,
 * compressed bytes right behind what is there.  What an entry named before stays where it is, unused;
 * the format has no way to give it back.
 */
#include <assert.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow/qcow.h"

#define PLACE_MAX (UINT64_C(64) << 20)

/* place->priv and place->blocks */
enum { P_INDEX, P_COUNT, P_ENTRY };
enum { B_L2 };

/* The L2 slice of @off, and the index of its entry there. */
static int find_spot(struct plt_image *img, struct plt_pins *pins, uint64_t off, struct plt_block **ret,
		     unsigned *ret_index, struct plt_need *need, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t index = off >> (s->cluster_bits + s->l2_bits), at = s->l1_offset + index * 8, l1, l2_index;
	struct plt_block *b;
	int r = plt_meta_get(img, pins, &qcow_l1_type, at, &b, need, err);

	if (r < 0)
		return r;
	l1 = plt_block_get64(b, (unsigned)(at % img->slice / 8));
	r = qcow_l1_check(img, index, l1, err);
	if (r < 0)
		return r;
	if (!l1) {
		*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = QCOW_WORK_NEW_L2, .arg = index,
					   .exclusive = true };
		return -EAGAIN;
	}
	l2_index = off >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1);
	*ret_index = (unsigned)(l2_index % (img->slice / 8));
	return plt_meta_get(img, pins, &qcow_l2_type, l1 + l2_index * 8, ret, need, err);
}

/* @len bytes at the end, at a multiple of @align.  Image lock held. */
static int take(struct plt_image *img, uint64_t len, uint64_t align, uint64_t *ret, struct plt_error *err)
{
	struct qcow_state *s = qcow_of(img);
	uint64_t at = plt_align_up(s->end, align), limit = UINT64_C(1) << (63 - s->cluster_bits), size;

	if (!img->file->limits.can_grow && plt_store_size(img->file, &size, NULL) == 0)
		limit = PLT_MIN(limit, size);
	if (at > limit || len > limit - at)
		return plt_error_set(err, ENOSPC, "'%s': the file has no room for %" PRIu64 " bytes at its end (%#" PRIx64
				     ")", img->name, len, at);
	s->end = at + len;
	*ret = at;
	return 0;
}

static int place_packed(struct plt_image *img, const struct plt_place_req *req, struct plt_place *ret,
			struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t at;
	int r = take(img, req->comp_len, 1, &at, err);

	if (r < 0)
		return r;
	ret->off = req->off;
	ret->len = req->len;
	ret->store = img->file;
	ret->host_off = at;
	ret->publish = true;
	ret->priv[P_COUNT] = 1;
	ret->priv[P_ENTRY] = QCOW_COMPRESSED | (uint64_t)req->comp_len << (63 - s->cluster_bits) | at;
	return 0;
}

static int place_new(struct plt_image *img, const struct plt_place_req *req, struct plt_block *l2, unsigned index,
		     struct plt_place *ret, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t cs = s->cluster_size, in = req->off & (cs - 1), n = 0, at;
	uint64_t want = plt_div_up(in + PLT_MIN(req->len, PLACE_MAX), cs);
	int r;

	for (want = PLT_MIN(want, img->slice / 8 - index); n < want; n++) {
		uint64_t e = plt_block_get64(l2, index + (unsigned)n);

		if (qcow_l2_bad(img, e) || (e && (!(e & QCOW_COMPRESSED) || req->kind == PLT_PLACE_IF_ABSENT)))
			break;
	}
	r = take(img, n * cs, cs, &at, err);
	if (r < 0)
		return r;
	ret->off = req->off;
	ret->len = PLT_MIN(req->len, n * cs - in);
	ret->store = img->file;
	ret->host_off = at + in;
	ret->head = (uint32_t)in;
	ret->tail = (uint32_t)(n * cs - in - ret->len);
	ret->fresh = at >= s->fresh_from && img->file->limits.new_is_zero;
	ret->publish = true;
	ret->priv[P_COUNT] = n;
	ret->priv[P_ENTRY] = at;
	return 0;
}

int qcow_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct plt_place *ret,
	       struct plt_need *need, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t cs = s->cluster_size, in = req->off & (cs - 1), e;
	struct plt_block *l2;
	unsigned index;
	int r;

	if (s->locked)
		return plt_error_set(err, ENOTSUP, "qcow: the image is encrypted and was opened without its key");
	r = find_spot(img, pins, req->off, &l2, &index, need, err);
	if (r < 0)
		return r;
	if (plt_block_room(l2) < 1) {
		*need = (struct plt_need){ .kind = PLT_NEED_WRITEBACK, .block = l2 };
		return -EAGAIN;
	}
	e = plt_block_get64(l2, index);
	if (qcow_l2_bad(img, e))
		return plt_error_set(err, EIO, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
				     " is corrupt; nothing is written over it", img->name, e, req->off);
	if (req->kind == PLT_PLACE_IF_ABSENT && e) {
		ret->skip = true;
		ret->off = req->off;
		ret->len = PLT_MIN(req->len, cs - in);
		return 0;
	}
	if (req->kind == PLT_PLACE_COMPRESSED) {
		r = place_packed(img, req, ret, err);
	} else if (e && !(e & QCOW_COMPRESSED)) { /* somebody was faster: only write */
		ret->off = req->off;
		ret->len = PLT_MIN(req->len, cs - in);
		ret->store = img->file;
		ret->host_off = e + in;
	} else {
		r = place_new(img, req, l2, index, ret, err);
	}
	if (r < 0)
		return r;
	ret->blocks[B_L2] = l2;
	ret->priv[P_INDEX] = index;
	ret->cipher = s->cipher;
	ret->iv_sector = (ret->off - ret->head) / PLT_SECTOR;
	return 0;
}

void qcow_publish(struct plt_image *img, struct plt_place *p)
{
	struct plt_block *l2 = p->blocks[B_L2];

	if (qcow_rule(img, QCOW_RULE_DATA_L2))
		plt_block_after_sync(l2, img->file);
	for (uint64_t i = 0; i < p->priv[P_COUNT]; i++)
		plt_block_set64(l2, (unsigned)(p->priv[P_INDEX] + i),
				p->priv[P_ENTRY] + (i << qcow_of(img)->cluster_bits));
	plt_block_dirty(l2);
}

void qcow_withdraw(struct plt_image *img, struct plt_place *p)
{
	/* others may have taken what lies behind it, and something may have been written: it stays unused */
	(void)img;
	(void)p;
}

/* ---- work ------------------------------------------------------------------------------------ */

/* An L2 table for an L1 entry that has none.  Behind the gate. */
int qcow_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err)
{
	const struct qcow_state *s = qcow_of(img);
	uint64_t at = s->l1_offset + arg * 8, host, len = UINT64_C(8) << s->l2_bits;
	unsigned word = (unsigned)(at % img->slice / 8);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_block *l1;
	int r = plt_meta_get_wait(img, &pins, &qcow_l1_type, at, &l1, err);

	assert(code == QCOW_WORK_NEW_L2);
	if (r < 0 || plt_block_get64(l1, word))
		goto out; /* somebody was faster */
	pthread_mutex_lock(&img->lock);
	r = take(img, len, s->cluster_size, &host, err);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		goto out;
	plt_meta_forget(img, host, len); /* what a bad entry may have led to before it was a table */
	r = plt_store_zero(img->file, host, len, PLT_ZERO_MAY_UNMAP, PLT_IO_L2, err);
	if (r < 0)
		goto out;
	pthread_mutex_lock(&img->lock);
	if (plt_block_room(l1) < 1) {
		pthread_mutex_unlock(&img->lock);
		r = plt_meta_flush(img, false, err);
		if (r < 0)
			goto out;
		pthread_mutex_lock(&img->lock);
	}
	plt_block_set64(l1, word, host);
	plt_block_dirty(l1);
	if (qcow_rule(img, QCOW_RULE_TABLE_L1))
		plt_block_after_sync(l1, img->file);
	pthread_mutex_unlock(&img->lock);
out:
	plt_pins_drop(&pins);
	return r;
}
