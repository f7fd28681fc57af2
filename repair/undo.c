/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Taking a repair back.  Which image a journal belongs to its bytes prove; names only say where to look.
 * The newest of several journals goes first: an older one does not know what was changed later.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repair/repair.h"

/* The image beside @journal: its name without ".platter-undo" and a number.  NULL: it has no such name. */
static char *image_beside(const char *journal)
{
	char *s = strdup(journal), *p = s ? strrchr(s, '/') : NULL, *cut;

	p = p ? p : s;
	cut = NULL;
	for (char *at = p; at && (at = strstr(at, ".platter-undo")); at++)
		cut = at;
	if (!cut) {
		free(s);
		return NULL;
	}
	*cut = '\0';
	return s;
}

static int open_image(struct plt_ctx *ctx, const char *path, struct plt_image **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	char *format = NULL;
	int r;

	o.format = "raw";
	r = plt_bytes_open(ctx, path, &o, PLT_BYTES_REPAIR, ret, &format, err);
	free(format);
	return r;
}

/* Where the image is: as told, beside the journal, where it was. */
static int find_image(struct plt_ctx *ctx, const char *journal, const char *told, const char *was,
		      struct plt_image **ret, struct plt_error *err)
{
	PLT_AUTOFREE char *beside = told ? NULL : image_beside(journal);

	if (told)
		return open_image(ctx, told, ret, err);
	if (beside && access(beside, F_OK) == 0)
		return open_image(ctx, beside, ret, err);
	return open_image(ctx, was, ret, err);
}

static int check_newest(const char *journal, struct plt_store *image, struct plt_error *err)
{
	PLT_AUTOFREE char *mine = realpath(journal, NULL), *newest = NULL;
	PLT_AUTOFREE char *beside = image_beside(journal);
	struct plt_beside b;
	int r;

	if (strcmp(image->ops->kind, "file"))
		return 0;
	r = plt_beside_find(image->name, &b, err);
	if (r < 0)
		return r;
	if (b.pending || b.last)
		newest = realpath(b.pending ? b.pending : b.last, NULL);
	if (newest && mine && strcmp(newest, mine) && beside)
		r = plt_error_set(err, EBUSY, "'%s' was repaired again since: '%s' is to be undone first", image->name,
				  b.pending ? b.pending : b.last);
	plt_beside_release(&b);
	return r;
}

/* @name is no journal: is it an image that one lies beside? */
static int name_journal(const char *name, int r, struct plt_error *err)
{
	PLT_AUTOFREE char *real = realpath(name, NULL);
	struct plt_error why = err ? *err : (struct plt_error)PLT_ERROR_INIT;
	struct plt_beside b;

	if (!real || plt_beside_find(real, &b, NULL) < 0)
		return r;
	if (b.pending || b.last)
		plt_error_set(err, -r, "%s; beside it lies '%s'", why.text, b.pending ? b.pending : b.last);
	plt_beside_release(&b);
	return r;
}

int plt_undo(struct plt_ctx *ctx, const char *name, const char *image, struct plt_error *err)
{
	struct stat sb;
	/* the image lies beside the journal, not beside a link to it */
	PLT_AUTOFREE char *real = lstat(name, &sb) == 0 && S_ISLNK(sb.st_mode) ? realpath(name, NULL) : NULL;
	const char *journal = real ? real : name;
	enum plt_journal_state state;
	struct plt_journal *j = NULL;
	struct plt_image *img = NULL;
	struct plt_store *st;
	int r = plt_ctx_open_file(ctx, journal, PLT_FILE_WRITE, &st, err);

	if (r < 0)
		return r;
	if (plt_journal_peek(st, &state, NULL) == 0 && state == PLT_JOURNAL_WRITING)
		r = plt_error_set(err, EINVAL, "'%s': the repair was interrupted before it changed anything; there is nothing to "
				  "undo", journal);
	else
		r = plt_journal_open(st, &j, err);
	plt_store_unref(st);
	if (r < 0)
		return name_journal(name, r, err);
	if (plt_journal_info(j)->nstores != 1)
		r = plt_error_set(err, ENOTSUP, "'%s': a journal of %u files", journal, plt_journal_info(j)->nstores);
	if (r == 0)
		r = find_image(ctx, journal, image, plt_journal_info(j)->stores[0].name, &img, err);
	if (r == 0)
		r = check_newest(journal, img->file, err);
	if (r == 0) {
		plt_journal_attach(j, &img->file);
		r = plt_journal_mismatch(journal, plt_journal_rollback(j, err), err);
	}
	plt_journal_free(j);
	plt_image_close(img, NULL);
	if (r == 0 && (unlink(journal) < 0 || plt_sync_folder(journal, NULL) < 0))
		plt_ctx_warn(ctx, "'%s' is as it was; the journal could not be removed: %s", journal, strerror(errno));
	return r;
}
