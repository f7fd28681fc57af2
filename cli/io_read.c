/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The commands of `platter io` that read: read, readv, aio_read. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/io.h"

#define UNREAD 0xab /* what a buffer holds before it is read into */

struct flags {
	bool state, machine, quiet, dump, verify, part_len, part_skip;
	int pattern;
	int64_t skip, len;
};

/* *ret_status for the command to end with; false: go on. */
static bool parse(int argc, char **argv, const char *letters, struct flags *f, int *ret_status)
{
	int c, r = 0;

	*f = (struct flags){ 0 };
	while (r == 0 && (c = getopt(argc, argv, letters)) != -1) {
		switch (c) {
		case 'b':
			f->state = true;
			break;
		case 'C':
			f->machine = true;
			break;
		case 'i':
			printf("injecting invalid read request\n");
			*ret_status = 0;
			return true;
		case 'l':
			f->part_len = true;
			r = io_number(optarg, &f->len);
			break;
		case 'p': /* once the way to ask for pread */
			break;
		case 'P':
			f->verify = true;
			r = io_pattern(optarg, &f->pattern);
			break;
		case 'q':
			f->quiet = true;
			break;
		case 's':
			f->part_skip = true;
			r = io_number(optarg, &f->skip);
			break;
		case 'v':
			f->dump = true;
			break;
		default:
			r = io_usage(argv[0]);
		}
	}
	*ret_status = r;
	return r < 0;
}

static void give(struct io_request *r, const struct flags *f)
{
	r->machine = f->machine;
	r->quiet = f->quiet;
	r->dump = f->dump;
	r->verify = f->verify;
	r->pattern = f->pattern;
}

/* What has been read.  Negative: it is not what was expected. */
static int show(const struct io_request *r, uint64_t skip, uint64_t len)
{
	int ret = r->verify && !io_verify(r, r->pattern, skip, len) ? -EINVAL : 0;

	if (r->quiet)
		return ret;
	if (r->dump)
		io_dump(r->buf, (int64_t)r->aio.off, r->len);
	io_report("read", r, (int64_t)r->aio.off, r->len);
	return ret;
}

/* ---- read ------------------------------------------------------------------------------------ */

static int run_state(struct io *io, struct io_request *r)
{
	struct timespec begun;
	int ret;

	io_settle(io);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	ret = plt_read_vmstate(io->disk, r->aio.off, r->buf, (size_t)r->len, NULL);
	io_took(r, &begun);
	return ret;
}

static int read_checked(struct io *io, const struct flags *f, int64_t off, int64_t count)
{
	struct io_request *r = io_request_len(io, PLT_AIO_READ, off, (uint64_t)count, UNREAD);
	int ret;

	if (!r)
		return -ENOMEM;
	give(r, f);
	ret = f->state ? run_state(io, r) : io_run(io, r);
	if (ret < 0)
		io_failed("read", ret);
	else
		ret = show(r, (uint64_t)f->skip, (uint64_t)f->len);
	io_request_free(r);
	return ret;
}

static int run_read(struct io *io, int argc, char **argv)
{
	int64_t off, count;
	struct flags f;
	int r;

	if (parse(argc, argv, "bCl:pP:qs:v", &f, &r))
		return r;
	if (optind != argc - 2)
		return io_usage(argv[0]);
	if ((r = io_number(argv[optind], &off)) < 0 || (r = io_number(argv[optind + 1], &count)) < 0)
		return r;
	if (count > IO_MAX_BYTES) {
		printf("length cannot exceed %" PRId64 ", given %s\n", IO_MAX_BYTES, argv[optind + 1]);
		return -EINVAL;
	}
	if (!f.verify && (f.part_len || f.part_skip))
		return io_usage(argv[0]);
	if (!f.part_len)
		f.len = count - f.skip;
	if (f.len < 0 || f.skip > count || f.len > count - f.skip) {
		printf("pattern verification range exceeds end of read data\n");
		return -EINVAL;
	}
	if (f.state && off % 512) {
		printf("%" PRId64 " is not a sector-aligned value for 'offset'\n", off);
		return -EINVAL;
	}
	if (f.state && count % 512) {
		printf("%" PRId64 " is not a sector-aligned value for 'count'\n", count);
		return -EINVAL;
	}
	return read_checked(io, &f, off, count);
}

const struct io_command io_read = {
	.name = "read",
	.alias = "r",
	.min = 2,
	.max = -1,
	.args = "[-abCqv] [-P pattern [-s off] [-l len]] off len",
	.summary = "reads a number of bytes at a specified offset",
	.help = "  read -v 512 1k      shows the kilobyte that begins at byte 512\n"
		"  read -P 0xcd 0 64k  says if one of the first 65536 bytes is not 0xcd\n"
		"\n"
		"  -P  compare with a pattern byte; -s skips the first bytes, -l is how many to compare\n"
		"  -v  print the bytes\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n"
		"  -b  of the virtual machine's state: refused\n"
		"  -p  ignored\n",
	.run = run_read,
};

/* ---- readv, aio_read ------------------------------------------------------------------------- */

static struct io_request *prepare(struct io *io, int argc, char **argv, const char *letters, int *ret_status)
{
	struct io_request *r;
	struct flags f;
	int64_t off;

	if (parse(argc, argv, letters, &f, ret_status))
		return NULL;
	if (optind > argc - 2) {
		*ret_status = io_usage(argv[0]);
		return NULL;
	}
	if ((*ret_status = io_number(argv[optind], &off)) < 0)
		return NULL;
	r = io_request_new(io, PLT_AIO_READ, off, argv + optind + 1, argc - optind - 1, UNREAD);
	if (r)
		give(r, &f);
	else
		*ret_status = -EINVAL;
	return r;
}

static int run_readv(struct io *io, int argc, char **argv)
{
	int ret;
	struct io_request *r = prepare(io, argc, argv, "CP:qv", &ret);

	if (!r)
		return ret;
	ret = io_run(io, r);
	if (ret < 0)
		io_failed("readv", ret);
	else
		ret = show(r, 0, r->len);
	io_request_free(r);
	return ret;
}

const struct io_command io_readv = {
	.name = "readv",
	.min = 2,
	.max = -1,
	.args = "[-Cqv] [-P pattern] off len [len..]",
	.summary = "reads a number of bytes at a specified offset",
	.help = "  readv 512 1k 1k  reads 2048 bytes into two buffers\n"
		"\n"
		"  -P  compare with a pattern byte\n"
		"  -v  print the bytes\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n",
	.run = run_readv,
};

static void finish(struct io *io, struct io_request *r)
{
	(void)io;
	if (r->result < 0)
		io_failed("readv", r->result);
	else
		(void)show(r, 0, r->len); /* the command has long succeeded */
}

static int run_aio_read(struct io *io, int argc, char **argv)
{
	int ret;
	struct io_request *r = prepare(io, argc, argv, "CP:iqv", &ret);

	if (!r)
		return ret;
	r->finish = finish;
	io_submit(io, r);
	return 0;
}

const struct io_command io_aio_read = {
	.name = "aio_read",
	.min = 2,
	.max = -1,
	.args = "[-Ciqv] [-P pattern] off len [len..]",
	.summary = "asynchronously reads a number of bytes",
	.help = "  aio_read 512 1k 1k  begins to read 2048 bytes into two buffers\n"
		"\n"
		"The command ends when the request has begun. What becomes of it is printed when it\n"
		"completes, at the latest by aio_flush, and does not count for the exit status.\n"
		"  -P  compare with a pattern byte\n"
		"  -v  print the bytes\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n"
		"  -i  begin nothing; as a machine's request that is not valid\n",
	.run = run_aio_read,
};
