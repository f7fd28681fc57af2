/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The name of an external data file, and of a backing file, read and written in a header that nobody has open: for those
 * who look for the file.  Everything else that the header holds stays.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/check.h"

struct last {
	uint64_t index, off;
};

static int note_last(void *arg, uint32_t index, uint64_t e)
{
	if (e & QCOW2_L1_OFFSET)
		*(struct last *)arg = (struct last){index, e & QCOW2_L1_OFFSET};
	return 0;
}

/* Behind the last cluster that is mapped; at least the beginning of the last table that there is. */
static uint64_t mapped_end(struct plt_store *file, struct qcow2_state *q)
{
	struct qcow2_recount c = {.file = file, .q = q};
	PLT_AUTOFREE uint8_t *table = plt_alloc_io(q->cluster_size);
	const unsigned bits = q->cluster_bits + q->l2_bits;
	struct last last = {0};
	uint64_t end;

	if (!table || plt_store_size(file, &c.file_size, NULL) < 0 ||
	    qcow2_l1_each(&c, q->l1_offset, (uint32_t)PLT_MIN((uint64_t)q->l1_size, qcow2_l1_entries(q, q->virtual_size)),
			  note_last, &last) < 0 || !last.off)
		return 0;
	end = last.index << bits;
	if (last.off & (q->cluster_size - 1) || plt_store_read(file, last.off, table, q->cluster_size, PLT_IO_L2, NULL) < 0)
		return end;
	for (uint32_t k = 1U << q->l2_bits; k--;)
		if (plt_get_be64(table + (size_t)k * q->l2_entry_size) & (QCOW2_L2_OFFSET | QCOW2_COPIED))
			return PLT_MIN(end + ((uint64_t)(k + 1) << q->cluster_bits), q->virtual_size);
	return end;
}

int qcow2_data_file(struct plt_store *file, char **ret_name, uint64_t *ret_end, struct plt_error *err)
{
	PLT_AUTOFREE char *backing = NULL, *format = NULL;
	struct qcow2_state q = {0};
	int r = qcow2_header_read(file, "", true, &q, &backing, &format, err);

	*ret_name = NULL;
	if (r < 0)
		return r;
	if (!q.external) {
		r = -ENOENT;
	} else {
		*ret_end = mapped_end(file, &q);
		*ret_name = q.data_file_name && *q.data_file_name ? plt_steal(&q.data_file_name) : NULL;
	}
	qcow2_state_release(&q);
	return r;
}

/* The header, with another name of either file; NULL: as it is. */
static int rename_in(struct plt_store *file, const char *data_file, const char *backing, const char *format, struct plt_error *err)
{
	PLT_AUTOFREE char *old_backing = NULL, *old_format = NULL;
	PLT_AUTOFREE uint8_t *was = NULL, *now = NULL;
	struct qcow2_state q = {0};
	size_t len;
	int r = qcow2_header_read(file, "", true, &q, &old_backing, &old_format, err);

	if (r < 0)
		return r;
	was = plt_alloc_io(q.cluster_size);
	now = plt_alloc_io(q.cluster_size);
	if (data_file) {
		free(q.data_file_name);
		q.data_file_name = strdup(data_file);
	}
	if (!was || !now || (data_file && !q.data_file_name))
		r = plt_error_set(err, ENOMEM, "Out of memory");
	if (r == 0)
		r = plt_store_read(file, 0, was, q.cluster_size, PLT_IO_HEADER, err);
	if (r == 0)
		r = qcow2_header_build(&q, backing ? backing : old_backing, backing ? format : old_format, now, &len, err);
	for (uint32_t at = 0; r == 0 && at < q.cluster_size; at += 512)
		if (memcmp(was + at, now + at, 512))
			r = plt_store_write(file, at, now + at, 512, PLT_IO_HEADER, err);
	qcow2_state_release(&q);
	return r;
}

int qcow2_set_data_file(struct plt_store *file, const char *name, struct plt_error *err)
{
	return rename_in(file, name, NULL, NULL, err);
}

int qcow2_name_backing(struct plt_store *file, const char *name, const char *format, struct plt_error *err)
{
	return rename_in(file, NULL, name, format, err);
}
