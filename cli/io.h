/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CLI_IO_H
#define PLT_CLI_IO_H

/*
 * What the files of `platter io` share: the session (an open disk, a queue of requests on it), the
 * table of its commands, and requests.  All requests pass through the queue, those that are waited
 * for too: so they run beside those that are not, as those of a guest would.
 */
#include <time.h>

#include "cli/cli.h"

/* The most that one request may be; QEMU's. */
#define IO_MAX_BYTES INT64_C(2147483136)
#define IO_TAGS_MAX 64

/* How an image is, or is to be, opened. */
struct io_how {
	char *name;    /* NULL: the options say all */
	char *format;
	char **options; /* NULL-terminated; "key=value,..." */
	unsigned noptions;
	unsigned before; /* of them, those that an earlier opening had */
	const char *cache; /* of the file */
	bool sync;      /* every write is durable when it completes */
	bool read_only, scratch, copy_on_read, force_share, again /* reopened */, image_opts, no_discard, threads;
};

struct io {
	const struct cli_args *args;
	struct plt_ctx *ctx;
	struct plt_disk *disk; /* NULL: none is open */
	struct plt_queue *queue;
	struct io_how how;     /* of the disk; what the command line said, before the first one */
	bool image_opts;       /* names are lists of options */
	bool misalign, quit;
	char *tags[IO_TAGS_MAX]; /* breakpoints whose requests have not been seen held yet */
	unsigned held;           /* requests seen held and not let go */
};

/* ---- commands: io_table.c -------------------------------------------------------------------- */

enum { IO_NO_FILE = 1 << 0 /* works without a disk */, IO_WRITES = 1 << 1 };

struct io_command {
	const char *name, *alias;
	int min, max; /* arguments; max -1: any number */
	unsigned flags;
	const char *args, *summary; /* args NULL: it takes none */
	const char *help;           /* more, for `help NAME`; NULL: nothing */
	int (*run)(struct io *io, int argc, char **argv);
};

extern const struct io_command *const io_commands[]; /* in alphabetical order, NULL-terminated */
/* Run one line.  Negative: it failed, and that has been said. */
int io_line(struct io *io, const char *line);
/* The line that says how the command is used.  -EINVAL. */
int io_usage(const char *name);

extern const struct io_command io_read, io_readv, io_write, io_writev, io_aio_read, io_aio_write, io_aio_flush,
	io_discard, io_flush, io_truncate, io_length, io_info, io_map, io_alloc, io_open, io_close, io_reopen,
	io_break, io_remove_break, io_resume, io_wait_break, io_sleep, io_sigraise, io_abort, io_help, io_quit;

/* ---- the disk: io_open.c --------------------------------------------------------------------- */

/* The file is taken over: *how is the session's from then on, or released. */
int io_open_disk(struct io *io, struct io_how *how);
/* Drain, let go of what is held, close.  Says what may be lost. */
int io_close_disk(struct io *io);
void io_how_release(struct io_how *how);
bool io_how_option(struct io_how *how, const char *text);
/* -t: "none" and so on.  False: there is no such mode, and that has been said. */
bool io_cache(const char *mode, const char **ret_cache, bool *ret_sync);
bool io_discard_mode(const char *mode, bool *ret_no_discard);
bool io_aio_mode(const char *mode, bool *ret_threads);

/* ---- arguments: io_args.c -------------------------------------------------------------------- */

/* A size or an offset; says what is wrong and returns a negative errno. */
int io_number(const char *text, int64_t *ret);
int io_pattern(const char *text, int *ret);

/* ---- requests: io_request.c ------------------------------------------------------------------ */

struct io_request {
	struct plt_aio aio;
	struct plt_error err;
	bool done;
	int result;
	void (*finish)(struct io *io, struct io_request *r); /* nobody waits: called, then released */

	uint8_t *buf;       /* all of its bytes; aio.iov are parts of it */
	void *memory;       /* what buf lies in */
	struct iovec *iov;
	uint64_t len;
	struct timespec begun, took;
	/* what the command line said of it */
	bool machine, quiet, dump, verify;
	int pattern;
};

/* New: n parts of the lengths of texts (create), each byte @fill.  NULL: said what is wrong. */
struct io_request *io_request_new(struct io *io, enum plt_aio_kind kind, int64_t off, char **lens, int n,
				  int fill);
/* The same for one length that is known.  @fill -1: without bytes. */
struct io_request *io_request_len(struct io *io, enum plt_aio_kind kind, int64_t off, uint64_t len, int fill);
void io_request_free(struct io_request *r);
/* Hand over; with r->finish it is gone when it has completed. */
void io_submit(struct io *io, struct io_request *r);
/* "write failed: Input/output error" */
void io_failed(const char *what, int result);
/* Until it has completed, while others go on; its result. */
int io_wait(struct io *io, struct io_request *r);
int io_run(struct io *io, struct io_request *r); /* both */
/* It has taken the time since @begun; done for whatever completes. */
void io_took(struct io_request *r, const struct timespec *begun);
/* Take completions; with @ms sleep at most so long for one (-1: as long as it takes). */
void io_reap(struct io *io, int ms);
void io_drain(struct io *io);
/* Before a call of the library that may wait for what is under way: drain, unless something is held. */
void io_settle(struct io *io);
/* Say which requests have come to be held at breakpoints. */
void io_look_held(struct io *io);
bool io_is_held(struct io *io, const char *tag);

/* ---- reports: io_report.c -------------------------------------------------------------------- */

/* "64 KiB", "1.500 MiB": three decimals, or none. */
#define IO_SIZE_MAX 64
void io_size_text(double value, char ret[IO_SIZE_MAX]);
/* "wrote 512/512 bytes at offset 0", and how fast. */
void io_report(const char *done, const struct io_request *r, int64_t off, uint64_t len);
void io_dump(const uint8_t *buf, int64_t off, uint64_t len);
/* Do the bytes [skip, skip+len) have the pattern?  Says so if not. */
bool io_verify(const struct io_request *r, int pattern, uint64_t skip, uint64_t len);

#endif
