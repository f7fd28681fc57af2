/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Placing what the driver could not place, by what the guest has written.  Two disks are opened over the plan
 * so far: the one that is known, whose gaps are empty places, and one on which the driver shows the orphans
 * side by side, so that whatever compresses or encrypts them is undone by the engine.  Evidence compares the two.
 * Nothing here writes to the plan: the driver does what has been chosen, in its next round.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "block/codec.h"
#include "formats/driver.h"
#include "repair/evidence/evidence.h"
#include "repair/repair.h"

#define SUBCLUSTERS 32 /* of a unit, that may be there or not */
#define PACKED_SPACE (UINT64_C(1) << 60)
#define NEAR 64        /* units that a run may pass over */
#define ANCHORS_MAX (UINT32_C(1) << 22)

struct place {
	const struct plt_orphans *o;
	struct plt_disk *known, *orphans;
	struct plt_disk *older; /* as it was at the newest snapshot, or what lies below; or NULL */
	bool below;  /* that is it, and shows wherever an orphan has no sector itself */
	uint32_t unit;
	bool named; /* by entries that may be right: where they lie on the host says nothing */
	/* what was last asked of the orphans: is the unit there, and where */
	uint64_t asked;
	bool there;
	uint64_t host;
	const uint64_t *ranks; /* of compressed orphans: the order in which they were written; or NULL */
};

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool in_gap(const struct place *p, uint64_t off)
{
	uint64_t slot = off / p->o->span * p->o->span;

	return bsearch(&slot, p->o->gaps, p->o->ngaps, sizeof(slot), by_value) != NULL;
}

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	struct place *p = arg;

	if (in_gap(p, off) || in_gap(p, off + len - 1))
		return -ENODATA;
	return plt_read(p->known, off, buf, len, NULL);
}

static int read_older(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct place *p = arg;

	return off + len <= plt_disk_size(p->older) ? plt_read(p->older, off, buf, len, NULL) : -ENODATA;
}

/* Does orphan @object have anything in the unit at @off? */
static int ask(struct place *p, uint32_t object, uint64_t off)
{
	uint64_t at = object * p->o->span + plt_align_down(off, p->unit);
	struct plt_extent e[SUBCLUSTERS];
	uint64_t end = at + p->unit, next = at;

	if (p->asked == at)
		return 0;
	p->asked = UINT64_MAX;
	p->there = false;
	p->host = 0;
	while (next < end && !(p->there && p->host)) {
		unsigned n;
		int r = plt_status(p->orphans, next, end - next, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST | PLT_STATUS_PLACES, e,
				   SUBCLUSTERS, &n, NULL);

		if (r < 0)
			return r;
		for (unsigned i = 0; i < n && !(p->there && p->host); i++) {
			p->there |= e[i].flags & PLT_EXTENT_PRESENT && !(e[i].flags & PLT_EXTENT_ZERO);
			if (e[i].flags & PLT_EXTENT_OFFSET && e[i].host_off >= e[i].off - at)
				p->host = e[i].host_off - (e[i].off - at);
			next = e[i].off + e[i].len;
		}
	}
	p->asked = at;
	return 0;
}

static int read_object(void *arg, uint32_t object, uint64_t off, void *buf, size_t len)
{
	struct place *p = arg;
	int r = ask(p, object, off);

	if (r == 0 && !p->there)
		r = -ENODATA;
	return r < 0 ? r : plt_read(p->orphans, object * p->o->span + off, buf, len, NULL);
}

static uint64_t host_of(void *arg, uint32_t object, uint64_t off)
{
	struct place *p = arg;

	if (p->ranks && p->o->v[object].packed) /* (a space of their own, in which they are neighbours) */
		return PACKED_SPACE + p->ranks[object] * p->unit;
	return ask(p, object, off) == 0 && p->there ? p->host : 0;
}

static int open_both(struct plt_repair *rep, const struct plt_driver *drv, struct place *p, struct plt_error *err)
{
	const struct plt_open_options o = plt_repair_how(rep, PLT_OPEN_NO_BACKING), all = plt_repair_how(rep, 0);
	struct plt_store *scratch;
	int r = 0;

	/* (of a differencing disk what a block does not have itself is known, too) */
	if (!p->known && drv->adopt_parent && !rep->no_backing)
		(void)plt_repair_open_chain(rep, rep->overlay, &all, &p->known, NULL);
	if (!p->known)
		r = plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, &p->known, err);
	if (r < 0)
		return r;
	if (plt_overlay_new(rep->overlay, true, &scratch) < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = drv->show_pieces(scratch, p->o, err);
	if (r == 0)
		r = plt_disk_open_store(rep->ctx, scratch, rep->name, rep->format, &o, &p->orphans, err);
	plt_store_unref(scratch);
	return r;
}

/* ---- what lies beside the orphans on the host ---------------------------------------------------------------- */

struct anchors {
	const struct plt_orphans *o; /* plain ones come first, ascending */
	size_t plain;
	uint32_t unit;
	struct plt_anchor *v;
	size_t n, cap;
};

/* The first plain orphan at @host or behind it. */
static size_t orphan_from(const struct anchors *a, uint64_t host)
{
	size_t lo = 0, hi = a->plain;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (a->o->v[mid].host_off < host)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int add_anchor(struct anchors *a, uint64_t host, uint64_t guest)
{
	if (a->n == a->cap) {
		size_t cap = a->cap ? 2 * a->cap : 1024;
		void *v = cap <= ANCHORS_MAX ? realloc(a->v, cap * sizeof(*a->v)) : NULL;

		if (!v)
			return cap <= ANCHORS_MAX ? -ENOMEM : -EFBIG;
		a->v = v;
		a->cap = cap;
	}
	a->v[a->n++] = (struct plt_anchor){ host, guest };
	return 0;
}

/* Of an extent the units that lie near an orphan. */
static int add_near(struct anchors *a, uint64_t host, uint64_t guest, uint64_t len)
{
	const uint64_t near = NEAR * (uint64_t)a->unit;
	int r = 0;

	for (uint64_t at = host; at < host + len && r == 0;) {
		size_t i = orphan_from(a, at >= near ? at - near + 1 : 0); /* one whose window goes on behind @at */
		uint64_t from, to;

		if (i == a->plain || a->o->v[i].host_off > host + len + near)
			break;
		from = a->o->v[i].host_off > near ? PLT_MAX(at, plt_align_up(a->o->v[i].host_off - near, a->unit)) : at;
		to = PLT_MIN(host + len, a->o->v[i].host_off + near);
		for (at = from; at < to && r == 0; at += a->unit)
			r = add_anchor(a, at, guest + (at - host));
		at = PLT_MAX(at, to);
	}
	return r;
}

static int by_anchor(const void *x, const void *y)
{
	const struct plt_anchor *a = x, *b = y;

	return a->host < b->host ? -1 : a->host > b->host;
}

/* Where single units are looked for: what is mapped near them.  None if there are too many. */
static int find_anchors(struct place *p, struct anchors *a)
{
	struct plt_extent e[64];
	uint64_t size = plt_disk_size(p->known);
	int r = 0;

	a->o = p->o;
	a->unit = p->unit;
	while (a->plain < p->o->n && !p->o->v[a->plain].packed)
		a->plain++;
	if (p->named || p->o->span != p->unit || !a->plain)
		return 0;
	for (uint64_t off = 0; off < size && r == 0;) {
		unsigned n;

		r = plt_status(p->known, off, size - off, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST | PLT_STATUS_PLACES, e,
			       PLT_ARRAY_SIZE(e), &n, NULL);
		for (unsigned i = 0; i < n && r == 0; i++) {
			off = e[i].off + e[i].len;
			if (e[i].flags & PLT_EXTENT_PRESENT && e[i].flags & PLT_EXTENT_OFFSET && !(e[i].flags & PLT_EXTENT_ZERO) &&
			    !(e[i].off % p->unit) && !(e[i].host_off % p->unit))
				r = add_near(a, e[i].host_off, e[i].off, e[i].len);
		}
	}
	if (r == -EFBIG)
		a->n = 0;
	if (a->n)
		qsort(a->v, a->n, sizeof(*a->v), by_anchor);
	return r == -ENOMEM ? r : 0;
}

/* Less than that somebody has to say yes to. */
bool plt_repair_wants(const struct plt_repair *rep, const struct plt_orphans *o, const struct plt_placement *p)
{
	const struct plt_placement_offer offer = {
		.host_off = o->v[p->object].host_off, .guest_off = p->slot, .guest_len = o->span, .why = p->why,
		.certainty = p->certainty < PLT_LIKELY ? "guess" : "likely",
	};

	return p->certainty >= rep->trust || (rep->offered && rep->offered(rep->offered_arg, &offer));
}

/*
 * Only what is sure enough to be done unasked; and when there is nothing of that any more, what was asked for: what
 * is sure says more of the rest.
 */
static int keep_sure(struct plt_repair *rep, const struct plt_orphans *o, const struct plt_placement *v, uint32_t n,
		     struct plt_orphan **ret, size_t *ret_n)
{
	uint32_t sure = 0;

	for (uint32_t i = 0; i < n; i++)
		sure += v[i].certainty >= PLT_STRONG;
	rep->ask_again = sure && sure < n && (rep->trust < PLT_STRONG || rep->offered);
	*ret = calloc((size_t)n + 1, sizeof(**ret));
	*ret_n = 0;
	if (!*ret)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		struct plt_orphan *t = &(*ret)[*ret_n];

		if (v[i].object >= o->n || (sure ? v[i].certainty < PLT_STRONG : !plt_repair_wants(rep, o, &v[i])))
			continue;
		*t = o->v[v[i].object];
		t->guest_off = v[i].slot;
		t->certainty = v[i].certainty;
		memcpy(t->why, v[i].why, sizeof(t->why));
		t->why[sizeof(t->why) - 1] = '\0';
		++*ret_n;
	}
	return 0;
}

/* ---- packed clusters ----------------------------------------------------------------------------------------- */

/* Does @buf, of which @len bytes were read, begin with a compressed cluster of @unit bytes? */
static bool is_packed(enum plt_codec codec, const uint8_t *buf, size_t len, uint8_t *out, uint32_t unit)
{
	return !plt_is_zero(buf, 512) && plt_decompress(codec, buf, len, out, unit, NULL) == 0;
}

/*
 * Is there compressed data among single clusters?  Nothing in the structure tells its clusters from others, and they hold
 * none of the guest's as they are: what they are taken for would be wrong wherever it is put.
 */
bool plt_repair_any_packed(struct plt_repair *rep, struct plt_disk *known, const struct plt_orphans *o)
{
	struct plt_image *img = plt_disk_image(known);
	enum plt_codec codec = img->drv->codec ? img->drv->codec(img) : PLT_CODEC_NONE;
	uint32_t unit = (uint32_t)o->span;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(2 * (size_t)unit);
	PLT_AUTOFREE uint8_t *out = plt_alloc_io(unit);
	bool packed = !buf || !out;
	uint64_t size;

	if (packed || codec == PLT_CODEC_NONE || plt_store_size(rep->overlay, &size, NULL) < 0)
		return packed;
	for (size_t i = 0; i < o->n && !packed; i++) {
		uint64_t at = o->v[i].host_off, len = at < size ? PLT_MIN(2 * (uint64_t)unit, size - at) : 0;

		packed = len && plt_store_read(rep->overlay, at, buf, (size_t)len, PLT_IO_OTHER, NULL) == 0 &&
			 is_packed(codec, buf, (size_t)len, out, unit);
	}
	return packed;
}

/* ---- all of it ----------------------------------------------------------------------------------------------- */

/* Which sectors an orphan of a differencing disk has itself. */
static int owns(void *arg, uint32_t object, uint64_t off, uint64_t len, uint64_t *ret_len)
{
	struct place *p = arg;
	struct plt_extent e;
	unsigned n;
	int r = plt_status(p->orphans, object * p->o->span + off, len, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST, &e, 1, &n, NULL);

	if (r < 0 || !n)
		return r < 0 ? r : -EIO;
	*ret_len = PLT_MIN(e.len, len);
	return !!(e.flags & PLT_EXTENT_PRESENT);
}

/* Where single units are looked for: what the guest had there before.  None is no reason to stop. */
static void open_older(struct plt_repair *rep, struct place *p)
{
	struct plt_open_options how = plt_repair_how(rep, 0);
	struct plt_image *img = plt_disk_image(p->known);
	const struct plt_snapshot_info *v;
	unsigned n = 0;

	if (p->o->span != p->unit)
		return;
	p->below = img->drv->adopt_parent && plt_repair_open_parent(rep, &p->older) == 0;
	if (p->below || p->named)
		return;
	if (img->drv->snapshots && img->drv->snapshots(img, &v, &n) == 0 && n) {
		how.flags = PLT_OPEN_NO_BACKING;
		how.snapshot_id = v[n - 1].id;
	}
	if (plt_repair_open_chain(rep, rep->overlay, &how, &p->older, NULL) == 0 && rep->below == PLT_BELOW_UNKNOWN &&
	    plt_repair_ask_below(rep, p->older)) {
		plt_disk_close(p->older, NULL);
		p->older = NULL;
		(void)plt_repair_open_chain(rep, rep->overlay, &how, &p->older, NULL);
	}
}

/* What evidence says, unfiltered, of a disk that is opened here where nobody has. */
static int solve(struct plt_repair *rep, struct place *p, struct plt_placement **ret, uint32_t *ret_n,
		 struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	const struct plt_orphans *o = p->o;
	const bool ours = !p->known;
	struct anchors a = { 0 };
	int r;

	*ret = NULL;
	*ret_n = 0;
	if (!drv || !drv->show_pieces || !o->n || !o->ngaps || o->n > UINT32_MAX / 2 || o->ngaps > UINT32_MAX / 2)
		return 0;
	r = open_both(rep, drv, p, err);
	if (r == 0) {
		struct plt_puzzle puzzle = {
			.disk_size = plt_disk_size(p->known), .span = o->span, .read_disk = read_disk,
			.read_object = read_object, .host_of = host_of, .nobjects = (uint32_t)o->n,
			.slots = o->gaps, .nslots = (uint32_t)o->ngaps, .arg = p, .ctx = rep->ctx,
		};

		p->unit = puzzle.unit = plt_disk_cluster_size(p->known);
		open_older(rep, p);
		puzzle.read_older = p->older ? read_older : NULL;
		puzzle.owns = p->below ? owns : NULL;
		r = find_anchors(p, &a);
		puzzle.anchors = a.v;
		puzzle.nanchors = (uint32_t)a.n;
		if (r == 0)
			r = plt_evidence_place(&puzzle, ret, ret_n, err);
	}
	free(a.v);
	if (p->older)
		plt_disk_close(p->older, NULL);
	if (p->orphans)
		plt_disk_close(p->orphans, NULL);
	if (p->known && ours)
		plt_disk_close(p->known, NULL);
	return r;
}

int plt_repair_ask(struct plt_repair *rep, struct plt_disk *known, const struct plt_orphans *o,
		   struct plt_placement **ret, uint32_t *ret_n, struct plt_error *err)
{
	struct place p = { .o = o, .asked = UINT64_MAX, .known = known, .named = true };

	return solve(rep, &p, ret, ret_n, err);
}

static int place(struct plt_repair *rep, struct place *p, struct plt_orphan **ret, size_t *ret_n, struct plt_error *err)
{
	struct plt_placement *v;
	uint32_t n;
	const struct plt_driver *drv = plt_driver_find(rep->format);
	/* (blocks that hold their data themselves) */
	int r = drv && drv->adopt_parent ? plt_repair_place_over(rep, p->o, ret, ret_n) : 0;

	if (r < 0 || *ret_n)
		return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
	r = solve(rep, p, &v, &n, err);

	if (r == 0)
		r = keep_sure(rep, p->o, v, n, ret, ret_n);
	free(v);
	return r;
}

/* What compresses the image's units, if single units are looked for. */
static int codec_of(struct plt_repair *rep, const struct plt_orphans *o, enum plt_codec *ret, struct plt_error *err)
{
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	struct plt_image *img;
	int r;

	how.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	r = plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &how, &disk, err);
	if (r < 0)
		return r;
	img = plt_disk_image(disk);
	*ret = img->drv->codec && plt_disk_cluster_size(disk) == o->span ? img->drv->codec(img) : PLT_CODEC_NONE;
	plt_disk_close(disk, NULL);
	return 0;
}

/* How many are not.  The order of those stays. */
static size_t put_stale_last(struct plt_orphans *o, uint64_t *ranks)
{
	size_t n = 0;

	for (size_t i = 0; i < o->n; i++)
		if (!o->v[i].stale) {
			struct plt_orphan t = o->v[i];
			uint64_t rank = ranks[i];

			o->v[i] = o->v[n];
			ranks[i] = ranks[n];
			o->v[n] = t;
			ranks[n++] = rank;
		}
	return n;
}

int plt_repair_place(struct plt_repair *rep, const struct plt_orphans *o, struct plt_orphan **ret, size_t *ret_n,
		     struct plt_error *err)
{
	enum plt_codec codec = PLT_CODEC_NONE;
	struct place p = { .o = o, .asked = UINT64_MAX };
	struct plt_orphans all = *o;
	uint64_t *ranks = NULL;
	size_t n;
	int r;

	*ret = NULL;
	*ret_n = 0;
	if (!o->ngaps)
		return 0;
	r = o->packed.n ? codec_of(rep, o, &codec, err) : 0;
	if (r < 0 || codec == PLT_CODEC_NONE)
		return r < 0 ? r : place(rep, &p, ret, ret_n, err);
	r = plt_repair_take_apart(rep, codec, o, &all, &ranks);
	p.o = &all;
	p.ranks = ranks;
	/* What was given up may be an older version of what was not, and looks as right. */
	n = all.n;
	all.n = r == 0 ? put_stale_last(&all, ranks) : 0;
	if (r == 0)
		r = place(rep, &p, ret, ret_n, err);
	if (r == 0 && all.n < n && *ret_n) {
		rep->ask_again = true;
	} else if (r == 0 && all.n < n) {
		free(*ret);
		all.n = n;
		p = (struct place){ .o = &all, .asked = UINT64_MAX, .ranks = ranks };
		r = place(rep, &p, ret, ret_n, err);
	}
	free(all.v);
	free(ranks);
	return r;
}
