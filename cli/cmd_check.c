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

/* Memory for findings in JSON is bounded: a damaged image may have one a cluster. */
#define FINDINGS_MAX 10000

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 'r', "repair", "leaks|all", "this release repairs nothing: it ends with 1 if there is something to repair",
	  CLI_REPAIR },
	{ 'T', "cache", "src_cache", "how to read the image: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 0 },
};

const struct cli_command cli_check = {
	.name = "check",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "look for damage in the structure of an image",
	.text = (const char *const[]){
		"Nothing is written. Damage that qemu-img does not look for is reported too, "
		"marked with the name of its kind, and in JSON under \\fIplatter-findings\\fR.",
		"Of an image with a backing file the image alone is examined. No file that it names is opened or "
		"looked for, so that a missing one is no error here (qemu-img ends with 1 then).",
		"Exit status: 0 no damage; 1 the check could not be made; 2 damage; 3 lost space "
		"only; 63 the format has nothing to check.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter check disk.qcow2", "for a person",
		"platter check --output=json disk.qcow2", "for a program",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_output_opts, cli_quiet_opts,
		cli_policy_opts, NULL,
	},
	.run = run,
};

struct report {
	bool json;
	json_t *beyond; /* findings that qemu-img does not have; NULL in human form */
	uint64_t omitted;
};

static void put_range(json_t *o, const char *name, uint64_t off, uint64_t len)
{
	if (len)
		json_object_set_new(o, name,
				    json_pack("{s:I, s:I}", "offset", (json_int_t)off, "length",
					      (json_int_t)len));
}

static void found(void *arg, const struct plt_check_finding *f)
{
	struct report *rep = arg;
	json_t *o;

	/* As qemu-img, findings go to stderr in any form: stdout is the summary's. */
	if (!f->beyond_qemu) {
		fprintf(stderr, "%s\n", f->text);
		return;
	}
	if (!rep->json && !strcmp(f->severity, "note") && !isatty(STDERR_FILENO))
		return; /* worth knowing for a person; for a script stderr means trouble */
	if (!rep->json) {
		fprintf(stderr, "%s: %s [%s]\n", f->severity, f->text, f->id);
		return;
	}
	if (json_array_size(rep->beyond) == FINDINGS_MAX) {
		rep->omitted++;
		return;
	}
	o = json_object();
	json_object_set_new(o, "id", cli_json_text(f->id));
	json_object_set_new(o, "severity", cli_json_text(f->severity));
	json_object_set_new(o, "text", cli_json_text(f->text));
	put_range(o, "host", f->host_off, f->host_len);
	put_range(o, "guest", f->guest_off, f->guest_len);
	json_array_append_new(rep->beyond, o);
}

static void print_human(const struct plt_check_result *res)
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
			       "This means waste of disk space, but no harm to data.\n",
			       res->leaks);
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

static void print_json(const char *name, const struct plt_check_result *res, struct report *rep)
{
	json_t *o = json_object();

	json_object_set_new(o, "filename", cli_json_text(name));
	json_object_set_new(o, "format", cli_json_text(res->format));
	json_object_set_new(o, "check-errors", json_integer((json_int_t)res->check_errors));
	put_count(o, "image-end-offset", res->image_end_offset);
	put_count(o, "corruptions", res->corruptions);
	put_count(o, "leaks", res->leaks);
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

static int check(struct cli_args *a, struct plt_ctx *ctx, const char *name,
		 struct plt_open_options *o)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result res = { 0 };
	struct report rep = { .json = a->json };
	int r;

	if (cli_open_flags(a, o) < 0)
		return 1;
	rep.beyond = a->json ? json_array() : NULL;
	r = plt_check(ctx, name, o, found, &rep, &res, &err);
	if (r == 0 && !a->quiet) {
		if (a->json)
			print_json(name, &res, &rep);
		else
			print_human(&res);
	}
	json_decref(rep.beyond);
	if (r == -ENOTSUP) {
		cli_error("This image format does not support checks");
		return 63;
	}
	if (r < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	if (res.check_errors) {
		cli_error("Check failed");
		return 1;
	}
	return res.corruptions || res.added ? 2 : res.leaks ? 3 : 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	const char *repair = NULL, *cache = NULL;
	struct plt_ctx *ctx;
	int c, status;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			o.format = a->arg;
			break;
		case 'r':
			repair = a->arg;
			if (strcmp(repair, "leaks") && strcmp(repair, "all"))
				return cli_usage_error(
					"Unknown option value for -r (expecting 'leaks' or "
					"'all'): %s",
					repair);
			break;
		case 'T':
			cache = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (cache && !cli_cache_mode(cache, &o.cache)) {
		cli_error("Invalid source cache option: %s", cache);
		return 1;
	}
	if (cli_context(a, &ctx) < 0)
		return 1;
	status = check(a, ctx, a->argv[optind], &o);
	plt_ctx_free(ctx);
	if (repair && status) { /* a sound image is repaired already */
		cli_error("-r %s: repair is not supported in this release; the image is left as it is", repair);
		return 1;
	}
	return status;
}
