/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * qcow2/guard.c: whatever an image's entries and counts say, no request may change a table that it
 * does not own.  One image with every kind of table; entries of the active map are pointed at each of
 * them, and the count of each is set to 0; then everything a guest can do is tried.  It fails with
 * EIO, the image is marked corrupt, and not another byte of it changes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "qcow2/mapping.h"
#include "tests/block/lab.h"

enum { BITS = 12, CS = 1 << BITS, PER = CS / 8, WRITTEN = 8 };
#define SIZE (4u << 20)
#define FAR (2u << 20) /* guest offset of the second L2 table */
#define OFFSET QCOW2_L2_OFFSET

enum table {
	HEADER, L1, REFTABLE, SNAPSHOTS, SNAP_L1, BITMAPS, BITMAP_TABLE, REFBLOCK, L2, SHARED_L2, SNAP_L2, TABLES,
};
static const char *const names[] = {
	"qcow2_header", "active L1 table", "refcount table", "snapshot table", "inactive L1 table", "bitmap directory",
	"bitmap table", "refcount block", "active L2 table", "active L2 table", "inactive L2 table",
};

struct world {
	struct plt_ctx *ctx;
	struct plt_store *file;
	struct plt_disk *disk;
	uint64_t at[TABLES];
	unsigned warnings;
	char warning[400];
	uint8_t *before;
	size_t len;
};

static void warned(void *arg, const char *text)
{
	struct world *w = arg;

	w->warnings++;
	snprintf(w->warning, sizeof(w->warning), "%s", text);
}

static uint64_t get64(struct plt_store *st, uint64_t off)
{
	uint8_t b[8];

	ck_assert_int_eq(plt_store_read(st, off, b, 8, PLT_IO_OTHER, NULL), 0);
	return plt_get_be64(b);
}

static void put(struct plt_store *st, uint64_t off, uint64_t v, unsigned bytes)
{
	uint8_t b[8];

	plt_put_be64(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b + 8 - bytes, bytes, PLT_IO_OTHER, NULL), 0);
}

static uint64_t append(struct plt_store *st, uint64_t refblock)
{
	uint64_t end;

	ck_assert_int_eq(plt_store_size(st, &end, NULL), 0);
	end = plt_align_up(end, CS);
	ck_assert_int_eq(plt_store_zero(st, end, CS, 0, PLT_IO_OTHER, NULL), 0);
	put(st, refblock + end / CS * 2, 1, 2);
	return end;
}

/* A bitmap that nobody keeps up to date, with its directory as the last extension. */
static void add_bitmap(struct world *w)
{
	uint64_t ext = 112;
	uint8_t head[8];

	w->at[BITMAPS] = append(w->file, w->at[REFBLOCK]);
	w->at[BITMAP_TABLE] = append(w->file, w->at[REFBLOCK]);
	put(w->file, w->at[BITMAPS], w->at[BITMAP_TABLE], 8);
	put(w->file, w->at[BITMAPS] + 8, 1, 4);
	put(w->file, w->at[BITMAPS] + 16, 1, 1);
	put(w->file, w->at[BITMAPS] + 17, 16, 1);
	put(w->file, w->at[BITMAPS] + 18, 4, 2);
	put(w->file, w->at[BITMAPS] + 24, 0x62697473, 4);
	for (;; ext += 8 + plt_align_up(plt_get_be32(head + 4), 8)) {
		ck_assert_int_eq(plt_store_read(w->file, ext, head, 8, PLT_IO_OTHER, NULL), 0);
		if (!plt_get_be32(head))
			break;
	}
	put(w->file, ext, QCOW2_EXT_BITMAPS, 4);
	put(w->file, ext + 4, 24, 4);
	put(w->file, ext + 8, 1, 4);
	put(w->file, ext + 16, 32, 8);
	put(w->file, ext + 24, w->at[BITMAPS], 8);
	put(w->file, 88, QCOW2_AUTOCLEAR_BITMAPS, 8);
}

static void fill(struct world *w, uint8_t with)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t buf[CS];

	w->disk = lab_open(w->ctx, w->file, NULL);
	memset(buf, with, sizeof(buf));
	for (unsigned i = 0; i < WRITTEN; i++)
		lab_must(plt_write(w->disk, i * CS, buf, CS, &err), &err);
	if (with == 1)
		lab_must(plt_write(w->disk, FAR, buf, CS, &err), &err);
	lab_close(w->disk);
	w->disk = NULL;
}

static void set_up(struct world *w)
{
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;

	memset(w, 0, sizeof(*w));
	o.cache_bytes = 1 << 20;
	o.warn = warned;
	o.warn_arg = w;
	lab_must(plt_ctx_new(&o, &w->ctx, NULL), NULL);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &w->file), 0);
	lab_create(w->ctx, w->file, "cluster_size=4096", SIZE, false);
	fill(w, 1);
	w->at[L1] = get64(w->file, 40);
	w->at[SNAP_L2] = get64(w->file, w->at[L1]) & OFFSET;
	lab_snapshot(&w->file);
	fill(w, 2);
	w->at[REFTABLE] = get64(w->file, 48);
	w->at[REFBLOCK] = get64(w->file, w->at[REFTABLE]);
	w->at[SNAPSHOTS] = get64(w->file, 64);
	w->at[SNAP_L1] = get64(w->file, w->at[SNAPSHOTS]);
	w->at[L2] = get64(w->file, w->at[L1]) & OFFSET;
	w->at[SHARED_L2] = get64(w->file, w->at[L1] + 8) & OFFSET;
	ck_assert_uint_ne(w->at[L2], w->at[SNAP_L2]);
	add_bitmap(w);
	lab_check(w->ctx, w->file, "sound");
}

static void remember(struct world *w)
{
	const void *p = plt_memory_data(w->file, &w->len);

	w->before = malloc(w->len);
	memcpy(w->before, p, w->len);
}

static void open_damaged(struct world *w)
{
	remember(w);
	w->warnings = 0;
	w->disk = lab_open(w->ctx, w->file, NULL);
}

/* Nothing but the mark has changed, or (@mark false) nothing at all. */
static void unchanged(struct world *w, bool mark, const char *what)
{
	size_t len;
	const uint8_t *p = plt_memory_data(w->file, &len);

	lab_expect(len == w->len, "%s: the file has become %zu bytes long", what, len);
	lab_expect(!mark || (p[79] & QCOW2_INCOMPAT_CORRUPT), "%s: the image is not marked", what);
	for (size_t i = 0; i < len; i++)
		lab_expect(p[i] == w->before[i] || (mark && i == 79 && p[i] == (w->before[i] | QCOW2_INCOMPAT_CORRUPT)),
			   "%s: byte %#zx has changed", what, i);
}

/* After the refusal: still readable, not writable, closed without a change. */
static void tear_down(struct world *w, uint64_t readable, const char *what)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t buf[CS];
	struct plt_disk *again;

	unchanged(w, true, what);
	lab_expect(w->warnings == 1 && strstr(w->warning, "Marking image as corrupt: Preventing invalid write on"),
		   "%s: %u warnings, the last: %s", what, w->warnings, w->warning);
	memset(buf, 3, sizeof(buf));
	lab_expect(plt_write(w->disk, 0, buf, CS, &err) == -EIO, "%s: a sound cluster can be written", what);
	lab_expect(plt_write(w->disk, 512 * 1024, buf, CS, NULL) == -EIO, "%s: allocates", what);
	lab_expect(plt_write_zeroes(w->disk, 0, CS, 0, NULL) == -EIO, "%s: zeroes", what);
	if (readable != UINT64_MAX) {
		lab_must(plt_read(w->disk, readable, buf, CS, &err), &err);
		lab_expect(buf[0] == 2 && buf[CS - 1] == 2, "%s: reads %d", what, buf[0]);
	}
	lab_close(w->disk);
	unchanged(w, true, what);
	lab_expect(w->warnings == 1, "%s: %u warnings", what, w->warnings);
	o.flags = PLT_OPEN_WRITE;
	lab_expect(plt_disk_open_store(w->ctx, w->file, "top", "qcow2", &o, &again, &err) == -EACCES,
		   "%s: opens for writing again", what);
	plt_store_unref(w->file);
	plt_ctx_free(w->ctx);
	free(w->before);
}

enum deed { WRITE, WRITE_PART, WRITE_MANY, ZERO, UNMAP, DISCARD, PACK, DEEDS };
static const char *const deeds[] = {
	"write", "write 512", "write 6 clusters", "zero", "unmap", "discard", "compress",
};

static int do_it(struct world *w, enum deed deed, uint64_t off, struct plt_error *err)
{
	static uint8_t buf[6 * CS];

	memset(buf, 0xab, sizeof(buf));
	switch (deed) {
	case WRITE:
		return plt_write(w->disk, off, buf, CS, err);
	case WRITE_PART:
		return plt_write(w->disk, off + 1024, buf, 512, err);
	case WRITE_MANY:
		return plt_write(w->disk, off, buf, sizeof(buf), err);
	case ZERO:
		return plt_write_zeroes(w->disk, off, CS, 0, err);
	case UNMAP:
		return plt_write_zeroes(w->disk, off, CS, PLT_ZERO_UNMAP, err);
	case DISCARD:
		return plt_discard(w->disk, off, CS, err);
	default:
		return plt_write_compressed(w->disk, off, buf, CS, 0, err);
	}
}

/* Guest cluster 3 is where the table is. */
START_TEST(an_entry_names_a_table)
{
	static const struct {
		const char *name;
		uint64_t bits;
	} kinds[] = {
		{ "own", QCOW2_COPIED }, { "shared", 0 }, { "compressed", QCOW2_COMPRESSED }, { "zero", QCOW2_COPIED | 1 },
	};
	struct plt_error err = PLT_ERROR_INIT;
	enum table t = (enum table)_i;
	char what[200];

	for (unsigned kind = 0; kind < PLT_ARRAY_SIZE(kinds); kind++)
		for (unsigned deed = 0; deed < DEEDS; deed++) {
			struct world w;
			int r;

			if (t == HEADER && !(kinds[kind].bits & QCOW2_COMPRESSED))
				continue; /* 0 is no place */
			set_up(&w);
			snprintf(what, sizeof(what), "%s, %s, %s", names[t], kinds[kind].name, deeds[deed]);
			put(w.file, w.at[L2] + 3 * 8, kinds[kind].bits | w.at[t], 8);
			open_damaged(&w);
			r = do_it(&w, (enum deed)deed, 3 * CS, &err);
			lab_expect(r == -EIO, "%s: %d %s", what, r, err.text);
			lab_expect(strstr(w.warning, names[t]), "%s: %s", what, w.warning);
			tear_down(&w, CS, what);
		}
}
END_TEST

/* The table's count is 0, so that it is the first that an allocation finds. */
START_TEST(a_count_says_that_a_table_is_free)
{
	static const struct {
		const char *name;
		enum deed deed;
		uint64_t off;
	} cases[] = {
		{ "new cluster", WRITE, 100 * CS }, { "part of one", WRITE_PART, 100 * CS },
		{ "several", WRITE_MANY, 100 * CS }, { "packed", PACK, 100 * CS },
		{ "copied table", WRITE, FAR }, { "zero in a copied table", ZERO, FAR },
	};
	struct plt_error err = PLT_ERROR_INIT;
	enum table t = (enum table)_i;
	char what[200];

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(cases); i++) {
		struct world w;
		int r;

		set_up(&w);
		snprintf(what, sizeof(what), "count of the %s, %s", names[t], cases[i].name);
		put(w.file, w.at[REFBLOCK] + w.at[t] / CS * 2, 0, 2);
		open_damaged(&w);
		r = do_it(&w, cases[i].deed, cases[i].off, &err);
		lab_expect(r == -EIO, "%s: %d %s", what, r, err.text);
		lab_expect(strstr(w.warning, names[t]), "%s: %s", what, w.warning);
		tear_down(&w, CS, what);
	}
}
END_TEST

/* A table's entry names another table: it may not be changed as if it were of its kind. */
START_TEST(tables_in_one_place)
{
	struct plt_error err = PLT_ERROR_INIT;
	enum table t = (enum table)_i;
	char what[200];

	for (unsigned deed = 0; deed < DEEDS; deed++)
		for (unsigned refs = 0; refs < 2; refs++) {
			struct world w;
			uint64_t own;
			int r;

			set_up(&w);
			snprintf(what, sizeof(what), "%s as %s, %s", names[t], refs ? "refcount block" : "L2 table",
				 deeds[deed]);
			own = refs ? w.at[REFBLOCK] : w.at[L2];
			if (w.at[t] == own || (!refs && (t == SHARED_L2 || t == SNAP_L2))) { /* sharing is no crime */
				lab_check(w.ctx, w.file, "sound");
				plt_store_unref(w.file);
				plt_ctx_free(w.ctx);
				continue;
			}
			if (refs)
				put(w.file, w.at[REFTABLE], w.at[t], 8);
			else
				put(w.file, w.at[L1], w.at[t] | QCOW2_COPIED, 8);
			open_damaged(&w);
			/* where nothing is allocated before, and where something is */
			r = do_it(&w, (enum deed)deed, 100 * CS, &err);
			/* (a header's offset is no table; then, as where nothing is to be freed, no harm is done) */
			lab_expect(r < 0 || t == HEADER || refs, "%s: %d %s", what, r, err.text);
			(void)do_it(&w, (enum deed)deed, 3 * CS, &err);
			(void)plt_disk_close(w.disk, NULL);
			if (t != HEADER)
				for (unsigned i = 0; i < CS; i++) {
					size_t len;
					const uint8_t *p = plt_memory_data(w.file, &len);

					lab_expect(p[w.at[t] + i] == w.before[w.at[t] + i],
						   "%s: byte %u of it has changed", what, i);
				}
			plt_store_unref(w.file);
			plt_ctx_free(w.ctx);
			free(w.before);
		}
}
END_TEST

/* What was a table and is one no more may be used: a table that was copied though nobody shared it. */
START_TEST(a_freed_table_is_forgotten)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	struct plt_ctx *ctx = lab_ctx(0);
	uint64_t l1, old;
	uint8_t buf[CS];

	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=4096", SIZE, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 0, buf, CS, &err), &err);
	lab_close(disk);
	l1 = get64(file, 40);
	old = get64(file, l1) & OFFSET;
	put(file, l1, old, 8);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, CS, buf, CS, &err), &err);
	for (unsigned i = 2; i < 100; i++) { /* the flush lets go of it, a write takes it */
		lab_must(plt_flush(disk, &err), &err);
		lab_must(plt_write(disk, i * CS, buf, CS, &err), &err);
	}
	lab_close(disk);
	ck_assert_uint_ne(get64(file, l1) & OFFSET, old);
	ck_assert_uint_eq(get64(file, old), UINT64_C(0x0101010101010101));
	lab_check(ctx, file, "after");
	plt_store_unref(file);
	plt_ctx_free(ctx);
}
END_TEST

/*
 * A data cluster whose count is 0 is discarded; before it leaves limbo a new table is put there, since
 * it looks free.  Letting go of the cluster must not punch the table.
 */
START_TEST(limbo_frees_no_table)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct world w;
	uint64_t data, l1;
	uint8_t buf[CS];

	set_up(&w);
	l1 = w.at[L1];
	data = get64(w.file, w.at[L2] + 3 * 8) & OFFSET;
	put(w.file, w.at[REFBLOCK] + data / CS * 2, 0, 2);
	w.disk = lab_open(w.ctx, w.file, NULL);
	lab_must(plt_discard(w.disk, 3 * CS, CS, &err), &err);
	memset(buf, 9, sizeof(buf));
	lab_must(plt_write(w.disk, FAR, buf, CS, &err), &err);
	(void)plt_flush(w.disk, NULL);
	lab_must(plt_read(w.disk, FAR, buf, CS, &err), &err);
	(void)plt_disk_close(w.disk, NULL);
	ck_assert_uint_eq(get64(w.file, l1 + 8) & OFFSET, data);
	ck_assert_uint_ne(get64(w.file, data), 0);
	w.disk = lab_open(w.ctx, w.file, NULL);
	lab_must(plt_read(w.disk, FAR, buf, CS, &err), &err);
	ck_assert_int_eq(buf[0], 9);
	lab_close(w.disk);
	plt_store_unref(w.file);
	plt_ctx_free(w.ctx);
}
END_TEST

/* Shrinking gives up what lies behind the new end: no table, whatever entry or L1 names it. */
START_TEST(shrinking_frees_no_table)
{
	struct plt_error err = PLT_ERROR_INIT;
	enum table t = (enum table)_i;
	char what[200];

	for (unsigned by_l1 = 0; by_l1 < 2; by_l1++) {
		struct world w;
		int r;

		if (t == HEADER || (by_l1 && (t == SHARED_L2 || t == SNAP_L2 || t == L2)))
			continue;
		set_up(&w);
		snprintf(what, sizeof(what), "%s, %s, shrink", names[t], by_l1 ? "as L2 table" : "as data");
		if (by_l1)
			put(w.file, w.at[L1] + 8, w.at[t] | QCOW2_COPIED, 8);
		else
			put(w.file, w.at[L2] + 7 * 8, w.at[t] | QCOW2_COPIED, 8);
		open_damaged(&w);
		r = plt_resize(w.disk, by_l1 ? FAR : 4 * CS, PLT_RESIZE_SHRINK, NULL, &err);
		lab_expect(r < 0, "%s: succeeds", what);
		(void)plt_disk_close(w.disk, NULL);
		unchanged(&w, w.warnings, what);
		lab_expect(w.warnings || by_l1, "%s: no word of it", what);
		plt_store_unref(w.file);
		plt_ctx_free(w.ctx);
		free(w.before);
	}
}
END_TEST

/* The last cluster of the file is a table whose count is 0 by mistake: the file is not cut before it. */
START_TEST(shrinking_cuts_no_table)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct world w;
	uint64_t size;

	set_up(&w);
	ck_assert_int_eq(plt_store_size(w.file, &size, NULL), 0);
	ck_assert_uint_eq(w.at[BITMAP_TABLE], size - CS);
	put(w.file, w.at[REFBLOCK] + w.at[BITMAP_TABLE] / CS * 2, 0, 2);
	w.disk = lab_open(w.ctx, w.file, NULL);
	lab_must(plt_resize(w.disk, SIZE / 2, PLT_RESIZE_SHRINK, NULL, &err), &err);
	ck_assert_int_eq(plt_store_size(w.file, &size, NULL), 0);
	ck_assert_uint_ge(size, w.at[BITMAP_TABLE] + CS);
	(void)plt_disk_close(w.disk, NULL);
	plt_store_unref(w.file);
	plt_ctx_free(w.ctx);
}
END_TEST

/* Closing a corrupt image stores no bitmap in it: that would allocate. */
START_TEST(closing_stores_nothing)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t buf[CS] = { 0 };
	struct world w;

	set_up(&w);
	put(w.file, w.at[BITMAPS] + 12, QCOW2_BITMAP_AUTO, 4);
	put(w.file, w.at[L2] + 3 * 8, QCOW2_COPIED | w.at[REFBLOCK], 8);
	w.disk = lab_open(w.ctx, w.file, NULL);
	lab_must(plt_write(w.disk, 0, buf, CS, &err), &err);
	ck_assert_int_eq(plt_write(w.disk, 3 * CS, buf, CS, &err), -EIO);
	ck_assert_uint_eq(get64(w.file, w.at[BITMAPS] + 8) & QCOW2_BITMAP_IN_USE, QCOW2_BITMAP_IN_USE);
	remember(&w);
	lab_close(w.disk);
	unchanged(&w, false, "closing");
	plt_store_unref(w.file);
	plt_ctx_free(w.ctx);
	free(w.before);
}
END_TEST

/*
 * Two L1 entries name one table, whose count is 1: a write by the one copies the table, and lets go of it
 * for that entry alone.
 */
START_TEST(a_table_named_twice_stays)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx = lab_ctx(0);
	struct plt_store *file;
	struct plt_disk *disk;
	uint64_t l1, table;
	uint8_t buf[CS];

	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=4096", SIZE, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 0, buf, CS, &err), &err);
	lab_close(disk);
	l1 = get64(file, 40);
	table = get64(file, l1) & OFFSET;
	put(file, l1, table, 8);
	put(file, l1 + 8, table, 8);
	disk = lab_open(ctx, file, NULL);
	if (_i)
		lab_must(plt_resize(disk, SIZE / 2, PLT_RESIZE_SHRINK, NULL, &err), &err);
	else
		lab_must(plt_write(disk, FAR + CS, buf, CS, &err), &err);
	for (unsigned i = 2; !_i && i < 20; i++) {
		memset(buf, 0xee, sizeof(buf));
		lab_must(plt_flush(disk, &err), &err);
		lab_must(plt_write(disk, FAR + i * CS, buf, CS, &err), &err);
	}
	lab_close(disk);
	ck_assert_uint_eq(get64(file, l1) & OFFSET, table);
	ck_assert_uint_ne(get64(file, table), 0);
	ck_assert_uint_ne(get64(file, table), UINT64_C(0xeeeeeeeeeeeeeeee));
	plt_store_unref(file);
	plt_ctx_free(ctx);
}
END_TEST

/* The set grows, and knows each of some thousand tables, in an image with clusters of 512 bytes. */
START_TEST(many_tables)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	struct plt_ctx *ctx = lab_ctx(0);
	uint64_t seed = plt_unit_seed(), l1;
	const unsigned tables = 9000, span = 64 * 512;
	uint8_t buf[512];

	memset(buf, 7, sizeof(buf));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512", (uint64_t)tables * span, false);
	disk = lab_open(ctx, file, NULL);
	for (unsigned i = 0; i < tables; i++) /* known as they are made */
		lab_must(plt_write(disk, (uint64_t)i * span, buf, 512, &err), &err);
	for (unsigned again = 0; again < 2; again++) {
		const struct qcow2_state *q = qcow2_of(plt_disk_image(disk));

		l1 = q->l1_offset;
		lab_must(plt_flush(disk, &err), &err);
		for (unsigned i = 0; i < tables; i++) {
			uint64_t l2 = get64(file, l1 + i * 8) & OFFSET, data = get64(file, l2) & OFFSET;

			lab_expect(qcow2_guarded(q, l2, 512), "table %u of the L1 is not known", i);
			lab_expect(!qcow2_guarded(q, data, 512), "data at %#" PRIx64 " is called a table", data);
		}
		for (unsigned i = 0; i < q->reftable_clusters * 64; i++) {
			uint64_t rb = get64(file, q->reftable_offset + i * 8);

			lab_expect(!rb || qcow2_guarded(q, rb, 512), "refcount block %u is not known", i);
		}
		lab_close(disk);
		disk = lab_open(ctx, file, NULL); /* known as they are read */
		lab_must(plt_write(disk, plt_unit_random(&seed) % tables * span, buf, 512, &err), &err);
	}
	lab_close(disk);
	lab_check(ctx, file, "after");
	plt_store_unref(file);
	plt_ctx_free(ctx);
}
END_TEST

/*
 * Compressed data behind the last place that an entry can name (512 TiB with clusters of 2 MiB): cut off,
 * the place would be that of a table.  All counts up to there are 1, a block of which says 32 TiB, and
 * from there on 0.
 */
START_TEST(compressed_data_is_too_far)
{
	enum { FAR_BITS = 21, FAR_CS = 1 << FAR_BITS, BLOCKS = 16 };
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const char *options[] = { "cluster_size=2M,refcount_bits=1", NULL };
	uint8_t *cluster = calloc(1, FAR_CS), *ones = malloc(FAR_CS);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	uint64_t table;

	ck_assert(cluster && ones);
	memset(ones, 0xff, FAR_CS);
	ck_assert_int_eq(plt_ctx_new(NULL, &ctx, &err), 0);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	c.format = "qcow2";
	c.virtual_size = UINT64_C(513) << 40;
	c.options = options;
	ck_assert_msg(plt_create_store(ctx, st, "far", &c, NULL, &err) == 0, "%s", err.text);
	o.flags = PLT_OPEN_WRITE;
	ck_assert_msg(plt_disk_open_store(ctx, st, "far", "qcow2", &o, &disk, &err) == 0, "%s", err.text);
	ck_assert_int_eq(plt_write(disk, FAR_CS, "x", 1, &err), 0); /* there is an L2 table then */
	ck_assert_int_eq(plt_disk_close(disk, &err), 0);
	table = get64(st, 48);
	for (unsigned i = 0; i <= BLOCKS; i++) {
		uint64_t at = i ? (UINT64_C(8) + i) << FAR_BITS : get64(st, table);

		put(st, table + i * 8, at, 8);
		ck_assert_int_eq(plt_store_write(st, at, i < BLOCKS ? ones : cluster, FAR_CS, PLT_IO_OTHER, NULL), 0);
	}
	ck_assert_msg(plt_disk_open_store(ctx, st, "far", "qcow2", &o, &disk, &err) == 0, "%s", err.text);
	memset(cluster, 7, 1000);
	ck_assert_int_eq(plt_write_compressed(disk, 0, cluster, FAR_CS, 0, &err), -EFBIG);
	ck_assert_msg(strstr(err.text, "an entry for compressed data cannot say 0x2000000"), "%s", err.text);
	(void)plt_disk_close(disk, NULL);
	plt_store_unref(st);
	plt_ctx_free(ctx);
	free(cluster);
	free(ones);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("guard");
	TCase *t = tcase_create("guard");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, an_entry_names_a_table, 0, TABLES);
	tcase_add_loop_test(t, a_count_says_that_a_table_is_free, 0, TABLES);
	tcase_add_loop_test(t, tables_in_one_place, 0, TABLES);
	tcase_add_test(t, a_freed_table_is_forgotten);
	tcase_add_loop_test(t, a_table_named_twice_stays, 0, 2);
	tcase_add_test(t, limbo_frees_no_table);
	tcase_add_loop_test(t, shrinking_frees_no_table, 0, TABLES);
	tcase_add_test(t, shrinking_cuts_no_table);
	tcase_add_test(t, closing_stores_nothing);
	tcase_add_test(t, many_tables);
	tcase_add_test(t, compressed_data_is_too_far);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
