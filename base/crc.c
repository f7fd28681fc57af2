/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * CRC-32C: by the processor's instruction where there is one, else eight bytes a step by tables.
 * Backwards by one table: the top byte of a register tells which entry was mixed in last.
 */
#include "base/crc.h"

#include <pthread.h>

#include "base/endian.h"

#define POLY 0x82f63b78u

static uint32_t table[8][256];
static uint8_t entry_of_top[256]; /* index of the entry of table[0] with this top byte */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int bit = 0; bit < 8; bit++)
			v = v >> 1 ^ (v & 1 ? POLY : 0);
		table[0][i] = v;
		entry_of_top[v >> 24] = (uint8_t)i;
	}
	for (unsigned k = 1; k < 8; k++)
		for (unsigned i = 0; i < 256; i++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

uint32_t plt_crc32c_by_table(uint32_t state, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	pthread_once(&once, make_tables);
	for (; len >= 8; p += 8, len -= 8) {
		uint32_t a = state ^ plt_get_le32(p), b = plt_get_le32(p + 4);

		state = table[7][a & 0xff] ^ table[6][a >> 8 & 0xff] ^ table[5][a >> 16 & 0xff] ^
			table[4][a >> 24] ^ table[3][b & 0xff] ^ table[2][b >> 8 & 0xff] ^
			table[1][b >> 16 & 0xff] ^ table[0][b >> 24];
	}
	for (; len; p++, len--)
		state = state >> 8 ^ table[0][(state ^ *p) & 0xff];
	return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t state, const uint8_t *p, size_t len)
{
	uint64_t s = state;

	for (; len >= 8; p += 8, len -= 8)
		s = __builtin_ia32_crc32di(s, plt_get_le64(p));
	state = (uint32_t)s;
	for (; len; p++, len--)
		state = __builtin_ia32_crc32qi(state, *p);
	return state;
}
#endif

uint32_t plt_crc32c(uint32_t state, const void *buf, size_t len)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return by_instruction(state, buf, len);
#endif
	return plt_crc32c_by_table(state, buf, len);
}

uint32_t plt_crc32c_back(uint32_t state, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	pthread_once(&once, make_tables);
	while (len--) {
		unsigned i = entry_of_top[state >> 24];

		state = (state ^ table[0][i]) << 8 | (uint8_t)(i ^ p[len]);
	}
	return state;
}

uint32_t plt_crc32c_solve(uint32_t before, uint32_t after)
{
	static const uint8_t zeros[4];

	return before ^ plt_crc32c_back(after, zeros, sizeof(zeros));
}
