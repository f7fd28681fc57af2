/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_compare(): whether two disks hold the same.  One walk goes through the extents of both; what is a
 * hole in both is never read, what is a hole in one must be zeros in the other.  The result is that of
 * the lowest offset at which anything (a difference, an error) is found, which threads working side
 * by side keep true because pieces are handed out in order and none is abandoned that lies below.
 *
 * In the result, which is NULL or one of: "content", "status" (strict: an offset where one disk has an
 * entry, data or zeros and the other something else), "size" (strict: sizes differ).  With an error
 * it is "status" or "read", and failed_side tells which disk.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "block/internal.h"
#include "convert/convert.h"

#define SECTOR 512u /* differences are told to the sector, as qemu-img does */

/* What was found, at the lowest offset so far. */
struct found {
	bool any;
	uint64_t off;
	const char *which;
	int ret;         /* 0: a difference */
	int side;
	struct plt_error err;
};

struct job {
	struct plt_crew crew;
	struct plt_cursor side[2]; /* the two disks */
	uint64_t pos, common, end;
	bool strict;
	struct found found;
};

/* A part of both disks to be looked at; the side whose read is false is a hole there. */
struct part {
	uint64_t off, len;
	bool read[2];
};

static void report(struct job *job, uint64_t off, const char *which, int ret, int side,
		   const struct plt_error *err)
{
	PLT_LOCK_SCOPE(&job->crew.lock);
	if (job->found.any && job->found.off <= off)
		return;
	job->found = (struct found){ .any = true, .off = off, .which = which, .ret = ret, .side = side };
	if (err)
		job->found.err = *err;
}

static int status_error(struct job *job, uint64_t off, unsigned i, int ret, const struct plt_error *why)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, -ret, "Sector allocation test failed for %s%s%s",
		      plt_disk_name(job->side[i].disk), why->text[0] ? ": " : "", why->text);
	if (!job->found.any || off < job->found.off) {
		job->found = (struct found){ .any = true, .off = off, .which = "status", .ret = ret,
					     .side = (int)i + 1, .err = err };
	}
	return ret;
}

/* The extent of side @i that holds @off.  The crew's lock is held. */
static int extent_at(struct job *job, unsigned i, uint64_t off, const struct plt_extent **ret)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r = plt_cursor_at(&job->side[i], off, ret, &err);

	return r ? status_error(job, off, i, r, &err) : 0;
}

static bool has_data(const struct plt_extent *e)
{
	return !(e->flags & PLT_EXTENT_ZERO) &&
	       e->flags & (PLT_EXTENT_DATA | PLT_EXTENT_PRESENT | PLT_EXTENT_DAMAGED);
}

/*
 * The next part that must be read, cut to a chunk; holes of both are passed by.  False at the end, or
 * where something was found (it is recorded).  The crew's lock is held.
 */
static bool next_part(struct job *job, struct part *part)
{
	const unsigned what = PLT_EXTENT_DATA | PLT_EXTENT_ZERO | PLT_EXTENT_PRESENT;

	while (job->pos < job->end && !(job->found.any && job->found.off <= job->pos)) {
		const struct plt_extent *e[2] = { NULL, NULL };
		uint64_t off = job->pos, stop = off < job->common ? job->common : job->end;

		part->read[0] = part->read[1] = false;
		for (unsigned i = 0; i < 2; i++) {
			if (off >= job->side[i].size)
				continue; /* beyond its end */
			if (extent_at(job, i, off, &e[i]))
				return false;
			stop = PLT_MIN(stop, e[i]->off + e[i]->len);
			part->read[i] = has_data(e[i]);
		}
		if (job->strict && e[0] && e[1] && (e[0]->flags ^ e[1]->flags) & what) {
			job->found = (struct found){ .any = true, .off = off, .which = "status" };
			return false;
		}
		job->pos = stop;
		part->off = off;
		part->len = stop - off;
		if (!part->read[0] && !part->read[1]) {
			plt_crew_done(&job->crew, part->len);
			continue;
		}
		/* Chunks end at multiples of their size. */
		stop = PLT_MIN(stop, plt_align_down(off, PLT_CHUNK) + PLT_CHUNK);
		part->len = stop - off;
		job->pos = stop;
		return true;
	}
	return false;
}

/* Offset of the first sector of @len bytes that differs; @b NULL: from zeros.  @len if none. */
static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	for (size_t at = 0; at < len; at += SECTOR) {
		size_t n = PLT_MIN(len - at, SECTOR);

		if (b ? memcmp(a + at, b + at, n) != 0 : !plt_is_zero(a + at, n))
			return at;
	}
	return len;
}

static void look(struct job *job, const struct part *part, uint8_t *const buf[2])
{
	const uint8_t *a, *b;
	bool same;

	for (int i = 0; i < 2; i++) {
		struct plt_error err = PLT_ERROR_INIT, text = PLT_ERROR_INIT;
		int ret;

		if (!part->read[i])
			continue;
		ret = plt_read(job->side[i].disk, part->off, buf[i], part->len, &err);
		if (ret) {
			plt_error_set(&text, -ret, "Error while reading offset %" PRIu64 " of %s: %s", part->off,
				      plt_disk_name(job->side[i].disk), strerror(-ret));
			report(job, part->off, "read", ret, i + 1, &text);
			return;
		}
	}
	a = part->read[0] ? buf[0] : buf[1];
	b = part->read[0] && part->read[1] ? buf[1] : NULL;
	same = b ? memcmp(a, b, part->len) == 0 : plt_is_zero(a, part->len);
	if (!same)
		report(job, part->off + first_difference(a, b, part->len), "content", 0, 0, NULL);
}

static int work(void *arg, unsigned index)
{
	struct job *job = arg;
	PLT_AUTOFREE uint8_t *a = plt_alloc_io(PLT_CHUNK), *b = plt_alloc_io(PLT_CHUNK);
	uint8_t *const buf[2] = { a, b };

	(void)index;
	if (!a || !b)
		return -ENOMEM;
	while (plt_crew_going(&job->crew)) {
		struct part part;
		bool more;

		pthread_mutex_lock(&job->crew.lock);
		more = next_part(job, &part);
		pthread_mutex_unlock(&job->crew.lock);
		if (!more)
			break;
		look(job, &part, buf);
		plt_crew_done(&job->crew, part.len);
	}
	return 0;
}

static int run(struct job *job, struct plt_compare_result *ret, struct plt_error *err)
{
	const struct found *f = &job->found;
	int r = plt_crew_run(&job->crew, plt_crew_size(0, 2), work, job, err);

	if (r)
		return r;
	if (!f->any)
		return 0;
	ret->first_difference = f->off;
	ret->which = f->which;
	ret->failed_side = f->side;
	ret->same = false;
	if (f->ret && err)
		*err = f->err;
	return f->ret;
}

int plt_compare(struct plt_disk *a, struct plt_disk *b, bool strict, plt_progress_fn progress, void *arg,
		void (*warn)(void *arg, const char *text), struct plt_compare_result *ret, struct plt_error *err)
{
	struct job *job;
	uint64_t end;
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->same = true;
	job = calloc(1, sizeof(*job));
	if (!job || plt_crew_init(&job->crew, progress, arg)) {
		free(job);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	plt_cursor_init(&job->side[0], a, 0);
	plt_cursor_init(&job->side[1], b, 0);
	job->common = PLT_MIN(job->side[0].size, job->side[1].size);
	end = PLT_MAX(job->side[0].size, job->side[1].size);
	job->strict = strict;
	if (strict && end != job->common) {
		ret->same = false;
		ret->size_differs = true;
		ret->first_difference = job->common;
		ret->which = "size";
		plt_crew_release(&job->crew);
		free(job);
		return 0;
	}
	plt_crew_expect(&job->crew, end);
	job->end = job->common;
	r = run(job, ret, err);
	if (!r && ret->same && end != job->common) {
		if (warn)
			warn(arg, "Image size mismatch!");
		job->end = end;
		r = run(job, ret, err);
		ret->size_differs = !ret->same;
	}
	plt_crew_release(&job->crew);
	free(job);
	return r;
}
