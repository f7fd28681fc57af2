/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Images that stand on one another, and the model of what they show: see chainlab.h.  Here is what is done to them;
 * chainjudge.c has what is demanded.
 */
#include "tests/snapshot/chainlab.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"

static const struct chain_kind kinds[] = {
	{ "raw", NULL, false, true, false, false, false },
	{ "qcow2", "cluster_size=512", true, true, false, false, false },
	{ "qcow2", "cluster_size=4k", true, true, false, false, false },
	{ "qcow2", "cluster_size=64k", true, true, false, false, false },
	{ "qcow2", "cluster_size=4k,compat=0.10", true, true, false, false, false },
	{ "qcow2", "cluster_size=16k,extended_l2=on", true, true, false, false, false },
	{ "qcow2", "cluster_size=1k,lazy_refcounts=on", true, true, false, false, true },
	{ "qcow2", "cluster_size=4k,compression_type=zstd,refcount_bits=8", true, true, false, false, false },
	{ "qcow2", "cluster_size=4k", true, true, true, false, false },
	{ "vpc", "force_size=on,block_size=4k", true, true, false, true, false },
	{ "vpc", "force_size=on,subformat=fixed", false, true, false, true, false },
};

static void must(int r, const struct plt_error *err, const char *what)
{
	if (r < 0)
		ck_abort_msg("%s: %s", what, err->text);
}

uint64_t chain_any(struct chainlab *c, uint64_t n)
{
	return n ? plt_unit_random(&c->seed) % n : 0;
}

char *chain_path(const struct chainlab *c, const char *name)
{
	char *s;

	if (asprintf(&s, "%s/%s", c->dir, name) < 0)
		abort();
	return s;
}

static void warn(void *arg, const char *text)
{
	(void)text;
	((struct chainlab *)arg)->warned = true;
}

void chainlab_init(struct chainlab *c, uint64_t seed)
{
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;

	*c = (struct chainlab){ .dir = plt_unit_dir(), .cache = "unsafe", .seed = seed };
	o.cache_bytes = 1 << 20;
	o.warn = warn;
	o.warn_arg = c;
	must(plt_ctx_new(&o, &c->ctx, &err), &err, "context");
	c->buf = malloc(CHAIN_MOST);
	c->peer = system("qemu-img --version >/dev/null 2>&1") == 0;
}

static void forget_snapshot(struct chain_layer *l, unsigned k)
{
	free(l->kept[k].sec);
	memmove(l->kept + k, l->kept + k + 1, (l->nkept - k - 1) * sizeof(l->kept[0]));
	l->nkept--;
}

static void forget_marks(struct chain_layer *l, unsigned k)
{
	free(l->marks[k].must);
	memmove(l->marks + k, l->marks + k + 1, (l->nmarks - k - 1) * sizeof(l->marks[0]));
	l->nmarks--;
}

static void remove_layer(struct chainlab *c, struct chain_layer *l)
{
	char *path = chain_path(c, l->name), *data;

	unlink(path);
	if (l->kind->data) {
		if (asprintf(&data, "%s.data", path) < 0)
			abort();
		unlink(data);
		free(data);
	}
	free(path);
	while (l->nkept)
		forget_snapshot(l, 0);
	while (l->nmarks)
		forget_marks(l, 0);
	free(l->sec);
	*l = (struct chain_layer){ 0 };
}

void chainlab_release(struct chainlab *c)
{
	for (unsigned i = 0; i < CHAIN_LAYERS; i++)
		if (c->v[i].used)
			remove_layer(c, &c->v[i]);
	plt_ctx_free(c->ctx);
	free(c->buf);
}

/* ---- which image ----------------------------------------------------------------------------- */

bool chain_is_above(const struct chainlab *c, int i, int on)
{
	while (i >= 0) {
		i = c->v[i].below;
		if (i == on)
			return i >= 0;
	}
	return false;
}

static bool is_stood_on(const struct chainlab *c, int on)
{
	for (unsigned i = 0; i < CHAIN_LAYERS; i++)
		if (c->v[i].used && c->v[i].below == on)
			return true;
	return false;
}

/* One at random of those that fit; -1: none does. */
static int pick(struct chainlab *c, bool (*fits)(const struct chainlab *c, int i, int arg), int arg)
{
	int found = -1;
	unsigned n = 0;

	for (int i = 0; i < CHAIN_LAYERS; i++)
		if (c->v[i].used && fits(c, i, arg) && chain_any(c, ++n) == 0)
			found = i;
	return found;
}

static bool is_any(const struct chainlab *c, int i, int arg)
{
	(void)c, (void)i, (void)arg;
	return true;
}

static bool is_top(const struct chainlab *c, int i, int arg)
{
	(void)arg;
	return !is_stood_on(c, i);
}

/* ---- making ---------------------------------------------------------------------------------- */

static bool is_old_vhd(const struct chain_kind *k)
{
	return !strcmp(k->format, "vpc") || !strcmp(k->format, "raw");
}

static uint64_t some_size(struct chainlab *c)
{
	return 512 * (CHAIN_SECTORS / 4 + chain_any(c, CHAIN_SECTORS - CHAIN_SECTORS / 4 + 1));
}

void chain_make(struct chainlab *c)
{
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const char *v[3] = { NULL };
	struct plt_disk *disk;
	struct chain_layer *l;
	char *path, *data = NULL;
	int at = 0, base, victim;

	while (at < CHAIN_LAYERS && c->v[at].used)
		at++;
	if (at == CHAIN_LAYERS) {
		victim = pick(c, is_top, 0);
		remove_layer(c, &c->v[victim]);
		at = victim;
	}
	l = &c->v[at];
	l->kind = &kinds[chain_any(c, PLT_ARRAY_SIZE(kinds))];
	base = l->kind->stands && chain_any(c, 4) ? pick(c, is_any, 0) : -1;
	if (base >= 0 && l->kind->vhd_only && !is_old_vhd(c->v[base].kind))
		base = -1;
	l->below = base;
	snprintf(l->name, sizeof(l->name), "l%" PRIu64 ".%s", c->made++, l->kind->format);
	l->sec = calloc(CHAIN_SECTORS, sizeof(*l->sec));
	l->size = base >= 0 && chain_any(c, 2) ? c->v[base].size : some_size(c);
	if (base >= 0)
		memcpy(l->sec, c->v[base].sec, PLT_MIN(l->size, c->v[base].size) / 512 * sizeof(*l->sec));
	path = chain_path(c, l->name);
	if (l->kind->data) {
		if (asprintf(&data, "data_file=%s.data", path) < 0)
			abort();
		v[0] = data;
	}
	v[v[0] ? 1 : 0] = l->kind->options;
	o.format = l->kind->format;
	o.options = v;
	o.virtual_size = l->size;
	if (base >= 0) {
		o.backing = c->v[base].name;
		o.backing_format = c->v[base].kind->format;
	}
	must(plt_create(c->ctx, path, &o, NULL, &err), &err, path);
	open.format = l->kind->format;
	open.cache = c->cache;
	must(plt_disk_open(c->ctx, path, &open, &disk, &err), &err, path);
	ck_assert_uint_eq(plt_disk_size(disk), l->size);
	must(plt_disk_close(disk, &err), &err, path);
	l->used = true;
	free(path);
	free(data);
}

/* ---- one disk -------------------------------------------------------------------------------- */

static void mark(struct chain_layer *l, uint64_t first, uint64_t n)
{
	for (unsigned k = 0; k < l->nmarks; k++)
		if (l->marks[k].enabled)
			memset(l->marks[k].must + first, 1, n);
}

/* What is discarded may read as before, and where there is something below it never shows. */
static void discard(struct chainlab *c, struct chain_layer *l, struct plt_disk *disk, uint64_t first, uint64_t n)
{
	struct plt_error err = PLT_ERROR_INIT;

	must(plt_discard(disk, first * 512, n * 512, &err), &err, "discard");
	must(plt_read(disk, first * 512, c->buf, n * 512, &err), &err, "read");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t tag;

		memcpy(&tag, c->buf + i * 512, sizeof(tag));
		if (tag && tag != l->sec[first + i])
			ck_abort_msg("%s: sector %" PRIu64 " discarded shows %" PRIu64, l->name, first + i, tag);
		l->sec[first + i] = tag;
	}
}

static void write_one(struct chainlab *c, struct chain_layer *l, struct plt_disk *disk)
{
	uint64_t all = l->size / 512, first = chain_any(c, all), n = 1 + chain_any(c, chain_any(c, 6) ? 24 : 200);
	uint64_t unit = plt_disk_cluster_size(disk) / 512, tag = ++c->tag;
	struct plt_error err = PLT_ERROR_INIT;
	unsigned how = (unsigned)chain_any(c, 10);

	n = PLT_MIN(n, all - first);
	if (how == 1 && plt_disk_can_compress(disk)) {
		first = first / unit * unit;
		n = PLT_MIN(unit, all - first);
	}
	mark(l, first, n);
	if (how == 0) {
		discard(c, l, disk, first, n);
		return;
	}
	for (uint64_t i = 0; i < n * 64; i++)
		memcpy(c->buf + i * 8, &tag, 8);
	if (how == 2 || how == 3)
		must(plt_write_zeroes(disk, first * 512, n * 512, how == 2 ? PLT_ZERO_UNMAP : 0, &err), &err, "zeroes");
	else if (how == 1 && plt_disk_can_compress(disk))
		must(plt_write_compressed(disk, first * 512, c->buf, n * 512, 1, &err), &err, "write -c");
	else
		must(plt_write(disk, first * 512, c->buf, n * 512, &err), &err, "write");
	for (uint64_t i = 0; i < n; i++)
		l->sec[first + i] = how == 2 || how == 3 ? 0 : tag;
}

static bool is_version_2(const struct chain_layer *l)
{
	return l->kind->options && strstr(l->kind->options, "compat=0.10");
}

static void resize(struct chainlab *c, struct chain_layer *l, struct plt_disk *disk)
{
	uint64_t size = some_size(c), old = l->size / 512;
	struct plt_error err = PLT_ERROR_INIT;
	int r = plt_resize(disk, size, PLT_RESIZE_SHRINK, NULL, &err);

	if (r == -ENOTSUP && ((is_version_2(l) && l->nkept) || (l->below >= 0 && l->kind->vhd_only)))
		return;
	must(r, &err, "resize");
	l->size = size;
	if (size / 512 < old)
		memset(l->sec + size / 512, 0, (old - size / 512) * sizeof(*l->sec));
	for (unsigned k = 0; k < l->nmarks && size / 512 < old; k++)
		memset(l->marks[k].must + size / 512, 0, old - size / 512);
}

/* A count has reached its limit, or what the image is allows none: nothing has changed. */
static bool is_refused(const struct chain_layer *l, int r)
{
	return r == -ERANGE || (r == -ENOTSUP && (l->kind->data || strcmp(l->kind->format, "qcow2")));
}

static void snapshots(struct chainlab *c, struct chain_layer *l, struct plt_disk *disk)
{
	unsigned k = (unsigned)chain_any(c, l->nkept), what = (unsigned)chain_any(c, 4);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_snapshot how = { .icount = -1 };
	struct chain_kept *s;
	int r;

	if (what < 2 && l->nkept < CHAIN_SNAPSHOTS) {
		s = &l->kept[l->nkept];
		snprintf(s->name, sizeof(s->name), "s%" PRIu64, c->made++);
		how.name = s->name;
		r = plt_snapshot_create(disk, &how, &err);
		if (is_refused(l, r))
			return;
		must(r, &err, "snapshot -c");
		s->size = l->size;
		s->sec = malloc(CHAIN_SECTORS * sizeof(*s->sec));
		memcpy(s->sec, l->sec, CHAIN_SECTORS * sizeof(*s->sec));
		l->nkept++;
	} else if (what == 2 && l->nkept) {
		r = plt_snapshot_apply(disk, NULL, l->kept[k].name, &err);
		if (is_refused(l, r))
			return;
		must(r, &err, "snapshot -a");
		l->size = l->kept[k].size;
		memcpy(l->sec, l->kept[k].sec, CHAIN_SECTORS * sizeof(*l->sec));
		mark(l, 0, l->size / 512);
		for (unsigned m = 0; m < l->nmarks; m++)
			memset(l->marks[m].must + l->size / 512, 0, CHAIN_SECTORS - l->size / 512);
	} else if (l->nkept) {
		must(plt_snapshot_delete(disk, NULL, l->kept[k].name, &err), &err, "snapshot -d");
		forget_snapshot(l, k);
	}
}

static void bitmaps(struct chainlab *c, struct chain_layer *l, struct plt_disk *disk)
{
	unsigned k = (unsigned)chain_any(c, l->nmarks);
	struct chain_marks *m = &l->marks[k];
	struct plt_bitmap_action a = { .verb = PLT_BITMAP_ADD, .name = m->name };
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (l->nmarks < CHAIN_MARKS && chain_any(c, 2)) {
		m = &l->marks[l->nmarks];
		snprintf(m->name, sizeof(m->name), "b%" PRIu64, c->made++);
		a.name = m->name;
		a.granularity = (uint32_t)(512u << chain_any(c, 8));
	} else if (!l->nmarks) {
		return;
	} else {
		static const enum plt_bitmap_verb verbs[] = { PLT_BITMAP_REMOVE, PLT_BITMAP_CLEAR, PLT_BITMAP_ENABLE,
							      PLT_BITMAP_DISABLE, PLT_BITMAP_MERGE };

		a.verb = verbs[chain_any(c, PLT_ARRAY_SIZE(verbs))];
		a.source_name = l->marks[chain_any(c, l->nmarks)].name;
	}
	r = plt_bitmap_change(disk, &a, 1, NULL, &err);
	if (r == -ENOTSUP && (strcmp(l->kind->format, "qcow2") || is_version_2(l)))
		return;
	if (r == -EINVAL && a.verb == PLT_BITMAP_MERGE) /* of another granularity */
		return;
	must(r, &err, "bitmap");
	switch (a.verb) {
	case PLT_BITMAP_ADD:
		m->must = calloc(CHAIN_SECTORS, 1);
		m->enabled = true;
		l->nmarks++;
		break;
	case PLT_BITMAP_REMOVE:
		forget_marks(l, k);
		break;
	case PLT_BITMAP_CLEAR:
		memset(m->must, 0, CHAIN_SECTORS);
		break;
	case PLT_BITMAP_MERGE:
		for (unsigned s = 0; s < l->nmarks; s++)
			for (uint64_t i = 0; !strcmp(l->marks[s].name, a.source_name) && i < CHAIN_SECTORS; i++)
				m->must[i] |= l->marks[s].must[i];
		break;
	default:
		m->enabled = a.verb == PLT_BITMAP_ENABLE;
	}
}

void chain_burst(struct chainlab *c)
{
	int i = pick(c, is_top, 0);
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct chain_layer *l = &c->v[i];
	struct plt_disk *disk;
	char *path;

	if (i < 0)
		return;
	path = chain_path(c, l->name);
	o.format = l->kind->format;
	o.flags = PLT_OPEN_WRITE;
	o.cache = c->cache;
	must(plt_disk_open(c->ctx, path, &o, &disk, &err), &err, path);
	for (uint64_t n = 1 + chain_any(c, 24); n; n--, c->ops++) {
		unsigned what = (unsigned)chain_any(c, 24);

		if (what == 0)
			resize(c, l, disk);
		else if (what <= 3)
			snapshots(c, l, disk);
		else if (what <= 5)
			bitmaps(c, l, disk);
		else if (what == 6)
			must(plt_flush(disk, &err), &err, "flush");
		else
			write_one(c, l, disk);
	}
	must(plt_disk_close(disk, &err), &err, path);
	free(path);
}

/* ---- chains ---------------------------------------------------------------------------------- */

static bool can_rebase(const struct chainlab *c, int i, int arg)
{
	(void)arg;
	return c->v[i].kind->stands;
}

static bool can_be_flattened(const struct chainlab *c, int i, int arg)
{
	return can_rebase(c, i, arg) && c->v[i].below >= 0;
}

/* A layer in the middle. */
static bool can_coalesce(const struct chainlab *c, int i, int arg)
{
	(void)arg;
	return is_stood_on(c, i);
}

static bool stands_on(const struct chainlab *c, int i, int arg)
{
	return c->v[i].below == arg;
}

static bool can_commit(const struct chainlab *c, int i, int arg)
{
	(void)arg;
	return c->v[i].below >= 0 && !is_stood_on(c, i);
}

/* Does what a deed writes into have to grow? */
static bool grows(const struct chainlab *c, const struct chain_deed *d)
{
	return d->on >= 0 && (d->verb == CHAIN_COMMIT || d->verb == CHAIN_COALESCE) && c->v[d->on].size < c->v[d->i].size;
}

/* Where it ends the footer of the smaller one was, until that has been overwritten. */
bool chain_grows_fixed(const struct chainlab *c, const struct chain_deed *d)
{
	return grows(c, d) && c->v[d->on].kind->options && strstr(c->v[d->on].kind->options, "fixed");
}

/* An image that has to grow for it, and cannot. */
static bool is_stuck(const struct chainlab *c, const struct chain_deed *d)
{
	return grows(c, d) && ((is_version_2(&c->v[d->on]) && c->v[d->on].nkept) ||
			       (c->v[d->on].below >= 0 && c->v[d->on].kind->vhd_only));
}

bool chain_may_be_refused(const struct chainlab *c, const struct chain_deed *d)
{
	const struct chain_layer *l = &c->v[d->i];

	switch (d->verb) {
	case CHAIN_COMMIT:
		return is_stuck(c, d);
	case CHAIN_FLATTEN: /* by snapshots that read from below */
		return l->nkept || l->kind->vhd_only;
	case CHAIN_COALESCE: /* by whom it would change */
		return true;
	default: /* a VHD stands on VHDs of its size */
		return l->kind->vhd_only;
	}
}

static bool leads_not_to(const struct chainlab *c, int i, int arg)
{
	return i != arg && !chain_is_above(c, i, arg);
}

static struct chain_deed choose_rebase(struct chainlab *c)
{
	struct chain_deed d = { .verb = CHAIN_REBASE, .i = pick(c, can_rebase, 0) };

	d.on = d.i >= 0 && chain_any(c, 5) ? pick(c, leads_not_to, d.i) : -1;
	if (d.i >= 0 && plt_driver_find(c->v[d.i].kind->format)->flags & PLT_DRIVER_COMPRESS && !c->v[d.i].kind->data &&
	    !chain_any(c, 4))
		d.flags = PLT_REBASE_COMPRESS;
	return d;
}

static struct chain_deed choose_commit(struct chainlab *c)
{
	struct chain_deed d = { .verb = CHAIN_COMMIT, .i = pick(c, can_commit, 0) };

	if (d.i < 0)
		return d;
	d.on = c->v[d.i].below;
	while (chain_any(c, 3) == 0 && c->v[d.on].below >= 0)
		d.on = c->v[d.on].below;
	/* (an external data file is not emptied) */
	d.keep = d.on != c->v[d.i].below || c->v[d.i].kind->data || chain_any(c, 3) == 0;
	return d;
}

static struct chain_deed choose_coalesce(struct chainlab *c)
{
	struct chain_deed d = { .verb = CHAIN_COALESCE, .i = pick(c, can_coalesce, 0) };
	int next;

	if (d.i < 0)
		return d;
	d.child = d.top = pick(c, stands_on, d.i);
	while ((next = pick(c, stands_on, d.top)) >= 0)
		d.top = next;
	d.on = chain_any(c, 2) ? c->v[d.i].below : -1;
	return d;
}

struct chain_deed chain_choose(struct chainlab *c)
{
	unsigned what = (unsigned)chain_any(c, 8);
	struct chain_deed d = what < 3 ? choose_rebase(c) : what < 5 ? choose_commit(c) : what < 7 ? choose_coalesce(c) :
			      (struct chain_deed){ .verb = CHAIN_FLATTEN, .i = pick(c, can_be_flattened, 0), .on = -1 };

	return d.i < 0 ? (struct chain_deed){ 0 } : d;
}

const char *chain_text(const struct chainlab *c, const struct chain_deed *d)
{
	static char text[300];
	static const char *const verbs[] = { "nothing", "rebase", "commit", "flatten", "coalesce" };

	snprintf(text, sizeof(text), "%s%s%s of %s (%s) and %s (%s)", verbs[d->verb], d->keep ? " -d" : "",
		 d->flags ? " -c" : "", c->v[d->i].name, c->v[d->i].kind->options, d->on < 0 ? "nothing" : c->v[d->on].name,
		 d->on < 0 ? "" : c->v[d->on].kind->options);
	if (d->verb == CHAIN_COALESCE)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), ", below %s (%s) in the chain of %s",
			 c->v[d->child].name, c->v[d->child].kind->options, c->v[d->top].name);
	return text;
}

static int do_coalesce(struct chainlab *c, const struct chain_deed *d, const struct plt_open_options *o, const char *top,
		       struct plt_error *err)
{
	struct plt_coalesce_options how = PLT_COALESCE_OPTIONS_INIT;
	struct plt_coalesced done = { 0 };
	char *layer = chain_path(c, c->v[d->i].name);
	int r;

	how.layer = layer;
	how.into = d->on < 0 ? PLT_COALESCE_CHILD : PLT_COALESCE_PARENT;
	r = plt_coalesce(c->ctx, top, o, &how, &done, err);
	if (r == 0)
		plt_coalesced_release(&done);
	free(layer);
	return r;
}

int chain_do(struct chainlab *c, const struct chain_deed *d, struct plt_error *err)
{
	const struct chain_layer *l = &c->v[d->verb == CHAIN_COALESCE ? d->top : d->i], *on = d->on < 0 ? NULL : &c->v[d->on];
	struct plt_rebase_options rebase = PLT_REBASE_OPTIONS_INIT;
	struct plt_commit_options commit = PLT_COMMIT_OPTIONS_INIT;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	char *path = chain_path(c, l->name);
	bool done;
	int r;

	o.format = l->kind->format;
	o.cache = rebase.backing_cache = c->cache;
	rebase.flags = d->flags;
	switch (d->verb) {
	case CHAIN_REBASE:
		rebase.backing = on ? on->name : NULL;
		rebase.backing_format = on ? on->kind->format : NULL;
		r = plt_rebase(c->ctx, path, &o, &rebase, err);
		break;
	case CHAIN_FLATTEN:
		r = plt_flatten(c->ctx, path, &o, &rebase, &done, err);
		break;
	case CHAIN_COALESCE:
		r = do_coalesce(c, d, &o, path, err);
		break;
	default:
		commit.base = d->on == l->below ? NULL : on->name;
		commit.flags = d->keep ? PLT_COMMIT_KEEP : 0;
		r = plt_commit(c->ctx, path, &o, &commit, err);
	}
	free(path);
	return r;
}

void chain_done(struct chainlab *c, const struct chain_deed *d)
{
	struct chain_layer *l = &c->v[d->i], *on = d->on < 0 ? NULL : &c->v[d->on];

	if (d->verb == CHAIN_REBASE || d->verb == CHAIN_FLATTEN) {
		l->below = d->on;
		return;
	}
	if (d->verb == CHAIN_COALESCE)
		c->v[d->child].below = l->below;
	if (!on)
		return;
	for (uint64_t s = 0; s < l->size / 512; s++) /* (what is not written is what it was) */
		if (on->sec[s] != l->sec[s])
			mark(on, s, 1);
	memcpy(on->sec, l->sec, l->size / 512 * sizeof(*l->sec));
	on->size = PLT_MAX(on->size, l->size);
}

/* ---- the model as it was --------------------------------------------------------------------- */

/* (Deeds neither make nor remove images, snapshots or bitmaps: the arrays are the same ones.) */
struct chain_saved {
	int below[CHAIN_LAYERS];
	uint64_t size[CHAIN_LAYERS];
	uint64_t sec[CHAIN_LAYERS][1 + CHAIN_SNAPSHOTS][CHAIN_SECTORS];
	uint8_t must[CHAIN_LAYERS][CHAIN_MARKS][CHAIN_SECTORS];
};

struct chain_saved *chain_save(const struct chainlab *c)
{
	struct chain_saved *s = malloc(sizeof(*s));

	for (unsigned i = 0; i < CHAIN_LAYERS; i++) {
		const struct chain_layer *l = &c->v[i];

		if (!l->used)
			continue;
		s->below[i] = l->below;
		s->size[i] = l->size;
		memcpy(s->sec[i][0], l->sec, sizeof(s->sec[i][0]));
		for (unsigned k = 0; k < l->nkept; k++)
			memcpy(s->sec[i][1 + k], l->kept[k].sec, sizeof(s->sec[i][0]));
		for (unsigned k = 0; k < l->nmarks; k++)
			memcpy(s->must[i][k], l->marks[k].must, sizeof(s->must[i][0]));
	}
	return s;
}

void chain_restore(struct chainlab *c, const struct chain_saved *s)
{
	for (unsigned i = 0; i < CHAIN_LAYERS; i++) {
		struct chain_layer *l = &c->v[i];

		if (!l->used)
			continue;
		l->below = s->below[i];
		l->size = s->size[i];
		memcpy(l->sec, s->sec[i][0], sizeof(s->sec[i][0]));
		for (unsigned k = 0; k < l->nkept; k++)
			memcpy(l->kept[k].sec, s->sec[i][1 + k], sizeof(s->sec[i][0]));
		for (unsigned k = 0; k < l->nmarks; k++)
			memcpy(l->marks[k].must, s->must[i][k], sizeof(s->must[i][0]));
	}
}

void chain_saved_free(struct chain_saved *saved)
{
	free(saved);
}
