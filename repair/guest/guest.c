/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The examination of a guest's disk.  First whose table says where volumes are, then each volume's beginning.  A disk
 * that is sound has no findings, and one that is empty is sound.  The invariant: what is written is a structure of
 * which a copy, or everything that it says, is still on the disk; and nothing is written where a volume that
 * was recognised has its own bytes, but for its own superblock.
 *
 * A sector that cannot be read is lost, and said to be; what lies around it is looked at all the same.
 */
#include "repair/guest/guest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "base/zero.h"

#define PASS_BYTES (UINT64_C(4) << 20)
#define SMALL 65536

/* ---- reading --------------------------------------------------------------------------------- */

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	struct guest_exam *x = arg;
	int r = plt_store_read(x->st, off, buf, len, PLT_IO_OTHER, NULL);

	if (r == -EIO && x->mend && len <= SMALL) /* (of more the caller asks once more, in pieces) */
		for (uint64_t at = plt_align_down(off, GUEST_SECTOR); at < off + len; at += GUEST_SECTOR) {
			struct plt_doubt d = { .kind = PLT_LOST, .disk = PLT_DISK_ACTIVE, .off = at, .len = GUEST_SECTOR };
			uint8_t sector[GUEST_SECTOR];

			if (plt_store_read(x->st, at, sector, sizeof(sector), PLT_IO_OTHER, NULL) != -EIO)
				continue;
			snprintf(d.why, sizeof(d.why), "it cannot be read");
			(void)plt_doubts_set(&x->mend->doubts, &d);
		}
	return r;
}

struct gather {
	struct plt_super *v;
	unsigned n, cap;
	bool full;
};

static bool keep(void *arg, const struct plt_super *s)
{
	struct gather *g = arg;

	if (g->n == g->cap) {
		unsigned cap = g->cap ? 2 * g->cap : 64;
		struct plt_super *grown = cap > GUEST_VOLUMES_MAX ? NULL : realloc(g->v, cap * sizeof(*grown));

		if (!grown) {
			g->full = true;
			return false;
		}
		g->v = grown;
		g->cap = cap;
	}
	g->v[g->n++] = *s;
	return true;
}

int guest_volumes(struct guest_exam *x, uint64_t from, uint64_t to, struct plt_super **ret, unsigned *ret_n)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PASS_BYTES + PLT_SUPER_AHEAD);
	struct gather g = { 0 };
	int r = buf ? 0 : -ENOMEM;

	from = plt_align_down(from, GUEST_SECTOR);
	for (uint64_t off = from, n; off < to && r == 0 && !g.full; off += n) {
		enum plt_store_kind kind;
		uint64_t have;

		r = plt_store_extents(x->st, off, to - off, &kind, &n, NULL);
		if (r < 0)
			break;
		n = PLT_MIN(n, to - off);
		if (kind == PLT_STORE_HOLE && n >= GUEST_SECTOR) {
			n = plt_align_down(n, GUEST_SECTOR);
			continue;
		}
		n = PLT_MIN(plt_align_up(n, GUEST_SECTOR), PASS_BYTES);
		have = PLT_MIN(n + PLT_SUPER_AHEAD, x->disk.size - off);
		if (have < GUEST_SECTOR)
			break;
		if (read_disk(x, off, buf, have) < 0) { /* once more, in pieces: what is around the bad ones counts */
			memset(buf, 0, have);
			for (uint64_t at = 0; at < have; at += PLT_MIN(have - at, UINT64_C(4096)))
				(void)read_disk(x, off + at, buf + at, PLT_MIN(have - at, UINT64_C(4096)));
		}
		plt_supers(buf, PLT_MIN(n, plt_align_down(have, GUEST_SECTOR)), have, off, keep, &g);
	}
	*ret = g.v;
	*ret_n = g.n;
	return r;
}

/* ---- saying and writing ---------------------------------------------------------------------- */

void guest_found(struct guest_exam *x, const char *id, bool mended, uint64_t off, uint64_t len, const char *fmt, ...)
{
	char text[400];
	struct plt_check_finding f = { .id = id, .severity = "corruption", .text = text, .mended = mended, .host_off = off,
				       .host_len = len, .guest_off = off, .guest_len = len };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (mended) {
		x->mend->changed = true;
		x->res->corruptions_fixed++;
	} else {
		x->res->corruptions++;
	}
	if (x->found)
		x->found(x->arg, &f);
}

int guest_put(struct guest_exam *x, uint64_t off, const void *bytes, size_t len, enum plt_certainty certainty,
	      const char *why)
{
	struct plt_doubt d = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .off = off, .len = len, .certainty = certainty };
	int r = plt_store_write(x->st, off, bytes, len, PLT_IO_OTHER, NULL);

	if (r < 0 || certainty == PLT_PROVEN)
		return r;
	snprintf(d.why, sizeof(d.why), "%s", why);
	return plt_doubts_set(&x->mend->doubts, &d);
}

void guest_note(struct guest_exam *x, const char *id, uint64_t off, uint64_t len, const char *text)
{
	struct plt_check_finding f = { .id = id, .severity = "note", .text = text, .host_off = off, .host_len = len,
				       .guest_off = off, .guest_len = len };

	if (x->found)
		x->found(x->arg, &f);
}

/* ---- foreign beginnings ---------------------------------------------------------------------- */

static void say_foreign(struct guest_exam *x)
{
	uint8_t p[GUEST_SECTOR];
	uint64_t end = plt_align_down(x->disk.size, GUEST_SECTOR);

	if (end < 2 * GUEST_SECTOR || read_disk(x, end - GUEST_SECTOR, p, sizeof(p)) < 0)
		return;
	if (!memcmp(p, "conectix", 8) && plt_get_be32(p + 60) == 2 && plt_get_be64(p + 48) == end - GUEST_SECTOR)
		guest_note(x, "R-OFF", end - GUEST_SECTOR, GUEST_SECTOR, "the file ends with the footer of a fixed VHD: the "
			   "last sector is not the disk's, -f vpc knows that");
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Nothing was ever written there: a hole, or zeros in the first and the last MiB. */
static bool is_empty(struct guest_exam *x)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(1 << 20);
	uint64_t n = PLT_MIN(x->disk.size, UINT64_C(1) << 20);

	return buf && read_disk(x, 0, buf, n) == 0 && plt_is_zero(buf, n) &&
	       read_disk(x, x->disk.size - n, buf, n) == 0 && plt_is_zero(buf, n);
}

static int say_unknown(struct guest_exam *x)
{
	const struct plt_part whole = { .len = x->disk.size };
	bool said;
	int r = guest_say_remains(x, &whole, &said);

	if (r == 0 && !said)
		guest_note(x, "R-PT-2", 0, x->disk.size, "no partition table, filesystem or volume is where one would begin, and "
			   "no remains of any are found: what the disk holds is not known");
	return r;
}

int plt_guest_examine(struct plt_store *st, struct plt_mend *mend,
		      void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		      struct plt_check_result *ret, struct plt_error *err)
{
	struct guest_exam *x = calloc(1, sizeof(*x));
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->format = "raw";
	if (!x)
		return plt_error_set(err, ENOMEM, "out of memory");
	*x = (struct guest_exam){ .st = st, .mend = mend, .found = found, .arg = arg, .res = ret };
	x->disk = (struct plt_guest){ .read = read_disk, .arg = x };
	r = plt_store_size(st, &x->disk.size, err);
	if (r == 0 && x->disk.size >= 4 * GUEST_SECTOR) {
		say_foreign(x);
		r = guest_mend_table(x);
		if (r == 0 && !(mend && mend->changed) && x->table == GUEST_NO_TABLE && !is_empty(x))
			r = say_unknown(x);
		for (unsigned i = 0; i < x->nparts && r == 0 && !(mend && mend->changed); i++)
			r = guest_mend_volume(x, &x->parts[i]);
		r = r < 0 ? plt_error_set(err, -r, "the disk cannot be examined") : 0;
	}
	free(x);
	return r;
}
