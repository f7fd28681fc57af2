/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Examination of an image: counts anew what the header, the map, the snapshots, the bitmaps and the
 * refcount structure themselves reach, and compares with the stored counts.  Nothing is opened but
 * the file, and nothing is written.  The order of the steps, the words and the numbers are
 * qemu-img's; findings of our own are marked as beyond it.  What may be done about a finding is not
 * decided here: in particular a leak is only a count that is too high, not a cluster that is free.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "qcow2/mend/find.h"

#define MAX_OVERLAPS 1000 /* more add nothing */
#define MAX_OVERFLOWS 100 /* one by one for each cluster */

/* ---- where metadata lies --------------------------------------------------------------------- */

void qcow2_exam_mark(struct qcow2_exam *x, uint64_t off, uint64_t len, const char *what)
{
	void *v;

	if (!len || off > (uint64_t)INT64_MAX || len > (uint64_t)INT64_MAX)
		return;
	if (qcow2_mark_metadata(&x->c, off, len) || x->noverlaps == MAX_OVERLAPS)
		return;
	v = realloc(x->overlaps, (x->noverlaps + 1) * sizeof(*x->overlaps));
	if (!v)
		return; /* the counts show it as well */
	x->overlaps = v;
	x->overlaps[x->noverlaps++] = (struct qcow2_overlap){off, len, what};
}

bool qcow2_exam_overlaps(const struct qcow2_exam *x, uint64_t off, uint64_t len)
{
	if (x->noverlaps == MAX_OVERLAPS) /* there may be more */
		return true;
	for (unsigned i = 0; i < x->noverlaps; i++)
		if (plt_ranges_overlap(off, len, x->overlaps[i].off, x->overlaps[i].len))
			return true;
	return false;
}

uint64_t qcow2_far_end(const struct qcow2_exam *x)
{
	uint64_t far = x->q.virtual_size;

	if (plt_mul(far, 2 + (uint64_t)x->q.nb_snapshots, &far) || plt_add(far, UINT64_C(64) << 20, &far) ||
	    far > QCOW2_MAX_HOST_OFFSET)
		far = QCOW2_MAX_HOST_OFFSET;
	return PLT_MAX(far, PLT_MIN(x->c.file_size, QCOW2_MAX_HOST_OFFSET));
}

bool qcow2_snapshot_l1_usable(const struct qcow2_exam *x, const struct qcow2_snapshot *s)
{
	return !(s->l1_offset & (x->q.cluster_size - 1)) && s->l1_size <= QCOW2_MAX_L1_BYTES / 8 &&
	       s->l1_offset <= INT64_MAX / 2;
}

/* Which of the snapshots' L1 tables are walked, and how often their entries count. */
static int group_snapshots(struct qcow2_exam *x)
{
	uint32_t n = x->q.nb_snapshots, used = 0;
	struct qcow2_table *v = calloc((size_t)n + 1, sizeof(*v));

	x->snapshot_times = calloc((size_t)n + 1, sizeof(*x->snapshot_times));
	if (!v || !x->snapshot_times) {
		free(v);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct qcow2_snapshot *s = &x->q.snapshots[i];

		if (qcow2_snapshot_l1_usable(x, s) && s->l1_size)
			v[used++] = (struct qcow2_table){s->l1_offset, (uint64_t)s->l1_size * 8, i};
	}
	qcow2_tables_group(v, used, x->snapshot_times);
	free(v);
	return 0;
}

/* Mark all metadata but bitmaps, and gather the L2 tables. */
static int gather(struct qcow2_exam *x, struct plt_error *err)
{
	struct qcow2_recount *c = &x->c;
	const struct qcow2_state *q = &x->q;
	int r;

	qcow2_exam_mark(x, 0, q->cluster_size, "header");
	qcow2_exam_mark(x, q->l1_offset, (uint64_t)q->l1_size * 8, "active L1 table");
	qcow2_exam_mark(x, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits,
	     "refcount table");
	if (q->nb_snapshots)
		qcow2_exam_mark(x, q->snapshots_offset, q->snapshots_size, "snapshot table");
	qcow2_exam_mark(x, q->luks_offset, q->luks_length, "encryption header");
	for (uint64_t i = 0; i < c->nrt; i++)
		if (c->rt[i] & QCOW2_REFTABLE_OFFSET && !(c->rt[i] & (q->cluster_size - 1) & QCOW2_REFTABLE_OFFSET))
			qcow2_exam_mark(x, c->rt[i] & QCOW2_REFTABLE_OFFSET, q->cluster_size,
			     "refcount block");
	r = qcow2_l2_collect(c, q->l1_offset, q->l1_size, true, 1);
	if (!r)
		r = group_snapshots(x);
	for (uint32_t i = 0; !r && i < q->nb_snapshots; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];
		uint32_t times = x->snapshot_times[i];

		if (!times || times == QCOW2_ASTRAY)
			continue;
		qcow2_exam_mark(x, s->l1_offset, (uint64_t)s->l1_size * 8, "snapshot L1 table");
		if (times > 1)
			qcow2_exam_mark(x, s->l1_offset, (uint64_t)s->l1_size * 8, "snapshot L1 table");
		r = qcow2_l2_collect(c, s->l1_offset, s->l1_size, false, times);
		if (r == -EIO)
			r = 0; /* said when the table is reported */
	}
	if (r < 0 && r != -ENOMEM) /* the active L1: nothing can be said of the disk */
		return plt_error_errno(err, -r, "Could not read L1 table");
	if (r < 0)
		return plt_error_set(err, ENOMEM, "Out of memory");
	qcow2_l2_sort(c);
	for (uint64_t i = 0; i < c->nl2; i++) {
		qcow2_exam_mark(x, c->l2[i].off, q->cluster_size, "L2 table");
		if (c->l2[i].active > 1)
			qcow2_exam_mark(x, c->l2[i].off, q->cluster_size, "L2 table of two L1 entries");
	}
	return 0;
}

static void report_overlaps(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;

	for (unsigned i = 0; i < x->noverlaps; i++) {
		const struct qcow2_overlap *o = &x->overlaps[i];
		bool told = false;

		for (uint64_t k = o->off >> q->cluster_bits;
		     k <= (o->off + o->len - 1) >> q->cluster_bits && k < x->c.nb; k++) {
			uint64_t stored;

			told |= qcow2_stored_count(&x->c, k, &stored) < 0 ||
				stored != qcow2_references(&x->c, k);
		}
		if (!told) /* else it shows in the counts */
			QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-OVL-META", o->off, o->len, 0, 0,
					 "ERROR %s at offset %#" PRIx64 " overlaps other metadata",
					 o->what, o->off);
	}
}

/* ---- counts ---------------------------------------------------------------------------------- */

/* Every reference beyond what a count can hold. */
static void report_overflow(struct qcow2_exam *x)
{
	struct qcow2_recount *c = &x->c;
	const struct qcow2_state *q = &x->q;
	bool possible = q->refcount_order <= 3;

	for (uint64_t i = 0; !possible && i < c->over_cap; i++)
		possible = c->over[i].count > q->refcount_max;
	for (uint64_t k = 0; possible && k < c->nb; k++) {
		uint64_t refs = qcow2_references(c, k);

		for (uint64_t n = q->refcount_max; n < refs; n++) {
			if (n - q->refcount_max == MAX_OVERFLOWS) { /* the rest at once */
				plt_emit(x->ex,
					 &(struct plt_finding){.id = "Q-REF-OVERFLOW",
							       .severity = PLT_CORRUPTION,
							       .count = refs - n,
							       .host_off = k << q->cluster_bits,
							       .host_len = q->cluster_size},
					 "ERROR: overflow cluster offset=0x%" PRIx64 ": %" PRIu64
					 " times more",
					 k << q->cluster_bits, refs - n);
				break;
			}
			QCOW2_SAY(x, PLT_CORRUPTION, "Q-REF-OVERFLOW", k << q->cluster_bits,
				  q->cluster_size, "ERROR: overflow cluster offset=0x%" PRIx64,
				  k << q->cluster_bits);
			QCOW2_SAY(
				x, PLT_NOTE, "Q-REF-OVERFLOW", k << q->cluster_bits,
				q->cluster_size,
				"Use qemu-img amend to increase the refcount entry width or qemu-img convert to "
				"create a clean copy if the image cannot be opened for writing");
		}
	}
}

static void report_difference(void *arg, uint64_t cluster, uint64_t stored, uint64_t refs,
			      int unreadable)
{
	struct qcow2_exam *x = arg;
	uint64_t off = cluster << x->q.cluster_bits, i = cluster >> x->q.rb_bits;
	bool mended = qcow2_mend_count(x, cluster, stored, refs, unreadable);

	if (unreadable && !mended && !x->refblock_said && i < x->c.nrt &&
	    (x->c.rt[i] & QCOW2_REFTABLE_OFFSET & (x->q.cluster_size - 1))) {
		x->refblock_said = true;
		QCOW2_SAY(x, PLT_NOTE, "Q-REF-TABLE", x->c.rt[i] & QCOW2_REFTABLE_OFFSET,
			  x->q.cluster_size,
			  "qcow2: Image is corrupt: Refblock offset %#" PRIx64
			  " unaligned (reftable index: %#" PRIx64
			  "); further non-fatal corruption events will be suppressed",
			  x->c.rt[i] & QCOW2_REFTABLE_OFFSET, i);
	}
	if (unreadable && !mended)
		QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-REF-READ", off, x->q.cluster_size,
			  "Can't get refcount for cluster %" PRIu64 ": %s", cluster,
			  strerror(-unreadable));
	else
		plt_emit(x->ex,
			 &(struct plt_finding){.id = stored < refs ? "Q-REF-LOW" : "Q-LEAK",
					       .severity = stored < refs ? PLT_CORRUPTION : PLT_LEAK,
					       .count = 1,
					       .mended = mended,
					       .host_off = off,
					       .host_len = x->q.cluster_size},
			 "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
			 mended ? "Repairing" : stored < refs ? "ERROR" : "Leaked", cluster, stored, refs);
	x->counts_left |= !mended;
	x->leaked |= !stored != !refs;
	x->overcounted |= stored > refs && refs;
}

/* What qemu-img calls leaked may be what is left of a map. */
static void report_orphans(struct qcow2_exam *x)
{
	if (x->orphans == QCOW2_ORPHANS_LOST && x->orphan_clusters)
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, x->orphan_tables ? "Q-L1" : "Q-L2", x->q.l1_offset,
				 (uint64_t)x->q.l1_size * 8, 0, 0,
				 "ERROR part of the map is lost: %" PRIu64 " clusters hold data that nothing reaches, %" PRIu64
				 " of them L2 tables whose L1 entry is gone, and the map has gaps that they fit. They are "
				 "not free space",
				 x->orphan_clusters, x->orphan_tables);
	else if (x->orphans == QCOW2_ORPHANS_UNDECIDED && (x->counts_gone || (x->ex->mend && x->ex->mend->counts_gone)))
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-ORPHANS", 0, 0, 0, 0,
				 "%" PRIu64 " clusters hold data that nothing reaches, and their counts are lost; whether they were "
				 "free, or part of the map is lost, too, cannot be told: they are not free space",
				 x->orphan_clusters);
	else if (x->orphans == QCOW2_ORPHANS_UNDECIDED)
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-ORPHANS", 0, 0, 0, 0,
				 "%" PRIu64 " clusters hold data that nothing reaches; whether part of the map was lost, or a "
				 "program was stopped, cannot be told%s", x->orphan_clusters,
				 x->ex->mend ? ": their counts stay" : "");
}

/* A file that ends inside a structure.  That it ends inside a data cluster is usual. */
static int report_cut(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t size = x->c.file_size, rest = size & (q->cluster_size - 1),
		 last = size >> q->cluster_bits;
	uint64_t l1_end = q->l1_offset + (uint64_t)q->l1_size * 8, off = last << q->cluster_bits;
	const char *what = NULL;

	if (!rest || !qcow2_references(&x->c, last))
		return 0;
	if (last == q->l1_offset >> q->cluster_bits || (off > q->l1_offset && off < l1_end)) {
		if (size < l1_end)
			what = "the active L1 table";
	} else if (qcow2_l2_find(&x->c, off)) {
		what = "an L2 table";
	} else if (off >= q->reftable_offset &&
		   off - q->reftable_offset < (uint64_t)q->reftable_clusters << q->cluster_bits) {
		what = "the refcount table";
	}
	for (uint64_t i = 0; !what && i < x->c.nrt; i++)
		if ((x->c.rt[i] & QCOW2_REFTABLE_OFFSET) == off)
			what = "a refcount block";
	if (what)
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-TRUNC", off, q->cluster_size, 0, 0,
				 "ERROR the file ends (at %" PRIu64
				 " bytes) inside %s at offset %#" PRIx64,
				 size, what, off);
	else if (!qcow2_is_metadata(&x->c, last))
		return qcow2_exam_cut(x, off, rest);
	return 0;
}

static void report_header_notes(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;

	if (q->incompatible & QCOW2_INCOMPAT_DIRTY)
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-HDR-DIRTY", 72, 8, 0, 0,
				 "The image was not closed cleanly: counts may be behind");
	if (q->incompatible & QCOW2_INCOMPAT_CORRUPT)
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-HDR-CORRUPT", 72, 8, 0, 0,
				 "The image is marked as corrupt");
	/* The last cluster of a file may be cut short, but a table must begin in the file. */
	if (q->l1_size && q->l1_offset <= INT64_MAX / 2 && q->l1_offset >= x->c.file_size &&
	    !qcow2_exceeds(&x->c, q->l1_offset, (uint64_t)q->l1_size * 8))
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-TRUNC", q->l1_offset, (uint64_t)q->l1_size * 8, 0, 0,
				 "ERROR the active L1 table at offset %#" PRIx64 " lies behind the end of the file (at %"
				 PRIu64 " bytes)", q->l1_offset, x->c.file_size);
	if (!q->reftable_clusters)
		QCOW2_SAY_BEYOND(x, PLT_CORRUPTION, "Q-REF-TABLE", 56, 4, 0, 0,
				 "ERROR the header names no refcount table");
	if ((q->incompatible & QCOW2_INCOMPAT_DATA_FILE) && !q->data_file_name)
		QCOW2_SAY_BEYOND(x, PLT_NOTE, "Q-EXT-NAME", 0, 0, 0, 0,
				 "The header does not name the external data file");
}

/* All steps, in qemu-img's order. */
static int examine(struct qcow2_exam *x, struct plt_error *err)
{
	struct qcow2_recount *c = &x->c;
	const struct qcow2_state *q = &x->q;
	struct plt_check_totals *t = &x->ex->totals;
	uint64_t highest = 0;
	int r = qcow2_exam_snapshots_load(x, err);

	if (!r) {
		r = qcow2_exam_luks(x);
		if (r < 0)
			return plt_error_errno(err, -r, "The examination failed");
	}
	if (!r)
		r = qcow2_stored_load(c, err);
	if (!r)
		r = gather(x, err);
	if (r < 0)
		return r;
	report_header_notes(x);
	r = qcow2_l2_scan(c);
	if (r < 0)
		return plt_error_set(err, -r, "Out of memory");
	qcow2_exam_count(x, 0, q->cluster_size, 1);
	r = qcow2_exam_l1(x, q->l1_offset, q->l1_size, true, 1);
	if (!r)
		r = qcow2_exam_snapshots(x);
	if (r < 0)
		return plt_error_set(err, -r, "Out of memory");
	if (q->nb_snapshots)
		qcow2_exam_count(x, q->snapshots_offset, q->snapshots_size, 1);
	qcow2_exam_count(x, q->reftable_offset, (uint64_t)q->reftable_clusters << q->cluster_bits, 1);
	qcow2_exam_count(x, q->luks_offset, q->luks_length, 1);
	r = qcow2_exam_bitmaps(x);
	if (r < 0)
		return plt_error_set(err, -r, "Out of memory");
	qcow2_exam_refblocks(x);
	report_overflow(x);
	/* before anything is lowered; otherwise only where there is something to judge */
	r = x->ex->mend || x->refs_bad ? qcow2_judge_orphans(x) : 0;
	if (!r && x->ex->mend)
		r = qcow2_name_cut(x);
	if (!r && x->ex->mend && x->ex->mend->deep)
		r = qcow2_tell_orphans(x);
	if (!r && x->ex->mend && x->ex->mend->nflaws)
		r = qcow2_tell_streams(x);
	if (!r && x->ex->mend)
		r = qcow2_mend_moves(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_snap_tables(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_tables(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_blank(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_snapshots(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_snap_l1(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_bitmaps(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_map(x);
	if (!r && x->ex->mend && !x->map_changed)
		r = qcow2_mend_clusters(x);
	if (!r && x->ex->mend && !(x->ex->mend->what & PLT_MEND_MAP)) /* the counts are what would say so later */
		r = qcow2_map_owed(x);
	if (!r && x->map_changed) /* the next round counts what is there now */
		return 0;
	if (!r)
		r = qcow2_compare(c, report_difference, x, &highest);
	if (!r && x->leaked && !x->ex->mend && !x->refs_bad)
		r = qcow2_judge_orphans(x);
	if (!r && x->overcounted && !x->ex->mend)
		r = qcow2_map_owed(x);
	if (!r)
		r = qcow2_mend_counts_end(x);
	if (!r && qcow2_mend_rebuilds(x))
		r = qcow2_mend_rebuild(x);
	else if (!r)
		r = qcow2_exam_copied(x);
	if (r < 0)
		return plt_error_errno(err, -r, "The examination failed");
	report_orphans(x);
	*t = (struct plt_check_totals){
		.image_end_offset = (highest + 1) << q->cluster_bits,
		.total_clusters = plt_div_up(plt_align_down(q->virtual_size, 512), q->cluster_size),
		.allocated_clusters = atomic_load(&c->allocated),
		.fragmented_clusters = atomic_load(&c->fragmented),
		.compressed_clusters = atomic_load(&c->compressed),
		.have_clusters = true,
	};
	report_overlaps(x);
	r = report_cut(x);
	if (r == 0)
		r = qcow2_exam_beyond_end(x);
	if (r == 0 && x->ex->mend)
		r = qcow2_mend_flags(x);
	return r < 0 ? plt_error_errno(err, -r, "The examination failed") : 0;
}

static int read_header(struct qcow2_exam *x, struct plt_error *err)
{
	char *backing = NULL, *format = NULL;
	int r;

	x->q.ignore = plt_ctx_ignored_features(x->ex->ctx);
	r = qcow2_header_read(x->ex->file, x->ex->name, true, &x->q, &backing, &format, err);

	x->backing = backing != NULL;
	free(backing);
	free(format);
	return r;
}

/*
 * The header as it is, or one that is mended by what the rest of the file shows, in an overlay: ex->mend's, or
 * *ret_scratch, in which case the rest is examined as if it had been whole.
 */
static int find_header(struct qcow2_exam *x, struct plt_store **ret_scratch, struct plt_error *err)
{
	struct plt_examine *ex = x->ex;
	struct plt_store *file = ex->file;
	int r = read_header(x, err), mended;

	if (r == 0 && ex->mend && (ex->mend->what & PLT_MEND_MAP) && !ex->mend->file_size) {
		unsigned astray = qcow2_astray(ex->file, &x->q);

		if ((astray > QCOW2_ASTRAY_SOME || qcow2_begins_earlier(ex->file, &x->q) || qcow2_crypt_is_wrong(ex->file, &x->q)) &&
		    qcow2_mend_header(ex, 0, astray, NULL) == 0) {
			qcow2_state_release(&x->q);
			x->q = (struct qcow2_state){0};
			return read_header(x, err);
		}
	}
	if (r == 0 || r == -ENOMEM || r == -EIO || (ex->mend && !(ex->mend->what & PLT_MEND_MAP)))
		return r;
	if (r == -ENOTSUP && ex->mend && ex->mend->look && qcow2_ignore_features(x) == 0) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		return read_header(x, err);
	}
	if (!ex->mend) {
		if (plt_overlay_new(file, true, ret_scratch) < 0)
			return plt_error_set(err, ENOMEM, "Out of memory");
		ex->file = *ret_scratch;
	}
	mended = qcow2_mend_header(ex, r, 0, NULL);
	if (mended == 0) {
		x->q = (struct qcow2_state){0};
		r = read_header(x, err);
	} else if (mended == -EIO && ex->mend) {
		plt_error_prefix(err, "what is left cannot be read everywhere, so the header is not made anew in place");
	}
	if (r == -ENOTSUP && ex->mend)
		qcow2_name_unknown(ex->file, err);
	return r;
}

int qcow2_examine(struct plt_examine *ex, struct plt_error *err)
{
	struct qcow2_exam x = {.ex = ex};
	struct plt_store *scratch = NULL, *file = ex->file;
	uint64_t size; /* (a header that is made anew may bring tables) */
	int r = plt_store_size(file, &size, err);

	if (r < 0)
		return r;
	r = find_header(&x, &scratch, err);
	if (r < 0) {
		ex->file = file;
		plt_store_unref(scratch);
		return r;
	}
	r = qcow2_mend_ignored(&x);
	if (!r)
		r = qcow2_recount_init(&x.c, ex->ctx, ex->file, &x.q, err);
	if (!r && ex->mend && !ex->mend->file_size)
		ex->mend->file_size = size;
	if (!r)
		r = examine(&x, err);
	qcow2_recount_release(&x.c);
	free(x.snapshot_times);
	free(x.overlaps);
	free(x.block);
	free(x.pieces);
	plt_extents_release(&x.unreached);
	free(x.strays);
	free(x.l1s);
	qcow2_bitmaps_release(&x.q);
	qcow2_snapshots_release(&x.q);
	qcow2_state_release(&x.q);
	ex->file = file;
	plt_store_unref(scratch);
	return r;
}
