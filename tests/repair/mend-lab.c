/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What a plan says of the guest's bytes, for scripts that hold it against the truth:
 *
 *	mend-lab IMAGE FORMAT
 *
 * prints "OFFSET LENGTH lost|inferred CERTAINTY DISK WHY" lines; DISK is -1, or a snapshot's position.  FORMAT "-": to
 * be found out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "repair/repair.h"

int main(int argc, char **argv)
{
	static const char *const words[] = { "guess", "likely", "strong", "proven" };
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_repair_options how = PLT_REPAIR_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx = NULL;
	struct plt_repair *rep;

	if (argc != 3)
		return 99;
	if (strcmp(argv[2], "-"))
		o.format = argv[2];
	how.flags = PLT_REPAIR_NO_WRITE;
	if (plt_ctx_new(NULL, &ctx, &err) < 0 || plt_repair_plan(ctx, argv[1], &o, &how, NULL, NULL, &rep, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		plt_ctx_free(ctx);
		return 1;
	}
	for (size_t i = 0; i < rep->doubts.n; i++) {
		const struct plt_doubt *d = &rep->doubts.v[i];

		printf("%" PRIu64 " %" PRIu64 " %s %s %d %s\n", d->off, d->len, d->kind == PLT_LOST ? "lost" : "inferred",
		       words[d->certainty], d->disk == PLT_DISK_ACTIVE ? -1 : (int)d->disk, d->why);
	}
	plt_repair_free(rep);
	plt_ctx_free(ctx);
	return 0;
}
