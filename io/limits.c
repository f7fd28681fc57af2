/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store as if the one below could only do so much: nothing but whole units, nothing longer than a
 * limit.  What is above is shown to survive devices that are not at hand.  Invariant: a part of a
 * unit is changed while nobody else changes that unit (parts hold it exclusively, whole units shared),
 * and the store below grows by what was written only, not by the unit's rest.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct limits {
	struct plt_store st;
	struct plt_store *below;
	struct plt_limits_rule rule;
	struct plt_unitlock units;
};

static void limits_close(struct plt_store *st)
{
	struct limits *l = st->priv;

	plt_unitlock_release(&l->units);
	plt_store_unref(l->below);
}

static int limits_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_size(l->below, ret, err);
}

/* Whole units through a buffer of our own, at most max_io at a time. */
static int limits_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct limits *l = st->priv;
	uint64_t unit = l->rule.align, len = plt_iov_len(iov, niov), done = 0;
	uint64_t most = PLT_MAX(unit, PLT_MIN(l->rule.max_io, UINT64_C(1) << 20));
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io((size_t)most);
	int r = 0;

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	while (r == 0 && done < len) {
		uint64_t start = plt_align_down(off + done, unit), skip = off + done - start;
		uint64_t n = PLT_MIN(len - done, most - skip);

		r = plt_store_read(l->below, start, buf, (size_t)plt_align_up(skip + n, unit), tag, err);
		if (r == 0)
			plt_iov_from_buf(iov, niov, (size_t)done, buf + skip, (size_t)n);
		done += n;
	}
	return r;
}

/* @n bytes of a unit at @start, @skip into it: from @iov at @done, or zeros (NULL). */
static int write_part(struct limits *l, uint64_t start, uint64_t skip, const struct iovec *iov, int niov,
		      uint64_t done, uint64_t n, enum plt_io_tag tag, struct plt_error *err)
{
	uint64_t unit = l->rule.align, end;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io((size_t)unit);
	struct plt_unit_hold hold;
	int r;

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	plt_unit_acquire(&l->units, &hold, start, start + unit, true);
	r = plt_store_size(l->below, &end, err);
	if (r == 0)
		r = plt_store_read(l->below, start, buf, (size_t)unit, tag, err);
	if (r == 0) {
		if (iov)
			plt_iov_to_buf(iov, niov, (size_t)done, buf + skip, (size_t)n);
		else
			memset(buf + skip, 0, (size_t)n);
		end = PLT_MIN(unit, PLT_MAX(skip + n, end > start ? end - start : 0));
		r = plt_store_write(l->below, start, buf, (size_t)end, tag, err);
	}
	plt_unit_drop(&l->units, &hold);
	return r;
}

static int limits_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
			struct plt_error *err)
{
	struct limits *l = st->priv;
	uint64_t unit = l->rule.align, len = plt_iov_len(iov, niov), done = 0;
	int r = 0;

	while (r == 0 && done < len) {
		uint64_t at = off + done, skip = at & (unit - 1), n = PLT_MIN(len - done, unit - skip);
		PLT_AUTOFREE struct iovec *slice = NULL;
		struct plt_unit_hold hold;
		int count;

		if (skip || n < unit) {
			r = write_part(l, at - skip, skip, iov, niov, done, n, tag, err);
			done += n;
			continue;
		}
		n = PLT_MIN(plt_align_down(len - done, unit), PLT_MAX(unit, l->rule.max_io));
		count = plt_iov_slice_count(iov, niov, (size_t)done, (size_t)n);
		slice = malloc((size_t)count * sizeof(*slice));
		if (!slice)
			return plt_error_set(err, ENOMEM, "out of memory");
		count = plt_iov_slice(iov, niov, (size_t)done, (size_t)n, slice);
		plt_unit_acquire(&l->units, &hold, at, at + n, false);
		r = plt_store_writev(l->below, at, slice, count, tag, err);
		plt_unit_drop(&l->units, &hold);
		done += n;
	}
	return r;
}

/* From @off: up to the next multiple of @opt, then multiples of it, none longer than @max; 0: no limit. */
static uint64_t piece(uint64_t off, uint64_t len, uint64_t opt, uint64_t max)
{
	uint64_t n = len;

	if (opt && off % opt)
		n = PLT_MIN(n, opt - off % opt);
	else if (opt && n > opt)
		n -= n % opt;
	return max ? PLT_MIN(n, max) : n;
}

static int zeros(struct limits *l, uint64_t off, uint64_t len, enum plt_io_tag tag, struct plt_error *err)
{
	static uint8_t nothing[1 << 16];
	int r = 0;

	while (r == 0 && len) {
		uint64_t n = PLT_MIN(len, (uint64_t)sizeof(nothing));

		r = limits_write(&l->st, off, &(struct iovec){ nothing, (size_t)n }, 1, tag, err);
		off += n;
		len -= n;
	}
	return r;
}

static int limits_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct limits *l = st->priv;
	uint64_t opt = PLT_MAX(l->rule.opt_zero, (uint64_t)l->rule.align);
	int r = 0;

	while (r == 0 && len) {
		uint64_t n = piece(off, len, opt, l->rule.max_zero);
		struct plt_unit_hold hold;

		if (off % l->rule.align || n % l->rule.align || n < opt) {
			if (flags & PLT_ZERO_NO_FALLBACK)
				return -ENOTSUP;
			r = zeros(l, off, n, tag, err);
		} else {
			plt_unit_acquire(&l->units, &hold, off, off + n, false);
			r = plt_store_zero(l->below, off, n, flags, tag, err);
			plt_unit_drop(&l->units, &hold);
		}
		off += n;
		len -= n;
	}
	return r;
}

/* Advice: what fills no unit is left as it is. */
static int limits_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct limits *l = st->priv;
	uint64_t end = plt_align_down(off + len, l->rule.align), n;
	int r = 0;

	for (off = plt_align_up(off, l->rule.align); r == 0 && off < end; off += n) {
		n = piece(off, end - off, l->rule.opt_discard, l->rule.max_discard);
		r = plt_store_discard(l->below, off, n, err);
	}
	return r;
}

static int limits_sync(struct plt_store *st, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_sync(l->below, err);
}

static int limits_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_truncate(l->below, size, err);
}

static int limits_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_allocate(l->below, off, len, err);
}

static int limits_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
			  uint64_t *ret_len, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_extents(l->below, off, len, ret_kind, ret_len, err);
}

static int limits_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct limits *l = st->priv;

	return plt_store_lock(l->below, perm, shared, err);
}

static int64_t limits_allocated(struct plt_store *st)
{
	struct limits *l = st->priv;

	return plt_store_allocated(l->below);
}

static struct plt_store *limits_below(struct plt_store *st)
{
	struct limits *l = st->priv;

	return l->below;
}

static const struct plt_store_ops limits_ops = {
	.kind = "limits",
	.close = limits_close,
	.size = limits_size,
	.read = limits_read,
	.write = limits_write,
	.zero = limits_zero,
	.discard = limits_discard,
	.sync = limits_sync,
	.truncate = limits_truncate,
	.allocate = limits_allocate,
	.extents = limits_extents,
	.lock = limits_lock,
	.below = limits_below,
	.allocated = limits_allocated,
};

int plt_limits_new(struct plt_store *below, const struct plt_limits_rule *rule, struct plt_store **ret)
{
	struct limits *l = calloc(1, sizeof(*l));

	if (!l || plt_store_init(&l->st, &limits_ops, below->name)) {
		free(l);
		return -ENOMEM;
	}
	l->st.priv = l;
	plt_store_inherit(&l->st, below);
	l->rule = *rule;
	if (!l->rule.align)
		l->rule.align = 1;
	if (!l->rule.max_io)
		l->rule.max_io = UINT64_MAX;
	l->rule.max_io = plt_align_down(l->rule.max_io, l->rule.align);
	l->st.limits.align = PLT_MAX(l->st.limits.align, l->rule.align);
	plt_unitlock_init(&l->units);
	l->below = plt_store_ref(below);
	*ret = &l->st;
	return 0;
}

struct plt_store *plt_limits_below(struct plt_store *st)
{
	return st->ops == &limits_ops ? ((struct limits *)st->priv)->below : NULL;
}
