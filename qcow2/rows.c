/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Rows of clusters for tables: exclusive, blocking.  A row may cross blocks of counts as long as it is shorter
 * than what one covers; a longer one brings the blocks that it needs along, in front of it.  On failure
 * nothing is taken.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

/*
 * The blocks [index, index+k) of counts that have been written: into the table, behind them.  *ret_done of them are
 * there, also on failure.
 */
static int hook_up(struct plt_image *img, uint64_t index, uint64_t k, uint64_t host_off, uint64_t *ret_done,
		   struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = 0;

	for (*ret_done = 0; r == 0 && *ret_done < k;) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		uint64_t at = q->reftable_offset + (index + *ret_done) * 8;
		struct plt_block *rt;

		r = plt_meta_get_wait(img, &pins, &qcow2_reftable_type, at, &rt, err);
		if (r == 0 && plt_block_room(rt) < 1)
			r = plt_meta_flush(img, false, err);
		if (r == 0) {
			pthread_mutex_lock(&img->lock);
			do {
				plt_block_set64(rt, (unsigned)(at % img->slice / 8), host_off + (*ret_done << q->cluster_bits));
				qcow2_guard_add(img, host_off + (*ret_done << q->cluster_bits), QCOW2_META_REFBLOCK);
				at += 8;
			} while (++*ret_done < k && at % img->slice);
			plt_block_dirty(rt);
			if (qcow2_rule(img, QCOW2_RULE_BLOCK_TABLE))
				plt_block_after_sync(rt, img->file);
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
	}
	return r;
}

/* Is no block of counts there for [index, index+k)? */
static int is_uncounted(struct plt_image *img, uint64_t index, uint64_t k, bool *ret, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = 0;

	*ret = true;
	for (uint64_t i = index; r == 0 && *ret && i < index + k; i++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		uint64_t at = q->reftable_offset + i * 8;
		struct plt_block *rt;

		r = plt_meta_get_wait(img, &pins, &qcow2_reftable_type, at, &rt, err);
		if (r == 0)
			*ret = !plt_block_get64(rt, (unsigned)(at % img->slice / 8));
		plt_pins_drop(&pins);
	}
	return r;
}

/*
 * A row longer than what one block of counts covers: behind everything, with all the blocks that it needs in
 * front of it.  They count themselves and the row.
 */
static int long_row(struct plt_image *img, uint64_t n, uint64_t *ret_host_off, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t per = UINT64_C(1) << q->rb_bits, k = plt_div_up(n, per - 1), index, start, done = 0, table;
	bool clear = false;
	int r = 0;

	for (index = plt_div_up(q->file_clusters, per); r == 0 && !clear;) {
		if (index + k > qcow2_table_entries(q)) {
			r = qcow2_grow_reftable(img, index + k, err);
			index = PLT_MAX(index, plt_div_up(q->file_clusters, per));
			continue;
		}
		r = is_uncounted(img, index, k, &clear, err);
		if (!clear)
			index++;
	}
	if (r < 0)
		return r;
	start = index << q->rb_bits;
	if (start + k + n > qcow2_cluster_limit(img))
		return plt_error_set(err, ENOSPC, "'%s': no row of %" PRIu64 " free clusters is left", img->name, n);
	r = qcow2_guard_reserve(img, (size_t)k, err);
	if (r < 0)
		return r;
	if (qcow2_guard_find(q, start << q->cluster_bits, (k + n) << q->cluster_bits, &table))
		return qcow2_mark_corrupt(img, table, err);
	plt_meta_forget(img, start << q->cluster_bits, (k + n) << q->cluster_bits);
	for (uint64_t i = 0, left = k + n; r == 0 && i < k; i++) {
		uint64_t counts = PLT_MIN(left, per);

		r = qcow2_write_refblock(img, (start + i) << q->cluster_bits, 0, counts, err);
		left -= counts;
	}
	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	q->file_clusters = PLT_MAX(q->file_clusters, start + k + n);
	pthread_mutex_unlock(&img->lock);
	r = hook_up(img, index, k, start << q->cluster_bits, &done, err);
	if (r < 0) { /* what the blocks that are there count of the row is free again */
		uint64_t end = PLT_MIN(start + k + n, start + (done << q->rb_bits));

		if (end > start + k)
			(void)qcow2_count_add(img, (start + k) << q->cluster_bits, (end - start - k) << q->cluster_bits, -1, NULL);
		return r;
	}
	*ret_host_off = (start + k) << q->cluster_bits;
	return 0;
}

int qcow2_alloc(struct plt_image *img, uint64_t n, uint64_t *ret_host_off, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	uint64_t start = 0, have = 0; /* a row of free clusters that may cross slices */
	int r = qcow2_guard_load(img, err);

	if (r < 0)
		return r;
	if (n >= UINT64_C(1) << q->rb_bits) /* each block counts itself first: no row can be longer */
		return long_row(img, n, ret_host_off, err);
	for (;;) {
		struct plt_need need = { 0 };
		struct qcow2_found f;
		uint64_t hint;

		pthread_mutex_lock(&img->lock);
		hint = q->free_hint;
		if (have)
			q->free_hint = start + have;
		r = qcow2_find_free(img, &pins, n - have, &f, &need, err);
		if (have && q->free_hint == start + have)
			q->free_hint = hint;
		if (r == 0) {
			if (have && f.cluster != start + have) { /* a gap: the row starts anew */
				struct qcow2_found one = { start, 0, NULL, NULL };

				pthread_mutex_unlock(&img->lock);
				plt_pins_drop(&pins);
				r = qcow2_count_add(img, one.cluster << q->cluster_bits, have << q->cluster_bits, -1,
						    err);
				if (r < 0)
					return r;
				have = 0;
				pthread_mutex_lock(&img->lock);
				q->free_hint = PLT_MAX(q->free_hint, f.cluster);
				pthread_mutex_unlock(&img->lock);
				continue;
			}
			if (!have)
				start = f.cluster;
			qcow2_take(img, &f);
			have += f.n;
		}
		pthread_mutex_unlock(&img->lock);
		if (r == -EAGAIN && need.kind == PLT_NEED_LOAD) { /* while the block is still pinned */
			r = plt_meta_load_wait(img, need.block, err);
			plt_pins_drop(&pins);
			if (r == 0)
				continue;
		}
		plt_pins_drop(&pins);
		if (r == 0 && have == n) {
			*ret_host_off = start << q->cluster_bits;
			return 0;
		}
		if (r == -EAGAIN && need.kind == PLT_NEED_WORK)
			r = qcow2_work(img, need.code, need.arg, err);
		else if (r == -EAGAIN)
			r = plt_error_set(err, ENOSPC, "'%s': no free cluster is left", img->name);
		if (r < 0) {
			if (have)
				(void)qcow2_count_add(img, start << q->cluster_bits, have << q->cluster_bits, -1, NULL);
			return r;
		}
	}
}
