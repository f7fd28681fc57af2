/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The metadata cache as qcow2 asks for it, where that is what counts.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tests/block/cachebed.h"

/*
 * Finding a free cluster behind many full refcount blocks, none of them cached: a request walks over
 * them with its few pins.
 */
START_TEST(many_full_refcount_blocks)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	uint64_t len = 4 << 20;
	uint8_t *buf = malloc(len);

	memset(buf, 0x5a, len);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512", 8 << 20, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 0, buf, len, &err), &err);
	lab_close(disk);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, 4 << 20, buf, 40000, &err), &err);
	lab_close(disk);
	/* and the same for the blocking form (a new L2 table is its first allocation) */
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write_zeroes(disk, 6 << 20, 65536, 0, &err), &err);
	lab_close(disk);
	lab_check(ctx, file, "after the writes");
	plt_store_unref(file);
	plt_ctx_free(ctx);
	free(buf);
}
END_TEST

struct packer {
	struct plt_disk *disk;
	uint8_t buf[4096];
	unsigned discards;
};

/* At the first punch: pack something else. */
static int pack_at_discard(void *arg, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct packer *p = arg;
	struct plt_error err = PLT_ERROR_INIT;

	(void)off;
	(void)len;
	(void)tag;
	if (ev == LAB_DISCARD && !p->discards++)
		lab_must(plt_write_compressed(p->disk, 4096, p->buf, sizeof(p->buf), 0, &err), &err);
	return 0;
}

/* While a cluster with compressed data is being freed, nothing more is packed into it. */
START_TEST(packing_into_a_freed_cluster)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *memory, *file;
	struct packer p = { .discards = 0 };
	struct lab_hook hook = { pack_at_discard, &p };
	uint8_t got[4096];

	memset(p.buf, 0x6b, sizeof(p.buf));
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &memory), 0);
	lab_create(ctx, memory, "cluster_size=4096", 1 << 20, false);
	file = lab_hooked(memory, &hook);
	p.disk = lab_open(ctx, file, NULL);
	lab_must(plt_write_compressed(p.disk, 0, p.buf, sizeof(p.buf), 0, &err), &err);
	lab_must(plt_discard(p.disk, 0, 4096, &err), &err);
	lab_must(plt_flush(p.disk, &err), &err);
	ck_assert_uint_eq(p.discards, 1);
	lab_must(plt_read(p.disk, 4096, got, sizeof(got), &err), &err);
	ck_assert(!memcmp(got, p.buf, sizeof(got)));
	lab_close(p.disk);
	lab_check(ctx, memory, "after packing");
	plt_store_unref(file);
	plt_store_unref(memory);
	plt_ctx_free(ctx);
}
END_TEST

static unsigned data_last(void *arg, struct plt_op *const *pending, unsigned n)
{
	unsigned *writes = arg, other = 0;

	*writes = 0;
	for (unsigned i = 0; i < n; i++)
		if (pending[i]->kind == PLT_OP_WRITE)
			(*writes)++;
		else
			other = i;
	return other;
}

/*
 * More writes at once into one L2 slice than a block has edges, each with its count in another refcount
 * block: all were placed before the first is published.
 */
START_TEST(many_edges_at_once)
{
	struct plt_ctx *ctx = lab_ctx(1);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *file;
	struct plt_disk *disk;
	struct lab_req r[28] = { 0 };
	struct lab_queue lq;
	uint64_t len = 2 << 20, fresh = 3 << 20;
	uint8_t *buf = malloc(len);
	unsigned writes = 0;

	memset(buf, 0x5a, len);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_create(ctx, file, "cluster_size=512,refcount_bits=64", 4 << 20, false);
	disk = lab_open(ctx, file, NULL);
	lab_must(plt_write(disk, fresh + 32000, buf, 512, &err), &err);
	lab_must(plt_write(disk, 0, buf, len, &err), &err);
	/* one free cluster in each slice of counts (64 clusters) */
	for (uint64_t off = 16384; off < len; off += 64 * 512)
		lab_must(plt_discard(disk, off, 512, &err), &err);
	lab_close(disk);
	disk = lab_open(ctx, file, NULL);
	lab_queue_new(&lq, ctx);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(r); i++) {
		r[i] = (struct lab_req){ .kind = PLT_IO_WRITE_REQ, .off = fresh + i * 512, .len = 512,
					 .buf = buf + i * 512 };
		lab_start(lq.q, plt_disk_image(disk), &r[i], &lq.clock);
	}
	lq.choose = data_last;
	lq.arg = &writes;
	while (writes < PLT_ARRAY_SIZE(r) && lab_settle(&lq))
		lab_complete(&lq, 0);
	ck_assert_uint_eq(writes, PLT_ARRAY_SIZE(r)); /* all are placed, none is published */
	lq.choose = NULL;
	while (lab_settle(&lq))
		lab_complete(&lq, 0);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(r); i++) {
		ck_assert(r[i].done);
		ck_assert_int_eq(r[i].result, 0);
	}
	lab_queue_free(&lq);
	lab_close(disk);
	lab_check(ctx, file, "after the writes");
	plt_store_unref(file);
	plt_ctx_free(ctx);
	free(buf);
}
END_TEST

void cache_qcow2_tests(TCase *t)
{
	tcase_add_test(t, many_full_refcount_blocks);
	tcase_add_test(t, many_edges_at_once);
	tcase_add_test(t, packing_into_a_freed_cluster);
}
