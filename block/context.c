/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The context: memory budget, workers, policy.  Holds nothing of any image; images hold it.
 */
#include <stdio.h>
#include <string.h>

#include "base/shown.h"
#include "block/engine.h"

#define DEFAULT_CACHE (UINT64_C(32) << 20)
#define MIN_CACHE (UINT64_C(1) << 20)

const char *plt_version(void)
{
	return PACKAGE_VERSION;
}

static void free_dirs(char **v)
{
	for (unsigned i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

static char **copy_dirs(const char *const *v)
{
	unsigned n = 0;
	char **out;

	while (v[n])
		n++;
	out = calloc(n + 1, sizeof(*out));
	for (unsigned i = 0; out && i < n; i++)
		if (!(out[i] = strdup(v[i]))) {
			free_dirs(out);
			return NULL;
		}
	return out;
}

int plt_ctx_new(const struct plt_ctx_options *opts, struct plt_ctx **ret, struct plt_error *err)
{
	static const struct plt_ctx_options defaults = PLT_CTX_OPTIONS_INIT;
	struct plt_ctx *ctx;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t bytes;

	if (!opts)
		opts = &defaults;
	bytes = opts->cache_bytes ? opts->cache_bytes : DEFAULT_CACHE;
	if (bytes < MIN_CACHE)
		return plt_error_set(err, EINVAL, "a metadata cache of %" PRIu64 " bytes is too small, %" PRIu64
				     " is the least", bytes, MIN_CACHE);
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return plt_error_set(err, ENOMEM, "out of memory");
	pthread_mutex_init(&ctx->lock, NULL);
	ctx->policy = opts->policy;
	ctx->ignore_features = opts->ignore_features;
	ctx->warn = opts->warn;
	ctx->warn_arg = opts->warn_arg;
	if ((opts->allow_dirs && !(ctx->allow_dirs = copy_dirs(opts->allow_dirs))) ||
	    plt_pool_new(opts->workers ? (int)opts->workers : cores > 0 ? (int)cores : 1, &ctx->pool) < 0 ||
	    plt_cache_new(ctx, bytes, &ctx->cache) < 0) {
		plt_ctx_free(ctx);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	*ret = ctx;
	return 0;
}

void plt_ctx_free(struct plt_ctx *ctx)
{
	if (!ctx)
		return;
	while (ctx->idle_queues) {
		struct plt_queue *q = ctx->idle_queues;

		ctx->idle_queues = q->next;
		plt_queue_free(q);
	}
	plt_pool_free(ctx->pool);
	plt_cache_free(ctx->cache);
	free_dirs(ctx->allow_dirs);
	plt_secrets_free(ctx);
	pthread_mutex_destroy(&ctx->lock);
	free(ctx);
}

uint64_t plt_ctx_ignored_features(const struct plt_ctx *ctx)
{
	return ctx->ignore_features;
}

int plt_ctx_may_ignore(struct plt_ctx *ctx, const struct plt_driver *drv, const char *name, struct plt_error *err)
{
	if (!ctx->ignore_features)
		return 0;
	if (drv->flags & PLT_DRIVER_FEATURES)
		atomic_store(&ctx->features_met, true);
	return atomic_load(&ctx->features_met) ? 0 :
	       plt_error_set(err, ENOTSUP, "'%s': no feature can be ignored: images of the format %s claim none", name, drv->name);
}

struct plt_pool *plt_ctx_pool(struct plt_ctx *ctx)
{
	return ctx->pool;
}

void plt_ctx_set_opener(struct plt_ctx *ctx, plt_opener_fn fn, void *arg)
{
	ctx->opener = fn;
	ctx->opener_arg = arg;
}

int plt_ctx_open_file(struct plt_ctx *ctx, const char *path, unsigned flags, struct plt_store **ret,
		      struct plt_error *err)
{
	return ctx->opener ? ctx->opener(ctx->opener_arg, path, flags, ret, err) : plt_file_open(path, flags, ret, err);
}

int plt_ctx_parallel(struct plt_ctx *ctx, unsigned n, int (*fn)(void *arg, unsigned i), void *arg)
{
	return plt_pool_parallel(ctx->pool, n, fn, arg);
}

void plt_ctx_warn(struct plt_ctx *ctx, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (!ctx->warn)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	plt_text_clean(text, true); /* (names from images are in it) */
	ctx->warn(ctx->warn_arg, text);
}

enum plt_policy plt_ctx_policy(const struct plt_ctx *ctx)
{
	return ctx->policy;
}
