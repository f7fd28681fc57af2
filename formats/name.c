/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Names of images: from what a person or an image writes to a tree of options, and back to text.
 * Invariant: a tree that leaves plt_name_parse() has nested objects only (no dotted keys), no
 * conflicting entries, at most NAME_DEPTH levels, and a "driver" on every leaf that has a file name.
 * Whether a driver of that name exists, which options it knows, and whether a name may be followed
 * at all are judged by those who open.
 */
#include "formats/name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/jsontext.h"
#include "formats/options.h"
#include "io/store.h"

/* Far above any real chain of nodes written out in one name; bounds the recursion below. */
#define NAME_DEPTH 64

/* Names go to other programs and into images: longer ones come from no sane caller. */
#define NAME_MAX_LEN (1 << 20)

static void json_freep(json_t **v)
{
	json_decref(*v);
}
#define JSON_AUTOFREE PLT_CLEANUP(json_freep)

static const char *const protocols[] = { "file", "host_device", "null-co", "null-aio", "blkdebug", "pieces" };

bool plt_name_is_protocol(const char *driver)
{
	for (size_t i = 0; i < PLT_ARRAY_SIZE(protocols); i++)
		if (!strcmp(driver, protocols[i]))
			return true;
	return false;
}

bool plt_name_has_protocol(const char *name)
{
	return name[strcspn(name, ":/")] == ':';
}

/* ---- key lists ------------------------------------------------------------------------------- */

/* Put @value (stolen) at the dotted @key below @obj, making the objects between. */
static int insert_dotted(json_t *obj, const char *key, json_t *value, struct plt_error *err)
{
	char *copy PLT_AUTOFREE = strdup(key);
	json_t *v JSON_AUTOFREE = value;
	char *p = copy, *dot;
	json_t *next;

	if (!copy || !v)
		return plt_error_errno(err, ENOMEM, "name");
	for (unsigned depth = 0; (dot = strchr(p, '.')); p = dot + 1) {
		*dot = '\0';
		if (++depth > NAME_DEPTH)
			return plt_error_set(err, EINVAL, "Parameter '%s' is nested too deeply",
					     key);
		next = json_object_get(obj, p);
		if (!next) {
			next = json_object();
			if (json_object_set_new_nocheck(obj, p, next) < 0)
				return plt_error_errno(err, ENOMEM, "name");
		}
		if (!json_is_object(next)) {
			return plt_error_set(err, EINVAL, "Parameters '%.*s.*' used inconsistently",
					     (int)(dot - copy), key);
		}
		obj = next;
	}
	next = json_object_get(obj, p);
	if (next && json_is_object(next) && json_is_object(v)) {
		const char *k;
		json_t *sub;

		json_object_foreach (v, k, sub) {
			int r = insert_dotted(next, k, json_incref(sub), err);

			if (r < 0)
				return r;
		}
		return 0;
	}
	if (next)
		return plt_error_set(err, EINVAL, "Parameters '%s.*' used inconsistently", key);
	if (json_object_set_new_nocheck(obj, p, plt_steal(&v)) < 0)
		return plt_error_errno(err, ENOMEM, "name");
	return 0;
}

/* A copy of @obj in which dotted keys have become nested objects, at every level. */
static int nest(const json_t *obj, unsigned depth, json_t **ret, struct plt_error *err)
{
	json_t *out JSON_AUTOFREE = json_object();
	const char *key;
	json_t *value, *copy;
	int r;

	if (!out)
		return plt_error_errno(err, ENOMEM, "name");
	if (depth > NAME_DEPTH)
		return plt_error_set(err, EINVAL, "Options are nested too deeply");
	json_object_foreach ((json_t *)obj, key, value) {
		copy = json_incref(value);
		if (json_is_object(value)) {
			json_decref(copy);
			r = nest(value, depth + 1, &copy, err);
			if (r < 0)
				return r;
		}
		r = insert_dotted(out, key, copy, err);
		if (r < 0)
			return r;
	}
	*ret = plt_steal(&out);
	return 0;
}

/* The children that name other nodes.  A text there is the name of a node that exists elsewhere. */
static const char *const child_keys[] = { "file", "backing", "data-file", "image" };

/* A file name that was given to fault rules is that of what they lie over: the node's image, or that image's file. */
static int lower_filename(json_t *node)
{
	json_t *name = json_object_get(node, "filename"), *image = json_object_get(node, "image"), *file;
	const char *driver = json_string_value(json_object_get(image, "driver"));
	int r;

	if (!json_is_string(name) || (image && !json_is_object(image)))
		return 0;
	if (!image) {
		image = json_object();
		if (json_object_set_new(node, "image", image) < 0)
			return -ENOMEM;
	}
	file = image;
	if (driver && !plt_name_is_protocol(driver)) {
		if (json_object_get(image, "file"))
			return 0;
		file = json_object();
		if (json_object_set_new(image, "file", file) < 0)
			return -ENOMEM;
	}
	r = json_object_get(file, "filename") ? 0 : json_object_set(file, "filename", name);
	return r < 0 || json_object_del(node, "filename") < 0 ? -ENOMEM : 0;
}

/*
 * Check the shape of one node and complete it: a leaf that has a file name and no driver is a file.
 * @leaf: it stands where a protocol is expected.
 */
static int settle(json_t *node, bool leaf, unsigned depth, struct plt_error *err)
{
	json_t *driver = json_object_get(node, "driver"), *child;
	int r;

	if (depth > NAME_DEPTH)
		return plt_error_set(err, EINVAL, "Options are nested too deeply");
	if (driver && !json_is_string(driver))
		return plt_error_set(err, EINVAL,
				     "Invalid parameter type for 'driver', expected: string");
	if (driver && !strcmp(json_string_value(driver), "blkdebug") && lower_filename(node) < 0)
		return plt_error_errno(err, ENOMEM, "name");
	for (size_t i = 0; i < PLT_ARRAY_SIZE(child_keys); i++) {
		const char *key = child_keys[i];

		child = json_object_get(node, key);
		if (!child || json_is_null(child))
			continue;
		if (!strcmp(key, "backing") && json_is_string(child) &&
		    !*json_string_value(child)) {
			if (json_object_set_new(node, key, json_null()) < 0)
				return plt_error_errno(err, ENOMEM, "name");
			continue;
		}
		if (json_is_string(child))
			return plt_error_set(err, EINVAL,
					     "Cannot find device='%s' nor node-name='%s'",
					     json_string_value(child), json_string_value(child));
		if (!json_is_object(child))
			return plt_error_set(err, EINVAL,
					     "Invalid parameter type for '%s', expected: object",
					     key);
		/* a backing node may leave both out: options for the file that the image names */
		if (!strcmp(key, "backing") && !json_object_get(child, "driver") && !json_object_get(child, "file"))
			continue;
		r = settle(child, strcmp(key, "backing") != 0, depth + 1, err);
		if (r < 0)
			return r;
	}
	if (driver)
		return 0;
	if (!leaf)
		return json_object_get(node, "file") ?
			       0 :
			       plt_error_set(err, EINVAL, "Must specify either driver or file");
	if (!json_is_string(json_object_get(node, "filename")))
		return plt_error_set(err, EINVAL, "Must specify either driver or file");
	if (json_object_set_new(node, "driver", json_string("file")) < 0)
		return plt_error_errno(err, ENOMEM, "name");
	return 0;
}

/* Nest, settle, and put a lone protocol under the raw node that shows its bytes. */
static int finish(const json_t *flat, json_t **ret, struct plt_error *err)
{
	json_t *tree JSON_AUTOFREE = NULL;
	const char *driver;
	int r;

	r = nest(flat, 0, &tree, err);
	if (r == 0)
		r = settle(tree, false, 0, err);
	if (r < 0)
		return r;
	driver = json_string_value(json_object_get(tree, "driver"));
	if (driver && plt_name_is_protocol(driver)) { /* shows its bytes as they are */
		json_t *outer = json_pack("{s:s, s:O}", "driver", "raw", "file", tree);

		if (!outer)
			return plt_error_errno(err, ENOMEM, "name");
		json_decref(tree);
		tree = outer;
	}
	*ret = plt_steal(&tree);
	return 0;
}

static int parse_image_opts(const char *text, json_t **ret, struct plt_error *err)
{
	json_t *flat JSON_AUTOFREE = json_object();
	struct plt_opts *o = plt_opts_new();
	char *named PLT_AUTOFREE = NULL;
	size_t len = strcspn(text, "=,");
	int r;

	/* A first word without "=" names a node. */
	if (*text && text[len] != '=' && asprintf(&named, "file=%s", text) < 0)
		named = NULL;
	else if (named)
		text = named;
	r = flat && o ? plt_opts_parse(o, text, NULL, err) : plt_error_errno(err, ENOMEM, "name");
	for (size_t i = 0; r == 0 && i < plt_opts_count(o); i++) {
		const char *key = plt_opts_key(o, i);

		if (json_object_set_new_nocheck(flat, key,
						json_string_nocheck(plt_opts_get(o, key))) < 0)
			r = plt_error_errno(err, ENOMEM, "name");
	}
	plt_opts_free(o);
	return r < 0 ? r : finish(flat, ret, err);
}

/* The node that the dotted @key is in, below @node, or NULL; *ret_leaf: the key's last part. */
static json_t *find_node(json_t *node, const char *key, const char **ret_leaf)
{
	for (const char *dot; node && (dot = strchr(key, '.')); key = dot + 1) {
		char *step PLT_AUTOFREE = strndup(key, (size_t)(dot - key));

		node = step ? json_object_get(node, step) : NULL;
	}
	*ret_leaf = key;
	return node;
}

/* One option, over what is there. */
static int merge_one(json_t *tree, const char *key, const char *value, struct plt_error *err)
{
	const char *leaf, *have;
	json_t *node = find_node(tree, key, &leaf), *inner;

	if (node && !strcmp(leaf, "driver")) {
		have = json_string_value(json_object_get(node, leaf));
		if (have && plt_name_is_protocol(have) && !plt_name_is_protocol(value)) { /* the format of that file */
			inner = json_copy(node);
			json_object_clear(node);
			if (json_object_set_new(node, "file", inner) < 0)
				return plt_error_errno(err, ENOMEM, "name");
		}
	}
	if (node && !json_is_object(json_object_get(node, leaf)))
		json_object_del(node, leaf);
	return insert_dotted(tree, key, json_string_nocheck(value), err);
}

int plt_name_merge(json_t *tree, const char *const *options, struct plt_error *err)
{
	struct plt_opts *o = plt_opts_new();
	int r = o ? 0 : plt_error_errno(err, ENOMEM, "name");
	const char *driver;
	json_t *node = tree;

	for (; r == 0 && *options; options++)
		r = plt_opts_parse(o, *options, NULL, err);
	driver = r == 0 ? plt_opts_get(o, "driver") : NULL;
	/* a protocol: the options are those of the node of bytes, which is shown as it is */
	if (driver && plt_name_is_protocol(driver) && !json_object_get(tree, "driver")) {
		node = json_object_get(tree, "file");
		if (!node || json_object_set_new(tree, "driver", json_string("raw")) < 0)
			r = plt_error_errno(err, ENOMEM, "name");
	}
	for (size_t i = 0; r == 0 && i < plt_opts_count(o); i++)
		r = merge_one(node, plt_opts_key(o, i), plt_opts_get(o, plt_opts_key(o, i)), err);
	plt_opts_free(o);
	return r < 0 ? r : settle(tree, false, 0, err);
}

/* ---- json: ----------------------------------------------------------------------------------- */

/* QEMU's JSON also knows strings in single quotes: write them in double ones.  malloc. */
static char *requote(const char *s)
{
	char *ret = malloc(2 * strlen(s) + 1), *w = ret;
	char quote = 0;

	for (; ret && *s; s++) {
		if (*s == '\\' && quote && s[1]) {
			/* \' is the one escape that JSON proper lacks. */
			if (s[1] != '\'')
				*w++ = *s;
			*w++ = *++s;
		} else if (quote ? *s == quote : *s == '\'' || *s == '"') {
			quote = quote ? 0 : *s;
			*w++ = '"';
		} else {
			if (*s == '"')
				*w++ = '\\';
			*w++ = *s;
		}
	}
	if (ret)
		*w = '\0';
	return ret;
}

static int parse_json(const char *text, json_t **ret, struct plt_error *err)
{
	char *strict PLT_AUTOFREE = requote(text);
	json_t *flat JSON_AUTOFREE = NULL;
	json_error_t jerr;

	if (!strict)
		return plt_error_errno(err, ENOMEM, "name");
	flat = json_loads(strict, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &jerr);
	if (!flat)
		return plt_error_set(err, EINVAL,
				     "Could not parse the JSON options: JSON parse error, %s",
				     jerr.text);
	if (!json_is_object(flat))
		return plt_error_set(err, EINVAL, "Invalid JSON object given");
	return finish(flat, ret, err);
}

/* ---- the door -------------------------------------------------------------------------------- */

/* "path" or "file:path" (or a host device's): the node of a file. */
static int parse_path(const char *name, json_t **ret, struct plt_error *err)
{
	size_t len = plt_name_has_protocol(name) ? strcspn(name, ":") : 0;
	json_t *file JSON_AUTOFREE = json_object();
	char *relative PLT_AUTOFREE = NULL;
	int r;

	if (!*name)
		return plt_error_set(err, EINVAL, "The 'file' block driver requires a file name");
	if (len && strncmp(name, "file:", 5) && strncmp(name, "host_device:", 12))
		return plt_error_set(err, EINVAL, "Unknown protocol '%.*s'", (int)len, name);
	r = json_object_set_new(file, "driver",
				len ? json_stringn(name, len) : json_string("file"));
	if (len)
		name += len + 1;
	/* What is left must not be taken for a protocol when it is written down and read again. */
	if (len && plt_name_has_protocol(name)) {
		if (asprintf(&relative, "./%s", name) < 0)
			relative = NULL;
		name = relative;
	}
	/* A file name is bytes, not text. */
	if (r == 0 && name)
		r = json_object_set_new_nocheck(file, "filename", json_string_nocheck(name));
	if (r < 0 || !name)
		return plt_error_errno(err, ENOMEM, "name");
	*ret = plt_steal(&file);
	return 0;
}

/*
 * "blkdebug:CONF:NAME": faults, by the rules of the file CONF (none if that is empty), on what NAME
 * means.
 */
static int parse_blkdebug(const char *name, unsigned depth, json_t **ret, struct plt_error *err)
{
	const char *colon = strchr(name, ':');
	json_t *image JSON_AUTOFREE = NULL, *node JSON_AUTOFREE = NULL;
	int r;

	if (!colon)
		return plt_error_set(err, EINVAL, "blkdebug requires both config file and image path");
	if (depth > NAME_DEPTH)
		return plt_error_set(err, EINVAL, "Options are nested too deeply");
	if (!strncmp(colon + 1, "blkdebug:", 9)) {
		r = parse_blkdebug(colon + 1 + 9, depth + 1, &image, err);
	} else {
		r = plt_name_parse(colon + 1, false, &image, err);
		if (r == 0 && !json_object_get(image, "driver")) { /* a name of bytes: not the layer that shows them */
			json_t *file = json_incref(json_object_get(image, "file"));

			json_decref(image);
			image = file;
		}
	}
	if (r < 0)
		return r;
	node = json_pack("{s:s, s:O}", "driver", "blkdebug", "image", image);
	if (!node || (colon > name &&
		      json_object_set_new_nocheck(node, "config", json_stringn_nocheck(name, (size_t)(colon - name))) < 0))
		return plt_error_errno(err, ENOMEM, "name");
	*ret = plt_steal(&node);
	return 0;
}

int plt_name_parse(const char *name, bool image_opts, json_t **ret, struct plt_error *err)
{
	json_t *tree, *file = NULL;
	int r;

	if (strlen(name) > NAME_MAX_LEN)
		return plt_error_set(err, ENAMETOOLONG, "The name is longer than %d bytes",
				     NAME_MAX_LEN);
	if (image_opts)
		return parse_image_opts(name, ret, err);
	if (!strncmp(name, "json:", 5))
		return parse_json(name + 5, ret, err);
	if (!strcmp(name, "null-co://") || !strcmp(name, "null-aio://")) {
		file = json_pack("{s:s%}", "driver", name, strlen(name) - 3);
	} else if (!strncmp(name, "blkdebug:", 9)) {
		r = parse_blkdebug(name + 9, 0, &file, err);
		if (r < 0)
			return r;
	} else if (!strncmp(name, "pieces:", 7)) {
		file = json_pack("{s:s, s:s}", "driver", "pieces", "filename", name + 7);
	} else {
		r = parse_path(name, &file, err);
		if (r < 0)
			return r;
	}
	tree = json_pack("{s:o}", "file", file);
	if (!tree)
		return plt_error_errno(err, ENOMEM, "name");
	*ret = tree;
	return 0;
}

/* ---- back to text ---------------------------------------------------------------------------- */

/* Options that change what the guest sees, and so belong to the name. */
static bool is_strong(const char *key)
{
	static const char *const keys[] = {
		"driver",	  "filename",	    "file",	    "backing",	  "data-file",
		"offset",	  "size",	    "encrypt",	    "key-secret", "latency-ns",
		"read-zeroes",	  "snapshot",	    "image",	    "config",	  "inject-error",
		"set-state",	  "align",	    "max-transfer", "opt-write-zero",
		"max-write-zero", "opt-discard",    "max-discard",  "object-size",
	};

	for (size_t i = 0; i < PLT_ARRAY_SIZE(keys); i++)
		if (!strcmp(key, keys[i]))
			return true;
	return false;
}

/* A copy of @node with strong options only. */
static json_t *strong_copy(const json_t *node, unsigned depth)
{
	json_t *out = json_object(), *value, *copy;
	const char *key;

	json_object_foreach ((json_t *)node, key, value) {
		if (!is_strong(key))
			continue;
		if (!strcmp(key, "encrypt") && json_is_object(value)) { /* as QEMU writes it */
			const char *sub;
			json_t *v;

			json_object_foreach (value, sub, v) {
				char dotted[128];

				if ((size_t)snprintf(dotted, sizeof(dotted), "encrypt.%s", sub) < sizeof(dotted))
					json_object_set_nocheck(out, dotted, v);
			}
			continue;
		}
		copy = json_is_object(value) && depth < NAME_DEPTH ?
			       strong_copy(value, depth + 1) :
			       json_incref(value);
		json_object_set_new_nocheck(out, key, copy);
	}
	return out;
}

/* The name that alone says all that the node of a protocol says; malloc, or NULL. */
static char *plain_name(const json_t *file)
{
	const char *driver = json_string_value(json_object_get(file, "driver"));
	const char *path = json_string_value(json_object_get(file, "filename"));
	const char *config = json_string_value(json_object_get(file, "config"));
	char *image PLT_AUTOFREE = NULL, *ret;

	if (!driver)
		return NULL;
	if (json_object_size(file) == 1 && !strcmp(driver, "null-co"))
		return strdup("null-co://");
	if (json_object_size(file) == 1 && !strcmp(driver, "null-aio"))
		return strdup("null-aio://");
	if (!strcmp(driver, "blkdebug") && json_object_size(file) == 2u + !!config) {
		image = plain_name(json_object_get(file, "image"));
		if (!image || asprintf(&ret, "blkdebug:%s:%s", config ? config : "", image) < 0)
			return NULL;
		return ret;
	}
	if (json_object_size(file) == 2 && path && !strcmp(driver, "pieces"))
		return asprintf(&ret, "pieces:%s", path) < 0 ? NULL : ret;
	if (json_object_size(file) != 2 || !path ||
	    (strcmp(driver, "file") && strcmp(driver, "host_device")))
		return NULL;
	return strdup(path);
}

char *plt_name_text(const json_t *tree)
{
	json_t *strong JSON_AUTOFREE = strong_copy(tree, 0);
	char *ret = NULL;
	size_t len;
	FILE *out;

	/* (a data file that was named besides is part of no plain name, as in QEMU) */
	if (json_object_size(strong) == 1u + !!json_object_get(strong, "driver") + !!json_object_get(strong, "data-file"))
		ret = plain_name(json_object_get(strong, "file"));
	if (ret)
		return ret;
	out = open_memstream(&ret, &len);
	if (!out)
		return NULL;
	fputs("json:", out);
	plt_json_write(out, strong, false, 0);
	if (fclose(out) != 0) {
		free(ret);
		return NULL;
	}
	return ret;
}

int plt_name_resolve(const char *base, const char *ref, char **ret, struct plt_error *err)
{
	const char *start, *slash;
	size_t len;

	if (!*ref || *ref == '/' || plt_name_has_protocol(ref)) {
		*ret = strdup(ref);
		return *ret ? 0 : plt_error_errno(err, ENOMEM, "name");
	}
	while (!strncmp(base, "blkdebug:", 9) && strchr(base + 9, ':')) /* beside the file that it is laid over */
		base = strchr(base + 9, ':') + 1;
	if (!strncmp(base, "pieces:", 7))
		base += 7;
	start = base;
	slash = strrchr(base, '/');
	if (!*base || !strncmp(base, "json:", 5))
		return plt_error_set(err, EINVAL, "Cannot use relative backing file names for '%s'",
				     base);
	if (plt_name_has_protocol(base))
		start = strchr(base, ':') + 1;
	if (slash && slash + 1 > start)
		start = slash + 1;
	len = (size_t)(start - base);
	*ret = malloc(len + strlen(ref) + 1);
	if (!*ret)
		return plt_error_errno(err, ENOMEM, "name");
	memcpy(*ret, base, len);
	strcpy(*ret + len, ref);
	return 0;
}

char *plt_name_moved_to(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	int folder = slash ? (int)(slash - image) + 1 : 0;

	if (!name || plt_name_has_protocol(name) || !strncmp(name, "json:", 5))
		return NULL;
	for (const char *tail = strrchr(name, '/') ? strrchr(name, '/') + 1 : name; *tail;) {
		PLT_AUTOFREE char *path = NULL;
		const char *up = tail;

		if (asprintf(&path, "%.*s%s", folder, image, tail) < 0)
			return NULL;
		if (access(path, R_OK) == 0 && !plt_same_path(path, image))
			return plt_steal(&path);
		if (tail - name < 2)
			return NULL;
		for (up = tail - 2; up > name && *up != '/'; up--)
			;
		tail = *up == '/' ? up + 1 : up;
		if (tail == name && *name == '/')
			return NULL;
	}
	return NULL;
}
