/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Limbo: host ranges to which a reference has been dropped in the cache, but perhaps not yet on disk,
 * and which requests mapped before the drop may still be using.  They keep their counts here.  To
 * leave limbo: everything that was dirty is made durable, epochs drain (need.c does both), and only
 * then the driver lowers the counts, punches, and may use the place again.
 */
#include "block/engine.h"

void plt_limbo_add(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind)
{
	struct plt_engine *eng = img->engine;
	struct plt_limbo_entry *last = eng->nlimbo ? &eng->limbo[eng->nlimbo - 1] : NULL;

	if (last && kind == 0 && last->kind == 0 && last->off + last->len == host_off) {
		last->len += len;
		return;
	}
	/*
	 * Callers have asked plt_limbo_room(), perhaps before others came or took the list away: past the
	 * bound a leak is the safe answer.
	 */
	if (plt_limbo_room(img))
		eng->limbo[eng->nlimbo++] = (struct plt_limbo_entry){ host_off, len, kind };
}

unsigned plt_limbo_room(struct plt_image *img)
{
	struct plt_engine *eng = img->engine;

	if (!eng->limbo)
		eng->limbo = malloc(PLT_LIMBO_MAX * sizeof(*eng->limbo));
	return eng->limbo ? PLT_LIMBO_MAX - eng->nlimbo : 0;
}

int plt_limbo_take(struct plt_image *img, struct plt_limbo_entry **ret, unsigned *ret_n)
{
	struct plt_engine *eng = img->engine;

	PLT_LOCK_SCOPE(&img->lock);
	*ret = eng->limbo;
	*ret_n = eng->nlimbo;
	eng->limbo = NULL;
	eng->nlimbo = 0;
	return 0;
}

int plt_limbo_release(struct plt_image *img, struct plt_limbo_entry *v, unsigned n, struct plt_error *err)
{
	int r = 0;

	for (unsigned i = 0; i < n; i++) {
		int one = img->drv->release(img, v[i].off, v[i].len, v[i].kind, r ? NULL : err);

		if (one < 0 && !r)
			r = one; /* the rest leaks no less if we stop: go on */
	}
	free(v);
	return r;
}
