/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Images with more in them than the guest's calls make: an internal snapshot by another program's hand, a bitmap.
 */
#include <string.h>

#include "base/checked.h"
#include "qcow2/qcow2.h"
#include "tests/fault/rig.h"
#include "tests/unit.h"

uint64_t rig_get64(struct plt_store *st, uint64_t off)
{
	uint8_t b[8];

	ck_assert_int_eq(plt_store_read(st, off, b, 8, PLT_IO_OTHER, NULL), 0);
	return plt_get_be64(b);
}

static void put(struct plt_store *st, uint64_t off, uint64_t v, unsigned len)
{
	uint8_t b[8];

	plt_put_be64(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b + 8 - len, len, PLT_IO_OTHER, NULL), 0);
}

static uint64_t get16(struct plt_store *st, uint64_t off)
{
	return rig_get64(st, off) >> 48;
}

#define SNAP_CS 4096u

static void count_up(struct rig *r, uint64_t refblock, uint64_t cluster)
{
	ck_assert_uint_lt(cluster, SNAP_CS / 2);
	put(r->file, refblock + 2 * cluster, get16(r->file, refblock + 2 * cluster) + 1, 2);
}

void rig_make_snapshot(struct rig *r)
{
	struct plt_store *st = r->file;
	uint64_t l1 = rig_get64(st, 40), l1_size = rig_get64(st, 36) >> 32,
		 refblock = rig_get64(st, rig_get64(st, 48)), size, copy, table;
	unsigned x = 62 - (12 - 8);

	ck_assert_uint_eq(rig_get64(st, 20) >> 32, 12);
	ck_assert_uint_le(l1_size * 8, SNAP_CS);
	for (uint64_t i = 0; i < l1_size; i++) {
		uint64_t e = rig_get64(st, l1 + 8 * i), l2 = e & QCOW2_L1_OFFSET;

		if (!l2)
			continue;
		put(st, l1 + 8 * i, e & ~QCOW2_COPIED, 8);
		count_up(r, refblock, l2 / SNAP_CS);
		for (uint64_t j = 0; j < SNAP_CS / 8; j++) {
			uint64_t d = rig_get64(st, l2 + 8 * j), host = d & QCOW2_L2_OFFSET;

			put(st, l2 + 8 * j, d & ~QCOW2_COPIED, 8);
			if (d & QCOW2_COMPRESSED) {
				uint64_t off = d & ((UINT64_C(1) << x) - 1), n = (d >> x & 15) + 1;

				for (uint64_t c = off / SNAP_CS;
				     c <= (off / 512 * 512 + n * 512 - 1) / SNAP_CS; c++)
					count_up(r, refblock, c);
			} else if (host) {
				count_up(r, refblock, host / SNAP_CS);
			}
		}
	}
	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	copy = plt_align_up(size, SNAP_CS);
	table = copy + SNAP_CS;
	ck_assert_int_eq(plt_store_truncate(st, table + SNAP_CS, NULL), 0);
	for (uint64_t i = 0; i < l1_size; i++)
		put(st, copy + 8 * i, rig_get64(st, l1 + 8 * i), 8);
	count_up(r, refblock, copy / SNAP_CS);
	count_up(r, refblock, table / SNAP_CS);
	put(st, table, copy, 8);
	put(st, table + 8, l1_size, 4);
	put(st, table + 12, 1, 2);	 /* length of the id */
	put(st, table + 14, 5, 2);	 /* of the name */
	put(st, table + 36, 16, 4);	 /* of the extra data */
	put(st, table + 48, r->size, 8); /* there: the disk's size */
	ck_assert_int_eq(plt_store_write(st, table + 56, "1snap1", 6, PLT_IO_OTHER, NULL), 0);
	put(st, 60, 1, 4);
	put(st, 64, table, 8);
	rig_note_snapshot(r);
}

/* An empty bitmap that records, put there through the driver's own allocation and header. */
void rig_add_bitmap(struct rig *r)
{
	struct plt_image *img;
	struct qcow2_state *q;
	uint64_t dir, table, cs;
	uint32_t granularity = 12;

	rig_open(r);
	img = plt_disk_image(r->disk);
	q = qcow2_of(img);
	cs = q->cluster_size;
	rig_must(r, qcow2_alloc(img, 1, &dir, &r->err));
	rig_must(r, qcow2_alloc(img, 1, &table, &r->err));
	ck_assert_int_eq(plt_store_zero(r->file, dir, cs, 0, PLT_IO_BITMAP, NULL), 0);
	ck_assert_int_eq(plt_store_zero(r->file, table, cs, 0, PLT_IO_BITMAP, NULL), 0);
	put(r->file, dir, table, 8);
	put(r->file, dir + 8, plt_div_up(plt_div_up(plt_div_up(r->size, 1u << granularity), 8), cs),
	    4);
	put(r->file, dir + 12, QCOW2_BITMAP_AUTO, 4);
	put(r->file, dir + 16, 1, 1);
	put(r->file, dir + 17, granularity, 1);
	put(r->file, dir + 18, 4, 2);
	ck_assert_int_eq(plt_store_write(r->file, dir + 24, "bits", 4, PLT_IO_BITMAP, NULL), 0);
	q->nb_bitmaps = 1;
	q->bitmap_dir_offset = dir;
	q->bitmap_dir_size = 32;
	q->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
	rig_must(r, plt_meta_flush(img, true, &r->err));
	rig_must(r, qcow2_header_replace(img, &r->err));
	rig_must(r, plt_disk_close(r->disk, &r->err));
	r->disk = NULL;
}
