/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_FAULT_RIG_H
#define PLT_TESTS_FAULT_RIG_H

/*
 * A disk under test and what its guest knows: an image in memory, on a write log or on failing
 * stores, and a history of what was written where.
 *
 * Every 64 bytes that the guest writes (a unit) hold their own place and the number of the
 * operation that wrote them, so that whatever is read back tells where it came from.  After a
 * flush that returned success a unit holds what was last written to it before, or anything written
 * to it since; never older content, never another unit's.  Ranges are whole units.
 *
 * The guest's calls (rig_write() to rig_flush()) may come from several threads, as long as each
 * keeps to its own units.
 */
#include <stdbool.h>
#include <stdint.h>

#include "block/internal.h"
#include "io/store.h"
#include "tests/fault/powercut.h"

#define RIG_UNIT 64u

struct rig_layout {
	const char *format;  /* NULL: qcow2 */
	const char *options; /* of create, "-o" */
	uint64_t size;	      /* the largest that the disk will have */
	uint64_t first_size;  /* it is created with; 0: size */
	bool damaged;	      /* it has findings until the first flush */
	bool backing;	      /* a raw image of two thirds of the size below */
	bool external;	      /* with an external data file */
	bool bitmap;	      /* with a persistent bitmap that records */
	bool encrypted;	      /* .options ask for it, with the secret "k" */
	bool writethrough;    /* while recording, each write is followed by a sync */
	bool copies;	      /* with copy-on-read */
	uint64_t cache_bytes; /* 0: the smallest */
};

enum rig_snapshot_event { RIG_NO_SNAPSHOT, RIG_CREATE, RIG_APPLY, RIG_DELETE };

struct rig_event {
	uint64_t first, n; /* units */
	bool zero;
	bool resize;   /* to new_size; what is cut off holds nothing any more, once that is certain */
	uint64_t new_size;
	enum rig_snapshot_event about; /* snapshot number .which */
	unsigned which;
	bool failed;   /* it may have happened, in part, or not */
	uint64_t done; /* rig.time when it had succeeded */
};

/* An internal snapshot: what the disk held for certain when event .made began. */
struct rig_snapshot {
	char name[16];
	size_t made;
	uint64_t size;
	/* of rig_verify(): the history at that moment */
	size_t *floor, *zero;
	uint8_t *live;
};

struct rig {
	const struct rig_layout *l;
	struct plt_ctx *ctx;
	struct plt_store *file, *data, *base; /* memory; data: NULL without an external data file */
	struct plt_store *top_file, *top_data; /* what the disk was opened on */
	struct plt_writelog *log;	       /* from rig_record() on */
	struct powercut_disk start[POWERCUT_STORES];
	struct plt_disk *disk;
	uint64_t rules_off; /* of the disk while recording */
	char data_name[4200];

	uint64_t size, units, base_units, seed;
	uint64_t disk_size; /* now; at most size */
	struct rig_event *event; /* [0] and [1] stand for zeros and what lay in the backing file */
	size_t nevents, cap;
	uint64_t time;	/* goes on with every beginning and end */
	uint64_t *mark; /* when each flush that succeeded had begun; [0]: when recording began */
	size_t nmarks;
	pthread_mutex_t lock;	/* of the history */
	struct rig_snapshot *snapshot; /* all that ever were begun */
	unsigned nsnapshots;
	bool warned;	      /* the context had something to say */
	bool beyond;	      /* a resize may have been interrupted: clusters behind the end are right */
	uint64_t moving;      /* from here on a resize may have been interrupted */
	struct plt_error err; /* of the last operation that failed */

	/* of rig_verify() */
	char violation[600];
	uint64_t verified;
	uint64_t floor_at;    /* what floor[] and zero[] are for; 0: nothing yet */
	size_t limit;	      /* events from here on had not begun */
	size_t *floor, *zero; /* per unit: event that was flushed; last event of zeros */
	uint8_t *live;	      /* per event: belongs to what the disk has become, and not to what a snapshot replaced */
	size_t nlive;
	unsigned applied;     /* bit n: the n-th time that one may have been applied it is taken to have been */
	unsigned in_doubt;    /* so many times */
	uint8_t *touched;     /* per 4096 bytes: anything known here */
};

/* A new image; @name of the data file is made unique by the process's own folder. */
struct rig *rig_new(const struct rig_layout *l, uint64_t seed);
void rig_free(struct rig *r);

/*
 * Open for writing on the bare stores / over a write log that begins here (with rules switched
 * off).
 */
void rig_open(struct rig *r);
void rig_record(struct rig *r, uint64_t rules_off);
/* The write log alone: references to what it was attached to, for the caller to put more on top. */
void rig_log(struct rig *r, struct plt_store **ret_file, struct plt_store **ret_data);
/* Close, and open again on the same stores. */
int rig_reopen(struct rig *r);
/* Open over these stores (references are taken); negative errno with r->err. */
int rig_open_on(struct rig *r, struct plt_store *file, struct plt_store *data, uint64_t rules_off);
/* Close; must succeed.  Everything is flushed by it. */
void rig_close(struct rig *r);
int rig_try_close(struct rig *r);

/*
 * What the guest does.  On failure the operation counts as one that may have happened in part; the
 * result is for the caller to judge.  Lengths and offsets are multiples of RIG_UNIT, of the
 * cluster for compressed writes.
 */
int rig_write(struct rig *r, uint64_t off, uint64_t len);
int rig_zero(struct rig *r, uint64_t off, uint64_t len, unsigned flags);
int rig_discard(struct rig *r, uint64_t off, uint64_t len);
int rig_compressed(struct rig *r, uint64_t off);
int rig_flush(struct rig *r);
int rig_read(struct rig *r, uint64_t off, uint64_t len); /* what it saw is not judged */
int rig_resize(struct rig *r, uint64_t size);
/* Snapshots by their number, in the order in which they were made. */
int rig_snapshot(struct rig *r);
int rig_apply(struct rig *r, unsigned which);
int rig_delete(struct rig *r, unsigned which);
/*
 * Sync what the disk was opened on and flush nothing: edges to data are met then, those to counts
 * are not.
 */
int rig_sync(struct rig *r);
/* The same, and it must succeed. */
void rig_must(struct rig *r, int result);
/* One of them at random. */
int rig_step(struct rig *r);
uint64_t rig_random(struct rig *r);
uint32_t rig_cluster(const struct rig *r); /* 4096 where the format has none */
const char *rig_format(const struct rig *r);
bool rig_is_qcow2(const struct rig *r);
bool rig_may_be_discarded(const struct rig *r, const struct plt_doubt *d);

/*
 * A closed image with clusters of 4096 bytes and 16-bit counts in one block: give it an internal
 * snapshot of what it holds now, as a program that knows snapshots would.
 */
void rig_make_snapshot(struct rig *r);

/*
 * Does the open @disk hold what it must after flush number @mark, when the first @limit events had
 * begun? 0, or -1 with r->violation.
 */
int rig_verify_disk(struct rig *r, struct plt_disk *disk, size_t mark, size_t limit);
/*
 * An image as a cut or a failure left it: it is examined, opened for writing, read, now and then
 * written over, and examined again.  0, or -1 with r->violation.
 */
int rig_verify_state(struct rig *r, const struct powercut_disk *file,
		     const struct powercut_disk *data, size_t mark, size_t limit, bool write_over);

/* All states of the recorded run.  0, or -1 with r->violation (which names the state). */
int rig_cut_power(struct rig *r, const struct powercut_limits *limits,
		  struct powercut_count *ret_count);

/* ---- between rig.c, rig-images.c and judge.c -------------------------------------------------- */

#define RIG_CHUNK 4096u /* what rig.touched counts in */
enum { RIG_EVENT_ZERO, RIG_EVENT_BASE, RIG_EVENT_FIRST };

/* What unit number @unit holds when event number @event has written it; and @n of them. */
uint64_t rig_tag(uint64_t unit, size_t event);
void rig_fill(uint8_t *buf, uint64_t first, uint64_t n, size_t event);
uint64_t rig_first_size(const struct rig *r);
struct plt_store *rig_memory(const void *init, size_t len);
int rig_open_disk(struct rig *r, struct plt_store *file, struct plt_store *data, bool write, const char *snapshot,
		  struct plt_disk **ret, struct plt_error *err);
void rig_add_bitmap(struct rig *r);
void rig_note_snapshot(struct rig *r); /* one has been made */
uint64_t rig_get64(struct plt_store *st, uint64_t off);

#endif
