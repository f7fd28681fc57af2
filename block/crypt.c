/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Encrypted data between the guest's memory and a store.  Reads go straight to where the guest wants
 * them and are decrypted there; writes are encrypted into memory of their own, so that nobody ever sees
 * the guest's buffers change.  Both are cut into pieces, each a work item for the ring, so that one long
 * request keeps all cores busy and takes bounded memory (the callers keep to PLT_CIPHER_WINDOW).
 *
 * The unit is a sector of 512 bytes: a write of a part of one reads, decrypts and encrypts it again.  The
 * caller holds the range lock of all sectors that it touches (write.c), so no other write comes between.
 * A reader of other bytes of that sector is not held off; what it reads meanwhile is right in the modes
 * that encrypt each block by itself (xts, ecb, ctr), and undefined in cbc, where a sector is one chain.
 */
#include <string.h>

#include "base/alloc.h"
#include "block/engine.h"
#include "crypt/cipher.h"

#define PIECE (UINT64_C(512) << 10) /* long enough that its overhead does not matter */
#define SMALL (UINT64_C(128) << 10) /* read and decrypted at once: it is still in the cache then */

/* ---- reading --------------------------------------------------------------------------------- */

static int decrypt(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_run *run = &iop->run;
	uint64_t sector = run->iv_sector;
	int r = 0;

	for (int i = 0; i < iop->op.niov && r == 0; i++) {
		const struct iovec *v = &iop->op.iov[i];

		r = plt_cipher_decrypt(run->cipher, sector, v->iov_base, v->iov_base, v->iov_len);
		sector += v->iov_len / PLT_SECTOR;
	}
	if (r < 0)
		return plt_error_set(&iop->err, -r, "'%s': guest offset %#" PRIx64 " could not be decrypted",
				     io->img->name, run->off);
	if (iop->buf)
		plt_iov_from_buf(io->iov, io->niov, io->iov_off + (size_t)(run->off - io->off),
				 (uint8_t *)iop->buf + run->off % PLT_SECTOR, (size_t)run->len);
	return 0;
}

/* The bytes are here: the same places, for a worker. */
static void read_done(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_io_op *work;

	if (iop->op.result < 0 || !(work = plt_io_op_new(io, NULL)))
		return;
	work->run = iop->run;
	memcpy(work->iov, iop->iov, sizeof(work->iov));
	work->iov_heap = plt_steal(&iop->iov_heap);
	work->buf = plt_steal(&iop->buf);
	work->op.iov = work->iov_heap ? work->iov_heap : work->iov;
	work->op.niov = iop->op.niov;
	work->op.kind = PLT_OP_CALL;
	work->op.call = plt_io_op_call;
	work->work = decrypt;
	plt_io_op_submit(work);
}

/* Blocking queues do both in one go. */
static int read_and_decrypt(struct plt_io *io, struct plt_io_op *iop)
{
	int r = plt_store_readv(iop->op.store, iop->op.off, iop->op.iov, iop->op.niov, PLT_IO_DATA, &iop->err);

	return r < 0 ? r : decrypt(io, iop);
}

static bool whole_sectors(const struct iovec *v, int n)
{
	for (int i = 0; i < n; i++)
		if (v[i].iov_len % PLT_SECTOR)
			return false;
	return true;
}

/* Where a piece is read to: the guest's memory if sectors lie whole in it, else memory of its own. */
static bool read_target(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_run *run = &iop->run;
	size_t at = io->iov_off + (size_t)(run->off - io->off), skip = run->off % PLT_SECTOR;
	int n = plt_iov_slice_count(io->iov, io->niov, at, (size_t)run->len);
	struct iovec *v = iop->iov;

	if (n > PLT_OP_IOVS && !(v = iop->iov_heap = malloc((size_t)n * sizeof(*v))))
		return false;
	iop->op.niov = plt_iov_slice(io->iov, io->niov, at, (size_t)run->len, v);
	iop->op.iov = v;
	iop->op.off = run->host_off;
	iop->op.len = run->len;
	if (!skip && whole_sectors(v, iop->op.niov))
		return true;
	iop->op.len = plt_align_up(skip + run->len, PLT_SECTOR);
	iop->op.off -= skip;
	iop->buf = plt_alloc_io((size_t)iop->op.len);
	if (!iop->buf)
		return false;
	free(iop->iov_heap);
	iop->iov_heap = NULL;
	iop->iov[0] = (struct iovec){ iop->buf, (size_t)iop->op.len };
	iop->op.iov = iop->iov;
	iop->op.niov = 1;
	return true;
}

void plt_io_read_cipher(struct plt_io *io, const struct plt_run *run)
{
	uint64_t done = 0, n;

	for (; done < run->len && !io->result; done += n) {
		struct plt_io_op *iop = plt_io_op_new(io, io->q->is_inline ? NULL : read_done);
		uint64_t off = run->off + done;
		struct plt_store *st;
		uint64_t at, len;

		if (!iop)
			return;
		/* pieces end where sectors end */
		n = PLT_MIN(run->len - done, (io->q->is_inline ? SMALL : PIECE) - off % PLT_SECTOR);
		iop->run = *run;
		iop->run.off = off;
		iop->run.len = n;
		iop->run.host_off = run->host_off + done;
		iop->run.iv_sector = run->iv_sector + (run->off % PLT_SECTOR + done) / PLT_SECTOR;
		if (!read_target(io, iop)) {
			plt_io_fail(io, ENOMEM, NULL);
			plt_io_op_drop(iop);
			return;
		}
		iop->op.kind = PLT_OP_READ;
		iop->op.tag = PLT_IO_DATA;
		iop->op.store = run->store;
		if (plt_store_resolve(run->store, iop->op.off, iop->op.len, &st, &at, &len) == 0 && len == iop->op.len) {
			iop->op.store = st;
			iop->op.off = at;
		}
		if (io->q->is_inline) {
			iop->op.kind = PLT_OP_CALL;
			iop->op.call = plt_io_op_call;
			iop->work = read_and_decrypt;
		}
		plt_io_op_submit(iop);
	}
}

/* ---- writing --------------------------------------------------------------------------------- */

/* What is to be written at [off, off+len): the request's own bytes, and around them what was copied. */
static void gather(const struct plt_io *io, uint64_t off, uint64_t len, uint64_t data, uint64_t data_end, uint8_t *buf)
{
	while (len) {
		uint64_t n;

		if (off < data) {
			n = PLT_MIN(len, data - off);
			memcpy(buf, io->head_buf + (io->place.head - (data - off)), (size_t)n);
		} else if (off < data_end) {
			n = PLT_MIN(len, data_end - off);
			plt_iov_to_buf(io->iov, io->niov, io->iov_off + (size_t)(off - io->off), buf, (size_t)n);
		} else {
			n = len;
			memcpy(buf, io->tail_buf + (off - data_end), (size_t)n);
		}
		off += n;
		len -= n;
		buf += n;
	}
}

/* One sector of which a part is to be kept. */
static int old_sector(struct plt_io_op *iop, uint64_t host_off, uint64_t sector, uint8_t *buf)
{
	int r = plt_store_read(iop->run.store, host_off, buf, PLT_SECTOR, PLT_IO_COW, &iop->err);

	return r < 0 ? r : plt_cipher_decrypt(iop->run.cipher, sector, buf, buf, PLT_SECTOR);
}

static int encrypt(struct plt_io *io, struct plt_io_op *iop)
{
	const struct plt_run *run = &iop->run;
	uint64_t skip = run->off % PLT_SECTOR, total = plt_align_up(skip + run->len, PLT_SECTOR);
	uint64_t host_off = run->host_off - skip, last = total - PLT_SECTOR;
	size_t at = io->iov_off + (size_t)(run->off - io->off);
	uint8_t *buf = iop->buf = plt_alloc_io((size_t)total);
	const void *in = buf;
	struct iovec v;
	int r = 0;

	if (!buf)
		return plt_error_set(&iop->err, ENOMEM, "out of memory");
	if (skip)
		r = old_sector(iop, host_off, run->iv_sector, buf);
	if (r == 0 && skip + run->len < total && !(skip && !last))
		r = old_sector(iop, host_off + last, run->iv_sector + last / PLT_SECTOR, buf + last);
	if (r == 0 && !skip && run->len == total && run->off >= iop->a && run->off + run->len <= iop->b &&
	    plt_iov_slice_count(io->iov, io->niov, at, (size_t)run->len) == 1) {
		plt_iov_slice(io->iov, io->niov, at, (size_t)run->len, &v);
		in = v.iov_base; /* no need to copy it first */
	} else if (r == 0) {
		gather(io, run->off, run->len, iop->a, iop->b, buf + skip);
	}
	if (r == 0)
		r = plt_cipher_encrypt(run->cipher, run->iv_sector, in, buf, (size_t)total);
	return plt_error_default(&iop->err, -r, "'%s': guest offset %#" PRIx64 " could not be encrypted", io->img->name,
				 run->off);
}

static void encrypted(struct plt_io *io, struct plt_io_op *iop)
{
	uint64_t skip = iop->run.off % PLT_SECTOR;
	struct plt_io_op *w;

	if (iop->op.result < 0 || !(w = plt_io_op_new(io, NULL)))
		return;
	w->buf = plt_steal(&iop->buf);
	w->op.len = plt_align_up(skip + iop->run.len, PLT_SECTOR);
	w->iov[0] = (struct iovec){ w->buf, (size_t)w->op.len };
	w->op.iov = w->iov;
	w->op.niov = 1;
	w->op.kind = PLT_OP_WRITE;
	w->op.tag = PLT_IO_DATA;
	w->op.store = iop->run.store;
	w->op.off = iop->run.host_off - skip;
	plt_io_op_submit(w);
}

void plt_io_write_cipher(struct plt_io *io, const struct plt_run *run, uint64_t data, uint64_t data_end)
{
	uint64_t done = 0, n;

	for (; done < run->len && !io->result; done += n) {
		struct plt_io_op *iop = plt_io_op_new(io, encrypted);
		uint64_t off = run->off + done;

		if (!iop)
			return;
		n = PLT_MIN(run->len - done, PIECE - off % PLT_SECTOR);
		iop->run = *run;
		iop->run.off = off;
		iop->run.len = n;
		iop->run.host_off = run->host_off + done;
		iop->run.iv_sector = run->iv_sector + (run->off % PLT_SECTOR + done) / PLT_SECTOR;
		iop->a = data;
		iop->b = data_end;
		iop->op.kind = PLT_OP_CALL;
		iop->op.call = plt_io_op_call;
		iop->work = encrypt;
		plt_io_op_submit(iop);
	}
}
