/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_DRIVER_H
#define PLT_FORMATS_DRIVER_H

/*
 * The driver contract.  A format driver maps; it never moves guest data.  It answers where the
 * guest's bytes from A to B are, reserves places for new ones, and keeps its own metadata in order.
 * The engine above all drivers (block/) does the I/O.
 *
 * A driver includes this header, io/, crypt/ and base/, and no other driver; it starts no threads and
 * opens no names.  What it needs from above is declared here as services (plt_meta_*, plt_ref_*...)
 * and implemented in block/.
 *
 * Data path.  map, place, publish and withdraw never do I/O and never block.  map and place finish,
 * or return -EAGAIN with a *need*, having changed nothing; the engine meets the need and calls
 * again.  Metadata blocks already found stay pinned to the request's pin set, so each retry makes
 * progress.  publish and withdraw need nothing and cannot fail: place pins all that they touch.
 *
 * All other entries may block.  They run on a worker (or on the caller of a blocking call) and hold
 * the image lock only while memory changes.
 */
#include <jansson.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "formats/finding.h"
#include "formats/options.h"
#include "io/store.h"
#include "platter.h"

struct plt_ctx;
struct plt_luks;
struct plt_secret;
struct plt_driver;
struct plt_image;

/* ---- metadata blocks ------------------------------------------------------------------------- */

/*
 * A block is a cached slice of one metadata table: at most PLT_SLICE bytes of the image file at an
 * offset aligned to its own length (the driver's slice size: the smaller of its cluster and
 * PLT_SLICE).  Slots belong to the context and are shared by all its images.
 */
#define PLT_SLICE 4096

struct plt_block;

/* One kind of metadata table of a driver. */
struct plt_meta_type {
	const char *name;     /* "L2 table" */
	int rank;             /* order edges only go from a lower to a higher rank: asserted */
	enum plt_io_tag tag;
	/*
	 * Called once, when a slice has been read, with @data not yet visible to anybody.  Checks
	 * bounds, alignment and reserved bits, so that a hit needs no check.  -EUCLEAN with text
	 * refuses the slice.  May be NULL.
	 */
	int (*validate)(struct plt_image *img, uint64_t host_off, const void *data, size_t len,
			struct plt_error *err);
	/*
	 * Where the table ends of which the slice at @host_off, which is in use, is a part: what follows in it is
	 * read ahead when it is gone through in order.  Inside an epoch.  NULL: read one by one.
	 */
	uint64_t (*table_end)(const struct plt_image *img, uint64_t host_off);
};

enum plt_need_kind {
	PLT_NEED_NONE,
	PLT_NEED_LOAD,      /* read the block in (the slot is reserved and pinned) */
	PLT_NEED_SLOT,      /* a free cache slot */
	PLT_NEED_WRITEBACK, /* write back a block (its list of order edges is full) */
	PLT_NEED_LIMBO,     /* drain the limbo */
	PLT_NEED_WORK,      /* run driver->work(code, arg); with @exclusive behind the gate */
};

struct plt_need {
	enum plt_need_kind kind;
	struct plt_block *block;
	int code;
	uint64_t arg;
	bool exclusive;
};

/* The blocks that one request holds.  Owned by the engine's request; released by plt_pins_drop(). */
#define PLT_PINS_MAX 12
#define PLT_PINS_PLACE 6 /* the most that one call of place leaves pinned */
struct plt_pins {
	struct plt_block *b[PLT_PINS_MAX];
	unsigned n;
	bool privileged;  /* may take slots beyond the budget: see block/cache_room.c */
};
#define PLT_PINS_INIT { .n = 0 }
/* For blocking code (work, write_zeroes, release, ...): it waits for no slot, it brings one along. */
#define PLT_PINS_BLOCKING { .privileged = true }

void plt_pins_drop(struct plt_pins *pins);
void plt_pins_remove(struct plt_pins *pins, struct plt_block *b); /* one that is of no use any more */

/*
 * The block at @host_off of the image's file, pinned to @pins.  0; -EAGAIN with *need; or the errno
 * of a load that failed (the next call tries again).  No lock needed; a hit takes none.
 */
int plt_meta_get(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		 uint64_t host_off, struct plt_block **ret, struct plt_need *need, struct plt_error *err);
/* The same, blocking: meets its own needs (pins are PLT_PINS_BLOCKING).  Never with the image lock held. */
int plt_meta_get_wait(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		      uint64_t host_off, struct plt_block **ret, struct plt_error *err);
/* Blocking: meet PLT_NEED_LOAD.  The block is pinned; the errno of its load if that failed. */
int plt_meta_load_wait(struct plt_image *img, struct plt_block *b, struct plt_error *err);
/*
 * A block whose content is new: zeroed, valid and not read from the file.  Image lock held.
 * -EAGAIN with PLT_NEED_SLOT (never for PLT_PINS_BLOCKING: then 0 or -ENOMEM).  Drops what the cache
 * held for that place before.
 */
int plt_meta_new(struct plt_image *img, struct plt_pins *pins, const struct plt_meta_type *type,
		 uint64_t host_off, struct plt_block **ret, struct plt_need *need);

uint8_t *plt_block_data(struct plt_block *b);
uint64_t plt_block_host_off(const struct plt_block *b);

/*
 * 64-bit big-endian words, read by any thread while another publishes.  A reader of more than one
 * word that must agree brackets them: seq = read_begin; ...; if (read_retry(b, seq)) again.
 */
uint64_t plt_block_get64(const struct plt_block *b, unsigned index);
void plt_block_set64(struct plt_block *b, unsigned index, uint64_t value); /* image lock held */
unsigned plt_block_read_begin(const struct plt_block *b);
bool plt_block_read_retry(const struct plt_block *b, unsigned seq);
void plt_block_write_begin(struct plt_block *b); /* image lock held */
void plt_block_write_end(struct plt_block *b);

/*
 * Changed: the block is dirty at a new version.  Call after each change, image lock held.  Changes
 * made without a call in between belong to one version and reach the disk in one write per 512 bytes
 * at the least.
 */
void plt_block_dirty(struct plt_block *b);
/*
 * Order edges, image lock held.  What is in @b now must not be written before
 *   what is in @before now is durable (the rank of @before must be lower);
 *   everything that has completed on @st so far is durable.
 * Room for them must have been found in place: plt_block_room() < @n is PLT_NEED_WRITEBACK.
 */
void plt_block_after_block(struct plt_block *b, struct plt_block *before);
void plt_block_after_sync(struct plt_block *b, struct plt_store *st);
unsigned plt_block_room(struct plt_block *b);

/*
 * Forget (do not write) everything cached for [off, off+len): the clusters have been freed, or are
 * about to be written around the cache.  Blocking: waits for a write-back under way.  No image lock.
 */
void plt_meta_forget(struct plt_image *img, uint64_t host_off, uint64_t len);
/*
 * Write back what is dirty, in the order of the edges, with syncs where they ask for one.  With
 * @durable everything written and all data completed before the call is durable on return.
 * Blocking; never with the image lock held.  On failure blocks stay dirty and may be tried again.
 */
int plt_meta_flush(struct plt_image *img, bool durable, struct plt_error *err);
/* Use cached-only knowledge: whether the image has dirty blocks. */
bool plt_meta_is_dirty(struct plt_image *img);

/* ---- limbo ----------------------------------------------------------------------------------- */

/*
 * A reference to [host_off, host_off+len) has been dropped by a change that is in the cache (dirty
 * already).  The engine later, when everything dirty at that time is durable and older epochs have
 * drained, calls driver->release() for it.  Bounded: place, write_zeroes and discard look at
 * plt_limbo_room() before they change anything, and return PLT_NEED_LIMBO.  Image lock held.
 */
#define PLT_LIMBO_CAPACITY 4096 /* what plt_limbo_room() says when it is empty */
void plt_limbo_add(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind);
unsigned plt_limbo_room(struct plt_image *img);

/* ---- mapping --------------------------------------------------------------------------------- */

enum plt_run_kind {
	PLT_RUN_DATA,       /* at host_off of store */
	PLT_RUN_COMPRESSED, /* part of a unit stored compressed */
	PLT_RUN_ZERO,       /* reads as zeros, whatever lies below */
	PLT_RUN_ABSENT,     /* not here: ask the backing image (zeros if there is none) */
	PLT_RUN_DAMAGED,    /* the mapping is corrupt here: reads fail with EIO */
};

enum {
	PLT_RUN_IN_PLACE = 1 << 0,  /* DATA: a write may go there; no mapping changes */
	PLT_RUN_ALLOCATED = 1 << 1, /* ZERO, ABSENT: host_off is a place kept for it */
};

enum plt_codec { PLT_CODEC_NONE, PLT_CODEC_DEFLATE, PLT_CODEC_ZSTD };

struct plt_cipher; /* crypt/ */

struct plt_run {
	enum plt_run_kind kind;
	unsigned flags;
	uint64_t off, len;            /* guest range; runs of one answer are adjacent and ascending */
	struct plt_store *store;      /* DATA, COMPRESSED, ...|ALLOCATED: borrowed from the image */
	uint64_t host_off;            /* of off; COMPRESSED: of the unit's first byte */
	/* COMPRESSED: the unit it belongs to */
	enum plt_codec codec;
	uint32_t comp_len;            /* bytes available at host_off; the stream may end earlier */
	uint64_t unit_off;            /* guest range of the whole unit */
	uint32_t unit_len;
	/* DATA: NULL or how it is encrypted, with the number (for the IV) of the 512-byte sector in which off lies */
	const struct plt_cipher *cipher;
	uint64_t iv_sector;
};

struct plt_runs {
	struct plt_run *v;
	unsigned n, cap;
};

/*
 * Append to @runs, joined with the last one where it continues it.  False: no room, stop mapping.
 */
bool plt_runs_add(struct plt_runs *runs, const struct plt_run *run);

enum plt_place_kind {
	PLT_PLACE_DATA,       /* for a write of [off, off+len) */
	PLT_PLACE_COMPRESSED, /* for a unit that compressed to comp_len bytes; off, len are the unit */
	PLT_PLACE_IF_ABSENT,  /* as DATA, but only where nothing is mapped (copy-on-read, stream) */
};

struct plt_place_req {
	enum plt_place_kind kind;
	uint64_t off, len;
	uint32_t comp_len;
};

/*
 * The answer of place: [off, off+len) of the guest goes to host_off of store; len may be shorter
 * than asked.  Before publish the engine has written that and has filled [off-head, off) and the
 * @tail bytes after it with what the guest sees there now, and has waited for completion.
 */
struct plt_place {
	uint64_t off, len;
	struct plt_store *store;
	uint64_t host_off;        /* of off (head lies below it); byte granular for COMPRESSED */
	uint32_t head, tail;
	bool fresh;               /* head, tail and body read as zeros at the host already */
	bool publish;             /* false: the mapping is right as it is; only write (nothing to withdraw) */
	bool skip;                /* IF_ABSENT and something is there: nothing to do for len bytes */
	const struct plt_cipher *cipher;
	uint64_t iv_sector;       /* of the sector in which off - head lies */
	uint64_t priv[6];         /* the driver's */
	struct plt_block *blocks[8]; /* the driver's: what publish and withdraw touch (pinned) */
};

/* The engine's own rules in plt_image.rules_off. */
enum {
	PLT_RULE_ENGINE = 56,
	PLT_RULE_LIMBO_DURABLE = 56, /* a removal is durable before the count is lowered */
	PLT_RULE_LIMBO_DRAIN,        /* older epochs have drained before the place is used again */
};

/* ---- the image as a driver sees it ----------------------------------------------------------- */

/* Does block status ask the host which parts of DATA are holes? */
enum plt_holes {
	PLT_HOLES_GUESS, /* of a driver with PLT_DRIVER_HOST_HOLES always, else where clusters look preallocated */
	PLT_HOLES_ASK,
	PLT_HOLES_NEVER,
};

struct plt_image {
	struct plt_ctx *ctx;
	const struct plt_driver *drv;
	void *priv;                    /* the driver's state */
	struct plt_store *file;        /* where the image's own structures are */
	struct plt_store *data;        /* where its data goes: file, or an external data file (own reference) */
	char *name;                    /* as a person knows it */
	bool writable;
	bool unordered;                /* nobody opens the file before it is complete: edges are not kept */
	bool inactive;                 /* opened to be inspected only: no references were opened */
	bool rescued;                  /* looked at through a plan: so will be what it names */
	bool shows_same;               /* nothing that is written changes what the guest sees: no bitmap records it */
	pthread_mutex_t lock;          /* the image lock: the driver's memory */

	/* Set by driver->open: */
	_Atomic uint64_t size;         /* guest bytes; a multiple of 512 */
	uint32_t alloc_unit;           /* granularity of mapping changes, for the range lock; a power of two */
	uint32_t zero_unit;            /* what write_zeroes can do of a unit; 0: whole units only */
	bool encrypted;                /* its data is: runs and places carry a cipher if it was unlocked */
	enum plt_holes holes;
	uint32_t slice;                /* metadata slice length, <= PLT_SLICE, a power of two >= 512 */
	char *backing_name;            /* as recorded; NULL: none.  Owned, malloc */
	char *backing_format;          /* as recorded; NULL: not recorded */
	uint64_t file_end;             /* what was behind it is lost (plt_file_part()); UINT64_MAX: nothing */
	uint32_t disk;                 /* which of its disks is shown: PLT_DISK_ACTIVE, or a snapshot's position */
	bool has_backing;              /* recorded, given by the user, or about to be: absent may not mean zeros.  block/ sets it */

	/*
	 * Rules of write order that are switched off, one bit each (the driver's numbering; the engine's own
	 * from PLT_RULE_ENGINE up).  Tests only: the power-cut suite must fail for each.
	 */
	uint64_t rules_off;

	struct plt_engine *engine;     /* block/'s */
};

/*
 * How many of the @len bytes at @host_off of its file an image has: under rescue what lies behind the end of a
 * file that is too short is not there, and a driver calls the mapping damaged that it would read there.
 */
uint64_t plt_file_part_planned(const struct plt_image *img, uint64_t host_off, uint64_t len);
static inline uint64_t plt_file_part(const struct plt_image *img, uint64_t host_off, uint64_t len)
{
	return host_off <= img->file_end && len <= img->file_end - host_off ? len :
	       plt_file_part_planned(img, host_off, len);
}

/* ---- references to other files --------------------------------------------------------------- */

enum plt_ref_role { PLT_REF_BACKING, PLT_REF_DATA_FILE, PLT_REF_EXTENT, PLT_REF_PARENT };

/*
 * Open a file that the image names.  The only way for a driver to reach one: applies the policy.
 * @name as recorded (path relative to the image's folder unless @from_cwd, "json:{...}", protocol).
 */
int plt_ref_open(struct plt_image *img, enum plt_ref_role role, const char *name, bool from_cwd,
		 bool writable, struct plt_store **ret, struct plt_error *err);

/*
 * A copy of the secret that the user has given under @id (crypt/secret.h: release it).  -ENOENT "No
 * secret with id '...'"; -EINVAL if it is no text (UTF-8), as passphrases have to be.
 */
int plt_secret_get(struct plt_ctx *ctx, const char *id, struct plt_secret *ret, struct plt_error *err);

/* Incompatible features that the user wants ignored, one bit each, where an image claims them and they are unknown. */
uint64_t plt_ctx_ignored_features(const struct plt_ctx *ctx);

/* Run fn(arg, i), i in [0, n), on all cores; the caller takes part.  First error wins. */
int plt_ctx_parallel(struct plt_ctx *ctx, unsigned n, int (*fn)(void *arg, unsigned i), void *arg);

/* Something a person should know and no call can return; goes to the context's warn hook. */
void plt_ctx_warn(struct plt_ctx *ctx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the driver ------------------------------------------------------------------------------ */

enum {
	PLT_DRIVER_BACKING = 1 << 0,    /* can record a backing file */
	PLT_DRIVER_COMPRESS = 1 << 1,   /* place(COMPRESSED) */
	PLT_DRIVER_BITMAPS = 1 << 2,
	PLT_DRIVER_SNAPSHOTS = 1 << 3,  /* internal */
	PLT_DRIVER_NO_HEADER = 1 << 4,  /* raw: nothing marks an incomplete image */
	PLT_DRIVER_HOST_HOLES = 1 << 5, /* a hole in the file is known to be zero (raw): status asks */
	PLT_DRIVER_NOT_ZEROED = 1 << 6, /* a new image reads as anything (what zeros are decrypted to) */
	PLT_DRIVER_PARTS = 1 << 8,      /* over another image a unit may be here in part: a small write copies nothing */
	PLT_DRIVER_FEATURES = 1 << 9,   /* images claim features, of which some may be unknown: plt_ctx_ignored_features() */
	PLT_DRIVER_MENDS = 1 << 7,      /* examine looks at ex->mend; with NO_HEADER: what the guest keeps is mended */
};

struct plt_open_how {
	const struct plt_opts *opts;    /* open-time options of this driver, may be NULL */
	bool writable;
	bool check;                     /* opened by check: what would refuse writing is no error */
	bool no_refs;                   /* open no data file, extent or parent */
	bool no_key;                    /* ask for no secret: no data will be read */
	const char *snapshot;           /* internal snapshot to show (id or name), NULL: the active layer */
	const char *snapshot_id, *snapshot_name; /* more exact: both must match if both are given */
	struct plt_store *data_file;    /* given instead of the recorded one (reference stays the caller's) */
};

struct plt_create {
	struct plt_ctx *ctx;
	struct plt_store *file;         /* empty and writable */
	struct plt_store *data_file;    /* if the options name one: already opened and empty */
	const struct plt_opts *opts;    /* every create option, defaults filled in */
	uint64_t size;
	struct plt_image *backing;      /* the backing file the options name, open; NULL: none, or not to be opened */
	const char *name;               /* final name of the image, for messages */
	/*
	 * The files are thrown away: only what would be refused is wanted.  All is checked, nothing is
	 * reserved, and no more need be written than it takes to find out.
	 */
	bool trial;
};

struct plt_bitmap_info {
	char *name;
	uint32_t granularity;
	bool inconsistent;              /* its content cannot be trusted */
	bool enabled;                   /* records what is written */
};

/* A persistent bitmap as it is to be. */
struct plt_bitmap_wish {
	struct plt_bitmap_info info;    /* .inconsistent: only with .keep */
	int keep;                       /* its content is that of this one of bitmaps(), whose granularity is the same; -1: */
	const uint64_t *bits;           /* what is set: bit n of word n / 64 is granule n */
};

struct plt_snapshot_info {
	char *id, *name;
	uint64_t vm_state_size, disk_size;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	int64_t icount;                 /* -1: none */
};

#define PLT_ID_TEXT 64

/* Who an image is, and who its parent was when it was made. */
struct plt_identity {
	char own[PLT_ID_TEXT], parent[PLT_ID_TEXT]; /* "" where there is none */
	int64_t parent_time;            /* when the parent was written last then, or made; since 1970; -1: not known */
	bool hidden;                    /* marked as one on which others are to stand, and no guest */
};

/* Of set_backing. */
enum {
	PLT_BACKING_TRIAL = 1 << 0, /* do nothing, say only whether it could be recorded */
	PLT_BACKING_SAME = 1 << 1,  /* what the image does not hold itself, the new one shows as the old one does */
};

enum plt_amend_phase { PLT_AMEND_FIRST, PLT_AMEND_LAST };

struct plt_driver {
	const char *name;               /* as qemu-img calls it */
	const char *alias;              /* or NULL */
	unsigned flags;
	const struct plt_opt_desc *create_opts; /* ends with .name == NULL */
	const struct plt_opt_desc *open_opts;   /* ends with .name == NULL; may be NULL */

	/* 0..100: how sure; @buf holds the first @len bytes (up to 2048), @size the store's length. */
	int (*probe)(const uint8_t *buf, size_t len, uint64_t size);

	/*
	 * Reads and validates; fills the image's fields.  Loads no table whole.  On failure releases
	 * all it has taken.  Must not write, save what `first_write` does not cover: nothing.
	 */
	int (*open)(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err);
	/*
	 * Everything is drained and (if writable and no sync had failed) flushed when it is called.
	 * Writes what marks the image as cleanly closed, syncs, releases memory always.
	 */
	int (*close)(struct plt_image *img, struct plt_error *err);

	/*
	 * Blocking, both optional.  The recorded backing file is about to be opened: a driver whose format
	 * has several names for it tries them (plt_ref_open) and puts the right one into
	 * img->backing_name.  It, or one that the user gave instead, has been opened: is it the one?
	 */
	int (*find_backing)(struct plt_image *img, struct plt_error *err);
	int (*check_backing)(struct plt_image *img, struct plt_image *below, struct plt_error *err);
	/*
	 * Of a format that records who the backing file is, and refuses another with -ESTALE: the open option that takes it
	 * all the same; and to make @below, an open image, the one that the header in @file, an overlay, records.
	 */
	const char *any_parent;
	int (*adopt_parent)(struct plt_store *file, struct plt_image *below, struct plt_error *err);

	/* data path (see the top of this file) */
	int (*map)(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len,
		   struct plt_runs *runs, struct plt_need *need, struct plt_error *err);
	int (*place)(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req,
		     struct plt_place *ret, struct plt_need *need, struct plt_error *err);
	void (*publish)(struct plt_image *img, struct plt_place *place);
	void (*withdraw)(struct plt_image *img, struct plt_place *place);

	/*
	 * Blocking.  [off, off+len) is whole allocation units (the last may be cut by the image's
	 * end) under the range lock; for write_zeroes also zero units within one allocation unit.  write_zeroes makes it read zeros, with @unmap giving space
	 * back; discard may leave the old content or zeros, but never lets a backing file show.
	 * *ret_done (from 0 upward, always set) says how far it came; -EAGAIN with a need of kind LIMBO
	 * or WORK: the engine meets it and calls again for the rest.
	 * -ENOTSUP: the engine writes zeros (or, for discard, does nothing).  NULL and IN_PLACE data: the
	 * engine uses the store's zero and discard.
	 */
	int (*write_zeroes)(struct plt_image *img, uint64_t off, uint64_t len, bool unmap, uint64_t *ret_done,
			    struct plt_need *need, struct plt_error *err);
	int (*discard)(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
		       struct plt_need *need, struct plt_error *err);
	/*
	 * As discard, but the range becomes absent: what lies below, which is the same, shows.  -ENOTSUP: not in this
	 * image.  NULL: the format has no such entry.
	 */
	int (*uncover)(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done, struct plt_need *need,
		       struct plt_error *err);
	/* Lower the counts of what left the limbo, punch, and make it reusable.  Blocking. */
	int (*release)(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind, struct plt_error *err);
	/* What place or map asked for by PLT_NEED_WORK. */
	int (*work)(struct plt_image *img, int code, uint64_t arg, struct plt_error *err);
	/* Once, durable before the first change by the guest. */
	int (*first_write)(struct plt_image *img, struct plt_error *err);
	/*
	 * [off, off+len) has been written, zeroed or discarded, or the attempt failed: dirty bitmaps.
	 * Any thread, before the request completes; no lock held.  NULL: nothing to record.
	 */
	void (*written)(struct plt_image *img, uint64_t off, uint64_t len);
	/*
	 * Before each sync of the image's file by the engine, while requests may be under way: what must be
	 * durable with it.  NULL: nothing.
	 */
	int (*before_sync)(struct plt_image *img, struct plt_error *err);
	/*
	 * Both behind the gate, epochs drained, nobody else in the image.  grow comes first when the disk
	 * becomes larger (NULL: nothing to do): afterwards offsets up to @size can be placed, and nothing
	 * that lay beyond the old end shows; the file still says the old size.  Then the engine sets
	 * img->size and writes zeros into the rest of the last allocation unit, and where a backing
	 * file would show through.  resize makes the new size durable, smaller or larger, with all
	 * that has been written for it; @preallocation is NULL or a mode that the format knows or
	 * refuses (-ENOTSUP).  resize sets img->size.
	 */
	int (*grow)(struct plt_image *img, uint64_t size, struct plt_error *err);
	int (*resize)(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err);

	/*
	 * Amend: in PLT_AMEND_FIRST everything is judged and then all is done but what must come after a
	 * resize (PLT_AMEND_LAST).  The caller is exclusive, and passes only options of amend_opts.
	 * *ret_plain: between the two the engine turns zero clusters over a backing file into data.
	 * Options of key slots ("state" and so on, or "encrypt.state") are the engine's: it changes what
	 * `luks` returns.  A driver with no others has a table and no function.
	 */
	const struct plt_opt_desc *amend_opts; /* ends with .name == NULL */
	int (*amend)(struct plt_image *img, const struct plt_opts *opts, enum plt_amend_phase phase, bool *ret_plain,
		     struct plt_error *err);

	/* whole-image work */
	int (*create)(const struct plt_create *how, struct plt_error *err);
	/* Bytes that an image of @size with @data bytes in whole units would take; both may be the same. */
	int (*measure)(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
		       uint64_t *ret_full, struct plt_error *err);
	/*
	 * What @n bitmaps of a source of @size bytes would take besides.  NULL, -ENOTSUP: an image with
	 * these options cannot have any.
	 */
	int (*measure_bitmaps)(const struct plt_opts *opts, uint64_t size, const struct plt_bitmap_info *v,
			       unsigned n, uint64_t *ret);
	/* "format-specific": {"type":…, "data":{…}}, a new reference, NULL if there is nothing to say. */
	json_t *(*info)(struct plt_image *img);
	/* NULL: it records none. */
	void (*identity)(struct plt_image *img, struct plt_identity *ret);
	uint32_t (*cluster_size)(struct plt_image *img); /* 0: none */
	/* Blocking: at least @n clusters of the file are in use by the format.  NULL: all that it is long. */
	bool (*uses_at_least)(struct plt_image *img, uint64_t n);
	uint64_t (*vm_state_offset)(struct plt_image *img); /* behind the guest's disk; NULL: it keeps none */
	/* Blocking, nobody else in the image: let place reach up to the guest offset @end, behind the disk. */
	int (*vm_state_room)(struct plt_image *img, uint64_t end, struct plt_error *err);
	bool (*dirty_flag)(struct plt_image *img);
	enum plt_codec (*codec)(struct plt_image *img); /* of place(COMPRESSED); NULL or NONE: cannot */
	int (*snapshots)(struct plt_image *img, const struct plt_snapshot_info **ret, unsigned *ret_n);
	/*
	 * Internal snapshots made, deleted and gone back to; @index as in what snapshots() lists.  Durable on
	 * return.  Nobody else changes the image meanwhile; to apply one nobody else is in it.  create: .id NULL is
	 * a new one, .disk_size is ignored.  apply sets img->size.
	 */
	int (*snapshot_create)(struct plt_image *img, const struct plt_snapshot_info *info, struct plt_error *err);
	int (*snapshot_delete)(struct plt_image *img, unsigned index, struct plt_error *err);
	int (*snapshot_apply)(struct plt_image *img, unsigned index, struct plt_error *err);
	/* Persistent dirty bitmaps; valid until they change.  NULL, -ENOTSUP: this image can have none. */
	int (*bitmaps)(struct plt_image *img, const struct plt_bitmap_info **ret, unsigned *ret_n);
	/* What is set in the @i-th: bit n of word n / 64 is granule n.  free() it. */
	int (*bitmap_read)(struct plt_image *img, unsigned i, uint64_t **ret, uint64_t *ret_nbits,
			   struct plt_error *err);
	/*
	 * These and no others, in this order; what bitmaps() has listed is void then.  Durable on return; a
	 * failure, or a power cut, leaves the bitmaps that there were.  The caller is exclusive.
	 */
	int (*bitmaps_set)(struct plt_image *img, const struct plt_bitmap_wish *v, unsigned n, struct plt_error *err);
	/*
	 * Find everything wrong in the structure.  Takes stores, not an open image: the image may not
	 * open.  Findings go to ex->emit().  -ENOTSUP where a format has nothing to check.
	 */
	int (*examine)(struct plt_examine *ex, struct plt_error *err);
	/*
	 * Journals that other programs of this format leave beside an image: what is appended to its name, or to that
	 * without its last suffix (ends with NULL); and to do in @file, an overlay, what one says.  1: done, and
	 * @ret_text says what; 0: it is none, or not this image's, or there is nothing to be done; -EUCLEAN: it is damaged,
	 * and nothing was written.
	 */
	const char *const *journals;
	int (*replay)(struct plt_store *file, struct plt_store *journal, char *ret_text, size_t len, struct plt_error *err);
	/*
	 * Is @file an image of this format though its header is gone?  Looks through the whole file, at the speed of the
	 * medium and in bounded memory; @quick: at some sectors that are in their usual places, and no more.  1, 0 or an
	 * errno.  Asked only of what nobody's probe knows, and what has no partition table or filesystem of its own at its
	 * beginning.  NULL: an image without a header is not known.
	 */
	int (*recognise)(struct plt_ctx *ctx, struct plt_store *file, bool quick, struct plt_error *err);
	/*
	 * Of an image in @file: the name of the file that has its data, malloc'ed (*ret_name NULL: it records none), and how
	 * far that is mapped; -ENOENT: it has its data itself.  And to record another, by its name beside the image, in
	 * @file, an overlay.  NULL: the format has no such thing.
	 */
	int (*data_file)(struct plt_store *file, char **ret_name, uint64_t *ret_end, struct plt_error *err);
	int (*set_data_file)(struct plt_store *file, const char *name, struct plt_error *err);
	/* Record in @file, an overlay, that the image stands on @name.  NULL: by set_backing() of an open image only. */
	int (*name_backing)(struct plt_store *file, const char *name, const char *format, struct plt_error *err);
	/*
	 * Record in @file, an overlay, that the disk of the image has @size bytes, for which its map is large enough
	 * (plt_mend.behind).  NULL: nobody but the driver can tell the size.
	 */
	int (*set_size)(struct plt_store *file, uint64_t size, struct plt_error *err);
	/*
	 * Make the image in @overlay show piece i of @p at the guest offset i * p->span, and nothing else: what is in
	 * them can be read then, whatever encodes it.
	 */
	int (*show_pieces)(struct plt_store *overlay, const struct plt_orphans *p, struct plt_error *err);
	/*
	 * The large pieces by which the active disk is mapped, tables or blocks, of which a few bytes name each: .span is what
	 * of the guest one of them covers, .v those that there are, ascending by place.  NULL: there are none such.
	 */
	int (*map_pieces)(struct plt_ctx *ctx, struct plt_store *file, struct plt_orphans *ret, struct plt_error *err);
	/* The LUKS header of an open image, whose key slots may be changed; NULL: it has none, or was not read. */
	struct plt_luks *(*luks)(struct plt_image *img);
	/*
	 * Give back what lies in the file and belongs to nothing; *ret: the bytes, which with @trial are only counted.
	 * The caller is exclusive, and has found the counts to be right.  NULL: the format keeps no account of it.
	 */
	int (*trim)(struct plt_image *img, bool trial, uint64_t *ret, struct plt_error *err);
	/*
	 * What the image has (it has been committed) goes: everything is absent.  The caller is exclusive, and what lies
	 * below holds the same, durably: a cut may leave any part of it done.  Space is given back.  @trial: do nothing,
	 * say only whether it could be done.
	 */
	int (*make_empty)(struct plt_image *img, bool trial, struct plt_error *err);
	/*
	 * Change what the header says of the backing file (rebase); @name NULL: there is none.  Durable on return; a
	 * failure or a power cut leaves what it said, or the new one: then, with PLT_BACKING_SAME, the disk shows the same
	 * at every moment.  The caller is exclusive.
	 */
	int (*set_backing)(struct plt_image *img, const char *name, const char *format, unsigned flags,
			   struct plt_error *err);
};

/* formats/registry.c: the one table of drivers, in probe order. */
extern const struct plt_driver *const plt_drivers[];
const struct plt_driver *plt_driver_find(const char *name); /* by name or alias; NULL */
/* A format that is in the table or that QEMU has: what an image may record of its backing file. */
bool plt_format_is_known(const char *name);
/* EINVAL for a format that is not in the table; says what there is instead of one that QEMU has. */
int plt_format_unknown(const char *name, struct plt_error *err);

#endif
