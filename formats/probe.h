/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_PROBE_H
#define PLT_FORMATS_PROBE_H

#include "formats/driver.h"

#define PLT_PROBE_LEN 2048

/*
 * Which driver's mark does this beginning of a file carry?  @buf holds the first @len bytes, @size is
 * the length of the whole.  Never NULL: what nobody knows is raw.
 *
 * A guess of raw is dangerous: a guest can write any format's header into its disk.  An image that
 * was guessed to be raw may therefore not be given such a header through us (block/write.c), and the
 * front ends warn as qemu-img does.
 */
const struct plt_driver *plt_probe_buffer(const uint8_t *buf, size_t len, uint64_t size);
/*
 * The name of a format that is known by its mark but has no driver here; NULL: none.  Such an image
 * must not be taken for raw, silently: its bytes are not the guest's.
 */
const char *plt_probe_foreign(const uint8_t *buf, size_t len);
/*
 * Of a file that nobody's mark is in: is it an image whose header is gone (driver->recognise)?  -ENOENT: no; a disk with
 * a partition table or a filesystem at its beginning is one, whatever its guest's files look like.  @quick: so far as a few
 * sectors tell.
 */
int plt_probe_lost(struct plt_ctx *ctx, struct plt_store *st, bool quick, const struct plt_driver **ret,
		   struct plt_error *err);
int plt_probe(struct plt_store *st, const struct plt_driver **ret, struct plt_error *err);

#endif
