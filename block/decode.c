/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Decoding every compressed cluster of one layer, only to see whether it can be: on all cores, a batch at a time,
 * in bounded memory.  A cluster that two entries share is decoded once for each; whoever asks for several views of
 * one file says which places were looked at.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/extents.h"
#include "block/codec.h"
#include "block/engine.h"

#define BATCH 64
#define RUNS 64

struct unit {
	struct plt_run run;
	int result;
	size_t good;
};

struct decode {
	struct plt_image *img;
	struct plt_extents *seen;
	bool ends;
	int (*flaw)(void *arg, const struct plt_run *run, size_t good);
	void *arg;
	struct unit unit[BATCH];
	unsigned n;
	uint64_t bytes, most; /* of entries, and compressed data that they name; how much of it the file can account for */
};

/*
 * The stream may be longer than its entry says: it ends itself, and one that fills the unit and ends there is one.  As far
 * as an entry can say, two units.
 */
static int decode_longer(const struct plt_run *run, void *out)
{
	uint64_t size, max = 2 * (uint64_t)run->unit_len;
	PLT_AUTOFREE uint8_t *comp = plt_alloc_io((size_t)max);
	int64_t len;

	if (!comp)
		return -ENOMEM;
	if (plt_store_size(run->store, &size, NULL) < 0 || run->host_off >= size)
		return -EIO;
	max = PLT_MIN(max, size - run->host_off);
	if (max <= run->comp_len || plt_store_read(run->store, run->host_off, comp, (size_t)max, PLT_IO_COMPRESSED, NULL) < 0)
		return -EIO;
	len = plt_packed_length(run->codec, comp, (size_t)max, out, run->unit_len);
	return len > 0 ? 0 : len == -ENOMEM ? -ENOMEM : -EIO;
}

/* Does the stream that fills the unit end there, as each does that was written? */
static bool ends(const struct plt_run *run, void *out)
{
	PLT_AUTOFREE uint8_t *comp = plt_alloc_io(run->comp_len);

	return comp && plt_store_read(run->store, run->host_off, comp, run->comp_len, PLT_IO_COMPRESSED, NULL) == 0 &&
	       plt_packed_length(run->codec, comp, run->comp_len, out, run->unit_len) > 0;
}

int plt_unit_decode(const struct plt_run *run, bool rescue, void *out, size_t *ret_good, int *ret_read, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *comp = plt_alloc_io(run->comp_len);
	size_t good = 0;
	int r;

	*ret_good = 0;
	*ret_read = comp ? plt_store_read(run->store, run->host_off, comp, run->comp_len, PLT_IO_COMPRESSED, err) : 0;
	if (!comp || *ret_read < 0)
		return comp ? *ret_read : -ENOMEM;
	r = plt_decompress(run->codec, comp, run->comp_len, out, run->unit_len, ret_good);
	if (r == -EIO && rescue && decode_longer(run, out) == 0) {
		*ret_good = run->unit_len;
		return 0;
	}
	if (r == -EIO && rescue) /* (what came out before the flaw is in @out again) */
		(void)plt_decompress(run->codec, comp, run->comp_len, out, run->unit_len, &good);
	return r;
}

static int decode_one(void *arg, unsigned i)
{
	struct decode *d = arg;
	struct unit *u = &d->unit[i];
	PLT_AUTOFREE uint8_t *out = plt_alloc_io(u->run.unit_len);
	int read;

	u->good = 0;
	if (!out)
		return -ENOMEM;
	u->result = plt_unit_decode(&u->run, d->img->engine->rescue, out, &u->good, &read, NULL);
	if (u->result == 0 && d->ends && !ends(&u->run, out))
		u->result = -EIO;
	return u->result == -ENOMEM ? -ENOMEM : 0;
}

static int decode_batch(struct decode *d)
{
	int r = d->n ? plt_ctx_parallel(d->img->ctx, d->n, decode_one, d) : 0;

	for (unsigned i = 0; i < d->n && r == 0; i++)
		if (d->unit[i].result < 0)
			r = d->flaw(d->arg, &d->unit[i].run, d->unit[i].good);
	d->n = 0;
	return r;
}

static int take(struct decode *d, const struct plt_run *run)
{
	if (run->kind == PLT_RUN_ZERO || run->kind == PLT_RUN_ABSENT)
		return 0;
	d->bytes += 8 * (run->len / PLT_MAX(d->img->alloc_unit, 512u) + 1);
	if (run->kind != PLT_RUN_COMPRESSED)
		return 0;
	if (d->seen) {
		if (plt_extents_overlaps(d->seen, run->host_off, 1))
			return 0;
		/* (the next cluster may begin in what may belong to this one) */
		if (plt_extents_add(d->seen, run->host_off, 1) < 0)
			return -ENOMEM;
	}
	d->bytes += run->comp_len;
	d->unit[d->n++].run = *run;
	return d->n == BATCH ? decode_batch(d) : 0;
}

/* A file names no more than it holds, unless tables are named again and again. */
static uint64_t most_of(struct plt_image *img)
{
	int64_t there = plt_store_allocated(img->file);
	uint64_t size;

	if (there < 0)
		there = plt_store_size(img->file, &size, NULL) == 0 ? (int64_t)size : 0;
	return 4 * (uint64_t)there + (64u << 20);
}

int plt_image_decode(struct plt_image *img, struct plt_extents *seen, bool ends, uint64_t *ret_end,
		     int (*flaw)(void *arg, const struct plt_run *run, size_t good), void *arg, struct plt_error *err)
{
	struct decode *d = calloc(1, sizeof(*d));
	struct plt_run *v = malloc(RUNS * sizeof(*v));
	uint64_t size = atomic_load(&img->size);
	int r = d && v ? 0 : -ENOMEM;

	if (d) {
		d->img = img;
		d->seen = seen;
		d->ends = ends;
		d->flaw = flaw;
		d->arg = arg;
		d->most = ret_end ? most_of(img) : UINT64_MAX;
	}
	if (ret_end)
		*ret_end = size;
	for (uint64_t off = 0; off < size && r == 0;) {
		struct plt_runs runs = { v, 0, RUNS };

		if (d->bytes > d->most) {
			*ret_end = off;
			break;
		}
		if (plt_image_map_wait(img, off, size - off, &runs, NULL) < 0) {
			uint64_t unit = PLT_MAX(img->alloc_unit, 512u);

			off = plt_align_down(off, unit) + unit; /* that the map cannot be read others say */
			continue;
		}
		for (unsigned i = 0; i < runs.n && r == 0; i++) {
			r = take(d, &v[i]);
			off = v[i].off + v[i].len;
		}
	}
	if (r == 0)
		r = decode_batch(d);
	free(v);
	free(d);
	return r < 0 ? plt_error_default(err, -r, "'%s': the compressed clusters could not be decoded: %s", img->name,
					 strerror(-r)) : 0;
}
