/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What the guest's own structures say of the table is done: blocks that lie in each other's places, or that no entry
 * names, get the entries that are theirs.  Whoever says so has weighed it.  No byte of a block is touched.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/check.h"

static const char *const words[] = { "guess", "likely", "strong", "proven" };

/* A block that was another's leaves a place of which nothing is known; where a parent would show there, it stays. */
static bool can_be(const struct vhd_exam *x, const struct plt_move *v)
{
	uint64_t block = v->guest_off >> x->v.block_bits;

	return block < x->v.blocks && (v->host_off == PLT_UNPLACED ? x->v.type == VHD_DYNAMIC :
				       v->host_off / VHD_SECTOR < VHD_UNUSED && v->host_off % VHD_SECTOR == 0);
}

int vhd_mend_moves(struct vhd_exam *x)
{
	struct plt_mend *m = x->ex->mend;
	int r = 0;

	for (size_t i = 0; i < m->nmoves && m->move_span == x->v.block_size && r == 0; i++) {
		const struct plt_move *v = &m->moves[i];
		bool none = v->host_off == PLT_UNPLACED;
		plt_be32 e = plt_be32_make(none ? VHD_UNUSED : (uint32_t)(v->host_off / VHD_SECTOR));
		struct plt_finding f = { .id = v->from == PLT_UNPLACED ? "V-BAT-4" : "V-BAT-8", .severity = PLT_CORRUPTION,
					 .count = 1, .mended = true, .host_off = v->host_off, .host_len = vhd_block_len(&x->v),
					 .guest_off = v->guest_off };
		uint64_t block = v->guest_off >> x->v.block_bits;

		if (!can_be(x, v))
			continue;
		f.guest_len = PLT_MIN((uint64_t)x->v.block_size, x->size - PLT_MIN(x->size, v->guest_off));
		r = plt_store_write(x->ex->file, x->v.table_off + block * 4, &e, 4, PLT_IO_L1, NULL);
		m->changed = true;
		if (r == 0 && none)
			r = vhd_doubt(x, PLT_LOST, PLT_GUESS, f.guest_off, f.guest_len, v->why);
		else if (r == 0 && v->certainty == PLT_PROVEN)
			r = plt_doubts_clear(&m->doubts, PLT_DISK_ACTIVE, f.guest_off, f.guest_len);
		else if (r == 0)
			r = vhd_doubt(x, PLT_INFERRED, v->certainty, f.guest_off, f.guest_len, v->why);
		if (!none)
			plt_emit(x->ex, &f, "Repairing BAT entry %" PRIu64 ": it does not name the block at sector %#" PRIx64
				 ", which belongs there (%s: %s)", block, v->host_off / VHD_SECTOR, words[v->certainty], v->why);
	}
	return r;
}

int vhd_tell_orphans(struct vhd_exam *x)
{
	struct plt_orphans *p = &x->ex->mend->pieces;

	free(p->v);
	*p = (struct plt_orphans){ .span = x->v.block_size, .v = calloc(x->norphans + 1, sizeof(*p->v)) };
	for (size_t i = 0; p->v && i < x->norphans; i++)
		if (x->orphans[i].content)
			p->v[p->n++] = (struct plt_orphan){ .host_off = x->orphans[i].start, .guest_off = PLT_UNPLACED };
	return p->v ? 0 : -ENOMEM;
}

int vhd_map_pieces(struct plt_ctx *ctx, struct plt_store *file, struct plt_orphans *ret, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(65536);
	struct vhd_header h;
	struct vhd_ends e;
	uint64_t table, entries;
	size_t cap = 0;
	int r = buf ? vhd_read_ends(file, &e, err) : plt_error_set(err, ENOMEM, "out of memory");

	(void)ctx;
	*ret = (struct plt_orphans){ 0 };
	if (r == 0 && plt_be32_get(e.use->f.type) == VHD_FIXED)
		return 0;
	if (r == 0)
		r = vhd_read_header(file, e.file_size, &e.use->f, &h, err);
	if (r < 0)
		return r;
	table = plt_be64_get(h.table_offset);
	entries = plt_be32_get(h.entries);
	ret->span = plt_be32_get(h.block_size);
	for (uint64_t b = 0, n; b < entries && r == 0; b += n) {
		n = PLT_MIN(entries - b, UINT64_C(16384));
		r = plt_store_read(file, table + b * 4, buf, n * 4, PLT_IO_L1, err);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint32_t sector = plt_get_be32(buf + i * 4);

			/* (a table may be a hole of half a billion entries, none of which can be) */
			if (sector == VHD_UNUSED || (uint64_t)sector * VHD_SECTOR >= e.file_size ||
			    (uint64_t)sector * VHD_SECTOR < VHD_FOOTER + VHD_HEADER)
				continue;
			if (ret->n == cap) {
				void *v = realloc(ret->v, (cap = cap ? 2 * cap : 256) * sizeof(*ret->v));

				if (!v)
					return plt_error_set(err, ENOMEM, "out of memory");
				ret->v = v;
			}
			ret->v[ret->n++] = (struct plt_orphan){ .host_off = (uint64_t)sector * VHD_SECTOR,
								.guest_off = (b + i) * ret->span };
		}
	}
	return r;
}
