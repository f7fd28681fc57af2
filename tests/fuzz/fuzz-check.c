/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The examination of any bytes: it ends, says one line for each finding, counts what it says, and
 * writes nothing.
 */
#include "tests/fuzz/fuzz.h"

struct counts {
	uint64_t corruptions, leaks, errors, added;
};

static void found(void *arg, const struct plt_check_finding *f)
{
	struct counts *c = arg;

	FUZZ_MUST(f->id && f->severity && f->text && f->text[0]);
	FUZZ_MUST(!strchr(f->text, '\n'));
	if (!strcmp(f->severity, "note"))
		return;
	if (f->beyond_qemu)
		c->added++;
	else if (!strcmp(f->severity, "leak"))
		c->leaks++;
	else if (!strcmp(f->severity, "corruption"))
		c->corruptions++;
	else
		c->errors++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct plt_check_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	struct counts c = { 0 };
	uint64_t before, after;
	bool fixed = fuzz_seal_vhd(st);
	int r;

	FUZZ_MUST(plt_store_size(st, &before, NULL) == 0);
	st->readonly = true;
	r = plt_check_store(fuzz_ctx(), st, "image", fixed ? "vpc" : NULL, found, &c, &res, &err);
	fuzz_failed(r, &err);
	if (r == 0) {
		/* a finding may stand for many clusters, but none for nothing */
		FUZZ_MUST(res.corruptions >= c.corruptions && !res.corruptions == !c.corruptions);
		FUZZ_MUST(res.leaks >= c.leaks && !res.leaks == !c.leaks);
		FUZZ_MUST(res.added >= c.added);
		FUZZ_MUST(res.format);
	}
	FUZZ_MUST(plt_store_size(st, &after, NULL) == 0 && after == before);
	plt_store_unref(st);
	return 0;
}
