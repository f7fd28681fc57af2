/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_SNAPTREE_H
#define PLT_QCOW2_SNAPTREE_H

/*
 * All that one L1 table reaches, for work on whole trees: an internal snapshot counts everything in the tree once
 * more, or once less.  All of it blocks, and the caller is exclusive, with everything flushed: the tables are read
 * and written beside the cache.
 */
#include "qcow2/mapping.h"

struct qcow2_tree {
	uint64_t *l1;        /* entries as stored, in host order */
	uint32_t l1_size;
	uint64_t *table;     /* its L2 tables, ascending; each once */
	size_t ntables;
	/*
	 * Clusters of data, ascending: first << 16 | how many - 1.  A cluster that is named more than once
	 * (compressed data share clusters) is in as many runs.  None crosses a slice of counts.
	 */
	uint64_t *run;
	size_t nruns;
};

/* -EUCLEAN or -EIO with text: an entry cannot be followed, or a table is named twice. */
int qcow2_tree_read(struct plt_image *img, uint64_t l1_offset, uint32_t l1_size, struct qcow2_tree *ret,
		    struct plt_error *err);
void qcow2_tree_release(struct qcow2_tree *t);
/*
 * Would all counts of the tree be within bounds after @delta (1 or -1)?  -EUCLEAN: a count is too low already;
 * -ERANGE: one would be too high.
 */
int qcow2_tree_check(struct plt_image *img, const struct qcow2_tree *t, int delta, struct plt_error *err);
/* Once more each, in the cache.  On failure none has changed, or the text says that some leak. */
int qcow2_tree_raise(struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err);
/* Takes that back: nothing names the tree once more. */
void qcow2_tree_unraise(struct plt_image *img, const struct qcow2_tree *t);
/* Once less each; what nothing names any more is punched and free.  The removal is durable. */
int qcow2_tree_lower(struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err);
/* COPIED off in the L2 tables of the tree, and in t->l1. */
int qcow2_tree_share(struct plt_image *img, struct qcow2_tree *t, struct plt_error *err);
/* COPIED on wherever the active tree is the only one that names something.  Its counts are durable. */
int qcow2_copied_on(struct plt_image *img, struct plt_error *err);
/* t->l1 at @host_off, padded to whole clusters. */
int qcow2_tree_write_l1(struct plt_image *img, const struct qcow2_tree *t, uint64_t host_off, uint64_t clusters,
			struct plt_error *err);

#endif
