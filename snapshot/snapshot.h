/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_SNAPSHOT_SNAPSHOT_H
#define PLT_SNAPSHOT_SNAPSHOT_H

/* What the files that work on chains share. */
#include "block/internal.h"

/* Is the file @path the one that @img is in? */
bool plt_layer_is_file(const struct plt_image *img, const char *path);
/*
 * Which layer of the chain is called @name: as the one above records it, or from the folder of the image.  -ENOENT
 * with qemu-img's words.
 */
int plt_layer_find(struct plt_disk *disk, const char *name, unsigned *ret, struct plt_error *err);

/* The files of a folder, as "folder/name", unsorted.  *ret and each name is malloc; added to what is there. */
struct plt_names {
	char **v;
	unsigned n, cap;
};
int plt_names_add(struct plt_names *names, const char *folder, const char *name);
int plt_names_of_folder(struct plt_names *names, const char *folder, bool hidden, struct plt_error *err);
void plt_names_release(struct plt_names *names);

/* The internal snapshot of @img that reads something from below it, NULL: none does; *ret_r: an error. */
const char *plt_snapshot_that_needs_backing(struct plt_image *img, int *ret_r, struct plt_error *err);

#endif
