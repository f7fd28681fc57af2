/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Mending of bitmaps.  On a dynamic disk a clear bit over data divides the readers; all bits are set, as nearly every
 * writer does when it allocates, and what then shows is named as inferred.  On a differencing disk a bit decides
 * between two versions of a sector.  One whose bits are all clear over data has lost them: nobody else writes there
 * (but blktap, whose blocks may hold what lay in the volume before: that is only named).  XenServer's batmap is a cache:
 * a bit of it that is wrong is cleared, and one that cannot be believed says nothing any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/checked.h"
#include "base/zero.h"
#include "vhd/check.h"

#define PAGE 4096u /* what nearly every guest writes at once */

static int doubt_block(struct vhd_exam *x, uint32_t block, enum plt_certainty certainty, const char *why)
{
	uint64_t off = (uint64_t)block << x->v.block_bits;

	return vhd_doubt(x, PLT_INFERRED, certainty, off, PLT_MIN((uint64_t)x->v.block_size, x->size - off), why);
}

static int set_all(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden)
{
	uint64_t start = (uint64_t)u->sector * VHD_SECTOR;
	PLT_AUTOFREE uint8_t *ones = malloc(x->v.bitmap_bytes);
	int r;

	if (!ones)
		return -ENOMEM;
	memset(ones, 0xff, x->v.bitmap_bytes);
	r = plt_store_write(x->ex->file, start, ones, x->v.bitmap_bytes, PLT_IO_BITMAP, NULL);
	if (r == 0)
		r = doubt_block(x, u->block, PLT_STRONG, "its bitmap did not name sectors that hold something");
	vhd_mended(x, "V-BMP-1", PLT_NOTE, start, x->v.bitmap_bytes, "block %u: %" PRIu64 " sectors hold something without their "
		   "bits; all bits are set", u->block, hidden);
	return r;
}

/* Set the bits of all pages in which something is not zero. */
static int bits_of_pages(struct vhd_exam *x, uint64_t start, uint8_t *bits)
{
	PLT_AUTOFREE uint8_t *buf = malloc(PAGE);
	uint64_t at = start + x->v.bitmap_bytes, end = PLT_MIN(at + x->v.block_size, x->ends.file_size), n;
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; at < end && r == 0; at += n, i += n / VHD_SECTOR) {
		n = PLT_MIN(end - at, (uint64_t)PAGE);
		r = plt_store_read(x->ex->file, at, buf, n, PLT_IO_DATA, NULL);
		if (r < 0 || plt_is_zero(buf, n))
			continue;
		for (uint64_t k = 0; k < n / VHD_SECTOR; k++)
			bits[(i + k) / 8] |= (uint8_t)(x->v.bits_reversed ? 1 << ((i + k) & 7) : 0x80 >> ((i + k) & 7));
	}
	return r;
}

static int set_pages(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden)
{
	uint64_t start = (uint64_t)u->sector * VHD_SECTOR;
	PLT_AUTOFREE uint8_t *bits = calloc(1, x->v.bitmap_bytes);
	int r = bits ? bits_of_pages(x, start, bits) : -ENOMEM;

	if (r == 0)
		r = plt_store_write(x->ex->file, start, bits, x->v.bitmap_bytes, PLT_IO_BITMAP, NULL);
	if (r == 0)
		r = doubt_block(x, u->block, PLT_STRONG, "its bitmap was zero: pages in which something is are its own");
	vhd_mended(x, "V-BMP-2", PLT_CORRUPTION, start, x->v.bitmap_bytes, "block %u: its bitmap is zero, and %" PRIu64 " sectors "
		   "hold something, which only this disk can have written: their bits are set, by pages of 4096 bytes", u->block,
		   hidden);
	return r;
}

int vhd_mend_bits(struct vhd_exam *x, const struct vhd_unfit *f)
{
	if (!x->v.honoured)
		return set_all(x, &f->u, f->hidden);
	if (x->v.type != VHD_DIFFERENCING || !f->zero)
		return 0;
	if (!vhd_is_creator(&x->v.footer, "tap\0"))
		return set_pages(x, &f->u, f->hidden);
	vhd_zero_bitmap(x, &f->u, f->hidden);
	return doubt_block(x, f->u.block, PLT_LIKELY, "its bitmap is zero, and it holds data: its parent's is shown");
}

int vhd_mend_batmap(struct vhd_exam *x, uint64_t off, struct vhd_batmap *m, uint8_t *map, uint64_t first, uint64_t n)
{
	int r;

	m->checksum = plt_be32_make(vhd_batmap_checksum(m, map, (size_t)plt_be32_get(m->sectors) * VHD_SECTOR));
	r = plt_store_write(x->ex->file, plt_be64_get(m->offset) + first, map + first, n, PLT_IO_BITMAP, NULL);
	return r < 0 ? r : plt_store_write(x->ex->file, off, m, sizeof(*m), PLT_IO_HEADER, NULL);
}
