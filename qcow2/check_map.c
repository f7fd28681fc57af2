/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * L1 and L2 tables for the recount.  L2 tables are gathered from all L1 tables, sorted by place and
 * merged, so that one that a hundred snapshots share is read once and counted a hundred times; then
 * they are scanned by all cores, neighbours in one request.  The scan counts, and flags a table if
 * anything in it is not the plainest case.  It says nothing itself: check.c and recover.c look at
 * flagged tables again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "qcow2/check.h"

#define PIECE (64u << 10) /* of an L1 table */
#define BATCH (1u << 20)  /* of neighbouring L2 tables */

/*
 * Tables in a hole of the file are zeros, and are not read: a file of a few megabytes may name more
 * gigabytes of them than a check has time for.
 */
uint64_t qcow2_hole_at(const struct qcow2_recount *c, struct qcow2_host *h, uint64_t off, uint64_t len)
{
	if (off < h->from || off >= h->to) {
		enum plt_store_kind kind;
		uint64_t n;

		*h = (struct qcow2_host){.from = off, .to = UINT64_MAX};
		if (plt_store_extents(c->file, off, c->file_size - off, &kind, &n, NULL) == 0 && n) {
			h->to = off + n;
			h->hole = kind == PLT_STORE_HOLE;
		}
	}
	if (!h->hole)
		return 0;
	return h->to >= c->file_size ? len : PLT_MIN(len, h->to - off);
}

int qcow2_l1_each(struct qcow2_recount *c, uint64_t l1_off, uint32_t l1_size,
		  int (*fn)(void *arg, uint32_t index, uint64_t entry), void *arg)
{
	uint8_t *buf = plt_alloc_io(PIECE);
	uint64_t bytes = (uint64_t)l1_size * 8, n;
	struct qcow2_host host = {0};
	int r = buf ? 0 : -ENOMEM;

	if (l1_off >= c->file_size)
		bytes = 0;
	else /* what lies behind the end reads as zeros */
		bytes = PLT_MIN(bytes, plt_align_up(c->file_size - l1_off, 8));
	for (uint64_t at = 0; !r && at < bytes; at += n) {
		n = plt_align_down(qcow2_hole_at(c, &host, l1_off + at, bytes - at), 8);
		if (n)
			continue;
		n = PLT_MIN((uint64_t)PIECE, bytes - at);
		r = plt_store_read(c->file, l1_off + at, buf, n, PLT_IO_L1, NULL);
		for (uint64_t i = 0; !r && i < n; i += 8) {
			uint64_t e = plt_get_be64(buf + i);

			if (e)
				r = fn(arg, (uint32_t)((at + i) / 8), e);
		}
	}
	free(buf);
	return r;
}

int qcow2_by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* ---- tables in one place --------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
	const struct qcow2_table *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

void qcow2_tables_group(struct qcow2_table *v, uint32_t n, uint32_t *times)
{
	uint64_t end = 0;

	qsort(v, n, sizeof(*v), by_place);
	for (uint32_t i = 0, k; i < n; i += k) {
		for (k = 1; i + k < n && v[i + k].off == v[i].off && v[i + k].len == v[i].len; k++)
			times[v[i + k].index] = 0;
		times[v[i].index] = k;
		if (v[i].off < end)
			for (uint32_t j = 0; j < k; j++)
				times[v[i + j].index] = QCOW2_ASTRAY;
		end = PLT_MAX(end, v[i].off + v[i].len);
	}
}

/* ---- gathering ------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
	uint64_t x = ((const struct qcow2_l2ref *)a)->off, y = ((const struct qcow2_l2ref *)b)->off;

	return x < y ? -1 : x > y;
}

int qcow2_l2_sort(struct qcow2_recount *c)
{
	uint64_t n = 0;

	if (!c->nl2)
		return 0;
	qsort(c->l2, c->nl2, sizeof(*c->l2), by_offset);
	for (uint64_t i = 0; i < c->nl2; i++) {
		if (n && c->l2[n - 1].off == c->l2[i].off) {
			c->l2[n - 1].active += c->l2[i].active;
			c->l2[n - 1].others += c->l2[i].others;
		} else {
			c->l2[n++] = c->l2[i];
		}
	}
	c->nl2 = n;
	return 0;
}

struct collect {
	struct qcow2_recount *c;
	uint32_t active, others; /* how often an entry counts */
};

static int collect_one(void *arg, uint32_t index, uint64_t e)
{
	struct collect *k = arg;
	struct qcow2_recount *c = k->c;

	(void)index;
	if (c->nl2 == c->l2_cap) {
		uint64_t before = c->nl2;

		if (before)
			qcow2_l2_sort(c);
		if (c->nl2 >= before / 2) { /* merging has not made room enough */
			uint64_t cap = c->l2_cap ? c->l2_cap * 2 : 1024;
			void *v = realloc(c->l2, cap * sizeof(*c->l2));

			if (!v)
				return -ENOMEM;
			c->l2 = v;
			c->l2_cap = cap;
		}
	}
	c->l2[c->nl2++] = (struct qcow2_l2ref){
		.off = e & QCOW2_L1_OFFSET,
		.active = k->active,
		.others = k->others,
	};
	return 0;
}

int qcow2_l2_collect(struct qcow2_recount *c, uint64_t l1_off, uint32_t l1_size, bool active, uint32_t times)
{
	struct collect k = {.c = c, .active = active ? times : 0, .others = active ? 0 : times};

	return qcow2_l1_each(c, l1_off, l1_size, collect_one, &k);
}

struct qcow2_l2ref *qcow2_l2_find(const struct qcow2_recount *c, uint64_t off)
{
	struct qcow2_l2ref key = {.off = off};

	return c->nl2 ? bsearch(&key, c->l2, c->nl2, sizeof(*c->l2), by_offset) : NULL;
}

int qcow2_l2_read(struct qcow2_recount *c, uint64_t off, uint8_t *buf)
{
	if (off >= c->file_size) {
		memset(buf, 0, c->q->cluster_size);
		return 0;
	}
	return plt_store_read(c->file, off, buf, c->q->cluster_size, PLT_IO_L2, NULL);
}

/* ---- scanning -------------------------------------------------------------------------------- */

struct scan {
	struct qcow2_recount *c;
	uint64_t per;
	bool lone; /* no snapshots: a cluster that two entries share is wrong */
};

struct tally {
	uint64_t allocated, fragmented, compressed, next; /* next: QEMU's next contiguous offset */
};

/* What a scan has seen in a table. */
enum {
	SEEN_ODD = 1 << 0,	/* there is something to say */
	SEEN_MARK = 1 << 1,	/* a mark that differs from the stored count */
	SEEN_UNMARKED = 1 << 2, /* a cluster without one */
	SEEN_STRANGE = 1 << 3,	/* no program writes it, and no check says so; who mends the table anyway looks at it */
};

static inline unsigned scan_mark(uint64_t e, bool one)
{
	return e & QCOW2_COPIED ? (one ? 0 : SEEN_MARK) : one ? SEEN_MARK | SEEN_UNMARKED : SEEN_UNMARKED;
}

/* Anything but a plain allocated or absent entry. */
static unsigned scan_special(struct qcow2_recount *c, uint64_t e, uint64_t bitmap, uint32_t times,
			     bool lone, struct tally *t)
{
	const struct qcow2_state *q = c->q;
	enum qcow2_entry_type type = qcow2_entry_type(c, e);
	unsigned seen = type != QCOW2_ENTRY_COMPRESSED && (e & QCOW2_L2_RESERVED) ? SEEN_ODD : 0;
	uint64_t off, len;

	/*
	 * The zero bit: not in version 2 (QEMU's check does not look), not with extended entries.
	 */
	if (type != QCOW2_ENTRY_COMPRESSED && (e & QCOW2_L2_ZERO) && (q->version < 3 || q->extl2))
		seen |= SEEN_ODD;
	if (type == QCOW2_ENTRY_COMPRESSED) {
		if (c->external || bitmap)
			return SEEN_ODD;
		len = qcow2_compressed_range(q, e & ~QCOW2_COPIED, &off);
		t->allocated++;
		t->compressed++;
		t->fragmented++;
		if (qcow2_exceeds(c, off, len))
			return SEEN_ODD;
		for (uint64_t k = off >> q->cluster_bits; k <= (off + len - 1) >> q->cluster_bits;
		     k++)
			if (qcow2_was_metadata(c, qcow2_count_cluster(c, k, times)))
				seen |= SEEN_ODD;
		if (off + len > plt_align_up(c->file_size, 512))
			seen |= SEEN_STRANGE;
		return e & QCOW2_COPIED ? seen | SEEN_ODD : seen;
	}
	off = e & QCOW2_L2_OFFSET;
	if (!off && (e & QCOW2_COPIED))
		seen |= SEEN_STRANGE;
	if (type == QCOW2_ENTRY_UNALLOCATED)
		return (uint32_t)bitmap ? seen | SEEN_ODD : seen;
	if (type == QCOW2_ENTRY_ZERO_PLAIN)
		return seen;
	t->allocated++;
	t->fragmented += t->next && off != t->next;
	t->next = off + q->cluster_size;
	if ((off & (q->cluster_size - 1)) || (bitmap >> 32 & bitmap))
		seen |= SEEN_ODD;
	if (c->external) /* (each is asked then whether it lies where the guest has it) */
		return e & QCOW2_COPIED ? seen : seen | SEEN_ODD | SEEN_UNMARKED;
	if (qcow2_exceeds(c, off, q->cluster_size))
		return SEEN_ODD;
	if (off & (q->cluster_size - 1)) {
		/*
		 * Ends in the next cluster, perhaps the first behind the file: cells reach one
		 * further.
		 */
		qcow2_count_cluster(c, (off >> q->cluster_bits) + 1, times);
	}
	{
		unsigned was = qcow2_count_cluster(c, off >> q->cluster_bits, times);

		if (qcow2_was_metadata(c, was) || (lone && qcow2_was_used(c, was)))
			seen |= SEEN_ODD;
		return seen | scan_mark(e, qcow2_was_one(c, was));
	}
}

static unsigned scan_table(struct scan *s, const uint8_t *table, uint32_t times, struct tally *t)
{
	struct qcow2_recount *c = s->c;
	const struct qcow2_state *q = c->q;
	const uint64_t special = QCOW2_L2_RESERVED | QCOW2_COMPRESSED | QCOW2_L2_ZERO |
				 (q->cluster_size - 1);
	const bool extl2 = q->extl2, lone = s->lone;
	const unsigned step = q->l2_entry_size, bits = q->cluster_bits;
	const uint8_t *end = table + q->cluster_size;
	unsigned seen = 0;

	t->next = 0;
	for (const uint8_t *p = qcow2_behind_absent(table, end); p < end; p = qcow2_behind_absent(p + step, end)) {
		uint64_t e = plt_get_be64(p), bitmap = extl2 ? plt_get_be64(p + 8) : 0, off;
		unsigned was;

		if (!(e | bitmap))
			continue;
		off = e & QCOW2_L2_OFFSET;
		if ((e & special) || bitmap || !off || c->external || off >= c->file_size) {
			seen |= scan_special(c, e, bitmap, times, lone, t);
			continue;
		}
		t->allocated++;
		t->fragmented += t->next && off != t->next;
		t->next = off + q->cluster_size;
		was = qcow2_count_cluster(c, off >> bits, times);
		if (qcow2_was_metadata(c, was) || (lone && qcow2_was_used(c, was)))
			seen |= SEEN_ODD;
		seen |= scan_mark(e, qcow2_was_one(c, was));
	}
	return seen;
}

static int scan_part(void *arg, unsigned part)
{
	struct scan *s = arg;
	struct qcow2_recount *c = s->c;
	uint64_t i = part * s->per, end = PLT_MIN(c->nl2, i + s->per), cs = c->q->cluster_size;
	size_t cap = PLT_MAX((uint64_t)BATCH, cs);
	struct qcow2_host host = {0};
	uint8_t *buf;

	/* Memory as the work needs: a part with few tables far apart reads them one by one. */
	cap = PLT_MIN(cap, PLT_MAX(cs, (end - PLT_MIN(i, end)) * cs));
	buf = plt_alloc_io(cap);
	if (!buf)
		return -ENOMEM;
	while (i < end) {
		uint64_t n = 1, first = c->l2[i].off;
		bool whole;

		if (first < c->file_size && qcow2_hole_at(c, &host, first, cs) == cs) {
			c->l2[i++].empty = true;
			continue;
		}
		while (i + n < end && (n + 1) * cs <= cap && c->l2[i + n].off == first + n * cs)
			n++;
		whole = first < c->file_size &&
			plt_store_read(c->file, first, buf, n * cs, PLT_IO_L2, NULL) == 0;
		for (uint64_t k = 0; k < n; k++) {
			struct qcow2_l2ref *l = &c->l2[i + k];
			uint8_t *table = whole ? buf + k * cs : buf;
			struct tally t = {0};
			unsigned seen;

			if (!whole && qcow2_l2_read(c, l->off, buf) < 0) {
				l->flagged = l->odd = true;
				atomic_store(&c->read_failed, true);
				continue;
			}
			seen = scan_table(s, table, l->active + l->others, &t);
			l->flagged = seen & (SEEN_ODD | SEEN_MARK);
			l->odd = seen & (SEEN_ODD | SEEN_STRANGE);
			l->unmarked = seen & SEEN_UNMARKED;
			if (l->active) {
				atomic_fetch_add(&c->allocated, t.allocated * l->active);
				atomic_fetch_add(&c->fragmented, t.fragmented * l->active);
				atomic_fetch_add(&c->compressed, t.compressed * l->active);
			}
		}
		i += n;
	}
	free(buf);
	return 0;
}

int qcow2_l2_scan(struct qcow2_recount *c)
{
	struct scan s = {.c = c, .lone = c->q->nb_snapshots == 0};
	unsigned parts = (unsigned)PLT_MIN(UINT64_C(128), plt_div_up(c->nl2, 4));
	int r;

	if (!c->nl2)
		return 0;
	s.per = plt_div_up(c->nl2, parts);
	r = parts > 1 ? plt_ctx_parallel(c->ctx, parts, scan_part, &s) : scan_part(&s, 0);
	qcow2_count_settle(c);
	return r < 0 ? r : atomic_load(&c->no_memory) ? -ENOMEM : 0;
}
