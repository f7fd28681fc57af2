/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_FIND_H
#define PLT_QCOW2_FIND_H

/*
 * What a file shows of itself when its header is not believed: find.c looks through all of it once, find_tables.c says
 * what that can be, header.c makes a header of it.
 */
#include "qcow2/check.h"

/* 512 bytes that could be part of a table. */
struct qcow2_sight {
	uint64_t off;
	uint32_t n;     /* entries */
	uint8_t align;  /* what they name lies at multiples of 1 << align */
	bool pairs;     /* only as a table of extended entries */
	uint8_t own;    /* the places are the guest's own offsets in clusters of 1 << own; 0: they are not */
	bool own_pairs; /* as a table of extended entries */
};

/* A table of one cluster, by shape. */
struct qcow2_found_table {
	uint64_t off;
	uint32_t n;       /* entries */
	uint32_t tables;  /* of them, that name tables */
	bool l1;          /* and all of them do */
	bool zeros, compressed;
	uint32_t named;   /* the last cluster, counted as they are looked at, that names it */
	uint64_t base;    /* over an external data file: the guest offset that its entries begin with */
};

/* At most 72 MiB of memory, and 1 MiB a thread: what is seen beyond that is not noted. */
#define QCOW2_MAX_SIGHTS (UINT32_C(4) << 20)

struct qcow2_find {
	struct plt_ctx *ctx;
	struct plt_store *file;
	uint64_t file_size;
	uint64_t bound;           /* no entry names a place behind it: much may have been cut off the file */
	unsigned hint;            /* cluster size that the header has, if it can be; 0: none */
	uint64_t hint_reftable;   /* place of the refcount table by the header */
	unsigned hint_order;      /* width of the counts by the header; 4: it says none */
	struct qcow2_exam x;      /* as much of one as the shape of tables needs: cluster size, version, file size */

	/* find.c */
	struct qcow2_sight *v;
	uint32_t n, cap;
	uint64_t part;            /* of the file, that is looked through in one go */
	pthread_mutex_t lock;
	uint64_t luks;            /* places of the first LUKS header, and of ...; UINT64_MAX: none */
	uint64_t gpt;             /* ... the cluster that holds a disk's first GPT header */
	uint64_t gpt_size;        /* of the disk, as that says; 0: none, or several that differ */
	bool gpt_several;

	/* find_tables.c */
	struct qcow2_found_table *t;
	uint32_t nt;
	uint32_t large;           /* of them, that are tables for sure */
	uint32_t looks;           /* clusters that have been looked at as L1 tables */
	bool external;            /* tables name the guest's own offsets: data is in another file */
	bool usual;               /* no table of clusters is there, but the first four clusters are those of an image */
	bool is_qcow2;            /* there are tables enough */
	uint64_t l1_offset;       /* 0: not found */
	bool l1_marked;           /* its tables have marks (COPIED), which a snapshot's have not */
	uint32_t l1_size;         /* entries up to the end of its last cluster */
	uint32_t l1_used;         /* up to the last that is used */
	uint64_t reftable_offset; /* 0: not found */
	uint32_t reftable_clusters;
	unsigned refcount_order;
	uint64_t mapped_end;      /* of the guest's last cluster that is mapped */
	uint64_t guest_start;     /* host place of the guest's first cluster, 0: not mapped or compressed */
	bool zstd;
	bool l1_is_snapshots;     /* the L1 table that was found is none of the disk's */
	uint64_t made_size;       /* of the disk, if the L1 table is to be made anew */
};

/* Clusters of that size, and tables of that kind, from now on. */
void qcow2_find_assume(struct qcow2_find *f, unsigned cluster_bits, bool extl2);
/* find_external.c: 512 bytes of a table over an external data file, of entries of @step bytes?  sight->own, ->n */
bool qcow2_sight_own(const uint8_t *p, unsigned step, struct qcow2_sight *s);
/* Is it an image with an external data file?  Then cluster size and kind are assumed.  @buf: room for the largest cluster. */
void qcow2_find_external(struct qcow2_find *f, uint8_t *buf);

/* find_usual.c: is an image, as QEMU begins it, all that is left of it? */
bool qcow2_find_usual(struct qcow2_find *f);

uint64_t qcow2_find_bound(uint64_t file_size);
/* One pass over the file. */
int qcow2_find_sights(struct qcow2_find *f);
/* What it adds up to: cluster size, tables, which is which. */
int qcow2_find_tables(struct qcow2_find *f);
/*
 * Of a file of which somebody says that it is an image: are there tables at all?  If no L1 table of the disk is among them,
 * it goes behind the end of the file, for a disk as large as the guest says, or as the tables can map: made_size.  It is to
 * be written as zeros; what belongs where is found out later.
 */
bool qcow2_find_l1_place(struct qcow2_find *f);
/* Does some table name the cluster at @off? */
bool qcow2_find_maps(struct qcow2_find *f, uint64_t off);
/* Is there an L1 table, as far as a look at its beginning tells, of an image with clusters of that size? */
bool qcow2_l1_fits(const struct qcow2_find *f, uint64_t l1_offset, uint32_t l1_size, unsigned cluster_bits);
/* Of the entries to which the beginning of the L1 table leads, how many in 1000 cannot be?  1000 if it leads to none. */
unsigned qcow2_astray(struct plt_store *file, const struct qcow2_state *q);
#define QCOW2_ASTRAY_SOME 60 /* so many, and what the header says is looked into */
/* Is what lies right before an L1 table of several clusters a part of one, too? */
bool qcow2_begins_earlier(struct plt_store *file, const struct qcow2_state *q);
bool qcow2_leads_nowhere(struct plt_store *file, const struct qcow2_state *q); /* more than a quarter */
/* Is most of what the L1 table has behind the @need entries that the disk needs no entry at all? */
bool qcow2_l1_runs_over(struct plt_store *file, uint64_t l1_offset, uint64_t need, uint32_t l1_size, unsigned cluster_bits);
void qcow2_find_release(struct qcow2_find *f);

/*
 * header.c: the header cannot be read (@read_error), or nothing that it says leads to a table.  0: it is whole again,
 * in the overlay; -ENOENT: there is nothing to go by, or no reason to.
 */
int qcow2_mend_header(struct plt_examine *ex, int read_error, unsigned astray, struct plt_error *err);
/* size.c: the header says AES, but the guest's disk begins as one that is not encrypted. */
bool qcow2_crypt_is_wrong(struct plt_store *file, const struct qcow2_state *q);
/* Is this a qcow2 image whose header is gone?  1, 0 or an errno; @quick: as QEMU begins one, else 0. */
int qcow2_recognise(struct plt_ctx *ctx, struct plt_store *file, bool quick, struct plt_error *err);

#endif
