/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A repair and power cuts: an image is damaged, and repaired over a write log that has both the image and the undo
 * journal.  In each state that a cut could have left the journal is of no meaning and the image untouched (there may
 * be room behind its end), or it is complete: then the next repair finishes it and undo takes it back, both to the
 * byte; or it is applied, and all the repair has done is there.  Then it is taken back over a write log, too.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "block/internal.h"
#include "io/journal.h"
#include "tests/fault/powercut.h"
#include "tests/unit.h"

#define STATES 500
#define CS 4096u

enum { IMAGE, JOURNAL, FILES };

struct bench {
	struct plt_ctx *ctx;
	const char *format;
	char *path[FILES];
	struct plt_writelog *log;
	struct plt_store *store[FILES];
	struct powercut_disk before, after;
	unsigned index[FILES], opened; /* in the log */
	unsigned untouched, complete, applied, undone;
	char why[900];
};

/* ---- files ----------------------------------------------------------------------------------- */

static struct powercut_disk load(const char *path)
{
	struct powercut_disk d = { 0 };
	FILE *f = fopen(path, "r");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fseek(f, 0, SEEK_END), 0);
	d.len = (size_t)ftell(f);
	d.bytes = malloc(d.len + 1);
	rewind(f);
	ck_assert_uint_eq(fread(d.bytes, 1, d.len, f), d.len);
	fclose(f);
	return d;
}

static void save(const char *path, const struct powercut_disk *d)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(d->bytes, 1, d->len, f), d->len);
	ck_assert_int_eq(fclose(f), 0);
}

static int open_file(void *arg, const char *path, unsigned flags, struct plt_store **ret, struct plt_error *err)
{
	struct bench *b = arg;
	struct plt_store *below;
	int i = strcmp(path, b->path[JOURNAL]) ? IMAGE : JOURNAL, r;

	if (!b->store[i]) {
		r = plt_file_open(path, flags | PLT_FILE_WRITE | PLT_FILE_UNSAFE, &below, err);
		if (r < 0)
			return r;
		b->index[i] = b->opened++;
		ck_assert_int_eq(plt_writelog_attach(b->log, below, &b->store[i]), 0);
		plt_store_unref(below);
	}
	*ret = plt_store_ref(b->store[i]);
	return 0;
}

/* ---- images and what befalls them -------------------------------------------------------------- */

static uint64_t be(const struct powercut_disk *d, uint64_t off, unsigned len)
{
	uint64_t v = 0;

	ck_assert_uint_le(off + len, d->len);
	while (len--)
		v = v << 8 | d->bytes[off++];
	return v;
}

static void spoil(struct powercut_disk *d, uint64_t off, size_t len, int with)
{
	ck_assert_uint_le(off + len, d->len);
	memset(d->bytes + off, with, len);
}

static uint64_t first_l2(const struct powercut_disk *d)
{
	return be(d, be(d, 40, 8), 8) & UINT64_C(0x00fffffffffffe00);
}

static uint64_t first_refblock(const struct powercut_disk *d)
{
	return be(d, be(d, 48, 8), 8);
}

static void q_header(struct powercut_disk *d) { spoil(d, 0, 48, 0); }
static void q_l1(struct powercut_disk *d) { spoil(d, be(d, 40, 8), 8, 0); }
static void q_l2(struct powercut_disk *d) { spoil(d, first_l2(d), 512, 0xa5); }
static void q_counts(struct powercut_disk *d) { spoil(d, first_refblock(d), CS, 0); }
static void q_table(struct powercut_disk *d) { spoil(d, be(d, 48, 8), 16, 0xff); }
static void q_snapshots(struct powercut_disk *d) { spoil(d, be(d, 64, 8) + 36, 4, 0xff); }
static void q_leak(struct powercut_disk *d) { d->bytes[first_refblock(d) + 2 * (d->len / CS - 1) + 1] += 3; }
static void v_end(struct powercut_disk *d) { d->len -= 512; }
static void v_start(struct powercut_disk *d) { spoil(d, 0, 512, 0); }
static void v_header(struct powercut_disk *d) { spoil(d, 512, 64, 0x11); }
static void v_table(struct powercut_disk *d) { spoil(d, be(d, 512 + 16, 8) + 4, 8, 0x7f); }

static const struct damage {
	const char *name, *format, *options;
	void (*fn)(struct powercut_disk *d);
} damages[] = {
	{ "header", "qcow2", "cluster_size=4k", q_header },
	{ "L1", "qcow2", "cluster_size=4k", q_l1 },
	{ "L2", "qcow2", "cluster_size=4k", q_l2 },
	{ "L2, version 2", "qcow2", "cluster_size=4k,compat=0.10", q_l2 },
	{ "counts", "qcow2", "cluster_size=4k", q_counts },
	{ "refcount table", "qcow2", "cluster_size=4k", q_table },
	{ "snapshot table", "qcow2", "cluster_size=4k", q_snapshots },
	{ "a count too high", "qcow2", "cluster_size=4k", q_leak },
	{ "footer", "vpc", "force_size=on,block_size=4k", v_end },
	{ "footer at the beginning", "vpc", "force_size=on,block_size=4k", v_start },
	{ "dynamic header", "vpc", "force_size=on,block_size=4k", v_header },
	{ "table", "vpc", "force_size=on,block_size=4k", v_table },
};

static void make(struct bench *b, const struct damage *dm)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_snapshot snapshot = { .name = "then", .icount = -1 };
	const char *options[] = { dm->options, NULL };
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t buf[3 * CS];
	struct plt_disk *disk;

	b->format = c.format = o.format = dm->format;
	c.options = options;
	c.virtual_size = 3 << 20;
	o.flags = PLT_OPEN_WRITE;
	o.cache = "unsafe";
	ck_assert_msg(plt_create(b->ctx, b->path[IMAGE], &c, NULL, &err) == 0, "%s", err.text);
	ck_assert_msg(plt_disk_open(b->ctx, b->path[IMAGE], &o, &disk, &err) == 0, "%s", err.text);
	for (unsigned i = 0; i < 40; i++) {
		memset(buf, (int)i + 1, sizeof(buf));
		ck_assert_msg(plt_write(disk, i * 19 % 64 * 11 * CS, buf, sizeof(buf), &err) == 0, "%s", err.text);
		if (i == 20 && !strcmp(dm->format, "qcow2"))
			ck_assert_msg(plt_snapshot_create(disk, &snapshot, &err) == 0, "%s", err.text);
	}
	ck_assert_msg(plt_disk_close(disk, &err) == 0, "%s", err.text);
	b->before = load(b->path[IMAGE]);
	dm->fn(&b->before);
	save(b->path[IMAGE], &b->before);
}

/* ---- repaired, and judged ---------------------------------------------------------------------- */

/* Plans, which finishes what was begun; and does it. */
static int repair(struct bench *b, bool apply, struct plt_error *err)
{
	struct plt_repair_options how = PLT_REPAIR_OPTIONS_INIT;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_repair *rep;
	char *journal = NULL;
	int r;

	o.format = b->format;
	how.undo_file = b->path[JOURNAL];
	r = plt_repair_plan(b->ctx, b->path[IMAGE], &o, &how, NULL, NULL, &rep, err);
	if (r < 0)
		return r;
	if (apply)
		r = plt_repair_apply(rep, &journal, err);
	plt_repair_free(rep);
	free(journal);
	return r;
}

static int wrong(struct bench *b, const struct powercut_state *st, const char *what)
{
	snprintf(b->why, sizeof(b->why), "%s: %s", st->what, what);
	return -1;
}

static bool is_image(const struct bench *b, const struct powercut_disk *want)
{
	struct powercut_disk now = load(b->path[IMAGE]);
	bool same = now.len == want->len && !memcmp(now.bytes, want->bytes, now.len);

	free(now.bytes);
	return same;
}

/* The image before, perhaps with room behind it. */
static bool is_untouched(const struct bench *b, const struct powercut_disk *image)
{
	bool zero = true;

	for (size_t i = b->before.len; i < image->len; i++)
		zero &= !image->bytes[i];
	return zero && image->len >= b->before.len && !memcmp(image->bytes, b->before.bytes, b->before.len);
}

static int judge(void *arg, const struct powercut_state *st)
{
	enum plt_journal_state state = PLT_JOURNAL_WRITING;
	struct plt_error err = PLT_ERROR_INIT;
	struct bench *b = arg;
	struct plt_store *journal;

	ck_assert_int_eq(plt_memory_new(st->disk[JOURNAL].bytes, st->disk[JOURNAL].len, 0, &journal), 0);
	if (plt_journal_peek(journal, &state, NULL) < 0)
		state = PLT_JOURNAL_WRITING;
	plt_store_unref(journal);
	if (state == PLT_JOURNAL_WRITING) {
		b->untouched++;
		return is_untouched(b, &st->disk[IMAGE]) ? 0 : wrong(b, st, "the journal is not complete, the image has changed");
	}
	save(b->path[IMAGE], &st->disk[IMAGE]);
	save(b->path[JOURNAL], &st->disk[JOURNAL]);
	if (state == PLT_JOURNAL_COMPLETE) {
		b->complete++;
		if (repair(b, false, &err) < 0)
			return wrong(b, st, err.text);
		save(b->path[JOURNAL], &st->disk[JOURNAL]);
	} else {
		b->applied++;
	}
	if (!is_image(b, &b->after))
		return wrong(b, st, state == PLT_JOURNAL_COMPLETE ? "finished, the image is another one" :
		     "the journal is applied, and the image is not");
	save(b->path[IMAGE], &st->disk[IMAGE]);
	if (plt_undo(b->ctx, b->path[JOURNAL], b->path[IMAGE], &err) < 0)
		return wrong(b, st, err.text);
	return is_image(b, &b->before) ? 0 : wrong(b, st, "taken back, the image is not what it was");
}

/* Cut short it is done again, whatever it left; the journal says so when it is over. */
static int judge_undo(void *arg, const struct powercut_state *st)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct bench *b = arg;

	b->undone++;
	save(b->path[IMAGE], &st->disk[b->index[IMAGE]]);
	save(b->path[JOURNAL], &st->disk[b->index[JOURNAL]]);
	if (plt_undo(b->ctx, b->path[JOURNAL], b->path[IMAGE], &err) < 0)
		return wrong(b, st, err.text);
	return is_image(b, &b->before) ? 0 : wrong(b, st, "taken back twice, the image is not what it was");
}

static void record(struct bench *b)
{
	ck_assert_int_eq(plt_writelog_new(&b->log), 0);
	b->opened = 0;
	plt_ctx_set_opener(b->ctx, open_file, b);
}

static void stop(struct bench *b)
{
	plt_ctx_set_opener(b->ctx, NULL, NULL);
	for (unsigned i = 0; i < FILES; i++) {
		plt_store_unref(b->store[i]);
		b->store[i] = NULL;
	}
}

START_TEST(power_cuts)
{
	const struct damage *dm = &damages[_i];
	struct powercut_limits limits = { .seed = plt_unit_seed(), .total = STATES };
	struct powercut_disk start[FILES] = { 0 }, undo[FILES], journal;
	struct plt_error err = PLT_ERROR_INIT;
	struct bench b = { 0 };
	int r;

	ck_assert_int_eq(plt_ctx_new(NULL, &b.ctx, NULL), 0);
	if (asprintf(&b.path[IMAGE], "%s/image", plt_unit_dir()) < 0 ||
	    asprintf(&b.path[JOURNAL], "%s/image.platter-undo", plt_unit_dir()) < 0)
		abort();
	make(&b, dm);
	start[IMAGE] = load(b.path[IMAGE]);
	start[JOURNAL] = (struct powercut_disk){ .bytes = malloc(1) };
	record(&b);
	r = repair(&b, true, &err);
	ck_assert_msg(r == 0, "%s: %s", dm->name, err.text);
	ck_assert_msg(b.store[JOURNAL] && !b.index[IMAGE], "%s: there was nothing to repair", dm->name);
	stop(&b);
	b.after = load(b.path[IMAGE]);
	journal = load(b.path[JOURNAL]);
	r = powercut_each(b.log, start, FILES, &limits, judge, &b, NULL);
	ck_assert_msg(r == 0, "%s: %s", dm->name, b.why);
	plt_writelog_free(b.log);

	save(b.path[IMAGE], &b.after);
	save(b.path[JOURNAL], &journal);
	record(&b);
	r = plt_undo(b.ctx, b.path[JOURNAL], b.path[IMAGE], &err);
	ck_assert_msg(r == 0, "%s: %s", dm->name, err.text);
	stop(&b);
	undo[b.index[IMAGE]] = b.after;
	undo[b.index[JOURNAL]] = journal;
	r = powercut_each(b.log, undo, FILES, &limits, judge_undo, &b, NULL);
	ck_assert_msg(r == 0, "%s: undo: %s", dm->name, b.why);
	printf("# %s: %u untouched, %u complete, %u applied; %u taken back\n", dm->name, b.untouched, b.complete, b.applied,
	       b.undone);
	ck_assert(b.untouched && b.complete && b.applied && b.undone > 2);
	plt_writelog_free(b.log);
	free(journal.bytes);
	plt_ctx_free(b.ctx);
	free(start[IMAGE].bytes);
	free(start[JOURNAL].bytes);
	free(b.before.bytes);
	free(b.after.bytes);
	for (unsigned i = 0; i < FILES; i++) {
		unlink(b.path[i]);
		free(b.path[i]);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/repair");
	TCase *tc = tcase_create("repair");

	tcase_add_loop_test(tc, power_cuts, 0, PLT_ARRAY_SIZE(damages));
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
