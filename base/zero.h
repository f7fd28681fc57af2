/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_ZERO_H
#define PLT_BASE_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Whether all bytes are zero.  Looks at both ends and the middle first, so data returns at once. */
bool plt_is_zero(const void *buf, size_t len);

/*
 * Length of the longest prefix of @buf made of whole @unit-byte blocks that are all zero, or all
 * not zero: *ret_zero says which.  The last block may be shorter than @unit.  len > 0.
 */
size_t plt_zero_run(const void *buf, size_t len, size_t unit, bool *ret_zero);

#endif
