/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Undo journals: whatever is cut short, at any write and torn at any sector, is finished or taken back
 * whole; a changed image and a damaged journal are refused with nothing written.
 */
#include <errno.h>
#include <stdio.h>

#include "io/journal.h"
#include "tests/unit.h"

#define SIZE (40 * 1024)
#define GROWN (SIZE + 8 * 1024 + 77)
#define MARK 79

/* An image, what it shall become, and the stores of one attempt. */
struct rig {
	uint8_t before[GROWN], after[GROWN];
	struct plt_store *image, *journal;
	bool aligned;
};

static struct plt_store *memory(const void *init, size_t len)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(init, len, 0, &st), 0);
	return st;
}

static void set_up(struct rig *g, uint64_t *seed)
{
	memset(g, 0, sizeof(*g));
	for (unsigned i = 0; i < SIZE; i++)
		g->before[i] = i / 4096 % 3 ? (uint8_t)plt_unit_random(seed) : 0;
	g->before[MARK] = 1;
	memcpy(g->after, g->before, SIZE);
	g->image = memory(g->before, SIZE);
	g->journal = memory(NULL, 0);
}

static void tear_down(struct rig *g)
{
	plt_store_unref(g->image);
	plt_store_unref(g->journal);
}

static const struct plt_journal_info info = {
	.format = "qcow2", .created = "2026-01-02T03:04:05Z", .predecessor = NULL, .nstores = 1,
	.stores = { { .role = "image", .name = "/a/b.qcow2" } },
};

/* Changes of many kinds, the same in the journal and in the array. */
static void record(struct rig *g, struct plt_journal *j, uint64_t *seed)
{
	uint64_t at = g->aligned ? 512 : 0; /* (the mark lies in the first sector, and divides a record) */

	ck_assert_int_eq(plt_journal_add_mark(j, MARK, 3, NULL), 0);
	ck_assert_int_eq(plt_journal_add_size(j, 0, GROWN, NULL), 0);
	while (at < GROWN - 3000) {
		uint64_t len = 1 + plt_unit_random(seed) % 2500;
		bool zero = plt_unit_random(seed) % 4 == 0;

		for (uint64_t i = 0; i < len; i++)
			g->after[at + i] = zero ? 0 : (uint8_t)plt_unit_random(seed);
		ck_assert_int_eq(plt_journal_add(j, 0, at, zero ? NULL : g->after + at, len, NULL), 0);
		at += len + plt_unit_random(seed) % 3000;
		if (g->aligned) /* a write is torn between sectors, never inside one */
			at = (at + 511) / 512 * 512;
	}
}

static struct plt_journal *make(struct rig *g, struct plt_store *file, uint64_t *seed)
{
	struct plt_journal *j;

	ck_assert_int_eq(plt_journal_begin(file, &info, &g->image, &j, NULL), 0);
	record(g, j, seed);
	return j;
}

static void expect(struct plt_store *st, const uint8_t *bytes, size_t len)
{
	size_t n;
	const uint8_t *p = plt_memory_data(st, &n);

	ck_assert_uint_eq(n, len);
	for (size_t i = 0; i < len; i++)
		if (p[i] != bytes[i]) /* (Check writes a record at each ck_assert) */
			ck_abort_msg("byte %zu is %#x, not %#x", i, p[i], bytes[i]);
}

static struct plt_journal *reopen(struct rig *g)
{
	struct plt_journal *j;
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(plt_journal_open(g->journal, &j, &err) == 0, "%s", err.text);
	plt_journal_attach(j, &g->image);
	return j;
}

START_TEST(there_and_back)
{
	uint64_t seed = plt_unit_seed();
	struct plt_error err = PLT_ERROR_INIT;
	enum plt_journal_state state;
	struct plt_journal *j;
	struct rig g;

	set_up(&g, &seed);
	j = make(&g, g.journal, &seed);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), 0);
	ck_assert_int_eq(state, PLT_JOURNAL_WRITING);
	ck_assert_int_eq(plt_journal_apply(j, NULL), -EINVAL);
	ck_assert_int_eq(plt_journal_complete(j, NULL), 0);
	expect(g.image, g.before, SIZE);
	ck_assert_msg(plt_journal_apply(j, &err) == 0, "%s", err.text);
	expect(g.image, g.after, GROWN);
	ck_assert_int_eq(plt_journal_apply(j, NULL), 0);
	plt_journal_free(j);

	j = reopen(&g);
	ck_assert_int_eq(plt_journal_info(j)->state, PLT_JOURNAL_APPLIED);
	ck_assert_str_eq(plt_journal_info(j)->format, "qcow2");
	ck_assert_str_eq(plt_journal_info(j)->stores[0].name, "/a/b.qcow2");
	ck_assert_uint_eq(plt_journal_info(j)->stores[0].size_after, GROWN);
	ck_assert_msg(plt_journal_rollback(j, &err) == 0, "%s", err.text);
	expect(g.image, g.before, SIZE);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), 0);
	ck_assert_int_eq(state, PLT_JOURNAL_UNDONE);
	plt_journal_free(j);
	tear_down(&g);
}
END_TEST

enum { MAKE, APPLY, ROLLBACK };

/* One of the three, cut short at the @n-th change of image or journal, torn after @tear bytes. */
static bool cut_short(int what, unsigned n, bool of_image, bool finish, uint64_t seed)
{
	struct plt_fault_rule rule = { .ops = PLT_FAULT_WRITE | PLT_FAULT_ZERO | PLT_FAULT_TRUNCATE | PLT_FAULT_SYNC,
				       .tag = -1, .skip = n, .count = 0, .error = EIO,
				       .tear = n % 2 ? 512 : 0 };
	struct plt_store *fault, *pure;
	enum plt_journal_state state;
	struct plt_journal *j;
	struct rig g;
	bool hit;
	int r;

	set_up(&g, &seed);
	g.aligned = n % 2;
	pure = of_image && what != MAKE ? g.image : g.journal;
	ck_assert_int_eq(plt_fault_new(pure, &fault), 0);
	if (what != MAKE) {
		j = make(&g, g.journal, &seed);
		ck_assert_int_eq(plt_journal_complete(j, NULL), 0);
		if (what == ROLLBACK)
			ck_assert_int_eq(plt_journal_apply(j, NULL), 0);
		plt_journal_free(j);
		ck_assert_int_ge(plt_fault_add(fault, &rule), 0);
		ck_assert_int_eq(plt_journal_open(of_image ? g.journal : fault, &j, NULL), 0);
		plt_journal_attach(j, of_image ? &fault : &g.image);
		r = what == APPLY ? plt_journal_apply(j, NULL) : plt_journal_rollback(j, NULL);
		plt_journal_free(j);
	} else {
		ck_assert_int_ge(plt_fault_add(fault, &rule), 0);
		r = plt_journal_begin(fault, &info, &g.image, &j, NULL);
		if (r == 0) {
			uint8_t x = 1;

			r = plt_journal_add_mark(j, MARK, 3, NULL);
			if (r == 0)
				r = plt_journal_add(j, 0, 5000, &x, 1, NULL);
			if (r == 0)
				r = plt_journal_complete(j, NULL);
			plt_journal_free(j);
		}
		expect(g.image, g.before, SIZE);
	}
	hit = plt_fault_seen(fault, rule.ops) > n;
	ck_assert_int_eq(hit, r < 0);
	plt_store_unref(fault);
	if (what == MAKE) { /* it is complete or means nothing */
		r = plt_journal_peek(g.journal, &state, NULL);
		ck_assert(r == -ENOENT || r == -EUCLEAN || (r == 0 && state <= PLT_JOURNAL_COMPLETE));
	} else {
		j = reopen(&g);
		if (finish && plt_journal_info(j)->state != PLT_JOURNAL_UNDONE) {
			ck_assert_int_eq(plt_journal_apply(j, NULL), 0);
			expect(g.image, g.after, GROWN);
		} else {
			struct plt_error err = PLT_ERROR_INIT;

			ck_assert_msg(plt_journal_rollback(j, &err) == 0, "n = %u: %s", n, err.text);
			expect(g.image, g.before, SIZE);
		}
		plt_journal_free(j);
	}
	tear_down(&g);
	return hit;
}

START_TEST(interrupted)
{
	uint64_t seed = plt_unit_seed();
	unsigned runs = 0;

	for (int what = MAKE; what <= ROLLBACK; what++)
		for (unsigned image = 0; image < 2; image++)
			for (unsigned finish = 0; finish < 2; finish++)
				for (unsigned n = 0; cut_short(what, n, image, finish, seed); n++)
					runs++;
	printf("# %u cuts\n", runs);
	ck_assert_uint_gt(runs, 100);
}
END_TEST

START_TEST(changed_since)
{
	uint64_t seed = plt_unit_seed();
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_journal *j;
	struct rig g;
	uint8_t x;

	set_up(&g, &seed);
	j = make(&g, g.journal, &seed);
	ck_assert_int_eq(plt_journal_complete(j, NULL), 0);
	ck_assert_int_eq(plt_journal_apply(j, NULL), 0);
	plt_journal_free(j);

	x = g.after[0] ^ 0x55;
	ck_assert_int_eq(plt_store_write(g.image, 0, &x, 1, PLT_IO_DATA, NULL), 0);
	g.after[0] = x;
	j = reopen(&g);
	ck_assert_int_eq(plt_journal_rollback(j, &err), -EUCLEAN);
	ck_assert_ptr_nonnull(strstr(err.text, "changed by something else"));
	expect(g.image, g.after, GROWN);
	plt_journal_free(j);

	ck_assert_int_eq(plt_store_truncate(g.image, GROWN + 1, NULL), 0);
	j = reopen(&g);
	ck_assert_int_eq(plt_journal_rollback(j, &err), -EUCLEAN);
	plt_journal_free(j);
	tear_down(&g);
}
END_TEST

/* No flipped byte of a journal is believed. */
START_TEST(damaged)
{
	uint64_t seed = plt_unit_seed();
	struct plt_journal *j;
	struct rig g;
	size_t len;

	set_up(&g, &seed);
	j = make(&g, g.journal, &seed);
	ck_assert_int_eq(plt_journal_complete(j, NULL), 0);
	plt_journal_free(j);
	plt_memory_data(g.journal, &len);
	for (size_t at = 0; at < len; at += 1 + plt_unit_random(&seed) % 97) {
		uint8_t old, x;
		int r;

		ck_assert_int_eq(plt_store_read(g.journal, at, &old, 1, PLT_IO_OTHER, NULL), 0);
		x = old ^ (uint8_t)(1 << plt_unit_random(&seed) % 8);
		ck_assert_int_eq(plt_store_write(g.journal, at, &x, 1, PLT_IO_OTHER, NULL), 0);
		r = plt_journal_open(g.journal, &j, NULL);
		ck_assert_msg(r < 0, "byte %zu", at);
		ck_assert_int_eq(plt_store_write(g.journal, at, &old, 1, PLT_IO_OTHER, NULL), 0);
	}
	for (size_t cut = 0; cut < len; cut += 1 + len / 50) {
		struct plt_store *st = memory(plt_memory_data(g.journal, &len), cut);

		ck_assert_int_lt(plt_journal_open(st, &j, NULL), 0);
		plt_store_unref(st);
	}
	tear_down(&g);
}
END_TEST

/* What a cut leaves of a journal whose first sector never arrived; nothing else is taken for that. */
START_TEST(headless)
{
	enum plt_journal_state state = PLT_JOURNAL_APPLIED;
	uint64_t seed = plt_unit_seed();
	uint8_t zero[1024] = { 0 };
	struct plt_journal *j;
	struct rig g;

	set_up(&g, &seed);
	j = make(&g, g.journal, &seed);
	plt_journal_free(j);
	ck_assert_int_eq(plt_store_write(g.journal, 0, zero, 512, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), 0);
	ck_assert_int_eq(state, PLT_JOURNAL_WRITING);
	ck_assert_int_eq(plt_store_write(g.journal, 0, zero, 1024, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), 0);
	ck_assert_int_eq(plt_store_write(g.journal, 512, "text", 4, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), -ENOENT);
	ck_assert_int_eq(plt_store_write(g.journal, 0, "x", 1, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_store_write(g.journal, 512, "REC1", 4, PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(plt_journal_peek(g.journal, &state, NULL), -ENOENT);
	tear_down(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("journal");
	TCase *tc = tcase_create("journal");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, there_and_back);
	tcase_add_test(tc, interrupted);
	tcase_add_test(tc, changed_since);
	tcase_add_test(tc, damaged);
	tcase_add_test(tc, headless);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
