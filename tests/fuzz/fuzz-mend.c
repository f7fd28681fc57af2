/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The mending of any bytes: it ends within the rounds that a repair has, writes nothing but its plan, and what the
 * plan makes of the image is not reported as worse than it says.
 */
#include <errno.h>

#include "formats/finding.h"
#include "tests/fuzz/fuzz.h"

#define ROUNDS 16 /* as repair/plan.c */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len), *overlay;
	struct plt_mend mend = { .what = PLT_MEND_ALL, .changed = true };
	struct plt_check_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	bool fixed = fuzz_seal_vhd(st);
	const char *format = fixed || (len && data[len - 1] & 1) ? "vpc" : NULL;
	uint64_t before, after;
	unsigned i;
	int r = 0;

	FUZZ_MUST(plt_store_size(st, &before, NULL) == 0);
	st->readonly = true;
	FUZZ_MUST(plt_overlay_new(st, true, &overlay) == 0);
	for (i = 0; mend.changed && r == 0; i++) {
		FUZZ_MUST(i < ROUNDS);
		mend.changed = false;
		r = plt_mend_store(fuzz_ctx(), overlay, "image", format, &mend, NULL, NULL, &res, &err);
		fuzz_failed(r, &err);
	}
	for (size_t k = 1; k < mend.doubts.n; k++)
		FUZZ_MUST(mend.doubts.v[k - 1].disk != mend.doubts.v[k].disk ||
			  mend.doubts.v[k - 1].off + mend.doubts.v[k - 1].len <= mend.doubts.v[k].off);
	FUZZ_MUST(plt_store_size(st, &after, NULL) == 0 && after == before);
	free(mend.unplaced.v);
	free(mend.unplaced.gaps);
	plt_doubts_release(&mend.doubts);
	plt_store_unref(overlay);
	plt_store_unref(st);
	return 0;
}
