/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The "blkdebug" node: from its options and its configuration file to fault rules (io/blkdebug.c) and
 * limits (io/limits.c) over the store below.  Every option is either acted on or refused by name.
 *
 *	[inject-error]                       [set-state]
 *	event = "l2_update"                  event = "read_aio"
 *	errno = "5"                          state = "1"
 *	iotype, sector, state, once,         new_state = "2"
 *	immediately = "on"
 *
 * or, in a tree, "inject-error": [{...}] and "set-state": [{...}] (as a list of options,
 * inject-error.0.event=...).  "immediately" makes no difference here: a request has no step between
 * its failure and its completion.
 */
#include <stdio.h>
#include <string.h>

#include "block/engine.h"
#include "io/blkdebug.h"

#define CONFIG_LINES_MAX 10000

/* ---- one rule -------------------------------------------------------------------------------- */

static int number(const json_t *v, const char *key, long long *ret, struct plt_error *err)
{
	char *end;

	if (json_is_integer(v)) {
		*ret = json_integer_value(v);
		return 0;
	}
	if (json_is_string(v)) {
		errno = 0;
		*ret = strtoll(json_string_value(v), &end, 0);
		if (!errno && end != json_string_value(v) && !*end)
			return 0;
	}
	return plt_error_set(err, EINVAL, "Parameter '%s' expects a number", key);
}

static int boolean(const json_t *v, const char *key, bool *ret, struct plt_error *err)
{
	if (json_is_boolean(v)) {
		*ret = json_is_true(v);
		return 0;
	}
	if (json_is_string(v) && plt_parse_bool(json_string_value(v), ret) == 0)
		return 0;
	return plt_error_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
}

static int take_key(struct plt_blkdebug_rule *r, const char *key, const json_t *v, struct plt_error *err)
{
	const char *text = json_is_string(v) ? json_string_value(v) : NULL;
	long long n = 0;
	bool on;
	int ret = 0;

	if (!strcmp(key, "event")) {
		r->event = text ? plt_blkdebug_event(text) : -1;
		if (r->event < 0)
			return plt_error_set(err, EINVAL, "Invalid event name \"%s\"", text ? text : "");
		return 0;
	}
	if (!strcmp(key, "state")) {
		ret = number(v, key, &n, err);
		r->state = (int)n;
		return ret;
	}
	if (r->set_state) {
		if (strcmp(key, "new_state"))
			return plt_error_set(err, EINVAL, "Invalid parameter '%s' of set-state", key);
		ret = number(v, key, &n, err);
		r->new_state = (int)n;
		return ret;
	}
	if (!strcmp(key, "iotype")) {
		r->iotypes = text ? plt_blkdebug_iotype(text) : 0;
		if (!r->iotypes)
			return plt_error_set(err, EINVAL, "Invalid iotype \"%s\"", text ? text : "");
	} else if (!strcmp(key, "errno")) {
		ret = number(v, key, &n, err);
		if (ret == 0 && (n < 0 || n > 4095))
			return plt_error_set(err, EINVAL, "Parameter 'errno' is no error number: %lld", n);
		r->error = (int)n;
	} else if (!strcmp(key, "sector")) {
		ret = number(v, key, &n, err);
		if (ret == 0 && n > INT64_MAX / 512)
			return plt_error_set(err, EINVAL, "Parameter 'sector' is too large: %lld", n);
		r->off = n < 0 ? UINT64_MAX : (uint64_t)n * 512;
	} else if (!strcmp(key, "once")) {
		ret = boolean(v, key, &r->once, err);
	} else if (!strcmp(key, "immediately")) {
		ret = boolean(v, key, &on, err);
	} else {
		return plt_error_set(err, EINVAL, "Invalid parameter '%s' of inject-error", key);
	}
	return ret;
}

static int add_rule(struct plt_store *st, json_t *keys, bool set_state, struct plt_error *err)
{
	struct plt_blkdebug_rule r = { .event = -1, .set_state = set_state, .iotypes = PLT_BLKDEBUG_ALL, .error = EIO,
				       .off = UINT64_MAX };
	const char *key;
	json_t *v;
	int ret;

	json_object_foreach(keys, key, v) {
		ret = take_key(&r, key, v, err);
		if (ret < 0)
			return ret;
	}
	if (r.event < 0)
		return plt_error_set(err, EINVAL, "Missing event name for rule");
	ret = plt_blkdebug_add(st, &r);
	return ret < 0 ? plt_error_set(err, -ret, "out of memory") : 0;
}

/* "inject-error" or "set-state" of a tree: a list, or an object whose keys are 0, 1, ... */
static int add_rules(struct plt_store *st, json_t *list, const char *what, struct plt_error *err)
{
	bool object = json_is_object(list);
	size_t n = object ? json_object_size(list) : json_array_size(list);
	int r = 0;

	if (list && !object && !json_is_array(list))
		return plt_error_set(err, EINVAL, "Parameter '%s' expects a list of rules", what);
	for (size_t i = 0; r == 0 && i < n; i++) {
		char index[24];
		json_t *keys;

		snprintf(index, sizeof(index), "%zu", i);
		keys = object ? json_object_get(list, index) : json_array_get(list, i);
		if (!json_is_object(keys))
			return plt_error_set(err, EINVAL, "Parameter '%s.%zu' expects a rule", what, i);
		r = add_rule(st, keys, !strcmp(what, "set-state"), err);
	}
	return r;
}

/* ---- the configuration file ------------------------------------------------------------------ */

static char *trim(char *s)
{
	size_t n;

	s += strspn(s, " \t\r\n");
	for (n = strlen(s); n && strchr(" \t\r\n", s[n - 1]); n--)
		;
	s[n] = '\0';
	return s;
}

/* key = "value", to @keys. */
static int take_line(char *line, json_t *keys, struct plt_error *err)
{
	char *eq = strchr(line, '='), *key, *value;
	size_t n;

	if (!eq || !keys)
		return -EINVAL;
	*eq = '\0';
	key = trim(line);
	value = trim(eq + 1);
	n = strlen(value);
	if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
		value[n - 1] = '\0';
		value++;
	}
	if (!*key || strchr(value, '"'))
		return -EINVAL;
	return json_object_set_new(keys, key, json_string(value)) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

static int read_config(struct plt_store *st, FILE *f, const char *path, struct plt_error *err)
{
	json_t *keys = NULL;
	char line[1024], *p;
	bool set_state = false;
	unsigned number_of = 0;
	int r = 0;

	while (r == 0 && fgets(line, sizeof(line), f)) {
		if (++number_of > CONFIG_LINES_MAX) {
			r = plt_error_set(err, EFBIG, "%s: more than %d lines", path, CONFIG_LINES_MAX);
			break;
		}
		p = trim(line);
		if (!*p || *p == '#')
			continue;
		if (*p == '[') {
			if (keys)
				r = add_rule(st, keys, set_state, err);
			json_decref(keys);
			keys = NULL;
			set_state = !strncmp(p, "[set-state", 10);
			/* a section may have a name of its own: [inject-error "first"] */
			if (!set_state && strncmp(p, "[inject-error", 13))
				r = r < 0 ? r : plt_error_set(err, EINVAL, "%s:%u: unknown group", path, number_of);
			else if (!(keys = json_object()))
				r = plt_error_set(err, ENOMEM, "out of memory");
			continue;
		}
		r = take_line(p, keys, err);
		if (r == -EINVAL)
			r = plt_error_set(err, EINVAL, "%s:%u: parse error", path, number_of);
	}
	if (r == 0 && keys)
		r = add_rule(st, keys, set_state, err);
	json_decref(keys);
	if (r == 0 && ferror(f))
		r = plt_error_errno(err, EIO, "Could not read blkdebug config file");
	return r;
}

static int load_config(struct plt_store *st, const char *path, struct plt_error *err)
{
	FILE *f = fopen(path, "re");
	int r;

	if (!f)
		return plt_error_errno(err, errno, "Could not read blkdebug config file");
	r = read_config(st, f, path, err);
	fclose(f);
	return r;
}

/* ---- limits ---------------------------------------------------------------------------------- */

static int limit(const json_t *tree, const char *key, uint64_t align, uint64_t *ret, struct plt_error *err)
{
	const json_t *v = json_object_get(tree, key);

	*ret = 0;
	if (!v)
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= 0)
		*ret = (uint64_t)json_integer_value(v);
	else if (!json_is_string(v) || plt_parse_size(json_string_value(v), ret) < 0)
		return plt_error_set(err, EINVAL, "Parameter '%s' expects a size", key);
	if (*ret >= INT32_MAX || (align ? *ret % align != 0 : *ret & (*ret - 1)))
		return plt_error_set(err, EINVAL, "Cannot meet constraints with %s %" PRIu64, key, *ret);
	return 0;
}

static int add_limits(const json_t *tree, struct plt_store **st, struct plt_error *err)
{
	struct plt_limits_rule l = { 0 };
	struct plt_store *limited;
	uint64_t align = 0, unit;
	int r = limit(tree, "align", 0, &align, err);

	l.align = (uint32_t)align;
	unit = PLT_MAX(align, UINT64_C(1));
	if (r == 0)
		r = limit(tree, "max-transfer", unit, &l.max_io, err);
	if (r == 0)
		r = limit(tree, "opt-write-zero", unit, &l.opt_zero, err);
	if (r == 0)
		r = limit(tree, "max-write-zero", PLT_MAX(unit, l.opt_zero), &l.max_zero, err);
	if (r == 0)
		r = limit(tree, "opt-discard", unit, &l.opt_discard, err);
	if (r == 0)
		r = limit(tree, "max-discard", PLT_MAX(unit, l.opt_discard), &l.max_discard, err);
	if (r < 0 || !(l.align | l.max_io | l.opt_zero | l.max_zero | l.opt_discard | l.max_discard))
		return r;
	r = plt_limits_new(*st, &l, &limited);
	if (r < 0)
		return plt_error_set(err, -r, "out of memory");
	plt_store_unref(*st);
	*st = limited;
	return 0;
}

/* ---- the node -------------------------------------------------------------------------------- */

int plt_faults_open(const json_t *tree, struct plt_store *below, struct plt_store **ret, struct plt_error *err)
{
	static const char *const known[] = { "driver", "image", "config", "inject-error", "set-state", "align",
					     "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard",
					     "max-discard", "node-name", "read-only" };
	const char *config = json_string_value(json_object_get(tree, "config")), *key;
	struct plt_store *st;
	json_t *v;
	int r;

	json_object_foreach((json_t *)(uintptr_t)tree, key, v) {
		unsigned i;

		for (i = 0; i < PLT_ARRAY_SIZE(known) && strcmp(key, known[i]); i++)
			;
		if (i == PLT_ARRAY_SIZE(known))
			return plt_error_set(err, EINVAL, "Block protocol 'blkdebug' doesn't support the option '%s'",
					     key);
	}
	r = plt_blkdebug_new(below, &st);
	if (r < 0)
		return plt_error_set(err, -r, "out of memory");
	if (config)
		r = load_config(st, config, err);
	if (r == 0)
		r = add_rules(st, json_object_get(tree, "inject-error"), "inject-error", err);
	if (r == 0)
		r = add_rules(st, json_object_get(tree, "set-state"), "set-state", err);
	if (r == 0)
		plt_blkdebug_start(st);
	if (r == 0)
		r = add_limits(tree, &st, err);
	if (r < 0) {
		plt_store_unref(st);
		return r;
	}
	*ret = st;
	return 0;
}

static struct plt_store *find_in_store(struct plt_store *st)
{
	struct plt_image *inner;

	if (plt_blkdebug_is(st))
		return st;
	if (plt_limits_below(st))
		return find_in_store(plt_limits_below(st));
	inner = plt_image_of_store(st);
	return inner ? plt_faults_find(inner) : NULL;
}

struct plt_store *plt_faults_find(struct plt_image *img)
{
	struct plt_store *st = find_in_store(img->file);

	return st || !img->data || img->data == img->file ? st : find_in_store(img->data);
}

struct plt_image *plt_image_shown(struct plt_image *img)
{
	struct plt_store *st = img->file, *below;
	struct plt_image *inner;

	if (!(img->drv->flags & PLT_DRIVER_HOST_HOLES) || img->data != img->file)
		return img;
	while ((below = plt_limits_below(st)) || (below = plt_fault_below(st)))
		st = below;
	inner = plt_image_of_store(st);
	return inner ? plt_image_shown(inner) : img;
}

int plt_debug(struct plt_disk *disk, enum plt_debug_verb verb, const char *event, const char *tag)
{
	struct plt_store *st = plt_faults_find(disk->top);

	return st ? plt_blkdebug_do(st, verb, event, tag) : -ENOTSUP;
}
