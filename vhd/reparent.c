/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Another parent for a differencing disk, or none.  A dynamic header is two sectors, and a cut between them would leave
 * neither the old nor the new one: so the new header, and the texts that its locators name, are made durable where nothing
 * was, and the footers, one sector each, are switched to it; as long as they differ, both name a header that is whole.
 * Then the header goes to the old one's place, which nobody reads any more, and the footers follow:
 *
 *	{footer at the new end} -> texts, header -> both footers -> header at the old place -> both footers
 *
 * A disk without a parent is dynamic, and there a block is here whole, whatever its bitmap says: before the switch, zeros
 * go where a bit is clear, durably, and then the bits are set.  That shows the same only if the parent has zeros there:
 * whoever calls has seen to it (PLT_BACKING_SAME).
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/vhd.h"

/* ---- what is to be recorded ------------------------------------------------------------------- */

/* Who the parent is.  One that is not there, and that only is called another name, stays who it was. */
static int identify(struct plt_image *img, const char *name, const char *format, unsigned flags, struct vhd_header *h,
		    struct plt_error *err)
{
	bool raw = !strcmp(format, "raw");
	struct plt_store *st;
	struct vhd_ends e;
	struct stat sb;
	int fd, r = plt_ref_open(img, PLT_REF_PARENT, name, false, false, &st, err);

	if (r == -ENOENT && !(flags & PLT_BACKING_SAME) && raw == plt_is_zero(h->parent_id, sizeof(h->parent_id))) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		return 0;
	}
	if (r < 0)
		return r;
	memset(h->parent_id, 0, sizeof(h->parent_id));
	if (!raw) {
		r = vhd_read_ends(st, &e, err);
		if (r == 0)
			memcpy(h->parent_id, e.use->f.id, sizeof(h->parent_id));
	}
	fd = plt_store_fd(st);
	h->parent_timestamp = plt_be32_make(fd >= 0 && fstat(fd, &sb) == 0 ? vhd_time(sb.st_mtime) : 0);
	plt_store_unref(st);
	return r;
}

static const char *base_of(const struct plt_image *img)
{
	return strncmp(img->name, "json:", 5) ? img->name : img->file->name;
}

/* The header as it will be, but for where the texts are; *ret_len: the room that those take. */
static int plan(struct plt_image *img, const char *name, const char *format, unsigned flags, struct vhd_header *h,
		uint64_t *ret_len, struct plt_error *err)
{
	struct plt_store *trial;
	int r;

	*h = vhd_of(img)->header;
	*ret_len = 0;
	if (!name) {
		memset(h->parent_id, 0, sizeof(h->parent_id));
		memset(h->parent_name, 0, sizeof(h->parent_name));
		memset(h->locator, 0, sizeof(h->locator));
		h->parent_timestamp = plt_be32_make(0);
		return 0;
	}
	r = identify(img, name, format, flags, h, err);
	if (r == 0 && plt_memory_new(NULL, 0, 0, &trial) < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r < 0)
		return r;
	r = vhd_write_locators(trial, h, base_of(img), name, 0, ret_len, err);
	plt_store_unref(trial);
	return r;
}

static int refuse(struct plt_image *img, const char *name, const char *format, unsigned flags, struct plt_error *err)
{
	if (vhd_of(img)->type != VHD_DIFFERENCING)
		return plt_error_set(err, ENOTSUP, "'%s': only a differencing VHD has a parent, and it is made as one", img->name);
	if (!name && !(flags & PLT_BACKING_SAME))
		return plt_error_set(err, ENOTSUP, "'%s': a differencing VHD does without its parent only when all that is read "
				     "from there has been copied", img->name);
	if (name && (!format || (strcmp(format, "raw") && strcmp(format, "vpc") && strcmp(format, "vhd"))))
		return plt_error_set(err, EINVAL, "The parent of a differencing VHD is a VHD or a raw image, not %s",
				     format ? format : "one whose format nobody has said");
	return 0;
}

/* ---- blocks that are here in part ------------------------------------------------------------- */

struct part {
	uint64_t start;
	uint8_t *bits;
};

static bool is_set(const struct vhd_state *v, const uint8_t *bits, uint64_t sector)
{
	unsigned at = sector % 8;

	return bits[sector / 8] & (v->bits_reversed ? 1u << at : 0x80u >> at);
}

/* Zeros where bits are clear.  *ret_some: there are such. */
static int zero_absent(struct plt_image *img, const struct part *p, bool *ret_some, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	uint64_t sectors = v->block_size / VHD_SECTOR, n;
	int r = 0;

	*ret_some = false;
	for (uint64_t s = 0; s < sectors && r == 0; s += n) {
		bool set = is_set(v, p->bits, s);

		for (n = 1; s + n < sectors && is_set(v, p->bits, s + n) == set; n++)
			;
		if (set)
			continue;
		*ret_some = true;
		r = plt_store_zero(img->file, p->start + v->bitmap_bytes + s * VHD_SECTOR, n * VHD_SECTOR, 0, PLT_IO_DATA, err);
	}
	return r;
}

/* One block: its zeros, or (@bits) its bitmap. */
static int complete_block(struct plt_image *img, struct part *p, bool bits, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	bool some = false;
	int r = plt_store_read(img->file, p->start, p->bits, v->bitmap_bytes, PLT_IO_BITMAP, err);

	if (r == 0 && !bits)
		return zero_absent(img, p, &some, err);
	for (uint64_t s = 0; s < v->block_size / VHD_SECTOR && !some; s++)
		some = !is_set(v, p->bits, s);
	if (r < 0 || !some)
		return r;
	memset(p->bits, 0xff, v->bitmap_bytes);
	r = plt_store_write(img->file, p->start, p->bits, v->bitmap_bytes, PLT_IO_BITMAP, err);
	plt_meta_forget(img, p->start, v->bitmap_bytes);
	return r;
}

static int each_block(struct plt_image *img, bool bits, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(v->bitmap_bytes);
	struct part p = { .bits = buf };
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t block = 0; block < v->blocks && r == 0; block++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		uint32_t entry = VHD_UNUSED;
		struct plt_block *b;

		r = plt_meta_get_wait(img, &pins, &vhd_bat_type, v->table_off + block * 4, &b, err);
		if (r == 0)
			entry = vhd_entry_peek(v, b, block);
		plt_pins_drop(&pins);
		if (r < 0 || entry == VHD_UNUSED || vhd_complete(v, block))
			continue;
		p.start = (uint64_t)entry * VHD_SECTOR;
		r = complete_block(img, &p, bits, err);
	}
	return r == 0 && (bits || vhd_rule(img, VHD_RULE_PARENT_ZERO)) ? plt_store_sync(img->file, err) : r;
}

/* ---- the switch -------------------------------------------------------------------------------- */

/* Room of @len bytes behind everything, which no footer is in: *ret. */
static int room(struct plt_image *img, uint64_t len, uint64_t *ret, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t at = plt_align_up(v->used_end, VHD_SECTOR);
	int r = 0;

	if (at + len > v->footer_off) {
		if (!img->file->limits.can_grow)
			return plt_error_set(err, ENOSPC, "'%s': no room for another header before the footer at %#" PRIx64,
					     img->name, v->footer_off);
		r = vhd_move_footer(img, at + len, err);
		if (r < 0)
			return r;
		v->footer_off = at + len;
	}
	/* blocks that were prepared there are not; their bitmaps are not zeros */
	pthread_mutex_lock(&img->lock);
	v->fresh_from = PLT_MAX(v->fresh_from, PLT_MAX(v->pool_end, at + len));
	v->pool = v->pool_end = at + len;
	pthread_mutex_unlock(&img->lock);
	*ret = at;
	return 0;
}

/* Both footers are @f, durably; a failure leaves what they were. */
static int point_at(struct plt_image *img, const struct vhd_footer *f, bool sync, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_footer old = v->footer;
	int r;

	v->footer = *f;
	r = vhd_put_footer(img, v->footer_off, false, err);
	if (r == 0)
		r = vhd_put_footer(img, 0, sync, err);
	if (r == 0) {
		v->ends.head.f = v->footer;
		return 0;
	}
	v->footer = old;
	if (vhd_put_footer(img, 0, true, NULL) == 0)
		(void)vhd_put_footer(img, v->footer_off, false, NULL);
	return r;
}

static int put_header(struct plt_image *img, uint64_t off, const struct vhd_header *h, struct plt_error *err)
{
	int r = plt_store_write(img->file, off, h, sizeof(*h), PLT_IO_HEADER, err);

	if (r == 0 && vhd_rule(img, VHD_RULE_PARENT_HEADER))
		r = plt_store_sync(img->file, err);
	return r;
}

static int switch_parent(struct plt_image *img, const char *name, struct vhd_header *h, uint64_t len, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t home = v->header_off, at = 0, off;
	struct vhd_footer f = v->footer;
	int r = room(img, len + VHD_HEADER, &at, err);

	if (r == 0)
		r = name ? vhd_write_locators(img->file, h, base_of(img), name, at, &off, err) : 0;
	if (r < 0)
		return r;
	off = at + len;
	vhd_header_seal(h);
	f.type = plt_be32_make(name ? VHD_DIFFERENCING : VHD_DYNAMIC);
	f.data_offset = plt_be64_make(off);
	vhd_footer_seal(&f);
	r = put_header(img, off, h, err);
	if (r == 0)
		r = point_at(img, &f, vhd_rule(img, VHD_RULE_PARENT_HOME), err);
	if (r < 0)
		return r;
	/* It is done.  What is left is that the header be where everybody expects it. */
	v->header = *h;
	v->header_off = off;
	f.data_offset = plt_be64_make(home);
	vhd_footer_seal(&f);
	if (put_header(img, home, h, NULL) == 0 && point_at(img, &f, true, NULL) == 0) {
		v->header_off = home;
		off -= VHD_HEADER; /* (that room is free) */
	}
	pthread_mutex_lock(&img->lock);
	v->used_end = PLT_MAX(v->used_end, off + VHD_HEADER);
	pthread_mutex_unlock(&img->lock);
	v->meta_end = PLT_MAX(v->meta_end, v->used_end);
	(void)plt_extents_add(&v->meta, at, off + VHD_HEADER - at); /* (without memory a check of places knows less) */
	return 0;
}

int vhd_set_backing(struct plt_image *img, const char *name, const char *format, unsigned flags, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	PLT_AUTOFREE char *new_name = NULL, *new_format = NULL;
	struct vhd_header h;
	uint64_t len = 0;
	int r;

	name = name && *name ? name : NULL;
	if (!name && v->type != VHD_DIFFERENCING) /* it has none (a last write that failed may have been made, too) */
		return 0;
	r = refuse(img, name, format, flags, err);
	if (r == 0)
		r = plan(img, name, format, flags, &h, &len, err);
	if (r < 0 || flags & PLT_BACKING_TRIAL)
		return r;
	new_name = name ? strdup(name) : NULL;
	new_format = name ? strdup(strcmp(format, "raw") ? "vpc" : "raw") : NULL;
	if (name && (!new_name || !new_format))
		return plt_error_set(err, ENOMEM, "out of memory");
	r = vhd_first_write(img, err);
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	if (r == 0 && !name)
		r = each_block(img, false, err);
	if (r == 0 && !name)
		r = each_block(img, true, err);
	if (r == 0)
		r = switch_parent(img, name, &h, len, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	v->type = name ? VHD_DIFFERENCING : VHD_DYNAMIC;
	v->honoured = name || vhd_is_creator(&v->footer, "tap\0");
	free(img->backing_name);
	free(img->backing_format);
	img->backing_name = plt_steal(&new_name);
	img->backing_format = plt_steal(&new_format);
	vhd_names_free(v->names, v->nnames);
	v->names = NULL;
	v->nnames = 0;
	pthread_mutex_unlock(&img->lock);
	return name ? vhd_parent_names(img->file, &v->header, &v->names, &v->nnames, err) : 0;
}
