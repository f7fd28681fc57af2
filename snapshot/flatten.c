/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_flatten(): a rebase to no backing file, which is refused where it would cost something that nobody asked to lose:
 * internal snapshots that stand on the chain.
 */
#include <errno.h>

#include "base/error.h"
#include "snapshot/snapshot.h"

static int look(struct plt_disk *disk, bool *ret_done, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(disk);
	const char *snapshot;
	int r;

	*ret_done = !img->has_backing;
	if (*ret_done)
		return 0;
	snapshot = plt_snapshot_that_needs_backing(img, &r, err);
	if (snapshot)
		return plt_error_set(err, EBUSY, "'%s': its internal snapshot '%s' reads from the backing file; without that it "
				     "would show zeros there", img->name, snapshot);
	return r;
}

int plt_flatten(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		const struct plt_rebase_options *opts, bool *ret_done, struct plt_error *err)
{
	struct plt_open_options o = *open;
	struct plt_rebase_options to = *opts;
	struct plt_disk *disk;
	bool flat = false;
	int r;

	*ret_done = false;
	o.flags = (o.flags & ~(unsigned)PLT_OPEN_WRITE) | PLT_OPEN_NO_BACKING;
	r = plt_disk_open(ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	r = look(disk, &flat, err);
	plt_disk_close(disk, NULL);
	if (r < 0 || flat)
		return r;
	to.backing = to.backing_format = NULL;
	to.flags &= ~(unsigned)PLT_REBASE_UNSAFE;
	r = plt_rebase(ctx, name, open, &to, err);
	*ret_done = r == 0;
	return r;
}
