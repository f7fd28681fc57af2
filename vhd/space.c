/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Room for blocks.  A block's place is taken from the list of freed ones or from the pool; the pool is
 * filled by moving the footer ahead.  The invariant: at every moment a footer that is durable stands at
 * the end of the file, and nothing is written over it.
 *
 * Also the one walk over the whole BAT, before the first change: it finds where blocks end, and refuses
 * to write into an image in which two blocks share bytes or one lies where nothing may be put: what
 * is written to one would change the other.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/vhd.h"

/* ---- places ---------------------------------------------------------------------------------- */

uint64_t vhd_next_start(const struct vhd_state *v, uint64_t off)
{
	uint64_t unit = v->block_size >= 4096 ? 4096 : VHD_SECTOR;

	return plt_align_up(off + v->bitmap_bytes, unit) - v->bitmap_bytes;
}

bool vhd_take_block(struct plt_image *img, struct vhd_free *ret)
{
	struct vhd_state *v = vhd_of(img);

	if (v->nfree) {
		*ret = v->free[--v->nfree];
	} else if (v->pool < v->pool_end) {
		ret->start = v->pool;
		ret->fresh = v->pool + v->bitmap_bytes >= v->fresh_from;
		v->pool += vhd_stride(v);
	} else {
		return false;
	}
	v->used_end = PLT_MAX(v->used_end, ret->start + vhd_block_len(v));
	v->used++;
	return true;
}

/* Without memory for the list it is lost until the image is opened anew. */
static void add_free(struct vhd_state *v, const struct vhd_free *f)
{
	if (v->nfree == v->free_cap) {
		size_t cap = v->free_cap ? 2 * v->free_cap : 64;
		struct vhd_free *grown = realloc(v->free, cap * sizeof(*grown));

		if (!grown)
			return;
		v->free = grown;
		v->free_cap = cap;
	}
	v->free[v->nfree++] = *f;
}

void vhd_give_block(struct plt_image *img, const struct vhd_free *f)
{
	struct vhd_state *v = vhd_of(img);

	v->used--;
	add_free(v, f);
}

/* ---- the pool -------------------------------------------------------------------------------- */

/* What the bitmap of a block says before anything is in it. */
static int write_bitmap(struct plt_image *img, uint64_t start, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	PLT_AUTOFREE uint8_t *buf = NULL;

	if (v->honoured)
		return plt_store_zero(img->file, start, v->bitmap_bytes, 0, PLT_IO_BITMAP, err);
	buf = malloc(v->bitmap_bytes);
	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	memset(buf, 0xff, v->bitmap_bytes);
	return plt_store_write(img->file, start, buf, v->bitmap_bytes, PLT_IO_BITMAP, err);
}

int vhd_put_footer(struct plt_image *img, uint64_t off, bool sync, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	int r = plt_store_write(img->file, off, &v->footer, sizeof(v->footer), PLT_IO_HEADER, err);

	if (r == 0 && sync)
		r = plt_store_sync(img->file, err);
	return r < 0 ? plt_error_default(err, -r, "'%s': footer", img->name) : 0;
}

int vhd_move_footer(struct plt_image *img, uint64_t to, struct plt_error *err)
{
	static const uint8_t zeros[VHD_FOOTER];
	struct vhd_state *v = vhd_of(img);
	bool first = !v->moved;
	int r;

	v->moved = true;
	if (img->unordered)
		return first ? plt_store_write(img->file, v->footer_off, zeros, VHD_FOOTER, PLT_IO_OTHER, err) : 0;
	r = vhd_put_footer(img, to, vhd_rule(img, VHD_RULE_FOOTER_MOVE), err);
	if (r < 0) { /* half a footer would hide the old one */
		(void)plt_store_truncate(img->file, v->footer_off + VHD_FOOTER, NULL);
		return r;
	}
	/* a second footer in the middle of the file would confuse who looks for one */
	return plt_store_write(img->file, v->footer_off, zeros, VHD_FOOTER, PLT_IO_OTHER, err);
}

/*
 * Before the file grows: a block in a gap.  1: there is one.  Who freed it may not have made that durable
 * (it may have ended in a crash), so that comes first.
 */
static int take_gap(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	const struct plt_range *g;
	struct vhd_free f = { 0 };
	int r;

	while ((g = plt_extents_find(&v->gaps, 0))) {
		uint64_t off = g->off, len = g->len, end;

		f.start = vhd_next_start(v, off);
		end = f.start + vhd_block_len(v);
		r = plt_extents_remove(&v->gaps, off, end > off + len ? len : end - off);
		if (r < 0)
			return plt_error_set(err, ENOMEM, "out of memory");
		if (end > off + len)
			continue; /* too small, or not aligned */
		r = v->gaps_durable ? 0 : plt_store_sync(img->file, err);
		if (r < 0)
			return r;
		v->gaps_durable = true;
		plt_meta_forget(img, f.start, v->bitmap_bytes);
		r = write_bitmap(img, f.start, err);
		if (r < 0)
			return r;
		PLT_LOCK_SCOPE(&img->lock);
		add_free(v, &f);
		return 1;
	}
	return 0;
}

static int extend(struct plt_image *img, uint64_t seen, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t start, n, end, stride = vhd_stride(v), pool, used;
	bool faster;
	int r = 0;

	pthread_mutex_lock(&img->lock); /* others may be taking blocks just now */
	faster = v->pool_end != seen || v->pool < v->pool_end || v->nfree; /* somebody was */
	pool = v->pool;
	used = v->used;
	pthread_mutex_unlock(&img->lock);
	if (faster)
		return 0;
	r = take_gap(img, err);
	if (r != 0)
		return r < 0 ? r : 0;
	start = vhd_next_start(v, pool);
	n = PLT_MIN(PLT_MAX(used / 2, UINT64_C(2)), UINT64_C(64));
	n = PLT_MIN(n, PLT_MAX(v->blocks - PLT_MIN(used, v->blocks), UINT64_C(1)));
	if (!img->file->limits.can_grow)
		while (n && start + (n - 1) * stride + vhd_block_len(v) > v->footer_off)
			n--;
	if (!n)
		return plt_error_set(err, ENOSPC, "'%s': no room for another block before the footer at %#" PRIx64,
				     img->name, v->footer_off);
	end = start + (n - 1) * stride + vhd_block_len(v);
	if (end / VHD_SECTOR >= VHD_UNUSED)
		return plt_error_set(err, EFBIG, "'%s': the file would grow beyond what the table can name", img->name);
	if (end > v->footer_off) {
		r = vhd_move_footer(img, end, err);
		if (r < 0)
			return r;
		v->footer_off = end;
	}
	for (uint64_t i = 0; i < n && r == 0; i++)
		r = write_bitmap(img, start + i * stride, err);
	if (r < 0)
		return r;
	PLT_LOCK_SCOPE(&img->lock);
	v->pool = start;
	v->pool_end = end;
	if (atomic_load(&v->file_end) < end)
		atomic_store(&v->file_end, end);
	return 0;
}

int vhd_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err)
{
	return code == VHD_WORK_EXTEND ? extend(img, arg, err) : vhd_batmap_clear(img, arg, err);
}

/* The entry is gone, durably, and nobody uses the place any more. */
int vhd_release(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct vhd_free f = { .start = host_off };
	int r;

	(void)len;
	(void)kind;
	r = plt_store_discard(img->file, host_off + v->bitmap_bytes, v->block_size, NULL);
	f.fresh = r == 0 && img->file->limits.discard_zeroes;
	plt_meta_forget(img, host_off, v->bitmap_bytes);
	/* other writers' bitmaps may have clear bits */
	r = write_bitmap(img, host_off, err);
	if (r < 0)
		return r;
	PLT_LOCK_SCOPE(&img->lock);
	vhd_give_block(img, &f);
	return 0;
}

/* ---- the whole table ------------------------------------------------------------------------- */

#define SCAN_BYTES (1u << 20)

struct scan {
	uint32_t *used; /* entries in the order of the table */
	size_t n, cap;
	bool ascending;
	bool behind;    /* entries behind the disk's end name places too */
	uint64_t end;
};

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int scan_entry(struct plt_image *img, struct scan *s, uint64_t block, uint32_t entry, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	const char *bad = vhd_entry_bad(v, v->ends.file_size, entry);

	if (block >= v->blocks) { /* behind the disk's end: nobody's, but nothing is put on it either */
		s->behind = true;
		if (!bad)
			s->end = PLT_MAX(s->end, (uint64_t)entry * VHD_SECTOR + vhd_block_len(v));
		return 0;
	}
	if (bad)
		return plt_error_set(err, EUCLEAN, "'%s': BAT entry %" PRIu64 " (sector %#x) %s; the image can be read, "
				     "not written", img->name, block, entry, bad);
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 1024;
		uint32_t *grown = realloc(s->used, cap * sizeof(*grown));

		if (!grown)
			return plt_error_set(err, ENOMEM, "out of memory");
		s->used = grown;
		s->cap = cap;
	}
	if (s->n && entry <= s->used[s->n - 1])
		s->ascending = false;
	s->used[s->n++] = entry;
	s->end = PLT_MAX(s->end, (uint64_t)entry * VHD_SECTOR + vhd_block_len(v));
	return 0;
}

/* What nothing lies in between the blocks; in front of the first there may be what is not known here. */
static int find_gaps(struct vhd_state *v, const struct scan *s, struct plt_error *err)
{
	uint64_t len = vhd_block_len(v);
	int r = 0;

	plt_extents_release(&v->gaps);
	for (size_t i = 1; i < s->n && r == 0; i++) {
		uint64_t from = (uint64_t)s->used[i - 1] * VHD_SECTOR + len, to = (uint64_t)s->used[i] * VHD_SECTOR;

		if (to - from >= len && !plt_extents_overlaps(&v->meta, from, to - from))
			r = plt_extents_add(&v->gaps, from, to - from);
	}
	return r < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

static int scan_overlaps(struct plt_image *img, struct scan *s, struct plt_error *err)
{
	uint64_t len = vhd_block_len(vhd_of(img));

	if (!s->ascending)
		qsort(s->used, s->n, sizeof(*s->used), ascending);
	for (size_t i = 1; i < s->n; i++)
		if ((uint64_t)(s->used[i] - s->used[i - 1]) * VHD_SECTOR < len)
			return plt_error_set(err, EUCLEAN, "'%s': the blocks at sectors %#x and %#x share bytes; the "
					     "image can be read, not written", img->name, s->used[i - 1], s->used[i]);
	return 0;
}

int vhd_scan(struct plt_image *img, uint64_t *ret_used_end, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct scan s = { .ascending = true, .end = v->meta_end };
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t block = 0, n; block < v->entries && r == 0; block += n) {
		enum plt_store_kind kind;

		r = plt_store_extents(img->file, v->table_off + block * 4, (v->entries - block) * 4, &kind, &n, err);
		if (r < 0)
			break;
		n /= 4;
		if (block >= v->blocks && kind == PLT_STORE_HOLE && n)
			continue; /* nobody's entries: what a hole says of them costs no time */
		n = PLT_MIN(PLT_MAX(n, UINT64_C(1)), PLT_MIN(v->entries - block, (uint64_t)SCAN_BYTES / 4));
		r = plt_store_read(img->file, v->table_off + block * 4, buf, n * 4, PLT_IO_L1, err);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint32_t entry = plt_get_be32(buf + i * 4);

			if (entry != VHD_UNUSED)
				r = scan_entry(img, &s, block + i, entry, err);
		}
	}
	if (r == 0)
		r = scan_overlaps(img, &s, err);
	if (r == 0 && !s.behind)
		r = find_gaps(v, &s, err);
	free(s.used);
	v->used = s.n;
	*ret_used_end = s.end;
	return r;
}
