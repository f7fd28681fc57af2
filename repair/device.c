/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * An image on a device ends somewhere before the device does: what it grows by goes behind its own end then, into the rest
 * of the device, and not behind the device, where there is nothing.
 *
 * The invariant: nothing of the image lies in what is written over.  Its end is behind all that it names and all that it
 * counts, if its counts are sound; otherwise behind the last byte of the device that is not zero, for what is counted no
 * more may be all that is left of the guest's data.  While a plan is made the rest of the device is hidden, so that it is
 * neither taken for a part of the image nor for zeros that are there already.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/zero.h"
#include "formats/driver.h"
#include "io/mapfile.h"
#include "repair/repair.h"

#define PIECE (1u << 20)
#define LOW_MAX 16 /* counts that are too low */
#define CLUSTER_MAX (UINT64_C(2) << 20) /* of the formats that are repaired so */

struct counts {
	bool doubtful;
	uint64_t low;
};

/* A table of garbage names clusters that were never counted; a block of counts that is gone looks like many of these. */
static void look(void *arg, const struct plt_check_finding *f)
{
	struct counts *c = arg;

	if (!strcmp(f->id, "Q-REF-LOW"))
		c->low++;
	else if (strcmp(f->id, "Q-HDR-SIZE") && (!strncmp(f->id, "Q-REF", 5) || !strncmp(f->id, "Q-HDR", 5)))
		c->doubtful = true;
	c->doubtful |= !strcmp(f->severity, "error");
}

/* Behind the last byte of [from, size) that is not zero. */
static int last_byte(struct plt_store *file, uint64_t from, uint64_t size, uint64_t *ret, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(PIECE);

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (uint64_t end = size, n; end > from; end -= n) {
		int r;

		n = PLT_MIN(end - from, (uint64_t)PIECE);
		r = plt_store_read(file, end - n, buf, n, PLT_IO_OTHER, err);
		if (r < 0)
			return r;
		if (!plt_is_zero(buf, n)) {
			*ret = end;
			return 0;
		}
	}
	*ret = from;
	return 0;
}

static bool is_device(const struct plt_repair *rep)
{
	return !strcmp(plt_medium_below(rep->file)->ops->kind, "host_device");
}

int plt_repair_find_end(struct plt_repair *rep, struct plt_error *err)
{
	struct plt_check_result res;
	struct counts c = { 0 };
	uint64_t end;
	int r;

	rep->end = 0;
	if (rep->look || rep->copy || !is_device(rep) ||
	    plt_check_store(rep->ctx, rep->file, rep->name, rep->format, look, &c, &res, NULL) < 0 || !res.image_end_offset)
		return 0;
	end = plt_align_up(res.image_end_offset, CLUSTER_MAX);
	c.doubtful |= res.check_errors > 0 || c.low > LOW_MAX;
	r = end < rep->size && c.doubtful ? last_byte(rep->file, end, rep->size, &end, err) : 0;
	end = plt_align_up(end, CLUSTER_MAX);
	if (r < 0 || end >= rep->size)
		return r;
	r = plt_store_truncate(rep->overlay, end, err);
	rep->end = r == 0 ? end : 0;
	return r;
}

/* ---- what is between the edits --------------------------------------------------------------- */

struct fill {
	struct plt_extents edits;
	int error;
};

static int note(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct fill *f = arg;

	(void)bytes;
	f->error = plt_extents_add(&f->edits, off, len);
	return f->error;
}

int plt_repair_fill_end(struct plt_repair *rep, struct plt_error *err)
{
	struct fill f = { .edits = PLT_EXTENTS_INIT };
	PLT_AUTOFREE uint8_t *zeros = NULL;
	uint64_t size;
	int r = rep->end ? plt_store_size(rep->overlay, &size, err) : 0;

	if (r < 0 || !rep->end || size <= rep->end)
		return r;
	zeros = calloc(1, PIECE);
	r = zeros ? plt_repair_each(rep, note, &f) : -ENOMEM;
	for (uint64_t at = rep->end, n; at < size && r == 0; at += n) {
		const struct plt_range *e = plt_extents_find(&f.edits, at);

		if (e && e->off <= at) {
			n = e->off + e->len - at;
			continue;
		}
		n = PLT_MIN(PLT_MIN(e ? e->off : size, size) - at, (uint64_t)PIECE);
		r = plt_store_write(rep->overlay, at, zeros, n, PLT_IO_OTHER, err);
	}
	plt_extents_release(&f.edits);
	return r < 0 ? plt_error_default(err, -r, "out of memory") : 0;
}
