/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * check: is the structure of an image sound?  Findings that qemu-img has too are printed and counted
 * as it does.  What is found beyond them is printed apart and gets a key of its own in JSON, so that
 * a script reads the same numbers from both programs; it makes the exit status 2 all the same.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 'r', "repair", "leaks|all", "put right: counts that are too high, or all that can be", CLI_REPAIR },
	{ OPT_UNDO_FILE, "undo-file", "file", "where -r keeps what it changes until it is done", CLI_FILE },
	{ 'T', "cache", "src_cache", "how to read the image: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 0 },
};

const struct cli_command cli_check = {
	.name = "check",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "look for damage in the structure of an image",
	.text = (const char *const[]){
		"Nothing is written without \\fB-r\\fR. Damage that qemu-img does not look for is reported too, "
		"marked with the name of its kind, and in JSON under \\fIplatter-findings\\fR.",
		"Of an image with a backing file the image alone is examined. No file that it names is opened or "
		"looked for, so that a missing one is no error here (qemu-img ends with 1 then).",
		"\\fB-r\\fR corrects counts and what follows from them, under an undo journal that is removed once the "
		"image is right. Where there is no place for one (a device, a folder that may not be written) it does "
		"only what is safe at every moment. Clusters that nothing reaches and that may be what is left of a "
		"lost map are not given free: the exit status is 2 then, or 3 where it cannot be told. Nothing is "
		"ever punched out of the file.",
		"\\fB--deep\\fR opens the disk: it decodes every compressed cluster, those of snapshots too, examines the images "
		"below and data files, and verifies what the guest's filesystems have checksums for where it lies.",
		"Exit status, after a repair of what is left: 0 no damage; 1 the check could not be made; 2 damage; 3 lost space "
		"only; 63 the format has nothing to check.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter check disk.qcow2", "for a person",
		"platter check --output=json disk.qcow2", "for a program",
		"platter check --deep disk.qcow2", "the data as well",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_output_opts, cli_quiet_opts,
		cli_policy_opts, NULL,
	},
	.run = run,
};

/* @orphans: what is leaked may be what is left of a map.  (To those who call qemu-img, qemu-img's words.) */
static void print_human(const struct plt_check_result *res, bool orphans)
{
	if (!res->corruptions && !res->leaks && !res->check_errors && !res->added) {
		puts("No errors were found on the image.");
	} else {
		if (res->corruptions)
			printf("\n%" PRIu64 " errors were found on the image.\n"
			       "Data may be corrupted, or further writes to the image may corrupt it.\n",
			       res->corruptions);
		if (res->leaks)
			printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
			       "%s\n",
			       res->leaks, orphans && strcmp(cli_program, "qemu-img") ?
			       "They may be what is left of a part of the disk that has lost its map: repair --dry-run looks for its "
			       "place." : "This means waste of disk space, but no harm to data.");
		if (res->check_errors)
			printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
			       res->check_errors);
		if (res->added)
			printf("\n%" PRIu64
			       " further errors were found that qemu-img does not look for.\n",
			       res->added);
	}
	if (res->total_clusters && res->allocated_clusters)
		printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
		       "%0.2f%% compressed clusters\n",
		       res->allocated_clusters, res->total_clusters,
		       100.0 * (double)res->allocated_clusters / (double)res->total_clusters,
		       100.0 * (double)res->fragmented_clusters / (double)res->allocated_clusters,
		       100.0 * (double)res->compressed_clusters / (double)res->allocated_clusters);
	if (res->image_end_offset)
		printf("Image end offset: %" PRIu64 "\n", res->image_end_offset);
}

static void put_count(json_t *o, const char *key, uint64_t v)
{
	if (v)
		json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void print_json(const char *name, const struct plt_check_result *res, struct cli_findings *rep)
{
	json_t *o = json_object();

	json_object_set_new(o, "filename", cli_json_text(name));
	json_object_set_new(o, "format", cli_json_text(res->format));
	json_object_set_new(o, "check-errors", json_integer((json_int_t)res->check_errors));
	put_count(o, "image-end-offset", res->image_end_offset);
	put_count(o, "corruptions", res->corruptions);
	put_count(o, "leaks", res->leaks);
	put_count(o, "corruptions-fixed", res->corruptions_fixed);
	put_count(o, "leaks-fixed", res->leaks_fixed);
	put_count(o, "total-clusters", res->total_clusters);
	put_count(o, "allocated-clusters", res->allocated_clusters);
	put_count(o, "fragmented-clusters", res->fragmented_clusters);
	put_count(o, "compressed-clusters", res->compressed_clusters);
	if (json_array_size(rep->beyond))
		json_object_set(o, "platter-findings", rep->beyond);
	put_count(o, "platter-findings-omitted", rep->omitted);
	cli_print_json(o);
	json_decref(o);
}

struct job {
	const char *name;
	struct plt_open_options open;
	const char *repair;    /* NULL, "leaks" or "all" */
	const char *undo_file;
	bool deep;
};

/* What a repair has fixed is not among what is left, which a second look finds. */
static int repair(struct cli_args *a, struct plt_ctx *ctx, struct job *j, struct cli_findings *rep,
		  struct plt_check_result *res, struct plt_error *err)
{
	struct plt_repair_options ro = PLT_REPAIR_OPTIONS_INIT;
	struct plt_check_result left;
	int r;

	ro.flags = strcmp(j->repair, "leaks") ? 0 : PLT_REPAIR_LEAKS;
	ro.undo_file = j->undo_file;
	r = plt_check_repair(ctx, j->name, &j->open, &ro, cli_found, rep, res, err);
	cli_findings_flush();
	if (r == -ENOSYS) {
		struct plt_error why = *err;

		r = plt_check(ctx, j->name, &j->open, cli_found, rep, res, err);
		cli_findings_flush();
		if (r == 0 && (res->corruptions || res->added || res->leaks))
			cli_error("%s", why.text);
		return r;
	}
	if (r < 0 || (!res->corruptions_fixed && !res->leaks_fixed))
		return r;
	if (!a->quiet && !a->json)
		printf("The following inconsistencies were found and repaired:\n\n"
		       "    %" PRIu64 " leaked clusters\n"
		       "    %" PRIu64 " corruptions\n\n"
		       "Double checking the fixed image now...\n", res->leaks_fixed, res->corruptions_fixed);
	fflush(stdout);
	r = plt_check(ctx, j->name, &j->open, cli_found, rep, &left, err);
	left.corruptions_fixed = res->corruptions_fixed;
	left.leaks_fixed = res->leaks_fixed;
	left.lost = res->lost;
	*res = left;
	return r;
}

static int check(struct cli_args *a, struct plt_ctx *ctx, struct job *j)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result res = { 0 };
	struct cli_findings rep = { .json = a->json };
	int r;

	if (cli_open_flags(a, &j->open) < 0)
		return 1;
	if (j->repair && j->deep) {
		cli_error("-r and --deep exclude each other");
		return 1;
	}
	if (j->repair && cli_rescue_is_on(a)) {
		cli_error("-r writes to the image, and --rescue does not");
		return 1;
	}
	if (j->repair && a->force_share) {
		cli_error("Could not open '%s': force-share=on can only be used with read-only images", j->name);
		return 1;
	}
	rep.beyond = a->json ? json_array() : NULL;
	if (j->repair)
		r = repair(a, ctx, j, &rep, &res, &err);
	else
		r = (j->deep ? plt_check_deep : plt_check)(ctx, j->name, &j->open, cli_found, &rep, &res, &err);
	cli_findings_flush();
	if (r == 0 && !a->quiet) {
		if (a->json)
			print_json(j->name, &res, &rep);
		else
			print_human(&res, rep.orphans);
	}
	json_decref(rep.beyond);
	if (r == -ENOTSUP && !j->undo_file && !strcmp(err.text, "This image format does not support checks")) {
		cli_error("This image format does not support checks");
		return 63;
	}
	if (r < 0) {
		cli_error("%s", err.text);
		return r == -ENOTSUP && j->repair ? 2 : 1;
	}
	if (res.check_errors) {
		cli_error("Check failed");
		return 1;
	}
	return res.corruptions || res.added || res.lost ? 2 : res.leaks ? 3 : 0;
}

/* What is looked at is the image as repair would make it; then its disk, for what is not known of that. */
static bool rescued(const struct cli_args *a, struct plt_ctx *ctx, struct job *j)
{
	struct plt_disk *disk;

	j->open.flags |= PLT_OPEN_NO_KEY;
	if (cli_open(a, ctx, j->name, &j->open, &disk) < 0)
		return false;
	cli_close(a, disk);
	return true;
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT };
	const char *cache = NULL;
	struct plt_ctx *ctx;
	int c, status;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			j.open.format = a->arg;
			break;
		case 'r':
			j.repair = a->arg;
			if (strcmp(j.repair, "leaks") && strcmp(j.repair, "all"))
				return cli_usage_error(
					"Unknown option value for -r (expecting 'leaks' or "
					"'all'): %s",
					j.repair);
			break;
		case 'T':
			cache = a->arg;
			break;
		case OPT_UNDO_FILE:
			j.undo_file = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (cache && !cli_cache_mode(cache, &j.open.cache)) {
		cli_error("Invalid source cache option: %s", cache);
		return 1;
	}
	if (cli_context(a, &ctx) < 0)
		return 1;
	j.name = a->argv[optind];
	j.deep = cli_looks_deep(a);
	status = check(a, ctx, &j);
	if (cli_rescue_is_on(a) && status != 1 && !rescued(a, ctx, &j))
		status = 1;
	if (status == 3 && cli_rescue_doubts(a)) /* more than space is lost */
		status = 2;
	plt_ctx_free(ctx);
	return status;
}
