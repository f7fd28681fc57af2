/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Opening images: from a tree of options to a layer with its chain below it.  What the user named is opened
 * as asked; what an image names goes through the policy, is opened read-only (a data file excepted), and may
 * not lead in a circle.
 */
#include <string.h>
#include <sys/stat.h>

#include "block/node.h"
#include "formats/name.h"
#include "formats/policy.h"
#include "formats/probe.h"
#include "io/mapfile.h"

static int check_loop(struct plt_store *st, struct plt_opening *how, struct plt_error *err)
{
	struct stat sb;
	int fd = plt_store_origin(st);

	if (fd < 0 || fstat(fd, &sb) < 0)
		return 0;
	how->dev = sb.st_dev;
	how->ino = sb.st_ino;
	how->have_id = true;
	for (const struct plt_opening *p = how->parent; p; p = p->parent)
		if (p->have_id && p->dev == how->dev && p->ino == how->ino)
			return plt_error_set(err, ELOOP, "'%s' appears twice in the chain of backing files", st->name);
	return 0;
}

static int open_backing(struct plt_image *img, json_t *tree, struct plt_opening *how, struct plt_error *err)
{
	json_t *child = json_object_get(tree, "backing"), *named = NULL;
	struct plt_open_options opts = { .size = sizeof(opts) };
	struct plt_opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	struct plt_rescue_options rescue;
	PLT_AUTOFREE char *full = NULL;
	int r;

	opts.flags = how->opts->flags & (PLT_OPEN_FORCE_SHARE | PLT_OPEN_INSPECT | PLT_OPEN_SHARE_RAW |
					 PLT_OPEN_NO_KEY | PLT_OPEN_RESCUE | PLT_OPEN_ZERO_LOST | PLT_OPEN_NESTED_RESCUE);
	if (how->opts->flags & PLT_OPEN_RESCUE_BELOW)
		opts.flags |= PLT_OPEN_RESCUE | PLT_OPEN_NESTED_RESCUE;
	if (opts.flags & PLT_OPEN_NESTED_RESCUE && inner.depth > PLT_RESCUED_BELOW_MAX)
		opts.flags &= ~(unsigned)(PLT_OPEN_RESCUE | PLT_OPEN_ZERO_LOST | PLT_OPEN_NESTED_RESCUE);
	opts.cache = how->opts->cache;
	if (how->write_layer == 1)
		opts.flags |= PLT_OPEN_WRITE;
	else if (how->write_layer)
		inner.write_layer = how->write_layer - 1;
	opts.rescue = plt_rescue_below(how->opts->rescue, &rescue);
	if (how->opts->flags & (PLT_OPEN_NO_BACKING | PLT_OPEN_INSPECT) || json_is_null(child) ||
	    (json_is_string(child) && !*json_string_value(child)))
		return 0;
	if (json_is_object(child) && (json_object_get(child, "file") || !img->backing_name)) {
		/* given by the user: no policy */
		opts.format = plt_node_string(child, "driver");
		r = plt_node_open_image(img->ctx, child, &inner, &img->engine->backing, err);
	} else if (child && !json_is_object(child)) {
		return plt_error_set(err, EINVAL, "references to other nodes are not supported here");
	} else {
		if (!img->backing_name)
			return 0;
		r = img->drv->find_backing ? img->drv->find_backing(img, err) : 0;
		if (r == 0)
			r = plt_name_resolve(plt_image_base(img), img->backing_name, &full, err);
		if (r == 0 && !img->engine->own_refs)
			r = plt_policy_check(img->ctx->policy, img->ctx->allow_dirs, "backing file", full, err);
		if (r == 0)
			r = plt_name_parse(full, false, &named, err);
		if (r == 0) {
			if (child) /* options of the user for what the image names */
				r = json_object_update(named, child) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
			else if (img->backing_format && *img->backing_format)
				opts.format = img->backing_format;
		}
		if (r == 0) {
			r = plt_node_open_image(img->ctx, named, &inner, &img->engine->backing, err);
		}
		json_decref(named);
	}
	if (r == 0 && img->drv->check_backing)
		r = img->drv->check_backing(img, img->engine->backing, err);
	/* each layer adds its words, as in QEMU, until the reason would be pushed out at the other end */
	if (r < 0 && err && strlen(err->text) < sizeof(err->text) / 2)
		plt_error_prefix(err, "Could not open backing file");
	return r;
}

static int open_driver(struct plt_image *img, json_t *tree, struct plt_opening *how, struct plt_error *err)
{
	const struct plt_open_options *o = how->opts;
	struct plt_open_how h = {
		.writable = img->writable,
		.check = o->flags & PLT_OPEN_CHECK,
		.no_refs = o->flags & PLT_OPEN_INSPECT,
		.no_key = o->flags & PLT_OPEN_NO_KEY,
		.snapshot = o->snapshot, .snapshot_id = o->snapshot_id, .snapshot_name = o->snapshot_name,
	};
	struct plt_opts *opts = NULL;
	json_t *data = json_object_get(tree, "data-file");
	int r = plt_node_options(tree, img->drv, o->options, &opts, err);

	if (r == 0)
		img->engine->key = plt_node_key(tree, img->drv, o->options);

	if (r == 0 && data && !h.no_refs) {
		struct plt_opening d = { .opts = o, .parent = how, .depth = how->depth + 1 };

		r = plt_node_open_file(img->ctx, data, &d, &h.data_file, err);
	}
	if (r == 0) {
		h.opts = opts;
		r = img->drv->open(img, &h, err);
	}
	plt_store_unref(h.data_file);
	plt_opts_free(opts);
	return r;
}

/* The file as its map (NULL: none) says that it could be read. */
static int open_medium(struct plt_store *file, const char *path, struct plt_store **ret, struct plt_error *err)
{
	struct plt_mapfile map;
	int r = path ? plt_mapfile_read(path, &map, err) : 0;

	if (r < 0 || !path)
		return r < 0 ? r : plt_medium_new(file, NULL, ret, err);
	r = plt_medium_new(file, &map, ret, err);
	plt_mapfile_release(&map);
	return r;
}

/* What a repair would make of @file, which is locked before it is looked at. */
static int plan_rescue(struct plt_ctx *ctx, struct plt_store *file, const json_t *tree, const char *name, const char *format,
		       struct plt_opening *how, struct plt_rescue_plan *ret, struct plt_error *err)
{
	const struct plt_driver *drv = format ? plt_driver_find(format) : NULL;
	PLT_AUTOFREE char *key = NULL;
	struct plt_rescue_options opts = PLT_RESCUE_OPTIONS_INIT;
	int r = drv ? 0 : plt_probe(file, &drv, err);

	if (how->opts->rescue)
		opts = *how->opts->rescue;
	opts.deep |= how->depth < opts.deep_layers;
	if (r == 0)
		r = plt_image_lock(file, drv, how->opts, err);
	if (r == 0)
		key = plt_node_key(tree, drv, how->opts->options);
	if (r == 0)
		r = plt_rescue_plan_make(ctx, file, name, format, key, &opts, how->opts->flags, ret, err);
	return r;
}

static void fill_image(struct plt_image *img, struct plt_ctx *ctx, const struct plt_driver *drv, struct plt_store *file,
		       const struct plt_opening *how)
{
	const unsigned flags = how->opts->flags;

	pthread_mutex_init(&img->lock, NULL);
	img->ctx = ctx;
	img->drv = drv;
	img->file = plt_store_ref(file);
	img->disk = PLT_DISK_ACTIVE;
	img->writable = flags & PLT_OPEN_WRITE;
	img->unordered = flags & PLT_OPEN_UNORDERED;
	img->inactive = flags & PLT_OPEN_INSPECT;
	img->engine->depth = how->depth;
	img->engine->own_refs = flags & PLT_OPEN_OWN_REFS;
	(void)plt_cache_mode_flags(how->opts->cache, &img->engine->file_flags, NULL);
	if (flags & PLT_OPEN_FORCE_SHARE)
		img->engine->file_flags |= PLT_FILE_NO_LOCK;
}

/* Rescue: the backing file is not where it is recorded, and is known by what it is and what it holds. */
static bool find_backing_again(struct plt_image *img, struct plt_opening *how, struct plt_error *err)
{
	struct plt_open_options opts = { .size = sizeof(opts) };
	struct plt_opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	const struct plt_rescue_options *given = how->opts->rescue;
	PLT_AUTOFREE char *name = NULL, *format = NULL, *text = NULL;
	struct plt_rescue_options rescue;
	enum plt_certainty certainty;
	struct plt_image *found = NULL;
	json_t *tree = NULL;

	if (plt_rescue_parent(img, given, &name, &format, &certainty, NULL) <= 0 || plt_name_parse(name, false, &tree, NULL) < 0)
		return false;
	opts.flags = how->opts->flags & (PLT_OPEN_FORCE_SHARE | PLT_OPEN_SHARE_RAW | PLT_OPEN_NO_KEY | PLT_OPEN_RESCUE |
					 PLT_OPEN_ZERO_LOST | PLT_OPEN_NESTED_RESCUE);
	opts.cache = how->opts->cache;
	opts.format = format;
	opts.rescue = plt_rescue_below(given, &rescue);
	if (plt_node_open_image(img->ctx, tree, &inner, &found, NULL) == 0 &&
	    (!img->drv->check_backing || img->drv->check_backing(img, found, NULL) == 0) &&
	    asprintf(&text, "'%s': its backing file '%s' is not there, or is another one; '%s' is taken for it (%s)", img->name,
		     img->backing_name ? img->backing_name : "", name, plt_certainty_name(certainty)) >= 0) {
		struct plt_check_finding f = { .id = "C-LOST", .severity = "corruption", .text = text, .beyond_qemu = true,
					       .mended = true, .image = img->name };

		plt_image_close(img->engine->backing, NULL);
		img->engine->backing = plt_steal(&found);
		if (certainty < PLT_PROVEN && img->engine->backing->engine->rescue)
			plt_image_doubt(img->engine->backing, PLT_INFERRED, 0, UINT64_MAX, certainty,
					"the backing file was found by its content");
		if (given && given->found)
			given->found(given->found_arg, &f);
		if (!(how->opts->flags & PLT_OPEN_NESTED_RESCUE))
			plt_ctx_warn(img->ctx, "%s", text);
	}
	plt_image_close(found, NULL);
	json_decref(tree);
	if (text && err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	return text;
}

/*
 * Rescue: the backing file has another id than is recorded, as one has whose own was lost and made anew; and what both hold
 * says that it is the one.
 */
static bool keep_backing(struct plt_image *img, const struct plt_open_options *o, struct plt_error *err)
{
	char fits[240], text[600];
	struct plt_check_finding f = { .id = "V-PARENT", .severity = "corruption", .text = text, .beyond_qemu = true,
				       .mended = true, .image = img->name };

	if (!img->engine->backing || !plt_rescue_fits(img, fits, sizeof(fits)))
		return false;
	snprintf(text, sizeof(text), "'%.100s': its backing file '%.100s' has another unique id than it records, and its content is "
		 "the one's (strong: %s)", img->name, img->engine->backing->name, fits);
	if (img->engine->backing->engine->rescue)
		plt_image_doubt(img->engine->backing, PLT_INFERRED, 0, UINT64_MAX, PLT_STRONG,
				"its unique id is not the one that the image above records");
	if (o->rescue && o->rescue->found)
		o->rescue->found(o->rescue->found_arg, &f);
	if (err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	return true;
}

/* Rescue: a backing file that is missing, or is another one, costs what lies in it and no more. */
static int do_without_backing(struct plt_image *img, const struct plt_open_options *o, int error, struct plt_error *err)
{
	const struct plt_rescue_options *opts = o->rescue;
	struct plt_error why = PLT_ERROR_INIT;
	struct plt_check_finding f = { .id = "C-OPEN", .severity = "corruption", .text = why.text, .beyond_qemu = true,
				       .image = img->name };

	plt_error_set(&why, -error, "'%s': what lies in its backing file is lost: %s", img->name,
		      err && err->text[0] ? err->text : strerror(-error));
	plt_image_close(img->engine->backing, NULL);
	img->engine->backing = NULL;
	img->engine->rescue->base_gone = true;
	if (opts && opts->found)
		opts->found(opts->found_arg, &f);
	if (!(o->flags & PLT_OPEN_NESTED_RESCUE))
		plt_ctx_warn(img->ctx, "%s", why.text);
	if (err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	return 0;
}

/* Over an open store, and the plan (NULL: none) that has made it of the file, which is taken over. */
static int open_planned(struct plt_ctx *ctx, struct plt_store *file, json_t *tree, const char *name,
			const char *format, struct plt_opening *how, struct plt_rescue_plan *plan, uint64_t file_size,
			struct plt_image **ret, struct plt_error *err)
{
	const struct plt_driver *drv = NULL;
	struct plt_image *img;
	bool guessed = false;
	int r;

	if (format) {
		drv = plt_driver_find(format);
		if (!drv)
			return plt_error_set(err, EINVAL, "Unknown driver '%s'", format);
	} else {
		r = plt_probe(file, &drv, err);
		if (r < 0)
			return r;
		guessed = true;
	}
	r = plt_image_lock(file, drv, how->opts, err);
	if (r < 0)
		return r;
	img = calloc(1, sizeof(*img));
	if (!img || plt_engine_new(img) < 0 || !(img->name = strdup(name))) {
		if (img)
			plt_engine_free(img->engine);
		free(img);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	fill_image(img, ctx, drv, file, how);
	img->engine->guard_probe = guessed && drv->flags & PLT_DRIVER_NO_HEADER;
	/* (a plain disk ends where its file does, rounded up to a sector) */
	img->file_end = plan && !(drv->flags & PLT_DRIVER_NO_HEADER) ? file_size : UINT64_MAX;
	img->rescued = plan;
	if (plan && plt_rescue_new(img, plan, how->opts->flags & PLT_OPEN_ZERO_LOST) < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	else
		r = open_driver(img, tree, how, err);
	if (r < 0) {
		img->drv = NULL; /* its open has released what it took */
		plt_image_close(img, NULL);
		return plt_error_default(err, -r, "'%s' (%s)", name, drv->name);
	}
	r = open_backing(img, tree, how, err);
	if (img->engine->rescue && (r == -ENOENT || r == -ENOTDIR || r == -ENOMEDIUM || r == -ESTALE))
		r = (r == -ESTALE && keep_backing(img, how->opts, err)) || find_backing_again(img, how, err) ? 0 :
		    do_without_backing(img, how->opts, r, err);
	if (r == 0 && img->inactive && how->opts->flags & PLT_OPEN_FIND_BACKING && drv->find_backing)
		r = drv->find_backing(img, err);
	if (r < 0) {
		plt_image_close(img, NULL);
		return r;
	}
	if (img->engine->guard_probe && img->writable)
		plt_ctx_warn(ctx, "WARNING: Image format was not specified for '%s' and probing guessed %s.\n"
			     "         Automatically detecting the format is dangerous for raw images, write "
			     "operations on block 0 will be restricted.\n"
			     "         Specify the '%s' format explicitly to remove the restrictions.", name, drv->name,
			     drv->name);
	if (img->engine->guard_probe && !plan && plt_probe_lost(ctx, file, true, &drv, NULL) == 0)
		plt_ctx_warn(ctx, "'%s' looks like a %s image whose header is gone, and is taken for %s: 'check' and 'repair' "
			     "know more, --rescue shows it", name, drv->name, img->drv->name);
	img->has_backing = img->backing_name || img->engine->backing;
	plt_skip_init(img);
	*ret = img;
	return 0;
}
/* A node that changes how the one below it is used: that one, used so. */
static int open_filter(struct plt_ctx *ctx, json_t *tree, struct plt_opening *how, struct plt_image **ret,
		       struct plt_error *err)
{
	static const char *const known[] = { "driver", "file", "node-name", "read-only", "auto-read-only", "cache",
					     "discard", "detect-zeroes", "force-share", NULL };
	const char *driver = plt_node_string(tree, "driver"), *key;
	json_t *file = json_object_get(tree, "file"), *v;
	struct plt_open_options opts = *how->opts;
	struct plt_opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	bool readonly;
	int r = plt_node_bool(tree, "read-only", &readonly, err);

	json_object_foreach(tree, key, v) {
		unsigned i;

		for (i = 0; known[i] && strcmp(known[i], key); i++)
			;
		if (r == 0 && !known[i])
			r = plt_error_set(err, EINVAL, "Block driver '%s' does not support the option '%s'", driver, key);
	}
	if (r < 0)
		return r;
	if (!json_is_object(file))
		return plt_error_set(err, EINVAL, "A block device must be specified for \"file\"");
	if (inner.depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "more than %d layers", PLT_MAX_DEPTH);
	if (readonly || !(opts.flags & PLT_OPEN_WRITE))
		return plt_error_set(err, EACCES, "Block node is read-only");
	opts.format = NULL;
	opts.flags |= PLT_OPEN_COPY_ON_READ;
	return plt_node_open_image(ctx, file, &inner, ret, err);
}

/* @plan is taken over if it comes to that. */
static int open_plan(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, json_t *tree,
		     const char *name, struct plt_opening *how, struct plt_image **ret, struct plt_error *err)
{
	struct plt_store *shown = plt_store_ref(plan->overlay);
	PLT_AUTOFREE char *format = strdup(plan->format);
	int r = format ? open_planned(ctx, shown, tree, name, format, how, plan, file_size, ret, err) :
			 plt_error_set(err, ENOMEM, "out of memory");

	plt_store_unref(shown);
	return r;
}

/* Over an open store; takes a reference of its own. */
static int open_on_store(struct plt_ctx *ctx, struct plt_store *file, json_t *tree, const char *name,
			 const char *format, struct plt_opening *how, struct plt_image **ret, struct plt_error *err)
{
	const char *map = how->opts->rescue ? how->opts->rescue->map : NULL;
	struct plt_rescue_plan plan = { 0 };
	struct plt_store *medium = NULL;
	uint64_t size;
	int r;

	if (how->depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "'%s': more than %d layers", name, PLT_MAX_DEPTH);
	r = check_loop(file, how, err);
	if (r < 0)
		return r;
	if (!(how->opts->flags & PLT_OPEN_RESCUE))
		return open_planned(ctx, file, tree, name, format, how, NULL, 0, ret, err);
	if (format && !plt_driver_find(format))
		return plt_error_set(err, EINVAL, "Unknown driver '%s'", format);
	r = plt_store_size(file, &size, err);
	if (r == 0)
		r = open_medium(file, map, &medium, err);
	if (r == 0)
		r = plan_rescue(ctx, medium, tree, name, format, how, &plan, err);
	if (r == 0)
		plt_medium_blank(medium, PLT_BLANK_TABLES);
	if (r == 0) {
		plan.medium = plt_store_ref(medium);
		plan.map = map ? strdup(map) : NULL;
		r = !map || plan.map ? 0 : plt_error_set(err, ENOMEM, "out of memory");
	}
	if (r == 0)
		r = open_plan(ctx, &plan, size, tree, name, how, ret, err);
	plt_rescue_plan_release(&plan);
	if (r == 0 && plt_medium_is_bad(medium)) {
		r = plt_unread_find(ctx, *ret, size, err);
		if (r < 0)
			plt_image_close(*ret, NULL);
	}
	plt_store_unref(medium);
	return r;
}

int plt_node_open_image(struct plt_ctx *ctx, json_t *tree, struct plt_opening *how, struct plt_image **ret,
			struct plt_error *err)
{
	PLT_AUTOFREE char *name = plt_name_text(tree);
	const char *driver = plt_node_string(tree, "driver");
	struct plt_open_options opts = *how->opts;
	json_t *file = json_object_get(tree, "file");
	struct plt_store *st;
	bool readonly = false;
	int r;

	if (!name)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (how->depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "'%s': more than %d layers", name, PLT_MAX_DEPTH);
	if (driver && opts.format && plt_name_is_protocol(opts.format) && file && plt_node_string(file, "driver") &&
	    !strcmp(plt_node_string(file, "driver"), opts.format))
		opts.format = driver; /* it was meant for the bytes, which this node shows */
	if (driver && opts.format && strcmp(driver, opts.format))
		return plt_error_set(err, EINVAL, "Driver specified twice");
	if (!driver)
		driver = opts.format;
	r = plt_node_bool(tree, "read-only", &readonly, err);
	if (r == 0)
		r = plt_node_cache(tree, &opts, err);
	if (r < 0)
		return r;
	if (readonly && opts.flags & PLT_OPEN_WRITE)
		return plt_error_set(err, EACCES, "'%s' is to be opened read-only and is to be written", name);
	if (driver && !strcmp(driver, "copy-on-read"))
		return open_filter(ctx, tree, how, ret, err);
	if (driver && plt_name_is_protocol(driver)) { /* the bytes themselves, as a disk */
		driver = "raw";
		if (plt_node_string(tree, "driver") || !file) {
			file = tree;
			tree = NULL;
		}
	}
	if (!file)
		return plt_error_set(err, EINVAL, "A block device must be specified for \"file\"");
	how->opts = &opts;
	r = plt_node_open_file(ctx, file, how, &st, err);
	if (r < 0)
		return r;
	r = open_on_store(ctx, st, tree, name, driver, how, ret, err);
	plt_store_unref(st);
	if (r == 0 && opts.flags & PLT_OPEN_COPY_ON_READ)
		plt_image_shown(*ret)->engine->copy_on_read = true;
	return r;
}

int plt_image_open_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			 const struct plt_open_options *opts, struct plt_image **ret, struct plt_error *err)
{
	struct plt_opening how = { .opts = opts };

	return open_on_store(ctx, file, NULL, name, format, &how, ret, err);
}

int plt_image_open_planned(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, const char *name,
			   const struct plt_open_options *opts, struct plt_image **ret, struct plt_error *err)
{
	struct plt_opening how = { .opts = opts };
	int r = open_plan(ctx, plan, file_size, NULL, name, &how, ret, err);

	plt_rescue_plan_release(plan);
	return r;
}

int plt_image_open(struct plt_ctx *ctx, json_t *tree, const struct plt_open_options *opts, unsigned write_layer,
		   struct plt_image **ret, struct plt_error *err)
{
	struct plt_opening how = { .opts = opts, .write_layer = write_layer };

	return plt_node_open_image(ctx, tree, &how, ret, err);
}
