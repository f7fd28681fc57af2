/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CONVERT_SPARSIFY_H
#define PLT_CONVERT_SPARSIFY_H

/*
 * What the files of sparsify share.  One job is one open image whose space is given back, or, in a dry run,
 * counted.  Everything is given back in whole units of the image.
 */
#include "base/extents.h"
#include "block/internal.h"
#include "convert/convert.h"

struct plt_sparsify_job {
	struct plt_disk *disk;
	const struct plt_sparsify_options *opts;
	struct plt_sparsify_result *res;
	uint64_t unit;             /* what the image can give back of itself */
	bool dry;
	bool touched;              /* the crew's lock */
	bool into_copy;            /* the disk is a layer of ours over the image: zeros in it are the result */
	struct plt_extents counted;/* dry: what an earlier kind would have given back already */
	struct plt_crew crew;
};

/* [off, +len), whole units, becomes zeros without a place. */
int plt_sparsify_zero(struct plt_sparsify_job *job, uint64_t off, uint64_t len, struct plt_error *err);

/* sparsify_look.c: clusters of zeros, and those that are equal to the backing file (NULL: none is open). */
int plt_sparsify_look(struct plt_sparsify_job *job, struct plt_disk *backing, struct plt_error *err);

#endif
