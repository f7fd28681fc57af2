/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_MAPPING_H
#define PLT_QCOW2_MAPPING_H

/*
 * What map.c, place.c, zero.c and refcount.c share: reading and writing single entries of the tables
 * through the metadata cache.
 */
#include <errno.h>

#include "qcow2/qcow2.h"

/* What driver->work() is asked for; all of it exclusive. */
enum qcow2_work {
	QCOW2_WORK_NEW_L2,      /* arg: L1 index without a table */
	QCOW2_WORK_UNSHARE_L2,  /* arg: L1 index whose table a snapshot shares */
	QCOW2_WORK_NEW_REFBLOCK,/* arg: index of the block */
	QCOW2_WORK_GROW_REFTABLE,/* arg: entries it must have at least */
	QCOW2_WORK_MARK_CORRUPT, /* arg: host offset of the metadata that would have been written over */
};

/* Kinds of limbo entries. */
enum qcow2_limbo {
	QCOW2_LIMBO_CLUSTERS = 0, /* whole clusters; neighbours may be joined */
	QCOW2_LIMBO_PACKED = 1,   /* one compressed range: -1 on each cluster that it touches */
	QCOW2_LIMBO_TABLE = 2,    /* L2 tables: freed if the guard knows of no other reference */
};

struct qcow2_entry {
	uint64_t word;
	uint64_t bitmap; /* extended entries: 32 allocation bits, 32 zero bits */
};

/* Which subclusters does [off, off+len) of one cluster touch? */
static inline uint64_t qcow2_sub_mask(const struct qcow2_state *q, uint64_t off, uint64_t len)
{
	uint64_t in = off & (q->cluster_size - 1);
	unsigned first = (unsigned)(in >> q->sub_bits), last = (unsigned)((in + len - 1) >> q->sub_bits);

	return ((UINT64_C(2) << last) - 1) & ~((UINT64_C(1) << first) - 1);
}

enum qcow2_kind {
	QCOW2_ABSENT,
	QCOW2_ABSENT_KEPT, /* extended: subcluster without data in an allocated cluster */
	QCOW2_ZERO_PLAIN,
	QCOW2_ZERO_KEPT,   /* reads zero, has a host cluster; what lies there is stale */
	QCOW2_DATA,
	QCOW2_PACKED,
	QCOW2_BAD,
};

/*
 * guard.c.  What holds metadata; the three by their place in the header first.
 */
enum qcow2_meta {
	QCOW2_META_NONE,
	QCOW2_META_HEADER, QCOW2_META_ACTIVE_L1, QCOW2_META_REFTABLE,
	QCOW2_META_SNAPSHOT_TABLE, QCOW2_META_INACTIVE_L1, QCOW2_META_BITMAP_DIRECTORY, QCOW2_META_BITMAP_TABLE,
	QCOW2_META_CRYPTO,
	QCOW2_META_REFBLOCK, QCOW2_META_ACTIVE_L2, QCOW2_META_INACTIVE_L2,
	QCOW2_META_TANGLED, /* two tables in one place: neither may be written */
};
/* Blocking, before the first write: read what there is.  Nothing to do the second time. */
int qcow2_guard_load(struct plt_image *img, struct plt_error *err);
void qcow2_guard_free(struct qcow2_state *q);
/* After tables that are ranges, or all counts, have moved.  All is flushed, the caller is exclusive. */
int qcow2_guard_reload(struct plt_image *img, struct plt_error *err);
/*
 * Does [off, +len) touch a table that the guard knows, the three of the header apart?  Any thread, no
 * lock; false before the first write.
 */
bool qcow2_guarded(const struct qcow2_state *q, uint64_t off, uint64_t len);
/* The cluster at @off holds a table of that kind and nothing else; true before the first write. */
bool qcow2_guard_is(const struct qcow2_state *q, uint64_t off, enum qcow2_meta kind);
/* The first metadata in [off, +len), all kinds. */
enum qcow2_meta qcow2_guard_find(const struct qcow2_state *q, uint64_t off, uint64_t len, uint64_t *ret_at);
/* The entry names a place with metadata (at *ret_at): that is neither written nor given up. */
bool qcow2_entry_unsafe(const struct plt_image *img, struct qcow2_entry e, uint64_t *ret_at);
/* Blocking, before a table is made: room for @n more.  Then add() and drop(), image lock held, cannot fail. */
int qcow2_guard_reserve(struct plt_image *img, uint64_t n, struct plt_error *err);
void qcow2_guard_add(struct plt_image *img, uint64_t off, enum qcow2_meta kind);
/* One reference less.  False: there are more, and the table stays. */
bool qcow2_guard_drop(struct plt_image *img, uint64_t off);
/*
 * The snapshot table, a snapshot's L1, the bitmap directory or a bitmap's table has moved, and the state
 * says so: before the old place is given back, which on -ENOMEM it must not be.
 */
int qcow2_guard_renew(struct plt_image *img);
/* -EAGAIN: the need of a request that would write at @host_off, where metadata is.  Meeting it fails. */
static inline int qcow2_unsafe(uint64_t host_off, struct plt_need *need)
{
	*need = (struct plt_need){ .kind = PLT_NEED_WORK, .code = QCOW2_WORK_MARK_CORRUPT, .arg = host_off,
				   .exclusive = true };
	return -EAGAIN;
}
/* Blocking: a write at @off has been prevented.  Marks the image and returns -EIO, always. */
int qcow2_mark_corrupt(struct plt_image *img, uint64_t off, struct plt_error *err);
/* -EIO: it has been marked before. */
int qcow2_refuse_corrupt(const struct plt_image *img, struct plt_error *err);

/* Does [host_off, +len) touch the header, the active L1 table or the refcount table? */
bool qcow2_on_metadata(const struct qcow2_state *q, uint64_t host_off, uint64_t len);
int qcow2_l1_get(struct plt_image *img, struct plt_pins *pins, uint64_t l1_offset, uint64_t index,
		 struct plt_block **ret, unsigned *ret_word, struct plt_need *need, struct plt_error *err);
/* -EUCLEAN with text if an L1 entry cannot be followed. */
int qcow2_l1_check(const struct plt_image *img, uint64_t index, uint64_t entry, struct plt_error *err);

/* @index counts entries within the slice. */
struct qcow2_entry qcow2_entry_get(const struct qcow2_state *q, const struct plt_block *b, unsigned index);
void qcow2_entry_set(const struct qcow2_state *q, struct plt_block *b, unsigned index, struct qcow2_entry e);
bool qcow2_entry_bad(const struct plt_image *img, struct qcow2_entry e, uint64_t guest_off);
enum qcow2_kind qcow2_entry_kind(const struct plt_image *img, struct qcow2_entry e, uint64_t guest_off, unsigned sub);
/* Bytes of the file that may belong to a compressed cluster. */
void qcow2_packed_range(const struct qcow2_state *q, uint64_t word, uint64_t *ret_off, uint32_t *ret_len);

/*
 * refcount.c, for place: find @n free clusters in a row, or as many as there are (at least one), and
 * pin what their counts live in.  Changes nothing on disk or in the tables; image lock held.  Blocks of
 * counts that it has passed are unpinned, also those that the caller had pinned before.
 */
struct qcow2_found {
	uint64_t cluster;           /* host cluster index of the first */
	uint64_t n;
	struct plt_block *refblock; /* the slice that holds all their counts */
	struct plt_block *reftable; /* the slice that names it */
};
int qcow2_find_free(struct plt_image *img, struct plt_pins *pins, uint64_t n, struct qcow2_found *ret,
		    struct plt_need *need, struct plt_error *err);
/* The count's slice of one cluster; *ret_refblock NULL if it has none (count 0). */
int qcow2_count_block(struct plt_image *img, struct plt_pins *pins, uint64_t cluster, struct plt_block **ret_refblock,
		      struct plt_block **ret_reftable, struct plt_need *need, struct plt_error *err);
/* Blocking: the same for the block alone; *ret NULL: there is none. */
int qcow2_count_block_wait(struct plt_image *img, struct plt_pins *pins, uint64_t cluster, struct plt_block **ret,
			   struct plt_error *err);
uint64_t qcow2_count_read(const struct plt_image *img, struct plt_block *refblock, uint64_t cluster);
void qcow2_count_write(const struct plt_image *img, struct plt_block *refblock, uint64_t cluster, uint64_t count);
/* Count the found clusters once each; image lock held. */
void qcow2_take(struct plt_image *img, const struct qcow2_found *f);
void qcow2_give_back(struct plt_image *img, const struct qcow2_found *f);
/* Do clusters [cluster, +n) lie behind everything the file ever held, so that they read as zeros? */
bool qcow2_is_fresh(const struct plt_image *img, uint64_t cluster);

/* What an entry that is being replaced referred to goes to limbo; room for it was found.  Image lock held. */
void qcow2_drop_old(struct plt_image *img, struct qcow2_entry e);

int qcow2_before_sync(struct plt_image *img, struct plt_error *err);

/* Blocking parts of QCOW2_WORK_NEW_REFBLOCK and QCOW2_WORK_GROW_REFTABLE. */
int qcow2_new_refblock(struct plt_image *img, uint64_t index, struct plt_error *err);
/* A block of zeros except for the counts of [first, first+n) within it, which are 1; written, not cached. */
int qcow2_write_refblock(struct plt_image *img, uint64_t host_off, uint64_t first, uint64_t n, struct plt_error *err);
uint64_t qcow2_table_entries(const struct qcow2_state *q); /* of the refcount table */
uint64_t qcow2_cluster_limit(struct plt_image *img); /* clusters that the file has, or may have, room for */
int qcow2_grow_reftable(struct plt_image *img, uint64_t entries, struct plt_error *err);

#endif
