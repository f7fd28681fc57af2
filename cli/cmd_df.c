/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * df: what images take on the host, what they share, what has been promised, and what would become full.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

const struct cli_command cli_df = {
	.name = "df",
	.operands = "directory|filename...",
	.operand_kind = CLI_FILE,
	.summary = "say what images take on the host, share, and may still take",
	.text = (const char *const[]){
		"Of the images that are named or lie in the directories, and of all that they stand on: the virtual size, what the "
		"file takes, what of that would be free without the image (\\fIexclusive\\fR: with the backing files that only it "
		"needs), and how much more it can take when the guest writes everything. Then what several images share, and for "
		"each volume of the host what is free and whether that would do. The overcommit ratio is what has been promised "
		"to guests against what there is: the virtual sizes to the space that the images take and the free space.",
		"Only headers are read, and images in use are looked at too. In a directory a file of 1 MiB or more in whole "
		"sectors is taken for a raw image; hidden files are left out. Extents that the host's filesystem shares "
		"(reflinks) count as shared where it tells of them.",
		"Exit status: 0; 1 where a volume would become full if all guests wrote everything; 2 where it would not by "
		"the images that could be looked at, and one could not.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter df /var/lib/libvirt/images", "all images of a host",
		"platter df --output=json a.qcow2 b.qcow2", "for a program",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){ cli_object_opts, cli_output_opts, cli_policy_opts, NULL },
	.run = run,
};

static void put(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key, json_integer((json_int_t)v));
}

static json_t *image_json(const struct plt_df *df, const struct plt_df_image *p)
{
	json_t *o = json_object();

	json_object_set_new(o, "filename", cli_json_text(p->name));
	if (p->format)
		json_object_set_new(o, "format", json_string(p->format));
	if (p->why)
		json_object_set_new(o, "why", cli_json_text(p->why));
	if (p->allocated >= 0)
		put(o, "allocated", (uint64_t)p->allocated);
	put(o, "length", p->length);
	if (p->reflinked >= 0)
		put(o, "reflinked", (uint64_t)p->reflinked);
	if (p->why)
		return o;
	put(o, "virtual-size", p->virtual_size);
	if (!p->overlays) {
		put(o, "exclusive", p->exclusive);
		put(o, "growth", p->growth);
	}
	put(o, "overlays", p->overlays);
	put(o, "shared-by", p->shared_by);
	put(o, "snapshots", p->snapshots);
	put(o, "vm-state", p->vm_state);
	if (p->below >= 0)
		json_object_set_new(o, "backing-image", cli_json_text(df->images[p->below].name));
	return o;
}

/* Of a volume or all: what has been promised to what there is for it. */
static double ratio(uint64_t promised, uint64_t allocated, uint64_t free)
{
	return allocated + free ? (double)promised / (double)(allocated + free) : 0;
}

static void print_json(const struct plt_df *df)
{
	json_t *o = json_object(), *images = json_array(), *volumes = json_array(), *total = json_object();

	for (unsigned i = 0; i < df->nlisted; i++)
		if (!df->images[i].other)
			json_array_append_new(images, image_json(df, &df->images[i]));
	for (unsigned i = 0; i < df->nvolumes; i++) {
		const struct plt_df_volume *v = &df->volumes[i];
		json_t *e = json_object();

		json_object_set_new(e, "file", cli_json_text(v->path));
		put(e, "size", v->size);
		put(e, "free", v->free);
		put(e, "allocated", v->allocated);
		put(e, "virtual-size", v->virtual_size);
		put(e, "growth", v->growth);
		json_object_set_new(e, "overcommit", json_real(ratio(v->virtual_size, v->allocated, v->free)));
		put(e, "short", v->growth > v->free ? v->growth - v->free : 0);
		json_array_append_new(volumes, e);
	}
	put(total, "images", df->n);
	put(total, "virtual-size", df->virtual_size);
	put(total, "allocated", df->allocated);
	put(total, "exclusive", df->exclusive);
	put(total, "shared", df->shared);
	put(total, "reflinked", df->reflinked);
	put(total, "growth", df->growth);
	json_object_set_new(o, "images", images);
	json_object_set_new(o, "volumes", volumes);
	json_object_set_new(o, "total", total);
	cli_print_json(o);
	json_decref(o);
}

static void cell(uint64_t bytes)
{
	char text[CLI_SIZE_MAX];

	cli_human_size(bytes, text);
	printf("%11s", text);
}

static void print_image(const struct plt_df_image *p)
{
	if (p->why) {
		printf("%55s  %s: %s\n", "", p->name, p->why);
		return;
	}
	cell(p->virtual_size);
	if (p->allocated >= 0)
		cell((uint64_t)p->allocated);
	else
		printf("%11s", "?");
	if (p->overlays)
		printf("%11s%11s", "-", "-");
	else
		cell(p->exclusive), cell(p->growth);
	printf("  %-9s  ", p->format);
	cli_put_name(p->name);
	if (p->overlays)
		printf(" (%u image%s on it)", p->shared_by, p->shared_by == 1 ? "" : "s");
	if (p->snapshots)
		printf(" (%u internal snapshot%s)", p->snapshots, p->snapshots == 1 ? "" : "s");
	putchar('\n');
}

static void line(const char *name, uint64_t bytes)
{
	char text[CLI_SIZE_MAX];

	cli_human_size(bytes, text);
	printf("%s: %s\n", name, text);
}

static void print(const struct plt_df *df)
{
	char a[CLI_SIZE_MAX], b[CLI_SIZE_MAX];

	printf("%11s%11s%11s%11s  %-9s  %s\n", "virtual", "takes", "exclusive", "may grow", "format", "file");
	for (unsigned i = 0; i < df->nlisted; i++)
		if (!df->images[i].other)
			print_image(&df->images[i]);
	printf("%u image%s\n", df->n, df->n == 1 ? "" : "s");
	line("promised to guests", df->virtual_size);
	line("taken", df->allocated);
	line("needed by one image each", df->exclusive);
	line("shared by several", df->shared);
	if (df->reflinked)
		line("shared by the host's filesystem", df->reflinked);
	for (unsigned i = 0; i < df->nvolumes; i++) {
		const struct plt_df_volume *v = &df->volumes[i];

		cli_human_size(v->size, a);
		cli_human_size(v->free, b);
		printf("volume of '%s': %s, %s free, overcommit %.2f", v->path, a, b, ratio(v->virtual_size, v->allocated, v->free));
		cli_human_size(v->growth > v->free ? v->growth - v->free : v->free - v->growth, a);
		printf(v->growth > v->free ? "; if all guests wrote everything, %s too little\n" :
					     "; if all guests wrote everything, %s would be left\n", a);
	}
}

static int run(struct cli_args *a)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;
	struct plt_df *df;
	int c, r, status = 1;

	while ((c = cli_next(a)) != CLI_END)
		if (c == CLI_STOP)
			return a->status;
	if (optind == a->argc)
		return cli_usage_error("Expecting directories or image file names");
	if (cli_context(a, &ctx) < 0)
		return 1;
	r = plt_df(ctx, (const char *const *)a->argv + optind, (unsigned)(a->argc - optind), &df, &err);
	if (r < 0)
		cli_error("%s", err.text);
	if (r == 0) {
		status = 0;
		for (unsigned i = 0; i < df->nvolumes; i++)
			status |= df->volumes[i].growth > df->volumes[i].free;
		/* the figures are too low then */
		for (unsigned i = 0; i < df->n && !status; i++)
			status = df->images[i].why && !df->images[i].other ? 2 : 0;
		if (a->json)
			print_json(df);
		else
			print(df);
		plt_df_free(df);
	}
	plt_ctx_free(ctx);
	return status;
}
