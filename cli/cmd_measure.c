/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * measure: how large would a new image become?  For those who must set aside the space before they
 * convert or create.  Order of checks and wording are qemu-img's.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image that would be converted", CLI_FORMAT },
	{ 'O', "target-format", "output_fmt", "format of the new image (raw)", CLI_FORMAT },
	{ 'o', "target-format-options", "options", "options of the new image, as for create",
	  CLI_ANY },
	{ 'l', "snapshot", "snapshot_param",
	  "of an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME",
	  CLI_ANY },
	{ OPT_SIZE, "size", "N", "of an empty image of this size, instead of a conversion",
	  CLI_ANY },
	{ OPT_EXACT, "exact", NULL, "the length of the file that convert makes, to the byte: the image is read", CLI_ANY },
	{ 'c', "compress", NULL, "with --exact: of a compressed image", CLI_ANY },
	{ 's', NULL, "N", "the same as --size", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_measure = {
	.name = "measure",
	.operands = "[filename]",
	.operand_kind = CLI_FILE,
	.summary = "say how large a new image would become",
	.text = (const char *const[]){
		"\\fIrequired size\\fR is what a conversion of the image would take at most, "
		"\\fIfully allocated size\\fR what the new image can grow to. Both are lengths of "
		"the file. The first is qemu-img's bound, from the map alone; with --exact it is the length of the file "
		"that convert makes with the same options, found out by a conversion that keeps nothing. Where both formats can have persistent bitmaps, \\fIbitmaps size\\fR is "
		"what copying them would take besides.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter measure -O qcow2 disk.raw", "before a conversion",
		"platter measure --exact -c -O qcow2 disk.raw", "how long a compressed image would be",
		"platter measure --output=json -O qcow2 -o cluster_size=1M --size 20G", "of a new image",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_output_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

static void print(const struct cli_args *a, const struct plt_measure_result *res)
{
	json_t *o;

	if (!a->json) {
		printf("required size: %" PRIu64 "\n", res->required);
		if (res->fully_allocated || !res->required)
			printf("fully allocated size: %" PRIu64 "\n", res->fully_allocated);
		if (res->have_bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", res->bitmaps);
		return;
	}
	o = json_object();
	json_object_set_new(o, "required", json_integer((json_int_t)res->required));
	if (res->fully_allocated || !res->required)
		json_object_set_new(o, "fully-allocated", json_integer((json_int_t)res->fully_allocated));
	if (res->have_bitmaps)
		json_object_set_new(o, "bitmaps", json_integer((json_int_t)res->bitmaps));
	cli_print_json(o);
	json_decref(o);
}

static int measure(struct cli_args *a, const char *name, struct plt_open_options *src,
		   const struct plt_measure_options *o)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_measure_result res;
	struct plt_disk *disk = NULL;
	struct plt_ctx *ctx;
	char *second;
	int r;

	if (cli_context(a, &ctx) < 0)
		return 1;
	src->flags |= PLT_OPEN_SHARE_RAW;
	r = name ? cli_open(a, ctx, name, src, &disk) : 0;
	if (r == 0) {
		r = plt_measure(disk, o, &res, &err);
		if (r == 0) {
			print(a, &res);
		} else {
			/* Two sentences of qemu-img's are two messages. */
			second = strstr(err.text, "\nInvalid options");
			if (second)
				*second++ = '\0';
			cli_error("%s", err.text);
			if (second)
				cli_error("%s", second);
		}
	}
	cli_close(a, disk);
	plt_ctx_free(ctx);
	return r < 0;
}

static int check(const struct cli_args *a, const struct plt_open_options *src, const struct plt_measure_options *o,
		 const char **ret_name)
{
	bool sized = o->virtual_size != PLT_SIZE_UNSET;

	*ret_name = optind < a->argc ? a->argv[optind] : NULL;
	if (a->argc - optind > 1)
		cli_error("At most one filename argument is allowed.");
	else if (o->flags & PLT_MEASURE_COMPRESS && (sized || !(o->flags & PLT_MEASURE_EXACT)))
		cli_error("-c is for an image and --exact: how far data compresses only reading it tells.");
	else if (!*ret_name && (a->image_opts || src->format || src->snapshot || src->snapshot_id || src->snapshot_name))
		cli_error("--image-opts, -f, and -l require a filename argument.");
	else if (*ret_name && sized)
		cli_error("--size N cannot be used together with a filename.");
	else if (!*ret_name && !sized)
		cli_error("Either --size N or one filename must be specified.");
	else
		return 0;
	return -1;
}

static int run(struct cli_args *a)
{
	struct plt_measure_options o = PLT_MEASURE_OPTIONS_INIT;
	struct plt_open_options src = PLT_OPEN_OPTIONS_INIT;
	struct cli_snapshot snapshot = { 0 };
	struct cli_list texts = { 0 };
	const char *name;
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			status = a->status;
			goto out;
		case 'f':
			src.format = a->arg;
			break;
		case 'O':
			o.format = a->arg;
			break;
		case 'o':
			if (!cli_list_add(&texts, a->arg))
				goto out;
			break;
		case 'l':
			if (!cli_snapshot_parse(&snapshot, a->arg, &src))
				goto out;
			break;
		case OPT_EXACT:
			o.flags |= PLT_MEASURE_EXACT;
			break;
		case 'c':
			o.flags |= PLT_MEASURE_COMPRESS;
			break;
		case OPT_SIZE:
		case 's':
			if (!cli_size("image size", a->arg, &o.virtual_size))
				goto out;
			break;
		}
	}
	o.options = texts.v;
	if (check(a, &src, &o, &name) == 0)
		status = measure(a, name, &src, &o);
out:
	cli_list_release(&texts);
	free(snapshot.copy);
	return status;
}
