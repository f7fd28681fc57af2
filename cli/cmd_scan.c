/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * scan: what lies on a medium that nothing opens any more.  A list for a person, indented by what lies in what, or JSON.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the source, whose disk is looked through (raw: its bytes)", CLI_FORMAT },
	{ OPT_CARVE, "carve", "dir", "write what lies in one piece into files in this folder", CLI_DIR },
	{ 0 },
};

const struct cli_command cli_scan = {
	.name = "scan",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "look for images, partitions and filesystems on a medium",
	.text = (const char *const[]){
		"Reads everything once and in order, holes apart, and lists what it recognises: headers of images (qcow2, qcow, "
		"vpc, vmdk, vdi, vhdx), tables and blocks that belong to no image that was found, partition tables, filesystems "
		"and volumes by their superblocks or the copies of these, structures of VMFS. What lies within something else, such "
		"as images that are files of a filesystem, is indented below it. Nothing is changed.",
		"\\fB--carve\\fR copies what reaches from its beginning in one piece: qcow2, qcow, vpc and vdi images wherever "
		"they lie, partitions, and filesystems that lie in no partition. Files are named by the place, and none is "
		"written over. How much of an image is there its check says, if its format has one.",
		"Sectors that cannot be read are tried twice and passed over; where eight of 64 KiB fail the rest of these is not "
		"tried. The map of \\fB--map\\fR is written every few seconds: a run that was stopped does not try again what is bad. Memory stays below 64 MiB, and 4 MiB a core, whatever the size.",
		"Exit status: 0 all was read, and is whole; 1 failed; 2 something could not be read, is damaged, or was not carved.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter scan /dev/sdb", "what is there",
		"platter scan --carve found --map sdb.map /dev/sdb", "and copy it, around what ddrescue knows to be bad",
		"platter scan --output=json -f qcow2 disk.qcow2", "on the disk in an image, for a program",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_output_opts, cli_progress_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

static const char *const kinds[] = { "image", "structure", "table", "partition", "filesystem" };

static unsigned depth_of(const struct plt_scan *s, const struct plt_scan_object *o)
{
	unsigned n = 0;

	for (; o->inside >= 0 && n < 16; n++)
		o = plt_scan_object(s, (unsigned)o->inside);
	return n;
}

static void print_object(const struct plt_scan *s, const struct plt_scan_object *o)
{
	char size[CLI_SIZE_MAX];

	printf("%#14" PRIx64 "  %*s%s", o->offset, 2 * (int)depth_of(s, o), "", o->what);
	if (o->kind == PLT_SCAN_STRUCTURE && o->count > 1)
		printf(" (%" PRIu64 ")", o->count);
	if (o->length) {
		cli_human_size(o->length, size);
		printf(", %s", size);
	}
	if (o->size) {
		cli_human_size(o->size, size);
		printf(", a disk of %s", size);
	}
	if (o->errors && (o->inside < 0 || o->kind != PLT_SCAN_IMAGE))
		printf(", DAMAGED");
	if (*o->detail)
		printf(": %s", cli_shown(o->detail));
	if (o->carved)
		printf(" -> %s", o->carved);
	putchar('\n');
}

static json_t *object_json(const struct plt_scan_object *o, unsigned i)
{
	json_t *j = json_object();

	json_object_set_new(j, "id", json_integer(i));
	json_object_set_new(j, "kind", json_string(kinds[o->kind]));
	json_object_set_new(j, "type", json_string(o->what));
	json_object_set_new(j, "offset", json_integer((json_int_t)o->offset));
	if (o->length)
		json_object_set_new(j, "length", json_integer((json_int_t)o->length));
	if (o->size)
		json_object_set_new(j, "virtual-size", json_integer((json_int_t)o->size));
	if (o->count)
		json_object_set_new(j, "count", json_integer((json_int_t)o->count));
	if (o->inside >= 0)
		json_object_set_new(j, "inside", json_integer(o->inside));
	if (o->copy)
		json_object_set_new(j, "by-copy", json_true());
	json_object_set_new(j, "carvable", json_boolean(o->carvable));
	json_object_set_new(j, "errors", json_integer(o->errors));
	if (*o->detail)
		json_object_set_new(j, "detail", cli_json_text(o->detail));
	if (o->carved)
		json_object_set_new(j, "carved", cli_json_text(o->carved));
	return j;
}

static void print_json(const char *name, const struct plt_scan *s, const struct plt_scan_totals *t)
{
	json_t *o = json_object(), *list = json_array();
	const struct plt_scan_object *x;

	for (unsigned i = 0; (x = plt_scan_object(s, i)); i++)
		json_array_append_new(list, object_json(x, i));
	json_object_set_new(o, "filename", cli_json_text(name));
	json_object_set_new(o, "objects", list);
	json_object_set_new(o, "read", json_integer((json_int_t)t->read));
	json_object_set_new(o, "holes", json_integer((json_int_t)t->holes));
	json_object_set_new(o, "bad", json_integer((json_int_t)t->bad));
	json_object_set_new(o, "skipped", json_integer((json_int_t)t->skipped));
	if (t->omitted)
		json_object_set_new(o, "omitted", json_integer((json_int_t)t->omitted));
	cli_print_json(o);
	json_decref(o);
}

static int scan(struct cli_args *a, struct plt_ctx *ctx, const char *name, struct plt_open_options *open,
		struct plt_scan_options *o)
{
	struct plt_error err = PLT_ERROR_INIT;
	const struct plt_scan_object *x;
	struct plt_scan_totals t;
	struct cli_progress progress;
	struct plt_disk *disk;
	struct plt_scan *s;
	bool damaged;
	int r;

	if (cli_open(a, ctx, name, open, &disk) < 0)
		return 1;
	cli_progress_begin(&progress, a, 1);
	o->progress = cli_progress_tick;
	o->progress_arg = &progress;
	r = plt_scan(ctx, disk, o, &s, &err);
	if (r == 0)
		cli_progress_done(&progress);
	cli_progress_end(&progress);
	cli_close(a, disk);
	if (r < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	plt_scan_totals(s, &t);
	damaged = t.bad || t.skipped || t.omitted;
	for (unsigned i = 0; (x = plt_scan_object(s, i)); i++) {
		/* (an image in a filesystem is a file, and may lie in pieces) */
		damaged |= (x->errors && (x->inside < 0 || x->kind != PLT_SCAN_IMAGE)) || x->copy;
		if (!a->quiet && !a->json)
			print_object(s, x);
	}
	if (a->json)
		print_json(name, s, &t);
	else if (!a->quiet && (t.bad || t.skipped))
		printf("%" PRIu64 " bytes could not be read, %" PRIu64 " beside them were not tried.\n", t.bad, t.skipped);
	if (!a->json && !a->quiet && t.omitted)
		printf("%" PRIu64 " further objects are not listed: there are too many.\n", t.omitted);
	plt_scan_free(s);
	if (t.uncarved)
		cli_error("%" PRIu64 " objects were not carved", t.uncarved);
	return damaged || t.uncarved ? 2 : 0;
}

static int run(struct cli_args *a)
{
	struct plt_open_options open = PLT_OPEN_OPTIONS_INIT;
	struct plt_scan_options o = PLT_SCAN_OPTIONS_INIT;
	struct plt_ctx *ctx;
	struct stat st;
	int c, status;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			open.format = a->arg;
			break;
		case OPT_CARVE:
			o.carve = a->arg;
			break;
		case OPT_MAP:
			o.map = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one file name");
	if (!open.format && !a->image_opts && strncmp(a->argv[optind], "json:", 5))
		open.format = "raw"; /* what is damaged is not opened by what it once was */
	if (stat(a->argv[optind], &st) == 0 && S_ISDIR(st.st_mode)) {
		cli_error("'%s' is a folder: a disk that is split or striped over the files in it (NAME.000 and on, rbd_data.*) is "
			  "'pieces:%s', or 'pieces:' and the name of its first piece", a->argv[optind], a->argv[optind]);
		return 1;
	}
	if (cli_context(a, &ctx) < 0)
		return 1;
	status = scan(a, ctx, a->argv[optind], &open, &o);
	plt_ctx_free(ctx);
	cli_die_if_cancelled();
	return status;
}
