/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Contexts and disks for the commands, from what the common options said.  Invariant: every image
 * that a command opens passes through here, so that each common option acts on every command.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "cli/cli.h"

/* A command that opens an image several times says once what is the matter with it. */
static bool is_said(const char *text)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* (threads of the library warn, too) */
	static char *said[16];
	static unsigned n;
	bool before = false;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(said) && said[i]; i++)
		before = before || !strcmp(said[i], text);
	if (!before) {
		free(said[n % PLT_ARRAY_SIZE(said)]);
		said[n++ % PLT_ARRAY_SIZE(said)] = strdup(text);
	}
	pthread_mutex_unlock(&lock);
	return before;
}

static void warn(void *arg, const char *text)
{
	const struct cli_args *a = arg;

	/* One that qemu-img has, without its name in front, and with -q too. */
	if (!strncmp(text, "WARNING: ", 9))
		fprintf(stderr, "%s\n", text);
	else if (!a->quiet && !is_said(text))
		cli_warn("%s", text);
}

int cli_context(const struct cli_args *a, struct plt_ctx **ret)
{
	struct plt_ctx_options opts = PLT_CTX_OPTIONS_INIT;

	return cli_context_with(a, &opts, ret);
}

int cli_context_with(const struct cli_args *a, struct plt_ctx_options *opts, struct plt_ctx **ret)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	opts->policy = a->policy;
	opts->ignore_features = a->ignore_features;
	opts->allow_dirs = a->allow_dirs;
	opts->warn = warn;
	opts->warn_arg = (void *)(uintptr_t)a;
	r = plt_ctx_new(opts, ret, &err);
	for (unsigned i = 0; r == 0 && i < a->nobjects; i++) {
		r = plt_ctx_add_object(*ret, a->objects[i], &err);
		if (r < 0)
			plt_ctx_free(*ret);
	}
	if (r < 0)
		cli_error("%s", err.text);
	return r;
}

int cli_open_flags(const struct cli_args *a, struct plt_open_options *opts)
{
	if (a->image_opts && opts->format) {
		cli_error("--image-opts and --format are mutually exclusive");
		return -1;
	}
	if (a->image_opts)
		opts->flags |= PLT_OPEN_IMAGE_OPTS;
	if (a->force_share)
		opts->flags |= PLT_OPEN_FORCE_SHARE;
	if (a->no_backing)
		opts->flags |= PLT_OPEN_NO_BACKING;
	return cli_rescue_flags(a, opts);
}

int cli_open(const struct cli_args *a, struct plt_ctx *ctx, const char *name,
	     struct plt_open_options *opts, struct plt_disk **ret)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r = cli_open_flags(a, opts);

	if (r < 0)
		return r;
	r = plt_disk_open(ctx, name, opts, ret, &err);
	if (r < 0)
		cli_error("%s", err.text);
	return r;
}
