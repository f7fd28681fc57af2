/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is done to a qcow2 beside its guest: bitmaps are added and changed, options amended, the size changed, snapshots
 * made and gone back to, and what a backing file has given up again.
 */
#include "tests/fault/scenarios.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "qcow2/qcow2.h"
#include "tests/unit.h"

/* ---- bitmaps and options --------------------------------------------------------------------- */

/* A bitmap of ones, as convert adds it. */
static int add_bitmap(struct rig *r, const char *name, bool enabled)
{
	struct plt_bitmap_wish v[8] = { { .keep = 0 } };
	struct plt_image *img = plt_disk_image(r->disk);
	const struct plt_bitmap_info *have;
	uint64_t bits[16], nbits = plt_div_up(r->size, 512);
	unsigned n;
	int result = qcow2_bitmaps_list(img, &have, &n);

	ck_assert_int_eq(result, 0);
	ck_assert_uint_lt(n, PLT_ARRAY_SIZE(v));
	ck_assert_uint_le(nbits, 64 * PLT_ARRAY_SIZE(bits));
	for (uint64_t w = 0; w < PLT_ARRAY_SIZE(bits); w++)
		bits[w] = (w + 1) * 64 <= nbits ? UINT64_MAX :
			  w * 64 < nbits	? (UINT64_C(1) << nbits % 64) - 1 :
						  0;
	for (unsigned i = 0; i < n; i++) {
		if (!strcmp(have[i].name, name))
			return 0; /* of an attempt that failed behind that */
		v[i] = (struct plt_bitmap_wish){ .info = have[i], .keep = (int)i };
	}
	v[n] = (struct plt_bitmap_wish){ .info = { .name = (char *)(uintptr_t)name, .granularity = 512,
						   .enabled = enabled }, .keep = -1, .bits = bits };
	return qcow2_bitmaps_set(img, v, n + 1, &r->err);
}

static int change(struct rig *r, const struct plt_bitmap_action *v, unsigned n)
{
	int result = plt_bitmap_change(r->disk, v, n, NULL, &r->err);

	/* of an attempt that failed behind what makes it so */
	return result == -EEXIST || result == -ENOENT ? 0 : result;
}

/* Two that come and go together, between writes; and all that can be done to one, while others are kept. */
static int run_changed_bitmaps(struct rig *r)
{
	static const struct plt_bitmap_action pair[] = {
		{ .verb = PLT_BITMAP_ADD, .name = "pair1" },
		{ .verb = PLT_BITMAP_ADD, .name = "pair2", .granularity = 512 },
		{ .verb = PLT_BITMAP_MERGE, .name = "pair1", .source_name = "ones" },
		{ .verb = PLT_BITMAP_MERGE, .name = "pair2", .source_name = "ones" },
		{ .verb = PLT_BITMAP_DISABLE, .name = "pair2" },
	};
	static const struct plt_bitmap_action swap[] = {
		{ .verb = PLT_BITMAP_ENABLE, .name = "pair2" },
		{ .verb = PLT_BITMAP_DISABLE, .name = "pair1" },
	};
	static const struct plt_bitmap_action refill[] = {
		{ .verb = PLT_BITMAP_CLEAR, .name = "ones" },
		{ .verb = PLT_BITMAP_MERGE, .name = "ones", .source_name = "pair1" },
	};
	static const struct plt_bitmap_action gone[] = {
		{ .verb = PLT_BITMAP_REMOVE, .name = "pair1" },
		{ .verb = PLT_BITMAP_REMOVE, .name = "pair2" },
	};

	TRY(add_bitmap(r, "ones", false)); /* before anything is written */
	TRY(change(r, pair, PLT_ARRAY_SIZE(pair)));
	TRY(rig_write(r, 64, 512));
	TRY(change(r, swap, PLT_ARRAY_SIZE(swap)));
	TRY(rig_write(r, 8 * KIB, 2 * KIB));
	TRY(rig_flush(r));
	TRY(change(r, refill, PLT_ARRAY_SIZE(refill)));
	TRY(rig_write(r, 20 * KIB, KIB));
	TRY(change(r, gone, PLT_ARRAY_SIZE(gone)));
	return rig_write(r, 24 * KIB, 64);
}

static int run_added_bitmaps(struct rig *r)
{
	TRY(rig_write(r, 64, 512));
	TRY(rig_flush(r));
	TRY(add_bitmap(r, "more, with a name that takes the directory into a second cluster, as its entries do "
			  "where names are as long as this one is, and the clusters as small as they may be; so "
			  "that there is one more thing that can be torn by a power cut, and be found to have been "
			  "torn by those who come later to look at it, which is what this is all about: it goes on "
			  "for as long as it takes, and that is four hundred and a few bytes more than one thinks, "
			  "when one begins to write such a name down by hand", true));
	TRY(rig_write(r, 8 * KIB, 2 * KIB));
	TRY(rig_flush(r));
	TRY(add_bitmap(r, "off", false));
	TRY(rig_write(r, 16 * KIB, 64));
	return 0;
}

static int amend(struct rig *r, const char *options)
{
	const char *texts[] = { options, NULL };

	return plt_amend(r->disk, texts, 0, NULL, NULL, &r->err);
}

/* Every width, with writes that use the counts of it. */
static int run_widths(struct rig *r)
{
	static const char *const widths[] = { "refcount_bits=64", "refcount_bits=1", "refcount_bits=8", "refcount_bits=2",
					      "refcount_bits=32", "refcount_bits=16" };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(widths); i++) {
		TRY(rig_write(r, i * 2 * KIB + 64, 512));
		TRY(amend(r, widths[i]));
		TRY(rig_write(r, 8 * KIB + i * KIB, 2 * KIB + 64));
		TRY(rig_discard(r, i * KIB, KIB));
		TRY(rig_flush(r));
	}
	return 0;
}

/* To version 2 and back, over zero clusters of both kinds. */
static int run_versions(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_write(r, 0, 4 * cs));
	TRY(rig_zero(r, cs, cs, 0));
	TRY(rig_zero(r, 6 * cs, 2 * cs, PLT_ZERO_UNMAP));
	TRY(rig_flush(r));
	TRY(amend(r, "compat=0.10,refcount_bits=16"));
	TRY(rig_write(r, 2 * cs + 64, 64));
	TRY(rig_flush(r));
	TRY(amend(r, "compat=1.1,lazy_refcounts=on,refcount_bits=8"));
	TRY(rig_zero(r, 3 * cs, cs, 0));
	TRY(rig_write(r, 9 * cs + 64, cs));
	TRY(rig_flush(r));
	TRY(amend(r, "lazy_refcounts=off"));
	return rig_write(r, 11 * cs, 64);
}

/* ---- another size ------------------------------------------------------------------------------ */

/* The L1 table moves; its old place becomes something else. */
static int run_grow(struct rig *r)
{
	TRY(rig_write(r, 64, 2 * KIB));
	TRY(rig_write(r, r->disk_size - 64, 64));
	TRY(rig_flush(r));
	TRY(rig_resize(r, 2 * r->disk_size + 512));
	TRY(rig_write(r, r->disk_size - KIB, KIB));
	TRY(rig_flush(r));
	TRY(rig_resize(r, r->size));
	TRY(rig_write(r, 8 * KIB + 64, 24 * KIB));
	TRY(rig_write(r, r->size - 4 * KIB, 2 * KIB));
	return rig_flush(r);
}

/* The new L1 table is longer than what a block of counts covers. */
static int run_long_table(struct rig *r)
{
	TRY(rig_write(r, 64, 2 * KIB));
	TRY(rig_flush(r));
	TRY(rig_resize(r, r->size));
	TRY(rig_write(r, r->size - 4 * KIB, 2 * KIB));
	TRY(rig_write(r, 8 * KIB, 3 * KIB));
	return rig_flush(r);
}

/* To within a cluster, so that what was behind the end lies where the disk grows again. */
static int run_shrink(struct rig *r)
{
	uint64_t cs = rig_cluster(r), old = r->disk_size;

	TRY(rig_resize(r, plt_align_down(old / 2, cs) + 512));
	TRY(rig_flush(r));
	TRY(rig_resize(r, old));
	TRY(rig_write(r, old - cs, 64));
	TRY(rig_flush(r));
	TRY(rig_resize(r, old / 4 + 512));
	TRY(rig_write(r, 0, 4 * cs));
	TRY(rig_flush(r));
	return rig_resize(r, old - 512);
}

static int run_resizes(struct rig *r)
{
	for (unsigned i = 0; i < 40; i++) {
		uint64_t grain = rig_random(r) % 2 ? 512 : rig_cluster(r), size;

		size = PLT_MIN(plt_align_up(1 + rig_random(r) % r->size, grain), r->size);
		TRY(rig_random(r) % 6 ? rig_step(r) : rig_resize(r, size));
	}
	return 0;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

/* Each operation, with writes before and behind that have not been flushed. */
static int run_snapshots(struct rig *r)
{
	uint64_t cs = rig_cluster(r);
	unsigned a = r->nsnapshots, b = a + 1;

	TRY(rig_write(r, 0, 4 * cs));
	TRY(rig_write(r, 12 * cs + 64, cs));
	TRY(rig_snapshot(r));
	TRY(rig_write(r, cs + 64, 64));
	TRY(rig_discard(r, 2 * cs, cs));
	TRY(rig_write(r, 8 * cs, 2 * cs));
	TRY(rig_snapshot(r));
	TRY(rig_write(r, 64, 64));
	TRY(rig_apply(r, a));
	TRY(rig_write(r, 3 * cs, 64));
	TRY(rig_write(r, 9 * cs, 64));
	TRY(rig_delete(r, a));
	TRY(rig_write(r, 0, 2 * cs));
	TRY(rig_apply(r, b));
	TRY(rig_write(r, 12 * cs, cs));
	TRY(rig_delete(r, b));
	return rig_write(r, 4 * cs, 4 * cs);
}

/* The disk has had other sizes. */
static int run_snapshot_sizes(struct rig *r)
{
	uint64_t cs = rig_cluster(r);
	unsigned a = r->nsnapshots, b = a + 1;

	TRY(rig_write(r, 0, 2 * cs));
	TRY(rig_snapshot(r));
	TRY(rig_resize(r, r->size));
	TRY(rig_write(r, r->size - 2 * cs, cs));
	TRY(rig_snapshot(r));
	TRY(rig_apply(r, a));
	TRY(rig_write(r, cs, cs));
	TRY(rig_flush(r));
	TRY(rig_apply(r, b));
	TRY(rig_write(r, r->size - cs, 64));
	TRY(rig_delete(r, a));
	return rig_delete(r, b);
}

static int run_random_snapshots(struct rig *r)
{
	unsigned first = 0; /* those before it are deleted */

	for (unsigned i = 0; i < 40; i++) {
		unsigned what = rig_random(r) % 20, n = r->nsnapshots - first;

		if (what == 0 && n < 4)
			TRY(rig_snapshot(r));
		else if (what == 1 && n)
			TRY(rig_apply(r, first + rig_random(r) % n));
		else if (what == 2 && n)
			TRY(rig_delete(r, first++));
		else
			TRY(rig_step(r));
	}
	return 0;
}

/* ---- given up ------------------------------------------------------------------------------- */

/* What has been brought in from below is given up again for what is there; and what is free in the file goes. */
static int trim(struct plt_image *img, void *arg, struct plt_error *err)
{
	return img->drv->trim(img, false, arg, err);
}

static int run_given_up(struct rig *r)
{
	uint64_t cs = rig_cluster(r), bytes;

	TRY(rig_read(r, 0, 12 * cs));
	TRY(rig_write(r, 3 * cs, cs / 2));
	TRY(rig_write(r, 9 * cs, 2 * cs));
	TRY(rig_flush(r));
	TRY(plt_disk_uncover(r->disk, 0, 3 * cs, &r->err));
	TRY(rig_write(r, cs, cs));
	TRY(plt_disk_uncover(r->disk, 5 * cs, 4 * cs, &r->err));
	TRY(rig_read(r, 5 * cs, 2 * cs));
	TRY(rig_discard(r, 9 * cs, cs));
	TRY(plt_image_exclusive(plt_disk_image(r->disk), false, trim, &bytes, &r->err));
	TRY(rig_write(r, 14 * cs, 3 * cs));
	TRY(rig_write(r, 7 * cs, cs));
	TRY(rig_flush(r));
	TRY(plt_disk_uncover(r->disk, 5 * cs, cs, &r->err));
	TRY(plt_image_exclusive(plt_disk_image(r->disk), false, trim, &bytes, &r->err));
	return rig_write(r, 18 * cs, cs);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* clang-format off */
const struct scenario scenarios_manage[] = {
	{ "bitmap, added", { .options = "cluster_size=512", .size = 32 * KIB, .bitmap = true },
	  NULL, run_added_bitmaps, 0 },
	{ "changed bitmaps", { .options = "cluster_size=512", .size = 32 * KIB, .bitmap = true, .backing = true },
	  NULL, run_changed_bitmaps, 0 },
	{ "changed bitmaps, larger clusters", { .options = "cluster_size=4096", .size = 32 * KIB, .bitmap = true },
	  NULL, run_changed_bitmaps, 0 },
	{ "amended widths", { .options = "cluster_size=512", .size = 32 * KIB },
	  NULL, run_widths, 800 },
	{ "amended widths, backing", { .options = "cluster_size=1024", .size = 32 * KIB, .backing = true },
	  NULL, run_widths, 800 },
	{ "amended versions", { .options = "cluster_size=512", .size = 32 * KIB },
	  NULL, run_versions, 800 },
	{ "amended versions, backing", { .options = "cluster_size=1024", .size = 64 * KIB, .backing = true },
	  NULL, run_versions, 800 },
	{ "grow", { .options = "cluster_size=512", .size = 160 * KIB, .first_size = 40 * KIB },
	  NULL, run_grow, 0 },
	{ "grow, backing",
	  { .options = "cluster_size=512,refcount_bits=64", .size = 160 * KIB, .first_size = 40 * KIB,
	    .backing = true },
	  NULL, run_grow, 0 },
	{ "grow, long table",
	  { .options = "cluster_size=512,refcount_bits=64", .size = 136 * 1024 * KIB, .first_size = 40 * KIB },
	  NULL, run_long_table, 24 },
	{ "shrink", { .options = "cluster_size=4096", .size = 128 * KIB },
	  scenario_prepare_full, run_shrink, 0 },
	{ "shrink, backing", { .options = "cluster_size=1024", .size = 96 * KIB, .backing = true },
	  scenario_prepare_full, run_shrink, 0 },
	{ "shrink, shared", { .options = "cluster_size=4096", .size = 2560 * KIB },
	  scenario_prepare_snapshot, run_shrink, 0 },
	{ "resizes", { .options = "cluster_size=512", .size = 96 * KIB, .first_size = 30 * KIB,
	    .backing = true },
	  NULL, run_resizes, 0 },
	{ "resizes, lazy",
	  { .options = "cluster_size=1024,lazy_refcounts=on,refcount_bits=64", .size = 96 * KIB },
	  NULL, run_resizes, 0 },
	{ "resizes, subclusters",
	  { .options = "cluster_size=16384,extended_l2=on", .size = 256 * KIB, .backing = true },
	  NULL, run_resizes, 0 },
	{ "resizes, bitmap",
	  { .options = "cluster_size=512", .size = 64 * KIB, .bitmap = true },
	  NULL, run_resizes, 0 },
	{ "snapshots", { .options = "cluster_size=512", .size = 32 * KIB, .backing = true },
	  NULL, run_snapshots, 0 },
	{ "snapshots, lazy", { .options = "cluster_size=512,lazy_refcounts=on", .size = 32 * KIB },
	  NULL, run_snapshots, 0 },
	{ "snapshots, subclusters", { .options = "cluster_size=16384,extended_l2=on", .size = 256 * KIB, .backing = true },
	  NULL, run_snapshots, 0 },
	{ "snapshot sizes", { .options = "cluster_size=512", .size = 160 * KIB, .first_size = 30 * KIB, .backing = true },
	  NULL, run_snapshot_sizes, 0 },
	{ "random snapshots", { .options = "cluster_size=512,refcount_bits=8", .size = 32 * KIB, .backing = true },
	  NULL, run_random_snapshots, 0 },
	{ "random snapshots, bitmap", { .options = "cluster_size=1024", .size = 64 * KIB, .bitmap = true },
	  NULL, run_random_snapshots, 0 },
	{ "given up", { .options = "cluster_size=512", .size = 32 * KIB, .backing = true, .copies = true }, NULL, run_given_up, 0 },
	{ "given up, subclusters",
	  { .options = "cluster_size=16384,extended_l2=on", .size = 512 * KIB, .backing = true, .copies = true }, NULL,
	  run_given_up, 0 },
};
/* clang-format on */
const unsigned scenarios_manage_count = PLT_ARRAY_SIZE(scenarios_manage);
