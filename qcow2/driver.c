/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The qcow2 driver's table.  Nothing but the list of what the other files do, the options it takes
 * when opening, and one gate: an image whose guest data cannot be reached answers map and place
 * with the reason, so that no path can take its entries for readable data.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mend/find.h"
#include "qcow2/mapping.h"

/*
 * Options of opening.  The cache sizes and the overlap check are taken for compatibility: memory is
 * the context's budget, and entries are always checked against metadata when they are loaded.
 */
/* clang-format off */
const struct plt_opt_desc qcow2_open_opts[] = {
	{ .name = "lazy-refcounts", .type = PLT_OPT_BOOL, .help = "Postpone refcount updates" },
	{ .name = "encrypt.format", .type = PLT_OPT_STRING,
	  .help = "What the image must be encrypted with: aes or luks" },
	{ .name = "encrypt.key-secret", .type = PLT_OPT_STRING,
	  .help = "ID of the secret that unlocks it" },
	{ .name = "data-file", .type = PLT_OPT_STRING, .help = "The external data file" },
	{ .name = "overlap-check", .type = PLT_OPT_STRING,
	  .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.template", .type = PLT_OPT_STRING, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.main-header", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.active-l1", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.active-l2", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.refcount-table", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.refcount-block", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.snapshot-table", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.inactive-l1", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.inactive-l2", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "overlap-check.bitmap-directory", .type = PLT_OPT_BOOL, .help = "Accepted; the checks are always on" },
	{ .name = "cache-size", .type = PLT_OPT_SIZE,
	  .help = "Accepted; the cache belongs to the context" },
	{ .name = "l2-cache-size", .type = PLT_OPT_SIZE,
	  .help = "Accepted; the cache belongs to the context" },
	{ .name = "l2-cache-entry-size", .type = PLT_OPT_SIZE,
	  .help = "Accepted; slices are 4 KiB" },
	{ .name = "refcount-cache-size", .type = PLT_OPT_SIZE,
	  .help = "Accepted; the cache belongs to the context" },
	{ .name = "cache-clean-interval", .type = PLT_OPT_NUMBER,
	  .help = "Accepted; the cache is bounded" },
	{ .name = NULL },
};
/* clang-format on */

static int unmappable(struct plt_image *img, struct plt_error *err)
{
	return plt_error_set(err, ENOTSUP, "qcow2: %s", qcow2_of(img)->unmappable);
}

static int gated_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len,
		     struct plt_runs *runs, struct plt_need *need, struct plt_error *err)
{
	if (qcow2_of(img)->unmappable)
		return unmappable(img, err);
	return qcow2_map(img, pins, off, len, runs, need, err);
}

static int gated_place(struct plt_image *img, struct plt_pins *pins,
		       const struct plt_place_req *req, struct plt_place *ret,
		       struct plt_need *need, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r;

	if (q->unmappable)
		return unmappable(img, err);
	r = qcow2_place(img, pins, req, ret, need, err);
	if (r == 0 && q->cipher && !ret->skip) {
		ret->cipher = q->cipher;
		ret->iv_sector = qcow2_iv_sector(q, ret->off - ret->head, ret->host_off - ret->head);
	}
	return r;
}

static int gated_write_zeroes(struct plt_image *img, uint64_t off, uint64_t len, bool unmap,
			      uint64_t *ret_done, struct plt_need *need, struct plt_error *err)
{
	*ret_done = 0;
	if (qcow2_of(img)->unmappable)
		return unmappable(img, err);
	return qcow2_write_zeroes(img, off, len, unmap, ret_done, need, err);
}

static int gated_discard(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
			 struct plt_need *need, struct plt_error *err)
{
	*ret_done = 0;
	if (qcow2_of(img)->unmappable)
		return unmappable(img, err);
	return qcow2_discard(img, off, len, ret_done, need, err);
}

static int gated_uncover(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
			 struct plt_need *need, struct plt_error *err)
{
	*ret_done = 0;
	if (qcow2_of(img)->unmappable)
		return unmappable(img, err);
	return qcow2_uncover(img, off, len, ret_done, need, err);
}

static uint32_t cluster_size(struct plt_image *img)
{
	return qcow2_of(img)->cluster_size;
}

/* Compressed clusters need counts of their own: not with an external data file, nor encrypted. */
static enum plt_codec codec(struct plt_image *img)
{
	const struct qcow2_state *q = qcow2_of(img);

	if (q->external || q->crypt_method != QCOW2_CRYPT_NONE)
		return PLT_CODEC_NONE;
	return q->compression == QCOW2_COMPRESSION_ZSTD ? PLT_CODEC_ZSTD : PLT_CODEC_DEFLATE;
}

/* Behind the part of the guest's space that whole L2 tables cover. */
static uint64_t vm_state_offset(struct plt_image *img)
{
	struct qcow2_state *q = qcow2_of(img);

	return plt_align_up(atomic_load(&img->size), UINT64_C(1) << (q->cluster_bits + q->l2_bits));
}

static bool dirty_flag(struct plt_image *img)
{
	PLT_LOCK_SCOPE(&img->lock);
	return qcow2_of(img)->incompatible & QCOW2_INCOMPAT_DIRTY;
}

const struct plt_driver qcow2_driver = {
	.name = "qcow2",
	.flags = PLT_DRIVER_BACKING | PLT_DRIVER_MENDS | PLT_DRIVER_FEATURES | PLT_DRIVER_COMPRESS | PLT_DRIVER_BITMAPS |
		 PLT_DRIVER_SNAPSHOTS,
	.create_opts = qcow2_create_opts,
	.open_opts = qcow2_open_opts,
	.probe = qcow2_probe,
	.open = qcow2_open,
	.close = qcow2_close,
	.map = gated_map,
	.place = gated_place,
	.publish = qcow2_publish,
	.withdraw = qcow2_withdraw,
	.write_zeroes = gated_write_zeroes,
	.discard = gated_discard,
	.uncover = gated_uncover,
	.trim = qcow2_trim,
	.release = qcow2_release,
	.work = qcow2_work,
	.first_write = qcow2_first_write,
	.before_sync = qcow2_before_sync,
	.written = qcow2_bitmaps_record,
	.grow = qcow2_grow,
	.resize = qcow2_resize,
	.amend_opts = qcow2_amend_opts,
	.amend = qcow2_amend,
	.create = qcow2_create,
	.measure = qcow2_measure,
	.measure_bitmaps = qcow2_measure_bitmaps,
	.info = qcow2_info,
	.cluster_size = cluster_size,
	.uses_at_least = qcow2_counts_at_least,
	.vm_state_offset = vm_state_offset,
	.vm_state_room = qcow2_vm_state_room,
	.dirty_flag = dirty_flag,
	.codec = codec,
	.snapshots = qcow2_snapshots_list,
	.snapshot_create = qcow2_snapshot_create,
	.snapshot_delete = qcow2_snapshot_delete,
	.snapshot_apply = qcow2_snapshot_apply,
	.bitmaps = qcow2_bitmaps_list,
	.bitmap_read = qcow2_bitmap_read,
	.bitmaps_set = qcow2_bitmaps_set,
	.examine = qcow2_examine,
	.recognise = qcow2_recognise,
	.show_pieces = qcow2_show_pieces,
	.data_file = qcow2_data_file,
	.set_data_file = qcow2_set_data_file,
	.name_backing = qcow2_name_backing,
	.set_size = qcow2_set_size,
	.map_pieces = qcow2_map_tables,
	.luks = qcow2_luks,
	.make_empty = qcow2_make_empty,
	.set_backing = qcow2_set_backing,
};
