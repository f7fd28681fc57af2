/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The readers of free-space maps, on a disk in a raw file:
 *
 *	free-lab DISK                   its volumes, and their free ranges
 *	free-lab --mutate SEED N DISK   N times, with a few bytes changed of what they read
 *
 * Of a changed disk they must come to an end, give no range outside of the volume that they have announced, and
 * no more than they have announced.  On a filesystem whose metadata has checksums they give the ranges that they give
 * of the disk as it is, or none.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/extents.h"
#include "guestfs/free.h"

#define CHANGES 4

struct change {
	uint64_t off;
	uint32_t len;
	uint8_t byte[512];
};

struct disk {
	int fd;
	struct plt_extents seen; /* what was read */
	struct change change[CHANGES];
	unsigned nchanges;
	bool show, sums;
	uint64_t start, end, left, given; /* of the volume under way */
	struct plt_extents ranges;
	bool bad;
};

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	struct disk *d = arg;

	if (pread(d->fd, buf, len, (off_t)off) != (ssize_t)len)
		return -EIO;
	if (!d->nchanges)
		return plt_extents_add(&d->seen, off, len);
	for (unsigned i = 0; i < d->nchanges; i++)
		for (uint32_t k = 0; k < d->change[i].len; k++)
			if (d->change[i].off + k >= off && d->change[i].off + k < off + len)
				((uint8_t *)buf)[d->change[i].off + k - off] = d->change[i].byte[k];
	return 0;
}

static int on_volume(void *arg, const struct plt_free_volume *v)
{
	struct disk *d = arg;

	if (d->show)
		printf("%#" PRIx64 " %" PRIu64 " %s %s %" PRIu64 " %s\n", v->start, v->len,
		       v->name[0] ? v->name : "-", v->what[0] ? v->what : "?", v->free, v->why);
	d->bad = d->bad || d->left;
	d->start = v->name[0] ? 0 : v->start;
	d->end = v->name[0] ? UINT64_MAX : v->start + v->len;
	d->left = v->why[0] ? 0 : v->free;
	return 1;
}

static int on_range(void *arg, uint64_t off, uint64_t len)
{
	struct disk *d = arg;

	if (d->show)
		printf("  %" PRIu64 " %" PRIu64 "\n", off, len);
	if (off < d->start || len > d->end - off || len > d->left || !len)
		d->bad = true;
	d->left -= PLT_MIN(len, d->left);
	d->given += len;
	return plt_extents_add(&d->ranges, off, len);
}

static int look(struct disk *d, uint64_t size)
{
	struct plt_guest guest = { .read = read_disk, .arg = d, .size = size };
	struct plt_free_sink sink = { .volume = on_volume, .range = on_range, .arg = d };
	int r;

	d->left = d->given = 0;
	d->bad = false;
	plt_extents_release(&d->ranges);
	r = plt_free_maps(&guest, &sink);
	d->bad = d->bad || d->left;
	return r;
}

/* A place in what was read, any byte of it alike. */
static uint64_t place(const struct disk *d)
{
	uint64_t at = (uint64_t)random() * 2147483648u + (uint64_t)random();

	at %= plt_extents_total(&d->seen);
	for (size_t i = 0; i < d->seen.n; i++) {
		if (at < d->seen.v[i].len)
			return d->seen.v[i].off + at;
		at -= d->seen.v[i].len;
	}
	return 0;
}

static void change(struct disk *d)
{
	static const uint32_t words[] = { 0, 1, 0xffffffff, 0x7fffffff, 0x80000000, 0xffff, 0x10000 };

	d->nchanges = 1 + (unsigned)random() % CHANGES;
	for (unsigned i = 0; i < d->nchanges; i++) {
		struct change *c = &d->change[i];
		uint32_t word = words[(unsigned)random() % PLT_ARRAY_SIZE(words)];

		c->off = place(d);
		switch (random() % 4) {
		case 0: /* a bit */
			c->len = 1;
			if (pread(d->fd, c->byte, 1, (off_t)c->off) == 1)
				c->byte[0] ^= (uint8_t)(1u << random() % 8);
			break;
		case 1: /* a word, of either order */
			c->off &= ~UINT64_C(3);
			c->len = 4;
			word = random() % 2 ? word : __builtin_bswap32(word);
			memcpy(c->byte, &word, 4);
			break;
		case 2: /* a sector of nothing */
			c->off &= ~UINT64_C(511);
			c->len = 512;
			memset(c->byte, random() % 2 ? 0 : 0xff, 512);
			break;
		default: /* a sector of another place */
			c->off &= ~UINT64_C(511);
			c->len = 512;
			if (pread(d->fd, c->byte, 512, (off_t)(place(d) & ~UINT64_C(511))) != 512)
				c->len = 0;
		}
	}
}

static bool same(const struct plt_extents *a, const struct plt_extents *b)
{
	return a->n == b->n && (!a->n || !memcmp(a->v, b->v, a->n * sizeof(*a->v)));
}

static int mutate(struct disk *d, uint64_t size, unsigned seed, unsigned n)
{
	struct plt_extents whole;
	unsigned left_alone = 0;

	srandom(seed);
	if (look(d, size) < 0 || d->bad || !d->ranges.n) {
		fprintf(stderr, "the disk as it is gives nothing\n");
		return 1;
	}
	whole = d->ranges;
	d->ranges = (struct plt_extents)PLT_EXTENTS_INIT;
	for (unsigned i = 0; i < n; i++) {
		int r;

		change(d);
		r = look(d, size);
		left_alone += !d->given;
		if (r < 0 || d->bad || (d->sums && d->ranges.n && !same(&d->ranges, &whole))) {
			fprintf(stderr, "seed %u, run %u: %s\n", seed, i,
				r < 0	 ? strerror(-r)
				: d->bad ? "a range outside, or more than was announced"
					 : "other ranges than of the disk as it is");
			for (unsigned k = 0; k < d->nchanges; k++)
				fprintf(stderr, "  %u bytes at %#" PRIx64 "\n", d->change[k].len,
					d->change[k].off);
			return 1;
		}
	}
	printf("%u of %u left alone\n", left_alone, n);
	plt_extents_release(&whole);
	return 0;
}

int main(int argc, char **argv)
{
	struct disk d = { 0 };
	bool mutates = argc == 5 && !strncmp(argv[1], "--mutate", 8);
	struct stat st;
	int r;

	if (argc != 2 && !mutates)
		return 2;
	d.sums = mutates && !strcmp(argv[1], "--mutate-sums");
	d.fd = open(argv[argc - 1], O_RDONLY);
	if (d.fd < 0 || fstat(d.fd, &st) < 0)
		return 2;
	d.show = !mutates;
	r = mutates ? mutate(&d, (uint64_t)st.st_size, (unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]))
		    : look(&d, (uint64_t)st.st_size) < 0 || d.bad;
	plt_extents_release(&d.seen);
	plt_extents_release(&d.ranges);
	close(d.fd);
	return r;
}
