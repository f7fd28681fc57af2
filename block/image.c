/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Opening and closing images: from a tree of options to a layer with its chain below it.  What the
 * user named is opened as asked; what an image names goes through the policy, is opened read-only
 * (a data file excepted), and may not lead in a circle.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "block/engine.h"
#include "io/journal.h"
#include "io/mapfile.h"
#include "crypt/cipher.h"
#include "formats/name.h"
#include "formats/policy.h"
#include "formats/probe.h"

/* ---- engine ---------------------------------------------------------------------------------- */

int plt_engine_new(struct plt_image *img)
{
	struct plt_engine *eng = calloc(1, sizeof(*eng));

	if (!eng)
		return -ENOMEM;
	eng->img = img;
	pthread_mutex_init(&eng->lock, NULL);
	pthread_cond_init(&eng->gate_opened, NULL);
	pthread_mutex_init(&eng->flush_lock, NULL);
	pthread_mutex_init(&eng->work_lock, NULL);
	img->engine = eng;
	return 0;
}

void plt_engine_free(struct plt_engine *eng)
{
	if (!eng)
		return;
	plt_rescue_free(eng->rescue);
	plt_skip_free(eng);
	free(eng->limbo);
	pthread_cond_destroy(&eng->gate_opened);
	pthread_mutex_destroy(&eng->lock);
	pthread_mutex_destroy(&eng->flush_lock);
	pthread_mutex_destroy(&eng->work_lock);
	free(eng);
}

struct plt_image *plt_image_backing(const struct plt_image *img)
{
	return img->engine->backing;
}

const char *plt_image_base(const struct plt_image *img)
{
	return strncmp(img->name, "json:", 5) ? img->name : img->file->name;
}

bool plt_runs_add(struct plt_runs *runs, const struct plt_run *run)
{
	struct plt_run *last = runs->n ? &runs->v[runs->n - 1] : NULL;

	if (last && last->kind == run->kind && last->flags == run->flags && last->store == run->store &&
	    last->off + last->len == run->off && last->kind != PLT_RUN_COMPRESSED && last->cipher == run->cipher &&
	    (!run->cipher || last->iv_sector + (last->off % PLT_SECTOR + last->len) / PLT_SECTOR == run->iv_sector) &&
	    (!(last->kind == PLT_RUN_DATA || last->flags & PLT_RUN_ALLOCATED) ||
	     last->host_off + last->len == run->host_off)) {
		last->len += run->len;
		return true;
	}
	if (runs->n == runs->cap)
		return false;
	runs->v[runs->n++] = *run;
	return true;
}

/* ---- stores ---------------------------------------------------------------------------------- */

int plt_cache_mode_flags(const char *mode, unsigned *ret, struct plt_error *err)
{
	static const struct {
		const char *name;
		unsigned flags;
	} modes[] = {
		{ "none", PLT_FILE_DIRECT }, { "off", PLT_FILE_DIRECT },
		{ "writeback", 0 }, { "writethrough", PLT_FILE_WRITETHROUGH },
		{ "directsync", PLT_FILE_DIRECT | PLT_FILE_WRITETHROUGH }, { "unsafe", PLT_FILE_UNSAFE },
	};

	*ret = 0;
	if (!mode)
		return 0;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(modes); i++)
		if (!strcmp(mode, modes[i].name)) {
			*ret = modes[i].flags;
			return 0;
		}
	return plt_error_set(err, EINVAL, "Invalid cache option: %s", mode);
}

struct opening {
	const struct plt_open_options *opts;
	const struct opening *parent;  /* the layer whose reference this is */
	dev_t dev;
	ino_t ino;
	bool have_id;
	unsigned depth;
	unsigned write_layer;          /* the layer so many below this one is opened for writing; 0: none */
};

static int open_tree(struct plt_ctx *ctx, json_t *tree, struct opening *how, struct plt_image **ret,
		     struct plt_error *err);

static const char *tree_string(const json_t *tree, const char *key)
{
	return json_string_value(json_object_get(tree, key));
}

static int tree_bool(const json_t *tree, const char *key, bool *ret, struct plt_error *err)
{
	const json_t *v = json_object_get(tree, key);

	*ret = false;
	if (!v)
		return 0;
	if (json_is_boolean(v)) {
		*ret = json_is_true(v);
		return 0;
	}
	if (json_is_string(v) && plt_parse_bool(json_string_value(v), ret) == 0)
		return 0;
	return plt_error_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
}

static int open_file_child(struct plt_ctx *ctx, json_t *child, struct opening *how, struct plt_store **ret,
			   struct plt_error *err);

/* Fault rules over another node. */
static int open_blkdebug(struct plt_ctx *ctx, json_t *tree, struct opening *how, struct plt_store **ret,
			 struct plt_error *err)
{
	json_t *image = json_object_get(tree, "image");
	struct opening inner = { .opts = how->opts, .parent = how, .depth = how->depth + 1 };
	struct plt_store *below;
	int r;

	if (!image)
		return plt_error_set(err, EINVAL, "A block device must be specified for \"image\"");
	if (inner.depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "more than %d layers", PLT_MAX_DEPTH);
	r = open_file_child(ctx, image, &inner, &below, err);
	if (r < 0)
		return r;
	r = plt_faults_open(tree, below, ret, err);
	plt_store_unref(below);
	return r;
}

/*
 * An image between two states of a repair is nobody's to write.  (Of several journals beside it only the last
 * can be unfinished; a repair is refused as long as one is.)
 */
static int refuse_unfinished(const char *filename, struct plt_error *err)
{
	for (unsigned n = 1; n < 100; n++) {
		PLT_AUTOFREE char *path = plt_journal_name(filename, n);
		enum plt_journal_state state;
		struct plt_store *st;

		if (!path)
			return plt_error_set(err, ENOMEM, "out of memory");
		if (access(path, F_OK) < 0 || plt_file_open(path, 0, &st, NULL) < 0)
			return 0;
		if (plt_journal_peek(st, &state, NULL) < 0)
			state = PLT_JOURNAL_WRITING;
		plt_store_unref(st);
		if (state == PLT_JOURNAL_COMPLETE)
			return plt_error_set(err, EBUSY, "a repair of '%s' was interrupted: 'platter repair' finishes it, "
					     "'platter undo %s' takes it back", filename, path);
	}
	return 0;
}

/* A protocol node. */
static int open_protocol(struct plt_ctx *ctx, json_t *tree, struct opening *how, struct plt_store **ret,
			 struct plt_error *err)
{
	const char *driver = tree_string(tree, "driver"), *filename = tree_string(tree, "filename");
	const struct plt_open_options *opts = how->opts;
	bool write = opts->flags & PLT_OPEN_WRITE;
	unsigned flags;
	int r;

	if (driver && !strcmp(driver, "blkdebug"))
		return open_blkdebug(ctx, tree, how, ret, err);
	if (driver && !strcmp(driver, "pieces"))
		return plt_node_open_pieces(tree, write, ret, err);
	if (driver && !strncmp(driver, "null-", 5)) {
		const json_t *size = json_object_get(tree, "size");
		uint64_t n = UINT64_C(1) << 30;

		if (json_is_integer(size) && json_integer_value(size) >= 0)
			n = (uint64_t)json_integer_value(size);
		else if (json_is_string(size) && plt_parse_size(json_string_value(size), &n) < 0)
			return plt_error_set(err, EINVAL, "Parameter 'size' expects a size");
		r = plt_null_new(n, ret);
		return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
	}
	if (!filename)
		return plt_error_set(err, EINVAL, "The '%s' block driver requires a file name",
				     driver ? driver : "file");
	r = plt_cache_mode_flags(opts->cache, &flags, err);
	if (r < 0)
		return r;
	if (write)
		flags |= PLT_FILE_WRITE;
	if (opts->flags & PLT_OPEN_FORCE_SHARE)
		flags |= PLT_FILE_NO_LOCK;
	if (write && !(opts->flags & PLT_OPEN_UNFINISHED)) {
		r = refuse_unfinished(filename, err);
		if (r < 0)
			return r;
	}
	return plt_ctx_open_file(ctx, filename, flags, ret, err);
}

/*
 * What we read nobody may write or resize meanwhile, and what we write we have alone, as qemu-img has
 * it.  A raw image has no metadata that could change under us: the caller may share it with those
 * who share it too.
 */
static int lock_image(struct plt_store *st, const struct plt_driver *drv, const struct plt_open_options *opts,
		      struct plt_error *err)
{
	unsigned perm = PLT_PERM_READ, shared = PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED;
	bool share;
	int r;

	if (opts->flags & PLT_OPEN_FORCE_SHARE)
		return 0;
	if (opts->flags & PLT_OPEN_WRITE)
		perm |= PLT_PERM_WRITE | PLT_PERM_RESIZE;
	share = drv->flags & PLT_DRIVER_NO_HEADER && opts->flags & (PLT_OPEN_INSPECT | PLT_OPEN_SHARE_RAW);
	if (share && !(opts->flags & PLT_OPEN_WRITE))
		shared = PLT_PERM_ALL;
	r = plt_store_lock(st, perm, shared, share ? NULL : err);
	if (r < 0 && r != -ENOTSUP && share) /* nobody may come in beside our writes; who is there already, and shares, may stay */
		r = plt_store_lock(st, perm, PLT_PERM_ALL, err);
	return r == -ENOTSUP ? 0 : r;
}

/* The "file" child: a protocol, or an image whose guest's bytes serve as the file. */
static int open_file_child(struct plt_ctx *ctx, json_t *child, struct opening *how, struct plt_store **ret,
			   struct plt_error *err)
{
	const char *driver = tree_string(child, "driver");
	struct plt_open_options opts = *how->opts;
	struct opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	struct plt_rescue_options rescue;
	struct plt_image *img;
	int r;

	if (!json_is_object(child))
		return plt_error_set(err, EINVAL, json_is_string(child) ?
				     "references to other nodes ('%s') are not supported here" :
				     "A block device must be specified for \"file\"%s",
				     json_is_string(child) ? json_string_value(child) : "");
	if (!driver || plt_name_is_protocol(driver))
		return open_protocol(ctx, child, how, ret, err);
	if (!plt_driver_find(driver) && strcmp(driver, "copy-on-read"))
		return plt_error_set(err, EINVAL, "Unknown driver '%s'", driver);
	opts.format = driver;
	opts.flags &= ~(unsigned)PLT_OPEN_COPY_ON_READ;
	opts.options = NULL; /* those of the image above */
	opts.flags &= ~(unsigned)PLT_OPEN_ZERO_LOST; /* the image above is told what it cannot have */
	opts.rescue = plt_rescue_below(opts.rescue, &rescue);
	opts.snapshot = opts.snapshot_id = opts.snapshot_name = NULL;
	r = open_tree(ctx, child, &inner, &img, err);
	if (r < 0)
		return r;
	r = plt_image_store_new(img, ret);
	if (r < 0) {
		plt_image_close(img, NULL);
		return plt_error_set(err, -r, "out of memory");
	}
	return 0;
}

int plt_ref_open(struct plt_image *img, enum plt_ref_role role, const char *name, bool from_cwd,
		 bool writable, struct plt_store **ret, struct plt_error *err)
{
	static const char *const roles[] = { "backing file", "data file", "extent", "parent" };
	PLT_AUTOFREE char *full = NULL;
	unsigned flags = img->engine->file_flags & ~(unsigned)(PLT_FILE_WRITE | PLT_FILE_CREATE);
	int r;

	if (from_cwd)
		full = strdup(name);
	else
		r = plt_name_resolve(plt_image_base(img), name, &full, err);
	if (!full)
		return from_cwd ? plt_error_set(err, ENOMEM, "out of memory") : r;
	r = img->engine->own_refs ? 0 :
	    plt_policy_check(img->ctx->policy, img->ctx->allow_dirs, roles[role], full, err);
	if (r < 0)
		return r;
	r = plt_ctx_open_file(img->ctx, full, flags | (writable ? PLT_FILE_WRITE : 0), ret, err);
	if (r < 0)
		return r;
	if (!(flags & PLT_FILE_NO_LOCK)) {
		r = plt_store_lock(*ret, writable ? PLT_PERM_READ | PLT_PERM_WRITE | PLT_PERM_RESIZE : PLT_PERM_READ,
				   PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED, err);
		if (r < 0 && r != -ENOTSUP) {
			plt_store_unref(*ret);
			*ret = NULL;
			return r;
		}
	}
	return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* One value of the tree; what is in an object ("encrypt") has its name before a dot. */
static int tree_option(struct plt_opts *o, const struct plt_driver *drv, const char *prefix, const char *key,
		       const json_t *v, struct plt_error *err)
{
	char full[128], num[32];
	const char *sub;
	json_t *w;
	int r = 0;

	if ((size_t)snprintf(full, sizeof(full), "%s%s%s", prefix, *prefix ? "." : "", key) < sizeof(full)) {
		if (json_is_string(v))
			return plt_opts_set(o, full, json_string_value(v));
		if (json_is_boolean(v))
			return plt_opts_set(o, full, json_is_true(v) ? "on" : "off");
		if (json_is_integer(v)) {
			snprintf(num, sizeof(num), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
			return plt_opts_set(o, full, num);
		}
		if (json_is_object(v) && !*prefix) {
			json_object_foreach((json_t *)(uintptr_t)v, sub, w) {
				r = tree_option(o, drv, key, sub, w, err);
				if (r < 0)
					return r;
			}
			return 0;
		}
	}
	return plt_error_set(err, EINVAL, "Block format '%s' does not support the option '%s'", drv->name, key);
}

/* Driver options that the tree holds, and what the caller gives besides, as text. */
static int tree_options(const json_t *tree, const struct plt_driver *drv, const char *const *more,
			struct plt_opts **ret, struct plt_error *err)
{
	static const char *const known[] = { "driver", "file", "backing", "node-name", "read-only", "cache", "discard",
					     "detect-zeroes", "auto-read-only", "force-share", "data-file", NULL };
	const struct plt_opt_desc *const tables[] = { drv->open_opts, NULL };
	struct plt_opts *o = plt_opts_new();
	const char *key;
	json_t *v;
	int r = 0;

	if (!o)
		return plt_error_set(err, ENOMEM, "out of memory");
	json_object_foreach((json_t *)(uintptr_t)tree, key, v) {
		unsigned i;

		for (i = 0; known[i] && strcmp(known[i], key); i++)
			;
		if (!known[i])
			r = tree_option(o, drv, "", key, v, err);
		if (r < 0)
			break;
	}
	for (; r == 0 && more && *more; more++)
		r = plt_opts_parse(o, *more, drv->open_opts, err);
	for (size_t i = 0; r == 0 && i < plt_opts_count(o); i++) {
		const struct plt_opt_desc *d = drv->open_opts;

		for (; d && d->name && strcmp(d->name, plt_opts_key(o, i)); d++)
			;
		if (!d || !d->name)
			r = plt_error_set(err, EINVAL, "Block format '%s' does not support the option '%s'", drv->name,
					  plt_opts_key(o, i));
	}
	if (r == 0 && plt_opts_count(o))
		r = plt_opts_validate(o, tables, err);
	if (r < 0) {
		plt_opts_free(o);
		return plt_error_default(err, -r, "options of '%s'", drv->name);
	}
	*ret = o;
	return 0;
}

static int check_loop(struct plt_store *st, struct opening *how, struct plt_error *err)
{
	struct stat sb;
	int fd = plt_store_origin(st);

	if (fd < 0 || fstat(fd, &sb) < 0)
		return 0;
	how->dev = sb.st_dev;
	how->ino = sb.st_ino;
	how->have_id = true;
	for (const struct opening *p = how->parent; p; p = p->parent)
		if (p->have_id && p->dev == how->dev && p->ino == how->ino)
			return plt_error_set(err, ELOOP, "'%s' appears twice in the chain of backing files", st->name);
	return 0;
}

static int open_backing(struct plt_image *img, json_t *tree, struct opening *how, struct plt_error *err)
{
	json_t *child = json_object_get(tree, "backing"), *named = NULL;
	struct plt_open_options opts = { .size = sizeof(opts) };
	struct opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	struct plt_rescue_options rescue;
	PLT_AUTOFREE char *full = NULL;
	int r;

	opts.flags = how->opts->flags & (PLT_OPEN_FORCE_SHARE | PLT_OPEN_INSPECT | PLT_OPEN_SHARE_RAW |
					 PLT_OPEN_NO_KEY | PLT_OPEN_RESCUE | PLT_OPEN_ZERO_LOST);
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
		opts.format = tree_string(child, "driver");
		r = open_tree(img->ctx, child, &inner, &img->engine->backing, err);
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
			r = open_tree(img->ctx, named, &inner, &img->engine->backing, err);
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

static int open_driver(struct plt_image *img, json_t *tree, struct opening *how, struct plt_error *err)
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
	int r = tree_options(tree, img->drv, o->options, &opts, err);

	if (r == 0 && data && !h.no_refs) {
		struct opening d = { .opts = o, .parent = how, .depth = how->depth + 1 };

		r = open_file_child(img->ctx, data, &d, &h.data_file, err);
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
static int plan_rescue(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
		       struct opening *how, struct plt_rescue_plan *ret, struct plt_error *err)
{
	const struct plt_driver *drv = format ? plt_driver_find(format) : NULL;
	int r = drv ? 0 : plt_probe(file, &drv, err);

	if (r == 0)
		r = lock_image(file, drv, how->opts, err);
	if (r == 0)
		r = plt_rescue_plan_make(ctx, file, name, format, how->opts->rescue, how->opts->flags, ret, err);
	return r;
}

static void fill_image(struct plt_image *img, struct plt_ctx *ctx, const struct plt_driver *drv, struct plt_store *file,
		       const struct opening *how)
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

/* Rescue: a backing file that is missing, or is another one, costs what lies in it and no more. */
static int do_without_backing(struct plt_image *img, const struct plt_rescue_options *opts, int error, struct plt_error *err)
{
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
	plt_ctx_warn(img->ctx, "%s", why.text);
	if (err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	return 0;
}

/* Over an open store, and the plan (NULL: none) that has made it of the file, which is taken over. */
static int open_planned(struct plt_ctx *ctx, struct plt_store *file, json_t *tree, const char *name,
			const char *format, struct opening *how, struct plt_rescue_plan *plan, uint64_t file_size,
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
	r = lock_image(file, drv, how->opts, err);
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
		r = do_without_backing(img, how->opts->rescue, r, err);
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
	img->has_backing = img->backing_name || img->engine->backing;
	plt_skip_init(img);
	*ret = img;
	return 0;
}

/* "cache": {"direct": ..., "no-flush": ...} of a node is a cache mode for what lies below it. */
static int tree_cache(const json_t *tree, struct plt_open_options *opts, struct plt_error *err)
{
	const json_t *cache = json_object_get(tree, "cache");
	bool direct, no_flush;
	int r;

	if (!json_is_object(cache))
		return 0;
	r = tree_bool(cache, "direct", &direct, err);
	if (r == 0)
		r = tree_bool(cache, "no-flush", &no_flush, err);
	if (r == 0 && (direct || no_flush))
		opts->cache = no_flush ? "unsafe" : "none";
	return r;
}

/* A node that changes how the one below it is used: that one, used so. */
static int open_filter(struct plt_ctx *ctx, json_t *tree, struct opening *how, struct plt_image **ret,
		       struct plt_error *err)
{
	static const char *const known[] = { "driver", "file", "node-name", "read-only", "auto-read-only", "cache",
					     "discard", "detect-zeroes", "force-share", NULL };
	const char *driver = tree_string(tree, "driver"), *key;
	json_t *file = json_object_get(tree, "file"), *v;
	struct plt_open_options opts = *how->opts;
	struct opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
	bool readonly;
	int r = tree_bool(tree, "read-only", &readonly, err);

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
	return open_tree(ctx, file, &inner, ret, err);
}

/* @plan is taken over if it comes to that. */
static int open_plan(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, json_t *tree,
		     const char *name, struct opening *how, struct plt_image **ret, struct plt_error *err)
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
			 const char *format, struct opening *how, struct plt_image **ret, struct plt_error *err)
{
	struct plt_rescue_plan plan = { 0 };
	const char *map = how->opts->rescue ? how->opts->rescue->map : NULL;
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
		r = plan_rescue(ctx, medium, name, format, how, &plan, err);
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

static int open_tree(struct plt_ctx *ctx, json_t *tree, struct opening *how, struct plt_image **ret,
		     struct plt_error *err)
{
	PLT_AUTOFREE char *name = plt_name_text(tree);
	const char *driver = tree_string(tree, "driver");
	struct plt_open_options opts = *how->opts;
	json_t *file = json_object_get(tree, "file");
	struct plt_store *st;
	bool readonly = false;
	int r;

	if (!name)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (how->depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "'%s': more than %d layers", name, PLT_MAX_DEPTH);
	if (driver && opts.format && plt_name_is_protocol(opts.format) && file && tree_string(file, "driver") &&
	    !strcmp(tree_string(file, "driver"), opts.format))
		opts.format = driver; /* it was meant for the bytes, which this node shows */
	if (driver && opts.format && strcmp(driver, opts.format))
		return plt_error_set(err, EINVAL, "Driver specified twice");
	if (!driver)
		driver = opts.format;
	r = tree_bool(tree, "read-only", &readonly, err);
	if (r == 0)
		r = tree_cache(tree, &opts, err);
	if (r < 0)
		return r;
	if (readonly && opts.flags & PLT_OPEN_WRITE)
		return plt_error_set(err, EACCES, "'%s' is to be opened read-only and is to be written", name);
	if (driver && !strcmp(driver, "copy-on-read"))
		return open_filter(ctx, tree, how, ret, err);
	if (driver && plt_name_is_protocol(driver)) { /* the bytes themselves, as a disk */
		driver = "raw";
		if (tree_string(tree, "driver") || !file) {
			file = tree;
			tree = NULL;
		}
	}
	if (!file)
		return plt_error_set(err, EINVAL, "A block device must be specified for \"file\"");
	how->opts = &opts;
	r = open_file_child(ctx, file, how, &st, err);
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
	struct opening how = { .opts = opts };

	return open_on_store(ctx, file, NULL, name, format, &how, ret, err);
}

int plt_image_open_planned(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, const char *name,
			   const struct plt_open_options *opts, struct plt_image **ret, struct plt_error *err)
{
	struct opening how = { .opts = opts };
	int r = open_plan(ctx, plan, file_size, NULL, name, &how, ret, err);

	plt_rescue_plan_release(plan);
	return r;
}

int plt_image_open(struct plt_ctx *ctx, json_t *tree, const struct plt_open_options *opts, unsigned write_layer,
		   struct plt_image **ret, struct plt_error *err)
{
	struct opening how = { .opts = opts, .write_layer = write_layer };

	return open_tree(ctx, tree, &how, ret, err);
}

/* ---- closing --------------------------------------------------------------------------------- */

static int finish_writing(struct plt_image *img, struct plt_error *err)
{
	int r = plt_store_check_writable(img->file, err);

	if (r == 0 && img->data && img->data != img->file)
		r = plt_store_check_writable(img->data, err);
	/* after a failed sync nothing may be written: what is dirty is dropped, and that is said */
	if (r == 0 && atomic_load(&img->engine->changed))
		r = plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_FLUSH_REQ }, err);
	if (r == 0 && img->slice && plt_meta_is_dirty(img)) /* counts of what left limbo */
		r = plt_meta_flush(img, true, err);
	return r;
}

int plt_image_close(struct plt_image *img, struct plt_error *err)
{
	int r = 0, closed;

	if (!img)
		return 0;
	if (img->drv) {
		if (img->writable)
			r = finish_writing(img, err);
		if (r < 0)
			img->writable = false; /* close releases, and writes nothing more */
		plt_cache_retire(img->ctx, img->engine);
		closed = img->drv->close(img, r < 0 ? NULL : err);
		if (r == 0)
			r = closed;
	}
	plt_cache_drop_image(img->ctx, img->engine);
	closed = plt_image_close(img->engine->backing, r < 0 ? NULL : err);
	if (r == 0)
		r = closed;
	plt_store_unref(img->data);
	plt_store_unref(img->file);
	plt_engine_free(img->engine);
	pthread_mutex_destroy(&img->lock);
	free(img->backing_name);
	free(img->backing_format);
	free(img->name);
	free(img);
	return r;
}
