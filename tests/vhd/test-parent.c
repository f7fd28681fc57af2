/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Differencing disks in files: the parent is found by what it is, wherever it is of the places that the
 * child names; a wrong one is refused with both identities; what the child has covers what the parent
 * has, sector by sector.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

#include "base/checked.h"
#include "tests/vhd/make.h"

#define BS 16384u
#define SIZE (UINT64_C(6) * BS)

static char *path(const char *name)
{
	static char ret[4][4300];
	static unsigned n;
	char *p = ret[n++ % 4];

	snprintf(p, sizeof(ret[0]), "%s/%s", plt_unit_dir(), name);
	return p;
}

static void create(const char *name, const char *parent, const char *options)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	const char *const list[] = { options, NULL };
	struct plt_error err = PLT_ERROR_INIT;

	c.format = "vpc";
	c.options = list;
	c.backing = parent;
	c.backing_format = parent ? "vpc" : NULL;
	if (!parent)
		c.virtual_size = SIZE;
	ck_assert_msg(plt_create(make_ctx(), path(name), &c, NULL, &err) == 0, "%s", err.text);
}

static struct plt_disk *open_file(const char *name, unsigned flags, const char *options, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const char *const list[] = { options, NULL };
	struct plt_disk *disk = NULL;

	o.flags = flags;
	o.format = "vpc";
	o.options = options ? list : NULL;
	return plt_disk_open(make_ctx(), path(name), &o, &disk, err) < 0 ? NULL : disk;
}

static void fill(const char *name, uint64_t off, uint64_t len, uint8_t byte)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = open_file(name, PLT_OPEN_WRITE, NULL, &err);
	uint8_t *p = malloc(len);

	ck_assert_msg(disk != NULL, "%s", err.text);
	memset(p, byte, len);
	ck_assert_msg(plt_write(disk, off, p, len, &err) == 0, "%s", err.text);
	must_close(disk);
	free(p);
}

static uint8_t byte_at(const char *name, uint64_t off)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = open_file(name, 0, NULL, &err);
	uint8_t b;

	ck_assert_msg(disk != NULL, "%s", err.text);
	ck_assert_msg(plt_read(disk, off, &b, 1, &err) == 0, "%s", err.text);
	must_close(disk);
	return b;
}

static void refused(const char *name, const char *says)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_ptr_null(open_file(name, 0, NULL, &err));
	ck_assert_msg(strstr(err.text, says) != NULL, "'%s' in: %s", says, err.text);
}

static struct plt_store *store(const char *name)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_file_open(path(name), PLT_FILE_WRITE, &st, NULL), 0);
	return st;
}

static void pair(void)
{
	(void)mkdir(path("a"), 0700);
	(void)mkdir(path("b"), 0700);
	create("a/base.vhd", NULL, "block_size=16k,force_size");
	fill("a/base.vhd", 0, SIZE, 0xb5);
	create("a/child.vhd", "base.vhd", "block_size=16k");
	fill("a/child.vhd", BS + 512, 1024, 0xc4);
}

START_TEST(sector_by_sector)
{
	pair();
	ck_assert_uint_eq(byte_at("a/child.vhd", BS + 511), 0xb5);
	ck_assert_uint_eq(byte_at("a/child.vhd", BS + 512), 0xc4);
	ck_assert_uint_eq(byte_at("a/child.vhd", BS + 1535), 0xc4);
	ck_assert_uint_eq(byte_at("a/child.vhd", BS + 1536), 0xb5);
	ck_assert_uint_eq(byte_at("a/child.vhd", SIZE - 1), 0xb5);
	fill("a/child.vhd", 3 * BS + 700, 1, 0x7e); /* a part of a sector: the rest is the parent's */
	ck_assert_uint_eq(byte_at("a/child.vhd", 3 * BS + 699), 0xb5);
	ck_assert_uint_eq(byte_at("a/child.vhd", 3 * BS + 700), 0x7e);
	ck_assert_uint_eq(byte_at("a/child.vhd", 3 * BS + 701), 0xb5);
	ck_assert_uint_eq(byte_at("a/base.vhd", 3 * BS + 700), 0xb5);
}
END_TEST

START_TEST(moved)
{
	pair();
	/* both, together: the name alone is right */
	ck_assert_int_eq(rename(path("a/child.vhd"), path("b/child.vhd")), 0);
	ck_assert_uint_eq(byte_at("b/child.vhd", 0), 0xb5); /* by the absolute path */
	ck_assert_int_eq(rename(path("a/base.vhd"), path("b/base.vhd")), 0);
	ck_assert_uint_eq(byte_at("b/child.vhd", 0), 0xb5);
	/* one of the same name, but another disk, lies where the child looks first: passed over */
	ck_assert_int_eq(rename(path("b/base.vhd"), path("a/base.vhd")), 0);
	create("b/base.vhd", NULL, "block_size=16k,force_size");
	ck_assert_uint_eq(byte_at("b/child.vhd", 0), 0xb5);
	/* alone it is refused, by name and both identities */
	ck_assert_int_eq(unlink(path("a/base.vhd")), 0);
	refused("b/child.vhd", "its parent, the disk ");
	refused("b/child.vhd", "'base.vhd' is the disk ");
	refused("b/child.vhd", "(parent-check=off takes it all the same)");
	ck_assert_int_eq(unlink(path("b/base.vhd")), 0);
	refused("b/child.vhd", "No such file");
}
END_TEST

START_TEST(wrong_identity)
{
	struct plt_error err = PLT_ERROR_INIT;
	char is[VHD_ID_TEXT], want[VHD_ID_TEXT];
	struct plt_disk *disk;
	struct plt_store *st;
	struct vhd_footer f;
	struct vhd_header h;
	uint8_t b;

	pair();
	st = store("a/child.vhd");
	h = get_header(st);
	plt_store_unref(st);
	st = store("a/base.vhd");
	f = get_footer(st, false);
	ck_assert_mem_eq(f.id, h.parent_id, 16);
	f.id[5] ^= 1;
	put_footer(st, false, f, true);
	put_footer(st, true, f, true);
	plt_store_unref(st);
	refused("a/child.vhd", vhd_id_text(h.parent_id, want));
	refused("a/child.vhd", vhd_id_text(f.id, is));
	disk = open_file("a/child.vhd", 0, "parent-check=off", &err);
	ck_assert_msg(disk != NULL, "%s", err.text);
	ck_assert_int_eq(plt_read(disk, 0, &b, 1, &err), 0);
	ck_assert_uint_eq(b, 0xb5);
	must_close(disk);
}
END_TEST

/* The user names the parent: it is looked at too. */
START_TEST(given_by_the_user)
{
	struct plt_error err = PLT_ERROR_INIT;
	char options[9000];
	struct plt_disk *disk;

	pair();
	create("b/other.vhd", NULL, "block_size=16k,force_size");
	snprintf(options, sizeof(options), "backing.driver=vpc,backing.file.filename=%s", path("b/other.vhd"));
	ck_assert_ptr_null(open_file("a/child.vhd", 0, options, &err));
	ck_assert_msg(strstr(err.text, "its parent is the disk ") && strstr(err.text, "other.vhd' is the disk "), "%s",
		      err.text);
	ck_assert_int_eq(rename(path("a/base.vhd"), path("b/elsewhere.vhd")), 0);
	snprintf(options, sizeof(options), "backing.driver=vpc,backing.file.filename=%s", path("b/elsewhere.vhd"));
	disk = open_file("a/child.vhd", 0, options, &err);
	ck_assert_msg(disk != NULL, "%s", err.text);
	must_close(disk);
}
END_TEST

START_TEST(written_since)
{
	struct utimbuf before = { 1600000000, 1600000000 }, t = { 1700000000, 1700000000 };

	pair();
	ck_assert_int_eq(utime(path("a/base.vhd"), &before), 0);
	create("a/child.vhd", "base.vhd", "block_size=16k");
	make_warned[0] = 0;
	ck_assert_uint_eq(byte_at("a/child.vhd", 0), 0xb5);
	ck_assert_str_eq(make_warned, "");
	ck_assert_int_eq(utime(path("a/base.vhd"), &t), 0);
	ck_assert_uint_eq(byte_at("a/child.vhd", 0), 0xb5);
	ck_assert_msg(strstr(make_warned, "has another time (753315200)") != NULL, "%s", make_warned);
}
END_TEST

START_TEST(a_loop)
{
	struct plt_store *st;
	struct vhd_footer f;
	struct vhd_header h;

	pair();
	st = store("a/child.vhd"); /* becomes its own parent */
	f = get_footer(st, false);
	h = get_header(st);
	memcpy(h.parent_id, f.id, 16);
	memset(h.locator, 0, sizeof(h.locator));
	memset(h.parent_name, 0, sizeof(h.parent_name));
	for (unsigned i = 0; "child.vhd"[i]; i++)
		h.parent_name[2 * i + 1] = (uint8_t)"child.vhd"[i];
	put_header(st, h, true);
	plt_store_unref(st);
	refused("a/child.vhd", "twice");
}
END_TEST

/* Five layers, each with a sector of its own, in folders of their own. */
START_TEST(five_layers)
{
	char name[5][32], parent[40];

	for (unsigned i = 0; i < 5; i++) {
		snprintf(name[i], sizeof(name[i]), "d%u", i);
		(void)mkdir(path(name[i]), 0700);
		snprintf(name[i], sizeof(name[i]), "d%u/l%u.vhd", i, i);
		snprintf(parent, sizeof(parent), "../d%u/l%u.vhd", i - 1, i - 1);
		create(name[i], !i ? NULL : i % 2 ? parent : path(name[i - 1]), i ? "block_size=4k" : "block_size=16k,force_size");
		fill(name[i], i * 512, (5 - i) * 512, (uint8_t)(0x10 + i));
		fill(name[i], BS * i + 100, 10, (uint8_t)(0x20 + i));
	}
	for (unsigned i = 0; i < 5; i++) {
		ck_assert_uint_eq(byte_at(name[4], i * 512), 0x10 + i);
		ck_assert_uint_eq(byte_at(name[4], BS * i + 105), 0x20 + i);
	}
	ck_assert_uint_eq(byte_at(name[2], 4 * 512), 0x12);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("vhd-parent");
	TCase *t = tcase_create("vhd-parent");

	tcase_add_test(t, sector_by_sector);
	tcase_add_test(t, moved);
	tcase_add_test(t, wrong_identity);
	tcase_add_test(t, given_by_the_user);
	tcase_add_test(t, written_since);
	tcase_add_test(t, a_loop);
	tcase_add_test(t, five_layers);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
