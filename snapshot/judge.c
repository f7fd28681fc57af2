/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is wrong in a chain, judged by headers, names and times alone: each layer, each with the one below it, and the
 * whole for circles and depth.  A finding has the id of its class of damage.  What only care is needed for (a format
 * that is not recorded, a shorter backing file) is a note; what shows other bytes than the image was made to show, or
 * none, is a corruption.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "formats/name.h"
#include "snapshot/look.h"

void plt_look_say(struct item *it, unsigned trouble, const char *text)
{
	it->pub.trouble |= trouble;
	if (!it->why && text)
		it->why = strdup(text);
}

static void found(struct look *l, struct item *it, const char *id, unsigned trouble, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
static void found(struct look *l, struct item *it, const char *id, unsigned trouble, const char *fmt, ...)
{
	struct plt_layer_finding *f = &it->findings[it->nfindings];
	char *text = NULL;
	va_list ap;

	it->pub.trouble |= trouble;
	if (it->nfindings == PLT_LAYER_FINDINGS)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (!text) {
		l->no_memory = true;
		return;
	}
	f->id = id;
	f->harmless = !(trouble & ~(unsigned)PLT_LAYER_HARMLESS);
	f->text = text;
	it->nfindings++;
}

/* ---- a backing file that is not there ---------------------------------------------------------- */

static void judge_lost(struct look *l, struct item *it)
{
	const char *why;

	plt_look_say(it, PLT_LAYER_LOST, it->full ? NULL : "where it is cannot be said");
	why = it->why;
	if (!*it->id.parent)
		it->moved_to = plt_name_moved_to(it->name, it->backing);
	if (it->moved_to)
		found(l, it, "C-MOVED", PLT_LAYER_LOST | PLT_LAYER_MOVED, "its backing file '%s' is not there, and '%s' is", it->backing,
		      it->moved_to);
	else
		found(l, it, "C-LOST", PLT_LAYER_LOST, "its backing file is missing or another one: %s%s%s%s", it->backing, why ? " (" : "",
		      why ? why : "", why ? ")" : "");
}

/* ---- two layers -------------------------------------------------------------------------------- */

static void judge_format(struct look *l, struct item *up, const struct item *down)
{
	const struct plt_driver *drv = up->backing_format ? plt_driver_find(up->backing_format) : NULL;

	if (!up->backing_format && !*up->id.parent)
		found(l, up, "C-FMT", PLT_LAYER_NO_FORMAT, "the format of its backing file is not recorded, and is found out by how that begins: "
		      "%s; %s", down->format, down->is_raw ? "its guest could write what makes it another" :
		      "were it raw, its guest could have written that");
	if (drv && down->format && !(drv->flags & PLT_DRIVER_NO_HEADER) && strcmp(drv->name, down->format) != 0)
		found(l, up, "C-FMT", PLT_LAYER_OTHER_FORMAT, "its backing file is of another format: recorded is %s, and it looks "
		      "like %s", up->backing_format, down->format);
	if (drv && drv->flags & PLT_DRIVER_NO_HEADER && down->looks_like)
		found(l, up, "C-FMT", PLT_LAYER_LOOKS_LIKE, "its backing file is recorded as raw, and begins like %s: either its guest "
		      "has written that, or the record is wrong; it is read as raw", down->looks_like);
}

/* Internal snapshots of the backing file from about when the image was made: those next to it, in words. */
static void offer(const struct item *down, int64_t made, char *ret, size_t len)
{
	const struct moment *v = down->moments, *before = NULL, *after = NULL;
	size_t n;

	for (unsigned i = 0; i < down->nmoments; i++) {
		if (v[i].when <= made && (!before || v[i].when >= before->when))
			before = &v[i];
		if (v[i].when > made && v[i].when <= down->pub.written && (!after || v[i].when < after->when))
			after = &v[i];
	}
	*ret = '\0';
	if (!before && !after)
		return;
	n = (size_t)snprintf(ret, len, "; what it was then may be in its internal snapshot ");
	if (before && n < len)
		n += (size_t)snprintf(ret + n, len - n, "'%.100s' (taken %" PRId64 " seconds before)", before->name, made - before->when);
	if (after && n < len)
		snprintf(ret + n, len - n, "%s'%.100s' (%" PRId64 " seconds after)", before ? " or " : "", after->name, after->when - made);
}

static void judge_times(struct look *l, struct item *up, const struct item *down)
{
	int64_t late = down->pub.written - up->pub.made;
	char offered[400];

	if (up->pub.made < 0 || late <= 0)
		return;
	offer(down, up->pub.made, offered, sizeof(offered));
	if (down->pub.written > up->pub.written)
		found(l, up, "C-CHANGED", PLT_LAYER_CHANGED, "its backing file has changed since it was made: written %" PRId64
		      " seconds after that%s", late, offered);
	else
		found(l, up, "C-CHANGED", PLT_LAYER_REWRITTEN, "its backing file was written %" PRId64 " seconds after it was made, "
		      "and before it was written last: something was merged into it, or the content does not fit%s", late, offered);
}

static void judge_pair(struct look *l, struct item *up, const struct item *down)
{
	if (down->pub.trouble & PLT_LAYER_UNREADABLE)
		return; /* that is said of it */
	if (*up->id.parent && *down->id.own && strcmp(up->id.parent, down->id.own) != 0)
		found(l, up, "C-LOST", PLT_LAYER_LOST, "its parent is the disk %s, and '%s' is %s", up->id.parent, down->name,
		      down->id.own);
	judge_format(l, up, down);
	if (down->pub.virtual_size < up->pub.virtual_size)
		found(l, up, "C-SIZE", PLT_LAYER_SHORT, "its backing file is shorter: %" PRIu64 " bytes, and it has %" PRIu64,
		      down->pub.virtual_size, up->pub.virtual_size);
	judge_times(l, up, down);
}

/* ---- all --------------------------------------------------------------------------------------- */

static void judge_depth(struct look *l, struct item *it, unsigned i)
{
	int at = (int)i;
	unsigned steps = 0;

	for (; at >= 0 && steps <= l->n; steps++)
		at = l->v[at].pub.below;
	if (at >= 0) /* as many steps as there are layers, and still not at an end */
		found(l, it, "C-CYCLE", PLT_LAYER_LOOP, "the chain leads in a circle");
	else if (steps > PLT_MAX_DEPTH && !it->pub.above)
		found(l, it, "C-DEPTH", PLT_LAYER_DEEP, "its chain has %u layers: more than can be opened (%d)", steps, PLT_MAX_DEPTH);
}

/*
 * Nobody stands on it, and it is not where a guest writes: hidden as an inner node, or left over when what it stands
 * on was written for others.
 */
static void judge_orphan(struct look *l, struct item *it)
{
	const struct item *down = it->pub.below >= 0 ? &l->v[it->pub.below] : NULL;

	if (it->pub.above)
		return;
	if (it->id.hidden)
		found(l, it, "C-ORPHAN", PLT_LAYER_ORPHAN, "it is marked as an inner node of a tree (hidden), and nothing depends on it");
	else if (down && down->pub.above > 1 && down->pub.written > it->pub.written && it->pub.written >= 0)
		found(l, it, "C-ORPHAN", PLT_LAYER_ORPHAN, "nothing depends on it, and its backing file, which others have too, was "
		      "written after it: it may be what a merge has left");
}

void plt_look_judge(struct look *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		struct item *it = &l->v[i];
		int below = it->full ? plt_look_find(l, it->full) : -1;

		if (it->pub.trouble & PLT_LAYER_UNREADABLE)
			found(l, it, "C-OPEN", PLT_LAYER_UNREADABLE, "cannot be opened%s%s%s", it->why ? " (" : "",
			      it->why ? it->why : "", it->why ? ")" : "");
		it->pub.below = below >= 0 ? below : -1;
		if (it->backing && below < 0)
			judge_lost(l, it);
		if (below >= 0) {
			l->v[below].pub.above++;
			judge_pair(l, it, &l->v[below]);
		}
	}
	for (unsigned i = 0; i < l->n; i++) {
		judge_depth(l, &l->v[i], i);
		judge_orphan(l, &l->v[i]);
	}
}
