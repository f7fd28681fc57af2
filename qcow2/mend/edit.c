/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What all parts of mending change a map with: where an added table goes, an L1 entry, and the names of what is lost or
 * less than proven.
 *
 * The invariant: all writes go into the plan's overlay.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "qcow2/check.h"

const char qcow2_why_overwritten[] = "its part of the map was overwritten";
const char qcow2_why_l1[] = "its L1 entry is damaged";
const char qcow2_why_entry[] = "its L2 entry is damaged";
const char qcow2_why_beyond[] = "the file ends before it";
const char qcow2_why_zero[] = "its L2 entry is zero, and clusters are left that nothing reaches";

int qcow2_fresh_place(struct qcow2_exam *x, uint64_t *ret)
{
	uint64_t size;
	int r = plt_store_size(x->c.file, &size, NULL);

	if (r == 0 && size > QCOW2_MAX_HOST_OFFSET / 2)
		r = -EFBIG;
	if (r == 0)
		*ret = plt_align_up(size, x->q.cluster_size);
	return r;
}

int qcow2_l1_set(struct qcow2_exam *x, const struct qcow2_tree *t, uint32_t index, uint64_t off)
{
	plt_be64 e = plt_be64_make(off);

	x->map_changed = x->ex->mend->changed = true;
	return plt_store_write(x->c.file, t->l1_offset + (uint64_t)index * 8, &e, 8, PLT_IO_L1, NULL);
}

bool qcow2_is_added(const struct qcow2_exam *x, uint64_t off)
{
	return off >= plt_align_up(x->ex->mend->file_size, x->q.cluster_size);
}

int qcow2_leave_behind(struct qcow2_exam *x, uint64_t off)
{
	return plt_extents_add(&x->ex->mend->left, off, x->q.cluster_size);
}

int qcow2_doubt(struct qcow2_exam *x, const struct qcow2_tree *t, enum plt_doubt_kind kind, uint64_t off, uint64_t len,
		enum plt_certainty certainty, const char *why)
{
	struct plt_doubt d = {.kind = kind, .disk = t->disk, .off = off, .certainty = certainty};

	if (off >= t->size)
		return 0;
	d.len = PLT_MIN(len, t->size - off);
	if (kind == PLT_INFERRED && certainty == PLT_PROVEN)
		return plt_doubts_clear(&x->ex->mend->doubts, t->disk, d.off, d.len);
	snprintf(d.why, sizeof(d.why), "%s", why);
	return plt_doubts_set(&x->ex->mend->doubts, &d);
}
