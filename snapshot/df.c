/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_df(): what the images of a host take, share and may still take.  Which image stands on which says plt_chain_look(); here
 * bytes are added up along that forest, by headers and what the host's filesystem says of the files, and no data or map is read.
 *
 * A file belongs to the images at the top (nobody stands on them) that reach it by their chains.  With one such image it is
 * exclusive to that one, with several it is shared.
 */
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "formats/name.h"
#include "snapshot/snapshot.h"

#define RAW_LEAST (UINT64_C(1) << 20) /* a file of a folder that is taken for a raw image */
#define FIEMAP_AT_ONCE 256
#define FIEMAP_MOST 65536 /* extents of one file: one that has more is not looked through */

struct item {
	struct plt_df_image pub;
	dev_t dev;
	ino_t ino, data_ino; /* data: of its external data file, 0: it has none */
	dev_t data_dev;
	int owner; /* the top image that has it; -1 none yet, -2 several */
	struct plt_df_volume *volume;
};

struct df {
	struct plt_df pub;
	struct plt_chain *chain;
	struct plt_df_image *out;
	struct plt_df_volume *volumes;
	struct item *v;
	unsigned n;
};

void plt_df_free(struct plt_df *df)
{
	struct df *d = (struct df *)df;

	if (!d)
		return;
	plt_chain_free(d->chain);
	free(d->out);
	free(d->volumes);
	free(d->v);
	free(d);
}

/* Bytes that the file shares with others by reflinks; -1: the filesystem does not say, or it is too much to ask. */
static int64_t reflinked(int fd)
{
	size_t len = sizeof(struct fiemap) + FIEMAP_AT_ONCE * sizeof(struct fiemap_extent);
	struct fiemap *map PLT_AUTOFREE = malloc(len);
	uint64_t off = 0, shared = 0, seen = 0;
	bool last = false;

	while (map && !last) {
		memset(map, 0, len);
		map->fm_start = off;
		map->fm_length = FIEMAP_MAX_OFFSET - off;
		map->fm_extent_count = FIEMAP_AT_ONCE;
		seen += FIEMAP_AT_ONCE;
		if (seen > FIEMAP_MOST || ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return -1;
		if (!map->fm_mapped_extents)
			break;
		for (unsigned i = 0; i < map->fm_mapped_extents && i < FIEMAP_AT_ONCE; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];

			if (e->fe_flags & FIEMAP_EXTENT_SHARED)
				shared += e->fe_length;
			last = last || e->fe_flags & FIEMAP_EXTENT_LAST;
			off = e->fe_logical + e->fe_length;
		}
	}
	return map ? (int64_t)shared : -1;
}

/* How large the file may grow: with its own geometry, all of it written. */
static uint64_t grown(const struct plt_info *info)
{
	struct plt_measure_options o = PLT_MEASURE_OPTIONS_INIT;
	struct plt_measure_result res;
	char text[64];
	const char *list[] = { text, NULL };

	o.format = info->format;
	o.virtual_size = info->virtual_size;
	snprintf(text, sizeof(text), "cluster_size=%u", info->cluster_size);
	if (info->cluster_size && !strcmp(info->format, "qcow2"))
		o.options = list;
	if (plt_measure(NULL, &o, &res, NULL) == 0)
		return res.fully_allocated;
	return info->virtual_size;
}

static struct plt_df_volume *volume_of(struct df *d, dev_t dev, const char *path, int fd)
{
	struct plt_df_volume *v;
	struct statvfs sv;
	unsigned i;

	for (i = 0; i < d->pub.nvolumes; i++)
		if (d->volumes[i].device == dev)
			return &d->volumes[i];
	v = &d->volumes[d->pub.nvolumes++];
	*v = (struct plt_df_volume){ .device = dev, .path = path };
	if (fstatvfs(fd, &sv) == 0) {
		v->size = (uint64_t)sv.f_blocks * sv.f_frsize;
		v->free = (uint64_t)sv.f_bavail * sv.f_frsize;
	}
	return v;
}

/* An external data file is a part of its image. */
static void add_data_file(struct item *it, const struct plt_info *info)
{
	json_t *all = info->specific_json ? json_loads(info->specific_json, 0, NULL) : NULL;
	const char *name = json_string_value(json_object_get(json_object_get(all, "data"), "data-file"));
	PLT_AUTOFREE char *full = NULL;
	struct stat sb;

	if (name && plt_name_resolve(it->pub.name, name, &full, NULL) == 0 && stat(full, &sb) == 0) {
		it->data_dev = sb.st_dev;
		it->data_ino = sb.st_ino;
		if (it->pub.allocated >= 0)
			it->pub.allocated += (int64_t)sb.st_blocks * 512;
	}
	json_decref(all);
}

/* What a header says, and the host of its file. */
static void look(struct df *d, struct plt_ctx *ctx, unsigned i)
{
	const struct plt_layer *l = &d->chain->layers[i];
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct item *it = &d->v[i];
	struct plt_disk *disk;
	struct plt_info *info;
	struct stat sb;
	int fd;

	it->owner = -1;
	it->pub = (struct plt_df_image){
		.name = l->name,
		.format = l->format,
		.virtual_size = l->virtual_size,
		.below = l->below,
		.overlays = l->above,
		.allocated = -1,
		.reflinked = -1,
		.why = l->trouble & PLT_LAYER_UNREADABLE ? l->why ? l->why : "it does not open" : NULL,
	};
	fd = open(l->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && fstat(fd, &sb) == 0) {
		it->dev = sb.st_dev;
		it->ino = sb.st_ino;
		it->volume = volume_of(d, sb.st_dev, l->name, fd);
		it->pub.allocated = (int64_t)sb.st_blocks * 512;
		it->pub.length = (uint64_t)sb.st_size;
		it->pub.reflinked = S_ISREG(sb.st_mode) ? reflinked(fd) : -1;
		if (it->pub.reflinked > it->pub.allocated)
			it->pub.reflinked = it->pub.allocated;
	}
	if (fd >= 0)
		close(fd);
	if (!l->format || it->pub.why)
		return;
	o.format = l->format;
	o.flags = PLT_OPEN_INSPECT | PLT_OPEN_NO_KEY | PLT_OPEN_FORCE_SHARE | PLT_OPEN_REFERENCE;
	if (plt_disk_open(ctx, l->name, &o, &disk, NULL) < 0)
		return; /* (it did a moment ago) */
	if (plt_disk_info(disk, &info, NULL) == 0) {
		it->pub.snapshots = info->nsnapshots;
		it->pub.grown = grown(info);
		add_data_file(it, info);
		for (unsigned k = 0; k < info->nsnapshots; k++)
			it->pub.vm_state += info->snapshots[k].vm_state_size;
		plt_info_free(info);
	}
	plt_disk_close(disk, NULL);
}

static void leave_out(struct item *it, const char *why)
{
	it->pub.other = true;
	it->pub.allocated = -1;
	it->pub.why = why;
}

/* Whom each file belongs to: down from every image at the top.  A circle ends after as many steps as there are files. */
static void own(struct df *d)
{
	for (unsigned i = 0; i < d->n; i++) {
		int at = (int)i;

		if (d->v[i].pub.overlays)
			continue;
		for (unsigned steps = 0; at >= 0 && steps < d->n; steps++, at = d->v[at].pub.below) {
			d->v[at].owner = d->v[at].owner == -1 ? (int)i : d->v[at].owner == (int)i ? (int)i : -2;
			if (d->v[at].owner == -2)
				d->v[at].pub.shared_by++;
			else
				d->v[at].pub.shared_by = 1;
		}
	}
	for (unsigned i = 0; i < d->n; i++) {
		struct item *it = &d->v[i];
		uint64_t bytes = it->pub.allocated < 0 ? 0 : (uint64_t)it->pub.allocated, linked;

		linked = it->pub.reflinked < 0 ? 0 : (uint64_t)it->pub.reflinked;
		if (it->owner >= 0)
			d->v[it->owner].pub.exclusive += bytes - linked;
		if (it->owner == -2)
			d->pub.shared += bytes;
		else
			d->pub.exclusive += bytes - linked, d->pub.reflinked += linked;
	}
}

/* Those at the top are what guests write to. */
static void add_up(struct df *d)
{
	for (unsigned i = 0; i < d->n; i++) {
		struct plt_df_image *p = &d->v[i].pub;
		uint64_t bytes = p->allocated < 0 ? 0 : (uint64_t)p->allocated, kept = 0;
		struct plt_df_volume *v = d->v[i].volume;

		d->pub.allocated += bytes;
		if (v)
			v->allocated += bytes;
		if (p->overlays || p->why)
			continue;
		/* what snapshots keep, and what is reflinked, is written anew beside it */
		if (p->reflinked > 0)
			kept = (uint64_t)p->reflinked;
		if (p->snapshots)
			kept = bytes;
		p->growth = p->grown > bytes - kept ? p->grown - (bytes - kept) : 0;
		d->pub.virtual_size += p->virtual_size;
		d->pub.growth += p->growth;
		if (v) {
			v->virtual_size += p->virtual_size;
			v->growth += p->growth;
		}
	}
}

static bool is_folder(const char *name)
{
	struct stat sb;

	return stat(name, &sb) == 0 && S_ISDIR(sb.st_mode);
}

/* A file of a folder that is no image; those that were named, or that images stand on, are. */
static bool is_other(const struct item *it, const struct plt_layer *l, const char *const *names, unsigned n)
{
	if (l->above || !l->format || strcmp(l->format, "raw"))
		return false;
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(names[i], l->name))
			return false;
	return it->pub.length < RAW_LEAST || it->pub.length % 512;
}

static int look_at_all(struct df *d, struct plt_ctx *ctx, const char *const *names, unsigned n,
		       struct plt_error *err)
{
	struct plt_names all = { 0 };
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = is_folder(names[i]) ? plt_names_of_folder(&all, names[i], false, err)
					: plt_names_add(&all, "", names[i]);
	if (r == 0)
		r = plt_chain_look(ctx, (const char *const *)all.v, all.n, 0, &d->chain, err);
	plt_names_release(&all);
	if (r < 0)
		return plt_error_default(err, -r, "out of memory");
	d->n = d->chain->n;
	d->v = calloc(d->n + 1, sizeof(*d->v));
	d->out = calloc(d->n + 1, sizeof(*d->out));
	d->volumes = calloc(d->n + 1, sizeof(*d->volumes));
	if (!d->v || !d->out || !d->volumes)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < d->n; i++) {
		struct item *it = &d->v[i];

		look(d, ctx, i);
		if (is_other(it, &d->chain->layers[i], names, n))
			leave_out(it, "no image");
	}
	return 0;
}

int plt_df(struct plt_ctx *ctx, const char *const *names, unsigned n, struct plt_df **ret, struct plt_error *err)
{
	struct df *d = calloc(1, sizeof(*d));
	int r;

	*ret = NULL;
	if (!d)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = look_at_all(d, ctx, names, n, err);
	if (r < 0) {
		plt_df_free(&d->pub);
		return r;
	}
	for (unsigned i = 0; i < d->n; i++)
		for (unsigned k = 0; d->v[i].data_ino && k < d->n; k++)
			if (d->v[k].ino == d->v[i].data_ino && d->v[k].dev == d->v[i].data_dev)
				leave_out(&d->v[k], "the data file of another image");
	own(d);
	add_up(d);
	for (unsigned i = 0; i < d->n; i++) {
		d->out[i] = d->v[i].pub;
		d->pub.n += !d->out[i].other;
	}
	d->pub.images = d->out;
	d->pub.nlisted = d->n;
	d->pub.volumes = d->volumes;
	*ret = &d->pub;
	return 0;
}
