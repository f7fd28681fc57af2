/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Journals that other programs leave beside an image.  What one says comes before all else: until it has been taken
 * back, the tables are neither the old nor the new ones.  Looked for under the names that the format's driver knows,
 * beside the image and nowhere else; a file of that name which is not this image's journal stands for nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/driver.h"
#include "io/mapfile.h"
#include "repair/repair.h"

static int try_one(struct plt_repair *rep, const struct plt_driver *drv, const char *path, char *text, size_t len,
		   struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	struct plt_store *st;
	int r;

	if (access(path, F_OK) < 0 || plt_file_open(path, PLT_FILE_NO_LOCK, &st, NULL) < 0)
		return 0;
	r = drv->replay(rep->overlay, st, text, len, &why);
	plt_store_unref(st);
	if (r < 0)
		return plt_error_set(err, -r, "'%s': the journal of an interrupted operation is damaged: %s (without it beside "
				     "the image, that is looked at as it is)", path, why.text);
	return r;
}

int plt_repair_foreign(struct plt_repair *rep, char *text, size_t len, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	const char *name = rep->file->name, *dot = strrchr(name, '.');
	size_t stem = dot && !strchr(dot, '/') ? (size_t)(dot - name) : strlen(name);
	int r = 0;

	if (!drv || !drv->replay || strcmp(plt_medium_below(rep->file)->ops->kind, "file"))
		return 0;
	for (const char *const *suffix = drv->journals; *suffix && r == 0; suffix++) {
		PLT_AUTOFREE char *whole = NULL, *cut = NULL;

		if (asprintf(&whole, "%s%s", name, *suffix) < 0 || asprintf(&cut, "%.*s%s", (int)stem, name, *suffix) < 0)
			return plt_error_set(err, ENOMEM, "out of memory");
		r = try_one(rep, drv, whole, text, len, err);
		if (r == 0)
			r = try_one(rep, drv, cut, text, len, err);
	}
	return r;
}
