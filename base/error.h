/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_ERROR_H
#define PLT_BASE_ERROR_H

/*
 * Errors.  Functions return 0 (or a count) or a negative errno.  The text for a person goes to the
 * plt_error that the caller may pass as the last parameter (NULL: no text wanted).  It has inline
 * space, so reporting never fails for lack of memory.  Text is built inside out: the place that
 * detects the fault says what field, where, which value and what was expected; callers that know
 * more put "name: " in front with plt_error_prefix().
 *
 * Errno vocabulary: EUCLEAN corrupt structure, ENOTSUP known but unsupported feature, EINVAL the
 * caller's mistake, EFBIG over a limit, EBUSY locked by another user, ENOMEDIUM missing backing
 * file; all others come from the kernel.
 *
 * struct plt_error itself is public: include/platter.h defines it.
 */
#include <errno.h>
#include <stdarg.h>

#include "platter.h"

/* Set code and text; @errnum is positive.  Returns -errnum.  @err may be NULL. */
int plt_error_set(struct plt_error *err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As plt_error_set, and appends ": strerror(errnum)". */
int plt_error_errno(struct plt_error *err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "formatted text: " in front of what is there; nothing if no text is set.  Truncates the tail. */
void plt_error_prefix(struct plt_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Set only if no text is set yet: for callers of functions that may return an errno without text. */
int plt_error_default(struct plt_error *err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
