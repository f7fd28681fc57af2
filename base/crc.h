/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_CRC_H
#define PLT_BASE_CRC_H

/*
 * CRC-32C (Castagnoli, reflected), as the bare register: no inversion before or after, so that
 * callers can chain ranges and seeds.  XFS and VHDX store ~plt_crc32c(~0, …), ext4 the register.
 *
 * The register runs backwards as well: each step is a bijection.  So a checksum that covers an
 * unknown number *names* that number (plt_crc32c_solve), where others would try all candidates.
 */
#include <stddef.h>
#include <stdint.h>

/* The register after @buf. */
uint32_t plt_crc32c(uint32_t state, const void *buf, size_t len);
/* The same without the processor's help; for tests, and where there is none. */
uint32_t plt_crc32c_by_table(uint32_t state, const void *buf, size_t len);
/* The register before @buf, when it is @state after it. */
uint32_t plt_crc32c_back(uint32_t state, const void *buf, size_t len);
/* The one little-endian 32-bit word that takes the register from @before to @after. */
uint32_t plt_crc32c_solve(uint32_t before, uint32_t after);

#endif
