/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Failing stores: every scenario is run again and again, the n-th operation of a kind failing, for
 * n = 0, 1, 2... until a run meets no failure any more.  Whatever fails: the caller is told, the
 * image (also after a power cut) opens, holds what had been flushed and checks with leaks at most.
 * After one failed write or read everything goes on; after a failed sync nothing is written any
 * more and no flush succeeds, but reads do, and closing says what it could not keep.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "qcow2/mapping.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"

#define SEED 7
#define CHANGES (PLT_FAULT_WRITE | PLT_FAULT_ZERO | PLT_FAULT_DISCARD | PLT_FAULT_TRUNCATE)

struct kind {
	const char *name;
	unsigned ops;
	int error;
	uint64_t tear;
	bool for_ever;
	bool data; /* on the data file or, without one, on the backing file */
};

static const struct kind kinds[] = {
	{"write EIO", PLT_FAULT_WRITE, EIO, 0, false, false},
	{"write ENOSPC", PLT_FAULT_WRITE, ENOSPC, 0, false, false},
	{"torn write", PLT_FAULT_WRITE, EIO, 512 + 128, false, false},
	{"every write EIO", PLT_FAULT_WRITE, EIO, 0, true, false},
	{"every write and zero ENOSPC", PLT_FAULT_WRITE | PLT_FAULT_ZERO, ENOSPC, 0, true, false},
	{"zero EIO", PLT_FAULT_ZERO, EIO, 0, false, false},
	{"discard EIO", PLT_FAULT_DISCARD, EIO, 0, false, false},
	{"read EIO", PLT_FAULT_READ, EIO, 0, false, false},
	{"every read EIO", PLT_FAULT_READ, EIO, 0, true, false},
	{"sync EIO", PLT_FAULT_SYNC, EIO, 0, false, false},
	{"sync ENOSPC", PLT_FAULT_SYNC, ENOSPC, 0, false, false},
	{"below: write EIO", PLT_FAULT_WRITE, EIO, 0, false, true},
	{"below: read EIO", PLT_FAULT_READ, EIO, 0, false, true},
	{"below: sync EIO", PLT_FAULT_SYNC, EIO, 0, false, true},
};

static const char *const played[] = {
	"first writes",
	"refcount blocks",
	"refcount table",
	"reuse",
	"version 2, backing",
	"preallocated",
	"compressed",
	"shared",
	"random, shared",
	"snapshots",
	"snapshot sizes",
	"subclusters",
	"encrypted",
	"external data, backing",
	"lazy",
	"lazy, synced",
	"bitmap",
	"amended widths",
	"amended versions, backing",
	"bitmap, added",
	"bitmap, lazy",
	"pressure",
	"vhd blocks",
	"vhd small blocks",
	"vhd reuse",
	"vhd child blocks",
	"vhd tap reuse",
	"vhd fixed",
	"vhd no tail",
	"vhd no head",
	"vhd gap",
	"vhd fixed grow",
	"vhd fixed shrink",
	"vhd grow",
	"vhd grow in its table",
	"vhd shrink",
	"vhd random, child",
};

struct attempt {
	const struct scenario *s;
	const struct kind *k;
	unsigned n;
	struct rig *r;
	struct plt_store *fault;  /* the one with the rule */
	struct plt_store *top[2]; /* what the disk is opened on */
	bool failed;		  /* some call has reported */
};

static void say(const struct attempt *a, int result, const char *what)
{
	ck_abort_msg("%s, %s, n = %u: %s: %d %s", a->s->name, a->k->name, a->n, what, result,
		     a->r->err.text);
}

/* The result of a call that may fail; then there is a text. */
static int noted(struct attempt *a, int result)
{
	if (result < 0) {
		if (!*a->r->err.text)
			say(a, result, "a failure without text");
		a->failed = true;
	}
	return result;
}

static bool was_hit(const struct attempt *a)
{
	return plt_fault_seen(a->fault, a->k->ops) > a->n;
}

/*
 * Who need not be told: nobody of a punch, which is advice; of a full disk that was helped by what
 * waited in limbo; of a write-back for want of cache slots, which the next flush repeats.  Of what
 * cannot be read of a bitmap there is a warning.  (That nothing is missing then, judge() sees.)
 */
static bool may_be_silent(const struct attempt *a)
{
	if (a->k->ops & PLT_FAULT_DISCARD ||
	    (a->k->error == ENOSPC && a->k->ops & PLT_FAULT_WRITE) || a->r->warned)
		return true;
	return a->k->ops & PLT_FAULT_WRITE && !strcmp(a->s->name, "pressure");
}

static uint64_t changes_seen(const struct attempt *a)
{
	return plt_fault_seen(a->top[0], CHANGES) +
	       (a->top[1] ? plt_fault_seen(a->top[1], CHANGES) : 0);
}

static struct plt_store *over(struct plt_store *below)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_fault_new(below, &st), 0);
	plt_store_unref(below);
	return st;
}

static void set_up(struct attempt *a)
{
	struct plt_fault_rule rule = {.ops = a->k->ops,
				      .tag = -1,
				      .skip = a->n,
				      .count = a->k->for_ever ? 0 : 1,
				      .error = a->k->error,
				      .tear = a->k->tear};
	struct plt_store *file, *data;
	struct rig *r = a->r = rig_new(&a->s->layout, SEED);

	if (a->s->prepare)
		a->s->prepare(r);
	rig_log(r, &file, &data);
	a->top[0] = over(file);
	a->top[1] = data ? over(data) : NULL;
	a->fault = a->top[0];
	if (a->k->data) {
		if (r->base && !data)
			r->base = over(r->base);
		a->fault = data ? a->top[1] : r->base;
	}
	if (a->fault)
		ck_assert_int_ge(plt_fault_add(a->fault, &rule), 0);
}

/* After a failed sync: refused, and by the name of the reason; reads go on. */
static void check_poisoned(struct attempt *a)
{
	struct rig *r = a->r;
	uint64_t before = changes_seen(a);
	int results[4];

	results[0] = rig_write(r, 0, RIG_UNIT);
	if (!strstr(r->err.text, "flush"))
		say(a, results[0], "does not name the sync");
	results[1] = rig_zero(r, 0, rig_cluster(r), 0);
	results[2] = rig_discard(r, 0, rig_cluster(r));
	results[3] = rig_flush(r);
	for (unsigned i = 0; i < 4; i++)
		if (results[i] != -EIO && !(i == 3 && results[i] < 0))
			say(a, results[i], "after a failed sync something else than EIO");
	if (rig_verify_disk(r, r->disk, r->nmarks - 1, r->nevents) < 0)
		ck_abort_msg("%s, %s, n = %u: after a failed sync: %s", a->s->name, a->k->name,
			     a->n, r->violation);
	if (noted(a, rig_try_close(r)) >= 0)
		say(a, 0, "closing after a failed sync succeeds");
	if (changes_seen(a) != before)
		say(a, 0, "something was written after a failed sync");
}

/* After a failure that is over: all goes on as if nothing had been. */
static void go_on(struct attempt *a)
{
	struct rig *r = a->r;
	int e;

	/* all of it again, or something else */
	if (a->n % 8 == 0 && (e = a->s->run(r)) < 0)
		say(a, e, "still failing");
	for (unsigned i = 0; a->n % 8 && i < 6; i++)
		if ((e = rig_step(r)) < 0)
			say(a, e, "still failing");
	e = rig_flush(r);
	if (e < 0)
		say(a, e, "the flush is still failing");
	if (rig_verify_disk(r, r->disk, r->nmarks - 1, r->nevents) < 0)
		ck_abort_msg("%s, %s, n = %u: after going on: %s", a->s->name, a->k->name, a->n,
			     r->violation);
}

static bool is_poisoned(const struct attempt *a)
{
	return atomic_load(&a->top[0]->sync_error) ||
	       (a->top[1] && atomic_load(&a->top[1]->sync_error));
}

static void play(struct attempt *a)
{
	struct rig *r = a->r;
	int e = noted(a, rig_open_on(r, a->top[0], a->top[1], 0));

	if (e < 0)
		return;
	e = noted(a, a->s->run(r));
	if (!r->disk)
		return;
	if (is_poisoned(a)) {
		check_poisoned(a);
		return;
	}
	if (e < 0 && !a->k->for_ever)
		go_on(a);
	(void)noted(a, rig_try_close(r));
}

static void judge(struct attempt *a)
{
	struct powercut_limits limits = {
		.seed = SEED + a->n, .window = a->n ? 6 : 20, .total = a->n ? 30 : 100};
	struct rig *r = a->r;
	struct powercut_disk file, data = {NULL, 0};

	file.bytes = (uint8_t *)(uintptr_t)plt_memory_data(r->file, &file.len);
	if (r->data)
		data.bytes = (uint8_t *)(uintptr_t)plt_memory_data(r->data, &data.len);
	if (rig_verify_state(r, &file, &data, r->nmarks - 1, r->nevents, true) < 0 ||
	    (a->n % 8 == 0 && rig_cut_power(r, &limits, NULL) < 0))
		ck_abort_msg("%s, %s, n = %u: %s", a->s->name, a->k->name, a->n, r->violation);
}

/* One run.  False: it met no failure. */
static bool attempt(const struct scenario *s, const struct kind *k, unsigned n)
{
	struct attempt a = {.s = s, .k = k, .n = n};
	bool hit, below;

	set_up(&a);
	below = a.fault && a.fault == a.r->base;
	if (!a.fault) {
		hit = false;
	} else {
		play(&a);
		hit = was_hit(&a);
		if (hit && !a.failed && !may_be_silent(&a))
			say(&a, 0, "nobody was told");
		if (!hit && a.failed)
			say(&a, 0, "a failure that nobody injected");
		if (below) { /* judged without it */
			plt_fault_clear(a.r->base);
		}
		judge(&a);
	}
	plt_store_unref(a.top[0]);
	plt_store_unref(a.top[1]);
	rig_free(a.r);
	return hit;
}

START_TEST(test_failing)
{
	const struct scenario *s = scenario_find(played[_i]);
	uint64_t seed = plt_unit_seed();
	bool slow = s->states,
	     chance = !strncmp(s->name, "random", 6); /* large images; long runs */
	unsigned all = slow ? 4 : chance ? 8 : 40, step = slow ? 120 : chance ? 24 : 8;

	if (getenv("PLT_SANITIZER")) { /* others each time */
		all /= 4;
		step *= 3;
	}

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(kinds); i++) {
		unsigned n = 0, runs = 0;

		if (getenv("PLT_SANITIZER") && plt_unit_random(&seed) % 2)
			continue;
		/* the first ones one by one, of the many behind them a sample */
		while (attempt(s, &kinds[i], n)) {
			runs++;
			n += n < all ? 1 : 1 + (unsigned)(plt_unit_random(&seed) % step);
		}
		printf("# %s, %s: %u runs\n", s->name, kinds[i].name, runs);
	}
}
END_TEST

/* Creating: an error is reported, and what was reported as made is there. */
START_TEST(test_create)
{
	static const char *const options[] = {"cluster_size=512",  "preallocation=metadata",
					      "extended_l2=on",	   "preallocation=full",
					      "lazy_refcounts=on", "compat=0.10"};
	static const unsigned ops[] = {PLT_FAULT_WRITE, PLT_FAULT_ZERO, PLT_FAULT_SYNC,
				       PLT_FAULT_TRUNCATE};
	const char *v[] = {options[_i], NULL};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(ops); i++)
		for (unsigned n = 0;; n++) {
			struct plt_fault_rule rule = {
				.ops = ops[i], .tag = -1, .skip = n, .count = 1, .error = EIO};
			struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
			struct plt_error err = PLT_ERROR_INIT;
			struct plt_check_result res;
			struct plt_store *st, *mem;
			struct plt_ctx *ctx;
			bool hit;
			int r;

			ck_assert_int_eq(plt_ctx_new(NULL, &ctx, NULL), 0);
			ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &mem), 0);
			ck_assert_int_eq(plt_fault_new(mem, &st), 0);
			ck_assert_int_ge(plt_fault_add(st, &rule), 0);
			c.format = "qcow2";
			c.options = v;
			c.virtual_size = 1 << 20;
			r = plt_create_store(ctx, st, "new", &c, NULL, &err);
			hit = plt_fault_seen(st, ops[i]) > n;
			ck_assert_msg(!hit || (r < 0 && *err.text),
				      "%s: operation %u of kind %u failed and nobody was told",
				      options[_i], n, ops[i]);
			if (r == 0) {
				ck_assert_int_eq(plt_check_store(ctx, mem, "new", "qcow2", NULL,
								 NULL, &res, &err),
						 0);
				ck_assert_uint_eq(res.corruptions + res.leaks + res.check_errors +
							  res.added,
						  0);
			}
			plt_store_unref(st);
			plt_store_unref(mem);
			plt_ctx_free(ctx);
			if (!hit)
				break;
		}
}
END_TEST

/*
 * A header write that switches to something says EIO, having reached the disk (odd _i) or not; the next
 * @_i / 2 header writes fail like it.  The session goes on with what it had before, and after each flush
 * that succeeds the image on the disk holds what it must.  No flush does before the header is settled.
 */
static struct rig *doubt_begin(int i, struct plt_store **ret_fault)
{
	static const struct rig_layout layout = {.options = "cluster_size=512,refcount_bits=64",
						 .size = 512 * 1024};
	struct plt_fault_rule rule = {.ops = PLT_FAULT_WRITE,
				      .tag = PLT_IO_HEADER,
				      .count = 1 + (unsigned)i / 2,
				      .error = EIO,
				      .tear = i % 2 ? UINT64_MAX : 0};
	struct rig *r = rig_new(&layout, SEED);

	*ret_fault = over(plt_store_ref(r->file));
	rig_must(r, rig_open_on(r, *ret_fault, NULL, 0));
	rig_must(r, rig_write(r, 0, 512));
	rig_must(r, rig_write(r, r->size - 512, 512));
	rig_must(r, rig_flush(r));
	ck_assert_int_ge(plt_fault_add(*ret_fault, &rule), 0);
	return r;
}

/* True: it was flushed. */
static bool doubt_flush(struct rig *r, unsigned *refused)
{
	struct powercut_disk file, none = {NULL, 0};
	int e = rig_flush(r);

	if (e < 0) {
		ck_assert_int_eq(e, -EIO);
		(*refused)++;
		return false;
	}
	file.bytes = (uint8_t *)(uintptr_t)plt_memory_data(r->file, &file.len);
	ck_assert_msg(rig_verify_state(r, &file, &none, r->nmarks - 1, r->nevents, false) == 0, "%s",
		      r->violation);
	return true;
}

START_TEST(test_table_in_doubt)
{
	struct plt_store *fault;
	struct rig *r = doubt_begin(_i, &fault);
	struct plt_image *img = plt_disk_image(r->disk);
	unsigned refused = 0, grown = 0;

	ck_assert_int_eq(qcow2_work(img, QCOW2_WORK_GROW_REFTABLE, 65, &r->err), -EIO);
	for (uint64_t off = 512; off < r->size; off += 512) {
		int e = rig_write(r, off, 512);

		if (e < 0) { /* no table may be changed until a header has been written */
			ck_assert_int_eq(e, -EIO);
			refused++;
		} else if (off % 8192 == 0) {
			grown += doubt_flush(r, &refused);
		}
	}
	ck_assert_uint_eq(refused, (unsigned)_i / 2);
	ck_assert_uint_gt(grown, 20);
	rig_must(r, qcow2_work(img, QCOW2_WORK_GROW_REFTABLE, 65, &r->err));
	rig_must(r, rig_write(r, 0, 512 * 64));
	plt_store_unref(fault);
	rig_close(r);
	rig_free(r);
}
END_TEST

/* The same with the disk's size, which loses what lies behind it. */
START_TEST(test_size_in_doubt)
{
	struct plt_store *fault;
	struct rig *r = doubt_begin(_i, &fault);
	unsigned refused = 0, tries = 0;
	uint64_t size;
	uint8_t b[8];

	ck_assert_int_eq(plt_resize(r->disk, r->size / 2, PLT_RESIZE_SHRINK, NULL, &r->err), -EIO);
	ck_assert_uint_eq(plt_disk_size(r->disk), r->size);
	rig_must(r, rig_write(r, r->size - 512, 512));
	while (!doubt_flush(r, &refused))
		ck_assert_uint_lt(tries++, 10);
	ck_assert_uint_eq(refused, (unsigned)_i / 2);
	ck_assert_int_eq(plt_store_read(r->file, 24, b, 8, PLT_IO_HEADER, NULL), 0);
	size = plt_get_be64(b);
	ck_assert_uint_eq(size, r->size);
	plt_store_unref(fault);
	rig_close(r);
	rig_free(r);
}
END_TEST

/* Counts that cannot be read, however often: whoever allocates says so, and does not go on trying. */
START_TEST(test_unreadable_counts)
{
	static const struct rig_layout layout = {.options = "cluster_size=512", .size = 96 * 1024, .first_size = 30 * 1024};
	static const struct plt_fault_rule rule = {.ops = PLT_FAULT_READ, .tag = PLT_IO_REFBLOCK, .error = EIO};
	struct rig *r = rig_new(&layout, 1);
	struct plt_store *fault;

	rig_open(r);
	rig_must(r, rig_write(r, 0, 20 * 1024));
	rig_close(r);
	ck_assert_int_eq(plt_fault_new(r->file, &fault), 0);
	rig_must(r, rig_open_on(r, fault, NULL, 0));
	ck_assert_int_ge(plt_fault_add(fault, &rule), 0);
	ck_assert_int_eq(plt_resize(r->disk, 80 << 20, 0, NULL, &r->err), -EIO);
	ck_assert_int_eq(plt_write_vmstate(r->disk, 0, "x", 1, &r->err), -EIO);
	ck_assert_int_eq(rig_write(r, 25 * 1024, 1024), -EIO);
	plt_fault_clear(fault);
	rig_must(r, rig_write(r, 25 * 1024, 1024));
	rig_must(r, rig_flush(r));
	plt_store_unref(fault);
	rig_close(r);
	rig_free(r);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/failing");
	TCase *t = tcase_create("failing");

	tcase_add_loop_test(t, test_failing, 0, PLT_ARRAY_SIZE(played));
	tcase_add_loop_test(t, test_create, 0, 6);
	tcase_add_loop_test(t, test_table_in_doubt, 0, 6);
	tcase_add_loop_test(t, test_size_in_doubt, 0, 6);
	tcase_add_test(t, test_unreadable_counts);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
