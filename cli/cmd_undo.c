/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* undo: gives an image the bytes back that a repair has changed. */
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

const struct cli_command cli_undo = {
	.name = "undo",
	.operands = "journal [filename]",
	.operand_kind = CLI_FILE,
	.summary = "take a repair back",
	.text = (const char *const[]){
		"The image gets back the bytes that the repair has changed, exactly, and the journal is removed. Before "
		"that it is proven that the image still is what the repair left; if it was changed since, nothing is "
		"written. The image is looked for beside the journal, then where it was; \\fIfilename\\fR says where "
		"else.",
		"Exit status: 0 the image is as it was; 1 nothing was undone, or not all of it.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter undo disk.qcow2.platter-undo", "the last repair of disk.qcow2",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){ cli_quiet_opts, NULL },
	.run = run,
};

static int run(struct cli_args *a)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;
	int c, r;

	while ((c = cli_next(a)) != CLI_END)
		if (c == CLI_STOP)
			return a->status;
	if (a->argc - optind < 1 || a->argc - optind > 2)
		return cli_usage_error("Expecting an undo journal");
	if (cli_context(a, &ctx) < 0)
		return 1;
	r = plt_undo(ctx, a->argv[optind], a->argc - optind == 2 ? a->argv[optind + 1] : NULL, &err);
	if (r < 0)
		cli_error("%s", err.text);
	else if (!a->quiet)
		puts("The image is as it was before the repair.");
	plt_ctx_free(ctx);
	return r < 0;
}
