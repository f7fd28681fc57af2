/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A cursor over block status, for those that walk through several disks side by side: it keeps what the last call
 * of plt_status() said of the part ahead.
 */
#include <errno.h>

#include "base/checked.h"
#include "base/error.h"
#include "block/internal.h"

void plt_cursor_init(struct plt_cursor *c, struct plt_disk *disk, unsigned flags)
{
	*c = (struct plt_cursor){ .disk = disk, .size = plt_disk_size(disk), .flags = flags };
}

int plt_cursor_at(struct plt_cursor *c, uint64_t off, const struct plt_extent **ret, struct plt_error *err)
{
	int r;

	while (c->i < c->n && c->ext[c->i].off + c->ext[c->i].len <= off)
		c->i++;
	if (c->i == c->n || c->ext[c->i].off > off) {
		c->i = c->n = 0;
		r = plt_status(c->disk, off, c->size - off, c->flags, c->ext, PLT_ARRAY_SIZE(c->ext), &c->n, err);
		if (!r && (!c->n || c->ext[0].off > off || off - c->ext[0].off >= c->ext[0].len))
			r = plt_error_set(err, EIO, "'%s': no block status of offset %" PRIu64, plt_disk_name(c->disk), off);
		if (r)
			return r;
	}
	*ret = &c->ext[c->i];
	return 0;
}
