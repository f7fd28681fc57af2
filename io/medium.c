/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A medium with places that do not read.  A copy of such a medium has zeros where its map says that nothing was read: they
 * are no content, and reading them fails like reading the medium would, at once.  What fails though nobody said so is tried
 * by sectors, each twice, and after some in a row the rest of the piece is given up without being tried; all of that is known
 * from then on.  The invariant: no guest data is read in silence that the map does not vouch for.
 *
 * Whoever looks for what a structure was would not get far if reading failed: for him what cannot be read is zeros, for as long
 * as its owner says so.  What of the disk rests on that the owner has to find out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/mapfile.h"
#include "io/private.h"

#define SECTOR 512
#define TRY_BYTES 65536 /* what is tried by sectors at once */
#define BAD_MAX 8       /* sectors of it that may fail before the rest is given up */

struct medium {
	struct plt_store st;
	struct plt_store *below;
	pthread_rwlock_t lock;
	struct plt_extents bad, found; /* found: what the map did not say */
	_Atomic int blank;             /* enum plt_blank */
	bool mapped;                   /* there is a map, that what is found is for */
};

static void medium_close(struct plt_store *st)
{
	struct medium *m = st->priv;

	plt_extents_release(&m->bad);
	plt_extents_release(&m->found);
	pthread_rwlock_destroy(&m->lock);
	plt_store_unref(m->below);
}

static int medium_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	return plt_store_size(((struct medium *)st->priv)->below, ret, err);
}

static bool medium_unreadable(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret)
{
	struct medium *m = st->priv;
	const struct plt_range *b;

	pthread_rwlock_rdlock(&m->lock);
	b = plt_extents_find(&m->bad, off);
	if (b)
		*ret = *b;
	pthread_rwlock_unlock(&m->lock);
	if (!b || (ret->off > off && ret->off - off >= len))
		return false;
	ret->len = PLT_MIN(ret->off + ret->len, off + len) - PLT_MAX(ret->off, off);
	ret->off = PLT_MAX(ret->off, off);
	return true;
}

static int give_up(struct medium *m, uint64_t off, uint64_t len)
{
	int r;

	pthread_rwlock_wrlock(&m->lock);
	r = plt_extents_add(&m->bad, off, len);
	if (r == 0)
		r = plt_extents_add(&m->found, off, len);
	pthread_rwlock_unlock(&m->lock);
	return r;
}

/* Which sectors of [off, off+len), at most TRY_BYTES of them, do not read? */
static int find_bad(struct medium *m, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	uint64_t end = off + len;
	unsigned bad = 0;
	uint8_t *buf = plt_alloc_io(SECTOR);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = plt_align_down(off, SECTOR); at < end && r == 0; at += SECTOR) {
		if (bad == BAD_MAX) {
			r = give_up(m, at, plt_align_up(end, SECTOR) - at);
			break;
		}
		if (plt_store_read(m->below, at, buf, SECTOR, tag, NULL) == 0 ||
		    plt_store_read(m->below, at, buf, SECTOR, tag, NULL) == 0)
			continue;
		bad++;
		r = give_up(m, at, SECTOR);
	}
	free(buf);
	return r;
}

static bool is_blank(enum plt_blank blank, enum plt_io_tag tag)
{
	switch (tag) {
	case PLT_IO_DATA:
	case PLT_IO_COW:
	case PLT_IO_COMPRESSED:
		return blank == PLT_BLANK_ALL;
	case PLT_IO_L1:
	case PLT_IO_L2:
	case PLT_IO_BITMAP: /* (of sectors) */
		return blank >= PLT_BLANK_TABLES;
	default:
		return true;
	}
}

/* All that can be read, and zeros. */
static int read_around(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct medium *m = st->priv;
	uint64_t len = plt_iov_len(iov, niov), at = 0, n;
	PLT_AUTOFREE struct iovec *v = malloc(((size_t)niov + 2) * sizeof(*v));
	struct plt_range b;
	int r = v ? 0 : -ENOMEM;

	for (; at < len && r == 0; at += n) {
		bool bad = medium_unreadable(st, off + at, len - at, &b);

		n = bad ? b.off - (off + at) : len - at;
		if (n)
			r = plt_store_readv(m->below, off + at, v, plt_iov_slice(iov, niov, at, (size_t)n, v), tag, err);
		if (bad) {
			plt_iov_zero(iov, niov, (size_t)(at + n), (size_t)b.len);
			n += b.len;
		}
	}
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
}

static int medium_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct medium *m = st->priv;
	uint64_t len = plt_iov_len(iov, niov);
	struct plt_range b;
	int r = 0;

	if (!medium_unreadable(st, off, len, &b)) {
		r = plt_store_readv(m->below, off, iov, niov, tag, err);
		if (r != -EIO)
			return r;
		for (uint64_t at = off, n; at < off + len && r != -ENOMEM; at += n) {
			n = PLT_MIN(off + len - at, (uint64_t)TRY_BYTES);
			r = find_bad(m, at, n, tag);
		}
		if (r == -ENOMEM)
			return plt_error_set(err, ENOMEM, "out of memory");
		if (!medium_unreadable(st, off, len, &b)) /* all of it did, now */
			return plt_store_readv(m->below, off, iov, niov, tag, err);
	}
	if (is_blank(atomic_load(&m->blank), tag))
		return read_around(st, off, iov, niov, tag, err);
	return plt_error_set(err, EIO, "'%s': %" PRIu64 " bytes at %#" PRIx64 " cannot be read from the medium", st->name, b.len,
			     b.off);
}

static int medium_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
			  uint64_t *ret_len, struct plt_error *err)
{
	struct medium *m = st->priv;
	struct plt_range b;
	int r;

	if (medium_unreadable(st, off, len, &b)) {
		if (b.off == off) { /* whatever it is, it is no hole */
			*ret_kind = PLT_STORE_DATA;
			*ret_len = b.len;
			return 0;
		}
		len = b.off - off;
	}
	r = plt_store_extents(m->below, off, len, ret_kind, ret_len, err);
	return r;
}

/* Past it as long as all is well: whoever finds out that it is not comes back. */
static int medium_resolve(struct plt_store *st, uint64_t off, uint64_t len, struct plt_store **ret_store, uint64_t *ret_off,
			  uint64_t *ret_len)
{
	struct medium *m = st->priv;
	bool bad;

	pthread_rwlock_rdlock(&m->lock);
	bad = m->bad.n || m->mapped;
	pthread_rwlock_unlock(&m->lock);
	if (bad)
		return -ENOTSUP;
	*ret_store = m->below;
	*ret_off = off;
	*ret_len = len;
	return 0;
}

static int medium_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	return plt_store_lock(((struct medium *)st->priv)->below, perm, shared, err);
}

static int64_t medium_allocated(struct plt_store *st)
{
	return plt_store_allocated(((struct medium *)st->priv)->below);
}

static struct plt_store *medium_below(struct plt_store *st)
{
	return ((struct medium *)st->priv)->below;
}

static const struct plt_store_ops medium_ops = {
	.kind = "medium",
	.close = medium_close,
	.size = medium_size,
	.read = medium_read,
	.extents = medium_extents,
	.resolve = medium_resolve,
	.lock = medium_lock,
	.below = medium_below,
	.allocated = medium_allocated,
	.unreadable = medium_unreadable,
};

/* Whole sectors of [off, end). */
static int add_sectors(struct plt_extents *to, uint64_t off, uint64_t end)
{
	uint64_t from = plt_align_down(off, SECTOR);

	return off < end ? plt_extents_add(to, from, plt_align_up(end, SECTOR) - from) : 0;
}

int plt_medium_new(struct plt_store *below, const struct plt_mapfile *map, struct plt_store **ret, struct plt_error *err)
{
	struct medium *m;
	uint64_t size, at = 0;
	int r = plt_store_size(below, &size, err);

	if (r < 0)
		return r;
	m = calloc(1, sizeof(*m));
	if (!m || plt_store_init(&m->st, &medium_ops, below->name)) {
		free(m);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	m->st.priv = m;
	plt_store_inherit(&m->st, below);
	m->st.readonly = true;
	m->below = plt_store_ref(below);
	atomic_store(&m->blank, PLT_BLANK_ALL);
	m->mapped = map;
	pthread_rwlock_init(&m->lock, NULL);
	for (size_t i = 0; map && i < map->n && r == 0; i++) {
		r = map->v[i].off > at ? add_sectors(&m->bad, at, map->v[i].off) : 0;
		at = map->v[i].off + map->v[i].len;
		if (r == 0 && map->v[i].status != '+')
			r = add_sectors(&m->bad, map->v[i].off, at);
	}
	if (r == 0 && map)
		r = add_sectors(&m->bad, at, size);
	if (r < 0) {
		plt_store_unref(&m->st);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	*ret = &m->st;
	return 0;
}

int plt_medium_found(struct plt_store *st, struct plt_extents *to)
{
	struct medium *m = st->priv;
	int r = 0;

	pthread_rwlock_rdlock(&m->lock);
	for (size_t i = 0; i < m->found.n && r == 0; i++)
		r = plt_extents_add(to, m->found.v[i].off, m->found.v[i].len);
	pthread_rwlock_unlock(&m->lock);
	return r;
}

struct plt_store *plt_medium_below(struct plt_store *st)
{
	return st->ops == &medium_ops ? medium_below(st) : st;
}

bool plt_medium_is_bad(struct plt_store *st)
{
	struct medium *m = st->priv;
	bool bad;

	pthread_rwlock_rdlock(&m->lock);
	bad = m->bad.n;
	pthread_rwlock_unlock(&m->lock);
	return bad;
}

void plt_medium_blank(struct plt_store *st, enum plt_blank blank)
{
	atomic_store(&((struct medium *)st->priv)->blank, blank);
}
