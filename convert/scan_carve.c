/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Carving: what lies in one piece is copied to a file of its own, named by its place.  The invariants: no file
 * that is there is written over or followed as a link, and a file that could not be completed is removed.  Zeros
 * become holes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "convert/scan.h"

#define COPY_BYTES (1u << 20)

static const char *suffix(const struct plt_scan_object *o)
{
	return o->kind != PLT_SCAN_IMAGE ? "img" : !strcmp(o->what, "vpc") ? "vhd" : o->what;
}

static int write_all(int fd, uint64_t off, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* What cannot be read is zeros, and counted. */
static int copy(struct plt_scan *s, struct scan_item *it, int fd)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(COPY_BYTES);
	uint64_t len = it->o.length;
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0, n; at < len && r == 0; at += n) {
		struct plt_extent e;
		unsigned k = 0;

		n = PLT_MIN(len - at, (uint64_t)COPY_BYTES);
		if (plt_status(s->disk, it->o.offset + at, len - at, 0, &e, 1, &k, NULL) == 0 && k && e.flags & PLT_EXTENT_ZERO) {
			n = e.len;
			continue;
		}
		if (plt_read(s->disk, it->o.offset + at, buf, n, NULL) < 0) {
			for (uint64_t b = 0; b < n; b += PLT_MIN(n - b, (uint64_t)SCAN_SECTOR))
				if (plt_read(s->disk, it->o.offset + at + b, buf + b, PLT_MIN(n - b, (uint64_t)SCAN_SECTOR), NULL) < 0) {
					memset(buf + b, 0, PLT_MIN(n - b, (uint64_t)SCAN_SECTOR));
					it->o.errors++;
				}
		}
		if (!plt_is_zero(buf, n))
			r = write_all(fd, at, buf, n);
	}
	if (r == 0 && ftruncate(fd, (off_t)len) < 0)
		r = -errno;
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

static bool wanted(const struct plt_scan *s, const struct plt_scan_object *o)
{
	const struct plt_scan_object *in = o->inside < 0 ? NULL : &s->hits.v[o->inside].o;

	if (!o->carvable || !o->length)
		return false;
	if (o->kind == PLT_SCAN_IMAGE) /* a file that its filesystem has cut into pieces is of no use */
		return !in || !o->errors;
	/* a filesystem is its partition; what lies in an image comes with that */
	return (o->kind == PLT_SCAN_PARTITION || o->kind == PLT_SCAN_FILESYSTEM) && !in;
}

/* Said of it, and counted. */
static void not_carved(struct plt_scan *s, struct scan_item *it, int error)
{
	size_t n = strlen(it->detail);

	s->totals.uncarved++;
	snprintf(it->detail + n, sizeof(it->detail) - n, "%snot carved: %s", n ? "; " : "",
		 error == EEXIST ? "the file exists" : strerror(error));
}

static int carve_one(struct plt_scan *s, struct scan_item *it, const char *folder, struct plt_error *err)
{
	PLT_AUTOFREE char *path = NULL;
	int fd, r;

	if (asprintf(&path, "%s/%016" PRIx64 ".%s", folder, it->o.offset, suffix(&it->o)) < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
	r = fd < 0 ? -errno : copy(s, it, fd);
	if (fd >= 0 && close(fd) < 0 && r == 0)
		r = -errno;
	if (r < 0) {
		if (fd >= 0)
			unlink(path);
		not_carved(s, it, -r);
		return r == -EEXIST ? 0 : r;
	}
	it->o.carved = it->carved = path;
	path = NULL;
	return 0;
}

int plt_scan_carve_folder(const char *folder, struct plt_error *err)
{
	struct stat sb;

	if (mkdir(folder, 0777) == 0)
		return 0;
	if (errno != EEXIST || stat(folder, &sb) < 0)
		return plt_error_errno(err, errno, "%s", folder);
	return S_ISDIR(sb.st_mode) ? 0 : plt_error_errno(err, ENOTDIR, "%s", folder);
}

/* What has been found is worth having: when nothing more can be written the rest is listed all the same. */
int plt_scan_carve(struct plt_scan *s, const char *folder, struct plt_error *err)
{
	int r = 0;

	for (size_t i = 0; i < s->hits.n; i++) {
		struct scan_item *it = &s->hits.v[i];

		if (!wanted(s, &it->o))
			continue;
		if (r < 0)
			not_carved(s, it, -r);
		else
			r = carve_one(s, it, folder, err);
		if (r == -ENOMEM)
			return r;
	}
	return 0;
}
