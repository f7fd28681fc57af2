/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The pass of a scan.  A crew takes piece after piece, in order, so that the medium sees one sequential reader that is
 * a few pieces ahead of itself; each member looks through its piece and hands over what it noted.  The invariants: a
 * byte is read once, save around errors, where the number of tries is bounded; nothing is written to the disk that
 * is looked at.
 */
#include "convert/scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "io/mapfile.h"

#define MAP_EVERY UINT64_C(5000000000) /* nanoseconds between two maps */
#define TRY_BYTES 65536 /* what is read again where a piece cannot be read */
#define BAD_MAX 8       /* sectors of it that may fail before the rest is passed over */

/* ---- reading --------------------------------------------------------------------------------- */

static int note(struct plt_scan *s, struct plt_extents *where, uint64_t off, uint64_t len)
{
	PLT_LOCK_SCOPE(&s->crew.lock);
	if (where->n >= SCAN_RANGES_MAX)
		return -E2BIG;
	return plt_extents_add(where, off, len);
}

/* Around a bad sector: sector by sector, as long as that has a chance. */
static int read_sectors(struct plt_scan *s, uint64_t off, uint8_t *buf, size_t len)
{
	unsigned bad = 0;
	int r = 0;

	for (size_t at = 0, n; at < len && r == 0; at += n) {
		n = PLT_MIN(len - at, (size_t)SCAN_SECTOR);
		if (bad == BAD_MAX) {
			memset(buf + at, 0, len - at);
			return note(s, &s->skipped, off + at, len - at);
		}
		if (plt_read(s->disk, off + at, buf + at, n, NULL) == 0 || plt_read(s->disk, off + at, buf + at, n, NULL) == 0)
			continue;
		memset(buf + at, 0, n);
		bad++;
		r = note(s, &s->bad, off + at, n);
	}
	return r;
}

/* What can be had of [off, off+len); zeros stand for the rest. */
static int read_piece(struct plt_scan *s, uint64_t off, uint8_t *buf, size_t len)
{
	int r = 0;

	if (!plt_extents_overlaps(&s->avoid, off, len) && plt_read(s->disk, off, buf, len, NULL) == 0)
		return 0;
	for (size_t at = 0, n; at < len && r == 0; at += n) {
		const struct plt_range *a = plt_extents_find(&s->avoid, off + at);

		n = PLT_MIN(len - at, (size_t)TRY_BYTES);
		if (a && a->off <= off + at) {
			n = PLT_MIN(n, a->off + a->len - off - at);
			memset(buf + at, 0, n);
			r = note(s, &s->bad, off + at, n);
			continue;
		}
		if (a && a->off < off + at + n)
			n = a->off - off - at;
		if (plt_read(s->disk, off + at, buf + at, n, NULL) < 0)
			r = read_sectors(s, off + at, buf + at, n);
	}
	return r;
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* The next piece to read; its length, 0 at the end.  Holes are passed over. */
static uint64_t take(struct plt_scan *s, unsigned i, uint64_t *ret_off)
{
	PLT_LOCK_SCOPE(&s->crew.lock);
	s->at[i] = UINT64_MAX;
	while (s->next < s->size) {
		uint64_t left = s->size - s->next, n = PLT_MIN(left, (uint64_t)SCAN_PIECE);
		struct plt_extent e = { 0 };
		unsigned k = 0;

		if (plt_status(s->disk, s->next, left, 0, &e, 1, &k, NULL) == 0 && k && e.flags & PLT_EXTENT_ZERO &&
		    e.len >= SCAN_SECTOR) {
			n = e.len == left ? left : plt_align_down(e.len, SCAN_SECTOR);
			s->next += n;
			s->totals.holes += n;
			atomic_fetch_add(&s->crew.done, n);
			continue;
		}
		if (k && !(e.flags & PLT_EXTENT_ZERO) && e.len >= SCAN_SECTOR && e.len < n)
			n = plt_align_up(e.len, SCAN_SECTOR) < left ? plt_align_up(e.len, SCAN_SECTOR) : left;
		*ret_off = s->at[i] = s->next;
		s->next += n;
		s->totals.read += n;
		return n;
	}
	return 0;
}

/* ---- the map ----------------------------------------------------------------------------------- */

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What is known now; with crew.lock, or when nobody else is there.  What nobody has come to was not tried. */
static int make_map(struct plt_scan *s, bool complete, struct plt_mapfile *ret)
{
	uint64_t at = 0, upto = PLT_MIN(s->next, s->size);
	int r = 0;

	*ret = (struct plt_mapfile)PLT_MAPFILE_INIT;
	for (unsigned i = 0; i < s->members && !complete; i++)
		upto = PLT_MIN(upto, s->at[i]);
	while (at < s->size && r == 0) {
		bool passed = at < upto; /* behind that what is bad is all that is known */
		const struct plt_range *b = plt_extents_find(&s->bad, at), *k = plt_extents_find(&s->skipped, at);
		const struct plt_range *a = passed ? NULL : plt_extents_find(&s->avoid, at), *next;
		uint64_t end = passed ? upto : s->size, from;

		b = a && (!b || a->off < b->off) ? a : b;
		next = k && (!b || k->off < b->off) ? k : b;
		from = next ? PLT_MIN(PLT_MAX(next->off, at), end) : end;

		r = plt_mapfile_add(ret, at, from - at, passed ? '+' : '?');
		at = from;
		if (r == 0 && at < end) {
			uint64_t to = PLT_MIN(next->off + next->len, end);

			r = plt_mapfile_add(ret, at, to - at, next == k ? '/' : '-');
			at = to;
		}
	}
	return r;
}

static int write_map(struct plt_scan *s, bool complete, struct plt_error *err)
{
	struct plt_mapfile map;
	int r;

	pthread_mutex_lock(&s->crew.lock);
	r = make_map(s, complete, &map);
	pthread_mutex_unlock(&s->crew.lock);
	if (r == 0)
		r = plt_mapfile_write(s->map, &map, NULL, err);
	else
		plt_error_set(err, -r, "'%s': there are too many bad places for one map", s->map);
	plt_mapfile_release(&map);
	return r;
}

/* Every now and then, so that a run that is killed does not try again what is bad. */
static void keep_map(struct plt_scan *s, unsigned i)
{
	bool mine;

	if (!s->map)
		return;
	pthread_mutex_lock(&s->crew.lock);
	s->at[i] = UINT64_MAX; /* it is through */
	mine = !s->map_busy && now() >= s->map_due;
	s->map_busy |= mine;
	pthread_mutex_unlock(&s->crew.lock);
	if (!mine)
		return;
	(void)write_map(s, false, NULL); /* (at the end it is said if it cannot be written) */
	pthread_mutex_lock(&s->crew.lock);
	s->map_due = now() + MAP_EVERY;
	s->map_busy = false;
	pthread_mutex_unlock(&s->crew.lock);
}

static int merge(struct plt_scan *s, struct scan_hits *h)
{
	PLT_LOCK_SCOPE(&s->crew.lock);
	for (size_t i = 0; i < h->n; i++) {
		struct scan_item *it = plt_scan_add(&s->hits, h->v[i].o.kind, h->v[i].o.what, 0, 0);

		if (it)
			*it = h->v[i];
	}
	for (size_t i = 0; i < h->nones && s->hits.nones < SCAN_ONES_MAX; i++) {
		if (s->hits.nones == s->hits.ones_cap) {
			size_t cap = s->hits.ones_cap ? 2 * s->hits.ones_cap : 4096;
			uint64_t *grown = realloc(s->hits.ones, cap * sizeof(*grown));

			if (!grown)
				return -ENOMEM;
			s->hits.ones = grown;
			s->hits.ones_cap = cap;
		}
		s->hits.ones[s->hits.nones++] = h->ones[i];
	}
	s->hits.omitted += h->omitted;
	h->n = h->nones = h->omitted = 0;
	return 0;
}

static int member(void *arg, unsigned i)
{
	struct plt_scan *s = arg;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_PIECE + PLT_SUPER_AHEAD);
	struct scan_hits h = { 0 };
	uint64_t off = 0, n;
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && plt_crew_going(&s->crew) && (n = take(s, i, &off))) {
		size_t ahead = PLT_MIN((uint64_t)PLT_SUPER_AHEAD, s->size - off - n), whole = plt_align_up(n, SCAN_SECTOR);

		r = read_piece(s, off, buf, n);
		memset(buf + n, 0, whole - n);
		/* a structure may reach into the next piece; what cannot be read of that is its finder's business */
		if (r == 0 && ahead && plt_read(s->disk, off + n, buf + n, ahead, NULL) < 0)
			ahead = 0;
		if (r == 0)
			plt_scan_find(&h, buf, whole, PLT_MAX(whole, n + ahead), off);
		if (r == 0)
			r = merge(s, &h);
		plt_crew_done(&s->crew, n);
		keep_map(s, i);
	}
	free(h.v);
	free(h.ones);
	return r;
}

/* ---- what lies in what ----------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
	const struct plt_scan_object *x = &((const struct scan_item *)a)->o, *y = &((const struct scan_item *)b)->o;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->length != y->length)
		return x->length > y->length ? -1 : 1;
	return (int)x->kind - (int)y->kind;
}

static bool encloses(const struct plt_scan_object *a)
{
	return (a->kind == PLT_SCAN_IMAGE || a->kind == PLT_SCAN_PARTITION || a->kind == PLT_SCAN_FILESYSTEM) && a->length;
}

/* By offset, larger ones first, so that whatever encloses an object stands before it. */
static void nest(struct plt_scan *s)
{
	int open[64], n = 0;

	if (s->hits.n)
		qsort(s->hits.v, s->hits.n, sizeof(*s->hits.v), by_place);
	for (size_t i = 0; i < s->hits.n; i++) {
		struct plt_scan_object *o = &s->hits.v[i].o;

		while (n && s->hits.v[open[n - 1]].o.offset + s->hits.v[open[n - 1]].o.length <= o->offset)
			n--;
		o->inside = n ? open[n - 1] : -1;
		if (encloses(o) && n < (int)PLT_ARRAY_SIZE(open) &&
		    (!n || o->offset + o->length <= s->hits.v[open[n - 1]].o.offset + s->hits.v[open[n - 1]].o.length))
			open[n++] = (int)i;
	}
	for (size_t i = 0; i < s->hits.n; i++)
		s->hits.v[i].o.detail = s->hits.v[i].detail;
}

/* ---- the disk as a store --------------------------------------------------------------------- */

static void ds_close(struct plt_store *st)
{
	(void)st; /* the disk is the caller's */
}

static int ds_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	(void)err;
	*ret = ((struct plt_scan *)st->priv)->size;
	return 0;
}

static int ds_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		   struct plt_error *err)
{
	struct plt_scan *s = st->priv;
	int r = 0;

	(void)tag;
	for (int i = 0; i < niov && r == 0; i++) {
		size_t n = off >= s->size ? 0 : (size_t)PLT_MIN((uint64_t)iov[i].iov_len, s->size - off);

		if (n)
			r = plt_read(s->disk, off, iov[i].iov_base, n, err);
		memset((uint8_t *)iov[i].iov_base + n, 0, iov[i].iov_len - n);
		off += iov[i].iov_len;
	}
	return r;
}

static int ds_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind, uint64_t *ret_len,
		      struct plt_error *err)
{
	struct plt_scan *s = st->priv;
	struct plt_extent e;
	unsigned n;
	int r;

	if (off >= s->size) {
		*ret_kind = PLT_STORE_HOLE;
		*ret_len = len;
		return 0;
	}
	r = plt_status(s->disk, off, PLT_MIN(len, s->size - off), 0, &e, 1, &n, err);
	if (r < 0)
		return r;
	*ret_kind = e.flags & PLT_EXTENT_ZERO ? PLT_STORE_HOLE : PLT_STORE_DATA;
	*ret_len = PLT_MIN(e.len, len);
	return 0;
}

static const struct plt_store_ops disk_store_ops = {
	.kind = "disk",
	.close = ds_close,
	.size = ds_size,
	.read = ds_read,
	.extents = ds_extents,
};

static int open_store(struct plt_scan *s)
{
	s->store = calloc(1, sizeof(*s->store));
	if (!s->store || plt_store_init(s->store, &disk_store_ops, "scan") < 0) {
		free(s->store);
		s->store = NULL;
		return -ENOMEM;
	}
	s->store->priv = s;
	s->store->readonly = true;
	return 0;
}

static int guest_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct plt_scan *s = arg;

	return plt_read(s->disk, off, buf, len, NULL);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* What an earlier run has found bad; one that has left no map has found nothing. */
static int read_map(struct plt_scan *s, const char *path, struct plt_error *err)
{
	struct plt_mapfile map;
	int r = plt_mapfile_read(path, &map, err);

	if (r == -ENOENT) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		r = 0;
	}
	for (size_t i = 0; i < map.n && r == 0; i++)
		if (map.v[i].status == '-' && plt_extents_add(&s->avoid, map.v[i].off, map.v[i].len) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
	plt_mapfile_release(&map);
	s->map = path; /* due at once: then it is known that it can be written */
	return r < 0 ? r : plt_mapfile_probe(path, err);
}

int plt_scan(struct plt_ctx *ctx, struct plt_disk *disk, const struct plt_scan_options *opts, struct plt_scan **ret,
	     struct plt_error *err)
{
	static const struct plt_scan_options defaults = PLT_SCAN_OPTIONS_INIT;
	const struct plt_scan_options *o = opts ? opts : &defaults;
	struct plt_scan *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_crew_init(&s->crew, o->progress, o->progress_arg);
	if (r < 0) {
		free(s);
		return plt_error_set(err, -r, "out of memory");
	}
	s->ctx = ctx;
	s->disk = disk;
	s->size = plt_disk_size(disk);
	s->guest = (struct plt_guest){ .read = guest_read, .arg = s, .size = s->size };
	atomic_store(&s->crew.total, s->size);
	s->members = plt_crew_size(0, 2);
	s->at = calloc(s->members, sizeof(*s->at));
	for (unsigned i = 0; s->at && i < s->members; i++)
		s->at[i] = UINT64_MAX;
	r = s->at ? 0 : plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0 && o->map)
		r = read_map(s, o->map, err);
	if (r == 0 && o->carve)
		r = plt_scan_carve_folder(o->carve, err);
	if (r == 0 && open_store(s) < 0)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_crew_run(&s->crew, s->members, member, s, err);
	/* the map is worth having whatever ended the pass */
	if (o->map && (r == 0 || r == -ECANCELED)) {
		struct plt_error why = PLT_ERROR_INIT;
		int w = write_map(s, r == 0, &why);

		if (w < 0 && r == 0)
			r = plt_error_set(err, -w, "%s", why.text);
	}
	if (r == 0) {
		s->totals.bad = plt_extents_total(&s->bad);
		s->totals.skipped = plt_extents_total(&s->skipped);
		plt_scan_judge(s);
		nest(s);
		s->totals.omitted = s->hits.omitted;
	}
	if (r == 0 && o->carve)
		r = plt_scan_carve(s, o->carve, err);
	if (r < 0) {
		plt_scan_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

const struct plt_scan_object *plt_scan_object(const struct plt_scan *scan, unsigned i)
{
	return i < scan->hits.n ? &scan->hits.v[i].o : NULL;
}

void plt_scan_totals(const struct plt_scan *scan, struct plt_scan_totals *ret)
{
	*ret = scan->totals;
}

void plt_scan_free(struct plt_scan *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->hits.n; i++)
		free(s->hits.v[i].carved);
	free(s->hits.v);
	free(s->hits.ones);
	free(s->at);
	plt_extents_release(&s->bad);
	plt_extents_release(&s->skipped);
	plt_extents_release(&s->avoid);
	plt_store_unref(s->store);
	plt_crew_release(&s->crew);
	free(s);
}
