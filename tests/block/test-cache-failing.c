/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The metadata cache where loads, write-back and syncs fail; and read-ahead, which must change nothing about that.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tests/block/cachebed.h"

struct failing {
	enum lab_event ev;
	int error;
	unsigned skip, count;
	int tag; /* -1: any */
};

static int fail_some(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct failing *f = arg;

	(void)off;
	(void)len;
	if (ev != f->ev || (f->tag >= 0 && tag != (enum plt_io_tag)f->tag) || !f->count)
		return 0;
	if (f->skip) {
		f->skip--;
		return 0;
	}
	f->count--;
	return f->error;
}

START_TEST(failed_loads_are_retried)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_READ, -EIO, 0, 2, -1 };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *blk;

	b->hook = (struct lab_hook){ fail_some, &f };
	for (int i = 0; i < 2; i++) {
		err = (struct plt_error)PLT_ERROR_INIT;
		ck_assert_int_eq(bed_try_get(b, &pins, 0, 9, &blk, &err), -EIO);
		ck_assert_ptr_nonnull(strstr(err.text, "refused by the test"));
		plt_pins_drop(&pins);
	}
	(void)bed_get(b, &pins, 0, 9);
	plt_pins_drop(&pins);
	b->hook.fn = NULL;
	bed_free(b);
}
END_TEST

START_TEST(refused_blocks_are_reported)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *blk;

	bed_refuse = 2;
	bed_validations = 0;
	for (int i = 0; i < 2; i++) {
		err = (struct plt_error)PLT_ERROR_INIT;
		ck_assert_int_eq(bed_try_get(b, &pins, 0, 9, &blk, &err), -EUCLEAN);
		ck_assert_ptr_nonnull(strstr(err.text, "refused by the test"));
		plt_pins_drop(&pins);
	}
	(void)bed_get(b, &pins, 0, 9);
	plt_pins_drop(&pins);
	ck_assert_uint_eq(bed_validations, 3);
	(void)bed_get(b, &pins, 0, 9); /* a hit needs no check */
	plt_pins_drop(&pins);
	ck_assert_uint_eq(bed_validations, 3);
	bed_free(b);
}
END_TEST

static unsigned reads;

static int count_reads(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	(void)arg;
	(void)off;
	(void)len;
	reads += ev == LAB_READ && tag == PLT_IO_OTHER;
	return 0;
}

/* What is gone through in order takes few reads, what is not takes as many as it did. */
START_TEST(tables_are_read_ahead)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_READ, -EIO, 0, 1, PLT_IO_OTHER };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;

	for (unsigned i = 0; i < 128; i++)
		bed_write(b, i, 500 + i);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	bed_press(b, 0, 256);
	bed_ahead = true;
	b->hook = (struct lab_hook){ count_reads, NULL };
	reads = 0;
	for (unsigned i = 0; i < 128; i++) {
		ck_assert_uint_eq(plt_block_get64(bed_get(b, &pins, 0, i), 0), 500 + i);
		plt_pins_drop(&pins);
	}
	ck_assert_uint_ge(reads, 128 / 16);
	ck_assert_uint_le(reads, 128 / 16 + 12); /* (a window ends where its cluster does) */
	bed_press(b, 0, 256);
	reads = 0;
	for (unsigned i = 0; i < 128; i++) {
		unsigned k = i * 37 % 128;

		ck_assert_uint_eq(plt_block_get64(bed_get(b, &pins, 0, k), 0), 500 + k);
		plt_pins_drop(&pins);
	}
	ck_assert_uint_eq(reads, 128);
	/* a failed read of several is none of the others' failure: each is read again, by whoever needs it */
	bed_press(b, 0, 256);
	(void)bed_get(b, &pins, 0, 0);
	plt_pins_drop(&pins);
	b->hook = (struct lab_hook){ fail_some, &f };
	for (unsigned i = 1; i < 128; i++) {
		ck_assert_uint_eq(plt_block_get64(bed_get(b, &pins, 0, i), 0), 500 + i);
		plt_pins_drop(&pins);
	}
	ck_assert_int_eq(f.count, 0);
	b->hook.fn = NULL;
	bed_free(b);
}
END_TEST

/* A block that is being taken along is loaded, changed and written by another: what was read is old. */
START_TEST(what_is_read_ahead_is_not_older)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_need need = { 0 };
	struct plt_ahead *a;
	struct plt_block *blk;
	uint8_t *buf;
	size_t len;

	bed_press(b, 0, 256);
	bed_ahead = true;
	b->img->engine->ahead_at = b->host[16];
	b->img->engine->ahead_n = 4;
	ck_assert_int_eq(plt_meta_get(b->img, &pins, &bed_types[0], b->host[16], &blk, &need, &err), -EAGAIN);
	len = plt_ahead_begin(b->img, need.block, &a);
	ck_assert_uint_eq(len, 8 * PLT_SLICE);
	buf = malloc(len);
	lab_must(plt_store_read(b->img->file, b->host[16], buf, len, PLT_IO_OTHER, &err), &err);
	bed_write(b, 17, 1234);
	bed_write(b, 18, 1235);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	bed_write(b, 18, 1236);
	bed_press(b, 16, 32);
	plt_meta_forget(b->img, b->host[19], PLT_SLICE);
	plt_ahead_end(b->img, need.block, a, buf, 0, NULL);
	plt_pins_drop(&pins);
	for (unsigned i = 16; i < 24; i++) {
		lab_expect(plt_block_get64(bed_get(b, &pins, 0, i), 0) == b->model[i], "block %u", i);
		plt_pins_drop(&pins);
	}
	free(buf);
	free(a);
	bed_free(b);
}
END_TEST

/* Two requests wait for one load; it fails; both say so, and the next one reads again. */
START_TEST(waiters_of_a_failed_load)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_READ, -EIO, 0, 1, PLT_IO_L2 };
	struct lab_req r[3] = { 0 };
	struct lab_queue lq;
	uint8_t buf[3][512];

	lab_close(b->disk);
	b->disk = lab_open(b->ctx, b->file, NULL);
	b->img = plt_disk_image(b->disk);
	b->hook = (struct lab_hook){ fail_some, &f };
	lab_queue_new(&lq, b->ctx);
	for (unsigned i = 0; i < 3; i++)
		r[i] = (struct lab_req){ .kind = PLT_IO_READ_REQ, .off = i * 512, .len = 512, .buf = buf[i] };
	lab_start(lq.q, b->img, &r[0], &lq.clock);
	lab_start(lq.q, b->img, &r[1], &lq.clock);
	for (unsigned n; (n = lab_settle(&lq));)
		lab_complete(&lq, n - 1);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert(r[i].done);
		ck_assert_int_eq(r[i].result, -EIO);
		ck_assert_ptr_nonnull(strstr(r[i].err.text, "refused by the test"));
	}
	lab_start(lq.q, b->img, &r[2], &lq.clock);
	while (lab_settle(&lq))
		lab_complete(&lq, 0);
	ck_assert(r[2].done);
	ck_assert_int_eq(r[2].result, 0);
	lab_queue_free(&lq);
	b->hook.fn = NULL;
	bed_free(b);
}
END_TEST

START_TEST(failed_write_back_keeps_blocks)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_WRITE, -ENOSPC, 3, 1, PLT_IO_OTHER };
	struct plt_error err = PLT_ERROR_INIT;

	for (unsigned i = 0; i < 40; i++)
		bed_write(b, 2 * i, 100 + i); /* not adjacent: 40 writes */
	b->hook = (struct lab_hook){ fail_some, &f };
	ck_assert_int_eq(plt_meta_flush(b->img, true, &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.text, "test table 0"));
	ck_assert(plt_meta_is_dirty(b->img));
	bed_press(b, 0, 80);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	for (unsigned i = 0; i < 40; i++)
		ck_assert_uint_eq(bed_on_disk(b, 2 * i, 0), 100 + i);
	bed_free(b);
}
END_TEST

/* The disk ends with an error that is known already. */
static void close_broken(struct bed *b)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_int_lt(plt_disk_close(b->disk, &err), 0);
	b->disk = NULL;
	bed_free(b);
}

/* After a failed sync the file may hold less than was written: what was written is not read back. */
START_TEST(failed_sync_keeps_what_was_written)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_SYNC, -EIO, 0, 1, -1 };
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t junk = 12345;

	for (unsigned i = 0; i < 40; i++)
		bed_write(b, i, 100 + i);
	b->hook = (struct lab_hook){ fail_some, &f };
	ck_assert_int_eq(plt_meta_flush(b->img, true, &err), -EIO);
	for (unsigned i = 0; i < 40; i++) /* the kernel drops the pages */
		lab_must(plt_store_write(b->memory, b->host[i], &junk, 8, PLT_IO_OTHER, &err), &err);
	bed_press(b, 0, 40);
	for (unsigned i = 0; i < 40; i++) {
		struct plt_pins pins = PLT_PINS_INIT;

		ck_assert_uint_eq(plt_block_get64(bed_get(b, &pins, 0, i), 0), 100 + i);
		plt_pins_drop(&pins);
	}
	close_broken(b);
}
END_TEST

/* A cache full of blocks that cannot be written any more: reads go on. */
START_TEST(reads_go_on_after_a_failed_sync)
{
	struct bed *b = bed_new(false);
	struct failing f = { LAB_SYNC, -EIO, 0, 1, -1 };
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t buf[512];

	for (unsigned i = 0; i < SLOTS; i++) {
		struct plt_pins pins = PLT_PINS_BLOCKING;
		struct plt_block *blk;

		lab_must(plt_meta_get_wait(b->img, &pins, &bed_types[0], b->host[i], &blk, &err), &err);
		bed_change(b, blk, 0, i);
		plt_pins_drop(&pins);
	}
	b->hook = (struct lab_hook){ fail_some, &f };
	ck_assert_int_eq(plt_store_sync(b->img->file, &err), -EIO);
	err = (struct plt_error)PLT_ERROR_INIT;
	/* another L2 slice than any before */
	lab_must(plt_read(b->disk, 40 << 20, buf, sizeof(buf), &err), &err);
	ck_assert_int_eq(plt_write(b->disk, 40 << 20, buf, sizeof(buf), &err), -EIO);
	close_broken(b);
}
END_TEST

void cache_failing_tests(TCase *t)
{
	tcase_add_test(t, failed_loads_are_retried);
	tcase_add_test(t, refused_blocks_are_reported);
	tcase_add_test(t, tables_are_read_ahead);
	tcase_add_test(t, what_is_read_ahead_is_not_older);
	tcase_add_test(t, waiters_of_a_failed_load);
	tcase_add_test(t, failed_write_back_keeps_blocks);
	tcase_add_test(t, failed_sync_keeps_what_was_written);
	tcase_add_test(t, reads_go_on_after_a_failed_sync);
}
