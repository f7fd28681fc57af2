/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The backing file of an image whose header is gone: nothing says that there was one but that the disk has no beginning, and
 * nothing says its name.  Looked at are the images beside it, as in the search for one that is missing (find.c), each with the
 * image as it is planned upon it.  What is found rests on content alone and is named as inferred, all over the disk.
 *
 * The invariant: of several over which the content fits alike none is taken.
 */
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shown.h"
#include "io/mapfile.h"
#include "repair/deep/deep.h"
#include "repair/parent/parent.h"

#define WEIGHED 16
#define FEW_PIECES 4 /* of metadata that the image holds */

static const char why_found[] = "the backing file was found by its content, its name is lost with the header";

int plt_parent_open_planned(const struct plt_child *child, const struct plt_candidate *c, struct plt_disk **ret)
{
	const struct plt_driver *drv = plt_driver_find(child->format);
	PLT_AUTOFREE char *name = realpath(c->name, NULL);
	struct plt_store *trial = NULL;
	int r = name ? plt_overlay_new(child->rep->overlay, true, &trial) : -ENOENT;

	if (r == 0)
		r = drv->name_backing(trial, name, c->format, NULL);
	if (r == 0 && drv->set_size && c->size > child->size && c->size <= child->reach) /* (its size is a guess as well) */
		r = drv->set_size(trial, c->size, NULL);
	if (r == 0)
		r = plt_deep_open(child->rep, trial, ret, NULL);
	plt_store_unref(trial);
	return r;
}

/* Is nothing mapped where a disk begins, though something is elsewhere? */
static bool has_no_beginning(const struct plt_child *child)
{
	return child->own.n && child->own.v[0].off;
}

static int collect(const struct plt_child *child, struct plt_candidate **ret, unsigned *ret_n, struct plt_error *err)
{
	PLT_AUTOFREE char *beside = strdup(child->name);
	const char *folder = beside ? dirname(beside) : NULL;
	struct plt_chain *all;
	int r = folder ? plt_chain_look(child->ctx, &folder, 1, PLT_CHAIN_FOLDERS, &all, err) : -ENOMEM;

	if (r < 0)
		return r;
	*ret = calloc((size_t)all->n + 1, sizeof(**ret));
	for (unsigned i = 0; i < all->n && *ret && r == 0; i++) {
		const struct plt_layer *l = &all->layers[i];
		struct plt_candidate *c = &(*ret)[*ret_n];

		if (!l->format || l->virtual_size < 512 || l->virtual_size < child->own.v[0].off || plt_layer_stands_on(all, i, child->name))
			continue;
		*c = (struct plt_candidate){ .name = strdup(l->name), .format = strdup(l->format), .size = l->virtual_size,
					     .written = l->written, .is_overlay = l->backing, .same_format = true };
		++*ret_n;
		r = c->name && c->format ? 0 : -ENOMEM;
	}
	plt_chain_free(all);
	return *ret ? r : -ENOMEM;
}

/* What the image does not hold itself is inferred, where nothing worse has been said. */
static int infer(const struct plt_child *child, struct plt_doubts *doubts, uint64_t size, enum plt_certainty certainty)
{
	uint64_t at = 0;
	int r = 0;

	for (size_t i = 0; i <= child->own.n && r == 0; i++) {
		const uint64_t end = i < child->own.n ? child->own.v[i].off : PLT_MAX(size, at);

		while (at < end && r == 0) {
			const struct plt_doubt *next = plt_doubts_find(doubts, PLT_DISK_ACTIVE, at);
			struct plt_doubt d = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .off = at, .certainty = certainty };

			if (next && next->off <= at) {
				at = next->off + next->len;
				continue;
			}
			d.len = (next ? PLT_MIN(next->off, end) : end) - at;
			snprintf(d.why, sizeof(d.why), "%s", why_found);
			at += d.len;
			r = plt_doubts_set(doubts, &d);
		}
		if (i < child->own.n)
			at = PLT_MAX(at, child->own.v[i].off + child->own.v[i].len);
	}
	return r;
}

static void say(struct plt_repair *rep, bool mended, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		char *text)
{
	const struct plt_check_finding f = { .id = "C-LOST", .severity = "corruption", .text = text, .beyond_qemu = true,
					     .mended = mended, .host_len = 512 };

	plt_text_clean(text, false);
	rep->before.corruptions_fixed += mended;
	rep->before.added += !mended;
	rep->undecided += !mended;
	if (found)
		found(arg, &f);
}

static bool fits(const struct plt_candidate *c)
{
	return c->weighed && !c->unopened && c->own_good >= FEW_PIECES && !c->own_bad && !c->bad;
}

/* Of a small image there is little to go by: that it fits one candidate and no other. */
static bool is_sure(const struct plt_repair *rep, const struct plt_candidate *v, unsigned n)
{
	bool likely = !strcmp(v[0].certainty, plt_certainty_name(PLT_LIKELY));

	return !strcmp(v[0].certainty, plt_certainty_name(PLT_STRONG)) || !strcmp(v[0].certainty, plt_certainty_name(PLT_PROVEN)) ||
	       (likely && (rep->trust <= PLT_LIKELY || (fits(&v[0]) && (n < 2 || !fits(&v[1])))));
}

static int decide(struct plt_repair *rep, struct plt_mend *mend, const struct plt_child *child, const struct plt_candidate *v,
		  unsigned n, void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	PLT_AUTOFREE char *name = n ? plt_parent_name(child->name, v[0].name) : NULL;
	char text[900];
	int r;

	if (!n || v[0].unopened || !v[0].weighed || !v[0].own_good)
		return 0;
	if (!name)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (!is_sure(rep, v, n)) {
		snprintf(text, sizeof(text), "ERROR the header is gone, and with it the name of a backing file. Beside the image '%.200s' "
			 "may be it (%s: %.300s); what it is has to be said (rebase -u)", name, v[0].certainty, v[0].why);
		say(rep, false, found, arg, text);
		return 0;
	}
	r = drv->name_backing(rep->overlay, name, v[0].format, err);
	if (r == 0)
		r = infer(child, &mend->doubts, PLT_MAX(child->size, v[0].size), strcmp(v[0].certainty, plt_certainty_name(PLT_LIKELY)) ?
			  PLT_STRONG : PLT_LIKELY);
	if (r < 0)
		return r;
	mend->changed = true;
	snprintf(text, sizeof(text), "Repairing header: the backing file is '%.200s' (%s: %.300s)", name, v[0].certainty, v[0].why);
	say(rep, true, found, arg, text);
	return 0;
}

int plt_repair_find_backing(struct plt_repair *rep, struct plt_mend *mend,
			    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	struct plt_open_options o = plt_repair_how(rep, PLT_OPEN_FORCE_SHARE | PLT_OPEN_NO_BACKING);
	struct plt_child child = { .ctx = rep->ctx, .rep = rep, .format = rep->format, .made = -1, .written = -1,
				   .id = { .parent_time = -1 } };
	struct plt_candidate *v = NULL;
	unsigned n = 0;
	int r = 0;

	if (!mend->nameless || rep->no_backing || !drv || !drv->name_backing || plt_ctx_policy(rep->ctx) != PLT_POLICY_TRUST ||
	    strcmp(plt_medium_below(rep->file)->ops->kind, "file") ||
	    plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &o, &child.alone, NULL) < 0)
		return 0;
	child.name = plt_medium_below(rep->file)->name;
	child.size = plt_disk_size(child.alone);
	child.reach = mend->behind.guessed ? mend->behind.reach : 0;
	if (!plt_disk_image(child.alone)->backing_name)
		r = plt_child_own(&child, err);
	if (r == 0 && has_no_beginning(&child))
		r = collect(&child, &v, &n, err);
	if (n)
		qsort_r(v, n, sizeof(*v), plt_candidate_by_first, &child);
	for (unsigned i = 0; i < n && i < WEIGHED && r == 0; i++)
		r = plt_candidate_weigh(&child, &v[i], err);
	if (r == 0 && n) {
		plt_candidates_rank(&child, v, n);
		r = decide(rep, mend, &child, v, n, found, arg, err);
	}
	for (unsigned i = 0; i < n; i++) {
		free(v[i].name);
		free(v[i].format);
		free(v[i].like);
	}
	free(v);
	plt_extents_release(&child.own);
	plt_disk_close(child.alone, NULL);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r == -ENOENT ? 0 : r;
}
