/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Chains are deep, and most layers hold little: a read would ask each of them again and again for what none has.  So an
 * image remembers, for some units of guest space, how many of the layers below it are known to have nothing there, and a
 * read begins behind those.
 *
 * The invariant: what is remembered stays true.  Nothing is written to a layer below an open image unless it was opened
 * for writing at its place in the chain, and then nothing is remembered; a unit counts only if the layer's map has
 * said of all of it, within the layer's size, that it is absent.  Forgetting costs time only: a slot belongs to whoever
 * has used it last.
 */
#include "block/engine.h"

#define UNIT (UINT64_C(1) << 16)
#define SLOTS 32768u    /* a quarter of a MiB, made when the first thing is learnt */
#define MOST (4 * UNIT) /* longer reads cost little a byte, and would come apart */

struct plt_skip {
	_Atomic uint64_t v[SLOTS]; /* number of the unit, plus one, and in the lowest byte how many layers */
};

void plt_skip_init(struct plt_image *img)
{
	struct plt_engine *eng = img->engine;
	const struct plt_image *b = eng->backing;

	eng->fixed_below = !b || (!b->writable && !b->engine->rescue && b->engine->fixed_below);
	eng->skips = b && b->engine->backing && eng->fixed_below && !eng->rescue;
}

void plt_skip_free(struct plt_engine *eng)
{
	free(atomic_load(&eng->skip));
}

static unsigned known(struct plt_engine *eng, uint64_t off)
{
	struct plt_skip *s = atomic_load_explicit(&eng->skip, memory_order_acquire);
	uint64_t unit = off / UNIT, v = s ? atomic_load_explicit(&s->v[unit % SLOTS], memory_order_relaxed) : 0;

	return v >> 8 == unit + 1 ? (unsigned)(v & 255) : 0;
}

static void learn(struct plt_engine *eng, uint64_t off, unsigned layers)
{
	struct plt_skip *s = atomic_load_explicit(&eng->skip, memory_order_acquire), *none = NULL;
	uint64_t unit = off / UNIT;

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return;
		if (!atomic_compare_exchange_strong(&eng->skip, &none, s)) {
			free(s);
			s = none;
		}
	}
	if (layers < 256)
		atomic_store_explicit(&s->v[unit % SLOTS], (unit + 1) << 8 | layers, memory_order_relaxed);
}

unsigned plt_skip_find(struct plt_io *io, uint64_t off, uint64_t len, struct plt_image **ret, uint64_t *ret_len)
{
	struct plt_image *b = io->eng->backing;
	unsigned n;

	*ret = b;
	*ret_len = len;
	if (!io->eng->skips || len > MOST)
		return 0;
	n = known(io->eng, off);
	*ret_len = PLT_MIN(len, UNIT - off % UNIT);
	while (*ret_len < len && known(io->eng, off + *ret_len) == n)
		*ret_len += PLT_MIN(len - *ret_len, UNIT);
	for (unsigned i = 0; i < n && b; i++)
		b = b->engine->backing;
	*ret = b;
	return n;
}

bool plt_skip_may_learn(const struct plt_io *io, uint64_t off, uint64_t len)
{
	return io->eng->skips && off / UNIT == (off + len - 1) / UNIT;
}

bool plt_skip_learn(struct plt_io *io, const struct plt_run *run)
{
	uint64_t from = run->off / UNIT * UNIT;
	struct plt_pins pins = PLT_PINS_INIT;
	struct plt_need need;
	struct plt_run v[2];
	struct plt_runs runs = { v, 0, PLT_ARRAY_SIZE(v) };

	if (!io->learns || from + UNIT > atomic_load(&io->img->size))
		return false;
	if (run->len < UNIT) {
		/* (what is needed for an answer is mostly there: it has just been asked about a part of the unit) */
		int r = io->img->drv->map(io->img, &pins, from, UNIT, &runs, &need, NULL);

		plt_pins_drop(&pins);
		if (r < 0 || runs.n != 1 || v[0].kind != PLT_RUN_ABSENT || v[0].off != from || v[0].len != UNIT)
			return false;
	}
	learn(io->top, from, io->skipped + 1);
	return true;
}
