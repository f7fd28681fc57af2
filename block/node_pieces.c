/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The node of a disk in pieces: its options, of which none is passed over that is not known.  What the names mean is
 * io/pieces.c's.
 */
#include <errno.h>
#include <string.h>

#include "block/engine.h"
#include "formats/options.h"
#include "io/pieces.h"

/* A size among a node's options; 0: it has none of that name. */
static int tree_size(const json_t *tree, const char *key, uint64_t *ret, struct plt_error *err)
{
	const json_t *v = json_object_get(tree, key);

	*ret = 0;
	if (!v)
		return 0;
	if (json_is_integer(v) && json_integer_value(v) > 0)
		*ret = (uint64_t)json_integer_value(v);
	else if (!json_is_string(v) || plt_parse_size(json_string_value(v), ret) < 0 || !*ret)
		return plt_error_set(err, EINVAL, "Parameter '%s' expects a size", key);
	return 0;
}

int plt_node_open_pieces(const json_t *tree, bool write, struct plt_store **ret, struct plt_error *err)
{
	static const char *const known[] = { "driver", "filename", "object-size", "size" };
	const char *filename = json_string_value(json_object_get(tree, "filename")), *key;
	uint64_t object, size;
	json_t *v;
	int r;

	json_object_foreach((json_t *)(uintptr_t)tree, key, v) {
		unsigned i = 0;

		while (i < PLT_ARRAY_SIZE(known) && strcmp(known[i], key))
			i++;
		if (i == PLT_ARRAY_SIZE(known))
			return plt_error_set(err, EINVAL, "The 'pieces' block driver does not support the option '%s'", key);
	}
	if (!filename || !*filename)
		return plt_error_set(err, EINVAL, "The 'pieces' block driver requires a file name");
	if (write)
		return plt_error_set(err, EROFS, "'%s': a disk in pieces is only read", filename);
	r = tree_size(tree, "object-size", &object, err);
	if (r == 0)
		r = tree_size(tree, "size", &size, err);
	return r < 0 ? r : plt_pieces_open(filename, object, size, ret, err);
}
