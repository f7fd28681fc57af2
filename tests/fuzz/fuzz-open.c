/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Opening an image in every way, what info says of it, its snapshots, and each of them shown. */
#include "tests/fuzz/fuzz.h"

static void look(struct plt_store *st, unsigned flags, const char *snapshot)
{
	struct plt_disk *disk = fuzz_open(st, flags, snapshot);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_info *info = NULL;
	char *names[8];
	unsigned n = 0;
	int r;

	if (!disk)
		return;
	r = plt_disk_info(disk, &info, &err);
	fuzz_failed(r, &err);
	if (r == 0) {
		FUZZ_MUST(info->filename && info->format);
		FUZZ_MUST(info->virtual_size == plt_disk_size(disk));
		for (unsigned i = 0; i < info->nsnapshots; i++) {
			FUZZ_MUST(info->snapshots[i].id && info->snapshots[i].name);
			if (!snapshot && n < 8)
				FUZZ_MUST(names[n++] = strdup(info->snapshots[i].name));
		}
	}
	plt_info_free(info);
	r = plt_disk_close(disk, &err);
	FUZZ_MUST(r == 0); /* nothing was changed */
	for (unsigned i = 0; i < n; i++) {
		look(st, PLT_OPEN_NO_BACKING, names[i]);
		free(names[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	struct plt_store *st = fuzz_store(data, len, &rest, &rest_len);

	look(st, 0, NULL);
	look(st, PLT_OPEN_NO_BACKING, NULL);
	look(st, PLT_OPEN_INSPECT, NULL);
	look(st, PLT_OPEN_INSPECT | PLT_OPEN_CHECK, NULL);
	plt_store_unref(st);
	return 0;
}
