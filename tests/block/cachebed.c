/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The image, the table types and the small steps of the tests of the metadata cache.
 */
#include <stdio.h>

#include "tests/block/cachebed.h"

int bed_refuse;
unsigned bed_validations;

static int validate(struct plt_image *img, uint64_t host_off, const void *data, size_t len, struct plt_error *err)
{
	(void)data;
	lab_expect(len == img->slice, "%zu bytes", len);
	bed_validations++;
	if (bed_refuse > 0) {
		bed_refuse--;
		return plt_error_set(err, EUCLEAN, "table at %#" PRIx64 ": refused by the test", host_off);
	}
	return 0;
}

bool bed_ahead;

static uint64_t table_end(const struct plt_image *img, uint64_t host_off)
{
	(void)img;
	return bed_ahead ? plt_align_down(host_off, 1 << 16) + (1 << 16) : 0; /* a cluster */
}

const struct plt_meta_type bed_types[] = {
	{ "test table 0", 0, PLT_IO_OTHER, validate, table_end },
	{ "test table 1", 1, PLT_IO_OTHER, validate, table_end },
	{ "test table 2", 2, PLT_IO_OTHER, validate, table_end },
	{ "test table 3", 3, PLT_IO_OTHER, validate, table_end },
};

static void find_blocks(struct bed *b)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent x[16];
	unsigned n;

	for (uint64_t off = 0; off < DATA_LEN;) {
		lab_must(plt_status(b->disk, off, DATA_LEN - off, 0, x, PLT_ARRAY_SIZE(x), &n, &err), &err);
		for (unsigned i = 0; i < n; i++)
			for (uint64_t at = 0; at < x[i].len; at += PLT_SLICE, off += PLT_SLICE)
				b->host[off / PLT_SLICE] = x[i].host_off + at;
	}
}

struct bed *bed_new(bool logged)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *zero = calloc(1, DATA_LEN);

	bed_refuse = 0;
	bed_ahead = false;
	b->seed = plt_unit_seed();
	b->ctx = lab_ctx(1);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &b->memory), 0);
	lab_create(b->ctx, b->memory, NULL, 64 << 20, false);
	b->disk = lab_open(b->ctx, b->memory, NULL);
	memset(zero, 0, DATA_LEN);
	lab_must(plt_write(b->disk, 0, zero, DATA_LEN, &err), &err);
	free(zero);
	lab_close(b->disk);
	if (logged) {
		ck_assert_int_eq(plt_writelog_new(&b->log), 0);
		ck_assert_int_ge(plt_writelog_attach(b->log, b->memory, &b->file), 0);
	} else {
		b->file = lab_hooked(b->memory, &b->hook);
	}
	b->disk = lab_open(b->ctx, b->file, NULL);
	b->img = plt_disk_image(b->disk);
	ck_assert_uint_eq(b->img->slice, PLT_SLICE);
	find_blocks(b);
	/* the first change is behind us */
	lab_must(plt_write(b->disk, DATA_LEN, "x", 1, &err), &err);
	lab_must(plt_flush(b->disk, &err), &err);
	return b;
}

void bed_free(struct bed *b)
{
	if (b->disk)
		lab_close(b->disk);
	plt_store_unref(b->file);
	plt_store_unref(b->memory);
	if (b->log)
		plt_writelog_free(b->log);
	plt_ctx_free(b->ctx);
	free(b);
}

unsigned bed_random(struct bed *b, unsigned n)
{
	return (unsigned)(plt_unit_random(&b->seed) % n);
}

int bed_try_get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i, struct plt_block **ret,
		struct plt_error *err)
{
	struct plt_need need = { 0 };

	for (unsigned tries = 0; tries < 8; tries++) {
		int r = plt_meta_get(b->img, pins, &bed_types[rank], b->host[i], ret, &need, err);

		if (r != -EAGAIN)
			return r;
		if (need.kind == PLT_NEED_LOAD) /* (why it failed the next try says) */
			(void)plt_meta_load_wait(b->img, need.block, NULL);
		else if (need.kind == PLT_NEED_SLOT)
			lab_must(plt_cache_make_room(b->img->engine, err), err);
		else
			ck_abort_msg("need %d", need.kind);
	}
	ck_abort_msg("block %u cannot be had although hardly anything is pinned", i);
	return -1;
}

struct plt_block *bed_get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_block *blk;

	lab_must(bed_try_get(b, pins, rank, i, &blk, &err), &err);
	return blk;
}

void bed_change(struct bed *b, struct plt_block *blk, unsigned word, uint64_t value)
{
	pthread_mutex_lock(&b->img->lock);
	plt_block_set64(blk, word, value);
	plt_block_dirty(blk);
	pthread_mutex_unlock(&b->img->lock);
}

void bed_write(struct bed *b, unsigned i, uint64_t value)
{
	struct plt_pins pins = PLT_PINS_INIT;

	bed_change(b, bed_get(b, &pins, 0, i), 0, value);
	b->model[i] = value;
	plt_pins_drop(&pins);
}

uint64_t bed_on_disk(struct bed *b, unsigned i, unsigned word)
{
	uint64_t v;
	struct plt_error err = PLT_ERROR_INIT;

	lab_must(plt_store_read(b->memory, b->host[i] + 8 * word, &v, 8, PLT_IO_OTHER, &err), &err);
	return plt_be64_to_cpu(v);
}

void bed_press(struct bed *b, unsigned from, unsigned to)
{
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < BLOCKS; i++)
			if (i < from || i >= to) {
				struct plt_pins pins = PLT_PINS_INIT;

				(void)bed_get(b, &pins, 0, i);
				plt_pins_drop(&pins);
			}
}
