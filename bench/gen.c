/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Makes the disk that the benches copy: pieces of 64 KiB to 1 MiB, half of the bytes incompressible,
 * 30 % like text, 20 % zero, always the same for the same size.
 *
 *	gen FILE GIB [SPAN_GIB]     with a span the pieces are spread over that much of a sparse file
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed = 42;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill_text(char *p, size_t n)
{
	static const char *const words[] = {
		"disk", "image", "the", "of", "cluster", "table", "refcount", "and", "a", "offset", "block",
		"header", "is", "backing", "file", "=", "0x", "return", "if", "(", ")", ";", "{", "}", "guest",
		"write", "read", "to", "in", "sector", "map", "entry", "kernel", "error", "config", "version",
	};
	size_t at = 0;

	while (at < n) {
		uint64_t r = rnd();
		const char *w = words[r % (sizeof(words) / sizeof(words[0]))];
		size_t len = strlen(w);

		if (r >> 60 == 0) { /* now and then a number */
			char num[24];

			len = (size_t)snprintf(num, sizeof(num), "%llu", (unsigned long long)(r >> 40 & 0xffffff));
			memcpy(p + at, num, len < n - at ? len : n - at);
		} else {
			memcpy(p + at, w, len < n - at ? len : n - at);
		}
		at += len;
		if (at < n)
			p[at++] = r >> 59 & 1 ? ' ' : (r >> 55 & 15 ? ' ' : '\n');
	}
}

int main(int argc, char **argv)
{
	uint64_t total, span, done = 0, off = 0;
	char *buf = malloc(1 << 20);
	int fd;

	if (argc < 3 || !buf)
		return 2;
	total = strtoull(argv[2], NULL, 0) << 30;
	span = argc > 3 ? strtoull(argv[3], NULL, 0) << 30 : total;
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0666);
	if (fd < 0 || ftruncate(fd, (off_t)span) < 0) {
		perror(argv[1]);
		return 1;
	}
	while (done < total) {
		uint64_t kind = rnd() % 10, n = (1 + rnd() % 16) << 16;

		if (n > total - done)
			n = total - done;
		if (kind < 5)
			for (size_t i = 0; i < n; i += 8) {
				uint64_t r = rnd();

				memcpy(buf + i, &r, 8);
			}
		else if (kind < 8)
			fill_text(buf, n);
		if (kind < 8 && pwrite(fd, buf, n, (off_t)off) != (ssize_t)n) {
			perror(argv[1]);
			return 1;
		}
		done += n;
		off += n;
		if (span > total) /* the same share of gaps everywhere */
			off = (uint64_t)((double)done / (double)total * (double)span) >> 16 << 16;
	}
	return close(fd) < 0;
}
