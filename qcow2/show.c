/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * An image of nothing but orphans, side by side, laid over the damaged one: L2 tables by an L1 table of their own,
 * clusters by L2 tables of their own.  Whatever compresses or encrypts them is undone by those who read it.  It is
 * thrown away; its tables lie behind the end of the file, and snapshots, which do not matter, are left out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/check.h"

static int put_header(struct plt_store *overlay, uint64_t size, uint64_t l1_offset, uint32_t l1_size, struct plt_error *err)
{
	uint8_t fields[24]; /* size, encryption, L1 */
	plt_be32 none = plt_be32_make(0);
	int r;

	_Static_assert(offsetof(struct qcow2_header, l1_table_offset) == offsetof(struct qcow2_header, size) + 16, "");
	r = plt_store_read(overlay, offsetof(struct qcow2_header, size), fields, sizeof(fields), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	plt_put_be64(fields, size);
	plt_put_be32(fields + 12, l1_size);
	plt_put_be64(fields + 16, l1_offset);
	r = plt_store_write(overlay, offsetof(struct qcow2_header, size), fields, sizeof(fields), PLT_IO_HEADER, err);
	return r < 0 ? r : plt_store_write(overlay, offsetof(struct qcow2_header, nb_snapshots), &none, 4, PLT_IO_HEADER, err);
}

/* Tables that map cluster i to piece i, from *off on; the L1 entries go to @l1. */
static int put_tables(struct plt_store *overlay, const struct qcow2_state *q, const struct plt_orphans *p, uint64_t *off,
		      uint8_t *l1, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *table = plt_alloc_io(q->cluster_size);
	size_t per = (size_t)1 << q->l2_bits;
	int r = table ? 0 : plt_error_set(err, ENOMEM, "Out of memory");

	for (size_t i = 0; i < p->n && r == 0; i += per) {
		memset(table, 0, q->cluster_size);
		for (size_t k = i; k < i + per && k < p->n; k++) {
			if (p->v[k].packed) {
				plt_put_be64(table + (k - i) * q->l2_entry_size, qcow2_packed_entry(q, p->v[k].host_off, p->v[k].packed));
				continue;
			}
			plt_put_be64(table + (k - i) * q->l2_entry_size, p->v[k].host_off | QCOW2_COPIED);
			if (q->extl2)
				plt_put_be64(table + (k - i) * q->l2_entry_size + 8, UINT32_MAX);
		}
		plt_put_be64(l1 + i / per * 8, *off | QCOW2_COPIED);
		r = plt_store_write(overlay, *off, table, q->cluster_size, PLT_IO_L2, err);
		*off += q->cluster_size;
	}
	return r;
}

int qcow2_show_pieces(struct plt_store *overlay, const struct plt_orphans *p, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *l1 = NULL;
	PLT_AUTOFREE char *backing = NULL, *format = NULL;
	struct qcow2_state q = {0};
	uint64_t end, size, n = p->n;
	bool clusters;
	int r = qcow2_header_read(overlay, "", true, &q, &backing, &format, err);

	if (r < 0)
		return r;
	qcow2_state_release(&q);
	clusters = p->span == q.cluster_size;
	if (clusters)
		n = plt_div_up(n, UINT64_C(1) << q.l2_bits);
	l1 = plt_alloc_capped(n, 8, QCOW2_MAX_L1_BYTES);
	if (!l1 || plt_mul(p->n, p->span, &size) || size > INT64_MAX)
		return plt_error_set(err, EFBIG, "%zu pieces of %" PRIu64 " bytes are too many", p->n, p->span);
	r = plt_store_size(overlay, &end, err);
	if (r < 0)
		return r;
	end = plt_align_up(end, q.cluster_size);
	for (size_t i = 0; i < p->n && !clusters; i++)
		plt_put_be64(l1 + i * 8, p->v[i].host_off);
	r = clusters ? put_tables(overlay, &q, p, &end, l1, err) : 0;
	if (r == 0)
		r = plt_store_write(overlay, end, l1, n * 8, PLT_IO_L1, err);
	return r < 0 ? r : put_header(overlay, size, end, (uint32_t)n, err);
}
