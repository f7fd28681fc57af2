/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Was a layer left out of a chain (`rebase -u`)?  It stands on what the image stands on, and nobody stands on it; but so do
 * all images that were made of one template.  What tells them apart is what the image has of it:
 *
 * Sectors.  Who writes over a layer leaves sectors as that had them: what was copied to fill a unit, what was written again.
 * An image of its own has such sectors from the template below, where the other one has changed them.
 *
 * Files.  Who writes over a layer writes to files that were made there: what the image holds lies in blocks that are some
 * file's by what the filesystem says over the layer, and nobody's over what is recorded.
 *
 * And over the layer the guest's metadata verify no worse than over what is recorded (if they do not verify over that, this
 * alone is enough): those of two images of one template, put on each other, do not.  A name that is left in the image says that
 * it was recorded once.  If more than one could be it, none is: then they are images of a template that have done the same.
 * And whatever speaks for it, what it holds and does not show has to be something: after a safe rebase it is nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "guestfs/weigh.h"
#include "repair/parent/links.h"
#include "repair/parent/parent.h"

#define BLOCK 4096u
#define SECTORS_MANY 64 /* if it was written to since the image was made, as a copy seems to be */
#define FILES 3         /* blocks of its files that the image holds */
#define FILES_OUTWEIGH 8 /* to one block that is a file's only where the image stands now */
#define FEW 4           /* of which each is weighed, whatever its sectors say */
#define CHUNK (64u << 10)
#define RANGES_MAX (1u << 20)
#define HELD_MAX (UINT64_C(1) << 30) /* bytes of the image that are held against files */

/* The image as it would be on another. */
struct stacked {
	struct plt_disk *up, *below;
};

static int read_below(struct plt_disk *below, uint64_t off, uint8_t *buf, size_t len)
{
	uint64_t size = plt_disk_size(below), there = off < size ? PLT_MIN((uint64_t)len, size - off) : 0;

	memset(buf + there, 0, len - there);
	return there ? plt_read(below, off, buf, there, NULL) : 0;
}

static int read_stacked(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct stacked *s = arg;
	const uint64_t end = off + len;
	uint8_t *to = buf;
	int r = 0;

	while (off < end && r == 0) {
		struct plt_extent e;
		size_t part;
		unsigned n;

		r = plt_status(s->up, off, end - off, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST, &e, 1, &n, NULL);
		if (r < 0 || !n)
			return r < 0 ? r : -EIO;
		part = (size_t)PLT_MIN(e.off + e.len - off, end - off);
		r = e.flags & PLT_EXTENT_PRESENT ? plt_read(s->up, off, to, part, NULL) : read_below(s->below, off, to, part);
		off += part;
		to += part;
	}
	return r;
}

/* What the guest says of a disk: how much of it verifies, and where files lie in what the image holds. */
struct said {
	const struct plt_extents *own;
	struct plt_weighed w;
	struct plt_range *v;
	size_t n, cap;
	struct plt_extents files;
};

static void fact(void *arg, struct plt_guestfs *fs, const struct plt_fact *f)
{
	struct said *s = arg;

	(void)fs;
	if (!plt_extents_overlaps(s->own, f->off, f->len))
		return;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 1024;
		void *v = s->cap < RANGES_MAX ? realloc(s->v, cap * sizeof(*s->v)) : NULL;

		if (!v)
			return; /* (it says less) */
		s->v = v;
		s->cap = cap;
	}
	s->v[s->n++] = (struct plt_range){ f->off, f->len };
}

static int by_off(const void *a, const void *b)
{
	const struct plt_range *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static int ask_guest(const struct plt_guest *disk, const struct plt_extents *own, struct said *ret, struct plt_error *err)
{
	const struct plt_weigh how = { .fact = fact, .arg = ret };
	int r;

	*ret = (struct said){ .own = own };
	r = plt_guest_weigh(disk, &how, &ret->w, err);
	if (ret->n)
		qsort(ret->v, ret->n, sizeof(*ret->v), by_off);
	for (size_t i = 0; i < ret->n && r == 0; i++)
		if (plt_extents_add(&ret->files, ret->v[i].off, ret->v[i].len) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
	free(ret->v);
	ret->v = NULL;
	return r;
}

static int ask_over(struct plt_disk *up, struct plt_disk *below, const struct plt_extents *own, struct said *ret,
		    struct plt_error *err)
{
	struct stacked s = { up, below };
	const struct plt_guest g = { .read = read_stacked, .arg = &s, .size = plt_disk_size(up) };

	return ask_guest(&g, own, ret, err);
}

/* Blocks with something in them that the image holds, and that are a file's over the one and nobody's over the other. */
static void count_files(struct plt_disk *up, const struct plt_extents *own, const struct said *over, const struct said *now,
			uint64_t *ret_for, uint64_t *ret_against)
{
	uint64_t left = HELD_MAX;
	uint8_t buf[BLOCK];

	for (size_t i = 0; i < own->n; i++)
		for (uint64_t at = (own->v[i].off + BLOCK - 1) / BLOCK * BLOCK; at + BLOCK <= own->v[i].off + own->v[i].len && left;
		     at += BLOCK) {
			bool a = plt_extents_overlaps(&over->files, at, BLOCK), b = plt_extents_overlaps(&now->files, at, BLOCK);

			left -= BLOCK;
			if (a == b || plt_read(up, at, buf, BLOCK, NULL) < 0 || plt_is_zero(buf, BLOCK))
				continue;
			*(a ? ret_for : ret_against) += 1;
		}
}

struct looking {
	struct plt_disk *now, *below;
	struct plt_child up;
	struct plt_likeness *down, *like;
	struct plt_traces traces;
	struct said said;          /* of the image as it is */
	bool asked;
};

/* Does the guest's metadata verify over it, and (@files) do files lie where the image holds something? */
static int weigh(struct looking *k, struct plt_disk *other, bool *files, bool *ret_fits, struct plt_error *err)
{
	struct said over = { 0 };
	uint64_t n = 0, against = 0;
	int r = 0;

	if (!k->asked)
		r = ask_over(k->now, k->below, &k->up.own, &k->said, err);
	k->asked = true;
	if (r == 0)
		r = ask_over(k->now, other, &k->up.own, &over, err);
	*ret_fits = over.w.bad <= k->said.w.bad;
	if (r == 0 && *files && *ret_fits)
		count_files(k->now, &k->up.own, &over, &k->said, &n, &against);
	/* (what does not verify now, and would, is as good) */
	*files = (n >= FILES && against * FILES_OUTWEIGH <= n) ||
		 (*files && k->said.w.bad && !over.w.bad && over.w.good >= k->said.w.good);
	plt_extents_release(&over.files);
	return r;
}

/* Is it the one?  @before: it was written last before the image was made. */
static int judge(struct looking *k, struct plt_disk *other, const char *name, bool before, bool few, bool *ret,
		 struct plt_error *err)
{
	const struct plt_candidate c = { .name = (char *)(uintptr_t)name };
	bool files = false, fits = false;
	int r = plt_likeness_find(&k->up, other, k->like, err);

	*ret = false;
	if (r < 0)
		return r;
	*ret = plt_likeness_is_over(k->like, k->down, before ? PLT_LEFT_OUT_SECTORS : SECTORS_MANY) ||
	       (before && plt_traces_name(&k->traces, &k->up, &c));
	if (!*ret && before && few)
		files = plt_likeness_is_over(k->like, k->down, 0);
	if (!*ret && !files)
		return 0;
	r = weigh(k, other, &files, &fits, err);
	*ret = r == 0 && fits && (*ret || files);
	return r;
}

/* Pages of [off, off+len) that are not the same on both. */
static int compare(struct plt_disk *a, struct plt_disk *b, uint64_t off, uint64_t len, uint8_t *buf, struct plt_extents *ret)
{
	uint8_t *other = buf + CHUNK;
	int r = 0;

	for (uint64_t end = off + len, n; off < end && r == 0; off += n) {
		n = PLT_MIN(end - off, CHUNK - off % CHUNK);
		if (read_below(a, off, buf, (size_t)n) < 0 || read_below(b, off, other, (size_t)n) < 0) {
			r = plt_extents_add(ret, off, n);
			continue;
		}
		for (uint64_t at = 0, m; at < n && r == 0; at += m) {
			m = PLT_MIN(n - at, BLOCK - (off + at) % BLOCK);
			if (memcmp(buf + at, other + at, (size_t)m))
				r = plt_extents_add(ret, off + at, m);
		}
	}
	return r;
}

int plt_left_out_differs(struct plt_disk *over, struct plt_disk *down, const struct plt_extents *own, struct plt_extents *ret,
			 struct plt_error *err)
{
	struct plt_child it = { .alone = over };
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(2 * CHUNK);
	uint64_t left = HELD_MAX;
	int r = buf ? plt_child_own(&it, err) : -ENOMEM;

	for (size_t i = 0; i < own->n && r == 0; i++)
		r = plt_extents_remove(&it.own, own->v[i].off, own->v[i].len);
	for (size_t i = 0; i < it.own.n && r == 0; i++) {
		const struct plt_range *v = &it.own.v[i];

		r = v->len <= left ? compare(over, down, v->off, v->len, buf, ret) : plt_extents_add(ret, v->off, v->len);
		left -= PLT_MIN(left, v->len);
	}
	plt_extents_release(&it.own);
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}

/* The one of @v that it is, opened; those that are not are closed again. */
static int find(struct looking *k, int64_t made, const struct plt_idle *v, unsigned n, struct plt_left_out *ret,
		struct plt_error *err)
{
	unsigned fit = 0;
	int r = 0;

	for (unsigned i = 0; i < n && r == 0; i++) {
		struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
		const bool known = made >= 0 && v[i].written >= 0;
		struct plt_disk *other;
		bool it;

		o.format = v[i].format;
		o.flags = PLT_OPEN_FORCE_SHARE;
		if (plt_disk_open(k->up.ctx, v[i].name, &o, &other, NULL) < 0)
			continue;
		r = judge(k, other, v[i].name, known && v[i].written <= made, n <= FEW, &it, err);
		fit += it;
		/* (the same second tells little where nothing else does) */
		if (r == 0 && ((it && fit == 1) || (n == 1 && known && v[i].written < made))) {
			*ret = (struct plt_left_out){ .name = v[i].name, .disk = other, .sure = it };
			continue;
		}
		plt_disk_close(other, NULL);
	}
	if (fit > 1)
		ret->name = NULL;
	return r;
}

int plt_left_out_find(struct plt_ctx *ctx, struct plt_disk *now, struct plt_disk *down, int64_t made, const struct plt_idle *v,
		      unsigned n, struct plt_left_out *ret, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(now);
	struct looking k = { .now = now, .below = down,
			     .up = { .ctx = ctx, .alone = now, .name = img->name, .backing = img->backing_name } };
	int r = plt_child_own(&k.up, err);

	*ret = (struct plt_left_out){ 0 };
	k.down = calloc(1, sizeof(*k.down));
	k.like = calloc(1, sizeof(*k.like));
	if (!k.down || !k.like || plt_traces_read(&k.up, &k.traces) < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_likeness_find(&k.up, down, k.down, err);
	if (r == 0)
		r = find(&k, made, v, n, ret, err);
	if (r == 0 && ret->name)
		r = plt_left_out_differs(ret->disk, down, &k.up.own, &ret->differ, err);
	if (!ret->differ.n)
		ret->name = NULL;
	plt_disk_close(ret->disk, NULL);
	plt_extents_release(&k.up.own);
	plt_extents_release(&k.said.files);
	plt_traces_release(&k.traces);
	free(k.down);
	free(k.like);
	return r;
}
