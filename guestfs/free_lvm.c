/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Logical volumes of LVM that lie in plain pieces on one physical volume, which is what installers make.  Of the
 * metadata (lvm_text.h) only what leads to a volume's place is read; a volume of any other kind (a mirror, a
 * snapshot's origin, a thin pool, pieces on another disk) is named and left alone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "guestfs/free.h"
#include "guestfs/lvm_text.h"
#include "guestfs/supers.h"

#define SECTOR 512u
#define PIECES_MAX 4096

/* ---- the physical volume ----------------------------------------------------------------------------- */

struct pv {
	struct plt_free *f;
	uint8_t id[32];
	uint64_t size, meta, meta_len; /* of its metadata area */
};

static int read_label(struct pv *pv)
{
	uint8_t s[4 * SECTOR];
	const uint8_t *p = NULL, *end;
	unsigned i;

	if (plt_free_read(pv->f, 0, s, sizeof(s), "the label") < 0)
		return -EBUSY;
	for (i = 0; i < 4 && !p; i++)
		if (!memcmp(s + i * SECTOR, "LABELONE", 8) && plt_get_le64(s + i * SECTOR + 8) == i &&
		    plt_lvm_crc(s + i * SECTOR + 20, SECTOR - 20) == plt_get_le32(s + i * SECTOR + 16))
			p = s + i * SECTOR;
	if (!p || memcmp(p + 24, "LVM2 001", 8) || plt_get_le32(p + 20) > SECTOR - 40 - 2 * 16)
		return plt_free_refuse(pv->f, "its label is damaged");
	end = p + SECTOR;
	p += plt_get_le32(p + 20);
	memcpy(pv->id, p, 32);
	pv->size = plt_get_le64(p + 32);
	/* the list of data areas, then that of metadata areas */
	for (p += 40; p + 16 <= end && plt_get_le64(p); p += 16)
		;
	p += 16;
	if (p + 16 > end || !plt_get_le64(p))
		return plt_free_refuse(pv->f, "it has no metadata of its own");
	pv->meta = plt_get_le64(p);
	pv->meta_len = plt_get_le64(p + 8);
	return plt_in_range(pv->meta, pv->meta_len, pv->f->vol->size) && pv->meta_len > 2 * SECTOR
		       ? 0
		       : plt_free_refuse(pv->f, "its metadata lies outside");
}

/* The text that counts, from a ring behind its header. */
static int read_text(struct pv *pv, char **ret)
{
	static const uint8_t magic[] = " LVM2 x[5A%r0N*>";
	uint8_t h[SECTOR];
	uint64_t off, len, ring = pv->meta_len - SECTOR, first;
	char *text;

	if (plt_free_read(pv->f, pv->meta, h, SECTOR, "the metadata") < 0)
		return -EBUSY;
	if (plt_lvm_crc(h + 4, SECTOR - 4) != plt_get_le32(h) || memcmp(h + 4, magic, 16) ||
	    plt_get_le64(h + 24) != pv->meta)
		return plt_free_refuse(pv->f, "the header of its metadata is damaged");
	off = plt_get_le64(h + 40);
	len = plt_get_le64(h + 48);
	if (off < SECTOR || off >= pv->meta_len || !len || len > ring || len > PLT_LVM_TEXT_MAX ||
	    plt_get_le32(h + 60) & 1)
		return plt_free_refuse(
			pv->f, "its metadata (%" PRIu64 " bytes at %" PRIu64 ") is none, or too long", len, off);
	text = malloc(len + 1);
	if (!text)
		return -ENOMEM;
	first = PLT_MIN(len, pv->meta_len - off);
	text[len] = '\0';
	if (plt_free_read(pv->f, pv->meta + off, text, first, "the metadata") < 0 ||
	    (len > first &&
	     plt_free_read(pv->f, pv->meta + SECTOR, text + first, len - first, "the metadata") < 0) ||
	    plt_lvm_crc((uint8_t *)text, len) != plt_get_le32(h + 56) || strlen(text) + 1 < len) {
		free(text);
		return pv->f->why[0] ? -EBUSY : plt_free_refuse(pv->f, "the checksum of its metadata is wrong");
	}
	*ret = text;
	return 0;
}

/* ---- logical volumes --------------------------------------------------------------------------------- */

struct group {
	struct pv *pv;
	struct plt_lvm_text t;
	const struct plt_lvm_node *vg;
	const char *name; /* of our physical volume in it */
	uint64_t extent, first, count; /* bytes; of the physical volume: where its extents begin, how many */
};

/* The pieces of a volume; NULL, or why it cannot be used. */
static const char *pieces(const struct group *g, const struct plt_lvm_node *lv, struct plt_lv_piece *v, unsigned *ret_n,
			  uint64_t *ret)
{
	uint64_t n, next = 0;

	*ret_n = 0;
	if (!plt_lvm_number(&g->t, lv, "segment_count", &n) || !n || n > PIECES_MAX)
		return "its segments cannot be counted, or are too many";
	for (uint64_t i = 1; i <= n; i++) {
		uint64_t start, count, stripes, at;
		const struct plt_lvm_node *s, *list;
		char name[32], *end;
		size_t len = strlen(g->name);

		snprintf(name, sizeof(name), "segment%" PRIu64, i);
		s = plt_lvm_find(&g->t, lv, name, true);
		if (!s || !plt_lvm_number(&g->t, s, "start_extent", &start) ||
		    !plt_lvm_number(&g->t, s, "extent_count", &count) || !count || start != next || count > UINT32_MAX)
			return "one of its segments is damaged";
		if (!plt_lvm_string_is(&g->t, s, "type", "striped") || !plt_lvm_number(&g->t, s, "stripe_count", &stripes) ||
		    stripes != 1)
			return "it is not made of plain pieces";
		list = plt_lvm_find(&g->t, s, "stripes", false);
		if (!list || list->value[0] != '[')
			return "one of its segments is damaged";
		end = (char *)(uintptr_t)list->value + 1;
		end += strspn(end, " \t\r\n");
		if (*end != '"' || strncmp(end + 1, g->name, len) || end[1 + len] != '"')
			return "a part of it lies on another disk";
		end += len + 2;
		end += strspn(end, " \t\r\n,");
		if (*end < '0' || *end > '9')
			return "one of its segments is damaged";
		at = strtoull(end, NULL, 10);
		if (!plt_in_range(at, count, g->count))
			return "one of its segments lies outside";
		for (unsigned k = 0; k < *ret_n; k++)
			if (plt_ranges_overlap(g->first + at * g->extent, count * g->extent, v[k].pv_off,
					       v[k].len))
				return "two of its segments lie in one place";
		v[(*ret_n)++] =
			(struct plt_lv_piece){ start * g->extent, g->first + at * g->extent, count * g->extent };
		next = start + count;
	}
	*ret = next * g->extent;
	return NULL;
}

/* Is what lies in it read by another volume too: a snapshot of it, or a thin one that is based on it? */
static bool is_origin(const struct group *g, const struct plt_lvm_node *all, const char *name)
{
	static const char *const words[] = { "origin", "external_origin", "cow_store", "merging_store" };
	size_t len = strlen(name);

	for (const struct plt_lvm_node *n = all + 1; n < &g->t.v[all->end]; n++)
		for (unsigned i = 0; n->value && i < PLT_ARRAY_SIZE(words); i++)
			if (!strcmp(n->name, words[i]) && !strncmp(n->value + 1, name, len) &&
			    n->value[1 + len] == '"')
				return true;
	return false;
}

static int volumes(struct group *g, plt_lv_fn fn, void *arg)
{
	const struct plt_lvm_node *all = plt_lvm_find(&g->t, g->vg, "logical_volumes", true);
	struct plt_lv_piece *v PLT_AUTOFREE = calloc(PIECES_MAX, sizeof(*v));
	struct plt_lv_piece *used PLT_AUTOFREE = calloc(PIECES_MAX, sizeof(*used));
	unsigned nused = 0;
	int r = 0;

	if (!v || !used)
		return -ENOMEM;
	for (uint32_t i = all ? (uint32_t)(all - g->t.v) + 1 : 0; all && r == 0 && i < all->end;
	     i = g->t.v[i].end) {
		const struct plt_lvm_node *lv = &g->t.v[i], *status = plt_lvm_find(&g->t, lv, "status", false);
		uint64_t size = 0;
		const char *why;
		char name[132];
		unsigned n;

		if (lv->value)
			continue;
		snprintf(name, sizeof(name), "%s/%s", g->vg->name, lv->name);
		why = pieces(g, lv, v, &n, &size);
		/* hidden ones are parts of others */
		if (!why && (!status || !strstr(status->value, "\"VISIBLE\"")))
			why = "it is a part of another volume";
		if (!why && is_origin(g, all, lv->name))
			why = "there is a snapshot of it";
		for (unsigned k = 0; !why && k < n; k++)
			for (unsigned j = 0; !why && j < nused; j++)
				if (plt_ranges_overlap(v[k].pv_off, v[k].len, used[j].pv_off, used[j].len))
					why = "it lies where another volume does";
		if (!why && nused + n > PIECES_MAX)
			why = "there are too many volumes";
		if (why)
			n = 0;
		if (n)
			memcpy(used + nused, v, n * sizeof(*v));
		nused += n;
		r = fn(arg, name, v, n, size, why);
	}
	return r;
}

static int open_group(struct group *g)
{
	const struct plt_lvm_node *pvs, *own = NULL;
	uint64_t sectors, first;
	char id[PLT_LVM_ID + 7];

	plt_lvm_id_text(g->pv->id, id);
	g->vg = plt_lvm_find(&g->t, NULL, NULL, true);
	pvs = g->vg ? plt_lvm_find(&g->t, g->vg, "physical_volumes", true) : NULL;
	for (uint32_t i = pvs ? (uint32_t)(pvs - g->t.v) + 1 : 0; pvs && i < pvs->end; i = g->t.v[i].end)
		if (!g->t.v[i].value && plt_lvm_string_is(&g->t, &g->t.v[i], "id", id))
			own = &g->t.v[i];
	if (!own || !plt_lvm_number(&g->t, g->vg, "extent_size", &sectors) || !sectors || sectors > 1u << 30 ||
	    !plt_lvm_number(&g->t, own, "pe_start", &first) || first > UINT64_MAX / 1024 ||
	    !plt_lvm_number(&g->t, own, "pe_count", &g->count))
		return plt_free_refuse(g->pv->f, "its metadata does not describe it");
	g->name = own->name;
	g->extent = sectors * SECTOR;
	g->first = first * SECTOR;
	if (g->first > g->pv->f->vol->size || g->count > (g->pv->f->vol->size - g->first) / g->extent)
		return plt_free_refuse(
			g->pv->f, "its metadata says that it has %" PRIu64 " extents, and it has not", g->count);
	return 0;
}

int plt_free_lvm(struct plt_free *f, plt_lv_fn fn, void *arg)
{
	struct pv pv = { .f = f };
	struct group g = { .pv = &pv };
	char *text PLT_AUTOFREE = NULL;
	int r;

	r = read_label(&pv);
	if (r == 0)
		r = read_text(&pv, &text);
	if (r < 0)
		return r;
	r = plt_lvm_text_parse(text, &g.t);
	if (r == -ENOMEM)
		return r;
	r = r < 0 ? plt_free_refuse(f, "its metadata cannot be read") : open_group(&g);
	if (r == 0)
		r = volumes(&g, fn, arg);
	plt_lvm_text_release(&g.t);
	return r;
}
