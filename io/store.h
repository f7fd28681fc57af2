/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_STORE_H
#define PLT_IO_STORE_H

/*
 * A store is where bytes live: a file, a block device, memory, a window of another store, an open
 * image.  A driver sees only stores, so any format opens on any store, and test stores slip in
 * everywhere.  All offsets and lengths are bytes.
 *
 * The wrappers below (plt_store_*) are what everyone calls.  They check ranges and permissions,
 * split at limits.max_io, and keep the record of syncs; the ops do only their own work.
 *
 * Threads: every wrapper may be called by any thread at any time, overlapping or not; a store
 * serialises only what its own state needs.  All may block.
 *
 * Reads past the end of a store give zeros (the last cluster of an image file may be partial).
 * Writes past the end extend a store that can grow and fail with ENOSPC on one that cannot.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "platter.h"

struct plt_store;
struct plt_range;

/* What an operation is for; fault rules and the write log select by it.  After QEMU's blkdebug. */
enum plt_io_tag {
	PLT_IO_DATA,           /* guest data */
	PLT_IO_COW,            /* copied head or tail */
	PLT_IO_COMPRESSED,
	PLT_IO_HEADER,
	PLT_IO_L1,
	PLT_IO_L2,
	PLT_IO_REFTABLE,
	PLT_IO_REFBLOCK,
	PLT_IO_SNAPSHOT_TABLE,
	PLT_IO_BITMAP,
	PLT_IO_OTHER,
	PLT_IO_TAGS
};

enum {
	PLT_ZERO_MAY_UNMAP = 1 << 0,   /* the range may become a hole */
	PLT_ZERO_NO_FALLBACK = 1 << 1, /* -ENOTSUP rather than writing zeros byte by byte */
	PLT_ZERO_WRITTEN = 1 << 2,     /* byte by byte in any case: the space has been written once */
};

enum plt_store_kind {
	PLT_STORE_DATA, /* may hold anything, zeros too */
	PLT_STORE_HOLE, /* reads as zeros and takes no space */
};

struct plt_limits {
	uint32_t align;     /* of offset, length and memory, for speed; 1 = none.  Unaligned requests
			     * work all the same: read-modify-write under a lock of the unit */
	uint32_t atomic;    /* a write inside one such unit is never torn by a power cut (512) */
	uint64_t max_io;    /* longest single request */
	bool can_grow;      /* writes past the end extend it */
	bool zero_is_fast;  /* zero() has an efficient form here */
	bool discard_zeroes;/* a discarded range is known to read as zeros (a punched hole) */
	bool new_is_zero;   /* bytes beyond the old end read as zeros once the store has grown */
};

/* QEMU's permission bits; see io/lock.h */
enum {
	PLT_PERM_READ = 1 << 0,      /* consistent read */
	PLT_PERM_WRITE = 1 << 1,
	PLT_PERM_WRITE_UNCHANGED = 1 << 2,
	PLT_PERM_RESIZE = 1 << 3,
	PLT_PERM_ALL = 15,
};

struct plt_store_ops {
	const char *kind; /* "file", "host_device", "memory", "window", ... */

	void (*close)(struct plt_store *st); /* releases st->priv; must not sync */
	int (*size)(struct plt_store *st, uint64_t *ret, struct plt_error *err);
	int (*read)(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		    enum plt_io_tag tag, struct plt_error *err);
	int (*write)(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err);

	/* The rest may be NULL: not supported. */
	int (*zero)(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		    enum plt_io_tag tag, struct plt_error *err);
	int (*discard)(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err);
	int (*sync)(struct plt_store *st, struct plt_error *err); /* data and length durable */
	int (*truncate)(struct plt_store *st, uint64_t size, struct plt_error *err);
	/* Reserve space without changing what is read; the length may grow to off + len. */
	int (*allocate)(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err);
	/*
	 * What lies at [off, off+len)?  *ret_len >= 1 bytes from @off on have kind *ret_kind; adjacent
	 * answers may be of the same kind.  Absent: all data.
	 */
	int (*extents)(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
		       uint64_t *ret_len, struct plt_error *err);
	/*
	 * For reads: the store below that holds the same bytes, so that the engine submits there
	 * directly.  *ret_len <= len is how far this holds.  -ENOTSUP: declined (edited, a hole,
	 * compressed); the caller then uses read().  Never does I/O.
	 */
	int (*resolve)(struct plt_store *st, uint64_t off, uint64_t len, struct plt_store **ret_store,
		       uint64_t *ret_off, uint64_t *ret_len);
	/* Copy inside or between files without passing through memory; may copy less (*ret_len). */
	int (*copy_from)(struct plt_store *st, uint64_t off, struct plt_store *src, uint64_t src_off,
			 uint64_t len, uint64_t *ret_len, struct plt_error *err);
	/* Hold @perm and let others have @shared (PLT_PERM_*); -EBUSY.  Replaces what was held. */
	int (*lock)(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err);
	/* Descriptor for a ring to use, or -1.  Only stores whose bytes are exactly the file's. */
	int (*fd)(struct plt_store *st);
	/*
	 * The store whose bytes these are, unchanged, where something stands between that can neither be
	 * passed by nor resolved (faults, a log): for asking which file this is, not for I/O.
	 */
	struct plt_store *(*below)(struct plt_store *st);
	/* Bytes really allocated (qemu-img's "disk size"), or -1. */
	int64_t (*allocated)(struct plt_store *st);
	/* The first part of [off, off+len) of which it is known that it cannot be read.  False: none. */
	bool (*unreadable)(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret);
};

struct plt_store {
	const struct plt_store_ops *ops;
	void *priv;
	char *name;               /* for messages; owned */
	struct plt_limits limits;
	bool readonly;
	bool unsafe;              /* cache mode "unsafe": sync does nothing (and promises nothing) */
	bool writethrough;        /* each write is followed by a sync */
	_Atomic int refs;

	/*
	 * The record of syncs.  A sync takes number n = ++sync_begun; when it has succeeded,
	 * sync_done = max(sync_done, n).  An event that completed while sync_begun was g is durable
	 * once sync_done > g.  A failed sync sets sync_error for good: from then on nothing since the
	 * last good sync counts as durable, and every write, zero, discard and truncate fails with EIO.
	 */
	_Atomic uint64_t sync_begun, sync_done;
	_Atomic int sync_error;
	pthread_mutex_t sync_lock; /* one sync at a time; see io/store.c */
};

/* For implementations: refs = 1, limits as for a plain file; takes a copy of @name.  -ENOMEM. */
int plt_store_init(struct plt_store *st, const struct plt_store_ops *ops, const char *name);

struct plt_store *plt_store_ref(struct plt_store *st);
void plt_store_unref(struct plt_store *st); /* the last one closes and frees; NULL allowed */

int plt_store_size(struct plt_store *st, uint64_t *ret, struct plt_error *err);
int plt_store_readv(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		    enum plt_io_tag tag, struct plt_error *err);
int plt_store_writev(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err);
int plt_store_read(struct plt_store *st, uint64_t off, void *buf, size_t len, enum plt_io_tag tag,
		   struct plt_error *err);
int plt_store_write(struct plt_store *st, uint64_t off, const void *buf, size_t len,
		    enum plt_io_tag tag, struct plt_error *err);
/* Falls back to writing zeros unless PLT_ZERO_NO_FALLBACK. */
int plt_store_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		   enum plt_io_tag tag, struct plt_error *err);
/* Advisory: -ENOTSUP is an answer, not a failure. */
int plt_store_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err);
int plt_store_sync(struct plt_store *st, struct plt_error *err);
int plt_store_truncate(struct plt_store *st, uint64_t size, struct plt_error *err);
int plt_store_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err);
int plt_store_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
		      uint64_t *ret_len, struct plt_error *err);
int plt_store_resolve(struct plt_store *st, uint64_t off, uint64_t len, struct plt_store **ret_store,
		      uint64_t *ret_off, uint64_t *ret_len);
int plt_store_copy_from(struct plt_store *st, uint64_t off, struct plt_store *src, uint64_t src_off,
			uint64_t len, uint64_t *ret_len, struct plt_error *err);
int plt_store_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err);
int plt_store_fd(struct plt_store *st);
/* Descriptor of the file that the bytes come from, through faults and logs, to tell files apart; or -1. */
int plt_store_origin(struct plt_store *st);
int64_t plt_store_allocated(struct plt_store *st);
bool plt_store_unreadable(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret);

/* EIO with text if a sync of this store has failed; 0 otherwise.  One atomic load. */
int plt_store_check_writable(struct plt_store *st, struct plt_error *err);

/* An event that completed before this call is durable once plt_store_durable(st, the result). */
static inline uint64_t plt_store_sync_mark(struct plt_store *st)
{
	return atomic_load(&st->sync_begun);
}

static inline bool plt_store_durable(struct plt_store *st, uint64_t mark)
{
	return atomic_load(&st->sync_done) > mark;
}

/* ---- the stores ------------------------------------------------------------------------------ */

enum {
	PLT_FILE_WRITE = 1 << 0,    /* O_RDWR */
	PLT_FILE_CREATE = 1 << 1,   /* create; with TRUNC empties an existing file */
	PLT_FILE_TRUNC = 1 << 2,
	PLT_FILE_EXCL = 1 << 3,
	PLT_FILE_DIRECT = 1 << 4,   /* O_DIRECT; EINVAL from the filesystem names the cache mode */
	PLT_FILE_UNSAFE = 1 << 5,   /* sync does nothing */
	PLT_FILE_WRITETHROUGH = 1 << 6,
	PLT_FILE_NO_LOCK = 1 << 7,
	PLT_FILE_PRIVATE = 1 << 8,  /* created for its owner alone */
};

/*
 * io/file.c: a regular file or a block device ("file", "host_device").  Opening never blocks (FIFOs,
 * sockets and directories are refused by name).  Symbolic links are followed.  Messages are QEMU's:
 * "Could not open 'NAME': No such file or directory".
 */
int plt_file_open(const char *path, unsigned flags, struct plt_store **ret, struct plt_error *err);
/* The same over an open descriptor, which the store then owns. */
int plt_file_from_fd(int fd, const char *name, unsigned flags, struct plt_store **ret, struct plt_error *err);
/*
 * io/access.c: let those read (and write) the new, private file @st who may do so with @as, and nobody else: by its
 * mode alone, or by giving it its owner and group as well.  What cannot be had gives less access.
 */
enum plt_file_share { PLT_SHARE_MODE, PLT_SHARE_OWNER };
void plt_file_share_as(struct plt_store *st, struct plt_store *as, enum plt_file_share how);
/* Make the entry of the file @path in its folder durable. */
int plt_sync_folder(const char *path, struct plt_error *err);
/* Both paths lead to the same file, which is there. */
bool plt_same_path(const char *a, const char *b);

/* io/memory.c: grows as a file does; @max bounds it (0: none).  For tests and fuzzers. */
int plt_memory_new(const void *init, size_t len, uint64_t max, struct plt_store **ret);
/* The bytes as they are now; valid until the next write.  Not thread-safe. */
const void *plt_memory_data(struct plt_store *st, size_t *ret_len);

/* io/window.c: [off, off+len) of @below (a reference is taken).  len UINT64_MAX: to the end, following it. */
int plt_window_new(struct plt_store *below, uint64_t off, uint64_t len, struct plt_store **ret,
		   struct plt_error *err);

/*
 * io/overlay.c: edits shown over an untouched store, which is never written.  Edits are disjoint
 * byte ranges (bytes, or zeros); the length may be changed too.  The store itself is read-only
 * unless @writable, in which case writes become edits in memory.
 */
int plt_overlay_new(struct plt_store *below, bool writable, struct plt_store **ret);
int plt_overlay_edit(struct plt_store *st, uint64_t off, const void *bytes /* NULL: zeros */, uint64_t len);
int plt_overlay_set_size(struct plt_store *st, uint64_t size);
/* How many bytes from @off on are edits; 0: what lies below shows there. */
uint64_t plt_overlay_edited(struct plt_store *st, uint64_t off, uint64_t len);
/* The edits in ascending order (@bytes NULL: zeros), until @fn returns something else than 0. */
int plt_overlay_each(struct plt_store *st, int (*fn)(void *arg, uint64_t off, const void *bytes, uint64_t len),
		     void *arg);

/* How many reads of what lies below have failed, of blocking ones; 0, too, of a store that is no overlay. */
uint64_t plt_overlay_failed(struct plt_store *st);

/* io/null.c: @size bytes of zeros; writes vanish. */
int plt_null_new(uint64_t size, struct plt_store **ret);

/*
 * io/fault.c: passes everything on to @below, except what a rule hits.  Rules are tried in order;
 * the first that matches acts.
 */
enum plt_fault_op { PLT_FAULT_READ = 1, PLT_FAULT_WRITE = 2, PLT_FAULT_SYNC = 4, PLT_FAULT_ZERO = 8,
		    PLT_FAULT_DISCARD = 16, PLT_FAULT_TRUNCATE = 32, PLT_FAULT_ANY = 63,
		    PLT_FAULT_EXTENTS = 64 /* not among ANY: it moves no byte */ };
struct plt_fault_rule {
	unsigned ops;          /* PLT_FAULT_* */
	int tag;               /* enum plt_io_tag, or -1 for any */
	uint64_t off, len;     /* only operations that touch this range; len 0: any */
	unsigned skip;         /* let this many matches pass first */
	unsigned count;        /* then act on this many; 0: for ever */
	int error;             /* errno to fail with, 0: only delay or tear */
	uint64_t tear;         /* a failing write first writes this many bytes ("short write") */
	unsigned delay_us;
};
int plt_fault_new(struct plt_store *below, struct plt_store **ret);
int plt_fault_add(struct plt_store *st, const struct plt_fault_rule *rule); /* returns an id >= 0 */
void plt_fault_clear(struct plt_store *st);
/* Operations seen that match PLT_FAULT_* in @ops since the store was made. */
uint64_t plt_fault_seen(struct plt_store *st, unsigned ops);
struct plt_store *plt_fault_below(struct plt_store *st); /* NULL: it is no such store */
/*
 * Somebody who judges each operation before the rules do: before() returns the errno to fail with or
 * 0, and may take its time (it runs on the thread of the operation); after() is called when one that
 * passed has ended.  @tag -1: the operation has none.  Before the first operation.
 */
struct plt_fault_judge {
	int (*before)(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len);
	void (*after)(void *arg, enum plt_fault_op op);
	void (*free)(void *arg); /* with the store */
	void *arg;
};
void plt_fault_set_judge(struct plt_store *st, const struct plt_fault_judge *judge);
const struct plt_fault_judge *plt_fault_judge(struct plt_store *st); /* NULL: no fault store, or it has none */

/*
 * io/limits.c: as if what lies below could only do so much.  Reads and writes are made of whole units
 * of @align, parts of a unit being read, changed and written; none is longer than @max_io; zeroing and
 * discarding is cut at multiples of @opt_* and to at most @max_* (0: no such limit), and what does not
 * fill an @opt_zero is written as zeros.
 */
struct plt_limits_rule {
	uint32_t align; /* a power of two; 0: as below */
	uint64_t max_io, opt_zero, max_zero, opt_discard, max_discard;
};
int plt_limits_new(struct plt_store *below, const struct plt_limits_rule *rule, struct plt_store **ret);
struct plt_store *plt_limits_below(struct plt_store *st); /* NULL: it is no such store */

/*
 * io/writelog.c: passes everything on to @below and records every change and sync, in the order of
 * completion, with the point at which each began: what a power cut may leave is derived from it.
 * Several stores (image and data file) may share one log.
 */
struct plt_writelog;
enum plt_log_kind { PLT_LOG_WRITE, PLT_LOG_ZERO, PLT_LOG_DISCARD, PLT_LOG_TRUNCATE, PLT_LOG_SYNC, PLT_LOG_MARK,
		    PLT_LOG_ALLOCATE /* no byte changes; the length becomes at least off + len */ };
struct plt_log_record {
	enum plt_log_kind kind;
	int store;             /* index given at plt_writelog_attach() */
	enum plt_io_tag tag;
	uint64_t off, len;     /* TRUNCATE: off is the new size.  MARK: off is the caller's number */
	uint8_t *data;         /* WRITE */
	/*
	 * Event counter when it was issued and when it completed; ended UINT64_MAX: it failed, so it
	 * may have happened in part, and no sync covers it.
	 */
	uint64_t begun, ended;
};
int plt_writelog_new(struct plt_writelog **ret);
void plt_writelog_free(struct plt_writelog *log);
int plt_writelog_attach(struct plt_writelog *log, struct plt_store *below, struct plt_store **ret);
void plt_writelog_mark(struct plt_writelog *log, uint64_t number); /* e.g. "flush returned" */
size_t plt_writelog_records(struct plt_writelog *log, const struct plt_log_record **ret);

#endif
