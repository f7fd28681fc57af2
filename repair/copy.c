/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A repaired copy.  The image is copied as it is, holes staying holes and blocks shared where the filesystem
 * can, and the edits are written into the copy.  It has its name from the beginning, since it is a new one;
 * what fails leaves nothing behind.  Nobody may read it who may not read the image.
 */
#include <errno.h>
#include <unistd.h>

#include "base/alloc.h"
#include "repair/repair.h"

#define PIECE (UINT64_C(1) << 20)
#define AT_ONCE (UINT64_C(64) << 20)

static int copy_data(struct plt_store *to, struct plt_store *from, uint64_t off, uint64_t len, uint8_t *buf,
		     struct plt_error *err)
{
	while (len) {
		uint64_t n = 0;
		int r = plt_store_copy_from(to, off, from, off, len, &n, NULL);

		if (r < 0 || !n) {
			n = PLT_MIN(len, PIECE);
			r = plt_store_read(from, off, buf, n, PLT_IO_OTHER, err);
			if (r == 0)
				r = plt_store_write(to, off, buf, n, PLT_IO_OTHER, err);
			if (r < 0)
				return r;
		}
		off += n;
		len -= n;
	}
	return 0;
}

static int copy_all(struct plt_store *to, struct plt_store *from, uint64_t size, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PIECE);
	int r = buf ? plt_store_truncate(to, size, err) : plt_error_set(err, ENOMEM, "out of memory");

	for (uint64_t off = 0, n; off < size && r == 0; off += n) {
		enum plt_store_kind kind;

		r = plt_store_extents(from, off, PLT_MIN(size - off, AT_ONCE), &kind, &n, err);
		n = PLT_MIN(n, size - off);
		if (r == 0 && kind == PLT_STORE_DATA)
			r = copy_data(to, from, off, n, buf, err);
	}
	return r;
}

struct job {
	struct plt_store *to;
	struct plt_error *err;
};

static int write_edit(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	const struct job *j = arg;

	return bytes ? plt_store_write(j->to, off, bytes, len, PLT_IO_OTHER, j->err) :
		       plt_store_zero(j->to, off, len, 0, PLT_IO_OTHER, j->err);
}

int plt_repair_copy(struct plt_repair *rep, const char *path, struct plt_error *err)
{
	struct job j = { .err = err };
	uint64_t size = 0;
	int r = plt_file_open(path, PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_EXCL | PLT_FILE_PRIVATE, &j.to,
			      err);

	if (r < 0)
		return r;
	plt_file_share_as(j.to, rep->file, PLT_SHARE_MODE);
	r = copy_all(j.to, rep->file, rep->size, err);
	if (r == 0)
		r = plt_store_size(rep->overlay, &size, err);
	if (r == 0)
		r = plt_store_truncate(j.to, size, err);
	if (r == 0)
		r = plt_repair_each(rep, write_edit, &j);
	if (r == 0)
		r = plt_store_sync(j.to, err);
	plt_store_unref(j.to);
	if (r == 0)
		r = plt_sync_folder(path, err);
	if (r < 0)
		unlink(path);
	return r;
}
