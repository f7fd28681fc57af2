/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A store that fails, tears or delays chosen operations of the one below: how everything above is
 * shown to survive errors.  A rule that is still skipping, or is used up, lets the next one try.
 * Every operation is counted, and none gets past: there is no descriptor and nothing resolves.
 * A rule with a tag never hits discard, sync and truncate, which have none; one with a range never
 * hits sync.  Whoever needs more than rules that count sets a judge.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/private.h"

struct rule {
	struct plt_fault_rule rule;
	uint64_t matched;
};

struct fault {
	struct plt_store st;
	struct plt_store *below;
	pthread_mutex_t mutex; /* the fields below */
	struct rule *rules;
	size_t n;
	uint64_t seen[7]; /* by bit number of PLT_FAULT_* */
	struct plt_fault_judge judge;
};

static void fault_close(struct plt_store *st)
{
	struct fault *f = st->priv;

	if (f->judge.free)
		f->judge.free(f->judge.arg);
	free(f->rules);
	pthread_mutex_destroy(&f->mutex);
	plt_store_unref(f->below);
}

static bool matches(const struct plt_fault_rule *r, enum plt_fault_op op, int tag, uint64_t off,
		    uint64_t len)
{
	if (!(r->ops & op) || (r->tag >= 0 && r->tag != tag))
		return false;
	return !r->len || plt_ranges_overlap(r->off, r->len, off, len);
}

/* Count the operation; *ret says what to do with it (all zeros: nothing). */
static void meet(struct fault *f, enum plt_fault_op op, int tag, uint64_t off, uint64_t len,
		 struct plt_fault_rule *ret)
{
	*ret = (struct plt_fault_rule){ 0 };
	if (f->judge.before) {
		ret->error = f->judge.before(f->judge.arg, op, tag, off, len);
		if (ret->error)
			return;
	}
	{
		PLT_LOCK_SCOPE(&f->mutex);
		f->seen[__builtin_ctz(op)]++;
		for (size_t i = 0; i < f->n; i++) {
			struct rule *r = &f->rules[i];
			uint64_t nth;

			if (!matches(&r->rule, op, tag, off, len))
				continue;
			nth = r->matched++;
			if (nth < r->rule.skip ||
			    (r->rule.count && nth - r->rule.skip >= r->rule.count))
				continue;
			*ret = r->rule;
			break;
		}
	}
	if (ret->delay_us)
		usleep(ret->delay_us);
}

/* It has passed and ended. */
static int left(struct fault *f, enum plt_fault_op op, int ret)
{
	if (f->judge.after)
		f->judge.after(f->judge.arg, op);
	return ret;
}

static int fail(struct plt_store *st, const struct plt_fault_rule *r, const char *what,
		uint64_t off, uint64_t len, struct plt_error *err)
{
	plt_io_error(err, r->error, what, st, off, len);
	plt_error_prefix(err, "injected");
	return -r->error;
}

static int fault_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct fault *f = st->priv;

	return plt_store_size(f->below, ret, err);
}

static int fault_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		      enum plt_io_tag tag, struct plt_error *err)
{
	struct fault *f = st->priv;
	size_t len = plt_iov_len(iov, niov);
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_READ, tag, off, len, &r);
	if (r.error)
		return fail(st, &r, "read", off, len, err);
	return left(f, PLT_FAULT_READ, plt_store_readv(f->below, off, iov, niov, tag, err));
}

static int write_torn(struct fault *f, uint64_t off, const struct iovec *iov, int niov, size_t len,
		      enum plt_io_tag tag, struct plt_error *err)
{
	uint8_t *buf = malloc(len);
	int ret;

	if (!buf)
		return plt_error_set(err, ENOMEM, "Out of memory");
	plt_iov_to_buf(iov, niov, 0, buf, len);
	ret = plt_store_write(f->below, off, buf, len, tag, err);
	free(buf);
	return ret;
}

static int fault_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct fault *f = st->priv;
	size_t len = plt_iov_len(iov, niov);
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_WRITE, tag, off, len, &r);
	if (r.tear) {
		int ret = write_torn(f, off, iov, niov, PLT_MIN(len, r.tear), tag, err);

		if (ret || !r.error)
			return ret;
	}
	if (r.error)
		return fail(st, &r, "write", off, len, err);
	return left(f, PLT_FAULT_WRITE, plt_store_writev(f->below, off, iov, niov, tag, err));
}

static int fault_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		      enum plt_io_tag tag, struct plt_error *err)
{
	struct fault *f = st->priv;
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_ZERO, tag, off, len, &r);
	if (r.error)
		return fail(st, &r, "zero", off, len, err);
	return left(f, PLT_FAULT_ZERO, plt_store_zero(f->below, off, len, flags, tag, err));
}

static int fault_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct fault *f = st->priv;
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_DISCARD, -1, off, len, &r);
	if (r.error)
		return fail(st, &r, "discard", off, len, err);
	return left(f, PLT_FAULT_DISCARD, plt_store_discard(f->below, off, len, err));
}

static int fault_sync(struct plt_store *st, struct plt_error *err)
{
	struct fault *f = st->priv;
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_SYNC, -1, 0, 0, &r);
	if (r.error) {
		plt_error_errno(err, r.error, "injected: Could not flush '%s'", st->name);
		return -r.error;
	}
	return left(f, PLT_FAULT_SYNC, plt_store_sync(f->below, err));
}

static int fault_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct fault *f = st->priv;
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_TRUNCATE, -1, size, UINT64_MAX - size, &r);
	if (r.error) {
		plt_error_errno(err, r.error, "injected: Could not resize '%s'", st->name);
		return -r.error;
	}
	return left(f, PLT_FAULT_TRUNCATE, plt_store_truncate(f->below, size, err));
}

static int fault_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct fault *f = st->priv;

	return plt_store_allocate(f->below, off, len, err);
}

static int fault_extents(struct plt_store *st, uint64_t off, uint64_t len,
			 enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	struct fault *f = st->priv;
	struct plt_fault_rule r;

	meet(f, PLT_FAULT_EXTENTS, -1, off, len, &r);
	if (r.error)
		return fail(st, &r, "ask for the extents of", off, len, err);
	return plt_store_extents(f->below, off, len, ret_kind, ret_len, err);
}

static int fault_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct fault *f = st->priv;

	return plt_store_lock(f->below, perm, shared, err);
}

static int64_t fault_allocated(struct plt_store *st)
{
	struct fault *f = st->priv;

	return plt_store_allocated(f->below);
}

static struct plt_store *fault_below(struct plt_store *st)
{
	struct fault *f = st->priv;

	return f->below;
}

static const struct plt_store_ops fault_ops = {
	.kind = "fault",
	.close = fault_close,
	.size = fault_size,
	.read = fault_read,
	.write = fault_write,
	.zero = fault_zero,
	.discard = fault_discard,
	.sync = fault_sync,
	.truncate = fault_truncate,
	.allocate = fault_allocate,
	.extents = fault_extents,
	.lock = fault_lock,
	.below = fault_below,
	.allocated = fault_allocated,
};

int plt_fault_new(struct plt_store *below, struct plt_store **ret)
{
	struct fault *f = calloc(1, sizeof(*f));

	if (!f || plt_store_init(&f->st, &fault_ops, below->name)) {
		free(f);
		return -ENOMEM;
	}
	f->st.priv = f;
	plt_store_inherit(&f->st, below);
	pthread_mutex_init(&f->mutex, NULL);
	f->below = plt_store_ref(below);
	*ret = &f->st;
	return 0;
}

void plt_fault_set_judge(struct plt_store *st, const struct plt_fault_judge *judge)
{
	struct fault *f = st->priv;

	f->judge = *judge;
}

struct plt_store *plt_fault_below(struct plt_store *st)
{
	return st->ops == &fault_ops ? ((struct fault *)st->priv)->below : NULL;
}

const struct plt_fault_judge *plt_fault_judge(struct plt_store *st)
{
	struct fault *f = st->ops == &fault_ops ? st->priv : NULL;

	return f && f->judge.before ? &f->judge : NULL;
}

int plt_fault_add(struct plt_store *st, const struct plt_fault_rule *rule)
{
	struct fault *f = st->priv;
	struct rule *rules;

	PLT_LOCK_SCOPE(&f->mutex);
	rules = realloc(f->rules, (f->n + 1) * sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	f->rules = rules;
	f->rules[f->n] = (struct rule){ *rule, 0 };
	return f->n++;
}

void plt_fault_clear(struct plt_store *st)
{
	struct fault *f = st->priv;

	PLT_LOCK_SCOPE(&f->mutex);
	f->n = 0;
}

uint64_t plt_fault_seen(struct plt_store *st, unsigned ops)
{
	struct fault *f = st->priv;
	uint64_t n = 0;

	PLT_LOCK_SCOPE(&f->mutex);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(f->seen); i++)
		if (ops & 1u << i)
			n += f->seen[i];
	return n;
}
