/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_PIECES_H
#define PLT_IO_PIECES_H

#include "io/store.h"

/*
 * Several files as one, read-only.  @name is
 *
 *	the first piece of a file that was split (DISK.000, DISK-f001.vmdk, xaa): it, and those that follow by name;
 *	a folder of objects PREFIX.%016x, as Ceph's block devices are exported: each has its place by its number, and
 *		what is not there is a hole;
 *	FOLDER/PREFIX: of several disks in a folder, one.
 *
 * @object: bytes of an object, @size: of the disk; 0: as the files say.  What would have to be guessed is refused:
 * -ENOENT for a piece that is missing among others, -EINVAL for objects whose size is not known.
 */
int plt_pieces_open(const char *name, uint64_t object, uint64_t size, struct plt_store **ret, struct plt_error *err);

#endif
