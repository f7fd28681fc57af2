/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * create: makes a new image.  The library decides what a format can do and words the result; here
 * only the command line is read.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the new image (raw)", CLI_FORMAT },
	{ 'b', "backing", "backing_file", "record only what differs from this image", CLI_FILE },
	{ 'F', "backing-format", "backing_fmt", "format of the backing file", CLI_FORMAT },
	{ 'B', NULL, "backing_fmt", "the same as -F", CLI_FORMAT },
	{ 'u', "backing-unsafe", NULL, "do not open the backing file", CLI_ANY },
	{ 'o', "options", "options", "what the format can do: name=value,... (-o help lists it)",
	  CLI_ANY },
	{ 0 },
};

const struct cli_command cli_create = {
	.name = "create",
	.operands = "filename [size]",
	.operand_kind = CLI_FILE,
	.summary = "make a new disk image",
	.text = (const char *const[]){
		"Makes the image \\fIfilename\\fR of \\fIsize\\fR bytes; an existing file is "
		"emptied. With a backing file the size may be left out: it is the backing file's "
		"then. A relative name of a backing file is looked up beside the new image.",
		"What was made is said in one line that starts with \"Formatting\".",
		NULL,
	},
	.examples = (const char *const[]){
		"platter create -f qcow2 disk.qcow2 20G",
		"a disk of 20 GiB that grows as it is written",
		"platter create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2",
		"an overlay: base.qcow2 is never written again",
		"platter create -f qcow2 -o cluster_size=2M,preallocation=metadata disk.qcow2 20G",
		"other options of the format",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

static int create(struct cli_args *a, const char *name, struct plt_create_options *o)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;
	char *line = NULL;
	int r;

	if (cli_context(a, &ctx) < 0)
		return 1;
	r = plt_create(ctx, name, o, &line, &err);
	/* qemu-img says what it is about to do before that fails. */
	if (line && !a->quiet) {
		puts(line);
		fflush(stdout);
	}
	free(line);
	if (r < 0)
		cli_error("%s: %s", name, err.text);
	plt_ctx_free(ctx);
	return r < 0;
}

static int run(struct cli_args *a)
{
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct cli_list texts = { 0 };
	const char *name, *format = "raw";
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			status = a->status;
			goto out;
		case 'f':
			format = a->arg;
			break;
		case 'b':
			o.backing = a->arg;
			break;
		case 'F':
		case 'B':
			o.backing_format = a->arg;
			break;
		case 'u':
			o.flags |= PLT_CREATE_UNCHECKED_BACKING;
			break;
		case 'o':
			if (!cli_list_add(&texts, a->arg))
				goto out;
			break;
		}
	}
	name = optind < a->argc ? a->argv[optind] : NULL;
	if (cli_list_wants_help(&texts)) {
		status = cli_format_help(format, name != NULL);
		goto out;
	}
	if (!name) {
		status = cli_usage_error("Expecting image file name");
		goto out;
	}
	optind++;
	if (optind < a->argc && !cli_size("image size", a->argv[optind++], &o.virtual_size))
		goto out;
	if (optind != a->argc) {
		status = cli_usage_error("Unexpected argument: %s", a->argv[optind]);
		goto out;
	}
	o.format = format;
	o.options = texts.v;
	status = create(a, name, &o);
out:
	cli_list_release(&texts);
	return status;
}
