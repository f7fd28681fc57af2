/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What every byte of a disk is made of, from the start on: extents must be adjacent, inside the disk
 * and never empty, whatever the tables say.  Bounded: an image of a few bytes may describe exabytes.
 */
#include "tests/fuzz/fuzz.h"

#define CALLS 200

static void walk(struct plt_disk *disk, unsigned flags, uint64_t off, uint64_t end)
{
	struct plt_extent v[16];

	for (unsigned i = 0; i < CALLS && off < end; i++) {
		struct plt_error err = PLT_ERROR_INIT;
		unsigned n = 0;
		int r = plt_status(disk, off, end - off, flags, v, 1 + i % 16, &n, &err);

		fuzz_failed(r, &err);
		if (r < 0) {
			off += 512;
			continue;
		}
		FUZZ_MUST(n >= 1 && n <= 1 + i % 16);
		for (unsigned k = 0; k < n; k++) {
			FUZZ_MUST(v[k].off == off && v[k].len > 0 && v[k].len <= end - off);
			off += v[k].len;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const unsigned flags[] = { 0, PLT_STATUS_TOP_ONLY, PLT_STATUS_NO_HOST };
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct plt_disk *disk = fuzz_open(st, PLT_OPEN_NO_BACKING, NULL);

	if (disk) {
		uint64_t size = plt_disk_size(disk);

		fuzz_backing(disk);
		for (unsigned i = 0; i < 3; i++) {
			walk(disk, flags[i], 0, size);
			walk(disk, flags[i], size / 2, size);
			walk(disk, flags[i], size - (size < 65536 ? size : 65536), size);
		}
		FUZZ_MUST(plt_disk_close(disk, NULL) == 0);
	}
	plt_store_unref(st);
	return 0;
}
