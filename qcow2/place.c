/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Placing writes: where new data goes, and the change of the map once it is there.
 *
 * place gathers (L1 and L2 slice, free clusters, room in limbo and for order edges), and only when
 * nothing is missing raises the counts.  publish puts the entries in, behind the counts and the data:
 *
 *	counts with their path, data, copied head and tail   ->   L2 entry
 *
 * and drops what was there before into limbo.  withdraw lowers the counts again; nothing on disk
 * refers to the clusters.  What needs more than memory (a new L2 table, a table shared with a
 * snapshot, a refcount block) is work: exclusive, blocking, work.c's.
 */
#include <assert.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow2/mapping.h"

#define PUBLISH_EDGES 4 /* two refcount blocks, the table, the data: what order() may add */
#define PLACE_MAX (UINT64_C(64) << 20) /* bytes in one answer */

/* place->priv and place->blocks */
enum { P_INDEX, P_CLUSTER, P_COUNT, P_MODE, P_COMP_LEN, P_SHARED };
enum { B_L2, B_REFBLOCK, B_REFTABLE, B_REFBLOCK2 };
enum { MODE_NEW, MODE_KEPT, MODE_PACKED, MODE_EXTERNAL };

/* The part of a request that one answer covers. */
struct part {
	uint64_t off, len;
};

struct spot {
	struct plt_block *l2;
	unsigned index;      /* of the first entry in its slice */
	uint64_t entries;    /* from there to the slice's end */
};

static bool is_external(const struct plt_image *img)
{
	return qcow2_of(img)->external;
}

/* The L2 slice of @off, with the table our own. */
static int find_spot(struct plt_image *img, struct plt_pins *pins, uint64_t off, struct spot *ret,
		     struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t index = off >> (q->cluster_bits + q->l2_bits), l1, l2_index;
	unsigned word, per_slice = img->slice / q->l2_entry_size;
	struct plt_block *b;
	int r;

	if (index >= q->l1_size)
		return plt_error_set(err, EUCLEAN, "'%s': the L1 table has %u entries, guest offset %#" PRIx64
				     " needs %" PRIu64, img->name, q->l1_size, off, index + 1);
	r = qcow2_l1_get(img, pins, q->l1_offset, index, &b, &word, need, err);
	if (r < 0)
		return r;
	l1 = plt_block_get64(b, word);
	r = qcow2_l1_check(img, index, l1, err);
	if (r < 0)
		return r;
	if (!(l1 & QCOW2_L1_OFFSET) || !(l1 & QCOW2_COPIED)) {
		*need = (struct plt_need){ .kind = PLT_NEED_WORK, .arg = index, .exclusive = true,
					   .code = l1 & QCOW2_L1_OFFSET ? QCOW2_WORK_UNSHARE_L2 : QCOW2_WORK_NEW_L2 };
		return -EAGAIN;
	}
	if (!qcow2_guard_is(q, l1 & QCOW2_L1_OFFSET, QCOW2_META_ACTIVE_L2))
		return qcow2_unsafe(l1 & QCOW2_L1_OFFSET, need);
	l2_index = off >> q->cluster_bits & ((UINT64_C(1) << q->l2_bits) - 1);
	r = plt_meta_get(img, pins, &qcow2_l2_type, (l1 & QCOW2_L1_OFFSET) + l2_index * q->l2_entry_size, &ret->l2,
			 need, err);
	if (r < 0)
		return r;
	ret->index = (unsigned)(l2_index % per_slice);
	ret->entries = per_slice - ret->index;
	return 0;
}

static int bad_entry(struct plt_image *img, uint64_t off, struct qcow2_entry e, struct plt_error *err)
{
	return plt_error_set(err, EIO, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
			     " is corrupt; nothing is written over it", img->name, e.word, off);
}

/* ---- what is there now ----------------------------------------------------------------------- */

/* Ours alone, with a host cluster to write into. */
static bool owned(const struct plt_image *img, struct qcow2_entry e)
{
	return !(e.word & QCOW2_COMPRESSED) && e.word & QCOW2_COPIED &&
	       (e.word & QCOW2_L2_OFFSET || is_external(img));
}

/* A write inside a cluster that is ours: in place, or with a mark still to be set. */
static int place_kept(struct plt_image *img, const struct plt_place_req *req, struct spot *s, struct qcow2_entry e,
		      struct plt_place *ret)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t cs = q->cluster_size, in = req->off & (cs - 1), len = PLT_MIN(req->len, cs - in);
	uint32_t alloc = (uint32_t)e.bitmap;

	ret->off = req->off;
	ret->len = len;
	ret->store = img->data;
	ret->host_off = (e.word & QCOW2_L2_OFFSET) + in;
	ret->priv[P_INDEX] = s->index;
	ret->priv[P_MODE] = MODE_KEPT;
	ret->blocks[B_L2] = s->l2;
	if (q->extl2) {
		uint64_t sub = UINT64_C(1) << q->sub_bits, mask = qcow2_sub_mask(q, req->off, len);

		if ((alloc & mask) == mask)
			return 0; /* somebody was faster: only write */
		ret->publish = true;
		/* a first (last) subcluster without data is stale around what we write */
		if (!(alloc >> (in >> q->sub_bits) & 1))
			ret->head = (uint32_t)(in & (sub - 1));
		if (!(alloc >> ((in + len - 1) >> q->sub_bits) & 1))
			ret->tail = (uint32_t)(plt_align_up(in + len, sub) - (in + len));
		return 0;
	}
	if (!(e.word & QCOW2_L2_ZERO))
		return 0;
	ret->publish = true;
	ret->head = (uint32_t)in;
	ret->tail = (uint32_t)(cs - in - len);
	return 0;
}

/* How many entries from the first on want new clusters, for a write of @len bytes at @off? */
static uint64_t count_new(struct plt_image *img, const struct spot *s, uint64_t off, uint64_t len)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t cs = q->cluster_size, want, n = 0;

	want = plt_div_up((off & (cs - 1)) + PLT_MIN(len, PLACE_MAX), cs);
	want = PLT_MIN(want, s->entries);
	for (; n < want; n++) {
		uint64_t at = plt_align_down(off, cs) + n * cs;
		struct qcow2_entry e = qcow2_entry_get(q, s->l2, s->index + (unsigned)n);
		uint64_t table;

		if (qcow2_entry_bad(img, e, at) || owned(img, e) ||
		    (e.word && qcow2_entry_unsafe(img, e, &table)))
			break;
	}
	return n;
}

/* Is nothing said of the unit at @off?  @first: the offset of the spot's first entry. */
static bool is_absent(struct plt_image *img, const struct spot *s, uint64_t first, uint64_t off)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t n = (off >> q->cluster_bits) - (first >> q->cluster_bits);
	enum qcow2_kind k = qcow2_entry_kind(img, qcow2_entry_get(q, s->l2, s->index + (unsigned)n), off,
					     (unsigned)((off & (q->cluster_size - 1)) >> q->sub_bits));

	return k == QCOW2_ABSENT || k == QCOW2_ABSENT_KEPT;
}

/* How far from the request's beginning the units are all absent, or all not, as far as the slice shows. */
static uint64_t alike(struct plt_image *img, const struct spot *s, const struct plt_place_req *req)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t unit = UINT64_C(1) << q->sub_bits, off = plt_align_down(req->off, unit) + unit;
	uint64_t end = PLT_MIN(req->off + req->len, plt_align_down(req->off, q->cluster_size) +
						    s->entries * q->cluster_size);
	bool absent = is_absent(img, s, req->off, req->off);

	while (off < end && is_absent(img, s, req->off, off) == absent)
		off += unit;
	return PLT_MIN(off, end) - req->off;
}

/* Does the old content have to be copied whole (it cannot be left below in its place)? */
static bool copy_whole(const struct qcow2_state *q, struct qcow2_entry e)
{
	return !q->extl2 || e.word & (QCOW2_COMPRESSED | QCOW2_L2_OFFSET);
}

static void set_edges(struct plt_image *img, const struct part *r, struct plt_place *ret,
		      struct qcow2_entry first, struct qcow2_entry last)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t cs = q->cluster_size, sub = UINT64_C(1) << q->sub_bits;
	uint64_t in = r->off & (cs - 1), end = r->off + r->len;

	ret->head = (uint32_t)(copy_whole(q, first) ? in : in & (sub - 1));
	ret->tail = (uint32_t)(plt_align_up(end, copy_whole(q, last) ? cs : sub) - end);
}

/* ---- place ----------------------------------------------------------------------------------- */

static int place_new(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct spot *s,
		     struct plt_place *ret, struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t cs = q->cluster_size, n = count_new(img, s, req->off, req->len);
	struct part range = { .off = req->off };
	struct qcow2_found f = { 0 };
	int r;

	assert(n);
	if (plt_limbo_room(img) < n) {
		*need = (struct plt_need){ .kind = PLT_NEED_LIMBO };
		return -EAGAIN;
	}
	if (is_external(img)) {
		f.cluster = req->off >> q->cluster_bits;
		f.n = n;
		ret->priv[P_MODE] = MODE_EXTERNAL;
	} else {
		r = qcow2_find_free(img, pins, n, &f, need, err);
		if (r < 0)
			return r;
		ret->priv[P_MODE] = MODE_NEW;
		ret->blocks[B_REFBLOCK] = f.refblock;
		ret->blocks[B_REFTABLE] = f.reftable;
		ret->fresh = qcow2_is_fresh(img, f.cluster);
	}
	range.len = PLT_MIN(req->len, f.n * cs - (req->off & (cs - 1)));
	ret->off = range.off;
	ret->len = range.len;
	ret->store = img->data;
	ret->host_off = (f.cluster << q->cluster_bits) + (req->off & (cs - 1));
	set_edges(img, &range, ret, qcow2_entry_get(q, s->l2, s->index),
		  qcow2_entry_get(q, s->l2, s->index + (unsigned)f.n - 1));
	ret->publish = true;
	ret->priv[P_INDEX] = s->index;
	ret->priv[P_CLUSTER] = f.cluster;
	ret->priv[P_COUNT] = f.n;
	ret->blocks[B_L2] = s->l2;
	if (!is_external(img))
		qcow2_take(img, &f);
	return 0;
}

/*
 * Compressed bytes are packed one behind the other.  They continue in the last packed cluster if its
 * count allows one more reference, and may run on into the cluster behind it if that is free.
 */
static int place_packed(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct spot *s,
			struct plt_place *ret, struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t off = q->comp_tail, tail = (off - 1) >> q->cluster_bits, room;
	struct plt_block *rb = NULL, *rt = NULL;
	struct qcow2_found f = { 0 };
	bool join = false;
	int r;

	if (plt_limbo_room(img) < 1) {
		*need = (struct plt_need){ .kind = PLT_NEED_LIMBO };
		return -EAGAIN;
	}
	room = off ? ((tail + 1) << q->cluster_bits) - off : 0;
	if (off) {
		r = qcow2_count_block(img, pins, tail, &rb, &rt, need, err);
		if (r < 0)
			return r;
		join = rb && room && qcow2_count_read(img, rb, tail) < q->refcount_max;
	}
	if (!join || req->comp_len > room) {
		r = qcow2_find_free(img, pins, 1, &f, need, err);
		if (r < 0)
			return r;
		if (join && f.cluster != tail + 1)
			join = false;
		ret->blocks[B_REFBLOCK] = f.refblock;
		ret->blocks[B_REFTABLE] = f.reftable;
		if (join) { /* the search may have let go of it */
			r = qcow2_count_block(img, pins, tail, &rb, &rt, need, err);
			if (r < 0)
				return r;
		}
	}
	if (!join)
		off = f.cluster << q->cluster_bits;
	if (off >> (62 - (q->cluster_bits - 8))) /* 512 TiB with the largest clusters */
		return plt_error_set(err, EFBIG, "'%s': an entry for compressed data cannot say %#" PRIx64
				     ": the file is too large", img->name, off);
	/* from here on nothing fails */
	if (f.n)
		qcow2_take(img, &f);
	if (join) {
		qcow2_count_write(img, rb, tail, qcow2_count_read(img, rb, tail) + 1);
		plt_block_dirty(rb);
		ret->blocks[B_REFBLOCK2] = rb;
		if (!ret->blocks[B_REFTABLE])
			ret->blocks[B_REFTABLE] = rt;
	}
	q->comp_tail = off + req->comp_len;
	ret->off = req->off;
	ret->len = req->len;
	ret->store = img->file;
	ret->host_off = off;
	ret->publish = true;
	ret->priv[P_MODE] = MODE_PACKED;
	ret->priv[P_INDEX] = s->index;
	ret->priv[P_CLUSTER] = f.cluster;
	ret->priv[P_COUNT] = f.n;
	ret->priv[P_COMP_LEN] = req->comp_len;
	ret->priv[P_SHARED] = join ? tail + 1 : 0;
	ret->blocks[B_L2] = s->l2;
	return 0;
}

int qcow2_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req,
		struct plt_place *ret, struct plt_need *need, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_place_req part;
	struct qcow2_entry e;
	uint64_t table;
	struct spot s;
	int r;

	if (atomic_load(&q->corrupt))
		return qcow2_refuse_corrupt(img, err);
	r = find_spot(img, pins, req->off, &s, need, err);
	if (r < 0)
		return r;
	if (plt_block_room(s.l2) < PUBLISH_EDGES) {
		*need = (struct plt_need){ .kind = PLT_NEED_WRITEBACK, .block = s.l2 };
		return -EAGAIN;
	}
	e = qcow2_entry_get(q, s.l2, s.index);
	if (qcow2_entry_unsafe(img, e, &table))
		return qcow2_unsafe(table, need);
	if (qcow2_entry_bad(img, e, req->off))
		return bad_entry(img, req->off, e, err);
	if (req->kind == PLT_PLACE_IF_ABSENT) {
		ret->skip = !is_absent(img, &s, req->off, req->off);
		ret->off = req->off;
		ret->len = alike(img, &s, req);
		if (ret->skip)
			return 0;
		part = *req;
		part.len = ret->len;
		req = &part;
	}
	if (req->kind == PLT_PLACE_COMPRESSED)
		return place_packed(img, pins, req, &s, ret, need, err);
	return owned(img, e) ? place_kept(img, req, &s, e, ret) : place_new(img, pins, req, &s, ret, need, err);
}

/* ---- publish --------------------------------------------------------------------------------- */

/* What waits in limbo, done at once where its rule is off (tests only).  True: nothing is left to do. */
static bool drop_early(struct plt_image *img, uint64_t off, uint64_t len)
{
	struct plt_pins pins = PLT_PINS_BLOCKING;
	uint64_t cluster = off >> qcow2_of(img)->cluster_bits;
	struct plt_block *rb = NULL, *rt;
	struct plt_need need;

	if (!qcow2_rule(img, QCOW2_RULE_GONE_PUNCH))
		(void)plt_store_discard(img->file, off, len, NULL);
	if (!qcow2_rule(img, QCOW2_RULE_GONE_COUNT) &&
	    qcow2_count_block(img, &pins, cluster, &rb, &rt, &need, NULL) == 0 && rb) {
		qcow2_count_write(img, rb, cluster, qcow2_count_read(img, rb, cluster) - 1);
		plt_block_dirty(rb);
	}
	plt_pins_drop(&pins);
	return rb;
}

void qcow2_drop_old(struct plt_image *img, struct qcow2_entry e)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t off;
	uint32_t len;

	if (!e.word)
		return;
	if (qcow2_entry_unsafe(img, e, &off))
		return; /* (a table that came to lie there meanwhile.)  It leaks */
	if (e.word & QCOW2_COMPRESSED) {
		qcow2_packed_range(q, e.word, &off, &len);
		plt_limbo_add(img, off, len, QCOW2_LIMBO_PACKED);
	} else if (e.word & QCOW2_L2_OFFSET && !is_external(img)) {
		off = e.word & QCOW2_L2_OFFSET;
		if (img->rules_off && drop_early(img, off, q->cluster_size))
			return;
		plt_limbo_add(img, off, q->cluster_size, QCOW2_LIMBO_CLUSTERS);
	}
}

/* The rules of an L2 entry that names new clusters. */
static void order(struct plt_image *img, struct plt_place *p)
{
	struct plt_block *l2 = p->blocks[B_L2];
	bool counts = !qcow2_of(img)->lazy; /* else the dirty bit, durable already, says that they may be behind */

	if (counts && qcow2_rule(img, QCOW2_RULE_COUNT_L2)) {
		if (p->blocks[B_REFBLOCK])
			plt_block_after_block(l2, p->blocks[B_REFBLOCK]);
		if (p->blocks[B_REFBLOCK2])
			plt_block_after_block(l2, p->blocks[B_REFBLOCK2]);
	}
	if (counts && p->blocks[B_REFTABLE] && qcow2_rule(img, QCOW2_RULE_TABLE_PATH))
		plt_block_after_block(l2, p->blocks[B_REFTABLE]);
	if (qcow2_rule(img, QCOW2_RULE_DATA_L2))
		plt_block_after_sync(l2, p->store);
}

static uint64_t packed_word(const struct qcow2_state *q, uint64_t off, uint64_t len)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = ((off + len - 1) >> 9) - (off >> 9);

	return QCOW2_COMPRESSED | sectors << x | off;
}

/* All subclusters that are full after the write; the others keep what they say. */
static uint64_t new_bitmap(const struct qcow2_state *q, const struct plt_place *p, uint64_t i, struct qcow2_entry old,
			   bool kept)
{
	uint64_t cs = q->cluster_size, start = plt_align_down(p->off, cs) + i * cs;
	uint64_t from = PLT_MAX(start, p->off - p->head), to = PLT_MIN(start + cs, p->off + p->len + p->tail), mask;

	if (!q->extl2)
		return 0;
	mask = qcow2_sub_mask(q, from, to - from);
	if (old.word & QCOW2_COMPRESSED)
		return UINT32_MAX;
	if (!kept) /* what was elsewhere has been copied (then the mask is whole) or was not data */
		return (mask | (old.bitmap & 0xffffffff00000000)) & ~(mask << 32);
	return (old.bitmap | mask) & ~(mask << 32);
}

void qcow2_publish(struct plt_image *img, struct plt_place *p)
{
	struct qcow2_state *q = qcow2_of(img);
	struct plt_block *l2 = p->blocks[B_L2];
	unsigned index = (unsigned)p->priv[P_INDEX];
	struct qcow2_entry old, e = { 0, 0 };

	order(img, p);
	switch (p->priv[P_MODE]) {
	case MODE_KEPT:
		old = qcow2_entry_get(q, l2, index);
		e.word = old.word & ~(q->extl2 ? 0 : QCOW2_L2_ZERO);
		e.bitmap = new_bitmap(q, p, 0, old, true);
		qcow2_entry_set(q, l2, index, e);
		break;
	case MODE_PACKED:
		old = qcow2_entry_get(q, l2, index);
		e.word = packed_word(q, p->host_off, p->priv[P_COMP_LEN]);
		qcow2_entry_set(q, l2, index, e);
		qcow2_drop_old(img, old);
		break;
	default:
		for (uint64_t i = 0; i < p->priv[P_COUNT]; i++) {
			old = qcow2_entry_get(q, l2, index + (unsigned)i);
			e.word = (p->priv[P_CLUSTER] + i) << q->cluster_bits | QCOW2_COPIED;
			e.bitmap = new_bitmap(q, p, i, old, false);
			qcow2_entry_set(q, l2, index + (unsigned)i, e);
			qcow2_drop_old(img, old);
		}
	}
	plt_block_dirty(l2);
}

void qcow2_withdraw(struct plt_image *img, struct plt_place *p)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_found f = { p->priv[P_CLUSTER], p->priv[P_COUNT], p->blocks[B_REFBLOCK], p->blocks[B_REFTABLE] };

	if (p->priv[P_MODE] != MODE_NEW && p->priv[P_MODE] != MODE_PACKED)
		return;
	if (f.n) {
		/* another compressed write may have joined its cluster meanwhile: counts go down by one */
		if (p->priv[P_MODE] == MODE_PACKED && qcow2_count_read(img, f.refblock, f.cluster) > 1) {
			qcow2_count_write(img, f.refblock, f.cluster,
					  qcow2_count_read(img, f.refblock, f.cluster) - 1);
			plt_block_dirty(f.refblock);
		} else {
			if (q->comp_tail && (q->comp_tail - 1) >> q->cluster_bits == f.cluster)
				q->comp_tail = 0;
			qcow2_give_back(img, &f);
		}
	}
	if (p->blocks[B_REFBLOCK2]) {
		uint64_t tail = p->priv[P_SHARED] - 1, count = qcow2_count_read(img, p->blocks[B_REFBLOCK2], tail);

		qcow2_count_write(img, p->blocks[B_REFBLOCK2], tail, count - 1);
		plt_block_dirty(p->blocks[B_REFBLOCK2]);
		if (count == 1 && q->comp_tail && (q->comp_tail - 1) >> q->cluster_bits == tail)
			q->comp_tail = 0;
		if (count == 1)
			q->free_hint = PLT_MIN(q->free_hint, tail);
	}
}
