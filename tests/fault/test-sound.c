/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A sound image is never touched: images of random shape, written to at random, closed; examination finds
 * nothing, and a repair has nothing to edit.  Some writers are killed: then what was flushed is there, and what a
 * repair corrects are counts.  Some guests keep files that are disk images themselves, whose tables look like
 * ours.  PLT_SOUND says how many there are (make sound-images: 10,000), PLT_SOUND_ONLY asks for one by its number.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "formats/driver.h"
#include "tests/fault/rig.h"
#include "tests/unit.h"

#define IMAGES 1500
#define KIB UINT64_C(1024)

/* ---- shapes ---------------------------------------------------------------------------------- */

struct shape {
	struct rig_layout layout;
	char options[200];
};

static uint64_t pick(uint64_t *rnd, uint64_t n)
{
	return plt_unit_random(rnd) % n;
}

static void choose_vhd(struct shape *s, uint64_t *rnd)
{
	bool fixed = pick(rnd, 6) == 0;

	s->layout.format = "vpc";
	if (fixed)
		snprintf(s->options, sizeof(s->options), "subformat=fixed,force_size=on");
	else
		snprintf(s->options, sizeof(s->options), "force_size=on,block_size=%u", 512u << pick(rnd, 9));
	s->layout.size = (64 + pick(rnd, 1500)) * KIB;
}

static void choose_qcow2(struct shape *s, uint64_t *rnd)
{
	static const char *const compression[] = { "", "", ",compression_type=zstd" };
	unsigned bits = 9 + (unsigned)pick(rnd, 8);
	bool v2 = pick(rnd, 4) == 0, external = !v2 && pick(rnd, 10) == 0;
	bool extended = !v2 && bits >= 14 && pick(rnd, 2);
	unsigned order = v2 || pick(rnd, 2) ? 4 : (unsigned)pick(rnd, 7);
	int n;

	s->layout.size = (64 + pick(rnd, bits < 11 ? 500 : 3000)) * KIB;
	n = snprintf(s->options, sizeof(s->options), "cluster_size=%u,compat=%s", 1u << bits, v2 ? "0.10" : "1.1");
	if (!v2)
		n += snprintf(s->options + n, sizeof(s->options) - (size_t)n,
			      ",refcount_bits=%u,extended_l2=%s,lazy_refcounts=%s%s", 1u << order, extended ? "on" : "off",
			      !external && pick(rnd, 4) == 0 ? "on" : "off", external ? "" : compression[pick(rnd, 3)]);
	s->layout.backing = pick(rnd, 4) == 0;
	s->layout.external = external;
	if (!external && !s->layout.backing && pick(rnd, 6) == 0)
		snprintf(s->options + n, sizeof(s->options) - (size_t)n, ",preallocation=metadata");
}

static void choose(struct shape *s, uint64_t *rnd)
{
	memset(s, 0, sizeof(*s));
	if (pick(rnd, 4) == 0)
		choose_vhd(s, rnd);
	else
		choose_qcow2(s, rnd);
	s->layout.size = plt_align_down(s->layout.size, 512);
	if (pick(rnd, 3) == 0)
		s->layout.first_size = plt_align_up(s->layout.size / (1 + pick(rnd, 4)), 512);
	s->layout.options = s->options;
}

/* ---- what is done to them -------------------------------------------------------------------- */

static int no_edits(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	(void)bytes;
	snprintf(arg, 100, "%" PRIu64 " bytes at %#" PRIx64 " would be changed", len, off);
	return 1;
}

struct findings {
	char first[300];
};

static void found(void *arg, const struct plt_check_finding *f)
{
	struct findings *all = arg;

	/* (a VHD has no list of its free room: what a discard has left counts as lost until it is used again) */
	if (strcmp(f->severity, "note") && strcmp(f->id, "V-LEAK") && !*all->first)
		snprintf(all->first, sizeof(all->first), "%s %s", f->id, f->text);
}

/* Nothing is found in @file, and nothing is mended. */
static void judge_untouched(struct rig *r, struct plt_store *file, const char *which)
{
	struct plt_mend mend = { .what = PLT_MEND_ALL };
	struct plt_error err = PLT_ERROR_INIT;
	struct findings f = { 0 };
	struct plt_check_result res;
	struct plt_store *overlay;
	char edit[100] = "";

	ck_assert_msg(plt_check_store(r->ctx, file, "top", rig_format(r), found, &f, &res, &err) == 0, "%s: %s", which,
		      err.text);
	ck_assert_msg(!*f.first, "%s: check says: %s", which, f.first);
	if (!(plt_driver_find(rig_format(r))->flags & PLT_DRIVER_MENDS))
		return;
	ck_assert_int_eq(plt_overlay_new(file, true, &overlay), 0);
	ck_assert_msg(plt_mend_store(r->ctx, overlay, "top", rig_format(r), &mend, found, &f, &res, &err) == 0, "%s: %s",
		      which, err.text);
	plt_overlay_each(overlay, no_edits, edit);
	ck_assert_msg(!*f.first, "%s: repair says: %s", which, f.first);
	ck_assert_msg(!*edit && !mend.changed, "%s: %s", which, edit);
	ck_assert_msg(!mend.unplaced.n || !rig_is_qcow2(r), "%s: %zu pieces have no place", which, mend.unplaced.n);
	if (mend.doubts.n && !rig_may_be_discarded(r, mend.doubts.v))
		ck_abort_msg("%s: %" PRIu64 " bytes at %#" PRIx64 " are in doubt: %s", which, mend.doubts.v->len,
			     mend.doubts.v->off, mend.doubts.v->why);
	free(mend.unplaced.v);
	free(mend.unplaced.gaps);
	plt_doubts_release(&mend.doubts);
	plt_store_unref(overlay);
}

/* The guest's own files are images: pieces of this very one, and of the last. */
static void write_images(struct rig *r, struct plt_store *other, uint64_t *rnd)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t len, at = plt_align_down(pick(rnd, r->disk_size / 2 + 1), 4096);
	const uint8_t *bytes = plt_memory_data(other, &len);

	len = PLT_MIN(len, r->disk_size - at);
	len = PLT_MIN(len, 256 * KIB);
	ck_assert_msg(plt_write(r->disk, at, bytes, len, &err) == 0, "%s", err.text);
}

static void steps(struct rig *r, uint64_t *rnd)
{
	unsigned n = (unsigned)pick(rnd, pick(rnd, 3) ? 40 : 150);

	for (unsigned i = 0; i < n; i++) {
		if (pick(rnd, 30) == 0 && r->l->first_size && !r->nsnapshots)
			rig_must(r, rig_resize(r, plt_align_up(1 + pick(rnd, r->size), 512)));
		else
			rig_must(r, rig_step(r));
	}
	if (pick(rnd, 12) == 0) /* tables of zeros */
		rig_must(r, rig_discard(r, 0, r->disk_size));
}

/* As much as the writer had written when it was killed. */
static void judge_killed(struct rig *r, const char *which)
{
	struct powercut_disk file, data = { NULL, 0 };

	file.bytes = (uint8_t *)(uintptr_t)plt_memory_data(r->file, &file.len);
	if (r->data)
		data.bytes = (uint8_t *)(uintptr_t)plt_memory_data(r->data, &data.len);
	ck_assert_msg(rig_verify_state(r, &file, &data, r->nmarks - 1, r->nevents, true) == 0, "%s, killed: %s", which,
		      r->violation);
}

static void one(uint64_t seed, unsigned i, struct plt_store **last)
{
	uint64_t rnd = seed + i * UINT64_C(0x9e3779b97f4a7c15);
	struct shape s;
	struct rig *r;
	char which[300];
	bool inside, small;

	choose(&s, &rnd);
	snprintf(which, sizeof(which), "image %u (%s %s%s%s)", i, s.layout.format ? s.layout.format : "qcow2", s.options,
		 s.layout.backing ? ", backing" : "", s.layout.external ? ", external" : "");
	r = rig_new(&s.layout, plt_unit_random(&rnd));
	rig_open(r);
	steps(r, &rnd);
	inside = pick(&rnd, 4) == 0 && *last;
	if (inside)
		write_images(r, *last, &rnd);
	rig_close(r);
	small = strstr(s.options, "cluster_size=4096,") && !strstr(s.options, "refcount") && !s.layout.external;
	if (small && !inside && s.layout.size < 1024 * KIB && !s.layout.first_size && pick(&rnd, 2)) {
		rig_make_snapshot(r);
		rig_open(r);
		steps(r, &rnd);
		rig_close(r);
	}
	judge_untouched(r, r->file, which);
	if (!inside && pick(&rnd, 4) == 0) {
		rig_record(r, 0);
		steps(r, &rnd);
		judge_killed(r, which);
		rig_close(r);
		judge_untouched(r, r->file, which);
	}
	plt_store_unref(*last);
	*last = plt_store_ref(r->file);
	rig_free(r);
}

START_TEST(test_sound_images)
{
	const char *count = getenv("PLT_SOUND"), *only = getenv("PLT_SOUND_ONLY");
	unsigned n = count ? (unsigned)strtoul(count, NULL, 0) : IMAGES;
	uint64_t seed = plt_unit_seed();
	struct plt_store *last = NULL;

	for (unsigned i = only ? (unsigned)strtoul(only, NULL, 0) : 0; i < n; i++) {
		one(seed, i, &last);
		if (only)
			break;
	}
	plt_store_unref(last);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/sound");
	TCase *t = tcase_create("sound");

	tcase_set_timeout(t, 3600);
	tcase_add_test(t, test_sound_images);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
