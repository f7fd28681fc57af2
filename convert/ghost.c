/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store under an image that is made only to see how long its file becomes: what the image needs to read back
 * (headers, tables) is kept in a temporary file without a name, the guest's data is thrown away.  The invariant: the
 * length is at every moment that of a file to which the same had been written.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "block/internal.h"
#include "convert/convert.h"

struct ghost {
	struct plt_store st;
	struct plt_store *below;
	pthread_mutex_t lock;
	uint64_t size;
};

static struct ghost *ghost_of(struct plt_store *st)
{
	return (struct ghost *)st;
}

static void ghost_close(struct plt_store *st)
{
	plt_store_unref(ghost_of(st)->below);
	pthread_mutex_destroy(&ghost_of(st)->lock);
}

static int ghost_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	(void)err;
	PLT_LOCK_SCOPE(&ghost_of(st)->lock);
	*ret = ghost_of(st)->size;
	return 0;
}

static void reach(struct ghost *g, uint64_t end)
{
	PLT_LOCK_SCOPE(&g->lock);
	g->size = PLT_MAX(g->size, end);
}

static int ghost_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		      struct plt_error *err)
{
	return plt_store_readv(ghost_of(st)->below, off, iov, niov, tag, err);
}

static int ghost_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct ghost *g = ghost_of(st);
	int r = tag == PLT_IO_DATA ? 0 : plt_store_writev(g->below, off, iov, niov, tag, err);

	if (r == 0)
		reach(g, off + plt_iov_len(iov, niov));
	return r;
}

static int ghost_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags, enum plt_io_tag tag,
		      struct plt_error *err)
{
	struct ghost *g = ghost_of(st);
	int r = plt_store_zero(g->below, off, len, flags | PLT_ZERO_MAY_UNMAP, tag, err);

	if (r == 0)
		reach(g, off + len);
	return r;
}

static int ghost_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	return plt_store_discard(ghost_of(st)->below, off, len, err);
}

static int ghost_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct ghost *g = ghost_of(st);
	int r = plt_store_truncate(g->below, size, err);

	PLT_LOCK_SCOPE(&g->lock);
	if (r == 0)
		g->size = size;
	return r;
}

static int ghost_sync(struct plt_store *st, struct plt_error *err)
{
	(void)st;
	(void)err;
	return 0;
}

/* (nothing is reserved) */
static int ghost_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	(void)err;
	reach(ghost_of(st), off + len);
	return 0;
}

static const struct plt_store_ops ghost_ops = {
	.kind = "ghost",
	.close = ghost_close,
	.size = ghost_size,
	.read = ghost_read,
	.write = ghost_write,
	.zero = ghost_zero,
	.discard = ghost_discard,
	.sync = ghost_sync,
	.truncate = ghost_truncate,
	.allocate = ghost_allocate,
};

int plt_ghost_new(struct plt_store **ret, struct plt_error *err)
{
	struct ghost *g = calloc(1, sizeof(*g));
	int r;

	if (!g || plt_store_init(&g->st, &ghost_ops, "measured") < 0) {
		free(g);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	pthread_mutex_init(&g->lock, NULL);
	g->st.priv = g;
	r = plt_temporary_store(&g->below, err);
	if (r < 0) {
		plt_store_unref(&g->st);
		return r;
	}
	g->st.limits = g->below->limits;
	g->st.unsafe = true;
	*ret = &g->st;
	return 0;
}
