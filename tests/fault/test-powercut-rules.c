/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The power-cut suite can fail: each rule of the order of writes is switched off in turn, and a
 * scenario must then lead to a state that violates a promise.  The same scenarios, with the same
 * seed and all rules in force, find nothing.  A rule of a driver that is neither here nor in
 * test-races.c nor in the list of those that have no operation yet fails the suite.
 */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "qcow2/qcow2.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"
#include "vhd/vhd.h"

#define SEED 1 /* one that finds them; any other finds most */

static const struct {
	unsigned rule;
	const char *scenario;
	bool driver_close; /* closed by the driver alone, without the engine's flush before */
} caught[] = {
	{QCOW2_RULE_COUNT_L2, "synced", false},
	{QCOW2_RULE_DATA_L2, "reuse", false},
	{QCOW2_RULE_DATA_L2, "subclusters", false},
	{QCOW2_RULE_DATA_L2, "encrypted, reuse", false},
	{QCOW2_RULE_GONE_COUNT, "encrypted, reuse", false},
	{QCOW2_RULE_DATA_L2, "external data, backing", false},
	{QCOW2_RULE_COUNT_L1, "synced", false},
	{QCOW2_RULE_TABLE_L1, "lazy", false},
	{QCOW2_RULE_BLOCK_TABLE, "refcount blocks", false},
	{QCOW2_RULE_TABLE_PATH, "refcount blocks", false},
	{QCOW2_RULE_GONE_COUNT, "reuse", false},
	{QCOW2_RULE_GONE_PUNCH, "compressed", false},
	{QCOW2_RULE_PUNCH_AT_ZERO, "compressed", false},
	{QCOW2_RULE_PUNCH_AT_ZERO, "shared", false},
	{QCOW2_RULE_COMPRESSED_TAIL, "compressed tail", false},
	{QCOW2_RULE_GROW_REFTABLE, "refcount table", false},
	{QCOW2_RULE_FORGET, "refcount table", false},
	{QCOW2_RULE_DIRTY_SET, "lazy, synced", false},
	{QCOW2_RULE_DIRTY_CLEAR, "lazy, synced", true},
	{QCOW2_RULE_GROW_L1, "grow", false},
	{QCOW2_RULE_SHRINK, "shrink", false},
	{QCOW2_RULE_GROW_SIZE, "grow, backing", false},
	{QCOW2_RULE_SNAPSHOT_COPIED, "snapshots", false},
	{QCOW2_RULE_SNAPSHOT_TABLES, "snapshots", false},
	{QCOW2_RULE_SNAPSHOT_GONE, "snapshots", false},
	{QCOW2_RULE_BITMAPS_NEW, "changed bitmaps", false},
	{QCOW2_RULE_BITMAPS_GONE, "changed bitmaps", false},
	{PLT_RULE_LIMBO_DURABLE, "reuse", false},
	{VHD_RULE_DATA_BITS, "vhd child blocks", false},
	{VHD_RULE_DATA_ENTRY, "vhd reuse", false},
	{VHD_RULE_FOOTER_MOVE, "vhd blocks", false},
	{VHD_RULE_FOOTER_TRIM, "vhd blocks", false},
	{VHD_RULE_FOOTER_MEND, "vhd no tail", false},
	{VHD_RULE_GROW_FIXED, "vhd fixed grow", false},
	{VHD_RULE_GROW_TABLE, "vhd grow", false},
	{VHD_RULE_GROW_ZERO, "vhd shrink", false},
	{VHD_RULE_SHRINK, "vhd shrink", false},
	{VHD_RULE_PARENT_HEADER, "vhd another parent", false},
	{VHD_RULE_PARENT_HOME, "vhd another parent", false},
	{VHD_RULE_PARENT_ZERO, "vhd parent gone", false},
	{VHD_RULE_SHRINK, "vhd fixed shrink", false},
};

/* What happens only between threads: test-races.c. */
static const unsigned races[] = {QCOW2_RULE_GONE_REUSE, PLT_RULE_LIMBO_DRAIN};

/*
 * driver->close is called with everything flushed; the driver clears its dirty bit only behind a
 * flush of its own all the same, which is what is looked at here: the engine's part of closing is
 * left out, and blocks have been written back, as under the pressure of others, that no sync
 * covers.
 */
static int close_by_driver(struct rig *r)
{
	struct plt_image *img = plt_disk_image(r->disk);
	int e = rig_write(r, 30 * 1024 + 64, 4096);

	if (e == 0)
		e = rig_sync(r);
	if (e == 0)
		e = plt_meta_flush(img, false, &r->err);
	if (e == 0)
		e = img->drv->close(img, &r->err);
	img->drv = NULL;
	(void)plt_disk_close(r->disk, NULL); /* closed it is already */
	r->disk = NULL;
	return e;
}

/* Plays it and cuts the power.  -1: a violation, r->violation says which. */
static int play(unsigned i, uint64_t rules_off, struct rig **ret)
{
	const struct scenario *s = scenario_find(caught[i].scenario);
	struct powercut_limits limits = {.seed = SEED, .window = 600, .total = s->states};
	struct rig *r = *ret = rig_new(&s->layout, SEED);
	int e;

	if (s->prepare)
		s->prepare(r);
	rig_record(r, rules_off);
	/* what is wrong while the disk is still open needs no cut */
	e = s->run(r);
	if (e == 0 && rig_verify_disk(r, r->disk, r->nmarks - 1, r->nevents) < 0)
		return -1;
	if (e == 0)
		e = caught[i].driver_close ? close_by_driver(r) : rig_try_close(r);
	if (e < 0) {
		snprintf(r->violation, sizeof(r->violation), "%.590s", r->err.text);
		return e;
	}
	return rig_cut_power(r, &limits, NULL);
}

/* In a process of its own: what goes wrong may end in an assertion. */
START_TEST(test_rule_off)
{
	char text[600] = "";
	int p[2], status;
	ssize_t n;
	pid_t pid;

	ck_assert_int_eq(pipe(p), 0);
	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		struct rig *r;
		int e = play((unsigned)_i, UINT64_C(1) << caught[_i].rule, &r);

		n = write(p[1], r->violation, strlen(r->violation));
		rig_free(r);
		_exit(e < 0 && n > 0 ? 1 : 0);
	}
	close(p[1]);
	n = read(p[0], text, sizeof(text) - 1);
	close(p[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		snprintf(text, sizeof(text), "ended by signal %d", WTERMSIG(status));
	ck_assert_msg(WIFSIGNALED(status) || WEXITSTATUS(status) == 1,
		      "rule %u is off and '%s' does not notice", caught[_i].rule,
		      caught[_i].scenario);
	printf("# rule %u, %s: %s\n", caught[_i].rule, caught[_i].scenario, text);
}
END_TEST

START_TEST(test_rule_on)
{
	struct rig *r;
	int e;

	for (int i = 0; i < _i; i++)
		if (!strcmp(caught[i].scenario, caught[_i].scenario) &&
		    caught[i].driver_close == caught[_i].driver_close)
			return; /* the same again */
	e = play((unsigned)_i, 0, &r);
	ck_assert_msg(e == 0, "%s", r->violation);
	rig_free(r);
}
END_TEST

/*
 * VHD: an entry never names a block whose bits are not on the disk.  No state tells (a sector whose bit is
 * missing is the parent's, as if nothing had been written), so the order of the writes is looked at.
 */
static bool bits_before_entries(uint64_t rules_off)
{
	const struct scenario *s = scenario_find("vhd child synced");
	struct rig *r = scenario_record(s, SEED, rules_off);
	const struct plt_log_record *rec;
	size_t n = plt_writelog_records(r->log, &rec);
	unsigned named = 0, good = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t synced = 0;

		if (rec[i].kind != PLT_LOG_WRITE || rec[i].tag != PLT_IO_L1)
			continue;
		/* what a sync covers that was over when the entry was written */
		for (size_t j = 0; j < i; j++)
			if (rec[j].kind == PLT_LOG_SYNC && rec[j].ended < rec[i].begun)
				synced = PLT_MAX(synced, rec[j].begun);
		for (uint64_t at = 0; at < rec[i].len; at += 4) {
			uint64_t start = (uint64_t)plt_get_be32(rec[i].data + at) * VHD_SECTOR;
			bool found = false;

			if (start == (uint64_t)VHD_UNUSED * VHD_SECTOR)
				continue;
			named++;
			for (size_t j = 0; j < i && !found; j++)
				found = rec[j].kind == PLT_LOG_WRITE && rec[j].tag == PLT_IO_BITMAP &&
					rec[j].off == start && rec[j].data[0] && rec[j].ended < synced;
			good += found;
		}
	}
	rig_free(r);
	ck_assert_uint_ge(named, 8);
	return good == named;
}

START_TEST(test_bits_entry)
{
	ck_assert(bits_before_entries(0));
	ck_assert_msg(!bits_before_entries(UINT64_C(1) << VHD_RULE_BITS_ENTRY), "the rule is off and nothing notices");
}
END_TEST

static bool listed(unsigned rule)
{
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(caught); i++)
		if (caught[i].rule == rule && strncmp(caught[i].scenario, "vhd ", 4))
			return true;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(races); i++)
		if (races[i] == rule)
			return true;
	return false;
}

static bool listed_vhd(unsigned rule)
{
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(caught); i++)
		if (caught[i].rule == rule && !strncmp(caught[i].scenario, "vhd ", 4))
			return true;
	return rule == VHD_RULE_BITS_ENTRY;
}

START_TEST(test_all_rules)
{
	for (unsigned rule = 0; rule < VHD_RULES; rule++)
		ck_assert_msg(listed_vhd(rule), "rule %u of VHD has no scenario", rule);
	for (unsigned rule = 0; rule < QCOW2_RULES; rule++)
		ck_assert_msg(listed(rule), "rule %u has no scenario", rule);
	for (unsigned rule = PLT_RULE_LIMBO_DURABLE; rule <= PLT_RULE_LIMBO_DRAIN; rule++)
		ck_assert_msg(listed(rule), "rule %u has no scenario", rule);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/powercut-rules");
	TCase *t = tcase_create("rules");

	tcase_add_loop_test(t, test_rule_off, 0, PLT_ARRAY_SIZE(caught));
	tcase_add_loop_test(t, test_rule_on, 0, PLT_ARRAY_SIZE(caught));
	tcase_add_test(t, test_bits_entry);
	tcase_add_test(t, test_all_rules);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
