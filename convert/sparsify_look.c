/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The kinds of sparsify for which data is read: units of zeros, and units that hold what the backing file has at the same
 * place.  Only what the image itself stores is read, by several threads, a chunk each.  Nobody else has the disk,
 * so what was read is what is there when its entry is changed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "convert/sparsify.h"

struct look {
	struct plt_sparsify_job *job;
	struct plt_disk *backing;
	struct plt_cursor walk; /* and what follows: the crew's lock */
	uint64_t pos, chunk;
};

struct part {
	uint64_t off, len;
	bool kept; /* zeros already, with a place that is kept for data */
};

/* Whole units of data that no other kind has taken; none (len 0) at the end. */
static int next_part(struct look *l, struct part *ret, struct plt_error *err)
{
	uint64_t unit = l->job->unit;

	*ret = (struct part){ 0 };
	while (l->pos < l->walk.size) {
		const struct plt_range *taken;
		const struct plt_extent *e;
		uint64_t off, end, stop;
		bool data;
		int r = plt_cursor_at(&l->walk, l->pos, &e, err);

		if (r < 0)
			return r;
		end = e->off + e->len;
		stop = PLT_MIN(end, plt_align_down(l->pos, l->chunk) + l->chunk);
		data = e->flags & PLT_EXTENT_DATA &&
		       !(e->flags & (PLT_EXTENT_ZERO | PLT_EXTENT_DAMAGED | PLT_EXTENT_COMPRESSED));
		ret->kept = e->flags & PLT_EXTENT_ZERO && e->flags & PLT_EXTENT_PRESENT &&
			    e->flags & PLT_EXTENT_OFFSET && !(e->flags & PLT_EXTENT_DATA) && l->job->unit > 512 &&
			    plt_disk_cluster_size(l->job->disk);
		if (!data && !ret->kept)
			stop = end;
		off = plt_align_up(l->pos, unit);
		taken = plt_extents_find(&l->job->counted, l->pos);
		if (taken && taken->off < stop) {
			if (taken->off <= l->pos)
				stop = PLT_MIN(stop, taken->off + taken->len), data = ret->kept = false;
			else
				stop = taken->off;
		}
		if (stop < l->walk.size && stop == end)
			end = plt_align_down(stop, unit);
		else
			end = stop;
		plt_crew_done(&l->job->crew, stop - l->pos);
		l->pos = stop;
		if ((!data && !ret->kept) || off >= end)
			continue;
		ret->off = off;
		ret->len = end - off;
		return 0;
	}
	return 0;
}

/* [off, +len) of the disk goes, as @same because the backing file has it too. */
static int give(struct look *l, uint64_t off, uint64_t len, bool same, struct plt_error *err)
{
	struct plt_sparsify_job *job = l->job;
	int r = 0;

	if (!len)
		return 0;
	if (!job->dry)
		r = same ? plt_disk_uncover(job->disk, off, len, err) : plt_sparsify_zero(job, off, len, err);
	if (r == -ENOTSUP && same)
		return plt_error_set(err, ENOTSUP,
				     "'%s': this image cannot give up clusters for those of its backing file",
				     plt_disk_name(job->disk));
	if (r == 0) {
		PLT_LOCK_SCOPE(&job->crew.lock);
		*(same ? &job->res->same : &job->res->zero) += len;
	}
	return r;
}

/* What a unit is: 0 data of its own, 1 zeros, 2 what the backing file has. */
static unsigned judge(const struct look *l, const uint8_t *a, const uint8_t *b, uint64_t n)
{
	if (l->backing && !memcmp(a, b, n))
		return 2; /* (both zero too: absent says as much, and shrinks the tables) */
	return l->job->opts->flags & PLT_SPARSIFY_ZERO && plt_is_zero(a, n);
}

static int look_at(struct look *l, const struct part *p, uint8_t *a, uint8_t *b, struct plt_error *err)
{
	uint64_t size = l->backing ? plt_disk_size(l->backing) : 0, from = p->off, unit = l->job->unit;
	unsigned last = 0;
	int r;

	if (p->kept)
		return l->job->opts->flags & PLT_SPARSIFY_ZERO ? give(l, p->off, p->len, false, err) : 0;
	r = plt_read(l->job->disk, p->off, a, p->len, err);
	if (r == 0 && l->backing) {
		uint64_t n = p->off < size ? PLT_MIN(p->len, size - p->off) : 0;

		memset(b + n, 0, p->len - n);
		r = n ? plt_read(l->backing, p->off, b, n, err) : 0;
	}
	/* neighbours of a kind go together */
	for (uint64_t at = 0; r == 0 && at < p->len; at += unit) {
		uint64_t n = PLT_MIN(unit, p->len - at);
		unsigned kind = judge(l, a + at, l->backing ? b + at : NULL, n);

		if (kind != last) {
			if (last)
				r = give(l, from, p->off + at - from, last == 2, err);
			from = p->off + at;
			last = kind;
		}
	}
	return r == 0 && last ? give(l, from, p->off + p->len - from, last == 2, err) : r;
}

static int work(void *arg, unsigned index)
{
	struct look *l = arg;
	PLT_AUTOFREE uint8_t *a = plt_alloc_io(l->chunk), *b = plt_alloc_io(l->backing ? l->chunk : 4096);
	struct plt_crew *crew = &l->job->crew;
	struct plt_error err = PLT_ERROR_INIT;

	(void)index;
	if (!a || !b)
		return -ENOMEM;
	while (plt_crew_going(crew)) {
		struct part p;
		int r;

		pthread_mutex_lock(&crew->lock);
		r = next_part(l, &p, &err);
		pthread_mutex_unlock(&crew->lock);
		if (r == 0 && !p.len)
			break;
		if (r == 0)
			r = look_at(l, &p, a, b, &err);
		if (r < 0) {
			plt_crew_fail(crew, r, &err);
			break;
		}
	}
	return 0;
}

int plt_sparsify_look(struct plt_sparsify_job *job, struct plt_disk *backing, struct plt_error *err)
{
	struct look *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return plt_error_set(err, ENOMEM, "out of memory");
	*l = (struct look){ .job = job, .backing = backing, .chunk = PLT_MAX(PLT_CHUNK, job->unit) };
	plt_cursor_init(&l->walk, job->disk, PLT_STATUS_TOP_ONLY);
	plt_crew_expect(&job->crew, l->walk.size);
	r = plt_crew_run(&job->crew, plt_crew_size(0, 2), work, l, err);
	free(l);
	return r;
}
