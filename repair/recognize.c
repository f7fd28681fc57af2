/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Which format an image is that has lost its beginning.  Every driver that mends is let loose on an overlay of
 * its own; the one after whose work the image is recognised again has it.  A disk with a partition table or a
 * filesystem of its own at 0 is what it looks like, whatever its guest's files hold; and what nobody wants is raw.
 * Invariant: a format is never guessed between two.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/driver.h"
#include "formats/probe.h"
#include "guestfs/guestfs.h"
#include "repair/repair.h"

/* Findings of an attempt, told only if it is the one. */
struct kept {
	struct plt_check_finding *v;
	size_t n, cap;
	bool failed;
};

static void keep(void *arg, const struct plt_check_finding *f)
{
	struct kept *k = arg;
	struct plt_check_finding *grown;
	char *text = strdup(f->text);

	if (k->n == k->cap) {
		grown = realloc(k->v, (k->cap * 2 + 16) * sizeof(*k->v));
		if (grown) {
			k->v = grown;
			k->cap = k->cap * 2 + 16;
		}
	}
	if (!text || k->n == k->cap) {
		free(text);
		k->failed = true;
		return;
	}
	k->v[k->n] = *f;
	k->v[k->n++].text = text;
}

static void tell(struct kept *k, void (*found)(void *arg, const struct plt_check_finding *f), void *arg)
{
	for (size_t i = 0; i < k->n; i++) {
		if (found)
			found(arg, &k->v[i]);
		free((char *)(uintptr_t)k->v[i].text);
	}
	free(k->v);
	*k = (struct kept){ 0 };
}

static int read_store(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_store_read(arg, off, buf, len, PLT_IO_OTHER, NULL);
}

/* Does it begin as a disk does? */
static bool is_disk(struct plt_store *st)
{
	struct plt_guest guest = { .read = read_store, .arg = st };
	struct plt_part *parts = calloc(PLT_PARTS_MAX, sizeof(*parts));
	bool sure, is = false;
	unsigned n = 0;

	if (parts && plt_store_size(st, &guest.size, NULL) == 0) {
		is = plt_parts_read(&guest, parts, &n, &sure) == 0 && n;
		for (unsigned i = 0; plt_guestfs_all[i] && !is; i++) {
			struct plt_guestfs *fs;

			is = plt_guestfs_all[i]->open(&guest, 0, NULL, 0, &fs) == 0;
			if (is)
				plt_guestfs_free(fs);
		}
	}
	free(parts);
	return is;
}

/* Let @drv make an image of it: true, and @try is what came out. */
static bool made(struct plt_repair *rep, const struct plt_driver *drv, unsigned what, struct plt_repair *try,
		 struct kept *findings)
{
	const struct plt_driver *is = NULL;

	*try = (struct plt_repair){ .ctx = rep->ctx, .file = rep->file, .name = rep->name, .trust = rep->trust,
				    .offered = rep->offered, .offered_arg = rep->offered_arg, .guess = true };
	try->format = strdup(drv->name);
	if (try->format && plt_repair_reset(try, NULL) == 0 &&
	    plt_repair_mend(try, what, keep, findings, NULL) == 0 &&
	    plt_probe(try->overlay, &is, NULL) == 0 && is == drv)
		return true;
	plt_store_unref(try->overlay);
	plt_doubts_release(&try->doubts);
	free(try->format);
	return false;
}

static void take(struct plt_repair *rep, struct plt_repair *try)
{
	plt_store_unref(rep->overlay);
	plt_doubts_release(&rep->doubts);
	rep->overlay = try->overlay;
	rep->format = try->format;
	rep->size = try->size;
	rep->before = try->before;
	rep->doubts = try->doubts;
}

int plt_repair_recognize(struct plt_repair *rep, unsigned what,
			 void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	const struct plt_driver *raw = NULL;
	struct plt_repair try;
	struct kept best = { 0 };
	bool disk = is_disk(rep->file);
	int r = 0;

	for (unsigned i = 0; plt_drivers[i] && r == 0; i++) {
		const struct plt_driver *drv = plt_drivers[i];
		struct kept findings = { 0 };

		if (drv->flags & PLT_DRIVER_NO_HEADER)
			raw = drv;
		if (disk || drv->flags & PLT_DRIVER_NO_HEADER || !(drv->flags & PLT_DRIVER_MENDS))
			continue;
		if (!made(rep, drv, what, &try, &findings)) {
			tell(&findings, NULL, NULL);
		} else if (rep->format) {
			r = plt_error_set(err, EINVAL, "'%s' can be taken for %s and for %s: tell which (-f)", rep->name,
					  rep->format, drv->name);
			tell(&findings, NULL, NULL);
			plt_store_unref(try.overlay);
			plt_doubts_release(&try.doubts);
			free(try.format);
		} else {
			take(rep, &try);
			best = findings;
		}
	}
	tell(&best, r == 0 ? found : NULL, arg);
	if (r < 0 || rep->format)
		return r;
	if (!raw || !(rep->format = strdup(raw->name)))
		return plt_error_set(err, ENOMEM, "out of memory");
	if (!(raw->flags & PLT_DRIVER_MENDS))
		return plt_error_set(err, ENOSYS, "'%s': images of the format %s cannot be repaired in this release", rep->name,
				     rep->format);
	/* its guest's bytes are changed only for those who say that it is raw */
	return plt_repair_mend(rep, 0, found, arg, err);
}
