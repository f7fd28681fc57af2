/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What a file without a header shows of tables, put together.  The cluster size is the largest at which the tables are
 * whole: at a larger one what lies beside them is no table, and what they name is not aligned.  An L1 table names
 * tables and nothing else; a refcount table names blocks that count what is known to be in use.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "qcow2/mend/find.h"

#define MAX_GROUPS 4096 /* clusters that are read to tell a cluster size */
#define MAX_EMPTY 64   /* tables of zeros that are looked for in one L1 table */
#define MAX_BAD 2      /* entries of a table that may be damaged, */
#define SURE 64        /* if for each there are so many that are not */
#define MANY 16        /* entries of a table that is one for sure */
#define SOME 4         /* and of the only one, in a file of which somebody says that it is an image */
#define MAX_GUESSED 64 /* clusters by which an L1 table may begin earlier than it seems to */
#define UNKNOWN 16     /* L1 entries for each table of a disk whose size nothing says */
#define MAX_SAMPLES 256 /* clusters whose counts a refcount table must know */

void qcow2_find_assume(struct qcow2_find *f, unsigned cluster_bits, bool extl2)
{
	struct qcow2_state *q = &f->x.q;

	*q = (struct qcow2_state){.cluster_bits = cluster_bits, .version = 3, .refcount_order = 4};
	q->incompatible = extl2 ? QCOW2_INCOMPAT_EXTL2 : 0;
	qcow2_state_derive(q);
	f->x.c.q = q;
	f->x.c.file = f->file;
	f->x.c.file_size = f->bound;
}

/* The cluster at @off as a table; false: it is none.  @seen: room for its entries. */
static bool is_table(struct qcow2_find *f, uint64_t off, uint8_t *buf, uint64_t *seen, struct qcow2_found_table *ret)
{
	const struct qcow2_state *q = &f->x.q;
	uint32_t n = 0, bad = 0;
	bool ascending = true;

	*ret = (struct qcow2_found_table){.off = off};
	if (off + q->cluster_size > f->file_size ||
	    plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
		return false;
	for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size) {
		uint64_t e = plt_get_be64(buf + at), bitmap = q->extl2 ? plt_get_be64(buf + at + 8) : 0, to;

		if (!(e | bitmap))
			continue;
		if (!qcow2_entry_fits(&f->x, e, bitmap, &to)) {
			if (++bad > MAX_BAD)
				return false;
			continue;
		}
		ret->n++;
		ret->zeros |= e & QCOW2_L2_ZERO;
		ret->compressed |= !!(e & QCOW2_COMPRESSED);
		if (!to || e & QCOW2_COMPRESSED)
			continue;
		if (to == off && !f->external) /* (no cluster is the guest's, and a table that maps it) */
			bad++;
		if (n && seen[n - 1] == to) {
			if (++bad > MAX_BAD)
				return false;
			continue;
		}
		ascending &= !n || to > seen[n - 1];
		seen[n++] = to;
	}
	if (f->external) {
		ret->base = qcow2_own_place(q, buf, &n);
		return !bad && ret->base != UINT64_MAX;
	}
	if (!ascending) /* (it is what costs, and what QEMU has converted is in order) */
		qsort(seen, n, sizeof(*seen), qcow2_by_value);
	for (uint32_t i = 1; i < n && !ascending; i++)
		bad += seen[i] == seen[i - 1];
	return ret->n > 0 && (!bad || (bad <= MAX_BAD && ret->n >= bad * SURE));
}

/* How many sights lie in whole tables at this cluster size?  @least: entries of one that counts. */
static uint64_t covered(struct qcow2_find *f, unsigned bits, bool extl2, uint32_t least, uint8_t *buf, uint64_t *seen)
{
	uint64_t sum = 0;
	uint32_t groups = 0;

	qcow2_find_assume(f, bits, extl2);
	for (uint32_t i = 0, k; i < f->n && groups < MAX_GROUPS; i = k) {
		struct qcow2_found_table t;
		uint32_t n = 0;
		uint32_t odd = 0;

		for (k = i; k < f->n && f->v[k].off >> bits == f->v[i].off >> bits; k++) {
			odd += f->v[k].align && f->v[k].align < bits && f->v[k].align >= QCOW2_MIN_CLUSTER_BITS;
			n += f->v[k].n >= least;
		}
		if (odd * 4 > k - i || !n)
			continue;
		groups++;
		if (is_table(f, f->v[i].off >> bits << bits, buf, seen, &t))
			sum += n;
	}
	return sum;
}

static int choose_size(struct qcow2_find *f, uint8_t *buf, uint64_t *seen)
{
	uint64_t got[2][QCOW2_MAX_CLUSTER_BITS + 1] = {0}, most[2] = {0};
	uint32_t least = 1, some = 0;
	bool extl2;

	for (uint32_t i = 0; i < f->n; i++)
		some += f->v[i].n >= 2;
	if (some >= 2)
		least = 2;
	for (unsigned ext = 0; ext < 2; ext++)
		for (unsigned bits = ext ? 14 : QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
			got[ext][bits] = covered(f, bits, ext, least, buf, seen);
			most[ext] = PLT_MAX(most[ext], got[ext][bits]);
		}
	extl2 = most[1] > most[0] + most[0] / 2; /* (much of a plain table passes as pairs, not the other way round) */
	if (!most[extl2])
		return -ENOENT;
	for (unsigned bits = QCOW2_MAX_CLUSTER_BITS; bits >= QCOW2_MIN_CLUSTER_BITS; bits--)
		if (got[extl2][bits] * 2 >= most[extl2] && (!extl2 || bits >= 14)) {
			/* Tables that are damaged are whole in small pieces only: the header is right if some are. */
			if (f->hint > bits && got[extl2][f->hint] * 4 >= most[extl2])
				bits = f->hint;
			qcow2_find_assume(f, bits, extl2);
			return 0;
		}
	return -ENOENT;
}

/* ---- which is which -------------------------------------------------------------------------------------- */

static struct qcow2_found_table *table_find(const struct qcow2_find *f, uint64_t off)
{
	uint32_t lo = 0, hi = f->nt;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (f->t[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < f->nt && f->t[lo].off == off ? &f->t[lo] : NULL;
}

static int gather(struct qcow2_find *f, uint8_t *buf, uint64_t *seen)
{
	const struct qcow2_state *q = &f->x.q;
	uint32_t cap = 0;

	for (uint32_t i = 0; i < f->n; i++) {
		uint64_t off = f->v[i].off >> q->cluster_bits << q->cluster_bits;
		struct qcow2_found_table t;

		if ((f->nt && f->t[f->nt - 1].off == off) || (i && f->v[i - 1].off >> q->cluster_bits == off >> q->cluster_bits) ||
		    off == 0 || !is_table(f, off, buf, seen, &t))
			continue;
		if (f->nt == cap) {
			void *v = realloc(f->t, (cap ? 2 * cap : 256) * sizeof(*f->t));

			if (!v)
				return -ENOMEM;
			f->t = v;
			cap = cap ? 2 * cap : 256;
		}
		f->t[f->nt++] = t;
	}
	return 0;
}

/* A table of an L1 table without any place in it: zeros, or entries that say so. */
static bool is_empty_table(const struct qcow2_find *f, uint64_t off)
{
	uint8_t buf[4096];
	uint32_t len = PLT_MIN(f->x.q.cluster_size, (uint32_t)sizeof(buf));

	if (off >= f->file_size || plt_store_read(f->file, off, buf, len, PLT_IO_L2, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < len; i += 8) {
		const bool bitmap = f->x.q.extl2 && i % 16; /* (of which the first half says what is zero) */

		if (plt_get_be64(buf + i) & (bitmap ? UINT64_C(0xffffffff) : f->x.q.extl2 ? UINT64_MAX : ~QCOW2_L2_ZERO))
			return false;
	}
	return true;
}

/* Words of a plain table: is each 0 or the place of a cluster, another one each?  *ret_tables of them are L2 tables by shape. */
static bool names_only(struct qcow2_find *f, const uint8_t *buf, bool l1, uint32_t *ret_n, uint32_t *ret_tables,
		       bool *ret_marked)
{
	const struct qcow2_state *q = &f->x.q;

	uint32_t empty = 0, again = 0;
	struct qcow2_found_table *t;

	*ret_n = *ret_tables = 0;
	*ret_marked = false;
	f->looks++;
	for (uint32_t at = 0; at < q->cluster_size; at += 8) {
		uint64_t e = plt_get_be64(buf + at), off = e & QCOW2_L1_OFFSET;

		if (!e)
			continue;
		if ((e & QCOW2_L1_RESERVED) || !off || (off & (q->cluster_size - 1)) || off >= f->bound)
			return false;
		t = table_find(f, off);
		if (l1 && !t && empty++ < MAX_EMPTY && is_empty_table(f, off))
			continue;
		++*ret_n;
		*ret_tables += t != NULL;
		*ret_marked |= !!(e & QCOW2_COPIED);
		if (t && t->named == f->looks)
			again++;
		else if (t)
			t->named = f->looks;
	}
	/* (an L1 table names each but once, save for one entry that may be damaged) */
	return *ret_n + empty > 0 && again <= 1 + *ret_n / SURE;
}

/*
 * Are most entries of this part of an L1 table second and further names of the same tables?  It is a pattern then, and no
 * L1 table: as one it would make a disk of any size of a few tables.
 */
static bool repeats(const struct qcow2_find *f, const uint8_t *buf)
{
	const uint32_t len = f->x.q.cluster_size / 8;
	PLT_AUTOFREE uint64_t *v = malloc(len * sizeof(*v));
	uint32_t n = 0, again = 0;

	if (!v)
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (plt_get_be64(buf + (size_t)i * 8))
			v[n++] = plt_get_be64(buf + (size_t)i * 8) & QCOW2_L1_OFFSET;
	qsort(v, n, sizeof(*v), qcow2_by_value);
	for (uint32_t i = 1; i < n; i++)
		again += v[i] == v[i - 1];
	return n >= 4 && again * 2 > n;
}

struct run {
	uint64_t off;
	uint32_t clusters, tables, used;
	uint64_t first;    /* the first table that its last cluster names */
	bool marked;
};

/*
 * Is something marked (COPIED) in the tables that are named?  What a snapshot shares is not; only what was written since
 * is, in tables that the disk has of its own.
 */
static bool has_marks(struct qcow2_find *f, const struct run *run)
{
	const struct qcow2_state *q = &f->x.q;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	uint32_t looks = 0;
	plt_be64 e;

	for (uint32_t i = 0; buf && i < run->used && looks < MAX_SAMPLES; i++) {
		if (plt_store_read(f->file, run->off + (uint64_t)i * 8, &e, 8, PLT_IO_L1, NULL) < 0 ||
		    !table_find(f, plt_be64_get(e) & QCOW2_L1_OFFSET) || ++looks == 0 ||
		    plt_store_read(f->file, plt_be64_get(e) & QCOW2_L1_OFFSET, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size)
			if (plt_get_be64(buf + at) & QCOW2_COPIED)
				return true;
	}
	return false;
}

static void end_run(struct qcow2_find *f, struct run *run, struct run *best)
{
	const bool more = run->tables > best->tables, half = run->tables * 2 >= best->tables;

	if (run->tables)
		run->marked = has_marks(f, run);
	if (run->marked == best->marked ? more : run->marked ? run->tables && half : more && best->tables * 2 < run->tables)
		*best = *run;
	*run = (struct run){0};
}

/* Nothing but zeros from @off to @end: a part of an L1 table that is not used? */
static bool is_blank(struct qcow2_find *f, uint64_t off, uint64_t end, uint8_t *buf)
{
	if (end - off > QCOW2_MAX_L1_BYTES)
		return false;
	for (uint64_t n; off < end; off += n) {
		n = PLT_MIN(end - off, (uint64_t)1 << QCOW2_MAX_CLUSTER_BITS);
		if (plt_store_read(f->file, off, buf, n, PLT_IO_L1, NULL) < 0 || !plt_is_zero(buf, n))
			return false;
	}
	return true;
}

/* The L1 table that names most tables; of alike ones the first, for a snapshot's is made later. */
static int find_l1(struct qcow2_find *f, uint8_t *buf)
{
	const struct qcow2_state *q = &f->x.q;
	struct run run = {0}, best = {0};

	for (uint32_t i = 0; i < f->n; i++) {
		uint64_t off = f->v[i].off >> q->cluster_bits << q->cluster_bits;
		uint32_t n, tables, last = 0;
		uint64_t first = 0;
		bool marked;

		if (!off || (i && f->v[i - 1].off >> q->cluster_bits == off >> q->cluster_bits) ||
		    !plt_in_range(off, q->cluster_size, f->file_size) || plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_L1, NULL) < 0)
			continue;
		/* (tables of zeros are none by shape, nor are damaged ones) */
		if (!names_only(f, buf, true, &n, &tables, &marked) || (n ? !tables : !run.tables) ||
		    (tables != n && (n < 4 || tables * 2 < n)) || repeats(f, buf)) {
			end_run(f, &run, &best);
			continue;
		}
		if (run.tables) {
			uint64_t end = run.off + ((uint64_t)run.clusters << q->cluster_bits);

			if (end == off || is_blank(f, end, off, buf))
				run.clusters += (uint32_t)((off - end) >> q->cluster_bits);
			else
				end_run(f, &run, &best);
			if (end != off && plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_L1, NULL) < 0)
				continue;
		}
		for (uint32_t k = 0; k < q->cluster_size / 8; k++)
			if (plt_get_be64(buf + (size_t)k * 8)) {
				first = first ? first : plt_get_be64(buf + (size_t)k * 8) & QCOW2_L1_OFFSET;
				last = k + 1;
			}
		if (run.tables && first && first == run.first) { /* (a cluster that was written over others) */
			end_run(f, &run, &best);
			continue;
		}
		run.first = first ? first : run.first;
		if (!run.tables)
			run.off = off;
		run.tables += tables;
		run.used = run.clusters * (q->cluster_size / 8) + last;
		run.clusters++;
	}
	end_run(f, &run, &best);
	if (!best.tables)
		return 0;
	f->l1_offset = best.off;
	f->l1_marked = best.marked;
	f->l1_used = best.used;
	f->l1_size = (uint32_t)PLT_MIN((uint64_t)best.clusters << (q->cluster_bits - 3), QCOW2_MAX_L1_BYTES / 8);
	return 0;
}

/* The count of cluster @k by the refcount table in @table; 0: none. */
static uint64_t count_by(struct qcow2_find *f, const struct qcow2_state *as, const uint8_t *table, uint64_t k)
{
	uint64_t block, in = k & ((UINT64_C(1) << as->rb_bits) - 1), at = plt_align_down(in << as->refcount_order >> 3, 8);
	uint8_t word[8];

	if (k >> as->rb_bits >= as->cluster_size / 8)
		return 0;
	block = plt_get_be64(table + (k >> as->rb_bits) * 8);
	if (!block || plt_store_read(f->file, block + at, word, sizeof(word), PLT_IO_REFBLOCK, NULL) < 0)
		return 0;
	return qcow2_count_at(as, word, in - (at << 3 >> as->refcount_order));
}

/* Nothing behind the end of the file is in use: what counts much of that (in the same block) counts nothing. */
static bool counts_beyond(struct qcow2_find *f, const struct qcow2_state *as, const uint8_t *table)
{
	uint64_t first = plt_div_up(f->file_size, as->cluster_size), end = plt_align_up(first + 1, UINT64_C(1) << as->rb_bits);
	unsigned all = 0, used = 0;

	for (uint64_t k = first; k < end && all < MAX_SAMPLES; k++, all++)
		used += count_by(f, as, table, k) != 0;
	return used * 4 > all;
}

/* How many of the clusters that are known to be in use does the refcount table in @table count, of 1000? */
static unsigned counts_used(struct qcow2_find *f, const uint8_t *table, uint64_t off, unsigned order)
{
	const struct qcow2_state *q = &f->x.q;
	unsigned all = 0, right = 0;
	uint32_t step = f->nt / MAX_SAMPLES + 1;
	struct qcow2_state as = *q;

	as.refcount_order = order;
	qcow2_state_derive(&as);
	if (counts_beyond(f, &as, table))
		return 0;
	for (uint32_t i = 0; i < f->nt + 3; i += i < 3 ? 1 : step) {
		uint64_t k = (i == 0 ? 0 : i == 1 ? off : i == 2 ? f->l1_offset : f->t[i - 3].off) >> q->cluster_bits;

		all++;
		right += count_by(f, &as, table, k) - 1 < 1024; /* (of one that is too wide they are huge) */
	}
	return right * 1000 / all;
}

static int find_reftable(struct qcow2_find *f, uint8_t *buf)
{
	const struct qcow2_state *q = &f->x.q;
	/* (of a small image several may fit: then what the header says is right) */
	const unsigned orders[] = { f->hint_order, 4, 5, 6, 3, 2, 1, 0 };
	unsigned best = 599; /* (of tables that were freed nothing is counted) */

	/* (an older one may count as well: that of the header is asked first, and is the one if it counts at all) */
	for (uint32_t i = 0; i < f->n + 1 && !(i == 1 && f->reftable_offset); i++) {
		uint64_t off = (i ? f->v[i - 1].off : f->hint_reftable) >> q->cluster_bits << q->cluster_bits;
		uint32_t n, tables;
		bool marked;

		if (!off || off == f->l1_offset || (i > 1 && f->v[i - 2].off >> q->cluster_bits == off >> q->cluster_bits) ||
		    !plt_in_range(off, q->cluster_size, f->file_size) ||
		    plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_REFTABLE, NULL) < 0 ||
		    !names_only(f, buf, false, &n, &tables, &marked) || marked)
			continue;
		for (unsigned k = 0; k < PLT_ARRAY_SIZE(orders); k++) {
			unsigned got = counts_used(f, buf, off, orders[k]);

			if (got <= best)
				continue;
			best = got;
			f->reftable_offset = off;
			f->refcount_order = orders[k];
		}
	}
	if (f->reftable_offset) {
		uint64_t per = UINT64_C(1) << (q->cluster_bits + 3 - f->refcount_order),
			 want = plt_div_up(plt_div_up(f->file_size, q->cluster_size), per) * 8;

		f->reftable_clusters = (uint32_t)PLT_MIN(PLT_MAX(plt_div_up(want, q->cluster_size), UINT64_C(1)),
							 QCOW2_MAX_REFTABLE_BYTES >> q->cluster_bits);
		f->reftable_clusters = PLT_MAX(f->reftable_clusters, 1u);
	}
	return 0;
}

/* ---- what the map says ------------------------------------------------------------------------------------ */

static uint64_t l1_at(struct qcow2_find *f, uint32_t i)
{
	plt_be64 e;

	return plt_store_read(f->file, f->l1_offset + (uint64_t)i * 8, &e, 8, PLT_IO_L1, NULL) < 0 ? 0 :
	       plt_be64_get(e) & QCOW2_L1_OFFSET;
}

static void look_at_map(struct qcow2_find *f, uint8_t *buf)
{
	const struct qcow2_state *q = &f->x.q;
	unsigned bits = q->cluster_bits + q->l2_bits;

	if (!f->l1_offset)
		return;
	for (uint32_t i = f->l1_used; i-- && !f->mapped_end;) {
		uint64_t off = l1_at(f, i);

		if (!off || plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t k = 1U << q->l2_bits; k-- && !f->mapped_end;)
			if (!plt_is_zero(buf + (size_t)k * q->l2_entry_size, q->l2_entry_size))
				f->mapped_end = ((uint64_t)i << bits) + ((uint64_t)(k + 1) << q->cluster_bits);
	}
	if (!f->external && l1_at(f, 0) && plt_store_read(f->file, l1_at(f, 0), buf, q->cluster_size, PLT_IO_L2, NULL) == 0 &&
	    !(plt_get_be64(buf) & (QCOW2_COMPRESSED | QCOW2_L2_ZERO)))
		f->guest_start = plt_get_be64(buf) & QCOW2_L2_OFFSET;
}

/* The table that maps the guest's partition table is that of the first L1 entry.  UINT64_MAX: there is none, or several. */
static uint64_t first_table(struct qcow2_find *f)
{
	const struct qcow2_state *q = &f->x.q;
	uint64_t found = UINT64_MAX, to = (f->gpt + 512) >> q->cluster_bits << q->cluster_bits;
	plt_be64 e;

	for (uint32_t i = 0; i < f->nt && f->gpt != UINT64_MAX && !f->gpt_several; i++) {
		if (plt_store_read(f->file, f->t[i].off + (uint64_t)(512 >> q->cluster_bits) * q->l2_entry_size, &e, 8, PLT_IO_L2, NULL) < 0 ||
		    (plt_be64_get(e) & QCOW2_COMPRESSED) || (plt_be64_get(e) & QCOW2_L2_OFFSET) != to)
			continue;
		if (found != UINT64_MAX)
			return UINT64_MAX;
		found = f->t[i].off;
	}
	return found;
}

static bool names(struct qcow2_find *f, uint64_t table)
{
	for (uint32_t i = 0; i < f->l1_used; i++)
		if (l1_at(f, i) == table)
			return true;
	return false;
}

/* Is each cluster from @from to @to such as no table of the map names?  (What only has the shape of one may name any.) */
static bool is_nobodys(struct qcow2_find *f, uint64_t from, uint64_t to)
{
	const struct qcow2_state *q = &f->x.q;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);

	for (uint32_t i = 0; buf && i < f->l1_used; i++) {
		const uint64_t table = l1_at(f, i);

		if (!table || !table_find(f, table))
			continue;
		if ((table >= from && table < to) || plt_store_read(f->file, table, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			return false;
		for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size) {
			const uint64_t e = plt_get_be64(buf + at), off = e & QCOW2_L2_OFFSET;

			if (!(e & QCOW2_COMPRESSED) && off >= from && off < to)
				return false;
		}
	}
	return buf != NULL;
}

/*
 * An L1 table whose first clusters name nothing, or are damaged, seems to begin behind them.  The guest knows better; and
 * where images are made by QEMU or us, it begins at the fourth cluster.
 */
static void tell_start(struct qcow2_find *f)
{
	const struct qcow2_state *q = &f->x.q;
	const uint64_t usual = UINT64_C(3) << q->cluster_bits, first = f->l1_offset ? first_table(f) : UINT64_MAX;
	uint32_t i = 0, more;

	if (first == UINT64_MAX)
		return;
	while (i < f->l1_used && l1_at(f, i) != first)
		i++;
	if (i < f->l1_used && (uint64_t)i * 8 % q->cluster_size == 0) {
		f->l1_offset += (uint64_t)i * 8;
		f->l1_used -= i;
		f->l1_size -= i;
	} else if (i == f->l1_used && f->l1_offset > usual && f->l1_offset - usual <= (uint64_t)MAX_GUESSED << q->cluster_bits &&
		   is_nobodys(f, usual, f->l1_offset)) {
		more = (uint32_t)((f->l1_offset - usual) / 8);
		f->l1_offset = usual;
		f->l1_used += more;
		f->l1_size += more;
	}
}

/* By what do compressed clusters begin? */
static void tell_codec(struct qcow2_find *f, uint8_t *buf)
{
	static const uint8_t frame[4] = { 0x28, 0xb5, 0x2f, 0xfd };
	const struct qcow2_state *q = &f->x.q;
	unsigned zstd = 0, all = 0;

	for (uint32_t i = 0; i < f->nt && all < 64; i++) {
		if (!f->t[i].compressed || plt_store_read(f->file, f->t[i].off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size && all < 64; at += q->l2_entry_size) {
			uint64_t e = plt_get_be64(buf + at), off;
			uint8_t mark[4];

			if (!(e & QCOW2_COMPRESSED))
				continue;
			qcow2_compressed_range(q, e, &off);
			if (plt_store_read(f->file, off, mark, sizeof(mark), PLT_IO_COMPRESSED, NULL) < 0)
				continue;
			all++;
			zstd += !memcmp(mark, frame, sizeof(frame));
		}
	}
	f->zstd = zstd * 2 > all;
}

/*
 * The tables that the L1 table names have no marks: is there another that has?  Then it is a snapshot's; the disk's tables
 * were copied for what was written since.
 */
static bool has_newer_tables(struct qcow2_find *f, uint8_t *buf)
{
	const struct qcow2_state *q = &f->x.q;
	uint32_t looks = 0;

	for (uint32_t i = 0; i < f->nt && f->l1_offset && !f->l1_marked && looks < MAX_GROUPS; i++) {
		bool marked = false;

		if (f->t[i].off == f->reftable_offset || names(f, f->t[i].off) || ++looks == 0 ||
		    plt_store_read(f->file, f->t[i].off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size && !marked; at += q->l2_entry_size)
			marked = plt_get_be64(buf + at) & QCOW2_COPIED && !table_find(f, plt_get_be64(buf + at) & QCOW2_L1_OFFSET);
		if (marked)
			return true;
	}
	return false;
}

/* How many of the tables have marks, as the guest's have?  (What names clusters as a list of refcount blocks has none.) */
static uint64_t marked_tables(struct qcow2_find *f, uint8_t *buf, uint64_t *ret_most)
{
	const struct qcow2_state *q = &f->x.q;
	uint64_t tables = 0;

	*ret_most = 0;
	for (uint32_t i = 0; i < f->nt; i++) {
		uint32_t n = 0;

		if (plt_store_read(f->file, f->t[i].off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size) {
			uint64_t e = plt_get_be64(buf + at), to = e & QCOW2_L2_OFFSET;

			if (e & QCOW2_COMPRESSED)
				(void)qcow2_compressed_range(q, e, &to);
			n += (e & (QCOW2_COPIED | QCOW2_COMPRESSED)) && to < f->file_size;
		}
		tables += n * 4 >= f->t[i].n * 3;
		*ret_most = PLT_MAX(*ret_most, (uint64_t)n);
	}
	return tables;
}

/* There is room for an L1 table of a disk of @size bytes, behind the end of the file. */
static bool made(struct qcow2_find *f, uint64_t size)
{
	const struct qcow2_state *q = &f->x.q;
	uint64_t entries = size <= INT64_MAX ? qcow2_l1_entries(q, size) : UINT64_MAX;

	if (entries > QCOW2_MAX_L1_BYTES / 8 || f->file_size > QCOW2_MAX_HOST_OFFSET / 2) {
		f->l1_is_snapshots = false;
		return false;
	}
	f->l1_offset = plt_align_up(f->file_size, q->cluster_size);
	f->l1_size = (uint32_t)entries;
	f->l1_used = 0;
	f->made_size = size;
	return true;
}

bool qcow2_find_l1_place(struct qcow2_find *f)
{
	const struct qcow2_state *q = &f->x.q;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);
	uint64_t tables, most, size = 0;

	if (f->external && f->l1_offset)
		return true;
	if (f->external) { /* (they say themselves where they belong) */
		for (uint32_t i = 0; i < f->nt; i++)
			size = PLT_MAX(size, f->t[i].base + (UINT64_C(1) << (q->cluster_bits + q->l2_bits)));
		return made(f, size);
	}
	f->l1_is_snapshots = buf && has_newer_tables(f, buf);
	tables = buf ? marked_tables(f, buf, &most) : 0;
	if (!tables || (tables < 2 && most < SOME))
		return false;
	if (f->l1_offset && !f->l1_is_snapshots)
		return true;
	/*
	 * That of one table says it all, if the guest would show another; of several nobody knows which are missing, and too
	 * large does no harm.
	 */
	size = f->gpt_size && !f->gpt_several ? f->gpt_size : f->l1_is_snapshots ? f->l1_used :
	       tables == 1 && f->luks == UINT64_MAX ? 1 : tables * UNKNOWN;
	if (size != f->gpt_size)
		size <<= q->cluster_bits + q->l2_bits;
	return made(f, size);
}

bool qcow2_find_maps(struct qcow2_find *f, uint64_t off)
{
	const struct qcow2_state *q = &f->x.q;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);

	for (uint32_t i = 0; buf && i < f->nt; i++) {
		if (plt_store_read(f->file, f->t[i].off, buf, q->cluster_size, PLT_IO_L2, NULL) < 0)
			continue;
		for (uint32_t at = 0; at < q->cluster_size; at += q->l2_entry_size)
			if (!(plt_get_be64(buf + at) & QCOW2_COMPRESSED) && (plt_get_be64(buf + at) & QCOW2_L2_OFFSET) == off)
				return true;
	}
	return false;
}

int qcow2_find_tables(struct qcow2_find *f)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io((size_t)1 << QCOW2_MAX_CLUSTER_BITS);
	PLT_AUTOFREE uint64_t *seen = calloc((size_t)1 << (QCOW2_MAX_CLUSTER_BITS - 3), sizeof(*seen));
	int r = buf && seen ? 0 : -ENOMEM;

	if (r == 0)
		qcow2_find_external(f, buf);
	if (r == 0 && !f->external)
		r = choose_size(f, buf, seen);
	if (r == 0)
		r = gather(f, buf, seen);
	if (r == 0)
		r = find_l1(f, buf);
	if (r == 0)
		tell_start(f);
	if (r == 0)
		r = find_reftable(f, buf);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < f->nt; i++)
		f->large += f->t[i].n >= MANY;
	/* Tables of an image that is a guest's file name places in that file, and lead nowhere here. */
	f->is_qcow2 = f->external || (f->l1_offset && (f->reftable_offset || f->large >= 2));
	look_at_map(f, buf);
	tell_codec(f, buf);
	return 0;
}
