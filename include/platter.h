/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLATTER_H
#define PLATTER_H

/*
 * libplatter: disk images behind one block interface.
 *
 *   plt_ctx     memory budget, workers, policy.  One a process is usual; images of two contexts
 *               share nothing.  Any thread.
 *   plt_disk    an open disk: an image with its backing chain.  Any thread may call any plt_disk_*
 *               function at any time, save plt_disk_close(), which must be the last call.
 *
 * Units are bytes.  Functions return 0 or a negative errno; with a plt_error the text says what is
 * wrong, where, and what was expected.  Structures that the caller fills start with .size (use the
 * _INIT macro), so that they can grow.  Strings returned inside a structure belong to it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ---------------------------------------------------------------------------------- */

struct plt_error {
	int code;        /* errno value, positive; 0: none */
	char text[1020]; /* NUL-terminated UTF-8, one line */
};

#define PLT_ERROR_INIT { 0, "" }

const char *plt_version(void); /* "0.1.0" */

/* ---- context --------------------------------------------------------------------------------- */

struct plt_ctx;
struct plt_disk;

enum plt_policy {
	PLT_POLICY_TRUST,     /* what an image names is opened, as qemu-img does */
	PLT_POLICY_UNTRUSTED, /* nothing but the file named by the caller is opened; a reference is an error */
	PLT_POLICY_ALLOW_DIRS,/* references may lead below allow_dirs only */
};

struct plt_ctx_options {
	size_t size;
	uint64_t cache_bytes;         /* metadata of all images together; 0: 32 MiB; at least 1 MiB */
	unsigned workers;             /* 0: one a core */
	enum plt_policy policy;
	const char *const *allow_dirs;/* NULL-terminated */
	void (*warn)(void *arg, const char *text); /* something a person should know; NULL: dropped */
	void *warn_arg;
	/*
	 * Incompatible features that images may claim, one bit each, and that are unknown here: such images are read as if
	 * they did not, and cannot be written; a repair takes the claim out.  A feature that is known is not ignored
	 * (-EINVAL), and an image of a format without such features is not opened unless one that has them was before
	 * (-ENOTSUP).
	 */
	uint64_t ignore_features;
};
#define PLT_CTX_OPTIONS_INIT { sizeof(struct plt_ctx_options), 0, 0, PLT_POLICY_TRUST, NULL, NULL, NULL, 0 }

int plt_ctx_new(const struct plt_ctx_options *opts /* NULL: defaults */, struct plt_ctx **ret, struct plt_error *err);
/*
 * An object as QEMU defines it: "secret,id=sec0,file=key.txt", "qom-type=secret,id=...", or the same as
 * a JSON object.  Secrets (data=, file=, format=raw|base64, keyid= with iv=) are what encryption options
 * name; iothread and throttle-group objects are taken and have no effect.  -ENOTSUP: of another type.
 */
int plt_ctx_add_object(struct plt_ctx *ctx, const char *definition, struct plt_error *err);
void plt_ctx_free(struct plt_ctx *ctx); /* every disk must be closed.  NULL allowed */

/* ---- opening --------------------------------------------------------------------------------- */

enum {
	PLT_OPEN_WRITE = 1 << 0,
	PLT_OPEN_NO_BACKING = 1 << 1,  /* do not open the backing chain; absent data reads as zeros */
	PLT_OPEN_INSPECT = 1 << 2,     /* open the named file and nothing else: for info and check */
	PLT_OPEN_FORCE_SHARE = 1 << 3, /* -U: do not insist on locks; read-only */
	PLT_OPEN_IMAGE_OPTS = 1 << 4,  /* the name is "driver=qcow2,file.filename=..." */
	PLT_OPEN_CHECK = 1 << 5,       /* open what refuses ordinary use, to examine it */
	PLT_OPEN_UNORDERED = 1 << 6,   /* nobody reads the file before it is complete: keep no write order */
	PLT_OPEN_SHARE_RAW = 1 << 7,   /* others may write to a raw image meanwhile, if they let us: no metadata
					* of ours can change under us.  qemu-img has it for all but the sources
					* of convert */
	PLT_OPEN_SCRATCH = 1 << 8,     /* writable, but what is written goes to a temporary file, and away at close */
	PLT_OPEN_REFERENCE = 1 << 9,   /* the name was found in an image: the context's policy decides */
	PLT_OPEN_FIND_BACKING = 1 << 10, /* with INSPECT: of several names that the image has for its backing file
					* (VHD) tell the one that is right, which means to look at those files */
	PLT_OPEN_OWN_REFS = 1 << 11,   /* the caller has made the image: what it names itself is the caller's word, and
					* the context's policy decides about what that names in turn */
	PLT_OPEN_NO_KEY = 1 << 12,     /* no data will be read: what is encrypted opens without its key */
	PLT_OPEN_COPY_ON_READ = 1 << 13, /* what is read from a layer below is written to the image too; with WRITE */
	PLT_OPEN_RESCUE = 1 << 14,     /* look through a plan: see plt_rescue_options.  Read-only */
	PLT_OPEN_ZERO_LOST = 1 << 15,  /* with RESCUE: what is lost reads as zeros, and is noted, instead of EIO */
};

struct plt_check_finding;

/*
 * Rescue: each image file of the chain is opened read-only and examined; what a repair would write is laid over
 * it in memory, and the disk is what shows then.  No file is changed.  What the right content of is not known
 * plt_disk_doubts() tells.
 */
struct plt_rescue_options {
	size_t size;
	/* Each finding, of any layer (.image names it), while the disk is being opened; NULL: not wanted. */
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *found_arg;
	bool trust_likely;      /* placements that are likely go into the plan, too */
	/* These are of the image that is named, not of those it stands on: */
	const char *plan;       /* a file that plt_repair_save() has written (and somebody changed); NULL: make a plan */
	/*
	 * An older copy or a clone of the disk, of the same size: what is lost and this one has at the same place is
	 * read from it, and inferred.
	 */
	const char *donor;
	/* Of every layer: hold the guest's own structures against the map though nothing else shows that it is wrong. */
	bool deep;
	/*
	 * A map of the medium that the file is, or was copied from, as ddrescue keeps it, of the image that is named: what it
	 * does not call read ('+') is lost.  NULL: none.
	 */
	const char *map;
	unsigned deep_layers;   /* the same of so many layers only, from the top; those below where something shows */
};
#define PLT_RESCUE_OPTIONS_INIT { .size = sizeof(struct plt_rescue_options) }

struct plt_open_options {
	size_t size;
	const char *format;        /* NULL: found out by looking at the content */
	unsigned flags;            /* PLT_OPEN_* */
	const char *cache;         /* none writeback writethrough directsync unsafe; NULL: writeback */
	const char *snapshot;      /* show this internal snapshot (id or name); read-only */
	const char *snapshot_id;   /* more exact than .snapshot: both must match where both are given */
	const char *snapshot_name;
	const char *const *options; /* NULL-terminated "key=value,..." texts that are added to the name's; NULL: none */
	const struct plt_rescue_options *rescue; /* with PLT_OPEN_RESCUE; NULL: defaults */
};
#define PLT_OPEN_OPTIONS_INIT { sizeof(struct plt_open_options), NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL }

/*
 * @name: a path, "file:path", "json:{...}" with nested drivers, or (PLT_OPEN_IMAGE_OPTS) a
 * key=value list.  Messages carry qemu-img's words.
 */
int plt_disk_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		  struct plt_disk **ret, struct plt_error *err);
/*
 * Flush, mark as cleanly closed, release.  The disk is gone in any case; the error says what may not
 * have reached the disk.  NULL allowed.
 */
int plt_disk_close(struct plt_disk *disk, struct plt_error *err);

uint64_t plt_disk_size(const struct plt_disk *disk);
const char *plt_disk_format(const struct plt_disk *disk);
const char *plt_disk_name(const struct plt_disk *disk);
/* The granularity in which space is allocated (cluster); 0 if the format has none. */
uint32_t plt_disk_cluster_size(const struct plt_disk *disk);
bool plt_disk_has_backing(const struct plt_disk *disk);
bool plt_disk_can_compress(const struct plt_disk *disk);

/* ---- data ------------------------------------------------------------------------------------ */

/*
 * Blocking, thread-safe.  Ranges must lie inside the disk (-EIO otherwise, nothing done).  A failed
 * write leaves any mixture of old and new in its range, and nothing else changed.  Data is durable
 * after a plt_flush() that began later returns 0.
 */
int plt_read(struct plt_disk *disk, uint64_t off, void *buf, size_t len, struct plt_error *err);
int plt_write(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, struct plt_error *err);
int plt_readv(struct plt_disk *disk, uint64_t off, const struct iovec *iov, int niov, struct plt_error *err);
int plt_writev(struct plt_disk *disk, uint64_t off, const struct iovec *iov, int niov, struct plt_error *err);
enum { PLT_ZERO_UNMAP = 1 << 0 /* give the space back where possible */ };
int plt_write_zeroes(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned flags, struct plt_error *err);
int plt_discard(struct plt_disk *disk, uint64_t off, uint64_t len, struct plt_error *err);
/*
 * Write one cluster compressed (off aligned, len one cluster or up to the end of the disk).  What
 * does not shrink is written plain.  -ENOTSUP if the format cannot.
 */
int plt_write_compressed(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, int level,
			 struct plt_error *err);
int plt_flush(struct plt_disk *disk, struct plt_error *err);
/*
 * Give the disk another size (rounded up to 512 bytes); it is durable when the call returns.  Other
 * requests wait meanwhile; one that would then lie beyond the end fails with EIO.  A smaller size
 * wants PLT_RESIZE_SHRINK and loses what lies behind the new end.  What is new reads as zeros, whatever
 * a backing file holds there.  @preallocation, NULL or "off", "metadata", "falloc", "full", is for
 * what is new; -ENOTSUP where the format has no such mode, or cannot be resized.  On failure the
 * disk has its old size (an error while what had been cut off was freed says so).
 */
enum { PLT_RESIZE_SHRINK = 1 << 0 };
int plt_resize(struct plt_disk *disk, uint64_t size, unsigned flags, const char *preallocation,
	       struct plt_error *err);

/* ---- requests side by side ------------------------------------------------------------------- */

/*
 * A queue runs many requests at once, on any disks of its context: submit, reap what has completed,
 * sleep on its descriptor in between.  It belongs to one thread: only that one calls plt_queue_*().
 * Several threads have a queue each, on the same disks if they like.
 *
 * The thread that owns a queue with requests under way makes no blocking call on the same disks that
 * changes them, closes, resizes or flushes: such a call can wait for a request that only this
 * thread's plt_queue_reap() moves on.  It submits those too, or reaps until nothing is under way.
 */
struct plt_queue;

enum plt_aio_kind {
	PLT_AIO_READ,
	PLT_AIO_WRITE,
	PLT_AIO_WRITE_COMPRESSED, /* one cluster, as plt_write_compressed() */
	PLT_AIO_WRITE_ZEROES,
	PLT_AIO_DISCARD,
	PLT_AIO_FLUSH,            /* what had completed when it was submitted is durable */
};

enum {
	/* the first bit is PLT_ZERO_UNMAP's */
	PLT_AIO_FUA = 1 << 1,          /* what changes the disk: durable when it completes */
	PLT_AIO_NO_FALLBACK = 1 << 2,  /* WRITE_ZEROES: -ENOTSUP rather than zeros written byte by byte */
};

struct plt_aio {
	size_t size;
	enum plt_aio_kind kind;
	struct plt_disk *disk;
	uint64_t off, len;       /* len: of WRITE_ZEROES and DISCARD; otherwise it is the iovec's total */
	const struct iovec *iov; /* array and buffers stay until the request has been reaped */
	int niov;
	unsigned flags;          /* PLT_ZERO_UNMAP, PLT_AIO_* */
	int level;               /* of compression: 0 fast, 1..9, -1 best */
	void *cookie;
	struct plt_error *err;   /* NULL, or where the text of a failure goes; stays as the buffers do */
};
#define PLT_AIO_INIT { .size = sizeof(struct plt_aio) }

struct plt_completion {
	void *cookie;
	int result; /* 0 or a negative errno */
};

enum { PLT_QUEUE_THREADS = 1 << 0 /* no io_uring, even where there is one */ };
int plt_queue_open(struct plt_ctx *ctx, unsigned flags, struct plt_queue **ret, struct plt_error *err);
/* Nothing may be under way or unreaped.  NULL allowed. */
void plt_queue_close(struct plt_queue *queue);
/*
 * Take a request; it starts at the latest in the next plt_queue_reap().  Whatever is wrong with it
 * (its range, say) is the result of its completion; an error here means that there will be none.
 */
int plt_queue_submit(struct plt_queue *queue, const struct plt_aio *req, struct plt_error *err);
/*
 * Move requests on and take up to @max completions, in the order in which they finished; returns how
 * many.  With @wait at least one, unless nothing is under way.
 */
unsigned plt_queue_reap(struct plt_queue *queue, struct plt_completion *v, unsigned max, bool wait);
/* Requests submitted and not yet reaped. */
unsigned plt_queue_pending(const struct plt_queue *queue);
/* Readable when plt_queue_reap() has something to do; poll() it after a reap that returned 0. */
int plt_queue_fd(struct plt_queue *queue);

/* ---- breakpoints ----------------------------------------------------------------------------- */

/*
 * Of a disk whose name has a "blkdebug" node: hold the next request that raises an event, look
 * whether it is held, let it go.  Holding blocks a worker of the context: it needs more workers than
 * there are breakpoints.  -ENOTSUP: there is no such node.
 */
enum plt_debug_verb {
	PLT_DEBUG_BREAK,     /* the next request at @event is held under the name @tag; -ENOENT: no such event */
	PLT_DEBUG_RESUME,    /* let one that is held go; -ENOENT: there is none */
	PLT_DEBUG_REMOVE,    /* the breakpoints named @tag, and let what they hold go; -ENOENT: there are none */
	PLT_DEBUG_SUSPENDED, /* 1: one is held; 0: none is */
	PLT_DEBUG_RELEASE,   /* remove all breakpoints, let everything go */
};
int plt_debug(struct plt_disk *disk, enum plt_debug_verb verb, const char *event, const char *tag);

/* ---- what the guest's bytes are made of -------------------------------------------------------- */

enum {
	PLT_EXTENT_DATA = 1 << 0,       /* some layer stores data for it */
	PLT_EXTENT_ZERO = 1 << 1,       /* reads as zeros for certain */
	PLT_EXTENT_PRESENT = 1 << 2,    /* some layer has an entry for it (not absent everywhere) */
	PLT_EXTENT_COMPRESSED = 1 << 3,
	PLT_EXTENT_OFFSET = 1 << 4,     /* host_off is where it lies in file */
	PLT_EXTENT_DAMAGED = 1 << 5,    /* reads fail */
	PLT_EXTENT_ENCRYPTED = 1 << 6,
	PLT_EXTENT_EOF = 1 << 7,        /* beyond the end of the layer that was asked (short backing file) */
};
struct plt_extent {
	uint64_t off, len;
	unsigned flags;
	unsigned depth;        /* layer that it comes from: 0 the active one */
	uint64_t host_off;
	const char *file;      /* name of the file that holds it; valid while the disk is open */
};
enum {
	PLT_STATUS_TOP_ONLY = 1 << 0, /* do not look below the active layer: absent is an extent without PRESENT */
	PLT_STATUS_NO_HOST = 1 << 1,  /* do not ask the host for holes in the files */
	PLT_STATUS_PLACES = 1 << 2,   /* say of what is encrypted, too, where it lies */
};
/*
 * Describe [off, off+len): up to @max extents, adjacent, ascending, joined where alike; *ret_n >= 1
 * (if len > 0).  May stop early; continue behind the last extent.  Takes the time of the extents
 * found, not of the range.
 */
int plt_status(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned flags, struct plt_extent *v,
	       unsigned max, unsigned *ret_n, struct plt_error *err);

/* ---- what is not known of a rescued disk ------------------------------------------------------- */

struct plt_doubt_range {
	uint64_t off, len;      /* guest bytes of the disk */
	bool lost;              /* could not be recovered; or else inferred: recovered on less than proof, */
	const char *certainty;  /* "guess" "likely" "strong" "proven"; NULL if lost */
	const char *why;
	unsigned depth;         /* of which layer: 0 the active one */
	const char *snapshot;   /* by plt_repair_doubts(): the id of the internal snapshot that this is of; NULL: of the disk */
};
/*
 * Of a disk that was opened with PLT_OPEN_RESCUE: the ranges, ascending and disjoint, of which the content is lost
 * or inferred, where that layer is what shows.  What lies in none of them is right.  With what reading has
 * come upon so far (a bad sector, a damaged compressed cluster).  Until @fn returns something else than 0.
 */
int plt_disk_doubts(struct plt_disk *disk, int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg,
		    struct plt_error *err);
/*
 * What could not be read of the medium of a disk that was opened with a map (plt_rescue_options.map) is noted in that map,
 * which is replaced as a whole.
 */
int plt_disk_update_map(struct plt_disk *disk, struct plt_error *err);

/* What was planned for one layer of a rescued disk. */
struct plt_rescue_info {
	const char *filename, *format;
	uint64_t fixed;                  /* findings that the plan puts right */
	uint64_t left, leaks;            /* and what it leaves */
	uint64_t edits, bytes;           /* of the plan */
};
/* -ENOENT: there is no such layer; -EINVAL: the disk was not opened with PLT_OPEN_RESCUE. */
int plt_disk_rescue_info(struct plt_disk *disk, unsigned depth, struct plt_rescue_info *ret);

/* ---- a virtual machine's state ------------------------------------------------------------------- */

/*
 * Bytes that an image keeps behind its disk, and that no guest sees (qcow2): @off counts from
 * plt_info.vm_state_offset.  What was never written reads as zeros.  Blocking, any thread; other requests
 * wait.  -ENOTSUP: the format has no place for it.
 */
int plt_read_vmstate(struct plt_disk *disk, uint64_t off, void *buf, size_t len, struct plt_error *err);
int plt_write_vmstate(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, struct plt_error *err);

/* ---- creating -------------------------------------------------------------------------------- */

#define PLT_SIZE_UNSET UINT64_MAX

struct plt_create_options {
	size_t size;
	const char *format;            /* NULL: raw */
	const char *const *options;    /* NULL-terminated "-o" texts, which add up; NULL: none */
	uint64_t virtual_size;         /* PLT_SIZE_UNSET: the backing file's (or an error) */
	const char *backing;           /* as recorded; relative to the image's folder.  NULL: none */
	const char *backing_format;
	unsigned flags;                /* PLT_CREATE_* */
};
enum {
	PLT_CREATE_UNCHECKED_BACKING = 1 << 0, /* -u: the backing file is not opened */
	PLT_CREATE_OWN_SIZE = 1 << 1,          /* virtual_size wins over a size among the options */
};
#define PLT_CREATE_OPTIONS_INIT { sizeof(struct plt_create_options), NULL, NULL, PLT_SIZE_UNSET, NULL, NULL, 0 }
/*
 * Creates, or empties and formats, the file @name.  @ret_line (may be NULL; free() it) is the
 * "Formatting 'name', fmt=..." line.  A failed run removes a file that it made.
 */
int plt_create(struct plt_ctx *ctx, const char *name, const struct plt_create_options *opts, char **ret_line,
	       struct plt_error *err);

/* ---- amending -------------------------------------------------------------------------------- */

/* Called at most ten times a second, from any thread, one at a time; non-zero cancels (-ECANCELED). */
typedef int (*plt_progress_fn)(void *arg, uint64_t done, uint64_t total);
/* Do what may cost data: a size that is smaller; an active key slot overwritten, the last one erased. */
enum { PLT_AMEND_FORCE = 1 << 0 };
/*
 * Change options of an image where it is ("-o" texts, as for create).  What cannot be is refused before
 * anything is changed; what is done is durable when the call returns.  A power cut leaves the image
 * as it was, or with the options, each of them whole, that had been changed by then.
 */
int plt_amend(struct plt_disk *disk, const char *const *options, unsigned flags, plt_progress_fn progress,
	      void *arg, struct plt_error *err);
/* The options of amend, as `amend -f FORMAT -o help` lists them; free() it. */
int plt_amend_help(const char *format, char **ret, struct plt_error *err);

/* ---- key slots ------------------------------------------------------------------------------- */

struct plt_key_change {
	size_t size;
	const char *state;      /* "active": add new_secret; "inactive": erase */
	const char *new_secret; /* ids of secrets; NULL: not given */
	const char *old_secret;
	int keyslot;            /* -1: not given */
	uint64_t iter_time;     /* milliseconds; UINT64_MAX: not given */
	bool force;             /* overwrite an active slot; erase the last one */
};
#define PLT_KEY_CHANGE_INIT { sizeof(struct plt_key_change), NULL, NULL, NULL, -1, UINT64_MAX, false }
/*
 * Change the key slots of an open, writable disk that is encrypted with LUKS, as `amend` does; its words.
 * Durable when it returns.  Without .force the last way into the data is never taken away.  -ENOTSUP: not
 * encrypted with LUKS.  No other thread may use the disk meanwhile.
 */
int plt_amend_keys(struct plt_disk *disk, const struct plt_key_change *change, struct plt_error *err);

/* ---- internal snapshots ---------------------------------------------------------------------- */

struct plt_snapshot {
	const char *id, *name;
	uint64_t vm_state_size;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	int64_t icount; /* -1: none */
};

/*
 * Internal snapshots of an open, writable disk.  Other threads may use the disk meanwhile: writes wait, and each is
 * either in the snapshot or behind it; reads wait only while one is applied.  Durable when they return; a power cut
 * leaves the state before or the one after.  A failure leaves all as it was, unless its text says otherwise.
 * -ENOTSUP: the format has none, or not with an external data file; -ERANGE: a reference count would be too high;
 * -EUCLEAN: the image has to be repaired first.
 *
 * create: .id NULL is the next number, .date_sec 0 is now; .vm_state_size is what was written by
 * plt_write_vmstate().
 * delete, apply: @id or @name may be NULL; -ENOENT if none has both.  apply makes the disk what it was then, its size
 * too; all of it counts as written to what records writes (dirty bitmaps).
 */
int plt_snapshot_create(struct plt_disk *disk, const struct plt_snapshot *snapshot, struct plt_error *err);
int plt_snapshot_delete(struct plt_disk *disk, const char *id, const char *name, struct plt_error *err);
int plt_snapshot_apply(struct plt_disk *disk, const char *id, const char *name, struct plt_error *err);

/* ---- chains ---------------------------------------------------------------------------------- */

struct plt_commit_options {
	size_t size;
	const char *base;         /* the layer that takes it all, by its name; NULL: the image's own backing file */
	unsigned flags;           /* PLT_COMMIT_* */
	uint64_t rate_limit;      /* bytes a second; 0: none */
	plt_progress_fn progress;
	void *progress_arg;
};
enum {
	PLT_COMMIT_KEEP = 1 << 0, /* -d: the image keeps what it holds.  So it does with a base further down */
};
#define PLT_COMMIT_OPTIONS_INIT { .size = sizeof(struct plt_commit_options) }
/*
 * Copy what the image @name and the layers between it and the base hold into the base, which grows if it is shorter;
 * then the image is made empty.  Only what those layers hold is read.  It is not emptied before all of it is
 * durable in the base: an interruption or a power cut at any moment loses nothing, and the call can be made again.
 * @open: how the image is opened, and the others of its chain (.cache).  -ENOTSUP, before anything is written: the
 * image cannot be emptied.  Words of qemu-img.
 */
int plt_commit(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
	       const struct plt_commit_options *opts, struct plt_error *err);

struct plt_rebase_options {
	size_t size;
	const char *backing;        /* as recorded, relative to the image's folder; NULL or "": none */
	const char *backing_format;
	const char *backing_cache;  /* of the new one; NULL: writeback */
	unsigned flags;             /* PLT_REBASE_* */
	plt_progress_fn progress;
	void *progress_arg;
};
enum {
	PLT_REBASE_UNSAFE = 1 << 0,      /* -u: only what is recorded changes; no backing file is opened */
	PLT_REBASE_COMPRESS = 1 << 1,    /* what is copied */
	PLT_REBASE_FORCE_SHARE = 1 << 2, /* of the new backing file */
};
#define PLT_REBASE_OPTIONS_INIT { .size = sizeof(struct plt_rebase_options) }
/*
 * Give the image @name another backing file, shorter, longer or none; it shows the same afterwards.  What differs below
 * it is copied into it, durably, and then the new one is recorded in one step: an interruption or a power cut at
 * any moment leaves an image that shows the same, and the call can be made again.  -ELOOP: the new chain leads back
 * to the image; -ENOTSUP: the format cannot record it.  Both, and a new one that cannot be opened, before anything is
 * written.  Words of qemu-img.
 */
int plt_rebase(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
	       const struct plt_rebase_options *opts, struct plt_error *err);

/*
 * All that the backing chain of the image @name supplies comes into it, and then it has no backing file: a rebase to
 * none (.backing is ignored), with which it shares that it can be broken off at any moment and made again.  *ret_done
 * false: it had none.  -EBUSY, before anything is written: an internal snapshot reads from the backing file.
 */
int plt_flatten(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		const struct plt_rebase_options *opts, bool *ret_done, struct plt_error *err);

enum plt_coalesce_into {
	PLT_COALESCE_AUTO,        /* whichever copies less and makes files grow less, of those that can be */
	PLT_COALESCE_PARENT,
	PLT_COALESCE_CHILD,
};
struct plt_coalesce_options {
	size_t size;
	const char *layer;        /* a layer of the chain below the image: its path, or what the one above records */
	enum plt_coalesce_into into;
	const char *const *folders; /* NULL-terminated: where to look for further images that depend on one of the
				   * layers, besides the folders of the layers; NULL: none */
	unsigned flags;           /* PLT_COALESCE_* */
	uint64_t rate_limit;      /* of a copy into the parent, bytes a second; 0: none */
	plt_progress_fn progress;
	void *progress_arg;
};
enum {
	PLT_COALESCE_DELETE = 1 << 0,  /* the layer's file, when all is durable */
	PLT_COALESCE_DRY_RUN = 1 << 1, /* judge and choose only */
};
#define PLT_COALESCE_OPTIONS_INIT { .size = sizeof(struct plt_coalesce_options) }
struct plt_coalesced {
	enum plt_coalesce_into into;   /* as chosen */
	char *layer, *child, *parent;  /* parent NULL: there is none */
	uint64_t copied;               /* bytes of data, at most */
	bool deleted;
};
/*
 * Take a layer out of the chain of the image @name: what it holds goes into the one below it, or into the one above,
 * which then stands on the one below.  The image shows the same at every moment; an interruption or a power cut
 * anywhere costs nothing, and the call can be made again.  -EBUSY, before anything is written: another image depends
 * on what would change, or an internal snapshot or (with DELETE) a bitmap would be lost; .deleted says whether the file
 * is gone, which fails the call if it was asked for.  *ret is filled in on success: plt_coalesced_release().
 */
int plt_coalesce(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		 const struct plt_coalesce_options *opts, struct plt_coalesced *ret, struct plt_error *err);
void plt_coalesced_release(struct plt_coalesced *c);

/* What is wrong with a layer, or between it and the one below. */
enum {
	PLT_LAYER_UNREADABLE = 1 << 0,   /* it does not open */
	PLT_LAYER_LOST = 1 << 1,         /* its backing file is missing, or not the one (VHD: by its id) */
	PLT_LAYER_LOOP = 1 << 2,         /* its chain of backing files leads in a circle */
	PLT_LAYER_SHORT = 1 << 3,        /* its backing file is shorter than it: zeros from there on */
	PLT_LAYER_CHANGED = 1 << 4,      /* its backing file was written after this image was made, and written last */
	PLT_LAYER_NO_FORMAT = 1 << 5,    /* the format of its backing file is not recorded */
	PLT_LAYER_OTHER_FORMAT = 1 << 6, /* and does not look like what is recorded */
	PLT_LAYER_MOVED = 1 << 7,        /* LOST, and there is a file where it may be: .moved_to */
	PLT_LAYER_DEEP = 1 << 8,         /* its chain is longer than can be opened */
	PLT_LAYER_REWRITTEN = 1 << 9,    /* as CHANGED, but the image was written after it: a commit does that, too */
	PLT_LAYER_LOOKS_LIKE = 1 << 10,  /* its backing file is recorded as raw and begins like an image */
	PLT_LAYER_ORPHAN = 1 << 11,      /* nothing depends on it, and it may be left over */
	/* Those that leave the disk readable, as it always was. */
	PLT_LAYER_HARMLESS = PLT_LAYER_SHORT | PLT_LAYER_NO_FORMAT | PLT_LAYER_REWRITTEN | PLT_LAYER_LOOKS_LIKE |
			     PLT_LAYER_ORPHAN,
};
struct plt_layer_finding {
	const char *id;                  /* stable name of the kind of damage: "C-LOST" */
	bool harmless;                   /* worth knowing */
	const char *text;
};
struct plt_layer {
	const char *name, *format;       /* format NULL: not known, since it does not open */
	uint64_t virtual_size;
	int64_t actual_size;             /* on the host; -1 unknown */
	const char *backing, *backing_format; /* as recorded; NULL: none */
	const char *full_backing;        /* as it would be opened */
	const char *id, *parent_id;      /* identity that the format records (VHD); NULL: none */
	int below;                       /* its backing file among the layers; -1: none, or not found */
	unsigned above;                  /* how many have it as their backing file */
	int64_t made, written;           /* seconds since 1970; -1: not known */
	unsigned trouble;                /* PLT_LAYER_* */
	const char *why;                 /* more about it; NULL: nothing */
	const char *moved_to;            /* where its backing file may be; NULL: nowhere near */
	const struct plt_layer_finding *findings; /* all of .trouble in words */
	unsigned nfindings;
	bool have_share;
	uint64_t share;                  /* bytes of data of the first image that are read from here */
};
struct plt_chain {
	const struct plt_layer *layers;  /* ascending by name; with PLT_CHAIN_SHARE: the chain from the top down */
	unsigned n;
};
enum {
	PLT_CHAIN_SHARE = 1 << 0,        /* also open the chain of the (one) image and add up what each layer supplies */
	PLT_CHAIN_FOLDERS = 1 << 2,      /* @names are folders: all files in each, */
	PLT_CHAIN_HIDDEN = 1 << 3,       /* hidden ones too */
	PLT_CHAIN_KNOWN_ONLY = 1 << 1,   /* leave out of @names what is no image but perhaps a raw one, unless it is a layer */
	PLT_CHAIN_IN_ORDER = 1 << 4,     /* the chain of the (one) image from the top down, as with SHARE; nothing is added up */
};
/*
 * What depends on what: the images @names and all that they lead to, each looked at by its header alone, side by
 * side.  Nothing is written, and images in use are looked at too.  What is wrong with one is said of it, and is no
 * failure.
 */
int plt_chain_look(struct plt_ctx *ctx, const char *const *names, unsigned n, unsigned flags, struct plt_chain **ret,
		   struct plt_error *err);
void plt_chain_free(struct plt_chain *chain); /* NULL allowed */

struct plt_chain_range {
	uint64_t start, length;
};
struct plt_chain_change {
	const char *id;                  /* "C-COMMIT", "C-CHANGED", "C-REBASE" */
	bool harmless;                   /* the disk shows what it did */
	const char *layer, *parent;      /* of the chain: whose backing file has changed, and that one */
	unsigned depth;                  /* of the layer; 0 is the image */
	const char *text;                /* of the layer, for a person */
	const char *why;                 /* the same in few words */
	bool lost;                       /* the ranges surely hold another's content; else they may be right */
	/*
	 * What the disk reads from what has changed, and whose right content is not known; in terms of the image, ascending
	 * and disjoint.
	 */
	const struct plt_chain_range *ranges;
	size_t nranges;
	uint64_t bytes;
};
/*
 * Which layers of the chain of @name are not what they were when the layer above was made, by what they hold: another image
 * was committed into them (images on the same layers are looked for in their folders and in @folders, which ends with NULL
 * and may be NULL); they were written to; and with @deep, two layers do not fit together by the guest's metadata, whatever
 * the times say.  Only reads.
 */
int plt_chain_changes(struct plt_ctx *ctx, const char *name, const char *const *folders, bool deep,
		      void (*found)(void *arg, const struct plt_chain_change *c), void *arg, struct plt_error *err);

/* ---- space --------------------------------------------------------------------------------------- */

struct plt_df_image {
	const char *name, *format;       /* format NULL: not known, since it does not open */
	const char *why;                 /* why nothing more is known of it, or it does not count; NULL */
	bool other;                      /* no image of its own: it does not count */
	uint64_t virtual_size, length;   /* of the disk; of the file */
	int64_t allocated;               /* bytes that the file (and its external data file) takes; -1 not known */
	int64_t reflinked;               /* of these, shared with other files by the host's filesystem; -1 it does not say */
	uint64_t exclusive;              /* of an image that no other stands on: what would be free without it and what
					  * only it stands on; internal snapshots are in it */
	uint64_t grown;                  /* the file's length when the guest has written everything */
	uint64_t growth;                 /* how much more it then takes; 0 of what other images stand on */
	uint64_t vm_state;               /* of internal snapshots */
	unsigned snapshots, overlays;    /* internal ones; images that have it as their backing file */
	unsigned shared_by;              /* images that no other stands on and that need this one; itself counts */
	int below;                       /* its backing file among the images; -1: none, or not found */
};
struct plt_df_volume {               /* of the host */
	uint64_t device;             /* st_dev */
	const char *path;            /* of a file on it */
	uint64_t size, free;         /* free to us */
	uint64_t allocated, virtual_size, growth; /* of the images on it */
};
struct plt_df {
	const struct plt_df_image *images;
	const struct plt_df_volume *volumes;
	unsigned nlisted, nvolumes;
	unsigned n;                      /* images: those listed that count */
	uint64_t virtual_size;           /* of images that no other stands on: what has been promised */
	uint64_t allocated;              /* of all files */
	uint64_t exclusive;              /* needed by one image each; .shared: by several; .reflinked: shared below them */
	uint64_t shared, reflinked;
	uint64_t growth;                 /* if every guest wrote everything */
};
/*
 * What the images @names, those in the folders among @names (hidden files apart; what is not known there is a raw image if it
 * has 1 MiB or more in whole sectors) and all that they stand on take on the host, share, and may still take.  By headers and
 * what the host says of the files; nothing is locked or written, and images in use are looked at too.
 */
int plt_df(struct plt_ctx *ctx, const char *const *names, unsigned n, struct plt_df **ret, struct plt_error *err);
void plt_df_free(struct plt_df *df); /* NULL allowed */

/* ---- persistent dirty bitmaps ---------------------------------------------------------------- */

enum plt_bitmap_verb {
	PLT_BITMAP_ADD,     /* a new one, empty, that records: granularity 0 is the cluster size within 4 and 64 KiB */
	PLT_BITMAP_REMOVE,  /* also one that is inconsistent */
	PLT_BITMAP_CLEAR,
	PLT_BITMAP_ENABLE,  /* it records what is written from now on */
	PLT_BITMAP_DISABLE,
	PLT_BITMAP_MERGE,   /* what is set in .source_name of .source is set in it too */
};
struct plt_bitmap_action {
	enum plt_bitmap_verb verb;
	const char *name;
	uint32_t granularity;      /* ADD */
	struct plt_disk *source;   /* MERGE: the disk that has the other bitmap; NULL: the same.  Not used by others meanwhile */
	const char *source_name;
};
/*
 * Bitmaps that an open, writable disk keeps with its data (qcow2 of version 3): the actions one after the other, and
 * all or, if one fails, none of them.  Durable on return; a power cut leaves the bitmaps before or those after.
 * Other threads may use the disk meanwhile.  *ret_failed (may be NULL): which action could not be done; @n: the
 * result of all could not be written.  -ENOENT: there is no such bitmap; -EEXIST; -EUCLEAN: it is inconsistent;
 * -EINVAL: name, granularity or sizes do not fit; -ENOTSUP: the image can have none.
 */
int plt_bitmap_change(struct plt_disk *disk, const struct plt_bitmap_action *v, unsigned n, unsigned *ret_failed,
		      struct plt_error *err);

/* ---- inspecting ------------------------------------------------------------------------------ */

struct plt_info {
	const char *filename, *format;
	uint64_t virtual_size;
	int64_t actual_size;              /* allocated on the host; -1 unknown */
	uint32_t cluster_size;            /* 0: none */
	uint64_t vm_state_offset;         /* where a virtual machine's state would be kept; 0: nowhere */
	bool encrypted, compressed, dirty;
	const char *backing_filename;     /* as recorded; NULL: none */
	const char *full_backing_filename;/* as it would be opened; NULL if that cannot be said */
	const char *backing_format;
	const struct plt_snapshot *snapshots;
	unsigned nsnapshots;
	const char *specific_json;        /* {"type": "qcow2", "data": {...}}; NULL: none */
	/*
	 * What requests are best made of.  Any other works too: what is less than request_alignment is read,
	 * changed and written; what is less than the other two is written as zeros, or left alone.
	 */
	uint32_t request_alignment, write_zeroes_alignment, discard_alignment;
	uint32_t mem_alignment, opt_mem_alignment; /* of memory: not copied; as we allocate it */
	uint32_t max_iov;                 /* elements that go to the system in one call */
};
/* Valid until plt_info_free(); opens nothing. */
int plt_disk_info(struct plt_disk *disk, struct plt_info **ret, struct plt_error *err);
void plt_info_free(struct plt_info *info);

struct plt_check_finding {
	const char *id;           /* stable name of the kind of damage */
	const char *severity;     /* "note" "leak" "corruption" "error" */
	const char *text;
	bool beyond_qemu;         /* qemu-img does not count this one */
	bool mended;              /* a plan that is being made puts it right */
	uint64_t host_off, host_len, guest_off, guest_len; /* len 0: not given */
	const char *image;        /* of which file; NULL: the one that was named */
};
struct plt_check_result {
	uint64_t corruptions, leaks, check_errors;   /* as qemu-img counts */
	uint64_t added;                              /* corruptions that qemu-img does not see */
	uint64_t corruptions_fixed, leaks_fixed;     /* by a plan: not among those above */
	uint64_t lost, inferred;                     /* by a repair: bytes of the disk and its snapshots */
	uint64_t image_end_offset, total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	bool have_clusters;
	const char *format;                          /* static */
};
/*
 * Examine the structure of an image.  Nothing is written.  -ENOTSUP: the format has nothing to
 * check.  @found may be NULL.
 */
int plt_check(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
	      void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
	      struct plt_check_result *ret, struct plt_error *err);

/*
 * The same, and what structure does not show: every compressed cluster is decoded (snapshots' too), the layers
 * below and data files are examined, and the guest's own metadata is held against where it lies.  Opens the
 * disk; what it finds counts in .added.  Formats that have nothing to check are looked into as well.
 */
int plt_check_deep(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		   void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		   struct plt_check_result *ret, struct plt_error *err);

/* ---- repair ---------------------------------------------------------------------------------- */

/*
 * A plan: edits that put an image right, held in memory over the image, which is locked, open for writing
 * and not touched before plt_repair_apply().  One thread at a time.
 */
struct plt_repair;

enum {
	PLT_REPAIR_LEAKS = 1 << 0,    /* counts that are too high and nothing else, as `check -r leaks` */
	PLT_REPAIR_NO_WRITE = 1 << 1, /* the plan is looked at only: the image is opened read-only */
	PLT_REPAIR_TRUST_LIKELY = 1 << 2, /* placements that are likely go into the plan, too */
	PLT_REPAIR_DEEP = 1 << 3,     /* hold the guest's own structures against the map though nothing else shows that it is wrong */
	/* With NO_WRITE: the plan is for plt_repair_copy(); of a raw disk that begins further on in its file that part is copied. */
	PLT_REPAIR_COPY = 1 << 4,
};

struct plt_placement_offer {
	uint64_t host_off;             /* where it lies in the file */
	uint64_t guest_off, guest_len; /* where it would belong */
	const char *certainty;         /* "likely" "guess" */
	const char *why;
};

struct plt_repair_options {
	size_t size;
	unsigned flags;        /* PLT_REPAIR_* */
	const char *undo_file; /* the journal; NULL: beside the image, its name (not a link's) and ".platter-undo" */
	const char *plan;      /* a file that says what to do (and stays valid as long as the plan); NULL: found out */
	/*
	 * A piece of the disk (what a table maps, or one cluster) for whose place the guest's data speaks, and not strongly
	 * enough: is it to be put there?  NULL: no.
	 */
	bool (*offered)(void *arg, const struct plt_placement_offer *offer);
	void *offered_arg;
	/*
	 * An older copy or a clone of the disk, of the same size: what is lost for good and this one has at the same place is
	 * written into the image, 256 MiB at most, and is inferred.  Of an image that stands on others, these are opened.
	 */
	const char *donor;
};
#define PLT_REPAIR_OPTIONS_INIT { .size = sizeof(struct plt_repair_options) }

/*
 * Examine and plan.  @found hears of everything: first what is wrong (.mended: the plan puts it right), and
 * what comes to light as the plan is followed.  A repair that was interrupted is finished first (a warning
 * says so).  -ENOSYS: images of this format cannot be repaired.
 */
int plt_repair_plan(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		    const struct plt_repair_options *options,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_repair **ret,
		    struct plt_error *err);
/*
 * Of the image as it is (with what the plan fixes in .corruptions_fixed and .leaks_fixed); .lost and .inferred: what a
 * repair that had been interrupted, and was finished first, has left so.
 */
const struct plt_check_result *plt_repair_before(const struct plt_repair *rep);
/* Examine the image as the plan makes it. */
int plt_repair_check(struct plt_repair *rep, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		     struct plt_check_result *ret, struct plt_error *err);
/* The edits, in ascending order; @bytes NULL: zeros.  Until @fn returns something else than 0. */
int plt_repair_each(struct plt_repair *rep, int (*fn)(void *arg, uint64_t off, const void *bytes, uint64_t len),
		    void *arg);
/*
 * Write the plan to a file, durably, for a person to read and change: docs/formats/plan.md.  It replaces a file of
 * that name, if it is not the image.
 */
int plt_repair_save(struct plt_repair *rep, const char *path, struct plt_error *err);
/*
 * What it leaves lost or inferred, as plt_disk_doubts() says of the disk that the image has then (without a chain), and
 * behind that, snapshot by snapshot, of its internal snapshots.
 */
int plt_repair_doubts(struct plt_repair *rep, int (*fn)(void *arg, const struct plt_doubt_range *d), void *arg,
		      struct plt_error *err);
/* By how much the file grows. */
uint64_t plt_repair_growth(const struct plt_repair *rep);
/*
 * Do it: the undo journal is written and made durable, then the image is.  *ret_journal (free() it): its
 * name, NULL if nothing was to be done.  -ENOTSUP: there is no place for a journal beside the image (a
 * device, a folder that may not be written).  On failure the image is as it was, or, where that could not
 * be brought about, the journal is there to finish or to undo, and the message names it.
 */
int plt_repair_apply(struct plt_repair *rep, char **ret_journal, struct plt_error *err);
/* A repaired copy: the new file @path (sharing what it can with the image), durable; removed if it fails. */
int plt_repair_copy(struct plt_repair *rep, const char *path, struct plt_error *err);
void plt_repair_free(struct plt_repair *rep); /* NULL allowed */

/*
 * A plan by which the image @name records @parent, a file, as its backing file, and nothing else changes; it is
 * then applied like any other.  @format: of the image, NULL: found out; @options: .flags (NO_WRITE) and .undo_file.
 * -ENOTSUP: the format cannot record it; -ELOOP: the new chain leads back; or what keeps @parent from being opened.
 */
int plt_repair_reference(struct plt_ctx *ctx, const char *name, const char *format, const char *parent,
			 const char *parent_format, const struct plt_repair_options *options, struct plt_repair **ret,
			 struct plt_error *err);

/* A file that may be the backing file of an image. */
struct plt_parent {
	const char *name, *format;
	uint64_t virtual_size;
	int score;                       /* against that of the others; means nothing else */
	const char *certainty;           /* "proven" "strong" "likely" "guess" */
	const char *why;
	bool recorded;                   /* it is what the image records now */
	bool opens;                      /* the image can be opened on it, and nothing says that it is another disk */
};
struct plt_parents {
	const char *image, *image_format; /* whose backing file is looked for: the layer of the chain that has lost it */
	const struct plt_parent *v;      /* best first */
	unsigned n;
};
/*
 * Which of the images in @folders (NULL-terminated, NULL: none), in the image's own folder and in that of its recorded
 * backing file is the one that it stands on?  By the ids that formats record, size, format, name, times, and by what the
 * bytes say: whether the guest's metadata fits on the disk that both make together, and how much of what the image holds is
 * the same below.  If no layer of the image's chain has lost its backing file, that of the image itself is looked for.
 * Nothing is written.  plt_parents_free().
 */
int plt_parents_find(struct plt_ctx *ctx, const char *name, const char *const *folders, struct plt_parents **ret,
		     struct plt_error *err);
void plt_parents_free(struct plt_parents *p); /* NULL allowed */

/*
 * What `check -r` does: of an image's own structure (never of what its guest has written: raw is refused, -ENOTSUP)
 * plan, apply, and the journal removed once the image is right; it is kept, and a warning names it, where something is
 * lost or not all is proven.  Where there is no place
 * for a journal, counts and what entries say of them are corrected in an order that is safe at every
 * moment; where the plan has more than that, all of it is refused (-ENOTSUP).  @ret: of the image before, and what was fixed.
 */
int plt_check_repair(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		     const struct plt_repair_options *options,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		     struct plt_check_result *ret, struct plt_error *err);

/*
 * Take a repair back: the image gets the bytes that the journal has kept, after proof that it still is what
 * the repair left (or is on its way there), and the journal is removed.  @image: where it is now; NULL: beside the
 * journal, or where it was.
 */
int plt_undo(struct plt_ctx *ctx, const char *journal, const char *image, struct plt_error *err);

/* ---- whole-image work ------------------------------------------------------------------------ */

struct plt_convert_options {
	size_t size;
	const char *format;               /* of the target; NULL: raw */
	const char *const *options;       /* "-o" texts */
	const char *cache;                /* of the target; NULL: writeback, durable at the end; "unsafe": not */
	const char *backing, *backing_format;
	unsigned flags;                   /* PLT_CONVERT_* */
	uint64_t sparse_size;             /* -S: zero runs of at least this become holes; 0: all is allocated */
	unsigned coroutines;              /* -m; 0: default */
	uint64_t rate_limit;              /* bytes a second; 0: none */
	int level;                        /* compression: 0 fast, 1..9, -1 best */
	plt_progress_fn progress;
	void *progress_arg;
	void (*salvaged)(void *arg, uint64_t off, uint64_t len, const char *why); /* each unreadable range */
	void *salvaged_arg;
	uint64_t window_offset, window_length; /* with PLT_CONVERT_WINDOW */
};
enum {
	PLT_CONVERT_COMPRESS = 1 << 0,
	PLT_CONVERT_OUT_OF_ORDER = 1 << 1,  /* -W */
	PLT_CONVERT_COPY_RANGE = 1 << 2,    /* -C */
	PLT_CONVERT_NO_CREATE = 1 << 3,     /* -n */
	PLT_CONVERT_SALVAGE = 1 << 4,
	PLT_CONVERT_TARGET_ZERO = 1 << 5,   /* --target-is-zero */
	PLT_CONVERT_TARGET_OPTS = 1 << 6,   /* the target is --target-image-opts */
	PLT_CONVERT_VERIFY = 1 << 7,        /* read back and compare digests */
	PLT_CONVERT_BITMAPS = 1 << 8,
	PLT_CONVERT_SKIP_BROKEN = 1 << 9,
	PLT_CONVERT_UNCHECKED_BACKING = 1 << 10, /* -u */
	PLT_CONVERT_WINDOW = 1 << 11,       /* only this range of the one source, whatever its alignment */
};
#define PLT_CONVERT_OPTIONS_INIT { .size = sizeof(struct plt_convert_options), .sparse_size = 4096 }
/*
 * Copy the guest-visible content of @n sources, one after the other, to @target.  Unless NO_CREATE
 * nothing appears under the final name before it is complete (and durable); see convert/target.c
 * for where that cannot be.
 */
int plt_convert(struct plt_ctx *ctx, struct plt_disk *const *sources, unsigned n, const char *target,
		const struct plt_convert_options *opts, struct plt_error *err);

struct plt_measure_options {
	size_t size;
	const char *format;            /* of the image that would be made; NULL: raw */
	const char *const *options;    /* "-o" texts */
	uint64_t virtual_size;         /* without a source; PLT_SIZE_UNSET: what the options say */
	unsigned flags;                /* PLT_MEASURE_* */
	plt_progress_fn progress;      /* of PLT_MEASURE_EXACT */
	void *progress_arg;
};
enum {
	PLT_MEASURE_EXACT = 1 << 0,    /* .required is the length of the file that plt_convert() makes: @src is read */
	PLT_MEASURE_COMPRESS = 1 << 1, /* with EXACT: of one that is compressed */
};
#define PLT_MEASURE_OPTIONS_INIT { .size = sizeof(struct plt_measure_options), .virtual_size = PLT_SIZE_UNSET }
struct plt_measure_result {
	uint64_t required;             /* bytes of a file that holds what @src holds now; never too few */
	uint64_t fully_allocated;      /* once the guest has written everything; 0: the format does not say (EXACT) */
	bool have_bitmaps;             /* both formats can have persistent bitmaps */
	uint64_t bitmaps;              /* what those of @src would take besides */
};
/*
 * How large a new image would be: with the content of @src, or (NULL) empty.  Writes nothing.  An
 * error in the options ends with a second line that says so.
 */
int plt_measure(struct plt_disk *src, const struct plt_measure_options *opts, struct plt_measure_result *ret,
		struct plt_error *err);

struct plt_compare_result {
	bool same;
	uint64_t first_difference; /* offset, if not the same content */
	bool size_differs;         /* strict and sizes differ; or the longer one has data beyond */
	const char *which;         /* see convert/compare.c */
	int failed_side;           /* 1 or 2 on a read or status error */
};
int plt_compare(struct plt_disk *a, struct plt_disk *b, bool strict, plt_progress_fn progress, void *arg,
		void (*warn)(void *arg, const char *text), struct plt_compare_result *ret, struct plt_error *err);

/* A part of the guest's disk that sparsify has looked at. */
struct plt_sparsify_volume {
	uint64_t offset, length;  /* of the disk; of a logical volume its first piece, and its size */
	const char *what;         /* "ext4" "xfs" "ntfs" "FAT32" "swap" ...; "" not known */
	const char *name;         /* of a logical volume, "group/volume"; "" */
	const char *label;        /* "" none */
	bool swap;
	uint64_t free;            /* bytes that the guest does not use */
	const char *why;          /* why it is left alone; NULL: it is not */
};
struct plt_sparsify_options {
	size_t size;
	unsigned flags;           /* PLT_SPARSIFY_* */
	plt_progress_fn progress;
	void *progress_arg;
	void (*volume)(void *arg, const struct plt_sparsify_volume *v); /* each; NULL: not wanted */
	void *volume_arg;
};
enum {
	PLT_SPARSIFY_FREE = 1 << 0,  /* what filesystems (ext2 to ext4, XFS, NTFS, FAT) call free */
	PLT_SPARSIFY_SWAP = 1 << 1,  /* swap, all but its header */
	PLT_SPARSIFY_ZERO = 1 << 2,  /* clusters that hold zeros; all data of the image is read */
	PLT_SPARSIFY_SAME = 1 << 3,  /* clusters that hold what the backing file has there; the same */
	PLT_SPARSIFY_LEAKS = 1 << 4, /* what lies in the file and belongs to nothing (qcow2; others keep no account) */
	PLT_SPARSIFY_DRY_RUN = 1 << 8, /* only count */
};
#define PLT_SPARSIFY_OPTIONS_INIT { .size = sizeof(struct plt_sparsify_options) }
/*
 * Bytes of the disk that were stored in the image and no longer are (or would be), by the first kind that applies;
 * .leaks in bytes of the file.  What an internal snapshot has too stays in the file.
 */
struct plt_sparsify_result {
	uint64_t free, swap, zero, same, leaks;
	int64_t before, after;       /* bytes that the file takes on the host; -1 unknown */
};
/*
 * Give back to the host what the guest has no use for, in the image @name itself; only it is changed, not what it
 * stands on.  All files of the guest stay as they are; what was free reads as zeros.  A filesystem that is in use, was
 * not unmounted, is damaged, or is not known is left alone.  An interruption or a power cut at any moment leaves each
 * range as it was, or given back.  -EUCLEAN: the image has to be repaired first; -ENOTSUP: it cannot give space back.
 */
int plt_sparsify(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		 const struct plt_sparsify_options *opts, struct plt_sparsify_result *ret, struct plt_error *err);
/* The same into a new image, by plt_convert(); @name is only read.  Not with DRY_RUN and SAME. */
int plt_sparsify_copy(struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		      const struct plt_sparsify_options *opts, const char *target, const struct plt_convert_options *convert,
		      struct plt_sparsify_result *ret, struct plt_error *err);

struct plt_hash_options {
	size_t size;
	const char *digest;   /* NULL: sha256 */
	uint32_t block;       /* 0: 65536 */
	bool flat;            /* of the raw bytes in order, as sha256sum */
	plt_progress_fn progress;
	void *progress_arg;
};
#define PLT_HASH_OPTIONS_INIT { .size = sizeof(struct plt_hash_options) }
int plt_hash(struct plt_disk *disk, const struct plt_hash_options *opts, uint8_t ret[64], size_t *ret_len,
	     struct plt_error *err);

/* What a scan comes upon. */
enum plt_scan_class {
	PLT_SCAN_IMAGE,       /* the header (or footer) of an image of some format */
	PLT_SCAN_STRUCTURE,   /* tables or blocks that belong to no image that is found: .count of them */
	PLT_SCAN_TABLE,       /* a partition table */
	PLT_SCAN_PARTITION,
	PLT_SCAN_FILESYSTEM,  /* or volume: LVM, LUKS, swap, md, VMFS */
};

struct plt_scan_object {
	enum plt_scan_class kind;
	const char *what;       /* "qcow2", "vpc", "L2 tables", "gpt", "ext4": static */
	uint64_t offset;        /* where it begins */
	uint64_t length;        /* as far as it says; 0: it does not */
	uint64_t size;          /* of an image: its virtual size */
	uint64_t count;         /* of structures */
	int inside;             /* the smallest object that it lies in (its place in the list), -1: none */
	bool copy;              /* recognised by a copy of its superblock only: its beginning is damaged */
	bool carvable;          /* .length bytes from .offset are all of it, if it lies in one piece */
	unsigned errors;        /* that a check of it finds, as far as there is a check */
	const char *detail;     /* a line for a person, "" none */
	const char *carved;     /* the file that it was carved into; NULL: not */
};

struct plt_scan_options {
	size_t size;
	const char *carve;      /* a folder in which to write what can be carved; NULL: only look */
	const char *map;        /* a map of ddrescue: ranges that it calls bad are not read; written anew; NULL: none */
	plt_progress_fn progress;
	void *progress_arg;
};
#define PLT_SCAN_OPTIONS_INIT { .size = sizeof(struct plt_scan_options) }

struct plt_scan;
/*
 * Look through all of @disk, once and in order, for images, partitions, filesystems and what is left of them.
 * Holes are not read; sectors that cannot be read are passed over.  Nothing of @disk is changed.  A file in the folder
 * .carve is never written over: that, and what else keeps an object from being carved, is said of it in .detail, and
 * .carved stays NULL.
 */
int plt_scan(struct plt_ctx *ctx, struct plt_disk *disk, const struct plt_scan_options *opts, struct plt_scan **ret,
	     struct plt_error *err);
/* The i-th object, by offset; NULL behind the last.  Valid until plt_scan_free(). */
const struct plt_scan_object *plt_scan_object(const struct plt_scan *scan, unsigned i);
struct plt_scan_totals {
	uint64_t read, holes;   /* bytes */
	uint64_t bad;           /* bytes that could not be read, or that the map calls bad */
	uint64_t skipped;       /* bytes that were not tried: too many beside them are bad */
	uint64_t omitted;       /* objects that were found and not kept: there are too many */
	uint64_t uncarved;      /* objects that were not carved for another reason than their nature: .detail says why */
};
void plt_scan_totals(const struct plt_scan *scan, struct plt_scan_totals *ret);
void plt_scan_free(struct plt_scan *scan); /* NULL allowed */

struct plt_bench_options {
	size_t size;
	bool write;
	uint64_t count;           /* requests */
	unsigned depth;           /* how many are under way at once, at least 1 */
	uint64_t offset;          /* of the first; the others follow, and begin anew behind the disk's end */
	uint32_t length, step;    /* of each; from one to the next (0: length) */
	uint8_t pattern;          /* what is written */
	unsigned flush_interval;  /* a flush after this many writes; 0: none */
	bool no_drain;            /* requests go on beside a flush */
	const char *aio;          /* threads native io_uring; NULL: the best there is */
};
#define PLT_BENCH_OPTIONS_INIT \
	{ .size = sizeof(struct plt_bench_options), .count = 75000, .depth = 64, .length = 4096 }
/* Send requests through a queue of its own, as a virtual machine does, and measure the time. */
int plt_bench(struct plt_disk *disk, const struct plt_bench_options *opts, double *ret_seconds,
	      struct plt_error *err);

/* ---- formats --------------------------------------------------------------------------------- */

/* The i-th format's name, or NULL behind the last. */
const char *plt_format_name(unsigned i);
/*
 * The text of `create -f FORMAT -o help`; free() it.  @with_file: a file name was given too, so the
 * options of the file itself are listed among them.  -EINVAL: no such format.
 */
int plt_format_help(const char *format, bool with_file, char **ret, struct plt_error *err);

#ifdef __cplusplus
}
#endif
#endif
