/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The library's data path by itself, through a queue as a VMM will have it.  Prints I/Os a second.
 *
 *	blkbench rand  FILE FORMAT read|write DEPTH COUNT [direct] [cache=BYTES] [ring=uring|threads]
 *	blkbench scatter FILE GIB CLUSTERS      makes a qcow2 with single clusters all over
 *	blkbench full    FILE GIB               makes a qcow2 whose every cluster is mapped (metadata only)
 *
 * rand: 4 KiB at random places of the disk, the same sequence each time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/engine.h"

struct slot {
	struct iovec iov;
	struct bench *b;
};

struct bench {
	struct plt_queue *q;
	struct plt_image *img;
	enum plt_io_kind kind;
	uint64_t todo, done, size, seed;
	unsigned inflight;
	int result;
	struct plt_error err;
};

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const struct plt_error *err)
{
	fprintf(stderr, "blkbench: %s\n", err->text);
	exit(1);
}

static void next(struct bench *b, struct slot *s);

static void done(struct plt_io *io)
{
	struct slot *s = io->arg;

	s->b->inflight--;
	s->b->done++;
	if (io->result && !s->b->result) {
		s->b->result = io->result;
		s->b->err = io->err;
	}
	if (s->b->todo && !s->b->result)
		next(s->b, s);
}

static void next(struct bench *b, struct slot *s)
{
	struct plt_io *io = plt_io_new(b->q, NULL, b->img, b->kind);

	b->seed = b->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	io->off = io->pos = (b->seed >> 20) % (b->size / 4096) * 4096;
	io->len = 4096;
	io->iov = &s->iov;
	io->niov = 1;
	io->done = done;
	io->arg = s;
	b->todo--;
	b->inflight++;
	plt_io_start(io);
}

static int rand_bench(int argc, char **argv)
{
	struct plt_ctx_options co = PLT_CTX_OPTIONS_INIT;
	struct plt_open_options oo = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	unsigned depth = (unsigned)atoi(argv[5]);
	bool threads = false;
	struct plt_ctx *ctx;
	struct plt_disk *disk;
	struct plt_ring *ring;
	struct slot *slots = calloc(depth, sizeof(*slots));
	struct bench b = { .todo = strtoull(argv[6], NULL, 0), .seed = 7 };
	double t0;

	b.kind = !strcmp(argv[4], "read") ? PLT_IO_READ_REQ : PLT_IO_WRITE_REQ;
	for (int i = 7; i < argc; i++) {
		if (!strcmp(argv[i], "direct"))
			oo.cache = "none";
		else if (!strncmp(argv[i], "cache=", 6))
			co.cache_bytes = strtoull(argv[i] + 6, NULL, 0);
		else if (!strcmp(argv[i], "ring=threads"))
			threads = true;
	}
	oo.format = argv[3];
	oo.flags = b.kind == PLT_IO_WRITE_REQ ? PLT_OPEN_WRITE : 0;
	if (plt_ctx_new(&co, &ctx, &err) < 0 || plt_disk_open(ctx, argv[2], &oo, &disk, &err) < 0)
		die(&err);
	if (threads || plt_ring_uring_new(plt_ctx_pool(ctx), 256, &ring) < 0)
		if (plt_ring_threads_new(plt_ctx_pool(ctx), &ring) < 0)
			return 1;
	if (plt_queue_new(ctx, ring, false, &b.q) < 0)
		return 1;
	b.img = plt_disk_image(disk);
	b.size = plt_disk_size(disk);
	t0 = seconds();
	uint64_t count = b.todo;

	for (unsigned i = 0; i < depth && b.todo; i++) {
		slots[i].b = &b;
		slots[i].iov.iov_len = 4096;
		if (posix_memalign(&slots[i].iov.iov_base, 4096, 4096))
			return 1;
		memset(slots[i].iov.iov_base, (int)i + 1, 4096);
		next(&b, &slots[i]);
	}
	while (b.inflight)
		plt_queue_poll(b.q, true);
	if (b.result)
		die(&b.err);
	printf("%.0f\n", (double)count / (seconds() - t0));
	plt_queue_free(b.q);
	if (plt_disk_close(disk, &err) < 0)
		die(&err);
	plt_ctx_free(ctx);
	return 0;
}

static int make(int argc, char **argv, bool full)
{
	struct plt_create_options co = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options oo = PLT_OPEN_OPTIONS_INIT;
	const char *options[] = { full ? "preallocation=metadata" : "cluster_size=65536", NULL };
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t seed = 3, n = argc > 4 ? strtoull(argv[4], NULL, 0) : 0;
	struct plt_ctx *ctx;
	struct plt_disk *disk;

	co.format = "qcow2";
	co.options = options;
	co.virtual_size = strtoull(argv[3], NULL, 0) << 30;
	if (plt_ctx_new(NULL, &ctx, &err) < 0 || plt_create(ctx, argv[2], &co, NULL, &err) < 0)
		die(&err);
	oo.format = "qcow2";
	oo.flags = PLT_OPEN_WRITE | PLT_OPEN_UNORDERED;
	if (plt_disk_open(ctx, argv[2], &oo, &disk, &err) < 0)
		die(&err);
	for (uint64_t i = 0; i < n; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		if (plt_write(disk, (seed >> 20) % (co.virtual_size >> 16) << 16, &seed, sizeof(seed), &err) < 0)
			die(&err);
	}
	if (plt_disk_close(disk, &err) < 0)
		die(&err);
	plt_ctx_free(ctx);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 7 && !strcmp(argv[1], "rand"))
		return rand_bench(argc, argv);
	if (argc >= 5 && !strcmp(argv[1], "scatter"))
		return make(argc, argv, false);
	if (argc >= 4 && !strcmp(argv[1], "full"))
		return make(argc, argv, true);
	fprintf(stderr, "usage: see the top of bench/blkbench.c\n");
	return 2;
}
