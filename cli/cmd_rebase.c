/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * rebase: another backing file for an image; words and order of checks are qemu-img's.
 */
#include <errno.h>
#include <getopt.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'b', "backing", "file", "the new backing file, as it is to be recorded: relative to the image's folder; '': none",
	  CLI_FILE },
	{ 'F', "backing-format", "fmt", "its format", CLI_FORMAT },
	{ 'u', "backing-unsafe", NULL, "change only what is recorded: the new file holds the same as the old one", CLI_ANY },
	{ 'c', "compress", NULL, "compress what has to be copied", CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 't', "cache", "cache", "how the image is opened: " CLI_CACHE_WORDS, CLI_CACHE },
	{ 'T', "backing-cache", "cache", "how the new backing file is opened", CLI_CACHE },
	{ 'U', "force-share", NULL, "open the new backing file even if another program is writing to it", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_rebase = {
	.name = "rebase",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "give an image another backing file",
	.text = (const char *const[]){
		"The image shows the same afterwards: what the old and the new backing file have different is copied into it "
		"first. Where both chains lead to the same layer nothing is read.",
		"The new backing file is recorded in one step, when all of that is durable: after an interruption or a power "
		"cut the image is as it was, and the command can be given again.",
		"With -u nothing is copied or compared, and the new file need not be there: for one that has only moved.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter rebase -b base.qcow2 -F qcow2 overlay.qcow2", "take the layers in between out of the chain",
		"platter rebase -b '' overlay.qcow2", "make an image that needs no other",
		"platter rebase -u -b ../new/base.qcow2 -F qcow2 overlay.qcow2", "the backing file has been moved",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_progress_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	struct cli_work work;
	struct plt_rebase_options o;
};

static int rebase(struct plt_ctx *ctx, struct cli_work *w, struct plt_error *err)
{
	struct job *j = (struct job *)w;

	j->o.progress = cli_progress_tick;
	j->o.progress_arg = &w->progress;
	return plt_rebase(ctx, w->name, &w->open, &j->o, err);
}

static int run(struct cli_args *a)
{
	struct job j = { .work = CLI_WORK_INIT(rebase), .o = PLT_REBASE_OPTIONS_INIT };
	const char *backing_mode = NULL;
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'b':
			j.o.backing = a->arg;
			break;
		case 'F':
			j.o.backing_format = a->arg;
			break;
		case 'u':
			j.o.flags |= PLT_REBASE_UNSAFE;
			break;
		case 'c':
			j.o.flags |= PLT_REBASE_COMPRESS;
			break;
		case 'f':
			j.work.open.format = a->arg;
			break;
		case 't':
			j.work.cache = a->arg;
			break;
		case 'T':
			backing_mode = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (!(j.o.flags & PLT_REBASE_UNSAFE) && !j.o.backing)
		return cli_usage_error("Must specify backing file (-b) or use unsafe mode (-u)");
	if (j.work.cache && !cli_cache_mode(j.work.cache, &j.work.open.cache)) { /* (named before the other) */
		cli_error("Invalid cache option: %s", j.work.cache);
		return 1;
	}
	if (backing_mode && !cli_cache_mode(backing_mode, &j.o.backing_cache)) {
		cli_error("Invalid source cache option: %s", backing_mode);
		return 1;
	}
	if (a->force_share) /* that of the new backing file: the image itself is written */
		j.o.flags |= PLT_REBASE_FORCE_SHARE;
	a->force_share = false;
	j.work.name = a->argv[optind];
	return cli_work(a, &j.work);
}
