/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * commit: an image's content put into one of its backing files; words and order of checks are qemu-img's.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'b', "base", "base", "the backing file that takes it, further down the chain; implies -d", CLI_FILE },
	{ 'd', "drop", NULL, "do not empty the image afterwards", CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 'r', "rate-limit", "rate", "copy no more than so many bytes a second", CLI_ANY },
	{ 't', "cache", "cache", "how all files of the chain are opened: " CLI_CACHE_WORDS, CLI_CACHE },
	{ 0 },
};

const struct cli_command cli_commit = {
	.name = "commit",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "put what an image holds into its backing file",
	.text = (const char *const[]){
		"The backing file then holds what the image shows, and the image, unless -d is given, is emptied. Other "
		"images that have that backing file too are of no use any more.",
		"Only what the image holds is read. It is emptied only when all of that is durable in the backing file: "
		"after an interruption or a power cut nothing is lost, and the command can be given again.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter commit -p overlay.qcow2", "merge an overlay into its backing file",
		"platter commit -b base.qcow2 overlay.qcow2", "into one further down; then overlay.qcow2 can be deleted",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_progress_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	struct cli_work work;
	struct plt_commit_options o;
};

static int commit(struct plt_ctx *ctx, struct cli_work *w, struct plt_error *err)
{
	struct job *j = (struct job *)w;

	j->o.progress = cli_progress_tick;
	j->o.progress_arg = &w->progress;
	return plt_commit(ctx, w->name, &w->open, &j->o, err);
}

static int run(struct cli_args *a)
{
	struct job j = { .work = CLI_WORK_INIT(commit), .o = PLT_COMMIT_OPTIONS_INIT };
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'b':
			j.o.base = a->arg;
			break;
		case 'd':
			j.o.flags |= PLT_COMMIT_KEEP;
			break;
		case 'f':
			j.work.open.format = a->arg;
			break;
		case 'r':
			if (!cli_size("rate limit", a->arg, &j.o.rate_limit))
				return 1;
			break;
		case 't':
			j.work.cache = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	j.work.name = a->argv[optind];
	if (cli_work(a, &j.work))
		return 1;
	if (!a->quiet)
		puts("Image committed.");
	return 0;
}
