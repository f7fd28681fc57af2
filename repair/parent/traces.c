/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an image says of a backing file that it no longer records: a name that was written over in part by a shorter one,
 * whose end is still there behind it, and a locator of a VHD whose place nothing has taken since.  Names alone; they
 * weigh less than anything that the content says.
 */
#include <stdlib.h>
#include <string.h>

#include "repair/parent/parent.h"

#define HEAD (128u << 10) /* bytes of the file's beginning that are looked through */
#define SHORTEST 3        /* letters, or they may be anything */

static bool is_letter(uint8_t c)
{
	return c > ' ' && c < 0x7f && c != '/' && c != '\\' && c != ':';
}

/* Does @name stand there in letters of @width bytes (of two, the other is zero), and no longer word around it? */
static bool stands_in(const struct plt_traces *t, const char *name, unsigned width)
{
	size_t n = strlen(name), len = n * width;

	for (size_t at = 0; at + len + width <= t->len; at++) {
		size_t i = 0;

		while (i < n && t->head[at + i * width] == (uint8_t)name[i] && (width == 1 || !t->head[at + i * width + 1]))
			i++;
		if (i == n && !is_letter(t->head[at + len]) && (at < width || !is_letter(t->head[at - width])))
			return true;
	}
	return false;
}

/* Is the end of @name what follows the recorded name? */
static bool follows(const struct plt_traces *t, const char *recorded, const char *name)
{
	size_t n = recorded ? strlen(recorded) : 0, len = strlen(name);

	for (size_t at = 0; n && at + n < t->len; at++) {
		const uint8_t *rest = t->head + at + n;
		size_t k = 0;

		if (memcmp(t->head + at, recorded, n))
			continue;
		while (k < len && at + n + k < t->len && rest[k] > ' ' && rest[k] < 0x7f) /* (no further: all of it may be one) */
			k++;
		if (k >= SHORTEST && k < len && !memcmp(name + len - k, rest, k))
			return true;
	}
	return false;
}

int plt_traces_read(const struct plt_child *child, struct plt_traces *ret)
{
	struct plt_store *file = plt_disk_image(child->alone)->file;
	uint64_t size;

	*ret = (struct plt_traces){ .head = malloc(HEAD) };
	if (!ret->head)
		return -ENOMEM;
	if (plt_store_size(file, &size, NULL) == 0)
		ret->len = (size_t)PLT_MIN(size, (uint64_t)HEAD);
	if (plt_store_read(file, 0, ret->head, ret->len, PLT_IO_HEADER, NULL) < 0)
		ret->len = 0; /* (it says nothing) */
	return 0;
}

void plt_traces_release(struct plt_traces *t)
{
	free(t->head);
	*t = (struct plt_traces){ 0 };
}

bool plt_traces_name(const struct plt_traces *t, const struct plt_child *child, const struct plt_candidate *c)
{
	const char *slash = strrchr(c->name, '/'), *last = slash ? slash + 1 : c->name;

	if (c->recorded || c->same_name || strlen(last) < SHORTEST)
		return false;
	return stands_in(t, last, 1) || stands_in(t, last, 2) || follows(t, child->backing, c->name);
}
