/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The read frame: map, submit one operation a run, go on mapping, complete when all are in.  Holds its
 * image's epoch from map to completion, and nothing else across I/O: pins are dropped as soon as a
 * map has answered, because the epoch is what keeps the answer true.  What is not here is read by a
 * child frame on the backing image.
 */
#include "base/alloc.h"
#include "block/codec.h"
#include "block/engine.h"

static void read_data(struct plt_io *io, const struct plt_run *run)
{
	uint64_t done = 0;

	while (done < run->len && !io->result) {
		struct plt_store *st = run->store;
		uint64_t off = run->host_off + done, n = run->len - done;

		if (plt_store_resolve(st, off, n, &st, &off, &n) < 0) {
			st = run->store;
			off = run->host_off + done;
			n = run->len - done;
		}
		plt_io_submit_data(io, PLT_OP_READ, st, off, run->off + done, n, io->tag);
		done += n;
	}
}

/* What the layer @b below has of [off, +len); @skipped layers between it and the image at the top say nothing of it. */
static void read_below(struct plt_io *io, struct plt_image *b, uint64_t off, uint64_t len, unsigned skipped, bool learns)
{
	uint64_t size = b ? atomic_load(&b->size) : 0;
	uint64_t n = off >= size ? 0 : PLT_MIN(len, size - off);
	struct plt_io *c;

	if (n < len) /* beyond the end of the layer below */
		plt_iov_zero(io->iov, io->niov, io->iov_off + (size_t)(off + n - io->off), (size_t)(len - n));
	if (!n)
		return;
	c = plt_io_child(io, b, PLT_IO_READ_REQ, off, n);
	if (!c)
		return;
	c->iov = io->iov;
	c->niov = io->niov;
	c->iov_off = io->iov_off + (size_t)(off - io->off);
	c->tag = io->tag;
	c->top = io->top ? io->top : io->eng;
	c->skipped = skipped;
	c->learns = learns;
	plt_io_start(c);
}

static void read_backing(struct plt_io *io, const struct plt_run *run)
{
	uint64_t off = run->off, len = run->len, n;

	if (!io->eng->backing && io->eng->rescue && io->eng->rescue->base_gone) {
		plt_rescue_lose(io, off, len, PLT_WHY_BASE);
		return;
	}
	if (io->top) {
		bool learns = plt_skip_learn(io, run);

		read_below(io, io->eng->backing, off, len, io->skipped + 1, learns);
		return;
	}
	for (; len && !io->result; off += n, len -= n) {
		struct plt_image *b;
		unsigned skipped = plt_skip_find(io, off, len, &b, &n);

		read_below(io, b, off, n, skipped, plt_skip_may_learn(io, off, n));
	}
}

/* The frame's own memory for all of the unit, if the unit is wanted whole and lies in one piece there. */
static uint8_t *whole_unit(const struct plt_io *io, const struct plt_run *run)
{
	size_t at = io->iov_off + (size_t)(run->off - io->off);
	struct iovec v;

	if (run->len != run->unit_len || plt_iov_slice_count(io->iov, io->niov, at, run->unit_len) != 1)
		return NULL;
	plt_iov_slice(io->iov, io->niov, at, run->unit_len, &v);
	return v.iov_base;
}

static int inflate_unit(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_run *run = &iop->run;
	size_t skip = (size_t)(run->off - run->unit_off);
	uint8_t *direct = whole_unit(io, run);
	PLT_AUTOFREE uint8_t *own = direct ? NULL : plt_alloc_io(run->unit_len);
	uint8_t *unit = direct ? direct : own;
	size_t good;
	int read, r = unit ? plt_unit_decode(run, io->eng->rescue, unit, &good, &read, &iop->err) : -ENOMEM;

	if (!unit || read < 0)
		return r;
	if (r < 0 && r != -ENOMEM && io->eng->rescue) {
		r = plt_rescue_unit(io, run, unit, good, &iop->err);
		if (r < 0)
			return r;
	} else if (r < 0)
		return plt_error_set(&iop->err, -r, "'%s': compressed cluster at %#" PRIx64
				     " (guest offset %#" PRIx64 ") is damaged", io->img->name,
				     run->host_off, run->unit_off);
	if (!direct)
		plt_iov_from_buf(io->iov, io->niov, io->iov_off + (size_t)(run->off - io->off), unit + skip,
				 (size_t)run->len);
	return 0;
}

static void read_compressed(struct plt_io *io, const struct plt_run *run)
{
	struct plt_io_op *iop = plt_io_op_new(io, NULL);

	if (!iop)
		return;
	iop->run = *run;
	iop->work = inflate_unit;
	iop->op.kind = PLT_OP_CALL;
	iop->op.call = plt_io_op_call;
	plt_io_op_submit(iop);
}

/* Chains are deep and each layer has a frame on the stack: texts are made elsewhere. */
static __attribute__((noinline)) void damaged(struct plt_io *io, const struct plt_run *run)
{
	struct plt_error err = PLT_ERROR_INIT;

	plt_error_set(&err, EIO, "'%s': the mapping of guest offset %#" PRIx64 " is damaged", io->img->name, run->off);
	plt_io_fail(io, EIO, &err);
}

/* What of it is there, part by part. */
static __attribute__((noinline)) void read_parts(struct plt_io *io, const struct plt_run *run)
{
	struct plt_run part = *run, next;

	for (; part.len && !io->result; part = next) {
		part.len = plt_rescue_run(io, &part, &next);
		if (part.len && part.cipher)
			plt_io_read_cipher(io, &part);
		else if (part.len)
			read_data(io, &part);
		io->all_zero &= !part.len;
	}
}

static void read_run(struct plt_io *io, const struct plt_run *run)
{
	if (io->eng->rescue && (run->kind == PLT_RUN_DATA || run->kind == PLT_RUN_DAMAGED)) {
		read_parts(io, run);
		return;
	}
	switch (run->kind) {
	case PLT_RUN_DATA:
		io->all_zero = false;
		if (run->cipher) {
			plt_io_read_cipher(io, run);
			return;
		}
		read_data(io, run);
		return;
	case PLT_RUN_COMPRESSED:
		io->all_zero = false;
		read_compressed(io, run);
		return;
	case PLT_RUN_ZERO:
		plt_iov_zero(io->iov, io->niov, io->iov_off + (size_t)(run->off - io->off), (size_t)run->len);
		return;
	case PLT_RUN_ABSENT:
		read_backing(io, run);
		return;
	case PLT_RUN_DAMAGED:
		damaged(io, run);
		return;
	}
}

/* As damaged(): the text of a failed map must not lie on the stack while the layers below run. */
static __attribute__((noinline)) int map_here(struct plt_io *io, uint64_t end)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r = io->img->drv->map(io->img, &io->pins, io->pos, end - io->pos, &io->runs, &io->need, &err);

	if (r < 0 && r != -EAGAIN)
		plt_io_fail(io, r, &err);
	return r;
}

void plt_read_step(struct plt_io *io)
{
	uint64_t end = io->off + io->len;
	int r;

	if (io->eng->copy_on_read && plt_copies_on_read(io)) {
		io->step = plt_copy_on_read_step;
		plt_copy_on_read_step(io);
		return;
	}
	if (io->pending || !plt_io_enter(io))
		return;
	io->pending++; /* so that completions inside the loop do not finish the frame */
	while (io->pos < end && !io->result) {
		uint64_t upto = end;

		if (io->eng->rescue) {
			upto = plt_rescue_upto(io, end);
			if (io->pos >= upto)
				continue; /* it has failed, or is through */
		}
		io->runs.n = 0;
		r = map_here(io, upto);
		if (r == -EAGAIN) {
			/* a need is met with nothing under way: then the frame waits for one thing only */
			if (--io->pending == 0)
				plt_io_meet(io);
			return;
		}
		if (r < 0)
			break;
		plt_pins_drop(&io->pins);
		for (unsigned i = 0; i < io->runs.n && !io->result; i++) {
			read_run(io, &io->run[i]);
			io->pos = io->run[i].off + io->run[i].len;
		}
	}
	if (--io->pending == 0)
		plt_io_finish(io);
}
