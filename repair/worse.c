/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A plan never makes less of a disk readable than there was.  What a header says of all the rest is read anew where
 * a plan changes it: one that mistakes the size of clusters would cost the whole disk.  So of such a plan the disk
 * before it, if it opens, is held against the disk after it: how much of it is mapped and there, and how many
 * pieces of the guest's metadata verify where they lie.
 */
#include <string.h>

#include "guestfs/weigh.h"
#include "repair/repair.h"

#define HEADER 512u
#define SOME 8        /* pieces of metadata that verify only after the plan */
#define FLAGS 72u     /* of a qcow2, 8 bytes that say nothing of the map: */
#define FLAGS_END 80u /* dirty, corrupt */

struct worth {
	uint64_t readable, good;
};

static int add_up(struct plt_disk *disk, uint64_t *ret)
{
	uint64_t size = plt_disk_size(disk);
	struct plt_extent x[64];
	int r = 0;

	for (uint64_t off = 0; off < size && r == 0;) {
		unsigned n;

		r = plt_status(disk, off, size - off, PLT_STATUS_NO_HOST, x, PLT_ARRAY_SIZE(x), &n, NULL);
		for (unsigned i = 0; i < n && r == 0; i++) {
			if (x[i].flags & PLT_EXTENT_DATA && !(x[i].flags & PLT_EXTENT_DAMAGED))
				*ret += x[i].len;
			off = x[i].off + x[i].len;
		}
	}
	return r;
}

/* Of the image in @overlay; -errno: it does not open. */
static int weigh(struct plt_repair *rep, struct plt_store *overlay, struct worth *ret)
{
	struct plt_rescue_plan plan = { .overlay = plt_store_ref(overlay), .format = strdup(rep->format) };
	const struct plt_weigh how = { .most = PLT_WEIGH_ALL };
	struct plt_weighed guest;
	struct plt_disk *disk;
	int r;

	*ret = (struct worth){ 0 };
	if (!plan.format) {
		plt_rescue_plan_release(&plan);
		return -ENOMEM;
	}
	r = plt_disk_open_planned(rep->ctx, &plan, rep->size, rep->name, NULL, &disk, NULL);
	if (r < 0)
		return r;
	r = add_up(disk, &ret->readable);
	if (r == 0)
		r = plt_guest_weigh_disk(disk, &how, &guest, NULL);
	ret->good = r == 0 ? guest.good : 0;
	plt_disk_close(disk, NULL);
	return r;
}

static int is_of_header(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	(void)arg;
	(void)bytes;
	return off < FLAGS || (off < HEADER && off + len > FLAGS_END);
}

bool plt_repair_is_worse(struct plt_repair *rep)
{
	struct worth before, after;
	struct plt_store *now;
	int r;

	if (!plt_repair_each(rep, is_of_header, NULL) || plt_overlay_new(rep->file, false, &now) < 0)
		return false;
	r = weigh(rep, now, &before);
	plt_store_unref(now);
	if (r < 0 || !before.readable)
		return false; /* there is nothing to lose */
	r = weigh(rep, rep->overlay, &after);
	/* the guest's word counts; where it has none before and after, so does the half of what was there */
	return r < 0 || after.good < before.good || (!before.good && after.good < SOME && after.readable < before.readable / 2);
}
