/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The commands of `platter io` that steer: waiting for requests, breakpoints (of a blkdebug), sleeping,
 * ends of every kind.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/io.h"

static int run_aio_flush(struct io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	io_drain(io);
	return 0;
}

const struct io_command io_aio_flush = {
	.name = "aio_flush",
	.summary = "completes all outstanding aio requests",
	.run = run_aio_flush,
};

/* ---- breakpoints ----------------------------------------------------------------------------- */

static int run_break(struct io *io, int argc, char **argv)
{
	unsigned i;
	int r;

	(void)argc;
	for (i = 0; i < IO_TAGS_MAX && io->tags[i]; i++)
		;
	r = i == IO_TAGS_MAX ? -ENOSPC : plt_debug(io->disk, PLT_DEBUG_BREAK, argv[1], argv[2]);
	if (r < 0)
		printf("Could not set breakpoint: %s\n", strerror(-r));
	else
		io->tags[i] = strdup(argv[2]);
	return r;
}

const struct io_command io_break = {
	.name = "break",
	.min = 2,
	.max = 2,
	.args = "event tag",
	.summary = "sets a breakpoint on event and tags the stopped request as tag",
	.run = run_break,
};

static int run_remove_break(struct io *io, int argc, char **argv)
{
	int r;

	(void)argc;
	io_look_held(io);
	if (io_is_held(io, argv[1])) {
		printf("blkdebug: Resuming request '%s'\n", argv[1]);
		io->held--;
	}
	r = plt_debug(io->disk, PLT_DEBUG_REMOVE, NULL, argv[1]);
	for (unsigned i = 0; i < IO_TAGS_MAX; i++)
		if (io->tags[i] && !strcmp(io->tags[i], argv[1])) {
			free(io->tags[i]);
			io->tags[i] = NULL;
		}
	if (r < 0)
		printf("Could not remove breakpoint %s: %s\n", argv[1], strerror(-r));
	return r;
}

const struct io_command io_remove_break = {
	.name = "remove_break",
	.min = 1,
	.max = 1,
	.args = "tag",
	.summary = "remove a breakpoint by tag",
	.run = run_remove_break,
};

static int run_resume(struct io *io, int argc, char **argv)
{
	int r;

	(void)argc;
	io_look_held(io);
	r = plt_debug(io->disk, PLT_DEBUG_RESUME, NULL, argv[1]);
	if (r < 0) {
		printf("Could not resume request: %s\n", strerror(-r));
	} else {
		printf("blkdebug: Resuming request '%s'\n", argv[1]);
		io->held--;
	}
	return r;
}

const struct io_command io_resume = {
	.name = "resume",
	.min = 1,
	.max = 1,
	.args = "tag",
	.summary = "resumes the request tagged as tag",
	.run = run_resume,
};

static int run_wait_break(struct io *io, int argc, char **argv)
{
	(void)argc;
	while (!io_is_held(io, argv[1])) {
		if (!plt_queue_pending(io->queue)) { /* else it would be a wait without end */
			cli_error("no request is under way that could stop at '%s'", argv[1]);
			return -ENOENT;
		}
		io_reap(io, 1);
	}
	io_look_held(io);
	return 0;
}

const struct io_command io_wait_break = {
	.name = "wait_break",
	.min = 1,
	.max = 1,
	.args = "tag",
	.summary = "waits for the suspension of a request",
	.run = run_wait_break,
};

/* ---- time and ends --------------------------------------------------------------------------- */

static int run_sleep(struct io *io, int argc, char **argv)
{
	struct timespec now, end;
	char *rest;
	long ms;

	(void)argc;
	errno = 0;
	ms = strtol(argv[1], &rest, 0);
	if (errno || ms < 0 || *rest) {
		printf("%s is not a valid number\n", argv[1]);
		return -EINVAL;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += ms / 1000;
	end.tv_nsec += ms % 1000 * 1000000;
	for (;;) {
		long long left;

		clock_gettime(CLOCK_MONOTONIC, &now);
		left = (long long)(end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
		if (left <= 0)
			return 0;
		left = left < 100 ? left : 100;
		if (io->queue)
			io_reap(io, (int)left);
		else
			nanosleep(&(struct timespec){ 0, left * 1000000 }, NULL);
	}
}

const struct io_command io_sleep = {
	.name = "sleep",
	.min = 1,
	.max = 1,
	.flags = IO_NO_FILE,
	.summary = "waits for the given value in milliseconds",
	.run = run_sleep,
};

static int run_abort(struct io *io, int argc, char **argv)
{
	(void)io;
	(void)argc;
	(void)argv;
	fflush(stdout);
	abort();
}

const struct io_command io_abort = {
	.name = "abort",
	.flags = IO_NO_FILE,
	.summary = "simulate a program crash using abort(3)",
	.run = run_abort,
};

static int run_sigraise(struct io *io, int argc, char **argv)
{
	int64_t sig;
	int r = io_number(argv[1], &sig);

	(void)io;
	(void)argc;
	if (r < 0)
		return r;
	if (sig > NSIG) {
		printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
		return -EINVAL;
	}
	fflush(stdout);
	fflush(stderr);
	raise((int)sig);
	return 0;
}

const struct io_command io_sigraise = {
	.name = "sigraise",
	.min = 1,
	.max = 1,
	.flags = IO_NO_FILE,
	.args = "signal",
	.summary = "raises a signal",
	.help = "  sigraise 9  ends the program on the spot, as a crash would\n",
	.run = run_sigraise,
};

static int run_quit(struct io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	io->quit = true;
	return 0;
}

const struct io_command io_quit = {
	.name = "quit",
	.alias = "q",
	.min = -1,
	.max = -1,
	.flags = IO_NO_FILE,
	.summary = "exit the program",
	.run = run_quit,
};
