/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * VHDs that nobody would make who means well, as make-images.c has qcow2's.
 *
 *	make-vhd DIR            write all of them into DIR, and their names to standard output
 *
 * Each starts from a sound image of two blocks and breaks one thing; its checksums are right.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "vhd/ondisk.h"

#define TABLE 1536u
#define BS 1024u
#define BLOCKS 16u
#define SIZE (BS * BLOCKS)
#define FIRST 2048u                  /* of two blocks: a bitmap, data */
#define END (FIRST + 2 * (512 + BS)) /* where the footer is */

static void die(const char *what)
{
	fprintf(stderr, "make-vhd: %s: %s\n", what, strerror(errno));
	exit(99);
}

struct image {
	int fd;
	struct vhd_footer f;
	struct vhd_header h;
	uint32_t bat[BLOCKS];
	uint64_t tail, cut;   /* where the footer goes; the file's length, or 0 */
	uint32_t locators;
};

static void put(struct image *m, uint64_t off, const void *buf, size_t len)
{
	if (pwrite(m->fd, buf, len, (off_t)off) != (ssize_t)len)
		die("write");
}

static plt_be32 sum(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint32_t n = 0;

	while (len--)
		n += *b++;
	return plt_be32_make(~n);
}

static void sound(struct image *m)
{
	uint8_t block[512 + BS];

	memcpy(m->f.cookie, VHD_COOKIE, 8);
	m->f.features = plt_be32_make(2);
	m->f.version = plt_be32_make(VHD_VERSION);
	m->f.data_offset = plt_be64_make(512);
	memcpy(m->f.creator, "win ", 4);
	m->f.original_size = m->f.current_size = plt_be64_make(SIZE);
	m->f.type = plt_be32_make(VHD_DYNAMIC);
	m->f.id[3] = 7;
	memcpy(m->h.cookie, VHD_HEADER_COOKIE, 8);
	m->h.data_offset = plt_be64_make(UINT64_MAX);
	m->h.table_offset = plt_be64_make(TABLE);
	m->h.version = plt_be32_make(VHD_VERSION);
	m->h.entries = plt_be32_make(BLOCKS);
	m->h.block_size = plt_be32_make(BS);
	memset(m->bat, 0xff, sizeof(m->bat));
	m->bat[0] = FIRST / 512;
	m->bat[3] = (FIRST + 512 + BS) / 512;
	m->tail = END;
	memset(block, 0xff, 512);
	for (unsigned i = 0; i < 2; i++) {
		memset(block + 512, 'a' + (int)i, BS);
		put(m, FIRST + i * (512 + BS), block, sizeof(block));
	}
}

static void finish(struct image *m)
{
	uint8_t table[512];

	m->f.checksum = sum(&m->f, sizeof(m->f));
	m->h.checksum = sum(&m->h, sizeof(m->h));
	memset(table, 0xff, sizeof(table));
	for (unsigned i = 0; i < BLOCKS; i++)
		plt_put_be32(table + i * 4, m->bat[i]);
	put(m, 0, &m->f, sizeof(m->f));
	put(m, 512, &m->h, sizeof(m->h));
	put(m, TABLE, table, sizeof(table));
	put(m, m->tail, &m->f, sizeof(m->f));
	if (m->cut && ftruncate(m->fd, (off_t)m->cut) < 0)
		die("truncate");
}

/* A child; @text is written in the manner of @code. */
static void parent(struct image *m, const char *code, const char *text)
{
	struct vhd_locator *l = &m->h.locator[m->locators++];
	uint8_t b[512];
	size_t n = 0;

	m->f.type = plt_be32_make(VHD_DIFFERENCING);
	m->h.parent_id[0] = 9;
	for (const char *p = text; *p; p++) {
		b[n++] = (uint8_t)*p;
		if (code[0] == 'W')
			b[n++] = 0;
	}
	memcpy(l->code, code, 4);
	l->space = plt_be32_make(512);
	l->length = plt_be32_make((uint32_t)n);
	l->offset = plt_be64_make(m->tail);
	memset(b + n, 0, sizeof(b) - n);
	put(m, m->tail, b, sizeof(b));
	m->tail += 512;
}

/* ---- the images ------------------------------------------------------------------------------ */

static void cut_in_header(struct image *m) { m->cut = 700; }
static void cut_in_table(struct image *m) { m->cut = TABLE + 3; }
static void cut_in_block(struct image *m) { m->cut = END - 100; }
static void only_head(struct image *m) { m->cut = 512; }
static void entries_max(struct image *m) { m->h.entries = plt_be32_make(UINT32_MAX); }
static void entries_most(struct image *m) { m->h.entries = plt_be32_make(VHD_MAX_ENTRIES); }
static void entries_few(struct image *m) { m->h.entries = plt_be32_make(2); }
static void block_zero(struct image *m) { m->h.block_size = plt_be32_make(0); }
static void block_odd(struct image *m) { m->h.block_size = plt_be32_make(BS - 512); }
static void block_2g(struct image *m) { m->h.block_size = plt_be32_make(UINT32_C(1) << 31); }
static void block_256m(struct image *m) { m->h.block_size = plt_be32_make(UINT32_C(256) << 20); }
static void size_max(struct image *m) { m->f.current_size = plt_be64_make(UINT64_MAX); }
static void size_zero(struct image *m) { m->f.current_size = plt_be64_make(0); }
static void size_more(struct image *m) { m->f.current_size = plt_be64_make(SIZE + 512); }
static void header_far(struct image *m) { m->f.data_offset = plt_be64_make(UINT64_MAX - 511); }
static void header_on_footer(struct image *m) { m->f.data_offset = plt_be64_make(0); }
static void table_far(struct image *m) { m->h.table_offset = plt_be64_make(UINT64_MAX - 511); }
static void table_on_header(struct image *m) { m->h.table_offset = plt_be64_make(512); }
static void table_on_data(struct image *m) { m->h.table_offset = plt_be64_make(FIRST + 512); }
static void bat_far(struct image *m) { m->bat[0] = UINT32_MAX - 1; }
static void bat_header(struct image *m) { m->bat[0] = 1; }
static void bat_table(struct image *m) { m->bat[0] = TABLE / 512; }
static void bat_twice(struct image *m) { m->bat[1] = m->bat[0]; }
static void bat_overlap(struct image *m) { m->bat[1] = m->bat[0] + 1; }
static void bat_on_footer(struct image *m) { m->bat[3] = END / 512; }
static void parent_none(struct image *m) { m->f.type = plt_be32_make(VHD_DIFFERENCING); }
static void parent_self(struct image *m) { parent(m, "W2ru", ".\\vhd-parent-self"); memcpy(m->h.parent_id, m->f.id, 16); }
static void parent_missing(struct image *m) { parent(m, "W2ru", ".\\no-such-file"); }
static void parent_fifo(struct image *m) { parent(m, "W2ru", ".\\fifo"); memset(m->h.parent_id, 0, 16); }
static void parent_zero(struct image *m) { parent(m, "MacX", "file:///dev/zero"); memset(m->h.parent_id, 0, 16); }
static void parent_secret(struct image *m) { parent(m, "W2ku", "\\secret"); memset(m->h.parent_id, 0, 16); }
static void parent_other(struct image *m) { parent(m, "W2ru", "vhd-sound"); }
static void parent_protocol(struct image *m) { parent(m, "W2ru", "nbd://host/x"); }
static void parent_json(struct image *m) { parent(m, "W2ru", "json:{\"driver\":\"null-co\"}"); }
static void parent_escape(struct image *m) { parent(m, "W2ru", ".\\\x1b[31mred\n"); }

static void locators(struct image *m)
{
	static const char *const codes[] = { "W2ru", "W2ku", "Wi2r", "Wi2k", "MacX", "Mac ", "????", "W2ru" };

	m->f.type = plt_be32_make(VHD_DIFFERENCING);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		memcpy(m->h.locator[i].code, codes[i], 4);
		m->h.locator[i].space = plt_be32_make(UINT32_MAX);
		m->h.locator[i].length = plt_be32_make(i & 1 ? UINT32_MAX : 65536);
		m->h.locator[i].offset = plt_be64_make(i & 2 ? UINT64_MAX - 100 : 0);
	}
}

static void batmap(struct image *m, uint64_t off, uint32_t sectors)
{
	struct vhd_batmap b = { 0 };

	memcpy(m->f.creator, "tap\0", 4);
	m->f.creator_version = plt_be32_make(0x00010003);
	memcpy(b.cookie, VHD_BATMAP_COOKIE, 8);
	b.offset = plt_be64_make(off);
	b.sectors = plt_be32_make(sectors);
	b.version = plt_be32_make(VHD_BATMAP_UNSIGNED);
	put(m, FIRST, &b, sizeof(b)); /* in the place of the first block */
	m->bat[0] = UINT32_MAX;
}

static void batmap_far(struct image *m) { batmap(m, UINT64_MAX - 511, 1); }
static void batmap_large(struct image *m) { batmap(m, FIRST + 512, UINT32_MAX); }
static void batmap_on_table(struct image *m) { batmap(m, TABLE, 1); }

/* 2040 GiB, its table a hole. */
static void sparse_table(struct image *m)
{
	m->h.block_size = plt_be32_make(4096);
	m->h.entries = plt_be32_make(VHD_MAX_ENTRIES);
	m->f.current_size = plt_be64_make(UINT64_C(2040) << 30);
	m->h.table_offset = plt_be64_make(1 << 20);
	m->tail = UINT64_C(4) << 30;
}

/* Blocks of 256 MiB that all share bytes, in a file of holes. */
static void sparse_overlap(struct image *m)
{
	uint8_t b[65536];

	m->h.block_size = plt_be32_make(UINT32_C(256) << 20);
	m->h.entries = plt_be32_make(8000);
	m->f.current_size = plt_be64_make(UINT64_C(8000) << 28);
	m->h.table_offset = plt_be64_make(1 << 20);
	m->tail = UINT64_C(1) << 33;
	memset(b, 0xff, sizeof(b));
	for (unsigned i = 0; i < 8000; i++)
		plt_put_be32(b + i * 4, 8192 + i);
	put(m, 1 << 20, b, sizeof(b));
}

static const struct {
	const char *name;
	void (*make)(struct image *m);
} images[] = {
	{ "sound", NULL }, { "cut-header", cut_in_header }, { "cut-table", cut_in_table }, { "cut-block", cut_in_block },
	{ "only-head", only_head }, { "entries-max", entries_max }, { "entries-most", entries_most },
	{ "entries-few", entries_few }, { "block-zero", block_zero }, { "block-odd", block_odd }, { "block-2g", block_2g },
	{ "block-256m", block_256m }, { "size-max", size_max }, { "size-zero", size_zero }, { "size-more", size_more },
	{ "header-far", header_far }, { "header-on-footer", header_on_footer }, { "table-far", table_far },
	{ "table-on-header", table_on_header }, { "table-on-data", table_on_data }, { "bat-far", bat_far },
	{ "bat-header", bat_header }, { "bat-table", bat_table }, { "bat-twice", bat_twice },
	{ "bat-overlap", bat_overlap }, { "bat-on-footer", bat_on_footer }, { "parent-none", parent_none },
	{ "parent-self", parent_self }, { "parent-missing", parent_missing }, { "parent-fifo", parent_fifo },
	{ "parent-zero", parent_zero }, { "parent-secret", parent_secret }, { "parent-other", parent_other },
	{ "parent-protocol", parent_protocol }, { "parent-json", parent_json }, { "parent-escape", parent_escape },
	{ "locators", locators }, { "batmap-far", batmap_far }, { "batmap-large", batmap_large },
	{ "batmap-on-table", batmap_on_table }, { "sparse-table", sparse_table }, { "sparse-overlap", sparse_overlap },
};

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]) < 0) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 99;
	}
	for (size_t i = 0; i < sizeof(images) / sizeof(images[0]); i++) {
		struct image m = { 0 };
		char name[64];

		snprintf(name, sizeof(name), "vhd-%s", images[i].name);
		m.fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (m.fd < 0)
			die(name);
		sound(&m);
		if (images[i].make)
			images[i].make(&m);
		finish(&m);
		close(m.fd);
		puts(name);
	}
	return fflush(stdout) == 0 ? 0 : 99;
}
