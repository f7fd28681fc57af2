/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * How well the disk of an image agrees with itself, for deep.sh:
 *
 *	weigh-lab IMAGE [MOST]
 *
 * prints the good and the bad pieces of the guest's metadata, those of the bad that are zeros, and "sampled", "unclean"
 * where that is so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "guestfs/weigh.h"
#include "platter.h"

int main(int argc, char **argv)
{
	struct plt_weigh how = { .most = argc > 2 ? strtoull(argv[2], NULL, 0) : 0 };
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx = NULL;
	struct plt_disk *disk;
	struct plt_weighed w;
	int r;

	if (argc < 2 || plt_ctx_new(NULL, &ctx, &err) < 0)
		return 99;
	r = plt_disk_open(ctx, argv[1], &o, &disk, &err);
	if (r == 0) {
		r = plt_guest_weigh_disk(disk, &how, &w, &err);
		plt_disk_close(disk, NULL);
	}
	if (r == 0)
		printf("%" PRIu64 " good, %" PRIu64 " bad, %" PRIu64 " blank%s%s\n", w.good, w.bad, w.blank,
		       w.sampled ? ", sampled" : "", w.unclean ? ", unclean" : "");
	else
		fprintf(stderr, "%s\n", err.text);
	plt_ctx_free(ctx);
	return r < 0;
}
