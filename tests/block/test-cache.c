/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The metadata cache and its write-back under pressure.  Most tests bring table types of their own and
 * cache slices of the guest's data as if they were tables: four times as many as there are slots.
 * So every rule (what may be evicted, in which order blocks reach the disk, what a failure leaves)
 * is met without a format in between; the rest use qcow2 where its way of asking is the point.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "tests/block/cachebed.h"

/* ---- pressure -------------------------------------------------------------------------------- */

START_TEST(no_dirty_block_is_lost)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	unsigned last = 0;

	bed_ahead = _i;
	for (unsigned n = 0; n < 30000; n++) {
		struct plt_pins pins = PLT_PINS_INIT;
		unsigned i = bed_ahead && bed_random(b, 4) ? (last + 1) % BLOCKS : bed_random(b, 8) ? bed_random(b, BLOCKS) : bed_random(b, 32);
		struct plt_block *blk = bed_get(b, &pins, 0, i);

		lab_expect(plt_block_get64(blk, 0) == b->model[i], "block %u says %" PRIu64 ", not %" PRIu64, i,
			      plt_block_get64(blk, 0), b->model[i]);
		if (bed_random(b, 2))
			bed_change(b, blk, 0, ++b->model[i]);
		plt_pins_drop(&pins);
		last = i;
		if (!bed_random(b, 2000))
			lab_must(plt_meta_flush(b->img, bed_random(b, 2), &err), &err);
	}
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	for (unsigned i = 0; i < BLOCKS; i++)
		ck_assert_uint_eq(bed_on_disk(b, i, 0), b->model[i]);
	bed_free(b);
}
END_TEST

START_TEST(pinned_blocks_stay)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *v[PLT_PINS_MAX];

	for (unsigned i = 0; i < PLT_PINS_MAX; i++)
		v[i] = bed_get(b, &pins, 0, i);
	bed_press(b, 0, PLT_PINS_MAX);
	for (unsigned i = 0; i < PLT_PINS_MAX; i++) {
		struct plt_pins again = PLT_PINS_INIT;

		ck_assert_uint_eq(plt_block_host_off(v[i]), b->host[i]);
		ck_assert_ptr_eq(bed_get(b, &again, 0, i), v[i]);
		plt_pins_drop(&again);
	}
	plt_pins_drop(&pins);
	bed_free(b);
}
END_TEST

/* When everything is pinned, whoever is privileged goes on, and the rest waits. */
START_TEST(budget_and_privilege)
{
	struct bed *b = bed_new(false);
	struct plt_pins *pins = calloc(SLOTS, sizeof(*pins)), one = PLT_PINS_INIT, more = PLT_PINS_BLOCKING;
	struct plt_block *blk;
	struct plt_need need = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	unsigned n = 0;
	int r = 0;

	for (; n < 2 * SLOTS && r == 0; n++) {
		struct plt_pins *p = &pins[n / 4];

		while ((r = plt_meta_get(b->img, p, &bed_types[0], b->host[n], &blk, &need, &err)) == -EAGAIN &&
		       need.kind == PLT_NEED_LOAD)
			lab_must(plt_meta_load_wait(b->img, need.block, NULL), NULL);
	}
	ck_assert_int_eq(r, -EAGAIN);
	ck_assert_int_eq(need.kind, PLT_NEED_SLOT);
	ck_assert_uint_le(n, SLOTS + 1);
	ck_assert_uint_ge(n, SLOTS - 16); /* but for what other tables have pinned: nothing */
	lab_must(plt_meta_get_wait(b->img, &more, &bed_types[0], b->host[BLOCKS - 1], &blk, &err), &err);
	plt_pins_drop(&more);
	/* the slot beyond the budget is not for others */
	ck_assert_int_eq(plt_meta_get(b->img, &one, &bed_types[0], b->host[BLOCKS - 2], &blk, &need, &err), -EAGAIN);
	ck_assert_int_eq(need.kind, PLT_NEED_SLOT);
	for (unsigned i = 0; i < SLOTS; i++)
		plt_pins_drop(&pins[i]);
	(void)bed_get(b, &one, 0, BLOCKS - 2);
	plt_pins_drop(&one);
	free(pins);
	bed_free(b);
}
END_TEST

/* ---- order ----------------------------------------------------------------------------------- */

#define DEPS 24 /* words that name what the block relies on: index << 40 | version */

static void check_block(const uint8_t *data, unsigned i, const uint64_t *durable)
{
	for (unsigned w = 1; w <= DEPS; w++) {
		uint64_t dep = plt_get_be64(data + 8 * w), of = dep >> 40, version = dep & ((UINT64_C(1) << 40) - 1);

		lab_expect(!dep || durable[of] >= version, "block %u was written while version %" PRIu64
			      " of block %" PRIu64 " was not durable (%" PRIu64 " was)", i, version, of, durable[of]);
	}
}

/*
 * Every block says which versions of which blocks it relies on.  Whatever was evicted, read back and
 * changed in between, no block may have been written before what it relies on was durable.
 */
START_TEST(edges_are_obeyed)
{
	struct bed *b = bed_new(true);
	struct plt_error err = PLT_ERROR_INIT;
	const struct plt_log_record *rec;
	uint64_t *written = calloc(BLOCKS, 8), *durable = calloc(BLOCKS, 8);
	unsigned checked = 0, used = _i ? BLOCKS : 96;

	for (unsigned n = 0; n < 12000; n++) {
		struct plt_pins pins = PLT_PINS_INIT;
		unsigned top = bed_random(b, used / 4) * 4 + 1 + bed_random(b, 3), low = bed_random(b, used / 4) * 4 + bed_random(b, top % 4);
		struct plt_block *a = bed_get(b, &pins, low % 4, low), *blk = bed_get(b, &pins, top % 4, top);

		ck_assert_uint_eq(plt_block_get64(a, 0), b->model[low]);
		if (bed_random(b, 3))
			bed_change(b, a, 0, ++b->model[low]);
		pthread_mutex_lock(&b->img->lock);
		if (plt_block_room(blk) < 1) {
			pthread_mutex_unlock(&b->img->lock);
			lab_must(plt_meta_flush(b->img, false, &err), &err);
			pthread_mutex_lock(&b->img->lock);
			ck_assert_uint_ge(plt_block_room(blk), 1);
		}
		plt_block_set64(blk, 0, ++b->model[top]);
		plt_block_set64(blk, 1 + bed_random(b, DEPS), (uint64_t)low << 40 | b->model[low]);
		plt_block_dirty(blk);
		plt_block_after_block(blk, a);
		pthread_mutex_unlock(&b->img->lock);
		plt_pins_drop(&pins);
		if (!bed_random(b, 300))
			lab_must(plt_meta_flush(b->img, bed_random(b, 2), &err), &err);
	}
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	for (size_t i = 0, n = plt_writelog_records(b->log, &rec); i < n; i++) {
		if (rec[i].kind == PLT_LOG_SYNC)
			memcpy(durable, written, BLOCKS * 8);
		if (rec[i].kind != PLT_LOG_WRITE || rec[i].tag != PLT_IO_OTHER || rec[i].len % PLT_SLICE)
			continue;
		for (unsigned k = 0; k < BLOCKS; k++) {
			if (b->host[k] < rec[i].off || b->host[k] >= rec[i].off + rec[i].len)
				continue;
			check_block(rec[i].data + (b->host[k] - rec[i].off), k, durable);
			checked++;
		}
		for (unsigned k = 0; k < BLOCKS; k++)
			if (b->host[k] >= rec[i].off && b->host[k] < rec[i].off + rec[i].len)
				written[k] = plt_get_be64(rec[i].data + (b->host[k] - rec[i].off));
	}
	for (unsigned k = 0; k < used; k++)
		ck_assert_uint_eq(written[k], b->model[k]);
	ck_assert_uint_gt(checked, 1000 / (_i ? 1 : 4));
	free(written);
	free(durable);
	bed_free(b);
}
END_TEST

START_TEST(edges_go_upward)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *low = bed_get(b, &pins, 1, 0), *high = bed_get(b, &pins, _i ? 1 : 2, 1);

	plt_block_after_block(low, high); /* asserts */
}
END_TEST

/* A block that others wait for is kept, though it is clean: its version would be forgotten. */
START_TEST(dependents_keep_blocks)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT, again = PLT_PINS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_block *a = bed_get(b, &pins, 0, 0), *blk = bed_get(b, &pins, 1, 1);

	bed_change(b, a, 0, 1);
	bed_change(b, blk, 0, 1);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_block(blk, a);
	plt_block_discard(a); /* clean, the edge still there */
	pthread_mutex_unlock(&b->img->lock);
	ck_assert_int_eq(atomic_load(&a->dependents), 1);
	plt_pins_drop(&pins);
	bed_press(b, 0, 2); /* this writes blk back in the end, and lets a go */
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert_int_eq(atomic_load(&a->dependents), 0);
	ck_assert_uint_eq(bed_on_disk(b, 1, 0), 1);
	ck_assert_uint_eq(bed_on_disk(b, 0, 0), 0);
	plt_pins_drop(&again);
	bed_free(b);
}
END_TEST

/* ---- what changes while a flush is under way ------------------------------------------------- */

struct meanwhile {
	struct bed *b;
	unsigned syncs, rounds;
};

/* At each sync: block 1 comes to rely on a new version of block 0. */
static int change_at_sync(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct meanwhile *m = arg;
	struct bed *b = m->b;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *a, *blk;

	(void)off;
	(void)len;
	(void)tag;
	if (ev != LAB_SYNC)
		return 0;
	lab_expect(++m->syncs < 200, "the flush does not end");
	if (!m->rounds)
		return 0;
	m->rounds--;
	a = bed_get(b, &pins, 0, 0);
	blk = bed_get(b, &pins, 1, 1);
	bed_change(b, a, 0, ++b->model[0]);
	pthread_mutex_lock(&b->img->lock);
	plt_block_set64(blk, 0, ++b->model[1]);
	plt_block_dirty(blk);
	plt_block_after_block(blk, a);
	pthread_mutex_unlock(&b->img->lock);
	plt_pins_drop(&pins);
	return 0;
}

/* A block of this flush comes to wait for one that became dirty after it began. */
START_TEST(flush_ends)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct meanwhile m = { .b = b, .rounds = 3 };
	struct plt_block *blk = bed_get(b, &pins, 1, 1);

	bed_change(b, blk, 0, ++b->model[1]);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_sync(blk, b->img->file);
	pthread_mutex_unlock(&b->img->lock);
	plt_pins_drop(&pins);
	b->hook = (struct lab_hook){ change_at_sync, &m };
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	b->hook.fn = NULL;
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert_uint_eq(bed_on_disk(b, 0, 0), b->model[0]);
	ck_assert_uint_eq(bed_on_disk(b, 1, 0), b->model[1]);
	bed_free(b);
}
END_TEST

/* ---- forgetting ------------------------------------------------------------------------------ */

START_TEST(forget_drops_dirty_blocks)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *a, *blk;

	for (unsigned i = 0; i < 4; i++)
		bed_write(b, i, 7);
	/* 4 waits for 1, which is about to be forgotten */
	a = bed_get(b, &pins, 0, 1);
	blk = bed_get(b, &pins, 1, 4);
	bed_change(b, blk, 0, 9);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_block(blk, a);
	pthread_mutex_unlock(&b->img->lock);
	plt_pins_drop(&pins);
	ck_assert_uint_eq(b->host[2], b->host[1] + PLT_SLICE);
	plt_meta_forget(b->img, b->host[1] + 100, PLT_SLICE); /* touches 1 and 2 */
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert(!plt_meta_is_dirty(b->img));
	for (unsigned i = 0; i < 4; i++)
		ck_assert_uint_eq(bed_on_disk(b, i, 0), i == 1 || i == 2 ? 0 : 7);
	ck_assert_uint_eq(bed_on_disk(b, 4, 0), 9);
	/* read anew, not from memory */
	a = bed_get(b, &pins, 0, 1);
	ck_assert_uint_eq(plt_block_get64(a, 0), 0);
	plt_pins_drop(&pins);
	bed_press(b, 4, 5); /* forgotten slots are of use again */
	bed_free(b);
}
END_TEST

/* A block that is forgotten while a request holds it: that request ends, and nothing is written. */
START_TEST(forget_a_pinned_block)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT, other = PLT_PINS_INIT;
	struct plt_block *old = bed_get(b, &pins, 0, 0), *now;

	plt_meta_forget(b->img, b->host[0], PLT_SLICE);
	now = bed_get(b, &other, 0, 0);
	ck_assert_ptr_ne(old, now);
	bed_write(b, 0, 5);
	ck_assert_uint_eq(plt_block_get64(old, 0), 0);
	plt_pins_drop(&pins);
	plt_pins_drop(&other);
	bed_press(b, 0, 1);
	now = bed_get(b, &pins, 0, 0);
	ck_assert_uint_eq(plt_block_get64(now, 0), 5);
	plt_pins_drop(&pins);
	bed_free(b);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/cache");
	TCase *t = tcase_create("cache");

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, no_dirty_block_is_lost, 0, 2);
	tcase_add_test(t, pinned_blocks_stay);
	tcase_add_test(t, budget_and_privilege);
	tcase_add_loop_test(t, edges_are_obeyed, 0, 2);
	if (!getenv("CK_FORK")) /* without a process of its own it would end the program */
		tcase_add_loop_test_raise_signal(t, edges_go_upward, SIGABRT, 0, 2);
	tcase_add_test(t, dependents_keep_blocks);
	tcase_add_test(t, flush_ends);
	tcase_add_test(t, forget_drops_dirty_blocks);
	tcase_add_test(t, forget_a_pinned_block);
	cache_failing_tests(t);
	cache_qcow2_tests(t);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
