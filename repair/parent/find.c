/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_parents_find(): which files may be the backing file that an image has lost.  All images of the folders are looked
 * at by their headers; who is the image itself, or stands on it, is none; and the sixteen that names, headers and
 * times speak for most are weighed by their content.  Nothing is written, and no file is locked.
 */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/name.h"
#include "repair/parent/parent.h"

#define WEIGHED 16
#define SMALLEST 512 /* bytes of a raw file that may be a disk */

struct found {
	struct plt_parents pub;
	struct plt_parent *out;
	struct plt_candidate *v;
	unsigned n, cap;
	char *image, *format;
};

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- the image ----------------------------------------------------------------------------------- */

/* The layer that has lost its backing file; where none has, the image itself. */
static const struct plt_layer *broken(const struct plt_chain *c)
{
	unsigned steps = 0;

	for (int i = 0; c->n && i >= 0 && steps < c->n; i = c->layers[i].below, steps++)
		if (c->layers[i].trouble & (PLT_LAYER_LOST | PLT_LAYER_LOOP | PLT_LAYER_OTHER_FORMAT) ||
		    (c->layers[i].below >= 0 && c->layers[c->layers[i].below].trouble & PLT_LAYER_UNREADABLE))
			return &c->layers[i];
	return c->n ? &c->layers[0] : NULL;
}

int plt_child_own(struct plt_child *child, struct plt_error *err)
{
	struct plt_cursor cur;
	const struct plt_extent *e;
	int r = 0;

	plt_cursor_init(&cur, child->alone, PLT_STATUS_TOP_ONLY);
	for (uint64_t pos = 0; pos < cur.size && r == 0; pos = e->off + e->len) {
		r = plt_cursor_at(&cur, pos, &e, err);
		if (r < 0)
			break;
		if (e->flags & PLT_EXTENT_PRESENT && !(e->flags & (PLT_EXTENT_ZERO | PLT_EXTENT_DAMAGED)) &&
		    plt_extents_add(&child->own, e->off, e->len) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
	}
	return r;
}

static int open_child(struct plt_child *child, const struct plt_layer *l, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_image *img;
	int r;

	if (!l || !l->format)
		return plt_error_set(err, EINVAL, "'%s' cannot be opened%s%s", l ? l->name : "", l && l->why ? ": " : "",
				     l && l->why ? l->why : "");
	if (!l->backing && !l->parent_id)
		return plt_error_set(err, EINVAL, "'%s' has no backing file", l->name);
	child->name = l->name;
	child->format = l->format;
	child->backing = l->backing;
	child->backing_format = l->backing_format;
	child->size = l->virtual_size;
	child->made = l->made;
	child->written = l->written;
	child->id.parent_time = -1;
	o.format = l->format;
	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_FORCE_SHARE;
	r = plt_disk_open(child->ctx, l->name, &o, &child->alone, err);
	if (r < 0)
		return r;
	img = plt_disk_image(child->alone);
	if (img->drv->identity)
		img->drv->identity(img, &child->id);
	return plt_child_own(child, err);
}

/* ---- the candidates ------------------------------------------------------------------------------ */

/* A fixed VHD begins with what its guest wrote, and is taken for raw: not where a VHD is looked for. */
static int take_identity(const struct plt_child *child, struct plt_candidate *c, struct plt_identity *id)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const struct plt_driver *drv = plt_driver_find(c->format);
	bool raw = drv && drv->flags & PLT_DRIVER_NO_HEADER;
	struct plt_disk *disk;
	struct plt_image *img;
	char *format;

	*id = (struct plt_identity){ .parent_time = -1 };
	if (!*child->id.parent)
		return 0;
	o.format = raw ? child->format : c->format;
	o.flags = PLT_OPEN_INSPECT | PLT_OPEN_FORCE_SHARE | PLT_OPEN_NO_KEY;
	if (plt_disk_open(child->ctx, c->name, &o, &disk, NULL) < 0)
		return 0;
	img = plt_disk_image(disk);
	if (img->drv->identity) {
		img->drv->identity(img, id);
		format = raw ? strdup(img->drv->name) : NULL;
		if (raw && format) {
			free(c->format);
			c->format = format;
			c->size = plt_disk_size(disk);
		}
	}
	plt_disk_close(disk, NULL);
	return raw && img->drv->identity && !c->format ? -ENOMEM : 0;
}

static int add(struct found *f, const struct plt_child *child, const struct plt_layer *l, struct plt_error *err)
{
	const char *want = child->backing_format;
	const struct plt_driver *recorded = want ? plt_driver_find(want) : NULL;
	struct plt_identity id;
	struct plt_candidate *c;

	if (f->n == f->cap) {
		unsigned cap = f->cap ? 2 * f->cap : 64;
		struct plt_candidate *v = realloc(f->v, cap * sizeof(*v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		f->v = v;
		f->cap = cap;
	}
	c = &f->v[f->n];
	*c = (struct plt_candidate){ .name = strdup(l->name), .format = strdup(l->format), .size = l->virtual_size,
				     .written = l->written };
	if (c->name && c->format && take_identity(child, c, &id) < 0) {
		free(c->name);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	if (!c->name || !c->format) {
		free(c->name);
		free(c->format);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	f->n++;
	c->same_id = *child->id.parent && !strcmp(child->id.parent, id.own);
	c->other_id = *child->id.parent && !c->same_id;
	/* (some record when the parent was made; blktap leaves it zero) */
	c->same_time = child->id.parent_time >= 0 && c->written == child->id.parent_time;
	c->is_overlay = l->backing;
	c->same_name = child->backing && !strcmp(last_part(child->backing), last_part(l->name));
	c->same_format = !recorded || !strcmp(recorded->name, c->format);
	return 0;
}

bool plt_layer_stands_on(const struct plt_chain *all, unsigned i, const char *image)
{
	int at = (int)i;

	for (unsigned steps = 0; at >= 0 && steps <= all->n; steps++) {
		if (plt_same_path(all->layers[at].name, image))
			return true;
		at = all->layers[at].below;
	}
	return at >= 0; /* a circle */
}

static int collect(struct found *f, const struct plt_child *child, const char *const *folders, unsigned n,
		   struct plt_error *err)
{
	struct plt_chain *all;
	int r = plt_chain_look(child->ctx, folders, n, PLT_CHAIN_FOLDERS | PLT_CHAIN_HIDDEN, &all, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < all->n && r == 0; i++) {
		const struct plt_layer *l = &all->layers[i];

		if (l->format && l->virtual_size >= SMALLEST && !plt_layer_stands_on(all, i, child->name))
			r = add(f, child, l, err);
	}
	plt_chain_free(all);
	return r;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

int plt_candidate_by_first(const void *a, const void *b, void *arg)
{
	int x = plt_candidate_first(arg, a), y = plt_candidate_first(arg, b);

	return x != y ? (x > y ? -1 : 1) : strcmp(((const struct plt_candidate *)a)->name, ((const struct plt_candidate *)b)->name);
}

/* An overlay over which the image was written, and which is no more between the image and what that records. */
static bool speaks(const struct plt_child *child, const struct plt_candidate *c, const struct plt_candidate *recorded)
{
	return c != recorded && c->like && c->is_overlay && c->bad <= recorded->bad && child->made >= 0 && c->written >= 0 &&
	       c->written <= child->made && (c->left_over || plt_likeness_is_over(c->like, recorded->like, PLT_LEFT_OUT_SECTORS));
}

/* The only one that is (of several each is an image of its own), and has what the image does not show now. */
static int find_left_out(const struct plt_child *child, struct plt_candidate *v, unsigned n, struct plt_error *err)
{
	struct plt_candidate *recorded = NULL, *found = NULL;
	struct plt_disk *over = NULL, *down = NULL;
	int r = 0;

	for (unsigned i = 0; i < n; i++)
		recorded = v[i].recorded && v[i].like ? &v[i] : recorded;
	for (unsigned i = 0; i < n && recorded; i++) {
		if (!speaks(child, &v[i], recorded))
			continue;
		if (found)
			return 0;
		found = &v[i];
	}
	if (found && plt_candidate_open(child, found, &over) == 0 && plt_candidate_open(child, recorded, &down) == 0) {
		struct plt_extents differ = PLT_EXTENTS_INIT;

		r = plt_left_out_differs(over, down, &child->own, &differ, err);
		found->left_out = differ.n;
		plt_extents_release(&differ);
	}
	plt_disk_close(over, NULL);
	plt_disk_close(down, NULL);
	return r;
}

static int weigh_all(struct found *f, const struct plt_child *child, struct plt_error *err)
{
	PLT_AUTOFREE char *full = NULL;
	struct plt_traces traces;
	int r = plt_traces_read(child, &traces);

	if (r < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (child->backing && plt_name_resolve(child->name, child->backing, &full, NULL) < 0)
		full = NULL;
	for (unsigned i = 0; i < f->n; i++) {
		f->v[i].recorded = full && plt_same_path(full, f->v[i].name);
		f->v[i].left_over = plt_traces_name(&traces, child, &f->v[i]);
	}
	plt_traces_release(&traces);
	if (f->n)
		qsort_r(f->v, f->n, sizeof(*f->v), plt_candidate_by_first, (void *)(uintptr_t)child);
	for (unsigned i = 0; i < f->n && i < WEIGHED && r == 0; i++)
		if (!f->v[i].other_id || f->v[i].left_over)
			r = plt_candidate_weigh(child, &f->v[i], err);
	if (r == 0)
		r = find_left_out(child, f->v, f->n, err);
	if (r == 0)
		plt_candidates_rank(child, f->v, f->n);
	return r;
}

static int publish(struct found *f, const struct plt_child *child, struct plt_error *err)
{
	f->out = calloc((size_t)f->n + 1, sizeof(*f->out));
	f->image = strdup(child->name);
	f->format = strdup(child->format);
	if (!f->out || !f->image || !f->format)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < f->n; i++) {
		const struct plt_candidate *c = &f->v[i];

		f->out[i] = (struct plt_parent){ c->name, c->format, c->size, c->score, c->certainty, c->why, c->recorded,
						 !c->unopened && (!c->other_id || c->left_out) };
	}
	f->pub = (struct plt_parents){ f->image, f->format, f->out, f->n };
	return 0;
}

/* The folders that were named, that of the image, and that of what is recorded. */
static int find(struct found *f, const struct plt_child *child, const char *const *folders, struct plt_error *err)
{
	PLT_AUTOFREE char *beside = strdup(child->name), *full = NULL;
	const char *v[68];
	unsigned n = 0;
	char *dir;
	int r;

	if (!beside)
		return plt_error_set(err, ENOMEM, "out of memory");
	v[n++] = dirname(beside);
	if (child->backing && plt_name_resolve(child->name, child->backing, &full, NULL) == 0) {
		struct stat sb;

		dir = dirname(full);
		if (!plt_same_path(dir, v[0]) && stat(dir, &sb) == 0 && S_ISDIR(sb.st_mode))
			v[n++] = dir;
	}
	for (; folders && *folders; folders++) {
		bool met = false;

		for (unsigned i = 0; i < n && !met; i++)
			met = plt_same_path(v[i], *folders);
		if (!met && n == PLT_ARRAY_SIZE(v))
			return plt_error_set(err, EINVAL, "too many folders");
		if (!met)
			v[n++] = *folders;
	}
	r = collect(f, child, v, n, err);
	return r < 0 ? r : weigh_all(f, child, err);
}

int plt_parents_find(struct plt_ctx *ctx, const char *name, const char *const *folders, struct plt_parents **ret,
		     struct plt_error *err)
{
	struct plt_child child = { .ctx = ctx };
	struct found *f = calloc(1, sizeof(*f));
	struct plt_chain *chain;
	int r = f ? plt_chain_look(ctx, &name, 1, PLT_CHAIN_SHARE, &chain, err) : plt_error_set(err, ENOMEM, "out of memory");

	if (r < 0) {
		free(f);
		return r;
	}
	r = open_child(&child, broken(chain), err);
	if (r == 0)
		r = find(f, &child, folders, err);
	if (r == 0)
		r = publish(f, &child, err);
	plt_disk_close(child.alone, NULL);
	plt_extents_release(&child.own);
	plt_chain_free(chain);
	if (r < 0)
		plt_parents_free(&f->pub);
	else
		*ret = &f->pub;
	return r;
}

void plt_parents_free(struct plt_parents *p)
{
	struct found *f = (struct found *)p;

	if (!f)
		return;
	for (unsigned i = 0; i < f->n; i++) {
		free(f->v[i].name);
		free(f->v[i].like);
		free(f->v[i].format);
	}
	free(f->v);
	free(f->out);
	free(f->image);
	free(f->format);
	free(f);
}
