/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_coalesce(): one layer less in the middle of a chain, and what the image shows stays.
 *
 *	into the child    what the child does not hold itself of the layer is copied into it; then it is recorded in the
 *	                  child that its backing file is the layer's.  Nobody else's content changes.
 *	into the parent   what the layer holds is copied into the parent, durably; then the same is recorded in the child,
 *	                  after what it shows over the parent has been compared with what it shows over the layer, and
 *	                  where that differs (behind the end of a shorter layer) been copied into it.
 *
 * Both are made of a commit that keeps the layer and of a safe rebase.  At each moment the child stands on the layer or
 * on the parent, and shows the same over both, so a cut anywhere costs nothing and the call can be made again.  What
 * would change or lose content that other images, internal snapshots or bitmaps hold is refused before the first write,
 * and a file is deleted only if asked, and after everything else is durable.
 */
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "formats/name.h"
#include "snapshot/snapshot.h"

/* A layer as it is named on the command line of whoever opens it alone. */
struct member {
	char *name;
	const char *format; /* static */
	uint64_t size;
	bool is_file;       /* a plain one */
	bool has_ids;       /* the format records who the parent is, and when it was written */
};

struct job {
	struct plt_ctx *ctx;
	const struct plt_open_options *open;
	const struct plt_coalesce_options *opts;
	struct member above, child, layer, parent; /* .name NULL: there is none */
	char *link, *above_link;                   /* what is to be recorded in the child; what the one above it records */
	unsigned step;
	/* why not, "" if it can be */
	struct plt_error no_parent, no_child, no_delete;
	uint64_t parent_copied, parent_grown, child_copied;
};

/* ---- who is who ------------------------------------------------------------------------------ */

static int take(struct member *m, const struct plt_image *img)
{
	m->name = strdup(img->name);
	m->format = img->drv->name;
	m->size = atomic_load(&img->size);
	m->is_file = !strcmp(img->file->ops->kind, "file") && strncmp(img->name, "json:", 5);
	m->has_ids = img->drv->identity;
	return m->name ? 0 : -ENOMEM;
}

static char *folder_of(const char *path)
{
	char *copy = strdup(path), *ret = copy ? strdup(dirname(copy)) : NULL;

	free(copy);
	return ret;
}

/* What the layer records as its backing file, as the child has to say it. */
static char *link_text(const struct plt_image *child, const struct plt_image *layer)
{
	const char *name = layer->backing_name;
	PLT_AUTOFREE char *a = folder_of(plt_image_base(child)), *b = folder_of(plt_image_base(layer)), *full = NULL;
	char *abs;

	if (!a || !b)
		return NULL;
	if (*name == '/' || plt_name_has_protocol(name) || !strncmp(name, "json:", 5) || plt_same_path(a, b))
		return strdup(name);
	if (plt_name_resolve(plt_image_base(layer), name, &full, NULL) < 0)
		return NULL;
	abs = realpath(full, NULL);
	return abs ? abs : plt_steal(&full);
}

static int find_members(struct job *j, struct plt_disk *disk, struct plt_error *err)
{
	const char *want = j->opts->layer;
	const struct plt_image *img, *child, *parent;
	unsigned depth = 0;
	int r = 0;

	for (unsigned d = 0; (img = plt_disk_layer(disk, d)) && !depth; d++)
		if (plt_layer_is_file(img, want)) {
			if (!d)
				return plt_error_set(err, EINVAL, "'%s' is the active layer: 'commit' puts it into its backing "
						     "file, 'chain flatten' its backing files into it", want);
			depth = d;
		}
	if (!depth)
		r = plt_layer_find(disk, want, &depth, err);
	if (r < 0)
		return r;
	img = plt_disk_layer(disk, depth);
	child = plt_disk_layer(disk, depth - 1);
	parent = plt_disk_layer(disk, depth + 1);
	if (take(&j->layer, img) < 0 || take(&j->child, child) < 0 || (parent && take(&j->parent, parent) < 0))
		return plt_error_set(err, ENOMEM, "out of memory");
	if (depth > 1) {
		const struct plt_image *above = plt_disk_layer(disk, depth - 2);

		j->above_link = above->backing_name ? strdup(above->backing_name) : NULL;
		if (take(&j->above, above) < 0)
			return plt_error_set(err, ENOMEM, "out of memory");
	}
	if (parent && !img->backing_name)
		return plt_error_set(err, ENOTSUP, "'%s' has a backing file that it does not record", img->name);
	j->link = parent ? link_text(child, img) : NULL;
	return parent && !j->link ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- what may not be lost -------------------------------------------------------------------- */

/* Bits of what an image keeps besides its disk. */
static int judge_layer(struct job *j, struct plt_image *layer, struct plt_error *err)
{
	const struct plt_snapshot_info *s;
	const struct plt_bitmap_info *b;
	const char *name;
	unsigned n = 0;
	int r;

	name = plt_snapshot_that_needs_backing(layer, &r, err);
	if (r < 0)
		return r;
	if (name)
		plt_error_set(&j->no_parent, EBUSY, "'%s': its internal snapshot '%s' reads from '%s', which would change",
			      layer->name, name, j->parent.name ? j->parent.name : "");
	if (layer->drv->snapshots && layer->drv->snapshots(layer, &s, &n) == 0 && n)
		plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: it has the internal snapshot '%s'", layer->name, s->name);
	if (layer->drv->bitmaps && layer->drv->bitmaps(layer, &b, &n) == 0 && n)
		plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: it has the bitmap '%s'", layer->name, b->name);
	if (layer->data && layer->data != layer->file)
		plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: its data is in another file", layer->name);
	if (!j->layer.is_file)
		plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: it is no plain file", layer->name);
	return 0;
}

/* The child is opened for writing for a moment: nobody else may have it, and it has to take the new name. */
static int judge_child(struct job *j, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_image *img;
	struct plt_disk *disk;
	const char *name;
	int r;

	o.format = j->child.format;
	o.flags = PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	r = plt_disk_open(j->ctx, j->child.name, &o, &disk, err);
	if (r < 0)
		return r;
	img = plt_disk_image(disk);
	if (!img->drv->set_backing)
		r = plt_error_set(err, ENOTSUP, "'%s': in an image of the format %s no other backing file can be recorded",
				  img->name, img->drv->name);
	else
		r = img->drv->set_backing(img, j->link, j->parent.format, PLT_BACKING_TRIAL | PLT_BACKING_SAME, err);
	name = r == 0 ? plt_snapshot_that_needs_backing(img, &r, err) : NULL;
	if (name) {
		plt_error_set(&j->no_child, EBUSY, "'%s': its internal snapshot '%s' reads from '%s'", img->name, name,
			      j->layer.name);
		if (j->parent.size > j->layer.size)
			plt_error_set(&j->no_parent, EBUSY, "'%s': its internal snapshot '%s' would show what '%s' has behind the "
				      "end of '%s'", img->name, name, j->parent.name, j->layer.name);
	}
	plt_disk_close(disk, NULL);
	return r;
}

static int add_folder(struct plt_names *folders, const struct member *m)
{
	PLT_AUTOFREE char *dir = m->name && m->is_file ? folder_of(m->name) : NULL;

	for (unsigned i = 0; dir && i < folders->n; i++)
		if (plt_same_path(folders->v[i], dir))
			return 0;
	return dir ? plt_names_add(folders, dir, "") : 0;
}

/* Who else stands on the parent, or on the layer? */
static int judge_others(struct job *j, struct plt_error *err)
{
	struct plt_names folders = { 0 };
	struct plt_chain *all = NULL;
	int r = 0;

	if (add_folder(&folders, &j->parent) < 0 || add_folder(&folders, &j->layer) < 0 || add_folder(&folders, &j->child) < 0)
		r = -ENOMEM;
	for (const char *const *f = j->opts->folders; r == 0 && f && *f; f++)
		r = plt_names_add(&folders, *f, "");
	if (r < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_chain_look(j->ctx, (const char *const *)folders.v, folders.n,
				   PLT_CHAIN_FOLDERS | PLT_CHAIN_HIDDEN | PLT_CHAIN_KNOWN_ONLY, &all, err);
	for (unsigned i = 0; r == 0 && i < all->n; i++) {
		const struct plt_layer *l = &all->layers[i];
		const char *on = l->below >= 0 ? all->layers[l->below].name : NULL;

		if (l->trouble & PLT_LAYER_UNREADABLE) {
			plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: whether '%s', which cannot be opened, depends on it "
				      "is not known", j->layer.name, l->name);
			plt_ctx_warn(j->ctx, "'%s' cannot be opened: whether it depends on what is merged is not known", l->name);
		}
		if (!on)
			continue;
		if (j->parent.name && plt_same_path(on, j->parent.name) && !plt_same_path(l->name, j->layer.name) &&
		    !plt_same_path(l->name, j->child.name))
			plt_error_set(&j->no_parent, EBUSY, "'%s' depends on '%s' too, which would change", l->name, on);
		if (plt_same_path(on, j->layer.name) && !plt_same_path(l->name, j->child.name))
			plt_error_set(&j->no_delete, EBUSY, "'%s' is not deleted: '%s' depends on it too", j->layer.name, l->name);
	}
	plt_chain_free(all);
	plt_names_release(&folders);
	return r;
}

/* ---- what it costs --------------------------------------------------------------------------- */

static int open_member(struct job *j, const struct member *m, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	o.format = m->format;
	o.cache = j->open->cache;
	o.flags = PLT_OPEN_SHARE_RAW;
	return plt_disk_open(j->ctx, m->name, &o, ret, err);
}

static bool is_data(const struct plt_extent *e)
{
	return e->flags & PLT_EXTENT_PRESENT && !(e->flags & PLT_EXTENT_ZERO);
}

/* Data that shows from layer @depth of @m's chain; *ret_new: of it, where the layer below has nothing. */
static int add_up(struct job *j, const struct member *m, unsigned depth, uint64_t *ret, uint64_t *ret_new,
		  struct plt_error *err)
{
	const struct plt_extent *e, *b;
	struct plt_cursor top, below;
	struct plt_disk *disk, *base = NULL;
	int r = open_member(j, m, &disk, err);

	*ret = *ret_new = 0;
	if (r == 0 && !depth) {
		r = open_member(j, &j->parent, &base, err);
		if (r < 0)
			plt_disk_close(disk, NULL);
	}
	if (r < 0)
		return r;
	plt_cursor_init(&top, disk, 0);
	if (base)
		plt_cursor_init(&below, base, PLT_STATUS_TOP_ONLY);
	for (uint64_t pos = 0, end; pos < top.size && r == 0; pos = end) {
		bool there = false;

		r = plt_cursor_at(&top, pos, &e, err);
		if (r < 0)
			break;
		end = e->off + e->len;
		if (!is_data(e) || e->depth != depth)
			continue;
		if (base && pos < below.size) {
			r = plt_cursor_at(&below, pos, &b, err);
			if (r < 0)
				break;
			end = PLT_MIN(end, b->off + b->len);
			there = is_data(b);
		}
		*ret += end - pos;
		*ret_new += there ? 0 : end - pos;
	}
	plt_disk_close(base, NULL);
	plt_disk_close(disk, NULL);
	return r;
}

static int cost(struct job *j, struct plt_error *err)
{
	uint64_t grown;
	int r = add_up(j, &j->child, 1, &j->child_copied, &grown, err);

	if (r == 0 && j->parent.name)
		r = add_up(j, &j->layer, 0, &j->parent_copied, &j->parent_grown, err);
	return r;
}

/* Bytes that are copied, and bytes by which files grow: the child has nothing where it is copied to. */
static int choose(struct job *j, enum plt_coalesce_into *ret, struct plt_error *err)
{
	bool child = !*j->no_child.text, parent = j->parent.name && !*j->no_parent.text;

	*ret = j->opts->into;
	if (*ret == PLT_COALESCE_AUTO)
		*ret = !parent || (child && 2 * j->child_copied <= j->parent_copied + j->parent_grown) ? PLT_COALESCE_CHILD :
				 PLT_COALESCE_PARENT;
	if (*ret == PLT_COALESCE_PARENT && !j->parent.name)
		return plt_error_set(err, EINVAL, "'%s' has no backing file that it could be merged into", j->layer.name);
	if (*ret == PLT_COALESCE_PARENT ? parent : child)
		return 0;
	if (err)
		*err = *ret == PLT_COALESCE_PARENT ? j->no_parent : j->no_child;
	if (j->opts->into == PLT_COALESCE_AUTO && *j->no_parent.text && err && strlen(err->text) + strlen(j->no_parent.text) < 900)
		snprintf(err->text + strlen(err->text), sizeof(err->text) - strlen(err->text), "; and %s", j->no_parent.text);
	return -EBUSY;
}

/* ---- doing it -------------------------------------------------------------------------------- */

/* Of two steps. */
static int half(void *arg, uint64_t done, uint64_t total)
{
	struct job *j = arg;

	return j->opts->progress ? j->opts->progress(j->opts->progress_arg, j->step * total + done, 2 * total) : 0;
}

static int into_parent(struct job *j, struct plt_error *err)
{
	struct plt_commit_options o = PLT_COMMIT_OPTIONS_INIT;
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;

	open.format = j->layer.format;
	open.cache = j->open->cache;
	open.flags = PLT_OPEN_SHARE_RAW;
	o.flags = PLT_COMMIT_KEEP;
	o.rate_limit = j->opts->rate_limit;
	o.progress = half;
	o.progress_arg = j;
	return plt_commit(j->ctx, j->layer.name, &open, &o, err);
}

static int put_on_parent(struct job *j, struct plt_error *err)
{
	struct plt_rebase_options o = PLT_REBASE_OPTIONS_INIT;
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;

	open.format = j->child.format;
	open.cache = j->open->cache;
	open.flags = PLT_OPEN_SHARE_RAW;
	o.backing = j->link;
	o.backing_format = j->parent.format;
	o.backing_cache = j->open->cache;
	o.progress = half;
	o.progress_arg = j;
	return plt_rebase(j->ctx, j->child.name, &open, &o, err);
}

/* Who records when its parent was written last thinks that it has been changed since; it has, and shows the same. */
static void tell_above(struct job *j)
{
	struct plt_rebase_options o = PLT_REBASE_OPTIONS_INIT;
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;
	struct plt_error why = PLT_ERROR_INIT;

	if (!j->above.name || !j->above.has_ids || !j->above_link)
		return;
	open.format = j->above.format;
	o.backing = j->above_link;
	o.backing_format = j->child.format;
	o.flags = PLT_REBASE_UNSAFE;
	if (plt_rebase(j->ctx, j->above.name, &open, &o, &why) < 0)
		plt_ctx_warn(j->ctx, "'%s' will be said to have changed since '%s' was made: %s", j->child.name, j->above.name,
			     why.text);
}

static int delete_layer(struct job *j, struct plt_error *err)
{
	if (unlink(j->layer.name) < 0)
		return plt_error_set(err, errno, "'%s' is merged, and could not be deleted: %s", j->layer.name, strerror(errno));
	if (plt_sync_folder(j->layer.name, err) < 0)
		return -EIO;
	return 0;
}

static int judge(struct job *j, const char *name, struct plt_error *err)
{
	struct plt_open_options o = *j->open;
	struct plt_disk *disk;
	unsigned depth = 0;
	int r;

	o.flags = (o.flags & ~(unsigned)PLT_OPEN_WRITE) | PLT_OPEN_SHARE_RAW;
	r = plt_disk_open(j->ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	r = find_members(j, disk, err);
	while (r == 0 && strcmp(plt_disk_layer(disk, depth)->name, j->layer.name))
		depth++;
	if (r == 0)
		r = judge_layer(j, plt_disk_layer(disk, depth), err);
	plt_disk_close(disk, NULL);
	if (r == 0)
		r = judge_child(j, err);
	if (r == 0)
		r = judge_others(j, err);
	if (r == 0 && j->opts->flags & PLT_COALESCE_DELETE && *j->no_delete.text) {
		if (err)
			*err = j->no_delete;
		return -EBUSY;
	}
	return r < 0 ? r : cost(j, err);
}

static int work(struct job *j, const char *name, struct plt_coalesced *ret, struct plt_error *err)
{
	int r = judge(j, name, err);

	if (r == 0)
		r = choose(j, &ret->into, err);
	if (r < 0)
		return r;
	ret->copied = ret->into == PLT_COALESCE_PARENT ? j->parent_copied : j->child_copied;
	ret->layer = plt_steal(&j->layer.name);
	j->layer.name = strdup(ret->layer);
	ret->child = strdup(j->child.name);
	ret->parent = j->parent.name ? strdup(j->parent.name) : NULL;
	if (!j->layer.name || !ret->child || (j->parent.name && !ret->parent))
		return plt_error_set(err, ENOMEM, "out of memory");
	if (j->opts->flags & PLT_COALESCE_DRY_RUN)
		return 0;
	if (ret->into == PLT_COALESCE_PARENT)
		r = into_parent(j, err);
	j->step = 1;
	if (r == 0)
		r = put_on_parent(j, err);
	if (r < 0)
		return r;
	tell_above(j);
	if (j->opts->flags & PLT_COALESCE_DELETE) {
		r = delete_layer(j, err);
		ret->deleted = r == 0;
	}
	return r;
}

int plt_coalesce(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		 const struct plt_coalesce_options *opts, struct plt_coalesced *ret, struct plt_error *err)
{
	struct job j = { .ctx = ctx, .open = open, .opts = opts };
	int r;

	memset(ret, 0, sizeof(*ret));
	r = work(&j, name, ret, err);
	free(j.above.name);
	free(j.child.name);
	free(j.layer.name);
	free(j.parent.name);
	free(j.link);
	free(j.above_link);
	if (r < 0)
		plt_coalesced_release(ret);
	return r;
}

void plt_coalesced_release(struct plt_coalesced *c)
{
	free(c->layer);
	free(c->child);
	free(c->parent);
	memset(c, 0, sizeof(*c));
}
