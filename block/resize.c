/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Resizing: the one request that has the whole image for itself.  It closes the gate for everybody,
 * waits until all that were inside have left, and then
 *
 *	grows:   driver->grow (room in the tables, nothing left from beyond the old end), zeros where the
 *	         last cluster or a longer backing file would show through, driver->resize (durable)
 *	shrinks: driver->resize, then zeros in the rest of the last cluster: another program that lets the
 *	         disk grow again may not look there
 *
 * The zeros are written by child frames, which the closed gate lets pass.  Requests that wait at the
 * gate look at the disk's size again when they are let in.
 */
#include <string.h>

#include "block/engine.h"

enum { START, GROW, ZERO, COMMIT, TAIL_LOOK, TAIL_ZERO, TAIL_DONE, END };

static int grow(struct plt_io *io, struct plt_io_op *iop)
{
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return io->img->drv->grow(io->img, io->len, &iop->err);
}

static int commit(struct plt_io *io, struct plt_io_op *iop)
{
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return io->img->drv->resize(io->img, io->len, io->preallocation, &iop->err);
}

/* Where what must read as zeros, and might not, ends. */
static uint64_t zero_end(const struct plt_io *io, uint64_t old)
{
	const struct plt_image *below = io->eng->backing;
	uint64_t unit_end = plt_align_up(old, io->img->alloc_unit);
	/* (a backing file that was not opened may be as long as it likes) */
	uint64_t below_end = below ? atomic_load(&below->size) : io->img->has_backing ? UINT64_MAX : 0;

	return PLT_MIN(io->len, PLT_MAX(unit_end, below_end));
}

static void zero(struct plt_io *io, uint64_t from, uint64_t end)
{
	struct plt_io *c;

	if (end <= from)
		return;
	c = plt_io_child(io, io->img, PLT_IO_ZERO_REQ, from, end - from);
	if (!c)
		return;
	c->flags = PLT_ZERO_UNMAP;
	plt_io_start(c);
}

/* Does the last cluster of what has shrunk hold anything behind the end? */
static int look_at_tail(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_run v[PLT_IO_RUNS];
	struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };
	uint64_t end = PLT_MIN(plt_align_up(io->len, io->img->alloc_unit), io->pos);
	int r = 0;

	io->part_zero = true;
	io->part_end = end;
	if (end > io->len)
		r = plt_image_map_inside(io->img, io->len, end - io->len, &runs, &iop->err);
	for (unsigned i = 0; r == 0 && i < runs.n; i++)
		if (v[i].kind == PLT_RUN_DATA || v[i].kind == PLT_RUN_COMPRESSED)
			io->part_zero = false;
	return r;
}

/* The size may be another one when the gate has closed: it is looked at before and after. */
static bool refused(struct plt_io *io)
{
	uint64_t old = atomic_load(&io->img->size);
	struct plt_error err = PLT_ERROR_INIT;
	int r = 0;

	if (!io->img->drv->resize)
		r = plt_error_set(&err, ENOTSUP, "'%s': images of the format %s cannot be resized", io->img->name,
				  io->img->drv->name);
	else if (io->len < old && !(io->flags & PLT_RESIZE_SHRINK))
		r = plt_error_set(&err, EINVAL, "'%s': the disk has %" PRIu64 " bytes, and to shrink it to %" PRIu64
				  " was not asked for", io->img->name, old, io->len);
	else if (io->len < old && io->preallocation && strcmp(io->preallocation, "off"))
		r = plt_error_set(&err, ENOTSUP, "Preallocation can't be used for shrinking an image");
	if (r < 0)
		plt_io_fail(io, r, &err);
	return r < 0;
}

/* io->len: the new size; io->pos: the old one, once the gate is closed. */
void plt_resize_step(struct plt_io *io)
{
	int r;

	while (!io->pending) {
		if (io->result && io->state == TAIL_ZERO)
			io->state = TAIL_DONE;
		if (io->result && io->state != TAIL_DONE)
			io->state = END;
		switch (io->state) {
		case START:
			if (refused(io))
				break;
			r = plt_io_take_image(io, 2, true, true);
			if (r == 0)
				return;
			io->state = GROW;
			break;
		case GROW:
			io->pos = atomic_load(&io->img->size);
			io->state = ZERO;
			if (refused(io))
				break;
			if (io->len <= io->pos || !io->img->drv->grow) {
				io->state = COMMIT;
				break;
			}
			plt_io_call(io, grow, NULL);
			return;
		case ZERO:
			io->state = COMMIT;
			io->shown = true;
			atomic_store(&io->img->size, io->len);
			io->pending++;
			zero(io, io->pos, zero_end(io, io->pos));
			io->pending--;
			break;
		case COMMIT:
			io->state = io->len < io->pos && io->img->drv->grow && io->img->data == io->img->file ? TAIL_LOOK :
														END;
			plt_io_call(io, commit, NULL);
			return;
		case TAIL_LOOK:
			io->state = TAIL_ZERO;
			plt_io_call(io, look_at_tail, NULL);
			return;
		case TAIL_ZERO:
			io->state = TAIL_DONE;
			if (io->part_zero)
				break;
			atomic_store(&io->img->size, io->part_end);
			io->pending++;
			zero(io, io->len, io->part_end);
			io->pending--;
			break;
		case TAIL_DONE:
			/* it is smaller, and nothing shows what lies there as long as it is */
			io->result = 0;
			io->err.code = 0;
			atomic_store(&io->img->size, io->len);
			io->state = END;
			break;
		default:
			if (io->result && io->shown)
				atomic_store(&io->img->size, io->pos);
			plt_io_finish(io);
			return;
		}
	}
}

int plt_resize(struct plt_disk *disk, uint64_t size, unsigned flags, const char *preallocation,
	       struct plt_error *err)
{
	struct plt_image *img = disk->top;

	if (size > INT64_MAX - 511)
		return plt_error_set(err, EFBIG, "'%s': a disk of %" PRIu64 " bytes is too large", img->name, size);
	return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_RESIZE_REQ, .flags = flags,
							   .len = plt_align_up(size, 512),
							   .preallocation = preallocation }, err);
}
