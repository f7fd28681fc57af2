/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The scenarios of VHD: every way in which a footer, a table entry or a sector's bit changes.  Blocks
 * are small, so that a few KiB of a guest's writes move the footer often.
 */
#include <string.h>

#include "base/checked.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"
#include "vhd/vhd.h"

/* ---- allocating ------------------------------------------------------------------------------ */

/* Each pair of blocks moves the footer; entries, bits and data are flushed in all mixtures. */
static int run_blocks(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_write(r, cs + 64, 64));
	TRY(rig_write(r, 5 * cs, cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, cs + 192, 640)); /* next to it, partly in the same sector */
	TRY(rig_write(r, 3 * cs - 320, 640)); /* two blocks at once */
	TRY(rig_write(r, 7 * cs + 512, 512));
	TRY(rig_flush(r));
	TRY(rig_write(r, 7 * cs + 448, 1088));
	TRY(rig_write(r, 9 * cs + 64, 2 * cs));
	TRY(rig_zero(r, 5 * cs + 64, 512, 0));
	TRY(rig_write(r, cs + cs / 2, 512)); /* nothing has moved the footer, which syncs, since */
	TRY(rig_flush(r));
	TRY(rig_write(r, 12 * cs, 64));
	return rig_write(r, 14 * cs, 64); /* more is prepared than is used */
}

/* The data is durable before its entry is written, and nothing else. */
static int run_synced_vhd(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	for (unsigned i = 0; i < 8; i++) {
		TRY(rig_write(r, i * 2 * cs + 64, cs / 2));
		TRY(rig_sync(r));
		TRY(rig_write(r, i * 2 * cs + cs / 2 + 128, 64));
		TRY(rig_flush(r));
	}
	return 0;
}

/* ---- freeing --------------------------------------------------------------------------------- */

static void prepare_half(struct rig *r)
{
	rig_open(r);
	rig_must(r, rig_write(r, 0, r->size / 2));
	rig_close(r);
}

static int run_reuse_vhd(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_discard(r, 2 * cs, 3 * cs));
	TRY(rig_zero(r, 6 * cs, cs, PLT_ZERO_UNMAP));
	TRY(rig_flush(r));
	TRY(rig_write(r, 12 * cs + 64, 64)); /* takes what was freed */
	TRY(rig_write(r, 3 * cs + 128, 64));
	TRY(rig_flush(r));
	TRY(rig_zero(r, cs, cs, 0)); /* stays where it is */
	TRY(rig_discard(r, 0, cs));
	TRY(rig_write(r, 64, 128));
	TRY(rig_flush(r));
	TRY(rig_write(r, 13 * cs + 512, cs));
	return rig_discard(r, 12 * cs, cs);
}

/* ---- footers --------------------------------------------------------------------------------- */

static struct vhd_footer footer_at(struct rig *r, uint64_t off)
{
	struct vhd_footer f;

	rig_must(r, plt_store_read(r->file, off, &f, sizeof(f), PLT_IO_HEADER, &r->err));
	ck_assert_mem_eq(f.cookie, VHD_COOKIE, 8);
	return f;
}

static uint64_t length(struct rig *r)
{
	uint64_t n;

	rig_must(r, plt_store_size(r->file, &n, &r->err));
	return n;
}

/* As blktap writes it: a dynamic disk whose bits count. */
static void prepare_tap(struct rig *r)
{
	uint64_t at = length(r) - VHD_FOOTER;
	struct vhd_footer f = footer_at(r, 0);

	memcpy(f.creator, "tap\0", 4);
	f.creator_version = plt_be32_make(0x00010001);
	vhd_footer_seal(&f);
	rig_must(r, plt_store_write(r->file, 0, &f, sizeof(f), PLT_IO_HEADER, &r->err));
	rig_must(r, plt_store_write(r->file, at, &f, sizeof(f), PLT_IO_HEADER, &r->err));
	prepare_half(r);
}

/* Cut off in the middle of the last block, as a full disk leaves it. */
static void prepare_no_tail(struct rig *r)
{
	prepare_half(r);
	rig_must(r, plt_store_truncate(r->file, length(r) - VHD_FOOTER, &r->err));
}

static void prepare_no_head(struct rig *r)
{
	static const uint8_t junk[64] = {1, 2, 3};

	prepare_half(r);
	rig_must(r, plt_store_write(r->file, 64, junk, sizeof(junk), PLT_IO_HEADER, &r->err));
}

/* A pool that was prepared and not used. */
static void prepare_gap(struct rig *r)
{
	struct vhd_footer f;
	uint64_t n;

	prepare_half(r);
	n = length(r);
	f = footer_at(r, n - VHD_FOOTER);
	rig_must(r, plt_store_zero(r->file, n - VHD_FOOTER, VHD_FOOTER, 0, PLT_IO_HEADER, &r->err));
	rig_must(r, plt_store_write(r->file, n + 20 * KIB, &f, sizeof(f), PLT_IO_HEADER, &r->err));
	memset(f.reserved, 0x55, sizeof(f.reserved)); /* what a write that was lost left there */
	rig_must(r, plt_store_write(r->file, n + 12 * KIB, f.reserved, sizeof(f.reserved), PLT_IO_HEADER, &r->err));
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static int run_grow(struct rig *r)
{
	uint64_t cs = rig_cluster(r), first = r->l->first_size;

	if (plt_disk_size(r->disk) != first)
		TRY(rig_resize(r, first));
	TRY(rig_write(r, first - 320, 320)); /* the last block is not whole */
	TRY(rig_write(r, cs + 64, 128));
	TRY(rig_resize(r, first + 2560));
	TRY(rig_write(r, first - 128, 640));
	TRY(rig_flush(r));
	TRY(rig_resize(r, r->size));
	TRY(rig_write(r, r->size - 640, 640));
	TRY(rig_write(r, first + 4 * cs, cs));
	return rig_flush(r);
}

static int run_shrink(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	if (plt_disk_size(r->disk) != r->size) /* after a run that failed */
		TRY(rig_resize(r, r->size));
	TRY(rig_write(r, r->size - 2 * cs, 2 * cs));
	TRY(rig_flush(r)); /* must be there as long as the disk has its size */
	TRY(rig_resize(r, r->size / 2 - 512));
	TRY(rig_write(r, 64, 128));
	TRY(rig_flush(r));
	TRY(rig_resize(r, r->size)); /* what was cut off comes back as zeros */
	TRY(rig_write(r, r->size - cs + 64, 64));
	return rig_flush(r);
}

static int run_random_vhd(struct rig *r)
{
	for (unsigned i = 0; i < 40; i++)
		TRY(rig_random(r) % 24 ? rig_step(r) : rig_reopen(r));
	return 0;
}

/* ---- parents --------------------------------------------------------------------------------- */

struct other {
	const char *name;
	unsigned flags;
};

static int set_parent(struct plt_image *img, void *arg, struct plt_error *err)
{
	const struct other *o = arg;

	return img->drv->set_backing(img, o->name, "raw", o->flags, err);
}

/* The same disk under another name. */
static int run_moved(struct rig *r)
{
	static const char *const names[] = {
		"elsewhere/a parent of which the name is longer than a sector of the header has room for/"
		"0123456789012345678901234567890123456789/0123456789012345678901234567890123456789/base.img", "b"
	};
	uint64_t cs = rig_cluster(r);

	for (unsigned i = 0; i < 4; i++) {
		struct other o = { names[i % 2], 0 };

		TRY(rig_write(r, (2 * i + 1) * cs + 64, 64));
		TRY(rig_write(r, (2 * i + 2) * cs + 512, 64));
		if (i % 2)
			TRY(rig_flush(r));
		TRY(plt_image_exclusive(plt_disk_image(r->disk), false, set_parent, &o, &r->err));
	}
	TRY(rig_write(r, 9 * cs + 64, cs));
	return rig_flush(r);
}

/* A block that is here in part, and what was there before in the rest. */
static void prepare_part(struct rig *r)
{
	static const uint8_t junk[512] = {1, 2, 3};

	rig_open(r);
	rig_must(r, rig_write(r, 12 * rig_cluster(r), 64));
	rig_close(r);
	rig_must(r, plt_store_write(r->file, length(r) - VHD_FOOTER - 1024, junk, sizeof(junk), PLT_IO_DATA, &r->err));
}

/* All that shows of the parent comes into the image. */
static int run_parent_gone(struct rig *r)
{
	uint64_t cs = rig_cluster(r), below = plt_align_up(r->base_units * RIG_UNIT, 512);
	struct other o = { NULL, PLT_BACKING_SAME };

	TRY(rig_write(r, 0, below));
	TRY(rig_write(r, 14 * cs + 640, 128));
	TRY(rig_flush(r));
	if (plt_disk_image(r->disk)->backing_name) /* (not after a run that failed behind it) */
		TRY(plt_image_exclusive(plt_disk_image(r->disk), false, set_parent, &o, &r->err));
	TRY(rig_write(r, 12 * cs + 2048, 64));
	TRY(rig_write(r, 15 * cs + 128, 64));
	TRY(rig_flush(r));
	return rig_write(r, 2 * cs, 640);
}

/* ---- the table ------------------------------------------------------------------------------- */

#define VHD .format = "vpc"
#define OPT "force_size=on,"

/* clang-format off */
const struct scenario scenarios_vhd[] = {
	{ "vhd blocks", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, NULL, run_blocks, 0 },
	{ "vhd small blocks", { VHD, .options = OPT "block_size=1024", .size = 32 * KIB }, NULL, run_blocks, 0 },
	{ "vhd synced", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, NULL, run_synced_vhd, 0 },
	{ "vhd reuse", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, prepare_half, run_reuse_vhd, 0 },
	{ "vhd child blocks", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true },
	  NULL, run_blocks, 0 },
	{ "vhd child synced", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true },
	  NULL, run_synced_vhd, 0 },
	{ "vhd child reuse", { VHD, .options = OPT "block_size=2048", .size = 32 * KIB, .backing = true },
	  prepare_half, run_reuse_vhd, 0 },
	{ "vhd tap blocks", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, prepare_tap, run_blocks, 0 },
	{ "vhd tap reuse", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, prepare_tap, run_reuse_vhd, 0 },
	{ "vhd fixed", { VHD, .options = OPT "subformat=fixed", .size = 64 * KIB }, NULL, run_blocks, 0 },
	{ "vhd no tail", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .damaged = true },
	  prepare_no_tail, run_reuse_vhd, 0 },
	{ "vhd no head", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .damaged = true },
	  prepare_no_head, run_blocks, 0 },
	{ "vhd gap", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB }, prepare_gap, run_blocks, 0 },
	{ "vhd fixed grow", { VHD, .options = OPT "subformat=fixed", .size = 64 * KIB, .first_size = 10 * KIB },
	  NULL, run_grow, 0 },
	{ "vhd fixed shrink", { VHD, .options = OPT "subformat=fixed", .size = 32 * KIB }, NULL, run_shrink, 0 },
	{ "vhd grow", { VHD, .options = OPT "block_size=512", .size = 96 * KIB, .first_size = 60 * KIB },
	  NULL, run_grow, 0 },
	{ "vhd grow in its table", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .first_size = 13824 },
	  NULL, run_grow, 0 },
	{ "vhd shrink", { VHD, .options = OPT "block_size=2048", .size = 64 * KIB }, prepare_half, run_shrink, 0 },
	{ "vhd another parent", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true },
	  NULL, run_moved, 0 },
	{ "vhd parent gone", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true },
	  prepare_part, run_parent_gone, 0 },
	{ "vhd random", { VHD, .options = OPT "block_size=2048", .size = 32 * KIB }, NULL, run_random_vhd, 0 },
	{ "vhd random, writethrough",
	  { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .writethrough = true },
	  NULL, run_random_vhd, 0 },
	{ "vhd random, child", { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true },
	  NULL, run_random_vhd, 0 },
	{ "vhd random, child, copy on read",
	  { VHD, .options = OPT "block_size=4096", .size = 64 * KIB, .backing = true, .copies = true },
	  NULL, run_random_vhd, 0 },
	{ "vhd random, tap", { VHD, .options = OPT "block_size=1024", .size = 32 * KIB }, prepare_tap, run_random_vhd, 0 },
};
/* clang-format on */
const unsigned scenarios_vhd_count = PLT_ARRAY_SIZE(scenarios_vhd);
