/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Sets of options: parsing of "-o" texts, the check against a driver's tables, and the typed
 * getters.  Invariant: after plt_opts_validate() every key is in a table, every value parses as
 * its type, every default is present, so the getters cannot fail.  What an option means is the
 * driver's; which tables apply is the caller's.
 */
#include "formats/options.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/number.h"

struct plt_opt {
	char *key, *value;
};

struct plt_opts {
	struct plt_opt *v;
	size_t n, cap;
};

struct plt_opts *plt_opts_new(void)
{
	return calloc(1, sizeof(struct plt_opts));
}

void plt_opts_free(struct plt_opts *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->n; i++) {
		free(o->v[i].key);
		free(o->v[i].value);
	}
	free(o->v);
	free(o);
}

static struct plt_opt *find(const struct plt_opts *o, const char *key)
{
	for (size_t i = 0; i < o->n; i++)
		if (!strcmp(o->v[i].key, key))
			return &o->v[i];
	return NULL;
}

static void remove_opt(struct plt_opts *o, struct plt_opt *opt)
{
	size_t i = (size_t)(opt - o->v);

	free(opt->key);
	free(opt->value);
	memmove(opt, opt + 1, (o->n - i - 1) * sizeof(*opt));
	o->n--;
}

int plt_opts_set(struct plt_opts *o, const char *key, const char *value)
{
	struct plt_opt *opt = find(o, key);
	char *k, *v;

	if (!value) {
		if (opt)
			remove_opt(o, opt);
		return 0;
	}
	v = strdup(value);
	if (!v)
		return -ENOMEM;
	if (opt) {
		free(opt->value);
		opt->value = v;
		return 0;
	}
	k = strdup(key);
	if (o->n == o->cap) {
		size_t cap = o->cap ? 2 * o->cap : 8;
		struct plt_opt *grown = reallocarray(o->v, cap, sizeof(*grown));

		if (grown) {
			o->v = grown;
			o->cap = cap;
		}
	}
	if (!k || o->n == o->cap) {
		free(k);
		free(v);
		return -ENOMEM;
	}
	o->v[o->n++] = (struct plt_opt){ k, v };
	return 0;
}

const char *plt_opts_get(const struct plt_opts *o, const char *key)
{
	const struct plt_opt *opt = o ? find(o, key) : NULL;

	return opt ? opt->value : NULL;
}

size_t plt_opts_count(const struct plt_opts *o)
{
	return o ? o->n : 0;
}

const char *plt_opts_key(const struct plt_opts *o, size_t i)
{
	return i < o->n ? o->v[i].key : NULL;
}

static const struct plt_opt_desc *describe(const struct plt_opt_desc *table, const char *key)
{
	for (; table && table->name; table++)
		if (!strcmp(table->name, key))
			return table;
	return NULL;
}

/* Copies up to a comma that stands alone; ",," gives one.  Returns where it stopped. */
static const char *take_value(const char *p, char *ret)
{
	for (; *p; p++) {
		if (*p == ',' && *++p != ',') {
			p--;
			break;
		}
		*ret++ = *p;
	}
	*ret = '\0';
	return p;
}

int plt_opts_parse(struct plt_opts *o, const char *text, const struct plt_opt_desc *table,
		   struct plt_error *err)
{
	char *key PLT_AUTOFREE = malloc(strlen(text) + 1);
	char *value PLT_AUTOFREE = malloc(strlen(text) + 4);
	const char *p = text, *name;
	size_t len;

	if (!key || !value)
		return plt_error_errno(err, ENOMEM, "options");
	while (*p) {
		len = strcspn(p, "=,");
		memcpy(key, p, len);
		key[len] = '\0';
		name = key;
		if (p[len] == '=') {
			p = take_value(p + len + 1, value);
		} else {
			bool off = !strncmp(key, "no", 2) && !describe(table, key) &&
				   (!table || describe(table, key + 2));

			name = off ? key + 2 : key;
			strcpy(value, off ? "off" : "on");
			p += len;
		}
		if (*p == ',')
			p++;
		if (plt_opts_set(o, name, value) < 0)
			return plt_error_errno(err, ENOMEM, "options");
	}
	return 0;
}

/* *@number: whether the value is one, which then is in @ret. */
static int check_type(const struct plt_opt_desc *d, const char *value, bool *number, uint64_t *ret,
		      struct plt_error *err)
{
	bool on;
	char *end;
	int r;

	*number = d->type == PLT_OPT_NUMBER || d->type == PLT_OPT_SIZE;
	switch (d->type) {
	case PLT_OPT_STRING:
		return 0;
	case PLT_OPT_BOOL:
		if (plt_parse_bool(value, &on) < 0)
			return plt_error_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'",
					     d->name);
		return 0;
	case PLT_OPT_NUMBER:
		errno = 0;
		*ret = strtoull(value, &end, 0);
		if (end == value || *end || strchr(value, '-'))
			return plt_error_set(err, EINVAL, "Parameter '%s' expects a number",
					     d->name);
		if (errno == ERANGE)
			return plt_error_set(err, EINVAL,
					     "Value '%s' is too large for parameter '%s'", value,
					     d->name);
		return 0;
	case PLT_OPT_SIZE:
		r = plt_parse_size(value, ret);
		if (r == -ERANGE)
			return plt_error_set(err, EINVAL,
					     "Value '%s' is out of range for parameter '%s'", value,
					     d->name);
		if (r < 0)
			return plt_error_set(
				err, EINVAL,
				"Parameter '%s' expects a non-negative number below 2^64\n"
				"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
				"tera-, peta-\nand exabytes, respectively.",
				d->name);
		return 0;
	}
	assert(!"option type");
	return -EINVAL;
}

static int check_word(const struct plt_opt_desc *d, const char *value, struct plt_error *err)
{
	for (const char *const *w = d->values; *w; w++)
		if (!strcmp(*w, value))
			return 0;
	return plt_error_set(err, EINVAL, "Parameter '%s' does not accept value '%s'", d->name,
			     value);
}

/*
 * Words are judged last: a caller that prints the completed set before it acts (the "Formatting"
 * line) finds it complete even when a word is wrong.
 */
int plt_opts_validate(struct plt_opts *o, const struct plt_opt_desc *const *tables,
		      struct plt_error *err)
{
	const struct plt_opt_desc *d;
	const char *value;
	char decimal[24];
	uint64_t u;
	bool number;
	int r;

	for (size_t i = 0; i < o->n; i++) {
		d = NULL;
		for (size_t t = 0; tables[t] && !d; t++)
			d = describe(tables[t], o->v[i].key);
		if (!d)
			return plt_error_set(err, EINVAL, "Invalid parameter '%s'", o->v[i].key);
		r = check_type(d, o->v[i].value, &number, &u, err);
		if (r < 0)
			return r;
		if (number) {
			snprintf(decimal, sizeof(decimal), "%" PRIu64, u);
			if (plt_opts_set(o, d->name, decimal) < 0)
				return plt_error_errno(err, ENOMEM, "options");
		}
	}
	for (size_t t = 0; tables[t]; t++)
		for (d = tables[t]; d->name; d++)
			if (d->deflt && !find(o, d->name) && plt_opts_set(o, d->name, d->deflt) < 0)
				return plt_error_errno(err, ENOMEM, "options");
	for (size_t t = 0; tables[t]; t++)
		for (d = tables[t]; d->name; d++) {
			value = d->values ? plt_opts_get(o, d->name) : NULL;
			r = value ? check_word(d, value, err) : 0;
			if (r < 0)
				return r;
		}
	return 0;
}

bool plt_opts_bool(const struct plt_opts *o, const char *key)
{
	const char *value = plt_opts_get(o, key);
	bool on = false;

	return value && plt_parse_bool(value, &on) == 0 && on;
}

uint64_t plt_opts_u64(const struct plt_opts *o, const char *key)
{
	const char *value = plt_opts_get(o, key);
	uint64_t v = 0;

	/* Given values are plain decimal by now; defaults may carry a suffix. */
	return value && plt_parse_size(value, &v) == 0 ? v : 0;
}

int plt_parse_size(const char *text, uint64_t *ret)
{
	return plt_number_size(text, ret);
}

int plt_parse_bool(const char *text, bool *ret)
{
	return plt_number_bool(text, ret);
}
