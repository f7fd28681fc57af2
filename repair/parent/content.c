/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What the bytes say of a candidate.  Two kinds of evidence, both read only:
 *
 * The guest's metadata on the disk that image and candidate make together.  Over the right parent it verifies; over
 * another version of it, or another disk, pieces that the image holds do not fit those that the candidate does.
 *
 * What a write leaves around itself.  An image whose unit is larger than a guest's write copies the rest of it from its
 * parent, and guests write again what was there; so of the blocks that an image holds some are the same in its parent, and
 * hardly any in another disk.  Zeros say nothing.
 *
 * And when a guest wrote to the candidate last, by the guest's own record (ext's superblock), which no copy and no touch
 * of the file changes: not after the image was made on it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/weigh.h"
#include "repair/parent/parent.h"

#define BLOCK 4096u
#define CHUNK 65536u
#define SECTOR 512u
#define SECTORS_OUTWEIGH 64 /* that one has, one that the other has */
#define COMPARED (PLT_LIKENESS_CHUNKS - 2) /* chunks, all over what the image holds */
#define OUTDONE 8          /* blocks; and so many times those that speak for the other */
#define EXT_SUPER 1024u
#define EXT_WTIME 48u
#define EXT_MAGIC 56u
#define EXTS 32

struct weighing {
	const struct plt_child *child;
	struct plt_candidate *c;
	uint64_t ext[EXTS]; /* where such filesystems begin */
	unsigned next;
};

static void filesystem(void *arg, const struct plt_weighed *fs)
{
	struct weighing *w = arg;

	if (!strncmp(fs->name, "ext", 3) && w->next < EXTS)
		w->ext[w->next++] = fs->start;
}

static void piece(void *arg, uint64_t off, uint64_t len, int verdict)
{
	struct weighing *w = arg;

	if (plt_extents_overlaps(&w->child->own, off, len))
		*(verdict > 0 ? &w->c->own_good : &w->c->own_bad) += 1;
}

static json_t *node(const char *format, const char *file)
{
	return json_pack("{s:s, s:{s:s, s:s%}}", "driver", format, "file", "driver", "file", "filename", file, strlen(file));
}

/* The image on the candidate, whatever it records. */
static int open_both(const struct plt_child *child, const struct plt_candidate *c, struct plt_disk **ret)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	json_t *top = node(child->format, child->name), *below = node(c->format, c->name);
	char *text, *name = NULL;
	int r = -EINVAL; /* (a name that is not UTF-8) */

	if (top && below && *child->id.parent)
		json_object_set_new(top, "parent-check", json_string("off"));
	if (top && below && json_object_set(top, "backing", below) == 0) {
		text = json_dumps(top, JSON_COMPACT);
		if (text && asprintf(&name, "json:%s", text) < 0)
			name = NULL;
		free(text);
		o.flags = PLT_OPEN_FORCE_SHARE;
		r = name ? plt_disk_open(child->ctx, name, &o, ret, NULL) : -ENOMEM;
		free(name);
	}
	json_decref(top);
	json_decref(below);
	return r;
}

/* ---- the same blocks --------------------------------------------------------------------------- */

static void compare_chunk(const struct plt_child *child, struct plt_disk *below, uint64_t off, size_t len, uint8_t *a, uint8_t *b,
			  struct plt_likeness *ret, unsigned chunk)
{
	if (off >= plt_disk_size(below))
		return;
	len = (size_t)PLT_MIN((uint64_t)len, plt_disk_size(below) - off);
	if (plt_read(child->alone, off, a, len, NULL) < 0 || plt_read(below, off, b, len, NULL) < 0)
		return;
	for (size_t at = 0; at + BLOCK <= len; at += BLOCK) {
		if (plt_is_zero(a + at, BLOCK))
			continue;
		ret->blocks++;
		if (!memcmp(a + at, b + at, BLOCK)) {
			ret->same++;
			ret->bits[chunk] |= (uint16_t)(1u << at / BLOCK);
		}
		for (size_t s = at; s < at + BLOCK; s += SECTOR)
			if (!plt_is_zero(a + s, SECTOR) && !memcmp(a + s, b + s, SECTOR))
				ret->sectors[chunk][s / SECTOR / 64] |= UINT64_C(1) << s / SECTOR % 64;
	}
}

/* In chunks that are spread evenly over what the image holds. */
int plt_likeness_find(const struct plt_child *child, struct plt_disk *below, struct plt_likeness *ret, struct plt_error *err)
{
	uint64_t total = plt_extents_total(&child->own), every = PLT_MAX(total / COMPARED, (uint64_t)BLOCK), next = 0, sum = 0, len;
	PLT_AUTOFREE uint8_t *a = plt_alloc_io(CHUNK), *b = plt_alloc_io(CHUNK);
	unsigned n = 0;

	*ret = (struct plt_likeness){ 0 };
	if (!a || !b)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < child->own.n; i++) {
		const struct plt_range *e = &child->own.v[i];

		for (; next < sum + e->len && n < PLT_LIKENESS_CHUNKS; next += PLT_MAX(every, len), n++) {
			uint64_t in = next - sum, off = plt_align_up(e->off + in, BLOCK);

			len = off < e->off + e->len ? PLT_MIN(e->off + e->len - off, (uint64_t)CHUNK) : 0;
			if (len)
				compare_chunk(child, below, off, (size_t)len, a, b, ret, n);
		}
		sum += e->len;
		next = PLT_MAX(next, sum);
	}
	return 0;
}

bool plt_likeness_outdoes(const struct plt_likeness *a, const struct plt_likeness *b)
{
	unsigned more = 0, less = 0;

	for (unsigned i = 0; i < PLT_LIKENESS_CHUNKS; i++) {
		more += (unsigned)__builtin_popcount(a->bits[i] & (unsigned)~b->bits[i]);
		less += (unsigned)__builtin_popcount(b->bits[i] & (unsigned)~a->bits[i]);
	}
	return more >= OUTDONE && less * OUTDONE <= more;
}

bool plt_likeness_is_over(const struct plt_likeness *a, const struct plt_likeness *b, unsigned least)
{
	uint64_t more = 0, less = 0;

	for (unsigned i = 0; i < PLT_LIKENESS_CHUNKS; i++)
		for (unsigned k = 0; k < 2; k++) {
			more += (unsigned)__builtin_popcountll(a->sectors[i][k] & ~b->sectors[i][k]);
			less += (unsigned)__builtin_popcountll(b->sectors[i][k] & ~a->sectors[i][k]);
		}
	return more >= least && less * SECTORS_OUTWEIGH <= more;
}

/* ------------------------------------------------------------------------------------------------ */

static void look_at_times(struct weighing *w, struct plt_disk *below)
{
	uint8_t sb[128];

	for (unsigned i = 0; i < w->next; i++) {
		if (w->ext[i] > plt_disk_size(below) || plt_disk_size(below) - w->ext[i] < EXT_SUPER + sizeof(sb) ||
		    plt_read(below, w->ext[i] + EXT_SUPER, sb, sizeof(sb), NULL) < 0 || plt_get_le16(sb + EXT_MAGIC) != 0xef53)
			continue;
		w->c->guest_time = PLT_MAX(w->c->guest_time, (int64_t)plt_get_le32(sb + EXT_WTIME));
	}
}

int plt_candidate_open(const struct plt_child *child, const struct plt_candidate *c, struct plt_disk **ret)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	o.format = c->format;
	o.flags = PLT_OPEN_FORCE_SHARE;
	return plt_disk_open(child->ctx, c->name, &o, ret, NULL);
}

int plt_candidate_weigh(const struct plt_child *child, struct plt_candidate *c, struct plt_error *err)
{
	struct weighing w = { .child = child, .c = c };
	struct plt_weigh how = { .piece = piece, .fs = filesystem, .arg = &w };
	struct plt_weighed sum = { 0 };
	struct plt_disk *both;
	int r = child->rep ? plt_parent_open_planned(child, c, &both) : open_both(child, c, &both);

	if (r < 0) {
		c->unopened = true;
		return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : 0;
	}
	r = plt_guest_weigh_disk(both, &how, &sum, err);
	c->good = sum.good;
	c->bad = sum.bad;
	if (r == 0) {
		struct plt_disk *below;

		if (plt_candidate_open(child, c, &below) == 0) {
			look_at_times(&w, below);
			c->like = calloc(1, sizeof(*c->like));
			r = c->like ? plt_likeness_find(child, below, c->like, err) : plt_error_set(err, ENOMEM, "out of memory");
			plt_disk_close(below, NULL);
		}
	}
	plt_disk_close(both, NULL);
	c->weighed = r == 0;
	return r;
}
