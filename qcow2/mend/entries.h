/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_MEND_ENTRIES_H
#define PLT_QCOW2_MEND_ENTRIES_H

/*
 * Single entries of an L2 table, and what can be said of them: whether they can be, whether one bit was turned, who else
 * names what they name.
 */
#include "qcow2/check.h"

enum qcow2_verdict {
	QCOW2_ENTRY_EMPTY,
	QCOW2_ENTRY_FINE,
	QCOW2_ENTRY_BEYOND, /* well formed, but behind the end of the file */
	QCOW2_ENTRY_ZEROS,  /* it reads as zeros whatever place it names; that cannot be */
	QCOW2_ENTRY_BAD,
};

/* A pass over the tables of a tree, and the table at hand. */
struct qcow2_tables {
	struct qcow2_exam *x;
	const struct qcow2_tree *t;
	uint64_t far;          /* no entry of this image ever named a place behind this */
	uint8_t *table, *fresh, *other;
	bool *lost;            /* of the table at hand, by entry: taken out */
	uint64_t guest;        /* where the table at hand begins */
	uint32_t rebuilt, looks;
	bool garbage_only;     /* in this pass */
	bool sector_seen, written_over; /* of the L1 table: the sector that begins with this entry */
	uint32_t sector;
};

/* The entry at @i of the bytes of a table; *ret_bitmap: of an extended one, else 0. */
uint64_t qcow2_slot_get(const struct qcow2_state *q, const uint8_t *table, uint32_t i, uint64_t *ret_bitmap);
void qcow2_slot_put(const struct qcow2_state *q, uint8_t *table, uint32_t i, uint64_t e, uint64_t bitmap);
enum qcow2_verdict qcow2_entry_judge(const struct qcow2_tables *t, uint64_t e, uint64_t bitmap);
/* In an external data file the guest's bytes lie where the guest has them. */
bool qcow2_entry_is_elsewhere(const struct qcow2_tables *t, uint32_t i, uint64_t e);
/*
 * Is this sector of a table none any more?  At least two entries and a quarter of them cannot be: one alone is an
 * entry with a bit turned.
 */
bool qcow2_sector_is_overwritten(const struct qcow2_tables *t, const uint8_t *table, uint32_t first);
/*
 * The entry that became this one by one bit: it names a cluster that nothing else reaches; or only
 * a reserved bit is too many, and the cluster is its own.  0: none, or several.
 */
uint64_t qcow2_entry_unturn(const struct qcow2_tables *t, uint64_t e, uint64_t bitmap);
/* A cluster that is named more often than it is counted: one of those that name it may mean another. */
bool qcow2_entry_is_claimed_twice(const struct qcow2_tables *t, uint64_t e);
/* How many of its neighbours in the table go on to this place? */
unsigned qcow2_entry_support(const struct qcow2_tables *t, uint32_t i, uint64_t e);

#endif
