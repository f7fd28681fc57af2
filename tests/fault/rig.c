/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The disk under test and its guest: see rig.h.  Images are made, opened and recorded here, and what the guest does is
 * done and noted; judge.c says what a state must fulfil.
 */
#include "tests/fault/rig.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/engine.h"
#include "qcow2/qcow2.h"
#include "tests/unit.h"

#define WORDS (RIG_UNIT / 8)

/* ---- history --------------------------------------------------------------------------------- */

uint64_t rig_tag(uint64_t unit, size_t event)
{
	return unit << 24 | event;
}

void rig_fill(uint8_t *buf, uint64_t first, uint64_t n, size_t event)
{
	for (uint64_t u = 0; u < n; u++)
		for (unsigned w = 0; w < WORDS; w++)
			plt_put_le64(buf + u * RIG_UNIT + w * 8, rig_tag(first + u, event));
}

/* Where in time the log is: flushes that have succeeded, and events that have begun. */
static void note(struct rig *r)
{
	if (r->log)
		plt_writelog_mark(r->log, (uint64_t)r->nevents << 32 | (r->nmarks - 1));
}

static size_t add_event(struct rig *r, uint64_t off, uint64_t len, bool zero, bool failed)
{
	if (off + len > r->size)
		ck_abort_msg("the scenario leaves its disk");
	PLT_LOCK_SCOPE(&r->lock);
	if (r->nevents == r->cap) {
		r->cap = r->cap ? 2 * r->cap : 64;
		r->event = realloc(r->event, r->cap * sizeof(*r->event));
		ck_assert_ptr_nonnull(r->event);
	}
	ck_assert_uint_eq(off % RIG_UNIT, 0);
	ck_assert_uint_eq(len % RIG_UNIT, 0);
	r->event[r->nevents] =
		(struct rig_event){.first = off / RIG_UNIT, .n = len / RIG_UNIT, .zero = zero,
				   .failed = failed, .done = ++r->time};
	r->nevents++;
	r->floor_at = 0;
	for (uint64_t c = off / RIG_CHUNK; len && c <= (off + len - 1) / RIG_CHUNK; c++)
		r->touched[c] = 1;
	note(r);
	return r->nevents - 1;
}

/* The event is over. */
static int end_event(struct rig *r, size_t e, int result, const struct plt_error *err)
{
	PLT_LOCK_SCOPE(&r->lock);
	r->event[e].failed = result < 0;
	r->event[e].done = ++r->time;
	if (result < 0)
		r->err = *err;
	return result;
}

/* A flush that had begun at @begun has succeeded. */
static void add_mark(struct rig *r, uint64_t begun)
{
	PLT_LOCK_SCOPE(&r->lock);
	if (r->nmarks && begun < r->mark[r->nmarks - 1])
		begun = r->mark[r->nmarks - 1]; /* one that began later was back earlier */
	r->mark = realloc(r->mark, (r->nmarks + 1) * sizeof(*r->mark));
	ck_assert_ptr_nonnull(r->mark);
	r->mark[r->nmarks++] = begun;
	note(r);
}

uint64_t rig_first_size(const struct rig *r)
{
	return r->l->first_size ? r->l->first_size : r->l->size;
}

/* ---- making ---------------------------------------------------------------------------------- */

struct plt_store *rig_memory(const void *init, size_t len)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(init, len, 0, &st), 0);
	return st;
}

static void note_warning(void *arg, const char *text)
{
	struct rig *r = arg;

	(void)text;
	r->warned = true;
}

struct rig *rig_new(const struct rig_layout *l, uint64_t seed)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_ctx_options co = PLT_CTX_OPTIONS_INIT;
	struct rig *r = calloc(1, sizeof(*r));
	char data_option[4300];
	const char *options[3] = {NULL};
	unsigned n = 0;

	ck_assert_ptr_nonnull(r);
	r->l = l;
	r->seed = seed;
	r->size = l->size;
	r->disk_size = rig_first_size(r);
	r->units = l->size / RIG_UNIT;
	co.cache_bytes = l->cache_bytes ? l->cache_bytes : 1 << 20;
	co.workers = 1;
	co.warn = note_warning;
	co.warn_arg = r;
	rig_must(r, plt_ctx_new(&co, &r->ctx, &r->err));
	if (l->encrypted)
		rig_must(r, plt_ctx_add_object(r->ctx, "secret,id=k,data=open sesame", &r->err));
	r->floor = calloc(r->units, sizeof(*r->floor));
	r->zero = calloc(r->units, sizeof(*r->zero));
	r->touched = calloc(r->size / RIG_CHUNK + 1, 1);
	ck_assert(r->floor && r->zero && r->touched);
	r->file = rig_memory(NULL, 0);
	c.format = rig_format(r);
	c.virtual_size = r->disk_size;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	if (l->options)
		options[n++] = l->options;
	if (l->external) {
		r->data = rig_memory(NULL, 0);
		snprintf(r->data_name, sizeof(r->data_name), "%s/data", plt_unit_dir());
		snprintf(data_option, sizeof(data_option), "data_file=%s", r->data_name);
		options[n++] = data_option;
	}
	c.options = n ? options : NULL;
	if (l->backing) {
		uint64_t len = plt_align_down(l->size / 3 * 2, 512);
		uint8_t *buf = malloc(len);

		r->base_units = len / RIG_UNIT;
		rig_fill(buf, 0, r->base_units, RIG_EVENT_BASE);
		r->base = rig_memory(buf, len);
		free(buf);
		c.backing = "base";
		c.backing_format = "raw";
	}
	pthread_mutex_init(&r->lock, NULL);
	add_event(r, 0, 0, true, false);
	add_event(r, 0, r->base_units * RIG_UNIT, false, false);
	rig_must(r, plt_create_store(r->ctx, r->file, "top", &c, NULL, &r->err));
	if (l->bitmap)
		rig_add_bitmap(r);
	return r;
}

static void drop_stores(struct rig *r)
{
	plt_store_unref(r->top_file);
	plt_store_unref(r->top_data);
	r->top_file = r->top_data = NULL;
}

void rig_free(struct rig *r)
{
	if (r->disk)
		(void)plt_disk_close(r->disk, NULL);
	drop_stores(r);
	plt_store_unref(r->file);
	plt_store_unref(r->data);
	plt_store_unref(r->base);
	plt_writelog_free(r->log);
	for (unsigned i = 0; i < POWERCUT_STORES; i++)
		free(r->start[i].bytes);
	plt_ctx_free(r->ctx);
	pthread_mutex_destroy(&r->lock);
	free(r->event);
	free(r->mark);
	free(r->floor);
	free(r->zero);
	free(r->live);
	for (unsigned i = 0; i < r->nsnapshots; i++) {
		free(r->snapshot[i].floor);
		free(r->snapshot[i].zero);
		free(r->snapshot[i].live);
	}
	free(r->snapshot);
	free(r->touched);
	free(r);
}

void rig_must(struct rig *r, int result)
{
	ck_assert_msg(result >= 0, "%d: %s", result, r->err.text);
}

uint64_t rig_random(struct rig *r)
{
	return plt_unit_random(&r->seed);
}

uint32_t rig_cluster(const struct rig *r)
{
	uint32_t cs = plt_disk_cluster_size(r->disk);

	return cs ? cs : RIG_CHUNK;
}

const char *rig_format(const struct rig *r)
{
	return r->l->format ? r->l->format : "qcow2";
}

bool rig_is_qcow2(const struct rig *r)
{
	return !strcmp(rig_format(r), "qcow2");
}

/* ---- opening and closing --------------------------------------------------------------------- */

int rig_open_disk(struct rig *r, struct plt_store *file, struct plt_store *data, bool write,
		  const char *snapshot, struct plt_disk **ret, struct plt_error *err)
{
	static const char *const key[] = { "encrypt.key-secret=k", NULL };
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk, *base;
	int e;

	o.flags = PLT_OPEN_NO_BACKING | (write ? PLT_OPEN_WRITE : 0);
	o.snapshot = snapshot;
	o.options = r->l->encrypted ? key : NULL;
	e = plt_disk_open_store(r->ctx, file, "top", rig_format(r), &o, &disk, err);
	if (e < 0)
		return e;
	if (data) { /* the recorded file is there to be named only: the bytes are ours */
		struct plt_image *img = plt_disk_image(disk);

		plt_store_unref(img->data);
		img->data = plt_store_ref(data);
	}
	if (r->base) {
		o.flags = 0;
		o.options = NULL;
		o.snapshot = NULL;
		e = plt_disk_open_store(r->ctx, r->base, "base", "raw", &o, &base, err);
		if (e < 0) {
			(void)plt_disk_close(disk, NULL);
			return e;
		}
		plt_disk_attach_backing(disk, base);
	}
	*ret = disk;
	return 0;
}

int rig_open_on(struct rig *r, struct plt_store *file, struct plt_store *data, uint64_t rules_off)
{
	int e;

	ck_assert_ptr_null(r->disk);
	drop_stores(r);
	r->top_file = plt_store_ref(file);
	r->top_data = data ? plt_store_ref(data) : NULL;
	e = rig_open_disk(r, file, data, true, NULL, &r->disk, &r->err);
	if (e == 0) {
		plt_disk_image(r->disk)->rules_off = rules_off;
		plt_disk_image(r->disk)->engine->copy_on_read = r->l->copies;
	}
	return e;
}

void rig_open(struct rig *r)
{
	rig_must(r, rig_open_on(r, r->file, r->data, 0));
}

static void keep_start(struct rig *r, unsigned i, struct plt_store *st)
{
	const void *bytes = plt_memory_data(st, &r->start[i].len);

	r->start[i].bytes = malloc(r->start[i].len + 1);
	ck_assert_ptr_nonnull(r->start[i].bytes);
	memcpy(r->start[i].bytes, bytes, r->start[i].len);
}

void rig_log(struct rig *r, struct plt_store **ret_file, struct plt_store **ret_data)
{
	ck_assert_ptr_null(r->log);
	rig_must(r, plt_writelog_new(&r->log));
	keep_start(r, 0, r->file);
	rig_must(r, plt_writelog_attach(r->log, r->file, ret_file));
	*ret_data = NULL;
	if (r->data) {
		keep_start(r, 1, r->data);
		rig_must(r, plt_writelog_attach(r->log, r->data, ret_data));
	}
	r->nmarks = 0;
	add_mark(r, r->time);
}

void rig_record(struct rig *r, uint64_t rules_off)
{
	struct plt_store *file, *data;

	rig_log(r, &file, &data);
	file->writethrough = r->l->writethrough;
	r->rules_off = rules_off;
	rig_must(r, rig_open_on(r, file, data, rules_off));
	plt_store_unref(file);
	plt_store_unref(data);
}

int rig_try_close(struct rig *r)
{
	struct plt_disk *disk = r->disk;
	int e;

	r->disk = NULL;
	e = plt_disk_close(disk, &r->err);
	if (e == 0)
		add_mark(r, r->time);
	return e;
}

int rig_reopen(struct rig *r)
{
	struct plt_store *file = plt_store_ref(r->top_file),
			 *data = r->top_data ? plt_store_ref(r->top_data) : NULL;
	int e = rig_try_close(r);

	if (e == 0)
		e = rig_open_on(r, file, data, r->rules_off);
	plt_store_unref(file);
	plt_store_unref(data);
	return e;
}

void rig_close(struct rig *r)
{
	rig_must(r, rig_try_close(r));
}

/* ---- the guest ------------------------------------------------------------------------------- */

int rig_write(struct rig *r, uint64_t off, uint64_t len)
{
	size_t e = add_event(r, off, len, false, true);
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(len + 1);
	int ret;

	ck_assert_ptr_nonnull(buf);
	rig_fill(buf, off / RIG_UNIT, len / RIG_UNIT, e);
	ret = plt_write(r->disk, off, buf, len, &err);
	free(buf);
	return end_event(r, e, ret, &err);
}

int rig_compressed(struct rig *r, uint64_t off)
{
	uint64_t len = PLT_MIN(rig_cluster(r), r->disk_size - off);
	size_t e = add_event(r, off, len, false, true);
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(len);
	int ret;

	ck_assert_ptr_nonnull(buf);
	rig_fill(buf, off / RIG_UNIT, len / RIG_UNIT, e);
	ret = plt_write_compressed(r->disk, off, buf, len, 1, &err);
	free(buf);
	return end_event(r, e, ret, &err);
}

int rig_zero(struct rig *r, uint64_t off, uint64_t len, unsigned flags)
{
	size_t e = add_event(r, off, len, true, true);
	struct plt_error err = PLT_ERROR_INIT;

	return end_event(r, e, plt_write_zeroes(r->disk, off, len, flags, &err), &err);
}

/* Some of it may be zeros now; what is seen to be, stays so. */
int rig_discard(struct rig *r, uint64_t off, uint64_t len)
{
	size_t e = add_event(r, off, len, true, true);
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf;
	int ret;

	ret = plt_discard(r->disk, off, len, &err);
	if (ret < 0)
		return end_event(r, e, ret, &err);
	buf = malloc(len + 1);
	ck_assert_ptr_nonnull(buf);
	ret = plt_read(r->disk, off, buf, len, &err);
	for (uint64_t u = 0; ret == 0 && u < len / RIG_UNIT; u++) {
		uint64_t n = u;

		while (n < len / RIG_UNIT && !plt_get_le64(buf + n * RIG_UNIT))
			n++;
		if (n > u)
			add_event(r, off + u * RIG_UNIT, (n - u) * RIG_UNIT, true, false);
		u = n;
	}
	free(buf);
	return ret < 0 ? end_event(r, e, ret, &err) : 0;
}

int rig_flush(struct rig *r)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t begun;
	int ret;

	pthread_mutex_lock(&r->lock);
	begun = ++r->time;
	pthread_mutex_unlock(&r->lock);
	ret = plt_flush(r->disk, &err);
	if (ret == 0)
		add_mark(r, begun);
	else
		r->err = err;
	return ret;
}

int rig_read(struct rig *r, uint64_t off, uint64_t len)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(len);
	int ret;

	ck_assert_ptr_nonnull(buf);
	ret = plt_read(r->disk, off, buf, len, &err);
	free(buf);
	if (ret < 0) {
		PLT_LOCK_SCOPE(&r->lock);
		r->err = err;
	}
	return ret;
}

int rig_resize(struct rig *r, uint64_t size)
{
	uint64_t low = PLT_MIN(size, r->disk_size), high = PLT_MAX(size, r->disk_size);
	size_t e = add_event(r, low, high - low, true, true);
	struct plt_error err = PLT_ERROR_INIT;
	int ret;

	r->event[e].resize = true;
	r->event[e].new_size = size;
	ret = plt_resize(r->disk, size, PLT_RESIZE_SHRINK, NULL, &err);
	r->disk_size = plt_disk_size(r->disk);
	return end_event(r, e, ret, &err);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static struct rig_snapshot *new_snapshot(struct rig *r)
{
	struct rig_snapshot *s;

	PLT_LOCK_SCOPE(&r->lock);
	r->snapshot = realloc(r->snapshot, (r->nsnapshots + 1) * sizeof(*r->snapshot));
	ck_assert_ptr_nonnull(r->snapshot);
	s = &r->snapshot[r->nsnapshots++];
	*s = (struct rig_snapshot){.made = r->nevents, .size = r->disk_size};
	snprintf(s->name, sizeof(s->name), "snap%u", r->nsnapshots);
	return s;
}

static size_t snapshot_event(struct rig *r, enum rig_snapshot_event about, unsigned which)
{
	size_t e = add_event(r, 0, 0, false, true);

	r->event[e].about = about;
	r->event[e].which = which;
	return e;
}

/* Durable when it is back, with all that was done before. */
static int end_snapshot_event(struct rig *r, size_t e, int result, const struct plt_error *err)
{
	int ret = end_event(r, e, result, err);

	if (ret == 0)
		add_mark(r, r->event[e].done);
	return ret;
}

void rig_note_snapshot(struct rig *r)
{
	(void)new_snapshot(r);
	(void)end_event(r, snapshot_event(r, RIG_CREATE, r->nsnapshots - 1), 0, NULL);
}

int rig_snapshot(struct rig *r)
{
	struct rig_snapshot *s = new_snapshot(r);
	struct plt_snapshot how = {.name = s->name, .icount = -1};
	size_t e = snapshot_event(r, RIG_CREATE, r->nsnapshots - 1);
	struct plt_error err = PLT_ERROR_INIT;
	int ret = plt_snapshot_create(r->disk, &how, &err);

	return end_snapshot_event(r, e, ret, &err);
}

int rig_apply(struct rig *r, unsigned which)
{
	size_t e = snapshot_event(r, RIG_APPLY, which);
	struct plt_error err = PLT_ERROR_INIT;
	int ret;

	r->event[e].resize = r->snapshot[which].size != r->disk_size;
	r->event[e].new_size = r->snapshot[which].size;
	ret = plt_snapshot_apply(r->disk, NULL, r->snapshot[which].name, &err);
	r->disk_size = plt_disk_size(r->disk);
	return end_snapshot_event(r, e, ret, &err);
}

int rig_delete(struct rig *r, unsigned which)
{
	size_t e = snapshot_event(r, RIG_DELETE, which);
	struct plt_error err = PLT_ERROR_INIT;
	int ret = plt_snapshot_delete(r->disk, NULL, r->snapshot[which].name, &err);

	return end_snapshot_event(r, e, ret, &err);
}

int rig_sync(struct rig *r)
{
	struct plt_image *img = plt_disk_image(r->disk);
	int ret = img->drv->before_sync ? img->drv->before_sync(img, &r->err) : 0;

	if (ret == 0 && r->top_data)
		ret = plt_store_sync(r->top_data, &r->err);
	return ret < 0 ? ret : plt_store_sync(r->top_file, &r->err);
}

int rig_step(struct rig *r)
{
	uint64_t cs = rig_cluster(r), most = rig_random(r) % 8 ? 2 * cs : 8 * cs, off, len;
	uint64_t grain = rig_random(r) % 3 ? RIG_UNIT : cs;

	off = plt_align_down(rig_random(r) % r->disk_size, grain);
	len = plt_align_up(1 + rig_random(r) % most, grain);
	len = PLT_MIN(len, r->disk_size - off);
	if (r->l->copies && rig_random(r) % 3 == 0)
		return rig_read(r, off, len);
	switch (rig_random(r) % 16) {
	case 0:
	case 1:
		return rig_zero(r, off, len, rig_random(r) % 2 ? PLT_ZERO_UNMAP : 0);
	case 2:
	case 3:
		return rig_discard(r, off, len);
	case 4:
	case 5:
	case 6:
		if (plt_disk_can_compress(r->disk))
			return rig_compressed(r, plt_align_down(off, cs));
		return rig_write(r, off, len);
	case 7:
	case 8:
		return rig_flush(r);
	default:
		return rig_write(r, off, len);
	}
}
