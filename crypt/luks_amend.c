/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What `amend` may do to key slots.  The invariant: without force the last way into the data is never
 * taken away, and an active slot is never overwritten.
 */
#include <errno.h>

#include "base/error.h"
#include "crypt/luks.h"

#define LAST_WAY "which will erase all the data in the image irreversibly - refusing operation"

static unsigned active_mask(const struct plt_luks *l)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < LUKS_SLOTS; i++)
		mask |= (unsigned)l->slot[i].active << i;
	return mask;
}

static int activate(struct plt_luks *l, const struct plt_luks_change *c, struct plt_error *err)
{
	int n = c->keyslot;

	if (!c->new_secret)
		return plt_error_set(err, EINVAL, "'new-secret' is required to activate a keyslot");
	if (c->old_secret)
		return plt_error_set(err, EINVAL, "'old-secret' must not be given when activating keyslots");
	if (n >= 0 && l->slot[n].active && !c->force)
		return plt_error_set(err, EINVAL, "Refusing to overwrite active keyslot %d - please erase it first", n);
	for (int i = 0; i < LUKS_SLOTS && n < 0; i++)
		if (!l->slot[i].active)
			n = i;
	if (n < 0)
		return plt_error_set(err, EINVAL, "Can't add a keyslot - all keyslots are in use");
	if (c->rehearse)
		return 0;
	return plt_luks_slot_set(l, (unsigned)n, c->new_secret, c->iter_ms == UINT64_MAX ? 2000 : c->iter_ms, err);
}

static int erase(struct plt_luks *l, const struct plt_luks_change *c, struct plt_error *err)
{
	unsigned active = active_mask(l), mask = 0;
	int r = 0;

	if (c->new_secret)
		return plt_error_set(err, EINVAL, "'new-secret' must not be given when erasing keyslots");
	if (c->iter_ms != UINT64_MAX)
		return plt_error_set(err, EINVAL, "'iter-time' must not be given when erasing keyslots");
	if (c->keyslot < 0 && !c->old_secret)
		return plt_error_set(err, EINVAL, "To erase keyslot(s), either explicit keyslot index or the password "
				     "currently contained in them must be given");
	if (c->old_secret)
		r = plt_luks_match(l, c->old_secret, &mask, err);
	if (r < 0)
		return r;
	if (c->keyslot >= 0) {
		unsigned bit = 1U << c->keyslot;

		if (c->old_secret && !(mask & bit))
			return plt_error_set(err, EINVAL, "Given keyslot %d doesn't contain the given old password for erase "
					     "operation", c->keyslot);
		if (!(active & bit) && !c->force)
			return plt_error_set(err, EINVAL, "Given keyslot %d is already erased (inactive)", c->keyslot);
		if (active == bit && !c->force)
			return plt_error_set(err, EINVAL, "Attempt to erase the only active keyslot %d " LAST_WAY,
					     c->keyslot);
		mask = bit;
	} else if (!mask) {
		return plt_error_set(err, EINVAL, "No keyslots match given (old) password for erase operation");
	} else if (mask == active && !c->force) {
		return plt_error_set(err, EINVAL, "All the active keyslots match the (old) password that was given and "
				     "erasing them will erase all the data in the image irreversibly - refusing operation");
	}
	for (unsigned i = 0; i < LUKS_SLOTS && r == 0 && !c->rehearse; i++)
		if (mask >> i & 1)
			r = plt_luks_slot_erase(l, i, err);
	return r;
}

int plt_luks_amend(struct plt_luks *l, const struct plt_luks_change *c, struct plt_error *err)
{
	if (c->keyslot >= LUKS_SLOTS)
		return plt_error_set(err, EINVAL, "Invalid keyslot %d specified, must be between 0 and %d", c->keyslot,
				     LUKS_SLOTS - 1);
	return c->activate ? activate(l, c, err) : erase(l, c, err);
}
