/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_EVIDENCE_H
#define PLT_REPAIR_EVIDENCE_H

/*
 * Evidence: where do pieces of a disk belong whose map is lost?  Guests write structures that carry
 * their own address or a checksum that depends on it, and metadata that says where each file ends.
 * From these, and from the order in which hosts allocate, pieces are scored against the empty places
 * of a disk that is partly known; what becomes readable is evidence for the next round.
 *
 * Time is near linear in the bytes of the objects (each is read once in full, and in places again in
 * each of at most 32 rounds) and in the metadata of the guest's filesystems.  Memory: 1/256 of what the
 * objects hold, at most 256 MiB, and 4 bytes for each 64 KiB of span; 40 bytes a mark (at most 4 Mi),
 * 40 a fact (8 Mi), 32 a vote of a run (4 Mi), 40 an anchor;
 * 40 MiB for a path; 16 a sector that older versions are compared with (4 Mi); 160 bytes an object and 210 a slot,
 * and 32 for each of the at most 12 slots that an object is scored for.  With more data than that, objects are
 * looked at in samples, and further facts are not taken.
 */
#include <stddef.h>
#include <stdint.h>

#include "formats/finding.h"

struct plt_ctx;
struct plt_error;

/* A disk of which parts are missing. */
struct plt_puzzle {
	uint64_t disk_size;
	uint32_t unit; /* bytes of a cluster: a power of two from 512 to 64 MiB */
	uint64_t span; /* guest bytes that an object covers: a multiple of unit (unit, or unit * entries of a table) */
	/*
	 * What is known of the disk: 0; -ENODATA where nothing is (an empty slot); another errno: cannot
	 * be read.  What is known to be unallocated reads as zeros.
	 */
	int (*read_disk)(void *arg, uint64_t off, void *buf, size_t len);
	/*
	 * Bytes [off, off+len) of object i, never across a unit.  -ENODATA: it has none there (an entry
	 * that maps nothing: zeros to the guest).
	 */
	int (*read_object)(void *arg, uint32_t object, uint64_t off, void *buf, size_t len);
	/*
	 * Of an object that has some sectors itself, and elsewhere shows what read_older gives for its slot: 1, it has
	 * [off, off + *ret_len) itself, or 0, it does not; *ret_len at most @len.  NULL: what read_object reads is all there is.
	 * Most slots of such a disk need no object: when nothing more is sure, filesystems are read through them.
	 */
	int (*owns)(void *arg, uint32_t object, uint64_t off, uint64_t len, uint64_t *ret_len);
	/*
	 * Where on the host the object's byte at @off (the start of a unit) lies, for the allocator's habit; 0:
	 * unknown, or it has none there.  May be NULL.
	 */
	uint64_t (*host_of)(void *arg, uint32_t object, uint64_t off);
	/* What is mapped, and known, near the objects on the host, unit by unit, ascending by host; for objects of one unit. */
	const struct plt_anchor { uint64_t host, guest; } *anchors;
	uint32_t nanchors;
	/* What the guest had at a slot some time before; another errno than 0: not known.  May be NULL. */
	int (*read_older)(void *arg, uint64_t off, void *buf, size_t len);
	uint32_t nobjects;
	const uint64_t *slots; /* guest offsets at which an object is missing: ascending, multiples of span */
	uint32_t nslots;
	void *arg;
	struct plt_ctx *ctx; /* or NULL */
};

struct plt_placement {
	uint32_t object;
	uint64_t slot;
	enum plt_certainty certainty;
	int score, second; /* and the best of what competed with it */
	char why[96];
};

/*
 * Placements, each object and each slot at most once, by slot; free() them.  Objects without one were
 * not placed: nothing speaks for any slot, or their place is taken.  -EINVAL: the puzzle is not as
 * described; -ENOMEM; an errno of read_object does not end the search.
 */
int plt_evidence_place(const struct plt_puzzle *p, struct plt_placement **ret, uint32_t *ret_n,
		       struct plt_error *err);

#endif
