/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A scan of any bytes: it ends, and every object lies on the disk, is described, and lies inside of what stands before it.
 */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const struct plt_scan_object *x;
	struct plt_disk *disk;
	struct plt_scan *scan;
	int r;

	st->readonly = true;
	o.flags = PLT_OPEN_NO_BACKING;
	r = plt_disk_open_store(fuzz_ctx(), st, "image", "raw", &o, &disk, &err);
	fuzz_failed(r, &err);
	if (r == 0) {
		r = plt_scan(fuzz_ctx(), disk, NULL, &scan, &err);
		fuzz_failed(r, &err);
		for (unsigned i = 0; r == 0 && (x = plt_scan_object(scan, i)); i++) {
			FUZZ_MUST(x->what && *x->what && x->detail);
			FUZZ_MUST(x->offset <= plt_disk_size(disk));
			FUZZ_MUST(x->inside < (int)i);
			if (x->inside >= 0)
				FUZZ_MUST(plt_scan_object(scan, (unsigned)x->inside)->offset <= x->offset);
		}
		if (r == 0)
			plt_scan_free(scan);
		plt_disk_close(disk, NULL);
	}
	plt_store_unref(st);
	return 0;
}
