/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * For a disk that is opened for rescue: a backing file that is not where it is recorded, or is another one there, is looked
 * for as `chain repair` does, beside the image, in the folder of the recorded name, and where the end of that name leads from
 * the image's folder.  What is found and sure is read; nothing is recorded.
 */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "formats/name.h"
#include "repair/parent/parent.h"

static enum plt_certainty certainty_of(const struct plt_parent *p)
{
	enum plt_certainty c = PLT_PROVEN;

	while (c > PLT_GUESS && strcmp(p->certainty, plt_certainty_name(c)))
		c--;
	return c;
}

/* The folder in which it may be by its name, malloc; NULL: nothing says so. */
static char *folder_by_name(struct plt_image *img)
{
	PLT_AUTOFREE char *path = plt_name_moved_to(img->name, img->backing_name);

	return path ? strdup(dirname(path)) : NULL;
}

int plt_rescue_parent(struct plt_image *img, const struct plt_rescue_options *opts, char **ret_name, char **ret_format,
		      enum plt_certainty *ret_certainty, struct plt_error *err)
{
	enum plt_certainty least = opts && opts->trust_likely ? PLT_LIKELY : PLT_STRONG;
	PLT_AUTOFREE char *folder = NULL;
	const char *folders[2] = { 0 };
	struct plt_parents *p = NULL;
	int r = 0;

	if (plt_ctx_policy(img->ctx) != PLT_POLICY_TRUST || !strncmp(img->name, "json:", 5))
		return 0;
	folders[0] = folder = folder_by_name(img);
	if (plt_parents_find(img->ctx, img->name, folders, &p, NULL) < 0)
		return 0; /* (an image that only opens through a plan) */
	if (p->n && p->v[0].opens && certainty_of(&p->v[0]) >= least && plt_same_path(p->image, img->name)) {
		*ret_name = strdup(p->v[0].name);
		*ret_format = strdup(p->v[0].format);
		*ret_certainty = certainty_of(&p->v[0]);
		r = *ret_name && *ret_format ? 1 : plt_error_set(err, ENOMEM, "out of memory");
	}
	plt_parents_free(p);
	return r;
}
