/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * chain --search and chain repair: which file an image stands on that has lost its backing file, and a record of it in
 * the image, with an undo journal.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/chain.h"

#define SHOWN 8 /* candidates for a person */

/* ---- candidates ------------------------------------------------------------------------------ */

json_t *chain_parents_json(const struct plt_parents *p)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < p->n; i++) {
		const struct plt_parent *c = &p->v[i];
		json_t *o = json_object();

		json_object_set_new(o, "filename", cli_json_text(c->name));
		json_object_set_new(o, "format", json_string(c->format));
		json_object_set_new(o, "virtual-size", json_integer((json_int_t)c->virtual_size));
		json_object_set_new(o, "score", json_integer(c->score));
		json_object_set_new(o, "certainty", json_string(c->certainty));
		json_object_set_new(o, "recorded", json_boolean(c->recorded));
		json_object_set_new(o, "why", cli_json_text(c->why));
		json_array_append_new(list, o);
	}
	return list;
}

void chain_print_parents(const struct plt_parents *p)
{
	printf("Candidates for the backing file of '%s':\n", p->image);
	for (unsigned i = 0; i < p->n && i < SHOWN; i++)
		printf("%3u. %s  %s, %s, score %d%s\n     %s\n", i + 1, cli_shown(p->v[i].name), p->v[i].format, p->v[i].certainty,
		       p->v[i].score, p->v[i].recorded ? ", recorded now" : "", p->v[i].why);
	if (p->n > SHOWN)
		printf("... and %u more\n", p->n - SHOWN);
	if (!p->n)
		puts("  none");
}

static bool is_sure(const struct plt_parent *c)
{
	return c->opens && (!strcmp(c->certainty, "proven") || !strcmp(c->certainty, "strong"));
}

const char *chain_wrong_parent(const struct plt_parents *p)
{
	if (!p->n || p->v[0].recorded || !is_sure(&p->v[0]))
		return NULL;
	for (unsigned i = 1; i < p->n; i++)
		if (p->v[i].recorded)
			return p->v[i].name;
	return NULL;
}

/* ---- repair ---------------------------------------------------------------------------------- */

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The one that was named (of the candidates, so that what speaks for it is known), or the first. */
static const struct plt_parent *choose(struct chain_job *j, const struct plt_parents *p)
{
	if (!j->to) {
		if (p->n && p->v[0].recorded && p->v[0].opens) {
			if (!j->args->quiet)
				puts("The recorded backing file fits best; there is nothing to repair.");
			return NULL;
		}
		if (p->n && is_sure(&p->v[0]))
			return &p->v[0];
		cli_error(p->n ? "'%s': no candidate is sure enough; --to names the right one" :
				 "'%s': there is no candidate for its backing file; --search names folders", p->image);
		return NULL;
	}
	for (unsigned i = 0; i < p->n; i++)
		if (same_file(p->v[i].name, j->to))
			return &p->v[i];
	cli_error("'%s' cannot be the backing file of '%s': it is no image, or stands on that image itself", j->to, p->image);
	return NULL;
}

static int apply(struct chain_job *j, struct plt_repair *rep)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct cli_edits sum;
	char *journal = NULL;

	cli_edits(rep, &sum);
	if (!sum.edits) {
		if (!j->args->quiet)
			puts("That is what it records already.");
		return 0;
	}
	if (!j->args->quiet)
		cli_print_edits(rep, &sum);
	if (j->dry_run)
		return 0;
	if (!j->yes && !cli_ask("Record it?", false))
		return 1;
	if (plt_repair_apply(rep, &journal, &err) < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	if (!j->args->quiet)
		cli_print_repaired(journal);
	free(journal);
	return 0;
}

static int repair(struct chain_job *j, struct plt_ctx *ctx, const struct plt_parents *p)
{
	struct plt_repair_options o = PLT_REPAIR_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const struct plt_parent *c;
	struct plt_repair *rep;
	int status;

	if (!j->args->quiet)
		chain_print_parents(p);
	c = choose(j, p);
	if (!c)
		return !j->to && p->n && p->v[0].recorded && p->v[0].opens ? 0 : CHAIN_TROUBLE;
	if (!j->args->quiet)
		printf("\n'%s' is to stand on '%s' (%s).\n", p->image, cli_shown(c->name), c->format);
	o.undo_file = j->undo_file;
	o.flags = j->dry_run ? PLT_REPAIR_NO_WRITE : 0;
	if (plt_repair_reference(ctx, p->image, p->image_format, c->name, c->format, &o, &rep, &err) < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	status = apply(j, rep);
	plt_repair_free(rep);
	return status;
}

int chain_repair(struct chain_job *j)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_parents *p;
	struct plt_ctx *ctx;
	char *folder = NULL;
	int status = 1;

	if (cli_context(j->args, &ctx) < 0)
		return 1;
	if (j->to && j->nfolders < CHAIN_FOLDERS_MAX) {
		const char *slash = strrchr(j->to, '/');

		folder = slash ? strndup(j->to, (size_t)(slash - j->to) + 1) : strdup(".");
		j->folders[j->nfolders++] = folder;
	}
	if (plt_parents_find(ctx, j->work.name, j->folders, &p, &err) < 0) {
		cli_error("%s", err.text);
	} else {
		status = repair(j, ctx, p);
		plt_parents_free(p);
	}
	free(folder);
	plt_ctx_free(ctx);
	return status;
}
