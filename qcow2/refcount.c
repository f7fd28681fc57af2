/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Reference counts of host clusters: reading and changing them through the cache, finding free
 * clusters, and growing the two-level structure that holds them.
 *
 * A cluster is free if its count in memory is 0.  Counts are raised when a place is taken and lowered
 * only when the drop of a reference is durable and nobody can be using the cluster any more
 * (qcow2_release, called when it leaves limbo); then the host is told to punch it first, while its
 * count still keeps it from being taken.
 *
 * A new refcount block lives in the first cluster of the region that it counts (nothing in use can
 * lie there, for it would have a block), and is on disk, counting itself, before its table entry is.
 */
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/counts.h"
#include "qcow2/mapping.h"

/* ---- single counts --------------------------------------------------------------------------- */

/* Counts in one slice of a refcount block; a power of two. */
static uint64_t per_slice(const struct plt_image *img)
{
	return (uint64_t)img->slice * 8 >> qcow2_of(img)->refcount_order;
}

uint64_t qcow2_count_read(const struct plt_image *img, struct plt_block *b, uint64_t cluster)
{
	return qcow2_count_load(plt_block_data(b), qcow2_of(img)->refcount_order, cluster & (per_slice(img) - 1));
}

void qcow2_count_write(const struct plt_image *img, struct plt_block *b, uint64_t cluster, uint64_t count)
{
	qcow2_count_store(plt_block_data(b), qcow2_of(img)->refcount_order, cluster & (per_slice(img) - 1), count);
}

uint64_t qcow2_table_entries(const struct qcow2_state *q)
{
	return (uint64_t)q->reftable_clusters << (q->cluster_bits - 3);
}

int qcow2_count_block(struct plt_image *img, struct plt_pins *pins, uint64_t cluster, struct plt_block **ret_refblock,
		      struct plt_block **ret_reftable, struct plt_need *need, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t index = cluster >> q->rb_bits, at = q->reftable_offset + index * 8, entry, off, first;
	int r;

	*ret_refblock = NULL;
	if (index >= qcow2_table_entries(q))
		return 0;
	r = plt_meta_get(img, pins, &qcow2_reftable_type, at, ret_reftable, need, err);
	if (r < 0)
		return r;
	entry = plt_block_get64(*ret_reftable, (unsigned)(at % img->slice / 8));
	off = entry & QCOW2_REFTABLE_OFFSET;
	if (!off && !entry)
		return 0;
	if (entry & QCOW2_REFTABLE_RESERVED || off & (q->cluster_size - 1) || off >= QCOW2_MAX_HOST_OFFSET ||
	    qcow2_on_metadata(q, off, q->cluster_size) || !qcow2_guard_is(q, off, QCOW2_META_REFBLOCK))
		return plt_error_set(err, EUCLEAN, "'%s': refcount table entry %" PRIu64 " (%#" PRIx64
				     "): not the offset of a refcount block", img->name, index, entry);
	first = cluster & ((UINT64_C(1) << q->rb_bits) - 1);
	return plt_meta_get(img, pins, &qcow2_refblock_type, off + (first << q->refcount_order >> 3), ret_refblock,
			    need, err);
}

/* Blocking; NULL where a block is missing.  Pins are the caller's. */
static int count_block_wait(struct plt_image *img, struct plt_pins *pins, uint64_t cluster,
			    struct plt_block **ret_refblock, struct plt_block **ret_reftable, struct plt_error *err)
{
	struct plt_need need;
	int r;

	for (;;) {
		r = qcow2_count_block(img, pins, cluster, ret_refblock, ret_reftable, &need, err);
		if (r != -EAGAIN)
			return r;
		r = plt_meta_load_wait(img, need.block, err);
		if (r < 0)
			return r;
	}
}

int qcow2_count_block_wait(struct plt_image *img, struct plt_pins *pins, uint64_t cluster, struct plt_block **ret,
			   struct plt_error *err)
{
	struct plt_block *rt;

	return count_block_wait(img, pins, cluster, ret, &rt, err);
}

int qcow2_count_get(struct plt_image *img, uint64_t host_off, uint64_t *ret, struct plt_error *err)
{
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_block *rb, *rt;
	uint64_t cluster = host_off >> qcow2_of(img)->cluster_bits;
	int r = count_block_wait(img, &pins, cluster, &rb, &rt, err);

	if (r == 0) {
		pthread_mutex_lock(&img->lock);
		*ret = rb ? qcow2_count_read(img, rb, cluster) : 0;
		pthread_mutex_unlock(&img->lock);
	}
	plt_pins_drop(&pins);
	return r;
}

bool qcow2_counts_at_least(struct plt_image *img, uint64_t n)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t slice = per_slice(img), counted = 0, size, last;

	if (plt_store_size(img->file, &size, NULL) < 0)
		return false;
	last = PLT_MIN(plt_div_up(size, q->cluster_size), qcow2_table_entries(q) << q->rb_bits);
	for (uint64_t c = 0; c < last && counted < n;) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		uint64_t end = PLT_MIN((c | (slice - 1)) + 1, last);
		struct plt_block *rb, *rt;
		int r = count_block_wait(img, &pins, c, &rb, &rt, NULL);

		if (r == 0 && rb) {
			pthread_mutex_lock(&img->lock);
			for (; c < end; c++)
				counted += qcow2_count_read(img, rb, c) != 0;
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
		if (r < 0)
			return false;
		/* (where a whole block is missing, none of its slices is looked for) */
		c = rb ? end : (c | ((UINT64_C(1) << q->rb_bits) - 1)) + 1;
	}
	return counted >= n;
}

int qcow2_count_add(struct plt_image *img, uint64_t host_off, uint64_t len, int delta, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t last = (host_off + len - 1) >> q->cluster_bits;
	int r = 0;

	for (uint64_t c = host_off >> q->cluster_bits; r == 0 && c <= last; c++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *rb, *rt;
		uint64_t count;

		r = count_block_wait(img, &pins, c, &rb, &rt, err);
		if (r == 0 && !rb)
			r = plt_error_set(err, EUCLEAN, "'%s': host cluster %" PRIu64 " is in use but has no refcount",
					  img->name, c);
		if (r == 0) {
			pthread_mutex_lock(&img->lock);
			count = qcow2_count_read(img, rb, c);
			if (delta > 0 ? count > q->refcount_max - (uint64_t)delta : count < (uint64_t)-delta) {
				r = plt_error_set(err, EUCLEAN, "'%s': refcount %" PRIu64 " of host cluster %" PRIu64
						  " cannot change by %d", img->name, count, c, delta);
			} else {
				qcow2_count_write(img, rb, c, count + (uint64_t)(int64_t)delta);
				plt_block_dirty(rb);
				if (count + (uint64_t)(int64_t)delta == 0 && c < q->free_hint)
					q->free_hint = c;
			}
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
	}
	return r;
}

/* ---- finding free clusters ------------------------------------------------------------------- */

bool qcow2_is_fresh(const struct plt_image *img, uint64_t cluster)
{
	return cluster >= qcow2_of(img)->file_clusters && img->file->limits.new_is_zero;
}

uint64_t qcow2_cluster_limit(struct plt_image *img)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t size, most = QCOW2_MAX_HOST_OFFSET >> q->cluster_bits;

	if (img->file->limits.can_grow || plt_store_size(img->file, &size, NULL) < 0)
		return most;
	return PLT_MIN(most, size >> q->cluster_bits);
}

int qcow2_find_free(struct plt_image *img, struct plt_pins *pins, uint64_t n, struct qcow2_found *ret,
		    struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t slice = per_slice(img), limit = qcow2_cluster_limit(img), c = q->free_hint;

	while (c < limit) {
		uint64_t end = PLT_MIN((c | (slice - 1)) + 1, limit), first;
		struct plt_block *rb, *rt;
		int r;

		if (c >> q->rb_bits >= qcow2_table_entries(q)) {
			*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = QCOW2_WORK_GROW_REFTABLE,
						   .arg = (c >> q->rb_bits) + 1, .exclusive = true };
			return -EAGAIN;
		}
		r = qcow2_count_block(img, pins, c, &rb, &rt, need, err);
		if (r < 0)
			return r;
		if (!rb) {
			*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = QCOW2_WORK_NEW_REFBLOCK,
						   .arg = c >> q->rb_bits, .exclusive = true };
			return -EAGAIN;
		}
		while (c < end && qcow2_count_read(img, rb, c))
			c++;
		if (c == end) {
			q->free_hint = c; /* none below is free: known, not changed */
			plt_pins_remove(pins, rb);
			plt_pins_remove(pins, rt);
			continue;
		}
		first = c;
		while (c < end && c - first < n && !qcow2_count_read(img, rb, c))
			c++;
		/* counts that call the header or a table free are wrong for more than that */
		if (qcow2_guard_find(q, first << q->cluster_bits, (c - first) << q->cluster_bits, &first))
			return qcow2_unsafe(first, need);
		*ret = (struct qcow2_found){ first, c - first, rb, rt };
		return 0;
	}
	if (plt_limbo_room(img) < PLT_LIMBO_CAPACITY) {
		*need = (struct plt_need){ .kind = PLT_NEED_LIMBO };
		q->free_hint = 0;
		return -EAGAIN;
	}
	return plt_error_set(err, ENOSPC, "'%s': no free cluster is left (%" PRIu64 " clusters)", img->name, limit);
}

void qcow2_take(struct plt_image *img, const struct qcow2_found *f)
{
	struct qcow2_state *q = qcow2_of(img);

	for (uint64_t i = 0; i < f->n; i++)
		qcow2_count_write(img, f->refblock, f->cluster + i, 1);
	plt_block_dirty(f->refblock);
	if (q->free_hint == f->cluster)
		q->free_hint = f->cluster + f->n;
	q->file_clusters = PLT_MAX(q->file_clusters, f->cluster + f->n);
}

void qcow2_give_back(struct plt_image *img, const struct qcow2_found *f)
{
	struct qcow2_state *q = qcow2_of(img);

	for (uint64_t i = 0; i < f->n; i++)
		qcow2_count_write(img, f->refblock, f->cluster + i, 0);
	plt_block_dirty(f->refblock);
	q->free_hint = PLT_MIN(q->free_hint, f->cluster);
}

/* ---- growing --------------------------------------------------------------------------------- */

int qcow2_write_refblock(struct plt_image *img, uint64_t host_off, uint64_t first, uint64_t n, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *buf = calloc(1, q->cluster_size);

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (uint64_t i = first; i < first + n; i++) {
		uint64_t bit = i << q->refcount_order;

		if (q->refcount_order < 3)
			buf[bit >> 3] |= (uint8_t)(1u << (bit & 7));
		else /* big-endian: the last byte of the entry */
			buf[(bit >> 3) + (q->refcount_bits >> 3) - 1] = 1;
	}
	return plt_store_write(img->file, host_off, buf, q->cluster_size, PLT_IO_REFBLOCK, err);
}

int qcow2_new_refblock(struct plt_image *img, uint64_t index, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	uint64_t cluster = index << q->rb_bits, host_off = cluster << q->cluster_bits;
	uint64_t at = q->reftable_offset + index * 8, table;
	struct plt_block *rt;
	int r;

	r = plt_meta_get_wait(img, &pins, &qcow2_reftable_type, at, &rt, err);
	if (r < 0)
		goto out;
	if (plt_block_get64(rt, (unsigned)(at % img->slice / 8)))
		goto out; /* somebody was faster */
	if (cluster >= qcow2_cluster_limit(img)) {
		r = plt_error_set(err, ENOSPC, "'%s': no room for a refcount block", img->name);
		goto out;
	}
	r = qcow2_guard_reserve(img, 1, err);
	if (r < 0)
		goto out;
	if (qcow2_guard_find(q, host_off, q->cluster_size, &table)) { /* it has no count, then */
		r = qcow2_mark_corrupt(img, table, err);
		goto out;
	}
	plt_meta_forget(img, host_off, q->cluster_size);
	r = qcow2_write_refblock(img, host_off, 0, 1, err);
	if (r < 0)
		goto out;
	pthread_mutex_lock(&img->lock);
	if (plt_block_room(rt) < 1) {
		pthread_mutex_unlock(&img->lock);
		r = plt_meta_flush(img, false, err);
		if (r < 0)
			goto out;
		pthread_mutex_lock(&img->lock);
	}
	qcow2_guard_add(img, host_off, QCOW2_META_REFBLOCK);
	plt_block_set64(rt, (unsigned)(at % img->slice / 8), host_off);
	plt_block_dirty(rt);
	if (qcow2_rule(img, QCOW2_RULE_BLOCK_TABLE))
		plt_block_after_sync(rt, img->file);
	q->file_clusters = PLT_MAX(q->file_clusters, cluster + 1);
	pthread_mutex_unlock(&img->lock);
out:
	plt_pins_drop(&pins);
	return r;
}

int qcow2_grow_reftable(struct plt_image *img, uint64_t entries, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t old_entries = qcow2_table_entries(q), start = old_entries << q->rb_bits;
	uint64_t old_off = q->reftable_offset, old_len = (uint64_t)q->reftable_clusters << q->cluster_bits;
	uint64_t per_cluster = q->cluster_size / 8, table_clusters, blocks = 0, table_off;
	PLT_AUTOFREE uint8_t *table = NULL;
	int r;

	if (old_entries >= entries)
		return 0;
	/* half as much again, so that growth stays rare; the new blocks must count themselves and the table */
	table_clusters = plt_div_up(PLT_MAX(entries + 1, old_entries + old_entries / 2), per_cluster);
	for (uint64_t need = 1; blocks != need; need = plt_div_up(blocks + table_clusters, UINT64_C(1) << q->rb_bits)) {
		blocks = need;
		table_clusters = PLT_MAX(table_clusters, plt_div_up(old_entries + blocks + 1, per_cluster));
	}
	if (table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE_BYTES ||
	    start + blocks + table_clusters > qcow2_cluster_limit(img))
		return plt_error_set(err, ENOSPC, "'%s': the refcount table cannot grow beyond %" PRIu64 " entries",
				     img->name, old_entries);
	r = qcow2_guard_reserve(img, blocks, err);
	if (r < 0)
		return r;
	/* metadata that the refcount table does not reach */
	if (qcow2_guard_find(q, start << q->cluster_bits, (blocks + table_clusters) << q->cluster_bits, &table_off))
		return qcow2_mark_corrupt(img, table_off, err);
	r = plt_meta_flush(img, true, err);
	if (r < 0)
		return r;
	table = calloc(table_clusters, q->cluster_size);
	if (!table)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_store_read(img->file, old_off, table, (size_t)old_len, PLT_IO_REFTABLE, err);
	plt_meta_forget(img, start << q->cluster_bits, (blocks + table_clusters) << q->cluster_bits);
	for (uint64_t i = 0, left = blocks + table_clusters; r == 0 && i < blocks; i++) {
		uint64_t n = PLT_MIN(left, UINT64_C(1) << q->rb_bits), off = (start + i) << q->cluster_bits;

		plt_put_be64(table + (old_entries + i) * 8, off);
		r = qcow2_write_refblock(img, off, 0, n, err);
		left -= n;
	}
	table_off = (start + blocks) << q->cluster_bits;
	if (r == 0)
		r = plt_store_write(img->file, table_off, table, (size_t)(table_clusters << q->cluster_bits),
				    PLT_IO_REFTABLE, err);
	if (r == 0 && qcow2_rule(img, QCOW2_RULE_GROW_REFTABLE))
		r = plt_store_sync(img->file, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	q->reftable_offset = table_off;
	q->reftable_clusters = (uint32_t)table_clusters;
	q->file_clusters = PLT_MAX(q->file_clusters, start + blocks + table_clusters);
	for (uint64_t i = 0; i < blocks; i++)
		qcow2_guard_add(img, (start + i) << q->cluster_bits, QCOW2_META_REFBLOCK);
	pthread_mutex_unlock(&img->lock);
	r = qcow2_header_switch(img, 48, 60, err);
	if (r < 0) {
		/*
		 * Either header may be on disk.  In memory the old table stays: all that it counts, the new one
		 * counts in the same blocks.  Nothing is freed, and no table is changed, before the header has
		 * been written as it is now (qcow2_header_settle).
		 */
		pthread_mutex_lock(&img->lock);
		q->reftable_offset = old_off;
		q->reftable_clusters = (uint32_t)(old_len >> q->cluster_bits);
		for (uint64_t i = 0; i < blocks; i++)
			(void)qcow2_guard_drop(img, (start + i) << q->cluster_bits);
		pthread_mutex_unlock(&img->lock);
		return r;
	}
	if (qcow2_rule(img, QCOW2_RULE_FORGET))
		plt_meta_forget(img, old_off, old_len);
	return qcow2_count_add(img, old_off, old_len, -1, err);
}

/* ---- what leaves limbo ----------------------------------------------------------------------- */

/* Clusters [c, c+n) have count 1 and are being given up: punch, then count 0. */
static int free_row(struct plt_image *img, uint64_t c, uint64_t n, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t off = c << q->cluster_bits, len = n << q->cluster_bits;

	int r;

	if (!n)
		return 0;
	if (qcow2_rule(img, QCOW2_RULE_FORGET))
		plt_meta_forget(img, off, len);
	if (qcow2_rule(img, QCOW2_RULE_GONE_REUSE)) {
		(void)plt_store_discard(img->file, off, len, NULL); /* advice; the space stays ours if refused */
		return qcow2_count_add(img, off, len, -1, err);
	}
	r = qcow2_count_add(img, off, len, -1, err);
	(void)plt_store_discard(img->file, off, len, NULL);
	return r;
}

int qcow2_release(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t first = host_off >> q->cluster_bits, last = (host_off + len - 1) >> q->cluster_bits;
	uint64_t row = first, n = 0;
	int r = 0;

	if (atomic_load(&q->corrupt))
		return 0; /* it leaks */
	for (uint64_t c = first; r == 0 && c <= last; c++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *rb, *rt;
		uint64_t count;
		bool keep;

		if (kind != QCOW2_LIMBO_TABLE && qcow2_guarded(q, c << q->cluster_bits, q->cluster_size)) {
			r = free_row(img, row, n, err); /* a table that came to lie there: not ours to free */
			n = 0;
			continue;
		}
		r = count_block_wait(img, &pins, c, &rb, &rt, err);
		if (r < 0) {
			plt_pins_drop(&pins);
			break;
		}
		/* in one step: a write that is packed into it in between would be punched with it */
		pthread_mutex_lock(&img->lock);
		count = rb ? qcow2_count_read(img, rb, c) : 0;
		if ((count <= 1 || !qcow2_rule(img, QCOW2_RULE_PUNCH_AT_ZERO)) &&
		    qcow2_rule(img, QCOW2_RULE_COMPRESSED_TAIL) && q->comp_tail &&
		    (q->comp_tail - 1) >> q->cluster_bits == c)
			q->comp_tail = 0; /* nothing more may be packed into it */
		/* a count of 1 that other L1 entries belie: the table stays, and leaks when they are gone too */
		keep = kind == QCOW2_LIMBO_TABLE && !qcow2_guard_drop(img, c << q->cluster_bits) && count <= 1;
		pthread_mutex_unlock(&img->lock);
		plt_pins_drop(&pins);
		if (!keep && (count == 1 || !qcow2_rule(img, QCOW2_RULE_PUNCH_AT_ZERO))) {
			if (!n)
				row = c;
			n++;
			continue;
		}
		r = free_row(img, row, n, err);
		n = 0;
		if (r == 0 && !keep)
			r = qcow2_count_add(img, c << q->cluster_bits, q->cluster_size, -1, err);
	}
	if (r == 0)
		r = free_row(img, row, n, err);
	return r;
}

/*
 * A header in doubt is written again: a size that says less than the disk has would take with it what this
 * flush promises.  And the last cluster is given its full length: what lies behind the last write reads as
 * zeros in any case, but a file that ends inside a cluster looks like one that was cut.  Other requests may
 * be writing there at this moment, so this is an allocation, which changes no byte and never shortens.
 */
int qcow2_before_sync(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t size, want;
	int r = qcow2_header_settle(img, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	want = q->file_clusters << q->cluster_bits;
	pthread_mutex_unlock(&img->lock);
	if (!img->file->limits.can_grow)
		return 0;
	r = plt_store_size(img->file, &size, err);
	if (r == 0 && size < want)
		(void)plt_store_allocate(img->file, size, want - size, NULL); /* where it cannot: a short end */
	return r;
}
