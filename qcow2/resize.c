/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Another size for the disk.  The engine has closed the image to everybody else, so this is blocking
 * code that changes entries in place, makes that durable, and frees what they named at once, without
 * limbo.  The order (docs/formats/qcow2.md, "Order of writes"):
 *
 *	grow L1    new L1 with its counts -> header -> free the old one
 *	grow       entries beyond the old end gone, the rest of the last cluster zeroed -> header size
 *	shrink     header size -> entries removed -> their clusters freed
 *
 * A cut after the header of a shrink leaves entries beyond the end.  They do no harm, a check names
 * them, and the next resize removes them.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

#define DROPS_SETTLE 65536 /* ranges to be freed that are gathered before they are */

/* ---- what is dropped -------------------------------------------------------------------------- */

struct drop {
	uint64_t off, len;
	enum qcow2_limbo kind;
};

struct drops {
	struct drop *v;
	size_t n, cap;
};

static int drop_add(struct drops *d, uint64_t off, uint64_t len, enum qcow2_limbo kind, struct plt_error *err)
{
	struct drop *last = d->n ? &d->v[d->n - 1] : NULL;

	if (last && kind != QCOW2_LIMBO_PACKED && last->kind == kind && last->off + last->len == off) {
		last->len += len;
		return 0;
	}
	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 256;
		void *v = realloc(d->v, cap * sizeof(*d->v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		d->v = v;
		d->cap = cap;
	}
	d->v[d->n++] = (struct drop){off, len, kind};
	return 0;
}

static int drop_entry(struct plt_image *img, struct drops *d, struct qcow2_entry e, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t off = e.word & QCOW2_L2_OFFSET;
	uint32_t len = q->cluster_size;

	if (q->external)
		return 0; /* places in a data file have no counts */
	if (e.word & QCOW2_COMPRESSED)
		qcow2_packed_range(q, e.word, &off, &len);
	if (!off)
		return 0;
	return drop_add(d, off, len, e.word & QCOW2_COMPRESSED ? QCOW2_LIMBO_PACKED : QCOW2_LIMBO_CLUSTERS, err);
}

/* The entries are gone for good: give back what they named. */
static int settle(struct plt_image *img, struct drops *d, struct plt_error *err)
{
	int r = plt_meta_flush(img, true, err);

	for (size_t i = 0; r == 0 && i < d->n; i++)
		r = qcow2_release(img, d->v[i].off, d->v[i].len, d->v[i].kind, err);
	d->n = 0;
	return r;
}

/* ---- entries ---------------------------------------------------------------------------------- */

/* What is done with the entries of one table from a guest offset on. */
enum pass {
	SURVEY, /* can all of them be followed? */
	GATHER, /* note what they name */
	REMOVE, /* note it, and clear them */
};

static int walk_slice(struct plt_image *img, enum pass pass, struct plt_block *b, unsigned index,
		      uint64_t guest_off, struct drops *d, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	unsigned per_slice = img->slice / q->l2_entry_size;
	bool dirty = false, unsafe = false;
	uint64_t table;
	int r = 0;

	pthread_mutex_lock(&img->lock);
	for (; r == 0 && !unsafe && index < per_slice; index++, guest_off += q->cluster_size) {
		struct qcow2_entry e = qcow2_entry_get(q, b, index);

		if (!e.word && !e.bitmap)
			continue;
		unsafe = qcow2_entry_unsafe(img, e, &table);
		if (unsafe)
			break;
		if (qcow2_entry_bad(img, e, guest_off))
			r = plt_error_set(err, EIO,
					  "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
					  " is corrupt: nothing can be freed there",
					  img->name, e.word, guest_off);
		else if (pass != SURVEY)
			r = drop_entry(img, d, e, err);
		if (r == 0 && pass == REMOVE) {
			qcow2_entry_set(q, b, index, (struct qcow2_entry){0, 0});
			dirty = true;
		}
	}
	if (dirty)
		plt_block_dirty(b);
	pthread_mutex_unlock(&img->lock);
	return unsafe ? qcow2_mark_corrupt(img, table, err) : r;
}

/* The table at @l2_off, from entry @first on. */
static int walk_table(struct plt_image *img, enum pass pass, uint64_t l2_off, uint64_t l1_index, uint64_t first,
		      struct drops *d, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	unsigned per_slice = img->slice / q->l2_entry_size;
	uint64_t entries = UINT64_C(1) << q->l2_bits;
	int r = 0;

	for (uint64_t i = first; r == 0 && i < entries; i = plt_align_down(i, per_slice) + per_slice) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *b;

		r = plt_meta_get_wait(img, &pins, &qcow2_l2_type, l2_off + i * q->l2_entry_size, &b, err);
		if (r == 0)
			r = walk_slice(img, pass, b, (unsigned)(i % per_slice),
				       ((l1_index << q->l2_bits) + i) << q->cluster_bits, d, err);
		plt_pins_drop(&pins);
	}
	return r;
}

static int l1_read(struct plt_image *img, struct plt_pins *pins, uint64_t index, struct plt_block **ret_block,
		   uint64_t *ret, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t at = q->l1_offset + index * 8;
	int r = plt_meta_get_wait(img, pins, &qcow2_l1_type, at, ret_block, err);

	if (r < 0)
		return r;
	*ret = plt_block_get64(*ret_block, (unsigned)(at % img->slice / 8));
	return qcow2_l1_check(img, index, *ret, err);
}

/* A table that goes as a whole: its L1 entry is cleared, the table and what it names are dropped. */
static int remove_table(struct plt_image *img, uint64_t index, struct drops *d, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_block *l1;
	uint64_t entry;
	int r = l1_read(img, &pins, index, &l1, &entry, err);

	if (r == 0)
		r = walk_table(img, GATHER, entry & QCOW2_L1_OFFSET, index, 0, d, err);
	if (r == 0)
		r = drop_add(d, entry & QCOW2_L1_OFFSET, q->cluster_size, QCOW2_LIMBO_TABLE, err);
	if (r == 0) {
		pthread_mutex_lock(&img->lock);
		plt_block_set64(l1, (unsigned)((q->l1_offset + index * 8) % img->slice / 8), 0);
		plt_block_dirty(l1);
		pthread_mutex_unlock(&img->lock);
	}
	plt_pins_drop(&pins);
	return r;
}

/* One L1 entry whose table holds guest cluster @first and what is behind it. */
static int walk_l1_entry(struct plt_image *img, enum pass pass, uint64_t index, uint64_t first, struct drops *d,
			 struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_block *l1;
	uint64_t entry;
	int r = l1_read(img, &pins, index, &l1, &entry, err);

	plt_pins_drop(&pins);
	if (r < 0 || !(entry & QCOW2_L1_OFFSET))
		return r;
	if (entry & QCOW2_COPIED && !qcow2_guard_is(q, entry & QCOW2_L1_OFFSET, QCOW2_META_ACTIVE_L2))
		return qcow2_mark_corrupt(img, entry & QCOW2_L1_OFFSET, err);
	if (pass == SURVEY) {
		r = walk_table(img, SURVEY, entry & QCOW2_L1_OFFSET, index, first, d, err);
		/* a part of a table is changed, so the table must be our own */
		if (r == 0 && first && !(entry & QCOW2_COPIED))
			r = qcow2_work(img, QCOW2_WORK_UNSHARE_L2, index, err);
		return r;
	}
	if (first)
		return walk_table(img, REMOVE, entry & QCOW2_L1_OFFSET, index, first, d, err);
	return remove_table(img, index, d, err);
}

/* Everything from guest offset @from on, which is rounded up to a cluster. */
static int walk(struct plt_image *img, enum pass pass, uint64_t from, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t cluster = (from >> q->cluster_bits) + ((from & (q->cluster_size - 1)) != 0);
	uint64_t first = cluster & ((UINT64_C(1) << q->l2_bits) - 1);
	struct drops d = {0};
	/* tables change: by then it is known which L1 table the header names */
	int r = pass == SURVEY ? 0 : qcow2_header_settle(img, err);

	for (uint64_t i = cluster >> q->l2_bits; r == 0 && i < q->l1_size; i++, first = 0) {
		r = walk_l1_entry(img, pass, i, first, &d, err);
		if (r == 0 && d.n >= DROPS_SETTLE)
			r = settle(img, &d, err);
	}
	if (r == 0 && pass != SURVEY)
		r = settle(img, &d, err);
	free(d.v);
	return r;
}

/* ---- the L1 table ----------------------------------------------------------------------------- */

static int write_l1(struct plt_image *img, uint64_t host_off, uint64_t clusters, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *table = calloc(clusters, q->cluster_size);
	int r = 0;

	if (!table)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (q->l1_size)
		r = plt_store_read(img->file, q->l1_offset, table, (size_t)q->l1_size * 8, PLT_IO_L1, err);
	if (r == 0)
		r = plt_store_write(img->file, host_off, table, (size_t)(clusters << q->cluster_bits), PLT_IO_L1,
				    err);
	return r;
}

static void set_l1(struct plt_image *img, uint64_t offset, uint32_t size)
{
	struct qcow2_state *q = qcow2_of(img);

	pthread_mutex_lock(&img->lock);
	q->l1_offset = q->view_l1_offset = offset;
	q->l1_size = q->view_l1_size = size;
	pthread_mutex_unlock(&img->lock);
}

static int grow_l1(struct plt_image *img, uint64_t entries, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t clusters = plt_div_up(entries * 8, q->cluster_size), offset;
	uint64_t old_offset = q->l1_offset, old_len = plt_align_up((uint64_t)q->l1_size * 8, q->cluster_size);
	uint32_t old_size = q->l1_size;
	int r = qcow2_alloc(img, clusters, &offset, err);

	if (r < 0)
		return r;
	/* the new table inherits every edge of the old one: nothing is pending behind this */
	plt_meta_forget(img, offset, clusters << q->cluster_bits);
	r = plt_meta_flush(img, true, err);
	if (r == 0)
		r = write_l1(img, offset, clusters, err);
	if (r == 0 && qcow2_rule(img, QCOW2_RULE_GROW_L1))
		r = plt_store_sync(img->file, err);
	if (r == 0) {
		set_l1(img, offset, (uint32_t)entries);
		r = qcow2_header_switch(img, offsetof(struct qcow2_header, l1_size),
					offsetof(struct qcow2_header, refcount_table_offset), err);
		if (r < 0) {
			/* either header may be on disk: both tables stay, and say the same */
			set_l1(img, old_offset, old_size);
			return r;
		}
	}
	if (r < 0) {
		(void)qcow2_count_add(img, offset, clusters << q->cluster_bits, -1, NULL);
		return r;
	}
	return old_len ? qcow2_release(img, old_offset, old_len, QCOW2_LIMBO_CLUSTERS, err) : 0;
}

/* ---- growing ---------------------------------------------------------------------------------- */

/* The data file is as long as the disk, and holds nothing behind its old end. */
static int grow_data(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	uint64_t old = atomic_load(&img->size), have;
	int r = plt_store_size(img->data, &have, err);

	if (r < 0)
		return r;
	if (!img->data->limits.can_grow)
		return have >= size ? 0 : plt_error_set(err, ENOSPC, "'%s' has %" PRIu64 " bytes, %" PRIu64 " are needed",
							img->data->name, have, size);
	if (have > old)
		r = plt_store_zero(img->data, old, PLT_MIN(have, size) - old, PLT_ZERO_MAY_UNMAP, PLT_IO_DATA, err);
	return r < 0 ? r : plt_store_truncate(img->data, size, err);
}

static int write_size(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t old = q->virtual_size;
	int r;

	pthread_mutex_lock(&img->lock);
	q->virtual_size = size;
	pthread_mutex_unlock(&img->lock);
	r = qcow2_header_switch(img, offsetof(struct qcow2_header, size),
				offsetof(struct qcow2_header, crypt_method), err);
	if (r < 0) {
		pthread_mutex_lock(&img->lock);
		q->virtual_size = old;
		pthread_mutex_unlock(&img->lock);
	}
	return r;
}

static int check_resize(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r;

	if (q->unmappable)
		return plt_error_set(err, ENOTSUP, "'%s': %s", img->name, q->unmappable);
	if (q->view_snapshot)
		return plt_error_set(err, EACCES, "'%s': a snapshot cannot be resized", img->name);
	if (q->nb_snapshots && q->version < 3)
		return plt_error_set(err, ENOTSUP, "Can't resize a v2 image which has snapshots");
	if (qcow2_l1_entries(q, size) > QCOW2_MAX_L1_BYTES / 8)
		return plt_error_set(err, EFBIG, "The image size is too large");
	if (atomic_load(&q->corrupt))
		return qcow2_refuse_corrupt(img, err);
	r = qcow2_header_settle(img, err);
	if (r < 0)
		return r;
	return qcow2_bitmaps_prepare_resize(img, size, err);
}

/* The disk keeps its size, and what is behind it stays. */
int qcow2_vm_state_room(struct plt_image *img, uint64_t end, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t entries = qcow2_l1_entries(q, end), more = PLT_MAX(q->l1_size, 1u);

	if (entries * 8 > QCOW2_MAX_L1_BYTES)
		return plt_error_set(err, EFBIG, "'%s': an L1 table of %" PRIu64 " entries is too large", img->name, entries);
	if (entries <= q->l1_size)
		return 0;
	/* in QEMU's steps, by which a check tells it from a disk that was larger once (qcow2_exam_beyond_end) */
	while (more < entries)
		more = plt_div_up(more * 3, 2);
	return grow_l1(img, more * 8 <= QCOW2_MAX_L1_BYTES ? more : entries, err);
}

int qcow2_grow(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t entries = qcow2_l1_entries(q, size);
	int r = check_resize(img, size, err);

	if (r == 0)
		r = walk(img, SURVEY, atomic_load(&img->size), err);
	if (r == 0 && entries > q->l1_size)
		r = grow_l1(img, entries, err);
	if (r == 0 && q->external)
		r = grow_data(img, size, err);
	if (r == 0 && !qcow2_rule(img, QCOW2_RULE_GROW_SIZE))
		r = write_size(img, size, err);
	return r < 0 ? r : walk(img, REMOVE, atomic_load(&img->size), err);
}

/* ---- preallocation ---------------------------------------------------------------------------- */

/* Meets the needs of place, as the engine does for requests. */
static int place_wait(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req,
		      struct plt_place *ret, struct plt_error *err)
{
	for (;;) {
		struct plt_need need = {0};
		int r;

		pthread_mutex_lock(&img->lock);
		memset(ret, 0, sizeof(*ret));
		r = qcow2_place(img, pins, req, ret, &need, err);
		pthread_mutex_unlock(&img->lock);
		if (r != -EAGAIN)
			return r;
		if (need.kind == PLT_NEED_LOAD) {
			r = plt_meta_load_wait(img, need.block, err);
		} else if (need.kind == PLT_NEED_WRITEBACK) {
			r = plt_meta_flush(img, false, err);
		} else if (need.kind == PLT_NEED_WORK) {
			plt_pins_drop(pins);
			r = qcow2_work(img, need.code, need.arg, err);
		} else {
			r = plt_error_set(err, ENOSPC, "'%s': no free cluster is left", img->name);
		}
		if (r < 0)
			return r;
	}
}

/* Fill what place has found, as far as it does not read as zeros by itself. */
static int fill(const struct plt_place *p, enum qcow2_prealloc mode, struct plt_error *err)
{
	uint64_t len = p->len + p->tail;

	switch (mode) {
	case QCOW2_PREALLOC_FULL:
		return plt_store_zero(p->store, p->host_off, len, PLT_ZERO_WRITTEN, PLT_IO_DATA, err);
	case QCOW2_PREALLOC_FALLOC:
		if (p->fresh)
			return plt_store_allocate(p->store, p->host_off, len, err);
		return plt_store_zero(p->store, p->host_off, len, 0, PLT_IO_DATA, err);
	default:
		if (p->fresh)
			return 0;
		return plt_store_zero(p->store, p->host_off, len, PLT_ZERO_MAY_UNMAP, PLT_IO_DATA, err);
	}
}

static int preallocate(struct plt_image *img, uint64_t from, uint64_t to, enum qcow2_prealloc mode,
		       struct plt_error *err)
{
	int r = 0;

	from = plt_align_up(from, qcow2_of(img)->cluster_size);
	while (r == 0 && from < to) {
		struct plt_place_req req = {PLT_PLACE_DATA, from, to - from, 0};
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_place p;

		r = place_wait(img, &pins, &req, &p, err);
		if (r == 0)
			r = fill(&p, mode, err);
		if (r == 0 || p.publish) {
			pthread_mutex_lock(&img->lock);
			if (r == 0 && p.publish)
				qcow2_publish(img, &p);
			else if (p.publish)
				qcow2_withdraw(img, &p);
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
		from += p.len;
	}
	return r;
}

static int parse_mode(const char *text, enum qcow2_prealloc *ret, struct plt_error *err)
{
	static const char *const words[] = {"off", "metadata", "falloc", "full"};

	*ret = QCOW2_PREALLOC_OFF;
	for (unsigned i = 0; text && i < PLT_ARRAY_SIZE(words); i++)
		if (!strcmp(text, words[i])) {
			*ret = (enum qcow2_prealloc)i;
			return 0;
		}
	return text ? plt_error_set(err, ENOTSUP, "Unsupported preallocation mode '%s'", text) : 0;
}

/* ---- both ways -------------------------------------------------------------------------------- */

int qcow2_cut_file(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t end = q->file_clusters, count = 0, size, table;
	int r = plt_store_size(img->file, &size, err);

	while (r == 0 && end && !count) {
		/* (a table whose count is 0 by mistake is no less of a table) */
		if (qcow2_guard_find(q, (end - 1) << q->cluster_bits, q->cluster_size, &table))
			break;
		r = qcow2_count_get(img, (end - 1) << q->cluster_bits, &count, err);
		end -= !count;
	}
	if (r == 0)
		r = plt_meta_flush(img, true, err); /* the counts, before what they name is gone */
	if (r < 0 || !end || !img->file->limits.can_grow || end << q->cluster_bits >= size)
		return r;
	plt_meta_forget(img, end << q->cluster_bits, (q->file_clusters - end) << q->cluster_bits);
	r = plt_store_truncate(img->file, end << q->cluster_bits, err);
	if (r == 0) {
		pthread_mutex_lock(&img->lock);
		q->file_clusters = end;
		pthread_mutex_unlock(&img->lock);
	}
	return r;
}

static int shrink(struct plt_image *img, uint64_t size, struct plt_error *err)
{
	bool in_order = qcow2_rule(img, QCOW2_RULE_SHRINK);
	int r = walk(img, SURVEY, size, err);

	if (r == 0)
		r = qcow2_bitmaps_resize(img, size, err);
	if (r == 0 && !in_order)
		r = walk(img, REMOVE, size, err);
	if (r == 0)
		r = write_size(img, size, err);
	if (r < 0)
		return r;
	atomic_store(&img->size, size);
	if (in_order)
		r = walk(img, REMOVE, size, err);
	if (r == 0)
		r = qcow2_cut_file(img, err);
	if (r == 0 && img->data != img->file && img->data->limits.can_grow)
		r = plt_store_truncate(img->data, size, err);
	if (r < 0)
		plt_error_prefix(err, "The disk is smaller now, but not all of what it gave up could be freed");
	return r;
}

int qcow2_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t old = plt_align_down(q->virtual_size, 512);
	enum qcow2_prealloc mode;
	int r = parse_mode(preallocation, &mode, err);

	if (r == 0)
		r = check_resize(img, size, err);
	if (r < 0 || size < old)
		return r < 0 ? r : shrink(img, size, err);
	if (mode != QCOW2_PREALLOC_OFF)
		r = preallocate(img, old, size, mode, err);
	if (r == 0)
		r = qcow2_bitmaps_resize(img, size, err);
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	if (r == 0 && q->virtual_size != size)
		r = write_size(img, size, err);
	if (r == 0) {
		atomic_store(&img->size, size);
		return 0;
	}
	/* what was begun behind the end goes again, as far as that is possible */
	(void)qcow2_bitmaps_resize(img, old, NULL);
	(void)walk(img, REMOVE, old, NULL);
	return r;
}
