/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_EXTENTS_H
#define PLT_BASE_EXTENTS_H

/*
 * An ordered set of disjoint byte ranges that coalesces neighbours: what must be punched, what was
 * lost, what a run has covered.  A sorted array; appends at the end are O(1).  Not thread-safe.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plt_range {
	uint64_t off, len;
};

struct plt_extents {
	struct plt_range *v;
	size_t n, cap;
};

#define PLT_EXTENTS_INIT { 0 }

void plt_extents_release(struct plt_extents *ex);
/* Unite with [off, off+len), which may overlap what is there.  -ENOMEM leaves the set unchanged. */
int plt_extents_add(struct plt_extents *ex, uint64_t off, uint64_t len);
int plt_extents_remove(struct plt_extents *ex, uint64_t off, uint64_t len);
/* The first range that ends after @off, or NULL. */
const struct plt_range *plt_extents_find(const struct plt_extents *ex, uint64_t off);
bool plt_extents_overlaps(const struct plt_extents *ex, uint64_t off, uint64_t len);
uint64_t plt_extents_total(const struct plt_extents *ex);

#endif
