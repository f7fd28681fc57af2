/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What lies in the file and belongs to nothing: clusters whose count is 0 and which the host still stores, and what is
 * behind the last one in use.  The caller has the image to itself, and has made sure that its counts are right: a count
 * that is too low would cost data here.
 */
#include "base/checked.h"
#include "base/error.h"
#include "qcow2/mapping.h"

/* [off, end) of the file goes, as far as it is stored. */
static int punch(struct plt_image *img, bool trial, uint64_t off, uint64_t end, uint64_t *ret,
		 struct plt_error *err)
{
	uint64_t table, size;
	int r = plt_store_size(img->file, &size, err);

	/* (a table whose count is 0 by mistake is no less of a table) */
	if (r == 0 && qcow2_guard_find(qcow2_of(img), off, end - off, &table))
		return 0;
	end = PLT_MIN(end, size);
	while (r == 0 && off < end) {
		enum plt_store_kind kind;
		uint64_t n;

		r = plt_store_extents(img->file, off, end - off, &kind, &n, err);
		if (r < 0)
			break;
		n = PLT_MIN(n, end - off);
		if (kind == PLT_STORE_DATA && !trial)
			r = plt_store_zero(img->file, off, n, PLT_ZERO_MAY_UNMAP | PLT_ZERO_NO_FALLBACK,
					   PLT_IO_DATA, err);
		if (kind == PLT_STORE_DATA && r == 0)
			*ret += n;
		off += n;
	}
	return r == -ENOTSUP ? 0 : r; /* the host has no holes */
}

int qcow2_trim(struct plt_image *img, bool trial, uint64_t *ret, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t first = 0, count, size;
	int r = trial ? 0 : plt_meta_flush(img, true, err); /* what has been freed is free for good */

	*ret = 0;
	for (uint64_t c = 0; r == 0 && c < q->file_clusters; c++) {
		r = qcow2_count_get(img, c << q->cluster_bits, &count, err);
		if (r == 0 && count) {
			if (first < c)
				r = punch(img, trial, first << q->cluster_bits, c << q->cluster_bits, ret, err);
			first = c + 1;
		}
	}
	if (r == 0)
		r = plt_store_size(img->file, &size, err);
	/* (that it goes as a hole first counts it, whatever the file can) */
	if (r == 0 && first << q->cluster_bits < size)
		r = punch(img, trial, first << q->cluster_bits, size, ret, err);
	return r < 0 || trial ? r : qcow2_cut_file(img, err);
}
