/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Changing the size.  Every step is durable before the next; a cut anywhere leaves an image of the old or
 * the new size:
 *
 *	fixed, larger      footer at the new end -> zeros where the old one was
 *	fixed, smaller     footer at the new end -> the file is cut behind it
 *	dynamic, larger    (new table -> header names it) -> entries and bytes that come to light are empty
 *	                   -> footer at the end -> footer at the start
 *	dynamic, smaller   footer at the end -> footer at the start -> entries behind the end -> blocks
 *
 * In between the two footers of a dynamic image differ, and the one at the start counts.  A table that is
 * too small is not enlarged where it is, with the blocks behind it moved out of the way; it is copied to
 * the end of the file, which takes the time of the table.
 *
 * The caller has closed the gate: no request is under way.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define CHUNK (UINT64_C(1) << 20)

/* Those of whom QEMU too knows that the size counts keep a geometry for BIOSes. */
static bool size_counts(const struct vhd_footer *f)
{
	static const char *const known[] = { "win ", "qem2", "d2v ", "CTXS", "tap\0" };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(known); i++)
		if (vhd_is_creator(f, known[i]))
			return true;
	return false;
}

static void resized_footer(const struct vhd_state *v, uint64_t size, struct vhd_footer *f)
{
	uint32_t c, h, s;

	*f = v->footer;
	f->current_size = plt_be64_make(size);
	vhd_geometry(size / VHD_SECTOR, &c, &h, &s);
	if ((uint64_t)c * h * s * VHD_SECTOR != size && (!size_counts(f) || vhd_chs_sectors(f) == VHD_MAX_CHS)) {
		c = VHD_CHS_C;
		h = VHD_CHS_H;
		s = VHD_CHS_S;
	}
	vhd_set_chs(f, c, h, s);
	vhd_footer_seal(f);
}

static int sync_if(struct plt_image *img, enum vhd_rule rule, struct plt_error *err)
{
	return vhd_rule(img, rule) ? plt_store_sync(img->file, err) : 0;
}

/* ---- fixed ----------------------------------------------------------------------------------- */

static int preallocate(struct plt_image *img, uint64_t from, uint64_t to, const char *how, struct plt_error *err)
{
	if (!how || !strcmp(how, "off") || from >= to)
		return 0;
	if (!strcmp(how, "falloc"))
		return plt_store_allocate(img->file, from, to - from, err);
	return plt_store_zero(img->file, from, to - from, PLT_ZERO_WRITTEN, PLT_IO_DATA, err);
}

/* The old footer at @footer counts again, if the store lets it: what is behind it goes. */
static void undo_fixed_grow(struct plt_image *img, uint64_t footer, const struct vhd_footer *was)
{
	struct vhd_footer now;
	int r = plt_store_read(img->file, footer, &now, sizeof(now), PLT_IO_HEADER, NULL);

	if (r < 0 || memcmp(&now, was, sizeof(now))) {
		r = plt_store_write(img->file, footer, was, sizeof(*was), PLT_IO_HEADER, NULL);
		if (r == 0)
			r = plt_store_sync(img->file, NULL);
	}
	if (r == 0 && plt_store_truncate(img->file, footer + VHD_FOOTER, NULL) == 0)
		(void)plt_store_sync(img->file, NULL);
}

static int fixed_grow(struct plt_image *img, uint64_t size, const char *preallocation, const struct vhd_footer *was,
		      struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t old = atomic_load(&img->size), footer = v->footer_off;
	int r;

	if (!img->file->limits.can_grow)
		return plt_error_set(err, ENOTSUP, "'%s' cannot grow", img->name);
	r = vhd_put_footer(img, size, vhd_rule(img, VHD_RULE_GROW_FIXED), err);
	/* with a footer at the end: long zeros behind the old one would hide it, should the power fail */
	if (r == 0)
		r = preallocate(img, footer + VHD_FOOTER, size, preallocation, err);
	/* what was the footer, and what lay before it unused, is the guest's now */
	if (r == 0)
		r = plt_store_zero(img->file, old, PLT_MIN(footer + VHD_FOOTER, size) - old, 0, PLT_IO_DATA, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r < 0)
		undo_fixed_grow(img, footer, was);
	return r;
}

/* Also where the new end lies before the footer, in what was unused. */
static int fixed_shrink(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	uint64_t old = atomic_load(&img->size), to = img->file->limits.can_grow ? size : vhd_of(img)->footer_off;
	uint8_t under[VHD_FOOTER]; /* the new footer; it is the guest's for as long as the old one counts */
	int r = plt_store_read(img->file, to, under, sizeof(under), PLT_IO_DATA, err);

	if (r < 0)
		return r;
	if (size > old) {
		r = plt_store_zero(img->file, old, size - old, 0, PLT_IO_DATA, err);
		if (r == 0)
			r = plt_store_sync(img->file, err);
	}
	if (r < 0)
		return r;
	r = vhd_put_footer(img, to, vhd_rule(img, VHD_RULE_SHRINK), err);
	if (r == 0 && img->file->limits.can_grow)
		r = plt_store_truncate(img->file, size + VHD_FOOTER, err);
	if (r < 0 && plt_store_write(img->file, to, under, sizeof(under), PLT_IO_DATA, NULL) == 0)
		(void)plt_store_sync(img->file, NULL);
	return r < 0 ? r : plt_store_sync(img->file, err);
}

static int resize_fixed(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_footer old = v->footer, f;
	int r;

	v->footer_off = v->ends.tail.off;
	resized_footer(v, size, &f);
	v->footer = f;
	r = size > v->footer_off ? fixed_grow(img, size, preallocation, &old, err) : fixed_shrink(img, size, err);
	if (r < 0) {
		v->footer = old;
		return r;
	}
	if (img->file->limits.can_grow)
		v->ends.tail.off = size;
	v->ends.tail.f = f;
	v->ends.tail.len = VHD_FOOTER;
	return 0;
}

/* ---- a larger table -------------------------------------------------------------------------- */

static int copy_table(struct plt_image *img, uint64_t to, uint64_t entries, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t have = v->blocks * 4, len = plt_align_up(entries * 4, VHD_SECTOR);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(CHUNK);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t at = 0, n; at < len && r == 0; at += n) {
		n = PLT_MIN(len - at, CHUNK);
		memset(buf, 0xff, n);
		if (at < have)
			r = plt_store_read(img->file, v->table_off + at, buf, PLT_MIN(n, have - at), PLT_IO_L1, err);
		if (r == 0)
			r = plt_store_write(img->file, to + at, buf, n, PLT_IO_L1, err);
	}
	return r;
}

/* Room for the table behind the last block, the footer behind it. */
static int table_room(struct plt_image *img, uint64_t len, uint64_t *ret, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t off = plt_align_up(PLT_MAX(v->used_end, v->pool), 4096), end = off + len;
	int r = 0;

	if (end > v->footer_off && !img->file->limits.can_grow)
		return plt_error_set(err, ENOSPC, "'%s': no room for a larger block allocation table", img->name);
	if (end > v->footer_off) {
		r = vhd_move_footer(img, end, err);
		if (r < 0)
			return r;
	}
	/* prepared blocks that the table now lies on, or that lie behind it, have bitmaps in them */
	v->fresh_from = PLT_MAX(v->fresh_from, PLT_MAX(v->pool_end, PLT_MAX(end, v->footer_off)));
	v->footer_off = PLT_MAX(v->footer_off, end);
	v->pool = v->pool_end = v->used_end = end;
	if (atomic_load(&v->file_end) < v->footer_off + VHD_FOOTER)
		atomic_store(&v->file_end, v->footer_off + VHD_FOOTER);
	*ret = off;
	return 0;
}

/* The last sector of the table holds more entries than are in use; whoever made it may have left junk. */
static int use_padding(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t from = (uint64_t)v->entries * 4, to = plt_align_up(from, VHD_SECTOR);
	uint8_t ones[VHD_SECTOR];

	memset(ones, 0xff, sizeof(ones));
	return plt_store_write(img->file, v->table_off + from, ones, to - from, PLT_IO_L1, err);
}

static int larger_table(struct plt_image *img, uint64_t entries, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t old_off = v->table_off, old_len = plt_align_up((uint64_t)v->entries * 4, VHD_SECTOR), off = old_off;
	uint64_t len = plt_align_up(entries * 4, VHD_SECTOR);
	struct vhd_header h = v->header;
	int r;

	if (entries > VHD_MAX_ENTRIES)
		return plt_error_set(err, EFBIG, "'%s': a table of %" PRIu64 " entries is too large", img->name, entries);
	if (len > old_len && v->batmap_header_off)
		return plt_error_set(err, ENOTSUP, "'%s': its block allocation table has no room for this size, and "
				     "XenServer's batmap behind it cannot be moved", img->name);
	if (len == old_len) {
		r = use_padding(img, err);
	} else {
		r = table_room(img, len, &off, err);
		if (r == 0)
			r = copy_table(img, off, entries, err);
	}
	if (r == 0)
		r = sync_if(img, VHD_RULE_GROW_TABLE, err);
	if (r < 0)
		return r;
	h.table_offset = plt_be64_make(off);
	h.entries = plt_be32_make((uint32_t)entries);
	vhd_header_seal(&h);
	/* all that has changed is in its first sector, so it changes at once */
	r = plt_store_write(img->file, v->header_off, &h, VHD_SECTOR, PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r < 0) { /* which of the two tables the file names is not known: the old one */
		if (plt_store_write(img->file, v->header_off, &v->header, VHD_SECTOR, PLT_IO_HEADER, NULL) == 0)
			(void)plt_store_sync(img->file, NULL);
		return r;
	}
	/* (without memory to say that the old table is free, it is not) */
	if (r == 0 && plt_extents_add(&v->meta, off, len) < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0 && off != old_off && old_len)
		(void)plt_extents_remove(&v->meta, old_off, old_len);
	if (r < 0)
		return r;
	plt_meta_forget(img, old_off, old_len);
	v->header = h;
	v->table_off = off;
	v->entries = (uint32_t)entries;
	v->meta_end = PLT_MAX(v->meta_end, off + len);
	return 0;
}

/* ---- dynamic --------------------------------------------------------------------------------- */

/*
 * Entries [from, to) become unused, in the file itself.  @dropped: NULL, or what they named, to be given
 * free (malloc).
 */
static int clear_entries(struct plt_image *img, uint64_t from, uint64_t to, uint32_t **dropped, uint64_t *n_dropped,
			 struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(CHUNK);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t at = from, n; at < to && r == 0; at += n) {
		bool some = false;

		n = PLT_MIN(to - at, CHUNK / 4);
		r = plt_store_read(img->file, v->table_off + at * 4, buf, n * 4, PLT_IO_L1, err);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint32_t entry = plt_get_be32(buf + i * 4);
			uint32_t *grown;

			if (entry == VHD_UNUSED)
				continue;
			some = true;
			if (!dropped)
				continue;
			grown = realloc(*dropped, (*n_dropped + 1) * sizeof(*grown));
			if (!grown)
				return plt_error_set(err, ENOMEM, "out of memory");
			*dropped = grown;
			grown[(*n_dropped)++] = entry;
		}
		memset(buf, 0xff, n * 4);
		if (r == 0 && some)
			r = plt_store_write(img->file, v->table_off + at * 4, buf, n * 4, PLT_IO_L1, err);
	}
	if (r == 0)
		plt_meta_forget(img, plt_align_down(v->table_off + from * 4, VHD_SECTOR),
				plt_align_up((to - from) * 4, VHD_SECTOR) + VHD_SECTOR);
	return r;
}

/* What lies in the last block behind the old end has never been the guest's. */
static int clear_tail(struct plt_image *img, uint64_t old, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t in = old & (v->block_size - 1), at = v->table_off + (old >> v->block_bits) * 4;
	uint8_t b[4];
	int r;

	if (!in)
		return 0;
	r = plt_store_read(img->file, at, b, 4, PLT_IO_L1, err);
	if (r < 0 || plt_get_be32(b) == VHD_UNUSED)
		return r;
	return plt_store_zero(img->file, (uint64_t)plt_get_be32(b) * VHD_SECTOR + v->bitmap_bytes + in,
			      v->block_size - in, 0, PLT_IO_DATA, err);
}

/* The new size at both ends; what fails leaves the old one in force. */
static int switch_size(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_footer old = v->footer, f;
	int r;

	resized_footer(v, size, &f);
	v->footer = f;
	r = vhd_put_footer(img, v->footer_off, true, err);
	if (r == 0)
		r = vhd_put_footer(img, 0, true, err);
	if (r < 0) {
		v->footer = old;
		if (vhd_put_footer(img, v->footer_off, false, NULL) == 0)
			(void)vhd_put_footer(img, 0, false, NULL);
		return r;
	}
	v->ends.head.f = f;
	return 0;
}

static int dynamic_grow(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t old = atomic_load(&img->size), blocks = plt_div_up(size, v->block_size);
	int r = 0;

	if (blocks > v->entries)
		r = larger_table(img, blocks, err);
	if (r == 0 && vhd_rule(img, VHD_RULE_GROW_ZERO)) {
		r = clear_entries(img, v->blocks, blocks, NULL, NULL, err);
		if (r == 0)
			r = clear_tail(img, old, err);
		if (r == 0)
			r = plt_store_sync(img->file, err);
	}
	return r < 0 ? r : switch_size(img, size, err);
}

static int dynamic_shrink(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t blocks = plt_div_up(size, v->block_size), n = 0;
	struct plt_error why = PLT_ERROR_INIT;
	uint32_t *dropped = NULL;
	int r = 0;

	if (vhd_rule(img, VHD_RULE_SHRINK))
		r = switch_size(img, size, err);
	if (r < 0)
		return r;
	/* from here on the disk is smaller; what cannot be given back leaks */
	atomic_store(&img->size, size);
	r = clear_entries(img, blocks, v->blocks, &dropped, &n, &why);
	if (r == 0)
		r = plt_store_sync(img->file, &why);
	for (uint64_t i = 0; i < n && r == 0; i++)
		r = vhd_release(img, (uint64_t)dropped[i] * VHD_SECTOR, vhd_block_len(v), 0, &why);
	free(dropped);
	if (r < 0)
		plt_ctx_warn(img->ctx, "'%s': smaller now, but not all that lay behind the new end could be given back: %s",
			     img->name, why.text);
	r = 0;
	if (!vhd_rule(img, VHD_RULE_SHRINK))
		r = switch_size(img, size, err);
	return r;
}

int vhd_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t old = atomic_load(&img->size);
	int r;

	size = plt_align_up(PLT_MIN(size, (uint64_t)INT64_MAX - VHD_SECTOR), VHD_SECTOR);
	if (size / VHD_SECTOR > VHD_MAX_SECTORS)
		return plt_error_set(err, EFBIG, "'%s': a VHD has 2040 GiB at the most", img->name);
	if (v->type == VHD_DIFFERENCING)
		return plt_error_set(err, ENOTSUP, "'%s': a differencing VHD has the size of its parent", img->name);
	if (v->type == VHD_FIXED && preallocation && strcmp(preallocation, "off") && strcmp(preallocation, "falloc") &&
	    strcmp(preallocation, "full"))
		return plt_error_set(err, ENOTSUP, "Preallocation mode '%s' is not supported for vpc images", preallocation);
	r = vhd_first_write(img, err);
	if (r < 0)
		return r;
	if (v->type == VHD_FIXED) {
		r = resize_fixed(img, size, preallocation, err);
	} else if (preallocation && strcmp(preallocation, "off")) {
		r = plt_error_set(err, ENOTSUP, "Preallocation mode '%s' is not supported for dynamic vpc images",
				  preallocation);
	} else {
		r = plt_meta_flush(img, true, err);
		if (r == 0)
			r = size > old ? dynamic_grow(img, size, err) : dynamic_shrink(img, size, err);
	}
	if (r < 0)
		return r;
	v->by_chs = false;
	v->blocks = v->block_size ? plt_div_up(size, v->block_size) : 0;
	atomic_store(&img->size, size);
	return 0;
}
