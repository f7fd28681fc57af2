/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Plans that cost more than they bring are known as such: those whose header maps the disk otherwise than the
 * header that is there, and maps less of it.  Others are left alone.
 */
#include "repair/repair.h"
#include "tests/block/lab.h"

#define SIZE (8u << 20)

/* Would a plan of one edit be worse? */
static bool worse(struct plt_ctx *ctx, struct plt_store *file, uint64_t off, const void *bytes, size_t len)
{
	struct plt_repair rep = { .ctx = ctx, .file = file, .name = (char *)(uintptr_t)"image",
				  .format = (char *)(uintptr_t)"qcow2" };
	bool is;

	ck_assert_int_eq(plt_store_size(file, &rep.size, NULL), 0);
	ck_assert_int_eq(plt_overlay_new(file, true, &rep.overlay), 0);
	ck_assert_int_eq(plt_store_write(rep.overlay, off, bytes, len, PLT_IO_OTHER, NULL), 0);
	is = plt_repair_is_worse(&rep);
	plt_store_unref(rep.overlay);
	return is;
}

START_TEST(test_headers)
{
	static const uint8_t zero[8], bits[4] = { 0, 0, 0, 11 }, flags[8] = { 0, 0, 0, 0, 0, 0, 0, 1 };
	static const uint8_t small[8] = { 0, 0, 0, 0, 0, 0x10, 0, 0 };
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	uint8_t old[8], *buf = malloc(SIZE);

	ck_assert_ptr_nonnull(buf);
	memset(buf, 0x77, SIZE);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=4k", SIZE, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 0, buf, SIZE, &err), &err);
	lab_close(disk);
	ck_assert_int_eq(plt_store_read(file, 40, old, 8, PLT_IO_OTHER, NULL), 0);

	ck_assert(worse(ctx, file, 40, zero, 8));    /* another place of the L1 table */
	ck_assert(worse(ctx, file, 20, bits, 4));    /* other clusters */
	ck_assert(worse(ctx, file, 24, small, 8));   /* a smaller disk */
	ck_assert(!worse(ctx, file, 40, old, 8));    /* what is there already */
	ck_assert(!worse(ctx, file, 72, flags, 8));  /* says nothing of the map */
	ck_assert(!worse(ctx, file, 8192, zero, 8)); /* is no part of the header */

	/* where the header there is maps nothing, any other may be better */
	ck_assert_int_eq(plt_store_write(file, 40, zero, 8, PLT_IO_OTHER, NULL), 0);
	ck_assert(!worse(ctx, file, 40, old, 8));
	ck_assert(!worse(ctx, file, 20, bits, 4));
	plt_store_unref(file);
	plt_ctx_free(ctx);
	free(buf);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("worse");
	TCase *t = tcase_create("worse");

	tcase_add_test(t, test_headers);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
