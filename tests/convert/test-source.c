/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * convert/source.c and verify.c on sparse raw files: the walk covers every byte once, in whole units,
 * and calls nothing ZERO that is not; reading crosses from one disk to the next; and what was written
 * wrong is found at its place.
 */
#include "convert/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/unit.h"

#define BLOCK 4096
#define DISKS 3

static struct plt_ctx *ctx;
static struct plt_disk *disk[DISKS];
static uint8_t *content; /* of all disks, one after the other */
static uint64_t size;

static void setup(void)
{
	static const unsigned blocks[DISKS] = { 300, 1, 77 };
	uint64_t seed = plt_unit_seed(), off = 0;

	size = 0;
	ck_assert_int_eq(plt_ctx_new(NULL, &ctx, NULL), 0);
	for (int d = 0; d < DISKS; d++)
		size += (uint64_t)blocks[d] * BLOCK + (d == 1 ? 512 : 0);
	content = calloc(1, size);
	for (int d = 0; d < DISKS; d++) {
		uint64_t len = (uint64_t)blocks[d] * BLOCK + (d == 1 ? 512 : 0);
		struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
		char name[200];
		int fd;

		snprintf(name, sizeof(name), "%s/disk%d", plt_unit_dir(), d);
		fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
		for (uint64_t b = 0; b < blocks[d];) { /* runs of data, runs of nothing */
			uint64_t run = 1 + plt_unit_random(&seed) % 20;
			bool data = plt_unit_random(&seed) % 2;

			for (; run-- && b < blocks[d]; b++) {
				if (!data)
					continue;
				memset(content + off + b * BLOCK, (int)(1 + b % 255), BLOCK);
				ck_assert_int_eq(pwrite(fd, content + off + b * BLOCK, BLOCK, (off_t)(b * BLOCK)), BLOCK);
			}
		}
		close(fd);
		o.format = "raw";
		ck_assert_int_eq(plt_disk_open(ctx, name, &o, &disk[d], NULL), 0);
		off += len;
	}
}

static void teardown(void)
{
	for (int d = 0; d < DISKS; d++)
		plt_disk_close(disk[d], NULL);
	plt_ctx_free(ctx);
	free(content);
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

START_TEST(walk)
{
	static const uint64_t units[] = { 512, 4096, 65536, 1 << 20 };
	uint64_t unit = units[_i / 2], chunk = unit * (_i % 2 ? 1 : 16);
	uint64_t at = 0, zeros = 0;
	struct plt_source src;
	struct plt_walk w;
	struct plt_piece p;

	ck_assert_int_eq(plt_source_init(&src, disk, DISKS, NULL), 0);
	ck_assert_uint_eq(src.size, size);
	plt_walk_init(&w, &src, unit, chunk);
	for (;;) {
		ck_assert_int_eq(plt_walk_next(&w, &p, NULL), 0);
		if (!p.len)
			break;
		ck_assert_uint_eq(p.off, at);
		ck_assert(p.off % unit == 0);
		at += p.len;
		ck_assert(at % unit == 0 || at == size);
		if (p.kind == PLT_PIECE_ZERO) {
			zeros += p.len;
			ck_assert(is_zero(content + p.off, p.len));
		} else {
			ck_assert_int_eq(p.kind, PLT_PIECE_DATA);
			ck_assert_uint_eq(p.off / chunk, (at - 1) / chunk);
		}
	}
	ck_assert_uint_eq(at, size);
	if (unit <= BLOCK) /* holes of whole blocks are seen, if the filesystem has any */
		printf("# unit %u: %u bytes are known to be zeros\n", (unsigned)unit, (unsigned)zeros);
	/* With all to be written there is nothing but data. */
	plt_walk_init(&w, &src, unit, chunk);
	w.zero_is_data = true;
	for (at = 0; !plt_walk_next(&w, &p, NULL) && p.len; at += p.len)
		ck_assert_int_eq(p.kind, PLT_PIECE_DATA);
	ck_assert_uint_eq(at, size);
	plt_source_release(&src);
}
END_TEST

START_TEST(read_across)
{
	uint64_t seed = plt_unit_seed();
	uint8_t *buf = malloc(size);
	struct plt_source src;

	ck_assert_int_eq(plt_source_init(&src, disk, DISKS, NULL), 0);
	ck_assert_int_eq(plt_source_read(&src, 0, buf, size, NULL), 0);
	ck_assert_mem_eq(buf, content, size);
	for (int i = 0; i < 200; i++) {
		uint64_t off = plt_unit_random(&seed) % size;
		uint64_t len = plt_unit_random(&seed) % (size - off);

		ck_assert_int_eq(plt_source_read(&src, off, buf, len, NULL), 0);
		ck_assert_mem_eq(buf, content + off, len);
	}
	plt_source_release(&src);
	free(buf);
}
END_TEST

START_TEST(verify)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t len = plt_disk_size(disk[0]);
	struct plt_verify *v;
	char name[200];
	uint8_t byte = 0x5a;
	int fd;

	ck_assert_int_eq(plt_verify_new(&v, NULL), 0);
	for (uint64_t off = 0; off < len; off += 10 * BLOCK) {
		uint64_t n = off + 10 * BLOCK < len ? 10 * BLOCK : len - off;
		bool zero = is_zero(content + off, n);

		ck_assert_int_eq(plt_verify_add(v, off, zero ? NULL : content + off, n, NULL), 0);
	}
	ck_assert_int_eq(plt_verify_run(v, disk[0], 3, NULL, NULL, &err), 0);
	/* One wrong byte. */
	snprintf(name, sizeof(name), "%s/disk0", plt_unit_dir());
	fd = open(name, O_RDWR);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, &byte, 1, 123 * BLOCK + 7), 1);
	close(fd);
	ck_assert_int_eq(plt_verify_run(v, disk[0], 3, NULL, NULL, &err), -EIO);
	/* the piece as it was noted, or, where that was zeros, the block */
	ck_assert_msg(strstr(err.text, "offset 491520 ") || strstr(err.text, "offset 503808 "), "%s", err.text);
	plt_verify_free(v);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("source");
	TCase *tc = tcase_create("source");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, walk, 0, 8);
	tcase_add_test(tc, read_across);
	tcase_add_test(tc, verify);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
