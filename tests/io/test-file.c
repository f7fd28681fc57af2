/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Files and devices: what opening refuses and how it says so, holes, copying, and read-modify-write
 * under O_DIRECT: parts of one unit written by several threads, and the length of the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/zero.h"
#include "io/private.h"
#include "tests/unit.h"

#define NEW (PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_TRUNC)

static const char *path_of(const char *name)
{
	static char path[4][4200];
	static int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", plt_unit_dir(), name);
	return path[i];
}

static struct plt_store *open_ok(const char *path, unsigned flags)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;

	ck_assert_msg(!plt_file_open(path, flags, &st, &err), "%s", err.text);
	return st;
}

static void refused(const char *path, unsigned flags, int code, const char *format)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	char want[9000];
	int ret;

	ret = plt_file_open(path, flags, &st, &err);
	snprintf(want, sizeof(want), format, path);
	ck_assert_str_eq(err.text, want);
	ck_assert_int_eq(ret, -code);
	ck_assert_int_eq(err.code, code);
}

static void put(struct plt_store *st, uint64_t off, const void *buf, size_t len)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(!plt_store_write(st, off, buf, len, PLT_IO_DATA, &err), "%s", err.text);
}

static uint64_t size_of(struct plt_store *st)
{
	uint64_t size;

	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	return size;
}

static void expect(struct plt_store *st, uint64_t off, const void *bytes, size_t len)
{
	uint8_t *buf = malloc(len);

	ck_assert_int_eq(plt_store_read(st, off, buf, len, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(buf, bytes, len);
	free(buf);
}

START_TEST(test_open_refuses)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	const char *fifo = path_of("fifo");
	int s = socket(AF_UNIX, SOCK_STREAM, 0), cwd = open(".", O_RDONLY | O_DIRECTORY);

	refused(path_of("none"), 0, ENOENT, "Could not open '%s': No such file or directory");
	refused(path_of("no/file"), NEW, ENOENT,
		"Could not create '%s': No such file or directory");
	refused(plt_unit_dir(), PLT_FILE_WRITE, EISDIR, "Could not open '%s': Is a directory");
	refused(plt_unit_dir(), 0, EINVAL, "'file' driver requires '%s' to be a regular file");
	refused("/dev/null", 0, EINVAL,
		"'file' driver requires '%s' to be a regular file; it is a "
		"character device");
	/* Nobody writes to it: an ordinary open() would wait for ever. */
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	refused(fifo, 0, EINVAL, "'file' driver requires '%s' to be a regular file; it is a FIFO");
	ck_assert_int_eq(chdir(plt_unit_dir()), 0);
	strcpy(sun.sun_path, "sock");
	ck_assert_int_eq(bind(s, (struct sockaddr *)&sun, sizeof(sun)), 0);
	refused("sock", PLT_FILE_WRITE, EINVAL,
		"'file' driver requires '%s' to be a regular file; it is a "
		"socket");
	ck_assert_int_eq(fchdir(cwd), 0);
	close(cwd);
	close(s);
	refused("/proc/version", PLT_FILE_DIRECT, EINVAL,
		"Could not open '%s': filesystem does not support "
		"O_DIRECT");
}
END_TEST

START_TEST(test_open_flags)
{
	const char *path = path_of("file");
	struct plt_store *st = open_ok(path, NEW);
	int fd = plt_store_fd(st);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
	put(st, 0, "abc", 3);
	plt_store_unref(st);
	refused(path, NEW | PLT_FILE_EXCL, EEXIST, "Could not create '%s': File exists");
	/* CREATE alone keeps what is there. */
	st = open_ok(path, PLT_FILE_WRITE | PLT_FILE_CREATE);
	expect(st, 0, "abc", 3);
	plt_store_unref(st);
	st = open_ok(path, 0);
	ck_assert_int_eq(plt_store_write(st, 0, "x", 1, PLT_IO_DATA, NULL), -EROFS);
	plt_store_unref(st);
	st = open_ok(path, NEW);
	ck_assert_uint_eq(size_of(st), 0);
	plt_store_unref(st);
}
END_TEST

/* A file that somebody uses is not emptied. */
START_TEST(test_truncate_respects_locks)
{
	const char *path = path_of("used");
	struct plt_store *st = open_ok(path, NEW), *other;
	struct plt_error err = PLT_ERROR_INIT;

	put(st, 0, "abc", 3);
	ck_assert_int_eq(plt_store_lock(st, PLT_PERM_READ, PLT_PERM_READ, &err), 0);
	ck_assert_int_eq(plt_file_open(path, NEW, &other, &err), -EBUSY);
	ck_assert_ptr_eq(
		strstr(err.text,
		       "Failed to get \"write\" lock\nIs another process using the image ["),
		err.text);
	expect(st, 0, "abc", 3);
	ck_assert_int_eq(plt_store_lock(st, 0, PLT_PERM_ALL, &err), 0);
	other = open_ok(path, NEW);
	ck_assert_uint_eq(size_of(st), 0);
	plt_store_unref(other);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_from_fd)
{
	struct plt_error err = PLT_ERROR_INIT;
	int fd = open(path_of("fd"), O_RDWR | O_CREAT, 0600), ro = open(path_of("fd"), O_RDONLY);
	struct plt_store *st;
	int p[2];

	ck_assert_int_eq(plt_file_from_fd(ro, "ro", PLT_FILE_WRITE, &st, &err), -EACCES);
	ck_assert_ptr_nonnull(strstr(err.text, "'ro'"));
	ck_assert_int_eq(close(ro), 0); /* it has stayed ours */
	ck_assert_int_eq(plt_file_from_fd(fd, "rw", PLT_FILE_WRITE, &st, &err), 0);
	put(st, 5, "abc", 3);
	ck_assert_uint_eq(size_of(st), 8);
	plt_store_unref(st);
	ck_assert_int_eq(close(fd), -1);
	ck_assert_int_eq(pipe(p), 0);
	ck_assert_int_eq(plt_file_from_fd(p[0], "pipe", 0, &st, &err), -EINVAL);
	close(p[0]);
	close(p[1]);
}
END_TEST

/* More pieces than the kernel takes in one call. */
/* Through what only watches or spoils a file can be told which it is, and no bytes go past it. */
START_TEST(test_origin)
{
	struct plt_store *file = open_ok(path_of("origin"), NEW), *fault, *limits, *logged, *window;
	struct plt_writelog *log;

	ck_assert_int_eq(plt_fault_new(file, &fault), 0);
	ck_assert_int_eq(plt_limits_new(fault, &(struct plt_limits_rule){ .align = 512 }, &limits), 0);
	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, limits, &logged), 0);
	ck_assert_int_eq(plt_window_new(file, 512, 512, &window, NULL), 0);
	ck_assert_int_ge(plt_store_origin(file), 0);
	ck_assert_int_eq(plt_store_origin(logged), plt_store_origin(file));
	ck_assert_int_eq(plt_store_fd(logged), -1);
	ck_assert_int_eq(plt_store_fd(fault), -1);
	ck_assert_int_eq(plt_store_origin(window), -1); /* other bytes */
	plt_store_unref(window);
	plt_store_unref(logged);
	plt_writelog_free(log);
	plt_store_unref(limits);
	plt_store_unref(fault);
	plt_store_unref(file);
}
END_TEST

START_TEST(test_many_pieces)
{
	enum { N = 3000 };
	struct plt_store *st = open_ok(path_of("iov"), NEW);
	static uint8_t out[N * 3], in[N * 3];
	static struct iovec iov[N];

	for (int i = 0; i < N * 3; i++)
		out[i] = i * 7;
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ out + 3 * i, 3 };
	ck_assert_int_eq(plt_store_writev(st, 1, iov, N, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(size_of(st), 1 + sizeof(out));
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){ in + 3 * i, 3 };
	ck_assert_int_eq(plt_store_readv(st, 1, iov, N, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(in, out, sizeof(in));
	/* Across the end. */
	memset(in, 0xee, sizeof(in));
	ck_assert_int_eq(plt_store_readv(st, sizeof(out) - 99, iov, N, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(in, out + sizeof(out) - 100, 100);
	ck_assert(plt_is_zero(in + 100, sizeof(in) - 100));
	plt_store_unref(st);
}
END_TEST

START_TEST(test_holes)
{
	struct plt_store *st = open_ok(path_of("holes"), NEW);
	enum { MB = 1 << 20 };
	enum plt_store_kind kind;
	static uint8_t ones[MB];
	uint64_t len;
	int ret;

	memset(ones, 1, MB);
	put(st, 0, ones, MB);
	put(st, 3 * MB, ones, MB);
	ck_assert_int_ge(plt_store_allocated(st), 2 * MB);
	/* It may call all of it data, but must not call data a hole, nor repeat an old answer. */
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(plt_store_extents(st, 4096, 8 * MB, &kind, &len, NULL), 0);
		ck_assert_int_eq(kind, PLT_STORE_DATA);
		ck_assert_uint_ge(len, MB - 4096);
	}
	ret = plt_store_discard(st, 0, MB, NULL);
	if (ret) {
		ck_assert_int_eq(ret, -ENOTSUP);
	} else {
		ck_assert_int_eq(plt_store_extents(st, 4096, 8 * MB, &kind, &len, NULL), 0);
		ck_assert_int_eq(kind, PLT_STORE_HOLE);
		ck_assert_uint_eq(len, 3 * MB - 4096);
		put(st, MB, ones, 4096);
		ck_assert_int_eq(plt_store_extents(st, MB, MB, &kind, &len, NULL), 0);
		ck_assert_int_eq(kind, PLT_STORE_DATA);
		ck_assert_int_lt(plt_store_allocated(st), 2 * MB);
	}
	/* Discarding keeps the length, zeroing may extend it. */
	(void)plt_store_discard(st, 3 * MB, 9 * MB, NULL);
	ck_assert_uint_eq(size_of(st), 4 * MB);
	ck_assert_int_eq(
		plt_store_zero(st, 3 * MB, 9 * MB + 5, PLT_ZERO_MAY_UNMAP, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(size_of(st), 12 * MB + 5);
	ck_assert_int_eq(plt_store_zero(st, 13 * MB, 77, 0, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(size_of(st), 13 * MB + 77);
	ret = plt_store_allocate(st, 12 * MB, 2 * MB, NULL);
	ck_assert(ret == 0 || ret == -ENOTSUP);
	if (!ret)
		ck_assert_uint_eq(size_of(st), 14 * MB);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_copy)
{
	struct plt_store *a = open_ok(path_of("a"), NEW), *b = open_ok(path_of("b"), NEW), *win,
			 *mem;
	static uint8_t text[100000];
	uint64_t len;
	int ret;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i * 13;
	put(a, 0, text, sizeof(text));
	ck_assert_int_eq(plt_window_new(a, 100, UINT64_MAX, &win, NULL), 0);
	ret = plt_store_copy_from(b, 7, win, 11, 5000, &len, NULL);
	ck_assert(ret == 0 || ret == -ENOTSUP);
	if (!ret) {
		ck_assert(len > 0 && len <= 5000);
		expect(b, 7, text + 111, len);
	}
	/* Nothing to copy behind the end, and nothing between different kinds: never a lie. */
	ck_assert_int_eq(plt_store_copy_from(b, 0, a, sizeof(text), 10, &len, NULL), -ENOTSUP);
	ck_assert_int_eq(plt_memory_new(text, 100, 0, &mem), 0);
	ck_assert_int_eq(plt_store_copy_from(b, 0, mem, 0, 10, &len, NULL), -ENOTSUP);
	plt_store_unref(mem);
	plt_store_unref(win);
	plt_store_unref(a);
	plt_store_unref(b);
}
END_TEST

/* ---- O_DIRECT ---- */

struct half {
	struct plt_store *st;
	uint64_t off;
	size_t len;
	uint8_t value;
	int rounds;
	int bad;
};

/* Write one's own part over and over; what was written must still be there. */
static void *write_half(void *arg)
{
	struct half *h = arg;
	uint8_t *out = malloc(h->len), *in = malloc(h->len);

	for (int i = 0; i < h->rounds; i++) {
		memset(out, h->value + i, h->len);
		if (plt_store_write(h->st, h->off, out, h->len, PLT_IO_DATA, NULL) ||
		    plt_store_read(h->st, h->off, in, h->len, PLT_IO_DATA, NULL) ||
		    memcmp(in, out, h->len))
			h->bad++;
	}
	free(out);
	free(in);
	return NULL;
}

static void run_halves(struct plt_store *st, struct half *h, int n)
{
	pthread_t t[8];

	for (int i = 0; i < n; i++) {
		h[i].st = st;
		h[i].value = 16 * i;
		ck_assert_int_eq(pthread_create(&t[i], NULL, write_half, &h[i]), 0);
	}
	for (int i = 0; i < n; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_eq(h[i].bad, 0);
	}
}

/* Parts of the same units, inside the file: nobody's bytes get lost. */
START_TEST(test_direct_halves)
{
	struct plt_store *st = open_ok(path_of("direct"), NEW | PLT_FILE_DIRECT);
	struct half h[] = {
		{ .off = 0, .len = 2000, .rounds = 300 },
		{ .off = 2000, .len = 100, .rounds = 300 },
		{ .off = 2100, .len = 4096, .rounds = 300 },
		{ .off = 8192, .len = 4096, .rounds = 300 },
		{ .off = 12288, .len = 1, .rounds = 300 },
	};

	st->limits.align = 4096;
	ck_assert_int_eq(plt_store_truncate(st, 65536, NULL), 0);
	run_halves(st, h, 5);
	ck_assert_uint_eq(size_of(st), 65536);
	plt_store_unref(st);
}
END_TEST

/*
 * The same at the end of a file that grows: the last partial unit goes through the page cache, and
 * no write makes the file longer than its own end.
 */
START_TEST(test_direct_tail)
{
	struct plt_store *st = open_ok(path_of("tail"), NEW | PLT_FILE_DIRECT);
	struct half h[] = {
		{ .off = 0, .len = 4096, .rounds = 100 },
		{ .off = 4096, .len = 1000, .rounds = 100 },
		{ .off = 5096, .len = 3096 + 77, .rounds = 100 },
		{ .off = 8269, .len = 10, .rounds = 100 },
	};
	uint8_t bytes[16];

	st->limits.align = 4096;
	put(st, 0, "x", 1);
	ck_assert_uint_eq(size_of(st), 1);
	put(st, 100, "y", 1);
	ck_assert_uint_eq(size_of(st), 101);
	ck_assert_int_ne(fcntl(plt_store_fd(st), F_GETFL) & O_DIRECT, 0);
	run_halves(st, h, 4);
	ck_assert_uint_eq(size_of(st), 8279);
	ck_assert_int_eq(plt_store_read(st, 8269, bytes, 16, PLT_IO_DATA, NULL), 0);
	ck_assert_uint_eq(bytes[9], 48 + 99);
	ck_assert(plt_is_zero(bytes + 10, 6));
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	plt_store_unref(st);
	/* It is on the disk as it was shown. */
	st = open_ok(path_of("tail"), 0);
	ck_assert_uint_eq(size_of(st), 8279);
	expect(st, 8269, bytes, 16);
	plt_store_unref(st);
}
END_TEST

START_TEST(test_direct_alignment)
{
	struct plt_store *st = open_ok(path_of("aligned"), NEW | PLT_FILE_DIRECT);
	struct plt_file *f = plt_file_of(st);
	uint32_t a = st->limits.align;
	uint8_t *buf = aligned_alloc(65536, 65536);
	struct iovec iov[2] = { { buf, a }, { buf + a, a } };

	ck_assert_uint_ge(a, 512);
	ck_assert(plt_direct_aligned(f, 0, iov, 2));
	ck_assert(plt_direct_aligned(f, 7 * a, iov, 2));
	ck_assert(!plt_direct_aligned(f, 1, iov, 2));
	iov[1].iov_len = a - 1;
	ck_assert(!plt_direct_aligned(f, 0, iov, 2));
	iov[1] = (struct iovec){ buf + a + 1, a };
	ck_assert(!plt_direct_aligned(f, 0, iov, 2) || f->mem_align == 1);
	/* What is called aligned the kernel takes. */
	memset(buf, 7, 65536);
	ck_assert_int_eq(pwrite(plt_store_fd(st), buf, a, a), a);
	ck_assert_int_eq(pread(plt_store_fd(st), buf + 2 * a, a, a), a);
	free(buf);
	plt_store_unref(st);
}
END_TEST

/* ---- a block device ---- */

static char loop_device[64];

static bool make_loop(void)
{
	char cmd[512];
	FILE *p;

	if (geteuid() || access("/dev/loop-control", R_OK | W_OK))
		return false;
	snprintf(cmd, sizeof(cmd),
		 "f=$(mktemp) && truncate -s 1000448 \"$f\" && "
		 "losetup -f --show \"$f\" 2>/dev/null; rm -f \"$f\"");
	p = popen(cmd, "r");
	if (!p)
		return false;
	if (!fgets(loop_device, sizeof(loop_device), p))
		loop_device[0] = 0;
	loop_device[strcspn(loop_device, "\n")] = 0;
	pclose(p);
	return loop_device[0] != 0;
}

static void drop_loop(void)
{
	char cmd[128];

	if (!loop_device[0])
		return;
	snprintf(cmd, sizeof(cmd), "losetup -d %s", loop_device);
	if (system(cmd))
		printf("# could not detach %s\n", loop_device);
}

static void check_device(unsigned flags)
{
	struct plt_store *st = open_ok(loop_device, PLT_FILE_WRITE | flags);
	static uint8_t ones[20000], zeros[20000];
	int ret;

	memset(ones, 1, sizeof(ones));
	ck_assert_str_eq(st->ops->kind, "host_device");
	ck_assert_uint_eq(size_of(st), 1000448);
	ck_assert(!st->limits.can_grow && !st->limits.new_is_zero && !st->limits.discard_zeroes);
	ck_assert_uint_eq(st->limits.align, flags & PLT_FILE_DIRECT ? 512 : 1);
	put(st, 1000, ones, sizeof(ones));
	expect(st, 1000, ones, sizeof(ones));
	ck_assert_int_eq(plt_store_zero(st, 1001, 10001, PLT_ZERO_MAY_UNMAP, PLT_IO_DATA, NULL), 0);
	expect(st, 1001, zeros, 10001);
	expect(st, 1000, ones, 1);
	expect(st, 11002, ones, 9998);
	ck_assert_int_eq(plt_store_zero(st, 11002, 100, 0, PLT_IO_DATA, NULL), 0);
	expect(st, 11002, zeros, 100);
	expect(st, 11102, ones, 9898);
	ret = plt_store_discard(st, 11103, 4000, NULL);
	ck_assert(ret == 0 || ret == -ENOTSUP);
	expect(st, 11102, ones, 1);
	expect(st, 15103, ones, 100);
	ck_assert_int_eq(plt_store_write(st, 1000448 - 1, "ab", 2, PLT_IO_DATA, NULL), -ENOSPC);
	put(st, 1000448 - 2, "ab", 2);
	expect(st, 1000448 - 2, "ab\0\0", 4);
	ck_assert_int_eq(plt_store_truncate(st, 5, NULL), -ENOTSUP);
	ck_assert_int_eq(plt_store_sync(st, NULL), 0);
	plt_store_unref(st);
}

START_TEST(test_device)
{
	check_device(0);
}
END_TEST

START_TEST(test_device_direct)
{
	check_device(PLT_FILE_DIRECT);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("file");
	TCase *tc = tcase_create("file");

	tcase_add_test(tc, test_open_refuses);
	tcase_add_test(tc, test_open_flags);
	tcase_add_test(tc, test_truncate_respects_locks);
	tcase_add_test(tc, test_from_fd);
	tcase_add_test(tc, test_origin);
	tcase_add_test(tc, test_many_pieces);
	tcase_add_test(tc, test_holes);
	tcase_add_test(tc, test_copy);
	if (plt_unit_has_direct()) {
		tcase_add_test(tc, test_direct_halves);
		tcase_add_test(tc, test_direct_tail);
		tcase_add_test(tc, test_direct_alignment);
	} else {
		puts("# the scratch folder has no O_DIRECT: its tests are left out");
	}
	if (make_loop()) {
		tcase_add_test(tc, test_device);
		tcase_add_test(tc, test_device_direct);
	} else {
		puts("# no loop device can be made: the tests of devices are left out");
	}
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	int ret = plt_unit_main(suite());

	drop_loop();
	return ret;
}
