/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The state of a virtual machine, which an image keeps behind the end of its disk, where no guest sees it.
 * Such a request has the image for itself, as a resize has: for as long as it runs the disk reaches to the
 * end of what is read or written, and child frames, which the closed gate lets pass, do the rest as for any
 * other data.  It is not made for speed.
 */
#include "block/engine.h"

enum { START, ROOM, MOVE, MOVED, END };

static uint64_t vmstate_end(const struct plt_io *io)
{
	return plt_align_up(io->off + io->len, 512);
}

static int make_room(struct plt_io *io, struct plt_io_op *iop)
{
	PLT_LOCK_SCOPE(&io->eng->work_lock);
	return io->img->drv->vm_state_room(io->img, vmstate_end(io), &iop->err);
}

static void move(struct plt_io *io)
{
	struct plt_io *c = plt_io_child(io, io->img, io->flags & PLT_IO_VMSTATE_WRITE ? PLT_IO_WRITE_REQ : PLT_IO_READ_REQ,
					io->off, io->len);

	if (!c)
		return;
	c->iov = io->iov;
	c->niov = io->niov;
	plt_io_start(c);
}

/* io->pos: the disk's size, while it is another. */
void plt_vmstate_step(struct plt_io *io)
{
	bool write = io->flags & PLT_IO_VMSTATE_WRITE;
	int r;

	while (!io->pending) {
		if (io->result && io->state < MOVED)
			io->state = io->shown ? MOVED : END;
		switch (io->state) {
		case START:
			r = plt_io_take_image(io, 2, write, false);
			if (r == 0)
				return;
			io->state = ROOM;
			break;
		case ROOM:
			io->state = MOVE;
			if (!write)
				break;
			plt_io_call(io, make_room, NULL);
			return;
		case MOVE:
			io->state = MOVED;
			io->pos = atomic_load(&io->img->size);
			io->shown = true;
			atomic_store(&io->img->size, PLT_MAX(io->pos, vmstate_end(io)));
			io->pending++;
			move(io);
			io->pending--;
			break;
		case MOVED:
			atomic_store(&io->img->size, io->pos);
			io->state = END;
			break;
		default:
			plt_io_finish(io);
			return;
		}
	}
}

static int vmstate(struct plt_disk *disk, uint64_t off, void *buf, size_t len, bool write, struct plt_error *err)
{
	struct plt_image *img = disk->top;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	uint64_t at;

	if (!img->drv->vm_state_offset || !img->drv->vm_state_room)
		return plt_error_set(err, ENOTSUP, "'%s': images of the format %s keep no state of a virtual machine",
				     img->name, img->drv->name);
	if (write && !img->writable)
		return plt_error_set(err, EBADF, "'%s' is not open for writing", img->name);
	if (plt_add(img->drv->vm_state_offset(img), off, &at) || len > INT64_MAX - 512 || at > INT64_MAX - 512 - len)
		return plt_error_set(err, EFBIG, "'%s': state at %" PRIu64 " is too far behind the disk", img->name, off);
	if (!len)
		return 0;
	return plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_VMSTATE_REQ, .off = at, .len = len, .iov = &iov,
							   .niov = 1, .flags = write ? PLT_IO_VMSTATE_WRITE : 0 }, err);
}

int plt_read_vmstate(struct plt_disk *disk, uint64_t off, void *buf, size_t len, struct plt_error *err)
{
	return vmstate(disk, off, buf, len, false, err);
}

int plt_write_vmstate(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, struct plt_error *err)
{
	return vmstate(disk, off, (void *)(uintptr_t)buf, len, true, err);
}
