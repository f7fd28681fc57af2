/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What the engine makes of the lists of what is lost and inferred, against a model: chains of random content with
 * random lists in each layer.  A range that is lost in a layer is lost where nothing above covers it, and nothing
 * below shows through it; reads fail there and nowhere else, or give zeros there; block status and the lists of
 * the disk say the same.
 */
#include <string.h>

#include "tests/block/lab.h"

#define LAYERS 3
#define CLUSTER 4096u
#define SIZE (256u << 10)
#define CLUSTERS (SIZE / CLUSTER)

struct layer {
	uint32_t size;
	uint8_t has[CLUSTERS];   /* 0 absent, 1 zeros, else data of that byte */
	uint8_t doubt[SIZE];     /* 0 none, 1 proven, ..., 4 guess, LOST */
};
#define LOST 5

struct scene {
	uint64_t seed;
	struct plt_ctx *ctx;
	struct layer layer[LAYERS]; /* 0 is the top */
	struct plt_store *file[LAYERS];
	uint8_t want[SIZE], doubt[SIZE], depth[SIZE]; /* of the disk */
};

static uint32_t any(struct scene *s, uint32_t n)
{
	return (uint32_t)(plt_unit_random(&s->seed) % n);
}

/* Whole clusters only: nothing is copied on write, and each layer can be made by itself. */
static void fill(struct scene *s, unsigned l)
{
	struct layer *y = &s->layer[l];
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = lab_open(s->ctx, s->file[l], NULL);
	uint8_t buf[CLUSTER];

	for (uint32_t i = 0; i < y->size / CLUSTER; i++) {
		uint32_t kind = any(s, 6);

		if (kind < 3)
			continue;
		y->has[i] = kind == 3 ? 1 : (uint8_t)(2 + any(s, 250));
		memset(buf, y->has[i], sizeof(buf));
		if (kind == 3)
			lab_must(plt_write_zeroes(disk, (uint64_t)i * CLUSTER, CLUSTER, 0, &err), &err);
		else if (kind == 4)
			lab_must(plt_write_compressed(disk, (uint64_t)i * CLUSTER, buf, CLUSTER, 0, &err), &err);
		else
			lab_must(plt_write(disk, (uint64_t)i * CLUSTER, buf, CLUSTER, &err), &err);
	}
	lab_close(disk);
}

static void doubt(struct scene *s, struct plt_image *img, unsigned l)
{
	struct layer *y = &s->layer[l];

	for (unsigned n = any(s, 7); n; n--) {
		struct plt_doubt d = { .kind = any(s, 2) ? PLT_LOST : PLT_INFERRED,
				       .certainty = (enum plt_certainty)any(s, 4), .why = "a test" };

		d.disk = any(s, 4) ? img->disk : 1; /* not the one that is shown: nothing to do with it */
		d.off = any(s, y->size);
		d.len = 1 + any(s, PLT_MIN(y->size - (uint32_t)d.off, 20 * CLUSTER));
		ck_assert_int_eq(plt_doubts_set(&img->engine->rescue->plan.doubts, &d), 0);
		if (d.disk == img->disk)
			memset(y->doubt + d.off, d.kind == PLT_LOST ? LOST : 4 - (int)d.certainty, (size_t)d.len);
	}
}

static void expect(struct scene *s)
{
	for (uint32_t at = 0; at < s->layer[0].size; at++) {
		s->want[at] = s->doubt[at] = s->depth[at] = 0;
		for (unsigned l = 0; l < LAYERS && at < s->layer[l].size; l++) {
			const struct layer *y = &s->layer[l];
			uint8_t has = y->has[at / CLUSTER];

			/* a layer that has inferred that it holds nothing shows the one below */
			if (y->doubt[at] > s->doubt[at]) {
				s->doubt[at] = y->doubt[at];
				s->depth[at] = (uint8_t)l;
			}
			if (y->doubt[at] == LOST)
				break;
			if (has) {
				s->want[at] = has == 1 ? 0 : has;
				break;
			}
		}
	}
}

static struct plt_disk *open_chain(struct scene *s, unsigned flags)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk[LAYERS];
	uint64_t seed = s->seed;

	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_RESCUE | flags;
	for (unsigned l = LAYERS; l-- > 0;) {
		lab_must(plt_disk_open_store(s->ctx, s->file[l], "layer", "qcow2", &o, &disk[l], &err), &err);
		memset(s->layer[l].doubt, 0, sizeof(s->layer[l].doubt));
		doubt(s, plt_disk_image(disk[l]), l);
		if (l + 1 < LAYERS)
			plt_disk_attach_backing(disk[l], disk[l + 1]);
	}
	s->seed = seed; /* the same lists each time */
	return disk[0];
}

static struct scene *scene_new(uint64_t seed)
{
	struct scene *s = calloc(1, sizeof(*s));

	ck_assert_ptr_nonnull(s);
	s->seed = seed;
	s->ctx = lab_ctx(1);
	for (unsigned l = 0; l < LAYERS; l++) {
		s->layer[l].size = l && !any(s, 2) ? CLUSTER * (1 + any(s, CLUSTERS)) : SIZE;
		ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &s->file[l]), 0);
		lab_create(s->ctx, s->file[l], "cluster_size=4k", s->layer[l].size, l + 1 < LAYERS);
		fill(s, l);
	}
	return s;
}

static void scene_free(struct scene *s)
{
	for (unsigned l = 0; l < LAYERS; l++)
		plt_store_unref(s->file[l]);
	plt_ctx_free(s->ctx);
	free(s);
}

static bool any_lost(const struct scene *s, uint32_t off, uint32_t len)
{
	for (uint32_t at = off; at < off + len; at++)
		if (s->doubt[at] == LOST)
			return true;
	return false;
}

static void read_all_over(struct scene *s, struct plt_disk *disk, bool zero)
{
	static uint8_t buf[SIZE];

	for (unsigned n = 0; n < 60; n++) {
		uint32_t off = any(s, SIZE), len = 1 + any(s, n % 2 ? SIZE - off : PLT_MIN(SIZE - off, 3 * CLUSTER));
		struct plt_error err = PLT_ERROR_INIT;
		int r = plt_read(disk, off, buf, len, &err);

		if (!zero && any_lost(s, off, len)) {
			lab_expect(r == -EIO, "read of %u+%u: %d", off, len, r);
			lab_expect(strstr(err.text, ": lost: a test"), "'%s'", err.text);
			continue;
		}
		lab_expect(r == 0, "read of %u+%u: %s", off, len, err.text);
		lab_expect(!memcmp(buf, s->want + off, len), "read of %u+%u: wrong", off, len);
	}
}

static void check_status(struct scene *s, struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent x[64];
	unsigned n;

	for (uint64_t off = 0; off < SIZE;) {
		lab_must(plt_status(disk, off, SIZE - off, 0, x, 64, &n, &err), &err);
		for (unsigned i = 0; i < n; i++) {
			bool damaged = x[i].flags & PLT_EXTENT_DAMAGED;

			lab_expect(x[i].off == off, "a gap before %" PRIu64, x[i].off);
			for (uint64_t at = off; at < off + x[i].len; at++)
				lab_expect(damaged == (s->doubt[at] == LOST), "status at %" PRIu64, at);
			off += x[i].len;
		}
	}
}

struct listed {
	struct scene *s;
	uint8_t doubt[SIZE];
	uint64_t end;
};

static int list(void *arg, const struct plt_doubt_range *d)
{
	static const char *const names[] = { "proven", "strong", "likely", "guess" };
	struct listed *l = arg;
	int code = LOST;

	for (int i = 0; i < 4 && !d->lost; i++)
		if (!strcmp(names[i], d->certainty))
			code = i + 1;
	lab_expect(d->len && d->off >= l->end && d->off + d->len <= SIZE, "list: %" PRIu64 "+%" PRIu64, d->off, d->len);
	lab_expect(!strcmp(d->why, "a test") && d->lost == !d->certainty, "list: reason");
	l->end = d->off + d->len;
	memset(l->doubt + d->off, code, (size_t)d->len);
	for (uint64_t at = d->off; at < l->end; at++)
		lab_expect(!d->lost || d->depth == l->s->depth[at], "list: depth at %" PRIu64, at);
	return 0;
}

static void check_lists(struct scene *s, struct plt_disk *disk)
{
	struct listed *l = calloc(1, sizeof(*l));
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_ptr_nonnull(l);
	l->s = s;
	lab_must(plt_disk_doubts(disk, list, l, &err), &err);
	for (uint32_t at = 0; at < SIZE; at++)
		lab_expect(l->doubt[at] == s->doubt[at], "list at %u: %u, not %u", at, l->doubt[at], s->doubt[at]);
	free(l);
}

START_TEST(test_model)
{
	uint64_t seed = plt_unit_seed();

	for (unsigned i = 0; i < 30; i++) {
		struct scene *s = scene_new(seed + i);

		for (unsigned zero = 0; zero < 2; zero++) {
			struct plt_disk *disk = open_chain(s, zero ? PLT_OPEN_ZERO_LOST : 0);

			expect(s);
			check_lists(s, disk);
			check_status(s, disk);
			read_all_over(s, disk, zero);
			check_lists(s, disk);
			plt_disk_close(disk, NULL);
		}
		scene_free(s);
	}
}
END_TEST

/* Reads fail of what a store cannot read; with zeros wanted the sectors are noted, and no others. */
static int bad_sector(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	const uint64_t *bad = arg;

	(void)tag;
	return ev == LAB_READ && *bad && off < *bad + 512 && *bad < off + len ? -EIO : 0;
}

static int only(void *arg, const struct plt_doubt_range *d)
{
	uint64_t *sum = arg;

	ck_assert(d->lost);
	ck_assert_uint_eq(d->off % 512, 0);
	*sum += d->len;
	return 0;
}

START_TEST(test_bad_sectors)
{
	uint64_t seed = plt_unit_seed(), bad = 0, sum;
	struct lab_hook hook = { bad_sector, &bad };
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_store *mem, *file;
	uint8_t content[64 << 10], buf[64 << 10];
	struct plt_disk *disk;

	memset(content, 0x5a, sizeof(content));
	ck_assert_int_eq(plt_memory_new(content, sizeof(content), 0, &mem), 0);
	file = lab_hooked(mem, &hook);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t at, off, len;

		bad = 0;
		o.flags = PLT_OPEN_RESCUE | (i % 4 ? PLT_OPEN_ZERO_LOST : 0);
		lab_must(plt_disk_open_store(ctx, file, "disk", "raw", &o, &disk, &err), &err);
		bad = at = 512 * (1 + plt_unit_random(&seed) % 126);
		off = plt_unit_random(&seed) % (at + 1);
		len = at - off + 1 + plt_unit_random(&seed) % (sizeof(buf) - at);
		memset(buf, 1, sizeof(buf));
		sum = 0;
		if (i % 4) {
			lab_must(plt_read(disk, off, buf, (size_t)len, &err), &err);
			for (uint64_t n = off; n < off + len; n++)
				lab_expect(buf[n - off] == (n >= at && n < at + 512 ? 0 : 0x5a), "byte %" PRIu64, n);
		} else {
			ck_assert_int_eq(plt_read(disk, off, buf, (size_t)len, &err), -EIO);
		}
		lab_must(plt_disk_doubts(disk, only, &sum, &err), &err);
		ck_assert_uint_eq(sum, i % 4 ? 512 : 0);
		plt_disk_close(disk, NULL);
	}
	plt_store_unref(file);
	plt_store_unref(mem);
	plt_ctx_free(ctx);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("rescue");
	TCase *t = tcase_create("rescue");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_model);
	tcase_add_test(t, test_bad_sectors);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
