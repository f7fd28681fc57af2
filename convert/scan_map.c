/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Maps as ddrescue keeps them: what of a medium has been read, and what could not be.  A line is "position size
 * status"; of the states '-' (bad) alone is believed, everything else is read.  The invariant: the map on disk is always
 * a whole one, the old or the new.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "convert/scan.h"

static int bad_line(const char *path, unsigned n, struct plt_error *err)
{
	return plt_error_set(err, EINVAL, "'%s': line %u is not one of a map ('position size status' is expected)", path, n);
}

int plt_scan_map_read(const char *path, struct plt_extents *ret_bad, struct plt_error *err)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool status = false;
	int r = 0;

	if (!f)
		return errno == ENOENT ? 0 : plt_error_errno(err, errno, "%s", path);
	for (unsigned n = 1; r == 0 && fgets(line, sizeof(line), f); n++) {
		char *end, *p = line + strspn(line, " \t");
		uint64_t off, len;

		if (*p == '#' || *p == '\n' || !*p)
			continue;
		errno = 0;
		if (!status) { /* the first line of content is where ddrescue stood, and what it did there */
			(void)strtoull(p, &end, 0);
			status = end > p && !errno && *p != '-';
			end += strspn(end, " \t");
			if (!status || !*end || !strchr("?*/-FG+", *end)) {
				r = plt_error_set(err, EINVAL, "'%s' is not a map as ddrescue writes them: line %u", path, n);
				break;
			}
			continue;
		}
		off = strtoull(p, &end, 0);
		if (end == p || errno || *p == '-') {
			r = bad_line(path, n, err);
			break;
		}
		p = end + strspn(end, " \t");
		len = strtoull(p, &end, 0);
		if (end == p || errno || *p == '-') {
			r = bad_line(path, n, err);
			break;
		}
		end += strspn(end, " \t");
		if (!strchr("?*/-+", *end) || !*end || len > INT64_MAX || off > INT64_MAX)
			r = bad_line(path, n, err);
		else if (*end == '-' && ret_bad->n < SCAN_RANGES_MAX && plt_extents_add(ret_bad, off, len) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
	}
	fclose(f);
	return r;
}

static void line(FILE *f, uint64_t off, uint64_t len, char status)
{
	if (len)
		fprintf(f, "0x%08" PRIX64 "  0x%08" PRIX64 "  %c\n", off, len, status);
}

/* Beside the map, so that it takes its place at once; what an older run has left does not stand in the way. */
static int open_new(const char *path, char **ret, FILE **ret_file, struct plt_error *err)
{
	if (asprintf(ret, "%s.new-%ld", path, (long)getpid()) < 0) {
		*ret = NULL;
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	unlink(*ret);
	*ret_file = fopen(*ret, "wxe");
	return *ret_file ? 0 : plt_error_errno(err, errno, "%s", *ret);
}

int plt_scan_map_probe(const char *path, struct plt_error *err)
{
	PLT_AUTOFREE char *tmp = NULL;
	FILE *f;
	int r = open_new(path, &tmp, &f, err);

	if (r == 0) {
		fclose(f);
		unlink(tmp);
	}
	return r;
}

int plt_scan_map_write(const char *path, uint64_t size, const struct plt_extents *bad, const struct plt_extents *skipped,
		       struct plt_error *err)
{
	PLT_AUTOFREE char *tmp = NULL;
	uint64_t at = 0;
	FILE *f;
	int r = open_new(path, &tmp, &f, err);

	if (r < 0)
		return r;
	fprintf(f, "# Mapfile. Written by platter scan\n# current_pos  current_status  current_pass\n0x%08" PRIX64
		"     +               1\n#      pos        size  status\n", size);
	while (at < size) {
		const struct plt_range *b = plt_extents_find(bad, at), *s = plt_extents_find(skipped, at), *next = b;
		char status = '-';

		if (!b || (s && s->off < b->off)) {
			next = s;
			status = '/';
		}
		if (!next || next->off >= size)
			break;
		line(f, at, next->off > at ? next->off - at : 0, '+');
		at = PLT_MAX(at, next->off);
		line(f, at, PLT_MIN(next->off + next->len, size) - at, status);
		at = PLT_MIN(next->off + next->len, size);
	}
	line(f, at, size - at, '+');
	if (fflush(f) || fsync(fileno(f)))
		r = -errno;
	if (fclose(f) && r == 0)
		r = -errno;
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return plt_error_errno(err, -r, "%s", path);
	}
	return 0;
}
