/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * qcow version 1: headers that are refused, entries that cost their own clusters and no others, and what
 * a power cut may leave: with the rules in force every state opens and holds all that was flushed; with
 * either of them off some state does not.
 */
#include <errno.h>
#include <stdio.h>

#include "base/endian.h"
#include "block/internal.h"
#include "qcow/qcow.h"
#include "tests/unit.h"

#define SIZE (UINT64_C(5) << 20) /* three L2 tables */
#define CS 4096

static struct plt_ctx *ctx;

static struct plt_store *made(const char *backing)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;

	if (!ctx)
		ck_assert_int_eq(plt_ctx_new(NULL, &ctx, &err), 0);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	c.format = "qcow";
	c.virtual_size = SIZE;
	c.backing = backing;
	c.backing_format = backing ? "raw" : NULL;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	ck_assert_msg(plt_create_store(ctx, st, "top", &c, NULL, &err) == 0, "%s", err.text);
	return st;
}

static int try_open(struct plt_store *st, unsigned flags, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	o.flags = flags | PLT_OPEN_NO_BACKING;
	return plt_disk_open_store(ctx, st, "top", "qcow", &o, ret, err);
}

static void put(struct plt_store *st, uint64_t at, uint64_t value, unsigned len)
{
	uint8_t b[8];

	plt_put_be64(b, value);
	ck_assert_int_eq(plt_store_write(st, at, b + 8 - len, len, PLT_IO_OTHER, NULL), 0);
}

START_TEST(headers)
{
	static const struct {
		unsigned at, len;
		uint64_t value;
		const char *says;
	} v[] = {
		{ 0, 1, 'q', "not in qcow format" },
		{ 4, 4, 2, "version 2" },
		{ 24, 8, 0, "too small" },
		{ 24, 8, 1, "too small" },
		{ 24, 8, UINT64_MAX, "too large" },
		{ 24, 8, UINT64_C(1) << 60, "too large" },
		{ 24, 8, UINT64_C(1) << 40, "L1 table" },
		{ 32, 1, 8, "Cluster size" },
		{ 32, 1, 17, "Cluster size" },
		{ 32, 1, 255, "Cluster size" },
		{ 33, 1, 5, "L2 table size" },
		{ 33, 1, 14, "L2 table size" },
		{ 36, 4, 2, "encryption method" },
		{ 40, 8, 0, "L1 table" },
		{ 40, 8, 52, "L1 table" },
		{ 40, 8, 1 << 20, "L1 table" },
		{ 40, 8, UINT64_MAX - 7, "L1 table" },
		{ 16, 4, 1024, "name too long" },
		{ 8, 8, UINT64_MAX, "out of range" },
		{ 36, 4, 1, "key-secret' is required" },
	};

	for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct plt_store *st = made("base");
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk = NULL;

		ck_assert_int_eq(try_open(st, 0, &disk, &err), 0);
		ck_assert_int_eq(plt_disk_close(disk, NULL), 0);
		put(st, v[i].at, v[i].value, v[i].len);
		ck_assert_msg(try_open(st, 0, &disk, &err) < 0, "%u", i);
		ck_assert_msg(strstr(err.text, v[i].says) != NULL, "%u: %s", i, err.text);
		plt_store_unref(st);
	}
}
END_TEST

START_TEST(entries)
{
	static const uint64_t l1_bad[] = { 1, 48, 512, 4097, UINT64_MAX, UINT64_C(1) << 63, INT64_MAX - 4095 };
	static const uint64_t l2_bad[] = { 1, 48, 511, INT64_MAX, QCOW_COMPRESSED | 8192,
					   QCOW_COMPRESSED | UINT64_C(5) << 51 };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = made(NULL);
	struct plt_disk *disk = NULL;
	uint8_t buf[CS], l1[8];
	uint64_t l2;

	ck_assert_int_eq(try_open(st, PLT_OPEN_WRITE, &disk, &err), 0);
	memset(buf, 7, sizeof(buf));
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(plt_write(disk, i * CS, buf, CS, &err), 0);
	ck_assert_int_eq(plt_write(disk, 2 << 20, buf, CS, &err), 0);
	ck_assert_int_eq(plt_disk_close(disk, &err), 0);
	ck_assert_int_eq(plt_store_read(st, 48, l1, 8, PLT_IO_L1, NULL), 0);
	l2 = plt_get_be64(l1);
	for (unsigned i = 0; i < sizeof(l1_bad) / 8; i++) {
		put(st, 48, l1_bad[i], 8);
		ck_assert_int_eq(try_open(st, PLT_OPEN_WRITE, &disk, &err), 0);
		ck_assert_int_eq(plt_read(disk, 0, buf, 1, &err), -EIO);
		ck_assert_int_lt(plt_write(disk, 0, buf, 1, &err), 0);
		ck_assert_int_eq(plt_read(disk, 2 << 20, buf, 1, &err), 0);
		ck_assert_int_eq(buf[0], 7);
		ck_assert_int_eq(plt_disk_close(disk, &err), 0);
	}
	put(st, 48, l2, 8);
	for (unsigned i = 0; i < sizeof(l2_bad) / 8; i++) {
		put(st, l2, l2_bad[i], 8);
		ck_assert_int_eq(try_open(st, PLT_OPEN_WRITE, &disk, &err), 0);
		ck_assert_msg(plt_read(disk, 0, buf, 1, &err) == -EIO, "%u", i);
		ck_assert_int_lt(plt_write(disk, 0, buf, 1, &err), 0);
		ck_assert_int_eq(plt_read(disk, CS, buf, 1, &err), 0);
		ck_assert_int_eq(buf[0], 7);
		ck_assert_int_eq(plt_disk_close(disk, &err), 0);
	}
	plt_store_unref(st);
}
END_TEST

/* ---- power cuts ------------------------------------------------------------------------------ */

#define FLUSHES 12
#define FROM ((UINT64_C(2) << 20) - LEN / 2) /* where two L2 tables of 4096 clusters of 512 bytes meet */
#define LEN (UINT64_C(64) << 10)

struct story {
	struct plt_store *before, *base;
	struct plt_writelog *log;
	uint8_t *model[FLUSHES + 1]; /* [0]: the base; [i]: what the i-th flush has made durable */
};

static struct plt_disk *over_base(struct plt_store *st, struct plt_store *base)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk = NULL, *below = NULL;
	struct plt_error err = PLT_ERROR_INIT;

	if (try_open(st, PLT_OPEN_WRITE, &disk, &err) < 0)
		return NULL;
	ck_assert_int_eq(plt_disk_open_store(ctx, base, "base", "raw", &o, &below, &err), 0);
	plt_disk_attach_backing(disk, below);
	return disk;
}

/* One write, one flush, and so on, recorded; each flush has a mark. */
static void record(struct story *s, uint64_t rules_off, uint64_t *seed)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *mem = made("base"), *st;
	struct plt_disk *disk;
	uint8_t *base = malloc(SIZE);
	const void *p;
	size_t len;

	for (uint64_t i = 0; i < SIZE; i++)
		base[i] = (uint8_t)(1 + i % 251);
	ck_assert_int_eq(plt_memory_new(base, SIZE, 0, &s->base), 0);
	p = plt_memory_data(mem, &len);
	ck_assert_int_eq(plt_memory_new(p, len, 0, &s->before), 0);
	ck_assert_int_eq(plt_writelog_new(&s->log), 0);
	ck_assert_int_eq(plt_writelog_attach(s->log, mem, &st), 0);
	disk = over_base(st, s->base);
	ck_assert_ptr_nonnull(disk);
	plt_disk_image(disk)->rules_off = rules_off;
	s->model[0] = malloc(LEN);
	memcpy(s->model[0], base + FROM, LEN);
	for (unsigned f = 1; f <= FLUSHES; f++) {
		uint64_t off = plt_unit_random(seed) % (LEN / 512) * 512, n = 512 * (1 + plt_unit_random(seed) % 40);

		n = n < LEN - off ? n : LEN - off;
		s->model[f] = malloc(LEN);
		memcpy(s->model[f], s->model[f - 1], LEN);
		memset(s->model[f] + off, (int)(1 + plt_unit_random(seed) % 255), n);
		ck_assert_int_eq(plt_write(disk, FROM + off, s->model[f] + off, n, &err), 0);
		ck_assert_int_eq(plt_flush(disk, &err), 0);
		plt_writelog_mark(s->log, f);
	}
	ck_assert_int_eq(plt_disk_close(disk, &err), 0);
	plt_store_unref(st);
	plt_store_unref(mem);
	free(base);
}

static void apply(struct plt_store *st, const struct plt_log_record *r)
{
	uint64_t size;

	switch (r->kind) {
	case PLT_LOG_WRITE:
		ck_assert_int_eq(plt_store_write(st, r->off, r->data, r->len, r->tag, NULL), 0);
		break;
	case PLT_LOG_ZERO:
		ck_assert_int_eq(plt_store_zero(st, r->off, r->len, 0, r->tag, NULL), 0);
		break;
	case PLT_LOG_ALLOCATE:
		if (plt_store_size(st, &size, NULL) == 0 && size < r->off + r->len)
			ck_assert_int_eq(plt_store_truncate(st, r->off + r->len, NULL), 0);
		break;
	default:
		break;
	}
}

/*
 * One state: the records up to @cut, of those since the last sync a random part.  True: it opens, and
 * each sector is as at the last flush, or as the write after it made it, also when more has been added.
 */
static bool survives(const struct story *s, size_t cut, uint64_t *seed)
{
	const struct plt_log_record *rec;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	struct plt_disk *disk;
	uint8_t *buf = malloc(LEN);
	size_t len, synced = 0;
	unsigned mark = 0, next;
	const void *p;
	bool ok;

	(void)plt_writelog_records(s->log, &rec);
	for (size_t i = 0; i < cut; i++) {
		synced = rec[i].kind == PLT_LOG_SYNC ? i : synced;
		mark = rec[i].kind == PLT_LOG_MARK ? (unsigned)rec[i].off : mark;
	}
	next = mark < FLUSHES ? mark + 1 : mark;
	p = plt_memory_data(s->before, &len);
	ck_assert_int_eq(plt_memory_new(p, len, 0, &st), 0);
	for (size_t i = 0; i < cut; i++)
		if (i < synced || plt_unit_random(seed) % 2)
			apply(st, &rec[i]);
	disk = over_base(st, s->base);
	ok = disk && plt_read(disk, FROM, buf, LEN, &err) == 0;
	for (uint64_t off = 0; ok && off < LEN; off += 512)
		ok = !memcmp(buf + off, s->model[mark] + off, 512) || !memcmp(buf + off, s->model[next] + off, 512);
	if (ok) {
		uint8_t *more = malloc(2 * LEN);

		memset(more, 0xee, LEN);
		ok = plt_write(disk, 0, more, LEN, &err) == 0 && plt_write(disk, SIZE - LEN, more, LEN, &err) == 0 &&
		     plt_read(disk, FROM, more + LEN, LEN, &err) == 0 && !memcmp(more + LEN, buf, LEN);
		free(more);
	}
	if (disk)
		(void)plt_disk_close(disk, NULL);
	plt_store_unref(st);
	free(buf);
	return ok;
}

/* How many of the states do not keep the promise? */
static unsigned broken(uint64_t rules_off, uint64_t *seed)
{
	const struct plt_log_record *rec;
	unsigned bad = 0;
	struct story s = { 0 };
	size_t n;

	record(&s, rules_off, seed);
	n = plt_writelog_records(s.log, &rec);
	for (size_t cut = 0; cut <= n; cut++)
		for (unsigned i = 0; i < 6; i++)
			bad += !survives(&s, cut, seed);
	for (unsigned i = 0; i <= FLUSHES; i++)
		free(s.model[i]);
	plt_writelog_free(s.log);
	plt_store_unref(s.before);
	plt_store_unref(s.base);
	return bad;
}

START_TEST(power_cuts)
{
	uint64_t seed = plt_unit_seed();

	ck_assert_uint_eq(broken(0, &seed), 0);
}
END_TEST

START_TEST(every_rule_counts)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned r = QCOW_RULE_DATA_L2; r <= QCOW_RULE_TABLE_L1; r++) {
		unsigned bad = 0;

		for (unsigned i = 0; i < 80 && !bad; i++)
			bad = broken(UINT64_C(1) << r, &seed);
		ck_assert_msg(bad > 0, "nothing breaks without rule %u", r);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("qcow");
	TCase *t = tcase_create("qcow");

	tcase_add_test(t, headers);
	tcase_add_test(t, entries);
	tcase_add_test(t, power_cuts);
	tcase_add_test(t, every_rule_counts);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
