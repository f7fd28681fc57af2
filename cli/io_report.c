/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What `platter io` prints of a request: what was done and how fast, bytes in hexadecimal, patterns
 * that do not match.  Invariant: qemu-io's text to the character, times apart; tests compare it.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "cli/io.h"

void io_size_text(double value, char ret[IO_SIZE_MAX])
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	char *end;

	while (value >= 1024 && unit < 6) {
		value /= 1024;
		unit++;
	}
	snprintf(ret, IO_SIZE_MAX - 8, unit ? "%.3f" : "%f", value);
	end = strstr(ret, ".000");
	if (!end)
		end = ret + strlen(ret);
	snprintf(end, (size_t)(ret + IO_SIZE_MAX - end), " %s", units[unit]);
}

void io_report(const char *done, const struct io_request *r, int64_t off, uint64_t len)
{
	double fraction = (double)r->took.tv_nsec / 1e9, seconds = (double)r->took.tv_sec + fraction;
	unsigned long long s = (unsigned long long)r->took.tv_sec;
	char total[IO_SIZE_MAX], rate[IO_SIZE_MAX], time[64];

	if (r->machine || s)
		snprintf(time, sizeof(time), "%llu:%02llu:%05.2f", s / 3600, s % 3600 / 60, (double)(s % 60) + fraction);
	else
		snprintf(time, sizeof(time), "%05.2f sec", fraction);
	if (r->machine) {
		printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", len, time, (double)len / seconds, 1 / seconds);
		return;
	}
	io_size_text((double)len, total);
	io_size_text((double)len / seconds, rate);
	printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRId64 "\n", done, len, len, off);
	printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", total, time, rate, 1 / seconds);
}

void io_dump(const uint8_t *buf, int64_t off, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 16) {
		uint64_t n = PLT_MIN(len - i, UINT64_C(16));

		printf("%08" PRIx64 ":  ", (uint64_t)off + i);
		for (uint64_t j = 0; j < n; j++)
			printf("%02x ", buf[i + j]);
		putchar(' ');
		for (uint64_t j = 0; j < n; j++)
			putchar(buf[i + j] < 128 && isalnum(buf[i + j]) ? buf[i + j] : '.');
		putchar('\n');
	}
}

bool io_verify(const struct io_request *r, int pattern, uint64_t skip, uint64_t len)
{
	const uint8_t *p = r->buf + skip;

	/* all are as the first one, and that is right */
	if (!len || (p[0] == pattern && !memcmp(p, p + 1, (size_t)(len - 1))))
		return true;
	printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", r->aio.off + skip, len);
	return false;
}
