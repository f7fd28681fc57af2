/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * convert: copies what the guest sees of one or more images into a new one.  Here the command line
 * is read and the sources are opened; the copy, and all that touches the target, is the library's.
 * Checks are made in qemu-img's order, so that the first error is the same.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define SPARSE_MAX (16 << 20)
#define COROUTINES_MAX 16

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "source-format", "fmt", "format of the sources", CLI_FORMAT },
	{ 'T', "source-cache", "src_cache", "how to read the sources: " CLI_CACHE_WORDS " (writeback)",
	  CLI_CACHE },
	{ 'l', "snapshot", "snapshot_param",
	  "copy this internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME",
	  CLI_ANY },
	{ 'O', "target-format", "output_fmt", "format of the target (raw)", CLI_FORMAT },
	{ 'o', "target-format-options", "options",
	  "what the target's format can do: name=value,... (-o help lists it)", CLI_ANY },
	{ 't', "target-cache", "cache",
	  "how to write the target: " CLI_CACHE_WORDS
	  " (writeback; with unsafe the copy is not forced to the disk)", CLI_CACHE },
	{ OPT_TARGET_IMAGE_OPTS, "target-image-opts", NULL,
	  "the target is a list of options; it must exist (-n)", CLI_ANY },
	{ 'b', "backing", "backing_file", "backing file of the target, holding what is alike",
	  CLI_FILE },
	{ 'B', NULL, "backing_file", "the same as -b", CLI_FILE },
	{ 'F', "backing-format", "backing_fmt", "format of the backing file", CLI_FORMAT },
	{ 'n', "no-create", NULL, "the target exists: write into it", CLI_ANY },
	{ OPT_TARGET_IS_ZERO, "target-is-zero", NULL, "the target reads as zeros now (with -n)",
	  CLI_ANY },
	{ 'c', "compress", NULL, "compress the target", CLI_ANY },
	{ OPT_LEVEL, "compress-level", "level", "with -c: fast, best, or 1 to 9", CLI_ANY },
	{ 'S', "sparse-size", "sparse_size",
	  "zeros of this length become holes (4k); 0: everything is allocated", CLI_ANY },
	{ 'm', "parallel", "num_coroutines", "how many requests are under way at once, 1 to 16 (8)",
	  CLI_ANY },
	{ 'W', "oob-writes", NULL, "write the target in any order", CLI_ANY },
	{ 'C', "copy-range-offloading", NULL, "a hint: what the kernel could copy may be left to it",
	  CLI_ANY },
	{ 'r', "rate-limit", "rate_limit", "copy at most this many bytes a second", CLI_ANY },
	{ OPT_BITMAPS, "bitmaps", NULL, "copy persistent dirty bitmaps too", CLI_ANY },
	{ OPT_SKIP_BROKEN, "skip-broken-bitmaps", NULL, "leave out bitmaps that are marked in use",
	  CLI_ANY },
	{ OPT_SALVAGE, "salvage", NULL, "write zeros for what cannot be read, and go on", CLI_ANY },
	{ OPT_VERIFY, "verify", NULL, "read the target back and compare digests", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_convert = {
	.name = "convert",
	.operands = "filename [filename2 [...]] output_filename",
	.operand_kind = CLI_FILE,
	.summary = "copy an image into another format",
	.text = (const char *const[]){
		"Copies what the guest sees of the sources, one after the other, into the target. "
		"Nothing appears under the target's name before it is complete: it is written "
		"beside it, and renamed. Where that cannot be it is written in place, and a run "
		"that fails leaves no image there: into what exists with \\fB-n\\fR, into a device, "
		"a file with several names (hard links), a mount point, or a file of another user or "
		"in a folder that may not be written; where the disk has no room for the old and the "
		"new file; and where the options name a data file. A file that something else "
		"writes to is not replaced.",
		"With \\fB--salvage\\fR each range that cannot be read is named on stderr.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter convert -p -O qcow2 disk.raw disk.qcow2", "another format, with progress",
		"platter convert -c -O qcow2 --compress-level best disk.raw small.qcow2",
		"compressed",
		"platter convert -n -O raw disk.qcow2 /dev/vg/volume", "into a device that exists",
		"platter convert --untrusted -f qcow2 -O raw upload.qcow2 disk.raw",
		"an image that a stranger has sent",
		"platter convert --salvage -O raw damaged.qcow2 rest.raw", "what can still be read",
		"platter convert -O qcow2 -B base.qcow2 -F qcow2 full.qcow2 top.qcow2",
		"only what differs from base.qcow2",
		"platter convert -l backup disk.qcow2 then.raw", "an internal snapshot",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_progress_opts, cli_quiet_opts,
		cli_policy_opts, NULL,
	},
	.run = run,
	.makes_result = true,
	.reads_all = true,
};

struct job {
	struct plt_open_options src;
	struct plt_convert_options dst;
	struct cli_list texts;
	struct cli_snapshot snapshot;
	const char *src_cache, *dst_cache;
	bool sparse_given, level_given;
	struct plt_disk **disks;
	unsigned ndisks;
};

static bool parse_sparse(struct job *j, const char *text)
{
	uint64_t v;

	if (!cli_size("buffer size for sparse output", text, &v))
		return false;
	if (v % 512 || v > SPARSE_MAX) {
		cli_error(
			"Invalid buffer size for sparse output specified. Valid sizes are "
			"multiples of %d up to %d. Select 0 to disable sparse detection (fully "
			"allocates output).",
			512, SPARSE_MAX);
		return false;
	}
	j->dst.sparse_size = v;
	j->sparse_given = true;
	return true;
}

static bool parse_coroutines(struct job *j, const char *text)
{
	char *end;
	long v = strtol(text, &end, 0);

	if (end == text || *end || v < 1 || v > COROUTINES_MAX) {
		cli_error(
			"Invalid number of coroutines. Allowed number of coroutines is between 1 "
			"and %d",
			COROUTINES_MAX);
		return false;
	}
	j->dst.coroutines = (unsigned)v;
	return true;
}

static bool parse_level(struct job *j, const char *text)
{
	j->level_given = true;
	if (!strcmp(text, "fast")) {
		j->dst.level = 0;
	} else if (!strcmp(text, "best")) {
		j->dst.level = -1;
	} else if (text[0] >= '1' && text[0] <= '9' && !text[1]) {
		j->dst.level = text[0] - '0';
	} else {
		cli_error(
			"Invalid compression level specified: %s (expecting fast, best, or 1 to 9)",
			text);
		return false;
	}
	return true;
}

static bool take(struct job *j, int c, const char *arg)
{
	struct plt_convert_options *d = &j->dst;

	switch (c) {
	case 'f':
		j->src.format = arg;
		return true;
	case 'T':
		j->src_cache = arg;
		return true;
	case 'l':
		return cli_snapshot_parse(&j->snapshot, arg, &j->src);
	case 'O':
		d->format = arg;
		return true;
	case 'o':
		return cli_list_add(&j->texts, arg);
	case 't':
		j->dst_cache = arg;
		return true;
	case 'b':
	case 'B':
		d->backing = arg;
		return true;
	case 'F':
		d->backing_format = arg;
		return true;
	case 'S':
		return parse_sparse(j, arg);
	case 'm':
		return parse_coroutines(j, arg);
	case 'r':
		return cli_size("rate limit", arg, &d->rate_limit);
	case OPT_LEVEL:
		return parse_level(j, arg);
	case 'n':
		d->flags |= PLT_CONVERT_NO_CREATE;
		return true;
	case 'c':
		d->flags |= PLT_CONVERT_COMPRESS;
		return true;
	case 'W':
		d->flags |= PLT_CONVERT_OUT_OF_ORDER;
		return true;
	case 'C':
		d->flags |= PLT_CONVERT_COPY_RANGE;
		return true;
	case OPT_TARGET_IMAGE_OPTS:
		d->flags |= PLT_CONVERT_TARGET_OPTS;
		return true;
	case OPT_TARGET_IS_ZERO:
		d->flags |= PLT_CONVERT_TARGET_ZERO;
		return true;
	case OPT_BITMAPS:
		d->flags |= PLT_CONVERT_BITMAPS;
		return true;
	case OPT_SKIP_BROKEN:
		d->flags |= PLT_CONVERT_SKIP_BROKEN;
		return true;
	case OPT_SALVAGE:
		d->flags |= PLT_CONVERT_SALVAGE;
		return true;
	case OPT_VERIFY:
		d->flags |= PLT_CONVERT_VERIFY;
		return true;
	}
	return false;
}

/* What excludes or needs what, in qemu-img's order.  NULL: nothing wrong. */
static const char *conflict(const struct job *j)
{
	unsigned f = j->dst.flags;

	if ((f & PLT_CONVERT_SKIP_BROKEN) && !(f & PLT_CONVERT_BITMAPS))
		return "Use of --skip-broken-bitmaps requires --bitmaps";
	if ((f & PLT_CONVERT_COMPRESS) && (f & PLT_CONVERT_COPY_RANGE))
		return "Cannot enable copy offloading when -c is used";
	if (j->sparse_given && (f & PLT_CONVERT_COPY_RANGE))
		return "Cannot enable copy offloading when -S is used";
	if ((f & PLT_CONVERT_SALVAGE) && (f & PLT_CONVERT_COPY_RANGE))
		return "Cannot use copy offloading in salvaging mode";
	if ((f & PLT_CONVERT_TARGET_OPTS) && !(f & PLT_CONVERT_NO_CREATE))
		return "--target-image-opts requires use of -n flag";
	if ((f & PLT_CONVERT_NO_CREATE) && j->texts.n)
		return "-o has no effect when skipping image creation";
	if ((f & PLT_CONVERT_TARGET_ZERO) && !(f & PLT_CONVERT_NO_CREATE))
		return "--target-is-zero requires use of -n flag";
	if (j->level_given && !(f & PLT_CONVERT_COMPRESS))
		return "--compress-level requires use of -c flag";
	return NULL;
}

static int open_sources(struct cli_args *a, struct plt_ctx *ctx, struct job *j, char **names,
			unsigned n)
{
	j->disks = calloc(n, sizeof(*j->disks));
	if (!j->disks) {
		cli_error("out of memory");
		return -1;
	}
	for (unsigned i = 0; i < n; i++) {
		struct plt_open_options o = j->src;

		if (cli_open(a, ctx, names[i], &o, &j->disks[i]) < 0)
			return -1;
		j->ndisks++;
		if (n > 1 && (o.snapshot || o.snapshot_id || o.snapshot_name)) {
			cli_error("No support for concatenating multiple snapshot");
			return -1;
		}
	}
	return 0;
}

static void salvaged(void *arg, uint64_t off, uint64_t len, const char *why)
{
	(void)arg;
	cli_warn("error while reading offset %" PRIu64 ": %s (%" PRIu64
		 " bytes are zeros in the copy)",
		 off, why, len);
}

static int convert(struct cli_args *a, struct job *j, char **names, unsigned n, const char *target)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct cli_progress progress;
	struct plt_ctx *ctx;
	int r;

	if (cli_context(a, &ctx) < 0)
		return -1;
	cli_progress_begin(&progress, a, 1);
	r = open_sources(a, ctx, j, names, n);
	if (r == 0) {
		j->dst.progress = cli_progress_tick;
		j->dst.progress_arg = &progress;
		j->dst.salvaged = a->quiet ? NULL : salvaged;
		j->dst.options = j->texts.v;
		r = plt_convert(ctx, j->disks, j->ndisks, target, &j->dst, &err);
		/* Cancelled by a signal: that says itself what happened. */
		if (r < 0 && r != -ECANCELED && !progress.shown)
			cli_error("%s", err.text);
	}
	/* qemu-img says it twice: what there was to copy is copied, all is closed. */
	if (r == 0 && progress.any)
		cli_progress_done(&progress);
	if (r == 0)
		cli_progress_done(&progress);
	cli_progress_end(&progress);
	if (r < 0 && r != -ECANCELED && progress.shown)
		cli_error("%s", err.text);
	for (unsigned i = 0; i < j->ndisks; i++)
		cli_close(a, j->disks[i]);
	plt_ctx_free(ctx);
	if (r < 0)
		cli_die_if_cancelled();
	return r;
}

static int run(struct cli_args *a)
{
	struct job j = { .src = PLT_OPEN_OPTIONS_INIT, .dst = PLT_CONVERT_OPTIONS_INIT };
	const char *why, *format;
	int c, status = 1, n;

	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP) {
			status = a->status;
			goto out;
		}
		if (!take(&j, c, a->arg))
			goto out;
	}
	why = conflict(&j);
	if (why) {
		cli_error("%s", why);
		goto out;
	}
	n = a->argc - optind - 1;
	format = j.dst.format ? j.dst.format : "raw";
	if (cli_list_wants_help(&j.texts)) {
		status = cli_format_help(format, n >= 1);
		goto out;
	}
	if (n < 1) {
		cli_error("Must specify image file name");
		goto out;
	}
	if (j.src_cache && !cli_cache_mode(j.src_cache, &j.src.cache)) {
		cli_error("Invalid source cache option: %s", j.src_cache);
		goto out;
	}
	if (j.dst_cache && !cli_cache_mode(j.dst_cache, &j.dst.cache)) {
		cli_error("Invalid cache option: %s", j.dst_cache);
		goto out;
	}
	if ((j.dst.flags & PLT_CONVERT_TARGET_OPTS) && j.dst.format) {
		cli_error("--image-opts and --format are mutually exclusive");
		goto out;
	}
	status = convert(a, &j, a->argv + optind, (unsigned)n, a->argv[a->argc - 1]) < 0;
out:
	cli_list_release(&j.texts);
	free(j.snapshot.copy);
	free(j.disks);
	return status;
}
