/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Work on all that an L1 table reaches.  The tables of a large disk are many and lie in order, so they are read
 * whole, beside the cache and on all processors; what was cached of a table that has changed is forgotten.  Counts
 * are changed in ascending order, one slice of them after the other, however the data is scattered.  The invariant:
 * nothing is written before the whole tree has been read and found sound.
 */
#include "qcow2/snaptree.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"

#define WORKERS 8
#define RUN_BITS 16

void qcow2_tree_release(struct qcow2_tree *t)
{
	free(t->l1);
	free(t->table);
	free(t->run);
	*t = (struct qcow2_tree){ 0 };
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* ---- reading --------------------------------------------------------------------------------- */

struct part {
	uint64_t *run;
	size_t n, cap;
	uint8_t *buf;
	struct plt_error err;
};

struct reading {
	struct plt_image *img;
	const struct qcow2_tree *t;
	uint64_t file_size;
	uint64_t slice_mask;     /* counts in a slice, less one */
	atomic_uint next;        /* L1 index */
	atomic_bool failed;
	struct part part[WORKERS];
};

static int add_run(const struct reading *rd, struct part *p, uint64_t cluster)
{
	if (p->n) {
		uint64_t last = p->run[p->n - 1], first = last >> RUN_BITS, end = first + (last & 0xffff) + 1;

		if (end == cluster && cluster & rd->slice_mask && (last & 0xffff) < 0xffff) {
			p->run[p->n - 1]++;
			return 0;
		}
	}
	if (p->n == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 1024;
		void *v = realloc(p->run, cap * sizeof(*p->run));

		if (!v)
			return plt_error_set(&p->err, ENOMEM, "out of memory");
		p->run = v;
		p->cap = cap;
	}
	p->run[p->n++] = cluster << RUN_BITS;
	return 0;
}

static int add_entry(const struct reading *rd, struct part *p, struct qcow2_entry e, uint64_t guest_off)
{
	const struct qcow2_state *q = qcow2_of(rd->img);
	uint64_t off = e.word & QCOW2_L2_OFFSET, table;
	uint32_t len = q->cluster_size;
	int r = 0;

	if (qcow2_entry_bad(rd->img, e, guest_off) || qcow2_entry_unsafe(rd->img, e, &table))
		return plt_error_set(&p->err, EUCLEAN, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64
				     " is corrupt: the image must be repaired first", rd->img->name, e.word, guest_off);
	if (e.word & QCOW2_COMPRESSED)
		qcow2_packed_range(q, e.word, &off, &len);
	if (!off)
		return 0;
	for (uint64_t c = off >> q->cluster_bits; r == 0 && c <= (off + len - 1) >> q->cluster_bits; c++)
		r = add_run(rd, p, c);
	return r;
}

static struct qcow2_entry entry_at(const struct qcow2_state *q, const uint8_t *table, uint64_t i)
{
	const uint8_t *at = table + i * q->l2_entry_size;

	return (struct qcow2_entry){ plt_get_be64(at), q->extl2 ? plt_get_be64(at + 8) : 0 };
}

static int read_table(const struct reading *rd, struct part *p, uint64_t index)
{
	const struct qcow2_state *q = qcow2_of(rd->img);
	uint64_t off = plt_be64_to_cpu(rd->t->l1[index]) & QCOW2_L1_OFFSET;
	int r;

	if (!off)
		return 0;
	r = qcow2_l1_check(rd->img, index, plt_be64_to_cpu(rd->t->l1[index]), &p->err);
	if (r == 0)
		r = qcow2_table_in_file(q, rd->file_size, off, q->cluster_size, "L2 table", &p->err);
	if (r == 0)
		r = plt_store_read(rd->img->file, off, p->buf, q->cluster_size, PLT_IO_L2, &p->err);
	for (uint64_t i = 0; r == 0 && i < UINT64_C(1) << q->l2_bits; i++) {
		struct qcow2_entry e = entry_at(q, p->buf, i);

		if (e.word || e.bitmap)
			r = add_entry(rd, p, e, ((index << q->l2_bits) + i) << q->cluster_bits);
	}
	return r;
}

static int read_some(void *arg, unsigned n)
{
	struct reading *rd = arg;
	struct part *p = &rd->part[n];
	uint32_t i;
	int r = 0;

	p->buf = plt_alloc_io(qcow2_of(rd->img)->cluster_size);
	if (!p->buf)
		r = plt_error_set(&p->err, ENOMEM, "out of memory");
	while (r == 0 && !atomic_load(&rd->failed) && (i = atomic_fetch_add(&rd->next, 1)) < rd->t->l1_size)
		r = read_table(rd, p, i);
	if (r < 0)
		atomic_store(&rd->failed, true);
	free(p->buf);
	p->buf = NULL;
	return r;
}

/* The tables, ascending; one that is named twice would be counted twice, and be written through either name. */
static int list_tables(struct plt_image *img, struct qcow2_tree *t, struct plt_error *err)
{
	size_t n = 0;

	for (uint32_t i = 0; i < t->l1_size; i++)
		n += (plt_be64_to_cpu(t->l1[i]) & QCOW2_L1_OFFSET) != 0;
	t->table = malloc((n + 1) * sizeof(*t->table));
	if (!t->table)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < t->l1_size; i++)
		if (plt_be64_to_cpu(t->l1[i]) & QCOW2_L1_OFFSET)
			t->table[t->ntables++] = plt_be64_to_cpu(t->l1[i]) & QCOW2_L1_OFFSET;
	qsort(t->table, t->ntables, sizeof(*t->table), by_value);
	for (size_t i = 1; i < t->ntables; i++)
		if (t->table[i] == t->table[i - 1])
			return plt_error_set(err, EUCLEAN, "'%s': the L2 table at %#" PRIx64 " is named by two L1 entries: "
					     "the image must be repaired first", img->name, t->table[i]);
	return 0;
}

static int join_parts(struct reading *rd, unsigned n, struct qcow2_tree *t, struct plt_error *err)
{
	size_t total = 0;

	for (unsigned i = 0; i < n; i++)
		total += rd->part[i].n;
	t->run = n == 1 ? rd->part[0].run : malloc((total + 1) * sizeof(*t->run));
	if (!t->run && total)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (n == 1)
		rd->part[0].run = NULL;
	for (unsigned i = 0; n > 1 && i < n; i++) {
		if (rd->part[i].n)
			memcpy(t->run + t->nruns, rd->part[i].run, rd->part[i].n * sizeof(*t->run));
		t->nruns += rd->part[i].n;
	}
	t->nruns = total;
	for (size_t i = 1; i < total; i++)
		if (t->run[i] < t->run[i - 1]) {
			qsort(t->run, total, sizeof(*t->run), by_value);
			break;
		}
	return 0;
}

int qcow2_tree_read(struct plt_image *img, uint64_t l1_offset, uint32_t l1_size, struct qcow2_tree *ret,
		    struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct reading rd = { .img = img, .t = ret };
	unsigned workers;
	int r;

	*ret = (struct qcow2_tree){ .l1_size = l1_size };
	rd.slice_mask = ((uint64_t)img->slice * 8 >> q->refcount_order) - 1;
	r = qcow2_check_table(q, l1_offset, l1_size, 8, QCOW2_MAX_L1_BYTES, "L1 table", err);
	if (r == 0)
		r = plt_store_size(img->file, &rd.file_size, err);
	if (r == 0 && l1_size)
		r = qcow2_table_in_file(q, rd.file_size, l1_offset, (uint64_t)l1_size * 8, "L1 table", err);
	if (r < 0)
		return r;
	ret->l1 = malloc(((size_t)l1_size + 1) * 8);
	if (!ret->l1)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (l1_size)
		r = plt_store_read(img->file, l1_offset, ret->l1, (size_t)l1_size * 8, PLT_IO_L1, err);
	if (r == 0)
		r = list_tables(img, ret, err);
	workers = ret->ntables < 2 * WORKERS ? 1 : WORKERS;
	for (unsigned i = 0; i < workers; i++)
		rd.part[i].err = (struct plt_error)PLT_ERROR_INIT;
	if (r == 0) {
		r = plt_ctx_parallel(img->ctx, workers, read_some, &rd);
		for (unsigned i = 0; r < 0 && i < workers; i++)
			if (rd.part[i].err.code) {
				plt_error_set(err, rd.part[i].err.code, "%s", rd.part[i].err.text);
				break;
			}
	}
	if (r == 0)
		r = join_parts(&rd, workers, ret, err);
	for (unsigned i = 0; i < workers; i++)
		free(rd.part[i].run);
	if (r < 0)
		qcow2_tree_release(ret);
	return r;
}

/* ---- counts ---------------------------------------------------------------------------------- */

/* What the counts of one slice change by: [0] stands for cluster .first. */
struct change {
	uint64_t first;
	uint64_t *by;
	uint64_t n;
};

/* Both kinds of clusters in ascending order, gathered slice by slice. */
struct sweep {
	struct plt_image *img;
	const struct qcow2_tree *t;
	size_t run, table;
	struct change c;
};

static uint64_t run_first(uint64_t run)
{
	return run >> RUN_BITS;
}

static int sweep_begin(struct sweep *s, struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err)
{
	*s = (struct sweep){ .img = img, .t = t };
	s->c.n = (uint64_t)img->slice * 8 >> qcow2_of(img)->refcount_order;
	s->c.by = malloc(s->c.n * sizeof(*s->c.by));
	return s->c.by ? 0 : plt_error_set(err, ENOMEM, "out of memory");
}

static bool sweep_next(struct sweep *s)
{
	const struct qcow2_tree *t = s->t;
	unsigned bits = qcow2_of(s->img)->cluster_bits;
	uint64_t a = s->run < t->nruns ? run_first(t->run[s->run]) : UINT64_MAX;
	uint64_t b = s->table < t->ntables ? t->table[s->table] >> bits : UINT64_MAX, end;

	if (a == UINT64_MAX && b == UINT64_MAX)
		return false;
	s->c.first = plt_align_down(PLT_MIN(a, b), s->c.n);
	end = s->c.first + s->c.n;
	memset(s->c.by, 0, s->c.n * sizeof(*s->c.by));
	for (; s->run < t->nruns && run_first(t->run[s->run]) < end; s->run++)
		for (uint64_t i = 0; i <= (t->run[s->run] & 0xffff); i++)
			s->c.by[run_first(t->run[s->run]) - s->c.first + i]++;
	for (; s->table < t->ntables && t->table[s->table] >> bits < end; s->table++)
		s->c.by[(t->table[s->table] >> bits) - s->c.first]++;
	return true;
}

static int judge_slice(struct plt_image *img, const struct change *c, struct plt_block *rb, int delta,
		       struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);

	for (uint64_t i = 0; i < c->n; i++) {
		uint64_t count;

		if (!c->by[i])
			continue;
		count = rb ? qcow2_count_read(img, rb, c->first + i) : 0;
		if (!count || (delta < 0 && count < c->by[i]))
			return plt_error_set(err, EUCLEAN, "'%s': the refcount of the cluster at %#" PRIx64 " is %" PRIu64
					     ", which is too low: the image must be repaired first", img->name,
					     (c->first + i) << q->cluster_bits, count);
		if (delta > 0 && count > q->refcount_max - c->by[i])
			return plt_error_set(err, ERANGE, "'%s': the refcount of the cluster at %#" PRIx64 " is %" PRIu64
					     " and cannot become larger than %" PRIu64 " (refcount_bits=%" PRIu32
					     "; 'amend -o refcount_bits=...' makes room)", img->name,
					     (c->first + i) << q->cluster_bits, count, q->refcount_max,
					     q->refcount_bits);
	}
	return 0;
}

int qcow2_tree_check(struct plt_image *img, const struct qcow2_tree *t, int delta, struct plt_error *err)
{
	struct sweep s;
	int r = sweep_begin(&s, img, t, err);

	while (r == 0 && sweep_next(&s)) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *rb;

		r = qcow2_count_block_wait(img, &pins, s.c.first, &rb, err);
		if (r == 0)
			r = judge_slice(img, &s.c, rb, delta, err);
		plt_pins_drop(&pins);
	}
	free(s.c.by);
	return r;
}

/* Adds @sign times what the sweep says, up to the slice at @end. */
static int change_counts(struct plt_image *img, const struct qcow2_tree *t, int sign, uint64_t end, uint64_t *ret_at,
			 struct plt_error *err)
{
	struct sweep s;
	int r = sweep_begin(&s, img, t, err);

	*ret_at = 0;
	while (r == 0 && sweep_next(&s) && s.c.first < end) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *rb;

		*ret_at = s.c.first;
		r = qcow2_count_block_wait(img, &pins, s.c.first, &rb, err);
		if (r == 0) {
			pthread_mutex_lock(&img->lock);
			for (uint64_t i = 0; i < s.c.n; i++)
				if (s.c.by[i])
					qcow2_count_write(img, rb, s.c.first + i,
							  qcow2_count_read(img, rb, s.c.first + i) +
								  (sign > 0 ? s.c.by[i] : -s.c.by[i]));
			plt_block_dirty(rb);
			pthread_mutex_unlock(&img->lock);
		}
		plt_pins_drop(&pins);
	}
	free(s.c.by);
	return r;
}

int qcow2_tree_raise(struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err)
{
	uint64_t reached, ignored;
	int r = change_counts(img, t, 1, UINT64_MAX, &reached, err);

	if (r < 0 && change_counts(img, t, -1, reached, &ignored, NULL) < 0)
		plt_error_prefix(err, "Some counts stay too high, which costs space only");
	return r;
}

void qcow2_tree_unraise(struct plt_image *img, const struct qcow2_tree *t)
{
	uint64_t ignored;

	(void)change_counts(img, t, -1, UINT64_MAX, &ignored, NULL);
}

int qcow2_tree_lower(struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err)
{
	unsigned bits = qcow2_of(img)->cluster_bits;
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->nruns; i++)
		r = qcow2_release(img, run_first(t->run[i]) << bits, ((t->run[i] & 0xffff) + 1) << bits,
				  QCOW2_LIMBO_CLUSTERS, err);
	for (size_t i = 0; r == 0 && i < t->ntables; i++)
		r = qcow2_release(img, t->table[i], UINT64_C(1) << bits, QCOW2_LIMBO_TABLE, err);
	return r;
}

/* ---- COPIED ---------------------------------------------------------------------------------- */

struct marking {
	struct plt_image *img;
	const struct qcow2_tree *t;
	bool on;
	atomic_size_t next;
	atomic_bool failed;
	struct plt_error err[WORKERS];
};

/* May the mark be set on the cluster at @off? */
static int only_one(struct plt_image *img, uint64_t off, bool *ret, struct plt_error *err)
{
	uint64_t count = 0;
	int r = qcow2_count_get(img, off, &count, err);

	*ret = r == 0 && count == 1;
	return r;
}

/* Changes the marks in a table; *ret_from, *ret_to: the bytes that have changed. */
static int mark_entries(const struct marking *m, uint8_t *table, uint64_t *ret_from, uint64_t *ret_to,
			struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(m->img);
	int r = 0;

	*ret_from = UINT64_MAX;
	*ret_to = 0;
	for (uint64_t i = 0; r == 0 && i < UINT64_C(1) << q->l2_bits; i++) {
		struct qcow2_entry e = entry_at(q, table, i);
		uint64_t at = i * q->l2_entry_size, word = e.word, meta;
		bool change = !m->on;

		if (word & QCOW2_COMPRESSED || !(word & QCOW2_L2_OFFSET) || !(word & QCOW2_COPIED) == !m->on)
			continue;
		if (m->on && (qcow2_entry_bad(m->img, e, 0) || qcow2_entry_unsafe(m->img, e, &meta)))
			continue;
		if (m->on)
			r = only_one(m->img, word & QCOW2_L2_OFFSET, &change, err);
		if (r < 0 || !change)
			continue;
		plt_put_be64(table + at, word ^ QCOW2_COPIED);
		*ret_from = PLT_MIN(*ret_from, at);
		*ret_to = at + 8;
	}
	return r;
}

static int mark_table(const struct marking *m, uint64_t off, uint8_t *buf, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(m->img);
	uint64_t from = 0, to = 0;
	int r = plt_store_read(m->img->file, off, buf, q->cluster_size, PLT_IO_L2, err);

	if (r == 0)
		r = mark_entries(m, buf, &from, &to, err);
	if (r < 0 || from >= to)
		return r;
	from = plt_align_down(from, m->img->slice);
	to = plt_align_up(to, m->img->slice);
	r = plt_store_write(m->img->file, off + from, buf + from, (size_t)(to - from), PLT_IO_L2, err);
	plt_meta_forget(m->img, off + from, to - from);
	return r;
}

static int mark_some(void *arg, unsigned n)
{
	struct marking *m = arg;
	uint8_t *buf = plt_alloc_io(qcow2_of(m->img)->cluster_size);
	int r = buf ? 0 : plt_error_set(&m->err[n], ENOMEM, "out of memory");
	size_t i;

	while (r == 0 && !atomic_load(&m->failed) && (i = atomic_fetch_add(&m->next, 1)) < m->t->ntables)
		r = mark_table(m, m->t->table[i], buf, &m->err[n]);
	if (r < 0)
		atomic_store(&m->failed, true);
	free(buf);
	return r;
}

static int mark_all(struct marking *m, struct plt_error *err)
{
	unsigned workers = m->t->ntables < 2 * WORKERS ? 1 : WORKERS;
	int r;

	for (unsigned i = 0; i < workers; i++)
		m->err[i] = (struct plt_error)PLT_ERROR_INIT;
	r = plt_ctx_parallel(m->img->ctx, workers, mark_some, m);
	for (unsigned i = 0; r < 0 && i < workers; i++)
		if (m->err[i].code)
			return plt_error_set(err, m->err[i].code, "%s", m->err[i].text);
	return r;
}

int qcow2_tree_share(struct plt_image *img, struct qcow2_tree *t, struct plt_error *err)
{
	struct marking m = { .img = img, .t = t };

	for (uint32_t i = 0; i < t->l1_size; i++)
		t->l1[i] &= ~plt_cpu_to_be64(QCOW2_COPIED);
	return mark_all(&m, err);
}

/* The L1 entries whose table is the active tree's alone; those tables are *ret. */
static int own_tables(struct plt_image *img, uint64_t *l1, struct qcow2_tree *ret, bool *ret_changed,
		      struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r = 0;

	*ret_changed = false;
	for (uint32_t i = 0; r == 0 && i < q->l1_size; i++) {
		uint64_t e = plt_be64_to_cpu(l1[i]), off = e & QCOW2_L1_OFFSET;
		bool own = false;

		if (!off || qcow2_l1_check(img, i, e, NULL) < 0)
			continue;
		r = only_one(img, off, &own, err);
		if (r < 0 || !own)
			continue;
		ret->table[ret->ntables++] = off;
		if (e & QCOW2_COPIED)
			continue;
		l1[i] = plt_cpu_to_be64(e | QCOW2_COPIED);
		*ret_changed = true;
	}
	return r;
}

int qcow2_copied_on(struct plt_image *img, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	struct qcow2_tree t = { .l1_size = q->l1_size };
	struct marking m = { .img = img, .t = &t, .on = true };
	bool changed = false;
	int r = 0;

	t.l1 = malloc(((size_t)q->l1_size + 1) * 8);
	t.table = malloc(((size_t)q->l1_size + 1) * sizeof(*t.table));
	if (!t.l1 || !t.table)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0 && q->l1_size)
		r = plt_store_read(img->file, q->l1_offset, t.l1, (size_t)q->l1_size * 8, PLT_IO_L1, err);
	if (r == 0)
		r = own_tables(img, t.l1, &t, &changed, err);
	if (r == 0)
		r = mark_all(&m, err);
	if (r == 0 && changed) {
		r = plt_store_write(img->file, q->l1_offset, t.l1, (size_t)q->l1_size * 8, PLT_IO_L1, err);
		plt_meta_forget(img, q->l1_offset, (uint64_t)q->l1_size * 8);
	}
	qcow2_tree_release(&t);
	return r;
}

int qcow2_tree_write_l1(struct plt_image *img, const struct qcow2_tree *t, uint64_t host_off, uint64_t clusters,
			struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	PLT_AUTOFREE uint8_t *buf = calloc(clusters, q->cluster_size);

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	memcpy(buf, t->l1, (size_t)t->l1_size * 8);
	plt_meta_forget(img, host_off, clusters << q->cluster_bits);
	return plt_store_write(img->file, host_off, buf, (size_t)(clusters << q->cluster_bits), PLT_IO_L1, err);
}
