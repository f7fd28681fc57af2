/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A donor: an older copy or a clone of a rescued disk.  What the disk has lost and the donor has at the same place is
 * taken from there, and is inferred: nobody knows that it had not changed since.  Where the donor's bytes beside it
 * are others than the disk's, it is a guess.  Which ranges these are is found out when the disk is opened; they are
 * the active layer's, in front of all that lies below.
 */
#include <stdio.h>
#include <string.h>

#include "block/engine.h"

#define BESIDE 4096 /* bytes that are compared on either side */

/* Ranges that are lost, and why. */
struct losses {
	struct plt_doubts d;
};

static int collect(void *arg, const struct plt_doubt_range *range)
{
	struct losses *l = arg;
	struct plt_doubt d = { .kind = PLT_LOST, .disk = PLT_DISK_ACTIVE, .off = range->off, .len = range->len };

	if (!range->lost)
		return 0;
	snprintf(d.why, sizeof(d.why), "%s", range->why);
	return plt_doubts_set(&l->d, &d);
}

/* Are the bytes of both the same there?  1 yes, -1 no, 0 not to be told. */
static int same(struct plt_disk *disk, struct plt_disk *donor, uint64_t off, size_t len)
{
	uint8_t a[BESIDE], b[BESIDE];
	struct plt_doubt lost;

	if (!len || (disk->top->engine->rescue && plt_rescue_find(disk->top, off, len, &lost)) || plt_read(disk, off, a, len, NULL) < 0 ||
	    plt_read(donor, off, b, len, NULL) < 0)
		return 0;
	return memcmp(a, b, len) ? -1 : 1;
}

enum plt_certainty plt_donor_certainty(struct plt_disk *disk, struct plt_disk *donor, uint64_t off, uint64_t len)
{
	uint64_t size = plt_disk_size(disk), end = off + len;
	uint64_t before = PLT_MIN(off, (uint64_t)BESIDE), after = PLT_MIN(size - end, (uint64_t)BESIDE);
	int left = same(disk, donor, off - before, (size_t)before), right = same(disk, donor, end, (size_t)after);

	return left < 0 || right < 0 ? PLT_GUESS : PLT_LIKELY;
}

static int take(struct plt_disk *disk, struct plt_disk *donor, uint64_t off, uint64_t len, const char *why)
{
	struct plt_image *img = disk->top;
	struct plt_rescue *rsc = img->engine->rescue;
	struct plt_doubt d = { .kind = PLT_INFERRED, .disk = img->disk, .off = off, .len = len };
	int r;

	d.certainty = plt_donor_certainty(disk, donor, off, len);
	snprintf(d.why, sizeof(d.why), "taken from the donor; lost here: %s", why);
	pthread_rwlock_wrlock(&rsc->lock);
	r = plt_doubts_set(&rsc->plan.doubts, &d);
	if (r == 0)
		r = plt_extents_add(&rsc->donated, off, len);
	pthread_rwlock_unlock(&rsc->lock);
	return r;
}

/* What the donor has of [off, off+len): bytes that some layer of it holds, not the zeros of what was never written. */
static int take_part(struct plt_disk *disk, struct plt_disk *donor, uint64_t off, uint64_t len, const char *why)
{
	uint64_t end = off + len;
	struct plt_extent x[32];
	int r = 0;

	while (off < end && r == 0) {
		unsigned n = 0;

		if (plt_status(donor, off, end - off, 0, x, PLT_ARRAY_SIZE(x), &n, NULL) < 0)
			return 0; /* that it cannot say is no failure of the disk */
		for (unsigned i = 0; i < n && r == 0; i++) {
			if (x[i].flags & PLT_EXTENT_DATA && !(x[i].flags & (PLT_EXTENT_ZERO | PLT_EXTENT_DAMAGED)))
				r = take(disk, donor, x[i].off, x[i].len, why);
			off = x[i].off + x[i].len;
		}
	}
	return r;
}

static int take_all(struct plt_disk *disk, struct plt_disk *donor, struct plt_error *err)
{
	struct losses l = { PLT_DOUBTS_INIT };
	int r = 0;

	for (struct plt_image *img = disk->top; img && r == 0; img = img->engine->backing)
		r = plt_rescue_decode(img, true, err);
	if (r == 0)
		r = plt_disk_doubts(disk, collect, &l, err);
	for (size_t i = 0; i < l.d.n && r == 0; i++)
		r = take_part(disk, donor, l.d.v[i].off, l.d.v[i].len, l.d.v[i].why);
	plt_doubts_release(&l.d);
	return plt_error_default(err, -r, "out of memory");
}

int plt_donor_fits(struct plt_disk *donor, uint64_t size, const char *name, struct plt_error *err)
{
	if (plt_disk_size(donor) != size)
		return plt_error_set(err, EINVAL, "the donor '%s' is a disk of %" PRIu64 " bytes, and '%s' one of %" PRIu64
				     ": it is neither an older copy nor a clone", donor->top->name, plt_disk_size(donor), name, size);
	if (plt_same_path(name, donor->top->name))
		return plt_error_set(err, EINVAL, "the donor '%s' is the image itself", donor->top->name);
	return 0;
}

int plt_donor_attach(struct plt_disk *disk, const char *name, struct plt_error *err)
{
	struct plt_rescue *rsc = disk->top->engine->rescue;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	uint64_t size = plt_disk_size(disk);
	struct plt_disk *donor;
	int r;

	if (!rsc)
		return plt_error_set(err, EINVAL, "a donor gives to a disk that is opened for rescue");
	o.flags = PLT_OPEN_SHARE_RAW;
	r = plt_disk_open(disk->ctx, name, &o, &donor, err);
	if (r < 0)
		return r;
	r = plt_donor_fits(donor, size, disk->top->name, err);
	rsc->donor = disk->donor = donor; /* closed with the disk */
	if (r == 0)
		r = take_all(disk, donor, err);
	if (r < 0)
		return r;
	return 0;
}

void plt_donor_read(struct plt_io *io, uint64_t off, uint64_t len)
{
	struct plt_io *c = plt_io_child(io, io->eng->rescue->donor->top, PLT_IO_READ_REQ, off, len);

	if (!c)
		return;
	c->iov = io->iov;
	c->niov = io->niov;
	c->iov_off = io->iov_off + (size_t)(off - io->off);
	c->tag = io->tag;
	plt_io_start(c);
}

bool plt_donor_gives(struct plt_image *img, uint64_t off, uint64_t len, const char *why)
{
	struct plt_rescue *rsc = img->engine->rescue;
	struct plt_disk disk = { .ctx = img->ctx, .top = img };
	const struct plt_range *has;
	bool given;

	if (!rsc->donor)
		return false;
	pthread_rwlock_wrlock(&rsc->lock);
	given = plt_extents_overlaps(&rsc->donated, off, len);
	if (given) /* it is the donor that cannot be read there */
		(void)plt_extents_remove(&rsc->donated, off, len);
	pthread_rwlock_unlock(&rsc->lock);
	if (given || take_part(&disk, rsc->donor, off, len, why) < 0)
		return false;
	pthread_rwlock_rdlock(&rsc->lock);
	has = plt_extents_find(&rsc->donated, off);
	given = has && has->off <= off && has->off + has->len >= off + len;
	pthread_rwlock_unlock(&rsc->lock);
	return given;
}
