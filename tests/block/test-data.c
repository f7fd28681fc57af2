/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The data path against a byte array: random reads, writes, zeroes, discards, compressed writes and
 * flushes on images of many layouts, over memory stores, closed and opened again in between.  What a
 * discarded range reads as is looked up once and held to from then on (never the backing file).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/zero.h"
#include "block/internal.h"
#include "tests/unit.h"

struct layout {
	const char *format, *options;
	uint64_t size;
	bool backing;
	const char *open;   /* what it takes to open it */
	bool unknown;       /* a new image reads as anything */
};

#define LUKS "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"
#define KEY "encrypt.key-secret=s"

static const struct layout layouts[] = {
	{ "raw", NULL, 1000 * 1000, false, NULL, false },
	{ "qcow2", "cluster_size=512", 300 * 1024 + 512, false, NULL, false },
	{ "qcow2", "cluster_size=512,refcount_bits=1", 200 * 1024, false, NULL, false },
	{ "qcow2", "cluster_size=512,refcount_bits=64", 200 * 1024, true, NULL, false },
	{ "qcow2", "cluster_size=4096,refcount_bits=8", 1 << 20, true, NULL, false },
	{ "qcow2", "cluster_size=1024,compat=0.10", 400 * 1024, true, NULL, false },
	{ "qcow2", "cluster_size=1024,compat=0.10", 400 * 1024, false, NULL, false },
	{ "qcow2", "cluster_size=65536", 3 << 20, true, NULL, false },
	{ "qcow2", "cluster_size=16384,extended_l2=on", 1 << 20, false, NULL, false },
	{ "qcow2", "cluster_size=16384,extended_l2=on", (1 << 20) + 1536, true, NULL, false },
	{ "qcow2", "cluster_size=2M", 8 << 20, true, NULL, false },
	{ "qcow2", "cluster_size=4096,preallocation=metadata", 1 << 20, false, NULL, false },
	{ "qcow2", "cluster_size=4096,compression_type=zstd", 1 << 20, true, NULL, false },
	{ "qcow2", "cluster_size=4096,lazy_refcounts=on", 1 << 20, false, NULL, false },
	{ "qcow", NULL, 3 << 20, false, NULL, false },
	{ "qcow", NULL, 1 << 20, true, NULL, false },
#define FIRST_ENCRYPTED 16
	{ "qcow", "encrypt.format=aes," KEY, 1 << 20, true, KEY, false },
	{ "qcow", "encryption=on," KEY, 1 << 20, false, KEY, false },
	{ "qcow2", "cluster_size=512,encryption=on," KEY, 300 * 1024, false, KEY, false },
	{ "qcow2", "cluster_size=4096,encryption=on," KEY, 1 << 20, true, KEY, false },
	{ "qcow2", "cluster_size=4096," LUKS, 1 << 20, true, KEY, false },
	{ "qcow2", "cluster_size=512," LUKS ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv", 300 * 1024, true, KEY, false },
	{ "qcow2", "cluster_size=16384,extended_l2=on," LUKS, (1 << 20) + 1536, true, KEY, false },
	{ "qcow2", "cluster_size=2M," LUKS, 8 << 20, true, KEY, false },
	{ "qcow2", "cluster_size=4096,preallocation=metadata," LUKS, 1 << 20, false, KEY, true },
	{ "luks", "key-secret=s,iter-time=1", 1000 * 1000, false, "key-secret=s", true },
	{ "luks", "key-secret=s,iter-time=1,cipher-alg=aes-192,ivgen-alg=plain", 3 << 20, false, "key-secret=s", true },
};
_Static_assert(PLT_ARRAY_SIZE(layouts) == FIRST_ENCRYPTED + 11, "");

struct world {
	struct plt_ctx *ctx;
	struct plt_store *file, *base;
	struct plt_disk *disk;
	const struct layout *l;
	uint8_t *model;
	uint64_t size, seed;
};

static uint64_t rnd(struct world *w)
{
	w->seed = w->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return w->seed >> 33;
}

static void must(int r, const struct plt_error *err)
{
	ck_assert_msg(r >= 0, "%d: %s", r, err->text);
}

static void open_disk(struct world *w)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;

	const char *open[] = { w->l->open, NULL };

	o.flags = PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING;
	o.options = w->l->open ? open : NULL;
	must(plt_disk_open_store(w->ctx, w->file, "top", w->l->format, &o, &w->disk, &err), &err);
	if (w->l->backing) {
		struct plt_disk *b;

		o.flags = 0;
		o.options = NULL;
		must(plt_disk_open_store(w->ctx, w->base, "base", "raw", &o, &b, &err), &err);
		plt_disk_attach_backing(w->disk, b);
	}
}

static void setup(struct world *w, const struct layout *l, uint64_t seed)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_ctx_options co = PLT_CTX_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const char *options[] = { l->options, NULL };
	uint64_t base_len = l->size / 3 * 2 / 512 * 512;

	memset(w, 0, sizeof(*w));
	w->l = l;
	w->seed = seed;
	w->size = plt_align_up(l->size, 512);
	w->model = calloc(1, w->size);
	co.cache_bytes = 1 << 20;
	must(plt_ctx_new(&co, &w->ctx, &err), &err);
	must(plt_ctx_add_object(w->ctx, "secret,id=s,data=tr0ub4dor", &err), &err);
	must(plt_memory_new(NULL, 0, 0, &w->file), &err);
	c.format = l->format;
	c.options = l->options ? options : NULL;
	c.virtual_size = l->size;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	if (l->backing) {
		for (uint64_t i = 0; i < base_len; i++)
			w->model[i] = (uint8_t)(i >> 9 ^ i);
		must(plt_memory_new(w->model, base_len, 0, &w->base), &err);
		c.backing = "base";
		c.backing_format = "raw";
	}
	must(plt_create_store(w->ctx, w->file, "top", &c, NULL, &err), &err);
	open_disk(w);
	if (l->unknown)
		must(plt_read(w->disk, 0, w->model, w->size, &err), &err);
}

static void teardown(struct world *w)
{
	struct plt_error err = PLT_ERROR_INIT;

	must(plt_disk_close(w->disk, &err), &err);
	plt_store_unref(w->file);
	plt_store_unref(w->base);
	plt_ctx_free(w->ctx);
	free(w->model);
}

static void compare(struct world *w, uint64_t off, uint64_t len)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(len + 1);

	must(plt_read(w->disk, off, buf, len, &err), &err);
	for (uint64_t i = 0; memcmp(buf, w->model + off, len); i++)
		ck_assert_msg(buf[i] == w->model[off + i], "%s %s: byte %" PRIu64 " is %#x, expected %#x",
			      w->l->format, w->l->options ? w->l->options : "", off + i, buf[i], w->model[off + i]);
	free(buf);
}

static void pick(struct world *w, uint64_t *off, uint64_t *len)
{
	uint64_t most = rnd(w) % 16 ? 5000 : w->size / 8, want;

	*off = rnd(w) % w->size;
	if (rnd(w) % 2)
		*off = plt_align_down(*off, 512);
	want = 1 + rnd(w) % most;
	*len = PLT_MIN(want, w->size - *off);
	if (rnd(w) % 2)
		*len = PLT_MIN(plt_align_up(*len, 512), w->size - *off);
}

static void step(struct world *w)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t off, len, want, unit = plt_disk_cluster_size(w->disk);
	uint8_t *buf;

	pick(w, &off, &len);
	switch (rnd(w) % 16) {
	case 0:
	case 1:
	case 2:
		compare(w, off, len);
		return;
	case 3:
		len = PLT_MIN(len * 4, w->size - off);
		must(plt_write_zeroes(w->disk, off, len, rnd(w) % 2 ? PLT_ZERO_UNMAP : 0, &err), &err);
		memset(w->model + off, 0, len);
		return;
	case 4:
		len = PLT_MIN(len * 4, w->size - off);
		buf = malloc(len + 1);
		must(plt_discard(w->disk, off, len, &err), &err);
		must(plt_read(w->disk, off, buf, len, &err), &err);
		for (uint64_t i = 0; i < len; i++)
			if (buf[i] && buf[i] != w->model[off + i])
				ck_abort_msg("discarded byte %" PRIu64, off + i);
		memcpy(w->model + off, buf, len);
		free(buf);
		return;
	case 5:
		must(plt_flush(w->disk, &err), &err);
		return;
	case 6:
		if (rnd(w) % 8)
			return;
		must(plt_disk_close(w->disk, &err), &err);
		open_disk(w);
		return;
	case 7:
	case 8:
		if (plt_disk_can_compress(w->disk)) {
			off = plt_align_down(off, unit);
			len = PLT_MIN(unit, w->size - off);
			memset(w->model + off, (uint8_t)(off >> 9), len);
			for (uint64_t i = rnd(w) % 64; i < len; i += 64)
				w->model[off + i] = (uint8_t)rnd(w);
			must(plt_write_compressed(w->disk, off, w->model + off, len, 0, &err), &err);
			return;
		}
		/* fall through */
	default:
		want = rnd(w);
		for (uint64_t i = 0; i < len; i++)
			w->model[off + i] = (uint8_t)((want + i * 7) | 1);
		must(plt_write(w->disk, off, w->model + off, len, &err), &err);
		return;
	}
}

static void no_finding(void *arg, const struct plt_check_finding *f)
{
	if (!strcmp(f->severity, "note")) /* qcow never frees: room that nothing uses is no damage */
		return;
	ck_abort_msg("check after random work (%s): %s %s", (const char *)arg, f->id, f->text);
}

START_TEST(random_work)
{
	const struct layout *l = &layouts[_i];
	struct plt_check_result res;
	struct plt_error err = PLT_ERROR_INIT;
	struct world w;
	int r;

	setup(&w, l, plt_unit_seed() + (uint64_t)_i);
	for (int i = 0; i < 1500; i++)
		step(&w);
	compare(&w, 0, w.size);
	must(plt_disk_close(w.disk, &err), &err);
	r = plt_check_store(w.ctx, w.file, "top", l->format, no_finding, (void *)(uintptr_t)(l->options), &res, &err);
	if (r != -ENOTSUP)
		must(r, &err);
	open_disk(&w);
	compare(&w, 0, w.size);
	teardown(&w);
}
END_TEST

START_TEST(out_of_range)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct world w;
	uint8_t b[16] = { 0 };

	setup(&w, &layouts[_i], 1);
	ck_assert_int_eq(plt_read(w.disk, w.size, b, 1, &err), -EIO);
	ck_assert_int_eq(plt_write(w.disk, w.size - 15, b, 16, &err), -EIO);
	ck_assert_int_eq(plt_write(w.disk, UINT64_MAX, b, 16, &err), -EIO);
	ck_assert_int_eq(plt_write_zeroes(w.disk, 1, UINT64_MAX, 0, &err), -EIO);
	ck_assert_int_eq(plt_discard(w.disk, UINT64_MAX - 3, 8, &err), -EIO);
	must(plt_read(w.disk, w.size, b, 0, &err), &err);
	teardown(&w);
}
END_TEST

/* The map covers the disk without gap or overlap, whatever the piece asked for. */
START_TEST(status_tiles)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent v[7];
	struct world w;
	unsigned n;

	setup(&w, &layouts[_i], plt_unit_seed() + 99);
	for (int i = 0; i < 300; i++)
		step(&w);
	for (uint64_t off = 0; off < w.size;) {
		must(plt_status(w.disk, off, w.size - off, 0, v, PLT_ARRAY_SIZE(v), &n, &err), &err);
		ck_assert_uint_ge(n, 1);
		for (unsigned i = 0; i < n; i++) {
			ck_assert_uint_eq(v[i].off, off);
			ck_assert_uint_gt(v[i].len, 0);
			if (v[i].flags & PLT_EXTENT_ZERO)
				ck_assert(plt_is_zero(w.model + off, v[i].len));
			off += v[i].len;
		}
		ck_assert_uint_le(off, w.size);
	}
	teardown(&w);
}
END_TEST

/* Encrypted images hold neither what was written nor what was copied from below. */
START_TEST(no_plaintext)
{
	static const char mark[] = "this text must not be found anywhere in the file, neither written nor copied";
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *base;
	struct world w;
	const void *p;
	size_t len;

	setup(&w, &layouts[_i], 1);
	if (w.l->backing) {
		base = w.base;
		for (uint64_t off = 0; off + 512 <= w.size / 3 * 2; off += 512)
			must(plt_store_write(base, off + 100, mark, sizeof(mark), PLT_IO_DATA, &err), &err);
	}
	for (uint64_t off = 0; off < w.size; off += w.size / 16 / 512 * 512 + 512)
		must(plt_write(w.disk, off + 7, mark, sizeof(mark), &err), &err);
	must(plt_write_zeroes(w.disk, 512, 1024, 0, &err), &err);
	must(plt_flush(w.disk, &err), &err);
	p = plt_memory_data(w.file, &len);
	ck_assert_ptr_null(memmem(p, len, mark, 32));
	teardown(&w);
}
END_TEST

/* Requests of many pieces, at odd places, in odd pieces of memory. */
START_TEST(long_requests)
{
	static const size_t cuts[] = { 1, 511, 512, 513, 4096, 100000, 1000003 };
	struct plt_error err = PLT_ERROR_INIT;
	struct layout l = layouts[_i];
	struct iovec iov[64];
	struct world w;

	l.size = 24 << 20;
	setup(&w, &l, plt_unit_seed());
	for (unsigned round = 0; round < 4; round++) {
		uint64_t off = rnd(&w) % (4 << 20), len = (9 << 20) + rnd(&w) % (2 << 20), at = 0;
		uint8_t *buf = malloc(len);
		int n = 0;

		if (round == 3) { /* sectors lie whole, all in one piece */
			off = plt_align_down(off, 512);
			len = plt_align_down(len, 512);
		}
		for (uint64_t i = 0; i < len; i++)
			buf[i] = (uint8_t)(i * 31 + i / 251 + round);
		for (; at < len && n < 63 && round < 3; n++) {
			size_t c = cuts[rnd(&w) % PLT_ARRAY_SIZE(cuts)];

			c = PLT_MIN(c, len - at);
			iov[n] = (struct iovec){ buf + at, c };
			at += c;
		}
		if (at < len)
			iov[n++] = (struct iovec){ buf + at, len - at };
		must(plt_writev(w.disk, off, iov, n, &err), &err);
		memcpy(w.model + off, buf, len);
		memset(buf, 0, len);
		must(plt_readv(w.disk, off, iov, n, &err), &err);
		ck_assert(!memcmp(buf, w.model + off, len));
		free(buf);
		compare(&w, 0, w.size);
	}
	must(plt_disk_close(w.disk, &err), &err);
	open_disk(&w);
	compare(&w, 0, w.size);
	teardown(&w);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/data");
	TCase *t = tcase_create("data");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, random_work, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, no_plaintext, FIRST_ENCRYPTED, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, long_requests, FIRST_ENCRYPTED + 6, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, out_of_range, 0, 3);
	tcase_add_loop_test(t, status_tiles, 0, PLT_ARRAY_SIZE(layouts));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
