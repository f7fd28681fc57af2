/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The map that is held against what the guest says, in whole clusters: of one that is mapped in parts (subclusters) there
 * is one piece, which is what its data is; against a model, with random runs.
 */
#include "base/checked.h"
#include "repair/deep/deep.h"
#include "tests/unit.h"

#define SPAN 16384u
#define PARTS 16u
#define CLUSTERS 24u

START_TEST(test_whole)
{
	static const unsigned ranks[] = { [DEEP_ABSENT] = 0, [DEEP_ZERO] = 1, [DEEP_OTHER] = 2, [DEEP_DATA] = 3 };
	uint64_t seed = plt_unit_seed();

	for (unsigned round = 0; round < 400; round++) {
		enum deep_kind is[CLUSTERS] = { 0 };
		struct deep_map m = { .span = SPAN, .v = calloc(CLUSTERS * PARTS, sizeof(*m.v)), .cap = CLUSTERS * PARTS };

		ck_assert_ptr_nonnull(m.v);
		for (unsigned part = 0, n; part < CLUSTERS * PARTS; part += n) {
			enum deep_kind kind = (seed = seed * 6364136223846793005u + 1442695040888963407u) >> 61 & 3;
			uint64_t off = (uint64_t)part * (SPAN / PARTS), host = DEEP_NOWHERE;

			n = seed >> 40 & 1 ? PARTS - part % PARTS + PARTS * (seed >> 41 & 1) : 1 + (seed >> 42 & 7);
			n = PLT_MIN(n, CLUSTERS * PARTS - part);
			if (kind == DEEP_DATA || (kind == DEEP_ZERO && n & 1))
				host = (1 << 20) + off;
			if (kind != DEEP_ABSENT)
				m.v[m.n++] = (struct deep_run){ off, (uint64_t)n * (SPAN / PARTS), host, kind };
			for (unsigned i = part; i < part + n; i++)
				if (ranks[kind] > ranks[is[i / PARTS]])
					is[i / PARTS] = kind;
		}
		ck_assert_int_eq(plt_deep_whole(&m, NULL), 0);
		for (size_t i = 0; i < m.n; i++) {
			ck_assert_uint_eq(m.v[i].guest % SPAN, 0);
			ck_assert_uint_eq(m.v[i].len % SPAN, 0);
			ck_assert(!i || m.v[i - 1].guest + m.v[i - 1].len <= m.v[i].guest);
		}
		for (unsigned c = 0; c < CLUSTERS; c++) {
			uint64_t host;

			ck_assert_int_eq(plt_deep_at(&m, (uint64_t)c * SPAN, &host), is[c]);
			if (is[c] == DEEP_DATA)
				ck_assert_uint_eq(host, (1 << 20) + (uint64_t)c * SPAN);
		}
		plt_deep_map_release(&m);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("deep-map");
	TCase *t = tcase_create("deep-map");

	tcase_add_test(t, test_whole);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
