/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Zeroing and discarding.  A VHD has no entry that means zeros; a block of a dynamic disk that is not
 * there reads as zeros, so giving one up is both.  Where something lies below, that would bring it to
 * light: a differencing disk writes its zeros like data, and keeps what is discarded, until it is made empty.
 */
#include "base/checked.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define LIMBO_BLOCK 1 /* a kind that is not joined with its neighbours */

static bool something_below(const struct plt_image *img)
{
	return vhd_of(img)->type == VHD_DIFFERENCING || img->has_backing;
}

/* The entry goes; the block follows when that is durable. */
static int drop(struct plt_image *img, struct plt_block *b, uint64_t block, uint64_t start, struct plt_need *need)
{
	struct vhd_state *v = vhd_of(img);
	int r = 0;

	pthread_mutex_lock(&img->lock);
	if (!plt_limbo_room(img)) {
		*need = (struct plt_need){ .kind = PLT_NEED_LIMBO };
		r = -EAGAIN;
	} else {
		vhd_entry_set(v, b, block, VHD_UNUSED);
		plt_block_dirty(b);
		plt_limbo_add(img, start, vhd_block_len(v), LIMBO_BLOCK);
	}
	pthread_mutex_unlock(&img->lock);
	return r;
}

static int one_block(struct plt_image *img, uint64_t off, uint64_t len, bool give_up, struct plt_need *need,
		     struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	uint64_t block = off >> v->block_bits, start;
	struct plt_block *b;
	const char *bad;
	uint32_t entry;
	int r;

	r = plt_meta_get_wait(img, &pins, &vhd_bat_type, v->table_off + block * 4, &b, err);
	if (r == 0) {
		entry = vhd_entry_peek(v, b, block);
		start = (uint64_t)entry * VHD_SECTOR;
		bad = entry == VHD_UNUSED ? NULL : vhd_entry_bad(v, atomic_load(&v->file_end), entry);
		if (bad)
			r = plt_error_set(err, EIO, "'%s': BAT entry %" PRIu64 " (sector %#x) %s; nothing is changed "
					  "there", img->name, block, entry, bad);
		else if (entry != VHD_UNUSED && give_up)
			r = drop(img, b, block, start, need);
		else if (entry != VHD_UNUSED)
			r = plt_store_zero(img->file, start + v->bitmap_bytes, len, 0, PLT_IO_DATA, err);
	}
	plt_pins_drop(&pins);
	return r;
}

static int change(struct plt_image *img, uint64_t off, uint64_t len, bool give_up, uint64_t *ret_done,
		  struct plt_need *need, struct plt_error *err)
{
	while (*ret_done < len) {
		uint64_t n = PLT_MIN(len - *ret_done, (uint64_t)vhd_of(img)->block_size);
		int r = one_block(img, off + *ret_done, n, give_up, need, err);

		if (r < 0)
			return r;
		*ret_done += n;
	}
	return 0;
}

int vhd_write_zeroes(struct plt_image *img, uint64_t off, uint64_t len, bool unmap, uint64_t *ret_done,
		     struct plt_need *need, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	int r;

	*ret_done = 0;
	if (v->type == VHD_FIXED) {
		r = plt_store_zero(img->file, off, len, unmap ? PLT_ZERO_MAY_UNMAP : 0, PLT_IO_DATA, err);
		if (r == 0)
			*ret_done = len;
		return r;
	}
	/* (where bits are honoured, data alone shows nothing) */
	if (something_below(img) || (v->honoured && !unmap))
		return -ENOTSUP;
	return change(img, off, len, unmap, ret_done, need, err);
}

int vhd_discard(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done, struct plt_need *need,
		struct plt_error *err)
{
	int r;

	*ret_done = 0;
	if (vhd_of(img)->type == VHD_FIXED) {
		r = plt_store_discard(img->file, off, len, err);
		if (r == 0)
			*ret_done = len;
		return r;
	}
	return something_below(img) ? -ENOTSUP : change(img, off, len, true, ret_done, need, err);
}

/* ---- make empty ------------------------------------------------------------------------------ */

#define AT_ONCE 256 /* blocks between two flushes */

/* The entries of blocks [*block, ...) go, as many as @starts takes; then, durably gone, their blocks. */
static int drop_some(struct plt_image *img, uint64_t *block, uint64_t starts[AT_ONCE], struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	unsigned n = 0;
	int r = 0;

	for (; r == 0 && *block < v->blocks && n < AT_ONCE; ++*block) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *b;
		uint32_t entry;

		r = plt_meta_get_wait(img, &pins, &vhd_bat_type, v->table_off + *block * 4, &b, err);
		entry = r == 0 ? vhd_entry_peek(v, b, *block) : VHD_UNUSED;
		/* (one that cannot be followed frees nothing) */
		if (entry != VHD_UNUSED) {
			if (!vhd_entry_bad(v, atomic_load(&v->file_end), entry))
				starts[n++] = (uint64_t)entry * VHD_SECTOR;
			pthread_mutex_lock(&img->lock);
			vhd_entry_set(v, b, *block, VHD_UNUSED);
			plt_block_dirty(b);
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
	}
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = vhd_release(img, starts[i], vhd_block_len(v), LIMBO_BLOCK, err);
	return r;
}

int vhd_make_empty(struct plt_image *img, bool trial, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t block = 0, starts[AT_ONCE];
	int r;

	if (v->type == VHD_FIXED)
		return plt_error_set(err, ENOTSUP, "'%s': a fixed VHD is never empty", img->name);
	if (trial)
		return 0;
	r = vhd_first_write(img, err);
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	while (r == 0 && block < v->blocks)
		r = drop_some(img, &block, starts, err);
	return r;
}
