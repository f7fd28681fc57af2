/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_EVIDENCE_PRIVATE_H
#define PLT_REPAIR_EVIDENCE_PRIVATE_H

/* The state of one search: shared by repair/evidence*.c and nobody else. */
#include <stdbool.h>

#include "base/bitmap.h"
#include "guestfs/guestfs.h"
#include "repair/evidence/evidence.h"

#define EV_GRAIN 512               /* what a length without trailing zeros is kept for */
#define EV_PIECE 65536             /* objects are scanned in pieces of at most this */
#define EV_ABSENT 0xffff           /* a grain that the object does not map */
#define EV_UNKNOWN 0xfffe          /* not looked at, or not readable */
#define EV_NONE UINT32_MAX
#define EV_UNSEEN (UINT32_MAX - 1) /* a piece that was not looked at */

#define EV_GRAINS_MAX (UINT64_C(128) << 20) /* 256 MiB of lengths: 64 GiB of content */
#define EV_MARKS_MAX (4u << 20)
#define EV_FACTS_MAX (8u << 20)
#define EV_ROUNDS_MAX 32
#define EV_PATHS_MAX 10           /* how often a path is looked for */
#define EV_FS_MAX 64
#define EV_CANDIDATES 12           /* slots of an object that are scored in full */
#define EV_REST 1024               /* pairs of what is left: all are scored if there are no more */

/* Weights.  See score.c. */
enum {
	EV_W_SELF = 100,
	EV_W_TAIL = 10,            /* a file that does not end where it should; a match counts its rarity */
	EV_W_TAIL_MAX = 13,
	EV_W_LIKE = 8,             /* a sector that is that of the version before, */
	EV_W_LIKE_MAX = 80,        /* and all of them */
	EV_W_STRONG = 30,          /* a margin of this is strong */
	EV_W_LIKELY = 8,
};

enum { EV_SELF = 1, EV_META = 2, EV_TAIL = 4, EV_PATTERN = 8, EV_ORDER = 16, EV_OLDER = 32 };

struct ev_mark {
	struct plt_mark m;         /* pos: in the object */
	uint32_t object;
};

struct ev_fact {                   /* inside one slot */
	uint64_t off;              /* of the disk */
	uint64_t value;
	uint32_t len;
	uint32_t slot;             /* index */
	uint32_t key;              /* see facts.c */
	uint8_t kind, what, fs;
	bool more;                 /* it goes on behind the slot */
	uint64_t from;             /* where the whole fact begins */
};

struct ev_fs {
	struct plt_guestfs *fs;
	bool sure;                 /* it was found where it says, or where a partition begins */
};

struct ev_pair {
	uint32_t object, slot;     /* slot: an index */
	int score;
	uint8_t kinds;
	uint8_t self;              /* structures that name this place */
	bool sure, rival;          /* one by checksum; another object's structures name the same place */
	bool mixed;                /* with metadata that verifies there is something that may be none */
	bool shaky;                /* rests on a filesystem whose start is a guess */
	uint8_t tails;
	uint64_t newness;          /* the greatest of its metadata that verified */
};

/* The two best partners that a slot or an object ever had: one that is gone is still an alternative. */
struct ev_alt { uint32_t id[2]; int score[2]; };

/* Of a slot; object EV_NONE: empty. */
struct ev_place { uint32_t object; uint8_t certainty, kinds; int score, second; };


/* What is kept of a piece's two ends, for joints.c. */
#define EV_EDGE 5
struct ev_edge { uint8_t head[EV_EDGE], tail[EV_EDGE], look[2], seen; };

struct ev {
	const struct plt_puzzle *p;
	struct plt_guest view;     /* what is known and what has been placed */

	/* scan.c */
	uint32_t piece_len, piece_grains, pieces; /* of an object */
	uint32_t *piece;           /* nobjects * pieces: index into grains, EV_NONE absent */
	uint16_t *grains;
	size_t ngrains, grains_cap;
	struct ev_mark *marks;     /* by object, by position */
	size_t nmarks, marks_cap;
	uint32_t *mark_of;         /* nobjects + 1: where an object's marks begin */
	bool *blank;               /* nothing but zeros, or nothing readable */
	uint32_t *digest;          /* of what was scanned: equal ones may change places */

	/* view.c */
	struct ev_fs fs[EV_FS_MAX];
	unsigned nfs;
	uint64_t seed_of_ends[EV_FS_MAX]; /* which block size and alignment the next two are counted for */
	uint32_t *ends[EV_FS_MAX]; /* of all objects' blocks, how many have this length: fs.block + 1 */
	uint64_t nends[EV_FS_MAX];
	double share[EV_FS_MAX][3]; /* of blocks that are empty, cut, full */
	unsigned nend_sets;
	bool parts_sure;
	bool below;                /* in an empty slot what read_older gives is read */
	bool guess;                /* nothing else is left: filesystems may begin at usual places */

	/* facts.c */
	struct ev_fact *facts;     /* by slot, by offset */
	size_t nfacts, facts_cap;
	size_t *facts_of;          /* nslots + 1: where a slot's facts begin */
	uint32_t *by_key;          /* of TAIL and KEY facts, by key */
	size_t nby_key;
	bool facts_full;
	uint32_t nwanted;          /* slots of which a filesystem says something */
	int prior;                 /* bits of evidence that single out one of them, and five */

	/* older.c: by object, by slot */
	struct ev_like { uint32_t object, slot, n; } *like;
	size_t nlike, like_cap;

	/* assign.c */
	struct ev_place *place;    /* nslots */
	uint32_t *slot_of;         /* nobjects: index of the slot, EV_NONE */
	struct ev_alt *of_object[2], *of_slot[2]; /* of single pairs, of runs */
	struct ev_pair *pairs;
	size_t npairs, pairs_cap;
	/* Objects, and behind them anchors, whose ends meet on the host; EV_NONE. */
	struct ev_link { uint32_t before, after; } *chain;
	unsigned habit;            /* of 1000 neighbours on the host, how many are neighbours in the guest */
	struct ev_item { uint64_t host; uint32_t item; } *line; /* objects and anchors, by host */
	uint32_t nline;
	double go_on[2][2];        /* path.c: how often the next on the host is the next in the guest, or a little further on */
	uint64_t checks;           /* fit.c: pairs whose structures may still be read and verified */
	struct ev_joints *joints;  /* NULL: of tables */
	double astray;             /* of the objects of a run, those that do not belong there */
	uint16_t *hops;            /* since the last object that its content placed */
};

/* scan.c: one pass over the objects */
int plt_ev_scan(struct ev *ev);
/* Bytes of [off, off+len) of an object without trailing zeros; -1 not known.  Multiples of EV_GRAIN. */
int64_t plt_ev_length(const struct ev *ev, uint32_t object, uint64_t off, uint64_t len);
uint16_t plt_ev_grain(const struct ev *ev, uint32_t object, uint64_t off);
/* An object's bytes, with zeros where it has none. */
int plt_ev_read_object(const struct ev *ev, uint32_t object, uint64_t off, void *buf, size_t len);
/* The same as it would show in a slot. */
int plt_ev_read_in_slot(const struct ev *ev, uint32_t object, uint32_t slot, uint64_t off, void *buf, size_t len);

/* view.c: the disk as far as it is known, and the filesystems on it */
uint32_t plt_ev_slot_from(const struct ev *ev, uint64_t off); /* of the first slot that ends after @off; nslots: none */
uint32_t plt_ev_slot_at(const struct ev *ev, uint64_t off); /* index of the slot that holds @off; EV_NONE */
int plt_ev_view_read(void *arg, uint64_t off, void *buf, size_t len);
int plt_ev_find_fs(struct ev *ev);

/* facts.c: what the filesystems say of the empty slots */
int plt_ev_survey(struct ev *ev);
size_t plt_ev_facts_of(const struct ev *ev, uint32_t slot); /* index of the first */
bool plt_ev_ends_from(const struct ev *ev, uint32_t slot);  /* with a file's last block the slot begins */
bool plt_ev_wanted(const struct ev *ev, uint32_t slot);     /* there is one */
/* Indexes into by_key of [ret, ret + n). */
size_t plt_ev_facts_by_key(const struct ev *ev, uint32_t key, size_t *ret);
uint32_t plt_ev_tail_key(uint64_t end, uint64_t value);
uint32_t plt_ev_owner_key(uint64_t value);

/* ends.c: how rare a length is */
int plt_ev_count_ends(struct ev *ev);
unsigned plt_ev_rarity(const struct ev *ev, unsigned fs, uint64_t len); /* bits */
#define EV_SLACK 16 /* bytes at the end of a file's block that may be zero as well */
double plt_ev_share(const struct ev *ev, unsigned fs, unsigned look);

/* fit.c: the same as a likelihood ratio, in bits */
double plt_ev_fit(struct ev *ev, uint32_t object, uint32_t slot);
double plt_ev_fit_anywhere(const struct ev *ev, uint32_t object);

/*
 * joints.c: how many times likelier it is that one object goes on in another than by chance. take: of an object's bytes
 * at @off; learn: when all have been taken.
 */
int plt_ev_joints_init(struct ev *ev);
void plt_ev_joints_take(struct ev *ev, uint32_t object, uint64_t off, const uint8_t *buf, size_t len);
void plt_ev_joints_learn(struct ev *ev);
/* Two that are known to be one file; learn() begins anew. */
void plt_ev_joints_seen(struct ev *ev, uint32_t before, uint32_t after);
void plt_ev_joints_free(struct ev_joints *joints);
double plt_ev_joint(const struct ev *ev, uint32_t before, uint32_t after);
double plt_ev_joints_beside(struct ev *ev, uint32_t object, uint32_t slot); /* with what is known before and behind the slot */
/* How the rest of the file looks that an object would be in here; files: as is known now. */
void plt_ev_joints_files(struct ev *ev);
double plt_ev_joints_file(const struct ev *ev, uint32_t object, uint32_t slot);
bool plt_ev_in_file(const struct ev *ev, uint32_t slot); /* a file goes on from before the slot */

/* path.c: what lies where, by the order on the host and the content of all together */
int plt_ev_path_init(struct ev *ev);
int plt_ev_path(struct ev *ev, bool likely, uint32_t *ret_n);

/* score.c: pairs of object and slot */
int plt_ev_score_all(struct ev *ev);
struct ev_pair plt_ev_score(const struct ev *ev, uint32_t object, uint32_t slot);

/* Slots in which a file ends as the object does somewhere, and how much each says. */
#define EV_CLAIMS_MAX 256
struct ev_claim { uint32_t slot, bits; };
size_t plt_ev_claims(const struct ev *ev, uint32_t object, struct ev_claim *ret);

/* All slots that an object's content suggests. */
size_t plt_ev_seeds(const struct ev *ev, uint32_t object, uint32_t *ret);

/* runs.c: objects that lie together on the host, judged together */
int plt_ev_runs(struct ev *ev, uint32_t *ret_n);

/* older.c: objects that are like what was in a slot before, and in how many sectors */
int plt_ev_compare_older(struct ev *ev);
const struct ev_like *plt_ev_likes_of(const struct ev *ev, uint32_t object, size_t *ret_n);

/* assign.c */
int plt_ev_assign(struct ev *ev, bool likely, uint32_t *ret_n);
/* What else was open to the two, unless that has been settled since: the best score. */
void plt_ev_alt_note(struct ev *ev, unsigned kind, uint32_t object, uint32_t slot, int score);
int plt_ev_alternative(const struct ev *ev, unsigned kind, uint32_t object, uint32_t slot);
/*
 * In the end what was only likely is judged once more, with all the rest: it goes, and comes back where the path has
 * nothing else to say of its object and its slot.  The places as they were; NULL: out of memory.
 */
struct ev_place *plt_ev_release(struct ev *ev);
void plt_ev_come_back(struct ev *ev, const struct ev_place *old);
void plt_ev_put(struct ev *ev, const struct ev_pair *pair, enum plt_certainty certainty, int second);

/* twins.c: objects that are all alike, where there are enough */
int plt_ev_twins(struct ev *ev, uint32_t *ret_n);

/* order.c: what lies between placed neighbours on the host */
int plt_ev_order_init(struct ev *ev);
/* The anchor beside an object on the host; NULL: another object, or nothing known. */
const struct plt_anchor *plt_ev_anchor_beside(const struct ev *ev, uint32_t object, int step);
unsigned plt_ev_order_support(const struct ev *ev, uint32_t object, uint32_t slot);
int plt_ev_order_grow(struct ev *ev, uint32_t *ret_n);

#endif
