/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * How large the disk is, by what the guest has written.  What is mapped behind the end that the header gives may be the
 * disk's, whose size has been damaged, or the state of a VM; an overlay may hold nothing there, and stand on a file that does.
 * The structures of a format cannot tell, and of an encrypted image nobody can who does not see the guest.  So the disk is
 * shown as large as its map is made for, and the guest is asked: both copies of its partition table say where they lie, and
 * volumes say where they end; what they keep behind the recorded end verifies there, or does not.
 *
 * The invariant: a recorded size is only ever raised, over what is mapped or lies below, and to what the guest says.  One
 * that was made up along with the header goes down to it, and not below what is mapped.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "formats/driver.h"
#include "guestfs/supers.h"
#include "guestfs/weigh.h"
#include "repair/deep/deep.h"
#include "repair/repair.h"

struct end {
	struct plt_guest disk; /* as large as its map is made for */
	const struct plt_behind *b;
	uint64_t table;        /* where the disk ends by its partition table; 0: none says so */
	bool sealed;           /* and its other copy is there */
	uint64_t volumes;      /* where the last volume ends */
	const char *name;      /* what it is */
	uint64_t below;        /* how long what lies below, or has the data, is */
	uint64_t good, bad;    /* pieces of the guest's metadata behind the recorded end */
	bool known;            /* something of the guest's is on the disk */
};

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_read(arg, off, buf, len, NULL);
}

/* ---- what the guest says --------------------------------------------------------------------------- */

static void ends_at(struct end *e, uint64_t start, uint64_t size, const char *name)
{
	uint64_t end;

	e->known = true;
	if (plt_add(start, size, &end) || end <= e->volumes)
		return;
	e->volumes = end;
	e->name = name;
}

static void ask_table(struct end *e)
{
	struct plt_gpt_copy v[2];
	uint8_t head[512];
	uint64_t last;

	if (!plt_parts_gpt(&e->disk, v) || !v[0].sound || e->disk.read(e->disk.arg, 512, head, sizeof(head)))
		return;
	e->known = true;
	last = plt_get_le64(head + 32);
	if (last >= e->disk.size / 512 || plt_get_le64(head + 48) >= last)
		return;
	e->table = (last + 1) * 512;
	e->sealed = v[1].sound && v[1].off == last * 512;
}

static bool says_its_size(const struct plt_guest *disk, const struct plt_super *s)
{
	return s->size && (s->sure || plt_super_verify(disk, s));
}

static void ask_volumes(struct end *e)
{
	struct plt_part parts[PLT_PARTS_MAX];
	struct plt_super s;
	unsigned n;
	bool sure;

	if (plt_parts_read(&e->disk, parts, &n, &sure) < 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		bool volume = plt_super_first(&e->disk, parts[i].start, &s);

		/* (the entries of an old table may be anything) */
		if (volume || sure)
			ends_at(e, parts[i].start, volume && s.size && !sure ? PLT_MAX(s.size, parts[i].len) : parts[i].len,
				volume ? s.name : "partition");
	}
	if (!n && plt_super_first(&e->disk, 0, &s) && says_its_size(&e->disk, &s))
		ends_at(e, 0, s.size, s.name);
}

static void piece(void *arg, uint64_t off, uint64_t len, int verdict)
{
	struct end *e = arg;

	if (off + len <= e->b->size)
		return;
	e->good += verdict > 0;
	e->bad += verdict < 0;
}

static int ask(struct end *e, struct plt_error *err)
{
	const struct plt_weigh how = { .piece = piece, .arg = e };
	struct plt_weighed sum;

	ask_table(e);
	ask_volumes(e);
	return plt_guest_weigh(&e->disk, &how, &sum, err);
}

/* A program that saves the state of a VM begins it so. */
static bool begins_a_state(const struct end *e)
{
	uint8_t mark[4];

	return e->b->state <= e->disk.size - sizeof(mark) && !e->disk.read(e->disk.arg, e->b->state, mark, sizeof(mark)) &&
	       !memcmp(mark, "QEVM", sizeof(mark));
}

/* ---- the disk as large as it can be ------------------------------------------------------------------ */

/* What the image stands on, or has its data in: how long is it? */
static uint64_t length_below(struct plt_disk *disk)
{
	struct plt_image *img = plt_disk_image(disk), *base = plt_image_backing(img);
	uint64_t size = 0;

	if (base)
		return atomic_load(&base->size);
	return img->data && img->data != img->file && plt_store_size(img->data, &size, NULL) == 0 ? plt_align_down(size, 512) : 0;
}

/* *ret NULL: it cannot be seen. */
static int show_all(struct plt_repair *rep, const struct plt_driver *drv, const struct plt_behind *b, struct plt_disk **ret,
		    struct plt_error *err)
{
	struct plt_store *wide = NULL;
	int r = plt_overlay_new(rep->overlay, true, &wide);

	*ret = NULL;
	if (r == 0)
		r = drv->set_size(wide, PLT_MAX(b->reach, b->size), err);
	if (r == 0 && plt_deep_open(rep, wide, ret, NULL) < 0) /* (for want of a key, of what lies below) */
		*ret = NULL;
	plt_store_unref(wide);
	return r == -ENOMEM ? plt_error_set(err, ENOMEM, "out of memory") : r;
}

/* ---- what is done ------------------------------------------------------------------------------------ */

struct teller {
	struct plt_repair *rep;
	struct plt_mend *mend;
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	const struct plt_driver *drv;
};

static void say(struct teller *t, bool mended, uint64_t off, uint64_t len, const char *text)
{
	const struct plt_check_finding f = { .id = "Q-HDR-SIZE", .severity = "corruption", .text = text, .beyond_qemu = true,
					     .mended = mended, .guest_off = off, .guest_len = len };

	if (!mended && t->rep->size_said) /* (it is looked at more than once) */
		return;
	t->rep->size_said |= !mended;
	t->rep->before.corruptions_fixed += mended;
	t->rep->before.added += !mended;
	t->rep->undecided += !mended;
	if (t->found)
		t->found(t->arg, &f);
}

/* Behind the last cluster that is mapped. */
static int mapped_end(struct teller *t, struct plt_disk *disk, uint64_t *ret, struct plt_error *err)
{
	struct deep_map m;
	int r = plt_deep_map(t->rep, disk, false, &m, err);

	*ret = UINT64_MAX;
	if (r == -EFBIG)
		return 0;
	if (r == 0) {
		*ret = m.n ? m.v[m.n - 1].guest + m.v[m.n - 1].len : 0;
		plt_deep_map_release(&m);
	}
	return r;
}

static int set_to(struct teller *t, const struct end *e, uint64_t size, enum plt_certainty certainty, const char *by,
		  struct plt_error *err)
{
	struct plt_doubt d = { .kind = PLT_INFERRED, .disk = PLT_DISK_ACTIVE, .off = e->b->size,
			       .len = size > e->b->size ? size - e->b->size : 0, .certainty = certainty };
	char text[300];
	int r = t->drv->set_size(t->rep->overlay, size, err);

	snprintf(d.why, sizeof(d.why), "the header says that the disk ends before, %s", by);
	if (r == 0 && certainty < PLT_PROVEN)
		r = plt_doubts_set(&t->mend->doubts, &d);
	snprintf(text, sizeof(text), "Repairing header: the disk has %" PRIu64 " bytes by %s (%s), not %" PRIu64, size, by,
		 plt_certainty_name(certainty), e->b->size);
	if (r == 0) {
		t->mend->changed = true;
		say(t, true, d.off, d.len, text);
	}
	return r;
}

static int decide(struct teller *t, const struct end *e, struct plt_error *err)
{
	const struct plt_behind *b = e->b;
	const bool verifies = e->sealed || (e->good && e->bad <= e->good / 4);
	/* (what is mapped between the end and the place of a VM's state is no such state) */
	const char *const sealed = "both copies of its partition table";
	const bool state = b->like_state && (b->named || begins_a_state(e));
	uint64_t mapped = b->like_state ? 0 : PLT_MIN(b->end, b->reach), size = PLT_MAX(e->table, e->volumes);
	char text[300], by[80];
	uint64_t end;
	int r;

	if (b->guessed && !b->end && e->sealed && e->table < b->size) {
		r = mapped_end(t, e->disk.arg, &end, err);
		return r < 0 || end > plt_align_up(e->table, 2 << 20) ? r : set_to(t, e, e->table, PLT_PROVEN, sealed, err);
	}
	if (size > b->size && (b->end ? verifies || (!state && e->good >= e->bad) : verifies && e->volumes > b->size)) {
		if (e->table < size || !e->sealed) { /* it may well be larger */
			size = PLT_MAX(size, mapped);
			size = e->below > size && e->below <= b->reach ? e->below : size;
		}
		if (size > b->reach) {
			snprintf(text, sizeof(text), "ERROR header: by the guest's own structures the disk has %" PRIu64 " bytes, not %"
				 PRIu64 "; its map reaches %" PRIu64, size, b->size, b->reach);
			say(t, false, b->size, size - b->size, text);
			return 0;
		}
		if (e->table == size)
			snprintf(by, sizeof(by), "%s", e->sealed ? sealed : "its partition table");
		else
			snprintf(by, sizeof(by), "what is on it (%s)", e->name);
		return set_to(t, e, plt_align_up(size, 512), verifies && b->end ? PLT_PROVEN : PLT_STRONG, by, err);
	}
	if (!b->end)
		return 0;
	/* a state that no snapshot names does no harm; what may be the guest's, and is not shown, is a loss */
	if (b->like_state && (state || e->known))
		return 0;
	if (t->rep->trust <= PLT_LIKELY) {
		mapped = PLT_MIN(b->end, b->reach);
		size = e->below > mapped && e->below <= b->reach ? e->below : mapped;
		return size > b->size ? set_to(t, e, size, PLT_LIKELY, "what is mapped", err) : 0;
	}
	if (b->like_state) {
		snprintf(text, sizeof(text), "ERROR from guest offset %#" PRIx64 " on, behind the end of the disk (%" PRIu64
			 " bytes), clusters are mapped that do not begin as the state of a VM does; the size in the header may be wrong",
			 b->state, b->size);
		say(t, false, b->state, b->end - b->state, text);
	}
	return 0;
}

int plt_repair_size(struct plt_repair *rep, struct plt_mend *mend,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg, struct plt_error *err)
{
	struct teller t = { rep, mend, found, arg, plt_driver_find(rep->format) };
	const struct plt_behind b = mend->behind;
	struct end e = { .b = &b, .name = "" };
	struct plt_disk *disk;
	bool asks;
	int r;

	if (!t.drv || !t.drv->set_size || (b.reach <= b.size && !b.guessed))
		return 0;
	r = show_all(rep, t.drv, &b, &disk, err);
	if (r < 0 || !disk)
		return r;
	e.below = length_below(disk);
	e.disk = (struct plt_guest){ .read = read_disk, .arg = disk, .size = plt_disk_size(disk) };
	asks = b.end || e.below > b.size || b.guessed;
	if (asks)
		r = ask(&e, err);
	if (r == 0 && asks)
		r = decide(&t, &e, err);
	plt_disk_close(disk, NULL);
	return r;
}
