/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Media that do not read everywhere (io/medium.c) and their maps (io/mapfile.c): of what the map does not vouch for no guest
 * data is read, structures are zeros as long as they may be, the number of tries around a bad sector is bounded; a map is
 * what was written, and nonsense is none; a scan has its map on disk while it runs.
 */
#include "io/mapfile.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "block/internal.h"
#include "tests/unit.h"

#define SIZE (1 << 20)

static struct plt_store *memory(uint64_t size)
{
	uint8_t *b = malloc(size);
	struct plt_store *st;

	for (uint64_t i = 0; i < size; i++)
		b[i] = (uint8_t)(1 + (i >> 9) % 255);
	ck_assert_int_eq(plt_memory_new(b, size, size, &st), 0);
	free(b);
	return st;
}

static bool is_content(const uint8_t *p, uint64_t off, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		if (p[i] != (uint8_t)(1 + ((off + i) >> 9) % 255))
			return false;
	return true;
}

/* Bad: [8192, 8704); not tried: [65536, 131072); nothing is said of [262144, 262656) and of what is behind 524288. */
static struct plt_store *mapped(struct plt_store *below)
{
	struct plt_mapfile map = PLT_MAPFILE_INIT;
	struct plt_store *st;

	ck_assert_int_eq(plt_mapfile_add(&map, 0, 8192, '+'), 0);
	ck_assert_int_eq(plt_mapfile_add(&map, 8192, 512, '-'), 0);
	ck_assert_int_eq(plt_mapfile_add(&map, 8704, 65536 - 8704, '+'), 0);
	ck_assert_int_eq(plt_mapfile_add(&map, 65536, 65536, '?'), 0);
	ck_assert_int_eq(plt_mapfile_add(&map, 131072, 131072, '+'), 0);
	ck_assert_int_eq(plt_mapfile_add(&map, 262656, 524288 - 262656, '+'), 0);
	ck_assert_int_eq(plt_medium_new(below, &map, &st, NULL), 0);
	plt_mapfile_release(&map);
	return st;
}

START_TEST(only_what_was_read_is_there)
{
	static const struct { uint64_t off, len; bool there; } reads[] = {
		{ 0, 8192, true }, { 8191, 1, true }, { 8192, 1, false }, { 8000, 600, false }, { 8704, 512, true },
		{ 65535, 1, true }, { 65535, 2, false }, { 131071, 1, false }, { 131072, 4096, true }, { 262143, 2, false },
		{ 262655, 1, false }, { 262656, 512, true }, { 524287, 1, true }, { 524288, 1, false }, { SIZE - 1, 1, false },
	};
	static uint8_t buf[SIZE];
	struct plt_store *below = memory(SIZE), *st = mapped(below), *low, *by;
	uint64_t off, len;

	plt_medium_blank(st, PLT_BLANK_TABLES);
	for (unsigned i = 0; i < sizeof(reads) / sizeof(*reads); i++) {
		ck_assert_int_eq(plt_store_read(st, reads[i].off, buf, reads[i].len, PLT_IO_DATA, NULL), reads[i].there ? 0 : -EIO);
		ck_assert(!reads[i].there || is_content(buf, reads[i].off, reads[i].len));
	}
	ck_assert_int_eq(plt_store_resolve(st, 0, 512, &low, &off, &len), -ENOTSUP);
	/* a table: zeros there, and all of the rest */
	memset(buf, 0xee, 16384);
	ck_assert_int_eq(plt_store_read(st, 4096, buf, 8192, PLT_IO_L2, NULL), 0);
	ck_assert(is_content(buf, 4096, 4096));
	for (unsigned i = 4096; i < 4608; i++)
		ck_assert_uint_eq(buf[i], 0);
	ck_assert(is_content(buf + 4608, 8704, 12288 - 8704));
	plt_medium_blank(st, PLT_BLANK_ALL);
	ck_assert_int_eq(plt_store_read(st, 8192, buf, 512, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(buf[511], 0);
	plt_medium_blank(st, PLT_BLANK_HEADERS);
	ck_assert_int_eq(plt_store_read(st, 8192, buf, 512, PLT_IO_L2, NULL), -EIO);
	/* through a window, and below an edit */
	{
		struct plt_store *w;
		struct plt_range r;

		ck_assert_int_eq(plt_window_new(st, 4096, 65536, &w, NULL), 0);
		ck_assert(plt_store_unreadable(w, 0, 65536, &r) && r.off == 4096 && r.len == 512);
		ck_assert(!plt_store_unreadable(w, 4608, 512, &r));
		plt_store_unref(w);
		ck_assert_int_eq(plt_overlay_new(st, true, &by), 0);
		ck_assert_int_eq(plt_store_write(by, 8192, buf, 256, PLT_IO_L2, NULL), 0);
		ck_assert(plt_store_unreadable(by, 8000, 1000, &r) && r.off == 8448 && r.len == 256);
		ck_assert(!plt_store_unreadable(by, 8000, 400, &r));
		plt_store_unref(by);
	}
	plt_store_unref(st);
	plt_store_unref(below);
}
END_TEST

START_TEST(bad_sectors_are_found_in_bounded_tries)
{
	static uint8_t buf[65536];
	struct plt_store *below = memory(SIZE), *faults, *st, *low;
	struct plt_fault_rule one = { .ops = PLT_FAULT_READ, .tag = -1, .off = 8192, .len = 512, .error = EIO };
	struct plt_fault_rule many = { .ops = PLT_FAULT_READ, .tag = -1, .off = 131072, .len = 65536, .error = EIO };
	struct plt_fault_rule once = { .ops = PLT_FAULT_READ, .tag = -1, .off = 262144, .len = 512, .count = 2, .error = EIO };
	struct plt_extents found = PLT_EXTENTS_INIT;
	uint64_t off, len, seen;

	ck_assert_int_eq(plt_fault_new(below, &faults), 0);
	ck_assert_int_ge(plt_fault_add(faults, &one), 0);
	ck_assert_int_ge(plt_fault_add(faults, &many), 0);
	ck_assert_int_ge(plt_fault_add(faults, &once), 0);
	ck_assert_int_eq(plt_medium_new(faults, NULL, &st, NULL), 0);
	plt_medium_blank(st, PLT_BLANK_TABLES);
	ck_assert(!plt_medium_is_bad(st));
	ck_assert_int_eq(plt_store_resolve(st, 0, 512, &low, &off, &len), 0);
	ck_assert_int_eq(plt_store_read(st, 262144, buf, 4096, PLT_IO_DATA, NULL), 0); /* the third try does it */
	ck_assert(is_content(buf, 262144, 4096) && !plt_medium_is_bad(st));
	ck_assert_int_eq(plt_store_read(st, 4096, buf, 8192, PLT_IO_DATA, NULL), -EIO);
	ck_assert(plt_medium_is_bad(st));
	ck_assert_int_eq(plt_store_resolve(st, 0, 512, &low, &off, &len), -ENOTSUP);
	ck_assert_int_eq(plt_medium_found(st, &found), 0);
	ck_assert(found.n == 1 && found.v[0].off == 8192 && found.v[0].len == 512);
	ck_assert_int_eq(plt_store_read(st, 8704, buf, 512, PLT_IO_DATA, NULL), 0);
	seen = plt_fault_seen(faults, PLT_FAULT_READ);
	ck_assert_int_eq(plt_store_read(st, 8192, buf, 512, PLT_IO_DATA, NULL), -EIO); /* without asking again */
	ck_assert_uint_eq(plt_fault_seen(faults, PLT_FAULT_READ), seen);
	ck_assert_int_eq(plt_store_read(st, 131072, buf, 65536, PLT_IO_DATA, NULL), -EIO);
	ck_assert_uint_le(plt_fault_seen(faults, PLT_FAULT_READ) - seen, 20);
	ck_assert_int_eq(plt_medium_found(st, &found), 0);
	ck_assert_uint_eq(plt_extents_total(&found), 512 + 65536);
	plt_extents_release(&found);
	plt_store_unref(st);
	plt_store_unref(faults);
	plt_store_unref(below);
}
END_TEST

static const char *path_of(const char *name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%s", plt_unit_dir(), name);
	return path;
}

START_TEST(maps_are_what_was_written)
{
	static const char *const bad[] = {
		"0x0 0x10 +\n", "0x0 +\n0x10 0x10 +\n0x8 0x10 -\n", "0x0 +\n0x0 0x10 x\n", "0x0 +\n0x0 -0x10 +\n",
		"0x0 +\n0x7fffffffffffffff 0x10 +\n", "0x0 +\n0x0\n", "nonsense\n",
	};
	uint64_t seed = plt_unit_seed();
	struct plt_mapfile m = PLT_MAPFILE_INIT, back;
	struct plt_extents hurt = PLT_EXTENTS_INIT;
	uint64_t at = 0;

	for (unsigned i = 0; i < 300; i++) {
		uint64_t n = 512 * (1 + plt_unit_random(&seed) % 100);

		ck_assert_int_eq(plt_mapfile_add(&m, at, n, "+-?*/"[plt_unit_random(&seed) % 5]), 0);
		if (plt_unit_random(&seed) % 4 == 0)
			ck_assert_int_eq(plt_extents_add(&hurt, at + plt_unit_random(&seed) % n, 700), 0);
		at += n;
	}
	ck_assert_int_eq(plt_mapfile_write(path_of("map"), &m, &hurt, NULL), 0);
	ck_assert_int_eq(plt_mapfile_read(path_of("map"), &back, NULL), 0);
	for (uint64_t off = 0, i = 0, k = 0; off < at; off += 128) { /* (the statuses of each piece; bad where it was hurt) */
		while (m.v[i].off + m.v[i].len <= off)
			i++;
		while (back.v[k].off + back.v[k].len <= off)
			k++;
		ck_assert_int_eq(back.v[k].status, plt_extents_overlaps(&hurt, off, 1) ? '-' : m.v[i].status);
	}
	plt_mapfile_release(&back);
	plt_mapfile_release(&m);
	plt_extents_release(&hurt);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		FILE *f = fopen(path_of("bad"), "w");

		fputs(bad[i], f);
		fclose(f);
		ck_assert_int_eq(plt_mapfile_read(path_of("bad"), &back, NULL), -EINVAL);
	}
	ck_assert_int_eq(plt_mapfile_read(path_of("none"), &back, NULL), -ENOENT);
}
END_TEST

static pthread_mutex_t look = PTHREAD_MUTEX_INITIALIZER;

/* What is on disk of the map when the last piece is read. */
static int look_at_map(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len)
{
	struct plt_mapfile *m = arg;

	(void)tag;
	if (op != PLT_FAULT_READ || off + len < UINT64_C(28) << 20)
		return 0;
	pthread_mutex_lock(&look);
	for (unsigned i = 0; i < 1000 && !m->n; i++) /* (another may be about to write it) */
		if (plt_mapfile_read(path_of("scan"), m, NULL) < 0)
			usleep(10000);
	pthread_mutex_unlock(&look);
	return 0;
}

START_TEST(a_scan_keeps_its_map)
{
	struct plt_mapfile m = PLT_MAPFILE_INIT;
	struct plt_fault_judge judge = { .before = look_at_map, .arg = &m };
	struct plt_scan_options o = PLT_SCAN_OPTIONS_INIT;
	struct plt_store *below = memory(UINT64_C(32) << 20), *faults;
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	struct plt_scan *scan;
	struct plt_ctx *ctx;
	uint64_t end = 0;
	bool left = false;

	ck_assert_int_eq(plt_ctx_new(NULL, &ctx, NULL), 0);
	ck_assert_int_eq(plt_fault_new(below, &faults), 0);
	plt_fault_set_judge(faults, &judge);
	ck_assert_int_eq(plt_disk_open_store(ctx, faults, "medium", "raw", &how, &disk, NULL), 0);
	o.map = path_of("scan");
	ck_assert_int_eq(plt_scan(ctx, disk, &o, &scan, NULL), 0);
	for (size_t i = 0; i < m.n; i++) {
		ck_assert_uint_eq(m.v[i].off, end);
		end += m.v[i].len;
		left |= m.v[i].status == '?';
	}
	ck_assert(m.n && left); /* (which piece was through first nobody knows) */
	ck_assert_uint_eq(end, UINT64_C(32) << 20);
	plt_mapfile_release(&m);
	ck_assert_int_eq(plt_mapfile_read(path_of("scan"), &m, NULL), 0);
	ck_assert(m.n == 1 && m.v[0].status == '+' && m.v[0].len == UINT64_C(32) << 20);
	plt_mapfile_release(&m);
	plt_scan_free(scan);
	plt_disk_close(disk, NULL);
	plt_store_unref(faults);
	plt_store_unref(below);
	plt_ctx_free(ctx);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("medium");
	TCase *t = tcase_create("medium");

	tcase_add_test(t, only_what_was_read_is_there);
	tcase_add_test(t, bad_sectors_are_found_in_bounded_tries);
	tcase_add_test(t, maps_are_what_was_written);
	tcase_add_test(t, a_scan_keeps_its_map);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
