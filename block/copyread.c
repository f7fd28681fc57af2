/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Copy-on-read: what a read would find in a layer below is first brought into the image, in whole units,
 * and then the read goes on as any other.  Bringing in is a write frame (write.c) that changes no guest
 * byte: with the range lock held it reads what the guest sees there, and places that only where nothing
 * is mapped, so that no write beside it is undone.  Zeros become a mark where the format has one.
 *
 * A read that fails to bring in fails; after a failed sync nothing is brought in, and reads go on.
 */
#include "base/alloc.h"
#include "base/zero.h"
#include "block/engine.h"

#define PIECE (UINT64_C(1) << 20) /* brought in at once, or one unit */

/* ---- the read -------------------------------------------------------------------------------- */

bool plt_copies_on_read(const struct plt_io *io)
{
	/* (parts of other requests on the same image read what they want themselves) */
	return !io->copied && !(io->parent && io->parent->eng == io->eng) &&
	       plt_store_check_writable(io->img->file, NULL) == 0;
}

static int map_at(struct plt_io *io, uint64_t off, uint64_t end, struct plt_error *err)
{
	io->runs.n = 0;
	return io->img->drv->map(io->img, &io->pins, off, end - off, &io->runs, &io->need, err);
}

/* From @off up to @end at most: a part of one allocation unit, or whole ones. */
static uint64_t part_end(const struct plt_image *img, uint64_t off, uint64_t end)
{
	uint64_t alloc = img->alloc_unit, next = plt_align_down(off, alloc) + alloc;

	if (off % alloc || end <= next)
		return PLT_MIN(end, next);
	return end == atomic_load(&img->size) ? end : plt_align_down(end, alloc);
}

/*
 * From io->pos on, the first range that is not here, as far as one piece goes: whole units where all of
 * them is absent.  *ret_off == *ret_end: there is none up to there.
 */
static int find_absent(struct plt_io *io, uint64_t *ret_off, uint64_t *ret_end, struct plt_error *err)
{
	uint64_t size = atomic_load(&io->img->size), alloc = io->img->alloc_unit;
	uint64_t end = PLT_MIN(plt_align_up(io->off + io->len, alloc), size), off = io->pos, lead;
	int r = map_at(io, off, end, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < io->runs.n; i++) {
		off = io->run[i].off;
		*ret_off = *ret_end = off + io->run[i].len;
		if (io->run[i].kind == PLT_RUN_ABSENT)
			break;
	}
	end = *ret_end;
	if (off == end || io->run[io->runs.n - 1].kind != PLT_RUN_ABSENT)
		return 0;
	lead = plt_align_down(off, alloc);
	if (lead < off) {
		r = map_at(io, lead, off, err);
		if (r < 0)
			return r;
		if (io->runs.n == 1 && io->run[0].kind == PLT_RUN_ABSENT && io->run[0].len == off - lead)
			off = lead;
	}
	*ret_end = part_end(io->img, off, PLT_MIN(end, off + PLT_MAX(PIECE, alloc)));
	*ret_off = off;
	return 0;
}

void plt_copy_on_read_step(struct plt_io *io)
{
	uint64_t end = io->off + io->len, from = 0, to = 0;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_io *c;
	int r;

	while (!io->pending) {
		if (io->result) {
			plt_io_finish(io);
			return;
		}
		if (io->pos >= end) {
			io->copied = true;
			io->pos = io->off;
			io->step = plt_read_step;
			plt_read_step(io);
			return;
		}
		if (!plt_io_enter(io))
			return;
		if (io->result)
			continue;
		r = find_absent(io, &from, &to, &err);
		if (r == -EAGAIN) {
			plt_io_meet(io);
			return;
		}
		plt_pins_drop(&io->pins);
		plt_io_leave(io); /* what is brought in takes the range lock, and may wait at the gate */
		if (r < 0) {
			plt_io_fail(io, r, &err);
			continue;
		}
		io->pos = to;
		if (from == to)
			continue;
		io->pending++;
		c = plt_io_child(io, io->img, PLT_IO_COPY_REQ, from, to - from);
		if (c)
			plt_io_start(c);
		io->pending--;
	}
}

/* ---- one piece ------------------------------------------------------------------------------- */

/* With the range lock held: from there to the placing nobody else changes what is mapped. */
void plt_copy_fetch(struct plt_io *io)
{
	struct plt_io *c;

	if (!io->copy_buf)
		io->copy_buf = plt_alloc_io((size_t)io->len);
	if (!io->copy_buf) {
		plt_io_fail(io, ENOMEM, NULL);
		return;
	}
	io->copy_iov = (struct iovec){ io->copy_buf, (size_t)io->len };
	io->iov = &io->copy_iov;
	io->niov = 1;
	io->pending++;
	c = plt_io_child(io, io->img, PLT_IO_READ_REQ, io->off, io->len);
	if (c) {
		c->iov = io->iov;
		c->niov = 1;
		c->tag = PLT_IO_COW;
		plt_io_start(c);
	}
	io->pending--;
}

/* Where the image says nothing it says zeros from now on; what has been written there meanwhile stays. */
static int mark_absent(struct plt_io *io, struct plt_io_op *iop)
{
	uint64_t off = io->pos, end = io->off + io->len, size = atomic_load(&io->img->size);
	uint64_t unit = io->img->zero_unit ? io->img->zero_unit : io->img->alloc_unit, done;
	struct plt_run v[PLT_IO_RUNS];
	int r = 0;

	while (r == 0 && off < end) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };

		r = plt_image_map_inside(io->img, off, end - off, &runs, &iop->err);
		for (unsigned i = 0; r == 0 && i < runs.n; i++) {
			uint64_t stop = v[i].off + v[i].len, n;

			off = v[i].off;
			if (v[i].kind == PLT_RUN_ABSENT && (off % unit || (stop % unit && stop != size)))
				return -ENOTSUP;
			for (; v[i].kind == PLT_RUN_ABSENT && r == 0 && off < stop; off += n) {
				n = part_end(io->img, off, stop) - off;
				r = io->img->drv->write_zeroes(io->img, off, n, false, &done, &io->need, &iop->err);
			}
			off = stop;
		}
	}
	return r;
}

static void marked(struct plt_io *io, struct plt_io_op *iop)
{
	io->units_result = iop->op.result;
	/* a need or a refusal is no failure of the request */
	if (io->result == -EAGAIN || io->result == -ENOTSUP) {
		io->result = 0;
		io->err.code = 0;
	}
}

void plt_copy_zero(struct plt_io *io)
{
	io->units_result = -ENOTSUP;
	if (io->img->drv->write_zeroes && plt_is_zero(io->copy_buf, (size_t)io->len))
		plt_io_call(io, mark_absent, marked);
}
