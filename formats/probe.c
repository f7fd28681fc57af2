/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Finding out an image's format: every driver scores the beginning of the file, the highest score
 * wins, the first in the table among equals.  Reads PLT_PROBE_LEN bytes and nothing else.
 */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
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

const char *plt_probe_foreign(const uint8_t *buf, size_t len)
{
	static const struct {
		const char *name, *mark;
		size_t at, n;
	} marks[] = {
		{ "vmdk", "KDMV", 0, 4 },         { "vmdk", "COWD", 0, 4 },
		{ "vmdk", "# Disk DescriptorFile", 0, 21 },
		{ "vhdx", "vhdxfile", 0, 8 },     { "vpc", "conectix", 0, 8 },
		{ "vdi", "\x7f\x10\xda\xbe", 64, 4 }, { "qed", "QED\0", 0, 4 },
		{ "parallels", "WithoutFreeSpace", 0, 16 }, { "parallels", "WithouFreSpacExt", 0, 16 },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(marks); i++)
		if (len >= marks[i].at + marks[i].n && !memcmp(buf + marks[i].at, marks[i].mark, marks[i].n))
			return marks[i].name;
	return NULL;
}

int plt_probe(struct plt_store *st, const struct plt_driver **ret, struct plt_error *err)
{
	uint8_t buf[PLT_PROBE_LEN];
	const char *foreign;
	uint64_t size, whole;
	int r = plt_store_size(st, &size, err);

	if (r < 0)
		return r;
	whole = size;
	r = plt_store_read(st, 0, buf, sizeof(buf), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	size = PLT_MIN(size, (uint64_t)sizeof(buf));
	*ret = plt_probe_buffer(buf, (size_t)size, whole);
	foreign = (*ret)->flags & PLT_DRIVER_NO_HEADER ? plt_probe_foreign(buf, (size_t)size) : NULL;
	if (foreign)
		return plt_error_set(err, ENOTSUP, "'%s' is a %s image, a format that this release cannot read (as its "
				     "bytes are, it can be read by giving the format raw)", st->name, foreign);
	return 0;
}
