/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A window: part of another store, seen from offset 0.  The invariant: nothing outside the window
 * is ever read or changed through it; what is asked beyond its end is zeros.  A window with an end
 * has a fixed size; one without follows the end of the store below and grows with it.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/extents.h"
#include "base/iov.h"
#include "io/private.h"

struct window {
	struct plt_store st;
	struct plt_store *below;
	uint64_t off, len; /* len UINT64_MAX: to the end */
};

static void window_close(struct plt_store *st)
{
	struct window *w = st->priv;

	plt_store_unref(w->below);
}

static int window_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct window *w = st->priv;
	uint64_t size;
	int r;

	if (w->len != UINT64_MAX) {
		*ret = w->len;
		return 0;
	}
	r = plt_store_size(w->below, &size, err);
	if (!r)
		*ret = size > w->off ? size - w->off : 0;
	return r;
}

/* How much of [off, off+len) lies inside. */
static uint64_t inside(const struct window *w, uint64_t off, uint64_t len)
{
	return off >= w->len ? 0 : PLT_MIN(len, w->len - off);
}

static int window_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct window *w = st->priv;
	size_t len = plt_iov_len(iov, niov), have = inside(w, off, len);
	struct iovec *part;
	int n, ret;

	if (have == len)
		return plt_store_readv(w->below, w->off + off, iov, niov, tag, err);
	plt_iov_zero(iov, niov, have, len - have);
	if (!have)
		return 0;
	part = malloc(plt_iov_slice_count(iov, niov, 0, have) * sizeof(*part));
	if (!part)
		return plt_io_error(err, ENOMEM, "read", st, off, len);
	n = plt_iov_slice(iov, niov, 0, have, part);
	ret = plt_store_readv(w->below, w->off + off, part, n, tag, err);
	free(part);
	return ret;
}

/* The wrappers have refused changes that pass the end of a window with a fixed size. */
static int window_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			enum plt_io_tag tag, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_writev(w->below, w->off + off, iov, niov, tag, err);
}

static int window_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_zero(w->below, w->off + off, len, flags, tag, err);
}

static int window_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct window *w = st->priv;

	len = inside(w, off, len);
	return len ? plt_store_discard(w->below, w->off + off, len, err) : 0;
}

static int window_sync(struct plt_store *st, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_sync(w->below, err);
}

static int window_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct window *w = st->priv;

	if (w->len != UINT64_MAX)
		return plt_error_set(err, ENOTSUP,
				     "'%s' is a window of %" PRIu64 " bytes and cannot change "
				     "its size",
				     st->name, w->len);
	if (size > INT64_MAX - w->off)
		return plt_error_errno(err, EFBIG, "Could not resize '%s'", st->name);
	return plt_store_truncate(w->below, w->off + size, err);
}

static int window_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_allocate(w->below, w->off + off, len, err);
}

static int window_extents(struct plt_store *st, uint64_t off, uint64_t len,
			  enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_extents(w->below, w->off + off, len, ret_kind, ret_len, err);
}

static int window_resolve(struct plt_store *st, uint64_t off, uint64_t len,
			  struct plt_store **ret_store, uint64_t *ret_off, uint64_t *ret_len)
{
	struct window *w = st->priv;

	len = inside(w, off, len);
	if (!len || !plt_in_range(off, len, INT64_MAX - w->off))
		return -ENOTSUP;
	*ret_store = w->below;
	*ret_off = w->off + off;
	*ret_len = len;
	return 0;
}

static int window_copy_from(struct plt_store *st, uint64_t off, struct plt_store *src,
			    uint64_t src_off, uint64_t len, uint64_t *ret_len,
			    struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_copy_from(w->below, w->off + off, src, src_off, len, ret_len, err);
}

static int window_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct window *w = st->priv;

	return plt_store_lock(w->below, perm, shared, err);
}

static int64_t window_allocated(struct plt_store *st)
{
	struct window *w = st->priv;

	return w->off || w->len != UINT64_MAX ? -1 : plt_store_allocated(w->below);
}

static bool window_unreadable(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret)
{
	struct window *w = st->priv;

	len = inside(w, off, len);
	if (!len || !plt_in_range(off, len, INT64_MAX - w->off) || !plt_store_unreadable(w->below, w->off + off, len, ret))
		return false;
	ret->off -= w->off;
	return true;
}

static const struct plt_store_ops window_ops = {
	.kind = "window",
	.close = window_close,
	.size = window_size,
	.read = window_read,
	.write = window_write,
	.zero = window_zero,
	.discard = window_discard,
	.sync = window_sync,
	.truncate = window_truncate,
	.allocate = window_allocate,
	.extents = window_extents,
	.resolve = window_resolve,
	.copy_from = window_copy_from,
	.lock = window_lock,
	.allocated = window_allocated,
	.unreadable = window_unreadable,
};

int plt_window_new(struct plt_store *below, uint64_t off, uint64_t len, struct plt_store **ret,
		   struct plt_error *err)
{
	struct window *w;

	if (off > INT64_MAX || (len != UINT64_MAX && !plt_in_range(off, len, INT64_MAX)))
		return plt_error_set(err, EINVAL,
				     "A window of '%s' at offset %#" PRIx64 " of %#" PRIx64
				     " bytes passes the largest offset of a file",
				     below->name, off, len);
	w = calloc(1, sizeof(*w));
	if (!w || plt_store_init(&w->st, &window_ops, below->name)) {
		free(w);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	w->st.priv = w;
	plt_store_inherit(&w->st, below);
	if (len != UINT64_MAX)
		w->st.limits.can_grow = false;
	w->below = plt_store_ref(below);
	w->off = off;
	w->len = len;
	*ret = &w->st;
	return 0;
}
