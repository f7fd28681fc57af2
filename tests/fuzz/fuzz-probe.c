/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Telling the format of any bytes: some driver is always named, whatever the file's length. */
#include "formats/probe.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct plt_driver *drv = NULL;
	const uint8_t *rest;
	struct plt_store *st;
	struct plt_error err = PLT_ERROR_INIT;
	size_t rest_len;
	int r;

	FUZZ_MUST(plt_probe_buffer(data, len < PLT_PROBE_LEN ? len : PLT_PROBE_LEN, len));
	for (unsigned i = 0; plt_drivers[i]; i++) {
		int score = plt_drivers[i]->probe ? plt_drivers[i]->probe(data, len, UINT64_MAX) : 0;

		FUZZ_MUST(score >= 0 && score <= 100);
	}
	st = fuzz_store(data, len, &rest, &rest_len);
	r = plt_probe(st, &drv, &err); /* refused: a format that is known by sight only */
	fuzz_failed(r, &err);
	FUZZ_MUST(r < 0 || drv);
	plt_store_unref(st);
	return 0;
}
