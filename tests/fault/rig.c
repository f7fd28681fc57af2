/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The disk under test and its guest: see rig.h.  What a state must fulfil is formats' own promise:
 * it opens; every unit holds a version that is allowed; the structure has leaks at most, and
 * clusters counted once that are not marked so; with the dirty bit set counts may be behind until
 * the image has been opened for writing; a snapshot and the bitmap are right; and it can be
 * written over completely.
 */
#include "tests/fault/rig.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/engine.h"
#include "qcow2/qcow2.h"
#include "tests/unit.h"

#define CHUNK 4096u
#define WORDS (RIG_UNIT / 8)

enum { EVENT_ZERO, EVENT_BASE, EVENT_FIRST };

/* ---- history --------------------------------------------------------------------------------- */

static uint64_t tag_of(uint64_t unit, size_t event)
{
	return unit << 24 | event;
}

static void fill(uint8_t *buf, uint64_t first, uint64_t n, size_t event)
{
	for (uint64_t u = 0; u < n; u++)
		for (unsigned w = 0; w < WORDS; w++)
			plt_put_le64(buf + u * RIG_UNIT + w * 8, tag_of(first + u, event));
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
	for (uint64_t c = off / CHUNK; len && c <= (off + len - 1) / CHUNK; c++)
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

static uint64_t first_size(const struct rig *r)
{
	return r->l->first_size ? r->l->first_size : r->l->size;
}

static bool certain(const struct rig_event *e, uint64_t time)
{
	return e->done <= time && !e->failed;
}

/* Where a snapshot is made the history is kept; where it is applied, that is the history from then on. */
static void turn(struct rig *r, size_t e, uint64_t time)
{
	const struct rig_event *ev = &r->event[e];
	struct rig_snapshot *s = &r->snapshot[ev->which];

	if (ev->about == RIG_CREATE) {
		s->floor = realloc(s->floor, r->units * sizeof(*s->floor));
		s->zero = realloc(s->zero, r->units * sizeof(*s->zero));
		s->live = realloc(s->live, e + 1);
		ck_assert(s->floor && s->zero && s->live);
		memcpy(s->floor, r->floor, r->units * sizeof(*s->floor));
		memcpy(s->zero, r->zero, r->units * sizeof(*s->zero));
		memcpy(s->live, r->live, e);
	} else if (ev->about == RIG_APPLY) {
		if (!certain(ev, time) && !(r->applied >> r->in_doubt++ & 1))
			return;
		memcpy(r->floor, s->floor, r->units * sizeof(*s->floor));
		memcpy(r->zero, s->zero, r->units * sizeof(*s->zero));
		memset(r->live, 0, e);
		memcpy(r->live, s->live, s->made);
	}
}

/* Is there a snapshot, or may there be? */
static void may_have_snapshot(const struct rig *r, unsigned which, uint64_t time, size_t limit, bool *ret_must,
			      bool *ret_may)
{
	*ret_must = *ret_may = false;
	for (size_t e = EVENT_FIRST; e < limit; e++) {
		if (r->event[e].which != which || (r->event[e].about != RIG_CREATE && r->event[e].about != RIG_DELETE))
			continue;
		if (r->event[e].about == RIG_CREATE) {
			*ret_must = certain(&r->event[e], time);
			*ret_may = true;
		} else {
			*ret_must = false;
			*ret_may &= !certain(&r->event[e], time);
		}
	}
}

/*
 * What each unit holds for certain once all that was done by @time has been flushed, and when it
 * last was zeros before event @limit.
 */
static void set_floor(struct rig *r, uint64_t time, size_t limit)
{
	uint64_t at = time << 32 | (uint64_t)r->applied << 24 | limit;

	if (r->floor_at == at)
		return;
	r->floor_at = at;
	r->limit = limit;
	r->in_doubt = 0;
	r->live = realloc(r->live, limit + 1);
	ck_assert_ptr_nonnull(r->live);
	memset(r->live, 1, limit);
	r->nlive = limit;
	for (uint64_t u = 0; u < r->units; u++) {
		/* where the disk began shorter than what lies below it, that never shows */
		r->floor[u] = u < PLT_MIN(r->base_units, first_size(r) / RIG_UNIT) ? EVENT_BASE : EVENT_ZERO;
		r->zero[u] = 0;
	}
	for (size_t e = EVENT_FIRST; e < limit; e++) {
		if (r->event[e].about)
			turn(r, e, time);
		for (uint64_t u = r->event[e].first; u < r->event[e].first + r->event[e].n; u++) {
			if (certain(&r->event[e], time))
				r->floor[u] = e;
			/* what a shrink cuts off reads as zeros only when the disk has grown again */
			if (r->event[e].zero && !r->event[e].resize)
				r->zero[u] = e;
			if (r->event[e].resize && r->event[e].new_size > u * RIG_UNIT)
				r->zero[u] = e;
		}
	}
}

/* May the disk have @size, when what was done by @time is certain and events from @limit on had not begun? */
static bool may_have_size(struct rig *r, uint64_t time, size_t limit, uint64_t size)
{
	bool may = size == first_size(r);
	uint64_t now = first_size(r);

	r->beyond = false;
	r->moving = UINT64_MAX;
	for (size_t e = EVENT_FIRST; e < limit; e++) {
		if (!r->event[e].resize)
			continue;
		r->moving = certain(&r->event[e], time) ? UINT64_MAX :
							  PLT_MIN(r->moving, PLT_MIN(now, r->event[e].new_size));
		now = r->event[e].new_size;
		may = size == r->event[e].new_size || (may && !certain(&r->event[e], time));
		r->beyond |= !certain(&r->event[e], time);
	}
	return may;
}

static bool covers(const struct rig_event *e, uint64_t unit)
{
	return unit >= e->first && unit - e->first < e->n;
}

static void complain(struct rig *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void complain(struct rig *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->violation, sizeof(r->violation), fmt, ap);
	va_end(ap);
}

static int judge_unit(struct rig *r, const uint8_t *p, uint64_t unit)
{
	uint64_t tag = plt_get_le64(p), event = tag & 0xffffff;
	size_t floor = r->floor[unit];

	for (unsigned w = 1; w < WORDS; w++)
		if (plt_get_le64(p + 8 * w) != tag) {
			complain(r,
				 "guest offset %#" PRIx64 ": a mixture inside a unit (%#" PRIx64
				 " and %#" PRIx64 ")",
				 unit * RIG_UNIT, tag, plt_get_le64(p + 8 * w));
			return -1;
		}
	if (!tag) {
		if (r->event[floor].zero || r->zero[unit] > floor)
			return 0;
		complain(r, "guest offset %#" PRIx64 ": zeros, but %s %zu was flushed",
			 unit * RIG_UNIT, floor == EVENT_BASE ? "backing content, event" : "event",
			 floor);
		return -1;
	}
	if (tag >> 24 != unit) {
		complain(r,
			 "guest offset %#" PRIx64 ": holds what belongs to %#" PRIx64
			 " (event %" PRIu64 ", tag %#" PRIx64 ")",
			 unit * RIG_UNIT, (tag >> 24) * RIG_UNIT, event, tag);
		return -1;
	}
	if (event == EVENT_BASE && floor == EVENT_BASE)
		return 0;
	if (event >= floor && event < r->limit && event >= EVENT_FIRST && !r->event[event].zero && r->live[event] &&
	    covers(&r->event[event], unit))
		return 0;
	complain(r, "guest offset %#" PRIx64 ": event %" PRIu64 ", but event %zu%s was flushed",
		 unit * RIG_UNIT, event, floor, r->event[floor].zero ? " (zeros)" : "");
	return -1;
}

/* ---- making ---------------------------------------------------------------------------------- */

static struct plt_store *new_memory(const void *init, size_t len)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(init, len, 0, &st), 0);
	return st;
}

static void add_bitmap(struct rig *r);

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
	r->disk_size = first_size(r);
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
	r->touched = calloc(r->size / CHUNK + 1, 1);
	ck_assert(r->floor && r->zero && r->touched);
	r->file = new_memory(NULL, 0);
	c.format = rig_format(r);
	c.virtual_size = r->disk_size;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	if (l->options)
		options[n++] = l->options;
	if (l->external) {
		r->data = new_memory(NULL, 0);
		snprintf(r->data_name, sizeof(r->data_name), "%s/data", plt_unit_dir());
		snprintf(data_option, sizeof(data_option), "data_file=%s", r->data_name);
		options[n++] = data_option;
	}
	c.options = n ? options : NULL;
	if (l->backing) {
		uint64_t len = plt_align_down(l->size / 3 * 2, 512);
		uint8_t *buf = malloc(len);

		r->base_units = len / RIG_UNIT;
		fill(buf, 0, r->base_units, EVENT_BASE);
		r->base = new_memory(buf, len);
		free(buf);
		c.backing = "base";
		c.backing_format = "raw";
	}
	pthread_mutex_init(&r->lock, NULL);
	add_event(r, 0, 0, true, false);
	add_event(r, 0, r->base_units * RIG_UNIT, false, false);
	rig_must(r, plt_create_store(r->ctx, r->file, "top", &c, NULL, &r->err));
	if (l->bitmap)
		add_bitmap(r);
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

	return cs ? cs : CHUNK;
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

static int open_disk(struct rig *r, struct plt_store *file, struct plt_store *data, bool write,
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
	e = open_disk(r, file, data, true, NULL, &r->disk, &r->err);
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
	fill(buf, off / RIG_UNIT, len / RIG_UNIT, e);
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
	fill(buf, off / RIG_UNIT, len / RIG_UNIT, e);
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

/* ---- images with more in them ---------------------------------------------------------------- */

static uint64_t get64(struct plt_store *st, uint64_t off)
{
	uint8_t b[8];

	ck_assert_int_eq(plt_store_read(st, off, b, 8, PLT_IO_OTHER, NULL), 0);
	return plt_get_be64(b);
}

static void put(struct plt_store *st, uint64_t off, uint64_t v, unsigned len)
{
	uint8_t b[8];

	plt_put_be64(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b + 8 - len, len, PLT_IO_OTHER, NULL), 0);
}

static uint64_t get16(struct plt_store *st, uint64_t off)
{
	return get64(st, off) >> 48;
}

#define SNAP_CS 4096u

static void count_up(struct rig *r, uint64_t refblock, uint64_t cluster)
{
	ck_assert_uint_lt(cluster, SNAP_CS / 2);
	put(r->file, refblock + 2 * cluster, get16(r->file, refblock + 2 * cluster) + 1, 2);
}

void rig_make_snapshot(struct rig *r)
{
	struct plt_store *st = r->file;
	uint64_t l1 = get64(st, 40), l1_size = get64(st, 36) >> 32,
		 refblock = get64(st, get64(st, 48)), size, copy, table;
	unsigned x = 62 - (12 - 8);

	ck_assert_uint_eq(get64(st, 20) >> 32, 12);
	ck_assert_uint_le(l1_size * 8, SNAP_CS);
	for (uint64_t i = 0; i < l1_size; i++) {
		uint64_t e = get64(st, l1 + 8 * i), l2 = e & QCOW2_L1_OFFSET;

		if (!l2)
			continue;
		put(st, l1 + 8 * i, e & ~QCOW2_COPIED, 8);
		count_up(r, refblock, l2 / SNAP_CS);
		for (uint64_t j = 0; j < SNAP_CS / 8; j++) {
			uint64_t d = get64(st, l2 + 8 * j), host = d & QCOW2_L2_OFFSET;

			put(st, l2 + 8 * j, d & ~QCOW2_COPIED, 8);
			if (d & QCOW2_COMPRESSED) {
				uint64_t off = d & ((UINT64_C(1) << x) - 1), n = (d >> x & 15) + 1;

				for (uint64_t c = off / SNAP_CS;
				     c <= (off / 512 * 512 + n * 512 - 1) / SNAP_CS; c++)
					count_up(r, refblock, c);
			} else if (host) {
				count_up(r, refblock, host / SNAP_CS);
			}
		}
	}
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	copy = plt_align_up(size, SNAP_CS);
	table = copy + SNAP_CS;
	ck_assert_int_eq(plt_store_truncate(st, table + SNAP_CS, NULL), 0);
	for (uint64_t i = 0; i < l1_size; i++)
		put(st, copy + 8 * i, get64(st, l1 + 8 * i), 8);
	count_up(r, refblock, copy / SNAP_CS);
	count_up(r, refblock, table / SNAP_CS);
	put(st, table, copy, 8);
	put(st, table + 8, l1_size, 4);
	put(st, table + 12, 1, 2);	 /* length of the id */
	put(st, table + 14, 5, 2);	 /* of the name */
	put(st, table + 36, 16, 4);	 /* of the extra data */
	put(st, table + 48, r->size, 8); /* there: the disk's size */
	ck_assert_int_eq(plt_store_write(st, table + 56, "1snap1", 6, PLT_IO_OTHER, NULL), 0);
	put(st, 60, 1, 4);
	put(st, 64, table, 8);
	(void)new_snapshot(r);
	(void)end_event(r, snapshot_event(r, RIG_CREATE, r->nsnapshots - 1), 0, NULL);
}

/* An empty bitmap that records, put there through the driver's own allocation and header. */
static void add_bitmap(struct rig *r)
{
	struct plt_image *img;
	struct qcow2_state *q;
	uint64_t dir, table, cs;
	uint32_t granularity = 12;

	rig_open(r);
	img = plt_disk_image(r->disk);
	q = qcow2_of(img);
	cs = q->cluster_size;
	rig_must(r, qcow2_alloc(img, 1, &dir, &r->err));
	rig_must(r, qcow2_alloc(img, 1, &table, &r->err));
	ck_assert_int_eq(plt_store_zero(r->file, dir, cs, 0, PLT_IO_BITMAP, NULL), 0);
	ck_assert_int_eq(plt_store_zero(r->file, table, cs, 0, PLT_IO_BITMAP, NULL), 0);
	put(r->file, dir, table, 8);
	put(r->file, dir + 8, plt_div_up(plt_div_up(plt_div_up(r->size, 1u << granularity), 8), cs),
	    4);
	put(r->file, dir + 12, QCOW2_BITMAP_AUTO, 4);
	put(r->file, dir + 16, 1, 1);
	put(r->file, dir + 17, granularity, 1);
	put(r->file, dir + 18, 4, 2);
	ck_assert_int_eq(plt_store_write(r->file, dir + 24, "bits", 4, PLT_IO_BITMAP, NULL), 0);
	q->nb_bitmaps = 1;
	q->bitmap_dir_offset = dir;
	q->bitmap_dir_size = 32;
	q->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
	rig_must(r, plt_meta_flush(img, true, &r->err));
	rig_must(r, qcow2_header_replace(img, &r->err));
	rig_must(r, plt_disk_close(r->disk, &r->err));
	r->disk = NULL;
}

/* ---- judging --------------------------------------------------------------------------------- */

/*
 * Whatever differs from what the bitmap began with must be recorded, if the bitmap calls itself
 * usable.
 */
static int judge_bitmap(struct rig *r, struct plt_disk *disk, const uint8_t *buf, uint64_t off,
			uint64_t len)
{
	struct qcow2_state *q = qcow2_of(plt_disk_image(disk));
	struct qcow2_bitmap *b = q->bitmaps;
	unsigned pair = 0;

	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || !q->nbitmaps || strcmp(b->name, "bits") != 0) {
		complain(r, "the bitmap is gone");
		return -1;
	}
	for (unsigned i = 1; i < q->nbitmaps; i++)
		pair += !strncmp(q->bitmaps[i].name, "pair", 4);
	if (pair % 2) {
		complain(r, "of two bitmaps that come and go together there is one");
		return -1;
	}
	for (unsigned i = 1; i < q->nbitmaps; i++) /* those that a scenario adds are of ones */
		for (uint64_t n = 0; q->bitmaps[i].words && !q->bitmaps[i].inconsistent && n < q->bitmaps[i].nbits; n++)
			if (!(atomic_load(&q->bitmaps[i].words[n / 64]) >> n % 64 & 1)) {
				complain(r, "bit %" PRIu64 " of added bitmap %u, which is not in use, is lost", n, i);
				return -1;
			}
	if (b->inconsistent)
		return 0;
	for (uint64_t u = 0; u < len / RIG_UNIT; u++) {
		uint64_t unit = off / RIG_UNIT + u, tag = plt_get_le64(buf + u * RIG_UNIT);
		uint64_t was = unit < r->base_units ? tag_of(unit, EVENT_BASE) : 0,
			 bit = unit * RIG_UNIT >> b->granularity_bits;

		if (tag != was && !(atomic_load(&b->words[bit / 64]) >> bit % 64 & 1)) {
			complain(r,
				 "guest offset %#" PRIx64
				 ": written, but the bitmap, which is not in use, does not say so",
				 unit * RIG_UNIT);
			return -1;
		}
	}
	return 0;
}

/* A footer may lie in what a fixed VHD gains or gives up. */
static uint64_t judged_size(struct rig *r, struct plt_disk *disk)
{
	uint64_t size = plt_disk_size(disk);

	return r->l->options && strstr(r->l->options, "fixed") ? PLT_MIN(size, r->moving) : size;
}

static int judge_disk(struct rig *r, struct plt_disk *disk, uint64_t size, bool bitmap)
{
	static uint8_t buf[16 * CHUNK];
	struct plt_error err = PLT_ERROR_INIT;

	for (uint64_t c = 0; c * CHUNK < size; c++) {
		uint64_t off = c * CHUNK, len;

		if (!r->touched[c])
			continue;
		while (c + 1 < (off + sizeof(buf)) / CHUNK && (c + 1) * CHUNK < size &&
		       r->touched[c + 1])
			c++;
		len = PLT_MIN((c + 1) * CHUNK, size) - off;
		if (plt_read(disk, off, buf, len, &err) < 0) {
			complain(r, "cannot be read at %#" PRIx64 ": %s", off, err.text);
			return -1;
		}
		for (uint64_t u = 0; u < len / RIG_UNIT; u++)
			if (judge_unit(r, buf + u * RIG_UNIT, off / RIG_UNIT + u) < 0)
				return -1;
		if (bitmap && judge_bitmap(r, disk, buf, off, len) < 0)
			return -1;
	}
	return 0;
}

/*
 * As it was in one of the ways that things may have gone, all of it: of snapshots that may have been applied, each
 * has been or has not.  size: bytes that are judged.
 */
static int judge_ways(struct rig *r, struct plt_disk *disk, uint64_t size, uint64_t time, size_t limit, bool bitmap)
{
	int ret = -1;

	r->applied = 0;
	do {
		set_floor(r, time, limit);
		ret = judge_disk(r, disk, size, bitmap);
	} while (ret < 0 && ++r->applied < 1u << PLT_MIN(r->in_doubt, 4u));
	return ret;
}

int rig_verify_disk(struct rig *r, struct plt_disk *disk, size_t mark, size_t limit)
{
	if (!may_have_size(r, r->mark[mark], limit, plt_disk_size(disk))) {
		complain(r, "the disk has %" PRIu64 " bytes", plt_disk_size(disk));
		return -1;
	}
	return judge_ways(r, disk, judged_size(r, disk), r->mark[mark], limit, r->l->bitmap);
}

struct structure {
	char first[160]; /* the first finding that is not allowed */
	bool behind;	 /* counts may be behind: the dirty bit is set */
	bool beyond;	 /* clusters may be mapped behind the end */
	bool damaged;	 /* it was so from the beginning */
	unsigned bad, leaks;
};

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

static void found(void *arg, const struct plt_check_finding *f)
{
	static const char *const about_counts[] = {"Q-REF-LOW", "Q-LEAK", "Q-COPIED",
						   "Q-COPIED-L1"};
	struct structure *s = arg;

	if (!strcmp(f->severity, "note"))
		return;
	if (!strcmp(f->severity, "leak")) {
		s->leaks++;
		return;
	}
	if (s->damaged && (!strcmp(f->id, "V-FTR-2") || !strcmp(f->id, "V-FTR-1")))
		return;
	/* a cluster counted once that is not marked so costs one needless copy */
	if (!strncmp(f->id, "Q-COPIED", 8) && ends_with(f->text, " refcount=1"))
		return;
	for (unsigned i = 0; s->behind && i < PLT_ARRAY_SIZE(about_counts); i++)
		if (!strcmp(f->id, about_counts[i]))
			return;
	if (s->beyond && !strcmp(f->id, "Q-HDR-SIZE"))
		return;
	if (!s->bad++)
		snprintf(s->first, sizeof(s->first), "%s %s", f->id, f->text);
}

static int judge_structure(struct rig *r, struct plt_store *st, const char *when, bool behind, bool damaged)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct structure s = {.behind = behind, .damaged = damaged, .beyond = r->beyond};
	struct plt_check_result res;

	if (plt_check_store(r->ctx, st, "top", rig_format(r), found, &s, &res, &err) < 0) {
		complain(r, "check %s fails: %s", when, err.text);
		return -1;
	}
	if (s.bad) {
		complain(r, "check %s: %u findings, the first: %s", when, s.bad, s.first);
		return -1;
	}
	return 0;
}

/* A VHD of which all was discarded, on a store that punches nothing: its blocks cannot be told from lost ones. */
bool rig_may_be_discarded(const struct rig *r, const struct plt_doubt *d)
{
	return !rig_is_qcow2(r) && !strncmp(d->why, "no block is named here", 22);
}

/*
 * As check -r all does it: what a power cut leaves is nothing but counts, so afterwards nothing is wrong; space
 * may stay lost where it cannot be told from lost data.  The disk is what it was, and so is the file.
 */
static int judge_repair(struct rig *r, struct plt_store *file, struct plt_store *data, size_t mark, size_t limit)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_mend mend = {.what = PLT_MEND_ALL, .changed = true};
	struct plt_check_result res;
	struct plt_store *overlay;
	struct plt_disk *disk;
	int ret = 0;

	ck_assert_int_eq(plt_overlay_new(file, true, &overlay), 0);
	for (unsigned i = 0; mend.changed && ret == 0; i++) {
		mend.changed = mend.more = false;
		ret = i < 12 ? plt_mend_store(r->ctx, overlay, "top", rig_format(r), &mend, NULL, NULL, &res, &err) : -ELOOP;
		if (!mend.changed && mend.more && mend.stage < PLT_MEND_SETTLE) {
			mend.stage++;
			mend.changed = true;
		}
	}
	if (ret == 0)
		ret = plt_check_store(r->ctx, overlay, "top", rig_format(r), NULL, NULL, &res, &err);
	if (ret < 0) {
		complain(r, "the repair fails: %s", err.text);
	} else if (res.corruptions || res.added || res.check_errors) {
		complain(r, "the repair leaves %" PRIu64 " errors", res.corruptions + res.added + res.check_errors);
		ret = -1;
	} else {
		ret = open_disk(r, overlay, data, true, NULL, &disk, &err);
		if (ret < 0) {
			complain(r, "repaired, it does not open: %s", err.text);
		} else {
			ret = rig_verify_disk(r, disk, mark, limit);
			plt_disk_close(disk, NULL);
		}
	}
	for (size_t i = 0; ret == 0 && i < mend.doubts.n; i++)
		if (mend.doubts.v[i].kind == PLT_LOST && !rig_may_be_discarded(r, &mend.doubts.v[i])) {
			complain(r, "the repair calls %" PRIu64 " bytes at %#" PRIx64 " lost: %s", mend.doubts.v[i].len,
				 mend.doubts.v[i].off, mend.doubts.v[i].why);
			ret = -1;
		}
	plt_mend_release(&mend);
	plt_store_unref(overlay);
	return ret;
}

/* Everything can be overwritten: nothing that was given out can be given out again. */
static int write_over(struct rig *r, struct plt_store *file, struct plt_store *data)
{
	const size_t event = 0xfffffe;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = NULL;
	uint64_t len = 16 * CHUNK;
	uint8_t *buf = malloc(len), *got = malloc(len);
	int e = open_disk(r, file, data, true, NULL, &disk, &err);
	uint64_t size = e == 0 ? judged_size(r, disk) : 0;

	/* a third of it, so that old and new clusters lie side by side */
	for (uint64_t off = 0; e == 0 && off < size; off += 3 * CHUNK) {
		uint64_t n = PLT_MIN(CHUNK, size - off);

		if (!r->touched[off / CHUNK])
			continue;
		fill(buf, off / RIG_UNIT, n / RIG_UNIT, event);
		e = plt_write(disk, off, buf, n, &err);
	}
	if (e == 0)
		e = plt_flush(disk, &err);
	for (uint64_t c = 0; e == 0 && c * CHUNK < size; c++) {
		uint64_t off = c * CHUNK, n = PLT_MIN(CHUNK, size - off);

		if (!r->touched[c])
			continue;
		e = plt_read(disk, off, got, n, &err);
		fill(buf, off / RIG_UNIT, n / RIG_UNIT, event);
		if (e == 0 && c % 3 == 0 && memcmp(buf, got, n)) {
			complain(r,
				 "written over, guest offset %#" PRIx64
				 " and on does not hold what was written",
				 off);
			e = -1;
		}
		for (uint64_t u = 0; e == 0 && c % 3 && u < n / RIG_UNIT; u++)
			if (judge_unit(r, got + u * RIG_UNIT, off / RIG_UNIT + u) < 0)
				e = -1;
		if (e == -1)
			break;
	}
	free(buf);
	free(got);
	if (e < 0) {
		if (e != -1)
			complain(r, "it cannot be written over: %s", err.text);
		(void)plt_disk_close(disk, NULL);
		return -1;
	}
	if (plt_disk_close(disk, &err) < 0) {
		complain(r, "written over, it cannot be closed: %s", err.text);
		return -1;
	}
	return judge_structure(r, file, "after writing over", false, false);
}

static int judge_snapshot(struct rig *r, const struct rig_snapshot *s, struct plt_store *file, bool must,
			  const char *when)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	char why[sizeof(r->violation)];
	int ret = open_disk(r, file, NULL, false, s->name, &disk, &err);

	if (ret == -ENOENT && !must)
		return 0;
	if (ret < 0) {
		complain(r, "%s does not open %s: %s", s->name, when, err.text);
		return -1;
	}
	/* all that had been done when it was begun is in it, whether flushed or not */
	/* (a disk that has grown since shows more behind it) */
	ret = plt_disk_size(disk) >= s->size ?
		      judge_ways(r, disk, s->size, r->event[s->made].done, s->made, false) : -1;
	if (ret < 0 && plt_disk_size(disk) < s->size)
		complain(r, "it has %" PRIu64 " bytes", plt_disk_size(disk));
	(void)plt_disk_close(disk, NULL);
	if (ret < 0) {
		snprintf(why, sizeof(why), "%s", r->violation);
		complain(r, "%s, %s: %.500s", s->name, when, why);
	}
	return ret;
}

static int judge_snapshots(struct rig *r, struct plt_store *file, size_t mark, size_t limit, const char *when)
{
	bool must, may;
	int ret = 0;

	for (unsigned i = 0; i < r->nsnapshots && ret == 0; i++) {
		may_have_snapshot(r, i, r->mark[mark], limit, &must, &may);
		if (may)
			ret = judge_snapshot(r, &r->snapshot[i], file, must, when);
	}
	return ret;
}

static int judge_state(struct rig *r, struct plt_store *file, struct plt_store *data, size_t mark,
		       size_t limit, bool over)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	bool dirty, untouched = true;
	unsigned applied;
	int ret;

	(void)may_have_size(r, r->mark[mark], limit, 0); /* for what check may say */
	for (size_t e = EVENT_FIRST; e < limit && mark; e++)
		untouched &= r->event[e].failed || r->event[e].done <= r->mark[0];
	dirty = rig_is_qcow2(r) && get64(file, 72) & QCOW2_INCOMPAT_DIRTY &&
		get64(file, 0) != ((uint64_t)QCOW2_MAGIC << 32 | 2);
	if (judge_structure(r, file, "before opening", dirty, r->l->damaged && untouched) < 0)
		return -1;
	if (over && (rig_is_qcow2(r) || !strcmp(rig_format(r), "vpc")) && !r->beyond && judge_repair(r, file, data, mark, limit) < 0)
		return -1;
	if (open_disk(r, file, data, true, NULL, &disk, &err) < 0) {
		complain(r, "it does not open for writing: %s", err.text);
		return -1;
	}
	ret = rig_verify_disk(r, disk, mark, limit);
	if (plt_disk_close(disk, &err) < 0 && ret == 0) {
		complain(r, "it cannot be closed: %s", err.text);
		ret = -1;
	}
	if (ret == 0 && dirty)
		ret = judge_structure(r, file, "after the recount", false, false);
	applied = r->applied;
	if (ret == 0)
		ret = judge_snapshots(r, file, mark, limit, "as it is");
	if (ret == 0 && over) {
		r->applied = applied;
		set_floor(r, r->mark[mark], limit);
		ret = write_over(r, file, data);
		if (ret == 0)
			ret = judge_snapshots(r, file, mark, limit, "after writing over");
	}
	return ret;
}

int rig_verify_state(struct rig *r, const struct powercut_disk *file,
		     const struct powercut_disk *data, size_t mark, size_t limit, bool over)
{
	struct plt_store *f = new_memory(file->bytes, file->len);
	struct plt_store *d = data && r->data ? new_memory(data->bytes, data->len) : NULL;
	int ret = judge_state(r, f, d, mark, limit, over);

	plt_store_unref(f);
	plt_store_unref(d);
	return ret;
}

static int judge_cut(void *arg, const struct powercut_state *st)
{
	struct rig *r = arg;
	char why[sizeof(r->violation)];

	if (rig_verify_state(r, &st->disk[0], &st->disk[1], (uint32_t)st->mark, st->mark >> 32,
			     r->verified++ % 8 == 0) == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", r->violation);
	complain(r, "%.200s: %.390s", st->what, why);
	return -1;
}

int rig_cut_power(struct rig *r, const struct powercut_limits *limits,
		  struct powercut_count *ret_count)
{
	r->violation[0] = 0;
	return powercut_each(r->log, r->start, r->data ? 2 : 1, limits, judge_cut, r, ret_count);
}
