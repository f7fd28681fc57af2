/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Do the bitmaps of a VHD's blocks fit what is in them?  One that does not is damaged, or the table names the wrong
 * place; which of the two is for the mending to find out.  Work: one sector a block, and the sectors whose bits are clear.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/check.h"

#define SCAN_BYTES (1u << 20)

/* Of @n sectors from @first on the bit is clear; how many of them hold something. */
static int count_hidden(struct vhd_exam *x, uint64_t start, uint64_t first, uint64_t n, uint8_t *buf, uint64_t *ret,
			struct plt_error *err)
{
	int r = 0;

	for (uint64_t k; n && r == 0; first += k, n -= k) {
		uint64_t at = start + x->v.bitmap_bytes + first * VHD_SECTOR;
		enum plt_store_kind kind;

		if (at >= x->ends.file_size)
			return 0; /* cut short: zeros */
		r = plt_store_extents(x->ex->file, at, n * VHD_SECTOR, &kind, &k, err);
		if (r < 0)
			return r;
		k = PLT_MIN(k / VHD_SECTOR, n);
		if (kind == PLT_STORE_HOLE && k)
			continue;
		k = PLT_MIN(PLT_MAX(k, UINT64_C(1)), (uint64_t)SCAN_BYTES / VHD_SECTOR);
		r = plt_store_read(x->ex->file, at, buf, k * VHD_SECTOR, PLT_IO_DATA, err);
		for (uint64_t i = 0; i < k && r == 0; i++)
			*ret += !plt_is_zero(buf + i * VHD_SECTOR, VHD_SECTOR);
	}
	return r;
}

static bool bit(const struct vhd_state *v, const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] & (v->bits_reversed ? 1 << (i & 7) : 0x80 >> (i & 7));
}

/* Sectors from @from on, before @to, whose bits are clear. */
static uint64_t clear_run(const struct vhd_state *v, const uint8_t *bits, uint64_t from, uint64_t to)
{
	uint64_t i = from;

	while (i < to && !(i & 7 ? bit(v, bits, i) : bits[i / 8]))
		i += i & 7 ? 1 : 8;
	while (i < to && !bit(v, bits, i))
		i++;
	return PLT_MIN(i, to) - from;
}

static int add_unfit(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden, bool zero)
{
	if (x->nunfit == x->unfit_cap) {
		size_t cap = x->unfit_cap ? 2 * x->unfit_cap : 64;
		struct vhd_unfit *grown = realloc(x->unfit, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		x->unfit = grown;
		x->unfit_cap = cap;
	}
	x->unfit[x->nunfit++] = (struct vhd_unfit){ *u, (uint32_t)hidden, zero };
	return 0;
}

static int wrong_batmap(struct vhd_exam *x, const struct vhd_used *u, uint64_t start, uint64_t clear)
{
	bool mend = vhd_mends(x, PLT_MEND_MAP);
	vhd_say *say = mend ? vhd_mended : vhd_found;
	int r = 0;

	if (mend) {
		x->batmap[u->block / 8] &= (uint8_t)~(0x80 >> (u->block & 7));
		r = vhd_mend_batmap(x, x->batmap_off, &x->batmap_header, x->batmap, u->block / 8, 1);
	}
	say(x, "V-BATMAP-WRONG", PLT_CORRUPTION, start, x->v.bitmap_bytes, "XenServer's batmap calls block %u complete, and %"
	    PRIu64 " of its sectors are not there", u->block, clear);
	return r;
}

void vhd_zero_bitmap(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden)
{
	struct plt_finding f = { .id = "V-BMP-2", .severity = PLT_CORRUPTION, .count = 1,
				 .host_off = (uint64_t)u->sector * VHD_SECTOR, .host_len = x->v.bitmap_bytes,
				 .guest_off = (uint64_t)u->block << x->v.block_bits };

	f.guest_len = PLT_MIN((uint64_t)x->v.block_size, x->size - f.guest_off);
	plt_emit(x->ex, &f, "block %u: its bitmap is zero, and %" PRIu64 " sectors hold something; the parent's sectors are shown "
		 "instead", u->block, hidden);
}

/*
 * On a dynamic disk readers do not agree about a sector whose bit is clear and that holds something.  A
 * block that the batmap calls complete and that is not is read wrongly by whoever believes the map.
 */
static int check_block(struct vhd_exam *x, const struct vhd_used *u, uint8_t *bits, uint8_t *buf, struct plt_error *err)
{
	const struct vhd_state *v = &x->v;
	uint64_t start = (uint64_t)u->sector * VHD_SECTOR, sectors = v->block_size / VHD_SECTOR, clear = 0, hidden = 0;
	uint64_t disk = (x->size - ((uint64_t)u->block << v->block_bits)) / VHD_SECTOR;
	bool complete = x->batmap && u->block / 8 < v->batmap_bytes && x->batmap[u->block / 8] & 0x80 >> (u->block & 7);
	bool child = v->type == VHD_DIFFERENCING, zero, look;
	int r;

	if (v->honoured && !complete && !child)
		return 0;
	r = plt_store_read(x->ex->file, start, bits, v->bitmap_bytes, PLT_IO_BITMAP, err);
	if (r == 0 && bits[0] == 0xff && !memcmp(bits, bits + 1, v->bitmap_bytes - 1))
		return 0; /* as nearly all are */
	zero = r == 0 && plt_is_zero(bits, v->bitmap_bytes);
	/* (where bits count, a stop leaves data without them; but mending asks whether a block is there at all) */
	look = !v->honoured || (child && (zero || vhd_mends(x, PLT_MEND_MAP)));
	if (!look && !complete)
		return r;
	sectors = PLT_MIN(sectors, disk);
	for (uint64_t i = 0, n; i < sectors && r == 0; i += n) {
		n = clear_run(v, bits, i, sectors);
		clear += n;
		if (n && look)
			r = count_hidden(x, start, i, n, buf, &hidden, err);
		n += !n;
	}
	if (r == 0 && complete && clear)
		r = wrong_batmap(x, u, start, clear);
	if (r < 0 || !hidden)
		return r;
	if (child && complete)
		return 0;
	if (!child || vhd_mends(x, PLT_MEND_MAP))
		return add_unfit(x, u, hidden, zero);
	vhd_zero_bitmap(x, u, hidden);
	return 0;
}

/*
 * Of a block that shares bytes with another: whether its bitmap is one at all.  Where bits count, what is in it has
 * to be looked at, of no more blocks than there is room for in the file.
 */
static int check_shared(struct vhd_exam *x, const struct vhd_used *u, uint8_t *bits, uint8_t *buf, uint64_t *looked)
{
	uint64_t start = (uint64_t)u->sector * VHD_SECTOR;
	enum vhd_fit fit;
	int r;

	if (!vhd_mends(x, PLT_MEND_MAP))
		return 0;
	if (x->v.honoured) {
		if (++*looked > x->ends.file_size / vhd_block_len(&x->v))
			return 0;
		r = vhd_fit_at(x, start, buf, &fit, NULL);
		return r == 0 && fit == VHD_FIT_NO ? add_unfit(x, u, 0, false) : r;
	}
	r = plt_store_read(x->ex->file, start, bits, x->v.bitmap_bytes, PLT_IO_BITMAP, NULL);
	if (r < 0 || (bits[0] == 0xff && !memcmp(bits, bits + 1, x->v.bitmap_bytes - 1)))
		return 0;
	return add_unfit(x, u, 0, false);
}

int vhd_check_bits(struct vhd_exam *x, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES), *bits = plt_alloc_io(x->v.bitmap_bytes);
	uint64_t end = 0, looked = 0;
	int r = buf && bits ? 0 : -ENOMEM;

	/* of blocks that share bytes only the first: the work stays within what the file holds */
	for (size_t i = 0; i < x->n && r == 0; i++) {
		uint64_t start = (uint64_t)x->used[i].sector * VHD_SECTOR;

		if (x->used[i].block >= x->v.blocks)
			continue;
		if (start < end) {
			if (i && x->used[i].sector != x->used[i - 1].sector)
				r = check_shared(x, &x->used[i], bits, buf, &looked);
			continue;
		}
		end = start + vhd_block_len(&x->v);
		r = check_block(x, &x->used[i], bits, buf, err);
	}
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}
