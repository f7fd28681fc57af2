/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_IOV_H
#define PLT_BASE_IOV_H

/* Work on slices of iovec arrays; all offsets and lengths are bytes within the concatenation. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

size_t plt_iov_len(const struct iovec *iov, int niov);
/* How many entries the slice [off, off+len) needs. */
int plt_iov_slice_count(const struct iovec *iov, int niov, size_t off, size_t len);
/* Describe [off, off+len) in @out (room for plt_iov_slice_count()); returns the number of entries. */
int plt_iov_slice(const struct iovec *iov, int niov, size_t off, size_t len, struct iovec *out);
void plt_iov_zero(const struct iovec *iov, int niov, size_t off, size_t len);
void plt_iov_from_buf(const struct iovec *iov, int niov, size_t off, const void *buf, size_t len);
void plt_iov_to_buf(const struct iovec *iov, int niov, size_t off, void *buf, size_t len);

#endif
