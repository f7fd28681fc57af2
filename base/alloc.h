/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_ALLOC_H
#define PLT_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/*
 * For sizes that a file controls: n * size bytes, zeroed, or NULL if the product overflows, passes
 * @limit or memory is short (errno EFBIG or ENOMEM).  Free with free().  n * size == 0 gives a
 * valid pointer.
 */
void *plt_alloc_capped(uint64_t n, size_t size, uint64_t limit);

/* Memory for I/O: aligned to 4096 (enough for O_DIRECT), not zeroed.  Free with free(). */
void *plt_alloc_io(size_t len);

#endif
