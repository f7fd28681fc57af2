/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Disks: the public handle.  It names a disk, not a layer, so that the chain below it can be changed
 * under a caller who keeps the handle.
 */
#include <sys/stat.h>

#include "block/engine.h"
#include "formats/name.h"
#include "formats/policy.h"

static int disk_new(struct plt_image *img, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_disk *d = calloc(1, sizeof(*d));

	if (!d) {
		plt_image_close(img, NULL);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	d->ctx = img->ctx;
	d->top = img;
	*ret = d;
	return 0;
}

static int open_disk(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts, unsigned write_layer,
		     struct plt_disk **ret, struct plt_error *err)
{
	static const struct plt_open_options defaults = PLT_OPEN_OPTIONS_INIT;
	struct plt_open_options o;
	struct plt_image *img = NULL;
	json_t *tree;
	int r;

	if (!opts)
		opts = &defaults;
	o = *opts;
	o.options = NULL; /* they are in the tree then */
	if (opts->flags & PLT_OPEN_FORCE_SHARE && opts->flags & PLT_OPEN_WRITE)
		return plt_error_set(err, EINVAL, "Could not open '%s': force-share=on can only be used with read-only "
				     "images", name);
	if (opts->flags & PLT_OPEN_COPY_ON_READ && !(opts->flags & (PLT_OPEN_WRITE | PLT_OPEN_SCRATCH)))
		return plt_error_set(err, EINVAL, "Could not open '%s': Can't use copy-on-read on read-only device", name);
	if (opts->flags & PLT_OPEN_RESCUE && opts->flags & PLT_OPEN_WRITE)
		return plt_error_set(err, EINVAL, "Could not open '%s': what is rescued is only read", name);
	r = opts->flags & PLT_OPEN_REFERENCE ?
	    plt_policy_check(ctx->policy, ctx->allow_dirs, "backing file", name, err) : 0;
	if (r < 0)
		return r;
	r = plt_name_parse(name, opts->flags & PLT_OPEN_IMAGE_OPTS, &tree, err);
	if (r == 0) {
		if (opts->options)
			r = plt_name_merge(tree, opts->options, err);
		if (r == 0 && opts->flags & PLT_OPEN_SCRATCH)
			r = plt_scratch_open(ctx, tree, &o, &img, err);
		else if (r == 0)
			r = plt_image_open(ctx, tree, &o, write_layer, &img, err);
		json_decref(tree);
	}
	if (r == 0 && !(opts->flags & PLT_OPEN_WRITE)) {
		r = plt_ctx_may_ignore(ctx, img->drv, name, err);
		if (r < 0)
			plt_image_close(img, NULL);
	}
	if (r < 0) {
		/* (that one is said of an image that did open) */
		if (!err || strncmp(err->text, "Failed to load snapshot: ", 25))
			plt_error_prefix(err, "Could not open '%s'", name);
		return r;
	}
	r = disk_new(img, ret, err);
	if (r < 0 || !(opts->flags & PLT_OPEN_RESCUE))
		return r;
	if (!(opts->flags & (PLT_OPEN_IMAGE_OPTS | PLT_OPEN_NESTED_RESCUE)))
		r = plt_rescue_links(*ret, name, opts->rescue, err);
	if (r == 0 && opts->rescue && opts->rescue->donor)
		r = plt_donor_attach(*ret, opts->rescue->donor, err);
	if (r < 0) {
		plt_disk_close(*ret, NULL);
		*ret = NULL;
	}
	return r;
}

int plt_disk_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		  struct plt_disk **ret, struct plt_error *err)
{
	return open_disk(ctx, name, opts, 0, ret, err);
}

/* ---- layers ---------------------------------------------------------------------------------- */

struct plt_image *plt_disk_layer(struct plt_disk *disk, unsigned depth)
{
	struct plt_image *img = disk->top;

	while (img && depth--)
		img = img->engine->backing;
	return img;
}

bool plt_image_is_same(const struct plt_image *a, const struct plt_image *b)
{
	int fa = plt_store_origin(a->file), fb = plt_store_origin(b->file);
	struct stat sa, sb;

	return a->drv == b->drv && fa >= 0 && fb >= 0 && fstat(fa, &sa) == 0 && fstat(fb, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino && atomic_load(&a->size) == atomic_load(&b->size);
}

int plt_disk_open_layer(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts, unsigned depth,
			struct plt_disk **ret, struct plt_disk **ret_layer, struct plt_error *err)
{
	struct plt_disk *disk;
	int r = open_disk(ctx, name, opts, depth, &disk, err);

	if (r < 0)
		return r;
	if (!plt_disk_layer(disk, depth)) {
		plt_disk_close(disk, NULL);
		return plt_error_set(err, ENOENT, "'%s': the chain of backing files has become shorter", name);
	}
	*ret_layer = plt_disk_view_layer(disk, depth);
	if (!*ret_layer) {
		plt_disk_close(disk, NULL);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	*ret = disk;
	return 0;
}

struct plt_disk *plt_disk_view(struct plt_image *img)
{
	struct plt_disk *view = calloc(1, sizeof(*view));

	if (view) {
		view->ctx = img->ctx;
		view->top = img;
	}
	return view;
}

struct plt_disk *plt_disk_view_layer(struct plt_disk *disk, unsigned depth)
{
	struct plt_image *img = plt_disk_layer(disk, depth);

	return img ? plt_disk_view(img) : NULL;
}

void plt_disk_release_layer(struct plt_disk *layer)
{
	free(layer);
}

int plt_disk_open_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			const struct plt_open_options *opts, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_image *img;
	int r = plt_image_open_store(ctx, file, name, format, opts, &img, err);

	if (r < 0) {
		plt_error_prefix(err, "Could not open '%s'", name);
		return r;
	}
	return disk_new(img, ret, err);
}

int plt_disk_open_planned(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, const char *name,
			  const struct plt_snapshot_info *snapshot, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_image *img;
	int r;

	if (snapshot) {
		o.snapshot_id = snapshot->id;
		o.snapshot_name = snapshot->name;
	}
	o.flags = PLT_OPEN_RESCUE | PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_FORCE_SHARE;
	r = plt_image_open_planned(ctx, plan, file_size, name, &o, &img, err);
	return r < 0 ? r : disk_new(img, ret, err);
}

void plt_image_attach_backing(struct plt_image *img, struct plt_image *base)
{
	for (struct plt_image *i = base; i; i = i->engine->backing) /* each deeper than the one above */
		i->engine->depth += img->engine->depth + 1;
	img->engine->backing = base;
	img->has_backing = true;
	plt_skip_init(img);
}

void plt_disk_attach_backing(struct plt_disk *disk, struct plt_disk *base)
{
	plt_image_attach_backing(disk->top, base->top);
	free(base);
}

int plt_disk_close(struct plt_disk *disk, struct plt_error *err)
{
	int r;

	if (!disk)
		return 0;
	r = plt_image_close(disk->top, err);
	plt_disk_close(disk->donor, NULL); /* opened for reading */
	free(disk);
	return r;
}

uint64_t plt_disk_size(const struct plt_disk *disk)
{
	return atomic_load(&disk->top->size);
}

const char *plt_disk_format(const struct plt_disk *disk)
{
	return disk->top->drv->name;
}

const char *plt_disk_name(const struct plt_disk *disk)
{
	return disk->top->name;
}

uint32_t plt_disk_cluster_size(const struct plt_disk *disk)
{
	return disk->top->drv->cluster_size ? disk->top->drv->cluster_size(disk->top) : 0;
}

bool plt_disk_has_backing(const struct plt_disk *disk)
{
	return disk->top->engine->backing != NULL;
}

bool plt_disk_can_compress(const struct plt_disk *disk)
{
	return disk->top->drv->codec && disk->top->drv->codec(disk->top) != PLT_CODEC_NONE;
}

struct plt_image *plt_disk_image(struct plt_disk *disk)
{
	return disk->top;
}

struct plt_ctx *plt_disk_ctx(const struct plt_disk *disk)
{
	return disk->ctx;
}
