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

#include "tests/block/lab.h"

#define BLOCKS 1024
#define SLOTS 256 /* what the smallest budget has */
#define DATA_LEN ((uint64_t)BLOCKS * PLT_SLICE)

static int refuse;            /* validate: refuse this many */
static unsigned validations;

static int validate(struct plt_image *img, uint64_t host_off, const void *data, size_t len, struct plt_error *err)
{
	(void)data;
	lab_expect(len == img->slice, "%zu bytes", len);
	validations++;
	if (refuse > 0) {
		refuse--;
		return plt_error_set(err, EUCLEAN, "table at %#" PRIx64 ": refused by the test", host_off);
	}
	return 0;
}

static bool ahead; /* tables are read ahead */

static uint64_t table_end(const struct plt_image *img, uint64_t host_off)
{
	(void)img;
	return ahead ? plt_align_down(host_off, 1 << 16) + (1 << 16) : 0; /* a cluster */
}

static const struct plt_meta_type types[] = {
	{ "test table 0", 0, PLT_IO_OTHER, validate, table_end },
	{ "test table 1", 1, PLT_IO_OTHER, validate, table_end },
	{ "test table 2", 2, PLT_IO_OTHER, validate, table_end },
	{ "test table 3", 3, PLT_IO_OTHER, validate, table_end },
};

struct bed {
	struct plt_ctx *ctx;
	struct plt_store *memory, *file;
	struct plt_disk *disk;
	struct plt_image *img;
	struct lab_hook hook;
	struct plt_writelog *log;
	uint64_t host[BLOCKS];
	uint64_t model[BLOCKS];
	uint64_t seed;
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

static struct bed *bed_new(bool logged)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *zero = calloc(1, DATA_LEN);

	refuse = 0;
	ahead = false;
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

static void bed_free(struct bed *b)
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

static unsigned rnd(struct bed *b, unsigned n)
{
	return (unsigned)(plt_unit_random(&b->seed) % n);
}

/* As a request gets it: within the budget, making room where there is none. */
static int try_get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i, struct plt_block **ret,
		   struct plt_error *err)
{
	struct plt_need need = { 0 };

	for (unsigned tries = 0; tries < 8; tries++) {
		int r = plt_meta_get(b->img, pins, &types[rank], b->host[i], ret, &need, err);

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

static struct plt_block *get(struct bed *b, struct plt_pins *pins, unsigned rank, unsigned i)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_block *blk;

	lab_must(try_get(b, pins, rank, i, &blk, &err), &err);
	return blk;
}

static void change(struct bed *b, struct plt_block *blk, unsigned word, uint64_t value)
{
	pthread_mutex_lock(&b->img->lock);
	plt_block_set64(blk, word, value);
	plt_block_dirty(blk);
	pthread_mutex_unlock(&b->img->lock);
}

static void write_word(struct bed *b, unsigned i, uint64_t value)
{
	struct plt_pins pins = PLT_PINS_INIT;

	change(b, get(b, &pins, 0, i), 0, value);
	b->model[i] = value;
	plt_pins_drop(&pins);
}

/* What the file says, past the cache. */
static uint64_t on_disk(struct bed *b, unsigned i, unsigned word)
{
	uint64_t v;
	struct plt_error err = PLT_ERROR_INIT;

	lab_must(plt_store_read(b->memory, b->host[i] + 8 * word, &v, 8, PLT_IO_OTHER, &err), &err);
	return plt_be64_to_cpu(v);
}

/* Load every block but [from, to), so that what can be evicted is. */
static void press(struct bed *b, unsigned from, unsigned to)
{
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < BLOCKS; i++)
			if (i < from || i >= to) {
				struct plt_pins pins = PLT_PINS_INIT;

				(void)get(b, &pins, 0, i);
				plt_pins_drop(&pins);
			}
}

/* ---- pressure -------------------------------------------------------------------------------- */

START_TEST(no_dirty_block_is_lost)
{
	struct bed *b = bed_new(false);
	struct plt_error err = PLT_ERROR_INIT;
	unsigned last = 0;

	ahead = _i;
	for (unsigned n = 0; n < 30000; n++) {
		struct plt_pins pins = PLT_PINS_INIT;
		unsigned i = ahead && rnd(b, 4) ? (last + 1) % BLOCKS : rnd(b, 8) ? rnd(b, BLOCKS) : rnd(b, 32);
		struct plt_block *blk = get(b, &pins, 0, i);

		lab_expect(plt_block_get64(blk, 0) == b->model[i], "block %u says %" PRIu64 ", not %" PRIu64, i,
			      plt_block_get64(blk, 0), b->model[i]);
		if (rnd(b, 2))
			change(b, blk, 0, ++b->model[i]);
		plt_pins_drop(&pins);
		last = i;
		if (!rnd(b, 2000))
			lab_must(plt_meta_flush(b->img, rnd(b, 2), &err), &err);
	}
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	for (unsigned i = 0; i < BLOCKS; i++)
		ck_assert_uint_eq(on_disk(b, i, 0), b->model[i]);
	bed_free(b);
}
END_TEST

START_TEST(pinned_blocks_stay)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_block *v[PLT_PINS_MAX];

	for (unsigned i = 0; i < PLT_PINS_MAX; i++)
		v[i] = get(b, &pins, 0, i);
	press(b, 0, PLT_PINS_MAX);
	for (unsigned i = 0; i < PLT_PINS_MAX; i++) {
		struct plt_pins again = PLT_PINS_INIT;

		ck_assert_uint_eq(plt_block_host_off(v[i]), b->host[i]);
		ck_assert_ptr_eq(get(b, &again, 0, i), v[i]);
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

		while ((r = plt_meta_get(b->img, p, &types[0], b->host[n], &blk, &need, &err)) == -EAGAIN &&
		       need.kind == PLT_NEED_LOAD)
			lab_must(plt_meta_load_wait(b->img, need.block, NULL), NULL);
	}
	ck_assert_int_eq(r, -EAGAIN);
	ck_assert_int_eq(need.kind, PLT_NEED_SLOT);
	ck_assert_uint_le(n, SLOTS + 1);
	ck_assert_uint_ge(n, SLOTS - 16); /* but for what other tables have pinned: nothing */
	lab_must(plt_meta_get_wait(b->img, &more, &types[0], b->host[BLOCKS - 1], &blk, &err), &err);
	plt_pins_drop(&more);
	/* the slot beyond the budget is not for others */
	ck_assert_int_eq(plt_meta_get(b->img, &one, &types[0], b->host[BLOCKS - 2], &blk, &need, &err), -EAGAIN);
	ck_assert_int_eq(need.kind, PLT_NEED_SLOT);
	for (unsigned i = 0; i < SLOTS; i++)
		plt_pins_drop(&pins[i]);
	(void)get(b, &one, 0, BLOCKS - 2);
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
		unsigned top = rnd(b, used / 4) * 4 + 1 + rnd(b, 3), low = rnd(b, used / 4) * 4 + rnd(b, top % 4);
		struct plt_block *a = get(b, &pins, low % 4, low), *blk = get(b, &pins, top % 4, top);

		ck_assert_uint_eq(plt_block_get64(a, 0), b->model[low]);
		if (rnd(b, 3))
			change(b, a, 0, ++b->model[low]);
		pthread_mutex_lock(&b->img->lock);
		if (plt_block_room(blk) < 1) {
			pthread_mutex_unlock(&b->img->lock);
			lab_must(plt_meta_flush(b->img, false, &err), &err);
			pthread_mutex_lock(&b->img->lock);
			ck_assert_uint_ge(plt_block_room(blk), 1);
		}
		plt_block_set64(blk, 0, ++b->model[top]);
		plt_block_set64(blk, 1 + rnd(b, DEPS), (uint64_t)low << 40 | b->model[low]);
		plt_block_dirty(blk);
		plt_block_after_block(blk, a);
		pthread_mutex_unlock(&b->img->lock);
		plt_pins_drop(&pins);
		if (!rnd(b, 300))
			lab_must(plt_meta_flush(b->img, rnd(b, 2), &err), &err);
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
	struct plt_block *low = get(b, &pins, 1, 0), *high = get(b, &pins, _i ? 1 : 2, 1);

	plt_block_after_block(low, high); /* asserts */
}
END_TEST

/* A block that others wait for is kept, though it is clean: its version would be forgotten. */
START_TEST(dependents_keep_blocks)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT, again = PLT_PINS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_block *a = get(b, &pins, 0, 0), *blk = get(b, &pins, 1, 1);

	change(b, a, 0, 1);
	change(b, blk, 0, 1);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_block(blk, a);
	plt_block_discard(a); /* clean, the edge still there */
	pthread_mutex_unlock(&b->img->lock);
	ck_assert_int_eq(atomic_load(&a->dependents), 1);
	plt_pins_drop(&pins);
	press(b, 0, 2); /* this writes blk back in the end, and lets a go */
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert_int_eq(atomic_load(&a->dependents), 0);
	ck_assert_uint_eq(on_disk(b, 1, 0), 1);
	ck_assert_uint_eq(on_disk(b, 0, 0), 0);
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
	a = get(b, &pins, 0, 0);
	blk = get(b, &pins, 1, 1);
	change(b, a, 0, ++b->model[0]);
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
	struct plt_block *blk = get(b, &pins, 1, 1);

	change(b, blk, 0, ++b->model[1]);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_sync(blk, b->img->file);
	pthread_mutex_unlock(&b->img->lock);
	plt_pins_drop(&pins);
	b->hook = (struct lab_hook){ change_at_sync, &m };
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	b->hook.fn = NULL;
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert_uint_eq(on_disk(b, 0, 0), b->model[0]);
	ck_assert_uint_eq(on_disk(b, 1, 0), b->model[1]);
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
		write_word(b, i, 7);
	/* 4 waits for 1, which is about to be forgotten */
	a = get(b, &pins, 0, 1);
	blk = get(b, &pins, 1, 4);
	change(b, blk, 0, 9);
	pthread_mutex_lock(&b->img->lock);
	plt_block_after_block(blk, a);
	pthread_mutex_unlock(&b->img->lock);
	plt_pins_drop(&pins);
	ck_assert_uint_eq(b->host[2], b->host[1] + PLT_SLICE);
	plt_meta_forget(b->img, b->host[1] + 100, PLT_SLICE); /* touches 1 and 2 */
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	ck_assert(!plt_meta_is_dirty(b->img));
	for (unsigned i = 0; i < 4; i++)
		ck_assert_uint_eq(on_disk(b, i, 0), i == 1 || i == 2 ? 0 : 7);
	ck_assert_uint_eq(on_disk(b, 4, 0), 9);
	/* read anew, not from memory */
	a = get(b, &pins, 0, 1);
	ck_assert_uint_eq(plt_block_get64(a, 0), 0);
	plt_pins_drop(&pins);
	press(b, 4, 5); /* forgotten slots are of use again */
	bed_free(b);
}
END_TEST

/* A block that is forgotten while a request holds it: that request ends, and nothing is written. */
START_TEST(forget_a_pinned_block)
{
	struct bed *b = bed_new(false);
	struct plt_pins pins = PLT_PINS_INIT, other = PLT_PINS_INIT;
	struct plt_block *old = get(b, &pins, 0, 0), *now;

	plt_meta_forget(b->img, b->host[0], PLT_SLICE);
	now = get(b, &other, 0, 0);
	ck_assert_ptr_ne(old, now);
	write_word(b, 0, 5);
	ck_assert_uint_eq(plt_block_get64(old, 0), 0);
	plt_pins_drop(&pins);
	plt_pins_drop(&other);
	press(b, 0, 1);
	now = get(b, &pins, 0, 0);
	ck_assert_uint_eq(plt_block_get64(now, 0), 5);
	plt_pins_drop(&pins);
	bed_free(b);
}
END_TEST

/* ---- failures -------------------------------------------------------------------------------- */

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
		ck_assert_int_eq(try_get(b, &pins, 0, 9, &blk, &err), -EIO);
		ck_assert_ptr_nonnull(strstr(err.text, "refused by the test"));
		plt_pins_drop(&pins);
	}
	(void)get(b, &pins, 0, 9);
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

	refuse = 2;
	validations = 0;
	for (int i = 0; i < 2; i++) {
		err = (struct plt_error)PLT_ERROR_INIT;
		ck_assert_int_eq(try_get(b, &pins, 0, 9, &blk, &err), -EUCLEAN);
		ck_assert_ptr_nonnull(strstr(err.text, "refused by the test"));
		plt_pins_drop(&pins);
	}
	(void)get(b, &pins, 0, 9);
	plt_pins_drop(&pins);
	ck_assert_uint_eq(validations, 3);
	(void)get(b, &pins, 0, 9); /* a hit needs no check */
	plt_pins_drop(&pins);
	ck_assert_uint_eq(validations, 3);
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
		write_word(b, i, 500 + i);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	press(b, 0, 256);
	ahead = true;
	b->hook = (struct lab_hook){ count_reads, NULL };
	reads = 0;
	for (unsigned i = 0; i < 128; i++) {
		ck_assert_uint_eq(plt_block_get64(get(b, &pins, 0, i), 0), 500 + i);
		plt_pins_drop(&pins);
	}
	ck_assert_uint_ge(reads, 128 / 16);
	ck_assert_uint_le(reads, 128 / 16 + 12); /* (a window ends where its cluster does) */
	press(b, 0, 256);
	reads = 0;
	for (unsigned i = 0; i < 128; i++) {
		unsigned k = i * 37 % 128;

		ck_assert_uint_eq(plt_block_get64(get(b, &pins, 0, k), 0), 500 + k);
		plt_pins_drop(&pins);
	}
	ck_assert_uint_eq(reads, 128);
	/* a failed read of several is none of the others' failure: each is read again, by whoever needs it */
	press(b, 0, 256);
	(void)get(b, &pins, 0, 0);
	plt_pins_drop(&pins);
	b->hook = (struct lab_hook){ fail_some, &f };
	for (unsigned i = 1; i < 128; i++) {
		ck_assert_uint_eq(plt_block_get64(get(b, &pins, 0, i), 0), 500 + i);
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

	press(b, 0, 256);
	ahead = true;
	b->img->engine->ahead_at = b->host[16];
	b->img->engine->ahead_n = 4;
	ck_assert_int_eq(plt_meta_get(b->img, &pins, &types[0], b->host[16], &blk, &need, &err), -EAGAIN);
	len = plt_ahead_begin(b->img, need.block, &a);
	ck_assert_uint_eq(len, 8 * PLT_SLICE);
	buf = malloc(len);
	lab_must(plt_store_read(b->img->file, b->host[16], buf, len, PLT_IO_OTHER, &err), &err);
	write_word(b, 17, 1234);
	write_word(b, 18, 1235);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	write_word(b, 18, 1236);
	press(b, 16, 32);
	plt_meta_forget(b->img, b->host[19], PLT_SLICE);
	plt_ahead_end(b->img, need.block, a, buf, 0, NULL);
	plt_pins_drop(&pins);
	for (unsigned i = 16; i < 24; i++) {
		lab_expect(plt_block_get64(get(b, &pins, 0, i), 0) == b->model[i], "block %u", i);
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
		write_word(b, 2 * i, 100 + i); /* not adjacent: 40 writes */
	b->hook = (struct lab_hook){ fail_some, &f };
	ck_assert_int_eq(plt_meta_flush(b->img, true, &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.text, "test table 0"));
	ck_assert(plt_meta_is_dirty(b->img));
	press(b, 0, 80);
	lab_must(plt_meta_flush(b->img, true, &err), &err);
	for (unsigned i = 0; i < 40; i++)
		ck_assert_uint_eq(on_disk(b, 2 * i, 0), 100 + i);
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
		write_word(b, i, 100 + i);
	b->hook = (struct lab_hook){ fail_some, &f };
	ck_assert_int_eq(plt_meta_flush(b->img, true, &err), -EIO);
	for (unsigned i = 0; i < 40; i++) /* the kernel drops the pages */
		lab_must(plt_store_write(b->memory, b->host[i], &junk, 8, PLT_IO_OTHER, &err), &err);
	press(b, 0, 40);
	for (unsigned i = 0; i < 40; i++) {
		struct plt_pins pins = PLT_PINS_INIT;

		ck_assert_uint_eq(plt_block_get64(get(b, &pins, 0, i), 0), 100 + i);
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

		lab_must(plt_meta_get_wait(b->img, &pins, &types[0], b->host[i], &blk, &err), &err);
		change(b, blk, 0, i);
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

/* ---- what qcow2 asks for --------------------------------------------------------------------- */

/*
 * Finding a free cluster behind many full refcount blocks, none of them cached: a request walks over
 * them with its few pins.
 */
START_TEST(many_full_refcount_blocks)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	uint64_t len = 4 << 20;
	uint8_t *buf = malloc(len);

	memset(buf, 0x5a, len);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512", 8 << 20, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 0, buf, len, &err), &err);
	lab_close(disk);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 4 << 20, buf, 40000, &err), &err);
	lab_close(disk);
	/* and the same for the blocking form (a new L2 table is its first allocation) */
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write_zeroes(disk, 6 << 20, 65536, 0, &err), &err);
	lab_close(disk);
	lab_check(ctx, file, "after the writes");
	plt_store_unref(file);
	plt_ctx_free(ctx);
	free(buf);
}
END_TEST

struct packer {
	struct plt_disk *disk;
	uint8_t buf[4096];
	unsigned discards;
};

/* At the first punch: pack something else. */
static int pack_at_discard(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct packer *p = arg;
	struct plt_error err = PLT_ERROR_INIT;

	(void)off;
	(void)len;
	(void)tag;
	if (ev == LAB_DISCARD && !p->discards++)
		lab_must(plt_write_compressed(p->disk, 4096, p->buf, sizeof(p->buf), 0, &err), &err);
	return 0;
}

/* While a cluster with compressed data is being freed, nothing more is packed into it. */
START_TEST(packing_into_a_freed_cluster)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *memory, *file;
	struct packer p = { .discards = 0 };
	struct lab_hook hook = { pack_at_discard, &p };
	uint8_t got[4096];

	memset(p.buf, 0x6b, sizeof(p.buf));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &memory), 0);
	lab_create(ctx, memory, "cluster_size=4096", 1 << 20, false);
	file = lab_hooked(memory, &hook);
	p.disk = lab_open(ctx, file, NULL);
	lab_must(plt_write_compressed(p.disk, 0, p.buf, sizeof(p.buf), 0, &err), &err);
	lab_must(plt_discard(p.disk, 0, 4096, &err), &err);
	lab_must(plt_flush(p.disk, &err), &err);
	ck_assert_uint_eq(p.discards, 1);
	lab_must(plt_read(p.disk, 4096, got, sizeof(got), &err), &err);
	ck_assert(!memcmp(got, p.buf, sizeof(got)));
	lab_close(p.disk);
	lab_check(ctx, memory, "after packing");
	plt_store_unref(file);
	plt_store_unref(memory);
	plt_ctx_free(ctx);
}
END_TEST

static unsigned data_last(void *arg, struct plt_op *const *pending, unsigned n)
{
	unsigned *writes = arg, other = 0;

	*writes = 0;
	for (unsigned i = 0; i < n; i++)
		if (pending[i]->kind == PLT_OP_WRITE)
			(*writes)++;
		else
			other = i;
	return other;
}

/*
 * More writes at once into one L2 slice than a block has edges, each with its count in another refcount
 * block: all were placed before the first is published.
 */
START_TEST(many_edges_at_once)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	struct lab_req r[28] = { 0 };
	struct lab_queue lq;
	uint64_t len = 2 << 20, fresh = 3 << 20;
	uint8_t *buf = malloc(len);
	unsigned writes = 0;

	memset(buf, 0x5a, len);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512,refcount_bits=64", 4 << 20, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, fresh + 32000, buf, 512, &err), &err);
	lab_must(plt_write(disk, 0, buf, len, &err), &err);
	/* one free cluster in each slice of counts (64 clusters) */
	for (uint64_t off = 16384; off < len; off += 64 * 512)
		lab_must(plt_discard(disk, off, 512, &err), &err);
	lab_close(disk);
	disk = lab_open(ctx, file, NULL);
	lab_queue_new(&lq, ctx);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(r); i++) {
		r[i] = (struct lab_req){ .kind = PLT_IO_WRITE_REQ, .off = fresh + i * 512, .len = 512,
					 .buf = buf + i * 512 };
		lab_start(lq.q, plt_disk_image(disk), &r[i], &lq.clock);
	}
	lq.choose = data_last;
	lq.arg = &writes;
	while (writes < PLT_ARRAY_SIZE(r) && lab_settle(&lq))
		lab_complete(&lq, 0);
	ck_assert_uint_eq(writes, PLT_ARRAY_SIZE(r)); /* all are placed, none is published */
	lq.choose = NULL;
	while (lab_settle(&lq))
		lab_complete(&lq, 0);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(r); i++) {
		ck_assert(r[i].done);
		ck_assert_int_eq(r[i].result, 0);
	}
	lab_queue_free(&lq);
	lab_close(disk);
	lab_check(ctx, file, "after the writes");
	plt_store_unref(file);
	plt_ctx_free(ctx);
	free(buf);
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
	tcase_add_test(t, failed_loads_are_retried);
	tcase_add_test(t, refused_blocks_are_reported);
	tcase_add_test(t, tables_are_read_ahead);
	tcase_add_test(t, what_is_read_ahead_is_not_older);
	tcase_add_test(t, waiters_of_a_failed_load);
	tcase_add_test(t, failed_write_back_keeps_blocks);
	tcase_add_test(t, failed_sync_keeps_what_was_written);
	tcase_add_test(t, reads_go_on_after_a_failed_sync);
	tcase_add_test(t, many_full_refcount_blocks);
	tcase_add_test(t, many_edges_at_once);
	tcase_add_test(t, packing_into_a_freed_cluster);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
