/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Free space of XFS: in each allocation group the tree of free extents by their place (bnobt).  It is believed
 * if the log ends with the record of an unmount, all blocks of the trees verify, the extents ascend, and their sum and the
 * longest of them are what the group's header says.
 *
 * A log is a ring of sectors, each of which begins with the number of its round; where that drops the log ends.  The
 * place is found by halving, as the kernel does.  A log that is torn there has no record of an unmount at its end.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "guestfs/free.h"
#include "guestfs/xfs.h"

#define BB 512u
#define RECORD_MAGIC 0xfeedbabe
#define RECORD_BBS 520u /* of the greatest record with its headers */
#define OP_UNMOUNT 0x20
#define LEVELS_MAX 9

/* finobt rmapbt reflink inobtcnt; ftype sparse_inodes meta_uuid bigtime needsrepair nrext64 exchange parent */
#define RO_KNOWN 0xfu
#define INCOMPAT_KNOWN 0xffu
#define INCOMPAT_NEEDS_REPAIR 0x10u

struct reader {
	struct plt_free *f;
	struct xfs x;
	uint64_t log; /* of the volume */
	uint32_t log_bbs;
	/* the group under way */
	uint32_t ag, ag_blocks;
	uint64_t next; /* the first block that an extent may begin at */
	uint64_t sum, longest, blocks;
};

/* ---- the log ---------------------------------------------------------------------------------- */

static int read_bb(struct reader *r, uint32_t bb, uint8_t *buf, uint32_t n)
{
	return plt_free_read(r->f, r->log + (uint64_t)bb * BB, buf, (size_t)n * BB, "the log");
}

static int cycle_of(struct reader *r, uint32_t bb, uint32_t *ret)
{
	uint8_t buf[BB];
	int e = read_bb(r, bb, buf, 1);

	if (e == 0)
		*ret = plt_get_be32(buf) == RECORD_MAGIC ? plt_get_be32(buf + 4) : plt_get_be32(buf);
	return e;
}

/* Where the next record would be written. */
static int find_head(struct reader *r, uint32_t *ret, uint32_t *ret_cycle)
{
	uint32_t lo = 0, hi = r->log_bbs - 1, first, last;

	if (cycle_of(r, 0, &first) < 0 || cycle_of(r, hi, &last) < 0)
		return -EBUSY;
	if (!first)
		return plt_free_refuse(r->f, "its log is empty");
	if (first == last) { /* the end of the ring is the end of the log */
		*ret = r->log_bbs;
		*ret_cycle = last;
		return 0;
	}
	if (last && last != first - 1)
		return plt_free_refuse(r->f, "its log begins with round %" PRIu32 " and ends with %" PRIu32,
				       first, last);
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2, cycle;

		if (cycle_of(r, mid, &cycle) < 0)
			return -EBUSY;
		if (cycle == first)
			lo = mid;
		else
			hi = mid;
	}
	*ret = hi;
	*ret_cycle = first;
	return 0;
}

static int check_log(struct reader *r)
{
	uint8_t *buf PLT_AUTOFREE = malloc(RECORD_BBS * BB);
	uint32_t head = 0, cycle = 0, n;

	if (!buf)
		return -ENOMEM;
	if (find_head(r, &head, &cycle) < 0)
		return -EBUSY;
	n = PLT_MIN(head, RECORD_BBS);
	if (read_bb(r, head - n, buf, n) < 0)
		return -EBUSY;
	for (uint32_t i = n; i-- > 0;) {
		const uint8_t *p = buf + (size_t)i * BB;
		uint32_t len, heads;

		if (plt_get_be32(p) != RECORD_MAGIC || plt_get_be32(p + 4) != cycle)
			continue;
		len = plt_get_be32(p + 12);
		heads = plt_get_be32(p + 8) & 2 ? PLT_MAX(plt_div_up(plt_get_be32(p + 320), 32768u), 1u) : 1;
		if (heads < n && len && plt_div_up(len, BB) == n - i - PLT_MIN(heads, n - i) &&
		    plt_get_be32(p + 40) == 1 && p[(size_t)heads * BB + 9] & OP_UNMOUNT)
			return 0;
		break;
	}
	return plt_free_refuse(r->f, "its log has to be replayed: it was not unmounted");
}

/* ---- free extents ------------------------------------------------------------------------------ */

static uint64_t ag_off(const struct reader *r, uint64_t agbno)
{
	return ((uint64_t)r->ag * r->x.agblocks + agbno) << r->x.blocklog;
}

static int extent(struct reader *r, uint64_t first, uint64_t n)
{
	/* the first block of a group has its headers */
	if (!n || first < PLT_MAX(r->next, 1u) || !plt_in_range(first, n, r->ag_blocks))
		return plt_free_refuse(r->f,
				       "a free extent of group %" PRIu32 " (%" PRIu64 "+%" PRIu64
				       ") is out of order or outside",
				       r->ag, first, n);
	if (r->x.logstart && r->x.logstart >> r->x.agblklog == r->ag) {
		uint64_t log = r->x.logstart & ((UINT64_C(1) << r->x.agblklog) - 1);

		if (plt_ranges_overlap(first, n, log, r->x.logblocks))
			return plt_free_refuse(r->f, "group %" PRIu32 " calls the log free", r->ag);
	}
	r->next = first + n + 1; /* neighbours would be one extent */
	r->sum += n;
	r->longest = PLT_MAX(r->longest, n);
	return plt_free_add(r->f, ag_off(r, first), n << r->x.blocklog);
}

static int tree(struct reader *r, uint32_t agbno, unsigned level)
{
	uint8_t *buf PLT_AUTOFREE = malloc(r->x.fs.block);
	uint32_t head = r->x.v5 ? 56 : 16, max = (r->x.fs.block - head) / (level ? 12 : 8), n;
	int e = 0;

	if (!buf)
		return -ENOMEM;
	if (!agbno || agbno >= r->ag_blocks || r->blocks++ >= r->ag_blocks)
		return plt_free_refuse(r->f,
				       "the tree of free space of group %" PRIu32 " leads to block %" PRIu32,
				       r->ag, agbno);
	if (plt_free_read(r->f, ag_off(r, agbno), buf, r->x.fs.block, "the tree of free space") < 0)
		return -EBUSY;
	n = plt_get_be16(buf + 6);
	if (plt_get_be32(buf) != (r->x.v5 ? 0x41423342u : 0x41425442u) || plt_get_be16(buf + 4) != level ||
	    n > max || (level && !n) ||
	    (r->x.v5 &&
	     (!plt_xfs_crc_ok(buf, r->x.fs.block, 52) || plt_get_be64(buf + 16) * BB != ag_off(r, agbno) ||
	      memcmp(buf + 32, r->x.uuid, 16) || plt_get_be32(buf + 48) != r->ag)))
		return plt_free_refuse(r->f,
				       "block %" PRIu32 " of the tree of free space of group %" PRIu32
				       " is damaged",
				       agbno, r->ag);
	for (uint32_t i = 0; e == 0 && i < n; i++) {
		const uint8_t *rec = buf + head + 8 * (size_t)i;

		if (level)
			e = tree(r, plt_get_be32(buf + head + 8 * (size_t)max + 4 * (size_t)i), level - 1);
		else
			e = extent(r, plt_get_be32(rec), plt_get_be32(rec + 4));
	}
	return e;
}

static int group(struct reader *r, uint32_t ag)
{
	uint8_t agf[4096];
	uint64_t want;
	uint32_t level;
	int e;

	r->ag = ag;
	want = ag + 1 < r->x.agcount ? r->x.agblocks : r->x.dblocks - (uint64_t)ag * r->x.agblocks;
	if (plt_free_read(r->f, ag_off(r, 0) + r->x.sectsize, agf, r->x.sectsize, "the header of a group") < 0)
		return -EBUSY;
	level = plt_get_be32(agf + 28);
	if (plt_get_be32(agf) != 0x58414746 || plt_get_be32(agf + 4) != 1 || plt_get_be32(agf + 8) != ag ||
	    plt_get_be32(agf + 12) != want || !level || level > LEVELS_MAX ||
	    (r->x.v5 && (!plt_xfs_crc_ok(agf, r->x.sectsize, 216) || memcmp(agf + 64, r->x.uuid, 16))))
		return plt_free_refuse(r->f, "the header of group %" PRIu32 " is damaged", ag);
	r->ag_blocks = (uint32_t)want;
	r->next = r->sum = r->longest = r->blocks = 0;
	e = tree(r, plt_get_be32(agf + 16), level - 1);
	if (e < 0)
		return e;
	if (r->sum != plt_get_be32(agf + 52) || r->longest != plt_get_be32(agf + 56))
		return plt_free_refuse(r->f,
				       "group %" PRIu32 " has %" PRIu64
				       " blocks free, the longest extent %" PRIu64 "; its header says %" PRIu32
				       " and %" PRIu32,
				       ag, r->sum, r->longest, plt_get_be32(agf + 52), plt_get_be32(agf + 56));
	return 0;
}

/* ---- the whole ---------------------------------------------------------------------------------- */

static int check_super(struct reader *r, const uint8_t *sb, size_t len)
{
	const struct xfs *x = &r->x;
	uint64_t in_ag = x->logstart & ((UINT64_C(1) << x->agblklog) - 1), ag = x->logstart >> x->agblklog;
	uint32_t incompat = plt_get_be32(sb + 216), ro = plt_get_be32(sb + 212);

	if (x->sectsize > len || x->sectsize > 4096)
		return plt_free_refuse(r->f, "sectors of %" PRIu32 " bytes are not supported", x->sectsize);
	if (x->v5 && !plt_xfs_crc_ok(sb, x->sectsize, 224))
		return plt_free_refuse(r->f, "the checksum of its superblock is wrong");
	if (x->v5 && (incompat & ~INCOMPAT_KNOWN || ro & ~RO_KNOWN))
		return plt_free_refuse(r->f, "it has features (%#x, %#x) that are not known",
				       incompat & ~INCOMPAT_KNOWN, ro & ~RO_KNOWN);
	if (x->v5 && incompat & INCOMPAT_NEEDS_REPAIR)
		return plt_free_refuse(r->f, "it is marked as in need of repair");
	if (sb[126])
		return plt_free_refuse(r->f, "it has not been made to the end");
	if (x->dblocks > (r->f->vol->size >> x->blocklog))
		return plt_free_refuse(r->f, "it claims %" PRIu64 " blocks and has room for %" PRIu64, x->dblocks,
				       (r->f->vol->size >> x->blocklog));
	if (!x->logstart)
		return plt_free_refuse(r->f, "its log lies on another device");
	if (ag >= x->agcount || !plt_in_range(in_ag, x->logblocks, x->agblocks) || x->logblocks < 2 ||
	    !plt_in_range(ag * x->agblocks + in_ag, x->logblocks, x->dblocks))
		return plt_free_refuse(r->f, "its log (%" PRIu32 " blocks at %#" PRIx64 ") lies outside",
				       x->logblocks, x->logstart);
	r->log = (ag * x->agblocks + in_ag) << x->blocklog;
	if ((uint64_t)x->logblocks << x->blocklog > 2147483648u)
		return plt_free_refuse(r->f, "its log of %" PRIu32 " blocks is too large", x->logblocks);
	r->log_bbs = (uint32_t)(((uint64_t)x->logblocks << x->blocklog) / BB);
	return 0;
}

int plt_free_xfs(struct plt_free *f)
{
	struct reader r = { .f = f };
	uint8_t sb[4096];
	int e;

	if (plt_free_read(f, 0, sb, sizeof(sb), "the superblock") < 0)
		return -EBUSY;
	if (!plt_xfs_parse_super(sb, &r.x))
		return plt_free_refuse(f, "its superblock is damaged");
	e = check_super(&r, sb, sizeof(sb));
	if (e == 0)
		e = check_log(&r);
	for (uint32_t ag = 0; e == 0 && ag < r.x.agcount; ag++)
		e = group(&r, ag);
	return e;
}
