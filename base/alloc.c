/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Memory whose size a file or a request decides.  Protects against a small file that asks for much:
 * no size is used before its product is checked and compared with the caller's limit.  What the
 * limit should be is the caller's knowledge.
 */
#include "base/alloc.h"

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"

#define IO_ALIGN 4096

void *plt_alloc_capped(uint64_t n, size_t size, uint64_t limit)
{
	uint64_t bytes;
	void *p;

	if (plt_mul(n, size, &bytes) || bytes > limit || bytes > PTRDIFF_MAX) {
		errno = EFBIG;
		return NULL;
	}
	p = calloc(1, bytes ? (size_t)bytes : 1);
	if (!p)
		errno = ENOMEM;
	return p;
}

void *plt_alloc_io(size_t len)
{
	void *p;
	int ret;

	if (len > PTRDIFF_MAX) {
		errno = ENOMEM;
		return NULL;
	}
	ret = posix_memalign(&p, IO_ALIGN, len ? len : 1);
	if (ret) {
		errno = ret;
		return NULL;
	}
	return p;
}
