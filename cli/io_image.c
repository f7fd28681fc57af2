/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The commands of `platter io` about the disk as a whole: flush, truncate, length, info, map, alloc.
 * Allocated is what the active layer has an entry for, whatever lies below.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "cli/io.h"

/* ---- flush, length, info --------------------------------------------------------------------- */

static int run_flush(struct io *io, int argc, char **argv)
{
	struct io_request *r = io_request_len(io, PLT_AIO_FLUSH, 0, 0, -1);
	int ret;

	(void)argc;
	(void)argv;
	if (!r)
		return -ENOMEM;
	ret = io_run(io, r);
	if (ret < 0)
		cli_error("%s", r->err.text);
	io_request_free(r);
	return ret;
}

const struct io_command io_flush = {
	.name = "flush",
	.alias = "f",
	.summary = "flush all in-core file state to disk",
	.run = run_flush,
};

static int run_length(struct io *io, int argc, char **argv)
{
	char size[IO_SIZE_MAX];

	(void)argc;
	(void)argv;
	io_size_text((double)plt_disk_size(io->disk), size);
	puts(size);
	return 0;
}

const struct io_command io_length = {
	.name = "length",
	.alias = "l",
	.summary = "gets the length of the current file",
	.run = run_length,
};

static int run_info(struct io *io, int argc, char **argv)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_info *info;
	char text[IO_SIZE_MAX];
	json_t *specific;
	int r = plt_disk_info(io->disk, &info, &err);

	(void)argc;
	(void)argv;
	if (r < 0) {
		cli_error("%s", err.text);
		return r;
	}
	if (io->how.format && !strcmp(info->format, "raw") && strcmp(io->how.format, "raw")) {
		/* a protocol, which raw shows: as the driver of an image and as that of its bytes */
		printf("format name: %s\nformat name: %s\n", io->how.format, io->how.format);
		if (!strncmp(io->how.format, "null-", 5)) {
			plt_info_free(info);
			return -ENOTSUP; /* which has no more to tell */
		}
	} else {
		printf("format name: %s\n", info->format);
	}
	io_size_text((double)info->cluster_size, text);
	printf("cluster size: %s\n", text);
	io_size_text((double)info->vm_state_offset, text);
	printf("vm state offset: %s\n", text);
	specific = info->specific_json ? json_loads(info->specific_json, 0, NULL) : NULL;
	if (json_object_size(json_object_get(specific, "data"))) {
		puts("Format specific information:");
		cli_print_specific(json_object_get(specific, "data"), 1);
	}
	json_decref(specific);
	plt_info_free(info);
	return 0;
}

const struct io_command io_info = {
	.name = "info",
	.alias = "i",
	.summary = "prints information about the current file",
	.run = run_info,
};

/* ---- map, alloc ------------------------------------------------------------------------------ */

/* The run that begins at @off and is alike: its length, at most @len, and if it is allocated. */
static int alike(struct io *io, uint64_t off, uint64_t len, uint64_t *ret_len, bool *ret_allocated)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent v[32];
	uint64_t pos = off;

	while (pos < off + len) {
		unsigned n;
		int r = plt_status(io->disk, pos, off + len - pos, PLT_STATUS_TOP_ONLY | PLT_STATUS_NO_HOST, v, 32, &n,
				   &err);

		if (r < 0) {
			cli_error("%s", err.text);
			return r;
		}
		for (unsigned i = 0; i < n; i++) {
			bool allocated = v[i].flags & PLT_EXTENT_PRESENT;

			if (pos == off)
				*ret_allocated = allocated;
			if (allocated != *ret_allocated) {
				*ret_len = pos - off;
				return 0;
			}
			pos = v[i].off + v[i].len;
		}
	}
	*ret_len = len;
	return 0;
}

static int run_map(struct io *io, int argc, char **argv)
{
	uint64_t size = plt_disk_size(io->disk), n;
	char length[IO_SIZE_MAX], at[IO_SIZE_MAX];
	bool allocated = false;

	(void)argc;
	(void)argv;
	io_settle(io);
	for (uint64_t off = 0; off < size; off += n) {
		int r = alike(io, off, size - off, &n, &allocated);

		if (r < 0)
			return r;
		io_size_text((double)n, length);
		io_size_text((double)off, at);
		printf("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n", length, n,
		       allocated ? "    allocated" : "not allocated", at, off);
	}
	return 0;
}

const struct io_command io_map = {
	.name = "map",
	.args = "",
	.summary = "prints the allocated areas of a file",
	.run = run_map,
};

static int run_alloc(struct io *io, int argc, char **argv)
{
	uint64_t size = plt_disk_size(io->disk), n, sum = 0, pos, end;
	int64_t off, count = 512;
	bool allocated = false;
	char at[IO_SIZE_MAX];
	int r = io_number(argv[1], &off);

	if (r == 0 && argc == 3)
		r = io_number(argv[2], &count);
	if (r < 0)
		return r;
	io_settle(io);
	/* what lies behind the disk's end does not count */
	pos = PLT_MIN((uint64_t)off, size);
	end = pos + PLT_MIN((uint64_t)count, size - pos);
	count = (int64_t)(end - pos);
	for (; pos < end; pos += n) {
		r = alike(io, pos, end - pos, &n, &allocated);
		if (r < 0)
			return r;
		if (allocated)
			sum += n;
	}
	io_size_text((double)off, at);
	printf("%" PRIu64 "/%" PRId64 " bytes allocated at offset %s\n", sum, count, at);
	return 0;
}

const struct io_command io_alloc = {
	.name = "alloc",
	.alias = "a",
	.min = 1,
	.max = 2,
	.args = "offset [count]",
	.summary = "checks if offset is allocated in the file",
	.run = run_alloc,
};

/* ---- truncate -------------------------------------------------------------------------------- */

static int run_truncate(struct io *io, int argc, char **argv)
{
	static const char *const modes[] = { "off", "metadata", "falloc", "full" };
	struct plt_error err = PLT_ERROR_INIT;
	const char *mode = "off";
	int64_t size;
	unsigned i;
	int c, r;

	while ((c = getopt(argc, argv, "m:")) != -1) {
		if (c != 'm')
			return io_usage(argv[0]);
		mode = optarg;
		for (i = 0; i < PLT_ARRAY_SIZE(modes) && strcmp(mode, modes[i]); i++)
			;
		if (i == PLT_ARRAY_SIZE(modes)) {
			cli_error("Invalid preallocation mode '%s'", mode);
			return -EINVAL;
		}
	}
	if (optind != argc - 1)
		return io_usage(argv[0]);
	r = io_number(argv[optind], &size);
	if (r < 0)
		return r;
	io_drain(io);
	r = plt_resize(io->disk, (uint64_t)size, PLT_RESIZE_SHRINK, mode, &err);
	if (r < 0)
		cli_error("%s", err.text);
	return r;
}

const struct io_command io_truncate = {
	.name = "truncate",
	.alias = "t",
	.min = 1,
	.max = 3,
	.flags = IO_WRITES,
	.args = "[-m prealloc_mode] off",
	.summary = "truncates the current file at the given offset",
	.run = run_truncate,
};
