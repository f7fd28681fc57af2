/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * amend: changes options of an image where it is.  Which options there are, and how they are changed
 * safely, is the library's affair; order of checks and wording are qemu-img's.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 't', "cache", "cache", "how to open the image: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 'o', "options", "options", "what is to change: name=value,... (-o help lists it)", CLI_ANY },
	{ OPT_FORCE, "force", NULL, "do what may cost data: a smaller size, the last key slot erased", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_amend = {
	.name = "amend",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "change options of an image where it is",
	.text = (const char *const[]){
		"What cannot be is refused before anything is changed. Going back to compat=0.10 turns "
		"clusters that read as zeros into absent ones, or where there is a backing file into "
		"data, which takes space.",
		"Key slots of an image that is encrypted with LUKS: with state=active a passphrase is added, "
		"with state=inactive those are erased that keyslot or old-secret names. The options begin with "
		"encrypt. for qcow2. The last slot is kept, unless --force is given.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter amend -o lazy_refcounts=on disk.qcow2", "one option",
		"platter amend -p -o compat=0.10 disk.qcow2", "for an old program",
		"platter amend --object secret,id=a,file=old --object secret,id=b,file=new --image-opts "
		"driver=luks,file.filename=disk.luks,key-secret=a -o state=active,new-secret=b", "one more passphrase",
		"platter amend -f qcow2 -o help", "what can be changed",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_progress_opts, cli_quiet_opts,
		cli_policy_opts, NULL,
	},
	.run = run,
};

static int print_help(const char *format)
{
	struct plt_error err = PLT_ERROR_INIT;
	char *text = NULL;

	if (plt_amend_help(format, &text, &err) < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	printf("Amend options for '%s':\n%s", format, text);
	free(text);
	return 0;
}

static int amend(struct cli_args *a, struct plt_open_options *o, const struct cli_list *texts, unsigned flags,
		 struct cli_progress *progress)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	int r, closed;

	if (cli_context(a, &ctx) < 0)
		return 1;
	o->flags |= PLT_OPEN_WRITE | PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, a->argv[optind], o, &disk);
	if (r == 0 && cli_list_wants_help(texts)) {
		r = print_help(plt_disk_format(disk)) ? -EINVAL : 0;
		(void)plt_disk_close(disk, NULL); /* nothing has been written */
	} else if (r == 0) {
		r = plt_amend(disk, texts->v, flags, cli_progress_tick, progress, &err);
		closed = plt_disk_close(disk, r < 0 ? NULL : &err);
		if (r == 0)
			r = closed;
		/* (as there: once the work has begun its end is shown, however it was) */
		if (r == 0)
			cli_progress_done(progress);
		if (r < 0 && r != -ECANCELED)
			cli_error("%s", err.text);
	}
	plt_ctx_free(ctx);
	return r < 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct cli_list texts = { 0 };
	struct cli_progress progress;
	const char *cache = NULL;
	unsigned flags = 0;
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			status = a->status;
			goto out;
		case 'f':
			o.format = a->arg;
			break;
		case 't':
			cache = a->arg;
			break;
		case 'o':
			if (!cli_list_add(&texts, a->arg))
				goto out;
			break;
		case OPT_FORCE:
			flags |= PLT_AMEND_FORCE;
			break;
		}
	}
	if (!texts.n) {
		status = cli_usage_error("Must specify options (-o)");
		goto out;
	}
	if (o.format && cli_list_wants_help(&texts)) {
		status = print_help(o.format);
		goto out;
	}
	if (optind != a->argc - 1) {
		cli_error("Expecting one image file name");
		goto out;
	}
	if (cache && !cli_cache_mode(cache, &o.cache)) {
		cli_error("Invalid cache option: %s", cache);
		goto out;
	}
	cli_progress_begin(&progress, a, 1);
	status = amend(a, &o, &texts, flags, &progress);
	cli_progress_end(&progress);
	if (status)
		cli_die_if_cancelled();
out:
	cli_list_release(&texts);
	return status;
}
