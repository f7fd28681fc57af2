/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What the guest's structures say of a disk: which of them do not verify where they lie and where else they say that
 * they belong, where files' blocks are, and which files go on behind their end.  Reads are bounded by guestfs/weigh.c,
 * and by counts here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "guestfs/supers.h"
#include "repair/deep/deep.h"

#define TAILS_MAX 65536        /* ends of files that are looked at */
#define NAMED_MAX 65536        /* structures that are asked where they belong */
#define NOTED_MAX 65536        /* ranges of what is bad or odd */
#define RANGES_MAX (8u << 20)  /* of files' blocks, and of metadata */

void plt_deep_survey_release(struct deep_survey *s)
{
	plt_extents_release(&s->bad);
	plt_extents_release(&s->odd);
	plt_extents_release(&s->data);
	plt_extents_release(&s->sure);
	plt_extents_release(&s->starts);
	free(s->all_data.v);
	free(s->all_sure.v);
	free(s->named);
	free(s->tails);
	*s = (struct deep_survey){ 0 };
}

static void note(struct deep_survey *s, struct plt_extents *to, uint64_t off, uint64_t len)
{
	if (!s->error && (to->n < NOTED_MAX || (to != &s->bad && to != &s->odd)))
		s->error = plt_extents_add(to, off, len);
}

/* Of what there is much, in any order. */
static void keep(struct deep_survey *s, struct deep_ranges *to, uint64_t off, uint64_t len)
{
	struct plt_range *last = to->n ? &to->v[to->n - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return;
	}
	if (to->n == to->cap) {
		size_t cap = to->cap ? 2 * to->cap : 1024;
		void *v = to->cap < RANGES_MAX ? realloc(to->v, cap * sizeof(*to->v)) : NULL;

		if (!v) {
			s->error = -ENOMEM;
			return;
		}
		to->v = v;
		to->cap = cap;
	}
	to->v[to->n++] = (struct plt_range){ off, len };
}

static int by_off(const void *a, const void *b)
{
	const struct plt_range *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static void settle(struct deep_survey *s, struct deep_ranges *from, struct plt_extents *to)
{
	if (from->n)
		qsort(from->v, from->n, sizeof(*from->v), by_off);
	for (size_t i = 0; i < from->n; i++)
		note(s, to, from->v[i].off, from->v[i].len);
	free(from->v);
	*from = (struct deep_ranges){ 0 };
}

static void piece(void *arg, uint64_t off, uint64_t len, int verdict)
{
	struct deep_survey *s = arg;

	if (verdict > 0) {
		s->good++;
		keep(s, &s->all_sure, off, len);
		return;
	}
	if (!s->any) /* (a GPT: its copy stays behind when a disk changes its size) */
		s->proves = off == 512;
	*(s->proves ? &s->nbad : &s->nodd) += 1;
	note(s, s->proves ? &s->bad : &s->odd, off, len);
}

static void begin(void *arg, struct plt_guestfs *fs, const struct plt_weighed *w)
{
	struct deep_survey *s = arg;

	s->any = true;
	s->from = fs->start;
	s->proves = w->sums && !w->unclean;
}

/*
 * A file's last block holds what is left of the file and then zeros; that is, where the writer of the filesystem has
 * it so.  Files that end in zeros themselves end a few bytes before.
 */
static void tail(struct deep_survey *s, struct plt_guestfs *fs, const struct plt_fact *f)
{
	uint8_t block[65536];
	size_t n = fs->block, len = n;

	if (s->ntails == TAILS_MAX || n > sizeof(block) || f->value >= n || plt_read(s->disk, f->off, block, n, NULL) < 0)
		return;
	while (len && !block[len - 1])
		len--;
	if (s->ntails == s->tails_cap) {
		size_t cap = s->tails_cap ? 2 * s->tails_cap : 256;
		void *v = realloc(s->tails, cap * sizeof(*s->tails));

		if (!v) {
			s->error = -ENOMEM;
			return;
		}
		s->tails = v;
		s->tails_cap = cap;
	}
	s->tails[s->ntails++] = (struct deep_tail){ f->off, len <= f->value && f->value - len <= 16 };
	if (len <= f->value || !fs->zero_tails)
		return;
	s->nodd++;
	note(s, &s->odd, f->off, n);
}

static void fact(void *arg, struct plt_guestfs *fs, const struct plt_fact *f)
{
	struct deep_survey *s = arg;

	keep(s, &s->all_data, f->off, f->len);
	if (f->kind == PLT_FACT_TAIL)
		tail(s, fs, f);
}

/* ---- where else ---------------------------------------------------------------------------------- */

struct asking {
	struct deep_survey *s;
	struct plt_guestfs *fs;
	const uint8_t *buf;
	uint64_t base;
	size_t len;
};

static bool ask(void *arg, const struct plt_mark *mark)
{
	struct asking *a = arg;
	struct deep_survey *s = a->s;
	const uint8_t *at = a->buf + (mark->pos - a->base);
	uint64_t place;
	bool sure;

	if (plt_guestfs_of_mark(mark->kind) != a->fs->ops ||
	    !a->fs->ops->locate(a->fs, mark, at, a->len - (size_t)(mark->pos - a->base), &place, &sure) || place == mark->pos)
		return true;
	if (s->nnamed == s->named_cap) {
		size_t cap = s->named_cap ? 2 * s->named_cap : 64;
		void *v = realloc(s->named, cap * sizeof(*s->named));

		if (!v) {
			s->error = -ENOMEM;
			return false;
		}
		s->named = v;
		s->named_cap = cap;
	}
	s->named[s->nnamed++] = (struct deep_named){ mark->pos, place, sure };
	return s->nnamed < NAMED_MAX;
}

/* Of what does not verify: where does it say that it belongs? */
static void ask_all(struct deep_survey *s, struct plt_guestfs *fs, const struct plt_extents *which)
{
	uint8_t *buf PLT_AUTOFREE = plt_alloc_io(65536);

	if (!buf)
		s->error = -ENOMEM;
	for (size_t i = 0; i < which->n && !s->error; i++) {
		uint64_t end = which->v[i].off + which->v[i].len;

		for (uint64_t at = which->v[i].off, n; at < end && s->nnamed < NAMED_MAX && !s->error; at += n) {
			struct asking a = { .s = s, .fs = fs, .buf = buf, .base = at };

			n = PLT_MIN(end - at, UINT64_C(65536));
			a.len = (size_t)plt_align_down(n, 512);
			if (at >= s->from && at - s->from < fs->size && a.len && plt_read(s->disk, at, buf, a.len, NULL) == 0)
				plt_guest_marks(buf, a.len, at, ask, &a);
		}
	}
}

static void done(void *arg, struct plt_guestfs *fs)
{
	struct deep_survey *s = arg;

	ask_all(s, fs, &s->bad);
	ask_all(s, fs, &s->odd);
}

/* ---- filesystems that have lost their beginning ---------------------------------------------------- */

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_read(arg, off, buf, len, NULL);
}

/* Places at which copies of a superblock are kept, from the start of a partition. */
static const uint64_t copies[] = {
	8193u << 10, 16384u << 11, UINT64_C(32768) << 12, 6 * 512, 12 * 512,
};

struct wanted { uint64_t start; bool found; };

static bool is_of(void *arg, const struct plt_super *sb)
{
	struct wanted *w = arg;

	w->found |= sb->start == w->start;
	return !w->found;
}

/* A partition in which no filesystem begins, and a copy of a superblock says that one should. */
static void look_for_lost(struct deep_survey *s)
{
	const struct plt_guest disk = { .read = read_disk, .arg = s->disk, .size = plt_disk_size(s->disk) };
	struct plt_part parts[PLT_PARTS_MAX];
	uint8_t buf[2 * PLT_SUPER_AHEAD];
	struct plt_super first;
	unsigned n;
	bool sure;

	if (plt_parts_read(&disk, parts, &n, &sure) < 0)
		return;
	for (unsigned i = 0; i < n && !s->error; i++) {
		/* (an XFS has four groups, mostly) */
		uint64_t quarter = plt_div_up(parts[i].len / 4096, 4) * 4096;
		struct wanted w = { .start = parts[i].start };

		if (plt_super_first(&disk, parts[i].start, &first))
			continue;
		note(s, &s->starts, parts[i].start, PLT_MIN(parts[i].len, UINT64_C(4096)));
		for (unsigned k = 0; k <= PLT_ARRAY_SIZE(copies) + 1 && !w.found; k++) {
			uint64_t at = k < PLT_ARRAY_SIZE(copies) ? copies[k] : k == PLT_ARRAY_SIZE(copies) ? quarter : parts[i].len - 512;
			size_t len = (size_t)PLT_MIN(sizeof(buf), parts[i].len - PLT_MIN(at, parts[i].len));

			if (len >= 512 && plt_read(s->disk, parts[i].start + at, buf, len, NULL) == 0)
				plt_supers(buf, 512, len, parts[i].start + at, is_of, &w);
		}
		if (w.found) {
			s->nbad++;
			note(s, &s->bad, parts[i].start, PLT_MIN(parts[i].len, UINT64_C(4096)));
		}
	}
}

int plt_deep_survey(struct plt_disk *disk, struct deep_survey *ret, struct plt_error *err)
{
	const struct plt_weigh how = { .most = PLT_WEIGH_ALL, .piece = piece, .arg = ret, .begin = begin, .fact = fact,
				       .done = done };
	struct plt_weighed sum;
	int r;

	*ret = (struct deep_survey){ .disk = disk, .proves = true };
	r = plt_guest_weigh_disk(disk, &how, &sum, err);
	if (r == 0)
		look_for_lost(ret);
	settle(ret, &ret->all_data, &ret->data);
	settle(ret, &ret->all_sure, &ret->sure);
	if (r == 0 && ret->error)
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r < 0)
		plt_deep_survey_release(ret);
	return r;
}
