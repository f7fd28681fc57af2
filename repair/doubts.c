/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What a plan leaves lost or inferred: of the disk that the image has then, and of each of its internal snapshots,
 * each opened on the overlay as --rescue opens it, so that both name the same.  Invariant: a snapshot that cannot
 * even be opened is lost as a whole, not left out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/driver.h"
#include "repair/repair.h"

#define VIEWS_MAX 256 /* snapshots whose maps are walked; of more, what the plan itself says of them is told */

struct telling {
	struct plt_repair *rep;
	int (*fn)(void *arg, const struct plt_doubt_range *d);
	void *arg;
	const char *snapshot;
};

static int tell(void *arg, const struct plt_doubt_range *d)
{
	const struct telling *t = arg;
	struct plt_doubt_range of = *d;

	of.snapshot = t->snapshot;
	return t->fn(t->arg, &of);
}

static int open_view(struct plt_repair *rep, const struct plt_snapshot_info *snapshot, struct plt_disk **ret,
		     struct plt_error *err)
{
	struct plt_rescue_plan plan = { .overlay = plt_store_ref(rep->overlay), .format = strdup(rep->format),
					.before = rep->before, .left = rep->before };
	int r = plan.format ? 0 : -ENOMEM;

	for (size_t i = 0; i < rep->doubts.n && r == 0; i++)
		r = plt_doubts_set(&plan.doubts, &rep->doubts.v[i]);
	if (r < 0) {
		plt_rescue_plan_release(&plan);
		return plt_error_set(err, -r, "out of memory");
	}
	return plt_disk_open_planned(rep->ctx, &plan, rep->size, rep->name, snapshot, ret, err);
}

/* What the plan says of the snapshot at @index of the table. */
static int tell_planned(struct telling *t, unsigned index)
{
	static const char *const certainties[] = { "guess", "likely", "strong", "proven" };
	const struct plt_doubts *all = &t->rep->doubts;
	int r = 0;

	for (size_t i = 0; i < all->n && r == 0; i++) {
		const struct plt_doubt *d = &all->v[i];
		const struct plt_doubt_range of = {
			.off = d->off, .len = d->len, .lost = d->kind == PLT_LOST, .why = d->why,
			.certainty = d->kind == PLT_LOST ? NULL : certainties[d->certainty & 3],
		};

		if (d->disk == index)
			r = tell(t, &of);
	}
	return r;
}

static int tell_snapshot(struct telling *t, const struct plt_snapshot_info *s, unsigned index, uint64_t size,
			 struct plt_error *err)
{
	struct plt_doubt_range all = { .len = s->disk_size ? s->disk_size : size, .lost = true,
				       .why = "the snapshot cannot be opened" };
	struct plt_disk *view;
	int r;

	t->snapshot = s->id;
	if (index >= VIEWS_MAX)
		return tell_planned(t, index);
	r = open_view(t->rep, s, &view, err);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		return tell(t, &all);
	}
	if (plt_disk_image(view)->disk == index)
		r = plt_disk_doubts(view, tell, t, err);
	else /* (another one of the same id and name) */
		r = tell_planned(t, index);
	plt_disk_close(view, NULL);
	return r;
}

/* Was anything wrong at all? */
static bool is_sound(const struct plt_repair *rep)
{
	const struct plt_check_result *b = &rep->before;

	return !rep->doubts.n && !b->corruptions && !b->added && !b->check_errors && !b->corruptions_fixed;
}

int plt_repair_doubts(struct plt_repair *rep, int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg,
		      struct plt_error *err)
{
	struct telling t = { rep, fn, arg, NULL };
	const struct plt_snapshot_info *s;
	struct plt_disk *disk;
	struct plt_image *img;
	unsigned n = 0;
	int r = open_view(rep, NULL, &disk, err);

	if (r < 0)
		return r;
	r = plt_disk_doubts(disk, tell, &t, err);
	img = plt_disk_image(disk);
	if (r == 0 && !is_sound(rep) && img->drv->snapshots && img->drv->snapshots(img, &s, &n) < 0)
		n = 0;
	for (unsigned i = 0; i < n && r == 0; i++)
		r = tell_snapshot(&t, &s[i], i, plt_disk_size(disk), err);
	plt_disk_close(disk, NULL);
	return r;
}
