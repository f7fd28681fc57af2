/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * bench: how long do requests of one kind take?  The requests are the library's; here is the command
 * line, in qemu-img's words.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 't', "cache", "cache", "how to open the image: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 'i', "aio", "aio", "how requests are sent: threads, native or io_uring (the best there is)",
	  CLI_ANY },
	{ 'n', "native", NULL, "the same as -i native", CLI_ANY },
	{ 'c', "count", "count", "how many requests (75000)", CLI_ANY },
	{ 'd', "depth", "depth", "how many are under way at once (64)", CLI_ANY },
	{ 's', "buffer-size", "buffer_size", "length of a request (4k)", CLI_ANY },
	{ 'S', "step-size", "step_size", "from the start of one to that of the next (the length)",
	  CLI_ANY },
	{ 'o', "offset", "offset", "where the first one starts (0)", CLI_ANY },
	{ 'w', "write", NULL, "write; what the image holds there is lost", CLI_ANY },
	{ OPT_PATTERN, "pattern", "pattern", "the byte that is written (0)", CLI_ANY },
	{ OPT_FLUSH_INTERVAL, "flush-interval", "flush_interval",
	  "flush after this many writes, once they are done", CLI_ANY },
	{ OPT_NO_DRAIN, "no-drain", NULL, "do not wait for writes before a flush, nor for the flush",
	  CLI_ANY },
	{ 0 },
};

const struct cli_command cli_bench = {
	.name = "bench",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "measure how long reads or writes take",
	.text = (const char *const[]){
		"Sends requests one behind the other through the disk, from the start again behind "
		"its end. \\fBnative\\fR needs a cache mode that goes past the host's page cache "
		"(\\fB-t none\\fR), and is io_uring where the system has that.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter bench -f qcow2 -c 100000 -d 32 disk.qcow2", "reads of 4 KiB in sequence",
		"platter bench -w -t none -i io_uring -S 1M -f raw scratch.raw", "writes, spread out",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	struct plt_open_options open;
	struct plt_bench_options o;
};

/* A count, in the ways of strtoul(); false: @error has been printed. */
static bool number(const char *text, unsigned long max, const char *error, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 0);
	if (errno || end == text || *end || *ret > max) {
		cli_error("%s", error);
		return false;
	}
	return true;
}

static bool take_number(struct job *j, int c, const char *arg)
{
	unsigned long n;
	uint64_t size;

	switch (c) {
	case 'c':
		if (!number(arg, INT_MAX, "Invalid request count specified", &n))
			return false;
		j->o.count = n;
		return true;
	case 'd':
		if (!number(arg, INT_MAX, "Invalid queue depth specified", &n))
			return false;
		j->o.depth = (unsigned)n;
		return true;
	case OPT_PATTERN:
		if (!number(arg, 255, "Invalid pattern byte specified", &n))
			return false;
		j->o.pattern = (uint8_t)n;
		return true;
	case OPT_FLUSH_INTERVAL:
		if (!number(arg, INT_MAX, "Invalid flush interval specified", &n))
			return false;
		j->o.flush_interval = (unsigned)n;
		return true;
	case 's':
		if (!cli_size_between("buffer size", arg, 0, INT_MAX, &size))
			return false;
		j->o.length = (uint32_t)size;
		return true;
	case 'S':
		if (!cli_size_between("step_size", arg, 0, INT_MAX, &size))
			return false;
		j->o.step = (uint32_t)size;
		return true;
	default:
		return cli_size("offset", arg, &j->o.offset);
	}
}

static bool take(struct job *j, int c, const char *arg)
{
	switch (c) {
	case 'f':
		j->open.format = arg;
		return true;
	case 't':
		if (cli_cache_mode(arg, &j->open.cache))
			return true;
		cli_error("Invalid cache mode");
		return false;
	case 'n':
		j->o.aio = "native";
		return true;
	case 'i':
		j->o.aio = arg;
		if (!strcmp(arg, "threads") || !strcmp(arg, "native") || !strcmp(arg, "io_uring"))
			return true;
		cli_error("Invalid aio option: %s", arg);
		return false;
	case 'w':
		j->o.write = true;
		j->open.flags |= PLT_OPEN_WRITE;
		return true;
	case OPT_NO_DRAIN:
		j->o.no_drain = true;
		return true;
	}
	return take_number(j, c, arg);
}

static int bench(struct cli_args *a, struct job *j, const char *name)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	double seconds;
	int r, closed;

	if (cli_context(a, &ctx) < 0)
		return 1;
	j->open.flags |= PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, name, &j->open, &disk);
	if (r == 0) {
		printf("Sending %" PRIu64 " %s requests, %" PRIu32
		       " bytes each, %u in parallel (starting at offset %" PRIu64 ", step size %" PRIu32 ")\n",
		       j->o.count, j->o.write ? "write" : "read", j->o.length, j->o.depth, j->o.offset,
		       j->o.step ? j->o.step : j->o.length);
		if (j->o.flush_interval)
			printf("Sending flush every %u requests\n", j->o.flush_interval);
		r = plt_bench(disk, &j->o, &seconds, &err);
		if (r == 0)
			printf("Run completed in %3.3f seconds.\n", seconds);
		else
			cli_error("%s", err.text);
		cli_rescue_tell(a, disk);
		closed = plt_disk_close(disk, &err);
		if (r == 0 && closed < 0) {
			cli_error("%s", err.text);
			r = closed;
		}
	}
	plt_ctx_free(ctx);
	return r < 0;
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT, .o = PLT_BENCH_OPTIONS_INIT };
	const char *name;
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP)
			return a->status;
		if (!take(&j, c, a->arg))
			return 1;
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	name = a->argv[optind];
	if (!j.o.write && j.o.flush_interval) {
		cli_error("--flush-interval is only available in write tests");
		return 1;
	}
	if (j.o.flush_interval && j.o.flush_interval < j.o.depth) {
		cli_error("Flush interval can't be smaller than depth");
		return 1;
	}
	/* As in QEMU, native requests are those of O_DIRECT. */
	if (j.o.aio && !strcmp(j.o.aio, "native") &&
	    (!j.open.cache || (strcmp(j.open.cache, "none") && strcmp(j.open.cache, "directsync")))) {
		cli_error("Could not open '%s': aio=native was specified, but it requires cache.direct=on, "
			  "which was not specified.", name);
		return 1;
	}
	return bench(a, &j, name);
}
