/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The disks that a conversion reads, laid end to end, and the walk over what they hold.  The walk
 * protects one thing: what it calls ZERO or ABSENT really is, for the whole piece; wherever that is
 * in doubt (a unit of mixed content, a status that failed while salvaging) the piece is DATA and
 * gets read.  It reads no data itself and takes the time of the extents, not of the range.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "block/internal.h"
#include "convert/convert.h"

#define FETCHES 16 /* calls of status for one piece: whoever walks gets to say stop */

#define SECTOR 512

int plt_source_init(struct plt_source *src, struct plt_disk *const *disks, unsigned n, struct plt_error *err)
{
	memset(src, 0, sizeof(*src));
	src->backing_size = UINT64_MAX;
	src->start = calloc((size_t)n + 1, sizeof(*src->start));
	if (!src->start || pthread_mutex_init(&src->salvage_lock, NULL)) {
		free(src->start);
		src->start = NULL;
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	src->disks = disks;
	src->n = n;
	for (unsigned i = 0; i < n; i++)
		if (plt_add(src->start[i], plt_disk_size(disks[i]), &src->start[i + 1]) ||
		    src->start[i + 1] > INT64_MAX - SECTOR) {
			plt_source_release(src);
			return plt_error_set(err, EFBIG, "The source images are too large together");
		}
	src->size = src->start[n];
	return 0;
}

void plt_source_window(struct plt_source *src, uint64_t off, uint64_t len)
{
	src->skip = off;
	src->start[1] = len;
	src->size = plt_align_up(len, SECTOR);
}

void plt_source_release(struct plt_source *src)
{
	if (!src->start)
		return;
	free(src->start);
	src->start = NULL;
	pthread_mutex_destroy(&src->salvage_lock);
}

/* Where source offset 0 of disk @i would lie: add it to a disk's offset.  (Arithmetic is modulo 2^64.) */
static uint64_t base_of(const struct plt_source *src, unsigned i)
{
	return src->start[i] - src->skip;
}

/* Index of the disk that holds @off (< start[n]). */
static unsigned disk_at(const struct plt_source *src, uint64_t off)
{
	unsigned i = 0;

	while (off >= src->start[i + 1])
		i++;
	return i;
}

/* A range that could not be read, joined with the one before it. */
struct lost {
	uint64_t off, len;
	char why[200];
};

static void report(struct plt_source *src, struct lost *lost)
{
	if (lost->len && src->salvaged) {
		PLT_LOCK_SCOPE(&src->salvage_lock);
		src->salvaged(src->salvaged_arg, lost->off, lost->len, lost->why);
	}
	lost->len = 0;
}

/* Halve what does not read until the unreadable sectors are known. */
static void salvage(struct plt_source *src, unsigned i, uint64_t off, uint8_t *buf, size_t len,
		    struct lost *lost)
{
	struct plt_error err = PLT_ERROR_INIT;
	int ret = plt_read(src->disks[i], off - base_of(src, i), buf, len, &err);
	size_t half;

	if (!ret)
		return;
	if (len > SECTOR) {
		half = plt_align_up(len / 2, SECTOR);
		salvage(src, i, off, buf, half, lost);
		salvage(src, i, off + half, buf + half, len - half, lost);
		return;
	}
	memset(buf, 0, len);
	if (lost->off + lost->len != off)
		report(src, lost);
	if (!lost->len) {
		lost->off = off;
		strncpy(lost->why, strerror(-ret), sizeof(lost->why) - 1);
	}
	lost->len += len;
}

int plt_source_read(struct plt_source *src, uint64_t off, void *buf, size_t len, struct plt_error *err)
{
	uint64_t end = src->start[src->n];
	uint8_t *p = buf;

	if (off + len > end) {
		size_t beyond = off >= end ? len : off + len - end;

		memset(p + len - beyond, 0, beyond);
		len -= beyond;
	}
	while (len) {
		unsigned i = disk_at(src, off);
		size_t n = PLT_MIN(len, src->start[i + 1] - off);
		int ret = plt_read(src->disks[i], off - base_of(src, i), p, n, err);

		if (ret && src->salvage && ret != -ENOMEM) {
			struct lost lost = { 0 };

			salvage(src, i, off, p, n, &lost);
			report(src, &lost);
		} else if (ret) {
			return ret;
		}
		off += n;
		p += n;
		len -= n;
	}
	return 0;
}

static bool is_file(struct plt_store *st, const struct stat *sb)
{
	struct stat mine;
	int fd = st ? plt_store_fd(st) : -1;

	return fd >= 0 && fstat(fd, &mine) == 0 && mine.st_dev == sb->st_dev && mine.st_ino == sb->st_ino &&
	       mine.st_rdev == sb->st_rdev;
}

bool plt_source_uses(const struct plt_source *src, struct plt_store *st)
{
	struct stat sb;
	int fd = plt_store_fd(st);

	if (fd < 0 || fstat(fd, &sb) < 0)
		return false;
	for (unsigned i = 0; i < src->n; i++)
		for (struct plt_image *img = plt_disk_image(src->disks[i]); img; img = plt_image_backing(img))
			if (is_file(img->file, &sb) || is_file(img->data, &sb))
				return true;
	return false;
}

void plt_walk_init(struct plt_walk *w, struct plt_source *src, uint64_t unit, uint64_t chunk)
{
	memset(w, 0, sizeof(*w));
	w->src = src;
	w->unit = unit;
	w->chunk = chunk;
	w->beyond = UINT64_MAX;
}

static int fetch(struct plt_walk *w, uint64_t off, struct plt_error *err)
{
	struct plt_source *src = w->src;
	unsigned i;
	int ret;

	w->i = w->n = 0;
	w->fetches++;
	if (off >= src->start[src->n]) {
		w->n = 1;
		w->base = 0;
		w->ext[0] = (struct plt_extent){ .off = off, .len = src->size - off, .flags = PLT_EXTENT_ZERO };
		return 0;
	}
	i = disk_at(src, off);
	w->base = base_of(src, i);
	ret = plt_status(src->disks[i], off - w->base, src->start[i + 1] - off,
			 src->top_only ? PLT_STATUS_TOP_ONLY : 0, w->ext, PLT_ARRAY_SIZE(w->ext), &w->n, err);
	if (ret && src->salvage && ret != -ENOMEM) {
		/* Not known: to be read, a unit at a time. */
		w->n = 1;
		w->ext[0] = (struct plt_extent){
			.off = off - w->base,
			.len = PLT_MIN(w->unit, src->start[i + 1] - off),
			.flags = PLT_EXTENT_DATA | PLT_EXTENT_PRESENT,
		};
		return 0;
	}
	if (ret) {
		PLT_AUTOFREE char *why = strdup(err && err->text[0] ? err->text : strerror(-ret));

		return plt_error_set(err, -ret, "error while reading block status at offset %" PRIu64 ": %s",
				     off, why ? why : strerror(-ret));
	}
	if (!w->n || w->ext[0].off > off - w->base || off - w->base - w->ext[0].off >= w->ext[0].len)
		return plt_error_set(err, EIO, "error while reading block status at offset %" PRIu64
				     ": the answer does not cover it", off);
	return 0;
}

static enum plt_piece_kind kind_of(const struct plt_walk *w, const struct plt_extent *e)
{
	if (e->flags & PLT_EXTENT_ZERO)
		return PLT_PIECE_ZERO;
	if (e->flags & (PLT_EXTENT_DATA | PLT_EXTENT_PRESENT | PLT_EXTENT_DAMAGED))
		return PLT_PIECE_DATA;
	if (!w->src->top_only)
		return PLT_PIECE_ZERO; /* no layer has it */
	return PLT_PIECE_ABSENT;
}

/* The run of one kind that starts at @off. */
static int run_at(struct plt_walk *w, uint64_t off, enum plt_piece_kind *ret_kind, uint64_t *ret_end,
		  struct plt_error *err)
{
	const struct plt_extent *e;
	enum plt_piece_kind kind;
	uint64_t end;
	int ret;

	for (;;) {
		while (w->i < w->n && w->base + w->ext[w->i].off + w->ext[w->i].len <= off)
			w->i++;
		if (w->i < w->n && w->base + w->ext[w->i].off <= off)
			break;
		ret = fetch(w, off, err);
		if (ret)
			return ret;
	}
	e = &w->ext[w->i];
	kind = kind_of(w, e);
	end = w->base + e->off + e->len;
	/* Beyond its own backing file a source reads as zeros; the target's may be longer. */
	if (kind == PLT_PIECE_ABSENT && off >= w->src->backing_size)
		kind = PLT_PIECE_ZERO;
	else if (kind == PLT_PIECE_ABSENT)
		end = PLT_MIN(end, w->src->backing_size);
	/* And where the target's has ended, that is what shows if nothing is written. */
	if (kind == PLT_PIECE_ZERO && off >= w->beyond)
		kind = PLT_PIECE_ABSENT;
	else if (kind == PLT_PIECE_ZERO)
		end = PLT_MIN(end, w->beyond);
	if (kind == PLT_PIECE_ZERO && w->zero_is_data)
		kind = PLT_PIECE_DATA;
	*ret_kind = kind;
	*ret_end = end;
	return 0;
}

int plt_walk_next(struct plt_walk *w, struct plt_piece *ret, struct plt_error *err)
{
	uint64_t size = w->src->size, limit, end;
	enum plt_piece_kind kind, first = PLT_PIECE_DATA;
	unsigned fetches = w->fetches;
	int r;

	ret->off = w->pos;
	ret->len = 0;
	/* Grow the piece unit by unit, or by as many as one run covers. */
	while (w->pos < size && (!ret->len || w->fetches - fetches < FETCHES)) {
		uint64_t next = PLT_MIN(w->pos + w->unit, size), at = w->pos;

		r = run_at(w, at, &kind, &end, err);
		if (r)
			return r;
		if (end >= next) {
			next = end >= size ? size : plt_align_down(end, w->unit);
		} else {
			while ((at = end) < next && kind != PLT_PIECE_DATA) {
				enum plt_piece_kind other;

				r = run_at(w, at, &other, &end, err);
				if (r)
					return r;
				if (other != kind)
					kind = PLT_PIECE_DATA;
			}
		}
		if (ret->len && kind != first)
			return 0;
		first = kind;
		ret->kind = kind;
		if (kind == PLT_PIECE_DATA) {
			limit = plt_align_down(ret->off, w->chunk) + w->chunk;
			if (next >= limit) {
				w->pos = PLT_MIN(limit, size);
				ret->len = w->pos - ret->off;
				return 0;
			}
		}
		w->pos = next;
		ret->len = w->pos - ret->off;
	}
	return 0;
}
