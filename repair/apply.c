/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Applying a plan.  The journal is written, synced, its name in the folder too, and declared complete; only
 * then is the image written.  Room for all that is written is found before that, so that a full volume
 * refuses and changes nothing.  A failure while the image is being written is taken back at once; if that
 * fails as well, the journal stays.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "repair/repair.h"

/* Byte 79 of a qcow2 of version 3: the lowest of its incompatible features; bit 1: corrupt. */
#define QCOW2_MARK 79u

struct job {
	struct plt_repair *rep;
	struct plt_journal *j;
	struct plt_error *err;
};

static int add_edit(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct job *job = arg;

	return plt_journal_add(job->j, 0, off, bytes, len, job->err);
}

static int write_edit(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct job *job = arg;

	return bytes ? plt_store_write(job->rep->file, off, bytes, len, PLT_IO_OTHER, job->err) :
		       plt_store_zero(job->rep->file, off, len, 0, PLT_IO_OTHER, job->err);
}

int plt_repair_write(struct plt_repair *rep, struct plt_error *err)
{
	struct job job = { .rep = rep, .err = err };
	int r = plt_repair_each(rep, write_edit, &job);

	return r < 0 ? r : plt_store_sync(rep->file, err);
}

/* The name for the journal, and the one before it. */
static int choose_place(struct plt_repair *rep, char **ret, char **ret_before, struct plt_error *err)
{
	struct plt_beside b;
	int r;

	*ret_before = NULL;
	if (rep->undo_file) {
		*ret = strdup(rep->undo_file);
		return *ret ? 0 : plt_error_set(err, ENOMEM, "out of memory");
	}
	if (strcmp(rep->file->ops->kind, "file"))
		return plt_error_set(err, ENOTSUP, "'%s' is not a file: there is no place for an undo journal beside it "
				     "(--undo-file names one)", rep->name);
	r = plt_beside_find(rep->file->name, &b, err);
	if (r < 0)
		return r;
	*ret = b.next;
	*ret_before = b.last;
	b.next = b.last = NULL;
	plt_beside_release(&b);
	return 0;
}

static int open_place(const struct plt_repair *rep, const char *path, struct plt_store **ret, struct plt_error *err)
{
	bool chosen = rep->undo_file;
	enum plt_journal_state state;
	int r = plt_ctx_open_file(rep->ctx, path, PLT_FILE_WRITE, ret, NULL);

	if (r == 0) { /* an old one that means nothing any more is written over; nothing else is */
		uint64_t size = 0;

		r = plt_store_size(*ret, &size, err);
		if (r == 0 && size && (plt_journal_peek(*ret, &state, NULL) < 0 || state == PLT_JOURNAL_COMPLETE ||
				       state == PLT_JOURNAL_APPLIED))
			r = plt_error_set(err, EEXIST, "'%s' exists already", path);
		if (r < 0)
			plt_store_unref(*ret);
		return r;
	}
	r = plt_ctx_open_file(rep->ctx, path, PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_EXCL | PLT_FILE_PRIVATE, ret, err);
	if ((r == -EACCES || r == -EROFS || r == -EPERM || r == -ENOENT || r == -ENAMETOOLONG) && !chosen) {
		struct plt_error why = err ? *err : (struct plt_error)PLT_ERROR_INIT;

		return plt_error_set(err, ENOTSUP, "there is no place for an undo journal beside the image (--undo-file names "
				     "one): %s", why.text);
	}
	if (r == 0)
		plt_file_share_as(*ret, rep->file, PLT_SHARE_OWNER);
	return r;
}

static int fill_journal(struct plt_repair *rep, struct plt_store *file, const char *before, struct plt_journal **ret,
			struct plt_error *err)
{
	struct plt_journal_info info = { .format = rep->format, .predecessor = before, .nstores = 1 };
	char created[32], real[4096];
	time_t now = time(NULL);
	struct tm tm;
	uint64_t grown = rep->size + plt_repair_growth(rep);
	uint8_t version[8];
	int r;

	strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	info.created = created;
	for (size_t i = 0; i < rep->doubts.n; i++)
		*(rep->doubts.v[i].kind == PLT_LOST ? &info.lost : &info.inferred) += rep->doubts.v[i].len;
	if (getrandom(info.id, sizeof(info.id), 0) != (ssize_t)sizeof(info.id))
		return plt_error_set(err, EIO, "no random numbers");
	info.stores[0].role = "image";
	info.stores[0].name = realpath(rep->file->name, real) ? real : rep->file->name;
	r = plt_journal_begin(file, &info, &rep->file, ret, err);
	if (r < 0)
		return r;
	if (!strcmp(rep->format, "qcow2"))
		r = plt_store_read(rep->file, 0, version, sizeof(version), PLT_IO_HEADER, err);
	if (r == 0 && !strcmp(rep->format, "qcow2") && !memcmp(version, "QFI\xfb\0\0\0\3", 8)) {
		uint8_t mark;

		r = plt_store_read(rep->file, QCOW2_MARK, &mark, 1, PLT_IO_HEADER, err);
		if (r == 0)
			r = plt_journal_add_mark(*ret, QCOW2_MARK, mark | 2, err);
	}
	if (r == 0 && grown > rep->size)
		r = plt_journal_add_size(*ret, 0, grown, err);
	if (r == 0) {
		struct job job = { .rep = rep, .j = *ret, .err = err };

		r = plt_repair_each(rep, add_edit, &job);
	}
	return r;
}

static int allocate(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct job *job = arg;
	int r = bytes ? plt_store_allocate(job->rep->file, off, len, job->err) : 0;

	return r == -ENOTSUP ? 0 : r;
}

/* Room for all that is written, behind the end and in holes, is there before the first byte changes. */
static int make_room(struct plt_repair *rep, struct plt_error *err)
{
	struct job job = { .rep = rep, .err = err };
	uint64_t n = plt_repair_growth(rep);
	int r = n ? plt_store_allocate(rep->file, rep->size, n, err) : 0;

	if (r == 0 || r == -ENOTSUP)
		r = plt_repair_each(rep, allocate, &job);
	if (r < 0)
		plt_error_prefix(err, "there is no room for what the repair writes (%" PRIu64 " bytes behind the end of the "
				 "image); nothing has been changed, and --output NEW makes a repaired copy elsewhere", n);
	return r;
}

static int apply(struct plt_repair *rep, struct plt_journal *j, const char *path, bool *ret_keep, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	int r = plt_journal_complete(j, err);

	*ret_keep = false;
	if (r < 0)
		return r;
	*ret_keep = true;
	r = make_room(rep, err);
	if (r < 0) {
		*ret_keep = false;
		return r;
	}
	r = plt_journal_apply(j, &why);
	if (r == 0)
		return 0;
	if (plt_journal_rollback(j, NULL) == 0) {
		*ret_keep = false;
		return plt_error_set(err, -r, "%s; the image is as it was", why.text);
	}
	return plt_error_set(err, -r, "%s; the repair of '%s' is unfinished: 'repair' finishes it, 'undo %s' takes it back",
			     why.text, rep->name, path);
}

int plt_repair_apply(struct plt_repair *rep, char **ret_journal, struct plt_error *err)
{
	PLT_AUTOFREE char *path = NULL, *before = NULL;
	struct plt_journal *j = NULL;
	struct plt_store *file = NULL;
	bool keep = false;
	int r;

	*ret_journal = NULL;
	if (plt_repair_is_empty(rep))
		return 0;
	r = choose_place(rep, &path, &before, err);
	if (r == 0)
		r = open_place(rep, path, &file, err);
	if (r < 0)
		return r;
	r = fill_journal(rep, file, before, &j, err);
	if (r == -ENOSPC || r == -EDQUOT)
		plt_error_prefix(err, "there is no room for the undo journal; nothing has been changed; --undo-file names another "
				 "place, --output NEW makes a repaired copy elsewhere");
	if (r == 0)
		r = plt_sync_folder(path, err);
	if (r == 0) {
		r = apply(rep, j, path, &keep, err);
		if (r < 0 && !keep)
			(void)plt_store_truncate(rep->file, rep->size, NULL);
	}
	plt_journal_free(j);
	plt_store_unref(file);
	if (!keep) {
		unlink(path);
	} else if (r == 0) {
		*ret_journal = path;
		path = NULL;
	}
	return r;
}

/* ---- check -r -------------------------------------------------------------------------------- */

/* Counts and marks, each step safe whenever it is cut, and the next only when it is durable. */
static int without_journal(struct plt_repair *rep, unsigned what, const struct plt_error *why, struct plt_error *err)
{
	static const unsigned steps[] = {
		PLT_MEND_RAISE,
		PLT_MEND_RAISE | PLT_MEND_MARKS,
		PLT_MEND_RAISE | PLT_MEND_LOWER,
		PLT_MEND_RAISE | PLT_MEND_LOWER | PLT_MEND_MARKS,
	};
	struct plt_check_result before = rep->before;
	uint64_t planned = before.corruptions_fixed + before.leaks_fixed;
	int r = plt_repair_reset(rep, err);

	if (r == 0)
		r = plt_repair_mend(rep, what, NULL, NULL, err);
	if (r == 0 && rep->before.corruptions_fixed + rep->before.leaks_fixed < planned)
		r = plt_error_set(err, ENOTSUP, "%s; what is wrong cannot be put right in place without one", why->text);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(steps) && r == 0; i++) {
		r = plt_repair_reset(rep, err);
		if (r == 0)
			r = plt_repair_mend(rep, steps[i] & what, NULL, NULL, err);
		if (r == 0)
			r = plt_repair_write(rep, err);
	}
	rep->before = before;
	return r;
}

int plt_check_repair(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		     const struct plt_repair_options *options,
		     void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		     struct plt_check_result *ret, struct plt_error *err)
{
	bool leaks = options && options->flags & PLT_REPAIR_LEAKS;
	PLT_AUTOFREE char *journal = NULL;
	struct plt_repair *rep;
	struct plt_error why = PLT_ERROR_INIT;
	int r = plt_repair_plan_of(ctx, name, opts, options, true, found, arg, &rep, err);

	memset(ret, 0, sizeof(*ret));
	ret->format = "";
	if (r < 0)
		return r;
	r = plt_repair_apply(rep, &journal, &why);
	if (r == -ENOTSUP && plt_repair_growth(rep))
		r = plt_error_set(err, ENOTSUP, "%s; what is wrong cannot be put right in place without one", why.text);
	else if (r == -ENOTSUP)
		r = without_journal(rep, leaks ? PLT_MEND_LOWER | PLT_MEND_MARKS :
						 PLT_MEND_LOWER | PLT_MEND_MARKS | PLT_MEND_RAISE, &why, err);
	else if (r < 0)
		plt_error_set(err, -r, "%s", why.text);
	*ret = rep->before;
	for (size_t i = 0; i < rep->doubts.n; i++)
		*(rep->doubts.v[i].kind == PLT_LOST ? &ret->lost : &ret->inferred) += rep->doubts.v[i].len;
	/* it is right, and who wants to undo that has 'repair' */
	if (r == 0 && journal && !rep->doubts.n)
		unlink(journal);
	else if (r == 0 && rep->doubts.n)
		plt_ctx_warn(ctx, "'%s': %" PRIu64 " bytes are lost, and %" PRIu64 " bytes rest on less than proof%s%s%s", rep->name,
			     ret->lost, ret->inferred, journal ? "; '" : "", journal ? journal : "",
			     journal ? "' takes the repair back" : "");
	plt_repair_free(rep);
	return r;
}
