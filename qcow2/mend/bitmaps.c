/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The directory of dirty bitmaps, which the disk does not need; but QEMU does not open an image whose directory it cannot read.
 * Entries are believed one by one: a table that can be, as long as the granularity and the disk ask for, a name that can be
 * read.  What is left of a damaged directory goes into a new one; one that is nowhere is looked for; if nothing is left the
 * header says that there are no bitmaps that could be used.  In a table an entry that cannot be becomes one of ones: what it
 * stood for counts as written, so that a backup copies more, never less.
 *
 * The invariant: no bitmap that is in doubt is left in use, and nothing that one may lie in is given free.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "qcow2/check.h"

#define MOST 1024            /* entries */
#define LOOK_BYTES (1u << 20) /* of a directory that are looked through */
#define LOOKS 65536u          /* clusters in which one is looked for */

#define SAY(x, ...)                                                                                           \
	plt_emit((x)->ex, &(struct plt_finding){.id = "Q-BMP-DIR", .severity = PLT_CORRUPTION, .count = 1,    \
						.beyond_qemu = true, .mended = true,                          \
						.host_off = (x)->q.bitmap_dir_offset,                         \
						.host_len = (x)->q.bitmap_dir_size}, __VA_ARGS__)

static bool mends(const struct qcow2_exam *x)
{
	return x->ex->mend && x->ex->mend->what & PLT_MEND_MAP;
}

/* ---- tables ------------------------------------------------------------------------------------------------ */

static bool table_entry_fits(const struct qcow2_exam *x, uint64_t e)
{
	uint64_t off = e & QCOW2_BITMAP_TABLE_OFFSET;

	return !(e & ~(QCOW2_BITMAP_TABLE_OFFSET | QCOW2_BITMAP_TABLE_ONES)) && !(off && (e & QCOW2_BITMAP_TABLE_ONES)) &&
	       !(off & (x->q.cluster_size - 1)) && off < x->c.file_size;
}

bool qcow2_mend_bitmap_entry(struct qcow2_exam *x, uint64_t at, uint64_t e)
{
	plt_be64 ones = plt_be64_make(QCOW2_BITMAP_TABLE_ONES);

	if (!mends(x) || table_entry_fits(x, e) || qcow2_exam_overlaps(x, at, 8) ||
	    plt_store_write(x->c.file, at, &ones, sizeof(ones), PLT_IO_BITMAP, NULL) < 0)
		return false;
	x->ex->mend->changed = x->map_changed = true;
	return true;
}

/* Nothing but what a bitmap's table has, in its first sectors; what does not read may be one. */
static bool is_table(const struct qcow2_exam *x, uint64_t off, uint64_t entries)
{
	uint8_t buf[4096];
	uint32_t len = (uint32_t)PLT_MIN(entries * 8, (uint64_t)sizeof(buf)), bad = 0;

	if (!off || off & (x->q.cluster_size - 1) || !plt_in_range(off, entries * 8, plt_align_up(x->c.file_size, x->q.cluster_size)))
		return false;
	if (plt_store_read(x->c.file, off, buf, len, PLT_IO_BITMAP, NULL) < 0)
		return true;
	for (uint32_t i = 0; i < len; i += 8)
		bad += !table_entry_fits(x, plt_get_be64(buf + i));
	return bad * 4 <= len / 8;
}

/* ---- entries ----------------------------------------------------------------------------------------------- */

/* The length of the entry at @p, padded; 0: there is none that can be. */
static uint32_t entry_at(const struct qcow2_exam *x, const uint8_t *p, uint32_t len)
{
	const struct qcow2_state *q = &x->q;
	struct qcow2_bitmap_entry e;
	uint64_t bits, size;
	uint32_t name, extra;

	if (len < sizeof(e))
		return 0;
	memcpy(&e, p, sizeof(e));
	name = plt_be16_get(e.name_size);
	extra = plt_be32_get(e.extra_data_size);
	if (e.type != 1 || !name || name > QCOW2_MAX_BITMAP_NAME || extra > 1024 || plt_be32_get(e.flags) & ~UINT32_C(7) ||
	    e.granularity_bits < QCOW2_MIN_GRANULARITY_BITS || e.granularity_bits > QCOW2_MAX_GRANULARITY_BITS)
		return 0;
	size = plt_align_up((uint64_t)sizeof(e) + extra + name, 8);
	if (sizeof(e) + extra + name > len)
		return 0;
	for (uint32_t i = 0; i < name; i++)
		if (p[sizeof(e) + extra + i] < 0x20 || p[sizeof(e) + extra + i] == 0x7f)
			return 0;
	bits = plt_div_up(q->virtual_size, UINT64_C(1) << e.granularity_bits);
	/* (one of an image that has been resized may have any length, and is in use for ever) */
	if (plt_div_up(plt_div_up(bits, 8), q->cluster_size) != plt_be32_get(e.table_size) ||
	    !is_table(x, plt_be64_get(e.table_offset), plt_be32_get(e.table_size)))
		return 0;
	return (uint32_t)PLT_MIN(size, (uint64_t)len);
}

/* A directory. */
struct dir {
	uint64_t place;
	uint8_t *buf;
	uint32_t len, n;
	bool whole;   /* as it lies there */
};

/* What can be read of one at @off, one entry behind the other.  What a medium does not read may be all right. */
static int gather(const struct qcow2_exam *x, uint64_t off, uint64_t len, struct dir *ret)
{
	PLT_AUTOFREE uint8_t *buf = NULL;
	uint32_t size;
	int r;

	ret->place = off;
	ret->whole = true;
	if (!off || off & (x->q.cluster_size - 1) || off >= x->c.file_size)
		return 0;
	len = PLT_MIN(PLT_MIN(len, (uint64_t)LOOK_BYTES), x->c.file_size - off);
	buf = calloc(1, len + 1);
	r = buf ? plt_store_read(x->c.file, off, buf, len, PLT_IO_BITMAP, NULL) : -ENOMEM;
	if (r < 0)
		return r;
	for (uint32_t at = 0; at < len && ret->n < MOST; at += size) {
		size = entry_at(x, buf + at, (uint32_t)len - at);
		if (!size) {
			size = 8;
			continue;
		}
		ret->whole &= at == ret->len;
		memcpy(ret->buf + ret->len, buf + at, size);
		ret->len += (uint32_t)plt_align_up(size, 8);
		ret->n++;
	}
	return 0;
}

/* ---- the header -------------------------------------------------------------------------------------------- */

static uint64_t extension_at(const struct qcow2_exam *x)
{
	uint8_t buf[4096];
	uint32_t len = PLT_MIN(x->q.cluster_size, (uint32_t)sizeof(buf)), off;

	if (x->q.version < 3 || plt_store_read(x->c.file, 0, buf, len, PLT_IO_HEADER, NULL) < 0)
		return 0;
	off = plt_get_be32(buf + offsetof(struct qcow2_header, header_length));
	while (off < len && off + 32 <= len) {
		uint32_t type = plt_get_be32(buf + off), skip = plt_get_be32(buf + off + 4);

		if (type == QCOW2_EXT_BITMAPS)
			return skip == 24 ? off + 8 : 0;
		if (type == QCOW2_EXT_END || skip > len)
			return 0;
		off += 8 + (uint32_t)plt_align_up(skip, 8);
	}
	return 0;
}

/* They cannot be used, and QEMU does not look at them any more. */
static int forget(struct qcow2_exam *x)
{
	plt_be64 v = plt_be64_make(x->q.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS);

	SAY(x, "Repairing header: nothing is left of the directory of bitmaps; the image has none that could be used. The next "
	    "backup must be a full one");
	return plt_store_write(x->c.file, offsetof(struct qcow2_header, autoclear_features), &v, sizeof(v), PLT_IO_HEADER, NULL);
}

static int put_directory(struct qcow2_exam *x, uint64_t ext, const struct dir *d, bool all)
{
	uint64_t place = d->place;
	uint8_t fields[24] = { 0 };
	int r = d->whole ? 0 : qcow2_fresh_place(x, &place);

	SAY(x, "Repairing header: the directory of bitmaps %s offset %#" PRIx64 ", and has %" PRIu32 " entries%s",
	    d->whole ? "lies at" : "is damaged: what can be read of it is at", place, d->n,
	    all ? "" : ". If there were others, the next backup that goes by those must be a full one");
	plt_put_be32(fields, d->n);
	plt_put_be64(fields + 8, d->len);
	plt_put_be64(fields + 16, place);
	if (r == 0 && !d->whole)
		r = plt_store_write(x->c.file, place, d->buf, plt_align_up(d->len, 512), PLT_IO_BITMAP, NULL);
	return r < 0 ? r : plt_store_write(x->c.file, ext, fields, sizeof(fields), PLT_IO_HEADER, NULL);
}

int qcow2_mend_bitmaps(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t ext = extension_at(x), off = q->bitmap_dir_offset, len = q->bitmap_dir_size;
	PLT_AUTOFREE uint8_t *buf = NULL;
	struct dir d = { 0 };
	uint32_t claimed = q->nb_bitmaps;
	uint8_t fields[24];
	bool all;
	int r;

	if (!mends(x) || !x->bitmaps_bad || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (ext && !off && plt_store_read(x->c.file, ext, fields, sizeof(fields), PLT_IO_HEADER, NULL) == 0) {
		claimed = plt_get_be32(fields);
		len = plt_get_be64(fields + 8); /* (as far as it can be) */
		off = plt_get_be64(fields + 16);
	}
	d.buf = buf = calloc(1, LOOK_BYTES + 4096);
	if (!buf)
		return -ENOMEM;
	r = ext ? gather(x, off, len ? len : q->cluster_size, &d) : 0;
	for (uint32_t i = 0; r == 0 && ext && !d.n && i < x->nstrays && i < LOOKS; i++) {
		uint8_t head[2048];
		uint32_t have = (uint32_t)PLT_MIN((uint64_t)sizeof(head), x->c.file_size - x->strays[i]);

		if (plt_store_read(x->c.file, x->strays[i], head, have, PLT_IO_BITMAP, NULL) == 0 && entry_at(x, head, have))
			r = gather(x, x->strays[i], q->cluster_size, &d);
	}
	if (r < 0) /* (that it does not read others say) */
		return r == -ENOMEM ? r : 0;
	all = d.n && d.whole && (claimed == d.n || len == d.len);
	x->ex->mend->bitmaps_lost |= !all; /* what others lie in keeps its counts */
	if (!d.n && qcow2_unread(x)) /* it may lie there */
		return 0;
	x->ex->mend->changed = x->map_changed = true;
	return d.n ? put_directory(x, ext, &d, all) : forget(x);
}
