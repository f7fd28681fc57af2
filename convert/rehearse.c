/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A trial run of creating an image, on a sparse file in memory, before an old target is given up for
 * it: a misspelt option or a backing file that is not there is then found in time.  It leaves nothing
 * behind and touches no other file, so the options that name or reserve space elsewhere are left out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "block/internal.h"
#include "convert/convert.h"

static bool left_out(const char *key)
{
	return !strcmp(key, "preallocation") || !strcmp(key, "data_file") || !strcmp(key, "data_file_raw");
}

char *plt_option_text(const char *key, const char *value)
{
	char *ret = malloc(strlen(key) + 2 * strlen(value) + 2), *p = ret;

	if (!ret)
		return NULL;
	p += sprintf(p, "%s=", key);
	for (; *value; value++) {
		if (*value == ',')
			*p++ = ',';
		*p++ = *value;
	}
	*p = 0;
	return ret;
}

int plt_rehearse(struct plt_ctx *ctx, const char *name, const struct plt_create_options *co,
		 const struct plt_opts *opts, struct plt_error *err)
{
	struct plt_create_options trial = *co;
	size_t n = plt_opts_count(opts), used = 0;
	char **v = calloc(n + 1, sizeof(*v));
	struct plt_store *st = NULL;
	int fd, ret = 0;

	if (!v)
		return plt_error_set(err, ENOMEM, "Out of memory");
	for (size_t i = 0; i < n && !ret; i++) {
		const char *key = plt_opts_key(opts, i);

		if (left_out(key))
			continue;
		v[used] = plt_option_text(key, plt_opts_get(opts, key));
		if (!v[used++])
			ret = plt_error_set(err, ENOMEM, "Out of memory");
	}
	trial.options = (const char *const *)v;
	trial.flags |= PLT_CREATE_REHEARSAL;
	fd = memfd_create("platter", MFD_CLOEXEC);
	if (!ret && fd >= 0) { /* without such files there is no rehearsal */
		ret = plt_file_from_fd(fd, name, PLT_FILE_WRITE | PLT_FILE_UNSAFE | PLT_FILE_NO_LOCK, &st, err);
		if (!ret) {
			fd = -1;
			ret = plt_create_store(ctx, st, name, &trial, NULL, err);
		}
	}
	if (fd >= 0)
		close(fd);
	plt_store_unref(st);
	for (size_t i = 0; i < used; i++)
		free(v[i]);
	free(v);
	return ret;
}
