/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store in memory, for tests and fuzzers.  It grows as a file does.  The invariant: bytes of the
 * buffer at and beyond the size are zeros, so growing is only a matter of the number.  Space
 * doubles and comes from calloc(), so a far write costs address space and not pages.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct memory {
	struct plt_store st;
	pthread_rwlock_t lock; /* the fields below */
	uint8_t *bytes;
	size_t size, cap;
	uint64_t max; /* 0: none */
};

static void memory_close(struct plt_store *st)
{
	struct memory *m = st->priv;

	pthread_rwlock_destroy(&m->lock);
	free(m->bytes);
}

static int memory_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct memory *m = st->priv;

	(void)err;
	pthread_rwlock_rdlock(&m->lock);
	*ret = m->size;
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int memory_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct memory *m = st->priv;
	size_t len = plt_iov_len(iov, niov), have = 0;

	(void)tag;
	(void)err;
	pthread_rwlock_rdlock(&m->lock);
	if (off < m->size)
		have = PLT_MIN(len, m->size - off);
	if (have)
		plt_iov_from_buf(iov, niov, 0, m->bytes + off, have);
	pthread_rwlock_unlock(&m->lock);
	plt_iov_zero(iov, niov, have, len - have);
	return 0;
}

/* Room for @size bytes.  The lock is held for writing. */
static int reserve(struct memory *m, uint64_t size)
{
	uint64_t cap = m->cap ? m->cap : 4096;
	uint8_t *bytes;

	if (m->max && size > m->max)
		return -ENOSPC;
	if (size <= m->cap)
		return 0;
	while (cap < size)
		cap *= 2;
	if (m->max && cap > m->max)
		cap = m->max;
	bytes = cap > SIZE_MAX / 2 ? NULL : calloc(1, cap);
	if (!bytes)
		return -ENOMEM;
	if (m->size)
		memcpy(bytes, m->bytes, m->size);
	free(m->bytes);
	m->bytes = bytes;
	m->cap = cap;
	return 0;
}

static int memory_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			enum plt_io_tag tag, struct plt_error *err)
{
	struct memory *m = st->priv;
	size_t len = plt_iov_len(iov, niov);
	int ret;

	(void)tag;
	pthread_rwlock_wrlock(&m->lock);
	ret = reserve(m, off + len);
	if (!ret) {
		plt_iov_to_buf(iov, niov, 0, m->bytes + off, len);
		m->size = PLT_MAX(m->size, off + len);
	}
	pthread_rwlock_unlock(&m->lock);
	return ret ? plt_io_error(err, -ret, "write", st, off, len) : 0;
}

static int memory_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct memory *m = st->priv;
	int ret;

	(void)flags;
	(void)tag;
	pthread_rwlock_wrlock(&m->lock);
	ret = reserve(m, off + len);
	if (!ret) {
		if (off < m->size)
			memset(m->bytes + off, 0, PLT_MIN(len, m->size - off));
		m->size = PLT_MAX(m->size, off + len);
	}
	pthread_rwlock_unlock(&m->lock);
	return ret ? plt_io_error(err, -ret, "zero", st, off, len) : 0;
}

static int memory_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct memory *m = st->priv;

	(void)err;
	pthread_rwlock_wrlock(&m->lock);
	if (off < m->size)
		memset(m->bytes + off, 0, PLT_MIN(len, m->size - off));
	pthread_rwlock_unlock(&m->lock);
	return 0;
}

static int memory_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct memory *m = st->priv;
	int ret;

	pthread_rwlock_wrlock(&m->lock);
	ret = reserve(m, size);
	if (!ret) {
		if (size < m->size)
			memset(m->bytes + size, 0, m->size - size);
		m->size = size;
	}
	pthread_rwlock_unlock(&m->lock);
	return ret ? plt_error_errno(err, -ret, "Could not resize '%s'", st->name) : 0;
}

static int memory_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct memory *m = st->priv;
	int ret;

	pthread_rwlock_wrlock(&m->lock);
	ret = reserve(m, off + len);
	if (!ret)
		m->size = PLT_MAX(m->size, off + len);
	pthread_rwlock_unlock(&m->lock);
	return ret ? plt_io_error(err, -ret, "allocate", st, off, len) : 0;
}

static int64_t memory_allocated(struct plt_store *st)
{
	uint64_t size = 0;

	memory_size(st, &size, NULL);
	return size;
}

static const struct plt_store_ops memory_ops = {
	.kind = "memory",
	.close = memory_close,
	.size = memory_size,
	.read = memory_read,
	.write = memory_write,
	.zero = memory_zero,
	.discard = memory_discard,
	.truncate = memory_truncate,
	.allocate = memory_allocate,
	.allocated = memory_allocated,
};

int plt_memory_new(const void *init, size_t len, uint64_t max, struct plt_store **ret)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (!m || plt_store_init(&m->st, &memory_ops, "memory")) {
		free(m);
		return -ENOMEM;
	}
	m->st.priv = m;
	m->max = max;
	if (pthread_rwlock_init(&m->lock, NULL))
		abort(); /* takes no resources on Linux */
	/* An exact fit, so that a checker sees reads beyond it. */
	m->bytes = calloc(1, len ? len : 1);
	if (!m->bytes) {
		plt_store_unref(&m->st);
		return -ENOMEM;
	}
	if (init && len)
		memcpy(m->bytes, init, len);
	m->size = m->cap = len;
	*ret = &m->st;
	return 0;
}

const void *plt_memory_data(struct plt_store *st, size_t *ret_len)
{
	struct memory *m = st->priv;

	*ret_len = m->size;
	return m->bytes;
}
