/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A file as a list of pieces: what is not zero of it, and where that lies.
 */
#include "tests/fuzz/hostile.h"

static void emit(const void *buf, size_t len)
{
	if (fwrite(buf, 1, len, stdout) != len)
		die("write");
}

static void emit_piece(uint64_t off, const uint8_t *buf, size_t len)
{
	uint8_t b[10];

	plt_put_be64(b, off);
	plt_put_be16(b + 8, (uint16_t)len);
	emit(b, 10);
	emit(buf, len);
}

static bool any(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return true;
	return false;
}

void pack(const char *path)
{
	enum { MOST = 8 << 20, UNIT = 32 };
	uint8_t *buf = calloc(1, MOST + UNIT), head[12] = "PLTS";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat sb;
	ssize_t n;

	if (fd < 0 || fstat(fd, &sb) < 0 || !buf)
		die(path);
	n = pread(fd, buf, MOST, 0);
	if (n < 0)
		die(path);
	plt_put_be64(head + 4, (uint64_t)sb.st_size);
	emit(head, 12);
	for (size_t at0 = 0; at0 < (size_t)n;) {
		size_t len = 0;

		while (at0 + len < (size_t)n && len + UNIT <= UINT16_MAX && any(buf + at0 + len, UNIT))
			len += UNIT;
		if (len)
			emit_piece(at0, buf + at0, len);
		at0 += len ? len : UNIT;
	}
	close(fd);
	free(buf);
	if (fflush(stdout) != 0)
		die("standard output");
}
