/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Images whose data lies in another file, known by their tables alone.  There a cluster lies where the guest has it, so
 * each entry names the guest offset that it stands for: from entry to entry one cluster on, from table to table one
 * span.  An image that holds its data itself cannot have that in all tables: its own structures come first.
 */
#include <stdlib.h>

#include "base/checked.h"
#include "qcow2/mend/find.h"

#define DENSE 8  /* entries of a sector by which a cluster is taken for a table */
#define ENOUGH 16 /* entries of all tables */
#define TABLES 4 /* that agree, where one may do so by chance */
#define WIDE 9   /* log2 of entries of a table: that two of such agree is no chance */

bool qcow2_sight_own(const uint8_t *p, unsigned step, struct qcow2_sight *s)
{
	uint64_t start = 0, cs = 0, bits = 0;
	uint32_t n = 0, first = 0;

	for (uint32_t i = 0; i < 512 / step; i++) {
		uint64_t e = plt_get_be64(p + i * step), off = e & QCOW2_L2_OFFSET, over;

		if (!off && !(e & QCOW2_COPIED) && !(e & ~QCOW2_L2_ZERO))
			continue;
		if ((e & (QCOW2_COMPRESSED | QCOW2_L2_RESERVED)) || !(e & QCOW2_COPIED))
			return false;
		bits |= off;
		if (!n++) {
			start = off;
			first = i;
			continue;
		}
		if (!cs && off > start && (off - start) % (i - first) == 0)
			cs = (off - start) / (i - first);
		if (cs < 1U << QCOW2_MIN_CLUSTER_BITS || cs > 1U << QCOW2_MAX_CLUSTER_BITS || !plt_is_pow2(cs) ||
		    plt_mul(cs, i - first, &over) || off < start || off - start != over)
			return false;
	}
	if (n < 2 || start < first * cs || (start - first * cs) % (512 / step * cs))
		return false;
	s->n = n;
	s->align = bits ? (uint8_t)__builtin_ctzll(bits) : 0;
	s->own = (uint8_t)__builtin_ctzll(cs);
	s->own_pairs = step == 16;
	return true;
}

/* Do the tables say so, nearly all of them, and is it no chance? */
static bool agree(struct qcow2_find *f, uint8_t *buf)
{
	const struct qcow2_state *q = &f->x.q;
	uint64_t last = UINT64_MAX, entries = 0, tables = 0, others = 0;
	bool from_zero = false;

	for (uint32_t i = 0; i < f->n; i++) {
		uint64_t off = f->v[i].off >> q->cluster_bits << q->cluster_bits, base = UINT64_MAX;
		uint32_t n = 0;

		/* (much passes as extended entries) */
		if (off == last || f->v[i].n < DENSE || (f->v[i].pairs && !f->v[i].own))
			continue;
		last = off;
		if (off + q->cluster_size <= f->file_size &&
		    plt_store_read(f->file, off, buf, q->cluster_size, PLT_IO_L2, NULL) == 0)
			base = qcow2_own_place(q, buf, &n);
		if (base == UINT64_MAX) {
			others++;
			continue;
		}
		tables++;
		entries += n;
		/* the header lies there, in an image that holds its data itself */
		from_zero |= !base && plt_get_be64(buf) & QCOW2_COPIED;
	}
	return entries >= ENOUGH && others * 3 <= tables && (from_zero || tables >= (q->l2_bits >= WIDE ? 2 : TABLES));
}

void qcow2_find_external(struct qcow2_find *f, uint8_t *buf)
{
	uint32_t got[2][QCOW2_MAX_CLUSTER_BITS + 1] = {0}, most = 0;
	unsigned bits = 0;
	bool extl2 = false;

	for (uint32_t i = 0; i < f->n; i++)
		if (f->v[i].own && ++got[f->v[i].own_pairs][f->v[i].own] > most) {
			most = got[f->v[i].own_pairs][f->v[i].own];
			bits = f->v[i].own;
			extl2 = f->v[i].own_pairs;
		}
	if (!most || (extl2 && bits < 14))
		return;
	qcow2_find_assume(f, bits, extl2);
	f->external = f->x.c.external = agree(f, buf);
}
