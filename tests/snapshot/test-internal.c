/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Internal snapshots against a model: a disk is written, zeroed, discarded, resized; snapshots are made, applied and
 * deleted; after each of these the image is sound and every snapshot reads as the model says.  Then snapshots of a
 * disk under load, and what is refused, with nothing changed.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/checked.h"
#include "tests/block/lab.h"

#define MOST (1u << 20)
#define BASE_LEN (700u << 10)
#define SNAPSHOTS 6

static const struct layout {
	const char *options;
	bool backing, resizes;
} layouts[] = {
	{ "", true, true },
	{ "cluster_size=512", true, true },
	{ "cluster_size=512,refcount_bits=64", false, true },
	{ "cluster_size=4k,refcount_bits=4", true, true }, /* a count of 15 is soon reached */
	{ "cluster_size=4k,compat=v2", true, false },
	{ "cluster_size=16k,extended_l2=on", true, true },
	{ "cluster_size=1k,lazy_refcounts=on", true, true },
	{ "cluster_size=4k,compression_type=zstd", false, true },
};

struct kept {
	char name[16];
	uint8_t *content;
	uint64_t size;
};

struct scene {
	const struct layout *l;
	struct plt_ctx *ctx;
	struct plt_store *file, *base;
	struct plt_disk *disk;
	uint64_t seed, size;
	uint8_t *model, *buf;
	struct kept kept[SNAPSHOTS];
	unsigned n, made;
};

static uint64_t any(struct scene *s, uint64_t n)
{
	return n ? plt_unit_random(&s->seed) % n : 0;
}

static void verify(struct scene *s, struct plt_disk *disk, const uint8_t *content, uint64_t len, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;

	lab_must(plt_read(disk, 0, s->buf, len, &err), &err);
	for (uint64_t i = 0; i < len; i++)
		lab_expect(s->buf[i] == content[i], "%s, %s: byte %#" PRIx64 " of %#" PRIx64 " is %02x, not %02x",
			   s->l->options, what, i, len, s->buf[i], content[i]);
}

/* The disk, each snapshot, and the structure. */
static void verify_all(struct scene *s)
{
	verify(s, s->disk, s->model, s->size, "the disk");
	lab_close(s->disk);
	lab_check(s->ctx, s->file, s->l->options);
	for (unsigned i = 0; i < s->n; i++) {
		struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_disk *disk, *base;

		o.flags = PLT_OPEN_NO_BACKING;
		o.snapshot_name = s->kept[i].name;
		lab_must(plt_disk_open_store(s->ctx, s->file, "top", "qcow2", &o, &disk, &err), &err);
		if (s->base) {
			o = (struct plt_open_options)PLT_OPEN_OPTIONS_INIT;
			lab_must(plt_disk_open_store(s->ctx, s->base, "base", "raw", &o, &base, &err), &err);
			plt_disk_attach_backing(disk, base);
		}
		ck_assert_uint_ge(plt_disk_size(disk), s->kept[i].size);
		verify(s, disk, s->kept[i].content, s->kept[i].size, s->kept[i].name);
		lab_close(disk);
	}
	s->disk = lab_open(s->ctx, s->file, s->base);
}

static void write_some(struct scene *s)
{
	uint64_t off = 512 * any(s, s->size / 512), len = 512 * (1 + any(s, 128));
	struct plt_error err = PLT_ERROR_INIT;
	uint32_t cs = plt_disk_cluster_size(s->disk);

	len = PLT_MIN(len, s->size - off);
	switch (any(s, 8)) {
	case 0:
		lab_must(plt_write_zeroes(s->disk, off, len, any(s, 2) ? PLT_ZERO_UNMAP : 0, &err), &err);
		memset(s->model + off, 0, len);
		return;
	case 1: /* what is discarded may read as before, and where there is something below it never shows */
		lab_must(plt_discard(s->disk, off, len, &err), &err);
		lab_must(plt_read(s->disk, off, s->model + off, len, &err), &err);
		return;
	case 2:
		off = plt_align_down(off, cs);
		len = PLT_MIN((uint64_t)cs, s->size - off);
		memset(s->model + off, (int)any(s, 255) + 1, len);
		lab_must(plt_write_compressed(s->disk, off, s->model + off, len, 1, &err), &err);
		return;
	default:
		for (uint64_t i = 0; i < len; i++)
			s->model[off + i] = (uint8_t)plt_unit_random(&s->seed);
		lab_must(plt_write(s->disk, off, s->model + off, len, &err), &err);
	}
}

static void resize(struct scene *s)
{
	uint64_t size = 512 * (1 + any(s, MOST / 512)), shown;
	struct plt_error err = PLT_ERROR_INIT;

	if (size > s->size) /* what is new reads as zeros, whatever lies below */
		memset(s->model + s->size, 0, size - s->size);
	lab_must(plt_resize(s->disk, size, PLT_RESIZE_SHRINK, NULL, &err), &err);
	shown = plt_disk_size(s->disk);
	ck_assert_uint_eq(shown, size);
	s->size = size;
}

static bool full(int r)
{
	return r == -ERANGE; /* a count has reached its limit: nothing has changed */
}

static void create(struct scene *s)
{
	struct kept *k = &s->kept[s->n];
	struct plt_snapshot how = { .name = k->name, .icount = -1 };
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (s->n == SNAPSHOTS)
		return;
	snprintf(k->name, sizeof(k->name), "s%u", s->made++);
	r = plt_snapshot_create(s->disk, &how, &err);
	if (full(r))
		return;
	lab_must(r, &err);
	k->content = malloc(MOST);
	k->size = s->size;
	memcpy(k->content, s->model, MOST);
	s->n++;
}

static void apply(struct scene *s)
{
	const struct kept *k = &s->kept[any(s, s->n)];
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (!s->n)
		return;
	r = plt_snapshot_apply(s->disk, NULL, k->name, &err);
	if (full(r))
		return;
	lab_must(r, &err);
	memcpy(s->model, k->content, MOST);
	s->size = k->size;
	ck_assert_uint_eq(plt_disk_size(s->disk), s->size);
}

static void delete(struct scene *s)
{
	unsigned i = (unsigned)any(s, s->n);
	struct plt_error err = PLT_ERROR_INIT;

	if (!s->n)
		return;
	lab_must(plt_snapshot_delete(s->disk, NULL, s->kept[i].name, &err), &err);
	free(s->kept[i].content);
	memmove(s->kept + i, s->kept + i + 1, (s->n - i - 1) * sizeof(s->kept[0]));
	s->n--;
}

START_TEST(model)
{
	const struct layout *l = &layouts[_i];
	struct scene s = { .l = l, .seed = plt_unit_seed() + (uint64_t)_i };

	s.ctx = lab_ctx(2);
	s.size = MOST / 2;
	s.model = calloc(1, MOST);
	s.buf = malloc(MOST);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &s.file), 0);
	if (l->backing) {
		memset(s.buf, 0xb5, BASE_LEN);
		ck_assert_int_eq(plt_memory_new(s.buf, BASE_LEN, 0, &s.base), 0);
		memset(s.model, 0xb5, PLT_MIN(s.size, BASE_LEN));
	}
	lab_create(s.ctx, s.file, l->options, s.size, l->backing);
	s.disk = lab_open(s.ctx, s.file, s.base);
	for (unsigned round = 0; round < (getenv("PLT_SANITIZER") ? 50 : 120); round++) {
		unsigned what = (unsigned)any(&s, 16);

		if (what < 9)
			write_some(&s);
		else if (what < 10 && l->resizes)
			resize(&s);
		else if (what < 13)
			create(&s);
		else if (what < 14)
			apply(&s);
		else
			delete(&s);
		if (what >= 10)
			verify_all(&s);
		if (any(&s, 20) == 0) {
			lab_close(s.disk);
			s.disk = lab_open(s.ctx, s.file, s.base);
		}
	}
	while (s.n)
		delete(&s);
	verify_all(&s);
	lab_close(s.disk);
	lab_check(s.ctx, s.file, "closed");
	plt_store_unref(s.file);
	plt_store_unref(s.base);
	plt_ctx_free(s.ctx);
	free(s.model);
	free(s.buf);
}
END_TEST

/* ---- under load ------------------------------------------------------------------------------ */

#define WRITERS 4
#define STRIDE (256u << 10)

struct writer {
	struct plt_disk *disk;
	uint64_t base, last;
	_Atomic bool stop;
};

/* The number goes to one place, and when that is done to another, a table's reach away. */
static void *write_pairs(void *arg)
{
	struct writer *w = arg;
	uint64_t buf[64];

	for (uint64_t n = 1; !atomic_load(&w->stop); n++) {
		for (unsigned i = 0; i < 64; i++)
			buf[i] = n;
		if (plt_write(w->disk, w->base + n % 40 * 512, buf, 512, NULL) < 0 ||
		    plt_write(w->disk, w->base, buf, 512, NULL) < 0 ||
		    plt_write(w->disk, w->base + STRIDE / 2, buf, 512, NULL) < 0 ||
		    plt_read(w->disk, w->base, buf, 512, NULL) < 0 || buf[0] != n)
			return (void *)1;
		w->last = n;
	}
	return NULL;
}

/* In a snapshot the second number is the first one or the one before. */
START_TEST(under_load)
{
	struct plt_ctx *ctx = lab_ctx(4);
	struct plt_store *file;
	struct plt_disk *disk, *then;
	struct plt_error err = PLT_ERROR_INIT;
	struct writer w[WRITERS];
	pthread_t thread[WRITERS];
	uint64_t a[64], b[64];
	char name[16];
	void *failed;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512", WRITERS * STRIDE, false);
	disk = lab_open(ctx, file, NULL);
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .disk = disk, .base = i * STRIDE };
		ck_assert_int_eq(pthread_create(&thread[i], NULL, write_pairs, &w[i]), 0);
	}
	for (unsigned i = 0; i < 12; i++) {
		struct plt_snapshot how = { .name = name, .icount = -1 };

		snprintf(name, sizeof(name), "s%u", i);
		lab_must(plt_snapshot_create(disk, &how, &err), &err);
		if (i >= 4) {
			snprintf(name, sizeof(name), "s%u", i - 2);
			if (i % 3)
				lab_must(plt_snapshot_delete(disk, NULL, name, &err), &err);
		}
	}
	for (unsigned i = 0; i < WRITERS; i++)
		atomic_store(&w[i].stop, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(thread[i], &failed);
		ck_assert_ptr_null(failed);
	}
	lab_close(disk);
	lab_check(ctx, file, "under load");
	for (unsigned i = 0; i < 12; i++) {
		struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
		int r;

		snprintf(name, sizeof(name), "s%u", i);
		o.snapshot_name = name;
		r = plt_disk_open_store(ctx, file, "top", "qcow2", &o, &then, &err);
		if (r == -ENOENT)
			continue;
		lab_must(r, &err);
		for (unsigned k = 0; k < WRITERS; k++) {
			lab_must(plt_read(then, w[k].base, a, 512, &err), &err);
			lab_must(plt_read(then, w[k].base + STRIDE / 2, b, 512, &err), &err);
			lab_expect(a[0] == a[63] && b[0] == b[63], "%s: a torn write", name);
			lab_expect(a[0] == b[0] || a[0] == b[0] + 1, "%s: %" PRIu64 " and %" PRIu64, name, a[0], b[0]);
			lab_expect(a[0] <= w[k].last, "%s: from the future", name);
		}
		lab_close(then);
	}
	plt_store_unref(file);
	plt_ctx_free(ctx);
}
END_TEST

/* ---- refused --------------------------------------------------------------------------------- */

static void same_bytes(struct plt_store *a, struct plt_store *b)
{
	size_t na, nb;
	const void *va = plt_memory_data(a, &na), *vb = plt_memory_data(b, &nb);

	ck_assert_uint_eq(na, nb);
	ck_assert_mem_eq(va, vb, na);
}

START_TEST(refused)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_snapshot how = { .name = "again", .id = "1", .icount = -1 };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file, *before;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	char *longest = malloc(65537);

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=4k,refcount_bits=1", 1 << 20, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_snapshot_create(disk, &how, &err), &err); /* nothing is shared yet */
	lab_must(plt_write(disk, 0, longest, 4096, &err), &err);
	lab_must(plt_flush(disk, &err), &err);
	before = lab_copy(file);
	ck_assert_int_eq(plt_snapshot_create(disk, &how, &err), -EEXIST);
	how.id = NULL;
	ck_assert_int_eq(plt_snapshot_create(disk, &how, &err), -ERANGE);
	ck_assert_ptr_nonnull(strstr(err.text, "refcount_bits=1"));
	memset(longest, 'x', 65536);
	longest[65536] = '\0';
	ck_assert_int_eq(plt_snapshot_delete(disk, NULL, "nobody", &err), -ENOENT);
	ck_assert_int_eq(plt_snapshot_delete(disk, "1", "nobody", &err), -ENOENT);
	ck_assert_int_eq(plt_snapshot_apply(disk, "2", NULL, &err), -ENOENT);
	same_bytes(file, before);
	lab_must(plt_snapshot_delete(disk, "1", NULL, &err), &err);
	lab_must(plt_discard(disk, 0, 4096, &err), &err);
	lab_must(plt_flush(disk, &err), &err);
	how.name = longest;
	ck_assert_int_eq(plt_snapshot_create(disk, &how, &err), -EINVAL);
	lab_close(disk);
	lab_check(ctx, file, "afterwards");
	lab_must(plt_disk_open_store(ctx, file, "top", "qcow2", &o, &disk, &err), &err);
	how.name = "x";
	ck_assert_int_eq(plt_snapshot_create(disk, &how, &err), -EBADF);
	lab_close(disk);
	o.flags = PLT_OPEN_WRITE;
	lab_must(plt_disk_open_store(ctx, file, "top", "raw", &o, &disk, &err), &err);
	ck_assert_int_eq(plt_snapshot_create(disk, &how, &err), -ENOTSUP);
	lab_close(disk);
	plt_store_unref(file);
	plt_store_unref(before);
	plt_ctx_free(ctx);
	free(longest);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("snapshot/internal");
	TCase *tc = tcase_create("snapshots");

	tcase_add_loop_test(tc, model, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_test(tc, under_load);
	tcase_add_test(tc, refused);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
