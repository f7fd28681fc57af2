/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * hash: a digest of what the guest sees, the same for any format.  Printed as sha256sum does: the
 * digest, two spaces, the name.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 'T', "cache", "src_cache", "how to read the image: none, writeback, ...", CLI_CACHE },
	{ OPT_DIGEST, "digest", "name[/block]", "another algorithm and block size (sha256/64k)",
	  CLI_DIGEST },
	{ OPT_FLAT, "flat", NULL, "of the bytes in order, as sha256sum, and not of blocks",
	  CLI_ANY },
	{ 0 },
};

const struct cli_command cli_hash = {
	.name = "hash",
	.operands = "filename...",
	.operand_kind = CLI_FILE,
	.summary = "digest of what the guest sees",
	.text = (const char *const[]){
		"Prints what \\fBblksum\\fR and \\fBnbdcopy --blkhash\\fR print: the SHA-256 of "
		"the SHA-256 of each block of 64 KiB (the last one shorter), followed by the "
		"length as a 64-bit little-endian number. Holes cost no time. Two images of "
		"different formats with the same content have the same digest.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter hash disk.qcow2", "compare it with that of another copy",
		"platter hash --digest sha256 --flat disk.qcow2",
		"what sha256sum says of the raw disk",
		"platter hash --digest md5/1M disk.qcow2", "another algorithm and block size",
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

static int hash_one(struct cli_args *a, struct plt_ctx *ctx, const char *name,
		    struct plt_open_options o, struct plt_hash_options *h)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct cli_progress progress;
	struct plt_disk *disk;
	uint8_t digest[64];
	size_t len;
	int r;

	if (cli_open(a, ctx, name, &o, &disk) < 0)
		return -1;
	cli_progress_begin(&progress, a, 1);
	h->progress = cli_progress_tick;
	h->progress_arg = &progress;
	r = plt_hash(disk, h, digest, &len, &err);
	if (r == 0)
		cli_progress_done(&progress);
	cli_progress_end(&progress);
	cli_close(a, disk);
	if (r < 0) {
		cli_die_if_cancelled();
		cli_error("%s", err.text);
		return -1;
	}
	for (size_t i = 0; i < len; i++)
		printf("%02x", digest[i]);
	printf("  %s\n", name);
	return 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_hash_options h = PLT_HASH_OPTIONS_INIT;
	const char *cache = NULL;
	struct plt_ctx *ctx;
	char *digest = NULL, *slash;
	uint64_t block = 0;
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			status = a->status;
			goto out;
		case 'f':
			o.format = a->arg;
			break;
		case 'T':
			cache = a->arg;
			break;
		case OPT_DIGEST:
			free(digest);
			digest = strdup(a->arg);
			slash = digest ? strchr(digest, '/') : NULL;
			block = 0;
			if (slash) {
				*slash = '\0';
				if (!cli_size("digest block size", slash + 1, &block))
					goto out;
				if (block < 512 || block > UINT32_MAX / 2) {
					cli_error(
						"Invalid digest block size specified. Must be "
						"between 512 and %u.",
						UINT32_MAX / 2);
					goto out;
				}
			}
			break;
		case OPT_FLAT:
			h.flat = true;
			break;
		}
	}
	if (optind == a->argc) {
		status = cli_usage_error("Expecting image file name");
		goto out;
	}
	if (cache && !cli_cache_mode(cache, &o.cache)) {
		cli_error("Invalid source cache option: %s", cache);
		goto out;
	}
	h.digest = digest;
	h.block = (uint32_t)block;
	if (cli_context(a, &ctx) < 0)
		goto out;
	status = 0;
	for (int i = optind; i < a->argc; i++)
		if (hash_one(a, ctx, a->argv[i], o, &h) < 0)
			status = 1;
	plt_ctx_free(ctx);
out:
	free(digest);
	return status;
}
