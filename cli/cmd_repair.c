/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * repair: findings, plan, consent, journal, image, and a second look.  Nothing is written before the plan has been
 * shown and accepted.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define SHOWN_MAX 10 /* findings of a kind: there may be as many as clusters, and others must not go down in them */
#define KINDS_MAX 64

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image", CLI_FORMAT },
	{ OPT_YES, "yes", NULL, "do not ask", CLI_ANY },
	{ OPT_DRY_RUN, "dry-run", NULL, "show the plan; the image is opened read-only", CLI_ANY },
	{ OPT_COPY, "output", "new", "repair a copy under this name; the image itself stays as it is", CLI_FILE },
	{ OPT_PLAN, "plan", "file", "follow this plan; with --dry-run: write the plan into this file", CLI_FILE },
	{ OPT_TRUST, "trust", "strong|likely",
	  "put pieces of a lost map where they are likely to belong, too (strong: only where the evidence is)", CLI_ANY },
	{ OPT_DONOR, "donor", "image",
	  "an older copy or a clone of the disk, of the same size: what is lost and this one has is taken from it, and is "
	  "inferred", CLI_FILE },
	{ OPT_DEEP, "deep", NULL,
	  "hold the guest's own structures against the map even if nothing else shows that it is wrong (which repair does "
	  "anyway)", CLI_ANY },
	{ OPT_IGNORE_FEATURE, "ignore-feature", "bit", CLI_IGNORE_FEATURE_HELP, CLI_ANY },
	{ OPT_INTERACTIVE, "interactive", NULL, "ask about each piece of a lost map whose place is not sure", CLI_ANY },
	{ OPT_REPORT, "report", "file", "write all findings, and what the plan leaves lost or inferred, as JSON (-: on standard "
	  "output, behind all else)",
	  CLI_FILE },
	{ OPT_UNDO_FILE, "undo-file", "file", "the undo journal (the image's name and \".platter-undo\")", CLI_FILE },
	{ 0 },
};

const struct cli_command cli_repair = {
	.name = "repair",
	.operands = "filename",
	.operand_kind = CLI_FILE,
	.summary = "put a damaged image right",
	.text = (const char *const[]){
		"Shows what is wrong and what would be changed, asks, writes an undo journal, makes it durable, and "
		"only then changes the image; a repair that is interrupted is finished by the next one, or taken back "
		"by \\fBundo\\fR. The journal is kept.",
		"Clusters that nothing reaches are not given free as long as they may be what is left of a lost map.",
		"Exit status: 0 the image is right; 1 failed; 2 something is left that could not be put right; 3 space "
		"is lost, and nothing else.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter repair disk.qcow2", "look, then ask",
		"platter repair --dry-run disk.qcow2", "only look",
		"platter repair --dry-run --plan plan.json disk.qcow2", "write the plan down, to be followed later",
		"platter undo disk.qcow2.platter-undo", "take it back",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_image_opts_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
	.makes_plan = true,
};

struct job {
	const struct cli_args *args;
	const char *name, *copy;
	struct plt_open_options open;
	struct plt_repair_options options;
	bool yes, dry_run, quiet, interactive, noted;
	struct kind {
		char id[32], how[16];
		uint64_t n;
	} kinds[KINDS_MAX];
	unsigned nkinds;
	struct answer *answers; /* what has been asked is not asked again */
	size_t nanswers;
};

struct answer {
	uint64_t host_off, guest_off;
	bool yes;
};

/* Is it one of the first of its kind? */
static bool is_shown(struct job *j, const char *how, const char *id)
{
	struct kind *k = j->kinds;

	while (k < j->kinds + j->nkinds && (strcmp(k->how, how) || strcmp(k->id, id)))
		k++;
	if (k == j->kinds + KINDS_MAX)
		return true;
	if (k == j->kinds + j->nkinds) {
		snprintf(k->id, sizeof(k->id), "%s", id);
		snprintf(k->how, sizeof(k->how), "%s", how);
		j->nkinds++;
	}
	return k->n++ < SHOWN_MAX;
}

static void print_kept_back(const struct job *j)
{
	for (unsigned i = 0; i < j->nkinds; i++)
		if (j->kinds[i].n > SHOWN_MAX)
			printf("%s: ... and %" PRIu64 " more%s [%s]\n", j->kinds[i].how, j->kinds[i].n - SHOWN_MAX,
			       cli_reports(j->args) ? "" : ", which --report lists", j->kinds[i].id);
}

static void found(void *arg, const struct plt_check_finding *f)
{
	struct job *j = arg;
	const char *text = f->text, *how = f->mended ? "to repair" : f->severity;

	if (f->mended && !strncmp(text, "Repairing ", 10))
		text += 10;
	if (!strncmp(text, "ERROR", 5)) /* the severity says so */
		text += text[5] == ':' ? 7 : 6;
	cli_report_finding(j->args, f);
	j->noted = j->noted || !strcmp(f->severity, "note");
	if (!j->quiet && is_shown(j, how, f->id))
		printf("%s: %s [%s]\n", how, text, f->id);
}

static void print_left(const char *when, const struct plt_check_result *res, const struct cli_doubts *doubts)
{
	uint64_t errors = res->corruptions + res->added + res->check_errors;
	char size[CLI_SIZE_MAX];

	if (errors || res->leaks)
		printf("%s %" PRIu64 " error%s and %" PRIu64 " leaked cluster%s are left", when, errors, errors == 1 ? "" : "s",
		       res->leaks, res->leaks == 1 ? "" : "s");
	else
		printf("%s %s", when, doubts->lost || doubts->inferred ? "the structure is sound" : "nothing is wrong");
	if (doubts->lost) {
		cli_human_size(doubts->lost, size);
		printf("; %s of the disk are lost", size);
	}
	if (doubts->inferred) {
		cli_human_size(doubts->inferred, size);
		printf("; %s rest on less than proof", size);
	}
	puts(".");
}

static int exit_status(const struct plt_check_result *res, bool doubts)
{
	return res->corruptions || res->added || res->check_errors || doubts ? 2 : res->leaks ? 3 : 0;
}

/* A piece whose place is not sure. */
static bool offered(void *arg, const struct plt_placement_offer *o)
{
	struct job *j = arg;
	struct answer *grown;
	char answer[16];
	bool yes;

	for (size_t i = 0; i < j->nanswers; i++)
		if (j->answers[i].host_off == o->host_off && j->answers[i].guest_off == o->guest_off)
			return j->answers[i].yes;
	printf("What lies at offset %#" PRIx64 " in the file may belong at guest offset %#" PRIx64 ", %" PRIu64
	       " bytes (%s: %s).\nPut it there? [y/N] ", o->host_off, o->guest_off, o->guest_len, o->certainty, o->why);
	fflush(stdout);
	yes = fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
	grown = realloc(j->answers, (j->nanswers + 1) * sizeof(*grown));
	if (grown) {
		j->answers = grown;
		grown[j->nanswers++] = (struct answer){ o->host_off, o->guest_off, yes };
	}
	return yes;
}

/* Under the other name there is an image afterwards, even if nothing had to be done. */
static int copy(struct job *j, struct plt_repair *rep, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r = plt_repair_copy(rep, j->copy, &err);

	if (r < 0)
		cli_error("%s", err.text);
	else if (!j->quiet)
		printf("The %s is '%s'.\n", what, j->copy);
	return r;
}

static int repair(struct job *j, struct plt_repair *rep)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result left = { 0 };
	struct cli_doubts unsure;
	struct cli_edits sum;
	char *journal = NULL;
	bool doubts;
	int r = plt_repair_check(rep, NULL, NULL, &left, &err);

	if (r < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	cli_edits(rep, &sum);
	doubts = cli_report_plan(j->args, rep, j->name, plt_repair_before(rep)->format, &unsure);
	unsure.lost += plt_repair_before(rep)->lost; /* (of one that was interrupted) */
	unsure.inferred += plt_repair_before(rep)->inferred;
	doubts |= unsure.lost || unsure.inferred;
	if (j->dry_run && cli_plan_file(j->args)) {
		r = plt_repair_save(rep, cli_plan_file(j->args), &err);
		if (r < 0) {
			cli_error("%s", err.text);
			return 1;
		}
	}
	if (!j->quiet)
		print_kept_back(j);
	if (!sum.edits) {
		if (!j->quiet && j->noted && !exit_status(&left, doubts)) /* (it has just been said what is not known) */
			puts("There is nothing that can be repaired.");
		else if (!j->quiet)
			print_left("There is nothing that can be repaired;", &left, &unsure);
		if (!j->quiet && !j->open.format && !strcmp(plt_repair_before(rep)->format, "raw") && exit_status(&left, false))
			puts("Nobody has said that it is a disk and no image: with -f raw it is repaired as one.");
		return j->copy && !j->dry_run && copy(j, rep, "copy") < 0 ? 1 : exit_status(&left, doubts);
	}
	if (!j->quiet) {
		cli_print_edits(rep, &sum);
		print_left("After it", &left, &unsure);
	}
	if (j->dry_run)
		return exit_status(&left, doubts);
	if (!j->yes && !cli_ask("Repair?", j->interactive))
		return 1;
	if (j->copy)
		return copy(j, rep, "repaired copy") < 0 ? 1 : exit_status(&left, doubts);
	r = plt_repair_apply(rep, &journal, &err);
	if (r < 0) {
		cli_error("%s", err.text);
		return 1;
	}
	if (!j->quiet)
		cli_print_repaired(journal);
	if (!j->quiet && doubts && !cli_reports(j->args))
		puts("No image can say what of it is lost or uncertain: with --report FILE repair writes it down (undo this one, and "
		     "repair it so).");
	free(journal);
	return exit_status(&left, doubts);
}

static int run(struct cli_args *a)
{
	struct job j = { .open = PLT_OPEN_OPTIONS_INIT, .options = PLT_REPAIR_OPTIONS_INIT };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_repair *rep;
	struct plt_ctx *ctx;
	int c, status, r;

	while ((c = cli_next(a)) != CLI_END) {
		switch (c) {
		case CLI_STOP:
			return a->status;
		case 'f':
			j.open.format = a->arg;
			break;
		case OPT_YES:
			j.yes = true;
			break;
		case OPT_INTERACTIVE:
			j.interactive = true;
			break;
		case OPT_DRY_RUN:
			j.dry_run = true;
			break;
		case OPT_COPY:
			j.copy = a->arg;
			break;
		case OPT_UNDO_FILE:
			j.options.undo_file = a->arg;
			break;
		}
	}
	if (optind != a->argc - 1)
		return cli_usage_error("Expecting one image file name");
	if (j.copy && j.options.undo_file) {
		cli_error("--output and --undo-file exclude each other: a copy needs no undo journal");
		return 1;
	}
	if (j.copy && access(j.copy, F_OK) == 0) {
		cli_error("'%s' exists already: no file is written over", j.copy);
		return 1;
	}
	if ((j.dry_run && !cli_plan_has_place(a)) || cli_context(a, &ctx) < 0)
		return 1;
	j.name = a->argv[optind];
	j.args = a;
	if (!j.dry_run)
		j.options.plan = cli_plan_file(a);
	j.options.flags |= PLT_REPAIR_DEEP;
	j.options.donor = cli_donor(a);
	if (cli_trusts_likely(a))
		j.options.flags |= PLT_REPAIR_TRUST_LIKELY;
	if (j.interactive) {
		j.options.offered = offered;
		j.options.offered_arg = &j;
	}
	j.quiet = a->quiet;
	if (j.dry_run || j.copy)
		j.options.flags |= PLT_REPAIR_NO_WRITE;
	if (j.copy)
		j.options.flags |= PLT_REPAIR_COPY;
	r = cli_open_flags(a, &j.open);
	if (r == 0) {
		r = plt_repair_plan(ctx, j.name, &j.open, &j.options, found, &j, &rep, &err);
		if (r < 0)
			cli_error("%s", err.text);
	}
	status = r < 0 ? 1 : repair(&j, rep);
	if (r == 0)
		plt_repair_free(rep);
	free(j.answers);
	plt_ctx_free(ctx);
	return status;
}
