/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What is wrong in the metadata beside the map, in words: the snapshot table and the L1 tables that it names,
 * persistent bitmaps, the refcount table and its blocks.  Each is counted as it is gone through.  One that cannot be
 * read is said to be, and does not end the examination: the active disk needs none of them, but then what they reach
 * is not counted, and nobody may take that for free space.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/check.h"

int qcow2_exam_snapshots_load(struct qcow2_exam *x, struct plt_error *err)
{
	struct qcow2_state *q = &x->q;
	struct plt_error e = PLT_ERROR_INIT;
	int r = qcow2_exam_snapnames(x);

	if (r == 0 && x->ex->mend)
		r = qcow2_mend_snapcount(x);
	if (r < 0)
		return plt_error_errno(err, -r, "The examination failed");
	if (q->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
		r = plt_error_set(&e, EFBIG, "snapshot table too large");
	else if (q->nb_snapshots &&
		 (q->snapshots_offset & (q->cluster_size - 1) || q->snapshots_offset > INT64_MAX / 2))
		r = plt_error_set(&e, EINVAL, "snapshot table offset invalid");
	if (r < 0 && !x->ex->mend)
		return plt_error_set(err, -r, "ERROR %s", e.text);
	if (r == 0)
		r = qcow2_snaptable_read(x->c.file, x->c.file_size, q, &e);
	if (r == 0 && x->ex->mend && qcow2_snaptable_is_none(x)) {
		uint32_t n = q->nb_snapshots;

		qcow2_snapshots_release(q);
		q->nb_snapshots = n;
		r = plt_error_set(&e, EUCLEAN, "no entry of the snapshot table at offset %#" PRIx64 " can be", q->snapshots_offset);
	}
	if (r == -EUCLEAN || (x->ex->mend && (r == -EFBIG || r == -EINVAL))) {
		/*
		 * The active disk needs none of it: go on, and let nobody take the rest for free
		 * space.
		 */
		QCOW2_SAY_BEYOND(
			x, PLT_CORRUPTION, "Q-SNAP", q->snapshots_offset, 0, 0, 0,
			"ERROR %s; the %" PRIu32
			" snapshots cannot be examined, and their clusters may show as leaked below",
			e.text, q->nb_snapshots);
		q->nb_snapshots = 0;
		x->snapshots_bad = true;
		return 0;
	}
	if (r < 0)
		return plt_error_set(err, -r, "ERROR failed to read the snapshot table: %s",
				     e.text);
	for (uint32_t i = 0; q->version >= 3 && i < q->nb_snapshots; i++)
		if (q->snapshots[i].extra_size < 16)
			QCOW2_SAY(x, PLT_CORRUPTION, "Q-SNAP-EXTRA", q->snapshots_offset,
				  q->snapshots_size,
				  "ERROR snapshot table entry %" PRIu32 " is incomplete", i);
	return 0;
}

int qcow2_exam_snapshots(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	int r = 0;

	if (x->c.external && q->nb_snapshots)
		QCOW2_SAY(x, PLT_CORRUPTION, "Q-SNAP-EXTERNAL", 0, 0,
			  "ERROR %" PRIu32 " snapshots in image with data file", q->nb_snapshots);
	for (uint32_t i = 0; !r && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		if (s->l1_offset & (q->cluster_size - 1))
			QCOW2_SAY(
				x, PLT_CORRUPTION, "Q-SNAP-L1", s->l1_offset, 0,
				"ERROR snapshot %s (%s) l1_offset=%#" PRIx64
				": L1 table is not cluster aligned; snapshot table entry corrupted",
				s->info.id, s->info.name, s->l1_offset);
		else if (s->l1_size > QCOW2_MAX_L1_BYTES / 8)
			QCOW2_SAY(x, PLT_CORRUPTION, "Q-SNAP-L1", s->l1_offset, 0,
				  "ERROR snapshot %s (%s) l1_size=%#" PRIx32
				  ": L1 table is too large; snapshot table entry corrupted",
				  s->info.id, s->info.name, s->l1_size);
		else if (x->snapshot_times[i] == QCOW2_ASTRAY)
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-META", s->l1_offset, (uint64_t)s->l1_size * 8, 0, 0,
					 "ERROR snapshot %s (%s): its L1 table at offset %#" PRIx64
					 " overlaps another snapshot's; it is not followed",
					 s->info.id, s->info.name, s->l1_offset);
		else
			r = qcow2_exam_l1(x, s->l1_offset, s->l1_size, false, x->snapshot_times[i]);
		if (s->info.disk_size && qcow2_snapshot_l1_usable(x, s) &&
		    s->info.disk_size <= INT64_MAX &&
		    qcow2_l1_entries(q, s->info.disk_size) > s->l1_size)
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-SNAP-SIZE", s->l1_offset,
					 (uint64_t)s->l1_size * 8, 0, 0,
					 "ERROR snapshot %s (%s): L1 table of %" PRIu32
					 " entries is too small for a disk "
					 "of %" PRIu64 " bytes",
					 s->info.id, s->info.name, s->l1_size, s->info.disk_size);
	}
	return r;
}

static int report_bitmap(struct qcow2_exam *x, const struct qcow2_bitmap *b, uint32_t times)
{
	uint64_t bytes = (uint64_t)b->table_size * 8, n;
	struct qcow2_host host = {0};
	uint8_t buf[4096];

	if (!times)
		return 0;
	qcow2_exam_count(x, b->table_offset, bytes, times);
	for (uint32_t i = 0; i < times && i < 2; i++)
		qcow2_exam_mark(x, b->table_offset, bytes, "bitmap table");
	if (b->table_offset >= x->c.file_size)
		return 0;
	bytes = PLT_MIN(bytes, plt_align_up(x->c.file_size - b->table_offset, 8));
	for (uint64_t at = 0; at < bytes; at += n) {
		int r;

		n = plt_align_down(qcow2_hole_at(&x->c, &host, b->table_offset + at, bytes - at), 8);
		if (n)
			continue;
		n = PLT_MIN(sizeof(buf), bytes - at);
		r = plt_store_read(x->c.file, b->table_offset + at, buf, n, PLT_IO_BITMAP, NULL);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < n; i += 8) {
			uint64_t e = plt_get_be64(buf + i), off = e & QCOW2_BITMAP_TABLE_OFFSET;

			if ((e & ~(QCOW2_BITMAP_TABLE_OFFSET | QCOW2_BITMAP_TABLE_ONES)) ||
			    (off && (e & QCOW2_BITMAP_TABLE_ONES)) ||
			    (off & (x->q.cluster_size - 1)) || (x->ex->mend && off >= x->c.file_size)) {
				bool mended = qcow2_mend_bitmap_entry(x, b->table_offset + at + i, e);

				plt_emit(x->ex, &(struct plt_finding){.id = "Q-BMP-ENTRY", .severity = PLT_CORRUPTION,
								      .count = 1, .mended = mended, .host_off = off,
								      .host_len = x->q.cluster_size},
					 "%s bitmap '%s': table entry %" PRIx64 " is corrupted%s",
					 mended ? "Repairing" : "ERROR", b->name, e,
					 mended ? "; what it stood for counts as written" : "");
				continue;
			}
			if (!off)
				continue;
			qcow2_exam_count(x, off, x->q.cluster_size, times);
			qcow2_exam_mark(x, off, x->q.cluster_size, "bitmap data");
		}
	}
	return 0;
}

int qcow2_exam_bitmaps(struct qcow2_exam *x)
{
	struct qcow2_state *q = &x->q;
	struct plt_error e = PLT_ERROR_INIT;
	PLT_AUTOFREE struct qcow2_table *v = NULL;
	PLT_AUTOFREE uint32_t *times = NULL;
	int r;

	if (q->bitmaps_damaged && q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
		x->bitmaps_bad = true;
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-BMP-EXT", 0, 0, 0, 0,
				 "ERROR the bitmaps extension of the header is "
				 "damaged; the bitmaps cannot be used, the disk is not concerned");
	}
	if (!q->nb_bitmaps)
		return 0;
	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
		QCOW2_SAY_BEYOND(
			x, PLT_NOTE, "Q-BMP-STALE", q->bitmap_dir_offset, q->bitmap_dir_size, 0, 0,
			"The image was written by a program without support of bitmaps: its %" PRIu32
			" bitmaps are inconsistent, and their clusters are not counted",
			q->nb_bitmaps);
		return 0;
	}
	qcow2_exam_count(x, q->bitmap_dir_offset, q->bitmap_dir_size, 1);
	qcow2_exam_mark(x, q->bitmap_dir_offset, q->bitmap_dir_size, "bitmap directory");
	r = qcow2_bitmap_directory(x->c.file, x->c.file_size, q, &e);
	if (r < 0) {
		x->bitmaps_bad = r == -EUCLEAN;
		QCOW2_SAY(x, r == -EUCLEAN ? PLT_CORRUPTION : PLT_CHECK_ERROR, "Q-BMP-DIR",
			  q->bitmap_dir_offset, q->bitmap_dir_size, "ERROR bitmap directory: %s",
			  e.text);
		return 0;
	}
	v = calloc((size_t)q->nbitmaps + 1, sizeof(*v));
	times = calloc((size_t)q->nbitmaps + 1, sizeof(*times));
	if (!v || !times)
		return -ENOMEM;
	for (unsigned i = 0; i < q->nbitmaps; i++)
		v[i] = (struct qcow2_table){q->bitmaps[i].table_offset, (uint64_t)q->bitmaps[i].table_size * 8, i};
	qcow2_tables_group(v, q->nbitmaps, times);
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		r = times[i] == QCOW2_ASTRAY ? 0 : report_bitmap(x, &q->bitmaps[i], times[i]);
		if (times[i] == QCOW2_ASTRAY)
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-META", q->bitmaps[i].table_offset, 0, 0, 0,
					 "ERROR bitmap '%s': its table at offset %#" PRIx64
					 " overlaps another bitmap's; it is not followed",
					 q->bitmaps[i].name, q->bitmaps[i].table_offset);
		if (r < 0)
			QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-READ", q->bitmaps[i].table_offset, 0,
				  "ERROR bitmap '%s': table cannot be read: %s", q->bitmaps[i].name,
				  strerror(-r));
		if (q->bitmaps[i].flags & QCOW2_BITMAP_IN_USE)
			QCOW2_SAY_BEYOND(
				x, PLT_NOTE, "Q-BMP-IN-USE", q->bitmaps[i].table_offset, 0, 0, 0,
				"Bitmap '%s' was not stored when the image was last closed: it cannot be used",
				q->bitmaps[i].name);
	}
	return 0;
}

/* What is wrong with the refcount structure itself goes when it is written anew. */
static void say_refs(struct qcow2_exam *x, const char *id, uint64_t off, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void say_refs(struct qcow2_exam *x, const char *id, uint64_t off, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	x->refs_bad = true;
	plt_emit(x->ex, &(struct plt_finding){.id = id, .severity = PLT_CORRUPTION, .count = 1,
					      .mended = qcow2_mend_rebuilds(x), .host_off = off,
					      .host_len = x->q.cluster_size},
		 "%s refcount %s", qcow2_mend_rebuilds(x) ? "Repairing" : "ERROR", text);
}

void qcow2_exam_refblocks(struct qcow2_exam *x)
{
	struct qcow2_recount *c = &x->c;
	const struct qcow2_state *q = &x->q;

	for (uint64_t i = 0; i < c->nrt; i++) {
		uint64_t e = c->rt[i], off = e & QCOW2_REFTABLE_OFFSET, refs;

		if (e & QCOW2_REFTABLE_RESERVED) {
			say_refs(x, "Q-REF-TABLE", off, "table entry %" PRIu64 " has reserved bits set", i);
		} else if (off & (q->cluster_size - 1)) {
			say_refs(x, "Q-REF-TABLE", off,
				 "block %" PRIu64 " is not cluster aligned; refcount table entry corrupted", i);
		} else if (off >> q->cluster_bits >= c->nb) {
			say_refs(x, "Q-REF-OUTSIDE", off, "block %" PRIu64 " is outside image", i);
			x->cut = true;
		} else if (off) {
			qcow2_exam_count(x, off, q->cluster_size, 1);
			refs = PLT_MIN(qcow2_references(c, off >> q->cluster_bits),
				       q->refcount_max);
			if (refs != 1)
				say_refs(x, "Q-REF-BLOCK", off, "block %" PRIu64 " refcount=%" PRIu64, i, refs);
		}
	}
}
