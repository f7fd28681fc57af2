/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Free space of a disk, volume by volume: the partitions, or the whole disk where there are none, and the
 * logical volumes in those.  What a volume holds is told by all signatures at its places: where two do not
 * belong together one of them is old, and nobody can say which, so nothing is given away.
 */
#include "guestfs/free.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "guestfs/supers.h"

#define SECTOR 512
#define AHEAD (65536 + SECTOR + PLT_SUPER_AHEAD) /* to the last signature at the head of a volume */

/* ---- for the readers ---------------------------------------------------------------------------- */

int plt_free_refuse(struct plt_free *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->why, f->why_size, fmt, ap);
	va_end(ap);
	return -EBUSY;
}

int plt_free_read(struct plt_free *f, uint64_t off, void *buf, size_t len, const char *what)
{
	int r = plt_in_range(off, len, f->vol->size) ? f->vol->read(f->vol->arg, off, buf, len) : -EUCLEAN;

	if (r == -EUCLEAN)
		return plt_free_refuse(f, "%s lies outside, at %#" PRIx64, what, off);
	return r ? plt_free_refuse(f, "%s at %#" PRIx64 " cannot be read: %s", what, off, strerror(-r)) : 0;
}

int plt_free_add(struct plt_free *f, uint64_t off, uint64_t len)
{
	if (!plt_in_range(off, len, f->vol->size))
		return plt_free_refuse(f, "its map names free space outside, at %#" PRIx64, off);
	f->free += len;
	return f->range ? f->range(f, off, len) : 0;
}

bool plt_free_has_zero(const uint8_t *map, uint64_t first, uint64_t unit, uint64_t n)
{
	for (uint64_t i = unit - first; i < unit - first + n; i++)
		if (!(map[i / 8] >> i % 8 & 1))
			return true;
	return false;
}

uint64_t plt_free_zeros(const uint8_t *map, uint64_t n)
{
	uint64_t zeros = n;

	for (uint64_t i = 0; i < n / 8; i++)
		zeros -= (unsigned)__builtin_popcount(map[i]);
	for (uint64_t i = n & ~UINT64_C(7); i < n; i++)
		zeros -= map[i / 8] >> i % 8 & 1;
	return zeros;
}

int plt_free_run_end(struct plt_free *f, struct plt_free_run *run, uint64_t base, uint64_t size)
{
	int r = run->len ? plt_free_add(f, base + run->start * size, run->len * size) : 0;

	run->len = 0;
	return r;
}

int plt_free_bits(struct plt_free *f, struct plt_free_run *run, const uint8_t *map, uint64_t nbits, uint64_t unit,
		  uint64_t base, uint64_t size)
{
	for (uint64_t i = 0; i < nbits;) {
		uint8_t byte = map[i / 8];
		/* whole bytes that are alike go at once */
		uint64_t n = i % 8 == 0 && nbits - i >= 8 && (byte == 0 || byte == 0xff) ? 8 : 1;
		bool used = byte >> i % 8 & 1;
		int r = 0;

		if (used) {
			r = plt_free_run_end(f, run, base, size);
		} else if (run->len && run->start + run->len == unit + i) {
			run->len += n;
		} else {
			r = plt_free_run_end(f, run, base, size);
			*run = (struct plt_free_run){ unit + i, n };
		}
		if (r < 0)
			return r;
		i += n;
	}
	return 0;
}

/* ---- swap --------------------------------------------------------------------------------------- */

int plt_free_swap(struct plt_free *f)
{
	uint8_t head[SECTOR * 4], sign[10];
	uint32_t page, last, bad;

	for (page = 4096; page <= 65536; page *= 2) {
		if (plt_free_read(f, page - 10, sign, 10, "the signature") < 0)
			return -EBUSY;
		if (!memcmp(sign, "SWAPSPACE2", 10))
			break;
	}
	if (page > 65536)
		return plt_free_refuse(f, "its signature is none");
	if (plt_free_read(f, 0, head, sizeof(head), "the header") < 0)
		return -EBUSY;
	last = plt_get_le32(head + 1028);
	bad = plt_get_le32(head + 1032);
	if (plt_get_le32(head + 1024) != 1)
		return plt_free_refuse(f, "its version is %" PRIu32 ", not 1", plt_get_le32(head + 1024));
	if (!last || last >= f->vol->size / page)
		return plt_free_refuse(f, "its last page is %" PRIu32 ", and it has room for %" PRIu64, last,
				       f->vol->size / page);
	if (bad)
		return plt_free_refuse(f, "it has %" PRIu32 " bad pages", bad);
	return plt_free_add(f, page, (uint64_t)last * page);
}

/* ---- volumes ------------------------------------------------------------------------------------ */

/* What a logical volume or a partition is as a disk of its own. */
struct window {
	struct plt_guest guest;
	const struct plt_guest *disk;
	const struct plt_lv_piece *piece; /* ascending, without gaps */
	unsigned n;
};

static int window_read(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct window *w = arg;
	uint8_t *p = buf;

	for (unsigned i = 0; i < w->n && len; i++) {
		const struct plt_lv_piece *q = &w->piece[i];
		size_t n;
		int r;

		if (off >= q->off + q->len)
			continue;
		n = (size_t)PLT_MIN((uint64_t)len, q->off + q->len - off);
		r = w->disk->read(w->disk->arg, q->pv_off + (off - q->off), p, n);
		if (r)
			return r;
		off += n;
		p += n;
		len -= n;
	}
	return len ? -EUCLEAN : 0;
}

/*
 * All volumes are judged before anything of the first is given away: a system that sleeps on one of them has the others
 * mounted, and knows maps of them that nobody can read.
 */
struct walk {
	const struct plt_guest *disk;
	const struct plt_free_sink *sink;
	bool ambiguous; /* of all there is on the disk */
	struct plt_free_volume *v;
	unsigned n, cap, at;
	bool judged; /* the second time: all are in v, and at is the next one */
};

static int judged(struct walk *wk, const struct plt_free_volume *v)
{
	if (wk->n == wk->cap) {
		unsigned cap = wk->cap ? 2 * wk->cap : 16;
		void *t = realloc(wk->v, cap * sizeof(*wk->v));

		if (!t)
			return -ENOMEM;
		wk->v = t;
		wk->cap = cap;
	}
	wk->v[wk->n++] = *v;
	return 0;
}

static int hand_out(struct plt_free *f, uint64_t off, uint64_t len)
{
	const struct window *w = f->vol->arg;
	const struct plt_free_sink *sink = f->arg;

	for (unsigned i = 0; i < w->n && len; i++) {
		const struct plt_lv_piece *q = &w->piece[i];
		uint64_t n;

		if (off >= q->off + q->len)
			continue;
		n = PLT_MIN(len, q->off + q->len - off);
		f->result = sink->range(sink->arg, q->pv_off + (off - q->off), n);
		if (f->result < 0)
			return f->result;
		off += n;
		len -= n;
	}
	return 0;
}

struct signatures {
	unsigned kinds; /* a bit for each enum plt_super_kind */
	struct plt_super first;
};

static bool note(void *arg, const struct plt_super *s)
{
	struct signatures *sig = arg;

	if (s->start != 0 || s->copy)
		return true;
	if (!sig->kinds)
		sig->first = *s;
	sig->kinds |= 1u << s->kind;
	return true;
}

/* All places at which anything may say what the volume is; md also at the end. */
static int signatures(const struct plt_guest *vol, struct signatures *ret)
{
	static const struct {
		uint64_t off;
		uint32_t len;
	} places[] = { { 0, AHEAD }, { 1 << 20, 8192 } };
	uint8_t *buf PLT_AUTOFREE = calloc(1, AHEAD);
	uint64_t size = plt_align_down(vol->size, SECTOR);

	*ret = (struct signatures){ 0 };
	if (!buf)
		return -ENOMEM;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(places); i++) {
		size_t len;
		int r;

		if (places[i].off >= size)
			continue;
		len = (size_t)PLT_MIN((uint64_t)places[i].len, size - places[i].off);
		r = vol->read(vol->arg, places[i].off, buf, len);
		if (r)
			return r;
		plt_supers(buf, PLT_MAX(len, (size_t)PLT_SUPER_AHEAD) - PLT_SUPER_AHEAD, len, places[i].off, note,
			   ret);
	}
	if (size >= 1 << 20) {
		uint64_t md[] = { plt_align_down(size, 65536) - 65536, plt_align_down(size - 8192, 4096) };

		for (unsigned i = 0; i < 2; i++) {
			int r = vol->read(vol->arg, md[i], buf, SECTOR);

			if (r)
				return r;
			if (plt_get_le32(buf) == 0xa92b4efc)
				ret->kinds |= 1u << PLT_SUPER_MD;
		}
	}
	return 0;
}

/* A system that is to wake up has its memory here, and everything mounted. */
static bool hibernated(const struct plt_guest *vol)
{
	static const char *const signs[] = { "S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001" };
	uint8_t sign[10];

	for (uint32_t page = 4096; page <= 65536; page *= 2)
		if (plt_in_range(page - 10, 10, vol->size) && !vol->read(vol->arg, page - 10, sign, 10))
			for (unsigned i = 0; i < PLT_ARRAY_SIZE(signs); i++)
				if (!memcmp(sign, signs[i], strlen(signs[i])))
					return true;
	return false;
}

typedef int (*reader_fn)(struct plt_free *f);

static reader_fn reader_of(enum plt_super_kind kind)
{
	switch (kind) {
	case PLT_SUPER_EXT:
		return plt_free_ext;
	case PLT_SUPER_XFS:
		return plt_free_xfs;
	case PLT_SUPER_NTFS:
		return plt_free_ntfs;
	case PLT_SUPER_FAT:
		return plt_free_fat;
	case PLT_SUPER_SWAP:
		return plt_free_swap;
	default:
		return NULL;
	}
}

/* A volume that holds a filesystem, or nothing that we know; @v has its name. */
static int filesystem(struct walk *wk, const struct window *w, const struct signatures *sig,
		      struct plt_free_volume *v)
{
	struct plt_free f = {
		.vol = &w->guest, .why = v->why, .why_size = sizeof(v->why), .arg = (void *)(uintptr_t)wk->sink
	};
	reader_fn read = sig->kinds ? reader_of((enum plt_super_kind)sig->first.kind) : NULL;
	int r = 0;

	if (wk->judged && wk->at == wk->n)
		return -EIO; /* what could be read is no more */
	if (wk->judged) {
		*v = wk->v[wk->at++];
		r = wk->sink->volume(wk->sink->arg, v);
		if (r <= 0 || v->why[0] || !read)
			return PLT_MIN(r, 0);
		f.range = hand_out;
		r = read(&f);
		return f.result < 0 ? f.result : r == -EBUSY ? -EIO : r;
	}
	if (sig->kinds) {
		snprintf(v->what, sizeof(v->what), "%s", sig->first.name);
		snprintf(v->label, sizeof(v->label), "%s", sig->first.label);
	}
	if (hibernated(&w->guest)) {
		snprintf(v->what, sizeof(v->what), "swap");
		plt_free_refuse(&f, "a system is hibernated on it");
	} else if (wk->ambiguous) {
		plt_free_refuse(&f,
				"the disk has a partition table and a boot sector of a filesystem in one place");
	} else if (sig->kinds & (sig->kinds - 1)) {
		plt_free_refuse(&f, "it has signatures of more than one kind, and one of them is old");
	} else if (!sig->kinds) {
		plt_free_refuse(&f, "nothing that is known");
	} else if (!read) {
		plt_free_refuse(&f, "%s is not supported", v->what);
	} else {
		v->kind = sig->first.kind == PLT_SUPER_SWAP ? PLT_FREE_SWAP : PLT_FREE_FILESYSTEM;
		r = read(&f);
		if (r == 0)
			v->free = f.free;
		else if (r != -EBUSY)
			return r;
	}
	return judged(wk, v);
}

/* One of which nothing more is to be had than why. */
static int left_alone(struct walk *wk, const struct plt_free_volume *v)
{
	if (wk->judged && wk->at == wk->n)
		return -EIO;
	return wk->judged ? PLT_MIN(wk->sink->volume(wk->sink->arg, &wk->v[wk->at++]), 0) : judged(wk, v);
}

struct lvm {
	struct walk *walk;
	const struct window *pv;
};

static int logical(void *arg, const char *name, const struct plt_lv_piece *v, unsigned n, uint64_t size,
		   const char *why)
{
	struct lvm *l = arg;
	struct window w = { .disk = &l->pv->guest, .piece = v, .n = n };
	struct plt_free_volume vol = { .len = size };
	struct plt_lv_piece *own PLT_AUTOFREE = calloc(n ? n : 1, sizeof(*own));
	struct signatures sig;
	int r;

	snprintf(vol.name, sizeof(vol.name), "%s", name);
	if (!own)
		return -ENOMEM;
	/* (a physical volume lies in one piece) */
	for (unsigned i = 0; i < n; i++) {
		own[i] = v[i];
		own[i].pv_off += l->pv->piece[0].pv_off;
	}
	w.disk = l->pv->disk;
	w.piece = own;
	w.guest = (struct plt_guest){ .read = window_read, .arg = &w, .size = size };
	vol.start = n ? own[0].pv_off : l->pv->piece[0].pv_off;
	if (why) {
		snprintf(vol.why, sizeof(vol.why), "%s", why);
		return left_alone(l->walk, &vol);
	}
	r = signatures(&w.guest, &sig);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		snprintf(vol.why, sizeof(vol.why), "it cannot be read: %s", strerror(-r));
		return left_alone(l->walk, &vol);
	}
	return filesystem(l->walk, &w, &sig, &vol);
}

static int volume(struct walk *wk, uint64_t start, uint64_t len)
{
	struct plt_lv_piece piece = { .pv_off = start, .len = len };
	struct window w = { .disk = wk->disk, .piece = &piece, .n = 1 };
	struct plt_free_volume v = { .start = start, .len = len };
	struct signatures sig;
	int r;

	w.guest = (struct plt_guest){ .read = window_read, .arg = &w, .size = len };
	r = signatures(&w.guest, &sig);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		snprintf(v.why, sizeof(v.why), "it cannot be read: %s", strerror(-r));
		return left_alone(wk, &v);
	}
	if (sig.kinds == 1u << PLT_SUPER_LVM && !wk->ambiguous) {
		struct plt_free f = { .vol = &w.guest, .why = v.why, .why_size = sizeof(v.why) };
		struct lvm l = { wk, &w };

		snprintf(v.what, sizeof(v.what), "%s", sig.first.name);
		r = plt_free_lvm(&f, logical, &l);
		return r == -EBUSY ? left_alone(wk, &v) : r;
	}
	return filesystem(wk, &w, &sig, &v);
}

static int volumes(struct walk *wk, const struct plt_part *part, unsigned n)
{
	int r = 0;

	if (!n)
		return wk->disk->size ? volume(wk, 0, wk->disk->size) : 0;
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = volume(wk, part[i].start, part[i].len);
	return r;
}

static void nobody_sleeps(struct walk *wk)
{
	bool asleep = false;

	for (unsigned i = 0; i < wk->n; i++)
		asleep = asleep || strstr(wk->v[i].why, "hibernated");
	for (unsigned i = 0; asleep && i < wk->n; i++)
		if (!wk->v[i].why[0]) {
			snprintf(wk->v[i].why, sizeof(wk->v[i].why),
				 "a system that is hibernated on this disk may have it mounted");
			wk->v[i].free = 0;
		}
}

int plt_free_maps(const struct plt_guest *disk, const struct plt_free_sink *sink)
{
	struct plt_part *part PLT_AUTOFREE = calloc(PLT_PARTS_MAX, sizeof(*part));
	struct walk wk = { .disk = disk, .sink = sink };
	struct plt_super s;
	unsigned n;
	bool sure;
	int r;

	if (!part)
		return -ENOMEM;
	r = plt_parts_read(disk, part, &n, &sure);
	if (r < 0)
		return r;
	/* A boot sector may look like a table of partitions; and a filesystem may have been there before. */
	wk.ambiguous = n && !sure && plt_super_first(disk, 0, &s) && plt_super_verify(disk, &s) > 0;
	r = volumes(&wk, part, n);
	nobody_sleeps(&wk);
	wk.judged = true;
	if (r == 0)
		r = volumes(&wk, part, n);
	free(wk.v);
	return r;
}
