/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BLOCK_ENGINE_H
#define PLT_BLOCK_ENGINE_H

/*
 * Private types of the block layer, and the order of its locks.
 *
 * A request is a small tree of *frames* (struct plt_io), each a state machine over one guest range of
 * one image.  frame->step() is called whenever the frame may be able to move; it runs on the thread
 * that owns the frame's queue, submits operations to the queue's ring, and returns when it must wait.
 *
 * What a request may wait for, in this order and never backwards:
 *
 *	exclusive operation (gate)  >  range lock  >  epoch  >  pins
 *
 * A frame that must wait for one of the first two drops its pins, leaves its epoch, gives up its
 * range lock, and starts again from map.  Inside an epoch only I/O (and frames of deeper layers) is
 * awaited.
 *
 * Mutexes, outermost first.  None is held across I/O except flush_lock and work_lock:
 *
 *	engine.work_lock    driver->work, first_write            (blocking code only)
 *	engine.flush_lock   write-back and sync of one image     (blocking code only)
 *	image.lock          the driver's memory, dirty blocks, limbo
 *	cache.lock          slots, hash, loads, slot waiters
 *	engine.lock         gate, range locks, epoch waiters
 *	queue.lock          frames that have been woken
 */
#include <inttypes.h>
#include <pthread.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/error.h"
#include "base/extents.h"
#include "base/iov.h"
#include "base/pool.h"
#include "block/internal.h"
#include "formats/driver.h"
#include "io/ring.h"
#include "io/store.h"

struct plt_io;
struct plt_queue;
struct plt_cache;

#define PLT_OPEN_UNFINISHED (1u << 31) /* with the public ones: a repair that was interrupted does not refuse writing */

/* ---- lists of waiting frames ----------------------------------------------------------------- */

struct plt_io_list {
	struct plt_io *head, **tail; /* tail is set up by the first push */
};

void plt_io_list_push(struct plt_io_list *l, struct plt_io *io);
struct plt_io *plt_io_list_pop(struct plt_io_list *l);
/* Wake every frame on the list (it is emptied). */
void plt_io_list_wake(struct plt_io_list *l);

/* ---- context --------------------------------------------------------------------------------- */

struct plt_ctx {
	struct plt_pool *pool;
	struct plt_cache *cache;
	enum plt_policy policy;
	char **allow_dirs;
	struct plt_named_secret *secrets; /* lock */
	void (*warn)(void *arg, const char *text);
	void *warn_arg;
	plt_opener_fn opener;          /* NULL: plt_file_open() */
	void *opener_arg;
	uint64_t ignore_features;
	_Atomic bool features_met;     /* an image that may claim some has been opened */

	pthread_mutex_t lock;
	struct plt_queue *idle_queues; /* blocking calls take one and give it back */
	unsigned images;               /* open ones */
};

/* secret.c */
void plt_secrets_free(struct plt_ctx *ctx);
/* keys.c: how many of the options of amend are of key slots; and what they ask for. */
unsigned plt_keys_options(const struct plt_driver *drv, const struct plt_opts *opts);
int plt_keys_amend(struct plt_image *img, const struct plt_opts *opts, bool force, bool rehearse,
		   struct plt_error *err);

/* ---- cache ----------------------------------------------------------------------------------- */

#define PLT_BLOCK_EDGES 16
#define PLT_BLOCK_DEAD 0x80000000u /* in pins: being evicted, no new pin */

enum plt_block_state { PLT_BLOCK_FREE, PLT_BLOCK_LOADING, PLT_BLOCK_VALID, PLT_BLOCK_FAILED };

struct plt_edge {
	struct plt_block *before; /* block edge; NULL: a sync edge */
	uint64_t version;
	struct plt_store *store;  /* sync edge */
	uint64_t mark;
};

struct plt_block {
	/* key; written while the slot is DEAD, under cache.lock */
	struct plt_engine *_Atomic owner;
	_Atomic uint64_t off;
	struct plt_block *_Atomic hash_next;
	_Atomic uint32_t pins;
	_Atomic int state;
	_Atomic bool used;         /* second chance */
	_Atomic bool dirty;        /* image lock; read by eviction */
	_Atomic int dependents;    /* edges of other blocks that name this one */
	_Atomic uint64_t written_mark; /* sync mark of the store when it was last written */
	_Atomic bool written_ever;
	_Atomic unsigned seq;      /* odd: a multi-word change is under way */
	const struct plt_meta_type *type;
	uint8_t *data;
	uint32_t len;
	bool overflow;             /* a slot beyond the budget */

	/* image lock */
	uint64_t version, written; /* dirty: version > written */
	uint64_t dirty_seq;        /* engine.dirty_seq when it became dirty */
	bool writing;
	struct plt_block *dirty_next, *dirty_prev;
	struct plt_edge edge[PLT_BLOCK_EDGES];
	unsigned nedges;
	bool wanted;               /* a flush has waited for it long enough: no new edges */
	uint64_t lower_upto;       /* not 0: waits for all of lower rank that was dirty at this dirty_seq */

	/* cache.lock */
	bool load_started;
	int load_error;
	struct plt_error load_text;
	struct plt_io_list waiters;
	struct plt_block *all_next;
};

int plt_cache_new(struct plt_ctx *ctx, uint64_t bytes, struct plt_cache **ret);
void plt_cache_free(struct plt_cache *cache);
/* Before the driver closes: no other image's request writes back blocks of this one from here on. */
void plt_cache_retire(struct plt_ctx *ctx, struct plt_engine *eng);
/* Drop every block of an image that is being closed; dirty ones too. */
void plt_cache_drop_image(struct plt_ctx *ctx, struct plt_engine *eng);
/*
 * For the frame that has PLT_NEED_LOAD: true if this frame must read the block and call
 * plt_cache_loaded(); false if it has been queued and will be woken, or (*ret_ready) may go on now.
 */
bool plt_cache_load_begin(struct plt_ctx *ctx, struct plt_block *b, struct plt_io *io, bool *ret_ready);
/* @buf holds what was read, or @error says why not.  Validates, publishes, wakes.  The first caller wins. */
void plt_cache_loaded(struct plt_engine *eng, struct plt_block *b, const void *buf, int error,
		      const struct plt_error *text);
/*
 * Slots beyond the budget.  At each depth one frame at a time holds the privilege to take them (at
 * most PLT_PINS_MAX), first come first served, so that under the smallest budget the deepest layer
 * always moves.  slot_wait: true if @io holds it now, false if it is queued and will be woken as the
 * holder.  slot_done: pass it on.
 */
bool plt_cache_slot_wait(struct plt_io *io);
void plt_cache_slot_done(struct plt_io *io);
/*
 * Blocking: write back dirty blocks of images at @eng's depth or deeper, its own first, so that slots
 * become free.  0, or the error of the write-back.
 */
int plt_cache_make_room(struct plt_engine *eng, struct plt_error *err);
void plt_block_unpin(struct plt_block *b);
/*
 * A block that the cache has not got, for the caller to load: pinned once, nobody's request.  NULL: it has it,
 * or has no slot to spare.
 */
struct plt_block *plt_cache_reserve(struct plt_engine *eng, const struct plt_meta_type *type, uint64_t off);
/* It could not be loaded: the cache has not got it, whoever waits for it tries himself. */
void plt_cache_unreserve(struct plt_engine *eng, struct plt_block *b);
/* Of a block that the caller has pinned: 0, or why its last load failed. */
int plt_cache_load_result(struct plt_engine *eng, struct plt_block *b, struct plt_error *err);
/* The load that had begun is none: who needs the block begins another. */
void plt_cache_load_again(struct plt_engine *eng, struct plt_block *b);
uint64_t plt_cache_budget(const struct plt_ctx *ctx); /* slots */

/* ahead.c: a load that takes along what follows in the table. */
#define PLT_AHEAD_MAX 128 /* blocks */
struct plt_ahead {
	unsigned n;
	struct plt_block *v[PLT_AHEAD_MAX];
};
/* *@b is about to be loaded: how many bytes from its offset on are to be read; *ret NULL: only its own. */
size_t plt_ahead_begin(struct plt_image *img, struct plt_block *b, struct plt_ahead **ret);
/* As plt_cache_loaded(), for all of them.  @ahead (or NULL) is the caller's to free. */
void plt_ahead_end(struct plt_image *img, struct plt_block *b, struct plt_ahead *ahead, const uint8_t *buf, int error,
		   const struct plt_error *text);

/* ---- per image ------------------------------------------------------------------------------- */

struct plt_range_lock {
	uint64_t off, end;
	struct plt_io *io;
	struct plt_range_lock *next, *prev;
	bool held;
};

struct plt_limbo_entry {
	uint64_t off, len;
	unsigned kind;
};
#define PLT_LIMBO_MAX PLT_LIMBO_CAPACITY

struct plt_engine {
	struct plt_image *img;
	struct plt_image *backing;     /* the layer below, owned; NULL: none */
	struct plt_skip *_Atomic skip; /* skip.c */
	bool fixed_below, skips;       /* nothing below is written; what is not there is remembered */
	struct plt_rescue *rescue;     /* it is looked at through a plan; NULL: as it is */
	unsigned depth;
	unsigned file_flags;           /* PLT_FILE_* of the cache mode, for references */
	char *key;                     /* the option that names the secret of what it encrypts; NULL: none was given */
	bool own_refs;                 /* the user has named what the image names: no policy */
	bool guard_probe;              /* raw by guess: no format header may be written */
	bool copy_on_read;             /* what reads find below is brought in; set before the first request */

	/* epochs (epoch.c).  A request is in epoch i if it has counted itself in in_epoch[i & 1]. */
	_Atomic uint32_t epoch;
	_Atomic long in_epoch[2];
	_Atomic bool draining;

	pthread_mutex_t lock;
	struct plt_io_list drain_now, drain_next; /* waiting for the present drain; for the one after it */

	/* gate */
	_Atomic int gate;              /* 0 open, 1 what changes parks, 2 everything parks */
	struct plt_io *gate_owner;
	struct plt_io_list gate_parked, gate_wanted;
	pthread_cond_t gate_opened;    /* plt_epoch_enter_wait() */

	/* range locks, in order of arrival */
	struct plt_range_lock *ranges, *ranges_tail;

	/* dirty blocks (writeback.c), image lock */
	struct plt_block *dirty;
	uint64_t dirty_seq;
	unsigned ndirty;

	/* limbo, image lock */
	struct plt_limbo_entry *limbo;
	unsigned nlimbo;

	pthread_mutex_t flush_lock, work_lock;
	_Atomic bool started;          /* first_write is done */
	_Atomic bool changed;          /* something has been written since the last successful flush */
	_Atomic int host_holes;        /* status.c: 0 not known yet, 1 not worth asking, 2 ask */
	/* a block was evicted that had been written while the file's sync mark was evicted_mark */
	_Atomic bool evicted;
	_Atomic uint64_t evicted_mark;
	/* read-ahead: where the next load begins if tables are gone through in order; the last one's blocks */
	_Atomic uint64_t ahead_at;
	_Atomic unsigned ahead_n;
	_Atomic bool ahead_off;        /* one has failed: each block for itself */
	unsigned users;                /* cache.lock: write-backs of this image by others under way */
	bool retired;                  /* cache.lock: no more of them */
};

static inline struct plt_engine *plt_engine_of(const struct plt_image *img)
{
	return img->engine;
}

int plt_engine_new(struct plt_image *img);
void plt_engine_free(struct plt_engine *eng);

/* epoch.c */
unsigned plt_epoch_enter(struct plt_engine *eng);
void plt_epoch_leave(struct plt_engine *eng, unsigned which);
/* True: already drained.  False: @io will be woken when every request now in an epoch has left. */
bool plt_epoch_drained(struct plt_engine *eng, struct plt_io *io);
/* Enter the gate's closed state for @io; false: queued, will be woken as its owner. */
bool plt_gate_close(struct plt_engine *eng, struct plt_io *io, int level);
void plt_gate_open(struct plt_engine *eng, struct plt_io *io);
/*
 * The gate closed at @level by @io, and all who were inside gone.  False: it waits, and its step() will be
 * called; then ask again.  plt_io_finish() opens the gate, or plt_io_share().
 */
bool plt_io_alone(struct plt_io *io, int level);
void plt_io_share(struct plt_io *io);
/*
 * Enter the image's epoch if the gate lets the frame pass; false: parked, will be woken and must
 * start again.
 */
bool plt_io_enter(struct plt_io *io);
/* A frame above this one holds the gate of the same image: it passes, and has what the gate gives. */
bool plt_io_under_gate(const struct plt_io *io);
/* Blocking, for those who are in no frame: enter the epoch when the gate lets readers pass. */
unsigned plt_epoch_enter_wait(struct plt_engine *eng);
void plt_io_leave(struct plt_io *io);

/* range.c */
bool plt_range_lock(struct plt_io *io, uint64_t off, uint64_t len); /* whole allocation units; false: queued */
bool plt_range_lock_unit(struct plt_io *io, uint64_t off, uint64_t len, uint64_t unit); /* the same for other units */
void plt_range_unlock(struct plt_io *io);

/* flush.c, blocking: what had completed before is durable afterwards; limbo is left alone. */
int plt_image_flush(struct plt_image *img, struct plt_error *err);

/* limbo.c: what the states of PLT_NEED_LIMBO call */
int plt_limbo_take(struct plt_image *img, struct plt_limbo_entry **ret, unsigned *ret_n);
int plt_limbo_release(struct plt_image *img, struct plt_limbo_entry *v, unsigned n, struct plt_error *err);

/* writeback.c: forget that @b is dirty, and its edges (image lock held) */
void plt_block_discard(struct plt_block *b);

/* ---- frames ---------------------------------------------------------------------------------- */

enum plt_io_kind { PLT_IO_READ_REQ, PLT_IO_WRITE_REQ, PLT_IO_COMPRESSED_REQ, PLT_IO_COPY_REQ, PLT_IO_ZERO_REQ,
		   PLT_IO_DISCARD_REQ, PLT_IO_FLUSH_REQ, PLT_IO_RESIZE_REQ, PLT_IO_VMSTATE_REQ,
		   PLT_IO_EXCLUSIVE_REQ };
#define PLT_IO_VMSTATE_WRITE 1u /* flag of PLT_IO_VMSTATE_REQ */
#define PLT_IO_UNCOVER 1u       /* flag of PLT_IO_DISCARD_REQ: plt_disk_uncover() */
#define PLT_IO_READS_PASS 1u    /* flag of PLT_IO_EXCLUSIVE_REQ: the gate is closed to changes only */

#define PLT_IO_RUNS 16
#define PLT_OP_IOVS 4

/* One operation of a frame; taken from the queue's free list. */
struct plt_io_op {
	struct plt_op op;
	struct plt_io *io;
	struct plt_io_op *next_free;
	void (*fn)(struct plt_io *io, struct plt_io_op *iop); /* on completion, before step */
	struct iovec iov[PLT_OP_IOVS], *iov_heap;
	void *buf;              /* a bounce buffer, freed with the op */
	struct plt_block *block;
	struct plt_ahead *ahead; /* freed with the op */
	struct plt_run run;
	int (*work)(struct plt_io *io, struct plt_io_op *iop);
	uint64_t a, b;
	struct plt_error err;
};

struct plt_io {
	struct plt_queue *q;
	struct plt_io *parent;
	struct plt_image *img;
	struct plt_engine *eng;
	enum plt_io_kind kind;
	void (*step)(struct plt_io *io);
	void (*done)(struct plt_io *io); /* the frame is freed after it returns */
	void *arg;

	uint64_t off, len;      /* the frame's guest range */
	uint64_t pos;           /* how far it has come */
	struct plt_engine *top; /* of a read below: the image that was read; NULL: this one */
	unsigned skipped;       /* layers below that one which are not, or were not, asked */
	bool learns;            /* each of those has nothing in the whole unit */
	const struct iovec *iov;
	int niov;
	size_t iov_off;         /* where the frame's range starts in iov */
	unsigned flags;
	int level;              /* compression */
	enum plt_io_tag tag;    /* of reads: DATA, or COW */

	unsigned pending;       /* operations and child frames under way */
	int result;             /* first error */
	struct plt_error err;
	unsigned state;

	/* what it holds, in the order of waiting */
	bool owns_gate, drained; /* plt_io_alone() */
	struct plt_range_lock range;
	bool has_range;
	bool in_epoch;
	unsigned epoch;
	struct plt_pins pins;

	struct plt_need need;
	unsigned slot_tries;
	void (*saved_step)(struct plt_io *io); /* while a need is met by a state machine of its own */
	int meet;
	bool limbo_tried;
	struct plt_limbo_entry *limbo; /* being released */
	unsigned nlimbo;

	struct plt_run run[PLT_IO_RUNS];
	struct plt_runs runs;

	/* writes */
	void (*on_place)(void *arg); /* called once, when everything has its place */
	void *on_place_arg;
	struct plt_place place;
	bool placed;
	uint8_t *head_buf, *tail_buf, *comp_buf;
	struct iovec head_iov, tail_iov, zero_iov;
	uint8_t *copy_buf;      /* of a copy: what is brought in */
	struct iovec copy_iov;
	bool copied;            /* of a read: what was below has been brought in */
	uint64_t comp_len;
	bool head_zero, tail_zero;
	bool all_zero;          /* reads: nothing but zeros has been met */
	bool compressed;
	bool guarded, guard_passed; /* a write to the head of a guessed raw image: holds its range; has been looked at */

	/* zeroes and discards: the part under way */
	uint64_t part_end, work_done;
	int units_result;
	bool part_units, part_small, part_zero, looked, declined;

	/* resizes */
	const char *preallocation;
	bool shown;             /* img->size says the new size already */

	int (*exclusive)(struct plt_image *img, void *arg, struct plt_error *err);
	void *exclusive_arg;

	struct plt_io *next;    /* on a list of waiting frames, the ready list or the free list */
	struct plt_io *live_next, **live_prev; /* on queue.live; live_prev NULL: not there */
	bool woken;
};

/*
 * Belongs to one thread: that one starts requests, polls, and frees it.  While it has requests in flight on
 * a disk, the thread makes no blocking call on that disk, not even from a completion: the call might wait
 * for what only polling ends (a range, the gate, a drain).  Asserted in plt_run_request().
 */
struct plt_queue {
	struct plt_ctx *ctx;
	struct plt_ring *ring;
	bool is_inline;
	pthread_mutex_t lock;
	struct plt_io_list ready;
	struct plt_io *free_ios;
	struct plt_io_op *free_ops;
	struct plt_queue *next;

	/* submit.c: what a caller of the public interface has under way, and what has completed */
	struct plt_slot *free_slots, *completed, *completed_last;
	unsigned pending;
	struct plt_io *live;         /* requests in flight, unless it is inline */
	struct plt_queue *busy_next; /* among the queues of this thread that have such */
};

/* queue.c */
/* Does the calling thread have requests in flight on @img, or on an image above it? */
bool plt_queue_busy_with(const struct plt_image *img);
int plt_queue_new(struct plt_ctx *ctx, struct plt_ring *ring /* owned from now on */, bool is_inline,
		  struct plt_queue **ret);
void plt_queue_free(struct plt_queue *q);
struct plt_queue *plt_ctx_take_queue(struct plt_ctx *ctx); /* an inline one; NULL: no memory */
void plt_ctx_give_queue(struct plt_ctx *ctx, struct plt_queue *q);
/* Run woken frames and reap; with @wait sleep until something happens.  Owner only. */
void plt_queue_poll(struct plt_queue *q, bool wait);

struct plt_io *plt_io_new(struct plt_queue *q, struct plt_io *parent, struct plt_image *img, enum plt_io_kind kind);
void plt_io_free(struct plt_io *io);
void plt_io_start(struct plt_io *io);
/* Any thread: step() will be called on the owner. */
void plt_io_wake(struct plt_io *io);
/* Record an error (the first one stays). */
void plt_io_fail(struct plt_io *io, int error, const struct plt_error *text);
/* Everything it holds is given back; done() and the parent are called; the frame is freed. */
void plt_io_finish(struct plt_io *io);
/* Drop pins, leave the epoch, release the range lock. */
void plt_io_release(struct plt_io *io);

struct plt_io_op *plt_io_op_new(struct plt_io *io, void (*fn)(struct plt_io *, struct plt_io_op *));
void plt_io_op_submit(struct plt_io_op *iop);
/* Give an operation back that was not submitted. */
void plt_io_op_drop(struct plt_io_op *iop);
/* op.call for operations with a work(). */
int plt_io_op_call(struct plt_op *op);
/* A read or write of a slice of the frame's data: guest [off, off+len) at @host_off of @st. */
void plt_io_submit_data(struct plt_io *io, enum plt_op_kind kind, struct plt_store *st, uint64_t host_off,
			uint64_t off, uint64_t len, enum plt_io_tag tag);
/* CPU or blocking work: work() on a worker (inline queues: here), then fn() and step() on the owner. */
void plt_io_call(struct plt_io *io, int (*work)(struct plt_io *, struct plt_io_op *),
		 void (*fn)(struct plt_io *, struct plt_io_op *));

/* submit.c */
void plt_queue_free_slots(struct plt_queue *q);
/*
 * crypt.c: submit the reading of @run, or the encryption and writing of @run, whose bytes in [data,
 * data_end) are the request's; around them head_buf and tail_buf.  iv_sector is that of the sector in
 * which run->off lies.  At most PLT_CIPHER_WINDOW bytes a time are under way for one frame.
 */
#define PLT_CIPHER_WINDOW (UINT64_C(4) << 20)
void plt_io_read_cipher(struct plt_io *io, const struct plt_run *run);
void plt_io_write_cipher(struct plt_io *io, const struct plt_run *run, uint64_t data, uint64_t data_end);

/* need.c: meet io->need, then call step() again. */
void plt_io_meet(struct plt_io *io);
/* Make durable what is dirty, drain epochs, release what was in limbo; then step() from state 0. */
void plt_io_drain_limbo(struct plt_io *io);
/* Failed for want of space while some waits in limbo: take that and try again, once.  True: under way. */
bool plt_io_retry_space(struct plt_io *io);

/*
 * copyread.c: a read that brings in what lies below; and for the write frame of one such piece: its content
 * into copy_buf, and absent parts of it as zeros (units_result: -EAGAIN with a need, -ENOTSUP).
 */
bool plt_copies_on_read(const struct plt_io *io);
void plt_copy_on_read_step(struct plt_io *io);
void plt_copy_fetch(struct plt_io *io);
void plt_copy_zero(struct plt_io *io);

/*
 * skip.c: layers below an image that need not be asked.  init: the chain below is complete.  find: of the read of [off, +len)
 * below io's image, the first *ret_len bytes begin at *ret (NULL: nobody has anything), so many layers further
 * down than the next.  may_learn: all of it is in one unit.  learn: @run is absent in io's image, a layer below io->top: is all
 * the unit, so that the next layer may be asked about it too?
 */
void plt_skip_init(struct plt_image *img);
void plt_skip_free(struct plt_engine *eng);
unsigned plt_skip_find(struct plt_io *io, uint64_t off, uint64_t len, struct plt_image **ret, uint64_t *ret_len);
bool plt_skip_may_learn(const struct plt_io *io, uint64_t off, uint64_t len);
bool plt_skip_learn(struct plt_io *io, const struct plt_run *run);

/* read.c, write.c, zero.c, flush.c, resize.c: the frames */
void plt_read_step(struct plt_io *io);
void plt_write_step(struct plt_io *io);
void plt_compressed_step(struct plt_io *io);
void plt_zero_step(struct plt_io *io);
void plt_discard_step(struct plt_io *io);
void plt_flush_step(struct plt_io *io);
void plt_resize_step(struct plt_io *io);
void plt_vmstate_step(struct plt_io *io);
void plt_exclusive_step(struct plt_io *io);
/* Before the first change: driver->first_write, the raw guard, a poisoned store.  True: go on. */
bool plt_io_may_change(struct plt_io *io);
/* Does it change guest bytes? */
bool plt_io_changes_guest(const struct plt_io *io);
/*
 * What begins every request that has the image for itself: it may change the image (if it @changes it), limbo is
 * empty (with @limbo: the space in it may be needed), the gate is closed at @level and all have left.
 * 1: so it is; 0: it waits, and its step() will be called; negative: it has failed.
 */
int plt_io_take_image(struct plt_io *io, int level, bool changes, bool limbo);
void plt_io_placed(struct plt_io *io);
void plt_copy_read_done(struct plt_io *c);
struct plt_io *plt_io_child(struct plt_io *io, struct plt_image *img, enum plt_io_kind kind, uint64_t off,
			    uint64_t len);

/* ---- the disk -------------------------------------------------------------------------------- */

struct plt_disk {
	struct plt_ctx *ctx;
	struct plt_image *top;
	struct plt_disk *donor; /* NULL: none */
};

/* open.c; the layer @write_layer below the top (0: none) is opened for writing, whatever the top is */
int plt_image_open(struct plt_ctx *ctx, json_t *tree, const struct plt_open_options *opts, unsigned write_layer,
		   struct plt_image **ret, struct plt_error *err);
/* Over an open store (which keeps its references); @format NULL: look. */
int plt_image_open_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			 const struct plt_open_options *opts, struct plt_image **ret, struct plt_error *err);
int plt_image_close(struct plt_image *img, struct plt_error *err);
/* What @plan has made of a file of @file_size bytes, which is locked; @plan is taken over. */
int plt_image_open_planned(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, const char *name,
			   const struct plt_open_options *opts, struct plt_image **ret, struct plt_error *err);

/* disk.c: put @base (given away) below @img, before the first request */
void plt_image_attach_backing(struct plt_image *img, struct plt_image *base);

/* scratch.c: the image of @tree, read-only, below an overlay that nobody else sees and that goes with it */
int plt_scratch_open(struct plt_ctx *ctx, json_t *tree, const struct plt_open_options *opts, struct plt_image **ret,
		     struct plt_error *err);

/* rescue.c */
struct plt_rescue {
	struct plt_rescue_plan plan;  /* .doubts grows as reading finds more */
	pthread_rwlock_t lock;        /* plan.doubts, short_of_memory */
	struct plt_disk *donor;       /* the disk's, in its active layer; NULL: none */
	struct plt_extents donated;   /* lock: ranges that are read from it, whatever the map says */
	bool zero;                    /* what is lost reads as zeros, and is noted; else EIO */
	bool base_gone;               /* there is no backing file where there should be one */
	bool decoded;                 /* what is compressed has been looked at */
	bool short_of_memory;         /* something is not in the lists */
};
#define PLT_WHY_DAMAGED "the mapping is damaged"
#define PLT_WHY_CUT "it lies behind the end of the file"
#define PLT_WHY_BASE "it lies in the backing file, which is missing"
#define PLT_WHY_MEDIUM "it cannot be read from the medium"
#define PLT_WHY_UNREAD "the table that says what is here cannot be read from the medium"
#define PLT_WHY_MORE "not looked at: more is mapped than the file has tables for"
#define PLT_WHY_FLAW "the compressed cluster is damaged"
/* The options for what an image stands on: @buf, or NULL. */
const struct plt_rescue_options *plt_rescue_below(const struct plt_rescue_options *opts,
						  struct plt_rescue_options *buf);
/* @plan is taken over. */
int plt_rescue_new(struct plt_image *img, struct plt_rescue_plan *plan, bool zero);
void plt_rescue_free(struct plt_rescue *rsc);
/* Add to the lists of the disk that @img shows. */
void plt_rescue_note(struct plt_image *img, enum plt_doubt_kind kind, uint64_t off, uint64_t len, const char *why);
/* The first part of [off, off+len) that is lost in this layer, or (PLT_INFERRED) taken from a donor, cut to it. */
bool plt_rescue_find(struct plt_image *img, uint64_t off, uint64_t len, struct plt_doubt *ret);
/* Has the plan said what is at @off, as inferred and no guess?  The same is true of *ret_len bytes, at most @len. */
bool plt_rescue_knows(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_len);
/*
 * How much of a run is there to be read from its beginning; what follows, *ret_lost bytes, is not.  The rest of the run is
 * to be asked for again.
 */
uint64_t plt_rescue_there(struct plt_image *img, const struct plt_run *run, uint64_t *ret_lost, const char **ret_why);
/* The run without its first @n bytes. */
void plt_run_skip(struct plt_run *run, uint64_t n);
/*
 * For a read frame: what is lost at io->pos is dealt with, and pos moves; up to where the map may be asked then
 * (a frame that has failed maps nothing).
 */
uint64_t plt_rescue_upto(struct plt_io *io, uint64_t end);
/* A part of a read frame's range cannot be had. */
void plt_rescue_lose(struct plt_io *io, uint64_t off, uint64_t len, const char *why);
/*
 * How much of a DATA or DAMAGED run is to be read; what is lost behind that is dealt with, and *ret_next is what is left of
 * the run then.
 */
uint64_t plt_rescue_run(struct plt_io *io, const struct plt_run *run, struct plt_run *ret_next);
/* @good bytes of a compressed unit came out; the rest is filled up, or the read fails. */
int plt_rescue_unit(struct plt_io *io, const struct plt_run *run, uint8_t *unit, size_t good, struct plt_error *err);
/* Decode what this layer has compressed, once: if its structure is damaged, or in any case. */
int plt_rescue_decode(struct plt_image *img, bool always, struct plt_error *err);

/*
 * unread.c: what of @img says that nothing is there by a table that could not be read is lost.  @file_size: of the image
 * before the plan.
 */
int plt_unread_find(struct plt_ctx *ctx, struct plt_image *img, uint64_t file_size, struct plt_error *err);

/* donor.c: open @name, and take from it what @disk has lost. */
int plt_donor_attach(struct plt_disk *disk, const char *name, struct plt_error *err);
/* A part of a read frame's range comes from the donor. */
void plt_donor_read(struct plt_io *io, uint64_t off, uint64_t len);
/* Blocking: what could not be read just now is taken from the donor from here on. */
bool plt_donor_gives(struct plt_image *img, uint64_t off, uint64_t len, const char *why);
/* Blocking: a read that has failed, sector by sector, and zeros for the rest.  And as a frame. */
int plt_rescue_read(struct plt_image *img, uint64_t off, uint64_t len, const struct iovec *iov, int niov,
		    struct plt_error *err);
void plt_rescue_step(struct plt_io *io);
/* Is there another way when a read has failed? */
static inline bool plt_rescue_helps(const struct plt_image *img)
{
	return img->engine->rescue && (img->engine->rescue->zero || img->engine->rescue->donor);
}

/* faults.c: the node of a blkdebug: rules over @below (a reference is taken) */
int plt_faults_open(const json_t *tree, struct plt_store *below, struct plt_store **ret, struct plt_error *err);
/* The image whose guest's bytes a raw node shows as they are, through rules and limits; or @img itself. */
struct plt_image *plt_image_shown(struct plt_image *img);
/* The blkdebug among the stores of @img, or NULL. */
struct plt_store *plt_faults_find(struct plt_image *img);

/* imagestore.c: an open image serves as a store; closes it with the store */
int plt_image_store_new(struct plt_image *img, struct plt_store **ret);
struct plt_image *plt_image_of_store(struct plt_store *st); /* NULL: it is no such store */

/* status.c: plt_image_map_wait() for one who is in the image's epoch already (a frame's work) */
int plt_image_map_inside(struct plt_image *img, uint64_t off, uint64_t len, struct plt_runs *runs,
			 struct plt_error *err);

/* sync.c: one request on this thread */
struct plt_request {
	enum plt_io_kind kind;
	uint64_t off, len;
	const struct iovec *iov;
	int niov;
	unsigned flags;
	int level;
	const char *preallocation;
	int (*exclusive)(struct plt_image *img, void *arg, struct plt_error *err);
	void *exclusive_arg;
	void (*on_place)(void *arg);
	void *on_place_arg;
};
int plt_run_request(struct plt_image *img, const struct plt_request *r, struct plt_error *err);
/* Inside the disk?  -EIO. */
int plt_image_check_range(struct plt_image *img, uint64_t off, uint64_t len, struct plt_error *err);
/* Can the disk be written compressed, and is this (inside it) one whole cluster? */
int plt_image_check_compressed(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned *ret_codec,
			       struct plt_error *err);

#endif
