/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The commands of `platter io`: their table, help, and the running of one line.  A line is words
 * between blanks, without quoting.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io.h"

const struct io_command *const io_commands[] = {
	&io_abort, &io_aio_flush, &io_aio_read, &io_aio_write, &io_alloc, &io_break, &io_close, &io_discard, &io_flush,
	&io_help, &io_info, &io_length, &io_map, &io_open, &io_quit, &io_read, &io_readv, &io_remove_break, &io_reopen,
	&io_resume, &io_sigraise, &io_sleep, &io_truncate, &io_wait_break, &io_write, &io_writev, NULL,
};

static const struct io_command *find(const char *name)
{
	for (unsigned i = 0; io_commands[i]; i++)
		if (!strcmp(io_commands[i]->name, name) ||
		    (io_commands[i]->alias && !strcmp(io_commands[i]->alias, name)))
			return io_commands[i];
	return NULL;
}

static void one_line(const char *name, const struct io_command *c)
{
	printf("%s ", name);
	if (c->args)
		printf("%s ", c->args);
	printf("-- %s\n", c->summary);
}

int io_usage(const char *name)
{
	const struct io_command *c = find(name);

	one_line(c->name, c);
	return -EINVAL;
}

static int run_help(struct io *io, int argc, char **argv)
{
	const struct io_command *c;

	(void)io;
	if (argc < 2) {
		for (unsigned i = 0; io_commands[i]; i++)
			one_line(io_commands[i]->name, io_commands[i]);
		printf("\nUse 'help commandname' for extended help.\n");
		return 0;
	}
	c = find(argv[1]);
	if (!c) {
		printf("command %s not found\n", argv[1]);
		return -EINVAL;
	}
	one_line(argv[1], c);
	if (c->help)
		printf("\n%s\n", c->help);
	return 0;
}

const struct io_command io_help = {
	.name = "help",
	.alias = "?",
	.max = 1,
	.flags = IO_NO_FILE,
	.args = "[command]",
	.summary = "help for one or all commands",
	.run = run_help,
};

static int run(struct io *io, int argc, char **argv)
{
	const struct io_command *c = find(argv[0]);
	int n = argc - 1;

	if (!c) {
		fprintf(stderr, "command \"%s\" not found\n", argv[0]);
		return -EINVAL;
	}
	if (!(c->flags & IO_NO_FILE) && !io->disk) {
		fprintf(stderr, "no file open, try 'help open'\n");
		return -EINVAL;
	}
	if (n < c->min || (c->max >= 0 && n > c->max)) {
		fprintf(stderr, "bad argument count %d to %s, expected ", n, argv[0]);
		if (c->max < 0)
			fprintf(stderr, "at least %d arguments\n", c->min);
		else if (c->min == c->max)
			fprintf(stderr, "%d arguments\n", c->min);
		else
			fprintf(stderr, "between %d and %d arguments\n", c->min, c->max);
		return -EINVAL;
	}
	if (c->flags & IO_WRITES && io->how.read_only && !io->how.scratch) {
		cli_error("Block node is read-only");
		return -EINVAL;
	}
	optind = 0; /* getopt starts anew */
	return c->run(io, argc, argv);
}

int io_line(struct io *io, const char *line)
{
	char *copy = strdup(line), *save = NULL;
	char **argv = calloc(strlen(line) / 2 + 2, sizeof(*argv));
	int argc = 0, r = 0;

	if (!copy || !argv) {
		cli_error("out of memory");
		r = -ENOMEM;
	} else {
		for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save))
			argv[argc++] = p;
		if (argc)
			r = run(io, argc, argv);
	}
	free(copy);
	free(argv);
	return r;
}
