/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A sound qcow2 in the making, and what is written over it.
 */
#include "tests/fuzz/hostile.h"

#include <zlib.h>

void die(const char *what)
{
	fprintf(stderr, "make-images: %s: %s\n", what, strerror(errno));
	exit(99);
}

void put(struct image *m, uint64_t off, const void *buf, size_t len)
{
	if (pwrite(m->fd, buf, len, (off_t)off) != (ssize_t)len)
		die("write");
}

void put16(struct image *m, uint64_t off, uint16_t v)
{
	uint8_t b[2];

	plt_put_be16(b, v);
	put(m, off, b, 2);
}

void put32(struct image *m, uint64_t off, uint32_t v)
{
	uint8_t b[4];

	plt_put_be32(b, v);
	put(m, off, b, 4);
}

void put64(struct image *m, uint64_t off, uint64_t v)
{
	uint8_t b[8];

	plt_put_be64(b, v);
	put(m, off, b, 8);
}

uint64_t at(const struct image *m, unsigned cluster)
{
	return (uint64_t)cluster << m->bits;
}

void length(struct image *m, uint64_t len)
{
	if (ftruncate(m->fd, (off_t)len) < 0 && errno != EFBIG && errno != EINVAL)
		die("truncate");
}

void count(struct image *m, unsigned cluster, uint16_t n)
{
	put16(m, at(m, RB) + cluster * 2, n);
}

void entry(struct image *m, unsigned i, uint64_t e)
{
	put64(m, at(m, L2) + i * 8, e);
}

void sound(struct image *m, unsigned bits)
{
	uint8_t fill[512];

	m->bits = bits;
	m->cs = UINT64_C(1) << bits;
	length(m, 0);
	put32(m, 0, QCOW2_MAGIC);
	put32(m, 4, 3);
	put32(m, 20, bits);
	put64(m, 24, m->cs * 100);
	put32(m, 36, 2); /* 512-byte clusters need two, larger ones have one to spare */
	put64(m, 40, at(m, L1));
	put64(m, 48, at(m, RT));
	put32(m, 56, 1);
	put32(m, 96, 4);
	put32(m, 100, 112);
	m->ext = 112;
	put64(m, at(m, RT), at(m, RB));
	put64(m, at(m, L1), at(m, L2) | QCOW2_COPIED);
	for (unsigned c = 0; c < DATA + 2; c++)
		count(m, c, 1);
	for (unsigned i = 0; i < 2; i++) {
		entry(m, i, at(m, DATA + i) | QCOW2_COPIED);
		memset(fill, 'a' + (int)i, sizeof(fill));
		put(m, at(m, DATA + i), fill, sizeof(fill));
	}
	length(m, at(m, DATA + 2));
}

void extension(struct image *m, uint32_t type, const void *data, uint32_t len, uint32_t said)
{
	put32(m, m->ext, type);
	put32(m, m->ext + 4, said);
	if (len)
		put(m, m->ext + 8, data, len);
	m->ext += 8 + (len + 7) / 8 * 8;
}

void backing(struct image *m, const char *name, const char *format)
{
	uint64_t off;

	if (format)
		extension(m, QCOW2_EXT_BACKING_FORMAT, format, (uint32_t)strlen(format), (uint32_t)strlen(format));
	off = m->ext + 8;
	put(m, off, name, strlen(name));
	put64(m, 8, off);
	put32(m, 16, (uint32_t)strlen(name));
}

void data_file(struct image *m, const char *name)
{
	put64(m, 72, QCOW2_INCOMPAT_DATA_FILE);
	if (name)
		extension(m, QCOW2_EXT_DATA_FILE, name, (uint32_t)strlen(name), (uint32_t)strlen(name));
	entry(m, 0, 0 | QCOW2_COPIED);
	entry(m, 1, m->cs | QCOW2_COPIED);
	count(m, DATA, 0);
	count(m, DATA + 1, 0);
}

uint64_t packed(const struct image *m, uint64_t off, uint64_t sectors)
{
	return QCOW2_COMPRESSED | sectors << (62 - (m->bits - 8)) | off;
}

size_t deflated(struct image *m, uint64_t off, size_t n)
{
	z_stream z = { 0 };
	uint8_t *in = calloc(1, n), *out = malloc(n + 100);
	size_t len;

	if (!in || !out || deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
		die("deflate");
	z.next_in = in;
	z.avail_in = (uInt)n;
	z.next_out = out;
	z.avail_out = (uInt)(n + 100);
	if (deflate(&z, Z_FINISH) != Z_STREAM_END)
		die("deflate");
	len = z.total_out;
	deflateEnd(&z);
	put(m, off, out, len);
	free(in);
	free(out);
	return len;
}

void bitmaps(struct image *m, uint32_t n, uint64_t dir_size, uint64_t dir_off)
{
	uint8_t e[24] = { 0 };

	plt_put_be32(e, n);
	plt_put_be64(e + 8, dir_size);
	plt_put_be64(e + 16, dir_off);
	put64(m, 88, QCOW2_AUTOCLEAR_BITMAPS);
	extension(m, QCOW2_EXT_BITMAPS, e, sizeof(e), sizeof(e));
}

void bitmap_entry(struct image *m, uint64_t off, uint64_t table, uint32_t entries, uint32_t flags)
{
	put64(m, off, table);
	put32(m, off + 8, entries);
	put32(m, off + 12, flags);
	put32(m, off + 16, 1u << 24 | 9u << 16 | 6);
	put32(m, off + 20, 0);
	put(m, off + 24, "bitmap\0\0", 8);
}

void snapshot(struct image *m, unsigned c, uint64_t l1, uint32_t l1_size, const char *name)
{
	uint64_t o = at(m, c);
	size_t n = strlen(name);

	put32(m, 60, 1);
	put64(m, 64, o);
	put64(m, o, l1);
	put32(m, o + 8, l1_size);
	put16(m, o + 12, 1);
	put16(m, o + 14, (uint16_t)n);
	put32(m, o + 36, 16);
	put64(m, o + 48, m->cs * 100);
	put(m, o + 56, "1", 1);
	put(m, o + 57, name, n);
	length(m, at(m, c + 1));
	count(m, c, 1);
}
