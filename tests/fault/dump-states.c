/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * For peer.sh: plays a scenario, and writes a sample of the disk states that a power cut could
 * have left into a folder, each as N.qcow2, with N.raw beside it: what platter reads in it.
 *
 *	dump-states SCENARIO SEED COUNT FOLDER [RULES-OFF]
 */
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"

struct sample {
	struct rig *r;
	const char *folder;
	uint64_t seed;
	unsigned wanted, written, seen;
};

static char **args;

static void to_file(const struct sample *s, const char *what, const void *bytes, size_t len)
{
	char name[4200];
	FILE *f;

	snprintf(name, sizeof(name), "%s/%u.%s", s->folder, s->written, what);
	f = fopen(name, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, len, f), len);
	ck_assert_int_eq(fclose(f), 0);
}

static int take(void *arg, const struct powercut_state *st)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct sample *s = arg;
	struct plt_disk *disk;
	struct plt_store *mem;
	uint8_t *buf;

	s->seen++;
	if (plt_unit_random(&s->seed) % 8)
		return 0;
	to_file(s, "qcow2", st->disk[0].bytes, st->disk[0].len);
	ck_assert_int_eq(plt_memory_new(st->disk[0].bytes, st->disk[0].len, 0, &mem), 0);
	ck_assert_msg(plt_disk_open_store(s->r->ctx, mem, "top", "qcow2", &o, &disk, &err) == 0,
		      "%s", err.text);
	buf = malloc(s->r->size);
	ck_assert_ptr_nonnull(buf);
	ck_assert_msg(plt_read(disk, 0, buf, s->r->size, &err) == 0, "%s", err.text);
	to_file(s, "raw", buf, s->r->size);
	free(buf);
	ck_assert_int_eq(plt_disk_close(disk, NULL), 0);
	plt_store_unref(mem);
	return ++s->written == s->wanted;
}

START_TEST(test_dump)
{
	uint64_t seed = strtoull(args[2], NULL, 0);
	struct powercut_limits limits = {.seed = seed};
	struct sample s = {
		.folder = args[4], .seed = seed, .wanted = (unsigned)strtoul(args[3], NULL, 0)};

	s.r = scenario_record(scenario_find(args[1]), seed,
			      args[5] ? strtoull(args[5], NULL, 0) : 0);
	ck_assert_msg(!s.r->base && !s.r->data, "a scenario with one file");
	(void)powercut_each(s.r->log, s.r->start, 1, &limits, take, &s, NULL);
	printf("# %s: %u of %u states\n", args[1], s.written, s.seen);
	ck_assert_uint_gt(s.written, 0);
	rig_free(s.r);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("dump-states");
	TCase *t = tcase_create("dump");
	SRunner *runner;
	int failed;

	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: dump-states SCENARIO SEED COUNT FOLDER [RULES-OFF]\n");
		return 2;
	}
	args = argv;
	tcase_add_test(t, test_dump);
	suite_add_tcase(s, t);
	runner = srunner_create(s);
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
