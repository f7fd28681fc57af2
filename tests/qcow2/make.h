/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_QCOW2_MAKE_H
#define PLT_TESTS_QCOW2_MAKE_H

/* Images in memory for the qcow2 suites: created, peeked at, damaged, examined. */
#include "base/error.h"
#include "qcow2/qcow2.h"
#include "tests/unit.h"

static inline struct plt_opts *make_opts(const char *text)
{
	static const struct plt_opt_desc *const tables[] = { qcow2_create_opts, NULL };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = plt_opts_new();

	ck_assert_ptr_nonnull(o);
	if (text && *text)
		ck_assert_msg(plt_opts_parse(o, text, qcow2_create_opts, &err) == 0, "%s", err.text);
	ck_assert_msg(plt_opts_validate(o, tables, &err) == 0, "%s", err.text);
	return o;
}

/* An image of @size with options @text. */
static inline struct plt_store *make_image(const char *text, uint64_t size)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = make_opts(text);
	struct plt_store *st;
	struct plt_create how = { .opts = o, .size = size, .name = "test" };
	int r;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	how.file = st;
	r = qcow2_create(&how, &err);
	ck_assert_msg(r == 0, "%s", err.text);
	plt_opts_free(o);
	return st;
}

static inline uint64_t get64(struct plt_store *st, uint64_t off)
{
	uint8_t b[8];

	ck_assert_int_eq(plt_store_read(st, off, b, 8, PLT_IO_OTHER, NULL), 0);
	return plt_get_be64(b);
}

static inline void put64(struct plt_store *st, uint64_t off, uint64_t v)
{
	uint8_t b[8];

	plt_put_be64(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b, 8, PLT_IO_OTHER, NULL), 0);
}

static inline void put32(struct plt_store *st, uint64_t off, uint32_t v)
{
	uint8_t b[4];

	plt_put_be32(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b, 4, PLT_IO_OTHER, NULL), 0);
}

static inline void put16(struct plt_store *st, uint64_t off, uint16_t v)
{
	uint8_t b[2];

	plt_put_be16(b, v);
	ck_assert_int_eq(plt_store_write(st, off, b, 2, PLT_IO_OTHER, NULL), 0);
}

static inline uint64_t size_of(struct plt_store *st)
{
	uint64_t size;

	ck_assert_int_eq(plt_store_size(st, &size, NULL), 0);
	return size;
}

/* The default layout of make_image() without preallocation, 64 KiB clusters. */
enum { CL = 65536, REFTABLE = CL, REFBLOCK = 2 * CL, L1 = 3 * CL };

/* Map guest cluster @guest to a fresh data cluster as a writer would (64 KiB clusters, 16-bit counts). */
static inline uint64_t map_cluster(struct plt_store *st, unsigned guest)
{
	uint64_t end, l2 = get64(st, L1) & QCOW2_L1_OFFSET;

	end = (size_of(st) + CL - 1) / CL * CL;
	if (!l2) {
		l2 = end;
		end += CL;
		ck_assert_int_eq(plt_store_truncate(st, end, NULL), 0);
		put16(st, REFBLOCK + l2 / CL * 2, 1);
		put64(st, L1, l2 | QCOW2_COPIED);
	}
	ck_assert_int_eq(plt_store_truncate(st, end + CL, NULL), 0);
	put16(st, REFBLOCK + end / CL * 2, 1);
	put64(st, l2 + guest * 8, end | QCOW2_COPIED);
	return end;
}

#define FOUND_MAX 64

struct found {
	struct plt_check_totals totals;
	unsigned corruptions, leaks, errors, beyond, notes, n;
	char ids[FOUND_MAX][24];
	char texts[FOUND_MAX][160];
};

static inline void found_emit(struct plt_examine *ex, const struct plt_finding *f)
{
	struct found *v = ex->arg;

	if (f->severity == PLT_NOTE)
		v->notes++;
	else if (f->beyond_qemu)
		v->beyond++;
	else if (f->severity == PLT_CORRUPTION)
		v->corruptions += (unsigned)f->count;
	else if (f->severity == PLT_LEAK)
		v->leaks += (unsigned)f->count;
	else
		v->errors += (unsigned)f->count;
	if (v->n < FOUND_MAX) {
		snprintf(v->ids[v->n], sizeof(v->ids[0]), "%s", f->id);
		snprintf(v->texts[v->n], sizeof(v->texts[0]), "%s", f->text);
		v->n++;
	}
}

/* @mend: NULL, or what is to be put right. */
static inline int mend_store(struct plt_store *st, struct plt_mend *mend, struct found *v, struct plt_error *err)
{
	struct plt_ctx *ctx;
	struct plt_examine ex = { .file = st, .name = "test", .emit = found_emit, .arg = v, .mend = mend };
	int r;

	memset(v, 0, sizeof(*v));
	ck_assert_int_eq(plt_ctx_new(NULL, &ctx, NULL), 0);
	ex.ctx = ctx;
	r = qcow2_examine(&ex, err);
	v->totals = ex.totals;
	plt_ctx_free(ctx);
	return r;
}

static inline int examine(struct plt_store *st, struct found *v, struct plt_error *err)
{
	return mend_store(st, NULL, v, err);
}

static inline bool has_id(const struct found *v, const char *id)
{
	for (unsigned i = 0; i < v->n; i++)
		if (!strcmp(v->ids[i], id))
			return true;
	return false;
}

static inline bool has_text(const struct found *v, const char *text)
{
	for (unsigned i = 0; i < v->n; i++)
		if (strstr(v->texts[i], text))
			return true;
	return false;
}

#endif
