/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_QCOW2_H
#define PLT_QCOW2_QCOW2_H

/*
 * The driver's own state and prototypes.  Write order: every rule below is the right-hand side of one
 * line of the table in docs/formats/qcow2.md ("Order of writes"); a rule's number is its bit in
 * plt_image.rules_off, by which the power-cut tests switch it off and must then fail.
 */
#include "crypt/luks.h"
#include "formats/driver.h"
#include "qcow2/ondisk.h"

enum qcow2_rule {
	QCOW2_RULE_COUNT_L2,       /* data cluster: its count, with its path -> L2 entry */
	QCOW2_RULE_DATA_L2,        /* data, copied head and tail -> L2 entry */
	QCOW2_RULE_COUNT_L1,       /* new L2: its count, with its path -> L1 entry */
	QCOW2_RULE_TABLE_L1,       /* new L2, every sector -> L1 entry */
	QCOW2_RULE_BLOCK_TABLE,    /* new refcount block, every sector, counting itself -> table entry */
	QCOW2_RULE_TABLE_PATH,     /* refcount table entry -> all that relies on its counts */
	QCOW2_RULE_GONE_COUNT,     /* removal durable -> count -1 */
	QCOW2_RULE_GONE_PUNCH,     /* removal durable -> punch */
	QCOW2_RULE_GONE_REUSE,     /* removal durable, epochs drained, punch complete -> reuse */
	QCOW2_RULE_PUNCH_AT_ZERO,  /* punch only at count 0 */
	QCOW2_RULE_COMPRESSED_TAIL,/* the tail pointer is dropped when its cluster is freed */
	QCOW2_RULE_GROW_L1,        /* new L1 and its count -> header -> free the old one */
	QCOW2_RULE_GROW_REFTABLE,  /* new table and blocks -> header -> free the old one */
	QCOW2_RULE_DIRTY_SET,      /* lazy: dirty bit -> first entry ahead of its count */
	QCOW2_RULE_DIRTY_CLEAR,    /* everything -> dirty bit cleared */
	QCOW2_RULE_SHRINK,         /* header size -> entries removed */
	QCOW2_RULE_GROW_SIZE,      /* entries and bytes past the old end cleared -> header size */
	QCOW2_RULE_FORGET,         /* a freed table's dirty blocks are dropped before reuse */
	QCOW2_RULE_SNAPSHOT_COPIED,/* COPIED off in the tree -> its counts +1 */
	QCOW2_RULE_SNAPSHOT_TABLES,/* counts, L1, snapshot table -> header */
	QCOW2_RULE_SNAPSHOT_GONE,  /* header -> counts of what it named -1 */
	QCOW2_RULE_BITMAPS_NEW,    /* new bitmaps, their tables and directory, counts -> header */
	QCOW2_RULE_BITMAPS_GONE,   /* header -> counts of what the old directory named -1 */
	QCOW2_RULES
};

static inline bool qcow2_rule(const struct plt_image *img, enum qcow2_rule r)
{
	return !(img->rules_off >> r & 1);
}

/* Metadata types, in rank order. */
extern const struct plt_meta_type qcow2_refblock_type, qcow2_reftable_type, qcow2_l2_type, qcow2_l1_type;

/* A header extension that is kept byte for byte. */
struct qcow2_unknown_ext {
	uint32_t type, length;
	uint8_t *data;
};

struct qcow2_snapshot {
	struct plt_snapshot_info info;  /* id, name owned here */
	uint64_t l1_offset;
	uint32_t l1_size;
	uint8_t *extra;                 /* extra data as found */
	uint32_t extra_size;
};

/* A persistent bitmap of the image. */
struct qcow2_bitmap {
	char *name;
	uint32_t flags;                 /* as on disk when opened */
	uint32_t granularity_bits;
	uint64_t table_offset;
	uint32_t table_size;
	uint8_t *extra;
	uint32_t extra_size;
	bool recording;                 /* our writes are recorded */
	bool loaded;                    /* words hold its content; stored at close if we marked it */
	uint32_t disk_table_size;       /* entries of the table on disk; table_size is what it will have */
	bool inconsistent;              /* in_use when opened, or unusable */
	_Atomic bool changed;           /* bits set since it was loaded */
	uint64_t dir_pos;               /* file offset of its directory entry */
	uint64_t nbits;
	uint64_t held;                  /* bytes of words that the file makes us keep: what lies between was never touched */
	_Atomic uint64_t *words;        /* bit i of word i/64: granule i has been written */
};

/* What the bitmaps of an image take of memory. */
struct qcow2_bitmap_room {
	uint64_t space, held;           /* bytes of words; of these in pages that are touched */
};

/* What qcow2_header_replace() turns into the first cluster. */
struct qcow2_state {
	/* the header, in host order; changed under the image lock */
	uint32_t version, cluster_bits, refcount_order, header_length;
	uint32_t crypt_method;
	uint64_t virtual_size;          /* as recorded; img->size is its 512-byte floor */
	uint64_t l1_offset, snapshots_offset;
	uint32_t l1_size, nb_snapshots;
	_Atomic uint64_t reftable_offset;   /* map reads these two without a lock while the table grows: the */
	_Atomic uint32_t reftable_clusters; /* offset is stored first and loaded last */
	uint64_t incompatible, compatible, autoclear;
	uint64_t ignore;                /* set before the header is read: unknown incompatible features that do not count */
	uint64_t ignored;               /* of these the ones that the header has; incompatible has none of them */
	enum qcow2_compression compression;
	uint8_t *header_tail;           /* header bytes past 112, kept */
	uint32_t header_tail_len;
	struct qcow2_unknown_ext *unknown;
	unsigned nunknown;
	uint8_t *feature_table;         /* the feature name extension as found; NULL: none */
	uint32_t feature_table_len;
	char *data_file_name;           /* the extension's text; NULL: none */
	uint64_t luks_offset, luks_length;
	/* bitmaps extension as found (nb_bitmaps 0: none) */
	uint32_t nb_bitmaps;
	uint64_t bitmap_dir_offset, bitmap_dir_size;

	/* encrypt.c */
	struct plt_luks *luks;          /* NULL: not LUKS, or not readable (check) */
	struct plt_cipher *aes;         /* the legacy kind's own */
	struct plt_cipher *cipher;      /* of data clusters: one of the two; NULL: none, or locked */

	/* derived */
	uint32_t cluster_size;
	uint32_t l2_bits;               /* log2 of entries in an L2 table */
	uint32_t l2_entry_size;         /* 8, or 16 with extended entries */
	bool extl2;
	uint32_t sub_bits;              /* log2 of the subcluster size; cluster_bits without extended entries */
	uint32_t refcount_bits;         /* 1 << refcount_order */
	uint64_t refcount_max;
	uint32_t rb_bits;               /* log2 of counts in one refcount block */
	bool external;                  /* data lies in a data file; never changes, unlike the feature words */
	bool data_file_raw;

	/* the view that map shows: the active L1, or a snapshot's */
	uint64_t view_l1_offset;
	uint32_t view_l1_size;
	bool view_snapshot;

	struct qcow2_snapshot *snapshots;
	struct qcow2_bitmap *bitmaps;
	unsigned nbitmaps;

	/* allocation (qcow2/refcount.c), image lock */
	uint64_t free_hint;             /* cluster index: none below is known to be free */
	uint64_t file_clusters;         /* clusters that the file's length covers, rounded up: above, all is fresh */
	uint64_t comp_tail;             /* next free byte of the last compressed host cluster; 0: none */
	bool lazy;                      /* lazy refcounts in force: compatible bit and option */
	bool dirty_on_disk;

	struct qcow2_guard *_Atomic guard; /* guard.c; NULL until the first write */
	_Atomic bool corrupt;           /* a write on metadata was prevented: no more of them */

	/* header.c, open.c, snaptable.c, bitmaps.c */
	bool bitmaps_damaged;           /* extension or directory unusable: clusters kept, bitmaps not */
	bool bitmaps_recording;         /* some bitmap records our writes */
	bool bitmaps_marked;            /* those that do are marked in use on the disk: writes have begun */
	pthread_rwlock_t bitmaps_lock;  /* read: record; write: a bitmap gets another length */
	bool dirty_set;                 /* we set the dirty bit, and clear it when closing */
	pthread_mutex_t header_lock;    /* one header write at a time; inside it only the image lock */
	unsigned unsettled_from; /* header bytes of a switch that failed, up to */
	_Atomic unsigned unsettled_to; /* (0: none): see qcow2_header_settle() */
	const char *unmappable;         /* why guest data cannot be reached here; NULL: it can */
	uint64_t snapshots_size;        /* bytes of the snapshot table as found */
	struct plt_snapshot_info *snapshot_infos; /* what snapshots_list() hands out */
	struct plt_bitmap_info *bitmap_infos;     /* what bitmaps_list() hands out */
};

static inline struct qcow2_state *qcow2_of(const struct plt_image *img)
{
	return img->priv;
}

/* header.c: parse and write the first cluster */
int qcow2_header_read(struct plt_store *file, const char *name, bool check, struct qcow2_state *q,
		      char **ret_backing, char **ret_backing_format, struct plt_error *err);
/* Build the whole header area (header, extensions, backing name) of at most one cluster. */
int qcow2_header_build(const struct qcow2_state *q, const char *backing, const char *backing_format,
		       uint8_t *buf /* cluster_size bytes */, size_t *ret_len, struct plt_error *err);
/*
 * One write of header bytes [from, to) as q describes them now, then a sync: what every switch of a
 * table goes through.  Synchronous, never a cache edge.
 */
int qcow2_header_switch(struct plt_image *img, unsigned from, unsigned to, struct plt_error *err);
/*
 * All of it as q describes it now, in place of anything: what counts is switched by one write of the
 * first sector; the names of the features follow.  Durable.  A backing file name too long for that sector is
 * written where nothing is, before.  -ENOSPC: the rest is too long for it, or there is no such place.
 */
int qcow2_header_replace(struct plt_image *img, struct plt_error *err);
/*
 * After a switch that failed the disk may have either header.  Whoever changes a table that only one of
 * them names calls this first, and so does a flush: it writes what the switch had written, as q describes
 * it now (which is as before the switch), and must succeed.
 */
int qcow2_header_settle(struct plt_image *img, struct plt_error *err);
void qcow2_state_release(struct qcow2_state *q);

/* amend.c */
extern const struct plt_opt_desc qcow2_amend_opts[];
int qcow2_amend(struct plt_image *img, const struct plt_opts *opts, enum plt_amend_phase phase, bool *ret_plain,
		struct plt_error *err);
/* recount.c: counts of another width.  EINVAL from check_width: one of them does not fit. */
int qcow2_check_width(struct plt_image *img, uint32_t order, struct plt_error *err);
int qcow2_change_width(struct plt_image *img, uint32_t order, struct plt_error *err);

int qcow2_state_derive(struct qcow2_state *q); /* the fields under "derived", from the header's */
/* Entries that an L1 for @size guest bytes needs. */
uint64_t qcow2_l1_entries(const struct qcow2_state *q, uint64_t size);
/* EFBIG "@what too large", EINVAL "@what offset invalid": limits of any table the file names. */
int qcow2_check_table(const struct qcow2_state *q, uint64_t off, uint64_t entries, uint64_t entry_len,
		      uint64_t max_bytes, const char *what, struct plt_error *err);
int qcow2_feature_table_default(struct qcow2_state *q);
/* Record another backing file (NULL or "": none) and write the header.  The caller is exclusive. */
int qcow2_set_backing(struct plt_image *img, const char *name, const char *format, unsigned flags,
		      struct plt_error *err);

/* open.c */
int qcow2_probe(const uint8_t *buf, size_t len, uint64_t size);
/* EUCLEAN unless [off, off+len) is inside the file, whose last cluster may be cut short. */
int qcow2_table_in_file(const struct qcow2_state *q, uint64_t file_size, uint64_t off, uint64_t len,
			const char *what, struct plt_error *err);
int qcow2_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err);
int qcow2_close(struct plt_image *img, struct plt_error *err);
int qcow2_first_write(struct plt_image *img, struct plt_error *err);
json_t *qcow2_info(struct plt_image *img);

/* One extern table: qcow2/driver.c. */
extern const struct plt_driver qcow2_driver;
extern const struct plt_opt_desc qcow2_open_opts[];

/* recover.c: the recount of a dirty image at open for writing; only raises counts */
int qcow2_recover(struct plt_image *img, struct plt_error *err);

/* encrypt.c */
struct qcow2_encrypt_wish {
	uint32_t method;                /* enum qcow2_crypt */
	const char *key_secret;         /* borrowed from the options */
	struct plt_luks_params luks;
};
int qcow2_encrypt_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err);
void qcow2_encrypt_release(struct qcow2_state *q);
/* The number by which the sector is encrypted that lies at @guest_off and @host_off. */
uint64_t qcow2_iv_sector(const struct qcow2_state *q, uint64_t guest_off, uint64_t host_off);
struct plt_luks *qcow2_luks(struct plt_image *img);
/* What the create options say of encryption. */
int qcow2_encrypt_parse(const struct plt_opts *o, struct qcow2_encrypt_wish *ret, struct plt_error *err);
/* The secret of a new image; nothing if it is not encrypted. */
int qcow2_encrypt_secret(struct plt_ctx *ctx, const struct qcow2_encrypt_wish *w, struct plt_secret *ret,
			 struct plt_error *err);

/* map.c */
int qcow2_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len,
	      struct plt_runs *runs, struct plt_need *need, struct plt_error *err);

/* place.c */
int qcow2_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req,
		struct plt_place *ret, struct plt_need *need, struct plt_error *err);
void qcow2_publish(struct plt_image *img, struct plt_place *place);
void qcow2_withdraw(struct plt_image *img, struct plt_place *place);

/* work.c */
int qcow2_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err);

/* zero.c */
int qcow2_write_zeroes(struct plt_image *img, uint64_t off, uint64_t len, bool unmap, uint64_t *ret_done,
		       struct plt_need *need, struct plt_error *err);
/* The file ends behind the last cluster in use.  The caller is exclusive. */
int qcow2_cut_file(struct plt_image *img, struct plt_error *err);
int qcow2_trim(struct plt_image *img, bool trial, uint64_t *ret, struct plt_error *err);
int qcow2_uncover(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
		  struct plt_need *need, struct plt_error *err);
int qcow2_discard(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done,
		  struct plt_need *need, struct plt_error *err);

/* refcount.c, rows.c: counts, free-space search, rows of clusters, growth of the refcount table */
/*
 * Blocking allocation of @n contiguous clusters (counts raised to 1 in the cache), for tables and
 * whole-image work.  Never with the image lock held.
 */
int qcow2_alloc(struct plt_image *img, uint64_t n, uint64_t *ret_host_off, struct plt_error *err);
/* Blocking: add @delta to each cluster's count.  Lowering expects the removal to be durable already. */
int qcow2_count_add(struct plt_image *img, uint64_t host_off, uint64_t len, int delta, struct plt_error *err);
/* At least @n clusters of the file are in use.  Blocking; false too if that cannot be found out. */
bool qcow2_counts_at_least(struct plt_image *img, uint64_t n);
int qcow2_count_get(struct plt_image *img, uint64_t host_off, uint64_t *ret, struct plt_error *err);
int qcow2_release(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind, struct plt_error *err);

/* create_opts.c: what the options of a new image mean together; sets the header fields they decide */
extern const struct plt_opt_desc qcow2_create_opts[];
enum qcow2_prealloc {
	QCOW2_PREALLOC_OFF, QCOW2_PREALLOC_METADATA, QCOW2_PREALLOC_FALLOC, QCOW2_PREALLOC_FULL,
};
int qcow2_create_parse(const struct plt_opts *o, struct qcow2_state *q, struct qcow2_encrypt_wish *ret_encrypt,
		       enum qcow2_prealloc *ret_prealloc, struct plt_error *err);
int qcow2_measure_parse(const struct plt_opts *o, struct qcow2_state *q, struct qcow2_encrypt_wish *ret_encrypt,
			enum qcow2_prealloc *ret_prealloc, struct plt_error *err);

/* create.c */
int qcow2_create(const struct plt_create *how, struct plt_error *err);
int qcow2_measure(const struct plt_opts *opts, uint64_t size, uint64_t data, uint64_t *ret_required,
		  uint64_t *ret_full, struct plt_error *err);
int qcow2_measure_bitmaps(const struct plt_opts *opts, uint64_t size, const struct plt_bitmap_info *v,
			  unsigned n, uint64_t *ret);

/* snaptable.c */
int qcow2_snapshots_load(struct plt_image *img, struct plt_error *err);
/* The same from a bare store: fills q->snapshots.  On failure q->nb_snapshots is the header's, no more. */
int qcow2_snaptable_read(struct plt_store *file, uint64_t file_size, struct qcow2_state *q, struct plt_error *err);
int qcow2_snapshots_list(struct plt_image *img, const struct plt_snapshot_info **ret, unsigned *ret_n);
void qcow2_snapshots_release(struct qcow2_state *q);
/* The table of @n snapshots as the file has it; malloc.  -EFBIG: larger than a table may be. */
int qcow2_snaptable_build(const struct qcow2_snapshot *v, uint32_t n, uint8_t **ret, uint64_t *ret_size,
			  struct plt_error *err);

/* snapshot.c; the caller is exclusive: reads may pass at create and delete, nothing at apply */
int qcow2_snapshot_create(struct plt_image *img, const struct plt_snapshot_info *info, struct plt_error *err);
int qcow2_snapshot_delete(struct plt_image *img, unsigned index, struct plt_error *err);
int qcow2_snapshot_apply(struct plt_image *img, unsigned index, struct plt_error *err);
int qcow2_make_empty(struct plt_image *img, bool trial, struct plt_error *err);

/* bitmaps.c */
int qcow2_bitmaps_load(struct plt_image *img, struct plt_error *err);    /* directory; contents if writable */
int qcow2_bitmaps_mark_in_use(struct plt_image *img, struct plt_error *err); /* from first_write */
void qcow2_bitmaps_record(struct plt_image *img, uint64_t off, uint64_t len); /* any thread; atomic */
/*
 * Before a resize, img->size being the old one: all are loaded.  EINVAL if one is marked in use by
 * somebody else, EFBIG if one could not cover @size.  The resize itself: they are marked in use on the
 * disk, given the new length (what is new is not set) and stored at close.  The caller is exclusive.
 */
int qcow2_bitmaps_prepare_resize(struct plt_image *img, uint64_t size, struct plt_error *err);
int qcow2_bitmaps_resize(struct plt_image *img, uint64_t size, struct plt_error *err);
int qcow2_bitmaps_store(struct plt_image *img, struct plt_error *err);   /* from close */
/* Fill in b->words.  @room: what the image's other bitmaps take, and this one with them; NULL: one alone. */
int qcow2_bitmap_load(struct plt_image *img, struct qcow2_bitmap *b, uint64_t file_size, struct qcow2_bitmap_room *room,
		      struct plt_error *err);
/* Would @bytes more fit? */
bool qcow2_bitmap_fits(const struct qcow2_bitmap_room *room, uint64_t bytes);
/* Data and table of one bitmap into fresh clusters, whose counts are in the cache. */
int qcow2_bitmap_store(struct plt_image *img, struct qcow2_bitmap *b, uint64_t *ret_table, struct plt_error *err);

/* Lower the counts of a table and of what it names, as far as that can be: what goes wrong leaks space. */
void qcow2_bitmap_free(struct plt_image *img, const uint64_t *table, uint32_t entries, uint64_t table_offset);
/* The table on the disk, in host order; malloc.  NULL: *err says why. */
uint64_t *qcow2_bitmap_table(struct plt_image *img, const struct qcow2_bitmap *b, struct plt_error *err);

/* bitmap_dir.c */
/* The directory alone, from a bare store: fills q->bitmaps.  -EUCLEAN: damaged. */
int qcow2_bitmap_directory(struct plt_store *file, uint64_t file_size, struct qcow2_state *q, struct plt_error *err);
void qcow2_bitmaps_release(struct qcow2_state *q);
int qcow2_bitmaps_list(struct plt_image *img, const struct plt_bitmap_info **ret, unsigned *ret_n);

/* bitmap_set.c */
int qcow2_bitmap_read(struct plt_image *img, unsigned i, uint64_t **ret, uint64_t *ret_nbits, struct plt_error *err);
int qcow2_bitmaps_set(struct plt_image *img, const struct plt_bitmap_wish *v, unsigned n, struct plt_error *err);

/* resize.c */
int qcow2_vm_state_room(struct plt_image *img, uint64_t end, struct plt_error *err);
int qcow2_grow(struct plt_image *img, uint64_t size, struct plt_error *err);
int qcow2_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err);

/* check.c */
int qcow2_examine(struct plt_examine *ex, struct plt_error *err);

#endif
