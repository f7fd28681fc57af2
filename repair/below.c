/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an image that is mended stands on is evidence: older versions of its clusters, and the guest's metadata that it
 * has not written itself.  If those layers are damaged, too, the evidence is what a rescue makes of them; so the plan of
 * the image is the same whether they have been repaired before it, or are only looked through.
 *
 * The invariant: whoever makes a plan of a layer for the sake of one above does not do so once more for those below it, so
 * the work grows with the square of the depth at most, and no deeper than PLT_RESCUED_BELOW_MAX.
 */
#include <errno.h>
#include <stdio.h>

#include "repair/repair.h"

static bool is_wrong(struct plt_repair *rep, const struct plt_image *img)
{
	struct plt_check_result res = { 0 };
	int r = img->drv->flags & PLT_DRIVER_NO_HEADER ? -ENOTSUP :
		plt_check_store(rep->ctx, img->file, img->name, img->drv->name, NULL, NULL, &res, NULL);

	return r == 0 && (plt_repair_is_damaged(&res) || res.check_errors);
}

bool plt_repair_ask_below(struct plt_repair *rep, struct plt_disk *chain)
{
	struct plt_image *img = plt_disk_image(chain);

	if (rep->below != PLT_BELOW_UNKNOWN || rep->nested || rep->no_backing)
		return rep->below == PLT_BELOW_DAMAGED;
	rep->below = PLT_BELOW_SOUND;
	for (unsigned i = 0; i < PLT_RESCUED_BELOW_MAX && (img = plt_image_backing(img)); i++)
		if (is_wrong(rep, img)) {
			rep->below = PLT_BELOW_DAMAGED;
			break;
		}
	return rep->below == PLT_BELOW_DAMAGED;
}

int plt_repair_open_chain(struct plt_repair *rep, struct plt_store *store, const struct plt_open_options *how,
			  struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = *how;
	int r = rep->below == PLT_BELOW_DAMAGED ? -EUCLEAN :
		plt_disk_open_store(rep->ctx, store, rep->name, rep->format, how, ret, err);

	if (r == 0 || r == -ENOMEM || rep->nested || how->flags & PLT_OPEN_NO_BACKING)
		return r;
	o.flags |= PLT_OPEN_RESCUE_BELOW;
	if (err)
		*err = (struct plt_error)PLT_ERROR_INIT;
	r = plt_disk_open_store(rep->ctx, store, rep->name, rep->format, &o, ret, err);
	if (r == 0)
		rep->below = PLT_BELOW_DAMAGED;
	return r;
}

/* With the image that @flags leave of it; NULL: it does not open so. */
static struct plt_disk *open_with(struct plt_repair *rep, unsigned flags, struct plt_error *err)
{
	struct plt_open_options how = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;

	how.flags = PLT_OPEN_NO_KEY | flags;
	return plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &how, &disk, err) < 0 ? NULL : disk;
}

void plt_repair_tell_below(struct plt_repair *rep, void (*found)(void *arg, const struct plt_check_finding *f), void *arg)
{
	struct plt_disk *alone = rep->no_backing ? NULL : open_with(rep, PLT_OPEN_NO_BACKING, NULL), *chain = NULL;
	struct plt_check_finding f = { .id = "C-LOST", .severity = "note", .beyond_qemu = true };
	struct plt_error why = PLT_ERROR_INIT;
	char text[sizeof(why.text) + 160];

	f.text = text;
	if (alone && plt_disk_image(alone)->backing_name && !(chain = open_with(rep, 0, &why))) {
		snprintf(text, sizeof(text), "what the image stands on cannot be opened, so that its disk could not be looked at "
			 "('chain repair' finds a file that has moved): %s", why.text);
		found(arg, &f);
	}
	f.id = "C-DAMAGED";
	for (struct plt_image *img = chain ? plt_disk_image(chain) : NULL; img && (img = plt_image_backing(img));)
		if (is_wrong(rep, img)) {
			snprintf(text, sizeof(text), "'%s', which the image stands on, is damaged: that is put right by a repair of "
				 "that file", img->name);
			found(arg, &f);
		}
	plt_disk_close(chain, NULL);
	plt_disk_close(alone, NULL);
}
