/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_IO_STORES_H
#define PLT_TESTS_IO_STORES_H

/* Small stores in memory, with or without faults over them, for the suites of stores. */
#include "io/store.h"
#include "tests/unit.h"

static inline struct plt_store *memory(const void *init, size_t len, uint64_t max)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(init, len, max, &st), 0);
	return st;
}

static inline struct plt_store *fault_over(struct plt_store *low)
{
	struct plt_store *st;

	ck_assert_int_eq(plt_fault_new(low, &st), 0);
	plt_store_unref(low);
	return st;
}

static inline int write_at(struct plt_store *st, uint64_t off, const char *text)
{
	return plt_store_write(st, off, text, strlen(text), PLT_IO_DATA, NULL);
}

static inline void expect(struct plt_store *st, uint64_t off, const void *bytes, size_t len)
{
	uint8_t *buf = malloc(len);

	ck_assert_int_eq(plt_store_read(st, off, buf, len, PLT_IO_DATA, NULL), 0);
	ck_assert_mem_eq(buf, bytes, len);
	free(buf);
}

#endif
