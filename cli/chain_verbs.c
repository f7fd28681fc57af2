/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* chain verify, flatten, coalesce: what is said before and after the library has done it. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/chain.h"

/* ---- verify ---------------------------------------------------------------------------------- */

#define DIGEST_BYTES 32 /* of sha256 */
#define RANGES_SHOWN 16 /* to a person */

static int digest_of(struct chain_job *j, struct plt_ctx *ctx, const char *name, const char *format,
		     char ret[2 * DIGEST_BYTES + 1])
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_hash_options h = PLT_HASH_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_disk *disk;
	uint8_t digest[64];
	size_t len;
	int r;

	o.format = format;
	o.cache = j->work.open.cache;
	o.flags = PLT_OPEN_SHARE_RAW;
	if (cli_open(j->args, ctx, name, &o, &disk) < 0)
		return -1;
	cli_progress_begin(&j->work.progress, j->args, 1.0);
	h.progress = cli_progress_tick;
	h.progress_arg = &j->work.progress;
	r = plt_hash(disk, &h, digest, &len, &err);
	if (r == 0)
		cli_progress_done(&j->work.progress);
	cli_progress_end(&j->work.progress);
	plt_disk_close(disk, NULL);
	cli_die_if_cancelled();
	if (r < 0) {
		cli_error("%s", err.text);
		return -1;
	}
	for (size_t i = 0; i < DIGEST_BYTES; i++)
		snprintf(ret + 2 * i, 3, "%02x", digest[i]);
	return 0;
}

static bool is_digest(const char *text)
{
	size_t n = strspn(text, "0123456789abcdefABCDEF");

	return n == 2 * DIGEST_BYTES && !text[n] && access(text, F_OK) < 0;
}

/* Of the layers, what their bytes say: kept as it is found, to be printed behind the digest. */
struct changes {
	json_t *list;
	bool wrong;
};

static void changed(void *arg, const struct plt_chain_change *c)
{
	struct changes *all = arg;
	json_t *o = json_object(), *ranges = json_array();

	json_object_set_new(o, "id", json_string(c->id));
	json_object_set_new(o, "severity", json_string(c->harmless ? "note" : "corruption"));
	json_object_set_new(o, "layer", cli_json_text(c->layer));
	json_object_set_new(o, "backing-image", cli_json_text(c->parent));
	json_object_set_new(o, "text", cli_json_text(c->text));
	json_object_set_new(o, "bytes", json_integer((json_int_t)c->bytes));
	for (size_t i = 0; i < c->nranges; i++)
		json_array_append_new(ranges, json_pack("{s:I, s:I}", "start", (json_int_t)c->ranges[i].start, "length",
							(json_int_t)c->ranges[i].length));
	json_object_set_new(o, "ranges", ranges);
	json_array_append_new(all->list, o);
	all->wrong |= !c->harmless;
}

static void print_finding(const char *layer, const char *text, const char *id)
{
	printf("! ");
	cli_put_name(layer);
	printf(": ");
	cli_put_name(text);
	printf(" [%s]\n", id);
}

static void print_changes(const struct changes *all)
{
	json_t *c, *r;
	size_t i, k;

	json_array_foreach(all->list, i, c) {
		json_t *ranges = json_object_get(c, "ranges");

		print_finding(json_string_value(json_object_get(c, "layer")), json_string_value(json_object_get(c, "text")),
			      json_string_value(json_object_get(c, "id")));
		json_array_foreach(ranges, k, r) {
			if (k == RANGES_SHOWN) {
				printf("    ... and %zu more ranges (--output=json has them)\n", json_array_size(ranges) - k);
				break;
			}
			printf("    %" JSON_INTEGER_FORMAT " bytes at %" JSON_INTEGER_FORMAT "\n",
			       json_integer_value(json_object_get(r, "length")), json_integer_value(json_object_get(r, "start")));
		}
	}
}

/* (that a layer was written to is among the changes, with what was) */
static bool is_said_later(const struct plt_layer_finding *f)
{
	return !strcmp(f->id, "C-CHANGED");
}

static void print_verified(struct chain_job *j, const struct plt_chain *chain, const struct changes *changes, const char *digest,
			   const char *other)
{
	bool same = !other || !strcasecmp(digest, other);
	json_t *o;

	if (j->args->json) {
		o = json_object();
		json_object_set_new(o, "filename", cli_json_text(j->work.name));
		json_object_set_new(o, "digest", json_string(digest));
		if (other) {
			json_object_set_new(o, "against", cli_json_text(j->against));
			json_object_set_new(o, "against-digest", json_string(other));
			json_object_set_new(o, "same", json_boolean(same));
		}
		json_object_set_new(o, "layers", chain_json(chain));
		json_object_set(o, "changes", changes->list);
		cli_print_json(o);
		json_decref(o);
		return;
	}
	printf("%s  %s\n", digest, j->work.name);
	for (unsigned i = 0; i < chain->n; i++)
		for (unsigned k = 0; k < chain->layers[i].nfindings; k++)
			if (!is_said_later(&chain->layers[i].findings[k]))
				print_finding(chain->layers[i].name, chain->layers[i].findings[k].text,
					      chain->layers[i].findings[k].id);
	print_changes(changes);
	if (other && !j->args->quiet)
		printf(same ? "The same as %s.\n" : "Not the same as %s.\n", j->against);
}

static int verify(struct chain_job *j, struct plt_ctx *ctx)
{
	char digest[2 * DIGEST_BYTES + 1], other[2 * DIGEST_BYTES + 1];
	struct changes changes = { .list = json_array() };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_chain *chain = NULL;
	int status = 0;

	if (plt_chain_look(ctx, &j->work.name, 1, PLT_CHAIN_SHARE, &chain, &err) < 0) {
		cli_error("%s", err.text);
		status = 1;
	}
	for (unsigned i = 0; !status && i < chain->n; i++)
		if (chain->layers[i].trouble & ~(unsigned)(PLT_LAYER_HARMLESS | PLT_LAYER_CHANGED))
			status = CHAIN_TROUBLE;
	if (status != 1 && (digest_of(j, ctx, j->work.name, j->work.open.format, digest) < 0 ||
			    (j->against && !is_digest(j->against) && digest_of(j, ctx, j->against, NULL, other) < 0)))
		status = 1;
	if (status != 1 && plt_chain_changes(ctx, j->work.name, j->folders, true, changed, &changes, &err) < 0) {
		cli_error("%s", err.text);
		status = 1;
	}
	if (status != 1) {
		if (j->against && is_digest(j->against))
			snprintf(other, sizeof(other), "%s", j->against);
		print_verified(j, chain, &changes, digest, j->against ? other : NULL);
		if (changes.wrong || (j->against && strcasecmp(digest, other)))
			status = CHAIN_TROUBLE;
	}
	json_decref(changes.list);
	plt_chain_free(chain);
	return status;
}

int chain_verify(struct chain_job *j)
{
	struct plt_ctx *ctx;
	int status;

	if (j->work.cache && !cli_cache_mode(j->work.cache, &j->work.open.cache)) {
		cli_error("Invalid cache option: %s", j->work.cache);
		return 1;
	}
	if (cli_context(j->args, &ctx) < 0)
		return 1;
	status = verify(j, ctx);
	plt_ctx_free(ctx);
	return status;
}

/* ---- flatten --------------------------------------------------------------------------------- */

static int flatten(struct plt_ctx *ctx, struct cli_work *w, struct plt_error *err)
{
	struct chain_job *j = (struct chain_job *)w;
	struct plt_rebase_options o = PLT_REBASE_OPTIONS_INIT;
	bool done;
	int r;

	o.flags = j->compress ? PLT_REBASE_COMPRESS : 0;
	o.progress = cli_progress_tick;
	o.progress_arg = &w->progress;
	r = plt_flatten(ctx, w->name, &w->open, &o, &done, err);
	if (r == 0 && !j->args->quiet)
		printf(done ? "'%s' needs no backing file any more.\n" : "'%s' has no backing file.\n", w->name);
	return r;
}

int chain_flatten(struct chain_job *j)
{
	j->work.fn = flatten;
	return cli_work(j->args, &j->work);
}

/* ---- coalesce -------------------------------------------------------------------------------- */

static void say(const struct chain_job *j, const struct plt_coalesced *c)
{
	bool parent = c->into == PLT_COALESCE_PARENT;
	char size[CLI_SIZE_MAX];

	if (j->args->quiet)
		return;
	cli_human_size(c->copied, size);
	printf("'%s' %s merged into its %s '%s' (%s)", c->layer, j->dry_run ? "would be" : "is", parent ? "parent" : "child",
	       parent ? c->parent : c->child, size);
	if (c->parent)
		printf("; '%s' %s on '%s'", c->child, j->dry_run ? "would stand" : "stands", c->parent);
	else
		printf("; '%s' %s no backing file", c->child, j->dry_run ? "would have" : "has");
	puts(c->deleted ? "; it is deleted." : ".");
}

static int coalesce(struct plt_ctx *ctx, struct cli_work *w, struct plt_error *err)
{
	struct chain_job *j = (struct chain_job *)w;
	struct plt_coalesce_options o = PLT_COALESCE_OPTIONS_INIT;
	struct plt_coalesced c;
	int r = 0;

	o.into = j->into;
	o.folders = j->folders;
	o.rate_limit = j->rate;
	o.flags = (j->drop ? PLT_COALESCE_DELETE : 0u) | (j->dry_run ? PLT_COALESCE_DRY_RUN : 0u);
	o.progress = cli_progress_tick;
	o.progress_arg = &w->progress;
	for (unsigned i = 1; i < j->noperands && r == 0; i++) {
		o.layer = j->operands[i];
		r = plt_coalesce(ctx, w->name, &w->open, &o, &c, err);
		if (r < 0)
			break;
		say(j, &c);
		plt_coalesced_release(&c);
	}
	return r;
}

int chain_coalesce(struct chain_job *j)
{
	j->work.fn = coalesce;
	return cli_work(j->args, &j->work);
}
