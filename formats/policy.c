/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Which files an image may cause to be opened.  The decision is about the real place of the file:
 * symbolic links and ".." are resolved before an allowed folder is compared, so that no name inside
 * an image leads out of it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "formats/name.h"
#include "formats/policy.h"

static bool below(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	while (n > 1 && dir[n - 1] == '/')
		n--;
	return !strncmp(dir, path, n) && (path[n] == '/' || n == 1);
}

int plt_policy_check(enum plt_policy policy, char *const *allow_dirs, const char *role, const char *name,
		     struct plt_error *err)
{
	PLT_AUTOFREE char *real = NULL;

	if (policy == PLT_POLICY_TRUST)
		return 0;
	if (policy == PLT_POLICY_UNTRUSTED)
		return plt_error_set(err, EACCES, "%s '%s' is refused: the image is not trusted to name other files",
				     role, name);
	if (!strncmp(name, "json:", 5) || plt_name_has_protocol(name))
		return plt_error_set(err, EACCES, "%s '%s' is refused: only plain files in allowed folders may be named",
				     role, name);
	real = realpath(name, NULL);
	if (!real)
		return plt_error_errno(err, errno, "%s '%s'", role, name);
	for (unsigned i = 0; allow_dirs && allow_dirs[i]; i++) {
		PLT_AUTOFREE char *dir = realpath(allow_dirs[i], NULL);

		if (dir && below(dir, real))
			return 0;
	}
	return plt_error_set(err, EACCES, "%s '%s' is refused: it lies in no folder given with --allow-dir",
			     role, name);
}
