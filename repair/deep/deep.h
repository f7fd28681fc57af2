/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_DEEP_DEEP_H
#define PLT_REPAIR_DEEP_DEEP_H

/*
 * The map held against what the guest says of it: what structure cannot show, because every entry can be and every
 * count is right.
 *
 *	survey.c  what the guest's structures say of the disk as it shows
 *	map.c     what of it is mapped to where
 *	suspects.c  places of the map that this casts doubt upon
 *	below.c   blocks of a differencing disk that are like what its parent has elsewhere
 *	exchange.c  tables that were exchanged, by the order along the host
 *	moves.c   what belongs there instead, by evidence; tried out before it is done
 *	unmapped.c  what an external data file holds where the map has nothing
 */
#include "base/extents.h"
#include "guestfs/weigh.h"
#include "repair/evidence/evidence.h"
#include "repair/repair.h"

/* A structure that says that it belongs elsewhere. */
struct deep_named {
	uint64_t at, place; /* of the disk */
	bool sure;          /* by a checksum */
};

/* The end of a file: is it where the filesystem says? */
struct deep_tail {
	uint64_t off;
	bool right;
};

struct deep_survey {
	struct plt_extents bad;   /* metadata that does not verify where it lies, where that proves something */
	struct plt_extents odd;   /* what is odd: metadata without checksums that does not fit, files that go on behind their end */
	struct plt_extents data;  /* files' blocks */
	struct plt_extents sure;  /* metadata that verifies where it lies */
	struct plt_extents starts; /* of partitions in which no filesystem begins */
	struct deep_named *named;
	size_t nnamed, named_cap;
	uint64_t good, nbad, nodd;
	struct deep_ranges { struct plt_range *v; size_t n, cap; } all_data, all_sure; /* as they come */
	struct deep_tail *tails;  /* that were read */
	size_t ntails, tails_cap;
	bool any;                 /* a filesystem was found */
	/* the filesystem at hand */
	struct plt_disk *disk;
	bool proves;
	uint64_t from;            /* its start */
	int error;
};

/* What the guest says of @disk.  -ENOMEM. */
int plt_deep_survey(struct plt_disk *disk, struct deep_survey *ret, struct plt_error *err);
void plt_deep_survey_release(struct deep_survey *s);

/* ---- map.c ------------------------------------------------------------------------------------- */

enum deep_kind { DEEP_ABSENT, DEEP_DATA, DEEP_ZERO, DEEP_OTHER };
#define DEEP_NOWHERE UINT64_MAX

struct deep_run {
	uint64_t guest, len, host; /* host: DEEP_NOWHERE if there is none */
	uint8_t kind;
};

struct deep_map {
	uint64_t span;
	bool tables;        /* pieces are tables, not clusters */
	struct deep_run *v; /* ascending, whole pieces; what is not mapped is not there */
	uint64_t highest;   /* behind the last byte of the file that is mapped, by clusters */
	size_t n, cap;
};

/* Of the layer that is mended: its clusters, or the tables above them (none: .n is 0). */
int plt_deep_map(struct plt_repair *rep, struct plt_disk *disk, bool tables, struct deep_map *ret, struct plt_error *err);
/* What is mapped in parts of a cluster (subclusters) as whole ones, each of which is what its data is. */
int plt_deep_whole(struct deep_map *m, struct plt_error *err);
void plt_deep_map_release(struct deep_map *m);
/* The first run that ends behind a place; .n: none. */
size_t plt_deep_run(const struct deep_map *m, uint64_t guest);
/* The piece at a place: its kind, and where it lies. */
enum deep_kind plt_deep_at(const struct deep_map *m, uint64_t guest, uint64_t *ret_host);
/* Places that name the same bytes of the file as another does. */
int plt_deep_shared(const struct deep_map *m, struct plt_extents *ret);

/* ---- exchange.c -------------------------------------------------------------------------------- */

#define DEEP_EXCHANGES 4 /* more than that are no exchanges */

/* Two places that seem to show each other's tables; @sure: more than likely, if nothing else is known of them. */
struct deep_exchange {
	uint64_t a, b;
	bool sure;
};
/* Of tables.  -ENOMEM. */
int plt_deep_exchanges(const struct deep_map *m, const struct deep_map *clusters, const struct deep_survey *s,
		       struct deep_exchange ret[DEEP_EXCHANGES], unsigned *ret_n);

/* ---- suspects.c -------------------------------------------------------------------------------- */

/* Places, whole pieces. */
struct deep_suspects {
	struct plt_extents accused; /* the guest's structures refuse what lies there */
	struct plt_extents others;  /* something else speaks against it: it may be the other end of an exchange */
	struct plt_extents holes;   /* nothing is mapped, and the guest has something there */
	struct plt_extents hidden;  /* zeros by a flag, over a cluster that holds something, and the guest has something there */
	struct deep_exchange exchanges[DEEP_EXCHANGES]; /* .others has their places */
	unsigned nexchanges;
};
int plt_deep_suspects(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk,
		      struct deep_survey *s, const struct deep_map *m, const struct deep_map *clusters,
		      struct deep_suspects *ret, struct plt_error *err);
/*
 * Of a disk on which nothing is known: does a disk's beginning, its partition table, lie in front of another piece?  Both
 * places are bad then.
 */
int plt_deep_beginning(struct plt_disk *disk, const struct deep_map *m, struct deep_survey *s);
void plt_deep_suspects_release(struct deep_suspects *s);

/* ---- below.c ----------------------------------------------------------------------------------- */

/* Adds places of blocks that may lie in each other's, by what lies below them.  -ENOMEM. */
int plt_deep_below(struct plt_repair *rep, struct plt_disk *disk, const struct deep_map *m, struct plt_extents *to);

/* ---- moves.c ----------------------------------------------------------------------------------- */

/* What belongs elsewhere, by what is more than likely or trusted; free() *ret.  *ret_known: places whose piece is theirs. */
int plt_deep_moves(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk,
		   const struct deep_map *m, const struct deep_map *clusters, const struct deep_suspects *who,
		   struct plt_move **ret, size_t *ret_n, struct plt_extents *ret_known, struct plt_error *err);
/* Is the disk no worse by what the guest says when these are made, of pieces of @span bytes? */
int plt_deep_try(struct plt_repair *rep, const struct plt_mend *mend, struct plt_disk *disk, uint64_t span,
		 const struct plt_move *v, size_t n, bool *ret, struct plt_error *err);

/* ---- unmapped.c -------------------------------------------------------------------------------- */

/* Adds clusters that are not mapped, that the guest has something in, and an external data file, too.  -ENOMEM. */
int plt_deep_unmapped(struct plt_disk *disk, const struct deep_survey *says, const struct deep_map *m, struct plt_extents *to);
/* Those of each table, of as many bytes of the disk, in whose span anything is in doubt, whatever the guest has there. */
int plt_deep_beside_doubts(struct plt_disk *disk, const struct plt_doubts *doubts, uint64_t table, const struct deep_map *m,
			   struct plt_extents *to);
/* The moves that map them; free() *ret. */
int plt_deep_map_unmapped(const struct plt_extents *which, uint64_t span, uint64_t size, struct plt_move **ret, size_t *ret_n);

/* ---- step.c ------------------------------------------------------------------------------------ */

/*
 * One step, when a round of mending has changed nothing: what is to be moved is in mend->moves, and then, or if
 * the driver is to say more, mend->changed is set.  In the end what is in doubt is named.
 */
struct deep_steps {
	unsigned phase, tries;
	struct plt_move *moves;
};
/* Is there a layer that names one below it, which has not been opened? */
bool plt_deep_lacks_base(struct plt_disk *disk);
/* The disk as @overlay has it, with all that lies below it. */
int plt_deep_open(struct plt_repair *rep, struct plt_store *overlay, struct plt_disk **ret, struct plt_error *err);
int plt_deep_step(struct plt_repair *rep, struct plt_mend *mend, struct deep_steps *st,
		  void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err);

#endif
