/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store under an image that is being made in place.  What lets a reader take the file for an image
 * (its first sector, and the small headers and footers that drivers tag PLT_IO_HEADER) is kept in
 * memory; everything else is passed on.  The invariant: until plt_hold_release() no such byte reaches
 * the store below, however often the image above is flushed, so that a run which is cut short leaves
 * no file that opens.  On release the other held pieces go first, then a sync, then the first sector,
 * then a sync.  Zeroing the old header beforehand is left to target.c.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "convert/convert.h"

#define SECTOR 512u
#define HELD_MAX 64       /* sectors besides the first; more are passed on */
#define HEADER_MAX 2048u  /* longest write with that tag that is held */

struct held {
	uint64_t off; /* multiple of SECTOR */
	uint8_t data[SECTOR];
};

struct hold {
	struct plt_store st;
	struct plt_store *below;
	pthread_mutex_t lock;
	struct held *v;      /* in no order */
	unsigned n;
	uint64_t end;        /* length of the store as seen above, where held sectors are behind its end */
};

static struct hold *hold_of(struct plt_store *st)
{
	return (struct hold *)st;
}

static void hold_close(struct plt_store *st)
{
	struct hold *h = hold_of(st);

	plt_store_unref(h->below);
	pthread_mutex_destroy(&h->lock);
	free(h->v);
}

static int hold_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	int r = plt_store_size(h->below, ret, err);

	if (!r) {
		PLT_LOCK_SCOPE(&h->lock);
		*ret = PLT_MAX(*ret, h->end);
	}
	return r;
}

static bool touches(struct hold *h, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < h->n; i++)
		if (plt_ranges_overlap(off, len, h->v[i].off, SECTOR))
			return true;
	return false;
}

static int hold_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	uint64_t len = plt_iov_len(iov, niov);
	int ret = plt_store_readv(h->below, off, iov, niov, tag, err);

	if (ret)
		return ret;
	PLT_LOCK_SCOPE(&h->lock);
	for (unsigned i = 0; i < h->n; i++) {
		uint64_t from = PLT_MAX(off, h->v[i].off);
		uint64_t to = PLT_MIN(off + len, h->v[i].off + SECTOR);

		if (from < to)
			plt_iov_from_buf(iov, niov, from - off, h->v[i].data + (from - h->v[i].off),
					 to - from);
	}
	return 0;
}

static struct held *held_find(struct hold *h, uint64_t off)
{
	for (unsigned i = 0; i < h->n; i++)
		if (h->v[i].off == off)
			return &h->v[i];
	return NULL;
}

/* The sector at @off, held from now on (there is room); what lies below is its first content. */
static struct held *held_get(struct hold *h, uint64_t off, struct plt_error *err, int *ret)
{
	struct held *s = held_find(h, off);

	*ret = 0;
	if (s)
		return s;
	s = &h->v[h->n];
	*ret = plt_store_read(h->below, off, s->data, SECTOR, PLT_IO_HEADER, err);
	if (*ret)
		return NULL;
	s->off = off;
	h->n++;
	return s;
}

/*
 * May a header of [off, off+len) be held?  All of it or nothing: a header without room is data, and
 * takes with it the sectors of it that are held.
 */
static bool holdable(struct hold *h, uint64_t off, uint64_t len)
{
	unsigned want = 0;

	if (off % SECTOR || len % SECTOR || len > HEADER_MAX)
		return false;
	for (uint64_t p = off; p < off + len; p += SECTOR)
		want += !held_find(h, p);
	return h->n + want <= HELD_MAX;
}

/* Bytes [off, off+len) of a sector change: into what is held of it. */
static void held_update(struct held *s, uint64_t off, const struct iovec *iov, int niov, size_t at,
			size_t len)
{
	if (iov)
		plt_iov_to_buf(iov, niov, at, s->data + (off - s->off), len);
	else
		memset(s->data + (off - s->off), 0, len);
}

/*
 * Keep what must be kept of a change of [off, off+len) (@iov NULL: to zeros).  A sector that other
 * data overwrites whole is no header any more and goes below again.
 */
static int hold_change(struct hold *h, uint64_t off, const struct iovec *iov, int niov, uint64_t len,
		       bool header, uint64_t *ret_skip, struct plt_error *err)
{
	uint64_t end = off + len;
	int ret = 0;

	*ret_skip = 0;
	PLT_LOCK_SCOPE(&h->lock);
	if (off < SECTOR) {
		struct held *s = held_get(h, 0, err, &ret);
		uint64_t n = PLT_MIN(end, SECTOR) - off;

		if (!s)
			return ret;
		held_update(s, off, iov, niov, 0, n);
		*ret_skip = n;
		h->end = PLT_MAX(h->end, off + n);
	}
	if (header && off >= SECTOR && holdable(h, off, len)) {
		for (uint64_t p = off; p < end; p += SECTOR) {
			struct held *s = held_get(h, p, err, &ret);

			if (!s)
				return ret;
			held_update(s, p, iov, niov, p - off, SECTOR);
		}
		*ret_skip = len;
		h->end = PLT_MAX(h->end, end);
		return 0;
	}
	for (unsigned i = 0; i < h->n;) {
		struct held *s = &h->v[i];
		uint64_t from = PLT_MAX(off, s->off), to = PLT_MIN(end, s->off + SECTOR);

		if (s->off == 0 || from >= to) {
			i++;
		} else if (to - from == SECTOR) {
			*s = h->v[--h->n];
		} else {
			held_update(s, from, iov, niov, from - off, to - from);
			i++;
		}
	}
	return 0;
}

static int hold_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		      enum plt_io_tag tag, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	uint64_t len = plt_iov_len(iov, niov), skip;
	int ret = hold_change(h, off, iov, niov, len, tag == PLT_IO_HEADER, &skip, err);
	PLT_AUTOFREE struct iovec *rest = NULL;

	if (ret || skip == len)
		return ret;
	if (!skip)
		return plt_store_writev(h->below, off, iov, niov, tag, err);
	rest = calloc((size_t)plt_iov_slice_count(iov, niov, skip, len - skip), sizeof(*rest));
	if (!rest)
		return plt_error_set(err, ENOMEM, "Out of memory");
	niov = plt_iov_slice(iov, niov, skip, len - skip, rest);
	return plt_store_writev(h->below, off + skip, rest, niov, tag, err);
}

static int hold_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		     enum plt_io_tag tag, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	uint64_t skip;
	int ret = hold_change(h, off, NULL, 0, len, false, &skip, err);

	if (ret || skip == len)
		return ret;
	return plt_store_zero(h->below, off + skip, len - skip, flags, tag, err);
}

/* What is held stays: a discarded range may keep its content. */
static int hold_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	return plt_store_discard(hold_of(st)->below, off, len, err);
}

static int hold_sync(struct plt_store *st, struct plt_error *err)
{
	return plt_store_sync(hold_of(st)->below, err);
}

static int hold_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	int ret = plt_store_truncate(h->below, size, err);

	if (ret)
		return ret;
	PLT_LOCK_SCOPE(&h->lock);
	h->end = PLT_MIN(h->end, size);
	for (unsigned i = 0; i < h->n;) {
		if (h->v[i].off >= size) {
			h->v[i] = h->v[--h->n];
			continue;
		}
		if (size - h->v[i].off < SECTOR)
			memset(h->v[i].data + (size - h->v[i].off), 0, SECTOR - (size - h->v[i].off));
		i++;
	}
	return 0;
}

static int hold_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	return plt_store_allocate(hold_of(st)->below, off, len, err);
}

static int hold_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
			uint64_t *ret_len, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	int ret = plt_store_extents(h->below, off, len, ret_kind, ret_len, err);

	if (ret)
		return ret;
	PLT_LOCK_SCOPE(&h->lock);
	if (touches(h, off, *ret_len))
		*ret_kind = PLT_STORE_DATA;
	return 0;
}

static int hold_resolve(struct plt_store *st, uint64_t off, uint64_t len, struct plt_store **ret_store,
			uint64_t *ret_off, uint64_t *ret_len)
{
	struct hold *h = hold_of(st);

	PLT_LOCK_SCOPE(&h->lock);
	if (touches(h, off, len))
		return -ENOTSUP;
	*ret_store = h->below;
	*ret_off = off;
	*ret_len = len;
	return 0;
}

static int hold_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	return plt_store_lock(hold_of(st)->below, perm, shared, err);
}

static int64_t hold_allocated(struct plt_store *st)
{
	return plt_store_allocated(hold_of(st)->below);
}

static const struct plt_store_ops hold_ops = {
	.kind = "hold",
	.close = hold_close,
	.size = hold_size,
	.read = hold_read,
	.write = hold_write,
	.zero = hold_zero,
	.discard = hold_discard,
	.sync = hold_sync,
	.truncate = hold_truncate,
	.allocate = hold_allocate,
	.extents = hold_extents,
	.resolve = hold_resolve,
	.lock = hold_lock,
	.allocated = hold_allocated,
};

int plt_hold_new(struct plt_store *below, struct plt_store **ret)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->v = calloc(HELD_MAX + 1, sizeof(*h->v));
	if (!h->v || pthread_mutex_init(&h->lock, NULL))
		goto fail;
	if (plt_store_init(&h->st, &hold_ops, below->name)) {
		pthread_mutex_destroy(&h->lock);
		goto fail;
	}
	h->below = plt_store_ref(below);
	h->st.limits = below->limits;
	h->st.readonly = below->readonly;
	h->st.unsafe = below->unsafe;
	*ret = &h->st;
	return 0;
fail:
	free(h->v);
	free(h);
	return -ENOMEM;
}

int plt_hold_release(struct plt_store *st, struct plt_error *err)
{
	struct hold *h = hold_of(st);
	const struct held *first;
	int ret = 0;

	PLT_LOCK_SCOPE(&h->lock);
	first = held_find(h, 0);
	for (unsigned i = 0; i < h->n && !ret; i++)
		if (h->v[i].off)
			ret = plt_store_write(h->below, h->v[i].off, h->v[i].data, SECTOR, PLT_IO_HEADER, err);
	if (!ret)
		ret = plt_store_sync(h->below, err);
	if (!ret && first) {
		/* A file that ends inside its first sector keeps its length. */
		uint64_t n = PLT_MIN(h->end, SECTOR);

		ret = plt_store_write(h->below, 0, first->data, n ? n : SECTOR, PLT_IO_HEADER, err);
		if (!ret)
			ret = plt_store_sync(h->below, err);
	}
	if (!ret)
		h->n = 0;
	return ret;
}
