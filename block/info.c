/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an open image says of itself, for `info`; and `check`, which asks the driver to examine the
 * stores without opening the image.  Neither opens anything that the image names.
 */
#include <limits.h>
#include <string.h>

#include "block/engine.h"
#include "block/node.h"
#include "formats/name.h"
#include "formats/probe.h"

struct info {
	struct plt_info pub;
	char *full, *specific;
	struct plt_snapshot *snapshots;
};

int plt_disk_info(struct plt_disk *disk, struct plt_info **ret, struct plt_error *err)
{
	struct plt_image *img = disk->top;
	struct info *in = calloc(1, sizeof(*in));
	const struct plt_snapshot_info *s;
	unsigned n = 0;
	int r;

	if (!in)
		return plt_error_set(err, ENOMEM, "out of memory");
	in->pub.filename = img->name;
	in->pub.format = img->drv->name;
	in->pub.virtual_size = atomic_load(&img->size);
	in->pub.actual_size = plt_store_allocated(img->file);
	in->pub.cluster_size = plt_disk_cluster_size(disk);
	in->pub.vm_state_offset = img->drv->vm_state_offset ? img->drv->vm_state_offset(img) : 0;
	in->pub.encrypted = img->encrypted;
	in->pub.request_alignment = PLT_MAX(PLT_MAX(img->file->limits.align, 1u), img->encrypted ? 512u : 1u);
	if (img->drv->write_zeroes)
		in->pub.write_zeroes_alignment = img->zero_unit ? img->zero_unit : img->alloc_unit;
	if (img->drv->discard)
		in->pub.discard_alignment = img->alloc_unit;
	in->pub.mem_alignment = PLT_MAX(img->file->limits.align, 1u);
	in->pub.opt_mem_alignment = PLT_MAX(in->pub.mem_alignment, 4096u);
	in->pub.max_iov = IOV_MAX;
	in->pub.dirty = img->drv->dirty_flag && img->drv->dirty_flag(img);
	in->pub.backing_filename = img->backing_name;
	in->pub.backing_format = img->backing_format;
	if (img->backing_name && plt_name_resolve(plt_image_base(img), img->backing_name, &in->full, NULL) == 0)
		in->pub.full_backing_filename = in->full;
	if (img->drv->info) {
		json_t *j = img->drv->info(img);

		if (j) {
			in->specific = json_dumps(j, JSON_COMPACT);
			in->pub.specific_json = in->specific;
			json_decref(j);
		}
	}
	if (img->drv->snapshots) {
		r = img->drv->snapshots(img, &s, &n);
		if (r == 0 && n && !(in->snapshots = calloc(n, sizeof(*in->snapshots))))
			r = -ENOMEM;
		if (r < 0) {
			plt_info_free(&in->pub);
			return plt_error_set(err, -r, "'%s': list of snapshots", img->name);
		}
		for (unsigned i = 0; i < n; i++)
			in->snapshots[i] = (struct plt_snapshot){ s[i].id, s[i].name, s[i].vm_state_size, s[i].date_sec,
								  s[i].date_nsec, s[i].vm_clock_nsec, s[i].icount };
		in->pub.snapshots = in->snapshots;
		in->pub.nsnapshots = n;
	}
	*ret = &in->pub;
	return 0;
}

void plt_info_free(struct plt_info *info)
{
	struct info *in = (struct info *)info;

	if (!in)
		return;
	free(in->full);
	free(in->specific);
	free(in->snapshots);
	free(in);
}

/* ---- check ----------------------------------------------------------------------------------- */

struct check {
	struct plt_examine ex;
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	struct plt_check_result *ret;
	pthread_mutex_t lock; /* drivers examine on several threads */
};

static void emit(struct plt_examine *ex, const struct plt_finding *f)
{
	static const char *const severities[] = { "note", "leak", "corruption", "error" };
	struct check *c = ex->arg;
	struct plt_check_finding pub = {
		.id = f->id, .severity = severities[f->severity], .text = f->text, .beyond_qemu = f->beyond_qemu,
		.mended = f->mended,
		.host_off = f->host_off, .host_len = f->host_len, .guest_off = f->guest_off, .guest_len = f->guest_len,
	};

	PLT_LOCK_SCOPE(&c->lock);
	if (f->mended && f->severity == PLT_CORRUPTION)
		c->ret->corruptions_fixed += f->count;
	else if (f->mended && f->severity == PLT_LEAK)
		c->ret->leaks_fixed += f->count;
	else if (f->severity == PLT_CORRUPTION && f->beyond_qemu)
		c->ret->added += f->count;
	else if (f->severity == PLT_CORRUPTION)
		c->ret->corruptions += f->count;
	else if (f->severity == PLT_LEAK)
		c->ret->leaks += f->count;
	else if (f->severity == PLT_CHECK_ERROR)
		c->ret->check_errors += f->count;
	if (c->found)
		c->found(c->arg, &pub);
}

static int examine(struct plt_store *file, struct check *c, const char *format, struct plt_error *err)
{
	const struct plt_driver *drv = NULL;
	int r = 0;

	c->ex.file = file;
	if (format)
		drv = plt_driver_find(format);
	else
		r = plt_probe(file, &drv, err);
	if (r < 0)
		return r;
	if (!drv)
		return plt_error_set(err, EINVAL, "Unknown driver '%s'", format);
	c->ret->format = drv->name;
	if (!drv->examine)
		return plt_error_set(err, ENOTSUP, "This image format does not support checks");
	r = drv->examine(&c->ex, err);
	if (r == -ENOTSUP) { /* of a feature: to the caller that would mean "nothing to check" */
		r = -EINVAL;
		if (err)
			err->code = EINVAL;
	}
	c->ret->image_end_offset = c->ex.totals.image_end_offset;
	c->ret->total_clusters = c->ex.totals.total_clusters;
	c->ret->allocated_clusters = c->ex.totals.allocated_clusters;
	c->ret->fragmented_clusters = c->ex.totals.fragmented_clusters;
	c->ret->compressed_clusters = c->ex.totals.compressed_clusters;
	c->ret->have_clusters = c->ex.totals.have_clusters;
	return r;
}

int plt_check_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		    struct plt_check_result *ret, struct plt_error *err)
{
	struct check c = { .found = found, .arg = arg, .ret = ret, .lock = PTHREAD_MUTEX_INITIALIZER };

	memset(ret, 0, sizeof(*ret));
	ret->format = "";
	c.ex = (struct plt_examine){ .ctx = ctx, .name = name, .emit = emit, .arg = &c };
	return examine(file, &c, format, err);
}

bool plt_check_is_hopeless(const struct plt_check_result *res, struct plt_store *file)
{
	int64_t there = plt_store_allocated(file);

	return there >= 0 && res->corruptions + res->added > (uint64_t)there / 8 + (1 << 20);
}

int plt_mend_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
		   struct plt_mend *mend, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		   struct plt_check_result *ret, struct plt_error *err)
{
	struct check c = { .found = found, .arg = arg, .ret = ret, .lock = PTHREAD_MUTEX_INITIALIZER };

	memset(ret, 0, sizeof(*ret));
	ret->format = "";
	c.ex = (struct plt_examine){ .ctx = ctx, .name = name, .emit = emit, .arg = &c, .mend = mend };
	return examine(file, &c, format, err);
}

int plt_bytes_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		   enum plt_bytes_use use, struct plt_image **ret, char **ret_format, struct plt_error *err)
{
	static const struct plt_open_options defaults = PLT_OPEN_OPTIONS_INIT;
	struct plt_open_options o = opts ? *opts : defaults;
	const struct plt_driver *drv = NULL;
	struct plt_image *img = NULL;
	const char *format;
	PLT_AUTOFREE char *key = NULL;
	json_t *tree;
	int r = plt_name_parse(name, o.flags & PLT_OPEN_IMAGE_OPTS, &tree, err);

	*ret = NULL;
	*ret_format = NULL;
	if (r < 0)
		return r;
	format = o.format ? o.format : json_string_value(json_object_get(tree, "driver"));
	if (format) {
		*ret_format = strdup(format);
		if (!*ret_format)
			r = plt_error_set(err, ENOMEM, "out of memory");
	}
	if (r == 0 && format && plt_driver_find(format))
		key = plt_node_key(tree, plt_driver_find(format), o.options);
	/* an image that does not open is examined all the same */
	if (!format || plt_driver_find(format)) {
		json_t *bytes = json_pack("{s:O}", "file", json_object_get(tree, "file"));

		if (bytes) {
			json_decref(tree);
			tree = bytes;
		}
		o.format = "raw";
		o.options = NULL;
	}
	o.flags |= PLT_OPEN_INSPECT;
	o.flags &= ~(unsigned)(PLT_OPEN_WRITE | PLT_OPEN_IMAGE_OPTS | PLT_OPEN_RESCUE | PLT_OPEN_ZERO_LOST);
	if (use == PLT_BYTES_REPAIR)
		o.flags |= PLT_OPEN_WRITE | PLT_OPEN_UNFINISHED;
	if (r == 0)
		r = plt_image_open(ctx, tree, &o, 0, &img, err);
	json_decref(tree);
	if (r == 0 && *ret_format)
		drv = plt_driver_find(*ret_format);
	else if (r == 0)
		r = plt_probe(img->file, &drv, err);
	if (r == 0 && !*ret_format && drv && drv->flags & PLT_DRIVER_NO_HEADER) {
		const struct plt_driver *lost;

		r = plt_probe_lost(ctx, img->file, false, &lost, err);
		if (r == 0) {
			plt_ctx_warn(ctx, "'%s' looks like a %s image whose header is gone", name, lost->name);
			drv = lost;
		}
		r = r == -ENOENT ? 0 : r;
	}
	if (r == 0 && !*ret_format && drv) {
		*ret_format = strdup(drv->name);
		if (!*ret_format)
			r = plt_error_set(err, ENOMEM, "out of memory");
	}
	/* what is examined may not change meanwhile; what cannot be examined may */
	if (r == 0 && drv && drv->examine && use == PLT_BYTES_READ && !(o.flags & PLT_OPEN_FORCE_SHARE)) {
		r = plt_store_lock(img->file, PLT_PERM_READ, PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED, err);
		if (r == -ENOTSUP)
			r = 0;
	}
	if (r < 0) {
		plt_image_close(img, NULL);
		free(*ret_format);
		*ret_format = NULL;
		return r;
	}
	if (key) {
		free(img->engine->key);
		img->engine->key = plt_steal(&key);
	}
	*ret = img;
	return 0;
}

/* The image as a repair would make it. */
static int check_planned(struct plt_ctx *ctx, struct plt_image *img, const struct plt_open_options *opts,
			 void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
			 struct plt_check_result *ret, struct plt_error *err)
{
	struct plt_rescue_plan plan;
	int r = plt_rescue_plan_make(ctx, img->file, img->name, opts->format, img->engine->key, opts->rescue, opts->flags, &plan, err);

	if (r < 0)
		return r;
	r = plt_check_store(ctx, plan.overlay, img->name, plan.format, found, arg, ret, err);
	ret->corruptions_fixed = plan.before.corruptions_fixed;
	ret->leaks_fixed = plan.before.leaks_fixed;
	plt_rescue_plan_release(&plan);
	return r;
}

int plt_check(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
	      void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
	      struct plt_check_result *ret, struct plt_error *err)
{
	struct plt_image *img;
	char *format;
	int r = plt_bytes_open(ctx, name, opts, PLT_BYTES_READ, &img, &format, err);

	memset(ret, 0, sizeof(*ret));
	ret->format = "";
	if (r == 0)
		r = plt_ctx_may_ignore(ctx, plt_driver_find(format), name, err);
	if (r == 0 && opts && opts->flags & PLT_OPEN_RESCUE)
		r = check_planned(ctx, img, opts, found, arg, ret, err);
	else if (r == 0)
		r = plt_check_store(ctx, img->file, img->name, format, found, arg, ret, err);
	plt_image_close(img, NULL);
	free(format);
	if (r < 0 && r != -ENOTSUP)
		plt_error_prefix(err, "Could not open '%s'", name);
	return r;
}
