/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Placing writes.  Into a block that is not there: a new one, whole; publish sets its entry (and, where
 * bitmaps are honoured, the bits of what has been written, and of nothing else: the rest of the block
 * stays with the parent).  Into a block that is there: only absent sectors come here, and publish sets
 * their bits.
 *
 *	{data, head, tail, initial bitmap}  ->  bits  ->  entry
 */
#include "base/checked.h"
#include "base/error.h"
#include "vhd/vhd.h"

enum { P_BLOCK, P_START, P_MODE, P_FRESH };
enum { B_TABLE, B_BITMAP };
enum { MODE_NEW, MODE_BITS };

#define EDGES 3 /* what one publish may add to one block */

/* Guest bytes whose bits lie in one slice of a bitmap. */
#define PER_SLICE ((uint64_t)VHD_SECTOR * 8 * VHD_SECTOR)

static int need_room(struct plt_block *b, struct plt_need *need)
{
	if (plt_block_room(b) >= EDGES)
		return 0;
	*need = (struct plt_need){ .kind = PLT_NEED_WRITEBACK, .block = b };
	return -EAGAIN;
}

/* Head and tail up to whole sectors; the disk ends with a whole one. */
static void set_sectors(struct plt_place *p)
{
	p->head = (uint32_t)(p->off % VHD_SECTOR);
	p->tail = (uint32_t)(plt_align_up(p->off + p->len, VHD_SECTOR) - (p->off + p->len));
}

/* ---- absent sectors of a block that is there ------------------------------------------------- */

static int place_bits(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, uint64_t start,
		      struct plt_place *ret, struct plt_need *need, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t in = req->off & (v->block_size - 1), first = in / VHD_SECTOR, n, last;
	struct plt_block *b;
	bool set;
	int r;

	ret->off = req->off;
	ret->len = PLT_MIN(req->len, PLT_MIN((uint64_t)v->block_size, plt_align_down(in, PER_SLICE) + PER_SLICE) - in);
	ret->store = img->data;
	ret->host_off = start + v->bitmap_bytes + in;
	if (!v->honoured || vhd_complete(v, req->off >> v->block_bits)) {
		ret->skip = req->kind == PLT_PLACE_IF_ABSENT;
		return 0; /* somebody was faster: only write */
	}
	r = vhd_bitmap_get(img, pins, start, first, &b, need, err);
	if (r == 0)
		r = need_room(b, need);
	if (r < 0)
		return r;
	n = plt_div_up(in + ret->len, VHD_SECTOR) - first;
	n = vhd_bits_run(v, b, first, n, &set);
	if (set || req->kind == PLT_PLACE_IF_ABSENT)
		ret->len = PLT_MIN(ret->len, (first + n) * VHD_SECTOR - in);
	if (set) {
		ret->skip = req->kind == PLT_PLACE_IF_ABSENT;
		return 0;
	}
	/*
	 * Sectors further on may be here; they are written in place with the rest.  Around the first and
	 * the last one what is below must be filled in, if they are not here.
	 */
	ret->publish = true;
	set_sectors(ret);
	last = (in + ret->len - 1) / VHD_SECTOR;
	if (ret->tail && last != first) {
		vhd_bits_run(v, b, last, 1, &set);
		if (set)
			ret->tail = 0;
	}
	ret->priv[P_MODE] = MODE_BITS;
	ret->priv[P_START] = start;
	ret->blocks[B_BITMAP] = b;
	return 0;
}

/* ---- a new block ----------------------------------------------------------------------------- */

static int place_new(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req,
		     struct plt_block *table, struct plt_place *ret, struct plt_need *need)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t block = req->off >> v->block_bits, in = req->off & (v->block_size - 1);
	struct plt_block *bits = NULL;
	struct vhd_free f;
	int r;

	if (vhd_complete(v, block)) {
		*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = VHD_WORK_BATMAP, .arg = block };
		return -EAGAIN;
	}
	if (!vhd_take_block(img, &f)) {
		*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = VHD_WORK_EXTEND, .arg = v->pool_end };
		return -EAGAIN;
	}
	ret->off = req->off;
	ret->len = PLT_MIN(req->len, v->block_size - in);
	if (v->honoured) {
		ret->len = PLT_MIN(ret->len, plt_align_down(in, PER_SLICE) + PER_SLICE - in);
		r = plt_meta_new(img, pins, &vhd_bitmap_type, f.start + in / VHD_SECTOR / 8, &bits, need);
		if (r < 0) {
			vhd_give_block(img, &f);
			return r;
		}
		set_sectors(ret);
	} else if (!f.fresh || img->has_backing) { /* (below a dynamic disk only if the user put it there) */
		ret->head = (uint32_t)in;
		ret->tail = (uint32_t)(v->block_size - in - ret->len);
	}
	ret->fresh = f.fresh;
	ret->store = img->data;
	ret->host_off = f.start + v->bitmap_bytes + in;
	ret->publish = true;
	ret->priv[P_MODE] = MODE_NEW;
	ret->priv[P_BLOCK] = block;
	ret->priv[P_START] = f.start;
	ret->priv[P_FRESH] = f.fresh;
	ret->blocks[B_TABLE] = table;
	ret->blocks[B_BITMAP] = bits;
	return 0;
}

int vhd_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct plt_place *ret,
	      struct plt_need *need, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t block = req->off >> v->block_bits;
	struct plt_block *b;
	const char *bad;
	uint32_t entry;
	int r = vhd_entry_get(img, pins, block, &b, &entry, need, err);

	if (r == 0)
		r = need_room(b, need);
	if (r < 0)
		return r;
	if (entry == VHD_UNUSED)
		return place_new(img, pins, req, b, ret, need);
	bad = vhd_entry_bad(v, atomic_load(&v->file_end), entry);
	if (bad)
		return plt_error_set(err, EIO, "'%s': BAT entry %" PRIu64 " (sector %#x) %s; nothing is written there",
				     img->name, block, entry, bad);
	return place_bits(img, pins, req, (uint64_t)entry * VHD_SECTOR, ret, need, err);
}

/* ---- publish --------------------------------------------------------------------------------- */

static void set_bits(struct vhd_state *v, struct plt_block *b, const struct plt_place *p)
{
	uint64_t first = ((p->off - p->head) & (v->block_size - 1)) / VHD_SECTOR % (VHD_SECTOR * 8);
	uint64_t n = plt_div_up(p->head + p->len + p->tail, VHD_SECTOR);

	/* (a tail of 0 in front of a sector that is here: the bit is set already) */
	for (uint64_t i = first; i < first + n;) {
		uint64_t w = plt_block_get64(b, (unsigned)(i / 64)), stop = PLT_MIN(first + n, i / 64 * 64 + 64);

		for (; i < stop; i++)
			w |= UINT64_C(1) << (63 - ((v->bits_reversed ? i ^ 7 : i) & 63));
		plt_block_set64(b, (unsigned)((i - 1) / 64), w);
	}
	plt_block_dirty(b);
}

void vhd_publish(struct plt_image *img, struct plt_place *p)
{
	struct vhd_state *v = vhd_of(img);
	struct plt_block *bits = p->blocks[B_BITMAP], *table = p->blocks[B_TABLE];

	if (bits) {
		if (vhd_rule(img, VHD_RULE_DATA_BITS))
			plt_block_after_sync(bits, p->store);
		set_bits(v, bits, p);
	}
	if (p->priv[P_MODE] != MODE_NEW)
		return;
	vhd_entry_set(v, table, p->priv[P_BLOCK], (uint32_t)(p->priv[P_START] / VHD_SECTOR));
	plt_block_dirty(table);
	if (vhd_rule(img, VHD_RULE_DATA_ENTRY))
		plt_block_after_sync(table, p->store);
	if (bits && vhd_rule(img, VHD_RULE_BITS_ENTRY))
		plt_block_after_block(table, bits);
}

/* What has been written there is nobody's; the bitmap is as it was. */
void vhd_withdraw(struct plt_image *img, struct plt_place *p)
{
	struct vhd_free f = { .start = p->priv[P_START] };

	if (p->priv[P_MODE] == MODE_NEW)
		vhd_give_block(img, &f);
}
