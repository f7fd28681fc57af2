/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_JSONTEXT_H
#define PLT_BASE_JSONTEXT_H

/*
 * JSON as QEMU prints it.  QEMU keeps dictionaries in a hash table of 512 buckets and prints them
 * bucket by bucket, the key inserted last first within one bucket; clients compare such texts, and
 * "json:{...}" file names are stored in images, so the order is kept here to the letter.
 * Header-only: the library writes names with it, the command line its reports.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The hash of GDBM. */
static inline uint32_t plt_json_hash(const char *key)
{
	uint32_t v = UINT32_C(0x238F13AF) * (uint32_t)strlen(key);

	for (unsigned i = 0; key[i]; i++)
		v += (uint32_t)(unsigned char)key[i] << (i * 5 % 24);
	return UINT32_C(1103515243) * v + 12345;
}

struct plt_json_key {
	const char *key;
	unsigned bucket, inserted;
};

static inline int plt_json_key_cmp(const void *va, const void *vb)
{
	const struct plt_json_key *a = va, *b = vb;

	if (a->bucket != b->bucket)
		return a->bucket < b->bucket ? -1 : 1;
	return a->inserted > b->inserted ? -1 : a->inserted < b->inserted;
}

/* The keys of @obj in QEMU's order, borrowed, NULL-terminated; free() it.  NULL: out of memory. */
static inline const char **plt_json_order(const json_t *obj)
{
	size_t n = json_object_size(obj), i = 0;
	struct plt_json_key *v = calloc(n + 1, sizeof(*v));
	const char **ret = calloc(n + 1, sizeof(*ret));
	const char *key;
	json_t *value;

	if (!v || !ret) {
		free(v);
		free(ret);
		return NULL;
	}
	json_object_foreach ((json_t *)obj, key, value) {
		v[i] = (struct plt_json_key){ key, plt_json_hash(key) % 512, (unsigned)i };
		i++;
	}
	qsort(v, n, sizeof(*v), plt_json_key_cmp);
	for (i = 0; i < n; i++)
		ret[i] = v[i].key;
	free(v);
	return ret;
}

/*
 * The code point at *pp, which is moved behind it; -1 for a byte that starts no valid UTF-8
 * sequence (file names may hold any bytes).
 */
static inline int32_t plt_json_codepoint(const unsigned char **pp, const unsigned char *end)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const unsigned char *p = *pp;
	unsigned more = *p < 0x80     ? 0 :
			*p >> 5 == 6  ? 1 :
			*p >> 4 == 14 ? 2 :
			*p >> 3 == 30 ? 3 :
					9;
	uint32_t cp;

	*pp = p + 1;
	if (more == 0)
		return *p;
	if (more == 9 || (size_t)(end - p) <= more)
		return -1;
	cp = *p & (0x3f >> more);
	for (unsigned i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return -1;
		cp = cp << 6 | (p[i] & 0x3f);
	}
	if (cp < least[more] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
		return -1;
	*pp = p + more + 1;
	return (int32_t)cp;
}

static inline void plt_json_write_string(FILE *out, const char *s, size_t len)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
	const unsigned char *p = (const unsigned char *)s, *end = p + len;

	fputc('"', out);
	while (p < end) {
		int32_t cp = plt_json_codepoint(&p, end);
		const char *esc = cp > 0 && cp < 128 ? strchr(plain, cp) : NULL;

		if (esc)
			fprintf(out, "\\%c", letter[esc - plain]);
		else if (cp >= 0x20 && cp < 0x7f)
			fputc(cp, out);
		else if (cp < 0)
			fputs("\\uFFFD", out);
		else if (cp > 0xffff)
			fprintf(out, "\\u%04X\\u%04X", 0xd800 + ((unsigned)(cp - 0x10000) >> 10),
				0xdc00 + ((unsigned)(cp - 0x10000) & 0x3ff));
		else
			fprintf(out, "\\u%04X", (unsigned)cp);
	}
	fputc('"', out);
}

/* Print @v; @pretty with 4 spaces a level, else on one line.  @level: 0 from outside. */
static inline void plt_json_write(FILE *out, const json_t *v, bool pretty, int level)
{
	const char **order, *key;
	size_t n;

	switch (json_typeof(v)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		n = json_is_object(v) ? json_object_size(v) : json_array_size(v);
		order = json_is_object(v) ? plt_json_order(v) : NULL;
		fputc(json_is_object(v) ? '{' : '[', out);
		for (size_t i = 0; i < n && (order || json_is_array(v)); i++) {
			key = order ? order[i] : NULL;
			if (i)
				fputs(pretty ? "," : ", ", out);
			if (pretty)
				fprintf(out, "\n%*s", 4 * (level + 1), "");
			if (key) {
				plt_json_write_string(out, key, strlen(key));
				fputs(": ", out);
			}
			plt_json_write(out, key ? json_object_get(v, key) : json_array_get(v, i),
				       pretty, level + 1);
		}
		free(order);
		if (pretty)
			fprintf(out, "\n%*s", 4 * level, "");
		fputc(json_is_object(v) ? '}' : ']', out);
		break;
	case JSON_STRING:
		plt_json_write_string(out, json_string_value(v), json_string_length(v));
		break;
	case JSON_INTEGER:
		fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
		break;
	case JSON_REAL:
		fprintf(out, "%.17g", json_real_value(v));
		break;
	case JSON_TRUE:
		fputs("true", out);
		break;
	case JSON_FALSE:
		fputs("false", out);
		break;
	case JSON_NULL:
		fputs("null", out);
		break;
	}
}

#endif
