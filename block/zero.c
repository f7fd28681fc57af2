/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The frames for write_zeroes and discard.  Whole allocation units go to the driver, which changes
 * the mapping (blocking, under the range lock); what the driver declines, and the parts of units at
 * both ends, are zeros written like data, or left alone for a discard.  Where data is in place and the
 * driver has no say (raw), the store's own zero and discard do it.
 */
#include "base/alloc.h"
#include "block/engine.h"

enum { START, LOCK, UNITS, EDGE, EDGE_UNIT, PLAIN };

#define PLAIN_MAX (1U << 20)

/* What the driver can change of the mapping at once. */
static uint64_t zero_unit(const struct plt_io *io)
{
	return io->kind == PLT_IO_ZERO_REQ && io->img->zero_unit ? io->img->zero_unit : io->img->alloc_unit;
}

/* ---- driver ---------------------------------------------------------------------------------- */

static int units(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_driver *drv = io->img->drv;
	uint64_t off = io->pos, len = io->part_end - io->pos;

	io->work_done = 0;
	if (io->kind == PLT_IO_DISCARD_REQ && io->flags & PLT_IO_UNCOVER)
		return drv->uncover(io->img, off, len, &io->work_done, &io->need, &iop->err);
	return io->kind == PLT_IO_ZERO_REQ ?
		       drv->write_zeroes(io->img, off, len, io->flags & PLT_ZERO_UNMAP, &io->work_done, &io->need,
					 &iop->err) :
		       drv->discard(io->img, off, len, &io->work_done, &io->need, &iop->err);
}

static void units_done(struct plt_io *io, struct plt_io_op *iop)
{
	io->units_result = iop->op.result;
	io->pos += io->work_done;
	/* a need or a refusal is no failure of the request */
	if (io->result == -EAGAIN || io->result == -ENOTSUP) {
		io->result = 0;
		io->err.code = 0;
	}
}

/* ---- plain ----------------------------------------------------------------------------------- */

/*
 * Does [off, end) of the image read as zeros, for what its map alone can say, with @chain also those of
 * the layers below?  Without it what is absent does only if nothing can ever be below.  1: yes.  @inside: the
 * caller is in the image's epoch.
 */
static int reads_zero(struct plt_image *img, bool inside, uint64_t off, uint64_t end, bool chain,
		      struct plt_error *err)
{
	struct plt_run v[2]; /* one set a layer lies on the stack */

	end = PLT_MIN(end, (uint64_t)atomic_load(&img->size)); /* beyond a layer's end: zeros */
	while (off < end) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };
		int r = inside ? plt_image_map_inside(img, off, end - off, &runs, err) :
				 plt_image_map_wait(img, off, end - off, &runs, err);

		if (r < 0)
			return r;
		for (unsigned i = 0; i < runs.n; i++) {
			off = v[i].off + v[i].len;
			if (v[i].kind == PLT_RUN_ZERO || (v[i].kind == PLT_RUN_ABSENT && !img->engine->backing &&
							  (chain || !img->has_backing)))
				continue;
			if (v[i].kind != PLT_RUN_ABSENT || !chain)
				return 0;
			r = reads_zero(img->engine->backing, false, v[i].off, off, true, err);
			if (r != 1)
				return r;
		}
	}
	return 1;
}

/* Is there nothing to do?  What lies below may become something else: only the layer itself counts. */
static int look(struct plt_io *io, struct plt_io_op *iop)
{
	int r = reads_zero(io->img, true, io->pos, io->part_end, false, &iop->err);

	io->part_zero = r == 1;
	return r < 0 ? r : 0;
}

/*
 * A part of a unit whose rest reads as zeros too: then the whole unit may become zero, which is
 * cheaper than zeros written into a part of it.  Looked at and done under the range lock, in one epoch.
 */
static int edge(struct plt_io *io, struct plt_io_op *iop)
{
	uint64_t unit = zero_unit(io), off = plt_align_down(io->pos, unit), done = 0;
	uint64_t end = PLT_MIN(plt_align_up(io->part_end, unit), (uint64_t)atomic_load(&io->img->size));
	int r = reads_zero(io->img, true, off, io->pos, true, &iop->err);

	if (r == 1)
		r = reads_zero(io->img, true, io->part_end, end, true, &iop->err);
	io->part_zero = r == 1;
	if (r != 1)
		return r;
	return io->img->drv->write_zeroes(io->img, off, end - off, io->flags & PLT_ZERO_UNMAP, &done, &io->need,
					  &iop->err);
}

static void write_part(struct plt_io *io)
{
	uint64_t n = PLT_MIN(io->part_end - io->pos, (uint64_t)PLAIN_MAX);
	struct plt_io *c;

	if (!io->head_buf) {
		io->head_buf = calloc(1, PLAIN_MAX);
		if (!io->head_buf) {
			plt_io_fail(io, ENOMEM, NULL);
			return;
		}
	}
	io->zero_iov = (struct iovec){ io->head_buf, (size_t)n };
	c = plt_io_child(io, io->img, PLT_IO_WRITE_REQ, io->pos, n);
	if (!c)
		return;
	io->pos += n;
	c->iov = &io->zero_iov;
	c->niov = 1;
	plt_io_start(c);
}

/* Raw: the store's own form for what is in place.  -ENOTSUP: something is not. */
static int store_part(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_run v[8];

	while (io->pos < io->part_end) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };
		int r = plt_image_map_inside(io->img, io->pos, io->part_end - io->pos, &runs, &iop->err);

		if (r < 0)
			return r;
		for (unsigned i = 0; i < runs.n; i++) {
			if (v[i].kind != PLT_RUN_DATA || !(v[i].flags & PLT_RUN_IN_PLACE))
				return -ENOTSUP;
			/* encrypted zeros are no hole; and what a hole is decrypted to is nobody's data */
			if (v[i].cipher && io->kind == PLT_IO_ZERO_REQ)
				return -ENOTSUP;
			if (v[i].cipher)
				r = 0;
			else if (io->kind == PLT_IO_ZERO_REQ)
				r = plt_store_zero(v[i].store, v[i].host_off, v[i].len,
						   (io->flags & PLT_ZERO_UNMAP ? PLT_ZERO_MAY_UNMAP : 0) |
							   (io->flags & PLT_AIO_NO_FALLBACK ?
								    PLT_ZERO_NO_FALLBACK : 0),
						   PLT_IO_DATA, &iop->err);
			else
				r = plt_store_discard(v[i].store, v[i].host_off, v[i].len, &iop->err);
			if (r < 0 && !(r == -ENOTSUP && io->kind == PLT_IO_DISCARD_REQ))
				return r;
			io->pos = v[i].off + v[i].len;
		}
	}
	return 0;
}

/* ---- the frames ------------------------------------------------------------------------------ */

/* Whole units first, then what can be done of one unit; what is less is written, or left alone. */
static void plan_part(struct plt_io *io)
{
	uint64_t end = io->off + io->len, size = atomic_load(&io->img->size), unit = zero_unit(io);
	uint64_t alloc = io->img->alloc_unit, up = plt_align_up(io->pos, unit);
	uint64_t down = end == size ? end : plt_align_down(end, unit);
	uint64_t whole = end == size ? end : plt_align_down(end, alloc);

	io->part_units = io->pos == up && up < down && !io->declined;
	io->part_small = io->part_units && (io->pos & (alloc - 1) || whole <= io->pos);
	if (io->part_small)
		io->part_end = PLT_MIN(down, plt_align_down(io->pos, alloc) + alloc);
	else if (io->part_units)
		io->part_end = whole;
	else
		io->part_end = io->declined ? end : io->pos < up ? PLT_MIN(up, end) : end;
}

static void step(struct plt_io *io)
{
	const struct plt_driver *drv = io->img->drv;
	uint64_t end = io->off + io->len;
	bool uncover = io->kind == PLT_IO_DISCARD_REQ && io->flags & PLT_IO_UNCOVER;
	bool has = io->kind == PLT_IO_ZERO_REQ ? drv->write_zeroes != NULL : uncover || drv->discard != NULL;

	while (!io->pending)
		switch (io->state) {
		case START:
			if (io->result || io->pos >= end) {
				plt_io_finish(io);
				return;
			}
			if (!io->guarded)
				plt_range_unlock(io);
			if (!plt_io_may_change(io)) {
				if (io->result && !io->pending && !io->woken)
					plt_io_finish(io);
				return;
			}
			plan_part(io);
			io->looked = false;
			if (has && io->part_units)
				io->state = LOCK;
			else
				io->state = has && io->kind == PLT_IO_ZERO_REQ && !io->declined ? EDGE : PLAIN;
			break;
		case LOCK:
			io->state = UNITS;
			io->units_result = 1;
			if (!io->guarded && !plt_range_lock(io, io->pos, io->part_end - io->pos))
				return;
			break;
		case UNITS:
			if (io->result) {
				io->state = START;
				break;
			}
			if (io->units_result == 1) {
				if (!plt_io_enter(io)) {
					io->state = START;
					return;
				}
				if (io->result)
					break;
				plt_io_call(io, units, units_done);
				return;
			}
			plt_io_leave(io);
			io->state = START;
			if (io->units_result == -EAGAIN) {
				plt_io_meet(io);
				return;
			}
			if (io->units_result == -ENOTSUP && io->part_small) {
				plt_range_unlock(io); /* as below */
				io->state = PLAIN;
			} else if (io->units_result == -ENOTSUP) {
				io->declined = true;
			}
			break;
		case EDGE:
			io->state = EDGE_UNIT;
			io->units_result = 1;
			if (!plt_range_lock(io, io->pos, io->part_end - io->pos))
				return;
			break;
		case EDGE_UNIT:
			if (io->result) {
				io->state = START;
				break;
			}
			if (io->units_result == 1) {
				if (!plt_io_enter(io)) {
					io->state = START;
					return;
				}
				if (io->result)
					break;
				io->work_done = 0;
				plt_io_call(io, edge, units_done);
				return;
			}
			plt_io_leave(io);
			if (io->units_result == -EAGAIN) {
				io->state = START;
				plt_io_meet(io);
				return;
			}
			plt_range_unlock(io); /* the frames that write zeros take it themselves */
			if (io->units_result == 0 && io->part_zero)
				io->pos = io->part_end;
			io->state = io->pos < io->part_end ? PLAIN : START;
			break;
		case PLAIN:
			if (io->result) {
				io->state = START;
				break;
			}
			if (!has && !io->declined) { /* in place, through the store */
				io->part_end = end;
				if (!plt_io_enter(io)) {
					io->state = START;
					return;
				}
				if (io->result)
					break;
				io->state = START;
				plt_io_call(io, store_part, units_done);
				io->work_done = 0;
				io->declined = true; /* should it refuse: plain writes for the rest */
				return;
			}
			if (io->kind == PLT_IO_DISCARD_REQ) { /* advice may be ignored */
				plt_io_leave(io);
				if (uncover) /* that is none */
					plt_io_fail(io, ENOTSUP, NULL);
				io->pos = io->part_end;
				io->state = START;
				break;
			}
			if (!io->looked) {
				if (!plt_io_enter(io)) {
					io->state = START;
					return;
				}
				if (io->result)
					break;
				io->looked = true;
				plt_io_call(io, look, NULL);
				return;
			}
			plt_io_leave(io);
			if (io->part_zero)
				io->pos = io->part_end;
			else if (io->flags & PLT_AIO_NO_FALLBACK)
				plt_io_fail(io, ENOTSUP, NULL);
			if (io->result) {
				io->state = START;
				break;
			}
			if (io->pos >= io->part_end) {
				io->state = START;
				break;
			}
			io->pending++;
			write_part(io);
			io->pending--;
			break;
		}
}

void plt_zero_step(struct plt_io *io)
{
	step(io);
}

void plt_discard_step(struct plt_io *io)
{
	step(io);
}
