/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Does an image open within the memory that is promised?
 */
#include "tests/fuzz/hostile.h"

#include <sys/resource.h>

#include "platter.h"

static uint64_t data_bytes(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];
	unsigned long long kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmData: %llu kB", &kb) == 1)
			break;
	if (f)
		fclose(f);
	if (!kb)
		die("/proc/self/status");
	return kb << 10;
}

/*
 * Opening takes at most 2 x (L1 + refcount table) + 8 MiB, and never more than 256 MiB.  The limit is
 * set when everything that belongs to the process (context, threads, the first image) exists.  The
 * list of snapshots, of which there are 65536 at most, comes on top.
 */
int opens(const char *path, const char *first)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	struct rlimit lim;
	struct stat sb;
	uint64_t tables, most = UINT64_C(256) << 20;
	uint8_t h[112] = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	if (fd < 0 || fstat(fd, &sb) < 0 || pread(fd, h, sizeof(h), 0) < 0)
		die(path);
	close(fd);
	o.flags = PLT_OPEN_NO_BACKING;
	o.format = "qcow2";
	if (plt_ctx_new(NULL, &ctx, &err) < 0 || plt_disk_open(ctx, first, &o, &disk, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 99;
	}
	plt_disk_close(disk, NULL);
	/* What the header says counts only as far as the file can hold it. */
	tables = (uint64_t)plt_get_be32(h + 36) * 8;
	if (plt_get_be32(h + 20) <= 21)
		tables += (uint64_t)plt_get_be32(h + 56) << plt_get_be32(h + 20);
	if (tables > (uint64_t)sb.st_size)
		tables = (uint64_t)sb.st_size;
	tables = 2 * tables + (8 << 20);
	if (plt_get_be32(h + 60) <= QCOW2_MAX_SNAPSHOTS)
		tables += (uint64_t)plt_get_be32(h + 60) * 320;
	lim.rlim_cur = lim.rlim_max = data_bytes() + (tables < most ? tables : most);
	if (setrlimit(RLIMIT_DATA, &lim) < 0)
		die("setrlimit");
	r = plt_disk_open(ctx, path, &o, &disk, &err);
	if (r == 0)
		plt_disk_close(disk, NULL);
	plt_ctx_free(ctx);
	if (r == -ENOMEM)
		fprintf(stderr, "%s: %s\n", path, err.text);
	return r == -ENOMEM;
}
