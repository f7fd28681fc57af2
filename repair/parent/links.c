/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Which layers of a chain are not what they were when the layer above was made.  Times alone say that a layer was written to
 * since; what was written, other images say: the one above it, if that has been committed into it (which changes nothing that it
 * shows); others that stand on it, if one of those has been.  Where nobody says, all that the layer supplies is in
 * doubt.  Where no time says anything, the guest's metadata may: it verifies from the bottom up, to the layer that
 * does not fit on what is below.
 */
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/name.h"
#include "guestfs/weigh.h"
#include "repair/parent/links.h"
#include "repair/parent/parent.h"

#define BAD_SHARE 50   /* one piece of metadata in so many, at least, is wrong where two layers do not fit */
#define BAD_LEAST 4
#define EXACT 4096u     /* what guests write at least */
#define OTHERS_MAX 16   /* images on the same layer that are held against one that stands on it */
#define FOLDERS_MAX 64

struct judging {
	struct plt_disk *disk;
	struct plt_ctx *ctx;
	const struct plt_chain *chain; /* of it: layers by headers and times */
	const char *const *folders;
	void (*found)(void *arg, const struct plt_chain_change *c);
	void *arg;
	unsigned depth;                /* of the upper of the two that are looked at */
	const struct plt_layer *up, *down;
	bool said;                     /* what is wrong with the two */
	struct plt_idle idle[OTHERS_MAX]; /* on the lower of the two; nobody stands on them */
	unsigned nidle;
	bool more_idle;                /* than there is room for: that is a template, whose images come and go */
};

/* ---- what is shown of a layer -------------------------------------------------------------------- */

/* What the disk reads from the layer at @depth, of @in (NULL: of all). */
static int shown_of(struct judging *j, unsigned depth, bool deeper, const struct plt_extents *in, struct plt_extents *ret,
		    struct plt_error *err)
{
	struct plt_cursor cur;
	const struct plt_extent *e;
	int r = 0;

	plt_cursor_init(&cur, j->disk, PLT_STATUS_NO_HOST);
	for (uint64_t pos = 0, end; pos < cur.size && r == 0; pos = end) {
		r = plt_cursor_at(&cur, pos, &e, err);
		if (r < 0)
			break;
		end = e->off + e->len;
		if (!(e->flags & PLT_EXTENT_PRESENT) || e->depth < depth || (e->depth > depth && !deeper))
			continue;
		if (!in && plt_extents_add(ret, pos, end - pos) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
		for (const struct plt_range *g = in ? plt_extents_find(in, pos) : NULL;
		     g && r == 0 && g < in->v + in->n && g->off < end; g++) {
			uint64_t a = PLT_MAX(g->off, pos), b = PLT_MIN(g->off + g->len, end);

			if (a < b && plt_extents_add(ret, a, b - a) < 0)
				r = plt_error_set(err, ENOMEM, "out of memory");
		}
	}
	return r;
}

/* How bad it is: the disk shows what it did; what it shows may be wrong; it is wrong. */
enum verdict { SAME, DOUBT, WRONG };

static void say(struct judging *j, const char *id, enum verdict v, const char *why, const struct plt_extents *ranges,
		const char *fmt, ...) __attribute__((format(printf, 6, 7)));
static void say(struct judging *j, const char *id, enum verdict v, const char *why, const struct plt_extents *ranges,
		const char *fmt, ...)
{
	struct plt_chain_change c = { .id = id, .harmless = v == SAME, .lost = v == WRONG, .layer = j->up->name, .parent = j->down->name,
				      .depth = j->depth, .why = why };
	char text[1200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c.text = text;
	if (ranges) {
		c.ranges = (const struct plt_chain_range *)ranges->v;
		c.nranges = ranges->n;
		c.bytes = plt_extents_total(ranges);
	}
	j->found(j->arg, &c);
}
_Static_assert(sizeof(struct plt_chain_range) == sizeof(struct plt_range) &&
	       offsetof(struct plt_chain_range, length) == offsetof(struct plt_range, len), "alike");

/* ---- commits ------------------------------------------------------------------------------------- */

/* The commit of the layer itself: it holds all that it did, and shows the same. */
static bool was_committed(struct judging *j, struct plt_error *err, int *ret_r)
{
	struct plt_disk *up = plt_disk_view_layer(j->disk, j->depth), *down = plt_disk_view_layer(j->disk, j->depth + 1);
	struct plt_merged m = { 0 };
	bool begun = false;

	*ret_r = up && down ? plt_merged_find(up, down, &m, err) : plt_error_set(err, ENOMEM, "out of memory");
	if (*ret_r == 0 && m.begun) {
		begun = true;
		if (m.whole)
			say(j, "C-COMMIT", SAME, "", NULL, "it has been committed into its backing file '%s', which has all that it "
			    "holds: it shows the same", j->down->name);
		else
			say(j, "C-COMMIT", SAME, "", NULL, "a commit of it into its backing file '%s' has stopped after %" PRIu64 " of %"
			    PRIu64 " units: it shows the same, and giving the command again finishes it", j->down->name, m.copied,
			    m.units);
	}
	plt_merged_release(&m);
	plt_disk_release_layer(up);
	plt_disk_release_layer(down);
	return begun;
}

/* Has @other, which stands on the same layer, been committed into it? */
static int judge_sibling(struct judging *j, const struct plt_layer *other, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *alone, *down;
	struct plt_extents hurt = PLT_EXTENTS_INIT;
	struct plt_merged m = { 0 };
	char why[160];
	bool exact;
	int r;

	o.format = other->format;
	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_FORCE_SHARE;
	if (plt_disk_open(j->ctx, other->name, &o, &alone, NULL) < 0)
		return 0;
	/* (an image whose unit is larger than what guests write has copied the rest of it from below, where it was the same) */
	exact = plt_disk_cluster_size(alone) <= EXACT || plt_disk_image(alone)->drv->any_parent;
	down = plt_disk_view_layer(j->disk, j->depth + 1);
	r = down ? plt_merged_find(alone, down, &m, err) : plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0 && m.begun) {
		j->said = true;
		r = shown_of(j, j->depth + 1, false, &m.same, &hurt, err);
	}
	if (r == 0 && m.begun) {
		const char *slash = strrchr(other->name, '/');

		snprintf(why, sizeof(why), "'%.60s' was committed into the backing file", slash ? slash + 1 : other->name);
		say(j, "C-COMMIT", !hurt.n ? SAME : exact ? WRONG : DOUBT, why, &hurt, "'%s' has been committed into its backing file '%s'%s (%" PRIu64 " of %" PRIu64
		    " units), and %" PRIu64 " bytes that are read from there are what that one holds", other->name, j->down->name,
		    m.whole ? "" : " in part", m.copied, m.units, plt_extents_total(&hurt));
	}
	plt_extents_release(&hurt);
	plt_merged_release(&m);
	plt_disk_release_layer(down);
	plt_disk_close(alone, NULL);
	return r;
}

static bool add_folder(char **v, unsigned *n, const char *file)
{
	char *copy = strdup(file), *folder = copy ? strdup(dirname(copy)) : NULL;

	free(copy);
	for (unsigned i = 0; folder && i < *n; i++)
		if (plt_same_path(v[i], folder)) {
			free(folder);
			return true;
		}
	if (folder)
		v[(*n)++] = folder;
	return folder;
}

/* All images of the folders that stand on the lower layer; @fn sets j->said if that explains what is wrong. */
static int each_sibling(struct judging *j, int (*fn)(struct judging *j, const struct plt_layer *other, struct plt_error *err),
			struct plt_error *err)
{
	char *v[FOLDERS_MAX + 2];
	struct plt_chain *all = NULL;
	unsigned n = 0;
	int r = 0;

	if (plt_ctx_policy(j->ctx) != PLT_POLICY_TRUST) /* no other files are looked at */
		return 0;
	if (!add_folder(v, &n, j->up->name) || !add_folder(v, &n, j->down->name))
		r = plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && j->folders && j->folders[i] && n < FOLDERS_MAX; i++)
		if (!(v[n] = strdup(j->folders[i])))
			r = plt_error_set(err, ENOMEM, "out of memory");
		else
			n++;
	if (r == 0 && plt_chain_look(j->ctx, (const char *const *)v, n, PLT_CHAIN_FOLDERS | PLT_CHAIN_HIDDEN, &all, NULL) < 0)
		all = NULL; /* (a folder that may not be read says nothing) */
	for (unsigned i = 0; all && i < all->n && r == 0; i++) {
		const struct plt_layer *l = &all->layers[i];

		if (l->format && l->below >= 0 && plt_same_path(all->layers[l->below].name, j->down->name) &&
		    !plt_same_path(l->name, j->up->name))
			r = fn(j, l, err);
	}
	plt_chain_free(all);
	while (n)
		free(v[--n]);
	return r;
}

/* ---- a layer that was left out ------------------------------------------------------------------- */

/* One that stands on the same, and that nobody stands on, is remembered. */
static int note_idle(struct judging *j, const struct plt_layer *other, struct plt_error *err)
{
	struct plt_idle *o = &j->idle[j->nidle];

	if (other->above)
		return 0;
	if (j->nidle == OTHERS_MAX) {
		j->more_idle = true;
		return 0;
	}
	o->written = other->written;
	o->name = strdup(other->name);
	o->format = strdup(other->format);
	j->nidle++;
	return o->name && o->format ? 0 : plt_error_set(err, ENOMEM, "out of memory");
}

static int say_left_out(struct judging *j, const struct plt_left_out *l, struct plt_error *err)
{
	struct plt_extents hurt = PLT_EXTENTS_INIT;
	int r = l->name ? shown_of(j, j->depth + 1, true, &l->differ, &hurt, err) : 0;

	if (r == 0 && hurt.n && l->sure) {
		j->said = true;
		say(j, "C-REBASE", DOUBT, "another backing file is recorded, a layer was left out", &hurt, "it stands on '%s', and was "
		    "written over '%s', which stands on that and nobody stands on: that layer was left out, and %" PRIu64 " bytes of it do "
		    "not show", j->down->name, l->name, plt_extents_total(&hurt));
	} else if (r == 0 && hurt.n) {
		say(j, "C-REBASE", SAME, "", NULL, "it stands on '%s', and so does '%s', on which nobody stands and which was written last "
		    "before this one was made: had that been left out of the chain, nothing would say so", j->down->name, l->name);
	}
	plt_extents_release(&hurt);
	return r;
}

static int judge_left_out(struct judging *j, struct plt_error *err)
{
	struct plt_disk *now = plt_disk_view_layer(j->disk, j->depth), *down = plt_disk_view_layer(j->disk, j->depth + 1);
	struct plt_left_out l = { 0 };
	int r = now && down ? each_sibling(j, note_idle, err) : plt_error_set(err, ENOMEM, "out of memory");

	if (r == 0 && j->nidle && !j->more_idle)
		r = plt_left_out_find(j->ctx, now, down, j->up->made, j->idle, j->nidle, &l, err);
	if (r == 0)
		r = say_left_out(j, &l, err);
	plt_extents_release(&l.differ);
	while (j->nidle) {
		free(j->idle[--j->nidle].name);
		free(j->idle[j->nidle].format);
	}
	j->more_idle = false;
	plt_disk_release_layer(now);
	plt_disk_release_layer(down);
	return r;
}

/* ---- metadata ------------------------------------------------------------------------------------ */

static bool is_bad(const struct plt_weighed *w, bool surely)
{
	if (!surely && w->sums)
		return w->bad;
	return w->bad >= BAD_LEAST && w->bad * BAD_SHARE >= w->good + w->bad;
}

/* Of bad pieces, those that the upper of the two layers does not hold. */
struct fitting {
	struct plt_disk *view;
	uint64_t below;
};

static void piece(void *arg, uint64_t off, uint64_t len, int verdict)
{
	struct fitting *f = arg;
	struct plt_extent e;
	unsigned n;

	if (verdict < 0 && f->below < BAD_LEAST && plt_status(f->view, off, len, PLT_STATUS_NO_HOST, &e, 1, &n, NULL) == 0 && n)
		f->below += e.depth > 0;
}

/* Does the guest's metadata verify on the disk that begins at that layer? */
static bool fits(struct judging *j, unsigned depth, struct plt_weighed *ret, uint64_t *ret_below)
{
	struct fitting f = { .view = plt_disk_view_layer(j->disk, depth) };
	struct plt_weigh how = { .piece = piece, .arg = &f };
	int r = f.view ? plt_guest_weigh_disk(f.view, &how, ret, NULL) : -ENOMEM;

	plt_disk_release_layer(f.view);
	if (ret_below)
		*ret_below = f.below;
	return r < 0 || !is_bad(ret, false);
}

/* What is below @depth does not belong there: all of it that shows is in doubt. */
static int doubt_all(struct judging *j, const char *id, bool deeper, const char *why, const char *text, struct plt_error *err)
{
	struct plt_extents shown = PLT_EXTENTS_INIT;
	int r = shown_of(j, j->depth + 1, deeper, NULL, &shown, err);

	if (r == 0)
		say(j, id, DOUBT, why, &shown, "%s (%" PRIu64 " bytes are read from there)", text, plt_extents_total(&shown));
	plt_extents_release(&shown);
	return r;
}

static void take_pair(struct judging *j, unsigned depth)
{
	int at = 0;

	for (unsigned d = 0; d < depth && at >= 0; d++)
		at = j->chain->layers[at].below;
	j->depth = depth;
	j->up = at >= 0 ? &j->chain->layers[at] : NULL;
	j->down = j->up && j->up->below >= 0 ? &j->chain->layers[j->up->below] : NULL;
}

/* Is there another image on which it fits, and surely? */
static bool find_better(struct judging *j, char *text, size_t len)
{
	struct plt_parents *p;
	bool better = false;

	if (plt_ctx_policy(j->ctx) != PLT_POLICY_TRUST || plt_parents_find(j->ctx, j->up->name, j->folders, &p, NULL) < 0)
		return false;
	if (p->n && !p->v[0].recorded && p->v[0].opens && strcmp(p->v[0].certainty, "guess") && strcmp(p->v[0].certainty, "likely")) {
		better = true;
		snprintf(text, len, "it records the backing file '%.200s', and '%.200s' fits (%s: %.300s)", j->down->name, p->v[0].name,
			 p->v[0].certainty, p->v[0].why);
	}
	plt_parents_free(p);
	return better;
}

/*
 * The whole does not fit: up to which layer does it?  A piece that the lower layer holds, and that verifies there and not
 * under the upper one, is no damage of either.
 */
static int find_misfit(struct judging *j, unsigned depths, struct plt_error *err)
{
	unsigned bad = 0, good = depths - 1;
	struct plt_weighed w = { 0 }, low = { 0 };
	uint64_t below = 0;
	char text[1000] = "";

	if (!fits(j, good, &low, NULL) || low.good < BAD_LEAST)
		return 0; /* the lowest alone does not: whatever that is, it is not between two layers */
	while (good - bad > 1) {
		unsigned mid = bad + (good - bad) / 2;

		if (fits(j, mid, &w, NULL)) {
			good = mid;
			low = w;
		} else {
			bad = mid;
		}
	}
	take_pair(j, bad);
	if (!j->down || fits(j, bad, &w, &below))
		return 0;
	if (!find_better(j, text, sizeof(text)) && (is_bad(&w, true) || (w.sums && below && !low.bad)))
		snprintf(text, sizeof(text), "it does not fit on its backing file '%.100s': alone that one agrees with itself, and of "
			 "the disk that both make %" PRIu64 " of %" PRIu64 " pieces of metadata do not verify", j->down->name, w.bad,
			 w.good + w.bad);
	return *text ? doubt_all(j, "C-REBASE", true, "the backing file is not the one that the image was made on", text, err) : 0;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

static int judge_pair(struct judging *j, bool deep, struct plt_error *err)
{
	unsigned trouble = j->up->trouble;
	int r = 0;

	if (trouble & (PLT_LAYER_CHANGED | PLT_LAYER_REWRITTEN)) {
		if (was_committed(j, err, &r))
			j->said = true;
		else if (r == 0)
			r = each_sibling(j, judge_sibling, err);
		if (r == 0 && !j->said && trouble & PLT_LAYER_CHANGED) {
			j->said = true;
			return doubt_all(j, "C-CHANGED", false, "the backing file was written to after the image was made",
					 "its backing file was written to after it was made, and nothing says by whom", err);
		}
	}
	if (r == 0 && !j->said && deep)
		r = judge_left_out(j, err);
	return r;
}

static int judge_all(struct judging *j, bool deep, struct plt_error *err)
{
	struct plt_weighed w = { 0 };
	unsigned depths = 0;
	bool said = false, unsure = deep;
	int r = 0;

	while (plt_disk_layer(j->disk, depths))
		depths++;
	for (unsigned d = 0; d + 1 < depths && r == 0; d++) {
		take_pair(j, d);
		if (!j->down)
			return 0;
		j->said = false;
		r = judge_pair(j, deep, err);
		said |= j->said;
		unsure |= j->up->trouble & PLT_LAYER_REWRITTEN;
	}
	if (r < 0 || said || !unsure || depths < 2 || fits(j, 0, &w, NULL) || w.unclean)
		return r;
	return find_misfit(j, depths, err);
}

int plt_links_judge(struct plt_disk *disk, struct plt_ctx *ctx, const char *name, const char *const *folders, bool deep,
		    void (*found)(void *arg, const struct plt_chain_change *c), void *arg, struct plt_error *err)
{
	struct judging j = { .disk = disk, .ctx = ctx, .folders = folders, .found = found, .arg = arg };
	struct plt_chain *chain;
	int r;

	if (!plt_disk_layer(disk, 1) || !strncmp(name, "json:", 5))
		return 0;
	r = plt_chain_look(ctx, &name, 1, PLT_CHAIN_IN_ORDER, &chain, err);
	if (r < 0)
		return r;
	j.chain = chain;
	r = judge_all(&j, deep, err);
	plt_chain_free(chain);
	return r;
}

int plt_chain_changes(struct plt_ctx *ctx, const char *name, const char *const *folders, bool deep,
		      void (*found)(void *arg, const struct plt_chain_change *c), void *arg, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_disk *disk;
	int r;

	o.flags = PLT_OPEN_FORCE_SHARE;
	r = plt_disk_open(ctx, name, &o, &disk, err);
	if (r < 0)
		return r;
	r = plt_links_judge(disk, ctx, name, folders, deep, found, arg, err);
	plt_disk_close(disk, NULL);
	return r;
}

/* ---- under rescue -------------------------------------------------------------------------------- */

struct rescued {
	struct plt_disk *disk;
	const struct plt_rescue_options *opts;
};

static void doubt(void *arg, const struct plt_chain_change *c)
{
	struct rescued *s = arg;
	struct plt_check_finding f = { .id = c->id, .severity = c->harmless ? "note" : "corruption", .beyond_qemu = true,
				       .image = c->layer };
	char text[1400];

	snprintf(text, sizeof(text), "'%s': %s", c->layer, c->text);
	f.text = text;
	for (size_t i = 0; i < c->nranges && !c->harmless; i++)
		plt_image_doubt(plt_disk_layer(s->disk, c->depth + 1), c->lost ? PLT_LOST : PLT_INFERRED, c->ranges[i].start,
				c->ranges[i].length, PLT_GUESS, c->why);
	if (s->opts && s->opts->found)
		s->opts->found(s->opts->found_arg, &f);
}

int plt_rescue_links(struct plt_disk *disk, const char *name, const struct plt_rescue_options *opts, struct plt_error *err)
{
	struct rescued s = { disk, opts };

	return plt_links_judge(disk, plt_disk_image(disk)->ctx, name, NULL, opts && (opts->deep || opts->deep_layers), doubt, &s, err);
}
