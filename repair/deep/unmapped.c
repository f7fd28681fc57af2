/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What an external data file holds where nothing is mapped.  Its clusters lie where the guest has them, and one that was
 * given back leaves a flag: where there is neither an entry nor a hole in the file, an entry was lost, or a program was
 * stopped before it was written.  What the guest has in use there comes back; of what lies beside that, in the span of the
 * same table, it is said that it is not shown.
 *
 * The invariant: an image whose map shows all that the guest has in use is left alone, whatever the file holds besides.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/zero.h"
#include "block/internal.h"
#include "formats/driver.h"
#include "repair/deep/deep.h"

#define NOTED_MAX 65536        /* ranges */
#define MOVES_MAX (1u << 20)   /* in a round */
#define PIECE (256u << 10)

struct search {
	const struct deep_map *m;
	struct plt_store *data;
	uint64_t size; /* of the disk */
	uint8_t *buf;
	struct plt_extents *to;
};

/* Does [at, end) hold anything but zeros?  What does not read says nothing. */
static bool holds(const struct search *s, uint64_t at, uint64_t end)
{
	for (uint64_t n; at < end; at += n) {
		n = PLT_MIN(end - at, (uint64_t)PIECE);
		if (plt_store_read(s->data, at, s->buf, (size_t)n, PLT_IO_DATA, NULL) == 0 && !plt_is_zero(s->buf, (size_t)n))
			return true;
	}
	return false;
}

/* Of a range of which nothing is mapped, whole clusters. */
static int search_gap(struct search *s, uint64_t at, uint64_t end)
{
	uint64_t have;
	int r = plt_store_size(s->data, &have, NULL) < 0 ? -EIO : 0;

	while (at < end && at < have && r == 0 && s->to->n < NOTED_MAX) {
		enum plt_store_kind kind;
		uint64_t len, stop = PLT_MIN(PLT_MIN(at + s->m->span, s->size), have);

		if (plt_store_extents(s->data, at, PLT_MIN(end, have) - at, &kind, &len, NULL) == 0 && kind != PLT_STORE_DATA &&
		    len >= s->m->span) {
			at += plt_align_down(len, s->m->span);
			continue;
		}
		if (holds(s, at, stop))
			r = plt_extents_add(s->to, at, s->m->span);
		at += s->m->span;
	}
	return r == -ENOMEM ? r : 0;
}

static int search_range(struct search *s, uint64_t from, uint64_t len)
{
	const struct deep_map *m = s->m;
	uint64_t at = plt_align_down(from, m->span), end = PLT_MIN(s->size, from + len);
	int r = 0;

	for (size_t k = plt_deep_run(m, at); at < end && r == 0; k++) {
		const struct deep_run *run = k < m->n ? &m->v[k] : NULL;

		if (!run || run->guest > at)
			r = search_gap(s, at, run ? PLT_MIN(run->guest, end) : end);
		at = run ? run->guest + run->len : end;
	}
	return r;
}

static int search_all(struct search *s, const struct plt_extents *in)
{
	int r = 0;

	for (size_t i = 0; i < in->n && r == 0; i++)
		r = search_range(s, in->v[i].off, in->v[i].len);
	return r;
}

/* *ret_data: NULL if there is none, or if what is not mapped shows what lies below. */
static int begin(struct plt_disk *disk, const struct deep_map *m, struct plt_extents *to, struct search *ret)
{
	struct plt_image *img = plt_disk_image(disk);

	*ret = (struct search){ .m = m, .size = plt_disk_size(disk), .to = to };
	if (!m->span || !img->data || img->data == img->file || plt_image_backing(img))
		return 0;
	ret->buf = plt_alloc_io(PIECE);
	ret->data = img->data;
	return ret->buf ? 0 : -ENOMEM;
}

int plt_deep_unmapped(struct plt_disk *disk, const struct deep_survey *says, const struct deep_map *m, struct plt_extents *to)
{
	struct search s;
	int r = begin(disk, m, to, &s);

	if (r == 0 && s.data) {
		r = search_all(&s, &says->data);
		if (r == 0)
			r = search_all(&s, &says->bad);
		if (r == 0)
			r = search_all(&s, &says->odd);
		if (r == 0)
			r = search_all(&s, &says->starts);
	}
	free(s.buf);
	return r;
}

int plt_deep_beside_doubts(struct plt_disk *disk, const struct plt_doubts *doubts, uint64_t table, const struct deep_map *m,
			   struct plt_extents *to)
{
	const struct plt_doubt *d;
	struct search s;
	int r = begin(disk, m, to, &s);

	for (uint64_t at = 0; r == 0 && s.data && table && at < s.size && (d = plt_doubts_find(doubts, PLT_DISK_ACTIVE, at)); ) {
		at = plt_align_down(PLT_MAX(at, d->off), table);
		if (at < s.size)
			r = search_range(&s, at, PLT_MIN(table, s.size - at));
		if (plt_add(at, table, &at))
			break;
	}
	free(s.buf);
	return r;
}

int plt_deep_map_unmapped(const struct plt_extents *which, uint64_t span, uint64_t size, struct plt_move **ret, size_t *ret_n)
{
	uint64_t all = 0;
	size_t n = 0;

	for (size_t i = 0; i < which->n; i++)
		all += plt_div_up(which->v[i].len, span);
	all = PLT_MIN(all, (uint64_t)MOVES_MAX);
	*ret = calloc((size_t)all + 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	for (size_t i = 0; i < which->n; i++)
		for (uint64_t at = which->v[i].off; at < which->v[i].off + which->v[i].len && at < size && n < all; at += span, n++) {
			struct plt_move *v = &(*ret)[n];

			*v = (struct plt_move){ .host_off = at, .guest_off = at, .from = PLT_UNPLACED, .certainty = PLT_STRONG };
			snprintf(v->why, sizeof(v->why), "the data file holds it where the guest has something in use");
		}
	*ret_n = n;
	return 0;
}
