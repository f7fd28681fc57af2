/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Text of errors.  Protects one promise: whatever is reported (names of files, bytes of a hostile
 * image, text longer than there is room for), a plt_error holds valid UTF-8 that ends inside its
 * array, without control characters and without a line break that the message's own format does
 * not have; and its code is the errno returned.  Nothing is allocated and errno is kept.  What a
 * message says is left to the place that detects the fault.
 */
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/shown.h"

#define TEXT_MAX sizeof(((struct plt_error *)NULL)->text)

static unsigned count_breaks(const char *text)
{
	unsigned n = 0;

	while ((text = strchr(text, '\n'))) {
		text++;
		n++;
	}
	return n;
}

/*
 * The arguments may point into err->text, so the text is built aside.  @tail (may be NULL) is
 * joined with ": ".
 */
static void build(struct plt_error *err, const char *tail, const char *fmt, va_list ap)
{
	char text[TEXT_MAX];
	size_t len;
	bool cut;
	int n;

	n = vsnprintf(text, sizeof(text), fmt, ap);
	if (n < 0) {
		/* Only an impossible conversion: the code still tells the caller what it needs. */
		text[0] = '\0';
		n = 0;
	}
	cut = (size_t)n >= sizeof(text);
	/* As many as the format has: no argument brought one. */
	plt_text_clean_cut(text, cut, count_breaks(text) == count_breaks(fmt));
	if (tail) {
		len = strlen(text);
		n = snprintf(text + len, sizeof(text) - len, ": %s", tail);
		cut = cut || (size_t)n >= sizeof(text) - len;
	}
	plt_text_clean_cut(text, cut, true);
	memcpy(err->text, text, strlen(text) + 1);
}

int plt_error_set(struct plt_error *err, int errnum, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		build(err, NULL, fmt, ap);
		va_end(ap);
		err->code = errnum;
	}
	errno = saved;
	return -errnum;
}

int plt_error_errno(struct plt_error *err, int errnum, const char *fmt, ...)
{
	int saved = errno;
	char buf[128];
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		build(err, strerror_r(errnum, buf, sizeof(buf)), fmt, ap);
		va_end(ap);
		err->code = errnum;
	}
	errno = saved;
	return -errnum;
}

void plt_error_prefix(struct plt_error *err, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	if (!err || !err->text[0])
		return;
	va_start(ap, fmt);
	build(err, err->text, fmt, ap);
	va_end(ap);
	errno = saved;
}

int plt_error_default(struct plt_error *err, int errnum, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	if (err && !err->text[0]) {
		va_start(ap, fmt);
		build(err, NULL, fmt, ap);
		va_end(ap);
		err->code = errnum;
	}
	errno = saved;
	return -errnum;
}
