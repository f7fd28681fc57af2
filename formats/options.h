/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_OPTIONS_H
#define PLT_FORMATS_OPTIONS_H

/*
 * Options: one table a driver gives `create -o`, `-o help`, JSON and completion.
 *
 * A set of options is an ordered list of key and text value.  Values are kept as given and are
 * checked against the table by plt_opts_validate(), which also turns given numbers and sizes into
 * plain decimal (as QEMU's "Formatting" line shows them) and fills in defaults; the typed getters
 * may be used only after that.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platter.h"

enum plt_opt_type { PLT_OPT_STRING, PLT_OPT_BOOL, PLT_OPT_NUMBER, PLT_OPT_SIZE };

struct plt_opt_desc {
	const char *name;
	enum plt_opt_type type;
	const char *deflt;       /* NULL: unset */
	const char *help;        /* as `create -o help` prints it (without type and default) */
	const char *help_default;/* "(default: ...)" text in help where QEMU shows one, else NULL */
	const char *const *values; /* allowed words, for completion and errors, or NULL */
	bool hidden_when_unset;  /* "Formatting ..." line: printed only when given */
};

struct plt_opts;

struct plt_opts *plt_opts_new(void);
void plt_opts_free(struct plt_opts *o);
int plt_opts_set(struct plt_opts *o, const char *key, const char *value); /* replaces; NULL removes */
const char *plt_opts_get(const struct plt_opts *o, const char *key);      /* NULL: unset */
size_t plt_opts_count(const struct plt_opts *o);
const char *plt_opts_key(const struct plt_opts *o, size_t i);

/*
 * "key=value,key=value,flag": ",," is a comma in a value; a word without "=" is "word=on" ("noword"
 * is "word=off" where the table, if given, has word and not noword).  Adds to @o.
 */
int plt_opts_parse(struct plt_opts *o, const char *text, const struct plt_opt_desc *table, struct plt_error *err);
/*
 * Every key known, every value of its type; defaults filled in.  QEMU's words in the messages.
 * @tables ends with NULL.  Words of desc->values are judged last, with all else done.
 */
int plt_opts_validate(struct plt_opts *o, const struct plt_opt_desc *const *tables, struct plt_error *err);

bool plt_opts_bool(const struct plt_opts *o, const char *key);
uint64_t plt_opts_u64(const struct plt_opts *o, const char *key);

/* Decimal, 0x hex, fraction, suffix b k K M G T P E (1024 powers).  -EINVAL, -ERANGE; whole string. */
int plt_parse_size(const char *text, uint64_t *ret);
/* on yes true y / off no false n, as QEMU takes them. */
int plt_parse_bool(const char *text, bool *ret);

#endif
