/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The snapshot table.  The active disk needs none of it, but what only snapshots reach looks like leaks when it is gone.
 * Its entries are believed one by one: places that can be, an L1 table by shape, text that can be read.  A count or a
 * place in the header that is wrong is put right; a table that is nowhere is made anew, with a name of its own for each
 * L1 table that nothing else names.
 *
 * The invariant: no snapshot of which the L1 table is still there is ever dropped, and only a table of which nothing is
 * left is taken out of the header.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "qcow2/check.h"

#define LONGEST (sizeof(struct qcow2_snapshot_entry) + QCOW2_MAX_SNAPSHOT_EXTRA + 2 * 512) /* with names as people give them */
#define KEPT (1 << 20)  /* bytes of a damaged table that are looked through */
#define MAX_LOOSE 4096 /* entries that are taken from a table whose count is wrong */
#define MAX_LOOKS 65536 /* entries that are looked at for one that nothing names */

/* Is there nothing but what an L1 table has, in the first sectors of @off?  What does not read may be one. */
static bool is_l1(const struct qcow2_exam *x, uint64_t off, uint32_t entries)
{
	uint8_t buf[4096];
	uint32_t len = PLT_MIN(entries, (uint32_t)(sizeof(buf) / 8)) * 8;

	if (!entries || (off & (x->q.cluster_size - 1)) || !off || entries > QCOW2_MAX_L1_BYTES / 8 ||
	    !plt_in_range(off, (uint64_t)entries * 8, plt_align_up(x->c.file_size, x->q.cluster_size)))
		return false;
	if (plt_store_read(x->c.file, off, buf, len, PLT_IO_L1, NULL) < 0)
		return true;
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t e = plt_get_be64(buf + i);

		if ((e & QCOW2_L1_RESERVED) || (e & QCOW2_L1_OFFSET & (x->q.cluster_size - 1)) || (e & QCOW2_L1_OFFSET) >= x->c.file_size)
			return false;
	}
	return true;
}

static bool is_text(const uint8_t *p, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

/* The length of the entry at @off, padded; 0: there is none that can be. */
static uint32_t entry_at(const struct qcow2_exam *x, uint64_t off)
{
	struct qcow2_snapshot_entry e;
	uint8_t buf[LONGEST];
	uint32_t extra, id, name, size;

	if (!plt_in_range(off, sizeof(e), x->c.file_size) ||
	    plt_store_read(x->c.file, off, buf, sizeof(buf), PLT_IO_SNAPSHOT_TABLE, NULL) < 0)
		return 0;
	memcpy(&e, buf, sizeof(e));
	extra = plt_be32_get(e.extra_data_size);
	id = plt_be16_get(e.id_size);
	name = plt_be16_get(e.name_size);
	if (extra > QCOW2_MAX_SNAPSHOT_EXTRA || !id || sizeof(e) + extra + id + name > sizeof(buf))
		return 0;
	size = (uint32_t)plt_align_up(sizeof(e) + extra + id + name, 8);
	if (!plt_in_range(off, size, plt_align_up(x->c.file_size, 8)) || !is_text(buf + sizeof(e) + extra, id + name) ||
	    plt_be32_get(e.date_nsec) >= 1000000000 || !is_l1(x, plt_be64_get(e.l1_table_offset), plt_be32_get(e.l1_size)))
		return 0;
	return size;
}

/* How many entries lie one behind the other from @off on?  As many as @most are looked at. */
static uint32_t entries_from(const struct qcow2_exam *x, uint64_t off, uint32_t most)
{
	uint32_t n = 0, len;

	while (n < most && (len = entry_at(x, off)) != 0) {
		off += len;
		n++;
	}
	return n;
}

static int set_header(struct qcow2_exam *x, uint32_t n, uint64_t off)
{
	uint8_t fields[12];

	_Static_assert(offsetof(struct qcow2_header, snapshots_offset) == offsetof(struct qcow2_header, nb_snapshots) + 4, "");
	plt_put_be32(fields, n);
	plt_put_be64(fields + 4, off);
	x->ex->mend->changed = true;
	return plt_store_write(x->c.file, offsetof(struct qcow2_header, nb_snapshots), fields, sizeof(fields), PLT_IO_HEADER, NULL);
}

#define SAY(x, ...)                                                                                           \
	plt_emit((x)->ex, &(struct plt_finding){.id = "Q-SNAP", .severity = PLT_CORRUPTION, .count = 1,       \
						.beyond_qemu = true, .mended = true,                          \
						.host_off = (x)->q.snapshots_offset,                          \
						.host_len = (x)->q.cluster_size}, __VA_ARGS__)

/*
 * Texts of an entry, @len bytes at @p as its lengths say: nobody writes a zero into one.  If there is one, the texts end
 * there; true, and how long they are.
 */
static bool end_texts(const uint8_t *p, uint32_t have, uint32_t *id, uint32_t *name)
{
	uint32_t len = (uint32_t)strnlen((const char *)p, PLT_MIN(have, *id + *name)), rest = *id + *name - len;

	if (len == PLT_MIN(have, *id + *name) || !is_text(p, len) || len < 2)
		return false;
	if (rest < 8 && plt_is_zero(p + len, rest)) /* (a text with its zero leads to nothing else) */
		return false;
	if (!*id || *id >= len)
		for (*id = 0; *id < len - 1 && p[*id] >= '0' && p[*id] <= '9'; ++*id)
			;
	*name = len - *id;
	return *id;
}

/*
 * Entries whose lengths lead over the zeros behind their texts: all that lies there would be the snapshot table.  The texts
 * themselves say how long they are, and that is written into the entry where it lies.
 */
int qcow2_exam_snapnames(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	const bool mend = x->ex->mend && x->ex->mend->what & PLT_MEND_MAP;
	uint64_t off = q->snapshots_offset;
	int r = 0;

	if (off & (q->cluster_size - 1) || q->nb_snapshots > MAX_LOOSE)
		return 0;
	for (uint32_t i = 0; i < q->nb_snapshots && r == 0; i++) {
		struct qcow2_snapshot_entry e;
		uint8_t buf[LONGEST];
		uint32_t extra, id, name, was_id, was_name, have;

		if (!plt_in_range(off, sizeof(e), x->c.file_size))
			break;
		have = (uint32_t)PLT_MIN((uint64_t)sizeof(buf), x->c.file_size - off);
		if (plt_store_read(x->c.file, off, buf, have, PLT_IO_SNAPSHOT_TABLE, NULL) < 0)
			break;
		memcpy(&e, buf, sizeof(e));
		extra = plt_be32_get(e.extra_data_size);
		id = was_id = plt_be16_get(e.id_size);
		name = was_name = plt_be16_get(e.name_size);
		if (extra > QCOW2_MAX_SNAPSHOT_EXTRA || sizeof(e) + extra >= have)
			break;
		if (is_l1(x, plt_be64_get(e.l1_table_offset), plt_be32_get(e.l1_size)) &&
		    end_texts(buf + sizeof(e) + extra, have - (uint32_t)sizeof(e) - extra, &id, &name)) {
			plt_emit(x->ex, &(struct plt_finding){.id = "Q-SNAP", .severity = PLT_CORRUPTION, .count = 1,
							      .beyond_qemu = true, .mended = mend, .host_off = off,
							      .host_len = sizeof(e)},
				 "%s snapshot table entry %" PRIu32 ": its texts have %" PRIu32 " and %" PRIu32 " bytes, not %" PRIu32
				 " and %" PRIu32, mend ? "Repairing" : "ERROR", i, id, name, was_id, was_name);
			plt_put_be16(buf, (uint16_t)id);
			plt_put_be16(buf + 2, (uint16_t)name);
			if (mend)
				r = plt_store_write(x->c.file, off + offsetof(struct qcow2_snapshot_entry, id_size), buf, 4,
						    PLT_IO_SNAPSHOT_TABLE, NULL);
			if (mend)
				x->ex->mend->changed = true;
		}
		off = plt_align_up(off + sizeof(e) + extra + id + name, 8);
	}
	return r;
}

/* Is the count one more than there is in the place?  A table of no snapshots has no place. */
int qcow2_mend_snapcount(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint32_t n, claimed = q->nb_snapshots;

	if (!(x->ex->mend->what & PLT_MEND_MAP) || !q->snapshots_offset || (q->snapshots_offset & (q->cluster_size - 1)) ||
	    q->snapshots_offset >= x->c.file_size)
		return 0;
	/* (a table that is sound has as many as it says, whatever stale bytes lie behind) */
	if (claimed && claimed <= MAX_LOOSE) {
		uint64_t off = q->snapshots_offset;
		uint32_t len = 0;

		for (n = 0; n < claimed && (len = entry_at(x, off)) != 0; n++)
			off += len;
		if (n == claimed)
			return 0;
	}
	n = entries_from(x, q->snapshots_offset, MAX_LOOSE);
	if (!n || n == claimed || qcow2_unread(x) || (claimed && claimed <= QCOW2_MAX_SNAPSHOTS && n + 1 >= claimed))
		return 0; /* (one that is damaged is no reason to forget it) */
	SAY(x, "Repairing header: the snapshot table at offset %#" PRIx64 " has %" PRIu32 " entries, not %" PRIu32, q->snapshots_offset,
	    n, claimed);
	x->q.nb_snapshots = n; /* which are about to be read */
	return set_header(x, n, q->snapshots_offset);
}

bool qcow2_snaptable_is_none(const struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;

	for (uint32_t i = 0; i < q->nb_snapshots; i++) {
		const struct plt_snapshot_info *s = &q->snapshots[i].info;

		if (*s->id && s->date_nsec < 1000000000 && is_text((const uint8_t *)s->id, (uint32_t)strlen(s->id)) &&
		    is_text((const uint8_t *)s->name, (uint32_t)strlen(s->name)))
			return false;
	}
	return q->nb_snapshots > 0;
}

/* ---- a table that is gone --------------------------------------------------------------------------------- */

/* It may lie where nothing names it. */
static int find_table(struct qcow2_exam *x, bool *ret)
{
	uint32_t best = 0, left = MAX_LOOKS; /* (all of the file may be one table, in which each stray begins another) */
	uint64_t at = 0;

	for (uint32_t i = 0; i < x->nstrays && left; i++) {
		uint32_t n = entries_from(x, x->strays[i], PLT_MIN(left, (uint32_t)MAX_LOOSE));

		left -= n;
		if (n <= best)
			continue;
		best = n;
		at = x->strays[i];
	}
	*ret = best;
	if (!best)
		return 0;
	SAY(x, "Repairing header: the snapshot table, with %" PRIu32 " entries, lies at offset %#" PRIx64, best, at);
	x->map_changed = true;
	return set_header(x, best, at);
}

/* A table that is being made. */
struct table {
	uint8_t *buf;
	uint64_t len, cap;
	uint32_t n, kept;     /* entries; of them, those that still were there */
	uint64_t *l1s;        /* that they name */
	unsigned long last;   /* greatest id */
};

/* One entry; texts as they are. */
static int add(struct table *t, const struct qcow2_snapshot_entry *e, const uint8_t *extra, const uint8_t *id, const uint8_t *name)
{
	uint32_t n[] = {sizeof(*e), plt_be32_get(e->extra_data_size), plt_be16_get(e->id_size), plt_be16_get(e->name_size)};
	const void *from[] = {e, extra, id, name};
	uint64_t len = plt_align_up((uint64_t)n[0] + n[1] + n[2] + n[3], 8), at = t->len;
	char text[17] = "";

	if (t->len + len > t->cap || t->n == MAX_LOOSE)
		return -EFBIG;
	for (unsigned i = 0; i < 4; i++) {
		memcpy(t->buf + at, from[i], n[i]);
		at += n[i];
	}
	memcpy(text, id, PLT_MIN(n[2], 16u));
	t->last = PLT_MAX(t->last, PLT_MIN(strtoul(text, NULL, 10), 1000000000ul));
	t->l1s[t->n++] = plt_be64_get(e->l1_table_offset);
	t->len += len;
	return 0;
}

/* The entry at @off of which only lengths are damaged: its L1 table can be, and its texts end in zeros. */
static bool salvage(const struct qcow2_exam *x, uint64_t off, struct table *t)
{
	struct qcow2_snapshot_entry e;
	uint8_t buf[LONGEST];
	uint32_t extra, id, end;

	if (plt_store_read(x->c.file, off, buf, sizeof(buf), PLT_IO_SNAPSHOT_TABLE, NULL) < 0)
		return false;
	memcpy(&e, buf, sizeof(e));
	if (!is_l1(x, plt_be64_get(e.l1_table_offset), plt_be32_get(e.l1_size)))
		return false;
	extra = plt_be32_get(e.extra_data_size);
	if (extra % 8 || extra > 64)
		extra = sizeof(struct qcow2_snapshot_extra);
	id = plt_be16_get(e.id_size);
	if (!id || id > 10)
		for (id = 0; id < 10 && buf[sizeof(e) + extra + id] >= '0' && buf[sizeof(e) + extra + id] <= '9'; id++)
			;
	for (end = (uint32_t)sizeof(e) + extra; end < sizeof(buf) && buf[end] >= 0x20 && buf[end] != 0x7f; end++)
		;
	if (!id || end <= sizeof(e) + extra + id)
		return false;
	e.extra_data_size = plt_be32_make(extra);
	e.id_size = plt_be16_make((uint16_t)id);
	e.name_size = plt_be16_make((uint16_t)(end - sizeof(e) - extra - id));
	return add(t, &e, buf + sizeof(e), buf + sizeof(e) + extra, buf + sizeof(e) + extra + id) == 0;
}

/* What can still be read of the table where the header says that it is. */
static void keep_entries(const struct qcow2_exam *x, struct table *t)
{
	uint64_t off = x->q.snapshots_offset, end = off + KEPT;
	uint32_t len;

	if (off < x->q.cluster_size || (off & (x->q.cluster_size - 1)) || off >= x->c.file_size)
		return;
	for (end = PLT_MIN(end, x->c.file_size); off + sizeof(struct qcow2_snapshot_entry) <= end; off += len) {
		struct qcow2_snapshot_entry e;
		uint8_t buf[LONGEST];

		len = entry_at(x, off);
		if (len && plt_store_read(x->c.file, off, buf, sizeof(buf), PLT_IO_SNAPSHOT_TABLE, NULL) == 0) {
			uint32_t extra, id;

			memcpy(&e, buf, sizeof(e));
			extra = plt_be32_get(e.extra_data_size);
			id = plt_be16_get(e.id_size);
			(void)add(t, &e, buf + sizeof(e), buf + sizeof(e) + extra, buf + sizeof(e) + extra + id);
		} else {
			(void)salvage(x, off, t);
			len = 8;
		}
	}
	t->kept = t->n;
}

static bool is_named(const struct table *t, uint64_t l1)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->l1s[i] == l1)
			return true;
	return false;
}

/* An entry for the L1 table at @off. */
static int recover_entry(const struct qcow2_exam *x, struct table *t, uint64_t off)
{
	struct qcow2_snapshot_entry e = {0};
	struct qcow2_snapshot_extra extra = {.disk_size = plt_be64_make(x->q.virtual_size), .icount = plt_be64_make(UINT64_MAX)};
	char id[24], name[48];

	snprintf(id, sizeof(id), "%lu", t->last + 1);
	snprintf(name, sizeof(name), "snap-recovered-%lu", t->last + 1);
	e.l1_table_offset = plt_be64_make(off);
	e.l1_size = plt_be32_make((uint32_t)qcow2_l1_entries(&x->q, x->q.virtual_size));
	e.id_size = plt_be16_make((uint16_t)strlen(id));
	e.name_size = plt_be16_make((uint16_t)strlen(name));
	e.extra_data_size = plt_be32_make(sizeof(extra));
	return add(t, &e, (const uint8_t *)&extra, (const uint8_t *)id, (const uint8_t *)name);
}

/* What is named by orphans of the shape of an L1 table, and by them alone, was a snapshot. */
static int recover_entries(struct qcow2_exam *x, struct table *t)
{
	const struct qcow2_state *q = &x->q;
	uint64_t len = qcow2_l1_entries(q, q->virtual_size) * 8, end = 0;
	int r = 0;

	for (uint32_t i = 0; i < x->nl1s && r == 0; i++) {
		uint64_t off = x->l1s[i];

		if (off < end || is_named(t, off) || !is_l1(x, off, (uint32_t)(len / 8)))
			continue; /* (a further cluster of the same table) */
		end = off + len;
		r = qcow2_doubt(x, &(struct qcow2_tree){.disk = t->n, .size = q->virtual_size}, PLT_INFERRED, 0, q->virtual_size,
				PLT_LIKELY, "a snapshot whose entry in the table is gone, by its L1 table");
		if (r == 0)
			r = recover_entry(x, t, off);
	}
	return r;
}

static int make_table(struct qcow2_exam *x, bool *ret)
{
	struct table t = {.cap = (uint64_t)KEPT + (x->nl1s + 1) * UINT64_C(256)};
	uint64_t place = 0;
	int r;

	t.buf = calloc(1, t.cap + 512);
	t.l1s = calloc(MAX_LOOSE, sizeof(*t.l1s));
	r = t.buf && t.l1s ? qcow2_fresh_place(x, &place) : -ENOMEM;
	if (r == 0) {
		keep_entries(x, &t);
		r = recover_entries(x, &t);
	}
	*ret = r == 0 && t.n;
	if (*ret) {
		SAY(x, "Repairing snapshot table: %" PRIu32 " of its entries are still there; %" PRIu32 " L1 tables that nothing else "
		    "names are snapshots again, by the name of 'snap-recovered-N'; the table is at offset %#" PRIx64 " now", t.kept,
		    t.n - t.kept, place);
		x->map_changed = true;
		if (x->nstrays && bsearch(&x->q.snapshots_offset, x->strays, x->nstrays, sizeof(*x->strays), qcow2_by_value))
			(void)qcow2_leave_behind(x, x->q.snapshots_offset);
		r = plt_store_write(x->c.file, place, t.buf, plt_align_up(t.len, 512), PLT_IO_SNAPSHOT_TABLE, NULL);
		if (r == 0)
			r = set_header(x, t.n, place);
	}
	free(t.buf);
	free(t.l1s);
	return r == -EFBIG ? 0 : r;
}

/* An entry behind the last one, with an L1 table that is counted and that nothing names: the header counts too few. */
static int count_more(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t off = q->snapshots_offset + q->snapshots_size;
	uint32_t n = q->nb_snapshots, len;
	bool counted = n > 0;

	while (counted && n < MAX_LOOSE && (len = entry_at(x, off)) != 0) {
		plt_be64 l1;

		counted = plt_store_read(x->c.file, off, &l1, 8, PLT_IO_SNAPSHOT_TABLE, NULL) == 0 &&
			  bsearch(&(uint64_t){plt_be64_get(l1)}, x->l1s, x->nl1s, sizeof(*x->l1s), qcow2_by_value);
		n += counted;
		off += len;
	}
	if (n == q->nb_snapshots)
		return 0;
	SAY(x, "Repairing header: the snapshot table at offset %#" PRIx64 " has %" PRIu32 " entries with L1 tables of their own, not %"
	    PRIu32, q->snapshots_offset, n, q->nb_snapshots);
	x->map_changed = true;
	return set_header(x, n, q->snapshots_offset);
}

int qcow2_mend_snapshots(struct qcow2_exam *x)
{
	bool done = false;
	int r;

	if (!(x->ex->mend->what & PLT_MEND_MAP))
		return 0;
	if (!x->snapshots_bad)
		return count_more(x);
	r = find_table(x, &done);
	if (r == 0 && !done)
		r = make_table(x, &done);
	if (r < 0 || done || x->refs_bad || qcow2_unread(x))
		return r;
	SAY(x, "Repairing header: nothing is left of the snapshot table, and no L1 table of a snapshot is in the file: there are "
	    "no snapshots");
	x->map_changed = true;
	return set_header(x, 0, 0);
}

/* ---- one entry -------------------------------------------------------------------------------------------- */

/* The only entry with an L1 table that cannot be, and the only L1 table that nothing names. */
int qcow2_mend_snap_l1(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint32_t bad = UINT32_MAX, n = 0;
	uint64_t off = q->snapshots_offset;
	uint8_t place[12];

	if (!(x->ex->mend->what & PLT_MEND_MAP) || x->nl1s != 1)
		return 0;
	for (uint32_t i = 0; i < q->nb_snapshots; i++)
		if (!is_l1(x, q->snapshots[i].l1_offset, q->snapshots[i].l1_size)) {
			bad = i;
			n++;
		}
	if (n != 1)
		return 0;
	for (uint32_t i = 0; i < bad; i++) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		off += plt_align_up(sizeof(struct qcow2_snapshot_entry) + s->extra_size + strlen(s->info.id) + strlen(s->info.name), 8);
	}
	SAY(x, "Repairing snapshot %s (%s): its L1 table lies at offset %#" PRIx64 ", the only one that nothing names",
	    q->snapshots[bad].info.id, q->snapshots[bad].info.name, x->l1s[0]);
	plt_put_be64(place, x->l1s[0]);
	plt_put_be32(place + 8, (uint32_t)qcow2_l1_entries(q, q->snapshots[bad].info.disk_size));
	x->map_changed = x->ex->mend->changed = true;
	return plt_store_write(x->c.file, off, place, sizeof(place), PLT_IO_SNAPSHOT_TABLE, NULL);
}
