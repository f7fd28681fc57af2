/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Actions on persistent dirty bitmaps.  They are carried out on a list in memory, and the driver is then asked for that
 * list as a whole: so several actions are one step on the disk, and one that is refused has changed nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "block/internal.h"

#define GRANULARITY_MIN 512
#define GRANULARITY_USUAL_MIN 4096 /* of what is chosen for the user */
#define GRANULARITY_USUAL_MAX 65536
#define NAME_BYTES_MAX 1023
#define BITMAP_BYTES_MAX (UINT64_C(512) << 20)

/* One bitmap as it is to be: its content that of bitmap @keep, or @bits. */
struct item {
	struct plt_bitmap_info info; /* its name is owned */
	int keep;
	uint64_t *bits;
};

struct job {
	const struct plt_bitmap_action *v;
	unsigned n, failed;
	struct item *items;
	unsigned nitems;
	/* of each action, what it merges from another disk */
	struct item *others;
	uint64_t *others_size;
};

static uint64_t granules(const struct plt_image *img, const struct plt_bitmap_info *info)
{
	return plt_div_up(atomic_load(&img->size), info->granularity);
}

static uint64_t *new_bits(const struct plt_image *img, const struct plt_bitmap_info *info, struct plt_error *err)
{
	/* (zeros of the system: a bitmap with little in it takes little memory) */
	uint64_t *v = plt_alloc_capped(plt_div_up(granules(img, info), 64) + 1, sizeof(*v), BITMAP_BYTES_MAX + sizeof(*v));

	if (!v)
		plt_error_set(err, EFBIG, "The granularity of bitmap '%s' is too small for a disk of %" PRIu64 " bytes",
			      info->name, atomic_load(&img->size));
	return v;
}

static struct item *find(const struct job *j, const char *name, struct plt_error *err)
{
	for (unsigned i = 0; i < j->nitems; i++)
		if (!strcmp(j->items[i].info.name, name))
			return &j->items[i];
	plt_error_set(err, ENOENT, "Dirty bitmap '%s' not found", name);
	return NULL;
}

static int usable(const struct plt_bitmap_info *info, struct plt_error *err)
{
	if (!info->inconsistent)
		return 0;
	return plt_error_set(err, EUCLEAN, "Bitmap '%s' is inconsistent and cannot be used\n"
			     "Try block-dirty-bitmap-remove to delete this bitmap from disk", info->name);
}

/* Its content in memory, to be changed. */
static int own_bits(struct plt_image *img, struct item *it, struct plt_error *err)
{
	uint64_t nbits;
	int r;

	if (it->bits)
		return 0;
	r = img->drv->bitmap_read(img, (unsigned)it->keep, &it->bits, &nbits, err);
	if (r == 0)
		it->keep = -1;
	return r;
}

/* ---- the actions ----------------------------------------------------------------------------- */

static int add(struct plt_image *img, struct job *j, const struct plt_bitmap_action *a, struct plt_error *err)
{
	uint32_t cluster = img->drv->cluster_size ? img->drv->cluster_size(img) : 0, granularity = a->granularity;
	struct item *v, *it;

	if (!granularity)
		granularity = cluster ? PLT_MAX(GRANULARITY_USUAL_MIN, PLT_MIN(cluster, GRANULARITY_USUAL_MAX)) :
					GRANULARITY_USUAL_MAX;
	if (!*a->name)
		return plt_error_set(err, EINVAL, "Bitmap name cannot be empty");
	if (granularity < GRANULARITY_MIN || !plt_is_pow2(granularity))
		return plt_error_set(err, EINVAL, "Granularity must be power of 2 and at least 512");
	if (strlen(a->name) > NAME_BYTES_MAX)
		return plt_error_set(err, EINVAL, "Can't make bitmap '%.64s...' persistent in '%s': Name length exceeds "
				     "maximum (%d characters)", a->name, img->name, NAME_BYTES_MAX);
	if (find(j, a->name, NULL))
		return plt_error_set(err, EEXIST, "Bitmap already exists: %s", a->name);
	v = realloc(j->items, (j->nitems + 1) * sizeof(*v));
	if (!v)
		return plt_error_set(err, ENOMEM, "Out of memory");
	j->items = v;
	it = &v[j->nitems];
	*it = (struct item){ .info = { .name = strdup(a->name), .granularity = granularity, .enabled = true }, .keep = -1 };
	if (!it->info.name)
		return plt_error_set(err, ENOMEM, "Out of memory");
	j->nitems++;
	it->bits = new_bits(img, &it->info, err);
	return it->bits ? 0 : -EFBIG;
}

static void drop(struct job *j, struct item *it)
{
	free(it->info.name);
	free(it->bits);
	memmove(it, it + 1, (size_t)(j->items + j->nitems - it - 1) * sizeof(*it));
	j->nitems--;
}

static int clear(const struct plt_image *img, struct item *it, struct plt_error *err)
{
	uint64_t *bits = new_bits(img, &it->info, err);

	if (!bits)
		return -EFBIG;
	free(it->bits);
	it->bits = bits;
	it->keep = -1;
	return 0;
}

/* Granules of @to that hold any byte of a granule that is set in @bits. */
static void set_alike(const struct plt_image *img, struct item *to, const uint64_t *bits, const struct plt_bitmap_info *from)
{
	uint64_t n = granules(img, from), last = granules(img, &to->info) - 1;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t begin = i * from->granularity / to->info.granularity;
		uint64_t end = ((i + 1) * from->granularity - 1) / to->info.granularity;

		if (!bits[i / 64]) {
			i |= 63;
			continue;
		}
		if (!(bits[i / 64] >> i % 64 & 1))
			continue;
		for (uint64_t k = begin; k <= PLT_MIN(end, last); k++)
			to->bits[k / 64] |= UINT64_C(1) << k % 64;
	}
}

static int merge(struct plt_image *img, struct job *j, unsigned i, struct item *to, struct plt_error *err)
{
	const struct plt_bitmap_action *a = &j->v[i];
	struct item *from = a->source ? &j->others[i] : find(j, a->source_name, err);
	int r;

	if (!from || !from->info.name)
		return plt_error_set(err, ENOENT, "Dirty bitmap '%s' not found", a->source_name);
	r = usable(&to->info, err);
	if (r == 0)
		r = usable(&from->info, err);
	if (r < 0)
		return r;
	if (a->source && j->others_size[i] != atomic_load(&img->size))
		return plt_error_set(err, EINVAL, "Bitmaps are of different sizes (destination size is %" PRIu64
				     ", source size is %" PRIu64 ") and can't be merged", atomic_load(&img->size),
				     j->others_size[i]);
	r = own_bits(img, to, err);
	if (r == 0 && !from->bits) { /* of this image, and stays as it is: only looked at */
		struct item copy = *from;

		r = own_bits(img, &copy, err);
		if (r == 0)
			set_alike(img, to, copy.bits, &copy.info);
		free(copy.bits);
	} else if (r == 0) {
		set_alike(img, to, from->bits, &from->info);
	}
	return r;
}

static int act(struct plt_image *img, struct job *j, unsigned i, struct plt_error *err)
{
	const struct plt_bitmap_action *a = &j->v[i];
	struct item *it = NULL;
	int r = 0;

	if (a->verb != PLT_BITMAP_ADD) {
		it = find(j, a->name, err);
		if (!it)
			return -ENOENT;
		if (a->verb != PLT_BITMAP_REMOVE && a->verb != PLT_BITMAP_MERGE)
			r = usable(&it->info, err);
	}
	if (r < 0)
		return r;
	switch (a->verb) {
	case PLT_BITMAP_ADD:
		return add(img, j, a, err);
	case PLT_BITMAP_REMOVE:
		drop(j, it);
		return 0;
	case PLT_BITMAP_CLEAR:
		return clear(img, it, err);
	case PLT_BITMAP_ENABLE:
	case PLT_BITMAP_DISABLE:
		it->info.enabled = a->verb == PLT_BITMAP_ENABLE;
		return 0;
	case PLT_BITMAP_MERGE:
		return merge(img, j, i, it, err);
	}
	return plt_error_set(err, EINVAL, "There is no such action on bitmaps");
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int list(struct plt_image *img, const struct plt_bitmap_info **ret, unsigned *ret_n)
{
	return img->drv->bitmaps ? img->drv->bitmaps(img, ret, ret_n) : -ENOTSUP;
}

/* What action @i merges from another disk; the item stays empty if there is no such bitmap. */
static int read_other(const struct plt_bitmap_action *a, struct item *ret, uint64_t *ret_size, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(a->source);
	const struct plt_bitmap_info *v = NULL;
	uint64_t nbits;
	unsigned n = 0;
	int r = list(img, &v, &n);

	*ret_size = atomic_load(&img->size);
	if (r == -ENOTSUP)
		return 0;
	for (unsigned i = 0; r == 0 && i < n; i++) {
		if (strcmp(v[i].name, a->source_name) != 0)
			continue;
		ret->info = v[i];
		ret->info.name = strdup(v[i].name);
		if (!ret->info.name)
			return plt_error_set(err, ENOMEM, "Out of memory");
		return v[i].inconsistent ? 0 : img->drv->bitmap_read(img, i, &ret->bits, &nbits, err);
	}
	return plt_error_default(err, -r, "bitmaps");
}

static int take_list(struct plt_image *img, struct job *j, struct plt_error *err)
{
	const struct plt_bitmap_info *v = NULL;
	unsigned n = 0;
	int r = list(img, &v, &n);

	if (r == -ENOTSUP && !img->drv->bitmaps)
		return plt_error_set(err, ENOTSUP, "Can't store persistent bitmaps to %s: Operation not supported", img->name);
	if (r == -ENOTSUP)
		return plt_error_set(err, ENOTSUP, "Can't make bitmap '%s' persistent in '%s': Cannot store dirty bitmaps "
				     "in qcow2 v2 files", j->v[0].name, img->name);
	if (r < 0)
		return plt_error_default(err, -r, "bitmaps of '%s'", img->name);
	j->items = calloc((size_t)n + 1, sizeof(*j->items));
	if (!j->items)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (; j->nitems < n; j->nitems++) {
		struct item *it = &j->items[j->nitems];

		*it = (struct item){ .info = v[j->nitems], .keep = (int)j->nitems };
		it->info.name = strdup(v[j->nitems].name);
		if (!it->info.name)
			return plt_error_set(err, ENOMEM, "Out of memory");
	}
	return 0;
}

/* Behind the gate. */
static int change(struct plt_image *img, void *arg, struct plt_error *err)
{
	struct plt_bitmap_wish *w;
	struct job *j = arg;
	int r = take_list(img, j, err);

	if (r == -ENOTSUP && j->v[0].verb != PLT_BITMAP_ADD)
		r = plt_error_set(err, ENOENT, "Dirty bitmap '%s' not found", j->v[0].name);
	for (j->failed = 0; r == 0 && j->failed < j->n; j->failed++) {
		r = act(img, j, j->failed, err);
		if (r < 0)
			break;
	}
	if (r < 0)
		return r;
	w = calloc((size_t)j->nitems + 1, sizeof(*w));
	if (!w)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (unsigned i = 0; i < j->nitems; i++)
		w[i] = (struct plt_bitmap_wish){ .info = j->items[i].info, .keep = j->items[i].keep,
						 .bits = j->items[i].bits };
	r = img->drv->bitmaps_set(img, w, j->nitems, err);
	free(w);
	return r;
}

int plt_bitmap_change(struct plt_disk *disk, const struct plt_bitmap_action *v, unsigned n, unsigned *ret_failed,
		      struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(disk);
	struct job j = { .v = v, .n = n, .others = calloc((size_t)n + 1, sizeof(*j.others)),
			 .others_size = calloc((size_t)n + 1, sizeof(*j.others_size)) };
	int r = j.others && j.others_size ? 0 : plt_error_set(err, ENOMEM, "Out of memory");

	if (r == 0 && !img->writable)
		r = plt_error_set(err, EBADF, "'%s' is not open for writing", img->name);
	for (; r == 0 && j.failed < n; j.failed++) {
		if (v[j.failed].verb == PLT_BITMAP_MERGE && v[j.failed].source)
			r = read_other(&v[j.failed], &j.others[j.failed], &j.others_size[j.failed], err);
		if (r < 0)
			break;
	}
	if (r == 0 && n)
		r = plt_image_exclusive(img, true, change, &j, err);
	if (ret_failed)
		*ret_failed = j.failed;
	for (unsigned i = 0; i < j.nitems; i++) {
		free(j.items[i].info.name);
		free(j.items[i].bits);
	}
	for (unsigned i = 0; j.others && i < n; i++) {
		free(j.others[i].info.name);
		free(j.others[i].bits);
	}
	free(j.items);
	free(j.others);
	free(j.others_size);
	return r;
}
