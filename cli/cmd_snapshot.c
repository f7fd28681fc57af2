/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * snapshot: internal snapshots listed, made, gone back to and deleted; words and order of checks are qemu-img's.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define NAME_MAX_QEMU 255 /* bytes of a name that qemu-img keeps */

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'l', "list", NULL, "list them (what is done if nothing is said)", CLI_ANY },
	{ 'c', "create", "name", "make one of what the disk holds now", CLI_ANY },
	{ 'a', "apply", "snapshot", "go back to this one, an id or a name: what the disk holds now is lost", CLI_ANY },
	{ 'd', "delete", "snapshot", "delete this one, a name or an id; the disk stays as it is", CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 0 },
};

const struct cli_command cli_snapshot = {
	.name = "snapshot",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "list, make, apply or delete internal snapshots",
	.text = (const char *const[]){
		"An internal snapshot lies in the image itself and shares with the disk what has not changed since. A "
		"failure or a power cut leaves the image as it was, or with the work done.",
		"Where two have the same name, the first of the list is meant.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter snapshot -c before-upgrade disk.qcow2", "make one",
		"platter snapshot -l disk.qcow2", "which are there",
		"platter snapshot -a before-upgrade disk.qcow2", "go back",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct job {
	int action;         /* 'l' 'c' 'a' 'd' */
	const char *name;   /* of the snapshot */
	struct plt_open_options open;
};

static int list(struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_info *info;

	if (plt_disk_info(disk, &info, &err) < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	if (info->nsnapshots) {
		puts("Snapshot list:");
		cli_print_snapshots(info->snapshots, info->nsnapshots);
	}
	plt_info_free(info);
	return 0;
}

static int create(struct plt_disk *disk, const char *text, struct plt_error *err)
{
	char name[NAME_MAX_QEMU + 1];
	struct plt_snapshot s = { .name = name };

	snprintf(name, sizeof(name), "%s", text);
	return plt_snapshot_create(disk, &s, err);
}

/* By @first and, if there is none, the other way. */
static int either(int (*fn)(struct plt_disk *disk, const char *id, const char *name, struct plt_error *err),
		  struct plt_disk *disk, const char *text, bool id_first, struct plt_error *err)
{
	int r = fn(disk, id_first ? text : NULL, id_first ? NULL : text, err);

	if (r == -ENOENT)
		r = fn(disk, id_first ? NULL : text, id_first ? text : NULL, err);
	return r;
}

static int work(struct cli_args *a, struct job *j, const char *file)
{
	static const char *const verbs[] = { ['a'] = "apply", ['c'] = "create", ['d'] = "delete" };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	int r, closed;

	if (j->action != 'l' && a->force_share) {
		cli_error("Could not open '%s': force-share=on can only be used with read-only images", file);
		return 1;
	}
	if (cli_context(a, &ctx) < 0)
		return 1;
	if (j->action == 'l')
		j->open.flags |= PLT_OPEN_NO_BACKING;
	else
		j->open.flags |= PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING;
	r = cli_open(a, ctx, file, &j->open, &disk);
	if (r < 0) {
		plt_ctx_free(ctx);
		return 1;
	}
	switch (j->action) {
	case 'l':
		r = list(disk);
		break;
	case 'c':
		r = create(disk, j->name, &err);
		break;
	case 'a':
		r = either(plt_snapshot_apply, disk, j->name, true, &err);
		break;
	default:
		r = either(plt_snapshot_delete, disk, j->name, false, &err);
		break;
	}
	if (r == -ENOENT)
		cli_error(j->action == 'a' ? "Could not apply snapshot '%s': Failed to load snapshot: No such file or "
					     "directory" : "Could not delete snapshot '%s': snapshot not found", j->name);
	else if (r < 0)
		cli_error("Could not %s snapshot '%s': %s", verbs[j->action], j->name, err.text);
	err = (struct plt_error)PLT_ERROR_INIT;
	cli_rescue_tell(a, disk);
	closed = plt_disk_close(disk, r ? NULL : &err);
	if (!r && closed < 0)
		cli_error("%s", err.text);
	plt_ctx_free(ctx);
	return r || closed < 0;
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT };
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			j.open.format = a->arg;
			break;
		case 'l':
		case 'c':
		case 'a':
		case 'd':
			if (j.action)
				return cli_usage_error("Cannot mix '-l', '-a', '-c', '-d'");
			j.action = c;
			j.name = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (!j.action)
		j.action = 'l';
	return work(a, &j, a->argv[optind]);
}
