/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is demanded of the images of chainlab.h: that each shows what the model says, that its snapshots do, that its
 * bitmaps have all that was written, that its structure is sound; and that qemu-img sees the same.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "tests/snapshot/chainlab.h"

static char complaint[700];

__attribute__((format(printf, 1, 2))) static const char *say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(complaint, sizeof(complaint), fmt, ap);
	va_end(ap);
	return complaint;
}

/* What an image may show besides, while or after something was done to what it stands on. */
struct also {
	const uint64_t *sec; /* NULL: nothing else */
	bool zeros;
	bool shorter, longer; /* sizes: that of the model is the smaller, the larger one */
	uint64_t size;        /* or this size; 0: no other */
};

/* @sec takes what is shown where that is allowed. */
static const char *shows(struct chainlab *c, struct plt_disk *disk, uint64_t *sec, uint64_t len, const struct also *also,
			 const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;

	if (plt_read(disk, 0, c->buf, len, &err) < 0)
		return say("%s cannot be read: %s", what, err.text);
	for (uint64_t i = 0; i < len / 512; i++) {
		uint64_t tag;

		memcpy(&tag, c->buf + i * 512, 8);
		if (memcmp(c->buf + i * 512, c->buf + i * 512 + 8, 504))
			return say("%s: sector %" PRIu64 " is a mixture", what, i);
		if (tag == sec[i])
			continue;
		if (!(also->sec && tag == also->sec[i]) && !(also->zeros && !tag))
			return say("%s: sector %" PRIu64 " of %" PRIu64 " shows %" PRIu64 ", not %" PRIu64, what, i, len / 512,
				   tag, sec[i]);
		sec[i] = tag;
	}
	return NULL;
}

/* @left: one that was in use when the power went, or the disk failed, is of no use, and says so. */
static const char *marked(const struct chain_layer *l, struct plt_disk *disk, bool left)
{
	struct plt_image *img = plt_disk_image(disk);
	const struct plt_bitmap_info *info;
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t nbits, all = plt_disk_size(disk) / 512;
	unsigned n;

	if (!l->nmarks)
		return NULL;
	if (img->drv->bitmaps(img, &info, &n) < 0 || n != l->nmarks)
		return say("%s has %u bitmaps, not %u", l->name, n, l->nmarks);
	for (unsigned k = 0; k < n; k++) {
		PLT_AUTOFREE uint64_t *bits = NULL;
		const struct chain_marks *m = &l->marks[k];

		if (left && info[k].inconsistent)
			continue;
		if (strcmp(info[k].name, m->name) || info[k].enabled != m->enabled || info[k].inconsistent)
			return say("%s: bitmap %s is there as %s, %s%s", l->name, m->name, info[k].name,
				   info[k].enabled ? "enabled" : "disabled", info[k].inconsistent ? ", inconsistent" : "");
		if (img->drv->bitmap_read(img, k, &bits, &nbits, &err) < 0)
			return say("%s: bitmap %s: %s", l->name, m->name, err.text);
		for (uint64_t s = 0; s < all; s++) {
			uint64_t bit = s * 512 / info[k].granularity;

			if (m->must[s] && !(bit < nbits && bits[bit / 64] >> bit % 64 & 1))
				return say("%s: sector %" PRIu64 " was written, but bitmap %s does not say so", l->name, s,
					   m->name);
		}
	}
	return NULL;
}

static const char *look(struct chainlab *c, struct chain_layer *l, const char *snapshot, struct plt_disk **ret)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	PLT_AUTOFREE char *path = chain_path(c, l->name);

	o.format = l->kind->format;
	o.snapshot_name = snapshot;
	return plt_disk_open(c->ctx, path, &o, ret, &err) < 0 ? say("%s does not open: %s", l->name, err.text) : NULL;
}

const char *chain_wrong(struct chainlab *c, int i, const struct chain_deed *d)
{
	struct chain_layer *l = &c->v[i];
	struct also also = { 0 }, none = { 0 };
	/* what others stand on is not changed by a coalesce */
	bool under = d && ((d->verb == CHAIN_COMMIT && (i == d->on || chain_is_above(c, i, d->on))) ||
			   (d->verb == CHAIN_COALESCE && i == d->on));
	bool grows = d && i == d->on && (d->verb == CHAIN_COMMIT || d->verb == CHAIN_COALESCE);
	struct plt_disk *disk;
	const char *why;

	if (under || (d && d->verb == CHAIN_REBASE && i == d->i)) {
		also.sec = d->verb != CHAIN_REBASE ? c->v[d->i].sec : d->on >= 0 ? c->v[d->on].sec : NULL;
		also.zeros = d->verb == CHAIN_REBASE;
	}
	if (grows)
		also.size = PLT_MAX(l->size, c->v[d->i].size);
	why = look(c, l, NULL, &disk);
	if (why)
		return why;
	/* (that of a raw image is its length, which may be anything on the way) */
	if (plt_disk_size(disk) == also.size || (!strcmp(l->kind->format, "raw") && plt_disk_size(disk) >= l->size &&
						 plt_disk_size(disk) < also.size))
		l->size = plt_disk_size(disk);
	if (plt_disk_size(disk) != l->size)
		why = say("%s has %" PRIu64 " bytes, not %" PRIu64, l->name, plt_disk_size(disk), l->size);
	/* (what stood on the base shows both, but for the image that was committed) */
	if (!why)
		why = shows(c, disk, l->sec, l->size, under && i != d->i ? &also : &none, l->name);
	if (!why)
		why = marked(l, disk, d);
	plt_disk_close(disk, NULL);
	for (unsigned k = 0; !why && k < l->nkept; k++) {
		why = look(c, l, l->kept[k].name, &disk);
		if (why)
			break;
		/* (a disk that has grown since shows more behind it) */
		why = plt_disk_size(disk) < l->kept[k].size ? say("snapshot %s is short", l->kept[k].name) :
		      shows(c, disk, l->kept[k].sec, l->kept[k].size, d && i == d->on ? &none : &also, l->kept[k].name);
		plt_disk_close(disk, NULL);
	}
	return why;
}

/* ---- structure ------------------------------------------------------------------------------- */

struct finding {
	bool left, emptied;
	char first[200];
};

static void found(void *arg, const struct plt_check_finding *f)
{
	struct finding *s = arg;
	size_t n = strlen(f->text);

	if (!strcmp(f->severity, "note") || (s->left && !strcmp(f->severity, "leak")))
		return;
	if (s->left && s->emptied && !strncmp(f->id, "Q-L", 3))
		return;
	if (s->left && !strcmp(f->id, "Q-HDR-SIZE")) /* an interrupted growth has already put zeros there */
		return;
	/* a cluster counted once that is not marked so costs one needless copy */
	if (s->left && !strncmp(f->id, "Q-COPIED", 8) && n > 11 && !strcmp(f->text + n - 11, " refcount=1"))
		return;
	if (!s->first[0])
		snprintf(s->first, sizeof(s->first), "%s %s", f->id, f->text);
}

bool chain_empties(const struct chain_deed *d, int i)
{
	return d && d->verb == CHAIN_COMMIT && !d->keep && i == d->i;
}

const char *chain_unsound(struct chainlab *c, int i, bool left, const struct chain_deed *d)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	PLT_AUTOFREE char *path = chain_path(c, c->v[i].name);
	/* (a VHD keeps the room of blocks that were discarded) */
	struct finding f = { .left = left || !strcmp(c->v[i].kind->format, "vpc"), .emptied = chain_empties(d, i) };
	struct plt_check_result res;
	int r;

	o.format = c->v[i].kind->format;
	r = plt_check(c->ctx, path, &o, found, &f, &res, &err);
	if (r < 0 && r != -ENOTSUP)
		return say("%s: check: %s", c->v[i].name, err.text);
	return f.first[0] ? say("%s: check: %s", c->v[i].name, f.first) : NULL;
}

/* ---- qemu-img -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static int run(const char *fmt, ...)
{
	char command[9000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	return system(command);
}

static bool dump(struct chainlab *c, const struct chain_layer *l, const char *path)
{
	FILE *f = fopen(path, "w");
	bool good;

	for (uint64_t s = 0; s < l->size / 512; s++)
		for (unsigned w = 0; w < 64; w++)
			memcpy(c->buf + s * 512 + w * 8, &l->sec[s], 8);
	good = f && fwrite(c->buf, 1, l->size, f) == l->size;
	return f && fclose(f) == 0 && good;
}

/* What matters of an extent to those who copy by it. */
static bool is_same_extent(const struct plt_extent *a, const json_t *b)
{
	return (uint64_t)json_integer_value(json_object_get(b, "depth")) == a->depth &&
	       json_is_true(json_object_get(b, "zero")) == !!(a->flags & PLT_EXTENT_ZERO) &&
	       json_is_true(json_object_get(b, "data")) == !!(a->flags & PLT_EXTENT_DATA);
}

static const char *same_map(struct chainlab *c, struct chain_layer *l, const json_t *map)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_cursor walk;
	const struct plt_extent *e;
	struct plt_disk *disk;
	const char *why = look(c, l, NULL, &disk);
	uint64_t off = 0;
	size_t at = 0;

	if (why)
		return why;
	plt_cursor_init(&walk, disk, 0);
	while (!why && off < l->size && at < json_array_size(map)) {
		const json_t *x = json_array_get(map, at);
		uint64_t end = (uint64_t)json_integer_value(json_object_get(x, "start")) +
			       (uint64_t)json_integer_value(json_object_get(x, "length"));

		if (plt_cursor_at(&walk, off, &e, &err) < 0)
			why = say("%s: %s", l->name, err.text);
		/* (which layer the zeros of a hole come from is told differently) */
		else if (!is_same_extent(e, x) && !(e->flags & PLT_EXTENT_ZERO && json_is_true(json_object_get(x, "zero"))))
			why = say("%s: qemu-img map sees %#" PRIx64 " otherwise: depth %u, flags %#x", l->name, off, e->depth,
				  e->flags);
		else
			off = PLT_MIN(e->off + e->len, end);
		at += off >= end;
	}
	plt_disk_close(disk, NULL);
	return why ? why : off < l->size ? say("%s: qemu-img map ends at %#" PRIx64, l->name, off) : NULL;
}

const char *chain_peer(struct chainlab *c, int i)
{
	struct chain_layer *l = &c->v[i];
	PLT_AUTOFREE char *path = chain_path(c, l->name), *model = chain_path(c, "model"), *out = chain_path(c, "out");
	const char *why = NULL;
	json_t *map;

	if (!c->peer)
		return NULL;
	for (int k = i; k >= 0; k = c->v[k].below) /* it has no differencing VHDs */
		if (!strcmp(c->v[k].kind->format, "vpc") && c->v[k].below >= 0)
			return NULL;
	if (!dump(c, l, model))
		return say("no room for the model");
	if (!strcmp(l->kind->format, "qcow2") && run("qemu-img check -q -f qcow2 %s >%s 2>&1", path, out))
		why = say("%s: qemu-img check is not content", l->name);
	else if (run("qemu-img compare -f %s -F raw %s %s >%s 2>&1", l->kind->format, path, model, out))
		why = say("%s: qemu-img sees another disk", l->name);
	else if (run("qemu-img map --output=json -f %s %s >%s 2>&1", l->kind->format, path, out))
		why = say("%s: qemu-img map fails", l->name);
	else if (!(map = json_load_file(out, 0, NULL)))
		why = say("%s: qemu-img map is no JSON", l->name);
	else {
		why = same_map(c, l, map);
		json_decref(map);
	}
	unlink(model);
	unlink(out);
	return why;
}
