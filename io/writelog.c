/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store that records every change and every sync on its way to the one below, so that a test can
 * derive each state that a power cut might leave.  The invariants: a record is complete (its place
 * and its bytes are reserved before the operation is issued, so it cannot get lost afterwards), two
 * operations overlap in time exactly if their intervals begun..ended do, and a sync covers those
 * that ended before it began.  A change that failed may have happened in part: it is recorded with
 * ended = UINT64_MAX, for no sync ever covers it.  A failed sync covers nothing and is not
 * recorded.  Nothing gets past the log: no descriptor, nothing resolves, no copying below.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct plt_writelog {
	pthread_mutex_t mutex;
	struct plt_log_record *v;
	size_t n, cap;
	size_t reserved; /* operations under way: each has room */
	uint64_t events;
	int stores;
	int refs; /* the maker's and each store's */
};

struct logged {
	struct plt_store st;
	struct plt_store *below;
	struct plt_writelog *log;
	int index;
};

int plt_writelog_new(struct plt_writelog **ret)
{
	struct plt_writelog *log = calloc(1, sizeof(*log));

	if (!log)
		return -ENOMEM;
	pthread_mutex_init(&log->mutex, NULL);
	log->refs = 1;
	*ret = log;
	return 0;
}

void plt_writelog_free(struct plt_writelog *log)
{
	bool last;

	if (!log)
		return;
	pthread_mutex_lock(&log->mutex);
	last = !--log->refs;
	pthread_mutex_unlock(&log->mutex);
	if (!last)
		return;
	for (size_t i = 0; i < log->n; i++)
		free(log->v[i].data);
	free(log->v);
	pthread_mutex_destroy(&log->mutex);
	free(log);
}

/* Room for one record, and its place in time. */
static int begin(struct plt_writelog *log, struct plt_log_record *r)
{
	PLT_LOCK_SCOPE(&log->mutex);
	if (log->n + log->reserved + 1 > log->cap) {
		size_t cap = log->cap ? 2 * log->cap : 64;
		struct plt_log_record *v = realloc(log->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		log->v = v;
		log->cap = cap;
	}
	log->reserved++;
	r->begun = ++log->events;
	return 0;
}

static void end(struct plt_writelog *log, struct plt_log_record *r, int result)
{
	PLT_LOCK_SCOPE(&log->mutex);
	log->reserved--;
	r->ended = ++log->events;
	if (result) {
		bool nothing = result == -ENOTSUP || r->kind == PLT_LOG_SYNC;

		if (nothing) {
			free(r->data);
			return;
		}
		r->ended = UINT64_MAX;
	}
	assert(log->n < log->cap);
	log->v[log->n++] = *r;
}

static int logged_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct logged *l = st->priv;

	return plt_store_size(l->below, ret, err);
}

static int logged_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct logged *l = st->priv;

	return plt_store_readv(l->below, off, iov, niov, tag, err);
}

static int logged_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			enum plt_io_tag tag, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_WRITE,	    l->index, tag, off,
				    plt_iov_len(iov, niov), NULL,     0,   0 };
	int ret;

	r.data = malloc(r.len ? r.len : 1);
	if (!r.data || begin(l->log, &r)) {
		free(r.data);
		return plt_io_error(err, ENOMEM, "record", st, off, r.len);
	}
	plt_iov_to_buf(iov, niov, 0, r.data, r.len);
	ret = plt_store_write(l->below, off, r.data, r.len, tag, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_ZERO, l->index, tag, off, len, NULL, 0, 0 };
	int ret;

	if (begin(l->log, &r))
		return plt_io_error(err, ENOMEM, "record", st, off, len);
	ret = plt_store_zero(l->below, off, len, flags, tag, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_DISCARD, l->index, PLT_IO_OTHER, off, len, NULL, 0, 0 };
	int ret;

	if (begin(l->log, &r))
		return plt_io_error(err, ENOMEM, "record", st, off, len);
	ret = plt_store_discard(l->below, off, len, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_TRUNCATE, l->index, PLT_IO_OTHER, size, 0, NULL, 0, 0 };
	int ret;

	if (begin(l->log, &r))
		return plt_error_set(err, ENOMEM, "Out of memory");
	ret = plt_store_truncate(l->below, size, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_ALLOCATE, l->index, PLT_IO_OTHER, off, len, NULL, 0, 0 };
	int ret;

	if (begin(l->log, &r))
		return plt_io_error(err, ENOMEM, "record", st, off, len);
	ret = plt_store_allocate(l->below, off, len, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_sync(struct plt_store *st, struct plt_error *err)
{
	struct logged *l = st->priv;
	struct plt_log_record r = { PLT_LOG_SYNC, l->index, PLT_IO_OTHER, 0, 0, NULL, 0, 0 };
	int ret;

	if (begin(l->log, &r))
		return plt_error_set(err, ENOMEM, "Out of memory");
	ret = plt_store_sync(l->below, err);
	end(l->log, &r, ret);
	return ret;
}

static int logged_extents(struct plt_store *st, uint64_t off, uint64_t len,
			  enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	struct logged *l = st->priv;

	return plt_store_extents(l->below, off, len, ret_kind, ret_len, err);
}

static int logged_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct logged *l = st->priv;

	return plt_store_lock(l->below, perm, shared, err);
}

static int64_t logged_allocated(struct plt_store *st)
{
	struct logged *l = st->priv;

	return plt_store_allocated(l->below);
}

static struct plt_store *logged_below(struct plt_store *st)
{
	struct logged *l = st->priv;

	return l->below;
}

static void logged_close(struct plt_store *st)
{
	struct logged *l = st->priv;

	plt_store_unref(l->below);
	plt_writelog_free(l->log);
}

static const struct plt_store_ops logged_ops = {
	.kind = "writelog",
	.close = logged_close,
	.size = logged_size,
	.read = logged_read,
	.write = logged_write,
	.zero = logged_zero,
	.discard = logged_discard,
	.sync = logged_sync,
	.truncate = logged_truncate,
	.allocate = logged_allocate,
	.extents = logged_extents,
	.lock = logged_lock,
	.below = logged_below,
	.allocated = logged_allocated,
};

int plt_writelog_attach(struct plt_writelog *log, struct plt_store *below, struct plt_store **ret)
{
	struct logged *l = calloc(1, sizeof(*l));

	if (!l || plt_store_init(&l->st, &logged_ops, below->name)) {
		free(l);
		return -ENOMEM;
	}
	l->st.priv = l;
	plt_store_inherit(&l->st, below);
	l->below = plt_store_ref(below);
	l->log = log;
	PLT_LOCK_SCOPE(&log->mutex);
	log->refs++;
	l->index = log->stores++;
	*ret = &l->st;
	return 0;
}

void plt_writelog_mark(struct plt_writelog *log, uint64_t number)
{
	struct plt_log_record r = { PLT_LOG_MARK, -1, PLT_IO_OTHER, number, 0, NULL, 0, 0 };

	/* A test without its marks proves nothing. */
	if (begin(log, &r))
		abort();
	end(log, &r, 0);
}

size_t plt_writelog_records(struct plt_writelog *log, const struct plt_log_record **ret)
{
	PLT_LOCK_SCOPE(&log->mutex);
	*ret = log->v;
	return log->n;
}
