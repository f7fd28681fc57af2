/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The wrappers around a store's operations.  They are the one place where ranges are checked for
 * overflow, read-only stores are protected, requests are cut at limits.max_io and syncs are
 * counted.  The invariant: sync_done never passes a number whose events may have been lost.  So
 * syncs of one store run one after the other (the kernel reports a lost page to one fsync() only:
 * of two that overlap, one may succeed while the other was told of the loss), a caller who waited
 * while a younger sync succeeded is served by it, and the first failure is final.  What the bytes
 * mean and where they go is left to the stores.
 */
#include "io/store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

/* A zero fallback writes this page many times over. */
#define ZERO_PAGE 65536u
#define ZERO_PIECES 16

static uint8_t zero_page[ZERO_PAGE] __attribute__((aligned(4096)));

int plt_store_init(struct plt_store *st, const struct plt_store_ops *ops, const char *name)
{
	memset(st, 0, sizeof(*st));
	st->ops = ops;
	st->name = strdup(name);
	if (!st->name)
		return -ENOMEM;
	if (pthread_mutex_init(&st->sync_lock, NULL)) {
		free(st->name);
		st->name = NULL;
		return -ENOMEM;
	}
	st->limits = (struct plt_limits){
		.align = 1,
		.atomic = 512,
		.max_io = UINT64_C(1) << 30,
		.can_grow = true,
		.zero_is_fast = true,
		.discard_zeroes = true,
		.new_is_zero = true,
	};
	atomic_init(&st->refs, 1);
	return 0;
}

struct plt_store *plt_store_ref(struct plt_store *st)
{
	atomic_fetch_add(&st->refs, 1);
	return st;
}

void plt_store_unref(struct plt_store *st)
{
	if (!st || atomic_fetch_sub(&st->refs, 1) != 1)
		return;
	st->ops->close(st);
	pthread_mutex_destroy(&st->sync_lock);
	free(st->name);
	free(st);
}

void plt_store_inherit(struct plt_store *st, const struct plt_store *below)
{
	st->limits = below->limits;
	st->readonly = below->readonly;
}

int plt_io_error(struct plt_error *err, int errnum, const char *what, const struct plt_store *st,
		 uint64_t off, uint64_t len)
{
	return plt_error_errno(err, errnum,
			       "Could not %s %" PRIu64 " bytes at offset %#" PRIx64 " of '%s'",
			       what, len, off, st->name);
}

static int check_range(struct plt_store *st, const char *what, uint64_t off, uint64_t len,
		       struct plt_error *err)
{
	if (plt_in_range(off, len, INT64_MAX))
		return 0;
	return plt_io_error(err, EFBIG, what, st, off, len);
}

int plt_store_check_writable(struct plt_store *st, struct plt_error *err)
{
	int e = atomic_load(&st->sync_error);

	if (!e)
		return 0;
	return plt_error_set(err, EIO,
			     "'%s' takes no more changes: an earlier flush failed (%s), so what "
			     "was written since the last good one may be lost",
			     st->name, strerror(e));
}

static int check_change(struct plt_store *st, const char *what, uint64_t off, uint64_t len,
			struct plt_error *err)
{
	uint64_t size;
	int ret;

	if (st->readonly)
		return plt_io_error(err, EROFS, what, st, off, len);
	ret = plt_store_check_writable(st, err);
	if (!ret)
		ret = check_range(st, what, off, len, err);
	if (ret || st->limits.can_grow)
		return ret;
	ret = plt_store_size(st, &size, err);
	if (ret)
		return ret;
	if (!plt_in_range(off, len, size))
		return plt_error_set(err, ENOSPC,
				     "Could not %s %" PRIu64 " bytes at offset %#" PRIx64
				     " of '%s': it ends at %#" PRIx64 " and cannot grow",
				     what, len, off, st->name, size);
	return 0;
}

static int after_change(struct plt_store *st, int ret, struct plt_error *err)
{
	if (!ret && st->writethrough)
		ret = plt_store_sync(st, err);
	return ret;
}

int plt_store_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	return st->ops->size(st, ret, err);
}

typedef int (*transfer_fn)(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			   enum plt_io_tag tag, struct plt_error *err);

/* Call @fn for pieces of at most max_io bytes. */
static int transfer_split(struct plt_store *st, transfer_fn fn, uint64_t off,
			  const struct iovec *iov, int niov, size_t len, enum plt_io_tag tag,
			  struct plt_error *err)
{
	uint64_t max = st->limits.max_io;
	struct iovec few[32];

	if (len <= max)
		return fn(st, off, iov, niov, tag, err);
	if (max > st->limits.align)
		max = plt_align_down(max, st->limits.align);
	for (size_t done = 0; done < len;) {
		size_t n = PLT_MIN(len - done, max);
		int count = plt_iov_slice_count(iov, niov, done, n);
		PLT_AUTOFREE struct iovec *many = NULL;
		struct iovec *v = few;
		int ret;

		if (count > (int)PLT_ARRAY_SIZE(few)) {
			v = many = malloc(count * sizeof(*many));
			if (!many)
				return plt_error_set(err, ENOMEM, "Out of memory");
		}
		count = plt_iov_slice(iov, niov, done, n, v);
		ret = fn(st, off + done, v, count, tag, err);
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

int plt_store_readv(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		    enum plt_io_tag tag, struct plt_error *err)
{
	size_t len = plt_iov_len(iov, niov);
	int ret = check_range(st, "read", off, len, err);

	if (ret || !len)
		return ret;
	return transfer_split(st, st->ops->read, off, iov, niov, len, tag, err);
}

int plt_store_writev(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err)
{
	size_t len = plt_iov_len(iov, niov);
	int ret = check_change(st, "write", off, len, err);

	if (ret || !len)
		return ret;
	ret = transfer_split(st, st->ops->write, off, iov, niov, len, tag, err);
	return after_change(st, ret, err);
}

int plt_store_read(struct plt_store *st, uint64_t off, void *buf, size_t len, enum plt_io_tag tag,
		   struct plt_error *err)
{
	struct iovec iov = { buf, len };

	return plt_store_readv(st, off, &iov, 1, tag, err);
}

int plt_store_write(struct plt_store *st, uint64_t off, const void *buf, size_t len,
		    enum plt_io_tag tag, struct plt_error *err)
{
	struct iovec iov = { (void *)buf, len };

	return plt_store_writev(st, off, &iov, 1, tag, err);
}

static int write_zeros(struct plt_store *st, uint64_t off, uint64_t len, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct iovec iov[ZERO_PIECES];

	while (len) {
		uint64_t n = 0;
		int niov = 0, ret;

		while (niov < ZERO_PIECES && n < len) {
			iov[niov].iov_base = zero_page;
			iov[niov].iov_len = PLT_MIN(len - n, ZERO_PAGE);
			n += iov[niov++].iov_len;
		}
		ret = transfer_split(st, st->ops->write, off, iov, niov, n, tag, err);
		if (ret)
			return ret;
		off += n;
		len -= n;
	}
	return 0;
}

int plt_store_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		   enum plt_io_tag tag, struct plt_error *err)
{
	struct plt_error zero_err = PLT_ERROR_INIT;
	int ret = check_change(st, "zero", off, len, err);

	if (ret || !len)
		return ret;
	ret = -ENOTSUP;
	if (st->ops->zero && !(flags & PLT_ZERO_WRITTEN))
		ret = st->ops->zero(st, off, len, flags, tag, &zero_err);
	if (ret == -ENOTSUP) {
		if (flags & PLT_ZERO_NO_FALLBACK)
			return plt_io_error(err, ENOTSUP, "zero", st, off, len);
		ret = write_zeros(st, off, len, tag, err);
	} else if (ret && err) {
		*err = zero_err;
	}
	return after_change(st, ret, err);
}

int plt_store_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	int ret;

	if (st->readonly)
		return plt_io_error(err, EROFS, "discard", st, off, len);
	ret = plt_store_check_writable(st, err);
	if (!ret)
		ret = check_range(st, "discard", off, len, err);
	if (ret || !len)
		return ret;
	if (!st->ops->discard)
		return plt_io_error(err, ENOTSUP, "discard", st, off, len);
	return st->ops->discard(st, off, len, err);
}

int plt_store_sync(struct plt_store *st, struct plt_error *err)
{
	uint64_t mine = atomic_fetch_add(&st->sync_begun, 1) + 1, n;
	int ret;

	PLT_LOCK_SCOPE(&st->sync_lock);
	ret = plt_store_check_writable(st, err);
	if (ret)
		return ret;
	if (atomic_load(&st->sync_done) >= mine)
		return 0;
	/* Whoever has taken a number by now is waiting at the lock: serve them all. */
	n = atomic_load(&st->sync_begun);
	if (st->ops->sync && !st->unsafe) {
		ret = st->ops->sync(st, err);
		if (ret) {
			atomic_store(&st->sync_error, -ret);
			return plt_error_default(err, -ret, "Could not flush '%s': %s", st->name,
						 strerror(-ret));
		}
	}
	atomic_store(&st->sync_done, n);
	return 0;
}

int plt_store_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	int ret;

	if (st->readonly)
		return plt_error_errno(err, EROFS, "Could not resize '%s'", st->name);
	ret = plt_store_check_writable(st, err);
	if (ret)
		return ret;
	if (size > INT64_MAX)
		return plt_error_errno(err, EFBIG, "Could not resize '%s' to %" PRIu64 " bytes",
				       st->name, size);
	if (!st->ops->truncate)
		return plt_error_set(err, ENOTSUP, "'%s' (%s) cannot change its size", st->name,
				     st->ops->kind);
	return after_change(st, st->ops->truncate(st, size, err), err);
}

int plt_store_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	int ret = check_change(st, "allocate", off, len, err);

	if (ret || !len)
		return ret;
	if (!st->ops->allocate)
		return plt_io_error(err, ENOTSUP, "allocate", st, off, len);
	return after_change(st, st->ops->allocate(st, off, len, err), err);
}

int plt_store_extents(struct plt_store *st, uint64_t off, uint64_t len,
		      enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	enum plt_store_kind kind = PLT_STORE_DATA;
	uint64_t n = len, size;
	int ret = check_range(st, "look at", off, len, err);

	if (ret)
		return ret;
	if (!len)
		return plt_error_set(err, EINVAL, "Extents of an empty range of '%s'", st->name);
	ret = plt_store_size(st, &size, err);
	if (ret)
		return ret;
	if (off >= size) {
		kind = PLT_STORE_HOLE;
	} else {
		len = n = PLT_MIN(len, size - off);
		if (st->ops->extents) {
			ret = st->ops->extents(st, off, len, &kind, &n, err);
			if (ret)
				return ret;
		}
	}
	assert(n);
	*ret_kind = kind;
	*ret_len = PLT_MIN(n, len);
	return 0;
}

/*
 * Goes down as far as stores agree: a store without resolve() is the bottom, and so is one below
 * the first that declines (its own read() then assembles the bytes).
 */
int plt_store_resolve(struct plt_store *st, uint64_t off, uint64_t len,
		      struct plt_store **ret_store, uint64_t *ret_off, uint64_t *ret_len)
{
	bool first = true;

	if (!plt_in_range(off, len, INT64_MAX))
		return -EFBIG;
	while (st->ops->resolve) {
		struct plt_store *below;
		uint64_t below_off, below_len;
		int ret = st->ops->resolve(st, off, len, &below, &below_off, &below_len);

		if (ret) {
			if (first)
				return ret;
			break;
		}
		assert(below_len && below_len <= len);
		st = below;
		off = below_off;
		len = below_len;
		first = false;
	}
	*ret_store = st;
	*ret_off = off;
	*ret_len = len;
	return 0;
}

int plt_store_copy_from(struct plt_store *st, uint64_t off, struct plt_store *src, uint64_t src_off,
			uint64_t len, uint64_t *ret_len, struct plt_error *err)
{
	int ret = check_change(st, "copy", off, len, err);

	if (!ret)
		ret = check_range(src, "copy", src_off, len, err);
	if (ret)
		return ret;
	*ret_len = 0;
	if (!len)
		return 0;
	if (!st->ops->copy_from)
		return plt_io_error(err, ENOTSUP, "copy", st, off, len);
	ret = plt_store_resolve(src, src_off, len, &src, &src_off, &len);
	if (ret)
		return plt_io_error(err, ENOTSUP, "copy", src, src_off, len);
	return after_change(st, st->ops->copy_from(st, off, src, src_off, len, ret_len, err), err);
}

int plt_store_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	return st->ops->lock ? st->ops->lock(st, perm, shared, err) : 0;
}

int plt_store_fd(struct plt_store *st)
{
	return st->ops->fd ? st->ops->fd(st) : -1;
}

int plt_store_origin(struct plt_store *st)
{
	while (!st->ops->fd && st->ops->below)
		st = st->ops->below(st);
	return plt_store_fd(st);
}

int64_t plt_store_allocated(struct plt_store *st)
{
	return st->ops->allocated ? st->ops->allocated(st) : -1;
}

bool plt_store_unreadable(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret)
{
	return len && st->ops->unreadable && st->ops->unreadable(st, off, len, ret);
}
