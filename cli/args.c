/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Command lines: options from the commands' tables by getopt_long, and the arguments that several
 * commands read.  Invariant: what --help, the manual page and completion list is what is accepted,
 * for all come from the same tables.  Wording and order of checks follow qemu-img, since scripts
 * match on them.
 */
#include <ctype.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/number.h"
#include "cli/cli.h"

const char *const cli_cache_modes[] = { "none",	      "writeback", "writethrough",
					"directsync", "unsafe",	   NULL };
const char *const cli_output_formats[] = { "human", "json", NULL };

const struct cli_opt cli_object_opts[] = {
	{ OPT_OBJECT, "object", "objectdef",
	  "an object as QEMU defines it: secret,id=ID,file=FILE (or data=, format=base64) is what "
	  "encryption options name",
	  CLI_ANY },
	{ 0 },
};

#define IMAGE_OPTS \
	{ OPT_IMAGE_OPTS, "image-opts", NULL, \
	  "file names are lists of options (driver=qcow2,file.filename=disk.qcow2)", CLI_ANY }

const struct cli_opt cli_image_opts_opts[] = {
	IMAGE_OPTS,
	{ 0 },
};

const struct cli_opt cli_open_opts[] = {
	IMAGE_OPTS,
	{ 'U', "force-share", NULL, "open the image even if another program is writing to it",
	  CLI_ANY },
	{ OPT_RESCUE, "rescue", NULL,
	  "look through the repair of a damaged image: what repair would write is shown and not written. What is "
	  "lost is named on stderr; the exit status is 2 if something is lost, inferred or still wrong, 3 for lost "
	  "space",
	  CLI_ANY },
	{ OPT_IGNORE_FEATURE, "ignore-feature", "bit", CLI_IGNORE_FEATURE_HELP, CLI_ANY },
	{ OPT_REPORT, "report", "file",
	  "with --rescue: write all findings, and the ranges of the disk that are lost or inferred, as JSON; "
	  "what is in neither list is right (-: on standard output, behind all else)",
	  CLI_FILE },
	{ OPT_PLAN, "plan", "file", "with --rescue: follow this plan, which repair --dry-run --plan has written", CLI_FILE },
	{ OPT_TRUST, "trust", "strong|likely",
	  "with --rescue: put pieces of a lost map where they are likely to belong, too, and list them as inferred "
	  "(strong: only where the evidence is)", CLI_ANY },
	{ OPT_DONOR, "donor", "image",
	  "with --rescue: an older copy or a clone of the disk, of the same size; what is lost and this one has is "
	  "taken from it, and listed as inferred", CLI_FILE },
	{ OPT_DEEP, "deep", NULL,
	  "with --rescue: hold the guest's own structures against the map even if nothing else shows that it is wrong (convert, "
	  "dd, hash and compare do, of the upper eight layers). check: "
	  "that as well, and decode every compressed cluster, and examine the chain and data files", CLI_ANY },
	{ OPT_MAP, "map", "file",
	  "with --rescue: a map of the medium as ddrescue writes it; of what it does not call read ('+') nothing is believed, it "
	  "is lost. What turns out to be bad is added. scan: what it calls bad is not read; it is written anew", CLI_FILE },
	{ OPT_ZERO_LOST, "zero-lost", NULL,
	  "with --rescue: what is lost reads as zeros (elsewhere than in convert, dd and hash it is an error)", CLI_ANY },
	{ 0 },
};

const struct cli_opt cli_strict_opts[] = {
	{ OPT_STRICT, "strict", NULL, "with --rescue: fail at what is lost (convert, dd and hash give zeros)", CLI_ANY },
	{ 0 },
};

const struct cli_opt cli_policy_opts[] = {
	{ OPT_UNTRUSTED, "untrusted", NULL,
	  "open nothing but the files named here; an image that refers to another file is an error",
	  CLI_ANY },
	{ OPT_ALLOW_DIR, "allow-dir", "dir",
	  "an image may refer to files below dir only (may be given more than once)", CLI_DIR },
	{ OPT_NO_BACKING, "no-backing", NULL,
	  "do not open backing files; what the image itself does not hold reads as zeros",
	  CLI_ANY },
	{ 0 },
};

const struct cli_opt cli_quiet_opts[] = {
	{ 'q', "quiet", NULL, "print nothing but errors", CLI_ANY },
	{ 0 },
};

const struct cli_opt cli_progress_opts[] = {
	{ 'p', "progress", NULL, "show progress", CLI_ANY },
	{ 0 },
};

const struct cli_opt cli_output_opts[] = {
	{ OPT_OUTPUT, "output", "ofmt", "how to print the result: human or json", CLI_OUTPUT },
	{ 0 },
};

/* ---- options --------------------------------------------------------------------------------- */

/* getopt's two descriptions of the command's tables. */
static bool prepare(struct cli_args *a)
{
	size_t n = 2, s = 0, l = 0;

	for (size_t g = 0; a->cmd->groups[g]; g++)
		for (const struct cli_opt *o = a->cmd->groups[g]; o->val; o++)
			n++;
	a->shorts = malloc(2 * n + 2);
	a->longs = calloc(n, sizeof(*a->longs));
	if (!a->shorts || !a->longs)
		return false;
	a->shorts[s++] = ':';
	a->shorts[s++] = 'h';
	a->longs[l++] = (struct option){ "help", no_argument, NULL, 'h' };
	for (size_t g = 0; a->cmd->groups[g]; g++) {
		for (const struct cli_opt *o = a->cmd->groups[g]; o->val; o++) {
			int takes = o->arg ? required_argument : no_argument;

			if (o->val < 256) {
				a->shorts[s++] = (char)o->val;
				if (o->arg)
					a->shorts[s++] = ':';
			}
			if (o->name)
				a->longs[l++] = (struct option){ o->name, takes, NULL, o->val };
		}
	}
	a->shorts[s] = '\0';
	return true;
}

static void take_feature(struct cli_args *a)
{
	char *end = NULL;
	unsigned long n = isdigit((unsigned char)*a->arg) ? strtoul(a->arg, &end, 10) : 64;

	if (n > 63 || *end)
		a->status = cli_usage_error("--ignore-feature: expecting a number from 0 to 63, not '%s'", a->arg);
	else
		a->ignore_features |= UINT64_C(1) << n;
}

/* Take a common option; false: it is not one (or an error, with a->status set). */
static bool take_common(struct cli_args *a, int c)
{
	if (cli_rescue_take(a, c))
		return true;
	switch (c) {
	case OPT_OBJECT:
		if (a->nobjects == CLI_OBJECTS_MAX) {
			cli_error("--object was given more than %d times", CLI_OBJECTS_MAX);
			a->status = 1;
		} else {
			a->objects[a->nobjects++] = a->arg;
		}
		return true;
	case OPT_IMAGE_OPTS:
		a->image_opts = true;
		return true;
	case 'U':
		a->force_share = true;
		return true;
	case OPT_UNTRUSTED:
		a->policy = PLT_POLICY_UNTRUSTED;
		return true;
	case OPT_ALLOW_DIR:
		if (a->nallow_dirs == CLI_DIRS_MAX) {
			cli_error("--allow-dir may be given %d times at most", CLI_DIRS_MAX);
			a->status = 1;
		} else {
			a->allow_dirs[a->nallow_dirs++] = a->arg;
		}
		/* The stricter of two wins, in whatever order they are given. */
		if (a->policy == PLT_POLICY_TRUST)
			a->policy = PLT_POLICY_ALLOW_DIRS;
		return true;
	case OPT_NO_BACKING:
		a->no_backing = true;
		return true;
	case OPT_IGNORE_FEATURE:
		take_feature(a);
		return true;
	case 'q':
		a->quiet = true;
		return true;
	case 'p':
		a->progress = true;
		return true;
	case OPT_OUTPUT:
		a->json = !strcmp(a->arg, "json");
		if (!a->json && strcmp(a->arg, "human")) {
			cli_error("--output must be used with human or json as argument.");
			a->status = 1;
		}
		return true;
	}
	return false;
}

/* A long option of the command that @given may have been meant for. */
static const char *meant(const struct cli_args *a, const char *given)
{
	char name[32];
	const char *near = NULL;

	if (strncmp(given, "--", 2) || !given[2])
		return NULL;
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(given + 2, "="), given + 2);
	for (const struct option *o = a->longs; o->name; o++)
		near = cli_nearer(name, near, o->name);
	return near;
}

int cli_next(struct cli_args *a)
{
	int c;

	if (!a->shorts && !prepare(a)) {
		cli_error("out of memory");
		a->status = 1;
		return CLI_STOP;
	}
	for (;;) {
		c = getopt_long(a->argc, a->argv, a->shorts, a->longs, NULL);
		if (c == -1)
			return CLI_END;
		a->arg = optarg;
		if (c == 'h') {
			cli_print_command_help(a->cmd);
			return CLI_STOP;
		}
		if (c == ':' || c == '?') {
			const char *near = c == '?' ? meant(a, a->argv[optind - 1]) : NULL;

			a->status = cli_usage_error(c == ':' ? "missing argument for option '%s'" :
						    near ? "unrecognized option '%s' (did you mean '--%s'?)" :
							   "unrecognized option '%s'",
						    a->argv[optind - 1], near);
			return CLI_STOP;
		}
		if (!take_common(a, c))
			return c;
		if (a->status)
			return CLI_STOP;
	}
}

/* ---- "-o" ------------------------------------------------------------------------------------ */

/* The end of the option that starts at @p: a comma that stands alone, or the end of the text. */
static const char *option_end(const char *p)
{
	for (; *p; p++)
		if (*p == ',' && *++p != ',')
			return p - 1;
	return p;
}

bool cli_list_add(struct cli_list *l, const char *text)
{
	const char **grown, *p = text, *end;

	/* Empty options are refused: two texts put together must not make an escaped comma. */
	do {
		end = option_end(p);
		if (end == p || *p == ',' || (*end && !end[1])) {
			cli_error("Invalid option list: %s", text);
			return false;
		}
		p = end + 1;
	} while (*end);
	grown = realloc(l->v, (l->n + 2) * sizeof(*l->v));
	if (!grown) {
		cli_error("out of memory");
		return false;
	}
	l->v = grown;
	l->v[l->n++] = text;
	l->v[l->n] = NULL;
	return true;
}

void cli_list_release(struct cli_list *l)
{
	free(l->v);
}

bool cli_list_wants_help(const struct cli_list *l)
{
	const char *p, *end;

	for (unsigned i = 0; i < l->n; i++) {
		for (p = l->v[i]; *p; p = *end ? end + 1 : end) {
			end = option_end(p);
			if ((end - p == 4 && !strncmp(p, "help", 4)) || (end - p == 1 && *p == '?'))
				return true;
		}
	}
	return false;
}

int cli_format_help(const char *format, bool with_file)
{
	static const char heading[] = "Supported options:\n";
	struct plt_error err = PLT_ERROR_INIT;
	char *text = NULL;

	if (plt_format_help(format, with_file, &text, &err) < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	if (with_file || strncmp(text, heading, strlen(heading))) {
		fputs(text, stdout);
	} else {
		printf("Supported %s options:\n%s\n"
		       "The protocol level may support further options.\n"
		       "Specify the target filename to include those options.\n",
		       format, text + strlen(heading));
	}
	free(text);
	return 0;
}

/* ---- "-l" ------------------------------------------------------------------------------------ */

/* "ID_OR_NAME", or "snapshot.id=ID,snapshot.name=NAME". */
bool cli_snapshot_parse(struct cli_snapshot *s, const char *text, struct plt_open_options *o)
{
	char *p, *value, *end, *w;

	o->snapshot = o->snapshot_id = o->snapshot_name = NULL;
	free(s->copy);
	s->copy = strdup(text);
	if (!s->copy) {
		cli_error("out of memory");
		return false;
	}
	if (strncmp(text, "snapshot.", 9)) {
		o->snapshot = s->copy;
		return true;
	}
	for (p = s->copy; *p; p = end) {
		value = p + strcspn(p, "=,");
		end = value;
		if (*value == '=') {
			*value++ = '\0';
			/* Up to a comma that stands alone; two are one. */
			for (end = w = value; *end; *w++ = *end++)
				if (*end == ',' && *++end != ',')
					break;
		} else {
			if (*end)
				end++;
			*value = '\0';
			w = NULL;
		}
		if (w && !strcmp(p, "snapshot.id")) {
			o->snapshot_id = value;
		} else if (w && !strcmp(p, "snapshot.name")) {
			o->snapshot_name = value;
		} else {
			cli_error("Invalid parameter '%s'", p);
			cli_error("Failed in parsing snapshot param '%s'", text);
			return false;
		}
		*w = '\0';
	}
	return true;
}

/* ---- arguments ------------------------------------------------------------------------------- */

bool cli_size(const char *what, const char *text, uint64_t *ret)
{
	return cli_size_between(what, text, 0, INT64_MAX, ret);
}

bool cli_size_between(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;
	int r = plt_number_size(text, &v);

	if (r == -EINVAL) {
		cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for",
			  what);
		cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
		return false;
	}
	if (r < 0 || v < min || v > max) {
		cli_error("Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".", what, min,
			  max);
		return false;
	}
	*ret = v;
	return true;
}

bool cli_format_exists(const char *format)
{
	const char *name;

	for (unsigned i = 0; (name = plt_format_name(i)); i++)
		if (!strcmp(name, format))
			return true;
	return false;
}

bool cli_cache_mode(const char *mode, const char **ret)
{
	if (!strcmp(mode, "off"))
		mode = "none";
	for (size_t i = 0; cli_cache_modes[i]; i++) {
		if (!strcmp(mode, cli_cache_modes[i])) {
			*ret = cli_cache_modes[i];
			return true;
		}
	}
	return false;
}
