/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Image locks: between two processes, between two descriptors of one, and with QEMU's own programs
 * where they are installed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/lock.h"
#include "io/store.h"
#include "tests/unit.h"

#define ALL PLT_PERM_ALL
#define READ PLT_PERM_READ
#define WRITE (PLT_PERM_READ | PLT_PERM_WRITE | PLT_PERM_RESIZE)
/* What others may do beside us: read, and write what changes nothing. */
#define SHARE (PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED)

static char path[4200];

static int new_file(void)
{
	int fd;

	snprintf(path, sizeof(path), "%s/img", plt_unit_dir());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
	return fd;
}

static int take(int fd, unsigned perm, unsigned shared, struct plt_error *err)
{
	return plt_lock_fd(fd, "img", 0, ALL, perm, shared, err);
}

START_TEST(test_words)
{
	struct plt_error err = PLT_ERROR_INIT;
	int a = new_file(), b = open(path, O_RDWR);

	ck_assert_int_eq(take(a, WRITE, SHARE, &err), 0);
	ck_assert_int_eq(take(b, WRITE, SHARE, &err), -EBUSY);
	ck_assert_int_eq(err.code, EBUSY);
	ck_assert_str_eq(err.text,
			 "Failed to get \"write\" lock\nIs another process using the image [img]?");
	ck_assert_int_eq(take(b, READ, SHARE, &err), -EBUSY);
	ck_assert_str_eq(err.text, "Failed to get shared \"write\" lock\n"
				   "Is another process using the image [img]?");
	/* -U: whatever others do. */
	ck_assert_int_eq(take(b, READ, ALL, &err), 0);
	close(a);
	close(b);
}
END_TEST

START_TEST(test_readers)
{
	struct plt_error err = PLT_ERROR_INIT;
	int a = new_file(), b = open(path, O_RDONLY), c = open(path, O_RDWR);

	ck_assert_int_eq(take(a, READ, SHARE, &err), 0);
	ck_assert_int_eq(take(b, READ, SHARE, &err), 0);
	ck_assert_int_eq(take(c, WRITE, SHARE, &err), -EBUSY);
	/* The refused one has left nothing behind. */
	ck_assert_int_eq(plt_lock_fd(a, "img", READ, SHARE, READ, SHARE, &err), 0);
	close(a);
	ck_assert_int_eq(take(c, WRITE, SHARE, &err), -EBUSY);
	close(b);
	ck_assert_int_eq(take(c, WRITE, SHARE, &err), 0);
	close(c);
}
END_TEST

START_TEST(test_change)
{
	struct plt_error err = PLT_ERROR_INIT;
	int a = new_file(), b = open(path, O_RDWR);

	ck_assert_int_eq(take(a, READ, SHARE, &err), 0);
	ck_assert_int_eq(take(b, READ, SHARE, &err), 0);
	/* An upgrade that fails keeps the old: a reader is still in the way of a writer. */
	ck_assert_int_eq(plt_lock_fd(a, "img", READ, SHARE, WRITE, SHARE, &err), -EBUSY);
	ck_assert_int_eq(plt_lock_fd(b, "img", READ, SHARE, 0, ALL, &err), 0);
	ck_assert_int_eq(take(b, WRITE, SHARE, &err), -EBUSY);
	ck_assert_int_eq(plt_lock_fd(a, "img", READ, SHARE, WRITE, SHARE, &err), 0);
	ck_assert_int_eq(take(b, READ, SHARE, &err), -EBUSY);
	/* A downgrade lets readers in. */
	ck_assert_int_eq(plt_lock_fd(a, "img", WRITE, SHARE, READ, SHARE, &err), 0);
	ck_assert_int_eq(take(b, READ, SHARE, &err), 0);
	close(a);
	close(b);
}
END_TEST

START_TEST(test_processes)
{
	struct plt_error err = PLT_ERROR_INIT;
	int a = new_file(), status;
	pid_t pid;

	ck_assert_int_eq(take(a, WRITE, SHARE, &err), 0);
	pid = fork();
	if (!pid) {
		struct plt_store *st;

		if (plt_file_open(path, PLT_FILE_WRITE, &st, NULL))
			_exit(1);
		if (plt_store_lock(st, READ, SHARE, NULL) != -EBUSY)
			_exit(2);
		if (plt_store_lock(st, READ, ALL, NULL))
			_exit(3);
		plt_store_unref(st);
		/* Told not to lock it does not. */
		if (plt_file_open(path, PLT_FILE_WRITE | PLT_FILE_NO_LOCK, &st, NULL))
			_exit(4);
		if (plt_store_lock(st, WRITE, SHARE, NULL))
			_exit(5);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	close(a);
}
END_TEST

static bool runs(const char *command)
{
	return system(command) == 0;
}

/* A qcow2 image: the users of a raw one share everything in QEMU. */
static int new_qcow2(void)
{
	int fd = new_file();
	char cmd[9000];

	snprintf(cmd, sizeof(cmd), "qemu-img create -q -f qcow2 '%s' 1M", path);
	ck_assert(runs(cmd));
	return fd;
}

/* QEMU refuses what we hold. */
START_TEST(test_qemu_refuses)
{
	struct plt_error err = PLT_ERROR_INIT;
	char cmd[9000];
	int a = new_qcow2();

	ck_assert_int_eq(take(a, WRITE, SHARE, &err), 0);
	snprintf(cmd, sizeof(cmd),
		 "qemu-img info '%s' 2>&1 | grep -q 'Failed to get shared \"write\" lock'", path);
	ck_assert(runs(cmd));
	snprintf(cmd, sizeof(cmd),
		 "qemu-io -f qcow2 -c quit '%s' 2>&1 | grep -q 'Failed to get \"write\" lock'",
		 path);
	ck_assert(runs(cmd));
	snprintf(cmd, sizeof(cmd), "qemu-img info -U '%s' >/dev/null 2>&1", path);
	ck_assert(runs(cmd));
	ck_assert_int_eq(plt_lock_fd(a, "img", WRITE, SHARE, READ, SHARE, &err), 0);
	snprintf(cmd, sizeof(cmd), "qemu-img info '%s' >/dev/null 2>&1", path);
	ck_assert(runs(cmd));
	snprintf(cmd, sizeof(cmd),
		 "qemu-io -f qcow2 -c quit '%s' 2>&1 | grep -q 'Failed to get \"write\" lock'",
		 path);
	ck_assert(runs(cmd));
	close(a);
}
END_TEST

static bool is_locked(int fd, int byte)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	ck_assert_int_eq(fcntl(fd, F_OFD_GETLK, &fl), 0);
	return fl.l_type != F_UNLCK;
}

/* We refuse what QEMU holds. */
START_TEST(test_qemu_holds)
{
	struct plt_error err = PLT_ERROR_INIT;
	int a = new_qcow2();
	char cmd[9000];
	FILE *qemu;

	snprintf(cmd, sizeof(cmd), "qemu-io -f qcow2 '%s' >/dev/null", path);
	qemu = popen(cmd, "w");
	ck_assert_ptr_nonnull(qemu);
	/* Until it has taken its last lock.  Asking disturbs nobody, unlike trying. */
	for (int i = 0; i < 1000 && !is_locked(a, 203); i++)
		usleep(10000);
	ck_assert_int_eq(take(a, READ, SHARE, &err), -EBUSY);
	ck_assert_ptr_eq(strstr(err.text, "Failed to get shared \"write\" lock\n"), err.text);
	ck_assert_int_eq(take(a, WRITE, SHARE, &err), -EBUSY);
	ck_assert_ptr_eq(strstr(err.text, "Failed to get \"write\" lock\n"), err.text);
	ck_assert_int_eq(take(a, READ, ALL, &err), 0);
	fputs("quit\n", qemu);
	ck_assert_int_eq(pclose(qemu), 0);
	ck_assert_int_eq(plt_lock_fd(a, "img", READ, ALL, WRITE, SHARE, &err), 0);
	close(a);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("lock");
	TCase *tc = tcase_create("lock");

	tcase_add_test(tc, test_words);
	tcase_add_test(tc, test_readers);
	tcase_add_test(tc, test_change);
	tcase_add_test(tc, test_processes);
	if (runs("command -v qemu-io qemu-img >/dev/null 2>&1")) {
		tcase_add_test(tc, test_qemu_refuses);
		tcase_add_test(tc, test_qemu_holds);
	} else {
		puts("# qemu-io is not installed: the tests against it are left out");
	}
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
