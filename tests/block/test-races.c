/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Small sets of overlapping requests, completed in every order.  A queue with the test ring keeps
 * operations back; the choices are which operation completes next and when the next request is
 * submitted.  Orders are gone through depth first from one prepared image, up to a bound, and then
 * some at random.
 *
 * What must hold for each piece (of a disk's contract there is no more: what one request does to two
 * sectors is not one step): what each read saw, the content at the end, and the content after close
 * and reopen are what some serial order of the requests gives, in which a request that had completed
 * before another was submitted comes first.  A discard leaves the old content or zeros.  What a
 * smaller disk has lost reads as zeros when it has grown again; a request that fails did so because
 * its last piece was not there at some time between.  The image checks clean, without leaks.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tests/block/lab.h"

#define REQS 4
#define PIECES 64     /* of a cluster, two of a subcluster: each has one value */
#define TORN 255
#define GONE 254 /* beyond the end of the disk */

enum values { ZERO, BASE, OLD, FIRST }; /* and FIRST + i is what request i writes */

struct layout {
	const char *options;
	uint64_t cluster;
	uint64_t edge[3];     /* where two neighbours meet: inside a slice, between slices, between tables */
	bool v2, no_share, encrypted;
};

#define M (UINT64_C(1) << 20)
static const struct layout layouts[] = {
	{ "cluster_size=512", 512, { 2048, 32768 }, .v2 = false },
	{ "cluster_size=4096", 4096, { 8192, 2 * M }, .v2 = false },
	{ "cluster_size=16384,extended_l2=on", 16384, { 32768, 4 * M, 16 * M }, .v2 = false },
	{ "cluster_size=16384", 16384, { 32768, 8 * M, 32 * M }, .v2 = false },
	{ "cluster_size=4096,compat=0.10", 4096, { 8192, 2 * M }, .v2 = true },
	{ "cluster_size=4096,refcount_bits=1", 4096, { 8192, 2 * M }, .no_share = true },
	{ "cluster_size=4096,refcount_bits=64", 4096, { 8192, 2 * M }, .no_share = true },
	/* writes of parts of sectors, which are read, changed and written */
	{ "cluster_size=512,encryption=on,encrypt.key-secret=s", 512, { 2048, 32768 }, .encrypted = true },
	{ "cluster_size=4096,encryption=on,encrypt.key-secret=s", 4096, { 8192, 2 * M }, .encrypted = true },
	{ "cluster_size=65536,compression_type=zstd", 65536, { 131072, 32 * M }, .v2 = false },
};

enum state { FRESH, DATA, HALF, PLAIN_ZERO, KEPT_ZERO, PACKED, STATES };
static const char *const state_names[] = { "fresh", "data", "half", "zero", "kept zero", "packed" };

/* A prepared image and what its two clusters hold. */
struct scene {
	const struct layout *l;
	uint64_t from, piece, size; /* the range looked at: two clusters from @from */
	enum state state[2];
	bool shared, backed, copies; /* copies: with copy-on-read */
	struct plt_store *file, *base;
	uint8_t value[2 * PIECES];
	struct plt_ctx *ctx;
};

/* ---- values ---------------------------------------------------------------------------------- */

/* Each 16 bytes say what they are and where they belong. */
static void paint(uint8_t *p, uint64_t off, uint64_t len, uint8_t value)
{
	for (uint64_t i = 0; i < len; i++)
		p[i] = !value ? 0 : i % 2 ? (uint8_t)((off + i) >> 7) : value;
}

static uint8_t value_of(const struct scene *s, const uint8_t *p, uint64_t off)
{
	uint8_t want[65536 / PIECES];

	paint(want, off, s->piece, p[0]);
	return memcmp(p, want, s->piece) ? TORN : p[0];
}

static void read_values(struct scene *s, struct plt_disk *disk, uint8_t *ret)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(2 * s->l->cluster);

	uint64_t size = plt_disk_size(disk), len = size < s->from ? 0 : PLT_MIN(size - s->from, 2 * s->l->cluster);

	if (len)
		lab_must(plt_read(disk, s->from, buf, len, &err), &err);
	for (unsigned i = 0; i < 2 * PIECES; i++)
		ret[i] = (i + 1) * s->piece > len ? GONE : value_of(s, buf + i * s->piece, s->from + i * s->piece);
	free(buf);
}

/* ---- scenes ---------------------------------------------------------------------------------- */

static void prepare_cluster(struct scene *s, struct plt_disk *disk, unsigned which)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t cs = s->l->cluster, off = s->from + which * cs;
	uint8_t *buf = malloc(cs);

	paint(buf, off, cs, OLD);
	switch (s->state[which]) {
	case DATA:
		lab_must(plt_write(disk, off, buf, cs, &err), &err);
		break;
	case HALF: /* with extended entries: subclusters without data beside ones with */
		lab_must(plt_write(disk, off + cs / 4, buf + cs / 4, cs / 2, &err), &err);
		break;
	case PLAIN_ZERO:
		lab_must(plt_write_zeroes(disk, off, cs, 0, &err), &err);
		break;
	case KEPT_ZERO:
		lab_must(plt_write(disk, off, buf, cs, &err), &err);
		lab_must(plt_write_zeroes(disk, off, cs, 0, &err), &err);
		break;
	case PACKED:
		if (s->l->encrypted)
			lab_must(plt_write(disk, off, buf, cs, &err), &err);
		else
			lab_must(plt_write_compressed(disk, off, buf, cs, 0, &err), &err);
		break;
	default:
		break;
	}
	free(buf);
}

static void scene_new(struct scene *s, const struct layout *l, uint64_t edge, enum state a, enum state b,
		      bool shared, bool backed)
{
	struct plt_disk *disk;

	memset(s, 0, sizeof(*s));
	s->l = l;
	s->piece = l->cluster / PIECES;
	s->from = edge - l->cluster;
	s->size = edge + 4 * l->cluster;
	s->state[0] = a;
	s->state[1] = b;
	s->shared = shared;
	s->backed = backed;
	s->ctx = lab_ctx(1);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &s->file), 0);
	if (backed) {
		/* it ends inside the second cluster */
		uint64_t len = s->from + l->cluster + l->cluster / 2;
		uint8_t *p = malloc(len);

		paint(p, 0, len, BASE);
		ck_assert_int_eq(plt_memory_new(p, len, 0, &s->base), 0);
		free(p);
	}
	lab_create(s->ctx, s->file, l->options, s->size, backed);
	disk = lab_open(s->ctx, s->file, s->base);
	prepare_cluster(s, disk, 0);
	prepare_cluster(s, disk, 1);
	lab_close(disk);
	if (shared)
		lab_snapshot(&s->file);
	lab_check(s->ctx, s->file, "the prepared image");
	disk = lab_open(s->ctx, s->file, s->base);
	read_values(s, disk, s->value);
	lab_close(disk);
}

static void scene_free(struct scene *s)
{
	plt_store_unref(s->file);
	plt_store_unref(s->base);
	plt_ctx_free(s->ctx);
}

/* ---- requests -------------------------------------------------------------------------------- */

struct plan {
	enum plt_io_kind kind;
	unsigned from, to; /* pieces */
	unsigned flags;
};

static const char *const kinds[] = { "read", "write", "compressed", "copy", "zero", "discard", "flush", "resize" };

/* A resize is to the end of piece @to, or to the disk's first size. */
static uint64_t new_size(const struct scene *s, const struct plan *p)
{
	return p->to >= 2 * PIECES ? s->size : plt_align_up(s->from + p->to * s->piece, 512);
}

static void draw(struct plan *p, uint64_t *seed)
{
	static const enum plt_io_kind menu[] = {
		PLT_IO_READ_REQ, PLT_IO_READ_REQ, PLT_IO_WRITE_REQ, PLT_IO_WRITE_REQ, PLT_IO_WRITE_REQ,
		PLT_IO_ZERO_REQ, PLT_IO_ZERO_REQ, PLT_IO_DISCARD_REQ, PLT_IO_DISCARD_REQ,
		PLT_IO_COMPRESSED_REQ, PLT_IO_FLUSH_REQ, PLT_IO_RESIZE_REQ, PLT_IO_RESIZE_REQ,
	};
	unsigned half = PIECES / 2;

	p->kind = menu[plt_unit_random(seed) % PLT_ARRAY_SIZE(menu)];
	p->flags = p->kind == PLT_IO_ZERO_REQ && plt_unit_random(seed) % 2 ? PLT_ZERO_UNMAP : 0;
	switch (p->kind == PLT_IO_COMPRESSED_REQ ? plt_unit_random(seed) % 2 : plt_unit_random(seed) % 7) {
	case 0:
		*p = (struct plan){ p->kind, 0, PIECES, p->flags };
		break;
	case 1:
		*p = (struct plan){ p->kind, PIECES, 2 * PIECES, p->flags };
		break;
	case 2:
		*p = (struct plan){ p->kind, 0, 2 * PIECES, p->flags };
		break;
	case 3:
		*p = (struct plan){ p->kind, half, PIECES + half, p->flags };
		break;
	default:
		p->from = (unsigned)(plt_unit_random(seed) % (2 * PIECES - 1));
		p->to = p->from + 1 + (unsigned)(plt_unit_random(seed) % (PLT_MIN(2 * PIECES - p->from, 20u)));
		p->to = PLT_MIN(p->to, 2u * PIECES);
	}
	if (p->kind == PLT_IO_FLUSH_REQ)
		p->from = p->to = 0;
	if (p->kind == PLT_IO_RESIZE_REQ) {
		p->from = 0;
		p->to = (unsigned)(plt_unit_random(seed) % 5) * half;
		p->flags = PLT_RESIZE_SHRINK;
	}
}

/* ---- the judge ------------------------------------------------------------------------------- */

/* What happened to one piece. */
struct event {
	enum plt_io_kind kind;
	uint8_t value; /* written, or seen; a resize: GONE, or ZERO for what is there afterwards */
	bool failed;   /* with @last: it was not there; else it may have happened or not */
	bool last;
	uint64_t begun, ended;
};

static bool writes(enum plt_io_kind kind)
{
	return kind == PLT_IO_WRITE_REQ || kind == PLT_IO_COMPRESSED_REQ || kind == PLT_IO_ZERO_REQ;
}

/* Is there an order of what is left (a mask) that gives what the reads saw, from @value on? */
static bool explain(const struct event *e, unsigned n, unsigned left, uint8_t value)
{
	if (!left)
		return true;
	for (unsigned i = 0; i < n; i++) {
		unsigned rest = left & ~(1u << i);
		bool first = true;

		if (rest == left)
			continue;
		for (unsigned j = 0; j < n; j++)
			if (rest >> j & 1 && e[j].ended < e[i].begun)
				first = false;
		if (!first)
			continue;
		if (e[i].failed) {
			if ((!e[i].last || value == GONE) && explain(e, n, rest, value))
				return true;
			if (e[i].last || value == GONE || e[i].kind == PLT_IO_READ_REQ)
				continue;
		} else if (value == GONE && (e[i].kind == PLT_IO_READ_REQ ? e[i].value != GONE : writes(e[i].kind))) {
			continue; /* it could not have succeeded */
		}
		switch (e[i].kind) {
		case PLT_IO_RESIZE_REQ:
			if (explain(e, n, rest, e[i].value == GONE || value == GONE ? e[i].value : value))
				return true;
			break;
		case PLT_IO_READ_REQ:
			if (e[i].value == value && explain(e, n, rest, value))
				return true;
			break;
		case PLT_IO_DISCARD_REQ:
			/* advice: where nothing is, nothing is done */
			if ((value != GONE && explain(e, n, rest, ZERO)) || explain(e, n, rest, value))
				return true;
			break;
		default:
			if (explain(e, n, rest, e[i].value))
				return true;
		}
	}
	return false;
}

struct run {
	struct scene *s;
	struct lab_order *o;
	const struct plan *plan;
	struct lab_req req[REQS];
	unsigned n;
};

static const char *describe(const struct run *r)
{
	static char text[2048];
	size_t n = (size_t)sprintf(text, "%s at %" PRIu64 " (%s, %s%s%s%s):", r->s->l->options, r->s->from,
				   state_names[r->s->state[0]], state_names[r->s->state[1]],
				   r->s->shared ? ", shared" : "", r->s->backed ? ", backed" : "",
				   r->s->copies ? ", copy-on-read" : "");

	for (unsigned i = 0; i < r->n; i++)
		n += (size_t)sprintf(text + n, " %s[%u,%u)%s", kinds[r->plan[i].kind], r->plan[i].from,
				     r->plan[i].to, r->plan[i].flags ? "u" : "");
	snprintf(text + n, sizeof(text) - n, " order %s", lab_order_text(r->o));
	return text;
}

static void judge(struct run *r, const uint8_t *end, const uint8_t *reopened)
{
	for (unsigned p = 0; p < 2 * PIECES; p++) {
		struct event e[REQS + 2];
		unsigned n = 0;
		char seen[128];
		size_t m = 0;

		for (unsigned i = 0; i < r->n; i++) {
			const struct plan *q = &r->plan[i];
			uint8_t v = (uint8_t)(q->kind == PLT_IO_ZERO_REQ ? ZERO : FIRST + i);

			bool resize = q->kind == PLT_IO_RESIZE_REQ, failed = r->req[i].result < 0;

			if (q->kind == PLT_IO_FLUSH_REQ || (!resize && (p < q->from || p >= q->to)))
				continue;
			if (resize)
				v = r->s->from + (p + 1) * r->s->piece > new_size(r->s, q) ? GONE : ZERO;
			else if (q->kind == PLT_IO_READ_REQ && !failed)
				v = value_of(r->s, r->req[i].buf + (p - q->from) * r->s->piece,
					     r->s->from + p * r->s->piece);
			e[n++] = (struct event){ q->kind, v, failed, p == q->to - 1, r->req[i].begun, r->req[i].ended };
			if (q->kind == PLT_IO_READ_REQ)
				m += (size_t)sprintf(seen + m, "request %u saw %u, ", i, v);
		}
		e[n++] = (struct event){ PLT_IO_READ_REQ, end[p], false, false, UINT64_MAX - 3, UINT64_MAX - 2 };
		e[n++] = (struct event){ PLT_IO_READ_REQ, reopened[p], false, false, UINT64_MAX - 1, UINT64_MAX };
		sprintf(seen + m, "at the end %u, reopened %u, before %u", end[p], reopened[p], r->s->value[p]);
		lab_expect(explain(e, n, (1u << n) - 1, r->s->value[p]), "%s: piece %u: no order gives this: %s",
			      describe(r), p, seen);
	}
}

/* ---- one order ------------------------------------------------------------------------------- */

static bool has_resize(const struct plan *plan, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (plan[i].kind == PLT_IO_RESIZE_REQ)
			return true;
	return false;
}

static void run_once(struct scene *s, const struct plan *given, unsigned n, struct lab_order *o)
{
	struct plan plan[REQS];
	struct plt_store *file = lab_copy(s->file);
	struct plt_disk *disk = lab_open(s->ctx, file, s->base);
	struct plt_image *img = plt_disk_image(disk);
	struct run r = { .s = s, .o = o, .plan = plan, .n = n };
	uint8_t end[2 * PIECES], reopened[2 * PIECES];
	struct lab_queue lq;
	unsigned started = 0, done;

	img->engine->copy_on_read = s->copies;
	lab_queue_new(&lq, s->ctx);
	for (unsigned i = 0; i < n; i++) {
		plan[i] = given[i];
		if (s->l->encrypted && plan[i].kind == PLT_IO_COMPRESSED_REQ)
			plan[i].kind = PLT_IO_WRITE_REQ; /* encrypted data is never compressed */
	}
	for (unsigned i = 0; i < n; i++) {
		struct lab_req *q = &r.req[i];

		q->kind = plan[i].kind;
		q->off = s->from + plan[i].from * s->piece;
		q->len = (plan[i].to - plan[i].from) * s->piece;
		q->flags = plan[i].flags;
		if (q->kind == PLT_IO_RESIZE_REQ) {
			q->off = 0;
			q->len = new_size(s, &plan[i]);
			continue;
		}
		q->buf = malloc(q->len + 1);
		paint(q->buf, q->off, q->len, (uint8_t)(q->kind == PLT_IO_READ_REQ ? TORN : FIRST + i));
	}
	do {
		unsigned waiting = lab_settle(&lq), c;

		done = 0;
		for (unsigned i = 0; i < started; i++)
			done += r.req[i].done;
		lab_expect(waiting || started < n || done == n, "%s: hangs with %u of %u done", describe(&r), done,
			      n);
		if (!waiting && started == n)
			break;
		/* choice 0 submits: so the first order has all of them under way at once */
		c = lab_choose(o, waiting + (started < n));
		if (started < n && !c) {
			lab_start(lq.q, img, &r.req[started++], &lq.clock);
			continue;
		}
		lab_complete(&lq, c - (started < n));
	} while (done < n);
	for (unsigned i = 0; i < n; i++)
		lab_expect(!r.req[i].result || (r.req[i].result == -EIO && plan[i].kind != PLT_IO_RESIZE_REQ &&
						has_resize(plan, n)), "%s: request %u: %d %s", describe(&r), i, r.req[i].result,
			      r.req[i].err.text);
	lab_queue_free(&lq);
	read_values(s, disk, end);
	lab_close(disk);
	lab_check(s->ctx, file, describe(&r));
	disk = lab_open(s->ctx, file, s->base);
	read_values(s, disk, reopened);
	lab_close(disk);
	judge(&r, end, reopened);
	for (unsigned i = 0; i < n; i++)
		free(r.req[i].buf);
	plt_store_unref(file);
}

static unsigned run_orders(struct scene *s, const struct plan *plan, unsigned n, unsigned bound, unsigned random,
			   uint64_t *seed)
{
	struct lab_order o = { 0 };
	unsigned done = 0;

	do {
		run_once(s, plan, n, &o);
		done++;
	} while (done < bound && lab_next(&o));
	if (done < bound)
		return done;
	for (unsigned i = 0; i < random; i++) {
		o = (struct lab_order){ .random = true, .seed = plt_unit_random(seed) };
		run_once(s, plan, n, &o);
		done++;
	}
	return done;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static unsigned effort(void)
{
	const char *env = getenv("PLT_RACES");

	return env && *env ? (unsigned)atoi(env) : getenv("PLT_SANITIZER") ? 1 : 4;
}

/* Sets that have each cost somebody an image: in every order, as far as the bound goes. */
static const struct plan known[][REQS] = {
	{ { PLT_IO_WRITE_REQ, 4, 8, 0 }, { PLT_IO_WRITE_REQ, 6, 10, 0 } },
	{ { PLT_IO_WRITE_REQ, 0, 2 * PIECES, 0 }, { PLT_IO_DISCARD_REQ, 0, 2 * PIECES, 0 } },
	{ { PLT_IO_WRITE_REQ, 5, 6, 0 }, { PLT_IO_ZERO_REQ, 0, PIECES, 0 }, { PLT_IO_WRITE_REQ, 7, 8, 0 } },
	{ { PLT_IO_WRITE_REQ, 5, 6, 0 }, { PLT_IO_DISCARD_REQ, 0, PIECES, 0 }, { PLT_IO_FLUSH_REQ, 0, 0, 0 },
	  { PLT_IO_WRITE_REQ, PIECES, PIECES + 8, 0 } },
	{ { PLT_IO_COMPRESSED_REQ, 0, PIECES, 0 }, { PLT_IO_COMPRESSED_REQ, PIECES, 2 * PIECES, 0 },
	  { PLT_IO_WRITE_REQ, PIECES - 2, PIECES + 2, 0 }, { PLT_IO_FLUSH_REQ, 0, 0, 0 } },
	{ { PLT_IO_READ_REQ, 0, 2 * PIECES, 0 }, { PLT_IO_DISCARD_REQ, 0, PIECES, 0 }, { PLT_IO_FLUSH_REQ, 0, 0, 0 },
	  { PLT_IO_WRITE_REQ, PIECES, 2 * PIECES, 0 } },
	{ { PLT_IO_WRITE_REQ, PIECES - 4, PIECES + 4, 0 }, { PLT_IO_RESIZE_REQ, 0, PIECES, PLT_RESIZE_SHRINK },
	  { PLT_IO_RESIZE_REQ, 0, 2 * PIECES, 0 } },
	{ { PLT_IO_DISCARD_REQ, 0, 2 * PIECES, 0 }, { PLT_IO_WRITE_REQ, PIECES, 2 * PIECES, 0 },
	  { PLT_IO_RESIZE_REQ, 0, PIECES / 2, PLT_RESIZE_SHRINK }, { PLT_IO_READ_REQ, 0, PIECES, 0 } },
	{ { PLT_IO_COMPRESSED_REQ, 0, PIECES, 0 }, { PLT_IO_READ_REQ, 0, PIECES, 0 },
	  { PLT_IO_ZERO_REQ, 0, PIECES, PLT_ZERO_UNMAP }, { PLT_IO_FLUSH_REQ, 0, 0, 0 } },
	/* what a read brings in beside what is written */
	{ { PLT_IO_READ_REQ, 0, 2 * PIECES, 0 }, { PLT_IO_WRITE_REQ, 5, 6, 0 } },
	{ { PLT_IO_READ_REQ, 4, PIECES + 4, 0 }, { PLT_IO_WRITE_REQ, PIECES / 2, PIECES + PIECES / 4, 0 },
	  { PLT_IO_WRITE_REQ, 5, 6, 0 } },
	{ { PLT_IO_READ_REQ, 0, PIECES, 0 }, { PLT_IO_WRITE_REQ, 20, 40, 0 }, { PLT_IO_WRITE_REQ, 30, 32, 0 } },
	{ { PLT_IO_READ_REQ, 0, PIECES / 4, 0 }, { PLT_IO_RESIZE_REQ, 0, PIECES / 2, PLT_RESIZE_SHRINK } },
	{ { PLT_IO_READ_REQ, PIECES, 2 * PIECES, 0 }, { PLT_IO_ZERO_REQ, PIECES, 2 * PIECES, 0 },
	  { PLT_IO_WRITE_REQ, 2 * PIECES - 3, 2 * PIECES - 2, 0 } },
	{ { PLT_IO_READ_REQ, 0, 2 * PIECES, 0 }, { PLT_IO_RESIZE_REQ, 0, PIECES / 2, PLT_RESIZE_SHRINK },
	  { PLT_IO_RESIZE_REQ, 0, 2 * PIECES, 0 } },
};

static unsigned count_reqs(const struct plan *p)
{
	unsigned n = 0;

	while (n < REQS && (p[n].to || p[n].kind == PLT_IO_FLUSH_REQ))
		n++;
	return n;
}

START_TEST(known_sets)
{
	const struct layout *l = &layouts[_i];
	uint64_t seed = plt_unit_seed();
	unsigned total = 0;

	for (unsigned k = 0; k < PLT_ARRAY_SIZE(known); k++)
		for (enum state st = FRESH; st < STATES; st++) {
			bool shared = !l->no_share && (st + k) % 2 && !(l->v2 && has_resize(known[k], REQS)), backed = (st + k / 2) % 2;
			struct scene s;

			if (l->v2 && (st == PLAIN_ZERO || st == KEPT_ZERO))
				continue;
			scene_new(&s, l, l->edge[k % 2], st, (st + k) % 3 ? st : DATA, shared, backed);
			s.copies = backed && known[k][0].kind == PLT_IO_READ_REQ;
			total += run_orders(&s, known[k], count_reqs(known[k]), 12 * effort(),
					    4 * effort(), &seed);
			scene_free(&s);
		}
	printf("# %u orders\n", total);
}
END_TEST

START_TEST(random_sets)
{
	const struct layout *l = &layouts[_i];
	uint64_t seed = plt_unit_seed() + (uint64_t)_i * 1000003;
	unsigned total = 0;

	for (unsigned round = 0; round < 12 * effort(); round++) {
		uint64_t edge = l->edge[round % 3];
		enum state a = (enum state)(plt_unit_random(&seed) % STATES);
		enum state b = (enum state)(plt_unit_random(&seed) % STATES);
		bool shared = !l->no_share && plt_unit_random(&seed) % 3 == 0;
		bool backed = plt_unit_random(&seed) % 2;
		struct scene s;

		if (!edge)
			continue;
		scene_new(&s, l, edge, a, b, shared, backed);
		s.copies = backed && plt_unit_random(&seed) % 2;
		for (unsigned n = 2; n <= REQS; n++) {
			struct plan plan[REQS];

			for (unsigned i = 0; i < n; i++)
				do /* version 2 with snapshots keeps its size */
					draw(&plan[i], &seed);
				while (l->v2 && shared && plan[i].kind == PLT_IO_RESIZE_REQ);
			total += run_orders(&s, plan, n, 24, 12, &seed);
		}
		scene_free(&s);
	}
	printf("# %u orders\n", total);
}
END_TEST

static void start(struct lab_queue *lq, struct scene *s, struct plt_image *img, struct lab_req *r,
		  enum plt_io_kind kind, unsigned from, unsigned to, uint8_t value)
{
	*r = (struct lab_req){ .kind = kind, .off = s->from + from * s->piece, .len = (to - from) * s->piece };
	r->buf = malloc(r->len);
	paint(r->buf, r->off, r->len, value);
	lab_start(lq->q, img, r, &lq->clock);
}

/* Complete the newest operation that waits, or the oldest, until @r has ended. */
static void finish(struct lab_queue *lq, const struct lab_req *r, bool newest)
{
	for (unsigned n; !r->done && (n = lab_settle(lq));)
		lab_complete(lq, newest ? n - 1 : 0);
	lab_expect(r->done, "it has not ended");
}

/*
 * A read finds a cluster absent that is written meanwhile; and when it has fetched what it wants to bring
 * in, after @fetched operations, there is another write to the same place, in place.  Neither is undone.
 */
static void bring_in_late(struct scene *s, unsigned fetched)
{
	struct plt_store *file = lab_copy(s->file);
	struct plt_disk *disk = lab_open(s->ctx, file, s->base);
	struct plt_image *img = plt_disk_image(disk);
	struct lab_req a, b, r;
	struct lab_queue lq;
	uint8_t end[2 * PIECES];

	img->engine->copy_on_read = true;
	lab_queue_new(&lq, s->ctx);
	start(&lq, s, img, &b, PLT_IO_WRITE_REQ, PIECES, PIECES + 1, FIRST); /* the table is there */
	finish(&lq, &b, false);
	free(b.buf);
	start(&lq, s, img, &a, PLT_IO_WRITE_REQ, 20, 40, FIRST);
	lab_settle(&lq);
	start(&lq, s, img, &r, PLT_IO_READ_REQ, 0, PIECES, TORN); /* waits for the range */
	finish(&lq, &a, false);
	for (unsigned i = 0; i < fetched && lab_settle(&lq); i++)
		lab_complete(&lq, 0);
	start(&lq, s, img, &b, PLT_IO_WRITE_REQ, 30, 32, FIRST + 1);
	finish(&lq, &b, true);
	finish(&lq, &r, false);
	lab_queue_free(&lq);
	read_values(s, disk, end);
	for (unsigned p = 0; p < PIECES; p++) {
		uint8_t want = p >= 30 && p < 32 ? FIRST + 1 : p >= 20 && p < 40 ? FIRST : BASE;

		lab_expect(end[p] == want, "%s, %u operations: piece %u holds %u, not %u", s->l->options, fetched, p,
			   end[p], want);
	}
	lab_close(disk);
	lab_check(s->ctx, file, s->l->options);
	free(a.buf);
	free(b.buf);
	free(r.buf);
	plt_store_unref(file);
}

START_TEST(copies_undo_no_write)
{
	struct scene s;

	scene_new(&s, &layouts[_i], layouts[_i].edge[0], FRESH, FRESH, false, true);
	for (unsigned fetched = 0; fetched < 8; fetched++)
		bring_in_late(&s, fetched);
	scene_free(&s);
}
END_TEST

/* The judge itself: it must refuse what no order gives. */
START_TEST(judge_judges)
{
	const struct event stale[] = { { PLT_IO_WRITE_REQ, 5, .begun = 1, .ended = 2 },
				{ PLT_IO_READ_REQ, OLD, .begun = 3, .ended = 4 } };
	const struct event overlap[] = { { PLT_IO_WRITE_REQ, 5, .begun = 1, .ended = 4 },
				  { PLT_IO_READ_REQ, OLD, .begun = 2, .ended = 3 } };
	const struct event undone[] = { { PLT_IO_WRITE_REQ, 5, .begun = 1, .ended = 9 },
					{ PLT_IO_READ_REQ, 5, .begun = 2, .ended = 3 },
					{ PLT_IO_READ_REQ, OLD, .begun = 4, .ended = 5 } };
	const struct event below[] = { { PLT_IO_DISCARD_REQ, 0, .begun = 1, .ended = 2 },
				{ PLT_IO_READ_REQ, BASE, .begun = 3, .ended = 4 } };
	/* shrunk and grown again: what was there must not come back, nor fail for want of a shrink */
	const struct event grown[] = { { PLT_IO_RESIZE_REQ, GONE, .begun = 1, .ended = 2 },
				       { PLT_IO_RESIZE_REQ, ZERO, .begun = 3, .ended = 4 },
				       { PLT_IO_READ_REQ, OLD, .begun = 5, .ended = 6 } };
	const struct event refused[] = { { PLT_IO_READ_REQ, 0, true, true, .begun = 1, .ended = 2 },
					 { PLT_IO_RESIZE_REQ, GONE, .begun = 3, .ended = 4 } };

	ck_assert(!explain(stale, 2, 3, OLD));
	ck_assert(explain(overlap, 2, 3, OLD));
	ck_assert(!explain(undone, 3, 7, OLD));
	ck_assert(!explain(below, 2, 3, OLD));
	ck_assert(explain(below, 2, 3, BASE));
	ck_assert(!explain(grown, 3, 7, OLD));
	ck_assert(explain(grown, 2, 3, OLD));
	ck_assert(!explain(refused, 2, 3, OLD));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/races");
	TCase *t = tcase_create("races");

	tcase_set_timeout(t, 300);
	tcase_add_test(t, judge_judges);
	tcase_add_loop_test(t, known_sets, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, copies_undo_no_write, 0, PLT_ARRAY_SIZE(layouts));
	tcase_add_loop_test(t, random_sets, 0, PLT_ARRAY_SIZE(layouts));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
