/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Requests of `platter io`.  All of them go through one queue and complete in io_reap(), whether
 * somebody waits or not: a command that waits for its own request lets the others finish meanwhile
 * (and report), as a machine does that waits for one of its disk's requests.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io.h"

#define ALIGN 4096
#define MISALIGN 16

static int out_of_memory(void)
{
	cli_error("out of memory");
	return -ENOMEM;
}

/* Bytes for @len, filled; aligned for any device, or on purpose not. */
static int give_bytes(struct io *io, struct io_request *r, int fill)
{
	size_t shift = io->misalign ? MISALIGN : 0;

	if (posix_memalign(&r->memory, ALIGN, (size_t)r->len + shift + 1)) {
		r->memory = NULL;
		return out_of_memory();
	}
	r->buf = (uint8_t *)r->memory + shift;
	memset(r->buf, fill, (size_t)r->len);
	return 0;
}

struct io_request *io_request_len(struct io *io, enum plt_aio_kind kind, int64_t off, uint64_t len, int fill)
{
	struct io_request *r = calloc(1, sizeof(*r));

	if (!r) {
		out_of_memory();
		return NULL;
	}
	r->aio = (struct plt_aio)PLT_AIO_INIT;
	r->aio.kind = kind;
	r->aio.off = (uint64_t)off;
	r->len = r->aio.len = len;
	if (fill < 0)
		return r;
	r->iov = malloc(sizeof(*r->iov));
	if (!r->iov || give_bytes(io, r, fill) < 0) {
		io_request_free(r);
		return NULL;
	}
	r->iov[0] = (struct iovec){ r->buf, (size_t)len };
	r->aio.iov = r->iov;
	r->aio.niov = 1;
	return r;
}

struct io_request *io_request_new(struct io *io, enum plt_aio_kind kind, int64_t off, char **lens, int n, int fill)
{
	struct iovec *iov = calloc((size_t)n, sizeof(*iov));
	struct io_request *r = NULL;
	uint64_t total = 0;

	for (int i = 0; iov && i < n; i++) {
		int64_t len;

		if (io_number(lens[i], &len) < 0)
			goto fail;
		if (len > IO_MAX_BYTES) {
			printf("Argument '%s' exceeds maximum size %" PRId64 "\n", lens[i], IO_MAX_BYTES);
			goto fail;
		}
		if (total > (uint64_t)(IO_MAX_BYTES - len)) {
			printf("The total number of bytes exceed the maximum size %" PRId64 "\n", IO_MAX_BYTES);
			goto fail;
		}
		iov[i].iov_len = (size_t)len;
		total += (uint64_t)len;
	}
	r = iov ? io_request_len(io, kind, off, total, fill) : NULL;
	if (!r)
		goto fail;
	free(r->iov);
	r->iov = iov;
	r->aio.iov = iov;
	r->aio.niov = n;
	total = 0;
	for (int i = 0; i < n; i++) {
		iov[i].iov_base = r->buf + total;
		total += iov[i].iov_len;
	}
	return r;
fail:
	free(iov);
	return NULL;
}

void io_request_free(struct io_request *r)
{
	if (!r)
		return;
	free(r->memory);
	free(r->iov);
	free(r);
}

void io_took(struct io_request *r, const struct timespec *begun)
{
	struct timespec *t = &r->took;

	clock_gettime(CLOCK_MONOTONIC, t);
	t->tv_sec -= begun->tv_sec;
	t->tv_nsec -= begun->tv_nsec;
	if (t->tv_nsec < 0) {
		t->tv_nsec += 1000000000;
		t->tv_sec--;
	}
}

static void completed(struct io *io, struct io_request *r, int result)
{
	io_took(r, &r->begun);
	r->result = result;
	r->done = true;
	if (r->finish) {
		r->finish(io, r);
		io_request_free(r);
	}
}

void io_submit(struct io *io, struct io_request *r)
{
	int result;

	r->aio.disk = io->disk;
	r->aio.cookie = r;
	r->aio.err = &r->err;
	if (io->how.sync && r->aio.kind != PLT_AIO_DISCARD)
		r->aio.flags |= PLT_AIO_FUA;
	clock_gettime(CLOCK_MONOTONIC, &r->begun);
	result = plt_queue_submit(io->queue, &r->aio, &r->err);
	if (result < 0)
		completed(io, r, result);
	else if (r->finish)
		io_reap(io, 0); /* get it going; what is done at once is done now */
}

void io_failed(const char *what, int result)
{
	/* to whoever uses the disk a damaged structure is an error of I/O, as qemu-io has it */
	printf("%s failed: %s\n", what, strerror(result == -EUCLEAN ? EIO : -result));
}

void io_look_held(struct io *io)
{
	for (unsigned i = 0; i < IO_TAGS_MAX; i++) {
		if (!io->tags[i] || !io_is_held(io, io->tags[i]))
			continue;
		printf("blkdebug: Suspended request '%s'\n", io->tags[i]);
		io->held++;
		free(io->tags[i]);
		io->tags[i] = NULL;
	}
}

bool io_is_held(struct io *io, const char *tag)
{
	return plt_debug(io->disk, PLT_DEBUG_SUSPENDED, NULL, tag) == 1;
}

void io_reap(struct io *io, int ms)
{
	struct plt_completion v[16];
	struct pollfd p;
	unsigned n;

	if (!io->queue)
		return;
	n = plt_queue_reap(io->queue, v, 16, ms < 0);
	if (!n && ms > 0 && plt_queue_pending(io->queue)) {
		p = (struct pollfd){ .fd = plt_queue_fd(io->queue), .events = POLLIN };
		if (poll(&p, p.fd >= 0 ? 1 : 0, ms) < 0 && errno != EINTR)
			return;
		n = plt_queue_reap(io->queue, v, 16, false);
	} else if (!n && ms > 0) {
		(void)poll(NULL, 0, ms);
	}
	for (unsigned i = 0; i < n; i++)
		completed(io, v[i].cookie, v[i].result);
	io_look_held(io);
}

int io_wait(struct io *io, struct io_request *r)
{
	while (!r->done)
		io_reap(io, -1);
	return r->result;
}

int io_run(struct io *io, struct io_request *r)
{
	io_submit(io, r);
	return io_wait(io, r);
}

void io_drain(struct io *io)
{
	while (io->queue && plt_queue_pending(io->queue))
		io_reap(io, -1);
}

void io_settle(struct io *io)
{
	if (!io->held)
		io_drain(io);
}
