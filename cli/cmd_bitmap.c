/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * bitmap: persistent dirty bitmaps added, removed, cleared, switched on and off, merged; words and order of checks are
 * qemu-img's.  All actions of one call are one step: they are done, or nothing is.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ OPT_ADD, "add", NULL, "add one of that name, empty and recording", CLI_ANY },
	{ OPT_REMOVE, "remove", NULL, "remove it", CLI_ANY },
	{ OPT_CLEAR, "clear", NULL, "forget what it has recorded", CLI_ANY },
	{ OPT_ENABLE, "enable", NULL, "record from now on what is written", CLI_ANY },
	{ OPT_DISABLE, "disable", NULL, "record no more", CLI_ANY },
	{ OPT_MERGE, "merge", "source", "add to it what the bitmap source has recorded", CLI_ANY },
	{ 'b', "source-file", "file", "the image that has the bitmaps to be merged", CLI_FILE },
	{ 'F', "source-format", "fmt", "format of that image", CLI_FORMAT },
	{ 'g', "granularity", "size", "with --add: bytes that one bit stands for, a power of two from 512 on", CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 0 },
};

const struct cli_command cli_bitmap = {
	.name = "bitmap",
	.operands = "filename bitmap",
	.operand_kind = CLI_FILE,
	.summary = "change the persistent dirty bitmaps of an image",
	.text = (const char *const[]){
		"A dirty bitmap records what is written, for incremental backups; it is kept in the image (qcow2).",
		"The actions are done in the order in which they are given, and all of them or none: a failure or a power "
		"cut leaves the bitmaps as they were, or as asked for.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter bitmap --add -g 64k disk.qcow2 monday", "record what is written from now on",
		"platter bitmap --merge monday --disable disk.qcow2 week", "add what monday has to week, and stop week",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	struct plt_bitmap_action *v;
	unsigned n;
	bool add, merge;
	uint64_t granularity;
	const char *file, *name, *source, *source_format;
	struct plt_open_options open;
};

static bool push(struct job *j, enum plt_bitmap_verb verb, const char *source)
{
	struct plt_bitmap_action *v = realloc(j->v, (j->n + 1) * sizeof(*v));

	if (!v) {
		cli_error("out of memory");
		return false;
	}
	j->v = v;
	v[j->n++] = (struct plt_bitmap_action){ .verb = verb, .source_name = source };
	return true;
}

static bool take(struct job *j, int c, const char *arg)
{
	switch (c) {
	case 'b':
		j->source = arg;
		return true;
	case 'F':
		j->source_format = arg;
		return true;
	case 'f':
		j->open.format = arg;
		return true;
	case 'g':
		return cli_size("granularity", arg, &j->granularity);
	case OPT_ADD:
		j->add = true;
		return push(j, PLT_BITMAP_ADD, NULL);
	case OPT_MERGE:
		j->merge = true;
		return push(j, PLT_BITMAP_MERGE, arg);
	case OPT_REMOVE:
		return push(j, PLT_BITMAP_REMOVE, NULL);
	case OPT_CLEAR:
		return push(j, PLT_BITMAP_CLEAR, NULL);
	case OPT_ENABLE:
		return push(j, PLT_BITMAP_ENABLE, NULL);
	case OPT_DISABLE:
		return push(j, PLT_BITMAP_DISABLE, NULL);
	}
	return false;
}

static int change(struct job *j, struct plt_disk *disk, struct plt_disk *source)
{
	static const char *const verbs[] = { "add", "remove", "clear", "enable", "disable", "merge" };
	struct plt_error err = PLT_ERROR_INIT;
	unsigned failed = 0;
	int r;

	for (unsigned i = 0; i < j->n; i++) {
		j->v[i].name = j->name;
		j->v[i].source = j->v[i].verb == PLT_BITMAP_MERGE ? source : NULL;
		/* what is too large is no granularity either, and gets qemu-img's word for that */
		j->v[i].granularity = j->granularity > UINT32_MAX ? 1 : (uint32_t)j->granularity;
	}
	r = plt_bitmap_change(disk, j->v, j->n, &failed, &err);
	if (r < 0)
		cli_error("Operation %s on bitmap %s failed: %s",
			  verbs[j->v[failed < j->n ? failed : j->n - 1].verb], j->name, err.text);
	return r;
}

static int work(struct cli_args *a, struct job *j)
{
	struct plt_open_options from = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk, *source = NULL;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;
	int r, closed;

	if (cli_context(a, &ctx) < 0)
		return 1;
	j->open.flags |= PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, j->file, &j->open, &disk);
	if (r < 0) {
		plt_ctx_free(ctx);
		return 1;
	}
	if (j->source) {
		from.format = j->source_format;
		from.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_SHARE_RAW;
		r = plt_disk_open(ctx, j->source, &from, &source, &err);
		if (r < 0)
			cli_error("%s", err.text);
	}
	if (r == 0)
		r = change(j, disk, source);
	plt_disk_close(source, NULL);
	err = (struct plt_error)PLT_ERROR_INIT;
	closed = plt_disk_close(disk, r < 0 ? NULL : &err);
	if (r == 0 && closed < 0)
		cli_error("%s", err.text);
	plt_ctx_free(ctx);
	return r < 0 || closed < 0;
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT };
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP || !take(&j, c, a->arg)) {
			free(j.v);
			return c == CLI_STOP ? a->status : 1;
		}
	}
	if (optind != a->argc - 2) {
		cli_error("Expecting filename and bitmap name");
	} else if (!j.n) {
		cli_error("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
	} else if (j.granularity && !j.add) {
		cli_error("granularity only supported with --add");
	} else if (j.source_format && !j.source) {
		cli_error("-F only supported with -b");
	} else if (j.source && !j.merge) {
		cli_error("Merge bitmap source file only supported with --merge");
	} else {
		j.file = a->argv[optind];
		j.name = a->argv[optind + 1];
		status = work(a, &j);
	}
	free(j.v);
	return status;
}
