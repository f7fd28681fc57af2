/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * From hits to objects.  A header is followed into what it says of the rest of its image, as if that lay in one
 * piece behind it; where the format has a check, the check says how much of it is there.  Superblocks that speak of
 * one volume become one object, tables that belong to an image that was found belong to it, and what cannot be told
 * from chance is left out.  Work is bounded: so many images are checked, and a check is bounded by what its image
 * holds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/internal.h"
#include "convert/scan.h"

#define CHECKED_MAX 256
#define TABLE_MAX (16u << 20) /* bytes of a VHD's table that are looked at: 8 TiB in blocks of 2 MiB */
#define CHAIN_MIN 3           /* blocks in a row that are no chance */

static void drop(struct scan_item *it)
{
	it->o.what = NULL;
}

static void say(struct scan_item *it, const char *text)
{
	size_t n = strlen(it->detail);

	snprintf(it->detail + n, sizeof(it->detail) - n, "%s%s", n ? "; " : "", text);
}

static void sweep(struct plt_scan *s)
{
	size_t k = 0;

	for (size_t i = 0; i < s->hits.n; i++)
		if (s->hits.v[i].o.what)
			s->hits.v[k++] = s->hits.v[i];
	s->hits.n = k;
}

/* ---- images ---------------------------------------------------------------------------------- */

/* A VHD by its first footer: how long it is, by its table.  -ENOENT: this is no beginning. */
static int vhd_length(struct plt_scan *s, uint64_t off, uint64_t *ret)
{
	PLT_AUTOFREE uint8_t *table = NULL;
	uint8_t f[SCAN_SECTOR], h[1024];
	uint64_t data, at, bs, bitmap, end;
	uint32_t n;

	if (plt_read(s->disk, off, f, sizeof(f), NULL) < 0)
		return -EIO;
	data = plt_get_be64(f + 16);
	if (data < SCAN_SECTOR || data > 1 << 20 || !plt_in_range(off + data, sizeof(h), s->size) ||
	    plt_read(s->disk, off + data, h, sizeof(h), NULL) < 0 || memcmp(h, "cxsparse", 8))
		return -ENOENT;
	at = plt_get_be64(h + 16);
	n = plt_get_be32(h + 28);
	bs = plt_get_be32(h + 32);
	if (!plt_is_pow2(bs) || bs < SCAN_SECTOR || n > TABLE_MAX / 4 || at > s->size ||
	    !plt_in_range(off + at, 4 * (uint64_t)n, s->size))
		return -EUCLEAN;
	table = malloc(4 * (size_t)n + 1);
	if (!table)
		return -ENOMEM;
	if (n && plt_read(s->disk, off + at, table, 4 * (size_t)n, NULL) < 0)
		return -EIO;
	bitmap = plt_align_up(plt_div_up(bs / SCAN_SECTOR, UINT64_C(8)), SCAN_SECTOR);
	end = PLT_MAX(plt_align_up(at + 4 * (uint64_t)n, SCAN_SECTOR), data + sizeof(h));
	for (uint32_t i = 0; i < n; i++) {
		uint32_t e = plt_get_be32(table + 4 * (size_t)i);

		if (e != UINT32_MAX)
			end = PLT_MAX(end, (uint64_t)e * SCAN_SECTOR + bitmap + bs);
	}
	*ret = end + SCAN_SECTOR;
	return 0;
}

static void check_image(struct plt_scan *s, struct scan_item *it, uint64_t len)
{
	struct plt_check_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *w;
	int r;

	if (plt_window_new(s->store, it->o.offset, len, &w, NULL) < 0)
		return;
	r = plt_check_store(s->ctx, w, "scan", it->o.what, NULL, NULL, &res, &err);
	plt_store_unref(w);
	if (r < 0) {
		it->o.errors = 1;
		say(it, "it cannot be examined: the rest of it does not lie here");
		return;
	}
	if (!it->o.length)
		it->o.length = PLT_MIN(res.image_end_offset, s->size - it->o.offset);
	it->o.errors = (unsigned)PLT_MIN(res.corruptions + res.added + res.check_errors, UINT64_C(1000000));
	it->o.carvable = it->o.length > 0;
	if (it->o.errors)
		say(it, "not all of it lies here in one piece");
}

static void judge_fixed(struct plt_scan *s, struct scan_item *it)
{
	struct plt_super super;
	uint8_t boot[SCAN_SECTOR];
	bool like = plt_super_first(&s->guest, it->o.offset, &super);

	if (!like && plt_read(s->disk, it->o.offset, boot, sizeof(boot), NULL) == 0)
		like = boot[510] == 0x55 && boot[511] == 0xaa;
	it->o.carvable = like;
	if (!like)
		say(it, "no disk begins where its beginning should be");
}

static void judge_images(struct plt_scan *s)
{
	unsigned checked = 0;

	for (size_t i = 0; i < s->hits.n; i++) {
		struct scan_item *it = &s->hits.v[i];
		uint64_t left = s->size - PLT_MIN(it->o.offset, s->size), len = 0;
		bool vpc = !strcmp(it->o.what, "vpc");
		int r = 0;

		if (it->o.kind != PLT_SCAN_IMAGE)
			continue;
		if (vpc && it->o.length) {
			judge_fixed(s, it);
			continue;
		}
		if (vpc) {
			it->o.count = 0;
			r = vhd_length(s, it->o.offset, &len);
			if (r == -ENOENT) {
				drop(it); /* the copy at the end of one, or of nothing */
				continue;
			}
			it->o.length = r == 0 ? PLT_MIN(len, left) : 0;
		}
		if (++checked > CHECKED_MAX) {
			say(it, "not examined: there are too many");
		} else if (r == 0 && (vpc || !strcmp(it->o.what, "qcow2") || !strcmp(it->o.what, "qcow"))) {
			check_image(s, it, vpc ? it->o.length : left);
		} else if (!strcmp(it->o.what, "vdi") && it->o.length) {
			it->o.carvable = it->o.length <= left;
			it->o.length = PLT_MIN(it->o.length, left);
		} else {
			it->o.errors += r < 0;
			say(it, r < 0 ? "its table cannot be read" : "how far it reaches is not known");
		}
	}
	sweep(s);
}

/* ---- volumes --------------------------------------------------------------------------------- */

static bool ambiguous(unsigned kind)
{
	return kind == PLT_SUPER_NTFS || kind == PLT_SUPER_FAT || kind == PLT_SUPER_EXFAT;
}

static int by_volume(const void *a, const void *b)
{
	const struct scan_item *x = a, *y = b;

	if (x->o.kind != y->o.kind)
		return (int)x->o.kind - (int)y->o.kind;
	if (x->o.offset != y->o.offset)
		return x->o.offset < y->o.offset ? -1 : 1;
	if (x->fsid != y->fsid)
		return x->fsid < y->fsid ? -1 : 1;
	if (x->o.count != y->o.count)
		return x->o.count < y->o.count ? -1 : 1;
	return (int)x->o.copy - (int)y->o.copy;
}

static void judge_volumes(struct plt_scan *s)
{
	struct scan_item *v = s->hits.v;

	if (s->hits.n)
		qsort(v, s->hits.n, sizeof(*v), by_volume);
	for (size_t i = 0, j; i < s->hits.n; i = j) {
		struct plt_super super = { 0 };

		j = i + 1;
		if (v[i].o.kind != PLT_SCAN_FILESYSTEM)
			continue;
		while (j < s->hits.n && v[j].o.kind == PLT_SCAN_FILESYSTEM && v[j].o.offset == v[i].o.offset &&
		       v[j].fsid == v[i].fsid && v[j].o.count == v[i].o.count)
			drop(&v[j++]);
		super.kind = (uint8_t)v[i].o.count;
		super.at = v[i].o.size;
		super.start = v[i].o.offset;
		super.size = v[i].o.length;
		super.copy = v[i].o.copy;
		super.fsid = v[i].fsid;
		if ((v[i].o.copy || ambiguous(super.kind)) && j - i < 3 && plt_super_verify(&s->guest, &super) <= 0) {
			drop(&v[i]);
			continue;
		}
		v[i].o.count = j - i;
		v[i].o.size = 0;
		if (v[i].o.length > s->size - v[i].o.offset) {
			v[i].o.length = s->size - v[i].o.offset;
			v[i].o.errors = 1;
			say(&v[i], "its end is missing");
		}
		v[i].o.carvable = v[i].o.length > 0;
		if (v[i].o.copy)
			say(&v[i], "its beginning is damaged: found by a copy of its superblock");
	}
	sweep(s);
}

/* ---- partitions ------------------------------------------------------------------------------ */

struct view {
	struct plt_scan *s;
	uint64_t start;
};

static int view_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct view *v = arg;

	return plt_read(v->s->disk, v->start + off, buf, len, NULL);
}

static void add_parts(struct plt_scan *s, uint64_t start, uint64_t size, uint64_t table)
{
	struct view v = { s, start };
	struct plt_guest g = { .read = view_read, .arg = &v, .size = size };
	struct plt_part *parts = calloc(PLT_PARTS_MAX, sizeof(*parts));
	unsigned n = 0;
	bool sure;

	if (parts && plt_parts_read(&g, parts, &n, &sure) == 0)
		for (unsigned i = 0; i < n; i++) {
			struct scan_item *it = plt_scan_add(&s->hits, PLT_SCAN_PARTITION, "partition", start + parts[i].start,
							    parts[i].len);

			if (!it)
				break;
			it->o.carvable = true;
			snprintf(it->detail, sizeof(it->detail), "number %u of the table at %#" PRIx64, i + 1, table);
		}
	free(parts);
}

static void judge_tables(struct plt_scan *s)
{
	size_t n = s->hits.n;

	for (size_t i = 0; i < n; i++) {
		struct scan_item it = s->hits.v[i];
		uint64_t lba = it.o.count, start;
		bool gpt = it.o.kind == PLT_SCAN_TABLE && !strcmp(it.o.what, "gpt"), other = false;

		if (it.o.kind != PLT_SCAN_TABLE)
			continue;
		start = gpt ? lba > it.o.offset / SCAN_SECTOR ? UINT64_MAX : it.o.offset - lba * SCAN_SECTOR : it.o.offset;
		s->hits.v[i].o.count = 0;
		for (size_t k = 0; k < n; k++)
			other |= s->hits.v[k].o.what && s->hits.v[k].o.kind == PLT_SCAN_TABLE && k != i &&
				 !strcmp(s->hits.v[k].o.what, "gpt") && s->hits.v[k].o.offset == start + SCAN_SECTOR;
		if (!gpt && other) {
			drop(&s->hits.v[i]); /* the one that protects a GPT */
			continue;
		}
		if (start == UINT64_MAX || (gpt && lba != 1 && other))
			continue; /* the copy at the end */
		add_parts(s, start, gpt && lba != 1 ? it.o.offset + SCAN_SECTOR - start : s->size - start, it.o.offset);
	}
	sweep(s);
}

/* ---- what is left ---------------------------------------------------------------------------- */

static bool belongs(const struct plt_scan *s, uint64_t off, const char *format)
{
	for (size_t i = 0; i < s->hits.n; i++) {
		const struct plt_scan_object *o = &s->hits.v[i].o;

		if (o->kind == PLT_SCAN_IMAGE && !strcmp(o->what, format) && !o->errors && off >= o->offset &&
		    off - o->offset < o->length)
			return true;
	}
	return false;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Bitmaps of all ones that lie one block apart. */
static void find_chains(struct plt_scan *s)
{
	static const unsigned strides[] = { 4097, 4104, 1025, 1032 };
	uint64_t *v = s->hits.ones;
	size_t n = s->hits.nones;

	if (n)
		qsort(v, n, sizeof(*v), by_value);
	for (unsigned k = 0; k < PLT_ARRAY_SIZE(strides); k++) {
		uint64_t step = (uint64_t)strides[k] * SCAN_SECTOR;

		for (size_t i = 0; i < n; i++) {
			uint64_t at = v[i], count = 1, prev = at - step;

			if (at >= step && bsearch(&prev, v, n, sizeof(*v), by_value))
				continue; /* not the first of its row */
			for (uint64_t next = at + step; bsearch(&next, v, n, sizeof(*v), by_value); next += step)
				count++;
			if (count >= CHAIN_MIN && !belongs(s, at, "vpc")) {
				struct scan_item *it = plt_scan_add(&s->hits, PLT_SCAN_STRUCTURE, "VHD blocks", at, count * step);

				if (it) {
					it->o.count = count;
					snprintf(it->detail, sizeof(it->detail), "of %u KiB each", k < 2 ? 2048 : 512);
				}
			}
		}
	}
}

static int by_structure(const void *a, const void *b)
{
	const struct plt_scan_object *x = &((const struct scan_item *)a)->o, *y = &((const struct scan_item *)b)->o;
	int c = (int)x->kind - (int)y->kind;

	c = c ? c : strcmp(x->what, y->what);
	return c ? c : x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Runs that a border between two pieces of the pass has cut. */
static void join_runs(struct plt_scan *s)
{
	struct scan_item *last = NULL;

	if (s->hits.n)
		qsort(s->hits.v, s->hits.n, sizeof(*s->hits.v), by_structure);
	for (size_t i = 0; i < s->hits.n; i++) {
		struct scan_item *it = &s->hits.v[i];

		if (it->o.kind != PLT_SCAN_STRUCTURE || !it->o.count)
			continue;
		if (last && last->o.what == it->o.what && it->o.offset - last->o.offset - last->o.length < 1 << 20) {
			last->o.count += it->o.count;
			last->o.length = it->o.offset + it->o.length - last->o.offset;
			drop(it);
			continue;
		}
		last = it;
	}
	sweep(s);
}

static void judge_structures(struct plt_scan *s)
{
	for (size_t i = 0; i < s->hits.n; i++) {
		struct scan_item *it = &s->hits.v[i];

		if (it->o.kind == PLT_SCAN_STRUCTURE &&
		    ((!strcmp(it->o.what, "L2 tables") && belongs(s, it->o.offset, "qcow2")) ||
		     (!strcmp(it->o.what, "VHD dynamic header") && belongs(s, it->o.offset, "vpc"))))
			it->o.length = 0; /* (dropped below: belongs() looks at names) */
	}
	for (size_t i = 0; i < s->hits.n; i++)
		if (s->hits.v[i].o.kind == PLT_SCAN_STRUCTURE && !s->hits.v[i].o.length)
			drop(&s->hits.v[i]);
	sweep(s);
}

void plt_scan_judge(struct plt_scan *s)
{
	judge_images(s);
	judge_volumes(s);
	judge_tables(s);
	judge_structures(s);
	join_runs(s);
	find_chains(s);
}
