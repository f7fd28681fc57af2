/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Mending of footers.  A dynamic disk has two, a fixed one has one; the copy that is whole makes the other.  Where
 * none is, what is left of one is completed (a file that was cut inside its footer has lost nothing but zeros), then
 * a single field is corrected if the stored checksum then verifies, then the checksum if all fields make sense;
 * at last a footer is made anew from the dynamic header, or for a fixed disk from what its guest says of its size.
 *
 * The invariant: a footer goes behind everything that is in use; no byte of a block or of a fixed disk is written
 * over, and the file never becomes shorter.
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

#define HEADER_SEARCH (UINT64_C(1) << 20) /* bytes in which a dynamic header is looked for */
#define SEARCH_BYTES (1u << 20)
#define ID_BYTES 65536u

static int put(struct vhd_exam *x, uint64_t off, const struct vhd_footer *f)
{
	return plt_store_write(x->ex->file, off, f, sizeof(*f), PLT_IO_HEADER, NULL);
}

static bool sum_right(const struct vhd_footer *f)
{
	return plt_be32_get(f->checksum) == vhd_checksum(f, sizeof(*f), offsetof(struct vhd_footer, checksum));
}

/* ---- what is left of one --------------------------------------------------------------------- */

static bool makes_sense(const struct vhd_exam *x, const struct vhd_footer *f, bool fixed)
{
	uint64_t size = plt_be64_get(f->current_size), data = plt_be64_get(f->data_offset);
	uint32_t type = plt_be32_get(f->type);

	if (memcmp(f->cookie, VHD_COOKIE, 8) || plt_be32_get(f->version) != VHD_VERSION || !size || size % VHD_SECTOR ||
	    size / VHD_SECTOR > VHD_MAX_SECTORS || !plt_is_zero(f->reserved, sizeof(f->reserved)))
		return false;
	if (fixed)
		return type == VHD_FIXED && size <= x->ends.file_size;
	return (type == VHD_DYNAMIC || type == VHD_DIFFERENCING) && data >= VHD_FOOTER && data % VHD_SECTOR == 0 &&
	       plt_in_range(data, VHD_HEADER, x->ends.file_size);
}

/* One of the fields that are always the same is wrong: then the checksum verifies without it. */
static bool correct_field(struct vhd_footer *f, bool fixed)
{
	for (unsigned i = 0; i < 7; i++) {
		struct vhd_footer g = *f;

		switch (i) {
		case 0: memcpy(g.cookie, VHD_COOKIE, 8); break;
		case 1: g.features = plt_be32_make(VHD_FEATURE_RESERVED); break;
		case 2: g.version = plt_be32_make(VHD_VERSION); break;
		case 3: g.data_offset = plt_be64_make(fixed ? VHD_NONE : VHD_FOOTER); break;
		case 4: g.type = plt_be32_make(fixed ? VHD_FIXED : VHD_DYNAMIC); break;
		case 5: g.type = plt_be32_make(fixed ? VHD_FIXED : VHD_DIFFERENCING); break;
		default: memset(g.reserved, 0, sizeof(g.reserved)); break;
		}
		if (sum_right(&g)) {
			*f = g;
			return true;
		}
	}
	return false;
}

/* How the footer at hand can be made whole; NULL: it cannot. */
static const char *complete(const struct vhd_exam *x, struct vhd_footer *f, bool fixed, const char **ret_id)
{
	struct vhd_footer g = *f;

	*ret_id = "V-FTR-4";
	if (correct_field(&g, fixed) && makes_sense(x, &g, fixed)) {
		*f = g;
		return "one field is corrected: its checksum then verifies";
	}
	if (!makes_sense(x, f, fixed))
		return NULL;
	vhd_footer_seal(f);
	return "all its fields make sense, its checksum is computed anew";
}

/* A file that was cut within its footer. */
static int cut_footer(struct vhd_exam *x, struct vhd_footer *f, uint64_t *ret_off)
{
	uint64_t off = plt_align_down(x->ends.file_size, VHD_SECTOR);
	int r;

	if (x->ends.file_size - off < offsetof(struct vhd_footer, reserved))
		return -ENOENT;
	memset(f, 0, sizeof(*f));
	r = plt_store_read(x->ex->file, off, f, x->ends.file_size - off, PLT_IO_HEADER, NULL);
	*ret_off = off;
	return r < 0 ? r : !memcmp(f->cookie, VHD_COOKIE, 8) && sum_right(f) ? 0 : -ENOENT;
}

/* ---- anew ------------------------------------------------------------------------------------ */

/*
 * An id made of what the file begins with, so that a repair that is cut short and made anew is the same one.  (FNV-1a,
 * from two starts.)
 */
static int make_id(struct vhd_exam *x, uint64_t size, uint8_t id[16])
{
	PLT_AUTOFREE uint8_t *buf = malloc(ID_BYTES);
	uint64_t h[2] = { UINT64_C(0xcbf29ce484222325) ^ size, UINT64_C(0x84222325cbf29ce4) + x->ends.file_size };
	size_t n = PLT_MIN(x->ends.file_size - VHD_SECTOR, (uint64_t)ID_BYTES);
	int r = buf ? plt_store_read(x->ex->file, VHD_SECTOR, buf, n, PLT_IO_HEADER, NULL) : -ENOMEM;

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < 2; k++)
			h[k] = (h[k] ^ buf[i]) * UINT64_C(0x100000001b3);
	memcpy(id, h, 16);
	id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
	id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
	return 0;
}

static int new_footer(struct vhd_exam *x, struct vhd_footer *f, enum vhd_type type, uint64_t data_offset, uint64_t size)
{
	int r;

	memset(f, 0, sizeof(*f));
	memcpy(f->cookie, VHD_COOKIE, 8);
	f->features = plt_be32_make(VHD_FEATURE_RESERVED);
	f->version = plt_be32_make(VHD_VERSION);
	f->data_offset = plt_be64_make(data_offset);
	memcpy(f->creator, "win ", 4); /* of whom everybody takes the size, and not the geometry */
	f->creator_version = plt_be32_make(0x000a0000);
	memcpy(f->creator_os, "Wi2k", 4);
	f->original_size = f->current_size = plt_be64_make(size);
	vhd_set_chs(f, VHD_CHS_C, VHD_CHS_H, VHD_CHS_S);
	f->type = plt_be32_make(type);
	r = make_id(x, size, f->id);
	vhd_footer_seal(f);
	return r;
}

/* The first dynamic header that can be believed. */
static int find_header(struct vhd_exam *x, struct vhd_header *h, uint64_t *ret_off)
{
	for (uint64_t off = VHD_SECTOR; plt_in_range(off, VHD_HEADER, PLT_MIN(x->ends.file_size, HEADER_SEARCH));
	     off += VHD_SECTOR) {
		int r = plt_store_read(x->ex->file, off, h, sizeof(*h), PLT_IO_HEADER, NULL);

		if (r < 0)
			return r;
		*ret_off = off;
		if (!memcmp(h->cookie, VHD_HEADER_COOKIE, 8) && vhd_check_header(h, x->ends.file_size, NULL) == 0)
			return 0;
	}
	return -ENOENT;
}

/* What a dynamic header leaves open: the disk's exact size, and who it was. */
static int footer_of_header(struct vhd_exam *x, struct vhd_header *h, uint64_t off, struct vhd_footer *f,
			    const char **ret_size)
{
	uint64_t bs = plt_be32_get(h->block_size), size = PLT_MIN(plt_be32_get(h->entries) * bs, VHD_MAX_SECTORS * VHD_SECTOR),
		 said;
	bool child = !plt_is_zero(h->parent_id, 16) || !plt_is_zero(h->locator, sizeof(h->locator));
	int r = new_footer(x, f, child ? VHD_DIFFERENCING : VHD_DYNAMIC, off, size);

	if (r < 0)
		return r;
	x->v.footer = *f;
	x->v.type = plt_be32_get(f->type);
	x->v.header = *h;
	plt_extents_release(&x->v.meta);
	r = vhd_layout(&x->v, size, x->ends.file_size, NULL);
	said = r == 0 ? vhd_gpt_size(x) : 0;
	plt_extents_release(&x->v.meta);
	x->v.meta_end = 0;
	*ret_size = "the disk's size is that of all its blocks";
	if (said && said <= size && said + 2 * bs > size) {
		*ret_size = "the disk's size is what its partition table says";
		f->original_size = f->current_size = plt_be64_make(said);
		vhd_footer_seal(f);
	}
	return r;
}

/*
 * Junk behind the footer of a fixed disk: the last one whose size is its own place.  Where nobody says that it is a VHD, and
 * each format is tried, only so much junk: a medium is read once by all of them, not once by each.
 */
#define GUESS_BYTES (UINT64_C(64) << 20)

/* How much before @end is nothing but hole: of a sparse file no more is gone through than it holds. */
static uint64_t hole_before(struct plt_store *st, uint64_t end)
{
	uint64_t found = 0, len;
	enum plt_store_kind kind;

	for (uint64_t n = SEARCH_BYTES; found < end; found += n, n *= 2) {
		n = PLT_MIN(n, end - found);
		if (plt_store_extents(st, end - found - n, n, &kind, &len, NULL) < 0 || kind != PLT_STORE_HOLE || len < n)
			break;
	}
	return found;
}

static int find_fixed(struct vhd_exam *x, struct vhd_footer *f, uint64_t *ret_off)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SEARCH_BYTES);
	uint64_t end = plt_align_down(x->ends.file_size, VHD_SECTOR), n;
	const uint64_t stop = x->ex->mend && x->ex->mend->guess && end > GUESS_BYTES ? end - GUESS_BYTES : 0;

	if (!buf)
		return -ENOMEM;
	for (; end > stop; end -= n) {
		int r;

		end -= hole_before(x->ex->file, end);
		n = PLT_MIN(end, (uint64_t)SEARCH_BYTES);
		if (end <= stop)
			break;
		r = plt_store_read(x->ex->file, end - n, buf, n, PLT_IO_DATA, NULL);
		if (r < 0)
			return r;
		for (uint64_t at = n; at; at -= VHD_SECTOR) {
			memcpy(f, buf + at - VHD_SECTOR, sizeof(*f));
			*ret_off = end - n + at - VHD_SECTOR;
			if (!memcmp(f->cookie, VHD_COOKIE, 8) && sum_right(f) && plt_be32_get(f->type) == VHD_FIXED &&
			    plt_be64_get(f->current_size) == *ret_off)
				return 0;
		}
	}
	return -ENOENT;
}

/* A fixed disk without any footer: 0 if what lies there looks like a disk at all. */
static int fixed_anew(struct vhd_exam *x, struct vhd_footer *f, uint64_t *ret_off, const char **ret_how)
{
	uint64_t size = plt_align_down(x->ends.file_size, VHD_SECTOR), said;
	uint8_t boot[VHD_SECTOR];
	int r;

	x->v.type = VHD_FIXED;
	said = vhd_gpt_size(x);
	*ret_how = "the disk's size is what its partition table says";
	if (said && said <= size) {
		size = said;
	} else {
		*ret_how = "the disk's size is the file's";
		r = plt_store_read(x->ex->file, 0, boot, sizeof(boot), PLT_IO_DATA, NULL);
		if (r < 0 || boot[510] != 0x55 || boot[511] != 0xaa)
			return -ENOENT;
	}
	*ret_off = plt_align_down(x->ends.file_size, VHD_SECTOR);
	said = vhd_gpt_first_says(x);
	if (said > size) {
		*ret_how = "the disk's size is what its first partition table says; what lay behind the file's end is lost";
		*ret_off = size = said;
		r = vhd_doubt(x, PLT_LOST, PLT_PROVEN, x->ends.file_size, said - x->ends.file_size, "the file was cut short there");
		if (r < 0)
			return r;
	}
	return size ? new_footer(x, f, VHD_FIXED, VHD_NONE, size) : -ENOENT;
}

/* ---- no footer can be believed --------------------------------------------------------------- */

static int say_lost(struct vhd_exam *x)
{
	vhd_found(x, "V-FTR-3", PLT_CORRUPTION, 0, 0, "no footer can be believed: the file starts with %s and ends with %s",
		  x->ends.head.why, x->ends.tail.why);
	return 0;
}

static int mend_dynamic_ends(struct vhd_exam *x)
{
	struct vhd_copy *const copies[] = { &x->ends.head, &x->ends.tail };
	struct vhd_footer f;
	struct vhd_header h;
	const char *how, *id;
	uint64_t off;
	int r;

	for (unsigned i = 0; i < 2; i++) {
		f = copies[i]->f;
		how = complete(x, &f, false, &id);
		if (!how)
			continue;
		r = put(x, 0, &f);
		vhd_mended(x, id, PLT_CORRUPTION, copies[i]->off, VHD_FOOTER, "no footer can be believed; of the one at the "
			   "file's %s %s", i ? "end" : "start", how);
		return r < 0 ? r : 1;
	}
	r = cut_footer(x, &f, &off);
	if (r == 0 && makes_sense(x, &f, false)) {
		vhd_mended(x, "V-TRUNC-1", PLT_CORRUPTION, off, VHD_FOOTER, "the file ends within its footer, of which "
			   "nothing but zeros are missing");
		r = put(x, 0, &f);
		return r < 0 ? r : 1;
	}
	r = find_header(x, &h, &off);
	if (r == 0)
		r = footer_of_header(x, &h, off, &f, &how);
	if (r == 0)
		r = put(x, 0, &f);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	vhd_mended(x, "V-FTR-3", PLT_CORRUPTION, 0, VHD_FOOTER, "no footer can be believed; a new one is made from the dynamic "
		   "header (%s; its unique id is a new one)", how);
	return 1;
}

static int mend_fixed_ends(struct vhd_exam *x)
{
	struct vhd_footer f = x->ends.tail.f;
	const char *how, *id = "V-TRUNC-1";
	uint64_t off = 0;
	int r;

	how = complete(x, &f, true, &id);
	if (how && plt_be64_get(f.current_size) <= x->ends.tail.off) {
		off = plt_align_down(x->ends.tail.off, VHD_SECTOR);
	} else if (cut_footer(x, &f, &off) == 0 && makes_sense(x, &f, true)) {
		id = "V-TRUNC-1";
		how = "nothing but zeros are missing";
	} else {
		r = find_fixed(x, &f, &off);
		id = "V-TRUNC-3";
		how = "it stands further to the front, behind the disk";
		if (r == 0) {
			off = plt_align_up(x->ends.file_size, VHD_SECTOR);
		} else if (r == -ENOENT) {
			id = "V-FTR-3";
			r = fixed_anew(x, &f, &off, &how);
			if (r == 0 && off < x->ends.file_size)
				off += VHD_SECTOR; /* what is behind the last whole sector stays */
		}
		if (r < 0)
			return r == -ENOENT ? 0 : r;
	}
	r = put(x, off, &f);
	vhd_mended(x, id, PLT_CORRUPTION, off, VHD_FOOTER, "the footer behind the disk is missing or damaged: %s", how);
	return r < 0 ? r : 1;
}

int vhd_mend_ends(struct vhd_exam *x, struct plt_error *err)
{
	bool looks_dynamic;
	struct vhd_header h;
	uint64_t off;
	int r;

	if (x->ends.use)
		return 0;
	looks_dynamic = x->ends.head.state == VHD_COPY_BAD || find_header(x, &h, &off) == 0;
	r = vhd_mends(x, PLT_MEND_MAP) ? mend_dynamic_ends(x) : 0;
	if (r == 0 && vhd_mends(x, PLT_MEND_MAP) && !looks_dynamic)
		r = mend_fixed_ends(x);
	if (r < 0)
		return plt_error_set(err, -r, "mending the footers");
	return r ? 1 : say_lost(x);
}

/* ---- a fixed disk ---------------------------------------------------------------------------- */

int vhd_mend_fixed(struct vhd_exam *x, struct plt_error *err)
{
	const struct vhd_copy *t = &x->ends.tail;
	uint64_t said = vhd_gpt_size(x), off = plt_align_down(t->off, VHD_SECTOR);
	struct vhd_footer f = t->f;
	int r = 0;

	if (said && said != x->size && said <= off) {
		f.current_size = plt_be64_make(said);
		vhd_set_chs(&f, VHD_CHS_C, VHD_CHS_H, VHD_CHS_S);
		vhd_footer_seal(&f);
		r = put(x, off, &f);
		vhd_mended(x, "V-FTR-5", PLT_CORRUPTION, off, VHD_FOOTER, "the footer says %" PRIu64 " bytes, the guest's partition "
			   "tables at both ends of the disk %" PRIu64, x->size, said);
	} else if (x->size > t->off) {
		uint64_t to = plt_align_up(x->size, VHD_SECTOR);

		/* where the footer stood there was a part of the disk */
		r = plt_store_zero(x->ex->file, t->off, to - t->off, 0, PLT_IO_OTHER, NULL);
		if (r == 0)
			r = put(x, to, &f);
		if (r == 0)
			r = vhd_doubt(x, PLT_LOST, PLT_PROVEN, t->off, x->size - t->off, "the file was cut short there");
		vhd_mended(x, "V-TRUNC-4", PLT_CORRUPTION, t->off, VHD_FOOTER, "the last %" PRIu64 " bytes of the disk are lost; "
			   "they read as zeros, and the footer goes behind them", x->size - t->off);
	} else if (x->ends.displaced) {
		r = put(x, plt_align_up(x->ends.file_size, VHD_SECTOR), &f);
		vhd_mended(x, "V-DISPLACED", PLT_LEAK, t->off, VHD_FOOTER, "the footer goes behind the %" PRIu64 " bytes that a "
			   "resize that was cut short has left", x->ends.file_size - t->off - VHD_FOOTER);
	} else if (t->len < VHD_FOOTER && t->off % VHD_SECTOR == 0 && !vhd_is_creator(&f, "vpc ")) {
		r = put(x, t->off, &f);
		vhd_mended(x, "V-TRUNC-2", PLT_NOTE, t->off, VHD_FOOTER, "the footer's last byte, a zero, is missing");
	}
	return r < 0 ? plt_error_set(err, -r, "mending the footer") : 0;
}

/* ---- both of a dynamic one ------------------------------------------------------------------- */

/* Bytes of blocks that were cut off with the footer. */
static int name_cut_blocks(struct vhd_exam *x)
{
	uint64_t len = vhd_block_len(&x->v);
	int r = 0;

	for (size_t i = x->n; i-- && r == 0; ) {
		uint64_t start = (uint64_t)x->used[i].sector * VHD_SECTOR, have = x->ends.file_size, off, gone;

		if (start + len <= have)
			break; /* (ascending) */
		off = (uint64_t)x->used[i].block << x->v.block_bits;
		have = have > start + x->v.bitmap_bytes ? have - start - x->v.bitmap_bytes : 0;
		if (x->used[i].block >= x->v.blocks || off + have >= x->size)
			continue;
		gone = PLT_MIN(x->v.block_size - have, x->size - off - have);
		r = vhd_doubt(x, PLT_LOST, PLT_PROVEN, off + have, gone, "the file was cut short within its block");
		vhd_found(x, "V-TRUNC-4", PLT_CORRUPTION, start, len, "block %u: its last %" PRIu64 " bytes were cut off and are "
			  "lost", x->used[i].block, gone);
	}
	return r;
}

/*
 * Entries that point behind the end of the file and for which nothing was found stay what they are, even when the
 * file now becomes @size bytes long: they get a place that no file has.
 */
static int keep_bad_entries(struct vhd_exam *x, uint64_t size)
{
	const plt_be32 far = plt_be32_make(VHD_UNUSED - 1);
	int r = 0;

	for (size_t i = 0; i < x->bad.n; i++)
		for (uint64_t b = x->bad.v[i].off; b < x->bad.v[i].off + x->bad.v[i].len && r == 0; b++) {
			enum plt_store_kind kind;
			uint64_t n;
			plt_be32 e;

			r = plt_store_extents(x->ex->file, x->v.table_off + b * 4, 4, &kind, &n, NULL);
			if (r == 0 && kind == PLT_STORE_HOLE) { /* zeros, which are bad whatever the size */
				b += PLT_MAX(n / 4, UINT64_C(1)) - 1;
				continue;
			}
			if (r == 0)
				r = plt_store_read(x->ex->file, x->v.table_off + b * 4, &e, 4, PLT_IO_L1, NULL);
			if (r == 0 && !vhd_entry_bad(&x->v, size, plt_be32_get(e)))
				r = plt_store_write(x->ex->file, x->v.table_off + b * 4, &far, 4, PLT_IO_L1, NULL);
		}
	return r;
}

int vhd_mend_copies(struct vhd_exam *x, struct plt_error *err)
{
	const struct vhd_copy *t = &x->ends.tail, *h = &x->ends.head;
	uint64_t at = t->state == VHD_COPY_NONE || x->ends.displaced ? x->ends.file_size : plt_align_down(t->off, VHD_SECTOR);
	bool head = h->state == VHD_COPY_GOOD && !memcmp(&h->f, &x->v.footer, VHD_FOOTER);
	bool tail = t->state == VHD_COPY_GOOD && t->len == VHD_FOOTER && !x->ends.displaced &&
		    !memcmp(&t->f, &x->v.footer, VHD_FOOTER);
	int r = 0;

	if (t->state == VHD_COPY_GOOD && t->len < VHD_FOOTER && vhd_is_creator(&t->f, "vpc "))
		tail = true; /* that is how Virtual PC wrote them */
	at = plt_align_up(PLT_MAX(at, tail ? 0 : x->end), VHD_SECTOR);
	if (!tail && t->state == VHD_COPY_NONE)
		r = name_cut_blocks(x);
	if (r == 0 && !tail && t->state == VHD_COPY_BAD && at > t->off) /* in the midst of a block; it read as zeros until now */
		r = plt_store_zero(x->ex->file, t->off, PLT_MIN(x->ends.file_size - t->off, (uint64_t)VHD_FOOTER), 0,
				   PLT_IO_OTHER, NULL);
	if (r == 0 && !tail)
		r = keep_bad_entries(x, at + VHD_FOOTER);
	if (r == 0 && !tail)
		r = put(x, at, &x->v.footer);
	if (r == 0 && !head)
		r = put(x, 0, &x->v.footer);
	x->ex->mend->changed |= !tail || !head;
	return r < 0 ? plt_error_set(err, -r, "mending the footers") : 0;
}
