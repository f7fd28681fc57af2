/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * map: where the guest's bytes lie.  Entries that are alike and adjacent are printed as one.  The
 * JSON form is written by hand, an entry a line, as qemu-img does.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "cli/cli.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ 's', "start-offset", "offset", "begin at this guest offset", CLI_ANY },
	{ 'l', "max-length", "len", "end after this many bytes", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_map = {
	.name = "map",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "say where the bytes of a disk lie",
	.text = (const char *const[]){
		"The human form lists what holds data: guest offset, length, the place in the "
		"file, and the file. Compressed or encrypted data has no such place and is an "
		"error there.",
		"The JSON form lists everything: \\fIdata\\fR (some layer stores bytes), "
		"\\fIzero\\fR (reads as zeros for certain), \\fIpresent\\fR (some layer has an "
		"entry), \\fIdepth\\fR (which layer; 0 is the image itself) and, where there is "
		"one, \\fIoffset\\fR. Under \\fB--rescue\\fR what is lost is marked (\\fIlost\\fR).",
		NULL,
	},
	.examples = (const char *const[]){
		"platter map --output=json disk.qcow2", "everything, for a program",
		"platter map -s 1G -l 64M disk.qcow2", "a part",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_open_opts, cli_strict_opts, cli_output_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

struct printer {
	bool json;
	bool rescue;
	bool any; /* something has been printed */
	bool pending;
	struct plt_extent cur;
};

/* Only what is printed decides what may be joined. */
#define SHOWN (PLT_EXTENT_DATA | PLT_EXTENT_ZERO | PLT_EXTENT_PRESENT | PLT_EXTENT_OFFSET)

static bool mergeable(const struct printer *p, const struct plt_extent *a, const struct plt_extent *b)
{
	unsigned shown = SHOWN | (p->rescue ? PLT_EXTENT_DAMAGED : 0);

	if ((a->flags & shown) != (b->flags & shown) || a->depth != b->depth ||
	    a->off + a->len != b->off)
		return false;
	if ((a->flags & PLT_EXTENT_OFFSET) && a->host_off + a->len != b->host_off)
		return false;
	return !a->file || !b->file ? a->file == b->file : !strcmp(a->file, b->file);
}

static const char *truth(unsigned flag)
{
	return flag ? "true" : "false";
}

static int print_extent(struct printer *p, const struct plt_extent *e)
{
	if (p->json) {
		printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
		       ", \"depth\": %u, \"present\": %s, "
		       "\"zero\": %s, \"data\": %s",
		       p->any ? ",\n" : "", e->off, e->len, e->depth,
		       truth(e->flags & PLT_EXTENT_PRESENT), truth(e->flags & PLT_EXTENT_ZERO),
		       truth(e->flags & PLT_EXTENT_DATA));
		if (e->flags & PLT_EXTENT_OFFSET)
			printf(", \"offset\": %" PRIu64, e->host_off);
		if (p->rescue && e->flags & PLT_EXTENT_DAMAGED)
			printf(", \"lost\": true");
		putchar('}');
		p->any = true;
		return 0;
	}
	if (!(e->flags & PLT_EXTENT_DATA))
		return 0;
	if (p->rescue && e->flags & PLT_EXTENT_DAMAGED) {
		printf("%#-16" PRIx64 "%#-16" PRIx64 "lost\n", e->off, e->len);
		return 0;
	}
	if (!(e->flags & PLT_EXTENT_OFFSET)) {
		cli_error("File contains external, encrypted or compressed clusters.");
		return -1;
	}
	if (!(e->flags & PLT_EXTENT_ZERO))
		printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->off, e->len,
		       e->host_off, e->file ? e->file : "");
	return 0;
}

static int add(struct printer *p, const struct plt_extent *e)
{
	int r = 0;

	if (p->pending && mergeable(p, &p->cur, e)) {
		p->cur.len += e->len;
		return 0;
	}
	if (p->pending)
		r = print_extent(p, &p->cur);
	p->cur = *e;
	p->pending = true;
	return r;
}

static int print_map(struct plt_disk *disk, uint64_t off, uint64_t end, struct printer *p)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent v[256];
	unsigned n;
	int r = 0;

	if (p->json)
		putchar('[');
	else
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	/* qemu-img prints an empty entry for an empty range. */
	if (off >= end)
		p->cur = (struct plt_extent){ .off = off };
	while (off < end) {
		r = plt_status(disk, off, end - off, 0, v, PLT_ARRAY_SIZE(v), &n, &err);
		if (r < 0) {
			cli_error("Could not read file metadata: %s", err.text);
			return r;
		}
		for (unsigned i = 0; i < n && r == 0; i++) {
			r = add(p, &v[i]);
			off = v[i].off + v[i].len;
		}
		if (r < 0)
			return r;
	}
	r = print_extent(p, &p->cur);
	if (p->json && r == 0)
		puts("]");
	return r;
}

static int run(struct cli_args *a)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	uint64_t start = 0, max = UINT64_MAX, size;
	struct printer p = { 0 };
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	int c, r;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			o.format = a->arg;
			break;
		case 's':
			if (!cli_size("start offset", a->arg, &start))
				return 1;
			break;
		case 'l':
			if (!cli_size("max length", a->arg, &max))
				return 1;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (cli_context(a, &ctx) < 0)
		return 1;
	o.flags |= PLT_OPEN_SHARE_RAW;
	r = cli_open(a, ctx, a->argv[optind], &o, &disk);
	if (r == 0) {
		size = plt_disk_size(disk);
		p.json = a->json;
		p.rescue = cli_rescue_is_on(a);
		r = print_map(disk, start, max < size && start < size - max ? start + max : size,
			      &p);
		cli_close(a, disk);
	}
	plt_ctx_free(ctx);
	return r < 0;
}
