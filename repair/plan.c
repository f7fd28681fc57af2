/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Making a plan.  The invariant: until it is applied the image is only read; all edits are in the overlay.
 * Each round examines what the rounds before have left, so that what depends on a repaired table is judged by
 * the repaired table.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/driver.h"
#include "io/mapfile.h"
#include "repair/deep/deep.h"
#include "repair/guest/guest.h"

#define MAX_ROUNDS 64
#define MAX_PASSES 4
#define COUNTS ((unsigned)(PLT_MEND_LOWER | PLT_MEND_RAISE | PLT_MEND_REBUILD))
#define MAX_REMEMBERED 4096 /* of what is put right */

void plt_repair_forget(struct plt_repair *rep)
{
	for (size_t i = 0; i < rep->nmended; i++)
		free(rep->mended[i].text);
	free(rep->mended);
	rep->mended = NULL;
	rep->nmended = 0;
	rep->undecided = 0;
	rep->size_said = false;
}


void plt_repair_free(struct plt_repair *rep)
{
	if (!rep)
		return;
	plt_store_unref(rep->overlay);
	plt_store_unref(rep->file);
	plt_doubts_release(&rep->doubts);
	plt_repair_forget(rep);
	plt_image_close(rep->img, NULL);
	free(rep->name);
	free(rep->format);
	free(rep->undo_file);
	free(rep);
}

int plt_repair_reset(struct plt_repair *rep, struct plt_error *err)
{
	plt_store_unref(rep->overlay);
	rep->overlay = NULL;
	if (plt_overlay_new(rep->file, true, &rep->overlay) < 0)
		return plt_error_set(err, ENOMEM, "out of memory");
	return plt_store_size(rep->file, &rep->size, err);
}

/*
 * Only what is being mended is of interest in the rounds behind the first.  Counts, and what entries say of them, are
 * put right when the guest has been asked what belongs where: they are said then.
 */
struct teller {
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	bool first, without_counts, first_counts;
};

static bool is_of_counts(const struct plt_check_finding *f)
{
	return !strcmp(f->id, "Q-REF-LOW") || !strcmp(f->id, "Q-LEAK") || !strncmp(f->id, "Q-COPIED", 8);
}

static void tell(void *arg, const struct plt_check_finding *f)
{
	const struct teller *t = arg;
	bool of_counts = is_of_counts(f);

	if (t->found && !(of_counts && t->without_counts) && (t->first || f->mended || (of_counts && t->first_counts)))
		t->found(t->arg, f);
}

int plt_repair_examine(struct plt_repair *rep, struct plt_mend *mend,
		       void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		       struct plt_check_result *ret, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);

	if (drv && drv->flags & PLT_DRIVER_NO_HEADER && rep->image_only)
		return plt_error_set(err, ENOTSUP, "This image format does not support checks");
	if (drv && drv->flags & PLT_DRIVER_NO_HEADER)
		return plt_guest_examine(rep->overlay, mend, found, arg, ret, err);
	if (!mend)
		return plt_check_store(rep->ctx, rep->overlay, rep->name, rep->format, found, arg, ret, err);
	return plt_mend_store(rep->ctx, rep->overlay, rep->name, rep->format, mend, found, arg, ret, err);
}

/* Somebody asks for it, or structure has shown that something is wrong, and somebody looks at the plan. */
static bool can_look_deep(const struct plt_repair *rep, unsigned what)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);

	return what & PLT_MEND_MAP && drv && drv->map_pieces && drv->show_pieces && (rep->deep || !rep->image_only);
}

/*
 * What was placed makes more of the disk known, and what was given up is not in the way any more: while anything is left
 * that nothing reaches, all is gone through once more.  So a repair of what was repaired has nothing left to do.
 */
static bool has_left(const struct plt_mend *mend, const struct plt_check_result *res)
{
	return res->leaks || mend->unplaced.n || mend->unplaced.nopen;
}

static bool is_worth_a_look(const struct plt_repair *rep)
{
	return (rep->deep || plt_repair_is_damaged(&rep->before)) && !plt_check_is_hopeless(&rep->before, rep->file);
}

int plt_repair_mend(struct plt_repair *rep, unsigned what,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct plt_mend mend = { .what = what, .changed = true, .look = rep->look, .guess = rep->guess,
				 .unattended = rep->image_only };
	struct teller t = { .found = found, .arg = arg, .first = true, .first_counts = true };
	struct plt_orphan *place = NULL;
	struct plt_check_result res;
	bool adopted = !(what & PLT_MEND_MAP);
	struct deep_steps deep = { 0 };
	struct plt_streams streams = { 0 };
	bool deeply = can_look_deep(rep, what), sized = !deeply, based = !deeply;
	bool asked = false; /* (of clusters once: the search goes on by itself as far as it can) */
	const unsigned first = deeply ? what & ~COUNTS : what; /* what nothing reaches may be what the guest misses, and what
								* is named too often another's */
	bool news = false; /* this pass has changed something */
	unsigned passes = 1;
	int r = plt_repair_find_end(rep, err);

	mend.what = first;
	for (unsigned i = 0; r == 0 && mend.changed; i++) {
		if (i == MAX_ROUNDS * passes) {
			r = plt_error_set(err, EUCLEAN, "'%s': after %u rounds of repair there still is something to repair",
					  rep->name, i);
			break;
		}
		mend.changed = mend.more = false;
		t.without_counts = mend.what != what;
		r = plt_repair_examine(rep, &mend, tell, &t, &res, err);
		t.first = false;
		t.first_counts &= t.without_counts;
		mend.nmoves = 0;
		rep->deeply = false;
		if (!i)
			rep->before = res;
		else if (r == 0) {
			rep->before.corruptions_fixed += res.corruptions_fixed;
			rep->before.leaks_fixed += res.leaks_fixed;
		}
		news |= mend.changed;
		if (r < 0 || mend.changed) {
			asked &= !mend.changed || (mend.stage == PLT_MEND_CLUSTERS && !rep->ask_again);
			continue;
		}
		if (!based) {
			based = true;
			r = plt_repair_find_backing(rep, &mend, found, arg, err);
			if (r < 0 || mend.changed)
				continue;
		}
		/* (what lies behind the end nobody below looks at) */
		if (!sized) {
			sized = true;
			r = plt_repair_size(rep, &mend, found, arg, err);
			if (r < 0 || mend.changed)
				continue;
		}
		if (!adopted) {
			adopted = true;
			r = plt_repair_adopt(rep, &mend.doubts, found, arg, &mend.changed, err);
			if (r == 0 && !mend.changed && !rep->image_only)
				r = plt_repair_find_data(rep, &mend, found, arg, err);
			if (r < 0 || mend.changed)
				continue;
		}
		/* (a walk over a disk of any size, for nothing where nothing is compressed) */
		if (deeply && !plt_streams_end(&streams) && res.compressed_clusters && is_worth_a_look(rep)) {
			r = plt_streams_step(rep, &mend, &streams, found, arg, err);
			rep->deeply = mend.nmoves;
			mend.changed = r > 0;
			r = PLT_MIN(r, 0);
			if (r < 0 || mend.changed)
				continue;
		}
		/* the guest is asked when nothing else has an answer; what it says may tell more */
		if (!asked && (mend.unplaced.n || mend.unplaced.nopen) && mend.unplaced.ngaps) {
			free(place);
			place = NULL;
			r = plt_repair_place(rep, &mend.unplaced, &place, &mend.nplace, NULL);
			if (r < 0)
				r = 0; /* (an encrypted disk without its key, ...): they stay where they are */
			mend.place = place;
			mend.changed = asked = mend.nplace;
		}
		if (!mend.changed && deeply && (!mend.more || mend.stage + 1 >= PLT_MEND_SETTLE)) {
			if (is_worth_a_look(rep))
				r = plt_deep_step(rep, &mend, &deep, found, arg, err);
			rep->deeply = mend.nmoves;
			if (!mend.changed) {
				sized &= !mend.behind.end && !mend.behind.guessed; /* (more is known of the disk) */
				deeply = mend.deep = false;
				mend.changed = what != mend.what;
				mend.what = what;
			}
			continue;
		}
		if (!mend.changed && mend.more && mend.stage < PLT_MEND_SETTLE) {
			mend.stage++;
			mend.nplace = 0;
			mend.changed = true;
			asked = false;
		}
		if (!mend.changed && news && what & PLT_MEND_MAP && passes < MAX_PASSES && has_left(&mend, &res)) {
			passes++;
			mend.stage = PLT_MEND_TABLES;
			mend.nplace = 0;
			mend.what = first;
			mend.changed = true;
			free(deep.moves);
			deep = (struct deep_steps){ 0 };
			deeply = can_look_deep(rep, what);
			asked = news = false;
		}
	}
	if (r == 0)
		r = plt_repair_fill_end(rep, err);
	free(place);
	free(deep.moves);
	plt_streams_release(&streams);
	plt_doubts_release(&rep->doubts);
	rep->doubts = mend.doubts;
	mend.doubts = (struct plt_doubts)PLT_DOUBTS_INIT;
	plt_mend_release(&mend);
	return r;
}

/* The journal of an interrupted repair, *ret: the one that was named, or one beside the image.  NULL: none. */
static int find_pending(struct plt_repair *rep, char **ret, struct plt_error *err)
{
	enum plt_journal_state state;
	struct plt_beside b = { 0 };
	struct plt_store *st;
	int r = 0;

	*ret = NULL;
	if (!strcmp(plt_medium_below(rep->file)->ops->kind, "file"))
		r = plt_beside_find(rep->file->name, &b, rep->undo_file ? NULL : err);
	*ret = b.pending;
	b.pending = NULL;
	plt_beside_release(&b);
	if (*ret || !rep->undo_file)
		return r;
	/* that there is no place beside it is why another one is named */
	if (plt_file_open(rep->undo_file, 0, &st, NULL) < 0)
		return 0;
	if (plt_journal_peek(st, &state, NULL) == 0 && state == PLT_JOURNAL_COMPLETE)
		*ret = strdup(rep->undo_file);
	plt_store_unref(st);
	return 0;
}

/* What an interrupted repair has begun is finished before anything is looked at. */
static int finish_pending(struct plt_repair *rep, bool write, struct plt_error *err)
{
	PLT_AUTOFREE char *pending = NULL;
	int r = find_pending(rep, &pending, err);

	if (r < 0 || !pending)
		return r;
	if (!write)
		return plt_error_set(err, EBUSY, "'%s': a repair was interrupted; 'repair' or 'check -r' finishes it, 'undo %s' "
				     "takes it back", rep->name, pending);
	r = plt_journal_finish(pending, rep->file, &rep->done_before, err);
	if (r < 0)
		return r;
	plt_ctx_warn(rep->ctx, "'%s': a repair that was interrupted has been finished; '%s' can undo it", rep->name, pending);
	if (rep->done_before.lost || rep->done_before.inferred)
		plt_ctx_warn(rep->ctx, "'%s': that repair has left %" PRIu64 " bytes lost and %" PRIu64 " bytes that rest on less "
			     "than proof: --report of a --dry-run lists them, once it is undone", rep->name,
			     rep->done_before.lost, rep->done_before.inferred);
	return 0;
}

int plt_repair_settle(struct plt_repair *rep, bool write, struct plt_error *err)
{
	int r = finish_pending(rep, write, err);

	return r < 0 ? r : plt_repair_reset(rep, err);
}

/* What is put right is remembered: the plan's file says so beside its edits.  (check -r makes none.) */
struct hear {
	struct plt_repair *rep;
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
};

static void hear(void *arg, const struct plt_check_finding *f)
{
	struct hear *h = arg;
	struct plt_repair *rep = h->rep;
	struct plt_mended *grown;

	if (h->found)
		h->found(h->arg, f);
	if (rep->image_only || !f->mended || !f->host_len || rep->nmended == MAX_REMEMBERED)
		return;
	grown = realloc(rep->mended, (rep->nmended + 1) * sizeof(*grown));
	if (!grown)
		return; /* it is only for a person to read */
	rep->mended = grown;
	grown[rep->nmended] = (struct plt_mended){ f->id, strdup(f->text), f->host_off, f->host_len };
	if (grown[rep->nmended].text)
		rep->nmended++;
}

/* As a file says: the image is examined as it is, so that its findings are known. */
static int follow(struct plt_repair *rep, struct hear *h, struct plt_error *err)
{
	int r = plt_repair_load(rep, rep->plan, err);

	if (r == 0)
		(void)plt_check_store(rep->ctx, rep->file, rep->name, rep->format, hear, h, &rep->before, NULL);
	return r;
}

/* What would cost more than it brings is not done; what only concerns counts may be. */
static int withdraw(struct plt_repair *rep, unsigned what, struct hear *h, struct plt_error *err)
{
	static const struct plt_check_finding said = {
		.id = "PLAN", .severity = "error", .beyond_qemu = true,
		.text = "less of the disk could be read after this plan than before it: it is withdrawn, save for what concerns "
			"counts alone; what was said to be repaired is not",
	};
	int r;

	plt_repair_forget(rep);
	if (h->found)
		h->found(h->arg, &said);
	r = plt_repair_reset(rep, err);
	if (r == 0)
		r = plt_repair_mend(rep, what & ~(unsigned)PLT_MEND_MAP, NULL, NULL, err);
	if (r == 0 && plt_repair_is_worse(rep)) {
		r = plt_repair_reset(rep, err);
		rep->before.corruptions_fixed = rep->before.leaks_fixed = 0;
	}
	rep->before.check_errors++;
	return r;
}

int plt_repair_make(struct plt_repair *rep, unsigned what, bool write,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct plt_check_finding said = { .id = "V-JRN", .severity = "corruption", .beyond_qemu = true, .mended = true };
	struct hear h = { rep, found, arg };
	const struct plt_driver *drv;
	char text[240];
	int replayed = 0, r = plt_repair_settle(rep, write, err);

	if (r == 0 && rep->plan)
		return follow(rep, &h, err);
	if (r == 0 && !rep->format)
		return plt_repair_recognize(rep, what, hear, &h, err);
	drv = r == 0 ? plt_driver_find(rep->format) : NULL;
	if (r == 0 && !(drv && drv->flags & PLT_DRIVER_MENDS))
		r = plt_error_set(err, ENOSYS, "'%s': images of the format %s cannot be repaired in this release", rep->name,
				  rep->format);
	if (r == 0)
		r = plt_ctx_may_ignore(rep->ctx, drv, rep->name, err);
	if (r == 0 && what & PLT_MEND_MAP)
		r = replayed = plt_repair_foreign(rep, text, sizeof(text), err);
	if (replayed > 0) {
		said.text = text;
		hear(&h, &said);
	}
	if (r >= 0)
		r = plt_repair_mend(rep, what, hear, &h, err);
	rep->before.corruptions_fixed += replayed > 0;
	return r == 0 && !(drv->flags & PLT_DRIVER_NO_HEADER) && plt_repair_is_worse(rep) ? withdraw(rep, what, &h, err) : r;
}

int plt_repair_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		    const struct plt_repair_options *options, struct plt_repair **ret, struct plt_error *err)
{
	static const struct plt_repair_options defaults = PLT_REPAIR_OPTIONS_INIT;
	const struct plt_repair_options *o = options ? options : &defaults;
	bool write = !(o->flags & PLT_REPAIR_NO_WRITE);
	struct plt_repair *rep = calloc(1, sizeof(*rep));
	const struct plt_driver *drv;
	bool told = opts && opts->format;
	int r;

	if (!rep)
		return plt_error_set(err, ENOMEM, "out of memory");
	rep->ctx = ctx;
	r = plt_bytes_open(ctx, name, opts, write ? PLT_BYTES_REPAIR : PLT_BYTES_READ, &rep->img, &rep->format, err);
	if (r < 0)
		plt_error_prefix(err, "Could not open '%s'", name);
	drv = r == 0 && rep->format ? plt_driver_find(rep->format) : NULL;
	if (drv && drv->flags & PLT_DRIVER_NO_HEADER && !told) { /* nothing says so yet */
		free(rep->format);
		rep->format = NULL;
	}
	rep->name = r == 0 ? strdup(rep->img->name) : NULL;
	rep->undo_file = o->undo_file ? strdup(o->undo_file) : NULL;
	if (r == 0 && (!rep->name || (o->undo_file && !rep->undo_file)))
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r < 0) {
		plt_repair_free(rep);
		return r;
	}
	rep->file = plt_store_ref(rep->img->file);
	rep->key[0] = plt_image_key(rep->img);
	rep->plan = o->plan;
	rep->deep = o->flags & PLT_REPAIR_DEEP;
	rep->copy = o->flags & PLT_REPAIR_COPY;
	rep->no_backing = opts && opts->flags & PLT_OPEN_NO_BACKING;
	rep->trust = o->flags & PLT_REPAIR_TRUST_LIKELY ? PLT_LIKELY : PLT_STRONG;
	rep->offered = o->offered;
	rep->offered_arg = o->offered_arg;
	*ret = rep;
	return 0;
}

/* For a copy: a disk that begins further on in the file is taken from there. */
static int unshift(struct plt_repair *rep, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		   struct plt_error *err)
{
	struct plt_check_finding f = { .id = "R-OFF", .severity = "corruption", .beyond_qemu = true, .mended = true };
	const struct plt_driver *drv = rep->format ? plt_driver_find(rep->format) : NULL;
	struct plt_store *part;
	uint64_t shift, size;
	char text[160];
	int r;

	if (!drv || !(drv->flags & PLT_DRIVER_NO_HEADER) || rep->plan)
		return 0;
	r = plt_repair_settle(rep, false, err); /* (nothing is taken from between two states of a repair) */
	shift = r == 0 ? plt_guest_shift(rep->file) : 0;
	if (shift)
		r = plt_store_size(rep->file, &size, err);
	if (r < 0 || !shift)
		return r;
	r = plt_window_new(rep->file, shift, size - shift, &part, err);
	if (r < 0)
		return r;
	plt_store_unref(rep->file);
	rep->file = part;
	rep->moved = true;
	snprintf(text, sizeof(text), "the disk begins %" PRIu64 " bytes into the file, where its partition table stands: the copy "
		 "begins there", shift);
	f.text = text;
	f.host_len = shift;
	if (found)
		found(arg, &f);
	return 0;
}

int plt_repair_plan(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		    const struct plt_repair_options *options,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_repair **ret,
		    struct plt_error *err)
{
	return plt_repair_plan_of(ctx, name, opts, options, false, found, arg, ret, err);
}

int plt_repair_plan_of(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		       const struct plt_repair_options *options, bool image_only,
		       void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_repair **ret,
		       struct plt_error *err)
{
	unsigned flags = options ? options->flags : 0;
	struct plt_repair *rep;
	int r = plt_repair_open(ctx, name, opts, options, &rep, err);

	if (r < 0)
		return r;
	rep->image_only = image_only;
	r = flags & PLT_REPAIR_COPY ? unshift(rep, found, arg, err) : 0;
	if (r == 0)
		r = plt_repair_make(rep, flags & PLT_REPAIR_LEAKS ? PLT_MEND_LOWER | PLT_MEND_MARKS : PLT_MEND_ALL,
				    !(flags & PLT_REPAIR_NO_WRITE), found, arg, err);
	if (r < 0) {
		plt_repair_free(rep);
		return r;
	}
	if (options && options->donor) {
		r = plt_repair_donate(rep, options->donor, found, arg, err);
		if (r < 0) {
			plt_repair_free(rep);
			return r;
		}
	}
	if (!image_only && found && rep->overlay && !rep->plan)
		plt_repair_tell_below(rep, found, arg);
	rep->before.corruptions_fixed += rep->moved;
	rep->before.lost = rep->done_before.lost;
	rep->before.inferred = rep->done_before.inferred;
	*ret = rep;
	return 0;
}

const struct plt_check_result *plt_repair_before(const struct plt_repair *rep)
{
	return &rep->before;
}

int plt_repair_check(struct plt_repair *rep, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		     struct plt_check_result *ret, struct plt_error *err)
{
	int r = plt_repair_examine(rep, NULL, found, arg, ret, err);

	if (r == 0)
		ret->added += rep->undecided;
	return r;
}

int plt_repair_each(struct plt_repair *rep, int (*fn)(void *arg, uint64_t off, const void *bytes, uint64_t len),
		    void *arg)
{
	return plt_overlay_each(rep->overlay, fn, arg);
}

static int some(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	(void)arg;
	(void)off;
	(void)bytes;
	(void)len;
	return 1;
}

bool plt_repair_is_empty(struct plt_repair *rep)
{
	return plt_repair_each(rep, some, NULL) == 0;
}

uint64_t plt_repair_growth(const struct plt_repair *rep)
{
	uint64_t size;

	return plt_store_size(rep->overlay, &size, NULL) == 0 && size > rep->size ? size - rep->size : 0;
}
