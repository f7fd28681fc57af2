/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Deep chains, read in small pieces, again and again and by several threads: what is remembered of layers that hold
 * nothing (block/skip.c) never changes what is read.  Layers of all cluster sizes, of VHD too, some shorter than others,
 * some compressed; a model in memory says what the disk shows.  A layer that is opened for writing in its chain is
 * seen at once.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/checked.h"
#include "block/internal.h"
#include "tests/unit.h"

#define MIB (UINT64_C(1) << 20)
#define SIZE (2 * MIB)
#define READ_MAX (320u << 10)

static uint8_t model[SIZE];
static struct plt_ctx *ctx;

static const char *path(unsigned i)
{
	static char ret[4][4300];
	static unsigned n;
	char *p = ret[n++ % 4];

	snprintf(p, sizeof(ret[0]), "%s/layer%u", plt_unit_dir(), i);
	return p;
}

static struct plt_disk *open_layer(unsigned i, const char *format, unsigned flags)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;

	o.format = format;
	o.flags = flags;
	ck_assert_msg(plt_disk_open(ctx, path(i), &o, &disk, &err) == 0, "%s", err.text);
	return disk;
}

static void must(int r, const struct plt_error *err)
{
	ck_assert_msg(r == 0, "%s", err->text);
}

/* Pieces of every length; zeros too, which hide what lies below. */
static void fill(struct plt_disk *disk, uint64_t *rnd, unsigned layer, unsigned count)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t size = plt_disk_size(disk);
	static uint8_t buf[256 << 10];

	for (unsigned k = 0; k < count; k++) {
		uint64_t off = plt_unit_random(rnd) % size / 512 * 512;
		uint64_t want = UINT64_C(512) << plt_unit_random(rnd) % 8, len = PLT_MIN(want, size - off);

		if (plt_unit_random(rnd) % 8 == 0) {
			must(plt_write_zeroes(disk, off, len, PLT_ZERO_UNMAP, &err), &err);
			memset(model + off, 0, len);
			continue;
		}
		memset(buf, (int)(layer * 16 + k % 16 + 1), len);
		must(plt_write(disk, off, buf, len, &err), &err);
		memcpy(model + off, buf, len);
	}
}

static const char *const kinds[][2] = {
	{ "qcow2", "cluster_size=65536" }, { "qcow2", "cluster_size=4096" }, { "qcow2", "cluster_size=512" },
	{ "qcow2", "extended_l2=on" }, { "qcow2", "cluster_size=2M" }, { "qcow2", "compat=0.10,cluster_size=16384" },
};

static unsigned make_chain(uint64_t *rnd, const char **ret_format)
{
	unsigned n = 4 + (unsigned)(plt_unit_random(rnd) % 9);
	bool vhd = plt_unit_random(rnd) % 4 == 0;

	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < n; i++) {
		struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
		const char *const *kind = kinds[plt_unit_random(rnd) % PLT_ARRAY_SIZE(kinds)];
		const char *const list[] = { vhd ? i ? "block_size=65536" : "force_size=on,block_size=4096" : kind[1], NULL };
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk;

		c.format = vhd ? "vpc" : kind[0];
		c.options = list;
		/* a layer that is shorter hides what lies behind its end */
		c.virtual_size = vhd || i == n - 1 || plt_unit_random(rnd) % 3 ? SIZE :
				 SIZE - plt_unit_random(rnd) % 16 * 32768 - 512;
		c.backing = i ? path(i - 1) : NULL;
		c.backing_format = i ? c.format : NULL;
		must(plt_create(ctx, path(i), &c, NULL, &err), &err);
		disk = open_layer(i, c.format, PLT_OPEN_WRITE);
		memset(model + plt_disk_size(disk), 0, SIZE - plt_disk_size(disk));
		fill(disk, rnd, i, i ? 3 : 12);
		must(plt_disk_close(disk, &err), &err);
		*ret_format = c.format;
	}
	return n;
}

static void read_one(struct plt_disk *disk, uint64_t *rnd, uint8_t *buf)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off = plt_unit_random(rnd) % SIZE, len = 1 + plt_unit_random(rnd) % READ_MAX;

	if (plt_unit_random(rnd) % 4) { /* mostly small and aligned, as guests read */
		off = off / 4096 * 4096;
		len = 4096 << plt_unit_random(rnd) % 5;
	}
	len = PLT_MIN(len, SIZE - off);
	must(plt_read(disk, off, buf, len, &err), &err);
	if (!memcmp(buf, model + off, len))
		return;
	for (uint64_t i = 0; i < len; i++)
		ck_assert_msg(buf[i] == model[off + i], "guest offset %#" PRIx64 ": %#x, not %#x", off + i, buf[i],
			      model[off + i]);
}

START_TEST(test_reads)
{
	uint64_t rnd = plt_unit_seed() + (uint64_t)_i;
	const char *format = NULL;
	unsigned n = make_chain(&rnd, &format);
	uint8_t *buf = malloc(READ_MAX);
	struct plt_disk *disk = open_layer(n - 1, format, _i % 2 ? PLT_OPEN_WRITE : 0);

	for (unsigned k = 0; k < 400; k++) {
		read_one(disk, &rnd, buf);
		if (_i % 2 && k % 40 == 39) /* the image itself may change meanwhile */
			fill(disk, &rnd, n, 1);
	}
	must(plt_disk_close(disk, NULL), &(struct plt_error)PLT_ERROR_INIT);
	free(buf);
}
END_TEST

struct reader {
	struct plt_disk *disk;
	uint64_t rnd;
};

static void *reader(void *arg)
{
	struct reader *r = arg;
	uint8_t *buf = malloc(READ_MAX);

	for (unsigned k = 0; k < 150; k++)
		read_one(r->disk, &r->rnd, buf);
	free(buf);
	return NULL;
}

START_TEST(test_threads)
{
	uint64_t rnd = plt_unit_seed();
	const char *format = NULL;
	unsigned n = make_chain(&rnd, &format);
	struct plt_disk *disk = open_layer(n - 1, format, 0);
	struct reader r[4];
	pthread_t t[4];

	for (unsigned i = 0; i < 4; i++) {
		r[i] = (struct reader){ disk, rnd + i };
		ck_assert_int_eq(pthread_create(&t[i], NULL, reader, &r[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	must(plt_disk_close(disk, NULL), &(struct plt_error)PLT_ERROR_INIT);
}
END_TEST

/* As a commit does. */
START_TEST(test_written_below)
{
	uint64_t rnd = plt_unit_seed();
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t a[4096], b[4096];
	struct plt_disk *disk, *layer;

	for (unsigned i = 0; i < 5; i++) {
		struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;

		c.format = "qcow2";
		c.virtual_size = SIZE;
		c.backing = i ? path(i - 1) : NULL;
		c.backing_format = i ? "qcow2" : NULL;
		must(plt_create(ctx, path(i), &c, NULL, &err), &err);
	}
	o.format = "qcow2";
	must(plt_disk_open_layer(ctx, path(4), &o, 2, &disk, &layer, &err), &err);
	for (unsigned k = 0; k < 20; k++) {
		uint64_t off = plt_unit_random(&rnd) % (SIZE / 4096) * 4096;

		must(plt_read(disk, off, b, sizeof(b), &err), &err);
		memset(a, (int)k + 1, sizeof(a));
		must(plt_write(layer, off, a, sizeof(a), &err), &err);
		must(plt_read(disk, off, b, sizeof(b), &err), &err);
		ck_assert_mem_eq(a, b, sizeof(a));
	}
	plt_disk_release_layer(layer);
	must(plt_disk_close(disk, &err), &err);
}
END_TEST

/* Two units that share a slot. */
START_TEST(test_far_apart)
{
	const uint64_t far = UINT64_C(2) << 30;
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t a[4096], b[4096];
	struct plt_disk *disk;

	for (unsigned i = 0; i < 5; i++) {
		struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;

		c.format = "qcow2";
		c.virtual_size = far + MIB;
		c.backing = i ? path(i - 1) : NULL;
		c.backing_format = i ? "qcow2" : NULL;
		must(plt_create(ctx, path(i), &c, NULL, &err), &err);
		disk = open_layer(i, "qcow2", PLT_OPEN_WRITE);
		memset(a, (int)i + 1, sizeof(a));
		if (i == 0 || i == 2)
			must(plt_write(disk, i ? 0 : far, a, sizeof(a), &err), &err);
		must(plt_disk_close(disk, &err), &err);
	}
	disk = open_layer(4, "qcow2", 0);
	for (unsigned i = 0; i < 6; i++) {
		must(plt_read(disk, i % 2 ? 0 : far, b, sizeof(b), &err), &err);
		memset(a, i % 2 ? 3 : 1, sizeof(a));
		ck_assert_mem_eq(a, b, sizeof(a));
	}
	must(plt_disk_close(disk, &err), &err);
}
END_TEST

static void setup(void)
{
	struct plt_error err = PLT_ERROR_INIT;

	must(plt_ctx_new(NULL, &ctx, &err), &err);
}

static void teardown(void)
{
	plt_ctx_free(ctx);
}

static Suite *suite(void)
{
	Suite *s = suite_create("block/skip");
	TCase *t = tcase_create("chains");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, test_reads, 0, 12);
	tcase_add_test(t, test_threads);
	tcase_add_test(t, test_written_below);
	tcase_add_test(t, test_far_apart);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
