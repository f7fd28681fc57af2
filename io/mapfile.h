/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_MAPFILE_H
#define PLT_IO_MAPFILE_H

/*
 * Maps of a medium as ddrescue keeps them: lines of "position size status".  Statuses: '+' has been read, '-' is bad, '?' was
 * not tried, '*' and '/' were not tried sector by sector.
 */
#include <stdbool.h>

#include "base/extents.h"
#include "platter.h"

#define PLT_MAPFILE_LINES (1u << 20)

struct plt_mapline {
	uint64_t off, len;
	char status;
};

/* Ascending and disjoint. */
struct plt_mapfile {
	struct plt_mapline *v;
	size_t n, cap;
};
#define PLT_MAPFILE_INIT { 0 }

/* -ENOENT; -EINVAL: it is no map, or not in order; -E2BIG: it has more lines than are taken. */
int plt_mapfile_read(const char *path, struct plt_mapfile *ret, struct plt_error *err);
/* Behind all others; joined with the last one where it can be.  -ENOMEM, -E2BIG. */
int plt_mapfile_add(struct plt_mapfile *m, uint64_t off, uint64_t len, char status);
/* Can it be written?  Asked before the medium is read. */
int plt_mapfile_probe(const char *path, struct plt_error *err);
/* What of it lies in @bad (NULL: nothing) is bad.  The map on disk is replaced as a whole or not at all. */
int plt_mapfile_write(const char *path, const struct plt_mapfile *m, const struct plt_extents *bad, struct plt_error *err);
void plt_mapfile_release(struct plt_mapfile *m);

/*
 * io/medium.c: @below (a reference is taken) as a medium of which only what @map (NULL: all) says has been read is there:
 * the rest fails with EIO at once.  What fails though the map says otherwise is tried once more by sectors, and bad from then on.
 */
struct plt_store;
int plt_medium_new(struct plt_store *below, const struct plt_mapfile *map, struct plt_store **ret, struct plt_error *err);
/* What lies below, if @st is a medium; else @st. */
struct plt_store *plt_medium_below(struct plt_store *st);
/* Is any place of it known to be bad? */
bool plt_medium_is_bad(struct plt_store *st);
/*
 * What reads as zeros where it cannot be read: headers and the like in any case; the tables of a map; at first all, for those who
 * look for structures.
 */
enum plt_blank { PLT_BLANK_HEADERS, PLT_BLANK_TABLES, PLT_BLANK_ALL };
void plt_medium_blank(struct plt_store *st, enum plt_blank blank);
/* What has been found bad since, added to @to.  -ENOMEM. */
int plt_medium_found(struct plt_store *st, struct plt_extents *to);

#endif
