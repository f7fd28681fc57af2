/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Names of the files of a folder. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "snapshot/snapshot.h"

int plt_names_add(struct plt_names *names, const char *folder, const char *name)
{
	size_t n = strlen(folder), len = n + strlen(name) + 2;
	char *text;

	if (names->n == names->cap) {
		unsigned cap = names->cap ? 2 * names->cap : 64;
		char **v = realloc(names->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		names->v = v;
		names->cap = cap;
	}
	text = malloc(len);
	if (!text)
		return -ENOMEM;
	snprintf(text, len, "%s%s%s", folder, n && folder[n - 1] != '/' ? "/" : "", name);
	names->v[names->n++] = text;
	return 0;
}

int plt_names_of_folder(struct plt_names *names, const char *folder, bool hidden, struct plt_error *err)
{
	DIR *d = opendir(folder);
	struct dirent *e;
	struct stat sb;
	int r = 0;

	if (!d)
		return plt_error_set(err, errno, "Could not read '%s': %s", folder, strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		if (*e->d_name == '.' && (!hidden || !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")))
			continue;
		r = plt_names_add(names, folder, e->d_name);
		if (r == 0 && (stat(names->v[names->n - 1], &sb) < 0 || !S_ISREG(sb.st_mode) || !sb.st_size))
			free(names->v[--names->n]);
	}
	closedir(d);
	return r < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

void plt_names_release(struct plt_names *names)
{
	for (unsigned i = 0; i < names->n; i++)
		free(names->v[i]);
	free(names->v);
	*names = (struct plt_names){ 0 };
}
