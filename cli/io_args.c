/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Arguments of the commands of `platter io`: numbers and patterns, with qemu-io's words. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/number.h"
#include "cli/io.h"

int io_number(const char *text, int64_t *ret)
{
	uint64_t v = 0;
	int r = plt_number_size(text, &v);

	if (r == 0 && v > INT64_MAX)
		r = -ERANGE;
	if (r == -EINVAL)
		printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
	else if (r < 0)
		printf("Parsing error: argument too large -- %s\n", text);
	else
		*ret = (int64_t)v;
	return r;
}

int io_pattern(const char *text, int *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 0);
	if (errno || v < 0 || v > 255 || *end) {
		printf("%s is not a valid pattern byte\n", text);
		return -EINVAL;
	}
	*ret = (int)v;
	return 0;
}
