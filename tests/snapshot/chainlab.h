/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_SNAPSHOT_CHAINLAB_H
#define PLT_TESTS_SNAPSHOT_CHAINLAB_H

/*
 * A folder of images that stand on one another, of any formats, and what each of them has to show: a number for each
 * of its 512 bytes, and the same of each internal snapshot.  Chains are changed by *deeds* through the public
 * functions (which take names), so that a suite can play one undisturbed, on failing stores, or over a write log.
 *
 * What a deed changes besides what it is meant to (an image that stood on the base of a commit) shows, byte for byte,
 * what it did before or what the deed brings: that is demanded, looked up, and held to from then on.
 */
#include <stdbool.h>
#include <stdint.h>

#include "block/internal.h"
#include "tests/unit.h"

#define CHAIN_LAYERS 7
#define CHAIN_SNAPSHOTS 3
#define CHAIN_MARKS 2
#define CHAIN_MOST (UINT64_C(384) << 10) /* bytes of a disk */
#define CHAIN_SECTORS (CHAIN_MOST / 512)

struct chain_kind {
	const char *format, *options;
	bool stands;   /* can have a backing file */
	bool resizes;
	bool data;     /* has an external data file */
	bool vhd_only; /* what it stands on is a VHD or raw */
	bool lazy;     /* counts may be behind until it has been opened again */
};

struct chain_kept {
	char name[16];
	uint64_t size, *sec;
};

struct chain_marks { /* a persistent bitmap */
	char name[16];
	bool enabled;
	uint8_t *must; /* of each sector: has to be marked */
};

struct chain_layer {
	bool used;
	char name[24];
	const struct chain_kind *kind;
	int below; /* -1: nothing */
	uint64_t size, *sec;
	struct chain_kept kept[CHAIN_SNAPSHOTS];
	unsigned nkept;
	struct chain_marks marks[CHAIN_MARKS];
	unsigned nmarks;
};

struct chainlab {
	struct plt_ctx *ctx;
	const char *dir, *cache;
	uint64_t seed, tag, made;
	struct chain_layer v[CHAIN_LAYERS];
	uint8_t *buf;
	unsigned ops; /* done to disks */
	bool peer;    /* there is a qemu-img */
	bool warned;  /* the library had something to say */
};

enum chain_verb { CHAIN_NOTHING, CHAIN_REBASE, CHAIN_COMMIT, CHAIN_FLATTEN, CHAIN_COALESCE };
struct chain_deed {
	enum chain_verb verb;
	/*
	 * The image, and the one that it is to stand on (-1: none) or that takes what it holds.  COALESCE: .i is the layer
	 * that goes into .on, or with .on -1 into .child; that one is to stand on what .i stands on.
	 */
	int i, on;
	int child, top;    /* COALESCE: the image above .i, and that of the whole chain */
	bool keep;         /* COMMIT */
	unsigned flags;    /* of plt_rebase() */
};

void chainlab_init(struct chainlab *c, uint64_t seed);
void chainlab_release(struct chainlab *c);
uint64_t chain_any(struct chainlab *c, uint64_t n); /* 0..n-1; 0 if n is 0 */
/* free() it. */
char *chain_path(const struct chainlab *c, const char *name);
/* Does @i stand on @on, at any depth?  Not if they are the same. */
bool chain_is_above(const struct chainlab *c, int i, int on);

/* What a user does, undisturbed: anything that goes wrong ends the test. */
void chain_make(struct chainlab *c);   /* an image, on another one or not; one is removed if there are too many */
void chain_burst(struct chainlab *c);  /* write, discard, resize, snapshots, bitmaps, of one disk */

/* A deed at random (.verb NOTHING: none is possible); what it returned; and what it means for what images show. */
struct chain_deed chain_choose(struct chainlab *c);
bool chain_may_be_refused(const struct chainlab *c, const struct chain_deed *d); /* by what formats can do, or lose */
bool chain_grows_fixed(const struct chainlab *c, const struct chain_deed *d); /* a fixed VHD, in more than one step */
int chain_do(struct chainlab *c, const struct chain_deed *d, struct plt_error *err);
void chain_done(struct chainlab *c, const struct chain_deed *d);
const char *chain_text(const struct chainlab *c, const struct chain_deed *d); /* static */

/* What the model says, kept and put back as often as one likes. */
struct chain_saved;
struct chain_saved *chain_save(const struct chainlab *c);
void chain_restore(struct chainlab *c, const struct chain_saved *saved);
void chain_saved_free(struct chain_saved *saved);

/* What is wrong with the image; NULL: nothing.  @d: the deed that is under way, which may be done, or not, or in part. */
const char *chain_wrong(struct chainlab *c, int i, const struct chain_deed *d);
/*
 * And with its structure: @left: a cut or a failure may have left clusters that nobody has.  Of an image that @d was
 * about to empty it may be said that its map is lost: what was in it is left over, and the map has gaps.
 */
const char *chain_unsound(struct chainlab *c, int i, bool left, const struct chain_deed *d);
bool chain_empties(const struct chain_deed *d, int i);
/* And what qemu-img says of both, and of its map. */
const char *chain_peer(struct chainlab *c, int i);

#endif
