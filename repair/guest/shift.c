/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A disk that does not begin where the file does: another program's header stands in front of it.  The distance is
 * right if a partition table stands there whose own words are true from there: a GPT by its checksums, an MBR by a
 * filesystem that begins where it says.  Invariant: of what begins like a disk as it is nothing is said.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "repair/guest/guest.h"

#define SHIFT_MAX (UINT64_C(4) << 20)

struct shifted {
	struct plt_store *st;
	uint64_t by;
};

static int read_shifted(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct shifted *s = arg;

	return plt_store_read(s->st, s->by + off, buf, len, PLT_IO_OTHER, NULL) < 0 ? -ENODATA : 0;
}

/* Does a disk begin so many bytes into the file?  @sector: what stands there, and the one behind. */
static bool begins_at(struct plt_store *st, uint64_t by, uint64_t size, const uint8_t *sector, struct plt_part *parts)
{
	struct shifted s = { st, by };
	const struct plt_guest disk = { .read = read_shifted, .arg = &s, .size = size - by };
	struct plt_super first;
	bool sure = false;
	unsigned n = 0;

	if (sector[510] != 0x55 || sector[511] != 0xaa || plt_parts_read(&disk, parts, &n, &sure) < 0 || !n)
		return false;
	if (sure)
		return plt_get_le64(sector + GUEST_SECTOR + 24) == 1 && !memcmp(sector + GUEST_SECTOR, "EFI PART", 8);
	return parts[0].type != 0xee && plt_super_first(&disk, parts[0].start, &first);
}

uint64_t plt_guest_shift(struct plt_store *st)
{
	struct shifted s = { st, 0 };
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SHIFT_MAX);
	PLT_AUTOFREE struct plt_part *parts = calloc(PLT_PARTS_MAX, sizeof(*parts));
	struct plt_guest disk = { .read = read_shifted, .arg = &s };
	struct plt_super first;
	bool sure;
	unsigned n;
	uint64_t len;

	if (!buf || !parts || plt_store_size(st, &disk.size, NULL) < 0)
		return 0;
	len = PLT_MIN(SHIFT_MAX, disk.size) / GUEST_SECTOR * GUEST_SECTOR;
	if (len < 4 * GUEST_SECTOR || read_shifted(&s, 0, buf, len) < 0 || plt_super_first(&disk, 0, &first) ||
	    (plt_parts_read(&disk, parts, &n, &sure) == 0 && n))
		return 0;
	for (uint64_t at = GUEST_SECTOR; at + 2 * GUEST_SECTOR <= len; at += GUEST_SECTOR)
		if (buf[at + 510] == 0x55 && begins_at(st, at, disk.size, buf + at, parts))
			return at;
	return 0;
}

bool guest_is_shifted(struct guest_exam *x)
{
	uint64_t shift = plt_guest_shift(x->st);

	if (shift)
		guest_found(x, "R-OFF", false, 0, shift, "the disk begins %" PRIu64 " bytes into the file, where its partition "
			    "table stands; --rescue shows it from there, repair --output copies it, and -f raw takes the option offset=%" PRIu64,
			    shift, shift);
	return shift;
}
