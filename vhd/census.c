/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Blocks by their shape.  A block is a bitmap and its data, blocks lie one behind the other, and where the
 * table still names one, the next one's place follows: so the set of blocks in a file is known without the
 * table, and what no entry names is an orphan.  Nothing here writes, and nothing decides where an orphan
 * belongs.
 *
 * A place is believed by its bitmap: all ones, as nearly everybody writes it, or no sector that holds
 * something without being marked.  Between two blocks that are believed the distance says how many lie there,
 * whatever became of their bitmaps.  Memory: 24 bytes an orphan; the file is read once, holes are not read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/check.h"

/* ---- one place ------------------------------------------------------------------------------- */

/* Where blocks end at the latest. */
static uint64_t limit_of(const struct vhd_exam *x)
{
	return x->ends.tail.state == VHD_COPY_NONE ? x->ends.file_size : x->ends.tail.off;
}

static bool marked(const struct vhd_state *v, const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] & (v->bits_reversed ? 1 << (i & 7) : 0x80 >> (i & 7));
}

/* The data of a block: does anything hold something, and does what does have its bit? */
static int look_at_data(struct vhd_exam *x, uint64_t start, const uint8_t *bits, uint8_t *buf, bool *ret_content,
			bool *ret_fits)
{
	const struct vhd_state *v = &x->v;
	uint64_t from = start + v->bitmap_bytes, end = PLT_MIN(from + v->block_size, limit_of(x)), n;

	*ret_content = false;
	*ret_fits = true;
	for (uint64_t at = from; at < end && *ret_fits && !(*ret_content && !bits); at += n) {
		enum plt_store_kind kind;
		int r = plt_store_extents(x->ex->file, at, end - at, &kind, &n, NULL);

		if (r < 0)
			return r;
		n = PLT_MIN(n, end - at);
		if (kind == PLT_STORE_HOLE && n)
			continue;
		n = PLT_MIN(PLT_MAX(n, UINT64_C(1)), (uint64_t)VHD_CENSUS_BYTES);
		r = plt_store_read(x->ex->file, at, buf, n, PLT_IO_DATA, NULL);
		if (r < 0)
			return r;
		if (plt_is_zero(buf, n))
			continue;
		*ret_content = true;
		for (uint64_t i = 0; bits && i < n; i += VHD_SECTOR)
			if (!marked(v, bits, (at + i - from) / VHD_SECTOR) &&
			    !plt_is_zero(buf + i, PLT_MIN(n - i, (uint64_t)VHD_SECTOR)))
				*ret_fits = false;
	}
	return 0;
}

int vhd_fit_at(struct vhd_exam *x, uint64_t start, uint8_t *buf, enum vhd_fit *ret, bool *ret_content)
{
	const struct vhd_state *v = &x->v;
	PLT_AUTOFREE uint8_t *bits = malloc(v->bitmap_bytes);
	uint32_t used = (v->block_size / VHD_SECTOR + 7) / 8;
	bool ones, content, fits;
	int r = bits ? plt_store_read(x->ex->file, start, bits, v->bitmap_bytes, PLT_IO_BITMAP, NULL) : -ENOMEM;

	*ret = VHD_FIT_NO;
	if (ret_content)
		*ret_content = false;
	if (r < 0)
		return r;
	ones = bits[0] == 0xff && !memcmp(bits, bits + 1, used - 1);
	if (ones && !ret_content) {
		*ret = VHD_FIT_ONES;
		return 0;
	}
	/* the padding behind the bits is all alike */
	if (used < v->bitmap_bytes && ((bits[used] && bits[used] != 0xff) ||
				       memcmp(bits + used, bits + used + 1, v->bitmap_bytes - used - 1)))
		return 0;
	r = look_at_data(x, start, ones ? NULL : bits, buf, &content, &fits);
	if (r < 0)
		return r;
	if (ones)
		*ret = VHD_FIT_ONES;
	else if (fits)
		*ret = content || !plt_is_zero(bits, used) ? VHD_FIT_BITS : VHD_FIT_EMPTY;
	if (ret_content)
		*ret_content = content;
	return 0;
}

/* ---- all places ------------------------------------------------------------------------------ */

struct walk {
	struct vhd_exam *x;
	uint8_t *buf;
	uint64_t packed, aligned; /* from one block to the next, by who wrote them */
};

static int add_orphan(struct walk *w, uint64_t start, enum vhd_fit fit, bool content)
{
	struct vhd_exam *x = w->x;

	if (x->norphans == x->orphans_cap) {
		size_t cap = x->orphans_cap ? 2 * x->orphans_cap : 256;
		struct vhd_orphan *grown = realloc(x->orphans, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		x->orphans = grown;
		x->orphans_cap = cap;
	}
	x->orphans[x->norphans++] = (struct vhd_orphan){ start, fit, content };
	return 0;
}

/* Nothing but a hole from @at on: its end, at most @end. */
static int skip_hole(struct walk *w, uint64_t at, uint64_t end, uint64_t *ret)
{
	enum plt_store_kind kind;
	uint64_t n;
	int r = plt_store_extents(w->x->ex->file, at, end - at, &kind, &n, NULL);

	*ret = r == 0 && kind == PLT_STORE_HOLE ? at + PLT_MIN(n, end - at) : at;
	return r;
}

/* The distance of blocks that leaves the least of @room over. */
static uint64_t back_step(const struct walk *w, uint64_t room)
{
	return room % w->aligned < room % w->packed ? w->aligned : w->packed;
}

/*
 * The room [from, to) between what is known; @after: a block that is believed begins at @to.  Of
 * the places at which the next one may begin the first that is believed counts.  Where none is, a block
 * whose bitmap is damaged is taken for one only if one that is believed follows at its distance.
 */
static int walk_room(struct walk *w, uint64_t from, uint64_t to, bool after)
{
	const struct vhd_state *v = &w->x->v;
	uint64_t len = vhd_block_len(v), at = from, end;
	int r = 0;

	while (at < to && to - at > v->bitmap_bytes && r == 0) {
		uint64_t tries[3] = { at, vhd_next_start(v, at), UINT64_MAX }, step = w->packed;
		enum vhd_fit fit = VHD_FIT_NO;
		bool content = false;
		unsigned i;

		r = skip_hole(w, at, to, &end);
		if (r == 0 && end - at >= len) { /* nothing is there, not even a bitmap */
			at += (end - at) / len * len;
			continue;
		}
		if (after) /* seen from the block behind */
			tries[2] = to - (to - at) / back_step(w, to - at) * back_step(w, to - at);
		for (i = 0; i < 3 && r == 0 && fit < VHD_FIT_BITS; i++) {
			if (tries[i] == UINT64_MAX || tries[i] < at || tries[i] >= to ||
			    to - tries[i] <= v->bitmap_bytes || (after && to - tries[i] < len))
				continue;
			r = vhd_fit_at(w->x, tries[i], w->buf, &fit, &content);
		}
		if (r < 0)
			return r;
		if (fit >= VHD_FIT_BITS) {
			r = add_orphan(w, tries[i - 1], fit, content);
			at = tries[i - 1] + len;
			continue;
		}
		/* is one believed further on?  Then there are blocks in between */
		for (uint64_t next = at; fit < VHD_FIT_BITS && r == 0; ) {
			step = w->aligned != w->packed && vhd_next_start(v, at) == at ? w->aligned : w->packed;
			if (to - next <= step + v->bitmap_bytes)
				break;
			next += step;
			r = skip_hole(w, next, to, &end);
			if (r == 0 && end > next)
				next += (end - next) / step * step;
			if (r < 0 || to - next <= v->bitmap_bytes)
				break;
			r = vhd_fit_at(w->x, next, w->buf, &fit, NULL);
			for (uint64_t b = at; r == 0 && fit >= VHD_FIT_BITS && b < next; b += step) {
				struct plt_extents *meta = &w->x->v.meta;
				enum vhd_fit own;

				if (skip_hole(w, b, next, &end) == 0 && end > b && end - b >= 2 * step)
					b += (end - b) / step * step - step;
				if (plt_extents_overlaps(meta, b, len))
					continue;
				r = vhd_fit_at(w->x, b, w->buf, &own, &content);
				if (r == 0 && content)
					r = add_orphan(w, b, own, content);
			}
			if (fit >= VHD_FIT_BITS)
				at = next;
		}
		if (fit < VHD_FIT_BITS) {
			/* one that ends where the next begins, or where the footer stands */
			if (r == 0 && (after || w->x->ends.tail.state != VHD_COPY_NONE) && to - at >= len && to - at < len + 4096) {
				if (to - vhd_next_start(v, at) >= len)
					at = vhd_next_start(v, at);
				r = vhd_fit_at(w->x, at, w->buf, &fit, &content);
				if (r == 0 && content)
					r = add_orphan(w, at, fit, content);
			}
			break;
		}
	}
	return r;
}

static int by_sector(const void *key, const void *item)
{
	uint64_t start = *(const uint64_t *)key, at = (uint64_t)((const struct vhd_unfit *)item)->u.sector * VHD_SECTOR;

	return start < at ? -1 : start > at;
}

static bool is_unfit(const struct vhd_exam *x, uint64_t start)
{
	return x->nunfit && bsearch(&start, x->unfit, x->nunfit, sizeof(*x->unfit), by_sector);
}

/* Without what metadata lie there. */
static int walk_around_meta(struct walk *w, uint64_t from, uint64_t to, bool after)
{
	struct vhd_exam *x = w->x;
	int r = 0;

	while (from < to && r == 0) {
		const struct plt_range *m = plt_extents_find(&x->v.meta, from);

		if (!m || m->off >= to)
			return walk_room(w, from, to, after);
		if (m->off > from)
			r = walk_room(w, from, m->off, false);
		from = plt_align_up(m->off + m->len, VHD_SECTOR);
	}
	return r;
}

int vhd_find_orphans(struct vhd_exam *x, struct plt_error *err)
{
	struct walk w = { .x = x };
	uint64_t at = VHD_FOOTER, limit = limit_of(x), len = vhd_block_len(&x->v);
	size_t k = 0;
	int r;

	w.packed = len;
	w.aligned = vhd_stride(&x->v);
	w.buf = plt_alloc_io(VHD_CENSUS_BYTES);
	r = w.buf ? 0 : -ENOMEM;
	x->norphans = 0;
	for (size_t i = 0; i < x->n && r == 0; i++) {
		uint64_t start = (uint64_t)x->used[i].sector * VHD_SECTOR;

		if (start < at || is_unfit(x, start))
			continue; /* (of two that overlap the first counts) */
		r = walk_around_meta(&w, at, start, true);
		at = start + len;
	}
	if (r == 0)
		r = walk_around_meta(&w, at, limit, false);
	free(w.buf);
	/* what an entry names is none, however much it is damaged */
	for (size_t i = 0; i < x->norphans; i++)
		if (!is_unfit(x, x->orphans[i].start))
			x->orphans[k++] = x->orphans[i];
	x->norphans = k;
	return r < 0 ? plt_error_set(err, -r, "the search for blocks failed") : 0;
}

/* ---- the guest's own words ------------------------------------------------------------------- */

int vhd_read_guest(struct vhd_exam *x, uint64_t off, void *buf, size_t len)
{
	const struct vhd_state *v = &x->v;
	uint64_t block = off >> v->block_bits, in = off & (v->block_size - 1), start;
	plt_be32 e;
	int r;

	if (v->type == VHD_FIXED)
		return plt_store_read(x->ex->file, off, buf, len, PLT_IO_DATA, NULL);
	if (block >= v->entries)
		return -ENODATA;
	r = plt_store_read(x->ex->file, v->table_off + block * 4, &e, 4, PLT_IO_L1, NULL);
	if (r < 0)
		return r;
	start = (uint64_t)plt_be32_get(e) * VHD_SECTOR;
	if (plt_be32_get(e) == VHD_UNUSED || vhd_entry_bad(v, x->ends.file_size, plt_be32_get(e)))
		return -ENODATA;
	return plt_store_read(x->ex->file, start + v->bitmap_bytes + in, buf, len, PLT_IO_DATA, NULL);
}

static bool is_gpt(const uint8_t *p, uint64_t lba)
{
	uint8_t copy[VHD_SECTOR];
	uint32_t size = plt_get_le32(p + 12);

	if (memcmp(p, "EFI PART", 8) || size < 92 || size > VHD_SECTOR || plt_get_le64(p + 24) != lba)
		return false;
	memcpy(copy, p, VHD_SECTOR);
	memset(copy + 16, 0, 4);
	return crc32(0, copy, size) == plt_get_le32(p + 16);
}

uint64_t vhd_gpt_first_says(struct vhd_exam *x)
{
	uint8_t p[VHD_SECTOR];
	uint64_t last;

	if (vhd_read_guest(x, VHD_SECTOR, p, sizeof(p)) < 0 || !is_gpt(p, 1))
		return 0;
	last = plt_get_le64(p + 32);
	return last < 2 || last >= VHD_MAX_SECTORS ? 0 : (last + 1) * VHD_SECTOR;
}

uint64_t vhd_gpt_size(struct vhd_exam *x)
{
	uint8_t p[VHD_SECTOR], q[VHD_SECTOR];
	uint64_t last = vhd_gpt_first_says(x) / VHD_SECTOR;

	if (!last-- || vhd_read_guest(x, VHD_SECTOR, p, sizeof(p)) < 0 || vhd_read_guest(x, last * VHD_SECTOR, q, sizeof(q)) < 0 ||
	    !is_gpt(q, last) || memcmp(p + 56, q + 56, 16))
		return 0;
	return (last + 1) * VHD_SECTOR;
}
