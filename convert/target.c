/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * How the target of a conversion comes into being.  The invariant: nothing half-made ever bears the
 * final name as if it were whole.  There are four ways, and which one is chosen before the first
 * write and never changed after it:
 *
 *   a new file   that takes its name when it is complete and durable (replace.c).  The rule.
 *   in place     where a new file cannot be had: on a device, over a file with several names, in a
 *                folder that may not be written, without room for both, with a data file besides.  The
 *                old header is zeroed, durably, before anything else, and what makes the new content
 *                an image is written last (hold.c).  Raw has no header: the error then says that the
 *                content is incomplete.
 *   a ghost      whose length alone is wanted (ghost.c).
 *   existing     (-n) through the driver of the image that is there; it opens at every moment, and
 *                after a failure the error says that its content is mixed.
 *
 * What is written is copy.c's affair.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "block/internal.h"
#include "convert/convert.h"
#include "formats/driver.h"
#include "formats/name.h"
#include "formats/options.h"

#define OLD_HEADER 4096 /* what is zeroed of an old image: every header that a probe looks at */

enum way { WAY_NEW, WAY_IN_PLACE, WAY_EXISTING, WAY_GHOST };

struct plt_target {
	struct plt_ctx *ctx;
	const struct plt_convert_options *opts;
	const struct plt_source *src;
	const char *format;
	char *name;                /* as given */
	char *secret;              /* the open option that unlocks what is created encrypted; NULL: none */
	const char *open_opts[2];
	enum way way;
	struct plt_replace rep;
	struct plt_store *store;   /* what is formatted and written (a reference); NULL: existing, opened by name */
	struct plt_store *hold;    /* store, if it is one that holds back */
	struct plt_disk *disk;
	char *data_file;           /* an external data file that is made or overwritten besides */
	bool data_made, data_begun; /* there was none before; it is there, and whatever it held is gone */
	uint64_t backing_size;
	bool zero, no_header;
	bool destroyed;            /* in place: the old content is gone */
	_Atomic bool touched;      /* existing: something has been written */
};

/* The create options that matter here. */
struct wishes {
	struct plt_opts *opts;
	const char *data_file;
	bool preallocated, fixed, backing;
};

static int wishes_read(struct wishes *w, const struct plt_convert_options *opts, struct plt_error *err)
{
	const char *v;
	int ret = 0;

	memset(w, 0, sizeof(*w));
	w->opts = plt_opts_new();
	if (!w->opts)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (const char *const *o = opts->options; o && *o && !ret; o++)
		ret = plt_opts_parse(w->opts, *o, NULL, err);
	v = plt_opts_get(w->opts, "preallocation");
	w->preallocated = v && strcmp(v, "off") != 0;
	v = plt_opts_get(w->opts, "subformat");
	w->fixed = v && !strcmp(v, "fixed");
	w->data_file = plt_opts_get(w->opts, "data_file");
	w->backing = opts->backing || plt_opts_get(w->opts, "backing_file");
	return ret;
}

/* The file that @name is, if it is no more than that; malloc.  NULL: something else. */
static char *plain_path(const char *name)
{
	json_t *tree, *file;
	const char *driver, *path;
	char *ret = NULL;

	if (plt_name_parse(name, false, &tree, NULL))
		return NULL;
	file = json_object_get(tree, "file");
	driver = json_string_value(json_object_get(file, "driver"));
	path = json_string_value(json_object_get(file, "filename"));
	if (json_object_size(tree) == 1 && json_object_size(file) == 2 && driver && path &&
	    (!strcmp(driver, "file") || !strcmp(driver, "host_device")))
		ret = strdup(path);
	json_decref(tree);
	return ret;
}

/* What an image with @data bytes in it will take at most. */
static uint64_t space_needed(const struct plt_driver *drv, const struct wishes *w, uint64_t size,
			     uint64_t data)
{
	/* Tables and the like: 8 bytes and a count for each cluster of 64 KiB, and room to round up. */
	uint64_t guess = data + data / 1024 + (UINT64_C(1) << 20);

	if (drv->flags & PLT_DRIVER_NO_HEADER)
		guess = data;
	return w->preallocated || w->fixed ? PLT_MAX(guess, size) : guess;
}

static void create_options(const struct plt_target *t, struct plt_create_options *co)
{
	*co = (struct plt_create_options)PLT_CREATE_OPTIONS_INIT;
	co->format = t->format;
	co->options = t->opts->options;
	co->virtual_size = t->src->size;
	co->flags = PLT_CREATE_OWN_SIZE;
	co->backing = t->opts->backing;
	co->backing_format = t->opts->backing_format;
	if (t->opts->flags & PLT_CONVERT_UNCHECKED_BACKING)
		co->flags |= PLT_CREATE_UNCHECKED_BACKING;
}

static void open_options(const struct plt_target *t, bool write, struct plt_open_options *oo)
{
	*oo = (struct plt_open_options)PLT_OPEN_OPTIONS_INIT;
	oo->format = t->format;
	oo->cache = t->opts->cache;
	oo->options = t->secret ? t->open_opts : NULL;
	oo->flags = write ? PLT_OPEN_WRITE : 0;
	if (t->opts->flags & PLT_CONVERT_UNCHECKED_BACKING)
		oo->flags |= PLT_OPEN_NO_BACKING;
	if (t->opts->flags & PLT_CONVERT_TARGET_OPTS)
		oo->flags |= PLT_OPEN_IMAGE_OPTS;
	if (write && t->way != WAY_EXISTING)
		oo->flags |= PLT_OPEN_UNORDERED;
}

/* Append to the text that @err has. */
static void append(struct plt_error *err, const char *text, const char *name, const char *why)
{
	PLT_AUTOFREE char *old = err ? strdup(err->text) : NULL;
	PLT_AUTOFREE char *full = NULL;

	if (!old || asprintf(&full, text, name, why) < 0)
		return;
	plt_error_set(err, err->code, "%s; %s", old, full);
}

/*
 * From here on the old content is lost: first what made it an image, durably, then the rest.
 */
static int destroy_old(struct plt_target *t, struct plt_error *err)
{
	static const uint8_t zeros[OLD_HEADER];
	struct plt_store *st = t->rep.old;
	uint64_t size;
	int ret = plt_store_size(st, &size, err);

	if (ret)
		return ret;
	t->destroyed = true;
	if (size) {
		ret = plt_store_write(st, 0, zeros, PLT_MIN(size, OLD_HEADER), PLT_IO_HEADER, err);
		if (!ret)
			ret = plt_store_sync(st, err);
	}
	if (!ret && t->rep.regular)
		ret = plt_store_truncate(st, 0, err);
	return ret;
}

/* A device has the size that it has: too small a one is refused before its content is lost. */
static int check_device(const struct plt_target *t, struct plt_store *st, struct plt_error *err)
{
	uint64_t size;
	int ret;

	if (st->limits.can_grow || !t->no_header)
		return 0;
	ret = plt_store_size(st, &size, err);
	if (!ret && size < t->src->size)
		ret = plt_error_set(err, ENOSPC, "the device is too small (%" PRIu64 " bytes, %" PRIu64 " are needed)",
				    size, t->src->size);
	return ret;
}

static int begin_in_place(struct plt_target *t, unsigned flags, struct plt_error *err)
{
	struct plt_store *st = t->rep.old;
	int ret;

	t->way = WAY_IN_PLACE;
	if (st) {
		struct plt_create_options co;

		if (plt_source_uses(t->src, st))
			return plt_error_set(err, EBUSY, "'%s' is read from by this conversion", t->name);
		/* Options that the driver refuses must not cost the old content. */
		create_options(t, &co);
		ret = plt_create_rehearse(t->ctx, t->name, &co, err);
		if (!ret)
			ret = check_device(t, st, err);
		if (!ret)
			ret = destroy_old(t, err);
		if (ret)
			return ret;
		plt_store_ref(st);
	} else {
		ret = plt_file_open(t->rep.final, flags | PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_EXCL, &st,
				    err);
		if (ret)
			return ret;
		t->destroyed = true;
	}
	t->store = st;
	if (t->no_header)
		return 0;
	ret = plt_hold_new(st, &t->hold);
	if (ret)
		return plt_error_set(err, -ret, "Out of memory");
	plt_store_unref(st);
	t->store = t->hold;
	return 0;
}

static int begin_file(struct plt_target *t, const char *path, const struct wishes *w, uint64_t need,
		      struct plt_error *err)
{
	struct plt_replace *r = &t->rep;
	unsigned flags;
	int ret = plt_cache_mode_flags(t->opts->cache ? t->opts->cache : "writeback", &flags, err);

	if (!ret)
		ret = plt_replace_look(r, path, flags, err);
	if (ret)
		return ret;
	if (!r->why && w->data_file)
		r->why = "the target consists of several files";
	if (!r->why && r->exists && need > r->free && need <= r->free + r->old_bytes)
		r->why = "there is no room for the old and the new file";
	if (!r->why) {
		ret = plt_replace_make(r, flags, err);
		if (ret)
			return ret;
	}
	if (r->why)
		return begin_in_place(t, flags, err);
	t->way = WAY_NEW;
	t->store = plt_store_ref(r->made);
	return 0;
}

/* Whether the fresh image reads as zeros: not where it maps what a device held before. */
static bool fresh_is_zero(const struct plt_target *t, const struct wishes *w)
{
	struct stat sb;

	if (w->data_file && stat(w->data_file, &sb) == 0 && !S_ISREG(sb.st_mode))
		return false;
	if (t->way == WAY_NEW || t->way == WAY_GHOST || (t->way == WAY_IN_PLACE && (!t->rep.exists || t->rep.regular)))
		return true;
	return !t->no_header && !w->preallocated && !w->fixed;
}

static int create_and_open(struct plt_target *t, const struct wishes *w, struct plt_error *err)
{
	struct plt_create_options co;
	struct plt_open_options oo;
	struct plt_image *below;
	int ret;

	create_options(t, &co);
	ret = plt_create_store(t->ctx, t->store, t->name, &co, NULL, err);
	t->data_begun = !ret && t->data_file;
	if (ret) {
		if (!err || strncmp(err->text, "Invalid parameter '", 19))
			plt_error_prefix(err, "%s: error while converting %s", t->name, t->format);
		return ret;
	}
	open_options(t, true, &oo);
	oo.flags |= PLT_OPEN_OWN_REFS;
	ret = plt_disk_open_store(t->ctx, t->store, t->name, t->format, &oo, &t->disk, err);
	if (ret)
		return ret;
	t->zero = !w->backing && fresh_is_zero(t, w);
	below = plt_disk_image(t->disk);
	if (below->drv->flags & PLT_DRIVER_NOT_ZEROED || (below->encrypted && w->preallocated))
		t->zero = false; /* what is there already is decrypted to anything */
	below = plt_image_backing(plt_disk_image(t->disk));
	if (below)
		t->backing_size = atomic_load(&below->size);
	return 0;
}

static int begin_existing(struct plt_target *t, struct plt_error *err)
{
	struct plt_open_options oo;
	int ret;

	t->way = WAY_EXISTING;
	open_options(t, true, &oo);
	oo.flags |= PLT_OPEN_SHARE_RAW;
	ret = plt_disk_open(t->ctx, t->name, &oo, &t->disk, err);
	if (!ret && plt_source_uses(t->src, plt_disk_image(t->disk)->file))
		ret = plt_error_set(err, EBUSY, "'%s' is read from by this conversion", t->name);
	t->zero = t->opts->flags & PLT_CONVERT_TARGET_ZERO && !t->opts->backing;
	return ret;
}

/* A name that means something else than a file of that name: refused before a file is made. */
static int check_name(const char *name, struct plt_error *err)
{
	json_t *tree;
	int ret = plt_name_parse(name, false, &tree, err);

	if (!ret)
		json_decref(tree);
	return ret;
}

/*
 * The data file that the options name will be emptied.  Whether it can be had, and whether somebody
 * reads from it, is found out before anything of the target is touched.
 */
static int check_data_file(struct plt_target *t, const char *name, struct plt_error *err)
{
	struct plt_store *st;
	struct stat sb;
	int ret;

	if (!name)
		return 0;
	t->data_file = strdup(name);
	if (!t->data_file)
		return plt_error_set(err, ENOMEM, "Out of memory");
	t->data_made = stat(name, &sb) < 0 && errno == ENOENT;
	ret = plt_file_open(name, PLT_FILE_WRITE | PLT_FILE_CREATE, &st, err);
	if (ret)
		return ret;
	ret = plt_store_lock(st, PLT_PERM_READ | PLT_PERM_WRITE | PLT_PERM_RESIZE,
			     PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED, err);
	if (ret == -ENOTSUP)
		ret = 0;
	if (!ret && plt_source_uses(t->src, st))
		ret = plt_error_set(err, EBUSY, "'%s' is read from by this conversion", name);
	plt_store_unref(st);
	if (t->data_made)
		(void)unlink(name);
	return ret;
}

/* "key=value" as an -o text: commas doubled; malloc.  NULL: out of memory. */
static char *option_text(const char *key, const char *value)
{
	char *ret = malloc(strlen(key) + 2 * strlen(value) + 2), *p = ret;

	if (!ret)
		return NULL;
	p += sprintf(p, "%s=", key);
	for (; *value; value++) {
		if (*value == ',')
			*p++ = ',';
		*p++ = *value;
	}
	*p = 0;
	return ret;
}

/* An encrypted image that has been created is opened with the secret that it was created with. */
static int take_secret(struct plt_target *t, const struct wishes *w, struct plt_error *err)
{
	static const char *const keys[] = { "encrypt.key-secret", "key-secret" };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(keys) && !t->secret; i++) {
		const char *v = plt_opts_get(w->opts, keys[i]);

		if (!v)
			continue;
		t->secret = option_text(keys[i], v);
		if (!t->secret)
			return plt_error_set(err, ENOMEM, "Out of memory");
		t->open_opts[0] = t->secret;
	}
	return 0;
}

static int begin_ghost(struct plt_target *t, const struct wishes *w, struct plt_error *err)
{
	if (w->data_file)
		return plt_error_set(err, ENOTSUP, "with an external data file the length cannot be found out without making it");
	return plt_ghost_new(&t->store, err);
}

static int begin(struct plt_target *t, const struct plt_driver *drv, uint64_t data, struct plt_error *err)
{
	PLT_AUTOFREE char *path = NULL;
	struct wishes w = { 0 };
	int ret;

	if (t->opts->flags & PLT_CONVERT_NO_CREATE)
		return begin_existing(t, err);
	ret = check_name(t->name, err);
	if (!ret)
		ret = wishes_read(&w, t->opts, err);
	if (!ret)
		ret = take_secret(t, &w, err);
	if (!ret) {
		ret = check_data_file(t, w.data_file, err);
		if (ret)
			plt_error_prefix(err, "%s: error while converting %s", t->name, t->format);
	}
	if (!ret) {
		path = plain_path(t->name);
		ret = t->way == WAY_GHOST ? begin_ghost(t, &w, err) :
		      path ? begin_file(t, path, &w, space_needed(drv, &w, t->src->size, data), err) :
			     plt_error_set(err, ENOTSUP, "a new image needs a plain file name");
		if (ret && (!err || strncmp(err->text, "Invalid parameter '", 19)))
			plt_error_prefix(err, "%s: error while converting %s", t->name, t->format);
		if (!ret)
			ret = create_and_open(t, &w, err);
	}
	plt_opts_free(w.opts);
	return ret;
}

int plt_target_begin(struct plt_ctx *ctx, const char *name, const struct plt_convert_options *opts,
		     const struct plt_source *src, uint64_t data, struct plt_target **ret,
		     struct plt_error *err)
{
	const char *format = opts->format ? opts->format : "raw";
	const struct plt_driver *drv = plt_driver_find(format);
	struct plt_target *t;
	int r;

	/* With -n an unknown format is found by plt_disk_open(), which says it as qemu-img does. */
	if (!drv && !(opts->flags & PLT_CONVERT_NO_CREATE))
		return plt_format_unknown(format, err);
	if (opts->flags & PLT_CONVERT_COMPRESS && drv && !(drv->flags & PLT_DRIVER_COMPRESS))
		return plt_error_set(err, ENOTSUP, "Compression not supported for this file format");
	t = calloc(1, sizeof(*t));
	if (!t || !(t->name = strdup(name))) {
		free(t);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	t->ctx = ctx;
	t->opts = opts;
	t->format = opts->flags & PLT_CONVERT_TARGET_OPTS ? opts->format : drv ? drv->name : opts->format;
	t->no_header = drv && drv->flags & PLT_DRIVER_NO_HEADER;
	t->backing_size = UINT64_MAX;
	t->way = opts->flags & PLT_CONVERT_GHOST ? WAY_GHOST : WAY_NEW;
	t->src = src;
	r = begin(t, drv, data, err);
	if (!r && plt_disk_size(t->disk) < src->size)
		r = plt_error_set(err, EINVAL, "output file is smaller than input file");
	if (r) {
		plt_target_abort(t, err);
		return r;
	}
	*ret = t;
	return 0;
}

struct plt_disk *plt_target_disk(struct plt_target *t)
{
	return t->disk;
}

bool plt_target_is_zero(const struct plt_target *t)
{
	return t->zero;
}

uint64_t plt_target_backing_size(const struct plt_target *t)
{
	return t->backing_size;
}

void plt_target_touched(struct plt_target *t)
{
	atomic_store_explicit(&t->touched, true, memory_order_relaxed);
}

int plt_target_complete(struct plt_target *t, struct plt_error *err)
{
	struct plt_disk *disk = t->disk;
	int ret = plt_flush(disk, err);
	int closed;

	t->disk = NULL;
	closed = plt_disk_close(disk, ret ? NULL : err);
	if (!ret)
		ret = closed;
	if (!ret && t->store)
		ret = plt_store_sync(t->store, err);
	return ret;
}

int plt_target_length(struct plt_target *t, uint64_t *ret, struct plt_error *err)
{
	return plt_store_size(t->store, ret, err);
}

int plt_target_reopen(struct plt_target *t, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options oo;

	open_options(t, false, &oo);
	if (!t->store)
		return plt_disk_open(t->ctx, t->name, &oo, ret, err);
	/* What is read back should come from the disk, as far as the kernel obliges. */
	if (plt_store_fd(t->store) >= 0)
		(void)posix_fadvise(plt_store_fd(t->store), 0, 0, POSIX_FADV_DONTNEED);
	oo.flags |= PLT_OPEN_OWN_REFS;
	return plt_disk_open_store(t->ctx, t->store, t->name, t->format, &oo, ret, err);
}

static void target_free(struct plt_target *t)
{
	plt_store_unref(t->store);
	plt_replace_release(&t->rep);
	free(t->data_file);
	free(t->secret);
	free(t->name);
	free(t);
}

int plt_target_commit(struct plt_target *t, struct plt_error *err)
{
	int ret = 0;

	/* an image that is whole names no data file whose name a power cut takes away */
	if (t->data_begun && t->data_made && !t->store->unsafe)
		ret = plt_sync_folder(t->data_file, err);
	if (ret)
		;
	else if (t->way == WAY_NEW)
		ret = plt_replace_commit(&t->rep, err);
	else if (t->hold)
		ret = plt_hold_release(t->hold, err);
	if (!ret && t->way == WAY_IN_PLACE && !t->rep.exists && !t->store->unsafe)
		ret = plt_sync_folder(t->rep.final, err);
	if (ret)
		plt_target_abort(t, err);
	else
		target_free(t);
	return ret;
}

void plt_target_abort(struct plt_target *t, struct plt_error *err)
{
	if (!t)
		return;
	if (t->disk)
		(void)plt_disk_close(t->disk, NULL); /* the first error is the one to report */
	if (t->data_begun && t->data_made)
		(void)unlink(t->data_file);
	else if (t->data_begun)
		append(err, "the content of its data file '%s'%s is incomplete", t->data_file, "");
	if (t->way == WAY_IN_PLACE && t->destroyed && !t->rep.exists)
		(void)unlink(t->rep.final);
	else if (t->way == WAY_IN_PLACE && t->destroyed && t->no_header)
		append(err, "'%s' was written in place, because %s: its content is incomplete",
		       t->rep.final, t->rep.why);
	else if (t->way == WAY_IN_PLACE && t->destroyed)
		append(err, "'%s' was written in place, because %s: it holds no image now", t->rep.final,
		       t->rep.why);
	else if (t->way == WAY_EXISTING && atomic_load(&t->touched))
		append(err, "'%s'%s still opens, but its content is a mixture of old and new", t->name, "");
	target_free(t);
}
