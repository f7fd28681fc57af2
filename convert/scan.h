/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CONVERT_SCAN_H
#define PLT_CONVERT_SCAN_H

/*
 * A scan: one pass over a disk by a crew, which notes what it recognises (*hits*); then hits become objects, which
 * are judged with what lies around them, and may be carved out.
 *
 *	scan.c         the pass, bad sectors, what lies in what
 *	scan_find.c    what is recognised in a piece of the disk
 *	scan_images.c  what a header says of the rest of its image, and whether that is there
 *	scan_carve.c   writing to files
 *
 * Memory: a piece of 4 MiB a thread, SCAN_OBJECTS_MAX objects of some 250 bytes, SCAN_ONES_MAX positions of 8
 * bytes, and 16 bytes for each range of a map (SCAN_RANGES_MAX): less than 64 MiB beside the pieces, whatever the
 * disk holds.
 */
#include "base/error.h"
#include "base/extents.h"
#include "convert/convert.h"
#include "guestfs/supers.h"

#define SCAN_SECTOR 512
#define SCAN_PIECE (4u << 20)
#define SCAN_OBJECTS_MAX 65536
#define SCAN_ONES_MAX (1u << 20)
#define SCAN_RANGES_MAX (1u << 20)

struct scan_item {
	struct plt_scan_object o;   /* .detail and .carved point below, or are malloc */
	char detail[120];
	uint64_t fsid;
	char *carved;
};

struct scan_hits {
	struct scan_item *v;
	size_t n, cap;
	uint64_t *ones;             /* lone sectors of nothing but ones: bitmaps of VHD blocks look so */
	size_t nones, ones_cap;
	uint64_t omitted;
};

struct plt_scan {
	struct plt_ctx *ctx;
	struct plt_disk *disk;
	uint64_t size;
	struct plt_crew crew;
	uint64_t next;              /* crew.lock: the walk */
	uint64_t *at;               /* crew.lock: of each member the piece that it looks through; UINT64_MAX: none */
	unsigned members;
	const char *map;            /* written every now and then; NULL: none */
	uint64_t map_due;           /* crew.lock: when; a monotonic clock's nanoseconds */
	bool map_busy;              /* crew.lock: somebody writes it */
	struct scan_hits hits;      /* crew.lock while the pass runs */
	struct plt_extents bad;     /* crew.lock: unreadable */
	struct plt_extents skipped; /* crew.lock: not tried */
	struct plt_extents avoid;   /* what the map called bad; not changed by the pass */
	struct plt_scan_totals totals;
	struct plt_store *store;    /* the disk, to open what lies in it */
	struct plt_guest guest;     /* the same */
};

/* scan_find.c: what begins in [buf, buf+len), at @base; @avail >= len bytes can be looked at. */
void plt_scan_find(struct scan_hits *h, const uint8_t *buf, size_t len, size_t avail, uint64_t base);
struct scan_item *plt_scan_add(struct scan_hits *h, enum plt_scan_class kind, const char *what, uint64_t off, uint64_t len);

/* scan_images.c */
void plt_scan_judge(struct plt_scan *s);
/* scan_carve.c; what cannot be written is said of the object, and counted */
int plt_scan_carve_folder(const char *folder, struct plt_error *err);
int plt_scan_carve(struct plt_scan *s, const char *folder, struct plt_error *err);

#endif
