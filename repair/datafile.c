/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Which file has the data of an image that keeps them in another one, when the name of that is lost or leads nowhere.
 * Looked for is beside the image, and nowhere else: a plain file of a length that fits, over which the guest's own
 * metadata verify.  If just one does it is the one; of several that do, the one that has the recorded name, wherever that
 * said it lies.  What names other files may open them only as the policy on names has it.
 *
 * The invariant: a file over which the metadata do not verify is never taken, and without a choice nothing is recorded.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/driver.h"
#include "formats/name.h"
#include "formats/probe.h"
#include "guestfs/weigh.h"
#include "io/mapfile.h"
#include "repair/repair.h"

#define LOOKED_AT 65536 /* files of a folder */
#define WEIGHED 16      /* of those that come into question */
#define ENOUGH 8        /* pieces of metadata */
#define SLACK (UINT64_C(2) << 20) /* a file may end with its last cluster, the largest that there is */

struct candidate {
	char *name;            /* as the image has to say it */
	uint64_t size;
	bool same_name;
	struct plt_weighed w;
	bool fits;
};

struct search {
	struct plt_repair *rep;
	const struct plt_driver *drv;
	char *recorded;        /* NULL: nothing is */
	uint64_t end, disk;    /* of what is mapped, of the disk */
	struct candidate v[WEIGHED + 1];
	unsigned n;
};

/* ---- who comes into question ---------------------------------------------------------------------- */

/* Of a file that has the recorded name more is believed than of one that is as long as the disk, or of any other. */
static unsigned rank(const struct search *s, const struct candidate *c)
{
	return (c->same_name ? 2 : 0) + (c->size == s->disk);
}

static int add(struct search *s, const char *entry, uint64_t size)
{
	const char *slash = s->recorded ? strrchr(s->recorded, '/') : NULL;
	struct candidate c = { .size = size };
	unsigned i = s->n;

	if (asprintf(&c.name, "%s%s", plt_name_has_protocol(entry) ? "./" : "", entry) < 0)
		return -ENOMEM;
	c.same_name = s->recorded && !strcmp(slash ? slash + 1 : s->recorded, entry);
	for (; i && (rank(s, &s->v[i - 1]) < rank(s, &c) ||
		     (rank(s, &s->v[i - 1]) == rank(s, &c) && strcmp(s->v[i - 1].name, c.name) > 0)); i--)
		s->v[i] = s->v[i - 1];
	s->v[i] = c;
	if (s->n < WEIGHED)
		s->n++;
	else
		free(s->v[WEIGHED].name);
	return 0;
}

static int collect(struct search *s, const char *image)
{
	PLT_AUTOFREE char *copy = strdup(image);
	struct stat own, sb;
	struct dirent *e;
	DIR *d = copy ? opendir(dirname(copy)) : NULL;
	int r = copy ? 0 : -ENOMEM;

	if (!d)
		return r;
	if (stat(image, &own) < 0)
		memset(&own, 0, sizeof(own));
	for (unsigned k = 0; r == 0 && k < LOOKED_AT && (e = readdir(d)); k++) {
		if (fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(sb.st_mode) ||
		    (sb.st_dev == own.st_dev && sb.st_ino == own.st_ino) || strstr(e->d_name, ".platter-undo"))
			continue;
		/* what is mapped is there, save for the rest of the last cluster; and the file ends with the disk */
		if ((uint64_t)sb.st_size + SLACK < s->end || (uint64_t)sb.st_size > s->disk + SLACK || !sb.st_size)
			continue;
		r = add(s, e->d_name, (uint64_t)sb.st_size);
	}
	closedir(d);
	return r;
}

/* ---- what the guest says of it --------------------------------------------------------------------- */

static int open_on(struct plt_repair *rep, struct plt_store *file, struct plt_disk **ret, struct plt_error *err)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;

	/* (its counts may still be to be made anew) */
	o.flags = PLT_OPEN_NO_BACKING | PLT_OPEN_NO_KEY | PLT_OPEN_CHECK;
	return plt_disk_open_store(rep->ctx, file, rep->name, rep->format, &o, ret, err);
}

/*
 * Recorded is its whole name, unless it was another that began in the image's folder: QEMU takes such for one in the
 * current folder.  Where that does not fit the header, what it is called beside the image.
 */
static int set_name(const struct search *s, struct plt_store *file, const struct candidate *c, struct plt_error *err)
{
	PLT_AUTOFREE char *copy = strdup(s->rep->file->name), *whole = NULL;
	char *folder = copy ? realpath(dirname(copy), NULL) : NULL;
	const bool beside = s->recorded && *s->recorded != '/' && c->same_name;
	int r = -ENOSPC;

	if (!beside && folder && asprintf(&whole, "%s/%s", folder, c->name) < 0)
		whole = NULL;
	free(folder);
	if (whole)
		r = s->drv->set_data_file(file, whole, NULL);
	return r == -ENOSPC || !whole ? s->drv->set_data_file(file, c->name, err) : r;
}

static bool fits(const struct plt_weighed *w)
{
	return w->good >= ENOUGH && w->bad * 49 <= w->good;
}

static int weigh(struct search *s, struct candidate *c)
{
	const struct plt_driver *is = NULL;
	struct plt_store *scratch;
	struct plt_disk *disk;
	int r;

	if (plt_overlay_new(s->rep->overlay, true, &scratch) < 0)
		return -ENOMEM;
	r = set_name(s, scratch, c, NULL);
	if (r == 0)
		r = open_on(s->rep, scratch, &disk, NULL);
	plt_store_unref(scratch);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	/* (nothing but the guest's bytes is in it: what begins as an image is one) */
	if (plt_probe(plt_disk_image(disk)->data, &is, NULL) == 0 && is->flags & PLT_DRIVER_NO_HEADER)
		r = plt_guest_weigh_disk(disk, NULL, &c->w, NULL);
	plt_disk_close(disk, NULL);
	c->fits = r == 0 && fits(&c->w);
	return r == -ENOMEM ? r : 0;
}

/* The only one that fits, or the only one of those that has the name. */
static struct candidate *choose(struct search *s, unsigned *ret_fit)
{
	struct candidate *one = NULL, *named = NULL;
	unsigned fit = 0, same = 0;

	for (unsigned i = 0; i < s->n; i++) {
		if (!s->v[i].fits)
			continue;
		fit++;
		same += s->v[i].same_name;
		one = &s->v[i];
		named = s->v[i].same_name ? &s->v[i] : named;
	}
	*ret_fit = fit;
	return fit == 1 ? one : same == 1 ? named : NULL;
}

/* ---- what is done ---------------------------------------------------------------------------------- */

static void say(struct plt_repair *rep, bool mended, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		const char *text)
{
	const struct plt_check_finding f = { .id = "Q-EXT", .severity = "corruption", .text = text, .beyond_qemu = true,
					     .mended = mended, .host_len = 512 };

	rep->before.corruptions_fixed += mended;
	rep->before.added += !mended;
	rep->undecided += !mended;
	if (found)
		found(arg, &f);
}

/* All of the disk of which nothing else has been said. */
static int infer(struct plt_doubts *doubts, uint64_t size)
{
	struct plt_doubt d = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .certainty = PLT_STRONG };
	const struct plt_doubt *next;
	uint64_t end;
	int r = 0;

	snprintf(d.why, sizeof(d.why), "the data file was found by its content, its recorded name led to none");
	for (; d.off < size && r == 0; d.off = end) {
		next = plt_doubts_find(doubts, PLT_DISK_ACTIVE, d.off);
		if (next && next->off <= d.off) {
			end = next->off + next->len;
			continue;
		}
		end = next ? PLT_MIN(next->off, size) : size;
		d.len = end - d.off;
		r = plt_doubts_set(doubts, &d);
	}
	return r;
}

/* Is that a reason to look for another file?  One that is refused, or in use, is none. */
static bool leads_nowhere(int r)
{
	return r == -ENOENT || r == -EINVAL || r == -ENOTDIR || r == -ENAMETOOLONG || r == -ELOOP || r == -EISDIR;
}

static int decide(struct search *s, const char *why, struct plt_doubts *doubts,
		  void (*found)(void *arg, const struct plt_check_finding *f), void *arg, bool *ret_done, struct plt_error *err)
{
	unsigned fit;
	struct candidate *c = choose(s, &fit);
	char text[900];
	int r = 0;

	if (c) {
		r = set_name(s, s->rep->overlay, c, err);
		if (r == 0)
			r = infer(doubts, s->disk);
		*ret_done = r == 0;
		snprintf(text, sizeof(text), "Repairing the name of the data file: it is '%s' (strong: over it %" PRIu64 " of %" PRIu64
			 " pieces of the guest's metadata verify%s%s); recorded was %s%.300s", c->name, c->w.good,
			 c->w.good + c->w.bad, fit > 1 ? ", over other files, too; but it has the recorded name" : "",
			 c->size == s->disk ? ", and it is as long as the disk" : "", s->recorded ? "" : "none",
			 s->recorded ? s->recorded : "");
		for (char *p = text; *p; p++) /* (whatever the header held) */
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				*p = '?';
	} else if (fit) {
		snprintf(text, sizeof(text), "ERROR the data file: %.300s. Beside the image %u files have content that fits; it must be "
			 "said which it is (amend -o data_file=NAME)", why, fit);
	} else {
		snprintf(text, sizeof(text), "ERROR the data file: %.300s. Beside the image no file has content that fits", why);
	}
	if (r == 0)
		say(s->rep, c != NULL, found, arg, text);
	return r;
}

/* ---- what an empty map hides ------------------------------------------------------------------------- */

static int read_data(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_store_read(arg, off, buf, len, PLT_IO_OTHER, NULL);
}

/* Do the guest's metadata verify in the file, and not on the disk that is shown? */
static bool hides(struct plt_disk *disk)
{
	struct plt_guest file = { .read = read_data, .arg = plt_disk_image(disk)->data };
	struct plt_weighed in = { 0 }, shown = { 0 };

	return plt_store_size(file.arg, &file.size, NULL) == 0 && plt_guest_weigh(&file, NULL, &in, NULL) == 0 &&
	       plt_guest_weigh_disk(disk, NULL, &shown, NULL) == 0 && fits(&in) && shown.good * 2 < in.good;
}

int plt_repair_find_data(struct plt_repair *rep, struct plt_mend *mend,
			 void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct search s = { .rep = rep, .drv = plt_driver_find(rep->format) };
	struct plt_open_options inspect = PLT_OPEN_OPTIONS_INIT;
	struct plt_error why = PLT_ERROR_INIT;
	struct plt_disk *disk = NULL;
	int r;

	if (!s.drv || !s.drv->data_file || !s.drv->set_data_file || strcmp(plt_medium_below(rep->file)->ops->kind, "file") ||
	    s.drv->data_file(rep->overlay, &s.recorded, &s.end, NULL) < 0)
		return 0;
	r = open_on(rep, rep->overlay, &disk, &why);
	if (r == 0 && mend->data_hidden && !mend->look)
		mend->data_is_disk = mend->changed = hides(disk);
	plt_disk_close(disk, NULL);
	inspect.flags = PLT_OPEN_INSPECT | PLT_OPEN_NO_KEY | PLT_OPEN_CHECK;
	if (!leads_nowhere(r) || plt_disk_open_store(rep->ctx, rep->overlay, rep->name, rep->format, &inspect, &disk, NULL) < 0) {
		free(s.recorded);
		return 0;
	}
	s.disk = plt_disk_size(disk);
	plt_disk_close(disk, NULL);
	r = collect(&s, plt_medium_below(rep->file)->name);
	for (unsigned i = 0; i < s.n && r == 0; i++)
		r = weigh(&s, &s.v[i]);
	if (r == 0)
		r = decide(&s, why.text, &mend->doubts, found, arg, &mend->changed, err);
	if (r == -ENOMEM)
		plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < s.n; i++)
		free(s.v[i].name);
	free(s.recorded);
	return r;
}
