/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * An open image as a store: the guest's bytes of one image are the file of another.  All operations
 * are blocking requests on the inner image, run by the calling thread itself, so they never wait
 * behind a pool that is full of outer requests.  The store's sync is the inner image's flush.
 */
#include "block/engine.h"

static struct plt_image *image_of(struct plt_store *st)
{
	return st->priv;
}

static void is_close(struct plt_store *st)
{
	(void)plt_image_close(image_of(st), NULL); /* whoever needs to know has synced before */
}

static int is_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	(void)err;
	*ret = atomic_load(&image_of(st)->size);
	return 0;
}

static int is_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		   struct plt_error *err)
{
	uint64_t size = atomic_load(&image_of(st)->size);
	size_t len = plt_iov_len(iov, niov), n = off >= size ? 0 : (size_t)PLT_MIN((uint64_t)len, size - off);

	(void)tag;
	if (n < len) {
		plt_iov_zero(iov, niov, n, len - n);
		if (!n)
			return 0;
	}
	/* frames take what their length says from the front of the iovec */
	return plt_run_request(image_of(st), &(struct plt_request){ .kind = PLT_IO_READ_REQ, .off = off, .len = n,
								    .iov = iov, .niov = niov }, err);
}

static int is_change(struct plt_store *st, enum plt_io_kind kind, uint64_t off, uint64_t len,
		     const struct iovec *iov, int niov, unsigned flags, struct plt_error *err)
{
	uint64_t size = atomic_load(&image_of(st)->size);

	if (!plt_in_range(off, len, size))
		return plt_error_set(err, ENOSPC, "'%s': the disk inside is full (%" PRIu64 " bytes)", st->name, size);
	return plt_run_request(image_of(st), &(struct plt_request){ .kind = kind, .off = off, .len = len, .iov = iov,
								    .niov = niov, .flags = flags }, err);
}

static int is_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		    struct plt_error *err)
{
	(void)tag;
	return is_change(st, PLT_IO_WRITE_REQ, off, plt_iov_len(iov, niov), iov, niov, 0, err);
}

static int is_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags, enum plt_io_tag tag,
		   struct plt_error *err)
{
	(void)tag;
	return is_change(st, PLT_IO_ZERO_REQ, off, len, NULL, 0, flags & PLT_ZERO_MAY_UNMAP ? PLT_ZERO_UNMAP : 0, err);
}

static int is_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	return is_change(st, PLT_IO_DISCARD_REQ, off, len, NULL, 0, 0, err);
}

static int is_sync(struct plt_store *st, struct plt_error *err)
{
	return plt_run_request(image_of(st), &(struct plt_request){ .kind = PLT_IO_FLUSH_REQ }, err);
}

static const struct plt_store_ops image_store_ops = {
	.kind = "image",
	.close = is_close,
	.size = is_size,
	.read = is_read,
	.write = is_write,
	.zero = is_zero,
	.discard = is_discard,
	.sync = is_sync,
};

int plt_image_store_new(struct plt_image *img, struct plt_store **ret)
{
	struct plt_store *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return -ENOMEM;
	r = plt_store_init(st, &image_store_ops, img->name);
	if (r < 0) {
		free(st);
		return r;
	}
	st->priv = img;
	st->readonly = !img->writable;
	st->limits = (struct plt_limits){ .align = 1, .atomic = 512, .max_io = UINT64_C(1) << 30,
					  .zero_is_fast = true };
	*ret = st;
	return 0;
}

struct plt_image *plt_image_of_store(struct plt_store *st)
{
	return st->ops == &image_store_ops ? image_of(st) : NULL;
}
