/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The beginning of a volume.  Where a partition does not begin like anything that is known, copies of a superblock that
 * name just this place say what it was; the best of them is written back if two agree, or more of the volume
 * confirms it.  What LVM keeps there is lvm.c's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "repair/guest/guest.h"

/* Volumes that are known by name only: there is nothing to repair, and what lies in them are others' remains. */
static const struct foreign {
	uint32_t off;
	uint8_t len;
	const char *bytes;
} foreigns[] = {
	{ 32, 4, "NXSB" }, { 1024, 2, "H+" }, { 1024, 2, "HX" }, { 1024, 4, "\x10\x20\xf5\xf2" },
	{ 65588, 6, "ReIsEr" }, { 32768, 4, "JFS1" }, { 3, 8, "-FVE-FS-" }, { 3, 4, "ReFS" }, { 0, 4, "hsqs" },
	{ 1024, 4, "\xe2\xe1\xf5\xe0" }, { 1030, 2, "\x34\x34" }, { 4120, 4, "\xc6\x85\x73\xf6" },
	{ 4096 + 24, 8, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca" }, { 131072, 8, "\x0c\xb1\xba\0\0\0\0\0" },
};

static bool is_foreign(struct guest_exam *x, uint64_t start)
{
	uint8_t p[8], mbr[GUEST_SECTOR];
	bool table = false;

	/* a disk within the partition */
	if (x->disk.read(x->disk.arg, start, mbr, sizeof(mbr)) == 0 && mbr[510] == 0x55 && mbr[511] == 0xaa) {
		table = true;
		for (unsigned i = 446; i < 510; i += 16)
			table &= !(mbr[i] & 0x7f) && !mbr[i + 4] == !plt_get_le32(mbr + i + 8);
		table &= mbr[450] || mbr[466];
	}
	if (table)
		return true;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(foreigns); i++)
		if (plt_in_range(start + foreigns[i].off, foreigns[i].len, x->disk.size) &&
		    x->disk.read(x->disk.arg, start + foreigns[i].off, p, foreigns[i].len) == 0 &&
		    !memcmp(p, foreigns[i].bytes, foreigns[i].len))
			return true;
	/* ZFS keeps its uberblocks in the second half of the first label, at any of their places */
	for (uint64_t at = 128 << 10; at < 256 << 10; at += 1024)
		if (plt_in_range(start + at, 8, x->disk.size) && x->disk.read(x->disk.arg, start + at, p, 8) == 0 &&
		    plt_get_le64(p) == 0x00bab10c)
			return true;
	return false;
}

/* ---- superblocks ----------------------------------------------------------------------------- */

/* Of the copies that name @start, the best: one that verifies, with the most others. */
static const struct plt_super *best_copy(struct guest_exam *x, const struct plt_super *v, unsigned n, uint64_t start,
					 uint64_t len, unsigned *ret_agree)
{
	const struct plt_super *best = NULL;

	*ret_agree = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned agree = 0;

		if (!v[i].copy || v[i].start != start || v[i].size > len + GUEST_SECTOR)
			continue;
		for (unsigned j = 0; j < n; j++)
			agree += v[j].copy && v[j].start == start && v[j].kind == v[i].kind && v[j].fsid == v[i].fsid;
		if (best && agree <= *ret_agree)
			continue;
		if (agree < 2 && plt_super_verify(&x->disk, &v[i]) <= 0)
			continue;
		best = &v[i];
		*ret_agree = agree;
	}
	return best;
}

static int restore(struct guest_exam *x, const struct plt_super *s, unsigned agree)
{
	PLT_AUTOFREE uint8_t *buf = malloc(PLT_SUPER_AHEAD), *old = malloc(PLT_SUPER_AHEAD);
	char why[96];
	size_t len = 0;
	uint64_t off = 0;
	int r = buf && old ? plt_super_restore(&x->disk, s, buf, &len, &off) : -ENOMEM;
	bool mend = r == 0 && guest_mends(x);

	if (r == -ENOMEM)
		return r;
	if (mend && x->disk.read(x->disk.arg, off, old, len) == 0 && !memcmp(buf, old, len))
		mend = false; /* that is not what is missing */
	snprintf(why, sizeof(why), "the %s superblock comes from its copy at %#" PRIx64, s->name, s->at);
	if (mend)
		r = guest_put(x, off, buf, len, PLT_STRONG, why);
	guest_found(x, "R-SB", mend && r == 0, s->start, GUEST_SECTOR, "the %s filesystem at %#" PRIx64 " has lost its beginning; "
		    "%u of its copies are there, the one at %#" PRIx64 " is right%s", s->name, s->start, agree, s->at,
		    mend || r == 0 ? "" : "; this kind is not written back");
	return r == -ENOTSUP ? 0 : r;
}

/* ---- remains ------------------------------------------------------------------------------ */

#define REMAINS_BYTES (UINT64_C(64) << 20) /* of a volume that are looked through for what only a filesystem writes */
#define REMAINS_MIN 4

struct remains {
	unsigned n[PLT_MARK_FAT_TABLE + 1];
};

static bool count_mark(void *arg, const struct plt_mark *m)
{
	struct remains *k = arg;

	k->n[m->kind]++;
	return true;
}

/* No copy of a beginning; but is there what one would have led to? */
int guest_say_remains(struct guest_exam *x, const struct plt_part *part, bool *ret_said)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(1 << 20);
	struct remains k = { 0 };
	unsigned ext, xfs, ntfs, fat;
	uint64_t end = part->start + PLT_MIN(part->len, REMAINS_BYTES);

	*ret_said = false;
	if (!buf)
		return -ENOMEM;
	for (uint64_t off = part->start, n; off < end; off += n) {
		n = PLT_MIN(end - off, UINT64_C(1) << 20);
		if (x->disk.read(x->disk.arg, off, buf, n) == 0)
			plt_guest_marks(buf, plt_align_down(n, GUEST_SECTOR), off, count_mark, &k);
	}
	ext = k.n[PLT_MARK_EXT_DIR] + k.n[PLT_MARK_EXT_OWNED] + k.n[PLT_MARK_EXT_INODES];
	xfs = k.n[PLT_MARK_XFS_BLOCK] + k.n[PLT_MARK_XFS_INODE] + k.n[PLT_MARK_XFS_AG];
	ntfs = k.n[PLT_MARK_NTFS_MFT] + k.n[PLT_MARK_NTFS_INDX];
	fat = k.n[PLT_MARK_FAT_DIR];
	*ret_said = ext + xfs + ntfs + fat >= REMAINS_MIN;
	if (*ret_said)
		guest_found(x, "R-SB", false, part->start, part->len, "the volume at %#" PRIx64 " has structures of a filesystem "
			    "(%s), but no superblock, and no copy of one is found", part->start,
			    ext >= xfs && ext >= ntfs && ext >= fat ? "ext" : xfs >= ntfs && xfs >= fat ? "xfs" :
			    ntfs >= fat ? "ntfs" : "fat");
	return 0;
}

/* ---- one volume ------------------------------------------------------------------------------ */

int guest_mend_volume(struct guest_exam *x, const struct plt_part *part)
{
	struct plt_super first, *v = NULL;
	const struct plt_super *s;
	unsigned n = 0, agree;
	bool is;
	int r;

	if (plt_super_first(&x->disk, part->start, &first))
		return first.kind == PLT_SUPER_LVM ? guest_mend_lvm(x, part, false, &is) : 0;
	r = guest_mend_lvm(x, part, false, &is);
	if (r < 0 || is || is_foreign(x, part->start))
		return r;
	r = guest_volumes(x, part->start, part->start + part->len, &v, &n);
	if (r == 0) {
		s = best_copy(x, v, n, part->start, part->len, &agree);
		if (s)
			r = restore(x, s, agree);
		else
			r = guest_mend_fat(x, part, &is);
		if (r == 0 && !s && !is)
			r = guest_mend_ext(x, part, &is);
		if (r == 0 && !s && !is)
			r = guest_mend_lvm(x, part, true, &is);
		if (r == 0 && !s && !is)
			r = guest_say_remains(x, part, &is);
	}
	free(v);
	return r;
}
