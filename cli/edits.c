/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* What repair and chain repair say of a plan before and after it is applied, and the question whether it shall be. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"

static int add_up(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct cli_edits *s = arg;

	(void)off;
	(void)bytes;
	s->edits++;
	s->bytes += len;
	return 0;
}

void cli_edits(struct plt_repair *rep, struct cli_edits *ret)
{
	*ret = (struct cli_edits){ 0 };
	plt_repair_each(rep, add_up, ret);
}

void cli_print_edits(struct plt_repair *rep, const struct cli_edits *sum)
{
	char size[CLI_SIZE_MAX];

	cli_human_size(sum->bytes, size);
	printf("\nPlan: %" PRIu64 " edit%s, %s", sum->edits, sum->edits == 1 ? "" : "s", size);
	if (plt_repair_growth(rep)) {
		cli_human_size(plt_repair_growth(rep), size);
		printf("; the file grows by %s", size);
	}
	puts(".");
}

bool cli_ask(const char *question, bool anybody)
{
	char answer[16];
	bool yes;

	if (!anybody && !isatty(STDIN_FILENO)) {
		cli_error("nobody to ask: --yes repairs without asking");
		return false;
	}
	printf("%s [y/N] ", question);
	fflush(stdout);
	yes = fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
	if (!yes)
		puts("Nothing has been changed.");
	return yes;
}

/* As a shell takes it for one word, whatever is in it; a terminal gets no control character. */
static void put_word(const char *name)
{
	bool plain = true;

	for (const char *p = name; *p; p++)
		plain = plain && (unsigned char)*p >= ' ' && *p != 127 && *p != '\'';
	printf(plain ? "'%s" : "$'%s", *name == '-' ? "./" : "");
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 127)
			printf("\\%03o", *p);
		else if (!plain && (*p == '\'' || *p == '\\'))
			printf("\\%c", *p);
		else
			putchar(*p);
	}
	putchar('\'');
}

void cli_print_repaired(const char *journal)
{
	printf("Repaired. This takes it back: %s undo ", cli_program);
	put_word(journal);
	putchar('\n');
}
