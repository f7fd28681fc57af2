/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Disks that are looked at through a plan: what the engine does where the right content is not known.  Each layer
 * has its lists, of which that of the disk it shows counts (formats/doubt.h); what reading comes upon (a damaged
 * entry, bytes behind the end of the file, a flaw in a compressed cluster, a sector that cannot be read) is added.
 * A lost range is lost whatever the map says there, so it is looked for before the map is asked; a layer is asked
 * only where nothing above it covers, so a range that is lost in a base is lost only there.
 */
#include <stdio.h>
#include <string.h>

#include "block/engine.h"
#include "io/mapfile.h"

#define SECTOR 512

const struct plt_rescue_options *plt_rescue_below(const struct plt_rescue_options *opts,
						  struct plt_rescue_options *buf)
{
	if (!opts)
		return NULL;
	*buf = *opts;
	buf->plan = buf->donor = buf->map = NULL;
	return buf;
}

int plt_rescue_new(struct plt_image *img, struct plt_rescue_plan *plan, bool zero)
{
	struct plt_rescue *rsc = calloc(1, sizeof(*rsc));

	if (!rsc)
		return -ENOMEM;
	pthread_rwlock_init(&rsc->lock, NULL);
	rsc->plan = *plan;
	*plan = (struct plt_rescue_plan){ 0 };
	rsc->zero = zero;
	img->engine->rescue = rsc;
	return 0;
}

void plt_rescue_free(struct plt_rescue *rsc)
{
	if (!rsc)
		return;
	plt_rescue_plan_release(&rsc->plan);
	plt_extents_release(&rsc->donated);
	pthread_rwlock_destroy(&rsc->lock);
	free(rsc);
}

void plt_rescue_note(struct plt_image *img, enum plt_doubt_kind kind, uint64_t off, uint64_t len, const char *why)
{
	struct plt_rescue *rsc = img->engine->rescue;
	uint64_t size = atomic_load(&img->size);
	struct plt_doubt d = { .kind = kind, .disk = img->disk, .off = off, .certainty = PLT_LIKELY };

	if (off >= size)
		return;
	d.len = PLT_MIN(len, size - off);
	snprintf(d.why, sizeof(d.why), "%s", why);
	pthread_rwlock_wrlock(&rsc->lock);
	/* without memory the list is short of a range: the disk says so when it is asked for it */
	if (plt_doubts_set(&rsc->plan.doubts, &d) < 0)
		rsc->short_of_memory = true;
	pthread_rwlock_unlock(&rsc->lock);
}

void plt_image_doubt(struct plt_image *img, enum plt_doubt_kind kind, uint64_t off, uint64_t len,
		     enum plt_certainty certainty, const char *why)
{
	struct plt_rescue *rsc = img->engine->rescue;
	uint64_t size = atomic_load(&img->size), end = off + PLT_MIN(len, size - PLT_MIN(off, size));

	pthread_rwlock_wrlock(&rsc->lock);
	while (off < end) {
		const struct plt_doubt *known = plt_doubts_find(&rsc->plan.doubts, img->disk, off);
		struct plt_doubt d = { .kind = kind, .disk = img->disk, .off = off, .certainty = certainty };
		bool here = known && known->off <= off;
		uint64_t upto = PLT_MIN(end, !known ? end : here ? known->off + known->len : known->off);

		d.len = upto - off;
		snprintf(d.why, sizeof(d.why), "%s", why);
		/* what is known to be lost stays so, and what is less sure */
		if (!(here && (known->kind == PLT_LOST || (kind == PLT_INFERRED && known->certainty <= certainty))) &&
		    plt_doubts_set(&rsc->plan.doubts, &d) < 0)
			rsc->short_of_memory = true;
		off = upto;
	}
	pthread_rwlock_unlock(&rsc->lock);
}

bool plt_rescue_knows(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_len)
{
	struct plt_rescue *rsc = img->engine->rescue;
	const struct plt_doubt *d;
	bool known = false;

	pthread_rwlock_rdlock(&rsc->lock);
	d = plt_doubts_find(&rsc->plan.doubts, img->disk, off);
	*ret_len = len;
	if (d && d->off <= off) {
		known = d->kind == PLT_INFERRED && d->certainty >= PLT_STRONG;
		*ret_len = PLT_MIN(len, d->off + d->len - off);
	} else if (d) {
		*ret_len = PLT_MIN(len, d->off - off);
	}
	pthread_rwlock_unlock(&rsc->lock);
	return known;
}

bool plt_rescue_find(struct plt_image *img, uint64_t off, uint64_t len, struct plt_doubt *ret)
{
	struct plt_rescue *rsc = img->engine->rescue;
	uint64_t end = off + len, at = off;
	const struct plt_range *given;
	const struct plt_doubt *d;
	bool found = false;

	pthread_rwlock_rdlock(&rsc->lock);
	while ((d = plt_doubts_find(&rsc->plan.doubts, img->disk, at)) && d->off < end) {
		if (d->kind == PLT_LOST) {
			*ret = *d;
			ret->off = PLT_MAX(d->off, off);
			ret->len = PLT_MIN(d->off + d->len, end) - ret->off;
			found = true;
			break;
		}
		at = d->off + d->len;
	}
	given = plt_extents_find(&rsc->donated, off);
	if (given && given->off < (found ? ret->off : end)) {
		*ret = (struct plt_doubt){ .kind = PLT_INFERRED, .off = PLT_MAX(given->off, off) };
		ret->len = PLT_MIN(given->off + given->len, end) - ret->off;
		found = true;
	}
	pthread_rwlock_unlock(&rsc->lock);
	return found;
}

uint64_t plt_file_part_planned(const struct plt_image *img, uint64_t host_off, uint64_t len)
{
	uint64_t end = img->file_end, part = host_off >= end ? 0 : PLT_MIN(len, end - host_off);

	if (part < len) /* (what the plan has put there it is) */
		part += plt_overlay_edited(img->engine->rescue->plan.overlay, host_off + part, len - part);
	return part;
}

void plt_run_skip(struct plt_run *run, uint64_t n)
{
	run->iv_sector += (run->host_off % SECTOR + n) / SECTOR;
	run->off += n;
	run->host_off += n;
	run->len -= n;
}

uint64_t plt_rescue_there(struct plt_image *img, const struct plt_run *run, uint64_t *ret_lost, const char **ret_why)
{
	uint64_t size, there = run->len;
	struct plt_range bad;

	*ret_lost = 0;
	*ret_why = PLT_WHY_CUT;
	if (run->kind != PLT_RUN_DATA)
		return run->len;
	if (run->store == img->file)
		there = plt_file_part(img, run->host_off, run->len);
	else if (plt_store_size(run->store, &size, NULL) == 0) /* (else reading will tell) */
		there = run->host_off >= size ? 0 : PLT_MIN(run->len, size - run->host_off);
	if (plt_store_unreadable(run->store, run->host_off, there, &bad)) {
		*ret_lost = bad.len;
		*ret_why = PLT_WHY_MEDIUM;
		return bad.off - run->host_off;
	}
	*ret_lost = run->len - there;
	return there;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Chains are deep and each layer has a frame on the stack: see damaged() in read.c. */
static __attribute__((noinline)) void refuse(struct plt_io *io, uint64_t off, uint64_t len, const char *why)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, EIO, "'%s': guest offset %#" PRIx64 ", %" PRIu64 " bytes: lost: %s", io->img->name, off, len,
		      why);
	plt_io_fail(io, EIO, &err);
}

static void zeros(struct plt_io *io, uint64_t off, uint64_t len)
{
	plt_iov_zero(io->iov, io->niov, io->iov_off + (size_t)(off - io->off), (size_t)len);
}

uint64_t plt_rescue_upto(struct plt_io *io, uint64_t end)
{
	struct plt_doubt d;

	while (io->pos < end && plt_rescue_find(io->img, io->pos, end - io->pos, &d)) {
		if (d.off > io->pos)
			return d.off;
		if (d.kind == PLT_INFERRED) {
			plt_donor_read(io, d.off, d.len);
			io->pos = d.off + d.len;
			continue;
		}
		if (!io->eng->rescue->zero) {
			refuse(io, d.off, d.len, d.why);
			return io->pos;
		}
		zeros(io, d.off, d.len);
		io->pos = d.off + d.len;
	}
	return end;
}

void plt_rescue_lose(struct plt_io *io, uint64_t off, uint64_t len, const char *why)
{
	if (!io->eng->rescue->zero) {
		refuse(io, off, len, why);
		return;
	}
	zeros(io, off, len);
	plt_rescue_note(io->img, PLT_LOST, off, len, why);
}

uint64_t plt_rescue_run(struct plt_io *io, const struct plt_run *run, struct plt_run *ret_next)
{
	uint64_t there, lost;
	const char *why;

	*ret_next = *run;
	if (run->kind == PLT_RUN_DAMAGED) {
		plt_rescue_lose(io, run->off, run->len, PLT_WHY_DAMAGED);
		ret_next->len = 0;
		return 0;
	}
	there = plt_rescue_there(io->img, run, &lost, &why);
	if (lost)
		plt_rescue_lose(io, run->off + there, lost, why);
	plt_run_skip(ret_next, there + lost);
	return there;
}

/* deflate has no checksum: where the flaw shows may be behind where it is */
static int note_flaw(void *arg, const struct plt_run *run, size_t good)
{
	struct plt_image *img = arg;

	plt_rescue_note(img, PLT_INFERRED, run->unit_off, good, "the compressed cluster has a flaw further on");
	plt_rescue_note(img, PLT_LOST, run->unit_off + good, run->unit_len - good, PLT_WHY_FLAW);
	return 0;
}

int plt_rescue_unit(struct plt_io *io, const struct plt_run *run, uint8_t *unit, size_t good, struct plt_error *err)
{
	uint64_t end = run->off + run->len, flaw = run->unit_off + good;

	if (!io->eng->rescue->zero && flaw < end)
		return plt_error_set(err, EIO, "'%s': guest offset %#" PRIx64 ", %" PRIu64 " bytes: lost: " PLT_WHY_FLAW,
				     io->img->name, flaw, run->unit_off + run->unit_len - flaw);
	memset(unit + good, 0, run->unit_len - good);
	return note_flaw(io->img, run, good);
}

/* ---- what cannot be read --------------------------------------------------------------------- */

/* Halve what does not read until the unreadable sectors are known. */
static int salvage(struct plt_image *img, uint64_t off, uint64_t len, const struct iovec *iov, int niov, size_t at,
		   struct plt_error *err)
{
	int n = plt_iov_slice_count(iov, niov, at, (size_t)len), r;
	PLT_AUTOFREE struct iovec *v = malloc((size_t)n * sizeof(*v));
	uint64_t half;

	if (!v)
		return -ENOMEM;
	n = plt_iov_slice(iov, niov, at, (size_t)len, v);
	r = plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_READ_REQ, .off = off, .len = len, .iov = v,
							.niov = n }, err);
	if (r == 0 || r == -ENOMEM)
		return r;
	if (len > SECTOR || off % SECTOR + len > SECTOR) {
		half = plt_align_down(off + len / 2, SECTOR);
		half = half > off ? half - off : SECTOR - off % SECTOR;
		r = salvage(img, off, half, iov, niov, at, err);
		return r < 0 ? r : salvage(img, off + half, len - half, iov, niov, at + (size_t)half, err);
	}
	half = plt_align_down(off, SECTOR);
	if (plt_donor_gives(img, half, SECTOR, strerror(-r)))
		return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_READ_REQ, .off = off, .len = len, .iov = v,
								   .niov = n }, err);
	if (!img->engine->rescue->zero)
		return r;
	plt_iov_zero(iov, niov, at, (size_t)len);
	plt_rescue_note(img, PLT_LOST, half, SECTOR, strerror(-r));
	return 0;
}

int plt_rescue_read(struct plt_image *img, uint64_t off, uint64_t len, const struct iovec *iov, int niov,
		    struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	int r = salvage(img, off, len, iov, niov, 0, &why);

	return r < 0 ? plt_error_set(err, -r, "%s", why.text[0] ? why.text : "out of memory") : 0;
}

static int read_again(struct plt_io *io, struct plt_io_op *iop)
{
	return plt_rescue_read(io->img, io->off, io->len, io->iov, io->niov, &iop->err);
}

void plt_rescue_step(struct plt_io *io)
{
	if (io->pending)
		return;
	if (io->state++ == 0)
		plt_io_call(io, read_again, NULL);
	else
		plt_io_finish(io);
}

/* ---- the lists ------------------------------------------------------------------------------- */

/* fn for each part of [off, off+len) of the layer @down below @img that shows at @img. */
static int shown(struct plt_image *img, unsigned down, uint64_t off, uint64_t len,
		 int (*fn)(void *arg, uint64_t off, uint64_t len), void *arg)
{
	PLT_AUTOFREE struct plt_run *v = NULL;
	uint64_t size = atomic_load(&img->size), end;
	struct plt_doubt d;
	int r = 0;

	if (off >= size)
		return 0;
	end = off + PLT_MIN(len, size - off);
	if (!down)
		return fn(arg, off, end - off);
	v = malloc(64 * sizeof(*v));
	if (!v)
		return -ENOMEM;
	while (off < end && r == 0) {
		struct plt_runs runs = { v, 0, 64 };
		uint64_t upto = end;

		if (img->engine->rescue && plt_rescue_find(img, off, end - off, &d)) {
			if (d.off == off) { /* lost here: nothing below shows */
				off += d.len;
				continue;
			}
			upto = d.off;
		}
		if (plt_image_map_wait(img, off, upto - off, &runs, NULL) < 0) {
			off = PLT_MIN(end, plt_align_down(off, PLT_MAX(img->alloc_unit, 1u)) +
					   PLT_MAX(img->alloc_unit, 1u));
			continue; /* that is lost, too */
		}
		for (unsigned i = 0; i < runs.n && r == 0; i++) {
			if (v[i].kind == PLT_RUN_ABSENT)
				r = shown(img->engine->backing, down - 1, v[i].off, v[i].len, fn, arg);
			off = v[i].off + v[i].len;
		}
	}
	return r;
}

struct layer_doubt {
	struct plt_doubts *to;
	struct plt_doubt d;
};

static int add_shown(void *arg, uint64_t off, uint64_t len)
{
	struct layer_doubt *l = arg;

	l->d.off = off;
	l->d.len = len;
	return plt_doubts_set(l->to, &l->d);
}

/*
 * How many windows of SURVEY_SLICES slices of tables the files of a chain can fill, each with one slice at least: what
 * is mapped in more of them is mapped by tables that are named again and again.
 */
#define SURVEY_SLICES 512

static uint64_t survey_budget(const struct plt_disk *disk, uint64_t *ret_window)
{
	uint64_t windows = 2048;
	uint32_t unit = 1 << 16;

	for (const struct plt_image *img = disk->top; img; img = img->engine->backing) {
		int64_t there = plt_store_allocated(img->file);
		uint64_t size;

		if (there < 0)
			there = plt_store_size(img->file, &size, NULL) == 0 ? (int64_t)size : 0;
		windows += (uint64_t)there / PLT_SLICE;
		unit = PLT_MIN(unit, PLT_MAX(img->alloc_unit, UINT32_C(512)));
	}
	*ret_window = (uint64_t)unit * (PLT_SLICE / 8) * SURVEY_SLICES;
	return windows;
}

/* Is there a layer whose map says nothing that is worth a walk? */
static bool is_hopeless(const struct plt_disk *disk)
{
	for (const struct plt_image *img = disk->top; img; img = img->engine->backing)
		if (img->engine->rescue && plt_check_is_hopeless(&img->engine->rescue->plan.left, img->file))
			return true;
	return false;
}

/* What the maps say is not there; reasons that are known better replace these. */
static int survey_maps(struct plt_disk *disk, struct plt_doubts *to, struct plt_error *err)
{
	uint64_t size = plt_disk_size(disk), window, left = survey_budget(disk, &window);
	struct plt_extent x[64];
	int r = 0;

	if (is_hopeless(disk))
		left = 0;
	for (uint64_t off = 0; off < size && r == 0;) {
		bool mapped = false;
		unsigned n;

		if (!left) {
			struct plt_doubt d = { .kind = PLT_INFERRED, .certainty = PLT_GUESS, .off = off, .len = size - off };

			snprintf(d.why, sizeof(d.why), "%s", PLT_WHY_MORE);
			return plt_doubts_set(to, &d);
		}
		r = plt_status(disk, off, PLT_MIN(size - off, window), PLT_STATUS_NO_HOST, x, PLT_ARRAY_SIZE(x), &n, err);
		for (unsigned i = 0; i < n && r == 0; i++)
			mapped |= x[i].flags & (PLT_EXTENT_PRESENT | PLT_EXTENT_DAMAGED);
		left -= mapped && (n < PLT_ARRAY_SIZE(x) || x[n - 1].off + x[n - 1].len >= off + PLT_MIN(size - off, window));
		for (unsigned i = 0; i < n && r == 0; i++) {
			struct plt_doubt d = { .kind = PLT_LOST, .disk = x[i].depth, .off = x[i].off, .len = x[i].len };

			off = x[i].off + x[i].len;
			if (!(x[i].flags & PLT_EXTENT_DAMAGED))
				continue;
			snprintf(d.why, sizeof(d.why), "%s", "the mapping is damaged, or leads behind the end of the file");
			r = plt_doubts_set(to, &d);
		}
	}
	return r;
}

/* From @off on nothing has been looked at; what is said of parts of it already stays. */
static void note_rest(struct plt_image *img, uint64_t off)
{
	const struct plt_rescue *rsc = img->engine->rescue;
	uint64_t size = atomic_load(&img->size);

	for (const struct plt_doubt *d; off < size; off = d->off + d->len) {
		d = plt_doubts_find(&rsc->plan.doubts, img->disk, off);
		if (!d || d->off > off) {
			plt_rescue_note(img, PLT_INFERRED, off, d ? d->off - off : size - off, PLT_WHY_MORE);
			d = plt_doubts_find(&rsc->plan.doubts, img->disk, off);
			if (!d)
				break; /* (no memory, which is noted) */
		}
	}
}

/* Where structure shows damage there may be more of it: all that is compressed is decoded once. */
int plt_rescue_decode(struct plt_image *img, bool always, struct plt_error *err)
{
	struct plt_rescue *rsc = img->engine->rescue;
	const struct plt_check_result *b = &rsc->plan.before;
	uint64_t end = 0;
	bool todo;
	int r = 0;

	if (!rsc)
		return 0;
	pthread_rwlock_wrlock(&rsc->lock);
	todo = !rsc->decoded && (always || b->corruptions || b->added || b->corruptions_fixed || b->check_errors);
	rsc->decoded = rsc->decoded || todo;
	pthread_rwlock_unlock(&rsc->lock);
	if (todo && !plt_check_is_hopeless(b, img->file))
		r = plt_image_decode(img, NULL, false, &end, note_flaw, img, err);
	if (todo && r == 0 && end < atomic_load(&img->size))
		note_rest(img, end);
	return r;
}

/* The doubts of one layer, where it shows.  (plt_doubt.disk is its depth here.) */
static int survey_layer(struct plt_disk *disk, struct plt_image *img, unsigned depth, struct plt_doubts *to)
{
	struct plt_rescue *rsc = img->engine->rescue;
	struct plt_doubt *v;
	size_t n = 0;
	int r = 0;

	pthread_rwlock_rdlock(&rsc->lock);
	v = malloc((rsc->plan.doubts.n + 1) * sizeof(*v));
	for (size_t i = 0; v && i < rsc->plan.doubts.n; i++)
		if (rsc->plan.doubts.v[i].disk == img->disk)
			v[n++] = rsc->plan.doubts.v[i];
	if (!v || rsc->short_of_memory)
		r = -ENOMEM;
	pthread_rwlock_unlock(&rsc->lock);
	for (size_t i = 0; i < n && r == 0; i++) {
		struct layer_doubt l = { to, v[i] };

		l.d.disk = depth;
		r = shown(disk->top, depth, v[i].off, v[i].len, add_shown, &l);
	}
	free(v);
	return r;
}

static bool worse(const struct plt_doubt *a, const struct plt_doubt *b)
{
	return a->kind != b->kind ? a->kind == PLT_LOST : a->kind == PLT_INFERRED && a->certainty < b->certainty;
}

/*
 * What is said of the bytes from @pos on: the worst of all layers (a layer that has inferred that it holds nothing
 * shows the one below).  False: nothing more is said of any.  *ret is cut to where it is the worst.
 */
static bool worst_at(const struct plt_doubts *all, unsigned depths, uint64_t pos, struct plt_doubt *ret)
{
	const struct plt_doubt *best = NULL;
	uint64_t first = UINT64_MAX, end = UINT64_MAX;

	for (unsigned i = 0; i < depths; i++) {
		const struct plt_doubt *d = plt_doubts_find(all, i, pos);

		if (d)
			first = PLT_MIN(first, PLT_MAX(d->off, pos));
	}
	for (unsigned i = 0; i < depths; i++) {
		const struct plt_doubt *d = first < UINT64_MAX ? plt_doubts_find(all, i, first) : NULL;

		if (d && d->off > first) {
			end = PLT_MIN(end, d->off);
		} else if (d) {
			end = PLT_MIN(end, d->off + d->len);
			if (!best || worse(d, best))
				best = d;
		}
	}
	if (!best)
		return false;
	*ret = *best;
	ret->off = first;
	ret->len = end - first;
	return true;
}

static int tell(const struct plt_doubt *d, int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg)
{
	const struct plt_doubt_range pub = {
		.off = d->off, .len = d->len, .lost = d->kind == PLT_LOST, .why = d->why, .depth = d->disk,
		.certainty = d->kind == PLT_LOST ? NULL : plt_certainty_name(d->certainty),
	};

	return fn(arg, &pub);
}

static int tell_all(const struct plt_doubts *all, unsigned depths,
		    int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg)
{
	struct plt_doubt now = { 0 }, next;
	int r = 0;

	for (uint64_t pos = 0; r == 0 && worst_at(all, depths, pos, &next); pos = next.off + next.len) {
		if (now.len && now.off + now.len == next.off && now.disk == next.disk && !worse(&now, &next) &&
		    !worse(&next, &now) && !strcmp(now.why, next.why)) {
			now.len += next.len;
			continue;
		}
		if (now.len)
			r = tell(&now, fn, arg);
		now = next;
	}
	return r == 0 && now.len ? tell(&now, fn, arg) : r;
}

int plt_disk_doubts(struct plt_disk *disk, int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg,
		    struct plt_error *err)
{
	struct plt_doubts all = PLT_DOUBTS_INIT; /* .disk is the depth of the layer */
	unsigned depth = 0;
	bool rescued = false;
	int r = 0;

	for (struct plt_image *img = disk->top; img; img = img->engine->backing)
		rescued = rescued || img->engine->rescue;
	if (!rescued)
		return plt_error_set(err, EINVAL, "'%s' was not opened for rescue", disk->top->name);
	r = survey_maps(disk, &all, err);
	if (r == -ENOTSUP) { /* encrypted, and no key was given: what the plan itself says is all that there is */
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		r = 0;
	}
	for (struct plt_image *img = disk->top; img && r == 0; img = img->engine->backing, depth++)
		if (img->engine->rescue && (r = plt_rescue_decode(img, false, err)) == 0)
			r = survey_layer(disk, img, depth, &all);
	if (r == 0)
		r = tell_all(&all, depth, fn, arg);
	plt_doubts_release(&all);
	return r < 0 ? plt_error_default(err, -r, "'%s': what of it is not known cannot be told: %s", disk->top->name,
					 strerror(-r)) : r;
}

int plt_disk_update_map(struct plt_disk *disk, struct plt_error *err)
{
	const struct plt_rescue *rsc = disk->top->engine->rescue;
	struct plt_extents found = PLT_EXTENTS_INIT;
	struct plt_mapfile map = PLT_MAPFILE_INIT;
	int r;

	if (!rsc || !rsc->plan.map)
		return 0;
	r = plt_medium_found(rsc->plan.medium, &found);
	if (r < 0)
		plt_error_set(err, -r, "out of memory");
	if (r == 0 && found.n)
		r = plt_mapfile_read(rsc->plan.map, &map, err);
	if (r == 0 && found.n)
		r = plt_mapfile_write(rsc->plan.map, &map, &found, err);
	plt_mapfile_release(&map);
	plt_extents_release(&found);
	return r;
}

int plt_disk_rescue_info(struct plt_disk *disk, unsigned depth, struct plt_rescue_info *ret)
{
	struct plt_image *img = disk->top;
	struct plt_rescue *rsc;

	while (img && depth--)
		img = img->engine->backing;
	if (!img)
		return -ENOENT;
	rsc = img->engine->rescue;
	if (!rsc)
		return -EINVAL;
	*ret = (struct plt_rescue_info){
		.filename = img->name, .format = img->drv->name,
		.fixed = rsc->plan.before.corruptions_fixed + rsc->plan.before.leaks_fixed,
		.left = rsc->plan.left.corruptions + rsc->plan.left.added + rsc->plan.left.check_errors,
		.leaks = rsc->plan.left.leaks, .edits = rsc->plan.edits, .bytes = rsc->plan.bytes,
	};
	return 0;
}
