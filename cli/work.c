/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Work on an image that the library opens by itself, in one call that takes its time: commit, rebase and the verbs of
 * chain.  Context, open options, progress, the error and the way out after a signal are the same for all of them.
 */
#include "cli/cli.h"

int cli_work(struct cli_args *a, struct cli_work *w)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;
	int r;

	if (w->cache && !cli_cache_mode(w->cache, &w->open.cache)) {
		cli_error("Invalid cache option: %s", w->cache);
		return 1;
	}
	if (cli_context(a, &ctx) < 0)
		return 1;
	w->open.flags |= PLT_OPEN_WRITE | PLT_OPEN_SHARE_RAW;
	r = cli_open_flags(a, &w->open);
	if (r < 0) {
		plt_ctx_free(ctx);
		return 1;
	}
	cli_progress_begin(&w->progress, a, 1.0);
	r = w->fn(ctx, w, &err);
	if (r == 0)
		cli_progress_done(&w->progress);
	cli_progress_end(&w->progress);
	if (r < 0)
		cli_error("%s", err.text);
	plt_ctx_free(ctx);
	cli_die_if_cancelled();
	return r < 0;
}
