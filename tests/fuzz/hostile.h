/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_FUZZ_HOSTILE_H
#define PLT_TESTS_FUZZ_HOSTILE_H

/*
 * What images that nobody would make who means well are made with: a sound qcow2 of a few clusters, whose parts are
 * then written over.  What goes wrong ends the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "qcow2/ondisk.h"

void die(const char *what);

/* Clusters of the sound image: header, refcount table, refcount block, L1, L2, then data. */
enum { HEADER, RT, RB, L1, L2, DATA, NCLUSTERS = 8 };

struct image {
	int fd;
	unsigned bits;     /* of the cluster size */
	uint64_t cs;
	uint64_t ext;      /* where the next header extension goes */
};

void put(struct image *m, uint64_t off, const void *buf, size_t len);
void put16(struct image *m, uint64_t off, uint16_t v);
void put32(struct image *m, uint64_t off, uint32_t v);
void put64(struct image *m, uint64_t off, uint64_t v);
uint64_t at(const struct image *m, unsigned cluster);
void length(struct image *m, uint64_t len);
void count(struct image *m, unsigned cluster, uint16_t n);
/* Entry @i of the one L2 table. */
void entry(struct image *m, unsigned i, uint64_t e);
/* A version 3 image: two data clusters at guest 0, the rest of the disk empty. */
void sound(struct image *m, unsigned bits);
void extension(struct image *m, uint32_t type, const void *data, uint32_t len, uint32_t said);
void backing(struct image *m, const char *name, const char *format);
void data_file(struct image *m, const char *name);
uint64_t packed(const struct image *m, uint64_t off, uint64_t sectors);
/* A raw deflate stream of @n zeros at @off; returns its length. */
size_t deflated(struct image *m, uint64_t off, size_t n);
void bitmaps(struct image *m, uint32_t n, uint64_t dir_size, uint64_t dir_off);
/* A directory entry of 32 bytes with the name "bitmap". */
void bitmap_entry(struct image *m, uint64_t off, uint64_t table, uint32_t entries, uint32_t flags);
/* A snapshot table of one entry in cluster @c. */
void snapshot(struct image *m, unsigned c, uint64_t l1, uint32_t l1_size, const char *name);

/* hostile-pack.c: FILE as a fuzz input on standard output: see fuzz.h */
void pack(const char *path);
/* hostile-opens.c: 1 if opening @path takes more memory than is promised */
int opens(const char *path, const char *first);

#endif
