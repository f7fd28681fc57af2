/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The flush frame: everything that completed before it began is durable when it completes.  What
 * waits in limbo is released on the way, since the flush has just made its removal durable.
 */
#include "block/engine.h"

static int flush(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_image *img = io->img;
	int r = 0;

	if (img->drv->flush)
		r = img->drv->flush(img, &iop->err);
	if (r == 0 && img->slice)
		r = plt_meta_flush(img, true, &iop->err);
	return r;
}

void plt_flush_step(struct plt_io *io)
{
	bool limbo;

	if (io->pending)
		return;
	if (io->result || io->flags) {
		plt_io_finish(io);
		return;
	}
	if (!io->img->writable) {
		plt_io_finish(io);
		return;
	}
	io->flags = 1;
	pthread_mutex_lock(&io->img->lock);
	limbo = io->eng->nlimbo != 0;
	pthread_mutex_unlock(&io->img->lock);
	if (limbo && !io->img->drv->flush)
		plt_io_drain_limbo(io);
	else
		plt_io_call(io, flush, NULL);
}
