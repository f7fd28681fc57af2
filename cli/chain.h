/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CLI_CHAIN_H
#define PLT_CLI_CHAIN_H

/* The command chain: what its verbs share.  cmd_chain.c reads the command line, chain_*.c do it. */
#include "cli/cli.h"

#define CHAIN_TROUBLE 2 /* exit status: it is done, and something is wrong */
#define CHAIN_FOLDERS_MAX 64

struct chain_job {
	struct cli_work work;   /* first: cli_work() gives it back */
	struct cli_args *args;
	const char *const *operands;
	unsigned noperands;
	const char *folders[CHAIN_FOLDERS_MAX + 1]; /* --search */
	unsigned nfolders;
	const char *against, *to, *undo_file;
	uint64_t rate;
	enum plt_coalesce_into into;
	bool compress, drop, dry_run, yes;
};

/* The exit status. */
int chain_verify(struct chain_job *j);
int chain_flatten(struct chain_job *j);
int chain_coalesce(struct chain_job *j);
int chain_repair(struct chain_job *j);

/* chain_repair.c */
json_t *chain_parents_json(const struct plt_parents *p);
void chain_print_parents(const struct plt_parents *p);
/* The recorded backing file, if it is there and another surely is the right one; NULL: not. */
const char *chain_wrong_parent(const struct plt_parents *p);

/* chain_show.c */
json_t *chain_json(const struct plt_chain *c);
void chain_print(const struct plt_chain *c);
void chain_print_forest(const struct plt_chain *c);
int chain_status(const struct plt_chain *c, bool folder); /* the exit status that says what is wrong */

#endif
