/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_LOCK_H
#define PLT_IO_LOCK_H

/*
 * Image locks that QEMU understands: open-file-description locks on single bytes.  Byte 100 + i
 * locked (shared) means permission i is held; byte 200 + i locked means permission i is not shared
 * with others.  i: 0 consistent read, 1 write, 2 write-unchanged, 3 resize.  All locks taken are
 * shared (F_RDLCK); conflicts are found with F_OFD_GETLK asking about an exclusive one, so that
 * readers never disturb each other.  Kernels without OFD locks: traditional ones.
 *
 * Source: behaviour of QEMU 7.2 observed with /proc/locks.
 */
#include "platter.h"

/*
 * Take locks for holding @perm and sharing @shared (PLT_PERM_* of io/store.h), check for conflicts,
 * and drop locks that are no longer wanted.  On failure the locks are as before, and -EBUSY (EAGAIN
 * and EACCES are mapped to it) comes with QEMU's words: Failed to get "write" lock / Failed to get
 * shared "write" lock, then a second sentence, "Is another process using the image [NAME]?".
 * A file on which no locks can be taken at all (ENOLCK, ENOTSUP...) counts as locked.
 */
int plt_lock_fd(int fd, const char *name, unsigned old_perm, unsigned old_shared, unsigned perm,
		unsigned shared, struct plt_error *err);

#endif
