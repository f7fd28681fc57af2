/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* chain: a chain, or the images of a folder, as text and as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/chain.h"

static const struct {
	unsigned bit;
	const char *name;
} troubles[] = {
	{ PLT_LAYER_UNREADABLE, "unreadable" },
	{ PLT_LAYER_LOST, "backing-lost" },
	{ PLT_LAYER_MOVED, "backing-moved" },
	{ PLT_LAYER_LOOP, "loop" },
	{ PLT_LAYER_DEEP, "too-deep" },
	{ PLT_LAYER_CHANGED, "backing-changed" },
	{ PLT_LAYER_REWRITTEN, "backing-rewritten" },
	{ PLT_LAYER_OTHER_FORMAT, "backing-format-differs" },
	{ PLT_LAYER_LOOKS_LIKE, "backing-looks-like" },
	{ PLT_LAYER_SHORT, "backing-shorter" },
	{ PLT_LAYER_NO_FORMAT, "backing-format-unrecorded" },
	{ PLT_LAYER_ORPHAN, "orphan" },
};
#define TROUBLES (sizeof(troubles) / sizeof(*troubles))

/* ---- for a program --------------------------------------------------------------------------- */

static void put_text(json_t *o, const char *key, const char *text)
{
	if (text)
		json_object_set_new(o, key, cli_json_text(text));
}

static json_t *layer_json(const struct plt_chain *c, const struct plt_layer *l)
{
	json_t *o = json_object(), *wrong = json_array(), *findings = json_array();

	put_text(o, "filename", l->name);
	put_text(o, "format", l->format);
	if (l->format)
		json_object_set_new(o, "virtual-size", json_integer((json_int_t)l->virtual_size));
	if (l->actual_size >= 0)
		json_object_set_new(o, "actual-size", json_integer(l->actual_size));
	if (l->have_share)
		json_object_set_new(o, "data", json_integer((json_int_t)l->share));
	put_text(o, "backing-filename", l->backing);
	put_text(o, "backing-filename-format", l->backing_format);
	put_text(o, "full-backing-filename", l->full_backing);
	if (l->below >= 0)
		put_text(o, "backing-image", c->layers[l->below].name);
	json_object_set_new(o, "overlays", json_integer(l->above));
	put_text(o, "id", l->id);
	put_text(o, "parent-id", l->parent_id);
	if (l->made >= 0)
		json_object_set_new(o, "made", json_integer(l->made));
	if (l->written >= 0)
		json_object_set_new(o, "written", json_integer(l->written));
	for (size_t i = 0; i < TROUBLES; i++)
		if (l->trouble & troubles[i].bit)
			json_array_append_new(wrong, json_string(troubles[i].name));
	json_object_set_new(o, "wrong", wrong);
	put_text(o, "why", l->why);
	put_text(o, "moved-to", l->moved_to);
	for (unsigned i = 0; i < l->nfindings; i++) {
		json_t *f = json_object();

		put_text(f, "id", l->findings[i].id);
		put_text(f, "severity", l->findings[i].harmless ? "note" : "corruption");
		put_text(f, "text", l->findings[i].text);
		json_array_append_new(findings, f);
	}
	json_object_set_new(o, "findings", findings);
	return o;
}

json_t *chain_json(const struct plt_chain *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->n; i++)
		json_array_append_new(list, layer_json(c, &c->layers[i]));
	return list;
}

/* ---- for a person ---------------------------------------------------------------------------- */

static void print_layer(const struct plt_layer *l, unsigned level, uint64_t data)
{
	char virtual[CLI_SIZE_MAX], real[CLI_SIZE_MAX], share[CLI_SIZE_MAX];

	printf("%*s%s", level ? (int)(level - 1) * 3 : 0, "", level ? "`- " : "");
	cli_put_name(l->name);
	if (l->format) {
		cli_human_size(l->virtual_size, virtual);
		cli_human_size(l->actual_size < 0 ? 0 : (uint64_t)l->actual_size, real);
		printf("  %s, %s virtual, %s on the host", l->format, virtual, l->actual_size < 0 ? "?" : real);
	}
	if (l->have_share) {
		cli_human_size(l->share, share);
		printf(", supplies %s (%.0f %%)", share, data ? 100.0 * (double)l->share / (double)data : 0.0);
	}
	putchar('\n');
	if (l->id)
		printf("%*sid %s\n", (int)level * 3 + 2, "", l->id);
	for (unsigned i = 0; i < l->nfindings; i++) {
		printf("%*s! ", (int)level * 3 + 2, "");
		cli_put_name(l->findings[i].text);
		printf(" [%s]\n", l->findings[i].id);
	}
}

/* From the image down. */
void chain_print(const struct plt_chain *c)
{
	uint64_t data = 0;
	unsigned level = 0;

	for (unsigned i = 0; i < c->n; i++)
		data += c->layers[i].share;
	for (int i = 0; c->n && i >= 0 && level < c->n; i = c->layers[i].below)
		print_layer(&c->layers[i], level++, data);
}

/* Those that depend on layer @i, below it; a circle ends at the depth that no tree has. */
static void print_tree(const struct plt_chain *c, unsigned i, unsigned level)
{
	print_layer(&c->layers[i], level, 0);
	if (!c->layers[i].above)
		return;
	for (unsigned k = 0; k < c->n; k++)
		if (c->layers[k].below == (int)i && !(c->layers[k].trouble & PLT_LAYER_LOOP))
			print_tree(c, k, level + 1);
}

void chain_print_forest(const struct plt_chain *c)
{
	unsigned heads = 0, lost = 0;

	for (unsigned i = 0; i < c->n; i++) {
		const struct plt_layer *l = &c->layers[i];

		if (l->below < 0)
			print_tree(c, i, 0);
		else if (l->trouble & PLT_LAYER_LOOP) /* nowhere to begin */
			print_layer(l, 0, 0);
		heads += !l->above;
		lost += (l->trouble & ~(unsigned)PLT_LAYER_HARMLESS) != 0;
	}
	printf("%u images, %u that no other depends on, %u with something wrong\n", c->n, heads, lost);
}

int chain_status(const struct plt_chain *c, bool folder)
{
	unsigned all = 0;

	for (unsigned i = 0; i < c->n; i++)
		all |= c->layers[i].trouble;
	if (!folder && c->layers[0].trouble & PLT_LAYER_UNREADABLE)
		return 1;
	return all & ~(unsigned)PLT_LAYER_HARMLESS ? CHAIN_TROUBLE : 0;
}
