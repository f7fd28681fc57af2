/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The commands of `platter io` that write: write, writev, aio_write, discard. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "cli/io.h"

#define WRITTEN 0xcd /* what is written unless a pattern says otherwise */

struct flags {
	bool state, compressed, machine, durable, no_fallback, quiet, unmap, zero, has_pattern;
	const char *source;
	int pattern;
};

static bool parse(int argc, char **argv, const char *letters, struct flags *f, int *ret_status)
{
	int c, r = 0;

	*f = (struct flags){ .pattern = WRITTEN };
	while (r == 0 && (c = getopt(argc, argv, letters)) != -1) {
		switch (c) {
		case 'b':
			f->state = true;
			break;
		case 'c':
			f->compressed = true;
			break;
		case 'C':
			f->machine = true;
			break;
		case 'f':
			f->durable = true;
			break;
		case 'i':
			printf("injecting invalid write request\n");
			*ret_status = 0;
			return true;
		case 'n':
			f->no_fallback = true;
			break;
		case 'p': /* once the way to ask for pwrite */
			break;
		case 'P':
			f->has_pattern = true;
			r = io_pattern(optarg, &f->pattern);
			break;
		case 'q':
			f->quiet = true;
			break;
		case 's':
			f->source = optarg;
			break;
		case 'u':
			f->unmap = true;
			break;
		case 'z':
			f->zero = true;
			break;
		default:
			r = io_usage(argv[0]);
		}
	}
	*ret_status = r;
	return r < 0;
}

static void give(struct io *io, struct io_request *r, const struct flags *f)
{
	r->machine = f->machine;
	r->quiet = f->quiet;
	if (f->durable)
		r->aio.flags |= PLT_AIO_FUA;
	if (f->zero && f->unmap && !io->how.no_discard)
		r->aio.flags |= PLT_ZERO_UNMAP;
	if (f->no_fallback)
		r->aio.flags |= PLT_AIO_NO_FALLBACK;
}

static int refuse(const char *text)
{
	printf("%s\n", text);
	return -EINVAL;
}

/* ---- write ----------------------------------------------------------------------------------- */

/* Fill with the file's bytes, again and again. */
static int fill_from(struct io_request *r, const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t have;
	int error;

	if (!f) {
		error = errno;
		fprintf(stderr, "%s: %s\n", path, strerror(error));
		return -error;
	}
	have = fread(r->buf, 1, (size_t)r->len, f);
	error = ferror(f) ? errno : 0;
	fclose(f);
	if (error) {
		fprintf(stderr, "%s: %s\n", path, strerror(error));
		return -error;
	}
	if (!have) {
		fprintf(stderr, "%s: file is empty\n", path);
		return -EINVAL;
	}
	for (uint64_t at = have; at < r->len; at += have)
		memcpy(r->buf + at, r->buf, (size_t)PLT_MIN(have, r->len - at));
	return 0;
}

/* One cluster after the other, as the library takes them. */
static int run_compressed(struct io *io, struct io_request *all)
{
	uint64_t unit = plt_disk_cluster_size(io->disk);
	int ret = 0;

	if (!plt_disk_can_compress(io->disk) || !unit || all->len <= unit)
		return io_run(io, all);
	for (uint64_t at = 0; ret == 0 && at < all->len; at += unit) {
		struct io_request *r = io_request_len(io, PLT_AIO_WRITE_COMPRESSED, (int64_t)(all->aio.off + at),
						      PLT_MIN(unit, all->len - at), 0);

		if (!r)
			return -ENOMEM;
		memcpy(r->buf, all->buf + at, (size_t)r->len);
		ret = io_run(io, r);
		io_request_free(r);
	}
	return ret;
}

static int run_state(struct io *io, struct io_request *r)
{
	io_settle(io);
	return plt_write_vmstate(io->disk, r->aio.off, r->buf, (size_t)r->len, NULL);
}

static int write_checked(struct io *io, const struct flags *f, int64_t off, int64_t count)
{
	enum plt_aio_kind kind = f->zero ? PLT_AIO_WRITE_ZEROES :
				 f->compressed ? PLT_AIO_WRITE_COMPRESSED : PLT_AIO_WRITE;
	struct io_request *r = io_request_len(io, kind, off, (uint64_t)count, f->zero ? -1 : f->pattern);
	struct timespec begun;
	int ret = 0;

	if (!r)
		return -ENOMEM;
	give(io, r, f);
	if (f->source && (ret = fill_from(r, f->source)) < 0) {
		io_request_free(r);
		return ret;
	}
	clock_gettime(CLOCK_MONOTONIC, &begun);
	if (f->state)
		ret = run_state(io, r);
	else if (kind == PLT_AIO_WRITE_COMPRESSED)
		ret = run_compressed(io, r);
	else
		ret = io_run(io, r);
	if (ret < 0)
		io_failed("write", ret);
	else if (!r->quiet) {
		if (!r->done) /* done in parts */
			io_took(r, &begun);
		io_report("wrote", r, off, (uint64_t)count);
	}
	io_request_free(r);
	return ret;
}

static int run_write(struct io *io, int argc, char **argv)
{
	int64_t off, count;
	struct flags f;
	int r;

	if (parse(argc, argv, "bcCfnpP:qs:uz", &f, &r))
		return r;
	if (optind != argc - 2)
		return io_usage(argv[0]);
	if (f.state && f.zero)
		return refuse("-b and -z cannot be specified at the same time");
	if (f.durable && (f.state || f.compressed))
		return refuse("-f and -b or -c cannot be specified at the same time");
	if (f.no_fallback && !f.zero)
		return refuse("-n requires -z to be specified");
	if (f.unmap && !f.zero)
		return refuse("-u requires -z to be specified");
	if (f.zero + f.has_pattern + (f.source != NULL) > 1)
		return refuse("Only one of -z, -P, and -s can be specified at the same time");
	if ((r = io_number(argv[optind], &off)) < 0 || (r = io_number(argv[optind + 1], &count)) < 0)
		return r;
	if (count > IO_MAX_BYTES && !f.no_fallback) {
		printf("length cannot exceed %" PRId64 " without -n, given %s\n", IO_MAX_BYTES, argv[optind + 1]);
		return -EINVAL;
	}
	if ((f.state || f.compressed) && off % 512) {
		printf("%" PRId64 " is not a sector-aligned value for 'offset'\n", off);
		return -EINVAL;
	}
	if ((f.state || f.compressed) && count % 512) {
		printf("%" PRId64 " is not a sector-aligned value for 'count'\n", count);
		return -EINVAL;
	}
	return write_checked(io, &f, off, count);
}

const struct io_command io_write = {
	.name = "write",
	.alias = "w",
	.min = 2,
	.max = -1,
	.flags = IO_WRITES,
	.args = "[-bcCfnquz] [-P pattern | -s source_file] off len",
	.summary = "writes a number of bytes at a specified offset",
	.help = "  write 512 1k         writes 1024 bytes 0xcd at byte 512\n"
		"  write -z -u 0 1M     makes the first mebibyte zero, and gives its space back\n"
		"\n"
		"  -P  another pattern byte\n"
		"  -s  the bytes of a file, again and again\n"
		"  -c  compressed\n"
		"  -z  zeros, by whatever the format has for them\n"
		"  -u  with -z: space may be given back\n"
		"  -n  with -z: fail rather than write zeros byte by byte\n"
		"  -f  durable when it is done\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n"
		"  -b  to the virtual machine's state: refused\n"
		"  -p  ignored\n",
	.run = run_write,
};

/* ---- writev, aio_write ----------------------------------------------------------------------- */

static int run_writev(struct io *io, int argc, char **argv)
{
	struct io_request *r;
	struct flags f;
	int64_t off;
	int ret;

	if (parse(argc, argv, "CfqP:", &f, &ret))
		return ret;
	if (optind > argc - 2)
		return io_usage(argv[0]);
	if ((ret = io_number(argv[optind], &off)) < 0)
		return ret;
	r = io_request_new(io, PLT_AIO_WRITE, off, argv + optind + 1, argc - optind - 1, f.pattern);
	if (!r)
		return -EINVAL;
	give(io, r, &f);
	ret = io_run(io, r);
	if (ret < 0)
		io_failed("writev", ret);
	else if (!r->quiet)
		io_report("wrote", r, off, r->len);
	io_request_free(r);
	return ret;
}

const struct io_command io_writev = {
	.name = "writev",
	.min = 2,
	.max = -1,
	.flags = IO_WRITES,
	.args = "[-Cfq] [-P pattern] off len [len..]",
	.summary = "writes a number of bytes at a specified offset",
	.help = "  writev 512 1k 1k  writes 2048 bytes from two buffers\n"
		"\n"
		"  -P  another pattern byte than 0xcd\n"
		"  -f  durable when it is done\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n",
	.run = run_writev,
};

static void finish(struct io *io, struct io_request *r)
{
	(void)io;
	if (r->result < 0)
		io_failed("aio_write", r->result);
	else if (!r->quiet)
		io_report("wrote", r, (int64_t)r->aio.off, r->len);
}

static int run_aio_write(struct io *io, int argc, char **argv)
{
	struct io_request *r;
	int64_t off, count = 0;
	struct flags f;
	int ret;

	if (parse(argc, argv, "CfiqP:uz", &f, &ret))
		return ret;
	if (optind > argc - 2)
		return io_usage(argv[0]);
	if (f.zero && optind != argc - 2)
		return refuse("-z supports only a single length parameter");
	if (f.unmap && !f.zero)
		return refuse("-u requires -z to be specified");
	if ((ret = io_number(argv[optind], &off)) < 0)
		return ret;
	if (f.zero) {
		if ((ret = io_number(argv[optind + 1], &count)) < 0)
			return ret;
		r = io_request_len(io, PLT_AIO_WRITE_ZEROES, off, (uint64_t)count, -1);
	} else {
		r = io_request_new(io, PLT_AIO_WRITE, off, argv + optind + 1, argc - optind - 1, f.pattern);
	}
	if (!r)
		return -EINVAL;
	give(io, r, &f);
	r->finish = finish;
	io_submit(io, r);
	return 0;
}

const struct io_command io_aio_write = {
	.name = "aio_write",
	.min = 2,
	.max = -1,
	.flags = IO_WRITES,
	.args = "[-Cfiquz] [-P pattern] off len [len..]",
	.summary = "asynchronously writes a number of bytes",
	.help = "  aio_write 512 1k 1k  begins to write 2048 bytes from two buffers\n"
		"\n"
		"The command ends when the request has begun. What becomes of it is printed when it\n"
		"completes, at the latest by aio_flush, and does not count for the exit status.\n"
		"  -P  another pattern byte than 0xcd\n"
		"  -z  zeros, by whatever the format has for them; -u: space may be given back\n"
		"  -f  durable when it is done\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n"
		"  -i  begin nothing; as a machine's request that is not valid\n",
	.run = run_aio_write,
};

/* ---- discard --------------------------------------------------------------------------------- */

static int run_discard(struct io *io, int argc, char **argv)
{
	struct io_request *r;
	int64_t off, count;
	struct flags f;
	int ret;

	if (parse(argc, argv, "Cq", &f, &ret))
		return ret;
	if (optind != argc - 2)
		return io_usage(argv[0]);
	if ((ret = io_number(argv[optind], &off)) < 0 || (ret = io_number(argv[optind + 1], &count)) < 0)
		return ret;
	if (count > IO_MAX_BYTES) {
		printf("length cannot exceed %" PRId64 ", given %s\n", IO_MAX_BYTES, argv[optind + 1]);
		return -EINVAL;
	}
	r = io_request_len(io, PLT_AIO_DISCARD, off, (uint64_t)count, -1);
	if (!r)
		return -ENOMEM;
	give(io, r, &f);
	/* discards that are not passed on: of no byte, if the range is right */
	if (io->how.no_discard && plt_in_range((uint64_t)off, (uint64_t)count, plt_disk_size(io->disk)))
		r->aio.len = 0;
	ret = io_run(io, r);
	if (ret < 0)
		io_failed("discard", ret);
	else if (!r->quiet)
		io_report("discard", r, off, (uint64_t)count);
	io_request_free(r);
	return ret;
}

const struct io_command io_discard = {
	.name = "discard",
	.alias = "d",
	.min = 2,
	.max = -1,
	.flags = IO_WRITES,
	.args = "[-Cq] off len",
	.summary = "discards a number of bytes at a specified offset",
	.help = "  discard 512 1k  the kilobyte at byte 512 is of no use any more\n"
		"\n"
		"  -C  report in a form for programs\n"
		"  -q  report nothing\n",
	.run = run_discard,
};
