/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Whole transfers between memory and a descriptor.  The invariant: a call that returns 0 has moved
 * every byte; interrupted and short system calls are continued, more pieces than the kernel takes
 * at once go in several calls, and what lies past the end of a file reads as zeros.  The caller's
 * iovec is not changed.  Alignment is left to direct.c.
 */
#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

#include "base/checked.h"
#include "base/iov.h"
#include "io/private.h"

#define LOCAL_IOV 16

/* A place in an iovec. */
struct cursor {
	const struct iovec *iov;
	int niov;
	size_t skip; /* bytes of iov[0] that are done */
};

/* Step over @n bytes, and over empty pieces: so a call that moves nothing has met the end. */
static void advance(struct cursor *c, size_t n)
{
	c->skip += n;
	while (c->niov && c->skip >= c->iov->iov_len) {
		c->skip -= c->iov->iov_len;
		c->iov++;
		c->niov--;
	}
}

static ssize_t step(int fd, bool write, uint64_t off, const struct cursor *c)
{
	const struct iovec *v = c->iov;
	int n = PLT_MIN(c->niov, IOV_MAX);
	struct iovec local[LOCAL_IOV];
	ssize_t r;

	if (c->skip) {
		n = PLT_MIN(c->niov, LOCAL_IOV);
		for (int i = 0; i < n; i++)
			local[i] = c->iov[i];
		local[0].iov_base = (char *)local[0].iov_base + c->skip;
		local[0].iov_len -= c->skip;
		v = local;
	}
	do {
		r = write ? pwritev(fd, v, n, off) : preadv(fd, v, n, off);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void zero_rest(const struct cursor *c)
{
	size_t len = plt_iov_len(c->iov, c->niov);

	plt_iov_zero(c->iov, c->niov, c->skip, len - c->skip);
}

/*
 * @align > 1: the descriptor is O_DIRECT.  A count that is no multiple of it can only end at the
 * end of the file, and going on from there would be refused.
 */
int plt_fd_read(int fd, uint64_t off, const struct iovec *iov, int niov, uint32_t align)
{
	struct cursor c = { iov, niov, 0 };

	advance(&c, 0);
	while (c.niov) {
		ssize_t r = step(fd, false, off, &c);

		if (r < 0)
			return r;
		advance(&c, r);
		if (!r || r % align) {
			if (c.niov)
				zero_rest(&c);
			return 0;
		}
		off += r;
	}
	return 0;
}

int plt_fd_write(int fd, uint64_t off, const struct iovec *iov, int niov)
{
	struct cursor c = { iov, niov, 0 };

	advance(&c, 0);
	while (c.niov) {
		ssize_t r = step(fd, true, off, &c);

		if (r < 0)
			return r;
		if (!r)
			return -ENOSPC; /* a device at its end */
		advance(&c, r);
		off += r;
	}
	return 0;
}
