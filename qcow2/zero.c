/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Zeroing and discarding whole clusters, and zeroing subclusters, by changing their entries.
 *
 * A discarded cluster never lets the backing file show through: in version 3 it becomes a zero
 * cluster; in version 2, which has none, it becomes unallocated only where there is no backing file.
 * Counts are not touched here: the host clusters go to limbo and are freed when the new entries are
 * durable.  With an external data file places are fixed: the range is zeroed there, under the range
 * lock, before the call returns.
 */
#include "base/checked.h"
#include "base/error.h"
#include "qcow2/mapping.h"

struct op {
	bool discard, unmap, uncover;
};

static bool is_external(const struct plt_image *img)
{
	return qcow2_of(img)->external;
}

static bool reads_zero(struct plt_image *img, struct qcow2_entry e, uint64_t off)
{
	const struct qcow2_state *q = qcow2_of(img);

	if (e.word & QCOW2_COMPRESSED)
		return false;
	if (q->extl2)
		return e.bitmap == UINT64_C(0xffffffff00000000) || (!img->has_backing && !(uint32_t)e.bitmap);
	switch (qcow2_entry_kind(img, e, off, 0)) {
	case QCOW2_ZERO_PLAIN:
	case QCOW2_ZERO_KEPT:
		return true;
	case QCOW2_ABSENT:
		return !img->has_backing;
	default:
		return false;
	}
}

static bool has_cluster(struct qcow2_entry e)
{
	return e.word & (QCOW2_COMPRESSED | QCOW2_L2_OFFSET);
}

static struct qcow2_entry zero_entry(const struct plt_image *img, struct qcow2_entry old, bool keep)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_entry e = { keep ? old.word & ~QCOW2_L2_ZERO : 0, 0 };

	if (q->version < 3)
		return (struct qcow2_entry){ 0, 0 }; /* absent: only without a backing file */
	if (q->extl2)
		e.bitmap = UINT64_C(0xffffffff00000000);
	else
		e.word |= QCOW2_L2_ZERO;
	return e;
}

/* Zeros that were asked for are recorded as such even where nothing is below, as QEMU does. */
static bool say_zero(const struct plt_image *img, const struct op *op, struct qcow2_entry old)
{
	return !op->discard && !old.word && !old.bitmap && qcow2_of(img)->version >= 3;
}

/* What the entry becomes; false: it stays. */
static bool change_entry(struct plt_image *img, const struct op *op, struct qcow2_entry old, uint64_t off,
			 struct qcow2_entry *ret)
{
	bool free_it = op->discard || op->unmap;
	/* without freeing, a cluster of our own is kept for the next write */
	bool keep = !free_it && old.word & QCOW2_COPIED && !(old.word & QCOW2_COMPRESSED) &&
		    qcow2_of(img)->version >= 3;

	if (op->uncover) {
		*ret = (struct qcow2_entry){ 0, 0 };
		return old.word || old.bitmap;
	}
	if (reads_zero(img, old, off) && !(free_it && has_cluster(old)) && !say_zero(img, op, old))
		return false;
	*ret = zero_entry(img, old, keep);
	return true;
}

/*
 * Some subclusters of an extended entry become zero.  Nothing is freed: the others may lie in the cluster,
 * and what lies in these is stale from now on.
 */
static bool change_subclusters(const struct qcow2_state *q, struct qcow2_entry old, uint64_t off, uint64_t len,
			       struct qcow2_entry *ret)
{
	uint64_t mask = qcow2_sub_mask(q, off, len);

	*ret = (struct qcow2_entry){ old.word, (old.bitmap & ~mask) | mask << 32 };
	return ret->bitmap != old.bitmap;
}

/*
 * The entries of one L2 slice, or of a missing table, from @off on.  *ret_done: bytes dealt with.
 */
static int do_slice(struct plt_image *img, const struct op *op, uint64_t off, uint64_t len, uint64_t *ret_done,
		    struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	unsigned l1_shift = q->cluster_bits + q->l2_bits, per_slice = img->slice / q->l2_entry_size, word;
	uint64_t index = off >> l1_shift, l2_index, l1, n, table;
	struct plt_block *b;
	bool dirty = false;
	int r;

	*ret_done = 0;
	if (atomic_load(&q->corrupt))
		return qcow2_refuse_corrupt(img, err);
	r = plt_meta_get_wait(img, &pins, &qcow2_l1_type, q->l1_offset + index * 8, &b, err);
	if (r < 0)
		goto out;
	word = (unsigned)((q->l1_offset + index * 8) % img->slice / 8);
	l1 = plt_block_get64(b, word);
	r = qcow2_l1_check(img, index, l1, err);
	if (r < 0)
		goto out;
	if (!(l1 & QCOW2_L1_OFFSET) && (op->uncover || (!img->has_backing && (op->discard || q->version < 3)))) {
		*ret_done = PLT_MIN(len, ((index + 1) << l1_shift) - off); /* nothing here */
		goto out;
	}
	if (!(l1 & QCOW2_L1_OFFSET) || !(l1 & QCOW2_COPIED)) {
		*need = (struct plt_need){ .kind = PLT_NEED_WORK, .arg = index, .exclusive = true,
					   .code = l1 & QCOW2_L1_OFFSET ? QCOW2_WORK_UNSHARE_L2 : QCOW2_WORK_NEW_L2 };
		r = -EAGAIN;
		goto out;
	}
	if (!qcow2_guard_is(q, l1 & QCOW2_L1_OFFSET, QCOW2_META_ACTIVE_L2)) {
		r = qcow2_unsafe(l1 & QCOW2_L1_OFFSET, need);
		goto out;
	}
	l2_index = off >> q->cluster_bits & ((UINT64_C(1) << q->l2_bits) - 1);
	r = plt_meta_get_wait(img, &pins, &qcow2_l2_type, (l1 & QCOW2_L1_OFFSET) + l2_index * q->l2_entry_size, &b, err);
	if (r < 0)
		goto out;
	pthread_mutex_lock(&img->lock);
	for (unsigned i = (unsigned)(l2_index % per_slice); *ret_done < len && i < per_slice; i++) {
		struct qcow2_entry old = qcow2_entry_get(q, b, i), e;
		bool part;

		n = PLT_MIN(len - *ret_done, q->cluster_size - (off & (q->cluster_size - 1)));
		/* (a cluster that the disk's end cuts is a whole one) */
		part = n < q->cluster_size && q->extl2 &&
		       (off & (q->cluster_size - 1) || off + n != atomic_load(&img->size));
		if (qcow2_entry_unsafe(img, old, &table)) {
			r = qcow2_unsafe(table, need);
			break;
		}
		if (qcow2_entry_bad(img, old, off)) {
			r = plt_error_set(err, EIO, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
					  " is corrupt; nothing is written over it", img->name, old.word, off);
			break;
		}
		if (part && old.word & QCOW2_COMPRESSED) {
			r = -ENOTSUP;
			break;
		}
		if (part ? change_subclusters(q, old, off, n, &e) : change_entry(img, op, old, off, &e)) {
			if (!part && !plt_limbo_room(img)) {
				*need = (struct plt_need){ .kind = PLT_NEED_LIMBO };
				r = -EAGAIN;
				break;
			}
			qcow2_entry_set(q, b, i, e);
			if (!part && !(e.word & QCOW2_L2_OFFSET))
				qcow2_drop_old(img, old);
			dirty = true;
		}
		*ret_done += n;
		off += n;
	}
	if (dirty)
		plt_block_dirty(b);
	pthread_mutex_unlock(&img->lock);
out:
	plt_pins_drop(&pins);
	return r;
}

static int change(struct plt_image *img, const struct op *op, uint64_t off, uint64_t len, uint64_t *ret_done,
		  struct plt_need *need, struct plt_error *err)
{
	while (*ret_done < len) {
		uint64_t done;
		int r = do_slice(img, op, off + *ret_done, len - *ret_done, &done, need, err);

		*ret_done += done;
		if (r < 0)
			return r;
	}
	return 0;
}

int qcow2_write_zeroes(struct plt_image *img, uint64_t off, uint64_t len, bool unmap, uint64_t *ret_done,
		       struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct op op = { .unmap = unmap };

	*ret_done = 0;
	if (is_external(img))
		return -ENOTSUP; /* zeros go to the data file, as data */
	if (q->version < 3 && img->has_backing)
		return -ENOTSUP;
	return change(img, &op, off, len, ret_done, need, err);
}

int qcow2_discard(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
		  struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct op op = { .discard = true };
	int r;

	*ret_done = 0;
	if (q->version < 3 && img->has_backing)
		return -ENOTSUP;
	if (is_external(img)) {
		/* the place stays mapped, or stays absent; what is there becomes zeros */
		if (img->has_backing || q->cipher) /* (zeros are decrypted to anything) */
			return -ENOTSUP;
		r = plt_store_zero(img->data, off, len, PLT_ZERO_MAY_UNMAP | PLT_ZERO_NO_FALLBACK, PLT_IO_DATA, err);
		if (r == 0)
			*ret_done = len;
		return r;
	}
	return change(img, &op, off, len, ret_done, need, err);
}

int qcow2_uncover(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done, struct plt_need *need,
		  struct plt_error *err)
{
	struct op op = { .uncover = true };

	*ret_done = 0;
	/* (in a data file the place stays, and what is in it) */
	return is_external(img) ? -ENOTSUP : change(img, &op, off, len, ret_done, need, err);
}
