/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Everything that describes the commands: --help, the manual page, and the lists for completion.
 * Invariant: all of it comes from the commands' tables, so that nothing can be documented and not
 * accepted, or accepted and not documented.  Programs search the text of --help: a command and all
 * its options stay on one line there.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

/* The qemu-img whose behaviour this release has: clients decide by it what they may use. */
#define QEMU_VERSION "7.2.22"

static const char *const repairs[] = { "leaks", "all", NULL };
static const char *const digests[] = { "sha256", "sha512", "sha1", "md5", "blake2b512", NULL };

static const char manual_about[] =
	"platter makes, describes, copies, compares and checks disk images. Called by the name "
	"qemu-img (as a link) it takes qemu-img's place: commands, options, exit statuses and "
	"what is printed are the same.";

static const char *const global_options[][2] = {
	{ "-h, --help", "print this help, or with a command that command's" },
	{ "-V, --version", "print the version" },
	{ "-T, --trace", "refused: there is nothing to trace" },
};

/* ---- parts ----------------------------------------------------------------------------------- */

/* "[-f fmt] [--output=ofmt] ..." */
static void print_synopsis(const struct cli_command *cmd)
{
	printf("%s", cmd->name);
	for (size_t g = 0; cmd->groups[g]; g++) {
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			if (!o->help)
				continue;
			if (o->val < 256)
				printf(" [-%c%s%s]", o->val, o->arg ? " " : "",
				       o->arg ? o->arg : "");
			else
				printf(" [--%s%s%s]", o->name, o->arg ? "=" : "",
				       o->arg ? o->arg : "");
		}
	}
	printf(" %s\n", cmd->operands);
}

/* "-f, --format=fmt" */
static void option_heading(const struct cli_opt *o, char *ret, size_t size)
{
	size_t n = 0;

	if (o->val < 256)
		n = (size_t)snprintf(ret, size, "-%c%s", o->val, o->name ? ", " : "");
	if (o->name)
		n += (size_t)snprintf(ret + n, size - n, "--%s", o->name);
	if (o->arg)
		snprintf(ret + n, size - n, "%s%s", o->name ? "=" : " ", o->arg);
}

static void print_formats(void)
{
	const char *name;

	printf("Supported formats:");
	for (unsigned i = 0; (name = plt_format_name(i)); i++)
		printf(" %s", name);
	putchar('\n');
}

void cli_print_version(void)
{
	if (!strcmp(cli_program, "qemu-img"))
		printf("qemu-img version %s (platter %s)\nCopyright (c) the platter authors\n",
		       QEMU_VERSION, plt_version());
	else
		printf("platter version %s\n", plt_version());
}

/* ---- --help ---------------------------------------------------------------------------------- */

void cli_print_help(void)
{
	/* Programs look for the version in the first line here, too. */
	cli_print_version();
	printf("usage: %s [standard options] command [command options]\n"
	       "Disk image utility\n\n",
	       cli_program);
	for (size_t i = 0; i < sizeof(global_options) / sizeof(global_options[0]); i++)
		printf("    %-20s %s\n", global_options[i][0], global_options[i][1]);
	printf("\nCommand syntax:\n");
	for (size_t i = 0; cli_commands[i]; i++) {
		printf("  ");
		print_synopsis(cli_commands[i]);
	}
	printf("\nCommands:\n");
	for (size_t i = 0; cli_commands[i]; i++)
		printf("  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
	printf("\nSizes are bytes; the suffixes k, M, G, T, P and E stand for powers of 1024.\n"
	       "Names are paths, \"file:path\", \"json:{...}\" or, with --image-opts, lists of options.\n"
	       "'%s command --help' says more of one command.\n\n",
	       cli_program);
	print_formats();
}

/* @text in lines of at most 96 columns, each behind @indent blanks; roff's font marks left out. */
static void print_wrapped(const char *text, int indent)
{
	int column = 0;

	while (*text) {
		char word[128];
		size_t len = strcspn(text, " "), n = 0;

		for (size_t i = 0; i < len && n < sizeof(word) - 1; i++) {
			if (!strncmp(text + i, "\\f", 2))
				i += 2;
			else
				word[n++] = text[i];
		}
		if (column && column + 1 + (int)n > 96) {
			putchar('\n');
			column = 0;
		}
		if (!column)
			column = printf("%*s%.*s", indent, "", (int)n, word);
		else
			column += printf(" %.*s", (int)n, word);
		text += len;
		text += strspn(text, " ");
	}
	putchar('\n');
}

/* What a command's own text does not say of its status. */
static const char *exit_status(const struct cli_command *cmd)
{
	bool rescues = false;

	for (size_t i = 0; cmd->text && cmd->text[i]; i++)
		if (strstr(cmd->text[i], "Exit status") || strstr(cmd->text[i], "The status is"))
			return NULL;
	for (size_t g = 0; cmd->groups[g]; g++)
		rescues = rescues || cmd->groups[g] == cli_open_opts;
	return rescues ? "Exit status: 0 done; 1 failed; with --rescue also 2 something is lost, inferred or still wrong; 3 "
			 "space is lost, and nothing else." : "Exit status: 0 done; 1 failed.";
}

void cli_print_command_help(const struct cli_command *cmd)
{
	const char *status = exit_status(cmd);
	char heading[80];

	printf("usage: %s ", cli_program);
	print_synopsis(cmd);
	printf("%s: %s\n", cmd->name, cmd->summary);
	for (size_t i = 0; cmd->text && cmd->text[i]; i++) {
		putchar('\n');
		print_wrapped(cmd->text[i], 0);
	}
	putchar('\n');
	if (status) {
		print_wrapped(status, 0);
		putchar('\n');
	}
	for (size_t g = 0; cmd->groups[g]; g++) {
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			if (!o->help)
				continue;
			option_heading(o, heading, sizeof(heading));
			printf("  %s\n", heading);
			print_wrapped(o->help, 8);
		}
	}
	printf("  -h, --help\n        print this help\n");
	if (cmd->examples)
		printf("\nExamples:\n");
	for (size_t i = 0; cmd->examples && cmd->examples[i]; i += 2)
		printf("  %s\n        %s\n", cmd->examples[i], cmd->examples[i + 1]);
}

/* ---- the manual page ------------------------------------------------------------------------- */

/* @text as roff: a hyphen that stands for itself is escaped; font marks stay. */
static void print_roff(const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", stdout);
	for (; *text; text++) {
		if (*text == '-')
			fputs("\\-", stdout);
		else if (*text == '\\' && text[1] != 'f')
			fputs("\\e", stdout);
		else
			putchar(*text);
	}
}

static void print_roff_line(const char *text)
{
	print_roff(text);
	putchar('\n');
}

static void print_man_synopsis(const struct cli_command *cmd)
{
	char heading[80];

	printf(".TP\n.B platter %s\n", cmd->name);
	for (size_t g = 0; cmd->groups[g]; g++) {
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			if (!o->help)
				continue;
			if (o->val < 256)
				snprintf(heading, sizeof(heading), "[-%c%s%s]", o->val,
					 o->arg ? " " : "", o->arg ? o->arg : "");
			else
				snprintf(heading, sizeof(heading), "[--%s%s%s]", o->name,
					 o->arg ? "=" : "", o->arg ? o->arg : "");
			print_roff_line(heading);
		}
	}
	printf(".I ");
	print_roff_line(cmd->operands);
}

static void print_man_examples(const struct cli_command *cmd)
{
	for (size_t i = 0; cmd->examples && cmd->examples[i]; i += 2) {
		printf(".TP\n.B ");
		print_roff_line(cmd->examples[i]);
		print_roff_line(cmd->examples[i + 1]);
	}
}

static void print_man_command(const struct cli_command *cmd)
{
	const char *status = exit_status(cmd);
	char heading[80];

	printf(".SS %s\n", cmd->name);
	printf("platter %s: ", cmd->name);
	print_roff_line(cmd->summary);
	for (size_t i = 0; cmd->text && cmd->text[i]; i++) {
		puts(".PP");
		print_roff_line(cmd->text[i]);
	}
	if (status) {
		puts(".PP");
		print_roff_line(status);
	}
	for (size_t g = 0; cmd->groups[g]; g++) {
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			if (!o->help)
				continue;
			option_heading(o, heading, sizeof(heading));
			printf(".TP\n.B ");
			print_roff_line(heading);
			print_roff_line(o->help);
		}
	}
}

void cli_print_man(void)
{
	printf(".\\\" Made by 'platter help --man'; do not edit.\n");
	printf(".TH PLATTER 1 \"\" \"platter %s\" \"User Commands\"\n", plt_version());
	printf(".SH NAME\nplatter \\- disk image utility\n.SH SYNOPSIS\n");
	for (size_t i = 0; cli_commands[i]; i++)
		print_man_synopsis(cli_commands[i]);
	printf(".SH DESCRIPTION\n");
	print_roff_line(manual_about);
	printf(".PP\nSizes are bytes; the suffixes k, M, G, T, P and E stand for powers of 1024.\n"
	       "A name is a path, \\(lqfile:path\\(rq, \\(lqjson:{...}\\(rq or, with\n"
	       ".BR \\-\\-image\\-opts ,\na list of options. Options may follow operands.\n");
	printf(".SH OPTIONS\n");
	for (size_t i = 0; i < sizeof(global_options) / sizeof(global_options[0]); i++) {
		printf(".TP\n.B ");
		print_roff_line(global_options[i][0]);
		print_roff_line(global_options[i][1]);
	}
	printf(".SH COMMANDS\n");
	for (size_t i = 0; cli_commands[i]; i++)
		print_man_command(cli_commands[i]);
	printf(".SH EXAMPLES\n");
	for (size_t i = 0; cli_commands[i]; i++)
		print_man_examples(cli_commands[i]);
	printf(".SH SIGNALS\nOn SIGUSR1 a command with progress prints one line of it to stderr, if\n"
	       ".B \\-p\nwas not given.\n"
	       ".SH EXIT STATUS\n0 for success and 1 for an error, unless the command says otherwise.\n"
	       ".SH SEE ALSO\n.BR qemu\\-img (1)\n");
}

/* ---- completion ------------------------------------------------------------------------------ */

static int print_list(const char *const *v)
{
	for (; *v; v++)
		puts(*v);
	return 0;
}

static int complete_options(const struct cli_command *cmd)
{
	puts("--help");
	for (size_t g = 0; cmd->groups[g]; g++)
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			if (!o->help)
				continue;
			if (o->name)
				printf("--%s\n", o->name);
			if (o->val < 256)
				printf("-%c\n", o->val);
		}
	return 0;
}

static int complete_kind(enum cli_kind kind)
{
	const char *name;

	switch (kind) {
	case CLI_FILE:
		puts("@file");
		break;
	case CLI_DIR:
		puts("@dir");
		break;
	case CLI_FORMAT:
		for (unsigned i = 0; (name = plt_format_name(i)); i++)
			puts(name);
		break;
	case CLI_CACHE:
		return print_list(cli_cache_modes);
	case CLI_OUTPUT:
		return print_list(cli_output_formats);
	case CLI_REPAIR:
		return print_list(repairs);
	case CLI_DIGEST:
		return print_list(digests);
	case CLI_ANY:
		break;
	}
	return 0;
}

/* What may follow @option of @cmd; nothing is printed for one that takes no argument. */
static int complete_value(const struct cli_command *cmd, const char *option)
{
	for (size_t g = 0; cmd->groups[g]; g++)
		for (const struct cli_opt *o = cmd->groups[g]; o->val; o++) {
			bool is_long = o->name && !strncmp(option, "--", 2) &&
				       !strcmp(option + 2, o->name);
			bool is_short = o->val < 256 && option[0] == '-' && option[1] == o->val &&
					!option[2];

			if ((is_long || is_short) && o->arg) {
				if (o->kind == CLI_ANY)
					puts("@any");
				return complete_kind(o->kind);
			}
		}
	return 0;
}

/*
 * platter --complete commands
 * platter --complete options COMMAND
 * platter --complete value COMMAND OPTION
 * platter --complete operand COMMAND
 * One word a line; "@file", "@dir" and "@any" stand for what the shell completes by itself.
 */
int cli_complete(int argc, char **argv)
{
	const struct cli_command *cmd = argc > 1 ? cli_command_find(argv[1]) : NULL;

	if (argc == 1 && !strcmp(argv[0], "commands")) {
		for (size_t i = 0; cli_commands[i]; i++)
			puts(cli_commands[i]->name);
		return 0;
	}
	if (cmd && argc == 2 && !strcmp(argv[0], "options"))
		return complete_options(cmd);
	if (cmd && argc == 2 && !strcmp(argv[0], "operand"))
		return complete_kind(cmd->operand_kind);
	if (cmd && argc == 3 && !strcmp(argv[0], "value"))
		return complete_value(cmd, argv[2]);
	return 1;
}
