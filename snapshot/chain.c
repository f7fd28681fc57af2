/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_chain_look(): what depends on what.  Rounds: all images of a round are opened side by side, by their header
 * alone, without locks; the backing files they name that have not been met yet are the next round.  A file is known by
 * device and inode, whatever its names.  Then each pair of a layer and the one below is judged.  The invariant: no
 * image is opened because of another without the policy on names having its say, and each file once, so circles end.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crew.h"
#include "base/error.h"
#include "formats/probe.h"
#include "snapshot/look.h"

#define LAYERS_MAX 100000
#define LOOKERS 8 /* most of the time they wait for the disk */

/* ---- one file -------------------------------------------------------------------------------- */

static void take_times(struct item *it)
{
	struct statx x;

	it->pub.made = it->pub.written = -1;
	if (statx(AT_FDCWD, it->name, 0, STATX_BTIME | STATX_MTIME, &x) < 0)
		return;
	if (x.stx_mask & STATX_MTIME)
		it->pub.written = x.stx_mtime.tv_sec;
	if (x.stx_mask & STATX_BTIME)
		it->pub.made = x.stx_btime.tv_sec;
}

static bool copy_text(char **ret, const char *text)
{
	*ret = text ? strdup(text) : NULL;
	return !text || *ret;
}

static void take_moments(struct look *l, struct item *it, const struct plt_info *info)
{
	it->moments = info->nsnapshots ? calloc(info->nsnapshots, sizeof(*it->moments)) : NULL;
	l->no_memory |= info->nsnapshots && !it->moments;
	for (unsigned i = 0; it->moments && i < info->nsnapshots; i++) {
		struct moment *m = &it->moments[it->nmoments];

		m->when = info->snapshots[i].date_sec;
		l->no_memory |= !copy_text(&m->name, info->snapshots[i].name);
		it->nmoments += m->name != NULL;
	}
}

static int describe(struct look *l, struct item *it, struct plt_disk *disk)
{
	const struct plt_image *img = plt_disk_image(disk);
	const struct plt_driver *seems;
	struct plt_info *info;
	int r = plt_disk_info(disk, &info, NULL);

	if (r < 0)
		return r;
	it->is_raw = img->drv->flags & PLT_DRIVER_NO_HEADER;
	it->pub.virtual_size = info->virtual_size;
	it->pub.actual_size = info->actual_size;
	if (!copy_text(&it->format, info->format) || !copy_text(&it->backing, info->backing_filename) ||
	    !copy_text(&it->backing_format, info->backing_format) || !copy_text(&it->full, info->full_backing_filename))
		l->no_memory = true;
	take_moments(l, it, info);
	if (img->drv->identity)
		img->drv->identity(plt_disk_image(disk), &it->id);
	if (it->is_raw && plt_probe(img->file, &seems, NULL) == 0 && !(seems->flags & PLT_DRIVER_NO_HEADER))
		it->looks_like = seems->name;
	plt_info_free(info);
	return 0;
}

/* Of several names for the parent the right one; where none is right, the image itself is described all the same. */
static void look_at(struct look *l, struct item *it)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT, why = PLT_ERROR_INIT;
	struct plt_disk *disk = NULL;
	struct stat sb;
	int r;

	it->pub.actual_size = -1;
	take_times(it);
	if (stat(it->name, &sb) == 0) {
		it->found = true;
		it->dev = sb.st_dev;
		it->ino = sb.st_ino;
	}
	o.flags = PLT_OPEN_INSPECT | PLT_OPEN_FORCE_SHARE | PLT_OPEN_NO_KEY;
	if (!it->from_caller)
		o.flags |= PLT_OPEN_REFERENCE;
	o.flags |= PLT_OPEN_FIND_BACKING;
	o.format = it->hint && plt_driver_find(it->hint) ? it->hint : NULL;
	r = plt_disk_open(l->ctx, it->name, &o, &disk, &why);
	if (r < 0 && o.format) { /* (that the format is another is said later) */
		o.format = NULL;
		r = plt_disk_open(l->ctx, it->name, &o, &disk, &why);
	}
	if (r < 0) {
		o.flags &= ~(unsigned)PLT_OPEN_FIND_BACKING;
		r = plt_disk_open(l->ctx, it->name, &o, &disk, &err);
		if (r == 0)
			plt_look_say(it, PLT_LAYER_LOST, why.text);
	}
	if (r == 0)
		r = describe(l, it, disk);
	if (r < 0)
		plt_look_say(it, PLT_LAYER_UNREADABLE, *err.text ? err.text : strerror(-r));
	plt_disk_close(disk, NULL);
}

static int looker(void *arg, unsigned index)
{
	struct look *l = arg;

	(void)index;
	for (;;) {
		unsigned i;

		pthread_mutex_lock(&l->crew->lock);
		i = l->next < l->n ? l->next++ : UINT32_MAX;
		pthread_mutex_unlock(&l->crew->lock);
		if (i == UINT32_MAX)
			return 0;
		look_at(l, &l->v[i]);
	}
}

/* ---- all files ------------------------------------------------------------------------------- */

static int push(struct look *l, const char *name, const char *hint, bool from_caller, struct plt_error *err)
{
	struct item *v = l->v;

	if (l->n >= LAYERS_MAX)
		return plt_error_set(err, EFBIG, "More than %d images", LAYERS_MAX);
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		v = realloc(l->v, l->cap * sizeof(*v));
		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		l->v = v;
	}
	v[l->n] = (struct item){ .name = strdup(name), .from_caller = from_caller };
	if (!v[l->n].name || !copy_text(&v[l->n].hint, hint)) {
		free(v[l->n].name);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	l->n++;
	return 0;
}

static int push_folder(struct look *l, const char *folder, unsigned flags, struct plt_error *err)
{
	struct plt_names names = { 0 };
	int r = plt_names_of_folder(&names, folder, flags & PLT_CHAIN_HIDDEN, err);

	for (unsigned i = 0; r == 0 && i < names.n; i++)
		r = push(l, names.v[i], NULL, true, err);
	plt_names_release(&names);
	return r;
}

/* The layer in the file @path: -1 if it is none of them; -2 if there is no such file. */
int plt_look_find(const struct look *l, const char *path)
{
	struct stat sb;

	if (!strncmp(path, "file:", 5))
		path += 5;
	if (stat(path, &sb) < 0)
		return -2;
	for (unsigned i = 0; i < l->n; i++)
		if (l->v[i].found && l->v[i].dev == sb.st_dev && l->v[i].ino == sb.st_ino)
			return (int)i;
	return -1;
}

static int next_round(struct look *l, unsigned from, struct plt_error *err)
{
	unsigned until = l->n;

	for (unsigned i = from; i < until; i++) {
		int r = l->v[i].full ? plt_look_find(l, l->v[i].full) : -2;

		if (r == -1) {
			bool met = false;

			for (unsigned k = until; k < l->n && !met; k++)
				met = !strcmp(l->v[k].name, l->v[i].full);
			r = met ? 0 : push(l, l->v[i].full, l->v[i].backing_format, false, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int look_at_all(struct look *l, struct plt_error *err)
{
	struct plt_crew crew;
	unsigned done = 0;
	int r = plt_crew_init(&crew, NULL, NULL) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;

	if (r < 0)
		return r;
	l->crew = &crew;
	while (r == 0 && done < l->n) {
		unsigned begin = done;

		done = l->n;
		r = plt_crew_run(&crew, PLT_MIN(LOOKERS, done - begin), looker, l, err);
		if (r == 0 && l->no_memory)
			r = plt_error_set(err, ENOMEM, "out of memory");
		if (r == 0)
			r = next_round(l, begin, err);
	}
	plt_crew_release(&crew);
	return r;
}

/* ---- shares ---------------------------------------------------------------------------------- */

/* The chain of the first image, opened as a disk: a layer is known by its file. */
static void add_up(struct look *l)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_cursor c;
	struct plt_disk *disk;

	o.flags = PLT_OPEN_FORCE_SHARE | PLT_OPEN_NO_KEY;
	if (plt_disk_open(l->ctx, l->v[0].name, &o, &disk, NULL) < 0)
		return; /* what is wrong is said of the layers */
	plt_cursor_init(&c, disk, 0);
	for (uint64_t pos = 0; pos < c.size;) {
		const struct plt_extent *e;
		int i = 0;

		if (plt_cursor_at(&c, pos, &e, NULL) < 0)
			break;
		pos = e->off + e->len;
		for (unsigned d = 0; d < e->depth && i >= 0; d++)
			i = l->v[i].pub.below;
		if (i >= 0 && e->flags & PLT_EXTENT_PRESENT && !(e->flags & PLT_EXTENT_ZERO))
			l->v[i].pub.share += e->len;
	}
	for (int i = 0; i >= 0; i = l->v[i].pub.below)
		l->v[i].pub.have_share = true;
	plt_disk_close(disk, NULL);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b, void *arg)
{
	const struct look *l = arg;

	return strcmp(l->v[*(const unsigned *)a].name, l->v[*(const unsigned *)b].name);
}

static void fill(struct item *it)
{
	it->pub.name = it->name;
	it->pub.format = it->format;
	it->pub.backing = it->backing;
	it->pub.backing_format = it->backing_format;
	it->pub.full_backing = it->full;
	it->pub.id = *it->id.own ? it->id.own : NULL;
	it->pub.parent_id = *it->id.parent ? it->id.parent : NULL;
	it->pub.why = it->why;
	it->pub.moved_to = it->moved_to;
	it->pub.findings = it->findings;
	it->pub.nfindings = it->nfindings;
}

/* What the caller sees: sorted, unless it is one chain; and the numbers in .below for that order. */
static int publish(struct look *l, unsigned flags, struct plt_error *err)
{
	unsigned *place = calloc((size_t)l->n + 1, sizeof(*place)), *order = calloc((size_t)l->n + 1, sizeof(*order));
	unsigned n = 0;

	l->out = calloc((size_t)l->n + 1, sizeof(*l->out));
	if (!place || !order || !l->out) {
		free(place);
		free(order);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	for (unsigned i = 0; i < l->n; i++) {
		struct item *it = &l->v[i];

		fill(it);
		if (!(flags & PLT_CHAIN_KNOWN_ONLY && it->from_caller && !it->pub.above && it->is_raw))
			order[n++] = i;
	}
	if (!(flags & (PLT_CHAIN_SHARE | PLT_CHAIN_IN_ORDER)))
		qsort_r(order, n, sizeof(*order), by_name, l);
	for (unsigned i = 0; i < n; i++)
		place[order[i]] = i;
	for (unsigned i = 0; i < n; i++) {
		l->out[i] = l->v[order[i]].pub;
		if (l->out[i].below >= 0)
			l->out[i].below = (int)place[l->out[i].below];
	}
	l->pub = (struct plt_chain){ l->out, n };
	free(place);
	free(order);
	return 0;
}

int plt_chain_look(struct plt_ctx *ctx, const char *const *names, unsigned n, unsigned flags, struct plt_chain **ret,
		   struct plt_error *err)
{
	struct look *l = calloc(1, sizeof(*l));
	int r = l ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	if (r < 0)
		return r;
	l->ctx = ctx;
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = flags & PLT_CHAIN_FOLDERS ? push_folder(l, names[i], flags, err) : push(l, names[i], NULL, true, err);
	if (r == 0)
		r = look_at_all(l, err);
	if (r == 0) {
		plt_look_judge(l);
		r = l->no_memory ? plt_error_set(err, ENOMEM, "out of memory") : 0;
	}
	if (r == 0 && n && flags & PLT_CHAIN_SHARE && !(l->v[0].pub.trouble & PLT_LAYER_LOOP))
		add_up(l);
	if (r == 0)
		r = publish(l, flags, err);
	if (r < 0) {
		plt_chain_free(&l->pub);
		return r;
	}
	*ret = &l->pub;
	return 0;
}

void plt_chain_free(struct plt_chain *chain)
{
	struct look *l = (struct look *)chain;

	if (!l)
		return;
	for (unsigned i = 0; i < l->n; i++) {
		struct item *it = &l->v[i];

		free(it->name);
		free(it->format);
		free(it->backing);
		free(it->backing_format);
		free(it->full);
		free(it->why);
		free(it->hint);
		free(it->moved_to);
		for (unsigned k = 0; k < it->nmoments; k++)
			free(it->moments[k].name);
		free(it->moments);
		for (unsigned k = 0; k < it->nfindings; k++)
			free((char *)(uintptr_t)it->findings[k].text);
	}
	free(l->v);
	free(l->out);
	free(l);
}
