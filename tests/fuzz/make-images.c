/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Images that nobody would make who means well.
 *
 *	make-images DIR            write all of them into DIR (names: see the table at the end)
 *	make-images --pack FILE    FILE as a fuzz input on standard output: see fuzz.h
 *	make-images --opens FILE   open FILE within the promised memory; exit 1 if that is not enough
 *
 * Each starts from a sound image of a few clusters and breaks one thing.
 */
#include "tests/fuzz/hostile.h"

/* ---- the images ------------------------------------------------------------------------------ */

#define IMAGE(name) static void name(struct image *m)

IMAGE(sound_image) { (void)m; }
IMAGE(cut_0) { length(m, 0); }
IMAGE(cut_1) { length(m, 1); }
IMAGE(cut_71) { length(m, 71); }
IMAGE(cut_72) { length(m, 72); }
IMAGE(cut_103) { length(m, 103); }
IMAGE(cut_104) { length(m, 104); }
IMAGE(cut_tables) { length(m, at(m, L1)); }

/* header */
IMAGE(version_1) { put32(m, 4, 1); }
IMAGE(version_4) { put32(m, 4, 4); }
IMAGE(version_max) { put32(m, 4, UINT32_MAX); }
IMAGE(bits_0) { put32(m, 20, 0); }
IMAGE(bits_8) { put32(m, 20, 8); }
IMAGE(bits_22) { put32(m, 20, 22); }
IMAGE(bits_63) { put32(m, 20, 63); }
IMAGE(bits_max) { put32(m, 20, UINT32_MAX); }
IMAGE(size_int64) { put64(m, 24, INT64_MAX); }
IMAGE(size_2_63) { put64(m, 24, UINT64_C(1) << 63); }
IMAGE(size_max) { put64(m, 24, UINT64_MAX); }
IMAGE(size_0) { put64(m, 24, 0); put32(m, 36, 0); put64(m, 40, 0); }
IMAGE(crypt_aes) { put32(m, 32, 1); }
IMAGE(crypt_luks) { put32(m, 32, 2); }
IMAGE(crypt_3) { put32(m, 32, 3); }
IMAGE(l1_size_max) { put32(m, 36, UINT32_MAX); }
IMAGE(l1_size_4m) { put32(m, 36, 4 << 20); }
IMAGE(l1_size_0) { put32(m, 36, 0); }
IMAGE(l1_unaligned) { put64(m, 40, at(m, L1) + 8); }
IMAGE(l1_beyond) { put64(m, 40, UINT64_C(1) << 40); }
IMAGE(l1_wraps) { put64(m, 40, UINT64_MAX - 511); }
IMAGE(rt_size_max) { put32(m, 56, UINT32_MAX); }
IMAGE(rt_size_0) { put32(m, 56, 0); }
IMAGE(rt_8m) { put32(m, 56, 16384); }
IMAGE(rt_beyond) { put64(m, 48, UINT64_C(1) << 40); }
IMAGE(rt_wraps) { put64(m, 48, UINT64_MAX - 511); }
IMAGE(order_0) { put32(m, 96, 0); }
IMAGE(order_1) { put32(m, 96, 1); }
IMAGE(order_2) { put32(m, 96, 2); }
IMAGE(order_3) { put32(m, 96, 3); }
IMAGE(order_5) { put32(m, 96, 5); }
IMAGE(order_6) { put32(m, 96, 6); }
IMAGE(order_7) { put32(m, 96, 7); }
IMAGE(order_max) { put32(m, 96, UINT32_MAX); }
IMAGE(hlen_0) { put32(m, 100, 0); }
IMAGE(hlen_103) { put32(m, 100, 103); }
IMAGE(hlen_105) { put32(m, 100, 105); }
IMAGE(hlen_512) { put32(m, 100, 512); }
IMAGE(hlen_max) { put32(m, 100, UINT32_MAX); }
IMAGE(compression_9) { uint8_t t = 9; put64(m, 72, 8); put(m, 104, &t, 1); }
IMAGE(compression_bit) { put64(m, 72, 8); }
IMAGE(incompatible) { put64(m, 72, UINT64_C(0xfffffffffffffff0) & ~UINT64_C(16)); }
IMAGE(corrupt_bit) { put64(m, 72, 2); }
IMAGE(dirty_bit) { put64(m, 72, 1); put64(m, 80, 1); count(m, L2, 0); count(m, DATA, 0); }

/* extensions */
IMAGE(ext_too_long) { extension(m, 0x12345678, "x", 1, UINT32_MAX); }
IMAGE(ext_many)
{
	for (uint64_t o = 112; o < m->cs; o += 8)
		put32(m, o, 0x7000 + (uint32_t)o);
}
IMAGE(ext_to_the_end) { extension(m, 0x12345678, "x", 1, (uint32_t)(m->cs - 120)); }
IMAGE(ext_format_long) { extension(m, QCOW2_EXT_BACKING_FORMAT, "abcdefghijklmnopqrst", 20, 20); }
IMAGE(ext_luks) { extension(m, QCOW2_EXT_LUKS, "0123456789abcdef", 16, 16); }
IMAGE(features_1m)
{
	uint8_t f[48] = { 0, 60, 'n', 'a', 'm', 'e', '\n', 0x1b, '[', 'm' };

	put64(m, 72, UINT64_C(1) << 60 | UINT64_C(1) << 61);
	put32(m, 112, QCOW2_EXT_FEATURES);
	put32(m, 116, 1 << 20);
	for (unsigned i = 0; i < (1 << 20) / 48; i++)
		put(m, 120 + i * 48, f, i % 1000 ? 2 : 48);
}
IMAGE(ext_flood) /* a quarter of a million empty extensions */
{
	uint8_t *v = calloc(1, m->cs);

	if (!v)
		die("memory");
	for (uint64_t o = 112; o < m->cs; o += 8)
		plt_put_be32(v + o, 0x7000);
	put(m, 112, v + 112, m->cs - 112);
	free(v);
}

/* tables upon each other */
IMAGE(l1_in_header) { put64(m, 40, 0); }
IMAGE(rt_in_header) { put64(m, 48, 0); }
IMAGE(rt_on_l1) { put64(m, 48, at(m, L1)); }
IMAGE(l1_over_rt) { put64(m, 40, at(m, RT)); }
IMAGE(l1_to_itself) { put64(m, at(m, L1), at(m, L1) | QCOW2_COPIED); }
IMAGE(l1_to_header) { put64(m, at(m, L1), 0x8000000000000000); put64(m, at(m, L1) + 8, m->cs | QCOW2_COPIED); }
IMAGE(l1_to_rb) { put64(m, at(m, L1), at(m, RB) | QCOW2_COPIED); }
IMAGE(l1_twice) { put64(m, at(m, L1) + 8, at(m, L2) | QCOW2_COPIED); }
IMAGE(l1_reserved) { put64(m, at(m, L1), UINT64_MAX); }
IMAGE(l1_to_beyond) { put64(m, at(m, L1), UINT64_C(0x80fffffffffffe00)); }
IMAGE(l2_to_l1) { entry(m, 0, at(m, L1) | QCOW2_COPIED); }
IMAGE(l2_to_itself) { entry(m, 0, at(m, L2) | QCOW2_COPIED); }
IMAGE(l2_to_rb) { entry(m, 0, at(m, RB) | QCOW2_COPIED); }
IMAGE(l2_to_rt) { entry(m, 0, at(m, RT) | QCOW2_COPIED); }
IMAGE(l2_to_beyond) { entry(m, 0, UINT64_C(0x80fffffffffffe00)); }
IMAGE(l2_reserved) { entry(m, 0, UINT64_MAX & ~QCOW2_COMPRESSED); }
IMAGE(l2_unaligned) { m->bits > 9 ? entry(m, 0, (at(m, DATA) + 512) | QCOW2_COPIED) : entry(m, 0, 256); }
IMAGE(l2_all_one)
{
	for (unsigned i = 0; i < m->cs / 8; i++)
		entry(m, i, at(m, DATA) | QCOW2_COPIED);
}
IMAGE(l2_garbage)
{
	uint64_t x = 88172645463325252u;

	for (unsigned i = 0; i < m->cs / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		entry(m, i, x);
	}
}

/* counts */
IMAGE(rt_to_header) { put64(m, at(m, RT), 0x200 - 0x200); put64(m, at(m, RT) + 8, 0); }
IMAGE(rt_to_itself) { put64(m, at(m, RT), at(m, RT)); }
IMAGE(rt_to_l1) { put64(m, at(m, RT), at(m, L1)); }
IMAGE(rt_to_l2) { put64(m, at(m, RT), at(m, L2)); }
IMAGE(rt_to_data) { put64(m, at(m, RT), at(m, DATA)); }
IMAGE(rt_to_beyond) { put64(m, at(m, RT), UINT64_C(1) << 62); }
IMAGE(rt_reserved) { put64(m, at(m, RT), at(m, RB) | 1); }
IMAGE(rt_all_one)
{
	for (unsigned i = 0; i < m->cs / 8; i++)
		put64(m, at(m, RT) + i * 8, at(m, RB));
}
IMAGE(counts_zero)
{
	for (unsigned c = 0; c < NCLUSTERS; c++)
		count(m, c, 0);
}
IMAGE(counts_max)
{
	for (unsigned c = 0; c < m->cs / 2; c++)
		count(m, c, UINT16_MAX);
}
IMAGE(rt_far) /* the L1 lies where the refcount table does not reach */
{
	uint64_t far = (m->cs / 8) * (m->cs / 2) * m->cs;

	put64(m, 40, far);
	put64(m, far, at(m, L2) | QCOW2_COPIED);
	length(m, far + m->cs);
	rt_all_one(m);
	counts_max(m); /* nothing is free below: the table must grow, onto the L1 */
}

/* compressed clusters */
IMAGE(packed_in_header) { entry(m, 0, packed(m, 0, 0)); }
IMAGE(packed_in_l1) { entry(m, 0, packed(m, at(m, L1), 0)); }
IMAGE(packed_at_eof) { entry(m, 0, packed(m, at(m, DATA + 2), 0)); }
IMAGE(packed_beyond) { entry(m, 0, packed(m, UINT64_C(1) << 50, 0)); }
IMAGE(packed_over_eof) { entry(m, 0, packed(m, at(m, DATA + 2) - 1, 1)); }
IMAGE(packed_garbage) { entry(m, 0, packed(m, at(m, DATA), 0)); }
IMAGE(packed_copied)
{
	deflated(m, at(m, DATA), m->cs);
	entry(m, 0, packed(m, at(m, DATA), 0) | QCOW2_COPIED);
}
IMAGE(packed_bomb) /* a stream of 64 MiB */
{
	size_t n = deflated(m, at(m, DATA), 64 << 20);

	length(m, (at(m, DATA) + n + m->cs) / m->cs * m->cs);
	for (unsigned i = 0; i < 100 && i < m->cs / 8; i++)
		entry(m, i, packed(m, at(m, DATA), (UINT64_C(1) << (m->bits - 8)) - 1));
}
IMAGE(packed_zstd_bomb)
{
	/* one frame that announces 2 EiB and a window of 2 GiB */
	static const uint8_t frame[] = { 0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0x20, 0x03, 0, 0 };
	uint8_t t = 1;

	put64(m, 72, QCOW2_INCOMPAT_COMPRESSION);
	put(m, 104, &t, 1);
	put(m, at(m, DATA), frame, sizeof(frame));
	entry(m, 0, packed(m, at(m, DATA), 0));
}

/* extended entries: 16 KiB clusters */
static void extended(struct image *m, uint64_t e, uint64_t bitmap)
{
	put64(m, 72, QCOW2_INCOMPAT_EXTL2);
	put64(m, at(m, L2), e);
	put64(m, at(m, L2) + 8, bitmap);
}
IMAGE(ext_l2_both) { extended(m, at(m, DATA) | QCOW2_COPIED, UINT64_MAX); }
IMAGE(ext_l2_no_cluster) { extended(m, 0, 1); }
IMAGE(ext_l2_zero_bit) { extended(m, at(m, DATA) | QCOW2_COPIED | 1, 1); }
IMAGE(ext_l2_packed) { extended(m, packed(m, at(m, DATA), 0), 1); }
IMAGE(ext_l2_small) { put64(m, 72, QCOW2_INCOMPAT_EXTL2); } /* 512-byte clusters */

/* backing files */
IMAGE(backing_zero) { backing(m, "/dev/zero", "raw"); }
IMAGE(backing_dir) { backing(m, "..", "raw"); }
IMAGE(backing_fifo) { backing(m, "fifo", "raw"); }
IMAGE(backing_probe_fifo) { backing(m, "fifo", NULL); }
IMAGE(backing_self) { backing(m, "backing-self", "qcow2"); }
IMAGE(backing_other) { backing(m, "backing-another", "qcow2"); }
IMAGE(backing_another) { backing(m, "backing-other", "qcow2"); }
IMAGE(backing_missing) { backing(m, "no-such-file", "qcow2"); }
IMAGE(backing_unknown) { backing(m, "sound", "nonsense"); }
IMAGE(backing_no_qcow2) { backing(m, "make.log", "qcow2"); }
IMAGE(backing_protocol) { backing(m, "nbd://localhost/x", "raw"); }
IMAGE(backing_fd) { backing(m, "/proc/self/fd/0", "raw"); }
IMAGE(backing_escape) { backing(m, "a\nb\033[31m\"\\", "raw"); }
IMAGE(backing_utf8) { backing(m, "\xff\xfe\xc0\x80", "raw"); }
IMAGE(backing_empty_json) { backing(m, "json:", "raw"); }
IMAGE(backing_json_self)
{
	backing(m, "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"backing-json-self\"}}",
		NULL);
}
IMAGE(backing_json_null) { backing(m, "json:{\"driver\":\"null-co\",\"size\":9223372036854775807}", NULL); }
IMAGE(backing_outside) { put64(m, 8, 511); put32(m, 16, 1023); }
IMAGE(backing_beyond) { put64(m, 8, UINT64_MAX); put32(m, 16, 10); }
IMAGE(backing_in_header) { put64(m, 8, 1); put32(m, 16, 100); }
IMAGE(backing_long)
{
	char name[1024];

	memset(name, 'x', 1023);
	name[1023] = 0;
	backing(m, name, "raw");
}
IMAGE(backing_json_deep) /* as deep as a name can be */
{
	char name[1024] = "json:";

	for (unsigned i = 0; i < 100; i++)
		strcat(name, "{\"file\":");
	backing(m, name, NULL);
}
IMAGE(backing_json_list)
{
	char name[1024] = "json:";

	memset(name + 5, '[', 1000);
	backing(m, name, NULL);
}

/* data files */
IMAGE(data_none) { data_file(m, NULL); }
IMAGE(data_empty) { data_file(m, ""); }
IMAGE(data_self) { data_file(m, "data-self"); }
IMAGE(data_zero) { data_file(m, "/dev/zero"); }
IMAGE(data_fifo) { data_file(m, "fifo"); }
IMAGE(data_missing) { data_file(m, "no-such-file"); }
IMAGE(data_json) { data_file(m, "json:{\"driver\":\"file\",\"filename\":\"sound\"}"); }
IMAGE(data_raw) { data_file(m, "secret"); put64(m, 88, 2); }
IMAGE(data_shifted) { data_file(m, "secret"); entry(m, 0, (m->cs * 3) | QCOW2_COPIED); }

/* snapshots */
IMAGE(snap_many) { put32(m, 60, UINT32_MAX); put64(m, 64, at(m, DATA)); }
IMAGE(snap_65536) { put32(m, 60, 65536); put64(m, 64, at(m, DATA)); }
IMAGE(snap_beyond) { put32(m, 60, 1); put64(m, 64, UINT64_C(1) << 40); }
IMAGE(snap_wraps) { put32(m, 60, 1); put64(m, 64, UINT64_MAX - 511); }
IMAGE(snap_unaligned) { put32(m, 60, 1); put64(m, 64, 3); }
IMAGE(snap_header) { put32(m, 60, 1); put64(m, 64, 0); }
IMAGE(snap_l1_beyond) { snapshot(m, NCLUSTERS - 1, UINT64_C(1) << 40, 2, "one"); }
IMAGE(snap_l1_huge) { snapshot(m, NCLUSTERS - 1, at(m, L1), UINT32_MAX, "one"); }
IMAGE(snap_l1_active) { snapshot(m, NCLUSTERS - 1, at(m, L1), 2, "one"); }
IMAGE(snap_l1_self) { snapshot(m, NCLUSTERS - 1, at(m, NCLUSTERS - 1), 2, "one"); }
IMAGE(snap_name) { snapshot(m, NCLUSTERS - 1, at(m, L1), 2, "a\nb\033[31m\xff"); }
IMAGE(snap_extra) { snapshot(m, NCLUSTERS - 1, at(m, L1), 2, "one"); put32(m, at(m, NCLUSTERS - 1) + 36, UINT32_MAX); }
IMAGE(snap_names_long)
{
	snapshot(m, NCLUSTERS - 1, at(m, L1), 2, "one");
	put32(m, at(m, NCLUSTERS - 1) + 12, UINT32_MAX);
}
IMAGE(snap_size)
{
	snapshot(m, NCLUSTERS - 1, at(m, L1), 2, "one");
	put64(m, at(m, NCLUSTERS - 1) + 48, UINT64_MAX);
}

/* bitmaps */
IMAGE(bitmaps_many) { bitmaps(m, UINT32_MAX, 64, at(m, DATA)); }
IMAGE(bitmaps_beyond) { bitmaps(m, 1, 64, UINT64_C(1) << 40); }
IMAGE(bitmaps_wrap) { bitmaps(m, 1, UINT64_MAX, at(m, DATA)); }
IMAGE(bitmaps_on_l1) { bitmaps(m, 1, 32, at(m, L1)); }
IMAGE(bitmaps_on_rt) { bitmaps(m, 1, 32, at(m, RT)); bitmap_entry(m, at(m, RT), at(m, DATA), 1, 2); }
IMAGE(bitmap_table_huge)
{
	bitmaps(m, 1, 32, at(m, NCLUSTERS));
	bitmap_entry(m, at(m, NCLUSTERS), at(m, NCLUSTERS + 1), 0x8000000, 2);
	length(m, at(m, NCLUSTERS + 2));
}
IMAGE(bitmap_table_sparse) /* 128 million entries of a sparse GiB, and the disk to go with them */
{
	bitmap_table_huge(m);
	put64(m, 72, 1); /* dirty: opening for writing recounts */
	length(m, at(m, NCLUSTERS + 2) + (UINT64_C(1) << 30));
}
IMAGE(bitmap_on_header)
{
	bitmaps(m, 1, 32, at(m, NCLUSTERS));
	bitmap_entry(m, at(m, NCLUSTERS), at(m, NCLUSTERS + 1), 1, 2);
	put64(m, at(m, NCLUSTERS + 1), 0);
	put64(m, at(m, NCLUSTERS + 1), at(m, RT));
	length(m, at(m, NCLUSTERS + 2));
}
IMAGE(bitmap_claims) /* four bitmaps of 512 MiB, all of it ones, in a few bytes; 2 MiB clusters */
{
	put64(m, 24, UINT64_C(1) << 41);
	put32(m, 36, 4);
	bitmaps(m, 4, 4 * 32, at(m, NCLUSTERS));
	for (unsigned i = 0; i < 4; i++) {
		bitmap_entry(m, at(m, NCLUSTERS) + i * 32, at(m, NCLUSTERS + 1), 256, 2);
		count(m, NCLUSTERS + i % 2, 1);
	}
	for (unsigned i = 0; i < 256; i++)
		put64(m, at(m, NCLUSTERS + 1) + i * 8, QCOW2_BITMAP_TABLE_ONES);
	length(m, at(m, NCLUSTERS + 2));
}
IMAGE(bitmap_table_on_header)
{
	bitmaps(m, 1, 32, at(m, NCLUSTERS));
	bitmap_entry(m, at(m, NCLUSTERS), at(m, RT), 1, 2);
	length(m, at(m, NCLUSTERS + 1));
}

/* files that are larger than they look */
IMAGE(file_8t) { length(m, UINT64_C(8) << 40); }
IMAGE(file_max) { length(m, INT64_MAX); }
IMAGE(disk_2e) /* 2 EiB in 64 MiB of holes; 2 MiB clusters */
{
	put64(m, 24, UINT64_C(1) << 61);
	put64(m, 40, UINT64_C(32) << 20);
	put32(m, 36, 4 << 20);
	length(m, UINT64_C(64) << 20);
}
IMAGE(disk_2e_full) /* the same, and every L1 entry names the one L2 table */
{
	uint8_t *v = malloc(32 << 20);

	if (!v)
		die("memory");
	for (size_t i = 0; i < 32 << 20; i += 8)
		plt_put_be64(v + i, at(m, L2) | QCOW2_COPIED);
	disk_2e(m);
	entry(m, 2, 2); /* something to be said, of each */
	put(m, UINT64_C(32) << 20, v, 32 << 20);
	free(v);
}
IMAGE(disk_2e_hole) /* and all of it lies in one hole: one extent for ever */
{
	disk_2e_full(m);
	for (unsigned i = 0; i < m->cs / 8; i++)
		entry(m, i, at(m, NCLUSTERS) | QCOW2_COPIED);
}

IMAGE(snaps_rows) /* all of the file is entries of snapshot tables, and none is where the header says */
{
	enum { LEN = 64 };
	uint64_t from = at(m, NCLUSTERS), end = m->cs * (m->cs / 2);
	uint8_t *v = calloc(1, m->cs);

	if (!v)
		die("memory");
	for (unsigned i = 0; i < m->cs / LEN; i++) {
		plt_put_be64(v + i * LEN, at(m, L1));
		plt_put_be32(v + i * LEN + 8, 2);
		plt_put_be16(v + i * LEN + 12, 1);
		plt_put_be16(v + i * LEN + 14, 1);
		plt_put_be32(v + i * LEN + 36, 16);
		v[i * LEN + 56] = v[i * LEN + 57] = 'a';
	}
	for (uint64_t off = from; off < end; off += m->cs) {
		put(m, off, v, m->cs);
		count(m, (unsigned)(off / m->cs), 1);
	}
	put32(m, 60, 3);
	put64(m, 64, end + m->cs);
	free(v);
}

IMAGE(snaps_64m) /* 65536 snapshots whose names fill 64 MiB of a hole */
{
	put32(m, 60, 65536);
	put64(m, 64, at(m, NCLUSTERS));
	length(m, at(m, NCLUSTERS) + (UINT64_C(64) << 20));
}

/* 65536 snapshots, each with an L1 table of 32 MiB: each @step behind the one before. */
static void snapshots_with_l1(struct image *m, uint64_t step)
{
	enum { N = 65536, LEN = 56 };
	uint64_t l1 = at(m, NCLUSTERS), table = l1 + N * step + (UINT64_C(32) << 20);
	uint8_t *v = calloc(N, LEN);

	if (!v)
		die("memory");
	for (unsigned i = 0; i < N; i++) {
		plt_put_be64(v + i * LEN, l1 + i * step);
		plt_put_be32(v + i * LEN + 8, 4 << 20);
		plt_put_be32(v + i * LEN + 36, 16);
	}
	put(m, table, v, (size_t)N * LEN);
	for (unsigned i = 0; i < 1000; i++) /* something to follow in each */
		put64(m, l1 + i * UINT64_C(32768), at(m, L2));
	put32(m, 60, N);
	put64(m, 64, table);
	free(v);
}

IMAGE(snaps_one_l1)
{
	snapshots_with_l1(m, 0);
}

IMAGE(snaps_l1_apart)
{
	snapshots_with_l1(m, m->cs);
}

IMAGE(sparse_l2) /* an L1 table of 8 MiB that names as many L2 tables, all in one hole */
{
	enum { N = 1 << 20 };
	uint64_t l1 = at(m, NCLUSTERS), first = l1 + (UINT64_C(16) << 20);
	uint8_t *v = malloc(N * 8);

	if (!v)
		die("memory");
	for (unsigned i = 0; i < N; i++)
		plt_put_be64(v + i * 8, i ? (first + i * m->cs) | QCOW2_COPIED : at(m, L2) | QCOW2_COPIED);
	put(m, l1, v, (size_t)N * 8);
	put32(m, 36, N);
	put64(m, 40, l1);
	length(m, first + N * m->cs);
	free(v);
}

#define QCOW2(name, text) { text, 9, name }
static const struct {
	const char *name;
	unsigned bits;
	void (*make)(struct image *m);
} images[] = {
	QCOW2(sound_image, "sound"), QCOW2(cut_0, "cut-0"), QCOW2(cut_1, "cut-1"), QCOW2(cut_71, "cut-71"),
	QCOW2(cut_72, "cut-72"), QCOW2(cut_103, "cut-103"), QCOW2(cut_104, "cut-104"),
	QCOW2(cut_tables, "cut-tables"),
	QCOW2(version_1, "version-1"), QCOW2(version_4, "version-4"), QCOW2(version_max, "version-max"),
	QCOW2(bits_0, "bits-0"), QCOW2(bits_8, "bits-8"), QCOW2(bits_22, "bits-22"), QCOW2(bits_63, "bits-63"),
	QCOW2(bits_max, "bits-max"), QCOW2(size_int64, "size-int64"), QCOW2(size_2_63, "size-2-63"),
	QCOW2(size_max, "size-max"), QCOW2(size_0, "size-0"), QCOW2(crypt_aes, "crypt-aes"),
	QCOW2(crypt_luks, "crypt-luks"), QCOW2(crypt_3, "crypt-3"), QCOW2(l1_size_max, "l1-size-max"),
	QCOW2(l1_size_4m, "l1-size-4m"), QCOW2(l1_size_0, "l1-size-0"), QCOW2(l1_unaligned, "l1-unaligned"),
	QCOW2(l1_beyond, "l1-beyond"), QCOW2(l1_wraps, "l1-wraps"), QCOW2(rt_size_max, "rt-size-max"),
	QCOW2(rt_size_0, "rt-size-0"), QCOW2(rt_8m, "rt-8m"), QCOW2(rt_beyond, "rt-beyond"),
	QCOW2(rt_wraps, "rt-wraps"), QCOW2(order_0, "order-0"), QCOW2(order_1, "order-1"),
	QCOW2(order_2, "order-2"), QCOW2(order_3, "order-3"), QCOW2(order_5, "order-5"),
	QCOW2(order_6, "order-6"), QCOW2(order_7, "order-7"), QCOW2(order_max, "order-max"),
	QCOW2(hlen_0, "hlen-0"), QCOW2(hlen_103, "hlen-103"), QCOW2(hlen_105, "hlen-105"),
	QCOW2(hlen_512, "hlen-512"), QCOW2(hlen_max, "hlen-max"), QCOW2(compression_9, "compression-9"),
	QCOW2(compression_bit, "compression-bit"), QCOW2(incompatible, "incompatible"),
	QCOW2(corrupt_bit, "corrupt-bit"), QCOW2(dirty_bit, "dirty-bit"),
	QCOW2(ext_too_long, "ext-too-long"), QCOW2(ext_many, "ext-many"), QCOW2(ext_to_the_end, "ext-to-the-end"),
	QCOW2(ext_format_long, "ext-format-long"), QCOW2(ext_luks, "ext-luks"),
	{ "features-1m", 21, features_1m }, { "ext-flood", 21, ext_flood },
	QCOW2(l1_in_header, "l1-in-header"), QCOW2(rt_in_header, "rt-in-header"), QCOW2(rt_on_l1, "rt-on-l1"),
	QCOW2(l1_over_rt, "l1-over-rt"), QCOW2(l1_to_itself, "l1-to-itself"), QCOW2(l1_to_header, "l1-to-header"),
	QCOW2(l1_to_rb, "l1-to-rb"), QCOW2(l1_twice, "l1-twice"), QCOW2(l1_reserved, "l1-reserved"),
	QCOW2(l1_to_beyond, "l1-to-beyond"), QCOW2(l2_to_l1, "l2-to-l1"), QCOW2(l2_to_itself, "l2-to-itself"),
	QCOW2(l2_to_rb, "l2-to-rb"), QCOW2(l2_to_rt, "l2-to-rt"), QCOW2(l2_to_beyond, "l2-to-beyond"),
	QCOW2(l2_reserved, "l2-reserved"), QCOW2(l2_unaligned, "l2-unaligned"), QCOW2(l2_all_one, "l2-all-one"),
	QCOW2(l2_garbage, "l2-garbage"),
	QCOW2(rt_to_header, "rt-empty"), QCOW2(rt_to_itself, "rt-to-itself"), QCOW2(rt_to_l1, "rt-to-l1"),
	QCOW2(rt_to_l2, "rt-to-l2"), QCOW2(rt_to_data, "rt-to-data"), QCOW2(rt_to_beyond, "rt-to-beyond"),
	QCOW2(rt_reserved, "rt-reserved"), QCOW2(rt_all_one, "rt-all-one"), QCOW2(counts_zero, "counts-zero"),
	QCOW2(counts_max, "counts-max"), QCOW2(rt_far, "rt-far"),
	QCOW2(packed_in_header, "packed-in-header"), QCOW2(packed_in_l1, "packed-in-l1"),
	QCOW2(packed_at_eof, "packed-at-eof"), QCOW2(packed_beyond, "packed-beyond"),
	QCOW2(packed_over_eof, "packed-over-eof"), QCOW2(packed_garbage, "packed-garbage"),
	QCOW2(packed_copied, "packed-copied"), QCOW2(packed_zstd_bomb, "packed-zstd-bomb"),
	{ "packed-bomb", 16, packed_bomb },
	{ "ext-l2-both", 14, ext_l2_both }, { "ext-l2-no-cluster", 14, ext_l2_no_cluster },
	{ "ext-l2-zero-bit", 14, ext_l2_zero_bit }, { "ext-l2-packed", 14, ext_l2_packed },
	QCOW2(ext_l2_small, "ext-l2-small"),
	QCOW2(backing_zero, "backing-zero"), QCOW2(backing_dir, "backing-dir"), QCOW2(backing_fifo, "backing-fifo"),
	QCOW2(backing_probe_fifo, "backing-probe-fifo"), QCOW2(backing_self, "backing-self"),
	QCOW2(backing_other, "backing-other"), QCOW2(backing_another, "backing-another"),
	QCOW2(backing_missing, "backing-missing"), QCOW2(backing_unknown, "backing-unknown"),
	QCOW2(backing_no_qcow2, "backing-no-qcow2"), QCOW2(backing_protocol, "backing-protocol"),
	QCOW2(backing_fd, "backing-fd"), QCOW2(backing_escape, "backing-escape"),
	QCOW2(backing_utf8, "backing-utf8"), QCOW2(backing_empty_json, "backing-empty-json"),
	QCOW2(backing_json_self, "backing-json-self"), QCOW2(backing_json_null, "backing-json-null"),
	QCOW2(backing_outside, "backing-outside"), QCOW2(backing_beyond, "backing-beyond"),
	QCOW2(backing_in_header, "backing-in-header"), { "backing-long", 12, backing_long },
	{ "backing-json-deep", 12, backing_json_deep }, { "backing-json-list", 12, backing_json_list },
	QCOW2(data_none, "data-none"), QCOW2(data_empty, "data-empty"), QCOW2(data_self, "data-self"),
	QCOW2(data_zero, "data-zero"), QCOW2(data_fifo, "data-fifo"), QCOW2(data_missing, "data-missing"),
	QCOW2(data_json, "data-json"), QCOW2(data_raw, "data-raw"), QCOW2(data_shifted, "data-shifted"),
	QCOW2(snap_many, "snap-many"), QCOW2(snap_65536, "snap-65536"), QCOW2(snap_beyond, "snap-beyond"),
	QCOW2(snap_wraps, "snap-wraps"), QCOW2(snap_unaligned, "snap-unaligned"),
	QCOW2(snap_header, "snap-header"), QCOW2(snap_l1_beyond, "snap-l1-beyond"),
	QCOW2(snap_l1_huge, "snap-l1-huge"), QCOW2(snap_l1_active, "snap-l1-active"),
	QCOW2(snap_l1_self, "snap-l1-self"), QCOW2(snap_name, "snap-name"), QCOW2(snap_extra, "snap-extra"),
	QCOW2(snap_names_long, "snap-names-long"), QCOW2(snap_size, "snap-size"),
	QCOW2(bitmaps_many, "bitmaps-many"), QCOW2(bitmaps_beyond, "bitmaps-beyond"),
	QCOW2(bitmaps_wrap, "bitmaps-wrap"), QCOW2(bitmaps_on_l1, "bitmaps-on-l1"),
	QCOW2(bitmaps_on_rt, "bitmaps-on-rt"), QCOW2(bitmap_table_huge, "bitmap-table-huge"),
	QCOW2(bitmap_table_sparse, "bitmap-table-sparse"), QCOW2(bitmap_on_header, "bitmap-on-rt"),
	QCOW2(bitmap_table_on_header, "bitmap-table-on-rt"),
	{ "bitmap-claims", 21, bitmap_claims }, QCOW2(file_8t, "file-8t"), QCOW2(file_max, "file-max"), { "disk-2e", 21, disk_2e },
	{ "disk-2e-full", 21, disk_2e_full }, { "disk-2e-hole", 21, disk_2e_hole }, QCOW2(snaps_64m, "snaps-64m"),
	{ "snaps-rows", 13, snaps_rows },
	{ "sparse-snaps-one-l1", 16, snaps_one_l1 }, { "sparse-snaps-l1-apart", 16, snaps_l1_apart },
	{ "sparse-l2", 16, sparse_l2 },
};

static void make_all(const char *dir)
{
	for (size_t i = 0; i < sizeof(images) / sizeof(images[0]); i++) {
		struct image m = { 0 };
		char path[4096];

		snprintf(path, sizeof(path), "%s/%s", dir, images[i].name);
		m.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (m.fd < 0)
			die(path);
		sound(&m, images[i].bits);
		images[i].make(&m);
		if (close(m.fd) < 0)
			die(path);
		printf("%s\n", images[i].name);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--pack"))
		pack(argv[2]);
	else if (argc == 4 && !strcmp(argv[1], "--opens"))
		return opens(argv[2], argv[3]);
	else if (argc == 2)
		make_all(argv[1]);
	else {
		fprintf(stderr, "usage: %s DIR | --pack FILE | --opens FILE SOUND-FILE\n", argv[0]);
		return 99;
	}
	return 0;
}
