/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What a state must fulfil is formats' own promise: it opens; every unit holds a version that is allowed; the structure
 * has leaks at most, and clusters counted once that are not marked so; with the dirty bit set counts may be behind
 * until the image has been opened for writing; a snapshot and the bitmap are right; it can be repaired to what it
 * was; and it can be written over completely.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "qcow2/qcow2.h"
#include "tests/fault/rig.h"
#include "tests/unit.h"

#define WORDS (RIG_UNIT / 8)

/* ---- what may be ----------------------------------------------------------------------------- */

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
	for (size_t e = RIG_EVENT_FIRST; e < limit; e++) {
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
		r->floor[u] = u < PLT_MIN(r->base_units, rig_first_size(r) / RIG_UNIT) ? RIG_EVENT_BASE : RIG_EVENT_ZERO;
		r->zero[u] = 0;
	}
	for (size_t e = RIG_EVENT_FIRST; e < limit; e++) {
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
	bool may = size == rig_first_size(r);
	uint64_t now = rig_first_size(r);

	r->beyond = false;
	r->moving = UINT64_MAX;
	for (size_t e = RIG_EVENT_FIRST; e < limit; e++) {
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
			 unit * RIG_UNIT, floor == RIG_EVENT_BASE ? "backing content, event" : "event",
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
	if (event == RIG_EVENT_BASE && floor == RIG_EVENT_BASE)
		return 0;
	if (event >= floor && event < r->limit && event >= RIG_EVENT_FIRST && !r->event[event].zero && r->live[event] &&
	    covers(&r->event[event], unit))
		return 0;
	complain(r, "guest offset %#" PRIx64 ": event %" PRIu64 ", but event %zu%s was flushed",
		 unit * RIG_UNIT, event, floor, r->event[floor].zero ? " (zeros)" : "");
	return -1;
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
		uint64_t was = unit < r->base_units ? rig_tag(unit, RIG_EVENT_BASE) : 0,
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
	static uint8_t buf[16 * RIG_CHUNK];
	struct plt_error err = PLT_ERROR_INIT;

	for (uint64_t c = 0; c * RIG_CHUNK < size; c++) {
		uint64_t off = c * RIG_CHUNK, len;

		if (!r->touched[c])
			continue;
		while (c + 1 < (off + sizeof(buf)) / RIG_CHUNK && (c + 1) * RIG_CHUNK < size &&
		       r->touched[c + 1])
			c++;
		len = PLT_MIN((c + 1) * RIG_CHUNK, size) - off;
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
		ret = rig_open_disk(r, overlay, data, true, NULL, &disk, &err);
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
	uint64_t len = 16 * RIG_CHUNK;
	uint8_t *buf = malloc(len), *got = malloc(len);
	int e = rig_open_disk(r, file, data, true, NULL, &disk, &err);
	uint64_t size = e == 0 ? judged_size(r, disk) : 0;

	/* a third of it, so that old and new clusters lie side by side */
	for (uint64_t off = 0; e == 0 && off < size; off += 3 * RIG_CHUNK) {
		uint64_t n = PLT_MIN(RIG_CHUNK, size - off);

		if (!r->touched[off / RIG_CHUNK])
			continue;
		rig_fill(buf, off / RIG_UNIT, n / RIG_UNIT, event);
		e = plt_write(disk, off, buf, n, &err);
	}
	if (e == 0)
		e = plt_flush(disk, &err);
	for (uint64_t c = 0; e == 0 && c * RIG_CHUNK < size; c++) {
		uint64_t off = c * RIG_CHUNK, n = PLT_MIN(RIG_CHUNK, size - off);

		if (!r->touched[c])
			continue;
		e = plt_read(disk, off, got, n, &err);
		rig_fill(buf, off / RIG_UNIT, n / RIG_UNIT, event);
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
	int ret = rig_open_disk(r, file, NULL, false, s->name, &disk, &err);

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
	for (size_t e = RIG_EVENT_FIRST; e < limit && mark; e++)
		untouched &= r->event[e].failed || r->event[e].done <= r->mark[0];
	dirty = rig_is_qcow2(r) && rig_get64(file, 72) & QCOW2_INCOMPAT_DIRTY &&
		rig_get64(file, 0) != ((uint64_t)QCOW2_MAGIC << 32 | 2);
	if (judge_structure(r, file, "before opening", dirty, r->l->damaged && untouched) < 0)
		return -1;
	if (over && (rig_is_qcow2(r) || !strcmp(rig_format(r), "vpc")) && !r->beyond && judge_repair(r, file, data, mark, limit) < 0)
		return -1;
	if (rig_open_disk(r, file, data, true, NULL, &disk, &err) < 0) {
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
	struct plt_store *f = rig_memory(file->bytes, file->len);
	struct plt_store *d = data && r->data ? rig_memory(data->bytes, data->len) : NULL;
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
