/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Resizing against a model: disks grow and shrink between writes of every kind, over snapshots and
 * over backing files that are longer than they; what is new reads as zeros, what was kept stays, the
 * image is sound after each step.  Then the same with a store that fails at every single operation.
 */
#include <string.h>

#include "tests/block/lab.h"

#define MOST (3u << 20)
#define BASE_LEN (2u << 20)

static const struct layout {
	const char *options;
	uint32_t most;
	bool backing, snapshot, raw;
} layouts[] = {
	{ "", MOST, false, false, false },
	{ "cluster_size=512", MOST, false, false, false }, /* the L1 table grows, and its blocks of counts */
	{ "cluster_size=512", 1 << 20, true, false, false },
	{ "cluster_size=4k", MOST, true, false, false },
	{ "cluster_size=4k", MOST, false, true, false },
	{ "cluster_size=4k,compat=v2", MOST, true, false, false },
	{ "cluster_size=64k,extended_l2=on", MOST, true, false, false },
	{ "cluster_size=4k,lazy_refcounts=on", MOST, true, false, false },
	{ "cluster_size=1k,refcount_bits=1", MOST, false, false, false },
	{ "cluster_size=1k,refcount_bits=64", MOST, true, false, false },
	{ NULL, MOST, false, false, true },
};

struct scene {
	const struct layout *l;
	struct plt_ctx *ctx;
	struct plt_store *file, *base;
	struct plt_disk *disk;
	uint64_t seed, size;
	uint8_t *model, *buf; /* MOST bytes */
	uint8_t *snapshot;    /* what the snapshot holds, snapshot_size bytes; NULL: there is none */
	uint64_t snapshot_size;
};

static uint64_t any(struct scene *s, uint64_t n)
{
	return n ? plt_unit_random(&s->seed) % n : 0;
}

static struct plt_disk *open_disk(struct scene *s, struct plt_store *file)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;

	if (!s->l->raw)
		return lab_open(s->ctx, file, s->base);
	o.flags = PLT_OPEN_WRITE;
	lab_must(plt_disk_open_store(s->ctx, file, "top", "raw", &o, &disk, &err), &err);
	return disk;
}

static void scene_new(struct scene *s, const struct layout *l, uint64_t seed)
{
	memset(s, 0, sizeof(*s));
	s->l = l;
	s->seed = seed;
	s->ctx = lab_ctx(1);
	s->size = 512 * (1 + any(s, l->most / 512));
	s->model = calloc(1, MOST);
	s->buf = malloc(MOST);
	ck_assert(s->model && s->buf);
	ck_assert_int_eq(plt_memory_new(NULL, l->raw ? s->size : 0, 0, &s->file), 0);
	if (l->backing) {
		memset(s->buf, 0xb5, BASE_LEN);
		ck_assert_int_eq(plt_memory_new(s->buf, BASE_LEN, 0, &s->base), 0);
		memset(s->model, 0xb5, PLT_MIN(s->size, BASE_LEN));
	}
	if (!l->raw)
		lab_create(s->ctx, s->file, l->options, s->size, l->backing);
	s->disk = open_disk(s, s->file);
}

static void scene_free(struct scene *s)
{
	plt_store_unref(s->file);
	plt_store_unref(s->base);
	plt_ctx_free(s->ctx);
	free(s->model);
	free(s->snapshot);
	free(s->buf);
}

static void verify(struct scene *s, struct plt_disk *disk, uint64_t len, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;

	if (!len)
		return;
	lab_must(plt_read(disk, 0, s->buf, len, &err), &err);
	for (uint64_t i = 0; i < len; i++)
		lab_expect(s->buf[i] == s->model[i], "%s, %s: byte %#" PRIx64 " of %#" PRIx64 " is %02x, not %02x",
			   s->l->options, what, i, s->size, s->buf[i], s->model[i]);
}

static void take_snapshot(struct scene *s)
{
	lab_snapshot(&s->file);
	s->snapshot = malloc(MOST);
	s->snapshot_size = s->size;
	memcpy(s->snapshot, s->model, MOST);
}

/* What a resize takes from the disk stays in its snapshot. */
static void verify_snapshot(struct scene *s, struct plt_store *file)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;

	if (!s->snapshot)
		return;
	o.flags = PLT_OPEN_NO_BACKING;
	o.snapshot = "1";
	lab_must(plt_disk_open_store(s->ctx, file, "top", "qcow2", &o, &disk, &err), &err);
	ck_assert_uint_ge(plt_disk_size(disk), s->snapshot_size);
	if (s->snapshot_size)
		lab_must(plt_read(disk, 0, s->buf, s->snapshot_size, &err), &err);
	for (uint64_t i = 0; i < s->snapshot_size; i++)
		lab_expect(s->buf[i] == s->snapshot[i], "byte %#" PRIx64 " of the snapshot is %02x, not %02x", i,
			   s->buf[i], s->snapshot[i]);
	lab_close(disk);
}

static void resize(struct scene *s, uint64_t size)
{
	static const char *const modes[] = { NULL, "off", "falloc", "full", "metadata" };
	const char *mode = size > s->size ? modes[any(s, s->l->raw ? 4 : 5)] : NULL;
	struct plt_error err = PLT_ERROR_INIT;

	if (size < s->size && any(s, 3) == 0)
		lab_expect(plt_resize(s->disk, size, 0, NULL, NULL) == -EINVAL, "shrunk without being told to");
	lab_must(plt_resize(s->disk, size, PLT_RESIZE_SHRINK, mode, &err), &err);
	ck_assert_uint_eq(plt_disk_size(s->disk), size);
	if (size > s->size)
		memset(s->model + s->size, 0, size - s->size);
	s->size = size;
}

static void step(struct scene *s)
{
	uint32_t cs = s->l->raw ? 512 : plt_disk_cluster_size(s->disk);
	uint64_t off = any(s, s->size), most = any(s, 4) ? 20000 : MOST, len = 1 + any(s, PLT_MIN(s->size - off, most));
	struct plt_error err = PLT_ERROR_INIT;

	if (any(s, 4) == 0 || s->size == 0) {
		/* often at the edge of a cluster, of a table, or just beside it */
		uint64_t grain = any(s, 2) ? 512 : cs, size = plt_align_up(any(s, s->l->most), grain);

		resize(s, PLT_MIN(size, s->l->most));
		return;
	}
	switch (any(s, 7)) {
	case 0:
		lab_must(plt_write_zeroes(s->disk, off, len, any(s, 2) ? PLT_ZERO_UNMAP : 0, &err), &err);
		memset(s->model + off, 0, len);
		return;
	case 1:
		lab_must(plt_discard(s->disk, off, len, &err), &err);
		lab_must(plt_read(s->disk, off, s->model + off, len, &err), &err);
		return;
	case 2:
		if (s->l->raw)
			return;
		off = plt_align_down(off, cs);
		len = PLT_MIN(s->size - off, cs);
		memset(s->model + off, (int)any(s, 256), len);
		lab_must(plt_write_compressed(s->disk, off, s->model + off, len, 0, &err), &err);
		return;
	case 3:
		lab_must(plt_flush(s->disk, &err), &err);
		return;
	default:
		for (uint64_t i = 0; i < len; i++)
			s->model[off + i] = (uint8_t)(1 + any(s, 255));
		lab_must(plt_write(s->disk, off, s->model + off, len, &err), &err);
	}
}

START_TEST(model)
{
	uint64_t seed = plt_unit_seed();
	struct scene s;

	scene_new(&s, &layouts[_i], seed);
	for (unsigned round = 0; round < (getenv("PLT_SANITIZER") ? 4 : 8); round++) {
		for (unsigned i = 0; i < 12; i++)
			step(&s);
		verify(&s, s.disk, s.size, "open");
		lab_close(s.disk);
		if (!s.l->raw)
			lab_check(s.ctx, s.file, s.l->options);
		verify_snapshot(&s, s.file);
		if (round == 2 && s.l->snapshot)
			take_snapshot(&s);
		s.disk = open_disk(&s, s.file);
		ck_assert_uint_eq(plt_disk_size(s.disk), s.size);
		verify(&s, s.disk, s.size, "opened again");
	}
	lab_close(s.disk);
	scene_free(&s);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------- */

struct trap {
	unsigned seen, at;
	bool sprung;
};

static int spring(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct trap *t = arg;

	(void)off;
	(void)len;
	(void)tag;
	if (ev == LAB_READ || t->seen++ != t->at)
		return 0;
	t->sprung = true;
	return -EIO;
}

static void note_finding(void *arg, const struct plt_check_finding *f)
{
	if (!strcmp(f->id, "Q-HDR-SIZE"))
		*(bool *)arg = true;
}

/* Sound but for leaks; what lies behind the end may be there only @beyond_too. */
static void check_after(struct scene *s, struct plt_store *file, bool beyond_too, unsigned at)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result res;
	bool beyond = false;

	lab_must(plt_check_store(s->ctx, file, "top", "qcow2", note_finding, &beyond, &res, &err), &err);
	lab_expect((!res.corruptions || (beyond && beyond_too)) && !res.check_errors,
		   "%s: failure %u of a resize corrupts", s->l->options, at);
}

/* One failing operation at a time; true: there was one. */
static bool fail_at(struct scene *s, unsigned at, uint64_t to)
{
	struct trap trap = { .at = at };
	struct lab_hook hook = { spring, &trap };
	struct plt_store *copy = lab_copy(s->file), *hooked = lab_hooked(copy, &hook);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	uint64_t size;
	bool sprung;
	int r;

	trap.at = UINT32_MAX;
	disk = open_disk(s, hooked);
	trap.at = at;
	trap.seen = 0;
	r = plt_resize(disk, to, PLT_RESIZE_SHRINK, NULL, &err);
	sprung = trap.sprung; /* a discard that fails is no failure */
	trap.at = UINT32_MAX;
	if (r < 0)
		lab_expect(err.text[0], "a failure without a text");
	if (r == 0)
		ck_assert_uint_eq(plt_disk_size(disk), to);
	verify(s, disk, PLT_MIN(PLT_MIN(s->size, to), plt_disk_size(disk)), "after a failure");
	(void)plt_disk_close(disk, NULL);
	plt_store_unref(hooked);
	check_after(s, copy, r < 0, at);
	disk = open_disk(s, copy);
	size = plt_disk_size(disk);
	lab_expect(size == to || (r < 0 && size == s->size), "%s: failure %u: size %" PRIu64, s->l->options, at, size);
	verify(s, disk, PLT_MIN(s->size, size), "opened after a failure");
	/* nothing of what the failure left behind the end comes back */
	lab_must(plt_resize(disk, MOST, 0, NULL, &err), &err);
	lab_must(plt_read(disk, 0, s->buf, MOST, &err), &err);
	for (uint64_t i = PLT_MIN(s->size, size); i < MOST; i++)
		lab_expect(!s->buf[i], "%s: failure %u: byte %#" PRIx64 " is not zero", s->l->options, at, i);
	lab_close(disk);
	check_after(s, copy, false, at);
	verify_snapshot(s, copy);
	plt_store_unref(copy);
	return sprung;
}

static const struct layout failing[] = {
	{ "cluster_size=512", 200 << 10, false, false, false },
	{ "cluster_size=512", 200 << 10, true, false, false },
	{ "cluster_size=4k", 400 << 10, true, true, false },
	{ "cluster_size=4k,lazy_refcounts=on", 400 << 10, true, false, false },
};

START_TEST(failures)
{
	uint64_t seed = plt_unit_seed();
	struct scene s;

	scene_new(&s, &failing[_i], seed);
	for (unsigned i = 0; i < 20; i++)
		step(&s);
	resize(&s, s.l->most / 2 / 512 * 512 + 512); /* ends inside a cluster */
	memset(s.model, 0x77, s.size);
	lab_must(plt_write(s.disk, 0, s.model, s.size, NULL), NULL);
	lab_close(s.disk);
	if (s.l->snapshot)
		take_snapshot(&s);
	for (unsigned at = 0; fail_at(&s, at, s.size / 2048 * 512); at++)
		;
	for (unsigned at = 0; fail_at(&s, at, MOST); at++)
		;
	scene_free(&s);
}
END_TEST

/* ---- requests that meet a resize ---------------------------------------------------------------- */

struct rush {
	struct plt_disk *disk;
	_Atomic bool stop;
	uint64_t seed;
	unsigned refused, served;
};

static void *rusher(void *arg)
{
	static const uint8_t ones[4096] = { 1 };
	struct rush *w = arg;
	uint8_t buf[4096];

	while (!atomic_load(&w->stop)) {
		uint64_t off = plt_unit_random(&w->seed) % (MOST / 4096) * 4096;
		struct plt_extent x[4];
		unsigned n;
		int r;

		switch (plt_unit_random(&w->seed) % 5) {
		case 0:
			r = plt_write(w->disk, off, ones, sizeof(ones), NULL);
			break;
		case 1:
			r = plt_write_zeroes(w->disk, off, sizeof(ones), PLT_ZERO_UNMAP, NULL);
			break;
		case 2:
			r = plt_discard(w->disk, off, sizeof(ones), NULL);
			break;
		case 3:
			r = plt_status(w->disk, off, sizeof(ones), 0, x, 4, &n, NULL);
			r = r == -EINVAL ? -EIO : r;
			break;
		default:
			r = plt_read(w->disk, off, buf, sizeof(buf), NULL);
			break;
		}
		lab_expect(r == 0 || r == -EIO, "a request beside a resize: %d", r);
		w->refused += r != 0;
		w->served += r == 0;
	}
	return NULL;
}

START_TEST(beside_requests)
{
	static const struct layout l = { "cluster_size=4k", MOST, true, false, false };
	uint64_t seed = plt_unit_seed();
	struct rush w[3];
	pthread_t t[3];
	struct scene s;

	scene_new(&s, &l, seed);
	for (unsigned i = 0; i < 3; i++) {
		w[i] = (struct rush){ .disk = s.disk, .seed = seed + i };
		ck_assert_int_eq(pthread_create(&t[i], NULL, rusher, &w[i]), 0);
	}
	for (unsigned i = 0; i < 150; i++)
		resize(&s, 512 * any(&s, MOST / 512));
	for (unsigned i = 0; i < 3; i++) {
		w[i].stop = true;
		pthread_join(t[i], NULL);
	}
	ck_assert_uint_gt(w[0].served + w[1].served + w[2].served, 0);
	ck_assert_uint_gt(w[0].refused + w[1].refused + w[2].refused, 0);
	lab_close(s.disk);
	lab_check(s.ctx, s.file, l.options);
	scene_free(&s);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/resize");
	TCase *t = tcase_create("resize");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, model, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, failures, 0, PLT_ARRAY_SIZE(failing));
	tcase_add_test(t, beside_requests);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
