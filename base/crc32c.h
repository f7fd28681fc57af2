/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_CRC32C_H
#define PLT_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * CRC-32C (Castagnoli, reflected, as iSCSI, ext4, XFS and VHDX use it) of @len bytes.  @crc is 0 for the
 * first piece and the last result for the next one.
 */
uint32_t plt_crc32c(uint32_t crc, const void *buf, size_t len);

#endif
