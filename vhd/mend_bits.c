/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Mending of bitmaps.  On a dynamic disk a clear bit over data divides the readers; all bits are set, as nearly every
 * writer does when it allocates, and what then shows is named as inferred.  On a differencing disk a bit decides
 * between two versions of a sector, and is left as it is: the range is named.  XenServer's batmap is a cache: a bit of
 * it that is wrong is cleared, and one that cannot be believed says nothing any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/checked.h"
#include "vhd/check.h"

static int doubt_block(struct vhd_exam *x, uint32_t block, enum plt_certainty certainty, const char *why)
{
	uint64_t off = (uint64_t)block << x->v.block_bits;

	return vhd_doubt(x, PLT_INFERRED, certainty, off, PLT_MIN((uint64_t)x->v.block_size, x->size - off), why);
}

int vhd_mend_bits(struct vhd_exam *x, const struct vhd_used *u, uint64_t hidden)
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

int vhd_name_bits(struct vhd_exam *x, const struct vhd_used *u)
{
	return doubt_block(x, u->block, PLT_LIKELY, "its bitmap is zero, and it holds data: its parent's is shown");
}

int vhd_mend_batmap(struct vhd_exam *x, uint64_t off, struct vhd_batmap *m, uint8_t *map, uint64_t first, uint64_t n)
{
	int r;

	m->checksum = plt_be32_make(vhd_batmap_checksum(m, map, (size_t)plt_be32_get(m->sectors) * VHD_SECTOR));
	r = plt_store_write(x->ex->file, plt_be64_get(m->offset) + first, map + first, n, PLT_IO_BITMAP, NULL);
	return r < 0 ? r : plt_store_write(x->ex->file, off, m, sizeof(*m), PLT_IO_HEADER, NULL);
}
