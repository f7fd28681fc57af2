/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Everything at once: a hundred images in chains of five under the smallest memory budget, 64 requests
 * in flight on each disk, threads with blocking calls beside them; and images inside images on every
 * kind of ring.  Each request works in a range of its own (ranges share clusters), so what it must
 * read is known.  At the end all content is compared, checked, opened anew and compared again.
 *
 * PLT_STRESS scales the work (percent); under a sanitizer it is small by itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/block/lab.h"

#define SIZE (UINT64_C(4) << 20)
#define SLOTS 64          /* requests in flight on one disk */
#define RANGE 49000       /* of one slot: not a multiple of anything */
#define BLOCKING 4        /* threads with blocking calls; ranges behind the slots */
#define PACKED_AT (SIZE - (UINT64_C(256) << 10)) /* whole clusters, for compressed writes */
#define LAYERS 5
#define MAX_LEN 12000

static unsigned percent(void)
{
	const char *env = getenv("PLT_STRESS");

	return env && *env ? (unsigned)atoi(env) : getenv("PLT_SANITIZER") ? 6 : 100;
}

static unsigned scaled(unsigned n, unsigned least)
{
	return PLT_MAX(n * percent() / 100, least);
}

struct chain {
	char name[4400]; /* how it is opened */
	struct plt_disk *disk;
	uint8_t *model;
	uint64_t cluster;
	bool packs;
	const char *cache;
};

/* ---- making chains --------------------------------------------------------------------------- */

static const char *const layouts[] = { "cluster_size=512", "cluster_size=512,refcount_bits=64", "cluster_size=4096",
				       "cluster_size=16384,extended_l2=on", "cluster_size=512,lazy_refcounts=on" };

static void open_chain(struct plt_ctx *ctx, struct chain *c)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;

	o.flags = PLT_OPEN_WRITE;
	o.cache = c->cache;
	lab_must(plt_disk_open(ctx, c->name, &o, &c->disk, &err), &err);
	c->cluster = plt_disk_cluster_size(c->disk);
	c->packs = plt_disk_can_compress(c->disk);
}

static void scatter(struct chain *c, unsigned n, uint64_t *seed)
{
	struct plt_error err = PLT_ERROR_INIT;

	for (unsigned i = 0; i < n; i++) {
		uint64_t len = 1 + plt_unit_random(seed) % 20000, off = plt_unit_random(seed) % (SIZE - len);

		if (plt_unit_random(seed) % 6 == 0) {
			memset(c->model + off, 0, len);
			lab_must(plt_write_zeroes(c->disk, off, len, 0, &err), &err);
			continue;
		}
		for (uint64_t k = 0; k < len; k++)
			c->model[off + k] = (uint8_t)(i * 31 + k / 7 + 1);
		lab_must(plt_write(c->disk, off, c->model + off, len, &err), &err);
	}
}

static void new_chain(struct plt_ctx *ctx, struct chain *c, unsigned number, uint64_t *seed)
{
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	char below[4400];

	c->model = calloc(1, SIZE);
	o.format = "qcow2";
	o.virtual_size = SIZE;
	o.flags = PLT_CREATE_UNCHECKED_BACKING;
	for (unsigned layer = 0; layer < LAYERS; layer++) {
		const char *options[] = { layouts[(number + layer) % PLT_ARRAY_SIZE(layouts)], NULL };

		memcpy(below, c->name, sizeof(below));
		snprintf(c->name, sizeof(c->name), "%s/chain%u-%u.qcow2", plt_unit_dir(), number, layer);
		o.options = options;
		o.backing = layer ? below : NULL;
		o.backing_format = layer ? "qcow2" : NULL;
		lab_must(plt_create(ctx, c->name, &o, NULL, &err), &err);
		open_chain(ctx, c);
		scatter(c, 12, seed);
		if (layer < LAYERS - 1)
			lab_close(c->disk);
	}
}

/* An image whose file is the guest's bytes of another image. */
static void new_nest(struct plt_ctx *ctx, struct chain *c, unsigned number, uint64_t *seed)
{
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const char *options[] = { NULL, NULL };
	struct plt_disk *outer;
	struct plt_store *st;
	char path[4200];

	c->model = calloc(1, SIZE);
	snprintf(path, sizeof(path), "%s/nest%u.qcow2", plt_unit_dir(), number);
	o.format = "qcow2";
	o.options = options;
	o.virtual_size = 4 * SIZE;
	options[0] = layouts[number % PLT_ARRAY_SIZE(layouts)];
	lab_must(plt_create(ctx, path, &o, NULL, &err), &err);
	how.flags = PLT_OPEN_WRITE;
	lab_must(plt_disk_open(ctx, path, &how, &outer, &err), &err);
	ck_assert_int_eq(plt_image_store_new(plt_disk_image(outer), &st), 0);
	free(outer); /* the image is the store's */
	o.virtual_size = SIZE;
	options[0] = layouts[(number + 1) % PLT_ARRAY_SIZE(layouts)];
	lab_must(plt_create_store(ctx, st, "inner", &o, NULL, &err), &err);
	lab_must(plt_store_sync(st, &err), &err);
	plt_store_unref(st);
	snprintf(c->name, sizeof(c->name), "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"qcow2\",\"file\":"
		 "{\"driver\":\"file\",\"filename\":\"%s\"}}}", path);
	open_chain(ctx, c);
	scatter(c, 12, seed);
}

static void compare(struct chain *c)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(SIZE);

	lab_must(plt_read(c->disk, 0, buf, SIZE, &err), &err);
	for (uint64_t i = 0; memcmp(buf, c->model, SIZE); i++)
		lab_expect(buf[i] == c->model[i], "%s: byte %" PRIu64 " is %#x, expected %#x", c->name, i, buf[i],
			      c->model[i]);
	free(buf);
}

static void found(void *arg, const struct plt_check_finding *f)
{
	ck_abort_msg("%s: %s: %s", ((struct chain *)arg)->name, f->id, f->text);
}

static void end_chain(struct plt_ctx *ctx, struct chain *c)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result res;

	compare(c);
	lab_close(c->disk);
	if (strncmp(c->name, "json:", 5))
		lab_must(plt_check(ctx, c->name, NULL, found, c, &res, &err), &err);
	open_chain(ctx, c);
	compare(c);
	lab_close(c->disk);
	free(c->model);
}

/* ---- requests -------------------------------------------------------------------------------- */

struct job {
	struct lab_req r;
	struct chain *c;
	uint64_t from, end;   /* the range that is its own */
	bool packed;
	bool looking;         /* reads back what a discard has left */
	bool active;
	uint8_t *buf;
	unsigned left;
	uint64_t clock;
};

static void fill(struct job *j, uint64_t *seed)
{
	uint64_t v = plt_unit_random(seed);
	uint8_t *m = j->c->model + j->r.off;

	for (uint64_t i = 0; i < j->r.len; i++)
		m[i] = (uint8_t)((v + i * 5) | 1);
	if (j->packed)
		memset(m, (int)(v | 1), j->r.len / 2);
	memcpy(j->buf, m, j->r.len);
}

static void draw(struct job *j, uint64_t *seed)
{
	struct lab_req *r = &j->r;
	unsigned what = (unsigned)(plt_unit_random(seed) % 16);

	memset(r, 0, sizeof(*r));
	r->buf = j->buf;
	r->len = 1 + plt_unit_random(seed) % (what < 12 ? 5000 : MAX_LEN);
	r->len = PLT_MIN(r->len, j->end - j->from);
	r->off = j->from + plt_unit_random(seed) % (j->end - j->from - r->len + 1);
	r->kind = PLT_IO_READ_REQ;
	if (j->packed) {
		r->len = j->c->cluster;
		r->off = j->from + plt_unit_random(seed) % ((j->end - j->from) / r->len) * r->len;
	}
	if (what < 6)
		return;
	if (what < 12) {
		r->kind = j->packed ? PLT_IO_COMPRESSED_REQ : PLT_IO_WRITE_REQ;
		fill(j, seed);
	} else if (what < 14) {
		r->kind = PLT_IO_ZERO_REQ;
		r->flags = what == 12 ? PLT_ZERO_UNMAP : 0;
		memset(j->c->model + r->off, 0, r->len);
	} else if (what == 14) {
		r->kind = PLT_IO_DISCARD_REQ;
	} else if (plt_unit_random(seed) % 8 == 0) {
		*r = (struct lab_req){ .kind = PLT_IO_FLUSH_REQ };
	}
}

/* What a finished request has to show; true: it goes on with reading back. */
static bool settle(struct job *j)
{
	struct lab_req *r = &j->r;
	uint8_t *m = j->c->model + r->off;

	lab_expect(!r->result, "%s: request %d at %" PRIu64 "+%" PRIu64 ": %d %s", j->c->name, r->kind, r->off,
		      r->len, r->result, r->err.text);
	if (r->kind == PLT_IO_DISCARD_REQ) {
		uint64_t off = r->off, len = r->len;

		*r = (struct lab_req){ .kind = PLT_IO_READ_REQ, .off = off, .len = len, .buf = j->buf };
		return j->looking = true;
	}
	if (r->kind != PLT_IO_READ_REQ)
		return false;
	for (uint64_t i = 0; i < r->len; i++)
		lab_expect(r->buf[i] == m[i] || (j->looking && !r->buf[i]),
			      "%s: byte %" PRIu64 " is %#x, expected %#x", j->c->name, r->off + i, r->buf[i], m[i]);
	memcpy(m, r->buf, r->len);
	return j->looking = false;
}

static void job_new(struct job *j, struct chain *c, unsigned slot, unsigned work)
{
	memset(j, 0, sizeof(*j));
	j->c = c;
	j->from = (uint64_t)slot * RANGE;
	j->end = j->from + RANGE;
	if (slot == SLOTS - 1 && c->packs) {
		j->packed = true;
		j->from = PACKED_AT;
		j->end = SIZE;
	}
	j->left = work;
	j->buf = malloc(PLT_MAX(MAX_LEN, c->cluster));
}

/* ---- queues ---------------------------------------------------------------------------------- */

enum kind { THREADS, URING, TEST };

struct rider {
	pthread_t thread;
	struct plt_queue *q;
	struct job *job;
	unsigned n;
	uint64_t seed;
};

static void *ride(void *arg)
{
	struct rider *r = arg;
	unsigned active;

	do {
		active = 0;
		for (unsigned i = 0; i < r->n; i++) {
			struct job *j = &r->job[i];

			if (j->active && !j->r.done) {
				active++;
				continue;
			}
			if (!(j->active && settle(j))) {
				j->active = false;
				if (!j->left)
					continue;
				j->left--;
				draw(j, &r->seed);
			}
			j->active = true;
			lab_start(r->q, plt_disk_image(j->c->disk), &j->r, &j->clock);
			if (j->r.done)
				i--; /* at once: no I/O was needed */
			else
				active++;
		}
		plt_queue_poll(r->q, active > 0);
	} while (active);
	return NULL;
}

static unsigned any(void *arg, struct plt_op *const *pending, unsigned n)
{
	(void)pending;
	return (unsigned)(plt_unit_random(arg) % n);
}

/* False: there is no such ring here. */
static bool rider_new(struct rider *r, struct plt_ctx *ctx, enum kind kind, struct chain *c, unsigned nchains,
		      unsigned work, uint64_t seed)
{
	struct plt_ring *ring = NULL;

	memset(r, 0, sizeof(*r));
	r->seed = seed;
	if (kind == URING && (!plt_ring_uring_available() || plt_ring_uring_new(plt_ctx_pool(ctx), 128, &ring) < 0))
		return false;
	if (kind == THREADS)
		ck_assert_int_eq(plt_ring_threads_new(plt_ctx_pool(ctx), &ring), 0);
	if (kind == TEST)
		ck_assert_int_eq(plt_ring_test_new(any, &r->seed, &ring), 0);
	ck_assert_int_eq(plt_queue_new(ctx, ring, false, &r->q), 0);
	r->n = nchains * SLOTS;
	r->job = calloc(r->n, sizeof(*r->job));
	for (unsigned i = 0; i < r->n; i++)
		job_new(&r->job[i], &c[i / SLOTS], i % SLOTS, work);
	return true;
}

static void rider_free(struct rider *r)
{
	plt_queue_free(r->q);
	for (unsigned i = 0; i < r->n; i++)
		free(r->job[i].buf);
	free(r->job);
}

/* ---- blocking calls -------------------------------------------------------------------------- */

struct walker {
	pthread_t thread;
	struct chain *c;
	unsigned n, number, work;
	uint64_t seed;
};

static int call(struct plt_disk *d, struct lab_req *r)
{
	switch (r->kind) {
	case PLT_IO_READ_REQ:
		return plt_read(d, r->off, r->buf, r->len, &r->err);
	case PLT_IO_WRITE_REQ:
		return plt_write(d, r->off, r->buf, r->len, &r->err);
	case PLT_IO_COMPRESSED_REQ:
		return plt_write_compressed(d, r->off, r->buf, r->len, 0, &r->err);
	case PLT_IO_ZERO_REQ:
		return plt_write_zeroes(d, r->off, r->len, r->flags, &r->err);
	case PLT_IO_DISCARD_REQ:
		return plt_discard(d, r->off, r->len, &r->err);
	default:
		return plt_flush(d, &r->err);
	}
}

/* One after the other, on the disks in turn. */
static void *walk(void *arg)
{
	struct walker *w = arg;

	for (unsigned i = 0; i < w->work; i++) {
		struct job j;

		job_new(&j, &w->c[i % w->n], SLOTS + w->number, 0);
		draw(&j, &w->seed);
		do
			j.r.result = call(j.c->disk, &j.r);
		while (settle(&j));
		free(j.buf);
	}
	return NULL;
}

_Static_assert((uint64_t)(SLOTS + BLOCKING) * RANGE < PACKED_AT, "ranges overlap");

/* ---- tests ----------------------------------------------------------------------------------- */

/* @nriders threads with a queue each, over @n disks; blocking calls beside them. */
static void storm(struct plt_ctx *ctx, enum kind kind, struct chain *c, unsigned n, unsigned nriders,
		  unsigned nwalkers, unsigned work, uint64_t seed)
{
	struct rider r[8];
	struct walker w[BLOCKING];
	unsigned per = n / nriders;

	for (unsigned i = 0; i < nriders; i++)
		if (!rider_new(&r[i], ctx, kind, c + i * per, per, work, seed + i)) {
			printf("# no such ring here\n");
			return;
		}
	for (unsigned i = 0; i < nriders; i++)
		if (nriders + nwalkers > 1)
			ck_assert_int_eq(pthread_create(&r[i].thread, NULL, ride, &r[i]), 0);
	for (unsigned i = 0; i < nwalkers; i++) {
		w[i] = (struct walker){ .c = c, .n = n, .number = i, .work = work * n * 2, .seed = seed + 100 + i };
		ck_assert_int_eq(pthread_create(&w[i].thread, NULL, walk, &w[i]), 0);
	}
	if (nriders + nwalkers == 1)
		ride(&r[0]);
	for (unsigned i = 0; i < nwalkers; i++)
		pthread_join(w[i].thread, NULL);
	for (unsigned i = 0; i < nriders; i++) {
		if (nriders + nwalkers > 1)
			pthread_join(r[i].thread, NULL);
		rider_free(&r[i]);
	}
}

START_TEST(hundred_images)
{
	unsigned n = scaled(20, 4) / 4 * 4, work = scaled(24, 4);
	uint64_t seed = plt_unit_seed();
	struct plt_ctx *ctx = lab_ctx(3);
	struct chain *c = calloc(n, sizeof(*c));

	for (unsigned i = 0; i < n; i++) {
		c[i].cache = i % 4 ? "unsafe" : NULL; /* most do not wait for the disk */
		new_chain(ctx, &c[i], i, &seed);
	}
	storm(ctx, (enum kind)_i, c, n, 4, 2, work, seed);
	for (unsigned i = 0; i < n; i++)
		end_chain(ctx, &c[i]);
	free(c);
	plt_ctx_free(ctx);
}
END_TEST

/* One disk, many threads: what they contend for is one set of tables. */
START_TEST(one_disk)
{
	uint64_t seed = plt_unit_seed();
	struct plt_ctx *ctx = lab_ctx(2);
	struct chain c = { .cache = NULL };

	new_chain(ctx, &c, (unsigned)_i, &seed);
	storm(ctx, _i % 2 ? THREADS : URING, &c, 1, 1, BLOCKING, scaled(200, 20), seed);
	end_chain(ctx, &c);
	plt_ctx_free(ctx);
}
END_TEST

START_TEST(images_in_images)
{
	uint64_t seed = plt_unit_seed();
	/* one worker: it must not wait behind itself */
	struct plt_ctx *ctx = lab_ctx(1 + (unsigned)_i % 2);
	struct chain c[2] = { 0 };

	for (unsigned i = 0; i < 2; i++) {
		c[i].cache = i ? "unsafe" : NULL;
		new_nest(ctx, &c[i], (unsigned)_i + i, &seed);
	}
	if (_i < 3) {
		storm(ctx, (enum kind)_i, c, 2, 1, _i == TEST ? 0 : 2, scaled(80, 6), seed);
	} else {
		struct walker w = { .c = c, .n = 2, .work = scaled(3000, 200), .seed = seed };

		walk(&w);
	}
	end_chain(ctx, &c[0]);
	end_chain(ctx, &c[1]);
	plt_ctx_free(ctx);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/stress");
	TCase *many = tcase_create("many"), *one = tcase_create("one"), *nested = tcase_create("nested");

	tcase_set_timeout(many, 300);
	tcase_set_timeout(one, 300);
	tcase_set_timeout(nested, 300);
	tcase_add_loop_test(many, hundred_images, THREADS, URING + 1);
	tcase_add_loop_test(one, one_disk, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(nested, images_in_images, 0, 4);
	suite_add_tcase(s, many);
	suite_add_tcase(s, one);
	suite_add_tcase(s, nested);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
