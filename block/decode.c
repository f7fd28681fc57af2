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
	int (*flaw)(void *arg, const struct plt_run *run, size_t good);
	void *arg;
	struct unit unit[BATCH];
	unsigned n;
	uint64_t bytes, most; /* of compressed data that entries name; how much of it the file can account for */
};

static int decode_one(void *arg, unsigned i)
{
	struct decode *d = arg;
	struct unit *u = &d->unit[i];
	PLT_AUTOFREE uint8_t *comp = plt_alloc_io(u->run.comp_len), *out = plt_alloc_io(u->run.unit_len);

	u->good = 0;
	if (!comp || !out)
		return -ENOMEM;
	u->result = plt_store_read(u->run.store, u->run.host_off, comp, u->run.comp_len, PLT_IO_COMPRESSED, NULL);
	if (u->result == 0)
		u->result = plt_decompress(u->run.codec, comp, u->run.comp_len, out, u->run.unit_len, &u->good);
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
	if (run->kind != PLT_RUN_COMPRESSED)
		return 0;
	if (d->seen) {
		if (plt_extents_overlaps(d->seen, run->host_off, 1))
			return 0;
		/* (the next cluster may begin in what may belong to this one) */
		if (plt_extents_add(d->seen, run->host_off, 1) < 0)
			return -ENOMEM;
	}
	d->bytes += PLT_MAX(run->comp_len, 8u); /* (an entry itself takes room) */
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

int plt_image_decode(struct plt_image *img, struct plt_extents *seen, uint64_t *ret_end,
		     int (*flaw)(void *arg, const struct plt_run *run, size_t good), void *arg, struct plt_error *err)
{
	struct decode *d = calloc(1, sizeof(*d));
	struct plt_run *v = malloc(RUNS * sizeof(*v));
	uint64_t size = atomic_load(&img->size);
	int r = d && v ? 0 : -ENOMEM;

	if (d) {
		d->img = img;
		d->seen = seen;
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
