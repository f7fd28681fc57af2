/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Reading and writing of ddrescue's maps.  The invariant: the map on disk is always a whole one, the old or the new; and
 * one that is not understood, line by line, is not followed at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "io/mapfile.h"

int plt_mapfile_add(struct plt_mapfile *m, uint64_t off, uint64_t len, char status)
{
	struct plt_mapline *last = m->n ? &m->v[m->n - 1] : NULL;

	if (!len)
		return 0;
	if (last && last->off + last->len == off && last->status == status) {
		last->len += len;
		return 0;
	}
	if (m->n == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 64;
		void *grown = m->n < PLT_MAPFILE_LINES ? realloc(m->v, cap * sizeof(*m->v)) : NULL;

		if (!grown)
			return m->n < PLT_MAPFILE_LINES ? -ENOMEM : -E2BIG;
		m->v = grown;
		m->cap = cap;
	}
	m->v[m->n++] = (struct plt_mapline){ off, len, status };
	return 0;
}

void plt_mapfile_release(struct plt_mapfile *m)
{
	free(m->v);
	*m = (struct plt_mapfile)PLT_MAPFILE_INIT;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static bool take_number(char **p, uint64_t *ret)
{
	char *end;

	*p += strspn(*p, " \t");
	if (**p < '0' || **p > '9')
		return false;
	errno = 0;
	*ret = strtoull(*p, &end, 0);
	*p = end + strspn(end, " \t");
	return !errno && *ret <= INT64_MAX;
}

static int take_line(struct plt_mapfile *m, const char *path, unsigned n, char *p, struct plt_error *err)
{
	uint64_t off = 0, len = 0, end = m->n ? m->v[m->n - 1].off + m->v[m->n - 1].len : 0;
	int r;

	if (!take_number(&p, &off) || !take_number(&p, &len) || !*p || !strchr("?*/-+", *p) ||
	    !plt_in_range(off, len, INT64_MAX))
		return plt_error_set(err, EINVAL, "'%s': line %u is not one of a map ('position size status' is expected)", path,
				     n);
	if (off < end)
		return plt_error_set(err, EINVAL, "'%s': line %u begins at %#" PRIx64 ", within what the line before it speaks of",
				     path, n, off);
	r = plt_mapfile_add(m, off, len, *p);
	return r < 0 ? plt_error_set(err, -r, r == -E2BIG ? "'%s' has more than %u lines" : "'%s': out of memory", path,
				     PLT_MAPFILE_LINES) : 0;
}

int plt_mapfile_read(const char *path, struct plt_mapfile *ret, struct plt_error *err)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool status = false, goes_on = false; /* the rest of a line that is longer: a comment holds a whole command line */
	int r = 0;

	*ret = (struct plt_mapfile)PLT_MAPFILE_INIT;
	if (!f)
		return plt_error_errno(err, errno, "%s", path);
	for (unsigned n = 1; r == 0 && fgets(line, sizeof(line), f); n += !goes_on) {
		char *p = line + strspn(line, " \t");
		bool rest = goes_on;
		uint64_t at;

		goes_on = !strchr(line, '\n') && !feof(f);
		if (goes_on && (strlen(line) + 1 < sizeof(line) || (!rest && *p != '#'))) /* (a zero hides what follows it) */
			r = plt_error_set(err, EINVAL, "'%s': line %u is too long for a map, or no text", path, n);
		if (rest) /* of a comment */
			continue;
		if (r < 0 || *p == '#' || *p == '\n' || !*p)
			continue;
		if (status) {
			r = take_line(ret, path, n, p, err);
			continue;
		}
		/* the first line of content is where ddrescue stood, and what it did there */
		status = take_number(&p, &at) && *p && strchr("?*/-FG+", *p);
		if (!status)
			r = plt_error_set(err, EINVAL, "'%s' is not a map as ddrescue writes them: line %u", path, n);
	}
	if (r == 0 && ferror(f))
		r = plt_error_errno(err, EIO, "%s", path);
	fclose(f);
	if (r < 0)
		plt_mapfile_release(ret);
	return r;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

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

int plt_mapfile_probe(const char *path, struct plt_error *err)
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

static int with_bad(const struct plt_mapfile *m, const struct plt_extents *bad, struct plt_mapfile *ret)
{
	int r = 0;

	for (size_t i = 0; i < m->n && r == 0; i++) {
		uint64_t at = m->v[i].off, end = at + m->v[i].len;
		const struct plt_range *b;

		while (at < end && r == 0 && (b = plt_extents_find(bad, at)) && b->off < end) {
			uint64_t from = PLT_MAX(at, b->off), to = PLT_MIN(end, b->off + b->len);

			r = plt_mapfile_add(ret, at, from - at, m->v[i].status);
			if (r == 0)
				r = plt_mapfile_add(ret, from, to - from, '-');
			at = to;
		}
		if (r == 0 && at < end)
			r = plt_mapfile_add(ret, at, end - at, m->v[i].status);
	}
	return r;
}

int plt_mapfile_write(const char *path, const struct plt_mapfile *m, const struct plt_extents *bad, struct plt_error *err)
{
	struct plt_mapfile changed = PLT_MAPFILE_INIT;
	PLT_AUTOFREE char *tmp = NULL;
	FILE *f;
	int r = bad ? with_bad(m, bad, &changed) : 0;

	if (r < 0) {
		plt_mapfile_release(&changed);
		return plt_error_set(err, -r, "'%s': there are too many bad places for one map", path);
	}
	m = bad ? &changed : m;
	r = open_new(path, &tmp, &f, err);
	if (r < 0) {
		plt_mapfile_release(&changed);
		return r;
	}
	fprintf(f, "# Mapfile. Written by platter\n# current_pos  current_status  current_pass\n0x%08" PRIX64
		"     +               1\n#      pos        size  status\n", m->n ? m->v[m->n - 1].off + m->v[m->n - 1].len : 0);
	for (size_t i = 0; i < m->n; i++)
		fprintf(f, "0x%08" PRIX64 "  0x%08" PRIX64 "  %c\n", m->v[i].off, m->v[i].len, m->v[i].status);
	plt_mapfile_release(&changed);
	if (fflush(f) || fsync(fileno(f)))
		r = -errno;
	if (r == 0 && ferror(f)) /* (what a write before has lost a later one does not bring back) */
		r = -EIO;
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
