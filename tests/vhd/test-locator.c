/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * vhd/locator.c: texts of every platform code become paths in the right order, hostile lengths and
 * offsets become nothing, and what is written is read again as what it was.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "tests/vhd/make.h"

/* ---- UTF-16 ---------------------------------------------------------------------------------- */

START_TEST(utf16)
{
	static const struct {
		const char *text;
		const char *little;
		size_t len;
	} v[] = {
		{ "", "", 0 },
		{ "a.vhd", "a\0.\0v\0h\0d\0", 10 },
		{ "\xc3\xa4", "\xe4\0", 2 },
		{ "\xe2\x82\xac", "\xac\x20", 2 },
		{ "\xf0\x9f\x92\xbf", "\x3d\xd8\xbf\xdc", 4 },
		{ "\xef\xbf\xbd", "\xfd\xff", 2 },
	};
	static const char *const bad[] = {
		"\x80", "\xc3", "\xc3z", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80",
		"\xff", "a\xe2\x82",
	};
	uint8_t *p, swapped[16];
	size_t len;
	char *text;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		ck_assert_int_eq(vhd_to_utf16(v[i].text, false, &p, &len), 0);
		ck_assert_uint_eq(len, v[i].len);
		ck_assert_mem_eq(p, v[i].little, len);
		free(p);
		text = vhd_from_utf16((const uint8_t *)v[i].little, v[i].len, false);
		ck_assert_str_eq(text, v[i].text);
		free(text);
		for (size_t j = 0; j < v[i].len; j++)
			swapped[j ^ 1] = (uint8_t)v[i].little[j];
		ck_assert_int_eq(vhd_to_utf16(v[i].text, true, &p, &len), 0);
		ck_assert_mem_eq(p, swapped, v[i].len);
		free(p);
		text = vhd_from_utf16(swapped, v[i].len, true);
		ck_assert_str_eq(text, v[i].text);
		free(text);
	}
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(vhd_to_utf16(bad[i], false, &p, &len), -EINVAL);
	text = vhd_from_utf16((const uint8_t *)"\x3d\xd8" "a\0\0\xdc" "b", 7, false); /* halves of pairs, half a unit */
	ck_assert_str_eq(text, "\xef\xbf\xbd" "a\xef\xbf\xbd");
	free(text);
}
END_TEST

/* ---- reading --------------------------------------------------------------------------------- */

#define TEXT_AT 8192u

struct text {
	const char *code;
	const char *text;
	enum { AS_IS, LITTLE, BIG, ALIAS } how;
};

/* A Macintosh alias record: "name" or "name|path" or "name|path|mount point". */
static size_t alias(uint8_t *p, const char *text)
{
	const char *parts[3] = { text, NULL, NULL };
	size_t n = 150;

	memset(p, 0, 512);
	for (unsigned i = 1; i < 3 && parts[i - 1]; i++) {
		parts[i] = strchr(parts[i - 1], '|');
		if (parts[i])
			parts[i]++;
	}
	p[7] = 2;
	p[50] = (uint8_t)strcspn(text, "|");
	memcpy(p + 51, text, p[50]);
	for (unsigned i = 1; i < 3 && parts[i]; i++) {
		size_t len = strcspn(parts[i], "|");

		plt_put_be16(p + n, (uint16_t)(17 + i));
		plt_put_be16(p + n + 2, (uint16_t)len);
		memcpy(p + n + 4, parts[i], len);
		n += 4 + len + (len & 1);
	}
	plt_put_be16(p + n, 0xffff);
	plt_put_be16(p + 4, (uint16_t)(n + 4));
	return n + 4;
}

static size_t encode(uint8_t *p, const struct text *t)
{
	uint8_t *wide;
	size_t len;

	if (t->how == ALIAS)
		return alias(p, t->text);
	if (t->how == AS_IS) {
		memcpy(p, t->text, strlen(t->text));
		return strlen(t->text);
	}
	ck_assert_int_eq(vhd_to_utf16(t->text, t->how == BIG, &wide, &len), 0);
	memcpy(p, wide, len);
	free(wide);
	return len;
}

/* The names that come of @t (ended by a NULL code) and of the header's name, joined by "|". */
static const char *names_of(const struct text *t, const char *name, bool name_big)
{
	static char ret[4096];
	struct plt_store *st = make_sparse(VHD_DIFFERENCING, 65536, 65536, 1);
	struct vhd_header h = get_header(st);
	struct plt_error err = PLT_ERROR_INIT;
	struct text n = { NULL, name, name_big ? BIG : LITTLE };
	unsigned count;
	char **names;

	memset(h.parent_name, 0, sizeof(h.parent_name));
	encode(h.parent_name, &n);
	cut_to(st, TEXT_AT + 8 * 512);
	for (unsigned i = 0; t[i].code; i++) {
		uint8_t b[1024];
		size_t len = encode(b, &t[i]);

		memcpy(h.locator[i].code, t[i].code, 4);
		h.locator[i].space = plt_be32_make(512);
		h.locator[i].length = plt_be32_make((uint32_t)len);
		h.locator[i].offset = plt_be64_make(TEXT_AT + i * 512);
		put_bytes(st, TEXT_AT + i * 512, b, len);
	}
	ck_assert_msg(vhd_parent_names(st, &h, &names, &count, &err) == 0, "%s", err.text);
	*ret = 0;
	for (unsigned i = 0; i < count; i++)
		snprintf(ret + strlen(ret), sizeof(ret) - strlen(ret), "%s%s", i ? "|" : "", names[i]);
	vhd_names_free(names, count);
	plt_store_unref(st);
	return ret;
}

START_TEST(paths)
{
	static const struct {
		struct text t[4];
		const char *name;
		bool name_big;
		const char *want;
	} v[] = {
		{ { { 0 } }, "", true, "" },
		{ { { 0 } }, "base.vhd", true, "base.vhd" },
		{ { { 0 } }, "base.vhd", false, "base.vhd" },
		{ { { 0 } }, "C:\\disks\\base.vhd", true, "base.vhd" },
		{ { { 0 } }, "C:base.vhd", true, "base.vhd" },
		{ { { "W2ru", ".\\base.vhd", LITTLE } }, "", true, "base.vhd" },
		{ { { "W2ru", ".\\base.vhd", BIG } }, "", true, "base.vhd" },
		{ { { "W2ru", "..\\x\\base.vhd", LITTLE } }, "base.vhd", true, "../x/base.vhd|base.vhd" },
		{ { { "W2ru", ".\\sub\\p.vhd", LITTLE } }, "q.vhd", true, "sub/p.vhd|q.vhd|p.vhd" },
		/* a drive's path and a server's are of use only for their names; and only once */
		{ { { "W2ku", "C:\\disks\\base.vhd", LITTLE } }, "base.vhd", true, "base.vhd" },
		{ { { "W2ku", "\\\\server\\share\\p.vhd", LITTLE } }, "", true, "p.vhd" },
		{ { { "W2ku", "\\disks\\p.vhd", LITTLE } }, "", true, "p.vhd|/disks/p.vhd" },
		{ { { "W2ru", "\\disks\\p.vhd", LITTLE } }, "", true, "p.vhd|/disks/p.vhd" },
		{ { { "MacX", "file:///disks/p%20q.vhd", AS_IS } }, "", true, "p q.vhd|/disks/p q.vhd" },
		{ { { "MacX", "file://localhost/p.vhd", AS_IS } }, "", true, "p.vhd|/p.vhd" },
		{ { { "MacX", "file://./p.vhd", AS_IS } }, "", true, "p.vhd" },
		{ { { "MacX", "file:///a%2", AS_IS } }, "", true, "a%2|/a%2" },
		{ { { "MacX", "file:///a%00b", AS_IS } }, "", true, "a%00b|/a%00b" },
		{ { { "Wi2r", ".\\old.vhd", AS_IS } }, "", true, "old.vhd" },
		{ { { "Wi2r", "d\\old.vhd", LITTLE } }, "", true, "d/old.vhd|old.vhd" },
		{ { { "Wi2r", "\xe4.vhd", AS_IS } }, "", true, "" },
		{ { { "Wi2k", "C:\\d\\old.vhd", AS_IS } }, "", true, "old.vhd" },
		{ { { "Mac ", "old.vhd", ALIAS } }, "", true, "old.vhd" },
		{ { { "Mac ", "o/d.vhd", ALIAS } }, "", true, "" },
		{ { { "Mac ", "p.vhd|/Users/x/p.vhd|/", ALIAS } }, "", true, "p.vhd|/Users/x/p.vhd" },
		{ { { "Mac ", "p.vhd|/x/p.vhd|/Volumes/y", ALIAS } }, "", true, "p.vhd|/Volumes/y/x/p.vhd" },
		{ { { "Mac ", "short", AS_IS } }, "", true, "" },
		{ { { "????", ".\\p.vhd", LITTLE } }, "", true, "" },
		/* the order: relative, beside the child, URL, absolute */
		{ { { "W2ku", "\\a\\1.vhd", LITTLE }, { "MacX", "file:///u/2.vhd", AS_IS }, { "W2ru", "r\\3.vhd", LITTLE } },
		  "4.vhd", true, "r/3.vhd|4.vhd|1.vhd|2.vhd|3.vhd|/u/2.vhd|/a/1.vhd" },
		/* no text of an image is a protocol, a tree, a folder or nothing */
		{ { { "W2ru", "nbd://host/x", LITTLE } }, "", true, "./nbd://host/x|x" },
		{ { { "W2ru", "json:{}", LITTLE } }, "", true, "./json:{}" },
		{ { { "W2ru", ".\\", LITTLE } }, "..", true, "" },
		{ { { "W2ru", ".\\.\\.\\", LITTLE } }, ".", true, "" },
	};

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++) {
		const char *got = names_of(v[i].t, v[i].name, v[i].name_big);

		ck_assert_msg(!strcmp(got, v[i].want), "%u: '%s', expected '%s'", i, got, v[i].want);
	}
}
END_TEST

/* Whatever a locator says of its text: no error, no name, nothing read that is not there. */
START_TEST(hostile_places)
{
	static const struct {
		uint32_t length;
		uint64_t off;
	} v[] = {
		{ 0, TEXT_AT }, { UINT32_MAX, TEXT_AT }, { VHD_MAX_LOCATOR + 1, 0 }, { 16, UINT64_MAX }, { 16, UINT64_MAX - 15 },
		{ 16, INT64_MAX }, { 16, TEXT_AT + 1 }, { 65536, TEXT_AT }, { 2, TEXT_AT + 15 },
	};
	static const char *const codes[] = { "W2ku", "W2ru", "Wi2k", "Wi2r", "MacX", "Mac " };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(v); i++)
		for (unsigned c = 0; c < PLT_ARRAY_SIZE(codes); c++) {
			struct plt_store *st = make_sparse(VHD_DIFFERENCING, 65536, 65536, 1);
			struct vhd_header h = get_header(st);
			struct plt_error err = PLT_ERROR_INIT;
			unsigned count;
			char **names;

			memset(h.parent_name, 0, sizeof(h.parent_name));
			cut_to(st, TEXT_AT);
			put_fill(st, TEXT_AT, 'a', 16); /* and no more */
			for (unsigned j = 0; j < VHD_LOCATORS; j++) {
				memcpy(h.locator[j].code, codes[c], 4);
				h.locator[j].length = plt_be32_make(v[i].length);
				h.locator[j].offset = plt_be64_make(v[i].off);
			}
			ck_assert_msg(vhd_parent_names(st, &h, &names, &count, &err) == 0, "%s", err.text);
			ck_assert_msg(count == 0, "%u %s: '%s'", i, codes[c], names[0]);
			vhd_names_free(names, count);
			plt_store_unref(st);
		}
}
END_TEST

START_TEST(random_texts)
{
	uint64_t seed = plt_unit_seed();
	static const char *const codes[] = { "W2ku", "W2ru", "Wi2k", "Wi2r", "MacX", "Mac " };
	struct plt_store *st = make_sparse(VHD_DIFFERENCING, 65536, 65536, 1);

	cut_to(st, TEXT_AT + 8 * 512);
	for (unsigned i = 0; i < 3000; i++) {
		struct vhd_header h = get_header(st);
		struct plt_error err = PLT_ERROR_INIT;
		unsigned count;
		char **names;

		for (unsigned j = 0; j < VHD_LOCATORS; j++) {
			uint8_t b[512];
			size_t len = 1 + plt_unit_random(&seed) % sizeof(b);

			for (size_t k = 0; k < len; k++)
				b[k] = (uint8_t)("\0\0\0/.\\a%2|:\x02\x12\x13\xff\xd8"[plt_unit_random(&seed) % 16]);
			b[7 % len] = 2;
			put_bytes(st, TEXT_AT + j * 512, b, len);
			memcpy(h.locator[j].code, codes[plt_unit_random(&seed) % 6], 4);
			h.locator[j].length = plt_be32_make((uint32_t)len);
			h.locator[j].offset = plt_be64_make(TEXT_AT + j * 512);
		}
		ck_assert_msg(vhd_parent_names(st, &h, &names, &count, &err) == 0, "%s", err.text);
		for (unsigned j = 0; j < count; j++)
			ck_assert(names[j][0] && strcmp(names[j], ".") && strcmp(names[j], ".."));
		vhd_names_free(names, count);
	}
	plt_store_unref(st);
}
END_TEST

/* ---- writing --------------------------------------------------------------------------------- */

/* @child names @parent; what is tried first, seen from the child's folder, must be that file. */
static void round_trip(const char *child, const char *parent, const char *first)
{
	struct plt_store *st = make_sparse(VHD_DIFFERENCING, 65536, 65536, 1);
	struct vhd_header h = get_header(st);
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t end;
	unsigned count, codes = 0;
	char **names;

	ck_assert_msg(vhd_write_locators(st, &h, child, parent, TEXT_AT, &end, &err) == 0, "%s", err.text);
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (plt_be32_get(h.locator[i].length)) {
			codes++;
			ck_assert_uint_eq(plt_be32_get(h.locator[i].space) % 512, 0);
			ck_assert_uint_le(plt_be32_get(h.locator[i].length), plt_be32_get(h.locator[i].space));
			ck_assert_uint_le(plt_be64_get(h.locator[i].offset) + plt_be32_get(h.locator[i].space), end);
		}
	ck_assert_uint_eq(codes, 3);
	ck_assert_int_eq(vhd_parent_names(st, &h, &names, &count, &err), 0);
	ck_assert_uint_gt(count, 0);
	ck_assert_str_eq(names[0], first);
	vhd_names_free(names, count);
	plt_store_unref(st);
}

START_TEST(written)
{
	char a[4200], b[4200], c[4300];
	FILE *f;

	snprintf(a, sizeof(a), "%s/sub", plt_unit_dir());
	ck_assert_int_eq(mkdir(a, 0700), 0);
	snprintf(a, sizeof(a), "%s/p \xc3\xa4%%.vhd", plt_unit_dir());
	f = fopen(a, "w");
	ck_assert_ptr_nonnull(f);
	fclose(f);
	snprintf(b, sizeof(b), "%s/child.vhd", plt_unit_dir());
	round_trip(b, "p \xc3\xa4%.vhd", "p \xc3\xa4%.vhd");
	round_trip(b, a, "p \xc3\xa4%.vhd");
	snprintf(c, sizeof(c), "%s/sub/child.vhd", plt_unit_dir());
	round_trip(c, a, "../p \xc3\xa4%.vhd");
	round_trip(c, "../p \xc3\xa4%.vhd", "../p \xc3\xa4%.vhd");
}
END_TEST

START_TEST(not_written)
{
	struct plt_store *st = make_sparse(VHD_DIFFERENCING, 65536, 65536, 1);
	struct vhd_header h = get_header(st);
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t end;

	ck_assert_int_eq(vhd_write_locators(st, &h, "child", "nbd://host/x", TEXT_AT, &end, &err), -ENOTSUP);
	ck_assert_int_eq(vhd_write_locators(st, &h, "child", "\xff", TEXT_AT, &end, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "not UTF-8") != NULL, "%s", err.text);
	plt_store_unref(st);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-locator");
	TCase *t = tcase_create("vhd-locator");

	tcase_add_test(t, utf16);
	tcase_add_test(t, paths);
	tcase_add_test(t, hostile_places);
	tcase_add_test(t, random_texts);
	tcase_add_test(t, written);
	tcase_add_test(t, not_written);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
