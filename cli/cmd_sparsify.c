/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * sparsify: give back to the host what the guest does not use, in place or into a copy.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ OPT_FREE, "free", NULL, "the free space of the guest's filesystems", CLI_ANY },
	{ OPT_SWAP, "swap", NULL, "the guest's swap, but for its header", CLI_ANY },
	{ OPT_LEAKS, "leaks", NULL, "what lies in the file and belongs to nothing", CLI_ANY },
	{ OPT_ZERO, "zero", NULL, "clusters that hold nothing but zeros: all data is read", CLI_ANY },
	{ OPT_SAME, "same", NULL, "clusters that hold what the backing file has there: both are read", CLI_ANY },
	{ OPT_ALL, "all", NULL, "all of these, --same where there is a backing file", CLI_ANY },
	{ OPT_DRY_RUN, "dry-run", NULL, "only say how much each would give", CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 't', "cache", "cache", "how the image is opened: " CLI_CACHE_WORDS, CLI_CACHE },
	{ 'O', "target-format", "output_fmt", "of a copy: its format (that of the image)", CLI_FORMAT },
	{ 'o', "target-format-options", "options", "of a copy: its options, as for create", CLI_ANY },
	{ 'c', "compress", NULL, "of a copy: compress it", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_sparsify = {
	.name = "sparsify",
	.operands = "filename [copy]",
	.operand_kind = CLI_FILE,
	.summary = "give back to the host what the guest does not use",
	.text = (const char *const[]){
		"Without an option for a kind: --free and --swap, for which no data of the guest is read but the maps of its "
		"filesystems. A machine that uses the image must be off.",
		"--leaks is for formats that keep account of their file (qcow2): leaked clusters, free ones that the host still "
		"stores, and what lies behind the last one. Where leaked clusters may be data that the map has lost, all of it "
		"stays, with a warning.",
		"Free space is taken from ext2, ext3, ext4, XFS, NTFS, FAT12, FAT16 and FAT32, on a disk, in its partitions and in "
		"LVM's plain logical volumes. One that was not unmounted, that a hibernated system has mounted, that is damaged, "
		"or that is not known is left alone, and named with the reason. All files stay as they are; what was free reads "
		"as zeros.",
		"With the name of a copy the image is only read, and the copy is made as convert makes it, without what its backing "
		"files hold apart from it.",
		"Figures are bytes of the disk, each under the first kind that applies. What an internal snapshot holds too stays in "
		"the file, so the host may get less than they say.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter sparsify --dry-run disk.qcow2", "how much is there to be had",
		"platter sparsify disk.qcow2", "give it back, in place",
		"platter sparsify --all -p disk.qcow2", "clusters of zeros too, with progress",
		"platter sparsify -c disk.qcow2 small.qcow2", "into a compressed copy",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_output_opts, cli_progress_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct state {
	const struct cli_args *a;
	json_t *volumes; /* NULL in human form */
};

static void on_volume(void *arg, const struct plt_sparsify_volume *v)
{
	const struct state *st = arg;
	char size[CLI_SIZE_MAX], free[CLI_SIZE_MAX];
	json_t *o;

	if (!st->volumes) {
		if (st->a->quiet)
			return;
		cli_human_size(v->length, size);
		cli_human_size(v->free, free);
		printf("%#" PRIx64 " %s%s%s%s%s%s, %s: ", v->offset, v->name, v->name[0] ? " " : "", v->what[0] ? v->what : "unknown",
		       v->label[0] ? " '" : "", v->label, v->label[0] ? "'" : "", size);
		if (v->why)
			printf("left alone: %s\n", v->why);
		else
			printf("%s free\n", free);
		return;
	}
	o = json_object();
	json_object_set_new(o, "offset", json_integer((json_int_t)v->offset));
	json_object_set_new(o, "length", json_integer((json_int_t)v->length));
	json_object_set_new(o, "what", cli_json_text(v->what));
	if (v->name[0])
		json_object_set_new(o, "name", cli_json_text(v->name));
	if (v->label[0])
		json_object_set_new(o, "label", cli_json_text(v->label));
	if (v->why)
		json_object_set_new(o, "left-alone", cli_json_text(v->why));
	else
		json_object_set_new(o, "free", json_integer((json_int_t)v->free));
	json_array_append_new(st->volumes, o);
}

static void print(const struct state *st, unsigned flags, const struct plt_sparsify_result *res)
{
	const struct { unsigned flag; const char *name, *text; uint64_t n; } kinds[] = {
		{ PLT_SPARSIFY_FREE, "free", "free space of filesystems", res->free },
		{ PLT_SPARSIFY_SWAP, "swap", "swap", res->swap },
		{ PLT_SPARSIFY_ZERO, "zero", "zeros", res->zero },
		{ PLT_SPARSIFY_SAME, "same", "equal to the backing file", res->same },
		{ PLT_SPARSIFY_LEAKS, "leaks", "of no use in the file", res->leaks },
	};
	bool dry = flags & PLT_SPARSIFY_DRY_RUN;
	char a[CLI_SIZE_MAX], b[CLI_SIZE_MAX];
	json_t *o, *given;

	if (!st->volumes) {
		for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && !st->a->quiet; i++)
			if (flags & kinds[i].flag) {
				cli_human_size(kinds[i].n, a);
				printf("%s: %s\n", kinds[i].text, a);
			}
		if (!dry && !st->a->quiet && res->before >= 0 && res->after >= 0) {
			cli_human_size((uint64_t)res->before, a);
			cli_human_size((uint64_t)res->after, b);
			printf("disk size: %s, now %s\n", a, b);
		}
		return;
	}
	o = json_object();
	given = json_object();
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (flags & kinds[i].flag)
			json_object_set_new(given, kinds[i].name, json_integer((json_int_t)kinds[i].n));
	json_object_set_new(o, "dry-run", json_boolean(dry));
	json_object_set(o, "volumes", st->volumes);
	json_object_set_new(o, "bytes", given);
	if (res->before >= 0)
		json_object_set_new(o, "actual-size-before", json_integer((json_int_t)res->before));
	if (res->after >= 0)
		json_object_set_new(o, "actual-size", json_integer((json_int_t)res->after));
	cli_print_json(o);
	json_decref(o);
}

/* What depends on the image itself: is there a backing file, and what is a copy's format. */
static int look(const struct cli_args *a, struct plt_ctx *ctx, const char *name, const struct plt_open_options *open,
		bool *ret_backing, const char **ret_format)
{
	struct plt_open_options o = *open;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_info *info;
	int r;

	(void)a;
	o.flags = (o.flags & ~(unsigned)PLT_OPEN_WRITE) | PLT_OPEN_INSPECT | PLT_OPEN_NO_KEY;
	r = plt_disk_open(ctx, name, &o, &disk, &err);
	if (r == 0)
		r = plt_disk_info(disk, &info, &err);
	if (r < 0) {
		cli_error("%s", err.text);
		return r;
	}
	*ret_backing = info->backing_filename;
	for (unsigned i = 0; plt_format_name(i); i++)
		if (!strcmp(plt_format_name(i), info->format))
			*ret_format = plt_format_name(i);
	plt_info_free(info);
	plt_disk_close(disk, NULL);
	return 0;
}

static int sparsify(struct cli_args *a, struct plt_open_options *open, struct plt_sparsify_options *o,
		    struct plt_convert_options *convert, bool all)
{
	const char *name = a->argv[optind], *copy = a->argv[optind + 1], *format = NULL;
	struct state st = { .a = a };
	struct plt_sparsify_result res;
	struct plt_error err = PLT_ERROR_INIT;
	struct cli_progress progress;
	struct plt_ctx *ctx;
	bool backing = false;
	int r;

	if (cli_context(a, &ctx) < 0)
		return 1;
	r = cli_open_flags(a, open);
	if (r == 0)
		r = look(a, ctx, name, open, &backing, &format);
	if (r < 0) {
		plt_ctx_free(ctx);
		return 1;
	}
	if (all && backing && !copy)
		o->flags |= PLT_SPARSIFY_SAME;
	if (!convert->format)
		convert->format = format;
	if (a->json)
		st.volumes = json_array();
	cli_progress_begin(&progress, a, 1.0);
	o->progress = convert->progress = cli_progress_tick;
	o->progress_arg = convert->progress_arg = &progress;
	o->volume = on_volume;
	o->volume_arg = &st;
	r = copy ? plt_sparsify_copy(ctx, name, open, o, copy, convert, &res, &err) :
		   plt_sparsify(ctx, name, open, o, &res, &err);
	if (r == 0)
		cli_progress_done(&progress);
	cli_progress_end(&progress);
	if (r < 0)
		cli_error("%s", err.text);
	else
		print(&st, copy ? o->flags & (PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP) : o->flags, &res);
	json_decref(st.volumes);
	plt_ctx_free(ctx);
	cli_die_if_cancelled();
	return r < 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;
	struct plt_sparsify_options o = PLT_SPARSIFY_OPTIONS_INIT;
	struct plt_convert_options convert = PLT_CONVERT_OPTIONS_INIT;
	struct cli_list texts = { 0 };
	const char *mode = NULL;
	bool all = false, of_copy = false;
	int c, status = 1;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			status = a->status;
			goto out;
		case OPT_FREE:
			o.flags |= PLT_SPARSIFY_FREE;
			break;
		case OPT_SWAP:
			o.flags |= PLT_SPARSIFY_SWAP;
			break;
		case OPT_LEAKS:
			o.flags |= PLT_SPARSIFY_LEAKS;
			break;
		case OPT_ZERO:
			o.flags |= PLT_SPARSIFY_ZERO;
			break;
		case OPT_SAME:
			o.flags |= PLT_SPARSIFY_SAME;
			break;
		case OPT_ALL:
			all = true;
			o.flags |= PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP | PLT_SPARSIFY_LEAKS | PLT_SPARSIFY_ZERO;
			break;
		case OPT_DRY_RUN:
			o.flags |= PLT_SPARSIFY_DRY_RUN;
			break;
		case 'f':
			open.format = a->arg;
			break;
		case 't':
			mode = a->arg;
			break;
		case 'O':
			convert.format = a->arg;
			of_copy = true;
			break;
		case 'o':
			of_copy = true;
			if (!cli_list_add(&texts, a->arg))
				goto out;
			break;
		case 'c':
			of_copy = true;
			convert.flags |= PLT_CONVERT_COMPRESS;
			break;
		}
	}
	convert.options = texts.v;
	if (!(o.flags & ~(unsigned)PLT_SPARSIFY_DRY_RUN))
		o.flags |= PLT_SPARSIFY_FREE | PLT_SPARSIFY_SWAP;
	if (optind == a->argc || optind < a->argc - 2)
		cli_usage_error("Expecting one image file name, and perhaps that of a copy");
	else if (of_copy && optind == a->argc - 1)
		cli_usage_error("-O, -o and -c are for a copy, and none is named");
	else if (mode && !cli_cache_mode(mode, &open.cache))
		cli_error("Invalid cache option: %s", mode);
	else
		status = sparsify(a, &open, &o, &convert, all);
out:
	cli_list_release(&texts);
	return status;
}
