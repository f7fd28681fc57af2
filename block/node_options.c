/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What a node of a tree of options says for itself: its driver's options, and the cache mode of what lies below
 * it.  An option that nobody knows is refused by name.
 */
#include <string.h>

#include "block/node.h"

int plt_cache_mode_flags(const char *mode, unsigned *ret, struct plt_error *err)
{
	static const struct {
		const char *name;
		unsigned flags;
	} modes[] = {
		{ "none", PLT_FILE_DIRECT }, { "off", PLT_FILE_DIRECT },
		{ "writeback", 0 }, { "writethrough", PLT_FILE_WRITETHROUGH },
		{ "directsync", PLT_FILE_DIRECT | PLT_FILE_WRITETHROUGH }, { "unsafe", PLT_FILE_UNSAFE },
	};

	*ret = 0;
	if (!mode)
		return 0;
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(modes); i++)
		if (!strcmp(mode, modes[i].name)) {
			*ret = modes[i].flags;
			return 0;
		}
	return plt_error_set(err, EINVAL, "Invalid cache option: %s", mode);
}

const char *plt_node_string(const json_t *tree, const char *key)
{
	return json_string_value(json_object_get(tree, key));
}

int plt_node_bool(const json_t *tree, const char *key, bool *ret, struct plt_error *err)
{
	const json_t *v = json_object_get(tree, key);

	*ret = false;
	if (!v)
		return 0;
	if (json_is_boolean(v)) {
		*ret = json_is_true(v);
		return 0;
	}
	if (json_is_string(v) && plt_parse_bool(json_string_value(v), ret) == 0)
		return 0;
	return plt_error_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
}
int plt_node_cache(const json_t *tree, struct plt_open_options *opts, struct plt_error *err)
{
	const json_t *cache = json_object_get(tree, "cache");
	bool direct, no_flush;
	int r;

	if (!json_is_object(cache))
		return 0;
	r = plt_node_bool(cache, "direct", &direct, err);
	if (r == 0)
		r = plt_node_bool(cache, "no-flush", &no_flush, err);
	if (r == 0 && (direct || no_flush))
		opts->cache = no_flush ? "unsafe" : "none";
	return r;
}

/* One value of the tree; what is in an object ("encrypt") has its name before a dot. */
static int tree_option(struct plt_opts *o, const struct plt_driver *drv, const char *prefix, const char *key,
		       const json_t *v, struct plt_error *err)
{
	char full[128], num[32];
	const char *sub;
	json_t *w;
	int r = 0;

	if ((size_t)snprintf(full, sizeof(full), "%s%s%s", prefix, *prefix ? "." : "", key) < sizeof(full)) {
		if (json_is_string(v))
			return plt_opts_set(o, full, json_string_value(v));
		if (json_is_boolean(v))
			return plt_opts_set(o, full, json_is_true(v) ? "on" : "off");
		if (json_is_integer(v)) {
			snprintf(num, sizeof(num), "%" JSON_INTEGER_FORMAT, json_integer_value(v));
			return plt_opts_set(o, full, num);
		}
		if (json_is_object(v) && !*prefix) {
			json_object_foreach((json_t *)(uintptr_t)v, sub, w) {
				r = tree_option(o, drv, key, sub, w, err);
				if (r < 0)
					return r;
			}
			return 0;
		}
	}
	return plt_error_set(err, EINVAL, "Block format '%s' does not support the option '%s'", drv->name, key);
}

int plt_node_options(const json_t *tree, const struct plt_driver *drv, const char *const *more,
		     struct plt_opts **ret, struct plt_error *err)
{
	static const char *const known[] = { "driver", "file", "backing", "node-name", "read-only", "cache", "discard",
					     "detect-zeroes", "auto-read-only", "force-share", "data-file", NULL };
	const struct plt_opt_desc *const tables[] = { drv->open_opts, NULL };
	struct plt_opts *o = plt_opts_new();
	const char *key;
	json_t *v;
	int r = 0;

	if (!o)
		return plt_error_set(err, ENOMEM, "out of memory");
	json_object_foreach((json_t *)(uintptr_t)tree, key, v) {
		unsigned i;

		for (i = 0; known[i] && strcmp(known[i], key); i++)
			;
		if (!known[i])
			r = tree_option(o, drv, "", key, v, err);
		if (r < 0)
			break;
	}
	for (; r == 0 && more && *more; more++)
		r = plt_opts_parse(o, *more, drv->open_opts, err);
	for (size_t i = 0; r == 0 && i < plt_opts_count(o); i++) {
		const struct plt_opt_desc *d = drv->open_opts;

		for (; d && d->name && strcmp(d->name, plt_opts_key(o, i)); d++)
			;
		if (!d || !d->name)
			r = plt_error_set(err, EINVAL, "Block format '%s' does not support the option '%s'", drv->name,
					  plt_opts_key(o, i));
	}
	if (r == 0 && plt_opts_count(o))
		r = plt_opts_validate(o, tables, err);
	if (r < 0) {
		plt_opts_free(o);
		return plt_error_default(err, -r, "options of '%s'", drv->name);
	}
	*ret = o;
	return 0;
}

char *plt_node_key(const json_t *tree, const struct plt_driver *drv, const char *const *more)
{
	struct plt_opts *o = NULL;
	char *key = NULL;

	if (plt_node_options(tree, drv, more, &o, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < plt_opts_count(o) && !key; i++) {
		const char *name = plt_opts_key(o, i), *id = plt_opts_get(o, name);
		size_t n = strlen(name);

		if (n < 10 || strcmp(name + n - 10, "key-secret") || strchr(id, ',') || asprintf(&key, "%s=%s", name, id) < 0)
			key = NULL;
	}
	plt_opts_free(o);
	return key;
}
