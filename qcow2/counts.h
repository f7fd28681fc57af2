/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW2_COUNTS_H
#define PLT_QCOW2_COUNTS_H

/*
 * How counts lie in a refcount block: 2^@order bits each, big endian, or, below a byte, from the least significant bit
 * up.  The caller has seen to it that entry @i lies in the block, and that a count fits.
 */
#include <stdint.h>

#include "base/endian.h"

static inline uint64_t qcow2_count_load(const uint8_t *block, unsigned order, uint64_t i)
{
	switch (order) {
	case 3:
		return block[i];
	case 4:
		return plt_get_be16(block + 2 * i);
	case 5:
		return plt_get_be32(block + 4 * i);
	case 6:
		return plt_get_be64(block + 8 * i);
	default:
		return block[i << order >> 3] >> ((i << order) & 7) & ((1u << (1u << order)) - 1);
	}
}

static inline void qcow2_count_store(uint8_t *block, unsigned order, uint64_t i, uint64_t count)
{
	unsigned shift;
	uint8_t *p;

	switch (order) {
	case 3:
		block[i] = (uint8_t)count;
		break;
	case 4:
		plt_put_be16(block + 2 * i, (uint16_t)count);
		break;
	case 5:
		plt_put_be32(block + 4 * i, (uint32_t)count);
		break;
	case 6:
		plt_put_be64(block + 8 * i, count);
		break;
	default:
		p = block + (i << order >> 3);
		shift = (i << order) & 7;
		*p = (uint8_t)((*p & ~(((1u << (1u << order)) - 1) << shift)) | count << shift);
	}
}

#endif
