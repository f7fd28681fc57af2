/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Journals beside an image: which there are, and which of them is pending.  One that is no journal, or whose writing
 * was cut short, never stands for anything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "repair/repair.h"

#define MAX_BESIDE 100

void plt_beside_release(struct plt_beside *b)
{
	free(b->pending);
	free(b->last);
	free(b->next);
	memset(b, 0, sizeof(*b));
}

/* 0 with *ret; -ENOENT: there is no such file; else what it is instead of a journal. */
static int state_of(const char *path, enum plt_journal_state *ret, struct plt_error *err)
{
	struct plt_store *st;
	struct stat sb;
	uint64_t size;
	int r;

	if (lstat(path, &sb) < 0) /* (a name that is too long is no file's) */
		return errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG ? -ENOENT :
			plt_error_errno(err, errno, "Could not open '%s'", path);
	/* whoever may write into the folder would choose what is written over */
	if (S_ISLNK(sb.st_mode))
		return plt_error_set(err, EEXIST, "'%s' is a symbolic link, no undo journal: it is in the way", path);
	r = plt_file_open(path, 0, &st, err);
	if (r < 0)
		return r;
	r = plt_store_size(st, &size, err);
	*ret = PLT_JOURNAL_WRITING; /* an empty one: it was cut short at once */
	if (r == 0 && size)
		r = plt_journal_peek(st, ret, err);
	plt_store_unref(st);
	return r == -ENOENT ? plt_error_set(err, EEXIST, "'%s' is not an undo journal: it is in the way", path) : r;
}

int plt_beside_find(const char *image, struct plt_beside *ret, struct plt_error *err)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned n = 1; n <= MAX_BESIDE; n++) {
		PLT_AUTOFREE char *path = plt_journal_name(image, n);
		enum plt_journal_state state = PLT_JOURNAL_WRITING;
		int r = path ? state_of(path, &state, err) : -ENOMEM;

		if (r < 0 && r != -ENOENT && r != -ENOTDIR) {
			plt_beside_release(ret);
			return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
		}
		if (r == 0 && state == PLT_JOURNAL_APPLIED) {
			free(ret->last);
			ret->last = path;
			path = NULL;
			continue;
		}
		if (r == 0 && state == PLT_JOURNAL_COMPLETE) {
			ret->pending = path;
			path = NULL;
			return 0;
		}
		/* nothing is there, or what was being written or has been taken back */
		ret->next = path;
		path = NULL;
		return 0;
	}
	plt_beside_release(ret);
	return plt_error_set(err, ENOSPC, "'%s': more than %d undo journals lie beside it", image, MAX_BESIDE);
}

int plt_journal_mismatch(const char *journal, int r, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;

	if (r != -EUCLEAN || !err)
		return r;
	why = *err;
	return plt_error_set(err, EUCLEAN, "%s; if that is how it is meant to be (it was made anew, or written by something else), "
			     "remove the journal '%s'", why.text, journal);
}

int plt_journal_finish(const char *journal, struct plt_store *image, struct plt_unsure *ret, struct plt_error *err)
{
	struct plt_journal *j = NULL;
	struct plt_store *st;
	int r = plt_file_open(journal, PLT_FILE_WRITE, &st, err);

	if (r < 0)
		return r;
	r = plt_journal_open(st, &j, err);
	plt_store_unref(st);
	if (r == 0 && plt_journal_info(j)->nstores != 1)
		r = plt_error_set(err, ENOTSUP, "'%s': a journal of %u files", journal, plt_journal_info(j)->nstores);
	if (r == 0) {
		plt_journal_attach(j, &image);
		r = plt_journal_mismatch(journal, plt_journal_apply(j, err), err);
		*ret = (struct plt_unsure){ plt_journal_info(j)->lost, plt_journal_info(j)->inferred };
	}
	plt_journal_free(j);
	return r;
}
