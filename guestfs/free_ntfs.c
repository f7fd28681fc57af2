/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Free space of NTFS: $Bitmap.  It is believed if $Volume is not marked dirty, $LogFile says that it was closed, no
 * Windows sleeps in hiberfil.sys, there are no shadow copies, and the bitmap calls none of the filesystem's own files free.  All of these
 * are found through $MFT's first record; one that is so scattered that its record does not hold its runs is
 * not followed, and the volume is left alone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guestfs/free.h"
#include "guestfs/ntfs.h"

#define A_LIST 0x20
#define A_VOLUME 0x70
#define A_DATA 0x80
#define A_ROOT 0x90
#define A_INDEX 0xa0

/* dirty, log to be resized, change journal being deleted, check under way */
#define VOLUME_BAD 0x4013

#define OWN_MAX 65536 /* runs of the filesystem's own files */
#define FOLDER_MAX (64u << 20) /* of the root folder */
#define CHUNK (64u << 10) /* of the bitmap */

struct reader {
	struct plt_free *f;
	struct ntfs *n;
	uint8_t rec[NTFS_RECORD_MAX];
	struct ntfs_run *own; /* the filesystem's own files, ascending by lcn when sorted */
	size_t nown;
};

static int read_record(struct reader *r, uint64_t number, const char *what)
{
	uint64_t off = plt_ntfs_record_off(r->n, number);

	if (off == UINT64_MAX)
		return plt_free_refuse(r->f, "the record of %s (%" PRIu64 ") is out of reach", what, number);
	if (plt_free_read(r->f, off, r->rec, r->n->record, what) < 0)
		return -EBUSY;
	if (!plt_ntfs_unfix(r->rec, r->n->record, "FILE") || !(plt_get_le16(r->rec + 22) & 1))
		return plt_free_refuse(r->f, "the record of %s (%" PRIu64 ") is damaged", what, number);
	return 0;
}

/* An attribute without a name, or an index's: its beginning in the record, and its length.  NULL: none. */
static const uint8_t *find(const struct reader *r, uint32_t type, uint32_t *ret_len)
{
	uint32_t at = plt_get_le16(r->rec + 20);

	while (at + 24 <= r->n->record) {
		const uint8_t *a = r->rec + at;
		uint32_t len = plt_get_le32(a + 4);

		if (plt_get_le32(a) == 0xffffffff || len < 24 || len % 8 || len > r->n->record - at)
			return NULL;
		if (plt_get_le32(a) == type && (a[9] == 0 || type == A_ROOT || type == A_INDEX)) {
			*ret_len = len;
			return a;
		}
		at += len;
	}
	return NULL;
}

/* The value of a resident attribute. */
static const uint8_t *value(const uint8_t *a, uint32_t len, uint32_t *ret_len)
{
	uint32_t n = plt_get_le32(a + 16), at = plt_get_le16(a + 20);

	if (a[8] || at < 24 || !plt_in_range(at, n, len))
		return NULL;
	*ret_len = n;
	return a + at;
}

/* The runs of an attribute that holds all of them, by VCN without gaps; their number, or -EBUSY. */
static int runs(struct reader *r, const uint8_t *a, uint32_t len, const char *what, struct ntfs_run *v,
		size_t max, uint64_t *ret_size)
{
	uint32_t at = len >= 0x40 ? plt_get_le16(a + 32) : 0;
	uint64_t lcn = 0, vcn = 0, count;
	const uint8_t *p = a + at;
	size_t n = 0;
	bool hole;

	if (!a[8] || at < 0x40 || at >= len || plt_get_le64(a + 16) || plt_get_le16(a + 12))
		return plt_free_refuse(r->f, "%s is stored in a way that is not supported", what);
	while (plt_ntfs_next_run(r->n, &p, a + len, &lcn, &count, &hole)) {
		if (hole || n == max)
			return plt_free_refuse(r->f, "%s has a hole, or too many runs", what);
		v[n++] = (struct ntfs_run){ vcn, lcn, count };
		vcn += count;
	}
	*ret_size = plt_get_le64(a + 48);
	if (plt_get_le64(a + 24) + 1 != vcn || *ret_size > vcn * r->n->fs.block)
		return plt_free_refuse(r->f, "%s is not all in one record, or its runs are damaged", what);
	return (int)n;
}

static int own_file(struct reader *r, uint64_t number, const char *what, uint64_t *ret_size)
{
	uint32_t len;
	const uint8_t *a;
	int n;

	if (read_record(r, number, what) < 0)
		return -EBUSY;
	a = find(r, A_DATA, &len);
	if (!a)
		return plt_free_refuse(r->f, "%s is not all in one record", what);
	n = runs(r, a, len, what, r->own + r->nown, OWN_MAX - r->nown, ret_size);
	if (n > 0)
		r->nown += (size_t)n;
	return PLT_MIN(n, 0);
}

/* ---- was it closed? --------------------------------------------------------------------------- */

static int check_volume(struct reader *r)
{
	uint32_t len, n;
	const uint8_t *a, *v = NULL;

	if (read_record(r, 3, "$Volume") < 0)
		return -EBUSY;
	a = find(r, A_VOLUME, &len);
	v = a ? value(a, len, &n) : NULL;
	if (!v || n < 12)
		return plt_free_refuse(r->f, "$Volume has no information of the volume");
	if (plt_get_le16(v + 10) & VOLUME_BAD)
		return plt_free_refuse(r->f,
				       "it is dirty: it was not unmounted, or has to be checked (flags %#x)",
				       plt_get_le16(v + 10));
	return 0;
}

/* Bytes [at, at+len) of the runs in r->own[first...]. */
static int read_own(struct reader *r, size_t first, size_t n, uint64_t at, uint8_t *buf, size_t len,
		    const char *what)
{
	uint32_t bs = r->n->fs.block;

	for (size_t i = first; i < first + n && len; i++) {
		const struct ntfs_run *q = &r->own[i];
		uint64_t off = at - q->vcn * bs, part;

		if (at < q->vcn * bs || off >= q->count * bs)
			continue;
		part = PLT_MIN((uint64_t)len, q->count * bs - off);
		if (plt_free_read(r->f, q->lcn * bs + off, buf, (size_t)part, what) < 0)
			return -EBUSY;
		at += part;
		buf += part;
		len -= (size_t)part;
	}
	return len ? plt_free_refuse(r->f, "%s is too short", what) : 0;
}

/* One of the two restart pages: 1 closed, 0 not, -1 it is none. */
static int restart_page(uint8_t *p, uint32_t size, uint64_t *ret_lsn)
{
	uint32_t at;

	if (memcmp(p, "RSTR", 4) || plt_get_le32(p + 16) != size || !plt_ntfs_unfix(p, size, "RSTR"))
		return -1;
	at = plt_get_le16(p + 24);
	if (at < 0x30 || at + 48 > 512)
		return -1;
	*ret_lsn = plt_get_le64(p + at);
	/* version 2 stands there as long as Windows has it mounted, asleep too */
	return plt_get_le16(p + 28) < 2 && (plt_get_le16(p + at + 12) == 0xffff || plt_get_le16(p + at + 14) & 2);
}

static bool all_ones(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != 0xff)
			return false;
	return true;
}

static int check_log(struct reader *r)
{
	uint8_t *buf PLT_AUTOFREE = malloc(65536);
	size_t first = r->nown;
	uint64_t size, lsn[2] = { 0, 0 };
	uint32_t page;
	int closed[2];

	if (!buf)
		return -ENOMEM;
	if (own_file(r, 2, "$LogFile", &size) < 0 ||
	    read_own(r, first, r->nown - first, 0, buf, 4096, "$LogFile") < 0)
		return -EBUSY;
	if (all_ones(buf, 4096))
		return 0; /* emptied by who closed it */
	page = plt_get_le32(buf + 16);
	if (memcmp(buf, "RSTR", 4) || !plt_is_pow2(page) || page < 512 || page > 65536)
		return plt_free_refuse(r->f, "its log has to be replayed: $LogFile does not begin as it should");
	for (unsigned i = 0; i < 2; i++) {
		if (read_own(r, first, r->nown - first, (uint64_t)i * page, buf, page, "$LogFile") < 0)
			return -EBUSY;
		closed[i] = restart_page(buf, page, &lsn[i]);
	}
	if (closed[0] < 0 && closed[1] < 0)
		return plt_free_refuse(r->f,
				       "its log has to be replayed: both restart pages of $LogFile are damaged");
	if (!closed[closed[0] < 0 || (closed[1] >= 0 && lsn[1] > lsn[0])])
		return plt_free_refuse(r->f,
				       "its log has to be replayed: it was not unmounted, or Windows sleeps");
	return 0;
}

/* ---- does anything else read what is free? ------------------------------------------------------ */

/*
 * A shadow copy has its own copies of what was written since; of a file that was deleted since and not yet written over it reads
 * what lies there still, in space that is free now.
 */
static int check_shadows(struct reader *r)
{
	static const uint8_t id[16] = { 0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
					0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52 };
	uint8_t head[512];

	if (plt_free_read(r->f, 0x1e00, head, sizeof(head), "the place of shadow copies") < 0)
		return -EBUSY;
	if (!memcmp(head, id, sizeof(id)) && plt_get_le64(head + 48))
		return plt_free_refuse(r->f,
				       "it has shadow copies (restore points), which need what is free now");
	return 0;
}

/* ---- does Windows sleep? ---------------------------------------------------------------------- */

/* Entries of an index; the number of the record of hiberfil.sys, 0: it is not among them. */
static uint64_t look_for_hiberfil(const uint8_t *p, uint32_t len)
{
	static const char name[] = "hiberfil.sys";

	for (uint32_t at = 0; at + 16 <= len;) {
		uint32_t n = plt_get_le16(p + at + 8);

		if (n < 16 || n > len - at || plt_get_le16(p + at + 12) & 2)
			break;
		if (n >= 16 + 66 + 24 && p[at + 16 + 64] == 12) {
			unsigned same = 0;

			while (same < 12 && (plt_get_le16(p + at + 82 + 2 * same) | 0x20) == (name[same] | 0x20))
				same++;
			if (same == 12)
				return plt_get_le64(p + at) & ((UINT64_C(1) << 48) - 1);
		}
		at += n;
	}
	return 0;
}

/* The folder's blocks, in whatever order. */
static int look_in_blocks(struct reader *r, struct ntfs_run *v, int n, uint64_t size, uint64_t *ret)
{
	uint32_t bs = r->n->fs.block, step = r->n->index_size;
	uint8_t *buf PLT_AUTOFREE = malloc(PLT_MAX(step, bs));
	uint64_t seen = 0;

	if (!buf)
		return -ENOMEM;
	if (size > FOLDER_MAX)
		return plt_free_refuse(r->f, "its root folder of %" PRIu64 " bytes is too large", size);
	for (int i = 0; i < n && !*ret; i++)
		for (uint64_t at = 0; at + step <= v[i].count * bs && seen < size && !*ret;
		     at += step, seen += step) {
			uint32_t first, end;

			if (plt_free_read(r->f, v[i].lcn * bs + at, buf, step, "the root folder") < 0)
				return -EBUSY;
			if (!plt_ntfs_unfix(buf, step, "INDX"))
				continue; /* not in use */
			first = 24 + PLT_MIN(plt_get_le32(buf + 24), step);
			end = 24 + PLT_MIN(plt_get_le32(buf + 28), step);
			if (first <= end && end <= step)
				*ret = look_for_hiberfil(buf + first, end - first);
		}
	return 0;
}

static int check_hiberfil(struct reader *r)
{
	struct ntfs_run *v PLT_AUTOFREE = calloc(4096, sizeof(*v));
	uint64_t record = 0, size;
	uint8_t head[4096];
	const uint8_t *a, *p;
	uint32_t len, n;
	int k, e;

	if (!v)
		return -ENOMEM;
	if (read_record(r, 5, "the root folder") < 0)
		return -EBUSY;
	if (find(r, A_LIST, &len))
		return plt_free_refuse(r->f, "its root folder is too scattered to be followed");
	a = find(r, A_ROOT, &len);
	p = a ? value(a, len, &n) : NULL;
	if (!p || n < 32)
		return plt_free_refuse(r->f, "its root folder is damaged");
	if (plt_get_le32(p + 16) <= n - 16)
		record = look_for_hiberfil(p + 16 + plt_get_le32(p + 16), n - 16 - plt_get_le32(p + 16));
	a = find(r, A_INDEX, &len);
	if (a && !record) {
		k = runs(r, a, len, "the root folder", v, 4096, &size);
		e = k < 0 ? k : look_in_blocks(r, v, k, size, &record);
		if (e < 0)
			return e;
	}
	if (!record)
		return 0;
	if (read_record(r, record, "hiberfil.sys") < 0)
		return -EBUSY;
	a = find(r, A_DATA, &len);
	if (!a || find(r, A_LIST, &n))
		return plt_free_refuse(r->f, "hiberfil.sys is too scattered to be followed: Windows may sleep");
	memset(head, 0, sizeof(head));
	if (!a[8]) {
		p = value(a, len, &n);
		if (p)
			memcpy(head, p, PLT_MIN(n, (uint32_t)sizeof(head)));
	} else {
		k = runs(r, a, len, "hiberfil.sys", v, 4096, &size);
		if (k < 0)
			return k;
		if (k && plt_free_read(r->f, v[0].lcn * r->n->fs.block, head,
				       PLT_MIN(sizeof(head), (size_t)r->n->fs.block), "hiberfil.sys") < 0)
			return -EBUSY;
	}
	if (!plt_is_zero(head, sizeof(head)) && memcmp(head, "wake", 4) && memcmp(head, "WAKE", 4))
		return plt_free_refuse(r->f, "Windows is hibernated: hiberfil.sys holds its memory");
	return 0;
}

/* ---- the bitmap --------------------------------------------------------------------------------- */

static int compare_lcn(const void *a, const void *b)
{
	const struct ntfs_run *x = a, *y = b;

	return x->lcn < y->lcn ? -1 : x->lcn > y->lcn;
}

static int bitmap(struct reader *r)
{
	uint8_t *map PLT_AUTOFREE = malloc(CHUNK);
	struct ntfs_run *v PLT_AUTOFREE = NULL;
	struct plt_free_run run = { 0 };
	size_t first = r->nown, at = 0, n;
	uint64_t size, clusters = r->n->clusters;
	struct reader part;
	int e;

	if (!map)
		return -ENOMEM;
	e = own_file(r, 6, "$Bitmap", &size);
	if (e < 0)
		return e;
	if (size < plt_div_up(clusters, 8))
		return plt_free_refuse(r->f, "$Bitmap has %" PRIu64 " bytes for %" PRIu64 " clusters", size,
				       clusters);
	n = r->nown - first;
	v = calloc(n ? n : 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	memcpy(v, r->own + first, n * sizeof(*v));
	part = (struct reader){ .f = r->f, .n = r->n, .own = v, .nown = n };
	qsort(r->own, r->nown, sizeof(*r->own), compare_lcn);
	for (uint64_t c = 0; e == 0 && c < clusters; c += CHUNK * 8) {
		uint64_t bits = PLT_MIN(clusters - c, (uint64_t)CHUNK * 8);

		if (read_own(&part, 0, n, c / 8, map, (size_t)plt_div_up(bits, 8), "$Bitmap") < 0)
			return -EBUSY;
		for (; at < r->nown && r->own[at].lcn < c + bits; at++) {
			uint64_t from = PLT_MAX(r->own[at].lcn, c), end = r->own[at].lcn + r->own[at].count;

			if (end > from && plt_free_has_zero(map, c, from, PLT_MIN(end, c + bits) - from))
				return plt_free_refuse(
					r->f,
					"its bitmap calls a part of its own files free, at cluster %" PRIu64,
					from);
			if (end > c + bits)
				break;
		}
		if (c == 0 && !(map[0] & 1))
			return plt_free_refuse(r->f, "its bitmap calls the boot sector free");
		e = plt_free_bits(r->f, &run, map, bits, c, 0, r->n->fs.block);
	}
	return e < 0 ? e : plt_free_run_end(r->f, &run, 0, r->n->fs.block);
}

static int walk(struct reader *r)
{
	uint64_t size;
	int e;

	if (r->n->clusters > r->f->vol->size / r->n->fs.block)
		return plt_free_refuse(r->f, "it claims %" PRIu64 " clusters and has room for %" PRIu64,
				       r->n->clusters, r->f->vol->size / r->n->fs.block);
	r->n->stop = true; /* (nobody wants facts) */
	e = plt_ntfs_find_mft(r->n, &size);
	if (e == 0)
		e = own_file(r, 0, "$MFT", &size);
	if (e == 0)
		e = own_file(r, 1, "$MFTMirr", &size);
	if (e == 0)
		e = check_volume(r);
	if (e == 0)
		e = check_log(r);
	if (e == 0)
		e = check_shadows(r);
	if (e == 0)
		e = check_hiberfil(r);
	return e < 0 ? e : bitmap(r);
}

int plt_free_ntfs(struct plt_free *f)
{
	struct reader *r PLT_AUTOFREE = calloc(1, sizeof(*r));
	struct plt_guestfs *fs;
	int e;

	if (!r)
		return -ENOMEM;
	e = plt_guestfs_ntfs.open(f->vol, 0, NULL, 0, &fs);
	if (e < 0)
		return e == -ENOMEM ? e : plt_free_refuse(f, "its boot sector is damaged");
	r->f = f;
	r->n = (struct ntfs *)fs;
	r->own = calloc(OWN_MAX, sizeof(*r->own));
	e = r->own ? walk(r) : -ENOMEM;
	free(r->own);
	plt_guestfs_free(fs);
	return e;
}
