/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_MEND_ORPHANS_H
#define PLT_QCOW2_MEND_ORPHANS_H

/* What orphans.c finds out of clusters that nothing reaches, and orphans_judge.c says what it means. */
#include "qcow2/check.h"

struct qcow2_orphan_table {
	uint64_t off;
	bool l2;        /* it has the shape of an L2 table */
	bool l1;        /* of an L1 table, or a part of one: what it names are L2 tables, all of it */
	bool explained; /* an orphan L1 names it, and the active one has other tables */
	bool named;     /* an orphan L1 names it, and the active one has nothing */
	uint64_t slot;  /* which; UINT64_MAX: several */
};

/* What is known of a cluster. */
enum { QCOW2_IS_ORPHAN = 1, QCOW2_HAS_CONTENT = 2, QCOW2_IS_EXPLAINED = 4 };

struct qcow2_census {
	struct qcow2_exam *x;
	struct plt_extents all;     /* orphans, whole clusters */
	uint8_t *mark;              /* one a cluster; touched only where orphans are */
	uint64_t mark_len;
	struct qcow2_orphan_table *v;
	uint32_t n, cap;
	uint64_t *seen;             /* of one table: its targets */
	uint64_t *l1;               /* the place in the file that active L1 entry i names; 0: none */
	bool l1_any;                /* some of them does */
	bool uncounted;             /* counts were lost */
	bool emptied;               /* none does, and that is what the disk was in a snapshot: it may have been applied */
	uint64_t highest;           /* host offset behind the last cluster that is mapped; 0: none */
	uint8_t *buf, *l1_buf;
};

static inline uint8_t *qcow2_census_mark(struct qcow2_census *c, uint64_t off)
{
	uint64_t k = off >> c->x->q.cluster_bits;

	return &c->mark[k < c->mark_len ? k : c->mark_len - 1]; /* (one more than there are clusters) */
}

/* What is in c->seen: the place, and whether it is compressed data. */
static inline uint64_t qcow2_seen_off(uint64_t v)
{
	return v >> 1;
}

static inline bool qcow2_census_l1_has(const struct qcow2_census *c, uint64_t index)
{
	return index < c->x->q.l1_size && c->l1[index];
}

/*
 * Table by shape, as far as @len bytes show: *ret_n clusters that it names go to c->seen, sorted.  The table of a
 * bitmap has the same shape but for the marks, which entries of an L2 table have as a rule: without any, in an image
 * with bitmaps, it is taken for that.
 */
bool qcow2_looks_like_table(struct qcow2_census *c, const uint8_t *p, uint32_t len, uint32_t *ret_n);
/* A whole cluster, into c->buf. */
int qcow2_census_read(struct qcow2_census *c, uint64_t off);
/* What lies there is known, and was not the guest's. */
void qcow2_census_explain(struct qcow2_census *c, uint64_t off);

/* orphans_judge.c: the verdict, when all of them have been looked at and orphan L1 tables followed. */
int qcow2_census_judge(struct qcow2_census *c);

#endif
