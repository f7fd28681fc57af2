/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_MEND_CLUSTERS_H
#define PLT_QCOW2_MEND_CLUSTERS_H

/* A tree of tables into which single clusters go back (clusters.c), until what stays empty is given up (give_up.c). */
#include "qcow2/check.h"

struct qcow2_clusters {
	struct qcow2_exam *x;
	struct qcow2_tree t;
	uint64_t *l1;     /* places of the tables; 0: none */
	uint32_t n;
	uint8_t *table;
	uint64_t *gaps;
	uint32_t ngaps;
	bool full;        /* there are more */
	uint64_t room;    /* for tables of zeros: an L1 table of garbage may ask for any number */
};

static inline uint64_t qcow2_table_span(const struct qcow2_state *q)
{
	return UINT64_C(1) << (q->cluster_bits + q->l2_bits);
}

static inline bool qcow2_table_is_usable(const struct qcow2_clusters *c, uint64_t off)
{
	return off && !(off & (c->x->q.cluster_size - 1)) && off < c->x->c.file_size;
}

static inline bool qcow2_slot_is_empty(const struct qcow2_state *q, const uint8_t *table, uint32_t i)
{
	const uint8_t *p = table + (size_t)i * q->l2_entry_size;

	return !plt_get_be64(p) && (!q->extl2 || !plt_get_be64(p + 8));
}

/* clusters.c: the places that are empty and may have been lost go to c->gaps */
int qcow2_find_gaps(struct qcow2_clusters *c);
int qcow2_doubt_gaps(struct qcow2_clusters *c); /* and are named lost */
/* The table of L1 entry @index, in c->table; *ret: where it is written to, behind the end of the file. */
int qcow2_fresh_table(struct qcow2_clusters *c, uint32_t index, uint64_t *ret);
/* give_up.c */
int qcow2_give_up(struct qcow2_clusters *c);

#endif
