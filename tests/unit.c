/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The frame of the unit tests: runs a Check suite and prints its results as TAP, one point a test.
 * It owns what every suite needs (random numbers with a seed that is shown, a scratch folder) and
 * keeps one promise: a test that did not run, crashed or timed out is "not ok", never silence.
 * Expectations themselves are Check's ck_assert_*().
 */
#include "tests/unit.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/store.h"

/* The parent's folder; each test process has its own below it, so that tests cannot meet. */
static char *scratch_root;

/* Check's own 4 seconds are short for a loaded machine.  Read when a test case is created. */
__attribute__((constructor)) static void set_default_timeout(void)
{
	setenv("CK_DEFAULT_TIMEOUT", "120", 0);
}

void plt_unit_mark(const char *file, int line)
{
	static _Atomic unsigned marks;
	unsigned n = atomic_fetch_add_explicit(&marks, 1, memory_order_relaxed);

	if (n < 1000 || n % 256 == 0)
		(_mark_point)(file, line);
}

static int remove_entry(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
	(void)sb;
	(void)type;
	(void)ftw;
	return remove(path);
}

static char *make_scratch_root(void)
{
	const char *tmp = getenv("TMPDIR");
	char *dir;

	if (asprintf(&dir, "%s/platter-test.XXXXXX", tmp && *tmp ? tmp : "/tmp") < 0 ||
	    !mkdtemp(dir)) {
		perror("scratch folder");
		abort();
	}
	return dir;
}

int plt_unit_main(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int n;

	/* By lines, so that a forked test inherits none of them half written. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	scratch_root = make_scratch_root();
	srunner_set_tap(runner, "-");
	srunner_run_all(runner, CK_SILENT);
	n = srunner_ntests_run(runner);
	nftw(scratch_root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(scratch_root);
	srunner_free(runner);
	return n > 0 ? 0 : 1;
}

uint64_t plt_unit_seed(void)
{
	const char *env = getenv("PLT_SEED");
	struct timespec now;
	uint64_t seed = 1;

	if (env && strcmp(env, "random") != 0 && *env) {
		seed = strtoull(env, NULL, 0);
	} else if (env && *env) {
		clock_gettime(CLOCK_REALTIME, &now);
		seed = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
	}
	printf("# PLT_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	return seed;
}

/* splitmix64: any seed is good, and the sequence is the same everywhere. */
uint64_t plt_unit_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

const char *plt_unit_dir(void)
{
	static char dir[4096];
	static pid_t owner;

	if (owner == getpid())
		return dir;
	owner = getpid();
	snprintf(dir, sizeof(dir), "%s/%ld", scratch_root, (long)owner);
	if (mkdir(dir, 0700) < 0) {
		perror(dir);
		abort();
	}
	return dir;
}

bool plt_unit_has_direct(void)
{
	const char *tmp = getenv("TMPDIR");
	struct plt_store *st;
	char name[4096];
	bool ok;

	snprintf(name, sizeof(name), "%s/platter-direct.%ld", tmp && *tmp ? tmp : "/tmp",
		 (long)getpid());
	ok = !plt_file_open(name, PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_DIRECT, &st, NULL);
	if (ok)
		plt_store_unref(st);
	unlink(name);
	return ok;
}
