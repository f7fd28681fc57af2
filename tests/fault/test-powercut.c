/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Power cuts: every scenario is played once, and each disk state that a cut could have left during
 * it must open, hold all that had been flushed, and check as the order of writes promises. test-
 * powercut-rules.c shows that this would be noticed.
 */
#include <stdio.h>

#include "base/checked.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"

#define STATES 6000 /* of one scenario, if it says nothing else */

static void cut(const struct scenario *s, uint64_t seed)
{
	struct powercut_limits limits = {.seed = seed, .total = s->states ? s->states : STATES};
	struct powercut_count count;
	struct rig *r = scenario_record(s, seed, 0);
	int ret;

	if (getenv("PLT_SANITIZER") && limits.total >= 100) /* others each time */
		limits.total /= 3;
	ret = rig_cut_power(r, &limits, &count);
	printf("# %s: %u states (%u more seen twice) in %u windows, %u of them complete\n", s->name,
	       count.states, count.duplicates, count.windows, count.exhaustive);
	ck_assert_msg(ret == 0, "%s: %s", s->name, r->violation);
	ck_assert_uint_ge(count.states, 20);
	rig_free(r);
}

START_TEST(test_cuts)
{
	cut(scenario_at((unsigned)_i), plt_unit_seed());
}
END_TEST

/* Seeds that have found something. */
static const struct {
	const char *scenario;
	uint64_t seed;
} met[] = {
	{"random, bitmap", 582273168}, /* an old bitmap's table was put into the map */
	{"random, bitmap", 834219787},
	{"random snapshots", 784555341}, /* an empty snapshot had been applied, and the old tree came back */
	{"random snapshots, bitmap", 784555341},
};

START_TEST(test_again)
{
	cut(scenario_find(met[_i].scenario), met[_i].seed);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/powercut");
	TCase *t = tcase_create("cuts");

	tcase_add_loop_test(t, test_cuts, 0, (int)SCENARIOS);
	tcase_add_loop_test(t, test_again, 0, (int)PLT_ARRAY_SIZE(met));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
