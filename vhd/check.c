/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is wrong with a VHD.  Works on the bare file, so that an image that does not open is examined
 * too; never follows an entry that does not fit.  Memory: eight bytes for each block in use.
 *
 * Severity goes by what a reader would notice: corruption is data that is wrong, unreachable or about
 * to become so (the second footer is what remains when the first one goes); space that nothing uses is
 * a leak; what only some readers care about is a note.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/vhd.h"

#define SCAN_BYTES (1u << 20)

struct used {
	uint32_t sector, block;
};

struct check {
	struct plt_examine *ex;
	struct vhd_ends ends;
	struct vhd_state v;       /* what helps to judge an entry; never an open image */
	struct used *used;
	size_t n, cap;
	uint64_t size;
	const uint8_t *batmap;
};

static void found(struct check *c, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

static void found(struct check *c, const char *id, enum plt_severity s, uint64_t off, uint64_t len, const char *fmt, ...)
{
	struct plt_finding f = { .id = id, .severity = s, .count = 1, .host_off = off, .host_len = len };
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	plt_emit(c->ex, &f, "%s", text);
}

/* ---- footers --------------------------------------------------------------------------------- */

/* Apart from what blktap changes in one of them only. */
static bool same_footer(struct vhd_footer a, struct vhd_footer b)
{
	a.hidden = b.hidden = a.saved_state = b.saved_state = 0;
	a.checksum = b.checksum = plt_be32_make(0);
	return !memcmp(&a, &b, sizeof(a));
}

static void check_fields(struct check *c)
{
	const struct vhd_footer *f = &c->ends.use->f;
	uint64_t current = plt_be64_get(f->current_size), chs = vhd_chs_sectors(f) * VHD_SECTOR;
	uint32_t cyl, h, s;

	if (!(plt_be32_get(f->features) & VHD_FEATURE_RESERVED))
		found(c, "V-FIELD", PLT_NOTE, c->ends.use->off, VHD_FOOTER, "footer: features %#x, without the bit that "
		      "is always set", plt_be32_get(f->features));
	if (current % VHD_SECTOR)
		found(c, "V-FIELD", PLT_NOTE, c->ends.use->off, VHD_FOOTER, "footer: a size of %" PRIu64 " bytes, which is "
		      "no whole number of sectors", current);
	if (!plt_is_zero(f->reserved, sizeof(f->reserved)))
		found(c, "V-FIELD", PLT_NOTE, c->ends.use->off, VHD_FOOTER, "footer: reserved bytes are not zero");
	vhd_geometry(current / VHD_SECTOR, &cyl, &h, &s);
	if (chs != current && chs != VHD_MAX_CHS * VHD_SECTOR && chs != (uint64_t)cyl * h * s * VHD_SECTOR)
		found(c, "V-CHS", PLT_NOTE, c->ends.use->off, VHD_FOOTER, "footer: geometry %u/%u/%u does not belong to a "
		      "size of %" PRIu64 " bytes", plt_be16_get(f->cylinders), f->heads, f->sectors, current);
}

static void check_fixed(struct check *c)
{
	const struct vhd_ends *e = &c->ends;

	if (e->displaced)
		found(c, "V-DISPLACED", PLT_LEAK, e->tail.off, VHD_FOOTER, "the footer is followed by %" PRIu64
		      " bytes of zeros: a resize was cut short", e->file_size - e->tail.off - VHD_FOOTER);
	if (c->size > e->tail.off)
		found(c, "V-SHORT", PLT_CORRUPTION, e->tail.off, VHD_FOOTER, "the disk has %" PRIu64 " bytes, the file %"
		      PRIu64 " before its footer", c->size, e->tail.off);
	else if (plt_align_down(plt_be64_get(e->tail.f.current_size), VHD_SECTOR) < e->tail.off)
		found(c, "V-LONG", PLT_NOTE, c->size, e->tail.off - c->size, "%" PRIu64 " bytes between the disk's end and "
		      "the footer belong to nothing", e->tail.off - c->size);
}

static void check_copies(struct check *c)
{
	const struct vhd_ends *e = &c->ends;

	if (e->head.state != VHD_COPY_GOOD)
		found(c, "V-HEAD", PLT_CORRUPTION, 0, VHD_FOOTER, "the file starts with %s; the footer at its end is "
		      "right", e->head.why);
	else if (e->tail.state != VHD_COPY_GOOD)
		found(c, "V-TAIL", PLT_CORRUPTION, e->tail.off, VHD_FOOTER, "the file ends with %s; the copy at its start "
		      "is right", e->tail.why);
	else if (!same_footer(e->head.f, e->tail.f))
		found(c, "V-DIFFER", plt_be64_get(e->head.f.current_size) == plt_be64_get(e->tail.f.current_size) ?
		      PLT_NOTE : PLT_LEAK, e->tail.off, VHD_FOOTER, "the footers at the start and at the end differ (disks of %"
		      PRIu64 " and %" PRIu64 " bytes): the one at the start is used",
		      plt_be64_get(e->head.f.current_size), plt_be64_get(e->tail.f.current_size));
	if (e->displaced)
		found(c, "V-DISPLACED", PLT_LEAK, e->tail.off, VHD_FOOTER, "the footer is followed by %" PRIu64
		      " bytes of zeros: growth was cut short", e->file_size - e->tail.off - VHD_FOOTER);
}

/* ---- dynamic header -------------------------------------------------------------------------- */

static int check_batmap(struct check *c, uint8_t **ret, struct plt_error *err)
{
	struct vhd_state *v = &c->v;
	struct vhd_batmap m;
	const char *why;
	uint64_t off, bytes;
	int r = vhd_batmap_find(c->ex->file, c->ends.file_size, &v->footer, &v->header, &m, &off, &why, err);

	if (r <= 0)
		return r;
	if (why) {
		found(c, "V-BATMAP", PLT_NOTE, off, VHD_SECTOR, "XenServer's batmap: %s", why);
		return 0;
	}
	if (m.keyhash == 1)
		found(c, "V-ENCRYPTED", PLT_NOTE, off, VHD_SECTOR, "XenServer has encrypted the data outside of the format");
	bytes = (uint64_t)plt_be32_get(m.sectors) * VHD_SECTOR;
	if (plt_extents_add(&v->meta, off, VHD_SECTOR) < 0 ||
	    (bytes && plt_extents_add(&v->meta, plt_be64_get(m.offset), bytes) < 0) || !(*ret = malloc(bytes + 1)))
		return plt_error_set(err, ENOMEM, "out of memory");
	v->meta_end = PLT_MAX(v->meta_end, PLT_MAX(off + VHD_SECTOR, plt_be64_get(m.offset) + bytes));
	r = plt_store_read(c->ex->file, plt_be64_get(m.offset), *ret, bytes, PLT_IO_BITMAP, err);
	if (r < 0)
		return r;
	if (vhd_batmap_checksum(&m, *ret, bytes) != plt_be32_get(m.checksum)) {
		found(c, "V-BATMAP", PLT_NOTE, off, VHD_SECTOR, "XenServer's batmap: its checksum is wrong; it is not used");
		return 0;
	}
	c->batmap = *ret;
	v->batmap_bytes = (uint32_t)bytes;
	return 0;
}

static int check_locators(struct check *c, struct plt_error *err)
{
	char **names;
	unsigned n;
	int r;

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *l = &c->v.header.locator[i];
		uint64_t off = plt_be64_get(l->offset), len = plt_be32_get(l->length);

		if (plt_is_zero(l->code, 4))
			continue;
		if (!plt_in_range(off, len, c->ends.file_size) || len > VHD_MAX_LOCATOR)
			found(c, "V-LOCATOR", PLT_CORRUPTION, off, 0, "parent locator %u: %" PRIu64 " bytes at %#" PRIx64
			      ", which is too long or beyond the end of the file", i, len, off);
		else if (len > vhd_locator_space(l))
			found(c, "V-LOCATOR", PLT_NOTE, off, len, "parent locator %u: %" PRIu64 " bytes in a room of %"
			      PRIu64, i, len, vhd_locator_space(l));
	}
	if (c->v.type != VHD_DIFFERENCING)
		return 0;
	r = vhd_parent_names(c->ex->file, &c->v.header, &names, &n, err);
	if (r == 0 && !n)
		found(c, "V-PARENT", PLT_CORRUPTION, c->v.header_off, VHD_HEADER, "a differencing disk, but no parent "
		      "locator names its parent");
	if (r == 0)
		vhd_names_free(names, n);
	return r;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static int add_used(struct check *c, uint32_t sector, uint64_t block, struct plt_error *err)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 1024;
		struct used *grown = realloc(c->used, cap * sizeof(*grown));

		if (!grown)
			return plt_error_set(err, ENOMEM, "out of memory");
		c->used = grown;
		c->cap = cap;
	}
	c->used[c->n++] = (struct used){ sector, (uint32_t)block };
	return 0;
}

static int check_entry(struct check *c, uint64_t block, uint32_t entry, struct plt_error *err)
{
	const struct vhd_state *v = &c->v;
	uint64_t start = (uint64_t)entry * VHD_SECTOR, len = vhd_block_len(v);
	uint64_t limit = c->ends.tail.state == VHD_COPY_NONE ? c->ends.file_size : c->ends.tail.off;
	const char *bad = vhd_entry_bad(v, c->ends.file_size, entry);

	if (block >= v->blocks) {
		found(c, "V-BAT-BEHIND", PLT_LEAK, start, len, "BAT entry %" PRIu64 " (sector %#x) lies behind the disk's end",
		      block, entry);
		return bad ? 0 : add_used(c, entry, block, err);
	}
	if (bad) {
		struct plt_finding f = { .id = "V-BAT", .severity = PLT_CORRUPTION, .count = 1, .host_off = start,
					 .host_len = len, .guest_off = block << v->block_bits,
					 .guest_len = PLT_MIN((uint64_t)v->block_size, c->size - (block << v->block_bits)) };

		plt_emit(c->ex, &f, "BAT entry %" PRIu64 " (sector %#x) %s", block, entry, bad);
		return 0;
	}
	if (start + len > limit)
		found(c, "V-BLOCK-CUT", PLT_NOTE, start, len, "block %" PRIu64 " at sector %#x is cut short by %" PRIu64
		      " bytes, which read as zeros", block, entry, start + len - limit);
	return add_used(c, entry, block, err);
}

static int by_sector(const void *a, const void *b)
{
	const struct used *x = a, *y = b;

	return x->sector < y->sector ? -1 : x->sector > y->sector ? 1 : x->block < y->block ? -1 : x->block > y->block;
}

/* A hole in the table: zeros, and sector 0 is the footer's.  One finding, however many there are. */
static void found_hole(struct check *c, uint64_t block, uint64_t n)
{
	struct vhd_state *v = &c->v;
	struct plt_finding f = { .id = "V-BAT", .severity = PLT_CORRUPTION, .host_off = v->table_off + block * 4,
				 .host_len = n * 4, .guest_off = block << v->block_bits };

	f.count = block < v->blocks ? PLT_MIN(n, v->blocks - block) : 0;
	if (!f.count)
		return;
	f.guest_len = PLT_MIN(f.count << v->block_bits, c->size - f.guest_off);
	plt_emit(c->ex, &f, "BAT entries %" PRIu64 " to %" PRIu64 " lie in a hole of the file", block, block + f.count - 1);
}

/* Entries from @block on that are read at once; *ret_hole: there is nothing to read. */
static int table_piece(struct check *c, uint64_t block, uint64_t *ret_n, bool *ret_hole, struct plt_error *err)
{
	uint64_t left = c->v.entries - block, n;
	enum plt_store_kind kind;
	int r = plt_store_extents(c->ex->file, c->v.table_off + block * 4, left * 4, &kind, &n, err);

	if (r < 0)
		return r;
	*ret_hole = kind == PLT_STORE_HOLE && n >= 4;
	*ret_n = *ret_hole ? PLT_MIN(n / 4, left) : PLT_MIN(PLT_MAX(n / 4, UINT64_C(1)), PLT_MIN(left, (uint64_t)SCAN_BYTES / 4));
	return 0;
}

static int check_table(struct check *c, struct plt_error *err)
{
	struct vhd_state *v = &c->v;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t block = 0, n; block < v->entries && r == 0; block += n) {
		bool hole;

		r = table_piece(c, block, &n, &hole, err);
		if (r == 0 && hole) {
			found_hole(c, block, n);
			continue;
		}
		if (r == 0)
			r = plt_store_read(c->ex->file, v->table_off + block * 4, buf, n * 4, PLT_IO_L1, err);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint32_t entry = plt_get_be32(buf + i * 4);

			if (entry != VHD_UNUSED)
				r = check_entry(c, block + i, entry, err);
		}
	}
	return r;
}

/* How many blocks would fit there?  What is a hole of the file is no waste. */
static uint64_t room_of(const struct check *c, uint64_t from, uint64_t to)
{
	uint64_t len = vhd_block_len(&c->v), data = 0, n;

	if (to - from < len)
		return 0;
	for (uint64_t at = from; at < to; at += n) {
		enum plt_store_kind kind;

		if (plt_store_extents(c->ex->file, at, to - at, &kind, &n, NULL) < 0 || !n)
			return (to - from) / len;
		n = PLT_MIN(n, to - at);
		data += kind == PLT_STORE_DATA ? n : 0;
	}
	/* (of blocks that were given back their bitmaps remain, and the next writer uses the room) */
	return data > (to - from) / 4 ? data / len : 0;
}

/* How many blocks would fit between @from and @to, besides headers and tables? */
static uint64_t room(const struct check *c, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	while (from < to) {
		const struct plt_range *m = plt_extents_find(&c->v.meta, from);

		if (!m || m->off >= to)
			return n + room_of(c, from, to);
		if (m->off > from)
			n += room_of(c, from, m->off);
		from = m->off + m->len;
	}
	return n;
}

/* Overlaps, and what lies between blocks that could hold one. */
static void check_layout(struct check *c)
{
	struct vhd_state *v = &c->v;
	uint64_t len = vhd_block_len(v), end = 0, limit, inside = 0;
	struct plt_check_totals *t = &c->ex->totals;
	struct plt_finding f = { .id = "V-LEAK", .severity = PLT_LEAK };

	for (size_t i = 1; i < c->n; i++)
		t->fragmented_clusters += c->used[i].sector < c->used[i - 1].sector;
	if (c->n)
		qsort(c->used, c->n, sizeof(*c->used), by_sector);
	for (size_t i = 0; i < c->n; i++) {
		uint64_t start = (uint64_t)c->used[i].sector * VHD_SECTOR;

		if (i && start < end && c->used[i].block < v->blocks && c->used[i - 1].block < v->blocks)
			found(c, "V-OVERLAP", PLT_CORRUPTION, start, end - start, "blocks %u (sector %#x) and %u (sector "
			      "%#x) share bytes", c->used[i - 1].block, c->used[i - 1].sector, c->used[i].block,
			      c->used[i].sector);
		else if (start > end)
			f.count += room(c, end, start);
		end = PLT_MAX(end, start + len);
		inside += c->used[i].block < v->blocks;
	}
	limit = c->ends.tail.state == VHD_COPY_NONE ? c->ends.file_size : c->ends.tail.off;
	f.count += room(c, end, limit);
	if (f.count)
		plt_emit(c->ex, &f, "room for %" PRIu64 " blocks is taken by nothing", f.count);
	t->have_clusters = true;
	t->total_clusters = v->blocks;
	t->allocated_clusters = inside;
	t->image_end_offset = PLT_MAX(end, limit + VHD_FOOTER);
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

/* Of @n sectors from @first on the bit is clear; how many of them hold something. */
static int count_hidden(struct check *c, uint64_t start, uint64_t first, uint64_t n, uint8_t *buf, uint64_t *ret,
			struct plt_error *err)
{
	int r = 0;

	for (uint64_t k; n && r == 0; first += k, n -= k) {
		uint64_t at = start + c->v.bitmap_bytes + first * VHD_SECTOR;
		enum plt_store_kind kind;

		if (at >= c->ends.file_size)
			return 0; /* cut short: zeros */
		r = plt_store_extents(c->ex->file, at, n * VHD_SECTOR, &kind, &k, err);
		if (r < 0)
			return r;
		k = PLT_MIN(k / VHD_SECTOR, n);
		if (kind == PLT_STORE_HOLE && k)
			continue;
		k = PLT_MIN(PLT_MAX(k, UINT64_C(1)), (uint64_t)SCAN_BYTES / VHD_SECTOR);
		r = plt_store_read(c->ex->file, at, buf, k * VHD_SECTOR, PLT_IO_DATA, err);
		for (uint64_t i = 0; i < k && r == 0; i++)
			*ret += !plt_is_zero(buf + i * VHD_SECTOR, VHD_SECTOR);
	}
	return r;
}

static bool bit(const struct vhd_state *v, const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] & (v->bits_reversed ? 1 << (i & 7) : 0x80 >> (i & 7));
}

/* Sectors from @from on, before @to, whose bits are clear. */
static uint64_t clear_run(const struct vhd_state *v, const uint8_t *bits, uint64_t from, uint64_t to)
{
	uint64_t i = from;

	while (i < to && !(i & 7 ? bit(v, bits, i) : bits[i / 8]))
		i += i & 7 ? 1 : 8;
	while (i < to && !bit(v, bits, i))
		i++;
	return PLT_MIN(i, to) - from;
}

/*
 * On a dynamic disk readers do not agree about a sector whose bit is clear and that holds something.  A
 * block that the batmap calls complete and that is not is read wrongly by whoever believes the map.
 */
static int check_block_bits(struct check *c, const struct used *u, uint8_t *bits, uint8_t *buf, struct plt_error *err)
{
	const struct vhd_state *v = &c->v;
	uint64_t start = (uint64_t)u->sector * VHD_SECTOR, sectors = v->block_size / VHD_SECTOR, clear = 0, hidden = 0;
	uint64_t disk = (c->size - ((uint64_t)u->block << v->block_bits)) / VHD_SECTOR;
	bool complete = c->batmap && u->block / 8 < v->batmap_bytes && c->batmap[u->block / 8] & 0x80 >> (u->block & 7);
	int r;

	if (v->honoured && !complete)
		return 0;
	r = plt_store_read(c->ex->file, start, bits, v->bitmap_bytes, PLT_IO_BITMAP, err);
	if (r == 0 && bits[0] == 0xff && !memcmp(bits, bits + 1, v->bitmap_bytes - 1))
		return 0; /* as nearly all are */
	sectors = PLT_MIN(sectors, disk);
	for (uint64_t i = 0, n; i < sectors && r == 0; i += n) {
		n = clear_run(v, bits, i, sectors);
		clear += n;
		if (n && !v->honoured)
			r = count_hidden(c, start, i, n, buf, &hidden, err);
		n += !n;
	}
	if (r < 0)
		return r;
	if (complete && clear)
		found(c, "V-BATMAP-WRONG", PLT_CORRUPTION, start, v->bitmap_bytes, "XenServer's batmap calls block %u "
		      "complete, and %" PRIu64 " of its sectors are not there", u->block, clear);
	if (hidden)
		found(c, "V-BITS", PLT_NOTE, start, v->bitmap_bytes, "block %u: %" PRIu64 " sectors hold something, and "
		      "their bits say that they do not; they are read as what they hold", u->block, hidden);
	return 0;
}

static int check_bits(struct check *c, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES), *bits = plt_alloc_io(c->v.bitmap_bytes);
	uint64_t end = 0;
	int r = buf && bits ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	/* of blocks that share bytes only the first: the work stays within what the file holds */
	for (size_t i = 0; i < c->n && r == 0; i++) {
		uint64_t start = (uint64_t)c->used[i].sector * VHD_SECTOR;

		if (c->used[i].block >= c->v.blocks || start < end)
			continue;
		end = start + vhd_block_len(&c->v);
		r = check_block_bits(c, &c->used[i], bits, buf, err);
	}
	return r;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int check_dynamic(struct check *c, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *batmap = NULL;
	struct plt_error why = PLT_ERROR_INIT;
	struct vhd_state *v = &c->v;
	int r;

	check_copies(c);
	r = vhd_read_header(c->ex->file, c->ends.file_size, &v->footer, &v->header, &why);
	if (r == -EUCLEAN || r == -ENOTSUP || r == -EFBIG) {
		found(c, "V-HEADER", PLT_CORRUPTION, plt_be64_get(v->footer.data_offset), VHD_HEADER, "%s", why.text);
		return 0;
	}
	if (r < 0)
		return plt_error_set(err, -r, "%s", why.text);
	r = vhd_layout(v, c->size, c->ends.file_size, &why);
	if (r == -EUCLEAN) {
		found(c, "V-ENTRIES", PLT_CORRUPTION, v->header_off, VHD_HEADER, "%s", why.text);
		return 0;
	}
	if (plt_be64_get(v->header.data_offset) != VHD_NONE)
		found(c, "V-FIELD", PLT_NOTE, v->header_off, VHD_HEADER, "dynamic header: a data offset of %#" PRIx64
		      " (all ones are expected)", plt_be64_get(v->header.data_offset));
	if (r == 0)
		r = check_locators(c, err);
	if (r == 0)
		r = check_batmap(c, &batmap, err);
	if (r == 0)
		r = check_table(c, err);
	if (r == 0) {
		check_layout(c);
		r = check_bits(c, err);
	}
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}

int vhd_examine(struct plt_examine *ex, struct plt_error *err)
{
	struct check c = { .ex = ex };
	struct plt_error why = PLT_ERROR_INIT;
	bool chs;
	int r = vhd_read_ends(ex->file, &c.ends, &why);

	if (r == -EINVAL && (c.ends.head.state == VHD_COPY_BAD || c.ends.tail.state == VHD_COPY_BAD)) {
		found(&c, "V-FOOTERS", PLT_CORRUPTION, 0, 0, "no footer can be believed: the file starts with %s and ends "
		      "with %s", c.ends.head.why, c.ends.tail.why);
		return 0;
	}
	if (r < 0)
		return plt_error_set(err, -r, "%s", why.text);
	c.v.footer = c.ends.use->f;
	c.v.type = plt_be32_get(c.v.footer.type);
	c.size = vhd_size(&c.v.footer, VHD_SIZE_AUTO, &chs);
	ex->totals.image_end_offset = c.ends.tail.off + VHD_FOOTER;
	check_fields(&c);
	if (c.size / VHD_SECTOR > VHD_MAX_SECTORS)
		found(&c, "V-SIZE", PLT_CORRUPTION, c.ends.use->off, VHD_FOOTER, "footer: a disk of %" PRIu64 " bytes (2040 "
		      "GiB are the most)", c.size);
	else if (c.v.type == VHD_FIXED)
		check_fixed(&c);
	else
		r = check_dynamic(&c, err);
	plt_extents_release(&c.v.meta);
	free(c.used);
	return r;
}
