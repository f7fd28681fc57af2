/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Mending of the table.  The set of blocks in the file is known (census.c); what is asked here is which guest
 * block each is.  An entry that is one bit, or all entries by the same distance, away from blocks that nothing
 * names is put right; the only block for the only empty place is put there; the rest is for the guest's own
 * metadata (the caller's evidence, in terms of pieces and gaps).
 *
 * The invariant: an entry changes only if what it says cannot be right, or if it says nothing and the guest's
 * metadata want a block there.  No byte of a block is touched.  What has no block in the file is lost: a dynamic
 * disk then reads zeros there, a differencing one keeps the bad entry, for its parent's bytes are not its own (who only
 * looks is shown them, as a guess).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/check.h"

#define GAPS_MAX (1u << 22)    /* places that evidence is asked about: 8 TiB in blocks of 2 MiB */
#define CLEARED_MAX (1u << 20) /* entries that are written at once: a hole in the table justifies no memory */

static uint64_t guest_len(const struct vhd_exam *x, uint64_t block, uint64_t n)
{
	uint64_t off = block << x->v.block_bits;

	return off >= x->size ? 0 : PLT_MIN(n << x->v.block_bits, x->size - off);
}

int vhd_doubt(struct vhd_exam *x, enum plt_doubt_kind kind, enum plt_certainty certainty, uint64_t off, uint64_t len,
	      const char *why)
{
	struct plt_doubt d = { .kind = kind, .disk = PLT_DISK_ACTIVE, .off = off, .len = len, .certainty = certainty };

	snprintf(d.why, sizeof(d.why), "%s", why);
	return plt_doubts_set(&x->ex->mend->doubts, &d);
}

static int doubt_blocks(struct vhd_exam *x, enum plt_doubt_kind kind, enum plt_certainty certainty, uint64_t block,
			uint64_t n, const char *why)
{
	return vhd_doubt(x, kind, certainty, block << x->v.block_bits, guest_len(x, block, n), why);
}

static int get_entry(struct vhd_exam *x, uint64_t block, uint32_t *ret)
{
	plt_be32 e;
	int r = plt_store_read(x->ex->file, x->v.table_off + block * 4, &e, 4, PLT_IO_L1, NULL);

	*ret = r < 0 ? VHD_UNUSED : plt_be32_get(e);
	return r;
}

/* The block at @start is guest block @block. */
static int put_entry(struct vhd_exam *x, const char *id, uint64_t block, uint64_t start, enum plt_certainty certainty,
		     const char *why)
{
	static const char *const words[] = { "guess", "likely", "strong", "proven" };
	plt_be32 e = plt_be32_make((uint32_t)(start / VHD_SECTOR));
	struct plt_finding f = { .id = id, .severity = PLT_CORRUPTION, .count = 1, .mended = true, .host_off = start,
				 .host_len = vhd_block_len(&x->v), .guest_off = block << x->v.block_bits,
				 .guest_len = guest_len(x, block, 1) };
	int r = plt_store_write(x->ex->file, x->v.table_off + block * 4, &e, 4, PLT_IO_L1, NULL);

	if (r < 0)
		return r;
	x->ex->mend->changed = true;
	plt_emit(x->ex, &f, "Repairing BAT entry %" PRIu64 ": the block at sector %#" PRIx64 " belongs there (%s: %s)", block,
		 start / VHD_SECTOR, words[certainty], why);
	return certainty == PLT_PROVEN ?
		plt_doubts_clear(&x->ex->mend->doubts, PLT_DISK_ACTIVE, f.guest_off, f.guest_len) :
		doubt_blocks(x, PLT_INFERRED, certainty, block, 1, why);
}

/* ---- by structure ---------------------------------------------------------------------------- */

static struct vhd_orphan *orphan_at(struct vhd_exam *x, uint64_t start)
{
	size_t lo = 0, hi = x->norphans;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (x->orphans[mid].start < start)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < x->norphans && x->orphans[lo].start == start ? &x->orphans[lo] : NULL;
}

/* The orphan that shares bytes with [start, start+len) and is believed for itself, the nearest; NULL: none. */
static struct vhd_orphan *orphan_near(struct vhd_exam *x, uint64_t start)
{
	uint64_t len = vhd_block_len(&x->v), best = UINT64_MAX;
	struct vhd_orphan *ret = NULL;
	size_t lo = 0, hi = x->norphans;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (x->orphans[mid].start + len <= start)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < x->norphans && x->orphans[lo].start < start + len; lo++) {
		uint64_t d = x->orphans[lo].start > start ? x->orphans[lo].start - start : start - x->orphans[lo].start;

		if (d < best && x->orphans[lo].fit >= VHD_FIT_BITS) {
			best = d;
			ret = &x->orphans[lo];
		}
	}
	return ret;
}

/*
 * Entries whose block does not look like one, while a block that nothing names lies across: the entry is
 * what is wrong.  All by the same distance: there they belong.
 */
static int snap(struct vhd_exam *x)
{
	int64_t shift = 0;
	size_t n = 0;
	int r = 0;

	for (size_t i = 0; i < x->nunfit; i++) {
		uint64_t start = (uint64_t)x->unfit[i].u.sector * VHD_SECTOR;
		const struct vhd_orphan *o = orphan_near(x, start);

		if (!o)
			continue;
		if (n++ && (int64_t)(o->start - start) != shift)
			return 0;
		shift = (int64_t)(o->start - start);
	}
	for (size_t i = 0; i < x->nunfit && n > 1 && r == 0; i++) {
		uint64_t start = (uint64_t)x->unfit[i].u.sector * VHD_SECTOR + (uint64_t)shift;

		if (orphan_near(x, start - (uint64_t)shift) && orphan_at(x, start))
			r = put_entry(x, "V-BAT-7", x->unfit[i].u.block, start, PLT_STRONG,
				      "all entries point the same distance beside blocks");
	}
	return r;
}

/* Of the entry that the block has: the only orphan whose sector differs from it in one bit. */
static int by_flipped_bit(struct vhd_exam *x, uint64_t block, uint32_t entry, bool *ret_done)
{
	struct vhd_orphan *found = NULL;

	*ret_done = false;
	for (unsigned bit = 0; bit < 32; bit++) {
		struct vhd_orphan *o = orphan_at(x, (uint64_t)(entry ^ UINT32_C(1) << bit) * VHD_SECTOR);

		if (o && found)
			return 0;
		found = o ? o : found;
	}
	if (!found || !found->content)
		return 0;
	*ret_done = true;
	return put_entry(x, "V-BAT-7", block, found->start, PLT_STRONG, "its entry has one wrong bit");
}

/* Does another entry name a place that shares bytes with this one, but not the same? */
static bool lies_across(const struct vhd_exam *x, uint32_t sector)
{
	uint64_t len = vhd_block_len(&x->v) / VHD_SECTOR;
	size_t lo = 0, hi = x->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (x->used[mid].sector + len <= sector)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < x->n && x->used[lo].sector < sector + len; lo++)
		if (x->used[lo].sector != sector)
			return true;
	return false;
}

/* Those of which the entry is off the blocks are as bad as those that point nowhere. */
static int collect_off_grid(struct vhd_exam *x)
{
	size_t k = 0;
	int r = 0;

	for (size_t i = 0; i < x->nunfit; i++) {
		uint64_t start = (uint64_t)x->unfit[i].u.sector * VHD_SECTOR;

		if (r == 0 && (orphan_near(x, start) || lies_across(x, x->unfit[i].u.sector)))
			r = plt_extents_add(&x->bad, x->unfit[i].u.block, 1);
		else
			x->unfit[k++] = x->unfit[i];
	}
	x->nunfit = k;
	return r;
}

static size_t count_content(const struct vhd_exam *x, size_t *ret_first)
{
	size_t n = 0;

	for (size_t i = x->norphans; i--; ) {
		if (!x->orphans[i].content)
			continue;
		*ret_first = i;
		n++;
	}
	return n;
}

static int by_structure(struct vhd_exam *x)
{
	size_t first = 0, n = count_content(x, &first), tried = 0;
	int r = 0;

	for (size_t i = 0; i < x->bad.n && r == 0; i++)
		for (uint64_t b = x->bad.v[i].off; b < x->bad.v[i].off + x->bad.v[i].len && r == 0 && tried < GAPS_MAX; b++) {
			uint32_t entry;
			bool done;

			tried++;
			r = n ? get_entry(x, b, &entry) : 0;
			if (r == 0 && n && entry)
				r = by_flipped_bit(x, b, entry, &done);
		}
	if (r == 0 && !x->ex->mend->changed && n == 1 && plt_extents_total(&x->bad) == 1)
		r = put_entry(x, "V-BAT-4", x->bad.v[0].off, x->orphans[first].start, PLT_STRONG,
			      "the only block in the file that nothing names");
	return r;
}

/* ---- what two entries claim ------------------------------------------------------------------ */

/* Blocks that share bytes with another, by sector: [*ret_i, ret) of x->used; 0: no more. */
static size_t next_shared(const struct vhd_exam *x, size_t *i)
{
	size_t j;

	for (; *i + 1 < x->n; ++*i) {
		uint32_t sector = x->used[*i].sector;

		if (x->used[*i].block >= x->v.blocks || x->used[*i + 1].sector != sector)
			continue;
		for (j = *i + 1; j < x->n && x->used[j].sector == sector && x->used[j].block < x->v.blocks; j++)
			;
		if (j > *i + 1)
			return j;
	}
	return 0;
}

/* A block that evidence has given to one of those that claim it is not the others'. */
static int settle_shared(struct vhd_exam *x, uint64_t start, uint64_t owner)
{
	static const uint8_t unused[4] = { 0xff, 0xff, 0xff, 0xff };
	size_t end;
	int r = 0;

	for (size_t i = 0; (end = next_shared(x, &i)) && r == 0; i = end) {
		if ((uint64_t)x->used[i].sector * VHD_SECTOR != start)
			continue;
		for (size_t k = i; k < end && r == 0; k++) {
			if (x->used[k].block == owner)
				continue;
			r = plt_store_write(x->ex->file, x->v.table_off + x->used[k].block * UINT64_C(4), unused, 4,
					    PLT_IO_L1, NULL);
			if (r == 0)
				r = doubt_blocks(x, PLT_LOST, PLT_PROVEN, x->used[k].block, 1,
						 "its BAT entry named the block of another");
			x->ex->mend->changed = true;
		}
	}
	return r;
}

/* ---- by evidence ----------------------------------------------------------------------------- */

static const char may_be_one[] = "no block is named here, and blocks in the file have no place";
static const char shares[] = "its BAT entry names a block that another names, too";

/*
 * The table has lost blocks, of which some have no place: any entry that is not in use may be one of theirs.  (If it has
 * others, or of a differencing disk, most are not.)
 */
static int doubt_unused(struct vhd_exam *x)
{
	bool guess = x->v.type == VHD_DIFFERENCING || x->n;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(65536);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t b = 0, n; b < x->v.blocks && r == 0 && x->v.blocks <= GAPS_MAX; b += n) {
		n = PLT_MIN(x->v.blocks - b, UINT64_C(16384));
		r = plt_store_read(x->ex->file, x->v.table_off + b * 4, buf, n * 4, PLT_IO_L1, NULL);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint64_t off = (b + i) << x->v.block_bits;
			const struct plt_doubt *d = plt_doubts_find(&x->ex->mend->doubts, PLT_DISK_ACTIVE, off);

			if (plt_get_be32(buf + i * 4) == VHD_UNUSED && !(d && d->off <= off))
				r = doubt_blocks(x, guess ? PLT_INFERRED : PLT_LOST, guess ? PLT_GUESS : PLT_PROVEN, b + i, 1,
						 may_be_one);
		}
	}
	return r;
}

/* Blocks of which two entries name the same place. */
static int collect_shared(struct vhd_exam *x, struct plt_extents *ret)
{
	size_t end;
	int r = 0;

	for (size_t i = 0; r == 0 && (end = next_shared(x, &i)); i = end)
		for (size_t k = i; k < end && r == 0; k++)
			r = plt_extents_add(ret, x->used[k].block, 1);
	return r;
}

static int place_chosen(struct vhd_exam *x)
{
	const struct plt_mend *m = x->ex->mend;
	struct plt_extents shared = PLT_EXTENTS_INIT;
	bool unused = false;
	int r = collect_shared(x, &shared);

	for (size_t i = 0; i < m->nplace && r == 0; i++) {
		uint64_t start = m->place[i].host_off, block = m->place[i].guest_off >> x->v.block_bits;
		const struct vhd_orphan *o = orphan_at(x, start);
		uint32_t entry;

		if (block >= x->v.blocks || get_entry(x, block, &entry) < 0)
			continue;
		if (o && (entry == VHD_UNUSED || plt_extents_overlaps(&x->bad, block, 1) ||
			  plt_extents_overlaps(&shared, block, 1))) {
			r = put_entry(x, entry == VHD_UNUSED ? "V-BAT-2" : plt_extents_overlaps(&shared, block, 1) ? "V-BAT-5" :
				      "V-BAT-3", block, start, m->place[i].certainty, m->place[i].why);
			unused |= entry == VHD_UNUSED;
		} else if (entry == start / VHD_SECTOR) {
			r = settle_shared(x, start, block);
		}
	}
	if (r == 0 && unused)
		r = doubt_unused(x);
	plt_extents_release(&shared);
	return r;
}

struct pieces {
	struct plt_orphans o;
	size_t cap, gaps_cap;
};

static int add_piece(struct pieces *p, uint64_t start)
{
	if (p->o.n == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 64;
		struct plt_orphan *grown = realloc(p->o.v, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		p->o.v = grown;
		p->cap = cap;
	}
	memset(&p->o.v[p->o.n], 0, sizeof(*p->o.v));
	p->o.v[p->o.n].host_off = start;
	p->o.v[p->o.n++].guest_off = PLT_UNPLACED;
	return 0;
}

static int add_gap(struct pieces *p, uint64_t off)
{
	if (p->o.ngaps == p->gaps_cap) {
		size_t cap = p->gaps_cap ? 2 * p->gaps_cap : 64;
		uint64_t *grown = realloc(p->o.gaps, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		p->o.gaps = grown;
		p->gaps_cap = cap;
	}
	p->o.gaps[p->o.ngaps++] = off;
	return 0;
}

/* Empty places, in order: unused entries, bad ones, and those that share a block. */
static int collect_gaps(struct vhd_exam *x, struct pieces *p, const struct plt_extents *shared)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(65536);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t b = 0, n; b < x->v.blocks && r == 0; b += n) {
		n = PLT_MIN(x->v.blocks - b, UINT64_C(16384));
		r = plt_store_read(x->ex->file, x->v.table_off + b * 4, buf, n * 4, PLT_IO_L1, NULL);
		for (uint64_t i = 0; i < n && r == 0; i++)
			if (plt_get_be32(buf + i * 4) == VHD_UNUSED || plt_extents_overlaps(&x->bad, b + i, 1) ||
			    plt_extents_overlaps(shared, b + i, 1))
				r = p->o.ngaps < GAPS_MAX ? add_gap(p, (b + i) << x->v.block_bits) : -E2BIG;
	}
	return r == -E2BIG ? 0 : r;
}

static int name_unplaced(struct vhd_exam *x)
{
	struct plt_extents shared = PLT_EXTENTS_INIT;
	struct pieces p = { .o.span = x->v.block_size };
	struct plt_mend *m = x->ex->mend;
	size_t end;
	int r = 0;

	for (size_t i = 0; i < x->norphans && r == 0; i++)
		if (x->orphans[i].content)
			r = add_piece(&p, x->orphans[i].start);
	if (r == 0 && p.o.n && (!x->n || p.o.v[0].host_off < (uint64_t)x->used[x->n - 1].sector * VHD_SECTOR))
		r = doubt_unused(x); /* (what lies behind all others a stop leaves) */
	else if (r == 0 && !p.o.n)
		plt_doubts_forget(&x->ex->mend->doubts, may_be_one);
	for (size_t i = 0; r == 0 && (end = next_shared(x, &i)); i = end)
		r = add_piece(&p, (uint64_t)x->used[i].sector * VHD_SECTOR);
	if (r == 0)
		r = collect_shared(x, &shared);
	for (size_t i = 0; i < shared.n && r == 0; i++)
		r = doubt_blocks(x, PLT_INFERRED, PLT_GUESS, shared.v[i].off, shared.v[i].len, shares);
	if (r == 0 && p.o.n && x->v.blocks <= UINT64_C(1) << 28)
		r = collect_gaps(x, &p, &shared);
	plt_extents_release(&shared);
	free(m->unplaced.v);
	free(m->unplaced.gaps);
	m->unplaced = p.o;
	return r;
}

/* ---- what is lost ---------------------------------------------------------------------------- */

static int clear_lost(struct vhd_exam *x, uint64_t block, uint64_t n, bool complete)
{
	PLT_AUTOFREE uint8_t *ones = malloc(n * 4);
	struct plt_finding f = { .id = "V-BAT-6", .severity = PLT_CORRUPTION, .count = n, .mended = true,
				 .host_off = x->v.table_off + block * 4, .host_len = n * 4,
				 .guest_off = block << x->v.block_bits, .guest_len = guest_len(x, block, n) };
	int r;

	if (!ones)
		return -ENOMEM;
	memset(ones, 0xff, n * 4);
	r = plt_store_write(x->ex->file, f.host_off, ones, n * 4, PLT_IO_L1, NULL);
	if (r < 0)
		return r;
	x->ex->mend->changed = true;
	plt_emit(x->ex, &f, complete ? "Repairing BAT entries %" PRIu64 " to %" PRIu64 ": every block in the file has its place; "
		 "these had none" : "Repairing BAT entries %" PRIu64 " to %" PRIu64 ": their blocks are not in the file; %s", block,
		 block + n - 1, x->v.type == VHD_DIFFERENCING ? "shown is what the parent has there" :
		 "what they held is lost and reads as zeros");
	return 0;
}

/* Does the entry name a place at which a block would begin if the file were longer? */
static bool names_cut_block(const struct vhd_exam *x, uint32_t entry)
{
	uint64_t start = (uint64_t)entry * VHD_SECTOR, first;

	if (start < x->end || !x->n)
		return false;
	first = (uint64_t)x->used[0].sector * VHD_SECTOR;
	return (start - first) % vhd_block_len(&x->v) == 0 || (start - first) % vhd_stride(&x->v) == 0;
}

/*
 * The file ends as it should, and all that lies in it has its place: then entries that cannot be had no block, unless one
 * names the block that would come next, which somebody has cut off.
 */
static bool is_complete(struct vhd_exam *x)
{
	size_t first;
	bool complete = x->ends.tail.state == VHD_COPY_GOOD && !x->ends.displaced && !x->overlaps && !count_content(x, &first);
	uint64_t looked = 0;

	for (size_t i = 0; i < x->bad.n && complete; i++)
		for (uint64_t b = x->bad.v[i].off; b < x->bad.v[i].off + x->bad.v[i].len && complete; b++) {
			uint32_t entry;

			complete = ++looked < CLEARED_MAX && get_entry(x, b, &entry) == 0 && !names_cut_block(x, entry);
		}
	return complete;
}

static int give_up(struct vhd_exam *x, bool hopeless)
{
	const bool complete = hopeless && is_complete(x);
	/* (which sectors of a block were the child's nobody knows then: its parent's are the better guess than none) */
	const bool below = hopeless && x->v.type == VHD_DIFFERENCING && x->ex->mend->look;
	int r = 0;

	for (size_t i = 0; i < x->bad.n && r == 0; i++) {
		uint64_t block = x->bad.v[i].off, n = x->bad.v[i].len;

		if (block >= x->v.blocks)
			continue;
		n = PLT_MIN(n, x->v.blocks - block);
		if (complete)
			r = doubt_blocks(x, PLT_INFERRED, PLT_STRONG, block, n,
					 "its BAT entry was wrong, and every block in the file has its place");
		else if (below)
			r = doubt_blocks(x, PLT_INFERRED, PLT_GUESS, block, n,
					 "its BAT entry is wrong, and no block is known to be it: shown is what the parent has");
		else
			r = doubt_blocks(x, PLT_LOST, PLT_PROVEN, block, n,
					 "its BAT entry is wrong, and no block is known to be it");
		if (r == 0 && hopeless && (complete || below || x->v.type == VHD_DYNAMIC) && n <= CLEARED_MAX)
			r = clear_lost(x, block, n, complete);
	}
	return r;
}

int vhd_mend_table(struct vhd_exam *x, struct plt_error *err)
{
	struct plt_mend *m = x->ex->mend;
	int r = vhd_find_orphans(x, err);

	if (r < 0)
		return r;
	r = m->deep ? vhd_tell_orphans(x) : 0;
	if (r == 0 && m->nmoves)
		r = vhd_mend_moves(x);
	if (r == 0 && !m->changed)
		r = snap(x);
	if (r == 0 && !m->changed)
		r = collect_off_grid(x);
	if (r == 0 && !m->changed)
		r = by_structure(x);
	if (r == 0 && !m->changed)
		r = place_chosen(x);
	if (r == 0 && !m->changed)
		r = name_unplaced(x);
	if (r == 0 && !m->changed)
		r = give_up(x, m->stage == PLT_MEND_SETTLE || !m->unplaced.n);
	m->more = !m->changed && x->bad.n && m->stage < PLT_MEND_SETTLE;
	return r < 0 ? plt_error_set(err, -r, "mending the block allocation table") : 0;
}

int vhd_tell_unfit(struct vhd_exam *x, struct plt_error *err)
{
	int r = x->nunfit ? vhd_find_orphans(x, err) : 0;

	for (size_t i = 0; i < x->nunfit && r == 0; i++) {
		const struct vhd_used *u = &x->unfit[i].u;
		uint64_t start = (uint64_t)u->sector * VHD_SECTOR;
		const struct vhd_orphan *o = orphan_near(x, start);

		if (o)
			vhd_found(x, "V-BAT-7", PLT_CORRUPTION, start, vhd_block_len(&x->v), "BAT entry %u (sector %#x) points into "
				  "the midst of a block that begins at sector %#" PRIx64 " and that nothing names", u->block,
				  u->sector, o->start / VHD_SECTOR);
		else
			vhd_found(x, "V-BMP-1", PLT_NOTE, start, x->v.bitmap_bytes, "block %u: %u sectors hold something, and "
				  "their bits say that they do not; they are read as what they hold", u->block,
				  x->unfit[i].hidden);
	}
	return r;
}

/* ---- for evidence ---------------------------------------------------------------------------- */

int vhd_show_pieces(struct plt_store *overlay, const struct plt_orphans *p, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *table = NULL;
	struct vhd_header h;
	struct vhd_ends e;
	uint64_t bytes = plt_align_up((uint64_t)p->n * 4, VHD_SECTOR) + VHD_SECTOR, size, at;
	struct vhd_footer f;
	int r = vhd_read_ends(overlay, &e, err);

	if (r == 0)
		r = vhd_read_header(overlay, e.file_size, &e.use->f, &h, err);
	if (r < 0)
		return r;
	table = plt_alloc_capped(bytes, 1, UINT64_C(4) * VHD_MAX_ENTRIES);
	if (!table || plt_mul((uint64_t)p->n, p->span, &size) || size / VHD_SECTOR > VHD_MAX_SECTORS)
		return plt_error_set(err, EFBIG, "%zu blocks are too many", p->n);
	memset(table, 0xff, bytes - VHD_SECTOR); /* (and no batmap behind it) */
	for (size_t i = 0; i < p->n; i++)
		plt_put_be32(table + i * 4, (uint32_t)(p->v[i].host_off / VHD_SECTOR));
	f = e.use->f;
	f.current_size = plt_be64_make(size);
	vhd_set_chs(&f, VHD_CHS_C, VHD_CHS_H, VHD_CHS_S);
	vhd_footer_seal(&f);
	at = plt_align_up(e.file_size, 4096);
	h.table_offset = plt_be64_make(at);
	h.entries = plt_be32_make((uint32_t)p->n);
	vhd_header_seal(&h);
	r = plt_store_write(overlay, at, table, bytes, PLT_IO_L1, err);
	if (r == 0)
		r = plt_store_write(overlay, plt_be64_get(f.data_offset), &h, sizeof(h), PLT_IO_HEADER, err);
	if (r == 0)
		r = plt_store_write(overlay, 0, &f, sizeof(f), PLT_IO_HEADER, err);
	return r < 0 ? r : plt_store_write(overlay, at + bytes, &f, sizeof(f), PLT_IO_HEADER, err);
}
