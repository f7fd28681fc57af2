/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A medium that does not read somewhere: for each sector of an image's metadata in turn, all reads of it fail.  A table that
 * cannot be read is not an empty one.  Whoever looks is told; and what a repair would then write is laid over the bytes
 * that are there all the same, as if the medium read again: the disk and its snapshots hold what they held, save for
 * what is named, no bitmap is gone, and what nothing seems to reach keeps its count.  Then the same of an image that is
 * damaged as well, where that alone is mended or named.  PLT_HURTS says how many of those there are of each shape.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "formats/driver.h"
#include "repair/repair.h"
#include "tests/fault/rig.h"
#include "tests/unit.h"

#define KIB UINT64_C(1024)
#define SECTOR 512u
#define VIEWS 4  /* the disk and its snapshots */
#define REPLACED 4 /* tables that a repair makes anew, of which the old ones are free then */
#define STEP 64u /* sectors: beyond the first of an image, one of them is tried for so many */

struct shape {
	const char *what;
	struct rig_layout layout;
	unsigned snapshots, steps;
	unsigned dense, range; /* sectors of the front that are all tried; among which others are damaged */
};

static const struct shape shapes[] = {
	{ "snapshots and a bitmap", { .options = "cluster_size=4096", .size = 512 * KIB, .bitmap = true }, 2, 60, 2000, 2000 },
	{ "version 2", { .options = "cluster_size=512,compat=0.10", .size = 128 * KIB }, 2, 40, 300, 300 },
	{ "extended entries", { .options = "cluster_size=16384,extended_l2=on", .size = 512 * KIB, .backing = true }, 1, 40, 700, 700 },
	{ "LUKS", { .options = "cluster_size=4096,encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=1", .size = 128 * KIB,
		    .encrypted = true }, 0, 20, 80, 600 },
	{ "VHD", { .format = "vpc", .options = "force_size=on,block_size=4096", .size = 256 * KIB }, 0, 40, 200, 200 },
	{ "child", { .format = "vpc", .options = "force_size=on,block_size=4096", .size = 256 * KIB, .backing = true }, 0, 40, 200, 200 },
};

/* ---- what an image shows --------------------------------------------------------------------- */

struct view {
	uint8_t *bytes;
	uint64_t len;
	bool opens;
};

struct seen {
	struct view v[VIEWS];
	unsigned bitmaps;
	uint64_t set; /* bits in them */
};

static void release(struct seen *s)
{
	for (unsigned i = 0; i < VIEWS; i++)
		free(s->v[i].bytes);
	memset(s, 0, sizeof(*s));
}

static void count_bitmaps(struct plt_image *img, struct seen *ret)
{
	const struct plt_bitmap_info *v;
	unsigned n = 0;

	if (!img->drv->bitmaps || img->drv->bitmaps(img, &v, &n) < 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		uint64_t *bits = NULL, nbits = 0;

		if (v[i].inconsistent || img->drv->bitmap_read(img, i, &bits, &nbits, NULL) < 0)
			continue;
		ret->bitmaps++;
		for (uint64_t k = 0; k < plt_div_up(nbits, 64); k++)
			ret->set += (unsigned)__builtin_popcountll(bits[k]);
		free(bits);
	}
}

static void look(struct rig *r, struct plt_store *file, struct seen *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i <= r->nsnapshots; i++) {
		struct view *v = &ret->v[i];
		struct plt_disk *disk;

		if (rig_open_disk(r, file, NULL, false, i ? r->snapshot[i - 1].name : NULL, &disk, NULL) < 0)
			continue;
		v->len = plt_disk_size(disk);
		v->bytes = malloc(v->len + 1);
		ck_assert_ptr_nonnull(v->bytes);
		v->opens = true;
		for (uint64_t at = 0; at < v->len; at += SECTOR)
			if (plt_read(disk, at, v->bytes + at, PLT_MIN(v->len - at, (uint64_t)SECTOR), NULL) < 0)
				memset(v->bytes + at, 0xee, PLT_MIN(v->len - at, (uint64_t)SECTOR));
		if (!i)
			count_bitmaps(plt_disk_image(disk), ret);
		plt_disk_close(disk, NULL);
	}
}

/* ---- one sector ------------------------------------------------------------------------------ */

struct talk {
	char first[400];
	bool bitmap; /* something is said of bitmaps */
	bool lie;    /* that a key slot is gone for good, which nobody knows */
	unsigned lowered;
};

static void found(void *arg, const struct plt_check_finding *f)
{
	struct talk *t = arg;

	if (!*t->first && strcmp(f->severity, "note"))
		snprintf(t->first, sizeof(t->first), "%s %s", f->id, f->text);
	t->lie |= strstr(f->text, "no passphrase") || strstr(f->text, "nobody reads");
	t->lowered += f->mended && !strcmp(f->id, "Q-LEAK");
	t->bitmap |= strstr(f->id, "BMP") != NULL;
}

struct bad {
	uint64_t off;
	unsigned hits;
};

static int before(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len)
{
	struct bad *b = arg;

	if (op != PLT_FAULT_READ || off >= b->off + SECTOR || off + len <= b->off)
		return 0;
	b->hits += tag != PLT_IO_DATA; /* (what a guest has there says nothing of the structure) */
	return EIO;
}

static void after(void *arg, enum plt_fault_op op)
{
	(void)arg;
	(void)op;
}

struct laying {
	struct plt_store *to;
	unsigned edits;
};

static int lay(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct laying *l = arg;

	l->edits++;
	if (bytes)
		ck_assert_int_eq(plt_store_write(l->to, off, bytes, len, PLT_IO_OTHER, NULL), 0);
	else
		ck_assert_int_eq(plt_store_zero(l->to, off, len, 0, PLT_IO_OTHER, NULL), 0);
	return 0;
}

static bool is_named(const struct plt_doubts *d, uint32_t disk, uint64_t off)
{
	const struct plt_doubt *x = plt_doubts_find(d, disk, off);

	return x && x->off <= off;
}

/* What is wrong with what the repair makes of it, if nothing was before. */
static void compare(const struct rig *r, const struct seen *was, const struct seen *is, const struct plt_doubts *d,
		    const struct talk *t, char ret[300])
{
	for (unsigned i = 0; i <= r->nsnapshots && !*ret; i++) {
		uint32_t disk = i ? i - 1 : PLT_DISK_ACTIVE;

		if (was->v[i].opens && !is->v[i].opens && !is_named(d, disk, 0) && !*t->first)
			snprintf(ret, 300, "view %u does not open any more", i);
		for (uint64_t at = 0; at < was->v[i].len && is->v[i].opens && !*ret; at += SECTOR)
			if (at + SECTOR <= is->v[i].len && memcmp(was->v[i].bytes + at, is->v[i].bytes + at, SECTOR) &&
			    !is_named(d, disk, at))
				snprintf(ret, 300, "view %u: what lies at %#" PRIx64 " is another, and is not named", i, at);
	}
	if (is->bitmaps < was->bitmaps && !t->bitmap)
		snprintf(ret, 300, "a bitmap is gone, and nothing says so");
	else if (is->bitmaps == was->bitmaps && is->set < was->set)
		snprintf(ret, 300, "a bitmap has lost bits");
}

/* Mend @file on a medium that does not read at @bad, lay it over @file. */
static bool is_right(struct rig *r, struct plt_store *file, struct bad *bad, const struct seen *was, const struct seen *first,
		     char why[300])
{
	const struct plt_fault_judge judge = { before, after, NULL, bad };
	char name[] = "top", format[8];
	struct plt_repair rep = { .ctx = r->ctx, .name = name, .format = format };
	struct plt_check_result res = { 0 };
	struct talk said = { "", false, false, 0 };
	struct plt_store *fault, *over;
	struct laying l = { 0 };
	struct seen now;

	*why = '\0';
	snprintf(format, sizeof(format), "%s", rig_format(r));
	ck_assert_int_eq(plt_fault_new(file, &fault), 0);
	plt_fault_set_judge(fault, &judge);
	if (plt_check_store(r->ctx, fault, name, format, found, &said, &res, NULL) == 0 && bad->hits && !res.check_errors &&
	    !res.corruptions && !res.added && !res.leaks)
		snprintf(why, 300, "the check says that all is right");
	if (!first && bad->hits && said.lie)
		snprintf(why, 300, "the check says more than it knows");
	rep.file = fault;
	ck_assert_int_eq(plt_overlay_new(fault, true, &rep.overlay), 0);
	memset(&said, 0, sizeof(said));
	if (plt_repair_mend(&rep, PLT_MEND_ALL, found, &said, NULL) == 0) {
		ck_assert_int_eq(plt_overlay_new(file, true, &over), 0);
		l.to = over;
		plt_overlay_each(rep.overlay, lay, &l);
		if (l.edits || rep.doubts.n || !first) {
			look(r, over, &now);
			compare(r, was, &now, &rep.doubts, &said, why);
			if (bad->hits && said.lowered > REPLACED)
				snprintf(why, 300, "%u counts are lowered", said.lowered);
			if (first && first->bitmaps > now.bitmaps && !*why)
				snprintf(why, 300, "a bitmap is gone that comes back where all reads");
			release(&now);
		}
		plt_store_unref(over);
	}
	if (*why) {
		size_t n = strlen(why);

		snprintf(why + n, 300 - n, " (%.150s)", said.first);
	}
	plt_doubts_release(&rep.doubts);
	plt_store_unref(rep.overlay);
	plt_store_unref(fault);
	return !*why;
}

static struct rig *make(const struct shape *s, uint64_t seed)
{
	struct rig *r = rig_new(&s->layout, seed);

	rig_open(r);
	for (unsigned i = 0; i <= s->snapshots; i++) {
		for (unsigned k = 0; k < s->steps; k++) {
			uint64_t at = plt_align_down(rig_random(r) % r->size, RIG_UNIT), n = RIG_UNIT * (1 + rig_random(r) % 64);

			rig_must(r, rig_write(r, at, PLT_MIN(r->size - at, n)));
		}
		if (i < s->snapshots)
			rig_must(r, rig_snapshot(r));
	}
	rig_close(r);
	return r;
}

START_TEST(test_unread)
{
	const struct shape *s = &shapes[_i];
	uint64_t seed = plt_unit_seed(), size;
	struct rig *r = make(s, seed);
	unsigned failures = 0;
	struct seen was;
	char why[300];

	look(r, r->file, &was);
	ck_assert_uint_eq(was.bitmaps, s->layout.bitmap);
	ck_assert_int_eq(plt_store_size(r->file, &size, NULL), 0);
	for (uint64_t off = 0; off < size; off += off < s->dense * SECTOR ? SECTOR : STEP * SECTOR) {
		struct bad bad = { .off = off };

		if (!is_right(r, r->file, &bad, &was, NULL, why)) {
			fprintf(stderr, "%s, sector at %#" PRIx64 ": %s\n", s->what, off, why);
			failures++;
		}
	}
	ck_assert_msg(!failures, "%s: %u sectors", s->what, failures);
	release(&was);
	rig_free(r);
}
END_TEST

/* And something else is damaged as well, which by itself is mended, or named. */
START_TEST(test_hurt)
{
	const struct shape *s = &shapes[_i];
	uint64_t seed = plt_unit_seed(), size;
	struct rig *r = make(s, seed);
	unsigned failures = 0, n = getenv("PLT_HURTS") ? (unsigned)atoi(getenv("PLT_HURTS")) : 12;
	struct seen was;
	char why[300];

	look(r, r->file, &was);
	ck_assert_int_eq(plt_store_size(r->file, &size, NULL), 0);
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = SECTOR * (plt_unit_random(&seed) % (PLT_MIN(size, s->range * (uint64_t)SECTOR) / SECTOR));
		struct bad none = { .off = UINT64_MAX - SECTOR };
		struct seen first = { 0 };
		uint8_t b[SECTOR];
		struct plt_store *hurt;

		memset(b, plt_unit_random(&seed) % 2 ? 0 : 0xa5, sizeof(b));
		ck_assert_int_eq(plt_overlay_new(r->file, true, &hurt), 0);
		ck_assert_int_eq(plt_store_write(hurt, at, b, sizeof(b), PLT_IO_OTHER, NULL), 0);
		for (unsigned k = 0; k < 25 && (k || is_right(r, hurt, &none, &was, NULL, why)); k++) {
			struct bad bad = { .off = SECTOR * (plt_unit_random(&seed) % (PLT_MIN(size, s->range * (uint64_t)SECTOR) / SECTOR)) };

			if (bad.off != at && !is_right(r, hurt, &bad, &was, &first, why)) {
				fprintf(stderr, "%s, %#x at %#" PRIx64 ", sector at %#" PRIx64 ": %s\n", s->what, b[0], at, bad.off, why);
				failures++;
			}
		}
		plt_store_unref(hurt);
	}
	ck_assert_msg(!failures, "%s: %u", s->what, failures);
	release(&was);
	rig_free(r);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/unread");
	TCase *t = tcase_create("unread");

	tcase_set_timeout(t, 600);
	tcase_add_loop_test(t, test_unread, 0, PLT_ARRAY_SIZE(shapes));
	tcase_add_loop_test(t, test_hurt, 0, PLT_ARRAY_SIZE(shapes));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
