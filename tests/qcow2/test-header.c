/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* qcow2/header.c: every field out of bounds is refused by name; what is not known survives. */
#include <stdio.h>

#include "tests/qcow2/make.h"

static const struct {
	const char *what, *options;
	unsigned off, width;
	uint64_t value;
	int errnum;
	const char *text;
} bad_fields[] = {
	{ "magic", "", 0, 4, 0x514649fa, EINVAL, "Image is not in qcow2 format" },
	{ "version 1", "", 4, 4, 1, ENOTSUP, "Unsupported qcow2 version 1" },
	{ "version 4", "", 4, 4, 4, ENOTSUP, "Unsupported qcow2 version 4" },
	{ "backing offset", "", 8, 8, 65537, EINVAL, "Invalid backing file offset" },
	{ "backing offset overflow", "", 8, 8, UINT64_MAX, EINVAL, "Invalid backing file offset" },
	{ "backing length", "backing_file=x,backing_fmt=raw", 16, 4, 1024, EINVAL, "Backing file name too long" },
	{ "cluster bits low", "", 20, 4, 8, EINVAL, "Unsupported cluster size: 2^8" },
	{ "cluster bits high", "", 20, 4, 22, EINVAL, "Unsupported cluster size: 2^22" },
	{ "cluster bits wild", "", 20, 4, 0xffffffff, EINVAL, "Unsupported cluster size" },
	{ "size beyond L1", "", 24, 8, UINT64_C(1) << 40, EINVAL, "L1 table is too small" },
	{ "size wild", "", 24, 8, UINT64_MAX, EFBIG, "Image is too big" },
	{ "size negative", "", 24, 8, UINT64_C(1) << 63, EFBIG, "Image is too big" },
	{ "crypt method", "", 32, 4, 3, EINVAL, "Unsupported encryption method 3" },
	{ "l1 size", "", 36, 4, 0x400001, EFBIG, "Active L1 table too large" },
	{ "l1 size negative", "", 36, 4, 0xffffffff, EFBIG, "Active L1 table too large" },
	{ "l1 size zero", "", 36, 4, 0, EINVAL, "L1 table is too small" },
	{ "l1 unaligned", "", 40, 8, 3 * CL + 512, EINVAL, "Active L1 table offset invalid" },
	{ "l1 wild", "", 40, 8, UINT64_C(0xffffffffffff0000), EINVAL, "Active L1 table offset invalid" },
	{ "reftable unaligned", "", 48, 8, CL + 8, EINVAL, "Reference count table offset invalid" },
	{ "reftable wild", "", 48, 8, UINT64_C(0xffffffffffff0000), EINVAL, "Reference count table offset invalid" },
	{ "reftable none", "", 56, 4, 0, EINVAL, "Image does not contain a reference count table" },
	{ "reftable large", "", 56, 4, 129, EFBIG, "Reference count table too large" },
	{ "reftable huge", "", 56, 4, 0xffffffff, EFBIG, "Reference count table too large" },
	{ "snapshots many", "", 60, 4, 65537, EFBIG, "Snapshot table too large" },
	{ "unknown feature", "cluster_size=4k", 72, 8, UINT64_C(1) << 63, ENOTSUP,
	  "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000" },
	{ "refcount order", "", 96, 4, 7, EINVAL, "Reference count entry width too large; may not exceed 64 bits" },
	{ "header short", "", 100, 4, 103, EINVAL, "qcow2 header too short" },
	{ "header long", "", 100, 4, 65544, EINVAL, "qcow2 header exceeds cluster size" },
	{ "compression unknown", "", 104, 1, 2, ENOTSUP, "qcow2: unknown compression type: 2" },
	{ "compression without bit", "", 104, 1, 1, EINVAL, "Compression type incompatible feature bit must be set" },
	{ "bit without compression", "", 79, 1, 8, EINVAL, "Compression type incompatible feature bit must not be set" },
	{ "extension length", "", 116, 4, 65536, EINVAL, "Header extension too large" },
	{ "extension length wild", "", 116, 4, 0xfffffff8, EINVAL, "Header extension too large" },
	{ "format too long", "backing_file=x,backing_fmt=raw", 116, 4, 16, EUCLEAN, "ext_backing_format: len=16 too large" },
	{ "extended L2 in small clusters", "cluster_size=4k", 79, 1, 16, EINVAL, "Unsupported subcluster size: 128" },
};

static int read_header(struct plt_store *st, bool check, struct qcow2_state *q, struct plt_error *err)
{
	char *backing = NULL, *format = NULL;
	int r;

	memset(q, 0, sizeof(*q));
	r = qcow2_header_read(st, "test", check, q, &backing, &format, err);
	free(backing);
	free(format);
	return r;
}

START_TEST(bad_field_is_refused)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image(bad_fields[_i].options, 64 << 20);
	struct qcow2_state q;
	uint8_t b[8];
	int r;

	plt_put_be64(b, bad_fields[_i].value << (64 - 8 * bad_fields[_i].width));
	ck_assert_int_eq(plt_store_write(st, bad_fields[_i].off, b, bad_fields[_i].width, PLT_IO_OTHER, NULL), 0);
	r = read_header(st, false, &q, &err);
	ck_assert_msg(r == -bad_fields[_i].errnum, "%s: %d (%s)", bad_fields[_i].what, r, err.text);
	ck_assert_msg(strstr(err.text, bad_fields[_i].text), "%s: '%s'", bad_fields[_i].what, err.text);
	plt_store_unref(st);
}
END_TEST

/* Whatever the header's bytes are: an error with a text, or numbers that later code may rely on. */
START_TEST(any_bytes)
{
	uint64_t seed = plt_unit_seed();
	struct plt_store *st = make_image("backing_file=base,backing_fmt=raw", 64 << 20);
	uint8_t good[1024], b[1024];
	unsigned accepted = 0;

	ck_assert_int_eq(plt_store_read(st, 0, good, sizeof(good), PLT_IO_OTHER, NULL), 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct plt_error err = PLT_ERROR_INIT;
		struct qcow2_state q;
		int r;

		memcpy(b, good, sizeof(b));
		for (unsigned n = 1 + (unsigned)(plt_unit_random(&seed) % 4); n--;)
			b[plt_unit_random(&seed) % 560] = (uint8_t)(plt_unit_random(&seed) >> 20);
		ck_assert_int_eq(plt_store_write(st, 0, b, sizeof(b), PLT_IO_OTHER, NULL), 0);
		r = read_header(st, i & 1, &q, &err);
		if (r < 0) {
			ck_assert_msg(err.text[0], "an error without text: %d", r);
			continue;
		}
		accepted++;
		ck_assert(q.cluster_bits >= 9 && q.cluster_bits <= 21 && q.refcount_order <= 6);
		ck_assert(q.l1_size <= QCOW2_MAX_L1_BYTES / 8 && q.virtual_size <= INT64_MAX);
		ck_assert(qcow2_l1_entries(&q, q.virtual_size) <= q.l1_size);
		ck_assert((uint64_t)q.reftable_clusters << q.cluster_bits <= QCOW2_MAX_REFTABLE_BYTES);
		ck_assert(q.header_length <= q.cluster_size);
		qcow2_state_release(&q);
	}
	ck_assert_uint_gt(accepted, 100);
	plt_store_unref(st);
}
END_TEST

START_TEST(feature_names)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("", 64 << 20);
	struct qcow2_state q;

	/* The feature table is the first extension: rename "dirty bit" to bit 40. */
	ck_assert_int_eq(plt_store_write(st, 121, "\x28test feature", 13, PLT_IO_OTHER, NULL), 0);
	put64(st, 72, UINT64_C(1) << 40 | UINT64_C(1) << 41);
	ck_assert_int_eq(read_header(st, false, &q, &err), -ENOTSUP);
	ck_assert_str_eq(err.text, "Unsupported qcow2 feature(s): test feature, Unknown incompatible feature: "
			 "20000000000");
	plt_store_unref(st);
}
END_TEST

/* Header bytes and extensions that this program does not know come out as they went in. */
START_TEST(unknown_is_kept)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("cluster_size=4k", 64 << 20);
	uint8_t in[4096] = { 0 }, out[4096];
	char *backing = NULL, *format = NULL;
	struct qcow2_state q = { 0 };
	size_t len;

	ck_assert_int_eq(plt_store_read(st, 0, in, 112, PLT_IO_OTHER, NULL), 0);
	plt_put_be32(in + 100, 136);
	memcpy(in + 112, "bytes of a later version", 24);
	plt_put_be32(in + 136, 0x12345678);
	plt_put_be32(in + 140, 5);
	memcpy(in + 144, "hello", 5);
	plt_put_be32(in + 152, 0x12345678);
	plt_put_be32(in + 156, 0);
	plt_put_be64(in + 8, 168);
	plt_put_be32(in + 16, 9);
	memcpy(in + 168, "base.file", 9);
	plt_put_be64(in + 80, UINT64_C(1) << 50); /* unknown compatible and autoclear features */
	plt_put_be64(in + 88, UINT64_C(1) << 51);
	ck_assert_int_eq(plt_store_write(st, 0, in, sizeof(in), PLT_IO_OTHER, NULL), 0);
	ck_assert_int_eq(qcow2_header_read(st, "test", false, &q, &backing, &format, &err), 0);
	ck_assert_uint_eq(q.nunknown, 2);
	ck_assert_str_eq(backing, "base.file");
	ck_assert_int_eq(qcow2_header_build(&q, backing, format, out, &len, &err), 0);
	ck_assert_uint_eq(len, 177);
	ck_assert_int_eq(memcmp(in, out, sizeof(in)), 0);
	free(backing);
	free(format);
	qcow2_state_release(&q);
	plt_store_unref(st);
}
END_TEST

START_TEST(too_much_for_a_cluster)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("cluster_size=512", 1 << 20);
	char name[1025];
	uint8_t out[512];
	struct qcow2_state q;
	size_t len;

	ck_assert_int_eq(read_header(st, false, &q, &err), 0);
	memset(name, 'x', sizeof(name));
	name[392] = 0; /* 112 + end extension 8 + 392 = 512 */
	ck_assert_int_eq(qcow2_header_build(&q, name, NULL, out, &len, &err), 0);
	name[392] = 'x';
	name[393] = 0;
	ck_assert_int_eq(qcow2_header_build(&q, name, NULL, out, &len, &err), -ENOSPC);
	name[393] = 'x';
	name[1024] = 0;
	ck_assert_int_eq(qcow2_header_build(&q, name, NULL, out, &len, &err), -EINVAL);
	qcow2_state_release(&q);
	plt_store_unref(st);
}
END_TEST

/* A damaged bitmaps extension costs the bitmaps, not the image, and is kept as it is. */
START_TEST(damaged_bitmaps_extension)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("cluster_size=4k", 64 << 20);
	struct qcow2_state q;

	put32(st, 112, QCOW2_EXT_BITMAPS);
	put32(st, 116, 24);
	put32(st, 120, 1);
	put64(st, 128, 32);
	put64(st, 136, 4096 + 1); /* unaligned directory */
	ck_assert_int_eq(read_header(st, false, &q, &err), 0);
	ck_assert(q.bitmaps_damaged);
	ck_assert_uint_eq(q.nb_bitmaps, 0);
	ck_assert_uint_eq(q.nunknown, 1);
	qcow2_state_release(&q);
	plt_store_unref(st);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2/header");
	TCase *t = tcase_create("header");

	tcase_add_loop_test(t, bad_field_is_refused, 0, (int)(sizeof(bad_fields) / sizeof(bad_fields[0])));
	tcase_add_test(t, any_bytes);
	tcase_add_test(t, feature_names);
	tcase_add_test(t, unknown_is_kept);
	tcase_add_test(t, too_much_for_a_cluster);
	tcase_add_test(t, damaged_bitmaps_extension);
	suite_add_tcase(s, t);
	return plt_unit_main(s);
}
