/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Edits shown over a store that is never written.  Edits are a sorted array of disjoint ranges,
 * each with its bytes or without (zeros); a later edit replaces what it covers of earlier ones, and
 * one that continues another becomes part of it (a table of millions of entries, changed entry by entry).
 * The invariants: the store below is only read; what was cut off by a smaller size never comes back
 * (below_end says how much of the store below may still be seen); an edit that fails for lack of
 * memory has changed nothing.  Where edits come from is left to the repair and to those who write.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct edit {
	uint64_t off, len;
	uint8_t *bytes; /* NULL: zeros */
	uint64_t room;  /* that bytes has; at least len */
};

#define JOINED_MAX ((uint64_t)64 << 10) /* an edit of this length is not continued */

struct overlay {
	struct plt_store st;
	struct plt_store *below;
	pthread_rwlock_t lock; /* the fields below */
	struct edit *v;
	size_t n, cap;
	uint64_t below_end; /* bytes of below from here on are hidden */
	bool sized;	    /* size is ours; otherwise it is below's */
	uint64_t size;
	atomic_uint_fast64_t failed; /* reads of below */
};

static void overlay_close(struct plt_store *st)
{
	struct overlay *o = st->priv;

	for (size_t i = 0; i < o->n; i++)
		free(o->v[i].bytes);
	free(o->v);
	pthread_rwlock_destroy(&o->lock);
	plt_store_unref(o->below);
}

static int size_locked(struct overlay *o, uint64_t *ret, struct plt_error *err)
{
	if (!o->sized)
		return plt_store_size(o->below, ret, err);
	*ret = o->size;
	return 0;
}

static int overlay_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct overlay *o = st->priv;
	int r;

	pthread_rwlock_rdlock(&o->lock);
	r = size_locked(o, ret, err);
	pthread_rwlock_unlock(&o->lock);
	return r;
}

/* The first edit that ends after @off: o->n if none. */
static size_t find(const struct overlay *o, uint64_t off)
{
	size_t lo = 0, hi = o->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (o->v[mid].off + o->v[mid].len > off)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* What is shown at @off: an edit (returned), or below (NULL) for *ret_len bytes, or hidden. */
static const struct edit *look(const struct overlay *o, uint64_t off, uint64_t len,
			       bool *ret_hidden, uint64_t *ret_len)
{
	size_t i = find(o, off);
	const struct edit *e = i < o->n ? &o->v[i] : NULL;

	*ret_hidden = off >= o->below_end;
	if (e && e->off <= off) {
		*ret_len = PLT_MIN(len, e->off + e->len - off);
		return e;
	}
	if (e)
		len = PLT_MIN(len, e->off - off);
	if (!*ret_hidden)
		len = PLT_MIN(len, o->below_end - off);
	*ret_len = len;
	return NULL;
}

/*
 * Replace the edits inside [off, off+len) by @ins (NULL: by nothing, so that below shows again or,
 * beyond below_end, zeros).  The lock is held for writing.
 */
static int replace(struct overlay *o, uint64_t off, uint64_t len, const struct edit *ins)
{
	uint64_t end = off + len;
	size_t first = find(o, off), last = first, keep;
	struct edit head = { 0 }, tail = { 0 };

	while (last < o->n && o->v[last].off < end)
		last++;
	if (o->n + 2 > o->cap) {
		size_t cap = o->cap ? 2 * o->cap : 16;
		struct edit *v = realloc(o->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		o->v = v;
		o->cap = cap;
	}
	/* What sticks out on either side stays, in memory of its own. */
	if (first < last && o->v[first].off < off) {
		const struct edit *e = &o->v[first];

		head = (struct edit){ e->off, off - e->off, NULL, off - e->off };
		if (e->bytes) {
			head.bytes = malloc(head.len);
			if (!head.bytes)
				return -ENOMEM;
			memcpy(head.bytes, e->bytes, head.len);
		}
	}
	if (first < last && o->v[last - 1].off + o->v[last - 1].len > end) {
		const struct edit *e = &o->v[last - 1];

		tail = (struct edit){ end, e->off + e->len - end, NULL, e->off + e->len - end };
		if (e->bytes) {
			tail.bytes = malloc(tail.len);
			if (!tail.bytes) {
				free(head.bytes);
				return -ENOMEM;
			}
			memcpy(tail.bytes, e->bytes + (end - e->off), tail.len);
		}
	}
	for (size_t i = first; i < last; i++)
		free(o->v[i].bytes);
	keep = (head.len > 0) + (ins != NULL) + (tail.len > 0);
	memmove(o->v + first + keep, o->v + last, (o->n - last) * sizeof(*o->v));
	o->n = o->n - (last - first) + keep;
	if (head.len)
		o->v[first++] = head;
	if (ins)
		o->v[first++] = *ins;
	if (tail.len)
		o->v[first] = tail;
	return 0;
}

/* An edit up to @end has been made, where @size was. */
static void reach(struct overlay *o, uint64_t end, uint64_t size)
{
	if (end <= size)
		return;
	/* What below may grow by later is not ours. */
	o->below_end = PLT_MIN(o->below_end, size);
	o->sized = true;
	o->size = end;
}

/* Takes over @bytes (NULL: zeros) on success. */
static int edit_locked(struct overlay *o, uint64_t off, uint8_t *bytes, uint64_t len)
{
	struct edit ins = { off, len, bytes, len };
	uint64_t size;
	int ret = size_locked(o, &size, NULL);

	if (!ret)
		ret = replace(o, off, len, &ins);
	if (!ret)
		reach(o, off + len, size);
	return ret;
}

/*
 * Room in the edit that ends at @off for @len more bytes, if there is such an edit and no other in the way.
 * @i: the first one that ends after @off.
 */
static struct edit *continued(struct overlay *o, size_t i, uint64_t off, uint64_t len)
{
	struct edit *e = i ? &o->v[i - 1] : NULL;
	uint64_t room;
	uint8_t *bytes;

	if (!e || !e->bytes || e->off + e->len != off || len > JOINED_MAX || e->len > JOINED_MAX - len ||
	    (i < o->n && o->v[i].off < off + len))
		return NULL;
	if (e->len + len <= e->room)
		return e;
	room = PLT_MIN(JOINED_MAX, 2 * (e->len + len));
	bytes = realloc(e->bytes, room);
	if (!bytes)
		return NULL;
	e->bytes = bytes;
	e->room = room;
	return e;
}

static int set_size_locked(struct overlay *o, uint64_t size)
{
	uint64_t old;
	int ret = size_locked(o, &old, NULL);

	if (!ret && size < old)
		ret = replace(o, size, INT64_MAX - size, NULL);
	if (ret)
		return ret;
	o->below_end = PLT_MIN(o->below_end, PLT_MIN(old, size));
	o->sized = true;
	o->size = size;
	return 0;
}

static int read_piece(struct overlay *o, uint64_t off, const struct iovec *iov, int niov, size_t at,
		      size_t len, enum plt_io_tag tag, struct plt_error *err)
{
	int n = plt_iov_slice_count(iov, niov, at, len), ret;
	struct iovec few[16], *v = few;

	if (n > (int)PLT_ARRAY_SIZE(few)) {
		v = malloc(n * sizeof(*v));
		if (!v)
			return plt_io_error(err, ENOMEM, "read", &o->st, off, len);
	}
	n = plt_iov_slice(iov, niov, at, len, v);
	ret = plt_store_readv(o->below, off, v, n, tag, err);
	if (ret < 0 && ret != -ENOMEM)
		atomic_fetch_add(&o->failed, 1);
	if (v != few)
		free(v);
	return ret;
}

static int overlay_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			enum plt_io_tag tag, struct plt_error *err)
{
	struct overlay *o = st->priv;
	uint64_t len = plt_iov_len(iov, niov), done = 0, size, n;
	int ret;

	pthread_rwlock_rdlock(&o->lock);
	ret = size_locked(o, &size, err);
	while (!ret && done < len && off + done < size) {
		uint64_t at = off + done;
		bool hidden;
		const struct edit *e = look(o, at, PLT_MIN(len - done, size - at), &hidden, &n);

		if (e && e->bytes)
			plt_iov_from_buf(iov, niov, done, e->bytes + (at - e->off), n);
		else if (e || hidden)
			plt_iov_zero(iov, niov, done, n);
		else
			ret = read_piece(o, at, iov, niov, done, n, tag, err);
		done += n;
	}
	pthread_rwlock_unlock(&o->lock);
	if (!ret)
		plt_iov_zero(iov, niov, done, len - done);
	return ret;
}

static int overlay_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
			 enum plt_io_tag tag, struct plt_error *err)
{
	struct overlay *o = st->priv;
	uint64_t len = plt_iov_len(iov, niov);
	int ret = -ENOMEM;
	struct edit *e;
	uint64_t size;
	uint8_t *bytes;
	size_t i;

	(void)tag;
	pthread_rwlock_wrlock(&o->lock);
	i = find(o, off);
	if (i < o->n && o->v[i].bytes && o->v[i].off <= off &&
	    off + len <= o->v[i].off + o->v[i].len) {
		plt_iov_to_buf(iov, niov, 0, o->v[i].bytes + (off - o->v[i].off), len);
		ret = 0;
	} else if (size_locked(o, &size, NULL) == 0 && (e = continued(o, i, off, len))) {
		plt_iov_to_buf(iov, niov, 0, e->bytes + e->len, len);
		e->len += len;
		reach(o, off + len, size);
		ret = 0;
	} else {
		bytes = malloc(len);
		if (bytes) {
			plt_iov_to_buf(iov, niov, 0, bytes, len);
			ret = edit_locked(o, off, bytes, len);
			if (ret)
				free(bytes);
		}
	}
	pthread_rwlock_unlock(&o->lock);
	return ret ? plt_io_error(err, -ret, "write", st, off, len) : 0;
}

static int overlay_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
			enum plt_io_tag tag, struct plt_error *err)
{
	struct overlay *o = st->priv;
	int ret;

	(void)flags;
	(void)tag;
	pthread_rwlock_wrlock(&o->lock);
	ret = edit_locked(o, off, NULL, len);
	pthread_rwlock_unlock(&o->lock);
	return ret ? plt_io_error(err, -ret, "zero", st, off, len) : 0;
}

static int overlay_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct overlay *o = st->priv;
	uint64_t size;
	int ret;

	pthread_rwlock_wrlock(&o->lock);
	ret = size_locked(o, &size, err);
	if (!ret && off < size)
		ret = edit_locked(o, off, NULL, PLT_MIN(len, size - off));
	pthread_rwlock_unlock(&o->lock);
	return ret ? plt_io_error(err, -ret, "discard", st, off, len) : 0;
}

static int overlay_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	int ret = plt_overlay_set_size(st, size);

	return ret ? plt_error_errno(err, -ret, "Could not resize '%s'", st->name) : 0;
}

static int overlay_extents(struct plt_store *st, uint64_t off, uint64_t len,
			   enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	struct overlay *o = st->priv;
	const struct edit *e;
	bool hidden;
	int ret = 0;

	pthread_rwlock_rdlock(&o->lock);
	e = look(o, off, len, &hidden, ret_len);
	if (e)
		*ret_kind = e->bytes ? PLT_STORE_DATA : PLT_STORE_HOLE;
	else if (hidden)
		*ret_kind = PLT_STORE_HOLE;
	else
		ret = plt_store_extents(o->below, off, *ret_len, ret_kind, ret_len, err);
	pthread_rwlock_unlock(&o->lock);
	return ret;
}

static int overlay_resolve(struct plt_store *st, uint64_t off, uint64_t len,
			   struct plt_store **ret_store, uint64_t *ret_off, uint64_t *ret_len)
{
	struct overlay *o = st->priv;
	const struct edit *e;
	bool hidden;
	uint64_t n;

	if (!len)
		return -ENOTSUP;
	pthread_rwlock_rdlock(&o->lock);
	e = look(o, off, len, &hidden, &n);
	pthread_rwlock_unlock(&o->lock);
	if (e || hidden)
		return -ENOTSUP;
	*ret_store = o->below;
	*ret_off = off;
	*ret_len = n;
	return 0;
}

/* Nothing is ever written below. */
static int overlay_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct overlay *o = st->priv;

	return plt_store_lock(o->below, perm & PLT_PERM_READ, shared, err);
}

static int64_t overlay_allocated(struct plt_store *st)
{
	struct overlay *o = st->priv;

	return plt_store_allocated(o->below);
}

/* Where nothing is edited. */
static bool overlay_unreadable(struct plt_store *st, uint64_t off, uint64_t len, struct plt_range *ret)
{
	struct overlay *o = st->priv;
	bool hidden, found = false;
	uint64_t n;

	if (!o->below->ops->unreadable)
		return false;
	pthread_rwlock_rdlock(&o->lock);
	for (; len && !found; off += n, len -= n)
		found = !look(o, off, len, &hidden, &n) && !hidden && plt_store_unreadable(o->below, off, n, ret);
	pthread_rwlock_unlock(&o->lock);
	return found;
}

static const struct plt_store_ops overlay_ops = {
	.kind = "overlay",
	.close = overlay_close,
	.size = overlay_size,
	.read = overlay_read,
	.write = overlay_write,
	.zero = overlay_zero,
	.discard = overlay_discard,
	.truncate = overlay_truncate,
	.extents = overlay_extents,
	.resolve = overlay_resolve,
	.lock = overlay_lock,
	.allocated = overlay_allocated,
	.unreadable = overlay_unreadable,
};

int plt_overlay_new(struct plt_store *below, bool writable, struct plt_store **ret)
{
	struct overlay *o = calloc(1, sizeof(*o));

	if (!o || plt_store_init(&o->st, &overlay_ops, below->name)) {
		free(o);
		return -ENOMEM;
	}
	o->st.priv = o;
	plt_store_inherit(&o->st, below);
	o->st.readonly = !writable;
	o->st.limits.can_grow = writable;
	o->st.limits.zero_is_fast = true;
	o->st.limits.discard_zeroes = true;
	o->st.limits.new_is_zero = true;
	if (pthread_rwlock_init(&o->lock, NULL))
		abort(); /* takes no resources on Linux */
	o->below = plt_store_ref(below);
	o->below_end = UINT64_MAX;
	/* as it is now: asking each time would cost more than what is asked for */
	if (plt_store_size(below, &o->size, NULL) == 0) {
		o->sized = true;
		o->below_end = o->size;
	}
	*ret = &o->st;
	return 0;
}

uint64_t plt_overlay_edited(struct plt_store *st, uint64_t off, uint64_t len)
{
	struct overlay *o = st->priv;
	uint64_t done = 0, n;
	bool hidden;

	pthread_rwlock_rdlock(&o->lock);
	while (done < len && look(o, off + done, len - done, &hidden, &n))
		done += n;
	pthread_rwlock_unlock(&o->lock);
	return done;
}

int plt_overlay_edit(struct plt_store *st, uint64_t off, const void *bytes, uint64_t len)
{
	struct overlay *o = st->priv;
	uint8_t *copy = NULL;
	int ret;

	if (!plt_in_range(off, len, INT64_MAX))
		return -EFBIG;
	if (!len)
		return 0;
	if (bytes) {
		copy = malloc(len);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, bytes, len);
	}
	pthread_rwlock_wrlock(&o->lock);
	ret = edit_locked(o, off, copy, len);
	pthread_rwlock_unlock(&o->lock);
	if (ret)
		free(copy);
	return ret;
}

int plt_overlay_set_size(struct plt_store *st, uint64_t size)
{
	struct overlay *o = st->priv;
	int ret;

	if (size > INT64_MAX)
		return -EFBIG;
	pthread_rwlock_wrlock(&o->lock);
	ret = set_size_locked(o, size);
	pthread_rwlock_unlock(&o->lock);
	return ret;
}

int plt_overlay_each(struct plt_store *st, int (*fn)(void *arg, uint64_t off, const void *bytes, uint64_t len),
		     void *arg)
{
	struct overlay *o = st->priv;
	int ret = 0;

	pthread_rwlock_rdlock(&o->lock);
	for (size_t i = 0; i < o->n && !ret; i++)
		ret = fn(arg, o->v[i].off, o->v[i].bytes, o->v[i].len);
	pthread_rwlock_unlock(&o->lock);
	return ret;
}

uint64_t plt_overlay_failed(struct plt_store *st)
{
	struct overlay *o = st->priv;

	return st->ops == &overlay_ops ? atomic_load(&o->failed) : 0;
}
