/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The platter program: finds the command and runs it.  Called by another name (a link named
 * qemu-img) it answers by that name.  Invariant: what was printed has reached stdout, or the exit
 * status says that it has not.
 */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cli/cli.h"

static int run_help(struct cli_args *a);

static const struct cli_opt help_opts[] = {
	{ OPT_MAN, "man", NULL, "print the manual page, as source for man(1)", CLI_ANY },
	{ 0 },
};

static const struct cli_command cli_help = {
	.name = "help",
	.operands = "[command]",
	.summary = "say how the program or one command is used",
	.groups = (const struct cli_opt *const[]){ help_opts, NULL },
	.run = run_help,
};

const struct cli_command *const cli_commands[] = {
	&cli_amend, &cli_bench, &cli_bitmap, &cli_chain, &cli_check, &cli_commit, &cli_compare, &cli_convert,
	&cli_create, &cli_dd, &cli_df, &cli_hash, &cli_help, &cli_info, &cli_io, &cli_map, &cli_measure, &cli_rebase,
	&cli_repair, &cli_resize, &cli_scan,
	&cli_snapshot, &cli_sparsify, &cli_undo, NULL,
};

const struct cli_command *cli_command_find(const char *name)
{
	for (size_t i = 0; cli_commands[i]; i++)
		if (!strcmp(cli_commands[i]->name, name))
			return cli_commands[i];
	return NULL;
}

static int not_found(const char *name)
{
	const char *near = NULL;

	for (size_t i = 0; cli_commands[i]; i++)
		near = cli_nearer(name, near, cli_commands[i]->name);
	if (near)
		return cli_usage_error("Command not found: %s (did you mean '%s'?)", name, near);
	return cli_usage_error("Command not found: %s", name);
}

static int run_help(struct cli_args *a)
{
	const struct cli_command *cmd;
	bool man = false;
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP)
			return a->status;
		man = c == OPT_MAN;
	}
	if (man) {
		cli_print_man();
		return 0;
	}
	if (optind == a->argc) {
		cli_print_help();
		return 0;
	}
	cmd = cli_command_find(a->argv[optind]);
	if (!cmd)
		return not_found(a->argv[optind]);
	cli_print_command_help(cmd);
	return 0;
}

/* The command @name; argv[0] stands before its arguments. */
static int run_command(const char *name, int argc, char **argv)
{
	struct cli_args a = { .argc = argc, .argv = argv, .cmd = cli_command_find(name) };
	int status;

	if (!a.cmd)
		return not_found(name);
	cli_verb = a.cmd->name;
	status = cli_rescue_end(&a, a.cmd->run(&a));
	free(a.shorts);
	free(a.longs);
	return status;
}

static int dispatch(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ "trace", required_argument, NULL, 'T' },
		{ "complete", no_argument, NULL, 'c' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	/* '+': what follows the command's name is the command's. */
	while ((c = getopt_long(argc, argv, "+:hVT:", longs, NULL)) != -1) {
		switch (c) {
		case 'h':
			cli_print_help();
			return 0;
		case 'V':
			cli_print_version();
			return 0;
		case 'c':
			return cli_complete(argc - optind, argv + optind);
		case 'T':
			return cli_usage_error("tracing (--trace) is not supported");
		case ':':
			return cli_usage_error("missing argument for option '%s'",
					       argv[optind - 1]);
		default:
			return cli_usage_error("unrecognized option '%s'", argv[optind - 1]);
		}
	}
	if (optind == argc)
		return cli_usage_error("Not enough arguments");
	argc -= optind;
	argv += optind;
	optind = 0; /* getopt starts anew */
	return run_command(argv[0], argc, argv);
}

/*
 * Called qemu-io, the command is "io" and all words are its own; a first word "io" is taken for the
 * command's name all the same, unless there is such a file, for those who write "PROGRAM io" and give
 * PROGRAM that name.
 */
static bool is_qemu_io(int argc, char **argv)
{
	return !strcmp(cli_program, "qemu-io") &&
	       !(argc > 1 && !strcmp(argv[1], "io") && access("io", F_OK) < 0);
}

int main(int argc, char **argv)
{
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	int status;

	/* libtool runs a program that is not installed yet as "lt-platter". */
	cli_program = slash ? slash + 1 : argc ? argv[0] : "platter";
	if (!strncmp(cli_program, "lt-", 3))
		cli_program += 3;
	setlocale(LC_ALL, "");
	/* Numbers keep their decimal point: others parse them. */
	setlocale(LC_NUMERIC, "C");
	status = is_qemu_io(argc, argv) ? run_command("io", argc, argv) : dispatch(argc, argv);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		cli_error("could not write to standard output: %s", strerror(errno));
		if (status == 0)
			status = 1;
	}
	return status;
}
