/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_ENDIAN_H
#define PLT_BASE_ENDIAN_H

/*
 * Byte-array integer types for on-disk structures.  They have alignment 1, cannot be added or
 * compared by accident, and are read and written only through the accessors below.
 */
#include <stdint.h>
#include <string.h>

typedef struct { uint8_t b[2]; } plt_be16;
typedef struct { uint8_t b[4]; } plt_be32;
typedef struct { uint8_t b[8]; } plt_be64;
typedef struct { uint8_t b[2]; } plt_le16;
typedef struct { uint8_t b[4]; } plt_le32;
typedef struct { uint8_t b[8]; } plt_le64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PLT_SWAP_BE(n, v) __builtin_bswap##n(v)
#define PLT_SWAP_LE(n, v) (v)
#else
#define PLT_SWAP_BE(n, v) (v)
#define PLT_SWAP_LE(n, v) __builtin_bswap##n(v)
#endif

#define PLT_DEFINE_ENDIAN(order, ORDER, n)                                                         \
	static inline uint##n##_t plt_get_##order##n(const void *p)                                \
	{                                                                                          \
		uint##n##_t v;                                                                     \
		memcpy(&v, p, sizeof(v));                                                          \
		return PLT_SWAP_##ORDER(n, v);                                                     \
	}                                                                                          \
	static inline void plt_put_##order##n(void *p, uint##n##_t v)                              \
	{                                                                                          \
		v = PLT_SWAP_##ORDER(n, v);                                                        \
		memcpy(p, &v, sizeof(v));                                                          \
	}                                                                                          \
	static inline uint##n##_t plt_##order##n##_get(plt_##order##n v)                           \
	{                                                                                          \
		return plt_get_##order##n(v.b);                                                    \
	}                                                                                          \
	static inline plt_##order##n plt_##order##n##_make(uint##n##_t v)                          \
	{                                                                                          \
		plt_##order##n r;                                                                  \
		plt_put_##order##n(r.b, v);                                                        \
		return r;                                                                          \
	}

PLT_DEFINE_ENDIAN(be, BE, 16)
PLT_DEFINE_ENDIAN(be, BE, 32)
PLT_DEFINE_ENDIAN(be, BE, 64)
PLT_DEFINE_ENDIAN(le, LE, 16)
PLT_DEFINE_ENDIAN(le, LE, 32)
PLT_DEFINE_ENDIAN(le, LE, 64)

/* Host-order value <-> big-endian word in memory that other threads may read: see block/metacache.c */
#define plt_cpu_to_be64(v) PLT_SWAP_BE(64, (uint64_t)(v))
#define plt_be64_to_cpu(v) PLT_SWAP_BE(64, (uint64_t)(v))

#endif
