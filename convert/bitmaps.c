/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Persistent dirty bitmaps of the source, copied to the target (convert --bitmaps).  Whatever can be
 * refused is refused before the first byte of data is copied: a backup chain that has lost its
 * bitmap must be told at once, not after an hour.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "block/internal.h"
#include "convert/convert.h"

static int list(struct plt_disk *disk, const struct plt_bitmap_info **ret, unsigned *ret_n)
{
	struct plt_image *img = plt_disk_image(disk);

	return img->drv->bitmaps ? img->drv->bitmaps(img, ret, ret_n) : -ENOTSUP;
}

int plt_bitmaps_check_source(struct plt_disk *const *disks, unsigned n, bool skip_broken, struct plt_error *err)
{
	const struct plt_bitmap_info *v;
	unsigned count;
	int r;

	if (n != 1)
		return plt_error_set(err, EINVAL, "Copying bitmaps only possible with single source");
	r = list(disks[0], &v, &count);
	if (r < 0)
		return plt_error_set(err, -r, "Source lacks bitmap support");
	for (unsigned i = count; i-- > 0;) /* the last comes first, as in qemu-img's messages */
		if (v[i].inconsistent && !skip_broken)
			return plt_error_set(err, EUCLEAN, "Cannot copy inconsistent bitmap '%s'\n"
					     "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
					     v[i].name);
	return 0;
}

int plt_bitmaps_check_target(struct plt_disk *source, struct plt_disk *target, struct plt_error *err)
{
	const struct plt_bitmap_info *from, *to;
	struct plt_image *img = plt_disk_image(target);
	unsigned nfrom, nto;
	int r = img->drv->bitmaps_set ? list(target, &to, &nto) : -ENOTSUP;

	if (r < 0)
		return plt_error_set(err, -r, "Format driver '%s' does not support bitmaps", img->drv->name);
	r = list(source, &from, &nfrom);
	for (unsigned i = nfrom; r == 0 && i-- > 0;) {
		for (unsigned k = 0; k < nto; k++)
			if (!from[i].inconsistent && !strcmp(from[i].name, to[k].name))
				return plt_error_set(err, EEXIST, "Failed to create bitmap %s: Bitmap already exists: %s",
						     from[i].name, from[i].name);
		if (!from[i].inconsistent && plt_disk_size(source) != plt_disk_size(target))
			return plt_error_set(err, EINVAL, "Failed to populate bitmap %s: Bitmaps are of different sizes "
					     "(destination size is %" PRIu64 ", source size is %" PRIu64
					     ") and can't be merged", from[i].name, plt_disk_size(target),
					     plt_disk_size(source));
	}
	return r;
}

int plt_bitmaps_copy(struct plt_disk *source, struct plt_disk *target, struct plt_error *err)
{
	struct plt_image *from = plt_disk_image(source), *to = plt_disk_image(target);
	const struct plt_bitmap_info *v, *have;
	struct plt_bitmap_wish *w;
	uint64_t **bits, nbits;
	unsigned n = 0, nhave = 0, count = 0;
	int r = list(source, &v, &n);

	if (r == 0)
		r = list(target, &have, &nhave);
	if (r < 0)
		return plt_error_default(err, -r, "bitmaps");
	for (unsigned i = n; i-- > 0;)
		if (v[i].inconsistent)
			plt_ctx_warn(plt_disk_ctx(source), "Skipping inconsistent bitmap '%s'", v[i].name);
	w = calloc((size_t)n + nhave + 1, sizeof(*w));
	bits = calloc((size_t)n + 1, sizeof(*bits));
	if (!w || !bits)
		r = plt_error_set(err, ENOMEM, "Out of memory");
	for (unsigned i = 0; r == 0 && i < nhave; i++)
		w[count++] = (struct plt_bitmap_wish){ .info = have[i], .keep = (int)i };
	for (unsigned i = 0; r == 0 && i < n; i++) {
		if (v[i].inconsistent)
			continue;
		r = from->drv->bitmap_read(from, i, &bits[i], &nbits, err);
		if (r < 0)
			plt_error_prefix(err, "Failed to populate bitmap %s", v[i].name);
		w[count++] = (struct plt_bitmap_wish){ .info = v[i], .keep = -1, .bits = bits[i] };
	}
	if (r == 0 && count > nhave) {
		r = to->drv->bitmaps_set(to, w, count, err);
		if (r < 0)
			plt_error_prefix(err, "Failed to populate bitmap %s", w[nhave].info.name);
	}
	for (unsigned i = 0; bits && i < n; i++)
		free(bits[i]);
	free(bits);
	free(w);
	return plt_error_default(err, -r, "bitmaps");
}
