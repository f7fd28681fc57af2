/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Weighing: every filesystem that can be opened is surveyed, and each block of metadata that it names is verified
 * where it lies.  The number of reads is bounded whatever the disk says; memory is the readers' own.
 */
#include "guestfs/weigh.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/zero.h"
#include "platter.h"

#define MOST 65536u
#define READS_A_PIECE 4
#define BYTES_A_PIECE (256u << 10) /* of a filesystem, before it is sampled */
#define LONG_FACT 1024u            /* blocks: longer ones are sampled */

struct weigh {
	const struct plt_weigh *how;
	const struct plt_guest *real;
	struct plt_guest disk;     /* the same, counting reads */
	uint64_t reads, pieces;    /* that are left */
	struct plt_guestfs *fs;
	struct plt_weighed of;     /* the filesystem at hand */
	struct plt_weighed *sum;
};

static int counted_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct weigh *w = arg;

	if (!w->reads) {
		w->of.sampled = true;
		return -EDQUOT;
	}
	w->reads--;
	return w->real->read(w->real->arg, off, buf, len);
}

static void judged(struct weigh *w, uint64_t off, uint64_t len, int verdict)
{
	w->of.good += verdict > 0;
	if (verdict < 0 && !w->of.bad++)
		w->of.first = off;
	if (verdict && w->how->piece)
		w->how->piece(w->how->arg, off, len, verdict);
}

static bool weigh_fact(void *arg, const struct plt_fact *fact)
{
	struct weigh *w = arg;
	uint8_t block[65536];
	uint32_t bs = w->fs->block;
	uint64_t step = fact->len / bs > LONG_FACT && w->fs->thin > 1 ? (uint64_t)bs * w->fs->thin : bs;

	if (w->how->fact && (fact->kind == PLT_FACT_DATA || fact->kind == PLT_FACT_TAIL))
		w->how->fact(w->how->arg, w->fs, fact);
	if ((fact->kind != PLT_FACT_META && fact->kind != PLT_FACT_KEY) || bs > sizeof(block))
		return true;
	for (uint64_t at = 0; at + bs <= fact->len; at += step) {
		int verdict;

		if (!w->pieces) {
			w->of.sampled = true;
			return false;
		}
		w->pieces--;
		if (counted_read(w, fact->off + at, block, bs)) {
			w->of.unread++;
			continue;
		}
		verdict = w->fs->ops->verify(w->fs, fact, fact->off + at, block);
		w->of.blank += verdict < 0 && plt_is_zero(block, bs);
		judged(w, fact->off + at, bs, verdict);
	}
	return true;
}

static void begin(struct weigh *w, const char *name, uint64_t start, uint64_t size)
{
	w->of = (struct plt_weighed){ .name = name, .start = start, .size = size, .first = UINT64_MAX };
}

static void end(struct weigh *w)
{
	struct plt_weighed *s = w->sum;

	s->good += w->of.good;
	s->bad += w->of.bad;
	s->blank += w->of.blank;
	s->unread += w->of.unread;
	if (s->first == UINT64_MAX)
		s->first = w->of.first;
	s->sums |= w->of.sums;
	s->unclean |= w->of.unclean;
	s->sampled |= w->of.sampled;
	if (w->how->fs)
		w->how->fs(w->how->arg, &w->of);
}

/* The filesystem at @start, if there is one: 1, 0 or -ENOMEM. */
static int weigh_fs(struct weigh *w, uint64_t start, uint64_t most)
{
	uint64_t all;
	int r = plt_guestfs_open_any(&w->disk, start, &w->fs);

	if (r)
		return r == -ENOMEM ? r : 0;
	begin(w, w->fs->ops->name, start, w->fs->size);
	w->of.sums = w->fs->sums;
	if (!plt_mul(most, BYTES_A_PIECE, &all) && w->fs->size > all)
		w->fs->thin = (uint32_t)PLT_MIN(w->fs->size / all + 1, (uint64_t)UINT32_MAX);
	w->of.sampled = w->fs->thin > 1;
	w->fs->twins = true;
	w->of.unclean = w->fs->ops->unclean && w->fs->ops->unclean(w->fs);
	if (w->how->begin)
		w->how->begin(w->how->arg, w->fs, &w->of);
	r = w->fs->ops->survey(w->fs, weigh_fact, w);
	if (w->how->done && r != -ENOMEM)
		w->how->done(w->how->arg, w->fs);
	plt_guestfs_free(w->fs);
	if (r == -ENOMEM)
		return r;
	end(w);
	return 1;
}

static void weigh_gpt(struct weigh *w)
{
	struct plt_gpt_copy v[2];
	unsigned n = plt_parts_gpt(&w->disk, v);

	begin(w, "gpt", 0, w->disk.size);
	w->of.sums = true;
	for (unsigned i = 0; i < n; i++)
		judged(w, v[i].off, 512, v[i].sound ? 1 : -1);
	if (n)
		end(w);
}

int plt_guest_weigh(const struct plt_guest *disk, const struct plt_weigh *how, struct plt_weighed *ret,
		    struct plt_error *err)
{
	static const uint64_t usual[] = { 0, 63 * 512, 1 << 20 };
	static const struct plt_weigh defaults = PLT_WEIGH_INIT;
	struct weigh w = { .how = how ? how : &defaults, .real = disk, .sum = ret };
	struct plt_part parts[PLT_PARTS_MAX];
	uint64_t most = w.how->most ? w.how->most : MOST;
	unsigned n;
	bool sure;
	int r;

	*ret = (struct plt_weighed){ .name = "", .size = disk->size, .first = UINT64_MAX };
	w.disk = (struct plt_guest){ .read = counted_read, .arg = &w, .size = disk->size };
	w.reads = UINT64_MAX; /* (the readers of partitions have bounds of their own) */
	weigh_gpt(&w);
	r = plt_parts_read(&w.disk, parts, &n, &sure);
	w.pieces = most;
	w.reads = most > UINT64_MAX / READS_A_PIECE ? UINT64_MAX : most * READS_A_PIECE;
	for (unsigned i = 0; r >= 0 && i < n; i++) {
		r = weigh_fs(&w, parts[i].start, most);
		if (r == 0 && parts[i].len > 1 << 20) /* a physical volume of LVM: its first logical volume, mostly */
			r = weigh_fs(&w, parts[i].start + (1 << 20), most);
	}
	for (unsigned i = 0; r == 0 && !n && i < PLT_ARRAY_SIZE(usual); i++)
		r = weigh_fs(&w, usual[i], most);
	return r < 0 ? plt_error_default(err, -r, "cannot weigh the disk's metadata: out of memory") : 0;
}

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	return plt_read(arg, off, buf, len, NULL);
}

int plt_guest_weigh_disk(struct plt_disk *disk, const struct plt_weigh *how, struct plt_weighed *ret,
			 struct plt_error *err)
{
	struct plt_guest guest = { .read = read_disk, .arg = disk, .size = plt_disk_size(disk) };

	return plt_guest_weigh(&guest, how, ret, err);
}
