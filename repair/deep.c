/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * check --deep: what structure does not show.  Every compressed cluster is decoded, those that only an internal
 * snapshot has, too; the layers below and the data files are looked at; and what the guest's own metadata says of
 * where it lies is held against where it lies, which shows tables that are swapped and clusters that hold something
 * else.  Nothing is written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/extents.h"
#include "base/shown.h"
#include "formats/driver.h"
#include "guestfs/weigh.h"
#include "repair/deep/deep.h"
#include "repair/guest/guest.h"
#include "repair/parent/links.h"
#include "repair/repair.h"

struct deep {
	struct plt_ctx *ctx;
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	struct plt_check_result *ret;
	struct plt_disk *disk;
	struct plt_image *img;  /* the layer that is looked at */
	const char *snapshot;   /* of it; NULL: the active disk */
};

static void say(struct deep *d, const char *id, bool note, struct plt_check_finding where, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
static void say(struct deep *d, const char *id, bool note, struct plt_check_finding where, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	plt_text_clean(text, false);
	where.id = id;
	where.severity = note ? "note" : "corruption";
	where.text = text;
	where.beyond_qemu = true;
	if (!note)
		d->ret->added++;
	if (d->found)
		d->found(d->arg, &where);
}

/* ---- compressed clusters ------------------------------------------------------------------------ */

static int flaw(void *arg, const struct plt_run *run, size_t good)
{
	struct deep *d = arg;
	struct plt_check_finding where = {
		.host_off = run->host_off, .host_len = run->comp_len, .guest_off = run->unit_off, .guest_len = run->unit_len,
		.image = d->img->name,
	};

	say(d, "Q-CMP", false, where, "ERROR '%s'%s%s: the compressed cluster at guest offset %#" PRIx64 " (%#" PRIx64
	    " in the file) cannot be decoded: %zu of %" PRIu32 " bytes come out before the flaw", d->img->name,
	    d->snapshot ? ", snapshot " : "", d->snapshot ? d->snapshot : "", run->unit_off, run->host_off, good,
	    run->unit_len);
	return 0;
}

/* Through each internal snapshot, what no other view has shown. */
static int decode_snapshots(struct deep *d, struct plt_extents *seen, struct plt_error *err)
{
	const struct plt_snapshot_info *s;
	struct plt_image *img = d->img;
	unsigned n = 0;
	int r = img->drv->snapshots ? img->drv->snapshots(img, &s, &n) : 0;

	for (unsigned i = 0; i < n && r == 0; i++) {
		struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
		struct plt_check_finding where = { .image = img->name };
		struct plt_error why = PLT_ERROR_INIT;
		struct plt_disk *view;

		o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_FORCE_SHARE;
		o.snapshot_id = s[i].id;
		o.snapshot_name = s[i].name;
		d->snapshot = s[i].name;
		if (plt_disk_open_store(d->ctx, img->file, img->name, img->drv->name, &o, &view, &why) < 0) {
			say(d, "Q-SNAP", false, where, "ERROR '%s': snapshot '%s' cannot be opened: %s", img->name, s[i].name,
			    why.text);
		} else {
			r = plt_image_decode(plt_disk_image(view), seen, false, NULL, flaw, d, err);
			plt_disk_close(view, NULL);
		}
		d->snapshot = NULL;
	}
	return r < 0 ? plt_error_default(err, -r, "'%s': its snapshots could not be looked at", img->name) : 0;
}

/* ---- data files ---------------------------------------------------------------------------------- */

/* Data that the map expects in another file, behind its end. */
static int check_data_file(struct deep *d, struct plt_error *err)
{
	struct plt_image *img = d->img;
	uint64_t size = atomic_load(&img->size), have, missing = 0, first = 0;
	struct plt_check_finding where = { .image = img->name };
	struct plt_run v[64];
	int r;

	if (!img->data || img->data == img->file)
		return 0;
	r = plt_store_size(img->data, &have, err);
	for (uint64_t off = 0; off < size && r == 0;) {
		struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };

		r = plt_image_map_wait(img, off, size - off, &runs, err);
		for (unsigned i = 0; i < runs.n && r == 0; i++) {
			uint64_t there = v[i].host_off >= have ? 0 : PLT_MIN(v[i].len, have - v[i].host_off);

			off = v[i].off + v[i].len;
			if (v[i].kind != PLT_RUN_DATA || v[i].store != img->data || there == v[i].len)
				continue;
			if (!missing)
				first = v[i].off + there;
			missing += v[i].len - there;
		}
	}
	if (missing) {
		where.guest_off = first;
		where.guest_len = missing;
		say(d, "C-DATA", false, where, "ERROR '%s': %" PRIu64 " bytes, the first at guest offset %#" PRIx64
		    ", should lie behind the end of the data file '%s' (%" PRIu64 " bytes)", img->name, missing, first,
		    img->data->name, have);
	}
	return r;
}

/* ---- the chain ----------------------------------------------------------------------------------- */

static void base_found(void *arg, const struct plt_check_finding *f)
{
	struct deep *d = arg;
	struct plt_check_finding base = *f;

	base.image = d->img->name;
	base.beyond_qemu = true; /* (qemu-img looks at the one image only) */
	if (d->found)
		d->found(d->arg, &base);
}

static int check_base(struct deep *d, struct plt_error *err)
{
	struct plt_check_result res;
	int r = plt_check_store(d->ctx, d->img->file, d->img->name, d->img->drv->name, base_found, d, &res, err);

	if (r == -ENOTSUP) { /* (raw) */
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		return 0;
	}
	if (r == 0) {
		d->ret->added += res.corruptions + res.added;
		d->ret->leaks += res.leaks; /* (what may be left of a lost map) */
		d->ret->check_errors += res.check_errors;
	}
	return r;
}

static int check_layer(struct deep *d, bool top, struct plt_error *err)
{
	struct plt_extents seen = PLT_EXTENTS_INIT;
	int r = top ? 0 : check_base(d, err);

	if (r == 0)
		r = plt_image_decode(d->img, &seen, false, NULL, flaw, d, err);
	if (r == 0)
		r = decode_snapshots(d, &seen, err);
	if (r == 0)
		r = check_data_file(d, err);
	plt_extents_release(&seen);
	return r;
}

/* What they hold says whether layers are still what they were for each other. */
static void link_found(void *arg, const struct plt_chain_change *c)
{
	struct plt_check_finding where = { .image = c->layer };

	if (c->nranges) {
		where.guest_off = c->ranges[0].start;
		where.guest_len = c->ranges[0].length;
	}
	say(arg, c->id, c->harmless, where, "%s'%s': %s", c->harmless ? "" : "ERROR ", c->layer, c->text);
}

/* ---- what the guest says ------------------------------------------------------------------------- */

/*
 * A filesystem with a journal to be replayed need not be right before that; and where metadata has no checksums
 * a few odd pieces prove nothing.
 */
static void weighed(void *arg, const struct plt_weighed *w)
{
	struct deep *d = arg;
	struct plt_check_finding where = { .guest_off = w->first, .guest_len = 512 };
	bool unclean = w->unclean;

	if (!w->bad || (!w->sums && w->bad < 16 && w->bad * 4 < w->good))
		return;
	say(d, "G-META", unclean, where, "%sthe %s filesystem at %#" PRIx64 ": %" PRIu64 " of %" PRIu64
	    " pieces of metadata do not belong where they lie, the first at guest offset %#" PRIx64 "%s",
	    unclean ? "" : "ERROR ", w->name, w->start, w->bad, w->good + w->bad, w->first,
	    unclean ? " (its journal is still to be replayed, or it allocates in clusters)" : "");
}

static int check_guest(struct deep *d, struct plt_error *err)
{
	const struct plt_weigh how = { .most = PLT_WEIGH_ALL, .fs = weighed, .arg = d };
	struct plt_weighed sum;

	return plt_guest_weigh_disk(d->disk, &how, &sum, err);
}

/* ---- the map ------------------------------------------------------------------------------------- */

struct map_check {
	struct deep *d;
	struct plt_repair rep;
	bool sound; /* structure has shown nothing: all that a repair would do, or misses, is news */
};

/* Of a plan, what the guest's structures are the reason of. */
static void map_found(void *arg, const struct plt_check_finding *f)
{
	struct map_check *m = arg;
	const char *text = strncmp(f->text, "Repairing ", 10) ? f->text : f->text + 10;

	if (m->rep.deeply || (m->sound && !strcmp(f->severity, "corruption")) || !strcmp(f->id, PLT_DEEP_DOUBT))
		say(m->d, f->id, !strcmp(f->severity, "note"), *f, "%s%s", text == f->text ? "" : "ERROR ", text);
}

static void table_found(void *arg, const struct plt_check_finding *f)
{
	if (strcmp(f->severity, "note"))
		say(arg, f->id, false, *f, "%s", f->text);
}

/* What a repair would change of the map because the guest says so: found out over the image, and thrown away. */
static int check_map(struct deep *d, bool no_backing, struct plt_error *err)
{
	struct plt_image *img = plt_disk_image(d->disk);
	struct map_check m = { .d = d, .rep = { .ctx = d->ctx, .file = img->file, .name = img->name, .trust = PLT_STRONG,
						.deep = true, .no_backing = no_backing, .key = { plt_image_key(img) } } };
	struct plt_check_result res;
	int r;

	m.sound = !d->ret->corruptions && !d->ret->leaks && !d->ret->added;
	if (img->drv->flags & PLT_DRIVER_NO_HEADER && !plt_image_backing(img)) /* its tables are the guest's */
		return plt_guest_examine(img->file, NULL, table_found, d, &res, err);
	if (!img->drv->map_pieces)
		return 0;
	m.rep.format = strdup(img->drv->name);
	if (!m.rep.format)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = plt_repair_make(&m.rep, PLT_MEND_ALL, false, map_found, &m, NULL);
	plt_repair_forget(&m.rep);
	plt_doubts_release(&m.rep.doubts);
	plt_store_unref(m.rep.overlay);
	free(m.rep.format);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : 0; /* (what cannot be planned has been said) */
}

/* -------------------------------------------------------------------------------------------------- */

/*
 * What names, headers and times say of the chain.  That a backing file was written since is not said here: what it holds
 * is looked at below.  -ECHILD: the chain cannot be opened, and why has been said.
 */
static int look_at_links(struct deep *d, const char *name, const struct plt_open_options *o, struct plt_error *err)
{
	struct plt_chain *chain;
	bool lost = false;
	int r;

	if (o->flags & (PLT_OPEN_IMAGE_OPTS | PLT_OPEN_NO_BACKING) || !strncmp(name, "json:", 5))
		return 0;
	r = plt_chain_look(d->ctx, &name, 1, PLT_CHAIN_SHARE, &chain, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < chain->n; i++) {
		const struct plt_layer *l = &chain->layers[i];

		for (unsigned k = 0; k < l->nfindings; k++) {
			const struct plt_layer_finding *f = &l->findings[k];
			struct plt_check_finding where = { .image = l->name };
			bool note = f->harmless;

			if (!strcmp(f->id, "C-ORPHAN") || !strcmp(f->id, "C-CHANGED") || (!i && !strcmp(f->id, "C-OPEN")))
				continue;
			lost |= !note;
			say(d, f->id, note, where, "%s'%s': %s", note ? "" : "ERROR ", l->name, f->text);
		}
	}
	plt_chain_free(chain);
	return lost ? -ECHILD : 0;
}

static int look_inside(struct deep *d, const char *name, const struct plt_open_options *opts, struct plt_error *err)
{
	struct plt_open_options o = *opts;
	struct plt_check_finding where = { 0 };
	struct plt_error why = PLT_ERROR_INIT;
	bool locked = false, top = true, lost;
	int r = look_at_links(d, name, opts, err);

	lost = r == -ECHILD;
	if (r < 0 && !lost)
		return r;
	o.flags = (o.flags & ~(unsigned)(PLT_OPEN_INSPECT | PLT_OPEN_CHECK | PLT_OPEN_WRITE)) | PLT_OPEN_SHARE_RAW;
	r = plt_disk_open(d->ctx, name, &o, &d->disk, &why);
	if (r < 0 && r != -ENOMEM) { /* for want of a key? */
		o.flags |= PLT_OPEN_NO_KEY;
		locked = plt_disk_open(d->ctx, name, &o, &d->disk, NULL) == 0;
		if (lost && !locked)
			return 0;
		say(d, "C-OPEN", locked, where, "%s%s", locked ? "what the guest has written is not looked at: " :
		    "ERROR the disk cannot be opened: ", why.text);
		r = 0;
		if (!locked)
			return 0;
	} else if (r < 0) {
		return plt_error_set(err, -r, "%s", why.text);
	}
	if (!d->ret->format || !*d->ret->format)
		d->ret->format = plt_disk_image(d->disk)->drv->name;
	for (d->img = plt_disk_image(d->disk); d->img && r == 0; d->img = plt_image_backing(d->img), top = false)
		r = check_layer(d, top, err);
	locked |= plt_deep_lacks_base(d->disk); /* (what a layer does not have itself would look like a loss) */
	if (r == 0 && !locked && !(o.flags & (PLT_OPEN_RESCUE | PLT_OPEN_IMAGE_OPTS | PLT_OPEN_NO_BACKING)))
		r = plt_links_judge(d->disk, d->ctx, name, NULL, true, link_found, d, err);
	if (r == 0 && !locked)
		r = check_guest(d, err);
	if (r == 0 && !locked && !(o.flags & PLT_OPEN_RESCUE))
		r = check_map(d, o.flags & PLT_OPEN_NO_BACKING, err);
	plt_disk_close(d->disk, NULL);
	return r;
}

int plt_check_deep(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		   void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		   struct plt_check_result *ret, struct plt_error *err)
{
	static const struct plt_open_options defaults = PLT_OPEN_OPTIONS_INIT;
	struct deep d = { .ctx = ctx, .found = found, .arg = arg, .ret = ret };
	int r = plt_check(ctx, name, opts, found, arg, ret, err);

	if (r == -ENOTSUP) { /* the format has nothing to check, the disk may have */
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		r = 0;
	}
	return r < 0 ? r : look_inside(&d, name, opts ? opts : &defaults, err);
}
