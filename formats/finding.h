/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_FINDING_H
#define PLT_FORMATS_FINDING_H

/*
 * Findings: what an examination says is wrong with an image.  The id is stable and names the class
 * of damage; the text is for a person.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/extents.h"
#include "formats/doubt.h"
#include "io/store.h"
#include "platter.h"

struct plt_ctx;

enum plt_severity {
	PLT_NOTE,       /* worth knowing; changes no count and no exit code */
	PLT_LEAK,       /* space is wasted, data is safe */
	PLT_CORRUPTION, /* data is wrong or unreachable, or writing is dangerous */
	PLT_CHECK_ERROR,/* something could not be examined */
};

struct plt_finding {
	const char *id;          /* "Q-L2-OUTSIDE": static */
	enum plt_severity severity;
	bool beyond_qemu;        /* qemu-img does not count it: kept out of its counters */
	bool mended;             /* the edits made along with it put it right */
	const char *text;        /* one line; valid during emit() only */
	uint64_t count;          /* how many of qemu-img's units it stands for (clusters leaked...), mostly 1 */
	uint64_t host_off, host_len;   /* place on disk; len 0: no single place */
	uint64_t guest_off, guest_len; /* guest range it affects; len 0: none or unknown */
};

struct plt_check_totals {
	uint64_t image_end_offset;
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	bool have_clusters;      /* whether the four above mean anything for the format */
};

/* What an examination may put right, bit by bit. */
enum {
	PLT_MEND_LOWER = 1 << 0,   /* counts that are too high */
	PLT_MEND_RAISE = 1 << 1,   /* counts that are too low */
	PLT_MEND_MARKS = 1 << 2,   /* what entries say of counts (COPIED), and flags that say that something is wrong */
	PLT_MEND_REBUILD = 1 << 3, /* tables written anew at the end of the file */
	PLT_MEND_MAP = 1 << 4,     /* tables that nothing names, put back where they belong */
	PLT_MEND_ALL = 31,
};

/*
 * A part of the map that nothing names any more (an L2 table), or of the guest's data (a cluster); once it is
 * placed, where it belongs.  The guest's bytes that it covers are plt_orphans.span; places are multiples of that.
 */
struct plt_orphan {
	uint64_t host_off;
	uint64_t guest_off;       /* PLT_UNPLACED, or its place */
	enum plt_certainty certainty;
	char why[96];
	uint32_t packed;          /* a compressed unit of so many bytes, which begins at any byte; 0: plain */
	bool stale;               /* it lies among more units than are counted there: one of them was given up */
};
#define PLT_UNPLACED UINT64_MAX

struct plt_orphans {
	uint64_t span;
	struct plt_orphan *v;
	size_t n;
	uint64_t *gaps;           /* places at which a piece is missing, ascending */
	size_t ngaps;
	/*
	 * Where compressed units may lie, one behind the other from the beginning of each range, in whole clusters; those
	 * clusters in which some may lie that nothing names, ascending, and of how many of them the counts know; where the
	 * named ones begin, ascending.
	 */
	struct plt_extents packed;
	struct plt_open { uint64_t off, count; } *open;
	size_t nopen;
	uint64_t *named;
	size_t nnamed;
};
void plt_orphans_release(struct plt_orphans *o); /* and make it empty */

/*
 * What the guest's own structures say of the map: the piece at @host_off is the one for @guest_off.  Moves of one round
 * are done together; each place and each piece is named once.
 */
struct plt_move {
	uint64_t host_off;        /* PLT_UNPLACED: what the place showed is another's, and nothing is known of its own */
	uint64_t guest_off;
	uint64_t from;            /* the place that shows the piece now; PLT_UNPLACED: none does */
	uint32_t packed;          /* a compressed unit of so many bytes, as in plt_orphan; 0: plain */
	enum plt_certainty certainty;
	char why[96];
};

/* A compressed unit that does not decode, and what its entry says that it occupies. */
struct plt_flaw {
	uint64_t host_off, len, guest_off;
	bool fills, done, kept;   /* the caller's */
};

/*
 * What is handed over to be placed: large pieces before small ones, for each of them that has its place makes more
 * of the disk known.  In the last stage what found no place is given up: it is named lost.
 */
enum plt_mend_stage { PLT_MEND_TABLES, PLT_MEND_CLUSTERS, PLT_MEND_SETTLE };

/*
 * Mending: the examined stores are then overlays (io/overlay.c), and what is written to them is a plan.  The
 * examination is repeated, with the same flags, until it changes nothing.
 */
struct plt_mend {
	unsigned what;
	bool look;                /* what is planned is only looked through, and never written to the image */
	bool unattended;          /* nobody looks at the plan before it is written, as with check -r: what a stopped program
				   * would explain too is left alone, unless it is proven */
	bool guess;               /* nobody and nothing has said that the image has this format: it must show that by itself */
	bool changed;             /* something was: examine once more */
	/*
	 * What the examination could not place itself (arrays by malloc, the caller's; replaced each time), and
	 * the placements that the caller has chosen: done in this round, if the places are still empty.
	 */
	struct plt_orphans unplaced;
	const struct plt_orphan *place;
	size_t nplace;
	/*
	 * What the plan cannot say in the format's own words.  Kept across rounds: a range is named in the round
	 * that finds it, and set anew or cleared by the round that places something there.
	 */
	struct plt_doubts doubts;
	/*
	 * The caller goes on to the next stage when a round has changed nothing, nothing that was handed over could be
	 * placed, and the driver says that it has more for later stages.
	 */
	enum plt_mend_stage stage;
	bool more;
	bool counts_gone;         /* the image had lost counts of what is in use; kept across rounds, whatever the plan makes */
	bool nameless;            /* the header was made anew: if it named another file, nobody knows */
	bool size_guessed;        /* so was the size of the disk: large enough for what is mapped; kept as well */
	/*
	 * Over an external data file a table is empty: that it was cleared the caller can find out, if the guest's metadata
	 * verify in the file itself, and not on the disk that is shown.  Then it says so.
	 */
	bool data_hidden, data_is_disk;
	bool cut;                 /* it had tables behind its end; kept as well */
	bool bitmaps_lost;        /* some of its bitmaps may be left where nothing names them; kept as well */
	bool map_damaged;         /* an entry of the map was found that cannot be: no stop of a program explains that */
	uint64_t file_size;       /* of the image before the plan: set in the first round */
	/*
	 * Tables that the plan has replaced, and left where they were: nothing that lies there is a piece of the map
	 * or a cluster of the guest's.  Kept across rounds.
	 */
	struct plt_extents left;
	/*
	 * Somebody holds the map against what the guest says of it.  With @deep each round leaves here what holds something
	 * and nothing reaches, whatever became of it: pieces as of driver->map_pieces, and clusters (.span and .v; malloc, the
	 * caller's); with .guest_off what the disk had there, by another copy of the map and by its count.  What he has
	 * found out is done before anything else: pieces of @move_span bytes of the guest.  A driver with no
	 * pieces of that size, or none that may be moved, changes nothing.
	 */
	bool deep;
	struct plt_orphans pieces, clusters;
	const struct plt_move *moves;
	size_t nmoves;
	uint64_t move_span;
	/*
	 * With @flaws each round leaves in @streams where compressed units may lie (.packed, .open, .named), as in @unplaced,
	 * if what these entries occupy were not theirs.
	 */
	const struct plt_flaw *flaws;
	size_t nflaws;
	struct plt_orphans streams;
	/*
	 * Each round leaves here what the header's size of the active disk can be held against, by somebody who sees what the
	 * guest has written; .reach 0: nothing.
	 */
	struct plt_behind {
		uint64_t size;    /* as the header has it */
		uint64_t end;     /* of what is mapped behind that; 0: nothing is */
		uint64_t state;   /* where the state of a VM would begin */
		uint64_t reach;   /* how large a disk the map is made for */
		bool like_state;  /* all that is mapped there lies as such a state does */
		bool named;       /* and some snapshot has one */
		bool guessed;     /* the size is that of a header that was made anew, and may be too large */
	} behind;
};

/* All that it holds but placements, which are the caller's. */
void plt_mend_release(struct plt_mend *mend);

struct plt_examine {
	struct plt_ctx *ctx;
	struct plt_mend *mend;        /* NULL: only look */
	_Atomic uint64_t corruptions, leaks; /* said so far, and not mended */
	struct plt_store *file;
	struct plt_store *data_file;  /* or NULL */
	const char *name;
	bool deep;
	void (*emit)(struct plt_examine *ex, const struct plt_finding *finding);
	void *arg;
	struct plt_check_totals totals; /* filled in by the driver */
};

/* Emit with a formatted text. */
void plt_emit(struct plt_examine *ex, const struct plt_finding *proto, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
