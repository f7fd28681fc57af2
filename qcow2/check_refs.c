/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The two sides of a recount: cells that count references, and the counts stored in the image.
 * A cell's upper bits hold two facts about its cluster, so that the scan of millions of entries
 * touches one byte for each: METADATA and ONE (the stored count is one).  The count below them
 * saturates early; the rest goes to a hash table under a lock, which many references to one cluster
 * need and few images have.  Cells live in a mapping that is not reserved: untouched pages of a
 * sparse file cost nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "qcow2/check.h"
#include "qcow2/counts.h"

/* A narrow cell: METADATA, ONE, six bits of count.  A wide one: the same above 14 bits. */
#define NARROW_META 0x80U
#define NARROW_ONE 0x40U
#define NARROW_FULL 0x3fU /* the count is in the hash table, all of it */
#define WIDE_META 0x8000U
#define WIDE_ONE 0x4000U
#define WIDE_FULL 0x3fffU
#define NARROW_TREES 24 /* more L1 tables than this want wide cells */
#define MAX_CLUSTERS (UINT64_C(1) << 33)

int qcow2_recount_init(struct qcow2_recount *c, struct plt_ctx *ctx, struct plt_store *file,
		       struct qcow2_state *q, struct plt_error *err)
{
	int r;

	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	c->cells = MAP_FAILED;
	qcow2_stored_forget(c);
	c->ctx = ctx;
	c->file = file;
	c->q = q;
	c->external = q->external;
	r = plt_store_size(file, &c->file_size, err);
	if (r < 0)
		return r;
	if (c->file_size > (uint64_t)INT64_MAX - 2 * q->cluster_size)
		return plt_error_set(err, EFBIG, "The file is too large (%" PRIu64 " bytes)",
				     c->file_size);
	c->nb = plt_div_up(c->file_size, q->cluster_size);
	if (c->nb > MAX_CLUSTERS)
		return plt_error_set(err, EFBIG,
				     "Too many clusters (%" PRIu64 ") to count references", c->nb);
	c->wide = q->nb_snapshots + 1 > NARROW_TREES;
	c->cells_len = (c->nb + 2) << (c->wide ? 1 : 0);
	c->cells = mmap(NULL, c->cells_len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->cells == MAP_FAILED)
		return plt_error_set(err, ENOMEM, "Out of memory");
	return 0;
}

void qcow2_recount_release(struct qcow2_recount *c)
{
	if (c->cells != MAP_FAILED)
		munmap(c->cells, c->cells_len);
	free(c->over);
	free(c->rt);
	for (unsigned i = 0; i < QCOW2_COUNT_SLOTS; i++)
		free(c->counts[i].block);
	free(c->l2);
	pthread_mutex_destroy(&c->lock);
}

/* ---- the overflow table ---------------------------------------------------------------------- */

static struct qcow2_overflow *over_slot(struct qcow2_overflow *v, uint64_t cap, uint64_t cluster)
{
	uint64_t i = (cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 20;

	for (i &= cap - 1; v[i].count && v[i].cluster != cluster; i = (i + 1) & (cap - 1))
		;
	return &v[i];
}

static void over_add(struct qcow2_recount *c, uint64_t cluster, uint64_t times)
{
	struct qcow2_overflow *s;

	pthread_mutex_lock(&c->lock);
	if (c->over_n * 2 >= c->over_cap) {
		uint64_t cap = c->over_cap ? c->over_cap * 2 : 1024;
		struct qcow2_overflow *v = calloc(cap, sizeof(*v));

		if (!v) {
			atomic_store(&c->no_memory, true);
			pthread_mutex_unlock(&c->lock);
			return;
		}
		for (uint64_t i = 0; i < c->over_cap; i++)
			if (c->over[i].count)
				*over_slot(v, cap, c->over[i].cluster) = c->over[i];
		free(c->over);
		c->over = v;
		c->over_cap = cap;
	}
	s = over_slot(c->over, c->over_cap, cluster);
	c->over_n += s->count == 0;
	s->cluster = cluster;
	s->count += times;
	pthread_mutex_unlock(&c->lock);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static inline unsigned cell_get(const struct qcow2_recount *c, uint64_t k)
{
	return c->wide ? atomic_load_explicit((_Atomic uint16_t *)c->cells + k,
					      memory_order_relaxed)
		       : atomic_load_explicit((_Atomic uint8_t *)c->cells + k,
					      memory_order_relaxed);
}

static inline unsigned cell_full(const struct qcow2_recount *c)
{
	return c->wide ? WIDE_FULL : NARROW_FULL;
}

static inline unsigned cell_count(const struct qcow2_recount *c, unsigned cell)
{
	return cell & cell_full(c);
}

unsigned qcow2_count_cluster(struct qcow2_recount *c, uint64_t k, uint32_t times)
{
	unsigned full = cell_full(c), old, n;
	bool swapped;

	if (k >= c->nb)
		atomic_store_explicit(&c->beyond, true, memory_order_relaxed);
	do {
		old = cell_get(c, k);
		n = old & full;
		if ((n || times > 1) && !atomic_load_explicit(&c->shared, memory_order_relaxed))
			atomic_store_explicit(&c->shared, true, memory_order_relaxed);
		if (n == full)
			break;
		/* A count that would fill the cell moves to the hash table, all of it. */
		if (c->wide) {
			uint16_t was = (uint16_t)old;

			swapped = atomic_compare_exchange_weak_explicit(
				(_Atomic uint16_t *)c->cells + k, &was,
				(uint16_t)(times < full - n ? old + times : old | full),
				memory_order_relaxed, memory_order_relaxed);
		} else {
			uint8_t was = (uint8_t)old;

			swapped = atomic_compare_exchange_weak_explicit(
				(_Atomic uint8_t *)c->cells + k, &was,
				(uint8_t)(times < full - n ? old + times : old | full),
				memory_order_relaxed, memory_order_relaxed);
		}
	} while (!swapped);
	if (n == full)
		over_add(c, k, times);
	else if (times >= full - n)
		over_add(c, k, (uint64_t)n + times);
	return old;
}

void qcow2_count(struct qcow2_recount *c, uint64_t off, uint64_t len, uint32_t times)
{
	uint64_t last;

	if (!len || !times)
		return;
	last = (off + len - 1) >> c->q->cluster_bits;
	for (uint64_t k = off >> c->q->cluster_bits; k <= last; k++)
		(void)qcow2_count_cluster(c, k, times);
	qcow2_count_settle(c);
}

void qcow2_count_settle(struct qcow2_recount *c)
{
	if (atomic_exchange(&c->beyond, false))
		c->nb = plt_div_up(c->file_size, c->q->cluster_size) + 1;
}

bool qcow2_was_one(const struct qcow2_recount *c, unsigned cell)
{
	return cell & (c->wide ? WIDE_ONE : NARROW_ONE);
}

bool qcow2_was_metadata(const struct qcow2_recount *c, unsigned cell)
{
	return cell & (c->wide ? WIDE_META : NARROW_META);
}

bool qcow2_was_used(const struct qcow2_recount *c, unsigned cell)
{
	return cell_count(c, cell) != 0;
}

bool qcow2_mark_metadata(struct qcow2_recount *c, uint64_t off, uint64_t len)
{
	uint64_t last = len ? (off + len - 1) >> c->q->cluster_bits : 0;
	bool fresh = true;

	for (uint64_t k = off >> c->q->cluster_bits; len && k <= last && k < c->nb; k++) {
		fresh &= !qcow2_was_metadata(c, cell_get(c, k));
		if (c->wide)
			((uint16_t *)c->cells)[k] |= WIDE_META;
		else
			((uint8_t *)c->cells)[k] |= NARROW_META;
	}
	return fresh;
}

bool qcow2_is_metadata(const struct qcow2_recount *c, uint64_t k)
{
	return k < c->nb && qcow2_was_metadata(c, cell_get(c, k));
}

uint64_t qcow2_references(const struct qcow2_recount *c, uint64_t k)
{
	uint64_t n;

	if (k >= c->nb)
		return 0;
	n = cell_count(c, cell_get(c, k));
	return n < cell_full(c) || !c->over_n ? n : over_slot(c->over, c->over_cap, k)->count;
}

/* ---- stored counts --------------------------------------------------------------------------- */

uint64_t qcow2_count_at(const struct qcow2_state *q, const uint8_t *block, uint64_t i)
{
	return qcow2_count_load(block, q->refcount_order, i);
}

void qcow2_count_put(const struct qcow2_state *q, uint8_t *block, uint64_t i, uint64_t count)
{
	qcow2_count_store(block, q->refcount_order, i, count);
}

static int read_block(struct qcow2_recount *c, uint64_t index, uint8_t *buf)
{
	uint64_t off = c->rt[index] & QCOW2_REFTABLE_OFFSET;

	if ((off & (c->q->cluster_size - 1)) || off > (uint64_t)INT64_MAX - c->q->cluster_size)
		return -EIO; /* QEMU's answer for a refcount block that cannot be */
	if (off >= c->file_size) {
		memset(buf, 0, c->q->cluster_size);
		return 0;
	}
	return plt_store_read(c->file, off, buf, c->q->cluster_size, PLT_IO_REFBLOCK, NULL);
}

void qcow2_stored_forget(struct qcow2_recount *c)
{
	for (unsigned i = 0; i < QCOW2_COUNT_SLOTS; i++)
		c->counts[i].index = UINT64_MAX;
}

int qcow2_stored_count(struct qcow2_recount *c, uint64_t cluster, uint64_t *ret)
{
	uint64_t index = cluster >> c->q->rb_bits;
	struct qcow2_counts *s = &c->counts[index % QCOW2_COUNT_SLOTS];
	int r;

	*ret = 0;
	if (index >= c->nrt || !(c->rt[index] & QCOW2_REFTABLE_OFFSET))
		return 0;
	if (s->index != index) {
		s->index = UINT64_MAX;
		if (!s->block)
			s->block = plt_alloc_io(c->q->cluster_size);
		r = s->block ? read_block(c, index, s->block) : -ENOMEM;
		if (r < 0)
			return r;
		s->index = index;
	}
	*ret = qcow2_count_at(c->q, s->block, cluster & ((UINT64_C(1) << c->q->rb_bits) - 1));
	return 0;
}

/* Work on refcount blocks in parallel: each part takes a run of them. */
struct blocks_job {
	struct qcow2_recount *c;
	uint64_t first, n, per; /* blocks; how many a part takes */
	int (*fn)(struct blocks_job *j, uint64_t index, const uint8_t *block /* NULL: none */,
		  int unreadable);
	uint8_t *state;		  /* of compare: what each block needs */
	_Atomic uint64_t highest; /* of compare */
};

static int blocks_part(void *arg, unsigned part)
{
	struct blocks_job *j = arg;
	struct qcow2_recount *c = j->c;
	uint64_t end = PLT_MIN(j->n, (part + 1) * j->per);
	uint8_t *buf = plt_alloc_io(c->q->cluster_size);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = part * j->per; !r && i < end; i++) {
		bool there = i < c->nrt && (c->rt[i] & QCOW2_REFTABLE_OFFSET);
		int unreadable = there ? read_block(c, i, buf) : 0;

		r = j->fn(j, i, there && !unreadable ? buf : NULL, unreadable);
	}
	free(buf);
	return r;
}

static int blocks_each(struct blocks_job *j)
{
	unsigned parts = (unsigned)PLT_MIN(UINT64_C(64), plt_div_up(j->n, 8));

	if (!j->n)
		return 0;
	j->per = plt_div_up(j->n, parts);
	return parts > 1 ? plt_ctx_parallel(j->c->ctx, parts, blocks_part, j) : blocks_part(j, 0);
}

static int note_ones(struct blocks_job *j, uint64_t index, const uint8_t *block, int unreadable)
{
	struct qcow2_recount *c = j->c;
	uint64_t first = index << c->q->rb_bits;
	uint64_t n = PLT_MIN(UINT64_C(1) << c->q->rb_bits, c->nb - first);

	(void)unreadable; /* compare says so */
	if (!block)
		return 0;
	if (!c->wide && c->q->refcount_order == 4) {
		uint8_t *cells = (uint8_t *)c->cells + first;

		for (uint64_t i = 0; i < n; i++) /* high byte 0, low byte 1 */
			cells[i] |= block[i * 2] == 0 && block[i * 2 + 1] == 1 ? NARROW_ONE : 0;
		return 0;
	}
	for (uint64_t i = 0; i < n; i++) {
		if (qcow2_count_at(c->q, block, i) != 1)
			continue;
		if (c->wide)
			((uint16_t *)c->cells)[first + i] |= WIDE_ONE;
		else
			((uint8_t *)c->cells)[first + i] |= NARROW_ONE;
	}
	return 0;
}

int qcow2_stored_load(struct qcow2_recount *c, struct plt_error *err)
{
	const struct qcow2_state *q = c->q;
	struct blocks_job j = {.c = c, .fn = note_ones};
	int r;

	c->rt_entries = (uint64_t)q->reftable_clusters << (q->cluster_bits - 3);
	c->nrt = q->reftable_offset < c->file_size
			 ? PLT_MIN(c->rt_entries, plt_div_up(c->file_size - q->reftable_offset, 8))
			 : 0;
	c->rt = plt_alloc_capped(c->nrt, 8, QCOW2_MAX_REFTABLE_BYTES);
	if (!c->rt)
		return plt_error_set(err, ENOMEM, "Out of memory");
	if (c->nrt) {
		r = plt_store_read(c->file, q->reftable_offset, c->rt, c->nrt * 8, PLT_IO_REFTABLE,
				   err);
		if (r < 0)
			return r;
	}
	for (uint64_t i = 0; i < c->nrt; i++)
		c->rt[i] = plt_get_be64(&c->rt[i]);
	j.n = PLT_MIN(c->nrt, plt_div_up(c->nb, UINT64_C(1) << q->rb_bits));
	r = blocks_each(&j);
	return r < 0 ? plt_error_default(err, -r, "Out of memory") : 0;
}

/* ---- comparing ------------------------------------------------------------------------------- */

enum { BLOCK_SAME, BLOCK_DIFFERS, BLOCK_UNREADABLE };

static void raise_highest(struct blocks_job *j, uint64_t k)
{
	uint64_t old = atomic_load(&j->highest);

	while (old < k && !atomic_compare_exchange_weak(&j->highest, &old, k))
		;
}

/* All cells of [first, first + n) empty?  Cells that were never touched are many and cheap. */
static uint64_t last_used_cell(const struct qcow2_recount *c, uint64_t first, uint64_t n)
{
	for (uint64_t i = n; i--;)
		if (cell_count(c, cell_get(c, first + i)))
			return first + i;
	return UINT64_MAX;
}

/*
 * Does the block agree with the narrow cells, as far as plain counts go?  16-bit counts only.
 * False sends it to the exact comparison.
 */
static bool quick_same(const uint8_t *cells, const uint8_t *block, uint64_t n)
{
	unsigned bad = 0;

	for (uint64_t i = 0; i < n; i++)
		bad |= block[i * 2] | ((cells[i] & NARROW_FULL) ^ block[i * 2 + 1]) |
		       ((cells[i] & NARROW_FULL) == NARROW_FULL);
	return !bad;
}

static int compare_block(struct blocks_job *j, uint64_t index, const uint8_t *block, int unreadable)
{
	struct qcow2_recount *c = j->c;
	const struct qcow2_state *q = c->q;
	uint64_t first = index << q->rb_bits, n = PLT_MIN(UINT64_C(1) << q->rb_bits, c->nb - first),
		 last;

	if (unreadable) {
		j->state[index] = BLOCK_UNREADABLE;
		return unreadable == -ENOMEM ? unreadable : 0;
	}
	if (!block) {
		last = last_used_cell(c, first, n);
		if (last != UINT64_MAX) {
			j->state[index] = BLOCK_DIFFERS;
			raise_highest(j, last);
		}
		return 0;
	}
	if (!c->wide && q->refcount_order == 4 &&
	    quick_same((const uint8_t *)c->cells + first, block, n)) {
		last = last_used_cell(c, first, n);
		if (last != UINT64_MAX)
			raise_highest(j, last);
		return 0;
	}
	for (uint64_t i = n; i--;) {
		uint64_t stored = qcow2_count_at(q, block, i);
		uint64_t refs = PLT_MIN(qcow2_references(c, first + i), q->refcount_max);

		if (stored || refs)
			raise_highest(j, first + i);
		if (stored != refs)
			j->state[index] = BLOCK_DIFFERS;
	}
	return 0;
}

int qcow2_compare(struct qcow2_recount *c,
		  void (*differs)(void *arg, uint64_t cluster, uint64_t stored, uint64_t references,
				  int unreadable),
		  void *arg, uint64_t *ret_highest)
{
	const struct qcow2_state *q = c->q;
	struct blocks_job j = {.c = c, .fn = compare_block};
	int r;

	j.n = plt_div_up(c->nb, UINT64_C(1) << q->rb_bits);
	j.state = calloc(j.n ? j.n : 1, 1);
	if (!j.state)
		return -ENOMEM;
	r = blocks_each(&j);
	for (uint64_t i = 0; !r && i < j.n; i++) {
		uint64_t first = i << q->rb_bits,
			 end = PLT_MIN(c->nb, first + (UINT64_C(1) << q->rb_bits));

		for (uint64_t k = first; j.state[i] != BLOCK_SAME && k < end; k++) {
			uint64_t stored, refs = PLT_MIN(qcow2_references(c, k), q->refcount_max);
			int e = qcow2_stored_count(c, k, &stored);

			if (e < 0 || stored != refs)
				differs(arg, k, stored, refs, e);
		}
	}
	*ret_highest = atomic_load(&j.highest);
	free(j.state);
	return r;
}
