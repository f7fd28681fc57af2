/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_REPAIR_H
#define PLT_REPAIR_REPAIR_H

/*
 * Repair.  A driver examines an overlay over the damaged image and writes its edits there, round after round,
 * until nothing changes; what the overlay then holds is the plan.  The same overlay can be looked through, be
 * applied under an undo journal, or be thrown away.
 *
 *	plan.c    making it
 *	deep.c    what the guest's own structures say of the map (deep/)
 *	guest/    what the guest has on a disk that is nothing but its bytes
 *	planfile.c  as a file
 *	recognize.c  of an image that has lost what says which format it is
 *	rescue.c  for those who only look through it
 *	doubts.c  what it leaves lost or inferred, of the disk and of its snapshots
 *	below.c   what it stands on, which may be damaged as well
 *	place.c   what the driver could not place, by evidence (evidence/)
 *	parent.c  whether that is the parent, and what the parent of a differencing disk says of places
 *	size.c    how large the disk is, by what the guest says
 *	datafile.c  which file beside the image has its data, when the name is lost
 *	device.c  where an image ends that lies on a larger device
 *	donate.c  what is lost, from an older copy or a clone
 *	foreign.c  what other programs' journals say
 *	packed.c  compressed units among it
 *	streams.c  compressed units whose entries lead to nothing that decodes
 *	worse.c   whether less could be read after the plan than before it
 *	apply.c   journal, image, check -r
 *	copy.c    a repaired copy
 *	beside.c  which journals lie beside an image, and in which state
 *	undo.c    taking back
 *	parent/   which file an image stands on that has lost it
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "block/internal.h"
#include "io/journal.h"

#define PLT_DEEP_DOUBT "G-MAP" /* the id of findings of what the guest's structures refuse, and nobody can decide */

/* A finding that the plan puts right. */
struct plt_mended {
	const char *id;
	char *text;
	uint64_t host_off, host_len;
};

/* Bytes of the disk. */
struct plt_unsure {
	uint64_t lost, inferred;
};

struct plt_repair {
	struct plt_ctx *ctx;
	struct plt_image *img;       /* what holds the file open; NULL: the caller */
	struct plt_store *file;      /* the bytes; writable unless it is only looked at.  Own reference */
	struct plt_store *overlay;   /* over file */
	char *name, *format;
	char *undo_file;             /* as asked for; NULL: beside */
	const char *key[2];          /* the option that names the secret of what the image encrypts, or NULL; and NULL */
	uint64_t size;               /* of the file, before */
	struct plt_check_result before;
	enum plt_certainty trust;    /* placements that are less sure are only offered */
	bool copy;                   /* it is written into a copy, never to the image itself */
	uint64_t end;                /* of an image on a device that is larger: where what it grows by goes; or 0 */
	bool look;                   /* the plan is never written */
	bool guess;                  /* nobody says that it has this format */
	bool deep;                   /* what the guest says is held against the map, whether anything is wrong with it or not */
	bool no_backing;             /* what lies below is not to be opened */
	bool nested;                 /* somebody makes the plan of an image above: what lies below is read as it is */
	enum plt_below { PLT_BELOW_UNKNOWN, PLT_BELOW_SOUND, PLT_BELOW_DAMAGED } below; /* its layers: below.c */
	bool moved;                  /* file is a part of what the image has: nothing but a copy comes of it */
	bool deeply;                 /* in a round that does what the guest says */
	uint64_t undecided;          /* errors of which no look at the structure knows, and that the plan leaves */
	bool size_said;              /* of one of them, the size of the disk */
	bool ask_again;              /* some of these have not been looked at yet */
	bool (*offered)(void *arg, const struct plt_placement_offer *offer); /* NULL: declined */
	void *offered_arg;
	const char *plan;            /* a file that says what to do; NULL: found out */
	struct plt_mended *mended;   /* why, for the plan's file: bounded */
	size_t nmended;
	bool image_only;             /* check -r: nothing that the guest has written is examined for its own sake, and nobody
				      * looks at the plan */
	struct plt_doubts doubts;    /* lost and inferred, as the plan leaves them */
	struct plt_unsure done_before; /* as a repair leaves them that was interrupted, and is finished now */
};

/* plt_repair_plan(); with @image_only a format that is nothing but the guest's bytes is refused, as check refuses it. */
int plt_repair_plan_of(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		       const struct plt_repair_options *options, bool image_only,
		       void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_repair **ret,
		       struct plt_error *err);
/* The image is open and locked; nothing is planned. */
int plt_repair_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		    const struct plt_repair_options *options, struct plt_repair **ret, struct plt_error *err);
/* An interrupted repair is finished (or, to look only, refused); an empty overlay. */
int plt_repair_settle(struct plt_repair *rep, bool write, struct plt_error *err);
/* The plan of a file, instead of one that is made. */
int plt_repair_load(struct plt_repair *rep, const char *path, struct plt_error *err);
/* rep->file and rep->name are set, and rep->format, unless that is to be found out: plan. */
int plt_repair_make(struct plt_repair *rep, unsigned what, bool write,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/* Where only a repair shows which format it is: sets rep->format and mends. */
int plt_repair_recognize(struct plt_repair *rep, unsigned what,
			 void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/*
 * Of an image on a device: what the plan adds goes behind the image's end, if there is room in front of the device's; and when
 * the plan is made, what lies between that becomes zeros.
 */
int plt_repair_find_end(struct plt_repair *rep, struct plt_error *err);
int plt_repair_fill_end(struct plt_repair *rep, struct plt_error *err);
/* Examine and mend as far as @what says, until nothing changes. */
int plt_repair_mend(struct plt_repair *rep, unsigned what,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/* One look: at the format's structure, or at what the guest has on a disk that has none.  @mend NULL: only look. */
int plt_repair_examine(struct plt_repair *rep, struct plt_mend *mend,
		       void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		       struct plt_check_result *ret, struct plt_error *err);
static inline bool plt_repair_is_damaged(const struct plt_check_result *r)
{
	return r->corruptions || r->leaks || r->added;
}

/* How what is planned is opened so that what the guest has written can be read. */
static inline struct plt_open_options plt_repair_how(const struct plt_repair *rep, unsigned flags)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	o.flags = flags;
	o.options = rep->key[0] ? rep->key : NULL;
	return o;
}
/*
 * The image that @store holds (the plan, or what is tried over it), with what it stands on: as that could be rescued, if
 * it cannot be opened as it is, or if plt_repair_ask_below() has found it damaged.
 */
int plt_repair_open_chain(struct plt_repair *rep, struct plt_store *store, const struct plt_open_options *how,
			  struct plt_disk **ret, struct plt_error *err);
/* Is anything wrong with the layers below it?  Each is examined, once; false also where nobody may ask. */
bool plt_repair_ask_below(struct plt_repair *rep, struct plt_disk *chain);
/* Notes on layers below that cannot be had, or are damaged themselves: no repair of this image puts that right. */
void plt_repair_tell_below(struct plt_repair *rep, void (*found)(void *arg, const struct plt_check_finding *f), void *arg);
/* Placements of orphans that are sure enough; malloc. */
int plt_repair_place(struct plt_repair *rep, const struct plt_orphans *o, struct plt_orphan **ret, size_t *ret_n,
		     struct plt_error *err);
/* Do what the journal of another program beside the image says.  1: done, as @text says; 0: there is none. */
int plt_repair_foreign(struct plt_repair *rep, char *text, size_t len, struct plt_error *err);
/* What the image as it is planned stands on; -ENOENT: on nothing, or it is not to be had. */
int plt_repair_open_parent(struct plt_repair *rep, struct plt_disk **ret);
/* Where the only thing wrong with the parent is its identity, it is recorded, if the content says so. */
int plt_repair_adopt(struct plt_repair *rep, struct plt_doubts *doubts,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg, bool *ret_done,
		     struct plt_error *err);
/*
 * Where the file that has the image's data cannot be opened, the one beside the image is recorded of which the content says
 * so; where none does, that is said.  And if the map hides what is in it, is that the guest's disk (mend->data_is_disk)?
 * What is found out changes the plan (mend->changed).
 */
int plt_repair_find_data(struct plt_repair *rep, struct plt_mend *mend,
			 void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/*
 * parent/nameless.c: a header was made anew, and the disk has no beginning: it stood on another file.  The one beside the
 * image over which the content fits is recorded (mend->changed); where several do that is said.
 */
int plt_repair_find_backing(struct plt_repair *rep, struct plt_mend *mend,
			    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/*
 * What is mapped behind the end of the disk, or lies below it: is it the guest's?  Then the size in the header is raised
 * (mend->changed); what may be and is not shown is said.
 */
int plt_repair_size(struct plt_repair *rep, struct plt_mend *mend,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
/* Is a sector of 512 bytes neither uniform nor nearly empty?  Of others it says nothing that they are alike. */
bool plt_repair_speaks(const uint8_t *p);
/* Placements of pieces of a child by what its parent has; malloc.  None, and no error, where there is no parent. */
int plt_repair_place_over(struct plt_repair *rep, const struct plt_orphans *o, struct plt_orphan **ret, size_t *ret_n);
/*
 * The orphans with compressed units taken apart; clusters of which they are made are none themselves.  ret->v and
 * *ret_ranks, a number that says in which order units were written, are malloc'ed; the rest of @ret is not touched.
 */
int plt_repair_take_apart(struct plt_repair *rep, enum plt_codec codec, const struct plt_orphans *o,
			  struct plt_orphans *ret, uint64_t **ret_ranks);
/*
 * Compressed units that do not decode, in steps, when a round of mending has changed nothing: 1, and what is to be moved
 * is in @mend, or the driver is to say more; 0: nothing is (any more).
 */
struct plt_streams {
	unsigned phase;
	enum plt_codec codec;
	uint32_t unit;
	struct plt_flaw *flaws;
	size_t nflaws, cap;
	struct plt_move *moves;
	size_t nmoves;
};
int plt_streams_step(struct plt_repair *rep, struct plt_mend *mend, struct plt_streams *s,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);
bool plt_streams_end(const struct plt_streams *s);
void plt_streams_release(struct plt_streams *s);
/*
 * What evidence says of @o on @known (NULL: the image as planned, without a chain), unfiltered; free().
 */
struct plt_placement;
int plt_repair_ask(struct plt_repair *rep, struct plt_disk *known, const struct plt_orphans *o,
		   struct plt_placement **ret, uint32_t *ret_n, struct plt_error *err);
/* Is compressed data among clusters that nothing reaches? */
bool plt_repair_any_packed(struct plt_repair *rep, struct plt_disk *known, const struct plt_orphans *o);
/* Is this placement sure enough, or has somebody said so? */
bool plt_repair_wants(const struct plt_repair *rep, const struct plt_orphans *o, const struct plt_placement *p);
/* Write the edits into the image as they are, durably: for those that are safe in any order. */
int plt_repair_write(struct plt_repair *rep, struct plt_error *err);
/* Would less of the disk be readable after the plan than before it? */
bool plt_repair_is_worse(struct plt_repair *rep);
/* Write what the plan leaves lost, and the donor @name has, into the image as it is planned. */
int plt_repair_donate(struct plt_repair *rep, const char *name, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		      struct plt_error *err);
/* Forget why. */
void plt_repair_forget(struct plt_repair *rep);
/* Forget the edits. */
int plt_repair_reset(struct plt_repair *rep, struct plt_error *err);
bool plt_repair_is_empty(struct plt_repair *rep);

/*
 * Journals beside @image: IMAGE.platter-undo, IMAGE.platter-undo.2 and so on; each has been written over a
 * finished repair, whose journal is the one before.
 */
struct plt_beside {
	char *pending;   /* one that is complete and not applied; NULL: none */
	char *last;      /* the last that is applied; NULL: none */
	char *next;      /* the name for a new one */
};
int plt_beside_find(const char *image, struct plt_beside *ret, struct plt_error *err);
void plt_beside_release(struct plt_beside *b);
/* @err is why a journal could not be applied or taken back: add what can be done where the image is not its. */
int plt_journal_mismatch(const char *journal, int r, struct plt_error *err);
/* Finish what @journal has begun on @image, which is open; what it leaves lost and inferred. */
int plt_journal_finish(const char *journal, struct plt_store *image, struct plt_unsure *ret, struct plt_error *err);

#endif
