/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Chains at random: images are made upon each other, written, resized, snapshotted, recorded in bitmaps, committed,
 * rebased, flattened and coalesced; after each step what it touched (and another one) shows what the model says and has a sound structure, and
 * now and then qemu-img is asked for its opinion of all.
 */
#include <errno.h>
#include <stdio.h>

#include "base/checked.h"
#include "tests/snapshot/chainlab.h"

#define RUNS 6

static unsigned steps(void)
{
	const char *env = getenv("PLT_STEPS");

	return env && *env ? (unsigned)strtoul(env, NULL, 0) : getenv("PLT_SANITIZER") ? 60 : 250;
}

static void judge(struct chainlab *c, int i, const struct chain_deed *d, unsigned step)
{
	const char *why = chain_wrong(c, i, d);

	if (!why)
		why = chain_unsound(c, i, false, d);
	if (why)
		ck_abort_msg("step %u%s%s: %s", step, d ? ", " : "", d ? chain_text(c, d) : "", why);
}

static void change_chain(struct chainlab *c, unsigned *done, unsigned step)
{
	struct chain_deed d = chain_choose(c);
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (d.verb == CHAIN_NOTHING)
		return;
	c->ops++;
	r = chain_do(c, &d, &err);
	if (r < 0 && !chain_may_be_refused(c, &d))
		ck_abort_msg("step %u, %s: %s", step, chain_text(c, &d), err.text);
	done[d.verb] += r == 0;
	if (r == 0)
		chain_done(c, &d);
	for (int i = 0; i < CHAIN_LAYERS; i++)
		if (c->v[i].used && (i == d.i || i == d.on || chain_is_above(c, i, d.i) || chain_is_above(c, i, d.on)))
			judge(c, i, r < 0 ? NULL : &d, step);
	/* what has been looked up once stays */
	judge(c, d.i, NULL, step);
	if (d.verb == CHAIN_COALESCE)
		judge(c, d.child, NULL, step);
	if (d.on >= 0)
		judge(c, d.on, NULL, step);
}

START_TEST(random_chains)
{
	unsigned asked = 0, n = steps(), done[CHAIN_COALESCE + 1] = { 0 };
	struct chainlab c;
	const char *why;

	chainlab_init(&c, plt_unit_seed() + (uint64_t)_i);
	for (unsigned step = 0; step < n; step++) {
		unsigned what = (unsigned)chain_any(&c, 16);
		int i = (int)chain_any(&c, CHAIN_LAYERS);

		if (step < 3 || what < 3)
			chain_make(&c);
		else if (what < 9)
			chain_burst(&c);
		else
			change_chain(&c, done, step);
		if (c.v[i].used)
			judge(&c, i, NULL, step);
		for (i = 0; step % 40 == 39 && i < CHAIN_LAYERS; i++)
			if (c.v[i].used) {
				judge(&c, i, NULL, step);
				why = chain_peer(&c, i);
				if (why)
					ck_abort_msg("step %u: %s", step, why);
				asked++;
			}
	}
	printf("# %u operations (%u rebase, %u commit, %u flatten, %u coalesce), qemu-img asked %u times\n", c.ops,
	       done[CHAIN_REBASE], done[CHAIN_COMMIT], done[CHAIN_FLATTEN], done[CHAIN_COALESCE], c.peer ? asked : 0);
	for (unsigned v = CHAIN_REBASE; v <= CHAIN_COALESCE && n >= 250; v++)
		ck_assert_uint_gt(done[v], 0);
	chainlab_release(&c);
}
END_TEST

/* A chain may not lead back to itself; nothing has changed then. */
START_TEST(loops_are_refused)
{
	struct chain_deed d = { .verb = CHAIN_REBASE };
	struct plt_error err = PLT_ERROR_INIT;
	unsigned met = 0;
	struct chainlab c;
	const char *why;

	chainlab_init(&c, plt_unit_seed());
	for (unsigned step = 0; step < 60; step++) {
		chain_make(&c);
		for (d.i = 0; d.i < CHAIN_LAYERS; d.i++)
			for (d.on = 0; d.on < CHAIN_LAYERS; d.on++) {
				if (!c.v[d.i].used || !c.v[d.on].used || strcmp(c.v[d.i].kind->format, "qcow2") ||
				    (d.i != d.on && !chain_is_above(&c, d.on, d.i)) || chain_any(&c, 8))
					continue;
				if (chain_do(&c, &d, &err) >= 0) /* (the lock says so, or the look at the chain) */
					ck_abort_msg("%s", chain_text(&c, &d));
				why = chain_wrong(&c, d.on, NULL);
				ck_assert_msg(!why, "%s", why);
				met++;
			}
	}
	ck_assert_uint_gt(met, 5);
	chainlab_release(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("snapshot/operations");
	TCase *tc = tcase_create("operations");

	tcase_add_loop_test(tc, random_chains, 0, RUNS);
	tcase_add_test(tc, loops_are_refused);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
