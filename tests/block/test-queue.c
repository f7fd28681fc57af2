/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The public queues: requests side by side against a byte array, each completed exactly once; what is
 * refused is refused in a completion; a write with FUA is durable when it completes; the descriptor
 * becomes readable.  Ranges are locked by the test, so that any order of execution has one result.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/checked.h"
#include "block/internal.h"
#include "tests/unit.h"

#define SIZE (1 << 20)
#define LANES 32 /* a request has one lane of the disk to itself */
#define LANE (SIZE / LANES)

struct lane {
	struct plt_aio req;
	struct plt_error err;
	struct iovec iov[3];
	uint8_t *buf;
	bool busy;
};

static struct plt_ctx *ctx;
static struct plt_disk *disk;
static struct plt_store *file;
static struct plt_queue *queue;
static struct plt_error err;
static uint8_t model[SIZE];

static void open_disk(const char *options, struct plt_store *over, unsigned flags)
{
	struct plt_ctx_options co = PLT_CTX_OPTIONS_INIT;
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options oo = PLT_OPEN_OPTIONS_INIT;
	const char *list[] = { options, NULL };

	co.workers = 3;
	ck_assert_int_eq(plt_ctx_new(&co, &ctx, &err), 0);
	if (!over)
		ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	o.format = "qcow2";
	o.options = list;
	o.virtual_size = SIZE;
	ck_assert_msg(plt_create_store(ctx, over ? over : file, "disk", &o, NULL, &err) == 0, "%s", err.text);
	oo.flags = PLT_OPEN_WRITE;
	ck_assert_msg(plt_disk_open_store(ctx, over ? over : file, "disk", "qcow2", &oo, &disk, &err) == 0, "%s",
		      err.text);
	ck_assert_msg(plt_queue_open(ctx, flags, &queue, &err) == 0, "%s", err.text);
}

static void close_disk(void)
{
	plt_queue_close(queue);
	ck_assert_msg(plt_disk_close(disk, &err) == 0, "%s", err.text);
	plt_store_unref(file);
	file = NULL;
	plt_ctx_free(ctx);
}

static void check_read(const struct lane *l)
{
	ck_assert_msg(!memcmp(l->buf, model + l->req.off, (size_t)l->req.len), "wrong bytes read at %" PRIu64,
		      l->req.off);
}

static void start(struct lane *l, unsigned i, uint64_t *seed)
{
	uint64_t off = plt_unit_random(seed) % LANE, len = 1 + plt_unit_random(seed) % (LANE - off), cut;
	unsigned kind = (unsigned)(plt_unit_random(seed) % 6);

	l->req = (struct plt_aio)PLT_AIO_INIT;
	l->req.disk = disk;
	l->req.off = i * (uint64_t)LANE + off;
	l->req.len = len;
	l->req.cookie = l;
	l->req.err = &l->err;
	cut = plt_unit_random(seed) % (len + 1);
	l->iov[0] = (struct iovec){ l->buf, (size_t)cut };
	l->iov[1] = (struct iovec){ l->buf + cut, (size_t)(len - cut) };
	l->req.iov = l->iov;
	l->req.niov = 2;
	switch (kind) {
	case 0:
	case 1:
		l->req.kind = PLT_AIO_WRITE;
		memset(l->buf, (int)(1 + plt_unit_random(seed) % 255), (size_t)len);
		memcpy(model + l->req.off, l->buf, (size_t)len);
		if (kind)
			l->req.flags = PLT_AIO_FUA;
		break;
	case 2:
		l->req.kind = PLT_AIO_WRITE_ZEROES;
		l->req.flags = plt_unit_random(seed) & 1 ? PLT_ZERO_UNMAP : 0;
		memset(model + l->req.off, 0, (size_t)len);
		break;
	case 3:
		l->req.kind = PLT_AIO_WRITE_COMPRESSED;
		l->req.off = i * (uint64_t)LANE + off / 4096 * 4096;
		l->iov[0] = (struct iovec){ l->buf, 4096 };
		l->req.niov = 1;
		memset(l->buf, (int)plt_unit_random(seed) & 255, 4096);
		memcpy(model + l->req.off, l->buf, 4096);
		break;
	case 4:
		l->req.kind = PLT_AIO_FLUSH;
		break;
	default:
		l->req.kind = PLT_AIO_READ;
		memset(l->buf, 0xee, (size_t)len);
	}
	l->busy = true;
	ck_assert_int_eq(plt_queue_submit(queue, &l->req, &err), 0);
}

START_TEST(side_by_side)
{
	static struct lane lanes[LANES];
	struct plt_completion done[5];
	uint64_t seed = plt_unit_seed();
	uint8_t *all = malloc(SIZE);

	memset(model, 0, sizeof(model));
	open_disk("cluster_size=4096", NULL, PLT_QUEUE_THREADS * (unsigned)_i);
	for (unsigned i = 0; i < LANES; i++)
		lanes[i].buf = malloc(LANE);
	for (unsigned round = 0; round < 3000; round++) {
		unsigned i = (unsigned)(plt_unit_random(&seed) % LANES), n;

		while (lanes[i].busy) {
			n = plt_queue_reap(queue, done, PLT_ARRAY_SIZE(done), true);
			ck_assert_uint_ne(n, 0);
			while (n--) {
				struct lane *l = done[n].cookie;

				ck_assert_msg(l->busy, "a request completed twice");
				l->busy = false;
				ck_assert_msg(done[n].result == 0, "%s", l->err.text);
				if (l->req.kind == PLT_AIO_READ)
					check_read(l);
			}
		}
		start(&lanes[i], i, &seed);
	}
	while (plt_queue_pending(queue)) {
		unsigned n = plt_queue_reap(queue, done, PLT_ARRAY_SIZE(done), true);

		while (n--) {
			ck_assert_int_eq(done[n].result, 0);
			((struct lane *)done[n].cookie)->busy = false;
		}
	}
	for (unsigned i = 0; i < LANES; i++) {
		ck_assert_msg(!lanes[i].busy, "a request never completed");
		free(lanes[i].buf);
	}
	ck_assert_int_eq(plt_read(disk, 0, all, SIZE, &err), 0);
	ck_assert_int_eq(memcmp(all, model, SIZE), 0);
	free(all);
	close_disk();
}
END_TEST

static int one(struct plt_aio *req, struct plt_error *text)
{
	struct plt_completion done = { 0 };

	req->size = sizeof(*req);
	req->disk = disk;
	req->cookie = req;
	req->err = text;
	text->text[0] = '\0';
	ck_assert_int_eq(plt_queue_submit(queue, req, &err), 0);
	ck_assert_uint_eq(plt_queue_pending(queue), 1);
	ck_assert_uint_eq(plt_queue_reap(queue, &done, 1, true), 1);
	ck_assert_ptr_eq(done.cookie, req);
	ck_assert_uint_eq(plt_queue_pending(queue), 0);
	return done.result;
}

START_TEST(refusals)
{
	static uint8_t buf[8192];
	struct iovec iov = { buf, sizeof(buf) };
	struct plt_error text;

	open_disk("cluster_size=4096,compat=0.10", NULL, 0);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_READ, .off = SIZE - 1, .iov = &iov, .niov = 1 }, &text),
			 -EIO);
	ck_assert_ptr_nonnull(strstr(text.text, "beyond"));
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_DISCARD, .off = 1, .len = UINT64_MAX }, &text), -EIO);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE_COMPRESSED, .iov = &iov, .niov = 1 }, &text),
			 -EINVAL);
	iov.iov_len = 0;
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE, .iov = &iov, .niov = 1 }, &text), 0);
	/* no zero clusters in this version: only by writing them, where something else is */
	iov.iov_len = 4096;
	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE, .iov = &iov, .niov = 1 }, &text), 0);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE_ZEROES, .off = 100, .len = 1000,
						.flags = PLT_AIO_NO_FALLBACK }, &text), -ENOTSUP);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_READ, .iov = &iov, .niov = 1 }, &text), 0);
	for (unsigned i = 0; i < 4096; i++)
		ck_assert_uint_eq(buf[i], 1);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE_ZEROES, .off = 100, .len = 1000 }, &text), 0);
	ck_assert_int_eq(plt_queue_submit(queue, &(struct plt_aio){ .kind = 77, .disk = disk, .iov = &iov }, &err),
			 -EINVAL);
	ck_assert_uint_eq(plt_queue_reap(queue, &(struct plt_completion){ 0 }, 1, true), 0);
	close_disk();
}
END_TEST

/* When it completes the whole way to the data is durable: writes and syncs of the file are counted. */
START_TEST(fua_is_durable)
{
	static uint8_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	struct plt_store *counting;
	struct plt_error text;
	uint64_t syncs;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	ck_assert_int_eq(plt_fault_new(file, &counting), 0);
	open_disk("cluster_size=4096", counting, 0);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE, .iov = &iov, .niov = 1 }, &text), 0);
	syncs = plt_fault_seen(counting, PLT_FAULT_SYNC);
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE, .off = 65536, .iov = &iov, .niov = 1,
						.flags = PLT_AIO_FUA }, &text), 0);
	ck_assert_uint_gt(plt_fault_seen(counting, PLT_FAULT_SYNC), syncs);
	/* and a flush that fails is the write's failure */
	plt_fault_add(counting, &(struct plt_fault_rule){ .ops = PLT_FAULT_SYNC, .tag = -1, .error = EIO });
	ck_assert_int_eq(one(&(struct plt_aio){ .kind = PLT_AIO_WRITE, .off = 65536, .iov = &iov, .niov = 1,
						.flags = PLT_AIO_FUA }, &text), -EIO);
	plt_queue_close(queue);
	ck_assert_int_lt(plt_disk_close(disk, &err), 0);
	plt_store_unref(counting);
	plt_store_unref(file);
	file = NULL;
	plt_ctx_free(ctx);
}
END_TEST

START_TEST(descriptor)
{
	static uint8_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	struct plt_aio req = { .size = sizeof(req), .kind = PLT_AIO_WRITE, .iov = &iov, .niov = 1 };
	struct plt_completion done;
	struct pollfd p;

	open_disk("cluster_size=4096", NULL, PLT_QUEUE_THREADS * (unsigned)_i);
	p = (struct pollfd){ .fd = plt_queue_fd(queue), .events = POLLIN };
	ck_assert_int_ge(p.fd, 0);
	req.disk = disk;
	for (unsigned i = 0; i < 50; i++) {
		req.off = i * 8192;
		ck_assert_int_eq(plt_queue_submit(queue, &req, &err), 0);
		while (!plt_queue_reap(queue, &done, 1, false))
			ck_assert_msg(poll(&p, 1, 5000) == 1, "the descriptor never became readable");
		ck_assert_int_eq(done.result, 0);
	}
	close_disk();
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("queue");
	TCase *c = tcase_create("queue");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, side_by_side, 0, 2);
	tcase_add_test(c, refusals);
	tcase_add_test(c, fua_is_durable);
	tcase_add_loop_test(c, descriptor, 0, 2);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
