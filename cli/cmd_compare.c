/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * compare: do two images hold the same?  Exit status: 0 the same, 1 different, 2 an image could not
 * be opened, 3 where data lies could not be found out, 4 data could not be read.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { SAME, DIFFERENT, NOT_OPENED, NO_STATUS, NOT_READ };

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "a-format", "fmt", "format of the first image", CLI_FORMAT },
	{ 'F', "b-format", "fmt", "format of the second image", CLI_FORMAT },
	{ 'T', "cache", "src_cache", "how to read the images: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 's', "strict", NULL, "sizes, and what is allocated, must be equal too", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_compare = {
	.name = "compare",
	.operands = "filename1 filename2",
	.operand_kind = CLI_FILE,
	.summary = "say whether two images hold the same",
	.text = (const char *const[]){
		"Compares what the guest sees. An image that is longer is the same if it has only "
		"zeros beyond the end of the other.",
		"Exit status: 0 the same; 1 different; 2 an image could not be opened, or, with --rescue, they are the same in what is "
		"shown, and not all of that is sure; 3 where data lies could not be found out; 4 data could not be read.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter compare old.raw new.qcow2", "whatever their formats are",
		"platter compare -s a.qcow2 b.qcow2", "what is allocated must be the same too",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_progress_opts, cli_quiet_opts,
		cli_policy_opts, NULL,
	},
	.run = run,
	.reads_all = true,
};

/* One argument for both callbacks; cli_progress_tick() wants its own first. */
struct callbacks {
	struct cli_progress progress;
	bool quiet;
};

/* What the library warns of is part of the result, and goes where the result goes. */
static void warn(void *arg, const char *text)
{
	const struct callbacks *cb = arg;

	if (!cb->quiet)
		printf("Warning: %s\n", text);
}

/* The line that says what is different. */
static void print_difference(const struct plt_compare_result *res, bool strict)
{
	if (strict && res->size_differs)
		puts("Strict mode: Image size mismatch!");
	else if (res->which && !strcmp(res->which, "status"))
		printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
		       res->first_difference);
	else
		printf("Content mismatch at offset %" PRIu64 "!\n", res->first_difference);
}

static int compare(struct cli_args *a, struct plt_disk *const disk[2], bool strict)
{
	struct plt_compare_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	struct callbacks cb = { .quiet = a->quiet };
	int r;

	cli_progress_begin(&cb.progress, a, 2);
	r = plt_compare(disk[0], disk[1], strict, cli_progress_tick, &cb, warn, &res, &err);
	if (r == 0 && res.same)
		cli_progress_done(&cb.progress);
	if (r == 0 && !a->quiet) {
		if (res.same)
			puts("Images are identical.");
		else
			print_difference(&res, strict);
	}
	cli_progress_end(&cb.progress);
	if (r < 0) {
		cli_die_if_cancelled();
		cli_error("%s", err.text);
		return res.which && !strcmp(res.which, "status") ? NO_STATUS : NOT_READ;
	}
	return res.same ? SAME : DIFFERENT;
}

static int run(struct cli_args *a)
{
	struct plt_open_options o[2] = { { .size = sizeof(o[0]), .flags = PLT_OPEN_SHARE_RAW },
					 { .size = sizeof(o[1]), .flags = PLT_OPEN_SHARE_RAW } };
	struct plt_disk *disk[2] = { NULL, NULL };
	const char *cache = NULL;
	bool strict = false;
	struct plt_ctx *ctx;
	int c, status = SAME;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			o[0].format = a->arg;
			break;
		case 'F':
			o[1].format = a->arg;
			break;
		case 'T':
			cache = a->arg;
			break;
		case 's':
			strict = true;
			break;
		}
	}
	if (optind != a->argc - 2)
		return cli_usage_error("Expecting two image file names");
	if (cache && (!cli_cache_mode(cache, &o[0].cache) || !cli_cache_mode(cache, &o[1].cache))) {
		cli_error("Invalid source cache option: %s", cache);
		return NOT_OPENED;
	}
	if (cli_context(a, &ctx) < 0)
		return NOT_OPENED;
	for (int i = 0; i < 2 && status == SAME; i++)
		if (cli_open(a, ctx, a->argv[optind + i], &o[i], &disk[i]) < 0)
			status = NOT_OPENED;
	if (status == SAME)
		status = compare(a, disk, strict);
	cli_close(a, disk[1]);
	cli_close(a, disk[0]);
	plt_ctx_free(ctx);
	return status;
}
