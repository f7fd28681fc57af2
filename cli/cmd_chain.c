/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * chain: what an image is made of, layer by layer, or what the images of a folder depend on; and what is wrong with it.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

#define STATUS_TROUBLE 2

static int run(struct cli_args *a);

static const struct cli_opt opts[] = { { 0 } };

const struct cli_command cli_chain = {
	.name = "chain",
	.operands = "filename|directory",
	.operand_kind = CLI_FILE,
	.summary = "show what an image, or the images of a folder, depend on",
	.text = (const char *const[]){
		"Of an image: the chain from it down to the last backing file, with format, virtual size, size on the host, "
		"the data that is read from each layer, the ids that the format records, and what is wrong.",
		"Of a folder: the images in it and those they lead to, each below the one that it depends on. Only headers "
		"are read. Raw images are shown where another image depends on them.",
		"What is wrong: a backing file is missing, or is not the one that the image was made on; it was written "
		"after the image was made; it is shorter; its format is not recorded, or is another; the chain leads in a "
		"circle; an image cannot be opened. The status is 0 if all is right or only needs care (shorter, format not "
		"recorded), 2 if not, 1 if nothing could be looked at.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter chain top.qcow2", "its layers",
		"platter chain --output=json /var/lib/images", "who depends on whom, for a program",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_output_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

static const struct {
	unsigned bit;
	const char *name, *text;
} troubles[] = {
	{ PLT_LAYER_UNREADABLE, "unreadable", "cannot be opened" },
	{ PLT_LAYER_LOST, "backing-lost", "its backing file is missing or another one" },
	{ PLT_LAYER_LOOP, "loop", "the chain leads in a circle" },
	{ PLT_LAYER_CHANGED, "backing-changed", "its backing file has changed since it was made" },
	{ PLT_LAYER_OTHER_FORMAT, "backing-format-differs", "its backing file is of another format" },
	{ PLT_LAYER_SHORT, "backing-shorter", "its backing file is shorter" },
	{ PLT_LAYER_NO_FORMAT, "backing-format-unrecorded", "the format of its backing file is not recorded" },
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
	json_t *o = json_object(), *wrong = json_array();

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
	return o;
}

static void print_json(const struct plt_chain *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->n; i++)
		json_array_append_new(list, layer_json(c, &c->layers[i]));
	cli_print_json(list);
	json_decref(list);
}

/* ---- for a person ---------------------------------------------------------------------------- */

static void print_layer(const struct plt_layer *l, unsigned level, uint64_t data)
{
	char virtual[CLI_SIZE_MAX], real[CLI_SIZE_MAX], share[CLI_SIZE_MAX];
	unsigned known = 0;

	printf("%*s%s%s", level ? (int)(level - 1) * 3 : 0, "", level ? "`- " : "", l->name);
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
	for (size_t i = 0; i < TROUBLES; i++) {
		if (!(l->trouble & troubles[i].bit))
			continue;
		printf("%*s! %s", (int)level * 3 + 2, "", troubles[i].text);
		if (troubles[i].bit == PLT_LAYER_LOST && l->backing)
			printf(": %s", l->backing);
		if (!known++ && l->why)
			printf(" (%s)", l->why);
		putchar('\n');
	}
}

/* From the image down. */
static void print_chain(const struct plt_chain *c)
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

static void print_forest(const struct plt_chain *c)
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

/* ---- the whole ------------------------------------------------------------------------------- */

struct names {
	char **v;
	unsigned n;
};

static int add_name(struct names *names, const char *dir, const char *name)
{
	char **v = realloc(names->v, (names->n + 1) * sizeof(*v));
	size_t len = strlen(dir) + strlen(name) + 2;

	if (!v)
		return -ENOMEM;
	names->v = v;
	v[names->n] = malloc(len);
	if (!v[names->n])
		return -ENOMEM;
	snprintf(v[names->n++], len, "%s%s%s", dir, *dir && dir[strlen(dir) - 1] != '/' ? "/" : "", name);
	return 0;
}

/* The files of the folder, hidden ones apart. */
static int list(const char *path, struct names *names)
{
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat sb;
	int r = d ? 0 : -errno;

	while (r == 0 && (e = readdir(d))) {
		if (*e->d_name == '.')
			continue;
		r = add_name(names, path, e->d_name);
		if (r == 0 && (stat(names->v[names->n - 1], &sb) < 0 || !S_ISREG(sb.st_mode) || !sb.st_size))
			free(names->v[--names->n]);
	}
	if (d)
		closedir(d);
	return r;
}

static int show(const struct cli_args *a, const struct plt_chain *c, bool folder)
{
	unsigned all = 0;

	if (a->json)
		print_json(c);
	else if (folder)
		print_forest(c);
	else
		print_chain(c);
	for (unsigned i = 0; i < c->n; i++)
		all |= c->layers[i].trouble;
	if (!folder && c->layers[0].trouble & PLT_LAYER_UNREADABLE)
		return 1;
	return all & ~(unsigned)PLT_LAYER_HARMLESS ? STATUS_TROUBLE : 0;
}

static int run(struct cli_args *a)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct names names = { 0 };
	struct plt_chain *chain;
	struct plt_ctx *ctx;
	struct stat sb;
	const char *name;
	bool folder;
	int c, r, status = 1;

	while ((c = cli_next(a)) != CLI_END)
		if (c == CLI_STOP)
			return a->status;
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file or directory name");
	name = a->argv[optind];
	folder = stat(name, &sb) == 0 && S_ISDIR(sb.st_mode);
	if (cli_context(a, &ctx) < 0)
		return 1;
	r = folder ? list(name, &names) : add_name(&names, "", name);
	if (r < 0) {
		cli_error("Could not read '%s': %s", name, strerror(-r));
	} else {
		r = plt_chain_look(ctx, (const char *const *)names.v, names.n,
				   folder ? PLT_CHAIN_KNOWN_ONLY : PLT_CHAIN_SHARE, &chain, &err);
		if (r < 0) {
			cli_error("%s", err.text);
		} else {
			status = show(a, chain, folder);
			plt_chain_free(chain);
		}
	}
	for (unsigned i = 0; i < names.n; i++)
		free(names.v[i]);
	free(names.v);
	plt_ctx_free(ctx);
	return status;
}
