/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* What exclusive.h declares: a frame that closes the gate, drains, holds it, and goes. */
#include "tests/block/exclusive.h"

static int nothing(struct plt_io *io, struct plt_io_op *iop)
{
	(void)io;
	(void)iop;
	return 0;
}

static void exclusive_done(struct plt_io *io)
{
	struct exclusive *x = io->arg;

	x->done = true;
}

static void exclusive_step(struct plt_io *io)
{
	struct exclusive *x = io->arg;

	if (io->pending)
		return;
	switch (io->state) {
	case 0:
		if (x->level) {
			if (!plt_gate_close(io->eng, io, x->level))
				return;
			io->owns_gate = true;
		}
		io->state = 1;
		/* fall through */
	case 1:
		io->state = 2;
		if (!plt_epoch_drained(io->eng, io))
			return;
		/* fall through */
	case 2:
		io->state = 3;
		x->held = true;
		x->seen++;
		plt_io_call(io, nothing, NULL);
		return;
	default:
		x->held = false;
		plt_io_finish(io);
	}
}

void exclusive_start(struct plt_queue *q, struct plt_image *img, struct exclusive *x, int level)
{
	struct plt_io *io = plt_io_new(q, NULL, img, PLT_IO_RESIZE_REQ);

	memset(x, 0, sizeof(*x));
	x->io = io;
	x->level = level;
	io->step = exclusive_step;
	io->done = exclusive_done;
	io->arg = x;
	plt_io_start(io);
}
