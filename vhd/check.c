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
#include "vhd/check.h"

#define SCAN_BYTES (1u << 20)
#define FREED_BYTES 8192 /* of a block that was given back, its bitmap and both its ends, in pages of the host */

static void emit(struct vhd_exam *x, const struct plt_finding *f, const char *fmt, va_list ap)
{
	char text[400];

	vsnprintf(text, sizeof(text), fmt, ap);
	plt_emit(x->ex, f, "%s", text);
}

void vhd_found(struct vhd_exam *x, const char *id, enum plt_severity s, uint64_t off, uint64_t len,
	       const char *fmt, ...)
{
	struct plt_finding f = { .id = id, .severity = s, .count = 1, .host_off = off, .host_len = len };
	va_list ap;

	va_start(ap, fmt);
	emit(x, &f, fmt, ap);
	va_end(ap);
}

void vhd_mended(struct vhd_exam *x, const char *id, enum plt_severity s, uint64_t off, uint64_t len,
		const char *fmt, ...)
{
	struct plt_finding f = { .id = id, .severity = s, .count = 1, .host_off = off, .host_len = len, .mended = true };
	va_list ap;

	x->ex->mend->changed = true;
	va_start(ap, fmt);
	emit(x, &f, fmt, ap);
	va_end(ap);
}

/* ---- footers --------------------------------------------------------------------------------- */

/* Apart from what blktap changes in one of them only. */
static bool same_footer(struct vhd_footer a, struct vhd_footer b)
{
	a.hidden = b.hidden = a.saved_state = b.saved_state = 0;
	a.checksum = b.checksum = plt_be32_make(0);
	return !memcmp(&a, &b, sizeof(a));
}

static void check_fields(struct vhd_exam *x)
{
	const struct vhd_footer *f = &x->ends.use->f;
	uint64_t current = plt_be64_get(f->current_size), chs = vhd_chs_sectors(f) * VHD_SECTOR;
	uint32_t cyl, h, s;

	if (!(plt_be32_get(f->features) & VHD_FEATURE_RESERVED))
		vhd_found(x, "V-FIELD", PLT_NOTE, x->ends.use->off, VHD_FOOTER, "footer: features %#x, without the bit that "
		      "is always set", plt_be32_get(f->features));
	if (current % VHD_SECTOR)
		vhd_found(x, "V-FIELD", PLT_NOTE, x->ends.use->off, VHD_FOOTER, "footer: a size of %" PRIu64 " bytes, which is "
		      "no whole number of sectors", current);
	if (!plt_is_zero(f->reserved, sizeof(f->reserved)))
		vhd_found(x, "V-FIELD", PLT_NOTE, x->ends.use->off, VHD_FOOTER, "footer: reserved bytes are not zero");
	vhd_geometry(current / VHD_SECTOR, &cyl, &h, &s);
	if (chs != current && chs != VHD_MAX_CHS * VHD_SECTOR && chs != (uint64_t)cyl * h * s * VHD_SECTOR)
		vhd_found(x, "V-CHS", PLT_NOTE, x->ends.use->off, VHD_FOOTER, "footer: geometry %u/%u/%u does not belong to a "
		      "size of %" PRIu64 " bytes", plt_be16_get(f->cylinders), f->heads, f->sectors, current);
}

static int check_fixed(struct vhd_exam *x, struct plt_error *err)
{
	const struct vhd_ends *e = &x->ends;

	if (vhd_mends(x, PLT_MEND_MAP)) {
		int r = vhd_mend_fixed(x, err);

		if (r < 0 || x->ex->mend->changed)
			return r;
	}
	if (e->displaced)
		vhd_found(x, "V-DISPLACED", PLT_LEAK, e->tail.off, VHD_FOOTER, "the footer is followed by %" PRIu64
		      " bytes of zeros: a resize was cut short", e->file_size - e->tail.off - VHD_FOOTER);
	if (x->size > e->tail.off)
		vhd_found(x, "V-TRUNC-4", PLT_CORRUPTION, e->tail.off, VHD_FOOTER, "the disk has %" PRIu64 " bytes, the file %"
		      PRIu64 " before its footer", x->size, e->tail.off);
	else if (plt_align_down(plt_be64_get(e->tail.f.current_size), VHD_SECTOR) < e->tail.off)
		vhd_found(x, "V-LONG", PLT_NOTE, x->size, e->tail.off - x->size, "%" PRIu64 " bytes between the disk's end and "
		      "the footer belong to nothing", e->tail.off - x->size);
	if (e->tail.len < VHD_FOOTER && !vhd_is_creator(&e->tail.f, "vpc "))
		vhd_found(x, "V-TRUNC-2", PLT_NOTE, e->tail.off, VHD_FOOTER, "the footer's last byte is missing");
	return 0;
}

static void check_copies(struct vhd_exam *x, vhd_say *say)
{
	const struct vhd_ends *e = &x->ends;

	if (e->head.state != VHD_COPY_GOOD)
		say(x, "V-FTR-1", PLT_CORRUPTION, 0, VHD_FOOTER, "the file starts with %s; the footer at its end is "
		      "right", e->head.why);
	else if (e->tail.state != VHD_COPY_GOOD)
		say(x, "V-FTR-2", PLT_CORRUPTION, e->tail.off, VHD_FOOTER, "the file ends with %s; the copy at its start "
		      "is right", e->tail.why);
	else if (!same_footer(e->head.f, e->tail.f))
		say(x, "V-DIFFER", plt_be64_get(e->head.f.current_size) == plt_be64_get(e->tail.f.current_size) ?
		      PLT_NOTE : PLT_LEAK, e->tail.off, VHD_FOOTER, "the footers at the start and at the end differ (disks of %"
		      PRIu64 " and %" PRIu64 " bytes): the one at the start is used",
		      plt_be64_get(e->head.f.current_size), plt_be64_get(e->tail.f.current_size));
	if (e->tail.state == VHD_COPY_GOOD && e->tail.len < VHD_FOOTER && !vhd_is_creator(&e->tail.f, "vpc "))
		say(x, "V-TRUNC-2", PLT_NOTE, e->tail.off, VHD_FOOTER, "the last byte of the footer at the end is missing");
	if (e->displaced)
		say(x, "V-DISPLACED", PLT_LEAK, e->tail.off, VHD_FOOTER, "the footer is followed by %" PRIu64
		      " bytes of zeros: growth was cut short", e->file_size - e->tail.off - VHD_FOOTER);
}

/* ---- dynamic header -------------------------------------------------------------------------- */

static int check_batmap(struct vhd_exam *x, uint8_t **ret, struct plt_error *err)
{
	struct vhd_state *v = &x->v;
	struct vhd_batmap m = { 0 };
	const char *why;
	uint64_t off, bytes;
	int r = vhd_batmap_find(x->ex->file, x->ends.file_size, &v->footer, &v->header, &m, &off, &why, err);

	if (r <= 0)
		return r;
	if (why) {
		vhd_found(x, "V-BATMAP", PLT_NOTE, off, VHD_SECTOR, "XenServer's batmap: %s", why);
		return 0;
	}
	if (m.keyhash == 1)
		vhd_found(x, "V-ENCRYPTED", PLT_NOTE, off, VHD_SECTOR, "XenServer has encrypted the data outside of the format");
	bytes = (uint64_t)plt_be32_get(m.sectors) * VHD_SECTOR;
	if (plt_extents_add(&v->meta, off, VHD_SECTOR) < 0 ||
	    (bytes && plt_extents_add(&v->meta, plt_be64_get(m.offset), bytes) < 0) || !(*ret = malloc(bytes + 1)))
		return plt_error_set(err, ENOMEM, "out of memory");
	v->meta_end = PLT_MAX(v->meta_end, PLT_MAX(off + VHD_SECTOR, plt_be64_get(m.offset) + bytes));
	r = plt_store_read(x->ex->file, plt_be64_get(m.offset), *ret, bytes, PLT_IO_BITMAP, err);
	if (r < 0)
		return r;
	if (vhd_batmap_checksum(&m, *ret, bytes) != plt_be32_get(m.checksum) && vhd_mends(x, PLT_MEND_MARKS)) {
		memset(*ret, 0, bytes);
		r = vhd_mend_batmap(x, off, &m, *ret, 0, bytes);
		vhd_mended(x, "V-BATMAP", PLT_NOTE, off, VHD_SECTOR, "XenServer's batmap: its checksum is wrong; it calls no "
			   "block complete any more");
		return r;
	}
	if (vhd_batmap_checksum(&m, *ret, bytes) != plt_be32_get(m.checksum)) {
		vhd_found(x, "V-BATMAP", PLT_NOTE, off, VHD_SECTOR, "XenServer's batmap: its checksum is wrong; it is not used");
		return 0;
	}
	x->batmap = *ret;
	x->batmap_header = m;
	x->batmap_off = off;
	v->batmap_bytes = (uint32_t)bytes;
	return 0;
}

static int check_locators(struct vhd_exam *x, struct plt_error *err)
{
	char **names;
	unsigned n;
	int r;

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *l = &x->v.header.locator[i];
		uint64_t off = plt_be64_get(l->offset), len = plt_be32_get(l->length);

		if (plt_is_zero(l->code, 4))
			continue;
		if (!plt_in_range(off, len, x->ends.file_size) || len > VHD_MAX_LOCATOR)
			vhd_found(x, "V-LOCATOR", PLT_CORRUPTION, off, 0, "parent locator %u: %" PRIu64 " bytes at %#" PRIx64
			      ", which is too long or beyond the end of the file", i, len, off);
		else if (len > vhd_locator_space(l))
			vhd_found(x, "V-LOCATOR", PLT_NOTE, off, len, "parent locator %u: %" PRIu64 " bytes in a room of %"
			      PRIu64, i, len, vhd_locator_space(l));
	}
	if (x->v.type != VHD_DIFFERENCING)
		return 0;
	r = vhd_parent_names(x->ex->file, &x->v.header, &names, &n, err);
	if (r == 0 && !n)
		vhd_found(x, "V-PARENT", PLT_CORRUPTION, x->v.header_off, VHD_HEADER, "a differencing disk, but no parent "
		      "locator names its parent");
	if (r == 0)
		vhd_names_free(names, n);
	return r;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static int add_used(struct vhd_exam *x, uint32_t sector, uint64_t block, struct plt_error *err)
{
	if (x->n == x->cap) {
		size_t cap = x->cap ? 2 * x->cap : 1024;
		struct vhd_used *grown = realloc(x->used, cap * sizeof(*grown));

		if (!grown)
			return plt_error_set(err, ENOMEM, "out of memory");
		x->used = grown;
		x->cap = cap;
	}
	x->used[x->n++] = (struct vhd_used){ sector, (uint32_t)block };
	return 0;
}

static int check_entry(struct vhd_exam *x, uint64_t block, uint32_t entry, struct plt_error *err)
{
	const struct vhd_state *v = &x->v;
	uint64_t start = (uint64_t)entry * VHD_SECTOR, len = vhd_block_len(v);
	uint64_t limit = x->ends.tail.state == VHD_COPY_NONE ? x->ends.file_size : x->ends.tail.off;
	const char *bad = vhd_entry_bad(v, x->ends.file_size, entry);

	if (block >= v->blocks) {
		vhd_found(x, "V-BAT-BEHIND", PLT_LEAK, start, len, "BAT entry %" PRIu64 " (sector %#x) lies behind the disk's end",
		      block, entry);
		return bad ? 0 : add_used(x, entry, block, err);
	}
	if (bad) {
		struct plt_finding f = { .id = entry ? start < v->meta_end ? "V-BAT-3" : "V-BAT-6" : "V-BAT-1", .severity = PLT_CORRUPTION, .count = 1, .host_off = start,
					 .host_len = len, .guest_off = block << v->block_bits,
					 .guest_len = PLT_MIN((uint64_t)v->block_size, x->size - (block << v->block_bits)) };

		plt_emit(x->ex, &f, "BAT entry %" PRIu64 " (sector %#x) %s", block, entry, bad);
		return x->ex->mend && plt_extents_add(&x->bad, block, 1) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
	}
	if (start + len > limit)
		vhd_found(x, "V-TRUNC-4", PLT_NOTE, start, len, "block %" PRIu64 " at sector %#x is cut short by %" PRIu64
		      " bytes, which read as zeros", block, entry, start + len - limit);
	return add_used(x, entry, block, err);
}

static int by_sector(const void *a, const void *b)
{
	const struct vhd_used *x = a, *y = b;

	return x->sector < y->sector ? -1 : x->sector > y->sector ? 1 : x->block < y->block ? -1 : x->block > y->block;
}

/* A hole in the table: zeros, and sector 0 is the footer's.  One finding, however many there are. */
static void found_hole(struct vhd_exam *x, uint64_t block, uint64_t n)
{
	struct vhd_state *v = &x->v;
	struct plt_finding f = { .id = "V-BAT-1", .severity = PLT_CORRUPTION, .host_off = v->table_off + block * 4,
				 .host_len = n * 4, .guest_off = block << v->block_bits };

	f.count = block < v->blocks ? PLT_MIN(n, v->blocks - block) : 0;
	if (!f.count)
		return;
	f.guest_len = PLT_MIN(f.count << v->block_bits, x->size - f.guest_off);
	plt_emit(x->ex, &f, "BAT entries %" PRIu64 " to %" PRIu64 " lie in a hole of the file", block, block + f.count - 1);
	if (x->ex->mend)
		(void)plt_extents_add(&x->bad, block, f.count); /* (what is not listed is not mended) */
}

/* Entries from @block on that are read at once; *ret_hole: there is nothing to read. */
static int table_piece(struct vhd_exam *x, uint64_t block, uint64_t *ret_n, bool *ret_hole, struct plt_error *err)
{
	uint64_t left = x->v.entries - block, n;
	enum plt_store_kind kind;
	int r = plt_store_extents(x->ex->file, x->v.table_off + block * 4, left * 4, &kind, &n, err);

	if (r < 0)
		return r;
	*ret_hole = kind == PLT_STORE_HOLE && n >= 4;
	*ret_n = *ret_hole ? PLT_MIN(n / 4, left) :
		 PLT_MIN(PLT_MAX(n / 4, UINT64_C(1)), PLT_MIN(left, (uint64_t)SCAN_BYTES / 4));
	return 0;
}

static int check_table(struct vhd_exam *x, struct plt_error *err)
{
	struct vhd_state *v = &x->v;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(SCAN_BYTES);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t block = 0, n; block < v->entries && r == 0; block += n) {
		bool hole;

		r = table_piece(x, block, &n, &hole, err);
		if (r == 0 && hole) {
			found_hole(x, block, n);
			continue;
		}
		if (r == 0)
			r = plt_store_read(x->ex->file, v->table_off + block * 4, buf, n * 4, PLT_IO_L1, err);
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint32_t entry = plt_get_be32(buf + i * 4);

			if (entry != VHD_UNUSED)
				r = check_entry(x, block + i, entry, err);
		}
	}
	return r;
}

/* How many blocks would fit there?  What is a hole of the file is no waste. */
static uint64_t room_of(const struct vhd_exam *x, uint64_t from, uint64_t to)
{
	uint64_t len = vhd_block_len(&x->v), left = (to - from) / len * FREED_BYTES, data = 0, n;

	if (to - from < len)
		return 0;
	for (uint64_t at = from; at < to; at += n) {
		enum plt_store_kind kind;

		if (plt_store_extents(x->ex->file, at, to - at, &kind, &n, NULL) < 0 || !n)
			return (to - from) / len;
		n = PLT_MIN(n, to - at);
		data += kind == PLT_STORE_DATA ? n : 0;
	}
	/* (of blocks that were given back their bitmaps remain, and the next writer uses the room) */
	return data > left ? PLT_MAX(data / len, UINT64_C(1)) : 0;
}

/* How many blocks would fit between @from and @to, besides headers and tables? */
static uint64_t room(const struct vhd_exam *x, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	while (from < to) {
		const struct plt_range *m = plt_extents_find(&x->v.meta, from);

		if (!m || m->off >= to)
			return n + room_of(x, from, to);
		if (m->off > from)
			n += room_of(x, from, m->off);
		from = m->off + m->len;
	}
	return n;
}

/* Overlaps, and what lies between blocks that could hold one. */
static void check_layout(struct vhd_exam *x)
{
	struct vhd_state *v = &x->v;
	uint64_t len = vhd_block_len(v), end = 0, limit, inside = 0;
	struct plt_check_totals *t = &x->ex->totals;
	struct plt_finding f = { .id = "V-LEAK", .severity = PLT_LEAK };

	for (size_t i = 1; i < x->n; i++)
		t->fragmented_clusters += x->used[i].sector < x->used[i - 1].sector;
	if (x->n)
		qsort(x->used, x->n, sizeof(*x->used), by_sector);
	for (size_t i = 0; i < x->n; i++) {
		uint64_t start = (uint64_t)x->used[i].sector * VHD_SECTOR;

		if (i && start < end && x->used[i].block < v->blocks && x->used[i - 1].block < v->blocks) {
			vhd_found(x, "V-BAT-5", PLT_CORRUPTION, start, end - start, "blocks %u (sector %#x) and %u (sector "
				  "%#x) share bytes", x->used[i - 1].block, x->used[i - 1].sector, x->used[i].block,
				  x->used[i].sector);
			x->overlaps = true;
		}
		if (start > end)
			f.count += room(x, end, start);
		end = PLT_MAX(end, start + len);
		inside += x->used[i].block < v->blocks;
	}
	limit = x->ends.tail.state == VHD_COPY_NONE ? x->ends.file_size : x->ends.tail.off;
	x->end = PLT_MAX(end, v->meta_end);
	f.count += room(x, end, limit);
	x->room = f.count;
	if (f.count)
		plt_emit(x->ex, &f, "room for %" PRIu64 " blocks is taken by nothing", f.count);
	t->have_clusters = true;
	t->total_clusters = v->blocks;
	t->allocated_clusters = inside;
	t->image_end_offset = PLT_MAX(end, limit + VHD_FOOTER);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void check_dynamic_fields(struct vhd_exam *x)
{
	if (plt_be64_get(x->v.header.data_offset) != VHD_NONE)
		vhd_found(x, "V-FIELD", PLT_NOTE, x->v.header_off, VHD_HEADER, "dynamic header: a data offset of %#" PRIx64
			  " (all ones are expected)", plt_be64_get(x->v.header.data_offset));
}

/* 1: something was mended that comes before all else. */
static int check_header(struct vhd_exam *x, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	struct vhd_state *v = &x->v;
	bool mend = vhd_mends(x, PLT_MEND_MAP);
	uint64_t said;
	int r = vhd_read_header(x->ex->file, x->ends.file_size, &v->footer, &v->header, &why);

	if (r == -EUCLEAN || r == -EFBIG) {
		r = vhd_mend_header(x, why.text, err);
		return r ? r : -ENODATA;
	}
	if (r == -ENOTSUP) {
		vhd_found(x, "V-HDR-3", PLT_CORRUPTION, plt_be64_get(v->footer.data_offset), VHD_HEADER, "%s", why.text);
		return -ENODATA;
	}
	if (r < 0)
		return plt_error_set(err, -r, "%s", why.text);
	r = vhd_layout(v, x->size, x->ends.file_size, &why);
	if (r == -EUCLEAN) {
		r = mend ? vhd_mend_size(x, why.text, err) : 0;
		if (!r)
			vhd_found(x, "V-HDR-3", PLT_CORRUPTION, v->header_off, VHD_HEADER, "%s", why.text);
		return r ? r : -ENODATA;
	}
	if (r < 0)
		return r;
	said = vhd_gpt_size(x);
	if (said > plt_be64_get(v->footer.current_size) && said <= (uint64_t)v->entries * v->block_size) {
		char text[160];

		snprintf(text, sizeof(text), "the footer says %" PRIu64 " bytes, the guest's partition tables at both ends of "
			 "the disk %" PRIu64, plt_be64_get(v->footer.current_size), said);
		if (mend)
			return vhd_mend_size(x, text, err);
		vhd_found(x, "V-FTR-5", PLT_CORRUPTION, x->ends.use->off, VHD_FOOTER, "%s", text);
	}
	return 0;
}

/*
 * When everything is known.  The table comes before the footers: a file that grows by one must not bring an entry
 * that points behind its end to life.
 */
static int mend_dynamic(struct vhd_exam *x, struct plt_error *err)
{
	bool *changed = &x->ex->mend->changed;
	int r = 0;

	x->ex->mend->unplaced.n = 0;

	if (x->bad.n || x->nunfit || x->overlaps || x->room || x->ex->mend->nplace || x->ex->mend->doubts.n ||
	    x->ex->mend->deep || x->ex->mend->nmoves)
		r = vhd_mend_table(x, err);
	if (r < 0 || *changed) {
		check_copies(x, vhd_found);
		return r;
	}
	r = vhd_mend_copies(x, err);
	if (r == 0)
		check_copies(x, *changed ? vhd_mended : vhd_found);
	for (size_t i = 0; i < x->nunfit && r == 0; i++)
		r = vhd_mend_bits(x, &x->unfit[i]);
	return r;
}

static int check_dynamic(struct vhd_exam *x, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *batmap = NULL;
	bool mend = vhd_mends(x, PLT_MEND_MAP);
	int r;

	if (!mend)
		check_copies(x, vhd_found);
	r = check_header(x, err);
	if (r)
		return r == 1 || r == -ENODATA ? 0 : r;
	check_dynamic_fields(x);
	r = check_locators(x, err);
	if (r == 0)
		r = check_batmap(x, &batmap, err);
	if (r == 0)
		r = check_table(x, err);
	if (r == 0) {
		check_layout(x);
		r = vhd_check_bits(x, err);
	}
	if (r == 0)
		r = mend ? mend_dynamic(x, err) : vhd_tell_unfit(x, err);
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}

/*
 * Between two states, and no journal that says which (repair looks for it first).  What is there is looked at as it is,
 * and the mark stays: it is what tells the next one.
 */
static int say_poisoned(struct vhd_exam *x, struct plt_error *err)
{
	const struct vhd_copy *t = &x->ends.tail;
	bool chs;
	uint64_t size = vhd_size(x->ends.use ? &x->ends.use->f : &t->f, VHD_SIZE_AUTO, &chs);
	int r = 0;

	vhd_found(x, "V-JRN", PLT_CORRUPTION, t->off, VHD_FOOTER, "a resize by vhd-util was cut short: its journal takes it back, "
		  "if it lies beside the image with .vjournal, .journal or .jrn behind its name");
	if (x->ex->mend && size)
		r = vhd_doubt(x, PLT_INFERRED, PLT_GUESS, 0, size, "a resize was cut short, and its journal is not there");
	return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
}

int vhd_examine(struct plt_examine *ex, struct plt_error *err)
{
	struct vhd_exam x = { .ex = ex };
	struct plt_error why = PLT_ERROR_INIT;
	bool chs, damaged;
	int r = vhd_read_ends(ex->file, &x.ends, &why);

	if (vhd_is_poisoned(&x.ends.tail.f))
		return say_poisoned(&x, err);
	damaged = x.ends.head.state == VHD_COPY_BAD || x.ends.tail.state == VHD_COPY_BAD || vhd_mends(&x, PLT_MEND_MAP);
	if (r == -EINVAL && x.ends.file_size >= VHD_FOOTER && damaged) {
		r = vhd_mend_ends(&x, err);
		return r < 0 ? r : 0;
	}
	if (r < 0)
		return plt_error_set(err, -r, "%s", why.text);
	x.v.footer = x.ends.use->f;
	x.v.type = plt_be32_get(x.v.footer.type);
	x.size = vhd_size(&x.v.footer, VHD_SIZE_AUTO, &chs);
	ex->totals.image_end_offset = x.ends.tail.off + VHD_FOOTER;
	check_fields(&x);
	if (x.size / VHD_SECTOR > VHD_MAX_SECTORS || (!x.size && x.v.type == VHD_FIXED && x.ends.tail.off >= VHD_SECTOR)) {
		r = vhd_mends(&x, PLT_MEND_MAP) ? vhd_mend_absurd_size(&x, err) : 0;
		if (r == 0)
			vhd_found(&x, "V-SIZE", PLT_CORRUPTION, x.ends.use->off, VHD_FOOTER, "footer: a disk of %" PRIu64
				  " bytes (%s)", x.size, x.size ? "2040 GiB are the most" : "and something lies in front of it");
		r = PLT_MIN(r, 0);
	} else if (x.v.type == VHD_FIXED) {
		r = check_fixed(&x, err);
	} else {
		r = check_dynamic(&x, err);
	}
	plt_extents_release(&x.v.meta);
	plt_extents_release(&x.bad);
	free(x.used);
	free(x.unfit);
	free(x.orphans);
	return r;
}
