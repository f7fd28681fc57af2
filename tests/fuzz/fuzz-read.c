/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Reading, as a rescue does: what cannot be read is tried again by sectors and passed over.  What is
 * said to be zero must read as zeros, what is said to be damaged must fail, and the same bytes come
 * however the reads are cut.
 */
#include "base/zero.h"
#include "tests/fuzz/fuzz.h"

#define BUF 65536

static uint8_t whole[BUF], part[BUF];

static void read_range(struct plt_disk *disk, uint64_t off, uint64_t len, const struct plt_extent *e)
{
	struct plt_error err = PLT_ERROR_INIT;
	bool ok;
	int r = plt_read(disk, off, whole, len, &err);

	fuzz_failed(r, &err);
	ok = r == 0;
	if (e && e->flags & PLT_EXTENT_ZERO)
		FUZZ_MUST(ok && plt_is_zero(whole, len));
	if (e && e->flags & PLT_EXTENT_DAMAGED)
		FUZZ_MUST(!ok);
	for (uint64_t at = 0; at < len;) {
		uint64_t n = at ? 4096 : 512;

		n = n < len - at ? n : len - at;
		r = plt_read(disk, off + at, part + at, n, &err);
		fuzz_failed(r, &err);
		if (ok)
			FUZZ_MUST(r == 0 && !memcmp(part + at, whole + at, n));
		at += n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct plt_disk *disk = fuzz_open(st, PLT_OPEN_NO_BACKING, NULL);
	uint64_t seed = fuzz_seed(rest, rest_len), off = 0, size, budget = 2 << 20;
	struct plt_extent v[32];
	struct plt_error err = PLT_ERROR_INIT;

	if (!disk) {
		plt_store_unref(st);
		return 0;
	}
	fuzz_backing(disk);
	size = plt_disk_size(disk);
	for (unsigned calls = 0; calls < 8 && off < size; calls++) {
		unsigned n = 0;
		int r = plt_status(disk, off, size - off, 0, v, 32, &n, &err);

		fuzz_failed(r, &err);
		if (r < 0)
			break;
		for (unsigned i = 0; i < n; i++) {
			uint64_t l = v[i].len < BUF ? v[i].len : BUF;

			off = v[i].off + v[i].len;
			if (l <= budget) {
				budget -= l;
				read_range(disk, v[i].off, l, &v[i]);
			}
		}
	}
	for (unsigned i = 0; i < 8 && size; i++) {
		uint64_t at = i ? fuzz_random(&seed) % size : size - (size < 1000 ? size : 1000);
		uint64_t l = 1 + fuzz_random(&seed) % 20000;

		read_range(disk, at, l < size - at ? l : size - at, NULL);
	}
	FUZZ_MUST(plt_read(disk, size, whole, 1, &err) == -EIO);
	FUZZ_MUST(plt_read(disk, UINT64_MAX, whole, 1, &err) < 0);
	FUZZ_MUST(plt_disk_close(disk, NULL) == 0);
	plt_store_unref(st);
	return 0;
}
