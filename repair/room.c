/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A device is mostly larger than the image on it (a logical volume grows in large steps): what a repair adds goes behind the
 * end of the image, not of the device.  Where the image ends its counts say, and what is in use; so this is only asked where
 * nothing is wrong with the counts and what leads to them.  The invariant: what may be a part of the image lies before the
 * end that is found.  What lies behind it is nobody's, and in the undo journal all the same.
 */
#include <string.h>

#include "repair/repair.h"

/*
 * What makes it doubtful where the image ends: counts that are not there.  (Of one that is only too low or too high, the
 * cluster is counted all the same.)
 */
static void found(void *arg, const struct plt_check_finding *f)
{
	static const char *const ids[] = { "Q-HDR", "Q-HDR-DIRTY", "Q-REF", "Q-REF-TABLE", "Q-REF-BLOCK", "Q-REF-READ",
					   "Q-REF-OUTSIDE", "Q-READ", "Q-TRUNC" };
	bool *doubtful = arg;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(ids); i++)
		*doubtful = *doubtful || !strcmp(f->id, ids[i]);
	*doubtful = *doubtful || (!strcmp(f->id, "Q-REF-LOW") && strstr(f->text, " refcount=0 "));
}

int plt_repair_find_end(struct plt_repair *rep, struct plt_error *err)
{
	struct plt_check_result res;
	bool doubtful = false;
	uint64_t size = 0;
	int r;

	if (rep->part || !rep->format || strcmp(rep->format, "qcow2") || strcmp(rep->file->ops->kind, "host_device"))
		return 0;
	r = plt_store_size(rep->file, &size, err);
	if (r < 0 || plt_check_store(rep->ctx, rep->file, rep->name, rep->format, found, &doubtful, &res, NULL) < 0)
		return r;
	if (doubtful || res.check_errors || !res.image_end_offset || res.image_end_offset >= size)
		return 0;
	r = plt_window_new(rep->file, 0, res.image_end_offset, &rep->part, err);
	return r < 0 ? r : plt_repair_reset(rep, err);
}
