/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What the parent of a differencing disk knows.  Two things are asked of it.  Is it the parent at all, where the
 * child records another identity than the file has that its own names lead to?  And where do blocks of the child
 * belong whose table is lost: a block that was written over mostly keeps some sectors as they were (a table of inodes
 * of which one has changed, a text with one new line), so it agrees with its parent at its own place, and nowhere else.
 *
 * The invariant: sectors speak only if they are neither empty nor (where others do) uniform, and for a place only if
 * the parent has them at no other.  Memory: 24 bytes for each such sector of the child, at most SECTORS_MAX; the parent
 * is read once.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "formats/driver.h"
#include "guestfs/weigh.h"
#include "repair/repair.h"

#define SECTOR 512
#define PIECE (64u << 10)
#define SECTORS_MAX (8u << 20) /* 4 GiB of the child's blocks */
#define SPEAKS 32              /* bytes of a sector that are not zero, at least */
#define ENOUGH 2               /* sectors that agree */
#define HOME_MAX (UINT64_C(256) << 20) /* bytes of a child that are held against a parent that may be another's */
#define HOME_ENOUGH 8

/* ---- opening --------------------------------------------------------------------------------- */

static int open_named(struct plt_repair *rep, const char *option, struct plt_disk **ret, struct plt_error *err)
{
	const char *const options[] = { option, NULL };
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	o.flags = PLT_OPEN_NO_KEY;
	o.options = option ? options : NULL;
	return plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, ret, err);
}

/* Does the image as it is planned stand on another?  *ret_alone: it, without that one. */
static bool is_child(struct plt_repair *rep, struct plt_disk **ret_alone)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	*ret_alone = NULL;
	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	return !rep->no_backing &&
	       plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, ret_alone, NULL) == 0 &&
	       plt_disk_image(*ret_alone)->backing_name;
}

/*
 * Do its names lead to the one that it records?  Told from the ids alone: what lies further down is not opened, so that
 * looking at each layer of a chain opens each file a few times, and not as often as there are layers above it.
 */
static bool finds_parent(struct plt_repair *rep)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;

	o.flags = PLT_OPEN_INSPECT | PLT_OPEN_FIND_BACKING | PLT_OPEN_NO_KEY;
	if (plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, &disk, NULL) < 0)
		return false;
	plt_disk_close(disk, NULL);
	return true;
}

/* The image right below @child, as a disk of its own. */
static int open_below(struct plt_repair *rep, struct plt_disk *child, struct plt_disk **ret)
{
	const struct plt_image *below = plt_image_backing(plt_disk_image(child));
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	if (!below)
		return -ENOENT;
	o.flags = PLT_OPEN_NO_KEY | (plt_repair_ask_below(rep, child) ? PLT_OPEN_RESCUE | PLT_OPEN_NESTED_RESCUE : 0);
	o.format = below->drv->name;
	return plt_disk_open(rep->ctx, below->name, &o, ret, NULL);
}

int plt_repair_open_parent(struct plt_repair *rep, struct plt_disk **ret)
{
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *alone, *chain = NULL;
	int r = is_child(rep, &alone) ? 0 : -ENOENT;

	how.flags = PLT_OPEN_NO_KEY;
	if (r == 0)
		r = plt_repair_open_chain(rep, rep->overlay, &how, &chain, NULL);
	*ret = NULL;
	if (r == 0)
		r = open_below(rep, chain, ret);
	plt_disk_close(chain, NULL);
	plt_disk_close(alone, NULL);
	return r;
}

/* ---- sectors --------------------------------------------------------------------------------- */

bool plt_repair_speaks(const uint8_t *p)
{
	unsigned n = 0;

	if (!memcmp(p, p + 1, SECTOR - 1))
		return false;
	for (unsigned i = 0; i < SECTOR && n < SPEAKS; i++)
		n += p[i] != 0;
	return n >= SPEAKS;
}

typedef int (*sector_fn)(void *arg, uint64_t off, const uint8_t *p);

/* Every sector that is not zeros of what @disk has in [off, off+len); @top: itself, not what it stands on. */
static int each_sector(struct plt_disk *disk, uint64_t off, uint64_t len, bool top, sector_fn fn, void *arg)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PIECE);
	uint64_t end = off + PLT_MIN(len, plt_disk_size(disk) - PLT_MIN(off, plt_disk_size(disk)));
	unsigned flags = PLT_STATUS_NO_HOST | (top ? PLT_STATUS_TOP_ONLY : 0);
	int r = buf ? 0 : -ENOMEM;

	while (off < end && r == 0) {
		struct plt_extent e[16];
		unsigned n;

		r = plt_status(disk, off, end - off, flags, e, PLT_ARRAY_SIZE(e), &n, NULL);
		for (unsigned i = 0; i < n && r == 0; i++) {
			off = e[i].off + e[i].len;
			if (e[i].flags & PLT_EXTENT_ZERO || (top && !(e[i].flags & PLT_EXTENT_PRESENT)))
				continue;
			for (uint64_t at = e[i].off, k; at < off && r == 0; at += k) {
				k = PLT_MIN(off - at, (uint64_t)PIECE - at % PIECE);
				if (plt_read(disk, at, buf, (size_t)k, NULL) < 0)
					continue; /* (damaged: it says nothing) */
				for (uint64_t s = 0; s + SECTOR <= k && r == 0; s += SECTOR)
					if (!plt_is_zero(buf + s, SECTOR))
						r = fn(arg, at + s, buf + s);
			}
		}
		if (r == 0 && !n)
			break;
	}
	return r;
}

/* ---- is it the parent? ----------------------------------------------------------------------- */

struct home {
	struct plt_disk *parent;
	uint64_t same, seen, left;
};

static int at_home(void *arg, uint64_t off, const uint8_t *p)
{
	struct home *h = arg;
	uint8_t q[SECTOR];

	if (!plt_repair_speaks(p))
		return 0;
	if (!h->left--)
		return 1;
	h->seen++;
	if (off + SECTOR <= plt_disk_size(h->parent) && plt_read(h->parent, off, q, SECTOR, NULL) == 0)
		h->same += !memcmp(p, q, SECTOR);
	return 0;
}

/*
 * Is the image below @chain the one that the child was made on?  Their content says so: the child has written over what it
 * has, and with both together the guest's own metadata verify.
 */
static bool belongs(struct plt_disk *alone, struct plt_disk *chain, struct plt_disk *parent, char *ret_why, size_t len)
{
	struct home h = { .parent = parent, .left = HOME_MAX / SECTOR };
	struct plt_weighed w;

	*ret_why = '\0';
	if (each_sector(alone, 0, plt_disk_size(alone), true, at_home, &h) < 0 ||
	    plt_guest_weigh_disk(chain, NULL, &w, NULL) < 0)
		return false;
	snprintf(ret_why, len, "%" PRIu64 " of %" PRIu64 " sectors that it holds itself are what is below them; of the guest's "
		 "metadata %" PRIu64 " verify, %" PRIu64 " do not", h.same, h.seen, w.good, w.bad);
	return h.same >= HOME_ENOUGH && h.same >= h.seen / 100 && w.bad <= w.good / 100;
}

bool plt_rescue_fits(struct plt_image *img, char *ret_why, size_t len)
{
	struct plt_disk *chain = plt_disk_view(img), *parent = plt_disk_view(plt_image_backing(img));
	bool fits = chain && parent && plt_disk_size(parent) == plt_disk_size(chain) &&
		    belongs(chain, chain, parent, ret_why, len);

	plt_disk_release_layer(chain);
	plt_disk_release_layer(parent);
	return fits;
}

static void say(struct plt_repair *rep, bool mended, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		const char *text)
{
	const struct plt_check_finding f = { .id = "V-PARENT", .severity = "corruption", .text = text, .beyond_qemu = true,
					     .mended = mended };

	rep->before.corruptions_fixed += mended;
	rep->before.added += !mended;
	if (found)
		found(arg, &f);
}

int plt_repair_adopt(struct plt_repair *rep, struct plt_doubts *doubts,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg, bool *ret_done,
		     struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	struct plt_disk *alone = NULL, *chain = NULL, *parent = NULL;
	struct plt_error why = PLT_ERROR_INIT;
	char agrees[200], text[1200];
	int r = 0;

	*ret_done = false;
	if (!drv || !drv->adopt_parent || !is_child(rep, &alone) || finds_parent(rep))
		goto out;
	r = open_named(rep, NULL, &chain, &why);
	if (r != -ESTALE)
		goto out; /* it is the one; or there is none, which is a matter of the chain */
	r = open_named(rep, drv->any_parent, &chain, NULL);
	if (r == 0)
		r = open_below(rep, chain, &parent);
	if (r < 0 || plt_disk_size(parent) != plt_disk_size(alone))
		goto out;
	if (belongs(alone, chain, parent, agrees, sizeof(agrees))) {
		struct plt_doubt d = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .len = plt_disk_size(alone),
				       .certainty = PLT_STRONG };

		r = drv->adopt_parent(rep->overlay, plt_image_backing(plt_disk_image(chain)), err);
		snprintf(d.why, sizeof(d.why), "its parent has another unique id than it recorded");
		if (r == 0)
			r = plt_doubts_set(doubts, &d);
		snprintf(text, sizeof(text), "Repairing the unique id of the parent: '%s' has another, and its content is the "
			 "parent's (strong: %s)", plt_disk_name(parent), agrees);
		*ret_done = r == 0;
		say(rep, true, found, arg, text);
	} else {
		snprintf(text, sizeof(text), "%s; its content does not show that it is the parent (%s)", why.text, agrees);
		say(rep, false, found, arg, text);
	}
out:
	plt_disk_close(parent, NULL);
	plt_disk_close(chain, NULL);
	plt_disk_close(alone, NULL);
	return *ret_done ? r : r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- where blocks belong --------------------------------------------------------------------- */

#define MANY (UINT32_MAX - 1)
#define NOWHERE UINT32_MAX

/* A sector of a piece; and the place, by its index, where the parent has the same at this distance from the beginning. */
struct entry { uint64_t key; uint32_t piece, slot; bool plain; };

struct agree {
	const struct plt_orphans *o;
	struct entry *v;
	size_t n, cap;
	uint32_t slot;         /* at hand */
	bool *speaks;          /* pieces with sectors that do: of others what is uniform counts as well */
};

static uint64_t key_of(uint64_t in, const uint8_t *p)
{
	uint64_t h = in * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (unsigned i = 0; i < SECTOR; i += 8) {
		h = (h ^ plt_get_le64(p + i)) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	return h;
}

static int add_sector(void *arg, uint64_t off, const uint8_t *p)
{
	struct agree *a = arg;

	if (a->n == a->cap) {
		size_t cap = a->cap ? 2 * a->cap : 4096;
		struct entry *grown = cap > SECTORS_MAX ? NULL : realloc(a->v, cap * sizeof(*grown));

		if (!grown)
			return cap > SECTORS_MAX ? 1 : -ENOMEM;
		a->v = grown;
		a->cap = cap;
	}
	a->v[a->n++] = (struct entry){ key_of(off % a->o->span, p), (uint32_t)(off / a->o->span), NOWHERE, !plt_repair_speaks(p) };
	if (!a->v[a->n - 1].plain)
		a->speaks[a->v[a->n - 1].piece] = true;
	return 0;
}

static int by_key(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key ? 1 : x->piece < y->piece ? -1 : x->piece > y->piece;
}

static int by_pair(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->piece != y->piece)
		return x->piece < y->piece ? -1 : 1;
	return x->slot < y->slot ? -1 : x->slot > y->slot ? 1 : x->plain - y->plain;
}

static int match_sector(void *arg, uint64_t off, const uint8_t *p)
{
	struct agree *a = arg;
	uint64_t key = key_of(off % a->o->span, p);
	size_t lo = 0, hi = a->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (a->v[mid].key < key)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < a->n && a->v[lo].key == key; lo++)
		a->v[lo].slot = a->v[lo].slot == NOWHERE || a->v[lo].slot == a->slot ? a->slot : MANY;
	return 0;
}

struct best { uint32_t id, first, second; };

static void rank(struct best *b, uint32_t id, uint32_t n)
{
	if (n > b->first)
		*b = (struct best){ id, n, b->first };
	else if (n > b->second)
		b->second = n;
}

/* Of pairs that are each other's best those that are so by far. */
static int choose(struct agree *a, enum plt_certainty least, struct plt_orphan **ret, size_t *ret_n)
{
	const struct plt_orphans *o = a->o;
	PLT_AUTOFREE struct best *of_piece = calloc(o->n + 1, sizeof(*of_piece));
	PLT_AUTOFREE struct best *of_slot = calloc(o->ngaps + 1, sizeof(*of_slot));

	*ret = calloc(o->n + 1, sizeof(**ret));
	if (!of_piece || !of_slot || !*ret)
		return -ENOMEM;
	qsort(a->v, a->n, sizeof(*a->v), by_pair);
	for (size_t i = 0, j; i < a->n; i = j) {
		for (j = i + 1; j < a->n && !by_pair(&a->v[i], &a->v[j]); j++)
			;
		if (a->v[i].slot < MANY && !(a->v[i].plain && a->speaks[a->v[i].piece])) {
			rank(&of_piece[a->v[i].piece], a->v[i].slot, (uint32_t)(j - i));
			rank(&of_slot[a->v[i].slot], a->v[i].piece, (uint32_t)(j - i));
		}
	}
	for (uint32_t i = 0; i < o->n; i++) {
		const struct best *p = &of_piece[i], *s = &of_slot[p->id];
		uint32_t other = PLT_MAX(p->second, s->second);
		enum plt_certainty c = p->first >= ENOUGH && p->first / 4 >= other ? PLT_STRONG : PLT_LIKELY;
		struct plt_orphan *t = &(*ret)[*ret_n];

		if (!p->first || s->id != i || s->first != p->first || p->first / 2 < other || c < least)
			continue;
		*t = o->v[i];
		t->guest_off = o->gaps[p->id];
		t->certainty = c;
		snprintf(t->why, sizeof(t->why), "%u of its sectors are what its parent has there", p->first);
		++*ret_n;
	}
	return 0;
}

static int place_over(struct plt_repair *rep, const struct plt_orphans *o, struct plt_disk *pieces,
		      struct plt_disk *parent, struct plt_orphan **ret, size_t *ret_n)
{
	struct agree a = { .o = o, .speaks = calloc(o->n + 1, 1) };
	int r = a.speaks ? 0 : -ENOMEM;

	for (size_t i = 0; i < o->n && r == 0; i++)
		r = each_sector(pieces, i * o->span, o->span, true, add_sector, &a);
	if (r >= 0 && a.n) {
		qsort(a.v, a.n, sizeof(*a.v), by_key);
		r = 0;
		for (size_t i = 0; i < o->ngaps && r == 0; i++) {
			a.slot = (uint32_t)i;
			r = each_sector(parent, o->gaps[i], o->span, false, match_sector, &a);
		}
		if (r == 0)
			r = choose(&a, rep->trust, ret, ret_n);
	}
	free(a.v);
	free(a.speaks);
	return r < 0 ? r : 0;
}

/* The pieces side by side. */
static int open_pieces(struct plt_repair *rep, const struct plt_driver *drv, const struct plt_orphans *o,
		       struct plt_disk **ret)
{
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_store *scratch;
	int r;

	how.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY;
	if (plt_overlay_new(rep->overlay, true, &scratch) < 0)
		return -ENOMEM;
	r = drv->show_pieces(scratch, o, NULL);
	if (r == 0)
		r = plt_disk_open_store(rep->ctx, scratch, rep->name, rep->format, &how, ret, NULL);
	plt_store_unref(scratch);
	return r;
}

int plt_repair_place_over(struct plt_repair *rep, const struct plt_orphans *o, struct plt_orphan **ret, size_t *ret_n)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	struct plt_disk *parent = NULL, *pieces = NULL;
	int r = 0;

	*ret = NULL;
	*ret_n = 0;
	if (!drv || !drv->show_pieces || !o->n || !o->ngaps || o->n > UINT32_MAX / 2 ||
	    o->ngaps > UINT32_MAX / 2)
		return 0;
	if (plt_repair_open_parent(rep, &parent) == 0 && open_pieces(rep, drv, o, &pieces) == 0)
		r = place_over(rep, o, pieces, parent, ret, ret_n);
	if (r < 0 || !*ret_n) {
		free(*ret);
		*ret = NULL;
		*ret_n = 0;
	}
	plt_disk_close(pieces, NULL);
	plt_disk_close(parent, NULL);
	return r == -ENOMEM ? r : 0;
}
