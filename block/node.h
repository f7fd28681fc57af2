/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BLOCK_NODE_H
#define PLT_BLOCK_NODE_H

/*
 * What opening passes along from node to node of a tree of options ({"driver": ..., "file": {...}, "backing":
 * ...}); formats/name.h makes such trees of what is given as a name.
 */
#include <sys/types.h>

#include "block/engine.h"

/* A layer that is being opened, on the stack. */
struct plt_opening {
	const struct plt_open_options *opts;
	const struct plt_opening *parent; /* the layer whose reference this is */
	dev_t dev;
	ino_t ino;
	bool have_id;
	unsigned depth;
	unsigned write_layer;             /* the layer so many below this one is opened for writing; 0: none */
};

/* open.c: the image that @tree describes.  how->opts is changed. */
int plt_node_open_image(struct plt_ctx *ctx, json_t *tree, struct plt_opening *how, struct plt_image **ret,
			struct plt_error *err);
/* node_file.c: what it lies on, a protocol, or an image whose guest's bytes serve as the file */
int plt_node_open_file(struct plt_ctx *ctx, json_t *child, struct plt_opening *how, struct plt_store **ret,
		       struct plt_error *err);
/*
 * What we read nobody may write or resize meanwhile, and what we write we have alone, as qemu-img has
 * it.  A raw image has no metadata that could change under us: the caller may share it with those
 * who share it too.
 */
int plt_image_lock(struct plt_store *st, const struct plt_driver *drv, const struct plt_open_options *opts,
		   struct plt_error *err);

/* node_options.c; a member that is not there is NULL, or false */
const char *plt_node_string(const json_t *tree, const char *key);
int plt_node_bool(const json_t *tree, const char *key, bool *ret, struct plt_error *err);
/* "cache": {"direct": ..., "no-flush": ...} of a node is a cache mode for what lies below it. */
int plt_node_cache(const json_t *tree, struct plt_open_options *opts, struct plt_error *err);
/* Driver options that the tree holds, and what the caller gives besides, as text. */
int plt_node_options(const json_t *tree, const struct plt_driver *drv, const char *const *more,
		     struct plt_opts **ret, struct plt_error *err);
/* Of these the one that names the secret of what the image encrypts, "key=id"; free(); NULL: none does. */
char *plt_node_key(const json_t *tree, const struct plt_driver *drv, const char *const *more);

#endif
