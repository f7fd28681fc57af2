/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The recount of a dirty image, when it is opened for writing.  With lazy refcounts the stored
 * counts may be behind the map after a crash; a writer that trusted them would give a cluster away
 * twice.  Counts are only ever raised here: a count that is too high wastes space, and may be the
 * trace of damage that somebody wants to look at.  Whatever is more than a count behind (entries
 * that cannot be right, overlaps, a cluster shared under COPIED) refuses writing and leaves the
 * image as it was.  The image is not in use yet, so this works on the file directly, before the
 * cache holds anything.
 *
 * Order: new refcount blocks and table, raised counts -> table entries -> (header) -> dirty off.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "qcow2/check.h"

struct recover {
	struct plt_image *img;
	struct qcow2_recount c;
	struct plt_error *err;
	uint8_t *table;	  /* one cluster */
	bool *raise;	  /* which refcount blocks need a count raised */
	uint64_t nblocks; /* blocks that the file's clusters (and what is added) need */
	uint64_t end;	  /* first fresh cluster behind the file */
};

static int refuse(struct recover *v, const char *what, uint64_t off)
{
	return plt_error_set(
		v->err, EUCLEAN,
		"The image was not closed cleanly and its counts cannot be brought up to "
		"date: %s (offset %#" PRIx64 "); it can be read, and 'check' says more",
		what, off);
}

/* ---- what must not be ------------------------------------------------------------------------ */

static int judge_allocated(struct recover *v, uint64_t e, uint64_t bitmap)
{
	const struct qcow2_state *q = v->c.q;
	uint64_t off = e & QCOW2_L2_OFFSET, k = off >> q->cluster_bits, stored;

	if ((off & (q->cluster_size - 1)) || (bitmap >> 32 & bitmap))
		return refuse(v, "an L2 entry is damaged", off);
	if (v->c.external)
		return 0;
	if (qcow2_exceeds(&v->c, off, q->cluster_size))
		return refuse(v, "an L2 entry points behind the end of the file", off);
	if (qcow2_is_metadata(&v->c, k))
		return refuse(v, "an L2 entry points into metadata", off);
	if ((e & QCOW2_COPIED) && qcow2_references(&v->c, k) > 1)
		return refuse(v, "a cluster marked as unshared is shared", off);
	if (qcow2_stored_count(&v->c, k, &stored) < 0)
		return refuse(v, "a refcount block cannot be read", off);
	return 0;
}

static int judge_entry(struct recover *v, uint64_t e, uint64_t bitmap)
{
	const struct qcow2_state *q = v->c.q;
	enum qcow2_entry_type type = qcow2_entry_type(&v->c, e);
	uint64_t off, len;

	if (type != QCOW2_ENTRY_COMPRESSED) {
		if ((e & QCOW2_L2_RESERVED) ||
		    ((e & QCOW2_L2_ZERO) && (q->version < 3 || q->extl2)) ||
		    (type == QCOW2_ENTRY_UNALLOCATED && (uint32_t)bitmap))
			return refuse(v, "an L2 entry is damaged", e & QCOW2_L2_OFFSET);
		return type >= QCOW2_ENTRY_ZERO_ALLOC ? judge_allocated(v, e, bitmap) : 0;
	}
	len = qcow2_compressed_range(q, e & ~QCOW2_COPIED, &off);
	if (v->c.external || bitmap || (e & QCOW2_COPIED) || qcow2_exceeds(&v->c, off, len))
		return refuse(v, "a compressed cluster's entry is damaged", off);
	for (uint64_t k = off >> q->cluster_bits; k <= (off + len - 1) >> q->cluster_bits; k++)
		if (qcow2_is_metadata(&v->c, k))
			return refuse(v, "a compressed cluster lies in metadata", off);
	return 0;
}

static int judge_l1_entry(void *arg, uint32_t index, uint64_t e)
{
	struct recover *v = arg;
	const struct qcow2_state *q = v->c.q;
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct qcow2_l2ref *l;
	int r = 0;

	(void)index;
	if ((e & QCOW2_L1_RESERVED) || (off & (q->cluster_size - 1)) || !off ||
	    qcow2_exceeds(&v->c, off, q->cluster_size))
		return refuse(v, "an L1 entry is damaged", off);
	l = qcow2_l2_find(&v->c, off);
	if (!l || l->active > 1 || ((e & QCOW2_COPIED) && l->active + l->others > 1))
		return refuse(v, "an L2 table is shared where it must not be", off);
	qcow2_count(&v->c, off, q->cluster_size, 1);
	if (!l->flagged)
		return 0;
	if (qcow2_l2_read(&v->c, off, v->table) < 0)
		return refuse(v, "an L2 table cannot be read", off);
	for (const uint8_t *p = v->table; !r && p < v->table + q->cluster_size;
	     p += q->l2_entry_size)
		r = judge_entry(v, plt_get_be64(p), q->extl2 ? plt_get_be64(p + 8) : 0);
	return r;
}

/* A count will rise above one: no entry of the active tree may call such a cluster its own. */
static int judge_unshared_entry(void *arg, uint32_t index, uint64_t e)
{
	struct recover *v = arg;
	const struct qcow2_state *q = v->c.q;
	int r = 0;

	(void)index;
	if (qcow2_l2_read(&v->c, e & QCOW2_L1_OFFSET, v->table) < 0)
		return refuse(v, "an L2 table cannot be read", e & QCOW2_L1_OFFSET);
	for (const uint8_t *p = v->table; !r && p < v->table + q->cluster_size;
	     p += q->l2_entry_size) {
		uint64_t l2e = plt_get_be64(p);

		if (!v->c.external && (l2e & QCOW2_COPIED) && (l2e & QCOW2_L2_OFFSET) &&
		    qcow2_references(&v->c, (l2e & QCOW2_L2_OFFSET) >> q->cluster_bits) > 1)
			r = refuse(v, "a cluster marked as unshared is shared",
				   l2e & QCOW2_L2_OFFSET);
	}
	return r;
}

/* COPIED in snapshots' tables is not to be trusted, and not judged. */
static int judge_snapshot_entry(void *arg, uint32_t index, uint64_t e)
{
	struct recover *v = arg;
	const struct qcow2_state *q = v->c.q;
	uint64_t off = e & QCOW2_L1_OFFSET;
	struct qcow2_l2ref *l = qcow2_l2_find(&v->c, off);
	int r = 0;

	(void)index;
	if ((e & QCOW2_L1_RESERVED) || (off & (q->cluster_size - 1)) || !off || !l ||
	    qcow2_exceeds(&v->c, off, q->cluster_size))
		return refuse(v, "an L1 entry of a snapshot is damaged", off);
	qcow2_count(&v->c, off, q->cluster_size, 1);
	if (!l->flagged || l->active)
		return 0;
	if (qcow2_l2_read(&v->c, off, v->table) < 0)
		return refuse(v, "an L2 table cannot be read", off);
	for (const uint8_t *p = v->table; !r && p < v->table + q->cluster_size;
	     p += q->l2_entry_size) {
		e = plt_get_be64(p);
		r = judge_entry(v,
				qcow2_entry_type(&v->c, e) == QCOW2_ENTRY_COMPRESSED
					? e
					: e & ~QCOW2_COPIED,
				q->extl2 ? plt_get_be64(p + 8) : 0);
	}
	return r;
}

/* Mark and count one table; it must lie in the file and on nothing else. */
static int take(struct recover *v, uint64_t off, uint64_t len, const char *what)
{
	const struct qcow2_state *q = v->c.q;

	if (!len)
		return 0;
	if ((off & (q->cluster_size - 1)) || off > INT64_MAX / 2 || len > INT64_MAX / 2 ||
	    qcow2_exceeds(&v->c, off, len))
		return refuse(v, what, off);
	if (!qcow2_mark_metadata(&v->c, off, len))
		return refuse(v, "metadata overlaps other metadata", off);
	qcow2_count(&v->c, off, len, 1);
	return 0;
}

static int take_bitmaps(struct recover *v)
{
	struct qcow2_state *q = qcow2_of(v->img);
	int r;

	if (!q->nb_bitmaps || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	r = take(v, q->bitmap_dir_offset, q->bitmap_dir_size, "the bitmap directory is misplaced");
	if (!r)
		r = qcow2_bitmap_directory(v->c.file, v->c.file_size, q, v->err);
	for (unsigned i = 0; !r && i < q->nbitmaps; i++) {
		const struct qcow2_bitmap *b = &q->bitmaps[i];
		uint64_t bytes = (uint64_t)b->table_size * 8;
		uint8_t buf[4096];

		r = take(v, b->table_offset, bytes, "a bitmap table is misplaced");
		for (uint64_t at = 0; !r && at < bytes; at += sizeof(buf)) {
			uint64_t n = PLT_MIN(sizeof(buf), bytes - at);

			r = plt_store_read(v->c.file, b->table_offset + at, buf, n, PLT_IO_BITMAP,
					   v->err);
			for (uint64_t k = 0; !r && k < n; k += 8) {
				uint64_t off = plt_get_be64(buf + k) & QCOW2_BITMAP_TABLE_OFFSET;

				if (off)
					r = take(v, off, q->cluster_size,
						 "a bitmap's cluster is misplaced");
			}
		}
	}
	qcow2_bitmaps_release(q); /* loaded anew when the image is opened further */
	return r;
}

/* Everything that refers to clusters: counted, and judged. */
static int recount(struct recover *v)
{
	struct qcow2_recount *c = &v->c;
	const struct qcow2_state *q = c->q;
	int r = qcow2_stored_load(c, v->err);

	if (!r)
		r = take(v, 0, q->cluster_size, "header");
	if (!r)
		r = take(v, q->l1_offset, (uint64_t)q->l1_size * 8,
			 "the active L1 table is misplaced");
	if (!r)
		r = take(v, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits,
			 "the refcount table is misplaced");
	if (!r && q->nb_snapshots)
		r = take(v, q->snapshots_offset, q->snapshots_size,
			 "the snapshot table is misplaced");
	if (!r)
		r = take(v, q->luks_offset, q->luks_length, "the encryption header is misplaced");
	for (uint64_t i = 0; !r && i < c->nrt; i++) {
		if (c->rt[i] & QCOW2_REFTABLE_RESERVED)
			r = refuse(v, "a refcount table entry is damaged", c->rt[i]);
		else if (c->rt[i])
			r = take(v, c->rt[i], q->cluster_size, "a refcount table entry is damaged");
	}
	if (!r)
		r = qcow2_l2_collect(c, q->l1_offset, q->l1_size, true, 1);
	for (uint32_t i = 0; !r && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		if (s->l1_size > QCOW2_MAX_L1_BYTES / 8)
			return refuse(v, "a snapshot's L1 table is too large", s->l1_offset);
		r = take(v, s->l1_offset, (uint64_t)s->l1_size * 8,
			 "a snapshot's L1 table is misplaced");
		if (!r)
			r = qcow2_l2_collect(c, s->l1_offset, s->l1_size, false, 1);
	}
	if (!r)
		r = take_bitmaps(v);
	if (r < 0)
		return r;
	qcow2_l2_sort(c);
	for (uint64_t i = 0; i < c->nl2; i++)
		if (c->l2[i].off > INT64_MAX / 2 ||
		    !qcow2_mark_metadata(c, c->l2[i].off, q->cluster_size))
			return refuse(v, "an L2 table overlaps other metadata", c->l2[i].off);
	r = qcow2_l2_scan(c);
	if (!r)
		r = qcow2_l1_each(c, q->l1_offset, q->l1_size, judge_l1_entry, v);
	for (uint32_t i = 0; !r && i < q->nb_snapshots; i++)
		r = qcow2_l1_each(c, q->snapshots[i].l1_offset, q->snapshots[i].l1_size,
				  judge_snapshot_entry, v);
	return r;
}

/* ---- raising --------------------------------------------------------------------------------- */

struct behind {
	struct recover *v;
	bool shared; /* some count rises above one */
	int r;
};

static void count_differs(void *arg, uint64_t cluster, uint64_t stored, uint64_t refs,
			  int unreadable)
{
	struct behind *b = arg;
	struct recover *v = b->v;
	uint64_t off = cluster << v->c.q->cluster_bits;

	if (b->r < 0)
		return;
	if (unreadable) {
		b->r = refuse(v, "a refcount block cannot be read", off);
	} else if (qcow2_references(&v->c, cluster) > v->c.q->refcount_max) {
		b->r = refuse(v, "a cluster has more references than its count can hold", off);
	} else if (stored < refs) {
		v->raise[cluster >> v->c.q->rb_bits] = true;
		b->shared |= refs > 1;
	}
}

static bool has_block(const struct recover *v, uint64_t i)
{
	return i < v->c.nrt && (v->c.rt[i] & QCOW2_REFTABLE_OFFSET);
}

/* Write block @i with every count at least its references; the whole block if it is @fresh. */
static int write_block(struct recover *v, uint64_t i, uint64_t place, bool fresh,
		       uint64_t added_from)
{
	const struct qcow2_state *q = v->c.q;
	uint64_t first = i << q->rb_bits, n = UINT64_C(1) << q->rb_bits;
	int r;

	memset(v->table, 0, q->cluster_size);
	if (!fresh) {
		r = plt_store_read(v->c.file, place, v->table, q->cluster_size, PLT_IO_REFBLOCK,
				   v->err);
		if (r < 0)
			return r;
	}
	for (uint64_t k = 0; k < n; k++) {
		uint64_t refs = qcow2_references(&v->c, first + k);

		if (first + k >= added_from && first + k < v->end)
			refs = 1;
		if (qcow2_count_at(q, v->table, k) < refs)
			qcow2_count_put(q, v->table, k, refs);
	}
	return plt_store_write(v->c.file, place, v->table, q->cluster_size, PLT_IO_REFBLOCK,
			       v->err);
}

/* A refcount table that is too short for the new blocks: a longer one at the end of the file. */
static int write_table(struct recover *v, const uint64_t *rt, uint64_t n, uint64_t clusters,
		       uint64_t place)
{
	const struct qcow2_state *q = v->c.q;
	size_t bytes = (size_t)(clusters << q->cluster_bits);
	uint8_t *buf = calloc(1, bytes);
	int r;

	if (!buf)
		return plt_error_set(v->err, ENOMEM, "Out of memory");
	for (uint64_t i = 0; i < n; i++)
		plt_put_be64(buf + i * 8, rt[i]);
	r = plt_store_write(v->c.file, place, buf, bytes, PLT_IO_REFTABLE, v->err);
	free(buf);
	return r;
}

static int raise_counts(struct recover *v)
{
	struct qcow2_state *q = qcow2_of(v->img);
	uint64_t start = v->end, per = q->cluster_size / 8, table_clusters = 0, table_place = 0, n;
	uint64_t *rt = calloc(v->nblocks ? v->nblocks : 1, 8);
	int r = rt ? 0 : plt_error_set(v->err, ENOMEM, "Out of memory");

	/* Fresh blocks for what has none, and for themselves; each pass may need one more. */
	for (bool again = true; !r && again;) {
		again = false;
		for (uint64_t i = 0; i < v->nblocks; i++) {
			if (has_block(v, i) || rt[i] ||
			    !(v->raise[i] || (v->end > start && i >= start >> q->rb_bits &&
					      i <= (v->end - 1) >> q->rb_bits)))
				continue;
			rt[i] = v->end++ << q->cluster_bits;
			again = true;
			if (i >= v->c.rt_entries && !table_clusters) {
				table_clusters = plt_div_up(v->nblocks, per);
				table_place = v->end << q->cluster_bits;
				v->end += table_clusters;
			}
		}
		if ((v->end - 1) >> q->rb_bits >= v->nblocks)
			r = plt_error_set(v->err, EFBIG,
					  "The refcount table cannot cover the recount");
	}
	n = r < 0 ? 0 : v->nblocks;
	if (!r && table_clusters << q->cluster_bits > QCOW2_MAX_REFTABLE_BYTES)
		r = plt_error_set(v->err, EFBIG, "The refcount table cannot cover the recount");
	for (uint64_t i = 0; !r && i < n; i++) {
		bool covers_new = v->end > start && i >= start >> q->rb_bits &&
				  i <= (v->end - 1) >> q->rb_bits;

		if (has_block(v, i) && (v->raise[i] || covers_new))
			r = write_block(v, i, v->c.rt[i] & QCOW2_REFTABLE_OFFSET, false, start);
		else if (rt[i])
			r = write_block(v, i, rt[i], true, start);
	}
	for (uint64_t i = 0; !r && i < n; i++)
		if (!rt[i] && i < v->c.nrt)
			rt[i] = v->c.rt[i];
	if (!r && table_clusters)
		r = write_table(v, rt, n, table_clusters, table_place);
	if (!r)
		r = plt_store_sync(v->c.file, v->err);
	for (uint64_t i = 0; !r && !table_clusters && i < n; i++) {
		plt_be64 e = plt_be64_make(rt[i]);

		if (rt[i] && (i >= v->c.nrt || rt[i] != v->c.rt[i]))
			r = plt_store_write(v->c.file, q->reftable_offset + i * 8, &e, 8,
					    PLT_IO_REFTABLE, v->err);
	}
	if (!r)
		r = plt_store_sync(v->c.file, v->err);
	if (!r && table_clusters) {
		q->reftable_offset = table_place;
		q->reftable_clusters = (uint32_t)table_clusters;
		r = qcow2_header_switch(v->img,
					offsetof(struct qcow2_header, refcount_table_offset),
					offsetof(struct qcow2_header, nb_snapshots), v->err);
	}
	q->file_clusters = PLT_MAX(q->file_clusters, v->end);
	free(rt);
	return r;
}

int qcow2_recover(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_error local = PLT_ERROR_INIT;
	struct recover v = {.img = img, .err = err ? err : &local};
	struct behind b = {.v = &v};
	uint64_t highest;
	bool any = false;
	int r = qcow2_recount_init(&v.c, img->ctx, img->file, q, v.err);

	v.table = plt_alloc_io(q->cluster_size);
	if (!r && !v.table)
		r = plt_error_set(v.err, ENOMEM, "Out of memory");
	if (!r)
		r = recount(&v);
	if (!r) {
		v.end = v.c.nb;
		/*
		 * Room for blocks that count the blocks: a handful at most beyond what the file
		 * needs.
		 */
		v.nblocks = plt_div_up(v.c.nb + plt_div_up(v.c.nb, UINT64_C(1) << q->rb_bits) + 64 +
					       (QCOW2_MAX_REFTABLE_BYTES >> q->cluster_bits),
				       UINT64_C(1) << q->rb_bits) +
			    1;
		v.raise = calloc(v.nblocks, sizeof(*v.raise));
		r = v.raise ? qcow2_compare(&v.c, count_differs, &b, &highest) : -ENOMEM;
		if (!r)
			r = b.r;
		if (!r && b.shared)
			r = qcow2_l1_each(&v.c, q->l1_offset, q->l1_size, judge_unshared_entry, &v);
	}
	for (uint64_t i = 0; !r && i < v.nblocks; i++)
		any |= v.raise[i];
	if (!r && any)
		r = raise_counts(&v);
	if (!r) {
		q->incompatible &= ~QCOW2_INCOMPAT_DIRTY;
		r = qcow2_header_switch(img, offsetof(struct qcow2_header, incompatible_features),
					offsetof(struct qcow2_header, compatible_features), v.err);
		q->dirty_on_disk = r < 0;
	}
	qcow2_recount_release(&v.c);
	free(v.table);
	free(v.raise);
	return r < 0 ? plt_error_default(err, -r, "The recount of the dirty image failed") : 0;
}
