/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * dd: copies a part of an image into a new one.  The operands are dd(1)'s; the copy is convert's, so
 * that zeros become holes and the target appears only when it is complete.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the input", CLI_FORMAT },
	{ 'O', "target-format", "output_fmt", "format of the output (raw)", CLI_FORMAT },
	{ 0 },
};

const struct cli_command cli_dd = {
	.name = "dd",
	.operands = "[bs=block_size] [count=blocks] [skip=blocks] if=input of=output",
	.operand_kind = CLI_FILE,
	.summary = "copy a part of an image",
	.text = (const char *const[]){
		"Copies \\fIcount\\fR blocks of \\fIblock_size\\fR bytes (512), or all, into a new "
		"image; the part begins behind the first \\fIskip\\fR of them. As in qemu-img, and not "
		"as in dd(1), the blocks that are skipped count among \\fIcount\\fR. An output that "
		"exists is replaced. Where the input is zero the output has holes.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter dd -O qcow2 bs=1M count=100 if=disk.raw of=start.qcow2", "the first 100 MiB",
		"platter dd -f qcow2 bs=64k skip=16 if=disk.qcow2 of=rest.raw", "all but the first MiB",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_policy_opts, NULL,
	},
	.run = run,
	.makes_result = true,
	.reads_all = true,
};

struct job {
	const char *in, *out;
	uint64_t bs, count, skip;
	bool counted, skipped;
};

static bool take(struct job *j, const char *operand)
{
	static const char *const names[] = { "bs", "count", "if", "of", "skip", NULL };
	const char *value = strchr(operand, '=');
	size_t len = value ? (size_t)(value - operand) : 0;
	int i;

	for (i = 0; value && names[i] && (strlen(names[i]) != len || strncmp(names[i], operand, len)); i++)
		;
	if (!value || !names[i]) {
		cli_error("unrecognized operand %.*s", value ? (int)len : (int)strlen(operand), operand);
		return false;
	}
	value++;
	switch (i) {
	case 0:
		return cli_size_between("bs", value, 1, INT_MAX, &j->bs);
	case 1:
		j->counted = true;
		return cli_size("count", value, &j->count);
	case 2:
		j->in = value;
		return true;
	case 3:
		j->out = value;
		return true;
	default:
		j->skipped = true;
		return cli_size("skip", value, &j->skip);
	}
}

/* The part, as far as the input has it. */
static void choose_part(const struct job *j, uint64_t size, struct plt_convert_options *o)
{
	o->flags |= PLT_CONVERT_WINDOW;
	if (j->counted && j->count <= INT64_MAX / j->bs && j->count * j->bs < size)
		size = j->count * j->bs;
	if (j->skip > INT64_MAX / j->bs || j->skip * j->bs > size) {
		cli_error("%s: cannot skip to specified offset", j->in);
		return; /* an empty image, as dd(1) makes an empty file */
	}
	o->window_offset = j->skip * j->bs;
	o->window_length = size - o->window_offset;
}

/* convert's words for what failed before the copy, in those of dd. */
static void print_error(const struct job *j, const char *format, const char *text)
{
	size_t n = strlen(j->out);
	char middle[64];

	snprintf(middle, sizeof(middle), ": error while converting %s: ", format);
	if (!strncmp(text, j->out, n) && !strncmp(text + n, middle, strlen(middle)))
		cli_error("%s: error while creating output image: %s", j->out, text + n + strlen(middle));
	else
		cli_error("%s", text);
}

static int copy(struct cli_args *a, const struct job *j, struct plt_open_options *src,
		struct plt_convert_options *dst)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct cli_progress progress;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	int r;

	if (cli_context(a, &ctx) < 0)
		return 1;
	src->flags |= PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, j->in, src, &disk);
	if (r == 0 && !cli_format_exists(dst->format)) {
		cli_error("Unknown file format");
		r = -EINVAL;
		cli_close(a, disk);
	} else if (r == 0) {
		cli_progress_begin(&progress, a, 1);
		dst->progress = cli_progress_tick;
		dst->progress_arg = &progress;
		choose_part(j, plt_disk_size(disk), dst);
		r = plt_convert(ctx, &disk, 1, j->out, dst, &err);
		cli_progress_end(&progress);
		if (r < 0 && r != -ECANCELED)
			print_error(j, dst->format, err.text);
		cli_close(a, disk);
	}
	plt_ctx_free(ctx);
	if (r < 0)
		cli_die_if_cancelled();
	return r < 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options src = PLT_OPEN_OPTIONS_INIT;
	struct plt_convert_options dst = PLT_CONVERT_OPTIONS_INIT;
	struct job j = { .bs = 512 };
	int c;

	dst.format = "raw";
	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			src.format = a->arg;
			break;
		case 'O':
			dst.format = a->arg;
			break;
		}
	}
	for (int i = optind; i < a->argc; i++)
		if (!take(&j, a->argv[i]))
			return 1;
	if (!j.in || !j.out) {
		cli_error("Must specify both input and output files");
		return 1;
	}
	return copy(a, &j, &src, &dst);
}
