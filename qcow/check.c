/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is wrong with a qcow image: tables and clusters that do not lie in the file, that lie on each
 * other or on the header, and a backing file's name that cannot be one.  Works on the bare file and
 * never follows an entry that does not fit.  Tables in holes are not read, and a table that many name is
 * walked once, so the work is bounded by what the file holds; memory is 16 bytes for each cluster.
 *
 * Nothing is counted in this format and nothing is ever freed, so space that nothing uses (a compressed
 * cluster that was written again) is worth a note and no leak.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow/qcow.h"

#define SCAN_BYTES (1u << 16)

enum kind { TABLE, CLUSTER, PACKED };

struct piece {
	uint64_t off;
	uint32_t len; /* at most 64 KiB, as clusters and tables are */
	uint32_t kind;
};

struct check {
	struct plt_examine *ex;
	struct plt_image img;  /* what helps to judge an entry; never an open image */
	struct qcow_state s;
	uint64_t file_size;
	struct piece *v;
	size_t n, cap;
	uint64_t last;         /* end of the cluster that the walk met last */
};

static void found(struct check *c, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

static void found(struct check *c, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
{
	struct plt_finding f = { .id = id, .severity = s, .count = 1, .host_off = off, .host_len = len,
				 .beyond_qemu = s == PLT_NOTE };
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	plt_emit(c->ex, &f, "%s", text);
}

static int add(struct check *c, uint64_t off, uint32_t len, enum kind kind, struct plt_error *err)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 1024;
		struct piece *v = realloc(c->v, cap * sizeof(*v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		c->v = v;
		c->cap = cap;
	}
	c->v[c->n++] = (struct piece){ off, len, kind };
	return 0;
}

/* @entries words at @off, those in holes left out, to @fn in the order of the table. */
static int walk(struct check *c, uint64_t off, uint64_t entries, enum plt_io_tag tag,
		int (*fn)(struct check *c, uint64_t index, uint64_t entry, void *arg, struct plt_error *err), void *arg,
		struct plt_error *err)
{
	uint64_t at = 0, bytes = entries * 8, n;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES);
	enum plt_store_kind kind;
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	while (r == 0 && at < bytes && off + at < c->file_size) {
		r = plt_store_extents(c->ex->file, off + at, PLT_MIN(bytes - at, c->file_size - off - at), &kind, &n, err);
		if (r < 0)
			break;
		if (kind != PLT_STORE_DATA && n >= 8) {
			at += plt_align_down(n, 8); /* (an entry that is partly data is read) */
			continue;
		}
		n = PLT_MIN(PLT_MAX(plt_align_down(n, 8), (uint64_t)8), (uint64_t)SCAN_BYTES);
		n = PLT_MIN(n, bytes - at);
		r = plt_store_read(c->ex->file, off + at, buf, n, tag, err);
		for (uint64_t i = 0; i < n && r == 0; i += 8)
			if (plt_get_be64(buf + i))
				r = fn(c, (at + i) / 8, plt_get_be64(buf + i), arg, err);
		at += n;
	}
	return r;
}

/* ---- header ---------------------------------------------------------------------------------- */

static void check_backing(struct check *c, const struct qcow_header *h, const char *name)
{
	uint64_t off = plt_be64_get(h->backing_file_offset), len = plt_be32_get(h->backing_file_size);

	if (!off)
		return;
	if (len > QCOW_MAX_BACKING_NAME || !plt_in_range(off, len, c->file_size))
		found(c, "Q1-BACKING", PLT_CORRUPTION, off, 0, "header: the backing file's name has %" PRIu64 " bytes at %#"
		      PRIx64 ": at most %d, inside the file, were expected", len, off, QCOW_MAX_BACKING_NAME);
	else if (off < sizeof(*h) || plt_ranges_overlap(off, len, c->s.l1_offset, c->s.l1_size * 8))
		found(c, "Q1-BACKING", PLT_CORRUPTION, off, len, "header: the backing file's name (%" PRIu64 " bytes at %#"
		      PRIx64 ") lies on the header or the L1 table", len, off);
	else if (!len || strlen(name) != len)
		found(c, "Q1-BACKING", PLT_CORRUPTION, off, len, "header: the backing file's name is %s",
		      *name ? "cut by a zero byte" : "empty");
}

/* ---- tables ---------------------------------------------------------------------------------- */

static int l2_entry(struct check *c, uint64_t index, uint64_t entry, void *arg, struct plt_error *err)
{
	const struct qcow_state *s = &c->s;
	uint64_t l1_index = *(const uint64_t *)arg, guest = ((l1_index << s->l2_bits) + index) << s->cluster_bits;
	struct plt_check_totals *t = &c->ex->totals;
	bool packed = entry & QCOW_COMPRESSED;
	uint64_t off = entry;
	uint32_t len = s->cluster_size;

	if (guest >= atomic_load(&c->img.size)) {
		found(c, "Q1-BEYOND", PLT_NOTE, 0, 0, "L2 entry %#" PRIx64 " of guest offset %#" PRIx64 ", behind the end of "
		      "the disk", entry, guest);
		return 0;
	}
	if (packed)
		qcow_packed_range(s, entry, &off, &len);
	if (qcow_l2_bad(&c->img, entry)) {
		found(c, "Q1-L2", PLT_CORRUPTION, 0, 0, "L2 entry %#" PRIx64 " of guest offset %#" PRIx64 ": %u bytes at %#"
		      PRIx64 " lie on the header or the L1 table, or out of range", entry, guest, len, off);
		return 0;
	}
	/* the last cluster may have been written in part, a compressed one not */
	if (off >= c->file_size || (packed && !plt_in_range(off, len, c->file_size))) {
		found(c, "Q1-END", PLT_CORRUPTION, off, 0, "L2 entry %#" PRIx64 " of guest offset %#" PRIx64 ": %u bytes at %#"
		      PRIx64 " lie behind the end of the file (%" PRIu64 " bytes)", entry, guest, len, off, c->file_size);
		return 0;
	}
	t->allocated_clusters++;
	t->compressed_clusters += packed;
	t->fragmented_clusters += packed || (c->last && off != c->last);
	c->last = packed ? 0 : off + len;
	return add(c, off, len, packed ? PACKED : CLUSTER, err);
}

struct table {
	uint64_t off, index;
};

struct tables {
	struct table *v;
	size_t n, cap;
};

static int l1_entry(struct check *c, uint64_t index, uint64_t entry, void *arg, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	uint64_t len = UINT64_C(8) << c->s.l2_bits;
	struct tables *t = arg;

	if (qcow_l1_check(&c->img, index, entry, &why) < 0) {
		found(c, "Q1-L1", PLT_CORRUPTION, c->s.l1_offset + index * 8, 8, "%s", why.text);
		return 0;
	}
	if (!plt_in_range(entry, len, plt_align_up(c->file_size, c->s.cluster_size))) {
		found(c, "Q1-L1", PLT_CORRUPTION, c->s.l1_offset + index * 8, 8, "L1 entry %" PRIu64 ": the L2 table (%" PRIu64
		      " bytes at %#" PRIx64 ") lies behind the end of the file (%" PRIu64 " bytes)", index, len, entry,
		      c->file_size);
		return 0;
	}
	if (t->n == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 64;
		struct table *v = realloc(t->v, cap * sizeof(*v));

		if (!v)
			return plt_error_set(err, ENOMEM, "out of memory");
		t->v = v;
		t->cap = cap;
	}
	t->v[t->n++] = (struct table){ entry, index };
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct table *x = a, *y = b;

	return x->off != y->off ? (x->off > y->off) - (x->off < y->off) : (x->index > y->index) - (x->index < y->index);
}

static int by_index(const void *a, const void *b)
{
	const struct table *x = a, *y = b;

	return (x->index > y->index) - (x->index < y->index);
}

static int check_tables(struct check *c, struct plt_error *err)
{
	struct tables t = { 0 };
	size_t kept = 0;
	int r = walk(c, c->s.l1_offset, c->s.l1_size, PLT_IO_L1, l1_entry, &t, err);

	if (r == 0 && t.n)
		qsort(t.v, t.n, sizeof(*t.v), by_place);
	for (size_t i = 0; r == 0 && i < t.n; i++) {
		if (kept && t.v[kept - 1].off == t.v[i].off) {
			found(c, "Q1-SHARED", PLT_CORRUPTION, t.v[i].off, 0, "L1 entries %" PRIu64 " and %" PRIu64
			      " name the same L2 table (%#" PRIx64 ")", t.v[kept - 1].index, t.v[i].index, t.v[i].off);
			continue;
		}
		t.v[kept++] = t.v[i];
		r = add(c, t.v[i].off, UINT32_C(8) << c->s.l2_bits, TABLE, err);
	}
	if (r == 0 && kept)
		qsort(t.v, kept, sizeof(*t.v), by_index);
	for (size_t i = 0; r == 0 && i < kept; i++)
		r = walk(c, t.v[i].off, UINT64_C(1) << c->s.l2_bits, PLT_IO_L2, l2_entry, &t.v[i].index, err);
	free(t.v);
	return r;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	return (x->off > y->off) - (x->off < y->off);
}

static void check_layout(struct check *c)
{
	static const char *const names[] = { "an L2 table", "a cluster", "a compressed cluster" };
	uint64_t end = c->s.tables_end, unused = 0;
	const struct piece *top = NULL; /* what reaches farthest so far */

	if (c->n)
		qsort(c->v, c->n, sizeof(*c->v), by_offset);
	for (size_t i = 0; i < c->n; i++) {
		const struct piece *p = &c->v[i];

		if (top && p->off < end)
			found(c, "Q1-OVERLAP", PLT_CORRUPTION, p->off, PLT_MIN(end, p->off + p->len) - p->off,
			      "%s at %#" PRIx64 " and %s at %#" PRIx64 " share bytes", names[top->kind], top->off,
			      names[p->kind], p->off);
		else if (p->off > end)
			unused += (p->off - end) / c->s.cluster_size;
		if (!top || p->off + p->len > end) {
			end = p->off + p->len;
			top = p;
		}
	}
	if (c->file_size > end)
		unused += (c->file_size - end) / c->s.cluster_size;
	if (unused)
		found(c, "Q1-UNUSED", PLT_NOTE, 0, 0, "room for %" PRIu64 " clusters is used by nothing; convert leaves it "
		      "behind", unused);
	c->ex->totals.image_end_offset = PLT_MAX(end, c->s.tables_end);
}

int qcow_examine(struct plt_examine *ex, struct plt_error *err)
{
	struct check c = { .ex = ex };
	char name[QCOW_MAX_BACKING_NAME + 1] = { 0 };
	struct plt_error why = PLT_ERROR_INIT;
	struct qcow_header h;
	uint64_t off, len;
	int r = plt_store_size(ex->file, &c.file_size, err);

	if (r == 0)
		r = plt_store_read(ex->file, 0, &h, sizeof(h), PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	c.img.name = (char *)(uintptr_t)ex->name;
	c.img.file = ex->file;
	c.img.priv = &c.s;
	if (c.file_size > INT64_MAX - (1 << QCOW_MAX_CLUSTER_BITS))
		return plt_error_set(err, EFBIG, "the file is too large (%" PRIu64 " bytes)", c.file_size);
	r = qcow_parse(&c.img, &h, c.file_size, &why);
	if (r < 0 && (plt_be32_get(h.magic) != QCOW_MAGIC || plt_be32_get(h.version) != 1))
		return plt_error_set(err, -r, "%s", why.text);
	if (r < 0) {
		found(&c, "Q1-HEADER", PLT_CORRUPTION, 0, sizeof(h), "header: %s", why.text);
		return 0;
	}
	ex->totals.have_clusters = true;
	ex->totals.total_clusters = plt_div_up(atomic_load(&c.img.size), c.s.cluster_size);
	off = plt_be64_get(h.backing_file_offset);
	len = plt_be32_get(h.backing_file_size);
	if (len <= QCOW_MAX_BACKING_NAME && plt_in_range(off, len, c.file_size))
		r = plt_store_read(ex->file, off, name, len, PLT_IO_HEADER, err);
	if (r == 0) {
		check_backing(&c, &h, name);
		r = check_tables(&c, err);
	}
	if (r == 0)
		check_layout(&c);
	free(c.v);
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}
