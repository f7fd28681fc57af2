/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* A store of zeros of a fixed size, in which writes vanish: for measuring what is above it. */
#include <stdlib.h>

#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct null {
	struct plt_store st;
	uint64_t size;
};

static void null_close(struct plt_store *st)
{
	(void)st;
}

static int null_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct null *n = st->priv;

	(void)err;
	*ret = n->size;
	return 0;
}

static int null_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)tag;
	(void)err;
	plt_iov_zero(iov, niov, 0, plt_iov_len(iov, niov));
	return 0;
}

static int null_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		      enum plt_io_tag tag, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)iov;
	(void)niov;
	(void)tag;
	(void)err;
	return 0;
}

static int null_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		     enum plt_io_tag tag, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)len;
	(void)flags;
	(void)tag;
	(void)err;
	return 0;
}

static int null_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)len;
	(void)err;
	return 0;
}

static int null_extents(struct plt_store *st, uint64_t off, uint64_t len,
			enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	(void)st;
	(void)off;
	(void)err;
	*ret_kind = PLT_STORE_HOLE;
	*ret_len = len;
	return 0;
}

static int64_t null_allocated(struct plt_store *st)
{
	(void)st;
	return 0;
}

static const struct plt_store_ops null_ops = {
	.kind = "null",
	.close = null_close,
	.size = null_size,
	.read = null_read,
	.write = null_write,
	.zero = null_zero,
	.discard = null_discard,
	.extents = null_extents,
	.allocated = null_allocated,
};

int plt_null_new(uint64_t size, struct plt_store **ret)
{
	struct null *n = calloc(1, sizeof(*n));

	if (!n || plt_store_init(&n->st, &null_ops, "null")) {
		free(n);
		return -ENOMEM;
	}
	n->st.priv = n;
	n->st.limits.can_grow = false;
	n->size = size;
	*ret = &n->st;
	return 0;
}
