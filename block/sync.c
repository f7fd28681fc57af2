/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The blocking calls: one request on a queue with an inline ring, run by the calling thread to its
 * end.  The same frames as every other request, so there is one data path.
 */
#include <assert.h>
#include <string.h>

#include "block/codec.h"
#include "block/engine.h"

struct call {
	bool done;
	int result;
	struct plt_error *err;
};

static void call_done(struct plt_io *io)
{
	struct call *c = io->arg;

	c->done = true;
	c->result = io->result;
	if (io->result && c->err) {
		if (io->err.code)
			*c->err = io->err;
		else
			plt_error_errno(c->err, -io->result, "'%s'", io->img->name);
	}
}

int plt_run_request(struct plt_image *img, const struct plt_request *r, struct plt_error *err)
{
	struct call c = { false, 0, err };
	struct plt_queue *q = plt_ctx_take_queue(img->ctx);
	struct plt_io *io;

	assert(!plt_queue_busy_with(img)); /* it could wait for itself: see struct plt_queue */
	io = q ? plt_io_new(q, NULL, img, r->kind) : NULL;
	if (!io) {
		if (q)
			plt_ctx_give_queue(img->ctx, q);
		if (r->on_place)
			r->on_place(r->on_place_arg);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	io->off = io->pos = r->off;
	io->len = r->len;
	io->iov = r->iov;
	io->niov = r->niov;
	io->flags = r->flags;
	io->level = r->level;
	io->preallocation = r->preallocation;
	io->exclusive = r->exclusive;
	io->exclusive_arg = r->exclusive_arg;
	io->on_place = r->on_place;
	io->on_place_arg = r->on_place_arg;
	io->done = call_done;
	io->arg = &c;
	plt_io_start(io);
	while (!c.done)
		plt_queue_poll(q, true);
	plt_ctx_give_queue(img->ctx, q);
	/* writethrough: what was changed is durable, with the entries that lead to it, when the call returns */
	if (c.result == 0 && img->file->writethrough && r->kind != PLT_IO_READ_REQ && r->kind != PLT_IO_FLUSH_REQ)
		return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_FLUSH_REQ }, err);
	return c.result;
}

int plt_image_check_range(struct plt_image *img, uint64_t off, uint64_t len, struct plt_error *err)
{
	uint64_t size = atomic_load(&img->size);

	if (!plt_in_range(off, len, size))
		return plt_error_set(err, EIO, "'%s': the range %" PRIu64 "+%" PRIu64 " is beyond the disk's end (%"
				     PRIu64 ")", img->name, off, len, size);
	return 0;
}

static int transfer(struct plt_image *img, enum plt_io_kind kind, uint64_t off, const struct iovec *iov, int niov,
		    struct plt_error *err)
{
	size_t len = plt_iov_len(iov, niov);
	int r = plt_image_check_range(img, off, len, err);

	if (r < 0 || !len)
		return r;
	r = plt_run_request(img, &(struct plt_request){ .kind = kind, .off = off, .len = len, .iov = iov,
							.niov = niov }, err);
	if (r < 0 && r != -ENOMEM && plt_rescue_helps(img))
		return plt_rescue_read(img, off, len, iov, niov, err);
	return r;
}

int plt_readv(struct plt_disk *disk, uint64_t off, const struct iovec *iov, int niov, struct plt_error *err)
{
	return transfer(disk->top, PLT_IO_READ_REQ, off, iov, niov, err);
}

int plt_writev(struct plt_disk *disk, uint64_t off, const struct iovec *iov, int niov, struct plt_error *err)
{
	return transfer(disk->top, PLT_IO_WRITE_REQ, off, iov, niov, err);
}

int plt_read(struct plt_disk *disk, uint64_t off, void *buf, size_t len, struct plt_error *err)
{
	return plt_readv(disk, off, &(struct iovec){ buf, len }, 1, err);
}

int plt_write(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, struct plt_error *err)
{
	return plt_writev(disk, off, &(struct iovec){ (void *)(uintptr_t)buf, len }, 1, err);
}

int plt_write_placed(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, void (*placed)(void *arg),
		     void *arg, struct plt_error *err)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };
	int r = plt_image_check_range(disk->top, off, len, err);

	if (r < 0 || !len) {
		placed(arg);
		return r;
	}
	return plt_run_request(disk->top, &(struct plt_request){ .kind = PLT_IO_WRITE_REQ, .off = off, .len = len,
								 .iov = &iov, .niov = 1, .on_place = placed,
								 .on_place_arg = arg }, err);
}

static int change(struct plt_disk *disk, enum plt_io_kind kind, uint64_t off, uint64_t len, unsigned flags,
		  struct plt_error *err)
{
	int r = plt_image_check_range(disk->top, off, len, err);

	if (r < 0 || !len)
		return r;
	return plt_run_request(disk->top, &(struct plt_request){ .kind = kind, .off = off, .len = len,
								 .flags = flags }, err);
}

int plt_write_zeroes(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned flags, struct plt_error *err)
{
	return change(disk, PLT_IO_ZERO_REQ, off, len, flags, err);
}

int plt_discard(struct plt_disk *disk, uint64_t off, uint64_t len, struct plt_error *err)
{
	return change(disk, PLT_IO_DISCARD_REQ, off, len, 0, err);
}

int plt_disk_uncover(struct plt_disk *disk, uint64_t off, uint64_t len, struct plt_error *err)
{
	if (!disk->top->drv->uncover)
		return plt_error_set(err, ENOTSUP, "'%s': images of the format %s cannot give up clusters for those below", disk->top->name,
				     disk->top->drv->name);
	return change(disk, PLT_IO_DISCARD_REQ, off, len, PLT_IO_UNCOVER, err);
}

int plt_image_check_compressed(struct plt_disk *disk, uint64_t off, uint64_t len, unsigned *ret_codec,
			       struct plt_error *err)
{
	struct plt_image *img = disk->top;
	uint32_t unit = plt_disk_cluster_size(disk);
	enum plt_codec codec = img->drv->codec ? img->drv->codec(img) : PLT_CODEC_NONE;

	if (codec == PLT_CODEC_NONE || !unit)
		return plt_error_set(err, ENOTSUP, "'%s': compression is not supported here", img->name);
	if (len && (!plt_is_aligned(off, unit) || len > unit || (len < unit && off + len != atomic_load(&img->size))))
		return plt_error_set(err, EINVAL, "'%s': a compressed write must be one whole cluster", img->name);
	*ret_codec = codec;
	return 0;
}

int plt_write_compressed(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, int level,
			 struct plt_error *err)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };
	unsigned codec;
	int r = plt_image_check_range(disk->top, off, len, err);

	if (r == 0)
		r = plt_image_check_compressed(disk, off, len, &codec, err);
	if (r < 0 || !len)
		return r;
	return plt_run_request(disk->top, &(struct plt_request){ .kind = PLT_IO_COMPRESSED_REQ, .off = off,
								 .len = len, .iov = &iov, .niov = 1,
								 .flags = codec, .level = level }, err);
}

int plt_image_exclusive(struct plt_image *img, bool reads_pass,
			int (*fn)(struct plt_image *img, void *arg, struct plt_error *err), void *arg,
			struct plt_error *err)
{
	return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_EXCLUSIVE_REQ, .exclusive = fn,
							   .exclusive_arg = arg,
							   .flags = reads_pass ? PLT_IO_READS_PASS : 0 }, err);
}

int plt_flush(struct plt_disk *disk, struct plt_error *err)
{
	return plt_run_request(disk->top, &(struct plt_request){ .kind = PLT_IO_FLUSH_REQ }, err);
}
