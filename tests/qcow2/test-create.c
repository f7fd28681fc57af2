/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* qcow2/create.c: what is made is sound, options are judged, and a torn image is none. */
#include <stdio.h>

#include "tests/qcow2/make.h"

static const char *const option_sets[] = {
	"", "compat=v2", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "refcount_bits=1",
	"refcount_bits=2", "refcount_bits=64", "compression_type=zstd", "lazy_refcounts=on",
	"cluster_size=1k,refcount_bits=64", "cluster_size=512,refcount_bits=64",
};
static const uint64_t sizes[] = { 0, 1, 512, 65537, UINT64_C(40) << 20, UINT64_C(9) << 30 };

START_TEST(created_is_sound)
{
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (int pre = 0; pre < 2; pre++) {
			struct plt_error err = PLT_ERROR_INIT;
			struct plt_store *st;
			struct found f;
			char o[100];

			if (pre && sizes[i] > UINT64_C(1) << 30)
				continue;
			snprintf(o, sizeof(o), "%s%spreallocation=%s", option_sets[_i], *option_sets[_i] ? "," : "",
				 pre ? "metadata" : "off");
			st = make_image(o, sizes[i]);
			ck_assert_msg(examine(st, &f, &err) == 0, "%s: %s", o, err.text);
			ck_assert_msg(!f.corruptions && !f.leaks && !f.errors && !f.beyond, "%s, %llu bytes: %s", o,
				      (unsigned long long)sizes[i], f.texts[0]);
			if (pre)
				ck_assert_uint_eq(f.totals.allocated_clusters, f.totals.total_clusters);
			plt_store_unref(st);
		}
	}
}
END_TEST

static const struct {
	const char *options;
	uint64_t size;
	int errnum;
	const char *text;
} refused[] = {
	{ "cluster_size=1000", 0, EINVAL, "Cluster size must be a power of two between 512 and 2048k" },
	{ "cluster_size=256", 0, EINVAL, "Cluster size must be a power of two between 512 and 2048k" },
	{ "cluster_size=4M", 0, EINVAL, "Cluster size must be a power of two between 512 and 2048k" },
	{ "compat=0.42", 0, EINVAL, "Parameter 'version' does not accept value '0.42'" },
	{ "preallocation=1234", 0, EINVAL, "Parameter 'preallocation' does not accept value '1234'" },
	{ "compression_type=lz4", 0, EINVAL, "Parameter 'compression-type' does not accept value 'lz4'" },
	{ "refcount_bits=3", 0, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits" },
	{ "refcount_bits=128", 0, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits" },
	{ "refcount_bits=0", 0, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits" },
	{ "compat=v2,refcount_bits=8", 0, EINVAL, "Different refcount widths than 16 bits require" },
	{ "compat=v2,lazy_refcounts=on", 0, EINVAL, "Lazy refcounts only supported with compatibility level 1.1" },
	{ "compat=v2,extended_l2=on", 0, EINVAL, "Extended L2 entries are only supported with compatibility level" },
	{ "compat=v2,compression_type=zstd", 0, EINVAL, "Non-zlib compression type is only supported" },
	{ "extended_l2=on,cluster_size=8k", 0, EINVAL, "cluster sizes of at least 16384 bytes" },
	{ "backing_fmt=raw", 0, EINVAL, "Backing format cannot be used without backing file" },
	{ "backing_file=x,preallocation=full", 0, EINVAL, "only be used at the same time if extended_l2 is on" },
	{ "data_file_raw=on", 0, EINVAL, "data-file-raw requires data-file" },
	{ "data_file=d,data_file_raw=on,backing_file=x", 0, EINVAL, "Backing file and data-file-raw cannot" },
	{ "encrypt.format=luks", 0, EINVAL, "'encrypt.key-secret' is required for cipher" },
	{ "encryption=on", 0, EINVAL, "'encrypt.key-secret' is required for cipher" },
	{ "encryption=on,encrypt.format=luks", 0, EINVAL, "can't be used at the same time" },
	{ "encrypt.format=rot13", 0, EINVAL, "'format' does not accept value 'rot13'" },
	{ "encrypt.key-secret=s", 0, EINVAL, "'encrypt.format' is missing" },
	{ "encryption=off,encrypt.key-secret=s", 0, EINVAL, "'encrypt.format' is missing" },
	{ "encrypt.format=aes,encrypt.iter-time=5", 0, EINVAL, "'encrypt.iter-time' is unexpected" },
	{ "encrypt.format=luks,encrypt.cipher-alg=serpent-256", 0, ENOTSUP, "'serpent-256' is not supported" },
	{ "encrypt.format=luks,encrypt.cipher-alg=rot13", 0, EINVAL, "'cipher-alg' does not accept value 'rot13'" },
	{ "", UINT64_C(1) << 60, EFBIG, "try using a larger cluster size" },
	{ "cluster_size=512", (UINT64_C(128) << 30) + 1, EFBIG, "try using a larger cluster size" },
	{ "", UINT64_MAX, EFBIG, "try using a larger cluster size" },
};

START_TEST(options_are_judged)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = make_opts(refused[_i].options);
	struct plt_create how = { .opts = o, .size = refused[_i].size ? refused[_i].size : 1 << 20, .name = "test" };
	struct plt_store *st;
	int r;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	how.file = st;
	r = qcow2_create(&how, &err);
	ck_assert_msg(r == -refused[_i].errnum, "%s: %d (%s)", refused[_i].options, r, err.text);
	ck_assert_msg(strstr(err.text, refused[_i].text), "%s: '%s'", refused[_i].options, err.text);
	ck_assert_uint_eq(size_of(st), 0); /* nothing was written */
	plt_opts_free(o);
	plt_store_unref(st);
}
END_TEST

/* Fail at the n-th operation, for each n: what is left is not taken for an image. */
START_TEST(torn_is_no_image)
{
	struct plt_opts *o = make_opts("preallocation=metadata");
	bool done = false;
	unsigned n;

	for (n = 0; !done; n++) {
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_fault_rule rule = { .ops = PLT_FAULT_ANY & ~PLT_FAULT_READ, .tag = -1, .skip = n, .count = 1,
					       .error = EIO, .tear = 8 };
		struct plt_create how = { .opts = o, .size = 10 << 20, .name = "test" };
		struct plt_store *mem, *st;
		uint8_t head[2048];

		ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &mem), 0);
		ck_assert_int_eq(plt_fault_new(mem, &st), 0);
		ck_assert_int_ge(plt_fault_add(st, &rule), 0);
		how.file = st;
		done = qcow2_create(&how, &err) == 0;
		ck_assert_int_eq(plt_store_read(mem, 0, head, sizeof(head), PLT_IO_OTHER, NULL), 0);
		if (!done && qcow2_probe(head, sizeof(head), size_of(mem))) {
			/* Only the header's own write, torn behind the magic: that field alone is there. */
			ck_assert_mem_eq(head + 8, (uint8_t[100]){ 0 }, 100);
		}
		plt_store_unref(st);
		plt_store_unref(mem);
	}
	ck_assert_uint_ge(n, 5);
	plt_opts_free(o);
}
END_TEST

START_TEST(measure)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_opts *o = make_opts("");
	uint64_t required, full;

	ck_assert_int_eq(qcow2_measure(o, UINT64_C(1) << 30, 0, &required, &full, &err), 0);
	ck_assert_uint_eq(required, 393216);
	ck_assert_uint_eq(full, 1074135040);
	ck_assert_int_eq(qcow2_measure(o, UINT64_C(1) << 30, 65537, &required, &full, &err), 0);
	ck_assert_uint_eq(required, 393216 + 2 * 65536);
	ck_assert_int_eq(qcow2_measure(o, UINT64_C(1) << 60, 0, &required, &full, &err), -EFBIG);
	plt_opts_free(o);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2/create");
	TCase *t = tcase_create("create");

	tcase_add_loop_test(t, created_is_sound, 0, (int)(sizeof(option_sets) / sizeof(option_sets[0])));
	tcase_add_loop_test(t, options_are_judged, 0, (int)(sizeof(refused) / sizeof(refused[0])));
	tcase_add_test(t, torn_is_no_image);
	tcase_add_test(t, measure);
	suite_add_tcase(s, t);
	return plt_unit_main(s);
}
