/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Reads the text of LVM.  Strings are ended in place, so that a value is a pointer into the text and nothing is copied.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guestfs/lvm_text.h"

#define NODES_MAX 65536
#define DEPTH_MAX 8

static void skip(struct plt_lvm_text *t)
{
	for (;;) {
		t->p += strspn(t->p, " \t\r\n");
		if (*t->p != '#')
			return;
		t->p += strcspn(t->p, "\n");
	}
}

/* The end of a value; strings and lists may contain what ends it elsewhere. */
static char *value_end(char *p)
{
	bool quoted = false, list = false;

	for (; *p && (quoted || list || *p != '\n'); p++) {
		if (*p == '\\' && quoted && p[1])
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else if (!quoted && *p == '[')
			list = true;
		else if (!quoted && *p == ']')
			list = false;
		else if (!quoted && !list && *p == '#')
			break;
	}
	return p;
}

/* Ends strings in place. */
static bool parse(struct plt_lvm_text *t, unsigned depth)
{
	for (skip(t); *t->p && *t->p != '}'; skip(t)) {
		size_t len = strcspn(t->p, " \t\r\n={}#\"");
		struct plt_lvm_node *n = &t->v[t->n];
		uint32_t at = t->n;
		char *name = t->p;

		if (!len || t->n == NODES_MAX)
			return false;
		t->n++;
		t->p += len;
		skip(t);
		*n = (struct plt_lvm_node){ .name = name };
		if (*t->p == '{') {
			name[len] = '\0';
			t->p++;
			if (depth == DEPTH_MAX || !parse(t, depth + 1) || *t->p != '}')
				return false;
			t->p++;
		} else if (*t->p == '=') {
			char *end, after;

			name[len] = '\0';
			t->p++;
			t->p += strspn(t->p, " \t");
			end = value_end(t->p);
			after = *end;
			*end = '\0';
			n->value = t->p;
			t->p = after ? end + 1 : end;
			if (after == '#')
				t->p += strcspn(t->p, "\n");
		} else {
			return false;
		}
		t->v[at].end = t->n;
	}
	return true;
}

const struct plt_lvm_node *plt_lvm_find(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name,
					bool section)
{
	uint32_t i = in ? (uint32_t)(in - t->v) + 1 : 0, end = in ? in->end : t->n;

	for (; i < end; i = t->v[i].end)
		if ((!name || !strcmp(t->v[i].name, name)) && !t->v[i].value == section)
			return &t->v[i];
	return NULL;
}

bool plt_lvm_number(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name, uint64_t *ret)
{
	const struct plt_lvm_node *n = plt_lvm_find(t, in, name, false);
	char *end;

	if (!n || n->value[0] < '0' || n->value[0] > '9')
		return false;
	errno = 0;
	*ret = strtoull(n->value, &end, 10);
	return !errno && end[strspn(end, " \t\r")] == '\0';
}

bool plt_lvm_string_is(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name, const char *want)
{
	const struct plt_lvm_node *n = plt_lvm_find(t, in, name, false);
	size_t len = strlen(want);

	return n && n->value[0] == '"' && !strncmp(n->value + 1, want, len) && n->value[1 + len] == '"';
}

void plt_lvm_id_text(const uint8_t *id, char ret[PLT_LVM_ID + 7])
{
	unsigned n = 0;

	/* XXXXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXXXX */
	for (unsigned i = 0; i < PLT_LVM_ID; i++) {
		if (i == 6 || (i > 6 && i < 30 && (i - 6) % 4 == 0))
			ret[n++] = '-';
		ret[n++] = (char)id[i];
	}
	ret[n] = '\0';
}

int plt_lvm_text_parse(char *text, struct plt_lvm_text *ret)
{
	*ret = (struct plt_lvm_text){ .v = calloc(NODES_MAX, sizeof(*ret->v)), .p = text };
	if (!ret->v)
		return -ENOMEM;
	if (parse(ret, 0) && !*ret->p)
		return 0;
	plt_lvm_text_release(ret);
	return -EUCLEAN;
}

void plt_lvm_text_release(struct plt_lvm_text *t)
{
	free(t->v);
	t->v = NULL;
	t->n = 0;
}
