/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_CHECK_H
#define PLT_QCOW2_CHECK_H

/*
 * The recount: what check.c (findings) and recover.c (the recount of a dirty image) share.
 *
 * One cell a host cluster holds how often the map and the tables reach it, whether the stored count
 * is one, and whether metadata lies there.  A cell is one byte as long as few L1 tables exist; what
 * does not fit goes to a small hash table.  Cells are touched lazily, so that a sparse file costs
 * what it holds.
 *
 * L2 tables are first scanned fast and in parallel, which counts and marks tables in which anything
 * is unusual; only those are read again, in order, to say what it is.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "qcow2/qcow2.h"

/* One L2 table that some L1 entry names. */
struct qcow2_l2ref {
	uint64_t off;
	uint32_t active, others; /* how many entries of the active L1, of snapshots' L1s, name it */
	bool flagged;		 /* something in it wants a second look */
	bool odd;		 /* and more than a mark that differs from a count: see qcow2_l2_is_odd() */
	bool unmarked;		 /* some cluster has no mark COPIED */
	bool empty;		 /* it lies in a hole */
	uint8_t shape;		 /* QCOW2_SHAPE_*: see qcow2_l2_shape() */
	uint8_t content;	 /* see qcow2_l2_is_other(): 0: not known, 1: a table, 2: something else */
	uint64_t moved;		 /* mending: a new table has its sound entries */
	uint32_t walk, seen;	 /* how often the present walk of an L1 has looked at it */
};

struct qcow2_overflow {
	uint64_t cluster, count; /* count 0: free slot */
};

/* Entries name clusters in no order: with one slot a refcount block would be read for nearly each of them. */
#define QCOW2_COUNT_SLOTS 16

struct qcow2_recount {
	struct plt_ctx *ctx;
	struct plt_store *file;
	uint64_t file_size;
	struct qcow2_state *q; /* header and snapshots */
	bool external;	       /* data lies in another file */

	/* cells */
	uint64_t nb;	    /* clusters that count: the file's, one more where a table is cut */
	uint64_t cells_len; /* of the mapping */
	bool wide;
	void *cells;
	pthread_mutex_t lock; /* the overflow table */
	struct qcow2_overflow *over;
	uint64_t over_n, over_cap;
	_Atomic bool no_memory;
	_Atomic bool beyond; /* an unaligned place reached one cluster past the file's last */
	_Atomic bool shared; /* some cluster is counted more than once */

	/* stored counts */
	uint64_t *rt; /* refcount table, host order; entries behind the file's end are absent */
	uint64_t nrt;
	uint64_t rt_entries; /* as the header has it */
	/* refcount blocks that qcow2_stored_count() has read, each in the slot of its index modulo QCOW2_COUNT_SLOTS */
	struct qcow2_counts {
		uint64_t index; /* UINT64_MAX: none */
		uint8_t *block;
	} counts[QCOW2_COUNT_SLOTS];

	/* L2 tables */
	struct qcow2_l2ref *l2;
	uint64_t nl2, l2_cap;

	/* of the active tree */
	_Atomic uint64_t allocated, fragmented, compressed;
	_Atomic bool read_failed; /* some table could not be read */
};

/*
 * The first place in [@p, @end) that is not one of 64 bytes of zeros, as most of the tables of a sparse disk are: absent
 * entries in both sizes.  Loops over entries that have nothing to say to those begin and go on here.
 */
static inline const uint8_t *qcow2_behind_absent(const uint8_t *p, const uint8_t *end)
{
	uint64_t v[8];

	while (end - p >= (ptrdiff_t)sizeof(v)) {
		memcpy(v, p, sizeof(v));
		if (v[0] || (v[1] | v[2] | v[3] | v[4] | v[5] | v[6] | v[7]))
			break;
		p += sizeof(v);
	}
	return p;
}

/* A reference to [off, off+len) is impossible: it would end a cluster or more behind the file. */
static inline bool qcow2_exceeds(const struct qcow2_recount *c, uint64_t off, uint64_t len)
{
	return off + len >= c->file_size + c->q->cluster_size;
}

static inline uint64_t qcow2_csize_shift(const struct qcow2_state *q)
{
	return 62 - (q->cluster_bits - 8);
}

/* Host bytes of a compressed entry. */
static inline uint64_t qcow2_compressed_range(const struct qcow2_state *q, uint64_t entry,
					      uint64_t *ret_off)
{
	uint64_t shift = qcow2_csize_shift(q);
	uint64_t sectors = (entry >> shift & ((UINT64_C(1) << (q->cluster_bits - 8)) - 1)) + 1;

	*ret_off = entry & ((UINT64_C(1) << shift) - 1);
	return sectors * 512 - (*ret_off & 511);
}

enum qcow2_entry_type {
	QCOW2_ENTRY_UNALLOCATED,
	QCOW2_ENTRY_ZERO_PLAIN,
	QCOW2_ENTRY_ZERO_ALLOC,
	QCOW2_ENTRY_NORMAL,
	QCOW2_ENTRY_COMPRESSED,
};

static inline enum qcow2_entry_type qcow2_entry_type(const struct qcow2_recount *c, uint64_t e)
{
	if (e & QCOW2_COMPRESSED)
		return QCOW2_ENTRY_COMPRESSED;
	if ((e & QCOW2_L2_ZERO) && !c->q->extl2)
		return e & QCOW2_L2_OFFSET ? QCOW2_ENTRY_ZERO_ALLOC : QCOW2_ENTRY_ZERO_PLAIN;
	if (!(e & QCOW2_L2_OFFSET))
		return c->external && (e & QCOW2_COPIED) ? QCOW2_ENTRY_NORMAL
							 : QCOW2_ENTRY_UNALLOCATED;
	return QCOW2_ENTRY_NORMAL;
}

/* mend/orphans_judge.c: what clusters are that are counted, or whose counts are lost, and that nothing reaches */
enum qcow2_orphan_verdict {
	QCOW2_ORPHANS_LEFT,	 /* none, or a program that was stopped has left them */
	QCOW2_ORPHANS_UNDECIDED, /* their counts stay */
	QCOW2_ORPHANS_LOST,	 /* part of the map has been lost: they may be the guest's data */
};

/* An orphan L2 table that nothing explains. */
struct qcow2_piece {
	uint64_t off;
	uint64_t slot;		   /* L1 index that an old L1 names it at; UINT64_MAX: none, or several */
	bool named;
};

/* An examination: the recount, and whom to tell. */
struct qcow2_overlap {
	uint64_t off, len;
	const char *what;
};

struct qcow2_exam {
	struct qcow2_recount c;
	struct plt_examine *ex;
	struct qcow2_state q;
	uint32_t *snapshot_times;	/* of each snapshot's L1 table: see qcow2_tables_group() */
	struct qcow2_overlap *overlaps; /* metadata found where metadata is already */
	unsigned noverlaps;
	bool refblock_said; /* an unaligned refcount block has been named */
	uint32_t walks;	    /* walks of L1 tables so far */
	bool refs_bad;	    /* the refcount structure itself cannot be trusted */
	uint64_t behind;    /* entries of L2 tables that name what lies behind the end of the file */
	bool cut;	    /* so do several of them, or tables lie there: no stop explains that */
	uint64_t shares;    /* clusters that are reached, and counted more often than that: when orphans are judged */
	bool shares_lost;   /* snapshots have what the disk had as well, whose map is gone */
	bool lost_by_name;  /* only what the plan has named lost before makes the orphans lost */
	bool counts_gone;   /* stored counts say that what is in use is free */
	bool bitmaps_bad;   /* so could the directory of bitmaps */
	bool snapshots_bad; /* the snapshot table could not be read: what it reaches is not counted */
	enum qcow2_orphan_verdict orphans;
	struct plt_extents unreached; /* of an image whose counts are lost: those clusters */
	uint64_t orphan_clusters, orphan_tables; /* with content and without explanation */
	struct qcow2_piece *pieces; /* orphan L2 tables, once orphans have been judged */
	uint32_t npieces;
	bool explained;		  /* some orphan L2 table is explained by an orphan L1 table */
	bool emptied;		  /* the active L1 table is empty, and an orphan one names tables */
	uint64_t *strays;   /* when mending the map: places of orphans with content, ascending */
	uint32_t nstrays, strays_cap;
	uint64_t *l1s;	    /* when mending the map: orphans of the shape of L1 tables that name L2 tables */
	uint32_t nl1s;
	bool backing;	    /* the header names a backing file */
	bool map_changed;	  /* what was counted is not the map that is there now */
	bool counts_left;	  /* a stored count is wrong and stays so */
	bool leaked;		  /* some cluster is counted, and nothing reaches it, or the other way round */
	bool map_unread;	  /* a table of the map does not read: what it names is not counted */
	bool overcounted;	  /* some cluster is counted more often than it is reached */
	uint8_t *block;		  /* mending: the refcount block that is being changed */
	uint64_t block_index;
	uint32_t block_from, block_to; /* what of it has changed, in whole sectors */
};

#define QCOW2_SAY(x, level, class, off, len, ...)                                                  \
	plt_emit((x)->ex,                                                                          \
		 &(struct plt_finding){.id = (class),                                              \
				       .severity = (level),                                        \
				       .count = 1,                                                 \
				       .host_off = (off),                                          \
				       .host_len = (len)},                                         \
		 __VA_ARGS__)
/* What qemu-img does not see. */
#define QCOW2_SAY_BEYOND(x, level, class, off, len, goff, glen, ...)                               \
	plt_emit((x)->ex,                                                                          \
		 &(struct plt_finding){.id = (class),                                              \
				       .severity = (level),                                        \
				       .count = 1,                                                 \
				       .beyond_qemu = true,                                        \
				       .host_off = (off),                                          \
				       .host_len = (len),                                          \
				       .guest_off = (goff),                                        \
				       .guest_len = (glen)},                                       \
		 __VA_ARGS__)

/* check_report.c: what is wrong in L1 and L2 tables, in words and in order */
/* Count [off, off+len) @times, or say that it cannot be. */
void qcow2_exam_count(struct qcow2_exam *x, uint64_t off, uint64_t len, uint32_t times);
/* One L1 table: its entries and the flagged L2 tables below.  Counts the L1 and its L2 tables. */
int qcow2_exam_l1(struct qcow2_exam *x, uint64_t l1_off, uint32_t l1_size, bool active, uint32_t times);
/* COPIED in the active tree against the stored counts. */
int qcow2_exam_copied(struct qcow2_exam *x);
/* Clusters that the active tree maps behind the end of the disk. */
int qcow2_exam_beyond_end(struct qcow2_exam *x);
/*
 * mend/features.c: the header claims features that are not known.  For those who only look: if the image's own table has no
 * names for them, and without them the map leads to tables, they are taken out of the overlay.  And those that are to be
 * ignored on the user's word, which the header that has been read claims: said, and mended if they may be.
 */
int qcow2_ignore_features(struct qcow2_exam *x);
/* @err is that the header claims some: add how it is said that they do not count. */
void qcow2_name_unknown(struct plt_store *file, struct plt_error *err);
int qcow2_mend_ignored(struct qcow2_exam *x);
/*
 * mend/size.c: clusters are mapped up to @mapped_end, behind the end of the disk.  Does the guest say where it ends?
 * Then it has been said, and is mended if it may be.
 */
int qcow2_mend_size(struct qcow2_exam *x, uint64_t mapped_end, bool *ret_said);
/* The file ends @rest bytes into the data cluster at @off. */
int qcow2_exam_cut(struct qcow2_exam *x, uint64_t off, uint64_t rest);
/* Before the plan lets the file grow: what of its last cluster is not there is named lost. */
int qcow2_name_cut(struct qcow2_exam *x);

/* check_refs.c: cells and stored counts */
int qcow2_recount_init(struct qcow2_recount *c, struct plt_ctx *ctx, struct plt_store *file,
		       struct qcow2_state *q, struct plt_error *err);
void qcow2_recount_release(struct qcow2_recount *c);
/* @times references to every cluster of [off, off+len), which must not exceed the file. */
void qcow2_count(struct qcow2_recount *c, uint64_t off, uint64_t len, uint32_t times);
/* Let nb take in a cluster that was counted behind the file's last; not while a scan runs. */
void qcow2_count_settle(struct qcow2_recount *c);
/* Add, and return the cell as it was before: see qcow2_was_*. */
unsigned qcow2_count_cluster(struct qcow2_recount *c, uint64_t cluster, uint32_t times);
bool qcow2_was_one(const struct qcow2_recount *c, unsigned cell); /* stored count is one */
bool qcow2_was_metadata(const struct qcow2_recount *c, unsigned cell);
bool qcow2_was_used(const struct qcow2_recount *c, unsigned cell); /* counted before */
/* Say that metadata lies in [off, off+len); false if some of it did already. */
bool qcow2_mark_metadata(struct qcow2_recount *c, uint64_t off, uint64_t len);
bool qcow2_is_metadata(const struct qcow2_recount *c, uint64_t cluster);
uint64_t qcow2_references(const struct qcow2_recount *c, uint64_t cluster); /* true, unsaturated */
/*
 * May a flagged table have anything in it but marks that differ from counts?  Those alone are left to who puts marks right:
 * where all counts are lost each table is flagged for them, and to go through all for each question takes its time.  (What
 * names a cluster that something else names, too, is only odd to the second of them.)
 */
static inline bool qcow2_l2_is_odd(const struct qcow2_recount *c, const struct qcow2_l2ref *l)
{
	return l->flagged && (l->odd || atomic_load_explicit(&c->shared, memory_order_relaxed));
}
/* The refcount table, and which stored counts are one. */
int qcow2_stored_load(struct qcow2_recount *c, struct plt_error *err);
/* A stored count; -EIO: its refcount block cannot be (reached or) read. */
int qcow2_stored_count(struct qcow2_recount *c, uint64_t cluster, uint64_t *ret);
void qcow2_stored_forget(struct qcow2_recount *c); /* counts were written: they are read again */
uint64_t qcow2_count_at(const struct qcow2_state *q, const uint8_t *block, uint64_t i);
void qcow2_count_put(const struct qcow2_state *q, uint8_t *block, uint64_t i, uint64_t count);
/*
 * Compare all cells with the stored counts, in parallel; calls @differs(arg, cluster, stored,
 * references) in ascending order, or with unreadable = -errno.  *ret_highest: the last cluster that
 * either side uses.
 */
int qcow2_compare(struct qcow2_recount *c,
		  void (*differs)(void *arg, uint64_t cluster, uint64_t stored, uint64_t references,
				  int unreadable),
		  void *arg, uint64_t *ret_highest);

/*
 * check_map.c: L1 and L2 tables.
 *
 * Tables of which a header of a few bytes may name thousands, each as large as it says: what lies in the
 * same place is gone through once, with *times to be counted by; of the others that name it *times is 0.  A
 * table that overlaps another in part is gone through not at all: QCOW2_ASTRAY.  So the work is bounded by
 * what the file holds.
 */
struct qcow2_table {
	uint64_t off, len;
	uint32_t index; /* in @times */
};
#define QCOW2_ASTRAY UINT32_MAX
int qcow2_by_value(const void *a, const void *b); /* compares two uint64_t */
void qcow2_tables_group(struct qcow2_table *v, uint32_t n, uint32_t *times);
/* How many of the @len bytes at @off are known to begin with a hole?  @h: what was asked before; zeroed. */
struct qcow2_host {
	uint64_t from, to;
	bool hole;
};
uint64_t qcow2_hole_at(const struct qcow2_recount *c, struct qcow2_host *h, uint64_t off, uint64_t len);
/* Read an L1 table by pieces: fn(arg, index, entry) for entries that are not 0, in order. */
int qcow2_l1_each(struct qcow2_recount *c, uint64_t l1_off, uint32_t l1_size,
		  int (*fn)(void *arg, uint32_t index, uint64_t entry), void *arg);
/* Collect the L2 tables of one L1 table; count and mark the L1 itself. */
int qcow2_l2_collect(struct qcow2_recount *c, uint64_t l1_off, uint32_t l1_size, bool active, uint32_t times);
int qcow2_l2_sort(struct qcow2_recount *c);
struct qcow2_l2ref *qcow2_l2_find(const struct qcow2_recount *c, uint64_t off);
/* Count what all L2 tables reach, and flag those that want a second look.  In parallel. */
int qcow2_l2_scan(struct qcow2_recount *c);
/* One L2 table's bytes (zeros behind the file's end) into @buf of one cluster. */
int qcow2_l2_read(struct qcow2_recount *c, uint64_t off, uint8_t *buf);

/* check.c: metadata lies in [off, off+len): @what, which is remembered if other metadata lies there, too. */
void qcow2_exam_mark(struct qcow2_exam *x, uint64_t off, uint64_t len, const char *what);
bool qcow2_snapshot_l1_usable(const struct qcow2_exam *x, const struct qcow2_snapshot *s);

/* check_metadata.c: what is wrong beside the map, in words; what is not loaded but gone through is counted. */
int qcow2_exam_snapshots_load(struct qcow2_exam *x, struct plt_error *err);
int qcow2_exam_snapshots(struct qcow2_exam *x);
int qcow2_exam_bitmaps(struct qcow2_exam *x);
void qcow2_exam_refblocks(struct qcow2_exam *x);

/* Does other metadata lie in [off, off+len), too?  Then no entry in it may be changed. */
/* Behind what offset is an entry garbage, and not what was cut off the file? */
uint64_t qcow2_far_end(const struct qcow2_exam *x);
bool qcow2_exam_overlaps(const struct qcow2_exam *x, uint64_t off, uint64_t len);

/* mend/orphans.c, orphans_judge.c: sets x->orphans.  After everything has been counted. */
int qcow2_judge_orphans(struct qcow2_exam *x);

/*
 * mend/unreached.c: clusters that nothing reaches and that may be in use: those that are counted, and where counts are
 * lost, all.  Sets x->counts_gone, and x->refs_bad where a count that is missing has no place.
 */
int qcow2_find_unreached(struct qcow2_exam *x, struct plt_extents *ret);
/* Is the cluster at @off counted once more than it is named, or oftener? */
bool qcow2_is_missed(struct qcow2_exam *x, uint64_t off);

/*
 * mend/stale.c: is the cluster at @off, of which @buf (a cluster) has the first @few bytes, one that the image itself has
 * given up?  It may read the rest.
 */
bool qcow2_is_stale(const struct qcow2_exam *x, uint64_t off, uint8_t *buf, uint32_t few);

#define QCOW2_SOME_ORPHANS 8 /* more than are free, and not zero, in an image without counts, as a rule */
#define QCOW2_MAX_STRAYS (UINT32_C(1) << 20) /* more are not placed */

/* mend/shapes.c.  Could @e be an entry of an L2 table?  *ret_off: the cluster that it names, or 0. */
bool qcow2_entry_fits(const struct qcow2_exam *x, uint64_t e, uint64_t bitmap, uint64_t *ret_off);

/*
 * Over an external data file clusters lie where the guest has them: the guest offset at which the table must begin that
 * says so with all of its *ret_n entries; UINT64_MAX: it says something else, or nothing.
 */
uint64_t qcow2_own_place(const struct qcow2_state *q, const uint8_t *table, uint32_t *ret_n);

/* Entries that both tables have, in the same place. */
uint32_t qcow2_alike(const struct qcow2_state *q, const uint8_t *a, const uint8_t *b);

/* What a table that is named looks like; it is read once.  @buf: one cluster. */
enum {
	QCOW2_SHAPE_FULL = 1 << 0,    /* some of each 512 bytes is used */
	QCOW2_SHAPE_SPARSE = 1 << 1,  /* 512 bytes or more are zeros */
	QCOW2_SHAPE_ZERO = 1 << 2,    /* all of it */
	QCOW2_SHAPE_GARBAGE = 1 << 3, /* many entries cannot be, or it cannot be read */
	QCOW2_SHAPE_UNREAD = 1 << 4,  /* with GARBAGE: it cannot be read */
};
unsigned qcow2_l2_shape(struct qcow2_exam *x, struct qcow2_l2ref *l, uint8_t *buf);
/* Does something else lie where @l is named, in which hardly anything can be an entry?  It is read once. */
bool qcow2_l2_is_other(struct qcow2_exam *x, struct qcow2_l2ref *l);
/* Has a table nothing but entries that can be, a few at most excepted? */
bool qcow2_l2_well_formed(const struct qcow2_exam *x, const uint8_t *table);

/*
 * mend/map.c: orphan L2 tables go back into the L1 where an old L1 or a snapshot says where they belong, or
 * the caller does; the others become ex->mend->unplaced.
 */
int qcow2_mend_map(struct qcow2_exam *x);
/*
 * Where the map is not mended, or only looked at: does the disk lack tables that snapshots share with it, as the counts
 * say?  Then it is said, and no count is lowered (x->orphans).
 */
int qcow2_map_owed(struct qcow2_exam *x);

/*
 * mend/tables.c: what of L1 and L2 tables cannot be is taken out, and named lost; the sound rest of a table goes
 * into a new one behind the end of the file.
 */
int qcow2_mend_tables(struct qcow2_exam *x);
/* mend/blank.c: what a table of zeros must have named. */
int qcow2_mend_blank(struct qcow2_exam *x);
/* A tree of tables: the active one, or a snapshot's. */
struct qcow2_tree {
	uint32_t disk; /* PLT_DISK_ACTIVE, or which snapshot */
	uint64_t l1_offset, size; /* size: of the disk */
	uint32_t l1_size;
};
/* mend/edit.c.  Where the next table goes that the plan adds. */
int qcow2_fresh_place(struct qcow2_exam *x, uint64_t *ret);
/* The L1 entry of @t names the table at @off now. */
int qcow2_l1_set(struct qcow2_exam *x, const struct qcow2_tree *t, uint32_t index, uint64_t off);
/* Is it a table that this plan has added, and may be changed where it lies? */
bool qcow2_is_added(const struct qcow2_exam *x, uint64_t off);
/* The table at @off has been replaced. */
int qcow2_leave_behind(struct qcow2_exam *x, uint64_t off);
bool qcow2_left_behind(const struct qcow2_exam *x, uint64_t cluster);
/* Name [off, off+len), as far as it lies on the disk. */
int qcow2_doubt(struct qcow2_exam *x, const struct qcow2_tree *t, enum plt_doubt_kind kind, uint64_t off, uint64_t len,
		enum plt_certainty certainty, const char *why);
extern const char qcow2_why_overwritten[], qcow2_why_l1[], qcow2_why_entry[], qcow2_why_beyond[], qcow2_why_zero[];

/* A stopped program explains the orphans as well as a lost map does, and nobody will look at what is planned for them. */
static inline bool qcow2_may_be_left(const struct qcow2_exam *x)
{
	return x->ex->mend->unattended && x->orphans == QCOW2_ORPHANS_UNDECIDED;
}

/*
 * mend/bitmaps.c: their directory, after orphans have been judged; an entry of a bitmap's table at @at that cannot be.  True: it
 * is put right.
 */
int qcow2_mend_bitmaps(struct qcow2_exam *x);
bool qcow2_mend_bitmap_entry(struct qcow2_exam *x, uint64_t at, uint64_t e);

/* mend/luks.c: of an encrypted image, also where nothing is mended; before anything is counted. */
int qcow2_exam_luks(struct qcow2_exam *x);

/* mend/snapshots.c: the snapshot table: before it is read, after it could not be, an L1 table of one */
int qcow2_mend_snapcount(struct qcow2_exam *x);
int qcow2_exam_snapnames(struct qcow2_exam *x); /* also where nothing is mended */
bool qcow2_snaptable_is_none(const struct qcow2_exam *x); /* not one entry that was read makes sense */
int qcow2_mend_snapshots(struct qcow2_exam *x);
int qcow2_mend_snap_l1(struct qcow2_exam *x);
/* mend/snap_tables.c: entries of a snapshot's L1 table that cannot be, or have been taken out, get their tables back. */
int qcow2_mend_snap_tables(struct qcow2_exam *x);

/*
 * mend/packed.c: compressed clusters that nothing names.  Where they may be; may one lie in [off, off+len); the
 * entry that names it; are some of them missing in clusters that others are in?
 */
int qcow2_packed_find(struct qcow2_exam *x, struct plt_orphans *p);
int qcow2_tell_streams(struct qcow2_exam *x); /* of ex->mend->flaws */
bool qcow2_packed_is_open(struct qcow2_exam *x, uint64_t off, uint64_t len);
uint64_t qcow2_packed_entry(const struct qcow2_state *q, uint64_t off, uint32_t len);
int qcow2_packed_missing(struct qcow2_exam *x, bool *ret);

/*
 * mend/moves.c: what somebody has found out of the map (ex->mend->moves), and what he wants to know for it: orphans of
 * either size, the tables of the active disk
 */
int qcow2_mend_moves(struct qcow2_exam *x);
int qcow2_tell_orphans(struct qcow2_exam *x);
int qcow2_map_tables(struct plt_ctx *ctx, struct plt_store *file, struct plt_orphans *ret, struct plt_error *err);

/* mend/clusters.c, give_up.c: single clusters back into the map, and what is given up. */
int qcow2_mend_clusters(struct qcow2_exam *x);

/* mend/datafile.c: as the driver's members say */
int qcow2_data_file(struct plt_store *file, char **ret_name, uint64_t *ret_end, struct plt_error *err);
int qcow2_set_data_file(struct plt_store *file, const char *name, struct plt_error *err);
int qcow2_name_backing(struct plt_store *file, const char *name, const char *format, struct plt_error *err);

/* mend/size.c: as the driver's member says */
int qcow2_set_size(struct plt_store *file, uint64_t size, struct plt_error *err);

/*
 * show.c: an image of nothing but orphans, for the search for their places.
 */
int qcow2_show_pieces(struct plt_store *overlay, const struct plt_orphans *p, struct plt_error *err);

/*
 * mend.c: edits of counts, for an examination that mends.  The counts that come out are those of the map, save
 * where orphans keep theirs.
 */
bool qcow2_has_refblock(const struct qcow2_exam *x, uint64_t index); /* one that can be */
/* Is the refcount structure to be written anew?  After qcow2_judge_orphans(). */
/* Some of the file does not read, and what is planned is to be written: nothing is given up that may lie there. */
bool qcow2_unread(const struct qcow2_exam *x);
bool qcow2_mend_rebuilds(const struct qcow2_exam *x);
/* A count differs: is it put right?  In ascending order; qcow2_mend_counts_end() writes the last of them. */
bool qcow2_mend_count(struct qcow2_exam *x, uint64_t cluster, uint64_t stored, uint64_t refs, int unreadable);
int qcow2_mend_counts_end(struct qcow2_exam *x);
/* Table and blocks anew, behind the end of the file; the header names them. */
int qcow2_mend_rebuild(struct qcow2_exam *x);
/* Nothing is wrong any more: the flags that say so go. */
int qcow2_mend_flags(struct qcow2_exam *x);

#endif
