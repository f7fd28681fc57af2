/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A repair of any bytes, planned to the end, with the search for places in what the guest has written: it ends, in
 * bounded time and memory, the image itself is not written, and the lists of what is lost and inferred are in order
 * and lie on the disk.  What the plan makes of the image can be examined.
 */
#include "repair/repair.h"
#include "tests/fuzz/fuzz.h"

#define TOLD 10000 /* ranges: of an image of a few bytes that describes exabytes there are any number */

static void found(void *arg, const struct plt_check_finding *f)
{
	(void)arg;
	FUZZ_MUST(f->id && f->text && f->text[0] && !strchr(f->text, '\n'));
}

static void look_at_doubts(const struct plt_doubts *d)
{
	for (size_t i = 0; i < d->n; i++) {
		FUZZ_MUST(d->v[i].len && d->v[i].off + d->v[i].len > d->v[i].off && d->v[i].why[0]);
		FUZZ_MUST(d->v[i].off + d->v[i].len <= INT64_MAX);
		FUZZ_MUST(!i || d->v[i].disk > d->v[i - 1].disk || d->v[i].off >= d->v[i - 1].off + d->v[i - 1].len);
	}
}

/* As --rescue and the report tell it, of the disk and of each snapshot. */
static int tell(void *arg, const struct plt_doubt_range *d)
{
	unsigned *n = arg;

	FUZZ_MUST(d->len && d->off + d->len > d->off && d->why && d->why[0] && (d->lost || d->certainty));
	return ++*n < TOLD ? 0 : -ECANCELED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct plt_check_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	bool vhd = fuzz_seal_vhd(st) || (len && data[len - 1] & 1);
	char name[] = "image", qcow2[] = "qcow2", vpc[] = "vpc", *format = vhd ? vpc : qcow2;
	struct plt_repair rep = { .ctx = fuzz_ctx(), .name = name, .format = format, .file = st };
	uint64_t before, after;
	int r;

	FUZZ_MUST(plt_store_size(st, &before, NULL) == 0);
	st->readonly = true;
	FUZZ_MUST(plt_overlay_new(st, true, &rep.overlay) == 0);
	r = plt_repair_mend(&rep, PLT_MEND_ALL, found, NULL, &err);
	fuzz_failed(r, &err);
	if (r == 0) {
		unsigned told = 0;

		look_at_doubts(&rep.doubts);
		rep.size = before;
		r = plt_repair_doubts(&rep, tell, &told, &err);
		FUZZ_MUST(r <= 0);
		err = (struct plt_error)PLT_ERROR_INIT;
		r = plt_check_store(rep.ctx, rep.overlay, name, format, found, NULL, &res, &err);
		fuzz_failed(r, &err);
	}
	FUZZ_MUST(plt_store_size(st, &after, NULL) == 0 && after == before);
	plt_doubts_release(&rep.doubts);
	plt_store_unref(rep.overlay);
	plt_store_unref(st);
	return 0;
}
