/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * resize: gives a disk another size.  What that may cost is asked for here, in qemu-img's words and
 * order; how it is done safely is the library's.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"
#include "cli/cli.h"

static int run(struct cli_args *a);

static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ OPT_SHRINK, "shrink", NULL, "a smaller size is meant: what lies behind it is lost", CLI_ANY },
	{ OPT_PREALLOCATION, "preallocation", "mode",
	  "how what is new is allocated: off, metadata, falloc or full", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_resize = {
	.name = "resize",
	.operands = "filename [+|-]size",
	.operand_kind = CLI_FILE,
	.summary = "give a disk another size",
	.text = (const char *const[]){
		"With + or - the size is a difference. Partitions and file systems of the guest are "
		"not touched: before a disk is made smaller they must be. The size is the last "
		"argument.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter resize disk.qcow2 +10G", "larger",
		"platter resize --shrink -f raw disk.raw 8G", "smaller",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	const char *name, *preallocation;
	struct plt_open_options open;
	int sign;      /* of a difference; 0: the size itself */
	uint64_t size;
	bool shrink;
};

static bool parse_size(struct job *j, const char *text)
{
	int r;

	j->sign = *text == '+' ? 1 : *text == '-' ? -1 : 0;
	if (j->sign)
		text++;
	r = plt_number_size(text, &j->size);
	if (r == -ERANGE)
		cli_error("Value '%s' is out of range for parameter 'size'", text);
	else if (r < 0)
		cli_error("Parameter 'size' expects a non-negative number below 2^64\n"
			  "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
			  "and exabytes, respectively.");
	return r == 0;
}

/* 0: not a positive number that fits. */
static uint64_t new_size(const struct job *j, uint64_t now)
{
	uint64_t size = j->size;

	if (size > INT64_MAX)
		return 0;
	if (j->sign < 0)
		return size < now ? now - size : 0;
	if (j->sign > 0)
		size += now;
	return size <= INT64_MAX ? size : 0;
}

static int check(const struct job *j, struct plt_disk *disk, uint64_t size)
{
	uint64_t now = plt_disk_size(disk);

	if (!size) {
		cli_error("New image size must be positive");
	} else if (size <= now && strcmp(j->preallocation, "off")) {
		cli_error("Preallocation can only be used for growing images");
	} else if (size < now && !j->shrink) {
		cli_error("Use the --shrink option to perform a shrink operation.");
		cli_warn("Shrinking an image will delete all data beyond the shrunken image's end. "
			 "Before performing such an operation, make sure there is no important data there.");
	} else if (size % 512 && plt_disk_cluster_size(disk)) {
		cli_error("The new size must be a multiple of 512");
	} else {
		return 0;
	}
	return -EINVAL;
}

static int resize(struct cli_args *a, struct job *j)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	uint64_t size;
	int r, closed;

	if (cli_context(a, &ctx) < 0)
		return 1;
	j->open.flags |= PLT_OPEN_WRITE | PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, j->name, &j->open, &disk);
	if (r == 0) {
		size = new_size(j, plt_disk_size(disk));
		r = check(j, disk, size);
		if (r == 0) {
			r = plt_resize(disk, size, j->shrink ? PLT_RESIZE_SHRINK : 0, j->preallocation, &err);
			if (r < 0)
				cli_error("%s", err.text);
		}
		closed = plt_disk_close(disk, &err);
		if (r == 0 && closed < 0) {
			cli_error("%s", err.text);
			r = closed;
		}
		if (r == 0 && !a->quiet)
			puts("Image resized.");
	}
	plt_ctx_free(ctx);
	return r < 0;
}

static bool take(struct job *j, int c, const char *arg)
{
	switch (c) {
	case 'f':
		j->open.format = arg;
		return true;
	case OPT_SHRINK:
		j->shrink = true;
		return true;
	case OPT_PREALLOCATION:
		for (size_t i = 0; modes[i]; i++)
			if (!strcmp(modes[i], arg)) {
				j->preallocation = arg;
				return true;
			}
		cli_error("Invalid preallocation mode '%s'", arg);
		return false;
	}
	return false;
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT, .preallocation = "off" };
	const char *size = a->argv[a->argc - 1];
	bool help = !strcmp(size, "--help") || !strcmp(size, "-h");
	int c;

	if (a->argc < 3 && !help)
		return cli_usage_error("Not enough arguments");
	/* The size is taken off first: "-1G" is no option. */
	if (!help)
		a->argc--;
	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP)
			return a->status;
		if (!take(&j, c, a->arg))
			return 1;
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting image file name and size");
	j.name = a->argv[optind];
	if (!parse_size(&j, size))
		return 1;
	return resize(a, &j);
}
