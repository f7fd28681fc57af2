/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What may not be written over: every cluster that holds metadata, so that no entry of a damaged or
 * hostile image, and no refcount that wrongly says 0, lets a guest's data, a new table or a punch
 * land on it.  Known are
 *
 *	by their place in the state: the header, the active L1 table, the refcount table;
 *	as ranges: the snapshot table, the snapshots' L1 tables, the bitmap directory and tables, the
 *	encryption header;
 *	in a hash set of clusters: refcount blocks, and the L2 tables of the disk and of the snapshots.
 *
 * Ranges and set are read from the tables once, before the first write; from then on whoever makes or
 * frees a table says so.  A look-up is a probe or two, takes no lock, and is done for every cluster
 * that is written in place, allocated, or given up.  The set takes 8 to 22 bytes for each table, of
 * which each has an entry of 8 bytes in the file; of the snapshots' L1 tables at most 64 MiB are read
 * and at most 6 M tables are kept in all (QEMU does not look at the snapshots' L2 tables at all).
 *
 * What is prevented is an error of the image, not of the request: the image is marked corrupt, and
 * from then on nothing is placed in it, freed or stored at its close.  Reads go on.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

#define MAX_TABLES (UINT64_C(6) << 20)
#define MAX_SNAPSHOT_L1 (UINT64_C(64) << 20)
#define CHUNK (64u << 10) /* bytes of a table read at a time */

/*
 * A slot: cluster << 16 | references << 4 | kind; 0: empty.  Cluster 0 is the header's and never in the set:
 * with it a slot is one that was removed, and a search goes on behind it.  References are those of L1
 * entries, whatever the table's count says; at REFS_MAX they are no longer counted.
 */
#define CLUSTER_SHIFT 16
#define REF (UINT64_C(1) << 4)
#define REFS_MAX (UINT64_C(0xfff) << 4)
#define REMOVED REF

struct table {
	struct table *older; /* replaced by this one; a reader may still be in it until the image is closed */
	uint64_t mask, used; /* used: with removed ones */
	_Atomic uint64_t slot[];
};

struct span {
	uint64_t off, end;
	enum qcow2_meta kind;
};

/* Sorted and apart. */
struct spans {
	struct spans *older; /* as table.older */
	size_t n;
	struct span v[];
};

struct qcow2_guard {
	struct table *_Atomic table;
	_Atomic uint64_t last; /* no table of the set lies behind this cluster: most new ones do */
	uint64_t seed;       /* so that nobody can write an image whose clusters all fall in one place */
	struct spans *_Atomic spans;
};

static const char *const names[] = {
	[QCOW2_META_NONE] = "nothing",
	[QCOW2_META_HEADER] = "qcow2_header",
	[QCOW2_META_ACTIVE_L1] = "active L1 table",
	[QCOW2_META_REFTABLE] = "refcount table",
	[QCOW2_META_SNAPSHOT_TABLE] = "snapshot table",
	[QCOW2_META_INACTIVE_L1] = "inactive L1 table",
	[QCOW2_META_BITMAP_DIRECTORY] = "bitmap directory",
	[QCOW2_META_BITMAP_TABLE] = "bitmap table",
	[QCOW2_META_CRYPTO] = "encryption header",
	[QCOW2_META_REFBLOCK] = "refcount block",
	[QCOW2_META_ACTIVE_L2] = "active L2 table",
	[QCOW2_META_INACTIVE_L2] = "inactive L2 table",
	[QCOW2_META_TANGLED] = "more than one table",
};

/* ---- the set --------------------------------------------------------------------------------- */

static uint64_t hash(const struct qcow2_guard *g, uint64_t cluster)
{
	uint64_t h = (cluster ^ g->seed) * UINT64_C(0x9e3779b97f4a7c15);

	h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return h ^ h >> 32;
}

/* The slot of a cluster, or the empty one where it would go. */
static _Atomic uint64_t *slot_of(const struct qcow2_guard *g, struct table *t, uint64_t cluster)
{
	for (uint64_t i = hash(g, cluster);; i++) {
		_Atomic uint64_t *slot = &t->slot[i & t->mask];
		uint64_t s = atomic_load_explicit(slot, memory_order_relaxed);

		if (!s || s >> CLUSTER_SHIFT == cluster)
			return slot;
	}
}

static enum qcow2_meta kind_of(uint64_t slot)
{
	return (enum qcow2_meta)(slot & (REF - 1));
}

static enum qcow2_meta look_up(const struct qcow2_guard *g, uint64_t cluster)
{
	struct table *t = atomic_load_explicit(&g->table, memory_order_acquire);

	return cluster ? kind_of(atomic_load_explicit(slot_of(g, t, cluster), memory_order_relaxed)) :
			 QCOW2_META_NONE;
}

static void put(struct qcow2_guard *g, struct table *t, uint64_t cluster, uint64_t refs, enum qcow2_meta kind)
{
	_Atomic uint64_t *slot = slot_of(g, t, cluster);

	if (cluster > atomic_load_explicit(&g->last, memory_order_relaxed))
		atomic_store_explicit(&g->last, cluster, memory_order_relaxed);
	t->used += !atomic_load_explicit(slot, memory_order_relaxed);
	atomic_store_explicit(slot, cluster << CLUSTER_SHIFT | refs | kind, memory_order_relaxed);
}

static struct table *table_new(uint64_t slots)
{
	struct table *t = calloc(1, sizeof(*t) + slots * sizeof(t->slot[0]));

	if (t)
		t->mask = slots - 1;
	return t;
}

/* Room for @n more at three quarters full. */
static int make_room(struct qcow2_guard *g, uint64_t n, bool shared)
{
	struct table *old = atomic_load(&g->table), *t;
	uint64_t slots = old->mask + 1, live = 0;

	if (old->used + n <= slots / 4 * 3)
		return 0;
	for (uint64_t i = 0; i <= old->mask; i++)
		live += old->slot[i] >> CLUSTER_SHIFT != 0;
	while (live + n > slots / 4 * 3)
		slots *= 2;
	t = table_new(slots);
	if (!t)
		return -ENOMEM;
	for (uint64_t i = 0; i <= old->mask; i++)
		if (old->slot[i] >> CLUSTER_SHIFT)
			put(g, t, old->slot[i] >> CLUSTER_SHIFT, old->slot[i] & REFS_MAX, kind_of(old->slot[i]));
	if (shared)
		t->older = old;
	else
		free(old);
	atomic_store_explicit(&g->table, t, memory_order_release);
	return 0;
}

/* ---- the ranges ------------------------------------------------------------------------------ */

static const struct span *span_at(const struct qcow2_guard *g, uint64_t off, uint64_t len)
{
	const struct spans *s = atomic_load_explicit(&g->spans, memory_order_acquire);
	size_t lo = 0, hi = s ? s->n : 0;

	while (lo < hi) { /* the first one that ends behind @off */
		size_t mid = lo + (hi - lo) / 2;

		if (s->v[mid].end <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return s && lo < s->n && s->v[lo].off < off + len ? &s->v[lo] : NULL;
}

static void add_span(struct spans *s, uint64_t off, uint64_t len, enum qcow2_meta kind)
{
	if (len && off < QCOW2_MAX_HOST_OFFSET && len <= QCOW2_MAX_HOST_OFFSET)
		s->v[s->n++] = (struct span){ off, off + len, kind };
}

static int by_offset(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static int collect_spans(struct qcow2_guard *g, const struct qcow2_state *q)
{
	size_t n = 0;
	struct spans *s = calloc(1, sizeof(*s) + ((size_t)q->nb_snapshots + q->nbitmaps + 3) * sizeof(s->v[0]));

	if (!s)
		return -ENOMEM;
	if (q->nb_snapshots)
		add_span(s, q->snapshots_offset, q->snapshots_size, QCOW2_META_SNAPSHOT_TABLE);
	for (uint32_t i = 0; q->snapshots && i < q->nb_snapshots; i++)
		add_span(s, q->snapshots[i].l1_offset, (uint64_t)q->snapshots[i].l1_size * 8, QCOW2_META_INACTIVE_L1);
	if (q->nb_bitmaps && q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
		add_span(s, q->bitmap_dir_offset, q->bitmap_dir_size, QCOW2_META_BITMAP_DIRECTORY);
		for (unsigned i = 0; i < q->nbitmaps; i++)
			add_span(s, q->bitmaps[i].table_offset, (uint64_t)q->bitmaps[i].disk_table_size * 8,
				 QCOW2_META_BITMAP_TABLE);
	}
	add_span(s, q->luks_offset, q->luks_length, QCOW2_META_CRYPTO);
	qsort(s->v, s->n, sizeof(s->v[0]), by_offset);
	for (size_t i = 0; i < s->n; i++)
		if (n && s->v[i].off < s->v[n - 1].end)
			s->v[n - 1].end = PLT_MAX(s->v[n - 1].end, s->v[i].end);
		else
			s->v[n++] = s->v[i];
	s->n = n;
	s->older = atomic_load(&g->spans);
	atomic_store(&g->spans, s);
	return 0;
}

/* ---- reading the tables ---------------------------------------------------------------------- */

static enum qcow2_meta fixed_place(const struct qcow2_state *q, uint64_t off, uint64_t len)
{
	if (plt_ranges_overlap(off, len, 0, q->cluster_size))
		return QCOW2_META_HEADER;
	if (plt_ranges_overlap(off, len, q->l1_offset, (uint64_t)q->l1_size * 8))
		return QCOW2_META_ACTIVE_L1;
	if (qcow2_on_metadata(q, off, len))
		return QCOW2_META_REFTABLE;
	return QCOW2_META_NONE;
}

/* One table's place.  Another use of it makes it unfit for writing: what suits the one ruins the other. */
static int note(struct qcow2_guard *g, const struct qcow2_state *q, uint64_t off, enum qcow2_meta kind)
{
	uint64_t cluster = off >> q->cluster_bits, was, refs;
	bool shared; /* by L1 entries, as it may be */

	if (!cluster || off >= QCOW2_MAX_HOST_OFFSET) /* no place of a table */
		return 0;
	was = atomic_load_explicit(slot_of(g, atomic_load(&g->table), cluster), memory_order_relaxed);
	refs = PLT_MIN((was & REFS_MAX) + REF, REFS_MAX);
	shared = kind != QCOW2_META_REFBLOCK &&
		 (kind_of(was) == kind || kind_of(was) == QCOW2_META_ACTIVE_L2);
	if (shared)
		kind = kind_of(was);
	else if (was || span_at(g, off, q->cluster_size) || fixed_place(q, off, q->cluster_size))
		kind = QCOW2_META_TANGLED;
	if (make_room(g, 1, false) < 0)
		return -ENOMEM;
	put(g, atomic_load(&g->table), cluster, refs, kind);
	return 0;
}

static int note_table(struct qcow2_guard *g, struct plt_image *img, uint64_t off, uint64_t bytes, enum plt_io_tag tag,
		      uint64_t mask, enum qcow2_meta kind, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(CHUNK);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0, n; r == 0 && at < bytes; at += n) {
		n = PLT_MIN(bytes - at, (uint64_t)CHUNK);
		r = plt_store_read(img->file, off + at, buf, (size_t)n, tag, err);
		for (uint64_t i = 0; r == 0 && i < n; i += 8) {
			uint64_t e = plt_get_be64(buf + i) & mask;

			if (!e)
				continue;
			if (kind == QCOW2_META_INACTIVE_L2 && atomic_load(&g->table)->used >= MAX_TABLES)
				return 0;
			r = note(g, q, e, kind);
		}
	}
	return r;
}

static int note_tables(struct qcow2_guard *g, struct plt_image *img, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t size, left = MAX_SNAPSHOT_L1;
	int r = plt_store_size(img->file, &size, err);

	if (r == 0)
		r = note_table(g, img, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits,
			       PLT_IO_REFTABLE, QCOW2_REFTABLE_OFFSET, QCOW2_META_REFBLOCK, err);
	if (r == 0)
		r = note_table(g, img, q->l1_offset, (uint64_t)q->l1_size * 8, PLT_IO_L1, QCOW2_L1_OFFSET,
			       QCOW2_META_ACTIVE_L2, err);
	for (uint32_t i = 0; r == 0 && q->snapshots && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];
		uint64_t bytes = (uint64_t)s->l1_size * 8;

		if (bytes > QCOW2_MAX_L1_BYTES || bytes > left || s->l1_offset % q->cluster_size ||
		    qcow2_table_in_file(q, size, s->l1_offset, bytes, "", NULL) < 0)
			continue; /* not a table that anybody could open, or too much of them */
		left -= bytes;
		r = note_table(g, img, s->l1_offset, bytes, PLT_IO_L1, QCOW2_L1_OFFSET, QCOW2_META_INACTIVE_L2, err);
	}
	return r;
}

void qcow2_guard_free(struct qcow2_state *q)
{
	struct qcow2_guard *g = atomic_load(&q->guard);

	if (!g)
		return;
	for (struct table *t = atomic_load(&g->table), *older; t; t = older) {
		older = t->older;
		free(t);
	}
	for (struct spans *s = atomic_load(&g->spans), *older; s; s = older) {
		older = s->older;
		free(s);
	}
	free(g);
	atomic_store(&q->guard, NULL);
}

int qcow2_guard_load(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_guard *g;
	uint64_t bad = 0;
	int r;

	if (atomic_load(&q->guard))
		return 0;
	g = calloc(1, sizeof(*g));
	if (!g)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (getrandom(&g->seed, sizeof(g->seed), GRND_NONBLOCK) < 0)
		g->seed = (uintptr_t)g; /* no worse than predictable */
	atomic_store(&g->table, table_new(64));
	r = atomic_load(&g->table) ? collect_spans(g, q) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < atomic_load(&g->spans)->n; i++) {
		const struct span *s = &atomic_load(&g->spans)->v[i];

		if (fixed_place(q, s->off, s->end - s->off)) {
			bad = s->off;
			r = -EUCLEAN;
		}
	}
	if (r == 0)
		r = note_tables(g, img, err);
	if (r < 0) {
		struct qcow2_state fail = { 0 };

		atomic_store(&fail.guard, g);
		qcow2_guard_free(&fail);
		if (r == -EUCLEAN)
			return qcow2_mark_corrupt(img, bad, err);
		return plt_error_default(err, -r, "'%s': the tables cannot be read", img->name);
	}
	atomic_store_explicit(&q->guard, g, memory_order_release);
	return 0;
}

int qcow2_guard_reload(struct plt_image *img, struct plt_error *err)
{
	qcow2_guard_free(qcow2_of(img));
	return qcow2_guard_load(img, err);
}

/* ---- looking --------------------------------------------------------------------------------- */

bool qcow2_guarded(const struct qcow2_state *q, uint64_t off, uint64_t len)
{
	const struct qcow2_guard *g = atomic_load_explicit(&q->guard, memory_order_acquire);
	uint64_t end;

	if (!g)
		return false;
	end = PLT_MIN((off + len - 1) >> q->cluster_bits, atomic_load_explicit(&g->last, memory_order_relaxed));
	for (uint64_t c = off >> q->cluster_bits; c <= end; c++)
		if (look_up(g, c))
			return true;
	return span_at(g, plt_align_down(off, q->cluster_size),
				    plt_align_up(len + (off & (q->cluster_size - 1)), q->cluster_size));
}

bool qcow2_guard_is(const struct qcow2_state *q, uint64_t off, enum qcow2_meta kind)
{
	const struct qcow2_guard *g = atomic_load_explicit(&q->guard, memory_order_acquire);

	return !g || look_up(g, off >> q->cluster_bits) == kind;
}

enum qcow2_meta qcow2_guard_find(const struct qcow2_state *q, uint64_t off, uint64_t len, uint64_t *ret_at)
{
	const struct qcow2_guard *g = atomic_load_explicit(&q->guard, memory_order_acquire);
	uint64_t end = plt_align_up(off + len, q->cluster_size);

	if (!qcow2_guarded(q, off, len) && !fixed_place(q, off, len))
		return QCOW2_META_NONE;
	for (uint64_t at = plt_align_down(off, q->cluster_size); at < end; at += q->cluster_size) {
		enum qcow2_meta kind = fixed_place(q, at, q->cluster_size);
		const struct span *s = g && !kind ? span_at(g, at, q->cluster_size) : NULL;

		if (s)
			kind = s->kind;
		else if (g && !kind)
			kind = look_up(g, at >> q->cluster_bits);
		if (kind) {
			*ret_at = at;
			return kind;
		}
	}
	return QCOW2_META_NONE;
}

bool qcow2_entry_unsafe(const struct plt_image *img, struct qcow2_entry e, uint64_t *ret_at)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t off = e.word & QCOW2_L2_OFFSET;
	uint32_t len = q->cluster_size;

	if (e.word & QCOW2_COMPRESSED)
		qcow2_packed_range(q, e.word, &off, &len);
	else if (!off || q->external)
		return false;
	return qcow2_guard_find(q, off, len, ret_at) != QCOW2_META_NONE;
}

/* ---- tables made and freed ------------------------------------------------------------------- */

int qcow2_guard_renew(struct plt_image *img)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_guard *g = atomic_load(&q->guard);

	PLT_LOCK_SCOPE(&img->lock);
	return g ? collect_spans(g, q) : 0;
}

int qcow2_guard_reserve(struct plt_image *img, uint64_t n, struct plt_error *err)
{
	struct qcow2_guard *g;
	int r = qcow2_guard_load(img, err);

	if (r < 0)
		return r;
	g = atomic_load(&qcow2_of(img)->guard);
	PLT_LOCK_SCOPE(&img->lock);
	return make_room(g, n, true) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

void qcow2_guard_add(struct plt_image *img, uint64_t off, enum qcow2_meta kind)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_guard *g = atomic_load(&q->guard);

	if (g)
		put(g, atomic_load(&g->table), off >> q->cluster_bits, REF, kind);
}

bool qcow2_guard_drop(struct plt_image *img, uint64_t off)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_guard *g = atomic_load(&q->guard);
	_Atomic uint64_t *slot;
	uint64_t s, refs;

	if (!g || !off)
		return true;
	slot = slot_of(g, atomic_load(&g->table), off >> q->cluster_bits);
	s = atomic_load(slot);
	refs = s & REFS_MAX;
	if (s && refs > REF) {
		if (refs < REFS_MAX)
			atomic_store(slot, s - REF);
		return false;
	}
	if (s)
		atomic_store(slot, REMOVED);
	return true;
}

/* ---- corrupt --------------------------------------------------------------------------------- */

int qcow2_mark_corrupt(struct plt_image *img, uint64_t off, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	enum qcow2_meta kind = qcow2_guard_find(q, off, 1, &off);
	bool first = !atomic_exchange(&q->corrupt, true);

	if (first)
		plt_ctx_warn(img->ctx, "qcow2: Marking image as corrupt: Preventing invalid write on metadata "
			     "(overlaps with %s); further corruption events will be suppressed", names[kind]);
	if (first && q->version >= 3) {
		struct plt_error text = PLT_ERROR_INIT;

		pthread_mutex_lock(&img->lock);
		q->incompatible |= QCOW2_INCOMPAT_CORRUPT;
		pthread_mutex_unlock(&img->lock);
		if (qcow2_header_switch(img, offsetof(struct qcow2_header, incompatible_features),
					offsetof(struct qcow2_header, compatible_features), &text) < 0)
			plt_ctx_warn(img->ctx, "'%s': the mark could not be written: %s", img->name, text.text);
	}
	return plt_error_set(err, EIO, "'%s': the image is corrupt: a write would have gone to host offset %#" PRIx64
			     ", where the image has its %s; nothing more is written to it", img->name, off,
			     names[kind]);
}

int qcow2_refuse_corrupt(const struct plt_image *img, struct plt_error *err)
{
	return plt_error_set(err, EIO, "'%s': the image has been found corrupt; nothing more is written to it",
			     img->name);
}
