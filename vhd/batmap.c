/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * XenServer's batmap: one bit a block, "all of its sectors are here".  It is a cache of the bitmaps, so
 * a map whose checksum is wrong is not used; one that is right is kept right, because blktap demands one
 * of the images it made.  We never set a bit, and clear one before its block gets a new place.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define VERSION_ALWAYS 0x00010002u /* creator versions from which on blktap writes one */
#define VERSION_MAYBE 0x00010001u

uint32_t vhd_batmap_checksum(const struct vhd_batmap *m, const uint8_t *bytes, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += plt_be32_get(m->version) == VHD_BATMAP_SIGNED ? (uint32_t)(int32_t)(int8_t)bytes[i] : bytes[i];
	return ~sum;
}

int vhd_batmap_find(struct plt_store *file, uint64_t file_size, const struct vhd_footer *f,
		    const struct vhd_header *h, struct vhd_batmap *ret, uint64_t *ret_off, const char **ret_why,
		    struct plt_error *err)
{
	uint32_t version = plt_be32_get(f->creator_version);
	uint64_t bytes;
	int r;

	*ret_why = NULL;
	*ret_off = plt_align_up(plt_be64_get(h->table_offset) + (uint64_t)plt_be32_get(h->entries) * 4, VHD_SECTOR);
	if (!vhd_is_creator(f, "tap\0") || version < VERSION_MAYBE || !plt_in_range(*ret_off, VHD_SECTOR, file_size))
		return 0;
	r = plt_store_read(file, *ret_off, ret, sizeof(*ret), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	if (memcmp(ret->cookie, VHD_BATMAP_COOKIE, 8)) {
		*ret_why = "its header is missing";
		return version >= VERSION_ALWAYS;
	}
	bytes = (uint64_t)plt_be32_get(ret->sectors) * VHD_SECTOR;
	if (plt_be32_get(ret->version) != VHD_BATMAP_SIGNED && plt_be32_get(ret->version) != VHD_BATMAP_UNSIGNED)
		*ret_why = "its version is unknown";
	else if (plt_be64_get(ret->offset) % VHD_SECTOR || !plt_in_range(plt_be64_get(ret->offset), bytes, file_size))
		*ret_why = "it lies beyond the end of the file";
	else if (bytes > plt_align_up(plt_div_up(plt_be32_get(h->entries), 8), VHD_SECTOR))
		*ret_why = "it is larger than the table needs";
	return 1;
}

int vhd_batmap_load(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_batmap m;
	const char *why;
	uint64_t bytes, off;
	int r = vhd_batmap_find(img->file, v->ends.file_size, &v->footer, &v->header, &m, &off, &why, err);

	if (r <= 0)
		return r;
	v->batmap_header_off = off;
	v->encrypted = !memcmp(m.cookie, VHD_BATMAP_COOKIE, 8) && m.keyhash == 1;
	if (why)
		return 0;
	v->batmap_off = plt_be64_get(m.offset);
	bytes = (uint64_t)plt_be32_get(m.sectors) * VHD_SECTOR;
	if (plt_extents_add(&v->meta, v->batmap_header_off, VHD_SECTOR) < 0 ||
	    (bytes && plt_extents_add(&v->meta, v->batmap_off, bytes) < 0))
		return plt_error_set(err, ENOMEM, "out of memory");
	v->meta_end = PLT_MAX(v->meta_end, PLT_MAX(v->batmap_header_off + VHD_SECTOR, v->batmap_off + bytes));
	v->batmap = malloc(bytes ? bytes : 1);
	if (!v->batmap)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_store_read(img->file, v->batmap_off, v->batmap, bytes, PLT_IO_BITMAP, err);
	if (r < 0)
		return r;
	v->batmap_bytes = (uint32_t)bytes;
	v->batmap_header = m;
	if (vhd_batmap_checksum(&m, v->batmap, bytes) != plt_be32_get(m.checksum)) {
		free(v->batmap);
		v->batmap = NULL;
	}
	return 0;
}

/*
 * The bit's sector first: between the two writes the checksum is wrong, and the map is not believed.
 */
int vhd_batmap_clear(struct plt_image *img, uint64_t block, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_batmap *m = &v->batmap_header;
	uint64_t sector = block / 8 / VHD_SECTOR * VHD_SECTOR;
	uint8_t byte, old;
	int r;

	if (!vhd_complete(v, block))
		return 0;
	old = v->batmap[block / 8];
	byte = (uint8_t)(old & ~(0x80 >> (block & 7)));
	__atomic_store_n(&v->batmap[block / 8], byte, __ATOMIC_RELAXED);
	r = plt_store_write(img->file, v->batmap_off + sector, v->batmap + sector, VHD_SECTOR, PLT_IO_BITMAP, err);
	if (r == 0) {
		m->checksum = plt_be32_make(vhd_batmap_checksum(m, v->batmap, v->batmap_bytes));
		r = plt_store_write(img->file, v->batmap_header_off, m, sizeof(*m), PLT_IO_HEADER, err);
	}
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r < 0)
		__atomic_store_n(&v->batmap[block / 8], old, __ATOMIC_RELAXED);
	return r;
}
