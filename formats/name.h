/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_NAME_H
#define PLT_FORMATS_NAME_H

/*
 * Names of images.  Whatever a user or an image writes (a path, "file:path", "json:{...}", a
 * key=value list) becomes one tree of options:
 *
 *   { "driver": "qcow2", "file": { "driver": "file", "filename": "a.qcow2" }, "backing": {...}, ... }
 *
 * A plain path gives { "file": { "driver": "file", "filename": path } } with no "driver" of its own:
 * the format is still to be found out.  A key=value or json: form whose driver is a protocol
 * ("file", "host_device", "null-co", "blkdebug") is such a node itself: it is wrapped as the "file"
 * child of a "raw" node, for QEMU shows its bytes as they are and guesses no format.  Dotted keys
 * ("file.filename") become nested objects; values stay JSON strings, numbers or booleans as written.
 *
 * Trees are jansson objects; functions return new references.
 */
#include <jansson.h>
#include <stdbool.h>

#include "platter.h"

/* -EINVAL with qemu-img's words: bad JSON, an unknown protocol ("Unknown protocol 'x'"), ... */
int plt_name_parse(const char *name, bool image_opts, json_t **ret, struct plt_error *err);

/*
 * Add "key=value,..." texts (NULL-terminated) to a tree, as if the name had said them: "file.align=512"
 * goes to its "file" node.  They win over what the name says; a format for a node that is a file by
 * its name is shown over that file.
 */
int plt_name_merge(json_t *tree, const char *const *options, struct plt_error *err);

/* Is @driver a protocol (a leaf that names bytes), not a format? */
bool plt_name_is_protocol(const char *driver);

/*
 * The text for messages and for "filename" in info: the path if the tree is just a path (a driver
 * given beside a plain file does not spoil that), else "json:{...}" as QEMU would print it.  malloc.
 */
char *plt_name_text(const json_t *tree);

/*
 * What a name recorded in an image means: @ref, if it is a relative path, is taken beside the image
 * file @base; absolute paths, "proto:" and "json:" names stay.  malloc; -EINVAL if @base is no path
 * ("json:" or nested) and @ref is relative: qemu-img's words.
 */
int plt_name_resolve(const char *base, const char *ref, char **ret, struct plt_error *err);

/* "proto:" in front, as QEMU finds it (a colon before any slash).  */
bool plt_name_has_protocol(const char *name);

/*
 * Where a file may be that the image @image records as @name, and that is not there: both may have been moved together, or only
 * the folder above, so the stored path's end, one part after the other, is looked for from the image's folder.  malloc; NULL:
 * nowhere near.
 */
char *plt_name_moved_to(const char *image, const char *name);

#endif
