/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Another width of the counts.  The same counts are written again, in new blocks and a new table behind
 * the end of the file, and one write of the header switches to them: table, length of the table and
 * width lie in one sector.  Before that the old counts hold, and do not know of what is new; after it
 * the new ones, which do not know of the old table and blocks.  So a power cut leaves neither leaks nor
 * a count too low.  The work is that of the blocks that exist, not of the file's length.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/counts.h"
#include "qcow2/mapping.h"

/* Blocks of either kind, by index; sorted. */
struct blocks {
	uint64_t *index, *offset;
	size_t n, cap;
};

static void release(struct blocks *b)
{
	free(b->index);
	free(b->offset);
}

static int add(struct blocks *b, uint64_t index, uint64_t offset, struct plt_error *err)
{
	if (b->n && b->index[b->n - 1] == index)
		return 0;
	if (b->n == b->cap) {
		size_t cap = b->cap ? 2 * b->cap : 64;
		void *i = realloc(b->index, cap * sizeof(*b->index)), *o;

		if (i)
			b->index = i;
		o = i ? realloc(b->offset, cap * sizeof(*b->offset)) : NULL;
		if (!o)
			return plt_error_set(err, ENOMEM, "Out of memory");
		b->offset = o;
		b->cap = cap;
	}
	b->index[b->n] = index;
	b->offset[b->n++] = offset;
	return 0;
}

/* The blocks that the present table names. */
static int list_old(struct plt_image *img, struct blocks *b, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t entries = (uint64_t)q->reftable_clusters << (q->cluster_bits - 3);
	PLT_AUTOFREE uint64_t *table = plt_alloc_capped(entries, 8, QCOW2_MAX_REFTABLE_BYTES);
	int r;

	if (!table)
		return plt_error_set(err, ENOMEM, "Out of memory");
	r = plt_store_read(img->file, q->reftable_offset, table, entries * 8, PLT_IO_REFTABLE, err);
	for (uint64_t i = 0; r == 0 && i < entries; i++) {
		uint64_t off = plt_get_be64(&table[i]) & QCOW2_REFTABLE_OFFSET;

		if (off & (q->cluster_size - 1) || off >= QCOW2_MAX_HOST_OFFSET)
			r = plt_error_set(err, EUCLEAN, "'%s': refcount table entry %" PRIu64 " (%#" PRIx64
					  "): not the offset of a refcount block", img->name, i, off);
		else if (off)
			r = add(b, i, off, err);
	}
	return r;
}

/* Calls @fn for each count of an old block that is not zero. */
static int each_count(struct plt_image *img, const struct blocks *old, size_t i,
		      int (*fn)(void *arg, uint64_t cluster, uint64_t count, struct plt_error *err), void *arg,
		      struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t first = old->index[i] << q->rb_bits, n = UINT64_C(1) << q->rb_bits, step;
	int r = 0;

	step = (uint64_t)img->slice * 8 >> q->refcount_order;
	for (uint64_t c = first; r == 0 && c < first + n; c += step) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *b;

		r = plt_meta_get_wait(img, &pins, &qcow2_refblock_type,
				      old->offset[i] + ((c - first) << q->refcount_order >> 3), &b, err);
		for (uint64_t k = c; r == 0 && k < c + step; k++) {
			uint64_t count = qcow2_count_read(img, b, k);

			if (count)
				r = fn(arg, k, count, err);
		}
		plt_pins_drop(&pins);
	}
	return r;
}

/* ---- may it be? ------------------------------------------------------------------------------ */

struct bound {
	uint32_t cluster_bits, order;
};

static int check_count(void *arg, uint64_t cluster, uint64_t count, struct plt_error *err)
{
	const struct bound *b = arg;

	if (b->order < 6 && count >> (UINT64_C(1) << b->order))
		return plt_error_set(err, EINVAL, "Cannot decrease refcount entry width to %u bits: Cluster at offset %#"
				     PRIx64 " has a refcount of %" PRIu64, 1u << b->order, cluster << b->cluster_bits,
				     count);
	return 0;
}

int qcow2_check_width(struct plt_image *img, uint32_t order, struct plt_error *err)
{
	struct bound bound = { qcow2_of(img)->cluster_bits, order };
	struct blocks old = { 0 };
	int r = plt_meta_flush(img, true, err);

	if (r == 0)
		r = list_old(img, &old, err);
	for (size_t i = 0; r == 0 && i < old.n; i++)
		r = each_count(img, &old, i, check_count, &bound, err);
	release(&old);
	return r;
}

/* ---- the new counts -------------------------------------------------------------------------- */

struct change {
	struct plt_image *img;
	uint32_t order, rb_bits;
	struct blocks old, new;   /* new: offsets are set when all are known */
	uint64_t *structure;      /* clusters of the old blocks, sorted */
	uint64_t end;             /* behind the last cluster that is counted */
	uint64_t first, clusters; /* what is new: [first, +clusters) of the file */
	uint64_t old_size;        /* of the file */
	uint64_t table_clusters;
	/* the block being filled */
	uint8_t *buf;
	uint64_t index;
	size_t at;                /* of it in new */
};

static int note_block(void *arg, uint64_t cluster, uint64_t count, struct plt_error *err)
{
	struct change *c = arg;

	(void)count;
	c->end = cluster + 1;
	return add(&c->new, cluster >> c->rb_bits, 0, err);
}

/* Table and blocks behind the end of the file, and the blocks that count those. */
static int lay_out(struct change *c, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(c->img);
	uint64_t last, own_first, n, size;
	size_t inner = c->new.n, shared; /* blocks for what is there; 1: its last counts what is new, too */
	struct plt_image *img = c->img;
	int r = plt_store_size(c->img->file, &size, err);

	if (r < 0)
		return r;
	c->old_size = size;
	c->first = PLT_MAX(q->file_clusters, plt_div_up(size, q->cluster_size));
	if (c->end > c->first)
		return plt_error_set(err, EUCLEAN, "'%s': cluster %" PRIu64 " has a count and lies beyond the end of the "
				     "file: the image must be checked first", img->name, c->end - 1);
	own_first = c->first >> c->rb_bits;
	shared = inner && c->new.index[inner - 1] == own_first;
	do {
		n = c->clusters;
		last = (c->first + (n ? n : 1) - 1) >> c->rb_bits;
		c->table_clusters = plt_div_up((last + 1) * 8, q->cluster_size);
		c->clusters = c->table_clusters + inner + (last - own_first + 1) - shared;
	} while (c->clusters != n);
	if (c->table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE_BYTES)
		return plt_error_set(err, EFBIG, "The refcount table would take %" PRIu64 " bytes",
				     c->table_clusters << q->cluster_bits);
	if (!c->img->file->limits.can_grow)
		return plt_error_set(err, ENOSPC, "'%s' cannot grow, and the new counts have to lie behind its end",
				     c->img->file->name);
	for (uint64_t i = own_first; r == 0 && i <= last; i++)
		r = add(&c->new, i, 0, err);
	for (size_t i = 0; r == 0 && i < c->new.n; i++)
		c->new.offset[i] = (c->first + c->table_clusters + i) << q->cluster_bits;
	return r;
}

static void put_count(const struct change *c, uint64_t cluster, uint64_t count)
{
	qcow2_count_store(c->buf, c->order, cluster & ((UINT64_C(1) << c->rb_bits) - 1), count);
}

/* Write the block that has been filled. */
static int put_block(struct change *c, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(c->img);

	return plt_store_write(c->img->file, c->new.offset[c->at], c->buf, q->cluster_size, PLT_IO_REFBLOCK, err);
}

/* To the block of @index, which must be the one under way or come later. */
static int turn_to(struct change *c, uint64_t index, struct plt_error *err)
{
	int r = 0;

	while (r == 0 && c->new.index[c->at] != index) {
		r = put_block(c, err);
		memset(c->buf, 0, qcow2_of(c->img)->cluster_size);
		c->at++;
	}
	return r;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool is_old_structure(const struct change *c, uint64_t cluster)
{
	const struct qcow2_state *q = qcow2_of(c->img);
	uint64_t off = cluster << q->cluster_bits;

	return (off >= q->reftable_offset &&
		off - q->reftable_offset < (uint64_t)q->reftable_clusters << q->cluster_bits) ||
	       bsearch(&off, c->structure, c->old.n, sizeof(off), by_value);
}

static int move_count(void *arg, uint64_t cluster, uint64_t count, struct plt_error *err)
{
	struct change *c = arg;
	int r = turn_to(c, cluster >> c->rb_bits, err);

	if (r == 0)
		put_count(c, cluster, count - is_old_structure(c, cluster));
	return r;
}

static int write_new(struct change *c, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(c->img);
	PLT_AUTOFREE uint8_t *table = plt_alloc_capped(c->table_clusters, q->cluster_size, QCOW2_MAX_REFTABLE_BYTES);
	int r = 0;

	c->buf = plt_alloc_io(q->cluster_size);
	c->structure = plt_alloc_capped(c->old.n, sizeof(*c->structure), SIZE_MAX / 2);
	if (!table || !c->buf || !c->structure)
		return plt_error_set(err, ENOMEM, "Out of memory");
	if (c->old.n) {
		memcpy(c->structure, c->old.offset, c->old.n * sizeof(*c->structure));
		qsort(c->structure, c->old.n, sizeof(*c->structure), by_value);
	}
	memset(c->buf, 0, q->cluster_size);
	for (size_t i = 0; r == 0 && i < c->old.n; i++)
		r = each_count(c->img, &c->old, i, move_count, c, err);
	for (uint64_t k = 0; r == 0 && k < c->clusters; k++) {
		r = turn_to(c, (c->first + k) >> c->rb_bits, err);
		if (r == 0)
			put_count(c, c->first + k, 1);
	}
	if (r == 0)
		r = put_block(c, err);
	for (size_t i = 0; i < c->new.n; i++)
		plt_put_be64(table + c->new.index[i] * 8, c->new.offset[i]);
	if (r == 0)
		r = plt_store_write(c->img->file, c->first << q->cluster_bits, table,
				    c->table_clusters << q->cluster_bits, PLT_IO_REFTABLE, err);
	return r < 0 ? r : plt_store_sync(c->img->file, err);
}

static void set_counts(struct qcow2_state *q, uint64_t offset, uint32_t clusters, uint32_t order)
{
	atomic_store(&q->reftable_offset, offset);
	atomic_store(&q->reftable_clusters, clusters);
	q->refcount_order = order;
	qcow2_state_derive(q);
}

static int switch_counts(struct change *c, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(c->img);
	uint64_t old_offset = q->reftable_offset, cs = q->cluster_size;
	uint32_t old_clusters = q->reftable_clusters, old_order = q->refcount_order;
	int r;

	pthread_mutex_lock(&c->img->lock);
	set_counts(q, c->first << q->cluster_bits, (uint32_t)c->table_clusters, c->order);
	q->free_hint = 0;
	q->comp_tail = 0;
	pthread_mutex_unlock(&c->img->lock);
	r = qcow2_header_switch(c->img, offsetof(struct qcow2_header, refcount_table_offset),
				offsetof(struct qcow2_header, header_length), err);
	if (r < 0) {
		pthread_mutex_lock(&c->img->lock);
		set_counts(q, old_offset, old_clusters, old_order);
		pthread_mutex_unlock(&c->img->lock);
		/* Either header may be on the disk: it gets the old one, or nothing more is written. */
		if (qcow2_header_settle(c->img, NULL) < 0)
			atomic_store(&c->img->file->sync_error, EIO);
		return r;
	}
	/* Free already; nothing of them may come back from the cache, and the host may have the space. */
	plt_meta_forget(c->img, old_offset, old_clusters * cs);
	(void)plt_store_discard(c->img->file, old_offset, old_clusters * cs, NULL);
	for (size_t i = 0; i < c->old.n; i++) {
		plt_meta_forget(c->img, c->old.offset[i], cs);
		(void)plt_store_discard(c->img->file, c->old.offset[i], cs, NULL);
	}
	return qcow2_guard_reload(c->img, err);
}

int qcow2_change_width(struct plt_image *img, uint32_t order, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct change c = { .img = img, .order = order, .rb_bits = q->cluster_bits + 3 - order };
	int r = plt_meta_flush(img, true, err);

	if (r == 0)
		r = list_old(img, &c.old, err);
	for (size_t i = 0; r == 0 && i < c.old.n; i++)
		r = each_count(img, &c.old, i, note_block, &c, err);
	if (r == 0)
		r = lay_out(&c, err);
	if (r == 0) { /* whatever comes of it, what lies there does not read as zeros any more */
		pthread_mutex_lock(&img->lock);
		q->file_clusters = PLT_MAX(q->file_clusters, c.first + c.clusters);
		pthread_mutex_unlock(&img->lock);
		r = write_new(&c, err);
		if (r < 0) /* no header names it, now or later */
			(void)plt_store_truncate(img->file, c.old_size, NULL);
	}
	if (r == 0)
		r = switch_counts(&c, err);
	release(&c.old);
	release(&c.new);
	free(c.structure);
	free(c.buf);
	return r;
}
