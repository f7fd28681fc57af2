/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * io: an image read, written and verified by a script, as qemu-io does it.  This file has the command
 * line and the loop over the lines; io_*.c have the commands.  Invariant: whatever is under way when
 * the script ends is completed and reported, and a disk that cannot be closed cleanly is a failure.
 *
 * Requests run on a queue of the library (plt_queue_*), not on threads of the program: it is what a
 * virtual machine would drive, so scripts test that, and requests complete in this thread, where
 * printing about them needs no lock.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/io.h"

/* A request that is held at a breakpoint keeps a worker. */
#define WORKERS (IO_TAGS_MAX + 4)

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'c', "cmd", "string", "run a command of the script; without this they are read from stdin, one a line",
	  CLI_ANY },
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 'r', "read-only", NULL, "open the image for reading only", CLI_ANY },
	{ 's', "snapshot", NULL,
	  "what is written goes to a temporary file, and is gone when the image is closed", CLI_ANY },
	{ 'n', "nocache", NULL, "as -t none", CLI_ANY },
	{ 'C', "copy-on-read", NULL, "what is read from a layer below is written to the image too", CLI_ANY },
	{ 'm', "misalign", NULL, "use memory that is not aligned for O_DIRECT", CLI_ANY },
	{ 'k', "native-aio", NULL, "as -i native", CLI_ANY },
	{ 'i', "aio", "mode",
	  "threads, or the kernel's asynchronous requests where it has them: native, io_uring", CLI_ANY },
	{ 't', "cache", "mode",
	  "cache mode: none, writeback, ...; without it each write is durable when it is reported", CLI_CACHE },
	{ 'd', "discard", "mode", "unmap, or ignore: discards are not passed on", CLI_ANY },
	{ 'T', "trace", "spec", "refused: there is nothing to trace", CLI_ANY },
	{ 'V', "version", NULL, "print the version", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_io = {
	.name = "io",
	.operands = "[filename]",
	.operand_kind = CLI_FILE,
	.summary = "read, write and verify patterns by a script",
	.text = (const char *const[]){
		"Takes the place of \\fBqemu-io\\fR, also when it is called by that name: its commands "
		"and what they print are the same; \\fBplatter io -c help\\fR lists them.",
		"The name \\fBblkdebug:CONF:FILE\\fR, or a node \"driver\": \"blkdebug\" with "
		"\"inject-error\" and \"set-state\" rules, lays QEMU's fault rules over a file: "
		"operations fail by what they are for (event), by kind (iotype), place (sector) and "
		"state, and the commands break, wait_break, resume and remove_break hold requests there.",
		"The exit status is 1 if one of the commands failed.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter io -c 'write -P 0xaa 0 64k' -c 'read -P 0xaa 0 64k' disk.qcow2",
		"write a pattern, and verify that it is there",
		"platter io -c 'aio_write 0 1M' -c 'aio_write 1M 1M' -c aio_flush disk.qcow2",
		"two requests at once",
		"platter io -r -c map disk.qcow2", "which areas the image itself holds",
		"platter io -c 'write 0 64k' blkdebug:faults.conf:disk.qcow2", "what becomes of it if writes fail",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

/* ---- lines from stdin ------------------------------------------------------------------------ */

struct reader {
	char *buf;
	size_t len, cap, used;
	bool end;
};

/* The next line (until the next call), or NULL.  Requests go on while it waits. */
static const char *next_line(struct io *io, struct reader *r)
{
	char *nl, *line;
	ssize_t n;

	memmove(r->buf, r->buf + r->used, r->len - r->used);
	r->len -= r->used;
	r->used = 0;
	while (!(nl = memchr(r->buf, '\n', r->len)) && !r->end) {
		struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = -1, .events = POLLIN } };

		io_reap(io, 0);
		fflush(stdout);
		if (io->queue && plt_queue_pending(io->queue))
			p[1].fd = plt_queue_fd(io->queue);
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			r->end = true;
		if (!p[0].revents)
			continue;
		if (r->len + 1 >= r->cap) {
			char *grown = realloc(r->buf, r->cap * 2);

			if (!grown)
				return NULL;
			r->buf = grown;
			r->cap *= 2;
		}
		n = read(STDIN_FILENO, r->buf + r->len, r->cap - r->len - 1);
		if (n > 0)
			r->len += (size_t)n;
		else if (n == 0 || errno != EINTR)
			r->end = true;
	}
	if (!nl && !r->len)
		return NULL;
	line = r->buf;
	if (!nl)
		nl = r->buf + r->len;
	r->used = nl < r->buf + r->len ? (size_t)(nl - r->buf) + 1 : r->len;
	*nl = '\0';
	return line;
}

static int from_stdin(struct io *io)
{
	struct reader r = { .cap = 4096 };
	const char *line;
	int failed = 0;

	r.buf = malloc(r.cap);
	while (r.buf && !io->quit) {
		printf("qemu-io> ");
		fflush(stdout);
		line = next_line(io, &r);
		if (!line)
			break;
		if (io_line(io, line) < 0)
			failed = 1;
	}
	free(r.buf);
	return failed;
}

/* ---- the command line ------------------------------------------------------------------------ */

struct script {
	const char **v;
	size_t n;
};

static bool add_line(struct script *s, const char *line)
{
	const char **grown = realloc(s->v, (s->n + 1) * sizeof(*grown));

	if (!grown) {
		cli_error("out of memory");
		return false;
	}
	s->v = grown;
	s->v[s->n++] = line;
	return true;
}

/* 0: go on; 1: end with *ret_status. */
static int parse(struct io *io, struct cli_args *a, struct io_how *how, struct script *script, int *ret_status)
{
	int c;

	*ret_status = 1;
	while ((c = cli_next(a)) != CLI_END) {
		bool ok = true;

		switch (c) {
		case CLI_STOP:
			*ret_status = a->status;
			return 1;
		case 'c':
			ok = add_line(script, a->arg);
			break;
		case 'f':
			free(how->format);
			ok = (how->format = strdup(a->arg)) != NULL;
			break;
		case 'r':
			how->read_only = true;
			break;
		case 's':
			how->scratch = true;
			break;
		case 'n':
			how->cache = "none";
			how->sync = false;
			break;
		case 'm':
			io->misalign = true;
			break;
		case 'k':
			how->threads = false;
			break;
		case 'i':
			ok = io_aio_mode(a->arg, &how->threads);
			break;
		case 't':
			ok = io_cache(a->arg, &how->cache, &how->sync);
			break;
		case 'd':
			ok = io_discard_mode(a->arg, &how->no_discard);
			break;
		case 'C':
			how->copy_on_read = true;
			break;
		case 'T':
			cli_usage_error("tracing (--trace) is not supported");
			return 1;
		case 'V':
			cli_print_version();
			*ret_status = 0;
			return 1;
		}
		if (!ok)
			return 1;
	}
	if (a->argc - optind > 1) {
		*ret_status = cli_usage_error("Expecting one image file name");
		return 1;
	}
	if (how->format && a->image_opts) {
		cli_error("--image-opts and -f are mutually exclusive");
		return 1;
	}
	how->force_share = a->force_share;
	io->image_opts = a->image_opts;
	return 0;
}

static int context(struct io *io)
{
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;

	o.workers = WORKERS;
	return cli_context_with(io->args, &o, &io->ctx);
}

static int run(struct cli_args *a)
{
	struct io io = { .args = a };
	struct io_how how = { .sync = true };
	struct script script = { 0 };
	int status;

	signal(SIGPIPE, SIG_IGN);
	if (parse(&io, a, &how, &script, &status))
		goto out;
	status = 1;
	if (context(&io) < 0)
		goto out;
	if (optind < a->argc) {
		if (a->image_opts ? !io_how_option(&how, a->argv[optind]) :
				    !(how.name = strdup(a->argv[optind])))
			goto out;
		if (io_open_disk(&io, &how) < 0)
			goto out;
	}
	status = 0;
	for (size_t i = 0; i < script.n && !io.quit; i++)
		if (io_line(&io, script.v[i]) < 0)
			status = 1;
	if (!script.v)
		status = from_stdin(&io);
	if (io_close_disk(&io) < 0)
		status = 1;
out:
	io_how_release(&how);
	io_how_release(&io.how);
	plt_ctx_free(io.ctx);
	free(script.v);
	return status;
}
