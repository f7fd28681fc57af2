/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Repair from a donor: what the image has lost for good, and an older copy or a clone of the disk has at the same place, is
 * written into it as a guest would.  The image as it is planned is opened over the overlay, so that its driver finds
 * places for the data and keeps its tables; what that changes is part of the plan, and of the undo journal.  What was lost is
 * inferred then: nobody knows that it had not changed since.
 *
 * The invariant: the plan without the donor is complete before, and a range that cannot be written stays lost and is said to be.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "repair/repair.h"

#define MOST (UINT64_C(256) << 20) /* bytes, which the plan holds in memory */
#define PIECE (1u << 20)

struct donation {
	struct plt_repair *rep;
	struct plt_disk *disk, *donor;  /* the image as it is planned; whose data is taken */
	struct plt_doubts lost, given;
	uint64_t bytes, refused;        /* what was written; and what could not be */
};

static int collect(void *arg, const struct plt_doubt_range *range)
{
	struct donation *d = arg;
	struct plt_doubt lost = { .kind = PLT_LOST, .disk = PLT_DISK_ACTIVE, .off = range->off, .len = range->len };

	if (!range->lost || range->snapshot)
		return 0;
	snprintf(lost.why, sizeof(lost.why), "%s", range->why);
	return plt_doubts_set(&d->lost, &lost);
}

/* ---- opening ----------------------------------------------------------------------------------- */

static int open_donor(struct donation *d, const char *name, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	int r;

	o.flags = PLT_OPEN_SHARE_RAW;
	r = plt_disk_open(d->rep->ctx, name, &o, &d->donor, err);
	if (r < 0)
		return r;
	return plt_donor_fits(d->donor, plt_disk_size(d->disk), d->rep->name, err);
}

/* With all that it stands on, for a part of a cluster is written with what lies beside it. */
static int open_planned(struct donation *d, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	int r;

	o.flags = PLT_OPEN_WRITE | (d->rep->no_backing ? PLT_OPEN_NO_BACKING : 0);
	r = plt_disk_open_store(d->rep->ctx, d->rep->overlay, d->rep->name, d->rep->format, &o, &d->disk, err);
	if (r < 0)
		plt_error_prefix(err, "a donor gives to an image that can be written once it is repaired, and this one cannot");
	else if (plt_disk_image(d->disk)->data != plt_disk_image(d->disk)->file)
		r = plt_error_set(err, ENOTSUP, "'%s' has an external data file, which no undo journal covers: convert --rescue --donor "
				  "writes what a donor has into a new image", d->rep->name);
	else if (d->rep->no_backing && plt_disk_image(d->disk)->backing_name)
		r = plt_error_set(err, ENOTSUP, "a donor gives to an image with all that it stands on: not without its backing file");
	return r;
}

/* ---- giving ------------------------------------------------------------------------------------ */

static int give(struct donation *d, uint64_t off, uint64_t len, const char *why, uint8_t *buf, struct plt_error *err)
{
	struct plt_doubt given = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .off = off, .len = len };
	int r = 0;

	if (len > MOST - d->bytes)
		return plt_error_set(err, EFBIG, "'%s' has lost more than a plan can hold of a donor's data (%" PRIu64
				     " MiB): convert --rescue --donor writes all of it into a new image", d->rep->name, MOST >> 20);
	given.certainty = plt_donor_certainty(d->disk, d->donor, off, len);
	snprintf(given.why, sizeof(given.why), "taken from the donor; lost here: %.60s", why);
	for (uint64_t at = off, n; at < off + len && r == 0; at += n) {
		n = PLT_MIN(off + len - at, (uint64_t)PIECE);
		r = plt_read(d->donor, at, buf, (size_t)n, NULL);
		if (r == 0)
			r = plt_write(d->disk, at, buf, (size_t)n, NULL);
	}
	if (r == -ENOMEM)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (r < 0) { /* (beside it lies what cannot be read) */
		d->refused += len;
		return 0;
	}
	d->bytes += len;
	return plt_doubts_set(&d->given, &given) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

/* What some layer of the donor holds; zeros of what was never written say nothing. */
static int give_all(struct donation *d, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PIECE);
	int r = buf ? 0 : plt_error_set(err, ENOMEM, "out of memory");

	for (size_t i = 0; i < d->lost.n && r == 0; i++) {
		const struct plt_doubt *l = &d->lost.v[i];

		for (uint64_t off = l->off, end = l->off + l->len; off < end && r == 0;) {
			struct plt_extent x[32];
			unsigned n = 0;

			if (plt_status(d->donor, off, end - off, 0, x, PLT_ARRAY_SIZE(x), &n, NULL) < 0 || !n)
				break; /* that it cannot say is no failure of the image */
			for (unsigned k = 0; k < n && r == 0; k++) {
				off = x[k].off + x[k].len;
				if (x[k].flags & PLT_EXTENT_DATA && !(x[k].flags & (PLT_EXTENT_ZERO | PLT_EXTENT_DAMAGED)))
					r = give(d, x[k].off, x[k].len, l->why, buf, err);
			}
		}
	}
	return r;
}

static void say(const struct donation *d, const char *name,
		void (*found)(void *arg, const struct plt_check_finding *f), void *arg)
{
	struct plt_check_finding f = { .id = "DONOR", .severity = "corruption", .beyond_qemu = true, .mended = true };
	char text[400];

	if (!found || !(d->bytes + d->refused))
		return;
	if (d->bytes) {
		snprintf(text, sizeof(text), "%" PRIu64 " bytes that are lost are taken from '%.200s'", d->bytes, name);
		f.text = text;
		found(arg, &f);
	}
	f.mended = false;
	f.severity = "note";
	if (d->refused) {
		snprintf(text, sizeof(text), "%" PRIu64 " bytes that '%.200s' has cannot be written, for what lies beside them cannot be "
			 "read", d->refused, name);
		f.text = text;
		found(arg, &f);
	}
}

int plt_repair_donate(struct plt_repair *rep, const char *name,
		      void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct donation d = { .rep = rep };
	int closed, r = plt_repair_doubts(rep, collect, &d, err);

	if (r == 0)
		r = open_planned(&d, err);
	if (r == 0)
		r = open_donor(&d, name, err);
	if (r == 0)
		r = give_all(&d, err);
	plt_disk_close(d.donor, NULL);
	closed = plt_disk_close(d.disk, r < 0 ? NULL : err);
	r = r < 0 ? r : closed;
	for (size_t i = 0; i < d.given.n && r == 0; i++)
		if (plt_doubts_set(&rep->doubts, &d.given.v[i]) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		say(&d, name, found, arg);
	plt_doubts_release(&d.lost);
	plt_doubts_release(&d.given);
	return r;
}
