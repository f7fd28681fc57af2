/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_VHD_MAKE_H
#define PLT_TESTS_VHD_MAKE_H

/*
 * VHDs in memory, made field by field as the specification says and not by the driver's own creation,
 * so that what is wrong there is not right here.
 *
 *	0     footer copy     512   dynamic header     1536  BAT, padded with ones
 *	then blocks in the order in which they are added, each a bitmap and its data, then the footer
 */
#include "block/internal.h"
#include "tests/unit.h"
#include "vhd/vhd.h"

#define HEADER_AT 512u
#define TABLE_AT 1536u

struct plt_ctx *make_ctx(void);
/* What the context's warn hook has been told, all of it. */
extern char make_warned[4096];

struct vhd_footer make_footer(enum vhd_type type, uint64_t size);
/* A fixed disk of @size bytes that are 1 2 3 ... 251 1 2 ... */
struct plt_store *make_fixed(uint64_t size);
/* A dynamic or differencing one (its parent: "base", raw), no block in it. */
struct plt_store *make_sparse(enum vhd_type type, uint64_t size, uint32_t block_size, uint32_t entries);
/* Block @block gets a place at the end, all its bytes @fill, all bytes of its bitmap @bits; where it starts. */
uint64_t make_block(struct plt_store *st, uint64_t block, uint8_t fill, uint8_t bits);

struct vhd_footer get_footer(struct plt_store *st, bool tail);
/* Sealed if @seal. */
void put_footer(struct plt_store *st, bool tail, struct vhd_footer f, bool seal);
struct vhd_header get_header(struct plt_store *st);
void put_header(struct plt_store *st, struct vhd_header h, bool seal);
/* One of the creators, in both footers. */
void make_creator(struct plt_store *st, const char *four, uint32_t version);
void put_entry(struct plt_store *st, uint64_t block, uint32_t value);
uint32_t get_entry(struct plt_store *st, uint64_t block);
void put_bytes(struct plt_store *st, uint64_t off, const void *p, size_t len);
void put_fill(struct plt_store *st, uint64_t off, uint8_t byte, size_t len);
uint64_t size_of(struct plt_store *st);
void cut_to(struct plt_store *st, uint64_t size);

/* Without its parent; NULL: @err says why. */
struct plt_disk *try_open(struct plt_store *st, unsigned flags, const char *options, struct plt_error *err);
struct plt_disk *must_open(struct plt_store *st, unsigned flags);
void must_close(struct plt_disk *disk);

/* What check says: the ids, each once with its worst severity as "V-BAT-1:corruption". */
struct made_check {
	struct plt_check_result n;
	char ids[1024], texts[4096];
};
void make_check(struct plt_store *st, struct made_check *ret);

#endif
