/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Slices of iovec arrays.  Every function walks the array once from its start; a slice must lie
 * inside it (asserted: lengths come from the request, not from a file).  Empty entries are allowed
 * anywhere.  Memory is the caller's.
 */
#include "base/iov.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"

size_t plt_iov_len(const struct iovec *iov, int niov)
{
	size_t len = 0;

	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	return len;
}

/* What is left of a slice, and where in the array it goes on. */
struct walk {
	const struct iovec *iov;
	int niov;
	size_t off, len;
};

/* The next piece of the slice that is not empty; false at its end. */
static bool walk_next(struct walk *w, struct iovec *ret)
{
	while (w->len) {
		assert(w->niov > 0);
		if (w->off < w->iov->iov_len) {
			ret->iov_base = (uint8_t *)w->iov->iov_base + w->off;
			ret->iov_len = PLT_MIN(w->iov->iov_len - w->off, w->len);
			w->len -= ret->iov_len;
			w->off = 0;
			w->iov++;
			w->niov--;
			return true;
		}
		w->off -= w->iov->iov_len;
		w->iov++;
		w->niov--;
	}
	return false;
}

int plt_iov_slice_count(const struct iovec *iov, int niov, size_t off, size_t len)
{
	struct walk w = { iov, niov, off, len };
	struct iovec piece;
	int n = 0;

	while (walk_next(&w, &piece))
		n++;
	return n;
}

int plt_iov_slice(const struct iovec *iov, int niov, size_t off, size_t len, struct iovec *out)
{
	struct walk w = { iov, niov, off, len };
	int n = 0;

	while (walk_next(&w, &out[n]))
		n++;
	return n;
}

void plt_iov_zero(const struct iovec *iov, int niov, size_t off, size_t len)
{
	struct walk w = { iov, niov, off, len };
	struct iovec piece;

	while (walk_next(&w, &piece))
		memset(piece.iov_base, 0, piece.iov_len);
}

void plt_iov_from_buf(const struct iovec *iov, int niov, size_t off, const void *buf, size_t len)
{
	struct walk w = { iov, niov, off, len };
	const uint8_t *p = buf;
	struct iovec piece;

	while (walk_next(&w, &piece)) {
		memcpy(piece.iov_base, p, piece.iov_len);
		p += piece.iov_len;
	}
}

void plt_iov_to_buf(const struct iovec *iov, int niov, size_t off, void *buf, size_t len)
{
	struct walk w = { iov, niov, off, len };
	uint8_t *p = buf;
	struct iovec piece;

	while (walk_next(&w, &piece)) {
		memcpy(p, piece.iov_base, piece.iov_len);
		p += piece.iov_len;
	}
}
