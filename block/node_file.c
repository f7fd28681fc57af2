/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an image lies on: a file, a protocol, fault rules over one, or an image whose guest's bytes are the file;
 * and the files that an image names, which go through the policy.  A file that a repair has left between two
 * states is not opened for writing.
 */
#include <string.h>
#include <unistd.h>

#include "block/node.h"
#include "formats/name.h"
#include "formats/policy.h"
#include "io/journal.h"

/* Fault rules over another node. */
static int open_blkdebug(struct plt_ctx *ctx, json_t *tree, struct plt_opening *how, struct plt_store **ret,
			 struct plt_error *err)
{
	json_t *image = json_object_get(tree, "image");
	struct plt_opening inner = { .opts = how->opts, .parent = how, .depth = how->depth + 1 };
	struct plt_store *below;
	int r;

	if (!image)
		return plt_error_set(err, EINVAL, "A block device must be specified for \"image\"");
	if (inner.depth >= PLT_MAX_DEPTH)
		return plt_error_set(err, ELOOP, "more than %d layers", PLT_MAX_DEPTH);
	r = plt_node_open_file(ctx, image, &inner, &below, err);
	if (r < 0)
		return r;
	r = plt_faults_open(tree, below, ret, err);
	plt_store_unref(below);
	return r;
}

/*
 * An image between two states of a repair is nobody's to write, and who reads it is told.  (Of several journals
 * beside it only the last can be unfinished; a repair is refused as long as one is.)
 */
static int heed_unfinished(struct plt_ctx *ctx, const char *filename, bool write, struct plt_error *err)
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
		if (state != PLT_JOURNAL_COMPLETE)
			continue;
		if (write)
			return plt_error_set(err, EBUSY, "a repair of '%s' was interrupted: 'platter repair' finishes it, "
					     "'platter undo %s' takes it back", filename, path);
		plt_ctx_warn(ctx, "a repair of '%s' was interrupted, and what is read may be half of it: 'platter repair' "
			     "finishes it, 'platter undo %s' takes it back", filename, path);
		return 0;
	}
	return 0;
}

/* A protocol node. */
static int open_protocol(struct plt_ctx *ctx, json_t *tree, struct plt_opening *how, struct plt_store **ret,
			 struct plt_error *err)
{
	const char *driver = plt_node_string(tree, "driver"), *filename = plt_node_string(tree, "filename");
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
	if (!(opts->flags & (PLT_OPEN_UNFINISHED | PLT_OPEN_RESCUE))) { /* (a rescue refuses it) */
		r = heed_unfinished(ctx, filename, write, err);
		if (r < 0)
			return r;
	}
	return plt_ctx_open_file(ctx, filename, flags, ret, err);
}

int plt_image_lock(struct plt_store *st, const struct plt_driver *drv, const struct plt_open_options *opts,
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
	/* nobody may come in beside our writes; who is there already, and shares, may stay */
	if (r < 0 && r != -ENOTSUP && share)
		r = plt_store_lock(st, perm, PLT_PERM_ALL, err);
	return r == -ENOTSUP ? 0 : r;
}

int plt_node_open_file(struct plt_ctx *ctx, json_t *child, struct plt_opening *how, struct plt_store **ret,
		       struct plt_error *err)
{
	const char *driver = plt_node_string(child, "driver");
	struct plt_open_options opts = *how->opts;
	struct plt_opening inner = { .opts = &opts, .parent = how, .depth = how->depth + 1 };
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
	r = plt_node_open_image(ctx, child, &inner, &img, err);
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
