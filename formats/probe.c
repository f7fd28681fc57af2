/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Finding out an image's format: every driver scores the beginning of the file, the highest score
 * wins, the first in the table among equals.  Reads PLT_PROBE_LEN bytes and nothing else.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
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
		{ "vhdx", "vhdxfile", 0, 8 },
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

/* ---- images whose header is gone ------------------------------------------------------------------------- */

/* A partition table of the kind that PCs have: flags that can be, and some partition that is not empty. */
static bool is_mbr(const uint8_t *p)
{
	bool some = false;

	if (p[510] != 0x55 || p[511] != 0xaa)
		return false;
	for (unsigned i = 446; i < 510; i += 16) {
		if (p[i] & 0x7f)
			return false;
		some |= p[i + 4] && plt_get_le32(p + i + 12);
	}
	return some;
}

/* Does the disk begin as one with content of its own does? */
static bool is_whole_disk(struct plt_store *st, uint64_t size)
{
	static const struct {
		const char *mark;
		uint32_t at, n;
	} marks[] = {
		{ "EFI PART", 512, 8 },  { "EFI PART", 4096, 8 },  { "XFSB", 0, 4 },       { "\x53\xef", 1080, 2 },
		{ "NTFS    ", 3, 8 },    { "EXFAT   ", 3, 8 },     { "FAT16   ", 54, 8 },  { "FAT12   ", 54, 8 },
		{ "FAT32   ", 82, 8 },   { "LABELONE", 512, 8 },   { "_BHRfS_M", 65600, 8 }, { "SWAPSPACE2", 4086, 10 },
		{ "LUKS\xba\xbe", 0, 6 }, { "CD001", 32769, 5 },    { "NXSB", 32, 4 },      { "H+", 1024, 2 },
	};
	uint8_t buf[512];

	if (plt_store_read(st, 0, buf, sizeof(buf), PLT_IO_OTHER, NULL) < 0 || is_mbr(buf))
		return true;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(marks); i++)
		if (plt_in_range(marks[i].at, marks[i].n, size) &&
		    plt_store_read(st, marks[i].at, buf, marks[i].n, PLT_IO_OTHER, NULL) == 0 &&
		    !memcmp(buf, marks[i].mark, marks[i].n))
			return true;
	return false;
}

int plt_probe_lost(struct plt_ctx *ctx, struct plt_store *st, bool quick, const struct plt_driver **ret,
		   struct plt_error *err)
{
	uint64_t size;
	int r = plt_store_size(st, &size, err);

	if (r < 0)
		return r;
	if (is_whole_disk(st, size))
		return -ENOENT;
	for (unsigned i = 0; plt_drivers[i]; i++) {
		r = plt_drivers[i]->recognise ? plt_drivers[i]->recognise(ctx, st, quick, err) : 0;
		if (r < 0)
			return r;
		if (r > 0) {
			*ret = plt_drivers[i];
			return 0;
		}
	}
	return -ENOENT;
}
