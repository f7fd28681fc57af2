/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Tables on a medium that does not read everywhere.  While a plan is made, and for the image that is shown by it, what
 * cannot be read of tables is zeros, so that evidence can fill them; but an entry of zeros says that nothing was ever there,
 * and that nobody knows.  So the same image is opened once more, with such reads failing: what maps nothing, and could not be
 * asked then, is lost, unless the plan has found out what is there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/engine.h"
#include "io/mapfile.h"

#define STATUS 64
#define RUNS 64
#define STEPS (UINT32_C(1) << 20) /* answers that are looked at; behind them nothing is believed */

/* Lost, but where the plan knows it better: what it has put there, or found that there was nothing. */
static void lose(struct plt_image *img, uint64_t off, uint64_t len)
{
	uint64_t end = off + len, n;

	for (; off < end; off += n)
		if (!plt_rescue_knows(img, off, end - off, &n))
			plt_rescue_note(img, PLT_LOST, off, n, PLT_WHY_UNREAD);
}

/* Of [off, off+len) what maps nothing. */
static int lose_unmapped(struct plt_image *img, uint64_t off, uint64_t len)
{
	PLT_AUTOFREE struct plt_run *v = malloc(RUNS * sizeof(*v));
	uint64_t end = off + len;

	if (!v)
		return -ENOMEM;
	plt_medium_blank(img->engine->rescue->plan.medium, PLT_BLANK_TABLES);
	while (off < end) {
		struct plt_runs runs = { v, 0, RUNS };
		uint64_t at = off;

		if (plt_image_map_wait(img, off, end - off, &runs, NULL) < 0 || !runs.n) {
			plt_rescue_note(img, PLT_LOST, off, end - off, PLT_WHY_UNREAD);
			return 0;
		}
		for (unsigned i = 0; i < runs.n; i++) {
			if (v[i].kind == PLT_RUN_ABSENT || v[i].kind == PLT_RUN_ZERO)
				lose(img, v[i].off, v[i].len);
			off = v[i].off + v[i].len;
		}
		if (off <= at)
			return 0;
	}
	return 0;
}

static int compare(struct plt_image *img, struct plt_disk *strict, struct plt_error *err)
{
	uint64_t size = atomic_load(&img->size);
	struct plt_extent x[STATUS];
	int r = 0;

	for (uint64_t off = 0, steps = 0; off < size && r == 0;) {
		unsigned n = 0;
		uint64_t at = off;

		if (steps < STEPS)
			r = plt_status(strict, off, size - off, PLT_STATUS_NO_HOST | PLT_STATUS_TOP_ONLY, x, STATUS, &n, NULL);
		if (r < 0 || !n || steps >= STEPS)
			return lose_unmapped(img, off, size - off);
		for (unsigned i = 0; i < n && r == 0; i++) {
			if (x[i].flags & PLT_EXTENT_DAMAGED) {
				r = lose_unmapped(img, x[i].off, x[i].len);
				plt_medium_blank(img->engine->rescue->plan.medium, PLT_BLANK_HEADERS);
			}
			off = x[i].off + x[i].len;
		}
		steps += n;
		if (off <= at)
			break;
	}
	return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
}

int plt_unread_find(struct plt_ctx *ctx, struct plt_image *img, uint64_t file_size, struct plt_error *err)
{
	const struct plt_rescue *rsc = img->engine->rescue;
	struct plt_rescue_plan plan = { 0 };
	const struct plt_snapshot_info *v = NULL;
	struct plt_disk *strict = NULL;
	unsigned n = 0;
	int r;

	if (img->drv->flags & PLT_DRIVER_NO_HEADER)
		return 0; /* it has no tables */
	if (img->disk != PLT_DISK_ACTIVE &&
	    (!img->drv->snapshots || img->drv->snapshots(img, &v, &n) < 0 || img->disk >= n)) /* which one it is cannot be told */
		return lose_unmapped(img, 0, atomic_load(&img->size));
	plan.overlay = plt_store_ref(rsc->plan.overlay);
	plan.format = strdup(rsc->plan.format);
	if (!plan.format) {
		plt_rescue_plan_release(&plan);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	plt_medium_blank(rsc->plan.medium, PLT_BLANK_HEADERS);
	r = plt_disk_open_planned(ctx, &plan, file_size, img->name, n ? &v[img->disk] : NULL, &strict, NULL);
	if (r == 0)
		r = compare(img, strict, err);
	else
		r = lose_unmapped(img, 0, atomic_load(&img->size));
	plt_disk_close(strict, NULL);
	plt_medium_blank(rsc->plan.medium, PLT_BLANK_TABLES);
	return r;
}
