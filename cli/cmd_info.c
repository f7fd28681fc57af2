/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * info: what an image is.  With --backing-chain each image below is opened in turn, by the name and
 * format that the one above records; a name that comes again ends the run.  Without it no file but
 * the one named is opened.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ OPT_BACKING_CHAIN, "backing-chain", NULL, "describe the backing files too", CLI_ANY },
	{ OPT_LIMITS, "limits", NULL, "show what requests are best made of (it depends on --cache)", CLI_ANY },
	{ 't', "cache", "cache", "how to open the image: " CLI_CACHE_WORDS " (writeback)", CLI_CACHE },
	{ 0 },
};

const struct cli_command cli_info = {
	.name = "info",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "describe an image",
	.text = (const char *const[]){
		"Prints format, sizes, backing file, internal snapshots and what is special to "
		"the format. Only the named file is opened, so that an image from elsewhere can "
		"be looked at safely; with \\fB--backing-chain\\fR the files that it refers to "
		"are opened as well.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter info disk.qcow2", "for a person",
		"platter info --output=json --backing-chain top.qcow2",
		"the whole chain, for a program",
		"platter info -U disk.qcow2", "of an image that a virtual machine is using",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_output_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

static void print_human(const struct plt_info *info, bool limits)
{
	char size[CLI_SIZE_MAX];

	cli_human_size(info->virtual_size, size);
	printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\n", cli_shown(info->filename),
	       info->format, size, info->virtual_size);
	cli_human_size(info->actual_size < 0 ? 0 : (uint64_t)info->actual_size, size);
	printf("disk size: %s\n", info->actual_size < 0 ? "unavailable" : size);
	if (info->encrypted)
		puts("encrypted: yes");
	if (info->cluster_size)
		printf("cluster_size: %" PRIu32 "\n", info->cluster_size);
	if (info->dirty)
		puts("cleanly shut down: no");
	if (info->backing_filename) {
		printf("backing file: %s", cli_shown(info->backing_filename));
		if (!info->full_backing_filename)
			printf(" (cannot determine actual path)");
		else if (strcmp(info->full_backing_filename, info->backing_filename))
			printf(" (actual path: %s)", cli_shown(info->full_backing_filename));
		putchar('\n');
		if (info->backing_format)
			printf("backing file format: %s\n", cli_shown(info->backing_format));
	}
	if (limits) {
		json_t *v = cli_json_limits(info);

		puts("Block limits:");
		cli_print_specific(v, 1);
		json_decref(v);
	}
	if (info->nsnapshots) {
		puts("Snapshot list:");
		cli_print_snapshots(info->snapshots, info->nsnapshots);
	}
	if (info->specific_json) {
		json_t *specific = json_loads(info->specific_json, 0, NULL);
		json_t *data = json_object_get(specific, "data");

		if (json_object_size(data)) {
			puts("Format specific information:");
			cli_print_specific(data, 1);
		}
		json_decref(specific);
	}
}

/* The names already described, and the descriptions.  All stay open until all is printed. */
struct link {
	char *name;
	struct plt_disk *disk;
	struct plt_info *info;
};

struct chain {
	struct link *v;
	unsigned n;
};

static bool seen(const struct chain *chain, const char *name)
{
	for (unsigned i = 0; i < chain->n; i++)
		if (!strcmp(chain->v[i].name, name))
			return true;
	return false;
}

static int describe(const struct cli_args *a, struct plt_ctx *ctx, struct plt_open_options *o,
		    struct link *l)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	o->flags |= PLT_OPEN_INSPECT;
	if (cli_rescue_is_on(a)) /* the maps of the chain are looked at then, the data is not */
		o->flags |= PLT_OPEN_NO_KEY;
	if (o->flags & PLT_OPEN_REFERENCE && cli_rescue_is_on(a)) { /* the first disk tells for all of its chain */
		o->flags |= PLT_OPEN_RESCUE;
		r = plt_disk_open(ctx, l->name, o, &l->disk, &err);
		if (r < 0)
			cli_error("%s", err.text);
	} else {
		r = cli_open(a, ctx, l->name, o, &l->disk);
	}
	if (r < 0)
		return r;
	r = plt_disk_info(l->disk, &l->info, &err);
	if (r < 0)
		cli_error("%s", err.text);
	return r;
}

static int collect(struct cli_args *a, struct plt_ctx *ctx, const char *name,
		   struct plt_open_options *o, bool whole_chain, struct chain *chain)
{
	const struct plt_info *info;
	struct link *grown, *l;

	while (name) {
		if (seen(chain, name)) {
			cli_error("Backing file '%s' creates an infinite loop.", name);
			return -1;
		}
		grown = realloc(chain->v, (chain->n + 1) * sizeof(*grown));
		if (!grown) {
			cli_error("out of memory");
			return -1;
		}
		chain->v = grown;
		if (whole_chain && !a->no_backing)
			o->flags |= PLT_OPEN_FIND_BACKING;
		l = &chain->v[chain->n++];
		*l = (struct link){ .name = strdup(name) };
		if (!l->name || describe(a, ctx, o, l) < 0)
			return -1;
		info = l->info;
		if (!whole_chain || !info->backing_filename || a->no_backing)
			return 0;
		if (!info->full_backing_filename) {
			cli_error(
				"Could not determine absolute backing filename, but backing "
				"filename '%s' present",
				info->backing_filename);
			return -1;
		}
		name = info->full_backing_filename;
		/* --image-opts is said of the first name only. */
		a->image_opts = false;
		o->flags = PLT_OPEN_REFERENCE;
		o->format = info->backing_format;
	}
	return 0;
}

static int sum_doubts(void *arg, const struct plt_doubt_range *d)
{
	uint64_t *sums = arg;

	sums[d->lost] += d->len;
	return 0;
}

/* What was planned so that this is shown. */
static json_t *rescue_info(const struct link *l)
{
	uint64_t sums[2] = { 0 };
	struct plt_rescue_info r;

	if (plt_disk_rescue_info(l->disk, 0, &r) < 0 || plt_disk_doubts(l->disk, sum_doubts, sums, NULL) < 0)
		return NULL;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "errors-put-right", (json_int_t)r.fixed, "errors-left",
			 (json_int_t)r.left, "leaks-left", (json_int_t)r.leaks, "edits", (json_int_t)r.edits, "edited-bytes",
			 (json_int_t)r.bytes, "lost-bytes", (json_int_t)sums[1], "inferred-bytes", (json_int_t)sums[0]);
}

static void print_rescue(const struct link *l)
{
	json_t *v = rescue_info(l);

	if (v) {
		puts("Rescue:");
		cli_print_specific(v, 1);
		json_decref(v);
	}
}

static void print(const struct cli_args *a, const struct chain *chain, bool whole_chain, bool limits)
{
	json_t *list;

	if (!a->json) {
		for (unsigned i = 0; i < chain->n; i++) {
			if (i)
				putchar('\n');
			print_human(chain->v[i].info, limits);
			print_rescue(&chain->v[i]);
		}
		return;
	}
	list = json_array();
	for (unsigned i = 0; i < chain->n; i++) {
		json_t *o = cli_json_info(chain->v[i].info);

		json_t *rescue = rescue_info(&chain->v[i]);

		if (rescue)
			json_object_set_new(o, "rescue", rescue);
		if (limits)
			json_object_set_new(o, "limits", cli_json_limits(chain->v[i].info));
		json_array_append_new(list, o);
	}
	cli_print_json(whole_chain ? list : json_array_get(list, 0));
	json_decref(list);
}

static int run(struct cli_args *a)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct chain chain = { 0 };
	struct plt_ctx *ctx;
	bool whole_chain = false, limits = false;
	int c, r;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			o.format = a->arg;
			break;
		case OPT_BACKING_CHAIN:
			whole_chain = true;
			break;
		case OPT_LIMITS:
			limits = true;
			break;
		case 't':
			if (!cli_cache_mode(a->arg, &o.cache)) {
				cli_error("Invalid cache option: %s", a->arg);
				return 1;
			}
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (cli_context(a, &ctx) < 0)
		return 1;
	r = collect(a, ctx, a->argv[optind], &o, whole_chain, &chain);
	if (r == 0)
		print(a, &chain, whole_chain, limits);
	for (unsigned i = 0; i < chain.n; i++) {
		plt_info_free(chain.v[i].info);
		if (i)
			(void)plt_disk_close(chain.v[i].disk, NULL); /* opened for reading */
		else
			cli_close(a, chain.v[i].disk);
		free(chain.v[i].name);
	}
	free(chain.v);
	plt_ctx_free(ctx);
	return r < 0;
}
