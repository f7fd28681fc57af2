/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The commands of `platter io` that open and close: open, close, reopen.  As in qemu-io every write is
 * durable when it completes, unless a cache mode says otherwise: so a script that ends in a crash
 * leaves what it has reported.  Invariant: a disk is closed with nothing under way, and a reopen that
 * fails leaves the disk as it was, or says that it is lost.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/number.h"
#include "cli/io.h"

/* ---- how ------------------------------------------------------------------------------------- */

void io_how_release(struct io_how *how)
{
	free(how->name);
	free(how->format);
	for (unsigned i = 0; i < how->noptions; i++)
		free(how->options[i]);
	free(how->options);
	*how = (struct io_how){ 0 };
}

static bool how_copy(const struct io_how *from, struct io_how *to)
{
	*to = *from;
	to->name = from->name ? strdup(from->name) : NULL;
	to->format = from->format ? strdup(from->format) : NULL;
	to->options = calloc(from->noptions + 1, sizeof(*to->options));
	to->noptions = 0;
	if ((from->name && !to->name) || (from->format && !to->format) || !to->options)
		return false;
	for (unsigned i = 0; i < from->noptions; i++) {
		to->options[i] = strdup(from->options[i]);
		if (!to->options[i])
			return false;
		to->noptions++;
	}
	to->before = to->noptions;
	return true;
}

/* Options that are about how the program uses the disk.  1: taken; 0: none of them; negative: wrong. */
static int own_option(struct io_how *how, const char *key, const char *value)
{
	bool on = false, is_bool = plt_number_bool(value, &on) == 0;

	if (!strcmp(key, "discard"))
		return io_discard_mode(value, &how->no_discard) ? 1 : -EINVAL;
	if (strcmp(key, "read-only") && strcmp(key, "force-share") && strcmp(key, "auto-read-only") &&
	    strncmp(key, "cache.", 6))
		return 0;
	if (!is_bool) {
		cli_error("Parameter '%s' expects 'on' or 'off'", key);
		return -EINVAL;
	}
	if (!strcmp(key, "read-only"))
		how->read_only = on;
	else if (!strcmp(key, "force-share"))
		how->force_share = on;
	else if (!strcmp(key, "cache.direct"))
		how->cache = on ? "none" : "writeback";
	else if (!strcmp(key, "cache.no-flush"))
		how->cache = on ? "unsafe" : how->cache;
	else if (!strcmp(key, "cache.writeback"))
		how->sync = !on;
	else
		return 0;
	return 1;
}

static bool add_option(struct io_how *how, char *option)
{
	size_t len = strcspn(option, "=");
	char **grown;

	for (unsigned i = 0; i < how->before;) { /* an earlier "key=" gives way to "key.part=", and the reverse */
		size_t n = strcspn(how->options[i], "=");

		if ((n < len ? option[n] == '.' : n > len && how->options[i][len] == '.') &&
		    !strncmp(how->options[i], option, PLT_MIN(n, len))) {
			free(how->options[i]);
			memmove(how->options + i, how->options + i + 1, (how->noptions - i) * sizeof(*how->options));
			how->noptions--;
			how->before--;
		} else {
			i++;
		}
	}
	for (unsigned i = 0; i < how->noptions; i++) /* what was said before of the same */
		if (!strncmp(how->options[i], option, len) && (how->options[i][len] == '=' || !how->options[i][len])) {
			free(how->options[i]);
			how->options[i] = option;
			return true;
		}
	grown = realloc(how->options, (how->noptions + 2) * sizeof(*grown));
	if (!grown)
		return false;
	how->options = grown;
	grown[how->noptions++] = option;
	grown[how->noptions] = NULL;
	return true;
}

/* "key=value,key=value", a comma in a value being written twice. */
bool io_how_option(struct io_how *how, const char *text)
{
	while (*text) {
		const char *end = text;
		char *option, *value;
		int r = 0;

		while (*end && (*end != ',' || end[1] == ','))
			end += *end == ',' ? 2 : 1;
		option = strndup(text, (size_t)(end - text));
		if (!option)
			goto oom;
		value = strchr(option, '=');
		if (value) {
			*value = '\0';
			r = own_option(how, option, value + 1);
			*value = '=';
		}
		if (r != 0 || !*option)
			free(option);
		else if (!add_option(how, option)) {
			free(option);
			goto oom;
		}
		if (r < 0)
			return false;
		text = *end ? end + 1 : end;
	}
	return true;
oom:
	cli_error("out of memory");
	return false;
}

bool io_cache(const char *mode, const char **ret_cache, bool *ret_sync)
{
	if (!cli_cache_mode(mode, ret_cache)) {
		cli_error("Invalid cache option: %s", mode);
		return false;
	}
	*ret_sync = !strcmp(mode, "writethrough") || !strcmp(mode, "directsync");
	/* durable writes are asked for one by one, with all that leads to their data */
	if (!strcmp(mode, "writethrough"))
		*ret_cache = "writeback";
	else if (!strcmp(mode, "directsync"))
		*ret_cache = "none";
	return true;
}

bool io_discard_mode(const char *mode, bool *ret_no_discard)
{
	*ret_no_discard = !strcmp(mode, "ignore") || !strcmp(mode, "off");
	if (*ret_no_discard || !strcmp(mode, "unmap") || !strcmp(mode, "on"))
		return true;
	cli_error("Invalid discard option: %s", mode);
	return false;
}

bool io_aio_mode(const char *mode, bool *ret_threads)
{
	*ret_threads = !strcmp(mode, "threads");
	if (*ret_threads || !strcmp(mode, "native") || !strcmp(mode, "io_uring"))
		return true;
	cli_error("Invalid aio option: %s", mode);
	return false;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int open_with(struct io *io, const struct io_how *how, struct plt_disk **ret)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const char *name = how->name, *text = err.text;
	char *all = NULL, *prefix = NULL;
	int r;

	o.format = how->format;
	o.cache = how->cache;
	o.options = (const char *const *)how->options;
	o.flags = how->scratch ? PLT_OPEN_SCRATCH : how->read_only ? 0 : PLT_OPEN_WRITE;
	if (how->force_share)
		o.flags |= PLT_OPEN_FORCE_SHARE;
	if (how->copy_on_read)
		o.flags |= PLT_OPEN_COPY_ON_READ;
	if (io->args->no_backing)
		o.flags |= PLT_OPEN_NO_BACKING;
	if (cli_rescue_flags(io->args, &o) < 0)
		return -EINVAL;
	if (o.flags & PLT_OPEN_RESCUE)
		o.flags &= ~(unsigned)PLT_OPEN_WRITE;
	if (!name) { /* the options are the name */
		o.flags |= PLT_OPEN_IMAGE_OPTS;
		for (unsigned i = 0; i < how->noptions; i++) {
			char *longer;

			if (asprintf(&longer, "%s%s%s", all ? all : "", all ? "," : "", how->options[i]) < 0)
				longer = NULL;
			free(all);
			all = longer;
		}
		name = all ? all : "";
		o.options = NULL;
	}
	r = plt_disk_open(io->ctx, name, &o, ret, &err);
	if (r < 0) {
		if (asprintf(&prefix, "Could not open '%s': ", name) > 0 && !strncmp(text, prefix, strlen(prefix)))
			text += strlen(prefix);
		if (how->again)
			cli_error("%s", text);
		else
			cli_error("can't open%s%s: %s", how->name ? " device " : "", how->name ? how->name : "", text);
		free(prefix);
	}
	free(all);
	return r;
}

int io_open_disk(struct io *io, struct io_how *how)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r = open_with(io, how, &io->disk);

	if (r == 0) {
		r = plt_queue_open(io->ctx, how->threads ? PLT_QUEUE_THREADS : 0, &io->queue, &err);
		if (r < 0) {
			cli_error("%s", err.text);
			(void)plt_disk_close(io->disk, NULL); /* nothing has been written */
		}
	}
	if (r < 0) {
		io->disk = NULL;
		io_how_release(how);
		return r;
	}
	io_how_release(&io->how);
	io->how = *how;
	*how = (struct io_how){ 0 };
	if (!io->how.format && !io->how.read_only && !cli_rescue_is_on(io->args) && !io->how.scratch && io->how.name &&
	    !io->how.noptions && strncmp(io->how.name, "json:", 5) &&
	    !strcmp(plt_disk_format(io->disk), "raw"))
		cli_warn("the format of '%s' was not given and it looks raw: a write that puts the header of another "
			 "format at its beginning is refused (-f raw takes it)", io->how.name);
	return 0;
}

int io_close_disk(struct io *io)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (!io->disk)
		return 0;
	(void)plt_debug(io->disk, PLT_DEBUG_RELEASE, NULL, NULL);
	io_drain(io);
	plt_queue_close(io->queue);
	cli_rescue_tell(io->args, io->disk);
	r = plt_disk_close(io->disk, &err);
	if (r < 0)
		cli_error("%s", err.text);
	io->queue = NULL;
	io->disk = NULL;
	io->held = 0;
	for (unsigned i = 0; i < IO_TAGS_MAX; i++) {
		free(io->tags[i]);
		io->tags[i] = NULL;
	}
	return r;
}

/* ---- open ------------------------------------------------------------------------------------ */

/* One option of the command; false: said what is wrong. */
static bool open_option(struct io *io, struct io_how *how, int c)
{
	switch (c) {
	case 's':
		how->scratch = true;
		return true;
	case 'n':
		how->sync = false;
		how->cache = "none";
		return true;
	case 'r':
		how->read_only = true;
		return true;
	case 'k':
		how->threads = false;
		return true;
	case 'i':
		return io_aio_mode(optarg, &how->threads);
	case 't':
		return io_cache(optarg, &how->cache, &how->sync);
	case 'd':
		return io_discard_mode(optarg, &how->no_discard);
	case 'U':
		how->force_share = true;
		return true;
	case 'C':
		how->copy_on_read = true;
		return true;
	case 'o':
		if (io->image_opts) {
			printf("--image-opts and 'open -o' are mutually exclusive\n");
			return false;
		}
		return io_how_option(how, optarg);
	default:
		io_usage("open");
		return false;
	}
}

static int run_open(struct io *io, int argc, char **argv)
{
	struct io_how how = { .sync = true };
	bool ok = true;
	int c, r = -EINVAL;

	while (ok && (c = getopt(argc, argv, "snCro:ki:t:d:U")) != -1)
		ok = open_option(io, &how, c);
	if (ok && optind < argc - 1) {
		io_usage(argv[0]);
		ok = false;
	}
	if (ok && optind == argc - 1 && io->image_opts)
		ok = io_how_option(&how, argv[optind]);
	else if (ok && optind == argc - 1)
		ok = (how.name = strdup(argv[optind])) != NULL;
	if (ok && io->disk) {
		cli_error("file open already, try 'help close'");
		ok = false;
	}
	if (ok)
		r = io_open_disk(io, &how);
	io_how_release(&how);
	return r;
}

const struct io_command io_open = {
	.name = "open",
	.alias = "o",
	.min = 1,
	.max = -1,
	.flags = IO_NO_FILE,
	.args = "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
	.summary = "open the file specified by path",
	.help = "  open -n -o driver=raw /tmp/disk  opens a raw disk without the host's cache\n"
		"\n"
		"  -r  for reading only\n"
		"  -s  what is written goes to a temporary file, and is gone when the disk is closed\n"
		"  -n  as -t none\n"
		"  -t  cache mode; without it each write is durable when it is reported\n"
		"  -d  unmap, or ignore: discards are not passed on\n"
		"  -i  threads, or the kernel's asynchronous requests: native, io_uring; -k: as -i native\n"
		"  -U  even if another program is writing to it; for reading only\n"
		"  -o  options of the image and the nodes below it: driver=qcow2,file.driver=...\n"
		"  -C  what is read from a layer below is written to the image too\n",
	.run = run_open,
};

static int run_close(struct io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return io_close_disk(io);
}

const struct io_command io_close = {
	.name = "close",
	.alias = "c",
	.summary = "close the current open file",
	.run = run_close,
};

/* ---- reopen ---------------------------------------------------------------------------------- */

/* Is what "KEY=VALUE" (up to a comma) says so already? */
static bool unchanged(const struct io *io, const char *text, size_t len)
{
	size_t key = strcspn(text, "=");
	struct plt_info *info = NULL;
	const char *now = NULL;
	bool same;

	for (unsigned i = 0; i < io->how.noptions; i++)
		if (strlen(io->how.options[i]) == len && !strncmp(io->how.options[i], text, len))
			return true;
	if (key == 6 && !strncmp(text, "driver", key))
		now = plt_disk_format(io->disk);
	else if (key == 11 && !strncmp(text, "file.driver", key))
		now = "file";
	else if (key == 14 && !strncmp(text, "backing.driver", key) && plt_disk_info(io->disk, &info, NULL) == 0)
		now = info->backing_format;
	same = now && len == key + 1 + strlen(now) && !strncmp(text + key + 1, now, strlen(now));
	plt_info_free(info);
	return same;
}

/* The first of the options that would make another node of one of the disk's; NULL: none. */
static const char *unchangeable(const struct io *io, const char *text)
{
	static const char *const fixed[] = { "node-name", "driver" };

	for (; *text; text += *text == ',') {
		size_t len = strcspn(text, ","), key = strcspn(text, "=,");

		for (unsigned i = 0; i < PLT_ARRAY_SIZE(fixed); i++) {
			size_t n = strlen(fixed[i]);

			if (key >= n && !strncmp(text + key - n, fixed[i], n) && (key == n || text[key - n - 1] == '.') &&
			    !unchanged(io, text, len))
				return fixed[i];
		}
		text += len;
	}
	return NULL;
}

/* What is only said again needs no reopening. */
static bool add_changed(const struct io *io, struct io_how *how, const char *text)
{
	size_t key = strcspn(text, "=,");

	if (text[strcspn(text, ",")] == '\0' && unchanged(io, text, strlen(text)) && key)
		return true;
	return io_how_option(how, text);
}

static int parse_reopen(struct io *io, int argc, char **argv, struct io_how *how)
{
	const char *fixed;
	bool has_mode = false, has_cache = false, says_mode = false, says_cache = false;
	int c;

	while ((c = getopt(argc, argv, "c:o:rw")) != -1) {
		switch (c) {
		case 'c':
			if (!io_cache(optarg, &how->cache, &how->sync))
				return -EINVAL;
			has_cache = true;
			break;
		case 'r':
		case 'w':
			if (has_mode) {
				cli_error("Only one -r/-w option may be given");
				return -EINVAL;
			}
			how->read_only = c == 'r';
			has_mode = true;
			break;
		case 'o':
			says_mode = says_mode || strstr(optarg, "read-only=");
			says_cache = says_cache || strstr(optarg, "cache.");
			fixed = unchangeable(io, optarg);
			if (fixed) {
				cli_error("Cannot change the option '%s'", fixed);
				return -EINVAL;
			}
			if (!add_changed(io, how, optarg))
				return -EINVAL;
			break;
		default:
			return io_usage(argv[0]);
		}
	}
	if (optind != argc)
		return io_usage(argv[0]);
	if (has_mode && says_mode) {
		cli_error("Cannot set both -r/-w and 'read-only'");
		return -EINVAL;
	}
	if (has_cache && says_cache) {
		cli_error("Cannot set both -c and the cache options");
		return -EINVAL;
	}
	return 0;
}

static int run_reopen(struct io *io, int argc, char **argv)
{
	struct io_how how, old;
	int r = -ENOMEM;

	if (!how_copy(&io->how, &how) || !how_copy(&io->how, &old)) {
		cli_error("out of memory");
		return r;
	}
	how.again = old.again = true;
	r = parse_reopen(io, argc, argv, &how);
	if (r == 0 && io->how.scratch) {
		cli_error("a disk whose changes are not kept cannot be opened again");
		r = -EINVAL;
	}
	if (r == 0) {
		r = io_close_disk(io);
		if (r == 0) {
			r = io_open_disk(io, &how);
			if (r < 0)
				(void)io_open_disk(io, &old);
		}
	}
	io_how_release(&how);
	io_how_release(&old);
	return r;
}

const struct io_command io_reopen = {
	.name = "reopen",
	.max = -1,
	.args = "[(-r|-w)] [-c cache] [-o options]",
	.summary = "reopens an image with new options",
	.help = "  reopen -o lazy-refcounts=on  closes the image, and opens it with one option changed\n"
		"\n"
		"  -r  for reading only\n"
		"  -w  for writing\n"
		"  -c  another cache mode\n"
		"  -o  other options; rules of faults begin anew\n",
	.run = run_reopen,
};
