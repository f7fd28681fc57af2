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

enum { START, LOCK, UNITS, PLAIN };

#define PLAIN_MAX (1U << 20)

/* ---- driver ---------------------------------------------------------------------------------- */

static int units(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_driver *drv = io->img->drv;
	uint64_t off = io->pos, len = io->part_end - io->pos;

	io->work_done = 0;
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

/* Does the part read as zeros already, for what the map alone can say? */
static int look(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_run v[8];
	uint64_t pos = io->pos;

	io->part_zero = false;
	while (pos < io->part_end) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };
		int r = plt_image_map_inside(io->img, pos, io->part_end - pos, &runs, &iop->err);

		if (r < 0)
			return r;
		for (unsigned i = 0; i < runs.n; i++) {
			if (v[i].kind != PLT_RUN_ZERO && !(v[i].kind == PLT_RUN_ABSENT && !io->eng->backing))
				return 0;
			pos = v[i].off + v[i].len;
		}
	}
	io->part_zero = true;
	return 0;
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
			if (io->kind == PLT_IO_ZERO_REQ)
				r = plt_store_zero(v[i].store, v[i].host_off, v[i].len,
						   io->flags & PLT_ZERO_UNMAP ? PLT_ZERO_MAY_UNMAP : 0,
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

static void plan_part(struct plt_io *io)
{
	uint64_t end = io->off + io->len, size = atomic_load(&io->img->size), unit = io->img->alloc_unit;
	uint64_t up = plt_align_up(io->pos, unit), down = end == size ? end : plt_align_down(end, unit);

	if (io->pos == up && up < down && !io->declined) {
		io->part_end = down;
		io->part_units = true;
	} else {
		io->part_end = io->declined ? end : io->pos < up ? PLT_MIN(up, end) : end;
		io->part_units = false;
	}
}

static void step(struct plt_io *io)
{
	const struct plt_driver *drv = io->img->drv;
	uint64_t end = io->off + io->len;
	bool has = io->kind == PLT_IO_ZERO_REQ ? drv->write_zeroes != NULL : drv->discard != NULL;

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
			if (!has || !io->part_units) {
				io->state = PLAIN;
				io->looked = false;
				break;
			}
			io->state = LOCK;
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
			if (io->units_result == -ENOTSUP)
				io->declined = true;
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
