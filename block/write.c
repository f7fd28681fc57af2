/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The write frame.  What is mapped in place is submitted at once, without a lock.  The rest goes
 * place -> copy-on-write and data -> publish under the range lock of its allocation units: place and
 * publish are short critical sections under the image lock, the I/O between them holds only the range
 * lock and the epoch.  Readers see the old mapping until publish.  A failure before publish is
 * withdrawn and changes nothing that a reader could see.
 *
 * A compressed unit takes the same way, with its compressed bytes as the data; a piece of what lies below,
 * too, which a read brings in: it is fetched when the range lock is held, and placed only where nothing is.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/zero.h"
#include "block/codec.h"
#include "block/engine.h"
#include "crypt/cipher.h"
#include "formats/probe.h"

/*
 * SECTORS and IN_PLACE: writes in place to an encrypted image, which hold the lock of their sectors.
 * FETCH to ZEROED: what is brought in from below.
 */
enum { START, LOCK, PLACE, COPY, DATA, SECTORS, IN_PLACE, FETCH, FETCHED, ZEROED };

/* ---- before the first change ----------------------------------------------------------------- */

static int first_write(struct plt_io *io, struct plt_io_op *iop)
{
	struct plt_engine *eng = io->eng;
	int r = 0;

	PLT_LOCK_SCOPE(&eng->work_lock);
	if (atomic_load(&eng->started))
		return 0;
	if (io->img->drv->first_write)
		r = io->img->drv->first_write(io->img, &iop->err);
	if (r == 0)
		atomic_store(&eng->started, true);
	return r;
}

/*
 * An image whose format was guessed to be raw may not be given a format's header by its guest: the
 * next one to open it would guess otherwise, and follow the names in it.  The range lock is held from
 * the look until what was looked at has been written, so that two writes cannot make a header together.
 */
static int guard(struct plt_io *io, struct plt_io_op *iop)
{
	uint8_t buf[PLT_PROBE_LEN] = { 0 };
	uint64_t size = atomic_load(&io->img->size);
	int r = plt_store_read(io->img->file, 0, buf, sizeof(buf), PLT_IO_DATA, &iop->err);

	if (r < 0)
		return r;
	if (io->kind == PLT_IO_WRITE_REQ || io->kind == PLT_IO_COMPRESSED_REQ)
		plt_iov_to_buf(io->iov, io->niov, io->iov_off, buf + io->off,
			       (size_t)PLT_MIN(io->len, sizeof(buf) - io->off));
	else
		memset(buf + io->off, 0, (size_t)PLT_MIN(io->len, sizeof(buf) - io->off));
	if (plt_probe_buffer(buf, sizeof(buf), size) == plt_driver_find("raw")) {
		io->guard_passed = true;
		return 0;
	}
	return plt_error_set(&iop->err, EPERM, "'%s': the image format was not given and was guessed to be raw: "
			     "writing the header of another format to it is refused; give the format explicitly",
			     io->img->name);
}

bool plt_io_may_change(struct plt_io *io)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (io->result)
		return false;
	if (!io->img->writable) {
		plt_error_set(&err, EACCES, "'%s' is opened read-only", io->img->name);
		plt_io_fail(io, EACCES, &err);
		return false;
	}
	r = plt_store_check_writable(io->img->file, &err);
	if (r == 0 && io->img->data && io->img->data != io->img->file)
		r = plt_store_check_writable(io->img->data, &err);
	if (r < 0) {
		plt_io_fail(io, r, &err);
		return false;
	}
	if (!atomic_load_explicit(&io->eng->changed, memory_order_relaxed))
		atomic_store_explicit(&io->eng->changed, true, memory_order_relaxed);
	if (!atomic_load_explicit(&io->eng->started, memory_order_acquire)) {
		plt_io_call(io, first_write, NULL);
		return false;
	}
	if (!io->eng->guard_probe || !plt_io_changes_guest(io) || io->off >= PLT_PROBE_LEN || io->guard_passed ||
	    (io->parent && io->parent->guarded && io->parent->eng == io->eng))
		return true;
	io->guarded = true;
	if (plt_range_lock(io, 0, PLT_MAX(io->off + io->len, (uint64_t)PLT_PROBE_LEN)))
		plt_io_call(io, guard, NULL);
	else if (io->pins.privileged) /* the holder may be in need of a slot */
		plt_cache_slot_done(io);
	return false;
}

/* ---- in place -------------------------------------------------------------------------------- */

/* Submit what may be written where it is.  1: something is not in place, at io->pos. */
static int write_in_place(struct plt_io *io)
{
	uint64_t end = io->off + io->len, window = io->pos + PLT_CIPHER_WINDOW;
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	while (io->pos < end) {
		io->runs.n = 0;
		r = io->img->drv->map(io->img, &io->pins, io->pos, end - io->pos, &io->runs, &io->need, &err);
		if (r < 0) {
			if (r != -EAGAIN)
				plt_io_fail(io, r, &err);
			return r;
		}
		plt_pins_drop(&io->pins);
		for (unsigned i = 0; i < io->runs.n; i++) {
			struct plt_run *run = &io->run[i];

			if (run->kind != PLT_RUN_DATA || !(run->flags & PLT_RUN_IN_PLACE))
				return 1;
			if (run->cipher) {
				/* a long request comes back for the rest when this has been written */
				window = plt_align_down(window, PLT_SECTOR);
				run->len = PLT_MIN(run->len, window - run->off);
				plt_io_write_cipher(io, run, run->off, run->off + run->len);
				io->pos = run->off + run->len;
				if (io->pos >= window)
					return 0;
				continue;
			}
			plt_io_submit_data(io, PLT_OP_WRITE, run->store, run->host_off, run->off, run->len,
					   PLT_IO_DATA);
			io->pos = run->off + run->len;
		}
	}
	return 0;
}

/* ---- allocating ------------------------------------------------------------------------------ */

static bool copy_part(struct plt_io *io, uint64_t off, uint64_t len, uint8_t **buf, struct iovec *iov, bool *zero)
{
	uint64_t size = atomic_load(&io->img->size);
	uint64_t n = off >= size ? 0 : PLT_MIN(len, size - off);
	struct plt_io *c;

	*zero = true;
	if (!len)
		return true;
	*buf = plt_alloc_io((size_t)len);
	if (!*buf) {
		plt_io_fail(io, ENOMEM, NULL);
		return false;
	}
	memset(*buf + n, 0, (size_t)(len - n));
	if (!n)
		return true;
	*iov = (struct iovec){ *buf, (size_t)n };
	c = plt_io_child(io, io->img, PLT_IO_READ_REQ, off, n);
	if (!c)
		return false;
	c->iov = iov;
	c->niov = 1;
	c->arg = zero;
	c->tag = PLT_IO_COW;
	c->done = plt_copy_read_done;
	plt_io_start(c);
	return true;
}

/* Notes whether the copied part was anything but zeros. */
void plt_copy_read_done(struct plt_io *c)
{
	*(bool *)c->arg = c->all_zero;
}

static void start_copy(struct plt_io *io)
{
	struct plt_place *p = &io->place;

	io->state = COPY;
	io->pending++;
	if (copy_part(io, p->off - p->head, p->head, &io->head_buf, &io->head_iov, &io->head_zero))
		(void)copy_part(io, p->off + p->len, p->tail, &io->tail_buf, &io->tail_iov, &io->tail_zero);
	io->pending--;
}

static void submit_body(struct plt_io *io)
{
	struct plt_place *p = &io->place;
	bool head = p->head && !(io->head_zero && p->fresh);
	bool tail = p->tail && !(io->tail_zero && p->fresh);
	size_t at = io->iov_off + (size_t)(p->off - io->off);
	struct plt_io_op *iop;
	int n;

	io->state = DATA;
	if (p->cipher) {
		plt_io_write_cipher(io, &(struct plt_run){ .store = p->store, .host_off = p->host_off - p->head,
							   .off = p->off - p->head, .len = p->head + p->len + p->tail,
							   .cipher = p->cipher, .iv_sector = p->iv_sector },
				    p->off, p->off + p->len);
		return;
	}
	if (!head && !tail && !io->comp_buf) {
		plt_io_submit_data(io, PLT_OP_WRITE, p->store, p->host_off, p->off, p->len, PLT_IO_DATA);
		return;
	}
	iop = plt_io_op_new(io, NULL);
	if (!iop)
		return;
	iop->op.kind = PLT_OP_WRITE;
	iop->op.store = p->store;
	if (io->comp_buf) {
		iop->iov[0] = (struct iovec){ io->comp_buf, (size_t)io->comp_len };
		iop->op.iov = iop->iov;
		iop->op.niov = 1;
		iop->op.off = p->host_off;
		iop->op.len = io->comp_len;
		iop->op.tag = PLT_IO_COMPRESSED;
		plt_io_op_submit(iop);
		return;
	}
	n = plt_iov_slice_count(io->iov, io->niov, at, (size_t)p->len);
	iop->iov_heap = malloc(((size_t)n + 2) * sizeof(struct iovec));
	if (!iop->iov_heap) {
		iop->next_free = io->q->free_ops;
		io->q->free_ops = iop;
		plt_io_fail(io, ENOMEM, NULL);
		return;
	}
	iop->op.iov = iop->iov_heap;
	iop->op.off = p->host_off;
	iop->op.len = p->len;
	iop->op.tag = PLT_IO_COW;
	if (head) {
		iop->iov_heap[iop->op.niov++] = (struct iovec){ io->head_buf, p->head };
		iop->op.off -= p->head;
		iop->op.len += p->head;
	}
	iop->op.niov += plt_iov_slice(io->iov, io->niov, at, (size_t)p->len, iop->iov_heap + iop->op.niov);
	if (tail) {
		iop->iov_heap[iop->op.niov++] = (struct iovec){ io->tail_buf, p->tail };
		iop->op.len += p->tail;
	}
	plt_io_op_submit(iop);
}

static void free_copies(struct plt_io *io)
{
	free(io->head_buf);
	free(io->tail_buf);
	io->head_buf = io->tail_buf = NULL;
}

/* The I/O of a placed part is over.  True: go on with the rest. */
static bool complete_part(struct plt_io *io)
{
	struct plt_place *p = &io->place;

	io->placed = false;
	if (p->publish) {
		pthread_mutex_lock(&io->img->lock);
		if (io->result)
			io->img->drv->withdraw(io->img, p);
		else
			io->img->drv->publish(io->img, p);
		pthread_mutex_unlock(&io->img->lock);
	}
	free_copies(io);
	plt_pins_drop(&io->pins);
	if (io->result) {
		plt_io_release(io);
		io->state = START;
		return false;
	}
	io->pos = p->off + p->len;
	io->state = PLACE;
	return true;
}

/* 1: placed, go on; 0: wait */
static int do_place(struct plt_io *io)
{
	struct plt_place_req req = { PLT_PLACE_DATA, io->pos, io->off + io->len - io->pos, 0 };
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (io->img->encrypted) { /* all of a part is encrypted before it is written: in bounded memory */
		uint64_t cut = plt_align_down(io->pos + PLT_MAX(PLT_CIPHER_WINDOW, (uint64_t)io->img->alloc_unit),
					      io->img->alloc_unit);

		req.len = PLT_MIN(req.len, cut - io->pos);
	}
	if (io->kind == PLT_IO_COPY_REQ)
		req.kind = PLT_PLACE_IF_ABSENT;
	if (io->comp_buf)
		req = (struct plt_place_req){ PLT_PLACE_COMPRESSED, io->off, io->len, (uint32_t)io->comp_len };
	/* what earlier tries found may be of no use any more: others have taken what was free there */
	if (io->pins.n > PLT_PINS_MAX - PLT_PINS_PLACE)
		plt_pins_drop(&io->pins);
	pthread_mutex_lock(&io->img->lock);
	memset(&io->place, 0, sizeof(io->place));
	r = io->img->drv->place(io->img, &io->pins, &req, &io->place, &io->need, &err);
	pthread_mutex_unlock(&io->img->lock);
	if (r == -EAGAIN) {
		plt_io_meet(io);
		return 0;
	}
	if (r < 0) {
		plt_io_fail(io, r, &err);
		if (io->result == -ENOSPC && !io->limbo_tried && plt_io_retry_space(io))
			return 0;
		plt_io_finish(io);
		return 0;
	}
	io->placed = true;
	if (io->place.off + io->place.len >= io->off + io->len)
		plt_io_placed(io);
	return 1;
}

void plt_write_step(struct plt_io *io)
{
	uint64_t end = io->off + io->len;
	int r;

	while (!io->pending)
		switch (io->state) {
		case START:
			if (io->result) {
				io->pos = io->off; /* what was in place may be what has failed */
				if (!plt_io_retry_space(io))
					plt_io_finish(io);
				return;
			}
			if (io->pos >= end) {
				plt_io_finish(io);
				return;
			}
			if (!io->guarded)
				plt_range_unlock(io);
			if (!plt_io_may_change(io)) {
				if (io->result && !io->pending && !io->woken)
					plt_io_finish(io);
				return;
			}
			if (io->comp_buf || io->kind == PLT_IO_COPY_REQ) {
				io->state = LOCK;
				break;
			}
			if (io->img->encrypted) {
				plt_pins_drop(&io->pins);
				plt_io_leave(io);
				io->state = SECTORS;
				break;
			}
			/* fall through */
		case IN_PLACE:
			if (io->state == IN_PLACE && (io->result || io->pos >= end)) {
				io->state = START;
				break;
			}
			if (!plt_io_enter(io)) {
				io->state = START;
				return;
			}
			if (io->result)
				break;
			io->pending++;
			r = write_in_place(io);
			if (--io->pending)
				return; /* then from here again, behind what was in place */
			if (r == -EAGAIN) {
				plt_io_meet(io);
				return;
			}
			if (io->result || io->pos >= end)
				break;
			plt_pins_drop(&io->pins);
			plt_io_leave(io);
			if (!io->guarded)
				plt_range_unlock(io);
			io->state = LOCK;
			break;
		case SECTORS:
			io->state = IN_PLACE;
			if (!plt_range_lock_unit(io, io->pos, end - io->pos, PLT_SECTOR)) {
				/* as below */
				if (io->pins.privileged)
					plt_cache_slot_done(io);
				return;
			}
			break;
		case LOCK:
			io->state = io->kind == PLT_IO_COPY_REQ ? FETCH : PLACE;
			if (!io->guarded && !plt_range_lock(io, io->pos, end - io->pos)) {
				/* the holder may be in need of a slot */
				if (io->pins.privileged)
					plt_cache_slot_done(io);
				return;
			}
			break;
		case PLACE:
			if (io->result || io->pos >= end) {
				io->state = START;
				break;
			}
			if (!plt_io_enter(io)) {
				io->state = START;
				return;
			}
			if (io->result)
				break;
			if (!do_place(io))
				return;
			if (io->place.skip) {
				io->pos = io->place.off + io->place.len;
				break;
			}
			start_copy(io);
			break;
		case FETCH:
			if (!plt_io_enter(io)) {
				io->state = START;
				return;
			}
			end = io->off + io->len; /* it may be cut short */
			io->state = io->pos < end ? FETCHED : START;
			if (!io->result && io->pos < end)
				plt_copy_fetch(io);
			break;
		case FETCHED:
			io->state = io->result ? START : ZEROED;
			if (!io->result)
				plt_copy_zero(io);
			break;
		case ZEROED:
			io->state = io->result ? START : PLACE;
			if (io->result || io->units_result == -ENOTSUP)
				break;
			io->state = START;
			if (io->units_result == -EAGAIN) {
				plt_io_leave(io);
				plt_io_meet(io);
				return;
			}
			io->pos = end;
			break;
		case COPY:
			if (io->result) {
				io->state = DATA;
				break;
			}
			submit_body(io);
			break;
		case DATA:
			if (!complete_part(io)) {
				/* result is set: START ends the frame, or takes space from limbo first */
				break;
			}
			break;
		}
}

/* ---- compressed ------------------------------------------------------------------------------ */

static int compress_unit(struct plt_io *io, struct plt_io_op *iop)
{
	uint32_t unit = io->img->drv->cluster_size(io->img);
	PLT_AUTOFREE uint8_t *in = plt_alloc_io(unit);
	uint8_t *out = plt_alloc_io(unit);
	int64_t n;

	if (!in || !out) {
		free(out);
		return plt_error_set(&iop->err, ENOMEM, "out of memory");
	}
	memset(in + io->len, 0, (size_t)(unit - io->len)); /* the last cluster is padded with zeros */
	plt_iov_to_buf(io->iov, io->niov, io->iov_off, in, (size_t)io->len);
	n = plt_compress((enum plt_codec)io->flags, io->level, in, unit, out, unit - 1);
	if (n <= 0) {
		free(out);
		return (int)n; /* 0: does not shrink, it is written plain */
	}
	io->comp_buf = out;
	io->comp_len = (uint64_t)n;
	return 0;
}

void plt_compressed_step(struct plt_io *io)
{
	if (io->pending)
		return;
	if (io->state == START && !io->compressed) {
		io->compressed = true;
		plt_io_call(io, compress_unit, NULL);
		return;
	}
	io->step = plt_write_step;
	plt_write_step(io);
}
