/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Writing into a hostile image.  Whatever the tables say, the header, the active L1 table and the
 * refcount table are changed by nobody but the code whose business they are: every change passes a
 * store that looks up in the header as it is on disk where the three are, and compares with the tag of
 * the request.  Guest data, new tables and punched holes must stay clear of them; guest data and holes
 * also of the refcount blocks and L2 tables that the two tables name on disk.  Of a VHD the same holds for
 * both headers and the block allocation table; and a file that is cut keeps the blocks that the table names.
 */
#include "base/checked.h"
#include "base/iov.h"
#include "io/private.h"
#include "qcow2/ondisk.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/vhd.h"

struct guard {
	struct plt_store st;
	struct plt_store *below;
	const struct vhd_state *vhd; /* while one is open that has blocks */
};

static struct plt_store *below_of(struct plt_store *st)
{
	return ((struct guard *)st->priv)->below;
}

/* No entry of the table at @at (the first thousand are looked at) names a cluster in [off, +len). */
static void judge_named(struct plt_store *st, uint64_t off, uint64_t len, uint64_t at, uint64_t bytes, unsigned bits,
			const char *what)
{
	uint64_t e[1024], cs = UINT64_C(1) << bits;

	bytes = PLT_MIN(bytes, sizeof(e));
	if (at > INT64_MAX - bytes || plt_store_read(below_of(st), at, e, (size_t)bytes, PLT_IO_OTHER, NULL) < 0)
		return;
	for (uint64_t i = 0; i < bytes / 8; i++) {
		uint64_t place = plt_get_be64(&e[i]) & ~QCOW2_COPIED;

		if (place % cs || place >= QCOW2_MAX_HOST_OFFSET || !place ||
		    !plt_ranges_overlap(off, len, place, cs))
			continue;
		fprintf(stderr, "a change of %#llx+%#llx by the guest touches %s %llu at %#llx\n",
			(unsigned long long)off, (unsigned long long)len, what, (unsigned long long)i,
			(unsigned long long)place);
		abort();
	}
}

static void judge_vhd(const struct vhd_state *v, uint64_t off, uint64_t len, int tag)
{
	const uint64_t at[3] = { 0, v->header_off, v->table_off };
	const uint64_t n[3] = { VHD_FOOTER, VHD_HEADER, (uint64_t)v->entries * 4 };

	for (unsigned i = 0; i < 3; i++)
		if (plt_ranges_overlap(off, len, at[i], n[i]) && tag != (i < 2 ? PLT_IO_HEADER : PLT_IO_L1)) {
			fprintf(stderr, "a change of %#llx+%#llx (tag %d) touches the %s\n", (unsigned long long)off,
				(unsigned long long)len, tag, i == 0 ? "footer" : i == 1 ? "header" : "table");
			abort();
		}
}

/* The blocks that were whole in the file of @now bytes still are in that of @size. */
static void judge_cut(struct plt_store *st, const struct vhd_state *v, uint64_t now, uint64_t size)
{
	uint8_t e[4];

	for (uint64_t i = 0; i < v->blocks && i < 4096; i++) {
		uint64_t end;

		FUZZ_MUST(plt_store_read(below_of(st), v->table_off + i * 4, e, 4, PLT_IO_OTHER, NULL) == 0);
		end = (uint64_t)plt_get_be32(e) * VHD_SECTOR + vhd_block_len(v);
		FUZZ_MUST(end <= size || end > now);
	}
}

static void judge(struct plt_store *st, uint64_t off, uint64_t len, int tag)
{
	const struct vhd_state *v = ((struct guard *)st->priv)->vhd;
	struct qcow2_header h;
	uint64_t at[3], n[3];
	static const int owner[3] = { PLT_IO_HEADER, PLT_IO_L1, PLT_IO_REFTABLE };
	uint32_t bits;

	if (v)
		judge_vhd(v, off, len, tag);
	FUZZ_MUST(plt_store_read(below_of(st), 0, &h, sizeof(h), PLT_IO_OTHER, NULL) == 0);
	bits = plt_be32_get(h.cluster_bits);
	if (plt_be32_get(h.magic) != QCOW2_MAGIC || plt_be32_get(h.version) < 2 || bits < 9 || bits > 21)
		return; /* raw */
	at[0] = 0;
	n[0] = UINT64_C(1) << bits;
	at[1] = plt_be64_get(h.l1_table_offset);
	n[1] = (uint64_t)plt_be32_get(h.l1_size) * 8;
	at[2] = plt_be64_get(h.refcount_table_offset);
	n[2] = (uint64_t)plt_be32_get(h.refcount_table_clusters) << bits;
	for (unsigned i = 0; i < 3; i++)
		if (plt_ranges_overlap(off, len, at[i], n[i]) && tag != owner[i]) {
			fprintf(stderr, "a change of %#llx+%#llx (tag %d) touches %s at %#llx+%#llx\n",
				(unsigned long long)off, (unsigned long long)len, tag,
				i == 0 ? "the header" : i == 1 ? "the L1 table" : "the refcount table",
				(unsigned long long)at[i], (unsigned long long)n[i]);
			abort();
		}
	if (tag >= 0 && tag != PLT_IO_DATA && tag != PLT_IO_COW && tag != PLT_IO_COMPRESSED)
		return;
	if (plt_be32_get(h.version) >= 3 && plt_be64_get(h.incompatible_features) & QCOW2_INCOMPAT_DATA_FILE)
		return;
	judge_named(st, off, len, at[1], n[1], bits, "the L2 table of L1 entry");
	judge_named(st, off, len, at[2], n[2], bits, "refcount block");
}

static void guard_close(struct plt_store *st)
{
	plt_store_unref(below_of(st));
}

static int guard_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	return plt_store_size(below_of(st), ret, err);
}

static int guard_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		      struct plt_error *err)
{
	return plt_store_readv(below_of(st), off, iov, niov, tag, err);
}

static int guard_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	judge(st, off, plt_iov_len(iov, niov), tag);
	return plt_store_writev(below_of(st), off, iov, niov, tag, err);
}

static int guard_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags, enum plt_io_tag tag,
		      struct plt_error *err)
{
	judge(st, off, len, tag);
	return plt_store_zero(below_of(st), off, len, flags, tag, err);
}

static int guard_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	judge(st, off, len, -1);
	return plt_store_discard(below_of(st), off, len, err);
}

static int guard_sync(struct plt_store *st, struct plt_error *err)
{
	return plt_store_sync(below_of(st), err);
}

static int guard_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	const struct vhd_state *v = ((struct guard *)st->priv)->vhd;
	uint64_t now;

	FUZZ_MUST(plt_store_size(below_of(st), &now, NULL) == 0 && (size >= now || v));
	if (size < now)
		judge_cut(st, v, now, size);
	return plt_store_truncate(below_of(st), size, err);
}

static const struct plt_store_ops guard_ops = {
	.kind = "guard",
	.close = guard_close,
	.size = guard_size,
	.read = guard_read,
	.write = guard_write,
	.zero = guard_zero,
	.discard = guard_discard,
	.sync = guard_sync,
	.truncate = guard_truncate,
};

static struct plt_store *guard_new(struct plt_store *below)
{
	struct guard *g = calloc(1, sizeof(*g));

	FUZZ_MUST(g && plt_store_init(&g->st, &guard_ops, "image") == 0);
	g->st.priv = g;
	g->below = below;
	plt_store_inherit(&g->st, below);
	return &g->st;
}

/* Five bytes an operation: which, a place (in 256ths of the disk, or near its ends), a length. */
static const uint8_t usual[] = {
	0, 0, 0, 0, 1,  0, 0, 0, 7, 0,  4, 0, 0, 0, 0,  1, 0, 0, 3, 0,  2, 0, 0, 2, 0,  0, 128, 0, 1, 0,
	4, 0, 0, 0, 0,  3, 0, 1, 0, 0,  3, 128, 0, 0, 0, 0, 255, 9, 0, 9, 2, 0, 0, 255, 255, 0, 0, 0, 255, 255,
	5, 0, 0, 0, 0,  0, 0, 1, 1, 1,  1, 128, 0, 9, 9,
};

static void operate(struct plt_disk *disk, const uint8_t *p)
{
	static uint8_t buf[128 << 10];
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t size = plt_disk_size(disk), cs = plt_disk_cluster_size(disk), off, len;
	int r = 0;

	if (!size)
		return;
	off = size / 256 * p[1] + (uint64_t)p[2] * 331;
	if (p[1] == 255)
		off = size - ((uint64_t)p[2] + 1) * 3 % size;
	off %= size;
	len = 1 + (uint64_t)p[3] * 256 + p[4];
	memset(buf, p[3] | 1, sizeof(buf));
	switch (p[0] % 7) {
	case 0:
		r = plt_write(disk, off, buf, (size_t)PLT_MIN(len, size - off), &err);
		break;
	case 1:
		len *= 64;
		r = plt_write_zeroes(disk, off, PLT_MIN(len, size - off), p[4] & 1 ? PLT_ZERO_UNMAP : 0, &err);
		break;
	case 2:
		len *= 1024;
		r = plt_discard(disk, off, PLT_MIN(len, size - off), &err);
		break;
	case 3:
		if (!plt_disk_can_compress(disk) || cs > sizeof(buf))
			return;
		off = off / cs * cs;
		r = plt_write_compressed(disk, off, buf, (size_t)PLT_MIN(cs, size - off), 0, &err);
		break;
	case 4:
		r = plt_flush(disk, &err);
		break;
	case 5: /* several clusters */
		r = plt_write(disk, off, buf, (size_t)PLT_MIN(sizeof(buf), size - off), &err);
		break;
	default:
		r = plt_read(disk, off, buf, (size_t)PLT_MIN(len, size - off), &err);
	}
	fuzz_failed(r, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *ops;
	size_t ops_len;
	struct plt_store *st = guard_new(fuzz_store(data, len, &ops, &ops_len));
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;

	if (ops_len < 5) {
		ops = usual;
		ops_len = sizeof(usual);
	}
	for (unsigned round = 0; round < 2; round++) {
		disk = fuzz_open(st, PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING, NULL);
		if (!disk)
			break;
		fuzz_backing(disk);
		if (!strcmp(plt_disk_format(disk), "vpc") && vhd_of(plt_disk_image(disk))->entries)
			((struct guard *)st->priv)->vhd = vhd_of(plt_disk_image(disk));
		for (size_t i = 0; i + 5 <= ops_len && i < 20 * 5; i += 5)
			operate(disk, ops + i);
		fuzz_failed(plt_disk_close(disk, &err), &err);
		((struct guard *)st->priv)->vhd = NULL;
	}
	plt_store_unref(st);
	return 0;
}
