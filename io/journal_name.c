/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What undo journals are called.  The invariant: whoever opens a file, by whatever symbolic link, finds the journal of
 * a repair of it that was begun by another name; so they lie beside the file and never beside a link to it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "io/journal.h"

char *plt_journal_name(const char *image, unsigned n)
{
	struct stat sb;
	PLT_AUTOFREE char *real = lstat(image, &sb) == 0 && S_ISLNK(sb.st_mode) ? realpath(image, NULL) : NULL;
	const char *at = real ? real : image;
	char *s;

	return (n == 1 ? asprintf(&s, "%s.platter-undo", at) : asprintf(&s, "%s.platter-undo.%u", at, n)) < 0 ? NULL : s;
}
