/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Mending of the dynamic header.  It says three things that matter: where the table is, how many entries it has,
 * how large a block is.  A single wrong field is found by the stored checksum, which then verifies.  Otherwise the
 * table is looked for at the places where writers put it, and tells the rest itself: the distances of its entries
 * are the length of a block.
 *
 * The invariant: a header is written only for a table of which nearly every entry can be right, and for an empty one
 * only where no block could be.  What a differencing disk
 * said of its parent is kept if it is still there, and never made up.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/check.h"

#define LOCATORS_ROOM (UINT64_C(1) << 20) /* behind the table, in which texts are looked for */
#define LOCATOR_TEXT 4096 /* bytes of one, at most */
#define LARGEST_TABLE (UINT64_C(16) << 20) /* bytes of one that is looked at here: 8 TiB in blocks of 2 MiB */

static uint64_t bitmap_bytes(uint64_t block_size)
{
	return plt_align_up(plt_div_up(block_size / VHD_SECTOR, 8), VHD_SECTOR);
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* The table's entries that are in use and can be right, sorted; -ENOENT: too many of them cannot. */
static int used_entries(struct vhd_exam *x, uint64_t table, uint64_t entries, uint64_t len, uint32_t **ret, uint64_t *ret_n)
{
	PLT_AUTOFREE uint32_t *v = NULL;
	uint64_t limit = x->ends.tail.state == VHD_COPY_GOOD ? x->ends.tail.off : x->ends.file_size;
	uint64_t behind = plt_align_up(table + entries * 4, VHD_SECTOR), n = 0, wrong = 0, k = 0;
	int r;

	if (entries * 4 > LARGEST_TABLE || !plt_in_range(table, entries * 4, limit))
		return -ENOENT;
	v = plt_alloc_capped(entries + 1, 4, LARGEST_TABLE + 4);
	if (!v)
		return -ENOMEM;
	r = plt_store_read(x->ex->file, table, v, entries * 4, PLT_IO_L1, NULL);
	for (uint64_t i = 0; i < entries && r == 0; i++) {
		uint32_t e = plt_get_be32((uint8_t *)v + i * 4);

		if (e == VHD_UNUSED)
			continue;
		if ((uint64_t)e * VHD_SECTOR < behind || (uint64_t)e * VHD_SECTOR >= limit)
			wrong++;
		else
			v[n++] = e;
	}
	if (r < 0)
		return r;
	qsort(v, n, sizeof(*v), ascending);
	for (uint64_t i = 0; i < n; i++) {
		if (k && (uint64_t)(v[i] - v[k - 1]) * VHD_SECTOR < len)
			wrong++;
		else
			v[k++] = v[i];
	}
	/* (a few may be damaged as well) */
	if (wrong && wrong * 8 > k)
		return -ENOENT;
	n = k;
	*ret = v;
	v = NULL;
	*ret_n = n;
	return 0;
}

bool vhd_table_fits(struct vhd_exam *x, uint64_t table, uint64_t entries, uint64_t block_size, uint64_t *ret_used)
{
	uint32_t *v = NULL;
	int r = used_entries(x, table, entries, bitmap_bytes(block_size) + block_size, &v, ret_used);

	free(v);
	return r == 0;
}

/*
 * Does the table tell that blocks are this large?  Its blocks lie as close as that, or its last one reaches to the
 * end of the file.
 */
static bool says_length(struct vhd_exam *x, uint64_t table, uint64_t entries, uint64_t bs)
{
	uint64_t len = bitmap_bytes(bs) + bs, n, limit, least = UINT64_MAX, rest;
	uint32_t *v = NULL;

	limit = x->ends.tail.state == VHD_COPY_GOOD ? x->ends.tail.off : x->ends.file_size;
	if (used_entries(x, table, entries, len, &v, &n) < 0 || !n) {
		free(v);
		return false;
	}
	for (uint64_t i = 1; i < n; i++)
		least = PLT_MIN(least, (uint64_t)(v[i] - v[i - 1]) * VHD_SECTOR);
	rest = limit - (uint64_t)v[n - 1] * VHD_SECTOR;
	free(v);
	return (least != UINT64_MAX && least < len + 4096) || (rest >= len && rest < len + 4096 + VHD_FOOTER);
}

/* ---- one wrong field ------------------------------------------------------------------------- */

static bool believable(struct vhd_exam *x, const struct vhd_header *h, uint64_t *ret_used)
{
	uint64_t bs = plt_be32_get(h->block_size), entries = plt_be32_get(h->entries);

	return vhd_check_header(h, x->ends.file_size, NULL) == 0 && entries * bs >= x->size &&
	       vhd_table_fits(x, plt_be64_get(h->table_offset), plt_div_up(x->size, bs), bs, ret_used);
}

/*
 * The sum of all bytes is a weak checksum: another field, changed as well, may make up for the one that is wrong.  The
 * table decides: where most of its entries make sense.
 */
struct candidates {
	struct vhd_exam *x;
	uint32_t want;
	struct vhd_header best;
	uint64_t used;
	bool any;
};

static void try_header(struct candidates *c, const struct vhd_header *g)
{
	struct vhd_header s = *g;
	uint64_t used;

	s.checksum = plt_be32_make(c->want);
	if (vhd_checksum(&s, sizeof(s), offsetof(struct vhd_header, checksum)) != c->want || !believable(c->x, &s, &used) ||
	    (c->any && used <= c->used))
		return;
	c->best = s;
	c->used = used;
	c->any = true;
}

/*
 * Does the table bear out the place and the length of blocks as they stand, no less than what a correction would make of
 * them?  Then that one's sum is right by chance: what is wrong is a field that no table speaks of, as the parent's id.
 */
static bool is_borne_out(struct vhd_exam *x, const struct vhd_header *h, const struct candidates *c)
{
	struct vhd_header sealed = *h;
	uint64_t bs = plt_be32_get(h->block_size), table = plt_be64_get(h->table_offset), used;

	vhd_header_seal(&sealed);
	return (bs != plt_be32_get(c->best.block_size) || table != plt_be64_get(c->best.table_offset)) &&
	       !memcmp(h->cookie, VHD_HEADER_COOKIE, 8) && believable(x, &sealed, &used) && used >= c->used &&
	       says_length(x, table, plt_div_up(x->size, bs), bs);
}

/* Is one field wrong, so that the stored checksum verifies once it is right? */
static bool correct_field(struct vhd_exam *x, uint64_t header_off, struct vhd_header *h)
{
	const uint64_t tables[] = { header_off + VHD_HEADER, 1536, 2048, 4096, 8192 };
	struct candidates c = { .x = x, .want = plt_be32_get(h->checksum) };
	struct vhd_header g = *h;
	uint32_t bs = plt_be32_get(h->block_size);

	memcpy(g.cookie, VHD_HEADER_COOKIE, 8);
	try_header(&c, &g);
	g = *h;
	g.data_offset = plt_be64_make(VHD_NONE);
	try_header(&c, &g);
	g = *h;
	g.version = plt_be32_make(VHD_VERSION);
	try_header(&c, &g);
	for (unsigned more = 0; more < 3 && plt_is_pow2(bs) && bs >= VHD_MIN_BLOCK; more++) {
		uint64_t n = plt_div_up(x->size, bs) + more;

		g = *h;
		g.entries = plt_be32_make((uint32_t)PLT_MIN(n, (uint64_t)UINT32_MAX));
		try_header(&c, &g);
	}
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(tables); i++) {
		g = *h;
		g.table_offset = plt_be64_make(tables[i]);
		try_header(&c, &g);
	}
	for (unsigned bit = 9; bit < 29; bit++) {
		g = *h;
		g.block_size = plt_be32_make(UINT32_C(1) << bit);
		try_header(&c, &g);
	}
	if (!c.any || is_borne_out(x, h, &c))
		return false;
	*h = c.best;
	return true;
}

/* ---- anew ------------------------------------------------------------------------------------ */

int vhd_guess_header(struct vhd_exam *x, uint64_t size, uint64_t header_off, struct vhd_header *h, const char **ret_how)
{
	static const uint8_t bits[] = { 21, 19, 20, 18, 17, 16, 15, 14, 13, 12, 22, 23, 24, 25, 26, 27, 28, 11, 10, 9 };
	const uint64_t tables[] = { plt_be64_get(h->table_offset), header_off + VHD_HEADER, 1536, 2048, 4096, 8192 };
	uint64_t used, empty = 0, table = 0, bs = 0;

	for (unsigned t = 0; t < PLT_ARRAY_SIZE(tables) && !bs; t++) {
		uint64_t off = tables[t];

		if (off % VHD_SECTOR || off < VHD_FOOTER || off == header_off || off + VHD_SECTOR > x->ends.file_size)
			continue;
		for (unsigned i = 0; i < PLT_ARRAY_SIZE(bits) && !bs; i++) {
			uint64_t n = plt_div_up(size, UINT64_C(1) << bits[i]);

			if (says_length(x, off, n, UINT64_C(1) << bits[i])) {
				table = off;
				bs = UINT64_C(1) << bits[i];
			}
		}
		if (!empty && x->ends.file_size - off < VHD_DEFAULT_BLOCK &&
		    vhd_table_fits(x, off, plt_div_up(size, (uint64_t)VHD_DEFAULT_BLOCK), VHD_DEFAULT_BLOCK, &used) && !used)
			empty = off;
	}
	*ret_how = "the size of a block is what the table's entries are apart";
	if (!bs && empty) {
		table = empty;
		bs = VHD_DEFAULT_BLOCK;
		*ret_how = "the table does not tell how large blocks are; nearly all are of 2 MiB";
	}
	if (!bs)
		return -ENOENT;
	memcpy(h->cookie, VHD_HEADER_COOKIE, 8);
	h->data_offset = plt_be64_make(VHD_NONE);
	h->table_offset = plt_be64_make(table);
	h->version = plt_be32_make(VHD_VERSION);
	h->entries = plt_be32_make((uint32_t)plt_div_up(size, bs));
	h->block_size = plt_be32_make((uint32_t)bs);
	return 0;
}

/* ---- what a child said of its parent ---------------------------------------------------------- */

/* Is the text of a locator at @p, alone in its sectors?  Its bytes; 0: none. */
static size_t locator_text(const uint8_t *p, size_t len, const char **ret_code)
{
	size_t n = 0, slashes = 0, end;

	if (len >= 7 && !memcmp(p, "file://", 7)) {
		*ret_code = "MacX";
		n = strnlen((const char *)p, len);
	} else {
		for (; n + 2 <= len && plt_get_le16(p + n); n += 2) {
			if (plt_get_le16(p + n) < 0x20 || plt_get_le16(p + n) >= 0xfffe)
				return 0;
			slashes += plt_get_le16(p + n) == '\\';
		}
		if (!slashes || n < 8)
			return 0;
		*ret_code = p[0] == '.' || (p[2] != ':' && p[0] != '\\') ? "W2ru" : "W2ku";
	}
	end = plt_align_up(n + 1, (size_t)VHD_SECTOR);
	return end <= len && plt_is_zero(p + n, end - n) ? n : 0;
}

/* What the locators named stays where it was when the header goes: texts in front of the first block. */
static int find_locators(struct vhd_exam *x, struct vhd_header *h, uint64_t header_off, unsigned *ret)
{
	uint64_t table = plt_be64_get(h->table_offset), entries = plt_be32_get(h->entries), n = 0, end = x->ends.file_size;
	uint64_t behind = plt_align_up(table + entries * 4, VHD_SECTOR);
	uint32_t *v = NULL;
	int r = used_entries(x, table, entries, VHD_SECTOR, &v, &n);

	if (r == 0 && n)
		end = PLT_MIN(end, (uint64_t)v[0] * VHD_SECTOR);
	free(v);
	end = PLT_MIN(end, behind + LOCATORS_ROOM);
	*ret = 0;
	for (uint64_t off = VHD_FOOTER, len; r != -ENOMEM && off + VHD_SECTOR <= end && *ret < VHD_LOCATORS; off += len) {
		struct vhd_locator *l = &h->locator[*ret];
		uint8_t p[LOCATOR_TEXT];
		const char *code;
		size_t text;

		len = VHD_SECTOR;
		if ((off >= header_off && off < header_off + VHD_HEADER) || (off >= table && off < behind))
			continue;
		r = plt_store_read(x->ex->file, off, p, PLT_MIN(end - off, (uint64_t)sizeof(p)), PLT_IO_HEADER, NULL);
		if (r < 0)
			return r;
		text = locator_text(p, PLT_MIN(end - off, (uint64_t)sizeof(p)), &code);
		if (!text)
			continue;
		len = plt_align_up(text, (size_t)VHD_SECTOR);
		memcpy(l->code, code, sizeof(l->code));
		l->space = plt_be32_make((uint32_t)len);
		l->length = plt_be32_make((uint32_t)text);
		l->offset = plt_be64_make(off);
		++*ret;
	}
	return r == -ENOMEM ? r : 0;
}

/* Does any field of the header's first sector say what headers say? */
static bool looks_like_one(const struct vhd_header *h)
{
	uint32_t bs = plt_be32_get(h->block_size);

	return plt_be64_get(h->data_offset) == VHD_NONE || plt_be32_get(h->version) == VHD_VERSION ||
	       (plt_is_pow2(bs) && bs >= VHD_MIN_BLOCK && plt_be32_get(h->entries));
}

/* Parts of the header that can be nothing else are kept. */
static bool keep_parent(struct vhd_exam *x, struct vhd_header *h)
{
	static const char codes[] = "W2ruW2kuMacXMac Wi2rWi2k";
	bool child = x->v.type == VHD_DIFFERENCING, any = false;

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		struct vhd_locator *l = &h->locator[i];
		bool known = false;

		for (unsigned c = 0; c < sizeof(codes) - 1; c += 4)
			known |= !memcmp(l->code, codes + c, 4);
		if (!child || !known || !plt_in_range(plt_be64_get(l->offset), plt_be32_get(l->length), x->ends.file_size))
			memset(l, 0, sizeof(*l));
		else
			any = true;
	}
	/* (its locators lie in another sector than the id) */
	if (memcmp(h->cookie, VHD_HEADER_COOKIE, 8) && (!any || !looks_like_one(h))) {
		memset(h->parent_id, child ? 0xff : 0, sizeof(h->parent_id)); /* (zeros are a raw image's) */
		memset(h->parent_name, 0, sizeof(h->parent_name));
		h->parent_timestamp = plt_be32_make(0);
	}
	h->reserved1 = plt_be32_make(0);
	memset(h->reserved2, 0, sizeof(h->reserved2));
	return any;
}

int vhd_mend_header(struct vhd_exam *x, const char *why, struct plt_error *err)
{
	uint64_t off = plt_be64_get(x->v.footer.data_offset);
	struct vhd_header h = x->v.header, sealed = h;
	const char *how, *id = "V-HDR-3";
	unsigned texts = 0;
	uint64_t used;
	bool kept;
	int r = 0;

	vhd_header_seal(&sealed);
	if (!vhd_mends(x, PLT_MEND_MAP)) {
		id = memcmp(h.cookie, VHD_HEADER_COOKIE, 8) ? "V-HDR-1" : vhd_check_header(&sealed, x->ends.file_size, NULL) ?
			"V-HDR-3" : "V-HDR-2";
		vhd_found(x, id, PLT_CORRUPTION, off, VHD_HEADER, "%s", why);
		return 0;
	}
	if (correct_field(x, off, &h)) {
		how = "one field is corrected, the checksum then verifies";
	} else if (!memcmp(h.cookie, VHD_HEADER_COOKIE, 8) && believable(x, &sealed, &used)) {
		h = sealed;
		id = "V-HDR-2";
		how = "its fields agree with the table, the checksum is computed anew";
	} else {
		id = "V-HDR-1";
		kept = keep_parent(x, &h);
		r = vhd_guess_header(x, x->size, off, &h, &how);
		if (r == 0 && x->v.type == VHD_DIFFERENCING && !kept)
			r = find_locators(x, &h, off, &texts);
		vhd_header_seal(&h);
		if (r == 0 && vhd_check_header(&h, x->ends.file_size, NULL) < 0)
			r = -ENOENT;
	}
	if (r == -ENOENT) {
		vhd_found(x, id, PLT_CORRUPTION, off, VHD_HEADER, "%s; neither it nor a table that it could name can be made "
			  "out", why);
		return 0;
	}
	if (r == 0)
		r = plt_store_write(x->ex->file, off, &h, sizeof(h), PLT_IO_HEADER, NULL);
	if (r < 0)
		return plt_error_set(err, -r, "mending the dynamic header");
	vhd_mended(x, id, PLT_CORRUPTION, off, VHD_HEADER, "%s: %s%s", why, how, texts ? "; the names of the parent that are "
		   "found in the file are its locators again" : "");
	return 1;
}

/* ---- a size that the table does not have ----------------------------------------------------- */

int vhd_mend_size(struct vhd_exam *x, const char *why, struct plt_error *err)
{
	uint64_t most = (uint64_t)x->v.entries * x->v.block_size, said = vhd_gpt_size(x);
	const struct vhd_copy *t = &x->ends.tail;
	struct vhd_footer f = x->v.footer;
	const char *how = "as large as its table";
	int r;

	if (said && said <= most) {
		f.current_size = plt_be64_make(said);
		how = "as large as its guest's partition tables say";
	} else if (t->state == VHD_COPY_GOOD && x->ends.use != t && plt_be64_get(t->f.current_size) <= most) {
		f = t->f;
		how = "as large as the footer at the end says";
	} else {
		f.current_size = plt_be64_make(PLT_MIN(most, VHD_MAX_SECTORS * VHD_SECTOR));
	}
	if (!plt_be64_get(f.current_size))
		return 0;
	if (memcmp(&f, &t->f, sizeof(f)))
		vhd_set_chs(&f, VHD_CHS_C, VHD_CHS_H, VHD_CHS_S);
	vhd_footer_seal(&f);
	r = plt_store_write(x->ex->file, 0, &f, sizeof(f), PLT_IO_HEADER, NULL);
	if (r < 0)
		return plt_error_set(err, -r, "mending the footer");
	vhd_mended(x, "V-FTR-5", PLT_CORRUPTION, 0, VHD_FOOTER, "%s: the disk becomes %s (%" PRIu64 " bytes)", why, how,
		   plt_be64_get(f.current_size));
	return 1;
}

int vhd_mend_absurd_size(struct vhd_exam *x, struct plt_error *err)
{
	uint64_t said = vhd_gpt_size(x), off = plt_align_down(x->ends.use->off, VHD_SECTOR);
	struct vhd_state *v = &x->v;
	struct vhd_footer f = v->footer;
	char why[80];
	int r;

	snprintf(why, sizeof(why), "footer: a disk of %" PRIu64 " bytes", x->size);
	if (v->type != VHD_FIXED) {
		uint64_t most;

		if (vhd_read_header(x->ex->file, x->ends.file_size, &f, &v->header, NULL) < 0)
			return 0;
		most = (uint64_t)plt_be32_get(v->header.entries) * plt_be32_get(v->header.block_size);
		r = vhd_layout(v, PLT_MIN(most, VHD_MAX_SECTORS * VHD_SECTOR), x->ends.file_size, err);
		return r < 0 ? r : vhd_mend_size(x, why, err);
	}
	f.current_size = plt_be64_make(said && said <= off ? said : off);
	vhd_set_chs(&f, VHD_CHS_C, VHD_CHS_H, VHD_CHS_S);
	vhd_footer_seal(&f);
	r = plt_store_write(x->ex->file, off, &f, sizeof(f), PLT_IO_HEADER, NULL);
	if (r < 0)
		return plt_error_set(err, -r, "mending the footer");
	vhd_mended(x, "V-FTR-5", PLT_CORRUPTION, off, VHD_FOOTER, "%s: the disk becomes %s (%" PRIu64 " bytes)", why, said &&
		   said <= off ? "as large as its guest's partition tables say" : "what lies in front of its footer",
		   plt_be64_get(f.current_size));
	return 1;
}
