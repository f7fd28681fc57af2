/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CONVERT_CONVERT_H
#define PLT_CONVERT_CONVERT_H

/*
 * What the files of convert/ share.  One piece of whole-image work is a crew of threads (base/crew.h) that take
 * the next piece from a walk over the images' extents, under the crew's lock, and work on it alone.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/crew.h"
#include "formats/options.h"
#include "io/store.h"
#include "platter.h"

/* The unit of work, unless a target's clusters ask for more. */
#define PLT_CHUNK (UINT64_C(1) << 20)

/* ---- source.c: several disks one after the other --------------------------------------------- */

enum plt_piece_kind {
	PLT_PIECE_DATA,   /* read it */
	PLT_PIECE_ZERO,   /* reads as zeros, whatever a backing file of the target holds */
	PLT_PIECE_ABSENT, /* left to the target's backing file */
};

struct plt_source {
	struct plt_disk *const *disks;
	unsigned n;
	uint64_t *start;            /* of each disk; n + 1 entries */
	uint64_t skip;              /* bytes of the (only) disk that lie before its start */
	uint64_t size;              /* zeros follow the last disk if it ends in the middle of a sector */
	bool top_only;              /* what the active layer does not have is ABSENT */
	uint64_t backing_size;      /* top_only: of the source's own backing file; beyond it absent is ZERO */
	bool salvage;
	void (*salvaged)(void *arg, uint64_t off, uint64_t len, const char *why);
	void *salvaged_arg;
	pthread_mutex_t salvage_lock;
};

int plt_source_init(struct plt_source *src, struct plt_disk *const *disks, unsigned n, struct plt_error *err);
/* Of the one disk only [off, off+len), which must lie inside it. */
void plt_source_window(struct plt_source *src, uint64_t off, uint64_t len);
void plt_source_release(struct plt_source *src);
/* Any thread.  With salvage, unreadable sectors become zeros and are reported. */
int plt_source_read(struct plt_source *src, uint64_t off, void *buf, size_t len, struct plt_error *err);

/* Whether any file that the source is read from is the one behind @st. */
bool plt_source_uses(const struct plt_source *src, struct plt_store *st);

/* A walk over a source's extents in units of @unit; one thread at a time. */
struct plt_walk {
	struct plt_source *src;
	uint64_t unit, chunk;       /* pieces start and end at units; DATA pieces cross no multiple of chunk */
	uint64_t pos;
	bool zero_is_data;          /* zeros are to be written like data */
	uint64_t beyond;            /* from here on a target reads as zeros that is left alone: ABSENT */
	/* what status said: extents [i, n) from the source's offset ext[i].off on */
	struct plt_extent ext[64];
	unsigned i, n;
	unsigned fetches;           /* how often status was asked */
	uint64_t base;              /* to be added to their offsets */
};

struct plt_piece {
	enum plt_piece_kind kind;
	uint64_t off, len;
};

void plt_walk_init(struct plt_walk *w, struct plt_source *src, uint64_t unit, uint64_t chunk);
/*
 * The next piece; 0 len at the end.  A unit that holds any data is DATA as a whole, and so is one of
 * zeros and absent parts: it can then be written without looking at what is around it.
 */
int plt_walk_next(struct plt_walk *w, struct plt_piece *ret, struct plt_error *err);

/* ---- target.c, replace.c, hold.c ------------------------------------------------------------- */

struct plt_target;

/*
 * Choose how @name will be made, check that it may be, and open it for writing.  @data: bytes that
 * will be written at most.  On failure nothing is left and nothing changed.
 */
int plt_target_begin(struct plt_ctx *ctx, const char *name, const struct plt_convert_options *opts,
		     const struct plt_source *src, uint64_t data, struct plt_target **ret,
		     struct plt_error *err);
struct plt_disk *plt_target_disk(struct plt_target *t);
/* What has not been written reads as zeros. */
bool plt_target_is_zero(const struct plt_target *t);
/* Size of the target's own backing file, or UINT64_MAX if it has none or it is not known. */
uint64_t plt_target_backing_size(const struct plt_target *t);
void plt_target_touched(struct plt_target *t); /* any thread: something has been written */
/*
 * Close the disk and make it durable, short of giving it its final name.  The result can now be read
 * through plt_target_reopen().
 */
int plt_target_complete(struct plt_target *t, struct plt_error *err);
int plt_target_reopen(struct plt_target *t, struct plt_disk **ret, struct plt_error *err);
/* Put it in place (rename, or the held-back header).  Frees @t in any case, as abort does. */
int plt_target_commit(struct plt_target *t, struct plt_error *err);
/* Remove what was begun; where something remains, @err (already set) says what. */
void plt_target_abort(struct plt_target *t, struct plt_error *err);

/* With PLT_CONVERT_*: nothing is made; the target is a ghost (ghost.c), whose length is wanted. */
#define PLT_CONVERT_GHOST (1u << 31)
int plt_target_length(struct plt_target *t, uint64_t *ret, struct plt_error *err); /* when it is complete */
int plt_ghost_new(struct plt_store **ret, struct plt_error *err);
/* How long the file becomes that plt_convert() would make with these options. */
int plt_convert_length(struct plt_ctx *ctx, struct plt_disk *const *sources, unsigned n, const struct plt_convert_options *opts,
		       uint64_t *ret, struct plt_error *err);

/* replace.c: a file that will take another's place by its name */
struct plt_replace {
	char *final;         /* the file itself, symbolic links resolved */
	bool exists, regular;
	const char *why;     /* a new file cannot take its place, for this reason: write in place.  NULL: it can */
	uint64_t old_bytes;  /* what the old file takes on the disk */
	uint64_t free;       /* what the filesystem has left for us; UINT64_MAX: unknown */
	struct plt_store *old; /* open for writing and locked; NULL if there is none */
	struct plt_store *made;/* the new file */
	char *temp;          /* its present name; NULL: it has none (yet) */
};

/* Look at @path, and open and lock what is there.  @flags: PLT_FILE_*. */
int plt_replace_look(struct plt_replace *r, const char *path, unsigned flags, struct plt_error *err);
/*
 * Make the new file, with the owner, mode and attributes of the old one, in r->made.  It has no name, or
 * where the filesystem has no such files a hidden one.  Sets r->why (and returns 0, r->made NULL) where
 * that turns out not to be allowed.
 */
int plt_replace_make(struct plt_replace *r, unsigned flags, struct plt_error *err);
/* Give it the final name, and unless it is an unsafe store make that durable. */
int plt_replace_commit(struct plt_replace *r, struct plt_error *err);
void plt_replace_release(struct plt_replace *r); /* what has not been committed is gone */

/*
 * hold.c: a store that keeps back the writes that make its content an image (the first sector, and
 * small ones tagged PLT_IO_HEADER such as a footer) until they are released; all else goes to
 * @below.  Reads see what was kept back.  A sync does not make it durable, which is the purpose.
 */
int plt_hold_new(struct plt_store *below, struct plt_store **ret);
/* Write what was held: the first sector last, syncs before and after (unless the store is unsafe). */
int plt_hold_release(struct plt_store *st, struct plt_error *err);

/* ---- bitmaps.c ------------------------------------------------------------------------------- */

/* Before anything is opened for writing; before data is copied; when all data is in the target. */
int plt_bitmaps_check_source(struct plt_disk *const *disks, unsigned n, bool skip_broken, struct plt_error *err);
int plt_bitmaps_check_target(struct plt_disk *source, struct plt_disk *target, struct plt_error *err);
int plt_bitmaps_copy(struct plt_disk *source, struct plt_disk *target, struct plt_error *err);

/* ---- verify.c -------------------------------------------------------------------------------- */

struct plt_verify;

int plt_verify_new(struct plt_verify **ret, struct plt_error *err);
void plt_verify_free(struct plt_verify *v);
/* Any thread: @buf is what [off, off+len) must hold; @buf NULL: zeros. */
int plt_verify_add(struct plt_verify *v, uint64_t off, const void *buf, uint64_t len, struct plt_error *err);
/* Read @disk and compare.  -EIO with the place of the first difference. */
int plt_verify_run(struct plt_verify *v, struct plt_disk *disk, unsigned threads, plt_progress_fn fn,
		   void *arg, struct plt_error *err);

#endif
