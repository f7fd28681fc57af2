/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Finding the parent of a differencing disk, and making sure that it is the one.  A child names its
 * parent by several paths, of which any may be out of date, and by its unique id, which is not: the
 * first path that leads to that id is right.  A parent that was changed since is found out by nothing
 * but its time, which copying changes too: that is only a warning.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/vhd.h"

static bool has_id(const struct vhd_state *v)
{
	return !plt_is_zero(v->header.parent_id, 16);
}

/* 0: it is the one (or nothing says that it is not); else why not. */
static int look(struct plt_image *img, const char *name, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	char is[VHD_ID_TEXT];
	struct plt_store *st;
	struct vhd_ends e;
	int r = plt_ref_open(img, PLT_REF_PARENT, name, false, false, &st, err);

	if (r < 0)
		return r;
	if (has_id(v)) {
		r = vhd_read_ends(st, &e, err);
		if (r == 0 && memcmp(e.use->f.id, v->header.parent_id, 16) && !v->parent_unchecked)
			r = plt_error_set(err, ESTALE, "is the disk %s", vhd_id_text(e.use->f.id, is));
	}
	plt_store_unref(st);
	return r;
}

static int take(struct plt_image *img, const char *which, struct plt_error *err)
{
	char *name = strdup(which);

	if (!name)
		return plt_error_set(err, ENOMEM, "out of memory");
	free(img->backing_name);
	img->backing_name = name;
	return 0;
}

int vhd_find_backing(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	struct plt_error why = PLT_ERROR_INIT, all = PLT_ERROR_INIT;
	unsigned damaged = UINT_MAX;
	char id[VHD_ID_TEXT];
	int code = ENOENT;

	if (v->type != VHD_DIFFERENCING)
		return 0;
	for (unsigned i = 0; i < v->nnames; i++) {
		size_t n = strlen(all.text);
		int r = look(img, v->names[i], &why);

		if (r == 0)
			return take(img, v->names[i], err);
		if (r == -EINVAL && damaged == UINT_MAX)
			damaged = i;
		/* what is not simply missing is the better reason */
		if (r != -ENOENT && code == ENOENT)
			code = -r;
		snprintf(all.text + n, sizeof(all.text) - n, r == -ESTALE ? "; '%.200s' %.400s" : "; '%.200s': %.400s",
			 v->names[i], why.text);
	}
	/* (who it was its footers said: what is made of it has to be held against what is in it) */
	if (damaged != UINT_MAX && img->rescued)
		return take(img, v->names[damaged], err);
	if (!v->nnames)
		snprintf(all.text, sizeof(all.text), "; no parent locator that could be followed names it");
	return plt_error_set(err, code, "'%s': its parent, %s%s, was not found%s%s", img->name,
			     has_id(v) ? "the disk " : "a raw image",
			     has_id(v) ? vhd_id_text(v->header.parent_id, id) : "", all.text,
			     code == ESTALE ? " (parent-check=off takes it all the same)" : "");
}

static void compare_times(struct plt_image *img, struct plt_image *below, const struct vhd_footer *parent)
{
	uint32_t recorded = plt_be32_get(vhd_of(img)->header.parent_timestamp);
	int fd = plt_store_fd(below->file);
	struct stat sb;

	/* Windows records none; some record when the parent was made, some when it was written last */
	if (!recorded || fd < 0 || fstat(fd, &sb) < 0 || recorded == vhd_time(sb.st_mtime) ||
	    (parent && recorded == plt_be32_get(parent->timestamp)))
		return;
	plt_ctx_warn(img->ctx, "'%s': its parent '%s' has another time (%u) than when it became the parent (%u, in seconds "
		     "since 2000): if it was written to since, this disk's content is damaged", img->name, below->name,
		     vhd_time(sb.st_mtime), recorded);
}

int vhd_check_backing(struct plt_image *img, struct plt_image *below, struct plt_error *err)
{
	const struct vhd_state *v = vhd_of(img);
	const struct vhd_footer *parent = below->drv == &vhd_driver ? &vhd_of(below)->footer : NULL;
	char is[VHD_ID_TEXT], want[VHD_ID_TEXT];

	if (v->type != VHD_DIFFERENCING)
		return 0;
	if (has_id(v) && !v->parent_unchecked && (!parent || memcmp(parent->id, v->header.parent_id, 16)))
		return plt_error_set(err, ESTALE, "'%s': its parent is the disk %s, and '%s' is %s%s (parent-check=off "
				     "takes it all the same)", img->name, vhd_id_text(v->header.parent_id, want),
				     below->name, parent ? "the disk " : "no VHD",
				     parent ? vhd_id_text(parent->id, is) : "");
	compare_times(img, below, parent);
	return 0;
}

int vhd_adopt_parent(struct plt_store *file, struct plt_image *below, struct plt_error *err)
{
	struct vhd_header h;
	struct vhd_ends e;
	int r = vhd_read_ends(file, &e, err);

	if (r == 0)
		r = vhd_read_header(file, e.file_size, &e.use->f, &h, err);
	if (r < 0)
		return r;
	memset(h.parent_id, 0, sizeof(h.parent_id));
	if (below->drv == &vhd_driver)
		memcpy(h.parent_id, vhd_of(below)->footer.id, sizeof(h.parent_id));
	vhd_header_seal(&h);
	return plt_store_write(file, plt_be64_get(e.use->f.data_offset), &h, sizeof(h), PLT_IO_HEADER, err);
}
