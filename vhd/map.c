/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Where the guest's bytes are: BAT entry, then (where bitmaps are honoured) runs of alike bits.  Entries
 * are checked when they are used, so one bad entry costs its own block.  Lock-free: an entry and a
 * word of bits are read at once, and both change only when what they lead to is in place.
 */
#include "base/checked.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define PER_CALL 256 /* blocks, or pieces of the table that are alike */

static uint64_t table_end(const struct plt_image *img, uint64_t host_off)
{
	const struct vhd_state *v = vhd_of(img);

	(void)host_off;
	return plt_align_up(v->table_off + (uint64_t)v->entries * 4, VHD_SECTOR);
}

const struct plt_meta_type vhd_bitmap_type = { .name = "sector bitmap", .rank = 1, .tag = PLT_IO_BITMAP };
const struct plt_meta_type vhd_bat_type = { .name = "block allocation table", .rank = 2, .tag = PLT_IO_L1,
					    .table_end = table_end };

/* ---- entries --------------------------------------------------------------------------------- */

uint32_t vhd_entry_peek(const struct vhd_state *v, const struct plt_block *b, uint64_t block)
{
	uint64_t at = (v->table_off + block * 4) % VHD_SECTOR, w = plt_block_get64(b, (unsigned)(at / 8));

	return at & 4 ? (uint32_t)w : (uint32_t)(w >> 32);
}

void vhd_entry_set(const struct vhd_state *v, struct plt_block *b, uint64_t block, uint32_t value)
{
	uint64_t at = (v->table_off + block * 4) % VHD_SECTOR, w = plt_block_get64(b, (unsigned)(at / 8));

	w = at & 4 ? (w & ~(uint64_t)UINT32_MAX) | value : (w & UINT32_MAX) | (uint64_t)value << 32;
	plt_block_set64(b, (unsigned)(at / 8), w);
}

int vhd_entry_get(struct plt_image *img, struct plt_pins *pins, uint64_t block, struct plt_block **ret_b,
		  uint32_t *ret, struct plt_need *need, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	int r = plt_meta_get(img, pins, &vhd_bat_type, v->table_off + block * 4, ret_b, need, err);

	if (r == 0)
		*ret = vhd_entry_peek(v, *ret_b, block);
	return r;
}

const char *vhd_entry_bad(const struct vhd_state *v, uint64_t file_size, uint32_t entry)
{
	uint64_t start = (uint64_t)entry * VHD_SECTOR;

	/* the last block may be cut short: what is missing reads as zeros */
	if (!plt_in_range(start, v->bitmap_bytes, file_size))
		return "points beyond the end of the file";
	if (start < v->meta_end && plt_extents_overlaps(&v->meta, start, vhd_block_len(v)))
		return "points into headers, the table or what belongs to them";
	return NULL;
}

bool vhd_complete(const struct vhd_state *v, uint64_t block)
{
	return v->batmap && block / 8 < v->batmap_bytes && __atomic_load_n(&v->batmap[block / 8], __ATOMIC_RELAXED) & 0x80 >> (block & 7);
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

int vhd_bitmap_get(struct plt_image *img, struct plt_pins *pins, uint64_t start, uint64_t sector,
		   struct plt_block **ret, struct plt_need *need, struct plt_error *err)
{
	return plt_meta_get(img, pins, &vhd_bitmap_type, start + sector / 8, ret, need, err);
}

static uint64_t bits_word(const struct vhd_state *v, const struct plt_block *b, unsigned i)
{
	uint64_t w = plt_block_get64(b, i);

	if (!v->bits_reversed)
		return w;
	w = (w & UINT64_C(0x5555555555555555)) << 1 | (w >> 1 & UINT64_C(0x5555555555555555));
	w = (w & UINT64_C(0x3333333333333333)) << 2 | (w >> 2 & UINT64_C(0x3333333333333333));
	return (w & UINT64_C(0x0f0f0f0f0f0f0f0f)) << 4 | (w >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f));
}

uint64_t vhd_bits_run(const struct vhd_state *v, const struct plt_block *b, uint64_t first, uint64_t n, bool *ret_set)
{
	uint64_t at = first % (VHD_SECTOR * 8), end = PLT_MIN(at + n, (uint64_t)VHD_SECTOR * 8), i = at, w;

	*ret_set = bits_word(v, b, (unsigned)(at / 64)) << at % 64 >> 63;
	while (i < end) {
		w = bits_word(v, b, (unsigned)(i / 64)) << i % 64;
		if (*ret_set)
			w = ~w;
		/* (bits that the shift brought in are beyond this word) */
		if (w && (unsigned)__builtin_clzll(w) < 64 - i % 64) {
			i += (unsigned)__builtin_clzll(w);
			break;
		}
		i += 64 - i % 64;
	}
	return PLT_MIN(i, end) - at;
}

/* ---- map ------------------------------------------------------------------------------------- */

/* What is not here is the parent's; a disk without one has zeros there. */
static enum plt_run_kind nothing(const struct plt_image *img)
{
	return vhd_of(img)->type == VHD_DIFFERENCING || img->has_backing ? PLT_RUN_ABSENT : PLT_RUN_ZERO;
}

/* Data that is here; behind data_limit there are zeros. */
static bool add_data(struct plt_image *img, struct plt_runs *runs, uint64_t host, uint64_t off, uint64_t len)
{
	uint64_t limit = atomic_load(&vhd_of(img)->data_limit), n = host >= limit ? 0 : PLT_MIN(len, limit - host);
	struct plt_run run = { .kind = PLT_RUN_DATA, .flags = PLT_RUN_IN_PLACE, .off = off, .len = n,
			       .store = img->data, .host_off = host };

	if (n && !plt_runs_add(runs, &run))
		return false;
	run = (struct plt_run){ .kind = PLT_RUN_ZERO, .off = off + n, .len = len - n };
	return n == len || plt_runs_add(runs, &run);
}

static int map_bits(struct plt_image *img, struct plt_pins *pins, uint64_t start, uint64_t off, uint64_t len,
		    struct plt_runs *runs, uint64_t *done, bool *full, struct plt_need *need, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	uint64_t end = off + len, from = off;

	while (off < end && !*full) {
		uint64_t in = off & (v->block_size - 1), sector = in / VHD_SECTOR, n;
		struct plt_run run = { .kind = nothing(img), .flags = PLT_RUN_ALLOCATED, .off = off,
				       .store = img->data, .host_off = start + v->bitmap_bytes + in };
		struct plt_block *b;
		bool set;
		int r = vhd_bitmap_get(img, pins, start, sector, &b, need, err);

		if (r < 0)
			return r;
		n = vhd_bits_run(v, b, sector, plt_div_up(in + (end - off), VHD_SECTOR) - sector, &set);
		plt_pins_remove(pins, b);
		run.len = PLT_MIN(end - off, (sector + n) * VHD_SECTOR - in);
		*full = set ? !add_data(img, runs, run.host_off, off, run.len) : !plt_runs_add(runs, &run);
		if (!*full)
			*done = (off += run.len) - from;
	}
	return 0;
}

/* Blocks from @block on whose entries are this one, as far as the slice shows. */
static uint64_t alike(const struct vhd_state *v, const struct plt_block *b, uint64_t block, uint32_t entry)
{
	uint64_t at = (v->table_off + block * 4) % VHD_SECTOR / 4, most = VHD_SECTOR / 4 - at, n = 1;
	uint64_t two = (uint64_t)entry << 32 | entry;

	while (n < most && (at + n) % 2 && vhd_entry_peek(v, b, block + n) == entry)
		n++;
	while (n + 1 < most && (at + n) % 2 == 0 && plt_block_get64(b, (unsigned)((at + n) / 2)) == two)
		n += 2;
	while (n < most && vhd_entry_peek(v, b, block + n) == entry)
		n++;
	return n;
}

/* The part of a block that was asked for, or of several that are all not there.  *done: bytes mapped. */
static int map_block(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
		     uint64_t *done, bool *full, struct plt_need *need, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	uint64_t block = off >> v->block_bits, in = off & (v->block_size - 1), rest = len, start;
	struct plt_run run = { .kind = nothing(img), .off = off };
	struct plt_block *b;
	uint32_t entry = VHD_UNUSED;
	int r = vhd_entry_get(img, pins, block, &b, &entry, need, err);

	*done = 0;
	if (r < 0)
		return r;
	start = (uint64_t)entry * VHD_SECTOR;
	len = PLT_MIN(rest, v->block_size - in);
	if (entry == VHD_UNUSED || vhd_entry_bad(v, atomic_load(&v->file_end), entry)) {
		if (entry != VHD_UNUSED)
			run.kind = PLT_RUN_DAMAGED;
		run.len = len = PLT_MIN(rest, (alike(v, b, block, entry) << v->block_bits) - in);
		*full = !plt_runs_add(runs, &run);
	} else if (v->honoured && !vhd_complete(v, block)) {
		return map_bits(img, pins, start, off, len, runs, done, full, need, err);
	} else {
		*full = !add_data(img, runs, start + v->bitmap_bytes + in, off, len);
	}
	if (!*full)
		*done = len;
	return 0;
}

int vhd_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
	    struct plt_need *need, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	uint64_t slice = UINT64_MAX;
	bool full = false;

	if (v->type == VHD_FIXED) {
		plt_runs_add(runs, &(struct plt_run){ .kind = PLT_RUN_DATA, .flags = PLT_RUN_IN_PLACE, .off = off,
						      .len = len, .store = img->data, .host_off = off });
		return 0;
	}
	for (unsigned i = 0; len && !full && (i < PER_CALL || !runs->n); i++) {
		uint64_t done, at = (v->table_off + (off >> v->block_bits) * 4) / VHD_SECTOR;
		int r;

		if (at != slice && runs->n)
			plt_pins_drop(pins); /* a new slice of the table: the last one has said all */
		slice = at;
		r = map_block(img, pins, off, len, runs, &done, &full, need, err);
		off += done;
		len -= done;
		if (r < 0)
			return runs->n ? 0 : r; /* what is known already is an answer */
		if (!done)
			break;
	}
	return 0;
}
