/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Block status: what the guest's bytes are made of, layer by layer.  Walks the maps of the chain with
 * blocking calls; reads no guest data.  The answer describes a moment that may be past when the
 * caller looks at it.
 */
#include <assert.h>

#include "base/alloc.h"
#include "block/engine.h"

/*
 * Of one answer of a map.  Where layers lie below few: what is absent here may be many extents there, and what has
 * been mapped behind the last one that there was room for is mapped again.
 */
#define RUNS 16
#define RUNS_ABOVE 8
#define MAPS 4096 /* calls of map in one status: even where all is alike, the caller gets to say stop */

int plt_image_map_inside(struct plt_image *img, uint64_t off, uint64_t len, struct plt_runs *runs,
			 struct plt_error *err)
{
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_need need = { 0 };
	int r;

	for (;;) {
		r = img->drv->map(img, &pins, off, len, runs, &need, err);
		if (r != -EAGAIN)
			break;
		assert(need.kind == PLT_NEED_LOAD); /* maps need nothing else, and slots are brought along */
		(void)plt_meta_load_wait(img, need.block, NULL);
		if (runs->n) { /* what it has found so far will do */
			r = 0;
			break;
		}
	}
	plt_pins_drop(&pins);
	if (r < 0)
		plt_error_default(err, -r, "'%s': the mapping of guest offset %#" PRIx64, img->name, off);
	return r;
}

int plt_image_map_wait(struct plt_image *img, uint64_t off, uint64_t len, struct plt_runs *runs,
		       struct plt_error *err)
{
	unsigned epoch = plt_epoch_enter_wait(img->engine);
	uint64_t size = atomic_load(&img->size);
	int r;

	if (off < size)
		r = plt_image_map_inside(img, off, PLT_MIN(len, size - off), runs, err);
	else
		r = plt_error_set(err, EINVAL, "'%s': the offset %" PRIu64 " is beyond the disk's end (%" PRIu64 ")",
				  img->name, off, size);
	plt_epoch_leave(img->engine, epoch);
	return r;
}

struct walk {
	struct plt_extent *v;
	unsigned n, max, flags, maps;
	bool full;
};

static void add(struct walk *w, const struct plt_extent *x)
{
	struct plt_extent *last = w->n ? &w->v[w->n - 1] : NULL;

	if (w->full || !x->len)
		return;
	if (last && last->flags == x->flags && last->depth == x->depth && last->off + last->len == x->off &&
	    last->file == x->file && !(x->flags & PLT_EXTENT_COMPRESSED && x->flags & PLT_EXTENT_OFFSET) &&
	    (!(x->flags & PLT_EXTENT_OFFSET) || last->host_off + last->len == x->host_off)) {
		last->len += x->len;
		return;
	}
	if (w->n == w->max) {
		w->full = true;
		return;
	}
	w->v[w->n++] = *x;
}

/*
 * Is it worth asking the host for holes?  For raw always.  For a format with clusters of its own only
 * where the host has allocated much less than the format uses: then the clusters were preallocated, and
 * most of them have never been written.
 */
static bool ask_host(const struct walk *w, struct plt_image *img)
{
	struct plt_engine *eng = img->engine;
	uint32_t cs = img->drv->cluster_size ? img->drv->cluster_size(img) : 0;
	uint64_t length, real;
	int64_t bytes;
	int known = atomic_load(&eng->host_holes);

	if (w->flags & PLT_STATUS_NO_HOST || img->holes == PLT_HOLES_NEVER)
		return false;
	if (img->holes == PLT_HOLES_ASK)
		return true;
	if (img->drv->flags & PLT_DRIVER_HOST_HOLES)
		return true;
	if (!known) {
		bytes = plt_store_allocated(img->file);
		known = 1;
		if (cs && bytes >= 0 && plt_store_size(img->file, &length, NULL) == 0) {
			real = (uint64_t)bytes / cs;
			real = PLT_MAX(real + real / 9, real + 2);
			if (plt_div_up(length, cs) >= real &&
			    (!img->drv->uses_at_least || img->drv->uses_at_least(img, real)))
				known = 2;
		}
		atomic_store(&eng->host_holes, known);
	}
	return known == 2;
}

static int add_data(struct walk *w, struct plt_image *img, const struct plt_run *run, unsigned depth,
		    struct plt_error *err)
{
	struct plt_extent x = { .off = run->off, .len = run->len, .depth = depth, .host_off = run->host_off,
				.flags = PLT_EXTENT_DATA | PLT_EXTENT_PRESENT | PLT_EXTENT_OFFSET,
				.file = run->store->name };
	uint64_t done = 0, align = run->store->limits.align;
	int r;

	if (run->cipher)
		x.flags = (x.flags | PLT_EXTENT_ENCRYPTED) & ~(w->flags & PLT_STATUS_PLACES ? 0u : (unsigned)PLT_EXTENT_OFFSET);
	if (run->cipher || !ask_host(w, img)) {
		add(w, &x);
		return 0;
	}
	while (done < run->len && !w->full) {
		enum plt_store_kind kind;

		r = plt_store_extents(run->store, run->host_off + done, run->len - done, &kind, &x.len, err);
		if (r < 0)
			return r;
		/* what comes in whole blocks is not told apart within one: the file may end in the middle */
		if (kind == PLT_STORE_DATA && align > 1)
			x.len = plt_align_up(run->host_off + done + x.len, align) - (run->host_off + done);
		x.len = PLT_MIN(x.len, run->len - done);
		x.off = run->off + done;
		x.host_off = run->host_off + done;
		x.flags = PLT_EXTENT_PRESENT | PLT_EXTENT_OFFSET;
		if (kind == PLT_STORE_DATA || !(img->drv->flags & PLT_DRIVER_HOST_HOLES))
			x.flags |= PLT_EXTENT_DATA; /* a cluster of the format, whether written or not */
		if (kind == PLT_STORE_HOLE)
			x.flags |= PLT_EXTENT_ZERO;
		add(w, &x);
		done += x.len;
	}
	return 0;
}

static int walk_layer(struct walk *w, struct plt_image *img, uint64_t off, uint64_t len, unsigned depth,
		      struct plt_error *err);

static void add_damaged(struct walk *w, uint64_t off, uint64_t len, unsigned depth)
{
	struct plt_extent x = { .off = off, .len = len, .depth = depth,
				.flags = PLT_EXTENT_PRESENT | PLT_EXTENT_DATA | PLT_EXTENT_DAMAGED };

	add(w, &x);
}

static int add_absent(struct walk *w, struct plt_image *img, const struct plt_run *run, unsigned depth,
		      struct plt_error *err)
{
	struct plt_image *below = img->engine->backing;
	uint64_t size = below ? atomic_load(&below->size) : 0;
	uint64_t n = run->off >= size ? 0 : PLT_MIN(run->len, size - run->off);
	struct plt_extent x = { .off = run->off, .len = run->len, .depth = depth, .flags = PLT_EXTENT_ZERO };
	int r = 0;

	/* zeros for want of anything below: a place may be kept for them all the same */
	if (run->flags & PLT_RUN_ALLOCATED) {
		x.flags |= PLT_EXTENT_OFFSET;
		x.host_off = run->host_off;
		x.file = run->store->name;
	}
	if (!below && img->engine->rescue && img->engine->rescue->base_gone) {
		add_damaged(w, run->off, run->len, depth);
		return 0;
	}
	if (!below || w->flags & PLT_STATUS_TOP_ONLY) {
		if (below)
			x.flags = 0;
		add(w, &x);
		return 0;
	}
	if (n)
		r = walk_layer(w, below, run->off, n, depth + 1, err);
	/* zeros behind the end of a short layer: nobody has them, and the layer above it can say so */
	x.off += n;
	x.len -= n;
	x.host_off += x.file ? n : 0;
	x.flags |= PLT_EXTENT_EOF;
	if (r == 0)
		add(w, &x);
	return r;
}

/* What is lost from @off on, whatever the map says there; *upto: where more of it begins. */
static uint64_t add_lost(struct walk *w, struct plt_image *img, uint64_t off, uint64_t *upto, unsigned depth)
{
	struct plt_doubt d;

	while (off < *upto && !w->full && plt_rescue_find(img, off, *upto - off, &d)) {
		if (d.off > off) {
			*upto = d.off;
			break;
		}
		if (d.kind == PLT_LOST)
			add_damaged(w, off, d.len, depth);
		else /* (of a donor) */
			add(w, &(struct plt_extent){ .off = off, .len = d.len, .depth = depth,
						     .flags = PLT_EXTENT_PRESENT | PLT_EXTENT_DATA });
		off += d.len;
	}
	return off;
}

/* Of a data run what is there, and what is not. */
static int add_parts(struct walk *w, struct plt_image *img, const struct plt_run *run, unsigned depth,
		     struct plt_error *err)
{
	struct plt_run left = *run, part;
	int r = 0;

	while (left.len && r == 0 && !w->full) {
		const char *why;
		uint64_t lost;

		part = left;
		part.len = plt_rescue_there(img, &left, &lost, &why);
		r = part.len ? add_data(w, img, &part, depth, err) : 0;
		if (r == 0 && lost)
			add_damaged(w, left.off + part.len, lost, depth);
		if (r == 0 && lost && !strcmp(why, PLT_WHY_MEDIUM)) /* (so that the lists say why) */
			plt_rescue_note(img, PLT_LOST, left.off + part.len, lost, why);
		plt_run_skip(&left, part.len + lost);
	}
	return r;
}

static int add_run(struct walk *w, struct plt_image *img, const struct plt_run *run, unsigned depth,
		   struct plt_error *err)
{
	struct plt_extent x = { .off = run->off, .len = run->len, .depth = depth, .flags = PLT_EXTENT_PRESENT };

	switch (run->kind) {
	case PLT_RUN_DATA:
		if (img->engine->rescue)
			return add_parts(w, img, run, depth, err);
		return add_data(w, img, run, depth, err);
	case PLT_RUN_COMPRESSED:
		x.flags |= PLT_EXTENT_DATA | PLT_EXTENT_COMPRESSED;
		break;
	case PLT_RUN_ZERO:
		x.flags |= PLT_EXTENT_ZERO;
		if (run->flags & PLT_RUN_ALLOCATED) {
			x.flags |= PLT_EXTENT_OFFSET;
			x.host_off = run->host_off;
			x.file = run->store->name;
		}
		break;
	case PLT_RUN_ABSENT:
		return add_absent(w, img, run, depth, err);
	case PLT_RUN_DAMAGED:
		x.flags |= PLT_EXTENT_DATA | PLT_EXTENT_DAMAGED;
		break;
	}
	add(w, &x);
	return 0;
}

static int walk_layer(struct walk *w, struct plt_image *img, uint64_t off, uint64_t len, unsigned depth,
		      struct plt_error *err)
{
	struct plt_run v[RUNS]; /* one set a layer lies on the stack */
	uint64_t end = off + len;

	while (off < end && !w->full) {
		struct plt_runs runs = { v, 0, img->engine->backing ? RUNS_ABOVE : RUNS };
		uint64_t upto = end;
		int r;

		if (img->engine->rescue) {
			off = add_lost(w, img, off, &upto, depth);
			if (off >= upto)
				continue;
		}
		r = plt_image_map_wait(img, off, upto - off, &runs, err);
		if (r < 0 && r != -ENOMEM && r != -ENOTSUP && img->engine->rescue) {
			/* to be found out unit by unit */
			uint64_t next = plt_align_down(off, PLT_MAX(img->alloc_unit, 1u)) + PLT_MAX(img->alloc_unit, 1u);

			add_damaged(w, off, PLT_MIN(next, upto) - off, depth);
			off = PLT_MIN(next, upto);
			w->full = w->full || ++w->maps > MAPS;
			continue;
		}
		if (w->n && ++w->maps > MAPS)
			w->full = true; /* what has been found is an answer */
		for (unsigned i = 0; r == 0 && i < runs.n && !w->full; i++) {
			r = add_run(w, img, &v[i], depth, err);
			off = v[i].off + v[i].len;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

int plt_status(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned flags, struct plt_extent *v,
	       unsigned max, unsigned *ret_n, struct plt_error *err)
{
	struct walk w = { .v = v, .max = max, .flags = flags };
	uint64_t size = plt_disk_size(disk);
	int r;

	*ret_n = 0;
	if (!max || !plt_in_range(off, len, size))
		return plt_error_set(err, EINVAL, "'%s': the range %" PRIu64 "+%" PRIu64 " is beyond the disk's end (%"
				     PRIu64 ")", disk->top->name, off, len, size);
	r = walk_layer(&w, plt_image_shown(disk->top), off, len, 0, err);
	*ret_n = w.n;
	/* what was found before a failure is still an answer; the failure comes with the next call */
	return w.n ? 0 : r;
}
