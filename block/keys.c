/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Key slots of an open disk: from what the caller asked for, by ids of secrets or as options of amend, to
 * a change that crypt/ judges and makes.  Nothing is written before all of it has been judged.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "block/engine.h"
#include "crypt/luks.h"
#include "formats/options.h"

static int needs_secret(struct plt_ctx *ctx, const char *id, struct plt_secret *s, const struct plt_secret **ret,
			struct plt_error *err)
{
	int r = id ? plt_secret_get(ctx, id, s, err) : 0;

	*ret = id && r == 0 ? s : NULL;
	return r;
}

static int change_keys(struct plt_image *img, const struct plt_key_change *change, bool rehearse, struct plt_error *err)
{
	struct plt_secret fresh = PLT_SECRET_INIT, old = PLT_SECRET_INIT;
	struct plt_luks_change c = { .keyslot = change->keyslot, .iter_ms = change->iter_time, .force = change->force,
				     .rehearse = rehearse };
	struct plt_luks *l;
	int r;

	if (!img->encrypted)
		return plt_error_set(err, ENOTSUP, "Can't amend encryption options - encryption not present");
	l = img->drv->luks ? img->drv->luks(img) : NULL;
	if (!l)
		return plt_error_set(err, ENOTSUP, "Only LUKS encryption options can be amended");
	if (!img->writable)
		return plt_error_set(err, EACCES, "'%s' is opened read-only", img->name);
	if (!change->state)
		return plt_error_set(err, EINVAL, "Parameter 'state' is missing");
	c.activate = !strcmp(change->state, "active");
	if (!c.activate && strcmp(change->state, "inactive"))
		return plt_error_set(err, EINVAL, "Parameter 'state' does not accept value '%s'", change->state);
	r = plt_store_check_writable(img->file, err);
	if (r == 0)
		r = needs_secret(img->ctx, change->new_secret, &fresh, &c.new_secret, err);
	if (r == 0)
		r = needs_secret(img->ctx, change->old_secret, &old, &c.old_secret, err);
	if (r == 0)
		r = plt_luks_amend(l, &c, err);
	plt_secret_release(&fresh);
	plt_secret_release(&old);
	return r;
}

int plt_amend_keys(struct plt_disk *disk, const struct plt_key_change *change, struct plt_error *err)
{
	return change_keys(disk->top, change, false, err);
}

/* ---- as options of amend --------------------------------------------------------------------- */

/* What the options begin with: "encrypt." inside a format, nothing for a format that is only that. */
static const char *prefix_of(const struct plt_driver *drv)
{
	for (const struct plt_opt_desc *d = drv->amend_opts; d && d->name; d++)
		if (!strcmp(d->name, "encrypt.state"))
			return "encrypt.";
	return "";
}

static const char *key_option(const struct plt_opts *o, const char *prefix, const char *name)
{
	char full[32];

	snprintf(full, sizeof(full), "%s%s", prefix, name);
	return plt_opts_get(o, full);
}

static uint64_t key_number(const struct plt_opts *o, const char *prefix, const char *name)
{
	char full[32];

	snprintf(full, sizeof(full), "%s%s", prefix, name);
	return plt_opts_u64(o, full);
}

unsigned plt_keys_options(const struct plt_driver *drv, const struct plt_opts *opts)
{
	static const char *const names[] = { "state", "keyslot", "old-secret", "new-secret", "iter-time" };

	unsigned n = 0;

	for (size_t i = 0; drv->luks && i < PLT_ARRAY_SIZE(names); i++)
		n += key_option(opts, prefix_of(drv), names[i]) != NULL;
	return n;
}

int plt_keys_amend(struct plt_image *img, const struct plt_opts *opts, bool force, bool rehearse, struct plt_error *err)
{
	struct plt_key_change c = PLT_KEY_CHANGE_INIT;
	const char *prefix = prefix_of(img->drv);

	c.state = key_option(opts, prefix, "state");
	c.new_secret = key_option(opts, prefix, "new-secret");
	c.old_secret = key_option(opts, prefix, "old-secret");
	if (key_option(opts, prefix, "keyslot"))
		c.keyslot = (int)PLT_MIN(key_number(opts, prefix, "keyslot"), INT_MAX);
	if (key_option(opts, prefix, "iter-time"))
		c.iter_time = key_number(opts, prefix, "iter-time");
	c.force = force;
	return change_keys(img, &c, rehearse, err);
}
