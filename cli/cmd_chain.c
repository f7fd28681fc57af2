/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * chain: what an image is made of, layer by layer, or what the images of a folder depend on; what is wrong with it; and
 * the verbs that change it.  With one operand that is the image, whatever it is called; a verb comes before it.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/chain.h"

static int run(struct cli_args *a);

static const struct cli_opt opts[] = {
	{ 'f', "format", "fmt", "format of the image (a verb's)", CLI_FORMAT },
	{ 't', "cache", "cache", "how the images are opened (a verb's): " CLI_CACHE_WORDS, CLI_CACHE },
	{ OPT_AGAINST, "against", "digest|image", "verify: the digest, or an image with the same content, to compare with",
	  CLI_FILE },
	{ 'c', "compress", NULL, "flatten: compress what is copied", CLI_ANY },
	{ OPT_INTO, "into", "parent|child", "coalesce: where the layer's content goes (where it costs less)", CLI_ANY },
	{ 'd', "delete", NULL, "coalesce: delete the layer's file at the end", CLI_ANY },
	{ 'r', "rate-limit", "rate", "coalesce: copy into the parent no more than so many bytes a second", CLI_ANY },
	{ OPT_SEARCH, "search", "dir", "look here for a backing file that is missing, or (verify, coalesce) for more images that "
	  "depend on the layers; can be repeated", CLI_DIR },
	{ OPT_TO, "to", "file", "repair: the right backing file", CLI_FILE },
	{ OPT_YES, "yes", NULL, "repair: do not ask", CLI_ANY },
	{ OPT_UNDO_FILE, "undo-file", "file", "repair: the undo journal (the image's name and \".platter-undo\")", CLI_FILE },
	{ OPT_DRY_RUN, "dry-run", NULL, "coalesce, repair: only say what would be done", CLI_ANY },
	{ 0 },
};

const struct cli_command cli_chain = {
	.name = "chain",
	.operands = "[verify|flatten|coalesce|repair] filename|directory [layer...]",
	.operand_kind = CLI_FILE,
	.summary = "show what an image, or the images of a folder, depend on; make a chain shorter",
	.text = (const char *const[]){
		"Of an image: the chain from it down to the last backing file, with format, virtual size, size on the host, "
		"the data that is read from each layer, the ids that the format records, and what is wrong.",
		"Of a folder: the images in it and those they lead to, each below the one that it depends on. Only headers "
		"are read. Raw images are shown where another image depends on them.",
		"What is wrong: a backing file is missing, has moved, or is not the one that the image was made on; it was "
		"written after the image was; it is shorter; its format is not recorded, or is another; the chain leads in a "
		"circle, or is too long; an image cannot be opened, or is left over. The status is 0 if all is right or only "
		"needs care, 2 if not, 1 if nothing could be looked at.",
		"\\fBverify\\fR reads all that the image shows and prints its digest, as \\fBhash\\fR does, and what is wrong in "
		"the chain, by what the layers hold as well: which ranges are not what they were because another image was "
		"committed into a layer, or it was written to (images on the same layers are looked for in their folders and in those "
		"of --search). With --against the status is 2 if the digests differ.",
		"\\fBflatten\\fR copies all that the backing files supply into the image, which then needs none.",
		"\\fBcoalesce\\fR takes layers out of the chain: what each holds goes into the one below it, or into the one above, "
		"and the image shows the same. It is refused if another image depends on what would change: the folders of the "
		"layers, and those of --search, are searched for such images.",
		"\\fBrepair\\fR records another backing file in the image that has lost its own: the one that --to names, or the best "
		"of those found in its own folder, in that of the recorded name, and in those of --search, if it is sure. Ids, size, "
		"format, name and times are compared, and what the bytes say: whether the guest's metadata fits on the disk that image "
		"and candidate make together, and how much of what the image holds is the same below. The plan is shown, and applied "
		"with an undo journal, as by the command \\fBrepair\\fR. Without the verb, --search only lists the candidates.",
		"flatten and coalesce can be interrupted, by a power cut too, at any moment: the image shows the same, and giving the command "
		"again finishes it. What they copy no bitmap records, since the content stays.",
		NULL,
	},
	.examples = (const char *const[]){
		"platter chain top.qcow2", "its layers",
		"platter chain --output=json /var/lib/images", "who depends on whom, for a program",
		"platter chain verify top.qcow2", "the digest of what it shows, and its chain's health",
		"platter chain flatten -p top.qcow2", "an image that needs no other",
		"platter chain coalesce -d top.qcow2 snap3.qcow2", "one layer less",
		"platter chain --search /backup top.qcow2", "which of those files it was made on",
		"platter chain repair --search /backup top.qcow2", "record that, if it is sure",
		NULL,
	},
	.groups = (const struct cli_opt *const[]){
		opts, cli_object_opts, cli_output_opts, cli_progress_opts, cli_quiet_opts, cli_policy_opts, NULL,
	},
	.run = run,
};

/* ---- showing --------------------------------------------------------------------------------- */

static void print(struct chain_job *j, const struct plt_chain *chain, bool folder, const struct plt_parents *p)
{
	const char *wrong = p ? chain_wrong_parent(p) : NULL;
	json_t *o;

	if (j->args->json) {
		o = chain_json(chain);
		if (p)
			o = json_pack("{s:o, s:o, s:o}", "layers", o, "candidates-for", cli_json_text(p->image), "candidates",
				      chain_parents_json(p));
		cli_print_json(o);
		json_decref(o);
		return;
	}
	if (folder)
		chain_print_forest(chain);
	else
		chain_print(chain);
	if (!p)
		return;
	putchar('\n');
	if (wrong)
		printf("! '%s' records '%s', and '%s' fits: another backing file was recorded [C-REBASE]\n", p->image, wrong,
		       p->v[0].name);
	chain_print_parents(p);
}

static int show(struct chain_job *j)
{
	struct plt_error err = PLT_ERROR_INIT;
	const char *name = j->operands[0];
	struct plt_parents *p = NULL;
	struct plt_chain *chain = NULL;
	struct plt_ctx *ctx;
	struct stat sb;
	bool folder = stat(name, &sb) == 0 && S_ISDIR(sb.st_mode);
	int status = 1;

	if (folder && j->nfolders)
		return cli_usage_error("--search is for an image, not for a folder");
	if (cli_context(j->args, &ctx) < 0)
		return 1;
	if (plt_chain_look(ctx, &name, 1, folder ? PLT_CHAIN_FOLDERS | PLT_CHAIN_KNOWN_ONLY : PLT_CHAIN_SHARE, &chain,
			   &err) < 0 || (j->nfolders && plt_parents_find(ctx, name, j->folders, &p, &err) < 0)) {
		cli_error("%s", err.text);
	} else {
		print(j, chain, folder, p);
		status = chain_status(chain, folder);
		if (p && chain_wrong_parent(p) && !status)
			status = CHAIN_TROUBLE;
	}
	plt_parents_free(p);
	plt_chain_free(chain);
	plt_ctx_free(ctx);
	return status;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const struct verb {
	const char *name; /* NULL: none, show */
	int (*run)(struct chain_job *j);
	unsigned min, max; /* operands */
	const char *expects;
	const char *options; /* what it takes of those that not all do: short ones, and letters for others below */
} verbs[] = {
	{ NULL, show, 1, 1, "one image file or directory name", "S" },
	{ "verify", chain_verify, 1, 1, "one image file name", "ftAS" },
	{ "flatten", chain_flatten, 1, 1, "one image file name", "ftc" },
	{ "coalesce", chain_coalesce, 2, UINT32_MAX, "an image file name and layers of its chain", "ftdrISN" },
	{ "repair", chain_repair, 1, 1, "one image file name", "STYUN" },
};

/* What an option is called in the tables of verbs. */
static char letter(int c)
{
	switch (c) {
	case OPT_AGAINST:
		return 'A';
	case OPT_INTO:
		return 'I';
	case OPT_SEARCH:
		return 'S';
	case OPT_DRY_RUN:
		return 'N';
	case OPT_TO:
		return 'T';
	case OPT_YES:
		return 'Y';
	case OPT_UNDO_FILE:
		return 'U';
	default:
		return (char)c;
	}
}

static const char *option_name(char c)
{
	for (const struct cli_opt *o = opts; o->val; o++)
		if (letter(o->val) == c)
			return o->name;
	return "";
}

/* False: an error has been printed. */
static bool take(struct chain_job *j, int c)
{
	const char *arg = j->args->arg;

	switch (c) {
	case 'f':
		j->work.open.format = arg;
		break;
	case 't':
		j->work.cache = arg;
		break;
	case 'c':
		j->compress = true;
		break;
	case 'd':
		j->drop = true;
		break;
	case 'r':
		return cli_size("rate limit", arg, &j->rate);
	case OPT_AGAINST:
		j->against = arg;
		break;
	case OPT_DRY_RUN:
		j->dry_run = true;
		break;
	case OPT_TO:
		j->to = arg;
		break;
	case OPT_YES:
		j->yes = true;
		break;
	case OPT_UNDO_FILE:
		j->undo_file = arg;
		break;
	case OPT_INTO:
		j->into = !strcmp(arg, "parent") ? PLT_COALESCE_PARENT : PLT_COALESCE_CHILD;
		if (strcmp(arg, "parent") && strcmp(arg, "child")) {
			cli_usage_error("--into: expecting 'parent' or 'child', not '%s'", arg);
			return false;
		}
		break;
	case OPT_SEARCH:
		if (j->nfolders == CHAIN_FOLDERS_MAX) {
			cli_error("--search: more than %d folders", CHAIN_FOLDERS_MAX);
			return false;
		}
		j->folders[j->nfolders++] = arg;
		break;
	}
	return true;
}

static int run(struct cli_args *a)
{
	struct chain_job j = { .work = { .open = PLT_OPEN_OPTIONS_INIT }, .args = a };
	const struct verb *v = &verbs[0];
	char given[32] = "";
	size_t n = 0;
	int c;

	while ((c = cli_next(a)) != CLI_END) {
		if (c == CLI_STOP)
			return a->status;
		if (!take(&j, c))
			return 1;
		if (!strchr(given, letter(c)) && n + 1 < sizeof(given))
			given[n++] = letter(c);
	}
	j.operands = (const char *const *)a->argv + optind;
	j.noperands = (unsigned)(a->argc - optind);
	for (unsigned i = 1; j.noperands > 1 && i < sizeof(verbs) / sizeof(*verbs); i++)
		if (!strcmp(verbs[i].name, j.operands[0]))
			v = &verbs[i];
	if (v->name) {
		j.operands++;
		j.noperands--;
	} else if (j.noperands > 1) {
		return cli_usage_error("'%s' is none of the verbs of chain", j.operands[0]);
	}
	if (j.noperands < v->min || j.noperands > v->max)
		return cli_usage_error("Expecting %s", v->expects);
	for (size_t i = 0; i < n; i++)
		if (!strchr(v->options, given[i]))
			return cli_usage_error("chain%s%s does not take --%s", v->name ? " " : "", v->name ? v->name : "",
					       option_name(given[i]));
	j.work.name = j.operands[0];
	return v->run(&j);
}
