/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The lists of what is lost and inferred, against a model that has one word for each byte. */
#include "formats/doubt.h"

#include <errno.h>

#include "tests/unit.h"

#define SPACE 64
#define DISKS 2

static const char *const whys[] = { "table gone", "beyond the end" };

struct word {
	bool doubted;
	enum plt_doubt_kind kind;
	enum plt_certainty certainty;
	unsigned why;
};

static bool same(const struct word *a, const struct word *b)
{
	return a->kind == b->kind && a->why == b->why && (a->kind == PLT_LOST || a->certainty == b->certainty);
}

static void expect(const struct plt_doubts *d, struct word model[DISKS][SPACE])
{
	size_t ranges = 0;

	for (uint32_t disk = 0; disk < DISKS; disk++)
		for (uint64_t b = 0; b < SPACE; b++) {
			const struct word *w = &model[disk][b];
			const struct plt_doubt *f = plt_doubts_find(d, disk, b);
			bool there = f && f->off <= b;

			ck_assert_int_eq(there, w->doubted);
			if (!there)
				continue;
			ck_assert_uint_eq(f->disk, disk);
			ck_assert_int_eq(f->kind, w->kind);
			ck_assert_str_eq(f->why, whys[w->why]);
			if (w->kind == PLT_INFERRED)
				ck_assert_int_eq(f->certainty, w->certainty);
			if (!b || !model[disk][b - 1].doubted || !same(&model[disk][b - 1], w))
				ranges++;
		}
	ck_assert_uint_eq(d->n, ranges);
}

START_TEST(model)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned run = 0; run < 20; run++) {
		struct plt_doubts d = PLT_DOUBTS_INIT;
		struct word m[DISKS][SPACE] = { 0 };

		for (unsigned round = 0; round < 200; round++) {
			uint32_t disk = plt_unit_random(&seed) % DISKS;
			uint64_t off = plt_unit_random(&seed) % SPACE, len = plt_unit_random(&seed) % 12;
			struct word w = { .doubted = plt_unit_random(&seed) % 4 != 0,
					  .kind = plt_unit_random(&seed) % 2 ? PLT_LOST : PLT_INFERRED,
					  .certainty = plt_unit_random(&seed) % 2 ? PLT_STRONG : PLT_LIKELY,
					  .why = plt_unit_random(&seed) % 2 };
			struct plt_doubt doubt = { .kind = w.kind, .disk = disk, .off = off, .certainty = w.certainty };

			if (len > SPACE - off)
				len = SPACE - off;
			doubt.len = len;
			strcpy(doubt.why, whys[w.why]);
			if (w.doubted)
				ck_assert_int_eq(plt_doubts_set(&d, &doubt), 0);
			else
				ck_assert_int_eq(plt_doubts_clear(&d, disk, off, len), 0);
			for (uint64_t b = off; b < off + len; b++)
				m[disk][b] = w;
			expect(&d, m);
		}
		plt_doubts_release(&d);
	}
}
END_TEST

START_TEST(forgotten)
{
	struct plt_doubts d = PLT_DOUBTS_INIT;
	struct plt_doubt doubt = { .kind = PLT_LOST, .disk = PLT_DISK_ACTIVE, .len = 4 };

	for (unsigned i = 0; i < 9; i++) {
		doubt.off = 4 * i;
		strcpy(doubt.why, i % 3 ? "one" : "another");
		ck_assert_int_eq(plt_doubts_set(&d, &doubt), 0);
	}
	plt_doubts_forget(&d, "one");
	ck_assert_uint_eq(d.n, 3);
	for (unsigned i = 0; i < 9; i++) {
		const struct plt_doubt *at = plt_doubts_find(&d, PLT_DISK_ACTIVE, 4 * i);

		ck_assert_int_eq(at && at->off == 4 * i, i % 3 == 0);
	}
	plt_doubts_forget(&d, "a third");
	ck_assert_uint_eq(d.n, 3);
	plt_doubts_release(&d);
}
END_TEST

START_TEST(edges)
{
	struct plt_doubts d = PLT_DOUBTS_INIT;
	struct plt_doubt whole = { .kind = PLT_LOST, .disk = PLT_DISK_ACTIVE, .off = 1, .len = UINT64_MAX };

	ck_assert_int_eq(plt_doubts_set(&d, &whole), -ERANGE);
	ck_assert_int_eq(plt_doubts_clear(&d, 0, 1, UINT64_MAX), -ERANGE);
	whole.off = 0;
	memset(whole.why, 'x', sizeof(whole.why));
	ck_assert_int_eq(plt_doubts_set(&d, &whole), 0);
	ck_assert_uint_eq(strlen(plt_doubts_find(&d, PLT_DISK_ACTIVE, UINT64_MAX - 1)->why), sizeof(whole.why) - 1);
	ck_assert_ptr_null(plt_doubts_find(&d, PLT_DISK_ACTIVE, UINT64_MAX));
	ck_assert_ptr_null(plt_doubts_find(&d, 0, 5));
	plt_doubts_release(&d);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("formats/doubt");
	TCase *tc = tcase_create("doubts");

	tcase_add_test(tc, model);
	tcase_add_test(tc, forgotten);
	tcase_add_test(tc, edges);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
