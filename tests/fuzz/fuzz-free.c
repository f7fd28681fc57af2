/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The free-space maps of any bytes: reading them ends, and no range lies outside the volume that was announced, or is more than was.
 */
#include "guestfs/free.h"
#include "tests/fuzz/fuzz.h"

struct told {
	uint64_t size, start, end, left;
};

static int read_store(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_store_read(arg, off, buf, len, PLT_IO_DATA, NULL);
}

static int on_volume(void *arg, const struct plt_free_volume *v)
{
	struct told *t = arg;

	FUZZ_MUST(t->left == 0);
	FUZZ_MUST(v->name[0] || (v->start <= t->size && v->len <= t->size - v->start));
	FUZZ_MUST(!v->why[0] || !v->free);
	t->start = v->name[0] ? 0 : v->start;
	t->end = v->name[0] ? t->size : v->start + v->len;
	t->left = v->free;
	return 1;
}

static int on_range(void *arg, uint64_t off, uint64_t len)
{
	struct told *t = arg;

	FUZZ_MUST(len && len <= t->left && off >= t->start && len <= t->end - off);
	t->left -= len;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);
	struct told t = { 0 };
	struct plt_guest guest = { .read = read_store, .arg = st };
	struct plt_free_sink sink = { .volume = on_volume, .range = on_range, .arg = &t };

	if (plt_store_size(st, &t.size, NULL) == 0) {
		guest.size = t.size;
		if (plt_free_maps(&guest, &sink) == 0)
			FUZZ_MUST(t.left == 0);
	}
	plt_store_unref(st);
	return 0;
}
