/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The flush frame: everything that completed before it began is durable when it completes.  What
 * waits in limbo is released on the way, since the flush has just made its removal durable.
 */
#include "block/engine.h"

int plt_image_flush(struct plt_image *img, struct plt_error *err)
{
	return plt_meta_flush(img, true, err);
}

static int flush(struct plt_io *io, struct plt_io_op *iop)
{
	return plt_image_flush(io->img, &iop->err);
}

void plt_flush_step(struct plt_io *io)
{
	bool limbo;

	if (io->pending)
		return;
	if (io->result || io->flags || !io->img->writable) {
		plt_io_finish(io);
		return;
	}
	io->flags = 1;
	pthread_mutex_lock(&io->img->lock);
	limbo = io->eng->nlimbo != 0;
	pthread_mutex_unlock(&io->img->lock);
	if (limbo)
		plt_io_drain_limbo(io); /* begins with the same flush */
	else
		plt_io_call(io, flush, NULL);
}
