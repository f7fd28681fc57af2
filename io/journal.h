/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_JOURNAL_H
#define PLT_IO_JOURNAL_H

/*
 * Undo journals: what a repair is about to change, the bytes before and the bytes after, so that it can be
 * finished or taken back whenever it was interrupted.  The format is in docs/formats/undo.md.
 *
 *	writing    records are being written; the image is untouched, the journal means nothing
 *	complete   all of them are durable; the image may hold any mixture of before and after, sector by
 *	           sector: it must be finished (apply) or taken back (rollback) before anything else
 *	applied    the image holds the after
 *	undone     the image holds the before
 *
 * A journal is a store like any other; that its folder entry is durable is left to whoever made the file.
 * Not thread-safe.
 */
#include "io/store.h"

enum plt_journal_state {
	PLT_JOURNAL_WRITING = 1,
	PLT_JOURNAL_COMPLETE,
	PLT_JOURNAL_APPLIED,
	PLT_JOURNAL_UNDONE,
};

#define PLT_JOURNAL_STORES 16

/* One of the stores that it changes.  Texts are copied by begin, and owned by the journal it gives. */
struct plt_journal_store {
	const char *role; /* "image", "data file", ... */
	const char *name; /* path when it was made: for a person; what proves identity are the bytes */
	uint64_t size_before, size_after;
};

struct plt_journal_info {
	enum plt_journal_state state;
	uint8_t id[16];          /* of the plan: random */
	const char *format;
	const char *predecessor; /* the journal of the repair before this one; NULL: none */
	const char *created;     /* ISO 8601 */
	unsigned nstores;
	struct plt_journal_store stores[PLT_JOURNAL_STORES];
	uint64_t lost, inferred; /* bytes of the disk, as the repair leaves it */
	uint32_t records;
	uint64_t bytes;          /* that change */
};

struct plt_journal;

/*
 * A new one in @file (empty).  @info: format, predecessor, created, lost, inferred, and of the stores role and
 * name.  @stores are as many; their sizes are looked at now.  The journal takes references.
 */
int plt_journal_begin(struct plt_store *file, const struct plt_journal_info *info, struct plt_store *const *stores,
		      struct plt_journal **ret, struct plt_error *err);
/*
 * The byte at @off of store 0 is @mid as long as the repair is under way (a flag that keeps other programs
 * away).  Before any record.
 */
int plt_journal_add_mark(struct plt_journal *j, uint64_t off, uint8_t mid, struct plt_error *err);
/* The store grows to @size; before records that lie there.  It never shrinks. */
int plt_journal_add_size(struct plt_journal *j, unsigned store, uint64_t size, struct plt_error *err);
/* [off, off+len) becomes @after (NULL: zeros); what is there now is read.  Ranges ascend, and are disjoint. */
int plt_journal_add(struct plt_journal *j, unsigned store, uint64_t off, const void *after, uint64_t len,
		    struct plt_error *err);
/* Durably complete. */
int plt_journal_complete(struct plt_journal *j, struct plt_error *err);

/*
 * One that exists.  Everything in it is checked, its records too; EUCLEAN says what is wrong.  One whose
 * state is "writing" is opened all the same: it has no records then.
 */
int plt_journal_open(struct plt_store *file, struct plt_journal **ret, struct plt_error *err);
/*
 * The name of the @n-th journal (from 1) beside the image @image: IMAGE.platter-undo, IMAGE.platter-undo.2 and so
 * on; beside the file itself where @image is a symbolic link, so that it is found whatever name the file is opened
 * by.  malloc; NULL: no memory.
 */
char *plt_journal_name(const char *image, unsigned n);
/* Only its state: 0, -ENOENT if @file is no journal, or what kept it from being read. */
int plt_journal_peek(struct plt_store *file, enum plt_journal_state *ret, struct plt_error *err);
/* As many as info says, in that order; for one that was opened.  References are taken. */
void plt_journal_attach(struct plt_journal *j, struct plt_store *const *stores);
const struct plt_journal_info *plt_journal_info(const struct plt_journal *j);
void plt_journal_free(struct plt_journal *j);

/*
 * Do what is recorded, durably, and say so in the journal.  Of a journal that is complete the image may
 * hold any mixture; of one that is applied, rollback demands that it is exactly the after, and apply has
 * nothing to do.  EUCLEAN: the image is something else; nothing has been written then.
 */
int plt_journal_apply(struct plt_journal *j, struct plt_error *err);
int plt_journal_rollback(struct plt_journal *j, struct plt_error *err);

#endif
