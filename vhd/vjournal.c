/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The journal of XenServer's vhd-util: an undo log, written before a resize moves blocks and tables about.  It begins
 * with footers, header, locators, table and batmap as they were, and has every block that is written over; meanwhile the
 * footer at the image's end is made invalid.  A journal without entries is that of a resize which had finished.
 *
 * The invariant: a journal counts only if it is this image's (by unique id), the image is marked or has no footer at
 * its end, and every entry's checksum verifies; then all of it is taken back, else nothing is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define ENTRY_MAX (64u << 20) /* bytes of one: a table of 32 TiB */
#define ENTRY_COOKIE UINT64_C(0xaaaa12344321aaaa)

struct journal_header {
	uint8_t cookie[8];        /* "vjournal" */
	uint8_t id[16];           /* of the image */
	plt_be64 footer_offset;   /* where its footer was */
	plt_be32 data_entries, metadata_entries;
	plt_be64 data_offset, metadata_offset;
	uint8_t eof[8];           /* in the order of the host that wrote it */
	uint8_t pad[448];
};
_Static_assert(sizeof(struct journal_header) == 512, "size");

struct journal_entry {
	plt_be64 cookie;
	plt_be32 type, size;
	plt_be64 offset;          /* in the image */
	plt_be32 checksum;        /* of this, with zeros here, and of what follows */
	uint8_t pad[4];
};
_Static_assert(sizeof(struct journal_entry) == 32, "size");

bool vhd_is_poisoned(const struct vhd_footer *f)
{
	return !memcmp(f->cookie, VHD_POISON, 8);
}

/* One's complement of the sum of all bytes. */
static uint32_t add_up(uint32_t sum, const void *buf, size_t len)
{
	for (const uint8_t *p = buf; len--; p++)
		sum += *p;
	return sum;
}

struct replay {
	struct plt_store *file, *journal;
	struct journal_header h;
	uint64_t size;            /* of the journal */
	unsigned entries;
	uint64_t bytes;
};

/* All entries, in order, each verified; @write: put back. */
static int each_entry(struct replay *x, bool write, struct plt_error *err)
{
	uint64_t total = (uint64_t)plt_be32_get(x->h.metadata_entries) + plt_be32_get(x->h.data_entries);
	uint64_t at = sizeof(x->h), limit = plt_be64_get(x->h.footer_offset) + VHD_FOOTER;
	int r = 0;

	x->entries = 0;
	x->bytes = 0;
	for (; x->entries < total && r == 0; x->entries++) {
		PLT_AUTOFREE uint8_t *buf = NULL;
		struct journal_entry e;
		uint64_t off, len;
		uint32_t sum;

		if (!plt_in_range(at, sizeof(e), x->size))
			return plt_error_set(err, EUCLEAN, "entry %u of %" PRIu64 " lies behind its end", x->entries, total);
		r = plt_store_read(x->journal, at, &e, sizeof(e), PLT_IO_OTHER, err);
		off = plt_be64_get(e.offset);
		len = plt_be32_get(e.size);
		if (r == 0 && (plt_be64_get(e.cookie) != ENTRY_COOKIE || !len || len % VHD_SECTOR || len > ENTRY_MAX ||
			       !plt_in_range(at + sizeof(e), len, x->size) || !plt_in_range(off, len, limit)))
			return plt_error_set(err, EUCLEAN, "entry %u at %#" PRIx64 ": %" PRIu64 " bytes for offset %#" PRIx64
					     ", which is none", x->entries, at, len, off);
		buf = r == 0 ? malloc(len) : NULL;
		if (r == 0)
			r = buf ? plt_store_read(x->journal, at + sizeof(e), buf, len, PLT_IO_OTHER, err) : -ENOMEM;
		if (r < 0)
			return plt_error_default(err, -r, "out of memory");
		sum = plt_be32_get(e.checksum);
		e.checksum = plt_be32_make(0);
		if (~add_up(add_up(0, &e, sizeof(e)), buf, len) != sum)
			return plt_error_set(err, EUCLEAN, "entry %u at %#" PRIx64 ": its checksum is wrong", x->entries, at);
		if (write)
			r = plt_store_write(x->file, off, buf, len, PLT_IO_OTHER, err);
		x->bytes += len;
		at += sizeof(e) + len;
	}
	return r;
}

/* The resize had finished: only the mark is left. */
static int unmark(struct replay *x, const struct vhd_ends *ends, struct plt_error *err)
{
	struct vhd_footer f = ends->tail.f;

	if (!vhd_is_poisoned(&f))
		return 0;
	memcpy(f.cookie, VHD_COOKIE, sizeof(f.cookie));
	vhd_footer_seal(&f);
	return plt_store_write(x->file, ends->tail.off, &f, sizeof(f), PLT_IO_HEADER, err);
}

/*
 * The file is not cut to its old length, for nothing of it is given up: a mark that went with a new end becomes the
 * footer that belongs there, or, of a fixed disk, nothing (mending finds its footer in front of it).
 */
static int unmark_end(struct replay *x, const struct vhd_ends *ends, struct plt_error *err)
{
	struct vhd_footer f;
	int r = 0;

	if (!vhd_is_poisoned(&ends->tail.f) || ends->tail.off < plt_be64_get(x->h.footer_offset) + VHD_FOOTER)
		return 0;
	r = plt_store_read(x->file, plt_be64_get(x->h.footer_offset), &f, sizeof(f), PLT_IO_HEADER, err);
	if (r == 0 && plt_be32_get(f.type) == VHD_FIXED)
		memset(&f, 0, sizeof(f));
	return r < 0 ? r : plt_store_write(x->file, ends->tail.off, &f, sizeof(f), PLT_IO_HEADER, err);
}

int vhd_replay(struct plt_store *file, struct plt_store *journal, char *ret_text, size_t len, struct plt_error *err)
{
	struct replay x = { .file = file, .journal = journal };
	struct vhd_ends ends;
	bool head, tail;
	int r = plt_store_size(journal, &x.size, err);

	if (r < 0 || x.size < sizeof(x.h))
		return r;
	r = plt_store_read(journal, 0, &x.h, sizeof(x.h), PLT_IO_OTHER, err);
	if (r < 0 || memcmp(x.h.cookie, "vjournal", 8))
		return r;
	r = vhd_read_ends(file, &ends, NULL);
	if (r < 0 && r != -EINVAL)
		return plt_error_set(err, -r, "the image cannot be read");
	head = ends.head.state == VHD_COPY_GOOD && !memcmp(ends.head.f.id, x.h.id, 16);
	tail = vhd_is_poisoned(&ends.tail.f) && !memcmp(ends.tail.f.id, x.h.id, 16);
	if (ends.tail.state == VHD_COPY_GOOD || (!head && !tail))
		return 0;
	if (!plt_in_range(plt_be64_get(x.h.footer_offset), VHD_FOOTER, INT64_MAX))
		return plt_error_set(err, EUCLEAN, "a footer at %#" PRIx64, plt_be64_get(x.h.footer_offset));
	r = each_entry(&x, false, err);
	if (r == 0 && x.entries)
		r = each_entry(&x, true, err);
	else if (r == 0)
		r = unmark(&x, &ends, err);
	if (r == 0 && x.entries)
		r = unmark_end(&x, &ends, err);
	if (r < 0)
		return r;
	if (x.entries)
		snprintf(ret_text, len, "a resize by vhd-util was cut short: its journal puts back what was there before, %" PRIu64
			 " bytes in %u pieces", x.bytes, x.entries);
	else
		snprintf(ret_text, len, "a resize by vhd-util had finished, and its mark is still on the image");
	return 1;
}
