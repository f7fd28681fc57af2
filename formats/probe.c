/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Finding out an image's format: every driver scores the beginning of the file, the highest score
 * wins, the first in the table among equals.  Reads PLT_PROBE_LEN bytes and nothing else.
 */
#include "formats/probe.h"

const struct plt_driver *plt_probe_buffer(const uint8_t *buf, size_t len, uint64_t size)
{
	const struct plt_driver *best = NULL;
	int best_score = 0;

	for (unsigned i = 0; plt_drivers[i]; i++) {
		int score = plt_drivers[i]->probe ? plt_drivers[i]->probe(buf, len, size) : 0;

		if (score > best_score) {
			best = plt_drivers[i];
			best_score = score;
		}
	}
	return best ? best : plt_driver_find("raw");
}

int plt_probe(struct plt_store *st, const struct plt_driver **ret, struct plt_error *err)
{
	uint8_t buf[PLT_PROBE_LEN];
	uint64_t size;
	int r = plt_store_size(st, &size, err);

	if (r < 0)
		return r;
	r = plt_store_read(st, 0, buf, sizeof(buf), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	*ret = plt_probe_buffer(buf, size < sizeof(buf) ? (size_t)size : sizeof(buf), size);
	return 0;
}
