/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Compressed units whose entries lead to something that does not decode.  A stream says itself where it ends: if one
 * begins where the entry says and fills the unit, only the length was wrong.  Otherwise the place was: if the entry leads
 * into the middle of another stream, or the counts know of one more where it does not lead, the streams that nothing
 * names are looked at.  The only one that there is for the only place, or one that the place differs from by one bit, is
 * the right one; for the rest the guest is asked.
 *
 * The invariant: a unit of which the payload is damaged keeps its entry, so that what comes out before the flaw is read.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "block/codec.h"
#include "formats/driver.h"
#include "repair/evidence/evidence.h"
#include "repair/repair.h"

#define FLAWS_MAX 256 /* more have another cause */
#define SECTOR 512    /* in which entries say lengths */

void plt_streams_release(struct plt_streams *s)
{
	free(s->flaws);
	free(s->moves);
	*s = (struct plt_streams){ 0 };
}

/* ---- what does not decode ---------------------------------------------------------------------------------- */

static int note(void *arg, const struct plt_run *run, size_t good)
{
	struct plt_streams *s = arg;

	if (s->nflaws == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		void *v = cap <= FLAWS_MAX ? realloc(s->flaws, cap * sizeof(*s->flaws)) : NULL;

		if (!v)
			return cap <= FLAWS_MAX ? -ENOMEM : 0; /* (those that are known are enough for a round) */
		s->flaws = v;
		s->cap = cap;
	}
	s->codec = run->codec;
	s->unit = run->unit_len;
	s->flaws[s->nflaws++] = (struct plt_flaw){ .host_off = run->host_off, .len = run->comp_len, .guest_off = run->unit_off,
					      .fills = good == run->unit_len };
	return 0;
}

static int find_flaws(struct plt_repair *rep, struct plt_streams *s, struct plt_error *err)
{
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	struct plt_image *img;
	uint64_t end;
	int r;

	how.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	r = plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &how, &disk, NULL);
	if (r < 0) /* what does not open cannot be looked at */
		return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : 0;
	img = plt_disk_image(disk);
	if (img->drv->codec && !img->encrypted)
		r = plt_image_decode(img, NULL, true, &end, note, s, err);
	plt_disk_close(disk, NULL);
	return r;
}

/* ---- streams that begin somewhere --------------------------------------------------------------------------- */

struct reader {
	struct plt_repair *rep;
	const struct plt_streams *s;
	uint64_t file_size;
	uint8_t *in, *out;
};

/* How long is the stream at @at that fills a unit?  0: there is none. */
static uint32_t length_at(struct reader *d, uint64_t at)
{
	/* (as long as an entry can say, from a place that is no multiple of a sector) */
	uint64_t n = at < d->file_size ? PLT_MIN(2 * (uint64_t)d->s->unit - at % SECTOR, d->file_size - at) : 0;
	int64_t len;

	if (n < 4 || plt_store_read(d->rep->overlay, at, d->in, (size_t)n, PLT_IO_COMPRESSED, NULL) < 0)
		return 0;
	len = plt_packed_length(d->s->codec, d->in, (size_t)n, d->out, d->s->unit);
	return len > 0 ? (uint32_t)len : 0;
}

/* The last stream that is named and begins before @at; UINT64_MAX: none. */
static uint64_t named_before(const struct plt_orphans *o, uint64_t at)
{
	size_t lo = 0, hi = o->nnamed;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (o->named[mid] < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? o->named[lo - 1] : UINT64_MAX;
}

static bool is_flaw(const struct plt_streams *s, uint64_t host)
{
	for (size_t i = 0; i < s->nflaws; i++)
		if (s->flaws[i].host_off == host)
			return true;
	return false;
}

/* Does the place lie inside a stream that another entry names rightly? */
static bool is_in_named(struct reader *d, const struct plt_orphans *o, uint64_t at)
{
	uint64_t before = named_before(o, at);

	while (before != UINT64_MAX && is_flaw(d->s, before))
		before = named_before(o, before);
	return before != UINT64_MAX && at - before < 2 * (uint64_t)d->s->unit && at - before < length_at(d, before);
}

/* ---- moves --------------------------------------------------------------------------------------------------- */

static int by_guest(const void *a, const void *b)
{
	const struct plt_move *x = a, *y = b;

	return x->guest_off < y->guest_off ? -1 : x->guest_off > y->guest_off;
}

static void move(struct plt_streams *s, struct plt_flaw *f, uint64_t host, uint32_t len, enum plt_certainty certainty,
		 const char *why)
{
	struct plt_move *m = &s->moves[s->nmoves++];

	*m = (struct plt_move){ .host_off = host, .packed = len, .guest_off = f->guest_off, .from = PLT_UNPLACED,
				.certainty = certainty };
	snprintf(m->why, sizeof(m->why), "%s", why);
	f->done = true;
}

static int hand_over(struct plt_streams *s, struct plt_mend *mend)
{
	if (!s->nmoves)
		return 0;
	qsort(s->moves, s->nmoves, sizeof(*s->moves), by_guest);
	mend->moves = s->moves;
	mend->nmoves = s->nmoves;
	mend->move_span = s->unit;
	return 1;
}

/* The stream is there, and longer than its entry says. */
static void mend_lengths(struct reader *d, struct plt_streams *s)
{
	for (size_t i = 0; i < s->nflaws; i++) {
		struct plt_flaw *f = &s->flaws[i];
		uint32_t len = length_at(d, f->host_off);

		if (len > f->len)
			move(s, f, f->host_off, len, PLT_PROVEN, "the stream that begins there ends itself, and fills the cluster");
	}
}

/* A place that was another by one bit. */
static bool is_one_bit(uint64_t a, uint64_t b)
{
	uint64_t x = a ^ b;

	return x && !(x & (x - 1));
}

static bool is_taken(const struct plt_streams *s, uint64_t host)
{
	for (size_t i = 0; i < s->nmoves; i++)
		if (s->moves[i].host_off == host)
			return true;
	return false;
}

/* One bit of the place was turned. */
static void mend_bits(struct plt_streams *s, const struct plt_orphans *open)
{
	for (size_t i = 0; i < s->nflaws; i++) {
		const struct plt_orphan *found = NULL;
		unsigned n = 0;

		for (size_t k = 0; k < open->n && !s->flaws[i].done; k++)
			if (open->v[k].packed && is_one_bit(open->v[k].host_off, s->flaws[i].host_off) &&
			    !is_taken(s, open->v[k].host_off)) {
				found = &open->v[k];
				n++;
			}
		if (n == 1)
			move(s, &s->flaws[i], found->host_off, found->packed, PLT_STRONG, "one bit of its L2 entry was turned");
	}
}

/* As many sectors as the entry says, which may be what is right of it. */
static bool has_length(const struct plt_flaw *f, const struct plt_orphan *o)
{
	return (f->len + f->host_off % SECTOR) / SECTOR ==
	       (o->packed + o->host_off % SECTOR + SECTOR - 1) / SECTOR;
}

/* What evidence says of the places that are left. */
static int ask(struct plt_repair *rep, struct plt_streams *s, const struct plt_orphans *open, struct plt_error *err)
{
	struct plt_orphans o = { .span = s->unit };
	struct plt_placement *v = NULL;
	uint32_t n = 0;
	int r;

	o.v = calloc(open->n + 1, sizeof(*o.v));
	o.gaps = calloc(s->nflaws + 1, sizeof(*o.gaps));
	for (size_t i = 0; i < open->n && o.v; i++)
		if (open->v[i].packed && !is_taken(s, open->v[i].host_off))
			o.v[o.n++] = open->v[i];
	for (size_t i = 0; i < s->nflaws && o.gaps; i++) /* ascending: they were found in order */
		if (!s->flaws[i].done && !s->flaws[i].kept)
			o.gaps[o.ngaps++] = s->flaws[i].guest_off;
	r = o.v && o.gaps ? plt_repair_ask(rep, NULL, &o, &v, &n, NULL) : plt_error_set(err, ENOMEM, "out of memory");
	if (r != -ENOMEM)
		r = 0; /* (they stay as they are) */
	for (uint32_t i = 0; i < n && r == 0; i++) {
		struct plt_flaw *f = s->flaws;

		while (f < s->flaws + s->nflaws && (f->guest_off != v[i].slot || f->done))
			f++;
		if (f < s->flaws + s->nflaws && plt_repair_wants(rep, &o, &v[i]) && !is_taken(s, o.v[v[i].object].host_off))
			move(s, f, o.v[v[i].object].host_off, o.v[v[i].object].packed, v[i].certainty, v[i].why);
	}
	free(v);
	free(o.v);
	free(o.gaps);
	return r;
}

/* The only one that there is, or the only one of the length that the entry says. */
static void mend_last(struct plt_streams *s, const struct plt_orphans *open)
{
	const struct plt_orphan *found = NULL, *fits = NULL;
	struct plt_flaw *f = NULL;
	unsigned n = 0, nfits = 0, left = 0;

	for (size_t i = 0; i < s->nflaws; i++)
		if (!s->flaws[i].done && !s->flaws[i].kept) {
			f = &s->flaws[i];
			left++;
		}
	for (size_t k = 0; k < open->n && left == 1; k++) {
		if (!open->v[k].packed || is_taken(s, open->v[k].host_off))
			continue;
		found = &open->v[k];
		n++;
		if (has_length(f, found)) {
			fits = found;
			nfits++;
		}
	}
	if (left == 1 && n == 1)
		move(s, f, found->host_off, found->packed, PLT_STRONG, "the only compressed cluster that nothing names");
	else if (left == 1 && nfits == 1)
		move(s, f, fits->host_off, fits->packed, PLT_STRONG,
		     "of the compressed clusters that nothing names, the only one of that length");
}

static bool has_losses(const struct plt_mend *mend)
{
	for (size_t i = 0; i < mend->doubts.n; i++)
		if (mend->doubts.v[i].kind == PLT_LOST)
			return true;
	return false;
}

static bool is_in(const struct plt_orphan *o, uint64_t at)
{
	return o->packed && o->host_off < at && at - o->host_off < o->packed;
}

/* The place lies inside a stream that nothing names: that is the one. */
static void mend_inside(struct plt_streams *s, const struct plt_orphans *open)
{
	for (size_t i = 0; i < s->nflaws; i++)
		for (size_t k = 0; k < open->n && !s->flaws[i].done; k++)
			if (is_in(&open->v[k], s->flaws[i].host_off) && !is_taken(s, open->v[k].host_off))
				move(s, &s->flaws[i], open->v[k].host_off, open->v[k].packed, PLT_STRONG,
				     "its L2 entry leads into the middle of it, and no other to it");
}

/* Where the payload is damaged the entry is right: it leads to no other's stream. */
static void keep_damaged(struct reader *d, struct plt_streams *s, const struct plt_orphans *o)
{
	for (size_t i = 0; i < s->nflaws; i++)
		s->flaws[i].kept = !s->flaws[i].done && !is_in_named(d, o, s->flaws[i].host_off);
}

static int mend_places(struct reader *d, struct plt_streams *s, struct plt_mend *mend, struct plt_error *err)
{
	struct plt_orphans apart = { 0 };
	uint64_t *ranks = NULL;
	int r;

	r = plt_repair_take_apart(d->rep, s->codec, &mend->streams, &apart, &ranks);
	if (r == 0) {
		mend_bits(s, &apart);
		mend_inside(s, &apart);
		keep_damaged(d, s, &mend->streams);
		r = ask(d->rep, s, &apart, err);
	}
	if (r == 0 && !has_losses(mend)) /* (else what was taken out may be theirs) */
		mend_last(s, &apart);
	free(apart.v);
	free(ranks);
	return r;
}

/* ---- all of it ----------------------------------------------------------------------------------------------- */

enum { LOOK, ASK, PLACE, END };

static void drop_done(struct plt_streams *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->nflaws; i++)
		if (!s->flaws[i].done)
			s->flaws[n++] = s->flaws[i];
	s->nflaws = n;
}

static int step(struct plt_repair *rep, struct plt_mend *mend, struct plt_streams *s, struct plt_error *err)
{
	struct reader d = { .rep = rep, .s = s };
	int r = 0;

	free(s->moves);
	s->nmoves = 0;
	s->moves = calloc(s->nflaws, sizeof(*s->moves));
	d.in = plt_alloc_io(2 * (size_t)s->unit);
	d.out = plt_alloc_io(s->unit);
	if (!s->moves || !d.in || !d.out)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_store_size(rep->overlay, &d.file_size, err);
	if (r == 0 && s->phase == LOOK)
		mend_lengths(&d, s);
	else if (r == 0)
		r = mend_places(&d, s, mend, err);
	free(d.in);
	free(d.out);
	drop_done(s);
	return r < 0 ? r : hand_over(s, mend);
}

/* What stays as it is. */
static void say(struct plt_repair *rep, const struct plt_streams *s,
		void (*found)(void *arg, const struct plt_check_finding *f), void *arg)
{
	for (size_t i = 0; i < s->nflaws; i++) {
		const struct plt_flaw *f = &s->flaws[i];
		char text[160];
		const struct plt_check_finding said = {
			.id = "Q-CMP", .severity = "corruption", .beyond_qemu = true, .host_off = f->host_off, .host_len = f->len,
			.guest_off = f->guest_off, .guest_len = s->unit, .text = text,
		};

		if (f->fills && f->kept)
			continue;
		snprintf(text, sizeof(text), "ERROR the compressed cluster at guest offset %#" PRIx64 " (%#" PRIx64
			 " in the file) cannot be decoded", f->guest_off, f->host_off);
		rep->before.added++;
		if (found)
			found(arg, &said);
	}
}

int plt_streams_step(struct plt_repair *rep, struct plt_mend *mend, struct plt_streams *s,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	int r = s->phase == LOOK ? find_flaws(rep, s, err) : 0;

	if (r == 0 && s->nflaws && s->phase != ASK)
		r = step(rep, mend, s, err);
	mend->nflaws = 0;
	if (r < 0 || !s->nflaws || s->phase == PLACE) {
		s->phase = END;
		say(rep, s, found, arg);
	} else if (r > 0) {
		s->phase++;
	} else { /* the driver says where others may lie, if those are left out that lead nowhere */
		mend->flaws = s->flaws;
		mend->nflaws = s->nflaws;
		s->phase = PLACE;
		r = 1;
	}
	return r;
}

bool plt_streams_end(const struct plt_streams *s)
{
	return s->phase == END;
}
