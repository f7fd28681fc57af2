/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* See make.h. */
#include <stdio.h>

#include "base/checked.h"
#include "tests/vhd/make.h"

char make_warned[4096];

/* What does not fit is left out. */
static void add(char *to, size_t size, const char *text)
{
	size_t n = strlen(to);

	snprintf(to + n, size - n, "%s", text);
}

static void warn(void *arg, const char *text)
{
	(void)arg;
	add(make_warned, sizeof(make_warned), text);
}

struct plt_ctx *make_ctx(void)
{
	static struct plt_ctx *ctx;
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;

	o.warn = warn;
	if (!ctx)
		ck_assert_msg(plt_ctx_new(&o, &ctx, &err) == 0, "%s", err.text);
	return ctx;
}

/* The sum is computed here anew: the driver's is under test. */
static uint32_t sum_of(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint32_t sum = 0;

	while (len--)
		sum += *b++;
	return ~sum;
}

struct vhd_footer make_footer(enum vhd_type type, uint64_t size)
{
	struct vhd_footer f = { 0 };

	memcpy(f.cookie, "conectix", 8);
	f.features = plt_be32_make(2);
	f.version = plt_be32_make(0x00010000);
	f.data_offset = plt_be64_make(type == VHD_FIXED ? UINT64_MAX : HEADER_AT);
	memcpy(f.creator, "win ", 4);
	f.creator_version = plt_be32_make(0x00060001);
	memcpy(f.creator_os, "Wi2k", 4);
	f.original_size = f.current_size = plt_be64_make(size);
	f.cylinders = plt_be16_make(65535);
	f.heads = 16;
	f.sectors = 255;
	f.type = plt_be32_make(type);
	for (unsigned i = 0; i < 16; i++)
		f.id[i] = (uint8_t)(0xa0 + i);
	f.checksum = plt_be32_make(sum_of(&f, sizeof(f)));
	return f;
}

void put_bytes(struct plt_store *st, uint64_t off, const void *p, size_t len)
{
	ck_assert_int_eq(plt_store_write(st, off, p, len, PLT_IO_OTHER, NULL), 0);
}

void put_fill(struct plt_store *st, uint64_t off, uint8_t byte, size_t len)
{
	uint8_t *p = malloc(len + 1);

	memset(p, byte, len);
	put_bytes(st, off, p, len);
	free(p);
}

uint64_t size_of(struct plt_store *st)
{
	uint64_t n;

	ck_assert_int_eq(plt_store_size(st, &n, NULL), 0);
	return n;
}

void cut_to(struct plt_store *st, uint64_t size)
{
	ck_assert_int_eq(plt_store_truncate(st, size, NULL), 0);
}

struct plt_store *make_fixed(uint64_t size)
{
	struct vhd_footer f = make_footer(VHD_FIXED, size);
	uint8_t *p = malloc(size + 1);
	struct plt_store *st;

	for (uint64_t i = 0; i < size; i++)
		p[i] = (uint8_t)(1 + i % 251);
	ck_assert_int_eq(plt_memory_new(p, size, 0, &st), 0);
	put_bytes(st, size, &f, sizeof(f));
	free(p);
	return st;
}

struct plt_store *make_sparse(enum vhd_type type, uint64_t size, uint32_t block_size, uint32_t entries)
{
	struct vhd_footer f = make_footer(type, size);
	struct vhd_header h = { 0 };
	struct plt_store *st;

	memcpy(h.cookie, "cxsparse", 8);
	h.data_offset = plt_be64_make(UINT64_MAX);
	h.table_offset = plt_be64_make(TABLE_AT);
	h.version = plt_be32_make(0x00010000);
	h.entries = plt_be32_make(entries);
	h.block_size = plt_be32_make(block_size);
	for (unsigned i = 0; type == VHD_DIFFERENCING && i < 4; i++)
		h.parent_name[2 * i + 1] = (uint8_t)"base"[i];
	h.checksum = plt_be32_make(sum_of(&h, sizeof(h)));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	put_bytes(st, 0, &f, sizeof(f));
	put_bytes(st, HEADER_AT, &h, sizeof(h));
	put_fill(st, TABLE_AT, 0xff, (size_t)plt_align_up((uint64_t)entries * 4, 512));
	put_bytes(st, size_of(st), &f, sizeof(f));
	return st;
}

uint64_t make_block(struct plt_store *st, uint64_t block, uint8_t fill, uint8_t bits)
{
	struct vhd_footer f = get_footer(st, true);
	uint32_t bs = plt_be32_get(get_header(st).block_size);
	uint64_t at = size_of(st) - 512, bitmap = plt_align_up(plt_div_up((uint64_t)bs / 512, 8), 512);

	put_fill(st, at, bits, bitmap);
	put_fill(st, at + bitmap, fill, bs);
	put_bytes(st, at + bitmap + bs, &f, sizeof(f));
	put_entry(st, block, (uint32_t)(at / 512));
	return at;
}

struct vhd_footer get_footer(struct plt_store *st, bool tail)
{
	struct vhd_footer f;

	ck_assert_int_eq(plt_store_read(st, tail ? size_of(st) - 512 : 0, &f, sizeof(f), PLT_IO_OTHER, NULL), 0);
	return f;
}

void put_footer(struct plt_store *st, bool tail, struct vhd_footer f, bool seal)
{
	if (seal) {
		f.checksum = plt_be32_make(0);
		f.checksum = plt_be32_make(sum_of(&f, sizeof(f)));
	}
	put_bytes(st, tail ? size_of(st) - 512 : 0, &f, sizeof(f));
}

struct vhd_header get_header(struct plt_store *st)
{
	struct vhd_header h;

	ck_assert_int_eq(plt_store_read(st, HEADER_AT, &h, sizeof(h), PLT_IO_OTHER, NULL), 0);
	return h;
}

void put_header(struct plt_store *st, struct vhd_header h, bool seal)
{
	if (seal) {
		h.checksum = plt_be32_make(0);
		h.checksum = plt_be32_make(sum_of(&h, sizeof(h)));
	}
	put_bytes(st, HEADER_AT, &h, sizeof(h));
}

void make_creator(struct plt_store *st, const char *four, uint32_t version)
{
	for (int tail = 0; tail < 2; tail++) {
		struct vhd_footer f = get_footer(st, tail);

		memcpy(f.creator, four, 4);
		f.creator_version = plt_be32_make(version);
		put_footer(st, tail, f, true);
	}
}

void put_entry(struct plt_store *st, uint64_t block, uint32_t value)
{
	uint8_t b[4];

	plt_put_be32(b, value);
	put_bytes(st, TABLE_AT + block * 4, b, 4);
}

uint32_t get_entry(struct plt_store *st, uint64_t block)
{
	uint8_t b[4];

	ck_assert_int_eq(plt_store_read(st, TABLE_AT + block * 4, b, 4, PLT_IO_OTHER, NULL), 0);
	return plt_get_be32(b);
}

struct plt_disk *try_open(struct plt_store *st, unsigned flags, const char *options, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const char *const list[] = { options, NULL };
	struct plt_disk *disk = NULL;

	o.flags = flags | PLT_OPEN_NO_BACKING;
	o.options = options ? list : NULL;
	return plt_disk_open_store(make_ctx(), st, "top", "vpc", &o, &disk, err) < 0 ? NULL : disk;
}

struct plt_disk *must_open(struct plt_store *st, unsigned flags)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk = try_open(st, flags, NULL, &err);

	ck_assert_msg(disk != NULL, "%s", err.text);
	return disk;
}

void must_close(struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(plt_disk_close(disk, &err) == 0, "%s", err.text);
}

static void found(void *arg, const struct plt_check_finding *f)
{
	struct made_check *c = arg;
	char id[80];

	snprintf(id, sizeof(id), "%s:%s ", f->id, f->severity);
	if (!strstr(c->ids, id))
		add(c->ids, sizeof(c->ids), id);
	add(c->texts, sizeof(c->texts), f->text);
	add(c->texts, sizeof(c->texts), "\n");
}

void make_check(struct plt_store *st, struct made_check *ret)
{
	struct plt_error err = PLT_ERROR_INIT;

	memset(ret, 0, sizeof(*ret));
	ck_assert_msg(plt_check_store(make_ctx(), st, "top", "vpc", found, ret, &ret->n, &err) == 0, "%s", err.text);
}
