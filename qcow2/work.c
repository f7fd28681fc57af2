/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Exclusive work of a write that needs more than memory: a new L2 table, a copy of one that a snapshot shares,
 * a refcount block, a larger refcount table.  The gate is closed and epochs have drained, so nobody publishes
 * meanwhile.  A new table is on its way to the disk before the L1 entry that names it, which comes behind it and
 * its counts; a table that is copied has nothing pending.
 */
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mapping.h"

/* A free cluster for a table, its counts' blocks pinned. */
static int take_cluster(struct plt_image *img, struct plt_pins *pins, struct qcow2_found *f, bool *fresh,
			struct plt_error *err)
{
	struct plt_need need = { 0 };
	int r;

	for (;;) {
		if (pins->n > PLT_PINS_MAX - PLT_PINS_PLACE)
			plt_pins_drop(pins);
		pthread_mutex_lock(&img->lock);
		r = qcow2_find_free(img, pins, 1, f, &need, err);
		if (r == 0) {
			*fresh = qcow2_is_fresh(img, f->cluster);
			qcow2_take(img, f);
		}
		pthread_mutex_unlock(&img->lock);
		if (r != -EAGAIN)
			return r;
		if (need.kind == PLT_NEED_LIMBO)
			return plt_error_set(err, ENOSPC, "'%s': no free cluster is left", img->name);
		r = need.kind == PLT_NEED_LOAD ? plt_meta_load_wait(img, need.block, err) :
						 qcow2_work(img, need.code, need.arg, err);
		if (r < 0)
			return r;
	}
}

/* Put a new L2 table (already on its way to the disk) into the L1. */
static int switch_l1(struct plt_image *img, struct plt_pins *pins, uint64_t index, const struct qcow2_found *f,
		     struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_block *l1;
	unsigned word = (unsigned)((q->l1_offset + index * 8) % img->slice / 8);
	int r = plt_meta_get_wait(img, pins, &qcow2_l1_type, q->l1_offset + index * 8, &l1, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	if (plt_block_room(l1) < 3) {
		pthread_mutex_unlock(&img->lock);
		r = plt_meta_flush(img, false, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&img->lock);
	}
	qcow2_guard_add(img, f->cluster << q->cluster_bits, QCOW2_META_ACTIVE_L2);
	plt_block_set64(l1, word, f->cluster << q->cluster_bits | QCOW2_COPIED);
	plt_block_dirty(l1);
	if (!q->lazy && qcow2_rule(img, QCOW2_RULE_COUNT_L1))
		plt_block_after_block(l1, f->refblock);
	if (!q->lazy && qcow2_rule(img, QCOW2_RULE_TABLE_PATH))
		plt_block_after_block(l1, f->reftable);
	if (qcow2_rule(img, QCOW2_RULE_TABLE_L1))
		plt_block_after_sync(l1, img->file);
	pthread_mutex_unlock(&img->lock);
	return 0;
}

static int l1_entry(struct plt_image *img, uint64_t index, uint64_t *ret, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_block *l1;
	int r = plt_meta_get_wait(img, &pins, &qcow2_l1_type, q->l1_offset + index * 8, &l1, err);

	if (r == 0)
		*ret = plt_block_get64(l1, (unsigned)((q->l1_offset + index * 8) % img->slice / 8));
	plt_pins_drop(&pins);
	return r;
}

static int new_l2(struct plt_image *img, uint64_t index, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct qcow2_found f;
	uint64_t l1;
	bool fresh;
	int r = l1_entry(img, index, &l1, err);

	if (r < 0 || l1 & QCOW2_L1_OFFSET)
		return r; /* somebody was faster */
	r = qcow2_guard_reserve(img, 1, err);
	if (r == 0)
		r = take_cluster(img, &pins, &f, &fresh, err);
	if (r == 0) {
		/* written even where the file reads zeros already: the file must reach that far */
		r = fresh ? plt_store_zero(img->file, f.cluster << q->cluster_bits, q->cluster_size,
					   PLT_ZERO_MAY_UNMAP, PLT_IO_L2, err) :
			    plt_store_zero(img->file, f.cluster << q->cluster_bits, q->cluster_size, 0, PLT_IO_L2, err);
		if (r == 0)
			r = switch_l1(img, &pins, index, &f, err);
		if (r < 0) {
			pthread_mutex_lock(&img->lock);
			qcow2_give_back(img, &f);
			pthread_mutex_unlock(&img->lock);
		}
	}
	plt_pins_drop(&pins);
	return r;
}

/* A table that a snapshot shares: a copy of our own.  Behind the gate, so nobody publishes meanwhile. */
static int unshare_l2(struct plt_image *img, uint64_t index, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	PLT_AUTOFREE uint8_t *table = NULL;
	struct qcow2_found f;
	uint64_t l1, old;
	bool fresh;
	int r = l1_entry(img, index, &l1, err);

	old = l1 & QCOW2_L1_OFFSET;
	if (r < 0 || !old || l1 & QCOW2_COPIED)
		return r;
	r = qcow2_l1_check(img, index, l1, err);
	if (r == 0)
		r = qcow2_guard_reserve(img, 1, err);
	/* the copy inherits every edge pending on its source: nothing is pending after this */
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	if (r < 0)
		return r;
	table = malloc(q->cluster_size);
	if (!table)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_store_read(img->file, old, table, q->cluster_size, PLT_IO_L2, err);
	if (r < 0)
		return r;
	r = take_cluster(img, &pins, &f, &fresh, err);
	if (r == 0) {
		r = plt_store_write(img->file, f.cluster << q->cluster_bits, table, q->cluster_size, PLT_IO_L2, err);
		if (r == 0)
			r = switch_l1(img, &pins, index, &f, err);
		pthread_mutex_lock(&img->lock);
		if (r < 0)
			qcow2_give_back(img, &f);
		else if (plt_limbo_room(img)) /* else it leaks */
			plt_limbo_add(img, old, q->cluster_size, QCOW2_LIMBO_TABLE);
		pthread_mutex_unlock(&img->lock);
	}
	plt_pins_drop(&pins);
	return r;
}

int qcow2_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err)
{
	int r;

	if (atomic_load(&qcow2_of(img)->corrupt))
		return qcow2_refuse_corrupt(img, err);
	if (code == QCOW2_WORK_MARK_CORRUPT)
		return qcow2_mark_corrupt(img, arg, err);
	r = qcow2_header_settle(img, err);
	if (r < 0)
		return r;
	switch (code) {
	case QCOW2_WORK_NEW_L2:
		return new_l2(img, arg, err);
	case QCOW2_WORK_UNSHARE_L2:
		return unshare_l2(img, arg, err);
	case QCOW2_WORK_NEW_REFBLOCK:
		return qcow2_new_refblock(img, arg, err);
	default:
		return qcow2_grow_reftable(img, arg, err);
	}
}
